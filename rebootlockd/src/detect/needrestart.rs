//! `needrestart`: what Debian's and Ubuntu's needrestart says about the kernel, by its documented
//! batch mode. Services that should be restarted are not looked at: a reboot is not needed for them.

use std::time::Duration;

use super::command::Program;
use super::{Look, Verdict};

const NEEDRESTART: Program<'_> =
    Program { argv: &["needrestart", "-b", "-k"], hint: "it is in the package needrestart" };

/// Runs it, or `instead`.
pub(super) async fn look(instead: Option<&[String]>, timeout: Duration) -> Look {
    let answer = NEEDRESTART.run(instead, timeout).await;
    let verdict = NEEDRESTART
        .failure(&answer, &[0], timeout)
        .unwrap_or_else(|| kernel(&String::from_utf8_lossy(&answer.stdout.bytes)));
    answer.look(verdict)
}

fn kernel(text: &str) -> Verdict {
    let value = |key: &str| {
        text.lines().rev().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
    };
    let pending = |what: &str| {
        Verdict::wanted(match (value("NEEDRESTART-KCUR"), value("NEEDRESTART-KEXP")) {
            (Some(running), Some(expected)) if running != expected => {
                format!("kernel {running} is running, {expected} is expected")
            }
            _ => format!("{what} of the kernel is pending"),
        })
    };
    match value("NEEDRESTART-KSTA") {
        Some("1") => Verdict::Clear,
        Some("2") => pending("an ABI-compatible upgrade"),
        Some("3") => pending("a version upgrade"),
        Some("0") => Verdict::failed(
            "needrestart does not know which kernel should run (NEEDRESTART-KSTA is 0)",
        ),
        Some(other) => Verdict::failed(format!(
            "NEEDRESTART-KSTA is {:?}; known are 0 to 3",
            other.chars().take(40).collect::<String>()
        )),
        None => Verdict::failed("its answer has no NEEDRESTART-KSTA"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(status: &str) -> String {
        format!(
            "NEEDRESTART-VER: 3.6\nNEEDRESTART-KCUR: 6.1.0-10-amd64\n\
             NEEDRESTART-KEXP: 6.1.0-13-amd64\nNEEDRESTART-KSTA: {status}\n"
        )
    }

    #[test]
    fn the_documented_states_of_the_kernel_are_told_apart() {
        assert_eq!(kernel(&batch("1")), Verdict::Clear);
        let reason =
            Verdict::wanted("kernel 6.1.0-10-amd64 is running, 6.1.0-13-amd64 is expected");
        assert_eq!(kernel(&batch("2")), reason);
        assert_eq!(kernel(&batch("3")), reason);
        let same = "NEEDRESTART-KCUR: 6.1\nNEEDRESTART-KEXP: 6.1\nNEEDRESTART-KSTA: 2\n";
        let reason = Verdict::wanted("an ABI-compatible upgrade of the kernel is pending");
        assert_eq!(kernel(same), reason);
    }

    #[test]
    fn what_needrestart_does_not_know_is_a_failure() {
        for text in
            [batch("0"), batch("4"), batch(""), batch("11"), String::new(), "\u{FFFD}".into()]
        {
            assert!(matches!(kernel(&text), Verdict::Failed { .. }), "{text}");
        }
    }

    #[tokio::test]
    async fn a_failed_run_is_no_answer_whatever_it_printed() {
        let script = format!("printf '{}'; exit 1", batch("3").replace('\n', "\\n"));
        let argv = ["sh", "-c", &script].map(str::to_owned);
        let failed = look(Some(&argv), Duration::from_secs(60)).await;
        assert_eq!(failed.verdict, Verdict::failed("exit code 1: NEEDRESTART-KSTA: 3"));
        let missing = ["/nonexistent/needrestart".to_owned()];
        let Verdict::Failed { why } = look(Some(&missing), Duration::from_secs(60)).await.verdict
        else {
            panic!("it is missing");
        };
        assert!(why.ends_with("it is in the package needrestart"), "{why}");
    }
}
