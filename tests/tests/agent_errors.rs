//! What is wrong with the way to the store, or with what the daemon was told: it names the place
//! and the cause, and goes on trying where that may help.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;

use rebootlock_tests::binaries;
use rebootlock_tests::etcd::{EtcdCluster, EtcdSetup, system};
use rebootlock_tests::fleet::{Member, Onlooker, SOON};
use rebootlock_tests::pki::Pki;
use rebootlock_tests::process::{Process, Signal};
use tokio::process::Command;

const PREFIX: &str = "coreos.com/updateengine/rebootlock";

/// Nothing listens there.
const DEAD: &str = "http://127.0.0.1:1";

async fn hang_up(member: &mut Member, config: &str) {
    member.configure(config).unwrap();
    member.agent().unwrap().signal(Signal::HUP).unwrap();
    member.wait_log("configuration read again").await.unwrap();
}

/// The daemon's complaint about the store, which names it, and which the status repeats.
async fn complaint(member: &mut Member, cause: &str) -> String {
    let line = member.wait_log(cause).await.unwrap();
    member.wait_status(cause).await.unwrap();
    assert!(member.agent().unwrap().is_running());
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_authority_is_named_and_the_right_one_put_in_by_a_reload() {
    let pki = Arc::new(Pki::new().unwrap());
    let etcd = EtcdSetup::new(&system().unwrap()).tls(&pki, false).start().await.unwrap();
    let wrong = format!("[store]\nca_file = {:?}\n", pki.other_ca());
    let mut member = Member::new("web-1", &etcd.endpoints(), &wrong).await.unwrap();
    member.start().await.unwrap();
    let said = complaint(&mut member, "the server's certificate is not signed by").await;
    assert!(said.contains(etcd.members[0].endpoint()) && said.contains("other-ca.pem"), "{said}");
    hang_up(&mut member, &format!("[store]\nca_file = {:?}\n", pki.ca())).await;
    member.machine.update_engine.need_reboot().await.unwrap();
    member.reboot_and_give_back().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_client_certificate_is_named() {
    let pki = Arc::new(Pki::new().unwrap());
    let etcd = EtcdSetup::new(&system().unwrap()).tls(&pki, true).start().await.unwrap();
    let config = format!("[store]\nca_file = {:?}\n", pki.ca());
    let mut member = Member::new("web-1", &etcd.endpoints(), &config).await.unwrap();
    member.start().await.unwrap();
    let said = complaint(&mut member, "the server demands a client certificate").await;
    assert!(said.contains(etcd.members[0].endpoint()), "{said}");
}

/// An etcd with access control, and a machine that comes as `agent` with this password.
async fn guarded(prefix: &str, password: &str) -> (EtcdCluster, Member, String) {
    let mut etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
    etcd.add_user("agent", "secret", prefix).await.unwrap();
    etcd.enable_auth("root").await.unwrap();
    let member = Member::new("web-1", &etcd.endpoints(), "").await.unwrap();
    let file = member.machine.dir().join("password");
    std::fs::write(&file, format!("{password}\n")).unwrap();
    let config = format!("[store]\nusername = \"agent\"\npassword_file = {file:?}\n");
    member.configure(&config).unwrap();
    (etcd, member, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named_and_never_shown() {
    let (etcd, mut member, config) = guarded(PREFIX, "sesame").await;
    member.start().await.unwrap();
    let cause = "etcd does not accept the user name or password of user agent";
    let said = complaint(&mut member, cause).await;
    assert!(said.contains(etcd.members[0].endpoint()), "{said}");
    assert_eq!(member.count_log("sesame").unwrap(), 0);
    std::fs::write(member.machine.dir().join("password"), "secret\n").unwrap();
    hang_up(&mut member, &config).await;
    member.machine.update_engine.need_reboot().await.unwrap();
    member.reboot_and_give_back().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named_and_used_as_soon_as_it_is_granted() {
    let (etcd, mut member, _) = guarded("elsewhere/", "secret").await;
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    let said = complaint(&mut member, "user agent may not read").await;
    assert!(said.contains(etcd.members[0].endpoint()) && said.contains(PREFIX), "{said}");
    let grant = ["role", "grant-permission", "agent", "--prefix=true", "readwrite", PREFIX];
    etcd.etcdctl(&grant).await.unwrap();
    member.reboot_and_give_back().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_endpoints_dead_does_not_matter_and_all_of_them_are_named() {
    let mut etcd = EtcdSetup::new(&system().unwrap()).start().await.unwrap();
    let look = Onlooker::new(&etcd.endpoints()).unwrap();
    let endpoints = [DEAD.to_owned(), etcd.members[0].endpoint().to_owned()];
    let mut member = Member::new("web-1", &endpoints, "").await.unwrap();
    member.start().await.unwrap();
    member.machine.update_engine.need_reboot().await.unwrap();
    member.reboot_and_give_back().await.unwrap();
    look.wait_free().await.unwrap();
    assert_eq!(member.count_log("WARN").unwrap(), 0);
    etcd.members[0].stop().await.unwrap();
    member.restart().await.unwrap();
    let said = complaint(&mut member, "connection refused").await;
    assert!(endpoints.iter().all(|endpoint| said.contains(endpoint)), "{said}");
}

/// Exit code and everything said on standard error.
async fn run(command: Command) -> (i32, String) {
    let mut process = Process::spawn("rebootlockd", command).unwrap();
    let code = process.wait_exit(SOON).await.unwrap().code().unwrap();
    (code, process.stderr().lines().join("\n"))
}

async fn member() -> Member {
    Member::new("web-1", &[DEAD.to_owned()], "").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_flags_exit_64() {
    let member = member().await;
    for (flags, said) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["--strategy", "maybe"], "etcd-lock"),
        (&["--endpoint", "127.0.0.1:2379"], "expected http://host:2379"),
        (&["--timeout-secs", "soon"], "soon"),
        (&["--group", ""], "group name is empty"),
    ] {
        let mut command = member.command().unwrap();
        command.args(flags);
        let (code, stderr) = run(command).await;
        assert_eq!(code, 64, "{flags:?}: {stderr}");
        assert!(stderr.contains(said), "{flags:?}: {stderr}");
    }
    let bare = member.machine.command(&binaries::path("rebootlockd").unwrap());
    assert_eq!(run(bare).await.0, 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_configuration_exits_2_with_file_line_and_suggestion() {
    let member = member().await;
    for (config, said) in [
        (
            "[store]\nendpont = []\n",
            "rebootlock.toml:2:1: unknown key `endpont` in [store]; did you mean `endpoints`?",
        ),
        (
            "[agent]\nstrategy = \"of\"\n",
            "rebootlock.toml:2:12: `strategy`: unknown value `of`; did you mean `off`?",
        ),
        ("[agent]\npoll_secs = \"1\"\n", "rebootlock.toml:2:13: `poll_secs`: invalid type: string"),
        ("[agent\n", "rebootlock.toml:1:"),
        ("[[window]]\nstart = \"25:00\"\nlength = \"1h\"\n", "\"25:00\" is not a time"),
        ("[store]\nusername = \"agent\"\n", "store.username: a user name needs a password_file"),
        (
            "[store]\nusername = \"a\"\npassword_file = \"/nonexistent/p\"\n",
            "cannot read /nonexistent/p",
        ),
        (
            "[log]\nlevel = \"loud=very\"\n",
            "rebootlock.toml:2:9: `level`: \"loud=very\" is no level",
        ),
    ] {
        member.configure(config).unwrap();
        let (code, stderr) = run(member.command().unwrap()).await;
        assert_eq!(code, 2, "{config}: {stderr}");
        assert!(stderr.contains(said), "{config}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_missing_or_hold_something_else_exit_2_and_are_named() {
    let member = member().await;
    let odd = member.machine.dir().join("odd");
    std::fs::write(&odd, "uninitialized\n").unwrap();
    let odd = odd.to_str().unwrap();
    for (flag, file, said) in [
        ("--config", "/nonexistent/c", "cannot read /nonexistent/c"),
        ("--machine-id-file", "/nonexistent/m", "cannot read the machine id from /nonexistent/m"),
        ("--boot-id-file", "/nonexistent/b", "cannot read the boot id from /nonexistent/b"),
        ("--machine-id-file", odd, "the machine has no id yet"),
        ("--boot-id-file", "/dev/null", "/dev/null does not hold a boot id"),
    ] {
        // A flag may come only once, so not after those of the machine.
        let program = binaries::path("rebootlockd").unwrap();
        let mut command = member.machine.command(&program);
        let mut flags = [
            ("--config", "/dev/null".to_owned()),
            ("--machine-id-file", member.machine.machine_id_file().display().to_string()),
            ("--boot-id-file", member.machine.boot_id_file().display().to_string()),
            ("--coordinator-file", member.machine.coordinator_file().display().to_string()),
            ("--state-dir", member.machine.state_dir().display().to_string()),
        ];
        for known in flags.iter_mut().filter(|(name, _)| *name == flag) {
            known.1 = file.to_owned();
        }
        command.arg("run").args(["--endpoint", DEAD]);
        command.args(flags.iter().flat_map(|(name, value)| [*name, value.as_str()]));
        let (code, stderr) = run(command).await;
        assert_eq!(code, 2, "{flag} {file}: {stderr}");
        assert!(stderr.contains(said), "{flag} {file}: {stderr}");
    }
    let mut command = member.command().unwrap();
    command.args(["--etcd-cafile", "/nonexistent/ca.pem", "--endpoint", "https://127.0.0.1:1"]);
    let (code, stderr) = run(command).await;
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("/nonexistent/ca.pem"), "{stderr}");
}
