//! `[[detector]]`: a reason to reboot.

mod keys;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::table::{Count, Fault, Named, Secs, Table};

/// Looked at by `file` if no other is named: Debian's and Ubuntu's packages put it there.
const REBOOT_REQUIRED: [&str; 2] = ["/run/reboot-required", "/var/run/reboot-required"];

/// Longest name that may be given.
const LONGEST_NAME: usize = 128;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_MAX_UPTIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// `[[detector]]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DetectorTable {
    name: Option<Spanned<String>>,
    r#type: Option<Spanned<DetectorKind>>,
    enabled: Option<Spanned<bool>>,
    optional: Option<Spanned<bool>>,
    timeout_secs: Option<Spanned<Secs<1, 3600>>>,
    path: Option<Spanned<String>>,
    paths: Option<Spanned<Vec<Spanned<String>>>>,
    command: Option<Spanned<Vec<Spanned<String>>>>,
    reboot_needed_codes: Option<Spanned<Vec<Spanned<Count<0, 255>>>>>,
    clear_codes: Option<Spanned<Vec<Spanned<Count<0, 255>>>>>,
    root: Option<Spanned<String>>,
    max_days: Option<Spanned<Count<1, 3650>>>,
    max_uptime_secs: Option<Spanned<Secs<1, 315_360_000>>>,
}

/// `[[detector]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorSettings {
    /// Known by this name.
    pub name: String,
    /// Its type.
    pub kind: DetectorKind,
    /// Whether it may fail without the whole being unknown.
    pub optional: bool,
    /// It has to answer within this time.
    pub timeout: Duration,
    /// What it looks at.
    pub source: Source,
}

/// What types of detector there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DetectorKind {
    /// update-engine on the system bus; on unless switched off.
    UpdateEngine,
    /// An operator's request; always on.
    Request,
    /// A file is there.
    File,
    /// A command's exit code.
    Command,
    /// A newer kernel is installed than the one that runs.
    Kernel,
    /// `needs-restarting -r`, of RHEL, Fedora and SUSE.
    NeedsRestarting,
    /// `needrestart -b -k`, of Debian and Ubuntu.
    Needrestart,
    /// A deployment that the next boot will take.
    RpmOstree,
    /// An image that the next boot will take.
    Bootc,
    /// Up for too long.
    Uptime,
}

/// What a detector looks at.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Nothing: it is switched off.
    Off,
    /// update-engine on the system bus.
    UpdateEngine,
    /// Requests in the store.
    Request,
    /// Files, of which one is enough.
    File {
        /// Absolute, each once.
        paths: Vec<PathBuf>,
    },
    /// The exit code of a command.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// These mean that a reboot is needed.
        reboot_needed: Vec<i32>,
        /// These mean that it is not. All others are failures.
        clear: Vec<i32>,
    },
    /// Installed kernels.
    Kernel {
        /// Above `boot` and `lib/modules`.
        root: PathBuf,
    },
    /// `needs-restarting`, or this in its place.
    NeedsRestarting {
        /// The program and its arguments.
        argv: Option<Vec<String>>,
    },
    /// `needrestart`, or this in its place.
    Needrestart {
        /// The program and its arguments.
        argv: Option<Vec<String>>,
    },
    /// `rpm-ostree`, or this in its place.
    RpmOstree {
        /// The program and its arguments.
        argv: Option<Vec<String>>,
    },
    /// `bootc`, or this in its place.
    Bootc {
        /// The program and its arguments.
        argv: Option<Vec<String>>,
    },
    /// How long the machine has been up.
    Uptime {
        /// Longer than this is too long.
        max: Duration,
    },
}

impl DetectorKind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpdateEngine => "update-engine",
            Self::Request => "request",
            Self::File => "file",
            Self::Command => "command",
            Self::Kernel => "kernel",
            Self::NeedsRestarting => "needs-restarting",
            Self::Needrestart => "needrestart",
            Self::RpmOstree => "rpm-ostree",
            Self::Bootc => "bootc",
            Self::Uptime => "uptime",
        }
    }

    /// Whether it is there without being configured.
    fn is_built_in(self) -> bool {
        matches!(self, Self::UpdateEngine | Self::Request)
    }
}

impl DetectorSettings {
    /// Whether update-engine is listened to: it is, unless a table switches it off.
    pub fn update_engine_is_on(all: &[Self]) -> bool {
        !all.iter().any(|one| one.kind == DetectorKind::UpdateEngine && one.source == Source::Off)
    }
}

impl Table for DetectorTable {
    type Settings = DetectorSettings;

    fn check(self, whole: Range<usize>) -> Result<DetectorSettings, Fault> {
        let Some(kind) = self.r#type.as_ref().map(|kind| *kind.get_ref()) else {
            return Err(Fault::new(
                whole,
                "a [[detector]] needs a `type`: `file`, `command`, `kernel`, `needs-restarting`, \
                 `needrestart`, `rpm-ostree`, `bootc`, `uptime` or `update-engine`",
            ));
        };
        self.check_keys(kind)?;
        let enabled = self.enabled.as_ref().is_none_or(|enabled| *enabled.get_ref());
        if let Some(enabled) = self.enabled.as_ref()
            && kind == DetectorKind::Request
            && !enabled.get_ref()
        {
            return Err(Fault::at(
                enabled,
                "an operator's `request` is always heard and cannot be switched off",
            ));
        }
        let given = self.name.as_ref().map(checked_name).transpose()?;
        let argv = self.argv()?;
        let paths = self.paths()?;
        let root = self.root.as_ref().map(|root| absolute("root", root)).transpose()?;
        let (reboot_needed, clear) = self.codes()?;
        let max = self.max_uptime()?;
        let name = given.unwrap_or_else(|| match kind {
            DetectorKind::File if !paths.is_empty() => {
                let paths: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
                format!("file:{}", paths.join(","))
            }
            DetectorKind::Command => match &argv {
                Some(argv) => format!("command:{}", printable(argv)),
                None => "command".to_owned(),
            },
            DetectorKind::Kernel => match &root {
                Some(root) => format!("kernel:{}", root.display()),
                None => "kernel".to_owned(),
            },
            kind => kind.as_str().to_owned(),
        });
        let needs = |key: &str| {
            Fault::new(whole.clone(), format!("a detector of type `command` needs `{key}`"))
        };
        let source = match kind {
            _ if !enabled => Source::Off,
            DetectorKind::UpdateEngine => Source::UpdateEngine,
            DetectorKind::Request => Source::Request,
            DetectorKind::File if paths.is_empty() => {
                Source::File { paths: REBOOT_REQUIRED.map(PathBuf::from).to_vec() }
            }
            DetectorKind::File => Source::File { paths },
            DetectorKind::Command => Source::Command {
                argv: argv.ok_or_else(|| needs("command"))?,
                reboot_needed: reboot_needed.ok_or_else(|| needs("reboot_needed_codes"))?,
                clear,
            },
            DetectorKind::Kernel => Source::Kernel { root: root.unwrap_or_else(|| "/".into()) },
            DetectorKind::NeedsRestarting => Source::NeedsRestarting { argv },
            DetectorKind::Needrestart => Source::Needrestart { argv },
            DetectorKind::RpmOstree => Source::RpmOstree { argv },
            DetectorKind::Bootc => Source::Bootc { argv },
            DetectorKind::Uptime => Source::Uptime { max },
        };
        Ok(DetectorSettings {
            name,
            kind,
            optional: self.optional.is_some_and(Spanned::into_inner),
            timeout: self.timeout_secs.map_or(DEFAULT_TIMEOUT, |secs| secs.into_inner().get()),
            source,
        })
    }
}

impl Named for DetectorSettings {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Checks the tables of one file: each, and that no two have the same name.
pub(super) fn check_detectors(
    tables: Option<Vec<Spanned<DetectorTable>>>,
) -> Result<Option<Vec<DetectorSettings>>, Fault> {
    let Some(tables) = tables else { return Ok(None) };
    let mut all: Vec<DetectorSettings> = Vec::new();
    for table in tables {
        let whole = table.span();
        let table = table.into_inner();
        let named = table.name.as_ref().map(Spanned::span);
        let settings = table.check(whole.clone())?;
        if all.iter().any(|known| known.name == settings.name) {
            let name = &settings.name;
            let problem = match named {
                Some(_) => format!("there is a detector `{name}` already; choose another `name`"),
                None => format!(
                    "there is a detector `{name}` already, by the name both get from what they \
                     look at; give one of them a `name`"
                ),
            };
            return Err(Fault::new(named.unwrap_or(whole), problem));
        }
        all.push(settings);
    }
    Ok(Some(all))
}

fn checked_name(name: &Spanned<String>) -> Result<String, Fault> {
    let text = name.get_ref().trim();
    if text.is_empty() {
        return Err(Fault::at(name, "`name` must not be blank"));
    }
    if text.chars().count() > LONGEST_NAME || text.chars().any(char::is_control) {
        let problem = format!("`name` is at most {LONGEST_NAME} characters, none of them control");
        return Err(Fault::at(name, problem));
    }
    let built_in = [DetectorKind::UpdateEngine, DetectorKind::Request];
    if built_in.iter().any(|one| one.as_str() == text) {
        let problem = format!("`name` `{text}` is that of a built-in detector; choose another");
        return Err(Fault::at(name, problem));
    }
    Ok(text.to_owned())
}

fn absolute(key: &str, path: &Spanned<String>) -> Result<PathBuf, Fault> {
    let text = path.get_ref();
    if !text.starts_with('/') || text.contains('\0') {
        return Err(Fault::at(path, format!("`{key}` must be an absolute path, not {text:?}")));
    }
    Ok(PathBuf::from(text))
}

/// On one line, however it was written.
fn printable(argv: &[String]) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    argv.join(" ").chars().map(escape).collect()
}
