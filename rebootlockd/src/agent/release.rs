//! Back: see whether the machine is well, and give the slot back.

use rebootlock::lock::{Ended, Release, Released};
use rebootlock::record::{HolderRecord, UnixTime};

use super::Agent;
use crate::failpoint;
use crate::policy::Event;

impl Agent {
    /// Whether the machine is well after its reboot.
    pub(super) async fn verify(&mut self) -> Event {
        self.request_is_fulfilled().await;
        let away = self.found.as_ref().map(|found| {
            let since = found.state_since.unwrap_or(found.start_time);
            UnixTime::now().seconds_since(since)
        });
        tracing::info!(seconds = away, "back after the reboot");
        Event::Well
    }

    /// Gives the slots back; goes on trying until they are free.
    pub(super) async fn release(&mut self) -> Event {
        let Some(held) = self.held.clone() else { return Event::Released };
        self.say("giving the slot back");
        failpoint::reach("before-release");
        let rebooted = |record: &HolderRecord| record.boot_id.as_ref() != Some(&self.boot_id);
        let ended = match self.found.take_if(|found| rebooted(found)) {
            Some(_) => Ended::Verified { boot: self.boot_id.clone() },
            None => Ended::GivenBack,
        };
        let release = Release::of(held.token, ended);
        loop {
            match self.locks.release(&held.groups, &self.machine, &release).await {
                Ok(Released::Freed(_)) => {
                    tracing::info!(token = %held.token, "slot given back");
                    break;
                }
                Ok(Released::NotHeld) => {
                    tracing::info!(token = %held.token, "the slot had been given back already");
                    break;
                }
                Err(error) => self.stuck("cannot give the slot back", &error).await,
            }
        }
        failpoint::reach("released");
        self.remember(None);
        self.clear_trouble();
        self.held = None;
        Event::Released
    }
}
