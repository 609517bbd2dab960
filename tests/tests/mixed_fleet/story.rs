//! What the store's own history tells of the slot, from its first revision on.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use rebootlock::id::Group;
use rebootlock::keys::last_segment;
use rebootlock::record::{Document as _, HolderRecord, Via};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{Event, Key, Revision, Span};
use rebootlock_tests::fleet::{Onlooker, SOON};
use rebootlock_tests::within;

/// Who had the only slot, and how.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// Who had it, in the order in which they got it.
    pub(crate) order: Vec<String>,
    /// Through which doors each of them came.
    pub(crate) doors: BTreeMap<String, Vec<Via>>,
    /// How often the fleet was paused.
    pub(crate) pauses: usize,
    holder: Option<String>,
    paused: bool,
}

impl Story {
    /// Reads all that has happened so far. Fails if at any revision there was more than one holder, or
    /// one that came while the fleet was paused.
    pub(crate) async fn read(look: &Onlooker) -> Result<Self> {
        let keys = look.locks.keys();
        let semaphore = keys.semaphore(&Group::default());
        let now = look.locks.store().load(std::slice::from_ref(&semaphore)).await?;
        let last = now.get(&semaphore).context("there is no semaphore")?.modified;
        let everything = Span::Below(Key::new(format!("{keys}/")));
        let mut changes = look.locks.store().watch(&everything, Revision(0));
        let mut story = Self::default();
        loop {
            let event = within("the whole history", SOON, changes.next()).await?;
            match event.context("the watch ended")? {
                // Everything of that revision was told.
                Event::Changed { revision, .. } if revision > last => return Ok(story),
                Event::Changed { key, entry, revision } => {
                    let text = entry.map(|entry| entry.value);
                    story.goes_on(look, &key, text.as_deref()).with_context(|| {
                        format!("at revision {revision}, after {:?}", story.order)
                    })?;
                    if revision == last && key == semaphore {
                        return Ok(story);
                    }
                }
                Event::Lost { revision } => bail!("history lost at {revision}"),
                Event::Interrupted { .. } | Event::Resumed => {}
            }
        }
    }

    fn goes_on(&mut self, look: &Onlooker, key: &Key, text: Option<&[u8]>) -> Result<()> {
        let (keys, group) = (look.locks.keys(), Group::default());
        if *key == keys.fleet_paused() {
            self.paused = text.is_some();
            self.pauses += usize::from(self.paused);
        }
        let Some(text) = text else { return Ok(()) };
        if *key == keys.semaphore(&group) {
            let semaphore = Semaphore::from_json(text)?;
            ensure!(semaphore.max() == 1, "{} slots", semaphore.max());
            let holders: Vec<_> = semaphore.holders().iter().map(ToString::to_string).collect();
            ensure!(holders.len() <= 1, "{holders:?} hold the only slot");
            let holder = holders.into_iter().next();
            if let Some(holder) = holder.as_ref().filter(|_| holder != self.holder) {
                ensure!(!self.paused, "{holder} got the slot during a pause");
                self.order.push(holder.clone());
            }
            self.holder = holder;
        } else if key.as_str().starts_with(&format!("{keys}/holders/")) {
            let record = HolderRecord::from_json(text)?;
            let via = record.via.context("a record without a door")?;
            let doors = self.doors.entry(last_segment(key).to_owned()).or_default();
            // It is written again as its holder goes on, under a new token in a new boot.
            if doors.last() != Some(&via) {
                doors.push(via);
            }
        }
        Ok(())
    }
}
