//! What other hands do to the documents in the store: damage, an operator's decisions, other
//! programs' slots. Nothing is overwritten, nothing reboots on a slot that is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use rebootlock::id::{BootId, Group, MachineId};
use rebootlock::lock::Acquired;
use rebootlock::record::{Claim, HolderState, Via};
use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, system};
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON, ctl};

const CONFIG: &str = "[agent]\npoll_secs = 1\n";

/// Users who stay: the slot is held until something else happens.
const WITH_USERS: &str = "[agent]\npoll_secs = 1\nwarn_users_secs = 300\n";

async fn set_up(config: &str) -> (EtcdCluster, Onlooker, Member) {
    let etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    let member = Member::new("web-1", &etcd.endpoints(), config).await.unwrap();
    (etcd, look, member)
}

/// A semaphore that is none: the daemon waits, says what is wrong and where, and goes on after the
/// repair.
async fn waits_for_repair(damaged: &str, said: &str) {
    let (_etcd, look, mut member) = set_up(CONFIG).await;
    look.put_semaphore(damaged).await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    let line = member.wait_log("coreos.com/updateengine/rebootlock/semaphore").await.unwrap();
    assert!(line.contains(said) && line.contains("rebootlockctl repair"), "{line}");
    let status = member.wait_status("rebootlock/semaphore is").await.unwrap();
    assert!(status.contains(said), "{status}");
    assert_eq!(look.semaphore_text().await.unwrap(), damaged);
    assert_eq!(member.machine.logind.attempts(), 0);
    look.put_semaphore(r#"{"semaphore":1,"max":1,"holders":[]}"#).await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.reboots(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_semaphore_is_waited_out() {
    waits_for_repair("no semaphore at all", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_semaphore_is_waited_out() {
    waits_for_repair(r#"{"semaphore":1,"max":1,"hol"#, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inconsistent_semaphore_is_waited_out() {
    waits_for_repair(r#"{"semaphore":1,"max":1,"holders":["db-1"]}"#, "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_semaphore_is_waited_out() {
    waits_for_repair(r#"{"semaphore":4,"max":"4","holders":[]}"#, "invalid type: string").await;
}

/// Damage that comes while the daemon waits in the queue or holds a slot.
#[tokio::test(flavor = "multi_thread")]
async fn damage_done_while_holding_stops_the_permit_until_it_is_repaired() {
    let (_etcd, look, mut member) = set_up("[agent]\npoll_secs = 1\nwarn_users_secs = 60\n").await;
    let ann = member.machine.logind.add_session("ann", "").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_state("web-1", &HolderState::Draining).await.unwrap();
    let good = look.semaphore_text().await.unwrap();
    look.put_semaphore("{").await.unwrap();
    member.machine.logind.remove_session(&ann).await.unwrap();
    let line = member.wait_log("cannot get the permit to reboot").await.unwrap();
    assert!(line.contains("rebootlock/semaphore"), "{line}");
    assert_eq!(look.semaphore_text().await.unwrap(), "{");
    assert_eq!(member.machine.logind.attempts(), 0);
    look.put_semaphore(&good).await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_unlocked_while_it_warns_users_does_not_reboot_on_the_lost_slot() {
    let (_etcd, look, mut member) = set_up(WITH_USERS).await;
    let ann = member.machine.logind.add_session("ann", "").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_state("web-1", &HolderState::Draining).await.unwrap();
    look.unlock("web-1").await.unwrap();
    // Another machine has it now.
    look.lock("db-1").await.unwrap();
    member.machine.logind.remove_session(&ann).await.unwrap();
    member.wait_log("the slot is not ours any more").await.unwrap();
    member.wait_status("waiting for a slot in group default: 1 of 1 held by db-1").await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
    look.unlock("db-1").await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_unlocked_while_it_reboots_comes_back_clean() {
    let (_etcd, look, mut member) = set_up(CONFIG).await;
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    look.unlock("web-1").await.unwrap();
    look.lock("db-1").await.unwrap();
    member.go_down_and_come_back().await.unwrap();
    member.wait_log("HoldsNothing").await.unwrap();
    assert_eq!(
        look.semaphore_text().await.unwrap(),
        r#"{"semaphore":0,"max":1,"holders":["db-1"]}"#
    );
    assert_eq!(member.machine.logind.reboots(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_below_the_holders_throws_nobody_out_and_lets_nobody_in() {
    let (etcd, look, mut member) = set_up(WITH_USERS).await;
    look.locks.set_max(&Group::default(), 2).await.unwrap();
    let ann = member.machine.logind.add_session("ann", "").await.unwrap();
    look.lock("db-1").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    look.wait_state("web-1", &HolderState::Draining).await.unwrap();
    look.locks.set_max(&Group::default(), 1).await.unwrap();
    assert_eq!(
        look.semaphore_text().await.unwrap(),
        r#"{"semaphore":-1,"max":1,"holders":["db-1","web-1"]}"#
    );
    let mut other = Member::new("web-2", &etcd.endpoints(), CONFIG).await.unwrap();
    other.start().await.unwrap();
    other.machine.update_engine.need_reboot().await.unwrap();
    other.wait_status("waiting for a slot in group default: 2 of 1 held").await.unwrap();
    member.machine.logind.remove_session(&ann).await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    other.wait_status("1 of 1 held by db-1").await.unwrap();
    assert_eq!(other.machine.logind.attempts(), 0);
    look.unlock("db-1").await.unwrap();
    other.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_who_waits_and_who_holds_until_it_is_over() {
    let (_etcd, look, mut member) = set_up(WITH_USERS).await;
    look.pause("ann", "audit").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_status("the fleet is paused by ann: audit").await.unwrap();
    assert!(look.record("web-1").await.unwrap().is_none());
    let session = member.machine.logind.add_session("ann", "").await.unwrap();
    look.resume().await.unwrap();

    // Now while holding: the permit is refused, and the slot goes back.
    look.wait_state("web-1", &HolderState::Draining).await.unwrap();
    look.pause("bob", "incident").await.unwrap();
    member.machine.logind.remove_session(&session).await.unwrap();
    member.wait_log("no permit").await.unwrap();
    look.wait_free().await.unwrap();
    member.wait_status("the fleet is paused by bob: incident").await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
    look.resume().await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_lock_of_this_machine_is_left_alone() {
    let (etcd, look, mut member) = set_up(CONFIG).await;
    let locked = ctl(&etcd.endpoints(), &["lock", "web-1"]).await.unwrap();
    assert!(locked.status.success(), "{}", String::from_utf8_lossy(&locked.stderr));
    let before = look.record("web-1").await.unwrap().unwrap();
    assert_eq!(before.via, Some(Via::Ctl));
    member.start().await.unwrap();
    member.wait_log("was taken by somebody else and is left alone").await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.wait_log("held by somebody else").await.unwrap();
    assert_eq!(look.record("web-1").await.unwrap().unwrap(), before);
    assert_eq!(member.machine.logind.attempts(), 0);
    let unlocked = ctl(&etcd.endpoints(), &["unlock", "web-1"]).await.unwrap();
    assert!(unlocked.status.success(), "{}", String::from_utf8_lossy(&unlocked.stderr));
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn locksmiths_slot_is_freed_after_the_boot() {
    let (_etcd, look, mut member) = set_up(CONFIG).await;
    look.put_semaphore(r#"{"semaphore":0,"max":1,"holders":["web-1"]}"#).await.unwrap();
    member.start().await.unwrap();
    member.wait_log("slot given back").await.unwrap();
    assert_eq!(look.semaphore_text().await.unwrap(), r#"{"semaphore":1,"max":1,"holders":[]}"#);
}

/// A disk image with its machine-id in it was copied: the slot is another computer's.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_computer_with_the_same_id_is_not_freed() {
    let (_etcd, look, mut member) = set_up(CONFIG).await;
    let mut claim = Claim::new(MachineId::new("web-1").unwrap(), [Group::default()], Via::Agent);
    claim.hostname = Some("another-computer".into());
    claim.boot_id = Some(BootId::new("11111111-2222-4333-8444-555555555555").unwrap());
    assert_eq!(look.locks.acquire(&claim).await.unwrap(), Acquired::Granted);
    let before = look.record("web-1").await.unwrap().unwrap();
    member.start().await.unwrap();
    let line = member.wait_log("was taken by somebody else and is left alone").await.unwrap();
    assert!(line.contains("another-computer"), "{line}");
    member.wait_status("no reboot is wanted").await.unwrap();
    assert_eq!(look.record("web-1").await.unwrap().unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_makes_the_machine_reboot_once_and_is_gone_afterwards() {
    let (_etcd, look, mut member) = set_up(CONFIG).await;
    let request = look.locks.keys().request(&MachineId::new("web-1").unwrap());
    member.start().await.unwrap();
    member.wait_status("no reboot is wanted").await.unwrap();
    // What cannot be read is not a wish.
    look.put(request.clone(), "reboot, please").await.unwrap();
    member.wait_log("the request for this machine cannot be read").await.unwrap();
    look.put(request.clone(), r#"{"by":"ann","reason":"new kernel","since":1397496396}"#)
        .await
        .unwrap();
    let call = member.machine.logind.wait_reboot(SOON).await.unwrap();
    let wall = call.wall_message.unwrap();
    assert!(wall.contains("requested by ann: new kernel"), "{wall}");
    member.come_back_and_give_back().await.unwrap();
    eventually("the request is gone", SOON, async || match look.get(&request).await.unwrap() {
        None => Ok(()),
        Some(text) => Err(text),
    })
    .await
    .unwrap();
    look.wait_free().await.unwrap();
    member.wait_status("no reboot is wanted").await.unwrap();
    assert_eq!(member.machine.logind.reboots(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_withdrawn_ends_the_wait() {
    let (_etcd, look, mut member) = set_up(CONFIG).await;
    look.lock("db-1").await.unwrap();
    let request = look.locks.keys().request(&MachineId::new("web-1").unwrap());
    member.start().await.unwrap();
    look.put(request.clone(), r#"{"by":"ann","since":1397496396}"#).await.unwrap();
    look.wait_queue(1).await.unwrap();
    look.remove(&request).await.unwrap();
    look.wait_queue(0).await.unwrap();
    member.wait_status("no reboot is wanted").await.unwrap();
    look.unlock("db-1").await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.attempts(), 0);
}
