//! Noticing at once that a watched file has come or gone, by inotify on its folder.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use futures::{FutureExt as _, StreamExt as _};
use inotify::{EventStream, Inotify, WatchMask};

use super::file::packages_file;

const CHANGES: WatchMask = WatchMask::CREATE
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::ATTRIB)
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF);

/// Watches the folders of some files.
#[derive(Debug)]
pub(super) struct Watcher {
    events: Option<EventStream<Vec<u8>>>,
    folders: HashSet<PathBuf>,
    /// Of the files, and of the lists beside them.
    names: HashSet<OsString>,
}

impl Watcher {
    /// Without any file it takes nothing of the system; where inotify is not to be had it says so,
    /// and the files are looked at as often as everything else.
    pub(super) fn new(files: &[PathBuf]) -> Self {
        let folder = |file: &PathBuf| file.parent().map(ToOwned::to_owned);
        let lists = files.iter().map(|file| packages_file(file));
        let name = |file: PathBuf| file.file_name().map(ToOwned::to_owned);
        let names = files.iter().cloned().chain(lists).filter_map(name).collect();
        let events = || -> io::Result<_> { Inotify::init()?.into_event_stream(vec![0; 4096]) };
        let events = (!files.is_empty()).then(events).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "files cannot be watched; they are looked at now and then");
            None
        });
        Self { events, folders: files.iter().filter_map(folder).collect(), names }
    }

    /// Watches what can be watched. Again before every look at everything: a folder may be new, or
    /// another one by its old name. Watching a folder twice is watching it once.
    pub(super) fn arm(&mut self) {
        let Some(events) = &self.events else { return };
        for folder in &self.folders {
            if let Err(error) = events.watches().add(folder, CHANGES)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!(folder = %folder.display(), %error, "a folder is not watched");
            }
        }
    }

    /// Returns when one of the files has changed; never, if none is watched. Changes since the last
    /// call count. Safe to cancel.
    pub(super) async fn changed(&mut self) {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        let mut seen = false;
        loop {
            // All there are: a hundred changes are one look.
            let event = match events.next().now_or_never() {
                Some(event) => event,
                None if seen => return,
                None => events.next().await,
            };
            match event {
                // An overflow has no name: then anything may have happened.
                Some(Ok(event)) => {
                    seen |= event.name.is_none_or(|name| self.names.contains(&name));
                }
                Some(Err(_)) | None => {
                    self.events = None;
                    return std::future::pending().await;
                }
            }
        }
    }
}
