//! What gates answer, and how it is said.

use std::time::Duration;

use super::Phase;

/// Longest reason, in characters: it goes into sentences, logs and the store.
const MAX_WHY: usize = 300;
/// Of many names or gates, so many are named.
const MAX_NAMED: usize = 5;

/// What a gate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go ahead.
    Open,
    /// Wait.
    Closed {
        /// For whom or what.
        why: String,
    },
    /// It could not be found out, so: wait.
    Unknown {
        /// Why not.
        why: String,
    },
}

impl Verdict {
    pub(super) fn closed(why: impl Into<String>) -> Self {
        Self::Closed { why: clean(&why.into(), MAX_WHY) }
    }

    pub(super) fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown { why: clean(&why.into(), MAX_WHY) }
    }

    /// `open`, `closed` or `unknown`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed { .. } => "closed",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Why it is not open.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Open => None,
            Self::Closed { why } | Self::Unknown { why } => Some(why),
        }
    }
}

/// What one gate answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The gate's name.
    pub name: String,
    /// Its type.
    pub kind: &'static str,
    /// What it says.
    pub verdict: Verdict,
    /// How long that took.
    pub took: Duration,
    /// The exit code of a script that ended by itself.
    pub exit_code: Option<i32>,
    /// The end of what a script printed.
    pub output: String,
}

impl Answer {
    /// `gate smoke is closed: exit 7`
    pub fn sentence(&self) -> String {
        let name = clean(&self.name, MAX_WHY);
        match &self.verdict {
            Verdict::Open => format!("gate {name} is open"),
            Verdict::Closed { why } => format!("gate {name} is closed: {why}"),
            Verdict::Unknown { why } => format!("gate {name} cannot be checked: {why}"),
        }
    }

    pub(super) fn log(&self, phase: Phase) {
        let (gate, kind, phase) = (self.name.as_str(), self.kind, phase.as_str());
        let (verdict, why) = (self.verdict.as_str(), self.verdict.why());
        let seconds = (self.took.as_secs_f64() * 1000.0).round() / 1000.0;
        let exit_code = self.exit_code;
        // All that is kept of it.
        let output = (!self.output.is_empty()).then_some(self.output.as_str());
        let sentence = self.sentence();
        if matches!(self.verdict, Verdict::Unknown { .. }) {
            tracing::warn!(
                gate,
                kind,
                phase,
                verdict,
                why,
                seconds,
                exit_code,
                output,
                "{sentence}"
            );
        } else {
            tracing::info!(
                gate,
                kind,
                phase,
                verdict,
                why,
                seconds,
                exit_code,
                output,
                "{sentence}"
            );
        }
    }
}

/// What the gates of a phase answered, in the order of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    answers: Vec<Answer>,
}

impl Answers {
    pub(super) fn new(answers: Vec<Answer>) -> Self {
        Self { answers }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter()
    }

    /// Those that do not let the machine go, whether they say no or say nothing.
    pub fn closed(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(|answer| answer.verdict != Verdict::Open)
    }

    /// Whether nothing is in the way.
    pub fn is_open(&self) -> bool {
        self.closed().next().is_none()
    }

    /// Whether all that is in the way is that gates could not be checked.
    pub fn is_unknown(&self) -> bool {
        let unknown = |answer: &Answer| matches!(answer.verdict, Verdict::Unknown { .. });
        !self.is_open() && self.closed().all(unknown)
    }

    /// What is in the way, in one sentence; nothing if nothing is.
    pub fn sentence(&self) -> Option<String> {
        let closed: Vec<_> = self.closed().map(Answer::sentence).collect();
        (!closed.is_empty()).then(|| listed(&closed, "; "))
    }
}

/// The first few of `names`, and how many more there are.
pub(super) fn listed(names: &[String], between: &str) -> String {
    let named = names[..names.len().min(MAX_NAMED)].join(between);
    match names.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// `text` on one line and not longer than `limit`: what others wrote must not play tricks on a
/// terminal or fill a log.
pub(super) fn clean(text: &str, limit: usize) -> String {
    let mut clean: String =
        text.trim().chars().take(limit).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().chars().count() > limit {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(name: &str, verdict: Verdict) -> Answer {
        let (took, output) = (Duration::ZERO, String::new());
        Answer { name: name.to_owned(), kind: "script", verdict, took, exit_code: None, output }
    }

    #[test]
    fn one_sentence_says_what_is_in_the_way() {
        let all = |answers: &[(&str, Verdict)]| {
            Answers::new(answers.iter().map(|(name, v)| answer(name, v.clone())).collect())
        };
        assert_eq!(all(&[("a", Verdict::Open)]).sentence(), None);
        assert!(all(&[("a", Verdict::Open)]).is_open() && Answers::default().is_open());
        let closed = all(&[
            ("smoke", Verdict::closed("exit 7")),
            ("a", Verdict::Open),
            ("web", Verdict::unknown("no answer\nwithin 30 s")),
        ]);
        assert!(!closed.is_open() && !closed.is_unknown());
        assert_eq!(
            closed.sentence().as_deref(),
            Some("gate smoke is closed: exit 7; gate web cannot be checked: no answer within 30 s")
        );
        assert!(all(&[("a", Verdict::Open), ("b", Verdict::unknown(""))]).is_unknown());
        let many = vec![answer("x", Verdict::closed("y")); 8];
        let said = Answers::new(many).sentence().unwrap_or_default();
        assert!(said.ends_with("; gate x is closed: y and 3 more"), "{said}");
    }

    #[test]
    fn what_others_wrote_is_bounded_and_on_one_line() {
        assert_eq!(clean(" a\x1b[2Jb\n", 300), "a [2Jb");
        assert_eq!(clean("ééé", 2), "éé…");
    }
}
