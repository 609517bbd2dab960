//! The reboot-loop guard: a reason that is still there after it was rebooted for.
//!
//! Reasons of detectors only. An operator's request is gone once it is fulfilled, and a new one is
//! a decision that counts.

use std::time::Duration;

use super::Agent;
use crate::lookout::Closed;
use crate::memento::{Memento, Tried};
use crate::method::Boot;
use crate::outcome::Outcome;
use crate::want::Want;

/// A machine that has been up for so long and wants nothing is done with what it rebooted for.
const BELIEVED_AFTER: Duration = Duration::from_secs(10 * 60);

/// Whether a machine that remembers this has rebooted `most` times for this reason.
pub(crate) fn still_required(
    memento: &Memento,
    boot: &Boot,
    reason: &str,
    most: u32,
) -> Option<Closed> {
    let ordered = memento.tried.iter().find(|tried| tried.reason == reason)?.reboots;
    let in_this_boot = memento.boot_id.as_ref().is_some_and(|written| boot.is(written, true));
    // One that was ordered in this boot has not come yet, or never will.
    let not_yet = in_this_boot && memento.counted.as_deref() == Some(reason);
    let reboots = ordered.saturating_sub(u32::from(not_yet));
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
        let most = self.options.settings.reboot.max_attempts;
        still_required(&self.memento.load(), &self.boot, &reason, most)
    }

    /// Adds to `memento` that the machine is about to reboot for the reason that there is now. A boot
    /// ends once, however often that is ordered.
    pub(super) fn count_try(&self, memento: &mut Memento) {
        let Some(reason) = self.tried_reason() else { return };
        match memento.tried.iter_mut().find(|tried| tried.reason == reason) {
            Some(tried) => tried.reboots = tried.reboots.saturating_add(1),
            None => memento.tried.push(Tried { reason: reason.clone(), reboots: 1 }),
        }
        memento.counted = Some(reason);
    }

    /// No reason is left: what comes next is new. Soon after a boot that is not believed yet, as what
    /// finds the reason may itself only be coming up: gives how long it is not.
    pub(super) fn forget_tried(&self) -> Option<Duration> {
        let mut memento = self.memento.load();
        if memento.tried.is_empty() {
            return None;
        }
        let left = BELIEVED_AFTER.saturating_sub(self.up_for());
        if left.is_zero() {
            memento.tried.clear();
            self.save(&memento);
            return None;
        }
        Some(left)
    }

    /// What the detectors and update-engine say, unless an operator has decided.
    pub(super) fn tried_reason(&self) -> Option<String> {
        if self.wants.is_requested() {
            return None;
        }
        match self.wants.now() {
            Want::Reboot { reason, .. } => Some(reason),
            _ => None,
        }
    }
}
