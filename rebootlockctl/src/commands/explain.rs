//! `explain`: why a machine is not rebooting now, and what would have to change.

mod reasons;
mod text;

use std::process::ExitCode;

use futures::future::try_join_all;
use rebootlock::cli::exit;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{GroupStatus, LockError};
use rebootlock::record::{
    Document, Hold, Past, Presence, Request, RosterEntry, UnixTime, sorted_groups,
};
use rebootlock::semaphore::json::Damage;
use rebootlock::store::{Key, Snapshot};

use super::look::look;
use crate::cli::{Format, Output};
use crate::output::{clean, print, print_json, say};
use crate::session::Session;

/// A document as it was found, if there was one.
type Found<T> = Option<Result<T, Damage>>;

/// Everything that decides whether a machine reboots, as far as the store knows it.
#[derive(Debug, Clone)]
struct Facts {
    machine: MachineId,
    now: UnixTime,
    presence: Found<Presence>,
    roster: Found<RosterEntry>,
    request: Found<Request>,
    hold: Found<Hold>,
    /// Whether it asks through disruption-manager's door.
    disruption: bool,
    /// Its groups, and those in which it holds a slot or waits.
    groups: Vec<(Group, Result<GroupStatus, String>)>,
    /// What came of its last slot.
    last: Option<Past>,
}

impl Facts {
    /// Whether the store has ever heard of it.
    fn is_anything(&self) -> bool {
        let statuses = || self.groups.iter().filter_map(|(_, status)| status.as_ref().ok());
        self.presence.is_some()
            || self.roster.is_some()
            || self.request.is_some()
            || self.hold.is_some()
            || self.disruption
            || self.last.is_some()
            || statuses().any(|status| {
                status.holders.iter().any(|holder| holder.machine == self.machine)
                    || status.queue.iter().any(|ticket| ticket.machine == self.machine)
            })
    }

    /// What its agent says of itself, if that can be read.
    fn agent(&self) -> Option<&Presence> {
        self.presence.as_ref()?.as_ref().ok()
    }
}

async fn load(session: &Session, keys: &[Key]) -> anyhow::Result<Snapshot> {
    let failed = |source| {
        let action = format!("reading what is known below {}", session.locks.keys());
        LockError::Store { action, source }
    };
    Ok(session.locks.store().load(keys).await.map_err(failed)?)
}

fn read<T: Document>(now: &Snapshot, key: &Key) -> Found<T> {
    now.get(key).map(|entry| T::from_json(&entry.value))
}

/// Those of all groups in which `machine` holds a slot, or waits for one.
async fn concerned(session: &Session, machine: &MachineId) -> anyhow::Result<Vec<Group>> {
    let keys = session.locks.keys();
    let groups = session.locks.groups().await?;
    let places = groups.iter().map(|group| {
        let keys = [keys.semaphore(group), keys.waiter(group, machine)];
        async move { load(session, &keys).await.map(|now| (keys, now)) }
    });
    let places = try_join_all(places).await?;
    let concerned = |([semaphore, waiter], now): &([Key; 2], Snapshot)| {
        let lists = |entry: &rebootlock::store::Entry| {
            // One that is damaged may list it.
            rebootlock::semaphore::Semaphore::from_json(&entry.value)
                .is_ok_and(|s| s.holds(machine))
        };
        now.get(waiter).is_some() || now.get(semaphore).is_some_and(lists)
    };
    let found = groups.into_iter().zip(&places).filter(|(_, place)| concerned(place));
    Ok(found.map(|(group, _)| group).collect())
}

async fn gather(session: &Session, machine: MachineId) -> anyhow::Result<Facts> {
    let keys = session.locks.keys();
    let [presence, roster, request, hold, disruption] = [
        keys.machine(&machine),
        keys.roster_entry(&machine),
        keys.request(&machine),
        keys.hold(&machine),
        keys.disruption(&machine),
    ];
    let known = [&presence, &roster, &request, &hold, &disruption].map(Clone::clone);
    let now = load(session, &known).await?;
    let presence: Found<Presence> = read(&now, &presence);
    let roster: Found<RosterEntry> = read(&now, &roster);
    let named = match (&presence, &roster) {
        (Some(Ok(presence)), _) => Some(&presence.groups),
        (_, Some(Ok(entry))) => Some(&entry.groups),
        _ => None,
    };
    let named = named.into_iter().flatten().filter_map(|name| Group::new(name.clone()).ok());
    let mut groups: Vec<Group> = named.collect();
    groups.extend(concerned(session, &machine).await?);
    if groups.is_empty() {
        groups.extend(session.groups().iter().cloned());
    }
    let groups = sorted_groups(groups);
    let seen = look(session, groups.clone()).await?;
    let statuses = seen.into_iter().map(|seen| (seen.group, seen.status)).collect();
    let history = session.locks.history(&groups, None).await?;
    let last = history
        .into_iter()
        .rev()
        .filter_map(|entry| entry.past.ok())
        .find(|past| past.machine_id == machine.as_str());
    Ok(Facts {
        now: UnixTime::now(),
        presence,
        roster,
        request: read(&now, &request),
        hold: read(&now, &hold),
        disruption: now.get(&disruption).is_some(),
        groups: statuses,
        last,
        machine,
    })
}

pub(super) async fn run(
    session: Session,
    machine: Option<MachineId>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let machine = match machine {
        Some(machine) => machine,
        None => session.machine_id()?,
    };
    let facts = gather(&session, machine).await?;
    if !facts.is_anything() {
        let machine = clean(facts.machine.as_str());
        say(format_args!(
            "nothing is known of {machine}: no agent of it has ever come, and it holds no slot; \
             rebootlockctl machines lists those that are known"
        ));
        return Ok(exit::NOT_HOLDING.into());
    }
    let explanation = reasons::explain(&facts);
    match output.output {
        Format::Json => print_json(&text::document(&facts, &explanation))?,
        Format::Table => print(&text::screen(&facts, &explanation))?,
    }
    Ok(ExitCode::SUCCESS)
}
