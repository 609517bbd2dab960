//! The fleet as programs and people see it: what `rebootlockctl … --output json` prints and the gateway
//! serves.
//!
//! The members are a promise: new ones may come, none goes or changes its meaning. Times are seconds
//! since 1970.

mod group;
mod machine;
pub mod words;

pub use self::group::{
    CooldownView, GroupView, HeldView, HolderView, PauseView, Readable, WaiterView,
};
pub use self::machine::{MachineView, PastView, RequestView};
use crate::lock::{GroupStatus, Holder};
use crate::record::{HolderRecord, UnixTime};

/// Whether it should have been back by now.
pub fn is_overdue(record: &HolderRecord, now: UnixTime) -> bool {
    record.expected_back.is_some_and(|expected| expected < now)
}

/// Why the one at `position` of a group's queue has no slot yet.
pub fn obstacle(status: &GroupStatus, position: usize) -> String {
    if let Some((scope, pause)) = status.paused.first() {
        let by = pause.as_ref().map(|pause| format!(" by {}", pause.by)).unwrap_or_default();
        return format!("{scope} is paused{by}");
    }
    let machine = status.queue.get(position).map(|ticket| &ticket.machine);
    if let Some(held) = status.held.iter().find(|held| Some(&held.machine) == machine) {
        let by = held.hold.as_ref().map(|hold| format!(" by {}", hold.by)).unwrap_or_default();
        return format!("it is held{by}");
    }
    if position > 0 {
        return format!("{position} before it");
    }
    if status.semaphore.max() == 0 {
        return "max is 0".to_owned();
    }
    if status.semaphore.available() > 0 {
        return match &status.cooldown {
            None => "nothing here".to_owned(),
            Some(Err(_)) => "the group cools down".to_owned(),
            Some(Ok(cooldown)) => {
                format!("the group cools down after the reboot of {}", cooldown.name())
            }
        };
    }
    let max = status.semaphore.max();
    let slots =
        format!("{} of {max} slot{} held", status.holders.len(), if max == 1 { "" } else { "s" });
    match &status.holders[..] {
        [holder] => format!("{slots} by {}", name(holder)),
        _ => slots,
    }
}

/// What people call a holder.
fn name(holder: &Holder) -> String {
    match &holder.record {
        Some(Ok(HolderRecord { hostname: Some(host), .. })) => host.clone(),
        _ => holder.machine.to_string(),
    }
}
