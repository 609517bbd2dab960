//! On a real etcd: what never writes, and what is said when it cannot be reached.

use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, system};
use rebootlock_tests::pki::Pki;

use crate::operator::{Operator, SOON};

const PREFIX: &str = "coreos.com/updateengine/rebootlock";

async fn start(members: usize) -> EtcdCluster {
    let setup = EtcdSetup::new(&system().unwrap());
    let setup = if members > 1 { setup.members(members) } else { setup };
    setup.start().await.unwrap()
}

#[tokio::test]
async fn looking_at_a_cluster_never_used_writes_nothing() {
    let etcd = start(1).await;
    let op = Operator::on(&etcd.endpoints());
    let before = etcd.revision().await.unwrap();
    assert_eq!(op.ctl("status").await.ok().out, "Available: 1\nMax: 1\n");
    for line in ["status --all-groups", "groups", "queue", "repair", "resume", "doctor", "cancel x"]
    {
        let ran = op.ctl(line).await;
        assert!(ran.code == 0 || line == "doctor", "{line}: {ran:?}");
        assert!(
            ran.out.contains("clock agrees with ours") == (line == "doctor"),
            "{line}: {ran:?}"
        );
    }
    assert_eq!(etcd.revision().await.unwrap(), before);
    op.ctl("lock web-3").await.ok();
    let kept = etcd.etcdctl(&["get", &format!("{PREFIX}/semaphore"), "--print-value-only"]).await;
    assert_eq!(kept.unwrap().trim(), r#"{"semaphore":0,"max":1,"holders":["web-3"]}"#);
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_right_are_told_apart() {
    let mut etcd = start(1).await;
    etcd.add_user("ops", "secret", &format!("{PREFIX}/")).await.unwrap();
    etcd.add_user("guest", "secret", "elsewhere/").await.unwrap();
    etcd.enable_auth("root").await.unwrap();
    let op = Operator::on(&etcd.endpoints());
    let (good, bad) = (op.file("good", "secret\n"), op.file("bad", "wrong\n"));
    let login = |line: &str, user: &str, file: &str| {
        format!("{line} --etcd-username {user} --etcd-password-file {file}")
    };
    op.ctl(&login("lock a", "ops", &good)).await.ok();
    let endpoint = &etcd.endpoints()[0];
    let port = endpoint.rsplit(':').next().unwrap();
    op.ctl(&login("status", "ops", &bad)).await.failed(1, &["the store refused us", port]);
    op.ctl(&login("status", "guest", &good)).await.failed(1, &["no permission", PREFIX]);
    op.ctl("status").await.failed(1, &[port]);
    for (user, file, verdict) in [("ops", &bad, "refused"), ("guest", &good, "no permission")] {
        let ran = op.ctl(&login("doctor", user, file)).await;
        assert_eq!(ran.code, 1);
        assert!(ran.out.contains("FAIL") && ran.out.contains(verdict), "{}", ran.out);
        assert!(!ran.out.contains("secret") && !ran.out.contains("wrong\n"), "{}", ran.out);
    }
}

#[tokio::test]
async fn a_wrong_authority_is_named() {
    let pki = std::sync::Arc::new(Pki::new().unwrap());
    let setup = EtcdSetup::new(&system().unwrap()).tls(&pki, false);
    let etcd = setup.start().await.unwrap();
    let op = Operator::on(&etcd.endpoints());
    let ca = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let (right, wrong) = (ca(pki.ca()), ca(pki.other_ca()));
    op.run(&["status", "--etcd-cafile", &right]).await.ok();
    let port = etcd.members[0].port().to_string();
    op.run(&["status", "--etcd-cafile", &wrong]).await.failed(1, &["certificate", &port]);
    let ran = op.run(&["doctor", "--etcd-cafile", &right]).await;
    assert!(ran.out.contains(", TLS, the leader, round trip"), "{}", ran.out);
}

#[tokio::test]
async fn half_of_the_endpoints_dead_still_works_and_doctor_says_which() {
    let mut etcd = start(3).await;
    let dead = (etcd.leader().await.unwrap() + 1) % 3;
    let endpoint = etcd.members[dead].endpoint().to_owned();
    etcd.members[dead].kill().await.unwrap();
    let op = Operator::on(&etcd.endpoints());
    op.ctl("lock a").await.ok();
    assert!(op.ctl("status").await.ok().out.contains("\na "));
    let ran = op.ctl("doctor").await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains(&format!("FAIL  {endpoint}: ")), "{}", ran.out);
    let alive = ran.out.lines().filter(|line| line.starts_with("ok") && line.contains(": etcd 3."));
    assert_eq!(alive.count(), 2, "{}", ran.out);
}

#[tokio::test]
async fn a_watch_says_when_the_store_is_gone_and_goes_on_when_it_is_back() {
    let mut etcd = start(1).await;
    let op = Operator::on(&etcd.endpoints());
    let watch = op.start("status --watch");
    watch.stdout().wait_for(SOON, |line| line == "Max: 1").await.unwrap();
    etcd.members[0].stop().await.unwrap();
    watch.wait_line("store out of reach since ", SOON).await.unwrap();
    etcd.members[0].spawn().unwrap();
    etcd.wait_ready().await.unwrap();
    watch.wait_line("the store answers again", SOON).await.unwrap();
    op.ctl("set-max 5").await.ok();
    watch.stdout().wait_for(SOON, |line| line == "Max: 5").await.unwrap();
    assert_eq!(watch.stderr().len(), 2, "said once each: {:?}", watch.stderr().lines());
}

#[tokio::test]
async fn all_endpoints_dead_are_all_named() {
    // Held and never listened on, so nobody can take them meanwhile.
    let sockets: Vec<_> = (0..2).map(|_| refusing()).collect();
    let urls: Vec<_> = sockets.iter().map(|(url, _)| url.clone()).collect();
    let op = Operator::on(&urls);
    let ran = op.ctl("status").await;
    ran.failed(1, &["the store is out of reach", &urls[0][7..], &urls[1][7..]]);
    let ran = op.ctl("doctor").await;
    assert_eq!(ran.code, 1);
    for url in &urls {
        assert!(ran.out.contains(&format!("FAIL  {url}: ")), "{}", ran.out);
    }
}

/// A port that refuses connections for as long as the socket lives.
fn refusing() -> (String, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (format!("http://{}", socket.local_addr().unwrap()), socket)
}
