//! `rebootlockd simulate`: what the detectors of a machine say, without any store.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rebootlock_tests::fleet::SOON;
use rebootlock_tests::process::{Process, Signal};
use rebootlock_tests::{binaries, eventually};
use serde_json::Value;
use tokio::process::Command;

struct Machine {
    folder: tempfile::TempDir,
}

/// Exit code, standard output, standard error.
type Said = (i32, String, String);

impl Machine {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A detector of files, and the file itself if it is to be there.
    fn marker(&self, there: bool) -> String {
        let path = self.path("reboot-required");
        if there {
            std::fs::write(&path, "").unwrap();
        }
        format!("[[detector]]\nname = \"marker\"\ntype = \"file\"\npath = {path:?}\n")
    }

    fn start(&self, config: &str, flags: &[&str]) -> Process {
        let file = self.path("rebootlock.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(binaries::path("rebootlockd").unwrap());
        command.arg("simulate").arg("--config").arg(file).args(flags);
        Process::spawn("simulate", command).unwrap()
    }

    async fn simulate(&self, config: &str, flags: &[&str]) -> Said {
        let mut process = self.start(config, flags);
        let code = process.wait_exit(SOON).await.unwrap().code().unwrap();
        (code, process.stdout().lines().join("\n"), process.stderr().lines().join("\n"))
    }

    async fn json(&self, config: &str) -> (i32, Value) {
        let (code, stdout, stderr) = self.simulate(config, &["--output", "json"]).await;
        (code, serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}")))
    }
}

fn sh(name: &str, script: &str) -> String {
    format!(
        "[[detector]]\nname = {name:?}\ntype = \"command\"\nreboot_needed_codes = [1]\n\
         command = [\"sh\", \"-c\", {script:?}]\n"
    )
}

const MISSING: &str = "[[detector]]\nname = \"vendor\"\ntype = \"command\"\n\
                       command = [\"/nonexistent/needs-reboot\"]\nreboot_needed_codes = [1]\n";

/// Whether a process is gone, or dead and not yet collected by whoever inherited it.
fn ended(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.map_or(true, |stat| stat.rsplit(')').next().unwrap().trim().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_lists_what_is_configured_and_what_each_says() {
    let machine = Machine::new();
    let config = machine.marker(true)
        + &sh("patched", "printf 'a\\033[31mpatch\\n'; echo more >&2; exit 0")
        + "[[detector]]\ntype = \"uptime\"\nenabled = false\n\
           [[detector]]\ntype = \"update-engine\"\nenabled = false\n\
           [store]\nendpoints = [\"http://127.0.0.1:1\"]\nusername = \"u\"\n\
           password_file = \"/nonexistent/password\"\n";
    let (code, stdout, stderr) = machine.simulate(&config, &[]).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let there = format!("{} is there", machine.path("reboot-required").display());
    for line in [
        "  update-engine (off)",
        "  marker (file, 30 s)",
        "  patched (command, 30 s)",
        "  uptime (uptime, off)",
        "    | a?[31mpatch",
        "    | more",
        &format!("Overall: a reboot is wanted: marker: {there}"),
    ] {
        assert!(stdout.lines().any(|said| said == line), "{line:?} in\n{stdout}");
    }
    assert!(stdout.contains(&format!("marker: reboot needed: {there} (0.")), "{stdout}");
    assert!(stdout.contains("patched: no reboot needed (0."), "{stdout}");
    assert!(stdout.contains(" s, exit code 0)"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_read_the_same_as_json() {
    let machine = Machine::new();
    let config = machine.marker(false) + &sh("patched", "echo patch; exit 1");
    let (code, said) = machine.json(&config).await;
    assert_eq!(code, 0);
    assert_eq!(said["verdict"], "wanted");
    assert_eq!(said["reason"], "patched: patch");
    assert_eq!(said["updateEngine"], true);
    let [marker, patched] = &said["detectors"].as_array().unwrap()[..] else { panic!("{said}") };
    assert_eq!((&marker["name"], &marker["verdict"]), (&"marker".into(), &"clear".into()));
    assert_eq!(marker["exitCode"], Value::Null);
    assert_eq!((&patched["type"], &patched["exitCode"]), (&"command".into(), &1.into()));
    assert_eq!(patched["output"], "patch");
    assert!(patched["seconds"].as_f64().unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_detectors_there_is_nothing_to_want() {
    let (code, stdout, _) = Machine::new().simulate("", &[]).await;
    assert_eq!(code, 0);
    assert!(stdout.ends_with("Overall: no reboot is wanted"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_beside_a_reason_exits_6_and_is_named() {
    let machine = Machine::new();
    let (code, stdout, _) = machine.simulate(&(machine.marker(true) + MISSING), &[]).await;
    assert_eq!(code, 6, "{stdout}");
    let failed = "vendor: failed: cannot run \"/nonexistent/needs-reboot\": No such file";
    assert!(stdout.contains(failed), "{stdout}");
    assert!(stdout.contains("Overall: unknown, because of vendor;"), "{stdout}");
    assert!(stdout.contains("marker: reboot needed: "), "{stdout}");
    let (code, said) = machine.json(&(machine.marker(true) + MISSING)).await;
    assert_eq!((code, &said["verdict"], &said["reason"]), (6, &"unknown".into(), &Value::Null));
    assert_eq!(said["failed"], serde_json::json!(["vendor"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_one_that_is_missing_leaves_the_others_their_say() {
    let machine = Machine::new();
    let config = machine.marker(true) + MISSING + "optional = true\n";
    let (code, stdout, _) = machine.simulate(&config, &[]).await;
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains("vendor: failed, left out: cannot run"), "{stdout}");
    assert!(stdout.contains("Overall: a reboot is wanted: marker: "), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_killed_by_a_signal_is_never_a_yes() {
    let machine = Machine::new();
    let (code, said) = machine.json(&sh("killed", "kill -SEGV $$")).await;
    assert_eq!((code, &said["verdict"]), (6, &"unknown".into()));
    let [killed] = &said["detectors"].as_array().unwrap()[..] else { panic!("{said}") };
    assert_eq!(killed["reason"], "killed by signal 11");
    assert_eq!(killed["exitCode"], Value::Null);
}

/// Children that are deaf to being asked to end, hold the output, and write down who they are.
fn hung_tree(pids: &Path) -> String {
    let pids = pids.display();
    format!(
        "trap '' TERM; (trap '' TERM; sh -c 'echo $$ >> {pids}; exec sleep 600') & \
         (sh -c 'trap \"\" TERM; echo $$ >> {pids}; sleep 600; exit 1') & \
         echo $$ >> {pids}; wait; exit 1"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_outlives_its_time_ends_soon_and_leaves_nobody() {
    let machine = Machine::new();
    let pids = machine.path("pids");
    let config = sh("hung", &hung_tree(&pids)) + "timeout_secs = 2\n" + &machine.marker(true);
    let started = Instant::now();
    let (code, stdout, _) = machine.simulate(&config, &[]).await;
    assert_eq!(code, 6, "{stdout}");
    // Two seconds, two more to end by itself, and a slow machine; not the ten minutes it wants.
    assert!(started.elapsed() < Duration::from_secs(25));
    assert!(stdout.contains("hung: failed: no answer within 2 s"), "{stdout}");
    let pids = std::fs::read_to_string(pids).unwrap();
    assert_eq!(pids.lines().count(), 3, "{pids}");
    assert!(pids.lines().all(ended), "{pids}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_the_middle_it_leaves_nobody_either() {
    let machine = Machine::new();
    let pids = machine.path("pids");
    let mut process = machine.start(&sh("hung", &hung_tree(&pids)), &[]);
    let started = eventually("three processes", SOON, async || {
        let text = std::fs::read_to_string(&pids).map_err(|error| error.to_string())?;
        if text.lines().count() == 3 { Ok(text) } else { Err(text) }
    })
    .await
    .unwrap();
    process.signal(Signal::INT).unwrap();
    assert_eq!(process.wait_exit(SOON).await.unwrap().code(), Some(1));
    eventually("all of them gone", SOON, async || {
        if started.lines().all(ended) { Ok(()) } else { Err(started.clone()) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_presets_run_what_they_are_called_after() {
    let machine = Machine::new();
    let tool = |name: &str, script: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = machine.path("bin").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    tool(
        "dnf",
        "test \"$*\" = 'needs-restarting -r' || exit 3\necho 'Reboot is required to x'; exit 1",
    );
    tool("needrestart", "test \"$*\" = '-b -k' && echo 'NEEDRESTART-KSTA: 3'");
    tool(
        "rpm-ostree",
        "test \"$*\" = 'status --json' && echo noise >&2 &&\n\
         echo '{\"deployments\":[{\"booted\":false,\"staged\":true,\"version\":\"9\"},{\"booted\":true}]}'",
    );
    tool(
        "bootc",
        "test \"$*\" = 'status --format=json' && echo '{\"apiVersion\":\"org.containers.bootc/v1\",\
         \"status\":{\"booted\":{},\"staged\":{\"image\":null}}}'",
    );
    let types = ["needs-restarting", "needrestart", "rpm-ostree", "bootc"];
    let config: String =
        types.iter().map(|name| format!("[[detector]]\ntype = {name:?}\n")).collect();
    let file = machine.path("rebootlock.toml");
    std::fs::write(&file, config).unwrap();
    let run = async |path: String| {
        let mut command = Command::new(binaries::path("rebootlockd").unwrap());
        command.arg("simulate").arg("--config").arg(&file).env("PATH", path);
        let mut process = Process::spawn("simulate", command).unwrap();
        let code = process.wait_exit(SOON).await.unwrap().code().unwrap();
        (code, process.stdout().lines().join("\n"))
    };
    let (code, stdout) = run(format!("{}:/usr/bin:/bin", machine.path("bin").display())).await;
    assert_eq!(code, 0, "{stdout}");
    for said in [
        "needs-restarting: reboot needed: a reboot is required after updates",
        "needrestart: reboot needed: a version upgrade of the kernel is pending",
        "rpm-ostree: reboot needed: deployment 9 is staged",
        "bootc: reboot needed: an image is staged",
    ] {
        assert!(stdout.contains(said), "{said} in\n{stdout}");
    }
    let (code, stdout) = run(machine.path("empty").display().to_string()).await;
    assert_eq!(code, 6);
    for said in ["dnf-utils", "package needrestart", "package rpm-ostree", "package bootc"] {
        assert!(stdout.contains(said), "{said} in\n{stdout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_exits_2_and_a_wrong_flag_64() {
    let machine = Machine::new();
    let (code, _, stderr) = machine.simulate("[[detector]]\ntype = \"fiel\"\n", &[]).await;
    assert_eq!(code, 2);
    assert!(
        stderr.contains("rebootlock.toml:2:8: `type`: unknown value `fiel`; did you mean `file`?")
    );
    assert_eq!(machine.simulate("", &["--output", "xml"]).await.0, 64);
}
