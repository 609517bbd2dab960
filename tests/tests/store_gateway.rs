//! The store behind a gateway keeps the contract of every store, on SQLite and on etcd, over one
//! gateway and several, and while they are restarted, frozen and cut off.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rebootlock::id::{Group, MachineId};
use rebootlock::keys::Keyspace;
use rebootlock::lock::{LockError, LockManager};
use rebootlock::record::{Claim, Via};
use rebootlock::store::{
    Commit, Event, GatewayOptions, GatewayStore, Key, Revision, Select, SharedStore, Span, Store,
    StoreError, Txn, Watch, conformance,
};
use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, system};
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::gateway::Gateway;
use rebootlock_tests::pki::Pki;
use rebootlock_tests::proxy::Proxy;

/// Longest time until what was interrupted must go on.
const BACK_WITHIN: Duration = Duration::from_secs(30);

const PREFIX: &str = "coreos.com/updateengine/rebootlock";

async fn etcd() -> EtcdCluster {
    EtcdSetup::new(&system().unwrap()).start().await.unwrap()
}

async fn on(etcd: &EtcdCluster) -> Gateway {
    Gateway::start(&etcd.endpoints().join(","), "", &[]).await.unwrap()
}

async fn on_a_file(dir: &tempfile::TempDir) -> Gateway {
    let endpoint = format!("sqlite:{}", dir.path().join("lock.db").display());
    Gateway::start(&endpoint, "", &[]).await.unwrap()
}

fn at(gateway: &Gateway, urls: Vec<String>) -> GatewayStore {
    GatewayStore::new(&gateway.options("operator", &urls)).unwrap()
}

fn key(name: &str) -> Key {
    Key::new(format!("{PREFIX}/{name}"))
}

async fn put(store: &dyn Store, name: &str, value: &str) -> Result<Revision, StoreError> {
    match store.commit(&Txn::new().put(key(name), value.into())).await? {
        Commit::Won(revision) => Ok(revision),
        Commit::Lost => panic!("there was no precondition"),
    }
}

async fn get(store: &dyn Store, name: &str) -> Result<Option<String>, StoreError> {
    let snapshot = store.load(&[key(name)]).await?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(snapshot.get(&key(name)).map(|entry| text(&entry.value)))
}

async fn next(watch: &mut Watch) -> Event {
    match tokio::time::timeout(BACK_WITHIN, watch.next()).await {
        Ok(Some(event)) => event,
        other => panic!("the watch should have told something, but: {other:?}"),
    }
}

/// All events up to the change to `value`.
async fn until_changed(watch: &mut Watch, value: &str) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    loop {
        let event = next(watch).await;
        kinds.push(match &event {
            Event::Changed { .. } => "changed",
            Event::Lost { .. } => "lost",
            Event::Interrupted { .. } => "interrupted",
            Event::Resumed => "resumed",
        });
        if let Event::Changed { entry: Some(entry), .. } = event
            && entry.value == value.as_bytes()
        {
            return kinds;
        }
    }
}

async fn conforms(options: GatewayOptions) {
    let options = GatewayOptions { timeout: Duration::from_secs(30), ..options };
    let open = || -> SharedStore { Arc::new(GatewayStore::new(&options).unwrap()) };
    // Leases of a second or two do not go together with thirty checks that each wait for the disk.
    let (leases, others): (Vec<&conformance::Check>, Vec<_>) =
        conformance::CHECKS.iter().partition(|check| check.name.contains("lease"));
    for checks in [others, leases] {
        join_all(checks.into_iter().map(|check| check.run(&open, "conformance"))).await;
    }
}

const CONFORMANCE: &[&str] = &["--prefix", "conformance"];

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_on_a_file_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("sqlite:{}", dir.path().join("lock.db").display());
    let gateway = Gateway::start(&endpoint, "answer_within_secs = 30", CONFORMANCE).await.unwrap();
    conforms(gateway.options("operator", &[gateway.url()])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_on_an_etcd_keep_the_contract() {
    let etcd = etcd().await;
    let endpoint = etcd.endpoints().join(",");
    let config = "answer_within_secs = 30";
    let one = Gateway::start(&endpoint, config, CONFORMANCE).await.unwrap();
    let two = Gateway::start(&endpoint, config, CONFORMANCE).await.unwrap();
    conforms(one.options("operator", &[one.url(), two.url()])).await;
}

#[tokio::test]
async fn a_commit_whose_reply_is_lost_is_an_error_and_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = on_a_file(&dir).await;
    let proxy = Proxy::start(gateway.port()).await.unwrap();
    // Even with another gateway at hand.
    let store = at(&gateway, vec![proxy.endpoint(), gateway.url()]);
    let before = put(&store, "cooldown", "1").await.unwrap();
    proxy.cut_after_plain_request_with("lost-value");
    let error = put(&store, "cooldown", "lost-value").await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(error.to_string().contains(&proxy.endpoint()), "{error}");
    assert_eq!(proxy.replies_lost(), 1);
    let now = store.load(&[key("cooldown")]).await.unwrap();
    assert_eq!(now.revision.0, before.0 + 1, "written once");
    assert_eq!(get(&store, "cooldown").await.unwrap().as_deref(), Some("lost-value"));
    // What may be asked twice is, over a new connection.
    let store = at(&gateway, vec![proxy.endpoint()]);
    get(&store, "cooldown").await.unwrap();
    proxy.cut_after_plain_request_with("/store/read");
    assert_eq!(get(&store, "cooldown").await.unwrap().as_deref(), Some("lost-value"));
    assert_eq!(proxy.replies_lost(), 2);
}

#[tokio::test]
async fn the_lock_manager_settles_a_lost_reply() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = on_a_file(&dir).await;
    let proxy = Proxy::start(gateway.port()).await.unwrap();
    let store = Arc::new(at(&gateway, vec![proxy.endpoint()]));
    let locks = LockManager::new(store, Keyspace::default());
    let machine = MachineId::new("a").unwrap();
    let claim = Claim::new(machine.clone(), [Group::default()], Via::Ctl);
    proxy.cut_after_plain_request_with("/store/commit");
    locks.acquire(&claim).await.unwrap();
    assert_eq!(proxy.replies_lost(), 1);
    let semaphore = locks.status(&Group::default()).await.unwrap().semaphore;
    assert!(semaphore.holds(&machine) && semaphore.available() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_racers_over_two_gateways_exactly_ten_get_ten_slots() {
    let etcd = etcd().await;
    let (one, two) = (on(&etcd).await, on(&etcd).await);
    let manager = |n: usize| {
        let (first, second) = if n < 10 { (&one, &two) } else { (&two, &one) };
        let store = at(first, vec![first.url(), second.url()]);
        LockManager::new(Arc::new(store), Keyspace::default())
            .with_deadline(Duration::from_secs(30))
    };
    manager(0).set_max(&Group::default(), 10).await.unwrap();
    let racing = (0..20).map(|n| {
        let locks = manager(n);
        tokio::spawn(async move {
            let machine = MachineId::new(format!("m{n}")).unwrap();
            let claim = Claim::new(machine, [Group::default()], Via::Ctl);
            match locks.acquire(&claim).await {
                Ok(_) => true,
                Err(LockError::Full { .. }) => false,
                Err(error) => panic!("{error:?}"),
            }
        })
    });
    let won = join_all(racing).await.into_iter().filter(|won| *won.as_ref().unwrap()).count();
    assert_eq!(won, 10);
    let semaphore = manager(1).status(&Group::default()).await.unwrap().semaphore;
    assert_eq!((semaphore.holders().len(), semaphore.available()), (10, 0));
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = on_a_file(&dir).await;
    let behind =
        rebootlock::store::SqliteStore::open(&dir.path().join("lock.db"), Duration::from_secs(5));
    let behind = behind.unwrap();
    let store = gateway.store("operator").unwrap();
    let start = put(&store, "cooldown", "1").await.unwrap();
    let mut watch = store.watch(&Span::Below(key("cool")), start);
    put(&store, "cooldown", "2").await.unwrap();
    assert_eq!(until_changed(&mut watch, "2").await, ["changed"]);
    for round in ["stopped", "killed"] {
        match round {
            "stopped" => gateway.stop().await.unwrap(),
            _ => gateway.kill().await.unwrap(),
        }
        let event = next(&mut watch).await;
        let Event::Interrupted { reason } = event else { panic!("{event:?}") };
        assert!(reason.contains(&gateway.url()), "{reason}");
        // What happens while nobody can tell is told later.
        put(&behind, "cooldown", round).await.unwrap();
        gateway.again().await.unwrap();
        assert_eq!(until_changed(&mut watch, round).await, ["resumed", "changed"]);
    }
    // And when nothing has happened.
    gateway.kill().await.unwrap();
    assert!(matches!(next(&mut watch).await, Event::Interrupted { .. }));
    gateway.again().await.unwrap();
    assert_eq!(next(&mut watch).await, Event::Resumed);
    put(&store, "cooldown", "3").await.unwrap();
    assert_eq!(until_changed(&mut watch, "3").await, ["changed"]);
}

#[tokio::test]
async fn a_watch_moves_on_to_the_other_gateway() {
    let etcd = etcd().await;
    let (mut one, two) = (on(&etcd).await, on(&etcd).await);
    let store = at(&one, vec![one.url(), two.url()]);
    let start = put(&store, "cooldown", "1").await.unwrap();
    let mut watch = store.watch(&Span::Below(key("")), start);
    put(&store, "cooldown", "2").await.unwrap();
    assert_eq!(until_changed(&mut watch, "2").await, ["changed"]);
    // Longer than a gateway that hangs up at once.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    one.stop().await.unwrap();
    put(&store, "cooldown", "3").await.unwrap();
    assert_eq!(until_changed(&mut watch, "3").await, ["changed"], "nobody noticed");
}

#[tokio::test]
async fn a_gap_that_was_compacted_away_is_told() {
    let etcd = etcd().await;
    let mut gateway = on(&etcd).await;
    let store = gateway.store("operator").unwrap();
    let start = put(&store, "cooldown", "1").await.unwrap();
    let mut watch = store.watch(&Span::Below(key("")), start);
    put(&store, "cooldown", "2").await.unwrap();
    until_changed(&mut watch, "2").await;
    gateway.kill().await.unwrap();
    assert!(matches!(next(&mut watch).await, Event::Interrupted { .. }));
    for n in 0..5 {
        etcd.etcdctl(&["put", &format!("{PREFIX}/cooldown"), &n.to_string()]).await.unwrap();
    }
    etcd.compact().await.unwrap();
    gateway.again().await.unwrap();
    let now = store.load(&[]).await.unwrap().revision;
    assert_eq!(next(&mut watch).await, Event::Lost { revision: now });
    assert_eq!(next(&mut watch).await, Event::Resumed);
    put(&store, "cooldown", "new").await.unwrap();
    assert_eq!(until_changed(&mut watch, "new").await, ["changed"]);
}

#[tokio::test]
async fn a_gateway_that_stands_still_is_left_for_one_that_answers() {
    let etcd = etcd().await;
    let gateway = on(&etcd).await;
    let proxy = Proxy::start(gateway.port()).await.unwrap();
    let store = at(&gateway, vec![proxy.endpoint(), gateway.url()]);
    put(&store, "cooldown", "1").await.unwrap();
    proxy.freeze();
    let began = Instant::now();
    assert_eq!(get(&store, "cooldown").await.unwrap().as_deref(), Some("1"));
    put(&store, "cooldown", "2").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
    // A write as the first thing: nothing has answered yet, so it is not risked.
    let fresh = at(&gateway, vec![proxy.endpoint(), gateway.url()]);
    put(&fresh, "cooldown", "3").await.unwrap();
    // With nobody else it ends in time.
    let alone = at(&gateway, vec![proxy.endpoint()]);
    let began = Instant::now();
    assert!(get(&alone, "cooldown").await.unwrap_err().is_transient());
    assert!(put(&alone, "cooldown", "4").await.unwrap_err().is_transient());
    assert!(began.elapsed() < Duration::from_secs(12), "took {:?}", began.elapsed());
    assert_eq!(get(&fresh, "cooldown").await.unwrap().as_deref(), Some("3"));
}

#[tokio::test]
async fn a_silent_gateway_is_noticed_by_its_watches() {
    let etcd = etcd().await;
    let gateway = on(&etcd).await;
    let proxy = Proxy::start(gateway.port()).await.unwrap();
    let store = at(&gateway, vec![proxy.endpoint()]);
    let start = put(&store, "cooldown", "1").await.unwrap();
    let mut watch = store.watch(&Span::Below(key("")), start);
    put(&store, "cooldown", "2").await.unwrap();
    until_changed(&mut watch, "2").await;
    proxy.freeze();
    let event = next(&mut watch).await;
    assert!(matches!(event, Event::Interrupted { .. }), "{event:?}");
    proxy.resume();
    assert_eq!(next(&mut watch).await, Event::Resumed);
}

#[tokio::test]
async fn a_store_that_is_away_is_said_to_be_and_comes_back() {
    let mut etcd = etcd().await;
    let gateway =
        Gateway::start(&etcd.endpoints()[0], "answer_within_secs = 1", &[]).await.unwrap();
    let store = gateway.store("operator").unwrap();
    let start = put(&store, "cooldown", "1").await.unwrap();
    let mut watch = store.watch(&Span::Below(key("")), start);
    put(&store, "cooldown", "2").await.unwrap();
    until_changed(&mut watch, "2").await;
    etcd.members[0].kill().await.unwrap();
    let event = next(&mut watch).await;
    let Event::Interrupted { reason } = event else { panic!("{event:?}") };
    assert!(reason.contains("store"), "{reason}");
    for error in [
        get(&store, "cooldown").await.unwrap_err(),
        put(&store, "cooldown", "3").await.unwrap_err(),
        store.grant(Duration::from_secs(60)).await.unwrap_err(),
    ] {
        assert!(error.is_transient(), "{error:?}");
        assert!(error.to_string().contains("the gateway's store does not answer"), "{error}");
    }
    etcd.members[0].spawn().unwrap();
    etcd.wait_ready().await.unwrap();
    assert_eq!(next(&mut watch).await, Event::Resumed);
    put(&store, "cooldown", "4").await.unwrap();
    assert_eq!(until_changed(&mut watch, "4").await.last(), Some(&"changed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_a_gateway_needs_no_more_than_its_role() {
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = on_a_file(&dir).await;
    let look = Onlooker::new(&[format!("sqlite:{}", dir.path().join("lock.db").display())]);
    let look = look.unwrap();
    let config = format!("[store]\ntoken_file = {:?}\n", gateway.token_file("agent"));
    let endpoints = vec![format!("gateway+{}", gateway.url())];
    let mut member = Member::new("a", &endpoints, &config).await.unwrap();
    member.start().await.unwrap();
    let blocker = Claim::new(MachineId::new("b").unwrap(), [Group::default()], Via::Ctl);
    look.locks.acquire(&blocker).await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    rebootlock_tests::eventually("it waits", SOON, async || {
        let status = look.locks.status(&Group::default()).await.map_err(|e| e.to_string())?;
        if status.queue.is_empty() { Err("nobody waits".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    gateway.stop().await.unwrap();
    gateway.again().await.unwrap();
    look.locks.give_back(&Group::default(), &blocker.machine, &Via::Ctl).await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    let refused = gateway.process().stderr().lines();
    let refused: Vec<_> = refused.iter().filter(|line| line.contains("refused")).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[tokio::test]
async fn what_is_wrong_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::new().unwrap());
    let tls =
        format!("tls_cert_file = {:?}\ntls_key_file = {:?}\n", pki.server_cert(), pki.server_key());
    let endpoint = format!("sqlite:{}", dir.path().join("lock.db").display());
    let gateway = Gateway::start(&endpoint, &tls, &[]).await.unwrap();
    let plain = on_a_file(&dir).await;
    let etcd = etcd().await;
    let good =
        GatewayOptions { ca_file: Some(pki.ca()), ..gateway.options("operator", &[gateway.url()]) };
    let ask = async |options: GatewayOptions| {
        let error = get(&GatewayStore::new(&options).unwrap(), "cooldown").await.unwrap_err();
        (matches!(error, StoreError::Refused(_)), error.to_string())
    };
    get(&GatewayStore::new(&good).unwrap(), "cooldown").await.unwrap();
    let token_file = |role| Some(gateway.token_file(role));
    let at = |url: String| vec![url];
    let missing = gateway.token_file("missing");
    for (options, refused, words) in [
        (
            GatewayOptions { token_file: token_file("wrong"), ..good.clone() },
            true,
            vec!["does not accept the token in", "/wrong"],
        ),
        (
            GatewayOptions { token_file: Some(missing.clone()), ..good.clone() },
            true,
            vec!["token_file", "/missing", "No such file"],
        ),
        (
            GatewayOptions {
                token_file: None,
                username: Some("olga".to_owned()),
                password_file: token_file("wrong"),
                ..good.clone()
            },
            true,
            vec!["does not accept user olga with the password in", "/wrong"],
        ),
        (
            GatewayOptions { ca_file: Some(pki.other_ca()), ..good.clone() },
            true,
            vec!["certificate is not signed by an authority in", "UnknownIssuer"],
        ),
        (
            GatewayOptions { endpoints: at(plain.url().replace("http", "https")), ..good.clone() },
            true,
            vec!["no TLS is spoken there", "gateway+http://"],
        ),
        (
            GatewayOptions { endpoints: at(etcd.endpoints()[0].clone()), ..good.clone() },
            false,
            vec!["no rebootlock gateway answers there", "404"],
        ),
        (
            GatewayOptions { endpoints: at("http://127.0.0.1:1".to_owned()), ..good.clone() },
            false,
            vec!["127.0.0.1:1", "refused"],
        ),
    ] {
        let (is_refused, text) = ask(options).await;
        assert_eq!(is_refused, refused, "{text}");
        for word in words {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
    }
    let viewer = GatewayOptions { token_file: token_file("viewer"), ..good.clone() };
    let viewer = GatewayStore::new(&viewer).unwrap();
    viewer.list(&key(""), Select::All).await.unwrap();
    let error = put(&viewer, "cooldown", "1").await.unwrap_err();
    assert!(matches!(error, StoreError::Forbidden(_)), "{error:?}");
    assert!(error.to_string().contains("for looking only"), "{error}");
    let elsewhere = GatewayStore::new(&good).unwrap().load(&[Key::new("elsewhere/x")]).await;
    let error = elsewhere.unwrap_err();
    assert!(matches!(error, StoreError::Forbidden(_)), "{error:?}");
    assert!(error.to_string().contains("compare prefix in [store]"), "{error}");
}
