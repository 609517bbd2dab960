//! What time it is where an endpoint is, by the `Date` of its plain HTTP answers. Nothing is decided
//! on it; people compare times, and are misled by clocks that differ.

use std::time::Duration;

use hyper::header::{DATE, HOST};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::TcpStream;

/// No answer counts as none to be had.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many seconds the endpoint's clock is ahead of ours; negative: behind. To the second, as that
/// is what HTTP tells. `None` where it cannot be had, such as over TLS.
pub(super) async fn seconds_ahead(url: &str) -> Option<i64> {
    let authority = url.strip_prefix("http://")?;
    tokio::time::timeout(PATIENCE, ask(authority)).await.ok().flatten()
}

async fn ask(authority: &str) -> Option<i64> {
    let stream = TcpStream::connect(authority).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = hyper::Request::get("/version").header(HOST, authority).body(String::new());
    let request = request.ok()?;
    let asked = Timestamp::now();
    let answer = async {
        let response = sender.send_request(request).await.ok()?;
        let date = response.headers().get(DATE)?.to_str().ok()?.to_owned();
        jiff::fmt::rfc2822::parse(&date).ok().map(|date| date.timestamp())
    };
    let theirs = tokio::select! {
        biased;
        theirs = answer => theirs?,
        // The connection is what carries the answer, and has to be polled for it.
        _ = connection => return None,
    };
    // HTTP cuts the fraction off: a clock that agrees with ours says a second that began before
    // the answer came and ended after the question was asked.
    let earliest = asked.as_second();
    let latest = Timestamp::now().as_second();
    Some(match theirs.as_second() {
        theirs if theirs < earliest => theirs - earliest,
        theirs if theirs > latest => theirs - latest,
        _ => 0,
    })
}
