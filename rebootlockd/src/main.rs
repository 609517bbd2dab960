//! `rebootlockd`: flags, logging, signals and exit codes; everything else is in the library.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rebootlock::cli::{CommonArgs, exit};
use rebootlock::config::RebootMethod;
use rebootlock::record::UnixTime;
use rebootlock::{host, logging, notify};
use rebootlockd::agent::{Agent, Ending};
use rebootlockd::coordinator::Coordinator;
use rebootlockd::method::Boot;
use rebootlockd::metrics::{Export, Metrics};
use rebootlockd::options::{Cli, Command, Options, RunArgs, read};
use rebootlockd::slots::Slots;
use rebootlockd::{import, simulate, status, validate, version};
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
    };
    let options = match read(&cli.common, &run, |name| std::env::var_os(name)) {
        Ok(options) => options,
        Err(error) => return fail(&error.into(), exit::CONFIG),
    };
    if let Err(error) = logging::start(&options.settings.log) {
        return fail(&error.into(), exit::CONFIG);
    }
    // One thread: an agent waits nearly all of its life, and every thread costs memory.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), exit::FAILED),
    };
    let code = runtime.block_on(serve(&cli.common, &run, options));
    // A blocking call into a store that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    code.into()
}

async fn serve(common: &CommonArgs, run: &RunArgs, mut options: Options) -> ExitCode {
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
    loop {
        coordinator.set_strategy(options.settings.agent.strategy.as_str());
        let agent = match assemble(&options, coordinator, metrics.clone()).await {
            Ok(agent) => agent,
            Err(error) => return fail(&error, exit::CONFIG),
        };
        notify::ready();
        // A child, so that a reload ends this agent and not the daemon.
        let pause = stop.child_token();
        let mut reloaded = None;
        let mut running = std::pin::pin!(agent.run(pause.clone()));
        let ended = loop {
            tokio::select! {
                ended = &mut running => break Some(ended),
                () = &mut watchdog => {}
                _ = term.recv() => stop.cancel(),
                _ = int.recv() => stop.cancel(),
                _ = hup.recv() => match reread(common, run) {
                    Ok(new) => {
                        tracing::info!("configuration read again");
                        reloaded = Some(new);
                        pause.cancel();
                    }
                    Err(error) => tracing::error!(
                        error = format!("{error:#}"),
                        "the configuration is wrong; the old settings stay in force"
                    ),
                },
            }
            if pause.is_cancelled() {
                break tokio::time::timeout(STOP_TIMEOUT, &mut running).await.ok();
            }
        };
        match (ended, reloaded) {
            (Some(Ending { code: Some(code), report, .. }), _) => {
                if let Some(report) = report {
                    report.print(run.output);
                }
                notify::stopping();
                return code.into();
            }
            (Some(Ending { coordinator: taken, .. }), Some(new)) if !stop.is_cancelled() => {
                coordinator = taken;
                options = new;
                export.change(&options.settings.metrics).await;
                metrics.forget_now();
            }
            _ => {
                notify::stopping();
                tracing::info!("stopped");
                return ExitCode::SUCCESS;
            }
        }
    }
}

/// Reads the configuration again, and tries whether its store can be opened.
fn reread(common: &CommonArgs, run: &RunArgs) -> anyhow::Result<Options> {
    let options = read(common, run, |name| std::env::var_os(name))?;
    Slots::open(&options.settings)?;
    Ok(options)
}

async fn assemble(
    options: &Options,
    coordinator: Coordinator,
    metrics: Metrics,
) -> anyhow::Result<Agent> {
    let settings = &options.settings;
    let machine = host::machine_id(&settings.machine.id_file)?;
    let boot_id = host::boot_id(&settings.machine.boot_id_file)?;
    let boot_id = match settings.reboot.method {
        RebootMethod::SoftReboot => Boot::now(boot_id).await.whole_id(),
        _ => boot_id,
    };
    let slots = Slots::open(settings)?;
    Ok(Agent::new(options.clone(), slots, machine, boot_id, coordinator, metrics))
}
