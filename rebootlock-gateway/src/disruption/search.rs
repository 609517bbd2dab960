//! What no machine asks about any more, and nothing else would find.

use std::collections::BTreeSet;
use std::time::Duration;

use rebootlock::id::{Group, MachineId};
use tokio::time::Instant;

use super::ask::{self, holds};
use super::keep::unless_damaged;
use crate::app::Live;
use crate::slots::{self, Refusal};

/// Between two searches.
const SEARCH_EVERY: Duration = Duration::from_secs(300);

/// When that was last looked for.
pub(super) struct Search {
    last: Instant,
}

impl Default for Search {
    fn default() -> Self {
        Self { last: Instant::now() }
    }
}

impl Search {
    pub(super) async fn now_and_then(&mut self, live: &Live) {
        if self.last.elapsed() < SEARCH_EVERY {
            return;
        }
        self.last = Instant::now();
        if let Err(error) = search(live).await {
            tracing::debug!(%error, "looking for what is forgotten later");
        }
    }
}

/// Finds slots that were taken through this door and that no machine's document knows about, and groups
/// that machines made and nobody asks for.
async fn search(live: &Live) -> Result<(), Refusal> {
    let known = slots::in_time(live, live.locks.disruptions()).await?;
    let known: BTreeSet<_> = known.into_iter().map(|(machine, _)| machine).collect();
    for group in slots::in_time(live, live.groups()).await? {
        unless_damaged(search_in(live, &group, &known).await)?;
    }
    Ok(())
}

async fn search_in(live: &Live, group: &Group, known: &BTreeSet<MachineId>) -> Result<(), Refusal> {
    let (semaphore, _) = slots::in_time(live, live.locks.glance(group)).await?;
    for machine in semaphore.holders().iter().filter(|machine| !known.contains(*machine)) {
        if holds(live, group, machine).await?.is_some() {
            tracing::warn!(id = %machine, %group, "a slot that nobody asks about; its time begins");
            ask::adopt(live, group, machine).await?;
        }
    }
    if ask::follows(live, group) {
        slots::in_time(live, live.locks.settle_limit(group, None)).await?;
    }
    Ok(())
}
