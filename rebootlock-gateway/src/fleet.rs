//! The fleet as it is: what the page shows and `/api/v1/fleet` serves.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use rebootlock::id::Group;
use rebootlock::lock::{GroupStatus, LockError, Scope};
use rebootlock::record::{Act, Document as _, Pause, UnixTime, Via};
use rebootlock::view::{
    GroupView, HeldView, HolderView, MachineView, PastView, PauseView, RequestView,
};
use serde::Serialize;

use crate::app::{Live, chain};

/// So many groups are read at once.
const AT_ONCE: usize = 8;

/// So much of the history, and of what operators did, is shown with the fleet.
pub const NEWEST: usize = 50;

/// Everything there is to see.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetView {
    /// When it was looked at, by this machine's clock.
    pub generated_at: UnixTime,
    /// All of it is as of this revision of the store or later: a watch after it misses nothing.
    pub revision: u64,
    /// The fleet's pause.
    pub paused: Option<PauseView>,
    /// All groups there are.
    pub groups: Vec<GroupView>,
    /// All machines that are known.
    pub machines: Vec<MachineView>,
    /// Which of them are held.
    pub held: Vec<HeldView>,
    /// Which of them are to reboot.
    pub requests: Vec<RequestView>,
    /// What came of the last slots, newest last.
    pub history: Vec<PastView>,
    /// What operators did lately, newest last.
    pub acts: Vec<Act>,
}

/// Looks at everything.
///
/// # Errors
/// What the store says. A damaged semaphore is told as such, and does not hide the rest.
pub async fn look(live: &Live, now: UnixTime) -> Result<FleetView, LockError> {
    let locks = &live.locks;
    let pause = locks.keys().fleet_paused();
    let first = locks.store().load(std::slice::from_ref(&pause)).await;
    let first = first.map_err(|source| {
        let action = format!("reading {pause}");
        LockError::Store { action, source }
    })?;
    let seen = look_at(live, groups(live).await?).await?;
    let readable: Vec<Group> =
        seen.iter().filter(|(_, seen)| seen.is_ok()).map(|(group, _)| group.clone()).collect();
    let all: Vec<Group> = seen.keys().cloned().collect();
    let (fleet, requests, history, acts) = tokio::try_join!(
        locks.fleet(&readable),
        locks.requests(),
        locks.newest_history(&all, NEWEST),
        locks.acts(None, NEWEST),
    )?;
    let held: BTreeMap<_, _> = seen
        .values()
        .flatten()
        .flat_map(|status| &status.held)
        .map(|held| (&held.machine, held))
        .collect();
    Ok(FleetView {
        generated_at: now,
        revision: first.revision.0,
        paused: first.get(&pause).map(|entry| {
            PauseView::of(&Scope::Fleet, Pause::from_json(&entry.value).ok().as_ref())
        }),
        machines: fleet
            .members
            .iter()
            .map(|(id, member)| MachineView::of(id, member, now))
            .collect(),
        held: held.into_values().map(HeldView::of).collect(),
        requests: requests
            .iter()
            .map(|each| RequestView::of(&each.machine, each.request.as_ref()))
            .collect(),
        history: history.into_iter().filter_map(|each| Some(each.past.ok()?.into())).collect(),
        acts: acts.into_iter().flatten().collect(),
        groups: seen.iter().map(|(group, seen)| view(live, group, seen, now)).collect(),
    })
}

/// All groups, as programs see them.
///
/// # Errors
/// What the store says.
pub async fn look_at_groups(live: &Live, now: UnixTime) -> Result<Vec<GroupView>, LockError> {
    let seen = look_at(live, groups(live).await?).await?;
    Ok(seen.iter().map(|(group, seen)| view(live, group, seen, now)).collect())
}

/// One group, if there is such a one.
///
/// # Errors
/// What the store says.
pub async fn look_at_group(
    live: &Live,
    group: &Group,
    now: UnixTime,
) -> Result<Option<GroupView>, LockError> {
    let seen = one(live, group).await?;
    let in_use = |status: &GroupStatus| {
        let paused = status.paused.iter().any(|(scope, _)| *scope != Scope::Fleet);
        status.exists || paused || !status.queue.is_empty()
    };
    if !seen.as_ref().is_ok_and(in_use) && seen.is_ok() && !groups(live).await?.contains(group) {
        return Ok(None);
    }
    Ok(Some(view(live, group, &seen, now)))
}

/// The groups whose semaphores can be read.
///
/// # Errors
/// What the store says.
pub async fn readable_groups(live: &Live) -> Result<Vec<Group>, LockError> {
    let mut readable = Vec::new();
    for group in live.groups().await? {
        match live.locks.glance(&group).await {
            Ok(_) => readable.push(group),
            // It is shown as such with the groups.
            Err(LockError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(readable)
}

/// All groups there are: configured, in the store, or named by a machine.
///
/// # Errors
/// What the store says.
pub async fn groups(live: &Live) -> Result<BTreeSet<Group>, LockError> {
    let (mut groups, members) = tokio::try_join!(live.groups(), live.locks.fleet(&[]))?;
    for member in members.members.values() {
        let present = member.presence.iter().flatten().flat_map(|presence| &presence.groups);
        let enrolled = member.roster.iter().flatten().flat_map(|entry| &entry.groups);
        groups.extend(present.chain(enrolled).filter_map(|name| Group::new(name.clone()).ok()));
    }
    Ok(groups)
}

/// A group as it is, or what is wrong with its semaphore.
type Seen = Result<GroupStatus, String>;

async fn look_at(live: &Live, groups: BTreeSet<Group>) -> Result<BTreeMap<Group, Seen>, LockError> {
    let look = |group: Group| -> std::pin::Pin<Box<dyn Future<Output = _> + Send + '_>> {
        Box::pin(async move {
            let seen = one(live, &group).await?;
            Ok::<_, LockError>((group, seen))
        })
    };
    stream::iter(groups).map(look).buffer_unordered(AT_ONCE).try_collect().await
}

async fn one(live: &Live, group: &Group) -> Result<Seen, LockError> {
    match live.locks.status(group).await {
        Ok(status) => Ok(Ok(status)),
        Err(error @ LockError::Damaged { .. }) => Ok(Err(chain(&error))),
        Err(error) => Err(error),
    }
}

fn view(live: &Live, group: &Group, seen: &Seen, now: UnixTime) -> GroupView {
    match seen {
        Err(error) => GroupView::Damaged { group: group.clone(), error: error.clone() },
        Ok(status) => {
            let mut view = GroupView::of(status, now);
            if let GroupView::Readable(group) = &mut view {
                for holder in &mut group.holders {
                    holder.overdue |= is_overdue(live, holder);
                }
            }
            view
        }
    }
}

/// Clients do not say when they will be back, so nobody else can know.
fn is_overdue(live: &Live, holder: &HolderView) -> bool {
    let client = match &holder.via {
        None | Some(Via::Agent | Via::Ctl | Via::CtlReboot | Via::Exec) => false,
        Some(_) => true,
    };
    client && holder.held_for_secs.is_some_and(|secs| secs > live.overdue_after.as_secs())
}
