//! What speaks against a reboot at this moment: the kill switch, windows, the health of the other
//! machines, and gates. Looking changes nothing and takes no slot.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rebootlock::config::{ClusterRules, Phase};
use rebootlock::health;
use rebootlock::id::MachineId;
use rebootlock::lock::LockManager;
use rebootlock::window::{Verdict, Windows};

use crate::environment::Facts;
use crate::gate::{Answers, Gates};
use crate::metrics::Metrics;
use crate::outcome::Outcome;

/// Something that speaks against a reboot now.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    /// Of which kind.
    pub outcome: Outcome,
    /// What, in words.
    pub why: String,
    /// When that is over, if it is known.
    pub until: Option<Timestamp>,
}

impl Closed {
    /// Until somebody or something changes it.
    pub fn new(outcome: Outcome, why: impl Into<String>) -> Self {
        Self { outcome, why: why.into(), until: None }
    }
}

/// Everything that is looked at.
#[derive(Debug)]
pub struct Lookout {
    /// Which machine would reboot.
    pub machine: MachineId,
    /// While this file is there, nothing reboots.
    pub kill_switch: PathBuf,
    /// When reboots may begin.
    pub windows: Windows,
    /// What is asked.
    pub gates: Gates,
    /// How well the others have to be.
    pub cluster: ClusterRules,
    /// Where the others say how they are; `None` for a strategy without a store.
    pub locks: Option<Arc<LockManager>>,
    /// Where it is counted.
    pub metrics: Metrics,
}

impl Lookout {
    /// What a look without questions to anybody shows: the kill switch and the windows.
    pub fn glance(&self, phase: Phase) -> Option<Closed> {
        self.kill_switch(phase).or_else(|| self.window(Timestamp::now()))
    }

    /// Everything that is to be looked at in `phase`, up to the first that speaks against.
    pub async fn look(&self, phase: Phase, facts: &Facts) -> Option<Closed> {
        if let Some(closed) = self.glance(phase) {
            return Some(closed);
        }
        if let Some(closed) = self.others(phase).await {
            return Some(closed);
        }
        let answers = self.ask(phase, facts).await;
        closed_by(&answers)
            // A script may have taken its time.
            .or_else(|| self.glance(phase))
    }

    /// Asks the gates of a phase.
    pub async fn ask(&self, phase: Phase, facts: &Facts) -> Answers {
        let answers = self.gates.ask(phase, facts).await;
        self.metrics.gates_asked(phase, &answers);
        answers
    }

    fn kill_switch(&self, phase: Phase) -> Option<Closed> {
        let path = self.kill_switch.display();
        let (found, closed) = match std::fs::symlink_metadata(&self.kill_switch) {
            Ok(_) => (Ok(true), Some(format!("the kill switch {path} is there"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Ok(false), None),
            // Not knowing is never a yes.
            Err(error) => {
                let why = format!("whether the kill switch {path} is there is not known: {error}");
                (Err(()), Some(why))
            }
        };
        self.metrics.kill_switch_looked_at(phase, found);
        closed.map(|why| Closed::new(Outcome::KillSwitchActive, why))
    }

    fn window(&self, now: Timestamp) -> Option<Closed> {
        let verdict = self.windows.judge(now, &self.machine);
        self.metrics.windows_judged(&verdict, self.windows.next_start(now, &self.machine));
        let (outcome, until) = match verdict {
            Verdict::Open { .. } => return None,
            Verdict::Denied { until, .. } => (Outcome::WindowDenied, until),
            Verdict::Outside { opens } => (Outcome::WindowOutsideAllow, opens),
            Verdict::TooLittleLeft { .. } => {
                let next = self.windows.next_start(now, &self.machine);
                (Outcome::WindowOutsideAllow, next)
            }
            Verdict::Splay { starts, .. } => (Outcome::WindowOutsideAllow, Some(starts)),
        };
        Some(Closed { outcome, why: verdict.sentence(&TimeZone::system()), until })
    }

    /// Whether the others are well enough for this machine to go.
    async fn others(&self, phase: Phase) -> Option<Closed> {
        let locks = self.locks.as_ref()?;
        let fleet = match locks.fleet(&self.cluster.groups).await {
            Ok(fleet) => fleet,
            Err(error) => {
                self.metrics.others_judged(phase, Err(()));
                let why = format!("how the other machines are is not known: {error}");
                return Some(Closed::new(Outcome::HealthBlocked, why));
            }
        };
        let complaints = health::judge(&self.cluster, &fleet, &self.machine);
        self.metrics.others_judged(phase, Ok(complaints.is_empty()));
        if complaints.is_empty() {
            return None;
        }
        let complaints: Vec<_> = complaints.iter().map(ToString::to_string).collect();
        Some(Closed::new(Outcome::HealthBlocked, complaints.join("; ")))
    }
}

/// The first of `answers` that speaks against a reboot.
pub fn closed_by(answers: &Answers) -> Option<Closed> {
    answers.sentence().map(|why| Closed::new(Outcome::HealthBlocked, why))
}

/// What was said last of each thing: it is said again only when it changes.
#[derive(Debug, Default)]
pub struct Said(BTreeMap<&'static str, String>);

impl Said {
    /// Whether `text` is news about `topic`.
    pub fn is_news(&mut self, topic: &'static str, text: &str) -> bool {
        if self.0.get(topic).is_some_and(|before| before == text) {
            return false;
        }
        self.0.insert(topic, text.to_owned());
        true
    }
}
