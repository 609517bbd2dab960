//! The bodies of actions. Nothing is guessed: what is not known is refused, and so is what is there twice,
//! of another type, or `null`.

use std::time::Duration;

use rebootlock::id::{Group, Token};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::route::Act;
use crate::act::Action;

/// The longest that something may last, in seconds: a hundred years.
const LONGEST_SECS: u64 = 100 * 365 * 86_400;

/// Beyond it not every whole number is one of floating point.
const EXACT_UP_TO: f64 = 9_007_199_254_740_992.0;

/// So many groups can be named at once.
const MOST_GROUPS: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Lasting {
    reason: String,
    #[serde(default, deserialize_with = "whole_if_given")]
    for_secs: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetMax {
    reason: String,
    #[serde(deserialize_with = "whole")]
    max: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lock {
    reason: String,
    #[serde(default, deserialize_with = "given")]
    groups: Option<Vec<Group>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unlock {
    reason: String,
    #[serde(default, deserialize_with = "given")]
    groups: Option<Vec<Group>>,
    #[serde(default, deserialize_with = "given")]
    token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    reason: String,
    #[serde(default, deserialize_with = "whole")]
    priority: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Forget {
    reason: String,
    #[serde(default)]
    even_if_present: bool,
}

/// The action that path and body say together, and the reason.
///
/// # Errors
/// What is wrong with the body, in words.
pub(super) fn read(act: Act, body: &[u8]) -> Result<(Action, String), String> {
    Ok(match act {
        Act::Pause(scope) => {
            let Lasting { reason, for_secs } = parse(body)?;
            (Action::Pause { scope, lasting: lasting(for_secs)? }, reason)
        }
        Act::Resume(scope) => (Action::Resume { scope }, parse::<Plain>(body)?.reason),
        Act::SetMax(group) => {
            let SetMax { reason, max } = parse(body)?;
            (Action::SetMax { group, max }, reason)
        }
        Act::Lock(machine) => {
            let Lock { reason, groups } = parse(body)?;
            (Action::Lock { machine, groups: named(groups)? }, reason)
        }
        Act::Unlock(machine) => {
            let Unlock { reason, groups, token } = parse(body)?;
            (Action::Unlock { machine, groups: named(groups)?, token }, reason)
        }
        Act::Request(machine) => {
            let Request { reason, priority } = parse(body)?;
            (Action::Request { machine, priority }, reason)
        }
        Act::Cancel(machine) => (Action::Cancel { machine }, parse::<Plain>(body)?.reason),
        Act::Hold(machine) => {
            let Lasting { reason, for_secs } = parse(body)?;
            (Action::Hold { machine, lasting: lasting(for_secs)? }, reason)
        }
        Act::Unhold(machine) => (Action::Unhold { machine }, parse::<Plain>(body)?.reason),
        Act::Forget(machine) => {
            let Forget { reason, even_if_present } = parse(body)?;
            (Action::Forget { machine, even_if_present }, reason)
        }
    })
}

fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, String> {
    // A list of the members' values in their order would do for a struct, too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("the body must be an object with a `reason` in it".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("the body cannot be understood: {error}"))
}

/// What is there is not `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A number without a fraction, which may be written with one: `3.0` is 3.
fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let exactly = |float: f64| {
        let fits = float.fract() == 0.0 && (0.0..=EXACT_UP_TO).contains(&float);
        // It is whole, not negative and small enough for every digit to count.
        fits.then_some(float as u64)
    };
    let whole = number.as_u64().or_else(|| exactly(number.as_f64()?));
    let whole = whole.and_then(|whole| T::try_from(whole).ok());
    whole.ok_or_else(|| {
        D::Error::custom(format_args!("{number} is no number that can be used here"))
    })
}

fn whole_if_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    whole(deserializer).map(Some)
}

fn lasting(secs: Option<u64>) -> Result<Option<Duration>, String> {
    match secs {
        Some(secs) if secs == 0 || secs > LONGEST_SECS => {
            Err(format!("`forSecs` {secs} is not from 1 to {LONGEST_SECS}"))
        }
        secs => Ok(secs.map(Duration::from_secs)),
    }
}

fn named(groups: Option<Vec<Group>>) -> Result<Vec<Group>, String> {
    let Some(mut groups) = groups else { return Ok(Vec::new()) };
    let named = groups.len();
    groups.sort();
    groups.dedup();
    match named {
        0 => Err("`groups` must name one, or not be there".to_owned()),
        n if n > MOST_GROUPS => Err(format!("`groups` names more than {MOST_GROUPS}")),
        n if n > groups.len() => Err("`groups` names one twice".to_owned()),
        _ => Ok(groups),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use rebootlock::id::MachineId;
    use rebootlock::lock::Scope;

    use super::*;

    fn machine() -> MachineId {
        MachineId::new("a").unwrap()
    }

    #[test]
    fn what_is_said_is_understood() {
        let pause = read(Act::Pause(Scope::Fleet), br#"{"reason":"x","forSecs":60}"#).unwrap();
        let lasting = Some(Duration::from_secs(60));
        assert_eq!(pause, (Action::Pause { scope: Scope::Fleet, lasting }, "x".to_owned()));
        let (max, _) = read(Act::SetMax(Group::default()), br#"{"reason":"x","max":3.0}"#).unwrap();
        assert_eq!(max, Action::SetMax { group: Group::default(), max: 3 });
        let body = br#" {"groups":["b","a"], "reason":"x"} "#;
        let (lock, _) = read(Act::Lock(machine()), body).unwrap();
        let groups = ["a", "b"].map(|name| Group::new(name).unwrap()).into();
        assert_eq!(lock, Action::Lock { machine: machine(), groups });
    }

    #[test]
    fn what_is_not_known_is_refused_and_nothing_is_guessed() {
        let unlock = || Act::Unlock(machine());
        for (act, body, said) in [
            (unlock(), "", "must be an object"),
            (unlock(), "[\"x\"]", "must be an object"),
            (unlock(), "{}", "missing field `reason`"),
            (unlock(), r#"{"reason":1}"#, "invalid type: integer"),
            (unlock(), r#"{"reason":"x","reason":"x"}"#, "duplicate field"),
            (unlock(), r#"{"reason":"x","group":"lb"}"#, "unknown field `group`"),
            (unlock(), r#"{"reason":"x","groups":null}"#, "invalid type: null"),
            (unlock(), r#"{"reason":"x","groups":[]}"#, "must name one"),
            (unlock(), r#"{"reason":"x","groups":["a","a"]}"#, "names one twice"),
            (unlock(), r#"{"reason":"x","groups":[""]}"#, "group name is empty"),
            (unlock(), r#"{"reason":"x","token":"x"}"#, "UUID"),
            (unlock(), r#"{"reason":"x"} x"#, "trailing characters"),
            (Act::Hold(machine()), r#"{"reason":"x","forSecs":0}"#, "is not from 1 to"),
            (Act::Hold(machine()), r#"{"reason":"x","forSecs":3153600001}"#, "is not from 1 to"),
            (Act::Hold(machine()), r#"{"reason":"x","forSecs":"60"}"#, "invalid type: string"),
            (Act::SetMax(Group::default()), r#"{"reason":"x","max":-1}"#, "-1 is no number"),
            (Act::SetMax(Group::default()), r#"{"reason":"x","max":1.5}"#, "1.5 is no number"),
            (Act::SetMax(Group::default()), r#"{"reason":"x","max":1e300}"#, "is no number"),
            (Act::SetMax(Group::default()), r#"{"reason":"x","max":4294967296}"#, "is no number"),
            (Act::SetMax(Group::default()), r#"{"reason":"x"}"#, "missing field `max`"),
        ] {
            let problem = read(act, body.as_bytes()).unwrap_err();
            assert!(problem.contains(said), "{body}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(Act::Unlock(machine()), &bytes);
        }
    }
}
