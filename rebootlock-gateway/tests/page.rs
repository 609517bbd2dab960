//! The page over real sockets: what it shows, to whom, under which headers, and how it stays up to date.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
#[path = "support/seed.rs"]
mod seed;
#[allow(dead_code, unreachable_pub)]
mod support;
#[allow(dead_code, unreachable_pub)]
#[path = "support/visitor.rs"]
mod visitor;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use seed::{Seed, id_of};
use serde_json::{Value, json};
use support::{Fleet, Gateway, PROTOCOL, request, sockets};
use visitor::{Page, TOKEN, VIEWERS_TOKEN, Visitor, with_people};

const OPEN: &str = "[gateway]\npublic_view = true\n";

fn get(gw: &Gateway, path: &str) -> Page {
    Visitor::default().get(gw, path)
}

#[test]
fn the_page_shows_who_holds_who_waits_and_why() {
    let fleet = Fleet::new(OPEN);
    let gw = fleet.start();
    let _seed = seed::busy(&fleet);
    let page = get(&gw, "/");
    page.has_status(200);
    for text in [
        "<h3><bdi>web</bdi></h3>",
        "2 of 3 slots taken",
        "<bdi>web-7</bdi>",
        "<span class=\"tag bad\">overdue</span>",
        "57 min ago",
        " UTC</span></time>",
        "<bdi>update-engine installed 4230.2.1</bdi>",
        "Waiting: 2 machines",
        "<bdi>group db is paused by alice</bdi>",
        "Paused by <strong><bdi>alice</bdi></strong>: <bdi>moving the primary by hand</bdi>",
        "<bdi>gate redis is closed: replication is 312 s behind</bdi>",
        "asked for by <strong><bdi>alice</bdi></strong>: <bdi>new microcode</bdi>",
        "<bdi>fleetlock</bdi>",
        "<span class=\"tag good\">verified</span>",
        "1m1s",
        "<bdi>twice the hardware</bdi>",
    ] {
        page.says(text);
    }
}

#[test]
fn an_empty_fleet_has_a_page() {
    let fleet = Fleet::new(OPEN);
    let gw = fleet.start();
    let page = get(&gw, "/");
    page.has_status(200).says("Nobody holds a slot, and nobody waits for one.");
    page.says("No agent has enrolled.").says("Nothing has been given back yet.");
}

#[test]
fn of_very_many_the_first_are_shown_and_the_others_counted() {
    let fleet = Fleet::new(OPEN);
    let gw = fleet.start();
    let seed = Seed::new(&fleet);
    let holder = |n: i64| seed.holder(&format!("h{n:04}"), "rebooting", 60 + n, "agent", "kernel");
    seed.group("default", 2000, &(0..300).map(holder).collect::<Vec<_>>());
    (0..400).for_each(|n| seed.waiter("default", &format!("w{n:04}"), 1000 - n, "kernel"));
    (0..1000).for_each(|n| seed.machine("default", &format!("m{n:04}"), "idle", 60));
    let page = get(&gw, "/");
    page.says("and 250 more: ").says("and 380 more: ").says("and 900 more: ");
    page.says("1000 machines").says("300 of 2000 slots taken");
    assert!(page.body.len() < 400_000, "{}", page.body.len());
}

#[test]
fn a_damaged_document_is_shown_with_what_to_do_and_hides_nothing_else() {
    let fleet = Fleet::new(OPEN);
    let gw = fleet.start();
    let seed = Seed::new(&fleet);
    seed.group("db", 1, &[seed.holder("db-1", "holding", 60, "agent", "kernel")]);
    seed.put_text("groups/web/semaphore", "{\"semaphore\":1,");
    seed.put_text(&format!("groups/db/holders/{}", id_of("db-1")), "?");
    let page = get(&gw, "/");
    page.has_status(200).says("<code>rebootlockctl repair --group web</code>");
    page.says("<div class=\"notice bad\" role=\"group\"><strong>A document is damaged.</strong>");
    page.says("damaged record").says(&id_of("db-1"));
}

#[test]
fn a_store_that_does_not_answer_is_said_with_the_age_of_what_is_shown() {
    let fleet = Fleet::new(
        "[gateway]\npublic_view = true\nanswer_within_secs = 1\n[store]\ntimeout_secs = 1\n",
    );
    let gw = fleet.start();
    let store = rusqlite::Connection::open(fleet.store()).unwrap();
    let away = || store.execute_batch("ALTER TABLE entry RENAME TO elsewhere").unwrap();
    let back = || store.execute_batch("ALTER TABLE elsewhere RENAME TO entry").unwrap();
    away();
    get(&gw, "/")
        .has_status(503)
        .says("The store does not answer")
        .says("Nothing has been seen yet.");
    back();
    let seen = until(&gw, "Nobody holds a slot");
    seen.does_not_say("The store does not answer");
    gw.pre_reboot("m1").is_granted();
    get(&gw, "/").says("<bdi>m1</bdi>");
    away();
    let page = until(&gw, "The store does not answer");
    page.has_status(200).says("What is shown was so ").says("<bdi>m1</bdi>");
    back();
}

/// Asks until the page says this.
#[track_caller]
fn until(gw: &Gateway, text: &str) -> Page {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let page = get(gw, "/");
        if page.body.contains(text) {
            return page;
        }
        assert!(Instant::now() < deadline, "no {text:?} in {page:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_others_wrote_is_shown_and_not_obeyed() {
    let fleet = Fleet::new(OPEN);
    let gw = fleet.start();
    let seed = Seed::new(&fleet);
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u{1b}[2J\r\n\r\ndata: x";
    let id = "<script>alert(1)</script>".replace('/', "|");
    let mut holder = seed.holder("web-1", evil, 60, evil, evil);
    holder["hostname"] = json!(evil);
    holder["machineID"] = json!(id);
    seed.put("groups/%3Cb%3E/semaphore", &json!({"semaphore": 0, "max": 1, "holders": [id]}));
    seed.put(&format!("groups/%3Cb%3E/holders/{id}"), &holder);
    seed.put(&format!("groups/%3Cb%3E/queue/{id}x"), &json!({
        "machineID": evil, "since": 1, "hostname": evil, "groups": [evil], "reason": evil, "via": evil,
    }));
    seed.put("fleet/paused", &json!({"by": evil, "reason": evil, "since": i64::MIN}));
    seed.put(&format!("machines/{id}"), &json!({
        "machineID": evil, "hostname": evil, "groups": [evil], "state": evil, "stateSince": i64::MAX,
        "health": {"healthy": false, "reason": evil, "checkedAt": 0},
    }));
    let fragments = heard(&mut events(&gw, "/events", ""));
    let fragments: String = fragments.iter().map(|(_, data)| data["html"].to_string()).collect();
    let page = get(&gw, "/");
    page.has_status(200).says("&lt;script&gt;alert(1)&lt;");
    for text in [&page.body, &fragments] {
        assert!(!text.contains("<script>") && !text.contains("<img src=x"), "{text}");
        assert!(!text.contains("\u{1b}") && !text.contains("<b>"), "{text}");
    }
    // Every attribute is quoted, so what is in one stays there.
    assert!(!page.body.contains("\"'>"), "{}", page.body);
}

#[test]
fn answers_let_a_browser_do_nothing_but_what_the_page_is_for() {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, "public_view = true\n"));
    let gw = fleet.start();
    let _seed = seed::busy(&fleet);
    let mut alice = Visitor::signed_in(&gw, "alice", TOKEN);
    for path in
        ["/", "/sign-in", "/operate?do=pause", "/operate", "/page.css", "/page.js", "/icon.svg"]
    {
        let page = alice.get(&gw, path);
        let policy = page.header("content-security-policy");
        for rule in
            ["default-src 'none'", "script-src 'self'", "style-src 'self'", "base-uri 'none'"]
        {
            assert!(policy.split("; ").any(|part| part == rule), "{path}: {policy}");
        }
        assert!(
            policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("x-frame-options"), "DENY");
        assert_eq!(page.header("referrer-policy"), "same-origin");
        if page.header("content-type").starts_with("text/html") {
            assert_eq!(page.header("cache-control"), "no-store");
            // Nothing that the policy would have to allow, and nothing from elsewhere.
            for text in
                ["<style", " style=", " onclick=", "javascript:", "src=\"http", "href=\"http"]
            {
                page.does_not_say(text);
            }
            assert_eq!(page.body.matches("<script").count(), 1, "{path}");
            page.says("<script src=\"page.js\" defer></script>");
        }
    }
    gw.post("/", "", "").is(405, "method_not_allowed");
    gw.send(request("DELETE", "/sign-in", "", "").as_bytes()).is(405, "method_not_allowed");
}

#[test]
fn files_are_sent_once() {
    let fleet = Fleet::new("");
    let gw = fleet.start();
    for path in ["/page.css", "/page.js", "/icon.svg"] {
        let first = get(&gw, path);
        let tag = first.has_status(200).header("etag");
        let headers = format!("if-none-match: \"other\", {tag}\r\n");
        let second = Visitor::default().send(&gw, "GET", path, &headers, "");
        assert_eq!((second.status, second.body.as_str()), (304, ""));
        let headers = "if-none-match: \"other\"\r\n";
        assert_eq!(Visitor::default().send(&gw, "GET", path, headers, "").status, 200);
    }
}

#[test]
fn a_client_of_the_lock_takes_nothing_here_for_a_grant() {
    let fleet = Fleet::new(OPEN);
    let gw = fleet.start();
    for path in ["/", "/events", "/sign-in", "/sign-out", "/operate", "/page.css"] {
        for method in ["GET", "POST"] {
            let answer = gw.send(request(method, path, PROTOCOL, "").as_bytes());
            answer.is(404, "not_found");
        }
    }
}

#[test]
fn it_works_under_a_prefix() {
    let fleet = Fleet::new(&format!("{OPEN}prefixes = [\"/ops/lock\"]\n"));
    let gw = fleet.start();
    let page = get(&gw, "/ops/lock/");
    page.has_status(200).says("href=\"page.css\"").says("href=\"./\"").does_not_say("href=\"/");
    get(&gw, "/ops/lock/page.css").has_status(200);
    heard(&mut events(&gw, "/ops/lock/events?have=x", ""));
}

#[test]
fn who_may_not_look_is_told_so() {
    let fleet = Fleet::new("[gateway]\npublic_view = false\n");
    let gw = fleet.start();
    get(&gw, "/").has_status(403).says("Not for everybody").does_not_say("slots");
    get(&gw, "/events").has_status(401);
    fleet.configure(&with_people(&fleet, "public_view = false\n"));
    let gw = fleet.start();
    gw.pre_reboot("m1");
    get(&gw, "/").has_status(403).says("<h1>Sign in</h1>").does_not_say("slots taken");
    let mut bob = Visitor::signed_in(&gw, "bob", VIEWERS_TOKEN);
    bob.get(&gw, "/")
        .has_status(200)
        .says("<bdi>bob</bdi>")
        .says("slots")
        .does_not_say("data-operator");
}

/// The events of a page, read as a browser does.
struct Events(BufReader<TcpStream>);

fn events(gw: &Gateway, path: &str, headers: &str) -> Events {
    let mut stream = gw.connect();
    stream.write_all(request("GET", path, headers, "").as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
    Events(reader)
}

impl Events {
    /// The next event; `None` when the stream has ended. Lines of chunked encoding are none of it.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.trim().to_owned();
            }
            if let Some(text) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(text).unwrap()));
            }
        }
    }
}

/// Events up to the next beat, which ends what belongs together.
fn heard(events: &mut Events) -> Vec<(String, Value)> {
    let mut heard = Vec::new();
    loop {
        let event = events.next().expect("an event");
        let last = event.0 == "beat";
        heard.push(event);
        if last {
            return heard;
        }
    }
}

fn ids(heard: &[(String, Value)]) -> Vec<&str> {
    heard
        .iter()
        .filter(|(name, _)| name == "part")
        .map(|(_, data)| data["id"].as_str().unwrap())
        .collect()
}

#[test]
fn a_page_hears_of_a_slot_that_is_taken_and_of_nothing_else() {
    let fleet = Fleet::new(OPEN);
    let gw = fleet.start();
    Seed::new(&fleet).group("web", 2, &[]);
    let mut page = events(&gw, "/events", "");
    assert_eq!(
        ids(&heard(&mut page)),
        ["groups", "notices", "figures", "machines", "history", "deeds"]
    );
    gw.pre_reboot("m1").is_granted();
    let news = heard(&mut page);
    assert_eq!(ids(&news), ["group-default", "figures"]);
    let html = news[0].1["html"].as_str().unwrap();
    assert!(html.starts_with("<section class=\"card\" id=\"group-default\""), "{html}");
    assert!(
        html.contains("<bdi>m1</bdi>") && html.contains("<span class=\"ago\"></span>"),
        "{html}"
    );
    gw.steady_state("m1").is_granted();
    assert_eq!(ids(&heard(&mut page)), ["group-default", "figures", "history"]);
}

#[test]
fn a_page_that_comes_again_is_told_what_it_missed() {
    let fleet = Fleet::new(OPEN);
    let gw = fleet.start();
    gw.pre_reboot("m1").is_granted();
    let page = get(&gw, "/");
    let state = page.body.split("data-state=\"").nth(1).unwrap().split('"').next().unwrap();
    let path = format!("/events?have={state}");
    let news = heard(&mut events(&gw, &path, ""));
    assert_eq!((ids(&news).len(), news[0].1["state"].as_str()), (0, Some(state)));
    // Any gateway on the store knows what that state was.
    let other = fleet.start();
    assert!(ids(&heard(&mut events(&other, &path, ""))).is_empty());
    gw.steady_state("m1").is_granted();
    assert_eq!(ids(&heard(&mut events(&other, &path, ""))).len(), 6);
}

#[test]
fn a_page_hears_that_the_store_is_away_and_that_it_is_back() {
    let fleet = Fleet::new(
        "[gateway]\npublic_view = true\nanswer_within_secs = 1\n[store]\ntimeout_secs = 1\n",
    );
    let gw = fleet.start();
    let mut page = events(&gw, "/events", "");
    heard(&mut page);
    let store = rusqlite::Connection::open(fleet.store()).unwrap();
    store.execute_batch("ALTER TABLE entry RENAME TO elsewhere").unwrap();
    let news = heard_of(&mut page, "The store does not answer");
    assert_eq!(ids(&news), ["notices"]);
    store.execute_batch("ALTER TABLE elsewhere RENAME TO entry").unwrap();
    let news = heard(&mut page);
    assert!(!news[0].1["html"].as_str().unwrap().contains("does not answer"), "{news:?}");
}

/// What is heard together with this text.
fn heard_of(page: &mut Events, text: &str) -> Vec<(String, Value)> {
    loop {
        let news = heard(page);
        if news.iter().any(|(_, data)| data.to_string().contains(text)) {
            return news;
        }
    }
}

#[test]
fn pages_are_let_go_when_the_gateway_stops() {
    let fleet = Fleet::new(&format!("{OPEN}drain_secs = 600\n"));
    let gw = fleet.start();
    let mut page = events(&gw, "/events", "");
    heard(&mut page);
    gw.signal(Signal::TERM);
    assert_eq!(page.next().unwrap().0, "bye");
    assert!(page.next().is_none());
    assert_eq!(gw.ended(), Some(0));
}

#[test]
fn pages_leave_nothing_behind() {
    let fleet = Fleet::new(OPEN);
    let gw = fleet.start();
    let before = sockets(gw.pid());
    get(&gw, "/");
    until_sockets(&gw, before);
    let pages: Vec<_> = (0..20)
        .map(|_| {
            let mut page = events(&gw, "/events", "");
            heard(&mut page);
            page
        })
        .collect();
    assert_eq!(sockets(gw.pid()), before + 20);
    drop(pages);
    until_sockets(&gw, before);
}

#[test]
fn who_asks_and_takes_nothing_is_hung_up_on() {
    let fleet = Fleet::new(&format!("{OPEN}body_timeout_secs = 1\n"));
    let gw = fleet.start();
    let before = sockets(gw.pid());
    let seed = Seed::new(&fleet);
    (0..100).for_each(|n| seed.machine("default", &format!("m{n:04}"), "idle", 60));
    until_sockets(&gw, before);
    let mut stream = gw.connect();
    // Far more than the kernel keeps for somebody who does not read.
    let asked = request("GET", "/", "", "").repeat(300);
    stream.set_nonblocking(true).unwrap();
    let _ = stream.write(asked.as_bytes());
    until_sockets(&gw, before + 1);
    until_sockets(&gw, before);
}

fn until_sockets(gw: &Gateway, wanted: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while sockets(gw.pid()) != wanted {
        assert!(Instant::now() < deadline, "{} sockets", sockets(gw.pid()));
        std::thread::sleep(Duration::from_millis(10));
    }
}
