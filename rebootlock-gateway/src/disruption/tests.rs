//! Hours that pass in no time.

mod slow;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use rebootlock::config::{Fragment, Settings};
use rebootlock::id::Group;
use rebootlock::record::{Claim, Via};
use rebootlock::store::{MemoryStore, SharedStore};
use serde_json::json;

use super::*;
use crate::serve::Peer;

const LIMIT: &str = "DisruptionManagerGroupMaximumDisrupting";
const READY_TIMEOUT: &str = "DisruptionManagerReadyTimeout";

fn settings(config: &str) -> Settings {
    let fragment = Fragment::parse(Path::new("test.toml"), config).unwrap();
    Settings::decide(fragment).unwrap()
}

/// A gateway that does what it is asked, and no more.
fn idle(config: &str, store: SharedStore) -> Arc<App> {
    App::new(&settings(config), store).unwrap()
}

/// A gateway that looks after its clients.
fn gateway(config: &str) -> Arc<App> {
    let app = idle(config, Arc::new(MemoryStore::new()));
    tokio::spawn(keep(app.clone()));
    app
}

fn id(n: u8) -> MachineId {
    MachineId::new(format!("127.0.0.{n}")).unwrap()
}

/// Whose the slots of a group are.
async fn holders(app: &Arc<App>, group: &str) -> Vec<MachineId> {
    let group = Group::new(group).unwrap();
    let (semaphore, _) = app.live().locks.glance(&group).await.unwrap();
    semaphore.holders().iter().cloned().collect()
}

/// What the machine `127.0.0.<n>` is told, with these tags.
async fn tagged(app: &Arc<App>, n: u8, operation: &str, tags: &[(&str, &str)]) -> String {
    let answer = answered(app, n, operation, tags).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let body = to_bytes(answer.into_body(), 1000).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    answer["Response"].as_str().unwrap().to_owned()
}

async fn answered(app: &Arc<App>, n: u8, operation: &str, tags: &[(&str, &str)]) -> Response<Body> {
    let address = SocketAddr::from(([127, 0, 0, n], 1));
    let mut body = json!({
        "MDB": {"Hostname": address.ip().to_string(), "Tags": {}},
        "Request": operation,
    });
    for (key, value) in tags {
        body["MDB"]["Tags"][key] = json!(value);
    }
    let mut asked = Request::post("/api/v1/request").body(Body::from(body.to_string())).unwrap();
    asked.extensions_mut().insert(Peer { address, ..Peer::default() });
    request(State(app.clone()), asked).await
}

async fn told(app: &Arc<App>, n: u8, operation: &str) -> String {
    tagged(app, n, operation, &[]).await
}

async fn minutes(minutes: u64) {
    tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_runs_from_the_last_request_and_a_check_does_not_prolong_it() {
    let app = gateway("");
    assert_eq!(told(&app, 2, "request").await, "permitted");
    assert_eq!(told(&app, 3, "request").await, "requested");
    minutes(40).await;
    assert_eq!(told(&app, 2, "request").await, "permitted");
    for machine in [2, 3] {
        told(&app, machine, "check").await;
    }
    // The wish ends, and the permission goes on.
    minutes(21).await;
    assert_eq!(told(&app, 3, "check").await, "denied");
    assert_eq!(told(&app, 2, "check").await, "permitted");
    assert_eq!(told(&app, 4, "request").await, "requested");
    // The permission ends, and who waits has it without asking.
    minutes(40).await;
    assert_eq!(told(&app, 2, "check").await, "denied");
    assert_eq!(told(&app, 4, "check").await, "permitted");
    // With what is left of its hour.
    minutes(21).await;
    assert_eq!(told(&app, 4, "check").await, "denied");
    assert!(app.live().locks.disruptions().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_permission_may_have_its_whole_hour() {
    for (config, left) in [("request", "denied"), ("grant", "permitted")] {
        let app = gateway(&format!("[gateway]\ndisruption_count_from = {config:?}\n"));
        assert_eq!(told(&app, 2, "request").await, "permitted");
        assert_eq!(told(&app, 3, "request").await, "requested");
        minutes(50).await;
        assert_eq!(told(&app, 2, "cancel").await, "denied");
        assert_eq!(told(&app, 3, "check").await, "permitted");
        minutes(11).await;
        assert_eq!(told(&app, 3, "check").await, left, "{config}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_for_as_long_as_the_wish_lasts() {
    let app = gateway("");
    assert_eq!(told(&app, 2, "request").await, "permitted");
    assert_eq!(told(&app, 3, "request").await, "requested");
    minutes(1).await;
    assert_eq!(told(&app, 4, "request").await, "requested");
    // Longer than a place is kept that nobody looks after.
    for _ in 0..4 {
        minutes(14).await;
        told(&app, 2, "request").await;
    }
    assert_eq!(told(&app, 2, "cancel").await, "denied");
    assert_eq!(told(&app, 4, "check").await, "requested");
    assert_eq!(told(&app, 3, "check").await, "permitted");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_says_how_long_it_takes_has_that_time_and_no_more() {
    let app = gateway("");
    let tags = [(READY_TIMEOUT, "90m")];
    assert_eq!(tagged(&app, 2, "request", &tags).await, "permitted");
    assert_eq!(tagged(&app, 2, "cancel", &tags).await, "denied");
    for _ in 0..2 {
        minutes(44).await;
        assert_eq!(told(&app, 2, "check").await, "denied");
        assert_eq!(told(&app, 3, "request").await, "requested");
    }
    minutes(3).await;
    assert_eq!(told(&app, 3, "check").await, "permitted");
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_nobody_knows_about_gets_a_time_though_others_ask_all_the_while() {
    let app = gateway("");
    let tags = [(LIMIT, "2")];
    assert_eq!(tagged(&app, 2, "request", &tags).await, "permitted");
    let claim = Claim::new(id(9), [Group::new(".").unwrap()], Via::DisruptionManager);
    app.live().locks.acquire(&claim).await.unwrap();
    assert_eq!(tagged(&app, 3, "request", &tags).await, "requested");
    for _ in 0..6 {
        minutes(10).await;
        assert_eq!(tagged(&app, 2, "request", &tags).await, "permitted");
        assert_eq!(tagged(&app, 3, "request", &tags).await, "requested");
    }
    minutes(10).await;
    assert_eq!(tagged(&app, 3, "check", &tags).await, "permitted");
    assert_eq!(holders(&app, ".").await, [id(2), id(3)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_while_proving_must_be_there_and_brings_its_limit_along() {
    let group = |name: &'static str| ("DisruptionManagerGroupIdentifier", name);
    let app = gateway("");
    let tags = [group("web"), (READY_TIMEOUT, "10m")];
    assert_eq!(tagged(&app, 2, "request", &tags).await, "permitted");
    assert_eq!(tagged(&app, 2, "cancel", &tags).await, "denied");
    let tags = [group("db"), (LIMIT, "3")];
    assert_eq!(tagged(&app, 2, "request", &tags).await, "requested");
    minutes(11).await;
    assert_eq!(tagged(&app, 2, "check", &tags).await, "permitted");
    let db = Group::new("db").unwrap();
    let locks = &app.live().locks;
    assert_eq!(locks.glance(&db).await.unwrap().0.max(), 3);
    assert_eq!(locks.disruption(&id(2)).await.unwrap().unwrap().disruption.limit, 3);

    let config = "[gateway]\ndisruption_groups = \"known\"\n[[group]]\nname = \"web\"\n";
    let app = gateway(config);
    let tags = [group("web"), (READY_TIMEOUT, "10m")];
    assert_eq!(tagged(&app, 2, "request", &tags).await, "permitted");
    assert_eq!(tagged(&app, 2, "cancel", &tags).await, "denied");
    let refused = answered(&app, 2, "request", &[group("db")]).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    minutes(11).await;
    assert_eq!(tagged(&app, 2, "check", &tags).await, "denied");
    assert!(app.live().locks.disruptions().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_the_time_of_whoever_asks_after_it() {
    for (before, after, word) in [(600, 3600, "permitted"), (3600, 600, "denied")] {
        let config = |secs: u64| format!("[gateway]\ndisruption_permitted_secs = {secs}\n");
        let app = gateway(&config(before));
        assert_eq!(told(&app, 2, "request").await, "permitted");
        app.replace(app.prepare(&settings(&config(after))).unwrap());
        assert_eq!(told(&app, 2, "request").await, "permitted");
        minutes(12).await;
        assert_eq!(told(&app, 2, "check").await, word, "{before} s, then {after} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_rises_again_when_who_said_less_has_gone_in_whichever_way() {
    for tags in [&[][..], &[(READY_TIMEOUT, "10m")]] {
        let app = gateway("");
        let dot = Group::new(".").unwrap();
        let max = async || app.live().locks.glance(&dot).await.unwrap().0.max();
        let says = |limit| [&[(LIMIT, limit)], tags].concat();
        assert_eq!(tagged(&app, 2, "request", &says("3")).await, "permitted");
        assert_eq!(tagged(&app, 3, "request", &says("1")).await, "requested");
        assert_eq!(tagged(&app, 4, "request", &says("3")).await, "requested");
        assert_eq!(max().await, 1);
        assert_eq!(tagged(&app, 3, "cancel", &says("1")).await, "denied");
        minutes(1).await;
        assert_eq!(max().await, 3);
        assert_eq!(tagged(&app, 4, "check", &says("3")).await, "permitted");
        // It says nothing more, and what it has said ends with its wish.
        assert_eq!(tagged(&app, 3, "request", &says("1")).await, "requested");
        for _ in 0..8 {
            minutes(10).await;
            tagged(&app, 4, "request", &says("3")).await;
        }
        assert_eq!(max().await, 3);
        assert_eq!(holders(&app, ".").await, [id(4)]);
    }
}
