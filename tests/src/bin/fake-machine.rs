//! A fake machine in the foreground, to try rebootlock on by hand: prints what to set, reads commands,
//! tells of reboots.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use rebootlock_tests::machine::Machine;
use rebootlock_tests::machine::logind::{InhibitorId, InhibitorRule, RebootCall};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;

const HELP: &str = "\
need-reboot          update-engine has installed an update
idle                 update-engine has nothing to do
new-boot             the machine comes up again, with a new boot id
session USER TTY     somebody logs in; TTY as in pts/3
inhibit WHO WHY      somebody blocks shutdowns
uninhibit            and lets go
status               what is going on
quit                 end, as does the end of the input";

/// Runs a private system bus with stand-ins for update-engine and logind until told to quit.
#[derive(Debug, Parser)]
#[command(after_help = format!("Commands on standard input:\n{HELP}"))]
struct Options {
    /// The machine-id; random unless given
    #[arg(long)]
    id: Option<String>,
    /// Let root's reboots ignore inhibitors, as logind did before systemd 257
    #[arg(long)]
    systemd_252: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("fake-machine: {err:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<()> {
    let id = options.id.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let machine = Machine::new(&id).await?;
    if options.systemd_252 {
        machine.logind.set_inhibitor_rule(InhibitorRule::Systemd252);
    }
    println!("DBUS_SYSTEM_BUS_ADDRESS={}", machine.bus.address());
    println!("NOTIFY_SOCKET={}", machine.notify.path().display());
    println!("machine-id-file={}", machine.machine_id_file().display());
    println!("boot-id-file={}", machine.boot_id_file().display());
    println!("coordinator-file={}", machine.coordinator_file().display());
    println!("state-dir={}", machine.state_dir().display());
    eprintln!("{HELP}");

    let reboots = tokio::spawn(tell_reboots(machine.logind.watch_reboots()));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut inhibitors = Vec::new();
    while let Some(line) = lines.next_line().await.context("cannot read commands")? {
        match obey(&machine, &mut inhibitors, &line).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(err) => eprintln!("fake-machine: {err:#}"),
        }
    }
    reboots.abort();
    Ok(())
}

/// Carries out one command; false means to quit.
async fn obey(machine: &Machine, inhibitors: &mut Vec<InhibitorId>, line: &str) -> Result<bool> {
    let (command, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let pair = || rest.trim().split_once(' ').map(|(first, second)| (first, second.trim()));
    match command {
        "" => {}
        "need-reboot" => machine.update_engine.need_reboot().await?,
        "idle" => machine.update_engine.idle().await?,
        "new-boot" => println!("boot-id={}", machine.new_boot().await?),
        "session" => {
            let (user, tty) = pair().context("session needs USER TTY")?;
            println!("session={}", machine.logind.add_session(user, tty).await?);
        }
        "inhibit" => {
            let (who, why) = pair().context("inhibit needs WHO WHY")?;
            inhibitors.push(machine.logind.add_inhibitor("shutdown", who, why, "block").await?);
        }
        "uninhibit" => {
            for id in inhibitors.drain(..) {
                machine.logind.remove_inhibitor(id).await?;
            }
        }
        "status" => print_status(machine)?,
        "quit" => return Ok(false),
        other => bail!("no command {other:?}; there are:\n{HELP}"),
    }
    Ok(true)
}

fn print_status(machine: &Machine) -> Result<()> {
    println!("machine-id={}", machine.id());
    println!("boot-id={}", machine.boot_id()?);
    println!("operation={}", machine.update_engine.status().2);
    println!("preparing-for-shutdown={}", machine.logind.preparing_for_shutdown());
    println!("reboots={} of {} asked for", machine.logind.reboots(), machine.logind.attempts());
    for session in machine.logind.sessions() {
        println!("session {}: {} on {}", session.id, session.user, session.tty);
    }
    for inhibitor in machine.logind.inhibitors() {
        println!("inhibitor: {} ({}) by {}", inhibitor.why, inhibitor.mode, inhibitor.who);
    }
    for message in machine.notify.messages() {
        println!("notified: {}", message.replace('\n', " "));
    }
    Ok(())
}

async fn tell_reboots(mut reboots: watch::Receiver<Vec<RebootCall>>) {
    let mut told = 0;
    while reboots.changed().await.is_ok() {
        let calls = reboots.borrow_and_update().clone();
        for call in calls.iter().skip(told) {
            let wall = call.wall_message.as_deref().unwrap_or("no wall message");
            println!("reboot: {} by {}: {wall}", call.method, call.sender);
        }
        told = calls.len();
    }
}
