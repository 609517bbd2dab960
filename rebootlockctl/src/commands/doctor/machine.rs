//! Whether this machine knows itself.

use rebootlock::config::MachineSettings;
use rebootlock::host;

use super::Finding;

pub(super) fn check(settings: &MachineSettings) -> [Finding; 2] {
    [machine_id(settings), boot_id(settings)]
}

fn machine_id(settings: &MachineSettings) -> Finding {
    let about = "machine id";
    match host::machine_id(&settings.id_file) {
        Err(error) => Finding::fail(
            about,
            crate::failure::chain(&error.into()),
            "run systemd-machine-id-setup, or name another file: --machine-id-file",
        ),
        Ok(id) if id.as_str().bytes().all(|byte| byte == b'0') => Finding::fail(
            about,
            format!("{} holds nothing but zeros", settings.id_file.display()),
            "machines with one id share one slot: empty the file and run systemd-machine-id-setup",
        ),
        Ok(id) if !is_systemds(id.as_str()) => Finding::warn(
            about,
            format!("{id}, not the 32 hexadecimal digits that systemd writes"),
            "fine if no other machine has it",
        ),
        Ok(id) => Finding::ok(about, id.as_str()),
    }
}

fn is_systemds(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn boot_id(settings: &MachineSettings) -> Finding {
    match host::boot_id(&settings.boot_id_file) {
        Ok(id) => Finding::ok("boot id", id.as_str()),
        Err(error) => Finding::fail(
            "boot id",
            crate::failure::chain(&error.into()),
            "without it a reboot cannot be told from a restart: is /proc mounted?",
        ),
    }
}
