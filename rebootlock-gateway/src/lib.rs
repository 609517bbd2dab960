//! The HTTP service: machines that speak a protocol of their own, on the same slots as the agents.
//!
//! - [`options`]: flags, variables and files become settings; [`app`] is what they make.
//! - [`listen`], [`serve`], [`tls`]: from a socket to a request; [`routes`]: from there to an answer.
//! - [`fleetlock`]: FleetLock v1. One protocol a module; each translates to and from [`slots`].
//! - [`disruption`]: the protocol of disruption-manager.
//! - [`goahead`]: goahead's two questions, and looking after those who may reboot.
//! - [`slots`]: asking for a slot and giving it back, as every protocol here means it; [`combine`]
//!   settles together what arrives together.
//!   [`silent`] gives back what nobody gives back.
//! - [`auth`], [`proxies`], [`rate`]: who may ask, from where, and how often.
//! - [`operators`]: people; [`fleet`]: what they see, [`act`]: what they do; [`api`]: both as JSON; [`page`]: both
//!   in a browser.
//! - [`remote`]: the store itself, for programs that cannot reach it.
//! - [`groups`], [`health`], [`metrics`]: what is told to whoever watches over this.
//! - [`import`], [`takeover`]: the configuration and the slots of other servers, as ours.
//!
//! Nothing is kept in the process that another one could not find in the store: any number of
//! gateways may serve one store.

pub mod act;
mod allowance;
mod answering;
pub mod api;
pub mod app;
pub mod auth;
mod client;
pub mod combine;
pub mod disruption;
mod election;
pub mod fleet;
pub mod fleetlock;
mod fold;
pub mod goahead;
pub mod groups;
pub mod health;
pub mod import;
pub mod listen;
mod malformed;
pub mod metrics;
pub mod operators;
pub mod options;
pub mod page;
mod patience;
pub mod proxies;
pub mod rate;
pub mod remote;
pub mod reply;
pub mod routes;
pub mod serve;
pub mod silent;
pub mod slots;
pub mod takeover;
pub mod tls;
