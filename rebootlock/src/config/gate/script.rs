//! `type = "script"`

use std::ops::Range;

use super::super::table::Fault;
use super::GateTable;

/// Open if this command exits with 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptGate {
    /// Program, an absolute path, and arguments.
    pub command: Vec<String>,
}

pub(super) fn check(table: GateTable, whole: Range<usize>) -> Result<ScriptGate, Fault> {
    let missing = "`command` is missing: the program and its arguments, as in [\"/usr/bin/true\"]";
    let command = table.command.ok_or_else(|| Fault::new(whole, missing))?;
    let Some(program) = command.get_ref().first() else {
        return Err(Fault::at(&command, "`command` needs a program"));
    };
    if !program.get_ref().starts_with('/') {
        let problem = format!(
            "`command` must begin with the absolute path of a program, not {:?}",
            program.get_ref()
        );
        return Err(Fault::at(program, problem));
    }
    if let Some(word) = command.get_ref().iter().find(|word| word.get_ref().contains('\0')) {
        return Err(Fault::at(word, "a word of `command` cannot contain a NUL character"));
    }
    let command = command.into_inner().into_iter().map(toml::Spanned::into_inner).collect();
    Ok(ScriptGate { command })
}
