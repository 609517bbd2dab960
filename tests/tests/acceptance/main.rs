//! What users of clusterrebootd rely on, case by case, and where this daemon deliberately does
//! better. The numbers are those of the cases in the description of that program's behaviour.
//!
//! | cases | where |
//! | --- | --- |
//! | 1 to 3, 5, 7, 8, 10, 11, 19 to 22, 27 to 29 | `passes.rs` |
//! | 4, 6, 25, 32, 33, 35, 36 | `service.rs` |
//! | 9, 12 | `rebootlock`: the tests of `window.rs`, against a naive oracle, on both days of a change |
//! | 10, `validate-config` | `rebootlockd/tests/bad_values` and the test here, by the daemon itself |
//! | 13 to 18, 30 | `others.rs` |
//! | 23, 24, 26, 31 | `fleet.rs` |
//! | 31, etcd down at the start and back | `agent_store_faults.rs` |
//! | 34 | `agent_machine.rs`: a reload, and a file that is wrong |
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
