//! What goes over the wire to a browser: HTML and the few files that it needs, under headers that let
//! the page do nothing but what it is for.

use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use maud::Markup;
use sha2::{Digest as _, Sha256};

/// Nothing but our own files: no script or style within the HTML, whatever a host calls itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// Of every answer here. Browsers that may send no referrer say that a form comes from nowhere, so
/// they may send it to us.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// An answer with the headers that all have.
pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A page.
pub(super) fn html(status: StatusCode, page: Markup) -> Response<Body> {
    respond(status, "text/html; charset=utf-8", page.into_string())
}

/// Where to go on after a form. A path below ours, whatever we are served under.
pub(super) fn see_other(to: &'static str) -> Response<Body> {
    let mut response = respond(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", Body::empty());
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
    response
}

/// A file that is part of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    /// How the page looks.
    Style,
    /// What keeps it as the fleet is.
    Script,
    /// What browsers show beside its name.
    Icon,
}

impl File {
    fn content(self) -> (&'static str, &'static str) {
        match self {
            Self::Style => ("text/css; charset=utf-8", include_str!("page.css")),
            Self::Script => ("text/javascript; charset=utf-8", include_str!("page.js")),
            Self::Icon => ("image/svg+xml", include_str!("icon.svg")),
        }
    }

    /// The file, unless the browser has it.
    pub(super) fn answer(self, asked: &HeaderMap) -> Response<Body> {
        let (content_type, text) = self.content();
        let tag = format!("\"{}\"", hex(&Sha256::digest(text)[..8]));
        let known = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let known = known.flat_map(|value| value.split(',')).any(|known| known.trim() == tag);
        let mut response = if known {
            respond(StatusCode::NOT_MODIFIED, content_type, Body::empty())
        } else {
            respond(StatusCode::OK, content_type, text)
        };
        // Asked for anew each time, so that a page never meets the files of another version.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            response.headers_mut().insert(ETAG, tag);
        }
        response
    }
}

/// Bytes as lower-case digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
