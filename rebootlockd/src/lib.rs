//! The agent on each machine: from a wish to reboot, over the lock, to a rebooted machine and a
//! freed slot.
//!
//! - [`policy`]: states and transitions, pure; [`agent`] is the one loop around it.
//! - [`update_engine`], [`requests`], [`detect`]: who wants a reboot, as [`want`] puts it together.
//! - [`logind`]: users, inhibitors, and the reboot itself, over the system [`bus`].
//! - [`gate`]: reasons to wait; [`lookout`] looks at all of them; [`environment`]: what scripts are told.
//! - [`slots`]: where slots come from; `line`: waiting for one.
//! - [`hooks`]: what runs before a reboot and after it. [`method`]: how the machine goes down.
//! - [`coordinator`], [`presence`]: whom we tell what we do. [`memento`]: what we keep on disk.
//! - `standing`: what the store says of this machine, in figures.
//! - [`unit`]: commands in units of systemd's, or as [`rebootlock::process`] runs them.
//! - [`simulate`]: what the detectors say now, and nothing else. [`validate`]: what is wrong with the
//!   configuration. [`import`]: other reboot managers' configurations as ours. [`version`].
//! - [`status`]: one look at everything that decides a reboot; [`pass`]: what such a look found.
//! - [`outcome`]: how a pass ends, by name and exit code. [`metrics`]: figures for Prometheus.
//! - [`options`]: flags, variables and files become settings. [`command`]: what commands have in common.

pub mod agent;
pub mod bus;
pub mod command;
pub mod coordinator;
pub mod detect;
pub mod environment;
pub mod failpoint;
pub mod gate;
pub mod hooks;
pub mod import;
mod line;
pub mod logind;
pub mod lookout;
pub mod memento;
pub mod method;
pub mod metrics;
pub mod options;
pub mod outcome;
pub mod pass;
pub mod policy;
pub mod presence;
pub mod requests;
pub mod simulate;
pub mod slots;
mod standing;
pub mod status;
pub mod unit;
pub mod update_engine;
pub mod validate;
pub mod version;
pub mod want;
