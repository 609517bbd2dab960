//! `rebootlockctl` as its users run it: what it prints, what it exits with, what it writes.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod damage;
mod disruption;
mod doctor;
mod etcd;
mod explain;
mod fleet;
mod gateway;
mod history;
mod holds;
mod operator;
mod reboot;
mod slots;
mod status;
mod unanswered;
mod usage;
mod waiting;
mod watch;
mod windows;
