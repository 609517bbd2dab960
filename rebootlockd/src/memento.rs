//! What the agent remembers on disk: which boot it last ran in, and which slots it took, and
//! how far its reboot had come.
//!
//! A store knows who holds; there this file only tells apart what the store cannot: a slot of our own
//! from one that another machine took under a copied machine-id. Without it the hostname decides.
//! A FleetLock server does not say who holds; there this file is all that is known.

mod wanted;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rebootlock::id::{BootId, Group, Token};
use rebootlock::process::Trace;
use rebootlock::record::UnixTime;
use serde::{Deserialize, Serialize};

pub(crate) use self::wanted::WantedFile;
use crate::logind::Scheduled;
use crate::unit::Left;

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memento {
    /// The boot it was written in.
    pub boot_id: Option<BootId>,
    /// The acquisition it was written for.
    pub token: Option<Token>,
    /// The groups of that acquisition.
    pub groups: Vec<Group>,
    /// Pre-reboot hooks that are done, or were begun, and are not undone.
    pub hooks_done: Vec<String>,
    /// The hook that runs.
    pub hook_running: Option<Left>,
    /// How the command that reboots this machine is found, if it runs in a process group.
    pub command: Option<Trace>,
    /// When this machine came back in that boot, on the kernel's clock, until it is well and its slot is
    /// given back.
    pub back_at_secs: Option<u64>,
    /// Whether the reboot was ordered in that boot.
    pub ordered: bool,
    /// When it was ordered first for the slot that this machine has, on the kernel's clock.
    pub ordered_at_secs: Option<u64>,
    /// What logind was told to announce, and may still.
    pub announced: Option<Scheduled>,
    /// Whether users were told of a reboot, and not yet that it is called off.
    pub told: bool,
    /// For which reason a reboot was counted in that boot: one that was ordered, and may not come.
    pub counted: Option<String>,
    /// The slot that was asked for at a FleetLock server, which does not say who has one.
    pub asked: Option<Asked>,
    /// What this machine has rebooted for while it did not go away.
    pub tried: Vec<Tried>,
}

/// A slot at a FleetLock server that this machine has, or may have, until the server says that it is
/// given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Where.
    pub server: String,
    /// Under which name.
    pub id: String,
    /// In which group.
    pub group: Group,
    /// What is known of it.
    pub stage: Stage,
    /// Since when it is granted, if that is known.
    #[serde(default)]
    pub since: Option<UnixTime>,
}

/// What is known of a slot at a FleetLock server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It was asked for.
    Asked,
    /// It was granted.
    Granted,
    /// It is being given back.
    Releasing,
}

/// A reason that was rebooted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// In the words of the detectors.
    pub reason: String,
    /// How often.
    pub reboots: u32,
}

/// Where it is kept. What cannot be written there is remembered as long as a clone of this lives.
#[derive(Debug, Clone)]
pub struct MementoFile {
    path: PathBuf,
    unwritten: Arc<Mutex<Option<Memento>>>,
    wanted: WantedFile,
}

/// What is found there.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// What was remembered.
    Whole(Box<Memento>),
    /// Nothing.
    Missing,
    /// Something that cannot be read.
    Damaged,
}

impl MementoFile {
    /// In the agent's state folder.
    pub fn new(state_dir: &Path) -> Self {
        let path = state_dir.join("agent.json");
        Self { path, unwritten: Arc::default(), wanted: WantedFile::new(state_dir) }
    }

    /// Since when a reboot is wanted: a file of its own, as nothing but figures depends on it.
    pub(crate) fn wanted(&self) -> &WantedFile {
        &self.wanted
    }

    /// What was remembered; nothing if the file is missing or unreadable.
    pub fn load(&self) -> Memento {
        match self.find() {
            Found::Whole(memento) => *memento,
            Found::Missing | Found::Damaged => Memento::default(),
        }
    }

    /// What was remembered, and whether anything was.
    pub fn find(&self) -> Found {
        if let Some(memento) = &*self.unwritten.lock().unwrap_or_else(PoisonError::into_inner) {
            return Found::Whole(Box::new(memento.clone()));
        }
        let path = self.path.display();
        match std::fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_or_else(
                |error| {
                    tracing::warn!(%path, %error, "forgotten: the file is damaged");
                    Found::Damaged
                },
                |memento| Found::Whole(Box::new(memento)),
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Missing,
            Err(error) => {
                tracing::warn!(%path, %error, "forgotten: the file cannot be read");
                Found::Damaged
            }
        }
    }

    /// Remembers. It survives a power cut; after an error, this process alone remembers.
    ///
    /// # Errors
    /// Why the file cannot be written.
    pub fn save(&self, memento: &Memento) -> io::Result<()> {
        let written = write(&self.path, memento);
        let unwritten = written.is_err().then(|| memento.clone());
        *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner) = unwritten;
        written
    }
}

/// Writes it so that the old or the new is there after a power cut.
fn write(path: &Path, what: &impl Serialize) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let new = path.with_extension("json.new");
    let mut file = std::fs::File::create(&new)?;
    serde_json::to_writer(&mut file, what)?;
    file.flush()?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_remembered_by_this_process() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::write(&state, "").unwrap();
        let file = MementoFile::new(&state);
        let hooks_done = vec!["10-drain".to_owned()];
        let memento = Memento { hooks_done, ..Memento::default() };
        assert!(file.save(&memento).is_err());
        assert_eq!(file.clone().load(), memento);
        std::fs::remove_file(&state).unwrap();
        file.save(&Memento { ordered: true, ..memento.clone() }).unwrap();
        assert!(file.load().ordered && MementoFile::new(&state).load().ordered);
    }
}
