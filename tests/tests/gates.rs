//! Gates against what they look at: a real Prometheus, a server with TLS, and the stand-ins for
//! logind and systemd on a private bus.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rebootlock::config::{Fragment, Settings};
use rebootlock_tests::etcd::{EtcdSetup, system};
use rebootlock_tests::eventually;
use rebootlock_tests::machine::Machine;
use rebootlock_tests::machine::logind::Session;
use rebootlock_tests::machine::systemd::Systemd;
use rebootlock_tests::pki::Pki;
use rebootlock_tests::prometheus::Prometheus;
use rebootlockd::bus::Address;
use rebootlockd::environment::Facts;
use rebootlockd::gate::{Gates, Phase};

/// For what a server does once a second.
const SOON: Duration = Duration::from_secs(30);

fn gates_on(bus: &str, text: &str) -> Gates {
    let text = format!("[[gate]]\nname = \"x\"\n{text}");
    let fragment = Fragment::parse(Path::new("test.toml"), &text).unwrap();
    Gates::on_bus(&Settings::decide(fragment).unwrap().gates, Address::At(bus.to_owned()))
}

async fn sentence_on(bus: &str, text: &str) -> Option<String> {
    let facts = Facts { hostname: "web-1".into(), ..Facts::default() };
    gates_on(bus, text).ask(Phase::PreLock, &facts).await.sentence()
}

async fn sentence(text: &str) -> Option<String> {
    sentence_on("unix:path=/nonexistent", text).await
}

fn closed(why: &str) -> Option<String> {
    Some(format!("gate x is closed: {why}"))
}

#[tokio::test]
async fn alerts_of_a_real_prometheus_close() {
    let rules = r#"
  - { alert: RebootRequired, expr: vector(1) }
  - { alert: DiskFull, expr: vector(1), labels: { severity: critical, instance: "web-1:9100" } }
  - { alert: Latency, expr: vector(1), labels: { severity: warning, instance: "web-2:9100" } }
  - { alert: Slow, expr: vector(1), for: 1h }
  - { alert: Never, expr: vector(1) > 2 }
"#;
    let mut prometheus = Prometheus::alerting(rules).await.unwrap();
    let gate = format!("type = \"prometheus\"\nurl = \"{}\"\n", prometheus.url());
    eventually("all alerts are known", SOON, async || {
        match sentence(&format!("{gate}pending = true")).await {
            said if said == closed("alerts DiskFull, Latency, RebootRequired, Slow (pending)") => {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    for (more, said) in [
        ("", closed("alerts DiskFull, Latency, RebootRequired")),
        ("ignore = \"RebootRequired|Disk.*\"", closed("alert Latency")),
        ("only = \"Latency\"", closed("alert Latency")),
        ("only = \"Laten\"", None),
        ("only = \"Slow\"", None),
        ("labels = { severity = \"critical\" }", closed("alert DiskFull")),
        ("labels = { severity = \"~warning|critical\" }", closed("alerts DiskFull, Latency")),
        ("labels = { instance = \"~${REBOOTLOCK_HOSTNAME}(:[0-9]+)?\" }", closed("alert DiskFull")),
        ("labels = { instance = \"\" }", closed("alert RebootRequired")),
        ("query = \"vector(1) > 2\"", None),
        ("query = \"scalar(vector(0))\"", None),
        ("query = \"scalar(vector(3))\"", closed("the query gives 3")),
    ] {
        let gate = format!("{gate}{more}");
        assert_eq!(sentence(&gate).await, said, "{more}");
    }
    // What is written down comes a moment after what is known.
    let own = "query = 'ALERTS{instance=~\"${REBOOTLOCK_HOSTNAME}:.*\",alertstate=\"firing\"} * 0'";
    let found = closed(
        "the query finds {\"alertname\":\"DiskFull\",\"alertstate\":\"firing\",\
         \"instance\":\"web-1:9100\",\"severity\":\"critical\"} = 0",
    );
    eventually("the query finds the alert", SOON, async || {
        match sentence(&format!("{gate}{own}")).await {
            said if said == found => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let wrong = sentence(&format!("{gate}query = \"sum(\"")).await.unwrap();
    assert!(wrong.starts_with("gate x cannot be checked: answers 400: "), "{wrong}");
    let matrix = sentence(&format!("{gate}query = \"ALERTS[5m]\"")).await.unwrap();
    assert!(matrix.contains("the query gives a matrix"), "{matrix}");

    prometheus.process.freeze().unwrap();
    assert_eq!(
        sentence(&format!("{gate}timeout_secs = 1")).await.as_deref(),
        Some("gate x cannot be checked: no answer within 1 s")
    );
    prometheus.process.kill().await.unwrap();
    let gone = sentence(&gate).await.unwrap();
    assert!(gone.starts_with("gate x cannot be checked: cannot connect to 127.0.0.1:"), "{gone}");
}

#[tokio::test]
async fn a_server_must_have_a_certificate_of_the_authority_that_is_named() {
    let pki = Arc::new(Pki::new().unwrap());
    let etcd = EtcdSetup::new(&system().unwrap()).tls(&pki, false).start().await.unwrap();
    let gate = |ca: Option<&Path>| {
        let url = &etcd.endpoints()[0];
        let ca = ca.map_or(String::new(), |ca| format!("ca_file = {ca:?}\n"));
        format!(
            "type = \"http\"\nurl = \"{url}/health\"\njson_pointer = \"/health\"\n\
             equals = \"true\"\n{ca}"
        )
    };
    assert_eq!(sentence(&gate(Some(&pki.ca()))).await, None);
    for (ca, said) in [
        (Some(pki.other_ca()), "no TLS with 127.0.0.1:"),
        (Some(pki.server_key()), "no certificate is in it"),
        (Some("/nonexistent".into()), "ca_file /nonexistent: "),
        (None, ""),
    ] {
        let really = sentence(&gate(ca.as_deref())).await.unwrap();
        assert!(really.starts_with("gate x cannot be checked: "), "{really}");
        assert!(really.contains(said), "{really}");
    }
}

#[tokio::test]
async fn the_state_of_the_service_manager_counts() {
    let machine = Machine::new("m1").await.unwrap();
    let bus = machine.bus.address();
    let usual = "type = \"systemd\"";
    let nobody = sentence_on(bus, usual).await.unwrap();
    assert!(nobody.starts_with("gate x cannot be checked: systemd does not answer: "), "{nobody}");

    let systemd = Systemd::new(bus);
    systemd.start().await.unwrap();
    assert_eq!(sentence_on(bus, usual).await, None);
    systemd.say("degraded", &["motd-news.service", "postgresql.service"]);
    assert_eq!(
        sentence_on(bus, usual).await,
        closed("units motd-news.service, postgresql.service have failed")
    );
    let some = "type = \"systemd\"\nignore_units = [\"motd-*\", \"certbot.service\"]";
    assert_eq!(sentence_on(bus, some).await, closed("unit postgresql.service has failed"));
    assert_eq!(sentence_on(bus, "type = \"systemd\"\nfailed_units = \"ignore\"").await, None);
    systemd.say("stopping", &[]);
    assert_eq!(sentence_on(bus, usual).await, closed("the system is stopping"));
    systemd.say("starting", &[]);
    assert_eq!(sentence_on(bus, usual).await, closed("the system is starting"));
    let early = "type = \"systemd\"\nstates = [\"starting\", \"running\"]";
    assert_eq!(sentence_on(bus, early).await, None);
}

#[tokio::test]
async fn inhibitors_count_by_what_they_inhibit_and_how() {
    let machine = Machine::new("m1").await.unwrap();
    let bus = machine.bus.address();
    let usual = "type = \"inhibitor\"";
    assert_eq!(sentence_on(bus, usual).await, None);
    for (what, who, mode) in [
        ("shutdown", "NetworkManager", "delay"),
        ("sleep", "player", "block"),
        ("shutdown", "desktop", "block-weak"),
    ] {
        machine.logind.add_inhibitor(what, who, "because", mode).await.unwrap();
    }
    assert_eq!(sentence_on(bus, usual).await, None);
    machine.logind.add_inhibitor("sleep:shutdown", "backup", "nightly", "block").await.unwrap();
    for (more, said) in [
        ("", closed("backup blocks shutdown (nightly)")),
        ("ignore_who = [\"backup\"]", None),
        (
            "ignore_who = [\"backup\"]\nmode = [\"block\", \"block-weak\", \"delay\"]",
            closed("NetworkManager delays shutdown (because), desktop blocks shutdown (because)"),
        ),
        ("what = [\"sleep\"]\nignore_who = [\"backup\"]", closed("player blocks sleep (because)")),
    ] {
        assert_eq!(sentence_on(bus, &format!("{usual}\n{more}")).await, said, "{more}");
    }
    machine.logind.stop().await;
    let gone = sentence_on(bus, usual).await.unwrap();
    assert!(gone.starts_with("gate x cannot be checked: logind does not answer: "), "{gone}");
}

#[tokio::test]
async fn users_who_are_logged_in_close() {
    let machine = Machine::new("m1").await.unwrap();
    let (bus, logind) = (machine.bus.address(), &machine.logind);
    let usual = "type = \"sessions\"";
    let greeter = Session { class: "greeter".into(), ..Session::ssh("gdm", "tty1") };
    logind.add(greeter).await.unwrap();
    let leaving = Session { state: "closing".into(), ..Session::ssh("eve", "pts/9") };
    logind.add(leaving).await.unwrap();
    assert_eq!(sentence_on(bus, usual).await, None);

    // Since the machine is up: long enough ago for any machine that runs this.
    let idle =
        Session { idle_since: Some(Duration::from_micros(1)), ..Session::ssh("bob", "pts/1") };
    logind.add(idle).await.unwrap();
    let ada = logind.add_session("ada", "pts/0").await.unwrap();
    logind.add_session("ada", "").await.unwrap();
    for (more, said) in [
        ("", closed("ada (pts/0), bob (pts/1) are logged in")),
        ("max = 1", closed("ada (pts/0), bob (pts/1) are logged in")),
        ("max = 2", None),
        ("ignore_users = [\"bob\"]", closed("ada (pts/0) is logged in")),
        ("idle_secs = 1", closed("ada (pts/0) is logged in")),
        ("idle_secs = 31536000", closed("ada (pts/0), bob (pts/1) are logged in")),
    ] {
        assert_eq!(sentence_on(bus, &format!("{usual}\n{more}")).await, said, "{more}");
    }
    logind.remove_session(&ada).await.unwrap();
    assert_eq!(
        sentence_on(bus, &format!("{usual}\nidle_secs = 1")).await,
        closed("ada is logged in")
    );
    logind.stop().await;
    let gone = sentence_on(bus, usual).await.unwrap();
    assert!(gone.starts_with("gate x cannot be checked: logind does not answer: "), "{gone}");
}

#[tokio::test]
async fn without_a_bus_nothing_opens() {
    for of_type in ["systemd", "inhibitor", "sessions"] {
        let said = sentence(&format!("type = \"{of_type}\"")).await.unwrap();
        assert!(said.starts_with("gate x cannot be checked: "), "{said}");
    }
}
