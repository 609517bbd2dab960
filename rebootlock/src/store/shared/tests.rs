use std::time::Duration;

use super::*;
use crate::store::{Entry, Key};

fn changed(revision: u64) -> Event {
    changed_in("a/k", revision)
}

fn changed_in(key: &str, revision: u64) -> Event {
    let revision = Revision(revision);
    let entry = Entry { value: Vec::new(), modified: revision, created: revision };
    Event::Changed { key: Key::new(key), entry: Some(entry), revision }
}

fn lost(revision: u64) -> Event {
    Event::Lost { revision: Revision(revision) }
}

fn interrupted() -> Event {
    Event::Interrupted { reason: "away".to_owned() }
}

/// Watches, and the channels that were opened for them, with what ends with their feeders.
#[derive(Default)]
struct Store {
    watches: SharedWatches,
    opened: Vec<(Arc<Channel>, Weak<()>)>,
}

impl Store {
    fn watch(&mut self, prefix: &str) -> Watch {
        let opened = &mut self.opened;
        self.watches.watch(&[Span::Below(Key::new(prefix))], |channel| {
            let alive = Arc::new(());
            opened.push((channel, Arc::downgrade(&alive)));
            AbortOnDropHandle::new(tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(alive);
            }))
        })
    }

    fn part(&self, key: &str, after: u64) -> Option<Watch> {
        self.watches.part(&Span::Only(Key::new(key)), Revision(after))
    }

    fn tell(&self, event: Event) {
        self.opened.last().unwrap().0.tell(event);
    }
}

/// What is there to be read now.
async fn told(watch: &mut Watch) -> Vec<Event> {
    let mut told = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(1), watch.next()).await {
        told.push(event);
    }
    told
}

#[tokio::test(start_paused = true)]
async fn who_watches_the_same_shares_and_is_told_where_it_begins() {
    let mut store = Store::default();
    let (mut first, mut second) = (store.watch("a/"), store.watch("a/"));
    assert_eq!(store.opened.len(), 1);
    store.tell(lost(5));
    store.tell(changed(6));
    let mut third = store.watch("a/");
    store.tell(changed(7));
    assert_eq!(told(&mut first).await, [lost(5), changed(6), changed(7)]);
    assert_eq!(told(&mut second).await, [lost(5), changed(6), changed(7)]);
    assert_eq!(told(&mut third).await, [lost(6), changed(7)]);
    let mut other = store.watch("b/");
    assert_eq!(store.opened.len(), 2);
    store.tell(lost(9));
    assert_eq!(told(&mut other).await, [lost(9)]);
    assert_eq!(told(&mut first).await, []);
}

#[tokio::test(start_paused = true)]
async fn the_last_who_leaves_ends_it_and_the_next_opens_it_anew() {
    let mut store = Store::default();
    let (first, mut second) = (store.watch("a/"), store.watch("a/"));
    drop(first);
    store.tell(lost(1));
    assert_eq!(told(&mut second).await, [lost(1)]);
    drop(second);
    while store.opened[0].1.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    let mut next = store.watch("a/");
    assert_eq!(store.opened.len(), 2);
    assert_eq!(told(&mut next).await, []);
    store.tell(lost(2));
    assert_eq!(told(&mut next).await, [lost(2)]);
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_the_store_is_away_is_told_so_and_then_where_it_begins() {
    let mut store = Store::default();
    let mut first = store.watch("a/");
    store.tell(lost(5));
    store.tell(interrupted());
    let mut second = store.watch("a/");
    assert_eq!(told(&mut second).await, [interrupted()]);
    store.tell(Event::Resumed);
    store.tell(changed(8));
    assert_eq!(told(&mut first).await, [lost(5), interrupted(), Event::Resumed, changed(8)]);
    // It reads after that, and so needs not be told of what came before.
    assert_eq!(told(&mut second).await, [lost(8), Event::Resumed]);
    store.tell(changed(9));
    assert_eq!(told(&mut second).await, [changed(9)]);
    // Away for so long that changes were missed, or before it ever began.
    store.tell(interrupted());
    let mut third = store.watch("a/");
    store.tell(lost(3));
    store.tell(Event::Resumed);
    assert_eq!(told(&mut third).await, [interrupted(), lost(3), Event::Resumed]);
    store.tell(changed(4));
    assert_eq!(told(&mut third).await, [changed(4)]);
}

#[tokio::test(start_paused = true)]
async fn who_reads_too_slowly_is_told_to_read_everything_again() {
    let mut store = Store::default();
    let (mut slow, mut quick) = (store.watch("a/"), store.watch("a/"));
    store.tell(lost(0));
    let last = 3 * Watch::BUFFER as u64;
    for revision in 1..=last {
        store.tell(changed(revision));
        while quick.next().await != Some(changed(revision)) {}
    }
    assert_eq!(told(&mut slow).await, [lost(last)]);
    store.tell(changed(last + 1));
    assert_eq!(told(&mut slow).await, [changed(last + 1)]);
    assert_eq!(told(&mut quick).await, [changed(last + 1)]);
}

#[tokio::test(start_paused = true)]
async fn since_when_it_tells_is_known_but_not_from_before_a_gap() {
    let mut store = Store::default();
    let watch = store.watch("a/");
    assert_eq!(watch.told_since(), None);
    store.tell(lost(1));
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(store.watch("a/").told_since(), Some(began));
    store.tell(interrupted());
    tokio::time::sleep(Duration::from_secs(5)).await;
    store.tell(Event::Resumed);
    assert_eq!(watch.told_since(), Some(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn those_that_have_ended_are_not_kept_in_mind() {
    let mut store = Store::default();
    let kept = store.watch("kept/");
    for n in 0..1000 {
        drop(store.watch(&format!("{n}/")));
    }
    assert!(store.watches.0.lock().unwrap().sources.len() < 100);
    drop(store.watch("kept/"));
    assert_eq!(store.opened.len(), 1001);
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn who_watches_one_key_of_those_that_another_watches_is_told_of_that_one() {
    let mut store = Store::default();
    assert!(store.part("a/k", 5).is_none());
    let mut around = store.watch("a/");
    // It has yet to begin.
    assert!(store.part("a/k", 5).is_none());
    store.tell(lost(5));
    let (mut one, mut same) = (store.part("a/k", 5).unwrap(), store.part("a/k", 5).unwrap());
    assert!(store.part("b/k", 5).is_none());
    assert!(store.watches.part(&Span::Below(Key::new("a/k")), Revision(5)).is_none());
    store.tell(changed(6));
    store.tell(changed_in("a/k/below", 7));
    store.tell(changed_in("a/l", 7));
    store.tell(changed(8));
    assert_eq!(told(&mut one).await, [changed(6), changed(8)]);
    assert_eq!(told(&mut same).await, [changed(6), changed(8)]);
    assert_eq!(told(&mut around).await.len(), 5);
    assert_eq!(store.opened.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_watches_one_key_is_told_all_that_came_after_it_looked_and_nothing_else() {
    let mut store = Store::default();
    let _around = store.watch("a/");
    store.tell(lost(5));
    store.tell(changed(6));
    store.tell(changed_in("a/l", 7));
    store.tell(changed(8));
    let parts = [(5, vec![changed(6), changed(8)]), (6, vec![changed(8)]), (8, vec![])];
    for (after, expected) in parts {
        assert_eq!(told(&mut store.part("a/k", after).unwrap()).await, expected, "after {after}");
    }
    // What it looked at was newer than what the watch has told.
    let mut ahead = store.part("a/k", 10).unwrap();
    store.tell(changed(9));
    store.tell(changed(10));
    store.tell(changed(11));
    assert_eq!(told(&mut ahead).await, [changed(11)]);
    // Of what came before the watch began, and of what is too long ago, nothing is known.
    assert!(store.part("a/k", 4).is_none());
    for revision in 12..12 + Watch::BUFFER as u64 {
        store.tell(changed_in("a/l", revision));
    }
    assert!(store.part("a/k", 10).is_none());
    assert_eq!(told(&mut store.part("a/k", 11).unwrap()).await, []);
}

#[tokio::test(start_paused = true)]
async fn who_watches_one_key_is_told_of_gaps_too() {
    let mut store = Store::default();
    let mut around = store.watch("a/");
    store.tell(lost(5));
    let mut one = store.part("a/k", 5).unwrap();
    store.tell(interrupted());
    let mut meanwhile = store.part("a/k", 5).unwrap();
    store.tell(Event::Resumed);
    store.tell(changed(6));
    // The store was set back.
    store.tell(lost(2));
    store.tell(changed(3));
    let expected = [interrupted(), Event::Resumed, changed(6), lost(2), changed(3)];
    assert_eq!(told(&mut one).await, expected);
    assert_eq!(told(&mut meanwhile).await, expected);
    assert_eq!(told(&mut around).await.len(), 6);
    assert!(store.part("a/k", 1).is_none());
    assert_eq!(told(&mut store.part("a/k", 2).unwrap()).await, [changed(3)]);
}

#[tokio::test(start_paused = true)]
async fn who_watches_one_key_too_slowly_is_told_to_read_it_again() {
    let mut store = Store::default();
    let mut around = store.watch("a/");
    store.tell(lost(0));
    let mut slow = store.part("a/k", 0).unwrap();
    let last = 2 * Watch::BUFFER as u64;
    for revision in 1..=last {
        store.tell(changed(revision));
        while around.next().await != Some(changed(revision)) {}
    }
    let heard = told(&mut slow).await;
    assert_eq!(heard.len(), Watch::BUFFER + 2);
    assert_eq!((&heard[0], heard.last().unwrap()), (&changed(1), &lost(last)));
    store.tell(changed(last + 1));
    assert_eq!(told(&mut slow).await, [changed(last + 1)]);
}

#[tokio::test(start_paused = true)]
async fn who_watches_one_key_keeps_the_watch_around_it_and_leaves_nothing_behind() {
    let mut store = Store::default();
    let around = store.watch("a/");
    store.tell(lost(5));
    let (mut stays, leaves) = (store.part("a/k", 5).unwrap(), store.part("a/l", 5).unwrap());
    drop((around, leaves));
    store.tell(changed(6));
    store.tell(changed_in("a/l", 7));
    assert_eq!(told(&mut stays).await, [changed(6)]);
    assert_eq!(store.opened[0].0.now().parts.listened_to(), [Key::new("a/k")]);
    drop(stays);
    assert!(store.opened[0].0.now().parts.listened_to().is_empty());
    while store.opened[0].1.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(store.part("a/k", 7).is_none());
}

#[tokio::test(start_paused = true)]
async fn who_watches_one_key_takes_part_in_the_narrowest_watch_around_it() {
    let mut store = Store::default();
    let everything = store.watch("a/");
    store.tell(lost(5));
    let around = store.watch("a/b/");
    store.tell(lost(5));
    let mut one = store.part("a/b/k", 5).unwrap();
    drop((everything, around));
    while store.opened[0].1.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    store.tell(changed_in("a/b/k", 6));
    assert_eq!(told(&mut one).await, [changed_in("a/b/k", 6)]);
}

#[tokio::test(start_paused = true)]
async fn of_large_values_few_are_kept_for_who_comes_later() {
    let mut store = Store::default();
    let _around = store.watch("a/");
    store.tell(lost(5));
    let large = |revision: u64| {
        let at = Revision(revision);
        let entry = Entry { value: vec![b'x'; 40 << 10], modified: at, created: at };
        Event::Changed { key: Key::new("a/k"), entry: Some(entry), revision: at }
    };
    store.tell(large(6));
    store.tell(large(7));
    assert!(store.part("a/k", 5).is_none());
    assert_eq!(told(&mut store.part("a/k", 6).unwrap()).await, [large(7)]);
}
