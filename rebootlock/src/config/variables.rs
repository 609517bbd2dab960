//! The variables that scripts are given, and texts in which they are replaced.
//!
//! `${REBOOTLOCK_…}` and `${RC_…}` are replaced, and nothing else is: `$i`, `$$` and `${HOME}` stay
//! as they are, so that a line of shell survives.

use std::fmt;

/// Every variable that a script is given, ours and those of clusterrebootd.
pub const VARIABLES: [&str; 26] = [
    "REBOOTLOCK_PHASE",
    "REBOOTLOCK_MACHINE_ID",
    "REBOOTLOCK_HOSTNAME",
    "REBOOTLOCK_BOOT_ID",
    "REBOOTLOCK_GROUPS",
    "REBOOTLOCK_REASON",
    "REBOOTLOCK_DRY_RUN",
    "REBOOTLOCK_TOKEN",
    "RC_NODE_NAME",
    "RC_DRY_RUN",
    "RC_LOCK_KEY",
    "RC_ETCD_ENDPOINTS",
    "RC_KILL_SWITCH_FILE",
    "RC_CLUSTER_MIN_HEALTHY_FRACTION",
    "RC_CLUSTER_MIN_HEALTHY_ABSOLUTE",
    "RC_CLUSTER_FORBID_IF_ONLY_FALLBACK_LEFT",
    "RC_CLUSTER_FALLBACK_NODES",
    "RC_WINDOWS_ALLOW",
    "RC_WINDOWS_DENY",
    "RC_METRICS_ENDPOINT",
    "RC_SKIP_HEALTH",
    "RC_SKIP_LOCK",
    "RC_PHASE",
    "RC_LOCK_ENABLED",
    "RC_LOCK_HELD",
    "RC_LOCK_ATTEMPTS",
];

/// A text with variables in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(&'static str),
}

/// A text that looks as if a variable were meant, but there is none of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// No such variable.
    #[error("there is no variable `${{{name}}}`; did you mean `${{{closest}}}`?")]
    Unknown {
        /// As written.
        name: String,
        /// The one most like it.
        closest: &'static str,
    },
    /// `${RC_` without its end.
    #[error("`${{{0}…` is not closed by a `}}`")]
    Open(String),
}

impl Template {
    /// Finds the variables of a text.
    ///
    /// # Errors
    /// [`BadTemplate`] names a variable of ours that does not exist.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, after) = (&rest[..start], &rest[start + 2..]);
            plain.push_str(before);
            let prefix = ["REBOOTLOCK_", "RC_"].into_iter().find(|own| after.starts_with(own));
            let Some(prefix) = prefix else {
                plain.push_str("${");
                rest = after;
                continue;
            };
            let end = after.find('}').ok_or_else(|| BadTemplate::Open(prefix.to_owned()))?;
            let name = &after[..end];
            let Some(known) = VARIABLES.into_iter().find(|known| *known == name) else {
                return Err(BadTemplate::Unknown { name: name.to_owned(), closest: closest(name) });
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Variable(known));
            rest = &after[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The text with each variable replaced by what `value` makes of its name.
    pub fn expand(&self, value: impl Fn(&'static str) -> String) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Variable(name) => text.push_str(&value(name)),
            }
        }
        text
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expand(|name| format!("${{{name}}}")))
    }
}

fn closest(name: &str) -> &'static str {
    let likeness = |known: &str| strsim::normalized_levenshtein(name, known);
    let best = VARIABLES.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    best.unwrap_or(VARIABLES[0])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(text: &str) -> String {
        Template::parse(text).unwrap().expand(|name| format!("<{name}>"))
    }

    #[test]
    fn our_variables_are_replaced_and_nothing_else_is() {
        for (text, said) in [
            ("", ""),
            ("plain", "plain"),
            ("${RC_NODE_NAME}", "<RC_NODE_NAME>"),
            ("a${REBOOTLOCK_HOSTNAME}b${RC_PHASE}c", "a<REBOOTLOCK_HOSTNAME>b<RC_PHASE>c"),
            ("for i in a b; do echo $i $$ ${HOME} $RC_PHASE; done", ""),
            ("${", ""),
            ("${}", ""),
            ("$${RC_PHASE}", "$<RC_PHASE>"),
        ] {
            let said = if said.is_empty() { text } else { said };
            assert_eq!(expanded(text), said);
            assert_eq!(Template::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_unknown_variable_of_ours_is_refused() {
        let said = |text| Template::parse(text).unwrap_err().to_string();
        assert_eq!(
            said("${RC_NODENAME}"),
            "there is no variable `${RC_NODENAME}`; did you mean `${RC_NODE_NAME}`?"
        );
        assert_eq!(said("x${REBOOTLOCK_HOST"), "`${REBOOTLOCK_…` is not closed by a `}`");
    }

    proptest! {
        #[test]
        fn a_text_survives_being_read(text in "[${}RC_PHASEi é]{0,30}") {
            if let Ok(template) = Template::parse(&text) {
                prop_assert_eq!(template.to_string(), text);
            }
        }
    }
}
