//! `rebootlock-gateway take-over`: slots that are held through another server, held here.
//!
//! The other's documents are read and never written. What was taken over is marked, so that a slot
//! that has been given back here since then is not taken a second time.

mod airlock;
mod elsewhere;
mod goahead;
mod slots;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use rebootlock::cli::{CommonArgs, exit};
use rebootlock::config::{Fragment, Settings};
use rebootlock::id::MachineId;
use rebootlock::lock::LockManager;
use rebootlock::store::{self, Endpoint, SharedStore};

pub use self::elsewhere::{Elsewhere, Held};
pub use self::goahead::State;
use crate::app::chain;

/// Flags of `take-over`.
#[derive(Debug, Clone, Args)]
pub struct TakeOverArgs {
    /// Whose documents they are
    #[arg(long, value_name = "PROGRAM")]
    pub from: Server,
    /// airlock: where they are, if not in the store of this gateway
    #[arg(long, value_name = "URL")]
    pub source: Option<Endpoint>,
    /// goahead: the folder where they are, its save_state_dir
    #[arg(long, value_name = "FOLDER", required_if_eq("from", "goahead"))]
    pub state_dir: Option<PathBuf>,
    /// Write what is shown without it
    #[arg(long)]
    pub yes: bool,
}

/// Whose documents can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Server {
    /// airlock, in an etcd
    Airlock,
    /// goahead, in a folder; the clusters are those of [gateway.goahead]
    Goahead,
}

/// Shows what would be written, or writes it. Returns the process's exit code.
pub async fn run(common: &CommonArgs, args: &TakeOverArgs) -> u8 {
    let settings = match common.settings(Fragment::default()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return exit::CONFIG;
        }
    };
    let ours = match store::open(&settings.store) {
        Ok(ours) => ours,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return exit::CONFIG;
        }
    };
    let locks = LockManager::new(ours.clone(), settings.store.keys.clone());
    // A reader that has gone must not stop it half way.
    let mut say = |line: String| {
        let _ = writeln!(std::io::stdout(), "{line}");
    };
    let done = match args.from {
        Server::Airlock => match theirs(common, args, ours) {
            Ok(theirs) => airlock::take_over(&locks, &theirs, args.yes, &mut say).await,
            Err(error) => {
                eprintln!("error: {error}");
                return exit::CONFIG;
            }
        },
        Server::Goahead => {
            let folder = args.state_dir.clone().unwrap_or_default();
            let Some(clusters) = &settings.gateway.goahead else {
                eprintln!("error: no cluster is configured here; see rebootlock-gateway import");
                return exit::CONFIG;
            };
            // None would be taken for one in which nobody holds a slot.
            let read = std::fs::read_dir(&folder).map_err(anyhow::Error::from);
            let read = read.and_then(|_| State::read(&folder, clusters));
            match read.with_context(|| format!("cannot take over from {}", folder.display())) {
                Ok(state) => {
                    if state.is_empty() {
                        eprintln!(
                            "{}: there is no state of a cluster that is served here, so nobody holds a \
                             slot by it; is it goahead's save_state_dir?",
                            folder.display()
                        );
                    }
                    let taken = state.take_over(&locks, &settings, args.yes, &mut say).await;
                    if !args.yes {
                        eprintln!(
                            "nothing was written; stop goahead, and run this again with --yes"
                        );
                    }
                    taken.map(|()| state.is_whole())
                }
                Err(error) => {
                    eprintln!("error: {error:#}");
                    return exit::CONFIG;
                }
            }
        }
    };
    match done {
        Ok(true) => 0,
        Ok(false) => exit::INCOMPLETE,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit::FAILED
        }
    }
}

/// Where airlock's documents are.
fn theirs(
    common: &CommonArgs,
    args: &TakeOverArgs,
    ours: SharedStore,
) -> Result<SharedStore, String> {
    let Some(url) = &args.source else { return Ok(ours) };
    let elsewhere = CommonArgs { endpoint: vec![url.clone()], ..common.clone() };
    let settings: Settings =
        elsewhere.settings(Fragment::default()).map_err(|error| chain(&error))?;
    store::open(&settings.store).map_err(|error| chain(&error))
}

/// An id as people may read it, whatever it is.
fn shown(id: &str) -> String {
    const MOST_CHARS: usize = 64;
    if MachineId::new(id).is_ok() {
        return id.to_owned();
    }
    let more = if id.chars().count() > MOST_CHARS { "…" } else { "" };
    format!("{:?}{more}", id.chars().take(MOST_CHARS).collect::<String>())
}
