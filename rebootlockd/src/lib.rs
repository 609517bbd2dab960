//! The agent on each machine: from a wish to reboot, over the lock, to a rebooted machine and a
//! freed slot.
//!
//! - [`policy`]: states and transitions, pure; [`agent`] is the one loop around it.
//! - [`update_engine`], [`requests`]: who wants a reboot, as [`want`] puts it together.
//! - [`logind`]: users, inhibitors, and the reboot itself, over the system [`bus`].
//! - [`window`]: when a reboot may begin, pure.
//! - [`coordinator`], [`notify`], [`presence`]: whom we tell what we do. [`memento`]: what we keep on disk.
//! - [`outcome`]: how a pass ends, by name and exit code. [`metrics`]: figures for Prometheus.
//! - [`options`]: flags, variables and files become settings.

pub mod agent;
pub mod bus;
pub mod coordinator;
pub mod failpoint;
pub mod logind;
pub mod memento;
pub mod metrics;
pub mod notify;
pub mod options;
pub mod outcome;
pub mod policy;
pub mod presence;
pub mod requests;
pub mod update_engine;
pub mod want;
pub mod window;
