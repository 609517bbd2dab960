//! Hooks: what an administrator wants run before a reboot and after it. See `docs/hooks.md`.
//!
//! Executables of a folder run one after the other, in byte order of their names, each with a
//! deadline of its own. The first that fails ends its phase. What the pre-reboot hooks of a reboot
//! that does not happen have done is undone by the post-reboot hooks of the same names, last first.
//! The one that failed is not undone: nobody knows how far it came, so it cleans up after itself. One
//! that the end of the daemon cut short could not, and is undone.
//!
//! Not knowing is never a yes: a folder that cannot be read fails its phase.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rebootlock::config::{HooksSettings, Isolation};
use rebootlock::process::{Finished, How, Output, Spec, Trace};

use crate::metrics::{HookEnd, HookPhase, Metrics};
use crate::unit::{self, Belongs, Left};

/// So much of a hook's output goes into its error; all that was kept is in the log.
const TAIL: usize = 300;

/// Which side of the reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before it.
    PreReboot,
    /// After it, or when it does not happen.
    PostReboot,
}

impl Phase {
    /// As hooks are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreReboot => "pre-reboot",
            Self::PostReboot => "post-reboot",
        }
    }
}

/// What hooks are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookEnv {
    /// `REBOOTLOCK_MACHINE_ID`
    pub machine_id: String,
    /// `REBOOTLOCK_HOSTNAME`
    pub hostname: String,
    /// `REBOOTLOCK_BOOT_ID`
    pub boot_id: String,
    /// `REBOOTLOCK_GROUPS`, separated by commas.
    pub groups: Vec<String>,
    /// `REBOOTLOCK_REASON`
    pub reason: String,
    /// `REBOOTLOCK_DRY_RUN`: `true` or `false`. Hooks run in a dry run too.
    pub dry_run: bool,
    /// `REBOOTLOCK_TOKEN`
    pub token: String,
}

impl HookEnv {
    /// The variables of a phase.
    pub fn variables(&self, phase: Phase) -> Vec<(String, String)> {
        // A reason may come from anywhere, and systemd takes no zero byte.
        let plain = |text: &str| text.replace(char::is_control, " ");
        [
            ("PHASE", phase.as_str().to_owned()),
            ("MACHINE_ID", plain(&self.machine_id)),
            ("HOSTNAME", plain(&self.hostname)),
            ("BOOT_ID", plain(&self.boot_id)),
            ("GROUPS", plain(&self.groups.join(","))),
            ("REASON", plain(&self.reason)),
            ("DRY_RUN", self.dry_run.to_string()),
            ("TOKEN", plain(&self.token)),
        ]
        .map(|(name, value)| (format!("REBOOTLOCK_{name}"), value))
        .to_vec()
    }
}

/// Why a phase was not completed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Nobody knows which hooks there are.
    #[error("cannot read the hooks in {}", .path.display())]
    Unreadable {
        /// The folder, or what is in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A hook did not do what it was to do.
    #[error("hook {name} failed: {how}{}", said(.tail))]
    Failed {
        /// Its file's name.
        name: String,
        /// How it ended.
        how: How,
        /// The end of what it printed.
        tail: String,
    },
}

fn said(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!("; it said: {tail}") }
}

/// How far the pre-reboot hooks have come. To be kept where it survives until the reboot, or until they
/// are undone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Those that have done their work or have begun it, by name, in order.
    pub begun: Vec<String>,
    /// The one that runs, of whichever phase.
    pub running: Option<Left>,
}

/// A pre-reboot phase that failed.
#[derive(Debug, thiserror::Error)]
#[error("the pre-reboot hooks failed")]
pub struct Failed {
    /// Why.
    pub source: HookError,
    /// What could not be undone of what was done before.
    pub not_undone: Vec<HookError>,
}

/// The hooks of this machine.
#[derive(Debug, Clone)]
pub struct Hooks {
    pre_reboot_dir: PathBuf,
    post_reboot_dir: PathBuf,
    timeout: Duration,
    isolation: Isolation,
    metrics: Metrics,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hook {
    name: String,
    path: String,
}

impl Hooks {
    /// As they are configured. Folders are read anew each time.
    pub fn new(settings: &HooksSettings, metrics: Metrics) -> Self {
        Self {
            pre_reboot_dir: settings.pre_reboot_dir.clone(),
            post_reboot_dir: settings.post_reboot_dir.clone(),
            timeout: settings.timeout,
            isolation: settings.isolation,
            metrics,
        }
    }

    /// Runs the pre-reboot hooks. `note` is told of each before it runs and when it has ended: keep it
    /// where a restart of the daemon finds it. If one fails, those before it are undone before this
    /// returns, and `note` is told as that goes on. If the future is dropped they are not: call
    /// [`Hooks::undo`] with what `note` was told last. One that was cut short is undone too, as it
    /// could not clean up after itself.
    ///
    /// # Errors
    /// [`Failed`]: the machine must not reboot.
    pub async fn pre_reboot(
        &self,
        env: &HookEnv,
        mut note: impl FnMut(&Progress) + Send,
    ) -> Result<Vec<String>, Failed> {
        let mut progress = Progress::default();
        let source = match find(&self.pre_reboot_dir).await {
            Ok(hooks) => 'hooks: {
                for hook in &hooks {
                    progress.begun.push(hook.name.clone());
                    let ran = self.run(Phase::PreReboot, hook, env, &mut progress, &mut note).await;
                    if let Err(error) = ran {
                        progress.begun.pop();
                        note(&progress);
                        break 'hooks error;
                    }
                    note(&progress);
                }
                return Ok(progress.begun);
            }
            Err(error) => error,
        };
        Err(Failed { source, not_undone: self.undo(progress.begun, env, note).await })
    }

    /// Runs the post-reboot hooks of a machine that is back. After a failure it may be called again,
    /// and begins with the first. `note` is told which one runs.
    ///
    /// # Errors
    /// [`HookError`]: the machine must not give its slot back.
    pub async fn post_reboot(
        &self,
        env: &HookEnv,
        mut note: impl FnMut(&Progress) + Send,
    ) -> Result<(), HookError> {
        let mut progress = Progress::default();
        for hook in find(&self.post_reboot_dir).await? {
            let ran = self.run(Phase::PostReboot, &hook, env, &mut progress, &mut note).await;
            note(&progress);
            ran?;
        }
        Ok(())
    }

    /// Undoes pre-reboot hooks of a reboot that does not happen, last first, as far as there are
    /// post-reboot hooks of their names. One that fails does not keep the others from running. `note`
    /// is told what is left. Gives what failed.
    pub async fn undo(
        &self,
        begun: Vec<String>,
        env: &HookEnv,
        mut note: impl FnMut(&Progress) + Send,
    ) -> Vec<HookError> {
        if begun.is_empty() {
            return Vec::new();
        }
        let hooks = match find(&self.post_reboot_dir).await {
            Ok(hooks) => hooks,
            Err(error) => return vec![error],
        };
        let mut failures = Vec::new();
        let mut progress = Progress { begun, running: None };
        while let Some(name) = progress.begun.last() {
            match hooks.iter().find(|hook| hook.name == *name) {
                Some(hook) => {
                    let ran =
                        self.run(Phase::PostReboot, hook, env, &mut progress, &mut note).await;
                    failures.extend(ran.err());
                }
                None => tracing::info!(hook = name, "nothing undoes this hook"),
            }
            progress.begun.pop();
            note(&progress);
        }
        failures
    }

    /// Runs one; `progress` shows it until it has ended.
    async fn run(
        &self,
        phase: Phase,
        hook: &Hook,
        env: &HookEnv,
        progress: &mut Progress,
        note: &mut (impl FnMut(&Progress) + Send),
    ) -> Result<(), HookError> {
        let spec = Spec {
            argv: vec![hook.path.clone()],
            env: env.variables(phase),
            timeout: self.timeout,
        };
        let unit = unit::unit_name(&format!("hook-{}", hook.name), &env.machine_id);
        progress.running = Some(Left::as_unit(unit.clone()));
        note(progress);
        tracing::info!(phase = phase.as_str(), hook = hook.name, "hook runs");
        let finished = {
            let mut found_by = |trace: &Trace| {
                progress.running = Some(Left { unit: unit.clone(), trace: Some(trace.clone()) });
                note(progress);
            };
            let belongs = Belongs::ToTheCaller;
            unit::run(self.isolation, &unit, &spec, belongs, &mut found_by).await
        };
        progress.running = None;
        log(phase, hook, &finished);
        self.metrics.hook_ran(&hook.name, phase.into(), ended(&finished));
        if finished.succeeded() {
            return Ok(());
        }
        let tail = finished.output.tail(TAIL);
        Err(HookError::Failed { name: hook.name.clone(), how: finished.how, tail })
    }
}

impl From<Phase> for HookPhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::PreReboot => Self::PreReboot,
            Phase::PostReboot => Self::PostReboot,
        }
    }
}

fn ended(finished: &Finished) -> HookEnd {
    match finished.how {
        _ if finished.succeeded() => HookEnd::Success,
        How::TimedOut => HookEnd::Timeout,
        How::NotStarted(_) => HookEnd::Error,
        _ => HookEnd::Failure,
    }
}

fn log(phase: Phase, hook: &Hook, finished: &Finished) {
    let Finished { how, output, took } = finished;
    let (phase, name) = (phase.as_str(), &hook.name);
    let shown = |output: &Output| output.to_string();
    let secs = (took.as_secs_f64() * 10.0).round() / 10.0;
    if finished.succeeded() {
        tracing::info!(phase, hook = name, %how, secs, output = shown(output), "hook is done");
    } else {
        tracing::error!(phase, hook = name, %how, secs, output = shown(output), "hook failed");
    }
}

/// The executables of a folder in byte order of their names. A folder that is not there has none.
async fn find(folder: &Path) -> Result<Vec<Hook>, HookError> {
    let folder = folder.to_owned();
    // A folder may be on a disk that hangs.
    let found = tokio::task::spawn_blocking(move || find_now(&folder)).await;
    found.unwrap_or_else(|error| {
        let source = io::Error::other(error);
        Err(HookError::Unreadable { path: PathBuf::new(), source })
    })
}

fn find_now(folder: &Path) -> Result<Vec<Hook>, HookError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        |source| HookError::Unreadable { path, source }
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(folder)(source)),
    };
    let mut hooks = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable(folder))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            // Before it is looked at: an editor's lock is a link that leads nowhere.
            tracing::warn!(path = %path.display(), why_not = "hidden", "not run as a hook");
            continue;
        }
        // A link is what it leads to; one that leads nowhere was meant to be a hook.
        let about = path.metadata().map_err(unreadable(&path))?;
        let why_not = if !about.is_file() {
            Some("not a file")
        } else if about.permissions().mode() & 0o111 == 0 {
            Some("not executable")
        } else {
            None
        };
        if let Some(why_not) = why_not {
            tracing::warn!(path = %path.display(), why_not, "not run as a hook");
            continue;
        }
        let text = |text: &std::ffi::OsStr| {
            let not_text = || io::Error::other("its name is not UTF-8; rename it");
            text.to_str().map(str::to_owned).ok_or_else(not_text).map_err(unreadable(&path))
        };
        hooks.push(Hook { name: text(&entry.file_name())?, path: text(path.as_os_str())? });
    }
    hooks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(hooks)
}

#[cfg(test)]
mod tests;
