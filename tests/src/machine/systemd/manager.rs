//! The D-Bus face of the stand-in: `org.freedesktop.systemd1.Manager`, and an object for each unit.

use std::sync::Arc;

use rustix::process::Signal;
use zbus::message::{Header, Message};
use zbus::names::ErrorName;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant, fdo};

use super::unit::{self, Started, State, Unit, Wish};
use super::{PATH, Shared};
use crate::machine::logind::object_path;

pub(super) struct Manager {
    shared: Arc<Shared>,
}

impl Manager {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn job(&self) -> OwnedObjectPath {
        let mut inner = self.shared.inner();
        inner.jobs += 1;
        let path = format!("{PATH}/job/{}", inner.jobs);
        OwnedObjectPath::try_from(path).unwrap_or_default()
    }

    fn rows(&self, states: &[String], wanted: impl Fn(&str) -> bool) -> Vec<UnitRow> {
        let inner = self.shared.inner();
        let failed = inner.failed.iter().map(|name| (name.as_str(), State::Failed.as_str()));
        let units = inner.units.iter().map(|(name, unit)| (name.as_str(), unit.state.as_str()));
        let in_state = |state: &str| states.is_empty() || states.iter().any(|s| s == state);
        let none = || OwnedObjectPath::from(ObjectPath::from_static_str_unchecked("/"));
        let text = str::to_owned;
        let row = |(name, state): (&str, &str)| {
            let (load, active, sub) = (text("loaded"), text(state), text(state));
            (text(name), text("A unit"), load, active, sub, text(""), none(), 0, text(""), none())
        };
        units
            .chain(failed)
            .filter(|(name, state)| in_state(state) && wanted(name))
            .map(row)
            .collect()
    }
}

/// name, description, load state, active state, sub-state, followed unit, object, job id, job type,
/// job object
type UnitRow =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

type Properties = Vec<(String, OwnedVariant)>;

/// Whether this client has not left the bus.
async fn is_there(connection: &Connection, client: &str) -> bool {
    let Ok(name) = zbus::names::BusName::try_from(client) else { return false };
    match fdo::DBusProxy::new(connection).await {
        Ok(bus) => bus.name_has_owner(name).await.unwrap_or(true),
        Err(_) => true,
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    #[zbus(out_args("job"))]
    async fn start_transient_unit(
        &self,
        name: String,
        mode: &str,
        properties: Properties,
        _aux: Vec<(String, Properties)>,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        if !["replace", "fail"].contains(&mode) {
            return Err(Refusal::new("org.freedesktop.DBus.Error.InvalidArgs", "Job mode unknown"));
        }
        let path = unit_path(&name)?;
        if let Some((name, text)) = self.shared.inner().refusal.take() {
            return Err(Refusal { name, text });
        }
        // What has ended is known for as long as a client wants it to be, and is there.
        let client = self.shared.inner().units.get(&name).and_then(|unit| unit.referenced.clone());
        if let Some(client) = client
            && !is_there(connection, &client).await
            && let Some(unit) = self.shared.inner().units.get_mut(&name)
        {
            unit.referenced = None;
        }
        let taken = |unit: &Unit| unit.referenced.is_some() || unit.state == State::Activating;
        if self.shared.inner().units.get(&name).is_some_and(taken) {
            let text = format!("Unit {name} was already loaded or has a fragment file.");
            return Err(Refusal::new("org.freedesktop.systemd1.UnitExists", &text));
        }
        let invalid = |text: String| Refusal::new("org.freedesktop.DBus.Error.InvalidArgs", &text);
        let mut wish = Wish::read(properties).map_err(|error| invalid(format!("{error:#}")))?;
        let child = wish.spawn().map_err(|error| invalid(error.to_string()))?;
        let job = self.job();
        let started = Started {
            name: name.clone(),
            argv: wish.argv.clone(),
            environment: wish.environment.clone(),
            properties: wish.properties.clone(),
            pid: child.id().unwrap_or_default(),
        };
        let unit = Unit {
            state: State::Activating,
            group: unit::group_of(&child),
            result: "success".to_owned(),
            code: 0,
            status: 0,
            stopped: false,
            referenced: header.sender().filter(|_| wish.add_ref).map(ToString::to_string),
            stop_jobs: Vec::new(),
        };
        self.shared.inner().units.insert(name.clone(), unit);
        let objects = connection.object_server();
        let (shared, unit) = (self.shared.clone(), name.clone());
        let failed = |error: zbus::Error| invalid(error.to_string());
        objects
            .at(&path, UnitObject { shared: shared.clone(), name: unit.clone() })
            .await
            .map_err(failed)?;
        objects.at(&path, ServiceObject { shared, name: unit }).await.map_err(failed)?;
        self.shared.started.send_modify(|all| all.push(started));
        let watch =
            unit::watch(self.shared.clone(), connection.clone(), name, job.clone(), wish, child);
        tokio::spawn(watch);
        Ok(job)
    }

    /// Of units that it did not make itself it knows the ones that take a machine down; nothing runs.
    #[zbus(out_args("job"))]
    fn start_unit(&self, name: String, mode: String) -> Result<OwnedObjectPath, Refusal> {
        if !["reboot.target", "kexec.target", "soft-reboot.target"].contains(&name.as_str()) {
            return Err(no_such_unit(&name));
        }
        let mut inner = self.shared.inner();
        inner.system_state = "stopping".to_owned();
        inner.targets.push((name, mode));
        drop(inner);
        Ok(self.job())
    }

    #[zbus(out_args("job"))]
    async fn stop_unit(
        &self,
        name: String,
        _mode: &str,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Refusal> {
        let job = self.job();
        let group = {
            let mut inner = self.shared.inner();
            let unit = inner.units.get_mut(&name).ok_or_else(|| no_such_unit(&name))?;
            if unit.state == State::Activating {
                unit.stopped = true;
                unit.stop_jobs.push(job.clone());
                unit.group
            } else {
                None
            }
        };
        if group.is_some() {
            // What does not obey is killed with its group when the main process has gone.
            unit::kill(group, Signal::TERM);
            unit::kill(group, Signal::KILL);
        } else {
            let (connection, job) = (connection.clone(), job.clone());
            tokio::spawn(async move {
                let _ = announce_end(&connection, job, &name, "done").await;
            });
        }
        Ok(job)
    }

    fn kill_unit(&self, name: String, _whom: &str, signal: i32) -> Result<(), Refusal> {
        let inner = self.shared.inner();
        let unit = inner.units.get(&name).ok_or_else(|| no_such_unit(&name))?;
        let signal = Signal::from_named_raw(signal).unwrap_or(Signal::KILL);
        unit::kill(unit.group, signal);
        Ok(())
    }

    fn unref_unit(&self, name: String) -> Result<(), Refusal> {
        let mut inner = self.shared.inner();
        let unit = inner.units.get_mut(&name).ok_or_else(|| no_such_unit(&name))?;
        unit.referenced = None;
        Ok(())
    }

    fn reset_failed_unit(&self, name: String) -> Result<(), Refusal> {
        let mut inner = self.shared.inner();
        let unit = inner.units.get_mut(&name).ok_or_else(|| no_such_unit(&name))?;
        if unit.state == State::Failed {
            unit.state = State::Inactive;
        }
        Ok(())
    }

    #[zbus(out_args("unit"))]
    fn get_unit(&self, name: String) -> Result<OwnedObjectPath, Refusal> {
        if !self.shared.inner().units.contains_key(&name) {
            return Err(no_such_unit(&name));
        }
        unit_path(&name)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn system_state(&self) -> String {
        self.shared.inner().system_state.clone()
    }

    #[zbus(out_args("units"))]
    fn list_units_filtered(&self, states: Vec<String>) -> Vec<UnitRow> {
        self.rows(&states, |_| true)
    }

    /// Of patterns this stand-in knows the star alone.
    #[zbus(out_args("units"))]
    fn list_units_by_patterns(&self, states: Vec<String>, patterns: Vec<String>) -> Vec<UnitRow> {
        let matches = |pattern: &String, name: &str| match pattern.split_once('*') {
            Some((before, after)) => name.starts_with(before) && name.ends_with(after),
            None => pattern == name,
        };
        self.rows(&states, |name| patterns.iter().any(|pattern| matches(pattern, name)))
    }

    fn subscribe(&self, #[zbus(header)] header: Header<'_>) -> Result<(), Refusal> {
        let sender = header.sender().map(|name| name.to_string()).unwrap_or_default();
        if !self.shared.inner().subscribers.insert(sender) {
            let text = "Client is already subscribed.";
            return Err(Refusal::new("org.freedesktop.systemd1.AlreadySubscribed", text));
        }
        Ok(())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn soft_reboots_count(&self) -> fdo::Result<u32> {
        let missing = || fdo::Error::UnknownProperty("Unknown property SoftRebootsCount".into());
        self.shared.inner().soft_reboots.ok_or_else(missing)
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

/// Tells everybody that a job is over.
pub(super) async fn announce_end(
    connection: &Connection,
    job: OwnedObjectPath,
    unit: &str,
    result: &str,
) -> zbus::Result<()> {
    let emitter = SignalEmitter::new(connection, PATH)?;
    let number = job.as_str().rsplit('/').next().and_then(|number| number.parse().ok());
    Manager::job_removed(&emitter, number.unwrap_or_default(), job, unit, result).await
}

fn unit_path(name: &str) -> Result<OwnedObjectPath, Refusal> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let valid = name.len() <= 255 && name.ends_with(".service") && name.chars().all(allowed);
    let path = valid.then(|| object_path(&format!("{PATH}/unit"), name).ok()).flatten();
    path.map(OwnedObjectPath::from).ok_or_else(|| {
        let text = format!("Unit name {name} is not valid.");
        Refusal::new("org.freedesktop.DBus.Error.InvalidArgs", &text)
    })
}

fn no_such_unit(name: &str) -> Refusal {
    let text = format!("Unit {name} not loaded.");
    Refusal::new("org.freedesktop.systemd1.NoSuchUnit", &text)
}

struct UnitObject {
    shared: Arc<Shared>,
    name: String,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl UnitObject {
    #[zbus(property)]
    fn active_state(&self) -> String {
        let inner = self.shared.inner();
        inner.units.get(&self.name).map_or("inactive", |unit| unit.state.as_str()).to_owned()
    }
}

struct ServiceObject {
    shared: Arc<Shared>,
    name: String,
}

impl ServiceObject {
    fn look<T: Default>(&self, at: impl Fn(&Unit) -> T) -> T {
        self.shared.inner().units.get(&self.name).map(at).unwrap_or_default()
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl ServiceObject {
    #[zbus(property)]
    fn result(&self) -> String {
        self.look(|unit| unit.result.clone())
    }

    #[zbus(property)]
    fn exec_main_code(&self) -> i32 {
        self.look(|unit| unit.code)
    }

    #[zbus(property)]
    fn exec_main_status(&self) -> i32 {
        self.look(|unit| unit.status)
    }
}

/// A D-Bus error with a name of systemd's choice.
#[derive(Debug)]
struct Refusal {
    name: String,
    text: String,
}

impl Refusal {
    fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned() }
    }
}

impl zbus::DBusError for Refusal {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name.as_str()).build(&self.text)
    }

    fn name(&self) -> ErrorName<'_> {
        let fallback = ErrorName::from_static_str_unchecked("org.freedesktop.DBus.Error.Failed");
        ErrorName::try_from(self.name.as_str()).unwrap_or(fallback)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.text)
    }
}
