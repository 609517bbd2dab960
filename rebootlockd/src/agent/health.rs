//! How this machine is, for the others; and asking detectors and gates.

use std::sync::Arc;

use rebootlock::config::gate::Phase;
use rebootlock::host;
use rebootlock::id::{BootId, MachineId};
use rebootlock::record::{Health, UnixTime};
use rebootlock::window::Action;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Agent;
use crate::detect::{Finding, Findings, Verdict};
use crate::environment::Facts;
use crate::gate::Answers;
use crate::lookout::{Closed, Lookout, closed_by, cluster_rules};
use crate::metrics::{Detection, Metrics, Reported, Written};
use crate::options::Options;
use crate::outcome::Outcome;
use crate::policy::State;
use crate::presence::{SAY_AGAIN, Shown};
use crate::want::Want;

impl Agent {
    /// Begins to look, again and again, how this machine is, and to tell the others.
    pub(super) fn begin_heartbeat(&mut self) {
        if self.options.run.once {
            // A single pass asks what is on its way, and nothing beside it.
            return;
        }
        if !self.lookout.has_gates(Phase::Heartbeat) {
            // Nothing is looked at that could say otherwise.
            say_health(&self.shown, None);
            let shown = self.shown.clone();
            self.sources.push(AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(SAY_AGAIN / 2).await;
                    say_health(&shown, None);
                }
            })));
            return;
        }
        let interval = self.options.settings.agent.heartbeat;
        let (lookout, shown) = (self.lookout.clone(), self.shown.clone());
        let (metrics, facts) = (self.metrics.clone(), self.facts(Phase::Heartbeat));
        self.sources.push(AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                ask(&lookout, Phase::Heartbeat, &facts, &shown, &metrics).await;
                tokio::time::sleep(interval).await;
            }
        })));
    }

    /// What the gates say while nothing wants a reboot.
    pub(super) async fn monitor(&mut self) {
        if self.lookout.has_gates(Phase::Monitor) {
            let facts = self.facts(Phase::Monitor);
            let answers =
                ask(&self.lookout, Phase::Monitor, &facts, &self.shown, &self.metrics).await;
            let closed = closed_by(&answers);
            self.note(Phase::Monitor, answers);
            if let Some(closed) = closed {
                return self.conclude(closed);
            }
        }
        self.conclude(Closed::new(Outcome::NoAction, "no reboot is wanted"));
    }

    /// Looks at everything that may speak against a reboot.
    pub(super) async fn look(&mut self, phase: Phase) -> Option<Closed> {
        let closed = match self.lookout.glance(phase) {
            None => self.look_at_others(phase).await,
            closed => closed,
        };
        if closed.is_some() {
            self.lookout.asks_no_gates();
            return closed;
        }
        let facts = self.facts(phase);
        let (closed, answers) = self.lookout.look(phase, &facts).await;
        tell_health(&self.lookout, phase, &answers, &self.shown, &self.metrics);
        self.note(phase, answers);
        closed
    }

    /// Whether the others are well enough. Before a slot nothing is decided by it if the store does not
    /// tell: asking for one says so better. With the slot held it is asked until it does tell. Where
    /// best effort goes without a slot, it goes without knowing the others only if nobody asks how they
    /// are.
    async fn look_at_others(&mut self, phase: Phase) -> Option<Closed> {
        loop {
            match self.lookout.others(phase).await {
                Ok(closed) => {
                    self.clear_trouble();
                    return closed;
                }
                Err(error) if self.held.is_none() => {
                    let why = format!("how the other machines are is not known: {error}");
                    let asked = phase == Phase::PostLock && self.lookout.judges_others();
                    return asked.then(|| Closed::new(Outcome::HealthBlocked, why));
                }
                Err(error) => self.stuck("cannot get the permit to reboot", &error).await,
            }
        }
    }

    /// For the report of a single pass.
    fn note(&mut self, phase: Phase, answers: Answers) {
        if self.options.run.once {
            self.report.note(phase, answers);
        }
    }

    /// Asks the gates of a phase.
    pub(super) async fn ask_gates(&mut self, phase: Phase) -> Option<Closed> {
        let facts = self.facts(phase);
        let answers = ask(&self.lookout, phase, &facts, &self.shown, &self.metrics).await;
        let closed = closed_by(&answers);
        self.note(phase, answers);
        closed
    }

    /// Asks the detectors now. Whether one failed that may not: not knowing is never a yes.
    pub(super) async fn ask_detectors(&mut self, phase: Phase) -> Option<Closed> {
        if self.detected.is_empty() {
            return None;
        }
        let heard = |finding: &Finding| count(&self.metrics, phase, finding);
        let findings = self.detected.ask(heard).await;
        let closed = failure(&findings).map(|why| Closed::new(Outcome::HealthBlocked, why));
        if self.options.run.once {
            self.report.findings = findings;
        }
        closed
    }

    /// What scripts are told.
    pub(super) fn facts(&self, phase: Phase) -> Facts {
        Facts {
            reason: match self.wants.now() {
                Want::Reboot { reason, .. } => reason,
                _ => String::new(),
            },
            dry_run: self.options.run.dry_run,
            token: self.held.as_ref().map(|held| held.token.to_string()),
            lock_enabled: self.needs_slot(),
            lock_held: self.held.is_some() && phase == Phase::PostLock,
            lock_attempts: u32::from(self.held.is_some()),
            ..configured(&self.options, &self.machine, &self.boot_id)
        }
    }
}

/// What scripts are told of this machine and its settings, whatever goes on.
pub(crate) fn configured(options: &Options, machine: &MachineId, boot_id: &BootId) -> Facts {
    let settings = &options.settings;
    let windows = |action| {
        let windows = options.windows.0.iter().filter(move |w| w.action == action);
        windows.map(|window| window.name.clone()).collect()
    };
    let group = settings.machine.groups.first().cloned().unwrap_or_default();
    Facts {
        machine_id: machine.to_string(),
        hostname: host::hostname(),
        boot_id: boot_id.to_string(),
        groups: settings.machine.groups.iter().map(ToString::to_string).collect(),
        lock_key: settings.store.keys.semaphore(&group).to_string(),
        endpoints: settings.store.endpoints.iter().map(ToString::to_string).collect(),
        kill_switch_file: Some(settings.agent.kill_switch_file.clone()),
        cluster: cluster_rules(settings),
        windows_allow: windows(Action::Allow),
        windows_deny: windows(Action::Deny),
        metrics_endpoint: settings.metrics.listen.as_ref().map(ToString::to_string),
        ..Facts::default()
    }
}

/// The first detector that failed and may not, in a sentence.
pub(crate) fn failure(findings: &Findings) -> Option<String> {
    let failed = findings.failed();
    let first = failed.first()?;
    let Verdict::Failed { why } = &first.verdict else { return None };
    Some(format!("detector {} failed: {why}", first.name))
}

/// Asks the gates of a phase, and tells the others what they say about this machine.
async fn ask(
    lookout: &Lookout,
    phase: Phase,
    facts: &Facts,
    shown: &watch::Sender<Shown>,
    metrics: &Metrics,
) -> Answers {
    let answers = lookout.ask(phase, facts).await;
    tell_health(lookout, phase, &answers, shown, metrics);
    answers
}

/// Tells the others what the gates of a phase say about this machine. A round that found nothing says
/// nothing about a gate it did not ask.
fn tell_health(
    lookout: &Lookout,
    phase: Phase,
    answers: &Answers,
    shown: &watch::Sender<Shown>,
    metrics: &Metrics,
) {
    let problem = lookout.problem(phase, answers);
    if problem.is_none() && !lookout.asks_all_of_health(phase) {
        return;
    }
    let reported = if problem.is_none() { Reported::Healthy } else { Reported::Unhealthy };
    if !say_health(shown, problem) {
        metrics.cluster_health_updated(reported, Written::Skipped);
    }
}

/// Whether that is news. When it was looked at last is written down now and then, and no news.
fn say_health(shown: &watch::Sender<Shown>, problem: Option<String>) -> bool {
    shown.send_if_modified(|shown| {
        let same = shown.health.as_ref().is_some_and(|health| health.reason == problem);
        shown.health = Some(Health::new(problem, UnixTime::now()));
        !same
    })
}

fn count(metrics: &Metrics, phase: Phase, finding: &Finding) {
    let detection = match finding.verdict {
        Verdict::Clear => Detection::Clear,
        Verdict::Wanted { .. } => Detection::Requires,
        Verdict::Failed { .. } => Detection::Error,
    };
    metrics.detector_evaluated(phase.into(), detection, finding.took);
}

/// Counts what the detectors answer who are asked again and again, whatever the agent does meanwhile.
pub(super) fn counting(
    metrics: Metrics,
    shown: watch::Receiver<Shown>,
) -> impl Fn(&Finding) + Send + 'static {
    move |finding| {
        let phase = phase_of(shown.borrow().state);
        count(&metrics, phase, finding);
    }
}

/// The part of the way on which a machine in this state is.
fn phase_of(state: State) -> Phase {
    match state {
        State::Starting | State::Idle => Phase::Monitor,
        State::Closed | State::Queued | State::BackingOff => Phase::PreLock,
        State::Holding | State::Draining | State::Permitting | State::Rebooting => Phase::PostLock,
        State::Verifying | State::Releasing => Phase::Verify,
    }
}

/// The same agent's figures, health and look, in a task of their own.
pub(super) fn look_apart(agent: &Agent, phase: Phase) -> AbortOnDropHandle<Option<Closed>> {
    let (lookout, shown) = (Arc::clone(&agent.lookout), Arc::clone(&agent.shown));
    let (metrics, facts) = (agent.metrics.clone(), agent.facts(phase));
    AbortOnDropHandle::new(tokio::spawn(async move {
        match lookout.has_gates(phase) {
            true => closed_by(&ask(&lookout, phase, &facts, &shown, &metrics).await),
            false => None,
        }
    }))
}
