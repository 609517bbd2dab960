//! What systemd is told: that we are ready, what we are doing, that we are alive.

use std::time::Duration;

use sd_notify::NotifyState;

/// Says that the daemon is up.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// Says in a sentence what the daemon is doing; `systemctl status` shows it.
pub fn status(sentence: &str) {
    send(&[NotifyState::Status(sentence)]);
}

/// Says that the daemon is about to end.
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
