//! Under which names a machine asks.

use ring::hmac;

use crate::id::{Group, MachineId};

/// The application whose clients FleetLock servers know: Zincati.
const APPLICATION: u128 = 0xde35_106b_6ec2_4688_b63a_fdda_a156_679b;

/// What `machine` calls itself before a FleetLock server. A machine-id is not for everybody's eyes, so
/// systemd derives one for each application from it (`systemd-id128 machine-id --app-specific`); this
/// is the one Zincati sends, by which servers know a machine. An id that is not systemd's goes
/// as it is.
pub fn client_id(machine: &MachineId) -> MachineId {
    derive(machine.as_str())
        .and_then(|id| MachineId::new(id).ok())
        .unwrap_or_else(|| machine.clone())
}

fn derive(machine: &str) -> Option<String> {
    let digits = machine.len() == 32 && machine.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(machine, 16).ok().filter(|_| digits)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &id.to_be_bytes());
    let tag = hmac::sign(&key, &APPLICATION.to_be_bytes());
    let mut derived: [u8; 16] = tag.as_ref().get(..16)?.try_into().ok()?;
    // It is a random UUID to whoever looks at it.
    derived[6] = (derived[6] & 0x0f) | 0x40;
    derived[8] = (derived[8] & 0x3f) | 0x80;
    Some(format!("{:032x}", u128::from_be_bytes(derived)))
}

/// Whether FleetLock has such a group: letters, digits, dots and hyphens.
pub fn is_group(group: &Group) -> bool {
    group.as_str().chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_what_systemd_derives_for_zincati() {
        for (machine, derived) in [
            ("dfd7882acda64c34aca76193c46f5d4e", "35ba2101ae3f4d45b96e9c51f461bbff"),
            ("00000000000000000000000000000001", "a2a5385f64d54b22b0eca8f3deb0cd10"),
            ("DFD7882ACDA64C34ACA76193C46F5D4E", "35ba2101ae3f4d45b96e9c51f461bbff"),
            ("web-1", "web-1"),
            ("+0000000000000000000000000000001", "+0000000000000000000000000000001"),
            ("0000000000000000000000000000001", "0000000000000000000000000000001"),
        ] {
            assert_eq!(client_id(&MachineId::new(machine).unwrap()).as_str(), derived);
        }
    }

    #[test]
    fn groups_are_what_the_protocol_allows() {
        for (name, allowed) in
            [("default", true), ("rack-7.a", true), ("a_b", false), ("rack 7", false), ("ä", false)]
        {
            assert_eq!(is_group(&Group::new(name).unwrap()), allowed, "{name}");
        }
    }
}
