//! `rebootlock-gateway`: flags, logging, signals and exit codes; everything else is in the library.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use rebootlock::cli::{CommonArgs, beside, exit};
use rebootlock::config::Settings;
use rebootlock::{host, logging, notify, store};
use rebootlock_gateway::app::App;
use rebootlock_gateway::options::{Cli, Command, HashArgs, Read, Source, arguments};
use rebootlock_gateway::takeover::{State, TakeOverArgs};
use rebootlock_gateway::tls::Tls;
use rebootlock_gateway::{auth, disruption, goahead, groups, import, listen, serve, takeover};
use tokio::signal::unix::{SignalKind, signal};

/// More wait for one of these.
const MAX_BLOCKING_THREADS: usize = 32;

/// It goes without saying after a while.
const RESIGN_WITHIN: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to be done about a terminal that takes no text.
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let source = match cli.command {
        Command::Serve(serve) => Source::Ours(cli.common, serve),
        Command::GoaheadCompat(args) if args.version => {
            println!("rebootlock-gateway {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Command::GoaheadCompat(args) => Source::Goahead(cli.common, args),
        Command::Hash(args) => return hash(&args),
        Command::Import(args) => return import::run(&args).into(),
        Command::TakeOver(args) => return take_over(&cli.common, &args),
        Command::Completions(args) => {
            return wrote(beside::print_completions(Cli::command(), &args));
        }
        Command::Manual(args) => return wrote(beside::write_manual(Cli::command(), &args)),
    };
    let read = match source.read() {
        Ok(read) => read,
        Err(error) => return fail(&error, exit::CONFIG),
    };
    if let Err(error) = logging::start(&read.settings.log) {
        return fail(&error.into(), exit::CONFIG);
    }
    say(&read.notes);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // Calls into SQLite and password checks wait for each other anyway.
    runtime.enable_all().max_blocking_threads(MAX_BLOCKING_THREADS);
    if let Some(workers) = host::worker_threads() {
        runtime.worker_threads(workers);
    }
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), exit::FAILED),
    };
    let code = runtime.block_on(run(&source, read));
    // A blocking call into a store that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

fn take_over(common: &CommonArgs, args: &TakeOverArgs) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(takeover::run(common, args)).into(),
        Err(error) => fail(&error.into(), exit::FAILED),
    }
}

fn wrote(written: std::io::Result<()>) -> ExitCode {
    written.map_or_else(|error| fail(&error.into(), exit::FAILED), |()| ExitCode::SUCCESS)
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    code.into()
}

/// What is different here from what the files say to the program that they were written for.
fn say(notes: &[String]) {
    for note in notes {
        tracing::info!(target: "rebootlock_gateway::import", "{note}");
    }
}

/// Holds here what is held through goahead, before anybody is served.
async fn take_over_state(app: &App, settings: &Settings, folder: &Path) -> Result<(), ExitCode> {
    let Some(clusters) = &settings.gateway.goahead else { return Ok(()) };
    let state = State::read(folder, clusters).map_err(|error| fail(&error, exit::CONFIG))?;
    if state.is_empty() {
        tracing::info!(state = %folder.display(), "no state of goahead's: nobody holds a slot by it");
    }
    let mut say =
        |line: String| tracing::warn!(state = %folder.display(), "goahead's state: {line}");
    let taken = state.take_over(&app.live().locks, settings, true, &mut say).await;
    taken.map_err(|error| fail(&error.context("cannot take over goahead's state"), exit::FAILED))
}

async fn run(source: &Source, read: Read) -> ExitCode {
    let Read { settings, state, .. } = read;
    // First of all: systemd's sockets are known by their numbers.
    let listeners = match listen::listen(&settings.gateway) {
        Ok(listeners) => listeners,
        // Trying again does not help.
        Err(error) if error.is_configured() => return fail(&error.into(), exit::CONFIG),
        Err(error) => return fail(&error.into(), exit::FAILED),
    };
    let (app, tls) = match assemble(&settings) {
        Ok(assembled) => assembled,
        Err(error) => return fail(&error, exit::CONFIG),
    };
    if let Some(folder) = state
        && let Err(code) = take_over_state(&app, &settings, &folder).await
    {
        return code;
    }
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
    for address in listeners.iter().filter_map(|listener| listener.local_addr().ok()) {
        tracing::info!(%address, tls = tls.is_some(), store = app.live().locks.store().location(), "listening");
    }
    let mut serving = tokio::spawn(serve::serve(app.clone(), listeners, tls.clone()));
    tokio::spawn(groups::watch(app.clone()));
    let keeping = tokio::spawn(disruption::keep(app.clone()));
    let caretaker = tokio::spawn(goahead::watch(app.clone()));
    if let Some(tls) = tls.clone() {
        tokio::spawn(async move { tls.follow().await });
    }
    let mut slots = see_to_slots(&app);
    let mut watchdog = std::pin::pin!(notify::feed_watchdog());
    notify::ready();
    loop {
        tokio::select! {
            served = &mut serving => match served {
                Ok(()) => break,
                // It was not told to stop: somebody has to start it again.
                Err(error) => return fail(&error.into(), exit::FAILED),
            },
            () = &mut watchdog => {}
            _ = term.recv() => stop(&app),
            _ = int.recv() => stop(&app),
            _ = hup.recv() => match reload(source, &app, tls.as_deref(), &settings) {
                Ok(()) => {
                    tracing::info!("configuration read again");
                    slots.abort();
                    slots = see_to_slots(&app);
                }
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "the configuration is wrong; the old settings stay in force"
                ),
            },
        }
    }
    // Another gateway goes on with it at once, if this one says that it stops.
    let _ = tokio::time::timeout(RESIGN_WITHIN, keeping).await;
    app.background.close();
    let rest = async { tokio::join!(caretaker, app.background.wait()) };
    if tokio::time::timeout(app.live().settings.drain, rest).await.is_err() {
        tracing::warn!("actions that still run are ended");
    }
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

fn assemble(settings: &Settings) -> anyhow::Result<(Arc<App>, Option<Arc<Tls>>)> {
    let tls = settings.gateway.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
    let store = store::open(&settings.store)?;
    Ok((App::new(settings, store)?, tls))
}

fn see_to_slots(app: &Arc<App>) -> tokio::task::JoinHandle<()> {
    let live = app.live();
    tokio::spawn(async move { live.see_to_all_slots().await })
}

fn stop(app: &App) {
    notify::stopping();
    tracing::info!("stopping: requests under way are answered, no new connections are taken");
    app.stop.cancel();
}

/// Reads the configuration again. What cannot change without a restart is said.
fn reload(
    source: &Source,
    app: &App,
    tls: Option<&Tls>,
    began_with: &Settings,
) -> anyhow::Result<()> {
    let Read { settings, notes, .. } = source.read()?;
    say(&notes);
    // All of it, or nothing.
    let live = app.prepare(&settings)?;
    match (tls, settings.gateway.tls.clone()) {
        (Some(tls), Some(wanted)) => tls.reload(wanted)?,
        (None, None) => {}
        _ => anyhow::bail!("TLS is switched on and off by a restart only"),
    }
    app.replace(live);
    let fixed = |settings: &Settings| {
        (settings.store.clone(), settings.gateway.listen.clone(), settings.gateway.max_connections)
    };
    if fixed(&settings) != fixed(began_with) {
        tracing::warn!(
            "[store], gateway.listen and gateway.max_connections change with a restart only"
        );
    }
    Ok(())
}

/// Prints what the file with credentials needs.
fn hash(args: &HashArgs) -> ExitCode {
    if args.token {
        let (token, line) = auth::new_token();
        eprintln!("The token, for the client; it is shown this once:");
        eprintln!("{token}");
        println!("{line}");
        return ExitCode::SUCCESS;
    }
    match password().and_then(|password| auth::hash(&password).map_err(anyhow::Error::msg)) {
        Ok(hash) => {
            println!("password_hash = \"{hash}\"");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, exit::FAILED),
    }
}

/// The first line of stdin: a password among the arguments would be there for all to see.
fn password() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(4096).read_to_string(&mut text).context("cannot read the password")?;
    let password = text.lines().next().unwrap_or_default();
    anyhow::ensure!(!password.is_empty(), "the password, which is read from stdin, is empty");
    Ok(password.to_owned())
}
