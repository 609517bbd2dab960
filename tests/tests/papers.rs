//! What lies beside the programs: manual pages and completions.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::process::Command;

use rebootlock_tests::binaries;

const PROGRAMS: [&str; 3] = ["rebootlockd", "rebootlockctl", "rebootlock-gateway"];

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(binaries::path(program).unwrap()).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `--help` lists.
fn commands(program: &str) -> BTreeSet<String> {
    let help = run(program, &["--help"]);
    let listed = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let listed = listed.take_while(|line| !line.trim().is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_program_and_every_command_has_a_manual_page_that_names_its_flags() {
    for program in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("man1");
        run(program, &["manual", dir.to_str().unwrap()]);
        let mut wanted: BTreeSet<_> =
            commands(program).iter().map(|name| format!("{program}-{name}.1")).collect();
        assert!(wanted.len() > 2, "{wanted:?}");
        wanted.insert(format!("{program}.1"));
        let entries = std::fs::read_dir(&dir).unwrap();
        let found: BTreeSet<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(found, wanted);
        for page in found {
            let text = std::fs::read_to_string(dir.join(&page)).unwrap();
            assert!(text.contains(".TH "), "{page}: {text}");
            assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}");
            assert!(text.contains(r"\-\-config"), "{page} names the flags of every program");
        }
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    for program in PROGRAMS {
        let program = Command::new(binaries::path(program).unwrap())
            .args(["manual", "/proc/nothing/here"])
            .output()
            .unwrap();
        assert_eq!(program.status.code(), Some(1));
        let said = String::from_utf8_lossy(&program.stderr).into_owned();
        assert!(said.contains("cannot write manual pages to /proc/nothing/here"), "{said}");
    }
}

#[test]
fn every_program_completes_its_commands_in_every_shell() {
    for program in PROGRAMS {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = run(program, &["completions", shell]);
            for command in commands(program) {
                assert!(script.contains(&command), "{program} {shell}: {command}");
            }
        }
    }
}
