//! What fleet-wide tests need: real servers, and what goes wrong between them and us.

pub mod etcd;
pub mod pki;
pub mod proxy;
