//! Whether a reboot is wanted, and why.

use tokio::sync::watch;

/// How the reason of an operator's request begins.
pub const REQUESTED: &str = "requested by ";

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
        let mut highest = 0;
        for want in &wants {
            if let Want::Reboot { reason, priority } = want {
                reasons.push(reason.as_str());
                highest = highest.max(*priority);
            }
        }
        if !reasons.is_empty() {
            return Want::Reboot { reason: reasons.join("; "), priority: highest };
        }
        if wants.contains(&Want::Unknown) { Want::Unknown } else { Want::Nothing }
    }

    /// Whether an operator's request is among the wishes.
    pub fn is_requested(&self) -> bool {
        self.sources.iter().any(|source| {
            matches!(&*source.borrow(), Want::Reboot { reason, .. } if reason.starts_with(REQUESTED))
        })
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
        assert_eq!(wants.now(), Want::Unknown);
        second.send_replace(Want::Reboot { reason: "kernel".into(), priority: 3 });
        assert_eq!(wants.now(), Want::Reboot { reason: "kernel".into(), priority: 3 });
        second.send_replace(Want::Nothing);
        first.send_replace(Want::Nothing);
        assert_eq!(wants.now(), Want::Nothing);
    }
}
