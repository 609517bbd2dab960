//! The two programs called rebootmgr, told apart by what is in the file.

mod flags;
mod holidays;
mod node;
mod suse;

use jiff::civil::Date;

use super::Fault;
use super::draft::Draft;

pub(super) fn convert(text: &str, today: Date) -> Result<Draft, Fault> {
    let lines = || text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    if text.trim_start().starts_with('{') {
        return node::convert(text);
    }
    if lines().any(|line| line == "[rebootmgr]") {
        return suse::convert(text);
    }
    if lines().any(flags::is_command) {
        return flags::convert(text, today);
    }
    Err(Fault::new(
        1,
        1,
        "neither SUSE's rebootmgr.conf, which has a section [rebootmgr], nor of SysEleven's the JSON \
         of a node ({\"enabled\": …}) or a unit or line that starts it (ExecStart=rebootmgr …)",
    ))
}
