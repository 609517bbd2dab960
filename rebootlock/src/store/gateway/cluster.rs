//! The gateways of one store: connecting to them, moving on from bad ones, sharing out time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Uri;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::failure::{Failure, summary};
use super::link::{Ask, Link};
use crate::http::Access;
use crate::store::rotation::Rotation;
use crate::store::{Result, StoreError};

/// Connections kept for the next call, beyond those in use.
const KEPT: usize = 4;

/// Whether a request may be sent again when its outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Twice does no harm.
    Freely,
    /// Only if it certainly did not happen.
    OnlyIfUnsent,
}

/// All gateways, one of them current.
#[derive(Debug)]
pub(super) struct Cluster {
    gateways: Vec<Gateway>,
    rotation: Rotation,
    access: Access,
    timeout: Duration,
}

#[derive(Debug)]
struct Gateway {
    shown: String,
    url: Uri,
    kept: Mutex<Vec<Link>>,
}

impl Cluster {
    pub(super) fn new(urls: &[String], access: Access, timeout: Duration) -> Result<Self> {
        let gateway = |url: &String| {
            let wrong = |_| StoreError::Broken(format!("{url} is no address of a gateway"));
            Ok(Gateway {
                shown: url.clone(),
                url: url.parse().map_err(wrong)?,
                kept: Mutex::default(),
            })
        };
        let gateways: Vec<_> = urls.iter().map(gateway).collect::<Result<_>>()?;
        if gateways.is_empty() {
            return Err(StoreError::Broken("no gateway is configured".to_owned()));
        }
        Ok(Self { rotation: Rotation::of(gateways.len()), gateways, access, timeout })
    }

    pub(super) fn location(&self) -> String {
        let shown = self.gateways.iter().map(|gateway| format!("gateway+{}", gateway.shown));
        shown.collect::<Vec<_>>().join(",")
    }

    pub(super) fn shown(&self, index: usize) -> &str {
        self.gateways.get(index).map_or("", |gateway| &gateway.shown)
    }

    pub(super) fn len(&self) -> usize {
        self.gateways.len()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The gateways in the order to try them.
    pub(super) fn order(&self) -> Vec<usize> {
        self.rotation.order()
    }

    /// Notes that a gateway works.
    pub(super) fn worked(&self, index: usize) {
        self.rotation.worked(index);
    }

    /// Notes that a gateway does not work.
    pub(super) fn failed(&self, index: usize) {
        self.rotation.failed(index);
    }

    /// A connection of its own.
    pub(super) async fn connect(&self, index: usize) -> std::result::Result<Link, Failure> {
        match self.gateways.get(index) {
            Some(gateway) => Link::new(&gateway.url, &self.access).await,
            None => Err(Failure::Undone("no such gateway".to_owned())),
        }
    }

    /// Has something done by some gateway, within the time limit.
    pub(super) async fn call<T: DeserializeOwned>(&self, repeat: Repeat, ask: &Ask) -> Result<T> {
        let deadline = Instant::now() + self.timeout;
        let mut failures = Vec::new();
        let order = self.order();
        for (tried, index) in order.iter().enumerate() {
            let Some(gateway) = self.gateways.get(*index) else { continue };
            let left = deadline.saturating_duration_since(Instant::now());
            let waiting = u32::try_from(order.len() - tried).unwrap_or(u32::MAX);
            let limits = Limits { repeat, give_up: Instant::now() + left / waiting, deadline };
            match self.attempt(*index, gateway, ask, limits).await {
                Ok(answer) => {
                    self.worked(*index);
                    return Ok(answer);
                }
                Err(Failure::Settled(error)) => {
                    self.worked(*index);
                    return Err(at(&gateway.shown, error));
                }
                Err(failure) => {
                    self.failed(*index);
                    let ambiguous = failure.is_ambiguous();
                    failures.push((&*gateway.shown, failure));
                    if ambiguous && repeat == Repeat::OnlyIfUnsent {
                        break;
                    }
                }
            }
        }
        Err(summary(&failures))
    }

    /// One request at one gateway: over a connection that was kept, or if that has gone, a new one.
    async fn attempt<T: DeserializeOwned>(
        &self,
        index: usize,
        gateway: &Gateway,
        ask: &Ask,
        limits: Limits,
    ) -> std::result::Result<T, Failure> {
        let began = Instant::now();
        let late = || Failure::Undone(no_answer(began));
        if let Some(mut link) = gateway.take() {
            match limits.ask(&mut link, ask).await {
                Ok(answer) => {
                    gateway.keep(link);
                    return Ok(answer);
                }
                Err(failure @ Failure::Settled(_)) => {
                    gateway.keep(link);
                    return Err(failure);
                }
                // The gateway may have been restarted since, or the password replaced.
                Err(Failure::Undone(_) | Failure::Refused(_)) => {}
                Err(Failure::Unknown(_)) if limits.repeat == Repeat::Freely => {}
                Err(failure) => return Err(failure),
            }
            gateway.kept().clear();
        }
        let connecting = timeout_at(limits.give_up, self.connect(index)).await;
        let mut link = connecting.unwrap_or_else(|_| Err(late()))?;
        let answer = limits.ask(&mut link, ask).await;
        if matches!(answer, Ok(_) | Err(Failure::Settled(_))) {
            gateway.keep(link);
        }
        answer
    }
}

/// How long an attempt may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    repeat: Repeat,
    /// For what may be given up and tried elsewhere.
    give_up: Instant,
    /// For all.
    deadline: Instant,
}

impl Limits {
    async fn ask<T: DeserializeOwned>(
        self,
        link: &mut Link,
        ask: &Ask,
    ) -> std::result::Result<T, Failure> {
        let began = Instant::now();
        if self.repeat == Repeat::Freely {
            let answer = timeout_at(self.give_up, link.ask(ask)).await;
            return answer.unwrap_or_else(|_| Err(Failure::Unknown(no_answer(began))));
        }
        if !link.is_trusted() {
            let probed = timeout_at(self.give_up, link.probe()).await;
            let probed = probed.unwrap_or_else(|_| Err(Failure::Undone(no_answer(began))));
            probed.map_err(Failure::of_something_unsent)?;
        }
        // What cannot be repeated gets all the time there is.
        let answer = timeout_at(self.deadline, link.ask(ask)).await;
        answer.unwrap_or_else(|_| Err(Failure::Unknown(no_answer(began))))
    }
}

fn no_answer(began: Instant) -> String {
    format!("no answer within {:.1?}", began.elapsed())
}

/// Says where, of those errors that have a text.
fn at(url: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Forbidden(text) => StoreError::Forbidden(format!("{url}: {text}")),
        StoreError::Broken(text) => StoreError::Broken(format!("{url}: {text}")),
        error => error,
    }
}

impl Gateway {
    fn kept(&self) -> MutexGuard<'_, Vec<Link>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last, which is the one most likely to be there still.
    fn take(&self) -> Option<Link> {
        let mut kept = self.kept();
        kept.retain(Link::is_open);
        kept.pop()
    }

    fn keep(&self, link: Link) {
        let mut kept = self.kept();
        if kept.len() < KEPT && link.is_open() {
            kept.push(link);
        }
    }
}
