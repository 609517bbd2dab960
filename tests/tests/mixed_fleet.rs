//! One slot, and machines that come for it through every door at once: agents, FleetLock, goahead and
//! disruption-manager clients, and an operator. What the store's history tells has the last word.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "mixed_fleet/clients.rs"]
mod clients;
#[path = "mixed_fleet/story.rs"]
mod story;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clients::{Client, Disruption, FleetLock, Goahead, meddles, operates};
use rebootlock::record::Via;
use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, system};
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::gateway::Gateway;
use serde_json::json;
use story::Story;

/// Only an agent that hears of its turn gets the slot within a test.
const PATIENT: &str = "[agent]\npoll_secs = 600\n";

/// A goahead cluster without a group of its own; nobody is held for long; and the clients have no
/// credentials, as stock clients of goahead and disruption-manager never do. People have.
const GATEWAY: &str = "max_wait_secs = 1\nanonymous_machines = true\n[[gateway.goahead.cluster]]\nname = \"web\"\n\
                       pattern = \"[.]example$\"\ngroup = \"default\"\n";

const NOBODY: &str = r#"{"semaphore":1,"max":1,"holders":[]}"#;

/// How long a machine is down.
const DOWN: Duration = Duration::from_millis(200);

/// One slot, with everybody who serves it. An operator holds it, so that all others have to wait.
struct Fleet {
    etcd: EtcdCluster,
    gateway: Gateway,
    look: Onlooker,
    somebody_is_down: AtomicBool,
}

impl Fleet {
    async fn start() -> Self {
        let etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
        let gateway = Gateway::start(&etcd.endpoints()[0], GATEWAY, &[]).await.unwrap();
        let look = Onlooker::new(&etcd.endpoints()).unwrap();
        look.lock("db-1").await.unwrap();
        Self { etcd, gateway, look, somebody_is_down: AtomicBool::new(false) }
    }

    /// An agent that has its slots from there, and waits for one.
    async fn agent(&self, id: &str, endpoints: &[String], config: &str) -> Member {
        let waiting = self.look.locks.status(&Default::default()).await.unwrap().queue.len();
        let mut member = Member::new(id, endpoints, config).await.unwrap();
        member.start().await.unwrap();
        member.machine.update_engine.need_reboot().await.unwrap();
        self.look.wait_queue(waiting + 1).await.unwrap();
        member
    }

    /// A client of the gateway asks and is refused, which puts it into the queue.
    async fn refused(&self, client: &impl Client) -> String {
        client.ask(&self.gateway).await.unwrap().expect_err("the slot is not free")
    }

    /// `machine` is down, and nobody else is.
    async fn down(&self, machine: &str, via: Via) {
        assert!(!self.somebody_is_down.swap(true, Ordering::SeqCst), "{machine} and another");
        assert_eq!(self.look.record(machine).await.unwrap().unwrap().via, Some(via));
        tokio::time::sleep(DOWN).await;
        assert!(self.somebody_is_down.swap(false, Ordering::SeqCst));
    }

    /// The machine of an agent goes down when it is told to, and gives its slot back after.
    async fn reboots(&self, member: &mut Member, id: &str, via: Via) {
        member.machine.logind.wait_reboot(SOON).await.unwrap();
        member.kill().await.unwrap();
        self.down(id, via).await;
        member.machine.new_boot().await.unwrap();
        member.start().await.unwrap();
        member.wait_log("slot given back").await.unwrap();
        assert_eq!(member.machine.logind.reboots(), 1);
    }

    /// A client of the gateway asks until it may go down, and says when it is back.
    async fn gets_through(&self, client: &impl Client, via: Via) {
        eventually(&format!("{} may go down", client.id()), SOON, async || {
            client.ask(&self.gateway).await?.map_err(anyhow::Error::msg)
        })
        .await
        .unwrap();
        self.down(client.id(), via).await;
        client.is_back(&self.gateway).await.unwrap();
        eventually(&format!("{} has given its slot back", client.id()), SOON, async || {
            let record = self.look.record(client.id()).await?;
            anyhow::ensure!(record.is_none(), "{record:?}");
            anyhow::Ok(())
        })
        .await
        .unwrap();
    }

    /// The operator signs in, stops the fleet and gives the slot back, which is then nobody's. Nobody
    /// else can, though the clients beside need not say who they are.
    async fn pause(&self) {
        for (path, body) in [
            ("/fleet/pause", json!({"reason": "sales week"})),
            ("/machines/db-1/unlock", json!({"reason": "done"})),
        ] {
            assert_eq!(meddles(&self.gateway, path, body.clone()).await.unwrap(), 401, "{path}");
            assert_eq!(operates(&self.gateway, "viewer", path, body.clone()).await.unwrap(), 403);
            assert_eq!(operates(&self.gateway, "wrong", path, body.clone()).await.unwrap(), 401);
            assert_eq!(operates(&self.gateway, "operator", path, body).await.unwrap(), 200);
        }
        self.nobody_holds().await;
    }

    async fn nobody_holds(&self) {
        assert_eq!(self.look.semaphore_text().await.unwrap(), NOBODY);
    }

    /// Each of these had the slot exactly once, each through its own door, one at a time, and none
    /// during the pause. In which order they come after it is theirs: an agent that is stopped by a
    /// pause leaves the queue until that is over.
    async fn tells(&self, expected: &[(&str, Via)]) {
        self.look.wait_free().await.unwrap();
        self.look.wait_queue(0).await.unwrap();
        let story = Story::read(&self.look).await.unwrap();
        assert_eq!(story.order.len(), expected.len(), "{:?}", story.order);
        let doors: BTreeMap<_, _> =
            expected.iter().map(|(id, via)| ((*id).to_owned(), vec![via.clone()])).collect();
        assert_eq!(story.doors, doors, "{:?}", story.order);
        assert!(doors.keys().all(|id| story.order.contains(id)), "{:?}", story.order);
        assert_eq!(story.pauses, 1);
        self.nobody_holds().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_protocols_machine_gets_through_one_at_a_time() {
    let fleet = Fleet::start().await;
    let mut agent = fleet.agent("web-1", &fleet.etcd.endpoints(), PATIENT).await;
    let fleetlock = FleetLock("35ba2101ae3f4d45b96e9c51f461bbff");
    let said = fleet.refused(&fleetlock).await;
    assert!(said.contains("failed_lock_semaphore_full"), "{said}");
    let goahead = Goahead::announced(&fleet.gateway, "web-3.example").await.unwrap();
    let said = fleet.refused(&goahead).await;
    assert!(said.contains("Currently restarting hosts: db-1"), "{said}");
    assert_eq!(fleet.refused(&Disruption).await, "requested");
    fleet.look.wait_queue(4).await.unwrap();

    // There is a free slot now; the agent sees it, clients are told why they may not have it.
    fleet.pause().await;
    agent.wait_status("the fleet is paused by olga: sales week").await.unwrap();
    let said = fleet.refused(&fleetlock).await;
    assert!(said.contains("failed_lock_paused"), "{said}");
    let said = fleet.refused(&goahead).await;
    assert!(said.contains("the fleet is paused by olga: sales week"), "{said}");
    assert_eq!(fleet.refused(&Disruption).await, "requested");
    fleet.nobody_holds().await;
    assert_eq!(agent.machine.logind.reboots(), 0);

    fleet.look.resume().await.unwrap();
    tokio::join!(
        fleet.reboots(&mut agent, "web-1", Via::Agent),
        fleet.gets_through(&fleetlock, Via::Fleetlock),
        fleet.gets_through(&goahead, Via::Goahead),
        fleet.gets_through(&Disruption, Via::DisruptionManager),
    );
    fleet
        .tells(&[
            ("db-1", Via::Ctl),
            ("web-1", Via::Agent),
            (fleetlock.id(), Via::Fleetlock),
            (goahead.id(), Via::Goahead),
            (Disruption.id(), Via::DisruptionManager),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_share_the_slot_wherever_they_have_it_from() {
    let fleet = Fleet::start().await;
    let url = fleet.gateway.url();
    let token = |role| format!("[store]\ntoken_file = {:?}\n", fleet.gateway.token_file(role));
    // Its gateway does not say why it has to wait, so it has to ask now and then.
    let config = format!("[agent]\npoll_secs = 1\n{}", token("operator"));
    let mut by_fleetlock = fleet.agent("web-1", &[format!("fleetlock+{url}/")], &config).await;
    let config = format!("{PATIENT}{}", token("agent"));
    let mut by_gateway = fleet.agent("a", &[format!("gateway+{url}")], &config).await;
    let mut by_etcd = fleet.agent("web-2", &fleet.etcd.endpoints(), PATIENT).await;
    let goahead = Goahead::announced(&fleet.gateway, "web-3.example").await.unwrap();
    fleet.refused(&goahead).await;

    fleet.pause().await;
    by_fleetlock.wait_status("failed_lock_paused").await.unwrap();
    by_gateway.wait_status("the fleet is paused by olga: sales week").await.unwrap();
    by_etcd.wait_status("the fleet is paused by olga: sales week").await.unwrap();
    fleet.refused(&goahead).await;
    fleet.nobody_holds().await;

    fleet.look.resume().await.unwrap();
    tokio::join!(
        fleet.reboots(&mut by_fleetlock, "web-1", Via::Fleetlock),
        fleet.reboots(&mut by_gateway, "a", Via::Agent),
        fleet.reboots(&mut by_etcd, "web-2", Via::Agent),
        fleet.gets_through(&goahead, Via::Goahead),
    );
    fleet
        .tells(&[
            ("db-1", Via::Ctl),
            ("web-1", Via::Fleetlock),
            ("a", Via::Agent),
            ("web-2", Via::Agent),
            ("web-3.example", Via::Goahead),
        ])
        .await;
}
