//! A client of FleetLock v1 servers: our gateway, airlock, any.
//!
//! `pre-reboot` takes a slot or keeps the one that is held, `steady-state` gives it back; both may be
//! repeated. Exactly 200 is a yes. Every other answer is a no, redirects among them, and so is none.
//!
//! A server says nothing but yes and no: who asks has to remember what it asked for. A request that
//! was not answered may still be obeyed later, so the client also remembers when there was one.

mod id;
mod refusal;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName};
use hyper::{Method, Request, Response, Uri};
use tokio::time::{Instant, timeout};

pub use self::id::{client_id, is_group};
pub use self::refusal::Refusal;
use crate::config::StoreSettings;
use crate::http::{self, Access, HttpError};
use crate::id::{Group, MachineId};
use crate::store::Endpoint;

/// Guards against requests that were not meant for a lock.
const PROTOCOL: HeaderName = HeaderName::from_static("fleet-lock-protocol");

/// RFC 7240. Servers that do not know it answer at once.
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Of an answer so much is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// A request that was not answered is taken to be over after this long: obeyed by then, or never. No server
/// promises that. Where it is not so a slot may stay taken, but no machine reboots without one.
pub const OVER_AFTER: Duration = Duration::from_secs(30);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Take a slot, or keep the one that is held.
    PreReboot,
    /// Give it back, if one is held.
    SteadyState,
}

impl Call {
    fn path(self) -> &'static str {
        match self {
            Self::PreReboot => "/v1/pre-reboot",
            Self::SteadyState => "/v1/steady-state",
        }
    }
}

/// Why the answer is not yes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetLockError {
    /// A server said something else.
    #[error("{0}")]
    Refused(Refusal),
    /// A person has to look: a file or an address is wrong. Nothing was asked.
    #[error("{0}")]
    Setup(String),
    /// No server can be reached. Nothing was asked.
    #[error("{0}")]
    Unreached(String),
    /// Asked, and not answered: it may have been done, or be done later.
    #[error("{0}")]
    Unanswered(String),
}

impl FleetLockError {
    /// Whether no server is there that could say yes.
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_nobodys(),
            Self::Setup(_) => false,
            Self::Unreached(_) | Self::Unanswered(_) => true,
        }
    }

    /// Whether another address of the service may be better off.
    fn is_of_address(&self) -> bool {
        match self {
            Self::Refused(refusal) => matches!(refusal.status, 502..=504),
            error => error.is_out_of_reach(),
        }
    }

    /// Whether the request may be obeyed all the same.
    fn is_open(&self, call: Call) -> bool {
        match self {
            // It asks again anyway. What is given back late could be a slot that is in use by then.
            Self::Refused(refusal) if refusal.is_one_for_all() => call == Call::SteadyState,
            Self::Refused(refusal) => refusal.status >= 500,
            Self::Setup(_) | Self::Unreached(_) => false,
            Self::Unanswered(_) => true,
        }
    }
}

/// One service, by all its addresses.
#[derive(Debug)]
pub struct FleetLock {
    servers: Vec<Uri>,
    access: Access,
    timeout: Duration,
    /// The one that answered last.
    current: AtomicUsize,
    /// When a request of each kind was last given up without an answer.
    unanswered: Mutex<[Option<Instant>; 2]>,
}

impl FleetLock {
    /// The service that `settings` name, if that is where they lead.
    pub fn new(settings: &StoreSettings) -> Option<Self> {
        let server = |endpoint: &Endpoint| match endpoint {
            Endpoint::FleetLock(url) => url.parse().ok(),
            _ => None,
        };
        let servers: Vec<_> = settings.endpoints.iter().map(server).collect::<Option<_>>()?;
        (!servers.is_empty()).then(|| Self {
            servers,
            access: settings.access.clone(),
            timeout: settings.timeout,
            current: AtomicUsize::new(0),
            unanswered: Mutex::default(),
        })
    }

    /// Where it is, in words.
    pub fn location(&self) -> String {
        self.servers.iter().map(show).collect::<Vec<_>>().join(",")
    }

    /// Its addresses.
    pub fn servers(&self) -> &[Uri] {
        &self.servers
    }

    /// Longest time an answer may take that is not waited for on purpose.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks for a slot for `id`, or whether it still has one. A server that knows how to holds the
    /// request until there is one, for as long as `wait`. Says what the server said.
    ///
    /// # Errors
    /// Anything but a yes. Dropped half-way, it may be obeyed all the same.
    pub async fn pre_reboot(
        &self,
        id: &MachineId,
        group: &Group,
        wait: Option<Duration>,
    ) -> Result<String, FleetLockError> {
        self.ask(Call::PreReboot, id, group, wait).await
    }

    /// Gives back the slot of `id`, if it has one.
    ///
    /// # Errors
    /// As for [`FleetLock::pre_reboot`].
    pub async fn steady_state(
        &self,
        id: &MachineId,
        group: &Group,
    ) -> Result<String, FleetLockError> {
        self.ask(Call::SteadyState, id, group, None).await
    }

    /// How long until every such request that was not answered is over.
    pub fn over_in(&self, call: Call) -> Option<Duration> {
        let unanswered = *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        let left = OVER_AFTER.checked_sub(unanswered[call as usize]?.elapsed())?;
        (!left.is_zero()).then_some(left)
    }

    /// Remembers that such a request may be under way: one of an earlier life.
    pub fn doubt(&self, call: Call) {
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        unanswered[call as usize] = Some(Instant::now());
    }

    async fn ask(
        &self,
        call: Call,
        id: &MachineId,
        group: &Group,
        wait: Option<Duration>,
    ) -> Result<String, FleetLockError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut failures: Vec<FleetLockError> = Vec::new();
        for offset in 0..self.servers.len() {
            let index = (first + offset) % self.servers.len();
            let answer = self.ask_one(&self.servers[index], call, id, group, wait).await;
            match answer {
                Err(error) if error.is_of_address() => failures.push(error),
                answer => {
                    self.current.store(index, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        Err(together(failures, call))
    }

    async fn ask_one(
        &self,
        server: &Uri,
        call: Call,
        id: &MachineId,
        group: &Group,
        wait: Option<Duration>,
    ) -> Result<String, FleetLockError> {
        let open = Open { client: self, call, settled: false };
        let request = request(server, call, id, group, wait)?;
        let limit = self.timeout + wait.unwrap_or_default();
        let asked = Instant::now();
        let sent = timeout(limit, http::send(request, &self.access, Some(MAX_ANSWER))).await;
        let answer = match sent {
            Ok(Ok(answer)) => understand(server, &answer, asked.elapsed()),
            // The rest of a no is not worth a word.
            Ok(Err(HttpError::Incomplete { status, .. })) if status != 200 => {
                Err(FleetLockError::Refused(Refusal::bare(show(server), status)))
            }
            Ok(Err(error)) => Err(failure(server, error)),
            Err(_) => Err(FleetLockError::Unanswered(format!(
                "{}: no answer within {} s",
                show(server),
                limit.as_secs()
            ))),
        };
        open.settle(&answer);
        answer
    }
}

/// A request that is not known to be answered.
struct Open<'a> {
    client: &'a FleetLock,
    call: Call,
    settled: bool,
}

impl Open<'_> {
    fn settle(mut self, answer: &Result<String, FleetLockError>) {
        self.settled = !answer.as_ref().is_err_and(|error| error.is_open(self.call));
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.client.doubt(self.call);
        }
    }
}

fn request(
    server: &Uri,
    call: Call,
    id: &MachineId,
    group: &Group,
    wait: Option<Duration>,
) -> Result<Request<Bytes>, FleetLockError> {
    let params = serde_json::json!({"client_params": {"id": id.as_str(), "group": group.as_str()}});
    let url = format!("{}{}", show(server), call.path());
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(url)
        .header(PROTOCOL, "true")
        .header(CONTENT_TYPE, "application/json");
    if let Some(wait) = wait.filter(|wait| wait.as_secs() > 0) {
        request = request.header(PREFER, format!("wait={}", wait.as_secs()));
    }
    request
        .body(Bytes::from(params.to_string()))
        .map_err(|error| FleetLockError::Setup(format!("{server}: {error}")))
}

fn understand(
    server: &Uri,
    answer: &Response<Bytes>,
    took: Duration,
) -> Result<String, FleetLockError> {
    let refusal = Refusal::read(show(server), answer, took);
    match answer.status().as_u16() {
        200 if !refusal.is_no() => Ok(refusal.value),
        _ => Err(FleetLockError::Refused(refusal)),
    }
}

fn failure(server: &Uri, error: HttpError) -> FleetLockError {
    let text = format!("{}: {error}", show(server));
    match error {
        HttpError::Setup(_) => FleetLockError::Setup(text),
        HttpError::Unreached(_) => FleetLockError::Unreached(text),
        HttpError::NoAnswer(_) | HttpError::Incomplete { .. } => FleetLockError::Unanswered(text),
    }
}

/// One error out of those of all addresses: whoever answers counts, and then the doubtful one.
fn together(mut failures: Vec<FleetLockError>, call: Call) -> FleetLockError {
    let answered = failures.iter().position(|failure| !failure.is_out_of_reach());
    if let Some(answered) = answered.or((failures.len() == 1).then_some(0)) {
        return failures.swap_remove(answered);
    }
    let text = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match failures.iter().any(|failure| failure.is_open(call)) {
        true => FleetLockError::Unanswered(text),
        false => FleetLockError::Unreached(text),
    }
}

/// Without the slash at its end that every address has that names nothing further.
fn show(server: &Uri) -> String {
    server.to_string().trim_end_matches('/').to_owned()
}
