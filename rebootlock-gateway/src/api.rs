//! `/api/v1/…`: the fleet, and what operators do, as JSON. `proto-docs/openapi.json` describes it.
//!
//! What is refused is a problem (RFC 9457). What acts takes a body of type `application/json`, which no
//! page of somebody else's can send without asking first, and we allow none.

mod body;
mod route;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use rebootlock::record::UnixTime;
use rebootlock::view::{GroupView, MachineView, PastView};
use serde::Serialize;

use self::route::{Act, Route, Sight};
use crate::act::{Order, carry_out};
use crate::app::{App, Live};
use crate::reply::{Kind, Reply, Told};
use crate::serve::Peer;
use crate::slots::{Refusal, in_time};
use crate::{fleet, fleetlock, operators};

/// The description of all this.
const OPENAPI: &str = include_str!("../../proto-docs/openapi.json");

/// What browsers say of the page that asks.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Whatever is below `/api/v1` and not somebody else's.
pub async fn answer(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let live = app.live();
    let (head, body) = request.into_parts();
    match handle(&live, &head, body).await {
        Ok(json) => success(json),
        Err(refused) => refused.into_problem(),
    }
}

/// Whether there is anything at `path`, which is below `/api/v1`.
pub(crate) fn is_there(path: &str) -> bool {
    !matches!(route::of(path), Err(reply) if reply.kind == Kind::NotFound)
}

/// What is at `/api/v1` itself.
#[derive(Serialize)]
struct Service {
    name: &'static str,
    version: &'static str,
}

async fn handle(live: &Live, head: &Parts, body: Body) -> Result<Vec<u8>, Reply> {
    let peer = head.extensions.get::<Peer>().cloned().unwrap_or_default();
    let route = route::of(head.uri.path())?;
    match (route, &head.method) {
        (Route::See(sight), &(Method::GET | Method::HEAD)) => see(live, head, &peer, sight).await,
        (Route::See(_), _) => Err(Reply::only("GET, HEAD")),
        (Route::Act(act), &Method::POST) => {
            let operator = operators::operator(live, &head.headers, &peer).await.map_err(reply)?;
            must_be_from_here(&head.headers)?;
            must_be_json(&head.headers)?;
            route::no_query(head.uri.query())?;
            let body =
                fleetlock::read(body, fleetlock::MAX_BODY, live.settings.body_timeout).await?;
            let order = order(act, &body)?;
            json(&carry_out(live, &operator, &order).await.map_err(reply)?)
        }
        (Route::Act(_), _) => Err(Reply::only("POST")),
    }
}

async fn see(live: &Live, head: &Parts, peer: &Peer, sight: Sight) -> Result<Vec<u8>, Reply> {
    let query = head.uri.query();
    let secret = !matches!(sight, Sight::Service | Sight::OpenApi);
    if secret {
        operators::reader(live, &head.headers, peer).await.map_err(reply)?;
    }
    if !matches!(sight, Sight::History | Sight::Acts) {
        route::no_query(query)?;
    }
    let now = UnixTime::now();
    match sight {
        Sight::Service => {
            json(&Service { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") })
        }
        Sight::OpenApi => Ok(OPENAPI.as_bytes().to_vec()),
        Sight::Fleet => json(&asked(live, fleet::look(live, now)).await?),
        Sight::Groups => json(&asked(live, fleet::look_at_groups(live, now)).await?),
        Sight::Group(group) => match asked(live, fleet::look_at_group(live, &group, now)).await? {
            Some(view) => json(&view),
            None => Err(Reply::new(
                Kind::NotFound,
                format!("group {group} is neither configured here nor in the store"),
            )),
        },
        Sight::Queue => {
            let groups = asked(live, fleet::look_at_groups(live, now)).await?;
            let readable = groups.iter().filter_map(GroupView::readable);
            json(&readable.flat_map(|group| &group.queue).collect::<Vec<_>>())
        }
        Sight::Machines => {
            let groups = asked(live, fleet::readable_groups(live)).await?;
            let fleet = asked(live, live.locks.fleet(&groups)).await?;
            let machines = fleet.members.iter();
            let machines = machines.map(|(id, member)| MachineView::of(id, member, now));
            json(&machines.collect::<Vec<_>>())
        }
        Sight::History => {
            let wanted = route::query(query, now, true)?;
            let groups = match wanted.groups.is_empty() {
                true => asked(live, fleet::groups(live)).await?.into_iter().collect(),
                false => wanted.groups,
            };
            let found = asked(live, live.locks.history(&groups, wanted.since)).await?;
            let pasts = found.into_iter().filter_map(|entry| entry.past.ok());
            json(&pasts.map(PastView::from).collect::<Vec<_>>())
        }
        Sight::Acts => {
            let wanted = route::query(query, now, false)?;
            let acts = live.locks.acts(wanted.since, rebootlock::lock::ACTS_KEPT);
            json(&asked(live, acts).await?.into_iter().flatten().collect::<Vec<_>>())
        }
    }
}

async fn asked<T>(
    live: &Live,
    asked: impl Future<Output = Result<T, rebootlock::lock::LockError>>,
) -> Result<T, Reply> {
    in_time(live, asked).await.map_err(reply)
}

fn order(act: Act, body: &[u8]) -> Result<Order, Reply> {
    let wrong = |problem: String| Reply::new(Kind::InvalidBody, problem);
    let (action, reason) = body::read(act, body).map_err(wrong)?;
    Order::new(action, &reason).map_err(wrong)
}

/// Machines are no pages: what a browser sends for one, even one of ours, is not their word. Over plain
/// HTTP browsers name the page's origin only.
pub(crate) fn must_be_no_page(headers: &HeaderMap) -> Result<(), Reply> {
    must_be_from_here(headers)?;
    match headers.contains_key(ORIGIN) {
        true => Err(Reply::new(Kind::Forbidden, "pages may not speak for machines")),
        false => Ok(()),
    }
}

/// Browsers say when it is a page of somebody else's that asks.
pub(crate) fn must_be_from_here(headers: &HeaderMap) -> Result<(), Reply> {
    match headers.get(SEC_FETCH_SITE) {
        Some(site) if site != "same-origin" && site != "none" => {
            Err(Reply::new(Kind::Forbidden, "pages of other sites may not act here"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn must_be_json(headers: &HeaderMap) -> Result<(), Reply> {
    let mut given = headers.get_all(CONTENT_TYPE).iter();
    let is_json = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        let essence = text.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    };
    match (given.next(), given.next()) {
        (Some(value), None) if is_json(value) => Ok(()),
        _ => {
            let text = "the body must be JSON, with `content-type: application/json`";
            Err(Reply::new(Kind::UnsupportedMediaType, text))
        }
    }
}

fn reply(refusal: Refusal) -> Reply {
    Reply::new(refusal.kind, refusal.text)
}

fn json(document: &impl Serialize) -> Result<Vec<u8>, Reply> {
    serde_json::to_vec(document).map_err(|error| {
        // Nothing we show has a form that JSON does not.
        tracing::error!(%error, "an answer has no JSON form");
        Reply::new(Kind::StoreDamaged, "what is in the store cannot be shown")
    })
}

fn success(json: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(json));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response.extensions_mut().insert(Told { kind: Kind::Success });
    response
}
