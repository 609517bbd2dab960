//! `rebootlockd`: flags, logging, signals and exit codes; everything else is in the library.

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use rebootlock::cli::{CommonArgs, beside, exit};
use rebootlock::id::MachineId;
use rebootlock::record::UnixTime;
use rebootlock::{host, logging, notify};
use rebootlockd::agent::{Agent, Ending};
use rebootlockd::command::{self, fail};
use rebootlockd::coordinator::Coordinator;
use rebootlockd::memento::MementoFile;
use rebootlockd::method::{Boot, BootError};
use rebootlockd::metrics::{Export, Metrics};
use rebootlockd::options::{Cli, Command, Options, RunArgs, read};
use rebootlockd::slots::Slots;
use rebootlockd::{import, simulate, status, unit, validate, version};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Longest time given to the agent to leave its queue when it is told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to be done about a terminal that takes no text.
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let run = match cli.command {
        Command::Run(run) => run,
        Command::Status(args) => return status::run(&cli.common, &args).into(),
        Command::Simulate(args) => return simulate::run(&cli.common, &args).into(),
        Command::ValidateConfig(args) => {
            return validate::run(&cli.common, &args, |name| std::env::var_os(name)).into();
        }
        Command::Import(args) => return import::run(&args).into(),
        Command::Version(args) => return version::run(&args).into(),
        Command::Completions(args) => {
            return wrote(beside::print_completions(Cli::command(), &args)).into();
        }
        Command::Manual(args) => return wrote(beside::write_manual(Cli::command(), &args)).into(),
    };
    let options = match read(&cli.common, &run, |name| std::env::var_os(name)) {
        Ok(options) => options,
        Err(error) => return fail(&error.into(), exit::CONFIG).into(),
    };
    if let Err(error) = logging::start(&options.settings.log) {
        return fail(&error.into(), exit::CONFIG).into();
    }
    let runtime = match command::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), exit::FAILED).into(),
    };
    let code = runtime.block_on(serve(&cli.common, &run, options));
    // A blocking call into a store that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code.into()
}

fn wrote(written: std::io::Result<()>) -> u8 {
    written.map_or_else(|error| fail(&error.into(), exit::FAILED), |()| 0)
}

async fn serve(common: &CommonArgs, run: &RunArgs, mut options: Options) -> u8 {
    let strategy = options.settings.agent.strategy.as_str();
    let metrics = Metrics::new(UnixTime::now());
    let mut export = Export::start(metrics.clone(), &options.settings.metrics);
    let mut coordinator = match Coordinator::take(&run.coordinator_file, strategy) {
        Ok(coordinator) => coordinator,
        Err(error) => return fail(&error.into(), exit::FAILED),
    };
    let stop = CancellationToken::new();
    let (mut term, mut int, mut hup) = match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) {
        (Ok(term), Ok(int), Ok(hup)) => (term, int, hup),
        (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
            return fail(&error.into(), exit::FAILED);
        }
    };
    let mut watchdog = std::pin::pin!(notify::feed_watchdog());
    let mut parts = match Parts::gather(&options).await {
        Ok(parts) => parts,
        // systemd would not start it again after a bad configuration.
        Err(error) if matches!(error.downcast_ref(), Some(BootError::Uncounted)) => {
            return fail(&error, exit::FAILED);
        }
        Err(error) => return fail(&error, exit::CONFIG),
    };
    // One for all agents of this process: what cannot be written is remembered by it.
    let memento = MementoFile::new(&run.state_dir);
    loop {
        coordinator.set_strategy(options.settings.agent.strategy.as_str());
        let agent = parts.assemble(&options, memento.clone(), coordinator, metrics.clone());
        notify::ready();
        // A child, so that a reload ends this agent and not the daemon.
        let pause = stop.child_token();
        let mut reloaded = None;
        // Beside the agent: systemd may take its time to say how often it has restarted itself.
        let mut reading = std::pin::pin!(None);
        let mut running = std::pin::pin!(agent.run(pause.clone()));
        let ended = loop {
            tokio::select! {
                ended = &mut running => break Some(ended),
                () = &mut watchdog => {}
                _ = term.recv() => stop.cancel(),
                _ = int.recv() => stop.cancel(),
                _ = hup.recv() => reading.set(Some(reread(common, run))),
                new = read_again(reading.as_mut()) => {
                    reading.set(None);
                    match new {
                        Ok(new) => {
                            tracing::info!("configuration read again");
                            reloaded = Some(new);
                            pause.cancel();
                        }
                        Err(error) => tracing::error!(
                            error = format!("{error:#}"),
                            "the configuration is wrong; the old settings stay in force"
                        ),
                    }
                }
            }
            // A reload takes the time that leaving the queue of a store takes that does not answer.
            if stop.is_cancelled() {
                break tokio::time::timeout(STOP_TIMEOUT, &mut running).await.ok();
            }
        };
        // The agent is gone; what it was waiting for must be too.
        unit::all_told().await;
        match (ended, reloaded) {
            (Some(Ending { code: Some(code), report, .. }), _) => {
                if let Some(report) = report {
                    report.print(run.output);
                }
                notify::stopping();
                return code;
            }
            (Some(Ending { coordinator: taken, .. }), Some(new)) if !stop.is_cancelled() => {
                coordinator = taken;
                (options, parts) = new;
                export.change(&options.settings.metrics).await;
                metrics.forget_now();
            }
            _ => {
                notify::stopping();
                tracing::info!("stopped");
                return 0;
            }
        }
    }
}

/// Reads the configuration again, and tries everything of it that could end the daemon.
async fn reread(common: &CommonArgs, run: &RunArgs) -> anyhow::Result<(Options, Parts)> {
    let options = read(common, run, |name| std::env::var_os(name))?;
    let parts = Parts::gather(&options).await?;
    Ok((options, parts))
}

/// What that comes to once it is under way.
async fn read_again<T>(mut reading: Pin<&mut Option<impl Future<Output = T>>>) -> T {
    match reading.as_mut().as_pin_mut() {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

/// What an agent is made of besides its settings: what can be missing.
struct Parts {
    machine: MachineId,
    boot: Boot,
    slots: Slots,
}

impl Parts {
    async fn gather(options: &Options) -> anyhow::Result<Self> {
        let settings = &options.settings;
        let machine = host::machine_id(&settings.machine.id_file)?;
        let boot = Boot::of(&settings.machine, &settings.reboot.method).await?;
        let slots = Slots::open(settings)?;
        Ok(Self { machine, boot, slots })
    }

    fn assemble(
        &self,
        options: &Options,
        memento: MementoFile,
        coordinator: Coordinator,
        metrics: Metrics,
    ) -> Agent {
        let (options, slots) = (options.clone(), self.slots.clone());
        let (machine, boot) = (self.machine.clone(), self.boot.clone());
        Agent::new(options, slots, machine, boot, memento, coordinator, metrics)
    }
}
