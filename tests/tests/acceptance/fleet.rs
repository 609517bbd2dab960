//! Several daemons on one store.

use anyhow::ensure;
use rebootlock::record::HolderState;
use rebootlock_tests::etcd::{EtcdSetup, system};
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{SOON, ctl};

use crate::scene::{Config, Scene, Store};

/// Waits until the daemon says that this keeps it; it has not rebooted.
async fn waits(scene: &mut Scene, text: &str) {
    scene.member.wait_status(text).await.unwrap();
    assert_eq!(scene.reboots(), 0);
}

/// Case 23.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_while_another_comes_back_waits_for_the_cooldown_too() {
    let store = Store::new();
    let more = "[[group]]\nname = \"default\"\ncooldown_secs = 600\n";
    let mut a = Scene::new("a", &store, Config { more, ..Config::default() }).await;
    let mut b = Scene::new("b", &store, Config { more, ..Config::default() }).await;
    a.due();
    a.member.start().await.unwrap();
    a.wait_reboots(1).await;
    b.due();
    b.member.start().await.unwrap();
    store.look.wait_queue(1).await.unwrap();
    waits(&mut b, "1 of 1 held by").await;
    std::fs::remove_file(a.path("M")).unwrap();
    a.member.come_back_and_give_back().await.unwrap();
    waits(&mut b, "next in the queue; group default cools down").await;
    b.member.wait_log("status=\"cooldown_active\"").await.unwrap();
    b.status(&store, &[]).await.ended("cooldown_active", 3);
    store.look.wait_free().await.unwrap();
}

/// Case 24.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_never_returns_blocks_the_others_visibly_until_an_operator_clears_it() {
    let store = Store::new();
    let agent = "reboot_deadline_secs = 1";
    let mut a = Scene::new("a", &store, Config { agent, ..Config::default() }).await;
    a.due();
    a.member.start().await.unwrap();
    a.wait_reboots(1).await;
    // Gone, and for good.
    a.member.kill().await.unwrap();
    let mut b = Scene::new("b", &store, Config::default()).await;
    let mut c = Scene::new("c", &store, Config::default()).await;
    for scene in [&mut b, &mut c] {
        scene.due();
        scene.member.start().await.unwrap();
        waits(scene, "1 of 1 held by").await;
    }
    eventually("it is shown as overdue", SOON, async || {
        let shown = ctl(&store.endpoints, &["status"]).await?;
        let shown = String::from_utf8(shown.stdout)?;
        ensure!(shown.to_lowercase().contains("overdue"), "{shown}");
        Ok::<_, anyhow::Error>(())
    })
    .await
    .unwrap();
    assert_eq!((b.reboots(), c.reboots()), (0, 0));
    store.look.unlock("a").await.unwrap();
    b.wait_reboots(1).await;
    assert_eq!(c.reboots(), 0);
}

/// Case 26.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_lost_while_gates_are_asked_reboots_only_its_new_holder() {
    let store = Store::new();
    let mut a = Scene::new("a", &store, Config::default()).await;
    let (begun, go) = (a.path("begun"), a.path("go"));
    let script = format!(
        "[ $RC_PHASE != post-lock ] || {{ touch {}; while [ ! -e {} ]; do sleep 0.1; done; }}",
        begun.display(),
        go.display()
    );
    a.configure(Config { script: &script, ..Config::default() });
    a.due();
    a.member.start().await.unwrap();
    a.wait_file("begun").await;
    store.look.unlock("a").await.unwrap();
    let mut b = Scene::new("b", &store, Config::default()).await;
    b.due();
    b.member.start().await.unwrap();
    b.wait_reboots(1).await;
    a.touch("go");
    a.member.wait_log("the slot is not ours any more").await.unwrap();
    a.member.wait_status("1 of 1 held by").await.unwrap();
    store.look.wait_state("b", &HolderState::Rebooting).await.unwrap();
    assert_eq!((a.reboots(), b.reboots()), (0, 1));
}

/// Case 31: one of three endpoints is down from the start.
#[tokio::test(flavor = "multi_thread")]
async fn one_endpoint_of_three_that_is_down_is_no_obstacle() {
    let setup = EtcdSetup::new(&system().unwrap()).members(3);
    let mut etcd = setup.start().await.unwrap();
    for down in 0..3 {
        etcd.members[down].stop().await.unwrap();
        let id = format!("m{down}");
        let scene = Scene::on(&id, &etcd.endpoints(), Config::default()).await;
        scene.due().once().await.ended("ready", 0);
        etcd.members[down].spawn().unwrap();
        etcd.wait_ready().await.unwrap();
    }
}
