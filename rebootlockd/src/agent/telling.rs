//! What is told of all this: to the log, to systemd, to the others, to update-engine's tools and in
//! figures.

use std::time::Duration;

use rand::RngExt as _;
use rebootlock::config::Strategy;
use rebootlock::id::Group;
use rebootlock::lock::LockError;
use rebootlock::notify;
use rebootlock::record::{Blocked, UnixTime};

use super::{Agent, ONCE_PATIENCE};
use crate::coordinator::CoordinatorState;
use crate::lookout::Closed;
use crate::metrics::Lasting;
use crate::outcome::Outcome;
use crate::policy::State;
use crate::want::Want;

impl Agent {
    /// Says how the present pass ends: in the log when it is news, to the others, and in figures.
    pub(super) fn conclude(&mut self, closed: Closed) {
        self.metrics.pass_ended(closed.outcome);
        let news = self
            .outcome
            .as_ref()
            .is_none_or(|before| (before.outcome, &before.why) != (closed.outcome, &closed.why));
        let (status, why) = (closed.outcome.as_str(), closed.why.as_str());
        if news {
            let dry_run = self.options.run.dry_run;
            let usual = matches!(
                closed.outcome,
                Outcome::LockUnavailable | Outcome::WindowOutsideAllow | Outcome::CooldownActive
            );
            if usual || closed.outcome.exit_code() == 0 {
                tracing::info!(status, why, dry_run, "pass ended");
            } else {
                tracing::warn!(status, why, dry_run, "pass ended");
            }
        }
        let still_required = closed.outcome == Outcome::StillRequired;
        // While nobody knows whether a reboot is wanted nobody knows that either.
        if still_required || self.wants.now() != Want::Unknown {
            self.metrics.set_still_required(still_required);
        }
        if !self.follows_store {
            // A server says so when it is asked for a slot, and not otherwise.
            self.metrics.set_held((closed.outcome == Outcome::Held).then_some(true));
        }
        let idle = matches!(closed.outcome, Outcome::NoAction | Outcome::Ready);
        let wanted = match self.wants.now() {
            Want::Reboot { reason, .. } => Some(reason),
            _ => None,
        };
        self.shown.send_if_modified(|shown| {
            let before = shown.blocked.as_ref();
            let same = before.is_some_and(|b| b.outcome == status && b.why == why);
            let blocked = (!idle).then(|| Blocked {
                outcome: status.to_owned(),
                why: why.to_owned(),
                since: before.filter(|_| same).map_or_else(UnixTime::now, |b| b.since),
                wanted,
            });
            let changed = blocked != shown.blocked;
            shown.blocked = blocked;
            changed
        });
        self.outcome = Some(closed);
    }

    /// Says why nothing goes on, in the log only when it is news, and waits before the next try:
    /// less than a second where time may cure it, so that a store's return is noticed at once.
    pub(super) async fn stuck(&mut self, doing: &str, error: &LockError) {
        self.complain(doing, error.to_string());
        self.lose_patience(&format!("{doing}: {error}")).await;
        let longest = if error.is_transient() { 750 } else { 5000 };
        let pause = rand::rng().random_range(longest / 3..=longest);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// A single pass that has waited for long enough says why, and ends here.
    pub(super) async fn lose_patience(&mut self, why: &str) {
        let Some(gave_up) = &self.gave_up else { return };
        let since = *self.stuck_since.get_or_insert_with(tokio::time::Instant::now);
        if since.elapsed() >= ONCE_PATIENCE && gave_up.try_send(why.to_owned()).is_ok() {
            std::future::pending().await
        }
    }

    pub(super) fn complain(&mut self, doing: &str, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(error = why, "{doing}");
            self.say(&format!("{doing}: {why}"));
            self.trouble = Some(why);
        }
    }

    pub(super) fn clear_trouble(&mut self) {
        self.trouble = None;
        self.stuck_since = None;
    }

    /// Nothing keeps this machine any more.
    pub(super) fn go_on(&mut self) {
        self.outcome = None;
        if !self.follows_store {
            self.metrics.set_held(None);
        }
        self.shown.send_if_modified(|shown| shown.blocked.take().is_some());
    }

    /// In figures: the slots of this machine as it knows them itself, where no store is asked for that.
    pub(super) fn tell_slots(&self) {
        if self.follows_store {
            return;
        }
        let held = self.held.as_ref();
        if held.is_none() && !self.looked {
            return self.metrics.set_slots([]);
        }
        let of_group = |group: &Group| match held {
            Some(held) if held.groups.contains(group) => Lasting::since(held.since),
            _ => Lasting::No,
        };
        let groups = &self.options.settings.machine.groups;
        self.metrics.set_slots(groups.iter().map(|group| (group.clone(), of_group(group))));
    }

    /// In figures: whether store or server answered, where nobody follows the store.
    pub(super) fn tell_store_up(&self, up: bool) {
        if !self.follows_store {
            self.metrics.set_store_up(Some(up));
        }
    }

    pub(super) fn show_state(&mut self, state: State) {
        self.metrics.set_state(state, UnixTime::now());
        // For as long as the order stands, also while it is given again.
        let ordered = matches!(state, State::Permitting | State::Rebooting);
        self.ending_since = self.ending_since.filter(|_| ordered);
        self.metrics.set_overdue(ordered && self.is_overdue());
        self.shown.send_if_modified(|shown| std::mem::replace(&mut shown.state, state) != state);
    }

    /// Says what the agent is doing, in `systemctl status`.
    pub(super) fn say(&self, sentence: &str) {
        tracing::debug!(sentence, "status");
        notify::status(sentence);
    }

    pub(super) fn coordinate(&mut self, state: CoordinatorState) {
        if let Err(error) = self.coordinator.set(state) {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "update-engine's tools are not told"
            );
        }
    }
}

pub(super) fn coordinator_state(state: State, strategy: Strategy) -> CoordinatorState {
    match state {
        State::Starting => CoordinatorState::Starting,
        _ if strategy == Strategy::Off => CoordinatorState::Disabled,
        State::Idle | State::Verifying => CoordinatorState::Running,
        State::Rebooting => CoordinatorState::Rebooting,
        _ => CoordinatorState::RebootPlanned,
    }
}
