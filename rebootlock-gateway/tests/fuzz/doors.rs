//! Requests to every door that are right, or nearly so: they come far.

use rand::RngExt as _;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::support::{self, PROTOCOL};

/// What the gateway's own figures call the doors.
pub(crate) const ROUTES: [&str; 13] = [
    "pre-reboot",
    "steady-state",
    "goahead-request",
    "goahead-inquire",
    "disruption",
    "api",
    "store",
    "page",
    "events",
    "forms",
    "files",
    "metrics",
    "readyz",
];

/// What an operator has.
pub(crate) struct Insider {
    pub(crate) token: String,
    /// The header of somebody who is signed in.
    pub(crate) cookie: String,
    /// What her forms have in them.
    pub(crate) stamp: String,
}

const PREFIX: &str = "coreos.com/updateengine/rebootlock";

fn pick<'a>(rng: &mut SmallRng, from: &[&'a str]) -> &'a str {
    from[rng.random_range(0..from.len())]
}

/// What somebody might put where something else belongs.
fn odd(rng: &mut SmallRng) -> Value {
    match rng.random_range(0..14) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1e308),
        5 => json!(""),
        6 => json!([]),
        7 => json!({}),
        8 => json!("a b"),
        9 => json!("\u{0}"),
        10 => json!("../x"),
        11 => json!("{{.Tags \"x\"}}"),
        12 => json!("i".repeat(300)),
        _ => json!({"a": [[[{"b": null}]]]}),
    }
}

/// Puts something odd somewhere, takes something away, or adds something.
fn bend(rng: &mut SmallRng, value: &mut Value) {
    let deeper = rng.random_range(0..3) > 0;
    match value {
        Value::Object(members) if !members.is_empty() => {
            let nth = rng.random_range(0..members.len());
            let key = members.keys().nth(nth).cloned().unwrap_or_default();
            match members.get_mut(&key) {
                Some(member) if deeper => bend(rng, member),
                _ if rng.random() => drop(members.remove(&key)),
                _ => drop(members.insert(format!("{key}x"), odd(rng))),
            }
        }
        Value::Array(items) if !items.is_empty() && deeper => {
            let nth = rng.random_range(0..items.len());
            bend(rng, &mut items[nth]);
        }
        _ => *value = odd(rng),
    }
}

fn json_body(rng: &mut SmallRng, mut value: Value) -> String {
    for _ in 0..rng.random_range(0..3_u32) {
        bend(rng, &mut value);
    }
    let mut text = value.to_string();
    // Rarely it is none.
    if rng.random_range(0..30) == 0 {
        let at = (0..text.len()).filter(|at| text.is_char_boundary(*at)).collect::<Vec<_>>();
        text.truncate(at[rng.random_range(0..at.len())]);
    }
    text
}

/// Mostly who may.
fn authorization(rng: &mut SmallRng, who: &Insider) -> String {
    let token = &who.token;
    match rng.random_range(0..12) {
        0 => String::new(),
        1 => "authorization: Bearer x\r\n".to_owned(),
        2 => "authorization: Basic ====\r\n".to_owned(),
        3 => format!("authorization: Bearer {token}\r\nauthorization: Bearer {token}\r\n"),
        _ => format!("authorization: Bearer {token}\r\n"),
    }
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    support::request("POST", path, headers, body).into_bytes()
}

/// One that is answered at once, and can be told from what follows it.
pub(crate) fn request(rng: &mut SmallRng, who: &Insider) -> Vec<u8> {
    match rng.random_range(0..10) {
        0 | 1 => fleetlock(rng),
        2 => goahead(rng),
        3 => disruption(rng),
        4 => looks(rng, who),
        5 | 6 => acts(rng, who),
        7 => store(rng, who),
        8 => form(rng, who),
        _ => {
            let paths = ["/", "/?said=1", "/metrics", "/readyz", "/healthz", "/page.css", "/x%00"];
            let method = pick(rng, &["GET", "GET", "GET", "POST", "PUT"]);
            let accept = pick(rng, &["", "accept: */*\r\n", "if-none-match: \"x\"\r\n"]);
            support::request(method, pick(rng, &paths), accept, "").into_bytes()
        }
    }
}

/// One that may stay open.
pub(crate) fn last(rng: &mut SmallRng, who: &Insider) -> Vec<u8> {
    let authorization = authorization(rng, who);
    if rng.random() {
        let have = pick(rng, &["", "?have=x", "?have=%00&have=y"]);
        let path = format!("/events{have}");
        return support::request("GET", &path, &authorization, "").into_bytes();
    }
    let span = json!({"below": format!("{PREFIX}/queue/")});
    let body = json_body(rng, json!({"spans": [span], "after": 0}));
    let headers = format!("{authorization}content-type: application/json\r\n");
    post("/api/v1/store/watch", &headers, &body)
}

/// One of which a few bytes are wrong, so that nobody knows where it ends.
pub(crate) fn broken(rng: &mut SmallRng, who: &Insider) -> Vec<u8> {
    // A name that came about by chance would be looked up.
    let mut bytes = match rng.random_range(0..6) {
        0 => goahead(rng),
        1 => looks(rng, who),
        2 => acts(rng, who),
        3 => store(rng, who),
        4 => form(rng, who),
        _ => fleetlock(rng),
    };
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes.truncate(at.max(1)),
            _ => {
                let some = bytes[at..].to_vec();
                bytes.extend(some);
            }
        }
    }
    bytes
}

fn fleetlock(rng: &mut SmallRng) -> Vec<u8> {
    let path = pick(rng, &["/v1/pre-reboot", "/v1/steady-state", "//v1//pre-reboot?x=%"]);
    let id = pick(rng, &["a", "b", "AbC", "35ba2101ae3f4d45b96e9c51f461bbff"]);
    let group = pick(rng, &["default", "lb", "nosuch"]);
    let body = json_body(rng, json!({"client_params": {"id": id, "group": group}}));
    let prefer = pick(rng, &["", "", "prefer: wait=0\r\n", "prefer: wait=-1, x;y=\"\r\n"]);
    post(path, &format!("{PROTOCOL}{prefer}"), &body)
}

fn goahead(rng: &mut SmallRng) -> Vec<u8> {
    let paths = ["/v1/request/restart/os", "/v1/inquire/restart/", "/request/restart/", "/health"];
    let body = json!({
        "fqdn": pick(rng, &["web-1", "web-2", "mail-1", "WEB-1"]),
        "uptime": pick(rng, &["5h", "10s", "1h2m3.5s", "-1h", "9999999h", "1d"]),
        "request_id": pick(rng, &["", "abcdefgh", "x"]),
        "restart_reason": "kernel",
    });
    post(pick(rng, &paths), "", &json_body(rng, body))
}

fn disruption(rng: &mut SmallRng) -> Vec<u8> {
    let mut body = json!({
        "MDB": {
            "Hostname": pick(rng, &["127.0.0.1", "127.0.0.1", "127.0.0.2", "", "a b"]),
            "RequiredImage": "base/web/v7",
            "Tags": {
                "DisruptionManagerGroupIdentifier": pick(rng, &["web", "", "a\nb"]),
                "DisruptionManagerGroupMaximumDisrupting": pick(rng, &["1", "3", "-1", "x"]),
                "DisruptionManagerReadyTimeout": pick(rng, &["1s", "soon", "-5m", "9999999h"]),
                "DisruptionManagerReadyUrl": pick(rng, &["http://{{.Hostname}}/", "{{", "x://"]),
            },
        },
        "Request": pick(rng, &["check", "request", "cancel"]),
    });
    // Not the name: one that came about by chance would be looked up.
    if rng.random() {
        bend(rng, &mut body["MDB"]["Tags"]);
    }
    if rng.random_range(0..4) == 0 {
        body["Request"] = odd(rng);
    }
    post("/api/v1/request", "", &body.to_string())
}

fn looks(rng: &mut SmallRng, who: &Insider) -> Vec<u8> {
    let paths = [
        "/api/v1",
        "/api/v1/openapi.json",
        "/api/v1/fleet",
        "/api/v1/groups",
        "/api/v1/groups/default",
        "/api/v1/groups/%2F..%00",
        "/api/v1/queue",
        "/api/v1/machines",
        "/api/v1/history?since=1h",
        "/api/v1/history?since=-1&group=%ff",
        "/api/v1/acts?since=99999999999999999999",
        "/api/v1/nothing",
    ];
    let method = pick(rng, &["GET", "GET", "GET", "POST"]);
    support::request(method, pick(rng, &paths), &authorization(rng, who), "").into_bytes()
}

fn acts(rng: &mut SmallRng, who: &Insider) -> Vec<u8> {
    let (path, body) = match rng.random_range(0..10) {
        0 => ("/fleet/pause", json!({"reason": "x", "forSecs": 1})),
        1 => ("/fleet/resume", json!({"reason": "x"})),
        2 => ("/groups/lb/set-max", json!({"reason": "x", "max": 2})),
        3 => ("/groups/lb/pause", json!({"reason": "x"})),
        4 => ("/groups/lb/resume", json!({"reason": "x"})),
        5 => ("/machines/a/lock", json!({"reason": "x", "groups": ["lb", "default"]})),
        6 => ("/machines/a/unlock", json!({"reason": "x", "groups": ["lb"]})),
        7 => ("/machines/a/request", json!({"reason": "x", "priority": 3})),
        8 => ("/machines/b/hold", json!({"reason": "x", "forSecs": 1})),
        _ => ("/machines/a/forget", json!({"reason": "x", "evenIfPresent": true})),
    };
    let headers = authorization(rng, who) + "content-type: application/json\r\n";
    post(&format!("/api/v1{path}"), &headers, &json_body(rng, body))
}

fn store(rng: &mut SmallRng, who: &Insider) -> Vec<u8> {
    let key = format!("{PREFIX}/{}", pick(rng, &["queue/a", "x/y", "holders/b", "semaphore", ""]));
    let (path, body) = match rng.random_range(0..5) {
        0 => (
            "read",
            json!({"keys": [key], "below": [{"prefix": format!("{PREFIX}/"), "select": "all"}]}),
        ),
        1 => ("lease/grant", json!({"ttlMillis": 1000})),
        2 => ("lease/keep-alive", json!({"lease": 1})),
        3 => ("lease/revoke", json!({"lease": 1})),
        _ => (
            "commit",
            json!({"changes": [{"put": {"key": key, "value": "{}"}}, {"delete": format!("{key}z")}]}),
        ),
    };
    let headers = authorization(rng, who) + "content-type: application/json\r\n";
    post(&format!("/api/v1/store/{path}"), &headers, &json_body(rng, body))
}

/// Forms, mostly of somebody who is signed in.
fn form(rng: &mut SmallRng, who: &Insider) -> Vec<u8> {
    let path = pick(rng, &["/sign-in", "/operate", "/operate", "/operate?do=unlock&machine=%00"]);
    let method = pick(rng, &["GET", "POST", "POST"]);
    let none = "cookie: =;;=\r\n";
    let cookie = pick(rng, &[&who.cookie, &who.cookie, &who.cookie, "", none]).to_owned();
    let same = "sec-fetch-site: same-origin\r\n";
    let site = pick(rng, &[same, same, same, "", "sec-fetch-site: cross-site\r\n"]);
    let name = |rng: &mut SmallRng| pick(rng, &["a", "lb", "default", "", "%00", "%ff", "x/y"]);
    let deeds = ["pause", "resume", "unlock", "set-max", "request", "hold", "nothing"];
    let mut body = format!(
        "do={}&group={}&machine={}&max={}&for={}&reason={}&agreed={}&stamp={}",
        pick(rng, &deeds),
        name(rng),
        name(rng),
        pick(rng, &["1", "-1", "", "99999999999"]),
        pick(rng, &["", "1s", "-1s", "x"]),
        pick(rng, &["x", "", "%3Cb%3E", "%00"]),
        pick(rng, &["yes", ""]),
        pick(rng, &[&who.stamp, &who.stamp, &who.stamp, "x"]),
    );
    if rng.random_range(0..4) == 0 {
        // Some of it twice, and cut off wherever that is.
        body = format!("{body}&{body}%z");
        body.truncate(rng.random_range(0..body.len()));
    }
    let kind = "content-type: application/x-www-form-urlencoded\r\n";
    support::request(method, path, &format!("{cookie}{site}{kind}"), &body).into_bytes()
}
