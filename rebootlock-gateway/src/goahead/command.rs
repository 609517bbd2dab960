//! Checks and actions: who is meant is put into each word by itself, and no shell reads it.

use std::time::Duration;

use rebootlock::config::CommandLine;
use rebootlock::process::{self, Finished, How, Spec};
use tokio::sync::Semaphore;

use super::duration::GoDuration;

/// So many commands run at once; more wait, within their own time.
const AT_ONCE: usize = 32;

static RUNNING: Semaphore = Semaphore::const_new(AT_ONCE);

/// Whom a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) fqdn: String,
    pub(super) cluster: String,
    /// The uptime that the machine last reported, as it wrote it.
    pub(super) uptime: String,
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
        command: &CommandLine,
        timeout: Duration,
        what: &str,
    ) -> Finished {
        let argv = command.argv().iter().map(|word| self.fill(word)).collect();
        let spec = Spec { argv, env: Vec::new(), timeout };
        match tokio::time::timeout(timeout, RUNNING.acquire()).await {
            Ok(Ok(_turn)) => self.finished(process::run(&spec).await, command, what),
            _ => {
                let how = no_turn();
                tracing::warn!(
                    id = self.fqdn,
                    cluster = self.cluster,
                    command = self.text(command),
                    "{how}"
                );
                Finished { how, ..Finished::default() }
            }
        }
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

    /// Runs all of them, one after another, whatever comes of each. `false`: so many others ran that
    /// one had no turn, and those behind it were not tried.
    pub(super) async fn run_all(
        &self,
        commands: &[CommandLine],
        timeout: Duration,
        what: &str,
    ) -> bool {
        for command in commands {
            let finished = self.run(command, timeout, what).await;
            if finished.how == no_turn() {
                return false;
            }
            if !finished.succeeded() {
                tracing::warn!(
                    target: "rebootlock_gateway::goahead",
                    id = self.fqdn, cluster = self.cluster, what, command = self.text(command),
                    how = %finished.how, "an action failed; the others go on"
                );
            }
        }
        true
    }
}

/// How a command ends that was never begun, because too many ran.
fn no_turn() -> How {
    How::NotStarted("too many commands run already".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject { fqdn: "web-1.example".into(), cluster: "a b".into(), uptime: "1h".into() }
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
    async fn what_had_no_turn_was_not_done() {
        let command = CommandLine::parse("true").unwrap();
        let commands = [command.clone()];
        let (subject, soon) = (subject(), Duration::from_millis(1));
        let all = RUNNING.acquire_many(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        assert!(!subject.run_all(&commands, soon, "test").await);
        drop(all);
        let missing = CommandLine::parse("/nonexistent").unwrap();
        let enough = Duration::from_secs(20);
        assert!(subject.run_all(&[missing, command], enough, "test").await);
    }

    #[tokio::test]
    async fn a_name_stays_in_its_word() {
        let command = CommandLine::parse("printf '<%s>' {:%cluster%:} x{:%fqdn%:}y").unwrap();
        let finished = subject().run(&command, Duration::from_secs(20), "test").await;
        assert_eq!(finished.output.to_string(), "<a b><xweb-1.exampley>");
        assert_eq!(subject().text(&command), "printf '<%s>' a b xweb-1.exampley");
    }
}
