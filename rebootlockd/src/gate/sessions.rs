//! `type = "sessions"`: open if few enough users are logged in.

use std::collections::BTreeMap;
use std::time::Duration;

use rebootlock::config::gate::SessionsGate;

use super::Verdict;
use super::answer::{clean, listed};
use crate::bus::Address;
use crate::logind::{Logind, Used};

pub(super) async fn ask(gate: &SessionsGate, bus: &Address) -> Verdict {
    let asked = async { Logind::on(bus.connect().await?).await?.in_use().await };
    match asked.await {
        Ok(sessions) => judge(gate, &sessions, uptime()),
        Err(error) => Verdict::unknown(format!("logind does not answer: {error}")),
    }
}

/// `now` is on the clock that logind's times are on, which nobody can set.
fn judge(gate: &SessionsGate, sessions: &[Used], now: Duration) -> Verdict {
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for session in sessions {
        let idle = match (gate.idle, session.idle_since) {
            (Some(limit), Some(since)) => now.saturating_sub(since) > limit,
            _ => false,
        };
        if !idle && !gate.ignore_users.contains(&session.by.user) {
            users.entry(&session.by.user).or_default().push(&session.by.tty);
        }
    }
    if users.len() as u64 <= gate.max {
        return Verdict::Open;
    }
    let users: Vec<_> = users
        .into_iter()
        .map(|(user, mut ttys)| {
            ttys.retain(|tty| !tty.is_empty());
            let user = clean(user, 40);
            if ttys.is_empty() { user } else { format!("{user} ({})", clean(&ttys.join(" "), 60)) }
        })
        .collect();
    let are = if users.len() == 1 { "is" } else { "are" };
    Verdict::closed(format!("{} {are} logged in", listed(&users, ", ")))
}

fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logind::LoggedIn;

    #[test]
    fn users_count_once_and_only_while_they_do_something() {
        let used = |user: &str, tty: &str, idle_since: Option<u64>| Used {
            by: LoggedIn { user: user.to_owned(), tty: tty.to_owned() },
            idle_since: idle_since.map(Duration::from_secs),
        };
        let gate = |max, ignored: &[&str], idle: Option<u64>| SessionsGate {
            max,
            ignore_users: ignored.iter().map(|user| (*user).to_owned()).collect(),
            idle: idle.map(Duration::from_secs),
        };
        let all = [
            used("ada", "pts/0", None),
            used("ada", "", None),
            used("bob", "tty1", Some(900)),
            used("ci", "", Some(0)),
        ];
        for (gate, why) in [
            (gate(0, &[], None), Some("ada (pts/0), bob (tty1), ci are logged in")),
            (gate(2, &[], None), Some("ada (pts/0), bob (tty1), ci are logged in")),
            (gate(3, &[], None), None),
            (gate(0, &["ci", "bob"], None), Some("ada (pts/0) is logged in")),
            // It is 1000 now.
            (gate(0, &["ada"], Some(100)), Some("bob (tty1) is logged in")),
            (gate(0, &["ada"], Some(99)), None),
        ] {
            let verdict = judge(&gate, &all, Duration::from_secs(1000));
            assert_eq!(verdict.why(), why, "{gate:?}");
        }
        assert_eq!(judge(&gate(0, &[], None), &[], Duration::ZERO), Verdict::Open);
    }
}
