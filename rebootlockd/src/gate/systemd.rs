//! `type = "systemd"`: open if the service manager is content.

use rebootlock::config::gate::{FailedUnits, ManagerState, SystemdGate};
use zbus::OwnedObjectPath;

use super::Verdict;
use super::answer::listed;
use crate::bus::Address;

/// name, description, load state, active state, sub-state, followed unit, object, job id, job type,
/// job object
type Unit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    #[zbus(property(emits_changed_signal = "false"))]
    fn system_state(&self) -> zbus::Result<String>;
    fn list_units_filtered(&self, states: &[&str]) -> zbus::Result<Vec<Unit>>;
}

pub(super) async fn ask(gate: &SystemdGate, bus: &Address) -> Verdict {
    let asked = async {
        let manager = ManagerProxy::builder(&bus.connect().await?)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        // The state first: a unit that fails in between is then on the list.
        let state = manager.system_state().await?;
        let failed = match gate.failed_units {
            FailedUnits::None => manager.list_units_filtered(&["failed"]).await?,
            FailedUnits::Ignore => Vec::new(),
        };
        Ok::<_, zbus::Error>((state, failed.into_iter().map(|unit| unit.0).collect()))
    };
    match asked.await {
        Ok((state, failed)) => judge(gate, &state, failed),
        Err(error) => Verdict::unknown(format!("systemd does not answer: {error}")),
    }
}

fn judge(gate: &SystemdGate, state: &str, mut failed: Vec<String>) -> Verdict {
    let is_good = gate.states.iter().any(|good| good.as_str() == state)
        // It says no more than that units have failed, and which of those count is known.
        || (state == ManagerState::Degraded.as_str()
            && gate.states.contains(&ManagerState::Running));
    if !is_good {
        return Verdict::closed(format!("the system is {state}"));
    }
    failed.retain(|unit| !gate.ignore_units.iter().any(|ignored| ignored.matches(unit)));
    failed.sort();
    match failed.len() {
        0 => Verdict::Open,
        1 => Verdict::closed(format!("unit {} has failed", failed[0])),
        _ => Verdict::closed(format!("units {} have failed", listed(&failed, ", "))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rebootlock::config::gate::Glob;

    use super::*;

    #[test]
    fn the_state_and_the_failed_units_both_count() {
        use ManagerState::{Maintenance, Running, Starting};

        let gate = |failed_units, ignored: &[&str], states: &[ManagerState]| SystemdGate {
            failed_units,
            ignore_units: ignored.iter().map(|glob| Glob::new(glob).unwrap()).collect(),
            states: states.to_vec(),
        };
        let usual = gate(FailedUnits::None, &[], &[Running]);
        let lenient = gate(FailedUnits::None, &["motd-*"], &[Running, Starting]);
        let careless = gate(FailedUnits::Ignore, &[], &[Running]);
        let odd = gate(FailedUnits::None, &[], &[Maintenance]);
        for (gate, state, failed, why) in [
            (&usual, "running", &[][..], None),
            (&usual, "degraded", &[], None),
            (
                &usual,
                "degraded",
                &["b.service", "a.mount"],
                Some("units a.mount, b.service have failed"),
            ),
            (&usual, "running", &["a.mount"], Some("unit a.mount has failed")),
            (&usual, "starting", &[], Some("the system is starting")),
            (&usual, "stopping", &[], Some("the system is stopping")),
            (&usual, "", &[], Some("the system is")),
            (&lenient, "starting", &[], None),
            (&lenient, "degraded", &["motd-news.service"], None),
            (&lenient, "degraded", &["motd-news.service", "x"], Some("unit x has failed")),
            (&careless, "degraded", &[], None),
            (&careless, "stopping", &[], Some("the system is stopping")),
            (&odd, "degraded", &[], Some("the system is degraded")),
        ] {
            let failed = failed.iter().map(|unit| (*unit).to_owned()).collect();
            assert_eq!(judge(gate, state, failed).why(), why, "{state}");
        }
    }
}
