//! What all requests share: the settings of now, the lock, the figures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rebootlock::config::gate::{ClusterRules, GateKind, GateSettings};
use rebootlock::config::{ConfigError, GatewaySettings, Settings};
use rebootlock::id::Group;
use rebootlock::lock::{LockError, LockManager};
use rebootlock::store::SharedStore;
use rebootlock::window::Windows;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answering::{Commits, Noted};
use crate::auth::Auth;
use crate::combine::Combiner;
use crate::health::Seen;
use crate::metrics::Metrics;
use crate::page::Page;
use crate::rate::RateLimit;
use crate::remote::Leases;
use crate::silent::Heard;
use crate::takeover::Elsewhere;

/// Between two tries to write the configured slots to a store that does not answer.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Everything that a reload replaces at once. A request keeps to the one it began with.
#[derive(Debug)]
pub struct Live {
    /// `[gateway]`
    pub settings: GatewaySettings,
    /// The lock.
    pub locks: LockManager,
    /// By which one sees that its store settles what is asked of it.
    pub(crate) commits: Commits,
    /// Requests that ask it for something at the same time.
    pub combiner: Combiner,
    /// Holders that were heard from.
    pub heard: Arc<Heard>,
    /// Slots that are held through another server.
    pub elsewhere: Elsewhere,
    /// How well the others must be before one more goes down.
    pub cluster: Vec<ClusterRules>,
    /// When reboots may begin.
    pub windows: Windows,
    /// Later than this, a machine should be back.
    pub overdue_after: Duration,
    /// Who may ask.
    pub auth: Auth,
    /// How often.
    pub rate: Option<RateLimit>,
    /// With the slots they are to have, if that is configured.
    pub configured: BTreeMap<Group, Option<u32>>,
    /// Ends what goes on for long and began with these settings, when others replace them: whoever
    /// asked for it asks again, and may have lost the right to.
    pub replaced: CancellationToken,
    /// Configured slots that are not in the store yet.
    unset: Mutex<BTreeMap<Group, u32>>,
}

impl Live {
    fn of(
        settings: &Settings,
        store: SharedStore,
        commits: Commits,
        heard: Arc<Heard>,
    ) -> Result<Self, ConfigError> {
        let gateway = settings.gateway.clone();
        let locks = LockManager::new(store, settings.store.keys.clone())
            .with_deadline(gateway.answer_within)
            .with_cooldowns(settings.cooldowns());
        let slots = |group: &rebootlock::config::GroupSettings| {
            group.slots.map(|slots| (group.name.clone(), slots))
        };
        let auth = Auth::of(&gateway)?;
        auth.explain();
        Ok(Self {
            auth,
            rate: gateway.requests_per_minute.and_then(RateLimit::new),
            locks,
            commits,
            combiner: Combiner::default(),
            heard,
            elsewhere: Elsewhere::default(),
            cluster: settings.gates.iter().filter_map(cluster_rules).collect(),
            windows: settings.windows.clone(),
            overdue_after: settings.reboot.overdue_after,
            replaced: CancellationToken::new(),
            configured: configured(settings),
            unset: Mutex::new(settings.groups.iter().filter_map(slots).collect()),
            settings: gateway,
        })
    }

    /// Whether there is such a group: the default one, one that is configured, or one that has a
    /// semaphore in the store.
    ///
    /// # Errors
    /// What the store says.
    pub async fn knows(&self, group: &Group) -> Result<bool, LockError> {
        if group.is_default() || self.configured.contains_key(group) {
            return Ok(true);
        }
        let key = self.locks.keys().semaphore(group);
        let found = self.locks.store().load(std::slice::from_ref(&key)).await;
        let found = found.map_err(|source| {
            let action = format!("looking for {key}");
            LockError::Store { action, source }
        })?;
        Ok(found.get(&key).is_some())
    }

    /// Whether the slots of `group` are configured.
    pub fn fixes(&self, group: &Group) -> bool {
        self.configured.get(group).is_some_and(Option::is_some)
    }

    /// All groups there are.
    ///
    /// # Errors
    /// What the store says.
    pub async fn groups(&self) -> Result<BTreeSet<Group>, LockError> {
        let stored = self.locks.groups().await?;
        Ok(self.configured.keys().cloned().chain(stored).collect())
    }

    /// Sees to it that `group` has the slots it is configured to have. Nobody gets one before.
    ///
    /// # Errors
    /// As for [`LockManager::set_max`].
    pub async fn see_to_slots(&self, group: &Group) -> Result<(), LockError> {
        let wanted = self.unset().get(group).copied();
        let Some(slots) = wanted else { return Ok(()) };
        let old = self.locks.set_max(group, slots).await?;
        if self.unset().remove(group).is_some() && old != slots {
            tracing::info!(%group, old, new = slots, "the group has the configured slots");
        }
        Ok(())
    }

    /// The same for all groups, for as long as it takes.
    pub async fn see_to_all_slots(&self) {
        let mut said = false;
        loop {
            let groups: Vec<_> = self.unset().keys().cloned().collect();
            if groups.is_empty() {
                return;
            }
            for group in groups {
                if let Err(error) = self.see_to_slots(&group).await
                    && !std::mem::replace(&mut said, true)
                {
                    let error = chain(&error);
                    tracing::warn!(%group, error, "cannot set the configured slots yet");
                }
            }
            if !self.unset().is_empty() {
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }

    fn unset(&self) -> std::sync::MutexGuard<'_, BTreeMap<Group, u32>> {
        self.unset.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All groups that the settings name, with their slots.
fn configured(settings: &Settings) -> BTreeMap<Group, Option<u32>> {
    let clusters = settings.gateway.goahead.iter().flat_map(|goahead| &goahead.clusters);
    let clusters = clusters.map(|cluster| (cluster.group.clone(), None));
    let groups = settings.groups.iter().map(|group| (group.name.clone(), group.slots));
    // The later one counts.
    clusters.chain(groups).collect()
}

/// The gateway.
#[derive(Debug)]
pub struct App {
    live: RwLock<Arc<Live>>,
    /// What is counted.
    pub metrics: Metrics,
    /// What people see.
    pub page: Page,
    /// What whoever watches was shown last.
    pub seen: Seen,
    /// Ends requests that are held, and takes no new connections.
    pub stop: CancellationToken,
    /// What goes on after its request was answered.
    pub background: TaskTracker,
    /// So many more watches may be opened.
    pub watches: Arc<Semaphore>,
    /// Wakes who looks after clients of disruption-manager.
    pub disrupted: Notify,
    /// Whose leases are whose.
    pub leases: Leases,
}

impl App {
    /// A gateway of `settings` on `store`.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with a file that the settings name.
    pub fn new(settings: &Settings, store: SharedStore) -> Result<Arc<Self>, ConfigError> {
        let commits = Commits::default();
        let store = Arc::new(Noted::new(store, commits.clone()));
        let live = Live::of(settings, store, commits, Arc::default())?;
        Ok(Arc::new(Self {
            live: RwLock::new(Arc::new(live)),
            metrics: Metrics::new(),
            page: Page::new(settings.gateway.max_connections),
            seen: Seen::default(),
            stop: CancellationToken::new(),
            background: TaskTracker::new(),
            watches: Arc::new(Semaphore::new(settings.gateway.max_watches)),
            disrupted: Notify::new(),
            leases: Leases::default(),
        }))
    }

    /// The settings of now.
    pub fn live(&self) -> Arc<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What new settings make, on the store as it was.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong.
    pub fn prepare(&self, settings: &Settings) -> Result<Live, ConfigError> {
        let live = self.live();
        let (store, commits) = (live.locks.store().clone(), live.commits.clone());
        Live::of(settings, store, commits, live.heard.clone())
    }

    /// Puts new settings in force.
    pub fn replace(&self, live: Live) {
        let mut now = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *now, Arc::new(live));
        drop(now);
        before.replaced.cancel();
    }
}

/// What a gate says of the other machines. Other gates look at the machine they are on.
fn cluster_rules(gate: &GateSettings) -> Option<ClusterRules> {
    match &gate.kind {
        GateKind::Cluster(rules) if gate.enabled => Some(rules.clone()),
        _ => None,
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
