//! Finding a run again that an earlier life of the program has left running.

use std::io;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::tree::{RUN_ID, SEARCH, has_variable};
use super::{GRACE, REAP};

/// Between two looks at what was asked to end.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a run can be found by as long as the machine has not rebooted. Keep it where the next life of
/// the program reads it, together with the boot id.
///
/// It is there before the run, so that no crash falls between a start and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// What every process of the run inherits.
    run_id: Uuid,
    /// Who leads its process group, once it was started.
    leader: Option<Leader>,
}

/// A process, beyond the time in which its number is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Leader {
    pid: i32,
    /// In ticks since the boot.
    started: u64,
}

/// What `/proc` says of a process.
struct Stat {
    ended: bool,
    group: i32,
    started: u64,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self { run_id: Uuid::new_v4(), leader: None }
    }

    pub(super) fn run_id(&self) -> Uuid {
        self.run_id
    }

    /// The same once the leader of its group is known. One that has ended already leads nobody.
    #[must_use]
    pub(super) fn led_by(&self, pid: Option<u32>) -> Self {
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        let leader = pid.and_then(|pid| Some(Leader { pid, started: stat(pid)?.started }));
        Self { leader, ..self.clone() }
    }

    /// Whether it was started as a process group, as far as is known.
    pub fn was_started(&self) -> bool {
        self.leader.is_some()
    }

    /// Whether anything of the run is there still. Not knowing is a yes.
    pub async fn lives(&self) -> bool {
        let trace = self.clone();
        let search = tokio::task::spawn_blocking(move || trace.members());
        !matches!(timeout(SEARCH, search).await, Ok(Ok(Ok(members))) if members.is_empty())
    }

    /// Asks all that is left of the run to end, and kills what does not. Whether all is gone.
    pub async fn end(&self) -> bool {
        for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, REAP)] {
            let deadline = Instant::now() + patience;
            let mut send = Some(signal);
            while Instant::now() < deadline {
                let trace = self.clone();
                let sent = tokio::task::spawn_blocking(move || trace.send(send));
                match timeout(SEARCH, sent).await {
                    Ok(Ok(Ok(0))) => return true,
                    Ok(Ok(Ok(_))) => {}
                    _ => return false,
                }
                // Once is asking; what is killed may have had children in that moment.
                send = send.filter(|signal| *signal == Signal::KILL);
                sleep(LOOK_AGAIN).await;
            }
        }
        false
    }

    /// How many there are; each is sent `signal`.
    fn send(&self, signal: Option<Signal>) -> io::Result<usize> {
        let members = self.members()?;
        for number in &members {
            let Some(signal) = signal else { break };
            // The handle first, and then a second look: a number that is given away meanwhile does not
            // make it mean another.
            let handle = Pid::from_raw(*number).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
            if let Some(Ok(handle)) = handle
                && self.is_member(*number)
            {
                let _ = pidfd_send_signal(&handle, signal);
                // It may have been stopped.
                let _ = pidfd_send_signal(&handle, Signal::CONT);
            }
        }
        Ok(members.len())
    }

    fn members(&self) -> io::Result<Vec<i32>> {
        let mut members = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            members.extend(number.filter(|number| self.is_member(*number)));
        }
        Ok(members)
    }

    fn is_member(&self, number: i32) -> bool {
        let Some(stat) = stat(number).filter(|stat| !stat.ended) else { return false };
        let in_group = self
            .group()
            .is_some_and(|leader| stat.group == leader.pid && stat.started >= leader.started);
        in_group || has_variable(number, format!("{RUN_ID}={}", self.run_id).as_bytes())
    }

    /// The group, unless it is plain that its number is another's by now: a number is not given away as
    /// long as a group bears it.
    fn group(&self) -> Option<Leader> {
        let leader = self.leader?;
        match stat(leader.pid) {
            Some(now) if now.started != leader.started => None,
            _ => Some(leader),
        }
    }
}

fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A program's name may have anything in it, parentheses too.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ended = matches!(*fields.first()?, "Z" | "X");
    Some(Stat {
        ended,
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}
