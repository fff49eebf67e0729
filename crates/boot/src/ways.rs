//! Which way into the imager is gone: the first that can work, and why the others cannot.

use std::path::PathBuf;

use crate::error::Result;
use crate::host::Host;
use crate::modules::{Missing, Modules};
use crate::why::Why;
use crate::{efi, grub, kexec, takeover};

/// A way into the imager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// At the end of systemd's shutdown, on the same kernel.
    Takeover,
    /// An entry that is booted once, by GRUB.
    GrubEntry,
    /// An entry that is booted once, by UEFI firmware.
    FirmwareEntry,
    /// From this kernel into another.
    Kexec,
}

/// All of them, the best first. Takeover changes no boot loader and keeps drivers and addresses; an entry comes by a path
/// that the machine takes at every boot; kexec leaves devices as the old kernel left them, which some do not survive.
pub const ORDER: [Kind; 4] = [Kind::Takeover, Kind::GrubEntry, Kind::FirmwareEntry, Kind::Kexec];

impl Kind {
    /// The word of the documents: `takeover`, `boot-entry`, `kexec`.
    pub fn entry(self) -> &'static str {
        match self {
            Self::Takeover => "takeover",
            Self::GrubEntry | Self::FirmwareEntry => "boot-entry",
            Self::Kexec => "kexec",
        }
    }
}

/// A way, and whether it can be gone here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Which.
    pub kind: Kind,
    /// Whether it can be gone; else why not.
    pub possible: Result<(), Why>,
}

/// What decides.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Of the shutdown.
    pub takeover: takeover::Facts,
    /// Whether GRUB can boot an entry once.
    pub grub: Result<(), Why>,
    /// Whether firmware can.
    pub firmware: Result<(), Why>,
    /// Of kexec.
    pub kexec: kexec::Facts,
    /// The running kernel's release.
    pub release: String,
    /// The running kernel's file, if it is there.
    pub kernel: Option<PathBuf>,
    /// Modules that a fresh kernel would lack.
    pub missing: Vec<Missing>,
    /// Bytes of memory that the imager needs, with what it is made of.
    pub memory_needed: u64,
}

impl Facts {
    /// Reads them. `imager_bytes` is what the imager is made of, `working_bytes` what it needs of memory while it works.
    pub fn read(host: &Host, modules: &Modules, imager_bytes: u64, working_bytes: u64) -> Result<Self> {
        let release = host.release()?;
        let kernel = host.kernel_file(&release);
        let mut grub = grub::Place::find(host)?.map(Some);
        let mut firmware = Ok(());
        if let Some(kernel) = &kernel {
            if let Ok(Some(place)) = &grub
                && let Err(why) = place.check_room(kernel, imager_bytes)?
            {
                grub = Err(why);
            }
            firmware = match efi::Facts::read(host)?.check(kernel)? {
                Ok(place) => place.check_room(kernel, imager_bytes)?,
                Err(why) => Err(why),
            };
        }
        Ok(Self {
            takeover: takeover::Facts::read(host)?,
            grub: grub.map(drop),
            firmware,
            kexec: kexec::Facts::read(host)?,
            release,
            kernel,
            missing: modules.missing.clone(),
            memory_needed: imager_bytes + working_bytes,
        })
    }

    /// What every way needs that starts a fresh kernel.
    fn fresh_kernel(&self) -> Result<(), Why> {
        if self.kernel.is_none() {
            return Err(Why::NoKernel { release: self.release.clone() });
        }
        match self.missing.first() {
            Some(missing) => Err(Why::NoModule { name: missing.name.clone(), because: missing.because.clone() }),
            None => Ok(()),
        }
    }
}

/// Every way in the order of preference.
pub fn choose(facts: &Facts) -> Vec<Way> {
    let possible = |kind| match kind {
        Kind::Takeover => facts.takeover.check(facts.memory_needed),
        Kind::GrubEntry => facts.fresh_kernel().and_then(|()| facts.grub.clone()),
        Kind::FirmwareEntry => facts.fresh_kernel().and_then(|()| facts.firmware.clone()),
        // Somebody has to end the OS in order and then start what was loaded: systemd does both by itself. Elsewhere that
        // is a script of kexec-tools, if at all; without it the services would be running when the kernel goes.
        // Loading it takes memory beside everything that still runs.
        Kind::Kexec => facts
            .fresh_kernel()
            .and_then(|()| facts.takeover.ends_in_order())
            .and_then(|()| facts.kexec.check())
            .and_then(|()| facts.takeover.memory(facts.memory_needed)),
    };
    ORDER.map(|kind| Way { kind, possible: possible(kind) }).into()
}

/// The first that can be gone.
pub fn first(ways: &[Way]) -> Option<Kind> {
    ways.iter().find(|way| way.possible.is_ok()).map(|way| way.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Stack;

    /// A machine on which every way can be gone.
    fn all() -> Facts {
        Facts {
            takeover: takeover::Facts {
                init: "systemd".into(),
                systemd: Some(252),
                is_container: false,
                same_mounts: true,
                root: Stack::Plain { device: "nvme0n1p2".into(), disk: "nvme0n1".into() },
                needed_by_dracut: false,
                selinux_enforces: false,
                memory_available: 1 << 30,
            },
            grub: Ok(()),
            firmware: Ok(()),
            kexec: kexec::Facts {
                has_file_load: true,
                checks_signatures: false,
                is_off: false,
                lockdown: "none".into(),
                is_xen: false,
            },
            release: "6.1".into(),
            kernel: Some("/boot/vmlinuz-6.1".into()),
            missing: Vec::new(),
            memory_needed: 1 << 28,
        }
    }

    /// Which ways can be gone on a machine that differs in one thing, and which is chosen.
    fn changed(change: impl FnOnce(&mut Facts)) -> (String, Option<Kind>) {
        let mut facts = all();
        change(&mut facts);
        let ways = choose(&facts);
        assert_eq!(ways.iter().map(|way| way.kind).collect::<Vec<_>>(), ORDER);
        let shown = ways.iter().map(|way| if way.possible.is_ok() { '+' } else { '-' }).collect();
        (shown, first(&ways))
    }

    #[test]
    fn the_first_that_can_work_is_chosen() {
        use Kind::{FirmwareEntry, GrubEntry, Kexec, Takeover};
        type Change = fn(&mut Facts);
        let table: [(&str, Change, &str, Option<Kind>); 10] = [
            ("everything works", |_| {}, "++++", Some(Takeover)),
            ("another init", |facts| facts.takeover.init = "runit".into(), "-++-", Some(GrubEntry)),
            ("root on LVM", |facts| facts.takeover.root = Stack::Mapped("vg-root".into()), "-+++", Some(GrubEntry)),
            (
                "root on LVM, GRUB's files too",
                |facts| {
                    facts.takeover.root = Stack::Mapped("vg-root".into());
                    facts.grub = Err(Why::GrubCannotClear { what: "vg-root".into() });
                },
                "--++",
                Some(FirmwareEntry),
            ),
            (
                "the same with a BIOS",
                |facts| {
                    facts.takeover.root = Stack::Array("md0".into());
                    facts.grub = Err(Why::GrubCannotClear { what: "md0".into() });
                    facts.firmware = Err(Why::NoUefi);
                },
                "---+",
                Some(Kexec),
            ),
            ("the kernel's package is gone", |facts| facts.kernel = None, "+---", Some(Takeover)),
            (
                "a driver of one's own, and another init",
                |facts| {
                    facts.takeover.init = "runit".into();
                    facts.missing = vec![Missing { name: "mynic".into(), because: "it drives eth0".into() }];
                },
                "----",
                None,
            ),
            ("little memory", |facts| facts.takeover.memory_available = 1 << 20, "-++-", Some(GrubEntry)),
            (
                "locked down, nothing checks signatures",
                |facts| {
                    facts.kexec.lockdown = "integrity".into();
                    facts.firmware = Err(Why::SecureBoot);
                },
                "++--",
                Some(Takeover),
            ),
            ("kexec turned off", |facts| facts.kexec.is_off = true, "+++-", Some(Takeover)),
        ];
        for (name, change, shown, chosen) in table {
            assert_eq!(changed(change), (shown.to_owned(), chosen), "{name}");
        }
    }

    #[test]
    fn every_way_that_cannot_be_gone_says_why() {
        let mut facts = all();
        facts.kernel = None;
        facts.takeover.same_mounts = false;
        for way in choose(&facts) {
            let why = way.possible.expect_err("none can");
            assert!(why.to_string().len() > 20, "{why}");
        }
        facts.kernel = Some("/boot/vmlinuz".into());
        facts.missing = vec![Missing { name: "mynic".into(), because: "it drives /sys/devices/x".into() }];
        let ways = choose(&facts);
        let said = ways[1].possible.as_ref().expect_err("it lacks a module").to_string();
        assert!(said.contains("mynic") && said.contains("it drives /sys/devices/x"), "{said}");
    }

    #[test]
    fn this_machine_whatever_it_is_says_of_every_way_whether_it_can_be_gone() {
        let facts = Facts::read(&Host::here(), &Modules::default(), 1 << 20, 1 << 20).expect("read");
        let ways = choose(&facts);
        assert_eq!(ways.len(), 4);
        let said = |way: &Way| way.possible.as_ref().map_or_else(ToString::to_string, |()| "possible".into());
        assert!(ways.iter().all(|way| !said(way).is_empty()), "{ways:?}");
    }

    #[test]
    fn the_words_are_those_of_the_documents() {
        assert_eq!(ORDER.map(Kind::entry), ["takeover", "boot-entry", "boot-entry", "kexec"]);
    }
}
