//! The daemon dies at every step, as in a power cut, and comes back in the same boot or in a new
//! one. Never two holders, never a stuck slot, exactly one reboot per need.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use rebootlock::id::Group;
use rebootlock_tests::etcd::{EtcdSetup, system};
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::process::Process;

/// Users, so that "draining" is a step, and next to no time for them.
const CONFIG: &str = "[agent]\npoll_secs = 5\nwarn_users_secs = 1\n";

/// How the machine is after the death of its daemon.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    SameBoot,
    NewBoot,
}

use Then::{NewBoot, SameBoot};

/// Starts the agent so that it dies at `point`.
async fn start_to_die(member: &Member, point: &str) -> Process {
    let mut command = member.command().unwrap();
    command.env("REBOOTLOCK_FAILPOINT", point);
    Process::spawn(member.machine.id(), command).unwrap()
}

async fn dies(mut doomed: Process, point: &str) {
    use std::os::unix::process::ExitStatusExt as _;
    let status = doomed.wait_exit(SOON).await.unwrap();
    assert_eq!(status.signal(), Some(9), "at {point}");
    assert!(doomed.stderr().lines().iter().any(|line| line.contains("dying at a failpoint")));
}

/// `web-1` dies at `point`, `web-2` wants the same slot; both get through in the end. So many
/// acquisitions and ordered reboots of `web-1` it takes.
async fn crash(point: &str, then: Then, acquisitions: usize, reboots: usize) {
    let etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
    let endpoints = etcd.endpoints();
    let look = Onlooker::new(&endpoints).unwrap();
    let mut revisions = look.record_revisions();
    let mut first = Member::new("web-1", &endpoints, CONFIG).await.unwrap();
    let mut second = Member::new("web-2", &endpoints, CONFIG).await.unwrap();
    first.machine.logind.add_session("ann", "").await.unwrap();
    let returning = matches!(point, "before-release" | "released");
    if returning {
        first.start().await.unwrap();
        first.machine.update_engine.need_reboot().await.unwrap();
        first.machine.logind.wait_reboot(SOON).await.unwrap();
        first.kill().await.unwrap();
        first.machine.new_boot().await.unwrap();
        dies(start_to_die(&first, point).await, point).await;
    } else {
        let doomed = start_to_die(&first, point).await;
        first.machine.update_engine.need_reboot().await.unwrap();
        dies(doomed, point).await;
    }

    second.start().await.unwrap();
    second.machine.update_engine.need_reboot().await.unwrap();
    if then == NewBoot {
        first.machine.new_boot().await.unwrap();
    }
    first.start().await.unwrap();
    if point == "ordered" && then == SameBoot {
        first.wait_log("GoingDown").await.unwrap();
    }
    let wanted = !returning && then == SameBoot;
    let first_gets_through = async {
        if wanted {
            first.reboot_and_give_back().await.unwrap();
        }
    };
    futures::future::join(first_gets_through, async {
        second.reboot_and_give_back().await.unwrap()
    })
    .await;
    look.wait_free().await.unwrap();

    let order = revisions.replay_all(1, &look).await.unwrap();
    assert_eq!(order.iter().filter(|id| *id == "web-1").count(), acquisitions, "{order:?}");
    assert_eq!(order.iter().filter(|id| *id == "web-2").count(), 1, "{order:?}");
    assert_eq!(first.machine.logind.reboots(), reboots);
    assert_eq!(second.machine.logind.reboots(), 1);
    assert!(look.locks.status(&Group::default()).await.unwrap().queue.is_empty());
}

macro_rules! crashes {
    ($($name:ident: $point:literal, $then:ident, $acquisitions:literal, $reboots:literal;)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            crash($point, $then, $acquisitions, $reboots).await;
        }
    )+};
}

// A boot that nobody ordered fulfils the need too: update-engine has nothing to say after it.
crashes! {
    queued_then_restarted: "queued", SameBoot, 1, 1;
    queued_then_booted: "queued", NewBoot, 0, 0;
    slot_granted_then_restarted: "slot-granted", SameBoot, 1, 1;
    slot_granted_then_booted: "slot-granted", NewBoot, 1, 0;
    draining_then_restarted: "draining", SameBoot, 1, 1;
    draining_then_booted: "draining", NewBoot, 1, 0;
    before_permit_then_restarted: "before-permit", SameBoot, 1, 1;
    before_permit_then_booted: "before-permit", NewBoot, 1, 0;
    permitted_then_restarted: "permitted", SameBoot, 1, 1;
    permitted_then_booted: "permitted", NewBoot, 1, 0;
    ordered_then_restarted_while_going_down: "ordered", SameBoot, 1, 1;
    ordered_then_booted: "ordered", NewBoot, 1, 1;
    before_release_then_restarted: "before-release", SameBoot, 1, 1;
    before_release_then_booted: "before-release", NewBoot, 1, 1;
    released_then_restarted: "released", SameBoot, 1, 1;
    released_then_booted: "released", NewBoot, 1, 1;
}

/// Its place hangs on a lease of 30 s, which nobody has to sit out: the next life takes it over.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_was_killed_gets_its_place_back() {
    let etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    look.lock("db-1").await.unwrap();
    let mut first = Member::new("web-1", &etcd.endpoints(), CONFIG).await.unwrap();
    let mut second = Member::new("web-2", &etcd.endpoints(), CONFIG).await.unwrap();
    first.start().await.unwrap();
    first.machine.update_engine.need_reboot().await.unwrap();
    look.wait_queue(1).await.unwrap();
    second.start().await.unwrap();
    second.machine.update_engine.need_reboot().await.unwrap();
    look.wait_queue(2).await.unwrap();
    first.restart().await.unwrap();
    first.wait_log("waiting for a slot in group").await.unwrap();
    let begun = std::time::Instant::now();
    look.unlock("db-1").await.unwrap();
    first.machine.logind.wait_reboot(SOON).await.unwrap();
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    assert_eq!(second.machine.logind.reboots(), 0);
    assert_eq!(look.record("web-1").await.unwrap().unwrap().machine_id, "web-1");
}

/// The order was given and nothing came of it: the machine is still up, and says so by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_that_did_not_come_is_ordered_again_by_the_next_life() {
    let etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    let mut member = Member::new("web-1", &etcd.endpoints(), CONFIG).await.unwrap();
    let doomed = start_to_die(&member, "ordered").await;
    member.machine.update_engine.need_reboot().await.unwrap();
    dies(doomed, "ordered").await;
    member.machine.logind.wait_reboot(SOON).await.unwrap();
    member.machine.logind.give_up_shutdown().await.unwrap();
    member.start().await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.machine.logind.reboots(), 2);
}
