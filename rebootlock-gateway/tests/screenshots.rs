//! Pictures of the page for the documentation.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unreachable_pub)]
#[path = "support/browser.rs"]
mod browser;
#[allow(dead_code, unreachable_pub)]
#[path = "support/seed.rs"]
mod seed;
#[allow(dead_code, unreachable_pub)]
mod support;
#[allow(dead_code, unreachable_pub)]
#[path = "support/visitor.rs"]
mod visitor;

use std::path::PathBuf;

use browser::Browser;
use support::Fleet;
use visitor::{TOKEN, with_people};

/// Writes `docs/page-*.png` anew: `cargo test -p rebootlock-gateway --test screenshots -- --ignored`.
#[test]
#[ignore = "writes into docs/"]
fn the_page_in_pictures() {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, "public_view = true\n"));
    let gw = fleet.start();
    let _seed = seed::busy(&fleet);
    let browser = Browser::start();
    // A page of an operator, who has signed in.
    browser.open(&format!("http://{}/sign-in", gw.address));
    browser.fill("input[name=name]", "alice");
    browser.fill("input[name=password]", TOKEN);
    browser.click("button[type=submit]");
    browser.until_shown("Sign out");
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let docs = std::env::var_os("PICTURES").map_or(docs, PathBuf::from);
    for (name, width, height, phone, colours) in [
        ("page-light.png", 1160, 1060, false, "light"),
        ("page-dark.png", 1160, 1060, false, "dark"),
        ("page-phone.png", 390, 844, true, "light"),
    ] {
        browser.size(width, height, phone);
        browser.prefer("prefers-color-scheme", colours);
        browser.open(&format!("http://{}/", gw.address));
        browser.until("return document.getElementById('live').dataset.state === 'live'");
        std::fs::write(docs.join(name), browser.picture()).unwrap();
    }
}
