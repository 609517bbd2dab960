#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rebootlock::config::{Fragment, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn gates(text: &str) -> Gates {
    let fragment = Fragment::parse(Path::new("test.toml"), text).unwrap();
    Gates::new(&Settings::decide(fragment).unwrap().gates)
}

async fn ask(text: &str) -> Answers {
    gates(text).ask(Phase::PreLock, &Facts::default()).await
}

async fn sentence(text: &str) -> Option<String> {
    ask(&format!("[[gate]]\nname = \"x\"\n{text}")).await.sentence()
}

fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn script_gate(path: &Path, timeout: u64) -> String {
    format!("type = \"script\"\ncommand = [{path:?}]\ntimeout_secs = {timeout}\n")
}

/// Whether a process of this number is there and not only waiting to be reaped.
fn lives(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim().starts_with('Z'))
}

#[tokio::test]
async fn only_exit_0_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, body: &str| script(dir.path(), name, body);
    let not_executable = path("plain", "exit 0");
    std::fs::set_permissions(&not_executable, std::fs::Permissions::from_mode(0o644)).unwrap();
    for (path, said) in [
        (path("zero", "exit 0"), None),
        (path("seven", "echo because; exit 7"), Some("gate x is closed: exit 7")),
        (path("signal", "kill -9 $$"), Some("gate x is closed: killed by signal 9")),
        (path("slow", "exec sleep 60"), Some("gate x is closed: timeout after 1 s")),
        (not_executable, Some("not started: cannot run")),
        (dir.path().join("missing"), Some("not started: cannot run")),
    ] {
        let said_really = sentence(&script_gate(&path, 1)).await;
        let ok = match said {
            Some(part) if part.starts_with("not") => {
                said_really.as_ref().is_some_and(|real| real.contains(part))
            }
            said => said_really.as_deref() == said,
        };
        assert!(ok, "{}: {said_really:?}", path.display());
    }
    let answers = ask(&format!("[[gate]]\n{}", script_gate(&dir.path().join("seven"), 9))).await;
    let answer = answers.iter().next().unwrap();
    assert_eq!((answer.name.as_str(), answer.kind), ("seven", "script"));
    assert_eq!((answer.exit_code, answer.output.as_str()), (Some(7), "because"));
}

#[tokio::test]
async fn nothing_of_a_script_survives_its_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let body = format!(
        "trap '' TERM\n(trap '' TERM; echo $$ >{0}; exec sleep 300) &\nsetsid sleep 300 &\necho $! >{1}\n\
         while :; do echo filling the pipe; done",
        file("child").display(),
        file("escaped").display()
    );
    let path = script(dir.path(), "tree", &body);
    let answers = ask(&format!("[[gate]]\n{}", script_gate(&path, 1))).await;
    let answer = answers.iter().next().unwrap();
    assert_eq!(answer.verdict.why(), Some("timeout after 1 s"));
    assert!(answer.took < Duration::from_secs(8), "{:?}", answer.took);
    assert!(answer.output.len() < 70_000, "{}", answer.output.len());
    assert!(!lives(&file("child")) && !lives(&file("escaped")));
}

#[tokio::test]
async fn a_script_that_leaves_something_behind_is_over_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("left");
    let path = script(dir.path(), "leaves", &format!("sleep 300 &\necho $! >{}", left.display()));
    let answers = ask(&format!("[[gate]]\n{}", script_gate(&path, 60))).await;
    assert!(answers.is_open());
    assert!(answers.iter().next().unwrap().took < Duration::from_secs(30));
    assert!(!lives(&left));
}

#[tokio::test]
async fn scripts_never_overlap_not_even_across_two_sets_of_gates() {
    let dir = tempfile::tempdir().unwrap();
    let held = dir.path().join("held");
    let body = format!("mkdir {0} || exit 1\nsleep 0.05\nrmdir {0}", held.display());
    let path = script(dir.path(), "alone", &body);
    let one = |name: &str| format!("[[gate]]\nname = \"{name}\"\n{}", script_gate(&path, 30));
    let (first, second) = (gates(&(one("a") + &one("b"))), gates(&one("c")));
    let facts = Facts::default();
    let (first, second) =
        tokio::join!(first.ask(Phase::PreLock, &facts), second.ask(Phase::Heartbeat, &facts));
    assert!(first.is_open() && second.is_open(), "{first:?} {second:?}");
}

#[tokio::test]
async fn a_script_is_told_the_phase_and_the_facts() {
    let dir = tempfile::tempdir().unwrap();
    let path = script(dir.path(), "env", "env | grep -E '^(RC|REBOOTLOCK)_' | sort; echo end");
    let gates = gates(&format!("[[gate]]\n{}", script_gate(&path, 30)));
    let facts = Facts { hostname: "web-1".into(), lock_held: true, ..Facts::default() };
    let mut told = Vec::new();
    for phase in Phase::ALL {
        let answers = gates.ask(phase, &facts).await;
        told.push(answers.iter().next().unwrap().output.clone());
    }
    assert!(told[3].contains("RC_PHASE=post-lock\n") && told[3].contains("RC_LOCK_HELD=true\n"));
    assert!(told[3].contains("RC_NODE_NAME=web-1\n") && told[3].contains("REBOOTLOCK_TOKEN=\n"));
    assert!(told[1].contains("REBOOTLOCK_PHASE=heartbeat\n"));
    assert!(told[4].contains("REBOOTLOCK_PHASE=verify\n"));
}

#[tokio::test]
async fn a_gate_is_asked_in_its_phases_only_and_not_when_it_is_off() {
    let gates = gates(
        "[[gate]]\ntype = \"busy-file\"\npaths = [\"/\"]\nphases = [\"post-lock\"]\n\
         [[gate]]\nname = \"off\"\ntype = \"busy-file\"\npaths = [\"/\"]\nenabled = false\n\
         [[gate]]\ntype = \"cluster\"\n",
    );
    assert!(gates.has(Phase::PostLock) && !gates.has(Phase::PreLock));
    assert!(gates.ask(Phase::PreLock, &Facts::default()).await.is_open());
    let answers = gates.ask(Phase::PostLock, &Facts::default()).await;
    assert_eq!(answers.sentence().as_deref(), Some("gate busy-file is closed: / is there"));
    assert_eq!(answers.iter().count(), 1);
}

/// A web server that gives `answer` of the request's first bytes, or hangs.
struct Server {
    address: String,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

async fn serve(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut asked = vec![0; 16 * 1024];
                let mut length = 0;
                while !asked[..length].ends_with(b"\r\n\r\n") {
                    match stream.read(&mut asked[length..]).await {
                        Ok(1..) if length == asked.len() => return,
                        Ok(more @ 1..) => length += more,
                        _ => return,
                    }
                }
                let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
                match answer(&asked) {
                    Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                    None => std::future::pending().await,
                }
            });
        }
    });
    Server { address, _task: tokio_util::task::AbortOnDropHandle::new(task) }
}

fn reply(status: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"))
}

#[tokio::test]
async fn a_web_server_opens_only_with_the_answer_that_is_expected() {
    let server = serve(|asked| match asked.split(' ').nth(1).unwrap() {
        "/ok" => reply("200 OK", "{\"cluster\": {\"state\": \"green\", \"nodes\": 3}}"),
        "/made" => reply("201 Created", ""),
        "/moved" => Some("HTTP/1.1 301 Moved\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n".into()),
        "/sick" => reply("503 Service Unavailable", "{}"),
        "/text" => reply("200 OK", "fine"),
        "/long" => reply("200 OK", &format!("{:?}", "x".repeat(1024 * 1024))),
        "/short" => Some("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}".into()),
        "/noise" => Some("SSH-2.0-OpenSSH_9.2\r\n\r\n".into()),
        "/silent" => Some(String::new()),
        _ => None,
    })
    .await;
    let url = |path: &str| {
        format!("type = \"http\"\ntimeout_secs = 1\nurl = \"{}{path}\"\n", server.address)
    };
    let green = "json_pointer = \"/cluster/state\"\nequals = \"green\"\n";
    for (path, more, said) in [
        ("/ok", "", None),
        ("/ok", green, None),
        ("/ok", "json_pointer = \"/cluster/nodes\"\nequals = 3.0\n", None),
        (
            "/ok",
            "json_pointer = \"/cluster/nodes\"\nequals = 4\n",
            Some("is closed: /cluster/nodes is 3, not 4"),
        ),
        (
            "/ok",
            "json_pointer = \"/cluster/state\"\nequals = \"red\"\n",
            Some("is closed: /cluster/state is \"green\", not \"red\""),
        ),
        (
            "/ok",
            "json_pointer = \"/state\"\nequals = true\n",
            Some("cannot be checked: there is no /state in the answer"),
        ),
        ("/made", "", Some("is closed: answers 201")),
        ("/made", "status = [\"200-299\"]\n", None),
        ("/moved", "", Some("is closed: answers 301; redirects are not followed")),
        ("/sick", "", Some("is closed: answers 503")),
        ("/sick", "status = [200, 503]\n", None),
        ("/text", "", None),
        (
            "/text",
            green,
            Some("cannot be checked: the answer is not JSON: expected ident at line 1 column 2"),
        ),
        ("/long", "", None),
        ("/long", green, Some("cannot be checked: the answer is longer than 1048576 bytes")),
        ("/short", "", None),
        ("/short", green, Some("cannot be checked: the answer breaks off")),
        ("/noise", "", Some("cannot be checked: no answer: invalid HTTP version parsed")),
        (
            "/silent",
            "",
            Some("cannot be checked: no answer: connection closed before message completed"),
        ),
        ("/hang", "", Some("cannot be checked: no answer within 1 s")),
    ] {
        let really = sentence(&format!("{}{more}", url(path))).await;
        let fits = match said {
            None => really.is_none(),
            Some(said) => really.as_ref().is_some_and(|r| r.starts_with(&format!("gate x {said}"))),
        };
        assert!(fits, "{path} {more:?}: {really:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let said = sentence(&format!("type = \"http\"\nurl = \"http://{nobody}/\"")).await.unwrap();
    assert!(said.starts_with("gate x cannot be checked: cannot connect to 127.0.0.1:"), "{said}");
}

#[tokio::test]
async fn a_token_is_read_anew_each_time_and_never_left_out() {
    let server = serve(|asked| {
        let known = asked.to_lowercase().contains("\r\nauthorization: bearer s3cret\r\n");
        reply(if known { "200 OK" } else { "401 Unauthorized" }, "")
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    let gates = gates(&format!(
        "[[gate]]\nname = \"x\"\ntype = \"http\"\nurl = \"{}\"\nbearer_token_file = {token:?}",
        server.address
    ));
    let ask = async || gates.ask(Phase::PreLock, &Facts::default()).await.sentence();
    let said = ask().await.unwrap();
    assert!(said.contains("cannot be checked: bearer_token_file"), "{said}");
    for (text, said) in [
        ("s3cret\n", None),
        ("other\n", Some("is closed: answers 401".to_owned())),
        (
            "\ns3cret\n",
            Some(format!(
                "cannot be checked: bearer_token_file {}: its first line is empty",
                token.display()
            )),
        ),
        (
            "s3\u{7}cret",
            Some(format!(
                "cannot be checked: bearer_token_file {}: its first line has characters that no token has",
                token.display()
            )),
        ),
    ] {
        std::fs::write(&token, text).unwrap();
        assert_eq!(ask().await, said.map(|said| format!("gate x {said}")), "{text:?}");
    }
}

#[tokio::test]
async fn what_prometheus_does_not_answer_in_good_order_closes() {
    let server = serve(|asked| {
        let path = asked.split(' ').nth(1).unwrap();
        let ok = |data: &str| reply("200 OK", &format!("{{\"status\": \"success\", \"data\": {data}}}"));
        match path.strip_suffix("/api/v1/alerts").unwrap_or(path) {
            "/none" => ok("{\"alerts\": []}"),
            "/one" => ok("{\"alerts\": [{\"labels\": {\"alertname\": \"A\"}, \"state\": \"firing\", \"annotations\": {}}]}"),
            "/odd" => ok("{\"alerts\": [{\"labels\": 3}]}"),
            "/starting" => reply("503 Service Unavailable", "Service Unavailable"),
            "/error" => reply("200 OK", "{\"status\": \"error\", \"error\": \"bad\"}"),
            "/partly" => reply("200 OK", "{\"status\": \"success\", \"data\": {\"alerts\": []}, \"warnings\": [\"store b is gone\"]}"),
            "/empty" => reply("200 OK", "{\"status\": \"success\"}"),
            path if path.starts_with("/q/api/v1/query?query=absent%28up%7Bhost%3D%22web%2D1%22%7D%29 ".trim()) => {
                ok("{\"resultType\": \"vector\", \"result\": []}")
            }
            _ => reply("404 Not Found", "no"),
        }
    })
    .await;
    let gate = |path: &str| {
        format!(
            "[[gate]]\nname = \"x\"\ntype = \"prometheus\"\nurl = \"{}{path}\"\n",
            server.address
        )
    };
    let facts = Facts { hostname: "web-1".into(), ..Facts::default() };
    for (path, more, said) in [
        ("/none", "", None),
        ("/none/", "", None),
        ("/one", "", Some("is closed: alert A")),
        ("/one", "ignore = \"A\"", None),
        ("/odd", "", Some("cannot be checked: the answer is not Prometheus's")),
        ("/starting", "", Some("cannot be checked: answers 503")),
        ("/error", "", Some("cannot be checked: answers 200: bad")),
        ("/partly", "", Some("cannot be checked: the answer is incomplete: store b is gone")),
        ("/empty", "", Some("cannot be checked: the answer has no data")),
        ("/other", "", Some("cannot be checked: answers 404")),
        ("/q", "query = 'absent(up{host=\"${REBOOTLOCK_HOSTNAME}\"})'", None),
    ] {
        let gates = gates(&format!("{}{more}", gate(path)));
        let really = gates.ask(Phase::PreLock, &facts).await.sentence();
        let fits = match said {
            None => really.is_none(),
            Some(said) => really.as_ref().is_some_and(|r| r.starts_with(&format!("gate x {said}"))),
        };
        assert!(fits, "{path}: {really:?}");
    }
}

#[tokio::test]
async fn gates_are_asked_at_the_same_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    // Neither is answered before both have asked.
    let server = tokio::spawn(async move {
        let mut streams = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            streams.push(stream);
        }
        for mut stream in streams {
            stream.write_all(reply("200 OK", "").unwrap().as_bytes()).await.unwrap();
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let script = script(dir.path(), "slow", "exec sleep 30");
    let answers = ask(&format!(
        "[[gate]]\nname = \"a\"\ntype = \"http\"\nurl = {url:?}\n\
         [[gate]]\nname = \"b\"\ntype = \"http\"\nurl = {url:?}\n\
         [[gate]]\nname = \"c\"\n{}",
        script_gate(&script, 1)
    ))
    .await;
    assert_eq!(answers.sentence().as_deref(), Some("gate c is closed: timeout after 1 s"));
    server.await.unwrap();
}

/// Events, one line each.
#[derive(Clone, Default)]
struct Events(Arc<std::sync::Mutex<Vec<String>>>);

impl tracing::Subscriber for Events {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().contains("gate")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                if field.name() != "seconds" {
                    self.0 += &format!(" {}={value:?}", field.name());
                }
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_gate_speaks_up_only_when_its_answer_changes() {
    let events = Events::default();
    let _here = tracing::subscriber::set_default(events.clone());
    let dir = tempfile::tempdir().unwrap();
    let code = dir.path().join("code");
    let body = format!("echo disk is full; exit $(cat {})", code.display());
    let path = script(dir.path(), "smoke", &body);
    let gates = gates(&format!("[[gate]]\n{}", script_gate(&path, 30)));
    for (phase, exit) in [
        (Phase::PreLock, 7),
        (Phase::PreLock, 7),
        (Phase::Heartbeat, 7),
        (Phase::PreLock, 8),
        (Phase::PreLock, 0),
        (Phase::PreLock, 0),
        (Phase::Heartbeat, 7),
    ] {
        std::fs::write(&code, exit.to_string()).unwrap();
        gates.ask(phase, &Facts::default()).await;
    }
    let said = events.0.lock().unwrap().clone();
    let line = |phase: &str, code: i32| {
        format!(
            "INFO message=gate smoke is closed: exit {code} gate=\"smoke\" kind=\"script\" \
             phase={phase:?} verdict=\"closed\" why=\"exit {code}\" exit_code={code} \
             output=\"disk is full\""
        )
    };
    let open = "INFO message=gate smoke is open gate=\"smoke\" kind=\"script\" phase=\"pre-lock\" \
                verdict=\"open\" exit_code=0 output=\"disk is full\"";
    assert_eq!(said, [line("pre-lock", 7), line("heartbeat", 7), line("pre-lock", 8), open.into()]);
}
