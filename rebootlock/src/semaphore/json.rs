//! The semaphore as CoreOS defined it: `{"semaphore":1,"max":1,"holders":[]}`.
//!
//! What does not read cleanly is refused, never guessed: [`Semaphore::from_json`] says what is
//! wrong, and only a person writes what [`mend`] proposes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Semaphore;
use crate::id::MachineId;

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Not JSON at all, or cut short.
    #[error("not valid JSON ({at})")]
    Syntax {
        /// Where, as `line L column C`, with what the parser found there.
        at: String,
    },
    /// JSON, but a member is missing or of the wrong type.
    #[error("not a document of its kind ({problem})")]
    Shape {
        /// Which member, and what it is.
        problem: String,
    },
    /// The numbers contradict each other.
    #[error("inconsistent: semaphore {semaphore} and {holders} holders do not add up to max {max}")]
    Sum {
        /// Free slots by the document.
        semaphore: i64,
        /// The limit by the document.
        max: u32,
        /// How many holders are listed.
        holders: usize,
    },
    /// One machine is listed twice, so the free slots cannot be trusted.
    #[error("inconsistent: holder {holder:?} is listed more than once")]
    Duplicate {
        /// The machine listed twice.
        holder: String,
    },
}

impl Damage {
    /// Tells broken JSON from JSON of the wrong shape.
    pub(crate) fn from_json_error(error: &serde_json::Error) -> Self {
        if error.is_data() {
            Self::Shape { problem: error.to_string() }
        } else {
            let (line, column) = (error.line(), error.column());
            Self::Syntax { at: format!("line {line} column {column}") }
        }
    }
}

#[derive(Deserialize)]
struct Read {
    semaphore: i64,
    max: i64,
    // Required, though `null` is an empty list: a document without it is not one of ours.
    #[serde(deserialize_with = "Option::deserialize")]
    holders: Option<Vec<String>>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Serialize)]
struct Write<'a> {
    semaphore: i64,
    max: u32,
    holders: &'a BTreeSet<MachineId>,
    #[serde(flatten)]
    unknown: &'a Map<String, Value>,
}

impl Semaphore {
    /// Reads a document, indented or not, with holders in any order or `null`. Members it does not
    /// know are kept for [`Semaphore::to_json`].
    ///
    /// # Errors
    /// [`Damage`] if it is not one, or if `semaphore + holders == max` does not hold.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Damage> {
        let read: Read =
            serde_json::from_slice(bytes).map_err(|error| Damage::from_json_error(&error))?;
        let max = u32::try_from(read.max).map_err(|_| Damage::Shape {
            problem: format!("max is {}; allowed is 0 to {}", read.max, u32::MAX),
        })?;
        let listed = read.holders.unwrap_or_default();
        let count = listed.len();
        let mut holders = BTreeSet::new();
        for holder in listed {
            if !holders.insert(MachineId::foreign(holder.clone())) {
                return Err(Damage::Duplicate { holder });
            }
        }
        if read.semaphore.checked_add(count as i64) != Some(i64::from(max)) {
            return Err(Damage::Sum { semaphore: read.semaphore, max, holders: count });
        }
        Ok(Self { max, holders, unknown: read.unknown })
    }

    /// Writes the document in one line, holders sorted by byte, unknown members last.
    pub fn to_json(&self) -> Vec<u8> {
        let document = Write {
            semaphore: self.available(),
            max: self.max,
            holders: &self.holders,
            unknown: &self.unknown,
        };
        // Every key is a string and no value can fail, so there is always a text.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

/// The document a person probably meant. `recorded` are the machines that have a holder record:
/// all that is left to go by where the holders cannot be read. The limit is never raised to make
/// room; with more holders than slots nobody new gets in.
pub fn mend(bytes: &[u8], recorded: &BTreeSet<MachineId>) -> Semaphore {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let number = |name: &str| match &value[name] {
        Value::String(text) => text.trim().parse::<i64>().ok(),
        other => other.as_i64(),
    };
    let holders: BTreeSet<MachineId> = match &value["holders"] {
        Value::Array(listed) => listed
            .iter()
            .filter_map(Value::as_str)
            .map(|holder| MachineId::foreign(holder.to_owned()))
            .collect(),
        Value::Null if value["semaphore"].is_i64() => BTreeSet::new(),
        _ => recorded.clone(),
    };
    let max = number("max")
        .and_then(|max| u32::try_from(max).ok())
        .unwrap_or_else(|| Semaphore::default().max());
    let mut unknown = value.as_object().cloned().unwrap_or_default();
    for known in ["semaphore", "max", "holders"] {
        unknown.remove(known);
    }
    Semaphore { max, holders, unknown }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Semaphore, Damage> {
        Semaphore::from_json(text.as_bytes())
    }

    #[test]
    fn the_fresh_document_is_what_coreos_defined() {
        assert_eq!(
            String::from_utf8(Semaphore::default().to_json()).unwrap(),
            r#"{"semaphore":1,"max":1,"holders":[]}"#
        );
    }

    #[test]
    fn null_unsorted_and_indented_documents_are_read() {
        assert_eq!(
            read(r#"{"semaphore":1,"max":1,"holders":null}"#).unwrap(),
            Semaphore::default()
        );
        let text = "{\n\t\"semaphore\": 0,\n\t\"max\": 2,\n\t\"holders\": [\n\t\t\"b\",\n\t\t\"a\"\n\t]\n}\n";
        assert_eq!(
            String::from_utf8(read(text).unwrap().to_json()).unwrap(),
            r#"{"semaphore":0,"max":2,"holders":["a","b"]}"#
        );
    }

    #[test]
    fn unknown_members_and_foreign_holders_survive() {
        let text =
            r#"{"semaphore":-1,"max":1,"holders":["","web 3/x"],"note":{"z":1,"a":[2]},"b":null}"#;
        assert_eq!(String::from_utf8(read(text).unwrap().to_json()).unwrap(), text);
    }

    #[test]
    fn what_is_damaged_is_named() {
        let said = |text| read(text).unwrap_err().to_string();
        assert_eq!(said(r#"{"semaphore":1,"#), "not valid JSON (line 1 column 15)");
        assert_eq!(said(""), "not valid JSON (line 1 column 0)");
        assert_eq!(
            said(r#"{"semaphore":1,"max":2,"holders":[]}"#),
            "inconsistent: semaphore 1 and 0 holders do not add up to max 2"
        );
        assert_eq!(
            said(r#"{"semaphore":0,"max":2,"holders":["a","a"]}"#),
            "inconsistent: holder \"a\" is listed more than once"
        );
        for text in [
            r#"{"semaphore":1,"max":"4","holders":[]}"#,
            r#"{"semaphore":-1,"max":-1,"holders":[]}"#,
            r#"{"semaphore":1,"max":1}"#,
            r#"{"semaphore":1.0,"max":1,"holders":[]}"#,
            r#"{"semaphore":0,"max":1,"holders":[7]}"#,
            r#"{"semaphore":1,"max":1,"max":1,"holders":[]}"#,
            "[]",
            "null",
        ] {
            assert!(matches!(read(text), Err(Damage::Shape { .. })), "{text}: {:?}", read(text));
        }
        assert!(matches!(
            read(r#"{"semaphore":1,"max":1,"holders":[]} {}"#),
            Err(Damage::Syntax { .. })
        ));
    }

    #[test]
    fn mending_keeps_every_holder_it_can_find() {
        let recorded = BTreeSet::from([MachineId::new("r").unwrap()]);
        let mended =
            |text: &str| String::from_utf8(mend(text.as_bytes(), &recorded).to_json()).unwrap();
        assert_eq!(
            mended(r#"{"semaphore":3,"max":"4","holders":["a"],"note":1}"#),
            r#"{"semaphore":3,"max":4,"holders":["a"],"note":1}"#
        );
        assert_eq!(
            mended(r#"{"semaphore":1,"max":1,"holders":["a","a"]}"#),
            r#"{"semaphore":0,"max":1,"holders":["a"]}"#
        );
        // Nothing readable: the records say who may be down.
        assert_eq!(mended(r#"{"semaphore":0,"ma"#), r#"{"semaphore":0,"max":1,"holders":["r"]}"#);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_or_mending_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Semaphore::from_json(&bytes);
            let mended = mend(&bytes, &BTreeSet::new());
            prop_assert_eq!(Semaphore::from_json(&mended.to_json()).unwrap(), mended);
        }

        #[test]
        fn whatever_is_mended_reads_back(
            semaphore in any::<i64>(), max in any::<i64>(), holders in prop::collection::vec("[a-c ]{0,2}", 0..6)
        ) {
            let text = serde_json::json!({"semaphore": semaphore, "max": max, "holders": holders}).to_string();
            let mended = mend(text.as_bytes(), &BTreeSet::new());
            prop_assert_eq!(Semaphore::from_json(&mended.to_json()).unwrap(), mended.clone());
            if let Ok(read) = Semaphore::from_json(text.as_bytes()) {
                prop_assert_eq!(read, mended);
            }
        }
    }
}
