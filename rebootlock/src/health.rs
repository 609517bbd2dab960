//! Whether a fleet can do without one more machine. Pure.
//!
//! Everything is counted **as if the machine that asks were down already**. Who is not known to be
//! well is not: a machine of the roster whose agent is not there, whose document cannot be read, or
//! that does not say how it is.
//!
//! A machine that holds a slot may be down at any moment, so it is not counted on. Each of two
//! that hold a slot at once therefore sees the other as gone, and they cannot leave together what
//! each could have left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::id::{Group, MachineId};
use crate::record::{Health, HolderState, Presence, RosterEntry, UnixTime};
use crate::semaphore::json::Damage;

/// How many machines must be well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinHealthy {
    /// So many.
    Count(u64),
    /// So many in a hundred of all machines that belong to the groups.
    Percent(u8),
}

impl MinHealthy {
    /// Whether `healthy` of `total` are enough.
    pub fn is_met(self, healthy: usize, total: usize) -> bool {
        match self {
            Self::Count(least) => healthy as u64 >= least,
            Self::Percent(least) => healthy as u128 * 100 >= u128::from(least) * total as u128,
        }
    }
}

impl fmt::Display for MinHealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(least) => write!(f, "{least}"),
            Self::Percent(least) => write!(f, "{least} %"),
        }
    }
}

/// What must hold for a fleet once one more of its machines is down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterRules {
    /// So many others must be well.
    pub min_healthy: Option<MinHealthy>,
    /// At most so many others may be unwell. If nothing is said, `min_healthy` alone decides; none, if
    /// that says nothing either.
    pub max_unhealthy: Option<u64>,
    /// Machines, by id or host name, that must not be all that is left.
    pub fallback: Vec<String>,
    /// Whose machines count: those of any of these groups; of all groups if none are named.
    pub groups: Vec<Group>,
}

/// The machines of some groups, as they were when they were looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fleet {
    /// Everybody in the roster, present, or both.
    pub members: BTreeMap<MachineId, Member>,
}

/// What is known of one machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Member {
    /// Its place in the roster.
    pub roster: Option<Result<RosterEntry, Damage>>,
    /// What its agent says of it; none if no agent is there.
    pub presence: Option<Result<Presence, Damage>>,
    /// The slot it holds.
    pub slot: Option<Slot>,
}

/// A slot that somebody holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slot {
    /// How far its holder has come, if it wrote that down.
    pub state: Option<HolderState>,
    /// Since when.
    pub since: Option<UnixTime>,
}

/// How a machine counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Present, well, and not about to go.
    Healthy,
    /// Holds a slot: about to go, gone, or just back. Neither counted on nor held against anybody.
    Leaving,
    /// Not known to be well.
    Unhealthy(Sickness),
}

/// Why a machine does not count as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sickness {
    /// Its agent is not there.
    Missing,
    /// A document of it cannot be read.
    Unreadable,
    /// Its agent does not say how it is.
    Silent,
    /// Its agent says that it is unwell.
    Says(Option<String>),
    /// Its agent said that it is well, and has not looked for too long.
    Stale(UnixTime),
    /// Its agent says that it looked at a time that is yet to come: that would never get old.
    Ahead(UnixTime),
    /// It came back from a reboot and was not well.
    Failed,
}

impl fmt::Display for Sickness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is not there"),
            Self::Unreadable => f.write_str("cannot be read"),
            Self::Silent => f.write_str("does not say how it is"),
            Self::Says(None) => f.write_str("is unhealthy"),
            Self::Says(Some(reason)) => write!(f, "is unhealthy: {reason}"),
            Self::Stale(checked_at) => {
                write!(f, "has not looked at itself since {}", checked_at.to_text())
            }
            Self::Ahead(checked_at) => {
                write!(f, "has looked at itself at {}, which is yet to come", checked_at.to_text())
            }
            Self::Failed => f.write_str("has failed after its reboot"),
        }
    }
}

impl Sickness {
    /// Whether it is known that something is wrong, rather than not known that all is well.
    pub fn is_said(&self) -> bool {
        match self {
            Self::Missing | Self::Silent => false,
            Self::Says(_) | Self::Stale(_) | Self::Ahead(_) | Self::Unreadable | Self::Failed => {
                true
            }
        }
    }
}

/// A machine that is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sick {
    /// Which.
    pub machine: MachineId,
    /// What people call it.
    pub hostname: Option<String>,
    /// Why it counts as unwell.
    pub why: Sickness,
}

impl fmt::Display for Sick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.hostname.as_deref().unwrap_or(self.machine.as_str()), self.why)
    }
}

/// Why a machine had better stay up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    /// Too few others would be left.
    TooFewHealthy {
        /// Well without us.
        healthy: usize,
        /// All machines of the groups, ours among them.
        total: usize,
        /// What was asked for.
        least: MinHealthy,
        /// Who is unwell.
        sick: Vec<Sick>,
    },
    /// Too many others are unwell.
    TooManyUnhealthy {
        /// Who they are.
        sick: Vec<Sick>,
        /// How many are allowed.
        most: u64,
    },
    /// Nobody but fallback machines would be left.
    OnlyFallbackLeft,
}

/// Seconds for which an agent's word that its machine is well holds, by the clock of who reads it.
/// Agents say it anew long before: see `rebootlockd`'s presence. The lease ends sooner for an agent
/// that is gone; this is for one that is there and looks no more. As far may its clock be ahead.
const HEALTH_HOLDS: u64 = 60 * 60;

/// Names this many of those who are unwell; the others are counted.
const NAMED: usize = 3;

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewHealthy { healthy, total, least, sick } => {
                write!(f, "without this machine {healthy} of {total} would be healthy; ")?;
                write!(f, "at least {least} must be")?;
                if sick.is_empty() {
                    return Ok(());
                }
                write!(f, ": {}", named(sick))
            }
            Self::TooManyUnhealthy { sick, most } => {
                f.write_str(&named(sick))?;
                if *most > 0 {
                    write!(f, "; at most {most} may be unhealthy")?;
                }
                Ok(())
            }
            Self::OnlyFallbackLeft => {
                f.write_str("without this machine only fallback machines would be healthy")
            }
        }
    }
}

/// The first few of them.
fn named(sick: &[Sick]) -> String {
    let first: Vec<_> = sick.iter().take(NAMED).map(ToString::to_string).collect();
    match sick.len().saturating_sub(NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

impl Member {
    /// How it counts at `now`.
    pub fn standing(&self, now: UnixTime) -> Standing {
        use HolderState::{Failed, Rebooting, Verifying};
        let unhealthy = Standing::Unhealthy;
        match self.slot.as_ref().map(|slot| slot.state.as_ref()) {
            Some(Some(Failed)) => return unhealthy(Sickness::Failed),
            // It may be down, and that is what its slot is for.
            Some(Some(Rebooting | Verifying)) => return Standing::Leaving,
            _ => {}
        }
        match &self.presence {
            None => unhealthy(Sickness::Missing),
            Some(Err(_)) => unhealthy(Sickness::Unreadable),
            Some(Ok(_)) if matches!(self.roster, Some(Err(_))) => unhealthy(Sickness::Unreadable),
            Some(Ok(Presence { health: None, .. })) => unhealthy(Sickness::Silent),
            Some(Ok(Presence { health: Some(Health { healthy: false, reason, .. }), .. })) => {
                unhealthy(Sickness::Says(reason.clone()))
            }
            Some(Ok(Presence { health: Some(Health { checked_at, .. }), .. }))
                if now.seconds_since(*checked_at) > HEALTH_HOLDS =>
            {
                unhealthy(Sickness::Stale(*checked_at))
            }
            Some(Ok(Presence { health: Some(Health { checked_at, .. }), .. }))
                if checked_at.seconds_since(now) > HEALTH_HOLDS =>
            {
                unhealthy(Sickness::Ahead(*checked_at))
            }
            Some(Ok(_)) if self.slot.is_some() => Standing::Leaving,
            Some(Ok(_)) => Standing::Healthy,
        }
    }

    /// Whether it is in one of `groups`; if that cannot be read, it is. No groups: all of them.
    pub fn is_in(&self, groups: &[Group]) -> bool {
        let read = [
            self.roster
                .as_ref()
                .map(|read| read.as_ref().ok())
                .map(|entry| entry.map(|entry| groups.iter().any(|group| entry.is_in(group)))),
            self.presence.as_ref().map(|read| read.as_ref().ok()).map(|presence| {
                presence.map(|presence| groups.iter().any(|group| presence.is_in(group)))
            }),
        ];
        let said: Vec<bool> = read.into_iter().flatten().flatten().collect();
        groups.is_empty() || said.is_empty() || said.contains(&true)
    }

    /// What it calls itself.
    pub fn hostname(&self) -> Option<&str> {
        let present = self.presence.iter().flatten().next();
        let enrolled = self.roster.iter().flatten().next();
        present
            .and_then(|presence| presence.hostname.as_deref())
            .or_else(|| enrolled.and_then(|entry| entry.hostname.as_deref()))
    }
}

impl Fleet {
    /// Everybody but `me` who is in one of `groups`.
    fn others<'a>(
        &'a self,
        groups: &'a [Group],
        me: &'a MachineId,
    ) -> impl Iterator<Item = (&'a MachineId, &'a Member)> {
        self.members.iter().filter(move |(id, member)| *id != me && member.is_in(groups))
    }

    /// The documents that cannot be read, for a person to look at: whose, and what is wrong.
    pub fn unreadable(&self) -> impl Iterator<Item = (&MachineId, &Damage)> {
        self.members.iter().flat_map(|(id, member)| {
            let roster = member.roster.iter().filter_map(|read| read.as_ref().err());
            let presence = member.presence.iter().filter_map(|read| read.as_ref().err());
            roster.chain(presence).map(move |damage| (id, damage))
        })
    }
}

fn sick(id: &MachineId, member: &Member, why: Sickness) -> Sick {
    Sick { machine: id.clone(), hostname: member.hostname().map(ToOwned::to_owned), why }
}

/// Why `me` should stay up at `now`, by `rules`; nothing if it may go.
pub fn judge(rules: &ClusterRules, fleet: &Fleet, me: &MachineId, now: UnixTime) -> Vec<Complaint> {
    let fallback: BTreeSet<&str> = rules.fallback.iter().map(String::as_str).collect();
    let is_fallback = |id: &MachineId, member: &Member| {
        fallback.contains(id.as_str()) || member.hostname().is_some_and(|n| fallback.contains(n))
    };
    let (mut total, mut healthy, mut regular, mut unwell) = (1, 0, 0, Vec::new());
    for (id, member) in fleet.others(&rules.groups, me) {
        total += 1;
        match member.standing(now) {
            Standing::Healthy => {
                healthy += 1;
                regular += usize::from(!is_fallback(id, member));
            }
            Standing::Leaving => {}
            Standing::Unhealthy(why) => unwell.push(sick(id, member, why)),
        }
    }
    let mut complaints = Vec::new();
    if let Some(least) = rules.min_healthy
        && !least.is_met(healthy, total)
    {
        let sick = unwell.clone();
        complaints.push(Complaint::TooFewHealthy { healthy, total, least, sick });
    }
    let most = match (rules.max_unhealthy, rules.min_healthy) {
        (None, Some(_)) => None,
        (most, _) => Some(most.unwrap_or(0)),
    };
    if let Some(most) = most.filter(|most| unwell.len() as u64 > *most) {
        complaints.push(Complaint::TooManyUnhealthy { sick: unwell, most });
    }
    if !fallback.is_empty() && regular == 0 {
        complaints.push(Complaint::OnlyFallbackLeft);
    }
    complaints
}

/// Why `me` should stay up at `now` where no rules are configured: a machine of one of `groups` says
/// that it is unwell, has not looked for too long, has failed, or cannot be read. Who is not there or
/// says nothing blocks nobody, so that a fleet works before every machine has an agent that looks
/// after its health.
pub fn judge_without_rules(
    groups: &[Group],
    fleet: &Fleet,
    me: &MachineId,
    now: UnixTime,
) -> Vec<Complaint> {
    let unwell: Vec<Sick> = fleet
        .others(groups, me)
        .filter_map(|(id, member)| match member.standing(now) {
            Standing::Unhealthy(why) if why.is_said() => Some(sick(id, member, why)),
            _ => None,
        })
        .collect();
    match unwell.is_empty() {
        true => Vec::new(),
        false => vec![Complaint::TooManyUnhealthy { sick: unwell, most: 0 }],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
