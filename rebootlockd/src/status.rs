//! `rebootlockd status`: what a pass would find at this moment. Takes no slot, writes nothing,
//! reboots nothing, and may be run beside the daemon.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use rebootlock::cli::{CommonArgs, exit};
use rebootlock::config::gate::Phase;
use rebootlock::config::{DetectorSettings, Settings, Strategy};
use rebootlock::id::MachineId;
use rebootlock::lock::Acquired;
use rebootlock::record::{Claim, UnixTime, Via};
use rebootlock::store::Endpoint;
use rebootlock::{host, logging};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{self, ONCE_PATIENCE};
use crate::command::{self, fail};
use crate::detect::Detectors;
use crate::environment::Facts;
use crate::logind::{Logind, held_up_by};
use crate::lookout::{Closed, Lookout};
use crate::memento::{MementoFile, Stage};
use crate::method::{Boot, Method};
use crate::metrics::Metrics;
use crate::options::{Options, RunArgs, read};
use crate::outcome::Outcome;
use crate::pass::{self, Report};
use crate::simulate::Output;
use crate::slots::Slots;
use crate::want::{Want, Wants};
use crate::{requests, update_engine};

/// Flags of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Ask no gates, and not how the other machines are
    #[arg(long)]
    pub skip_health: bool,
    /// Do not look at the lock; needs no store
    #[arg(long)]
    pub skip_lock: bool,
    /// How the answer is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
    /// What to do when a reboot is wanted [default: etcd-lock]
    #[arg(long, env = "REBOOTLOCK_STRATEGY", value_name = "STRATEGY")]
    pub strategy: Option<Strategy>,
    /// What the agent keeps on disk
    #[arg(long, value_name = "DIR", default_value = "/var/lib/rebootlock")]
    pub state_dir: PathBuf,
}

/// Looks, prints what it found, and returns the process's exit code: that of the outcome, or 1 if
/// something could not be found out.
pub fn run(common: &CommonArgs, args: &StatusArgs) -> u8 {
    let run = RunArgs {
        strategy: args.strategy,
        coordinator_file: PathBuf::new(),
        state_dir: args.state_dir.clone(),
        // Scripts that do something must not do it now.
        dry_run: true,
        once: true,
        output: args.output,
    };
    let options = match read(common, &run, |name| std::env::var_os(name)) {
        Ok(options) => options,
        Err(error) => return fail(&error.into(), exit::CONFIG),
    };
    if let Err(error) = logging::start(&options.settings.log) {
        return fail(&error.into(), exit::CONFIG);
    }
    let looking = async { Look::new(&options, args).await?.look().await };
    match command::look("everything was looked at", looking) {
        Ok(report) => {
            report.print(args.output);
            report.outcome.map_or(exit::FAILED, Outcome::exit_code)
        }
        Err(code) => code,
    }
}

/// One look at everything.
struct Look<'a> {
    options: &'a Options,
    args: &'a StatusArgs,
    machine: MachineId,
    boot: Boot,
    /// Where slots come from, if the lock is looked at.
    slots: Option<Slots>,
    lookout: Lookout,
    report: Report,
}

impl<'a> Look<'a> {
    async fn new(options: &'a Options, args: &'a StatusArgs) -> anyhow::Result<Self> {
        let settings = &options.settings;
        let machine = host::machine_id(&settings.machine.id_file)?;
        let boot = Boot::of(&settings.machine, &settings.reboot.method).await?;
        let with_store =
            matches!(settings.agent.strategy, Strategy::EtcdLock | Strategy::BestEffort);
        let slots = match with_store && !args.skip_lock {
            true => Some(Slots::open(&looked_at(settings)).context("cannot open the store")?),
            false => None,
        };
        let locks = slots.as_ref().and_then(Slots::locks).cloned();
        let metrics = Metrics::new(UnixTime::now());
        let windows = options.windows.clone();
        let lookout = Lookout::new(settings, windows, machine.clone(), locks, metrics);
        let mut report = Report { dry_run: true, ..Report::default() };
        report.slot.groups = settings.machine.groups.clone();
        Ok(Self { options, args, machine, boot, slots, lookout, report })
    }

    async fn look(mut self) -> anyhow::Result<Report> {
        let closed = self.closed().await;
        match closed {
            Ok(closed) => {
                (self.report.outcome, self.report.why) = (Some(closed.outcome), closed.why);
            }
            Err(error) => self.report.why = format!("{error:#}"),
        }
        Ok(self.report)
    }

    /// In the order in which the agent looks; the first that speaks against a reboot ends it.
    async fn closed(&mut self) -> anyhow::Result<Closed> {
        if self.options.settings.agent.strategy == Strategy::Off {
            let why = "switched off; this machine is never rebooted";
            return Ok(Closed::new(Outcome::NoAction, why));
        }
        if let Some(closed) = self.lookout.glance(Phase::PreLock) {
            return Ok(closed);
        }
        let requested = self.find_out_what_is_wanted().await?;
        let Want::Reboot { reason, .. } = self.report.want.clone() else {
            let closed = self.gates(Phase::Monitor, "").await;
            let nothing = || Closed::new(Outcome::NoAction, "no reboot is wanted");
            return Ok(closed.unwrap_or_else(nothing));
        };
        let settings = &self.options.settings;
        let memento = MementoFile::new(&self.args.state_dir).load();
        if !requested
            && let Some(closed) =
                agent::still_required(&memento, &self.boot, &reason, settings.reboot.max_attempts)
        {
            return Ok(closed);
        }
        if let Err(error) = Method::new(settings.reboot.method.clone()).check().await {
            return Ok(Closed::new(Outcome::HealthBlocked, error.to_string()));
        }
        if !self.args.skip_health
            && !self.args.skip_lock
            && let Some(closed) = self.lookout.others(Phase::PreLock).await?
        {
            return Ok(closed);
        }
        if let Some(closed) = self.gates(Phase::PreLock, &reason).await {
            return Ok(closed);
        }
        // A script may have taken its time.
        if let Some(closed) = self.lookout.glance(Phase::PreLock) {
            return Ok(closed);
        }
        let clear = self.lock().await?;
        match clear.outcome {
            // Looked at with the slot in hand, whatever the reboot's method.
            Outcome::Ready | Outcome::LockSkipped => Ok(in_the_way().await.unwrap_or(clear)),
            _ => Ok(clear),
        }
    }

    /// Asks whoever may want a reboot; whether an operator does.
    async fn find_out_what_is_wanted(&mut self) -> anyhow::Result<bool> {
        let mut tasks = Vec::new();
        let mut receivers = Vec::new();
        if DetectorSettings::update_engine_is_on(&self.options.settings.detectors) {
            let (want, receiver) = watch::channel(Want::Unknown);
            tasks.push(AbortOnDropHandle::new(tokio::spawn(update_engine::follow(want))));
            receivers.push(receiver);
        }
        if let Some(locks) = self.slots.as_ref().and_then(Slots::locks) {
            let best_effort = self.options.settings.agent.strategy == Strategy::BestEffort;
            let (want, receiver) =
                watch::channel(if best_effort { Want::Nothing } else { Want::Unknown });
            let follow = requests::follow(locks.clone(), self.machine.clone(), Arc::new(want));
            tasks.push(AbortOnDropHandle::new(tokio::spawn(follow)));
            receivers.push(receiver);
        }
        self.report.findings = Detectors::new(&self.options.settings.detectors).ask().await;
        let (detected, receiver) = watch::channel(self.report.findings.want());
        receivers.push(receiver);
        let mut wants = Wants::new(receivers);
        // They say nothing more; the others are heard whatever they say.
        let failed = usize::from(*detected.borrow() == Want::Unknown);
        let answered = async {
            while wants.now() == Want::Unknown && wants.silent() > failed {
                wants.changed().await;
            }
        };
        // Who has not answered by then is named below.
        let _ = tokio::time::timeout(ONCE_PATIENCE, answered).await;
        self.report.want = wants.now();
        match (&self.report.want, agent::failure(&self.report.findings)) {
            (Want::Unknown, Some(failed)) => Err(anyhow::anyhow!(failed)),
            (Want::Unknown, None) => Err(anyhow::anyhow!(
                "whether a reboot is wanted is not known: update-engine or the store does not \
                 answer; see --skip-lock"
            )),
            _ => Ok(wants.is_requested()),
        }
    }

    /// Asks the gates of a phase.
    async fn gates(&mut self, phase: Phase, reason: &str) -> Option<Closed> {
        if self.args.skip_health {
            return None;
        }
        let facts = Facts {
            reason: reason.to_owned(),
            dry_run: true,
            skip_health: self.args.skip_health,
            skip_lock: self.args.skip_lock,
            lock_enabled: self.slots.is_some(),
            ..agent::configured(self.options, &self.machine, &self.boot.whole_id())
        };
        let answers = self.lookout.ask(phase, &facts).await;
        let closed = crate::lookout::closed_by(&answers);
        self.report.note(phase, answers);
        closed
    }

    /// Whether a slot could be had.
    async fn lock(&mut self) -> anyhow::Result<Closed> {
        let ready = |why: &str| Closed::new(Outcome::Ready, why);
        let locks = match self.slots.clone() {
            None if self.args.skip_lock => {
                return Ok(Closed::new(Outcome::LockSkipped, "the lock was not looked at"));
            }
            None => return Ok(ready("everything is clear; this strategy needs no slot")),
            Some(Slots::Server(server)) => {
                let memento = MementoFile::new(&self.args.state_dir).load();
                return Ok(match memento.asked.map(|asked| asked.stage) {
                    Some(Stage::Granted) => {
                        ready("everything is clear, and this machine has its slot, as it remembers")
                    }
                    _ => Closed::new(
                        Outcome::LockSkipped,
                        format!(
                            "everything is clear; whether {} would give a slot only asking tells, \
                             and asking takes it",
                            server.location()
                        ),
                    ),
                });
            }
            Some(Slots::Store(locks)) => locks,
        };
        let groups = self.options.settings.machine.groups.clone();
        self.report.slot.holders = pass::holders(&locks, &groups).await;
        let claim = Claim::new(self.machine.clone(), groups, Via::Agent);
        match locks.would_acquire(&claim).await {
            Ok(Acquired::Granted) => Ok(ready("everything is clear, and a slot is free")),
            Ok(Acquired::Already(record)) => {
                let ours = record.is_some_and(|record| record.via == Some(Via::Agent));
                Ok(match ours {
                    true => ready("everything is clear, and this machine has its slot"),
                    false => Closed::new(
                        Outcome::LockUnavailable,
                        "this machine's slot is held by somebody else; rebootlockctl status says \
                         by whom",
                    ),
                })
            }
            Err(error) => match pass::refused(&locks, &error).await {
                Some(closed) => Ok(closed),
                None if error.is_out_of_reach()
                    && self.options.settings.agent.strategy == Strategy::BestEffort =>
                {
                    Ok(ready(
                        "everything is clear; the store does not answer, and best-effort \
                              does without",
                    ))
                }
                None => Err(anyhow::anyhow!("no slot: {error}")),
            },
        }
    }
}

/// What logind says against a reboot now, if anything. Not knowing is never a yes.
async fn in_the_way() -> Option<Closed> {
    let inhibitors = match Logind::connect().await {
        Ok(logind) => logind.inhibitors().await,
        Err(error) => Err(error),
    };
    let why = match inhibitors {
        Ok(inhibitors) if inhibitors.is_empty() => return None,
        Ok(inhibitors) => format!("held up: {}", held_up_by(&inhibitors)),
        Err(error) => format!("logind does not answer: {error}"),
    };
    Some(Closed::new(Outcome::HealthBlocked, why))
}

/// A database would be made by opening it. One that is not there yet is as good as an empty one.
fn looked_at(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    for endpoint in &mut settings.store.endpoints {
        if matches!(endpoint, Endpoint::Sqlite(path) if !path.exists()) {
            *endpoint = Endpoint::Memory;
        }
    }
    settings
}
