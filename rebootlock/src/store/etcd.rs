//! etcd v3 through its gRPC API.

use std::path::PathBuf;
use std::time::Duration;

/// How to reach an etcd.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// `http(s)://host:port`, tried in this order.
    pub endpoints: Vec<String>,
    /// PEM file with the authorities to trust; without it the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file with its key.
    pub key_file: Option<PathBuf>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Longest time one call may take, all endpoints together.
    pub timeout: Duration,
}
