//! `[hooks]`: what runs around the reboot.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::table::{Secs, full_path};

/// Where hooks are found unless told otherwise.
const PRE_REBOOT_DIR: &str = "/etc/rebootlock/pre-reboot.d";
const POST_REBOOT_DIR: &str = "/etc/rebootlock/post-reboot.d";
/// How long a hook may run unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(600);

/// `[hooks]` as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HooksFragment {
    #[serde(deserialize_with = "full_path")]
    pre_reboot_dir: Option<PathBuf>,
    #[serde(deserialize_with = "full_path")]
    post_reboot_dir: Option<PathBuf>,
    timeout_secs: Option<Secs<1, 86_400>>,
    isolation: Option<Isolation>,
}

/// `[hooks]`, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HooksSettings {
    /// Folder with what runs before a reboot.
    pub pre_reboot_dir: PathBuf,
    /// Folder with what runs after a reboot, or when one that was begun does not happen.
    pub post_reboot_dir: PathBuf,
    /// How long each of them may run.
    pub timeout: Duration,
    /// What keeps them apart from the daemon.
    pub isolation: Isolation,
}

/// What keeps a command apart from the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A unit where systemd is, else a process group.
    #[default]
    Auto,
    /// A transient unit of its own; without systemd nothing runs.
    Unit,
    /// A process group, with the daemon's rights and limits.
    ProcessGroup,
}

impl HooksFragment {
    /// This layer with `over` laid on top of it.
    pub(super) fn overlaid(self, over: Self) -> Self {
        Self {
            pre_reboot_dir: over.pre_reboot_dir.or(self.pre_reboot_dir),
            post_reboot_dir: over.post_reboot_dir.or(self.post_reboot_dir),
            timeout_secs: over.timeout_secs.or(self.timeout_secs),
            isolation: over.isolation.or(self.isolation),
        }
    }
}

impl HooksSettings {
    pub(super) fn decide(fragment: HooksFragment) -> Self {
        let default = Self::default();
        Self {
            pre_reboot_dir: fragment.pre_reboot_dir.unwrap_or(default.pre_reboot_dir),
            post_reboot_dir: fragment.post_reboot_dir.unwrap_or(default.post_reboot_dir),
            timeout: fragment.timeout_secs.map_or(default.timeout, Secs::get),
            isolation: fragment.isolation.unwrap_or_default(),
        }
    }
}

impl Default for HooksSettings {
    fn default() -> Self {
        Self {
            pre_reboot_dir: PRE_REBOOT_DIR.into(),
            post_reboot_dir: POST_REBOOT_DIR.into(),
            timeout: TIMEOUT,
            isolation: Isolation::default(),
        }
    }
}
