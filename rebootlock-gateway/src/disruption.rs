//! The protocol of disruption-manager: `POST /api/v1/request` with `check`, `request` or `cancel`.
//!
//! # Who has what
//!
//! A slot is in the group's semaphore, with a holder record `via` `disruption-manager`, and so counts as any
//! other. Beside it is one document for each machine that wants to be disrupted, is, or was just now
//! ([`rebootlock::record::Disruption`]), with a timer: a key on a lease, which ends by the store's clock and
//! never early. The document never gives a slot; it says what the machine is told, and what is to happen
//! to its slot when it says nothing more.
//!
//! ```text
//! none ──request──► asking ──cancel, proves──► proving ──ready, or time over──► none, or asking again
//!                     │ ▲                         ▲
//!       cancel: none ◄┘ └─ request: timer anew    └── time over (no slot: none)
//! ```
//!
//! - *Asking*: with a slot it is `permitted`, unless a pause, a hold or a closed window keeps it; else it is
//!   `requested`, and has a place in the group's queue. The place hangs on a short lease that gateways
//!   keep alive; if it is lost, because none was there, it is taken again as long as the timer runs.
//! - *Proving*: it is not permitted any more, and its slot is still taken.
//! - *Again*: a machine has one slot. What it asks for while it proves itself, or has a slot in another group,
//!   is remembered in its document: it is `requested` there, and *asking* there from when that slot has gone
//!   back ([`change`]). Nothing that is said about one group changes the time or the limit of another.
//!
//! # What may go wrong
//!
//! - *A gateway dies between two steps.* First the wish is written, then the slot taken: a wish without a
//!   slot waits, or its timer ends. A slot goes back in one transaction with its document, or before it. A
//!   slot without a document (see below) gets a new one, and its time runs from then.
//! - *A reply is lost.* All three operations may be repeated: each is decided on what is there. A request that
//!   is still under way when its machine cancels looks, once it has a slot, whether it is still wanted, and
//!   gives it back if not. If it dies before that, the slot is one without a document.
//! - *A gateway is slow.* Each time has a lease of its own. Whatever gives a slot back requires that the
//!   machine's document is of the time that it was decided on: what it got since is another one's.
//! - *A timer ends while its machine asks again.* Both change the document on the condition that it is as they
//!   read it, and that the timer is, too. So either the request comes first and nothing has ended, or it finds
//!   that its time is over and begins anew: it is never told `permitted` about a slot that is being freed.
//! - *Several gateways.* Nothing is kept in them but which address is asked when. [`keep`] does what happens
//!   by itself in one of them at a time; in two at once it would do the same.
//! - *The store is away.* 503, and nothing ends: what cannot be read is not over.

mod ask;
mod body;
mod cancel;
mod change;
mod end;
mod keep;
mod origin;
mod probe;
mod search;
pub(crate) mod srpc;
mod tags;
mod template;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Response};
use rebootlock::id::MachineId;

use self::ask::{Asking, Word};
use self::body::Operation;
pub use self::keep::keep;
use crate::api;
use crate::app::{App, Live};
use crate::reply::{Called, Kind, Reply};
use crate::{client, fleetlock};

/// `/api/v1/request`
pub async fn request(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let live = app.live();
    match handle(&app, &live, request).await {
        Ok(word) => {
            let text = format!("{{\n    \"Response\": \"{}\"\n}}\n", word.text());
            respond(word.text(), text)
        }
        Err(refused) => refused.into_text(),
    }
}

/// Clients take what they are told as text.
fn respond(called: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(Called(called));
    response
}

/// A refusal is why there is no word: never that it is not permitted.
async fn handle(app: &App, live: &Live, request: Request) -> Result<Word, Reply> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        return Err(Reply::new(Kind::MethodNotAllowed, "unsupported method"));
    }
    api::must_be_no_page(&head.headers)?;
    let client = client::of(live, &head).await?;
    let body = fleetlock::read(body, fleetlock::MAX_BODY, live.settings.body_timeout).await?;
    let body = body::parse(&body).map_err(|problem| Reply::new(Kind::InvalidBody, problem))?;
    let (machine, address) = (&body.machine, client.address.ip());
    let asking = asking(machine, address);
    if body.operation == Operation::Check {
        // Who cannot be named has nothing.
        let Ok(asking) = asking else { return Ok(Word::Denied) };
        client.may(&asking.group, &asking.machine)?;
        return Ok(ask::check(live, &asking).await?);
    }
    let vouched = match &asking {
        Ok(asking) => {
            client.may(&asking.group, &asking.machine)?;
            client.is_for(&asking.machine)
        }
        Err(_) => false,
    };
    if !vouched && live.settings.trusted_proxies.iter().any(|proxy| proxy.contains(address)) {
        // One that says nothing of whom it asks for, or two things.
        let text = "which machine this is cannot be told behind a proxy";
        return Err(Reply::new(Kind::Forbidden, text));
    }
    if !vouched && let Err(why) = origin::check(&machine.hostname, address).await {
        tracing::info!(
            target: "rebootlock_gateway::audit",
            event = "forbidden", id = machine.hostname, address = %client.address, "{why}"
        );
        return Err(Reply::new(Kind::Forbidden, why));
    }
    let asking = asking?;
    for problem in asking.ready.iter().flat_map(|ready| &ready.problems) {
        tracing::warn!(id = %asking.machine, problem, "its slot will be held until the time is over");
    }
    Ok(match body.operation {
        Operation::Request => ask::request(app, live, &asking).await?,
        Operation::Cancel | Operation::Check => cancel::cancel(app, live, &asking).await?,
    })
}

fn asking(machine: &body::Machine, address: IpAddr) -> Result<Asking, Reply> {
    let wrong =
        |error: rebootlock::id::InvalidName| Reply::new(Kind::InvalidParams, error.to_string());
    Ok(Asking {
        machine: MachineId::new(machine.hostname.clone()).map_err(wrong)?,
        group: tags::group(machine).map_err(wrong)?,
        limit: tags::limit(machine),
        ready: tags::ready(machine),
        address,
    })
}
