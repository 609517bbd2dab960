//! Answers in the form that FleetLock clients read: `{"kind": "…", "value": "…"}`.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

/// What an answer is, for programs. Clients use the names as labels, so there are few and they stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Granted, or released.
    Success,
    /// No slot is free, or what is free is for those who asked before.
    Full,
    /// The group or the fleet is paused.
    Paused,
    /// This machine is held.
    Held,
    /// The group cools down after a reboot.
    CoolingDown,
    /// No reboot window is open.
    Window,
    /// Too few others are well.
    Unhealthy,
    /// The machine has a slot that came about in another way.
    TakenOtherwise,
    /// Slots are held through another server, and not counted here.
    HeldElsewhere,
    /// One who had a slot before should be back by now.
    Overdue,
    /// The machine has not been up for long enough.
    TooYoung,
    /// The question is asked twice, and this was the first time.
    AskAgain,
    /// Not what HTTP asks of a request.
    InvalidRequest,
    /// `fleet-lock-protocol: true` is missing.
    MissingHeader,
    /// The body is not the JSON that is expected.
    InvalidBody,
    /// An id or a group that nobody may have.
    InvalidParams,
    /// A group that nobody has configured.
    UnknownGroup,
    /// Without credentials, or with wrong ones.
    Unauthorized,
    /// The credentials are good, but not for this id or group.
    Forbidden,
    /// There is nothing at this path.
    NotFound,
    /// Not by this method.
    MethodNotAllowed,
    /// The lease has ended.
    LeaseGone,
    /// The document that was to be written is damaged.
    InvalidDocument,
    /// It contradicts what is there.
    Conflict,
    /// The body is of another type than is read here.
    UnsupportedMediaType,
    /// The body took too long.
    Timeout,
    /// The body is too long.
    TooLarge,
    /// Too many requests from one address.
    RateLimited,
    /// The gateway itself has too much to do.
    Overloaded,
    /// The store does not answer.
    StoreUnavailable,
    /// The store answers, but others keep changing the same documents.
    StoreBusy,
    /// A document in the store cannot be read. A person has to look.
    StoreDamaged,
    /// The store answers, but does not do what was asked.
    StoreFailed,
}

impl Kind {
    /// As it is written. With `airlock`, the nearest of the few that airlock has.
    pub fn name(self, airlock: bool) -> &'static str {
        match (self, airlock) {
            (Self::Success, _) => "success",
            (Self::Full, false) => "failed_lock_semaphore_full",
            (Self::Paused, false) => "failed_lock_paused",
            (Self::Held, false) => "failed_lock_held",
            (Self::CoolingDown, false) => "failed_lock_cooldown",
            (Self::Window, false) => "failed_lock_window",
            (Self::Unhealthy, false) => "failed_lock_unhealthy",
            (Self::TakenOtherwise, false) => "failed_lock_taken_otherwise",
            (Self::HeldElsewhere, false) => "failed_lock_held_elsewhere",
            (Self::Overdue, false) => "failed_lock_overdue",
            (Self::TooYoung, false) => "failed_lock_uptime",
            (Self::AskAgain, _) => "ask_again",
            (Self::InvalidRequest, false) => "invalid_request",
            (Self::MissingHeader, false) => "missing_header",
            (Self::InvalidBody, false) => "invalid_body",
            (Self::InvalidParams, false) => "invalid_client_params",
            (Self::StoreUnavailable, false) => "store_unavailable",
            (Self::StoreBusy, false) => "store_busy",
            (Self::StoreDamaged, false) => "store_damaged",
            (Self::StoreFailed, false) => "store_failed",
            (
                Self::Full
                | Self::Paused
                | Self::Held
                | Self::CoolingDown
                | Self::Window
                | Self::Unhealthy
                | Self::TakenOtherwise
                | Self::HeldElsewhere
                | Self::Overdue
                | Self::TooYoung
                | Self::StoreBusy
                | Self::StoreDamaged
                | Self::StoreFailed,
                true,
            ) => "failed_lock",
            (
                Self::InvalidRequest
                | Self::MissingHeader
                | Self::InvalidBody
                | Self::InvalidParams,
                true,
            ) => "invalid_client_identity",
            (Self::StoreUnavailable, true) => "failed_sem_init",
            (Self::UnknownGroup, _) => "unknown_group",
            (Self::Unauthorized, _) => "unauthorized",
            (Self::Forbidden, _) => "forbidden",
            (Self::NotFound, _) => "not_found",
            (Self::MethodNotAllowed, _) => "method_not_allowed",
            (Self::LeaseGone, _) => "lease_gone",
            (Self::InvalidDocument, _) => "invalid_document",
            (Self::Conflict, _) => "conflict",
            (Self::UnsupportedMediaType, _) => "unsupported_media_type",
            (Self::Timeout, _) => "timeout",
            (Self::TooLarge, _) => "body_too_large",
            (Self::RateLimited, _) => "rate_limited",
            (Self::Overloaded, _) => "overloaded",
        }
    }

    /// Whether it is about the store as a whole rather than one group or one machine.
    pub(crate) fn is_of_store(self) -> bool {
        matches!(self, Self::StoreUnavailable | Self::StoreBusy | Self::StoreFailed)
    }

    /// Nothing but [`Kind::Success`] is a 2xx: clients take every one of them for a grant. Nothing is
    /// a 3xx: they follow those to wherever a 200 may be.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Success => StatusCode::OK,
            Self::Full
            | Self::Paused
            | Self::Held
            | Self::CoolingDown
            | Self::Window
            | Self::Unhealthy
            | Self::TakenOtherwise
            | Self::HeldElsewhere
            | Self::Overdue
            | Self::TooYoung
            | Self::AskAgain => StatusCode::LOCKED,
            Self::InvalidRequest
            | Self::MissingHeader
            | Self::InvalidBody
            | Self::InvalidParams
            | Self::UnknownGroup => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::LeaseGone => StatusCode::GONE,
            Self::InvalidDocument => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Conflict => StatusCode::CONFLICT,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded
            | Self::StoreUnavailable
            | Self::StoreBusy
            | Self::StoreDamaged
            | Self::StoreFailed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// An answer that is not sent yet.
#[derive(Debug)]
pub struct Reply {
    /// What it is, for programs.
    pub kind: Kind,
    /// What it is, for people. Never empty.
    pub value: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What the log and the figures want to know of an answer.
#[derive(Debug, Clone)]
pub struct Told {
    /// What was answered.
    pub kind: Kind,
}

/// What the log and the figures call an answer that is not of such a kind.
#[derive(Debug, Clone, Copy)]
pub struct Called(pub &'static str);

#[derive(Serialize)]
struct Written<'a> {
    kind: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    kind: &'a str,
}

impl Reply {
    /// An answer of `kind`, which `value` explains to people.
    pub fn new(kind: Kind, value: impl Into<String>) -> Self {
        let fixed = |name, value| vec![(name, HeaderValue::from_static(value))];
        let headers = match kind {
            // What the client still wants to send is not read any more.
            Kind::Timeout | Kind::TooLarge | Kind::InvalidRequest => fixed(CONNECTION, "close"),
            // Unless it is known better.
            Kind::RateLimited => fixed(RETRY_AFTER, "60"),
            Kind::Unauthorized => fixed(WWW_AUTHENTICATE, "Basic realm=\"rebootlock\""),
            _ => Vec::new(),
        };
        Self { kind, value: value.into(), headers }
    }

    /// The answer to a method that a path does not have.
    pub fn only(allowed: &'static str) -> Self {
        let mut reply = Self::new(Kind::MethodNotAllowed, format!("only {allowed} is served here"));
        reply.headers.push((ALLOW, HeaderValue::from_static(allowed)));
        reply
    }

    /// The same answer, with a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same answer, asking the client not to come back for so long.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        self.with(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1))
    }

    /// What goes over the wire to those who read RFC 9457.
    pub fn into_problem(self) -> Response<Body> {
        let status = self.kind.status();
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: &self.value,
            kind: self.kind.name(false),
        };
        // Strings and a number always have a JSON form.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        self.response(body, "application/problem+json")
    }

    /// What goes over the wire to those who print what they are told.
    pub fn into_text(self) -> Response<Body> {
        let body = format!("{}\n", self.value).into_bytes();
        let mut response = self.response(body, "text/plain; charset=utf-8");
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    /// What goes over the wire.
    pub fn into_response(self, airlock: bool) -> Response<Body> {
        let written = Written { kind: self.kind.name(airlock), value: &self.value };
        // Two strings always have a JSON form.
        let body = serde_json::to_vec(&written).unwrap_or_default();
        self.response(body, "application/json")
    }

    fn response(self, body: Vec<u8>, content_type: &'static str) -> Response<Body> {
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response.extensions_mut().insert(Told { kind: self.kind });
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kind; 33] = [
        Kind::Success,
        Kind::Full,
        Kind::Paused,
        Kind::Held,
        Kind::CoolingDown,
        Kind::Window,
        Kind::Unhealthy,
        Kind::TakenOtherwise,
        Kind::HeldElsewhere,
        Kind::Overdue,
        Kind::TooYoung,
        Kind::AskAgain,
        Kind::InvalidRequest,
        Kind::MissingHeader,
        Kind::InvalidBody,
        Kind::InvalidParams,
        Kind::UnknownGroup,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::LeaseGone,
        Kind::InvalidDocument,
        Kind::Conflict,
        Kind::UnsupportedMediaType,
        Kind::Timeout,
        Kind::TooLarge,
        Kind::RateLimited,
        Kind::Overloaded,
        Kind::StoreUnavailable,
        Kind::StoreBusy,
        Kind::StoreDamaged,
        Kind::StoreFailed,
    ];

    #[test]
    fn nothing_but_success_is_a_2xx_and_nothing_is_a_redirect() {
        for kind in ALL {
            let status = kind.status();
            assert_eq!(status.is_success(), kind == Kind::Success, "{kind:?}");
            assert!(!status.is_redirection() && !status.is_informational(), "{kind:?}");
            assert!(!status.is_server_error() || status.as_u16() == 503, "{kind:?}");
        }
    }

    #[test]
    fn every_kind_has_a_name_of_its_own_and_one_that_airlock_would_know() {
        let mut names: Vec<_> = ALL.iter().map(|kind| kind.name(false)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(Kind::Full.name(true), "failed_lock");
        assert_eq!(Kind::StoreUnavailable.name(true), "failed_sem_init");
        assert_eq!(Kind::MissingHeader.name(true), "invalid_client_identity");
    }
}
