//! Where settings were written, for what is found wrong only once all files are put together.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a setting may be told of whose own is not there.
const NEAR: [(&str, &str); 2] =
    [("reboot.command", "reboot.method"), ("reboot.release_budget", "reboot.on_overdue")];

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which file.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Place {
    /// Behind the text `before` it.
    pub(super) fn behind(path: &Path, before: &str) -> Self {
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { path: path.to_owned(), line, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

/// The place of each `table.key`, and of each `table`, in the last file that has it; none for what a flag
/// or a variable says. What has a name is found by `table.name` too, and files of holidays by
/// [`holidays`].
///
/// Two are always equal: where something is written does not change what it says.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<String, Option<Place>>);

impl PartialEq for Places {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Places {
    /// Of everything in a file that can be parsed.
    pub(super) fn of(path: &Path, text: &str) -> Self {
        let mut places = Self::default();
        let Ok(whole) = DeTable::parse(text) else { return places };
        let at = |span: Range<usize>| Place::behind(path, text.get(..span.start).unwrap_or(text));
        for (table, value) in whole.get_ref().iter() {
            let table_name = table.get_ref();
            places.0.insert(table_name.to_string(), Some(at(table.span())));
            match value.get_ref() {
                DeValue::Table(members) => {
                    for (key, value) in members.iter() {
                        let place = Some(at(value.span()));
                        places.0.insert(format!("{table_name}.{}", key.get_ref()), place);
                    }
                }
                DeValue::Array(tables) => {
                    for table in tables.iter() {
                        places.note_named(table_name, table, &at);
                    }
                }
                _ => {}
            }
        }
        places
    }

    fn note_named(
        &mut self,
        kind: &str,
        table: &Spanned<DeValue<'_>>,
        at: &impl Fn(Range<usize>) -> Place,
    ) {
        let DeValue::Table(members) = table.get_ref() else { return };
        let member = |wanted: &str| {
            let found = members.iter().find(|(key, _)| key.get_ref() == wanted)?.1;
            match found.get_ref() {
                DeValue::String(text) => Some((text.to_string(), found.span())),
                _ => None,
            }
        };
        // One without a name is named after its type.
        if let Some((name, span)) = member("name").or_else(|| member("type")) {
            self.0.insert(format!("{kind}.{name}"), Some(at(span)));
        }
        if let Some((path, span)) = member("holidays") {
            self.0.insert(holidays(Path::new(&path)), Some(at(span)));
        }
    }

    /// The place of `setting`, or else of what is nearest to it.
    pub(super) fn nearest(&self, setting: &str) -> Option<&Place> {
        let near = NEAR.iter().find(|(known, _)| *known == setting).map(|(_, near)| *near);
        let table = setting.split_once('.').map(|(table, _)| table);
        let mut keys = [Some(setting), near, table].into_iter().flatten();
        keys.find_map(|key| self.0.get(key))?.as_ref()
    }

    /// The place of exactly that.
    pub(super) fn get(&self, key: &str) -> Option<&Place> {
        self.0.get(key)?.as_ref()
    }

    /// `setting` comes from elsewhere than a file.
    pub fn forget(&mut self, setting: &str) {
        self.0.insert(setting.to_owned(), None);
    }

    /// Those of a later layer, for what it says.
    pub(super) fn extend(&mut self, over: Self) {
        self.0.extend(over.0);
    }
}

/// By what the place of a file of holidays is found.
pub(super) fn holidays(path: &Path) -> String {
    format!("window.holidays={}", path.display())
}
