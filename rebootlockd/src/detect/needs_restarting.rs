//! `needs-restarting`: what RHEL, Fedora and SUSE say about packages updated since boot.
//!
//! Documented is only the exit code: 1 if a reboot is needed, 0 if not. But 1 is also what the
//! Python programs behind it end with when they crash, and what `dnf` ends with when it does not
//! know the command. So a 1 counts only with the sentence that goes with it, in English, which is
//! why they are run in the C locale.

use std::time::Duration;

use rebootlock::process::How;

use super::command::Program;
use super::{Look, Verdict};

const HINT: &str = "it is in the package yum-utils (RHEL 7), dnf-utils (RHEL 8 and later), \
                    dnf-plugins-core (as `dnf needs-restarting`) or zypper-needs-restarting (SUSE)";
const OWN: Program<'_> = Program { argv: &["needs-restarting", "-r"], hint: HINT };
const DNF: Program<'_> = Program { argv: &["dnf", "needs-restarting", "-r"], hint: HINT };

/// Runs `needs-restarting -r`, or where that is missing `dnf needs-restarting -r`.
pub(super) async fn look(instead: Option<&[String]>, timeout: Duration) -> Look {
    let mut answer = OWN.run(instead, timeout).await;
    if instead.is_none() && matches!(answer.how, How::NotStarted(_)) {
        answer = DNF.run(None, timeout).await;
    }
    let verdict = OWN.failure(&answer, &[0, 1], timeout).unwrap_or_else(|| match answer.how {
        How::Exited(0) => Verdict::Clear,
        _ => reason(&answer.output),
    });
    answer.look(verdict)
}

fn reason(output: &str) -> Verdict {
    let lower = output.to_lowercase();
    if !lower.contains("reboot is required") && !lower.contains("reboot is suggested") {
        return Verdict::failed(
            "exit code 1 without saying that a reboot is required: it has failed, it has not \
             answered",
        );
    }
    let updated: Vec<&str> =
        output.lines().filter_map(|line| line.trim().strip_prefix("* ")).take(10).collect();
    if updated.is_empty() {
        return Verdict::wanted("a reboot is required after updates");
    }
    Verdict::wanted(format!("updated since boot: {}", updated.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn says(script: &str) -> Verdict {
        let argv = ["sh", "-c", script].map(str::to_owned);
        look(Some(&argv), Duration::from_secs(60)).await.verdict
    }

    #[tokio::test]
    async fn a_reboot_is_wanted_only_if_it_says_so_too() {
        let required = "echo 'Core libraries or services have been updated since boot-up:'; \
                        echo '  * kernel'; echo '  * systemd'; echo; \
                        echo 'Reboot is required to fully utilize these updates.'; exit 1";
        assert_eq!(says(required).await, Verdict::wanted("updated since boot: kernel, systemd"));
        let suggested = "echo 'Reboot is suggested to ensure that your system benefits'; exit 1";
        let reason = Verdict::wanted("a reboot is required after updates");
        assert_eq!(says(suggested).await, reason);
        assert_eq!(says("echo 'Reboot should not be necessary.'").await, Verdict::Clear);
    }

    #[tokio::test]
    async fn a_crash_that_ends_with_1_is_no_answer() {
        for script in [
            "echo 'Traceback (most recent call last):' >&2; exit 1",
            "echo 'No such command: needs-restarting.' >&2; exit 1",
            "exit 1",
            "exit 2",
            "kill -9 $$",
        ] {
            assert!(matches!(says(script).await, Verdict::Failed { .. }), "{script}");
        }
    }

    #[tokio::test]
    async fn it_runs_in_the_plainest_language() {
        let script = "test \"$LC_ALL\" = C && echo fine";
        assert_eq!(says(script).await, Verdict::Clear);
    }

    #[tokio::test]
    async fn a_missing_program_is_named_with_its_package() {
        let argv = ["/nonexistent/needs-restarting".to_owned()];
        let Verdict::Failed { why } = look(Some(&argv), Duration::from_secs(60)).await.verdict
        else {
            panic!("it is missing");
        };
        assert!(
            why.contains("/nonexistent/needs-restarting") && why.contains("dnf-utils"),
            "{why}"
        );
    }
}
