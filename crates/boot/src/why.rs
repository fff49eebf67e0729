//! Why a way into the imager, or out of it, cannot be gone on this machine. Each says what a person could do about it.

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Something else runs the machine.
    #[error("PID 1 is {init:?}, and only systemd hands the machine over when it ends")]
    NotSystemd {
        /// What it calls itself.
        init: String,
    },
    /// Its version cannot be told.
    #[error("systemd is older than version 231, or it cannot be told; nobody tried a takeover from that")]
    SystemdTooOld,
    /// A container ends without a handover.
    #[error("this is a container: it has no machine to hand over; run on the machine itself")]
    Container,
    /// This process has mounts of its own.
    #[error(
        "this process does not see the mounts that PID 1 sees, so PID 1 would not see ours; run it as a service without \
         PrivateTmp, ProtectSystem and the like, or by `nsenter --mount --target 1`"
    )]
    OwnMounts,
    /// LVM, encryption, RAID: somebody has to take it apart.
    #[error(
        "the root filesystem stands on {name}, which is put together from disks and cannot be taken apart while the \
         machine ends: the root disk would stay in use"
    )]
    RootPutTogether {
        /// The kernel's name of it.
        name: String,
    },
    /// NFS, overlay.
    #[error("the root filesystem is {filesystem}, on no disk that the kernel describes")]
    RootNoDisk {
        /// Its kind.
        filesystem: String,
    },
    /// Another program has work to do there.
    #[error(
        "dracut says (/run/initramfs/.need_shutdown) that it has to take the root filesystem's devices apart when the \
         machine ends; a takeover would keep it from that"
    )]
    NeededByDracut,
    /// Its policy may not let PID 1 execute what nobody labelled.
    #[error(
        "SELinux enforces its policy, under which systemd may not be allowed to execute the imager; nobody tried that. \
         `setenforce 0` until the restart allows it"
    )]
    Selinux,
    /// Too little of it.
    #[error("{available} bytes of memory are available, and the imager needs {needed}; stop something, or add memory")]
    Memory {
        /// Bytes there are.
        available: u64,
        /// Bytes it takes.
        needed: u64,
    },
    /// No kernel to start it with.
    #[error(
        "no file of the running kernel {release} is below /boot or /lib/modules; reboot into a kernel that is installed"
    )]
    NoKernel {
        /// Which one runs.
        release: String,
    },
    /// A fresh kernel would lack a driver.
    #[error("the module {name} would be missing: {because}; it is neither below /lib/modules nor built in")]
    NoModule {
        /// The module.
        name: String,
        /// Who needs it.
        because: String,
    },
    /// GRUB is not here.
    #[error("there is no grub.cfg below /boot that shows menus: GRUB does not boot this machine")]
    NoGrub,
    /// Its configuration has no one-shot entries.
    #[error("{config} never reads next_entry from GRUB's environment (no {lacks}), so no entry can be booted once")]
    GrubNotOnce {
        /// The file.
        config: String,
        /// What was looked for in it.
        lacks: &'static str,
    },
    /// It does not look for entries of others.
    #[error("{config} does not read custom.cfg, so it would not show our entry; is /etc/grub.d/41_custom gone?")]
    GrubNoCustom {
        /// The file.
        config: String,
    },
    /// It reads nothing that is not signed.
    #[error("{config} makes GRUB read nothing without a signature (check_signatures=enforce), and ours has none")]
    GrubSigned {
        /// The file.
        config: String,
    },
    /// GRUB cannot write there: the one-shot entry would never end.
    #[error(
        "GRUB cannot clear a one-shot entry here: its environment stands on {what}, which it does not write to; every \
         boot would lead to the imager"
    )]
    GrubCannotClear {
        /// What it stands on.
        what: String,
    },
    /// Not the file that GRUB takes it for.
    #[error("GRUB's environment {path} cannot be used: {why}")]
    GrubEnvironment {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// Somebody else booked the next boot.
    #[error("the next boot is booked for {entry:?} already (next_entry in GRUB's environment); reboot, or clear it")]
    GrubBooked {
        /// Which entry.
        entry: String,
    },
    /// No room for kernel and imager.
    #[error("{path} has {available} bytes free, and kernel and imager need {needed}")]
    Room {
        /// Where.
        path: String,
        /// Bytes there are.
        available: u64,
        /// Bytes it takes.
        needed: u64,
    },
    /// Started by a BIOS, or nothing tells of UEFI.
    #[error("this machine was not started by UEFI firmware")]
    NoUefi,
    /// It cannot be told what to boot.
    #[error("UEFI variables cannot be written: {why}")]
    NoVariables {
        /// Why.
        why: String,
    },
    /// Somebody else booked the next boot.
    #[error(
        "the next boot is booked already (BootNext is {number:04X}); reboot, or take it back (efibootmgr --delete-bootnext)"
    )]
    FirmwareBooked {
        /// Which entry.
        number: u16,
    },
    /// Firmware starts only what it knows the signer of.
    #[error("Secure Boot is on: the firmware starts no kernel directly, only by the distribution's shim and GRUB")]
    SecureBoot,
    /// No ESP, or not where it can be written.
    #[error(
        "no FAT partition of a GPT is mounted for writing at /boot/efi, /efi or /boot; mount the EFI system partition"
    )]
    NoSystemPartition,
    /// The kernel is no EFI program.
    #[error("the kernel {kernel} is no EFI program (built without CONFIG_EFI_STUB), so firmware cannot start it")]
    NoStub {
        /// The file.
        kernel: String,
    },
    /// Not in this kernel.
    #[error("the running kernel has no kexec_file_load (CONFIG_KEXEC_FILE), or it cannot be told")]
    NoKexec,
    /// Turned off until the next reboot.
    #[error("kexec is turned off until the next reboot (kernel.kexec_load_disabled is 1)")]
    KexecOff,
    /// Only signed kernels would do, and nothing checks signatures.
    #[error("the kernel is locked down ({mode}) and checks no kernel's signature for kexec (CONFIG_KEXEC_SIG)")]
    LockedDown {
        /// `integrity` or `confidentiality`.
        mode: String,
    },
    /// Another init, which would restart by the firmware and forget what was loaded.
    #[error(
        "PID 1 is {init:?}, and only systemd starts a loaded kernel by itself once everything is stopped; use a boot entry"
    )]
    NobodyStartsKexec {
        /// What it calls itself.
        init: String,
    },
    /// Known to crash.
    #[error("this is a Xen guest, where kexec is known to crash")]
    Xen,
}
