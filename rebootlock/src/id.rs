//! The names of things: machines, groups, boots and acquisitions.
//!
//! Each is a type of its own, so that swapped arguments do not compile and a name that the rules
//! refuse never reaches a store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest name of a machine or a group, in bytes.
pub const MAX_NAME_BYTES: usize = 253;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing at all.
    #[error("{what} is empty; expected 1 to {MAX_NAME_BYTES} bytes")]
    Empty {
        /// What was being named.
        what: &'static str,
    },
    /// Longer than [`MAX_NAME_BYTES`].
    #[error("{what} is {length} bytes long; at most {MAX_NAME_BYTES} are allowed")]
    TooLong {
        /// What was being named.
        what: &'static str,
        /// How long it was, in bytes.
        length: usize,
    },
    /// A character that would make keys or tables ambiguous.
    #[error("{what} {name:?} contains {found:?}; {barred} are not allowed")]
    Character {
        /// What was being named.
        what: &'static str,
        /// The whole name.
        name: String,
        /// The first offending character.
        found: char,
        /// Which are, in words.
        barred: &'static str,
    },
}

fn check_length(what: &'static str, name: &str) -> Result<(), InvalidName> {
    match name.len() {
        0 => Err(InvalidName::Empty { what }),
        length if length > MAX_NAME_BYTES => Err(InvalidName::TooLong { what, length }),
        _ => Ok(()),
    }
}

/// A machine, by its machine-id or by the id it sends over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct MachineId(String);

impl MachineId {
    /// Accepts 1 to 253 bytes without control characters, blanks or slashes.
    ///
    /// # Errors
    /// [`InvalidName`] says what is wrong with the name.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        let what = "machine id";
        check_length(what, &name)?;
        let refused = |c: &char| c.is_control() || c.is_whitespace() || *c == '/';
        if let Some(found) = name.chars().find(refused) {
            let barred = "control characters, blanks and slashes";
            return Err(InvalidName::Character { what, name, found, barred });
        }
        Ok(Self(name))
    }

    /// A holder as some other program wrote it into a semaphore. It is kept and shown whatever it
    /// looks like, because freeing the slot of a machine we cannot name would be a guess.
    pub(crate) fn foreign(name: String) -> Self {
        Self(name)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for MachineId {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

/// Machines that share a limit. The group named `default` is the one without a key segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Group(String);

impl TryFrom<String> for Group {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl From<Group> for String {
    fn from(group: Group) -> Self {
        group.0
    }
}

impl Group {
    /// Name of the group that machines belong to unless told otherwise.
    pub const DEFAULT: &str = "default";

    /// Accepts 1 to 253 bytes without control characters.
    ///
    /// # Errors
    /// [`InvalidName`] says what is wrong with the name.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        let what = "group name";
        check_length(what, &name)?;
        if let Some(found) = name.chars().find(|c| c.is_control()) {
            let barred = "control characters";
            return Err(InvalidName::Character { what, name, found, barred });
        }
        Ok(Self(name))
    }

    /// Whether this is the group without a key segment.
    pub fn is_default(&self) -> bool {
        self.0 == Self::DEFAULT
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Group {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Group {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

/// One boot of one machine: tells a reboot from a restart of the daemon. Linux shows it in
/// `/proc/sys/kernel/random/boot_id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(String);

impl BootId {
    /// Takes the text of the boot id file, without surrounding blanks.
    ///
    /// # Errors
    /// [`InvalidName::Empty`] if nothing is left.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let text = text.trim();
        check_length("boot id", text)?;
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One acquisition. Whoever finds its token in a holder record knows that the write was its own,
/// which is how a lost reply is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(Uuid);

impl Token {
    /// A token nobody else has.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl From<Uuid> for Token {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn machine_ids_are_one_to_253_bytes_of_plain_text() {
        assert!(MachineId::new("69d27b356a94476da859461d3a3bc6fd").is_ok());
        assert!(MachineId::new("x".repeat(253)).is_ok());
        assert!(MachineId::new("köln-1").is_ok());
        for refused in ["", "a b", "a/b", "a\tb", "a\nb", "a\u{7f}", "a\u{a0}b", &"x".repeat(254)] {
            assert!(MachineId::new(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_refused_name_says_what_is_wrong() {
        let error = MachineId::new("web 3").unwrap_err();
        assert_eq!(
            error.to_string(),
            "machine id \"web 3\" contains ' '; control characters, blanks and slashes are not allowed"
        );
    }

    #[test]
    fn group_names_may_hold_blanks_and_slashes() {
        assert!(Group::new("rack 7/left").is_ok());
        assert!(Group::new("").is_err());
        assert!(Group::new("a\nb").is_err());
        assert!(Group::new("default").unwrap().is_default());
    }
}
