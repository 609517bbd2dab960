//! `{"client_params": {"id": "…", "group": "…"}}`, and nothing that could be read in two ways.
//!
//! Keys that are not known are let through, at both levels. A key that comes twice is not, nor a list
//! where an object should be, nor anything after the end.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// What a client says of itself; whether it may is another matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Params {
    /// Who it is.
    pub(super) id: Option<String>,
    /// In which group.
    pub(super) group: Option<String>,
}

/// Reads a body.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse(body: &[u8]) -> Result<Params, String> {
    if body.is_empty() {
        return Err(
            "the body is empty; expected {\"client_params\": {\"id\": …, \"group\": …}}".into()
        );
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = Outer.deserialize(&mut json).and_then(|params| json.end().map(|()| params));
    let params = read.map_err(|error| format!("the body cannot be understood: {error}"))?;
    params.ok_or_else(|| "`client_params` is missing".to_owned())
}

struct Outer;
struct Inner;
/// The value of this key.
struct Text(&'static str);

/// Refuses what comes twice.
#[derive(Default)]
struct Keys(BTreeSet<String>);

impl Keys {
    fn next<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<Option<String>, A::Error> {
        let Some(key) = map.next_key::<String>()? else { return Ok(None) };
        if !self.0.insert(key.clone()) {
            return Err(A::Error::custom(format_args!("key {key:?} comes twice")));
        }
        Ok(Some(key))
    }
}

impl<'de> DeserializeSeed<'de> for Outer {
    type Value = Option<Params>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Outer {
    type Value = Option<Params>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `client_params` in it")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut keys, mut params) = (Keys::default(), None);
        while let Some(key) = keys.next(&mut map)? {
            if key == "client_params" {
                params = Some(map.next_value_seed(Inner)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(params)
    }
}

impl<'de> DeserializeSeed<'de> for Inner {
    type Value = Params;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Params, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Inner {
    type Value = Params;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `id` and `group` in it as `client_params`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Params, A::Error> {
        let (mut keys, mut params) = (Keys::default(), Params::default());
        while let Some(key) = keys.next(&mut map)? {
            match key.as_str() {
                "id" => params.id = Some(map.next_value_seed(Text("id"))?),
                "group" => params.group = Some(map.next_value_seed(Text("group"))?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(params)
    }
}

impl<'de> DeserializeSeed<'de> for Text {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string as `{}`", self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_clients_send_is_understood() {
        let params = Params { id: Some("a".into()), group: Some("default".into()) };
        for body in [
            r#"{"client_params":{"id":"a","group":"default"}}"#,
            "{\n  \"x\": [1, {}],\n  \"client_params\": {\n \"group\": \"default\", \"y\": null, \"id\": \"a\"\n }\n}\n",
            r#"{"client_params":{"id":"\u0061","group":"default"}}"#,
        ] {
            assert_eq!(parse(body.as_bytes()), Ok(params.clone()), "{body}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_read() {
        for (body, said) in [
            ("", "the body is empty"),
            ("{not json", "key must be a string"),
            ("[]", "invalid type: sequence, expected an object"),
            ("null", "invalid type: null"),
            ("\"x\"", "invalid type: string"),
            (r#"{"client_params":["a","default"]}"#, "invalid type: sequence, expected an object"),
            (r#"[{"client_params":{"id":"a","group":"b"}}]"#, "invalid type: sequence"),
            (r#"{"client_params":{"id":1,"group":"b"}}"#, "expected a string as `id`"),
            (r#"{"client_params":{"id":"a","group":null}}"#, "expected a string as `group`"),
            (r#"{"client_params":{"id":"a","id":"a","group":"b"}}"#, "key \"id\" comes twice"),
            (r#"{"client_params":{},"client_params":{}}"#, "key \"client_params\" comes twice"),
            (r#"{"x":1,"x":1,"client_params":{}}"#, "key \"x\" comes twice"),
            ("{}", "`client_params` is missing"),
            (r#"{"Client_Params":{"id":"a","group":"b"}}"#, "`client_params` is missing"),
            ("\u{feff}{\"client_params\":{\"id\":\"a\",\"group\":\"b\"}}", "expected value"),
            (r#"{"client_params":{"id":"a","group":"b"}} x"#, "trailing characters"),
            (r#"{"client_params":{"id":"a","group":"b"}}{}"#, "trailing characters"),
            (r#"{"client_params":{"id":"\ud800","group":"b"}}"#, "hex escape"),
        ] {
            let problem = parse(body.as_bytes()).unwrap_err();
            assert!(problem.contains(said), "{body}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn deep_nesting_is_no_harm(depth in 0..5000_usize) {
            let _ = parse(format!("{{\"x\":{}", "[".repeat(depth)).as_bytes());
        }
    }
}
