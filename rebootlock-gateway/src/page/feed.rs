//! News for open pages: one task watches the store, draws what has changed, and hands it to all of
//! them. There is none while nobody looks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rebootlock::store::{Key, Span, Watch};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::parts::{Part, Parts};
use crate::app::App;

/// What comes within this time of a change is drawn together with it.
const TOGETHER: Duration = Duration::from_millis(50);

/// Between two looks of which none was asked for by a change: some things happen by the clock.
const ANYHOW: Duration = Duration::from_secs(15);

/// The same, while the store does not answer.
const AGAIN: Duration = Duration::from_secs(2);

/// One in so many connections may be a page that is kept up to date.
const SHARE: usize = 8;

type News = watch::Receiver<Option<Arc<Parts>>>;

/// Where pages find out what is new.
#[derive(Debug)]
pub(super) struct Feed {
    following: Mutex<Weak<Following>>,
    free: Arc<Semaphore>,
}

/// The task, which ends with the last page that listens.
#[derive(Debug)]
struct Following {
    news: News,
    _task: AbortOnDropHandle<()>,
}

/// One page that listens.
#[derive(Debug)]
pub(super) struct Listener {
    /// The newest alone: who is slow misses what was in between, and nothing is kept for it.
    news: News,
    sent: Sent,
    _following: Arc<Following>,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    /// News for a share of so many connections.
    pub(super) fn new(max_connections: usize) -> Self {
        let most = (max_connections / SHARE).max(1);
        Self { following: Mutex::default(), free: Arc::new(Semaphore::new(most)) }
    }

    /// Listens from now on; `None` if so many do already that one more is too much.
    pub(super) fn listen(&self, app: &Arc<App>) -> Option<Listener> {
        let place = self.free.clone().try_acquire_owned().ok()?;
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        let current = following.upgrade().unwrap_or_else(|| {
            let (told, news) = watch::channel(None);
            let task = AbortOnDropHandle::new(tokio::spawn(follow(app.clone(), told)));
            let new = Arc::new(Following { news, _task: task });
            *following = Arc::downgrade(&new);
            new
        });
        let mut news = current.news.clone();
        news.mark_changed();
        Some(Listener { news, sent: Sent::default(), _following: current, _place: place })
    }
}

impl Listener {
    /// What has changed since the last call, by the names of the parts; `None` when there will be no
    /// more. Safe to cancel.
    pub(super) async fn changed(&mut self) -> Option<(Arc<Parts>, Vec<Part>)> {
        loop {
            self.news.changed().await.ok()?;
            let Some(parts) = self.news.borrow_and_update().clone() else { continue };
            let changed = self.sent.update(&parts);
            return Some((parts, changed));
        }
    }

    /// What was seen last.
    pub(super) fn current(&self) -> Option<Arc<Parts>> {
        self.news.borrow().clone()
    }
}

/// What a page shows, by digests.
#[derive(Debug, Default)]
struct Sent {
    parts: HashMap<String, u64>,
    groups: Vec<String>,
}

impl Sent {
    /// Notes that the page will show `parts`, and returns which of them it does not yet.
    fn update(&mut self, parts: &Parts) -> Vec<Part> {
        let groups: Vec<String> = parts.groups.iter().map(|part| part.id.clone()).collect();
        let mut changed = Vec::new();
        if groups == self.groups {
            let news =
                parts.groups.iter().filter(|part| self.parts.get(&part.id) != Some(&part.digest));
            changed.extend(news.cloned());
        } else {
            // Some came or went, so they are put in anew, all of them and in their order.
            changed.push(parts.all_groups());
        }
        let news =
            parts.others.iter().filter(|part| self.parts.get(&part.id) != Some(&part.digest));
        changed.extend(news.cloned());
        let shown = parts.groups.iter().chain(&parts.others);
        self.parts = shown.map(|part| (part.id.clone(), part.digest)).collect();
        self.groups = groups;
        changed
    }
}

/// Looks whenever something changes, and tells. Ends with its handle.
async fn follow(app: Arc<App>, told: watch::Sender<Option<Arc<Parts>>>) {
    let live = app.live();
    let store = live.locks.store().clone();
    let everything = Span::Below(Key::new(format!("{}/", live.locks.keys())));
    drop(live);
    let mut changes = store.watch_from_now(&[everything]);
    loop {
        let began = Instant::now();
        let sight = app.page.look(&app.live()).await;
        let took = began.elapsed();
        let pause = if sight.trouble.is_some() { AGAIN } else { ANYHOW };
        told.send_replace(Some(sight.parts.clone()));
        match tokio::time::timeout(pause, changes.next()).await {
            // The runtime shuts down.
            Ok(None) => return,
            // A fleet that is always busy costs a share of this process, and not all of it.
            Ok(Some(_)) => drain(&mut changes, TOGETHER.max(took * 2)).await,
            Err(_) => {}
        }
    }
}

/// Takes what comes within so long. All that counts is that something did.
async fn drain(changes: &mut Watch, time: Duration) {
    let until = Instant::now() + time;
    while let Ok(Some(_)) = tokio::time::timeout_at(until, changes.next()).await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(groups: &[(&str, &str)], others: &[(&str, &str)]) -> Parts {
        let part = |(id, html): &(&str, &str)| Part::new(*id, (*html).to_owned());
        Parts::new(groups.iter().map(part).collect(), others.iter().map(part).collect())
    }

    fn names(changed: &[Part]) -> Vec<&str> {
        changed.iter().map(|part| part.id.as_str()).collect()
    }

    #[test]
    fn a_page_is_told_what_it_does_not_show_yet() {
        let mut sent = Sent::default();
        let first = parts(&[("a", "1"), ("b", "1")], &[("history", "1")]);
        assert_eq!(names(&sent.update(&first)), ["groups", "history"]);
        assert!(sent.update(&first).is_empty());
        let second = parts(&[("a", "1"), ("b", "2")], &[("history", "1")]);
        assert_eq!(names(&sent.update(&second)), ["b"]);
        let third = parts(&[("b", "2")], &[("history", "2")]);
        let changed = sent.update(&third);
        assert_eq!(names(&changed), ["groups", "history"]);
        assert_eq!(changed[0].html, "<div class=\"section\" id=\"groups\">2</div>");
    }
}
