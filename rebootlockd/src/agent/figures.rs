//! Figures that are told whatever the agent is doing meanwhile: whether this machine needs a reboot, and
//! how it stands in the store.

use rebootlock::config::Strategy;
use rebootlock::record::UnixTime;
use tokio_util::task::AbortOnDropHandle;

use super::Agent;
use crate::metrics::Required;
use crate::standing;
use crate::want::Want;

impl Agent {
    /// Begins to tell them. A single pass is not scraped.
    pub(super) fn begin_figures(&mut self) {
        if self.options.run.once {
            return;
        }
        // An agent that is switched off looks for no reason to reboot.
        if self.options.settings.agent.strategy != Strategy::Off {
            self.begin_to_tell_wants();
        }
        if self.needs_slot() {
            self.begin_to_follow_store();
        }
    }

    fn begin_to_tell_wants(&mut self) {
        let (mut wants, metrics) = (self.wants.clone(), self.metrics.clone());
        let (file, boot) = (self.memento.wanted().clone(), self.boot.clone());
        self.sources.push(AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                metrics.set_required(match wants.now() {
                    // The reason may be there all the same: it goes on if it turns out to be.
                    Want::Unknown => Required::Unknown,
                    Want::Nothing => {
                        file.forget();
                        Required::No
                    }
                    Want::Reboot { .. } => Required::Since(file.since(&boot, UnixTime::now())),
                });
                wants.changed().await;
            }
        })));
    }

    /// Only where somebody sees the figures: a store has better things to do.
    fn begin_to_follow_store(&mut self) {
        let settings = &self.options.settings;
        let seen = settings.metrics.listen.is_some() || settings.metrics.textfile.is_some();
        let Some(locks) = self.slots.locks().filter(|_| seen) else { return };
        let (machine, groups) = (self.machine.clone(), settings.machine.groups.clone());
        let (poll, metrics) = (settings.agent.poll, self.metrics.clone());
        let follow = standing::follow(locks.clone(), machine, groups, poll, metrics);
        self.sources.push(AbortOnDropHandle::new(tokio::spawn(follow)));
        self.follows_store = true;
    }
}
