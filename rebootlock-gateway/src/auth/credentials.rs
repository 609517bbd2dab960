//! The file with credentials: hashes of passwords and tokens, and what each is for.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rebootlock::config::ConfigError;
use rebootlock::id::{Group, MachineId};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use toml::Spanned;

/// What somebody may do who shows the right password or token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user's name, or what the token is called.
    pub name: String,
    /// For these groups; for all of them without.
    pub groups: Option<BTreeSet<Group>>,
    /// For these machines; for all of them without.
    pub ids: Option<BTreeSet<MachineId>>,
    /// What a person may do with it; without one it is for machines alone.
    pub role: Option<Role>,
}

/// What a person, or an agent, may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// See everything.
    Viewer,
    /// Act, too.
    Operator,
    /// Do what an agent does on the store, and see everything.
    Agent,
}

impl Role {
    /// Whether it is somebody who looks at pages, or a program in their stead.
    pub fn is_a_persons(self) -> bool {
        matches!(self, Self::Viewer | Self::Operator)
    }
}

/// How somebody proves to be who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// An argon2 hash in the form of the password hashing competition.
    Password(String),
    /// The SHA-256 of a token. Tokens are long and random, so nothing slower is needed.
    Token([u8; 32]),
    /// A name in a certificate, which the TLS handshake checks.
    Certificate(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    client: Vec<Spanned<Written>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Spanned<String>,
    password_hash: Option<Spanned<String>>,
    token_sha256: Option<Spanned<String>>,
    certificate: Option<Spanned<String>>,
    groups: Option<BTreeSet<Group>>,
    ids: Option<Spanned<Vec<String>>>,
    role: Option<Role>,
}

/// Reads the file.
///
/// # Errors
/// [`ConfigError`] names the file, and the place in it.
pub fn read(path: &Path) -> Result<Vec<(Credential, Secret)>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let fault = |start: usize, problem: String| {
        let (before, _) = text.split_at_checked(start).unwrap_or((&text, ""));
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        ConfigError::Syntax { path: path.to_owned(), line, column, problem }
    };
    let file: File = toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        fault(start, error.message().trim().replace('\n', "; "))
    })?;
    let (mut names, mut certificates) = (BTreeSet::new(), BTreeSet::new());
    let mut known = Vec::new();
    for client in file.client {
        let at = client.span().start;
        let Written { name, password_hash, token_sha256, certificate, groups, ids, role } =
            client.into_inner();
        let name_at = name.span().start;
        let name = name.into_inner();
        if name.is_empty() || name.contains(|c: char| c == ':' || c.is_control()) {
            let problem = "`name` must not be empty, nor have a colon or a control character in it";
            return Err(fault(name_at, problem.to_owned()));
        }
        if !names.insert(name.clone()) {
            return Err(fault(name_at, format!("there is another client of the name {name:?}")));
        }
        let ids = match ids {
            None => None,
            Some(ids) => {
                let at = ids.span().start;
                let ids = ids.into_inner().into_iter().map(MachineId::new);
                Some(ids.collect::<Result<_, _>>().map_err(|e| fault(at, e.to_string()))?)
            }
        };
        let secret = match (password_hash, token_sha256, certificate) {
            (None, None, Some(shown)) => {
                if !certificates.insert(shown.get_ref().clone()) {
                    let problem =
                        format!("there is another client with certificate {:?}", shown.get_ref());
                    return Err(fault(shown.span().start, problem));
                }
                Secret::Certificate(shown.into_inner())
            }
            (Some(hash), None, None) => {
                if let Err(problem) = super::passwords::check(hash.get_ref()) {
                    return Err(fault(hash.span().start, problem));
                }
                Secret::Password(hash.into_inner())
            }
            (None, Some(digest), None) => match from_hex(digest.get_ref()) {
                Some(digest) => Secret::Token(digest),
                None => {
                    let problem = "`token_sha256` must be 64 hexadecimal digits; `rebootlock-gateway \
                                   hash --token` makes one";
                    return Err(fault(digest.span().start, problem.to_owned()));
                }
            },
            _ => {
                let problem =
                    "a client needs either `password_hash` or `token_sha256` or `certificate`";
                return Err(fault(at, problem.to_owned()));
            }
        };
        known.push((Credential { name, groups, ids, role }, secret));
    }
    if known.is_empty() {
        // Letting everybody in would be a strange reading of it.
        return Err(fault(0, "there is no [[client]] in it".to_owned()));
    }
    Ok(known)
}

/// The digest under which a token is known.
pub fn token_digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A new token, and the line of the file that lets its owner in.
pub fn new_token() -> (String, String) {
    let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let digest: String = token_digest(&token).iter().map(|byte| format!("{byte:02x}")).collect();
    (token, format!("token_sha256 = \"{digest}\""))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (n, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_file_is_said_with_its_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = format!("token_sha256 = \"{}\"", "0".repeat(64));
        for (text, said) in [
            ("", ":1:1: there is no [[client]] in it".to_owned()),
            ("[[client]]\nname = \"a\"", ":1:1: a client needs either".to_owned()),
            ("[[client]]\nname = \"a:b\"\nTOKEN", ":2:8: `name` must not".to_owned()),
            (
                "[[client]]\nname = \"a\"\ntoken_sha256 = \"12\"",
                ":3:16: `token_sha256` must".to_owned(),
            ),
            (
                "[[client]]\nname = \"a\"\npassword_hash = \"x\"",
                ":3:17: `password_hash` ".to_owned(),
            ),
            (
                "[[client]]\nname = \"a\"\nTOKEN\nids = [\"a b\"]",
                ":4:7: machine id \"a b\"".to_owned(),
            ),
            (
                "[[client]]\nname = \"a\"\nTOKEN\ngroup = \"x\"",
                ":4:1: unknown field `group`".to_owned(),
            ),
            (
                "[[client]]\nname = \"a\"\nTOKEN\n[[client]]\nname = \"a\"\nTOKEN",
                ":5:8: there is another client of the name \"a\"".to_owned(),
            ),
        ] {
            std::fs::write(file.path(), text.replace("TOKEN", &token)).unwrap();
            let error = read(file.path()).unwrap_err().to_string();
            let expected = format!("{}{said}", file.path().display());
            assert!(error.starts_with(&expected), "{text}: {error}");
        }
    }
}
