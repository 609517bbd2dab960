#![allow(clippy::unwrap_used)]

use rebootlock::config::MetricsSettings;
use rebootlock::record::UnixTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::super::Export;
use super::*;

const ANY_PORT: &str = "127.0.0.1:0";

fn at(address: &str) -> MetricsSettings {
    MetricsSettings { listen: Some(address.parse().unwrap()), textfile: None }
}

fn export(address: &str) -> Export {
    Export::start(Metrics::new(UnixTime(7)), &at(address))
}

async fn address(export: &Export) -> SocketAddr {
    let mut listening = export.listening();
    listening.wait_for(Option::is_some).await.unwrap().unwrap()
}

/// What the server says to `request`, up to the end of the connection.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_are_served_in_the_format_that_is_asked_for() {
    let export = export(ANY_PORT);
    let address = address(&export).await;
    let plain = get(address, "/metrics?x=y").await;
    assert!(plain.starts_with("HTTP/1.1 200 OK\r\n"), "{plain}");
    assert!(plain.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(plain.ends_with("\nrebootlock_start_timestamp_seconds 7\n"), "{plain}");
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
    let open = ask(address, &format!("GET /metrics HTTP/1.1\r\nHost: h\r\n{accept}\r\n\r\n")).await;
    assert!(open.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0;"));
    assert!(open.ends_with("\n# EOF\n"), "{open}");
}

#[tokio::test]
async fn a_head_request_gets_the_head_alone() {
    let export = export(ANY_PORT);
    let request = "HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n";
    let answer = ask(address(&export).await, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\ncontent-length: ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn there_is_nothing_else_and_nothing_can_be_changed() {
    let export = export(ANY_PORT);
    let address = address(&export).await;
    assert!(get(address, "/healthz").await.ends_with("\r\n\r\nok\n"));
    for path in ["/", "/metrics/", "/metric", "/debug/pprof", "//metrics", "/../metrics"] {
        assert!(get(address, path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "FROBNICATE"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        let answer = ask(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        assert!(answer.contains("\r\nallow: GET, HEAD\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn long_headers_and_garbage_are_refused() {
    let export = export(ANY_PORT);
    let address = address(&export).await;
    let long = "x".repeat(MAX_HEADER_BYTES);
    let request = format!("GET /metrics HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n");
    assert!(ask(address, &request).await.starts_with("HTTP/1.1 431 "));
    assert!(ask(address, "what?\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
}

/// The clock jumps when nothing else is left to be done, so this takes no time.
#[tokio::test(start_paused = true)]
async fn clients_that_say_nothing_are_cut_off_and_the_next_are_served() {
    let export = export(ANY_PORT);
    let address = address(&export).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let started = Instant::now();
    let waited = get(address, "/healthz").await;
    assert!(waited.ends_with("ok\n"), "{waited}");
    assert!(started.elapsed() >= CONNECTION_TIMEOUT, "{:?}", started.elapsed());
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_taken_is_tried_again() {
    let taken = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let wanted = taken.local_addr().unwrap();
    let export = export(&wanted.to_string());
    let started = Instant::now();
    let mut listening = export.listening();
    let early = tokio::time::timeout(BIND_AGAIN / 2, listening.wait_for(Option::is_some)).await;
    assert!(early.is_err());
    drop(taken);
    assert_eq!(address(&export).await, wanted);
    assert!(started.elapsed() >= BIND_AGAIN);
}

#[tokio::test]
async fn a_reload_moves_stops_and_restarts_it_and_leaves_alone_what_is_the_same() {
    let mut export = export(ANY_PORT);
    let first = address(&export).await;
    export.change(&at(ANY_PORT)).await;
    assert_eq!(*export.listening().borrow(), Some(first));
    export.change(&MetricsSettings::default()).await;
    assert_eq!(*export.listening().borrow(), None);
    assert!(TcpStream::connect(first).await.is_err());
    export.change(&at(&first.to_string())).await;
    assert_eq!(address(&export).await, first);
    assert!(get(first, "/healthz").await.ends_with("ok\n"));
}
