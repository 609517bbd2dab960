//! What an operator wants to do, and to what; and what will come of it, in words.

use std::time::Duration;

use maud::{Markup, html};
use rebootlock::duration;
use rebootlock::id::{Group, MachineId, Token};
use rebootlock::lock::Scope;
use rebootlock::view::{GroupView, HolderView, Readable};
use serde::Deserialize as _;
use serde::de::{IntoDeserializer as _, value};

use super::fields::Fields;
use super::moment::Ages;
use super::words::{clean, count, text};
use crate::act::Action;
use crate::fleet::FleetView;

/// What can be done here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Pause,
    Resume,
    Unlock,
    SetMax,
    Request,
    Cancel,
    Hold,
    Unhold,
}

impl What {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "pause" => Self::Pause,
            "resume" => Self::Resume,
            "unlock" => Self::Unlock,
            "set-max" => Self::SetMax,
            "request" => Self::Request,
            "cancel" => Self::Cancel,
            "hold" => Self::Hold,
            "unhold" => Self::Unhold,
            _ => return None,
        })
    }

    /// As it is called in links.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Unlock => "unlock",
            Self::SetMax => "set-max",
            Self::Request => "request",
            Self::Cancel => "cancel",
            Self::Hold => "hold",
            Self::Unhold => "unhold",
        }
    }
}

/// What is to be done, and to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) what: What,
    pub(super) group: Option<Group>,
    pub(super) id: Option<MachineId>,
    /// The acquisition that was seen; nobody means one that came about since.
    pub(super) token: Option<Token>,
}

impl Target {
    /// Reads it out of a link or a form.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn of(fields: &Fields) -> Result<Self, String> {
        let named = fields.get("do");
        let what = What::parse(named).ok_or_else(|| format!("{named:?} cannot be done here"))?;
        let given = |name: &str| Some(fields.get(name)).filter(|value| !value.is_empty());
        let group = given("group").map(Group::new).transpose().map_err(|e| e.to_string())?;
        let id = given("id").map(MachineId::new).transpose().map_err(|e| e.to_string())?;
        let token = given("token").map(parse_token).transpose();
        let token = token.map_err(|_| "`token` is not that of a slot".to_owned())?;
        let lacks = match what {
            What::Pause | What::Resume => None,
            What::SetMax => group.is_none().then_some("group"),
            What::Unlock if group.is_none() => Some("group"),
            _ => id.is_none().then_some("id"),
        };
        match lacks {
            Some(name) => Err(format!("`{name}` is missing")),
            None => Ok(Self { what, group, id, token }),
        }
    }

    /// The whole action, with what was typed into the form.
    ///
    /// # Errors
    /// What is wrong with that, in words.
    pub(super) fn action(&self, fields: &Fields) -> Result<Action, String> {
        let scope = || self.group.clone().map_or(Scope::Fleet, Scope::Group);
        let missing = || "a machine or a group is missing".to_owned();
        let group = || self.group.clone().ok_or_else(missing);
        let machine = || self.id.clone().ok_or_else(missing);
        Ok(match self.what {
            What::Pause => Action::Pause { scope: scope(), lasting: lasting(fields)? },
            What::Resume => Action::Resume { scope: scope() },
            What::Unlock => {
                Action::Unlock { machine: machine()?, groups: vec![group()?], token: self.token }
            }
            What::SetMax => {
                let max = fields.get("max").trim();
                let max = max.parse().map_err(|_| {
                    format!("{max:?} is not a limit; expected a whole number, 0 or more")
                })?;
                Action::SetMax { group: group()?, max }
            }
            What::Request => Action::Request { machine: machine()?, priority: priority(fields)? },
            What::Cancel => Action::Cancel { machine: machine()? },
            What::Hold => Action::Hold { machine: machine()?, lasting: lasting(fields)? },
            What::Unhold => Action::Unhold { machine: machine()? },
        })
    }

    /// What is about to be done, as a heading.
    pub(super) fn title(&self, fleet: Option<&FleetView>) -> String {
        let id = clean(self.name(fleet));
        let scope = match &self.group {
            Some(group) => format!("group {}", clean(group.as_str())),
            None => "the fleet".to_owned(),
        };
        match self.what {
            What::Pause => format!("Pause {scope}"),
            What::Resume => format!("Resume {scope}"),
            What::Unlock => format!("Free the slot of {id} in {scope}"),
            What::SetMax => format!("Change the limit of {scope}"),
            What::Request => format!("Ask {id} to reboot"),
            What::Cancel => format!("Take back the request that {id} reboot"),
            What::Hold => format!("Keep {id} from rebooting"),
            What::Unhold => format!("Let {id} reboot again"),
        }
    }

    /// What people call the machine, if that is known.
    fn name<'a>(&'a self, fleet: Option<&'a FleetView>) -> &'a str {
        let Some(id) = &self.id else { return "" };
        let holder = self.holder(fleet).and_then(|holder| holder.hostname.as_deref());
        let machines = fleet.iter().flat_map(|fleet| &fleet.machines);
        let mut known = machines.filter(|machine| machine.machine_id == *id);
        let machine = || known.next().and_then(|machine| machine.hostname.as_deref());
        holder.or_else(machine).unwrap_or(id.as_str())
    }

    /// What comes of it.
    pub(super) fn meaning(&self) -> &'static str {
        match self.what {
            What::Pause => {
                "Nobody new gets a slot. A machine that has one keeps it and does not begin its reboot; \
                 one that is rebooting already comes back as usual."
            }
            What::Resume => "Those who wait go on at once, in their order.",
            What::Unlock => {
                "For a machine that will not give its slot back itself. The next in the queue gets it at \
                 once."
            }
            What::SetMax => {
                "So many machines of the group may be down at once. Lowering it throws nobody out."
            }
            What::Request => {
                "Its agent takes it from there: windows, gates and the queue count as for any reboot."
            }
            What::Cancel => "A slot that it holds already is not given back.",
            What::Hold => {
                "It gets no slot, and does not begin a reboot with the one it has. A reboot that is \
                 permitted already goes on."
            }
            What::Unhold => "It may take a slot again when its turn comes.",
        }
    }

    /// What has to be read and agreed to before it is done: that it can take more machines down than
    /// were meant to be, or stops a group.
    pub(super) fn warning(&self, action: &Action, fleet: Option<&FleetView>) -> Option<Markup> {
        let group = self.group.as_ref().and_then(|group| find(fleet, group));
        match action {
            Action::Unlock { .. } => Some(unlocking(self.name(fleet), group)),
            Action::SetMax { max: 0, .. } => Some(html! {
                p {
                    "Nobody in group " strong { (text(self.group.as_ref().map_or("", Group::as_str))) }
                    " will reboot until somebody raises the limit again."
                }
                @if let Some(group) = group {
                    p {
                        "Now " (count(group.holders.len(), "machine")) " hold a slot and keep it; "
                        (count(group.queue.len(), "machine")) " wait and go on waiting."
                    }
                }
            }),
            _ => None,
        }
    }

    /// The slot that is meant, as it is now.
    pub(super) fn holder<'a>(&self, fleet: Option<&'a FleetView>) -> Option<&'a HolderView> {
        let group = find(fleet, self.group.as_ref()?)?;
        let id = self.id.as_ref()?;
        group.holders.iter().find(|holder| holder.machine_id == *id)
    }

    /// The limit as it is now.
    pub(super) fn max(&self, fleet: Option<&FleetView>) -> Option<u32> {
        find(fleet, self.group.as_ref()?).map(|group| group.max)
    }
}

fn find<'a>(fleet: Option<&'a FleetView>, group: &Group) -> Option<&'a Readable> {
    fleet?.groups.iter().filter_map(GroupView::readable).find(|view| view.group == *group)
}

fn unlocking(name: &str, group: Option<&Readable>) -> Markup {
    let paused = group.is_some_and(|group| !group.paused.is_empty());
    let next = group.and_then(|group| group.queue.first());
    html! {
        p {
            "The slot is free at once, whether or not " strong { (text(name)) } " is back. "
            strong { "If it is down or about to reboot, one machine more than the limit will be down." }
        }
        @match next {
            Some(_) if paused => p { "The group is paused, so nobody gets it for now." },
            Some(next) => p {
                strong { (text(next.hostname.as_deref().unwrap_or(next.machine_id.as_str()))) }
                " is next in the queue and may reboot as soon as this is done."
            },
            None => p { "Nobody waits for it now." },
        }
    }
}

/// What is known of a slot, for whoever is about to free it.
pub(super) fn facts(holder: &HolderView, ages: Ages) -> Markup {
    html! {
        dl.facts {
            dt { "Machine" } dd { (super::words::machine(holder.hostname.as_deref(), holder.machine_id.as_str())) }
            @if let Some(state) = &holder.state {
                dt { "State" } dd { (text(&state.to_string())) @if holder.overdue { ", overdue" } }
            }
            @if let Some(since) = holder.since { dt { "Since" } dd { (ages.inline(since)) } }
            @if let Some(via) = &holder.via { dt { "Via" } dd { (text(&via.to_string())) } }
            @if let Some(reason) = &holder.reason { dt { "Why" } dd { (text(reason)) } }
            @if holder.groups.len() > 1 {
                dt { "Taken together" } dd { (text(&holder.groups.join(", "))) ": all of them become free" }
            }
        }
    }
}

fn parse_token(text: &str) -> Result<Token, value::Error> {
    Token::deserialize(text.into_deserializer())
}

fn lasting(fields: &Fields) -> Result<Option<Duration>, String> {
    match fields.get("for").trim() {
        "" => Ok(None),
        text => match duration::parse(text)? {
            Duration::ZERO => Err("it must last longer than that".to_owned()),
            time => Ok(Some(time)),
        },
    }
}

fn priority(fields: &Fields) -> Result<u32, String> {
    match fields.get("priority").trim() {
        "" => Ok(0),
        text => text.parse().map_err(|_| format!("{text:?} is not a priority; expected 0 or more")),
    }
}
