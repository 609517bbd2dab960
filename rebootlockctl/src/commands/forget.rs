//! `forget`: takes away what is known of a machine that will not come back.

use std::process::ExitCode;

use anyhow::bail;
use rebootlock::id::MachineId;
use rebootlock::lock::{Forgetting, Forgotten};

use crate::output::say;
use crate::session::{Session, in_groups};

pub(super) async fn run(
    session: Session,
    machine: MachineId,
    force: bool,
) -> anyhow::Result<ExitCode> {
    match session.locks.forget(&machine, force).await? {
        Forgetting::Done(gone) => say(format_args!("forgot of {machine}: {}", words(&gone))),
        Forgetting::Unknown => say(format_args!("nothing is known of {machine}")),
        Forgetting::Present => bail!(
            "the agent of {machine} is there; stop it first, or forget it all the same with --force"
        ),
        Forgetting::Holds(groups) => bail!(
            "{machine} holds a slot in {}; if it will not come back: rebootlockctl unlock {machine}",
            in_groups(&groups)
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn words(gone: &Forgotten) -> String {
    let mut words = Vec::new();
    words.extend(gone.roster.then(|| "its place in the roster".to_owned()));
    words.extend(gone.request.then(|| "the request to reboot".to_owned()));
    words.extend(gone.hold.then(|| "its hold".to_owned()));
    if !gone.places.is_empty() {
        words.push(format!("its place in the queue of {}", in_groups(&gone.places)));
    }
    words.extend(gone.presence.then(|| "what its agent said".to_owned()));
    words.join(", ")
}
