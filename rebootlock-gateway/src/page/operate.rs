//! `/operate`: the forms for what operators can do, and doing it.

use axum::body::Body;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, Response, StatusCode};
use form_urlencoded::Serializer;
use maud::{Markup, html};
use rebootlock::record::UnixTime;

use super::Call;
use super::fields::Fields;
use super::frame::{Viewer, plain, stamp};
use super::moment::Ages;
use super::reply::{html as page, see_other};
use super::session::Token;
use super::sign_in::is_ours;
use super::target::{Target, What, facts};
use super::words::clean;
use crate::act::{LONGEST_REASON, Order, carry_out};
use crate::fleet::FleetView;
use crate::operators::Operator;

const PURPOSE: &str = "operate";

/// Somebody who may act, and what their browser shows.
pub(super) struct Acting {
    pub(super) operator: Operator,
    pub(super) token: Token,
    pub(super) viewer: Viewer,
}

/// The form.
pub(super) async fn ask(call: &Call<'_>, acting: &Acting, fields: &Fields) -> Response<Body> {
    let target = match Target::of(fields) {
        Ok(target) => target,
        Err(problem) => return wrong(&acting.viewer, &problem),
    };
    let sight = call.app.page.look(call.live).await;
    let content = form(&target, fields, acting, sight.fleet.as_deref(), None);
    page(StatusCode::OK, plain(&acting.viewer, &content))
}

/// Does it; what is dangerous only once that has been said and agreed to.
pub(super) async fn act(call: &Call<'_>, acting: &Acting, fields: &Fields) -> Response<Body> {
    let viewer = &acting.viewer;
    if !is_ours(call.headers, Some(&acting.token), PURPOSE, fields) {
        let text = "This form is not one of ours, or too old. Go back to the page and begin anew.";
        return page(StatusCode::FORBIDDEN, plain(viewer, &words("Nothing was done", text)));
    }
    let target = match Target::of(fields) {
        Ok(target) => target,
        Err(problem) => return wrong(viewer, &problem),
    };
    let sight = call.app.page.look(call.live).await;
    let fleet = sight.fleet.as_deref();
    let again = |status, mistake: &str| {
        let content = form(&target, fields, acting, fleet, Some(mistake));
        page(status, plain(viewer, &content))
    };
    let order = target.action(fields).and_then(|action| Order::new(action, fields.get("reason")));
    let order = match order {
        Ok(order) => order,
        Err(mistake) => return again(StatusCode::BAD_REQUEST, &mistake),
    };
    if fields.get("agreed") != "yes"
        && let Some(warning) = target.warning(&order.action, fleet)
    {
        let content = confirm(&target, fields, acting, fleet, &warning);
        return page(StatusCode::OK, plain(viewer, &content));
    }
    match carry_out(call.live, &acting.operator, &order).await {
        Ok(done) => back(&acting.token, &done.message),
        Err(refusal) => again(refusal.kind.status(), &refusal.text),
    }
}

/// Back to the page, which says what was done: what we told this browser, and nobody else did.
fn back(token: &Token, message: &str) -> Response<Body> {
    let message = clean(message);
    let mut query = Serializer::new(String::new());
    query.append_pair("said", &message).append_pair("stamp", &token.stamp(&message));
    let mut response = see_other("./");
    if let Ok(to) = HeaderValue::from_str(&format!("./?{}", query.finish())) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// What we told this browser a moment ago.
pub(super) fn said(token: Option<&Token>, fields: &Fields) -> Option<String> {
    let said = fields.get("said");
    let ours = !said.is_empty() && token?.has_stamped(said, fields.get("stamp"));
    ours.then(|| said.to_owned())
}

fn wrong(viewer: &Viewer, problem: &str) -> Response<Body> {
    page(StatusCode::BAD_REQUEST, plain(viewer, &words("That cannot be done here", problem)))
}

/// A few words, and the way back.
pub(super) fn words(title: &str, text: &str) -> Markup {
    html! {
        div.card.text {
            h1 { (title) }
            p { (clean(text)) }
            p { a href="./" { "Back to the page" } }
        }
    }
}

fn form(
    target: &Target,
    fields: &Fields,
    acting: &Acting,
    fleet: Option<&FleetView>,
    mistake: Option<&str>,
) -> Markup {
    let holder = target.holder(fleet);
    html! {
        form.card method="post" action="operate" {
            h1 { (target.title(fleet)) }
            @if let Some(mistake) = mistake { p.mistake role="alert" { (clean(mistake)) } }
            p { (target.meaning()) }
            @if target.what == What::Unlock {
                @match holder {
                    Some(holder) => (facts(holder, Ages::Counted(UnixTime::now()))),
                    None => p.mistake { "It does not hold a slot there, as far as can be seen now." },
                }
            }
            (named(target, acting, holder.and_then(|holder| holder.token)))
            @if target.what == What::SetMax {
                label {
                    "Limit"
                    input type="number" name="max" min="0" max="1000000" required
                        value=(typed(fields, "max", target.max(fleet)));
                }
            }
            @if matches!(target.what, What::Pause | What::Hold) {
                label {
                    "For how long "
                    span.hint { "such as 30m, 8h or 2d; empty: until somebody ends it" }
                    input name="for" value=(fields.get("for")) maxlength="20" autocomplete="off";
                }
            }
            @if target.what == What::Request {
                label {
                    "Priority "
                    span.hint { "higher goes first; 0 is the usual one" }
                    input type="number" name="priority" min="0" max="1000"
                        value=(typed(fields, "priority", Some(0)));
                }
            }
            label {
                "Reason " span.hint { "for others, and for the history" }
                input name="reason" value=(fields.get("reason")) maxlength=(LONGEST_REASON) required
                    autofocus autocomplete="off";
            }
            div.buttons {
                button type="submit" { @if is_grave(target.what) { "Go on…" } @else { "Do it" } }
                a href="./" { "Back, and change nothing" }
            }
        }
    }
}

fn is_grave(what: What) -> bool {
    what == What::Unlock
}

/// What was typed, or what it should be at first.
fn typed(fields: &Fields, name: &str, first: Option<u32>) -> String {
    match fields.get(name) {
        "" => first.map(|first| first.to_string()).unwrap_or_default(),
        typed => typed.to_owned(),
    }
}

/// The second step: what will happen, and the button that does it.
fn confirm(
    target: &Target,
    fields: &Fields,
    acting: &Acting,
    fleet: Option<&FleetView>,
    warning: &Markup,
) -> Markup {
    let reason = fields.get("reason");
    html! {
        form.card method="post" action="operate" {
            h1 { (target.title(fleet)) "?" }
            @if let Some(holder) = target.holder(fleet).filter(|_| target.what == What::Unlock) {
                (facts(holder, Ages::Counted(UnixTime::now())))
            }
            (warning)
            p { "Reason: " (super::words::text(reason)) }
            (named(target, acting, target.token))
            @for name in ["max", "for", "priority", "reason"] {
                @if !fields.get(name).is_empty() {
                    input type="hidden" name=(name) value=(fields.get(name));
                }
            }
            input type="hidden" name="agreed" value="yes";
            div.buttons {
                button.bad type="submit" { "Do it" }
                a href="./" { "Back, and change nothing" }
            }
        }
    }
}

/// What a form is about, which is not for typing.
fn named(target: &Target, acting: &Acting, token: Option<rebootlock::id::Token>) -> Markup {
    html! {
        input type="hidden" name="do" value=(target.what.name());
        @if let Some(group) = &target.group {
            input type="hidden" name="group" value=(group.as_str());
        }
        @if let Some(id) = &target.id { input type="hidden" name="id" value=(id.as_str()); }
        @if let Some(token) = token { input type="hidden" name="token" value=(token.to_string()); }
        (stamp(&acting.token, PURPOSE))
    }
}
