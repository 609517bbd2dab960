//! A store that is slow, but not away: whoever asks is answered within the configured time, however many
//! questions to the store that takes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use rebootlock::config::{Fragment, Settings};
use rebootlock::store::{
    Commit, Key, LeaseId, MemoryStore, Revision, Select, Snapshot, Span, Store, StoreError, Txn,
    Watch,
};
use rebootlock_gateway::app::App;
use rebootlock_gateway::auth;
use rebootlock_gateway::routes;
use rebootlock_gateway::serve::Peer;
use serde_json::{Value, json};
use tokio::time::Instant;

const WITHIN: Duration = Duration::from_secs(5);

/// One question to the store is answered in time, and a second is not.
const SLOW: Duration = Duration::from_secs(3);

/// Takes its time with every call.
#[derive(Debug, Default)]
struct SlowStore {
    store: MemoryStore,
    millis: AtomicU64,
    /// Somebody else is always faster.
    contended: AtomicBool,
    broken: AtomicBool,
}

impl SlowStore {
    fn takes(&self, time: Duration) {
        self.millis.store(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    async fn dawdle(&self) {
        tokio::time::sleep(Duration::from_millis(self.millis.load(Ordering::SeqCst))).await;
    }

    fn works(&self) -> Result<(), StoreError> {
        match self.broken.load(Ordering::SeqCst) {
            true => Err(StoreError::Broken("its disk is gone".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for SlowStore {
    async fn load(&self, keys: &[Key]) -> Result<Snapshot, StoreError> {
        self.dawdle().await;
        self.works()?;
        self.store.load(keys).await
    }

    async fn list(&self, prefix: &Key, select: Select) -> Result<Snapshot, StoreError> {
        self.dawdle().await;
        self.store.list(prefix, select).await
    }

    async fn read(&self, keys: &[Key], below: &[(Key, Select)]) -> Result<Snapshot, StoreError> {
        self.dawdle().await;
        self.works()?;
        self.store.read(keys, below).await
    }

    async fn commit(&self, txn: &Txn) -> Result<Commit, StoreError> {
        self.dawdle().await;
        self.works()?;
        if self.contended.load(Ordering::SeqCst) {
            return Ok(Commit::Lost);
        }
        self.store.commit(txn).await
    }

    fn watch(&self, span: &Span, after: Revision) -> Watch {
        self.store.watch(span, after)
    }

    fn watch_from_now(&self, spans: &[Span]) -> Watch {
        self.store.watch_from_now(spans)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.dawdle().await;
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.dawdle().await;
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.dawdle().await;
        self.store.revoke(lease).await
    }

    fn location(&self) -> String {
        "slow:".to_owned()
    }
}

struct Rig {
    app: Arc<App>,
    router: Router,
    store: Arc<SlowStore>,
    token: String,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (token, line) = auth::new_token();
        let file = dir.path().join("credentials.toml");
        std::fs::write(&file, format!("[[client]]\nname = \"olga\"\nrole = \"operator\"\n{line}"))
            .unwrap();
        let config = format!(
            "[gateway]\nanonymous_machines = true\ncredentials_file = {file:?}\n\
             [[gateway.goahead.cluster]]\nname = \"web\"\npattern = \"^web-\"\n\
             group = \"default\"\n"
        );
        let fragment = Fragment::parse(Path::new("test.toml"), &config).unwrap();
        let settings = Settings::decide(fragment).unwrap();
        assert_eq!(settings.gateway.answer_within, WITHIN);
        let store = Arc::new(SlowStore::default());
        let app = App::new(&settings, store.clone()).unwrap();
        Self { router: routes::router(app.clone()), app, store, token, _dir: dir }
    }

    /// The status, the answer, and how long it took.
    async fn post(&self, path: &str, header: (&str, &str), body: Value) -> (u16, Value, Duration) {
        let request = Request::post(path)
            .header("host", "gw")
            .header("content-type", "application/json")
            .header(header.0, header.1)
            .body(Body::from(body.to_string()))
            .unwrap();
        let peer = Peer { address: ([127, 0, 0, 2], 1).into(), ..Peer::default() };
        let began = Instant::now();
        let answer = routes::answer(&self.app, self.router.clone(), &peer, request).await;
        let took = began.elapsed();
        let status = answer.status().as_u16();
        let bytes = to_bytes(answer.into_body(), 65_536).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null), took)
    }

    async fn fleetlock(&self, call: &str, group: &str) -> (u16, Value, Duration) {
        let body = json!({"client_params": {"id": "a", "group": group}});
        self.post(&format!("/v1/{call}"), ("fleet-lock-protocol", "true"), body).await
    }

    async fn disruption(&self, operation: &str) -> (u16, Value, Duration) {
        let tags = json!({"DisruptionManagerGroupIdentifier": "db"});
        let body = json!({"MDB": {"Hostname": "127.0.0.2", "Tags": tags}, "Request": operation});
        self.post("/api/v1/request", ("x", "y"), body).await
    }

    async fn goahead(&self, path: &str, id: &str) -> (u16, Value, Duration) {
        let body = json!({"fqdn": "web-1", "uptime": "5h", "request_id": id});
        self.post(path, ("x", "y"), body).await
    }
}

/// In time, and not at once: the store was asked.
#[track_caller]
fn in_time(took: Duration) {
    assert!(took >= SLOW && took <= WITHIN, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn fleetlock_clients_are_answered_in_time() {
    let rig = Rig::new();
    // The group is known by its semaphore alone, for which the store is asked first.
    assert_eq!(rig.disruption("request").await.1["Response"], "permitted");
    rig.store.takes(SLOW);
    for call in ["pre-reboot", "steady-state"] {
        let (status, answer, took) = rig.fleetlock(call, "db").await;
        assert_eq!((status, &answer["kind"]), (503, &"store_unavailable".into()), "{call}");
        in_time(took);
    }
    // It may wait for as long as it asked for, and has all the time for its answer after that.
    rig.store.takes(Duration::from_millis(500));
    let began = Instant::now();
    let body = json!({"client_params": {"id": "a", "group": "db"}});
    let path = "/v1/pre-reboot";
    let request = Request::post(path).header("host", "gw").header("fleet-lock-protocol", "true");
    let request = request.header("prefer", "wait=30").body(Body::from(body.to_string())).unwrap();
    let peer = Peer::default();
    let answer = routes::answer(&rig.app, rig.router.clone(), &peer, request).await;
    assert_eq!(answer.status().as_u16(), 423);
    assert!(began.elapsed() > Duration::from_secs(29), "{:?}", began.elapsed());
}

/// Machines that may do without a slot while the store is away have none to do without then.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_not_away_is_not_said_to_be() {
    let rig = Rig::new();
    rig.store.takes(Duration::from_millis(20));
    rig.store.contended.store(true, Ordering::SeqCst);
    // One after the other, and those who wait for a round that does not end.
    let asked = futures::future::join_all((0..3).map(|_| rig.fleetlock("pre-reboot", "default")));
    for (status, answer, took) in asked.await {
        assert_eq!((status, &answer["kind"]), (503, &"store_busy".into()), "{answer}");
        in_time(took);
    }
    rig.store.contended.store(false, Ordering::SeqCst);
    assert_eq!(rig.fleetlock("pre-reboot", "default").await.0, 200);
    rig.store.broken.store(true, Ordering::SeqCst);
    for call in ["pre-reboot", "steady-state"] {
        let (status, answer, _) = rig.fleetlock(call, "default").await;
        assert_eq!((status, &answer["kind"]), (503, &"store_failed".into()), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn clients_of_disruption_manager_are_answered_in_time() {
    let rig = Rig::new();
    assert_eq!(rig.disruption("request").await.1["Response"], "permitted");
    rig.store.takes(SLOW);
    for operation in ["check", "request", "cancel"] {
        let (status, _, took) = rig.disruption(operation).await;
        assert_eq!(status, 503, "{operation}");
        in_time(took);
    }
    rig.store.takes(Duration::ZERO);
    assert_eq!(rig.disruption("cancel").await.1["Response"], "denied");
}

#[tokio::test(start_paused = true)]
async fn goahead_clients_are_answered_in_time_and_get_no_go_ahead() {
    const ASK: &str = "/v1/request/restart/os";
    let rig = Rig::new();
    let (_, first, _) = rig.goahead(ASK, "").await;
    let id = first["request_id"].as_str().unwrap();
    rig.store.takes(SLOW);
    let (status, answer, took) = rig.goahead(ASK, id).await;
    assert_eq!((status, &answer["go_ahead"]), (200, &false.into()), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("does not answer"), "{answer}");
    in_time(took);
    rig.store.takes(WITHIN * 2);
    let (_, answer, took) = rig.goahead("/v1/inquire/restart/", "").await;
    assert_eq!(answer["go_ahead"], false, "{answer}");
    in_time(took);
}

#[tokio::test(start_paused = true)]
async fn operators_are_answered_in_time() {
    let rig = Rig::new();
    assert_eq!(rig.disruption("request").await.1["Response"], "permitted");
    rig.store.takes(SLOW);
    let bearer = format!("Bearer {}", rig.token);
    let body = json!({"reason": "disk", "groups": ["db"]});
    let acted = rig.post("/api/v1/machines/b/lock", ("authorization", &bearer), body).await;
    let (status, answer, took) = acted;
    assert_eq!((status, &answer["kind"]), (503, &"store_unavailable".into()), "{answer}");
    in_time(took);
}

#[tokio::test(start_paused = true)]
async fn the_page_of_somebody_signed_in_is_answered_in_time() {
    let rig = Rig::new();
    let send = async |request: axum::http::request::Builder, body: String| {
        let request = request.header("host", "gw").body(Body::from(body)).unwrap();
        let answer = routes::answer(&rig.app, rig.router.clone(), &Peer::default(), request).await;
        let cookie = answer
            .headers()
            .get("set-cookie")
            .map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap().to_owned());
        let status = answer.status().as_u16();
        let bytes = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, cookie, String::from_utf8(bytes.into()).unwrap())
    };
    let (_, cookie, form) = send(Request::get("/sign-in"), String::new()).await;
    let stamp = form.split("name=\"stamp\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let body = format!("name=olga&password={}&stamp={stamp}", rig.token);
    let asked = Request::post("/sign-in").header("cookie", cookie.unwrap());
    let asked = asked.header("sec-fetch-site", "same-origin");
    let (status, cookie, _) = send(asked, body).await;
    assert_eq!(status, 303);
    let cookie = cookie.unwrap();
    let page = async || {
        let began = Instant::now();
        let (status, _, page) =
            send(Request::get("/").header("cookie", &cookie), String::new()).await;
        (status, page.contains("<bdi>olga</bdi>"), began.elapsed())
    };
    assert_eq!(page().await, (200, true, Duration::ZERO));
    for takes in [SLOW, WITHIN * 2] {
        rig.store.takes(takes);
        let (status, signed_in, took) = page().await;
        assert_eq!((status, signed_in), (200, true), "what was seen before");
        in_time(took);
    }
}
