//! What firmware and kernel demand of what they start.

use std::fs;

use crate::machine::Machine;
use crate::preflight::Firmware;

const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// Four bytes of attributes, and one that is 1 when it is on.
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// `none [integrity] confidentiality`.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

pub(super) fn read(machine: &Machine) -> Firmware {
    let lockdown = fs::read_to_string(machine.path(LOCKDOWN)).ok();
    let chosen = |text: String| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned());
    Firmware { secure_boot: secure_boot(machine), lockdown: lockdown.and_then(chosen) }
}

fn secure_boot(machine: &Machine) -> Result<bool, String> {
    match fs::read(machine.path(SECURE_BOOT)) {
        Ok(bytes) => match bytes[..] {
            [_, _, _, _, value] => Ok(value == 1),
            _ => Err(format!("{SECURE_BOOT} has {} bytes, not 5", bytes.len())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Firmware that cannot do it has no such variable; but some other it always has.
            let mut variables = fs::read_dir(machine.path(VARIABLES)).into_iter().flatten();
            if variables.next().is_some() { Ok(false) } else { Err(format!("{VARIABLES} shows no variables")) }
        }
        Err(error) => Err(format!("{SECURE_BOOT}: {error}")),
    }
}
