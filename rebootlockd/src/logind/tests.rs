#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use zbus::Message;

use std::path::{Component, Path};

use super::terminal::terminal;
use super::*;
use crate::bus::foreign::{anything, body, text};

fn words(known: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![3 => prop::sample::select(known).prop_map(str::to_owned), 1 => text()]
}

fn inhibitor() -> impl Strategy<Value = InhibitorRow> {
    const WHAT: &[&str] = &["shutdown", "sleep", "handle-power-key", "", "shut", "Shutdown"];
    const MODE: &[&str] = &["block", "delay", "block-weak", "", "blo"];
    let what = prop::collection::vec(words(WHAT), 0..4).prop_map(|what| what.join(":"));
    (what, text(), text(), words(MODE), any::<u32>(), any::<u32>())
}

fn blocks((what, _, _, mode, ..): &InhibitorRow) -> bool {
    format!(":{what}:").contains(":shutdown:") && mode.get(..5) == Some("block")
}

proptest! {
    #[test]
    fn every_inhibitor_that_blocks_a_shutdown_is_named_in_order(
        rows in prop::collection::vec(inhibitor(), 0..6)
    ) {
        let expected: Vec<_> = rows.iter().filter(|row| blocks(row)).map(|row| {
            Inhibitor { who: printable(&row.1), why: printable(&row.2) }
        }).collect();
        let found = in_the_way(rows);
        let one_line = |inhibitor: &Inhibitor| {
            !inhibitor.who.contains(char::is_control) && !inhibitor.why.contains(char::is_control)
        };
        prop_assert!(found.iter().all(one_line));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn one_more_inhibitor_never_hides_another(
        rows in prop::collection::vec(inhibitor(), 0..6), more in inhibitor(), at in 0..6_usize
    ) {
        let before = in_the_way(rows.clone());
        let mut rows = rows;
        rows.insert(at.min(rows.len()), more);
        let after = in_the_way(rows);
        prop_assert!(before.iter().all(|inhibitor| after.contains(inhibitor)));
    }

    #[test]
    fn a_reply_is_read_as_it_was_written(
        rows in prop::collection::vec(inhibitor(), 0..4), numbers in any::<(u32, u32)>()
    ) {
        let call = Message::method_call("/org/freedesktop/login1", "ListInhibitors");
        let call = call.build(&()).unwrap();
        let reply = Message::method_return(&call.header()).build(&rows).unwrap();
        prop_assert_eq!(reply.body().deserialize::<Vec<InhibitorRow>>().unwrap(), rows.clone());
        prop_assert!(reply.body().deserialize::<Vec<SessionRow>>().is_err());
        // With one number less it is another list, and not one without inhibitors.
        let short: Vec<_> = rows.into_iter().map(|(a, b, c, d, e, _)| (a, b, c, d, e)).collect();
        let reply = Message::method_return(&call.header()).build(&short).unwrap();
        prop_assert!(reply.body().deserialize::<Vec<InhibitorRow>>().is_err());
        let wide: Vec<_> = short.iter().map(|row| (&row.0, &row.1, &row.2, &row.3, row.4, numbers)).collect();
        let reply = Message::method_return(&call.header()).build(&wide).unwrap();
        prop_assert!(reply.body().deserialize::<Vec<InhibitorRow>>().is_err());
    }

    #[test]
    fn no_other_reply_is_taken_for_a_list(values in prop::collection::vec(anything(), 0..4)) {
        let call = Message::method_call("/org/freedesktop/login1", "ListInhibitors");
        let call = call.build(&()).unwrap();
        let reply = body(Message::method_return(&call.header()), &values);
        prop_assert!(reply.body().deserialize::<Vec<InhibitorRow>>().is_err());
        prop_assert!(reply.body().deserialize::<Vec<SessionRow>>().is_err());
    }

    #[test]
    fn whoever_is_not_known_to_be_nobody_has_a_class_of_users(
        class in words(&["user", "user-early", "greeter", "background", "manager", "User"]),
        state in words(&["online", "active", "closing", "opening"]),
    ) {
        let expected = class.get(..4) == Some("user") && state != "closing";
        prop_assert_eq!(is_somebody(&class, &state), expected);
    }

    #[test]
    fn no_terminal_is_outside_dev(
        tty in prop_oneof![
            text(), any::<String>(),
            words(&["pts/0", "tty1", "../etc/passwd", "/etc/passwd", "pts/../../x", ".", "a/./b"]),
        ]
    ) {
        if let Some(path) = terminal(&tty) {
            prop_assert!(path.starts_with("/dev") && path != Path::new("/dev"));
            prop_assert!(path.components().all(|part| part != Component::ParentDir));
        }
    }
}

#[test]
fn terminals_are_found() {
    assert_eq!(terminal("pts/0"), Some("/dev/pts/0".into()));
    assert_eq!(terminal("tty1"), Some("/dev/tty1".into()));
    assert_eq!(terminal(""), None);
}
