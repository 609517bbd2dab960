//! The page in a real browser: it keeps itself up to date, fits a phone, and works without scripts.
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

use std::time::{Duration, Instant};

use browser::Browser;
use seed::Seed;
use serde_json::{Value, json};
use support::{Fleet, Gateway};
use visitor::{TOKEN, machine, with_people};

const IS_LIVE: &str = "return document.getElementById('live').dataset.state === 'live'";

fn url(gw: &Gateway, path: &str) -> String {
    format!("http://{}{path}", gw.address)
}

#[test]
fn the_page_changes_by_itself_and_keeps_the_focus() {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, "public_view = true\n"));
    let gw = fleet.start();
    let seed = Seed::new(&fleet);
    seed.group("default", 2, &[seed.holder("web-1", "rebooting", 125, "agent", "new kernel")]);
    let browser = Browser::start();
    browser.open(&url(&gw, "/"));
    browser.until_shown("web-1");
    browser.until(IS_LIVE);
    // Server and script say ages in the same way.
    browser.until_shown("2 min ago");
    // What a reload would take away.
    browser.run("window.same = true; document.querySelector('#group-default .name').closest('tr').id = 'old'");
    machine(&gw, "pre-reboot", "m-two").is_granted();
    browser.until_shown("m-two");
    browser.until_shown("2 of 2 slots taken");
    assert_eq!(browser.run("return window.same"), Value::Bool(true));
    browser.until("return document.querySelectorAll('tr.fresh').length === 1");
    machine(&gw, "steady-state", "m-two").is_granted();
    browser.until_shown("given-back");
    // Ages of what came by itself are counted too.
    browser.until(
        "return [...document.querySelectorAll('time > .ago')].every(age => age.textContent !== '')",
    );
    // An operator on the way to a link is not thrown off it.
    sign_in(&browser, &gw);
    browser.until(IS_LIVE);
    browser.run("document.querySelector('#group-default a.act').focus()");
    let focused = "return document.activeElement.getAttribute('href')";
    assert_eq!(browser.run(focused), json!("operate?do=pause&group=default"));
    machine(&gw, "pre-reboot", "m-three").is_granted();
    browser.until_shown("m-three");
    assert_eq!(browser.run(focused), json!("operate?do=pause&group=default"));
    nothing_was_blocked(&browser);
}

fn sign_in(browser: &Browser, gw: &Gateway) {
    fill_in(browser, gw);
    browser.until_shown("Sign out");
}

fn fill_in(browser: &Browser, gw: &Gateway) {
    browser.open(&url(gw, "/sign-in"));
    browser.fill("input[name=name]", "alice");
    browser.fill("input[name=password]", TOKEN);
    browser.click("button[type=submit]");
}

/// The browser's console is empty: neither our policy nor a fault of ours stopped anything.
#[track_caller]
fn nothing_was_blocked(browser: &Browser) {
    assert_eq!(browser.log(), json!([]));
}

#[test]
fn a_page_whose_gateway_restarts_finds_it_again() {
    let fleet = Fleet::new("[gateway]\npublic_view = true\n");
    let gw = fleet.start();
    let browser = Browser::start();
    browser.open(&url(&gw, "/"));
    browser.until(IS_LIVE);
    let address = gw.address.to_string();
    drop(gw);
    browser.until("return document.getElementById('live').dataset.state === 'lost'");
    browser.until_shown("Connection lost");
    let gw = Gateway::start(fleet.command(&["--listen", &address]));
    gw.pre_reboot("m-one").is_granted();
    browser.until_shown("m-one");
    browser.until(IS_LIVE);
}

#[test]
fn a_page_that_began_without_the_store_shows_the_fleet_when_it_is_back() {
    let more = "public_view = true\nanswer_within_secs = 1\n[store]\ntimeout_secs = 1\n";
    let fleet = Fleet::new(&format!("[gateway]\n{more}"));
    let gw = fleet.start();
    let store = rusqlite::Connection::open(fleet.store()).unwrap();
    store.execute_batch("ALTER TABLE entry RENAME TO elsewhere").unwrap();
    let browser = Browser::start();
    browser.open(&url(&gw, "/"));
    browser.until_shown("The store does not answer");
    browser.until_shown("Nothing has been seen yet.");
    store.execute_batch("ALTER TABLE elsewhere RENAME TO entry").unwrap();
    browser.until_shown("Nobody holds a slot, and nobody waits for one.");
    assert!(!browser.text().contains("does not answer"), "{}", browser.text());
}

#[test]
fn an_operator_signs_in_and_pauses_with_a_reason() {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, "public_view = true\n"));
    let gw = fleet.start();
    let browser = Browser::start();
    browser.open(&url(&gw, "/"));
    browser.until(IS_LIVE);
    assert!(!browser.text().contains("Pause"), "{}", browser.text());
    sign_in(&browser, &gw);
    browser.click("#group-default a.act");
    browser.fill("input[name=reason]", "incident 4711");
    browser.click("form.card button");
    browser.until_shown("group default is paused; who holds a slot keeps it");
    browser.until_shown("Paused by alice: incident 4711");
    machine(&gw, "pre-reboot", "m1").is(423, "failed_lock_paused");
    browser.click("button.plain");
    browser.until_shown("Sign in");
    assert!(!browser.text().contains("Resume…"), "{}", browser.text());
    nothing_was_blocked(&browser);
}

#[test]
fn without_scripts_everything_is_there_after_a_reload() {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, "public_view = true\n"));
    let gw = fleet.start();
    let seed = Seed::new(&fleet);
    seed.group("default", 1, &[seed.holder("web-1", "rebooting", 125, "agent", "new kernel")]);
    let browser = Browser::start();
    browser.devtools("Emulation.setScriptExecutionDisabled", json!({"value": true}));
    browser.open(&url(&gw, "/"));
    let text = browser.source_text();
    assert!(text.contains("web-1") && text.contains("2 min ago"), "{text}");
    assert!(text.contains("Reload to see what is new"), "{text}");
    fill_in(&browser, &gw);
    until_in_source(&browser, "Sign out");
    browser.open(&url(&gw, "/operate?do=pause&group=default"));
    browser.fill("input[name=reason]", "incident 4711");
    browser.click("form.card button");
    until_in_source(&browser, "incident 4711");
}

/// Waits for a text where no script can be asked.
#[track_caller]
fn until_in_source(browser: &Browser, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !browser.source_text().contains(text) {
        assert!(Instant::now() < deadline, "no {text:?} in {}", browser.source_text());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_fits_a_phone_and_follows_the_colours_that_people_prefer() {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, "public_view = true\n"));
    let gw = fleet.start();
    let _seed = seed::busy(&fleet);
    let browser = Browser::start();
    for (width, phone) in [(320, true), (390, true), (800, false), (1280, false)] {
        browser.size(width, 844, phone);
        for path in ["/", "/sign-in"] {
            browser.open(&url(&gw, path));
            assert_eq!(browser.run(TOO_WIDE), json!([]), "{path} at {width}");
        }
    }
    sign_in(&browser, &gw);
    for path in ["/", "/operate?do=pause&group=web"] {
        browser.size(320, 844, true);
        browser.open(&url(&gw, path));
        assert_eq!(browser.run(TOO_WIDE), json!([]), "{path} for an operator");
    }
    let ground = "return getComputedStyle(document.body).backgroundColor";
    browser.prefer("prefers-color-scheme", "light");
    assert_eq!(browser.run(ground), json!("rgb(245, 246, 248)"));
    browser.prefer("prefers-color-scheme", "dark");
    assert_eq!(browser.run(ground), json!("rgb(17, 21, 27)"));
    for colours in ["light", "dark"] {
        browser.prefer("prefers-color-scheme", colours);
        browser.open(&url(&gw, "/"));
        let faint = browser.run(CONTRAST);
        assert_eq!(faint, json!([]), "too faint to read, {colours}");
    }
}

/// What reaches beyond the right edge, which would make the page scroll to that side.
const TOO_WIDE: &str = "
  const root = document.documentElement;
  if (root.scrollWidth <= root.clientWidth) return [];
  const reaches = (element) => element.getBoundingClientRect().right > root.clientWidth;
  return [...document.body.querySelectorAll('*')].filter(reaches).map((e) => e.outerHTML.slice(0, 200));";

/// Text whose contrast to what is behind it is below 4.5 to 1.
const CONTRAST: &str = "
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim() !== '');
    if (!own || element.closest('.unseen, noscript, .skip')) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(element.textContent.trim() + ' ' + ratio.toFixed(2));
  }
  return faint;";

#[test]
fn programs_that_read_aloud_find_their_way() {
    let fleet = Fleet::new("");
    fleet.configure(&with_people(&fleet, "public_view = true\n"));
    let gw = fleet.start();
    let _seed = seed::busy(&fleet);
    let browser = Browser::start();
    browser.open(&url(&gw, "/"));
    for claim in [
        "document.documentElement.lang === 'en'",
        "document.querySelectorAll('main').length === 1 && document.querySelectorAll('h1').length === 1",
        "[...document.querySelectorAll('table')].every(t => t.caption && t.caption.textContent)",
        "[...document.querySelectorAll('thead th')].every(th => th.scope === 'col' && th.textContent)",
        "[...document.querySelectorAll('tbody tr')].every(tr => tr.cells[0].scope === 'row')",
        "[...document.querySelectorAll('img')].every(img => img.hasAttribute('alt'))",
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size === document.querySelectorAll('[id]').length",
        "[...document.querySelectorAll('time')].every(t => !isNaN(Date.parse(t.dateTime)))",
        "document.querySelector('a').getAttribute('href') === '#main'",
    ] {
        assert_eq!(browser.run(&format!("return {claim}")), Value::Bool(true), "{claim}");
    }
    browser.open(&url(&gw, "/sign-in"));
    let labelled = "return [...document.querySelectorAll('input:not([type=hidden])')].every(i => i.labels.length === 1)";
    assert_eq!(browser.run(labelled), Value::Bool(true));
}
