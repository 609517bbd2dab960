//! `rebootlockd version`

use std::io::Write as _;

use clap::Args;
use serde_json::json;

use crate::simulate::Output;

/// Flags of `version`.
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// How the answer is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// Prints name, version and target. Returns the process's exit code.
pub fn run(args: &VersionArgs) -> u8 {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let target = format!("{}-{}-{libc}", std::env::consts::ARCH, std::env::consts::OS);
    let text = match args.output {
        Output::Text => format!("{name} {version} ({target})\n"),
        Output::Json => {
            format!("{:#}\n", json!({ "name": name, "version": version, "target": target }))
        }
    };
    // A reader that has gone needs no answer.
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}
