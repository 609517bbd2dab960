//! `type = "inhibitor"`

use serde::Deserialize;
use toml::Spanned;

use super::super::table::Fault;
use super::{GateTable, names};

/// Open if no program inhibits a shutdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InhibitorGate {
    /// What must not be inhibited, as logind calls it.
    pub what: Vec<&'static str>,
    /// The modes that count.
    pub mode: Vec<&'static str>,
    /// Programs that do not count.
    pub ignore_who: Vec<String>,
}

/// What can be inhibited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum What {
    Shutdown,
    Sleep,
    Idle,
    HandlePowerKey,
    HandleSuspendKey,
    HandleHibernateKey,
    HandleLidSwitch,
    HandleRebootKey,
}

impl What {
    fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Sleep => "sleep",
            Self::Idle => "idle",
            Self::HandlePowerKey => "handle-power-key",
            Self::HandleSuspendKey => "handle-suspend-key",
            Self::HandleHibernateKey => "handle-hibernate-key",
            Self::HandleLidSwitch => "handle-lid-switch",
            Self::HandleRebootKey => "handle-reboot-key",
        }
    }
}

/// How strongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    Block,
    BlockWeak,
    Delay,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::BlockWeak => "block-weak",
            Self::Delay => "delay",
        }
    }
}

pub(super) fn check(table: GateTable) -> Result<InhibitorGate, Fault> {
    Ok(InhibitorGate {
        what: chosen("what", table.what, What::as_str, What::Shutdown)?,
        mode: chosen("mode", table.mode, Mode::as_str, Mode::Block)?,
        ignore_who: names("ignore_who", table.ignore_who)?,
    })
}

fn chosen<T: Copy>(
    key: &str,
    list: Option<Spanned<Vec<Spanned<T>>>>,
    as_str: impl Fn(T) -> &'static str,
    usual: T,
) -> Result<Vec<&'static str>, Fault> {
    match list {
        None => Ok(vec![as_str(usual)]),
        Some(list) if list.get_ref().is_empty() => {
            Err(Fault::at(&list, format!("`{key}` must not be empty")))
        }
        Some(list) => Ok(list.get_ref().iter().map(|one| as_str(*one.get_ref())).collect()),
    }
}
