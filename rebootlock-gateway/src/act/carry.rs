//! Each action as one operation of the lock, and how it ended as a sentence.

use std::time::Duration;

use rebootlock::duration::show;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{
    Acquired, Cancelled, Ended, Forgetting, LockManager, Release, Released, Resumed, Scope, Unheld,
};
use rebootlock::record::{
    Act, Claim, Hold, HolderRecord, HolderState, Pause, Request, UnixTime, Via,
};
use rebootlock::view::words::{in_groups, shortfall, taken_by};
use serde_json::Map;

use super::{Action, Done, end_of};
use crate::app::Live;
use crate::reply::Kind;
use crate::slots::{Refusal, in_time};

/// Does it. `act` is what is written down.
pub(super) async fn carry(
    live: &Live,
    action: &Action,
    act: &Act,
    now: UnixTime,
) -> Result<Done, Refusal> {
    let locks = live.locks.doing(act);
    let (by, reason) = (act.by.clone(), act.reason.clone());
    match action {
        Action::Pause { scope, lasting } => {
            let until = end_of(now, *lasting);
            let pause = Pause { by, reason, since: now, until, unknown: Map::new() };
            let before = in_time(live, locks.pause(scope, &pause)).await?;
            let same = before.as_ref() == Some(&pause);
            let before = before.map(|pause| (pause.by, pause.reason));
            let lasting = for_how_long(*lasting);
            let text = format!("{scope} is paused{lasting}; who holds a slot keeps it");
            Ok(unless(same, text + &in_place_of("it was paused", before)))
        }
        Action::Resume { scope } => resume(live, &locks, scope, now).await,
        Action::Lock { machine, .. } => lock(live, &locks, machine, action.groups(), act).await,
        Action::Unlock { machine, groups, token } => {
            let release = Release { token: *token, ended: Ended::Unlocked { by } };
            unlock(live, &locks, machine, groups, &release).await
        }
        Action::SetMax { group, max } => {
            let old = in_time(live, locks.set_max(group, *max)).await?;
            let message = match old == *max {
                true => format!("the limit of group {group} is {max} already"),
                false => format!("the limit of group {group} is {max}; it was {old}"),
            };
            Ok(Done { changed: old != *max, message, old: Some(old) })
        }
        Action::Request { machine, priority } => {
            let priority = *priority;
            let request = Request { by, reason, since: now, priority, unknown: Map::new() };
            let before = in_time(live, locks.request(machine, &request)).await?;
            let same = before.as_ref() == Some(&request);
            let before = before.map(|request| (request.by, request.reason));
            let text = format!("requested; the agent of {machine} takes it from here");
            Ok(unless(same, text + &in_place_of("it was requested", before)))
        }
        Action::Cancel { machine } => Ok(match in_time(live, locks.cancel(machine)).await? {
            Cancelled::Ended(_) => {
                changed("cancelled; a slot it holds already is not given back".to_owned())
            }
            Cancelled::NotRequested => as_it_was(format!("no reboot of {machine} was requested")),
        }),
        Action::Hold { machine, lasting } => {
            let until = end_of(now, *lasting);
            let hold = Hold { by, reason, since: now, until, unknown: Map::new() };
            let before = in_time(live, locks.hold(machine, &hold)).await?;
            let same = before.as_ref() == Some(&hold);
            let before = before.map(|hold| (hold.by, hold.reason));
            let lasting = for_how_long(*lasting);
            let text =
                format!("{machine} is held{lasting}; a reboot that is permitted already goes on");
            Ok(unless(same, text + &in_place_of("it was held", before)))
        }
        Action::Unhold { machine } => Ok(match in_time(live, locks.unhold(machine)).await? {
            Unheld::Ended(None) => changed(format!("{machine} may reboot again")),
            Unheld::Ended(Some(hold)) => {
                let age = show(now.seconds_since(hold.since));
                changed(format!("{machine} may reboot again; it was held by {} for {age}", hold.by))
            }
            Unheld::NotHeld => as_it_was(format!("{machine} was not held")),
        }),
        Action::Forget { machine, even_if_present } => {
            forget(live, &locks, machine, *even_if_present).await
        }
    }
}

async fn resume(
    live: &Live,
    locks: &LockManager,
    scope: &Scope,
    now: UnixTime,
) -> Result<Done, Refusal> {
    Ok(match in_time(live, locks.resume(scope)).await? {
        Resumed::Ended(None) => changed(format!("{scope} goes on")),
        Resumed::Ended(Some(pause)) => {
            let age = show(now.seconds_since(pause.since));
            changed(format!("{scope} goes on; it was paused by {} for {age}", pause.by))
        }
        Resumed::NotPaused => as_it_was(format!("{scope} was not paused")),
    })
}

async fn lock(
    live: &Live,
    locks: &LockManager,
    machine: &MachineId,
    groups: Vec<Group>,
    act: &Act,
) -> Result<Done, Refusal> {
    for group in &groups {
        if !in_time(live, live.knows(group)).await? {
            let text = format!("group {group} is neither configured here nor in the store");
            return Err(Refusal::new(Kind::NotFound, text));
        }
        in_time(live, live.see_to_slots(group)).await?;
    }
    let mut claim = Claim::new(machine.clone(), groups, Via::Ctl);
    let reason = act.reason.as_deref().unwrap_or_default();
    claim.reason = Some(format!("{reason} ({})", act.by));
    let names = in_groups(claim.groups());
    let record = match in_time(live, locks.acquire(&claim)).await? {
        Acquired::Granted => return Ok(changed(format!("{machine} holds a slot in {names}"))),
        Acquired::Already(record) => record,
    };
    let held = in_time(live, live.locks.slots_of(claim.groups(), machine)).await?;
    if let Some(text) = shortfall(machine, claim.groups(), &held) {
        return Err(Refusal::new(Kind::Conflict, text));
    }
    let by = taken_by(record.as_deref());
    Ok(as_it_was(format!("{machine} holds a slot in {names} already{by}")))
}

async fn unlock(
    live: &Live,
    locks: &LockManager,
    machine: &MachineId,
    groups: &[Group],
    release: &Release,
) -> Result<Done, Refusal> {
    if groups.is_empty() {
        return Ok(as_it_was(format!("{machine} holds no slot")));
    }
    let names = in_groups(groups);
    Ok(match in_time(live, locks.release(groups, machine, release)).await? {
        Released::NotHeld if release.token.is_some() => as_it_was(format!(
            "{machine} holds no slot by that token in {names}; it has given it back, or has another"
        )),
        Released::NotHeld => as_it_was(format!("{machine} holds no slot in {names}")),
        Released::Freed(record) => {
            let text = format!("freed the slot of {machine} in {names}");
            changed(text + &aftermath(groups, machine, record.as_deref()))
        }
    })
}

/// What a person who freed a slot should know.
fn aftermath(asked: &[Group], machine: &MachineId, record: Option<&HolderRecord>) -> String {
    let Some(record) = record else { return String::new() };
    let mut text = String::new();
    let more: Vec<_> = record.groups().filter(|group| !asked.contains(group)).collect();
    if !more.is_empty() {
        text += &format!("; its slot in {}, taken together, is free too", in_groups(&more));
    }
    if record.state == Some(HolderState::Rebooting) {
        text += &format!(
            "; {machine} was rebooting and may be down, and another machine can go down now"
        );
    }
    text
}

async fn forget(
    live: &Live,
    locks: &LockManager,
    machine: &MachineId,
    even_if_present: bool,
) -> Result<Done, Refusal> {
    match in_time(live, locks.forget(machine, even_if_present)).await? {
        Forgetting::Done(gone) => Ok(changed(format!("forgot of {machine}: {}", gone))),
        Forgetting::Unknown => Ok(as_it_was(format!("nothing is known of {machine}"))),
        Forgetting::Present => {
            let text = format!(
                "the agent of {machine} is there; stop it first, or forget it all the same with \
                 `evenIfPresent`"
            );
            Err(Refusal::new(Kind::Conflict, text))
        }
        Forgetting::Holds(groups) => {
            let names = in_groups(&groups);
            let text =
                format!("{machine} holds a slot in {names}; unlock it, if it will not come back");
            Err(Refusal::new(Kind::Conflict, text))
        }
    }
}

/// Changed, unless the very same was there.
fn unless(same: bool, message: String) -> Done {
    Done { changed: !same, message, old: None }
}

fn changed(message: String) -> Done {
    Done { changed: true, message, old: None }
}

fn as_it_was(message: String) -> Done {
    Done { changed: false, message, old: None }
}

/// ` for 2h`, or nothing.
fn for_how_long(lasting: Option<Duration>) -> String {
    lasting.map(|time| format!(" for {}", show(time.as_secs()))).unwrap_or_default()
}

/// `; it was paused by bob before: kernel trouble`, or nothing.
fn in_place_of(what: &str, before: Option<(String, Option<String>)>) -> String {
    let Some((by, reason)) = before else { return String::new() };
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("; {what} by {by} before{reason}")
}
