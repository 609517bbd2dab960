//! Telling the users of this machine that it reboots, and giving them time to leave.

use std::time::Duration;

use rebootlock::config::Announce;
use rebootlock::config::gate::Phase;
use rebootlock::lock::{Advance, LockError};
use rebootlock::record::HolderState;
use tokio::time::{Instant, sleep, sleep_until};

use super::Agent;
use super::reboot::INHIBITOR_POLL;
use crate::failpoint;
use crate::logind::{LoggedIn, Logind, Scheduled, tell};
use crate::memento::Memento;
use crate::policy::Event;
use crate::want::Want;

impl Agent {
    /// Tells users who are logged in, and gives them time to leave.
    pub(super) async fn tell_users(&mut self) -> Event {
        let users = self.logged_in().await;
        let time = self.options.settings.agent.warn_users;
        if users.is_empty() || time.is_zero() {
            return Event::Drained;
        }
        if let Some(held) = self.held.clone() {
            match self.mark(&held, &Advance::to(HolderState::Draining)).await {
                Ok(()) => {}
                Err(LockError::NotOurs { .. }) => return self.slot_lost(),
                // The permit, which matters, will find out.
                Err(error) => tracing::debug!(%error, "draining is not written down"),
            }
        }
        failpoint::reach("draining");
        let names: Vec<_> = users.iter().map(|user| user.user.as_str()).collect();
        if self.options.run.dry_run {
            tracing::info!(users = ?names, "dry run: users would be told now");
            return Event::Drained;
        }
        tracing::info!(users = ?names, seconds = time.as_secs(), "users are told");
        self.say(&format!("reboots in {} s; told {}", time.as_secs(), names.join(", ")));
        self.save(&Memento { told: true, ..self.memento.load() });
        let by_logind = self.announce(time).await;
        if !by_logind || !Scheduled::is_told_at_once(time) {
            let (name, time, reason) = (&self.hostname, in_minutes(time), self.reason());
            let message = format!(
                "This machine ({name}) will reboot in {time}: {reason}. Please save your work and log \
                 out."
            );
            tell(&users, &message);
        }
        let ended = self.users_leave(Instant::now() + time).await;
        self.withdraw(ended != Event::Drained).await;
        ended
    }

    /// Until all have left, or their time is over, or the reboot does not come.
    async fn users_leave(&mut self, deadline: Instant) -> Event {
        loop {
            let logind = self.logind.clone();
            tokio::select! {
                () = sleep_until(deadline) => return Event::Drained,
                () = self.wants.changed() => {
                    if self.wants.now() == Want::Nothing {
                        return Event::Unwanted;
                    }
                }
                () = somebody_left(logind) => {
                    if self.logged_in().await.is_empty() {
                        tracing::info!("all users have left");
                        return Event::Drained;
                    }
                }
                () = sleep(INHIBITOR_POLL * 5) => {
                    // Before the hooks drain what would be needed all the same.
                    if let Some(closed) = self.lookout.glance(Phase::PostLock) {
                        return self.closed(closed);
                    }
                    // A signal that was missed must not cost the whole time.
                    if self.logged_in().await.is_empty() {
                        return Event::Drained;
                    }
                }
            }
        }
    }

    /// Has logind tell users, if it is to and does.
    async fn announce(&mut self, time: Duration) -> bool {
        if self.options.settings.reboot.announce != Announce::Logind {
            return false;
        }
        // That of an earlier life: there is never more than the one that is written down.
        self.withdraw(false).await;
        if self.memento.load().announced.is_some() {
            return false;
        }
        let (name, reason) = (&self.hostname, self.reason());
        let message = format!("{name} reboots soon: {reason}. Please save your work and log out.");
        let ours = Scheduled::announcement(time);
        // Before it is scheduled: once it is, nothing else tells it from somebody's real reboot.
        let written = Memento { announced: Some(ours.clone()), ..self.memento.load() };
        if self.save(&written).is_some() {
            return false;
        }
        let announced = match self.logind().await {
            Ok(logind) => logind.announce(&ours, &message).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &announced {
            tracing::warn!(%error, "logind does not announce the reboot; users are told on their terminals");
        }
        announced.is_ok()
    }

    /// Takes back what logind was told to announce, in this life or in an earlier one. Users who were
    /// told of a reboot hear of it if that is `called_off`.
    pub(super) async fn withdraw(&mut self, called_off: bool) {
        let memento = self.memento.load();
        if memento.announced.is_none() && !memento.told {
            return;
        }
        let mut left =
            Memento { announced: None, told: memento.told && !called_off, ..memento.clone() };
        if !self.is_of_this_boot(&memento) {
            left.told = false;
            self.save(&left);
            return;
        }
        let mut heard = false;
        if let Some(announced) = memento.announced {
            let withdrawn = match self.logind().await {
                Ok(logind) => logind.withdraw(&announced, called_off).await,
                Err(error) => Err(error),
            };
            match withdrawn {
                Ok(withdrawn) => heard = withdrawn,
                Err(error) => {
                    // It ends by itself, and nothing happens then.
                    tracing::warn!(%error, "logind goes on announcing a reboot");
                    self.logind = None;
                    left.announced = Some(announced);
                }
            }
        }
        if called_off && memento.told && !heard {
            tell(&self.logged_in().await, "The reboot of this machine is called off.");
        }
        self.save(&left);
    }

    /// Who is logged in. When that cannot be found out, somebody whose name we do not know.
    async fn logged_in(&mut self) -> Vec<LoggedIn> {
        let users = match self.logind().await {
            Ok(logind) => logind.logged_in().await,
            Err(error) => Err(error),
        };
        users.unwrap_or_else(|error| {
            tracing::warn!(%error, "who is logged in cannot be found out");
            self.logind = None;
            vec![LoggedIn { user: "(unknown)".to_owned(), tty: String::new() }]
        })
    }
}

async fn somebody_left(logind: Option<Logind>) {
    match logind {
        Some(logind) => logind.somebody_left().await,
        None => std::future::pending().await,
    }
}

fn in_minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds / 60),
    }
}
