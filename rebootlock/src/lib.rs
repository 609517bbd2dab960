//! The reboot lock for whole Linux fleets: its documents and rules, the lock manager, the stores.
//!
//! From the inside out:
//!
//! - [`id`], [`semaphore`], [`record`], [`keys`], [`queue`], [`health`]: what is stored and by what
//!   rules, pure. They alone read and write JSON.
//! - [`store`]: values that change only together; one backend a file below it.
//! - [`lock`]: the lock manager, which loads documents, changes them by their rules and commits them.
//! - [`view`]: all of it as programs and people see it.
//! - [`wait`]: waiting for one's turn without polling.
//! - [`fleetlock`]: asking a FleetLock server for slots, where there is no store.
//! - [`window`]: when a reboot may begin, pure.
//! - [`process`]: commands, run so that nothing of them survives their deadline.
//! - [`chance`], [`clock`], [`duration`], [`host`], [`http`], [`config`], [`cli`], [`logging`], [`notify`]: what the
//!   programs have in common.
//!
//! Nothing here reboots anything, opens a port or talks to a bus.

pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod duration;
pub mod fleetlock;
pub mod health;
pub mod host;
pub mod http;
pub mod id;
pub mod keys;
pub mod lock;
pub mod logging;
pub mod notify;
pub mod process;
pub mod queue;
pub mod record;
pub mod semaphore;
pub mod store;
pub mod view;
pub mod wait;
pub mod window;
