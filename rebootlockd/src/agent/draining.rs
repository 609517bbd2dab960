//! Draining this machine: users are told, hooks run, and are undone when the reboot does not come.

use std::time::Duration;

use tokio::time::sleep;

use super::Agent;
use crate::failpoint;
use crate::hooks::{HookEnv, HookError, Progress};
use crate::lookout::Closed;
use crate::memento::MementoFile;
use crate::outcome::Outcome;
use crate::policy::Event;
use crate::unit::StillRuns;

/// Before a hook that does not end is stopped again.
const STOP_AGAIN: Duration = Duration::from_secs(5);

impl Agent {
    /// Tells users, and then runs the hooks: so that what they drain is missed for as short a time as
    /// can be.
    pub(super) async fn drain(&mut self) -> Event {
        let told = self.tell_users().await;
        if told != Event::Drained {
            return told;
        }
        let env = self.hook_env();
        self.say("running the hooks in pre-reboot.d");
        if let Err(error) = self.stop_left_hook().await {
            let why = format!("a hook that was begun before may still run: {error}");
            self.conclude(Closed::new(Outcome::HealthBlocked, why));
            return Event::Obstructed;
        }
        // What an earlier life of this boot has done stays to be undone too.
        let memento = self.memento.load();
        let before = if self.is_of_this_boot(&memento) { memento.hooks_done } else { Vec::new() };
        match self.hooks.pre_reboot(&env, keeping(&self.memento, before)).await {
            Ok(_) => {
                failpoint::reach("hooks-done");
                Event::Drained
            }
            Err(failed) => {
                for error in &failed.not_undone {
                    tracing::error!(%error, "a hook could not be undone");
                }
                self.conclude(Closed::new(Outcome::HealthBlocked, failed.source.to_string()));
                Event::Obstructed
            }
        }
    }

    /// Undoes the pre-reboot hooks of a reboot that does not happen, once nothing of them runs any more:
    /// a slot stays until then.
    pub(super) async fn undo_hooks(&mut self) {
        self.withdraw(true).await;
        while let Err(error) = self.stop_left_hook().await {
            let why = error.to_string();
            self.complain("a hook that was begun may still run", why.clone());
            if self.held.is_none() && self.asked().is_none() {
                return;
            }
            self.lose_patience(&why).await;
            sleep(STOP_AGAIN).await;
        }
        let memento = self.memento.load();
        if memento.hooks_done.is_empty() || !self.is_of_this_boot(&memento) {
            return;
        }
        let (env, note) = (self.hook_env(), keeping(&self.memento, Vec::new()));
        for error in self.hooks.undo(memento.hooks_done, &env, note).await {
            tracing::error!(%error, "a hook could not be undone");
        }
    }

    /// Stops the hook that an earlier life of this boot has begun, and waits for its end.
    async fn stop_left_hook(&self) -> Result<(), StillRuns> {
        let mut memento = self.memento.load();
        let same_boot = self.is_of_this_boot(&memento);
        let Some(left) = memento.hook_running.take().filter(|_| same_boot) else { return Ok(()) };
        tracing::warn!(unit = left.unit, "a hook was cut short; what is left of it is stopped");
        left.end().await?;
        self.save(&memento);
        Ok(())
    }

    /// Runs the hooks of a machine that is back.
    pub(super) async fn run_post_hooks(&self) -> Result<(), HookError> {
        let note = keeping(&self.memento, Vec::new());
        self.hooks.post_reboot(&self.hook_env(), note).await
    }

    /// What hooks are told.
    fn hook_env(&self) -> HookEnv {
        let held = self.held.as_ref();
        let found = self.found.as_ref().and_then(|found| found.reason.clone());
        let groups = held.map_or(&self.options.settings.machine.groups, |held| &held.groups);
        HookEnv {
            machine_id: self.machine.to_string(),
            hostname: self.hostname.clone(),
            boot_id: self.boot_id.to_string(),
            groups: groups.iter().map(ToString::to_string).collect(),
            reason: found.unwrap_or_else(|| self.reason()),
            dry_run: self.options.run.dry_run,
            token: held.map(|held| held.token.to_string()).unwrap_or_default(),
        }
    }
}

/// Keeps how far hooks have come, with what was done `before`.
fn keeping(file: &MementoFile, before: Vec<String>) -> impl FnMut(&Progress) + Send {
    let file = file.clone();
    move |progress| {
        let mut memento = file.load();
        memento.hooks_done.clone_from(&before);
        let new = progress.begun.iter().filter(|name| !before.contains(name));
        memento.hooks_done.extend(new.cloned());
        memento.hook_running.clone_from(&progress.running);
        if let Err(error) = file.save(&memento) {
            tracing::warn!(%error, "how far the hooks have come cannot be kept");
        }
    }
}
