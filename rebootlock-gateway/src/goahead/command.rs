//! Checks and actions: who is meant is put into each word by itself, and no shell reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rebootlock::config::CommandLine;
use rebootlock::id::MachineId;
use rebootlock::process::{self, Finished, Spec};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::duration::GoDuration;

/// Where commands wait for their turn. Each room has turns of its own: what strangers ask for must not
/// keep a machine from being drained, or a slot from being freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Checks whether there is a reason to reboot, which anybody may ask for.
    Questions,
    /// Checks whether a holder is back.
    Completion,
    /// All that is done about holders.
    Actions,
}

static QUESTIONS: Semaphore = Semaphore::const_new(16);
static COMPLETION: Semaphore = Semaphore::const_new(16);
static ACTIONS: Semaphore = Semaphore::const_new(32);

impl Room {
    fn turns(self) -> &'static Semaphore {
        match self {
            Self::Questions => &QUESTIONS,
            Self::Completion => &COMPLETION,
            Self::Actions => &ACTIONS,
        }
    }

    /// Waits for a turn, which lasts until it is dropped. Those who came before have theirs before.
    pub(super) async fn turn(self) -> Turn {
        match self.turns().acquire().await {
            Ok(permit) => Turn(permit),
            // Nobody closes them.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Leave to run commands, one after another.
#[derive(Debug)]
pub(super) struct Turn(#[allow(dead_code)] SemaphorePermit<'static>);

/// Whose actions wait for each other: however often a machine asks again, it takes one turn.
static IN_LINE: Mutex<BTreeMap<MachineId, Weak<tokio::sync::Mutex<()>>>> =
    Mutex::new(BTreeMap::new());

/// The line in which the actions of one machine wait.
pub(super) fn line_of(machine: &MachineId) -> Arc<tokio::sync::Mutex<()>> {
    let mut lines = IN_LINE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(line) = lines.get(machine).and_then(Weak::upgrade) {
        return line;
    }
    lines.retain(|_, line| line.strong_count() > 0);
    let line = Arc::default();
    lines.insert(machine.clone(), Arc::downgrade(&line));
    line
}

/// Whom a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) fqdn: String,
    pub(super) cluster: String,
    /// The uptime that the machine last reported, as it wrote it.
    pub(super) uptime: String,
    /// Where commands run, if not in `/`.
    pub(super) folder: Option<PathBuf>,
}

impl Subject {
    /// `text` with its placeholders filled. What is filled in is not looked at again.
    fn fill(&self, text: &str) -> String {
        let (mut filled, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("{:%") {
            filled.push_str(before);
            let known = after.split_once("%:}").and_then(|(name, after)| {
                let value = match name {
                    "fqdn" => self.fqdn.as_str(),
                    "cluster" => self.cluster.as_str(),
                    "uptime" => self.plain_uptime(),
                    "hostname" => self.fqdn.split('.').next().unwrap_or_default(),
                    _ => return None,
                };
                Some((value, after))
            });
            let (value, after) = known.unwrap_or(("{:%", after));
            filled.push_str(value);
            rest = after;
        }
        filled + rest
    }

    /// One that no program takes for an option, or for anything but a length of time.
    fn plain_uptime(&self) -> &str {
        let is_known = self.uptime.is_empty() || self.uptime.parse::<GoDuration>().is_ok();
        match self.uptime.starts_with('-') || !is_known {
            true => "0s",
            false => self.uptime.trim_start_matches('+'),
        }
    }

    /// The command as people read it.
    pub(super) fn text(&self, command: &CommandLine) -> String {
        self.fill(command.text())
    }

    /// Runs it to its end, or to its time limit. Logs how it ended.
    pub(super) async fn run(
        &self,
        _turn: &Turn,
        command: &CommandLine,
        timeout: Duration,
        what: &str,
    ) -> Finished {
        let argv = command.argv().iter().map(|word| self.fill(word)).collect();
        let spec = Spec { argv, env: Vec::new(), timeout };
        let folder = self.folder.as_deref().unwrap_or(Path::new("/"));
        self.finished(process::run_in(folder, &spec).await, command, what)
    }

    fn finished(&self, finished: Finished, command: &CommandLine, what: &str) -> Finished {
        tracing::info!(
            target: "rebootlock_gateway::goahead",
            id = self.fqdn, cluster = self.cluster, what, command = self.text(command),
            ms = finished.took.as_millis(), how = %finished.how, output = finished.output.tail(500),
            "command has ended"
        );
        finished
    }

    /// Runs all of them, one after another, whatever comes of each.
    pub(super) async fn run_all(
        &self,
        turn: &Turn,
        commands: &[CommandLine],
        timeout: Duration,
        what: &str,
    ) {
        for command in commands {
            let finished = self.run(turn, command, timeout, what).await;
            if !finished.succeeded() {
                tracing::warn!(
                    target: "rebootlock_gateway::goahead",
                    id = self.fqdn, cluster = self.cluster, what, command = self.text(command),
                    how = %finished.how, "an action failed; the others go on"
                );
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            fqdn: "web-1.example".into(),
            cluster: "a b".into(),
            uptime: "1h".into(),
            folder: None,
        }
    }

    #[test]
    fn placeholders_are_filled_word_by_word_and_once() {
        let subject = subject();
        for (text, filled) in [
            ("{:%fqdn%:}", "web-1.example"),
            ("{:%hostname%:}-{:%cluster%:}-{:%uptime%:}", "web-1-a b-1h"),
            ("{:%fqdn%:}{:%fqdn%:}", "web-1.exampleweb-1.example"),
            ("{:%other%:} {:%fqdn", "{:%other%:} {:%fqdn"),
            ("{:%{:%fqdn%:}", "{:%web-1.example"),
        ] {
            assert_eq!(subject.fill(text), filled, "{text}");
        }
        let subject = Subject { cluster: "{:%fqdn%:}".into(), ..subject };
        assert_eq!(subject.fill("{:%cluster%:}"), "{:%fqdn%:}");
    }

    #[test]
    fn no_uptime_is_an_option() {
        for (uptime, filled) in
            [("-5h", "0s"), ("+5h", "5h"), ("5h", "5h"), ("-0", "0s"), ("$(a)", "0s"), ("", "")]
        {
            let subject = Subject { uptime: uptime.into(), ..subject() };
            assert_eq!(subject.fill("{:%uptime%:}"), filled);
        }
    }

    #[tokio::test]
    async fn one_room_being_full_keeps_nobody_from_another() {
        let rooms = [Room::Questions, Room::Completion, Room::Actions];
        for full in rooms {
            let mut all = Vec::new();
            while let Ok(turn) = full.turns().try_acquire() {
                all.push(turn);
            }
            let mut waits = std::pin::pin!(full.turn());
            assert!(futures::poll!(waits.as_mut()).is_pending(), "{full:?}");
            for other in rooms.into_iter().filter(|other| *other != full) {
                other.turn().await;
            }
            all.pop();
            waits.await;
        }
    }

    #[test]
    fn a_line_is_there_for_as_long_as_somebody_waits_in_it() {
        let machine = |name: &str| MachineId::new(name).unwrap();
        let first = line_of(&machine("line-1"));
        assert!(Arc::ptr_eq(&first, &line_of(&machine("line-1"))));
        assert!(!Arc::ptr_eq(&first, &line_of(&machine("line-2"))));
        drop(first);
        let _other = line_of(&machine("line-3"));
        let lines = IN_LINE.lock().unwrap();
        assert!(lines.keys().all(|known| known.as_str() == "line-3"), "{lines:?}");
    }

    #[tokio::test]
    async fn a_name_stays_in_its_word() {
        let command = CommandLine::parse("printf '<%s>' {:%cluster%:} x{:%fqdn%:}y").unwrap();
        let turn = Room::Actions.turn().await;
        let finished = subject().run(&turn, &command, Duration::from_secs(20), "test").await;
        assert_eq!(finished.output.to_string(), "<a b><xweb-1.exampley>");
        assert_eq!(subject().text(&command), "printf '<%s>' a b xweb-1.exampley");
    }
}
