//! The daemon of one machine, at work.

use rebootlock::id::Group;
use rebootlock::record::HolderState;
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::SOON;
use rebootlock_tests::process::{Process, Signal};

use crate::scene::{Config, Scene, Store};

/// Case 4.
#[tokio::test(flavor = "multi_thread")]
async fn the_reboot_is_ordered_once_and_the_slot_kept_until_the_machine_is_back_and_well() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    let well = scene.path("well");
    let script = format!("[ $RC_PHASE != verify ] || [ -e {} ]", well.display());
    scene.configure(Config { script: &script, ..Config::default() });
    scene.due();
    scene.member.start().await.unwrap();
    scene.wait_reboots(1).await;
    let record = store.look.wait_state("a", &HolderState::Rebooting).await.unwrap();
    assert!(record.reason.unwrap().starts_with("M: "));
    // The same boot id: a restart of the daemon is no reboot.
    scene.member.restart().await.unwrap();
    scene.member.wait_log("HoldsPermit").await.unwrap();
    assert!(store.look.record("a").await.unwrap().is_some());
    scene.wait_reboots(2).await;
    std::fs::remove_file(scene.path("M")).unwrap();
    scene.member.go_down_and_come_back().await.unwrap();
    scene.member.wait_status("not well: gate S is closed").await.unwrap();
    assert!(store.look.record("a").await.unwrap().is_some());
    scene.touch("well");
    scene.member.wait_log("slot given back").await.unwrap();
    store.look.wait_free().await.unwrap();
    assert_eq!(scene.reboots(), 2);
}

/// Case 6.
#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_pulled_while_the_slot_is_held_stops_the_reboot() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    let script = format!("[ $RC_PHASE != post-lock ] || touch {}", scene.path("K").display());
    scene.configure(Config { script: &script, ..Config::default() });
    scene.due();
    scene.member.start().await.unwrap();
    scene.member.wait_log("status=\"kill_switch_active\"").await.unwrap();
    store.look.wait_free().await.unwrap();
    assert!(scene.seen().contains(&"post-lock true".to_owned()));
    assert_eq!(scene.reboots(), 0);
    std::fs::remove_file(scene.path("K")).unwrap();
    scene.configure(Config::default());
    scene.member.agent().unwrap().signal(Signal::HUP).unwrap();
    scene.wait_reboots(1).await;
}

/// Case 25.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_while_the_reboot_command_runs_it_keeps_the_slot_and_lets_the_command_live() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    let at = |name| scene.path(name).display().to_string();
    let command = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.1; done; echo rebooted >> {}",
        at("begun"),
        at("go"),
        at("reboots")
    );
    scene.configure(Config { reboot: Some(&command), ..Config::default() });
    scene.due();
    scene.member.start().await.unwrap();
    scene.wait_file("begun").await;
    scene.member.agent().unwrap().signal(Signal::TERM).unwrap();
    let said = "a reboot was ordered and is not confirmed; the slot is kept";
    scene.member.wait_log(said).await.unwrap();
    assert!(scene.member.agent().unwrap().wait_exit(SOON).await.unwrap().success());
    store.look.wait_state("a", &HolderState::Rebooting).await.unwrap();
    scene.touch("go");
    scene.wait_reboots(1).await;
    assert!(store.look.record("a").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_could_hold_up_takes_no_slot_while_logind_is_away() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    scene.due().member.machine.logind.stop().await;
    scene.member.start().await.unwrap();
    let said = scene.member.wait_log("status=\"health_blocked\"").await.unwrap();
    assert!(said.contains("logind does not answer"), "{said}");
    assert!(!store.look.locks.status(&Group::default()).await.unwrap().exists, "never asked for");
    scene.member.machine.logind.start().await.unwrap();
    scene.wait_reboots(1).await;
}

/// Case 32.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_goes_on_looking_says_ready_once_and_never_reboots() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    let mut command = scene.due().member.command().unwrap();
    command.arg("--dry-run");
    scene.member.start_with(command).await.unwrap();
    scene.member.wait_log("status=\"ready\"").await.unwrap();
    store.look.wait_free().await.unwrap();
    let beats = |scene: &Scene| scene.seen().iter().filter(|s| s.starts_with("heartbeat")).count();
    let before = beats(&scene);
    eventually("three more heartbeats", SOON, async || {
        let now = beats(&scene);
        if now >= before + 3 { Ok(()) } else { Err(now) }
    })
    .await
    .unwrap();
    assert!(scene.member.agent().unwrap().is_running());
    assert_eq!(scene.member.count_log("status=\"ready\"").unwrap(), 1);
    assert_eq!(scene.reboots(), 0);
}

/// Case 33.
#[tokio::test(flavor = "multi_thread")]
async fn only_our_variables_are_expanded_in_the_reboot_command() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    let command = format!(
        "for i in a b; do echo $i ${{RC_NODE_NAME}}; done >> {}",
        scene.path("reboots").display()
    );
    scene.configure(Config { reboot: Some(&command), ..Config::default() });
    scene.due();
    scene.member.start().await.unwrap();
    scene.wait_reboots(2).await;
    let name = store.look.record("a").await.unwrap().unwrap().hostname.unwrap();
    assert_eq!(scene.lines("reboots"), [format!("a {name}"), format!("b {name}")]);
}

/// Case 35.
#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_outlives_its_reboot_blocks_instead_of_rebooting_again() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    scene.due();
    scene.member.start().await.unwrap();
    scene.wait_reboots(1).await;
    scene.member.go_down_and_come_back().await.unwrap();
    scene.member.wait_log("slot given back").await.unwrap();
    scene.member.wait_log("status=\"still-required\"").await.unwrap();
    store.look.wait_free().await.unwrap();
    let ran = scene.status(&store, &[]).await;
    assert!(ran.ended("still-required", 3).contains("has rebooted once"), "{}", ran.all());
    assert_eq!(scene.reboots(), 1);
    // It goes away, and what comes then is new.
    std::fs::remove_file(scene.path("M")).unwrap();
    scene.member.wait_log("status=\"no_action\"").await.unwrap();
    scene.due();
    scene.wait_reboots(2).await;
}

/// Case 36.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_would_leave_its_place_in_the_store_is_refused() {
    let store = Store::new();
    let scene = Scene::new("../x", &store, Config::default()).await;
    let mut process = Process::spawn("refused", scene.member.command().unwrap()).unwrap();
    assert_eq!(process.wait_exit(SOON).await.unwrap().code(), Some(2));
    let said = process.stderr().lines().join("\n");
    assert!(said.contains("machine-id does not hold a machine id"), "{said}");
    assert!(!store.look.locks.status(&Group::default()).await.unwrap().exists);
}

/// Case 23, as its figures show it.
#[tokio::test(flavor = "multi_thread")]
async fn cooldowns_are_counted_when_they_are_met_and_when_they_are_begun() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    let figures = scene.path("figures.prom");
    let more = format!(
        "[[group]]\nname = \"default\"\ncooldown_secs = 600\n[metrics]\ntextfile = {figures:?}\n"
    );
    scene.configure(Config { more: &more, ..Config::default() });
    let key = store.look.locks.keys().cooldown(&Group::default());
    let text = format!(r#"{{"machineID":"b","since":{},"secs":600}}"#, crate::scene::now());
    store.look.put(key.clone(), &text).await.unwrap();
    let counted = async |figure: &str| {
        let figure = format!("rebootlock_cooldown_{figure}");
        eventually(&figure, SOON, async || {
            let text = std::fs::read_to_string(&figures).unwrap_or_default();
            let value =
                text.lines().find_map(|line| line.strip_prefix(&figure)).unwrap_or_default();
            let value = value.trim().parse::<u64>().unwrap_or_default();
            if value > 0 { Ok(()) } else { Err(text) }
        })
        .await
        .unwrap();
    };
    scene.due();
    scene.member.start().await.unwrap();
    counted("checks_total{phase=\"pre-lock\",result=\"active\"}").await;
    store.look.remove(&key).await.unwrap();
    scene.wait_reboots(1).await;
    counted("checks_total{phase=\"pre-lock\",result=\"inactive\"}").await;
    std::fs::remove_file(scene.path("M")).unwrap();
    scene.member.go_down_and_come_back().await.unwrap();
    scene.member.wait_log("slot given back").await.unwrap();
    counted("activations_total{result=\"success\"}").await;
    assert!(store.look.get(&key).await.unwrap().is_some());
}
