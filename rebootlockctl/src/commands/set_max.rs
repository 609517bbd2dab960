//! `set-max`: how many may be down at once.

use std::process::ExitCode;

use crate::output::print;
use crate::session::Session;

pub(super) async fn run(session: Session, max: u32) -> anyhow::Result<ExitCode> {
    let old = session.locks.set_max(session.one_group()?, max).await?;
    print(&format!("Old: {old}\nNew: {max}\n"))?;
    Ok(ExitCode::SUCCESS)
}
