//! `/healthz`: the process answers. `/readyz`: the store does too. `/metrics`: figures for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, Response};
use rebootlock::id::Group;
use rebootlock::record::UnixTime;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::allowance;
use crate::app::{App, Live, chain};
use crate::groups::{self, Look};
use crate::reply::{Kind, Reply};

/// What was seen is good for so long, for everybody who asks: nobody has to be known here, nobody is
/// counted, and each look is a question to the store.
const FRESH: Duration = Duration::from_secs(1);

/// What whoever watches was shown last.
#[derive(Debug, Default)]
pub struct Seen {
    store: Shared<Result<(), &'static str>>,
    groups: Shared<Option<Arc<Vec<Look>>>>,
}

/// Something that is looked for by one at a time, and by all who come meanwhile or soon after.
#[derive(Debug)]
struct Shared<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Shared<T> {
    async fn get(&self, look: impl Future<Output = T>) -> T {
        let mut last = self.0.lock().await;
        if let Some((at, seen)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return seen.clone();
        }
        let seen = look.await;
        *last = Some((Instant::now(), seen.clone()));
        seen
    }
}

/// `GET /healthz`
pub async fn healthz(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let reply = only_get(&request).map(|()| Reply::new(Kind::Success, "ok"));
    reply.unwrap_or_else(|refused| refused).into_response(app.live().settings.airlock_kinds)
}

/// `GET /readyz`
pub async fn readyz(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let airlock = app.live().settings.airlock_kinds;
    let reply = match only_get(&request) {
        Ok(()) => ready(&app).await,
        Err(refused) => refused,
    };
    reply.into_response(airlock)
}

async fn ready(app: &App) -> Reply {
    if app.stop.is_cancelled() {
        return Reply::new(Kind::Overloaded, "the gateway is about to stop");
    }
    let live = app.live();
    // Who waits for another's look to end has no more time than that one had.
    let asked = app.seen.store.get(look_at_store(&live));
    match allowance::within(live.settings.answer_within, asked).await.unwrap_or(Err(SLOW)) {
        Ok(()) => Reply::new(Kind::Success, "the store answers"),
        Err(text) => Reply::new(Kind::StoreUnavailable, text),
    }
}

const SLOW: &str = "the store does not answer in time";

async fn look_at_store(live: &Live) -> Result<(), &'static str> {
    let key = live.locks.keys().semaphore(&Group::default());
    let loaded = live.locks.store().load(std::slice::from_ref(&key));
    match tokio::time::timeout(live.settings.answer_within, loaded).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "not ready");
            Err("the store does not answer")
        }
        Err(_) => Err(SLOW),
    }
}

async fn look_at_groups(live: &Live) -> Option<Arc<Vec<Look>>> {
    let look = groups::look(live, UnixTime::now());
    let looks = tokio::time::timeout(live.settings.answer_within, look).await;
    looks.ok().and_then(Result::ok).map(Arc::new)
}

/// `GET /metrics`
pub async fn metrics(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let live = app.live();
    if let Err(refused) = only_get(&request) {
        return refused.into_response(live.settings.airlock_kinds);
    }
    let asked = app.seen.groups.get(look_at_groups(&live));
    let looks = allowance::within(live.settings.answer_within, asked).await.flatten();
    let airlock = live.settings.airlock_metrics.then_some(&live.configured);
    let text = app.metrics.text(looks.as_ref().map(|looks| looks.as_slice()), airlock);
    let mut response = Response::new(Body::from(text));
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format));
    response
}

fn only_get(request: &Request) -> Result<(), Reply> {
    match *request.method() {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Reply::only("GET, HEAD")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_look_is_for_all_who_come_within_a_second() {
        let (shared, looks) = (Shared::default(), AtomicUsize::new(0));
        let look = || async {
            tokio::time::sleep(FRESH * 3).await;
            looks.fetch_add(1, Ordering::SeqCst)
        };
        assert_eq!(join_all((0..20).map(|_| shared.get(look()))).await, [0; 20]);
        tokio::time::sleep(FRESH / 2).await;
        assert_eq!(shared.get(look()).await, 0);
        tokio::time::sleep(FRESH).await;
        // One that hangs up leaves it to the next.
        let hangs_up = tokio::time::timeout(FRESH, shared.get(look())).await;
        assert!(hangs_up.is_err());
        assert_eq!(shared.get(look()).await, 1);
    }
}
