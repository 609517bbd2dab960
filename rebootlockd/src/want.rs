//! Whether a reboot is wanted, and why.

use tokio::sync::watch;

/// What a source of wishes says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Want {
    /// It has not said anything yet.
    #[default]
    Unknown,
    /// No reboot.
    Nothing,
    /// A reboot.
    Reboot {
        /// Why, in words.
        reason: String,
        /// Place in the queue that the wish asks for.
        priority: u32,
        /// An operator asked for it: a decision, and not something that was found.
        requested: bool,
    },
}

/// All sources together.
#[derive(Debug, Clone)]
pub struct Wants {
    sources: Vec<watch::Receiver<Want>>,
}

impl Wants {
    /// What these sources want.
    pub fn new(sources: Vec<watch::Receiver<Want>>) -> Self {
        Self { sources }
    }

    /// A reboot, as soon as one source wants it; nothing, once all of them have said so.
    pub fn now(&self) -> Want {
        let wants: Vec<Want> = self.sources.iter().map(|source| source.borrow().clone()).collect();
        let mut reasons = Vec::new();
        let (mut highest, mut by_operator) = (0, false);
        for want in &wants {
            if let Want::Reboot { reason, priority, requested } = want {
                reasons.push(reason.as_str());
                highest = highest.max(*priority);
                by_operator |= requested;
            }
        }
        if !reasons.is_empty() {
            let (reason, priority) = (reasons.join("; "), highest);
            return Want::Reboot { reason, priority, requested: by_operator };
        }
        if wants.contains(&Want::Unknown) { Want::Unknown } else { Want::Nothing }
    }

    /// Whether an operator's request is among the wishes.
    pub fn is_requested(&self) -> bool {
        matches!(self.now(), Want::Reboot { requested: true, .. })
    }

    /// How many sources have not said anything yet, or cannot say.
    pub fn silent(&self) -> usize {
        self.sources.iter().filter(|source| *source.borrow() == Want::Unknown).count()
    }

    /// Returns when a source says something new. What a source said last stands when it ends. Safe
    /// to cancel.
    pub async fn changed(&mut self) {
        let alive = self.sources.iter_mut().filter(|source| source.has_changed().is_ok());
        let changes: Vec<_> = alive.map(|source| Box::pin(source.changed())).collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        let (_, _, others) = futures::future::select_all(changes).await;
        drop(others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wish_is_enough_and_silence_is_not_a_no() {
        let (first, a) = watch::channel(Want::Unknown);
        let (second, b) = watch::channel(Want::Nothing);
        let wants = Wants::new(vec![a, b]);
        assert_eq!((wants.now(), wants.silent()), (Want::Unknown, 1));
        let kernel = Want::Reboot { reason: "kernel".into(), priority: 3, requested: false };
        second.send_replace(kernel.clone());
        assert_eq!((wants.now(), wants.silent()), (kernel, 1));
        second.send_replace(Want::Nothing);
        first.send_replace(Want::Nothing);
        assert_eq!(wants.now(), Want::Nothing);
    }

    #[test]
    fn a_request_is_one_by_what_it_is_and_not_by_what_it_says() {
        let wish = |reason: &str, requested| {
            let reason = reason.to_owned();
            watch::channel(Want::Reboot { reason, priority: 0, requested })
        };
        let (detector, a) = wish("requested by nobody: the text of a detector", false);
        let (operator, b) = wish("because", true);
        assert!(!Wants::new(vec![a.clone()]).is_requested());
        assert!(Wants::new(vec![a, b]).is_requested());
        drop((detector, operator));
    }
}
