//! How this machine goes down: by logind, by a command, by a soft reboot, by kexec.
//!
//! An order that was taken says nothing of what happens then. A command's exit code is a hint, and
//! so is logind's answer: [`Boot`] tells a machine that went down from one that did not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rebootlock::config::variables::Template;
use rebootlock::config::{Isolation, MachineSettings, RebootMethod};
use rebootlock::host::{self, HostError};
use rebootlock::id::BootId;
use rebootlock::process::{self, How, Spec};
use tokio::time::Instant;

use crate::logind::{Depth, Logind, OrderError};
use crate::unit::{self, Belongs, NoSystemd, Systemd};

/// Says `1` once a kernel has been loaded for kexec.
const KEXEC_LOADED: &str = "/sys/kernel/kexec_loaded";

/// What the unit of a reboot command is for, as [`Systemd::runs`] knows it.
pub const REBOOT_UNIT: &str = "reboot";

/// For logind to hear from polkit. One that fails to start is waited for in vain.
const POLKIT_TAKES: Duration = Duration::from_secs(2);

/// For systemd to say how many soft reboots there were: it may be busy with itself.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);
/// Between two questions.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);

/// An order to go down.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// For everybody's terminal.
    pub message: String,
    /// What a command is given, by name; also what stands in its arguments.
    pub variables: Vec<(String, String)>,
    /// The machine, for the name of a command's unit.
    pub machine_id: String,
    /// Pass over inhibitors. A command is not subject to them: see to them before.
    pub force: bool,
    /// Too late from here on: what allows the reboot may not hold any more.
    pub until: Option<Instant>,
}

impl Order {
    fn is_too_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// How long logind may take when it asks polkit: there must be time left to go round it.
    fn patience(&self) -> Duration {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()) / 2);
        left.unwrap_or(POLKIT_TAKES).min(POLKIT_TAKES)
    }
}

/// Why the order was not taken. The machine may go down all the same.
#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    /// This machine cannot go down this way. Nothing was ordered.
    #[error("{0}")]
    Impossible(String),
    /// It was not given: [`Order::until`] is over.
    #[error("it is too late for the order")]
    TooLate,
    /// What logind answers, or that it does not.
    #[error("logind did not take the order")]
    Logind(#[source] zbus::Error),
    /// What systemd answers, where logind does not pass over inhibitors.
    #[error("neither logind nor systemd took the order")]
    Systemd(#[source] zbus::Error),
    /// What became of the command.
    #[error("the reboot command failed: {0}")]
    Command(How),
}

/// How this machine goes down.
#[derive(Debug, Clone)]
pub struct Method {
    method: RebootMethod,
    kexec_loaded: PathBuf,
}

impl Method {
    /// As it is configured.
    pub fn new(method: RebootMethod) -> Self {
        Self { method, kexec_loaded: KEXEC_LOADED.into() }
    }

    /// With another file that says whether a kernel was loaded for kexec.
    #[must_use]
    pub fn with_kexec_file(self, kexec_loaded: PathBuf) -> Self {
        Self { kexec_loaded, ..self }
    }

    /// Whether the machine could go down this way now, as far as that can be told without trying:
    /// worth asking before a slot is taken.
    ///
    /// # Errors
    /// [`MethodError::Impossible`].
    pub async fn check(&self) -> Result<(), MethodError> {
        match self.method {
            RebootMethod::Kexec => check_kexec(&self.kexec_loaded),
            RebootMethod::SoftReboot => match Systemd::connect().await {
                Ok(systemd) => match systemd.soft_reboots().await {
                    Ok(None) => Err(MethodError::Impossible(
                        "soft reboots came with systemd 254, and this one is older; choose \
                         another reboot.method"
                            .to_owned(),
                    )),
                    // It may answer later: the order itself will tell.
                    Ok(Some(_)) | Err(_) => Ok(()),
                },
                Err(error) => Err(MethodError::Impossible(format!(
                    "a soft reboot needs systemd, and {error}"
                ))),
            },
            RebootMethod::Logind | RebootMethod::Command { .. } => Ok(()),
        }
    }

    /// Orders the machine to go down. A command is waited for, which is a courtesy to the log:
    /// dropping the future leaves it running, and so does the end of the daemon. `note` is told how it is
    /// found then, if it is not a unit.
    ///
    /// # Errors
    /// [`MethodError`] says why the order was not taken. The machine may go down all the same.
    pub async fn order(
        &self,
        logind: &Logind,
        order: &Order,
        note: process::Note<'_>,
    ) -> Result<(), MethodError> {
        match &self.method {
            RebootMethod::Logind => by_logind(logind, Depth::Full, order).await,
            RebootMethod::SoftReboot => by_logind(logind, Depth::Soft, order).await,
            RebootMethod::Kexec => {
                // Without a kernel logind would go through the firmware and not say so.
                check_kexec(&self.kexec_loaded)?;
                by_logind(logind, Depth::Kexec, order).await
            }
            RebootMethod::Command { argv, timeout } => {
                by_command(argv, *timeout, order, note).await
            }
        }
    }
}

async fn by_logind(logind: &Logind, depth: Depth, order: &Order) -> Result<(), MethodError> {
    logind.say_why(&order.message).await;
    if order.is_too_late() {
        return Err(MethodError::TooLate);
    }
    let patience = if order.force { order.patience() } else { Duration::MAX };
    let answer = match tokio::time::timeout(patience, logind.order(depth, order.force)).await {
        Ok(answer) => answer,
        Err(_) => {
            let error = zbus::Error::Failure("it does not answer in time".to_owned());
            // It may yet: then the order is as good as given, in time or not.
            if order.is_too_late() {
                return Err(MethodError::Logind(error));
            }
            Err(OrderError::Refused(error))
        }
    };
    match answer {
        Ok(()) => Ok(()),
        Err(error @ OrderError::TooOld(..)) => {
            Err(MethodError::Impossible(format!("{error}; choose another reboot.method")))
        }
        Err(OrderError::Refused(error)) if order.force => {
            by_systemd(logind, depth, order, error).await
        }
        Err(OrderError::Refused(error) | OrderError::UnderWay(error)) => {
            Err(MethodError::Logind(error))
        }
    }
}

/// Past logind, which lets nobody pass over an inhibitor where polkit is not there to be asked.
async fn by_systemd(
    logind: &Logind,
    depth: Depth,
    order: &Order,
    refused: zbus::Error,
) -> Result<(), MethodError> {
    if order.is_too_late() {
        return Err(MethodError::TooLate);
    }
    tracing::warn!(
        error = %refused,
        "logind does not pass over the inhibitors, as force_after_secs wants it; systemd is told itself"
    );
    match Systemd::on(logind.connection().clone()).await {
        Ok(systemd) => systemd.go_down(target(depth)).await.map_err(MethodError::Systemd),
        Err(error) => {
            tracing::warn!(%error, "systemd cannot be told");
            Err(MethodError::Logind(refused))
        }
    }
}

/// What logind would have systemd start.
fn target(depth: Depth) -> &'static str {
    match depth {
        Depth::Full => "reboot.target",
        Depth::Kexec => "kexec.target",
        Depth::Soft => "soft-reboot.target",
    }
}

async fn by_command(
    argv: &[Template],
    timeout: Duration,
    order: &Order,
    note: process::Note<'_>,
) -> Result<(), MethodError> {
    if order.is_too_late() {
        return Err(MethodError::TooLate);
    }
    let spec = Spec { argv: expand(argv, &order.variables), env: order.variables.clone(), timeout };
    let name = unit::unit_name(REBOOT_UNIT, &order.machine_id);
    let finished = unit::run(Isolation::Auto, &name, &spec, Belongs::ToItself, note).await;
    match finished.how {
        How::Exited(0) => Ok(()),
        how => Err(MethodError::Command(how)),
    }
}

/// A variable that has no value here is empty, as it would be in a shell.
fn expand(argv: &[Template], variables: &[(String, String)]) -> Vec<String> {
    let value = |name: &str| {
        let known = variables.iter().find(|(known, _)| known == name);
        known.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    argv.iter().map(|argument| argument.expand(value)).collect()
}

fn check_kexec(file: &Path) -> Result<(), MethodError> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim() == "1" => Ok(()),
        Ok(_) => Err(MethodError::Impossible(
            "no kernel is loaded for kexec; load one with `kexec -l` in a pre-reboot hook"
                .to_owned(),
        )),
        Err(error) => Err(MethodError::Impossible(format!(
            "cannot tell whether a kernel is loaded for kexec: {}: {error}",
            file.display()
        ))),
    }
}

/// One run of everything but the kernel.
///
/// A soft reboot keeps the kernel, so the boot id stays what it was. systemd counts them since the
/// kernel came up (`SoftRebootsCount`), and services do not live through one: a daemon that starts
/// and finds a higher count under the same boot id has been through a soft reboot. So the count is part
/// of the id under which slots are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's.
    pub id: BootId,
    /// How many soft reboots it has seen. Nothing where that is unknown.
    pub soft_reboots: Option<u32>,
}

impl Boot {
    /// The present one. Soft reboots are counted where they are the method, and there it waits for a
    /// systemd that is busy: a count that is missing once would make a restart of the daemon look
    /// like a reboot, and free the slot of a machine that is going down.
    ///
    /// # Errors
    /// [`BootError`].
    pub async fn of(settings: &MachineSettings, method: &RebootMethod) -> Result<Self, BootError> {
        let id = host::boot_id(&settings.boot_id_file)?;
        let mut soft_reboots = None;
        if *method == RebootMethod::SoftReboot {
            let counted = async {
                loop {
                    match count_soft_reboots().await {
                        Ok(count) => break count,
                        Err(error) => tracing::debug!(%error, "soft reboots are not counted yet"),
                    }
                    tokio::time::sleep(ATTEMPT_PAUSE).await;
                }
            };
            let counted = tokio::time::timeout(COUNTED_WITHIN, counted).await;
            soft_reboots = counted.map_err(|_| BootError::Uncounted)?;
        }
        Ok(Self { id, soft_reboots })
    }

    /// Both in one: another one after a soft reboot too. Before the first it is the kernel's.
    pub fn whole_id(&self) -> BootId {
        let counted = self.soft_reboots.filter(|count| *count > 0);
        let whole = counted.and_then(|count| BootId::new(&format!("{}+{count}", self.id)).ok());
        whole.unwrap_or_else(|| self.id.clone())
    }

    /// Whether what bears the id `written` is of this boot. Where soft reboots are not counted, or
    /// `written` is of a program that never does, the kernel decides alone: that the machine has been
    /// down since must be known, and is not to be guessed.
    pub fn is(&self, written: &BootId, counted: bool) -> bool {
        let kernel = |id: &BootId| {
            let id = id.as_str();
            id.split_once('+').map_or(id, |(kernel, _)| kernel).to_owned()
        };
        let counted = counted && self.soft_reboots.is_some();
        *written == self.whole_id() || (!counted && kernel(written) == kernel(&self.id))
    }
}

async fn count_soft_reboots() -> Result<Option<u32>, NoSystemd> {
    match Systemd::connect().await {
        Ok(systemd) => Ok(systemd.soft_reboots().await?),
        // Then there is none that could do one.
        Err(NoSystemd::Absent) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why it is not known in which boot this machine is.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel's part of it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The rest of it.
    #[error(
        "systemd does not say how many soft reboots there were, and without that a restart of the \
         daemon cannot be told from one; see systemctl status dbus"
    )]
    Uncounted,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn boot(id: &str, soft_reboots: Option<u32>) -> Boot {
        Boot { id: BootId::new(id).unwrap(), soft_reboots }
    }

    #[test]
    fn a_soft_reboot_is_told_by_its_count_and_a_reboot_by_its_boot_id() {
        let (one, two) =
            ("9e2f4a64-93c1-4a2e-8c1d-6d7c1f4f0a11", "1b7c7a52-0b0e-4e58-9f5e-0a5e4c1f2d22");
        let id = |text: &str| BootId::new(text).unwrap();
        let first = boot(one, Some(1)).whole_id();
        assert_eq!(first.as_str(), format!("{one}+1"));
        assert_eq!(boot(one, Some(0)).whole_id(), id(one));
        for (now, same) in [
            (boot(one, Some(1)), true),
            (boot(one, Some(2)), false),
            (boot(two, Some(0)), false),
            (boot(two, None), false),
            // Nobody counts: it may be the same, and so it is.
            (boot(one, None), true),
        ] {
            assert_eq!(now.is(&first, true), same, "{now:?}");
        }
        // rebootlockctl does not count, so what it took may be of this boot.
        assert!(boot(one, Some(2)).is(&id(one), false));
        assert!(!boot(one, Some(2)).is(&id(one), true));
        assert!(!boot(two, Some(2)).is(&id(one), false));
    }

    #[test]
    fn without_a_kernel_for_kexec_nothing_is_ordered() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kexec_loaded");
        assert!(matches!(check_kexec(&file), Err(MethodError::Impossible(_))));
        std::fs::write(&file, "0\n").unwrap();
        assert!(matches!(check_kexec(&file), Err(MethodError::Impossible(_))));
        std::fs::write(&file, "1\n").unwrap();
        assert!(check_kexec(&file).is_ok());
    }

    #[test]
    fn a_variable_without_a_value_is_empty() {
        let argv = ["/bin/sh", "a${REBOOTLOCK_HOSTNAME}b${RC_PHASE}$$"];
        let argv: Vec<_> = argv.iter().map(|text| Template::parse(text).unwrap()).collect();
        let variables = [("REBOOTLOCK_HOSTNAME".to_owned(), "web-1".to_owned())];
        assert_eq!(expand(&argv, &variables), ["/bin/sh", "aweb-1b$$"]);
    }
}
