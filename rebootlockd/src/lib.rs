//! The agent on each machine: from a wish to reboot, over the lock, to a rebooted machine and a
//! freed slot.
//!
//! - [`policy`]: states and transitions, pure; [`agent`] is the one loop around it.
//! - [`update_engine`], [`requests`]: who wants a reboot, as [`want`] puts it together.
//! - [`logind`]: users, inhibitors, and the reboot itself, over the system [`bus`].
//! - [`hooks`]: what runs before a reboot and after it. [`method`]: how the machine goes down.
//! - [`window`]: when a reboot may begin, pure.
//! - [`coordinator`], [`notify`], [`presence`]: whom we tell what we do. [`memento`]: what we keep on disk.
//! - [`process`], [`unit`]: commands, run so that nothing of them survives their deadline.
//! - [`options`]: flags, variables and files become settings.

pub mod agent;
pub mod bus;
pub mod coordinator;
pub mod failpoint;
pub mod hooks;
pub mod logind;
pub mod memento;
pub mod method;
pub mod notify;
pub mod options;
pub mod policy;
pub mod presence;
pub mod process;
pub mod requests;
pub mod unit;
pub mod update_engine;
pub mod want;
pub mod window;
