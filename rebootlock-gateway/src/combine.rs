//! Requests for one group that arrive together share one transaction.
//!
//! While the store is busy with a group, requests for it are gathered. As soon as it has answered,
//! all of them go to it as one: one load and one commit ([`LockManager::settle_together`]), and each
//! gets its own answer. So a request that comes alone is not kept waiting, and a thousand that come
//! at once cost a few transactions instead of a thousand that make each other lose. Those who only
//! ask whether they still have their slot share one load, which began after each of them had asked:
//! nobody is told of a pause too late.
//!
//! - Requests are settled in the order in which they came, as far as the queue lets them. Two of one
//!   machine are never settled in one transaction.
//! - Each caller waits as long as it likes. Who has gone when its turn comes is left out: a client
//!   that hung up gets no slot that it would not know of. What was sent to the store by then goes
//!   on without it, for the others.
//! - A group has one round under way at a time in this process. Other processes, and other groups, do
//!   not wait for it; what they change is noticed by the commit.
//!
//! Nothing is believed from one round to the next but what the commit proves ([`Left`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rebootlock::id::Group;
use rebootlock::lock::{AT_ONCE, Left, LockError, LockManager, Queued, Settled, Turn, Wish};
use rebootlock::record::HolderRecord;
use rebootlock::semaphore::Semaphore;
use rebootlock::store::StoreError;
use tokio::sync::oneshot;

/// Who has a group's slots, for the sentence that a refused client gets.
pub type Glance = Option<Arc<(Semaphore, Option<HolderRecord>)>>;

type Answer = Result<(Settled, Glance), LockError>;

/// The requests under way, by group.
#[derive(Debug, Default, Clone)]
pub struct Combiner {
    groups: Arc<Mutex<HashMap<Group, Line>>>,
}

#[derive(Debug, Default)]
struct Line {
    waiting: Vec<Asked>,
    under_way: bool,
    left: Left,
}

#[derive(Debug)]
struct Asked {
    wish: Wish,
    answer: oneshot::Sender<Answer>,
}

impl Combiner {
    /// Settles a wish, together with others if there are any.
    ///
    /// # Errors
    /// Those of [`LockManager::acquire_in_turn`] and [`LockManager::give_back`].
    pub async fn settle(&self, locks: &LockManager, group: &Group, wish: Wish) -> Answer {
        let (answer, answered) = oneshot::channel();
        let begin = {
            let mut groups = self.groups();
            let line = groups.entry(group.clone()).or_default();
            line.waiting.push(Asked { wish, answer });
            !std::mem::replace(&mut line.under_way, true)
        };
        if begin {
            // Not in this task, which ends when its client hangs up.
            tokio::spawn(
                Rounds { combiner: self.clone(), group: group.clone() }.run(locks.clone()),
            );
        }
        answered.await.unwrap_or_else(|_| {
            let action = format!("settling a request for group {group}");
            let source = StoreError::Unavailable("it was broken off".to_owned());
            Err(LockError::Store { action, source })
        })
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<Group, Line>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One round after the other, until nobody asks any more.
struct Rounds {
    combiner: Combiner,
    group: Group,
}

impl Rounds {
    async fn run(self, locks: LockManager) {
        while let Some((asked, mut left)) = self.next() {
            let (wishes, callers): (Vec<_>, Vec<_>) =
                asked.into_iter().map(|asked| (asked.wish, asked.answer)).unzip();
            let settled = locks.settle_together(&self.group, &wishes, &mut left).await;
            let glance = match settled.iter().any(is_full) {
                true => locks.glance(&self.group).await.ok().map(Arc::new),
                false => None,
            };
            if let Some(line) = self.combiner.groups().get_mut(&self.group) {
                line.left = left;
            }
            for (settled, caller) in settled.into_iter().zip(callers) {
                // Who does not wait any more learns by asking again.
                let _ = caller.send(settled.map(|settled| (settled, glance.clone())));
            }
        }
    }

    /// What is to be settled next. `None`: nothing, and whoever asks now begins anew.
    fn next(&self) -> Option<(Vec<Asked>, Left)> {
        let mut groups = self.combiner.groups();
        let line = groups.get_mut(&self.group)?;
        line.waiting.retain(|asked| !asked.answer.is_closed());
        if line.waiting.is_empty() {
            line.under_way = false;
            return None;
        }
        let count = line.waiting.len().min(AT_ONCE);
        Some((line.waiting.drain(..count).collect(), std::mem::take(&mut line.left)))
    }
}

impl Drop for Rounds {
    /// However they ended, nobody must wait for a round that is not under way.
    fn drop(&mut self) {
        let mut groups = self.combiner.groups();
        if let Some(line) = groups.get_mut(&self.group).filter(|line| line.under_way) {
            *line = Line::default();
        }
    }
}

/// Whether it is a refusal of which one wants to know who has the slots.
fn is_full(settled: &Result<Settled, LockError>) -> bool {
    matches!(settled, Ok(Settled::Turn(Turn::Queued(Queued { free: 0, max: 1.., .. }))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;
    use rebootlock::id::MachineId;
    use rebootlock::keys::Keyspace;
    use rebootlock::record::{Claim, Via};
    use rebootlock::store::{MemoryStore, Revision};

    use super::*;

    fn takes(name: &str) -> Wish {
        let claim = Claim::new(MachineId::new(name).unwrap(), [], Via::Fleetlock);
        Wish::Acquire { claim, memory: Duration::from_secs(330) }
    }

    fn rig() -> (MemoryStore, LockManager, Combiner) {
        let store = MemoryStore::new();
        let locks = LockManager::new(Arc::new(store.clone()), Keyspace::default());
        (store, locks, Combiner::default())
    }

    fn is_granted(answer: &Answer) -> bool {
        matches!(answer, Ok((Settled::Turn(Turn::Granted(_)), _)))
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_together_share_a_transaction() {
        let (store, locks, combiner) = rig();
        let group = Group::default();
        locks.set_max(&group, 10).await.unwrap();
        let names: Vec<_> = (0..20).map(|n| format!("m{n}")).collect();
        let asking = names.iter().map(|name| combiner.settle(&locks, &group, takes(name)));
        let answers = join_all(asking).await;
        assert_eq!(answers.iter().filter(|answer| is_granted(answer)).count(), 10);
        let (semaphore, record) = answers
            .iter()
            .find_map(|answer| answer.as_ref().ok()?.1.clone())
            .map(|glance| (*glance).clone())
            .unwrap();
        assert_eq!((semaphore.holders().len(), record.is_some()), (10, true));
        let place = locks.keys().semaphore(&group);
        let written: Vec<Revision> = store.log(&place).iter().map(|(at, ..)| *at).collect();
        assert!(written.len() <= 3, "the limit, the first, and all others: {written:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_hung_up_gets_nothing_and_the_others_do() {
        let (_store, locks, combiner) = rig();
        let group = Group::default();
        locks.set_max(&group, 9).await.unwrap();
        let first = tokio::spawn({
            let (locks, combiner) = (locks.clone(), combiner.clone());
            async move { combiner.settle(&locks, &Group::default(), takes("first")).await }
        });
        tokio::task::yield_now().await;
        // Its turn does not come before it goes.
        let mut gone = Box::pin(combiner.settle(&locks, &group, takes("gone")));
        assert!(futures::poll!(&mut gone).is_pending());
        drop(gone);
        assert!(is_granted(&combiner.settle(&locks, &group, takes("other")).await));
        assert!(is_granted(&first.await.unwrap()));
        let status = locks.status(&group).await.unwrap();
        let holders: Vec<_> = status.holders.iter().map(|h| h.machine.to_string()).collect();
        assert_eq!(holders, ["first", "other"]);
    }
}
