//! What operators do: the same as `rebootlockctl` does, each with a reason, written down in the store
//! and in the audit log.

mod carry;

use std::time::Duration;

use rebootlock::id::{Group, MachineId, Token};
use rebootlock::lock::Scope;
use rebootlock::record::{Act, Deed, UnixTime, sorted_groups};
use serde::Serialize;

use crate::app::{Live, chain};
use crate::operators::Operator;
use crate::slots::{Refusal, in_time};

/// The longest reason, in bytes.
pub const LONGEST_REASON: usize = 500;

/// Something that is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Keep everybody new out, for so long if it says how long.
    Pause {
        /// Where.
        scope: Scope,
        /// For how long; else until somebody resumes.
        lasting: Option<Duration>,
    },
    /// End that.
    Resume {
        /// Where.
        scope: Scope,
    },
    /// Take a slot for a machine.
    Lock {
        /// Which.
        machine: MachineId,
        /// In these groups; in the default one if it names none.
        groups: Vec<Group>,
    },
    /// Free a machine's slots.
    Unlock {
        /// Which.
        machine: MachineId,
        /// In these groups; wherever it holds one if it names none.
        groups: Vec<Group>,
        /// Only of this acquisition: what was seen, and not what came since.
        token: Option<Token>,
    },
    /// Change the limit of a group.
    SetMax {
        /// Which.
        group: Group,
        /// So many.
        max: u32,
    },
    /// Wish that a machine reboot.
    Request {
        /// Which.
        machine: MachineId,
        /// Higher goes first.
        priority: u32,
    },
    /// Take that back.
    Cancel {
        /// Which.
        machine: MachineId,
    },
    /// Keep a machine from rebooting.
    Hold {
        /// Which.
        machine: MachineId,
        /// For how long; else until somebody lets it go.
        lasting: Option<Duration>,
    },
    /// End that.
    Unhold {
        /// Which.
        machine: MachineId,
    },
    /// Take away what is known of a machine that will not come back.
    Forget {
        /// Which.
        machine: MachineId,
        /// Even though its agent is there.
        even_if_present: bool,
    },
}

/// An action, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is to be done.
    pub action: Action,
    reason: String,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Whether anything was changed; if not, it was as wished already.
    pub changed: bool,
    /// What was done, and what was there before, in words.
    pub message: String,
    /// The limit that was in force before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<u32>,
}

impl Order {
    /// An action with its reason.
    ///
    /// # Errors
    /// What is wrong with the reason, in words.
    pub fn new(action: Action, reason: &str) -> Result<Self, String> {
        let reason = reason.trim();
        if reason.is_empty() {
            return Err("`reason` must say why, for others to read".to_owned());
        }
        if reason.len() > LONGEST_REASON {
            return Err(format!("`reason` is longer than {LONGEST_REASON} bytes"));
        }
        if reason.contains(char::is_control) {
            return Err("`reason` must be one line, without control characters".to_owned());
        }
        Ok(Self { action, reason: reason.to_owned() })
    }

    /// Why.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl Action {
    /// The machine it is done to.
    pub fn machine(&self) -> Option<&MachineId> {
        match self {
            Self::Pause { .. } | Self::Resume { .. } | Self::SetMax { .. } => None,
            Self::Lock { machine, .. }
            | Self::Unlock { machine, .. }
            | Self::Request { machine, .. }
            | Self::Cancel { machine }
            | Self::Hold { machine, .. }
            | Self::Unhold { machine }
            | Self::Forget { machine, .. } => Some(machine),
        }
    }

    /// The groups it names.
    pub fn groups(&self) -> Vec<Group> {
        match self {
            Self::Pause { scope: Scope::Group(group), .. }
            | Self::Resume { scope: Scope::Group(group) }
            | Self::SetMax { group, .. } => vec![group.clone()],
            Self::Lock { groups, .. } => sorted_groups(groups.iter().cloned()),
            Self::Unlock { groups, .. } => groups.clone(),
            _ => Vec::new(),
        }
    }

    /// What it is called where it is written down.
    pub fn deed(&self) -> Deed {
        match self {
            Self::Pause { .. } => Deed::Pause,
            Self::Resume { .. } => Deed::Resume,
            Self::Lock { .. } => Deed::Lock,
            Self::Unlock { .. } => Deed::Unlock,
            Self::SetMax { .. } => Deed::SetMax,
            Self::Request { .. } => Deed::Request,
            Self::Cancel { .. } => Deed::Cancel,
            Self::Hold { .. } => Deed::Hold,
            Self::Unhold { .. } => Deed::Unhold,
            Self::Forget { .. } => Deed::Forget,
        }
    }
}

/// Does it, if `operator` may, and writes down that it was done.
///
/// # Errors
/// [`Refusal`] says in a sentence why nothing was done. `store_unavailable` and `store_busy`: or it is not
/// known whether it was.
pub async fn carry_out(live: &Live, operator: &Operator, order: &Order) -> Result<Done, Refusal> {
    let now = UnixTime::now();
    let mut action = order.action.clone();
    let mut concerned = action.groups();
    if let Action::Unlock { machine, groups, .. } = &mut action
        && (groups.is_empty() || operator.is_limited())
    {
        let all: Vec<_> = in_time(live, live.groups()).await?.into_iter().collect();
        let held = in_time(live, live.locks.slots_of(&all, machine)).await?;
        if groups.is_empty() {
            groups.clone_from(&held);
        }
        // Slots that were taken together are freed together.
        concerned.extend(held);
    }
    let (machine, groups) = (action.machine(), action.groups());
    if concerned.is_empty() {
        operator.may(None, machine)?;
    }
    for group in &concerned {
        operator.may(Some(group), machine)?;
    }
    let done = carry::carry(live, &action, &act(operator, order, &action, now), now).await;
    let names = groups.iter().map(Group::as_str).collect::<Vec<_>>().join(", ");
    let outcome = match &done {
        Ok(done) if done.changed => "done",
        Ok(_) => "nothing to do",
        Err(_) => "refused",
    };
    let message = match &done {
        Ok(done) => &done.message,
        Err(refusal) => &refusal.text,
    };
    tracing::info!(
        target: "rebootlock_gateway::audit",
        event = "act", deed = %action.deed(), id = machine.map(ToString::to_string),
        group = (!names.is_empty()).then_some(names), by = operator.name(),
        address = %operator.address, reason = order.reason, outcome, "{message}"
    );
    if done.as_ref().is_ok_and(|done| done.changed) {
        trim(live, groups);
    }
    done
}

/// What is written down of it.
fn act(operator: &Operator, order: &Order, action: &Action, now: UnixTime) -> Act {
    let mut act = Act::new(now, operator.name(), action.deed()).within(&action.groups());
    if let Some(machine) = action.machine() {
        act = act.to(machine);
    }
    act.reason = Some(order.reason.clone());
    match action {
        Action::Pause { lasting, .. } | Action::Hold { lasting, .. } => {
            act.until = end_of(now, *lasting);
        }
        Action::SetMax { max, .. } => act.max = Some(*max),
        _ => {}
    }
    act
}

/// When something that lasts so long ends.
fn end_of(since: UnixTime, lasting: Option<Duration>) -> Option<UnixTime> {
    lasting.map(|time| since.plus_seconds(time.as_secs()))
}

/// Takes old entries away, when there is time. Whoever acts next can do it as well.
fn trim(live: &Live, groups: Vec<Group>) {
    let locks = live.locks.clone();
    tokio::spawn(async move {
        for trimmed in [locks.trim_acts().await, locks.trim_history(&groups).await] {
            if let Err(error) = trimmed {
                tracing::debug!(error = chain(&error), "old entries stay for now");
            }
        }
    });
}
