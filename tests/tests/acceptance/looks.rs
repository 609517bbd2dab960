//! `rebootlockd status`: the same questions, and nothing is taken, written or rebooted.

use rebootlock::id::{Group, MachineId};
use rebootlock_tests::fleet::{Member, SOON, ctl};
use rebootlock_tests::process::Process;

use crate::scene::{Config, Scene, Store, now};

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_a_pass_would_say_and_leaves_no_trace() {
    let store = Store::new();
    let script = "echo $RC_DRY_RUN x$RC_SKIP_LOCK >> \"$0\".told";
    let scene = Scene::new("a", &store, Config { script, ..Config::default() }).await;
    let ran = scene.status(&store, &[]).await;
    ran.ended("no_action", 0);
    assert_eq!((&ran.said["dry_run"], &ran.said["reboot_wanted"]), (&true.into(), &false.into()));
    assert_eq!(scene.seen(), ["monitor false"]);
    let ran = scene.due().status(&store, &[]).await;
    ran.ended("ready", 0);
    assert_eq!(ran.said["slot"]["groups"], serde_json::json!(["default"]));
    assert_eq!(scene.seen(), ["monitor false", "pre-lock false"]);
    scene.status(&store, &["--skip-lock"]).await.ended("lock_skipped", 0);
    assert_eq!(scene.lines("seen.told"), ["true x", "true x", "true xtrue"]);
    assert!(!store.look.locks.status(&Group::default()).await.unwrap().exists);
    assert_eq!(store.health("a").await, None);
    assert_eq!(scene.reboots(), 0);

    scene.touch("K");
    scene.status(&store, &[]).await.ended("kill_switch_active", 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_against_a_slot_has_its_own_name_and_exit_code() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config::default()).await;
    scene.due();
    store.look.pause("ann", "audit").await.unwrap();
    let ran = scene.status(&store, &[]).await;
    assert!(ran.ended("paused", 5).contains("by ann: audit"), "{}", ran.all());
    store.look.resume().await.unwrap();
    let held = ctl(&store.endpoints, &["hold", "a", "--reason", "demo"]).await.unwrap();
    assert!(held.status.success(), "{}", String::from_utf8_lossy(&held.stderr));
    let ran = scene.status(&store, &[]).await;
    assert!(ran.ended("held", 5).contains("demo"), "{}", ran.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_skipped_is_not_even_asked() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config { script: "exit 1", ..Config::default() }).await;
    store.present("b", false, now()).await;
    scene.due();
    scene.status(&store, &[]).await.ended("health_blocked", 3);
    scene.status(&store, &["--skip-health"]).await.ended("ready", 0);
    assert!(scene.seen().is_empty());
    // No store at all.
    let scene = Scene::new("a", &store, Config::default()).await;
    scene.due();
    let mut nowhere = Store::new();
    nowhere.endpoints = vec!["http://127.0.0.1:1".to_owned()];
    scene.status(&nowhere, &["--skip-lock"]).await.ended("lock_skipped", 0);
    let ran = scene.status(&nowhere, &["--timeout-secs", "1", "--skip-health"]).await;
    assert!(ran.ended("error", 1).contains("127.0.0.1:1"), "{}", ran.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_may_be_asked_beside_the_daemon_and_says_that_the_slot_is_there() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    scene.due();
    scene.member.start().await.unwrap();
    scene.wait_reboots(1).await;
    std::fs::remove_file(scene.path("M")).unwrap();
    let request = store.look.locks.keys().request(&MachineId::new("a").unwrap());
    store.look.put(request, r#"{"by":"ann","since":1397496396}"#).await.unwrap();
    let ran = scene.status(&store, &[]).await;
    assert!(ran.ended("ready", 0).contains("this machine has its slot"), "{}", ran.all());
    assert!(ran.said["reason"].as_str().unwrap().contains("requested by ann"), "{}", ran.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_it_in_sentences() {
    let store = Store::new();
    let script = "exit 7";
    let scene = Scene::new("a", &store, Config { script, ..Config::default() }).await;
    let command = scene.due().status_command(&store, &[]);
    let mut process = Process::spawn("status", command).unwrap();
    assert_eq!(process.wait_exit(SOON).await.unwrap().code(), Some(3));
    let said = process.stdout().lines();
    assert_eq!(said[0], "health_blocked: gate S is closed: exit 7");
    let marker = scene.path("M").display().to_string();
    assert_eq!(said[1], format!("  a reboot is wanted: M: {marker} is there"));
    assert!(said[2].starts_with("  detector M: reboot needed: "), "{said:?}");
    assert!(said[3].starts_with("  gate S is closed: exit 7 (pre-lock, "), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_exits_2_and_a_wrong_flag_64() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config::default()).await;
    let code = async |flags: &[&str]| {
        let mut process = Process::spawn("status", scene.status_command(&store, flags)).unwrap();
        process.wait_exit(SOON).await.unwrap().code().unwrap()
    };
    assert_eq!(code(&["--once"]).await, 64);
    Member::configure(&scene.member, "[agent]\nstrategy = \"of\"\n").unwrap();
    assert_eq!(code(&[]).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_ready_while_somebody_inhibits_a_reboot_or_nobody_can_say() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config::default()).await;
    let logind = &scene.due().member.machine.logind;
    let inhibitor = logind.add_inhibitor("shutdown", "backup", "busy", "block").await.unwrap();
    for flags in [&[][..], &["--skip-lock"]] {
        let ran = scene.status(&store, flags).await;
        let why = ran.ended("health_blocked", 3);
        assert_eq!(why, "held up: inhibited by backup: busy");
    }
    logind.remove_inhibitor(inhibitor).await.unwrap();
    scene.status(&store, &[]).await.ended("ready", 0);
    logind.stop().await;
    let ran = scene.status(&store, &[]).await;
    assert!(ran.ended("health_blocked", 3).starts_with("logind does not answer"), "{}", ran.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_makes_no_database() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config::default()).await;
    let path = scene.path("none.db");
    let mut nowhere = Store::new();
    nowhere.endpoints = vec![format!("sqlite:{}", path.display())];
    scene.due().status(&nowhere, &[]).await.ended("ready", 0);
    assert!(!path.exists());
}
