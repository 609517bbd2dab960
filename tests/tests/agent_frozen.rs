//! A daemon is stopped in its tracks (SIGSTOP) while it waits, for longer than its place in the
//! queue lasts. The world goes on; when it wakes up, what it believed is not so any more.
//!
//! These wait for the end of a real lease, half a minute each, side by side with other tests.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use anyhow::ensure;
use rebootlock::id::Group;
use rebootlock::queue::Ticket;
use rebootlock::record::HolderState;
use rebootlock::store::Revision;
use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, system};
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::process::Signal;

/// What is not heard of is not found by a poll either.
const CONFIG: &str = "[agent]\npoll_secs = 600\n";

/// A place in the queue ends thirty seconds after its owner's last word; a busy etcd takes longer.
const LEASE_ENDS_WITHIN: Duration = Duration::from_secs(90);

/// One slot, held by db-1; web-1 waits for it before web-2.
struct Scene {
    look: Onlooker,
    first: Member,
    second: Member,
    _etcd: EtcdCluster,
}

impl Scene {
    async fn new() -> Self {
        let etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
        let look = Onlooker::new(&etcd.endpoints()).unwrap();
        look.lock("db-1").await.unwrap();
        let mut members = Vec::new();
        for (ahead, id) in ["web-1", "web-2"].into_iter().enumerate() {
            let mut member = Member::new(id, &etcd.endpoints(), CONFIG).await.unwrap();
            member.start().await.unwrap();
            member.machine.update_engine.need_reboot().await.unwrap();
            look.wait_queue(ahead + 1).await.unwrap();
            // Not only in the queue: it has its copy of everything and listens.
            member.wait_status("1 of 1 held by db-1").await.unwrap();
            members.push(member);
        }
        let [first, second] = <[Member; 2]>::try_from(members).unwrap();
        Self { look, first, second, _etcd: etcd }
    }

    async fn queue(&self) -> Vec<Ticket> {
        self.look.locks.status(&Group::default()).await.unwrap().queue
    }

    /// Waits until the store has taken the frozen one's place away.
    async fn first_is_out_of_the_queue(&self) {
        eventually("the place of web-1 ends", LEASE_ENDS_WITHIN, async || {
            let queue = self.queue().await;
            ensure!(queue.iter().all(|ticket| ticket.machine.as_str() != "web-1"), "{queue:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await
        .unwrap();
    }

    /// The second has the slot and may be down at any moment. The revision of its permit or later.
    async fn second_goes_down(&self) -> Revision {
        self.second.machine.logind.wait_reboot(SOON).await.unwrap();
        self.look.wait_state("web-2", &HolderState::Rebooting).await.unwrap();
        self.look.locks.status(&Group::default()).await.unwrap().revision
    }

    /// The first wakes up while the second holds: it stands in the queue anew, has asked for no
    /// reboot, and reboots when the second is back.
    async fn first_wakes_up_and_waits_its_turn(&mut self, held_at: Revision) {
        let before = self.look.semaphore_text().await.unwrap();
        self.first.agent().unwrap().signal(Signal::CONT).unwrap();
        // Once it is here again, it has acted on all that it believed.
        self.look.wait_queue(1).await.unwrap();
        let queue = self.queue().await;
        assert_eq!(queue[0].machine.as_str(), "web-1");
        assert!(queue[0].created > held_at, "{queue:?} is the old place, at {held_at}");
        let shown = self.look.record("web-2").await.unwrap().unwrap().hostname.unwrap();
        self.first.wait_status(&format!("1 of 1 held by {shown}")).await.unwrap();
        assert_eq!(self.first.machine.logind.attempts(), 0);
        assert_eq!(self.look.semaphore_text().await.unwrap(), before);
        assert_eq!(self.first.count_log("slot taken").unwrap(), 0);

        self.second.come_back_and_give_back().await.unwrap();
        self.first.reboot_and_give_back().await.unwrap();
        self.look.wait_free().await.unwrap();
        assert!(self.queue().await.is_empty());
        for member in [&self.first, &self.second] {
            assert_eq!(member.machine.logind.reboots(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_frozen_for_longer_than_its_lease_loses_its_turn_and_queues_again() {
    let mut scene = Scene::new().await;
    let mut revisions = scene.look.record_revisions();
    scene.first.agent().unwrap().signal(Signal::STOP).unwrap();
    scene.first_is_out_of_the_queue().await;
    assert_eq!(scene.queue().await.len(), 1);
    scene.look.unlock("db-1").await.unwrap();
    let held_at = scene.second_goes_down().await;
    scene.first_wakes_up_and_waits_its_turn(held_at).await;
    let order = revisions.replay_all(1, &scene.look).await.unwrap();
    assert_eq!(order, ["db-1", "web-2", "web-1"]);
}

/// The slot is freed for it while it cannot see that. What it hears first when it wakes up is that
/// the slot is free and that it is first in line.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_frozen_at_its_turn_does_not_take_the_slot_it_believes_free() {
    let mut scene = Scene::new().await;
    let mut revisions = scene.look.record_revisions();
    scene.first.agent().unwrap().signal(Signal::STOP).unwrap();
    scene.look.unlock("db-1").await.unwrap();
    // Its turn, and only its: who stands behind it respects its place.
    let status = scene.look.locks.status(&Group::default()).await.unwrap();
    assert!(status.holders.is_empty(), "{:?}", status.holders);
    assert_eq!(status.queue[0].machine.as_str(), "web-1");
    scene.first_is_out_of_the_queue().await;
    let held_at = scene.second_goes_down().await;
    scene.first_wakes_up_and_waits_its_turn(held_at).await;
    let order = revisions.replay_all(1, &scene.look).await.unwrap();
    assert_eq!(order, ["db-1", "web-2", "web-1"]);
}
