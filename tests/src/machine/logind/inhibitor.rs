//! Who keeps the machine from going down.

use anyhow::{Result, bail};

use super::Shared;

/// What logind lets be inhibited.
const WHATS: [&str; 8] = [
    "shutdown",
    "sleep",
    "idle",
    "handle-power-key",
    "handle-suspend-key",
    "handle-hibernate-key",
    "handle-lid-switch",
    "handle-reboot-key",
];

/// One inhibitor, for as long as the stand-in lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InhibitorId(u64);

/// An inhibitor as `ListInhibitors` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inhibitor {
    pub(super) id: InhibitorId,
    /// Colon-separated: `shutdown:sleep`.
    pub what: String,
    /// Who took it.
    pub who: String,
    /// And why.
    pub why: String,
    /// `block`, `block-weak` or `delay`.
    pub mode: String,
    /// Whose process.
    pub uid: u32,
    /// Which process.
    pub pid: u32,
}

impl Inhibitor {
    pub(super) fn new(
        what: &str,
        who: &str,
        why: &str,
        mode: &str,
        uid: u32,
        pid: u32,
    ) -> Result<Self> {
        if what.is_empty() || what.split(':').any(|each| !WHATS.contains(&each)) {
            bail!("Invalid what specification {what}");
        }
        if !["block", "block-weak", "delay"].contains(&mode) {
            bail!("Invalid mode specification {mode}");
        }
        let id = InhibitorId(0);
        let [what, who, why, mode] = [what, who, why, mode].map(str::to_owned);
        Ok(Self { id, what, who, why, mode, uid, pid })
    }

    pub(super) fn concerns(&self, what: &str) -> bool {
        self.what.split(':').any(|each| each == what)
    }

    /// Its row in `ListInhibitors`.
    pub(super) fn row(&self) -> (String, String, String, String, u32, u32) {
        let [what, who, why, mode] =
            [&self.what, &self.who, &self.why, &self.mode].map(Clone::clone);
        (what, who, why, mode, self.uid, self.pid)
    }
}

impl Shared {
    pub(super) fn add_inhibitor(&self, mut inhibitor: Inhibitor) -> InhibitorId {
        let mut state = self.state();
        state.inhibitors_made += 1;
        inhibitor.id = InhibitorId(state.inhibitors_made);
        let id = inhibitor.id;
        state.inhibitors.push(inhibitor);
        id
    }

    pub(super) fn remove_inhibitor(&self, id: InhibitorId) {
        self.state().inhibitors.retain(|inhibitor| inhibitor.id != id);
    }

    /// What is inhibited in any of `modes`, colon-separated in logind's order.
    pub(super) fn inhibited(&self, modes: &[&str]) -> String {
        let state = self.state();
        let inhibited = |what: &&str| {
            let mut inhibitors = state.inhibitors.iter();
            inhibitors.any(|each| modes.contains(&each.mode.as_str()) && each.concerns(what))
        };
        WHATS.into_iter().filter(inhibited).collect::<Vec<_>>().join(":")
    }
}
