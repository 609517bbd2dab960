//! `type = "prometheus"`

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use hyper::Uri;
use toml::Spanned;

use super::super::table::Fault;
use super::super::variables::Template;
use super::pattern::NamePattern;
use super::{GateTable, http};

/// Open if Prometheus has nothing to say.
#[derive(Debug, Clone, PartialEq)]
pub struct PrometheusGate {
    /// Its address; a path in it is kept before `/api/v1/…`.
    pub url: Uri,
    /// What it is asked.
    pub question: Question,
    /// PEM file with the authorities to trust instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// File whose first line is sent as a bearer token.
    pub bearer_token_file: Option<PathBuf>,
}

/// What Prometheus is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// Its alerts.
    Alerts(AlertFilter),
    /// A query of the operator's own.
    Query(Template),
}

/// Which alerts close the gate: those that all of this holds for.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertFilter {
    /// Not only those that fire, but also those that are about to.
    pub pending: bool,
    /// Not these.
    pub ignore: Option<NamePattern>,
    /// Only these.
    pub only: Option<NamePattern>,
    /// Only those with these labels. A label that is not there is as good as an empty one.
    pub labels: BTreeMap<String, LabelValue>,
}

/// What a label must be.
#[derive(Debug, Clone, PartialEq)]
pub enum LabelValue {
    /// Exactly this.
    Is(Template),
    /// Written behind a `~`: the whole value looks like this.
    Matches(Template),
}

pub(super) fn check(mut table: GateTable, whole: Range<usize>) -> Result<PrometheusGate, Fault> {
    let url = http::url(&mut table, whole)?;
    if url.get_ref().query().is_some() {
        return Err(Fault::at(&url, "`url` must end before the `?`: `/api/v1/…` is put behind it"));
    }
    let (ca_file, bearer_token_file) = http::credentials(&mut table, &url)?;
    let question = match table.query.take() {
        Some(query) => {
            let alerts = ["pending", "ignore", "only", "labels"];
            if let Some((key, span)) =
                table.keys().into_iter().find(|(key, _)| alerts.contains(key))
            {
                let problem = format!(
                    "`{key}` is about alerts, and with `query` none are looked at; make it two gates"
                );
                return Err(Fault::new(span, problem));
            }
            if query.get_ref().trim().is_empty() {
                return Err(Fault::at(&query, "`query` must not be blank"));
            }
            if has_unquoted_variable(query.get_ref()) {
                return Err(Fault::at(
                    &query,
                    "variables belong between double or single quotes: anywhere else, and between \
                     backticks, their values could not be taken literally",
                ));
            }
            let template = Template::parse(query.get_ref());
            Question::Query(template.map_err(|error| Fault::at(&query, error))?)
        }
        None => Question::Alerts(AlertFilter {
            pending: table.pending.is_some_and(Spanned::into_inner),
            ignore: table.ignore.map(Spanned::into_inner),
            only: table.only.map(Spanned::into_inner),
            labels: labels(table.labels.map(Spanned::into_inner).unwrap_or_default())?,
        }),
    };
    Ok(PrometheusGate { url: url.into_inner(), question, ca_file, bearer_token_file })
}

fn labels(
    written: BTreeMap<String, Spanned<String>>,
) -> Result<BTreeMap<String, LabelValue>, Fault> {
    let label = |(name, value): (String, Spanned<String>)| {
        let first = name.chars().next();
        let begins = first.is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        if !begins || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let problem =
                format!("{name:?} is not a label: letters, digits and `_`, no digit first");
            return Err(Fault::at(&value, problem));
        }
        let template = |text| Template::parse(text).map_err(|error| Fault::at(&value, error));
        let value = match value.get_ref().strip_prefix('~') {
            None => LabelValue::Is(template(value.get_ref())?),
            Some(pattern) => {
                let pattern = template(pattern)?;
                // What a variable stands for is taken literally, so any text shows the same faults.
                NamePattern::new(&pattern.expand(|_| "x".to_owned()))
                    .map_err(|problem| Fault::at(&value, problem))?;
                LabelValue::Matches(pattern)
            }
        };
        Ok((name, value))
    };
    written.into_iter().map(label).collect()
}

/// Whether a variable stands where PromQL has no escapes.
fn has_unquoted_variable(query: &str) -> bool {
    let mut quote = None;
    let mut chars = query.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            // A comment, to the end of its line.
            (None, '#') => drop(chars.find(|(_, c)| *c == '\n')),
            (None, '"' | '\'' | '`') => quote = Some(c),
            (Some('"' | '\''), '\\') => drop(chars.next()),
            (Some(open), c) if open == c => quote = None,
            (None | Some('`'), '$') => {
                let own = ["${REBOOTLOCK_", "${RC_"];
                if own.into_iter().any(|own| query[at..].starts_with(own)) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}
