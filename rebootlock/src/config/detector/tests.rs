#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::config::Fragment;

fn read(text: &str) -> Result<Vec<DetectorSettings>, String> {
    let fragment = Fragment::parse(Path::new("t"), text).map_err(|error| error.to_string())?;
    Ok(fragment.detector.unwrap_or_default())
}

fn one(keys: &str) -> DetectorSettings {
    read(&format!("[[detector]]\n{keys}")).unwrap().remove(0)
}

#[test]
fn a_type_alone_means_its_documented_defaults() {
    let file = one("type = \"file\"");
    assert_eq!((file.name.as_str(), file.optional), ("file", false));
    assert_eq!(file.timeout, Duration::from_secs(30));
    let paths = ["/run/reboot-required", "/var/run/reboot-required"].map(PathBuf::from);
    assert_eq!(file.source, Source::File { paths: paths.to_vec() });
    assert_eq!(one("type = \"kernel\"").source, Source::Kernel { root: "/".into() });
    let uptime = one("type = \"uptime\"");
    assert_eq!(uptime.source, Source::Uptime { max: Duration::from_secs(2_592_000) });
    for kind in ["needs-restarting", "needrestart", "rpm-ostree", "bootc"] {
        assert_eq!(one(&format!("type = {kind:?}")).name, kind);
    }
}

#[test]
fn names_come_from_what_is_looked_at() {
    for (keys, name) in [
        ("type = \"file\"\npath = \"/a\"", "file:/a"),
        ("type = \"file\"\npaths = [\"/a\", \"/b\", \"/a\"]", "file:/a,/b"),
        (
            "type = \"command\"\ncommand = [\"sh\", \"-c\", \"a\\nb\"]\nreboot_needed_codes = [1]",
            "command:sh -c a\\nb",
        ),
        ("type = \"kernel\"\nroot = \"/sysroot\"", "kernel:/sysroot"),
        ("name = \" mine \"\ntype = \"uptime\"\nmax_uptime_secs = 60", "mine"),
    ] {
        assert_eq!(one(keys).name, name);
    }
}

#[test]
fn everything_a_command_may_say_is_taken() {
    let command =
        one("type = \"command\"\ncommand = [\"/bin/x\", \"\"]\nreboot_needed_codes = [1, 102]\n\
                       clear_codes = [0, 255]\noptional = true\ntimeout_secs = 3600");
    assert!(command.optional);
    assert_eq!(command.timeout, Duration::from_secs(3600));
    let argv = vec!["/bin/x".to_owned(), String::new()];
    let source = Source::Command { argv, reboot_needed: vec![1, 102], clear: vec![0, 255] };
    assert_eq!(command.source, source);
    let zero =
        one("type = \"command\"\ncommand = [\"x\"]\nreboot_needed_codes = [0]\nclear_codes = [1]");
    assert!(matches!(zero.source, Source::Command { .. }));
}

#[test]
fn update_engine_is_on_until_it_is_switched_off() {
    assert!(DetectorSettings::update_engine_is_on(&[]));
    assert!(DetectorSettings::update_engine_is_on(&[one("type = \"update-engine\"")]));
    let off = one("type = \"update-engine\"\nenabled = false");
    assert!(!DetectorSettings::update_engine_is_on(&[off]));
    assert_eq!(one("type = \"request\"\nenabled = true").source, Source::Request);
}

#[test]
fn any_type_can_be_switched_off_even_without_what_it_needs() {
    for kind in ["file", "command", "kernel", "needs-restarting", "bootc", "uptime"] {
        assert_eq!(one(&format!("type = {kind:?}\nenabled = false")).source, Source::Off);
    }
}

#[test]
fn a_drop_in_replaces_its_namesake() {
    let below = Fragment::parse(Path::new("a"), "[[detector]]\ntype = \"file\"\n").unwrap();
    let above = "[[detector]]\ntype = \"file\"\nenabled = false\n[[detector]]\ntype = \"kernel\"\n";
    let both = below.overlaid(Fragment::parse(Path::new("b"), above).unwrap()).detector.unwrap();
    assert_eq!(both.len(), 2);
    assert_eq!((both[0].name.as_str(), &both[0].source), ("file", &Source::Off));
}

/// What is written after `[[detector]]`, and what is said about it after the file's name.
const REFUSED: &[(&str, &str)] = &[
    (
        "name = \"a\"",
        "1:1: a [[detector]] needs a `type`: `file`, `command`, `kernel`, `needs-restarting`, `needrestart`, `rpm-ostree`, `bootc`, `uptime` or `update-engine`",
    ),
    (
        "type = \"fiel\"",
        "2:8: `type`: unknown value `fiel`; did you mean `file`? (allowed: `update-engine`, `request`, `file`, `command`, `kernel`, `needs-restarting`, `needrestart`, `rpm-ostree`, `bootc`, `uptime`)",
    ),
    ("type = 1", "2:8: `type`: expected a word in quotes"),
    (
        "type = \"file\"\npaht = \"/x\"",
        "3:1: unknown key `paht` in [[detector]]; did you mean `path`?",
    ),
    ("name = \" \"\ntype = \"file\"", "2:8: `name` must not be blank"),
    (
        "name = \"a\\u0007\"\ntype = \"file\"",
        "2:8: `name` is at most 128 characters, none of them control",
    ),
    (
        "name = \"request\"\ntype = \"file\"",
        "2:8: `name` `request` is that of a built-in detector; choose another",
    ),
    (
        "type = \"file\"\noptional = 1",
        "3:12: `optional`: invalid type: integer `1`, expected a boolean",
    ),
    ("type = \"file\"\ntimeout_secs = 0", "3:16: `timeout_secs`: 0 is not from 1 to 3600"),
    ("type = \"file\"\ntimeout_secs = 3601", "3:16: `timeout_secs`: 3601 is not from 1 to 3600"),
    ("type = \"file\"\ntimeout_secs = -1", "3:16: `timeout_secs`: -1 is not from 1 to 3600"),
    (
        "type = \"file\"\ntimeout_secs = \"30\"",
        "3:16: `timeout_secs`: invalid type: string \"30\", expected a whole number from 1 to 3600",
    ),
    ("type = \"file\"\npath = \"run/x\"", "3:8: `path` must be an absolute path, not \"run/x\""),
    ("type = \"file\"\npaths = [\"/a\", \"\"]", "3:16: `paths` must be an absolute path, not \"\""),
    ("type = \"file\"\npaths = []", "3:9: `paths` must name at least one file"),
    (
        "type = \"file\"\npath = \"/a\"\npaths = [\"/b\"]",
        "4:9: `path` and `paths` say the same; give one of them",
    ),
    (
        "type = \"file\"\ncommand = [\"x\"]",
        "3:11: `command` does not belong to a detector of type `file`; it has `path`, `paths`, `name`, `enabled`, `optional`, `timeout_secs`",
    ),
    ("type = \"command\"", "1:1: a detector of type `command` needs `command`"),
    (
        "type = \"command\"\ncommand = [\"/bin/x\"]",
        "1:1: a detector of type `command` needs `reboot_needed_codes`",
    ),
    (
        "type = \"command\"\ncommand = \"/bin/x -y\"",
        "3:11: `command`: invalid type: string \"/bin/x -y\", expected a list in square brackets",
    ),
    ("type = \"command\"\ncommand = []", "3:11: `command` must name a program"),
    ("type = \"command\"\ncommand = [\" \"]", "3:12: `command` must name a program, not a blank"),
    (
        "type = \"command\"\ncommand = [\"./x\"]",
        "3:12: `command` must name its program by an absolute path or by a name in PATH, not \"./x\"",
    ),
    (
        "type = \"command\"\ncommand = [\"x\", \"a\\u0000b\"]",
        "3:17: `command` must not contain a zero byte",
    ),
    (
        "type = \"command\"\ncommand = [\"x\"]\nreboot_needed_codes = []",
        "4:23: `reboot_needed_codes` must name at least one exit code",
    ),
    (
        "type = \"command\"\ncommand = [\"x\"]\nreboot_needed_codes = [1, 256]",
        "4:27: `reboot_needed_codes`: 256 is not from 0 to 255",
    ),
    (
        "type = \"command\"\ncommand = [\"x\"]\nreboot_needed_codes = [1, 0]",
        "4:27: `reboot_needed_codes`: exit code 0 is in `clear_codes`, which is [0] too; it can mean one only",
    ),
    (
        "type = \"command\"\ncommand = [\"x\"]\nreboot_needed_codes = [1]\nclear_codes = [0, 1]",
        "4:24: `reboot_needed_codes`: exit code 1 is in `clear_codes` too; it can mean one only",
    ),
    (
        "type = \"needrestart\"\nreboot_needed_codes = [1]",
        "3:23: `reboot_needed_codes` does not belong to a detector of type `needrestart`; it has `command`, `name`, `enabled`, `optional`, `timeout_secs`",
    ),
    (
        "type = \"kernel\"\nroot = \"sysroot\"",
        "3:8: `root` must be an absolute path, not \"sysroot\"",
    ),
    ("type = \"uptime\"\nmax_days = 0", "3:12: `max_days`: 0 is not from 1 to 3650"),
    (
        "type = \"uptime\"\nmax_days = 30\nmax_uptime_secs = 5",
        "4:19: `max_days` and `max_uptime_secs` say the same; give one of them",
    ),
    (
        "type = \"update-engine\"\noptional = true",
        "3:12: `optional` does not belong to a detector of type `update-engine`; it has `enabled`",
    ),
    (
        "type = \"request\"\nenabled = false",
        "3:11: `enabled`: an operator's `request` is always heard and cannot be switched off",
    ),
    (
        "type = \"file\"\n[[detector]]\ntype = \"file\"",
        "3:1: there is a detector `file` already, by the name both get from what they look at; give one of them a `name`",
    ),
    (
        "type = \"file\"\nname = \"a\"\n[[detector]]\ntype = \"kernel\"\nname = \"a\"",
        "6:8: there is a detector `a` already; choose another `name`",
    ),
];

#[test]
fn what_cannot_be_meant_is_refused_with_its_place_and_what_is_allowed() {
    let refused = |keys: &str| match read(&format!("[[detector]]\n{keys}\n")) {
        Ok(taken) => format!("taken as {taken:?}"),
        Err(said) => said,
    };
    let found: Vec<_> = REFUSED.iter().map(|(keys, _)| (*keys, refused(keys))).collect();
    let expected: Vec<_> =
        REFUSED.iter().map(|(keys, said)| (*keys, format!("t:{said}"))).collect();
    for (found, expected) in found.iter().zip(&expected) {
        println!("{}{found:?}", if found == expected { "" } else { "WRONG " });
    }
    assert_eq!(found, expected);
}
