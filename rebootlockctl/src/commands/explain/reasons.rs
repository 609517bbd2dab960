//! From what is known of a machine to the reasons why it is not rebooting. Pure.

use rebootlock::id::Group;
use rebootlock::lock::{GroupStatus, Held, Holder, Scope};
use rebootlock::record::{Blocked, HolderRecord, HolderState, Presence, UnixTime, Via};
use serde::Serialize;

use super::Facts;
use crate::view::{self, is_overdue};
use rebootlock::duration::show;

/// One thing that keeps a machine, and what would end it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    /// Of which kind; for what an agent said, its outcome.
    pub(super) kind: String,
    /// What it is, in words.
    pub(super) why: String,
    /// What to do.
    pub(super) todo: String,
}

impl Reason {
    fn new(kind: &str, why: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), why: why.into(), todo: todo.into() }
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Explanation {
    /// In half a sentence, to follow the machine's name.
    pub(super) summary: &'static str,
    /// Why a reboot is wanted, if one is.
    pub(super) wanted: Option<String>,
    /// What is in the way, the most important first.
    pub(super) reasons: Vec<Reason>,
}

/// Why the machine is not rebooting.
pub(super) fn explain(facts: &Facts) -> Explanation {
    let own = own_slot(facts);
    let wanted = wanted(facts, own);
    let stops = stops(facts);
    let waits = waits(facts);
    let mut reasons = Vec::new();
    reasons.extend(away(facts).filter(|_| !needs_no_agent(facts, own)));
    reasons.extend(own.map(|(group, holder)| slot(facts, group, holder)));
    if wanted.is_none() && own.is_none() && facts.presence.is_some() {
        let todo =
            format!("rebootlockctl request {}, if it is to reboot", word(facts.machine.as_str()));
        reasons.push(Reason::new("no_action", "nothing wants it to reboot", todo));
    }
    let told = facts.agent().and_then(|agent| agent.blocked.as_ref());
    let shown = |kind: &str| stops.iter().chain(&waits).any(|reason| reason.kind == kind);
    let told = told.filter(|told| !shown(&told.outcome)).map(|told| blocked(facts, told));
    let unwell =
        health(facts).filter(|_| told.as_ref().is_none_or(|told| told.kind != "health_blocked"));
    reasons.extend(stops);
    reasons.extend(told);
    reasons.extend(waits);
    reasons.extend(unwell);
    Explanation { summary: summary(facts, own, wanted.is_some()), wanted, reasons }
}

/// Its slot, in the first of its groups whose record can be read.
fn own_slot(facts: &Facts) -> Option<(&Group, &Holder)> {
    let held: Vec<_> = facts
        .groups
        .iter()
        .filter_map(|(group, status)| {
            let holders = &status.as_ref().ok()?.holders;
            Some((group, holders.iter().find(|holder| holder.machine == facts.machine)?))
        })
        .collect();
    let readable = held.iter().find(|(_, holder)| record(holder).is_some());
    readable.or(held.first()).copied()
}

fn record(holder: &Holder) -> Option<&HolderRecord> {
    holder.record.as_ref()?.as_ref().ok()
}

/// Whether it is no wonder that its agent is not there: it is on its way, or a client of another kind.
fn needs_no_agent(facts: &Facts, own: Option<(&Group, &Holder)>) -> bool {
    let by_another = |via: &Via| {
        matches!(via, Via::Fleetlock | Via::Goahead | Via::DisruptionManager | Via::Other(_))
    };
    let held = own.and_then(|(_, holder)| record(holder));
    let on_its_way = held.is_some_and(|record| record.state == Some(HolderState::Rebooting));
    let held = held.and_then(|record| record.via.as_ref());
    let statuses = facts.groups.iter().filter_map(|(_, status)| status.as_ref().ok());
    let places = statuses.flat_map(|status| &status.queue);
    let places = places.filter(|ticket| ticket.machine == facts.machine);
    let waits = places.filter_map(|ticket| ticket.waiter.as_ref()?.via.as_ref());
    // One that has an agent as well, or had one, is missed once it has nothing.
    let last = facts.last.as_ref().filter(|_| own.is_none() && facts.roster.is_none());
    let last = last.and_then(|past| past.via.as_ref());
    on_its_way || facts.disruption || held.into_iter().chain(waits).chain(last).any(by_another)
}

fn summary(facts: &Facts, own: Option<(&Group, &Holder)>, wanted: bool) -> &'static str {
    match own
        .and_then(|(_, holder)| record(holder))
        .and_then(|record| Some((record.state.as_ref()?, is_overdue(record, facts.now))))
    {
        Some((HolderState::Rebooting, true)) => "has not come back from its reboot",
        Some((HolderState::Rebooting, false)) => "is rebooting",
        Some((HolderState::Verifying, _)) => "is back from its reboot, and still has its slot",
        Some((HolderState::Failed, _)) => "is back from its reboot, but not well",
        Some((HolderState::Holding | HolderState::Draining, _)) => {
            "has its slot, and is not rebooting yet"
        }
        _ if own.is_some() => "has a slot, and is not rebooting",
        _ if wanted => "is not rebooting, though it should",
        _ => "is not rebooting",
    }
}

fn wanted(facts: &Facts, own: Option<(&Group, &Holder)>) -> Option<String> {
    if let Some(Ok(request)) = &facts.request {
        let reason = request.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        return Some(format!(
            "requested by {}{reason} ({})",
            request.by,
            ago(facts, request.since)
        ));
    }
    let told = facts.agent().and_then(|agent| agent.blocked.as_ref()?.wanted.clone());
    let held = own.and_then(|(_, holder)| record(holder)?.reason.clone());
    let statuses = facts.groups.iter().filter_map(|(_, status)| status.as_ref().ok());
    let mut waiting = statuses.flat_map(|status| &status.queue);
    let waits = waiting.find(|ticket| ticket.machine == facts.machine);
    let asks = waits.map(|ticket| ticket.waiter.as_ref().and_then(|waiter| waiter.reason.clone()));
    told.or(held).or(asks.map(|why| why.unwrap_or_else(|| "it waits for a slot".to_owned())))
}

fn ago(facts: &Facts, since: UnixTime) -> String {
    format!("{} ago", show(facts.now.seconds_since(since)))
}

fn lasted(facts: &Facts, since: UnixTime) -> String {
    format!("for {}", show(facts.now.seconds_since(since)))
}

/// Its agent is not there, or cannot be understood.
fn away(facts: &Facts) -> Option<Reason> {
    let machine = word(facts.machine.as_str());
    match &facts.presence {
        Some(Ok(_)) => None,
        Some(Err(damage)) => Some(Reason::new(
            "unreadable",
            format!("what its agent says of itself is {damage}"),
            "restart it: systemctl restart rebootlockd, on that machine",
        )),
        None => {
            let last = match (&facts.last, &facts.roster) {
                (Some(past), _) => {
                    format!(
                        "; its last slot went back {} ({})",
                        ago(facts, past.ended_at),
                        past.ended
                    )
                }
                (None, Some(Ok(entry))) => {
                    format!(
                        "; it first came {}, and has not rebooted since",
                        ago(facts, entry.first_seen)
                    )
                }
                (None, _) => "; none has ever come".to_owned(),
            };
            Some(Reason::new(
                "away",
                format!("no agent of this machine is there{last}"),
                format!(
                    "systemctl status rebootlockd, on that machine; rebootlockctl forget {machine}, if \
                     it is gone for good"
                ),
            ))
        }
    }
}

/// The slot it has itself.
fn slot(facts: &Facts, group: &Group, holder: &Holder) -> Reason {
    let unlock =
        format!("rebootlockctl unlock {} {}", word(facts.machine.as_str()), in_group(group));
    let reason = |why: String, todo: String| Reason::new("slot", why, todo);
    let record = match &holder.record {
        Some(Ok(record)) => record,
        Some(Err(damage)) => {
            let why = format!("it has a slot in group {group}, and the record of that is {damage}");
            return reason(why, format!("rebootlockctl repair {}", in_group(group)));
        }
        None => {
            let why = format!(
                "it has a slot in group {group}, taken by a program that writes no record, as locksmith"
            );
            return reason(why, format!("{unlock}, if that program is done"));
        }
    };
    let groups = match &record.groups[..] {
        [] | [_] => format!("group {group}"),
        several => format!("groups {}", several.join(", ")),
    };
    let age = lasted(facts, record.start_time);
    let state = record.state.as_ref();
    let because = record.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    if state.is_some_and(|state| state.to_string() == "orphaned") {
        let why = format!("it has a slot in {groups} {age} for a command that has died{because}");
        return reason(why, format!("{unlock}, if nothing of it runs any more"));
    }
    match &record.via {
        Some(Via::Ctl) => {
            let why = format!("it has a slot in {groups} {age}, which an operator locked{because}");
            return reason(why, format!("{unlock}, when that is done"));
        }
        Some(Via::Exec) => {
            let why = format!("it has a slot in {groups} {age}, while a command runs{because}");
            return reason(why, "wait for the end of that command".to_owned());
        }
        _ => {}
    }
    let there = facts.presence.is_some();
    let since = lasted(facts, record.state_since.unwrap_or(record.start_time));
    match (state, record.expected_back) {
        (Some(HolderState::Rebooting), Some(back)) if is_overdue(record, facts.now) => reason(
            format!(
                "it has its slot in {groups}, {} {since}, and should have been back {}",
                if there { "was told to reboot" } else { "has been down" },
                ago(facts, back)
            ),
            format!("look at its console; {unlock}, if it will not come back"),
        ),
        (Some(HolderState::Rebooting), back) => {
            // Not while its agent says that it has not gone.
            let told = facts.agent().and_then(|agent| agent.blocked.as_ref());
            let goes = told.is_none_or(|told| told.outcome != "overdue");
            let back = back.filter(|_| goes).map(|back| {
                format!("; it should be back within {}", show(back.seconds_since(facts.now)))
            });
            let why = format!(
                "it has its slot in {groups} and its permit {since}{}",
                back.unwrap_or_default()
            );
            reason(why, "wait".to_owned())
        }
        (Some(HolderState::Verifying), _) => reason(
            format!("it has its slot in {groups} and looks {since} whether it is well"),
            "wait; it gives its slot back once its checks and hooks have passed".to_owned(),
        ),
        (Some(HolderState::Failed), _) => reason(
            format!("it keeps its slot in {groups}, as it has not been well {since}"),
            format!(
                "mend it, and it goes on by itself: journalctl -u rebootlockd, on that machine; {unlock}, \
                 if the others are to go on without"
            ),
        ),
        (state, _) => {
            let state = state.map_or_else(|| "holding".to_owned(), ToString::to_string);
            let todo = if there {
                "wait".to_owned()
            } else {
                format!("{unlock}, if it will not come back")
            };
            reason(format!("it has its slot in {groups} {age} and is {state} {since}"), todo)
        }
    }
}

/// What somebody has said against it: holds and pauses.
fn stops(facts: &Facts) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(hold) = &facts.hold {
        let held = Held { machine: facts.machine.clone(), hold: hold.as_ref().ok().cloned() };
        let todo = format!("rebootlockctl unhold {}", word(facts.machine.as_str()));
        reasons.push(Reason::new("held", format!("held: {}", view::held(&held, facts.now)), todo));
    }
    for (group, status) in &facts.groups {
        let status = match status {
            Ok(status) => status,
            Err(damage) => {
                let todo = format!("rebootlockctl repair {}", in_group(group));
                reasons.push(Reason::new("damaged", damage.clone(), todo));
                continue;
            }
        };
        for (scope, pause) in &status.paused {
            let resume = match scope {
                Scope::Fleet => "rebootlockctl resume --fleet".to_owned(),
                Scope::Group(group) => format!("rebootlockctl resume {}", in_group(group)),
            };
            let why = format!("paused: {}", view::paused(scope, pause.as_ref(), facts.now));
            let reason = Reason::new("paused", why, resume);
            // That of the fleet shows in every group.
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
    }
    reasons
}

/// What its agent found against it.
fn blocked(facts: &Facts, told: &Blocked) -> Reason {
    let why = format!("{} ({})", told.why, lasted(facts, told.since));
    let todo = match told.outcome.as_str() {
        "kill_switch_active" => match switch(&told.why) {
            Some(path) => format!("rm {}, on that machine", word(path)),
            None => "take the kill switch file away, on that machine".to_owned(),
        },
        "window_denied" | "window_outside_allow" => {
            "wait; rebootlockctl windows, on that machine, shows when they open".to_owned()
        }
        "health_blocked" => {
            "mend it, or wait; rebootlockctl machines shows how the others are".to_owned()
        }
        "still-required" => format!(
            "find out why; rebootlockctl request {} reboots it all the same",
            word(facts.machine.as_str())
        ),
        "overdue" => "systemctl list-jobs, on that machine, shows what keeps it up".to_owned(),
        "lock_unavailable" => "rebootlockctl status --all-groups".to_owned(),
        _ => "wait; it is looked at again".to_owned(),
    };
    Reason::new(&told.outcome, why, todo)
}

/// The file in an agent's sentence about its kill switch.
fn switch(why: &str) -> Option<&str> {
    why.strip_prefix("the kill switch ")?.strip_suffix(" is there")
}

/// What the groups are waiting for: the end of a cooldown, or slots of others.
fn waits(facts: &Facts) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for (group, status) in &facts.groups {
        let Ok(status) = status else { continue };
        if let Some(cooldown) = &status.cooldown {
            let left = view::cooling(cooldown.as_ref().ok(), facts.now);
            let why = format!("group {group} cools down: {left}");
            reasons.push(Reason::new("cooldown_active", why, "wait; it ends by itself"));
        }
        let place = status.queue.iter().position(|ticket| ticket.machine == facts.machine);
        let holds = status.holders.iter().any(|holder| holder.machine == facts.machine);
        if status.semaphore.max() == 0 && !holds {
            let why = format!("group {group} lets nobody reboot: its limit is 0");
            let todo = format!("rebootlockctl set-max 1 {}", in_group(group));
            reasons.push(Reason::new("lock_unavailable", why, todo));
        } else if let Some(place) = place {
            reasons.extend(queued(facts, status, place));
        }
    }
    reasons
}

fn queued(facts: &Facts, status: &GroupStatus, place: usize) -> Option<Reason> {
    const NAMED: usize = 3;
    let (group, max) = (&status.group, status.semaphore.max());
    let mut parts = Vec::new();
    if status.semaphore.available() <= 0 {
        let named: Vec<_> = status
            .holders
            .iter()
            .take(NAMED)
            .map(|holder| holder_in_words(holder, facts.now))
            .collect();
        let more = match status.holders.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        parts.push(format!(
            "{} of {max} slot{} of group {group} held by {}{more}",
            status.holders.len(),
            if max == 1 { "" } else { "s" },
            named.join(", ")
        ));
    }
    if place > 0 {
        let first = status.queue.iter().take(place);
        let name = |ticket: &rebootlock::queue::Ticket| {
            let host = ticket.waiter.as_ref().and_then(|waiter| waiter.hostname.clone());
            host.unwrap_or_else(|| ticket.machine.to_string())
        };
        let named: Vec<_> = first.take(NAMED).map(name).collect();
        let more = if place > NAMED { ", …" } else { "" };
        parts.push(format!(
            "it is number {} in the queue of group {group}, after {}{more}",
            place + 1,
            named.join(", ")
        ));
    }
    if parts.is_empty() {
        return None;
    }
    let free = |holder: &Holder, what: &str| {
        format!(
            "look at {}, which {what}; rebootlockctl unlock {} {}, if it will not come back",
            name(holder),
            word(holder.machine.as_str()),
            in_group(group)
        )
    };
    let state = |holder: &&Holder, wanted: &HolderState| {
        record(holder).is_some_and(|record| record.state.as_ref() == Some(wanted))
    };
    let late = |holder: &&Holder| record(holder).is_some_and(|r| is_overdue(r, facts.now));
    let failed = |holder: &&Holder| state(holder, &HolderState::Failed);
    let orphaned = HolderState::Other("orphaned".to_owned());
    let orphan = |holder: &&Holder| state(holder, &orphaned);
    let holders = &status.holders;
    let todo = if let Some(holder) = holders.iter().find(failed) {
        free(holder, "is back but not well")
    } else if let Some(holder) = holders.iter().find(late) {
        free(holder, "is overdue")
    } else if let Some(holder) = holders.iter().find(orphan) {
        free(holder, "holds a slot for a command that has died")
    } else {
        let more = max.saturating_add(1);
        format!(
            "wait; rebootlockctl set-max {more} {}, if more may be down at once",
            in_group(group)
        )
    };
    Some(Reason::new("lock_unavailable", parts.join("; "), todo))
}

fn name(holder: &Holder) -> String {
    record(holder).and_then(|r| r.hostname.clone()).unwrap_or_else(|| holder.machine.to_string())
}

/// `web-9 (rebooting, for 3d4h, overdue for 3d)`
fn holder_in_words(holder: &Holder, now: UnixTime) -> String {
    let name = name(holder);
    let Some(record) = record(holder) else { return name };
    let state = record.state.as_ref().map(|state| format!("{state}, ")).unwrap_or_default();
    let age = show(now.seconds_since(record.start_time));
    let late = record.expected_back.filter(|_| is_overdue(record, now));
    let late = late.map(|back| format!(", overdue for {}", show(now.seconds_since(back))));
    format!("{name} ({state}for {age}{})", late.unwrap_or_default())
}

fn health(facts: &Facts) -> Option<Reason> {
    let Presence { health, .. } = facts.agent()?;
    let health = health.as_ref().filter(|health| !health.healthy)?;
    let why = health.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let why = format!("it is unhealthy{why} ({})", lasted(facts, health.checked_at));
    Some(Reason::new("unhealthy", why, "mend it: journalctl -u rebootlockd, on that machine"))
}

fn in_group(group: &Group) -> String {
    format!("--group {}", word(group.as_str()))
}

/// As a shell takes it for one word.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
