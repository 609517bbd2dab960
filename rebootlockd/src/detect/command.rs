//! `command`: the exit code of a command, and what all detectors that run one have in common.

use std::time::Duration;

use rebootlock::process::{Finished, How, Spec, Stdout, run, run_for_stdout};

use super::{Look, Verdict};

/// Largest answer that is read: a document of this size comes from no healthy program.
const LARGEST: usize = 8 * 1024 * 1024;
/// So much of a line is shown as a reason.
const LONGEST_REASON: usize = 200;

/// A command whose exit code is the answer.
#[derive(Debug)]
pub(super) struct ByExitCode {
    pub(super) argv: Vec<String>,
    /// A reboot is needed.
    pub(super) reboot_needed: Vec<i32>,
    /// None is needed.
    pub(super) clear: Vec<i32>,
}

impl ByExitCode {
    pub(super) async fn look(&self, timeout: Duration) -> Look {
        let finished = run(&Spec { argv: self.argv.clone(), env: Vec::new(), timeout }).await;
        let output = finished.output.to_string();
        let verdict = match &finished.how {
            How::Exited(code) if self.reboot_needed.contains(code) => {
                // The first line stays the same for as long as the reason does; what is the first of
                // what was kept of too much does not.
                let said = first_line(&output).filter(|_| finished.output.dropped() == 0);
                Verdict::wanted(said.unwrap_or_else(|| format!("exit code {code}")))
            }
            How::Exited(code) if self.clear.contains(code) => Verdict::Clear,
            How::Exited(code) => Verdict::failed(format!(
                "exit code {code} means nothing: it is neither in reboot_needed_codes nor in \
                 clear_codes"
            )),
            how => Verdict::failed(no_answer(how, timeout)),
        };
        Look { verdict, exit_code: code_of(&finished.how), output }
    }
}

/// A program that a distribution ships, and what it answered.
pub(super) struct Program<'a> {
    /// Run unless the configuration says otherwise.
    pub(super) argv: &'a [&'a str],
    /// What to do if it is missing.
    pub(super) hint: &'a str,
}

/// What a program printed and how it ended, before anybody has made sense of it.
pub(super) struct Answer {
    pub(super) how: How,
    /// Standard output alone.
    pub(super) stdout: Stdout,
    /// All it printed, or the end of it.
    pub(super) output: String,
}

impl Program<'_> {
    /// Runs it, or `instead`, in the plainest language.
    pub(super) async fn run(&self, instead: Option<&[String]>, timeout: Duration) -> Answer {
        let argv = match instead {
            Some(argv) => argv.to_vec(),
            None => self.argv.iter().map(ToString::to_string).collect(),
        };
        let env = vec![("LC_ALL".to_owned(), "C".to_owned())];
        let (Finished { how, output, .. }, stdout) =
            run_for_stdout(&Spec { argv, env, timeout }, LARGEST).await;
        Answer { how, stdout, output: output.to_string() }
    }

    /// Why `answer` is none, unless the program ended with one of `codes`.
    pub(super) fn failure(
        &self,
        answer: &Answer,
        codes: &[i32],
        timeout: Duration,
    ) -> Option<Verdict> {
        match &answer.how {
            How::Exited(code) if codes.contains(code) => None,
            How::Exited(code) => Some(Verdict::failed(match last_line(&answer.output) {
                Some(line) => format!("exit code {code}: {line}"),
                None => format!("exit code {code}"),
            })),
            How::NotStarted(why) => Some(Verdict::failed(format!("{why}; {}", self.hint))),
            how => Some(Verdict::failed(no_answer(how, timeout))),
        }
    }
}

impl Answer {
    /// The answer as a document.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Verdict> {
        if self.stdout.truncated {
            return Err(Verdict::failed("its answer does not end, or is larger than 8 MiB"));
        }
        serde_json::from_slice(&self.stdout.bytes).map_err(|error| {
            Verdict::failed(format!("its answer is not what it should be: {error}"))
        })
    }

    pub(super) fn look(self, verdict: Verdict) -> Look {
        Look { verdict, exit_code: code_of(&self.how), output: self.output }
    }
}

fn code_of(how: &How) -> Option<i32> {
    match how {
        How::Exited(code) => Some(*code),
        _ => None,
    }
}

fn no_answer(how: &How, timeout: Duration) -> String {
    match how {
        How::TimedOut => {
            format!(
                "no answer within {} s; it and what it had started was killed",
                timeout.as_secs()
            )
        }
        How::NotStarted(why) => why.clone(),
        how => how.to_string(),
    }
}

/// The first line with something in it, without what would upset a terminal.
fn first_line(output: &str) -> Option<String> {
    output.lines().find_map(shown)
}

fn last_line(output: &str) -> Option<String> {
    output.lines().rev().find_map(shown)
}

fn shown(line: &str) -> Option<String> {
    let line: String =
        line.trim().chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn sh(script: &str, timeout: Duration) -> Look {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        ByExitCode { argv, reboot_needed: vec![1, 102], clear: vec![0, 7] }.look(timeout).await
    }

    #[tokio::test]
    async fn only_the_codes_named_are_an_answer() {
        for (script, verdict) in [
            ("exit 0", Verdict::Clear),
            ("exit 7", Verdict::Clear),
            ("exit 102", Verdict::wanted("exit code 102")),
            ("echo; echo ' new kernel '; echo more >&2; exit 1", Verdict::wanted("new kernel")),
            // More than is kept, and so never twice the same.
            ("head -c 70000 /dev/urandom | base64; exit 1", Verdict::wanted("exit code 1")),
        ] {
            assert_eq!(sh(script, LONG).await.verdict, verdict, "{script}");
        }
        let odd = sh("echo Traceback; exit 2", LONG).await;
        assert!(matches!(odd.verdict, Verdict::Failed { why } if why.starts_with("exit code 2 ")));
        assert_eq!((odd.exit_code, odd.output.as_str()), (Some(2), "Traceback"));
    }

    #[tokio::test]
    async fn death_by_signal_is_never_a_yes() {
        for signal in ["KILL", "SEGV", "TERM", "HUP"] {
            let died = sh(&format!("kill -{signal} $$"), LONG).await;
            let Verdict::Failed { why } = died.verdict else { panic!("{signal}") };
            assert!(why.starts_with("killed by signal "), "{why}");
            assert_eq!(died.exit_code, None);
        }
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_started_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "exit 1").expect("a file");
        for program in ["/nonexistent/x", "no-such-program-here", &plain.to_string_lossy()] {
            let argv = vec![program.to_owned()];
            let command = ByExitCode { argv, reboot_needed: vec![1], clear: vec![0] };
            let Verdict::Failed { why } = command.look(LONG).await.verdict else {
                panic!("{program}");
            };
            assert!(why.starts_with(&format!("cannot run {program:?}: ")), "{why}");
        }
    }

    #[tokio::test]
    async fn a_tree_that_outlives_its_time_is_no_answer_and_leaves_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let pids = folder.path().join("pids");
        // A shell with a child that holds the output, both deaf to being asked to end.
        let script = format!(
            "trap '' TERM; (trap '' TERM; echo $$ >> {0}; while :; do sleep 600; done) & \
             echo $! >> {0}; wait; exit 1",
            pids.display()
        );
        let hung = sh(&script, Duration::from_millis(500)).await;
        assert!(matches!(hung.verdict, Verdict::Failed { why } if why.starts_with("no answer")));
        let pids = std::fs::read_to_string(&pids).expect("they started");
        assert!(pids.lines().count() >= 1, "{pids}");
        for pid in pids.lines() {
            // Gone, or dead and not yet collected by whoever inherited it.
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let dead = state.rsplit(')').next().is_none_or(|rest| rest.trim().starts_with('Z'));
            assert!(state.is_empty() || dead, "{pid} lives: {state}");
        }
    }

    #[tokio::test]
    async fn a_flood_of_output_is_kept_to_its_end() {
        let flood =
            sh("head -c 3000000 /dev/zero | tr '\\0' 'x'; echo; echo last; exit 0", LONG).await;
        assert_eq!(flood.verdict, Verdict::Clear);
        assert!(flood.output.len() < 70_000 && flood.output.ends_with("last"));
    }
}
