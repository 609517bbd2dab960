//! Getting a slot: at once, or in turn, telling a person meanwhile what is in the way.
//!
//! Whatever ends it without a slot leaves none behind: an acquisition that was sent and not answered
//! may have happened, or happen yet, so it is settled, and what it took is given back. Where that
//! cannot be done, the error says that it is not known who has what.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use rebootlock::duration;
use rebootlock::lock::{Acquired, Ended, LockError, LockManager, Release};
use rebootlock::record::Claim;
use rebootlock::wait::{Obstacle, Progress, WaitOptions, Waiting};

use crate::cli::Patience;
use crate::output::{clean, say};
use crate::session::Session;
use crate::signals::Signals;

/// How long it is tried to settle what was not answered.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);

/// Between two tries.
const SETTLE_AGAIN: Duration = Duration::from_millis(500);

/// Takes the slots of `claim`. Without patience in one try.
pub(super) async fn acquire(
    session: &Session,
    claim: &Claim,
    patience: Option<Patience>,
    signals: &mut Signals,
) -> anyhow::Result<Acquired> {
    // What waiting cannot cure, such as a wrong password, is better said at once. And who was told
    // nothing by the store has sent it nothing that may come late.
    let reached = tokio::select! {
        biased;
        held = session.locks.holding(claim.groups(), &claim.machine) => held,
        _ = signals.next() => bail!(interrupted(claim)),
    };
    let patience = patience.filter(|patience| *patience != Patience::For(Duration::ZERO));
    match (patience, reached) {
        (None, Err(error)) => Err(error.into()),
        (Some(_), Err(error)) if !error.is_transient() => Err(error.into()),
        (None, Ok(_)) => at_once(session, claim, signals).await,
        (Some(patience), _) => in_turn(session, claim, patience, signals).await,
    }
}

fn interrupted(claim: &Claim) -> String {
    format!("interrupted; {} waits no longer", claim.machine)
}

async fn at_once(
    session: &Session,
    claim: &Claim,
    signals: &mut Signals,
) -> anyhow::Result<Acquired> {
    let asked = tokio::select! {
        biased;
        asked = session.locks.acquire(claim) => Some(asked),
        _ = signals.next() => None,
    };
    match asked {
        Some(Err(error @ LockError::Store { .. })) => {
            leave_nothing(session, claim, signals).await?;
            Err(error.into())
        }
        Some(answered) => Ok(answered?),
        None => {
            leave_nothing(session, claim, signals).await?;
            bail!(interrupted(claim))
        }
    }
}

async fn in_turn(
    session: &Session,
    claim: &Claim,
    patience: Patience,
    signals: &mut Signals,
) -> anyhow::Result<Acquired> {
    let deadline = async {
        match patience {
            Patience::Forever => std::future::pending().await,
            Patience::For(time) => tokio::time::sleep(time).await,
        }
    };
    tokio::pin!(deadline);
    let mut waiting = Waiting::start(session.locks.clone(), claim.clone(), WaitOptions::default());
    let mut said = String::new();
    let out_of_time = loop {
        tokio::select! {
            biased;
            progress = waiting.next() => match progress {
                Progress::Granted(acquired) => return Ok(acquired),
                Progress::Obstacle(obstacle) => {
                    let text = describe(&obstacle);
                    if text != said {
                        say(format_args!("{text}"));
                        said = text;
                    }
                }
            },
            () = &mut deadline => break true,
            _ = signals.next() => break false,
        }
    };
    let obstacle = waiting.obstacle();
    let late = tokio::select! {
        biased;
        late = waiting.leave() => late,
        _ = signals.next() => return Err(not_known(claim, "interrupted")),
    };
    match late {
        // It came at the last moment.
        Some(acquired) if out_of_time => return Ok(acquired),
        Some(Acquired::Granted) => leave_nothing(session, claim, signals).await?,
        Some(Acquired::Already(_)) => {}
        None if waiting.is_unsettled() => leave_nothing(session, claim, signals).await?,
        None => {}
    }
    match out_of_time {
        true => in_vain(session, claim, patience, obstacle, signals).await,
        false => bail!(interrupted(claim)),
    }
}

/// Sees to it that a claim which was given up has no slot, and that none of what it asked for can
/// still happen.
///
/// # Errors
/// If that cannot be done: see [`not_known`].
async fn leave_nothing(
    session: &Session,
    claim: &Claim,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let mut last = None;
    let settle = async {
        loop {
            match give_back(&session.locks, claim).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => {
                    if last.is_none() {
                        let (machine, time) = (&claim.machine, SETTLE_WITHIN.as_secs());
                        say(format_args!(
                            "the store does not tell whether {machine} got a slot: {error}; asking \
                             for {time} s, Ctrl-C ends it"
                        ));
                    }
                    last = Some(error.to_string());
                    tokio::time::sleep(SETTLE_AGAIN).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(SETTLE_WITHIN, settle) => ended.ok(),
        _ = signals.next() => Some(Err("interrupted".to_owned())),
    };
    match ended {
        Some(Ok(())) => Ok(()),
        Some(Err(why)) => Err(not_known(claim, &why)),
        None => Err(not_known(claim, last.as_deref().unwrap_or("the store does not answer"))),
    }
}

/// Gives back what was taken under the claim's token, and only that.
async fn give_back(locks: &LockManager, claim: &Claim) -> Result<(), LockError> {
    if locks.settle_unanswered(claim.groups(), &claim.machine).await? {
        let release = Release::of(claim.token, Ended::GivenBack);
        locks.release(claim.groups(), &claim.machine, &release).await?;
    }
    Ok(())
}

fn not_known(claim: &Claim, why: &str) -> anyhow::Error {
    let machine = &claim.machine;
    anyhow!(
        "it is not known whether {machine} has got a slot: {why}; once the store answers, \
         rebootlockctl status tells, and rebootlockctl unlock {machine} frees it"
    )
}

/// What a person is told while waiting.
fn describe(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::Asking => "asking for a slot".to_owned(),
        Obstacle::Queued { group, ahead: Some(0) } => {
            format!("waiting for a slot in group {group}: next in the queue")
        }
        Obstacle::Queued { group, ahead: Some(ahead) } => {
            format!("waiting for a slot in group {group}: {ahead} before us")
        }
        Obstacle::Queued { group, ahead: None } => {
            format!("waiting for a slot in group {group}: many before us")
        }
        Obstacle::CoolingDown { why, until, .. } => {
            let until = until.map(|until| format!(", until {}", until.to_text()));
            clean(&format!("next in the queue: {why}{}", until.unwrap_or_default()))
        }
        Obstacle::Paused { why, .. } | Obstacle::Held { why } | Obstacle::Failing { why, .. } => {
            clean(&format!("waiting: {why}"))
        }
    }
}

/// How it ends when the time is over: with an error by what was in the way last.
async fn in_vain(
    session: &Session,
    claim: &Claim,
    patience: Patience,
    obstacle: Obstacle,
    signals: &mut Signals,
) -> anyhow::Result<Acquired> {
    let waited = match patience {
        Patience::For(time) => format!("waited for {}", duration::show(time.as_secs())),
        Patience::Forever => "waited".to_owned(),
    };
    let group = match obstacle {
        Obstacle::Failing { why, .. } => bail!("{waited}: {why}"),
        // The error of one more try says who paused. If it was resumed just now, all the better.
        Obstacle::Paused { .. } | Obstacle::Held { .. } | Obstacle::CoolingDown { .. } => {
            return at_once(session, claim, signals).await.context(waited);
        }
        Obstacle::Queued { group, .. } => group,
        Obstacle::Asking => claim.groups().first().cloned().unwrap_or_default(),
    };
    let max = session.locks.status(&group).await.context(waited.clone())?.semaphore.max();
    Err(LockError::Full { group, max }).context(waited)
}
