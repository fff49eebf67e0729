//! Every system, firmware, bus, way in and way out, together: upgraded, its data proved, and back in the old OS.
//!
//! All forty-eight can be; one that could not would be a row of its own, with the reason that preflight gives.

use lab::server::Server;
use lab::tiny::{Pair, Tiny};
use lab::{Bus, Firmware, say};

/// One of the forty-eight.
struct Case {
    name: &'static str,
    firmware: Firmware,
    bus: Bus,
    entry: &'static str,
    exit: &'static str,
}

impl Case {
    /// The machine's name.
    fn machine(&self) -> String {
        self.name.rsplit("::").take(3).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("-")
    }

    fn configuration(&self) -> String {
        format!("entry = \"{}\"\nexit = \"{}\"", self.entry, self.exit)
    }

    /// The imager says which way it was entered, and which way it left.
    fn check_ways(&self, console: &str, log: &str) {
        assert_eq!(log.contains("by BootEntry"), self.entry == "boot-entry", "{log}");
        assert_eq!(log.contains("by Kexec"), self.entry == "kexec", "{log}");
        assert_eq!(log.contains("next: boot/vmlinuz-"), self.exit == "kexec", "{log}");
        let left = if self.exit == "kexec" { "leaving: kexec" } else { "leaving: restart" };
        assert!(console.contains(left), "{left}");
    }

    /// Debian's cloud kernel with scripts: what is wrong here is wrong with kernels, firmware and boot loaders.
    fn tiny(&self) {
        let change = |machine: lab::Machine| machine.firmware(self.firmware).bus(self.bus);
        let mut node =
            Tiny::start(&Pair::default(), &self.machine(), change, &self.configuration()).expect("a machine");
        self.check_preflight(&node.node("preflight").expect("nothing is in the way"));
        let log = node.upgrade().expect("upgraded, its data as they were");
        self.check_ways(&console(&node.machine), &log);
        node.roll_back().expect("the old OS is back");
        node.has_its_data().expect("its data are as they were");
    }

    /// With systemd, and a database that is asked all the time.
    fn debian(&self) {
        let change = |machine: lab::Machine| machine.firmware(self.firmware).bus(self.bus);
        let mut server = Server::start_as(&self.machine(), 0, change).expect("a server");
        server.configure(&self.configuration()).expect("configured");
        server.watch_data().expect("watched");
        self.check_preflight(&server.node("preflight", 2).expect("nothing is in the way"));
        let log = server.upgrade().expect("upgraded, its data as they were");
        self.check_ways(&console(&server.machine), &log);
        server.roll_back().expect("the old OS is back, the data as they were");
    }

    fn check_preflight(&self, seen: &str) {
        say(seen);
        assert!(seen.contains(&format!("way in: {}", self.entry)), "{seen}");
    }
}

/// Everything that the machine has printed.
fn console(machine: &lab::Machine) -> String {
    String::from_utf8_lossy(&std::fs::read(machine.console_log()).expect("a log")).into_owned()
}

/// A test for each way in and out, of a system on a machine.
macro_rules! ways {
    ($system:ident, $firmware:ident, $bus:ident) => {
        ways!($system, $firmware, $bus,
            comes_by_takeover_and_leaves_by_the_firmware: "takeover", "firmware";
            comes_by_takeover_and_leaves_by_kexec: "takeover", "kexec";
            comes_by_a_boot_entry_and_leaves_by_the_firmware: "boot-entry", "firmware";
            comes_by_a_boot_entry_and_leaves_by_kexec: "boot-entry", "kexec";
            comes_by_kexec_and_leaves_by_the_firmware: "kexec", "firmware";
            comes_by_kexec_and_leaves_by_kexec: "kexec", "kexec";
        );
    };
    ($system:ident, $firmware:ident, $bus:ident, $($name:ident: $entry:literal, $exit:literal;)*) => {$(
        #[test]
        #[ignore = "needs QEMU and root: run by ./test --long"]
        fn $name() {
            super::super::Case {
                name: concat!(module_path!(), "::", $entry, "-", $exit),
                firmware: lab::Firmware::$firmware,
                bus: lab::Bus::$bus,
                entry: $entry,
                exit: $exit,
            }
            .$system();
        }
    )*};
}

/// Those of a system on every machine.
macro_rules! machines {
    ($system:ident) => {
        mod $system {
            mod bios_virtio {
                ways!($system, Bios, Virtio);
            }
            mod bios_nvme {
                ways!($system, Bios, Nvme);
            }
            mod uefi_virtio {
                ways!($system, Uefi, Virtio);
            }
            mod uefi_nvme {
                ways!($system, Uefi, Nvme);
            }
        }
    };
}

machines!(tiny);
machines!(debian);
