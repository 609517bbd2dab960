//! What a server says besides yes.

use std::fmt;
use std::time::Duration;

use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, RETRY_AFTER};
use serde_json::Value;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// So much of what a server says is passed on, in characters.
const MAX_SAID: usize = 300;

/// A server that cuts fractions off has held a request for a little less than it says.
const ALMOST: Duration = Duration::from_secs(1);

/// Longest time to leave a server alone because it asks for it.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// An answer that is not 200.
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
    /// Whether the server waited as long as it was asked to: then it can be asked again at once.
    pub waited: bool,
    /// Not before this long, it says.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// One of which nothing but the status is known.
    pub(super) fn bare(server: String, status: u16) -> Self {
        let (kind, value) = (String::new(), String::new());
        Self { server, status, kind, value, waited: false, retry_after: None }
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
            waited: wait.is_some_and(|wait| !wait.is_zero() && took + ALMOST >= wait),
            retry_after,
            ..Self::bare(server, answer.status().as_u16())
        }
    }

    /// Whether it says more about the server than about the slot, and another answer may come soon.
    pub fn is_passing(&self) -> bool {
        self.status == 408 || self.status == 429 || (500..600).contains(&self.status)
    }
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
            201..300 => write!(f, "; nothing but 200 is a yes"),
            300..400 => write!(f, "; redirects are not followed"),
            _ => Ok(()),
        }
    }
}
