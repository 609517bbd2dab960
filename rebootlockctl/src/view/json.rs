//! A group as programs see it. The members are a promise: new ones may come, none goes or changes
//! its meaning.

use rebootlock::id::{BootId, Group, MachineId, Token};
use rebootlock::lock::{GroupStatus, Held, Holder, Scope};
use rebootlock::queue::Ticket;
use rebootlock::record::{Cooldown, HolderRecord, HolderState, UnixTime, Via};
use serde::Serialize;

use super::is_overdue;

/// One group.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum GroupView<'a> {
    Readable(Box<Readable<'a>>),
    /// Its semaphore is damaged.
    Damaged {
        group: &'a Group,
        error: String,
    },
}

#[derive(Debug, Serialize)]
pub(crate) struct Readable<'a> {
    group: &'a Group,
    available: i64,
    max: u32,
    holders: Vec<HolderView<'a>>,
    queue: Vec<WaiterView<'a>>,
    paused: Vec<PauseView<'a>>,
    held: Vec<HeldView<'a>>,
    cooldown: Option<CooldownView<'a>>,
    revision: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HolderView<'a> {
    #[serde(rename = "machineID")]
    machine_id: &'a MachineId,
    hostname: Option<&'a str>,
    state: Option<&'a HolderState>,
    /// Seconds since 1970.
    since: Option<UnixTime>,
    held_for_secs: Option<u64>,
    expected_back: Option<UnixTime>,
    overdue: bool,
    reason: Option<&'a str>,
    via: Option<&'a Via>,
    #[serde(rename = "bootID")]
    boot_id: Option<&'a BootId>,
    token: Option<Token>,
    groups: &'a [String],
    /// What is wrong with its record.
    damage: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WaiterView<'a> {
    #[serde(rename = "machineID")]
    machine_id: &'a MachineId,
    hostname: Option<&'a str>,
    since: Option<UnixTime>,
    waiting_for_secs: Option<u64>,
    priority: u32,
    reason: Option<&'a str>,
    groups: &'a [String],
}

#[derive(Debug, Serialize)]
pub(crate) struct PauseView<'a> {
    /// `fleet` or `group`.
    scope: &'static str,
    by: Option<&'a str>,
    reason: Option<&'a str>,
    since: Option<UnixTime>,
    /// When it should end by itself.
    until: Option<UnixTime>,
}

#[derive(Debug, Serialize)]
pub(crate) struct HeldView<'a> {
    #[serde(rename = "machineID")]
    machine_id: &'a MachineId,
    by: Option<&'a str>,
    reason: Option<&'a str>,
    since: Option<UnixTime>,
    /// When it should end by itself.
    until: Option<UnixTime>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CooldownView<'a> {
    #[serde(rename = "machineID")]
    machine_id: Option<&'a str>,
    hostname: Option<&'a str>,
    since: Option<UnixTime>,
    until: Option<UnixTime>,
    left_secs: Option<u64>,
}

/// The whole group.
pub(crate) fn group(status: &GroupStatus, now: UnixTime) -> GroupView<'_> {
    GroupView::Readable(Box::new(Readable {
        group: &status.group,
        available: status.semaphore.available(),
        max: status.semaphore.max(),
        holders: status.holders.iter().map(|each| holder(each, now)).collect(),
        queue: status.queue.iter().map(|each| waiter(each, now)).collect(),
        paused: pauses(status),
        held: status.held.iter().map(held).collect(),
        cooldown: status.cooldown.as_ref().map(|read| cooldown(read.as_ref().ok(), now)),
        revision: status.revision.0,
    }))
}

/// What pauses the group.
pub(crate) fn pauses(status: &GroupStatus) -> Vec<PauseView<'_>> {
    status
        .paused
        .iter()
        .map(|each| PauseView {
            scope: if each.0 == Scope::Fleet { "fleet" } else { "group" },
            by: each.1.as_ref().map(|pause| pause.by.as_str()),
            reason: each.1.as_ref().and_then(|pause| pause.reason.as_deref()),
            since: each.1.as_ref().map(|pause| pause.since),
            until: each.1.as_ref().and_then(|pause| pause.until),
        })
        .collect()
}

/// A machine that is held.
pub(crate) fn held(held: &Held) -> HeldView<'_> {
    let hold = held.hold.as_ref();
    HeldView {
        machine_id: &held.machine,
        by: hold.map(|hold| hold.by.as_str()),
        reason: hold.and_then(|hold| hold.reason.as_deref()),
        since: hold.map(|hold| hold.since),
        until: hold.and_then(|hold| hold.until),
    }
}

fn cooldown(cooldown: Option<&Cooldown>, now: UnixTime) -> CooldownView<'_> {
    CooldownView {
        machine_id: cooldown.map(|cooldown| cooldown.machine_id.as_str()),
        hostname: cooldown.and_then(|cooldown| cooldown.hostname.as_deref()),
        since: cooldown.map(|cooldown| cooldown.since),
        until: cooldown.map(Cooldown::until),
        left_secs: cooldown.map(|cooldown| cooldown.until().seconds_since(now)),
    }
}

/// One who waits.
pub(crate) fn waiter(ticket: &Ticket, now: UnixTime) -> WaiterView<'_> {
    let waiter = ticket.waiter.as_ref();
    WaiterView {
        machine_id: &ticket.machine,
        hostname: waiter.and_then(|waiter| waiter.hostname.as_deref()),
        since: waiter.map(|waiter| waiter.since),
        waiting_for_secs: waiter.map(|waiter| now.seconds_since(waiter.since)),
        priority: super::priority(ticket),
        reason: waiter.and_then(|waiter| waiter.reason.as_deref()),
        groups: waiter.map_or(&[], |waiter| &waiter.groups),
    }
}

fn holder(holder: &Holder, now: UnixTime) -> HolderView<'_> {
    let record: Option<&HolderRecord> = holder.record.as_ref().and_then(|read| read.as_ref().ok());
    let damage = holder.record.as_ref().and_then(|read| read.as_ref().err());
    HolderView {
        machine_id: &holder.machine,
        hostname: record.and_then(|record| record.hostname.as_deref()),
        state: record.and_then(|record| record.state.as_ref()),
        since: record.map(|record| record.start_time),
        held_for_secs: record.map(|record| now.seconds_since(record.start_time)),
        expected_back: record.and_then(|record| record.expected_back),
        overdue: record.is_some_and(|record| is_overdue(record, now)),
        reason: record.and_then(|record| record.reason.as_deref()),
        via: record.and_then(|record| record.via.as_ref()),
        boot_id: record.and_then(|record| record.boot_id.as_ref()),
        token: record.and_then(|record| record.token),
        groups: record.map_or(&[], |record| &record.groups),
        damage: damage.map(ToString::to_string),
    }
}
