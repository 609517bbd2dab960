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

/// So many reboots more may follow one another whose reasons read differently: a command may print
/// the time of day.
const OTHER_REASONS: u32 = 4;

/// A machine that has been up for so long and wants nothing is done with what it rebooted for.
const BELIEVED_AFTER: Duration = Duration::from_secs(10 * 60);

/// Whether a machine that remembers this has rebooted `most` times for this reason.
pub(crate) fn still_required(
    memento: &Memento,
    boot: &Boot,
    reason: &str,
    most: u32,
) -> Option<Closed> {
    let in_this_boot = memento.boot_id.as_ref().is_some_and(|written| boot.is(written, true));
    // One that was ordered in this boot has not come yet, or never will.
    let not_yet = memento.counted.as_deref().filter(|_| in_this_boot);
    let reboots = |tried: &Tried| {
        tried.reboots.saturating_sub(u32::from(not_yet == Some(tried.reason.as_str())))
    };
    let for_this = memento.tried.iter().find(|tried| tried.reason == reason).map_or(0, reboots);
    let in_a_row = memento.tried.iter().map(reboots).fold(0_u32, u32::saturating_add);
    let said = if for_this >= most {
        let times = if for_this == 1 { "once".to_owned() } else { format!("{for_this} times") };
        format!("{times} for the same reason, which is still there")
    } else if in_a_row >= most.saturating_add(OTHER_REASONS) {
        format!("{in_a_row} times in a row, and each time there was another reason at once")
    } else {
        return None;
    };
    let why = format!(
        "this machine has rebooted {said}: {reason}; rebootlockctl request reboots it all the same"
    );
    Some(Closed::new(Outcome::StillRequired, why))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rebootlock::id::BootId;

    use super::*;

    fn boot(id: &str) -> Boot {
        Boot { id: BootId::new(id).unwrap(), soft_reboots: None }
    }

    fn memento(tried: &[(&str, u32)], counted: Option<&str>) -> Memento {
        let tried = tried
            .iter()
            .map(|(reason, reboots)| Tried { reason: (*reason).to_owned(), reboots: *reboots });
        Memento {
            boot_id: Some(BootId::new("one").unwrap()),
            tried: tried.collect(),
            counted: counted.map(str::to_owned),
            ..Memento::default()
        }
    }

    #[test]
    fn a_reboot_counts_once_it_has_come() {
        let ordered = memento(&[("kernel", 1)], Some("kernel"));
        assert_eq!(still_required(&ordered, &boot("one"), "kernel", 1), None);
        let blocked = still_required(&ordered, &boot("two"), "kernel", 1).unwrap();
        assert!(blocked.why.contains("rebooted once for the same reason"), "{}", blocked.why);
        assert_eq!(still_required(&ordered, &boot("two"), "kernel", 2), None);
        assert_eq!(still_required(&ordered, &boot("two"), "another", 1), None);
    }

    #[test]
    fn a_reason_that_reads_differently_each_time_does_not_reboot_for_ever() {
        let reasons: Vec<String> = (0..5).map(|hour| format!("at {hour}:00")).collect();
        let tried: Vec<_> = reasons.iter().map(|reason| (reason.as_str(), 1)).collect();
        let blocked = still_required(&memento(&tried, None), &boot("two"), "at 5:00", 1).unwrap();
        assert!(blocked.why.contains("5 times in a row"), "{}", blocked.why);
        assert_eq!(still_required(&memento(&tried[1..], None), &boot("two"), "at 5:00", 1), None);
    }
}
