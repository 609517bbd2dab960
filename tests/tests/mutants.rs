//! What `scripts/mutants` would break is still where it looks for it: it takes too long to be run
//! with every change, and a change of the code would take its teeth out unnoticed.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::process::Command;

#[test]
fn every_place_that_is_broken_on_purpose_is_still_there() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/mutants");
    let done = Command::new(script).arg("--check").output().expect("it needs python3 to run");
    let said = String::from_utf8_lossy(&done.stdout);
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "mend MUTANTS in scripts/mutants:\n{said}{why}");
}
