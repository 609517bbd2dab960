//! The system bus: the one `DBUS_SYSTEM_BUS_ADDRESS` names, else the usual one.

#[cfg(test)]
pub(crate) mod foreign;

use std::time::Duration;

use zbus::Connection;
use zbus::connection::Builder;

/// Longest time one call on the bus may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(25);

/// Connects.
///
/// # Errors
/// Why there is no bus.
pub async fn connect() -> zbus::Result<Connection> {
    Address::default().connect().await
}

/// Where a bus is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Address {
    /// This machine's.
    #[default]
    System,
    /// One of several on this host.
    At(String),
}

impl Address {
    /// Connects.
    ///
    /// # Errors
    /// Why there is no bus.
    pub async fn connect(&self) -> zbus::Result<Connection> {
        let builder = match self {
            Self::System => Builder::system(),
            Self::At(address) => Builder::address(address.as_str()),
        };
        builder.method_timeout(CALL_TIMEOUT).build().await
    }
}

/// Whether an answer is the error of this name.
pub(crate) fn is_named(error: &zbus::Error, name: &str) -> bool {
    match error {
        zbus::Error::FDO(error) => zbus::DBusError::name(&**error).as_str() == name,
        zbus::Error::MethodError(known, ..) => known.as_str() == name,
        _ => false,
    }
}
