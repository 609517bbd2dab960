//! What an earlier life of the agent may have left running.

use rebootlock::process::Trace;
use serde::{Deserialize, Serialize};

use super::{NoSystemd, Systemd};

/// A command that was begun, and the only life that waited for it may have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Its unit, if it runs as one.
    pub unit: String,
    /// How it is found if it does not.
    pub trace: Option<Trace>,
}

/// Why it may run on.
#[derive(Debug, thiserror::Error)]
pub enum StillRuns {
    /// It does, though it was killed.
    #[error("processes of it do not end")]
    Group,
    /// Only systemd knows of its unit.
    #[error("{0}")]
    Unknown(#[from] NoSystemd),
    /// What systemd answers.
    #[error("systemd does not stop it: {0}")]
    Unit(#[from] zbus::Error),
}

impl Left {
    /// That is to run as `unit`, or else where it is told.
    pub fn as_unit(unit: String) -> Self {
        Self { unit, trace: None }
    }

    /// Ends it, and waits until it is gone.
    ///
    /// # Errors
    /// [`StillRuns`]: it may not be.
    pub async fn end(&self) -> Result<(), StillRuns> {
        match &self.trace {
            Some(trace) if trace.end().await => Ok(()),
            Some(_) => Err(StillRuns::Group),
            None => match Systemd::connect().await {
                Ok(systemd) => Ok(systemd.stop(&self.unit).await?),
                // Nor was it when this was to begin.
                Err(NoSystemd::Absent) => Ok(()),
                Err(error) => Err(error.into()),
            },
        }
    }
}
