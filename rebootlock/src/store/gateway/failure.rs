//! What went wrong at one gateway, in words for a person, and what it means for the others.

use hyper::StatusCode;
use serde::Deserialize;

use crate::http::{Access, Credentials, HttpError};
use crate::store::StoreError;
use crate::store::feed::Failed;

/// What a failure at one gateway means.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The store has answered; another gateway would say the same.
    Settled(StoreError),
    /// This gateway does not accept us, or we do not trust it. Nothing was done.
    Refused(String),
    /// Nothing was done.
    Undone(String),
    /// It may have been done.
    Unknown(String),
}

impl Failed for Failure {
    fn is_for_a_person(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Settled(_))
    }
}

impl Failure {
    /// Whether the request may have had an effect.
    pub(super) fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Settled(_))
    }

    /// The same of something that was not sent because of it.
    pub(super) fn of_something_unsent(self) -> Self {
        match self {
            Self::Unknown(reason) => Self::Undone(reason),
            failure => failure,
        }
    }

    /// Why, for a list of gateways.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Settled(error) => error.to_string(),
            Self::Refused(reason) | Self::Undone(reason) | Self::Unknown(reason) => reason.clone(),
        }
    }
}

/// One error out of those of all gateways.
pub(super) fn summary(failures: &[(&str, Failure)]) -> StoreError {
    if let [(_, Failure::Settled(error))] = failures {
        return error.clone();
    }
    let each = |(url, failure): &(&str, Failure)| format!("{url}: {}", failure.reason());
    let text = failures.iter().map(each).collect::<Vec<_>>().join("; ");
    match failures.iter().all(|(_, failure)| matches!(failure, Failure::Refused(_))) {
        true => StoreError::Refused(text),
        false => StoreError::Unavailable(text),
    }
}

/// What a connection that did not come about means.
pub(super) fn from_http(error: HttpError, access: &Access) -> Failure {
    match error {
        HttpError::Setup(reason) => Failure::Refused(reason),
        HttpError::Unreached(reason) => match tls_refusal(&reason, access) {
            Some(refusal) => Failure::Refused(refusal),
            None => Failure::Undone(reason),
        },
        HttpError::NoAnswer(reason) => match tls_refusal(&reason, access) {
            Some(refusal) => Failure::Refused(refusal),
            None => Failure::Unknown(reason),
        },
        HttpError::Incomplete { problem, .. } => Failure::Unknown(problem),
    }
}

/// A sentence for TLS that did not come about. The TLS library says it in its own words only.
fn tls_refusal(cause: &str, access: &Access) -> Option<String> {
    if cause.contains("invalid peer certificate") {
        let authorities = match &access.ca_file {
            Some(file) => format!("an authority in {}", file.display()),
            None => "an authority of this system (name yours as ca_file)".to_owned(),
        };
        return Some(match cause.contains("UnknownIssuer") || cause.contains("BadSignature") {
            true => {
                format!("the gateway's certificate is not signed by {authorities}: {cause}")
            }
            false => format!("the gateway's certificate is not good: {cause}"),
        });
    }
    if cause.contains("received fatal alert") {
        return Some(match &access.certificate {
            Some(ours) => format!(
                "the gateway does not accept the client certificate in {}: {cause}",
                ours.cert_file.display()
            ),
            None => {
                format!("the gateway demands a client certificate (cert_file, key_file): {cause}")
            }
        });
    }
    cause.contains("corrupt message of type InvalidContentType").then(|| {
        format!("no TLS is spoken there, write gateway+http:// or http:// for it: {cause}")
    })
}

/// What every refusal of a gateway has in it (RFC 9457).
#[derive(Debug, Deserialize)]
struct Said {
    kind: String,
    detail: String,
}

/// What an answer with another status than 200 means.
pub(super) fn from_answer(status: StatusCode, body: &[u8], access: &Access) -> Failure {
    let Ok(Said { kind, detail }) = serde_json::from_slice(body) else {
        return not_ours(status);
    };
    match &*kind {
        "lease_gone" => Failure::Settled(StoreError::LeaseGone),
        "forbidden" => {
            Failure::Settled(StoreError::Forbidden(format!("the gateway says: {detail}")))
        }
        "unauthorized" => Failure::Refused(unauthorized(&detail, access)),
        "store_failed" | "invalid_document" | "invalid_body" | "body_too_large" => {
            Failure::Settled(StoreError::Broken(format!("the gateway says: {detail}")))
        }
        // It knows no more than we do of what became of it.
        "store_unavailable" => Failure::Unknown(format!("the gateway says: {detail}")),
        "not_found" | "method_not_allowed" => Failure::Undone(
            "this gateway does not serve its store to others; a newer version does".to_owned(),
        ),
        "overloaded" | "rate_limited" | "timeout" => {
            Failure::Undone(format!("the gateway says: {detail}"))
        }
        _ => not_ours(status),
    }
}

/// Something else answers, or something in between.
fn not_ours(status: StatusCode) -> Failure {
    let advice = "no rebootlock gateway answers there";
    if status.is_redirection() {
        return Failure::Undone(format!(
            "{advice}: it answers {status}, and redirects are not followed; name the gateway itself"
        ));
    }
    match status.is_server_error() {
        // What is in between may have passed it on.
        true => Failure::Unknown(format!("the way to the gateway is broken: it answers {status}")),
        false => Failure::Undone(format!("{advice}: it answers {status}")),
    }
}

fn unauthorized(value: &str, access: &Access) -> String {
    match &access.credentials {
        Credentials::None => format!(
            "the gateway wants to know who we are, and no credentials are configured; set username \
             and password_file, or token_file, in [store] ({value})"
        ),
        Credentials::Basic { username, password } => format!(
            "the gateway does not accept user {username} with the password in {} ({value})",
            password.path.display()
        ),
        Credentials::Bearer(token) => {
            format!("the gateway does not accept the token in {} ({value})", token.path.display())
        }
    }
}
