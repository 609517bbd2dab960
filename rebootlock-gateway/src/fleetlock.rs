//! FleetLock v1: `POST /v1/pre-reboot` takes a slot, `POST /v1/steady-state` gives it back.
//!
//! Stock clients take any 2xx for a grant, follow redirects with a GET that still has the header, and
//! drop the last segment of a base URL without a slash at its end. So 200 means granted and nothing
//! else, nothing redirects, and no other method is served.

mod body;
mod prefer;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use rebootlock::id::{Group, MachineId};
use rebootlock::record::Via;

use self::body::Params;
use crate::app::{App, Live};
use crate::client;
use crate::reply::{Kind, Reply};
use crate::slots::{self, Answer, Ask};

/// Guards against requests that were not meant for a lock.
pub(crate) const PROTOCOL: HeaderName = HeaderName::from_static("fleet-lock-protocol");

/// Longest body, in bytes.
pub(crate) const MAX_BODY: usize = 64 * 1024;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// `POST /v1/pre-reboot`
pub async fn pre_reboot(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    answer(&app, request, Call::PreReboot).await
}

/// `POST /v1/steady-state`
pub async fn steady_state(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    answer(&app, request, Call::SteadyState).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    PreReboot,
    SteadyState,
}

async fn answer(app: &App, request: Request, call: Call) -> Response<Body> {
    let live = app.live();
    let reply = handle(app, &live, request, call).await;
    reply.unwrap_or_else(|refused| refused).into_response(live.settings.airlock_kinds)
}

/// Both sides are answers; the question mark leaves with the first refusal.
async fn handle(app: &App, live: &Live, request: Request, call: Call) -> Result<Reply, Reply> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        return Err(Reply::only("POST"));
    }
    check_protocol(&head.headers)?;
    let client = client::of(live, &head).await?;
    let body = read(body, MAX_BODY, live.settings.body_timeout).await?;
    let (machine, group) = names(&body)?;
    client.may(&group, &machine)?;
    let ask = Ask { group, machine, via: Via::Fleetlock, address: client.address.ip() };
    let answer = match call {
        Call::SteadyState => return Ok(reply(slots::release(live, &ask).await)),
        Call::PreReboot => prefer::wait(&head.headers).map(|wait| wait.min(live.settings.max_wait)),
    };
    match answer.filter(|wait| !wait.is_zero()) {
        None => Ok(reply(slots::acquire(live, &ask).await)),
        Some(wait) => {
            let held = slots::acquire_within(live, &ask, wait, &app.stop).await;
            let reply = reply(held.answer);
            let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs()));
            Ok(match applied {
                Ok(applied) if held.honoured => reply.with(PREFERENCE_APPLIED, applied),
                _ => reply,
            })
        }
    }
}

fn reply(answer: Answer) -> Reply {
    match answer {
        Ok(value) => Reply::new(Kind::Success, value),
        Err(refusal) => refusal.into(),
    }
}

/// Exactly one header, and exactly `true`.
fn check_protocol(headers: &HeaderMap) -> Result<(), Reply> {
    let mut given = headers.get_all(PROTOCOL).iter();
    match (given.next(), given.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        (None, _) => Err(Reply::new(
            Kind::MissingHeader,
            "the header `fleet-lock-protocol: true` is missing",
        )),
        _ => Err(Reply::new(
            Kind::MissingHeader,
            "the header `fleet-lock-protocol` must be there once and say `true`",
        )),
    }
}

/// The whole body.
///
/// # Errors
/// What is wrong with it.
pub(crate) async fn read(body: Body, limit: usize, within: Duration) -> Result<Vec<u8>, Reply> {
    let too_long = || Reply::new(Kind::TooLarge, format!("the body is longer than {limit} bytes"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_long());
    }
    let read = tokio::time::timeout(within, Limited::new(body, limit).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<LengthLimitError>() || is_too_long(&*error) => Err(too_long()),
        Ok(Err(error)) => {
            Err(Reply::new(Kind::InvalidBody, format!("the body breaks off: {error}")))
        }
        Err(_) => Err(Reply::new(Kind::Timeout, "the body took too long to arrive")),
    }
}

/// The limit's error may come wrapped.
fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    error.source().is_some_and(|cause| cause.is::<LengthLimitError>() || is_too_long(cause))
}

fn names(body: &[u8]) -> Result<(MachineId, Group), Reply> {
    let Params { id, group } =
        body::parse(body).map_err(|problem| Reply::new(Kind::InvalidBody, problem))?;
    let invalid = |problem: String| Reply::new(Kind::InvalidParams, problem);
    let given = |name: &str, value: Option<String>| match value {
        Some(value) if !value.is_empty() => Ok(value),
        Some(_) => Err(invalid(format!("`client_params.{name}` is empty"))),
        None => Err(invalid(format!("`client_params.{name}` is missing"))),
    };
    let (id, group) = (given("id", id)?, given("group", group)?);
    let machine = MachineId::new(id).map_err(|e| invalid(format!("`client_params.id`: {e}")))?;
    let group = Group::new(group).map_err(|e| invalid(format!("`client_params.group`: {e}")))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    if !group.as_str().chars().all(allowed) {
        let text = "`client_params.group` may have letters, digits, dots and hyphens in it only";
        return Err(invalid(text.to_owned()));
    }
    Ok((machine, group))
}
