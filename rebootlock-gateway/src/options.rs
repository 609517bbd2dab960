//! Flags, variables and files become what the gateway needs.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};
use rebootlock::cli::CommonArgs;
use rebootlock::cli::beside::{CompletionsArgs, ManualArgs};
use rebootlock::config::{ConfigError, Fragment, Settings};

use crate::import::ImportArgs;
use crate::takeover::TakeOverArgs;

const EXAMPLES: &str = "\
Examples:
  rebootlock-gateway serve --endpoint sqlite:/var/lib/rebootlock/lock.db
      a whole fleet on one machine's file, reached through a proxy on this machine
  rebootlock-gateway serve --listen 10.0.0.5:9090 --plain-http --endpoint http://10.0.0.7:2379
      one of several gateways on an etcd, in a network without strangers
  rebootlock-gateway hash
      the hash of a password, for the file with credentials

Zincati's base_url ends in a slash: base_url = \"http://10.0.0.5:9090/\"";

/// The HTTP service of the rebootlock fleet reboot lock.
#[derive(Debug, Parser)]
#[command(name = "rebootlock-gateway", version, about, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every program.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What the gateway can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve FleetLock clients such as Zincati
    Serve(ServeArgs),
    /// Print the configuration of another server as ours
    Import(ImportArgs),
    /// Show the slots that are held through another server, and hold them here with --yes
    TakeOver(TakeOverArgs),
    /// Print what the file with credentials needs for a password (read from stdin) or a new token
    Hash(HashArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages of this program into a folder
    #[command(hide = true)]
    Manual(ManualArgs),
}

/// Flags of `serve`.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// Where to listen; repeat it or separate several by commas. Port 0 takes a free one
    /// [default: 127.0.0.1:9090]
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "REBOOTLOCK_GATEWAY_LISTEN",
        value_delimiter = ','
    )]
    pub listen: Vec<SocketAddr>,

    /// Serve other machines without TLS
    #[arg(long)]
    pub plain_http: bool,
}

/// Flags of `hash`.
#[derive(Debug, Clone, Default, Args)]
pub struct HashArgs {
    /// Make a token instead of hashing a password
    #[arg(long)]
    pub token: bool,
}

/// Reads files and variables and lays the flags on top.
///
/// # Errors
/// [`ConfigError`] says which file or setting is wrong.
pub fn read(common: &CommonArgs, serve: &ServeArgs) -> Result<Settings, ConfigError> {
    let mut fragment = common.fragment_over(Fragment::default())?;
    if !serve.listen.is_empty() {
        fragment.gateway.listen = Some(serve.listen.clone());
    }
    if serve.plain_http {
        fragment.gateway.plain_http = Some(true);
    }
    Settings::decide(fragment)
}
