//! How things are now: the gauges.
//!
//! What is not known, or does not apply, has no value at all: a figure that was true an hour ago
//! and is shown as if it still were misleads more than one that is missing.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use rebootlock::id::Group;
use rebootlock::record::UnixTime;

/// Whether this machine needs a reboot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Required {
    /// Nobody can tell yet.
    #[default]
    Unknown,
    /// It does not.
    No,
    /// It does, since then.
    Since(UnixTime),
}

/// Whether something lasts, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// It does not.
    No,
    /// It does; nobody wrote down since when.
    Undated,
    /// It does, since then.
    Since(UnixTime),
}

impl Lasting {
    /// One that lasts, since then if that is known.
    pub fn since(at: Option<UnixTime>) -> Self {
        at.map_or(Self::Undated, Self::Since)
    }

    fn flag(self) -> i64 {
        i64::from(self != Self::No)
    }

    fn at(self) -> Option<i64> {
        match self {
            Self::Since(at) => Some(at.0),
            Self::No | Self::Undated => None,
        }
    }
}

/// When reboots may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowNow {
    /// Whether they may now.
    pub open: bool,
    /// When they may again; none if they may now, or never.
    pub next_opening: Option<UnixTime>,
}

/// What the gauges say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Now {
    /// When the agent started.
    pub(super) started: UnixTime,
    pub(super) required: Required,
    /// Whether this machine holds a slot, for each of its groups.
    pub(super) slots: BTreeMap<Group, Lasting>,
    /// Its place in each queue it waits in, from 1.
    pub(super) queues: BTreeMap<Group, u64>,
    /// Whether each gate is closed.
    pub(super) gates: BTreeMap<String, bool>,
    /// Whether the fleet and each group are paused; `None` for the fleet's name.
    pub(super) pauses: BTreeMap<Option<Group>, Lasting>,
    pub(super) held: Option<bool>,
    /// The state, and since when.
    pub(super) state: Option<(&'static str, UnixTime)>,
    /// The states it has been in.
    pub(super) past_states: BTreeSet<&'static str>,
    pub(super) overdue: Option<bool>,
    pub(super) verification_failed: Option<bool>,
    pub(super) still_required: Option<bool>,
    pub(super) store_up: Option<bool>,
}

/// What tells when reboots may begin. It is asked when figures are shown: windows open and close by
/// the clock, and nobody else looks at them while nothing wants a reboot.
type AskWindow = Box<dyn Fn() -> Option<WindowNow> + Send>;

/// The gauges, shared between those who set them and those who show them.
#[derive(Clone)]
pub(super) struct Gauges(Arc<Shared>);

struct Shared {
    now: Mutex<Now>,
    window: Mutex<Option<AskWindow>>,
}

impl Gauges {
    pub(super) fn new(started: UnixTime) -> Self {
        let now = Mutex::new(Now { started, ..Now::default() });
        Self(Arc::new(Shared { now, window: Mutex::new(None) }))
    }

    /// From here on this tells of the windows.
    pub(super) fn set_window(&self, ask: Option<AskWindow>) {
        *self.0.window.lock().unwrap_or_else(PoisonError::into_inner) = ask;
    }

    fn window(&self) -> Option<WindowNow> {
        self.0.window.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?()
    }

    /// Changes them, and tells whether that made a difference.
    pub(super) fn change(&self, change: impl FnOnce(&mut Now)) -> bool {
        let mut now = self.lock();
        let before = now.clone();
        change(&mut now);
        *now != before
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // Whoever panicked over them left them whole: each change is one assignment.
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gauges").field(&self.0.now).finish()
    }
}

type Labels = Vec<(&'static str, Cow<'static, str>)>;

impl Collector for Gauges {
    #[rustfmt::skip]
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (now, window) = (self.lock().clone(), self.window());
        let mut page = Page(encoder);
        let of_group = |group: &Group| vec![("group", group.as_str().to_owned().into())];
        let of_scope = |scope: &Option<Group>| match scope {
            None => vec![("scope", "fleet".into())],
            Some(group) => vec![("scope", "group".into()), ("group", group.as_str().to_owned().into())],
        };

        page.one("build_info", "Always 1; which version runs", Some((1, vec![("version", env!("CARGO_PKG_VERSION").into())])))?;
        page.plain("start_timestamp_seconds", "When this agent started", Some(now.started.0))?;
        page.plain("reboot_required", "Whether this machine needs a reboot", match now.required {
            Required::Unknown => None,
            Required::No => Some(0),
            Required::Since(_) => Some(1),
        })?;
        page.plain("reboot_required_since_timestamp_seconds", "Since when this machine needs a reboot", match now.required {
            Required::Since(since) => Some(since.0),
            Required::Unknown | Required::No => None,
        })?;
        page.all("holder", "Whether this machine holds a slot of the group", now.slots.iter()
            .map(|(group, held)| (held.flag(), of_group(group))))?;
        page.all("holder_since_timestamp_seconds", "Since when this machine holds a slot of the group", now.slots.iter()
            .filter_map(|(group, held)| Some((held.at()?, of_group(group)))))?;
        page.all("queue_position", "This machine's place among those who wait for a slot of the group, 1 being next", now.queues.iter()
            .map(|(group, place)| (i64::try_from(*place).unwrap_or(i64::MAX), of_group(group))))?;
        page.all("gate_closed", "Whether the gate keeps this machine from rebooting", now.gates.iter()
            .map(|(gate, closed)| (i64::from(*closed), vec![("gate", gate.clone().into())])))?;
        page.flag("window_open", "Whether the windows allow a reboot now", window.map(|window| window.open))?;
        page.plain("window_next_opening_timestamp_seconds", "When the windows will allow a reboot again, if they do not now", window
            .and_then(|window| window.next_opening).map(|at| at.0))?;
        page.all("paused", "Whether somebody paused the fleet or the group", now.pauses.iter()
            .map(|(scope, paused)| (paused.flag(), of_scope(scope))))?;
        page.all("paused_since_timestamp_seconds", "Since when the fleet or the group is paused", now.pauses.iter()
            .filter_map(|(scope, paused)| Some((paused.at()?, of_scope(scope)))))?;
        page.flag("held", "Whether somebody holds this machine back", now.held)?;
        page.all("state", "1 for the state this agent is in, 0 for those it was in before", now.past_states.iter()
            .map(|state| (i64::from(now.state.is_some_and(|(name, _)| name == *state)), vec![("state", (*state).into())])))?;
        page.plain("last_transition_timestamp_seconds", "Since when this agent is in its state", now.state.map(|(_, since)| since.0))?;
        page.flag("overdue", "Whether the reboot was ordered too long ago for a machine that is still up", now.overdue)?;
        page.flag("verification_failed", "Whether this machine was not well for too long after its reboot, and so keeps its slot", now.verification_failed)?;
        page.flag("still_required", "Whether rebooting did not take away the reason to reboot, and so is not tried again", now.still_required)?;
        page.flag("store_up", "Whether the store answered when it was last asked", now.store_up)
    }
}

/// The gauges that have been written so far. Help texts leave out their full stop.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn all(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (i64, Labels)>,
    ) -> fmt::Result {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let help = format!("{help}.");
        let mut family = self.0.encode_descriptor(name, &help, None, MetricType::Gauge)?;
        for (value, labels) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn one(&mut self, name: &str, help: &str, value: Option<(i64, Labels)>) -> fmt::Result {
        self.all(name, help, value.into_iter())
    }

    fn plain(&mut self, name: &str, help: &str, value: Option<i64>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        let help = format!("{help}.");
        let family = self.0.encode_descriptor(name, &help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(family)
    }

    fn flag(&mut self, name: &str, help: &str, value: Option<bool>) -> fmt::Result {
        self.plain(name, help, value.map(i64::from))
    }
}
