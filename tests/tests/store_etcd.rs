//! The etcd store against real servers: of each version there is, alone and in threes, with TLS
//! and access control, and while they are killed, frozen, compacted and cut off.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use rebootlock::id::MachineId;
use rebootlock::keys::Keyspace;
use rebootlock::lock::{Acquired, Ended, LockManager, Release};
use rebootlock::record::{Claim, Via};
use rebootlock::store::{
    Commit, EtcdOptions, EtcdStore, Event, Key, Revision, Select, SharedStore, Span, Store,
    StoreError, Txn, Watch, conformance,
};
use rebootlock::wait::{self, Obstacle, WaitOptions, Waiting};
use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, system, versions};
use rebootlock_tests::pki::Pki;
use rebootlock_tests::prometheus::http_get;
use rebootlock_tests::proxy::Proxy;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time until what was interrupted must go on.
const BACK_WITHIN: Duration = Duration::from_secs(30);

fn options(endpoints: Vec<String>) -> EtcdOptions {
    EtcdOptions {
        endpoints,
        ca_file: None,
        cert_file: None,
        key_file: None,
        username: None,
        password: None,
        timeout: TIMEOUT,
    }
}

fn store(endpoints: Vec<String>) -> EtcdStore {
    EtcdStore::new(options(endpoints)).unwrap()
}

async fn start() -> EtcdCluster {
    EtcdSetup::new(&system().unwrap()).start().await.unwrap()
}

async fn start_three() -> EtcdCluster {
    EtcdSetup::new(&system().unwrap()).members(3).start().await.unwrap()
}

async fn put(store: &EtcdStore, key: &str, value: &str) -> Result<Revision, StoreError> {
    match store.commit(&Txn::new().put(Key::new(key), value.into())).await? {
        Commit::Won(revision) => Ok(revision),
        Commit::Lost => panic!("there was no precondition"),
    }
}

async fn get(store: &EtcdStore, key: &str) -> Result<Option<String>, StoreError> {
    let key = Key::new(key);
    let snapshot = store.load(std::slice::from_ref(&key)).await?;
    Ok(snapshot.get(&key).map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// The first success of something that fails while a cluster mends itself.
async fn eventually<T>(mut attempt: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let deadline = Instant::now() + BACK_WITHIN;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "still: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn next(watch: &mut Watch) -> Event {
    match tokio::time::timeout(BACK_WITHIN, watch.next()).await {
        Ok(Some(event)) => event,
        other => panic!("the watch should have told something, but: {other:?}"),
    }
}

/// All events up to the change of `key` to `value`.
async fn until_changed(watch: &mut Watch, value: &str) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = next(watch).await;
        events.push(event.clone());
        if let Event::Changed { entry: Some(entry), .. } = event
            && entry.value == value.as_bytes()
        {
            return events;
        }
    }
}

fn kinds(events: &[Event]) -> Vec<&'static str> {
    let kind = |event: &Event| match event {
        Event::Changed { .. } => "changed",
        Event::Lost { .. } => "lost",
        Event::Interrupted { .. } => "interrupted",
        Event::Resumed => "resumed",
    };
    events.iter().map(kind).collect()
}

async fn conforms(endpoints: Vec<String>) {
    let mut options = options(endpoints);
    // All checks at once on a busy machine; how fast a store is, is not the question here.
    options.timeout = Duration::from_secs(30);
    let open = || -> SharedStore { Arc::new(EtcdStore::new(options.clone()).unwrap()) };
    conformance::run_all(&open, "conformance").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_keeps_the_contract() {
    for version in versions().unwrap() {
        eprintln!("etcd {}", version.name);
        let cluster = EtcdSetup::new(&version).start().await.unwrap();
        conforms(cluster.endpoints()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_keep_the_contract() {
    let cluster = start_three().await;
    conforms(cluster.endpoints()).await;
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_the_server() {
    let mut cluster = start().await;
    let store = store(cluster.endpoints());
    let start = put(&store, "a/k", "1").await.unwrap();
    let mut watch = store.watch(&Span::Below(Key::new("a/")), start);
    put(&store, "a/k", "2").await.unwrap();
    assert_eq!(kinds(&until_changed(&mut watch, "2").await), ["changed"]);
    for round in 0..2 {
        cluster.members[0].stop().await.unwrap();
        let event = next(&mut watch).await;
        let Event::Interrupted { reason } = event else { panic!("{event:?}") };
        assert!(reason.contains(cluster.members[0].endpoint()), "{reason}");
        cluster.members[0].spawn().unwrap();
        cluster.wait_ready().await.unwrap();
        let ready = Instant::now();
        assert_eq!(next(&mut watch).await, Event::Resumed);
        assert!(ready.elapsed() < Duration::from_secs(1), "back after {:?}", ready.elapsed());
        let value = format!("after restart {round}");
        put(&store, "a/k", &value).await.unwrap();
        assert_eq!(kinds(&until_changed(&mut watch, &value).await), ["changed"]);
    }
}

#[tokio::test]
async fn a_watch_opened_before_the_server_is_up_finds_it() {
    let mut cluster = start().await;
    cluster.members[0].kill().await.unwrap();
    let store = store(cluster.endpoints());
    let mut watch = store.watch(&Span::Below(Key::new("a/")), Revision(0));
    assert_eq!(kinds(&[next(&mut watch).await]), ["interrupted"]);
    let error = get(&store, "a/k").await.unwrap_err();
    let expected = format!("{}: connection refused", cluster.members[0].endpoint());
    assert!(error.to_string().contains(&expected), "{error}");
    assert!(error.is_transient());
    cluster.members[0].spawn().unwrap();
    cluster.wait_ready().await.unwrap();
    assert_eq!(next(&mut watch).await, Event::Resumed);
    put(&store, "a/k", "1").await.unwrap();
    assert_eq!(kinds(&until_changed(&mut watch, "1").await), ["changed"]);
}

/// How many spans are watched, by etcd's own count.
async fn watched(etcd: &EtcdCluster) -> Result<u64, StoreError> {
    let address = ([127, 0, 0, 1], etcd.members[0].port()).into();
    let figures = http_get(address, "/metrics").await.unwrap();
    let figure =
        figures.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "));
    Ok(figure.unwrap().parse().unwrap())
}

#[tokio::test]
async fn those_of_one_process_who_watch_the_same_cost_one_watch() {
    let etcd = start().await;
    let (one, other) = (store(etcd.endpoints()), store(etcd.endpoints()));
    let spans = [Span::Below(Key::new("a/")), Span::Below(Key::new("b/"))];
    let mut watches: Vec<_> = (0..50).map(|_| one.watch_from_now(&spans)).collect();
    for watch in &mut watches {
        assert!(matches!(next(watch).await, Event::Lost { .. }));
    }
    assert_eq!(watched(&etcd).await.unwrap(), 2);
    put(&other, "b/k", "1").await.unwrap();
    for watch in &mut watches {
        assert_eq!(kinds(&until_changed(watch, "1").await), ["changed"]);
    }
    // Another process has its own.
    let mut apart = other.watch_from_now(&spans);
    assert!(matches!(next(&mut apart).await, Event::Lost { .. }));
    assert_eq!(watched(&etcd).await.unwrap(), 4);
    watches.truncate(1);
    drop(apart);
    until_watched(&etcd, 2).await;
    drop(watches);
    until_watched(&etcd, 0).await;
    let mut anew = one.watch_from_now(&spans);
    assert!(matches!(next(&mut anew).await, Event::Lost { .. }));
}

#[tokio::test]
async fn who_watches_one_key_within_what_its_process_watches_costs_nothing() {
    let etcd = start().await;
    let (one, other) = (store(etcd.endpoints()), store(etcd.endpoints()));
    let mut around = one.watch_from_now(&[Span::Below(Key::new("a/"))]);
    assert!(matches!(next(&mut around).await, Event::Lost { .. }));
    let keys: Vec<_> = (0..50).map(|n| Key::new(format!("a/{n}"))).collect();
    let mut watches = Vec::new();
    for key in &keys {
        let after = put(&other, key.as_str(), "1").await.unwrap();
        watches.push(one.watch(&key.into(), after));
    }
    assert_eq!(watched(&etcd).await.unwrap(), 1);
    // Elsewhere, and in another process.
    let revision = one.load(&keys[..1]).await.unwrap().revision;
    let elsewhere = one.watch(&Span::Only(Key::new("b")), revision);
    let apart = other.watch(&(&keys[0]).into(), revision);
    until_watched(&etcd, 3).await;
    drop((elsewhere, apart));
    for (key, watch) in keys.iter().zip(&mut watches) {
        put(&other, key.as_str(), "2").await.unwrap();
        assert_eq!(kinds(&until_changed(watch, "2").await), ["changed"]);
    }
    until_watched(&etcd, 1).await;
    drop((around, watches));
    until_watched(&etcd, 0).await;
}

/// Many wait in one process, and the store is away for so long that all of them look for themselves.
#[tokio::test]
async fn those_who_wait_in_one_process_share_a_watch_again_after_the_store_was_away() {
    const MACHINES: usize = 12;
    let mut etcd = start().await;
    let prefix = Keyspace::default();
    let locks = LockManager::new(Arc::new(store(etcd.endpoints())), prefix.clone());
    let elsewhere = LockManager::new(Arc::new(store(etcd.endpoints())), prefix);
    let claim = |name: &str| Claim::new(MachineId::new(name).unwrap(), [], Via::Agent);
    let release = async |claim: &Claim| {
        let release = Release::of(claim.token, Ended::GivenBack);
        elsewhere.release(claim.groups(), &claim.machine, &release).await.unwrap();
    };
    let mut before = claim("holder");
    elsewhere.acquire(&before).await.unwrap();
    let lease = Duration::from_secs(60);
    let options = WaitOptions { lease, poll: Duration::from_secs(2) };
    let mut line = Vec::new();
    for n in 0..MACHINES {
        let claim = claim(&format!("m{n}"));
        let mut waiting = Waiting::start(locks.clone(), claim.clone(), options.clone());
        while !matches!(waiting.obstacle(), Obstacle::Queued { .. }) {
            waiting.changed().await;
        }
        line.push((claim, waiting));
    }
    etcd.members[0].stop().await.unwrap();
    // Not only were they told, but each has looked for itself.
    let has_looked =
        |obstacle| matches!(obstacle, Obstacle::Failing { why, .. } if why.contains("looking at"));
    for (_, waiting) in &mut line {
        while !has_looked(waiting.obstacle()) {
            waiting.changed().await;
        }
    }
    etcd.members[0].spawn().unwrap();
    etcd.wait_ready().await.unwrap();
    for (_, waiting) in &mut line {
        while !matches!(waiting.obstacle(), Obstacle::Queued { .. }) {
            waiting.changed().await;
        }
    }
    // Those at the head watch what hardly ever changes too, each its own holds.
    let of_the_head = 1 + 3 * wait::FRONT as u64;
    eventually(async || match watched(&etcd).await? {
        now if now <= of_the_head => Ok(()),
        now => Err(StoreError::Unavailable(format!("{now} are watched"))),
    })
    .await;
    for (claim, mut waiting) in line {
        release(&before).await;
        let granted = tokio::time::timeout(BACK_WITHIN, waiting.granted()).await;
        assert_eq!(granted, Ok(Acquired::Granted), "{}", claim.machine);
        before = claim;
    }
}

async fn until_watched(etcd: &EtcdCluster, count: u64) {
    eventually(async || match watched(etcd).await? {
        now if now == count => Ok(()),
        now => Err(StoreError::Unavailable(format!("{now} are watched"))),
    })
    .await;
}

#[tokio::test]
async fn a_watch_survives_a_server_frozen_for_20_seconds() {
    let cluster = start().await;
    let store = store(cluster.endpoints());
    let start = put(&store, "a/k", "1").await.unwrap();
    let mut watch = store.watch(&Span::Below(Key::new("a/")), start);
    put(&store, "a/k", "2").await.unwrap();
    until_changed(&mut watch, "2").await;
    cluster.members[0].freeze().unwrap();
    let frozen = Instant::now();
    let asked = Instant::now();
    let error = put(&store, "a/k", "while frozen").await.unwrap_err();
    assert!(asked.elapsed() < TIMEOUT + Duration::from_secs(1), "took {:?}", asked.elapsed());
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(kinds(&[next(&mut watch).await]), ["interrupted"]);
    assert!(frozen.elapsed() < Duration::from_secs(20), "noticed after {:?}", frozen.elapsed());
    tokio::time::sleep_until((frozen + Duration::from_secs(20)).into()).await;
    cluster.members[0].thaw().unwrap();
    let thawed = Instant::now();
    assert_eq!(next(&mut watch).await, Event::Resumed);
    assert!(thawed.elapsed() < Duration::from_secs(2), "back after {:?}", thawed.elapsed());
    put(&store, "a/k", "3").await.unwrap();
    let events = kinds(&until_changed(&mut watch, "3").await);
    assert!(events.iter().all(|kind| *kind == "changed"), "{events:?}");
}

#[tokio::test]
async fn changes_compacted_while_away_are_told_as_lost() {
    let cluster = start().await;
    let proxy = Proxy::start(cluster.members[0].port()).await.unwrap();
    let (far, near) = (store(vec![proxy.endpoint()]), store(cluster.endpoints()));
    let start = put(&near, "a/k", "1").await.unwrap();
    let mut watch = far.watch(&Span::Below(Key::new("a/")), start);
    put(&near, "a/k", "2").await.unwrap();
    until_changed(&mut watch, "2").await;
    proxy.refuse();
    assert_eq!(kinds(&[next(&mut watch).await]), ["interrupted"]);
    let mut last = start;
    for n in 0..10 {
        last = put(&near, "a/k", &format!("away {n}")).await.unwrap();
    }
    cluster.compact().await.unwrap();
    proxy.resume();
    assert_eq!(next(&mut watch).await, Event::Lost { revision: last });
    put(&near, "a/k", "3").await.unwrap();
    assert_eq!(kinds(&until_changed(&mut watch, "3").await), ["resumed", "changed"]);
}

#[tokio::test]
async fn a_watch_from_a_compacted_moment_starts_with_lost() {
    let cluster = start().await;
    let store = store(cluster.endpoints());
    let start = put(&store, "a/k", "1").await.unwrap();
    put(&store, "a/k", "2").await.unwrap();
    let last = put(&store, "b/k", "elsewhere").await.unwrap();
    cluster.compact().await.unwrap();
    let mut watch = store.watch(&Span::Below(Key::new("a/")), start);
    assert_eq!(next(&mut watch).await, Event::Lost { revision: last });
    put(&store, "a/k", "3").await.unwrap();
    assert_eq!(kinds(&until_changed(&mut watch, "3").await), ["changed"]);
}

#[tokio::test]
async fn a_store_set_back_to_an_older_state_is_told_as_lost() {
    let (ahead, behind) = tokio::join!(start(), start());
    let (ahead_store, behind_store) = (store(ahead.endpoints()), store(behind.endpoints()));
    for n in 0..10 {
        put(&ahead_store, "a/k", &n.to_string()).await.unwrap();
    }
    let far = put(&ahead_store, "a/k", "far ahead").await.unwrap();
    let now = put(&behind_store, "a/k", "as it was then").await.unwrap();
    let mut watch = behind_store.watch(&Span::Below(Key::new("a/")), far);
    assert_eq!(next(&mut watch).await, Event::Lost { revision: now });
    put(&behind_store, "a/k", "1").await.unwrap();
    assert_eq!(kinds(&until_changed(&mut watch, "1").await), ["changed"]);
}

#[tokio::test]
async fn a_lost_reply_is_settled_by_reading() {
    let cluster = start().await;
    let proxy = Proxy::start(cluster.members[0].port()).await.unwrap();
    let store = store(vec![proxy.endpoint()]);
    for n in 0..5_u32 {
        let key = format!("k{n}");
        let before = store.load(&[Key::new(&*key)]).await.unwrap();
        proxy.cut_after_request();
        let txn = Txn::new().when(before.unchanged(&Key::new(&*key)));
        let txn = txn.put(Key::new(&*key), "mine".into());
        let error = store.commit(&txn).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(error.to_string().contains(&proxy.endpoint()), "{error}");
        assert_eq!(proxy.replies_lost(), n + 1);
        let after = store.load(&[Key::new(&*key)]).await.unwrap();
        let entry = after.get(&Key::new(&*key)).expect("it happened though nobody said so");
        assert_eq!(entry.modified, entry.created, "it happened twice");
        assert_eq!(store.commit(&txn).await.unwrap(), Commit::Lost);
    }
}

#[tokio::test]
async fn a_lost_reply_to_a_read_is_not_even_noticed() {
    let cluster = start().await;
    let proxy = Proxy::start(cluster.members[0].port()).await.unwrap();
    let store = store(vec![proxy.endpoint()]);
    put(&store, "k", "v").await.unwrap();
    proxy.cut_after_request();
    assert_eq!(get(&store, "k").await.unwrap().as_deref(), Some("v"));
    assert_eq!(proxy.replies_lost(), 1);
}

#[tokio::test]
async fn dead_and_frozen_endpoints_are_left_for_good_ones() {
    let mut cluster = start_three().await;
    let proxy = Proxy::start(cluster.members[0].port()).await.unwrap();
    proxy.freeze();
    let mut dead = start().await;
    dead.members[0].kill().await.unwrap();
    let endpoints = vec![
        proxy.endpoint(),
        dead.members[0].endpoint().to_owned(),
        cluster.members[1].endpoint().to_owned(),
        cluster.members[2].endpoint().to_owned(),
    ];
    // A write first, so nothing has found out yet which ones are good.
    let fresh = store(endpoints.clone());
    let began = Instant::now();
    put(&fresh, "k", "1").await.unwrap();
    assert!(began.elapsed() < TIMEOUT, "took {:?}", began.elapsed());
    let began = Instant::now();
    for n in 0..20 {
        put(&fresh, "k", &n.to_string()).await.unwrap();
        get(&fresh, "k").await.unwrap();
    }
    assert!(began.elapsed() < TIMEOUT / 2, "the bad ones cost time again: {:?}", began.elapsed());
    let lease = store(endpoints.clone()).grant(Duration::from_secs(60)).await.unwrap();
    store(endpoints.clone()).keep_alive(lease).await.unwrap();
    let mut watch = store(endpoints.clone()).watch(&Span::Below(Key::new("k")), Revision(0));
    assert_eq!(kinds(&until_changed(&mut watch, "19").await).last(), Some(&"changed"));

    let reports = fresh.check_endpoints().await;
    let good: Vec<_> = reports.iter().map(|report| report.status.is_ok()).collect();
    assert_eq!(good, [false, false, true, true], "{reports:?}");
    let status = reports[2].status.as_ref().unwrap();
    assert!(system().unwrap().name.starts_with(&status.version), "{status:?}");

    // The one in use freezes: a write may have happened, reads move on.
    for member in &mut cluster.members[1..] {
        member.kill().await.unwrap();
    }
    let began = Instant::now();
    let error = get(&fresh, "k").await.unwrap_err().to_string();
    assert!(began.elapsed() < TIMEOUT + Duration::from_secs(1), "took {:?}", began.elapsed());
    for endpoint in &endpoints {
        assert!(error.contains(endpoint), "{endpoint} is missing in: {error}");
    }
}

#[tokio::test]
async fn a_member_frozen_while_in_use_is_left_by_reads() {
    let cluster = start_three().await;
    let leader = cluster.leader().await.unwrap();
    let mut endpoints = cluster.endpoints();
    // A follower, so the cluster can go on without it.
    endpoints.rotate_left((leader + 1) % 3);
    let follower = &cluster.members[(leader + 1) % 3];
    let store = store(endpoints);
    put(&store, "k", "1").await.unwrap();
    follower.freeze().unwrap();
    let began = Instant::now();
    assert_eq!(get(&store, "k").await.unwrap().as_deref(), Some("1"));
    assert!(began.elapsed() < TIMEOUT, "took {:?}", began.elapsed());
    put(&store, "k", "2").await.unwrap();
    follower.thaw().unwrap();
}

#[tokio::test]
async fn a_write_to_a_server_that_froze_in_between_moves_on() {
    let cluster = start_three().await;
    let leader = cluster.leader().await.unwrap();
    let mut endpoints = cluster.endpoints();
    endpoints.rotate_left((leader + 1) % 3);
    let store = store(endpoints);
    put(&store, "k", "1").await.unwrap();
    cluster.members[(leader + 1) % 3].freeze().unwrap();
    // Longer than an answer is trusted to mean that the next request will be answered too.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    put(&store, "k", "2").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_the_leader_is_got_over() {
    let mut cluster = start_three().await;
    let store = store(cluster.endpoints());
    let start = put(&store, "a/k", "0").await.unwrap();
    let mut watch = store.watch(&Span::Below(Key::new("a/")), start);
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    let leased = Txn::new().put_leased(Key::new("leased"), "x".into(), lease);
    store.commit(&leased).await.unwrap();
    let keep = tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                match store.keep_alive(lease).await {
                    Err(StoreError::LeaseGone) => return,
                    _ => tokio::time::sleep(Duration::from_millis(500)).await,
                }
            }
        }
    });
    for round in 0..2 {
        let leader = cluster.leader().await.unwrap();
        cluster.members[leader].kill().await.unwrap();
        let value = format!("without {leader}, {round}");
        eventually(async || put(&store, "a/k", &value).await).await;
        assert_eq!(eventually(async || get(&store, "a/k").await).await, Some(value.clone()));
        let events = until_changed(&mut watch, &value).await;
        assert!(!kinds(&events).contains(&"lost"), "{events:?}");
        cluster.members[leader].spawn().unwrap();
        cluster.wait_ready().await.unwrap();
    }
    // As long again as the lease would have lasted by itself.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(!keep.is_finished(), "the lease ended though it was kept alive");
    assert_eq!(eventually(async || get(&store, "leased").await).await.as_deref(), Some("x"));
    keep.abort();
}

#[tokio::test]
async fn a_member_without_quorum_does_not_answer_for_the_cluster() {
    let mut cluster = start_three().await;
    let store = store(vec![cluster.members[0].endpoint().to_owned()]);
    put(&store, "k", "1").await.unwrap();
    cluster.members[1].kill().await.unwrap();
    cluster.members[2].kill().await.unwrap();
    let began = Instant::now();
    let error = get(&store, "k").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let error = put(&store, "k", "2").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(began.elapsed() < TIMEOUT * 2 + Duration::from_secs(1), "took {:?}", began.elapsed());
    cluster.members[1].spawn().unwrap();
    eventually(async || put(&store, "k", "3").await).await;
}

#[tokio::test]
async fn tls_needs_no_more_than_the_authority() {
    let pki = Arc::new(Pki::new().unwrap());
    let setup = EtcdSetup::new(&system().unwrap()).tls(&pki, false);
    let cluster = setup.start().await.unwrap();
    let mut good = options(cluster.endpoints());
    good.ca_file = Some(pki.ca());
    let store = EtcdStore::new(good.clone()).unwrap();
    let start = put(&store, "k", "v").await.unwrap();
    let mut watch = store.watch(&Span::Below(Key::new("k")), start);
    put(&store, "k", "w").await.unwrap();
    until_changed(&mut watch, "w").await;
    assert_eq!(store.location(), cluster.endpoints().join(","));

    let wrong = EtcdOptions { ca_file: Some(pki.other_ca()), ..good.clone() };
    let error = get(&EtcdStore::new(wrong).unwrap(), "k").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    let text = error.to_string();
    for part in [
        cluster.members[0].endpoint(),
        "the server's certificate is not signed by an authority in",
        &pki.other_ca().display().to_string(),
        "UnknownIssuer",
    ] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }

    // The authorities of the system know nothing of ours.
    let none = EtcdOptions { ca_file: None, ..good };
    if let Ok(store) = EtcdStore::new(none) {
        let error = get(&store, "k").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    }

    // Without TLS at a server with it.
    let plain = cluster.endpoints().iter().map(|url| url.replace("https", "http")).collect();
    let error = get(&EtcdStore::new(options(plain)).unwrap(), "k").await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_asked_for() {
    let pki = Arc::new(Pki::new().unwrap());
    let setup = EtcdSetup::new(&system().unwrap()).tls(&pki, true);
    let cluster = setup.start().await.unwrap();
    let mut good = options(cluster.endpoints());
    good.ca_file = Some(pki.ca());
    good.cert_file = Some(pki.client_cert());
    good.key_file = Some(pki.client_key());
    let store = EtcdStore::new(good.clone()).unwrap();
    put(&store, "k", "v").await.unwrap();

    let without = EtcdOptions { cert_file: None, key_file: None, ..good.clone() };
    for _ in 0..10 {
        let store = EtcdStore::new(without.clone()).unwrap();
        let error = get(&store, "k").await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
        assert!(text.contains("demands a client certificate"), "{text}");
        assert!(text.contains(cluster.members[0].endpoint()), "{text}");
        let error = put(&EtcdStore::new(without.clone()).unwrap(), "k", "w").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    }
}

#[tokio::test]
async fn wrong_options_are_told_before_anything_is_tried() {
    let pki = Pki::new().unwrap();
    let good = || options(vec!["https://127.0.0.1:1".to_owned()]);
    let error = |options| EtcdStore::new(options).unwrap_err().to_string();
    let missing = pki.ca().with_file_name("missing.pem");
    let text = error(EtcdOptions { ca_file: Some(missing.clone()), ..good() });
    assert!(text.contains(&missing.display().to_string()), "{text}");
    let text = error(EtcdOptions { ca_file: Some(pki.client_key()), ..good() });
    assert!(text.contains(&pki.client_key().display().to_string()), "{text}");
    let text = error(EtcdOptions {
        ca_file: Some(pki.ca()),
        cert_file: Some(pki.client_cert()),
        ..good()
    });
    assert!(text.contains("key_file"), "{text}");
    let text = error(EtcdOptions { username: Some("u".to_owned()), ..good() });
    assert!(text.contains("password"), "{text}");
    for url in ["127.0.0.1:2379", "ftp://h:1", "http://h", "http://h:1/x", "http://", "http://h:x"]
    {
        let text = error(options(vec![url.to_owned()]));
        assert!(text.contains(url), "{url} is missing in: {text}");
    }
    let text = error(options(vec!["http://user:secret@h:2379".to_owned()]));
    assert!(text.contains("h:2379") && !text.contains("secret"), "{text}");
    let shown = format!("{:?}", EtcdOptions { password: Some("secret".to_owned()), ..good() });
    assert!(!shown.contains("secret"), "{shown}");
    // What TLS needs is not asked for without it.
    let plain = options(vec!["http://127.0.0.1:1".to_owned()]);
    EtcdStore::new(EtcdOptions { ca_file: Some(missing), ..plain }).unwrap();
}

fn as_user(cluster: &EtcdCluster, user: &str, password: &str) -> EtcdStore {
    let (username, password) = (Some(user.to_owned()), Some(password.to_owned()));
    EtcdStore::new(EtcdOptions { username, password, ..options(cluster.endpoints()) }).unwrap()
}

#[tokio::test]
async fn access_control_is_told_from_trouble() {
    for version in versions().unwrap() {
        let mut cluster = EtcdSetup::new(&version).start().await.unwrap();
        // Configured before it is switched on.
        let early = as_user(&cluster, "alice", "sesame");
        put(&early, "a/early", "x").await.unwrap();
        cluster.add_user("alice", "sesame", "a/").await.unwrap();
        cluster.enable_auth("root-password").await.unwrap();
        put(&early, "a/early", "y").await.unwrap();

        let endpoint = cluster.members[0].endpoint().to_owned();
        let alice = as_user(&cluster, "alice", "sesame");
        let start = put(&alice, "a/k", "1").await.unwrap();
        let mut watch = alice.watch(&Span::Below(Key::new("a/")), start);
        put(&alice, "a/k", "2").await.unwrap();
        assert_eq!(kinds(&until_changed(&mut watch, "2").await), ["changed"]);
        alice.list(&Key::new("a/"), Select::All).await.unwrap();

        let error = put(&as_user(&cluster, "alice", "wrong"), "a/k", "3").await.unwrap_err();
        let text = format!(
            "the store refused us: {endpoint}: etcd does not accept the user name or password of \
             user alice"
        );
        assert_eq!(error.to_string(), text);
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");

        let error = get(&store(cluster.endpoints()), "a/k").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
        assert!(error.to_string().contains(&endpoint), "{error}");

        let elsewhere = Key::new("b/");
        for error in [
            put(&alice, "b/k", "1").await.unwrap_err(),
            get(&alice, "b/k").await.unwrap_err(),
            alice.list(&elsewhere, Select::All).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Forbidden(_)), "{error:?}");
            let text = error.to_string();
            for part in [&*endpoint, "alice", "b/"] {
                assert!(text.contains(part), "{part} is missing in: {text}");
            }
        }
        let mut forbidden = alice.watch(&Span::Below(elsewhere.clone()), start);
        let event = next(&mut forbidden).await;
        let Event::Interrupted { reason } = event else { panic!("{event:?}") };
        assert!(reason.contains("alice") && reason.contains("b/"), "{reason}");
        put(&alice, "a/k", "still welcome").await.unwrap();
    }
}

#[tokio::test]
async fn an_expired_token_is_renewed_without_a_word() {
    for version in versions().unwrap() {
        let mut cluster = EtcdSetup::new(&version).start().await.unwrap();
        cluster.add_user("alice", "sesame", "a/").await.unwrap();
        cluster.enable_auth("root-password").await.unwrap();
        let alice = as_user(&cluster, "alice", "sesame");
        let start = put(&alice, "a/k", "1").await.unwrap();
        let mut watch = alice.watch(&Span::Below(Key::new("a/")), start);
        put(&alice, "a/k", "2").await.unwrap();
        until_changed(&mut watch, "2").await;
        // Tokens are kept in memory only, so a restart makes them invalid.
        cluster.members[0].kill().await.unwrap();
        assert_eq!(kinds(&[next(&mut watch).await]), ["interrupted"]);
        cluster.members[0].spawn().unwrap();
        cluster.wait_ready().await.unwrap();
        put(&alice, "a/k", "3").await.unwrap();
        assert_eq!(get(&alice, "a/k").await.unwrap().as_deref(), Some("3"));
        assert_eq!(kinds(&until_changed(&mut watch, "3").await), ["resumed", "changed"]);
        let lease = alice.grant(Duration::from_secs(5)).await.unwrap();
        alice.keep_alive(lease).await.unwrap();
    }
}

#[tokio::test]
async fn too_many_keys_for_one_transaction_are_refused_in_words() {
    let cluster = start().await;
    let store = store(cluster.endpoints());
    let keys: Vec<_> = (0..128).map(|n| Key::new(n.to_string())).collect();
    store.load(&keys).await.unwrap();
    let keys: Vec<_> = (0..129).map(|n| Key::new(n.to_string())).collect();
    let error = store.load(&keys).await.unwrap_err();
    assert!(error.to_string().contains("129") && error.to_string().contains("128"), "{error}");
}
