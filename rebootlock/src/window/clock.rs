//! From wall clocks to instants.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use super::{Action, InvalidWindow, Span};

/// The zone of that name in this machine's database.
///
/// # Errors
/// [`InvalidWindow::Zone`] if it is not there.
pub fn zone_named(name: &str) -> Result<TimeZone, InvalidWindow> {
    TimeZone::get(name).map_err(|_| InvalidWindow::Zone(name.to_owned()))
}

/// The instant at which the clocks first show `at`, or jump over it.
pub(super) fn begins(zone: &TimeZone, at: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(at).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(at).ok(),
        AmbiguousOffset::Gap { after, .. } => jump(zone, at, after),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(at).ok(),
    }
}

/// The instant at which the clocks show `at`, or jump over it. If they do twice, it is the one that
/// leaves less time to reboot.
pub(super) fn ends(zone: &TimeZone, at: DateTime, action: Action) -> Option<Timestamp> {
    match (zone.to_ambiguous_timestamp(at).offset(), action) {
        (AmbiguousOffset::Fold { after, .. }, Action::Deny) => after.to_timestamp(at).ok(),
        _ => begins(zone, at),
    }
}

/// When the clocks jump over `at`, and are `after` from UTC from then on.
fn jump(zone: &TimeZone, at: DateTime, after: Offset) -> Option<Timestamp> {
    // By the later offset `at` lies before the jump: clocks were behind then.
    let before = after.to_timestamp(at).ok()?;
    let jump = zone.following(before).find(|transition| transition.offset() == after);
    jump.map(|transition| transition.timestamp())
}

/// Asks `on` for the spans that begin on each day, from `reach` days before `from` on.
pub(super) fn daily(
    from: Timestamp,
    to: Timestamp,
    zone: &TimeZone,
    reach: i64,
    mut on: impl FnMut(Date) -> Vec<Span>,
) -> Vec<Span> {
    let first = zone.to_datetime(from).date().saturating_sub(reach.days());
    let last = zone.to_datetime(to).date().saturating_add(1.day());
    let mut spans = Vec::new();
    let mut day = first;
    while day <= last {
        spans.append(&mut on(day));
        match day.tomorrow() {
            Ok(next) => day = next,
            Err(_) => break,
        }
    }
    spans
}

/// How many days back a span of `length` may have begun, clocks and all.
pub(super) fn reach(length: Duration) -> i64 {
    i64::try_from(length.as_secs() / 86_400).map_or(i64::from(u16::MAX), |days| days + 2)
}

/// `length` after `at`.
pub(super) fn later(at: Timestamp, length: Duration) -> Option<Timestamp> {
    at.checked_add(SignedDuration::try_from(length).ok()?).ok()
}

/// How long from `at` until `then`, nothing if that has passed.
pub(super) fn until(at: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(at.duration_until(then)).unwrap_or_default()
}
