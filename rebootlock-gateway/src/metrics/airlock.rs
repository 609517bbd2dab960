//! The same figures under the names that airlock has for them.

use std::collections::BTreeMap;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rebootlock::id::Group;

use super::{Groups, InGroup};
use crate::groups::Look;

/// Groups of the configuration, with their slots if it says how many.
pub type Configured = BTreeMap<Group, Option<u32>>;

#[derive(Debug)]
pub(super) struct Airlock {
    pub(super) registry: Registry,
    pre_reboot: Counter,
    steady_state: Counter,
    configured: Gauge,
    configured_slots: Groups,
    holders: Groups,
    slots: Groups,
}

impl Airlock {
    pub(super) fn new() -> Self {
        let mut airlock = Self {
            registry: Registry::with_prefix("airlock"),
            pre_reboot: Counter::default(),
            steady_state: Counter::default(),
            configured: Gauge::default(),
            configured_slots: Groups::default(),
            holders: Groups::default(),
            slots: Groups::default(),
        };
        let registry = &mut airlock.registry;
        for (name, counter) in [
            ("v1_pre_reboot_incoming_requests", &airlock.pre_reboot),
            ("v1_steady_state_incoming_requests", &airlock.steady_state),
        ] {
            registry.register(name, "Requests, however they were answered", counter.clone());
        }
        registry.register("config_groups", "Groups configured", airlock.configured.clone());
        for (name, help, family) in [
            ("config_semaphore_slots", "Slots configured", &airlock.configured_slots),
            ("database_semaphore_lock_holders", "Machines that hold one", &airlock.holders),
            ("database_semaphore_slots", "Slots in the store", &airlock.slots),
        ] {
            registry.register(name, help, family.clone());
        }
        airlock
    }

    pub(super) fn asked(&self, route: &str) {
        match route {
            "pre-reboot" => drop(self.pre_reboot.inc()),
            "steady-state" => drop(self.steady_state.inc()),
            _ => {}
        }
    }

    pub(super) fn show(&self, looks: &[Look], configured: &Configured) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let of = |group: &Group| InGroup { group: group.to_string() };
        for family in [&self.configured_slots, &self.holders, &self.slots] {
            family.clear();
        }
        self.configured.set(number(configured.len()));
        for (group, slots) in configured {
            if let Some(slots) = slots {
                self.configured_slots.get_or_create(&of(group)).set(i64::from(*slots));
            }
        }
        for look in looks {
            self.holders.get_or_create(&of(&look.group)).set(number(look.holders));
            self.slots.get_or_create(&of(&look.group)).set(i64::from(look.slots));
        }
    }
}
