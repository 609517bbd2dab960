//! `forget`: takes away what is known of a machine that will not come back.

use std::process::ExitCode;

use anyhow::bail;
use rebootlock::id::MachineId;
use rebootlock::lock::Forgetting;
use rebootlock::view::words::in_groups;

use crate::output::say;
use crate::session::Session;

pub(super) async fn run(
    session: Session,
    machine: MachineId,
    force: bool,
) -> anyhow::Result<ExitCode> {
    match session.locks.forget(&machine, force).await? {
        Forgetting::Done(gone) => say(format_args!("forgot of {machine}: {}", gone)),
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
