//! `/events`: what changes on the page, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Response;
use futures::stream::{self, Stream};
use rebootlock::record::UnixTime;
use serde::Serialize;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::feed::Listener;
use super::parts::{Part, Parts};
use super::reply::respond;
use super::session::{self, Token};
use super::{frame, moment};
use crate::app::{App, Live};
use crate::serve::Peer;

/// Between two signs of life: proxies cut what is silent for a minute, and pages give up after 45 s.
const BEAT: Duration = Duration::from_secs(15);

/// After so long a page has to come again, and to be somebody who may look still.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// A part that has changed.
#[derive(Serialize)]
struct Changed<'a> {
    id: &'a str,
    html: &'a str,
}

/// That all is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Beat<'a> {
    /// What the page shows now; it says so when it comes again.
    state: &'a str,
    /// By our clock.
    now: String,
    as_of: String,
}

/// By what a page may look, and for how long.
pub(super) struct Leave {
    /// Others may look from now on.
    replaced: CancellationToken,
    /// The connection is not what it was.
    disconnected: CancellationToken,
    /// Whoever had signed in may look no more.
    lost: CancellationToken,
    _following: Option<AbortOnDropHandle<()>>,
}

impl Leave {
    /// Until the settings by which it may look are replaced, the connection ends, or the session does by
    /// which somebody is signed in.
    pub(super) fn new(app: &Arc<App>, live: &Live, peer: &Peer, session: Option<Token>) -> Self {
        let lost = CancellationToken::new();
        let follow = |token: Token| {
            let (app, lost) = (app.clone(), lost.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                session::lost(&app, &token).await;
                lost.cancel();
            }))
        };
        let following = session.map(follow);
        let (replaced, disconnected) = (live.replaced.clone(), peer.replaced.clone());
        Self { replaced, disconnected, lost, _following: following }
    }
}

struct Conversation {
    app: Arc<App>,
    listener: Listener,
    /// What the page says it shows.
    has: String,
    begun: bool,
    beat: Interval,
    until: Instant,
    stop: CancellationToken,
    leave: Leave,
    over: bool,
}

/// Tells a page that shows `has` what is new, until it hangs up, the gateway stops, or its leave to look
/// is over.
pub(super) fn answer(
    app: Arc<App>,
    leave: Leave,
    listener: Listener,
    has: String,
) -> Response<Body> {
    let now = Instant::now();
    let mut beat = tokio::time::interval_at(now + BEAT, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let until = now + LONGEST;
    let conversation = Conversation {
        stop: app.stop.clone(),
        leave,
        app,
        listener,
        has,
        begun: false,
        beat,
        until,
        over: false,
    };
    let body = Body::from_stream(talk(conversation));
    let mut response = respond(axum::http::StatusCode::OK, "text/event-stream", body);
    // Some proxies collect what they are given unless they are told not to.
    let (name, no) = ("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response.headers_mut().insert(name, no);
    response
}

fn talk(conversation: Conversation) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(conversation, |mut conversation| async move {
        let text = conversation.next().await?;
        Some((Ok(Bytes::from(text)), conversation))
    })
}

impl Conversation {
    /// What to say next. It is asked only when the one before has left, so a page that reads slowly is
    /// told what is so then and not what was meanwhile.
    async fn next(&mut self) -> Option<String> {
        if self.over {
            return None;
        }
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Some(self.bye()),
                () = self.leave.replaced.cancelled() => return Some(self.bye()),
                () = self.leave.disconnected.cancelled() => return Some(self.bye()),
                () = self.leave.lost.cancelled() => return Some(self.bye()),
                () = tokio::time::sleep_until(self.until) => return Some(self.bye()),
                changed = self.listener.changed() => {
                    let (parts, changed) = changed?;
                    let first = !std::mem::replace(&mut self.begun, true);
                    if first && parts.state == self.has {
                        return Some(self.beat_of(&parts));
                    }
                    if first || !changed.is_empty() {
                        return Some(told(&changed) + &self.beat_of(&parts));
                    }
                }
                _ = self.beat.tick() => match self.listener.current() {
                    Some(parts) => return Some(self.beat_of(&parts)),
                    // A store that is slow: something has to be said all the same.
                    None => return Some(": \n\n".to_owned()),
                },
            }
        }
    }

    /// The last that is said.
    fn bye(&mut self) -> String {
        self.over = true;
        "event: bye\ndata: {}\n\n".to_owned()
    }

    fn beat_of(&mut self, parts: &Parts) -> String {
        self.beat.reset();
        let as_of = frame::as_of(self.app.page.seen(), moment::Ages::Blank).into_string();
        event("beat", &Beat { state: &parts.state, now: UnixTime::now().to_text(), as_of })
    }
}

fn told(changed: &[Part]) -> String {
    changed.iter().map(|Part { id, html, .. }| event("part", &Changed { id, html })).collect()
}

/// As JSON, which has no line breaks whatever is in it.
fn event(name: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_its_event() {
        let part = Part::new("a", "x\ny\r\rdata: evil\n\nevent: beat".to_owned());
        let text = told(&[part]);
        assert_eq!(text.matches('\n').count(), 3, "{text}");
        assert!(text.ends_with("\n\n") && !text.contains('\r'), "{text}");
    }
}
