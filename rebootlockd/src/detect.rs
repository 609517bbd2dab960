//! Reasons to reboot that this machine finds by looking: a file each. All are asked side by side,
//! each within its own time.
//!
//! Not knowing is never a yes: a detector that crashes, hangs or says something odd has failed. One
//! failure makes the whole unknown, even beside a reason that was found, unless the detector is
//! optional; then it is left out, loudly.
//!
//! update-engine and requests are not here: they speak up by themselves, see [`crate::want`].

mod bootc;
mod command;
mod file;
mod follow;
mod kernel;
mod latest;
mod needrestart;
mod needs_restarting;
mod rpm_ostree;
mod uptime;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rebootlock::config::{DetectorSettings, DetectorSource};
use tokio::sync::Semaphore;

pub use self::follow::follow;
pub use self::latest::Latest;
use crate::want::Want;

/// All detectors of this machine that look for themselves.
#[derive(Debug)]
pub struct Detectors {
    all: Vec<Detector>,
}

/// What one detector found.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The detector's name.
    pub name: String,
    /// Its type.
    pub kind: &'static str,
    /// What it says.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// What its command ended with, if it has one and that ended by itself.
    pub exit_code: Option<i32>,
    /// The end of what its command printed, up to 64 KiB.
    pub output: String,
    /// Whether it may fail without the whole being unknown.
    pub optional: bool,
}

/// What a detector says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No reboot is needed.
    Clear,
    /// A reboot is needed.
    Wanted {
        /// Why, in words that stay the same for as long as the reason does.
        reason: String,
    },
    /// It could not find out.
    Failed {
        /// Why not.
        why: String,
    },
}

impl Verdict {
    pub(crate) fn wanted(reason: impl Into<String>) -> Self {
        Self::Wanted { reason: reason.into() }
    }

    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed { why: why.into() }
    }

    /// In one word, for logs and JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Wanted { .. } => "wanted",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What all detectors found, in the order of the configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    all: Vec<Finding>,
}

impl Findings {
    /// One by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.all.iter()
    }

    /// Those that failed and may not: because of them the whole is unknown.
    pub fn failed(&self) -> Vec<&Finding> {
        let failed = |finding: &&Finding| matches!(finding.verdict, Verdict::Failed { .. });
        self.iter().filter(failed).filter(|finding| !finding.optional).collect()
    }

    /// A reboot, if one of them found a reason and none failed that may not.
    pub fn want(&self) -> Want {
        if !self.failed().is_empty() {
            return Want::Unknown;
        }
        let reasons: Vec<String> = self
            .iter()
            .filter_map(|finding| match &finding.verdict {
                Verdict::Wanted { reason } => Some(format!("{}: {reason}", finding.name)),
                _ => None,
            })
            .collect();
        if reasons.is_empty() {
            return Want::Nothing;
        }
        Want::Reboot { reason: reasons.join("; "), priority: 0, requested: false }
    }
}

impl<'a> IntoIterator for &'a Findings {
    type Item = &'a Finding;
    type IntoIter = std::slice::Iter<'a, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Detectors {
    /// Those that are switched on and look for themselves.
    pub fn new(settings: &[DetectorSettings]) -> Self {
        Self { all: settings.iter().filter_map(Detector::new).collect() }
    }

    /// Asks all of them, side by side. If the future is dropped their commands are killed.
    pub async fn ask(&self) -> Findings {
        Findings { all: join_all(self.all.iter().map(Detector::ask)).await }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Files that tell at once when they come and go.
    fn watched(&self) -> Vec<PathBuf> {
        self.all.iter().flat_map(|one| one.check.watched()).cloned().collect()
    }

    /// Asks those that look at watched files: what each found, by its place.
    async fn ask_watched(&self) -> Vec<(usize, Finding)> {
        let watching = self.all.iter().enumerate();
        let watching = watching.filter(|(_, one)| !one.check.watched().is_empty());
        join_all(watching.map(async |(at, one)| (at, one.ask().await))).await
    }
}

#[derive(Debug)]
struct Detector {
    name: String,
    kind: &'static str,
    optional: bool,
    timeout: Duration,
    check: Check,
    /// One look at the file system at a time: one that hangs holds one thread, not a new one each
    /// time.
    one_look: Arc<Semaphore>,
}

#[derive(Debug)]
enum Check {
    File(Vec<PathBuf>),
    Command(command::ByExitCode),
    Kernel { root: PathBuf },
    NeedsRestarting { argv: Option<Vec<String>> },
    Needrestart { argv: Option<Vec<String>> },
    RpmOstree { argv: Option<Vec<String>> },
    Bootc { argv: Option<Vec<String>> },
    Uptime { max: Duration },
}

impl Check {
    fn watched(&self) -> &[PathBuf] {
        match self {
            Self::File(paths) => paths,
            _ => &[],
        }
    }
}

/// A verdict, and what a command left behind on the way to it.
#[derive(Debug, Clone, PartialEq)]
struct Look {
    verdict: Verdict,
    exit_code: Option<i32>,
    output: String,
}

impl From<Verdict> for Look {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, exit_code: None, output: String::new() }
    }
}

impl Detector {
    fn new(settings: &DetectorSettings) -> Option<Self> {
        let check = match settings.source.clone() {
            DetectorSource::Off | DetectorSource::UpdateEngine | DetectorSource::Request => {
                return None;
            }
            DetectorSource::File { paths } => Check::File(paths),
            DetectorSource::Command { argv, reboot_needed, clear } => {
                Check::Command(command::ByExitCode { argv, reboot_needed, clear })
            }
            DetectorSource::Kernel { root } => Check::Kernel { root },
            DetectorSource::NeedsRestarting { argv } => Check::NeedsRestarting { argv },
            DetectorSource::Needrestart { argv } => Check::Needrestart { argv },
            DetectorSource::RpmOstree { argv } => Check::RpmOstree { argv },
            DetectorSource::Bootc { argv } => Check::Bootc { argv },
            DetectorSource::Uptime { max } => Check::Uptime { max },
        };
        Some(Self {
            name: settings.name.clone(),
            kind: settings.kind.as_str(),
            optional: settings.optional,
            timeout: settings.timeout,
            check,
            one_look: Arc::new(Semaphore::new(1)),
        })
    }

    async fn ask(&self) -> Finding {
        let started = Instant::now();
        let look = self.look().await;
        Finding {
            name: self.name.clone(),
            kind: self.kind,
            verdict: look.verdict,
            took: started.elapsed(),
            exit_code: look.exit_code,
            output: look.output,
            optional: self.optional,
        }
    }

    async fn look(&self) -> Look {
        match &self.check {
            Check::File(paths) => {
                let paths = paths.clone();
                self.apart(move || file::look(&paths)).await.into()
            }
            Check::Kernel { root } => {
                let root = root.clone();
                self.apart(move || kernel::look(&root, &kernel::running())).await.into()
            }
            Check::Uptime { max } => {
                let max = *max;
                let file = PathBuf::from("/proc/uptime");
                self.apart(move || uptime::look(&file, max)).await.into()
            }
            Check::Command(command) => command.look(self.timeout).await,
            Check::NeedsRestarting { argv } => {
                needs_restarting::look(argv.as_deref(), self.timeout).await
            }
            Check::Needrestart { argv } => needrestart::look(argv.as_deref(), self.timeout).await,
            Check::RpmOstree { argv } => rpm_ostree::look(argv.as_deref(), self.timeout).await,
            Check::Bootc { argv } => bootc::look(argv.as_deref(), self.timeout).await,
        }
    }

    /// Looks at files on another thread: a file system that hangs must not stop the agent.
    async fn apart(&self, look: impl FnOnce() -> Verdict + Send + 'static) -> Verdict {
        let looked = async {
            let permit = self.one_look.clone().acquire_owned().await;
            let look = move || {
                let verdict = look();
                drop(permit);
                verdict
            };
            tokio::task::spawn_blocking(look).await
        };
        match tokio::time::timeout(self.timeout, looked).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => Verdict::failed(format!("the look broke off: {error}")),
            Err(_) => Verdict::failed(format!(
                "the file system did not answer within {} s",
                self.timeout.as_secs()
            )),
        }
    }
}

#[cfg(test)]
mod tests;
