//! Asking for a slot and giving it back, as every protocol here means it.
//!
//! A refusal is a kind for programs and a sentence for people, who see nothing else of what goes on.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rebootlock::config::gate::ClusterRules;
use rebootlock::health;
use rebootlock::id::{Group, MachineId, Token};
use rebootlock::lock::{Acquired, GivenBack, LockError, Queued, Settled, Turn, Wish};
use rebootlock::record::{Claim, UnixTime, Via};
use rebootlock::store::StoreError;
use rebootlock::wait::{WaitOptions, Waiting};
use rebootlock::window::Verdict;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::allowance;
use crate::app::{Live, chain};
use crate::combine::Glance;
use crate::reply::{Kind, Reply};

/// A held request looks again after so long, even if nothing was heard.
const POLL: Duration = Duration::from_secs(60);

/// Who asks for what.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Where.
    pub group: Group,
    /// For whom.
    pub machine: MachineId,
    /// Through which door.
    pub via: Via,
    /// From where, for the record.
    pub address: IpAddr,
}

/// Why there is no slot, or nothing was given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub kind: Kind,
    /// For people.
    pub text: String,
}

impl Refusal {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(crate) fn of(error: &LockError) -> Self {
        match error {
            LockError::Paused { .. } => Self::new(Kind::Paused, error.to_string()),
            LockError::Held { .. } => Self::new(Kind::Held, error.to_string()),
            LockError::CoolingDown { .. } => Self::new(Kind::CoolingDown, error.to_string()),
            LockError::Full { .. } => Self::new(Kind::Full, error.to_string()),
            LockError::Damaged { .. } => {
                tracing::error!(error = chain(error), "a document is damaged");
                Self::new(
                    Kind::StoreDamaged,
                    "a document of the lock is damaged; see `rebootlockctl doctor` and `rebootlockctl \
                     repair`",
                )
            }
            LockError::Store { source: StoreError::Unavailable(_), .. } => {
                tracing::warn!(error = chain(error), "the store does not answer");
                store_unavailable()
            }
            LockError::Store { .. } => {
                tracing::error!(error = chain(error), "the store does not do what it is asked for");
                store_failed()
            }
            LockError::Contended { .. } => {
                tracing::warn!(error = chain(error), "too many change the same at once");
                store_busy()
            }
            LockError::NotOurs { .. } => Self::new(Kind::Conflict, error.to_string()),
        }
    }

    /// Whether it may be over soon, without anybody being asked.
    fn may_pass(&self) -> bool {
        matches!(self.kind, Kind::Full | Kind::Paused | Kind::CoolingDown)
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.kind, refusal.text)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn store_unavailable() -> Refusal {
    Refusal::new(Kind::StoreUnavailable, "the store of the lock does not answer; ask again")
}

/// Some machines may do without a slot while the store is away; it is not away.
fn store_busy() -> Refusal {
    Refusal::new(
        Kind::StoreBusy,
        "the store answers, but others keep changing the same documents; ask again",
    )
}

fn store_failed() -> Refusal {
    Refusal::new(
        Kind::StoreFailed,
        "the store of the lock does not answer as it should; whoever runs the gateway finds the reason \
         in its log",
    )
}

/// What a client is told that may reboot, or that has given its slot back.
pub type Answer = Result<String, Refusal>;

/// Asks for a slot once.
///
/// # Errors
/// [`Refusal`] says why there is none. Who was refused is remembered.
pub async fn acquire(live: &Live, ask: &Ask) -> Answer {
    permitted(live, ask).await?;
    once(live, &claim(ask)).await
}

/// The answer to a client that asked to be held.
#[derive(Debug)]
pub struct Held {
    /// As for [`acquire`].
    pub answer: Answer,
    /// Whether it was held, until it was granted a slot or for as long as it asked.
    pub honoured: bool,
}

/// Asks for a slot, and if there is none, waits for one for as long as `wait` at the most.
pub async fn acquire_within(
    live: &Live,
    ask: &Ask,
    wait: Duration,
    stop: &CancellationToken,
) -> Held {
    let mut honoured = false;
    let answer = wait_for(live, ask, wait, stop, &mut honoured).await;
    Held { answer, honoured }
}

async fn wait_for(
    live: &Live,
    ask: &Ask,
    wait: Duration,
    stop: &CancellationToken,
    honoured: &mut bool,
) -> Answer {
    let over = Instant::now() + wait;
    let window = permitted(live, ask).await?;
    let claim = claim(ask);
    match once(live, &claim).await {
        Err(refusal) if refusal.may_pass() => {}
        answer => return answer,
    }
    let until = window.map_or(over, |left| over.min(Instant::now() + left));
    let options = WaitOptions { lease: live.settings.reserve, poll: POLL };
    let mut waiting = Waiting::start(live.locks.clone(), claim.clone(), options);
    let acquired = tokio::select! {
        acquired = waiting.granted() => Some(acquired),
        () = tokio::time::sleep_until(until) => None,
        () = stop.cancelled() => None,
        // It asks again, if it may still.
        () = live.replaced.cancelled() => None,
    };
    *honoured = acquired.is_some() || Instant::now() >= over;
    // It asked for that wait, which is no part of what the store may take.
    allowance::renew(live.settings.answer_within);
    let answer = match acquired {
        Some(acquired) => granted(&claim, acquired)?,
        // The place stays in the line; asking once more makes it one that asking keeps.
        None => {
            drop(waiting);
            permitted(live, ask).await?;
            once(live, &claim).await?
        }
    };
    // What was so when it began to wait may not be any more. Its slot stays, as for whoever asks again.
    permitted(live, ask).await?;
    Ok(answer)
}

/// Gives a slot back.
///
/// # Errors
/// [`Refusal`] if that could not be done, or the group is not known.
pub async fn release(live: &Live, ask: &Ask) -> Answer {
    let Ask { group, machine, via, .. } = ask;
    known(live, group).await?;
    elsewhere(live, group, Some(machine)).await?;
    let wish = Wish::GiveBack { machine: machine.clone(), via: via.clone() };
    let settled = in_time(live, live.combiner.settle(&live.locks, group, wish)).await?;
    let given_back = match settled.0 {
        Settled::GivenBack(given_back) => given_back,
        // Each wish has an answer of its kind.
        Settled::Turn(_) => GivenBack::NotHeld,
    };
    Ok(match given_back {
        GivenBack::Freed(_) => {
            tracing::info!(
                target: "rebootlock_gateway::audit",
                event = "released", id = %machine, %group, via = %via, address = %ask.address,
                "slot given back"
            );
            format!("the slot of {machine} in group {group} is free again")
        }
        GivenBack::NotHeld => {
            format!("{machine} holds no slot in group {group}; nothing was changed")
        }
        GivenBack::Kept(record) => {
            let via = record.via.as_ref().map_or("another way".to_owned(), ToString::to_string);
            format!("{machine} keeps its slot in group {group}: it was taken by {via}")
        }
    })
}

/// Whether the group is there, has its slots, and a window is open. Says how long the window is, if it ends.
async fn permitted(live: &Live, ask: &Ask) -> Result<Option<Duration>, Refusal> {
    known(live, &ask.group).await?;
    in_time(live, live.see_to_slots(&ask.group)).await?;
    elsewhere(live, &ask.group, None).await?;
    for rules in &live.cluster {
        others(live, ask, rules).await?;
    }
    let now = Timestamp::now();
    match live.windows.judge(now, &ask.machine) {
        Verdict::Open { until, .. } => {
            let left = until.map(|until| now.duration_until(until));
            Ok(left.map(|left| Duration::try_from(left).unwrap_or_default()))
        }
        closed => Err(Refusal::new(Kind::Window, closed.sentence(&TimeZone::UTC))),
    }
}

/// Whether all who hold slots of `group`, or this one, do so here: no others can be counted.
///
/// # Errors
/// [`Refusal`] if another server has given out slots of it in the same store, or that is not known.
pub(crate) async fn elsewhere(
    live: &Live,
    group: &Group,
    machine: Option<&MachineId>,
) -> Result<(), Refusal> {
    match in_time(live, live.elsewhere.of(&live.locks, group)).await? {
        Some(held) if machine.is_none_or(|machine| held.may_be_of(machine)) => {
            Err(Refusal::new(Kind::HeldElsewhere, format!("{held}")))
        }
        _ => Ok(()),
    }
}

/// Whether the fleet can do without this machine too.
async fn others(live: &Live, ask: &Ask, rules: &ClusterRules) -> Result<(), Refusal> {
    // As for an agent: if none are named, those that the machine is in.
    let groups = match rules.groups.is_empty() {
        true => vec![ask.group.clone()],
        false => rules.groups.clone(),
    };
    let fleet = in_time(live, live.locks.fleet(&groups)).await?;
    let rules = ClusterRules { groups, ..rules.clone() };
    let complaints = health::judge(&rules, &fleet, &ask.machine, UnixTime::now());
    if complaints.is_empty() {
        return Ok(());
    }
    let complaints: Vec<_> = complaints.iter().map(ToString::to_string).collect();
    Err(Refusal::new(Kind::Unhealthy, complaints.join("; ")))
}

/// Whether there is such a group.
pub(crate) async fn known(live: &Live, group: &Group) -> Result<(), Refusal> {
    if in_time(live, live.knows(group)).await? {
        return Ok(());
    }
    let text = format!("group {group} is neither configured here nor in the store");
    Err(Refusal::new(Kind::UnknownGroup, text))
}

/// What is claimed by asking.
pub(crate) fn claim(ask: &Ask) -> Claim {
    let mut claim = Claim::new(ask.machine.clone(), [ask.group.clone()], ask.via.clone());
    claim.reason = Some(format!("asked for by {} from {}", ask.via, ask.address));
    claim
}

/// Asks once for what `claim` says, if anybody may be granted anything now. For protocols that have
/// words of their own for how that ends.
///
/// # Errors
/// As for [`acquire`], but that no slot is free is none.
pub(crate) async fn ask_once(
    live: &Live,
    ask: &Ask,
    claim: &Claim,
    reserve: Duration,
) -> Result<(Turn, Glance), Refusal> {
    permitted(live, ask).await?;
    let wish = Wish::Acquire { claim: claim.clone(), memory: memory(reserve) };
    let settled = in_time(live, live.combiner.settle(&live.locks, &ask.group, wish)).await?;
    match settled {
        (Settled::Turn(turn), glance) => Ok((turn, glance)),
        // Each wish has an answer of its kind; whatever this is, it is no grant.
        (Settled::GivenBack(_), _) => Err(store_failed()),
    }
}

/// A client that asks every `reserve` is on its way a little longer.
fn memory(reserve: Duration) -> Duration {
    reserve + reserve / 20
}

async fn once(live: &Live, claim: &Claim) -> Answer {
    let wish = Wish::Acquire { claim: claim.clone(), memory: memory(live.settings.reserve) };
    let group = claim.groups().first().cloned().unwrap_or_default();
    let settle = || in_time(live, live.combiner.settle(&live.locks, &group, wish.clone()));
    let mut settled = settle().await?;
    if let Some(token) = held_before(&settled.0) {
        live.heard.asked(token);
        match live.settings.release_silent {
            None => live.heard.not_noted(),
            Some(rule) => {
                let noted = live.heard.note(&live.locks, &claim.machine, token, rule.after);
                if in_time(live, noted).await? {
                    // Its slot may have been given back just before that was noted.
                    settled = settle().await?;
                }
            }
        }
    }
    match settled {
        (Settled::Turn(Turn::Granted(acquired)), _) => granted(claim, acquired),
        (Settled::Turn(Turn::Queued(queued)), glance) => {
            Err(Refusal::new(Kind::Full, in_line(&queued, &glance)))
        }
        // Each wish has an answer of its kind; whatever this is, it is no grant.
        (Settled::GivenBack(_), _) => Err(store_failed()),
    }
}

/// By which acquisition a FleetLock client had its slot already.
fn held_before(settled: &Settled) -> Option<Token> {
    match settled {
        Settled::Turn(Turn::Granted(Acquired::Already(Some(record)))) => {
            record.token.filter(|_| record.via == Some(Via::Fleetlock))
        }
        _ => None,
    }
}

/// What is said of a slot that is the machine's, and written to the log.
///
/// # Errors
/// Refused if somebody else took it.
pub(crate) fn granted(claim: &Claim, acquired: Acquired) -> Answer {
    let machine = &claim.machine;
    let group = claim.groups().iter().map(Group::as_str).collect::<Vec<_>>().join(", ");
    match acquired {
        Acquired::Granted => {
            tracing::info!(
                target: "rebootlock_gateway::audit",
                event = "granted", id = %machine, %group, via = %claim.via,
                reason = claim.reason.as_deref(), "slot taken"
            );
            Ok(format!("{machine} holds a slot in group {group}"))
        }
        Acquired::Already(record) => match record {
            // It is given back when whoever took it says so, and not when this client's machine is up again.
            Some(record) if record.via.as_ref().is_some_and(|via| *via != claim.via) => {
                let via = record.via.as_ref().map(ToString::to_string).unwrap_or_default();
                let text = format!(
                    "{machine} has a slot in group {group} already, taken by {via}; this one is not \
                     for you to reboot with"
                );
                Err(Refusal::new(Kind::TakenOtherwise, text))
            }
            Some(record) => {
                let since = record.start_time.to_text();
                Ok(format!("{machine} holds a slot in group {group} since {since}"))
            }
            None => Ok(format!("{machine} holds a slot in group {group}")),
        },
    }
}

/// Who has the slots, since when, and who goes first.
pub(crate) fn in_line(queued: &Queued, glance: &Glance) -> String {
    let Queued { group, max, free, ahead } = queued;
    let before = match (*ahead, *free) {
        (0, _) => "you are the next".to_owned(),
        (1, _) => "1 machine goes before you".to_owned(),
        (n, _) if n >= Queued::MOST_AHEAD => format!("{n} machines or more go before you"),
        (n, _) => format!("{n} machines go before you"),
    };
    if *max == 0 {
        return format!(
            "group {group} has no slots: nobody in it may reboot until somebody gives it some"
        );
    }
    if *free > 0 {
        return format!(
            "{free} of {max} slots of group {group} are free, but kept for who asked first: {before}"
        );
    }
    let holders = glance.as_deref().and_then(|(semaphore, record)| {
        let others = match semaphore.holders().len().saturating_sub(1) {
            0 => String::new(),
            1 => " and 1 other".to_owned(),
            n => format!(" and {n} others"),
        };
        let first = semaphore.holders().first().map(ToString::to_string);
        let name = record.as_ref().and_then(|r| r.hostname.clone()).or(first)?;
        let since = record.as_ref().map(|r| format!(" since {}", r.start_time.to_text()));
        Some(format!(" by {name}{}{others}", since.unwrap_or_default()))
    });
    let holders = holders.unwrap_or_default();
    format!("all {max} slots of group {group} are taken{holders}; {before}")
}

/// What the lock answers, if it does so in the time that is left for this request.
///
/// # Errors
/// What clients are told instead.
pub(crate) async fn in_time<T>(
    live: &Live,
    asked: impl Future<Output = Result<T, LockError>>,
) -> Result<T, Refusal> {
    let asking = Instant::now();
    let refusal = match allowance::within(live.settings.answer_within, asked).await {
        Some(Ok(answer)) => return Ok(answer),
        Some(Err(error)) => Refusal::of(&error),
        None => {
            let within = live.settings.answer_within.as_secs();
            tracing::warn!(within, store = live.locks.store().location(), "the store is too slow");
            store_unavailable()
        }
    };
    // Time ran out, and the store settles what it is asked: this or what others ask.
    let busy = refusal.kind == Kind::StoreUnavailable && live.commits.answered(asking);
    Err(if busy { store_busy() } else { refusal })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_away_if_it_does_not_answer_and_only_then() {
        let store = |source| LockError::Store { action: "asking".to_owned(), source };
        let contended =
            LockError::Contended { action: "asking".to_owned(), after: Duration::from_secs(5) };
        let not_ours = LockError::NotOurs {
            machine: MachineId::new("a").unwrap(),
            group: Group::default(),
            what: "another one",
        };
        for (error, kind) in [
            (store(StoreError::Unavailable("no answer".to_owned())), Kind::StoreUnavailable),
            (store(StoreError::Broken("no disk".to_owned())), Kind::StoreFailed),
            (store(StoreError::Forbidden("not you".to_owned())), Kind::StoreFailed),
            (contended, Kind::StoreBusy),
            (not_ours, Kind::Conflict),
        ] {
            assert_eq!(Refusal::of(&error).kind, kind, "{error:?}");
        }
    }
}
