//! The reboot lock for whole Linux fleets: its documents and rules, the lock manager, the stores.
//!
//! From the inside out:
//!
//! - [`id`], [`semaphore`], [`record`], [`keys`]: what is stored, pure. They alone read and write JSON.
//! - [`store`]: values that change only together; one backend a file below it.
//! - [`lock`]: the lock manager, which loads documents, changes them by their rules and commits them.
//! - [`queue`] and [`wait`]: who is next, and waiting for one's turn without polling.
//! - [`config`], [`cli`], [`logging`]: what the programs have in common.
//!
//! Nothing here reboots anything, opens a port or talks to a bus.

pub mod id;
pub mod keys;

pub mod semaphore;
pub mod store;
