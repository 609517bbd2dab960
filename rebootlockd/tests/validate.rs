//! `validate-config`, `import` and `version`, as processes.

#![allow(clippy::unwrap_used, missing_docs)]

mod bad_values;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// A folder with a configuration and an environment of its own.
struct Machine {
    folder: tempfile::TempDir,
}

/// How a process ended, and what it said.
#[derive(Debug, PartialEq)]
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Machine {
    /// With folders for hooks, a database, and nothing that is worth a warning.
    fn new(config: &str) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["pre.d", "post.d", "rebootlock.d"] {
            std::fs::create_dir(machine.path(folder)).unwrap();
        }
        machine.write("machine-id", "3b9c6b4d1c9e4a5f8d7e6f5a4b3c2d1e\n");
        machine.write("rebootlock.toml", config);
        machine
    }

    /// As [`Machine::new`], with all that this needs above `config`.
    fn fine(config: &str) -> Self {
        let machine = Self::new("");
        let base = format!(
            "[agent]\nkill_switch_file = {:?}\n[hooks]\npre_reboot_dir = {:?}\npost_reboot_dir = {:?}\n{config}",
            machine.path("disable"),
            machine.path("pre.d"),
            machine.path("post.d"),
        );
        machine.write("rebootlock.toml", &base);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rebootlockd"));
        command.args(words).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("TZ", "UTC");
        command
    }

    fn validate(&self, flags: &[&str], variables: &[(&str, &str)]) -> Said {
        let words =
            ["validate-config", "--config", "rebootlock.toml", "--machine-id-file", "machine-id"];
        said(self.command(&words).args(flags).envs(variables.iter().copied()))
    }

    fn warnings(&self) -> String {
        let said = self.validate(&[], &[]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        said.stderr
    }
}

fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_bad_value_is_refused_with_its_place_and_what_is_allowed() {
    assert!(bad_values::BAD_VALUES.len() >= 60);
    let machine = Machine::new("");
    let mut wrong = Vec::new();
    for (text, expected) in bad_values::BAD_VALUES {
        machine.write("rebootlock.toml", text);
        let said = machine.validate(&[], &[]);
        if (said.code, said.stderr.as_str()) != (2, &*format!("error: {expected}\n")) {
            wrong.push(format!("{text}\n  exit {}: {}", said.code, said.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_fine_is_said_with_the_files_that_were_read() {
    let machine = Machine::fine("");
    machine.write("rebootlock.d/20-web.toml", "[machine]\ngroups = [\"web\"]\n");
    machine.write("rebootlock.d/10-etcd.toml", "[store]\ntimeout_secs = 9\n");
    machine.write("rebootlock.d/notes.txt", "not read");
    let said = machine.validate(&[], &[]);
    let stdout = "configuration is valid\nread: rebootlock.toml\n\
                  read: rebootlock.d/10-etcd.toml\nread: rebootlock.d/20-web.toml\n";
    assert_eq!(said, Said { code: 0, stdout: stdout.to_owned(), stderr: String::new() });
}

#[test]
fn each_file_and_each_variable_that_is_wrong_is_named_at_once() {
    let machine = Machine::new("[agent]\nstrategy = \"of\"\n");
    machine.write("rebootlock.d/10-a.toml", "[store]\ntimeout_secs = 0\n");
    machine.write("rebootlock.d/20-b.toml", "[machine]\ngroups = [\"web\"]\n");
    machine.write("rebootlock.d/30-c.toml", "[log]\nlevel = \"inof\"\n");
    let variables = [("REBOOT_STRATEGY", "maybe"), ("REBOOT_WINDOW_START", "23:00")];
    let said = machine.validate(&[], &variables);
    assert_eq!((said.code, said.stdout.as_str()), (2, ""));
    let lines: Vec<_> = said.stderr.lines().collect();
    assert_eq!(lines.len(), 5, "{}", said.stderr);
    for (line, start) in lines.iter().zip([
        "error: rebootlock.toml:2:12: `strategy`",
        "error: rebootlock.d/10-a.toml:2:16: `timeout_secs`",
        "error: rebootlock.d/30-c.toml:2:9: `level`",
        "error: REBOOT_STRATEGY: ",
        "error: REBOOT_WINDOW_START: ",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn contradictions_are_all_named_at_once() {
    let text = "[store]\ncert_file = \"/c.pem\"\n[reboot]\nmethod = \"command\"\n";
    let said = Machine::new(text).validate(&[], &[]);
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains(": store.cert_file: "), "{}", said.stderr);
    assert!(said.stderr.contains(": reboot.command: "), "{}", said.stderr);
}

#[test]
fn flags_and_variables_count_as_they_do_for_the_agent() {
    let machine = Machine::fine("[store]\ncert_file = \"/c.pem\"\n");
    let both = [("REBOOTLOCK_ETCD_CERTFILE", "c.pem"), ("REBOOTLOCK_ETCD_KEYFILE", "k.pem")];
    assert!(machine.validate(&[], &[]).stderr.contains("store.cert_file"));
    // Both are named now, and neither is there.
    let said = machine.validate(&[], &both);
    assert_eq!(said.code, 0);
    assert!(said.stderr.contains("warning: [store] cannot read c.pem: "), "{}", said.stderr);
    assert!(said.stderr.contains("warning: [store] cannot read k.pem: "), "{}", said.stderr);
    let said = machine.validate(&["--endpoint", "memory:"], &both);
    assert!(said.stderr.starts_with("warning: [store] memory:"), "{}", said.stderr);
    let machine = Machine::fine("");
    let window = [("REBOOT_WINDOW_START", "Thu 23:00"), ("REBOOT_WINDOW_LENGTH", "1h")];
    assert_eq!(machine.validate(&["--strategy", "lock"], &window).code, 0);
}

#[test]
fn a_file_that_was_named_must_be_there_and_so_must_the_machine_id() {
    let machine = Machine::fine("");
    std::fs::remove_file(machine.path("machine-id")).unwrap();
    let said = machine.validate(&[], &[]);
    assert!(said.code == 2 && said.stderr.contains("machine-id"), "{}", said.stderr);
    std::fs::remove_file(machine.path("rebootlock.toml")).unwrap();
    let said = machine.validate(&[], &[]);
    assert!(said.code == 2, "{}", said.stderr);
    assert!(said.stderr.starts_with("error: cannot read rebootlock.toml: "), "{}", said.stderr);
}

#[test]
fn what_cannot_work_is_a_warning() {
    let machine = Machine::fine(
        "[[window]]\ndates = [\"2020-01-01\"]\n\
         [[window]]\naction = \"deny\"\nname = \"move\"\ndates = [\"2020-01-02\"]\n\
         [[detector]]\nname = \"vendor\"\ntype = \"command\"\ncommand = [\"no-such-program\"]\n\
         reboot_needed_codes = [1]\n\
         [[gate]]\nname = \"gone\"\ntype = \"script\"\ncommand = [\"/nonexistent/healthy\"]\n\
         [[gate]]\nname = \"plain\"\ntype = \"script\"\ncommand = [\"/etc/passwd\"]\n\
         [[gate]]\nname = \"off\"\ntype = \"script\"\ncommand = [\"/nonexistent/off\"]\nenabled = false\n\
         [[gate]]\nname = \"web\"\ntype = \"http\"\nurl = \"http://h/\"\n\
         bearer_token_file = \"/nonexistent/token\"\n\
         [reboot]\nmethod = \"command\"\ncommand = [\"/nonexistent/reboot\"]\n",
    );
    machine.write("disable", "");
    machine.write("pre.d/10-drain", "#!/bin/sh\n");
    machine.write("pre.d/.hidden", "");
    std::fs::remove_dir(machine.path("post.d")).unwrap();
    let said = machine.warnings();
    for warning in [
        "/disable is there: this machine does not reboot",
        "window `2020-01-01` never opens again",
        "window `move` denies nothing any more",
        "all windows together leave no moment",
        "detector `vendor`: there is no program no-such-program in PATH",
        "gate `gone`: /nonexistent/healthy is not there",
        "gate `plain`: /etc/passwd is not executable",
        "gate `web`: cannot read /nonexistent/token",
        "[reboot] command: /nonexistent/reboot is not there",
        "pre.d/10-drain is not executable (chmod +x), and does not run as a hook",
        "[hooks] post_reboot_dir: there is no folder",
    ] {
        assert!(said.contains(warning), "{warning} is not in\n{said}");
    }
    assert_eq!(said.lines().count(), 11, "{said}");
}

#[test]
fn what_asks_for_a_store_is_a_warning_where_the_strategy_has_none() {
    let machine = Machine::fine(
        "[[gate]]\ntype = \"cluster\"\nmin_healthy = 1\n\
         [[group]]\nname = \"default\"\ncooldown_secs = 60\n",
    );
    for (strategy, warnings) in [
        (
            "reboot",
            &[
                "gate `cluster`: strategy `reboot` has no store",
                "[[group]] cooldown_secs: without effect with strategy `reboot`",
            ][..],
        ),
        ("best-effort", &["gate `cluster`: is closed while the store does not answer"]),
        ("etcd-lock", &[]),
    ] {
        let said = machine.validate(&["--strategy", strategy], &[]).stderr;
        assert_eq!(said.lines().count(), warnings.len(), "{said}");
        assert!(warnings.iter().all(|warning| said.contains(warning)), "{said}");
    }
}

#[test]
fn programs_can_read_it() {
    let machine = Machine::new("[agent]\npoll_secs = 0\n");
    let said = machine.validate(&["--output", "json"], &[]);
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, said.stderr.as_str()), (2, ""));
    assert_eq!(document["valid"], false);
    let error = &document["errors"][0];
    assert_eq!((&error["file"], &error["line"]), (&"rebootlock.toml".into(), &2.into()));
    assert_eq!(error["column"], 13);
    let machine = Machine::fine("");
    machine.write("disable", "");
    let said = machine.validate(&["--output", "json"], &[]);
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, &document["valid"]), (0, &true.into()));
    assert_eq!(document["files"], serde_json::json!(["rebootlock.toml"]));
    assert_eq!(document["warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_imported_is_valid_here() {
    let machine = Machine::fine("");
    let theirs = "node_name: a\nhealth_script: /bin/true\netcd_endpoints: [\"http://127.0.0.1:2379\"]\n\
                  reboot_required_detectors: [{type: file, path: /run/reboot-required}]\n";
    machine.write("config.yaml", theirs);
    let words = ["import", "--from", "clusterrebootd", "config.yaml"];
    let imported = said(&mut machine.command(&words));
    assert_eq!((imported.code, imported.stderr.as_str()), (0, ""));
    machine.write("rebootlock.toml", &imported.stdout);
    assert_eq!(machine.validate(&[], &[]).code, 0);

    machine.write("config.yaml", "node_nam: a\n");
    let refused = said(&mut machine.command(&words));
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""));
    assert!(refused.stderr.starts_with("error: config.yaml:1:1: unknown key `node_nam`"));
    let gone = said(&mut machine.command(&["import", "--from", "locksmith", "gone.conf"]));
    assert!(gone.code == 1 && gone.stderr.starts_with("error: cannot read gone.conf: "));
}

#[test]
fn a_configuration_can_come_from_standard_input() {
    let machine = Machine::new("");
    let mut command = machine.command(&["import", "--from", "locksmith", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"REBOOT_STRATEGY=off\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("strategy = \"off\""));
}

#[test]
fn the_version_names_program_and_target() {
    let machine = Machine::new("");
    let text = said(&mut machine.command(&["version"])).stdout;
    assert!(text.starts_with(&format!("rebootlockd {} (", env!("CARGO_PKG_VERSION"))), "{text}");
    let json = said(&mut machine.command(&["version", "--output", "json"])).stdout;
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["name"], "rebootlockd");
    assert!(document["target"].as_str().unwrap().contains("linux"));
}
