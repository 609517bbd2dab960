//! Whether this machine needs a reboot, in figures, whatever the agent is doing meanwhile.

use rebootlock::config::Strategy;
use rebootlock::record::UnixTime;
use tokio_util::task::AbortOnDropHandle;

use super::Agent;
use crate::metrics::Required;
use crate::want::Want;

impl Agent {
    /// Begins to tell it. A single pass is not scraped, and an agent that is switched off does not know.
    pub(super) fn begin_to_tell_wants(&mut self) {
        let settings = &self.options.settings.agent;
        if self.options.run.once || settings.strategy == Strategy::Off {
            return;
        }
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
}
