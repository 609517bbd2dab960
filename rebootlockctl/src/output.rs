//! Data to stdout, talk to stderr.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use comfy_table::{Cell, Color, Table, presets};
use serde::Serialize;

/// Whoever read our data has enough of it, as `head` has. Not a failure.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads the output any more")
    }
}

impl std::error::Error for ReaderGone {}

/// Writes data as it is.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => written.context("cannot write the output"),
    }
}

/// Writes a document, indented.
pub(crate) fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(document)?))
}

/// Writes a line of talk. Nobody listening is no reason to stop.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether stdout is a terminal whose owner likes colour.
pub(crate) fn colour() -> bool {
    let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !declined && io::stdout().is_terminal()
}

/// Text out of the store as it may be shown: it must not move a cursor or begin a line.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// One field of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    text: String,
    alarming: bool,
}

impl Field {
    /// Plain text; `-` if there is none.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        let text = clean(text.as_ref());
        Self { text: if text.is_empty() { "-".to_owned() } else { text }, alarming: false }
    }

    /// Text that a person should not overlook.
    pub(crate) fn alarming(text: impl AsRef<str>) -> Self {
        Self { alarming: true, ..Self::new(text) }
    }
}

/// Columns under headings, without borders or trailing blanks, every line ended.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<Field>>, colour: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty().style_text_only();
    if colour {
        table.enforce_styling();
    }
    table.set_header(headings.iter().copied().map(Cell::new));
    table.add_rows(rows.into_iter().map(|row| {
        row.into_iter().map(|field| {
            let cell = Cell::new(field.text);
            if field.alarming { cell.fg(Color::Red) } else { cell }
        })
    }));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_borders_and_no_trailing_blanks() {
        let rows = vec![
            vec![Field::new("a"), Field::new("")],
            vec![Field::new("long one"), Field::alarming("b\u{1b}[2J\nc")],
        ];
        let text = table(&["ID", "WHAT"], rows.clone(), false);
        assert_eq!(text, "ID        WHAT\na         -\nlong one  b\u{fffd}[2J\u{fffd}c\n");
        assert!(table(&["ID", "WHAT"], rows, true).contains("\u{1b}["));
    }
}
