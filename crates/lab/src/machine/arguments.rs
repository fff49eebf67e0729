//! A machine as QEMU's command line.

use std::path::Path;

use super::{Firmware, Machine};
use crate::tools;

impl Machine {
    /// All arguments, with sockets in the folder `sockets`.
    pub(super) fn qemu_arguments(&self, sockets: &Path) -> Vec<String> {
        let mut arguments = words(
            // Emulation, always: where /dev/kvm exists it may run no ordinary kernel, and times would not compare.
            //
            // Of what QEMU has translated it keeps so many MiB, not its 1,024. It looks through all translations of a page, one
            // by one, for each that it forgets, and one page of a library has another translation for each process that had it
            // elsewhere (QEMU before 8.0): the first writes to memory that held the old OS's programs took seconds. With less
            // room they are forgotten together before they are many.
            "-accel tcg,tb-size=128 -machine q35 -nodefaults -no-user-config -display none -rtc base=utc \
             -S -serial chardev:console -serial chardev:control",
        );
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        add("-name", self.name.clone());
        add("-cpu", self.processor.clone());
        // Room for one more: only where there may be two does QEMU keep to the guest's memory barriers (7.2: `CF_PARALLEL`). The
        // devices run beside even a single processor, and one whose driver asks by shared memory whether it must ring loses
        // the ring: an NVMe disk stood still for 61 s, each time anew.
        add("-smp", format!("{},maxcpus={}", self.processors, self.processors + 1));
        add("-m", self.memory_mib.to_string());
        let socket = |name: &str| format!("{}", sockets.join(name).display());
        add("-qmp", format!("unix:{},server=on,wait=off", socket("qmp")));
        for name in ["console", "control"] {
            let log = self.folder.join(format!("{name}.log"));
            let log = log.display();
            let path = socket(name);
            add("-chardev", format!("socket,id={name},path={path},server=on,wait=off,logfile={log},logappend=on"));
        }
        let forwards = self.ports.iter().map(|port| format!("hostfwd=tcp:127.0.0.1:0-:{port}"));
        add("-netdev", ["user,id=network".to_owned()].into_iter().chain(forwards).collect::<Vec<_>>().join(","));
        // Without a boot ROM: no disk, no boot, and no minutes of waiting for a network to boot from.
        add("-device", "virtio-net-pci,netdev=network,romfile=".into());
        if self.firmware == Firmware::Uefi {
            let code = tools::path(&tools::OVMF_CODE);
            add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={}", code.display()));
            add("-drive", format!("if=pflash,unit=1,format=qcow2,file={}", self.variables().display()));
        }
        if let Some(direct) = &self.direct {
            add("-kernel", direct.kernel.display().to_string());
            add("-initrd", direct.initramfs.display().to_string());
            add("-append", direct.command_line.clone());
        }
        for disk in &self.disks {
            let boots = self.direct.is_none() && self.boots_from() == Some(disk.serial());
            arguments.extend(disk.arguments(&self.disks_folder(), self.bus, boots));
        }
        arguments.extend(self.more.iter().cloned());
        arguments
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// What QEMU's `info usernet` says of a forwarded port: which one of the host it is.
pub(super) fn host_port(info: &str, guest_port: u16) -> Option<u16> {
    // "  TCP[HOST_FORWARD]  14       127.0.0.1 43271       10.0.2.15    22     0     0"
    info.lines().filter(|line| line.contains("HOST_FORWARD")).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(5)?.parse() == Ok(guest_port)).then(|| fields.get(3)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarded_port_is_found_by_the_guest_s_own() {
        let info = "VLAN -1 (network):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  \
                    TCP[HOST_FORWARD]  13       127.0.0.1 40001       10.0.2.15    80     0     0\n  \
                    TCP[HOST_FORWARD]  14       127.0.0.1 43271       10.0.2.15    22     0     0\n";
        assert_eq!(host_port(info, 22), Some(43271));
        assert_eq!(host_port(info, 80), Some(40001));
        assert_eq!(host_port(info, 443), None);
    }

    #[test]
    fn an_nvme_disk_loses_no_doorbell_for_want_of_barriers() {
        for (processors, expected) in [(1, "1,maxcpus=2"), (2, "2,maxcpus=3")] {
            let machine = Machine::new("arguments").expect("a machine").processors(processors);
            let arguments = machine.qemu_arguments(Path::new("/sockets"));
            let at = arguments.iter().position(|argument| argument == "-smp").expect("processors");
            assert_eq!(arguments[at + 1], expected);
        }
    }
}
