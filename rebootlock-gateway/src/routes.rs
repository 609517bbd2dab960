//! From a request to an answer: the path put straight, the limits kept, everything counted and logged.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, Uri};
use axum::routing::any;
use tower::Service as _;

use crate::app::App;
use crate::reply::{Called, Kind, Reply, Told};
use crate::serve::Peer;
use crate::{
    allowance, api, disruption, fleetlock, goahead, health, malformed, operators, page, proxies,
    remote,
};

/// Every path there is, each protocol's in its own module.
pub fn router(app: Arc<App>) -> Router {
    // Methods are looked at by the handlers: what is refused is refused in one form everywhere.
    Router::new()
        .route("/v1/pre-reboot", any(fleetlock::pre_reboot))
        .route("/v1/steady-state", any(fleetlock::steady_state))
        .route("/api/v1", any(api::answer))
        .route("/api/v1/", any(api::answer))
        .route("/api/v1/{*below}", any(api::answer))
        .route("/api/v1/store/{*below}", any(remote::answer))
        .route("/api/v1/request", any(disruption::request))
        .route("/healthz", any(health::healthz))
        .route("/readyz", any(health::readyz))
        .route("/metrics", any(health::metrics))
        .merge(page::routes())
        .fallback(not_found)
        .with_state(app)
}

async fn not_found(State(app): State<Arc<App>>, uri: Uri) -> Response<Body> {
    let live = app.live();
    let goaheads = goahead::not_found(uri.path(), live.settings.goahead.as_ref());
    goaheads.unwrap_or_else(|| {
        let reply = Reply::new(Kind::NotFound, "there is nothing at this path");
        reply.into_response(live.settings.airlock_kinds)
    })
}

/// Answers one request.
pub async fn answer(
    app: &Arc<App>,
    mut router: Router,
    peer: &Peer,
    mut request: Request<Body>,
) -> Response<Body> {
    let began = Instant::now();
    let live = app.live();
    let proxies = &live.settings.trusted_proxies;
    let address = proxies::client_socket(peer.address, request.headers(), proxies);
    let within = peer.within && operators::is_direct(&request);
    let peer = Peer { address, within, ..peer.clone() };
    let method = request.method().clone();
    let goahead = live.settings.goahead.as_ref();
    let path = straight(request.uri().path(), &live.settings.prefixes, |path| {
        is_served(path, goahead::Route::of(path, goahead))
    });
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let for_goahead = goahead::Route::of(&path, goahead);
    let route = for_goahead.map_or_else(|| route(&path), goahead::Route::name);
    let limit = live.rate.as_ref().filter(|_| !is_for_watchers(route));
    let counted = limit.map_or(Ok(()), |rate| rate.count(peer.address.ip()));
    // In the form in which all other errors come there.
    let refused = |reply: Reply| match route {
        _ if for_goahead.is_some() => goahead::refused(reply),
        "api" | "store" => reply.into_problem(),
        "disruption" => reply.into_text(),
        _ => reply.into_response(live.settings.airlock_kinds),
    };
    let sound = malformed::problem(&request).map_or(Ok(()), Err);
    let response = match (counted, sound, format!("{path}{query}").parse::<Uri>()) {
        (Err(wait), ..) => refused(
            Reply::new(Kind::RateLimited, "too many requests from your address").retry_after(wait),
        ),
        (_, Err(problem), _) => refused(Reply::new(Kind::InvalidRequest, problem)),
        (.., Err(_)) => refused(Reply::new(Kind::NotFound, "there is nothing at this path")),
        (Ok(()), Ok(()), Ok(uri)) => {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(peer.clone());
            let answering = async {
                match for_goahead {
                    Some(route) => goahead::answer(app, route, request).await,
                    None => match router.call(request).await {
                        Ok(response) => response,
                        Err(never) => match never {},
                    },
                }
            };
            allowance::with(live.settings.answer_within, answering).await
        }
    };
    let told = response.extensions().get::<Told>().map(|told| told.kind.name(false));
    let kind = told.or_else(|| response.extensions().get::<Called>().map(|called| called.0));
    let status = response.status();
    let took = began.elapsed();
    app.metrics.answered(route, kind.unwrap_or("none"), status, took);
    if live.settings.access_log {
        tracing::info!(
            target: "rebootlock_gateway::access",
            %method, path, status = status.as_u16(), kind, address = %peer.address,
            ms = took.as_millis(), "answered"
        );
    }
    response
}

/// The path with its doubled slashes made one and a configured prefix taken off. What is served at the
/// root is served there whatever the prefixes are; then the longest counts after which something is.
fn straight(path: &str, prefixes: &[String], is_served: impl Fn(&str) -> bool) -> String {
    let mut straight = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !straight.ends_with('/') {
            straight.push(c);
        }
    }
    if is_served(&straight) {
        return straight;
    }
    let below = |prefix: &String| {
        straight.strip_prefix(prefix.as_str()).filter(|rest| rest.starts_with('/'))
    };
    let mut rests: Vec<&str> = prefixes.iter().filter_map(below).collect();
    rests.sort_by_key(|rest| rest.len());
    let served = rests.iter().find(|rest| is_served(rest));
    served.or(rests.first()).map(ToString::to_string).unwrap_or(straight)
}

/// Whether there is anything at this path.
fn is_served(path: &str, for_goahead: Option<goahead::Route>) -> bool {
    match (for_goahead, route(path)) {
        (Some(goahead), _) => goahead != goahead::Route::Nothing,
        (None, "api") => api::is_there(path),
        (None, route) => route != "other",
    }
}

/// For figures, which must not grow with what strangers ask for.
fn route(path: &str) -> &'static str {
    match path {
        "/v1/pre-reboot" => "pre-reboot",
        "/v1/steady-state" => "steady-state",
        "/api/v1/request" => "disruption",
        "/healthz" => "healthz",
        "/readyz" => "readyz",
        "/metrics" => "metrics",
        "/" => "page",
        "/events" => "events",
        "/sign-in" | "/sign-out" | "/operate" => "forms",
        "/page.css" | "/page.js" | "/icon.svg" => "files",
        "/api/v1" => "api",
        path if path.starts_with("/api/v1/store/") => "store",
        path if path.starts_with("/api/v1/") => "api",
        _ => "other",
    }
}

fn is_for_watchers(route: &str) -> bool {
    matches!(route, "healthz" | "readyz" | "metrics")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(path: &str, prefixes: &[&str]) -> String {
        let prefixes: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
        straight(path, &prefixes, |path| is_served(path, None))
    }

    #[test]
    fn the_root_is_served_whatever_the_prefixes_are_and_each_of_them_too() {
        for prefixes in [
            &["/v1", "/api", "/healthz", "/a", "/a/b", "/a/v1", "/api/v1"][..],
            &["/api/v1", "/a/v1", "/a/b", "/a", "/healthz", "/api", "/v1"],
        ] {
            for path in
                ["/v1/pre-reboot", "/v1/steady-state", "/healthz", "/api/v1", "/metrics", "/"]
            {
                assert_eq!(at(path, prefixes), path);
            }
            for prefix in prefixes {
                for path in ["/v1/pre-reboot", "/v1/steady-state", "/metrics"] {
                    assert_eq!(at(&format!("{prefix}{path}"), prefixes), path, "{prefix}");
                }
            }
            assert_eq!(at("/a/b/api/v1/fleet", prefixes), "/api/v1/fleet");
            assert_eq!(at("/api/v1/groups/a/pause", prefixes), "/api/v1/groups/a/pause");
        }
    }

    #[test]
    fn slashes_are_made_one_and_prefixes_taken_off() {
        let prefixes = ["/a/b", "/lock"];
        for (path, becomes) in [
            ("/v1/pre-reboot", "/v1/pre-reboot"),
            ("//v1///pre-reboot", "/v1/pre-reboot"),
            ("/a/b/v1/pre-reboot", "/v1/pre-reboot"),
            ("//a//b//v1/pre-reboot", "/v1/pre-reboot"),
            ("/lock/v1/x/", "/v1/x/"),
            ("/locksmith/v1", "/locksmith/v1"),
            ("/lock", "/lock"),
            ("/lock/lock/v1", "/lock/v1"),
            ("", ""),
            ("*", "*"),
        ] {
            assert_eq!(at(path, &prefixes), becomes, "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_straight_stays_so(path in "[a/.%]{0,12}") {
            let once = at(&path, &[]);
            prop_assert!(!once.contains("//"));
            prop_assert_eq!(at(&once, &[]), once);
        }
    }
}
