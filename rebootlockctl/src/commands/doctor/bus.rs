//! The system bus, and whom the agent needs on it.

use super::Finding;
use crate::bus::{SystemBus, UPDATE_ENGINE};
use crate::failure::chain;

/// How the agent is started, for the eye of an operator.
const AGENT: &str = "systemctl status rebootlockd";

pub(super) async fn check() -> Vec<Finding> {
    let bus = match SystemBus::connect().await {
        Ok(bus) => bus,
        Err(error) => {
            return vec![Finding::fail(
                "system bus",
                chain(&error),
                "start dbus; without it no signal is heard and no reboot can be ordered (fine on a \
                 machine that only operates the lock of others)",
            )];
        }
    };
    let mut findings = vec![Finding::ok("system bus", "answers")];
    findings.push(update_engine(&bus).await);
    findings.extend(logind(&bus).await);
    findings
}

async fn update_engine(bus: &SystemBus) -> Finding {
    let about = "update-engine";
    match bus.has_owner(UPDATE_ENGINE).await {
        Ok(true) => Finding::ok(about, format!("{UPDATE_ENGINE} is on the bus")),
        Ok(false) => Finding::warn(
            about,
            format!("{UPDATE_ENGINE} is not on the bus"),
            "fine where updates come another way: detectors and requests remain; else start \
             update-engine",
        ),
        Err(error) => Finding::fail(about, chain(&error), "look at the log of dbus"),
    }
}

async fn logind(bus: &SystemBus) -> Vec<Finding> {
    let about = "logind";
    let can_reboot = match bus.can_reboot().await {
        Err(error) => {
            let mend = "start systemd-logind; without it no reboot can be ordered";
            return vec![Finding::fail(about, chain(&error), mend)];
        }
        Ok(answer) if answer == "yes" => Finding::ok(about, "would let us reboot"),
        Ok(answer) => Finding::warn(
            about,
            format!("would not let us reboot (CanReboot: {answer})"),
            format!("the agent runs as root and may be allowed all the same: {AGENT}"),
        ),
    };
    let mut findings = vec![can_reboot];
    match bus.inhibitors().await {
        Ok(inhibitors) => findings.extend(inhibitors.into_iter().map(|inhibitor| {
            Finding::warn(
                "inhibitor",
                format!("{} (pid {}) blocks: {}", inhibitor.who, inhibitor.pid, inhibitor.why),
                "no reboot happens until it is gone: systemd-inhibit --list",
            )
        })),
        Err(error) => findings.push(Finding::fail(about, chain(&error), "look at its log")),
    }
    findings
}
