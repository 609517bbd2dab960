//! An acquisition whose answer is lost, and whoever asked for it gives up: nothing is held for nobody.

use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, system};
use rebootlock_tests::eventually;
use rebootlock_tests::process::{Process, Signal};
use rebootlock_tests::proxy::Proxy;

use crate::operator::{Operator, SOON};

/// In the transaction that gives a slot to this machine, and in no other.
const TO_B: &str = r#""holders":["b"]"#;
const TO_THIS: &str = r#""holders":["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]"#;

const ASKS_ON: &str = "the store does not tell whether";

const FREE: &str = "Available: 1\nMax: 1\n";

/// An etcd, a proxy in front of it, and a person on each side of that.
struct Scene {
    proxy: Proxy,
    op: Operator,
    behind: Operator,
    _etcd: EtcdCluster,
}

impl Scene {
    async fn new() -> Self {
        let etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
        let proxy = Proxy::start(etcd.members[0].port()).await.unwrap();
        let op = Operator::on(&[proxy.endpoint()]);
        let behind = Operator::on(&etcd.endpoints());
        Self { proxy, op, behind, _etcd: etcd }
    }

    async fn a_reply_is_lost(&self) {
        eventually("the reply is lost", SOON, async || match self.proxy.replies_lost() {
            0 => Err("not yet"),
            _ => Ok(()),
        })
        .await
        .unwrap();
    }

    async fn is_held(&self) {
        let shown = self.behind.ctl("status").await.ok().out;
        assert!(shown.starts_with("Available: 0\n"), "{shown}");
    }

    async fn is_free(&self) {
        assert_eq!(self.behind.ctl("status").await.ok().out, FREE);
        assert_eq!(self.behind.ctl("queue --output json").await.ok().out, "[]\n");
    }
}

async fn ends(mut process: Process, said: &[&str]) {
    assert_eq!(process.wait_exit(SOON).await.unwrap().code(), Some(1));
    let last = process.stderr().lines().pop().unwrap_or_default();
    for words in said {
        assert!(last.starts_with("error: ") && last.contains(words), "no {words:?} in {last:?}");
    }
}

#[tokio::test]
async fn who_stops_waiting_without_having_been_answered_holds_nothing() {
    for (line, said) in [
        ("lock b", "the store is out of reach"),
        ("lock b --wait", "interrupted; b waits no longer"),
        ("lock b --wait 2s", "waited for 2s: "),
    ] {
        let scene = Scene::new().await;
        scene.proxy.cut_after_request_with_and_refuse(TO_B);
        let mut waiting = scene.op.start(line);
        scene.a_reply_is_lost().await;
        scene.is_held().await;
        if line.ends_with("wait") {
            waiting.wait_line("waiting: ", SOON).await.unwrap();
            waiting.signal(Signal::INT).unwrap();
        }
        waiting.wait_line(ASKS_ON, SOON).await.unwrap();
        scene.proxy.resume();
        ends(waiting, &[said]).await;
        scene.is_free().await;
    }
}

#[tokio::test]
async fn what_cannot_be_settled_is_said_and_ctrl_c_ends_the_asking() {
    let scene = Scene::new().await;
    scene.proxy.cut_after_request_with_and_refuse(TO_B);
    let mut waiting = scene.op.start("lock b --wait");
    scene.a_reply_is_lost().await;
    waiting.wait_line("waiting: ", SOON).await.unwrap();
    waiting.signal(Signal::INT).unwrap();
    waiting.wait_line(ASKS_ON, SOON).await.unwrap();
    waiting.signal(Signal::INT).unwrap();
    let unknown = "it is not known whether b has got a slot: interrupted";
    ends(waiting, &[unknown, "rebootlockctl unlock b"]).await;
    scene.is_held().await;
    scene.behind.ctl("unlock b").await.ok();
    scene.is_free().await;
}

#[tokio::test]
async fn what_somebody_else_gave_a_machine_is_left_alone() {
    let scene = Scene::new().await;
    scene.behind.ctl("lock b").await.ok();
    let waiting = scene.op.start("lock c --wait");
    waiting.wait_line("next in the queue", SOON).await.unwrap();
    scene.proxy.refuse();
    waiting.wait_line("waiting: ", SOON).await.unwrap();
    // Somebody gives it a slot by hand while it does not hear of it.
    scene.behind.ctl("set-max 2").await.ok();
    scene.behind.ctl("lock c").await.ok();
    let mut waiting = waiting;
    waiting.signal(Signal::INT).unwrap();
    scene.proxy.resume();
    assert!(waiting.wait_exit(SOON).await.unwrap().code().is_some());
    let shown = scene.behind.ctl("status").await.ok().out;
    assert!(shown.contains("\nb ") && shown.contains("\nc "), "{shown}");
}

#[tokio::test]
async fn exec_that_was_not_answered_runs_nothing_and_leaves_nothing() {
    let scene = Scene::new().await;
    let marker = scene.op.file("marker", "");
    std::fs::remove_file(&marker).unwrap();
    scene.proxy.cut_after_request_with_and_refuse(TO_THIS);
    let exec = scene.op.start(&format!("exec -- touch {marker}"));
    exec.wait_line(ASKS_ON, SOON).await.unwrap();
    scene.is_held().await;
    scene.proxy.resume();
    ends(exec, &["the store is out of reach"]).await;
    scene.is_free().await;
    assert!(!std::fs::exists(&marker).unwrap());
}

#[tokio::test]
async fn a_signal_while_exec_asks_is_heard_and_nothing_is_run() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let scene = Scene::new().await;
        let marker = scene.op.file("marker", "");
        std::fs::remove_file(&marker).unwrap();
        scene.proxy.cut_after_request_with_and_freeze(TO_THIS);
        let mut exec = scene.op.start(&format!("exec -- touch {marker}"));
        scene.a_reply_is_lost().await;
        exec.signal(signal).unwrap();
        scene.proxy.resume();
        ends(exec, &["interrupted"]).await;
        scene.is_free().await;
        assert!(!std::fs::exists(&marker).unwrap());
    }
}

#[tokio::test]
async fn a_signal_ends_the_giving_back_while_the_store_is_away() {
    for away in [Proxy::refuse, Proxy::freeze] {
        let scene = Scene::new().await;
        let running = scene.op.file("running", "");
        std::fs::remove_file(&running).unwrap();
        let script = format!("touch {running}; read line");
        let command = scene.op.command(&["exec", "--", "sh", "-c", &script]);
        let mut exec = Process::spawn("exec", command).unwrap();
        eventually("the command runs", SOON, async || {
            std::fs::exists(&running).unwrap().then_some(()).ok_or("no")
        })
        .await
        .unwrap();
        away(&scene.proxy);
        exec.send_line("go").await.unwrap();
        exec.wait_line("cannot give the slot back yet", SOON).await.unwrap();
        exec.signal(Signal::TERM).unwrap();
        ends(exec, &["may still be held", "rebootlockctl unlock aaaa"]).await;
        scene.is_held().await;
    }
}
