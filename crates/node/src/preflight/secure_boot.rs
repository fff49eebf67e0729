//! Secure Boot: whether firmware will start what the image has on it, and what the kernel lets the imager do.
//!
//! The rule errs to the side of no, for a disk that firmware refuses to start is one that nobody can repair from afar:
//! - With Secure Boot on, *every* EFI program on the image's system partition has to carry a signature, and so has every
//!   kernel: which of them will be started depends on variables and menus that nobody reads here. That the signer is one
//!   that the firmware knows cannot be told from the image, and is said.
//! - What cannot be read counts as on: an EFI machine whose variables are not to be seen may be one that checks.
//! - The imager itself loads nothing that is not signed: a takeover goes on under the running kernel, a boot entry starts
//!   the node's own signed kernel by its own signed loader (an initramfs is not checked), and kexec is offered only where
//!   the kernel takes it (`boot::kexec`).

use model::manifest::BootMode;

use super::{Facts, Verdict, fine, refused, unknown, warning};

/// What firmware and kernel demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Whether firmware starts only what is signed; why that is not known.
    pub secure_boot: Result<bool, String>,
    /// The kernel's lockdown: `none`, `integrity` or `confidentiality`; nothing, if it has none.
    pub lockdown: Option<String>,
}

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let is_on = match (&facts.firmware.secure_boot, facts.boot_mode) {
        (_, BootMode::Bios) => return locked(facts).unwrap_or_else(|| fine("a BIOS checks nothing")),
        (Ok(is_on), _) => *is_on,
        (Err(why), _) => {
            return refused(
                format!("whether Secure Boot is on is not known: {why}"),
                "mount the variables (mount -t efivarfs efivarfs /sys/firmware/efi/efivars)",
            );
        }
    };
    if !is_on {
        return locked(facts).unwrap_or_else(|| fine("off"));
    }
    let Some(setup) = facts.manifest.facts.as_ref().and_then(|image| image.setup.as_ref()) else {
        return unknown("whether the image's loaders are signed, and Secure Boot is on,");
    };
    let remedy = "bake the image with the distribution's signed shim, GRUB and kernel, or turn Secure Boot off";
    if setup.efi_programs.signed.is_empty() {
        return refused("it is on, and the image has no signed loader", remedy);
    }
    let unsigned = setup.efi_programs.unsigned.iter().chain(&setup.kernels.unsigned);
    let unsigned: Vec<_> = unsigned.map(|name| format!("{name} is not signed")).collect();
    if !unsigned.is_empty() {
        return refused("it is on, and something that the image may start carries no signature", remedy)
            .listing(unsigned);
    }
    if setup.kernels.signed.is_empty() {
        return refused("it is on, and the image has no signed kernel below /boot", remedy);
    }
    locked(facts).unwrap_or_else(|| fine("on; loaders and kernels of the image are signed (by whom is not told)"))
}

/// What a locked kernel keeps from us. Nothing that an upgrade could not do without.
fn locked(facts: &Facts<'_>) -> Option<Verdict> {
    (facts.firmware.lockdown.as_deref() == Some("confidentiality")).then(|| {
        warning(
            "the kernel is locked down (confidentiality), so what is written after `prepare` cannot be traced: the whole \
             disk is read again during the outage",
        )
    })
}
