//! `/healthz`: the process answers. `/readyz`: the store does too. `/metrics`: figures for Prometheus.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, Response};
use rebootlock::id::Group;
use rebootlock::record::UnixTime;

use crate::app::{App, chain};
use crate::groups;
use crate::reply::{Kind, Reply};

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
    let key = live.locks.keys().semaphore(&Group::default());
    let loaded = live.locks.store().load(std::slice::from_ref(&key));
    match tokio::time::timeout(live.settings.answer_within, loaded).await {
        Ok(Ok(_)) => Reply::new(Kind::Success, "the store answers"),
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "not ready");
            Reply::new(Kind::StoreUnavailable, "the store does not answer")
        }
        Err(_) => Reply::new(Kind::StoreUnavailable, "the store does not answer in time"),
    }
}

/// `GET /metrics`
pub async fn metrics(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let live = app.live();
    if let Err(refused) = only_get(&request) {
        return refused.into_response(live.settings.airlock_kinds);
    }
    let look = groups::look(&live, UnixTime::now());
    let looks = tokio::time::timeout(live.settings.answer_within, look).await;
    let looks = looks.ok().and_then(Result::ok);
    let airlock = live.settings.airlock_metrics.then_some(&live.configured);
    let text = app.metrics.text(looks.as_deref(), airlock);
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
