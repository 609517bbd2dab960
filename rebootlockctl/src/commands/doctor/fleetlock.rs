//! FleetLock servers: whether they are what they should be, and take what we would send. Nothing is
//! taken or given back: what is asked is for nobody.

use rebootlock::config::{Settings, StoreSettings};
use rebootlock::fleetlock::{FleetLock, FleetLockError};
use rebootlock::http::{self, Uri};
use rebootlock::id::{MachineId, Token};

use super::{Finding, endpoints};

pub(super) async fn check(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for endpoint in &settings.store.endpoints {
        let store = StoreSettings { endpoints: vec![endpoint.clone()], ..settings.store.clone() };
        let Some(server) = FleetLock::new(&store) else { continue };
        let about = endpoint.to_string();
        findings.push(served(&about, &server, &store).await);
        if findings.last().is_some_and(|finding| finding.mend.is_none()) {
            findings.push(asked(&about, &server, settings).await);
            findings.extend(clock(&about, &server, &store).await);
        }
    }
    findings
}

fn url(server: &FleetLock) -> Option<Uri> {
    let base = server.location();
    format!("{base}/v1/pre-reboot").parse().ok()
}

/// Clients that are less careful than ours take any 2xx for a grant and follow redirects.
async fn served(about: &str, server: &FleetLock, store: &StoreSettings) -> Finding {
    let Some(url) = url(server) else {
        return Finding::fail(about, "is no web address", "write it as fleetlock+https://HOST/");
    };
    // Not a request of the protocol, as its header is missing.
    let answer = tokio::time::timeout(store.timeout, http::get(&url, &store.access, None)).await;
    let status = match answer {
        Ok(Ok(answer)) => answer.status().as_u16(),
        Ok(Err(error)) => {
            let mend = "start the server, open the way to it, or mend the file or address it names";
            return Finding::fail(about, error.to_string(), mend);
        }
        Err(_) => {
            let found = format!("no answer within {} s", store.timeout.as_secs());
            return Finding::fail(about, found, "look at the log of that server");
        }
    };
    match status {
        200..300 => Finding::fail(
            about,
            format!("answers {status} to a mere look at {url}"),
            "that is no FleetLock server, or a page before it: let machines reach the server itself",
        ),
        300..400 => Finding::fail(
            about,
            format!("answers {status} at {url}: it sends machines elsewhere"),
            "name the address where it sends them; redirects are not followed",
        ),
        404 => Finding::fail(
            about,
            format!("there is nothing at {url}"),
            "name the path under which it serves: what is before /v1/pre-reboot",
        ),
        _ => Finding::ok(about, format!("answers {status}, as nothing was asked for")),
    }
}

/// Gives back the slot of a machine that there is not.
async fn asked(about: &str, server: &FleetLock, settings: &Settings) -> Finding {
    let group = settings.machine.groups.first().cloned().unwrap_or_default();
    let Ok(nobody) = MachineId::new(format!("doctor-{}", Token::random())) else {
        return Finding::ok(about, "not asked anything");
    };
    let error = match server.steady_state(&nobody, &group).await {
        Ok(_) => return Finding::ok(about, format!("serves us in group {group}")),
        Err(error) => error,
    };
    let mend = match &error {
        FleetLockError::Refused(refusal) => match refusal.status {
            200 => "let machines reach the server itself, without what stands between",
            401 => "compare username and password_file, or token_file, with what it expects",
            403 => {
                return Finding::warn(
                    about,
                    error.to_string(),
                    "fine if our credentials are for this machine alone; else let them be for the group",
                );
            }
            423 => {
                return Finding::warn(
                    about,
                    error.to_string(),
                    "it lets nobody report back while another has the slot: machines wait for that",
                );
            }
            400 | 404 => "name a group that it knows, see [machine] groups",
            _ => "look at the log of that server",
        },
        FleetLockError::Setup(_) => "mend the file that it names",
        FleetLockError::Unreached(_) | FleetLockError::Unanswered(_) => {
            "look at the log of that server"
        }
    };
    Finding::fail(about, error.to_string(), mend)
}

async fn clock(about: &str, server: &FleetLock, store: &StoreSettings) -> Option<Finding> {
    let ahead = http::seconds_ahead(&url(server)?, &store.access).await;
    Some(endpoints::clock(about, ahead))
}
