//! A group as a person sees it.

use rebootlock::duration;
use rebootlock::lock::{GroupStatus, Held, Holder, Scope};
use rebootlock::queue::Ticket;
use rebootlock::record::{Cooldown, HolderRecord, Pause, UnixTime};
pub(crate) use rebootlock::view::{is_overdue, obstacle};

use crate::output::{Field, clean, table};

/// The group under what stops it, its holders and its queue. With only a semaphore in the store this is to
/// the letter what CoreOS printed.
pub(crate) fn status(status: &GroupStatus, now: UnixTime, colour: bool) -> String {
    let mut text = String::new();
    for (scope, pause) in &status.paused {
        text += &format!("Paused: {}\n", paused(scope, pause.as_ref(), now));
    }
    for held in &status.held {
        text += &format!("Held: {}\n", self::held(held, now));
    }
    if let Some(cooldown) = &status.cooldown {
        text += &format!("Cooling down: {}\n", cooling(cooldown.as_ref().ok(), now));
    }
    let semaphore = &status.semaphore;
    text += &format!("Available: {}\nMax: {}\n", semaphore.available(), semaphore.max());
    if !status.holders.is_empty() {
        text += "\n";
        text += &holders(&status.holders, now, colour);
    }
    if !status.queue.is_empty() {
        text += "\nWAITING\n";
        text += &waiters(&status.queue, now);
    }
    text
}

/// `group lb by alice: kernel trouble (for 5m)`
pub(crate) fn paused(scope: &Scope, pause: Option<&Pause>, now: UnixTime) -> String {
    match pause {
        None => format!("{scope} (the pause at its key cannot be read, and counts all the same)"),
        Some(pause) => {
            let time = times(pause.since, pause.until, now);
            clean(&format!("{scope} by {}{} ({time})", pause.by, because(pause.reason.as_deref())))
        }
    }
}

/// `web-3 by alice: restoring a backup (for 5m, for another 1h55m)`
pub(crate) fn held(held: &Held, now: UnixTime) -> String {
    let machine = &held.machine;
    let Some(hold) = &held.hold else {
        return clean(&format!("{machine} (the hold cannot be read, and counts all the same)"));
    };
    let time = times(hold.since, hold.until, now);
    clean(&format!("{machine} by {}{} ({time})", hold.by, because(hold.reason.as_deref())))
}

/// `for another 9m30s after the reboot of web-3`
pub(crate) fn cooling(cooldown: Option<&Cooldown>, now: UnixTime) -> String {
    let Some(cooldown) = cooldown else {
        return "the document cannot be read, and counts all the same".to_owned();
    };
    clean(&format!("{} after the reboot of {}", left(cooldown.until(), now), cooldown.name()))
}

fn because(reason: Option<&str>) -> String {
    reason.map(|why| format!(": {why}")).unwrap_or_default()
}

/// `for 5m`, and for how long yet if it ends by itself.
fn times(since: UnixTime, until: Option<UnixTime>, now: UnixTime) -> String {
    let age = duration::show(now.seconds_since(since));
    match until {
        None => format!("for {age}"),
        Some(until) => format!("for {age}, {}", left(until, now)),
    }
}

/// The store's clock decides, so by ours it may last longer than it should.
fn left(until: UnixTime, now: UnixTime) -> String {
    match until.seconds_since(now) {
        0 => "about to end".to_owned(),
        left => format!("for another {}", duration::show(left)),
    }
}

fn holders(holders: &[Holder], now: UnixTime, colour: bool) -> String {
    if holders.iter().all(|holder| holder.record.is_none()) {
        let ids = holders.iter().map(|holder| clean(holder.machine.as_str()) + "\n");
        return "MACHINE ID\n".to_owned() + &ids.collect::<String>();
    }
    let record = |holder: &Holder| holder.record.clone().and_then(Result::ok);
    let reasons = holders.iter().any(|holder| record(holder).is_some_and(|r| r.reason.is_some()));
    let mut headings = vec!["MACHINE ID", "HOST", "STATE", "HELD FOR"];
    headings.extend(reasons.then_some("REASON"));
    let rows = holders.iter().map(|holder| {
        let mut row = vec![Field::new(holder.machine.as_str())];
        match &holder.record {
            None => row.extend([Field::new(""), Field::new(""), Field::new("")]),
            Some(Err(_)) => {
                row.extend([Field::new(""), Field::alarming("damaged record"), Field::new("")]);
            }
            Some(Ok(record)) => row.extend([
                Field::new(record.hostname.as_deref().unwrap_or_default()),
                state(record, now),
                Field::new(duration::show(now.seconds_since(record.start_time))),
            ]),
        }
        if reasons {
            row.push(Field::new(record(holder).and_then(|r| r.reason).unwrap_or_default()));
        }
        row
    });
    table(&headings, rows.collect(), colour)
}

fn state(record: &HolderRecord, now: UnixTime) -> Field {
    let state = record.state.as_ref().map(ToString::to_string);
    match (state, is_overdue(record, now)) {
        (state, false) => Field::new(state.unwrap_or_default()),
        (None, true) => Field::alarming("overdue"),
        (Some(state), true) => Field::alarming(format!("{state}, overdue")),
    }
}

fn waiters(queue: &[Ticket], now: UnixTime) -> String {
    let priorities = queue.iter().any(|ticket| priority(ticket) > 0);
    let mut headings = vec!["MACHINE ID", "HOST", "WAITING FOR"];
    headings.extend(priorities.then_some("PRIORITY"));
    let rows = queue.iter().map(|ticket| {
        let mut row = waiter(ticket, now);
        row.extend(priorities.then(|| Field::new(priority(ticket).to_string())));
        row
    });
    table(&headings, rows.collect(), false)
}

/// The first fields of a row about somebody who waits: who, on which host, for how long.
pub(crate) fn waiter(ticket: &Ticket, now: UnixTime) -> Vec<Field> {
    let waiter = ticket.waiter.as_ref();
    let age = waiter.map(|waiter| duration::show(now.seconds_since(waiter.since)));
    vec![
        Field::new(ticket.machine.as_str()),
        Field::new(waiter.and_then(|waiter| waiter.hostname.as_deref()).unwrap_or_default()),
        Field::new(age.unwrap_or_default()),
    ]
}

/// What a ticket's owner says of its urgency.
pub(crate) fn priority(ticket: &Ticket) -> u32 {
    ticket.waiter.as_ref().map_or(0, |waiter| waiter.priority)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rebootlock::id::{Group, MachineId};
    use rebootlock::record::{Claim, Document as _, Hold, HolderState, Via};
    use rebootlock::semaphore::Semaphore;
    use rebootlock::store::Revision;

    use super::*;

    const NOW: UnixTime = UnixTime(1_000_000);

    fn machine(id: &str) -> MachineId {
        MachineId::new(id).unwrap()
    }

    fn group(max: u32, holders: Vec<Holder>) -> GroupStatus {
        let mut semaphore = Semaphore::new(max.max(holders.len() as u32));
        for holder in &holders {
            semaphore.acquire(holder.machine.clone()).unwrap();
        }
        semaphore.set_max(max);
        GroupStatus {
            group: Group::default(),
            revision: Revision(7),
            exists: true,
            semaphore,
            holders,
            queue: Vec::new(),
            paused: Vec::new(),
            held: Vec::new(),
            cooldown: None,
        }
    }

    fn plain(id: &str) -> Holder {
        Holder { machine: machine(id), record: None }
    }

    fn recorded(id: &str, change: impl Fn(&mut HolderRecord)) -> Holder {
        let mut claim = Claim::new(machine(id), [], Via::Agent);
        claim.hostname = Some(format!("{id}.example"));
        let mut record = claim.record(UnixTime(NOW.0 - 252));
        change(&mut record);
        Holder { machine: machine(id), record: Some(Ok(record)) }
    }

    #[test]
    fn a_bare_semaphore_is_shown_as_coreos_did() {
        let text = status(&group(1, vec![plain("69d27b356a94476da859461d3a3bc6fd")]), NOW, true);
        assert_eq!(text, "Available: 0\nMax: 1\n\nMACHINE ID\n69d27b356a94476da859461d3a3bc6fd\n");
        assert_eq!(status(&group(1, vec![]), NOW, true), "Available: 1\nMax: 1\n");
        assert_eq!(
            status(&group(1, vec![plain("a"), plain("b")]), NOW, false),
            "Available: -1\nMax: 1\n\nMACHINE ID\na\nb\n"
        );
    }

    #[test]
    fn records_make_a_table_and_what_is_late_is_marked() {
        let late = recorded("b", |record| {
            record.state = Some(HolderState::Rebooting);
            record.expected_back = Some(UnixTime(NOW.0 - 1));
        });
        let damage = HolderRecord::from_json(b"{").unwrap_err();
        let damaged = Holder { machine: machine("c"), record: Some(Err(damage)) };
        let view = group(4, vec![recorded("a", |_| {}), late, damaged, plain("d")]);
        assert_eq!(
            status(&view, NOW, false),
            "Available: 0\nMax: 4\n\n\
             MACHINE ID  HOST       STATE               HELD FOR\n\
             a           a.example  holding             4m12s\n\
             b           b.example  rebooting, overdue  4m12s\n\
             c           -          damaged record      -\n\
             d           -          -                   -\n"
        );
        assert!(status(&view, NOW, true).contains("\u{1b}["));
    }

    #[test]
    fn reasons_have_a_column_only_where_there_are_any() {
        let view = group(1, vec![recorded("a", |r| r.reason = Some("disk\nswap".into()))]);
        let text = status(&view, NOW, false);
        assert!(text.contains("HELD FOR  REASON\n"), "{text}");
        assert!(text.ends_with("4m12s     disk\u{fffd}swap\n"), "{text}");
    }

    #[test]
    fn pauses_come_first_and_the_queue_last() {
        let mut view = group(1, vec![plain("a")]);
        let pause = Pause::from_json(br#"{"by":"alice","reason":"kernel trouble","since":999700}"#);
        view.paused = vec![(Scope::Group(Group::new("lb").unwrap()), Some(pause.unwrap()))];
        let mut claim = Claim::new(machine("b"), [], Via::Agent);
        claim.hostname = Some("web-2".into());
        view.queue = vec![Ticket {
            machine: machine("b"),
            created: Revision(1),
            modified: Revision(1),
            waiter: Some(claim.waiter(UnixTime(NOW.0 - 62))),
        }];
        assert_eq!(
            status(&view, NOW, false),
            "Paused: group lb by alice: kernel trouble (for 5m)\n\
             Available: 0\nMax: 1\n\nMACHINE ID\na\n\n\
             WAITING\nMACHINE ID  HOST   WAITING FOR\nb           web-2  1m2s\n"
        );
        view.queue[0].waiter.as_mut().unwrap().priority = 3;
        assert!(
            status(&view, NOW, false).ends_with("PRIORITY\nb           web-2  1m2s         3\n")
        );
        assert_eq!(obstacle(&view, 0), "group lb is paused by alice");
        view.paused.clear();
        assert_eq!(obstacle(&view, 0), "1 of 1 slot held by a");
        assert_eq!(obstacle(&view, 2), "2 before it");
        view.held = vec![Held { machine: machine("b"), hold: None }];
        assert_eq!(obstacle(&view, 0), "it is held");
    }

    #[test]
    fn what_ends_by_itself_says_when() {
        let mut view = group(1, vec![]);
        let pause = Pause::from_json(br#"{"by":"alice","since":999940,"until":1003540}"#).unwrap();
        view.paused = vec![(Scope::Fleet, Some(pause))];
        let hold =
            Hold::from_json(br#"{"by":"eve","reason":"disk","since":999700,"until":999999}"#);
        view.held = vec![
            Held { machine: machine("a"), hold: Some(hold.unwrap()) },
            Held { machine: machine("b"), hold: None },
        ];
        let text = br#"{"machineID":"c","hostname":"web-3","since":999970,"secs":600}"#;
        view.cooldown = Some(Cooldown::from_json(text));
        assert_eq!(
            status(&view, NOW, false),
            "Paused: the fleet by alice (for 1m, for another 59m)\n\
             Held: a by eve: disk (for 5m, about to end)\n\
             Held: b (the hold cannot be read, and counts all the same)\n\
             Cooling down: for another 9m30s after the reboot of web-3\n\
             Available: 1\nMax: 1\n"
        );
        view.paused.clear();
        assert_eq!(obstacle(&view, 0), "the group cools down after the reboot of web-3");
        view.cooldown = Some(Cooldown::from_json(b"?"));
        let shown = status(&view, NOW, false);
        assert!(shown.contains("Cooling down: the document cannot be read"), "{shown}");
    }
}
