//! What a command works with: the settings, the lock, and who asks.

use std::os::unix::fs::MetadataExt as _;

use anyhow::Context as _;
use rebootlock::cli::{CommonArgs, locksmith_fragment};
use rebootlock::config::{Settings, StoreSettings};
use rebootlock::host;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::LockManager;
use rebootlock::logging;
use rebootlock::record::{Claim, Via};
use rebootlock::store::{self, Endpoint, GatewayStore, SharedStore};
use rebootlock::view::words::names;

use crate::failure::{BadConfiguration, Usage};

/// Everything a command needs that does not depend on which it is.
#[derive(Debug)]
pub(crate) struct Session {
    /// What was configured.
    pub(crate) settings: Settings,
    /// The lock.
    pub(crate) locks: LockManager,
}

/// Reads files, variables and flags, and starts logging.
pub(crate) fn settings(common: &CommonArgs) -> anyhow::Result<Settings> {
    let legacy = locksmith_fragment("LOCKSMITHCTL", |name| std::env::var_os(name))?;
    let mut fragment = common.fragment_over(legacy)?;
    // A person at a terminal is told by the command itself what happens.
    fragment.log.level.get_or_insert_with(|| "warn".to_owned());
    let settings = Settings::decide(fragment)?;
    logging::start(&settings.log)?;
    Ok(settings)
}

/// Opens the store. A URL may be an etcd's or a gateway's: what answers is noted in the settings.
/// Options that no server could satisfy are the configuration's fault.
pub(crate) async fn open_store(settings: &mut StoreSettings) -> anyhow::Result<SharedStore> {
    if let Some(endpoint @ Endpoint::FleetLock(_)) = settings.endpoints.first() {
        return Err(BadConfiguration(format!(
            "{endpoint} is a FleetLock server: it gives slots to machines and tells nobody who has \
             them; this command needs the store behind it, see --endpoint; without a store there are \
             doctor, windows, send-need-reboot and completions"
        ))
        .into());
    }
    let bad = |error: store::StoreError| BadConfiguration(error.to_string());
    store::recognise(settings).await.map_err(bad)?;
    store::open(settings).map_err(|error| match settings.endpoints.first() {
        Some(Endpoint::Etcd(_) | Endpoint::Gateway(_)) => bad(error).into(),
        _ => anyhow::Error::from(error).context("cannot open the store"),
    })
}

impl Session {
    /// Opens what `common` and everything below it describe.
    pub(crate) async fn open(common: &CommonArgs) -> anyhow::Result<Self> {
        let mut settings = settings(common)?;
        let store = open_store(&mut settings.store).await?;
        let locks = LockManager::new(store, settings.store.keys.clone());
        Ok(Self { settings, locks })
    }

    /// The groups that are meant: those named, else those of this machine, else the default one.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.settings.machine.groups
    }

    /// The one group that is meant, for what cannot be done to several at once.
    pub(crate) fn one_group(&self) -> anyhow::Result<&Group> {
        match self.groups() {
            [group] => Ok(group),
            several => {
                let names = names(several);
                Err(Usage(format!("which of {names}? name one with --group")).into())
            }
        }
    }

    /// This machine's id.
    pub(crate) fn machine_id(&self) -> anyhow::Result<MachineId> {
        host::machine_id(&self.settings.machine.id_file)
            .context("cannot tell which machine this is; name one, or see --machine-id-file")
    }

    /// Who gives the order, as others will read it: at a gateway the name that it knows us by, else the
    /// person at this machine.
    pub(crate) async fn operator(&self) -> anyhow::Result<String> {
        match store::gateway_options(&self.settings.store) {
            Some(options) => {
                let name = GatewayStore::new(&options)?.own_name().await;
                name.context("cannot find out by which name the gateway knows us")
            }
            None => Ok(person()),
        }
    }

    /// A claim of this machine, known by its name and boot.
    pub(crate) fn own_claim(&self, via: Via, reason: Option<String>) -> anyhow::Result<Claim> {
        let mut claim = Claim::new(self.machine_id()?, self.groups().iter().cloned(), via);
        claim.hostname = Some(host::hostname());
        claim.boot_id = Some(host::boot_id(&self.settings.machine.boot_id_file)?);
        claim.reason = reason;
        Ok(claim)
    }
}

/// The person behind sudo, at this machine.
fn person() -> String {
    let named = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(named).unwrap_or_else(|| {
        match std::fs::metadata("/proc/self") {
            Ok(own) => format!("uid {}", own.uid()),
            Err(_) => "somebody".to_owned(),
        }
    });
    format!("{user}@{}", host::hostname())
}
