//! Where each document lives. See `proto-docs/keyspace.md`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::id::{Group, MachineId, Token};
use crate::record::UnixTime;
use crate::store::{Key, Span};

/// What CoreOS's rebootlockd and locksmith used, without their leading slash.
pub const DEFAULT_PREFIX: &str = "coreos.com/updateengine/rebootlock";

/// What stays as it is in a key segment: the characters Go's `url.QueryEscape` leaves alone, as
/// locksmith wrote group names with it. The blank becomes `+` afterwards.
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');

/// A prefix that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "prefix {0:?} must not be empty, begin or end with a slash, or hold an empty segment or a control character"
)]
pub struct InvalidPrefix(String);

/// All keys below one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspace {
    prefix: String,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self { prefix: DEFAULT_PREFIX.to_owned() }
    }
}

impl FromStr for Keyspace {
    type Err = InvalidPrefix;

    /// Accepts segments joined by slashes. One leading slash is dropped: locksmith's keys had it in
    /// etcd's v2 tree, where it was part of the path.
    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let prefix = text.strip_prefix('/').unwrap_or(text);
        let segment_is_bad =
            |segment: &str| segment.is_empty() || segment.contains(char::is_control);
        if prefix.split('/').any(segment_is_bad) {
            return Err(InvalidPrefix(text.to_owned()));
        }
        Ok(Self { prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)
    }
}

impl Keyspace {
    fn base(&self, group: &Group) -> String {
        if group.is_default() {
            self.prefix.clone()
        } else {
            format!("{}/groups/{}", self.prefix, encode(group.as_str()))
        }
    }

    /// The semaphore of a group.
    pub fn semaphore(&self, group: &Group) -> Key {
        Key::new(format!("{}/semaphore", self.base(group)))
    }

    /// The record of one holder in a group.
    pub fn holder(&self, group: &Group, machine: &MachineId) -> Key {
        Key::new(format!("{}/holders/{machine}", self.base(group)))
    }

    /// Below it, all holder records of a group.
    pub fn holders(&self, group: &Group) -> Key {
        Key::new(format!("{}/holders/", self.base(group)))
    }

    /// One machine's place in the queue of a group.
    pub fn waiter(&self, group: &Group, machine: &MachineId) -> Key {
        Key::new(format!("{}/queue/{machine}", self.base(group)))
    }

    /// Below it, the whole queue of a group.
    pub fn queue(&self, group: &Group) -> Key {
        Key::new(format!("{}/queue/", self.base(group)))
    }

    /// That a machine with a priority waits in a group: beside its place, so that those without
    /// one need not read the whole queue to find out who goes before them.
    pub fn urgent(&self, group: &Group, machine: &MachineId) -> Key {
        Key::new(format!("{}/urgent/{machine}", self.base(group)))
    }

    /// Below it, all who wait in a group with a priority.
    pub fn all_urgent(&self, group: &Group) -> Key {
        Key::new(format!("{}/urgent/", self.base(group)))
    }

    /// What somebody who waits in a group has to hear of: the pause, the queue, the semaphore and
    /// the urgent, in one, so that what one commit changes is heard together.
    pub fn waited_for(&self, group: &Group) -> Span {
        // The zero is the character after the slash.
        let end = Key::new(format!("{}/urgent0", self.base(group)));
        Span::Between(self.paused(group), end)
    }

    /// Present while a group is paused.
    pub fn paused(&self, group: &Group) -> Key {
        Key::new(format!("{}/paused", self.base(group)))
    }

    /// Present while the whole fleet is paused.
    pub fn fleet_paused(&self) -> Key {
        Key::new(format!("{}/fleet/paused", self.prefix))
    }

    /// Present while a group cools down after a reboot.
    pub fn cooldown(&self, group: &Group) -> Key {
        Key::new(format!("{}/cooldown", self.base(group)))
    }

    /// How many slots of overdue machines were freed in a group lately.
    pub fn overdue_releases(&self, group: &Group) -> Key {
        Key::new(format!("{}/overdue-releases", self.base(group)))
    }

    /// Below it, what came of earlier acquisitions in a group.
    pub fn history(&self, group: &Group) -> Key {
        Key::new(format!("{}/history/", self.base(group)))
    }

    /// What came of one acquisition, begun at `start`. Keys sort by that time.
    pub fn past(&self, group: &Group, start: UnixTime, token: Token) -> Key {
        Key::new(format!("{}/history/{}-{token}", self.base(group), sortable(start)))
    }

    /// Present while one machine must not reboot.
    pub fn hold(&self, machine: &MachineId) -> Key {
        Key::new(format!("{}/holds/{machine}", self.prefix))
    }

    /// Below it, all holds.
    pub fn holds(&self) -> Key {
        Key::new(format!("{}/holds/", self.prefix))
    }

    /// Present while a machine belongs to the fleet.
    pub fn roster_entry(&self, machine: &MachineId) -> Key {
        Key::new(format!("{}/roster/{machine}", self.prefix))
    }

    /// Below it, all machines of the fleet.
    pub fn roster(&self) -> Key {
        Key::new(format!("{}/roster/", self.prefix))
    }

    /// An operator's wish that this machine reboot.
    pub fn request(&self, machine: &MachineId) -> Key {
        Key::new(format!("{}/requests/{machine}", self.prefix))
    }

    /// What a goahead client was told to ask again with.
    pub fn goahead_ask(&self, machine: &MachineId) -> Key {
        Key::new(format!("{}/goahead/asks/{machine}", self.prefix))
    }

    /// Present while some gateway looks after the holders that goahead clients are.
    pub fn goahead_caretaker(&self) -> Key {
        Key::new(format!("{}/goahead/caretaker", self.prefix))
    }

    /// Present while the command that holds a slot by this token lives.
    pub fn alive(&self, token: Token) -> Key {
        Key::new(format!("{}/alive/{token}", self.prefix))
    }

    /// Since when it is noted which clients ask again, so that the slots of silent ones may be freed.
    pub fn silent_rule(&self) -> Key {
        Key::new(format!("{}/silent-rule", self.prefix))
    }

    /// What an operator did. Keys sort by the time.
    pub fn act(&self, at: UnixTime, token: Token) -> Key {
        Key::new(format!("{}/acts/{}-{token}", self.prefix, sortable(at)))
    }

    /// Below it, what operators did.
    pub fn acts(&self) -> Key {
        Key::new(format!("{}/acts/", self.prefix))
    }

    /// Below it, all wishes that machines reboot.
    pub fn requests(&self) -> Key {
        Key::new(format!("{}/requests/", self.prefix))
    }

    /// Somebody who is signed in at a gateway, under a digest of what their browser shows: who reads
    /// this learns nothing that would let them in.
    pub fn session(&self, digest: &[u8; 32]) -> Key {
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Key::new(format!("{}/sessions/{digest}", self.prefix))
    }

    /// What a machine that speaks disruption-manager's protocol has asked for.
    pub fn disruption(&self, machine: &MachineId) -> Key {
        Key::new(format!("{}/disruption/{machine}", self.prefix))
    }

    /// Below it, what all such machines have asked for.
    pub fn disruptions(&self) -> Key {
        Key::new(format!("{}/disruption/", self.prefix))
    }

    /// Present while the time of such a machine runs.
    pub fn disruption_timer(&self, machine: &MachineId) -> Key {
        Key::new(format!("{}/disruption-time/{machine}", self.prefix))
    }

    /// Present while a gateway looks after such machines.
    pub fn disruption_keeper(&self) -> Key {
        Key::new(format!("{}/disruption-keeper", self.prefix))
    }

    /// The limit of a group as such machines say it.
    pub fn said_limit(&self, group: &Group) -> Key {
        Key::new(format!("{}/disruption-limit", self.base(group)))
    }

    /// Changes whenever such a machine says another limit of a group than it said before, with its
    /// document. Who has found out what all of them say requires that it has not changed.
    pub fn limit_word(&self, group: &Group) -> Key {
        Key::new(format!("{}/disruption-limit-word", self.base(group)))
    }

    /// Presence of one agent.
    pub fn machine(&self, machine: &MachineId) -> Key {
        Key::new(format!("{}/machines/{machine}", self.prefix))
    }

    /// Below it, the presence of all agents.
    pub fn machines(&self) -> Key {
        Key::new(format!("{}/machines/", self.prefix))
    }

    /// Below it, everything of all groups but the default one.
    pub fn groups(&self) -> Key {
        Key::new(format!("{}/groups/", self.prefix))
    }

    /// The group whose semaphore `key` is, if it is one.
    pub fn group_of_semaphore(&self, key: &Key) -> Option<Group> {
        let below = key.as_str().strip_prefix(&self.prefix)?;
        if below == "/semaphore" {
            return Some(Group::default());
        }
        let segment = below.strip_prefix("/groups/")?.strip_suffix("/semaphore")?;
        let group = Group::new(decode(segment)?).ok()?;
        // `default` and other spellings of one name must not make two groups of one.
        (!group.is_default() && encode(group.as_str()) == segment).then_some(group)
    }
}

/// Last segment of `key`, for keys that end in an id.
pub fn last_segment(key: &Key) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

/// A time whose texts sort as times do.
fn sortable(time: UnixTime) -> String {
    format!("{:012}", time.0.clamp(0, 999_999_999_999))
}

fn encode(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string().replace(' ', "+")
}

fn decode(segment: &str) -> Option<String> {
    percent_decode_str(&segment.replace('+', " ")).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_group_has_no_segment() {
        let keys = Keyspace::default();
        assert_eq!(
            keys.semaphore(&Group::default()).as_str(),
            "coreos.com/updateengine/rebootlock/semaphore"
        );
    }

    #[test]
    fn groups_are_encoded_as_locksmith_does() {
        let keys = Keyspace::default();
        for (name, segment) in [
            ("lb", "lb"),
            ("rack 7", "rack+7"),
            ("a/b", "a%2Fb"),
            ("a+b", "a%2Bb"),
            ("a*b~c", "a%2Ab~c"),
            ("köln", "k%C3%B6ln"),
        ] {
            assert_eq!(
                keys.semaphore(&Group::new(name).unwrap()).as_str(),
                format!("{DEFAULT_PREFIX}/groups/{segment}/semaphore")
            );
        }
    }

    #[test]
    fn who_waits_hears_of_its_group_and_little_else() {
        let keys = Keyspace::default();
        let (machine, token) = (MachineId::new("m").unwrap(), Token::random());
        for group in [Group::default(), Group::new("lb").unwrap()] {
            let span = keys.waited_for(&group);
            for key in [
                keys.paused(&group),
                keys.waiter(&group, &machine),
                keys.semaphore(&group),
                keys.urgent(&group, &machine),
            ] {
                assert!(span.contains(&key), "{key}");
            }
            let other = Group::new("other").unwrap();
            for key in [
                keys.holder(&group, &machine),
                keys.machine(&machine),
                keys.alive(token),
                keys.act(UnixTime(1), token),
                keys.semaphore(&other),
            ] {
                assert!(!span.contains(&key), "{key}");
            }
        }
    }

    #[test]
    fn history_sorts_by_its_beginning_whatever_a_clock_says() {
        let (keys, group, token) = (Keyspace::default(), Group::default(), Token::random());
        let past = |start| keys.past(&group, UnixTime(start), token);
        let named = format!("{DEFAULT_PREFIX}/history/001795238400-{token}");
        assert_eq!(past(1_795_238_400).as_str(), named);
        assert!(past(i64::MIN) < past(1) && past(999) < past(1000) && past(1) < past(i64::MAX));
        assert_eq!(past(i64::MAX).as_str().len(), named.len());
    }

    #[test]
    fn prefixes_are_checked() {
        assert_eq!("/a/b".parse::<Keyspace>().unwrap().to_string(), "a/b");
        for refused in ["", "/", "a/", "a//b", "//a", "a\nb"] {
            assert!(refused.parse::<Keyspace>().is_err(), "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn every_group_is_found_again_by_its_semaphore_key(name in "[^\\p{C}]{1,40}") {
            let (keys, group) = (Keyspace::default(), Group::new(name).unwrap());
            prop_assert_eq!(keys.group_of_semaphore(&keys.semaphore(&group)), Some(group));
        }

        #[test]
        fn no_key_makes_it_panic(key in ".*") {
            let _ = Keyspace::default().group_of_semaphore(&Key::new(key));
        }
    }
}
