//! Where a request comes from, if proxies stand in between. One answer for everything here: limits,
//! rules about addresses, logs.
//!
//! What a proxy says counts if the settings name it. Each adds the address it was spoken to from at the
//! end of a list, so the list is read from its end: the first address there that is no proxy's is the
//! client's. What stands before it the client may have made up.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::FORWARDED;
use axum::http::{HeaderMap, HeaderName};
use rebootlock::config::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where a request with these headers comes from that came in from `peer`.
///
/// A proxy that sets one of the two headers passes the other on as its client wrote it. So if both
/// are there, they have to agree; if not, or if they cannot be read, it comes from the proxy.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_proxy = |address| trusted.iter().any(|network| network.contains(address));
    if !is_proxy(peer) {
        return peer;
    }
    let hops = |name, read: fn(&str) -> Option<IpAddr>| {
        let lines: Vec<_> = headers.get_all(name).iter().map(|line| line.to_str()).collect();
        if lines.is_empty() {
            return None;
        }
        let elements = lines.into_iter().flat_map(|line| match line {
            Ok(line) => line.split(',').map(read).collect(),
            Err(_) => vec![None],
        });
        Some(elements.collect::<Vec<_>>())
    };
    let first_stranger = |hops: Vec<Option<IpAddr>>| {
        let mut last = peer;
        for hop in hops.into_iter().rev() {
            // Beyond what cannot be read nothing is known.
            let Some(hop) = hop else { break };
            last = hop;
            if !is_proxy(hop) {
                break;
            }
        }
        last
    };
    let said = [hops(X_FORWARDED_FOR, bare), hops(FORWARDED, forwarded)]
        .map(|hops| hops.map(first_stranger));
    match said {
        [Some(one), Some(other)] if one != other => peer,
        [one, other] => one.or(other).unwrap_or(peer),
    }
}

/// The same, as the other end of a connection; a port of the client's is not known then.
pub fn client_socket(peer: SocketAddr, headers: &HeaderMap, trusted: &[Network]) -> SocketAddr {
    let client = client(peer.ip(), headers, trusted);
    if client == peer.ip().to_canonical() { peer } else { SocketAddr::new(client, 0) }
}

/// An address, with or without a port.
fn bare(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = text.parse().or_else(|_| {
        let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        unbracketed.unwrap_or_default().parse::<IpAddr>()
    });
    let address = address.or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// The address of an element such as `for="[2001:db8::1]:4711";proto=https` (RFC 7239).
fn forwarded(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("for") {
            let value = value.trim();
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            // Two of them are none.
            if found.replace(bare(quoted.unwrap_or(value))?).is_some() {
                return None;
            }
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from(peer: &str, lines: &[(&str, &str)], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let trusted: Vec<_> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        client(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_proxies_that_are_named_are_believed() {
        let said = [("x-forwarded-for", "192.0.2.1")];
        assert_eq!(from("10.0.0.9", &said, &[]), "10.0.0.9");
        assert_eq!(from("10.0.0.9", &said, &["10.0.1.0/24"]), "10.0.0.9");
        assert_eq!(from("10.0.0.9", &said, &["10.0.0.0/24"]), "192.0.2.1");
        assert_eq!(from("::ffff:10.0.0.9", &said, &["10.0.0.0/24"]), "192.0.2.1");
        assert_eq!(from("10.0.0.9", &[], &["10.0.0.0/24"]), "10.0.0.9");
    }

    #[test]
    fn what_a_client_made_up_is_not_believed() {
        let trusted = ["10.0.0.0/24"];
        for (lines, client) in [
            (&[("x-forwarded-for", "198.51.100.7, 192.0.2.1")][..], "192.0.2.1"),
            (&[("x-forwarded-for", "198.51.100.7, 192.0.2.1, 10.0.0.8")], "192.0.2.1"),
            (&[("x-forwarded-for", "198.51.100.7"), ("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
            (&[("x-forwarded-for", "10.0.0.7, 10.0.0.8")], "10.0.0.7"),
            (&[("x-forwarded-for", "192.0.2.1, nonsense, 10.0.0.8")], "10.0.0.8"),
            (&[("x-forwarded-for", "192.0.2.1, nonsense")], "10.0.0.9"),
            (&[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1")], "192.0.2.1"),
            (&[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.2")], "10.0.0.9"),
            (&[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=unknown")], "10.0.0.9"),
        ] {
            assert_eq!(from("10.0.0.9", lines, &trusted), client, "{lines:?}");
        }
    }

    #[test]
    fn both_headers_are_read_in_all_their_spellings() {
        let trusted = ["10.0.0.9"];
        for (name, value, client) in [
            ("x-forwarded-for", "192.0.2.1:1234", "192.0.2.1"),
            ("x-forwarded-for", "2001:db8::1", "2001:db8::1"),
            ("x-forwarded-for", "[2001:db8::1]:1234", "2001:db8::1"),
            ("x-forwarded-for", "::ffff:192.0.2.1", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1;proto=http;by=203.0.113.43", "192.0.2.1"),
            ("forwarded", "proto=https; For=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("forwarded", "for=\"_gazonk\"", "10.0.0.9"),
            ("forwarded", "for=192.0.2.1;for=192.0.2.2", "10.0.0.9"),
            ("forwarded", "proto=http", "10.0.0.9"),
            ("forwarded", "", "10.0.0.9"),
        ] {
            assert_eq!(from("10.0.0.9", &[(name, value)], &trusted), client, "{name}: {value}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(one in "[ -~]{0,60}", other in "[ -~]{0,60}") {
            from("10.0.0.9", &[("x-forwarded-for", &one), ("forwarded", &other)], &["0.0.0.0/0"]);
        }
    }
}
