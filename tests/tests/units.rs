//! Commands as units of systemd: what the daemon asks of it, and what it makes of the answers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use rebootlock::process::{How, Spec};
use rebootlock_tests::machine::systemd::State;
use rebootlock_tests::machine::{Bus, Systemd};
use rebootlock_tests::{eventually, within};
use rebootlockd::unit::{self, Belongs, NoSystemd};

const SOON: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);

fn sh(script: &str, timeout: Duration) -> Spec {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    let env = vec![("REBOOTLOCK_PHASE".to_owned(), "pre-reboot".to_owned())];
    Spec { argv, env, timeout }
}

async fn machine() -> (Bus, Systemd, unit::Systemd) {
    let bus = Bus::start().await.unwrap();
    let systemd = Systemd::new(bus.address());
    systemd.start().await.unwrap();
    let client = unit::Systemd::on(bus.connect().await.unwrap()).await.unwrap();
    (bus, systemd, client)
}

fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

async fn assert_gone(pid: &str) {
    let gone = async || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) };
    eventually("it is gone", SOON, gone).await.unwrap();
}

#[tokio::test]
async fn without_systemd_on_the_bus_there_is_none() {
    let bus = Bus::start().await.unwrap();
    let client = unit::Systemd::on(bus.connect().await.unwrap()).await;
    assert!(matches!(client, Err(NoSystemd::Absent)));
}

#[tokio::test]
async fn a_unit_has_its_output_its_variables_and_its_exit_code() {
    let (_bus, systemd, client) = machine().await;
    let script = "echo $REBOOTLOCK_PHASE; echo \"$$\" >&2; exit 3";
    let run = client.run("a.service", &sh(script, LONG), Belongs::ToTheCaller).await;
    assert_eq!(run.how, How::Exited(3));
    let started = systemd.started().remove(0);
    assert_eq!(started.argv, ["sh", "-c", script]);
    assert_eq!(run.output.to_string(), format!("pre-reboot\n{}", started.pid));
    assert!(started.environment.contains(&"REBOOTLOCK_PHASE=pre-reboot".to_owned()));
    for property in ["KillMode", "TimeoutStartUSec", "TimeoutStopUSec", "CollectMode", "AddRef"] {
        assert!(started.properties.iter().any(|name| name == property), "{property}");
    }
    let run = client.run("b.service", &sh("kill -9 $$", LONG), Belongs::ToTheCaller).await;
    assert_eq!(run.how, How::Killed(9));
    let run = client.run("c.service", &sh("exit 0", LONG), Belongs::ToTheCaller).await;
    assert_eq!(run.how, How::Exited(0));
}

#[tokio::test]
async fn a_unit_that_outlives_its_deadline_is_ended_with_all_it_started() {
    let (_bus, _systemd, client) = machine().await;
    let script = "trap '' TERM; echo $$; sleep 60 & echo $!; sleep 60; sleep 60";
    let spec = sh(script, Duration::from_secs(1));
    let run = client.run("a.service", &spec, Belongs::ToTheCaller).await;
    assert_eq!(run.how, How::TimedOut);
    let text = run.output.to_string();
    assert_eq!(text.lines().count(), 2, "{text}");
    for pid in text.lines() {
        assert_gone(pid).await;
    }
}

#[tokio::test]
async fn what_a_unit_prints_neither_blocks_it_nor_piles_up() {
    let (_bus, _systemd, client) = machine().await;
    let spec = sh("head -c 20000000 /dev/zero | tr '\\0' x; echo end", LONG);
    let run = client.run("a.service", &spec, Belongs::ToTheCaller).await;
    assert_eq!(run.how, How::Exited(0));
    assert!(run.output.to_string().ends_with("xend"));
    assert_eq!(run.output.dropped(), 20_000_004 - 64 * 1024);
}

#[tokio::test]
async fn a_unit_nobody_waits_for_any_more_is_stopped() {
    let (_bus, systemd, client) = machine().await;
    let mut started = systemd.watch_started();
    let spec = sh("sleep 60; sleep 60", LONG);
    let run =
        tokio::spawn(async move { client.run("a.service", &spec, Belongs::ToTheCaller).await });
    within("the unit", SOON, started.wait_for(|all| all.len() == 1)).await.unwrap().unwrap();
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    assert_gone(&systemd.started()[0].pid.to_string()).await;
}

#[tokio::test]
async fn a_unit_that_belongs_to_itself_goes_on() {
    let (_bus, systemd, client) = machine().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done", file.display());
    let mut started = systemd.watch_started();
    let run = {
        let client = client.clone();
        tokio::spawn(
            async move { client.run("a.service", &sh(&script, LONG), Belongs::ToItself).await },
        )
    };
    within("the unit", SOON, started.wait_for(|all| all.len() == 1)).await.unwrap().unwrap();
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    // Whatever a drop would have ordered has been carried out before this is answered.
    let other = client.run("b.service", &sh("exit 0", LONG), Belongs::ToTheCaller).await;
    assert_eq!(other.how, How::Exited(0));
    assert_eq!(systemd.state("a.service"), Some(State::Activating));
    std::fs::write(&file, "").unwrap();
    let ended = async || match systemd.state("a.service") {
        Some(State::Inactive) => Ok(()),
        state => Err(format!("{state:?}")),
    };
    eventually("its own end", SOON, ended).await.unwrap();
}

#[tokio::test]
async fn what_an_earlier_daemon_left_under_the_name_is_stopped_first() {
    let (_bus, systemd, client) = machine().await;
    let mut started = systemd.watch_started();
    let left = {
        let client = client.clone();
        let spec = sh("sleep 60; sleep 60", LONG);
        tokio::spawn(async move { client.run("a.service", &spec, Belongs::ToItself).await })
    };
    within("the unit", SOON, started.wait_for(|all| all.len() == 1)).await.unwrap().unwrap();
    left.abort();
    let run = client.run("a.service", &sh("echo new", LONG), Belongs::ToTheCaller).await;
    assert_eq!((run.how, run.output.to_string().as_str()), (How::Exited(0), "new"));
    assert!(!lives(&systemd.started()[0].pid.to_string()));
}

#[tokio::test]
async fn an_end_that_nobody_told_is_found_by_asking() {
    let (_bus, systemd, client) = machine().await;
    systemd.tell_nobody();
    let spec = sh("exit 4", LONG);
    let run = client.run("a.service", &spec, Belongs::ToTheCaller);
    assert_eq!(within("the end", SOON * 2, run).await.unwrap().how, How::Exited(4));
}

#[tokio::test]
async fn a_refusal_and_a_bus_that_goes_are_no_success() {
    let (mut bus, systemd, client) = machine().await;
    systemd.refuse_next("org.freedesktop.DBus.Error.AccessDenied", "Permission denied");
    let run = client.run("a.service", &sh("exit 0", LONG), Belongs::ToTheCaller).await;
    let How::NotStarted(why) = run.how else { panic!("{:?}", run.how) };
    assert!(why.contains("Permission denied"), "{why}");
    let missing = Spec { argv: vec!["/no/such".to_owned()], ..sh("", LONG) };
    let run = client.run("a.service", &missing, Belongs::ToTheCaller).await;
    assert!(matches!(run.how, How::NotStarted(_)));

    let mut started = systemd.watch_started();
    let spec = sh("sleep 3", LONG);
    let run =
        tokio::spawn(async move { client.run("b.service", &spec, Belongs::ToTheCaller).await });
    within("the unit", SOON, started.wait_for(|all| all.len() == 1)).await.unwrap().unwrap();
    bus.stop().await.unwrap();
    let run = within("the answer", SOON, run).await.unwrap().unwrap();
    assert!(matches!(run.how, How::NotStarted(_)), "{:?}", run.how);
}

#[tokio::test]
async fn soft_reboots_are_counted_where_systemd_can_do_them() {
    let (_bus, systemd, client) = machine().await;
    assert_eq!(client.soft_reboots().await.unwrap(), Some(0));
    systemd.set_soft_reboots(Some(2));
    assert_eq!(client.soft_reboots().await.unwrap(), Some(2));
    systemd.set_soft_reboots(None);
    assert_eq!(client.soft_reboots().await.unwrap(), None);
}
