//! Flags that all programs take, and the exit codes they share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::config::{
    ConfigError, Fragment, LogFormat, LogFragment, MachineFragment, Secs, Settings, StoreFragment,
    read_files,
};
use crate::id::Group;
use crate::store::Endpoint;

pub mod beside;

/// Exit codes that scripts can rely on.
pub mod exit {
    /// It failed.
    pub const FAILED: u8 = 1;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 2;
    /// A gate is closed. A window, an inhibitor and a cooldown count as gates.
    pub const GATE_CLOSED: u8 = 3;
    /// No slot is free.
    pub const NO_SLOT: u8 = 4;
    /// Somebody paused it.
    pub const PAUSED: u8 = 5;
    /// A detector failed.
    pub const DETECTOR_FAILED: u8 = 6;
    /// The machine holds no slot.
    pub const NOT_HOLDING: u8 = 7;
    /// Not all could be done. What is left was named, the rest is done.
    pub const INCOMPLETE: u8 = 8;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
}

/// Flags of every program. Each has a variable of its own; a flag wins over its variable, and both
/// over the files.
#[derive(Debug, Clone, Default, Args)]
pub struct CommonArgs {
    /// Configuration file [default: /etc/rebootlock/rebootlock.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_CONFIG", global = true)]
    pub config: Option<PathBuf>,

    /// Where the lock lives: http(s)://HOST:2379, gateway+http(s)://HOST:PORT, sqlite:PATH or
    /// memory:, and for rebootlockd alone fleetlock+http(s)://HOST:PORT/, which gives slots and
    /// tells nothing more; repeat it or separate several by commas [default: http://127.0.0.1:2379]
    #[arg(
        long,
        value_name = "URL",
        env = "REBOOTLOCK_ENDPOINT",
        value_delimiter = ',',
        global = true
    )]
    pub endpoint: Vec<Endpoint>,

    /// Group of machines that share a limit; repeat it for a machine in several [default: default]
    #[arg(
        long,
        value_name = "NAME",
        env = "REBOOTLOCK_GROUP",
        value_delimiter = ',',
        global = true
    )]
    pub group: Vec<Group>,

    /// Above all keys in the store [default: coreos.com/updateengine/rebootlock]
    #[arg(
        long,
        value_name = "PREFIX",
        env = "REBOOTLOCK_PREFIX",
        global = true,
        hide_short_help = true
    )]
    pub prefix: Option<crate::keys::Keyspace>,

    /// Certificate authorities to trust for etcd or a gateway, PEM; a client certificate is not needed with it
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_ETCD_CAFILE", global = true)]
    pub etcd_cafile: Option<PathBuf>,

    /// Our client certificate for etcd or a gateway, PEM
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_ETCD_CERTFILE", global = true)]
    pub etcd_certfile: Option<PathBuf>,

    /// The key of the client certificate, PEM
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_ETCD_KEYFILE", global = true)]
    pub etcd_keyfile: Option<PathBuf>,

    /// User name for etcd or a gateway
    #[arg(long, value_name = "NAME", env = "REBOOTLOCK_ETCD_USERNAME", global = true)]
    pub etcd_username: Option<String>,

    /// File whose first line is the password for etcd or a gateway
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_ETCD_PASSWORD_FILE", global = true)]
    pub etcd_password_file: Option<PathBuf>,

    /// File whose first line is a token that a gateway knows, instead of a user and a password
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_TOKEN_FILE", global = true)]
    pub token_file: Option<PathBuf>,

    /// Longest time one request to the store may take, in seconds [default: 5]
    #[arg(
        long,
        value_name = "SECONDS",
        env = "REBOOTLOCK_TIMEOUT_SECS",
        global = true,
        hide_short_help = true
    )]
    pub timeout_secs: Option<Secs<1, 3_600>>,

    /// File with the id of this machine [default: /etc/machine-id]
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_MACHINE_ID_FILE", global = true)]
    pub machine_id_file: Option<PathBuf>,

    /// File with the id of this boot [default: /proc/sys/kernel/random/boot_id]
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_BOOT_ID_FILE", global = true)]
    pub boot_id_file: Option<PathBuf>,

    /// How messages are written [default: text]
    #[arg(long, value_name = "FORMAT", env = "REBOOTLOCK_LOG_FORMAT", global = true)]
    pub log_format: Option<LogFormat>,

    /// Say more; -vv says everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

impl CommonArgs {
    /// The layer that flags and their variables make.
    fn fragment(&self) -> Fragment {
        let given = |endpoints: &Vec<Endpoint>| (!endpoints.is_empty()).then(|| endpoints.clone());
        Fragment {
            store: StoreFragment {
                endpoints: given(&self.endpoint),
                ca_file: self.etcd_cafile.clone(),
                cert_file: self.etcd_certfile.clone(),
                key_file: self.etcd_keyfile.clone(),
                username: self.etcd_username.clone(),
                password_file: self.etcd_password_file.clone(),
                token_file: self.token_file.clone(),
                password: None,
                prefix: self.prefix.clone(),
                timeout_secs: self.timeout_secs,
            },
            machine: MachineFragment {
                id_file: self.machine_id_file.clone(),
                boot_id_file: self.boot_id_file.clone(),
                groups: (!self.group.is_empty()).then(|| self.group.clone()),
            },
            log: LogFragment {
                format: self.log_format,
                level: match self.verbose {
                    0 => None,
                    1 => Some("rebootlock=debug,rebootlockd=debug,rebootlockctl=debug,info".into()),
                    _ => Some("trace".into()),
                },
            },
            ..Fragment::default()
        }
    }

    /// Files, then `legacy` (locksmith's variables), then our variables and flags.
    ///
    /// # Errors
    /// [`ConfigError`] says which file or setting is wrong.
    pub fn fragment_over(&self, legacy: Fragment) -> Result<Fragment, ConfigError> {
        Ok(self.over(read_files(self.config.as_deref())?, legacy))
    }

    /// [`CommonArgs::fragment_over`], with files that were read already.
    pub fn over(&self, files: Fragment, legacy: Fragment) -> Fragment {
        files.overlaid(legacy).overlaid(self.fragment())
    }

    /// [`CommonArgs::fragment_over`], decided.
    ///
    /// # Errors
    /// [`ConfigError`] says which file or setting is wrong.
    pub fn settings(&self, legacy: Fragment) -> Result<Settings, ConfigError> {
        Settings::decide(self.fragment_over(legacy)?)
    }
}

/// What locksmith's variables say: `<prefix>_ENDPOINT` and so on, with `LOCKSMITHCTL` or
/// `LOCKSMITHD` as the prefix. `variable` looks one up.
///
/// # Errors
/// [`ConfigError`] if one cannot be understood.
pub fn locksmith_fragment(
    prefix: &'static str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Fragment, ConfigError> {
    let text = |name: &str| {
        variable(&format!("{prefix}_{name}"))
            .map(|value| value.to_string_lossy().into_owned())
            .filter(|value| !value.is_empty())
    };
    let invalid = |problem: String| ConfigError::of_setting(prefix, problem);
    let endpoints = text("ENDPOINT")
        .map(|list| list.split(',').map(str::parse).collect::<Result<Vec<Endpoint>, _>>())
        .transpose()
        .map_err(|error| invalid(format!("_ENDPOINT: {error}")))?;
    let group = text("GROUP")
        .map(Group::new)
        .transpose()
        .map_err(|error| invalid(format!("_GROUP: {error}")))?;
    Ok(Fragment {
        store: StoreFragment {
            endpoints,
            ca_file: text("ETCD_CAFILE").map(PathBuf::from),
            cert_file: text("ETCD_CERTFILE").map(PathBuf::from),
            key_file: text("ETCD_KEYFILE").map(PathBuf::from),
            username: text("ETCD_USERNAME"),
            password: text("ETCD_PASSWORD"),
            ..StoreFragment::default()
        },
        machine: MachineFragment { groups: group.map(|group| vec![group]), ..Default::default() },
        ..Fragment::default()
    })
}
