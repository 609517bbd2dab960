//! Whether a form was sent by a page of ours, and not by one of somebody else's in the same browser.

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, Uri};

/// Browsers say it where nobody could have tampered with it; a script cannot set it.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether the request comes from our own pages. Browsers that do not say from where they come, and
/// everything that is no browser, do not.
pub(super) fn is_ours(headers: &HeaderMap) -> bool {
    let site = one(headers, SITE);
    let origin = one(headers, ORIGIN);
    match (site, origin) {
        (Some(site), _) => site == "same-origin",
        // Over plain HTTP they say less. The scheme may differ: a proxy may end TLS before us.
        (None, Some(origin)) => match (authority(origin), one(headers, HOST)) {
            (Some(from), Some(host)) => from.eq_ignore_ascii_case(host),
            _ => false,
        },
        (None, None) => false,
    }
}

/// Whether the browser speaks TLS, whether or not we do: a proxy may do so for us.
pub(super) fn is_over_tls(headers: &HeaderMap) -> bool {
    one(headers, ORIGIN).is_some_and(|origin| origin.starts_with("https://"))
}

fn authority(origin: &str) -> Option<String> {
    let uri: Uri = origin.parse().ok()?;
    // `null`, for one, has no scheme.
    uri.scheme()?;
    uri.authority().map(ToString::to_string)
}

/// The value of a header that is there exactly once.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        // As a text that matches nothing.
        (Some(_), Some(_)) => Some(""),
        (None, _) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_our_own_pages_send_forms() {
        for (pairs, ours) in [
            (&[("sec-fetch-site", "same-origin"), ("host", "gw")][..], true),
            (
                &[("sec-fetch-site", "same-origin"), ("origin", "https://gw"), ("host", "inner")],
                true,
            ),
            (&[("origin", "http://gw:9090"), ("host", "gw:9090")], true),
            (&[("origin", "https://GW"), ("host", "gw")], true),
            (&[("sec-fetch-site", "same-site"), ("origin", "http://gw"), ("host", "gw")], false),
            (&[("sec-fetch-site", "cross-site"), ("host", "gw")], false),
            (&[("sec-fetch-site", "none"), ("host", "gw")], false),
            (&[("origin", "http://gw:1"), ("host", "gw:2")], false),
            (&[("origin", "http://evil"), ("host", "gw")], false),
            (&[("origin", "null"), ("host", "null")], false),
            (&[("origin", "http://gw"), ("origin", "http://gw"), ("host", "gw")], false),
            (&[("host", "gw")], false),
            (&[("origin", "http://gw")], false),
        ] {
            assert_eq!(is_ours(&headers(pairs)), ours, "{pairs:?}");
        }
    }
}
