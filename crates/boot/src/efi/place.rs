//! The EFI system partition of this machine; putting our entry there, booking it, and taking both away.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::device_path::{DevicePath, HardDrive, Node, parse_guid};
use super::load_option::LoadOption;
use super::variables::{DIRECTORY as VARIABLES, Variables};
use crate::command_line::{Argument, Arguments};
use crate::device::{self, Stack};
use crate::error::{Error, Result};
use crate::grub::{copy, flush, room};
use crate::host::{self, Host};
use crate::initramfs::{Compression, Contents};
use crate::mounts;
use crate::why::Why;

/// Where distributions mount the partition.
const MOUNT_POINTS: [&str; 3] = ["/boot/efi", "/efi", "/boot"];
/// Ours on it, and how firmware names it.
const DIRECTORY: &str = "EFI/keepstate";
const KERNEL: &str = r"\EFI\keepstate\vmlinuz.efi";
const IMAGER: &str = r"\EFI\keepstate\imager.img";
/// By this our entry is known again.
const DESCRIPTION: &str = "Keepstate imager";
/// The variable that books an entry for one boot.
const BOOKING: &str = "BootNext";
/// What `/sys` counts partitions in, whatever the disk's sectors are.
const SYSFS_SECTOR: u64 = 512;

/// What decides whether firmware can start the imager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether UEFI firmware started this machine.
    pub is_uefi: bool,
    /// Whether it starts only what it knows the signer of.
    pub is_secure_boot: bool,
    /// Why variables cannot be written, if they cannot.
    pub variables: Result<(), String>,
    /// Which entry is booked already, if it is not ours.
    pub booked: Option<u16>,
    /// The system partition, if it can be used.
    pub place: Option<Place>,
}

/// An EFI system partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    mounted: PathBuf,
    drive: HardDrive,
    variables: PathBuf,
}

impl Facts {
    /// Reads them.
    pub fn read(host: &Host) -> Result<Self> {
        let is_uefi = host.path("/sys/firmware/efi").is_dir();
        let variables = Variables::of(host);
        let mounted = mounts::all(host)?.into_iter().rfind(|mount| mount.point == Path::new(VARIABLES));
        let writable = match mounted {
            Some(mount) if mount.read_only => Err(format!("{VARIABLES} is mounted read-only")),
            Some(_) => Ok(()),
            None => Err(format!("efivarfs is not mounted at {VARIABLES}")),
        };
        let booked = if is_uefi { variables.number(BOOKING)? } else { None };
        let ours = if is_uefi { our_numbers(&variables)? } else { Vec::new() };
        Ok(Self {
            is_uefi,
            is_secure_boot: is_uefi && is_secure_boot(&variables)?,
            variables: writable,
            booked: booked.filter(|number| !ours.contains(number)),
            place: if is_uefi { Place::find(host)? } else { None },
        })
    }

    /// Whether firmware can start `kernel` as the imager.
    pub fn check(&self, kernel: &Path) -> Result<Result<&Place, Why>> {
        if !self.is_uefi {
            return Ok(Err(Why::NoUefi));
        }
        if self.is_secure_boot {
            return Ok(Err(Why::SecureBoot));
        }
        if let Err(why) = &self.variables {
            return Ok(Err(Why::NoVariables { why: why.clone() }));
        }
        if let Some(number) = self.booked {
            return Ok(Err(Why::FirmwareBooked { number }));
        }
        if !is_program(kernel)? {
            return Ok(Err(Why::NoStub { kernel: kernel.display().to_string() }));
        }
        Ok(self.place.as_ref().ok_or(Why::NoSystemPartition))
    }
}

/// Whether the firmware says that Secure Boot is on.
pub(crate) fn is_secure_boot(variables: &Variables) -> Result<bool> {
    Ok(variables.get("SecureBoot")?.is_some_and(|variable| variable.data == [1]))
}

/// Whether a file is an EFI program: it begins as a PE file does.
fn is_program(path: &Path) -> Result<bool> {
    let mut begin = [0; 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    match read {
        Ok(()) => Ok(begin == *b"MZ"),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(Error::file("reading", path)(error)),
    }
}

fn our_numbers(variables: &Variables) -> Result<Vec<u16>> {
    let mut ours = Vec::new();
    for number in variables.boot_numbers()? {
        let variable = variables.get(&name(number))?;
        let option = variable.and_then(|variable| LoadOption::parse(&variable.data));
        let starts_ours = |option: &LoadOption| option.path.0.contains(&Node::File(KERNEL.into()));
        if option.is_some_and(|option| option.description == DESCRIPTION && starts_ours(&option)) {
            ours.push(number);
        }
    }
    Ok(ours)
}

fn name(number: u16) -> String {
    format!("Boot{number:04X}")
}

impl Place {
    /// The first FAT filesystem on a GPT partition that is mounted, for writing, where a system partition is.
    fn find(host: &Host) -> Result<Option<Self>> {
        let mounts = mounts::all(host)?;
        for point in MOUNT_POINTS {
            let Some(mount) = mounts.iter().rfind(|mount| mount.point == Path::new(point)) else { continue };
            if mount.kind != "vfat" || mount.read_only {
                continue;
            }
            let Stack::Plain { device, disk } = device::stack(host, mount)? else { continue };
            if let Some(drive) = drive(host, &device, &disk)? {
                let variables = host.path("/");
                return Ok(Some(Self { mounted: host.path(point), drive, variables }));
            }
        }
        Ok(None)
    }

    /// Whether `kernel` and an imager of `imager_bytes` have room there.
    pub fn check_room(&self, kernel: &Path, imager_bytes: u64) -> Result<Result<(), Why>> {
        room(&self.mounted, kernel, imager_bytes)
    }

    /// Puts kernel, imager and entry into place. Nothing is booked yet, and the order of entries stays as it is. When
    /// anything fails, nothing of it is left.
    pub fn install(
        &self,
        kernel: &Path,
        contents: &Contents,
        compression: Compression,
        arguments: &Arguments,
    ) -> Result<()> {
        self.remove()?;
        let installed = self.try_install(kernel, contents, compression, arguments);
        if installed.is_err()
            && let Err(error) = self.remove()
        {
            tracing::warn!(%error, "an unfinished boot entry is left, and not booked");
        }
        installed
    }

    fn try_install(
        &self,
        kernel: &Path,
        contents: &Contents,
        compression: Compression,
        arguments: &Arguments,
    ) -> Result<()> {
        let own = self.own();
        fs::create_dir_all(&own).map_err(Error::file("making", &own))?;
        copy(kernel, &own.join("vmlinuz.efi"))?;
        contents.write_archive_file(&own.join("imager.img"), compression)?;
        flush(&self.mounted)?;
        let variables = self.variables();
        let taken = variables.boot_numbers()?;
        let free = (0..=u16::MAX).find(|number| !taken.contains(number));
        let number = free.ok_or_else(|| Error::unusable(&self.mounted, "the firmware has no boot entry left"))?;
        let mut arguments = arguments.clone();
        arguments.0.push(Argument::new("initrd", IMAGER));
        let path = DevicePath(vec![Node::HardDrive(self.drive), Node::File(KERNEL.into())]);
        let option = LoadOption::kernel(DESCRIPTION, path, &arguments.to_string());
        variables.set(&name(number), &option.to_bytes())
    }

    /// Books our entry for the next boot.
    pub fn book(&self) -> Result<()> {
        let variables = self.variables();
        let ours = our_numbers(&variables)?;
        let Some(number) = ours.first() else {
            return Err(Error::unusable(&self.own(), "no boot entry leads there; put it into place first"));
        };
        match variables.number(BOOKING)? {
            Some(booked) if !ours.contains(&booked) => {
                Err(Error::unusable(&self.own(), Why::FirmwareBooked { number: booked }.to_string()))
            }
            _ => variables.set(BOOKING, &number.to_le_bytes()),
        }
    }

    /// Whether our entry is what the next boot leads to.
    pub fn is_booked(&self) -> Result<bool> {
        is_ours_booked(&self.variables())
    }

    /// Takes booking, entry, imager and kernel away, in this order. Nothing there: nothing happens.
    pub fn remove(&self) -> Result<()> {
        withdraw(&self.variables())?;
        let own = self.own();
        match fs::remove_dir_all(&own) {
            Err(error) if !host::is_absent(&error) => Err(Error::file("removing", &own)(error)),
            _ => flush(&self.mounted),
        }
    }

    fn own(&self) -> PathBuf {
        self.mounted.join(DIRECTORY)
    }

    fn variables(&self) -> Variables {
        Variables::of(&Host::below(&self.variables))
    }
}

/// Takes away whatever of ours stands there, in the firmware and on the system partition. Where that cannot be reached the
/// firmware's part goes, and the error says what is left.
pub fn take_away(host: &Host) -> Result<()> {
    let variables = Variables::of(host);
    if let Some(place) = Place::find(host)? {
        return place.remove();
    }
    if our_numbers(&variables)?.is_empty() {
        return Ok(());
    }
    withdraw(&variables)?;
    let why = "the EFI system partition is not mounted for writing: kernel, imager and its job, which may hold credentials of the \
               store, are left there, and nothing leads to them any more; mount it, and remove this directory";
    Err(Error::unusable(Path::new(DIRECTORY), why))
}

/// Takes booking and entries back, if they are ours.
fn withdraw(variables: &Variables) -> Result<()> {
    if is_ours_booked(variables)? {
        variables.remove(BOOKING)?;
    }
    our_numbers(variables)?.into_iter().try_for_each(|number| variables.remove(&name(number)))
}

fn is_ours_booked(variables: &Variables) -> Result<bool> {
    Ok(match variables.number(BOOKING)? {
        Some(number) => our_numbers(variables)?.contains(&number),
        None => false,
    })
}

/// A partition as firmware finds it again, if it is one of a GPT.
fn drive(host: &Host, device: &str, disk: &str) -> Result<Option<HardDrive>> {
    let block = Path::new("/sys/class/block");
    let number = |device: &str, file: &str| -> Result<Option<u64>> {
        Ok(host.text(block.join(device).join(file))?.and_then(|text| text.trim().parse().ok()))
    };
    let sector = number(disk, "queue/logical_block_size")?.unwrap_or(SYSFS_SECTOR).max(SYSFS_SECTOR);
    let (Some(partition), Some(start), Some(size)) =
        (number(device, "partition")?, number(device, "start")?, number(device, "size")?)
    else {
        return Ok(None);
    };
    let Some(guid) = partition_guid(host, device)? else { return Ok(None) };
    let sectors = |count: u64| count * SYSFS_SECTOR / sector;
    Ok(Some(HardDrive { number: partition as u32, start: sectors(start), sectors: sectors(size), guid }))
}

/// A GPT partition's GUID: as the kernel says it since 6.9, or as udev's links do. An MBR's has no GUID's form.
fn partition_guid(host: &Host, device: &str) -> Result<Option<[u8; 16]>> {
    let text = host.text(Path::new("/sys/class/block").join(device).join("uevent"))?.unwrap_or_default();
    if let Some(guid) = text.lines().find_map(|line| line.strip_prefix("PARTUUID=")) {
        return Ok(parse_guid(guid));
    }
    for link in host::entries(&host.path("/dev/disk/by-partuuid"))? {
        let leads_there =
            fs::read_link(&link).is_ok_and(|target| target.file_name().is_some_and(|name| name == device));
        if leads_there {
            return Ok(link.file_name().and_then(|name| parse_guid(&name.to_string_lossy())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::device::tests::{add_block_device, write_mounts};
    use crate::initramfs::Source;

    const MOUNTS: &str = "22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n\
                          23 22 259:1 / /boot/efi rw - vfat /dev/nvme0n1p1 rw\n\
                          24 22 0:30 / /sys/firmware/efi/efivars rw - efivarfs efivarfs rw\n";

    fn machine() -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        add_block_device(root, "259:0", "pci/nvme0n1", &["queue/logical_block_size"]);
        add_block_device(root, "259:1", "pci/nvme0n1/nvme0n1p1", &[]);
        for (path, text) in [
            ("sys/devices/pci/nvme0n1/queue/logical_block_size", "4096\n"),
            ("sys/devices/pci/nvme0n1/nvme0n1p1/partition", "1\n"),
            ("sys/devices/pci/nvme0n1/nvme0n1p1/start", "2048\n"),
            ("sys/devices/pci/nvme0n1/nvme0n1p1/size", "1048576\n"),
            ("boot/vmlinuz", "MZkernel"),
        ] {
            fs::create_dir_all(root.join(path).parent().expect("a folder")).expect("made");
            fs::write(root.join(path), text).expect("written");
        }
        for folder in ["boot/efi/EFI", "sys/firmware/efi/efivars", "dev/disk/by-partuuid"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        let link = root.join("dev/disk/by-partuuid/c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        symlink("../../nvme0n1p1", link).expect("linked");
        write_mounts(root, MOUNTS);
        let host = Host::below(root);
        (directory, host)
    }

    fn check(host: &Host) -> Result<Place, Why> {
        let facts = Facts::read(host).expect("read");
        facts.check(&host.path("/boot/vmlinuz")).expect("read").cloned()
    }

    fn install(host: &Host, source: Source) -> Result<()> {
        let mut contents = Contents::default();
        contents.file("init", 0o755, source).expect("added");
        let arguments = Arguments::parse("console=ttyS0");
        check(host).expect("possible").install(&host.path("/boot/vmlinuz"), &contents, Compression::Gzip, &arguments)
    }

    #[test]
    fn what_is_put_in_and_booked_goes_again_without_a_trace() {
        let (_root, host) = machine();
        let place = check(&host).expect("possible");
        assert_eq!((place.drive.number, place.drive.start, place.drive.sectors), (1, 256, 131_072));
        let variables = Variables::of(&host);
        variables.set("Boot0000", b"somebody else's").expect("written");
        variables.set("BootOrder", &[0, 0]).expect("written");
        place.book().expect_err("nothing is there");
        install(&host, Source::Bytes(b"x".to_vec())).expect("put");
        install(&host, Source::Bytes(b"x".to_vec())).expect("put again");
        assert_eq!(variables.boot_numbers().expect("listed"), [0, 1]);
        assert!(!place.is_booked().expect("read"));
        place.book().expect("booked");
        assert!(place.is_booked().expect("read"));
        assert_eq!(check(&host).as_ref(), Ok(&place), "our own booking is no hindrance");
        let option = variables.get("Boot0001").expect("read").expect("there");
        let option = LoadOption::parse(&option.data).expect("an entry");
        let shown = r"HD(1,GPT,c12a7328-f81f-11d2-ba4b-00a0c93ec93b,0x100,0x20000)/\EFI\keepstate\vmlinuz.efi";
        assert_eq!(option.path.to_string(), shown);
        assert_eq!(option.data, super::super::device_path::to_utf16(r"console=ttyS0 initrd=\EFI\keepstate\imager.img"));
        assert_eq!(fs::read(host.path("/boot/efi/EFI/keepstate/vmlinuz.efi")).expect("there"), b"MZkernel");
        place.remove().expect("removed");
        place.remove().expect("nothing to do");
        assert_eq!(variables.boot_numbers().expect("listed"), [0]);
        assert_eq!(variables.get("BootNext").expect("looked"), None);
        assert!(variables.get("BootOrder").expect("looked").is_some());
        assert_eq!(host::entries(&host.path("/boot/efi/EFI")).expect("listed").len(), 0);
    }

    #[test]
    fn an_entry_that_cannot_be_put_in_leaves_nothing() {
        let (_root, host) = machine();
        install(&host, Source::File("/nonexistent/file".into())).expect_err("a file is missing");
        assert_eq!(Variables::of(&host).boot_numbers().expect("listed"), Vec::<u16>::new());
        assert_eq!(host::entries(&host.path("/boot/efi/EFI")).expect("listed").len(), 0);
    }

    #[test]
    fn a_booking_of_somebody_else_is_neither_overwritten_nor_taken_back() {
        let (_root, host) = machine();
        install(&host, Source::Bytes(Vec::new())).expect("put");
        let place = check(&host).expect("possible");
        Variables::of(&host).set("BootNext", &[9, 0]).expect("written");
        assert_eq!(check(&host), Err(Why::FirmwareBooked { number: 9 }));
        place.book().expect_err("booked already");
        place.remove().expect("removed");
        assert_eq!(Variables::of(&host).number("BootNext").expect("read"), Some(9));
    }

    /// Nobody heard of it: the entry stayed in the firmware, and the job on the partition.
    #[test]
    fn what_stands_on_a_partition_that_is_not_mounted_is_not_booted_any_more_and_named() {
        let (root, host) = machine();
        take_away(&host).expect("nothing is there");
        let variables = Variables::of(&host);
        for mounts in [MOUNTS.replace("vfat", "ext4"), MOUNTS.replace("efi rw", "efi ro")] {
            write_mounts(root.path(), MOUNTS);
            variables.set("Boot0000", b"somebody else's").expect("written");
            install(&host, Source::Bytes(Vec::new())).expect("put");
            check(&host).expect("possible").book().expect("booked");
            write_mounts(root.path(), &mounts);
            let said = take_away(&host).expect_err("what is on the partition stays").to_string();
            assert!(said.contains("EFI/keepstate") && said.contains("is not mounted for writing"), "{said}");
            assert_eq!(variables.boot_numbers().expect("listed"), [0]);
            assert_eq!(variables.get("BootNext").expect("looked"), None);
            take_away(&host).expect("nothing leads there any more");
        }
        write_mounts(root.path(), MOUNTS);
        take_away(&host).expect("taken away");
        assert_eq!(host::entries(&host.path("/boot/efi/EFI")).expect("listed").len(), 0);
    }

    #[test]
    fn every_reason_against_it_is_seen() {
        type Change = fn(&Path, &Host);
        let cases: [(Change, Why); 7] = [
            (|root, _| fs::remove_dir_all(root.join("sys/firmware")).expect("removed"), Why::NoUefi),
            (|_, host| Variables::of(host).set("SecureBoot", &[1]).expect("written"), Why::SecureBoot),
            (
                |root, _| write_mounts(root, &MOUNTS.replace("24 22", "24")),
                Why::NoVariables { why: "efivarfs is not mounted at /sys/firmware/efi/efivars".into() },
            ),
            (
                |root, _| write_mounts(root, &MOUNTS.replace("efivars rw", "efivars ro")),
                Why::NoVariables { why: "/sys/firmware/efi/efivars is mounted read-only".into() },
            ),
            (|root, _| write_mounts(root, &MOUNTS.replace("vfat", "ext4")), Why::NoSystemPartition),
            (|root, _| write_mounts(root, &MOUNTS.replace("efi rw", "efi ro")), Why::NoSystemPartition),
            (|root, _| fs::remove_dir_all(root.join("dev/disk/by-partuuid")).expect("removed"), Why::NoSystemPartition),
        ];
        for (change, why) in cases {
            let (root, host) = machine();
            change(root.path(), &host);
            assert_eq!(check(&host), Err(why));
        }
        let (root, host) = machine();
        fs::write(root.path().join("boot/vmlinuz"), "x").expect("written");
        assert!(matches!(check(&host), Err(Why::NoStub { .. })));
        fs::write(root.path().join("boot/vmlinuz"), "no program").expect("written");
        assert!(matches!(check(&host), Err(Why::NoStub { .. })));
    }

    #[test]
    fn the_kernel_itself_may_tell_a_partitions_guid() {
        let (root, host) = machine();
        fs::remove_dir_all(root.path().join("dev/disk/by-partuuid")).expect("removed");
        let uevent = "DEVTYPE=partition\nPARTUUID=00000000-0000-0000-0000-000000000001\n";
        fs::write(root.path().join("sys/devices/pci/nvme0n1/nvme0n1p1/uevent"), uevent).expect("written");
        assert_eq!(check(&host).expect("possible").drive.guid[15], 1);
        fs::write(root.path().join("sys/devices/pci/nvme0n1/nvme0n1p1/uevent"), "PARTUUID=1234abcd-01\n")
            .expect("written");
        assert_eq!(check(&host), Err(Why::NoSystemPartition), "an MBR's partition has none");
    }
}
