//! `rebootlockctl`: the operator's command.

mod bus;
mod cli;
mod commands;
mod failure;
mod output;
mod session;
mod signals;
mod view;

use std::process::ExitCode;

use clap::Parser as _;
use rebootlock::cli::exit;

use crate::cli::Cli;
use crate::output::say;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(asked) => {
            // Help and version are answers, everything else is a wrong command line. A reader
            // that has gone cannot be told so.
            let _ = asked.print();
            let is_answer = !asked.use_stderr() && !cli::is_of_disruption(std::env::args_os());
            return if is_answer { ExitCode::SUCCESS } else { exit::USAGE.into() };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("error: cannot start: {error}"));
            return cli.command.cannot_start().into();
        }
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}
