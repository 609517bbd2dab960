//! `type = "prometheus"`: open if no alert fires that concerns us, or if a query finds nothing.
//!
//! What Prometheus does not answer whole and in good order was not answered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use hyper::Uri;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rebootlock::config::gate::{AlertFilter, LabelValue, NamePattern, PrometheusGate, Question};
use rebootlock::http;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer::{clean, listed};
use super::{Variables, Verdict, access};

/// Thousands of alerts fit, in bytes.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// Every answer of its API.
#[derive(Deserialize)]
struct Envelope<T> {
    status: String,
    data: Option<T>,
    error: Option<String>,
    warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Alerts {
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    labels: BTreeMap<String, String>,
    state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    result_type: String,
    result: Value,
}

pub(super) async fn ask(gate: &PrometheusGate, variables: &Variables) -> Verdict {
    let verdict = match &gate.question {
        Question::Alerts(filter) => {
            let alerts: Result<Alerts, _> = question(gate, "alerts").await;
            alerts.and_then(|alerts| judge_alerts(&alerts.alerts, filter, variables))
        }
        Question::Query(query) => {
            let quoted = |name| escape_in_string(&value(variables, name));
            let query = query.expand(quoted);
            let query = utf8_percent_encode(&query, NON_ALPHANUMERIC);
            let found = question(gate, &format!("query?query={query}")).await;
            found.and_then(|found| judge_found(&found))
        }
    };
    verdict.unwrap_or_else(Verdict::unknown)
}

async fn question<T: DeserializeOwned>(gate: &PrometheusGate, what: &str) -> Result<T, String> {
    let access = access(gate.ca_file.as_ref(), gate.bearer_token_file.as_ref());
    let mut parts = gate.url.clone().into_parts();
    let path = format!("{}/api/v1/{what}", gate.url.path().trim_end_matches('/'));
    let path = path.try_into().map_err(|error| format!("cannot ask for {what}: {error}"))?;
    parts.path_and_query = Some(path);
    let url = Uri::from_parts(parts).map_err(|error| error.to_string())?;
    let reply =
        http::get(&url, &access, Some(MAX_BODY)).await.map_err(|error| error.to_string())?;
    let status = reply.status().as_u16();
    let envelope: Result<Envelope<T>, _> = serde_json::from_slice(reply.body());
    let envelope = match envelope {
        Ok(envelope) => envelope,
        Err(_) if status != 200 => return Err(format!("answers {status}")),
        Err(error) => return Err(format!("the answer is not Prometheus's: {error}")),
    };
    if status != 200 || envelope.status != "success" {
        let error = envelope.error.unwrap_or_default();
        return Err(format!("answers {status}: {error}"));
    }
    // Of several stores behind one address, one was not there.
    if let Some(warning) = envelope.warnings.unwrap_or_default().first() {
        return Err(format!("the answer is incomplete: {warning}"));
    }
    envelope.data.ok_or_else(|| "the answer has no data".to_owned())
}

fn judge_alerts(
    alerts: &[Alert],
    filter: &AlertFilter,
    variables: &Variables,
) -> Result<Verdict, String> {
    let labels = filter.labels.iter().map(|(name, wanted)| match wanted {
        LabelValue::Is(text) => Ok((name, Wanted::Is(text.expand(|name| value(variables, name))))),
        LabelValue::Matches(text) => {
            let pattern = text.expand(|name| NamePattern::escape(&value(variables, name)));
            Ok((name, Wanted::Matches(NamePattern::new(&pattern)?)))
        }
    });
    let labels = labels.collect::<Result<Vec<_>, String>>()?;
    let label = |alert: &Alert, name: &str| alert.labels.get(name).cloned().unwrap_or_default();
    let mut names = BTreeSet::new();
    for alert in alerts {
        let name = label(alert, "alertname");
        // A state that is not known to us is no reason to go.
        let active = match alert.state.as_str() {
            "inactive" => false,
            "pending" => filter.pending,
            _ => true,
        };
        let concerns = active
            && !filter.ignore.as_ref().is_some_and(|ignore| ignore.matches(&name))
            && filter.only.as_ref().is_none_or(|only| only.matches(&name))
            && labels.iter().all(|(key, wanted)| wanted.is(&label(alert, key)));
        if concerns {
            let pending = if alert.state == "pending" { " (pending)" } else { "" };
            names.insert(format!("{}{pending}", clean(&name, 60)));
        }
    }
    let names: Vec<_> = names.into_iter().collect();
    Ok(match names.len() {
        0 => Verdict::Open,
        1 => Verdict::closed(format!("alert {}", names[0])),
        _ => Verdict::closed(format!("alerts {}", listed(&names, ", "))),
    })
}

enum Wanted {
    Is(String),
    Matches(NamePattern),
}

impl Wanted {
    fn is(&self, value: &str) -> bool {
        match self {
            Self::Is(wanted) => wanted == value,
            Self::Matches(pattern) => pattern.matches(value),
        }
    }
}

/// Anything a query finds closes, as it would fire in an alerting rule; a plain number closes unless
/// it is zero.
fn judge_found(found: &Found) -> Result<Verdict, String> {
    let number = |sample: &Value| sample.get(1).and_then(Value::as_str).map(str::to_owned);
    match (found.result_type.as_str(), &found.result) {
        ("vector", Value::Array(results)) => Ok(match results.first() {
            None => Verdict::Open,
            Some(first) => {
                let labels = first.get("metric").map(Value::to_string).unwrap_or_default();
                let value = first.get("value").and_then(number).unwrap_or_default();
                let first = format!("{} = {value}", clean(&labels, 150));
                match results.len() - 1 {
                    0 => Verdict::closed(format!("the query finds {first}")),
                    more => Verdict::closed(format!("the query finds {first} and {more} more")),
                }
            }
        }),
        ("scalar", sample) => {
            let text = number(sample).ok_or("the query gives a number that is none")?;
            match text.parse::<f64>() {
                Ok(0.0) => Ok(Verdict::Open),
                Ok(_) => Ok(Verdict::closed(format!("the query gives {text}"))),
                Err(_) => Err(format!("the query gives a number that is none: {text}")),
            }
        }
        (other, _) => Err(format!(
            "the query gives a {}; it must give an instant vector or a scalar",
            clean(other, 20)
        )),
    }
}

fn value(variables: &Variables, name: &str) -> String {
    variables.iter().find(|(known, _)| *known == name).map(|(_, v)| v.clone()).unwrap_or_default()
}

/// For use between the quotes of a PromQL string, double or single: the configuration allows no
/// variable elsewhere.
fn escape_in_string(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            // A single quote may be escaped only between its like; a code may be anywhere.
            c if c.is_ascii_control() || c == '\'' => {
                // A string takes everything.
                let _ = write!(escaped, "\\x{:02x}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rebootlock::config::variables::Template;
    use serde_json::json;

    use super::*;

    fn alert(name: &str, state: &str, labels: &[(&str, &str)]) -> Alert {
        let mut labels: BTreeMap<_, _> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        labels.insert("alertname".to_owned(), name.to_owned());
        Alert { labels, state: state.to_owned() }
    }

    fn filter() -> AlertFilter {
        AlertFilter { pending: false, ignore: None, only: None, labels: BTreeMap::new() }
    }

    fn why(alerts: &[Alert], filter: &AlertFilter) -> Option<String> {
        let variables = [("REBOOTLOCK_HOSTNAME", "web.1".to_owned())];
        judge_alerts(alerts, filter, &variables).unwrap().why().map(str::to_owned)
    }

    #[test]
    fn alerts_that_fire_close_and_are_named() {
        let alerts = [
            alert("Disk", "firing", &[]),
            alert("Disk", "firing", &[("device", "b")]),
            alert("Old", "inactive", &[]),
            alert("Soon", "pending", &[]),
            alert("Odd", "what is this", &[]),
        ];
        assert_eq!(why(&[], &filter()), None);
        assert_eq!(why(&alerts, &filter()).as_deref(), Some("alerts Disk, Odd"));
        let pending = AlertFilter { pending: true, ..filter() };
        assert_eq!(why(&alerts, &pending).as_deref(), Some("alerts Disk, Odd, Soon (pending)"));
        let many: Vec<_> = (0..9).map(|n| alert(&format!("A{n}"), "firing", &[])).collect();
        assert_eq!(why(&many, &filter()).as_deref(), Some("alerts A0, A1, A2, A3, A4 and 4 more"));
    }

    #[test]
    fn only_alerts_that_concern_us_count() {
        let pattern = |text| Some(NamePattern::new(text).unwrap());
        let own = [alert("RebootRequired", "firing", &[])];
        assert_eq!(why(&own, &AlertFilter { ignore: pattern("RebootRequired"), ..filter() }), None);
        assert!(why(&own, &AlertFilter { ignore: pattern("Reboot"), ..filter() }).is_some());
        assert_eq!(why(&own, &AlertFilter { only: pattern("Node.*"), ..filter() }), None);

        let template = |text| Template::parse(text).unwrap();
        let host = AlertFilter {
            labels: BTreeMap::from([
                ("severity".to_owned(), LabelValue::Is(template("critical"))),
                (
                    "instance".to_owned(),
                    LabelValue::Matches(template("${REBOOTLOCK_HOSTNAME}(:[0-9]+)?")),
                ),
            ]),
            ..filter()
        };
        let on =
            |instance| [alert("A", "firing", &[("severity", "critical"), ("instance", instance)])];
        assert_eq!(why(&on("web.1:9100"), &host).as_deref(), Some("alert A"));
        assert_eq!(why(&on("webx1:9100"), &host), None);
        assert_eq!(why(&on("web.10:9100"), &host), None);
        assert_eq!(why(&[alert("A", "firing", &[("instance", "web.1")])], &host), None);
    }

    #[test]
    fn what_a_query_finds_closes() {
        let judge =
            |kind: &str, result| judge_found(&Found { result_type: kind.to_owned(), result });
        assert_eq!(judge("vector", json!([])), Ok(Verdict::Open));
        let one = json!([{"metric": {"a": "b"}, "value": [1.5, "0"]}]);
        let said = judge("vector", one).unwrap();
        assert_eq!(said, Verdict::closed("the query finds {\"a\":\"b\"} = 0"));
        assert_eq!(judge("scalar", json!([1, "0"])), Ok(Verdict::Open));
        assert_eq!(judge("scalar", json!([1, "2"])), Ok(Verdict::closed("the query gives 2")));
        assert_eq!(judge("scalar", json!([1, "NaN"])), Ok(Verdict::closed("the query gives NaN")));
        for (kind, result) in [
            ("scalar", json!([1])),
            ("scalar", json!([1, "x"])),
            ("matrix", json!([])),
            ("string", json!([1, "x"])),
            ("vector", json!({})),
        ] {
            assert!(judge(kind, result).is_err(), "{kind}");
        }
    }

    #[test]
    fn a_value_cannot_leave_its_string() {
        assert_eq!(escape_in_string("a\"} or vector(1) #\\"), "a\\\"} or vector(1) #\\\\");
        assert_eq!(escape_in_string("it's\n`é`"), "it\\x27s\\x0a`é`");
    }
}
