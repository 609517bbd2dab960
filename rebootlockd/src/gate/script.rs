//! `type = "script"`: open if a command exits with 0.

use std::time::Duration;

use rebootlock::config::gate::ScriptGate;
use rebootlock::process::{self, Finished, How, Spec};
use tokio::sync::Mutex;

use super::{Variables, Verdict};

/// Scripts were promised that they never overlap, also across a reload and between a heartbeat and
/// the way to a reboot.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Runs the command. Its time begins when it runs, not while it waits for another.
pub(super) async fn ask(
    gate: &ScriptGate,
    timeout: Duration,
    variables: &Variables,
) -> (Verdict, Finished) {
    let env = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let spec = Spec { argv: gate.command.clone(), env, timeout };
    let alone = ONE_AT_A_TIME.lock().await;
    let finished = process::run(&spec).await;
    drop(alone);
    let verdict = match &finished.how {
        How::Exited(0) => Verdict::Open,
        How::Exited(code) => Verdict::closed(format!("exit {code}")),
        How::Killed(signal) => Verdict::closed(format!("killed by signal {signal}")),
        How::TimedOut => Verdict::closed(format!("timeout after {} s", timeout.as_secs())),
        How::NotStarted(why) => Verdict::closed(format!("not started: {why}")),
    };
    (verdict, finished)
}

pub(super) fn exit_code(how: &How) -> Option<i32> {
    match how {
        How::Exited(code) => Some(*code),
        How::Killed(_) | How::TimedOut | How::NotStarted(_) => None,
    }
}
