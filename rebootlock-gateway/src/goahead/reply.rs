//! What goahead clients read: one object, its keys in goahead's order.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Response, StatusCode};
use jiff::Zoned;
use rand::RngExt as _;
use serde::Serialize;

use crate::reply::{Kind, Reply, Told};

/// An answer to a question, always with status 200: clients look at what it says.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Restart {
    timestamp: String,
    go_ahead: bool,
    pub(super) unknown_host: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ask_again_in: Option<String>,
    pub(super) request_id: String,
    pub(super) found_cluster: String,
    requesting_fqdn: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) message: String,
    reported_uptime: String,
    /// What it is, for the log and the figures.
    #[serde(skip)]
    pub(super) kind: Kind,
}

/// Before this many seconds from now a client is told to ask again.
const ASK_AGAIN_WITHIN: u8 = 30;

impl Restart {
    /// No, for no reason yet.
    pub(super) fn new(fqdn: &str, uptime: &str) -> Self {
        Self {
            timestamp: now(),
            go_ahead: false,
            unknown_host: true,
            ask_again_in: None,
            request_id: request_id(),
            found_cluster: String::new(),
            requesting_fqdn: fqdn.to_owned(),
            message: String::new(),
            reported_uptime: uptime.to_owned(),
            kind: Kind::Success,
        }
    }

    /// Asks the client to come again.
    pub(super) fn ask_again(&mut self) {
        let seconds = rand::rng().random_range(0..ASK_AGAIN_WITHIN);
        self.ask_again_in = Some(format!("{seconds}s"));
    }

    /// No, because of `message`.
    pub(super) fn no(mut self, kind: Kind, message: impl Into<String>) -> Self {
        self.go_ahead = false;
        self.message = message.into();
        self.kind = kind;
        self
    }

    /// Yes. Only for a slot that is committed: clients reboot on this, whatever else an answer says.
    pub(super) fn yes(mut self, message: &str) -> Self {
        self.go_ahead = true;
        self.message = message.to_owned();
        self.kind = Kind::Success;
        self
    }

    pub(super) fn into_response(self) -> Response<Body> {
        json(StatusCode::OK, self.kind, &self)
    }
}

#[derive(Serialize)]
struct Error<'a> {
    error: &'a str,
}

/// What cannot be answered. Clients print it and go no further.
pub(super) fn error(kind: Kind, status: StatusCode, text: &str) -> Response<Body> {
    json(status, kind, &Error { error: text })
}

/// The same of an answer of ours, with its headers.
pub(crate) fn refused(reply: Reply) -> Response<Body> {
    let (kind, text) = (reply.kind, reply.value.clone());
    let mut response = reply.into_response(false);
    let body = error(kind, kind.status(), &text).into_body();
    *response.body_mut() = body;
    response
}

/// There is nothing here, as a Go server says it.
pub(super) fn not_found() -> Response<Body> {
    let mut response = Response::new(Body::from("404 page not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.extensions_mut().insert(Told { kind: Kind::NotFound });
    response
}

fn json(status: StatusCode, kind: Kind, value: &impl Serialize) -> Response<Body> {
    // Strings and flags always have a JSON form.
    let text = escaped(&serde_json::to_string(value).unwrap_or_default());
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(Told { kind });
    response
}

/// As Go's encoder writes strings. Outside of strings JSON has none of these characters.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            c => text.push(c),
        }
    }
    text
}

/// RFC 3339 with what there is of a fraction, in this machine's time zone.
fn now() -> String {
    let now = Zoned::now();
    match now.offset().is_zero() {
        true => now.timestamp().to_string(),
        false => now.timestamp().display_with_offset(now.offset()).to_string(),
    }
}

/// Eight letters that nobody can guess.
fn request_id() -> String {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut rng = rand::rng();
    (0..8).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_goaheads_order_and_some_not_at_all() {
        let mut answer = Restart::new("a.b", "1h");
        answer.timestamp = "T".into();
        answer.request_id = "NNtSEQWZ".into();
        let text = |answer: &Restart| escaped(&serde_json::to_string(answer).unwrap_or_default());
        assert_eq!(
            text(&answer),
            r#"{"timestamp":"T","go_ahead":false,"unknown_host":true,"request_id":"NNtSEQWZ","found_cluster":"","requesting_fqdn":"a.b","reported_uptime":"1h"}"#
        );
        answer.ask_again_in = Some("0s".into());
        answer.message = "1 >= 1 <&>".into();
        assert_eq!(
            text(&answer),
            r#"{"timestamp":"T","go_ahead":false,"unknown_host":true,"ask_again_in":"0s","request_id":"NNtSEQWZ","found_cluster":"","requesting_fqdn":"a.b","message":"1 \u003e= 1 \u003c\u0026\u003e","reported_uptime":"1h"}"#
        );
    }

    #[test]
    fn every_answer_has_another_id_and_a_time_that_can_be_read() {
        let (one, two) = (Restart::new("", ""), Restart::new("", ""));
        assert_ne!(one.request_id, two.request_id);
        assert!(
            one.request_id.len() == 8 && one.request_id.bytes().all(|b| b.is_ascii_alphabetic())
        );
        assert!(one.timestamp.parse::<jiff::Timestamp>().is_ok(), "{}", one.timestamp);
    }
}
