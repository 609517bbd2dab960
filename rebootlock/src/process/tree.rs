//! The processes of a run, and ending them without ever hitting another.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open,
    pidfd_send_signal, waitid,
};
use tokio::process::Child;
use uuid::Uuid;

/// By this variable the processes of a run are known.
pub(super) const RUN_ID: &str = "REBOOTLOCK_RUN_ID";

/// For looking through `/proc`: reading a process's environment can hang on that process.
pub(super) const SEARCH: Duration = Duration::from_secs(2);
/// What escapes may have children in the moment it is killed.
const SEARCHES: u32 = 20;
/// Between two searches: what was killed is still to be seen for a moment.
const SEARCH_PAUSE: Duration = Duration::from_millis(10);

/// A process group led by a child of ours, and what left it. Dropping it kills them.
///
/// Invariant: the leader has not been waited for while `led` is set, so that its number, which is
/// the group's, cannot mean anybody else.
pub(super) struct Tree {
    leader: Pid,
    marker: Vec<u8>,
    led: bool,
}

impl Tree {
    pub(super) fn of(child: &Child, run_id: Uuid) -> Option<Self> {
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))?;
        Some(Self { leader, marker: format!("{RUN_ID}={run_id}").into_bytes(), led: true })
    }

    /// Whether the leader has ended. It stays waited for by nobody.
    pub(super) fn leader_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.leader), options), Ok(None))
    }

    pub(super) fn ask_to_end(&self) {
        let _ = kill_process_group(self.leader, Signal::TERM);
        // It may have been stopped.
        let _ = kill_process_group(self.leader, Signal::CONT);
    }

    pub(super) fn kill_group(&self) {
        let _ = kill_process_group(self.leader, Signal::KILL);
    }

    /// Kills what left the group, within a bounded time.
    pub(super) async fn kill_escaped(&self) {
        let marker = self.marker.clone();
        let search = tokio::task::spawn_blocking(move || {
            (0..SEARCHES).any(|_| {
                let none = kill_marked(&marker) == 0;
                if !none {
                    std::thread::sleep(SEARCH_PAUSE);
                }
                none
            })
        });
        match tokio::time::timeout(SEARCH, search).await {
            Ok(Ok(true)) => {}
            _ => tracing::warn!("processes of a command may have survived it"),
        }
    }

    /// The leader has been waited for, or will be when it can be: nothing is left to kill.
    pub(super) fn let_go(&mut self) {
        self.led = false;
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.led {
            self.kill_group();
            kill_marked(&self.marker);
        }
    }
}

/// Kills every process that has `marker` in its environment, once. How many there were.
fn kill_marked(marker: &[u8]) -> usize {
    let Ok(processes) = std::fs::read_dir("/proc") else { return 0 };
    let marked = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|number: i32| handle_if_marked(number, marker));
    marked.filter(|handle| pidfd_send_signal(handle, Signal::KILL).is_ok()).count()
}

/// The handle is taken first: should the process end and its number be given away while we look,
/// the handle still means the one that ended.
fn handle_if_marked(number: i32, marker: &[u8]) -> Option<OwnedFd> {
    let pid = Pid::from_raw(number)?;
    let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    has_variable(number, marker).then_some(handle)
}

/// Whether a process has `marker`, a variable with its value, in its environment.
pub(super) fn has_variable(number: i32, marker: &[u8]) -> bool {
    std::fs::read(format!("/proc/{number}/environ")).is_ok_and(|environment| {
        environment.split(|byte| *byte == 0).any(|variable| variable == marker)
    })
}
