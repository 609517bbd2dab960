//! `rebootlock-gateway take-over`: slots that are held through another server, held here.
//!
//! The other's documents are read and never written. What was taken over is marked, so that a slot
//! that has been given back here since then is not taken a second time.

mod airlock;

use clap::{Args, ValueEnum};
use rebootlock::cli::{CommonArgs, exit};
use rebootlock::config::Fragment;
use rebootlock::lock::LockManager;
use rebootlock::store::{self, Endpoint};

use crate::app::chain;

/// Flags of `take-over`.
#[derive(Debug, Clone, Args)]
pub struct TakeOverArgs {
    /// Whose documents they are
    #[arg(long, value_name = "PROGRAM")]
    pub from: Server,
    /// Where they are, if not in the store of this gateway
    #[arg(long, value_name = "URL")]
    pub source: Option<Endpoint>,
    /// Write what is shown without it
    #[arg(long)]
    pub yes: bool,
}

pub(crate) use self::airlock::remind;

/// Whose documents can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Server {
    /// airlock, in an etcd
    Airlock,
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
    let theirs = match &args.source {
        None => Ok(ours.clone()),
        Some(url) => {
            let mut elsewhere = common.clone();
            elsewhere.endpoint = vec![url.clone()];
            elsewhere
                .settings(Fragment::default())
                .map_err(|error| chain(&error))
                .and_then(|settings| store::open(&settings.store).map_err(|error| chain(&error)))
        }
    };
    let theirs = match theirs {
        Ok(theirs) => theirs,
        Err(error) => {
            eprintln!("error: {error}");
            return exit::CONFIG;
        }
    };
    let locks = LockManager::new(ours, settings.store.keys.clone());
    let done = match args.from {
        Server::Airlock => airlock::take_over(&locks, &theirs, args.yes).await,
    };
    match done {
        Ok(complete) => u8::from(!complete),
        Err(error) => {
            eprintln!("error: {error:#}");
            exit::FAILED
        }
    }
}
