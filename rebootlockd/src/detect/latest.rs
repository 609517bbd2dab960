//! What the detectors found last, whoever asked them: the one place their answers come together, so
//! that an older answer never replaces a newer one.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::{Detectors, Finding, Findings, Verdict};
use crate::want::Want;

/// The detectors, what each said last, and whoever wants to know what follows from it.
#[derive(Debug)]
pub struct Latest {
    detectors: Detectors,
    want: watch::Sender<Want>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Rounds of questions begun so far.
    begun: u64,
    /// What each detector said last, and in which round it was asked.
    said: Vec<Option<(u64, Finding)>>,
}

impl Latest {
    /// Tells `want` what the answers come to, from the moment that all detectors have answered once.
    pub fn new(detectors: Detectors, want: watch::Sender<Want>) -> Self {
        let said = detectors.all.iter().map(|_| None).collect();
        Self { detectors, want, known: Mutex::new(Known { begun: 0, said }) }
    }

    /// Whether there is no detector.
    pub fn is_empty(&self) -> bool {
        self.detectors.is_empty()
    }

    /// What the answers come to.
    pub fn want(&self) -> Want {
        self.want.borrow().clone()
    }

    /// Asks all detectors, and returns what is known then; `heard` is told each answer. If the future
    /// is dropped their commands are killed, and what was known stands.
    pub async fn ask(&self, heard: impl Fn(&Finding)) -> Findings {
        let round = self.begin();
        let answers = self.detectors.ask().await;
        answers.iter().for_each(heard);
        self.learn(round, answers.all.into_iter().enumerate())
    }

    /// Asks those again that look at watched files; `heard` is told each answer.
    pub(super) async fn ask_watched(&self, heard: impl Fn(&Finding)) {
        let round = self.begin();
        let answers = self.detectors.ask_watched().await;
        answers.iter().for_each(|(_, finding)| heard(finding));
        self.learn(round, answers.into_iter());
    }

    /// Returns when nobody wants to know any more.
    pub(super) async fn closed(&self) {
        self.want.closed().await;
    }

    /// The detectors themselves.
    pub(super) fn detectors(&self) -> &Detectors {
        &self.detectors
    }

    fn begin(&self) -> u64 {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.begun += 1;
        known.begun
    }

    /// Takes in the answers of a round, but for those of detectors that were asked again since and
    /// have answered already. Says in the log what is news, each thing once.
    fn learn(&self, round: u64, answers: impl Iterator<Item = (usize, Finding)>) -> Findings {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, finding) in answers {
            let Some(before) = known.said.get_mut(at) else { continue };
            if before.as_ref().is_some_and(|(later, _)| *later > round) {
                continue;
            }
            let said = |finding: &Finding| (finding.verdict.clone(), finding.exit_code);
            if before.as_ref().is_none_or(|(_, before)| said(before) != said(&finding)) {
                log(&finding);
            }
            *before = Some((round, finding));
        }
        let all: Vec<Finding> = known.said.iter().flatten().map(|(_, last)| last.clone()).collect();
        let findings = Findings { all };
        // One that has not answered yet may still find a reason, or fail.
        if findings.all.len() == known.said.len() {
            let now = findings.want();
            // Under the lock, so that what is told last is what is known last.
            self.want.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
        }
        findings
    }
}

fn log(finding: &Finding) {
    let reason = match &finding.verdict {
        Verdict::Clear => None,
        Verdict::Wanted { reason } => Some(reason),
        Verdict::Failed { why } => Some(why),
    };
    // All that is kept of it.
    let output = (!finding.output.is_empty()).then_some(finding.output.as_str());
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use rebootlock::config::Fragment;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn latest(config: &str) -> (Arc<Latest>, watch::Receiver<Want>) {
        let fragment = Fragment::parse(Path::new("test.toml"), config).unwrap();
        let (want, told) = watch::channel(Want::Unknown);
        let detectors = Detectors::new(&fragment.detector.unwrap_or_default());
        (Arc::new(Latest::new(detectors, want)), told)
    }

    /// A detector that wants a reboot as long as `switch` is there, and one that looks at `marker`.
    fn two(folder: &Path) -> String {
        let at = |name: &str| folder.join(name).display().to_string();
        let script = format!("[ ! -e {} ]", at("switch"));
        format!(
            "[[detector]]\nname = \"switched\"\ntype = \"command\"\nreboot_needed_codes = [1]\n\
             command = [\"sh\", \"-c\", {script:?}]\n\
             [[detector]]\nname = \"marker\"\ntype = \"file\"\npath = {:?}\n",
            at("marker")
        )
    }

    fn reason(want: &Want) -> &str {
        match want {
            Want::Reboot { reason, .. } => reason,
            _ => "",
        }
    }

    #[tokio::test]
    async fn a_newer_no_is_not_replaced_by_an_older_yes() {
        let folder = tempfile::tempdir().unwrap();
        let switch = folder.path().join("switch");
        let (latest, told) = latest(&two(folder.path()));
        let (older, newer) = (latest.begin(), latest.begin());
        std::fs::write(&switch, "").unwrap();
        let yes = latest.detectors.ask().await;
        assert_eq!(reason(&yes.want()), "switched: exit code 1");
        std::fs::remove_file(&switch).unwrap();
        let no = latest.detectors.ask().await;
        latest.learn(newer, no.all.into_iter().enumerate());
        assert_eq!(*told.borrow(), Want::Nothing);
        // It began before, and took longer.
        let after = latest.learn(older, yes.all.into_iter().enumerate());
        assert_eq!((after.want(), told.borrow().clone()), (Want::Nothing, Want::Nothing));
    }

    #[tokio::test]
    async fn a_file_that_comes_brings_back_no_older_answer_of_another_detector() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| std::fs::write(folder.path().join(name), "").unwrap();
        let (latest, mut told) = latest(&two(folder.path()));
        put("switch");
        let following = tokio::spawn(super::super::follow(latest.clone(), LONG * 60, |_| {}));
        let mut until = async |wanted: &str| {
            let matches = |want: &Want| reason(want).contains(wanted);
            tokio::time::timeout(LONG, told.wait_for(matches)).await.unwrap().unwrap().clone()
        };
        until("switched").await;
        // As right before the permit: asked by somebody else.
        std::fs::remove_file(folder.path().join("switch")).unwrap();
        assert_eq!(latest.ask(|_| {}).await.want(), Want::Nothing);
        put("marker");
        let want = until("marker").await;
        assert!(!reason(&want).contains("switched"), "{want:?}");
        following.abort();
    }

    #[tokio::test]
    async fn nothing_is_told_before_all_have_answered() {
        let folder = tempfile::tempdir().unwrap();
        let (latest, told) = latest(&two(folder.path()));
        latest.ask_watched(|_| {}).await;
        assert_eq!(*told.borrow(), Want::Unknown);
        latest.ask(|_| {}).await;
        assert_eq!(*told.borrow(), Want::Nothing);
    }
}
