//! What HTTP/1.1 has every server refuse (RFC 9112, 3.2 and 6.1): requests of which one program could think
//! that they are for another host, or end elsewhere, than the next one in the line does.
//!
//! `Content-Length` beside `Transfer-Encoding: chunked` cannot be seen here: hyper believes the latter
//! alone and closes the connection after the answer, so nothing that follows is taken for a request.

use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::http::uri::Authority;
use axum::http::{Request, Version};

/// What is wrong with it, in words.
pub(crate) fn problem<B>(request: &Request<B>) -> Option<&'static str> {
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    // Of a target that names a host itself, that counts (3.2.2).
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Some("there are two `Host` headers"),
        (None, _) if request.version() == Version::HTTP_11 => {
            return Some("the `Host` header is missing");
        }
        (Some(host), None) if !host.to_str().is_ok_and(is_host) => {
            return Some("the `Host` header is no host");
        }
        _ => {}
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => None,
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => None,
        _ => Some("the only `Transfer-Encoding` that is served is `chunked`"),
    }
}

/// Nothing is one, too: what has no host of its own says so.
fn is_host(text: &str) -> bool {
    text.is_empty() || (!text.contains('@') && text.parse::<Authority>().is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(version: Version, target: &str, lines: &[(&str, &str)]) -> Option<&'static str> {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        problem(&request.body(()).unwrap())
    }

    #[test]
    fn nobody_can_be_of_two_minds_about_the_host() {
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        for (version, target, hosts, fine) in [
            (new, "/", &["gw"][..], true),
            (new, "/", &["gw:9090"], true),
            (new, "/", &["[::1]:9090"], true),
            (new, "/", &[""], true),
            (new, "/", &[], false),
            (old, "/", &[], true),
            (new, "/", &["gw", "gw"], false),
            (old, "/", &["localhost", "gw"], false),
            (new, "/", &["a b"], false),
            (new, "/", &["evil@localhost"], false),
            (new, "/", &["localhost/x"], false),
            (new, "http://gw/x", &["gw"], true),
            (new, "http://gw/x", &["localhost"], true),
            (new, "http://gw/x", &["gw", "gw"], false),
            (new, "gw:443", &["gw:443"], true),
        ] {
            let lines: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let found = with(version, target, &lines);
            assert_eq!(found.is_none(), fine, "{version:?} {target} {hosts:?}: {found:?}");
        }
    }

    #[test]
    fn nobody_can_be_of_two_minds_about_the_end() {
        for (encodings, fine) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["chunked", "chunked"], false),
            (&["chunked, chunked"], false),
            (&["identity"], false),
            (&[""], false),
        ] {
            let lines = encodings.iter().map(|encoding| ("transfer-encoding", *encoding));
            let lines: Vec<_> = lines.chain([("host", "gw")]).collect();
            let found = with(Version::HTTP_11, "/", &lines);
            assert_eq!(found.is_none(), fine, "{encodings:?}: {found:?}");
        }
    }
}
