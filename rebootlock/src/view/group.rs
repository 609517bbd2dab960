//! One group: its slots, who has them, who waits, and what stops them.

use serde::Serialize;

use super::{is_overdue, obstacle};
use crate::id::{BootId, Group, MachineId, Token};
use crate::lock::{GroupStatus, Held, Holder, Scope};
use crate::queue::Ticket;
use crate::record::{Cooldown, HolderRecord, HolderState, Pause, UnixTime, Via};

/// One group.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum GroupView {
    /// As it is.
    Readable(Box<Readable>),
    /// Its semaphore is damaged.
    Damaged {
        /// Which.
        group: Group,
        /// What is wrong.
        error: String,
    },
}

/// A group whose semaphore can be read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Readable {
    /// Which.
    pub group: Group,
    /// Free slots; negative after the limit was lowered.
    pub available: i64,
    /// Its limit.
    pub max: u32,
    /// Who has a slot.
    pub holders: Vec<HolderView>,
    /// Who waits for one, the next one first.
    pub queue: Vec<WaiterView>,
    /// What pauses it.
    pub paused: Vec<PauseView>,
    /// Which of its machines are held.
    pub held: Vec<HeldView>,
    /// Whether it cools down after a reboot.
    pub cooldown: Option<CooldownView>,
    /// The moment at which its semaphore was read.
    pub revision: u64,
}

/// A machine that has a slot.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HolderView {
    /// Which.
    #[serde(rename = "machineID")]
    pub machine_id: MachineId,
    /// What it calls itself.
    pub hostname: Option<String>,
    /// How far it has come.
    pub state: Option<HolderState>,
    /// Since when it has its slot.
    pub since: Option<UnixTime>,
    /// For how long.
    pub held_for_secs: Option<u64>,
    /// When it should be back.
    pub expected_back: Option<UnixTime>,
    /// Whether that is over.
    pub overdue: bool,
    /// Why it has its slot.
    pub reason: Option<String>,
    /// Through which door it came.
    pub via: Option<Via>,
    /// The boot during which it took it.
    #[serde(rename = "bootID")]
    pub boot_id: Option<BootId>,
    /// Which acquisition this is.
    pub token: Option<Token>,
    /// All groups whose slots were taken together.
    pub groups: Vec<String>,
    /// What is wrong with its record.
    pub damage: Option<String>,
}

/// A machine that waits for a slot.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaiterView {
    /// Where it waits.
    pub group: Group,
    /// Its place in the queue, from 1.
    pub position: usize,
    /// Which.
    #[serde(rename = "machineID")]
    pub machine_id: MachineId,
    /// What it calls itself.
    pub hostname: Option<String>,
    /// Since when it waits.
    pub since: Option<UnixTime>,
    /// For how long.
    pub waiting_for_secs: Option<u64>,
    /// Higher goes first.
    pub priority: u32,
    /// Why it wants a slot.
    pub reason: Option<String>,
    /// Through which door it will come.
    pub via: Option<Via>,
    /// All groups it waits for.
    pub groups: Vec<String>,
    /// Why it has no slot yet.
    pub in_the_way: String,
}

/// A pause in force.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PauseView {
    /// `fleet` or `group`.
    pub scope: &'static str,
    /// Who paused; nothing where the document cannot be read, which counts all the same.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Since when.
    pub since: Option<UnixTime>,
    /// When it should end by itself.
    pub until: Option<UnixTime>,
}

/// A machine that is held.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeldView {
    /// Which.
    #[serde(rename = "machineID")]
    pub machine_id: MachineId,
    /// Who holds it; nothing where the document cannot be read, which counts all the same.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Since when.
    pub since: Option<UnixTime>,
    /// When it should end by itself.
    pub until: Option<UnixTime>,
}

/// The time after a reboot in which nobody else may go.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CooldownView {
    /// Who came back; nothing where the document cannot be read, which counts all the same.
    #[serde(rename = "machineID")]
    pub machine_id: Option<String>,
    /// What it calls itself.
    pub hostname: Option<String>,
    /// When.
    pub since: Option<UnixTime>,
    /// When it should end.
    pub until: Option<UnixTime>,
    /// How long that is yet.
    pub left_secs: Option<u64>,
}

impl GroupView {
    /// A group as it was, seen at `now`.
    pub fn of(status: &GroupStatus, now: UnixTime) -> Self {
        Self::Readable(Box::new(Readable {
            group: status.group.clone(),
            available: status.semaphore.available(),
            max: status.semaphore.max(),
            holders: status.holders.iter().map(|holder| HolderView::of(holder, now)).collect(),
            queue: WaiterView::all_of(status, now),
            paused: PauseView::all_of(status),
            held: status.held.iter().map(HeldView::of).collect(),
            cooldown: (status.cooldown.as_ref())
                .map(|read| CooldownView::of(read.as_ref().ok(), now)),
            revision: status.revision.0,
        }))
    }

    /// Which.
    pub fn group(&self) -> &Group {
        match self {
            Self::Readable(readable) => &readable.group,
            Self::Damaged { group, .. } => group,
        }
    }

    /// The group, if its semaphore can be read.
    pub fn readable(&self) -> Option<&Readable> {
        match self {
            Self::Readable(readable) => Some(readable),
            Self::Damaged { .. } => None,
        }
    }
}

impl PauseView {
    /// What pauses a group.
    pub fn all_of(status: &GroupStatus) -> Vec<Self> {
        let paused = status.paused.iter();
        paused.map(|(scope, pause)| Self::of(scope, pause.as_ref())).collect()
    }

    /// A pause of `scope`, if its document could be read.
    pub fn of(scope: &Scope, pause: Option<&Pause>) -> Self {
        Self {
            scope: if *scope == Scope::Fleet { "fleet" } else { "group" },
            by: pause.map(|pause| pause.by.clone()),
            reason: pause.and_then(|pause| pause.reason.clone()),
            since: pause.map(|pause| pause.since),
            until: pause.and_then(|pause| pause.until),
        }
    }
}

impl HeldView {
    /// A machine that is held.
    pub fn of(held: &Held) -> Self {
        let hold = held.hold.as_ref();
        Self {
            machine_id: held.machine.clone(),
            by: hold.map(|hold| hold.by.clone()),
            reason: hold.and_then(|hold| hold.reason.clone()),
            since: hold.map(|hold| hold.since),
            until: hold.and_then(|hold| hold.until),
        }
    }
}

impl CooldownView {
    fn of(cooldown: Option<&Cooldown>, now: UnixTime) -> Self {
        Self {
            machine_id: cooldown.map(|cooldown| cooldown.machine_id.clone()),
            hostname: cooldown.and_then(|cooldown| cooldown.hostname.clone()),
            since: cooldown.map(|cooldown| cooldown.since),
            until: cooldown.map(Cooldown::until),
            left_secs: cooldown.map(|cooldown| cooldown.until().seconds_since(now)),
        }
    }
}

impl WaiterView {
    /// Who waits in a group, the next one first.
    pub fn all_of(status: &GroupStatus, now: UnixTime) -> Vec<Self> {
        let queue = status.queue.iter().enumerate();
        queue.map(|(n, ticket)| Self::of(status, n, ticket, now)).collect()
    }

    /// The one at `position` of the queue, counted from 0.
    fn of(status: &GroupStatus, position: usize, ticket: &Ticket, now: UnixTime) -> Self {
        let waiter = ticket.waiter.as_ref();
        Self {
            group: status.group.clone(),
            position: position + 1,
            machine_id: ticket.machine.clone(),
            hostname: waiter.and_then(|waiter| waiter.hostname.clone()),
            since: waiter.map(|waiter| waiter.since),
            waiting_for_secs: waiter.map(|waiter| now.seconds_since(waiter.since)),
            priority: waiter.map_or(0, |waiter| waiter.priority),
            reason: waiter.and_then(|waiter| waiter.reason.clone()),
            via: waiter.and_then(|waiter| waiter.via.clone()),
            groups: waiter.map(|waiter| waiter.groups.clone()).unwrap_or_default(),
            in_the_way: obstacle(status, position),
        }
    }
}

impl HolderView {
    fn of(holder: &Holder, now: UnixTime) -> Self {
        let record: Option<&HolderRecord> =
            holder.record.as_ref().and_then(|read| read.as_ref().ok());
        let damage = holder.record.as_ref().and_then(|read| read.as_ref().err());
        Self {
            machine_id: holder.machine.clone(),
            hostname: record.and_then(|record| record.hostname.clone()),
            state: record.and_then(|record| record.state.clone()),
            since: record.map(|record| record.start_time),
            held_for_secs: record.map(|record| now.seconds_since(record.start_time)),
            expected_back: record.and_then(|record| record.expected_back),
            overdue: record.is_some_and(|record| is_overdue(record, now)),
            reason: record.and_then(|record| record.reason.clone()),
            via: record.and_then(|record| record.via.clone()),
            boot_id: record.and_then(|record| record.boot_id.clone()),
            token: record.and_then(|record| record.token),
            groups: record.map(|record| record.groups.clone()).unwrap_or_default(),
            damage: damage.map(ToString::to_string),
        }
    }
}
