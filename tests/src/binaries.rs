//! The workspace's own programs, as cargo built them beside the running test.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Where the workspace binary `name` is: beside the running program, or one folder up, since cargo puts
/// tests into `deps`.
pub fn path(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where the running program is")?;
    for folder in own.ancestors().skip(1).take(2) {
        let candidate = folder.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("no program {name} beside {}; run: cargo build --workspace --bins", own.display())
}
