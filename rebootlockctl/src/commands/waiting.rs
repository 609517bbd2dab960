//! Getting a slot: at once, or in turn, telling a person meanwhile what is in the way.

use anyhow::{Context as _, bail};
use rebootlock::duration;
use rebootlock::lock::{Acquired, Ended, LockError, Release};
use rebootlock::record::Claim;
use rebootlock::wait::{Obstacle, Progress, WaitOptions, Waiting};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Patience;
use crate::output::{clean, say};
use crate::session::Session;

/// Takes the slots of `claim`. Without patience in one try.
pub(super) async fn acquire(
    session: &Session,
    claim: &Claim,
    patience: Option<Patience>,
) -> anyhow::Result<Acquired> {
    let patience = match patience {
        None => return Ok(session.locks.acquire(claim).await?),
        Some(Patience::For(time)) if time.is_zero() => {
            return Ok(session.locks.acquire(claim).await?);
        }
        Some(patience) => patience,
    };
    // What waiting cannot cure, such as a wrong password, is better said at once.
    match session.locks.holding(claim.groups(), &claim.machine).await {
        Err(error) if !error.is_transient() => return Err(error.into()),
        _ => {}
    }
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
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
            _ = interrupt.recv() => break false,
            _ = terminate.recv() => break false,
        }
    };
    let obstacle = waiting.obstacle();
    match (waiting.leave().await, out_of_time) {
        // It came at the last moment.
        (Some(acquired), true) => Ok(acquired),
        (acquired, false) => {
            if let Some(Acquired::Granted) = acquired {
                let release = Release::of(claim.token, Ended::GivenBack);
                session.locks.release(claim.groups(), &claim.machine, &release).await?;
            }
            bail!("interrupted; {} waits no longer", claim.machine)
        }
        (None, true) => in_vain(session, claim, patience, obstacle).await,
    }
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
) -> anyhow::Result<Acquired> {
    let waited = match patience {
        Patience::For(time) => format!("waited for {}", duration::show(time.as_secs())),
        Patience::Forever => "waited".to_owned(),
    };
    let group = match obstacle {
        Obstacle::Failing { why, .. } => bail!("{waited}: {why}"),
        // The error of one more try says who paused. If it was resumed just now, all the better.
        Obstacle::Paused { .. } | Obstacle::Held { .. } | Obstacle::CoolingDown { .. } => {
            return session.locks.acquire(claim).await.context(waited);
        }
        Obstacle::Queued { group, .. } => group,
        Obstacle::Asking => claim.groups().first().cloned().unwrap_or_default(),
    };
    let max = session.locks.status(&group).await.context(waited.clone())?.semaphore.max();
    Err(LockError::Full { group, max }).context(waited)
}
