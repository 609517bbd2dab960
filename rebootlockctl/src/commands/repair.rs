//! `repair`: shows how damaged documents would be mended, and mends them if told to.

use std::process::ExitCode;

use rebootlock::cli::exit;
use rebootlock::lock::Repair;

use super::groups_of;
use crate::cli::Scope;
use crate::output::{clean, print, say};
use crate::session::Session;

fn text(repair: &Repair) -> String {
    let shown = |bytes: &[u8]| clean(&String::from_utf8_lossy(bytes));
    let after = match &repair.after {
        Some(after) => shown(after),
        None => "would be removed".to_owned(),
    };
    format!(
        "{}\n  problem: {}\n  before:  {}\n  after:   {after}\n",
        clean(repair.key.as_str()),
        clean(&repair.problem),
        shown(&repair.before),
    )
}

pub(super) async fn run(session: Session, scope: Scope, yes: bool) -> anyhow::Result<ExitCode> {
    let mut repairs = Vec::new();
    for group in groups_of(&session, &scope).await? {
        repairs.extend(session.locks.repairs(&group).await?);
    }
    if repairs.is_empty() {
        print("nothing to repair\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut code = ExitCode::SUCCESS;
    for repair in &repairs {
        print(&text(repair))?;
        if yes && !session.locks.mend(repair).await? {
            say(format_args!("{} has just changed and was left alone; repair again", repair.key));
            code = exit::FAILED.into();
        }
    }
    if !yes {
        say(format_args!("nothing was written; compare, then run this again with --yes"));
        code = exit::FAILED.into();
    }
    Ok(code)
}
