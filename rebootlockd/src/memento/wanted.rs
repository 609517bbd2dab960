//! Since when this machine has wanted a reboot without a break, for the figures: over a reload and over
//! a restart of the daemon.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rebootlock::id::BootId;
use rebootlock::record::UnixTime;
use serde::{Deserialize, Serialize};

use crate::method::Boot;

/// Where that is kept. What cannot be written there is remembered as long as a clone of this lives.
#[derive(Debug, Clone)]
pub(crate) struct WantedFile {
    path: PathBuf,
    known: Arc<Mutex<Option<Wanted>>>,
}

/// The file's content. A new boot begins anew: what was wanted before it has been done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wanted {
    boot_id: BootId,
    since: UnixTime,
}

impl WantedFile {
    /// In the agent's state folder.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("wanted.json"), known: Arc::default() }
    }

    /// A reboot is wanted `now`: since when, in this boot.
    pub(crate) fn since(&self, boot: &Boot, now: UnixTime) -> UnixTime {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.take().or_else(|| {
            let text = std::fs::read(&self.path).ok()?;
            serde_json::from_slice(&text).ok()
        });
        if let Some(before) = before.filter(|before: &Wanted| boot.is(&before.boot_id, true)) {
            return known.insert(before).since;
        }
        let wanted = known.insert(Wanted { boot_id: boot.whole_id(), since: now });
        if let Err(error) = super::write(&self.path, wanted) {
            let path = self.path.display();
            tracing::debug!(%path, %error, "since when a reboot is wanted cannot be kept");
        }
        now
    }

    /// None is wanted.
    pub(crate) fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Mostly there is none.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_goes_on_until_it_ends_or_the_machine_has_rebooted() {
        let folder = tempfile::tempdir().unwrap();
        let file = || WantedFile::new(folder.path());
        let boot = |id: &str| Boot { id: BootId::new(id).unwrap(), soft_reboots: None };
        assert_eq!(file().since(&boot("one"), UnixTime(1)), UnixTime(1));
        assert_eq!(file().since(&boot("one"), UnixTime(2)), UnixTime(1));
        assert_eq!(file().since(&boot("two"), UnixTime(3)), UnixTime(3));
        file().forget();
        assert_eq!(file().since(&boot("two"), UnixTime(4)), UnixTime(4));
        std::fs::write(folder.path().join("wanted.json"), "{").unwrap();
        assert_eq!(file().since(&boot("two"), UnixTime(5)), UnixTime(5));
    }

    #[test]
    fn what_cannot_be_written_is_remembered_by_this_process() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::write(&state, "").unwrap();
        let (file, boot) =
            (WantedFile::new(&state), Boot { id: BootId::new("one").unwrap(), soft_reboots: None });
        assert_eq!(file.since(&boot, UnixTime(1)), UnixTime(1));
        assert_eq!(file.clone().since(&boot, UnixTime(2)), UnixTime(1));
        file.forget();
        assert_eq!(file.since(&boot, UnixTime(3)), UnixTime(3));
    }
}
