//! A look at all groups: for figures, and for holders who should be back by now.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rebootlock::id::{Group, MachineId, Token};
use rebootlock::lock::LockError;
use rebootlock::record::{UnixTime, Via};

use crate::app::{App, Live, chain};
use crate::silent;

/// Between two looks of our own.
const EVERY: Duration = Duration::from_secs(60);

/// One group, in figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Which.
    pub group: Group,
    /// Its limit.
    pub slots: u32,
    /// Who has one of them.
    pub holders: usize,
    /// How many wait.
    pub queue: usize,
    /// Whether it, or the fleet, is paused.
    pub paused: bool,
    /// Clients of ours that took a slot too long ago.
    pub overdue: Vec<Overdue>,
    /// By which acquisitions slots are held.
    pub tokens: Vec<Token>,
}

/// Clients that ask every few minutes have missed more than one of these.
const SILENT_AFTER: Duration = Duration::from_secs(15 * 60);

/// A machine that should have given its slot back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// Which.
    pub machine: MachineId,
    /// Since when it has it.
    pub since: UnixTime,
    /// The acquisition.
    pub token: Option<Token>,
    /// Whether its slot goes back without its doing.
    pub ends: bool,
    /// It still asks, so it is up and does not go down. Else it is silent: rebooting, or dead. Known of
    /// those who ask this gateway.
    pub stuck: bool,
}

/// Looks at all groups. One whose semaphore cannot be read is left out: what cannot be counted has no
/// figure.
///
/// # Errors
/// What the store says.
pub async fn look(live: &Live, now: UnixTime) -> Result<Vec<Look>, LockError> {
    let mut looks = Vec::new();
    for group in live.groups().await? {
        let status = match live.locks.status(&group).await {
            Ok(status) => status,
            Err(error @ LockError::Damaged { .. }) => {
                tracing::error!(%group, error = chain(&error), "a document is damaged");
                continue;
            }
            Err(error) => return Err(error),
        };
        let overdue = status.holders.iter().filter_map(|holder| {
            let record = holder.record.as_ref()?.as_ref().ok()?;
            // Agents look after themselves, and operators know what they do.
            let ours =
                matches!(record.via, Some(Via::Fleetlock | Via::Goahead | Via::DisruptionManager));
            let held = now.seconds_since(record.start_time);
            (ours && held > live.overdue_after.as_secs()).then(|| Overdue {
                machine: holder.machine.clone(),
                since: record.start_time,
                token: record.token,
                ends: record.via == Some(Via::DisruptionManager),
                stuck: record
                    .token
                    .is_some_and(|token| live.heard.asked_within(token, SILENT_AFTER)),
            })
        });
        let tokens = status.holders.iter().filter_map(|h| h.record.as_ref()?.as_ref().ok()?.token);
        looks.push(Look {
            slots: status.semaphore.max(),
            holders: status.holders.len(),
            queue: status.queue.len(),
            paused: !status.paused.is_empty(),
            overdue: overdue.collect(),
            tokens: tokens.collect(),
            group,
        });
    }
    Ok(looks)
}

/// Says once of each holder that it is overdue; for ever.
pub async fn watch(app: Arc<App>) {
    let mut said = HashSet::new();
    loop {
        let live = app.live();
        if let Some(rate) = &live.rate {
            rate.tidy();
        }
        // That the store is away is said by those who wanted something of it.
        let _ = live.elsewhere.look(&live.locks).await;
        let Ok(looks) = look(&live, UnixTime::now()).await else {
            tokio::time::sleep(EVERY).await;
            continue;
        };
        let rule = silent::rule(&live).await;
        // One whose record is missing from this look is heard from again when it asks again.
        live.heard.keep_only(&looks.iter().flat_map(|look| look.tokens.clone()).collect());
        let mut still = HashSet::new();
        for look in looks {
            let group = look.group.clone();
            for overdue in look.overdue {
                let key = (group.clone(), overdue.machine.clone(), overdue.since, overdue.stuck);
                if !said.contains(&key) {
                    say(&group, &overdue);
                }
                still.insert(key);
            }
            // After it was said.
            if let Some(rule) = rule {
                silent::release(&live, rule, &group).await;
            }
        }
        said = still;
        tokio::time::sleep(EVERY).await;
    }
}

fn say(group: &Group, overdue: &Overdue) {
    let (machine, since) = (&overdue.machine, overdue.since.to_text());
    let until = match overdue.ends {
        false => "it says so",
        true => "it says so, its permission ends (disruption_permitted_secs)",
    };
    if overdue.stuck {
        tracing::warn!(
            target: "rebootlock_gateway::audit",
            event = "stuck", id = %machine, %group, since,
            "this machine has had its slot for long and goes on asking for it: something on it keeps it \
             from rebooting, such as an inhibitor or an update that cannot be finished; look there"
        );
    } else {
        tracing::warn!(
            target: "rebootlock_gateway::audit",
            event = "overdue", id = %machine, %group, since,
            "this machine should be back, and says nothing: it is still rebooting, or dead; its slot \
             stays until {until} or somebody runs `rebootlockctl unlock`"
        );
    }
}
