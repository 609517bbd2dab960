//! Telling users on their terminals.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use rebootlock::notify::printable;

use super::LoggedIn;

/// Where a terminal is that logind knows by this name; never outside `/dev`.
pub(super) fn terminal(tty: &str) -> Option<PathBuf> {
    let plain = |part| matches!(part, Component::Normal(_));
    let named = !tty.is_empty() && !tty.contains('\0') && Path::new(tty).components().all(plain);
    named.then(|| Path::new("/dev").join(tty))
}

/// Writes `message` to the terminals of `users`. A terminal that does not take it is passed over:
/// a user who stopped his output must not stop a fleet.
pub fn tell(users: &[LoggedIn], message: &str) {
    // Whoever gave a reason for the reboot did not get to write to terminals by it.
    let message = printable(message);
    // O_NONBLOCK | O_NOCTTY
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    for user in users {
        let Some(terminal) = terminal(&user.tty) else { continue };
        let written = OpenOptions::new()
            .write(true)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
            .open(&terminal)
            .and_then(|mut terminal| {
                // `/dev` has more than terminals in it, and not all of it should be written to.
                if !rustix::termios::isatty(&terminal) {
                    return Err(std::io::Error::other("not a terminal"));
                }
                terminal.write_all(format!("\r\n\x07{message}\r\n").as_bytes())
            });
        if let Err(error) = written {
            tracing::warn!(user = user.user, terminal = %terminal.display(), %error, "not told");
        }
    }
}
