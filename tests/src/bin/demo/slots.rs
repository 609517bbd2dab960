//! The semaphore at every revision: as it was seen while it happened, and out of the store's own history.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rebootlock::id::{Group, MachineId};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{Event, Revision, Span, Watch};
use rebootlock_tests::fleet::Onlooker;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Longest time to read the whole history in.
const REPLAY: Duration = Duration::from_secs(10);

/// Who held, at the moment a change was heard of.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) holders: BTreeSet<MachineId>,
}

/// A recording of changes as they happen.
#[derive(Debug)]
pub(crate) struct Slots {
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Slots {
    /// Begins to record.
    pub(crate) fn record(look: &Onlooker) -> Self {
        let mut changes = watch(look);
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let recorded = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(event) = changes.next().await {
                let at = Instant::now();
                let Event::Changed { entry: Some(entry), .. } = event else { continue };
                // What is no semaphore is for the replay to complain about.
                let Ok(semaphore) = Semaphore::from_json(&entry.value) else { continue };
                let holders = semaphore.holders().clone();
                lock(&recorded).push(Seen { at, holders });
            }
        });
        Self { seen, task }
    }

    /// Ends the recording.
    pub(crate) fn end(self) -> Vec<Seen> {
        self.task.abort();
        lock(&self.seen).clone()
    }
}

/// What the store's history says of the limit.
#[derive(Debug)]
pub(crate) struct History {
    /// How often the semaphore was written.
    pub(crate) revisions: usize,
    /// The most who held at any of them.
    pub(crate) most: usize,
    /// How many may.
    pub(crate) max: usize,
}

/// Reads every revision of the semaphore again, from the first to the newest.
pub(crate) async fn replay(look: &Onlooker, max: u32) -> Result<History> {
    let key = look.locks.keys().semaphore(&Group::default());
    let now = look.locks.store().load(std::slice::from_ref(&key)).await?;
    let newest = now.get(&key).context("nobody ever took a slot")?.modified;
    let mut changes = watch(look);
    let mut history = History { revisions: 0, most: 0, max: usize::try_from(max)? };
    loop {
        let event = tokio::time::timeout(REPLAY, changes.next()).await;
        match event.context("the history ends too early")?.context("the watch ended")? {
            Event::Changed { key: changed, entry, revision } if changed == key => {
                let entry = entry.with_context(|| format!("{key} is gone at {revision}"))?;
                let semaphore = Semaphore::from_json(&entry.value)?;
                ensure!(semaphore.max() == max, "the limit was changed at {revision}");
                history.revisions += 1;
                history.most = history.most.max(semaphore.holders().len());
                if revision >= newest {
                    return Ok(history);
                }
            }
            Event::Lost { revision } => bail!("the history before {revision} is lost"),
            _ => {}
        }
    }
}

fn watch(look: &Onlooker) -> Watch {
    let key = look.locks.keys().semaphore(&Group::default());
    look.locks.store().watch(&Span::Below(key.clone()), Revision(0))
}

fn lock(seen: &Mutex<Vec<Seen>>) -> std::sync::MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
