//! What changes between the slot and the permit, and doubt that must not spread.

use rebootlock::id::{Group, MachineId};
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::SOON;

use crate::scene::{Config, Scene, Store, now};

/// A machine whose only pre-reboot hook does `spoil` in its folder, and writes down that it ran, and
/// that it was undone.
async fn spoilt_by(store: &Store, spoil: &str, windows: &str) -> Scene {
    let scene = Scene::new("a", store, Config::default()).await;
    let folder = scene.path("").display().to_string();
    for (phase, does) in [("pre", spoil), ("post", "true")] {
        let dir = scene.path(phase);
        std::fs::create_dir(&dir).unwrap();
        let text = format!("#!/bin/sh\ncd {folder}\n{does}\necho {phase} >> hooks\n");
        std::fs::write(dir.join("10-a"), text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.join("10-a"), mode).unwrap();
    }
    let more = format!(
        "{windows}\n[hooks]\npre_reboot_dir = {:?}\npost_reboot_dir = {:?}\n",
        scene.path("pre"),
        scene.path("post")
    );
    let script = format!("[ ! -e {folder}/busy ]");
    scene.configure(Config { script: &script, more: &more, ..Config::default() });
    scene
}

/// It goes as far as its hook, and not on: the hook is undone, and the slot free again.
async fn does_not_go(store: &Store, scene: &mut Scene, outcome: &str) {
    scene.due();
    scene.member.start().await.unwrap();
    eventually("the hook is undone", SOON, async || {
        let hooks = scene.lines("hooks");
        if hooks.last().is_some_and(|last| last == "post") { Ok(()) } else { Err(hooks.join(" ")) }
    })
    .await
    .unwrap();
    scene.member.wait_log(&format!("status=\"{outcome}\"")).await.unwrap();
    store.look.wait_free().await.unwrap();
    assert_eq!(scene.lines("hooks"), ["pre", "post"]);
    assert_eq!(scene.reboots(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_goes_while_hooks_run_stops_the_reboot() {
    let store = Store::new();
    let mut scene = spoilt_by(&store, "rm M", "").await;
    does_not_go(&store, &mut scene, "recheck_cleared").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_pulled_while_hooks_run_stops_the_reboot() {
    let store = Store::new();
    let mut scene = spoilt_by(&store, "touch K", "").await;
    does_not_go(&store, &mut scene, "kill_switch_active").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_closes_while_hooks_run_stops_the_reboot() {
    let store = Store::new();
    let mut scene = spoilt_by(&store, "touch busy", "").await;
    does_not_go(&store, &mut scene, "health_blocked").await;
}

/// From this minute on, for this long after now.
fn window(begun: i64, secs: i64, more: &str) -> String {
    format!(
        "[[window]]\nstart = \"{:02}:{:02}\"\nlength = \"{}s\"\ntimezone = \"UTC\"\n{more}\n",
        begun / 3600 % 24,
        begun / 60 % 60,
        begun % 60 + secs
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn so_much_of_the_window_must_be_left_at_the_permit() {
    let store = Store::new();
    let begun = now();
    let wait = format!("while [ $(date +%s) -le {} ]; do sleep 0.1; done", begun + 15);
    let windows = window(begun, 3600, "min_remaining_secs = 3585");
    let mut scene = spoilt_by(&store, &wait, &windows).await;
    does_not_go(&store, &mut scene, "window_outside_allow").await;
    let ran = scene.status(&store, &[]).await;
    assert!(ran.ended("window_outside_allow", 3).contains("must be left"), "{}", ran.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_begins_at_its_own_moment_of_the_window() {
    let store = Store::new();
    let begun = now();
    // Open for two hours already. `rebootlockctl windows` says when each machine begins in it.
    let windows = window(begun - 7200, 7200 + 4 * 3600, "splay_secs = 14400");
    let (mut ready, mut waits) = (0, 0);
    for number in 0..6 {
        let id = format!("web-{number}");
        let more = Config { more: &windows, ..Config::default() };
        let scene = Scene::new(&id, &store, more).await;
        let ran = scene.due().once().await;
        match ran.code {
            0 => ready += 1,
            _ => {
                let why = ran.ended("window_outside_allow", 3);
                assert!(why.contains("this machine's moment in it is"), "{why}");
                assert!(scene.seen().is_empty(), "nothing else was asked");
                waits += 1;
            }
        }
    }
    assert!(ready > 0 && waits > 0, "{ready} may go, {waits} wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_asked_at_heartbeats_alone_keeps_the_machine_unwell_for_the_others() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    let busy = format!(
        "[[gate]]\nname = \"busy\"\ntype = \"busy-file\"\nphases = [\"heartbeat\"]\npaths = [{:?}]\n",
        scene.path("busy")
    );
    scene.configure(Config { more: &busy, ..Config::default() });
    scene.touch("busy");
    scene.member.start().await.unwrap();
    store.wait_unwell("a", &["heartbeat", "busy is there"]).await;
    let monitored =
        |scene: &Scene| scene.seen().iter().filter(|line| line.starts_with("monitor")).count();
    let before = monitored(&scene);
    eventually("three looks that ask another gate", SOON, async || {
        let health = store.health("a").await.unwrap();
        assert_eq!(health["healthy"], false, "{health}");
        let now = monitored(&scene);
        if now >= before + 3 { Ok(()) } else { Err(now) }
    })
    .await
    .unwrap();
    std::fs::remove_file(scene.path("busy")).unwrap();
    eventually("it is well again", SOON, async || {
        let health = store.health("a").await.unwrap();
        if health["healthy"] == true { Ok(()) } else { Err(health) }
    })
    .await
    .unwrap();
}

async fn request(store: &Store, id: &str) {
    let key = store.look.locks.keys().request(&MachineId::new(id).unwrap());
    store.look.put(key, r#"{"by":"ann","since":1397496396}"#).await.unwrap();
}

const MISSING: &str = "[[detector]]\nname = \"vendor\"\ntype = \"command\"\n\
                       reboot_needed_codes = [1]\ncommand = [\"/nonexistent/check\"]\n";

/// Case 29, and what is no detector's business.
#[tokio::test(flavor = "multi_thread")]
async fn a_detector_that_fails_takes_no_slot_and_keeps_no_request_from_being_heard() {
    let store = Store::new();
    let config = || Config { more: MISSING, ..Config::default() };
    let mut scene = Scene::new("a", &store, config()).await;
    scene.due();
    scene.member.start().await.unwrap();
    scene.member.wait_log("nothing reboots because of any detector until it works").await.unwrap();
    scene.member.wait_status("a detector fails").await.unwrap();
    let semaphore = store.look.locks.status(&Group::default()).await.unwrap();
    assert!(!semaphore.exists, "nothing was ever taken");
    request(&store, "a").await;
    let ran = scene.status(&store, &[]).await;
    assert_ne!(ran.said["outcome"], "error", "{}", ran.all());
    scene.wait_reboots(1).await;
    let record = store.look.record("a").await.unwrap().unwrap();
    assert!(record.reason.unwrap().contains("requested by ann"));
    assert_eq!(scene.member.count_log("slot given back").unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_hear_a_request_beside_a_detector_that_fails() {
    let store = Store::new();
    let scene = Scene::new("a", &store, Config { more: MISSING, ..Config::default() }).await;
    for ran in [scene.once().await, scene.status(&store, &[]).await] {
        assert!(ran.ended("error", 1).contains("detector vendor failed"), "{}", ran.all());
    }
    request(&store, "a").await;
    for ran in [scene.status(&store, &[]).await, scene.once().await] {
        ran.ended("ready", 0);
        assert_eq!(ran.said["reason"], "requested by ann", "{}", ran.all());
    }
    store.look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_detector_that_fails_is_left_out_loudly_with_what_it_printed() {
    let store = Store::new();
    let mut scene = Scene::new("a", &store, Config::default()).await;
    let broken = "[[detector]]\nname = \"vendor\"\ntype = \"command\"\nreboot_needed_codes = [1]\n\
                  optional = true\ncommand = [\"/bin/sh\", \"-c\", \"echo out of order; exit 9\"]\n";
    scene.configure(Config { more: broken, ..Config::default() });
    scene.due();
    scene.member.start().await.unwrap();
    let said = "a detector failed and is left out, because it is optional name=\"vendor\"";
    let line = scene.member.wait_log(said).await.unwrap();
    assert!(line.contains("WARN") && line.contains("out of order"), "{line}");
    scene.wait_reboots(1).await;
}
