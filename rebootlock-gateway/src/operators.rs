//! People at the gateway: who may look, and who may act.
//!
//! Acting always takes credentials with the role `operator`. Looking takes any role, unless it is open to
//! anybody: because that was configured, or because nobody but this machine can reach the gateway.

use std::net::IpAddr;

use axum::http::header::HOST;
use axum::http::{HeaderMap, HeaderName, Request, Version};
use rebootlock::id::{Group, MachineId};

use crate::app::Live;
use crate::auth::{self, Caller, Refused, Role};
use crate::reply::Kind;
use crate::serve::Peer;
use crate::slots::Refusal;

/// Somebody who may look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// What the file with credentials calls it; nothing for anybody.
    pub name: Option<String>,
    /// Its role; none for anybody.
    pub role: Option<Role>,
}

/// Somebody who may act. There is no way to one but by credentials with that role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Where from; for the audit log.
    pub address: IpAddr,
    name: String,
    caller: Caller,
}

impl Operator {
    /// The operator behind credentials that were right.
    ///
    /// # Errors
    /// [`Refusal`] if they are not an operator's.
    pub fn of(caller: Caller, address: IpAddr) -> Result<Self, Refusal> {
        match (&caller.name, caller.role) {
            (Some(name), Some(Role::Operator)) => Ok(Self { address, name: name.clone(), caller }),
            (name, role) => {
                let what = match role {
                    Some(Role::Agent) => "these credentials are for an agent; people need a `role`",
                    Some(_) => "these credentials are for looking only",
                    None => "these credentials are for machines; people need a `role`",
                };
                tracing::info!(
                    target: "rebootlock_gateway::audit",
                    event = "forbidden", client = name, %address, "{what}"
                );
                Err(Refusal::new(Kind::Forbidden, what))
            }
        }
    }

    /// What the file with credentials calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is anything on which it may not act.
    pub fn is_limited(&self) -> bool {
        self.caller.is_limited()
    }

    /// Whether it may act on `group` and on `machine`; without either, on the whole fleet.
    ///
    /// # Errors
    /// [`Refusal`] if its credentials are for others.
    pub fn may(&self, group: Option<&Group>, machine: Option<&MachineId>) -> Result<(), Refusal> {
        self.caller.reaches(group, machine).map_err(|why| {
            tracing::info!(
                target: "rebootlock_gateway::audit",
                event = "forbidden", id = machine.map(ToString::to_string),
                group = group.map(ToString::to_string), by = self.name, address = %self.address,
                "{why}"
            );
            Refusal::new(Kind::Forbidden, why)
        })
    }
}

/// Finds out who acts.
///
/// # Errors
/// [`Refusal`]: `unauthorized` without the right credentials, `forbidden` without the role.
pub async fn operator(live: &Live, headers: &HeaderMap, peer: &Peer) -> Result<Operator, Refusal> {
    if !live.auth.is_needed() {
        // Nobody is an operator here, whatever is shown.
        let text = "nobody may act through this gateway: its credentials_file has no client with \
                    role = \"operator\"";
        return Err(Refusal::new(Kind::Unauthorized, text));
    }
    Operator::of(caller(live, headers, peer).await?, peer.address.ip())
}

/// Finds out who looks.
///
/// # Errors
/// [`Refusal`]: `unauthorized` or `forbidden`, if it may not.
pub async fn reader(live: &Live, headers: &HeaderMap, peer: &Peer) -> Result<Reader, Refusal> {
    let open = is_open(live, peer);
    if !live.auth.is_needed() {
        let text = "nobody may look at the fleet through this gateway: it has neither public_view = \
                    true nor credentials with a role";
        let anybody = Reader { name: None, role: None };
        return if open { Ok(anybody) } else { Err(Refusal::new(Kind::Unauthorized, text)) };
    }
    // Wrong credentials are wrong even where none are needed.
    let caller = match live.auth.caller(headers, peer.certificate.as_ref(), peer.address.ip()).await
    {
        Err(Refused::Missing) if open => Caller::default(),
        Err(refused) => return Err(not_known(refused, peer, auth::said(headers))),
        Ok(caller) => caller,
    };
    if caller.role.is_none() && !open {
        let text = "these credentials are for machines; people need a `role`";
        return Err(Refusal::new(Kind::Forbidden, text));
    }
    Ok(Reader { name: caller.name, role: caller.role })
}

/// Whether anybody may look, without showing anything.
pub fn is_open(live: &Live, peer: &Peer) -> bool {
    live.settings.public_view.unwrap_or(peer.within)
}

/// Signs somebody in by name and password, for a page.
///
/// # Errors
/// [`Refusal`] if they are wrong, or those of a machine.
pub async fn sign_in(
    live: &Live,
    name: &str,
    password: &str,
    peer: &Peer,
) -> Result<Caller, Refusal> {
    // Somebody at a form can wait, whatever they type.
    let allowed = live.auth.allow(peer.address.ip());
    let caller = match allowed {
        Ok(()) => live.auth.user(name, password, peer.address.ip()).await,
        Err(refused) => Err(refused),
    };
    let caller = caller.map_err(|refused| not_known(refused, peer, Some(name.to_owned())))?;
    if caller.may_sign_in() {
        return Ok(caller);
    }
    let text = match caller.role {
        Some(_) => "these credentials are for an agent; people need the role viewer or operator",
        None => "these credentials are for machines; people need a `role`",
    };
    tracing::info!(
        target: "rebootlock_gateway::audit",
        event = "forbidden", client = caller.name, address = %peer.address, "{text}"
    );
    Err(Refusal::new(Kind::Forbidden, text))
}

/// Finds out who it is that shows credentials.
pub(crate) async fn caller(
    live: &Live,
    headers: &HeaderMap,
    peer: &Peer,
) -> Result<Caller, Refusal> {
    let caller = live.auth.caller(headers, peer.certificate.as_ref(), peer.address.ip()).await;
    caller.map_err(|refused| not_known(refused, peer, auth::said(headers)))
}

/// The longest name of somebody unknown that is written to the log.
const LONGEST_NAME: usize = 64;

/// What is said to somebody who is not let in, and written to the log with the name they `said`.
pub(crate) fn not_known(refused: Refused, peer: &Peer, said: Option<String>) -> Refusal {
    let (event, kind) = match refused {
        Refused::Missing | Refused::Wrong => ("unauthorized", Kind::Unauthorized),
        Refused::Busy => ("unauthorized", Kind::Overloaded),
        Refused::Guessing => ("sign_in_limited", Kind::RateLimited),
    };
    let client = said.map(|name| name.chars().take(LONGEST_NAME).collect::<String>());
    let shown = peer.certificate.iter().flat_map(|names| names.iter());
    let certificate = shown.map(String::as_str).collect::<Vec<_>>().join(", ");
    tracing::info!(
        target: "rebootlock_gateway::audit",
        event, client, certificate = (!certificate.is_empty()).then_some(certificate),
        address = %peer.address, "{refused}"
    );
    Refusal::new(kind, refused.to_string())
}

/// Whether a request comes as it was written: not through a proxy for somebody elsewhere, nor from a page of
/// somebody else's whose name leads here. Proxies that say nothing of it cannot be told from others; many
/// speak HTTP/1.0 then, which nobody else does any more.
pub(crate) fn is_direct<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let of_a_proxy = |name: &HeaderName| {
        let name = name.as_str();
        matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded-")
    };
    // Where the target names a host itself, that counts (RFC 9112, 3.2.2).
    let host = match request.uri().authority() {
        Some(target) => target.host(),
        None => headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    };
    request.version() == Version::HTTP_11 && !headers.keys().any(of_a_proxy) && is_local(host)
}

fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_came_through_a_proxy_is_nobody_on_this_machine() {
        let comes = |version, lines: &[(&str, &str)]| {
            let mut request = Request::builder().version(version).header(HOST, "localhost");
            for (name, value) in lines {
                request = request.header(*name, *value);
            }
            is_direct(&request.body(()).unwrap())
        };
        assert!(comes(Version::HTTP_11, &[("accept", "*/*")]));
        for (target, direct) in [("http://localhost:1/", true), ("http://evil.example/", false)] {
            let request = Request::builder().uri(target).header(HOST, "localhost").body(());
            assert_eq!(is_direct(&request.unwrap()), direct, "{target}");
        }
        assert!(!comes(Version::HTTP_10, &[]));
        for name in [
            "Forwarded",
            "Via",
            "X-Real-IP",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
        ] {
            assert!(!comes(Version::HTTP_11, &[(name, "x")]), "{name}");
        }
    }

    #[test]
    fn only_names_that_nobody_can_point_here_are_local() {
        for host in ["localhost", "LOCALHOST:9090", "127.0.0.1", "127.0.0.1:80", "[::1]:1", "[::1]"]
        {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "gw", "evil.example:9090", "10.0.0.1", "localhost.evil.example", "[::2]:1"]
        {
            assert!(!is_local(host), "{host}");
        }
    }
}
