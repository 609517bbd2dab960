//! `/api/v1` over real sockets: who may see and who may act, what an act leaves behind, and whether the
//! document that describes it is true.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rebootlock::config::{Fragment, Settings};
use rebootlock::id::{Group, MachineId};
use rebootlock::lock::{Advance, LockManager};
use rebootlock::record::{Claim, Document as _, Health, Past, Presence, UnixTime, Via, Waiter};
use rebootlock::store::{self, Txn};
use rebootlock_gateway::auth;
use serde_json::{Value, json};
use support::{Answer, Fleet, Gateway, PROTOCOL, file, params, request};

/// A gateway whose file with credentials knows an operator, a viewer, a machine, and an operator of
/// one group; by tokens, and the operator by password too.
struct Site {
    fleet: Fleet,
    gw: Gateway,
    tokens: [String; 4],
}

const OPERATOR: usize = 0;
const VIEWER: usize = 1;
const MACHINE: usize = 2;
const LIMITED: usize = 3;

fn site(config: &str) -> Site {
    let fleet = Fleet::new("");
    let (mut tokens, mut text) = (Vec::new(), String::new());
    for client in [
        "name = \"alice\"\nrole = \"operator\"",
        "name = \"screen\"\nrole = \"viewer\"",
        "name = \"machine\"",
        "name = \"lb-team\"\nrole = \"operator\"\ngroups = [\"lb\"]",
    ] {
        let (token, line) = auth::new_token();
        tokens.push(token);
        text += &format!("[[client]]\n{client}\n{line}\n");
    }
    let hash = auth::hash("s3cret").unwrap();
    // Quick to check, and nobody's.
    let hash_of_carl =
        "$argon2id$v=19$m=8,t=1,p=1$bm9ib2R5bm9ib2R5$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";
    text += &format!("[[client]]\nname = \"carl\"\npassword_hash = {hash_of_carl:?}\n");
    text += &format!("[[client]]\nname = \"bob\"\nrole = \"operator\"\npassword_hash = {hash:?}\n");
    let credentials = file(&fleet, "credentials.toml", &text);
    fleet.configure(&format!("[gateway]\ncredentials_file = {credentials:?}\n{config}"));
    let gw = fleet.start();
    Site { fleet, gw, tokens: tokens.try_into().unwrap() }
}

impl Site {
    fn bearer(&self, who: usize) -> String {
        format!("authorization: Bearer {}\r\n", self.tokens[who])
    }

    fn see(&self, path: &str) -> Answer {
        let text = request("GET", &format!("/api/v1{path}"), &self.bearer(VIEWER), "");
        self.gw.send(text.as_bytes())
    }

    fn act_as(&self, who: usize, path: &str, body: &Value) -> Answer {
        let headers = self.bearer(who) + JSON;
        self.gw.post(&format!("/api/v1{path}"), &headers, &body.to_string())
    }

    fn act(&self, path: &str, body: &Value) -> Answer {
        self.act_as(OPERATOR, path, body)
    }

    fn acts(&self) -> Vec<Value> {
        self.see("/acts").json().as_array().unwrap().clone()
    }

    /// Does something with the lock itself, as agents would.
    fn with_locks<T>(&self, work: impl AsyncFnOnce(LockManager) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(self.locks()).await })
    }

    fn locks(&self) -> LockManager {
        let text = format!("[store]\nendpoints = [\"sqlite:{}\"]", self.fleet.store().display());
        let fragment = Fragment::parse(Path::new("test.toml"), &text).unwrap();
        let settings = Settings::decide(fragment).unwrap();
        LockManager::new(store::open(&settings.store).unwrap(), settings.store.keys)
    }
}

const JSON: &str = "content-type: application/json\r\n";

/// A problem of RFC 9457 with this status and kind; returns its sentence.
#[track_caller]
fn problem(answer: &Answer, status: u16, kind: &str) -> String {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.head.contains("content-type: application/problem+json\r\n"), "{answer:?}");
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["kind"]), (&json!(status), &json!(kind)));
    assert_eq!(problem["type"], "about:blank");
    let detail = problem["detail"].as_str().unwrap().to_owned();
    assert!(!detail.is_empty() && !problem["title"].as_str().unwrap().is_empty(), "{problem}");
    detail
}

#[track_caller]
fn done(answer: &Answer, changed: bool) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["changed"], changed, "{answer:?}");
    answer.json()["message"].as_str().unwrap().to_owned()
}

/// Every action, what is said when it is done, and what when it is asked for again; in an order in which
/// there is something to do.
const ACTIONS: [(&str, &str, &str, &str); 14] = [
    ("/groups/lb/set-max", r#"{"max":3}"#, "is 3; it was 1", "is 3 already"),
    (
        "/groups/lb/pause",
        r#"{"forSecs":7200}"#,
        "group lb is paused for 2h",
        "paused by alice before: why",
    ),
    ("/groups/lb/resume", "{}", "group lb goes on; it was paused by alice", "was not paused"),
    ("/fleet/pause", "{}", "the fleet is paused; who", "paused by alice before: why"),
    ("/fleet/resume", "{}", "the fleet goes on", "was not paused"),
    (
        "/machines/m1/request",
        r#"{"priority":2}"#,
        "the agent of m1 takes it",
        "requested by alice before",
    ),
    ("/machines/m1/cancel", "{}", "cancelled; a slot", "no reboot of m1 was requested"),
    ("/machines/m1/hold", r#"{"forSecs":60}"#, "m1 is held for 1m;", "held by alice before: why"),
    ("/machines/m1/unhold", "{}", "may reboot again; it was held by alice", "was not held"),
    (
        "/machines/m1/lock",
        r#"{"groups":["default","lb"]}"#,
        "holds a slot in groups default, lb",
        "already, taken via ctl",
    ),
    ("/machines/m1/unlock", "{}", "freed the slot of m1 in groups default, lb", "m1 holds no slot"),
    ("/machines/m1/lock", "{}", "holds a slot in group default", "already, taken via ctl"),
    (
        "/machines/m1/unlock",
        r#"{"groups":["default"]}"#,
        "freed the slot of m1 in group default",
        "m1 holds no slot",
    ),
    ("/machines/old/forget", "{}", "forgot of old: its hold", "nothing is known of old"),
];

fn because(body: &str) -> Value {
    let mut body: Value = serde_json::from_str(body).unwrap();
    body["reason"] = json!("why");
    body
}

#[test]
fn every_action_is_an_operators_and_nobody_elses_and_says_what_was_there() {
    let site = site("[[group]]\nname = \"lb\"\n");
    done(&site.act("/machines/old/hold", &because("{}")), true);
    for (path, body, said, said_again) in ACTIONS {
        let (body, before) = (because(body), site.fleet.revision());
        let anonymous = site.gw.post(&format!("/api/v1{path}"), JSON, &body.to_string());
        problem(&anonymous, 401, "unauthorized");
        assert!(anonymous.head.contains("www-authenticate: basic realm="), "{anonymous:?}");
        let wrong = format!("{JSON}authorization: Bearer x\r\n");
        let wrong = site.gw.post(&format!("/api/v1{path}"), &wrong, &body.to_string());
        problem(&wrong, 401, "unauthorized");
        problem(&site.act_as(VIEWER, path, &body), 403, "forbidden");
        problem(&site.act_as(MACHINE, path, &body), 403, "forbidden");
        assert_eq!(site.fleet.revision(), before, "{path}");

        let message = done(&site.act(path, &body), true);
        assert!(message.contains(said), "{path}: {message}");
        let deed = path.rsplit('/').next().unwrap();
        let act = site.acts().pop().unwrap();
        assert_eq!((&act["deed"], &act["by"]), (&json!(deed), &json!("alice")), "{act}");
        assert_eq!(act["reason"], "why");
        let event = site.gw.logged(&format!("\"message\":{}", json!(message)));
        let event: Value = serde_json::from_str(&event).unwrap();
        assert_eq!(event["target"], "rebootlock_gateway::audit");
        for (member, value) in [
            ("event", "act"),
            ("deed", deed),
            ("by", "alice"),
            ("reason", "why"),
            ("outcome", "done"),
            ("address", "127.0.0.1"),
        ] {
            assert_eq!(event[member], value, "{event}");
        }

        let (acts, again) = (site.acts().len(), site.act(path, &body));
        // Within a second it is the very same pause, and later a new one.
        let replaced = ["pause", "hold", "request"].contains(&deed);
        let changed = replaced && again.json()["changed"] == true;
        let message = done(&again, changed);
        assert!(message.contains(said_again), "{path}: {message}");
        assert_eq!(site.acts().len(), acts + usize::from(changed), "{path}");
    }
    site.gw.logged("\"outcome\":\"nothing to do\"");
    let past: Value = site.see("/history?since=1h&group=lb").json();
    assert_eq!((&past[0]["ended"], &past[0]["by"]), (&json!("unlocked"), &json!("alice")));
    assert_eq!(past[0]["groups"], json!(["default", "lb"]));
    assert_eq!(past[0]["reason"], "why (alice)");
    assert!(past[0]["heldForSecs"].is_u64(), "{past}");
}

#[test]
fn what_is_done_here_counts_for_machines_and_what_they_do_is_seen_here() {
    let site = site("");
    done(&site.act("/fleet/pause", &because("{}")), true);
    let ask = |path: &str| {
        site.gw.post(path, &(site.bearer(MACHINE) + PROTOCOL), &params("m1", "default"))
    };
    let refused = ask("/v1/pre-reboot");
    assert!(refused.is(423, "failed_lock_paused").value().contains("by alice: why"), "{refused:?}");
    done(&site.act("/fleet/resume", &because("{}")), true);
    ask("/v1/pre-reboot").is_granted();
    let group = site.see("/groups/default").json();
    let holder = &group["holders"][0];
    assert_eq!((&holder["machineID"], &holder["via"]), (&json!("m1"), &json!("fleetlock")));
    assert_eq!(holder["overdue"], false);
    let full = site.act("/machines/m2/lock", &because("{}"));
    let said = problem(&full, 423, "failed_lock_semaphore_full");
    assert_eq!(said, "no slot is free in group default (limit 1)");
    // Only what was seen is freed.
    let stale = json!({"reason": "why", "token": "00000000-0000-4000-8000-000000000000"});
    let message = done(&site.act("/machines/m1/unlock", &stale), false);
    assert!(message.contains("holds no slot by that token"), "{message}");
    let seen = json!({"reason": "why", "token": holder["token"]});
    done(&site.act("/machines/m1/unlock", &seen), true);
    assert_eq!(site.see("/groups/default").json()["holders"], json!([]));
    // A viewer's credentials are not for slots.
    let viewer = site.bearer(VIEWER) + PROTOCOL;
    site.gw.post("/v1/pre-reboot", &viewer, &params("m1", "default")).is(403, "forbidden");
}

#[test]
fn a_client_that_holds_for_too_long_is_overdue() {
    let site = site("[reboot]\noverdue_after_secs = 60\n");
    let long_ago = rebootlock::clock::Clock::new(|| UnixTime(UnixTime::now().0 - 3600));
    let claim = Claim::new(MachineId::new("m1").unwrap(), [], Via::Fleetlock);
    site.with_locks(async |locks| locks.with_clock(long_ago).acquire(&claim).await.unwrap());
    assert_eq!(site.see("/groups/default").json()["holders"][0]["overdue"], true);
}

#[test]
fn operators_of_some_groups_act_on_those_alone() {
    let site = site("[[group]]\nname = \"lb\"\n");
    done(&site.act_as(LIMITED, "/groups/lb/pause", &because("{}")), true);
    done(&site.act_as(LIMITED, "/groups/lb/resume", &because("{}")), true);
    done(&site.act("/machines/m1/lock", &because(r#"{"groups":["default","lb"]}"#)), true);
    let before = site.fleet.revision();
    for (path, body) in [
        ("/groups/default/pause", "{}"),
        ("/fleet/pause", "{}"),
        ("/groups/db/set-max", r#"{"max":1}"#),
        ("/machines/m1/hold", "{}"),
        ("/machines/m1/unlock", "{}"),
        ("/machines/m2/lock", "{}"),
        // Both were taken together, and would go together.
        ("/machines/m1/unlock", r#"{"groups":["lb"]}"#),
    ] {
        let refused = site.act_as(LIMITED, path, &because(body));
        problem(&refused, 403, "forbidden");
    }
    assert_eq!(site.fleet.revision(), before);
    site.gw.logged("these credentials are not for group default");
    // They see everything all the same.
    let fleet = request("GET", "/api/v1/fleet", &site.bearer(LIMITED), "");
    assert_eq!(site.gw.send(fleet.as_bytes()).status, 200);
}

#[test]
fn passwords_are_as_good_as_tokens() {
    let site = site("");
    let basic = |password: &str| {
        format!("{JSON}authorization: Basic {}\r\n", STANDARD.encode(format!("bob:{password}")))
    };
    let pause =
        |headers: &str| site.gw.post("/api/v1/fleet/pause", headers, &because("{}").to_string());
    problem(&pause(&basic("wrong")), 401, "unauthorized");
    done(&pause(&basic("s3cret")), true);
    assert_eq!(site.acts()[0]["by"], "bob");
}

#[test]
fn what_is_not_understood_changes_nothing_and_is_said() {
    let site = site("body_timeout_secs = 1\n");
    let before = site.fleet.revision();
    let act = |path: &str, headers: &str, body: &str| {
        let headers = format!("{}{headers}", site.bearer(OPERATOR));
        site.gw.post(&format!("/api/v1{path}"), &headers, body)
    };
    for (path, body, said) in [
        ("/fleet/pause", "", "must be an object"),
        ("/fleet/pause", "{", "cannot be understood"),
        ("/fleet/pause", "{}", "missing field `reason`"),
        ("/fleet/pause", r#"{"reason":""}"#, "`reason` must say why"),
        ("/fleet/pause", r#"{"reason":" \t"}"#, "`reason` must say why"),
        ("/fleet/pause", r#"{"reason":"a\nb"}"#, "must be one line"),
        ("/fleet/pause", r#"{"reason":"x","for":"2h"}"#, "unknown field `for`"),
        ("/fleet/pause", r#"{"reason":"x","forSecs":0}"#, "is not from 1 to"),
        ("/groups/lb/set-max", r#"{"reason":"x","max":-1}"#, "-1 is no number"),
        ("/machines/m/lock", r#"{"reason":"x","groups":["a\nb"]}"#, "control characters"),
    ] {
        let said_really = problem(&act(path, JSON, body), 400, "invalid_body");
        assert!(said_really.contains(said), "{body}: {said_really}");
    }
    let long = json!({"reason": "x".repeat(501)}).to_string();
    let said = problem(&act("/fleet/pause", JSON, &long), 400, "invalid_body");
    assert!(said.contains("longer than 500 bytes"), "{said}");
    let (fine, path) = (because("{}").to_string(), "/fleet/pause");
    let huge = json!({"reason": "x".repeat(70_000)}).to_string();
    problem(&act(path, JSON, &huge), 413, "body_too_large");
    let odd = "content-type: application/json; charset=utf-8\r\ncontent-type: text/plain\r\n";
    for headers in ["", "content-type: text/plain\r\n", odd] {
        problem(&act(path, headers, &fine), 415, "unsupported_media_type");
    }
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    problem(&act(path, form, "reason=x"), 415, "unsupported_media_type");
    for from in ["cross-site", "same-site"] {
        let headers = format!("{JSON}sec-fetch-site: {from}\r\n");
        problem(&act(path, &headers, &fine), 403, "forbidden");
    }
    problem(&act("/fleet/pause?now", JSON, &fine), 400, "invalid_client_params");
    problem(&act("/groups/a%0Ab/pause", JSON, &fine), 400, "invalid_client_params");
    problem(&act("/machines/a%20b/hold", JSON, &fine), 400, "invalid_client_params");
    problem(&act("/machines/m/explode", JSON, &fine), 404, "not_found");
    problem(
        &act("/machines/m/lock", JSON, r#"{"reason":"x","groups":["nosuch"]}"#),
        404,
        "not_found",
    );
    problem(&act("/machines/m", JSON, &fine), 404, "not_found");
    let method = act("/fleet", JSON, &fine);
    problem(&method, 405, "method_not_allowed");
    assert!(method.head.contains("allow: get, head\r\n"), "{method:?}");
    let method = site.see("/fleet/pause");
    problem(&method, 405, "method_not_allowed");
    assert!(method.head.contains("allow: post\r\n"), "{method:?}");
    for (path, status) in [
        ("/fleet?x=1", 400),
        ("/history?since=yesterday", 400),
        ("/history?since=1d&since=2d", 400),
        ("/history?until=1d", 400),
        ("/acts?group=lb", 400),
        ("/groups/nosuch", 404),
        ("/nothing", 404),
    ] {
        assert_eq!(site.see(path).status, status, "{path}");
    }
    // Half a body.
    let head = format!(
        "POST /api/v1/fleet/pause HTTP/1.1\r\nhost: x\r\n{}{JSON}content-length: 9\r\n\r\n{{",
        site.bearer(OPERATOR)
    );
    problem(&site.gw.send(head.as_bytes()), 408, "timeout");
    assert_eq!(site.fleet.revision(), before);
}

#[test]
fn names_of_groups_are_form_encoded() {
    let site = site("");
    let set = site.act("/groups/rack+7%2Fleft%2B/set-max", &because(r#"{"max":2}"#));
    assert_eq!(set.json()["old"], 1);
    let group = site.see("/groups/rack%207%2Fleft%2B").json();
    assert_eq!((&group["group"], &group["max"]), (&json!("rack 7/left+"), &json!(2)));
    assert!(site.fleet.document("groups/rack+7%2Fleft%2B/semaphore").is_some());
}

#[test]
fn a_damaged_group_is_shown_as_such_and_nothing_is_done_in_it() {
    let site = site("[[group]]\nname = \"lb\"\n");
    damage(&site, "lb");
    let fleet = site.see("/fleet").json();
    assert_eq!(fleet["groups"][0]["group"], "default");
    assert!(fleet["groups"][1]["error"].as_str().unwrap().contains("repair"), "{fleet}");
    assert_eq!(site.see("/groups/lb").json()["group"], "lb");
    assert_eq!(site.see("/machines").status, 200);
    for (path, body) in [
        ("/groups/lb/set-max", r#"{"max":2}"#),
        ("/machines/m/lock", r#"{"groups":["lb"]}"#),
        ("/machines/m/unlock", r#"{"groups":["lb"]}"#),
    ] {
        problem(&site.act(path, &because(body)), 503, "store_damaged");
    }
    assert_eq!(site.fleet.document("groups/lb/semaphore").unwrap(), "{\"semaphore\":1");
    assert_eq!(site.acts(), [] as [Value; 0]);
}

#[test]
fn who_may_look_without_credentials() {
    let see = |gw: &Gateway, headers: &str| {
        let text = "GET /api/v1/fleet HTTP/1.1\r\ncontent-length: 0\r\n";
        gw.send(format!("{text}{headers}\r\n").as_bytes())
    };
    let local = "host: localhost:9090\r\n";
    // Nothing configured, on this machine alone.
    let fleet = Fleet::new("");
    let gw = fleet.start();
    assert_eq!(see(&gw, local).status, 200);
    for elsewhere in [
        "host: gateway.example\r\n",
        "host: 127.0.0.1\r\nx-forwarded-for: 10.0.0.9\r\n",
        "host: 127.0.0.1\r\nforwarded: for=10.0.0.9\r\n",
        "host: 127.0.0.1\r\nvia: 1.1 proxy\r\n",
        "host: 127.0.0.1\r\nx-real-ip: 10.0.0.9\r\n",
        "host: 127.0.0.1\r\nx-forwarded-host: gateway.example\r\n",
        "host: 127.0.0.1\r\nx-forwarded-proto: https\r\n",
    ] {
        problem(&see(&gw, elsewhere), 401, "unauthorized");
    }
    // As proxies speak that say nothing else of themselves.
    let text = "GET /api/v1/fleet HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n";
    problem(&gw.send(text.as_bytes()), 401, "unauthorized");
    let act = gw.post("/api/v1/fleet/pause", JSON, &because("{}").to_string());
    assert!(problem(&act, 401, "unauthorized").contains("role = \"operator\""));
    // What is public is public: which service this is, and the document.
    let text = "GET /api/v1 HTTP/1.1\r\nhost: gateway.example\r\n\r\n";
    assert_eq!(gw.send(text.as_bytes()).json()["name"], "rebootlock-gateway");
    drop(gw);

    // Other machines can come.
    for (view, status) in [("", 401), ("public_view = false\n", 401), ("public_view = true\n", 200)]
    {
        fleet.configure(&format!("[gateway]\nplain_http = true\n{view}"));
        let mut command = fleet.command(&[]);
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = Command::new(support::BINARY);
        let open = |arg: &std::ffi::OsString| match arg.to_str() {
            Some("127.0.0.1:0") => "0.0.0.0:0".into(),
            _ => arg.clone(),
        };
        command.args(args.iter().map(open)).env_clear().stderr(Stdio::piped());
        let mut gw = Gateway::start(command);
        gw.address.set_ip([127, 0, 0, 1].into());
        assert_eq!(see(&gw, local).status, status, "{view}");
    }

    let site = site("");
    assert_eq!(see(&site.gw, local).status, 200);
    problem(&see(&site.gw, "host: gw.example\r\n"), 401, "unauthorized");
    let with = |who| format!("host: gw.example\r\n{}", site.bearer(who));
    assert_eq!(see(&site.gw, &with(VIEWER)).status, 200);
    problem(&see(&site.gw, &with(MACHINE)), 403, "forbidden");
    let wrong = format!("{local}authorization: Bearer x\r\n");
    problem(&see(&site.gw, &wrong), 401, "unauthorized");
}

/// Something of everything that can be seen.
fn populate(site: &Site) {
    let machine = |name: &str| MachineId::new(name).unwrap();
    let (lb, now) = (Group::new("lb").unwrap(), UnixTime::now());
    site.with_locks(async |locks| {
        let put = async |key, value| {
            locks.store().commit(&Txn::new().put(key, value)).await.unwrap();
        };
        let mut claim = Claim::new(machine("m1"), [Group::default(), lb.clone()], Via::Agent);
        claim.hostname = Some("web-1".to_owned());
        claim.reason = Some("update".to_owned());
        locks.acquire(&claim).await.unwrap();
        let permit = Advance::permit(UnixTime(now.0 - 5));
        locks.advance(claim.groups(), &claim.machine, claim.token, &permit).await.unwrap();
        for name in ["m1", "m2"] {
            locks.enrol(&machine(name), Some("web"), std::slice::from_ref(&lb)).await.unwrap();
        }
        let presence = json!({
            "machineID": "m2", "hostname": "web-2", "groups": ["lb"], "state": "waiting-for-slot",
            "stateSince": now, "version": "0.1.0",
            "health": Health::new(Some("disk".to_owned()), now),
            "blocked": {"outcome": "window_denied", "why": "no window", "since": now, "wanted": "u"},
        });
        let presence: Presence = serde_json::from_value(presence).unwrap();
        put(locks.keys().machine(&machine("m2")), presence.to_json()).await;
        let waiter = json!({
            "machineID": "m2", "since": now, "priority": 1, "groups": ["lb"], "via": "agent",
        });
        let waiter: Waiter = serde_json::from_value(waiter).unwrap();
        put(locks.keys().waiter(&Group::default(), &machine("m2")), waiter.to_json()).await;
        let cooldown = json!({"machineID": "m3", "hostname": "web-3", "since": now, "secs": 600});
        put(locks.keys().cooldown(&lb), cooldown.to_string().into_bytes()).await;
        let past = Past::from_json(include_bytes!("../../proto-docs/examples/history.json"));
        let token = rebootlock::id::Token::random();
        put(locks.keys().past(&lb, now, token), past.unwrap().to_json()).await;
    });
    for (path, body) in [
        ("/groups/lb/pause", r#"{"forSecs":7200}"#),
        ("/fleet/pause", "{}"),
        ("/machines/m2/hold", "{}"),
        ("/machines/m2/request", "{}"),
        ("/groups/rack+7/set-max", r#"{"max":2}"#),
    ] {
        done(&site.act(path, &because(body)), true);
    }
}

/// A group whose semaphore is damaged.
fn damage(site: &Site, group: &str) {
    site.with_locks(async |locks| {
        let key = locks.keys().semaphore(&Group::new(group).unwrap());
        let damaged = b"{\"semaphore\":1".to_vec();
        locks.store().commit(&Txn::new().put(key, damaged)).await.unwrap();
    });
}

/// Groups or waiters without what counts the seconds of the present: the clock goes on between
/// two requests.
fn still(mut seen: Value) -> Value {
    match &mut seen {
        Value::Object(members) => {
            for counted in ["heldForSecs", "waitingForSecs", "leftSecs"] {
                if let Some(secs) = members.remove(counted) {
                    assert!(secs.is_u64() || secs.is_null(), "{counted}: {secs}");
                }
            }
            members.values_mut().for_each(|member| *member = still(member.take()));
        }
        Value::Array(elements) => {
            elements.iter_mut().for_each(|element| *element = still(element.take()));
        }
        _ => {}
    }
    seen
}

#[test]
fn everything_there_is_to_see_is_seen() {
    let site = site("[[group]]\nname = \"lb\"\nslots = 2\n");
    site.gw.logged("the group has the configured slots");
    populate(&site);
    damage(&site, "db");
    let fleet = site.see("/fleet").json();
    let names = |list: &Value, member: &str| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|each| each[member].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&fleet["groups"], "group"), ["db", "default", "lb", "rack 7"]);
    assert_eq!(still(fleet["groups"].clone()), still(site.see("/groups").json()));
    assert_eq!(fleet["machines"], site.see("/machines").json());
    assert_eq!(names(&fleet["machines"], "machineID"), ["m1", "m2"]);
    assert_eq!(fleet["machines"][0]["state"], "rebooting");
    assert_eq!(fleet["machines"][1]["blocked"]["why"], "no window");
    assert_eq!(names(&fleet["held"], "machineID"), ["m2"]);
    assert_eq!(names(&fleet["requests"], "machineID"), ["m2"]);
    assert_eq!(fleet["paused"]["reason"], "why");
    let deeds = names(&fleet["acts"], "deed");
    assert_eq!(deeds, ["pause", "pause", "hold", "request", "set-max"]);
    assert_eq!(fleet["history"][0]["downForSecs"], 300);
    assert_eq!(fleet["history"], site.see("/history").json());
    let lb = &fleet["groups"][2];
    assert_eq!((&lb["available"], &lb["max"]), (&json!(1), &json!(2)));
    assert_eq!(lb["holders"][0]["hostname"], "web-1");
    assert_eq!(lb["holders"][0]["overdue"], true);
    assert_eq!(names(&lb["paused"], "scope"), ["fleet", "group"]);
    assert_eq!(lb["cooldown"]["hostname"], "web-3");
    let queue = site.see("/queue").json();
    assert_eq!(still(queue.clone()), still(fleet["groups"][1]["queue"].clone()));
    assert_eq!((&queue[0]["group"], &queue[0]["position"]), (&json!("default"), &json!(1)));
    assert_eq!(queue[0]["inTheWay"], "the fleet is paused by alice");
    assert!(fleet["revision"].as_u64().unwrap() <= site.fleet.revision());
    let head = request("HEAD", "/api/v1/fleet", &site.bearer(VIEWER), "");
    let mut stream = site.gw.connect();
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut stream, true).unwrap().status, 200);
}

/// Where `scripts/setup` puts it.
fn schemathesis() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("servers/schemathesis")
}

/// Answers may grow, but not without being described.
fn closed(document: &mut Value) {
    match document {
        Value::Object(members) => {
            if members.contains_key("properties") {
                members.entry("additionalProperties").or_insert(json!(false));
            }
            members.values_mut().for_each(closed);
        }
        Value::Array(elements) => elements.iter_mut().for_each(closed),
        _ => {}
    }
}

const ONLY_WHAT_IS_DESCRIBED: &str = "\
[checks.positive_data_acceptance]
# A slot that is not free is no mistake of whoever asks.
expected-statuses = [200, 401, 403, 404, 409, 423, 429, 503]
";

#[test]
fn the_document_that_describes_it_is_true() {
    let tool = schemathesis();
    assert!(
        tool.join("bin/schemathesis").is_file(),
        "no schemathesis in {}, without which nobody can tell whether proto-docs/openapi.json is \
         true: run scripts/setup, with a network",
        tool.display()
    );
    let site = site("access_log = false\n[[group]]\nname = \"lb\"\nslots = 2\n");
    populate(&site);
    let mut document = site.see("/openapi.json").json();
    closed(&mut document);
    let document = file(&site.fleet, "openapi.json", &document.to_string());
    let config = file(&site.fleet, "schemathesis.toml", ONLY_WHAT_IS_DESCRIBED);
    let run = |phases: &str, args: &[&str]| {
        let run = Command::new("python3")
            .arg(tool.join("bin/schemathesis"))
            .args(["--config-file", &config, "run", &document])
            .args(["--url", &format!("http://{}/api/v1", site.gw.address)])
            .args(["--header", &format!("Authorization: Bearer {}", site.tokens[OPERATOR])])
            .args(["--phases", phases, "--checks", "all", "--max-examples", "5"])
            .args(["--generation-deterministic", "--continue-on-failure", "--no-color"])
            .args(args)
            .env("PYTHONPATH", &tool)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(site.fleet.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("python3");
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
        said
    };
    let said = run("examples,coverage,fuzzing", &[]);
    let every = document_operations(&site.see("/openapi.json").json());
    assert!(said.contains(&format!("Tested: {every}\n")), "{said}");
    // With something to mend, nothing can be done, but everything be seen.
    damage(&site, "db");
    run("coverage", &["--include-method", "GET"]);
    assert!(!site.gw.log.lock().unwrap().iter().any(|line| line.contains("panicked")));
}

fn document_operations(document: &Value) -> usize {
    let paths = document["paths"].as_object().unwrap().values();
    paths.map(|path| path.as_object().unwrap().len()).sum()
}

#[test]
fn passwords_are_not_guessed_at_the_api_either() {
    let site = site("");
    let basic = |name: &str, password: &str| {
        let text = STANDARD.encode(format!("{name}:{password}"));
        let headers = format!("authorization: Basic {text}\r\n");
        site.gw.send(request("GET", "/api/v1/fleet", &headers, "").as_bytes())
    };
    assert_eq!(basic("bob", "s3cret").status, 200);
    for n in 0..10 {
        problem(&basic("carl", &format!("guess-{n}")), 401, "unauthorized");
    }
    assert!(site.gw.logged("\"event\":\"unauthorized\"").contains("\"client\":\"carl\""));
    let refused = basic("carl", "guess-10");
    problem(&refused, 429, "rate_limited");
    assert!(refused.head.contains("\r\nretry-after: "), "{refused:?}");
    // What was right before is none the worse for it, nor is a token.
    assert_eq!(basic("bob", "s3cret").status, 200);
    assert_eq!(site.see("/fleet").status, 200);
    assert!(!site.gw.log.lock().unwrap().iter().any(|line| line.contains("guess-")));
}
