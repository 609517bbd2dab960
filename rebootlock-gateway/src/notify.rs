//! What systemd is told: that we are ready, that we read our settings again, that we are alive.

use std::time::Duration;

use sd_notify::NotifyState;

/// Says that requests are served.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// Says that the gateway is about to end.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Tells the watchdog that the runtime still runs, at a third of its interval; for ever.
pub async fn feed_watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled().filter(|every| !every.is_zero()) else {
        return std::future::pending().await;
    };
    let mut every = tokio::time::interval((interval / 3).max(Duration::from_millis(10)));
    loop {
        every.tick().await;
        send(&[NotifyState::Watchdog]);
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
