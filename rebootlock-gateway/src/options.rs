//! Flags, variables and files become what the gateway needs.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use rebootlock::cli::CommonArgs;
use rebootlock::cli::beside::{CompletionsArgs, ManualArgs};
use rebootlock::config::{Fragment, Settings};
use rebootlock::store::Endpoint;

use crate::import::{self, ImportArgs, Peer};
use crate::takeover::TakeOverArgs;

const EXAMPLES: &str = "\
Examples:
  rebootlock-gateway serve --endpoint sqlite:/var/lib/rebootlock/lock.db
      a whole fleet on one machine's file, reached through a proxy on this machine
  rebootlock-gateway serve --listen 10.0.0.5:9090 --plain-http --endpoint http://10.0.0.7:2379
      one of several gateways on an etcd, in a network without strangers
  rebootlock-gateway hash
      the hash of a password, for the file with credentials

Zincati's base_url ends in a slash: base_url = \"http://10.0.0.5:9090/\"

Exit codes:
  0 done or stopped, 1 failed, 2 bad configuration, 64 wrong command line";

const SERVES: &str = "\
What is served, all on the same lock:
  /v1/pre-reboot, /v1/steady-state    FleetLock clients: Zincati, and agents without a store
  /v1/request/…, /v1/inquire/…        goahead's clients, with [[gateway.goahead.cluster]]
  /api/v1/request                     disruption-manager's clients
  /                                   the page for people
  /api/v1/…                           the same for programs: what is, and what operators do
  /api/v1/store/…                     the store, for agents and rebootlockctl: gateway+http(s)://
  /healthz, /readyz, /metrics         for whoever watches the service

Other machines need TLS, or --plain-http. Who may look, act and ask is in the file with
credentials. SIGHUP reads the configuration again, SIGTERM answers what is under way and stops.

Exit codes:
  0 stopped, 1 failed (the port is taken), 2 bad configuration, 64 wrong command line";

const TAKES_OVER: &str = "\
Stop the other server first. Its documents are read and never written; what was taken over is not
taken over again, unless they have changed since.

Exit codes:
  0 all of it is held here, or would be with --yes, 1 failed (the store does not answer),
  2 bad configuration, or a folder or file of goahead's that cannot be read: nothing was written,
  8 all but what was named, which somebody has to see to, 64 wrong command line";

/// The HTTP service of the rebootlock fleet reboot lock: slots for clients of FleetLock, goahead and
/// disruption-manager, a page and an API for people, the store for agents that cannot reach it.
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
    /// Serve machines that ask for slots, people, and agents whose store this is
    #[command(after_help = SERVES)]
    Serve(ServeArgs),
    /// Serve as goahead does, from its own files: -config FILE is its config.yml [default: ./config.yml]
    GoaheadCompat(GoaheadArgs),
    /// Print the configuration of another server as ours
    Import(ImportArgs),
    /// Show the slots that are held through another server, and hold them here with --yes
    #[command(after_help = TAKES_OVER)]
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

/// Flags of `goahead-compat`, which may be written with one hyphen.
#[derive(Debug, Clone, Default, Args)]
pub struct GoaheadArgs {
    /// A rebootlock.toml with what goahead's files have no words for, such as time limits; it counts
    /// where both say something
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,

    /// Say more
    #[arg(long)]
    pub debug: bool,

    /// Print the version and stop
    #[arg(long)]
    pub version: bool,
}

/// Flags of `hash`.
#[derive(Debug, Clone, Default, Args)]
pub struct HashArgs {
    /// Make a token instead of hashing a password
    #[arg(long)]
    pub token: bool,
}

/// goahead's flags, which begin with one hyphen, as ours.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const FLAGS: [&str; 5] = ["config", "settings", "debug", "version", "help"];
    let mut arguments: Vec<OsString> = given.into_iter().collect();
    if arguments.get(1).is_some_and(|command| command == "goahead-compat") {
        for argument in &mut arguments[2..] {
            let text = argument.to_string_lossy();
            let name = text.strip_prefix('-').unwrap_or_default().split('=').next();
            if name.is_some_and(|name| FLAGS.contains(&name)) {
                let longer: OsString = ["-".as_ref(), argument.as_os_str()].into_iter().collect();
                *argument = longer;
            }
        }
    }
    arguments
}

/// Where the settings come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Our files, variables and flags.
    Ours(CommonArgs, ServeArgs),
    /// goahead's files, with our variables and flags on top.
    Goahead(CommonArgs, GoaheadArgs),
}

impl Source {
    /// Reads all of it.
    ///
    /// # Errors
    /// Which file or setting is wrong.
    pub fn read(&self) -> anyhow::Result<Read> {
        match self {
            Self::Ours(common, serve) => {
                let settings = read(common, serve)?;
                Ok(Read { settings, notes: Vec::new(), state: None })
            }
            Self::Goahead(common, goahead) => read_goahead(common, goahead),
        }
    }
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// What the gateway needs.
    pub settings: Settings,
    /// What is different here from what the files say to their own program.
    pub notes: Vec<String>,
    /// Where goahead has written who holds slots, if its files are served.
    pub state: Option<PathBuf>,
}

fn read_goahead(common: &CommonArgs, flags: &GoaheadArgs) -> anyhow::Result<Read> {
    let path = common.config.clone().unwrap_or_else(|| "config.yml".into());
    let text = std::fs::read_to_string(&path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let ours = import::convert(Peer::Goahead, &[(path.clone(), text)])?;
    // What is not told would be ours to choose: the store, the address, whether there is TLS.
    anyhow::ensure!(
        ours.has_main,
        "{}: none of the settings of goahead's config.yml is here (listen_port, ssl_certificate_file, \
         include_dir, …): it is empty, or a file with clusters, which belongs into the include_dir",
        path.display()
    );
    let fragment = Fragment::parse(Path::new("what comes of it"), &ours.text)?;
    let fragment = match &flags.settings {
        None => fragment,
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            fragment.overlaid(Fragment::parse(path, &text)?)
        }
    };
    let verbose = common.verbose + u8::from(flags.debug);
    let common = CommonArgs { verbose, ..common.clone() };
    let mut settings = Settings::decide(common.over(fragment, Fragment::default()))?;
    if let Some(goahead) = &mut settings.gateway.goahead {
        // As goahead's own commands.
        goahead.working_dir = goahead.working_dir.take().or_else(|| std::env::current_dir().ok());
    }
    if let [Endpoint::Sqlite(file)] = &settings.store.endpoints[..]
        && let Some(folder) = file.parent()
    {
        make_folder(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // goahead's own default.
    let state = ours.state.unwrap_or_else(|| std::env::temp_dir().join("goahead"));
    Ok(Read { settings, notes: ours.notes, state: Some(state) })
}

/// goahead makes the folder of its state if there is none; ours is nobody else's business.
fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn read(common: &CommonArgs, serve: &ServeArgs) -> anyhow::Result<Settings> {
    let mut fragment = common.fragment_over(Fragment::default())?;
    if !serve.listen.is_empty() {
        fragment.gateway.listen = Some(serve.listen.clone());
        fragment.places.forget("gateway.listen");
    }
    if serve.plain_http {
        fragment.gateway.plain_http = Some(true);
    }
    Ok(Settings::decide(fragment)?)
}
