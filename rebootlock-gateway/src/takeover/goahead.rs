//! goahead's state: `<save_state_dir>/<cluster>.json` says who holds slots, and
//! `<save_state_dir>/<cluster>/<fqdn>.json` how long each was up.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use rebootlock::config::{GoaheadSettings, GroupSettings, Settings};
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::LockManager;
use rebootlock::record::{Claim, GoaheadGrant, UnixTime, Via};
use rebootlock::store::Key;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use super::shown;
use super::slots::{Slots, Stamp};
use crate::goahead::duration::GoDuration;
use crate::goahead::machine;

/// Larger files are none of goahead's.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// A cluster's state. Without holders it says `null`: one that says nothing was not written to its end, or
/// is something else.
#[derive(Debug, Deserialize)]
struct Theirs {
    #[serde(rename = "CurrentRestartingServers", deserialize_with = "Option::deserialize")]
    holders: Option<BTreeMap<String, IgnoredAny>>,
    #[serde(default, rename = "CurrentOngoingRestarts")]
    count: i64,
    #[serde(default)]
    last_restart_request_timestamp: Option<String>,
}

/// What it last answered a machine.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    timestamp: Option<String>,
    request_id: Option<String>,
    reported_uptime: Option<String>,
}

/// What a folder says of the clusters that are configured here.
pub struct State {
    found: Vec<Found>,
    /// Files of other clusters that have holders, with these.
    others: Vec<(PathBuf, Vec<String>)>,
}

struct Found {
    cluster: String,
    group: Group,
    digest: String,
    holders: Vec<(MachineId, GoaheadGrant)>,
    /// What a person should know.
    notes: Vec<String>,
}

impl State {
    /// Reads `folder`. No file of a cluster is no holder.
    ///
    /// # Errors
    /// All files that cannot be understood, and names that no machine can have here.
    pub fn read(folder: &Path, settings: &GoaheadSettings) -> Result<Self> {
        let mut state = Self { found: Vec::new(), others: Vec::new() };
        let mut problems = Vec::new();
        for cluster in &settings.clusters {
            match Found::read(folder, &cluster.name, &cluster.group) {
                Ok(found) => state.found.extend(found),
                Err(problem) => problems.push(format!("{problem:#}")),
            }
        }
        for path in files(folder)? {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let known = settings.clusters.iter().any(|cluster| cluster.name == name);
            if known || path.extension().is_none_or(|ext| ext != "json") {
                continue;
            }
            if let Ok(Some(theirs)) = theirs(&path).map(|read| read.map(|(theirs, _)| theirs)) {
                let holders: Vec<_> = theirs.holders.unwrap_or_default().into_keys().collect();
                if !holders.is_empty() {
                    state.others.push((path, holders));
                }
            }
        }
        ensure!(
            problems.is_empty(),
            "{}; mend these files from a copy, or take them away if nobody of these clusters holds a slot",
            problems.join("; ")
        );
        Ok(state)
    }

    /// Says what is to be taken over, and does it if told to.
    ///
    /// # Errors
    /// What the store says.
    pub async fn take_over(
        &self,
        locks: &LockManager,
        settings: &Settings,
        write: bool,
        say: &mut dyn FnMut(String),
    ) -> Result<()> {
        for (path, holders) in &self.others {
            say(format!(
                "{}: its cluster is not served here, and these hold slots of it: {}",
                path.display(),
                holders.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ")
            ));
        }
        for found in &self.found {
            found.slots(locks, &settings.groups).take(locks, write, say).await?;
            found.notes.iter().for_each(|note| say(note.clone()));
        }
        Ok(())
    }

    /// Whether there is no state of a cluster that is served here.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether all holders are of clusters that are served here.
    pub fn is_whole(&self) -> bool {
        self.others.is_empty()
    }
}

impl Found {
    fn read(folder: &Path, cluster: &str, group: &Group) -> Result<Option<Self>> {
        // A name is a group's, and may be no file's.
        let file = format!("{cluster}.json");
        if file.contains('/') {
            return Ok(None);
        }
        let path = folder.join(file);
        let Some((theirs, digest)) = theirs(&path)? else { return Ok(None) };
        let granted = theirs.last_restart_request_timestamp.as_deref().and_then(time);
        let names = theirs.holders.unwrap_or_default();
        let mut notes = Vec::new();
        if i64::try_from(names.len()) != Ok(theirs.count) {
            notes.push(format!(
                "{}: it counts {} restarts, but names {} machines; these count",
                path.display(),
                theirs.count,
                names.len()
            ));
        }
        let (mut holders, mut unfit) = (Vec::new(), Vec::new());
        for name in names.into_keys() {
            let Some(machine) = machine(&name) else {
                unfit.push(format!("{:?}", name.chars().take(64).collect::<String>()));
                continue;
            };
            let answer = answer(&folder.join(cluster), &name);
            // It goes into command lines.
            let known = answer.reported_uptime.filter(|known| known.parse::<GoDuration>().is_ok());
            let known = known.unwrap_or_default();
            if known.is_empty() {
                notes.push(format!(
                    "  {name}: how long it was up is not known; that it has rebooted is noticed once its \
                     slot is five minutes older than it is up"
                ));
            }
            // It asked for the first time right before it got its slot.
            let since = answer.timestamp.as_deref().and_then(time).or(granted);
            let request = answer.request_id.unwrap_or_default();
            let since = since.unwrap_or_else(UnixTime::now);
            let mut grant = GoaheadGrant::new(cluster, &request, &known, since);
            // It may have been told of a longer one since, or not.
            grant.reported_at = None;
            holders.push((machine, grant));
        }
        if !unfit.is_empty() {
            let (path, names) = (path.display(), unfit.join(", "));
            bail!(
                "{path}: slots are held by names that no machine can have here, because they go into command \
                 lines: {names}; take them out of it once they hold none"
            );
        }
        let (cluster, group) = (cluster.to_owned(), group.clone());
        Ok(Some(Self { cluster, group, digest, holders, notes }))
    }

    fn slots(&self, locks: &LockManager, groups: &[GroupSettings]) -> Slots {
        let group = &self.group;
        let configured = groups.iter().find(|settings| settings.name == *group);
        let holders = self.holders.iter().map(|(machine, grant)| {
            let mut claim = Claim::new(machine.clone(), [group.clone()], Via::Goahead);
            claim.hostname = Some(machine.to_string());
            claim.reason = Some("held through goahead, and taken over".to_owned());
            claim.members = Some(Box::new(grant.to_member()));
            (machine.clone(), claim.record(grant.granted_at))
        });
        Slots {
            slots: configured.and_then(|settings| settings.slots).unwrap_or(1),
            whose: None,
            holders: holders.collect(),
            mark: Key::new(format!("{}/taken-over/goahead/{}", locks.keys(), self.cluster)),
            stamp: Stamp::Digest { sha256: self.digest.clone() },
            is_whole: true,
            unchanged: None,
            group: group.clone(),
        }
    }
}

/// A file, and its digest. `None`: there is none.
fn theirs(path: &Path) -> Result<Option<(Theirs, String)>> {
    let cannot = || format!("{} cannot be read", path.display());
    match std::fs::metadata(path) {
        // A link to nowhere is no file, and not none.
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => return Ok(None),
        Err(error) => return Err(error).with_context(cannot),
        Ok(file) => ensure!(file.len() <= MOST_BYTES, "{} is too long", path.display()),
    }
    let text = std::fs::read(path).with_context(cannot)?;
    let theirs = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not the state of a cluster", path.display()))?;
    let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some((theirs, digest)))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("{} cannot be read", folder.display());
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(cannot),
        Ok(entries) => {
            let paths = entries.map(|entry| entry.map(|entry| entry.path()));
            let mut paths = paths.collect::<Result<Vec<_>, _>>().with_context(cannot)?;
            paths.sort();
            Ok(paths)
        }
    }
}

/// What is not there or cannot be read is not known.
fn answer(folder: &Path, name: &str) -> Answer {
    let path = folder.join(format!("{name}.json"));
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// `None` for the year 1, which is never.
fn time(text: &str) -> Option<UnixTime> {
    let time: Timestamp = text.parse().ok()?;
    Some(UnixTime(time.as_second())).filter(|time| time.0 > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<State> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("web")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let text = "[[gateway.goahead.cluster]]\nname = \"web\"\npattern = \"x\"\n";
        let fragment = rebootlock::config::Fragment::parse(Path::new("x.toml"), text).unwrap();
        State::read(folder.path(), &Settings::decide(fragment).unwrap().gateway.goahead.unwrap())
    }

    #[test]
    fn holders_are_the_names_and_not_their_number() {
        assert!(read(&[]).unwrap().found.is_empty());
        let none = r#"{"CurrentOngoingRestarts":0,"CurrentRestartingServers":null}"#;
        assert!(read(&[("web.json", none)]).unwrap().found[0].holders.is_empty());
        let state = read(&[
            (
                "web.json",
                r#"{"last_restart_panic_timestamp":"0001-01-01T00:00:00Z",
                    "last_restart_request_timestamp":"2026-11-21T12:00:30.123456789+01:00",
                    "CurrentOngoingRestarts":1,"CurrentRestartingServers":{"web-1":{},"web-2":{}}}"#,
            ),
            (
                "web/web-1.json",
                r#"{"timestamp":"2026-11-21T11:00:00Z","request_id":"abcdefgh","reported_uptime":"5h"}"#,
            ),
            ("web/web-2.json", r#"{"reported_uptime":"$(touch${IFS}pwned)"}"#),
            ("old.json", r#"{"CurrentRestartingServers":{"old-1":{}}}"#),
            ("other.json", "{"),
        ])
        .unwrap();
        let [(one, first), (two, second)] = &state.found[0].holders[..] else { panic!() };
        assert_eq!((one.as_str(), two.as_str()), ("web-1", "web-2"));
        assert_eq!((first.uptime.as_str(), first.request_id.as_str()), ("5h", "abcdefgh"));
        assert_eq!(first.granted_at.to_text(), "2026-11-21T11:00:00Z");
        assert_eq!((second.uptime.as_str(), second.granted_at.0 - first.granted_at.0), ("", 30));
        let notes = state.found[0].notes.join("\n");
        assert!(notes.contains("counts 1 restarts, but names 2"), "{notes}");
        assert!(notes.contains("web-2: how long it was up is not known"), "{notes}");
        assert_eq!(state.others[0].1, ["old-1"]);
    }

    #[test]
    fn what_cannot_be_understood_is_not_taken_for_nobody() {
        for text in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"go_ahead":false,"message":"a host's record"}"#,
            r#"{"CurrentRestartingServers":["web-1"]}"#,
            r#"{"CurrentRestartingServers":{"web 1":{}}}"#,
            r#"{"CurrentRestartingServers":{"web-1":{},"-la":{}}}"#,
            r#"{"CurrentRestartingServers":{"$(touch${IFS}pwned)":{}}}"#,
            r#"{"CurrentRestartingServers":{"..":{}}}"#,
        ] {
            let error = read(&[("web.json", text)]).err().unwrap();
            assert!(format!("{error:#}").contains("web.json"), "{text}: {error:#}");
        }
    }
}
