//! Single passes of one machine.

use std::path::Path;
use std::time::{Duration, Instant};

use rebootlock::id::Group;
use rebootlock_tests::fleet::SOON;
use rebootlock_tests::process::Process;

use crate::scene::{Config, Scene, Store, now};

/// Case 1.
#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_to_do_a_pass_ends_well_and_touches_no_lock() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config::default()).await;
    let ran = scene.once().await;
    ran.ended("no_action", 0);
    assert_eq!(ran.said["reboot_wanted"], false);
    assert_eq!(ran.said["detectors"][0]["verdict"], "clear");
    assert_eq!(scene.seen(), ["monitor false"]);
    assert_eq!(store.health("a").await.unwrap()["healthy"], true);
    assert!(!store.look.locks.status(&Group::default()).await.unwrap().exists);
}

/// Case 2.
#[tokio::test(flavor = "multi_thread")]
async fn an_unwell_machine_with_nothing_to_do_says_so_and_tells_the_others() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config { script: "exit 7", ..Config::default() }).await;
    let ran = scene.once().await;
    assert_eq!(ran.ended("health_blocked", 3), "gate S is closed: exit 7");
    let gate = &ran.said["gates"][0];
    assert_eq!((&gate["phase"], &gate["exitCode"]), (&"monitor".into(), &7.into()));
    store.wait_unwell("a", &["monitor", "exit 7"]).await;
}

/// Case 3.
#[tokio::test(flavor = "multi_thread")]
async fn a_pass_takes_the_slot_asks_everything_twice_and_never_reboots() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config::default()).await;
    let ran = scene.due().once().await;
    ran.ended("ready", 0);
    assert_eq!(scene.seen(), ["pre-lock false", "post-lock true"]);
    assert_eq!((&ran.said["slot"]["taken"], &ran.said["dry_run"]), (&true.into(), &false.into()));
    assert!(ran.said["reason"].as_str().unwrap().starts_with("M: "), "{}", ran.all());
    assert_eq!(store.health("a").await.unwrap()["healthy"], true, "the others are told");
    store.look.wait_free().await.unwrap();
    assert_eq!(scene.reboots(), 0);
    assert_eq!(scene.member.machine.logind.attempts(), 0);
}

/// Case 5.
#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_is_looked_at_before_any_detector() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config::default()).await;
    scene.touch("K");
    let ran = scene.due().once().await;
    assert!(ran.ended("kill_switch_active", 5).contains("/K is there"), "{}", ran.all());
    assert_eq!(ran.said["detectors"], serde_json::json!([]));
    assert_eq!(ran.said["reboot_wanted"], serde_json::Value::Null);
    assert!(scene.seen().is_empty());
}

/// Case 7.
#[tokio::test(flavor = "multi_thread")]
async fn outside_the_windows_has_an_outcome_and_an_exit_code_of_its_own() {
    let store = Store::new();
    let later = (now() / 3600 + 12) % 24;
    let window =
        format!("[[window]]\nstart = \"{later:02}:00\"\nlength = \"1h\"\ntimezone = \"UTC\"\n");
    let scene = Scene::new("a", &store, Config { more: &window, ..Config::default() }).await;
    let ran = scene.due().once().await;
    assert!(ran.ended("window_outside_allow", 3).contains("opens"), "{}", ran.all());
    assert!(scene.seen().is_empty());
}

const ALLOWED: &str = "[[window]]\nname = \"always\"\nrange = \"00:00-24:00\"\n";

/// Case 8.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_denies_wins_is_named_and_no_detector_runs() {
    let store = Store::new();
    let freeze = "[[window]]\nname = \"freeze\"\naction = \"deny\"\nrange = \"00:00-24:00\"\n";
    let both = format!("{ALLOWED}{freeze}");
    let scene = Scene::new("a", &store, Config { more: &both, ..Config::default() }).await;
    let ran = scene.due().once().await;
    assert!(ran.ended("window_denied", 3).contains("\"freeze\""), "{}", ran.all());
    assert_eq!(ran.said["detectors"], serde_json::json!([]));
    scene.configure(Config { more: ALLOWED, ..Config::default() });
    scene.once().await.ended("ready", 0);
}

/// Case 10.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_none_is_refused_with_its_place_and_a_day_may_end_at_24() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config::default()).await;
    for range in ["Mon-Tue 22:00-Wed 04:00", "sat-sun", ""] {
        let more =
            format!("[[window]]\nrange = \"22:00-23:00\"\n[[window]]\nrange = \"{range}\"\n");
        scene.configure(Config { more: &more, ..Config::default() });
        let mut process = Process::spawn("refused", scene.member.command().unwrap()).unwrap();
        assert_eq!(process.wait_exit(SOON).await.unwrap().code(), Some(2), "{range}");
        let log = process.stderr().lines().join("\n");
        let (place, line) = (log.find("rebootlock.toml:24:9: "), format!("range {range:?}: "));
        assert!(place.is_some() && log.contains(&line), "{log}");
    }
    let more = "[[window]]\nrange = \"Mon-Sun 00:00-24:00\"\n";
    scene.configure(Config { more, ..Config::default() });
    scene.due().once().await.ended("ready", 0);
}

/// Case 11.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_closes_while_the_slot_is_held_refuses_the_reboot() {
    let store = Store::new();
    let begun = now();
    let closes = begun + 15;
    let window = format!(
        "[[window]]\nstart = \"{:02}:{:02}\"\nlength = \"{}s\"\ntimezone = \"UTC\"\n",
        begun / 3600 % 24,
        begun / 60 % 60,
        begun % 60 + 15
    );
    let script = format!(
        "[ $RC_PHASE != post-lock ] || while [ $(date +%s) -lt {closes} ]; do sleep 0.1; done"
    );
    let config = Config { script: &script, more: &window, ..Config::default() };
    let scene = Scene::new("a", &store, config).await;
    let ran = scene.due().once().await;
    ran.ended("window_outside_allow", 3);
    assert_eq!(scene.seen(), ["pre-lock false", "post-lock true"]);
    store.look.wait_free().await.unwrap();
}

/// Case 19.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_slot_it_says_who_has_it_and_since_when() {
    let store = Store::new();
    store.look.lock("db-1").await.unwrap();
    let scene = Scene::new("a", &store, Config::default()).await;
    scene.due();
    for ran in [scene.once().await, scene.status(&store, &[]).await] {
        let why = ran.ended("lock_unavailable", 4);
        assert!(why.contains("1 of 1 held by db-1 for "), "{why}");
        let holder = &ran.said["slot"]["holders"][0];
        assert_eq!(holder["machineID"], "db-1");
        assert!(now() - holder["since"].as_i64().unwrap() < 600, "{}", ran.all());
    }
    let status = store.look.locks.status(&Group::default()).await.unwrap();
    assert!(status.queue.is_empty() && status.holders.len() == 1);
}

/// Case 20.
#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_is_gone_when_the_slot_has_come_gives_it_back() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config::default()).await;
    let script = format!("[ $RC_PHASE != pre-lock ] || rm {}", scene.path("M").display());
    scene.configure(Config { script: &script, ..Config::default() });
    let ran = scene.due().once().await;
    ran.ended("recheck_cleared", 0);
    assert_eq!(ran.said["slot"]["taken"], true);
    assert_eq!(scene.seen(), ["pre-lock false"]);
    store.look.wait_free().await.unwrap();
}

/// Case 21.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_closes_with_the_slot_held_gives_it_back_and_tells_the_others() {
    let store = Store::new();
    let script = "[ $RC_PHASE != post-lock ]";
    let scene = Scene::new("a", &store, Config { script, ..Config::default() }).await;
    let ran = scene.due().once().await;
    assert_eq!(ran.ended("health_blocked", 3), "gate S is closed: exit 1");
    store.look.wait_free().await.unwrap();
    store.wait_unwell("a", &["post-lock", "exit 1"]).await;
}

/// Case 22.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cools_down_names_after_whom_and_no_slot_is_taken() {
    let store = Store::new();
    let key = store.look.locks.keys().cooldown(&Group::default());
    let text =
        format!(r#"{{"machineID":"b","hostname":"b.example","since":{},"secs":600}}"#, now());
    store.look.put(key, &text).await.unwrap();
    let scene = Scene::new("a", &store, Config::default()).await;
    scene.due();
    for ran in [scene.once().await, scene.status(&store, &[]).await] {
        assert!(ran.ended("cooldown_active", 3).contains("b.example"), "{}", ran.all());
        assert_eq!(ran.said["slot"]["taken"], false);
    }
}

/// Whether a process is gone, or dead and not yet collected by whoever inherited it.
fn ended(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.map_or(true, |stat| stat.rsplit(')').next().unwrap().trim().starts_with('Z'))
}

/// Case 27. A script that does not heed SIGTERM has two seconds more.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_hangs_ends_with_its_children_and_blocks() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config::default()).await;
    let pids = scene.path("pids");
    let script = format!("sleep 60 & echo $! >> {0}; echo $$ >> {0}; wait", pids.display());
    scene.configure(Config { script: &script, timeout: 2, ..Config::default() });
    let begun = Instant::now();
    let ran = scene.due().once().await;
    assert_eq!(ran.ended("health_blocked", 3), "gate S is closed: timeout after 2 s");
    // Not the minute that it wants. The pass around it has a busy machine to share.
    let seconds = ran.said["gates"][0]["seconds"].as_f64().unwrap();
    assert!((2.0..=3.0).contains(&seconds), "{}", ran.all());
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    let pids = scene.lines("pids");
    assert!(pids.len() == 2 && pids.iter().all(|pid| ended(pid)), "{pids:?}");
    store.wait_unwell("a", &["pre-lock", "timeout"]).await;
}

/// Cases 28 and 29.
#[tokio::test(flavor = "multi_thread")]
async fn a_detector_that_cannot_tell_fails_the_pass_even_beside_a_reason() {
    let store = Store::new();
    let broken = "[[detector]]\nname = \"vendor\"\ntype = \"command\"\nreboot_needed_codes = [1]\n";
    for (command, said) in [
        ("command = [\"/nonexistent/check\"]\n", "detector vendor failed: cannot run"),
        ("command = [\"/bin/sh\", \"-c\", \"kill -9 $$\"]\n", "vendor failed: killed by signal 9"),
    ] {
        let more = format!("{broken}{command}");
        let scene = Scene::new("a", &store, Config { more: &more, ..Config::default() }).await;
        scene.due();
        for ran in [scene.once().await, scene.status(&store, &[]).await] {
            assert!(ran.ended("error", 1).contains(said), "{}", ran.all());
        }
        let more = format!("{more}optional = true\n");
        scene.configure(Config { more: &more, ..Config::default() });
        let ran = scene.once().await;
        ran.ended("ready", 0);
        assert_eq!(ran.said["detectors"][1]["verdict"], "failed");
    }
    store.look.wait_free().await.unwrap();
}

/// A pass that cron starts again and again must end.
#[tokio::test(flavor = "multi_thread")]
async fn a_pass_ends_though_the_store_is_out_of_reach() {
    let endpoints = ["http://127.0.0.1:1".to_owned()];
    let config = Config { more: "[store]\ntimeout_secs = 1\n", ..Config::default() };
    let scene = Scene::on("a", &endpoints, config).await;
    let ran = scene.due().once().await;
    assert!(ran.ended("error", 1).contains("127.0.0.1:1"), "{}", ran.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_of_a_machine_that_is_back_but_not_well_ends_and_keeps_the_slot() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    scene.due();
    scene.member.start().await.unwrap();
    scene.wait_reboots(1).await;
    std::fs::remove_file(scene.path("M")).unwrap();
    scene.member.kill().await.unwrap();
    scene.member.machine.new_boot().await.unwrap();
    let script = format!("[ -e {} ]", scene.path("well").display());
    scene.configure(Config { script: &script, ..Config::default() });
    for _ in 0..2 {
        let ran = scene.once().await;
        let why = ran.ended("health_blocked", 3);
        assert!(why.starts_with("back from the reboot, but not well: gate S is closed"), "{why}");
        assert!(store.look.record("a").await.unwrap().is_some());
    }
    scene.touch("well");
    scene.once().await.ended("no_action", 0);
    store.look.wait_free().await.unwrap();
}
