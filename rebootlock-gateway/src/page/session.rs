//! Who is signed in: a random cookie in the browser, its digest in the store.
//!
//! The store and not a signed cookie, because then no gateway needs a key that all have to share and
//! somebody has to keep; signing out is the end of a session everywhere; and a copy of the cookie is of
//! no use afterwards. Nobody can act without the store anyhow. What is in the store lets nobody in.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rebootlock::record::{Session, UnixTime};
use rebootlock::store::{Event, Span};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::reply::hex;
use crate::app::{App, Live};
use crate::auth::Caller;
use crate::slots::{Refusal, in_time};

/// From signing in to having to do so again.
const LASTS: Duration = Duration::from_secs(12 * 60 * 60);

/// For so long somebody may look on while the store does not answer.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// So many are remembered at most.
const MOST_REMEMBERED: usize = 1000;

/// What a cookie is called; where it never leaves TLS, so that browsers keep it to that and to us.
const NAME: &str = "rebootlock-session";
const NAME_OVER_TLS: &str = "__Host-rebootlock-session";

/// 256 random bits that a browser shows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// One that nobody has.
    pub(super) fn new() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
    }

    /// The one that a browser shows. With `tls`, only one that it got over TLS.
    pub(super) fn shown(headers: &HeaderMap, tls: bool) -> Option<Self> {
        let found = |name| cookie(headers, name).filter(|value| Self::is_one(value));
        let plain = || if tls { None } else { found(NAME) };
        found(NAME_OVER_TLS).or_else(plain).map(|value| Self(value.to_owned()))
    }

    fn is_one(text: &str) -> bool {
        text.len() == 43 && URL_SAFE_NO_PAD.decode(text).is_ok()
    }

    /// The header that has the browser keep it, as long as it is open; `tls` if that is how it came.
    pub(super) fn keep(&self, tls: bool) -> Option<HeaderValue> {
        set_cookie(&self.0, "", tls)
    }

    /// The headers that have it forgotten, by whatever name.
    pub(super) fn forget() -> impl Iterator<Item = HeaderValue> {
        [true, false].into_iter().filter_map(|tls| set_cookie("", "; Max-Age=0", tls))
    }

    /// What a form has to show that a page of ours made for this browser; another one for each purpose.
    pub(super) fn stamp(&self, purpose: &str) -> String {
        let mut digest = Sha256::new();
        for text in ["rebootlock form", &self.0, purpose] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        URL_SAFE_NO_PAD.encode(digest.finalize())
    }

    /// Whether this is the stamp for it.
    pub(super) fn has_stamped(&self, purpose: &str, stamp: &str) -> bool {
        self.stamp(purpose).as_bytes().ct_eq(stamp.as_bytes()).into()
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }
}

/// Without a lifetime of its own: it ends with the browser, or with what is in the store.
fn set_cookie(value: &str, more: &str, tls: bool) -> Option<HeaderValue> {
    let (name, secure) = if tls { (NAME_OVER_TLS, "; Secure") } else { (NAME, "") };
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{more}");
    HeaderValue::from_str(&text).ok()
}

/// The value of a cookie that comes exactly once.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
    match (found.next(), found.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

/// What stands for what somebody proved to be themselves by.
fn proof(secret: &[u8; 32]) -> String {
    let mut digest = Sha256::new();
    digest.update("rebootlock session");
    digest.update(secret);
    hex(&digest.finalize()[..16])
}

/// What this process has seen of sessions, for the time when the store does not answer.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<[u8; 32], (Session, Instant)>>);

impl Memory {
    fn put(&self, digest: [u8; 32], session: &Session) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, seen)| seen.elapsed() < REMEMBERED);
        if known.len() < MOST_REMEMBERED {
            known.insert(digest, (session.clone(), Instant::now()));
        }
    }

    fn get(&self, digest: &[u8; 32]) -> Option<Session> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (session, seen) = known.get(digest)?;
        (seen.elapsed() < REMEMBERED).then(|| session.clone())
    }

    fn forget(&self, digest: &[u8; 32]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }
}

/// Signs somebody in who has proved to be `caller`.
///
/// # Errors
/// [`Refusal`] if the store does not answer.
pub(super) async fn begin(live: &Live, caller: &Caller) -> Result<Option<Token>, Refusal> {
    let Some(name) = &caller.name else { return Ok(None) };
    // Somebody may just have taken the name away.
    let Some((_, secret)) = live.auth.still_knows(name) else { return Ok(None) };
    let (token, now) = (Token::new(), UnixTime::now());
    let session = Session {
        by: name.clone(),
        since: now,
        until: now.plus_seconds(LASTS.as_secs()),
        proof: proof(&secret),
        unknown: serde_json::Map::new(),
    };
    in_time(live, live.locks.begin_session(&token.digest(), &session)).await?;
    Ok(Some(token))
}

/// Whose session this is, by what is known of them now: their role may have changed, or their password.
///
/// # Errors
/// [`Refusal`] if the store does not answer. `only_to_look`, somebody it knew a moment ago counts.
pub(super) async fn who(
    live: &Live,
    memory: &Memory,
    token: &Token,
    only_to_look: bool,
) -> Result<Option<Caller>, Refusal> {
    let digest = token.digest();
    let session = match in_time(live, live.locks.session(&digest)).await {
        Ok(Some(session)) => {
            memory.put(digest, &session);
            session
        }
        Ok(None) => {
            memory.forget(&digest);
            return Ok(None);
        }
        Err(refusal) => match memory.get(&digest) {
            Some(session) if only_to_look => session,
            _ => return Err(refusal),
        },
    };
    if session.until < UnixTime::now() {
        return Ok(None);
    }
    let known = live.auth.still_knows(&session.by);
    Ok(known.filter(|(_, secret)| proof(secret) == session.proof).map(|(caller, _)| caller))
}

/// Returns when somebody who may look by this session may no more: it has ended, here or at another
/// gateway, or its name or role has gone.
pub(super) async fn lost(app: &App, token: &Token) {
    let live = app.live();
    let key = live.locks.keys().session(&token.digest());
    let mut changes = live.locks.store().watch_from_now(&[Span::Only(key)]);
    drop(live);
    // The first event is that the watch is in place: what happened before is seen then.
    while let Some(event) = changes.next().await {
        if matches!(event, Event::Interrupted { .. }) {
            continue;
        }
        match who(&app.live(), &app.page.sessions, token, true).await {
            Ok(Some(caller)) if caller.may_sign_in() => {}
            _ => return,
        }
    }
}

/// Signs somebody out, and says whom if anybody was signed in.
///
/// # Errors
/// [`Refusal`] if the store does not answer.
pub(super) async fn end(
    live: &Live,
    memory: &Memory,
    token: &Token,
) -> Result<Option<String>, Refusal> {
    let digest = token.digest();
    memory.forget(&digest);
    let session = in_time(live, live.locks.session(&digest)).await?;
    in_time(live, live.locks.end_session(&digest)).await?;
    Ok(session.map(|session| session.by))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(cookies: &str, tls: bool) -> Option<Token> {
        let headers = [(COOKIE, cookies.parse().unwrap())].into_iter().collect();
        Token::shown(&headers, tls)
    }

    #[test]
    fn over_tls_only_a_cookie_that_came_over_tls_counts() {
        let token = Token::new();
        let (plain, tls) =
            (format!("{NAME}={}", token.0), format!("a=b; {NAME_OVER_TLS}={}", token.0));
        assert_eq!(shown(&plain, false), Some(token.clone()));
        assert_eq!(shown(&plain, true), None);
        assert_eq!(shown(&tls, true), Some(token.clone()));
        assert_eq!(shown(&tls, false), Some(token.clone()));
        for odd in ["", "rebootlock-session", "rebootlock-session=x", &format!("{plain}; {plain}")]
        {
            assert_eq!(shown(odd, false), None, "{odd}");
        }
        let kept = token.keep(true).unwrap();
        let kept = kept.to_str().unwrap();
        assert!(kept.starts_with("__Host-") && kept.ends_with("; Secure"), "{kept}");
        assert!(kept.contains("; Path=/; HttpOnly; SameSite=Strict"), "{kept}");
    }

    #[test]
    fn a_stamp_is_for_one_browser_and_one_purpose() {
        let (one, other) = (Token::new(), Token::new());
        let stamp = one.stamp("sign-out");
        assert!(one.has_stamped("sign-out", &stamp));
        assert!(!one.has_stamped("operate", &stamp) && !other.has_stamped("sign-out", &stamp));
        assert!(!one.has_stamped("sign-out", "") && !one.has_stamped("sign-out", &stamp[1..]));
        assert!(!format!("{one:?}").contains(&one.0));
    }
}
