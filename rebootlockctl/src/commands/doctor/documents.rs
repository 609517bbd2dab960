//! What is in the store, and whether we may read and write it.

use std::collections::BTreeSet;

use rebootlock::health::{Fleet, Sickness, Standing};
use rebootlock::id::{Group, MachineId};
use rebootlock::keys::Keyspace;
use rebootlock::lock::{GroupStatus, Held, LockError, LockManager, Scope};
use rebootlock::record::{Pause, UnixTime};
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{Precondition, Revision, StoreError, Txn};

use super::Finding;
use crate::failure::chain;
use crate::view;

pub(super) async fn check(locks: &LockManager, own: &[Group]) -> Vec<Finding> {
    let mut groups = own.to_vec();
    match locks.groups().await {
        Ok(all) => groups.extend(all.into_iter().filter(|group| !own.contains(group))),
        Err(error) => return vec![unreadable("store", &error)],
    }
    let mut findings = vec![may_write(locks, &groups[..1]).await];
    findings.extend(prefix(locks).await);
    let (now, mut fleet_checked) = (UnixTime::now(), false);
    let mut held_seen = BTreeSet::new();
    for group in &groups {
        let about = format!("group {group}");
        match locks.status(group).await {
            Ok(status) => {
                findings.push(semaphore(&about, &status));
                findings.extend(holders(&about, &status, now));
                for held in &status.held {
                    // The same one may show in several groups.
                    if held_seen.insert(held.machine.clone()) {
                        findings.push(self::held(held, now));
                    }
                }
                for (scope, pause) in &status.paused {
                    // The same one shows in every group.
                    if *scope != Scope::Fleet || !std::mem::replace(&mut fleet_checked, true) {
                        findings.push(paused(scope, pause.as_ref(), now));
                    }
                }
            }
            Err(error) => findings.push(unreadable(&about, &error)),
        }
        match locks.repairs(group).await {
            // A damaged semaphore was named above already.
            Ok(repairs) => findings.extend(
                repairs.iter().filter(|repair| repair.key != locks.keys().semaphore(group)).map(
                    |repair| {
                        let found = format!("{} is {}", repair.key, repair.problem);
                        Finding::warn(&about, found, mend(group))
                    },
                ),
            ),
            Err(error) => findings.push(unreadable(&about, &error)),
        }
    }
    match locks.fleet(&groups).await {
        Ok(fleet) => findings.extend(machines(&fleet, now)),
        // A damaged semaphore was named above already.
        Err(LockError::Damaged { .. }) => {}
        Err(error) => findings.push(unreadable("machines", &error)),
    }
    findings
}

/// Programs with different prefixes know nothing of each other's slots. What others there may be in the
/// store cannot be looked for, but for the one that is used if nobody says anything.
async fn prefix(locks: &LockManager) -> Option<Finding> {
    let about = "prefix";
    let used = is_used(locks).await.ok()?;
    let usual = Keyspace::default();
    if *locks.keys() != usual {
        let others = LockManager::new(locks.store().clone(), usual.clone());
        // Who may not look there is not meant to be there.
        if is_used(&others).await.unwrap_or(false) {
            let found = format!(
                "there are slots below {usual} too, which do not count below {}",
                locks.keys()
            );
            let mend =
                "fine if they are another fleet's; else give all programs the same [store] prefix";
            return Some(Finding::warn(about, found, mend));
        }
    }
    (!used).then(|| {
        let keys = locks.keys();
        Finding::ok(
            about,
            format!(
                "nothing is below {keys} yet; if machines hold slots already, their gateway or agents have \
                 another [store] prefix"
            ),
        )
    })
}

async fn is_used(locks: &LockManager) -> Result<bool, LockError> {
    Ok(locks.groups().await?.len() > 1 || locks.status(&Group::default()).await?.exists)
}

/// What is said of machines that nobody keeps up, or nobody can read: it may keep all others from
/// rebooting.
fn machines(fleet: &Fleet, now: UnixTime) -> Vec<Finding> {
    let mend = |machine: &MachineId| {
        format!(
            "restart the agent of that machine; if there is none: rebootlockctl forget {machine} \
             --force"
        )
    };
    let damaged = fleet.unreadable().map(|(machine, damage)| {
        let found = format!("what is known of {machine} cannot be read: {damage}");
        Finding::warn("machines", found, mend(machine))
    });
    let stale = fleet.members.iter().filter_map(|(machine, member)| match member.standing(now) {
        Standing::Unhealthy(why @ (Sickness::Stale(_) | Sickness::Ahead(_))) => {
            let name = member.hostname().unwrap_or(machine.as_str());
            Some(Finding::warn("machines", format!("{name} {why}"), mend(machine)))
        }
        _ => None,
    });
    damaged.chain(stale).collect()
}

fn mend(group: &Group) -> String {
    format!("see what would be changed: rebootlockctl repair --group '{group}'")
}

fn semaphore(about: &str, status: &GroupStatus) -> Finding {
    let semaphore = &status.semaphore;
    let (available, max, held) = (semaphore.available(), semaphore.max(), status.holders.len());
    if !status.exists {
        return Finding::ok(about, "never used yet; it begins with one slot");
    }
    let found =
        format!("{available} of {max} slots free, {held} held, {} wait", status.queue.len());
    if max == 0 {
        return Finding::warn(about, found, "nobody may reboot; set-max 1 lets one");
    }
    if available < 0 {
        let mend = "the limit was lowered; nobody new gets in until enough have come back";
        return Finding::warn(about, found, mend);
    }
    Finding::ok(about, found)
}

fn holders(about: &str, status: &GroupStatus, now: UnixTime) -> Vec<Finding> {
    let overdue = |holder: &&rebootlock::lock::Holder| matches!(&holder.record, Some(Ok(record)) if view::is_overdue(record, now));
    let finding = |holder: &rebootlock::lock::Holder| {
        let machine = &holder.machine;
        Finding::warn(
            about,
            format!("{machine} should be back by now"),
            format!(
                "look at that machine; if it will not come back: rebootlockctl unlock {machine}"
            ),
        )
    };
    status.holders.iter().filter(overdue).map(finding).collect()
}

fn paused(scope: &Scope, pause: Option<&Pause>, now: UnixTime) -> Finding {
    let resume = match scope {
        Scope::Fleet => "rebootlockctl resume --fleet".to_owned(),
        Scope::Group(group) => format!("rebootlockctl resume --group '{group}'"),
    };
    let found = format!("in force for {}", view::paused(scope, pause, now));
    Finding::warn("pause", found, format!("when its reason is gone: {resume}"))
}

fn held(held: &Held, now: UnixTime) -> Finding {
    let found = format!("{} does not reboot", view::held(held, now));
    let mend = format!("when its reason is gone: rebootlockctl unhold {}", held.machine);
    Finding::warn("hold", found, mend)
}

/// What to do about rights that are missing.
pub(super) const GRANT: &str = "grant the user readwrite on the prefix: etcdctl role grant-permission; \
                                a gateway asks for role = \"operator\" in its credentials_file";

fn unreadable(about: &str, error: &LockError) -> Finding {
    let mend = match error {
        LockError::Damaged { .. } => "see what would be changed: rebootlockctl repair --all-groups",
        LockError::Store { source: StoreError::Unavailable(_), .. } => {
            "bring back a majority of the endpoints"
        }
        LockError::Store { source: StoreError::Refused(_), .. } => {
            "compare certificates, user name and password file with what the server expects"
        }
        LockError::Store { source: StoreError::Forbidden(_), .. } => GRANT,
        _ => "look at the log of the store",
    };
    Finding::fail(about, chain(&anyhow::Error::from(error.clone())), mend)
}

/// Asks for a write that cannot come to pass: its precondition holds in no store. Rights are
/// looked at first all the same.
async fn may_write(locks: &LockManager, groups: &[Group]) -> Finding {
    let about = "rights";
    let mut txn = Txn::new();
    for group in groups {
        let key = locks.keys().semaphore(group);
        let never = Some(Revision(i64::MAX as u64));
        // A gateway looks at what is to be written, too.
        let value = Semaphore::default().to_json();
        txn = txn.when(Precondition { key: key.clone(), modified: never }).put(key, value);
    }
    let prefix = locks.keys();
    match locks.store().commit(&txn).await {
        Ok(_) => Finding::ok(about, format!("may read and write below {prefix}")),
        Err(source) => {
            let action = format!("writing below {prefix}");
            unreadable(about, &LockError::Store { action, source })
        }
    }
}
