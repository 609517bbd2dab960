//! The example files of `proto-docs` are read as they say, and printed again.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use rebootlock::record::{
    Act, Cooldown, Deed, Disruption, Document, GoaheadAsk, GoaheadGrant, Hold, HolderRecord,
    HolderState, OverdueReleases, Past, Pause, Presence, Request, RosterEntry, SaidLimit, Session,
    Via, Waiter,
};
use rebootlock::semaphore::Semaphore;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../proto-docs/examples")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// Reads and prints a document of this kind.
fn printed<D: Document>(name: &str) -> String {
    String::from_utf8(D::from_json(text(name).as_bytes()).unwrap().to_json()).unwrap()
}

fn semaphore(name: &str) -> Semaphore {
    Semaphore::from_json(text(name).as_bytes()).unwrap()
}

#[test]
fn semaphores_are_printed_as_they_are_written() {
    for name in ["semaphore.json", "semaphore-fresh.json", "semaphore-lowered.json"] {
        assert_eq!(String::from_utf8(semaphore(name).to_json()).unwrap(), text(name));
    }
    assert_eq!(semaphore("semaphore-lowered.json").available(), -1);
}

#[test]
fn other_ways_to_write_a_semaphore_mean_the_same() {
    assert_eq!(semaphore("semaphore-null.json"), semaphore("semaphore-fresh.json"));
    let indented = semaphore("semaphore-indented.json");
    assert_eq!((indented.available(), indented.max()), (1, 2));
    let printed = String::from_utf8(indented.to_json()).unwrap();
    assert!(printed.ends_with(r#","comment":{"by":"hand"}}"#), "{printed}");
}

#[test]
fn damaged_semaphores_are_refused() {
    let damaged = |name: &str| name.starts_with("damaged-");
    let mut seen = 0;
    for name in names().iter().filter(|name| damaged(name)) {
        assert!(Semaphore::from_json(text(name).as_bytes()).is_err(), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[test]
fn the_other_documents_are_printed_as_they_are_written() {
    assert_eq!(printed::<HolderRecord>("holder-coreos.json"), text("holder-coreos.json"));
    assert_eq!(printed::<HolderRecord>("holder.json"), text("holder.json"));
    assert_eq!(printed::<Waiter>("waiter.json"), text("waiter.json"));
    for name in ["pause.json", "pause-until.json"] {
        assert_eq!(printed::<Pause>(name), text(name));
    }
    assert_eq!(printed::<Hold>("hold.json"), text("hold.json"));
    assert_eq!(printed::<Cooldown>("cooldown.json"), text("cooldown.json"));
    for name in ["history.json", "history-unlocked.json"] {
        assert_eq!(printed::<Past>(name), text(name));
        assert!(Past::from_json(text(name).as_bytes()).unwrap().unknown.is_empty());
    }
    for name in ["act.json", "act-fleet.json"] {
        assert_eq!(printed::<Act>(name), text(name));
    }
    assert_eq!(Act::from_json(text("act.json").as_bytes()).unwrap().deed, Deed::Unlock);
    assert_eq!(printed::<OverdueReleases>("overdue-releases.json"), text("overdue-releases.json"));
    for name in ["disruption.json", "disruption-proving.json"] {
        assert_eq!(printed::<Disruption>(name), text(name));
        assert!(Disruption::from_json(text(name).as_bytes()).unwrap().unknown.is_empty());
    }
    assert_eq!(printed::<SaidLimit>("disruption-limit.json"), text("disruption-limit.json"));
    assert_eq!(printed::<RosterEntry>("roster.json"), text("roster.json"));
    assert_eq!(printed::<Presence>("presence-unhealthy.json"), text("presence-unhealthy.json"));
    assert_eq!(printed::<Request>("request.json"), text("request.json"));
    assert_eq!(printed::<Session>("session.json"), text("session.json"));
    assert_eq!(printed::<Presence>("presence.json"), text("presence.json"));
    assert_eq!(printed::<GoaheadAsk>("goahead-ask.json"), text("goahead-ask.json"));
    assert_eq!(printed::<HolderRecord>("holder-goahead.json"), text("holder-goahead.json"));
    let mut record = HolderRecord::from_json(text("holder-goahead.json").as_bytes()).unwrap();
    assert_eq!(record.via, Some(Via::Goahead));
    let grant = GoaheadGrant::of(&record).unwrap().unwrap();
    assert!(grant.unknown.is_empty() && grant.actions_due && grant.successes == 2);
    grant.write_into(&mut record);
    assert_eq!(record.to_json(), text("holder-goahead.json").into_bytes());
    let holder = HolderRecord::from_json(text("holder.json").as_bytes()).unwrap();
    assert_eq!(holder.state, Some(HolderState::Rebooting));
    assert_eq!(holder.via, Some(Via::Agent));
    assert!(holder.unknown.is_empty());
}

#[test]
fn every_example_is_in_the_documents_page() {
    let page = std::fs::read_to_string(folder().join("../documents.md")).unwrap();
    for name in names() {
        assert!(page.contains(&format!("(examples/{name})")), "{name}");
    }
}

fn names() -> BTreeSet<String> {
    let files = std::fs::read_dir(folder()).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}
