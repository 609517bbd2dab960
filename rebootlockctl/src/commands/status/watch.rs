//! `status --watch`: shows the state again whenever the store changes.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use rebootlock::lock::LockError;
use rebootlock::store::{Event, Key, Revision, Span, Watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Seen, document, groups_of, look, text};
use crate::cli::{Format, Status};
use crate::output::{clean, print, say};
use crate::session::Session;
use crate::signals::Signals;

/// Changes that come in a burst are shown once, this long after the first.
const BURST: Duration = Duration::from_millis(50);

/// Pause before a look that failed is tried again, if nothing is heard meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Cursor to the upper left; what is there is overwritten, so nothing flickers.
const HOME: &str = "\u{1b}[H";
/// Clears what an earlier, longer line left behind.
const TO_END_OF_LINE: &str = "\u{1b}[K";
/// Clears what an earlier, longer screen left behind.
const TO_END_OF_SCREEN: &str = "\u{1b}[J";

pub(super) async fn run(session: Session, args: Status) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    tokio::select! {
        ended = follow(&session, &args) => ended.map(|never| match never {}),
        _ = signals.next() => Ok(ExitCode::SUCCESS),
    }
}

async fn follow(session: &Session, args: &Status) -> anyhow::Result<std::convert::Infallible> {
    let mut screen = Screen { json: args.output.output == Format::Json, ..Screen::default() };
    let below = Key::new(format!("{}/", session.locks.keys()));
    // Watched from before the first look, so that no change falls between the two.
    let paused = session.locks.keys().fleet_paused();
    let start = session.locks.store().load(&[paused]).await?;
    let mut changes = session.locks.store().watch(&Span::Below(below.clone()), start.revision);
    loop {
        let mut again = None;
        match see(session, args).await {
            Ok(seen) => screen.show(seen)?,
            Err(error) if is_out_of_reach(&error) => {
                screen.interrupted(&crate::failure::chain(&error))?;
                again = Some(Instant::now() + LOOK_AGAIN);
            }
            Err(error) => return Err(error),
        }
        wait_for_change(&mut changes, &mut screen, again).await?;
    }
}

async fn see(session: &Session, args: &Status) -> anyhow::Result<Vec<Seen>> {
    look(session, groups_of(session, &args.scope).await?).await
}

fn is_out_of_reach(error: &anyhow::Error) -> bool {
    error.downcast_ref::<LockError>().is_some_and(LockError::is_transient)
}

/// Returns when there is something to look at, and the burst it came in is over.
async fn wait_for_change(
    changes: &mut Watch,
    screen: &mut Screen,
    again: Option<Instant>,
) -> anyhow::Result<()> {
    loop {
        let event = match again {
            None => changes.next().await,
            Some(time) => tokio::select! {
                event = changes.next() => event,
                () = sleep_until(time) => return Ok(()),
            },
        };
        match event {
            Some(Event::Interrupted { reason }) => screen.interrupted(&reason)?,
            // Only the end of the runtime ends a watch.
            None => std::future::pending().await,
            Some(_) => break,
        }
    }
    let end = Instant::now() + BURST;
    while let Ok(Some(event)) = timeout_at(end, changes.next()).await {
        if let Event::Interrupted { reason } = event {
            screen.interrupted(&reason)?;
        }
    }
    Ok(())
}

/// What was shown last, and how to show what comes next.
#[derive(Debug, Default)]
struct Screen {
    json: bool,
    last: Option<Vec<Seen>>,
    /// When the store was lost, in words.
    lost: Option<String>,
}

impl Screen {
    /// Shows what was seen, if it is news.
    fn show(&mut self, mut seen: Vec<Seen>) -> anyhow::Result<()> {
        let recovered = self.lost.take().is_some();
        // Revisions grow by what happens elsewhere in the store too.
        let news = seen.clone();
        let plain = |seen: &mut Vec<Seen>| {
            seen.iter_mut().filter_map(|seen| seen.status.as_mut().ok()).for_each(|status| {
                status.revision = Revision::default();
            });
        };
        plain(&mut seen);
        let changed = self.last.as_ref() != Some(&seen);
        if recovered && !is_screen() {
            say(format_args!("the store answers again"));
        }
        if changed || (recovered && is_screen()) {
            let first = self.last.replace(seen).is_none();
            self.draw(&news, first)?;
        }
        Ok(())
    }

    /// Says once that the store is out of reach; what was seen last stays.
    fn interrupted(&mut self, reason: &str) -> anyhow::Result<()> {
        if self.lost.is_some() {
            return Ok(());
        }
        let since = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
        let line = format!("store out of reach since {since}: {}", clean(reason));
        match is_screen() && !self.json {
            true => print(&format!("\n{line}{TO_END_OF_LINE}\n{TO_END_OF_SCREEN}"))?,
            false => say(format_args!("{line}")),
        }
        self.lost = Some(line);
        Ok(())
    }

    fn draw(&self, seen: &[Seen], first: bool) -> anyhow::Result<()> {
        if self.json {
            return print(&format!("{}\n", serde_json::to_string(&document(seen))?));
        }
        let mut text = text(seen);
        for seen in seen {
            if let Err(damage) = &seen.status {
                text += &format!("error: {}\n", clean(damage));
            }
        }
        if is_screen() {
            let lines = text.replace('\n', &format!("{TO_END_OF_LINE}\n"));
            return print(&format!("{HOME}{lines}{TO_END_OF_SCREEN}"));
        }
        print(&if first { text } else { format!("\n{text}") })
    }
}

fn is_screen() -> bool {
    io::stdout().is_terminal()
}
