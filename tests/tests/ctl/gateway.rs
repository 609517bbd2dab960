//! Through a gateway, without access to the store: every command, by either way to write the URL.

use std::time::Instant;

use rebootlock_tests::etcd::{EtcdSetup, system};
use rebootlock_tests::gateway::Gateway;
use rebootlock_tests::machine::Machine;
use rebootlock_tests::process::Signal;
use tokio::net::{TcpListener, TcpStream};

use crate::operator::{Operator, SOON, semaphore};
use crate::slots::with_forgotten;

async fn gateway(dir: &tempfile::TempDir) -> Gateway {
    let endpoint = format!("sqlite:{}", dir.path().join("lock.db").display());
    Gateway::start(&endpoint, "", &[]).await.unwrap()
}

fn by(gateway: &Gateway, role: &str, url: String) -> Operator {
    let file = gateway.token_file(role);
    Operator::on(&[url]).with("REBOOTLOCK_TOKEN_FILE", file.to_str().unwrap())
}

#[tokio::test]
async fn every_command_works_by_either_url() {
    for prefix in ["gateway+", ""] {
        let dir = tempfile::tempdir().unwrap();
        let gateway = gateway(&dir).await;
        let op = by(&gateway, "operator", format!("{prefix}{}", gateway.url()));
        assert_eq!(op.ctl("status").await.ok().out, "Available: 1\nMax: 1\n");
        assert_eq!(op.ctl("set-max 2").await.ok().out, "Old: 1\nNew: 2\n");
        let doctor = op.ctl("doctor").await;
        assert!(doctor.out.contains("ok    rights: may read and write below"), "{}", doctor.out);
        op.ctl("lock web-1 --reason disk").await.ok();
        op.ctl("exec -- true").await.ok();
        op.ctl("lock web-2").await.ok();
        op.ctl("lock web-3").await.failed(4, &["no slot is free in group default (limit 2)"]);
        let waiting = op.start("lock web-3 --wait 1m");
        let queue = rebootlock_tests::eventually("web-3 waits", SOON, async || {
            let queue = op.ctl("queue").await.ok().out;
            if queue.contains("web-3") { Ok(queue) } else { Err(queue) }
        });
        queue.await.unwrap();
        op.ctl("unlock web-1").await.ok();
        let mut waiting = waiting;
        assert!(waiting.wait_exit(SOON).await.unwrap().success());
        op.ctl("pause --reason test").await.ok();
        op.ctl("lock web-4").await.failed(5, &["paused"]);
        op.ctl("resume").await.ok();
        op.ctl("request web-5").await.ok();
        let cancelled = op.ctl("cancel web-5").await.ok();
        assert!(cancelled.err.contains("cancelled") || cancelled.out.contains("cancelled"));
        op.ctl("hold web-6").await.ok();
        op.ctl("unhold web-6").await.ok();
        assert!(!op.ctl("machines").await.ok().out.contains("held"));
        op.ctl("request web-7").await.ok();
        let forgot = op.ctl("forget web-7").await.ok();
        assert!(forgot.err.contains("web-7") || forgot.out.contains("web-7"), "{forgot:?}");
        let history = op.ctl("history").await.ok().out;
        assert!(history.contains("web-1"), "{history}");
        for line in ["repair", "groups", "machines", "explain web-2", "status --all-groups"] {
            op.ctl(line).await.ok();
        }
        let doctor = op.ctl("doctor").await;
        let found = format!("ok    {}: rebootlock-gateway ", gateway.url());
        assert!(doctor.out.contains(&found), "{doctor:?}");
    }
}

/// At the port of web servers, on an address of this computer that has nothing else.
async fn at_port_80(gateway: &Gateway) -> Option<String> {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = format!("127.80.{high}.{}", low.clamp(1, 254));
    let listener = match TcpListener::bind((address.as_str(), 80)).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
        Err(error) => panic!("{address}:80: {error}"),
    };
    let port = gateway.port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", port)).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    Some(address)
}

#[tokio::test]
async fn a_url_without_a_port_finds_a_gateway_where_no_etcd_listens() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(&dir).await;
    let Some(address) = at_port_80(&gateway).await else {
        eprintln!("*** NOT TESTED: a gateway at port 80, where this user may not listen ***");
        return;
    };
    let op = by(&gateway, "operator", format!("http://{address}"));
    op.ctl("lock web-1").await.ok();
    assert!(op.ctl("status").await.ok().out.contains("web-1"));
    // As soon as anything listens at etcd's port it is an etcd.
    let _etcd = TcpListener::bind((address.as_str(), 2379)).await.unwrap();
    op.ctl("status").await.failed(2, &["a token_file is for gateways only", "gateway+https://"]);
}

#[tokio::test]
async fn a_status_that_is_watched_is_redrawn_through_a_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(&dir).await;
    let op = by(&gateway, "operator", gateway.url());
    let mut watch = op.start("status --watch");
    watch.stdout().wait_for(SOON, |line| line == "Max: 1").await.unwrap();
    op.ctl("set-max 3").await.ok();
    watch.stdout().wait_for(SOON, |line| line == "Max: 3").await.unwrap();
    watch.signal(Signal::INT).unwrap();
    assert_eq!(watch.wait_exit(SOON).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn reboot_takes_its_slot_and_its_permit_through_a_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(&dir).await;
    let own = "a".repeat(32);
    let machine = Machine::new(&own).await.unwrap();
    let op = by(&gateway, "operator", gateway.url())
        .with("DBUS_SYSTEM_BUS_ADDRESS", machine.bus.address());
    op.ctl("lock other").await.ok();
    op.ctl("reboot").await.failed(4, &["no slot is free"]);
    assert_eq!(machine.logind.attempts(), 0);
    op.ctl("unlock other").await.ok();
    op.ctl("reboot --reason firmware").await.ok();
    assert_eq!(machine.logind.reboots(), 1);
    let status = op.ctl("status").await.ok().out;
    assert!(status.contains(&own) && status.contains("rebooting"), "{status}");
}

#[tokio::test]
async fn the_forgotten_are_freed_and_the_damaged_mended_through_a_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(&dir).await;
    let op = by(&gateway, "operator", gateway.url());
    // Somebody who reaches the store itself; no gateway writes what contradicts itself.
    let behind = Operator::on(&[format!("sqlite:{}", dir.path().join("lock.db").display())]);
    with_forgotten(&behind).await;
    op.ctl("unlock --overdue 2h").await.failed(1, &["the input is no terminal; see --yes"]);
    let ran = op.ctl("unlock --overdue 2h --yes").await.ok();
    assert!(ran.err.contains("freed the slot of old in group default"), "{ran:?}");
    let left = behind.get(&semaphore()).await.unwrap();
    assert_eq!(left, r#"{"semaphore":1,"max":3,"holders":["new","unrecorded"]}"#);

    behind.put(&semaphore(), r#"{"semaphore":1,"max":1,"holders":["new"]}"#).await;
    let shown = op.ctl("repair").await;
    assert_eq!(shown.code, 1, "{shown:?}");
    assert!(shown.out.contains("do not add up to max 1"), "{shown:?}");
    op.ctl("repair --yes").await.ok();
    let mended = behind.get(&semaphore()).await.unwrap();
    assert_eq!(mended, r#"{"semaphore":0,"max":1,"holders":["new"]}"#);
    assert_eq!(op.ctl("repair --yes").await.ok().out, "nothing to repair\n");
}

#[tokio::test]
async fn waiting_for_a_slot_survives_a_restart_of_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = gateway(&dir).await;
    let op = by(&gateway, "operator", format!("gateway+{}", gateway.url()));
    op.ctl("lock web-1").await.ok();
    let mut waiting = op.start("lock web-2 --wait 1m");
    let queued = async || {
        let queue = op.ctl("queue").await.ok().out;
        if queue.contains("web-2") { Ok(()) } else { Err(queue) }
    };
    rebootlock_tests::eventually("web-2 waits", SOON, queued).await.unwrap();
    gateway.kill().await.unwrap();
    gateway.again().await.unwrap();
    op.ctl("unlock web-1").await.ok();
    assert!(waiting.wait_exit(SOON).await.unwrap().success());
    let status = op.ctl("status").await.ok().out;
    assert!(status.contains("web-2"), "{status}");
}

#[tokio::test]
async fn a_viewer_sees_all_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(&dir).await;
    let op = by(&gateway, "viewer", gateway.url());
    op.ctl("status --all-groups").await.ok();
    for line in ["lock web-1", "pause", "set-max 3"] {
        op.ctl(line).await.failed(1, &["no permission", "role = \"operator\""]);
    }
    let doctor = op.ctl("doctor").await;
    assert!(doctor.out.contains("FAIL  rights: "), "{}", doctor.out);
    assert!(doctor.out.contains("role = \"operator\" in its credentials_file"), "{}", doctor.out);
}

#[tokio::test]
async fn no_secret_is_sent_before_it_is_known_who_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heard = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut heard = String::new();
        // Both questions come over one connection.
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            let start = heard.len();
            while !heard[start..].ends_with("\r\n\r\n") {
                heard.push(char::from(stream.read_u8().await.unwrap()));
            }
            let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        heard
    });
    let op = Operator::on(std::slice::from_ref(&url));
    let file = op.file("password", "s3cret\n");
    let line = format!("status --etcd-username ops --etcd-password-file {file}");
    let said = ["is neither an etcd nor a rebootlock gateway", "404 Not Found", &url];
    op.ctl(&line).await.failed(2, &said);
    let heard = heard.await.unwrap().to_lowercase();
    assert!(heard.contains("get /version") && heard.contains("get /api/v1 "), "{heard}");
    assert!(!heard.contains("authorization") && !heard.contains("ops"), "{heard}");
}

#[tokio::test]
async fn a_token_is_for_gateways_only() {
    let etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
    let op = Operator::on(&etcd.endpoints());
    let token = op.file("token", "t\n");
    let line = format!("status --token-file {token}");
    op.ctl(&line).await.failed(2, &["a token_file is for gateways only"]);
    let nobody = Operator::on(&["http://127.0.0.1:1".to_owned()]);
    let began = Instant::now();
    nobody.ctl("status").await.failed(1, &["out of reach", "127.0.0.1:1"]);
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
}
