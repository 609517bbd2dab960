//! The system bus: the one `DBUS_SYSTEM_BUS_ADDRESS` names, else the usual one.

#[cfg(test)]
pub(crate) mod foreign;

use std::time::Duration;

use zbus::Connection;

/// Longest time one call on the bus may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(25);

/// Connects.
///
/// # Errors
/// Why there is no bus.
pub async fn connect() -> zbus::Result<Connection> {
    zbus::connection::Builder::system().method_timeout(CALL_TIMEOUT).build().await
}
