//! What time it is where an endpoint is, by the `Date` of its HTTP answers. Nothing is decided on
//! it; people compare times, and are misled by clocks that differ.

use std::time::Duration;

use hyper::Uri;
use hyper::header::DATE;
use jiff::Timestamp;

use crate::http::{self, Access};

/// No answer counts as none to be had.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many seconds the endpoint's clock is ahead of ours; negative: behind. To the second, as that
/// is what HTTP tells. `None` where it cannot be had.
pub(super) async fn seconds_ahead(url: &str, access: &Access) -> Option<i64> {
    tokio::time::timeout(PATIENCE, ask(url, access)).await.ok().flatten()
}

async fn ask(url: &str, access: &Access) -> Option<i64> {
    let url: Uri = format!("{}/version", url.trim_end_matches('/')).parse().ok()?;
    let asked = Timestamp::now();
    let answer = http::get(&url, access, None).await.ok()?;
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
