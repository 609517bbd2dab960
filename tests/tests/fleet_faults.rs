//! Fifty machines, each with an agent of its own, on a real etcd of three members that is mistreated
//! all the while: leaders killed, members frozen, the network cut around one member or between all,
//! history compacted, databases defragmented. The semaphore is written down from its first version,
//! and the limit is checked at every one.
//!
//! It takes half a minute, and three with the two minutes of faults of `make faults`, which sets
//! `REBOOTLOCK_FAULT_SECS`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rebootlock::id::Group;
use rebootlock::semaphore::Semaphore;
use rebootlock_tests::etcd::history::{History, Version};
use rebootlock_tests::etcd::{Cut, EtcdCluster, EtcdSetup, system};
use rebootlock_tests::fleet::{Member, Onlooker};
use tokio::time::{Instant, sleep};

const MACHINES: usize = 50;
const MAX: u32 = 3;

/// Longest time until a machine has had its turn, or is rid of its slot.
const TURN_WITHIN: Duration = Duration::from_secs(180);

/// How many kinds of faults there are, of which each comes at least once.
const KINDS: usize = 7;

/// How long a fault lasts: longer than an election, and than the agents' patience with a member.
const FAULT_LASTS: Duration = Duration::from_secs(3);

/// They reboot far more often than anybody's machines, and for the same reason each time.
const CONFIG: &str = "[agent]\npoll_secs = 5\n[reboot]\nverify_interval_secs = 1\n\
    max_attempts = 100\n[store]\ntimeout_secs = 3\n";

/// A machine that reboots again and again, as its agent orders it to.
async fn live(mut member: Member, stop: Arc<AtomicBool>, down: Arc<AtomicUsize>) -> usize {
    member.start().await.unwrap();
    for reboots in 1.. {
        member.machine.update_engine.need_reboot().await.unwrap();
        member.machine.logind.wait_reboot(TURN_WITHIN).await.unwrap();
        let others = down.fetch_add(1, Ordering::SeqCst);
        assert!(others < MAX as usize, "{} are down at once", others + 1);
        member.kill().await.unwrap();
        member.machine.new_boot().await.unwrap();
        down.fetch_sub(1, Ordering::SeqCst);
        member.start().await.unwrap();
        let agent = member.agent().unwrap();
        agent.wait_line("slot given back", TURN_WITHIN).await.unwrap();
        if stop.load(Ordering::SeqCst) {
            return reboots;
        }
    }
    unreachable!("they are counted for longer than anybody waits")
}

/// One fault after the other, each mended before the next.
async fn mistreat(cluster: &mut EtcdCluster, time: Duration) -> usize {
    let end = Instant::now() + time;
    let mut faults = 0;
    while Instant::now() < end || faults < KINDS {
        let leader = cluster.leader().await.unwrap();
        let follower = (leader + 1) % cluster.members.len();
        match faults % KINDS {
            0 => {
                cluster.members[leader].kill().await.unwrap();
                sleep(FAULT_LASTS).await;
                cluster.members[leader].spawn().unwrap();
            }
            1 => {
                cluster.compact().await.unwrap();
                cluster.etcdctl(&["defrag"]).await.unwrap();
            }
            // The old leader goes on being asked, and knows nothing of the new one.
            2 => {
                cluster.cut_off(leader, Cut::FromPeers).await.unwrap();
                sleep(FAULT_LASTS).await;
                assert_ne!(cluster.leader().await.unwrap(), leader, "it was not cut off");
                cluster.mend_network();
            }
            3 => {
                cluster.members[leader].freeze().unwrap();
                sleep(FAULT_LASTS).await;
                cluster.members[leader].thaw().unwrap();
            }
            4 => {
                cluster.cut_off(follower, Cut::FromAll).await.unwrap();
                sleep(FAULT_LASTS).await;
                cluster.mend_network();
            }
            5 => {
                cluster.members[follower].freeze().unwrap();
                sleep(FAULT_LASTS).await;
                cluster.members[follower].thaw().unwrap();
            }
            _ => {
                cluster.cut_all_apart();
                sleep(FAULT_LASTS).await;
                cluster.mend_network();
            }
        }
        cluster.wait_ready().await.unwrap();
        faults += 1;
    }
    faults
}

/// Checks every version, and returns the most who held a slot at once and how often one was taken.
fn replay(history: &[Version]) -> (usize, usize) {
    let (mut before, mut most, mut taken) = (Semaphore::default(), 0, 0);
    for version in history {
        let now = Semaphore::from_json(&version.value).unwrap();
        let at = version.revision;
        assert!(now.available() >= 0, "at revision {at} slots are held by {:?}", now.holders());
        most = most.max(now.holders().len());
        taken += now.holders().iter().filter(|machine| !before.holds(machine)).count();
        before = now;
    }
    (most, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_at_every_revision_however_the_cluster_is_mistreated() {
    let seconds = std::env::var("REBOOTLOCK_FAULT_SECS").ok().and_then(|text| text.parse().ok());
    let setup = EtcdSetup::new(&system().unwrap()).members(3).behind_proxies();
    let mut cluster = setup.start().await.unwrap();
    let look = Onlooker::new(&cluster.endpoints()).unwrap();
    let locks = &look.locks;
    let history = History::record(&cluster, locks.keys().semaphore(&Group::default()).as_str());
    locks.set_max(&Group::default(), MAX).await.unwrap();

    let (stop, down) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let endpoints = cluster.endpoints_of_clients();
    let ids: Vec<_> = (0..MACHINES).map(|n| format!("m{n:02}")).collect();
    let members = join_all(ids.iter().map(|id| Member::new(id, &endpoints, CONFIG))).await;
    let machines = members
        .into_iter()
        .map(|member| tokio::spawn(live(member.unwrap(), stop.clone(), down.clone())));
    let machines: Vec<_> = machines.collect();

    let faults = mistreat(&mut cluster, Duration::from_secs(seconds.unwrap_or(20))).await;
    stop.store(true, Ordering::SeqCst);
    let lives = join_all(machines).await;
    let reboots: usize = lives.into_iter().map(Result::unwrap).sum();
    look.wait_free().await.unwrap();
    look.wait_queue(0).await.unwrap();

    let history = history.whole().await.unwrap();
    let (most, taken) = replay(&history);
    println!(
        "{reboots} reboots through {faults} faults, {} versions of the semaphore",
        history.len()
    );
    assert_eq!(most, MAX as usize);
    assert!(taken >= reboots, "{reboots} reboots with {taken} slots");
}
