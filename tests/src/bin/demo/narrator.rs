//! Lines that say what happens, where the watch does not own the screen.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::sync::{Mutex, PoisonError};

use rebootlock_tests::fleet::Member;
use tokio::time::Instant;

/// Tells the story as plain lines; on a terminal it leaves the screen to the watch.
#[derive(Debug)]
pub(crate) struct Narrator {
    silent: bool,
    start: Instant,
    /// Machines whose story is told, still running.
    kept: Mutex<Vec<Member>>,
}

impl Narrator {
    /// Silent on a terminal.
    pub(crate) fn new() -> Self {
        let silent = stdout().is_terminal();
        Self { silent, start: Instant::now(), kept: Mutex::default() }
    }

    /// Says what is going to happen.
    pub(crate) fn introduce(&self, machines: usize, max: u32) {
        println!("{machines} machines want to reboot; {max} may be down at a time.");
        println!("Starting {machines} agents, each with its own bus, update-engine and logind ...");
        if self.silent {
            // The watch redraws from the upper left.
            print!("\u{1b}[2J\u{1b}[H");
            // A screen that was not cleared is only less pretty.
            let _ = stdout().flush();
        } else {
            println!();
        }
    }

    /// Times count from here.
    pub(crate) fn begin(&mut self, start: Instant) {
        self.start = start;
    }

    /// One line about `machine`.
    pub(crate) fn say(&self, machine: &str, what: &str) {
        if !self.silent {
            println!("{:6.2} s  {machine}: {what}", self.start.elapsed().as_secs_f64());
        }
    }

    /// Keeps a machine running to the end.
    pub(crate) fn keep(&self, member: Member) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(member);
    }
}
