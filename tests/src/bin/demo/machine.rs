//! The life of one machine during the demo: an update, a wait, a reboot, and back.

use std::time::Duration;

use anyhow::{Result, ensure};
use rebootlock_tests::fleet::Member;
use rebootlock_tests::machine::Pty;
use rebootlock_tests::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::narrator::Narrator;

/// Longest time for one step: the last machine waits for all the others.
const STEP: Duration = Duration::from_secs(50);

/// What happened to a machine, and when.
#[derive(Debug)]
pub(crate) struct Story {
    /// Which.
    pub(crate) id: String,
    /// Its update was installed.
    pub(crate) wanted: Instant,
    /// Its agent had a slot.
    pub(crate) granted: Instant,
    /// Its agent was stopped, as at a shutdown.
    pub(crate) down: Instant,
    /// Its agent ran again, in a new boot.
    pub(crate) back: Instant,
    /// Its agent had given the slot back.
    pub(crate) released: Instant,
    /// How often logind was told to reboot.
    pub(crate) reboots: usize,
}

/// Lives through one update, which is installed at `wanted`.
pub(crate) async fn live(
    mut member: Member,
    wanted: Instant,
    down_for: Duration,
    busy: bool,
    narrator: &Narrator,
) -> Result<Story> {
    let id = member.machine.id().to_owned();
    let mut terminal = busy.then(Pty::open).transpose()?;
    if let Some(terminal) = &terminal {
        member.machine.logind.add_session("alice", terminal.name()).await?;
    }

    sleep_until(wanted).await;
    member.machine.update_engine.need_reboot().await?;
    narrator.say(&id, "update-engine has installed an update and needs a reboot");
    member.agent()?.wait_line("slot taken", STEP).await?;
    let granted = Instant::now();
    narrator.say(&id, "has the slot");
    if let Some(terminal) = &mut terminal {
        let told = terminal.read_until("log out.", STEP).await?;
        let told = told.lines().map(str::trim).find(|line| line.contains("will reboot"));
        narrator.say(&id, &format!("alice reads: {}", told.unwrap_or("nothing")));
    }

    member.machine.logind.wait_reboot(STEP).await?;
    member.agent()?.signal(Signal::TERM)?;
    let down = Instant::now();
    narrator.say(&id, "logind reboots it: going down, with its slot");
    let ended = member.agent()?.wait_exit(STEP).await?;
    ensure!(ended.success(), "the agent of {id} ended with {ended}");
    sleep(down_for).await;

    member.machine.new_boot().await?;
    member.start().await?;
    let back = Instant::now();
    narrator.say(&id, "is back, with a new boot id");
    member.agent()?.wait_line("slot given back", STEP).await?;
    let released = Instant::now();
    narrator.say(&id, "has given its slot back");
    let reboots = member.machine.logind.reboots();
    // Its agent runs on until everybody is through, as on a real machine.
    narrator.keep(member);
    Ok(Story { id, wanted, granted, down, back, released, reboots })
}
