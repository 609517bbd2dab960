//! `{"fqdn":"…","uptime":"…","request_id":"…","restart_reason":"…"}`, read as leniently as clients are
//! used to, and then held to what a machine may be called.
//!
//! Keys match whatever their case, unknown ones are passed over, of two the last counts, `null` says
//! nothing, and what comes after the object is not looked at. A known key of another type is an error.

use std::fmt;

use rebootlock::id::MachineId;
use serde::de::{DeserializeSeed as _, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::duration::GoDuration;

/// A longer uptime is none that a machine would write.
const MAX_UPTIME_BYTES: usize = 64;
/// So much of a reason is kept.
const MAX_REASON_CHARS: usize = 200;

/// What a client says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Params {
    /// Who it is: letters, digits, dots, hyphens and underscores.
    pub(super) machine: MachineId,
    /// How long it has been up, as it wrote it.
    pub(super) uptime: String,
    /// The same as a length of time.
    pub(super) up: GoDuration,
    /// What it was told to ask again with.
    pub(super) request_id: Option<String>,
    /// Why it wants to restart.
    pub(super) reason: Option<String>,
}

/// Reads a body.
///
/// # Errors
/// What goahead says of it.
pub(super) fn parse(body: &[u8]) -> Result<Params, String> {
    let invalid = || "Invalid request payload".to_owned();
    let mut json = serde_json::Deserializer::from_slice(body);
    let said = Object.deserialize(&mut json).map_err(|_| invalid())?;
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let (Some(fqdn), Some(uptime)) = (given(said.fqdn), given(said.uptime)) else {
        return Err("Invalid request payload. Need at least fqdn and uptime fields!".to_owned());
    };
    let machine = machine(&fqdn).ok_or_else(invalid)?;
    let up = uptime.parse().ok().filter(|_| uptime.len() <= MAX_UPTIME_BYTES).ok_or_else(|| {
        let shown: String = uptime.chars().take(MAX_UPTIME_BYTES).collect();
        format!(
            "Can not convert value {shown} of your uptime to a golang Duration. Valid time units \
             are 300ms, 1.5h or 2h45m."
        )
    })?;
    // One character is as good as none.
    let request_id = said.request_id.filter(|id| id.len() > 1);
    Ok(Params { machine, uptime, up, request_id, reason: said.reason.and_then(reason) })
}

/// Names go into keys, command lines and answers: what no host can be called is no name.
pub(crate) fn machine(fqdn: &str) -> Option<MachineId> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let good = fqdn.chars().all(allowed) && !fqdn.starts_with(['.', '-']);
    MachineId::new(fqdn).ok().filter(|_| good)
}

fn reason(text: String) -> Option<String> {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text: String = text.trim().chars().take(MAX_REASON_CHARS).collect();
    (!text.is_empty()).then_some(text)
}

#[derive(Debug, Default)]
struct Said {
    fqdn: Option<String>,
    uptime: Option<String>,
    request_id: Option<String>,
    reason: Option<String>,
}

struct Object;

impl<'de> serde::de::DeserializeSeed<'de> for Object {
    type Value = Said;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Said, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object {
    type Value = Said;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Said, E> {
        Ok(Said::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Said, A::Error> {
        let mut said = Said::default();
        while let Some(key) = map.next_key::<String>()? {
            let known = match key.to_ascii_lowercase().as_str() {
                "fqdn" => &mut said.fqdn,
                "uptime" => &mut said.uptime,
                "request_id" => &mut said.request_id,
                "restart_reason" => &mut said.reason,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if let Some(value) = map.next_value::<Option<String>>()? {
                *known = Some(value);
            }
        }
        Ok(said)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_clients_send_is_understood() {
        let plain = parse(br#"{"fqdn":"a.b","uptime":"2h31m"}"#).unwrap();
        assert_eq!((plain.machine.as_str(), plain.uptime.as_str()), ("a.b", "2h31m"));
        assert_eq!((plain.request_id, plain.reason), (None, None));
        for body in [
            r#"{"FQDN":"a.b","Uptime":"1h","Request_ID":"xy"}"#,
            r#"{"fqdn":"a.b","uptime":"1h","request_id":"xy","other":[{}]}"#,
            r#"{"fqdn":"x","fqdn":"a.b","uptime":"1h","request_id":"xy"} and more"#,
            r#"{"fqdn":"a.b","fqdn":null,"uptime":"1h","request_id":"xy"}{"#,
        ] {
            let params = parse(body.as_bytes()).unwrap();
            assert_eq!(params.machine.as_str(), "a.b", "{body}");
            assert_eq!(params.request_id.as_deref(), Some("xy"), "{body}");
        }
        for id in ["null", "\"\"", "\"x\""] {
            let body = format!(r#"{{"fqdn":"a","uptime":"1h","request_id":{id}}}"#);
            assert_eq!(parse(body.as_bytes()).unwrap().request_id, None, "{id}");
        }
        let params = parse(b"{\"fqdn\":\"a\",\"uptime\":\"1h\",\"restart_reason\":\" x\\ny \"}");
        assert_eq!(params.unwrap().reason.as_deref(), Some("x y"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_in_goaheads_words() {
        const INVALID: &str = "Invalid request payload";
        const NEED: &str = "Invalid request payload. Need at least fqdn and uptime fields!";
        for (body, said) in [
            ("", INVALID),
            ("x", INVALID),
            ("[]", INVALID),
            ("\"x\"", INVALID),
            ("1", INVALID),
            ("\u{feff}{\"fqdn\":\"a\",\"uptime\":\"1h\"}", INVALID),
            (r#"{"fqdn":1,"uptime":"1h"}"#, INVALID),
            (r#"{"fqdn":"a","uptime":"1h","request_id":1}"#, INVALID),
            (r#"{"fqdn":"a","uptime":"1h","restart_reason":[]}"#, INVALID),
            (r#"{"fqdn":"a","uptime":"1h""#, INVALID),
            ("null", NEED),
            ("{}", NEED),
            (r#"{"fqdn":"","uptime":"1h"}"#, NEED),
            (r#"{"fqdn":"a","uptime":null}"#, NEED),
            (
                r#"{"fqdn":"a","uptime":"1d"}"#,
                "Can not convert value 1d of your uptime to a golang Duration. Valid time units are \
                 300ms, 1.5h or 2h45m.",
            ),
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap_err(), said, "{body}");
        }
    }

    #[test]
    fn no_name_can_escape() {
        let long = "a".repeat(254);
        for fqdn in [
            "../web",
            "..",
            ".a",
            "-a",
            "a/b",
            "a b",
            "a\\\"b",
            "a;b",
            "$(a)",
            "a'b",
            "a\\n",
            "ä",
            "{:%fqdn%:}",
            "a%2fb",
            "a*",
            &long,
        ] {
            let body = format!(r#"{{"fqdn":"{fqdn}","uptime":"1h"}}"#);
            assert_eq!(parse(body.as_bytes()).unwrap_err(), "Invalid request payload", "{fqdn}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
