//! What was last seen of the fleet, and how old that is.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rebootlock::record::UnixTime;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::fragments::{self, Scene};
use super::parts::Parts;
use crate::allowance;
use crate::app::{Live, chain};
use crate::fleet::{FleetView, look};

/// While the store does not answer, nobody waits for it again within this time.
const PATIENCE: Duration = Duration::from_secs(2);

/// The fleet, as it was seen last.
#[derive(Debug)]
pub(super) struct Sight {
    /// Nothing, if the store has not answered since the gateway began.
    pub(super) fleet: Option<Arc<FleetView>>,
    /// When that was.
    pub(super) as_of: Option<UnixTime>,
    /// Since when the store does not answer.
    pub(super) trouble: Option<UnixTime>,
    /// The page, without ages.
    pub(super) parts: Arc<Parts>,
    began: Instant,
    ended: Instant,
}

impl Sight {
    fn new(
        fleet: Option<Arc<FleetView>>,
        as_of: Option<UnixTime>,
        trouble: Option<UnixTime>,
        began: Instant,
    ) -> Self {
        let scene = Scene { fleet: fleet.as_deref(), as_of, trouble };
        let parts = Arc::new(fragments::parts(scene));
        Self { fleet, as_of, trouble, parts, began, ended: Instant::now() }
    }

    /// What was seen `before`, as the store has not answered by `now`.
    fn of_before(before: Option<&Self>, now: UnixTime, began: Instant) -> Self {
        let fleet = before.and_then(|before| before.fleet.clone());
        let since = before.and_then(|before| before.trouble).unwrap_or(now);
        Self::new(fleet, before.and_then(|before| before.as_of), Some(since), began)
    }

    /// What is to be shown of it.
    pub(super) fn scene(&self) -> Scene<'_> {
        let Self { fleet, as_of, trouble, .. } = self;
        Scene { fleet: fleet.as_deref(), as_of: *as_of, trouble: *trouble }
    }

    /// Whether this is good enough for somebody who asked then: it was looked for later than that, or
    /// the store has just shown that there is nothing to be had.
    fn answers(&self, asked: Instant) -> bool {
        self.began >= asked || (self.trouble.is_some() && self.ended.elapsed() < PATIENCE)
    }
}

/// Looks at the store, once for everybody who asks at the same time.
#[derive(Debug, Default)]
pub(super) struct Looker {
    turn: Mutex<()>,
    last: RwLock<Option<Arc<Sight>>>,
}

impl Looker {
    /// What was seen last, whenever that was.
    pub(super) fn last(&self) -> Option<Arc<Sight>> {
        self.last.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The fleet as it is, or as it was when the store answered last.
    pub(super) async fn look(&self, live: &Live) -> Arc<Sight> {
        let asked = Instant::now();
        let within = live.settings.answer_within;
        let Some(_turn) = allowance::within(within, self.turn.lock()).await else {
            return self.without_answer();
        };
        let before = self.last();
        if let Some(sight) = before.as_ref().filter(|sight| sight.answers(asked)) {
            return sight.clone();
        }
        let (began, now) = (Instant::now(), UnixTime::now());
        let seen = allowance::within(within, look(live, now)).await;
        let sight = match seen {
            Some(Ok(fleet)) => Sight::new(Some(Arc::new(fleet)), Some(now), None, began),
            failed => {
                if before.as_ref().is_none_or(|before| before.trouble.is_none()) {
                    let error = match failed {
                        Some(Err(error)) => chain(&error),
                        _ => "no answer in time".to_owned(),
                    };
                    tracing::warn!(error, "the page shows what was: the store does not answer");
                }
                Sight::of_before(before.as_deref(), now, began)
            }
        };
        let sight = Arc::new(sight);
        *self.last.write().unwrap_or_else(PoisonError::into_inner) = Some(sight.clone());
        sight
    }

    /// The fleet as it was, for somebody who cannot wait longer.
    fn without_answer(&self) -> Arc<Sight> {
        let before = self.last();
        Arc::new(Sight::of_before(before.as_deref(), UnixTime::now(), Instant::now()))
    }
}
