//! Clients of every protocol, all cases that there are, on one etcd. The crate's name says on which
//! store: see `support/store.rs`.
#![allow(clippy::duplicate_mod)]

#[path = "disruption.rs"]
mod disruption;
#[path = "fleetlock.rs"]
mod fleetlock;
#[path = "goahead.rs"]
mod goahead;
