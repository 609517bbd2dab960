//! Servers that say all sorts of things, over real sockets.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Does {
    Says(&'static str),
    HangsUp,
    Hangs,
}

struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

async fn serve(does: Does) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = String::new();
            // The body is the last that is sent.
            while !text.ends_with("}}") {
                let mut bytes = vec![0; 4096];
                match stream.read(&mut bytes).await {
                    Ok(length @ 1..) => text += std::str::from_utf8(&bytes[..length]).unwrap(),
                    _ => break,
                }
            }
            seen.lock().unwrap().push(text);
            match does {
                Does::Says(answer) => {
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
                Does::HangsUp => {}
                Does::Hangs => open.push(stream),
            }
        }
    }));
    Server { url, asked, _task: task }
}

fn client(servers: &[&str], path: &str) -> FleetLock {
    FleetLock {
        servers: servers.iter().map(|url| format!("{url}{path}").parse().unwrap()).collect(),
        access: Access::default(),
        timeout: Duration::from_secs(1),
        current: AtomicUsize::new(0),
        unanswered: Mutex::default(),
    }
}

async fn ask(client: &FleetLock) -> Result<String, FleetLockError> {
    let machine = MachineId::new("web-1").unwrap();
    client.pre_reboot(&machine, &Group::default(), None).await
}

fn answer(status: &str, body: &str) -> &'static str {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").leak()
}

async fn free_address() -> String {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    format!("http://{nobody}")
}

#[tokio::test]
async fn a_request_is_what_the_protocol_says() {
    let server = serve(Does::Says(answer("200 OK", ""))).await;
    let (machine, group) = (MachineId::new("web-1").unwrap(), Group::new("a.b").unwrap());
    for base in ["", "/", "/base"] {
        let client = client(&[&server.url], base);
        let wait = Some(Duration::from_secs(30));
        assert_eq!(client.pre_reboot(&machine, &group, wait).await, Ok(String::new()));
        assert_eq!(client.steady_state(&machine, &group).await, Ok(String::new()));
        let asked = std::mem::take(&mut *server.asked.lock().unwrap());
        let path = base.trim_end_matches('/');
        for (text, call) in asked.iter().zip(["pre-reboot", "steady-state"]) {
            assert!(text.starts_with(&format!("POST {path}/v1/{call} HTTP/1.1\r\n")), "{text}");
            assert_eq!(text.matches("\r\nfleet-lock-protocol: true\r\n").count(), 1, "{text}");
            let body = r#"{"client_params":{"id":"web-1","group":"a.b"}}"#;
            assert_eq!(text.split("\r\n\r\n").nth(1), Some(body));
        }
        assert!(asked[0].contains("\r\nprefer: wait=30\r\n") && !asked[1].contains("prefer"));
    }
}

#[tokio::test]
async fn nothing_but_200_is_a_yes() {
    let said = r#"{"kind":"success","value":"you hold a slot"}"#;
    let client_of = async |does| {
        let server = serve(does).await;
        (client(&[&server.url], ""), server)
    };
    for (does, yes) in [
        (answer("200 OK", said), "you hold a slot"),
        (answer("200 OK", "<html>"), ""),
        (answer("200 OK", "granted\n"), ""),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n", ""),
        (answer("200 OK", "{\"kind\":\"granted\",\"value\":\"go\"}"), "go"),
        (answer("200 OK", "\"ok\""), ""),
    ] {
        let (client, _server) = client_of(Does::Says(does)).await;
        assert_eq!(ask(&client).await, Ok(yes.to_owned()));
        assert_eq!(client.over_in(Call::PreReboot), None);
    }
    let full = r#"{"kind":"failed_lock_semaphore_full","value":"all taken\u001b[2J"}"#;
    let moved = "HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n";
    // What it says, whether it may be done all the same, and whether nobody is there.
    for (does, no, open, away) in [
        (
            Does::Says(answer("423 Locked", full)),
            "answers 423 failed_lock_semaphore_full: all taken [2J",
            false,
            false,
        ),
        (
            Does::Says(answer("202 Accepted", "")),
            "answers 202; nothing but 200 is a yes",
            false,
            false,
        ),
        (
            Does::Says("HTTP/1.1 204 No Content\r\n\r\n"),
            "answers 204; nothing but 200",
            false,
            false,
        ),
        (Does::Says(moved), "answers 302; redirects are not followed", false, false),
        (Does::Says(answer("404 Not Found", "{\"kind\":1}")), "answers 404", false, false),
        (
            Does::Says("HTTP/1.1 423 Locked\r\nContent-Length: 9\r\n\r\n{}"),
            "answers 423",
            false,
            false,
        ),
        (
            Does::Says(answer("500 Oh", "{\"kind\":\"failed_lock\"}")),
            "answers 500 failed_lock",
            false,
            false,
        ),
        (
            Does::Says(answer("500 Oh", "{\"kind\":\"failed_sem_init\"}")),
            "failed_sem_init",
            true,
            false,
        ),
        (Does::Says(answer("503 Away", "")), "answers 503", true, true),
        (Does::Says(answer("502 Bad", "<html>no upstream</html>")), "answers 502", true, true),
        (Does::Says(answer("504 Late", "{\"message\":\"late\"}")), "answers 504", true, true),
        (
            Does::Says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"),
            ": the answer breaks off",
            true,
            true,
        ),
        (Does::HangsUp, ": no answer: ", true, true),
        (Does::Hangs, ": no answer within 1 s", true, true),
    ] {
        let (client, server) = client_of(does).await;
        let error = ask(&client).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&server.url) && text.contains(no), "{no}: {text}");
        assert_eq!(client.over_in(Call::PreReboot).is_some(), open, "{text}");
        assert_eq!(client.over_in(Call::SteadyState), None);
        assert_eq!(error.is_out_of_reach(), away, "{text}");
    }
    let client = client(&[&free_address().await], "");
    let error = ask(&client).await.unwrap_err();
    assert!(matches!(error, FleetLockError::Unreached(_)) && error.is_out_of_reach(), "{error:?}");
    assert_eq!(client.over_in(Call::PreReboot), None);
}

#[tokio::test]
async fn of_a_server_that_gives_a_reason_nobody_is_out_of_reach() {
    for (status, kind, away) in [
        ("503 Away", "store_unavailable", true),
        ("503 Away", "store_damaged", false),
        ("503 Away", "store_busy", false),
        ("503 Away", "store_failed", false),
        ("503 Away", "overloaded", false),
        ("503 Away", "failed_sem_init", false),
        ("502 Bad", "store_unavailable", false),
        ("504 Late", "error", false),
        ("500 Oh", "store_unavailable", false),
        ("500 Oh", "failed_sem_init", false),
        ("423 Locked", "store_unavailable", false),
    ] {
        let body = format!(r#"{{"kind":"{kind}","value":"so it is"}}"#);
        let server = serve(Does::Says(answer(status, &body))).await;
        let nobody = free_address().await;
        // Nor if another of its addresses is.
        for servers in
            [&[server.url.as_str()][..], &[&nobody, &server.url], &[&server.url, &nobody]]
        {
            let error = ask(&client(servers, "")).await.unwrap_err();
            assert_eq!(error.is_out_of_reach(), away, "{error} of {servers:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_now_leaves_it_to_another_address() {
    let good = serve(Does::Says(answer("200 OK", ""))).await;
    let body = r#"{"kind":"overloaded","value":"the gateway is about to stop"}"#;
    let busy = serve(Does::Says(answer("503 Busy", body))).await;
    assert_eq!(ask(&client(&[&busy.url, &good.url], "")).await, Ok(String::new()));
}

/// A proxy may put 200 over a refusal, or a login page of its own.
#[tokio::test]
async fn a_refusal_or_a_page_under_a_200_is_no_yes() {
    let (machine, group) = (MachineId::new("web-1").unwrap(), Group::default());
    let page = |kind: &str| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 6\r\n\r\n<html>").leak()
    };
    let body = |kind: &str| answer("200 OK", &format!(r#"{{"kind":"{kind}","value":"so it is"}}"#));
    let refusal = "a refusal is no yes, whatever its status";
    for (says, said) in [
        (body("failed_lock_semaphore_full"), refusal),
        (body("failed_anything"), refusal),
        (body("lock_held"), refusal),
        (body("store_unavailable"), refusal),
        (body("Unauthorized"), refusal),
        (page("text/html"), "a page for people, which is no yes"),
        (page("Text/HTML; charset=utf-8"), "a page for people, which is no yes"),
        (page("application/xhtml+xml"), "a page for people, which is no yes"),
    ] {
        let server = serve(Does::Says(says)).await;
        let client = client(&[&server.url], "");
        for answer in [ask(&client).await, client.steady_state(&machine, &group).await] {
            let error = answer.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(said) && text.contains("answers 200"), "{text}");
            assert!(text.ends_with("let this machine reach the server itself"), "{text}");
            assert!(!error.is_out_of_reach(), "{text}");
        }
    }
}

#[tokio::test]
async fn a_slot_that_was_not_given_back_by_airlock_may_be_later() {
    let (machine, group) = (MachineId::new("web-1").unwrap(), Group::default());
    let server = serve(Does::Says(answer("500 Oh", "{\"kind\":\"failed_lock\"}"))).await;
    let client = client(&[&server.url], "");
    client.steady_state(&machine, &group).await.unwrap_err();
    assert!(client.over_in(Call::SteadyState).is_some());
}

#[tokio::test]
async fn a_request_that_is_given_up_may_still_be_obeyed() {
    let server = serve(Does::Hangs).await;
    let client = client(&[&server.url], "");
    let given_up = timeout(Duration::from_millis(200), ask(&client)).await;
    assert!(given_up.is_err());
    assert!(client.over_in(Call::PreReboot).is_some_and(|left| left <= OVER_AFTER));
}

#[tokio::test]
async fn another_address_of_the_service_is_asked_and_remembered() {
    let good = serve(Does::Says(answer("200 OK", ""))).await;
    let bad = serve(Does::HangsUp).await;
    let nobody = free_address().await;
    let client = client(&[&nobody, &bad.url, &good.url], "");
    assert_eq!(ask(&client).await, Ok(String::new()));
    assert_eq!(ask(&client).await, Ok(String::new()));
    assert_eq!((bad.asked.lock().unwrap().len(), good.asked.lock().unwrap().len()), (1, 2));
    let client = super::tests::client(&[&nobody, &bad.url], "");
    let error = ask(&client).await.unwrap_err();
    assert!(matches!(&error, FleetLockError::Unanswered(text) if text.contains("; ")), "{error:?}");
}

#[tokio::test]
async fn a_server_that_waited_and_one_that_wants_to_be_left_alone_are_understood() {
    let head = "HTTP/1.1 423 Locked\r\nContent-Length: 0\r\n";
    for (more, waited, retry_after) in [
        ("Preference-Applied: wait=1\r\n", false, None),
        ("Preference-Applied: wait=30\r\n", false, None),
        ("Preference-Applied: wait=0\r\n", false, None),
        ("Retry-After: 7\r\n", false, Some(7)),
        ("Retry-After: 70000\r\n", false, Some(600)),
        ("Retry-After: soon\r\n", false, None),
    ] {
        let server = serve(Does::Says(format!("{head}{more}\r\n").leak())).await;
        let client = client(&[&server.url], "");
        let Err(FleetLockError::Refused(refusal)) = ask(&client).await else { panic!("{more}") };
        assert_eq!(refusal.waited, waited, "{more}");
        assert_eq!(refusal.retry_after, retry_after.map(Duration::from_secs), "{more}");
    }
    let answer = Response::builder().status(423).header("preference-applied", "wait=10");
    let answer = answer.body(Bytes::new()).unwrap();
    for (millis, waited) in [(0, false), (8_900, false), (9_000, true), (60_000, true)] {
        let took = Duration::from_millis(millis);
        assert_eq!(Refusal::read(String::new(), &answer, took).waited, waited, "{millis}");
    }
}
