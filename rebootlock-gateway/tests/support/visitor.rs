//! Somebody with a browser that has no scripts: follows links, sends forms, keeps cookies.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use super::support::{Answer, Fleet, Gateway, PROTOCOL, file, params, request};

/// A gateway's answer, as it came.
#[derive(Debug, Clone)]
pub struct Page {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Page {
    /// The values of a header.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        match self.headers(name)[..] {
            [value] => value,
            ref values => panic!("{name}: {values:?} in {}", self.head),
        }
    }

    /// The value of a hidden field.
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        let before = format!("name=\"{name}\" value=\"");
        let rest = self.body.split(&before).nth(1);
        let rest = rest.unwrap_or_else(|| panic!("no field {name} in {}", self.body));
        rest.split('"').next().unwrap().to_owned()
    }

    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert!(self.body.contains(text), "no {text:?} in {} {}", self.status, self.body);
        self
    }

    #[track_caller]
    pub fn does_not_say(&self, text: &str) -> &Self {
        assert!(!self.body.contains(text), "{text:?} in {}", self.body);
        self
    }

    #[track_caller]
    pub fn has_status(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

#[derive(Clone, Default)]
pub struct Visitor {
    pub cookies: BTreeMap<String, String>,
}

impl Visitor {
    /// Somebody who has signed in by a token.
    #[track_caller]
    pub fn signed_in(gw: &Gateway, name: &str, token: &str) -> Self {
        let mut visitor = Self::default();
        let answer = visitor.sign_in(gw, name, token);
        assert_eq!((answer.status, answer.header("location")), (303, "./"), "{answer:?}");
        visitor
    }

    pub fn sign_in(&mut self, gw: &Gateway, name: &str, password: &str) -> Page {
        let stamp = self.get(gw, "/sign-in").field("stamp");
        self.post(gw, "/sign-in", &[("name", name), ("password", password), ("stamp", &stamp)])
    }

    pub fn get(&mut self, gw: &Gateway, path: &str) -> Page {
        self.send(gw, "GET", path, "", "")
    }

    /// Sends a form as a browser does that is on a page of ours.
    pub fn post(&mut self, gw: &Gateway, path: &str, fields: &[(&str, &str)]) -> Page {
        self.post_from(gw, "sec-fetch-site: same-origin\r\n", path, fields)
    }

    pub fn post_from(
        &mut self,
        gw: &Gateway,
        headers: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Page {
        let body: String =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send(gw, "POST", path, headers, &body)
    }

    pub fn send(
        &mut self,
        gw: &Gateway,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Page {
        let cookies: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = match cookies.join("; ") {
            none if none.is_empty() => none,
            cookies => format!("cookie: {cookies}\r\n"),
        };
        let headers = format!("{headers}{cookies}connection: close\r\n");
        let mut stream = gw.connect();
        stream.write_all(request(method, path, &headers, body).as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let page = Page { status, head: head.to_owned(), body: body.to_owned() };
        for cookie in page.headers("set-cookie") {
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        page
    }

    /// Fills in the form behind a link and sends it.
    pub fn operate(&mut self, gw: &Gateway, query: &str, more: &[(&str, &str)]) -> Page {
        let form = self.get(gw, &format!("/operate?{query}"));
        let hidden = hidden(&form.body);
        let hidden = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        self.post(gw, "/operate", &hidden.chain(more.iter().copied()).collect::<Vec<_>>())
    }

    /// Sends the form of a page as it is.
    pub fn agree(&mut self, gw: &Gateway, form: &Page) -> Page {
        let hidden = hidden(&form.body);
        let hidden: Vec<_> =
            hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.post(gw, "/operate", &hidden)
    }

    /// Where an answer leads.
    pub fn follow(&mut self, gw: &Gateway, answer: &Page) -> Page {
        assert_eq!(answer.status, 303, "{answer:?}");
        let to = answer.header("location").strip_prefix('.').unwrap().to_owned();
        self.get(gw, &to)
    }
}

/// The hidden fields of the form for an action; that for signing out is not one.
fn hidden(body: &str) -> Vec<(String, String)> {
    let form = body.split("action=\"operate\"").nth(1);
    let form = form.unwrap_or_else(|| panic!("no form in {body}"));
    let fields = form.split("<input type=\"hidden\" name=\"").skip(1);
    let fields = fields.map(|field| {
        let (name, rest) = field.split_once("\" value=\"").unwrap();
        let value = rest.split('"').next().unwrap();
        (name.to_owned(), value.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    });
    fields.collect()
}

pub const TOKEN: &str = "a-token-of-an-operator";
pub const VIEWERS_TOKEN: &str = "a-token-of-a-viewer";
pub const MACHINES_TOKEN: &str = "a-token-of-machines";
pub const WEB_TOKEN: &str = "a-token-for-the-group-web";

/// A machine asks for a slot, or gives it back.
pub fn machine(gw: &Gateway, call: &str, id: &str) -> Answer {
    let headers = format!("{PROTOCOL}authorization: Bearer {MACHINES_TOKEN}\r\n");
    gw.post(&format!("/v1/{call}"), &headers, &params(id, "default"))
}

/// A configuration with an operator `alice`, a viewer `bob`, and `carol`, an operator of `web` alone;
/// and one for machines.
pub fn with_people(fleet: &Fleet, more: &str) -> String {
    let digest = |token: &str| {
        let digest = rebootlock_gateway::auth::token_digest(token);
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let client = |name: &str, token: &str, more: &str| {
        format!("[[client]]\nname = \"{name}\"\ntoken_sha256 = \"{}\"\n{more}\n", digest(token))
    };
    let people = client("alice", TOKEN, "role = \"operator\"")
        + &client("bob", VIEWERS_TOKEN, "role = \"viewer\"")
        + &client("machines", MACHINES_TOKEN, "")
        + &client("carol", WEB_TOKEN, "role = \"operator\"\ngroups = [\"web\"]");
    let path = file(fleet, "people.toml", &people);
    format!("[gateway]\ncredentials_file = {path:?}\n{more}")
}
