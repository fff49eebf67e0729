//! Where GRUB's files are on this machine; putting our entry there, booking it, and taking both away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::custom::{self, ENTRY};
use super::environment::Environment;
use super::{Broken, config};
use crate::command_line::Arguments;
use crate::device::{self, Stack};
use crate::error::{Error, Result};
use crate::host::{self, Host};
use crate::initramfs::{Compression, Contents};
use crate::mounts;
use crate::why::Why;

/// Below GRUB's directory: ours.
const DIRECTORY: &str = "keepstate";
/// In it: says that GRUB's environment is ours too.
const MADE: &str = "made-grubenv";
/// In it, while nothing else is: room for what the way back will need.
const ROOM: &str = "room";
/// Filesystems that GRUB finds a file's blocks on, and whose files do not move: what `grub-install` is used with on
/// servers. Others (btrfs, ZFS, squashfs) GRUB does not write to (`/etc/grub.d/00_header`), or nobody tried.
const WRITABLE: [&str; 5] = ["ext2", "ext3", "ext4", "xfs", "vfat"];
/// The value that books an entry.
const BOOKING: &str = "next_entry";

/// GRUB's directory on a machine where an entry can be booted once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    directory: PathBuf,
}

impl Place {
    /// Finds it, or says why nothing can be booted once here.
    pub fn find(host: &Host) -> Result<Result<Self, Why>> {
        let Some((config, text)) = config::find(host)? else { return Ok(Err(Why::NoGrub)) };
        if let Err(why) = config::check(&host.inside(&config), &text) {
            return Ok(Err(why));
        }
        let directory = config.parent().unwrap_or(Path::new("/")).to_owned();
        let place = Self { directory };
        // Fedora of old: a link that leads to the ESP.
        let environment = fs::canonicalize(place.environment()).unwrap_or_else(|_| place.environment());
        let refuse = |what: String| Ok(Err(Why::GrubCannotClear { what }));
        let Some(mount) = mounts::of(host, &host.inside(&environment))? else {
            return refuse("a filesystem that the kernel does not list".into());
        };
        match device::stack(host, &mount)? {
            Stack::Plain { .. } => {}
            Stack::Mapped(name) => {
                return refuse(format!("{name}, a device mapper volume (LVM, encryption, multipath)"));
            }
            Stack::Array(name) => return refuse(format!("{name}, a software RAID")),
            Stack::None(filesystem) => return refuse(format!("{filesystem}, on no disk that the kernel describes")),
        }
        if !WRITABLE.contains(&mount.kind.as_str()) {
            return refuse(mount.kind);
        }
        if environment.exists() {
            let unusable = |why: String| {
                Ok(Err(Why::GrubEnvironment { path: host.inside(&environment).display().to_string(), why }))
            };
            match Environment::read(&environment) {
                Ok(found) => {
                    let booked = found.get(BOOKING).filter(|entry| !entry.is_empty() && entry != ENTRY);
                    if let Some(entry) = booked {
                        return Ok(Err(Why::GrubBooked { entry }));
                    }
                }
                Err(Error::Unusable { why, .. }) => return unusable(why),
                Err(error) => return Err(error),
            }
            if !Environment::has_blocks(&environment)? {
                return unusable(
                    "GRUB would find no blocks of it to write to; make it anew with `grub-editenv`".into(),
                );
            }
        }
        Ok(Ok(place))
    }

    /// Where something of ours stands, whatever speaks against booting it by now.
    pub fn standing(host: &Host) -> Result<Option<Self>> {
        let Some((config, _)) = config::find(host)? else { return Ok(None) };
        let place = Self { directory: config.parent().unwrap_or(Path::new("/")).to_owned() };
        let has_entry = host::text(&place.custom())?.is_some_and(|text| custom::without_entry(&text) != text);
        Ok((has_entry || place.own().exists()).then_some(place))
    }

    /// Whether `kernel` and an imager of `imager_bytes` have room there.
    pub fn check_room(&self, kernel: &Path, imager_bytes: u64) -> Result<Result<(), Why>> {
        room(&self.directory, kernel, imager_bytes)
    }

    /// Keeps room for `kernel` and an imager of `imager_bytes`, whatever else fills the filesystem, until they are put there or
    /// [`Place::remove`] is called.
    pub fn keep_room(&self, kernel: &Path, imager_bytes: u64) -> Result<()> {
        let bytes = fs::metadata(kernel).map_err(Error::file("reading", kernel))?.len() + imager_bytes;
        let own = self.own();
        fs::create_dir_all(&own).map_err(Error::file("making", &own))?;
        let path = own.join(ROOM);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let kept = file.and_then(|file| Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?));
        kept.map_err(|source| {
            // Half of it helps nobody, and may be what others lack.
            let _ = fs::remove_file(&path);
            Error::file("keeping room in", &own)(source)
        })
    }

    /// Puts kernel, imager and entry into place. Nothing is booked yet, so nothing changes but a menu that shows one
    /// line more. When anything fails, nothing of it is left.
    pub fn install(
        &self,
        kernel: &Path,
        contents: &Contents,
        compression: Compression,
        arguments: &Arguments,
    ) -> Result<()> {
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
        match fs::remove_file(own.join(ROOM)) {
            Err(error) if !host::is_absent(&error) => return Err(Error::file("giving back room in", &own)(error)),
            _ => {}
        }
        copy(kernel, &own.join("vmlinuz"))?;
        contents.write_archive_file(&own.join("imager.img"), compression)?;
        let path = self.custom();
        let before = host::text(&path)?.unwrap_or_default();
        replace(&path, &custom::with_entry(&before, DIRECTORY, arguments))?;
        let environment = self.environment();
        if !environment.exists() {
            // Noted first: what we made is what we take away.
            File::create(own.join(MADE)).map_err(Error::file("making", &own))?;
            Environment::create(&environment)?;
        }
        // GRUB reads the filesystem without its journal.
        flush(&self.directory)
    }

    /// Books our entry for the next boot.
    pub fn book(&self) -> Result<()> {
        let path = self.environment();
        let mut environment = Environment::read(&path)?;
        match environment.get(BOOKING) {
            Some(entry) if !entry.is_empty() && entry != ENTRY => {
                return Err(Error::unusable(&path, Why::GrubBooked { entry }.to_string()));
            }
            _ => environment.set(BOOKING, ENTRY).map_err(|broken| unusable(&path, broken))?,
        }
        environment.write(&path)?;
        flush(&self.directory)
    }

    /// Whether our entry is what the next boot leads to.
    pub fn is_booked(&self) -> Result<bool> {
        let path = self.environment();
        Ok(path.exists() && Environment::read(&path)?.get(BOOKING).as_deref() == Some(ENTRY))
    }

    /// Takes the booking back, if it is ours.
    pub fn unbook(&self) -> Result<()> {
        if !self.is_booked()? {
            return Ok(());
        }
        let path = self.environment();
        let mut environment = Environment::read(&path)?;
        environment.unset(BOOKING).map_err(|broken| unusable(&path, broken))?;
        environment.write(&path)
    }

    /// Takes booking, entry, imager and kernel away, in this order: what is booked is always there. Nothing there:
    /// nothing happens.
    pub fn remove(&self) -> Result<()> {
        self.unbook()?;
        let path = self.custom();
        if let Some(text) = host::text(&path)? {
            let rest = custom::without_entry(&text);
            if rest.is_empty() {
                fs::remove_file(&path).map_err(Error::file("removing", &path))?;
            } else if rest != text {
                replace(&path, &rest)?;
            }
        }
        let (own, environment) = (self.own(), self.environment());
        if own.join(MADE).exists() && environment.exists() && Environment::read(&environment)?.all().is_empty() {
            fs::remove_file(&environment).map_err(Error::file("removing", &environment))?;
        }
        match fs::remove_dir_all(&own) {
            Err(error) if !host::is_absent(&error) => return Err(Error::file("removing", &own)(error)),
            _ => {}
        }
        flush(&self.directory)
    }

    /// GRUB's environment.
    fn environment(&self) -> PathBuf {
        self.directory.join("grubenv")
    }

    /// What GRUB's own configuration reads besides itself.
    fn custom(&self) -> PathBuf {
        self.directory.join("custom.cfg")
    }

    fn own(&self) -> PathBuf {
        self.directory.join(DIRECTORY)
    }
}

fn unusable(path: &Path, broken: Broken) -> Error {
    Error::unusable(path, broken.to_string())
}

/// Whether a copy of `kernel` and `imager_bytes` fit below `directory`.
pub(crate) fn room(directory: &Path, kernel: &Path, imager_bytes: u64) -> Result<Result<(), Why>> {
    let needed = fs::metadata(kernel).map_err(Error::file("reading", kernel))?.len() + imager_bytes;
    let space = rustix::fs::statvfs(directory).map_err(|errno| Error::file("reading", directory)(errno.into()))?;
    let available = space.f_bavail * space.f_frsize;
    if available >= needed {
        return Ok(Ok(()));
    }
    Ok(Err(Why::Room { path: directory.display().to_string(), available, needed }))
}

/// Copies a file, flushed.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(Error::file("reading", from))?;
    let mut target = File::create(to).map_err(Error::file("writing", to))?;
    io::copy(&mut source, &mut target).and_then(|_| target.sync_all()).map_err(Error::file("writing", to))
}

/// Replaces a file by a whole new one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("cfg.part");
    let failed = |source| Error::file("writing", path)(source);
    let mut file = File::create(&part).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&part, path).map_err(failed)
}

/// Brings all of the filesystem below `directory` to its disk.
pub(crate) fn flush(directory: &Path) -> Result<()> {
    let failed = |source| Error::file("flushing", directory)(source);
    let opened = File::open(directory).map_err(failed)?;
    rustix::fs::syncfs(&opened).map_err(|errno| failed(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::DEBIAN;
    use super::*;
    use crate::device::tests::{add_block_device, write_mounts};
    use crate::initramfs::Source;

    /// A Debian on a plain partition.
    fn machine() -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        add_block_device(root, "259:2", "pci/nvme0n1/nvme0n1p2", &["partition"]);
        write_mounts(root, "22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n");
        fs::create_dir_all(root.join("boot/grub")).expect("made");
        fs::write(root.join("boot/grub/grub.cfg"), DEBIAN).expect("written");
        fs::write(root.join("boot/vmlinuz"), b"MZkernel").expect("written");
        Environment::create(&root.join("boot/grub/grubenv")).expect("made");
        let host = Host::below(root);
        (directory, host)
    }

    fn place(host: &Host) -> Place {
        Place::find(host).expect("read").expect("possible")
    }

    fn install(host: &Host) -> Result<()> {
        let mut contents = Contents::default();
        contents.file("init", 0o755, Source::Bytes(b"x".to_vec())).expect("added");
        let arguments = Arguments::parse("console=ttyS0");
        place(host).install(&host.path("/boot/vmlinuz"), &contents, Compression::None, &arguments)
    }

    /// Every file below a directory with its content.
    fn snapshot(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for path in host::entries(directory).expect("listed") {
            if path.is_dir() {
                found.extend(snapshot(&path));
            } else {
                found.push((path.clone(), fs::read(&path).expect("read")));
            }
        }
        found
    }

    #[test]
    fn what_is_put_in_and_booked_goes_again_without_a_trace() {
        let (_directory, host) = machine();
        let before = snapshot(&host.path("/boot"));
        let place = place(&host);
        assert!(!place.is_booked().expect("read"));
        install(&host).expect("put");
        assert!(!place.is_booked().expect("read"), "putting in books nothing");
        place.book().expect("booked");
        place.book().expect("booked again");
        assert!(place.is_booked().expect("read"));
        assert_eq!(fs::read(host.path("/boot/grub/keepstate/vmlinuz")).expect("there"), b"MZkernel");
        let custom = fs::read_to_string(host.path("/boot/grub/custom.cfg")).expect("there");
        assert!(custom.contains("--id keepstate-imager"), "{custom}");
        Place::find(&host).expect("read").expect("our own booking is no hindrance");
        place.remove().expect("removed");
        assert_eq!(snapshot(&host.path("/boot")), before);
        place.remove().expect("nothing to do");
    }

    /// A trial OS that filled its disk could not be left any more.
    #[test]
    fn room_that_is_kept_is_there_for_what_is_put_in_and_goes_without_a_trace() {
        let (_directory, host) = machine();
        let before = snapshot(&host.path("/boot"));
        let (place, room) = (place(&host), host.path("/boot/grub/keepstate/room"));
        for _ in 0..2 {
            place.keep_room(&host.path("/boot/vmlinuz"), 1 << 20).expect("there is room");
            assert_eq!(fs::metadata(&room).expect("kept").len(), (1 << 20) + 8);
        }
        install(&host).expect("put");
        assert!(!room.exists() && host.path("/boot/grub/keepstate/vmlinuz").exists());
        place.keep_room(&host.path("/boot/vmlinuz"), 1 << 20).expect("there is room");
        Place::standing(&host).expect("read").expect("it is there").remove().expect("removed");
        assert_eq!(snapshot(&host.path("/boot")), before);
        place.keep_room(&host.path("/boot/vmlinuz"), 1 << 60).expect_err("too much");
        assert!(!room.exists(), "what could not be kept is given back");
    }

    #[test]
    fn what_others_wrote_stays() {
        let (_directory, host) = machine();
        fs::write(host.path("/boot/grub/custom.cfg"), "set x=y\n").expect("written");
        let path = host.path("/boot/grub/grubenv");
        let mut environment = Environment::read(&path).expect("read");
        environment.set("saved_entry", "1").expect("room");
        environment.write(&path).expect("written");
        let before = snapshot(&host.path("/boot"));
        install(&host).expect("put");
        place(&host).book().expect("booked");
        place(&host).remove().expect("removed");
        assert_eq!(snapshot(&host.path("/boot")), before);
    }

    #[test]
    fn a_booking_of_somebody_else_is_neither_overwritten_nor_taken_back() {
        let (_directory, host) = machine();
        let place = place(&host);
        install(&host).expect("put");
        let path = host.path("/boot/grub/grubenv");
        let mut environment = Environment::read(&path).expect("read");
        environment.set(BOOKING, "windows").expect("room");
        environment.write(&path).expect("written");
        assert_eq!(Place::find(&host).expect("read"), Err(Why::GrubBooked { entry: "windows".into() }));
        place.book().expect_err("booked already");
        place.remove().expect("removed");
        assert_eq!(Environment::read(&path).expect("read").get(BOOKING).as_deref(), Some("windows"));
    }

    /// Nobody heard of it: who could not book any more did not take away either, and the job stayed.
    #[test]
    fn what_stands_where_nothing_can_be_booked_any_more_is_found_and_goes() {
        let (directory, host) = machine();
        assert_eq!(Place::standing(&host).expect("read"), None);
        let before = snapshot(&host.path("/boot"));
        let lvm = |root: &Path| write_mounts(root, "22 1 0:40 / / rw - btrfs /dev/nvme0n1p2 rw\n");
        install(&host).expect("put");
        lvm(directory.path());
        Place::find(&host).expect("read").expect_err("nothing can be booked here");
        Place::standing(&host).expect("read").expect("ours").remove().expect("removed");
        assert_eq!(snapshot(&host.path("/boot")), before);
        assert_eq!(Place::standing(&host).expect("read"), None);
    }

    #[test]
    fn an_entry_that_cannot_be_put_in_leaves_nothing() {
        let (_directory, host) = machine();
        let before = snapshot(&host.path("/boot"));
        let mut contents = Contents::default();
        contents.file("init", 0o755, Source::File("/nonexistent/file".into())).expect("added");
        let kernel = host.path("/boot/vmlinuz");
        let result = place(&host).install(&kernel, &contents, Compression::None, &Arguments::default());
        result.expect_err("a file is missing");
        assert_eq!(snapshot(&host.path("/boot")), before);
    }

    #[test]
    fn a_missing_environment_is_made_and_goes_again() {
        let (_directory, host) = machine();
        fs::remove_file(host.path("/boot/grub/grubenv")).expect("removed");
        let before = snapshot(&host.path("/boot"));
        assert!(!place(&host).is_booked().expect("read"));
        install(&host).expect("put");
        place(&host).book().expect("booked");
        assert!(place(&host).is_booked().expect("read"));
        place(&host).remove().expect("removed");
        assert_eq!(snapshot(&host.path("/boot")), before);
        // Unless somebody else wrote into it meanwhile.
        install(&host).expect("put");
        let path = host.path("/boot/grub/grubenv");
        let mut environment = Environment::read(&path).expect("read");
        environment.set("saved_entry", "1").expect("room");
        environment.write(&path).expect("written");
        place(&host).remove().expect("removed");
        assert!(path.exists());
    }

    #[test]
    fn a_full_environment_is_told() {
        let (_directory, host) = machine();
        let path = host.path("/boot/grub/grubenv");
        let mut environment = Environment::read(&path).expect("read");
        environment.set("x", &"y".repeat(920)).expect("room");
        environment.write(&path).expect("written");
        let said = place(&host).book().expect_err("full").to_string();
        assert!(said.contains("it is full"), "{said}");
    }

    /// Why nothing can be booted once on a machine where something was changed.
    fn why(change: impl FnOnce(&Path)) -> Why {
        let (directory, host) = machine();
        change(directory.path());
        Place::find(&host).expect("read").expect_err("refused")
    }

    #[test]
    fn where_grub_cannot_write_nothing_is_booked() {
        let what = |why: Why| match why {
            Why::GrubCannotClear { what } => what,
            other => panic!("{other}"),
        };
        let mapped = why(|root| {
            add_block_device(root, "253:0", "virtual/block/dm-0", &["dm/uuid"]);
            write_mounts(root, "22 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n");
        });
        assert!(what(mapped).starts_with("dm-0, a device mapper volume"));
        let array = why(|root| {
            add_block_device(root, "9:0", "virtual/block/md0", &["md/level"]);
            write_mounts(root, "22 1 259:2 / / rw - ext4 x rw\n23 22 9:0 / /boot rw - ext4 /dev/md0 rw\n");
        });
        assert_eq!(what(array), "md0, a software RAID");
        let btrfs = why(|root| write_mounts(root, "22 1 0:25 /@ / rw - btrfs /dev/nvme0n1p2 rw\n"));
        assert_eq!(what(btrfs), "btrfs");
        let overlay = why(|root| write_mounts(root, "22 1 0:25 / / rw - overlay overlay rw\n"));
        assert_eq!(what(overlay), "overlay, on no disk that the kernel describes");
        let nothing = why(|root| write_mounts(root, "22 1 259:2 / /other rw - ext4 x rw\n"));
        assert_eq!(what(nothing), "a filesystem that the kernel does not list");
    }

    #[test]
    fn a_menu_that_would_not_show_it_or_an_environment_that_is_none_is_refused() {
        assert_eq!(why(|root| fs::remove_file(root.join("boot/grub/grub.cfg")).expect("removed")), Why::NoGrub);
        let without = DEBIAN.replace("custom.cfg", "x");
        let refused = why(|root| fs::write(root.join("boot/grub/grub.cfg"), &without).expect("written"));
        assert_eq!(refused, Why::GrubNoCustom { config: "/boot/grub/grub.cfg".into() });
        let refused = why(|root| fs::write(root.join("boot/grub/grubenv"), vec![0; 1024]).expect("written"));
        assert!(matches!(refused, Why::GrubEnvironment { .. }), "{refused}");
        let refused = why(|root| {
            let path = root.join("boot/grub/grubenv");
            let mut bytes = Environment::default().as_bytes().to_vec();
            bytes.resize(16 << 10, b'#');
            fs::write(&path, &bytes[..200]).expect("written");
            File::options().write(true).open(&path).and_then(|file| file.set_len(60 << 10)).expect("a hole");
        });
        assert!(matches!(refused, Why::GrubEnvironment { .. }), "{refused}");
    }

    #[test]
    fn room_is_asked_for_before_anything_is_written() {
        let (_directory, host) = machine();
        let kernel = host.path("/boot/vmlinuz");
        place(&host).check_room(&kernel, 1).expect("read").expect("there is");
        let refused = place(&host).check_room(&kernel, 1 << 60).expect("read").expect_err("too much");
        assert!(matches!(refused, Why::Room { needed, .. } if needed > 1 << 60), "{refused}");
        place(&host).check_room(&host.path("/boot/none"), 1).expect_err("no kernel");
    }
}
