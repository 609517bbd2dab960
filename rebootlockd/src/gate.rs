//! Reasons to wait: what must be all right before this machine goes down, and before it counts as
//! back.
//!
//! All gates of a phase are asked at once, each with its own deadline. A gate that cannot be
//! checked is as closed as one that says no: not knowing is never a yes. The health of the other
//! machines is a gate too, but judged where their records are.

mod answer;
mod busy_file;
mod http;
mod inhibitor;
mod prometheus;
mod script;
mod sessions;
mod systemd;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rebootlock::config::GateSettings;
use rebootlock::config::gate::GateKind;
pub use rebootlock::config::gate::Phase;
use rebootlock::http::{Access, Credentials, SecretFile};
use tokio::time::{Instant, timeout};

pub use self::answer::{Answer, Answers, Verdict};
use self::busy_file::Look;
use crate::bus::Address;
use crate::environment::{self, Facts};

/// Variables and their values.
type Variables = [(&'static str, String)];

/// The gates of this machine.
#[derive(Debug)]
pub struct Gates {
    gates: Vec<Gate>,
    bus: Address,
    /// What each gate said last in each phase: a gate speaks up when its answer changes.
    said: Mutex<HashMap<(usize, Phase), Verdict>>,
}

#[derive(Debug)]
struct Gate {
    settings: GateSettings,
    look: Look,
}

impl Gates {
    /// Those of `settings` that are switched on. The one of type `cluster` is not among them.
    pub fn new(settings: &[GateSettings]) -> Self {
        Self::on_bus(settings, Address::default())
    }

    /// Those of a machine with a system bus of its own, beside others on one host.
    pub fn on_bus(settings: &[GateSettings], bus: Address) -> Self {
        let asked =
            |gate: &&GateSettings| gate.enabled && !matches!(gate.kind, GateKind::Cluster(_));
        let gates = settings.iter().filter(asked).cloned();
        let gates = gates.map(|settings| Gate { settings, look: Look::default() }).collect();
        Self { gates, bus, said: Mutex::default() }
    }

    /// Whether any gate is asked in `phase`.
    pub fn has(&self, phase: Phase) -> bool {
        self.gates.iter().any(|gate| gate.settings.phases.contains(&phase))
    }

    /// Whether the gate of that name is asked how this machine is, rather than whether it may go.
    pub fn is_of_health(&self, name: &str) -> bool {
        let named = self.gates.iter().find(|gate| gate.settings.name == name);
        named.is_some_and(|gate| gate.settings.phases.contains(&Phase::Heartbeat))
    }

    /// Whether `phase` has gates, and asks all of those that are asked how this machine is: else it
    /// cannot say that the machine is well.
    pub fn asks_all_of_health(&self, phase: Phase) -> bool {
        let phases = || self.gates.iter().map(|gate| &gate.settings.phases);
        let mut of_health = phases().filter(|phases| phases.contains(&Phase::Heartbeat));
        self.has(phase) && of_health.all(|phases| phases.contains(&phase))
    }

    /// Asks all gates of `phase`, and waits for the slowest.
    pub async fn ask(&self, phase: Phase, facts: &Facts) -> Answers {
        let variables = environment::variables(phase, facts);
        let asked = self.gates.iter().enumerate();
        let asked = asked.filter(|(_, gate)| gate.settings.phases.contains(&phase));
        let answers = asked.map(async |(number, gate)| {
            let answer = gate.ask(&self.bus, &variables).await;
            self.log_change(number, phase, &answer);
            answer
        });
        Answers::new(futures::future::join_all(answers).await)
    }

    fn log_change(&self, number: usize, phase: Phase, answer: &Answer) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let before = said.insert((number, phase), answer.verdict.clone());
        if before.as_ref() != Some(&answer.verdict) {
            answer.log(phase);
        }
    }
}

impl Gate {
    async fn ask(&self, bus: &Address, variables: &Variables) -> Answer {
        let GateSettings { name, kind, timeout: limit, .. } = &self.settings;
        let started = Instant::now();
        let answer = |verdict| Answer {
            name: name.clone(),
            kind: kind.as_str(),
            verdict,
            took: started.elapsed(),
            exit_code: None,
            output: String::new(),
        };
        if let GateKind::Script(script) = kind {
            let (verdict, finished) = script::ask(script, *limit, variables).await;
            return Answer {
                took: finished.took,
                exit_code: script::exit_code(&finished.how),
                output: finished.output.to_string(),
                ..answer(verdict)
            };
        }
        let verdict = async {
            match kind {
                GateKind::Http(gate) => http::ask(gate).await,
                GateKind::Prometheus(gate) => prometheus::ask(gate, variables).await,
                GateKind::Systemd(gate) => systemd::ask(gate, bus).await,
                GateKind::Inhibitor(gate) => inhibitor::ask(gate, bus).await,
                GateKind::Sessions(gate) => sessions::ask(gate, bus).await,
                GateKind::BusyFile(gate) => self.look.ask(gate).await,
                // Neither comes here.
                GateKind::Script(_) | GateKind::Cluster(_) => Verdict::unknown("is not asked here"),
            }
        };
        let verdict = timeout(*limit, verdict).await.unwrap_or_else(|_| {
            Verdict::unknown(format!("no answer within {} s", limit.as_secs()))
        });
        answer(verdict)
    }
}

/// How the web server of a gate is talked to.
fn access(ca_file: Option<&PathBuf>, bearer_token_file: Option<&PathBuf>) -> Access {
    let credentials = match bearer_token_file {
        None => Credentials::None,
        Some(path) => {
            Credentials::Bearer(SecretFile { setting: "bearer_token_file", path: path.clone() })
        }
    };
    Access { ca_file: ca_file.cloned(), credentials, ..Access::default() }
}
