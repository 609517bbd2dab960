//! A terminal somebody could sit at: a real `/dev/pts/N`, read from its other end.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::pty::OpenptFlags;
use rustix::termios::Action;

use crate::eventually;

/// A pair of pseudo-terminal ends. Both stay open, so writers never see it hang up.
#[derive(Debug)]
pub struct Pty {
    name: String,
    keyboard: OwnedFd,
    screen: OwnedFd,
    seen: String,
}

impl Pty {
    /// Opens a new terminal.
    pub fn open() -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).context("cannot open a pseudo-terminal")?;
        rustix::pty::grantpt(&master).context("cannot grant the pseudo-terminal")?;
        rustix::pty::unlockpt(&master).context("cannot unlock the pseudo-terminal")?;
        let path = rustix::pty::ptsname(&master, Vec::new()).context("a terminal without name")?;
        let path = path.into_string().context("a terminal with an odd name")?;
        let screen = rustix::fs::open(
            path.as_str(),
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .with_context(|| format!("cannot open {path}"))?;
        rustix::io::ioctl_fionbio(&master, true).context("cannot make a terminal non-blocking")?;
        let name = path.strip_prefix("/dev/").unwrap_or(&path).to_owned();
        Ok(Self { name, keyboard: master, screen, seen: String::new() })
    }

    /// Its name as sessions tell it: `pts/N`, under `/dev`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything shown so far, as far as it was read.
    pub fn seen(&self) -> &str {
        &self.seen
    }

    /// Reads until `text` has been shown; gives back everything shown so far. Line ends are `\r\n` here.
    pub async fn read_until(&mut self, text: &str, deadline: Duration) -> Result<String> {
        let what = format!("{} shows {text:?}", self.name);
        eventually(&what, deadline, async || {
            self.read_available().map_err(|err| format!("{err:#}"))?;
            if self.seen.contains(text) { Ok(self.seen.clone()) } else { Err(self.seen.clone()) }
        })
        .await
    }

    /// Stops output as Ctrl-S does: whoever writes to the terminal without care now hangs once its
    /// buffer is full.
    pub fn stop_output(&self) -> Result<()> {
        rustix::termios::tcflow(&self.screen, Action::OOff).context("cannot stop a terminal")
    }

    /// Lets output go on as Ctrl-Q does.
    pub fn resume_output(&self) -> Result<()> {
        rustix::termios::tcflow(&self.screen, Action::OOn).context("cannot resume a terminal")
    }

    /// Takes what was shown since the last look. The workspace forbids `unsafe`, which tokio wants for
    /// watching a terminal, so whoever waits looks again and again.
    fn read_available(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.keyboard, &mut buffer) {
                Ok(len) => self.seen.push_str(&String::from_utf8_lossy(&buffer[..len])),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(err) => return Err(err).with_context(|| format!("cannot read {}", self.name)),
            }
        }
    }
}
