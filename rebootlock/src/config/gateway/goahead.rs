//! `[gateway.goahead]`: clients that speak goahead's protocol.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::command::CommandLine;
use crate::config::table::{Count, Named, Secs, full_path, overlay_named};
use crate::id::Group;

/// `[gateway.goahead]` as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GoaheadTable {
    answers_root: Option<bool>,
    reserve_secs: Option<Secs<1, 86_400>>,
    check_timeout_secs: Option<Secs<1, 3_600>>,
    completion_check_timeout_secs: Option<Secs<1, 86_400>>,
    action_timeout_secs: Option<Secs<1, 86_400>>,
    wait_for_actions_secs: Option<Secs<0, 60>>,
    #[serde(deserialize_with = "full_path")]
    working_dir: Option<PathBuf>,
    #[serde(deserialize_with = "clusters")]
    cluster: Option<Vec<ClusterSettings>>,
}

/// `[gateway.goahead]`, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoaheadSettings {
    /// Whether `/` is answered as goahead does.
    pub answers_root: bool,
    /// For how long whoever was refused is remembered, and a slot kept for it.
    pub reserve: Duration,
    /// How long the checks whether there is a reason may run; for all of one question together.
    pub check_timeout: Duration,
    /// How long each check whether a machine is back may run.
    pub completion_check_timeout: Duration,
    /// How long each action may run.
    pub action_timeout: Duration,
    /// How long an answer waits for the actions of its grant to end.
    pub wait_for_actions: Duration,
    /// Where commands run, if not in `/`.
    pub working_dir: Option<PathBuf>,
    /// In the order in which they are asked whether a machine is theirs.
    pub clusters: Vec<ClusterSettings>,
}

/// `[[gateway.goahead.cluster]]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// As clients see it.
    pub name: String,
    /// Whose slots its machines take.
    pub group: Group,
    /// Whose machines are its.
    pub pattern: Pattern,
    /// Those that are not, all the same.
    pub except: Vec<Pattern>,
    /// Who has been up for less is not to reboot.
    pub minimum_uptime: Duration,
    /// Reasons to reboot, asked in this order when a machine only looks whether there is one.
    pub checks: Vec<CommandLine>,
    /// The exit code of a check that is a reason.
    pub check_exit_code: i32,
    /// Run when a machine may reboot.
    pub actions: Vec<CommandLine>,
    /// Succeeds when a machine that has rebooted is back. Without one its own word is enough.
    pub completion_check: Option<CommandLine>,
    /// Between two of these checks.
    pub completion_interval: Duration,
    /// So many have to succeed in a row.
    pub completion_successes: u32,
    /// So long after a machine may reboot it is looked for, even if it says nothing.
    pub completion_offset: Option<Duration>,
    /// Run when a machine is back, before its slot is freed.
    pub completion_actions: Vec<CommandLine>,
    /// So long after it should have been looked for, a machine is overdue.
    pub panic_after: Option<Duration>,
    /// Run then.
    pub panic_actions: Vec<CommandLine>,
}

/// A cluster as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterTable {
    #[serde(deserialize_with = "name")]
    name: String,
    group: Option<Group>,
    pattern: Pattern,
    #[serde(default)]
    except: Vec<Pattern>,
    minimum_uptime_secs: Option<Secs<0, 31_536_000>>,
    #[serde(default)]
    checks: Vec<CommandLine>,
    check_exit_code_for_reboot: Option<Count<0, 255>>,
    #[serde(default)]
    actions: Vec<CommandLine>,
    completion_check: Option<CommandLine>,
    completion_check_interval_secs: Option<Secs<1, 86_400>>,
    completion_check_successes: Option<Count<1, 1_000_000>>,
    completion_check_offset_secs: Option<Secs<0, 31_536_000>>,
    #[serde(default)]
    completion_actions: Vec<CommandLine>,
    panic_after_secs: Option<Secs<0, 31_536_000>>,
    #[serde(default)]
    panic_actions: Vec<CommandLine>,
}

impl ClusterTable {
    fn check(self) -> Result<ClusterSettings, String> {
        let group = match self.group {
            Some(group) => group,
            None => Group::new(self.name.clone()).map_err(|error| error.to_string())?,
        };
        if self.completion_check.is_none() && self.completion_check_offset_secs.is_some() {
            let name = &self.name;
            return Err(format!(
                "cluster {name:?}: `completion_check_offset_secs` says nothing without a \
                 `completion_check`"
            ));
        }
        let panic_after = self.panic_after_secs.map(Secs::get).filter(|after| !after.is_zero());
        if panic_after.is_none() && !self.panic_actions.is_empty() {
            let name = &self.name;
            return Err(format!(
                "cluster {name:?}: `panic_actions` never run without `panic_after_secs`"
            ));
        }
        // All bounds are far below what would not fit.
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(ClusterSettings {
            name: self.name,
            group,
            pattern: self.pattern,
            except: self.except,
            minimum_uptime: self.minimum_uptime_secs.map(Secs::get).unwrap_or_default(),
            checks: self.checks,
            check_exit_code: self
                .check_exit_code_for_reboot
                .map_or(0, |code| i32::try_from(code.get()).unwrap_or(i32::MAX)),
            actions: self.actions,
            completion_check: self.completion_check,
            completion_interval: self.completion_check_interval_secs.map_or(secs(10), Secs::get),
            completion_successes: self.completion_check_successes.map_or(1, |n| small(n.get())),
            completion_offset: self.completion_check_offset_secs.map(Secs::get),
            completion_actions: self.completion_actions,
            panic_after,
            panic_actions: self.panic_actions,
        })
    }
}

impl Named for ClusterSettings {
    fn name(&self) -> &str {
        &self.name
    }
}

impl GoaheadTable {
    /// `below` with `above` laid on top of it.
    pub(super) fn overlaid(below: Option<Self>, above: Option<Self>) -> Option<Self> {
        let (below, above) = match (below, above) {
            (Some(below), Some(above)) => (below, above),
            (below, above) => return above.or(below),
        };
        Some(Self {
            answers_root: above.answers_root.or(below.answers_root),
            reserve_secs: above.reserve_secs.or(below.reserve_secs),
            check_timeout_secs: above.check_timeout_secs.or(below.check_timeout_secs),
            completion_check_timeout_secs: above
                .completion_check_timeout_secs
                .or(below.completion_check_timeout_secs),
            action_timeout_secs: above.action_timeout_secs.or(below.action_timeout_secs),
            wait_for_actions_secs: above.wait_for_actions_secs.or(below.wait_for_actions_secs),
            working_dir: above.working_dir.or(below.working_dir),
            cluster: overlay_named(below.cluster, above.cluster),
        })
    }
}

impl GoaheadSettings {
    pub(super) fn decide(table: GoaheadTable) -> Self {
        Self {
            answers_root: table.answers_root.unwrap_or(false),
            reserve: table.reserve_secs.map_or(secs(400), Secs::get),
            check_timeout: table.check_timeout_secs.map_or(secs(10), Secs::get),
            completion_check_timeout: table
                .completion_check_timeout_secs
                .map_or(secs(300), Secs::get),
            action_timeout: table.action_timeout_secs.map_or(secs(300), Secs::get),
            wait_for_actions: table.wait_for_actions_secs.map(Secs::get).unwrap_or_default(),
            working_dir: table.working_dir,
            clusters: table.cluster.unwrap_or_default(),
        }
    }
}

impl ClusterSettings {
    /// How long after it may reboot a machine is overdue, if ever.
    pub fn overdue_after(&self) -> Option<Duration> {
        self.panic_after.map(|after| after + self.completion_offset.unwrap_or_default())
    }
}

/// A regular expression that is looked for anywhere in a name.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: regex_lite::Regex,
}

impl Pattern {
    /// Compiles it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(source: &str) -> Result<Self, String> {
        if source.is_empty() {
            let problem = "must not be empty: it would be every machine; write \".*\" for that";
            return Err(problem.to_owned());
        }
        let regex = regex_lite::Regex::new(source);
        let regex = regex.map_err(|error| format!("{source:?} is no pattern: {error}"))?;
        Ok(Self { source: source.to_owned(), regex })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether it is in `name`.
    pub fn is_in(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn clusters<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<ClusterSettings>>, D::Error> {
    let mut clusters: Vec<ClusterSettings> = Vec::new();
    for table in Vec::<ClusterTable>::deserialize(deserializer)? {
        let cluster = table.check().map_err(D::Error::custom)?;
        if clusters.iter().any(|known| known.name == cluster.name) {
            return Err(D::Error::custom(format!("cluster {:?} is there twice", cluster.name)));
        }
        clusters.push(cluster);
    }
    Ok(Some(clusters))
}

/// What clients take for no cluster at all is no name of one.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name == "unknown" {
        return Err(D::Error::custom("\"unknown\" is what clients are told that have no cluster"));
    }
    Group::new(name.clone()).map_err(D::Error::custom)?;
    Ok(name)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{ConfigError, Fragment, Settings};

    fn decide(text: &str) -> Result<Option<GoaheadSettings>, ConfigError> {
        let fragment = Fragment::parse(Path::new("test.toml"), text)?;
        Settings::decide(fragment).map(|settings| settings.gateway.goahead)
    }

    const CLUSTER: &str = "[[gateway.goahead.cluster]]\nname = \"web\"\npattern = \"^web-\"\n";

    #[test]
    fn without_the_table_nobody_is_served() {
        assert_eq!(decide("").unwrap(), None);
        assert_eq!(decide("[gateway.goahead]").unwrap().unwrap().clusters, []);
    }

    #[test]
    fn a_cluster_takes_the_slots_of_the_group_of_its_name() {
        let settings = decide(CLUSTER).unwrap().unwrap();
        let [web] = &settings.clusters[..] else { panic!("{settings:?}") };
        assert_eq!((web.group.as_str(), web.completion_successes), ("web", 1));
        assert!(web.pattern.is_in("web-1") && !web.pattern.is_in("db-web-1"));
        assert_eq!((web.overdue_after(), web.completion_offset), (None, None));
        let text = format!("{CLUSTER}panic_after_secs = 60\ngroup = \"all\"\n");
        let settings = decide(&text).unwrap().unwrap();
        assert_eq!(settings.clusters[0].overdue_after(), Some(secs(60)));
        assert_eq!(settings.clusters[0].group.as_str(), "all");
    }

    #[test]
    fn a_command_is_a_line_or_a_list() {
        let text = format!("{CLUSTER}checks = [\"/bin/x 'a b'\", [\"/bin/x\", \"a b\"]]\n");
        let settings = decide(&text).unwrap().unwrap();
        let [line, list] = &settings.clusters[0].checks[..] else { panic!("{settings:?}") };
        assert_eq!(line.argv(), list.argv());
        assert_eq!((line.text(), list.text()), ("/bin/x 'a b'", "/bin/x a b"));
    }

    #[test]
    fn a_bad_value_is_named_with_its_place_and_what_is_allowed() {
        for (line, said) in [
            ("pattern2 = \"x\"", "4:1: unknown key `pattern2` in [[gateway.goahead.cluster]]; did"),
            ("except = [\"(\"]", "4:10: `except`: \"(\" is no pattern: "),
            ("except = [\"\"]", "4:10: `except`: must not be empty"),
            ("checks = [\"x 'y\"]", "4:11: `checks`: \"x 'y\": ' is not closed"),
            ("checks = [[\"a/b\"]]", "4:11: `checks`: \"a/b\" is not a full path"),
            ("checks = [1]", "4:11: `checks`: invalid type: integer `1`, expected a command"),
            ("minimum_uptime_secs = -1", "4:23: `minimum_uptime_secs`: -1 is not from 0"),
            ("completion_check_interval_secs = 0", "4:34: `completion_check_interval_secs`: 0 is"),
            ("check_exit_code_for_reboot = 256", "4:30: `check_exit_code_for_reboot`: 256 is not"),
        ] {
            let error = decide(&format!("{CLUSTER}{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("test.toml:{said}")), "{line}: {error}");
        }
        for (text, said) in [
            (format!("{CLUSTER}{CLUSTER}"), "cluster \"web\" is there twice"),
            (format!("{CLUSTER}panic_actions = [\"x\"]"), "never run without `panic_after_secs`"),
            (
                format!("{CLUSTER}completion_check_offset_secs = 1"),
                "says nothing without a `completion_check`",
            ),
            ("[[gateway.goahead.cluster]]\nname = \"x\"".to_owned(), "`pattern` is missing"),
            (CLUSTER.replace("\"web\"", "\"unknown\""), "what clients are told"),
            ("[gateway.goahead]\nreserved = 1".to_owned(), "unknown key `reserved`"),
        ] {
            let error = decide(&text).unwrap_err().to_string();
            assert!(error.starts_with("test.toml:") && error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_later_file_replaces_a_cluster_of_the_same_name() {
        let parse = |text: &str| Fragment::parse(Path::new("test.toml"), text).unwrap();
        let below = parse(&format!("{CLUSTER}{}", CLUSTER.replace("web", "db")));
        let above = format!("[gateway.goahead]\nreserve_secs = 7\n{CLUSTER}group = \"x\"\n");
        let settings = Settings::decide(below.overlaid(parse(&above))).unwrap();
        let settings = settings.gateway.goahead.unwrap();
        let groups: Vec<_> = settings.clusters.iter().map(|c| c.group.as_str()).collect();
        assert_eq!((groups, settings.reserve), (vec!["x", "db"], secs(7)));
    }
}
