//! What a client sends: an operation, and what is known of its machine.
//!
//! As lenient as the clients' own library: names of members in any case, `null` for what is not there,
//! members that are not known, and whatever comes after the first value are all let through. A value
//! of another type is not.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::template;

/// An operation, and the machine it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) machine: Machine,
    /// Nothing at all is asked by leaving it out.
    pub(super) operation: Operation,
}

/// What is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Operation {
    /// May it be disrupted?
    #[default]
    Check,
    /// It wants to be.
    Request,
    /// It does not any more.
    Cancel,
}

/// What a client knows of its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) hostname: String,
    pub(super) required_image: String,
    pub(super) tags: BTreeMap<String, String>,
    /// The rest is for templates alone.
    texts: BTreeMap<&'static str, String>,
    lists: BTreeMap<&'static str, Vec<String>>,
    disable_updates: bool,
    aws: Option<Aws>,
}

/// What a machine in Amazon's cloud knows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Aws {
    texts: BTreeMap<&'static str, String>,
    tags: BTreeMap<String, String>,
}

const TEXTS: [&str; 6] = [
    "DataSourceIdentifier",
    "DataSourceType",
    "IpAddress",
    "Location",
    "PlannedImage",
    "OwnerGroup",
];
const LISTS: [&str; 2] = ["OwnerGroups", "OwnerUsers"];
const AWS_TEXTS: [&str; 4] = ["AccountId", "AccountName", "InstanceId", "Region"];

/// Reads a body.
///
/// # Errors
/// What is wrong with it, in the words of the original where it has any that stay.
pub(super) fn parse(body: &[u8]) -> Result<Body, String> {
    // Bytes that are no text become a sign for that, as elsewhere.
    let text = String::from_utf8_lossy(body);
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let value = match values.next() {
        None => return Err("EOF".to_owned()),
        Some(Err(error)) if error.is_eof() => return Err("unexpected EOF".to_owned()),
        Some(Err(error)) => return Err(format!("the body is not JSON: {error}")),
        Some(Ok(value)) => value,
    };
    let mut body = Body::default();
    for (name, value) in object("the body", value)? {
        if name.eq_ignore_ascii_case("MDB") {
            body.machine.add(object("MDB", value)?)?;
        } else if name.eq_ignore_ascii_case("Request") && !value.is_null() {
            body.operation = match text_of("Request", value)?.as_str() {
                "check" => Operation::Check,
                "request" => Operation::Request,
                "cancel" => Operation::Cancel,
                other => return Err(format!("unknown DisruptionRequest: {other}")),
            };
        }
    }
    Ok(body)
}

impl Machine {
    fn add(&mut self, members: Map<String, Value>) -> Result<(), String> {
        for (name, value) in members {
            let is = |known: &&str| name.eq_ignore_ascii_case(known);
            if value.is_null() {
                continue;
            }
            if is(&"Hostname") {
                self.hostname = text_of("Hostname", value)?;
            } else if is(&"RequiredImage") {
                self.required_image = text_of("RequiredImage", value)?;
            } else if is(&"Tags") {
                self.tags.extend(texts_of("Tags", value)?);
            } else if is(&"DisableUpdates") {
                self.disable_updates =
                    value.as_bool().ok_or_else(|| wrong("DisableUpdates", "bool"))?;
            } else if is(&"AwsMetadata") {
                self.aws.get_or_insert_default().add(object("AwsMetadata", value)?)?;
            } else if let Some(known) = TEXTS.into_iter().find(is) {
                self.texts.insert(known, text_of(known, value)?);
            } else if let Some(known) = LISTS.into_iter().find(is) {
                let Value::Array(list) = value else { return Err(wrong(known, "list")) };
                let texts = list.into_iter().map(|value| text_of(known, value));
                self.lists.insert(known, texts.collect::<Result<_, _>>()?);
            }
        }
        Ok(())
    }

    /// What its templates are filled with: every member, under its own name.
    pub(super) fn data(&self) -> template::Value {
        use template::Value::{Bool, List, Nil, Record, Text};
        let text = |text: &String| Text(text.clone());
        let mut fields = vec![
            ("Hostname", text(&self.hostname)),
            ("RequiredImage", text(&self.required_image)),
            ("DisableUpdates", Bool(self.disable_updates)),
            ("Tags", map(&self.tags)),
        ];
        fields.extend(TEXTS.map(|name| (name, self.texts.get(name).map_or_else(empty, text))));
        fields.extend(LISTS.map(|name| {
            let texts = self.lists.get(name).into_iter().flatten();
            (name, List(texts.map(text).collect()))
        }));
        let aws = self.aws.as_ref().map(|aws| {
            let mut fields: Vec<_> =
                AWS_TEXTS.map(|name| (name, aws.texts.get(name).map_or_else(empty, text))).into();
            fields.push(("Tags", map(&aws.tags)));
            Record(fields)
        });
        fields.push(("AwsMetadata", aws.unwrap_or(Nil)));
        Record(fields)
    }
}

impl Aws {
    fn add(&mut self, members: Map<String, Value>) -> Result<(), String> {
        for (name, value) in members {
            let is = |known: &&str| name.eq_ignore_ascii_case(known);
            if value.is_null() {
                continue;
            }
            if is(&"Tags") {
                self.tags.extend(texts_of("AwsMetadata.Tags", value)?);
            } else if let Some(known) = AWS_TEXTS.into_iter().find(is) {
                self.texts.insert(known, text_of(known, value)?);
            }
        }
        Ok(())
    }
}

fn empty() -> template::Value {
    template::Value::Text(String::new())
}

fn map(texts: &BTreeMap<String, String>) -> template::Value {
    let text =
        |(key, value): (&String, &String)| (key.clone(), template::Value::Text(value.clone()));
    template::Value::Map(texts.iter().map(text).collect())
}

fn object(name: &str, value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(members) => Ok(members),
        Value::Null => Ok(Map::new()),
        _ => Err(wrong(name, "object")),
    }
}

/// Nothing is an empty text.
fn text_of(name: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(String::new()),
        _ => Err(wrong(name, "string")),
    }
}

fn texts_of(name: &str, value: Value) -> Result<BTreeMap<String, String>, String> {
    let pair = |(key, value): (String, Value)| Ok((key, text_of(name, value)?));
    object(name, value)?.into_iter().map(pair).collect()
}

fn wrong(name: &str, expected: &str) -> String {
    format!("{name} is of another type than {expected}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_clients_send_is_understood() {
        for body in [
            r#"{"MDB":{"Hostname":"h","Tags":{"A":"b"},"RequiredImage":"i/1"},"Request":"request"}"#,
            r#"{"mdb":{"hostname":"h","TAGS":{"A":"b"},"requiredimage":"i/1"},"REQUEST":"request"}"#,
            "\n {\"x\":[{}],\"Request\":\"request\",\"MDB\":{\"y\":1,\"Tags\":{\"A\":\"b\"},\
             \"OwnerUsers\":null,\"AwsMetadata\":{\"Tags\":null},\"RequiredImage\":\"i/1\",\
             \"Hostname\":\"x\",\"Hostname\":\"h\"}} trailing {",
        ] {
            let Body { machine, operation } = parse(body.as_bytes()).unwrap();
            assert_eq!(operation, Operation::Request, "{body}");
            assert_eq!((machine.hostname.as_str(), machine.required_image.as_str()), ("h", "i/1"));
            assert_eq!(machine.tags, [("A".to_owned(), "b".to_owned())].into());
        }
    }

    #[test]
    fn nothing_said_is_a_check_of_nobody() {
        for body in ["null", "{}", r#"{"MDB":null,"Request":null}"#] {
            assert_eq!(parse(body.as_bytes()), Ok(Body::default()), "{body}");
        }
    }

    #[test]
    fn what_is_not_one_is_refused_in_the_words_that_clients_know() {
        for (body, said) in [
            ("", "EOF"),
            (" \n", "EOF"),
            ("{\"MDB\":", "unexpected EOF"),
            ("{\"MDB\":{\"Hostname\":\"a", "unexpected EOF"),
            ("{\"Request\":\"CHECK\"}", "unknown DisruptionRequest: CHECK"),
            ("{\"Request\":\"\"}", "unknown DisruptionRequest: "),
            ("x", "the body is not JSON: expected value at line 1 column 1"),
            ("[]", "the body is of another type than object"),
            ("\"x\"", "the body is of another type than object"),
            ("{\"Request\":1}", "Request is of another type than string"),
            ("{\"MDB\":[]}", "MDB is of another type than object"),
            ("{\"MDB\":{\"Hostname\":1}}", "Hostname is of another type than string"),
            ("{\"MDB\":{\"Tags\":{\"a\":1}}}", "Tags is of another type than string"),
            ("{\"MDB\":{\"Tags\":[]}}", "Tags is of another type than object"),
            ("{\"MDB\":{\"OwnerUsers\":\"u\"}}", "OwnerUsers is of another type than list"),
            ("{\"MDB\":{\"DisableUpdates\":\"x\"}}", "DisableUpdates is of another type than bool"),
            (
                "{\"MDB\":{\"AwsMetadata\":{\"Region\":[]}}}",
                "Region is of another type than string",
            ),
        ] {
            assert_eq!(parse(body.as_bytes()), Err(said.to_owned()), "{body}");
        }
    }

    #[test]
    fn templates_see_every_member_by_its_own_name() {
        let body = br#"{"MDB":{"hostname":"h","IPADDRESS":"10.0.0.1","OwnerUsers":["u1",null],
            "disableupdates":true,"AwsMetadata":{"InstanceId":"i-1","Tags":{"a":"b"}}}}"#;
        let data = parse(body).unwrap().machine.data();
        let template = "{{.Hostname}} {{.IpAddress}} {{.OwnerUsers}} {{.OwnerGroups}} {{.DisableUpdates}} \
                        {{.AwsMetadata.InstanceId}} {{.AwsMetadata.Region}}{{.AwsMetadata.Tags.a}}";
        let expanded = template::expand(template, &data);
        assert_eq!(expanded.as_deref(), Ok("h 10.0.0.1 [u1 ] [] true i-1 b"));
        let none = Machine::default().data();
        assert_eq!(template::expand("{{with .AwsMetadata}}x{{end}}", &none).as_deref(), Ok(""));
        assert!(template::expand("{{.AwsMetadata.InstanceId}}", &none).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
