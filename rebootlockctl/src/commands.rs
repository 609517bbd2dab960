//! The subcommands, one a file.

pub(crate) mod disruption;
mod doctor;
mod exec;
mod explain;
mod forget;
mod groups;
mod history;
mod hold;
mod lock;
mod look;
mod machines;
mod pause;
mod queue;
mod reboot;
mod repair;
mod request;
mod send_need_reboot;
mod set_max;
mod status;
mod unlock;
mod waiting;
mod windows;

use std::process::ExitCode;

use clap::CommandFactory as _;
use rebootlock::cli::beside;
use rebootlock::id::Group;

use crate::cli::{Cli, Command, Scope};
use crate::output::print;
use crate::session::Session;

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let open = async || Session::open(&cli.common).await;
    match cli.command {
        Command::Status(args) => status::run(open().await?, args).await,
        Command::Lock(args) => lock::run(open().await?, args).await,
        Command::Unlock(args) => unlock::run(open().await?, args).await,
        Command::Exec(args) => exec::run(open().await?, args).await,
        Command::SetMax { max } => set_max::run(open().await?, max).await,
        Command::Reboot(args) => reboot::run(open().await?, args).await,
        Command::SendNeedReboot => send_need_reboot::run(&cli.common).await,
        Command::Queue { scope, output } => queue::run(open().await?, scope, output).await,
        Command::Groups { output } => groups::run(open().await?, output).await,
        Command::Machines { output } => machines::run(open().await?, output).await,
        Command::Explain { machine, output } => explain::run(open().await?, machine, output).await,
        Command::Windows(args) => windows::run(&cli.common, args).await,
        Command::Pause { reason, fleet, time } => {
            pause::pause(open().await?, reason, fleet, time).await
        }
        Command::Resume { fleet } => pause::resume(open().await?, fleet).await,
        Command::Request { machine, reason, priority } => {
            request::request(open().await?, machine, reason, priority).await
        }
        Command::Cancel { machine } => request::cancel(open().await?, machine).await,
        Command::Hold { target, time, reason } => {
            hold::hold(open().await?, target, time, reason).await
        }
        Command::Unhold { target } => hold::unhold(open().await?, target).await,
        Command::History(args) => history::run(open().await?, args).await,
        Command::Forget { machine, force } => forget::run(open().await?, machine, force).await,
        Command::Repair { scope, yes } => repair::run(open().await?, scope, yes).await,
        Command::Doctor { output } => doctor::run(&cli.common, output).await,
        Command::Disruption(args) => Ok(disruption::run(&cli.common, args).await),
        Command::Completions(args) => {
            print(&beside::completions(Cli::command(), &args))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Manual(args) => {
            beside::write_manual(Cli::command(), &args)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Takes old history away. Whoever looks next can do it as well, so a failure is no news.
async fn trim_history(session: &Session, groups: &[Group]) {
    if let Err(error) = session.locks.trim_history(groups).await {
        tracing::debug!(%error, "old history stays for now");
    }
}

/// The groups that a command about `scope` looks at.
async fn groups_of(session: &Session, scope: &Scope) -> anyhow::Result<Vec<Group>> {
    match scope.all_groups {
        true => Ok(session.locks.groups().await?),
        false => Ok(session.groups().to_vec()),
    }
}
