//! What one pass over everything that decides a reboot found, for whoever asked for it: `run --once`
//! and `status` print it.

use std::fmt::Write as _;
use std::io::Write as _;

use rebootlock::config::gate::Phase;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{LockError, LockManager};
use rebootlock::record::UnixTime;
use serde_json::{Value, json};

use crate::detect::Findings;
use crate::gate::{Answer, Answers};
use crate::lookout::Closed;
use crate::outcome::Outcome;
use crate::simulate::{self, Output};
use crate::want::Want;

/// What a pass found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How it ended; none if it failed.
    pub outcome: Option<Outcome>,
    /// Why it ended so.
    pub why: String,
    /// Nothing was to be done, only said.
    pub dry_run: bool,
    /// Whether a reboot is wanted.
    pub want: Want,
    /// What the detectors say; nothing if they were not asked.
    pub findings: Findings,
    /// What the gates say, by the phase in which they were asked.
    pub answers: Vec<(Phase, Answer)>,
    /// What became of the slot.
    pub slot: Slot,
}

/// The slot in a pass.
#[derive(Debug, Clone, Default)]
pub struct Slot {
    /// In which groups one is needed.
    pub groups: Vec<Group>,
    /// Whether the pass took it, and gave it back.
    pub taken: bool,
    /// Who has one, as far as that was looked at.
    pub holders: Vec<Holder>,
}

/// Somebody who holds a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// In which group.
    pub group: Group,
    /// Which machine.
    pub machine: MachineId,
    /// What it calls itself.
    pub hostname: Option<String>,
    /// Since when.
    pub since: Option<UnixTime>,
}

impl Report {
    /// Adds what the gates answered in `phase`, in place of what they said there before.
    pub fn note(&mut self, phase: Phase, answers: Answers) {
        self.answers.retain(|(known, _)| *known != phase);
        self.answers.extend(answers.iter().map(|answer| (phase, answer.clone())));
    }

    /// Prints it.
    pub fn print(&self, output: Output) {
        let text = match output {
            Output::Text => self.text(),
            Output::Json => format!("{:#}\n", self.document()),
        };
        // A reader that has gone needs no answer.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }

    fn name(&self) -> &'static str {
        self.outcome.map_or("error", Outcome::as_str)
    }

    /// For people.
    fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.name(), self.why);
        let mut say = |line: String| {
            // What others wrote must not play tricks on a terminal.
            let line = line.replace(char::is_control, "?");
            // A string takes everything.
            let _ = writeln!(text, "  {line}");
        };
        match &self.want {
            Want::Reboot { reason, .. } => say(format!("a reboot is wanted: {reason}")),
            Want::Nothing => say("no reboot is wanted".to_owned()),
            Want::Unknown => say("whether a reboot is wanted was not found out".to_owned()),
        }
        for finding in &self.findings {
            say(format!("detector {}", simulate::sentence(finding)));
        }
        for (phase, answer) in &self.answers {
            let seconds = answer.took.as_secs_f64();
            say(format!("{} ({phase}, {seconds:.3} s)", answer.sentence()));
        }
        for holder in &self.slot.holders {
            let name = holder.hostname.as_deref().unwrap_or(holder.machine.as_str());
            let since = holder.since.map(|since| format!(" since {}", since.to_text()));
            say(format!("group {}: held by {name}{}", holder.group, since.unwrap_or_default()));
        }
        if self.slot.taken {
            say("the slot was taken, and given back".to_owned());
        }
        text
    }

    /// For programs.
    fn document(&self) -> Value {
        let (wanted, reason) = match &self.want {
            Want::Reboot { reason, .. } => (Some(true), Some(reason)),
            Want::Nothing => (Some(false), None),
            Want::Unknown => (None, None),
        };
        let gate = |(phase, answer): &(Phase, Answer)| {
            json!({
                "name": answer.name,
                "type": answer.kind,
                "phase": phase.as_str(),
                "verdict": answer.verdict.as_str(),
                "why": answer.verdict.why(),
                "seconds": answer.took.as_secs_f64(),
                "exitCode": answer.exit_code,
                "output": answer.output,
            })
        };
        let holder = |holder: &Holder| {
            json!({
                "group": holder.group.as_str(),
                "machineID": holder.machine.as_str(),
                "hostname": holder.hostname,
                "since": holder.since,
            })
        };
        json!({
            "outcome": self.name(),
            "why": self.why,
            "dry_run": self.dry_run,
            "reboot_wanted": wanted,
            "reason": reason,
            "detectors": self.findings.iter().map(simulate::finding).collect::<Vec<_>>(),
            "gates": self.answers.iter().map(gate).collect::<Vec<_>>(),
            "slot": {
                "groups": self.slot.groups.iter().map(Group::as_str).collect::<Vec<_>>(),
                "taken": self.slot.taken,
                "holders": self.slot.holders.iter().map(holder).collect::<Vec<_>>(),
            },
        })
    }
}

/// How a pass ends whose slot was refused so; nothing if it was not refused but not found out.
pub async fn refused(locks: &LockManager, error: &LockError) -> Option<Closed> {
    let outcome = match error {
        LockError::Full { group, .. } => {
            let why = waiting(locks, group).await;
            return Some(Closed::new(Outcome::LockUnavailable, why));
        }
        LockError::Paused { .. } => Outcome::Paused,
        LockError::Held { .. } => Outcome::Held,
        LockError::CoolingDown { .. } => Outcome::CooldownActive,
        _ => return None,
    };
    Some(Closed::new(outcome, error.to_string()))
}

/// Who holds slots in `groups`, as far as the store tells.
pub async fn holders(locks: &LockManager, groups: &[Group]) -> Vec<Holder> {
    let mut all = Vec::new();
    for group in groups {
        let Ok(status) = locks.status(group).await else { continue };
        all.extend(status.holders.into_iter().map(|holder| {
            let record = holder.record.and_then(Result::ok);
            Holder {
                group: group.clone(),
                machine: holder.machine,
                hostname: record.as_ref().and_then(|record| record.hostname.clone()),
                since: record.as_ref().map(|record| record.start_time),
            }
        }));
    }
    all
}

/// For whom a machine waits that wants a slot in `group`, in a sentence.
pub async fn waiting(locks: &LockManager, group: &Group) -> String {
    let mut sentence = format!("waiting for a slot in group {group}");
    if let Ok((semaphore, record)) = locks.glance(group).await {
        let holders = semaphore.holders();
        sentence.push_str(&format!(": {} of {} held", holders.len(), semaphore.max()));
        if let Some(first) = holders.first() {
            let name = record.as_ref().and_then(|record| record.hostname.clone());
            sentence.push_str(&format!(" by {}", name.unwrap_or(first.to_string())));
        }
        if let Some(record) = record {
            let held = UnixTime::now().seconds_since(record.start_time);
            sentence.push_str(&format!(" for {}", in_words(held)));
        }
        if holders.len() > 1 {
            sentence.push_str(" and others");
        }
    }
    sentence
}

fn in_words(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}
