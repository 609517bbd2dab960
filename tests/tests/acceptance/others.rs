//! The health of the other machines.

use crate::scene::{Config, Ran, Scene, Store, now};

/// The daemon of `a`, due for a reboot, with this gate.
async fn judged(store: &Store, gate: &str) -> (Scene, Ran) {
    let more = match gate {
        "" => String::new(),
        gate => format!("[[gate]]\ntype = \"cluster\"\n{gate}\n"),
    };
    let scene = Scene::new("a", store, Config { more: &more, ..Config::default() }).await;
    let ran = scene.due().once().await;
    (scene, ran)
}

async fn blocked(store: &Store, gate: &str, said: &str) {
    let (_, ran) = judged(store, gate).await;
    assert!(ran.ended("health_blocked", 3).contains(said), "{}", ran.all());
}

async fn ready(store: &Store, gate: &str) {
    judged(store, gate).await.1.ended("ready", 0);
}

/// Case 13.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_it_is_unwell_blocks_and_nobody_else_is_asked() {
    let store = Store::new();
    store.present("b", false, now()).await;
    let (scene, ran) = judged(&store, "").await;
    assert_eq!(ran.ended("health_blocked", 3), "b.example is unhealthy: disk");
    assert!(scene.seen().is_empty());
    assert_eq!(store.health("a").await, None);
    ready(&store, "max_unhealthy = 1").await;
}

/// Cases 14 and 15.
#[tokio::test(flavor = "multi_thread")]
async fn the_least_number_is_counted_after_this_machine_has_left() {
    let store = Store::new();
    store.present("b", true, now()).await;
    blocked(&store, "min_healthy = 3", "without this machine 1 of 2 would be healthy").await;
    store.present("c", true, now()).await;
    blocked(&store, "min_healthy = 3", "without this machine 2 of 3 would be healthy").await;
    ready(&store, "min_healthy = 2").await;
}

/// Case 16.
#[tokio::test(flavor = "multi_thread")]
async fn that_a_peer_was_well_years_ago_does_not_count_and_is_named() {
    let store = Store::new();
    store.present("b", true, 1_551_398_400).await;
    for gate in ["", "min_healthy = 1"] {
        blocked(&store, gate, "b.example has not looked at itself since 2019-03-01").await;
    }
    store.present("b", true, now()).await;
    ready(&store, "").await;
}

/// Cases 17 and 18.
#[tokio::test(flavor = "multi_thread")]
async fn fallback_machines_must_not_be_all_that_is_left() {
    let store = Store::new();
    store.present("b", true, now()).await;
    let said = "only fallback machines would be healthy";
    blocked(&store, "fallback = [\"b\"]", said).await;
    blocked(&store, "fallback = [\"a\", \"b\"]", said).await;
    store.present("c", true, now()).await;
    ready(&store, "fallback = [\"a\", \"b\"]").await;
}

/// Case 30.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_counts_against_its_machine_and_hides_no_other() {
    let store = Store::new();
    store.put("odd", "{{{").await;
    store.present("b", false, now()).await;
    let (_, ran) = judged(&store, "").await;
    let why = ran.ended("health_blocked", 3);
    assert!(why.contains("odd cannot be read") && why.contains("b.example is unhealthy"), "{why}");
    store.present("b", true, now()).await;
    ready(&store, "min_healthy = 1\nmax_unhealthy = 1").await;
}

const SIXTY: &str =
    "[[gate]]\ntype = \"cluster\"\nmin_healthy = \"60%\"\n[store]\ntimeout_secs = 1\n";

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_say_how_the_others_are_a_gate_that_asks_stays_closed() {
    let nowhere = vec!["http://127.0.0.1:1".to_owned()];
    for (strategy, said) in [("reboot", "no store to look in"), ("best-effort", "is not known: ")] {
        let agent = format!("strategy = \"{strategy}\"");
        let config = |more| Config { agent: &agent, more, ..Config::default() };
        let scene = Scene::on("a", &nowhere, config(SIXTY)).await;
        let ran = scene.due().once().await;
        assert!(ran.ended("health_blocked", 3).contains(said), "{}", ran.all());
        scene.configure(config("[store]\ntimeout_secs = 1\n"));
        scene.once().await.ended("ready", 0);
    }
}
