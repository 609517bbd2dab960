//! The template of a readiness URL: the part of Go's `text/template` that addresses are made of.
//!
//! Fields (`.Hostname`, `.Tags.role`), `index`, `if`, `with`, `range`, `printf`, `urlquery`, `html`, `len`,
//! `eq`, `ne`, `and`, `or`, `not`, pipelines, parentheses, comments and trimming. Anything else is an
//! error, as it is in Go with a field that is not there, and an error is never an address.

mod parse;

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use self::parse::{Block, Node, Operand, Pipe, Start};

/// The longest result: no address is longer.
const MOST_BYTES: usize = 8 * 1024;

/// What Go's `url.QueryEscape` leaves alone; a blank becomes `+` afterwards.
const QUERY: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');

/// What a template is filled with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Nothing.
    Nil,
    /// A key that a map does not have.
    Missing,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Value>),
    /// Any key may be asked for.
    Map(BTreeMap<String, Value>),
    /// Only these fields may be asked for.
    Record(Vec<(&'static str, Value)>),
}

/// Fills `template` with `data`.
///
/// # Errors
/// What cannot be understood, or cannot be had.
pub(super) fn expand(template: &str, data: &Value) -> Result<String, String> {
    let nodes = parse::parse(template)?;
    let mut out = Output { root: data, text: String::new() };
    out.all(&nodes, data)?;
    Ok(out.text)
}

struct Output<'a> {
    root: &'a Value,
    text: String,
}

impl Output<'_> {
    fn all(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        for node in nodes {
            match node {
                Node::Text(text) => self.text.push_str(text),
                Node::Action(pipe) => {
                    let text = self.pipe(pipe, dot)?.printed()?;
                    self.text.push_str(&text);
                }
                Node::Block { block, pipe, then, otherwise } => {
                    let value = self.pipe(pipe, dot)?;
                    match block {
                        Block::If if value.is_true() => self.all(then, dot)?,
                        Block::With if value.is_true() => self.all(then, &value)?,
                        Block::Range if value.is_true() => {
                            for element in value.elements()? {
                                self.all(then, &element)?;
                            }
                        }
                        Block::If | Block::With | Block::Range => self.all(otherwise, dot)?,
                    }
                }
            }
            if self.text.len() > MOST_BYTES {
                return Err(format!("it becomes longer than {MOST_BYTES} bytes"));
            }
        }
        Ok(())
    }

    fn pipe(&self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for command in pipe {
            last = Some(match command.split_first() {
                Some((Operand::Function(name), rest)) => {
                    let mut arguments = Vec::new();
                    for operand in rest {
                        arguments.push(self.operand(operand, dot)?);
                    }
                    arguments.extend(last);
                    call(name, arguments)?
                }
                Some((operand, [])) if last.is_none() => self.operand(operand, dot)?,
                _ => return Err("only functions take arguments".to_owned()),
            });
        }
        last.ok_or_else(|| "an action is empty".to_owned())
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Chain(start, names) => {
                let start = match start {
                    Start::Dot => dot.clone(),
                    Start::Root => self.root.clone(),
                    Start::Parentheses(pipe) => self.pipe(pipe, dot)?,
                };
                names.iter().try_fold(start, |value, name| value.field(name))
            }
            Operand::Constant(value) => Ok(value.clone()),
            Operand::Function(name) => call(name, Vec::new()),
        }
    }
}

fn call(name: &str, arguments: Vec<Value>) -> Result<Value, String> {
    let wrong = || Err(format!("`{name}` has too few arguments, or too many"));
    match (name, arguments.as_slice()) {
        ("and" | "or", [first, rest @ ..]) => {
            let decided = |value: &Value| value.is_true() == (name == "or");
            let mut last = first;
            for value in rest {
                if decided(last) {
                    break;
                }
                last = value;
            }
            Ok(last.clone())
        }
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => {
            let mut equal = false;
            for value in rest {
                equal |= first.equals(value)?;
            }
            Ok(Value::Bool(equal))
        }
        ("ne", [first, second]) => Ok(Value::Bool(!first.equals(second)?)),
        ("len", [Value::Text(text)]) => Ok(Value::Int(count(text.len()))),
        ("len", [Value::List(list)]) => Ok(Value::Int(count(list.len()))),
        ("len", [Value::Map(map)]) => Ok(Value::Int(count(map.len()))),
        ("len", [_]) => Err("`len` is for texts, lists and maps".to_owned()),
        ("index", [value, keys @ ..]) => {
            keys.iter().try_fold(value.clone(), |value, key| value.index(key))
        }
        ("html", [value]) => Ok(Value::Text(html(&value.printed()?))),
        ("urlquery", [value]) => {
            let text = utf8_percent_encode(&value.printed()?, QUERY).to_string();
            Ok(Value::Text(text.replace(' ', "+")))
        }
        ("printf", [Value::Text(format), rest @ ..]) => printf(format, rest).map(Value::Text),
        ("and" | "or" | "not" | "eq" | "ne" | "len" | "index" | "html" | "urlquery", _) => wrong(),
        ("printf", _) => Err("`printf` begins with a text".to_owned()),
        _ => Err(format!("there is no function `{name}` here")),
    }
}

fn printf(format: &str, arguments: &[Value]) -> Result<String, String> {
    let (mut text, mut arguments) = (String::new(), arguments.iter());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let verb = chars.next();
        if verb == Some('%') {
            text.push('%');
            continue;
        }
        let value = arguments.next().ok_or("`printf` has too few arguments")?;
        match (verb, value) {
            (Some('v'), value) => text.push_str(&value.printed()?),
            (Some('s'), Value::Text(_) | Value::List(_) | Value::Map(_))
            | (Some('d'), Value::Int(_)) => {
                text.push_str(&value.printed()?);
            }
            _ => return Err("`printf` knows %s for texts, %d for numbers, and %v".to_owned()),
        }
    }
    match arguments.next() {
        Some(_) => Err("`printf` has too many arguments".to_owned()),
        None => Ok(text),
    }
}

fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => escaped.push('\u{fffd}'),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

impl Value {
    fn is_true(&self) -> bool {
        match self {
            Self::Nil | Self::Missing => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => !list.is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::Record(_) => true,
        }
    }

    fn field(&self, name: &str) -> Result<Self, String> {
        match self {
            Self::Record(fields) => {
                let field = fields.iter().find(|(known, _)| *known == name);
                field
                    .map(|(_, value)| value.clone())
                    .ok_or_else(|| format!("there is no field {name}"))
            }
            Self::Map(map) => Ok(map.get(name).cloned().unwrap_or(Self::Missing)),
            _ => Err(format!("{name} is asked of what has no fields")),
        }
    }

    fn index(&self, key: &Self) -> Result<Self, String> {
        match (self, key) {
            // Go's maps of texts have an empty text for every key.
            (Self::Map(map), Self::Text(key)) => {
                Ok(map.get(key).cloned().unwrap_or_else(|| Self::Text(String::new())))
            }
            (Self::List(list), Self::Int(at)) => usize::try_from(*at)
                .ok()
                .and_then(|at| list.get(at).cloned())
                .ok_or_else(|| format!("the list has no element {at}")),
            _ => Err("`index` is for maps by text and lists by number".to_owned()),
        }
    }

    fn elements(&self) -> Result<Vec<Self>, String> {
        match self {
            Self::List(list) => Ok(list.clone()),
            Self::Map(map) => Ok(map.values().cloned().collect()),
            _ => Err("`range` is for lists and maps".to_owned()),
        }
    }

    fn equals(&self, other: &Self) -> Result<bool, String> {
        match (self, other) {
            (Self::Text(_), Self::Text(_))
            | (Self::Int(_), Self::Int(_))
            | (Self::Bool(_), Self::Bool(_)) => Ok(self == other),
            (Self::Nil | Self::Missing, Self::Nil | Self::Missing) => Ok(true),
            (Self::Nil | Self::Missing, _) | (_, Self::Nil | Self::Missing) => Ok(false),
            _ => Err("values of different kinds are compared".to_owned()),
        }
    }

    fn printed(&self) -> Result<String, String> {
        let all = |values: &mut dyn Iterator<Item = Result<String, String>>| {
            values.collect::<Result<Vec<_>, _>>().map(|texts| texts.join(" "))
        };
        Ok(match self {
            Self::Nil => "<nil>".to_owned(),
            Self::Missing => "<no value>".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Int(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::List(list) => format!("[{}]", all(&mut list.iter().map(Self::printed))?),
            Self::Map(map) => {
                let pair =
                    |(key, value): (&String, &Self)| Ok(format!("{key}:{}", value.printed()?));
                format!("map[{}]", all(&mut map.iter().map(pair))?)
            }
            Self::Record(_) => return Err("a whole record has no text".to_owned()),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn data() -> Value {
        let tags = [("foo", "bar"), ("a-b", "c d&e"), ("empty", "")];
        let tags = tags.map(|(key, value)| (key.to_owned(), text(value)));
        Value::Record(vec![
            ("Hostname", text("h<1>")),
            ("OwnerUsers", Value::List(vec![text("u1"), text("u2")])),
            ("DisableUpdates", Value::Bool(true)),
            ("Tags", Value::Map(tags.into())),
            ("AwsMetadata", Value::Nil),
            ("None", Value::List(Vec::new())),
        ])
    }

    #[test]
    fn what_go_makes_of_it_comes_out() {
        for (template, expanded) in [
            ("", ""),
            ("http://{{.Hostname}}:1234/readiness", "http://h<1>:1234/readiness"),
            ("{{.Tags.foo}}", "bar"),
            ("{{index .Tags \"a-b\"}}", "c d&e"),
            ("{{index .Tags `nope`}}", ""),
            ("{{.Tags.missing}}", "<no value>"),
            ("{{.Tags}}", "map[a-b:c d&e empty: foo:bar]"),
            ("{{.OwnerUsers}}", "[u1 u2]"),
            ("{{index .OwnerUsers 0}}", "u1"),
            ("{{.DisableUpdates}}", "true"),
            ("{{.AwsMetadata}}", "<nil>"),
            ("{{range .OwnerUsers}}{{.}},{{end}}", "u1,u2,"),
            ("{{range .None}}x{{else}}none{{end}}", "none"),
            ("{{range .OwnerUsers}}{{$.Hostname}}{{end}}", "h<1>h<1>"),
            ("{{with .AwsMetadata}}{{.InstanceId}}{{end}}", ""),
            ("{{with .Tags.foo}}{{.}}{{else}}no{{end}}", "bar"),
            ("{{if .Tags.nope}}a{{else if .DisableUpdates}}b{{else}}c{{end}}", "b"),
            ("{{if eq .Tags.foo \"x\" \"bar\"}}a{{end}}", "a"),
            ("{{if ne .Tags.foo \"bar\"}}a{{else}}b{{end}}", "b"),
            ("{{if and .Tags.foo (not .Tags.empty)}}y{{end}}", "y"),
            ("{{or .Tags.empty \"default\"}}", "default"),
            ("{{len .OwnerUsers}}", "2"),
            ("{{.Tags.foo | printf \"%s-%s\" \"x\"}}", "x-bar"),
            ("{{printf \"%d%% %v\" 7 true}}", "7% true"),
            ("{{index .Tags \"a-b\" | urlquery}}", "c+d%26e"),
            ("{{.Hostname | html}}", "h&lt;1&gt;"),
            ("a {{- /* nothing */ -}} b", "ab"),
            ("a\n{{- .Tags.foo -}}\n b", "abarb"),
            ("{{/* c */}}x", "x"),
            ("{{(index .OwnerUsers 1)}}", "u2"),
            ("{{\"\\x41\\u00e9\\n\\\"\"}}", "Aé\n\""),
            ("}} { {", "}} { {"),
        ] {
            assert_eq!(expand(template, &data()).as_deref(), Ok(expanded), "{template}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_no_address() {
        for (template, said) in [
            ("{{.Nope}}", "there is no field Nope"),
            ("{{.hostname}}", "there is no field hostname"),
            ("{{.AwsMetadata.InstanceId}}", "InstanceId is asked of"),
            ("{{.}}", "a whole record has no text"),
            ("{{index .OwnerUsers 2}}", "the list has no element 2"),
            ("{{.Hostname.Length}}", "has no fields"),
            ("{{.Hostname", "is not closed"),
            ("{{}}", "an action is empty"),
            ("{{if .Hostname}}x", "`end` is missing"),
            ("{{end}}", "`end` without"),
            ("{{else}}", "`else` without"),
            ("{{if .Hostname}}{{else}}{{else}}{{end}}", "`else` without"),
            ("{{define \"x\"}}{{end}}", "`define` is not served here"),
            ("{{template \"x\"}}", "`template` is not served here"),
            ("{{$x := 1}}", "variables are not served here"),
            ("{{js .Hostname}}", "there is no function `js`"),
            ("{{.Compare .}}", "only functions take arguments"),
            ("{{eq .OwnerUsers 1}}", "different kinds"),
            ("{{len 3}}", "`len` is for"),
            ("{{printf \"%s\" 3}}", "`printf` knows"),
            ("{{printf \"%s\"}}", "too few"),
            ("{{\"abc}}", "a text is not closed"),
            ("{{'a'}}", "cannot be understood"),
            ("{{1.5}}", "cannot be understood"),
            ("{{/* x }}", "a comment is not closed"),
            ("{{|}}", "an action is empty"),
            ("{{(.Hostname}}", "a parenthesis"),
        ] {
            let problem = expand(template, &data()).unwrap_err();
            assert!(problem.contains(said), "{template}: {problem}");
        }
    }

    #[test]
    fn no_template_grows_or_digs_without_end() {
        let nested = "{{range $.OwnerUsers}}".repeat(50) + "xxxxxxxx" + &"{{end}}".repeat(50);
        assert!(expand(&nested, &data()).unwrap_err().contains("longer than"));
        for deep in ["{{if 1}}".repeat(10_000), format!("{{{{{}}}}}", "(".repeat(10_000))] {
            assert!(expand(&deep, &data()).unwrap_err().contains("nested too deep"));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([ -~]|\\{\\{|\\}\\}|- | -|if |end|\\.Tags|\"){0,30}") {
            let _ = expand(&text, &data());
        }
    }
}
