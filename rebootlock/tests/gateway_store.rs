//! The examples of `proto-docs/gateway-store.md` are read as they say, and printed again.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use rebootlock::store::wire;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn again<T: Serialize + DeserializeOwned>(text: &str) -> String {
    let read: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    serde_json::to_string(&read).unwrap()
}

#[test]
fn the_page_tells_the_truth() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../proto-docs/gateway-store.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut seen = BTreeSet::new();
    for block in page.split("```json ").skip(1) {
        let (kind, rest) = block.split_once('\n').unwrap();
        let text = rest.split("\n```").next().unwrap();
        let printed = match kind {
            "Hello" => again::<wire::Hello>(text),
            "Me" => again::<wire::Me>(text),
            "Read" => again::<wire::Read>(text),
            "Found" => again::<wire::Found>(text),
            "Commit" => again::<wire::Commit>(text),
            "Outcome" => again::<wire::Outcome>(text),
            "Watch" => again::<wire::Watch>(text),
            "Line" => again::<wire::Line>(text),
            "Grant" => again::<wire::Grant>(text),
            "Lease" => again::<wire::Lease>(text),
            other => panic!("no such document: {other}"),
        };
        assert_eq!(printed, text, "{kind}");
        seen.insert(kind);
    }
    assert_eq!(seen.len(), 10, "{seen:?}");
    for path in [wire::ME, wire::READ, wire::COMMIT, wire::WATCH, wire::GRANT, wire::HELLO] {
        assert!(page.contains(path), "{path}");
    }
    assert!(page.contains(&format!("for {} seconds", wire::HEARTBEAT_SECS)));
}
