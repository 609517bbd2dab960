//! Freeing the slot of another machine that did not come back, if this agent is to.

use rebootlock::config::OnOverdue;
use rebootlock::id::Group;
use rebootlock::lock::OverdueRelease;
use rebootlock::record::UnixTime;

use super::Agent;

impl Agent {
    /// Looks for such a slot in `group`, for which this machine waits. By default it never does.
    pub(super) async fn release_overdue(&mut self, group: &Group) {
        let settings = &self.options.settings.reboot;
        if settings.on_overdue != OnOverdue::Release || self.options.run.dry_run {
            return;
        }
        let (older_than, budget) = (settings.overdue_after, settings.release_budget);
        let Some(locks) = self.slots.locks() else { return };
        let answer = locks.release_overdue(group, older_than, budget, &self.hostname).await;
        match answer {
            Ok(OverdueRelease::None) => self.spent_on = None,
            Ok(OverdueRelease::Freed { machine, record }) => {
                self.spent_on = None;
                let expected = record.expected_back.unwrap_or_default();
                tracing::error!(
                    %machine,
                    hostname = record.hostname,
                    group = %group,
                    overdue_secs = UnixTime::now().seconds_since(expected),
                    reason = record.reason,
                    "this machine did not come back from its reboot; its slot was freed, as \
                     on_overdue = \"release\" says; somebody should look at it"
                );
            }
            Ok(OverdueRelease::Spent { machine }) => {
                if self.spent_on.as_ref() != Some(&machine) {
                    tracing::error!(
                        %machine,
                        group = %group,
                        release_budget = budget,
                        "this machine did not come back from its reboot; it keeps its slot, as enough \
                         were freed today; somebody should look at it"
                    );
                    self.spent_on = Some(machine);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "whether anybody is overdue cannot be found out");
            }
        }
    }
}
