//! `send-need-reboot`: says on this machine's bus what update-engine would say.

use std::process::ExitCode;

use rebootlock::cli::CommonArgs;
use rebootlock::record::UnixTime;

use crate::bus::SystemBus;
use crate::session;

pub(super) async fn run(common: &CommonArgs) -> anyhow::Result<ExitCode> {
    // A wrong configuration is an error even where nothing of it is needed.
    session::settings(common)?;
    SystemBus::connect().await?.emit_need_reboot(UnixTime::now().0).await?;
    Ok(ExitCode::SUCCESS)
}
