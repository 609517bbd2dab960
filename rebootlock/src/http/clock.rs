//! What time it is where a server is, by the `Date` of its answers. Nothing is decided on
//! it; people compare times, and are misled by clocks that differ.

use std::time::Duration;

use hyper::Uri;
use hyper::header::DATE;
use jiff::Timestamp;

use super::{Access, get};

/// No answer counts as none to be had.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many seconds the clock of the server of `url` is ahead of ours; negative: behind. To the second, as that
/// is what HTTP tells. `None` where it cannot be had.
pub async fn seconds_ahead(url: &Uri, access: &Access) -> Option<i64> {
    tokio::time::timeout(PATIENCE, ask(url, access)).await.ok().flatten()
}

async fn ask(url: &Uri, access: &Access) -> Option<i64> {
    let asked = Timestamp::now();
    let answer = get(url, access, None).await.ok()?;
    let latest = Timestamp::now().as_second();
    let date = answer.headers().get(DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    // HTTP cuts the fraction off: a clock that agrees with ours says a second that began before
    // the answer came and ended after the question was asked.
    let earliest = asked.as_second();
    Some(match theirs.as_second() {
        theirs if theirs < earliest => theirs - earliest,
        theirs if theirs > latest => theirs - latest,
        _ => 0,
    })
}
