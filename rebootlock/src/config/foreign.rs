//! Files as anybody may write them, and whatever else they hold.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use toml::{Table, Value};

use super::{ConfigError, Fragment, Settings, read_files};

/// Every key of every table, right and wrong: a name is drawn for any table.
const NAMES: &[&str] = &[
    "store",
    "machine",
    "agent",
    "window",
    "log",
    "endpoints",
    "ca_file",
    "username",
    "prefix",
    "timeout_secs",
    "id_file",
    "boot_id_file",
    "groups",
    "strategy",
    "priority",
    "warn_users_secs",
    "inhibit_timeout_secs",
    "reboot_deadline_secs",
    "poll_secs",
    "best_effort_wait_secs",
    "start",
    "length",
    "format",
    "level",
    "password",
    "endpoint",
];

/// The keys of each table, as the default file documents them.
const KNOWN: &[(&str, &[&str])] = &[
    (
        "store",
        &[
            "endpoints",
            "ca_file",
            "cert_file",
            "key_file",
            "username",
            "password_file",
            "prefix",
            "timeout_secs",
        ],
    ),
    ("machine", &["id_file", "boot_id_file", "groups"]),
    (
        "agent",
        &[
            "strategy",
            "priority",
            "warn_users_secs",
            "inhibit_timeout_secs",
            "reboot_deadline_secs",
            "poll_secs",
            "best_effort_wait_secs",
        ],
    ),
    ("window", &["start", "length"]),
    ("log", &["format", "level"]),
];

fn name() -> impl Strategy<Value = String> {
    prop_oneof![9 => prop::sample::select(NAMES).prop_map(str::to_owned), 1 => "\\PC{0,8}"]
}

fn text() -> impl Strategy<Value = String> {
    const LIKELY: &[&str] =
        &["memory:", "http://h:1", "off", "lock", "json", "Thu 23:00", "1h30m", "lb", "/a/b"];
    prop_oneof![prop::sample::select(LIKELY).prop_map(str::to_owned), any::<String>()]
}

fn value() -> impl Strategy<Value = Value> {
    let one = prop_oneof![
        text().prop_map(Value::String),
        prop_oneof![any::<i64>(), 0..100_i64].prop_map(Value::Integer),
        any::<f64>().prop_map(Value::Float),
        any::<bool>().prop_map(Value::Boolean),
        Just(Value::Datetime("1979-05-27T07:32:00Z".parse().unwrap())),
    ];
    one.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((name(), inner), 0..4)
                .prop_map(|members| Value::Table(members.into_iter().collect())),
        ]
    })
}

/// Any table at all.
fn anything() -> impl Strategy<Value = Table> {
    prop::collection::vec((name(), value()), 0..5).prop_map(|members| members.into_iter().collect())
}

/// Tables that are known, with keys that are known, and mostly with values of their kind.
fn likely() -> impl Strategy<Value = Table> {
    let fitting = |key: &str| match key {
        "endpoints" | "groups" => prop::collection::vec(text().prop_map(Value::String), 0..3)
            .prop_map(Value::Array)
            .boxed(),
        key if key.ends_with("_secs") || key == "priority" => {
            prop_oneof![any::<i64>(), 0..100_i64].prop_map(Value::Integer).boxed()
        }
        _ => text().prop_map(Value::String).boxed(),
    };
    let member = prop::sample::select(KNOWN).prop_flat_map(move |(table, keys)| {
        prop::sample::select(keys).prop_flat_map(move |key| {
            // A password file is read: these are not for that.
            let kind = if key == "password_file" {
                Just(Value::Boolean(true)).boxed()
            } else {
                fitting(key)
            };
            (Just(table), Just(key), prop_oneof![9 => kind, 1 => value()])
        })
    });
    prop::collection::vec(member, 0..6).prop_map(|members| {
        let mut whole = Table::new();
        for (table, key, value) in members {
            let inner = whole.entry(table).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                inner.insert(key.to_owned(), value);
            }
        }
        if let Some(window) = whole.remove("window") {
            whole.insert("window".to_owned(), Value::Array(vec![window]));
        }
        whole
    })
}

fn unknown_names(whole: &Table) -> bool {
    whole.iter().any(|(table, inner)| {
        let Some((_, known)) = KNOWN.iter().find(|(name, _)| name == table) else { return true };
        let inner = match inner {
            Value::Array(windows) => windows.iter().filter_map(Value::as_table).collect(),
            inner => inner.as_table().into_iter().collect::<Vec<_>>(),
        };
        inner.iter().any(|inner| inner.keys().any(|key| !known.contains(&key.as_str())))
    })
}

/// It is named by file, line and column, in one line, and the place is one in the file.
fn names_its_place(text: &str, error: &ConfigError) -> Result<(), TestCaseError> {
    let ConfigError::Syntax { line, column, problem, .. } = error else {
        return Err(TestCaseError::fail(format!("{error:?}")));
    };
    let said = error.to_string();
    prop_assert!(said.starts_with(&format!("f.toml:{line}:{column}: ")), "{}", said);
    prop_assert!(!problem.is_empty() && !said.contains('\n'), "{}", said);
    let at = text.split('\n').nth(line - 1);
    prop_assert!(at.is_some_and(|at| *column <= at.chars().count() + 1), "{} of {:?}", said, text);
    Ok(())
}

/// No number that was accepted is too large for a clock.
fn can_be_waited_for(settings: &Settings) -> bool {
    let Settings { store, agent, .. } = settings;
    let times = [
        store.timeout,
        agent.warn_users,
        agent.inhibit_timeout,
        agent.reboot_deadline,
        agent.poll.mul_f64(1.2),
        agent.best_effort_wait,
    ];
    times.iter().all(|time| Instant::now().checked_add(*time + Duration::from_secs(1)).is_some())
}

fn check(text: &str) -> Result<bool, TestCaseError> {
    match Fragment::parse(Path::new("f.toml"), text) {
        Ok(fragment) => {
            if fragment.store.password_file.is_none()
                && let Ok(settings) = Settings::decide(fragment)
            {
                prop_assert!(can_be_waited_for(&settings), "{:?}", settings);
            }
            Ok(true)
        }
        Err(error) => names_its_place(text, &error).map(|()| false),
    }
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in prop_oneof![any::<String>(), "[\\[\\]=\"'a-z_\\\\\n#.{},0-9 ]{0,60}"]) {
        check(&text)?;
    }

    #[test]
    fn a_document_is_read_or_its_fault_is_named_with_its_place(table in prop_oneof![anything(), likely()]) {
        let text = toml::to_string(&table).unwrap();
        let read = check(&text)?;
        prop_assert!(!(read && unknown_names(&table)), "accepted: {}", text);
    }

    #[test]
    fn a_document_that_was_cut_off_is_read_or_named_too(table in likely(), end in any::<prop::sample::Index>()) {
        let text = toml::to_string(&table).unwrap();
        let cut: String = text.chars().take(end.index(text.chars().count() + 1)).collect();
        check(&cut)?;
    }

    #[test]
    fn a_file_of_any_bytes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let refused = read_files(Some(file.path())).err();
        if std::str::from_utf8(&bytes).is_err() {
            prop_assert!(matches!(refused, Some(ConfigError::Unreadable { .. })), "{:?}", refused);
        }
    }
}
