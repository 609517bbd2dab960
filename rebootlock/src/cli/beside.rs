//! What lies beside a program: completions for shells, and manual pages. Both come out of the flags the
//! program has, so they cannot say anything else.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

/// Flags of `completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: Shell,
}

/// Flags of `manual`.
#[derive(Debug, Clone, Args)]
pub struct ManualArgs {
    /// The folder for the pages, one for the program and one for each of its commands
    pub dir: PathBuf,
}

/// The script for a shell that completes the flags of `program`.
pub fn completions(mut program: Command, args: &CompletionsArgs) -> String {
    let name = program.get_name().to_owned();
    // Into memory: the generator panics where nobody reads.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Prints that script.
///
/// # Errors
/// That standard output takes nothing.
pub fn print_completions(program: Command, args: &CompletionsArgs) -> io::Result<()> {
    io::stdout().write_all(completions(program, args).as_bytes())
}

/// Writes the manual pages of `program` into a folder, which is made if it is missing.
///
/// # Errors
/// Which file could not be written.
pub fn write_manual(program: Command, args: &ManualArgs) -> io::Result<()> {
    let about = |error: io::Error| {
        let dir = args.dir.display();
        io::Error::new(error.kind(), format!("cannot write manual pages to {dir}: {error}"))
    };
    std::fs::create_dir_all(&args.dir).map_err(about)?;
    // The same for everybody who builds it, and in no width of a terminal.
    clap_mangen::generate_to(program.disable_help_subcommand(true), &args.dir).map_err(about)
}
