//! The store itself for programs that cannot reach it: `rebootlockctl` and agents whose endpoint is
//! `gateway+https://…`. `proto-docs/gateway-store.md` has the documents.
//!
//! Only keys below the prefix are served. Who looks needs what looking takes everywhere here; who
//! changes anything needs credentials with the role `operator` or `agent`. A semaphore that
//! contradicts itself is not written, whoever asks.

mod leases;
mod rights;
mod telling;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Response};
use rebootlock::keys::Keyspace;
use rebootlock::semaphore::Semaphore;
use rebootlock::store::{
    self, Change, Commit, Key, LeaseId, Revision, SharedStore, Span, StoreError, Txn, wire,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::info;

pub use self::leases::Leases;
use self::rights::Writer;
use self::telling::Telling;
use crate::allowance;
use crate::app::{App, Live, chain};
use crate::reply::{Kind, Reply, Told};
use crate::serve::Peer;
use crate::{api, fleetlock, operators};

/// Longest question, in bytes.
const MAX_QUESTION: usize = 256 * 1024;

/// Longest transaction, in bytes. etcd takes no more than 1.5 MiB by default, and a semaphore of ten
/// thousand holders is a third of that.
const MAX_COMMIT: usize = 4 * 1024 * 1024;

/// The longest lease. What is to last longer does not hang on one.
const LONGEST_LEASE: Duration = Duration::from_secs(7 * 86_400);

/// So many spans can be watched in one.
const MOST_SPANS: usize = 32;

/// Whatever is below `/api/v1/store/`.
pub async fn answer(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let answered = handle(&app, &head, body).await;
    answered.unwrap_or_else(Reply::into_problem)
}

async fn handle(app: &Arc<App>, head: &Parts, body: Body) -> Result<Response<Body>, Reply> {
    let path = head.uri.path();
    let known = [
        wire::ME,
        wire::READ,
        wire::COMMIT,
        wire::WATCH,
        wire::GRANT,
        wire::KEEP_ALIVE,
        wire::REVOKE,
    ];
    if !known.contains(&path) {
        return Err(Reply::new(Kind::NotFound, "there is nothing at this path"));
    }
    if head.method != Method::POST {
        return Err(Reply::only("POST"));
    }
    let live = app.live();
    let peer = head.extensions.get::<Peer>().cloned().unwrap_or_default();
    api::must_be_from_here(&head.headers)?;
    api::must_be_json(&head.headers)?;
    let asked = Asked { live: &live, store: live.locks.store(), keys: live.locks.keys() };
    if matches!(path, wire::READ | wire::WATCH) {
        let reader = operators::reader(&live, &head.headers, &peer).await;
        reader.map_err(|refusal| Reply::new(refusal.kind, refusal.text))?;
        let question = fleetlock::read(body, MAX_QUESTION, live.settings.body_timeout).await?;
        return match path {
            wire::READ => json(&asked.read(parse(&question)?).await?),
            _ => asked.watch(app, &peer, parse(&question)?).await,
        };
    }
    let writer = rights::writer(&live, &head.headers, &peer).await?;
    let limit = if path == wire::COMMIT { MAX_COMMIT } else { MAX_QUESTION };
    let question = fleetlock::read(body, limit, live.settings.body_timeout).await?;
    match path {
        wire::ME => json(&wire::Me { name: writer.name }),
        wire::COMMIT => json(&asked.commit(&writer, parse(&question)?).await?),
        wire::GRANT => {
            let lease = asked.grant(parse(&question)?).await?;
            app.leases.granted(LeaseId::from(lease), &writer.name);
            json(&lease)
        }
        wire::KEEP_ALIVE => {
            let lease: wire::Lease = parse(&question)?;
            let id = LeaseId::from(lease);
            // One that another gateway granted has to live on too.
            if app.leases.is_of_another(id, &writer.name) && !writer.may_all() {
                return Err(Reply::new(Kind::Forbidden, "this lease was granted to somebody else"));
            }
            asked.in_time(asked.store.keep_alive(id)).await?;
            json(&lease)
        }
        _ => {
            let lease: wire::Lease = parse(&question)?;
            let id = LeaseId::from(lease);
            // Others' leases hold up pauses and places. One of another gateway's ends by itself.
            if app.leases.is_of(id, &writer.name) || writer.may_all() {
                asked.in_time(asked.store.revoke(id)).await?;
                app.leases.ended(id);
            }
            json(&lease)
        }
    }
}

/// What one request works with.
struct Asked<'a> {
    live: &'a Live,
    store: &'a SharedStore,
    keys: &'a Keyspace,
}

impl Asked<'_> {
    async fn read(&self, read: wire::Read) -> Result<wire::Found, Reply> {
        let below =
            read.below.into_iter().map(|below| (Key::new(below.prefix), below.select.into()));
        let below: Vec<(Key, store::Select)> = below.collect();
        let keys: Vec<_> = read.keys.into_iter().map(Key::new).collect();
        for key in keys.iter().chain(below.iter().map(|(prefix, _)| prefix)) {
            self.must_be_ours(key)?;
        }
        // One listing alone has no limit on what it may find, at an etcd.
        let found = match (keys.is_empty(), below.as_slice()) {
            (true, [(prefix, select)]) => self.in_time(self.store.list(prefix, *select)).await?,
            _ => self.in_time(self.store.read(&keys, &below)).await?,
        };
        Ok(found.into())
    }

    async fn commit(&self, writer: &Writer, commit: wire::Commit) -> Result<wire::Outcome, Reply> {
        let txn = Txn::from(commit);
        let changed: Vec<_> = txn.changes.iter().map(|change| change.key().as_str()).collect();
        let changed = changed.join(" ");
        let allowed = self.check(&txn).and_then(|()| writer.may(self.keys, &txn.changes));
        allowed.inspect_err(|refused| {
            info!(
                target: "rebootlock_gateway::audit",
                event = "commit_refused", by = writer.name, address = %writer.address,
                keys = changed, "{}", refused.value
            );
        })?;
        let ended = self.in_time(self.store.commit(&txn)).await;
        let outcome = match &ended {
            Ok(Commit::Won(_)) => "won",
            Ok(Commit::Lost) => "lost",
            Err(_) => "unknown",
        };
        info!(
            target: "rebootlock_gateway::audit",
            event = "commit", by = writer.name, address = %writer.address, keys = changed, outcome,
            "committed through the gateway"
        );
        Ok(ended?.into())
    }

    /// Whether all keys are ours and every semaphore is what it promises to be.
    fn check(&self, txn: &Txn) -> Result<(), Reply> {
        let mut changed = std::collections::BTreeSet::new();
        for precondition in &txn.preconditions {
            self.must_be_ours(&precondition.key)?;
        }
        for change in &txn.changes {
            let key = change.key();
            self.must_be_ours(key)?;
            if !changed.insert(key) {
                let text = format!("{key} is changed twice in one transaction");
                return Err(Reply::new(Kind::InvalidBody, text));
            }
            if self.keys.group_of_semaphore(key).is_none() {
                continue;
            }
            match change {
                Change::Put { lease: Some(_), .. } => {
                    return Err(invalid(format!(
                        "{key} would go with a lease, and with it all slots that are held"
                    )));
                }
                Change::Put { value, .. } => {
                    if let Err(damage) = Semaphore::from_json(value) {
                        return Err(invalid(format!("{key} would be damaged: {damage}")));
                    }
                }
                Change::Delete { .. } => {
                    return Err(invalid(format!(
                        "{key} would be gone, and with it all slots that are held; set its max to 0 \
                         if nobody is to have one"
                    )));
                }
            }
        }
        Ok(())
    }

    async fn watch(
        &self,
        app: &Arc<App>,
        peer: &Peer,
        watch: wire::Watch,
    ) -> Result<Response<Body>, Reply> {
        let spans: Vec<Span> = watch.spans.into_iter().map(Span::from).collect();
        if spans.is_empty() || spans.len() > MOST_SPANS {
            let text = format!("`spans` must name 1 to {MOST_SPANS}");
            return Err(Reply::new(Kind::InvalidBody, text));
        }
        for span in &spans {
            self.must_be_ours(span.first())?;
            if let Span::Between(_, end) = span {
                self.must_end_with_ours(end)?;
            }
        }
        let Ok(permit) = app.watches.clone().try_acquire_owned() else {
            let text = format!(
                "{} watches are open, and more are not allowed (max_watches)",
                self.live.settings.max_watches
            );
            return Err(Reply::new(Kind::Overloaded, text));
        };
        // Whoever asks should know at once if there is nothing to be told here.
        let now = self.in_time(self.store.read(&[], &[])).await?.revision;
        let opened = match (watch.after, spans.as_slice()) {
            (None, spans) => self.store.watch_from_now(spans),
            (Some(after), [span]) => self.store.watch(span, Revision(after)),
            (Some(_), _) => {
                let text = "`after` goes with one span; several are watched from now on";
                return Err(Reply::new(Kind::InvalidBody, text));
            }
        };
        let body =
            Telling::new(app.clone(), opened, now, peer.replaced.clone(), permit).into_body();
        Ok(success(body, "application/x-ndjson"))
    }

    async fn grant(&self, grant: wire::Grant) -> Result<wire::Lease, Reply> {
        let ttl = Duration::from_millis(grant.ttl_millis);
        if ttl.is_zero() || ttl > LONGEST_LEASE {
            let longest = LONGEST_LEASE.as_millis();
            let text = format!("`ttlMillis` {} is not from 1 to {longest}", grant.ttl_millis);
            return Err(Reply::new(Kind::InvalidBody, text));
        }
        Ok(self.in_time(self.store.grant(ttl)).await?.into())
    }

    fn must_be_ours(&self, key: &Key) -> Result<(), Reply> {
        match rights::below(self.keys, key.as_str()) {
            Some(_) => Ok(()),
            None => Err(self.not_ours(key)),
        }
    }

    /// The zero is the character after the slash: what is below the prefix ends there at the latest.
    fn must_end_with_ours(&self, end: &Key) -> Result<(), Reply> {
        match rights::below(self.keys, end.as_str()) {
            None if *end.as_str() != format!("{}0", self.keys) => Err(self.not_ours(end)),
            _ => Ok(()),
        }
    }

    fn not_ours(&self, key: &Key) -> Reply {
        let text = format!(
            "{key} is not below {}/, and nothing else is served here; compare prefix in [store]",
            self.keys
        );
        Reply::new(Kind::Forbidden, text)
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Reply> {
        let within = self.live.settings.answer_within;
        let away = "the gateway's store does not answer; whether anything was done is not known";
        match allowance::within(within, call).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(StoreError::LeaseGone)) => {
                Err(Reply::new(Kind::LeaseGone, StoreError::LeaseGone.to_string()))
            }
            Some(Err(error @ StoreError::Unavailable(_))) => {
                tracing::warn!(error = chain(&error), "the store does not answer");
                Err(Reply::new(Kind::StoreUnavailable, away))
            }
            Some(Err(StoreError::Broken(problem))) => {
                tracing::warn!(error = problem, "the store failed");
                Err(Reply::new(Kind::StoreFailed, format!("the store failed: {problem}")))
            }
            Some(Err(error)) => {
                tracing::error!(error = chain(&error), "the store refuses us");
                let text = "the gateway's store refuses the gateway; whoever runs it finds the \
                            reason in its log";
                Err(Reply::new(Kind::StoreFailed, text))
            }
            None => {
                let within = within.as_secs();
                tracing::warn!(within, store = self.store.location(), "the store is too slow");
                Err(Reply::new(Kind::StoreUnavailable, away))
            }
        }
    }
}

fn invalid(text: String) -> Reply {
    Reply::new(Kind::InvalidDocument, text)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Reply> {
    // A list of the members' values in their order would do for a struct, too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Reply::new(Kind::InvalidBody, "the body must be an object"));
    }
    serde_json::from_slice(body).map_err(|error| {
        Reply::new(Kind::InvalidBody, format!("the body cannot be understood: {error}"))
    })
}

fn json(document: &impl Serialize) -> Result<Response<Body>, Reply> {
    let json = serde_json::to_vec(document).map_err(|error| {
        // Nothing we say has a form that JSON does not.
        tracing::error!(%error, "an answer has no JSON form");
        Reply::new(Kind::StoreFailed, "what was found cannot be said in JSON")
    })?;
    Ok(success(Body::from(json), "application/json"))
}

fn success(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(Told { kind: Kind::Success });
    response
}
