//! `disruption`: the program that the agent of a Dominator runs to ask for permission.
//!
//! Its exit code is the answer, and only an answer may be one of 0, 1 and 2: whatever goes wrong here has
//! another.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Uri};
use rebootlock::cli::CommonArgs;
use rebootlock::host;
use rebootlock::http::{self, Access, Credentials, SecretFile};
use serde_json::{Map, Value, json};

use crate::cli::lasting;
use crate::failure::chain;
use crate::output::{clean, print, say};

/// Nobody knows what the answer is.
pub(crate) const NOT_ASKED: u8 = 3;

/// Where a disruption-manager is asked.
const PATH: &str = "/api/v1/request";

/// Longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

const GROUP: &str = "DisruptionManagerGroupIdentifier";

/// Flags of `disruption`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to ask
    #[arg(value_name = "OPERATION")]
    operation: Operation,
    /// Whom; without a path, at /api/v1/request
    #[arg(long, value_name = "URL", env = "REBOOTLOCK_DISRUPTION_URL", value_parser = url)]
    url: Uri,
    /// File with what is known of the machine, as JSON: Hostname, Tags, RequiredImage and so on
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_DISRUPTION_MACHINE_FILE")]
    machine_file: Option<PathBuf>,
    /// What the machine is called [default: as in the file, or as it calls itself]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// A tag of the machine, also instead of one in the file; repeat it for several
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// Certificate authorities to trust instead of this machine's, PEM
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_DISRUPTION_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// File whose first line is sent as a bearer token
    #[arg(long, value_name = "FILE", env = "REBOOTLOCK_DISRUPTION_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Give up after so long, as 30s or 1m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = lasting)]
    within: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Operation {
    /// May it be disrupted?
    Check,
    /// It wants to be
    Request,
    /// It does not any more
    Cancel,
}

/// Asks, prints the answer, and exits with it.
pub(crate) async fn run(common: &CommonArgs, args: Args) -> ExitCode {
    let within = args.within;
    let asked = tokio::time::timeout(within, ask(common, args)).await;
    match asked.unwrap_or_else(|_| too_late(within)) {
        Ok(word) => {
            // Who does not read the word has the code.
            let _ = print(&format!("{}\n", word.text()));
            word.code().into()
        }
        Err(error) => {
            say(format_args!("error: {}", clean(&chain(&error))));
            NOT_ASKED.into()
        }
    }
}

fn too_late(within: Duration) -> anyhow::Result<Word> {
    bail!("no answer within {} s", within.as_secs())
}

/// What a manager answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Permitted,
    Requested,
    Denied,
}

impl Word {
    fn text(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Requested => "requested",
            Self::Denied => "denied",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Permitted => 0,
            Self::Requested => 1,
            Self::Denied => 2,
        }
    }

    /// The answer in a body.
    fn read(body: &[u8]) -> anyhow::Result<Self> {
        let answer: Value = serde_json::from_slice(body).context("the answer is not JSON")?;
        match answer.get("Response").and_then(Value::as_str) {
            Some("permitted") => Ok(Self::Permitted),
            Some("requested") => Ok(Self::Requested),
            Some("denied") => Ok(Self::Denied),
            Some(other) => bail!("the answer is {other:?}, which nobody knows"),
            None => bail!("there is no Response in the answer"),
        }
    }
}

async fn ask(common: &CommonArgs, args: Args) -> anyhow::Result<Word> {
    let operation = match args.operation {
        Operation::Check => "check",
        Operation::Request => "request",
        Operation::Cancel => "cancel",
    };
    let machine = machine(common, &args)?;
    let body = json!({"MDB": machine, "Request": operation}).to_string();
    let credentials = args.token_file.map_or(Credentials::None, |path| {
        Credentials::Bearer(SecretFile { setting: "--token-file", path })
    });
    let access = Access { ca_file: args.ca_file, credentials, ..Access::default() };
    let request = Request::post(args.url.clone())
        .header(CONTENT_TYPE, "application/json")
        .body(Bytes::from(body))?;
    let answer = http::send(request, &access, Some(MAX_ANSWER)).await;
    let answer = answer.with_context(|| format!("cannot ask {}", args.url))?;
    if answer.status() != 200 {
        let text = String::from_utf8_lossy(answer.body());
        bail!("{} answers {}: {}", args.url, answer.status().as_u16(), text.trim());
    }
    Word::read(answer.body()).with_context(|| args.url.to_string())
}

/// What the manager is told of the machine.
fn machine(common: &CommonArgs, args: &Args) -> anyhow::Result<Map<String, Value>> {
    let mut machine = match &args.machine_file {
        Some(path) => from_file(path)?,
        None => Map::new(),
    };
    if let Some(hostname) = &args.hostname {
        machine.insert("Hostname".to_owned(), json!(hostname));
    }
    if machine.get("Hostname").is_none_or(|name| name.as_str().is_none_or(str::is_empty)) {
        machine.insert("Hostname".to_owned(), json!(host::hostname()));
    }
    let mut tags = match machine.get_mut("Tags").map(Value::take) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(tags)) => tags,
        Some(_) => bail!("Tags is not an object"),
    };
    if let [group, more @ ..] = &common.group[..] {
        ensure!(more.is_empty(), "a machine is in one group here; --group names several");
        tags.insert(GROUP.to_owned(), json!(group.as_str()));
    }
    tags.extend(args.tags.iter().map(|(key, value)| (key.clone(), json!(value))));
    if !tags.is_empty() {
        machine.insert("Tags".to_owned(), Value::Object(tags));
    }
    Ok(machine)
}

fn from_file(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match serde_json::from_slice(&text).with_context(|| path.display().to_string())? {
        Value::Object(machine) => Ok(machine),
        _ => bail!("{}: expected an object, such as {{\"Hostname\": …}}", path.display()),
    }
}

/// `http://…` or `https://…`; the usual path if there is none.
pub(crate) fn url(text: &str) -> Result<Uri, String> {
    let wrong = || format!("{text:?} is not a URL; expected one such as https://gateway.example");
    let url: Uri = text.parse().map_err(|_| wrong())?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    if http::port(&url).is_none() {
        return Err(format!("{text:?} has no valid port"));
    }
    if url.path() != "/" || url.query().is_some() {
        return Ok(url);
    }
    let mut parts = url.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(PATH));
    Uri::from_parts(parts).map_err(|_| wrong())
}

/// `KEY=VALUE`
pub(crate) fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_three_words_are_answers() {
        for (body, word) in [
            ("{\n    \"Response\": \"permitted\"\n}\n", Word::Permitted),
            ("{\"x\":1,\"Response\":\"requested\"}", Word::Requested),
            ("{\"Response\":\"denied\"}", Word::Denied),
        ] {
            assert_eq!(Word::read(body.as_bytes()).unwrap(), word, "{body}");
        }
        for body in ["", "permitted", "{}", "{\"Response\":\"anytime\"}", "{\"Response\":0}", "[]"]
        {
            assert!(Word::read(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_url_without_a_path_gets_the_usual_one() {
        for (text, whole) in [
            ("http://h:6979", "http://h:6979/api/v1/request"),
            ("https://h/", "https://h/api/v1/request"),
            ("https://h/lock/api/v1/request", "https://h/lock/api/v1/request"),
            ("http://[::1]:1/?a=b", "http://[::1]:1/?a=b"),
        ] {
            assert_eq!(url(text).unwrap().to_string(), whole);
        }
        for text in ["", "h:6979", "ftp://h/", "srpc://h:6979", "/api", "http://", "http://h:65536"]
        {
            assert!(url(text).is_err(), "{text}");
        }
    }
}
