//! `/sign-in` and `/sign-out`.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, Response, StatusCode};
use maud::{Markup, html};

use super::fields::Fields;
use super::frame::{Viewer, plain, stamp};
use super::reply::{html as page, see_other};
use super::session::{self, Token};
use super::{Call, origin};
use crate::operators;
use crate::reply::Kind;

const PURPOSE: &str = "sign-in";

/// The form, for a browser that will have to show `token` with it.
fn form(call: &Call<'_>, token: &Token, name: &str, mistake: Option<&str>) -> Markup {
    let open = call.live.settings.tls.is_none() && !is_near(call.peer.address.ip());
    html! {
        form.card method="post" action="sign-in" {
            h1 { "Sign in" }
            @if let Some(mistake) = mistake { p.mistake role="alert" { (mistake) } }
            @if open {
                p.mistake {
                    "This connection may not be encrypted: others may be able to read the password."
                }
            }
            label {
                "Name"
                input name="name" value=(name) autocomplete="username" autocapitalize="none"
                    spellcheck="false" required autofocus;
            }
            label {
                "Password or token"
                input type="password" name="password" autocomplete="current-password" required;
            }
            (stamp(token, PURPOSE))
            div.buttons { button type="submit" { "Sign in" } a href="./" { "Back" } }
        }
    }
}

fn is_near(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The page with the form.
pub(super) fn ask(call: &Call<'_>, status: StatusCode, mistake: Option<&str>) -> Response<Body> {
    answer(call, status, "", mistake)
}

fn answer(
    call: &Call<'_>,
    status: StatusCode,
    name: &str,
    mistake: Option<&str>,
) -> Response<Body> {
    // Whoever is signed in already stays so until they have signed in anew.
    let shown = Token::shown(call.headers, call.tls());
    let token = shown.clone().unwrap_or_else(Token::new);
    let viewer = Viewer { may_sign_in: false, ..Viewer::default() };
    let mut response = page(status, plain(&viewer, &form(call, &token, name, mistake)));
    if shown.is_none()
        && let Some(cookie) = token.keep(call.tls())
    {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// Takes the form.
pub(super) async fn sign_in(call: &Call<'_>, fields: &Fields) -> Response<Body> {
    let again = |status, mistake: &str| answer(call, status, fields.get("name"), Some(mistake));
    let shown = Token::shown(call.headers, call.tls());
    if !is_ours(call.headers, shown.as_ref(), PURPOSE, fields) {
        return again(
            StatusCode::FORBIDDEN,
            "This form is not one of ours, or cookies are switched off. Try once more.",
        );
    }
    let (name, password) = (fields.get("name"), fields.get("password"));
    let signed_in = operators::sign_in(call.live, name, password, call.peer).await;
    let begun = match signed_in {
        Ok(caller) => session::begin(call.live, &caller).await,
        Err(refusal) => Err(refusal),
    };
    match begun {
        Ok(Some(token)) => {
            tracing::info!(
                target: "rebootlock_gateway::audit",
                event = "signed_in", by = name, address = %call.peer.address, "signed in"
            );
            let mut response = see_other("./");
            // Never the cookie that was there before: somebody else may have put it there.
            let tls = call.tls() || origin::is_over_tls(call.headers);
            response.headers_mut().extend(token.keep(tls).map(|cookie| (SET_COOKIE, cookie)));
            response
        }
        Ok(None) => again(StatusCode::FORBIDDEN, "That name is not known any more."),
        Err(refusal) => {
            let text = match refusal.kind {
                Kind::Unauthorized => "Name and password do not belong together.".to_owned(),
                Kind::RateLimited => "Too many tries. Wait a minute.".to_owned(),
                _ => refusal.text,
            };
            // 401 would have the browser ask by itself.
            let status = match refusal.kind.status() {
                StatusCode::UNAUTHORIZED => StatusCode::FORBIDDEN,
                status => status,
            };
            again(status, &text)
        }
    }
}

/// Ends the session.
pub(super) async fn sign_out(call: &Call<'_>, fields: &Fields) -> Response<Body> {
    let shown = Token::shown(call.headers, call.tls());
    let Some(token) = shown.filter(|t| is_ours(call.headers, Some(t), "sign-out", fields)) else {
        return see_other("./");
    };
    let ended = session::end(call.live, &call.app.page.sessions, &token).await;
    if let Ok(Some(name)) = &ended {
        tracing::info!(
            target: "rebootlock_gateway::audit",
            event = "signed_out", by = name, address = %call.peer.address, "signed out"
        );
    }
    if let Err(refusal) = ended {
        let text = html! {
            div.card.text {
                h1 { "Not signed out" }
                p { (refusal.text) }
                p { "The session ends by itself within twelve hours." }
                p { a href="./" { "Back" } }
            }
        };
        return page(refusal.kind.status(), plain(&Viewer::default(), &text));
    }
    let mut response = see_other("./");
    for cookie in Token::forget() {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// Whether a form came from a page of ours in the same browser.
pub(super) fn is_ours(
    headers: &HeaderMap,
    token: Option<&Token>,
    purpose: &str,
    fields: &Fields,
) -> bool {
    let stamped = token.is_some_and(|token| token.has_stamped(purpose, fields.get("stamp")));
    stamped && origin::is_ours(headers)
}
