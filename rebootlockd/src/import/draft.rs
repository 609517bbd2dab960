//! Our configuration in the making.

use rebootlock::config::comment;
use toml::Value;

/// The order in which tables are written.
const ORDER: [&str; 11] = [
    "store", "machine", "agent", "window", "detector", "gate", "group", "hooks", "reboot",
    "metrics", "log",
];

/// Tables with settings and comments.
#[derive(Debug)]
pub(super) struct Draft {
    program: &'static str,
    file: String,
    tables: Vec<Table>,
    notes: Vec<String>,
}

/// One table.
#[derive(Debug)]
pub(super) struct Table {
    name: &'static str,
    /// Whether there may be several of them.
    is_one_of_many: bool,
    lines: Vec<String>,
}

impl Draft {
    /// Nothing yet, out of what `program` was told.
    pub(super) fn new(program: &'static str) -> Self {
        Self { program, file: String::new(), tables: Vec::new(), notes: Vec::new() }
    }

    /// The file that all of it came from.
    pub(super) fn came_from(&mut self, file: &str) {
        self.file = file.to_owned();
    }

    /// The table of that name, of which there is one.
    pub(super) fn table(&mut self, name: &'static str) -> &mut Table {
        let known = self.tables.iter().position(|table| table.name == name);
        let at = known.unwrap_or_else(|| {
            self.tables.push(Table { name, is_one_of_many: false, lines: Vec::new() });
            self.tables.len() - 1
        });
        &mut self.tables[at]
    }

    /// One more table of that name.
    pub(super) fn add(&mut self, name: &'static str) -> &mut Table {
        self.tables.push(Table { name, is_one_of_many: true, lines: Vec::new() });
        let last = self.tables.len() - 1;
        &mut self.tables[last]
    }

    /// Something that belongs into no table.
    pub(super) fn note(&mut self, text: impl AsRef<str>) {
        self.notes.push(comment("- ", text.as_ref()));
    }

    /// The whole file.
    pub(super) fn to_toml(&self) -> String {
        let mut text = comment(
            "",
            &format!(
                "Made from {}'s {} by `rebootlockd import`. Read the comments, then put it at \
                 /etc/rebootlock/rebootlock.toml and run `rebootlockd validate-config`.",
                self.program, self.file
            ),
        );
        for name in ORDER {
            for table in self.tables.iter().filter(|table| table.name == name) {
                text.push_str(&if table.is_one_of_many {
                    format!("\n[[{name}]]\n")
                } else {
                    format!("\n[{name}]\n")
                });
                text.extend(table.lines.iter().map(String::as_str));
            }
        }
        if !self.notes.is_empty() {
            text.push_str("\n# Without an equal here, or different:\n");
            text.extend(self.notes.iter().map(String::as_str));
        }
        text
    }
}

impl Table {
    /// A setting.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.lines.push(format!("{key} = {}\n", value.into()));
        self
    }

    /// A comment on what follows.
    pub(super) fn note(&mut self, text: impl AsRef<str>) -> &mut Self {
        self.lines.push(comment("", text.as_ref()));
        self
    }
}

/// `text` as a quoted word, whatever is in it.
pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// A list of texts as a value.
pub(super) fn list<T: Into<Value>>(texts: impl IntoIterator<Item = T>) -> Value {
    Value::Array(texts.into_iter().map(Into::into).collect())
}
