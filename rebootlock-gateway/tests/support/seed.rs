//! Fleets to look at: documents as agents, clients and operators leave them.

use std::sync::Arc;
use std::time::Duration;

use rebootlock::keys::Keyspace;
use rebootlock::record::UnixTime;
use rebootlock::store::{Key, SharedStore, SqliteStore, Txn};
use serde_json::{Value, json};

use crate::support::Fleet;

/// Puts documents into the store of a fleet.
pub struct Seed {
    store: SharedStore,
    runtime: tokio::runtime::Runtime,
    pub now: i64,
}

impl Seed {
    pub fn new(fleet: &Fleet) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // It watches its folder from the start.
        let context = runtime.enter();
        let store = SqliteStore::open(&fleet.store(), Duration::from_secs(10)).unwrap();
        drop(context);
        Self { store: Arc::new(store), runtime, now: UnixTime::now().0 }
    }

    /// The document at a key below the prefix.
    pub fn put(&self, key: &str, document: &Value) {
        self.put_text(key, &document.to_string());
    }

    pub fn put_text(&self, key: &str, text: &str) {
        let key = Key::new(format!("{}/{key}", Keyspace::default()));
        let txn = Txn::new().put(key, text.as_bytes().to_vec());
        self.runtime.block_on(self.store.commit(&txn)).unwrap();
    }

    fn base(group: &str) -> String {
        if group == "default" { String::new() } else { format!("groups/{group}/") }
    }

    /// A group with these slots, and with holders as [`Seed::holder`] makes them.
    pub fn group(&self, group: &str, max: i64, holders: &[Value]) {
        let ids: Vec<_> = holders.iter().map(|holder| holder["machineID"].clone()).collect();
        let free = max - i64::try_from(ids.len()).unwrap();
        let base = Self::base(group);
        let semaphore = json!({"semaphore": free, "max": max, "holders": ids});
        self.put(&format!("{base}semaphore"), &semaphore);
        for holder in holders {
            let id = holder["machineID"].as_str().unwrap();
            self.put(&format!("{base}holders/{id}"), holder);
        }
    }

    /// A holder since so many seconds.
    pub fn holder(&self, host: &str, state: &str, since: i64, via: &str, reason: &str) -> Value {
        json!({
            "machineID": id_of(host), "hostname": host, "startTime": self.now - since,
            "token": token_of(host), "reason": reason, "state": state,
            "stateSince": self.now - since / 2, "via": via,
        })
    }

    /// Somebody who waits since so many seconds.
    pub fn waiter(&self, group: &str, host: &str, since: i64, reason: &str) {
        let base = Self::base(group);
        self.put(
            &format!("{base}queue/{}", id_of(host)),
            &json!({
                "machineID": id_of(host), "since": self.now - since, "priority": 0,
                "hostname": host, "groups": [group], "reason": reason, "via": "agent",
            }),
        );
    }

    /// A machine with an agent that is well.
    pub fn machine(&self, group: &str, host: &str, state: &str, since: i64) {
        self.enrol(group, host);
        self.put(
            &format!("machines/{}", id_of(host)),
            &json!({
                "machineID": id_of(host), "hostname": host, "groups": [group], "state": state,
                "stateSince": self.now - since,
                "health": {"healthy": true, "checkedAt": self.now - 30}, "version": "0.1.0",
            }),
        );
    }

    /// A machine of which no more is known than that it belongs to the fleet.
    pub fn enrol(&self, group: &str, host: &str) {
        self.put(
            &format!("roster/{}", id_of(host)),
            &json!({
                "machineID": id_of(host), "hostname": host, "groups": [group],
                "firstSeen": self.now - 40 * 86_400,
            }),
        );
    }

    /// An entry of the history: held and down for so long, until so many seconds ago.
    pub fn past(&self, group: &str, host: &str, held: i64, down: i64, ago: i64, ended: &str) {
        let (start, token) = (self.now - ago - held, token_of(&format!("{host}{ago}")));
        self.put(
            &format!("{}history/{start:012}-{token}", Self::base(group)),
            &json!({
                "machineID": id_of(host), "hostname": host, "token": token, "groups": [group],
                "reason": "linux-image-6.1 and 3 more packages", "via": "agent",
                "startTime": start, "downSince": self.now - ago - down,
                "endedAt": self.now - ago, "ended": ended,
            }),
        );
    }
}

/// A machine-id, always the same for one host.
pub fn id_of(host: &str) -> String {
    token_of(host).replace('-', "")
}

fn token_of(text: &str) -> String {
    let hash = |seed: u64| {
        text.bytes()
            .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let (high, low) = (hash(0xcbf2_9ce4_8422_2325), hash(0x8422_2325_cbf2_9ce4));
    let hex = format!("{high:016x}{low:016x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A fleet in the middle of a rollout, with a bit of everything.
pub fn busy(fleet: &Fleet) -> Seed {
    let seed = Seed::new(fleet);
    let kernel = "linux-image-6.1 and 3 more packages";
    let update = "update-engine installed 4230.2.1";
    let mut late = seed.holder("web-7", "rebooting", 3420, "agent", update);
    late["expectedBack"] = json!(seed.now - 1260);
    let verifying = seed.holder("web-2", "verifying", 214, "agent", update);
    seed.group("web", 3, &[verifying, late]);
    seed.group("default", 1, &[]);
    let db = seed.holder("db-1", "draining", 95, "agent", kernel);
    seed.group("db", 1, &[db]);
    seed.group(
        "zincati",
        4,
        &[seed.holder(
            "fcos-11",
            "holding",
            41,
            "fleetlock",
            "asked for by fleetlock from 10.3.0.17",
        )],
    );
    seed.waiter("db", "db-2", 88, kernel);
    seed.waiter("db", "db-3", 61, kernel);
    for n in 1..=9 {
        if n != 7 {
            seed.machine(
                "web",
                &format!("web-{n}"),
                if n == 2 { "verifying" } else { "idle" },
                80_000 + n * 977,
            );
        }
    }
    seed.enrol("web", "web-7");
    seed.machine("db", "db-1", "draining", 40);
    seed.machine("db", "db-2", "queued", 88);
    seed.machine("db", "db-3", "queued", 61);
    seed.put(
        &format!("machines/{}", id_of("cache-1")),
        &json!({
            "machineID": id_of("cache-1"), "hostname": "cache-1", "groups": ["default"],
            "state": "idle", "stateSince": seed.now - 5400,
            "health": {"healthy": false, "checkedAt": seed.now - 20,
                "reason": "gate redis is closed: replication is 312 s behind"},
            "blocked": {"outcome": "window_denied", "why": "no window is open until 22:00",
                "since": seed.now - 5000, "wanted": kernel},
        }),
    );
    seed.put(
        &format!("requests/{}", id_of("cache-1")),
        &json!({"by": "alice", "reason": "new microcode", "since": seed.now - 4800, "priority": 0}),
    );
    let act = |ago: i64, rest: Value| {
        let mut act = json!({"at": seed.now - ago, "by": "alice"});
        act.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let key = format!("acts/{:012}-{}", seed.now - ago, token_of(&ago.to_string()));
        seed.put(&key, &act);
    };
    act(
        86_200,
        json!({"deed": "set-max", "groups": ["web"], "max": 3, "reason": "twice the hardware"}),
    );
    act(
        4_800,
        json!({"deed": "request", "machineID": id_of("cache-1"), "reason": "new microcode"}),
    );
    act(52, json!({"deed": "pause", "groups": ["db"], "reason": "moving the primary by hand"}));
    seed.put(
        "groups/db/paused",
        &json!({"by": "alice", "reason": "moving the primary by hand", "since": seed.now - 52}),
    );
    seed.past("web", "web-1", 247, 61, 240, "verified");
    seed.past("web", "web-9", 262, 64, 510, "verified");
    seed.past("web", "web-8", 255, 60, 790, "verified");
    seed.past("db", "db-4", 431, 118, 2_700, "verified");
    seed.past("web", "web-4", 5_400, 4_900, 88_000, "unlocked");
    seed
}
