//! `[metrics]`: figures for Prometheus, over HTTP and in a file for the node exporter.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::table::Fault;

/// What turns a member off that an earlier file has set.
const OFF: &str = "off";

/// `[metrics]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MetricsTable {
    listen: Option<Spanned<Listen>>,
    allow_remote: Option<Spanned<bool>>,
    textfile: Option<Textfile>,
}

/// `[metrics]` of one file, checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsFragment {
    /// Where to listen.
    pub listen: Option<Listen>,
    /// Which file to write.
    pub textfile: Option<Textfile>,
}

/// `[metrics]`, decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Where the daemon listens for Prometheus; nowhere by default.
    pub listen: Option<SocketAddr>,
    /// The file it writes for the node exporter's textfile collector; none by default.
    pub textfile: Option<PathBuf>,
}

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// Here.
    At(SocketAddr),
}

/// Which file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Textfile {
    /// None.
    Off,
    /// This one.
    At(PathBuf),
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == OFF {
            return Ok(Self::Off);
        }
        // A name would have to be looked up before it could be told whether it is of this machine.
        text.parse().map(Self::At).map_err(|_| {
            D::Error::custom(format!(
                "`listen` {text:?} is not ADDRESS:PORT; expected one such as \"127.0.0.1:9977\" or \
                 \"[::1]:9977\", or \"off\""
            ))
        })
    }
}

impl<'de> Deserialize<'de> for Textfile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == OFF {
            return Ok(Self::Off);
        }
        let path = PathBuf::from(&text);
        let problem = if !path.is_absolute() {
            "does not begin with /"
        } else if path.extension().is_none_or(|extension| extension != "prom") {
            "does not end in .prom, and the node exporter reads nothing else"
        } else {
            return Ok(Self::At(path));
        };
        Err(D::Error::custom(format!(
            "`textfile` {text:?} {problem}; expected one such as \
             \"/var/lib/prometheus/node-exporter/rebootlock.prom\", or \"off\""
        )))
    }
}

impl MetricsTable {
    /// `allow_remote` is a word about the `listen` beside it, so both are in the same file: a file
    /// that opens the figures to others says so itself.
    pub(super) fn check(self) -> Result<MetricsFragment, Fault> {
        match (&self.listen, &self.allow_remote) {
            (None, Some(allowed)) => {
                let problem = "`allow_remote` is about the `listen` beside it in the same file, \
                               and there is none";
                return Err(Fault::at(allowed, problem));
            }
            (Some(listen), allowed) if !allowed.as_ref().is_some_and(|given| *given.get_ref()) => {
                if let Listen::At(address) = listen.get_ref()
                    && !address.ip().is_loopback()
                {
                    let problem = format!(
                        "`listen` {address} can be reached from other machines; expected an \
                         address in 127.0.0.0/8 or [::1], or `allow_remote = true` beside it"
                    );
                    return Err(Fault::at(listen, problem));
                }
            }
            _ => {}
        }
        Ok(MetricsFragment {
            listen: self.listen.map(Spanned::into_inner),
            textfile: self.textfile,
        })
    }
}

impl MetricsFragment {
    /// This layer with `over` laid on top of it.
    pub(super) fn overlaid(self, over: Self) -> Self {
        Self { listen: over.listen.or(self.listen), textfile: over.textfile.or(self.textfile) }
    }
}

impl MetricsSettings {
    pub(super) fn decide(fragment: MetricsFragment) -> Self {
        Self {
            listen: match fragment.listen {
                Some(Listen::At(address)) => Some(address),
                Some(Listen::Off) | None => None,
            },
            textfile: match fragment.textfile {
                Some(Textfile::At(path)) => Some(path),
                Some(Textfile::Off) | None => None,
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::super::{ConfigError, Fragment};
    use super::*;

    fn parse(text: &str) -> Result<Fragment, ConfigError> {
        Fragment::parse(Path::new("test.toml"), text)
    }

    fn decide(text: &str) -> MetricsSettings {
        MetricsSettings::decide(parse(text).unwrap().metrics)
    }

    #[test]
    fn nothing_is_shown_unless_it_is_asked_for() {
        let off = MetricsSettings::default();
        assert_eq!(off, MetricsSettings { listen: None, textfile: None });
        for text in ["", "[metrics]", "[metrics]\nlisten = \"off\"\ntextfile = \"off\""] {
            assert_eq!(decide(text), off, "{text}");
        }
    }

    #[test]
    fn both_ways_may_be_on_at_once() {
        let settings =
            decide("[metrics]\nlisten = \"127.0.0.1:9977\"\ntextfile = \"/run/rebootlock.prom\"");
        assert_eq!(settings.listen, Some("127.0.0.1:9977".parse().unwrap()));
        assert_eq!(settings.textfile.as_deref(), Some(Path::new("/run/rebootlock.prom")));
        let six = decide("[metrics]\nlisten = \"[::1]:9977\"");
        assert_eq!(six.listen, Some("[::1]:9977".parse().unwrap()));
    }

    #[test]
    fn other_machines_are_let_in_only_on_purpose() {
        let open = "[metrics]\nlisten = \"0.0.0.0:9977\"\n";
        assert!(parse(open).is_err());
        assert!(parse(&format!("{open}allow_remote = false")).is_err());
        let settings = decide(&format!("{open}allow_remote = true"));
        assert_eq!(settings.listen, Some("0.0.0.0:9977".parse().unwrap()));
    }

    #[test]
    fn a_later_file_can_turn_off_what_an_earlier_one_has_set() {
        let below =
            parse("[metrics]\nlisten = \"127.0.0.1:1\"\ntextfile = \"/run/a.prom\"").unwrap();
        let above = parse("[metrics]\nlisten = \"off\"").unwrap();
        let settings = MetricsSettings::decide(below.overlaid(above).metrics);
        assert_eq!(settings.listen, None);
        assert_eq!(settings.textfile.as_deref(), Some(Path::new("/run/a.prom")));
    }

    #[test]
    fn a_bad_value_is_named_with_its_place_and_what_is_allowed() {
        for (line, said) in [
            (
                "listen = \"localhost:9977\"",
                "2:10: `listen` \"localhost:9977\" is not ADDRESS:PORT",
            ),
            ("listen = \"127.0.0.1\"", "2:10: `listen` \"127.0.0.1\" is not ADDRESS:PORT"),
            ("listen = \"127.0.0.1:99999\"", "2:10: `listen` \"127.0.0.1:99999\" is not"),
            ("listen = \"\"", "2:10: `listen` \"\" is not ADDRESS:PORT"),
            ("listen = 9977", "2:10: `listen`: invalid type: integer `9977`, expected a string"),
            (
                "listen = \"10.0.0.1:9977\"",
                "2:10: `listen` 10.0.0.1:9977 can be reached from other machines",
            ),
            ("listen = \"[::]:9977\"", "2:10: `listen` [::]:9977 can be reached from other"),
            ("allow_remote = true", "2:16: `allow_remote` is about the `listen` beside it"),
            (
                "allow_remote = \"yes\"",
                "2:16: `allow_remote`: invalid type: string \"yes\", expected a boolean",
            ),
            (
                "textfile = \"rebootlock.prom\"",
                "2:12: `textfile` \"rebootlock.prom\" does not begin",
            ),
            (
                "textfile = \"/run/rebootlock\"",
                "2:12: `textfile` \"/run/rebootlock\" does not end in",
            ),
            (
                "textfile = true",
                "2:12: `textfile`: invalid type: boolean `true`, expected a string",
            ),
            ("port = 9977", "2:1: unknown key `port` in [metrics]; "),
            ("listn = \"off\"", "2:1: unknown key `listn` in [metrics]; did you mean `listen`?"),
        ] {
            let error = parse(&format!("[metrics]\n{line}")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("test.toml:{said}")), "{line}: {error}");
        }
    }
}
