//! What users of clusterrebootd rely on, case by case, and where this daemon deliberately does
//! better. The numbers are those of the cases in the description of that program's behaviour.
//!
//! Every case runs the real daemon on a machine of its own (M: a file that a detector looks for, S:
//! a script that is a gate, K: the kill switch), and its reboot command only writes down that it ran.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod fleet;
mod last_look;
mod looks;
mod others;
mod passes;
mod scene;
mod service;
