//! Fifty machines on a real etcd of three members that is mistreated all the while: leaders killed,
//! members frozen, history compacted, databases defragmented. The semaphore is watched from its
//! first revision, and the limit is checked at every one.
//!
//! It takes some twenty seconds; `REBOOTLOCK_FAULT_SECS=120` makes it two minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rebootlock::id::{Group, MachineId};
use rebootlock::keys::Keyspace;
use rebootlock::lock::{Acquired, Advance, Ended, LockError, LockManager, Release, Released};
use rebootlock::record::{Claim, HolderState, UnixTime, Via};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{EtcdOptions, EtcdStore, Event, Revision, SharedStore};
use rebootlock::wait::{WaitOptions, Waiting};
use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, system};
use tokio::time::{Instant, sleep, timeout};

const MACHINES: usize = 50;
const MAX: u32 = 3;

/// Longest time until all is quiet after the last fault.
const QUIET_WITHIN: Duration = Duration::from_secs(90);

fn open(cluster: &EtcdCluster) -> LockManager {
    let options = EtcdOptions {
        endpoints: cluster.endpoints(),
        ca_file: None,
        cert_file: None,
        key_file: None,
        username: None,
        password: None,
        timeout: Duration::from_secs(3),
    };
    let store: SharedStore = Arc::new(EtcdStore::new(options).unwrap());
    LockManager::new(store, Keyspace::default())
}

/// What the replay has seen.
#[derive(Debug, Default)]
struct Seen {
    revisions: usize,
    most: usize,
    gaps: usize,
}

/// Something of a fault that time cures; anything else is a defect.
fn passing(error: &LockError) {
    assert!(error.is_transient(), "{error}");
}

/// A machine that reboots again and again: slot, permit, down, back, release.
async fn live(
    locks: LockManager,
    name: String,
    stop: Arc<AtomicBool>,
    down: Arc<AtomicUsize>,
) -> usize {
    let machine = MachineId::new(name).unwrap();
    let mut reboots = 0;
    while !stop.load(Ordering::SeqCst) {
        let claim = Claim::new(machine.clone(), [], Via::Agent);
        let options = WaitOptions { lease: Duration::from_secs(10), poll: Duration::from_secs(5) };
        let mut waiting = Waiting::start(locks.clone(), claim.clone(), options);
        assert_eq!(waiting.granted().await, Acquired::Granted);
        let permit = Advance::permit(UnixTime::now().plus_seconds(60));
        while let Err(error) = locks.advance(claim.groups(), &machine, claim.token, &permit).await {
            passing(&error);
        }
        let others = down.fetch_add(1, Ordering::SeqCst);
        assert!(others < MAX as usize, "{} are down at once", others + 1);
        sleep(Duration::from_millis(20)).await;
        down.fetch_sub(1, Ordering::SeqCst);
        let back = Advance::to(HolderState::Verifying);
        while let Err(error) = locks.advance(claim.groups(), &machine, claim.token, &back).await {
            passing(&error);
        }
        loop {
            match locks
                .release(claim.groups(), &machine, &Release::of(claim.token, Ended::GivenBack))
                .await
            {
                Ok(Released::Freed(_) | Released::NotHeld) => break,
                Err(error) => passing(&error),
            }
        }
        reboots += 1;
    }
    reboots
}

/// One fault after the other, each mended before the next.
async fn mistreat(cluster: &mut EtcdCluster, time: Duration) -> usize {
    let end = Instant::now() + time;
    let mut faults = 0;
    while Instant::now() < end {
        match faults % 4 {
            0 => {
                let leader = cluster.leader().await.unwrap();
                cluster.members[leader].kill().await.unwrap();
                sleep(Duration::from_secs(2)).await;
                cluster.members[leader].spawn().unwrap();
                cluster.wait_ready().await.unwrap();
            }
            1 => {
                cluster.compact().await.unwrap();
                cluster.etcdctl(&["defrag"]).await.unwrap();
            }
            2 => {
                let follower = (cluster.leader().await.unwrap() + 1) % cluster.members.len();
                cluster.members[follower].freeze().unwrap();
                sleep(Duration::from_secs(3)).await;
                cluster.members[follower].thaw().unwrap();
                cluster.wait_ready().await.unwrap();
            }
            _ => {
                let leader = cluster.leader().await.unwrap();
                cluster.members[leader].freeze().unwrap();
                sleep(Duration::from_secs(3)).await;
                cluster.members[leader].thaw().unwrap();
                cluster.wait_ready().await.unwrap();
            }
        }
        faults += 1;
        sleep(Duration::from_secs(1)).await;
    }
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_at_every_revision_however_the_cluster_is_mistreated() {
    let seconds = std::env::var("REBOOTLOCK_FAULT_SECS").ok().and_then(|text| text.parse().ok());
    let setup = EtcdSetup::new(&system().unwrap()).members(3);
    let mut cluster = setup.start().await.unwrap();
    let locks = open(&cluster);
    locks.set_max(&Group::default(), MAX).await.unwrap();

    let semaphore = locks.keys().semaphore(&Group::default());
    let mut changes = locks.store().watch(&semaphore, Revision(0));
    let (stop, down) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let machines: Vec<_> = (0..MACHINES)
        .map(|n| {
            let locks = open(&cluster);
            tokio::spawn(live(locks, format!("m{n:02}"), stop.clone(), down.clone()))
        })
        .collect();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let replay = tokio::spawn({
        let seen = seen.clone();
        async move {
            while let Some(event) = changes.next().await {
                let mut seen = seen.lock().unwrap();
                match event {
                    Event::Changed { entry: Some(entry), revision, .. } => {
                        let now = Semaphore::from_json(&entry.value).unwrap();
                        assert!(now.available() >= 0, "{:?} hold at {revision}", now.holders());
                        seen.most = seen.most.max(now.holders().len());
                        seen.revisions += 1;
                    }
                    // Compacted while the watch was away: nobody can see these any more.
                    Event::Lost { .. } => seen.gaps += 1,
                    _ => {}
                }
            }
        }
    });

    let faults = mistreat(&mut cluster, Duration::from_secs(seconds.unwrap_or(20))).await;
    stop.store(true, Ordering::SeqCst);
    let mut reboots = 0;
    for machine in machines {
        reboots +=
            timeout(QUIET_WITHIN, machine).await.expect("all machines come through").unwrap();
    }
    let status = locks.status(&Group::default()).await.unwrap();
    assert!(status.holders.is_empty() && status.queue.is_empty(), "{status:?}");
    assert!(locks.repairs(&Group::default()).await.unwrap().is_empty());
    assert!(!replay.is_finished(), "the replay found too many holders");
    let seen = seen.lock().unwrap();
    println!("{reboots} reboots through {faults} faults; {seen:?}");
    assert!(reboots >= MACHINES, "every machine reboots at least once: {reboots}");
    assert_eq!(seen.most, MAX as usize);
    assert!(seen.revisions >= 2 * reboots || seen.gaps > 0, "{seen:?}");
}
