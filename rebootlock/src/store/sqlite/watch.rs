//! Noticing commits: this process's own, and others' by inotify.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use inotify::{Inotify, WatchMask};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::schema;
use super::{Revision, SqliteStore};
use crate::store::{Entry, Event, Span, Watch};

/// Look again after this long even if nothing was heard: a folder on a network file system, which
/// SQLite advises against anyway, does not tell.
const POLL: Duration = Duration::from_secs(5);

/// Turns what inotify says of the file and its log into wake-ups.
#[derive(Debug)]
pub(super) struct FolderWatcher {
    _task: AbortOnDropHandle<()>,
}

impl FolderWatcher {
    pub(super) fn start(path: &Path, wake: tokio::sync::watch::Sender<()>) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let inotify = Inotify::init()?;
        inotify.watches().add(folder, WatchMask::ATTRIB | WatchMask::MODIFY | WatchMask::CREATE)?;
        let mut events = inotify.into_event_stream(vec![0; 4096])?;
        let name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let about_us = |seen: &std::ffi::OsString| {
                    seen.as_encoded_bytes().starts_with(name.as_encoded_bytes())
                };
                // An overflow has no name: then anything may have happened.
                if event.is_ok_and(|event| event.name.as_ref().is_none_or(about_us)) {
                    wake.send_replace(());
                }
            }
        });
        Ok(Self { _task: AbortOnDropHandle::new(task) })
    }
}

pub(super) fn start(store: SqliteStore, spans: Vec<Span>, after: Option<Revision>) -> Watch {
    let (sender, receiver) = mpsc::channel(Watch::BUFFER);
    // Subscribed before the first look, so that nothing falls between the two.
    let wake = store.wake.subscribe();
    let feeder = tokio::spawn(feed(store, spans, after, wake, sender));
    Watch::new(receiver, AbortOnDropHandle::new(feeder))
}

async fn feed(
    store: SqliteStore,
    spans: Vec<Span>,
    mut after: Option<Revision>,
    mut wake: tokio::sync::watch::Receiver<()>,
    sender: mpsc::Sender<Event>,
) {
    let mut interrupted = false;
    loop {
        wake.mark_unchanged();
        let wanted = spans.clone();
        let looked = store
            .see(move |txn, clock| {
                let (compacted, current) = schema::bounds(txn)?;
                let changes = schema::changes(txn, &wanted, after.unwrap_or(current))?;
                let next_end = schema::next_end(txn, clock)?;
                Ok((compacted, current, changes, next_end))
            })
            .await;
        let mut events = Vec::new();
        let mut pause = POLL;
        match looked {
            Err(error) if !interrupted => {
                interrupted = true;
                events.push(Event::Interrupted { reason: error.to_string() });
                pause = Duration::from_millis(500);
            }
            Err(_) => pause = Duration::from_millis(500),
            Ok((compacted, current, changes, next_end)) => {
                if std::mem::take(&mut interrupted) {
                    events.push(Event::Resumed);
                }
                if after.is_none_or(|after| compacted > after || current < after) {
                    events.push(Event::Lost { revision: current });
                } else {
                    events.extend(changes.into_iter().map(|change| Event::Changed {
                        key: change.key,
                        entry: change.put.map(|(value, created)| Entry {
                            value,
                            modified: change.revision,
                            created,
                        }),
                        revision: change.revision,
                    }));
                }
                after = Some(current);
                if let Some(next_end) = next_end {
                    pause = pause.min(Duration::from_millis(next_end.unsigned_abs() + 1));
                }
            }
        }
        for event in events {
            if sender.send(event).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = wake.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
            () = sender.closed() => return,
        }
    }
}
