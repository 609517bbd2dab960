//! Checking what a table says, with the place of what is wrong in it.
//!
//! What one value must be is checked where it is read, so that the parser knows the place. What
//! several values of one table must be together is checked here: a [`Table`] is what was written,
//! its settings are what it means.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// What is wrong, and where in the file's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Bytes of the text.
    pub(super) span: Range<usize>,
    /// What is wrong there, and what is allowed. Names the key.
    pub(super) problem: String,
}

impl Fault {
    /// At `span`.
    pub(super) fn new(span: Range<usize>, problem: impl Into<String>) -> Self {
        Self { span, problem: problem.into() }
    }

    /// At a value.
    pub(super) fn at<T>(value: &Spanned<T>, problem: impl fmt::Display) -> Self {
        Self::new(value.span(), problem.to_string())
    }
}

/// A table of an array of tables, as written.
pub(super) trait Table {
    /// What it means.
    type Settings;

    /// Checks it. `whole` is where the table is, for what is missing from it.
    ///
    /// # Errors
    /// [`Fault`] says what is wrong, and where.
    fn check(self, whole: Range<usize>) -> Result<Self::Settings, Fault>;
}

/// Checks each table of an array.
pub(super) fn check_all<T: Table>(
    tables: Option<Vec<Spanned<T>>>,
) -> Result<Option<Vec<T::Settings>>, Fault> {
    let check = |table: Spanned<T>| {
        let span = table.span();
        table.into_inner().check(span)
    };
    tables.map(|tables| tables.into_iter().map(check).collect()).transpose()
}

/// A table that is known by its name: in a later file it replaces its namesake of an earlier one.
pub(super) trait Named {
    /// Its name.
    fn name(&self) -> &str;
}

/// The tables of two layers: all of them, the later one's where names are equal.
pub(super) fn overlay_named<T: Named>(
    below: Option<Vec<T>>,
    above: Option<Vec<T>>,
) -> Option<Vec<T>> {
    match (below, above) {
        (Some(mut tables), Some(above)) => {
            for table in above {
                match tables.iter_mut().find(|known| known.name() == table.name()) {
                    Some(known) => *known = table,
                    None => tables.push(table),
                }
            }
            Some(tables)
        }
        (below, above) => above.or(below),
    }
}

/// Whole seconds between two bounds, both allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secs<const MIN: u64, const MAX: u64>(Duration);

impl<const MIN: u64, const MAX: u64> Secs<MIN, MAX> {
    /// As a length of time.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Secs<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Duration::from_secs(Count::<MIN, MAX>::deserialize(deserializer)?.get())))
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Secs<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = text.parse().ok().filter(|seconds| (MIN..=MAX).contains(seconds));
        let seconds = seconds.ok_or_else(|| format!("{text:?} is not from {MIN} to {MAX}"))?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

/// A whole number between two bounds, both allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> serde::de::Visitor<'_> for Visitor<MIN, MAX> {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<u64, E> {
                if (MIN..=MAX).contains(&number) {
                    Ok(number)
                } else {
                    Err(E::custom(format!("{number} is not from {MIN} to {MAX}")))
                }
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<u64, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::custom(format!("{number} is not from {MIN} to {MAX}"))),
                }
            }
        }
        deserializer.deserialize_u64(Visitor::<MIN, MAX>).map(Self)
    }
}

/// A path from the root: one from where the daemon happened to be started would lead elsewhere each
/// time.
pub(super) fn full_path<'de, D>(deserializer: D) -> Result<Option<PathBuf>, D::Error>
where
    D: Deserializer<'de>,
{
    let path = PathBuf::deserialize(deserializer)?;
    if !path.is_absolute() {
        let problem = format!("{path:?} is not a full path; expected one that begins with /");
        return Err(D::Error::custom(problem));
    }
    Ok(Some(path))
}

/// A list that says something.
pub(super) fn at_least_one<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::deserialize(deserializer)?;
    if list.is_empty() {
        return Err(D::Error::custom("must name at least one, or be left out"));
    }
    Ok(Some(list))
}

/// Text that is not blank.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.trim().is_empty() {
        return Err(D::Error::custom("must not be blank"));
    }
    Ok(Some(text))
}
