//! What systemd is told: that we are ready, what we are doing, that we are alive.

use std::time::Duration;

use sd_notify::NotifyState;

/// Says that the service is up.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// Says in a sentence what the service is doing; `systemctl status` shows it.
pub fn status(sentence: &str) {
    send(&[NotifyState::Status(&printable(sentence))]);
}

/// In one line and without control characters. What others wrote, the name of an inhibitor or the
/// reason of a pause, must not be able to tell systemd or a log more than that: each line of a
/// notification says something else.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Says that the service is about to end.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sentence_stays_one_line(text in any::<String>()) {
            let shown = printable(&text);
            prop_assert!(!shown.contains(char::is_control));
            prop_assert_eq!(shown.chars().count(), text.chars().count());
        }
    }

    #[test]
    fn nobody_slips_systemd_a_word() {
        assert_eq!(
            printable("inhibited by me: x\nMAINPID=1"),
            "inhibited by me: x\u{fffd}MAINPID=1"
        );
    }
}
