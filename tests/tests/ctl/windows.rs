//! What `windows` shows.

use serde_json::Value;

use crate::operator::Operator;

const CONFIG: &str = r#"
[[window]]
name = "weekends"
range = "Fri 18:00-Mon 08:00"
timezone = "Europe/Berlin"

[[window]]
action = "deny"
dates = ["2026-11-28"]
timezone = "Europe/Berlin"
"#;

async fn show(op: &Operator, config: &str, more: &[&str]) -> String {
    let file = op.file("windows.toml", config);
    op.run(&[&["windows", "--config", &file], more].concat()).await.ok().out
}

#[tokio::test]
async fn openings_and_closings_are_shown_in_the_zone_of_each_window() {
    let op = Operator::new();
    let shown = show(&op, CONFIG, &["--from", "2026-11-26T12:00:00Z", "--days", "5"]).await;
    let expected = "\
Closed: the reboot window opens Fri 2026-11-27 17:00 UTC
This machine may begin: Fri 2026-11-27 17:00 UTC

WINDOW      ACTION  OPENS                     CLOSES
weekends    allow   Fri 2026-11-27 18:00 CET  Mon 2026-11-30 08:00 CET
2026-11-28  deny    Sat 2026-11-28 00:00 CET  Sun 2026-11-29 00:00 CET

ALL TOGETHER
OPENS                     CLOSES
Fri 2026-11-27 17:00 UTC  Fri 2026-11-27 23:00 UTC
Sat 2026-11-28 23:00 UTC  Mon 2026-11-30 07:00 UTC
";
    let utc = Operator::new().with("TZ", "UTC");
    assert_eq!(show(&utc, CONFIG, &["--from", "2026-11-26T12:00", "--days", "5"]).await, expected);
    assert!(shown.contains("weekends    allow   Fri 2026-11-27 18:00 CET"), "{shown}");
}

#[tokio::test]
async fn it_says_why_it_is_open_or_closed() {
    let op = Operator::new().with("TZ", "Europe/Berlin");
    for (from, said) in [
        (
            "2026-11-27 19:00",
            "Open: the reboot window \"weekends\" is open until Sat 2026-11-28 00:00 CET",
        ),
        (
            "2026-11-28",
            "Closed: the window \"2026-11-28\" denies reboots until Sun 2026-11-29 00:00 CET",
        ),
        ("2026-12-01T12:00:00+01:00", "Closed: the reboot window opens Fri 2026-12-04 18:00 CET"),
    ] {
        let shown = show(&op, CONFIG, &["--from", from]).await;
        assert_eq!(shown.lines().next().unwrap(), said);
    }
    let shown = op.ctl("windows").await.ok().out;
    assert_eq!(shown, "Open: no window is needed\n");
}

#[tokio::test]
async fn programs_get_the_same_as_json() {
    let op = Operator::new().with("TZ", "UTC");
    let config = format!(
        "{CONFIG}\n[[window]]\nstart = \"Thu 02:00\"\nlength = \"1h30m\"\nsplay_secs = 600\nmin_remaining_secs = 300\n"
    );
    let args = ["--from", "2026-11-26T12:00:00Z", "--days", "9", "--output", "json"];
    let shown: Value = serde_json::from_str(&show(&op, &config, &args).await).unwrap();
    assert_eq!((&shown["open"], &shown["verdict"]), (&false.into(), &"outside".into()));
    assert_eq!(shown["at"], "2026-11-26T12:00:00+00:00");
    assert_eq!(shown["nextStart"], "2026-11-27T17:00:00+00:00");
    assert_eq!(shown["openings"][0]["closes"], "2026-11-27T23:00:00+00:00");
    let weekends = &shown["windows"][0];
    assert_eq!(
        (&weekends["name"], &weekends["timezone"]),
        (&"weekends".into(), &"Europe/Berlin".into())
    );
    assert_eq!(weekends["spans"][0]["opens"], "2026-11-27T18:00:00+01:00");
    assert_eq!(weekends["spans"][0]["starts"], Value::Null);
    let nights = &shown["windows"][2];
    assert_eq!((&nights["splaySecs"], &nights["minRemainingSecs"]), (&600.into(), &300.into()));
    assert_eq!(nights["spans"][0]["closes"], "2026-12-03T03:30:00+00:00");
    let starts = nights["spans"][0]["starts"].as_str().unwrap();
    assert!(("2026-12-03T02:00:00"..="2026-12-03T02:10:00+00:00").contains(&starts), "{starts}");
}

#[tokio::test]
async fn neither_store_nor_machine_id_is_needed_without_a_splay() {
    let op = Operator::on(&["http://127.0.0.1:1".to_owned()])
        .with("REBOOTLOCK_MACHINE_ID_FILE", "/nonexistent");
    show(&op, CONFIG, &[]).await;
    let splay = op.file("splay.toml", "[[window]]\nrange = \"1:00-2:00\"\nsplay_secs = 60\n");
    op.run(&["windows", "--config", &splay]).await.failed(1, &["splay_secs depends on it"]);
}

#[tokio::test]
async fn wrong_moments_and_windows_are_refused() {
    let op = Operator::new();
    op.ctl("windows --from tomorrow").await.failed(64, &["\"tomorrow\" is not a moment"]);
    op.ctl("windows --days 0").await.failed(64, &["1..=366"]);
    let file = op.file("bad.toml", "[[window]]\nrange = \"sat-sun\"\n");
    let said = format!("{file}:2:9: `range`: range \"sat-sun\": expected");
    op.run(&["windows", "--config", &file]).await.failed(2, &[&said]);
    let file = op.file("gone.toml", "[[window]]\nholidays = \"/nonexistent.ics\"\n");
    op.run(&["windows", "--config", &file]).await.failed(2, &["cannot read /nonexistent.ics"]);
    let op = op.with("TZ", "Nowhere/At_All");
    let file = op.file("local.toml", "[[window]]\nrange = \"1:00-2:00\"\n");
    op.run(&["windows", "--config", &file]).await.failed(2, &["zone of this machine is unclear"]);
}
