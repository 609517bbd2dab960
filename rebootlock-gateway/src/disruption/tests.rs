//! Hours that pass in no time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use rebootlock::config::{Fragment, Settings};
use rebootlock::store::MemoryStore;
use serde_json::json;

use super::*;
use crate::serve::Peer;

/// A gateway that looks after its clients.
fn gateway(config: &str) -> Arc<App> {
    let fragment = Fragment::parse(Path::new("test.toml"), config).unwrap();
    let settings = Settings::decide(fragment).unwrap();
    let app = App::new(&settings, Arc::new(MemoryStore::new())).unwrap();
    tokio::spawn(keep(app.clone()));
    app
}

/// What the machine `127.0.0.<n>` is told, with these tags.
async fn tagged(app: &Arc<App>, n: u8, operation: &str, tags: &[(&str, &str)]) -> String {
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
    let answer = request(State(app.clone()), asked).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let body = to_bytes(answer.into_body(), 1000).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    answer["Response"].as_str().unwrap().to_owned()
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
    let tags = [("DisruptionManagerReadyTimeout", "90m")];
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
