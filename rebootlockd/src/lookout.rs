//! What speaks against a reboot at this moment: the kill switch, windows, the health of the other
//! machines, and gates. Looking changes nothing and takes no slot.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rebootlock::config::Settings;
use rebootlock::config::gate::{ClusterRules, GateKind, Phase};
use rebootlock::health;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{LockError, LockManager};
use rebootlock::record::UnixTime;
use rebootlock::window::{Verdict, Windows};

use crate::environment::Facts;
use crate::gate::{self, Answers, Gates};
use crate::metrics::{Brake, ClusterHealth, Health, Metrics, Stage, WindowAnswer, WindowNow};
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
    machine: MachineId,
    kill_switch: PathBuf,
    windows: Windows,
    gates: Gates,
    rules: Option<ClusterRules>,
    groups: Vec<Group>,
    /// Where the others say how they are; `None` for a strategy without a store.
    locks: Option<Arc<LockManager>>,
    metrics: Metrics,
}

impl Lookout {
    /// As configured, for `machine`.
    pub fn new(
        settings: &Settings,
        windows: Windows,
        machine: MachineId,
        locks: Option<Arc<LockManager>>,
        metrics: Metrics,
    ) -> Self {
        let groups = settings.machine.groups.clone();
        Self {
            machine,
            kill_switch: settings.agent.kill_switch_file.clone(),
            windows,
            gates: Gates::new(&settings.gates),
            rules: cluster_rules(settings),
            groups,
            locks,
            metrics,
        }
    }

    /// What a look without questions to anybody shows: the kill switch and the windows.
    pub fn glance(&self, phase: Phase) -> Option<Closed> {
        self.kill_switch(phase).or_else(|| self.window(Timestamp::now()))
    }

    /// Asks the gates of `phase`, after a [`Lookout::glance`] that showed nothing: the first that
    /// speaks against, and what all of them answered.
    pub async fn look(&self, phase: Phase, facts: &Facts) -> (Option<Closed>, Answers) {
        let answers = self.ask(phase, facts).await;
        // A script may have taken its time.
        let closed = closed_by(&answers).or_else(|| self.glance(phase));
        (closed, answers)
    }

    /// Whether any gate is asked in `phase`.
    pub fn has_gates(&self, phase: Phase) -> bool {
        self.gates.has(phase)
    }

    /// Whether what the gates of `phase` say is all there is to say about this machine's health.
    pub fn asks_all_of_health(&self, phase: Phase) -> bool {
        self.gates.asks_all_of_health(phase)
    }

    /// Asks the gates of a phase.
    pub async fn ask(&self, phase: Phase, facts: &Facts) -> Answers {
        let answers = self.gates.ask(phase, facts).await;
        for answer in answers.iter() {
            let health = match &answer.verdict {
                gate::Verdict::Open => Health::Pass,
                gate::Verdict::Closed { .. } => Health::Blocked,
                gate::Verdict::Unknown { .. } => Health::Error,
            };
            self.metrics.health_checked(phase.into(), health, answer.took);
        }
        let closed =
            |answer: &gate::Answer| (answer.name.clone(), answer.verdict != gate::Verdict::Open);
        if matches!(phase, Phase::PreLock | Phase::PostLock | Phase::Verify) {
            self.metrics.set_gates(answers.iter().map(closed));
        }
        answers
    }

    /// In figures: no gate is asked now, so none keeps this machine.
    pub fn asks_no_gates(&self) {
        self.metrics.set_gates([]);
    }

    /// What the answers say about the health of this machine: the gates that are asked for the
    /// others (`heartbeat`) decide it, whenever they are asked.
    pub fn problem(&self, phase: Phase, answers: &Answers) -> Option<String> {
        let unwell = |answer: &&gate::Answer| {
            answer.verdict != gate::Verdict::Open && self.gates.is_of_health(&answer.name)
        };
        answers.iter().find(unwell).map(|answer| format!("{phase}: {}", answer.sentence()))
    }

    /// Whether somebody pulled the emergency brake of this machine.
    pub fn kill_switch(&self, phase: Phase) -> Option<Closed> {
        let path = self.kill_switch.display();
        let (brake, closed) = match std::fs::symlink_metadata(&self.kill_switch) {
            Ok(_) => (Brake::Active, Some(format!("the kill switch {path} is there"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Brake::Inactive, None),
            // Not knowing is never a yes.
            Err(error) => {
                let why = format!("whether the kill switch {path} is there is not known: {error}");
                (Brake::Error, Some(why))
            }
        };
        let stage = if phase == Phase::PostLock { Stage::PostLock } else { Stage::PreLock };
        self.metrics.kill_switch_checked(stage, brake);
        closed.map(|why| Closed::new(Outcome::KillSwitchActive, why))
    }

    /// Whether a window keeps it.
    pub fn window(&self, now: Timestamp) -> Option<Closed> {
        let verdict = self.windows.judge(now, &self.machine);
        self.metrics.window_evaluated(match verdict {
            Verdict::Open { .. } => WindowAnswer::Allowed,
            Verdict::Denied { .. } => WindowAnswer::Denied,
            _ => WindowAnswer::OutsideAllow,
        });
        let outcome = match verdict {
            Verdict::Open { .. } => return None,
            Verdict::Denied { .. } => Outcome::WindowDenied,
            _ => Outcome::WindowOutsideAllow,
        };
        let until = self.windows.next_start(now, &self.machine);
        Some(Closed { outcome, why: verdict.sentence(&TimeZone::system()), until })
    }

    /// In figures, from here on: whether the windows are open, each time somebody looks at the figures.
    pub fn show_windows(&self) {
        let (windows, machine) = (self.windows.clone(), self.machine.clone());
        self.metrics.set_window(move || {
            let now = Timestamp::now();
            let open = windows.judge(now, &machine).is_open();
            let next = if open { None } else { windows.next_start(now, &machine) };
            let next_opening = next.map(|next| UnixTime(next.as_second()));
            Some(WindowNow { open, next_opening })
        });
    }

    /// Whether it is configured how well the others must be.
    pub fn judges_others(&self) -> bool {
        self.rules.is_some()
    }

    /// Whether the others are well enough for this machine to go.
    ///
    /// # Errors
    /// What the store says: then it is not known.
    pub async fn others(&self, phase: Phase) -> Result<Option<Closed>, LockError> {
        let Some(locks) = &self.locks else {
            if self.judges_others() {
                self.metrics.cluster_health_checked(phase.into(), ClusterHealth::Error);
                let why = "how the other machines are is not known: this strategy has no store to \
                           look in, and a gate of type cluster asks for one";
                return Ok(Some(Closed::new(Outcome::HealthBlocked, why)));
            }
            self.metrics.cluster_health_checked(phase.into(), ClusterHealth::Skipped);
            return Ok(None);
        };
        let groups = match &self.rules {
            Some(rules) if !rules.groups.is_empty() => &rules.groups,
            _ => &self.groups,
        };
        let fleet = match locks.fleet(groups).await {
            Ok(fleet) => fleet,
            Err(error) => {
                self.metrics.cluster_health_checked(phase.into(), ClusterHealth::Error);
                return Err(error);
            }
        };
        let now = UnixTime::now();
        let complaints = match &self.rules {
            Some(rules) => {
                let rules = ClusterRules { groups: groups.clone(), ..rules.clone() };
                health::judge(&rules, &fleet, &self.machine, now)
            }
            None => health::judge_without_rules(groups, &fleet, &self.machine, now),
        };
        let healthy = match complaints.is_empty() {
            true => ClusterHealth::Healthy,
            false => ClusterHealth::Unhealthy,
        };
        self.metrics.cluster_health_checked(phase.into(), healthy);
        if complaints.is_empty() {
            return Ok(None);
        }
        let complaints: Vec<_> = complaints.iter().map(ToString::to_string).collect();
        Ok(Some(Closed::new(Outcome::HealthBlocked, complaints.join("; "))))
    }
}

/// The first of `answers` that speaks against a reboot.
pub fn closed_by(answers: &Answers) -> Option<Closed> {
    answers.sentence().map(|why| Closed::new(Outcome::HealthBlocked, why))
}

/// How well the others have to be, if that is configured.
pub fn cluster_rules(settings: &Settings) -> Option<ClusterRules> {
    settings.gates.iter().filter(|gate| gate.enabled).find_map(|gate| match &gate.kind {
        GateKind::Cluster(rules) => Some(rules.clone()),
        _ => None,
    })
}
