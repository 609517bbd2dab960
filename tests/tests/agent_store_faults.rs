//! etcd stops, freezes, restarts, loses replies, at every step of the daemon: it says so once a
//! change, and goes on within about a second of the store's return.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::{Duration, Instant};

use rebootlock::record::HolderState;
use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, system};
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::process::Signal;
use rebootlock_tests::proxy::Proxy;

/// Requests that a frozen server holds up are given up soon.
const CONFIG: &str = "[store]\ntimeout_secs = 2\n[agent]\npoll_secs = 20\n";

/// A second is promised; a busy machine gets this much.
const ABOUT_A_SECOND: Duration = Duration::from_secs(6);

async fn etcd() -> EtcdCluster {
    EtcdSetup::new(&system().unwrap()).start().await.unwrap()
}

/// Starts etcd again and waits until it answers. When it did.
async fn revive(etcd: &mut EtcdCluster) -> Instant {
    etcd.members[0].spawn().unwrap();
    etcd.wait_ready().await.unwrap();
    Instant::now()
}

/// That nothing more is said or done can only be seen by giving it time: a few rounds of trying
/// again, each shorter than a second.
async fn some_retries() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_without_etcd_is_ready_says_so_once_and_goes_on() {
    let mut etcd = etcd().await;
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    etcd.members[0].stop().await.unwrap();
    let mut member = Member::new("web-1", &etcd.endpoints(), CONFIG).await.unwrap();
    let begun = Instant::now();
    member.start().await.unwrap();
    member.machine.notify.wait_for(|message| message.contains("READY=1"), SOON).await.unwrap();
    assert!(begun.elapsed() < ABOUT_A_SECOND);
    member.machine.update_engine.need_reboot().await.unwrap();
    let said = member.wait_log("cannot see whether this machine holds a slot").await.unwrap();
    assert!(said.contains(etcd.members[0].endpoint()) && said.contains("refused"), "{said}");
    member.wait_status("connection refused").await.unwrap();
    some_retries().await;
    assert_eq!(member.count_log("cannot see whether").unwrap(), 1);
    assert_eq!(member.count_log("WARN").unwrap(), 1);
    let returned = revive(&mut etcd).await;
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert!(returned.elapsed() < ABOUT_A_SECOND, "{:?}", returned.elapsed());
    member.come_back_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_daemon_outlasts_a_restart_of_etcd() {
    let mut etcd = etcd().await;
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    look.lock("db-1").await.unwrap();
    let mut member = Member::new("web-1", &etcd.endpoints(), CONFIG).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_queue(1).await.unwrap();
    member.wait_status("waiting for a slot in group default: 1 of 1 held by db-1").await.unwrap();
    etcd.members[0].stop().await.unwrap();
    member.wait_status("refused").await.unwrap();
    some_retries().await;
    assert!(member.count_log("WARN").unwrap() <= 3, "once a change, not per retry");
    let returned = revive(&mut etcd).await;
    member.wait_log("the store answers again; waiting for a slot").await.unwrap();
    assert!(returned.elapsed() < ABOUT_A_SECOND, "{:?}", returned.elapsed());
    assert_eq!(member.machine.logind.attempts(), 0);
    look.unlock("db-1").await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

/// A frozen server keeps its connections and says nothing. It may have committed what it does not
/// answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_daemon_outlasts_a_frozen_etcd() {
    let etcd = etcd().await;
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    look.lock("db-1").await.unwrap();
    let mut member = Member::new("web-1", &etcd.endpoints(), CONFIG).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_queue(1).await.unwrap();
    member.wait_status("1 of 1 held").await.unwrap();
    etcd.members[0].freeze().unwrap();
    member.wait_log("WARN").await.unwrap();
    etcd.members[0].thaw().unwrap();
    member.wait_log("answers again").await.unwrap();
    look.unlock("db-1").await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.reboots(), 1);
}

/// Leaving a queue takes as long as the store takes to answer, or not to: the daemon must outlast that.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_while_etcd_is_frozen_does_not_end_the_daemon() {
    let etcd = etcd().await;
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    look.lock("db-1").await.unwrap();
    let mut member = Member::new("web-1", &etcd.endpoints(), CONFIG).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_status("1 of 1 held").await.unwrap();
    etcd.members[0].freeze().unwrap();
    member.wait_log("WARN").await.unwrap();
    member.agent().unwrap().signal(Signal::HUP).unwrap();
    member.wait_log("configuration read again").await.unwrap();
    eventually("the next agent starts", SOON, async || {
        match member.count_log(" started ").unwrap() {
            2 => Ok(()),
            count => {
                Err(format!("{count} started, running: {}", member.agent().unwrap().is_running()))
            }
        }
    })
    .await
    .unwrap();
    etcd.members[0].thaw().unwrap();
    look.unlock("db-1").await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_frozen_while_a_slot_is_acquired_costs_nothing_but_time() {
    let etcd = etcd().await;
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    let mut revisions = look.record_revisions();
    let mut member = Member::new("web-1", &etcd.endpoints(), CONFIG).await.unwrap();
    member.start().await.unwrap();
    member.wait_status("no reboot is wanted").await.unwrap();
    etcd.members[0].freeze().unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_status("waiting for a slot: ").await.unwrap();
    some_retries().await;
    assert_eq!(member.machine.logind.attempts(), 0);
    etcd.members[0].thaw().unwrap();
    let returned = Instant::now();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert!(returned.elapsed() < ABOUT_A_SECOND, "{:?}", returned.elapsed());
    member.come_back_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(revisions.replay_all(1, &look).await.unwrap(), ["web-1"]);
}

/// With users logged in it holds for two seconds before it asks for the permit.
const WITH_USERS: &str =
    "[store]\ntimeout_secs = 2\n[agent]\npoll_secs = 20\nwarn_users_secs = 2\n";

#[derive(Clone, Copy)]
enum Fault {
    Stop,
    Freeze,
}

async fn away_while_holding(fault: Fault) {
    let mut etcd = etcd().await;
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    let mut revisions = look.record_revisions();
    let mut member = Member::new("web-1", &etcd.endpoints(), WITH_USERS).await.unwrap();
    member.machine.logind.add_session("ann", "").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_state("web-1", &HolderState::Draining).await.unwrap();
    match fault {
        Fault::Stop => etcd.members[0].kill().await.unwrap(),
        Fault::Freeze => etcd.members[0].freeze().unwrap(),
    }
    member.wait_log("cannot get the permit to reboot").await.unwrap();
    some_retries().await;
    assert_eq!(member.machine.logind.attempts(), 0, "nothing reboots without the permit");
    // What was refused may read otherwise than what was not answered: two changes at most.
    assert!(member.count_log("cannot get the permit").unwrap() <= 2);
    let returned = match fault {
        Fault::Stop => revive(&mut etcd).await,
        Fault::Freeze => {
            etcd.members[0].thaw().unwrap();
            Instant::now()
        }
    };
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    assert!(returned.elapsed() < ABOUT_A_SECOND, "{:?}", returned.elapsed());
    member.come_back_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(revisions.replay_all(1, &look).await.unwrap(), ["web-1"]);
    assert_eq!(member.machine.logind.reboots(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_a_holder_gets_no_permit_until_it_is_back() {
    away_while_holding(Fault::Stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_frozen_etcd_a_holder_gets_no_permit_until_it_thaws() {
    away_while_holding(Fault::Freeze).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_comes_back_before_etcd_frees_its_slot_as_soon_as_it_can() {
    let mut etcd = etcd().await;
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    let mut member = Member::new("web-1", &etcd.endpoints(), CONFIG).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    etcd.members[0].stop().await.unwrap();
    member.go_down_and_come_back().await.unwrap();
    member.wait_status("connection refused").await.unwrap();
    let returned = revive(&mut etcd).await;
    member.wait_log("slot given back").await.unwrap();
    assert!(returned.elapsed() < ABOUT_A_SECOND, "{:?}", returned.elapsed());
    look.wait_free().await.unwrap();
}

/// Loses the reply to the next request with `text` in it, while `meanwhile` makes the daemon send it.
async fn losing(proxy: &Proxy, text: &'static str, meanwhile: impl Future<Output = ()>) {
    let before = proxy.replies_lost();
    proxy.cut_after_request_with(text);
    meanwhile.await;
    eventually("the reply is lost", SOON, async || {
        if proxy.replies_lost() > before { Ok(()) } else { Err("it is not") }
    })
    .await
    .unwrap();
}

/// What was committed although the daemon never heard so: it finds its own work and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_at_acquisition_permit_and_release_change_nothing() {
    let etcd = etcd().await;
    let proxy = Proxy::start(etcd.members[0].port()).await.unwrap();
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    let mut revisions = look.record_revisions();
    let mut member = Member::new("web-1", &[proxy.endpoint()], CONFIG).await.unwrap();
    member.start().await.unwrap();
    member.wait_status("no reboot is wanted").await.unwrap();

    // Once from an empty queue.
    losing(&proxy, r#""state":"holding""#, async {
        member.machine.update_engine.need_reboot().await.unwrap();
        member.machine.logind.wait_reboot(SOON).await.unwrap();
    })
    .await;
    losing(&proxy, r#""max":1,"holders":[]}"#, async {
        member.go_down_and_come_back().await.unwrap();
        look.wait_free().await.unwrap();
    })
    .await;
    member.wait_status("no reboot is wanted").await.unwrap();

    // Once out of the queue.
    look.lock("db-1").await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_queue(1).await.unwrap();
    losing(&proxy, r#""state":"holding""#, async {
        look.unlock("db-1").await.unwrap();
        look.wait_state("web-1", &HolderState::Rebooting).await.unwrap();
    })
    .await;
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    member.come_back_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    // Until it has seen that nothing wants a reboot, it takes the next wish for the one that is fulfilled.
    member.wait_status("no reboot is wanted").await.unwrap();

    losing(&proxy, r#""state":"rebooting""#, async {
        member.machine.update_engine.need_reboot().await.unwrap();
        member.machine.logind.wait_reboot(SOON).await.unwrap();
    })
    .await;
    member.come_back_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    let order = revisions.replay_all(1, &look).await.unwrap();
    assert_eq!(order, ["web-1", "db-1", "web-1", "web-1"]);
    assert_eq!(member.machine.logind.reboots(), 3);
}
