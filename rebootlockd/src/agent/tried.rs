//! The reboot-loop guard: a reason that is still there after it was rebooted for.
//!
//! Reasons of detectors only. An operator's request is gone once it is fulfilled, and a new one is
//! a decision that counts.

use super::Agent;
use crate::lookout::Closed;
use crate::memento::Memento;
use crate::outcome::Outcome;
use crate::want::Want;

/// Whether a machine that remembers this has rebooted `most` times for this reason.
pub(crate) fn still_required(memento: &Memento, reason: &str, most: u32) -> Option<Closed> {
    let reboots = memento.tried.iter().find(|tried| tried.reason == reason)?.reboots;
    (reboots >= most).then(|| {
        let times = if reboots == 1 { "once".to_owned() } else { format!("{reboots} times") };
        let why = format!(
            "this machine has rebooted {times} for the same reason, which is still there: {reason}; \
             rebootlockctl request reboots it all the same"
        );
        Closed::new(Outcome::StillRequired, why)
    })
}

impl Agent {
    /// Whether this machine has rebooted often enough for the reason that there is now.
    pub(super) fn still_required(&self) -> Option<Closed> {
        let reason = self.tried_reason()?;
        still_required(&self.memento.load(), &reason, self.options.settings.reboot.max_attempts)
    }

    /// Remembers that the machine is about to reboot for the reason that there is now.
    pub(super) fn count_try(&self) {
        let Some(reason) = self.tried_reason() else { return };
        let mut memento = self.memento.load();
        match memento.tried.iter_mut().find(|tried| tried.reason == reason) {
            Some(tried) => tried.reboots = tried.reboots.saturating_add(1),
            None => memento.tried.push(crate::memento::Tried { reason, reboots: 1 }),
        }
        self.save(&memento);
    }

    /// No reason is left: what comes next is new.
    pub(super) fn forget_tried(&self) {
        let mut memento = self.memento.load();
        if !memento.tried.is_empty() {
            memento.tried.clear();
            self.save(&memento);
        }
    }

    /// What the detectors and update-engine say, unless an operator has decided.
    fn tried_reason(&self) -> Option<String> {
        if self.wants.is_requested() {
            return None;
        }
        match self.wants.now() {
            Want::Reboot { reason, .. } => Some(reason),
            _ => None,
        }
    }
}
