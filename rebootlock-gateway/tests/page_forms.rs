//! What people can do on the page, without any script: sign in, act with a reason, sign out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
#[path = "support/seed.rs"]
mod seed;
#[allow(dead_code, unreachable_pub)]
mod support;
#[allow(dead_code, unreachable_pub)]
#[path = "support/visitor.rs"]
mod visitor;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use seed::{Seed, id_of};
use support::{Fleet, Gateway, file, request};
use visitor::{TOKEN, VIEWERS_TOKEN, Visitor, WEB_TOKEN, machine, with_people};

fn with_public_view() -> (Fleet, Gateway) {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, "public_view = true\n"));
    let gw = fleet.start();
    (fleet, gw)
}

#[test]
fn an_operator_pauses_with_a_reason_that_everybody_sees() {
    let (fleet, gw) = with_public_view();
    let mut alice = Visitor::default();
    alice.get(&gw, "/").says("<a href=\"sign-in\">Sign in</a>").does_not_say("data-operator");
    let answer = alice.sign_in(&gw, "alice", TOKEN);
    let page = alice.follow(&gw, &answer);
    page.says("<bdi>alice</bdi>")
        .says("data-operator")
        .says("href=\"operate?do=pause&amp;group=default\"");
    let done =
        alice.operate(&gw, "do=pause&group=default", &[("reason", "incident <1>"), ("for", "2h")]);
    let page = alice.follow(&gw, &done);
    page.says("<div class=\"notice good\" role=\"status\"><p>group default is paused for 2h;");
    page.says("Paused by <strong><bdi>alice</bdi></strong>: <bdi>incident &lt;1&gt;</bdi>")
        .says("</strong>: <bdi>incident &lt;1&gt;</bdi>, since ")
        .says(", ends ");
    machine(&gw, "pre-reboot", "m1").is(423, "failed_lock_paused");
    assert!(
        fleet.document("paused").unwrap().contains("\"by\":\"alice\",\"reason\":\"incident <1>\"")
    );
    let done = alice.operate(&gw, "do=resume&group=default", &[("reason", "over")]);
    alice.follow(&gw, &done).says("group default goes on; it was paused by alice");
    machine(&gw, "pre-reboot", "m1").is_granted();
    // Who comes later sees who did it, and why.
    let page = Visitor::default().get(&gw, "/");
    page.says("<bdi>resumed</bdi> group ")
        .says("<bdi>over</bdi>")
        .says("<bdi>incident &lt;1&gt;</bdi>");
    gw.logged("\"event\":\"act\"");
}

#[test]
fn everything_else_is_done_by_forms_too() {
    let (fleet, gw) = with_public_view();
    let mut alice = Visitor::signed_in(&gw, "alice", TOKEN);
    let form = alice.get(&gw, "/operate?do=set-max&group=default");
    form.says("name=\"max\" min=\"0\" max=\"1000000\" required value=\"1\"");
    let wrong = alice.operate(&gw, "do=set-max&group=default", &[("max", "-1"), ("reason", "why")]);
    wrong.has_status(400).says("is not a limit").says("value=\"why\"");
    let done = alice.operate(&gw, "do=set-max&group=default", &[("max", "3"), ("reason", "why")]);
    alice.follow(&gw, &done).says("the limit of group default is 3; it was 1");
    let done =
        alice.operate(&gw, "do=request&id=m1", &[("priority", "7"), ("reason", "new microcode")]);
    alice.follow(&gw, &done).says("requested; the agent of m1 takes it from here");
    assert!(fleet.document("requests/m1").unwrap().contains("\"priority\":7"));
    let done = alice.operate(&gw, "do=cancel&id=m1", &[("reason", "not yet")]);
    alice.follow(&gw, &done).says("cancelled");
    let done = alice.operate(&gw, "do=hold&id=m1", &[("reason", "backup runs")]);
    alice.follow(&gw, &done).says(
        "<bdi>m1</bdi></strong> may not reboot: held by <bdi>alice</bdi>: <bdi>backup runs</bdi>",
    );
    machine(&gw, "pre-reboot", "m1").is(423, "failed_lock_held");
    let done = alice.operate(&gw, "do=unhold&id=m1", &[("reason", "backup is done")]);
    alice.follow(&gw, &done).says("m1 may reboot again");
    let done = alice.operate(&gw, "do=pause", &[("reason", "all of it")]);
    alice.follow(&gw, &done).says("<strong>The fleet is paused</strong>").says("do=resume\">");
    for query in [
        "",
        "do=x",
        "do=unlock",
        "do=unlock&group=default",
        "do=set-max",
        "do=hold&id=a+b",
        "do=unlock&group=a&id=b&token=x",
    ] {
        alice
            .get(&gw, &format!("/operate?{query}"))
            .has_status(400)
            .says("That cannot be done here");
    }
}

#[test]
fn freeing_a_slot_takes_a_second_step_that_says_what_will_happen() {
    let (fleet, gw) = with_public_view();
    let seed = Seed::new(&fleet);
    seed.group("web", 1, &[seed.holder("web-1", "rebooting", 4000, "agent", "kernel")]);
    seed.waiter("web", "web-2", 60, "kernel");
    let id = id_of("web-1");
    let mut alice = Visitor::signed_in(&gw, "alice", TOKEN);
    let query = format!("do=unlock&group=web&id={id}");
    let step = alice.operate(&gw, &query, &[("reason", "it burned down")]);
    step.has_status(200).says("one machine more than the limit will be down");
    step.says("<bdi>web-2</bdi></strong> is next in the queue").says("<dd><bdi>rebooting</bdi>");
    assert!(fleet.document("groups/web/semaphore").unwrap().contains(&id), "nothing is done yet");
    let done = alice.agree(&gw, &step);
    alice
        .follow(&gw, &done)
        .says("freed the slot of")
        .says("<span class=\"tag warn\">unlocked</span>");
    assert!(!fleet.document("groups/web/semaphore").unwrap().contains(&id));
    // A form that was open while the slot was freed and taken again frees nothing.
    seed.group("web", 1, &[seed.holder("web-3", "rebooting", 9, "agent", "kernel")]);
    let id = id_of("web-3");
    let step = alice.operate(&gw, &format!("do=unlock&group=web&id={id}"), &[("reason", "why")]);
    let mut again = seed.holder("web-3", "holding", 0, "agent", "another");
    again["token"] = "11111111-1111-4111-8111-111111111111".into();
    seed.group("web", 1, &[again]);
    let done = alice.agree(&gw, &step);
    alice.follow(&gw, &done).says("holds no slot by that token");
    assert!(fleet.document("groups/web/semaphore").unwrap().contains(&id));
}

#[test]
fn a_limit_of_nothing_takes_a_second_step_and_another_limit_does_not() {
    let (_fleet, gw) = with_public_view();
    let mut alice = Visitor::signed_in(&gw, "alice", TOKEN);
    let step =
        alice.operate(&gw, "do=set-max&group=default", &[("max", "0"), ("reason", "holidays")]);
    step.has_status(200).says("will reboot until somebody raises the limit again");
    Visitor::default().get(&gw, "/").says("0 of 1 slot taken");
    let done = alice.agree(&gw, &step);
    alice.follow(&gw, &done).says("no slots: nobody reboots");
}

#[test]
fn without_a_form_of_ours_nothing_is_done() {
    let (fleet, gw) = with_public_view();
    let mut alice = Visitor::signed_in(&gw, "alice", TOKEN);
    let stamp = alice.get(&gw, "/operate?do=pause").body;
    let stamp = stamp
        .rsplit("name=\"stamp\" value=\"")
        .next()
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let ours = "sec-fetch-site: same-origin\r\n";
    let fields = |stamp: &str| {
        [("do", "pause"), ("reason", "x"), ("stamp", stamp)]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    let post = |visitor: &mut Visitor, headers: &str, stamp: &str| {
        let fields = fields(stamp);
        let fields: Vec<_> = fields.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        visitor.post_from(&gw, headers, "/operate", &fields)
    };
    for headers in [
        "",
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\n",
        "sec-fetch-site: none\r\n",
        "origin: http://evil.example\r\n",
        "origin: null\r\n",
        "origin: http://127.0.0.1\r\nsec-fetch-site: cross-site\r\n",
    ] {
        post(&mut alice, headers, &stamp).has_status(403).says("not one of ours");
    }
    let foreign =
        Visitor::signed_in(&gw, "alice", TOKEN).get(&gw, "/operate?do=pause").field("stamp");
    // The stamp for signing out is for signing out.
    let other = alice.get(&gw, "/").field("stamp");
    for stamp in ["", "x", &foreign, &other] {
        post(&mut alice, ours, stamp).has_status(403).says("not one of ours");
    }
    post(&mut Visitor::default(), ours, &stamp).has_status(403).says("<h1>Sign in</h1>");
    assert_eq!(fleet.document("fleet/paused"), None);
    post(&mut alice, "origin: http://127.0.0.1\r\n", &stamp).has_status(303);
    assert!(fleet.document("fleet/paused").is_some());
}

#[test]
fn nobody_does_what_their_role_does_not_allow() {
    let (fleet, gw) = with_public_view();
    Seed::new(&fleet).group("web", 1, &[]);
    Visitor::default().get(&gw, "/operate?do=pause").has_status(403).says("<h1>Sign in</h1>");
    let mut bob = Visitor::signed_in(&gw, "bob", VIEWERS_TOKEN);
    bob.get(&gw, "/").does_not_say("data-operator").says("(may look)");
    bob.get(&gw, "/operate?do=pause")
        .has_status(403)
        .says("these credentials are for looking only");
    let mut carol = Visitor::signed_in(&gw, "carol", WEB_TOKEN);
    let refused = carol.operate(&gw, "do=pause&group=default", &[("reason", "x")]);
    refused.has_status(403).says("these credentials are not for group default");
    let refused = carol.operate(&gw, "do=pause", &[("reason", "x")]);
    refused.has_status(403).says("these credentials are for some groups only");
    carol.operate(&gw, "do=pause&group=web", &[("reason", "x")]).has_status(303);
    assert_eq!((fleet.document("paused"), fleet.document("fleet/paused")), (None, None));
    // Nor is anything said that we did not say.
    carol.get(&gw, "/?said=All+is+lost&stamp=x").does_not_say("All is lost");
}

#[test]
fn a_session_is_for_every_gateway_until_somebody_signs_out() {
    let (fleet, gw) = with_public_view();
    let other = fleet.start();
    let mut alice = Visitor::default();
    let answer = alice.sign_in(&gw, "alice", TOKEN);
    let cookie = answer.header("set-cookie");
    for attribute in ["rebootlock-session=", "; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(!cookie.contains("Domain") && !cookie.contains("Max-Age"), "{cookie}");
    alice.get(&other, "/").says("<bdi>alice</bdi>");
    // What is in the store lets nobody in.
    let value = alice.cookies["rebootlock-session"].clone();
    let store = rusqlite::Connection::open(fleet.store()).unwrap();
    let mut rows = store.prepare("SELECT key, value FROM entry").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)));
    let rows: Vec<_> = rows.unwrap().map(Result::unwrap).collect();
    assert!(rows.iter().any(|(key, _)| key.contains("/sessions/")), "{rows:?}");
    for (key, document) in rows {
        assert!(!key.contains(&value) && !String::from_utf8_lossy(&document).contains(&value));
    }
    // A copy of the cookie is of no use afterwards.
    let mut copy = alice.clone();
    let stamp = alice.get(&other, "/").field("stamp");
    let answer = alice.post(&other, "/sign-out", &[("stamp", &stamp)]);
    alice.follow(&other, &answer).does_not_say("<bdi>alice</bdi>");
    assert!(alice.cookies.is_empty(), "{:?}", alice.cookies);
    copy.get(&gw, "/").does_not_say("<bdi>alice</bdi>");
    copy.get(&gw, "/operate?do=pause").has_status(403);
}

#[test]
fn signing_out_ends_pages_that_are_kept_up_to_date_at_every_gateway() {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, "public_view = false\n"));
    let (gw, other) = (fleet.start(), fleet.start());
    let mut alice = Visitor::signed_in(&gw, "alice", TOKEN);
    let bob = Visitor::signed_in(&gw, "bob", VIEWERS_TOKEN);
    let events = |visitor: &Visitor| {
        let cookie =
            format!("cookie: rebootlock-session={}\r\n", visitor.cookies["rebootlock-session"]);
        let mut page = gw.connect();
        let headers = format!("{cookie}connection: close\r\n");
        page.write_all(request("GET", "/events", &headers, "").as_bytes()).unwrap();
        let mut lines = BufReader::new(page).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "event: beat"), "it is told what there is");
        lines
    };
    let (mut hers, mut his) = (events(&alice), events(&bob));
    let stamp = alice.get(&other, "/").field("stamp");
    alice.post(&other, "/sign-out", &[("stamp", &stamp)]).has_status(303);
    assert!(other.logged("\"event\":\"signed_out\"").contains("\"by\":\"alice\""));
    assert!(hers.any(|line| line == "event: bye"), "no more for her");
    fleet.put("groups/secret/semaphore", "{\"semaphore\":1,\"max\":1,\"holders\":[]}");
    assert!(hers.all(|line| !line.contains("secret")));
    assert!(his.any(|line| line.contains("secret")), "others are told on");
}

#[test]
fn an_agent_does_not_sign_in() {
    let fleet = Fleet::new("");
    let (token, line) = rebootlock_gateway::auth::new_token();
    let people = format!("[[client]]\nname = \"web-3\"\nrole = \"agent\"\n{line}\n");
    let path = file(&fleet, "people.toml", &people);
    fleet.configure(&format!("[gateway]\npublic_view = true\ncredentials_file = {path:?}\n"));
    let gw = fleet.start();
    let mut agent = Visitor::default();
    agent.sign_in(&gw, "web-3", &token).has_status(403).says("are for an agent");
    agent.get(&gw, "/").does_not_say("<bdi>web-3</bdi>").does_not_say("href=\"sign-in\"");
}

#[test]
fn signing_out_takes_a_form_of_ours() {
    let (_fleet, gw) = with_public_view();
    let mut alice = Visitor::signed_in(&gw, "alice", TOKEN);
    alice.post(&gw, "/sign-out", &[("stamp", "x")]);
    let stamp = alice.get(&gw, "/").field("stamp");
    alice.post_from(&gw, "sec-fetch-site: cross-site\r\n", "/sign-out", &[("stamp", &stamp)]);
    alice.get(&gw, "/").says("<bdi>alice</bdi>");
}

#[test]
fn who_is_no_operator_any_more_is_none_at_once() {
    let (fleet, gw) = with_public_view();
    let mut alice = Visitor::signed_in(&gw, "alice", TOKEN);
    let mut carol = Visitor::signed_in(&gw, "carol", WEB_TOKEN);
    let people = std::fs::read_to_string(fleet.dir.path().join("people.toml")).unwrap();
    let digest = |token: &str| {
        let digest = rebootlock_gateway::auth::token_digest(token);
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    // Another token for alice, another role for carol.
    let people = people.replace(&digest(TOKEN), &digest("another"));
    let people = people.replacen("role = \"operator\"\ngroups", "role = \"viewer\"\ngroups", 1);
    file(&fleet, "people.toml", &people);
    // A page that is kept up to date has to come again.
    let mut page = gw.connect();
    page.write_all(b"GET /events HTTP/1.0\r\nhost: gw\r\n\r\n").unwrap();
    page.read_exact(&mut [0; 64]).unwrap();
    gw.signal(Signal::HUP);
    gw.logged("configuration read again");
    let mut rest = String::new();
    page.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("event: bye"), "{rest}");
    alice.get(&gw, "/operate?do=pause").has_status(403).says("Sign in to do that.");
    alice.get(&gw, "/").does_not_say("<bdi>alice</bdi>");
    carol.get(&gw, "/").says("(may look)");
    carol.get(&gw, "/operate?do=pause").has_status(403).says("for looking only");
}

#[test]
fn passwords_are_checked_and_tries_are_counted() {
    let fleet = Fleet::new("");
    let hash = rebootlock_gateway::auth::hash("s3cret word").unwrap();
    // Quick to check, and nobody's.
    let hash_of_carl =
        "$argon2id$v=19$m=8,t=1,p=1$bm9ib2R5bm9ib2R5$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";
    let people = format!(
        "[[client]]\nname = \"carl\"\npassword_hash = {hash_of_carl:?}\n\
         [[client]]\nname = \"dave\"\npassword_hash = \"{hash}\"\nrole = \"operator\"\n\
                          [[client]]\nname = \"machine\"\ntoken_sha256 = \"{}\"\n",
        "0".repeat(64)
    );
    let path = file(&fleet, "people.toml", &people);
    fleet.configure(&format!("[gateway]\npublic_view = true\ncredentials_file = {path:?}\n"));
    let gw = fleet.start();
    let mut dave = Visitor::default();
    let form = dave.get(&gw, "/sign-in");
    // A form from elsewhere costs nothing and does nothing.
    let fields = [("name", "dave"), ("password", "s3cret word"), ("stamp", &form.field("stamp"))];
    dave.post_from(&gw, "sec-fetch-site: cross-site\r\n", "/sign-in", &fields).has_status(403);
    dave.post(&gw, "/sign-in", &fields[..2]).has_status(403).says("not one of ours");
    dave.sign_in(&gw, "dave", "S3cret word")
        .has_status(403)
        .says("do not belong together")
        .says("value=\"dave\"");
    dave.sign_in(&gw, "nobody", "s3cret word").has_status(403).says("do not belong together");
    dave.sign_in(&gw, "dave", "s3cret word").has_status(303);
    dave.get(&gw, "/").says("<bdi>dave</bdi>").says("data-operator");
    gw.logged("\"event\":\"signed_in\"");
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut eve = Visitor::default();
    while eve.sign_in(&gw, "carl", "x").status != 429 {
        assert!(Instant::now() < deadline);
    }
    eve.sign_in(&gw, "dave", "s3cret word").has_status(429).says("Too many tries");
    // There is one count for all doors.
    let basic = "authorization: Basic ZGF2ZTpndWVzcw==\r\n";
    let asked = gw.send(request("GET", "/api/v1/fleet", basic, "").as_bytes());
    assert_eq!(asked.status, 429, "{asked:?}");
    // Who is signed in already is none the worse for it.
    dave.get(&gw, "/operate?do=pause").has_status(200);
    assert!(!gw.log.lock().unwrap().iter().any(|line| line.contains("s3cret")));
}

#[test]
fn while_the_store_is_away_people_look_on_and_do_nothing() {
    let fleet = Fleet::new("");
    let more = "public_view = false\nanswer_within_secs = 1\n[store]\ntimeout_secs = 1\n";
    fleet.configure(&with_people(&fleet, more));
    let gw = fleet.start();
    let mut alice = Visitor::signed_in(&gw, "alice", TOKEN);
    alice.get(&gw, "/").has_status(200);
    let store = rusqlite::Connection::open(fleet.store()).unwrap();
    store.execute_batch("ALTER TABLE entry RENAME TO elsewhere").unwrap();
    alice.get(&gw, "/").has_status(200).says("The store does not answer").says("<bdi>alice</bdi>");
    alice.get(&gw, "/operate?do=pause").has_status(503).says("does not answer");
    let mut stranger = Visitor::default();
    stranger.cookies.insert("rebootlock-session".to_owned(), "A".repeat(43));
    stranger.get(&gw, "/").has_status(503).does_not_say("slots taken");
}
