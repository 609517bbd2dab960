//! Asking the detectors again and again, and telling what changes.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::watch::Watcher;
use super::{Detectors, Finding, Findings, Verdict};
use crate::want::Want;

/// Between two looks at a file that changes again and again, as a list does while packages are
/// being installed.
const BREATH: Duration = Duration::from_millis(50);
/// So much of a command's output is in the log.
const LOGGED: usize = 4000;

/// Asks every `interval`, a tenth more or less so that machines do not keep step, and those that
/// look at watched files at once when one changes. Tells `want` and the log what changes, for as
/// long as anybody wants to know.
pub async fn follow(detectors: Arc<Detectors>, interval: Duration, want: watch::Sender<Want>) {
    let mut watcher = Watcher::new(&detectors.watched());
    let mut said = Said::default();
    loop {
        // Before the look, so that nothing falls between.
        watcher.arm();
        let next = Instant::now() + interval.mul_f64(rand::rng().random_range(0.9..=1.1));
        let mut findings = tokio::select! {
            findings = detectors.ask() => findings,
            () = want.closed() => return,
        };
        loop {
            said.tell(&findings);
            tell(&want, findings.want());
            tokio::select! {
                () = tokio::time::sleep_until(next) => break,
                () = watcher.changed() => {}
                () = want.closed() => return,
            }
            findings = tokio::select! {
                findings = detectors.ask_watched(findings) => findings,
                () = want.closed() => return,
            };
            said.tell(&findings);
            tell(&want, findings.want());
            tokio::select! {
                () = tokio::time::sleep(BREATH) => {}
                () = want.closed() => return,
            }
        }
    }
}

fn tell(want: &watch::Sender<Want>, now: Want) {
    want.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}

/// What was logged last of each detector: each thing is said once.
#[derive(Debug, Default)]
struct Said {
    last: Vec<(Verdict, Option<i32>)>,
}

impl Said {
    fn tell(&mut self, findings: &Findings) {
        let now = findings.iter().map(|one| (one.verdict.clone(), one.exit_code)).collect();
        let before = std::mem::replace(&mut self.last, now);
        for (at, (finding, now)) in findings.iter().zip(&self.last).enumerate() {
            if before.get(at) != Some(now) {
                log(finding);
            }
        }
    }
}

fn log(finding: &Finding) {
    let reason = match &finding.verdict {
        Verdict::Clear => None,
        Verdict::Wanted { reason } => Some(reason),
        Verdict::Failed { why } => Some(why),
    };
    let output = (!finding.output.is_empty()).then(|| tail(&finding.output));
    macro_rules! event {
        ($level:ident, $sentence:literal) => {
            tracing::$level!(
                name = finding.name,
                kind = finding.kind,
                verdict = finding.verdict.as_str(),
                reason,
                seconds = finding.took.as_secs_f64(),
                exit_code = finding.exit_code,
                output,
                $sentence
            )
        };
    }
    match &finding.verdict {
        Verdict::Clear => event!(info, "a detector sees no reason to reboot"),
        Verdict::Wanted { .. } => event!(info, "a detector sees a reason to reboot"),
        Verdict::Failed { .. } if finding.optional => {
            event!(warn, "a detector failed and is left out, because it is optional");
        }
        Verdict::Failed { .. } => {
            event!(
                error,
                "a detector failed; nothing reboots because of any detector until it works"
            );
        }
    }
}

fn tail(text: &str) -> &str {
    match text.char_indices().rev().take(LOGGED).last() {
        Some((start, _)) => &text[start..],
        None => text,
    }
}
