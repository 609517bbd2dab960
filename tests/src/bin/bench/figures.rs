//! Many measurements into few figures, and those into tables.

use std::time::Duration;

/// Times of one thing done many times.
#[derive(Debug, Default, Clone)]
pub(crate) struct Times {
    all: Vec<Duration>,
}

impl Times {
    /// Adds one: in between what is measured, so no more is done about it here.
    pub(crate) fn add(&mut self, time: Duration) {
        self.all.push(time);
    }

    /// Adds all of them.
    pub(crate) fn join(&mut self, other: Self) {
        self.all.extend(other.all);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// The one in the middle.
    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// The one that so many of a hundred do not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.all.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// Cells: median, 99th percentile, how often, and how the median compares.
    pub(crate) fn row(&self, what: &str, reference: Option<(&str, &Times)>) -> Vec<String> {
        let compared = reference.map(|(name, times)| {
            let ratio = self.median().as_secs_f64() / times.median().as_secs_f64();
            format!("{ratio:.2} x {name}")
        });
        vec![
            what.to_owned(),
            show(self.median()),
            show(self.percentile(99)),
            self.count().to_string(),
            compared.unwrap_or_else(|| "(reference)".to_owned()),
        ]
    }
}

/// Headings of [`Times::row`].
pub(crate) const TIMES: [&str; 5] = ["", "median", "p99", "n", "median beside"];

/// A time with three digits or so.
pub(crate) fn show(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ..0.1 => format!("{:.1} us", ms * 1000.0),
        ..10.0 => format!("{ms:.2} ms"),
        _ => format!("{ms:.1} ms"),
    }
}

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(title: &str, headings: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            rows: vec![headings.iter().map(ToString::to_string).collect()],
        }
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }
}

/// Prints tables for people at a terminal, or for a document.
#[derive(Debug)]
pub(crate) struct Report {
    markdown: bool,
}

impl Report {
    /// For a document if `markdown`.
    pub(crate) fn new(markdown: bool) -> Self {
        Self { markdown }
    }

    /// A sentence.
    pub(crate) fn note(&self, text: &str) {
        println!("{text}");
    }

    /// A table.
    pub(crate) fn show(&self, table: &Table) {
        let columns = table.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            table.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        println!("\n{}{}\n", if self.markdown { "## " } else { "" }, table.title);
        for (number, row) in table.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                let width = *width;
                // The first and the last are words, the others numbers.
                match column == 0 || column + 1 == columns {
                    true => format!("{cell:<width$}"),
                    false => format!("{cell:>width$}"),
                }
            });
            let cells: Vec<_> = cells.collect();
            if self.markdown {
                println!("| {} |", cells.join(" | "));
            } else {
                println!("  {}", cells.join("  ").trim_end());
            }
            if self.markdown && number == 0 {
                let rules: Vec<_> =
                    widths.iter().map(|width| "-".repeat((*width).max(3))).collect();
                println!("| {} |", rules.join(" | "));
            }
        }
    }
}
