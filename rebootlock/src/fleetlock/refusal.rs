//! What a server says besides yes.

use std::fmt;
use std::time::Duration;

use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use serde_json::Value;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// So much of what a server says is passed on, in characters.
const MAX_SAID: usize = 300;

/// Clocks run differently: a server that says how long it has held a request may have done so for so much
/// of it.
const ALMOST: f64 = 0.9;

/// What says of an answer that it is a no, in our gateway's, airlock's, poseidon's and heathcliff26's words,
/// besides all that begins with `failed_`. It may come under a status of 200, from what stands between.
const NO: [&str; 29] = [
    "all_slots_full",
    "ask_again",
    "body_too_large",
    "conflict",
    "decode_error",
    "error",
    "forbidden",
    "internal_error",
    "invalid_body",
    "invalid_client_identity",
    "invalid_client_params",
    "invalid_document",
    "lease_gone",
    "lock_held",
    "method_not_allowed",
    "missing_header",
    "nil_server",
    "not_found",
    "overloaded",
    "rate_limited",
    "reboot_cooldown",
    "store_busy",
    "store_damaged",
    "store_failed",
    "store_unavailable",
    "timeout",
    "unauthorized",
    "unknown_group",
    "unsupported_media_type",
];

/// Longest time to leave a server alone because it asks for it.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// An answer that is not 200, or not what a server says with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which server.
    pub server: String,
    /// Its status.
    pub status: u16,
    /// What it is, for programs; empty if it does not say.
    pub kind: String,
    /// What it is, for people; empty if it does not say.
    pub value: String,
    /// Whether it is a page for people.
    pub page: bool,
    /// Whether the server waited as long as it was asked to: then it can be asked again at once.
    pub waited: bool,
    /// Not before this long, it says.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// One of which nothing but the status is known.
    pub(super) fn bare(server: String, status: u16) -> Self {
        let (kind, value) = (String::new(), String::new());
        Self { server, status, kind, value, page: false, waited: false, retry_after: None }
    }

    pub(super) fn read(server: String, answer: &Response<Bytes>, took: Duration) -> Self {
        let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let text = |name| body.get(name).and_then(Value::as_str).map(clean).unwrap_or_default();
        let wait = header(answer.headers(), &PREFERENCE_APPLIED)
            .and_then(|applied| applied.trim().strip_prefix("wait="))
            .and_then(|secs| secs.trim_matches('"').parse().ok())
            .map(Duration::from_secs);
        let retry_after = header(answer.headers(), &RETRY_AFTER)
            .and_then(|secs| secs.trim().parse().ok())
            .map(|secs| Duration::from_secs(secs).min(MAX_RETRY_AFTER));
        Self {
            kind: text("kind"),
            value: text("value"),
            page: header(answer.headers(), &CONTENT_TYPE).is_some_and(is_page),
            waited: wait.is_some_and(|wait| !wait.is_zero() && took >= wait.mul_f64(ALMOST)),
            retry_after,
            ..Self::bare(server, answer.status().as_u16())
        }
    }

    /// Whether it says more about the server than about the slot, and another answer may come soon.
    pub fn is_passing(&self) -> bool {
        let of_server = matches!(self.status, 408 | 429 | 500..=599);
        of_server && !self.is_one_for_all()
    }

    /// Whether it is airlock's one answer for a full group, a race that was lost, and a store that it cannot
    /// read: no slot this time, and nothing else is known.
    pub fn is_one_for_all(&self) -> bool {
        self.status == 500 && self.kind == "failed_lock"
    }

    /// Whether it says that nobody is there who could be asked: a proxy speaks for a server that is away,
    /// or a server for its store. Whoever has another reason is there, and has not said yes.
    pub(super) fn is_nobodys(&self) -> bool {
        match self.status {
            503 => matches!(&*self.kind, "" | "store_unavailable"),
            502 | 504 => self.kind.is_empty(),
            _ => false,
        }
    }

    /// Whether it is a no whatever its status: what stands between may have put 200 there.
    pub(super) fn is_no(&self) -> bool {
        let kind = self.kind.to_ascii_lowercase();
        self.page || kind.starts_with("failed_") || NO.contains(&&*kind)
    }
}

fn is_page(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    ["text/html", "application/xhtml+xml"].iter().any(|page| kind.eq_ignore_ascii_case(page))
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What others wrote must not play tricks on a terminal or fill a log.
fn clean(text: &str) -> String {
    let text = text.trim();
    let clean = text.chars().take(MAX_SAID).map(|c| if c.is_control() { ' ' } else { c });
    let mut clean: String = clean.collect();
    if text.chars().count() > MAX_SAID {
        clean.push('…');
    }
    clean
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answers {}", self.server, self.status)?;
        if !self.kind.is_empty() {
            write!(f, " {}", self.kind)?;
        }
        if !self.value.is_empty() {
            write!(f, ": {}", self.value)?;
        }
        match self.status {
            200 if self.page => write!(
                f,
                " with a page for people, which is no yes: a proxy or a login page stands between; let \
                 this machine reach the server itself"
            ),
            200 => write!(
                f,
                "; a refusal is no yes, whatever its status: a proxy stands between that changes it; let \
                 this machine reach the server itself"
            ),
            201..300 => write!(f, "; nothing but 200 is a yes"),
            300..400 => write!(f, "; redirects are not followed"),
            _ => Ok(()),
        }
    }
}
