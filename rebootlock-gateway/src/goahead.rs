//! goahead's protocol: `/v1/request/restart/os`, asked twice, and `/v1/inquire/restart/`.
//!
//! Everybody is answered with 200; what counts is `go_ahead`, which is true in no answer but one to
//! a second question whose slot is committed. There is no call that gives a slot back: a machine that
//! reports a shorter uptime than before has rebooted, and its slot is freed when a check has found it to
//! be back. What a client sees of all this has goahead's names and sentences.
//!
//! # What is kept, and where
//!
//! | state | is | from | to |
//! | --- | --- | --- | --- |
//! | asked | `goahead/asks/<fqdn>`, on a lease of an hour | the first question | the second one, which brings its id |
//! | may reboot | holder record, state `holding`, with a member `goahead` | second question, in the transaction that takes the slot | a shorter uptime, whatever the question; or, after `completion_check_offset_secs`, a check that fails |
//! | is back | the same, state `verifying` | | so many checks in a row; one that fails counts from 0 |
//! | free | no record | completion actions have ended | |
//!
//! All that matters of a grant is in the record of its holder: it comes and goes with the slot, and
//! an operator's `unlock` ends all of it. Nothing is kept in the process.
//!
//! # Where it may break
//!
//! - The store does not answer: no go-ahead. The first question is answered without `ask_again_in`,
//!   which ends a client's run; the second with a reason.
//! - The reply of the transaction is lost, or ours to the client: the slot is the machine's, which was
//!   told no or nothing. It asks again, and is told that it should be restarting. If it never does, its
//!   slot stays, and it becomes overdue.
//! - A gateway dies between the grant and the end of its actions: the record says `actionsDue` until
//!   they have ended, and whoever looks after the holders runs them again when their time is over. So
//!   actions run at least once.
//! - So many commands run that there is no room for one more: it waits for its turn, and what was not run is
//!   neither a success nor a failure. Questions, which anybody may ask, completion checks, and actions have
//!   rooms of their own, and a machine that asks again and again takes one place.
//! - A gateway dies while it checks: another one goes on after its lease, from the count in the record.
//!   Completion actions run again if they had not ended; the slot is freed after them, by its token.
//! - A machine asks again while it is being checked: it keeps its slot under a new token, so that
//!   the check of before frees nothing.
//! - A report comes in late, or twice: a shorter uptime proves a reboot only where a report that is minutes old
//!   could not say so. Of a machine that had been up for less than that when it got its go-ahead it takes
//!   two reports that agree on when it has booted.
//! - A machine that says nothing after its reboot keeps its slot. A check that succeeds after
//!   `completion_check_offset_secs` is no proof of a reboot that may be yet to come; as many failures in a
//!   row as successes are asked for are taken for one, unless the machine then says that it has not rebooted.

mod ask;
mod body;
mod caretaker;
mod cluster;
mod command;
mod course;
pub mod duration;
mod reply;
mod store;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use rebootlock::config::GoaheadSettings;
use rebootlock::lock::LockError;

use self::ask::Question;
use self::body::Params;
pub(crate) use self::body::machine;
pub use self::caretaker::watch;
use self::cluster::Found;
use self::reply::Restart;
pub(crate) use self::reply::refused;
use crate::api;
use crate::app::{App, Live};
use crate::client::{self, Client};
use crate::fleetlock::{MAX_BODY, read};
use crate::reply::Kind;
use crate::slots::in_time;

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// "May I restart?"
    Request,
    /// "Should I restart?"
    Inquire,
    /// "Are you there?"
    Health,
    /// Nothing, but it looks like one of goahead's.
    Nothing,
}

impl Route {
    /// The route of a path, if these clients are served and it is theirs. The slash at the end counts.
    ///
    /// Where they are not served, or have a wrong prefix in their `service_url`, there is [`Self::Nothing`] for
    /// them: they take any JSON for an answer that says no, and nobody would notice that they never ask anybody.
    pub fn of(path: &str, settings: Option<&GoaheadSettings>) -> Option<Self> {
        const ASKED: [&str; 3] = ["/request/restart/os", "/request/restart/", "/inquire/restart/"];
        let served = settings.and_then(|settings| Self::served(path, settings.answers_root));
        let asked = || ASKED.iter().any(|end| path.ends_with(end)).then_some(Self::Nothing);
        served.or_else(asked)
    }

    fn served(path: &str, root: bool) -> Option<Self> {
        Some(match path {
            "/v1/request/restart/os" | "/v1/request/restart/" | "/request/restart/" => {
                Self::Request
            }
            "/v1/inquire/restart/" | "/inquire/restart/" => Self::Inquire,
            "/health" | "/v1/" | "/v1/health" => Self::Health,
            "/" if root => Self::Health,
            "/v1" => Self::Nothing,
            "/v1/request" | "/v1/inquire" | "/request" | "/inquire" => Self::Nothing,
            _ => {
                const OURS: [&str; 4] = ["/v1/request/", "/v1/inquire/", "/request/", "/inquire/"];
                return OURS.iter().any(|ours| path.starts_with(ours)).then_some(Self::Nothing);
            }
        })
    }

    /// For figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "goahead-request",
            Self::Inquire => "goahead-inquire",
            Self::Health => "goahead-health",
            Self::Nothing => "other",
        }
    }
}

/// The answer to a path that nobody knows, if it is for these clients to read: where this gateway stands for a
/// goahead, each; where it serves its clients too, those below a version.
pub(crate) fn not_found(path: &str, settings: Option<&GoaheadSettings>) -> Option<Response<Body>> {
    let versioned = path.starts_with("/v1/") || path.starts_with("/v2/");
    (settings?.answers_root || versioned).then(reply::not_found)
}

/// Answers a request, whatever its method.
pub async fn answer(app: &Arc<App>, route: Route, request: Request) -> Response<Body> {
    let inquiry = match route {
        Route::Nothing => return reply::not_found(),
        Route::Health => {
            return Restart::new("", "").no(Kind::Success, "HealthHandler!").into_response();
        }
        Route::Request => false,
        Route::Inquire => true,
    };
    let live = app.live();
    let Some(settings) = live.settings.goahead.as_ref() else { return reply::not_found() };
    handle(app, &live, settings, inquiry, request).await.unwrap_or_else(|refused| refused)
}

async fn handle(
    app: &Arc<App>,
    live: &Arc<Live>,
    settings: &GoaheadSettings,
    inquiry: bool,
    request: Request,
) -> Result<Response<Body>, Response<Body>> {
    let (head, body) = request.into_parts();
    api::must_be_no_page(&head.headers).map_err(reply::refused)?;
    let client = client::of(live, &head).await.map_err(|refusal| reply::refused(refusal.into()))?;
    let body = read(body, MAX_BODY, live.settings.body_timeout).await.map_err(reply::refused)?;
    let said = body::parse(&body)
        .map_err(|text| reply::error(Kind::InvalidBody, StatusCode::BAD_REQUEST, &text))?;
    let mut answer = Restart::new(said.machine.as_str(), &said.uptime);
    let Some(cluster) = in_cluster(settings, &said, &mut answer) else {
        let heard = in_time(live, hear(live, settings, &client, &said)).await;
        return Ok(match heard {
            Ok(()) => answer.into_response(),
            Err(refusal) => {
                answer.no(refusal.kind, format!("Could not load state: {refusal}")).into_response()
            }
        });
    };
    let may = client.may(&cluster.group, &said.machine);
    may.map_err(|refusal| reply::refused(refusal.into()))?;
    let address = client.address.ip();
    let question = Question { app, live, settings, cluster, said: &said, address };
    let answer = match inquiry {
        true => question.inquire(answer).await,
        false => question.request(answer).await,
    };
    Ok(answer.into_response())
}

/// What a machine says that is in no cluster any more counts for the slots that it has from before.
async fn hear(
    live: &Live,
    settings: &GoaheadSettings,
    client: &Client,
    said: &Params,
) -> Result<(), LockError> {
    let mut held = store::held(live, settings, &said.machine).await?;
    held.retain(|held| client.may(&held.group, &said.machine).is_ok());
    store::heard_of(live, said, held).await
}

/// The cluster of the machine. If it has none, the answer says so.
fn in_cluster<'a>(
    settings: &'a GoaheadSettings,
    said: &Params,
    answer: &mut Restart,
) -> Option<&'a rebootlock::config::ClusterSettings> {
    let fqdn = &said.machine;
    answer.found_cluster = "unknown".to_owned();
    answer.kind = Kind::UnknownGroup;
    match cluster::find(&settings.clusters, fqdn) {
        Found::Cluster(cluster) => {
            cluster::warn_of_overlap(&settings.clusters, cluster, fqdn);
            answer.found_cluster = cluster.name.clone();
            answer.unknown_host = false;
            answer.kind = Kind::Success;
            return Some(cluster);
        }
        Found::Excepted(pattern) => {
            answer.message = format!(
                "Found matching blacklist name pattern: {pattern} for FQDN: {fqdn} Preventing restart!"
            );
        }
        Found::Nowhere if settings.clusters.is_empty() => {}
        Found::Nowhere => {
            answer.message = format!("FQDN {fqdn} did not match any known cluster");
        }
    }
    None
}
