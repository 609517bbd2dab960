//! Both questions: "may I restart?", which is asked twice, and "should I?".

use std::net::IpAddr;
use std::sync::Arc;

use rebootlock::config::{ClusterSettings, GoaheadSettings};
use rebootlock::id::Token;
use rebootlock::lock::{Acquired, LockError, Queued, Turn};
use rebootlock::process::How;
use rebootlock::record::{GoaheadGrant, HolderRecord, UnixTime, Via};
use tokio::time::Instant;

use super::body::Params;
use super::command::{Room, Subject, line_of};
use super::course;
use super::duration::GoDuration;
use super::reply::Restart;
use super::store::{self, Held};
use crate::app::{App, Live, chain};
use crate::combine::Glance;
use crate::reply::Kind;
use crate::slots::{self, Ask, Refusal, in_time};

/// A slot may be freed and taken between two looks, but not for ever.
const TRIES: u32 = 5;

/// One question about one machine of one cluster.
pub(super) struct Question<'a> {
    pub(super) app: &'a Arc<App>,
    pub(super) live: &'a Arc<Live>,
    pub(super) settings: &'a GoaheadSettings,
    pub(super) cluster: &'a ClusterSettings,
    pub(super) said: &'a Params,
    pub(super) address: IpAddr,
}

impl Question<'_> {
    /// "Should I restart?" Takes no slot, but tells whether one can be freed.
    pub(super) async fn inquire(&self, answer: Restart) -> Restart {
        if let Err(refusal) =
            in_time(self.live, store::heard(self.live, self.settings, self.said)).await
        {
            return answer.no(refusal.kind, format!("Could not load state: {refusal}"));
        }
        let reason = match in_time(self.live, store::wish(self.live, &self.said.machine)).await {
            Err(refusal) => {
                return answer.no(refusal.kind, format!("Could not load state: {refusal}"));
            }
            Ok(Some(wish)) => {
                let why = wish.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                Some(format!("YesInquireToRestart: requested by {}{why}", wish.by))
            }
            Ok(None) => self.reason().await,
        };
        let Some(reason) = reason else { return answer.no(Kind::Success, "No reason to restart") };
        if self.is_too_young() {
            let (minimum, uptime) = (self.minimum(), &self.said.uptime);
            return answer.no(
                Kind::TooYoung,
                format!(
                    "MW found a reason to restart, but configured minimum uptime for cluster: \
                     {minimum} was not reached by client's uptime: {uptime}"
                ),
            );
        }
        answer.no(Kind::Success, reason)
    }

    /// The first check that says so. One that cannot be run or does not end says nothing.
    async fn reason(&self) -> Option<String> {
        if self.cluster.checks.is_empty() {
            return None;
        }
        let until = Instant::now() + self.settings.check_timeout;
        let Ok(turn) = tokio::time::timeout_at(until, Room::Questions.turn()).await else {
            tracing::warn!(
                id = %self.said.machine, cluster = self.cluster.name,
                "so many checks run that this one had no turn; that is no reason to restart"
            );
            return None;
        };
        let subject = self.subject();
        for check in &self.cluster.checks {
            let left = until.saturating_duration_since(Instant::now());
            let finished = subject.run(&turn, check, left, "goahead check").await;
            match finished.how {
                How::Exited(code) if code == self.cluster.check_exit_code => {
                    let text = subject.text(check);
                    return Some(format!(
                        "YesInquireToRestart: goahead check result of {text} is {code}"
                    ));
                }
                How::Exited(_) => {}
                how => tracing::warn!(
                    id = %self.said.machine, cluster = self.cluster.name, check = subject.text(check),
                    %how, "a check says nothing; that is no reason to restart"
                ),
            }
        }
        None
    }

    /// "May I restart?"
    pub(super) async fn request(&self, mut answer: Restart) -> Restart {
        // First of all: if it has rebooted and still wants to, its uptime says so only now.
        if let Err(refusal) =
            in_time(self.live, store::heard(self.live, self.settings, self.said)).await
        {
            return answer.no(refusal.kind, format!("Could not load state: {refusal}"));
        }
        if self.is_too_young() {
            let (minimum, uptime) = (self.minimum(), &self.said.uptime);
            return answer.no(
                Kind::TooYoung,
                format!(
                    "Configured minimum uptime for cluster: {minimum} was not reached by client's \
                     uptime: {uptime}"
                ),
            );
        }
        let (fqdn, cluster) = (&self.said.machine, &self.cluster.name);
        let known = match &self.said.request_id {
            None => None,
            Some(sent) => match in_time(self.live, store::ask_of(self.live, fqdn)).await {
                Err(refusal) => {
                    return answer.no(refusal.kind, format!("Could not load state: {refusal}"));
                }
                Ok(known) => known.filter(|ask| ask.cluster == *cluster).map(|ask| (sent, ask)),
            },
        };
        match known {
            None => {
                let id = &answer.request_id;
                let remembered = store::remember(self.live, fqdn, cluster, id);
                if let Err(refusal) = in_time(self.live, remembered).await {
                    return answer.no(refusal.kind, format!("Could not save state: {refusal}"));
                }
                answer.ask_again();
                answer
                    .no(Kind::AskAgain, format!("No previous request file found for fqdn: {fqdn}"))
            }
            Some((sent, ask)) if *sent != ask.request_id => {
                answer.ask_again();
                let stored = ask.request_id;
                answer.no(
                    Kind::AskAgain,
                    format!(
                        "Found mismatching request_id in request: {sent} and found on middle-ware: \
                         {stored}"
                    ),
                )
            }
            Some((sent, _)) => {
                answer.ask_again();
                match self.grant(sent).await {
                    Ok(message) => answer.yes(message.unwrap_or_default()),
                    Err(refusal) => answer.no(refusal.kind, refusal.text),
                }
            }
        }
    }

    /// Takes the slot, and has the actions run.
    async fn grant(&self, request_id: &str) -> Result<Option<&'static str>, Refusal> {
        let (live, said, cluster) = (self.live, self.said, self.cluster);
        let ask = Ask {
            group: cluster.group.clone(),
            machine: said.machine.clone(),
            via: Via::Goahead,
            address: self.address,
        };
        for _ in 0..TRIES {
            let mut grant =
                GoaheadGrant::new(&cluster.name, request_id, &said.uptime, UnixTime::now());
            grant.actions_due = !cluster.actions.is_empty();
            let mut claim = slots::claim(&ask);
            claim.hostname = Some(said.machine.to_string());
            claim.reason = said.reason.clone().or(claim.reason);
            claim.members = Some(Box::new(grant.to_member()));
            self.nobody_is_overdue().await?;
            let turn = slots::ask_once(live, &ask, &claim, self.settings.reserve).await;
            let (acquired, token) = match turn.map_err(denied)? {
                (Turn::Queued(queued), glance) => {
                    return Err(Refusal::new(Kind::Full, self.full(&queued, &glance)));
                }
                (Turn::Granted(acquired), _) => (acquired, claim.token),
            };
            // Logs it, and refuses a slot that somebody else took for this name.
            slots::granted(&claim, acquired.clone()).map_err(denied)?;
            let Acquired::Already(record) = acquired else {
                self.act(token).await;
                return Ok(None);
            };
            let held = record.and_then(|r| Held::of(&cluster.group, said.machine.clone(), *r));
            let Some(held) = held else {
                let text = format!("{} has a slot that did not come about here", said.machine);
                return Err(denied(Refusal::new(Kind::TakenOtherwise, text)));
            };
            // Under a new token: whoever is about to free its slot, because it was back, must not.
            let now = UnixTime::now();
            let again = |record: &mut HolderRecord| {
                course::granted_again(record, &grant, said.up, now);
            };
            let token = Token::random();
            let written =
                live.locks.rewrite_as(&held.group, &held.machine, held.token, token, again);
            match in_time_or_gone(live, written).await {
                Ok(true) => live.heard.asked(token),
                Ok(false) => continue,
                Err(refusal) => return Err(denied(refusal)),
            }
            self.act(token).await;
            return Ok(Some("You should already be restarting!"));
        }
        let text = "the slot changes hands all the time; ask again";
        Err(denied(Refusal::new(Kind::StoreBusy, text)))
    }

    /// Has the actions of a grant run, and waits for them if that is wanted.
    async fn act(&self, token: Token) {
        if self.cluster.actions.is_empty() {
            return;
        }
        let (live, cluster) = (self.live.clone(), self.cluster.clone());
        let (subject, machine) = (self.subject(), self.said.machine.clone());
        let timeout = self.settings.action_timeout;
        let running = self.app.background.spawn(async move {
            run_actions(&live, &cluster, &subject, &machine, token, timeout).await;
        });
        if !self.settings.wait_for_actions.is_zero() {
            // They go on all the same.
            let _ = tokio::time::timeout(self.settings.wait_for_actions, running).await;
        }
    }

    /// Nobody else of the cluster goes down while one is that should be back by now.
    async fn nobody_is_overdue(&self) -> Result<(), Refusal> {
        if self.cluster.panic_after.is_none() {
            return Ok(());
        }
        let holders = in_time(self.live, store::holders(self.live, &self.cluster.group)).await;
        let (holders, now) = (holders.map_err(denied)?, UnixTime::now());
        if holders.iter().any(|held| held.machine == self.said.machine) {
            return Ok(());
        }
        let overdue: Vec<_> = holders
            .iter()
            .filter(|held| held.grant.cluster == self.cluster.name)
            .filter(|held| course::is_overdue(self.cluster, &held.grant, now))
            .map(|held| held.machine.as_str())
            .collect();
        if overdue.is_empty() {
            return Ok(());
        }
        let (cluster, hosts) = (&self.cluster.name, overdue.join(","));
        Err(Refusal::new(
            Kind::Overdue,
            format!(
                "Reboot completion panic threshold met for cluster {cluster} because previous host \
                 {hosts} still offline!"
            ),
        ))
    }

    /// Why there is no slot, as goahead says it where it can be said so.
    fn full(&self, queued: &Queued, glance: &Glance) -> String {
        let cluster = &self.cluster.name;
        if queued.free > 0 {
            return format!("{DENIED}{}", slots::in_line(queued, glance));
        }
        let (max, hosts, ongoing) = match glance.as_deref() {
            Some((semaphore, _)) => {
                let hosts: Vec<_> = semaphore.holders().iter().map(ToString::to_string).collect();
                (semaphore.max(), hosts.join(","), semaphore.holders().len())
            }
            None => (queued.max, String::new(), queued.max as usize),
        };
        format!(
            "Denied restart request as the current_ongoing_restarts of cluster {cluster} is larger \
             than the allowed_parallel_restarts: {ongoing} >= {max} Currently restarting hosts: {hosts}"
        )
    }

    fn is_too_young(&self) -> bool {
        self.said.up < self.minimum()
    }

    fn minimum(&self) -> GoDuration {
        self.cluster.minimum_uptime.into()
    }

    fn subject(&self) -> Subject {
        Subject {
            fqdn: self.said.machine.to_string(),
            cluster: self.cluster.name.clone(),
            uptime: self.said.uptime.clone(),
            folder: self.settings.working_dir.clone(),
        }
    }
}

/// Runs the actions of a grant and writes down that they have ended. Waits for its turn for as long as
/// that takes: nobody else would look for what was not begun but after a long time.
pub(super) async fn run_actions(
    live: &Live,
    cluster: &ClusterSettings,
    subject: &Subject,
    machine: &rebootlock::id::MachineId,
    token: Token,
    timeout: std::time::Duration,
) {
    let line = line_of(machine);
    let _first = line.lock().await;
    let turn = Room::Actions.turn().await;
    match live.locks.rewrite(&cluster.group, machine, token, |_| {}).await {
        Ok(record) => {
            let grant = GoaheadGrant::of(&record).and_then(Result::ok);
            if grant.is_some_and(|grant| !grant.actions_due) {
                return;
            }
        }
        // It has asked again meanwhile, or has no slot any more.
        Err(LockError::NotOurs { .. }) => return,
        Err(error) => tracing::debug!(
            id = %machine, error = chain(&error), "whether its actions are still due is not known"
        ),
    }
    subject.run_all(&turn, &cluster.actions, timeout, "goahead action").await;
    drop(turn);
    let ended = |record: &mut HolderRecord| {
        if let Some(Ok(mut grant)) = GoaheadGrant::of(record) {
            grant.actions_due = false;
            grant.write_into(record);
        }
    };
    match live.locks.rewrite(&cluster.group, machine, token, ended).await {
        Ok(_) | Err(LockError::NotOurs { .. }) => {}
        Err(error) => tracing::warn!(
            id = %machine, error = chain(&error),
            "that its actions have ended could not be written; they will run again"
        ),
    }
}

/// Where goahead has no words of its own.
const DENIED: &str = "Denied restart request: ";

fn denied(refusal: Refusal) -> Refusal {
    Refusal::new(refusal.kind, format!("{DENIED}{}", refusal.text))
}

/// `false`: the slot is not the one it was.
async fn in_time_or_gone(
    live: &Live,
    written: impl Future<Output = Result<HolderRecord, LockError>>,
) -> Result<bool, Refusal> {
    in_time(live, async {
        match written.await {
            Ok(_) => Ok(true),
            Err(LockError::NotOurs { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    })
    .await
}
