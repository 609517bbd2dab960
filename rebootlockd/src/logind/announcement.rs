//! What logind tells users for us and does not do, and what others have scheduled.
//!
//! `ScheduledShutdown` names a dry run as if it were the thing itself. So ours is known by its time,
//! which logind gives back to the microsecond, and must be written down before it is scheduled; whatever
//! else is there counts as a shutdown that comes.

use std::time::{Duration, SystemTime};

use rebootlock::notify::printable;
use serde::{Deserialize, Serialize};

use super::{Logind, is_unknown_property};

/// Before what is to be scheduled: users are told, and nothing is done at the time.
const DRY: &str = "dry-";

/// So much later than users were promised logind's own end of an announcement comes. At the time itself
/// it would say that the system reboots now, before we can take the announcement back.
const LATER: Duration = Duration::from_secs(10);

/// With more time than that logind says nothing at first.
const SILENT: Duration = Duration::from_secs(15 * 60);

/// A shutdown in logind's book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// `reboot`, `poweroff` and others; of ours, what was asked for: `dry-reboot`.
    pub what: String,
    /// When, since 1970, in whole microseconds.
    pub at: Duration,
}

impl Scheduled {
    /// The announcement of a reboot in `time`, for [`Logind::announce`].
    pub fn announcement(time: Duration) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let micros = (now + time + LATER).as_micros();
        let at = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        Self { what: format!("{DRY}reboot"), at }
    }

    /// Whether logind tells users at once, when told to announce a reboot in `time`.
    pub fn is_told_at_once(time: Duration) -> bool {
        time + LATER <= SILENT
    }

    /// Whether `found` in logind is this.
    fn is(&self, found: &Self) -> bool {
        let bare = |it: &Self| it.what.strip_prefix(DRY).unwrap_or(&it.what).to_owned();
        self.at == found.at && bare(self) == bare(found)
    }
}

impl Logind {
    /// Whether a shutdown or reboot is under way, or somebody has scheduled one, as
    /// `shutdown -r +5` does and then ends well. `ours` is not one.
    ///
    /// # Errors
    /// What logind answers.
    pub async fn is_going_down(&self, ours: Option<&Scheduled>) -> zbus::Result<bool> {
        if self.manager.preparing_for_shutdown().await? {
            return Ok(true);
        }
        let found = self.scheduled().await?;
        Ok(found.is_some_and(|found| !ours.is_some_and(|ours| ours.is(&found))))
    }

    /// What is scheduled, by whomever. Nothing in a logind that schedules nothing.
    ///
    /// # Errors
    /// What logind answers.
    pub async fn scheduled(&self) -> zbus::Result<Option<Scheduled>> {
        match self.manager.scheduled_shutdown().await {
            Ok((what, _)) if what.is_empty() => Ok(None),
            Ok((what, at)) => Ok(Some(Scheduled { what, at: Duration::from_micros(at) })),
            Err(error) if is_unknown_property(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has logind tell users, again and again, when the machine reboots, and why. It only tells: the
    /// order is ours to give. What somebody else has scheduled stays, and then logind tells about that.
    ///
    /// # Errors
    /// What logind answers, or that there is something else.
    pub async fn announce(&self, ours: &Scheduled, message: &str) -> zbus::Result<()> {
        if let Some(other) = self.scheduled().await?.filter(|found| !ours.is(found)) {
            let what = format!("somebody has scheduled a {}", printable(&other.what));
            return Err(zbus::Error::Failure(what));
        }
        self.manager.set_wall_message(&printable(message), true).await?;
        let micros = u64::try_from(ours.at.as_micros()).unwrap_or(u64::MAX);
        self.manager.schedule_shutdown(&ours.what, micros).await
    }

    /// Takes an announcement back, if it is still the one that is scheduled. Users hear of it if the
    /// reboot is `called_off`; else it comes now, and they must not. Whether there was anything to take
    /// back.
    ///
    /// # Errors
    /// What logind answers.
    pub async fn withdraw(&self, ours: &Scheduled, called_off: bool) -> zbus::Result<bool> {
        if !self.scheduled().await?.is_some_and(|found| ours.is(&found)) {
            return Ok(false);
        }
        self.manager.set_wall_message("", called_off).await?;
        let cancelled = self.manager.cancel_scheduled_shutdown().await;
        if !called_off {
            // What others schedule is to be told again.
            self.manager.set_wall_message("", true).await?;
        }
        cancelled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_known_by_its_moment_with_or_without_the_word_for_a_dry_run() {
        let at = Duration::from_micros(1_795_270_726_987_654);
        let found = |what: &str, at| Scheduled { what: what.to_owned(), at };
        let ours = found("dry-reboot", at);
        assert!(ours.is(&found("reboot", at)) && ours.is(&ours));
        assert!(!ours.is(&found("poweroff", at)));
        assert!(!ours.is(&found("reboot", at + Duration::from_micros(1))));
    }

    #[test]
    fn an_announcement_ends_after_the_time_that_users_have_and_in_whole_microseconds() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ours = Scheduled::announcement(Duration::from_secs(300));
        assert!(
            ours.at > now + Duration::from_secs(305) && ours.at.subsec_nanos().is_multiple_of(1000)
        );
        assert!(Scheduled::is_told_at_once(Duration::from_secs(300)));
        assert!(!Scheduled::is_told_at_once(Duration::from_secs(15 * 60)));
    }
}
