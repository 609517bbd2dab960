//! `type = "http"`

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use hyper::Uri;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use toml::Spanned;

use super::super::table::Fault;
use super::{GateTable, absolute};
use crate::http;

/// Open if a web server answers as expected.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpGate {
    /// What is asked for.
    pub url: Uri,
    /// The answers that are good, at least one.
    pub status: Vec<StatusRange>,
    /// What must stand in the answer.
    pub expected: Option<Expected>,
    /// PEM file with the authorities to trust instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// File whose first line is sent as a bearer token.
    pub bearer_token_file: Option<PathBuf>,
}

/// What must stand in a JSON document.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Where, by RFC 6901.
    pub pointer: String,
    /// Text, number, or true or false.
    pub value: Value,
}

/// Status codes from the first to the last, both among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl StatusRange {
    /// Whether `status` is one of them.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = StatusRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status from 100 to 599, or a range as \"200-299\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<StatusRange, E> {
                let known = u16::try_from(number).ok().filter(|code| (100..600).contains(code));
                let code = known.ok_or_else(|| {
                    E::custom(format!("{number} is not a status from 100 to 599"))
                })?;
                Ok(StatusRange { first: code, last: code })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<StatusRange, E> {
                let code = |text: &str| {
                    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
                    let code = text.parse().ok().filter(|_| digits);
                    code.filter(|code| (100..600).contains(code))
                };
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                match (code(first), code(last)) {
                    (Some(first), Some(last)) if first <= last => Ok(StatusRange { first, last }),
                    _ => Err(E::custom(format!(
                        "{text:?} is not a range of statuses from 100 to 599, as \"200-299\""
                    ))),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

pub(super) fn check(mut table: GateTable, whole: Range<usize>) -> Result<HttpGate, Fault> {
    let url = url(&mut table, whole)?;
    let (ca_file, bearer_token_file) = credentials(&mut table, &url)?;
    let status = match table.status {
        None => vec![StatusRange { first: 200, last: 200 }],
        Some(list) if list.get_ref().is_empty() => {
            return Err(Fault::at(&list, "`status` needs at least one status that is good"));
        }
        Some(list) => list.into_inner(),
    };
    let expected = match (table.json_pointer, table.equals) {
        (None, None) => None,
        (Some(pointer), None) => {
            return Err(Fault::at(&pointer, "`json_pointer` needs `equals`: what stands there"));
        }
        (None, Some(value)) => {
            let problem = "`equals` needs `json_pointer`: where it stands, as \"/cluster/state\"";
            return Err(Fault::at(&value, problem));
        }
        (Some(pointer), Some(value)) => {
            if !pointer.get_ref().is_empty() && !pointer.get_ref().starts_with('/') {
                let problem = "`json_pointer` must be empty or begin with `/`, as \"/checks/0\"";
                return Err(Fault::at(&pointer, problem));
            }
            Some(Expected { pointer: pointer.into_inner(), value: scalar(value)? })
        }
    };
    Ok(HttpGate { url: url.into_inner(), status, expected, ca_file, bearer_token_file })
}

fn scalar(value: Spanned<toml::Value>) -> Result<Value, Fault> {
    let json = match value.get_ref() {
        toml::Value::String(text) => Some(Value::from(text.as_str())),
        toml::Value::Integer(number) => Some(Value::from(*number)),
        toml::Value::Float(number) if number.is_finite() => Some(Value::from(*number)),
        toml::Value::Boolean(yes) => Some(Value::from(*yes)),
        _ => None,
    };
    json.ok_or_else(|| Fault::at(&value, "`equals` must be a text, a number, true or false"))
}

/// Takes `url`: `http` or `https`, a host, and no secrets that `ps` or a log would show.
pub(super) fn url(table: &mut GateTable, whole: Range<usize>) -> Result<Spanned<Uri>, Fault> {
    let url = table.url.take().ok_or_else(|| {
        Fault::new(whole, "`url` is missing: http://HOST[:PORT]/PATH or https://…")
    })?;
    let fault = |problem: &str| {
        Fault::at(&url, format!("{problem}; `url` must be http://HOST[:PORT]/PATH or https://…"))
    };
    let parsed: Uri = url.get_ref().parse().map_err(|error| fault(&format!("{error}")))?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return Err(fault("not a web address"));
    }
    let authority = parsed.authority().ok_or_else(|| fault("no host"))?;
    if authority.as_str().contains('@') {
        return Err(fault("a password does not belong here, see `bearer_token_file`"));
    }
    if authority.host().is_empty() {
        return Err(fault("no host"));
    }
    if http::port(&parsed).is_none() {
        return Err(fault("no valid port"));
    }
    Ok(Spanned::new(url.span(), parsed))
}

/// Takes `ca_file` and `bearer_token_file`.
pub(super) fn credentials(
    table: &mut GateTable,
    url: &Spanned<Uri>,
) -> Result<(Option<PathBuf>, Option<PathBuf>), Fault> {
    if let Some(ca_file) = &table.ca_file
        && url.get_ref().scheme_str() == Some("http")
    {
        return Err(Fault::at(ca_file, "`ca_file` is of no use without https in `url`"));
    }
    let take =
        |key, file: Option<Spanned<String>>| file.map(|file| absolute(key, file)).transpose();
    let ca_file = take("ca_file", table.ca_file.take())?;
    Ok((ca_file, take("bearer_token_file", table.bearer_token_file.take())?))
}
