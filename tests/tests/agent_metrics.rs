//! The figures of a real agent on a real store: what they say at each step, also after a reload, a
//! restart and a reboot.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use rebootlock::id::{Group, MachineId};
use rebootlock::lock::Scope;
use rebootlock::record::{Stop, UnixTime};
use rebootlock_tests::etcd::{EtcdSetup, system};
use rebootlock_tests::eventually;
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::fleetlock::Gateway;
use rebootlock_tests::machine::logind::{Logind, RebootFailure};
use rebootlock_tests::process::Signal;
use rebootlock_tests::prometheus::http_get;

const HELD: &str = "holder{group=\"default\"} 1";
const FREE: &str = "holder{group=\"default\"} 0";
const HELD_SINCE: &str = "holder_since_timestamp_seconds{group=\"default\"}";
const REQUIRED_SINCE: &str = "reboot_required_since_timestamp_seconds";

/// `DIR` is the machine's folder. A gate that is asked before a slot is closed by the file `closed`,
/// one that is asked of a machine that is back by `unwell`.
const CONFIG: &str = r#"
[agent]
poll_secs = 1
check_interval_secs = 1
warn_users_secs = 0
reboot_deadline_secs = 1
[metrics]
listen = "127.0.0.1:0"
[reboot]
verify_interval_secs = 1
[hooks]
pre_reboot_dir = "DIR/pre"
post_reboot_dir = "DIR/post"
[[detector]]
type = "file"
path = "DIR/reboot-required"
[[gate]]
name = "before"
type = "script"
phases = ["pre-lock"]
command = ["/usr/bin/test", "!", "-e", "DIR/closed"]
[[gate]]
name = "after"
type = "script"
phases = ["verify"]
command = ["/usr/bin/test", "!", "-e", "DIR/unwell"]
"#;

/// Only a store has cooldowns.
const COOLDOWN: &str = "[[group]]\nname = \"default\"\ncooldown_secs = 1\n";

struct Setting {
    look: Onlooker,
    member: Member,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Setting {
    /// An agent that runs, on a store of its own.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let endpoints = [format!("sqlite:{}", folder.path().join("lock.db").display())];
        Self::at(&endpoints, Onlooker::new(&endpoints).unwrap(), folder).await
    }

    async fn at(endpoints: &[String], look: Onlooker, folder: tempfile::TempDir) -> Self {
        let mut member = Member::new("web-1", endpoints, "").await.unwrap();
        let dir = member.machine.dir().to_owned();
        let config = CONFIG.replace("DIR", dir.to_str().unwrap());
        let groups = if endpoints[0].starts_with("sqlite") { COOLDOWN } else { "" };
        member.configure(&(config + groups)).unwrap();
        for phase in ["pre", "post"] {
            std::fs::create_dir(dir.join(phase)).unwrap();
            let hook = dir.join(phase).join("10-drain");
            std::fs::write(&hook, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        member.start().await.unwrap();
        let address = served_at(&mut member).await;
        Self { look, member, address, _folder: folder }
    }

    /// The agent is killed and starts again.
    async fn restart(&mut self) {
        self.member.restart().await.unwrap();
        self.address = served_at(&mut self.member).await;
    }

    /// The machine goes down, and its agent starts again.
    async fn reboot(&mut self) {
        self.member.go_down_and_come_back().await.unwrap();
        self.address = served_at(&mut self.member).await;
    }

    fn logind(&self) -> &Logind {
        &self.member.machine.logind
    }

    fn touch(&self, name: &str) {
        std::fs::write(self.member.machine.dir().join(name), "").unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.member.machine.dir().join(name)).unwrap();
    }

    async fn scrape(&self) -> String {
        http_get(self.address, "/metrics").await.unwrap()
    }

    /// Waits until all of these are shown at once; those that begin with `!` must be missing.
    async fn shows(&self, lines: &[&str]) {
        eventually(&format!("{lines:?} are shown"), SOON, async || {
            let text = self.scrape().await;
            let holds = |line: &&str| match line.strip_prefix('!') {
                Some(series) => value(&text, series).is_none(),
                None => text.lines().any(|shown| shown.strip_prefix("rebootlock_") == Some(*line)),
            };
            match lines.iter().find(|line| !holds(line)) {
                Some(line) => Err(format!("{line} not in {text}")),
                None => Ok(()),
            }
        })
        .await
        .unwrap();
    }

    /// Waits until there is a value that is not 0, and returns it.
    async fn is_not_zero(&self, series: &str) -> i64 {
        eventually(&format!("{series} is shown"), SOON, async || {
            let text = self.scrape().await;
            value(&text, series).filter(|value| *value != 0).ok_or(text)
        })
        .await
        .unwrap()
    }
}

async fn served_at(member: &mut Member) -> SocketAddr {
    let said = member.wait_log("metrics are served").await.unwrap();
    let address = said.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    address.parse().unwrap()
}

/// The value of a series. `holder` stands for the first of that family.
fn value(text: &str, series: &str) -> Option<i64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix("rebootlock_")?.strip_prefix(series)?;
        let at_its_end = rest.starts_with(' ') || rest.starts_with('{');
        rest.rsplit_once(' ').filter(|_| at_its_end)?.1.parse().ok()
    })
}

/// What began by then would begin later if it began again.
async fn clock_passes(since: i64) {
    let passes = async || if UnixTime::now().0 > since { Ok(()) } else { Err("not yet") };
    eventually("the clock moves on", SOON, passes).await.unwrap();
}

fn stop(since: i64) -> Stop {
    Stop {
        by: "ann".to_owned(),
        reason: None,
        since: UnixTime(since),
        until: None,
        unknown: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_and_holds_are_shown_to_an_idle_machine_too() {
    let setting = Setting::new().await;
    let machine = MachineId::new("web-1").unwrap();
    let group = Scope::Group(Group::default());
    let free =
        ["paused{scope=\"fleet\"} 0", "paused{scope=\"group\",group=\"default\"} 0", "held 0"];
    setting.shows(&["state{state=\"idle\"} 1", FREE, "overdue 0", "store_up 1"]).await;
    setting.shows(&free).await;
    setting.shows(&["reboot_required 0", "window_open 1", "!queue_position", "!gate_closed"]).await;

    setting.look.locks.pause(&Scope::Fleet, &stop(1_397_496_396)).await.unwrap();
    setting.look.locks.pause(&group, &stop(1_397_496_397)).await.unwrap();
    setting
        .shows(&[
            "paused{scope=\"fleet\"} 1",
            "paused_since_timestamp_seconds{scope=\"fleet\"} 1397496396",
            "paused{scope=\"group\",group=\"default\"} 1",
            "paused_since_timestamp_seconds{scope=\"group\",group=\"default\"} 1397496397",
        ])
        .await;
    setting.look.locks.resume(&Scope::Fleet).await.unwrap();
    setting.look.locks.resume(&group).await.unwrap();
    setting.shows(&free).await;
    setting.shows(&["!paused_since_timestamp_seconds"]).await;

    setting.look.locks.hold(&machine, &stop(1)).await.unwrap();
    setting.shows(&["held 1", "state{state=\"idle\"} 1"]).await;
    setting.look.locks.unhold(&machine).await.unwrap();
    setting.shows(&["held 0"]).await;
    // Whoever takes the slot of this machine, it is one less for the others.
    setting.look.lock("web-1").await.unwrap();
    setting.shows(&[HELD]).await;
    setting.look.unlock("web-1").await.unwrap();
    setting.shows(&[FREE, "!holder_since_timestamp_seconds"]).await;

    let detected = "detector_evaluations_total{phase=\"monitor\",result=\"clear\"}";
    setting.is_not_zero(detected).await;
    let written = "cluster_health_updates_total{status=\"healthy\",result=\"success\"}";
    setting.is_not_zero(written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_asked_or_waited_for_any_more_is_not_shown() {
    let mut setting = Setting::new().await;
    setting.touch("closed");
    setting.touch("reboot-required");
    setting.shows(&["reboot_required 1", "gate_closed{gate=\"before\"} 1"]).await;
    let required_since = setting.is_not_zero(REQUIRED_SINCE).await;
    clock_passes(required_since).await;
    let goes_on = format!("{REQUIRED_SINCE} {required_since}");
    setting.member.agent().unwrap().signal(Signal::HUP).unwrap();
    setting.member.wait_log("configuration read again").await.unwrap();
    setting.shows(&[&goes_on, "gate_closed{gate=\"before\"} 1"]).await;
    setting.restart().await;
    setting.shows(&[&goes_on, "gate_closed{gate=\"before\"} 1"]).await;
    setting.remove("reboot-required");
    setting.shows(&["reboot_required 0", "!gate_closed", "state{state=\"idle\"} 1"]).await;
    setting.shows(&["!reboot_required_since_timestamp_seconds"]).await;

    setting.look.lock("db-1").await.unwrap();
    setting.touch("reboot-required");
    setting.shows(&["gate_closed{gate=\"before\"} 1"]).await;
    let since = setting.is_not_zero(REQUIRED_SINCE).await;
    assert!(since > required_since, "{since}");
    setting.remove("closed");
    let queued = "queue_position{group=\"default\"} 1";
    setting.shows(&[queued, "gate_closed{gate=\"before\"} 0", FREE]).await;
    // Who is paused leaves the queue.
    setting.look.pause("ann", "no").await.unwrap();
    setting.shows(&["!queue_position", "paused{scope=\"fleet\"} 1"]).await;
    setting.look.resume().await.unwrap();
    setting.shows(&[queued, "paused{scope=\"fleet\"} 0"]).await;
    setting.remove("reboot-required");
    setting.shows(&["!queue_position", "!gate_closed", FREE, "state{state=\"idle\"} 1"]).await;
    setting.shows(&["lock_attempts_total{result=\"canceled\"} 1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_shown_from_its_first_moment_to_its_last() {
    let mut setting = Setting::new().await;
    setting.shows(&[FREE]).await;
    let upgrade = setting.logind().add_inhibitor("shutdown", "apt", "upgrading", "block");
    let upgrade = upgrade.await.unwrap();
    setting.touch("reboot-required");
    setting.shows(&[HELD, "state{state=\"holding\"} 1"]).await;
    let record = setting.look.record("web-1").await.unwrap().unwrap();
    let since = format!("{HELD_SINCE} {}", record.start_time.0);
    setting
        .shows(&[&since, "cooldown_checks_total{phase=\"pre-lock\",result=\"inactive\"} 1"])
        .await;
    clock_passes(record.start_time.0).await;
    setting.restart().await;
    setting.shows(&[HELD, &since, "state{state=\"holding\"} 1"]).await;

    // The order is given and not taken, again and again.
    let denied = "org.freedesktop.DBus.Error.AccessDenied".to_owned();
    setting.logind().fail_reboots(Some(RebootFailure::Error(denied, "not today".to_owned())));
    setting.logind().remove_inhibitor(upgrade).await.unwrap();
    let ran = "hook_runs_total{hook=\"10-drain\",phase=\"pre-reboot\",result=\"success\"} 1";
    setting.shows(&[ran, HELD, &since, "overdue 1"]).await;
    setting.is_not_zero("reboots_ordered_total").await;
    stays_overdue(&setting, setting.logind().attempts() + 2).await;
    setting.restart().await;
    setting.shows(&["overdue 1"]).await;
    stays_overdue(&setting, setting.logind().attempts() + 1).await;

    // Not to be asked for again at once.
    setting.touch("closed");
    setting.look.unlock("web-1").await.unwrap();
    setting.shows(&[FREE, "!holder_since_timestamp_seconds", "overdue 0"]).await;
    let undone = "hook_runs_total{hook=\"10-drain\",phase=\"post-reboot\",result=\"success\"} 1";
    setting.shows(&[undone, FREE, "gate_closed{gate=\"before\"} 1"]).await;

    setting.logind().fail_reboots(None);
    setting.remove("closed");
    setting.logind().wait_reboot(SOON).await.unwrap();
    let record = setting.look.record("web-1").await.unwrap().unwrap();
    let since = format!("{HELD_SINCE} {}", record.start_time.0);
    setting.shows(&[HELD, &since]).await;
    setting.remove("reboot-required");
    setting.touch("unwell");
    setting.reboot().await;
    let failed = "gate_closed{gate=\"after\"} 1";
    setting.shows(&[HELD, &since, failed, "state{state=\"verifying\"} 1", "overdue 0"]).await;
    setting.is_not_zero("verifications_total{result=\"failed\"}").await;
    setting.remove("unwell");
    setting
        .shows(&[
            FREE,
            "state{state=\"idle\"} 1",
            "!gate_closed",
            "!holder_since_timestamp_seconds",
            "verifications_total{result=\"passed\"} 1",
            "verification_failed 0",
            "cooldown_activations_total{result=\"success\"} 1",
            "lock_release_seconds_count{result=\"success\"} 1",
            undone,
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_a_fleetlock_server_is_shown_as_the_agent_remembers_it() {
    let gateway = Gateway::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut setting = Setting::at(&gateway.endpoint(), gateway.look().unwrap(), folder).await;
    // Nobody says whether a slot is left from before: it is given back first.
    setting.shows(&[FREE, "store_up 1", "!paused", "!held"]).await;
    let upgrade = setting.logind().add_inhibitor("shutdown", "apt", "upgrading", "block");
    let upgrade = upgrade.await.unwrap();
    setting.touch("reboot-required");
    setting.shows(&[HELD, "state{state=\"holding\"} 1"]).await;
    let since = setting.is_not_zero(HELD_SINCE).await;
    clock_passes(since).await;
    let since = format!("{HELD_SINCE} {since}");
    setting.restart().await;
    setting.shows(&[HELD, &since, "state{state=\"holding\"} 1"]).await;
    setting.logind().remove_inhibitor(upgrade).await.unwrap();
    setting.logind().wait_reboot(SOON).await.unwrap();
    setting.remove("reboot-required");
    setting.touch("unwell");
    setting.reboot().await;
    setting.shows(&[HELD, &since, "state{state=\"verifying\"} 1"]).await;
    setting.remove("unwell");
    setting.shows(&[FREE, "state{state=\"idle\"} 1", "!holder_since_timestamp_seconds"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_a_slot_stays_and_nobody_knows_of_pauses() {
    let mut etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::at(&etcd.endpoints(), look, folder).await;
    setting.look.lock("web-1").await.unwrap();
    let known = [HELD, "store_up 1", "paused{scope=\"fleet\"} 0", "held 0"];
    setting.shows(&known).await;
    etcd.members[0].stop().await.unwrap();
    setting.shows(&[HELD, "store_up 0", "!paused", "!held"]).await;
    etcd.members[0].spawn().unwrap();
    etcd.wait_ready().await.unwrap();
    setting.shows(&known).await;
    setting.look.unlock("web-1").await.unwrap();
    setting.shows(&[FREE]).await;
}

/// Until so many orders were given, each look shows it while the machine is to go down.
async fn stays_overdue(setting: &Setting, orders: usize) {
    eventually("another order", SOON, async || {
        let text = setting.scrape().await;
        let state = |name| value(&text, &format!("state{{state=\"{name}\"}}")) == Some(1);
        if state("rebooting") || state("permitting") {
            assert_eq!(value(&text, "overdue"), Some(1), "{text}");
        }
        if setting.logind().attempts() >= orders { Ok(()) } else { Err("not yet") }
    })
    .await
    .unwrap();
}
