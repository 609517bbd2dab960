//! What fleet-wide tests need: real servers, and what goes wrong between them and us.

pub mod binaries;
pub mod etcd;
pub mod fleet;
pub mod fleetlock;
pub mod gateway;
pub mod machine;
pub mod model;
pub mod pki;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod simulation;
mod wait;

pub use wait::{eventually, within};
