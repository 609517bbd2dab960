//! `disruption`: the exit code is the answer, and nothing but an answer has 0, 1 or 2.

use std::process::Stdio;

use rebootlock_tests::binaries;
use rebootlock_tests::pki::Pki;
use rebootlock_tests::process::Process;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::operator::{Operator, SOON};

/// A gateway on the operator's own store, and its address.
async fn gateway(op: &Operator, config: &str) -> (Process, String) {
    let config = op.file("gateway.toml", config);
    let mut command = tokio::process::Command::new(binaries::path("rebootlock-gateway").unwrap());
    let store = format!("sqlite:{}", op.file("lock.db", ""));
    command
        .env_clear()
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--config", &config])
        .args(["--endpoint", &store])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let gateway = Process::spawn("gateway", command).unwrap();
    let line = gateway.wait_line("\"message\":\"listening\"", SOON).await.unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = line["address"].as_str().unwrap().to_owned();
    (gateway, address)
}

#[tokio::test]
async fn what_the_gateway_says_is_the_exit_code() {
    let op = Operator::new();
    let (_gateway, address) = gateway(&op, "").await;
    let url = format!("http://{address}");
    let machine = op.file("mdb.json", r#"{"Hostname":"x","Tags":{"a":"b"},"New":[1]}"#);
    let ask = async |operation: &str, hostname: &str, code: i32, word: &str| {
        let args = ["disruption", operation, "--url", &url, "--machine-file", &machine];
        let ran = op.run(&[&args[..], &["--hostname", hostname, "--group", "web"]].concat()).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, format!("{word}\n").as_str()), "{ran:?}");
        assert_eq!(ran.err, "");
    };
    ask("check", "127.0.0.1", 2, "denied").await;
    ask("request", "127.0.0.1", 0, "permitted").await;
    ask("check", "127.0.0.1", 0, "permitted").await;
    ask("request", "localhost", 1, "requested").await;
    ask("check", "localhost", 1, "requested").await;
    ask("cancel", "127.0.0.1", 2, "denied").await;
    ask("check", "localhost", 0, "permitted").await;
    op.run(&["disruption", "request", "--url", &url, "--hostname", "127.0.0.9"])
        .await
        .failed(3, &["answers 403: 127.0.0.9 not permitted"]);
}

#[tokio::test]
async fn what_an_operator_takes_away_is_not_taken_anew() {
    let op = Operator::new();
    let (_gateway, address) = gateway(&op, "").await;
    let url = format!("http://{address}");
    let told = async |operation: &str, hostname: &str| {
        let args = ["disruption", operation, "--url", &url, "--hostname", hostname];
        op.run(&[&args[..], &["--group", "web"]].concat()).await.out.trim().to_owned()
    };
    assert_eq!(told("request", "127.0.0.1").await, "permitted");
    assert_eq!(told("request", "localhost").await, "requested");
    let forgot = op.ctl("forget localhost").await.ok();
    assert!(forgot.err.contains("its wish to be disrupted"), "{forgot:?}");
    assert_eq!(told("check", "localhost").await, "denied");
    op.ctl("unlock 127.0.0.1 --group web").await.ok();
    assert_eq!(told("check", "127.0.0.1").await, "denied");
    op.ctl("unlock 127.0.0.1 --group web").await.failed(7, &["holds no slot"]);
    // Who asks again is in line like everybody.
    assert_eq!(told("request", "127.0.0.1").await, "permitted");
}

#[tokio::test]
async fn over_tls_the_authority_counts() {
    let (op, pki) = (Operator::new(), Pki::new().unwrap());
    let config = format!(
        "[gateway]\ntls_cert_file = {:?}\ntls_key_file = {:?}\n",
        pki.server_cert(),
        pki.server_key()
    );
    let (_gateway, address) = gateway(&op, &config).await;
    let url = format!("https://{address}/api/v1/request");
    let ask = async |ca: &std::path::Path| {
        let ca = ca.to_str().unwrap();
        op.run(&[
            "disruption",
            "request",
            "--url",
            &url,
            "--hostname",
            "127.0.0.1",
            "--ca-file",
            ca,
        ])
        .await
    };
    assert_eq!(ask(&pki.ca()).await.ok().out, "permitted\n");
    ask(&pki.other_ca()).await.failed(3, &["no TLS with"]);
    ask("/nonexistent".as_ref()).await.failed(3, &["/nonexistent"]);
}

/// A server that says this to everybody.
async fn says(text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if text.is_empty() {
                silent.push(stream);
                continue;
            }
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn nothing_but_an_answer_exits_with_0_1_or_2() {
    let op = Operator::new();
    for (text, said) in [
        ("HTTP/1.1 500 X\r\ncontent-length: 2\r\n\r\nno", "answers 500: no"),
        ("HTTP/1.1 302 X\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", "answers 302"),
        ("HTTP/1.1 204 X\r\n\r\n", "answers 204"),
        ("HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\nhello", "the answer is not JSON"),
        ("HTTP/1.1 200 X\r\ncontent-length: 22\r\n\r\n{\"Response\":\"anytime\"}", "\"anytime\""),
        ("HTTP/1.1 200 X\r\ncontent-length: 99\r\n\r\n{\"Response\":", "breaks off"),
        ("nonsense\r\n\r\n", "no answer"),
    ] {
        let url = says(text).await;
        op.run(&["disruption", "check", "--url", &url]).await.failed(3, &[said]);
    }
    let silent = says("").await;
    let args = ["disruption", "check", "--within", "1s", "--url", &silent];
    op.run(&args).await.failed(3, &["no answer within 1 s"]);
    op.ctl("disruption check --url http://127.0.0.1:1").await.failed(3, &["cannot connect to"]);
    let list = op.file("list.json", "[]");
    for file in ["/nonexistent", &list, &op.file("bad.json", "{")] {
        let args = ["disruption", "check", "--url", &silent, "--machine-file", file];
        op.run(&args).await.failed(3, &[file]);
    }
    let args = "disruption check --url http://h --group a,b";
    op.ctl(args).await.failed(3, &["--group names several"]);
    // A configuration that is wrong for other commands is none of its business.
    let bad = op.file("bad.toml", "[store]\nendpoint = []\n");
    op.run(&["disruption", "check", "--config", &bad, "--url", "http://127.0.0.1:1"])
        .await
        .failed(3, &["cannot connect to"]);
    for line in [
        "disruption",
        "disruption check",
        "disruption chek --url http://h",
        "disruption check --url h:1",
        "disruption check --url http://127.0.0.1:65536",
        "disruption check --url http://h --tag x",
        "disruption check --url http://h --within 0",
        "disruption check request --url http://h",
        "disruption --help",
        "disruption check --help",
        "disruption check -h",
        "disruption --url http://h request --help",
        "--group web disruption cancel --help",
        "disruption help",
    ] {
        let ran = op.ctl(line).await;
        assert_eq!(ran.code, 64, "{line}: {ran:?}");
    }
}

#[tokio::test]
async fn variables_say_what_a_script_need_not() {
    let url =
        says("HTTP/1.1 200 X\r\ncontent-length: 24\r\n\r\n{\"Response\":\"permitted\"}").await;
    let op = Operator::new().with("REBOOTLOCK_DISRUPTION_URL", &url);
    assert_eq!(op.ctl("disruption check").await.ok().out, "permitted\n");
}
