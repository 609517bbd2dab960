//! A machine speaks for itself alone, as far as its address can tell, with and without a proxy.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::client::{Machine, PATH, holders, send_from};
use super::gateway;
use super::support::request;

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99));

fn ask(
    gw: &super::support::Gateway,
    from: IpAddr,
    headers: &str,
    hostname: &str,
    operation: &str,
) -> (u16, String) {
    let machine =
        json!({"Hostname": hostname, "Tags": {"DisruptionManagerGroupIdentifier": "web"}});
    let body = json!({"MDB": machine, "Request": operation}).to_string();
    let answer = send_from(from, gw, &request("POST", PATH, headers, &body));
    (answer.status, answer.body)
}

#[test]
fn nobody_asks_or_cancels_for_another_machine_but_anybody_may_check() {
    let (fleet, gw) = gateway("");
    let [a, b] = [2, 3].map(Machine::new);
    assert_eq!(a.request(&gw), "permitted");
    for operation in ["request", "cancel"] {
        let refused = ask(&gw, b.address, "", &a.id(), operation);
        assert_eq!(refused, (403, "127.0.0.2 not permitted\n".to_owned()));
        // What a proxy would say counts for nothing where none is trusted.
        let forged = "x-forwarded-for: 127.0.0.2\r\nforwarded: for=127.0.0.2\r\n";
        assert_eq!(ask(&gw, b.address, forged, &a.id(), operation).0, 403);
        let refused = ask(&gw, b.address, "", "nobody.invalid", operation);
        assert_eq!(refused.0, 403);
        assert!(refused.1.starts_with("lookup nobody.invalid: "), "{refused:?}");
    }
    assert_eq!(holders(&fleet), json!(["127.0.0.2"]));
    let (status, text) = ask(&gw, b.address, "", &a.id(), "check");
    assert_eq!((status, text.as_str()), (200, "{\n    \"Response\": \"permitted\"\n}\n"));
    // A name counts if it is one of the address.
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(ask(&gw, local, "", "localhost", "request").0, 200);
    assert_eq!(ask(&gw, b.address, "", "localhost", "request").0, 403);
}

#[test]
fn behind_a_proxy_that_is_trusted_the_client_counts() {
    let (fleet, gw) = gateway("[gateway]\ntrusted_proxies = [\"127.0.0.96/29\"]\n");
    let said = |headers: &str| ask(&gw, PROXY, headers, "127.0.0.2", "request").0;
    for headers in [
        "x-forwarded-for: 127.0.0.2\r\n",
        "x-forwarded-for: 10.9.9.9, 127.0.0.2, 127.0.0.98\r\n",
        "forwarded: for=127.0.0.2;proto=https\r\n",
        "x-forwarded-for: 127.0.0.2\r\nforwarded: for=\"127.0.0.2:4711\"\r\n",
    ] {
        assert_eq!(said(headers), 200, "{headers}");
    }
    assert_eq!(holders(&fleet), json!(["127.0.0.2"]));
    for headers in [
        "",
        "x-forwarded-for: 127.0.0.3\r\n",
        "x-forwarded-for: 127.0.0.2, 127.0.0.3\r\n",
        "x-forwarded-for: 127.0.0.2, unknown\r\n",
        "x-forwarded-for: 127.0.0.3\r\nforwarded: for=127.0.0.2\r\n",
        "forwarded: for=_hidden\r\n",
    ] {
        assert_eq!(said(headers), 403, "{headers}");
    }
    // Others are not believed.
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5));
    assert_eq!(ask(&gw, other, "x-forwarded-for: 127.0.0.2\r\n", "127.0.0.2", "cancel").0, 403);
    // The access log has the client's address.
    gw.logged("\"address\":\"127.0.0.2:0\"");
}

#[test]
fn limits_count_the_client_behind_the_proxy() {
    let (_fleet, gw) =
        gateway("[gateway]\nrequests_per_minute = 3\ntrusted_proxies = [\"127.0.0.99\"]\n");
    for n in [2, 3] {
        let headers = format!("x-forwarded-for: 127.0.0.{n}\r\n");
        for _ in 0..3 {
            assert_eq!(ask(&gw, PROXY, &headers, "h", "check").0, 200);
        }
        // One line of text, as all that is no answer.
        let limited = (429, "too many requests from your address\n".to_owned());
        assert_eq!(ask(&gw, PROXY, &headers, "h", "check"), limited);
    }
}
