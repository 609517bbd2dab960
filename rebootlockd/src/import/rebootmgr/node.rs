//! The JSON that SysEleven's rebootmgr keeps of each node in Consul.

use rebootlock::id::Group;
use serde::Deserialize;

use super::super::Fault;
use super::super::draft::{Draft, list, quoted};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    enabled: Option<bool>,
    /// As it was written in its first years.
    disabled: Option<bool>,
    message: Option<String>,
    group: Option<String>,
}

pub(super) fn convert(text: &str) -> Result<Draft, Fault> {
    let node: Node = serde_json::from_str(text).map_err(|error| {
        let number = |number: usize| u64::try_from(number).unwrap_or(1).max(1);
        let message = error.to_string();
        let problem = message.rsplit_once(" at line ").map_or(&*message, |(problem, _)| problem);
        Fault::new(number(error.line()), number(error.column()), problem)
    })?;
    let mut draft = Draft::new("rebootmgr");
    let is_enabled = match (node.enabled, node.disabled) {
        (Some(enabled), None) => enabled,
        (None, Some(disabled)) => !disabled,
        (Some(_), Some(_)) => {
            return Err(Fault::new(1, 1, "`enabled` and `disabled` say the same; which is it?"));
        }
        (None, None) => {
            let problem = "`enabled` is missing, without which a node is not configured";
            return Err(Fault::new(1, 1, problem));
        }
    };
    let message = node.message.filter(|message| !message.trim().is_empty());
    if is_enabled {
        draft.note(
            "\"enabled\": true: here a machine that runs rebootlockd takes part. `rebootlockctl hold \
             ID` keeps one from rebooting, strategy = \"off\" in [agent] too",
        );
        if let Some(message) = message {
            draft.note(format!("\"message\" was {}", quoted(&message)));
        }
    } else {
        let why = message.map_or(String::new(), |message| format!(": {}", quoted(&message)));
        draft
            .table("agent")
            .note(format!("The node was disabled{why}. Take this out to let it reboot."))
            .set("strategy", "off");
    }
    if let Some(group) = node.group.filter(|group| !group.is_empty()) {
        Group::new(group.as_str())
            .map_err(|error| Fault::new(1, 1, format!("`group`: {error}")))?;
        draft
            .table("machine")
            .note("Groups have a limit each, as before; a machine can be in several here.")
            .set("groups", list([group]));
    }
    draft.note(
        "what rebootmgr is told by flags is imported from the unit that starts it: `rebootlockd \
         import --from rebootmgr UNIT`. This may be its drop-in, in /etc/rebootlock/rebootlock.d",
    );
    Ok(draft)
}
