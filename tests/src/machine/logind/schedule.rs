//! What logind has in its book for later, and what it tells users about it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, SystemTime};

use super::reboot::{InhibitorRule, Refusal};
use super::{Shared, State};

/// What `ScheduleShutdown` knows; each with `dry-` before it too.
const KNOWN: [&str; 4] = ["poweroff", "reboot", "halt", "kexec"];
/// And since 254 this one.
const SOFT: &str = "soft-reboot";

/// With more time than that nothing is said at first.
const SILENT: Duration = Duration::from_secs(15 * 60);

impl Shared {
    /// Takes it in place of what was there, and tells users if there are less than 15 minutes left. The
    /// later reminders of the real one, and what happens at the time itself, are not played.
    pub(super) fn schedule(&self, what: &str, at_usec: u64) -> Result<(), Refusal> {
        let mut state = self.state();
        if state.schedules_nothing {
            let denied = "org.freedesktop.DBus.Error.AccessDenied";
            return Err(Refusal::new(denied, "Permission denied"));
        }
        // Whether it is dry logind keeps to itself.
        let what = what.strip_prefix("dry-").unwrap_or(what);
        let is_soft = what == SOFT && state.rule != InhibitorRule::Systemd252;
        if !KNOWN.contains(&what) && !is_soft {
            let invalid = "org.freedesktop.DBus.Error.InvalidArgs";
            return Err(Refusal::new(invalid, "Unsupported shutdown type"));
        }
        state.scheduled = Some((what.to_owned(), at_usec));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_micros(at_usec).saturating_sub(now);
        if left < SILENT {
            let text = format!("{}\r\nThe system will reboot soon!", state.wall.0);
            state.tell(text);
        }
        Ok(())
    }

    /// As the property reads.
    pub(super) fn scheduled(&self) -> (String, u64) {
        self.state().scheduled.clone().unwrap_or((String::new(), u64::MAX))
    }

    /// Whether there was anything. Users are told, unless that was switched off.
    pub(super) fn cancel(&self) -> bool {
        let mut state = self.state();
        if state.scheduled.take().is_none() {
            return false;
        }
        state.tell("System shutdown has been cancelled".to_owned());
        true
    }
}

impl State {
    /// As `wall` does, if it is switched on: to each session's terminal, without waiting for one.
    fn tell(&mut self, text: String) {
        if !self.wall.1 {
            return;
        }
        for session in self.sessions.iter().filter(|session| !session.tty.is_empty()) {
            let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
            let terminal = OpenOptions::new()
                .write(true)
                .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
                .open(format!("/dev/{}", session.tty));
            // Some take nothing, and then their users are told nothing.
            let _ = terminal.and_then(|mut it| it.write_all(format!("\r\n{text}\r\n").as_bytes()));
        }
        self.walls.push(text);
    }
}
