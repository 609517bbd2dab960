//! Leases. Their ends are given plenty of time: no store is exact about them.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Place, good, load, next_change, put, value, win};
use crate::store::{Event, Key, Span, Store, StoreError, Txn};

const TTL: Duration = Duration::from_secs(1);

/// Longest time after the end of a lease until its keys are gone.
const LATE: Duration = Duration::from_secs(15);

async fn until_gone(store: &dyn Store, key: &Key) {
    let deadline = Instant::now() + TTL + LATE;
    while value(store, key).await.is_some() {
        assert!(Instant::now() < deadline, "{key} is still there {LATE:?} after its lease ended");
        sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn keys_go_with_their_lease(place: Place<'_>) {
    let store = place.open();
    let began = Instant::now();
    let lease = good(store.grant(TTL).await);
    let keys = [place.key("a"), place.key("b")];
    let stays = place.key("stays");
    let txn = Txn::new()
        .put_leased(keys[0].clone(), "x".into(), lease)
        .put_leased(keys[1].clone(), "y".into(), lease)
        .put(stays.clone(), "z".into());
    win(&*store, txn).await;
    if began.elapsed() < TTL {
        let there = load(&*store, &keys).await;
        assert!(began.elapsed() >= TTL || there.entries.len() == 2, "gone too early: {there:?}");
    }
    for key in &keys {
        until_gone(&*store, key).await;
    }
    assert!(began.elapsed() >= TTL, "the lease ended after {:?}", began.elapsed());
    assert_eq!(value(&*store, &stays).await.as_deref(), Some("z"), "it hung on no lease");
}

pub(super) async fn a_lease_kept_alive_stays(place: Place<'_>) {
    let (store, other) = (place.open(), place.open());
    let ttl = TTL * 2;
    let lease = good(store.grant(ttl).await);
    let key = place.key("k");
    win(&*store, Txn::new().put_leased(key.clone(), "x".into(), lease)).await;
    let until = Instant::now() + ttl * 3;
    while Instant::now() < until {
        // Any client may do it.
        good(other.keep_alive(lease).await);
        assert_eq!(value(&*store, &key).await.as_deref(), Some("x"), "gone though kept alive");
        sleep(ttl / 8).await;
    }
    until_gone(&*store, &key).await;
}

pub(super) async fn a_revoked_lease_goes_at_once(place: Place<'_>) {
    let store = place.open();
    let lease = good(store.grant(Duration::from_secs(600)).await);
    let key = place.key("k");
    win(&*store, Txn::new().put_leased(key.clone(), "x".into(), lease)).await;
    good(store.revoke(lease).await);
    assert_eq!(value(&*store, &key).await, None, "its lease was revoked");
    good(store.revoke(lease).await);
}

pub(super) async fn an_ended_lease_stays_ended(place: Place<'_>) {
    let store = place.open();
    let ended = |answer| matches!(answer, Err(StoreError::LeaseGone));
    let revoked = good(store.grant(TTL).await);
    good(store.revoke(revoked).await);
    let answer = store.keep_alive(revoked).await;
    assert!(ended(answer.clone()), "revoked, but keep-alive says {answer:?}");

    let lease = good(store.grant(TTL).await);
    let key = place.key("k");
    win(&*store, Txn::new().put_leased(key.clone(), "x".into(), lease)).await;
    until_gone(&*store, &key).await;
    let answer = store.keep_alive(lease).await;
    assert!(ended(answer.clone()), "ended, but keep-alive says {answer:?}");
    assert_eq!(value(&*store, &key).await, None, "it came back");
    let fresh = good(store.grant(TTL).await);
    assert!(fresh != lease && fresh != revoked, "the name of an ended lease was given again");
}

pub(super) async fn nothing_is_put_on_an_ended_lease(place: Place<'_>) {
    let store = place.open();
    let lease = good(store.grant(TTL).await);
    good(store.revoke(lease).await);
    let (leased, plain, old) = (place.key("leased"), place.key("plain"), place.key("old"));
    put(&*store, &old, "old").await;
    let txn = Txn::new().put(plain.clone(), "x".into()).delete(old.clone()).put_leased(
        leased.clone(),
        "x".into(),
        lease,
    );
    let answer = store.commit(&txn).await;
    assert!(matches!(answer, Err(StoreError::LeaseGone)), "{answer:?}");
    assert_eq!(value(&*store, &leased).await, None, "put on an ended lease");
    assert_eq!(value(&*store, &plain).await, None, "half a transaction");
    assert_eq!(value(&*store, &old).await.as_deref(), Some("old"), "half a transaction");
}

pub(super) async fn a_key_put_again_without_a_lease_stays(place: Place<'_>) {
    let store = place.open();
    let (kept, moved, witness) = (place.key("kept"), place.key("moved"), place.key("witness"));
    let first = good(store.grant(TTL).await);
    let second = good(store.grant(Duration::from_secs(600)).await);
    let txn = [&kept, &moved, &witness]
        .into_iter()
        .fold(Txn::new(), |txn, key| txn.put_leased(key.clone(), "leased".into(), first));
    win(&*store, txn).await;
    let txn = Txn::new().put(kept.clone(), "kept".into()).put_leased(
        moved.clone(),
        "moved".into(),
        second,
    );
    win(&*store, txn).await;
    until_gone(&*store, &witness).await;
    assert_eq!(value(&*store, &kept).await.as_deref(), Some("kept"), "it hung on no lease");
    assert_eq!(value(&*store, &moved).await.as_deref(), Some("moved"), "it hung on another");
    good(store.revoke(second).await);
    assert_eq!(value(&*store, &moved).await, None, "its lease was revoked");
}

pub(super) async fn a_watch_tells_that_a_lease_ended(place: Place<'_>) {
    let store = place.open();
    let lease = good(store.grant(TTL).await);
    let key = place.key("k");
    let put_at = win(&*store, Txn::new().put_leased(key.clone(), "x".into(), lease)).await;
    let mut watch = store.watch(&Span::Below(key.clone()), put_at);
    match next_change(&mut watch).await {
        Event::Changed { key: told, entry: None, revision } => {
            assert!(told == key && revision > put_at, "{told} at {revision}");
        }
        other => panic!("{other:?} instead of the end"),
    }
    assert_eq!(value(&*store, &key).await, None);
}
