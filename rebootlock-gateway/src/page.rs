//! The page for people, at `/`: who holds a slot, who waits and why, what is paused, what happened.
//!
//! It is HTML that works by itself; a small script keeps it up to date over `/events`. What operators do
//! is done by forms on pages of their own, so nothing that moves is ever in the way of somebody who types.
//!
//! These paths alone answer with redirects, after a form. Clients of a lock follow redirects and take
//! any 200 for a grant, so whoever speaks FleetLock gets neither here.

mod deeds;
mod events;
mod feed;
mod fields;
mod fragments;
mod frame;
mod groups;
mod machines;
mod moment;
mod operate;
mod origin;
mod parts;
mod reply;
mod session;
mod sight;
mod sign_in;
mod target;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use axum::routing::any;
use maud::html;
use rebootlock::record::UnixTime;

use self::events::Leave;
use self::feed::Feed;
use self::fields::Fields;
use self::frame::Viewer;
use self::moment::Ages;
use self::operate::Acting;
use self::reply::File;
use self::session::{Memory, Token};
use self::sight::{Looker, Sight};
use crate::app::{App, Live};
use crate::fleetlock::{self, PROTOCOL};
use crate::operators::{self, Operator};
use crate::reply::{Kind, Reply};
use crate::serve::Peer;
use crate::slots::Refusal;

/// What pages share.
#[derive(Debug)]
pub struct Page {
    looker: Looker,
    feed: Feed,
    sessions: Memory,
}

impl Page {
    /// Pages of a gateway that serves so many connections.
    pub fn new(max_connections: usize) -> Self {
        Self {
            looker: Looker::default(),
            feed: Feed::new(max_connections),
            sessions: Memory::default(),
        }
    }

    /// The fleet as it is, or as it was when the store answered last.
    async fn look(&self, live: &Live) -> Arc<Sight> {
        self.looker.look(live).await
    }

    /// When the fleet was last seen.
    fn seen(&self) -> Option<UnixTime> {
        self.looker.last().and_then(|sight| sight.as_of)
    }
}

/// The paths of the page.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", any(index))
        .route("/events", any(listen))
        .route("/sign-in", any(sign_in_or_ask))
        .route("/sign-out", any(sign_out))
        .route("/operate", any(operate_or_ask))
        .route("/page.css", any(|app, request| file(app, request, File::Style)))
        .route("/page.js", any(|app, request| file(app, request, File::Script)))
        .route("/icon.svg", any(|app, request| file(app, request, File::Icon)))
}

/// A request, and what it is answered with.
struct Call<'a> {
    app: &'a Arc<App>,
    live: &'a Live,
    headers: &'a HeaderMap,
    peer: &'a Peer,
}

impl Call<'_> {
    fn tls(&self) -> bool {
        self.live.settings.tls.is_some()
    }
}

/// Keeps out what is not for people, and reads the form of a POST.
///
/// Both sides are answers; the question mark leaves with the first refusal.
async fn open(
    live: &Live,
    request: Request,
    methods: &'static str,
) -> Result<(HeaderMap, Method, Peer, Fields), Response<Body>> {
    let refuse = |reply: Reply| reply.into_response(live.settings.airlock_kinds);
    let (head, body) = request.into_parts();
    if head.headers.contains_key(PROTOCOL) {
        let text =
            "this page is for people; FleetLock is served at /v1/pre-reboot and /v1/steady-state";
        return Err(refuse(Reply::new(Kind::NotFound, text)));
    }
    let has = |method: &str| methods.split(", ").any(|allowed| allowed == method);
    if !has(head.method.as_str()) {
        return Err(refuse(Reply::only(methods)));
    }
    let fields = if head.method == Method::POST {
        Fields::parse(
            &fleetlock::read(body, fleetlock::MAX_BODY, live.settings.body_timeout)
                .await
                .map_err(refuse)?,
        )
    } else {
        Fields::parse(head.uri.query().unwrap_or_default().as_bytes())
    };
    let peer = head.extensions.get::<Peer>().cloned().unwrap_or_default();
    Ok((head.headers, head.method, peer, fields))
}

/// A file that pages need. Nobody has to be known for it.
async fn file(State(app): State<Arc<App>>, request: Request, file: File) -> Response<Body> {
    match open(&app.live(), request, "GET, HEAD").await {
        Ok((headers, ..)) => file.answer(&headers),
        Err(refused) => refused,
    }
}

/// `GET /`
async fn index(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let live = app.live();
    let (headers, _, peer, fields) = match open(&live, request, "GET, HEAD").await {
        Ok(opened) => opened,
        Err(refused) => return refused,
    };
    let call = Call { app: &app, live: &live, headers: &headers, peer: &peer };
    let viewer = match viewer(&call).await {
        Ok(viewer) => viewer,
        Err(refusal) => return keep_out(&call, &refusal),
    };
    let sight = app.page.look(&live).await;
    let ages = Ages::Counted(UnixTime::now());
    let said = operate::said(viewer.token.as_ref(), &fields);
    let content = html! {
        @if let Some(said) = said { div.notice.good role="status" { p { (said) } } }
        (fragments::whole(sight.scene(), ages))
    };
    let as_of = frame::as_of(sight.as_of, ages);
    let status = match sight.fleet {
        Some(_) => StatusCode::OK,
        None => StatusCode::SERVICE_UNAVAILABLE,
    };
    reply::html(status, frame::live(&viewer, &sight.parts.state, &as_of, &content))
}

/// `GET /events`
async fn listen(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let live = app.live();
    let (headers, method, peer, fields) = match open(&live, request, "GET, HEAD").await {
        Ok(opened) => opened,
        Err(refused) => return refused,
    };
    let call = Call { app: &app, live: &live, headers: &headers, peer: &peer };
    let refuse =
        |kind, text: &str| Reply::new(kind, text).into_response(live.settings.airlock_kinds);
    let viewer = match viewer(&call).await {
        Ok(viewer) => viewer,
        Err(refusal) => return refuse(refusal.kind, &refusal.text),
    };
    if app.stop.is_cancelled() {
        return refuse(Kind::Overloaded, "the gateway is about to stop");
    }
    if method == Method::HEAD {
        return reply::respond(StatusCode::OK, "text/event-stream", Body::empty());
    }
    match app.page.feed.listen(&app) {
        Some(listener) => {
            let leave = Leave::new(&app, &live, &peer, viewer.token);
            events::answer(app.clone(), leave, listener, fields.get("have").to_owned())
        }
        None => refuse(Kind::Overloaded, "too many pages are kept up to date already"),
    }
}

/// `GET /sign-in` and `POST /sign-in`
async fn sign_in_or_ask(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let live = app.live();
    let (headers, method, peer, fields) = match open(&live, request, "GET, HEAD, POST").await {
        Ok(opened) => opened,
        Err(refused) => return refused,
    };
    let call = Call { app: &app, live: &live, headers: &headers, peer: &peer };
    if method == Method::POST {
        return sign_in::sign_in(&call, &fields).await;
    }
    sign_in::ask(&call, StatusCode::OK, None)
}

/// `POST /sign-out`
async fn sign_out(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let live = app.live();
    let (headers, _, peer, fields) = match open(&live, request, "POST").await {
        Ok(opened) => opened,
        Err(refused) => return refused,
    };
    let call = Call { app: &app, live: &live, headers: &headers, peer: &peer };
    sign_in::sign_out(&call, &fields).await
}

/// `GET /operate` and `POST /operate`
async fn operate_or_ask(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let live = app.live();
    let (headers, method, peer, fields) = match open(&live, request, "GET, HEAD, POST").await {
        Ok(opened) => opened,
        Err(refused) => return refused,
    };
    let call = Call { app: &app, live: &live, headers: &headers, peer: &peer };
    let acting = match acting(&call).await {
        Ok(acting) => acting,
        Err(refusal) => return keep_out(&call, &refusal),
    };
    if method == Method::POST {
        return operate::act(&call, &acting, &fields).await;
    }
    operate::ask(&call, &acting, &fields).await
}

/// Who looks: somebody who is signed in, or anybody where looking is open.
async fn viewer(call: &Call<'_>) -> Result<Viewer, Refusal> {
    let may_sign_in = call.live.auth.has_people();
    let signed_in = match Token::shown(call.headers, call.tls()) {
        None => Ok(None),
        Some(token) => session::who(call.live, &call.app.page.sessions, &token, true)
            .await
            .map(|caller| Some((caller?, token))),
    };
    if let Ok(Some((caller, token))) = &signed_in
        && caller.may_sign_in()
    {
        let (name, role) = (caller.name.clone(), caller.role);
        return Ok(Viewer { name, role, token: Some(token.clone()), may_sign_in });
    }
    match operators::reader(call.live, call.headers, call.peer).await {
        Ok(_) => Ok(Viewer { may_sign_in, ..Viewer::default() }),
        // Whether they are signed in nobody knows.
        Err(refusal) => Err(signed_in.err().unwrap_or(refusal)),
    }
}

/// Who acts: an operator who is signed in, as the store says right now.
async fn acting(call: &Call<'_>) -> Result<Acting, Refusal> {
    let nobody = || Refusal::new(Kind::Unauthorized, "Sign in to do that.");
    let token = Token::shown(call.headers, call.tls()).ok_or_else(nobody)?;
    let caller = session::who(call.live, &call.app.page.sessions, &token, false).await?;
    let caller = caller.ok_or_else(nobody)?;
    let viewer = Viewer {
        name: caller.name.clone(),
        role: caller.role,
        token: Some(token.clone()),
        may_sign_in: true,
    };
    let operator = Operator::of(caller, call.peer.address.ip())?;
    Ok(Acting { operator, token, viewer })
}

/// Says why somebody sees nothing, and asks who they are if that would help.
fn keep_out(call: &Call<'_>, refusal: &Refusal) -> Response<Body> {
    match refusal.kind {
        Kind::Unauthorized | Kind::Forbidden if call.live.auth.has_people() => {
            sign_in::ask(call, StatusCode::FORBIDDEN, Some(&refusal.text))
        }
        Kind::Unauthorized => {
            let words = operate::words("Not for everybody", &refusal.text);
            reply::html(StatusCode::FORBIDDEN, frame::plain(&Viewer::default(), &words))
        }
        kind => {
            let words = operate::words("Not now", &refusal.text);
            reply::html(kind.status(), frame::plain(&Viewer::default(), &words))
        }
    }
}
