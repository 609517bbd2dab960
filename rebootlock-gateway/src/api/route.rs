//! What a path and a query mean. Pure.

use percent_encoding::percent_decode_str;
use rebootlock::duration;
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::Scope;
use rebootlock::record::UnixTime;

use crate::reply::{Kind, Reply};

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// Something to look at.
    See(Sight),
    /// Something to do.
    Act(Act),
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sight {
    Service,
    OpenApi,
    Fleet,
    Groups,
    Group(Group),
    Machines,
    Queue,
    History,
    Acts,
}

/// Something to do, as far as the path says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    Pause(Scope),
    Resume(Scope),
    SetMax(Group),
    Lock(MachineId),
    Unlock(MachineId),
    Request(MachineId),
    Cancel(MachineId),
    Hold(MachineId),
    Unhold(MachineId),
    Forget(MachineId),
}

/// What a query asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) since: Option<UnixTime>,
    pub(super) groups: Vec<Group>,
}

/// Where `path` leads.
pub(super) fn of(path: &str) -> Result<Route, Reply> {
    use Route::{Act as A, See};
    let below = path.strip_prefix("/api/v1").unwrap_or_default();
    let below = below.strip_prefix('/').unwrap_or(below);
    let segments: Vec<&str> = below.split('/').collect();
    Ok(match segments.as_slice() {
        [""] => See(Sight::Service),
        ["openapi.json"] => See(Sight::OpenApi),
        ["fleet"] => See(Sight::Fleet),
        ["groups"] => See(Sight::Groups),
        ["machines"] => See(Sight::Machines),
        ["queue"] => See(Sight::Queue),
        ["history"] => See(Sight::History),
        ["acts"] => See(Sight::Acts),
        ["fleet", "pause"] => A(Act::Pause(Scope::Fleet)),
        ["fleet", "resume"] => A(Act::Resume(Scope::Fleet)),
        ["groups", name] => See(Sight::Group(group(name)?)),
        ["groups", name, "pause"] => A(Act::Pause(Scope::Group(group(name)?))),
        ["groups", name, "resume"] => A(Act::Resume(Scope::Group(group(name)?))),
        ["groups", name, "set-max"] => A(Act::SetMax(group(name)?)),
        ["machines", id, "lock"] => A(Act::Lock(machine(id)?)),
        ["machines", id, "unlock"] => A(Act::Unlock(machine(id)?)),
        ["machines", id, "request"] => A(Act::Request(machine(id)?)),
        ["machines", id, "cancel"] => A(Act::Cancel(machine(id)?)),
        ["machines", id, "hold"] => A(Act::Hold(machine(id)?)),
        ["machines", id, "unhold"] => A(Act::Unhold(machine(id)?)),
        ["machines", id, "forget"] => A(Act::Forget(machine(id)?)),
        _ => return Err(Reply::new(Kind::NotFound, "there is nothing at this path")),
    })
}

/// Nothing is asked for where nothing can be.
pub(super) fn no_query(query: Option<&str>) -> Result<(), Reply> {
    match query.filter(|query| !query.is_empty()) {
        None => Ok(()),
        Some(_) => Err(wrong("nothing can be asked for after the `?` here".to_owned())),
    }
}

/// `since=7d&group=lb`, the latter if `groups` can be asked for, and as often as one likes.
pub(super) fn query(query: Option<&str>, now: UnixTime, groups: bool) -> Result<Wanted, Reply> {
    let mut wanted = Wanted::default();
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    for pair in pairs {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match decode(name, true)?.as_str() {
            "since" if wanted.since.is_none() => {
                let ago = duration::parse(&decode(value, true)?);
                let ago = ago.map_err(|problem| wrong(format!("`since`: {problem}")))?;
                let ago = i64::try_from(ago.as_secs()).unwrap_or(i64::MAX);
                wanted.since = Some(UnixTime(now.0.saturating_sub(ago)));
            }
            "since" => return Err(wrong("`since` is asked for twice".to_owned())),
            "group" if groups => wanted.groups.push(group(value)?),
            other => {
                let known = if groups { "`since` and `group`" } else { "`since`" };
                return Err(wrong(format!("{other:?} cannot be asked for here; {known} can")));
            }
        }
    }
    wanted.groups.sort();
    wanted.groups.dedup();
    Ok(wanted)
}

/// A group, form-encoded as in the store's keys: a blank is a plus.
fn group(text: &str) -> Result<Group, Reply> {
    Group::new(decode(text, true)?).map_err(|error| wrong(error.to_string()))
}

/// A machine. There are no blanks in an id, so a plus is one.
fn machine(text: &str) -> Result<MachineId, Reply> {
    MachineId::new(decode(text, false)?).map_err(|error| wrong(error.to_string()))
}

fn decode(text: &str, plus_is_blank: bool) -> Result<String, Reply> {
    let text = if plus_is_blank { text.replace('+', " ") } else { text.to_owned() };
    match percent_decode_str(&text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(wrong(format!("{text:?} is not UTF-8"))),
    }
}

fn wrong(problem: String) -> Reply {
    Reply::new(Kind::InvalidParams, problem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_form_encoded() {
        let group = |name| Group::new(name).unwrap();
        for (path, name) in [("lb", "lb"), ("rack+7", "rack 7"), ("a%2Fb", "a/b"), ("a%2Bb", "a+b")]
        {
            let route = of(&format!("/api/v1/groups/{path}")).unwrap();
            assert_eq!(route, Route::See(Sight::Group(group(name))), "{path}");
        }
        let machine = MachineId::new("a+b").unwrap();
        for path in ["a+b", "a%2Bb"] {
            let route = of(&format!("/api/v1/machines/{path}/hold")).unwrap();
            assert_eq!(route, Route::Act(Act::Hold(machine.clone())), "{path}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_not_found_and_what_is_no_name_is_said() {
        for (path, status) in [
            ("/api/v1/nothing", 404),
            ("/api/v1/groups/", 400),
            ("/api/v1/groups/a/b", 404),
            ("/api/v1/groups/a%0Ab", 400),
            ("/api/v1/groups/%ff", 400),
            ("/api/v1/machines/a%20b/hold", 400),
            ("/api/v1/machines/a%2Fb/hold", 400),
            ("/api/v1/machines//hold", 400),
            ("/api/v1/fleet/pause/", 404),
            ("/api/v2", 404),
        ] {
            let status_of = of(path).map_err(|reply| reply.kind.status().as_u16());
            assert_eq!(status_of.err(), Some(status).filter(|_| path != "/api/v2"), "{path}");
        }
    }

    #[test]
    fn a_query_is_understood_or_refused() {
        let now = UnixTime(1_000_000);
        let asked = query(Some("since=1h&group=rack+7&group=a%2Fb"), now, true).unwrap();
        let groups = ["a/b", "rack 7"].map(|name| Group::new(name).unwrap());
        assert_eq!(asked, Wanted { since: Some(UnixTime(996_400)), groups: groups.into() });
        assert_eq!(query(None, now, true).unwrap(), Wanted::default());
        for wrong in ["since=yesterday", "since=", "since", "since=1h&since=2h", "x=1", "group="] {
            assert!(query(Some(wrong), now, true).is_err(), "{wrong}");
        }
        assert!(query(Some("group=a"), now, false).is_err());
        assert!(no_query(Some("x")).is_err() && no_query(Some("")).is_ok());
    }

    proptest! {
        #[test]
        fn no_path_and_no_query_make_it_panic(text in "[ -~]{0,60}") {
            let _ = of(&format!("/api/v1/{text}"));
            let _ = query(Some(&text), UnixTime(0), true);
        }
    }
}
