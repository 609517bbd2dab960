//! Lines that arrive over time, kept, and waited for.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;

/// Every line so far, shared between who writes it and who waits for it.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    lines: watch::Sender<Vec<String>>,
}

impl Transcript {
    /// Adds a line and wakes whoever waits for it.
    pub fn push(&self, line: impl Into<String>) {
        self.lines.send_modify(|lines| lines.push(line.into()));
    }

    /// Everything so far, in order of arrival.
    pub fn lines(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }

    /// How many lines have arrived; with [`Transcript::wait_after`] a test can ask for what comes next.
    pub fn len(&self) -> usize {
        self.lines.borrow().len()
    }

    /// Whether nothing has arrived.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first line that `wanted` accepts, past or future.
    pub async fn wait_for(
        &self,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.wait_after(0, deadline, wanted).await
    }

    /// The first line that `wanted` accepts, not counting the first `skipped`.
    pub async fn wait_after(
        &self,
        skipped: usize,
        deadline: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let mut receiver = self.lines.subscribe();
        let find =
            |lines: &Vec<String>| lines.iter().skip(skipped).find(|line| wanted(line)).cloned();
        let waited = tokio::time::timeout(deadline, receiver.wait_for(|l| find(l).is_some())).await;
        if let Ok(Ok(lines)) = waited
            && let Some(line) = find(&lines)
        {
            return Ok(line);
        }
        anyhow::bail!("no such line within {deadline:?}; there is:\n{}", self.lines().join("\n"))
    }
}
