//! `Prefer: wait=30` (RFC 7240): a client that would rather be held than refused.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// How long the client would wait. What cannot be understood is no preference.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let given = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = given.flat_map(|value| value.split(','));
    // Of several of one name the first counts.
    preferences.find_map(|preference| {
        let preference = preference.split(';').next().unwrap_or_default();
        let (name, value) = preference.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("wait") {
            return None;
        }
        Some(value.trim().trim_matches('"').parse().ok().map(Duration::from_secs))
    })?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_counts_and_nonsense_does_not() {
        for (text, secs) in [
            ("wait=30", Some(30)),
            ("respond-async, WAIT = \"5\"; x=y", Some(5)),
            ("wait=1, wait=2", Some(1)),
            ("wait", None),
            ("wait=-1", None),
            ("wait=soon, wait=3", None),
            ("waiting=3", None),
            ("", None),
        ] {
            let headers = [(PREFER, text.parse().unwrap())].into_iter().collect();
            assert_eq!(wait(&headers), secs.map(Duration::from_secs), "{text}");
        }
    }
}
