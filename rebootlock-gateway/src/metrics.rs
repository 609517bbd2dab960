//! Figures for Prometheus: what was asked and answered, and how the groups are.

mod airlock;

use std::sync::atomic::AtomicI64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use self::airlock::Airlock;
pub use self::airlock::Configured;
use crate::groups::Look;

/// Upper bounds of the times in which requests are answered, in seconds; long ones are held on purpose.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    kind: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InGroup {
    group: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Late {
    group: String,
    state: &'static str,
}

type Groups = Family<InGroup, Gauge<i64, AtomicI64>>;

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    /// One scrape at a time: what is told of the groups is put together for each.
    registry: Mutex<Registry>,
    requests: Family<Answered, Counter>,
    durations: Family<Route, Histogram, fn() -> Histogram>,
    connections: Gauge,
    watches: Gauge,
    store_up: Gauge,
    slots: Groups,
    holders: Groups,
    queue: Groups,
    paused: Groups,
    overdue: Family<Late, Gauge<i64, AtomicI64>>,
    airlock: Mutex<Airlock>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("rebootlock_gateway");
        let durations: Family<Route, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let metrics = Self {
            requests: Family::default(),
            durations,
            connections: Gauge::default(),
            watches: Gauge::default(),
            store_up: Gauge::default(),
            slots: Groups::default(),
            holders: Groups::default(),
            queue: Groups::default(),
            paused: Groups::default(),
            overdue: Family::default(),
            registry: Mutex::new(Registry::default()),
            airlock: Mutex::new(Airlock::new()),
        };
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Which version runs", version);
        registry.register("requests", "Requests by route and answer", metrics.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "How long answers took",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register("watches", "Open watches on the store", metrics.watches.clone());
        registry.register("store_up", "1 if the store answers", metrics.store_up.clone());
        registry.register("slots", "Slots of a group", metrics.slots.clone());
        registry.register("holders", "Machines that hold one of them", metrics.holders.clone());
        registry.register("queue", "Machines that wait for one", metrics.queue.clone());
        registry.register("paused", "1 if the group or the fleet is", metrics.paused.clone());
        registry.register(
            "overdue_holders",
            "Clients of this service that should be back by now",
            metrics.overdue.clone(),
        );
        Self { registry: Mutex::new(registry), ..metrics }
    }

    /// A request was answered.
    pub fn answered(
        &self,
        route: &'static str,
        kind: &'static str,
        status: StatusCode,
        took: Duration,
    ) {
        self.airlock.lock().unwrap_or_else(PoisonError::into_inner).asked(route);
        let labels = Answered { route, kind, status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        self.durations.get_or_create(&Route { route }).observe(took.as_secs_f64());
    }

    /// A client has connected.
    pub fn connected(&self) {
        self.connections.inc();
    }

    /// So many more watches are open.
    pub fn watching(&self, more: i64) {
        self.watches.inc_by(more);
    }

    /// A connection has ended.
    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// All of it, with what a look at the groups showed. Without one there are no figures of groups:
    /// none outlives what it was about.
    pub fn text(&self, looks: Option<&[Look]>, airlock: Option<&Configured>) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.store_up.set(i64::from(looks.is_some()));
        let families = [&self.slots, &self.holders, &self.queue, &self.paused];
        families.iter().for_each(|family| family.clear());
        self.overdue.clear();
        for look in looks.unwrap_or_default() {
            let group = InGroup { group: look.group.to_string() };
            let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            let figures = [
                i64::from(look.slots),
                number(look.holders),
                number(look.queue),
                i64::from(look.paused),
            ];
            let stuck = look.overdue.iter().filter(|overdue| overdue.stuck).count();
            for (state, count) in [("stuck", stuck), ("silent", look.overdue.len() - stuck)] {
                let late = Late { group: look.group.to_string(), state };
                self.overdue.get_or_create(&late).set(number(count));
            }
            for (family, figure) in families.iter().zip(figures) {
                family.get_or_create(&group).set(figure);
            }
        }
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode_registry(&mut text, &registry);
        if let Some(configured) = airlock {
            let airlock = self.airlock.lock().unwrap_or_else(PoisonError::into_inner);
            airlock.show(looks.unwrap_or_default(), configured);
            let _ = encode_registry(&mut text, &airlock.registry);
        }
        let _ = encode_eof(&mut text);
        text
    }
}
