//! The entrance to the imager: which of the ways is gone, what is put there before, and how the OS is ended.
//!
//! ```text
//!              build (the node serves)       arm (nothing runs any more)      restart
//! takeover     –                             a tree in memory                 systemctl reboot
//! boot-entry   kernel and imager in /boot    the entry is booked, once        systemctl reboot; shutdown -r now
//! kexec        the imager in memory          the kernel is loaded             systemctl kexec
//! ```
//! What takes long, or writes to the root disk, is done by `build`: before traffic goes, and before what is dirty is
//! taken up for the last time.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use boot::command_line::Arguments;
use boot::grub::BootEntry;
use boot::initramfs::{Compression, Contents, Parts, Source};
use boot::modules::{Missing, Modules, Wanted, resolve};
use boot::takeover::Takeover;
use boot::ways::{self, Kind, Way};
use boot::{Host, efi, grub, kexec};
use flash::target::filesystem_of;
use imager::job::Entry;
use imager::worker::chain;
use rustix::fs::MemfdFlags;
use steps::Failure;

use crate::commands::{self, Ended};
use crate::enter::{Given, PROGRAM};
use crate::error::{Error, Result};

/// Says that a kernel which is loaded for kexec is ours. In memory, as that kernel is.
const LOADED: &str = "/run/keepstate/kexec-loaded";
/// What the imager mounts besides the place: the root that it has flashed. Images of earlier releases do not say which.
const NEW_ROOT: &str = "ext4";
/// The module that gives loop devices: a place behind the image is mounted through one.
const LOOP: &str = "loop";

/// How long the init may take to say that it will restart the machine.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);

/// The ways into the imager, and the one that is gone.
#[derive(Debug)]
pub struct Entrance {
    host: Host,
    modules: Modules,
    /// Of these, what a takeover needs besides what is loaded.
    late: Modules,
    ways: Vec<Way>,
    chosen: Result<Kind, String>,
    /// What the imager is made of, bytes.
    size: u64,
    archive: Option<File>,
}

impl Entrance {
    /// Looks at every way of this host. `wanted` is the only one that may be gone; `place` the directory that the imager mounts;
    /// `loops` whether it does so through a loop device; `root` what the image's root filesystem is; `working_bytes` what the
    /// imager needs of memory while it works. Changes nothing.
    pub fn look(
        host: Host,
        wanted: Option<Entry>,
        place: &Path,
        loops: bool,
        root: Option<&str>,
        working_bytes: u64,
    ) -> Result<Self> {
        let root = root.unwrap_or(NEW_ROOT);
        // Where it is not there yet, it will be made where its parent is; preflight refuses what cannot be mounted.
        let there = place.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let kind = filesystem_of(there).ok().map(|filesystem| filesystem.kind);
        let mut filesystems: Vec<String> = [kind, Some(root.into())].into_iter().flatten().collect();
        filesystems.dedup();
        let modules = modules(&host, filesystems, loops)?;
        let late = for_takeover(&host, &modules, &self::modules(&host, Vec::new(), false)?);
        let parts = Parts { binary: PROGRAM.into(), job: Vec::new(), modules: &modules };
        let size = parts.for_kernel()?.size()?;
        let ways = ways::choose(&ways::Facts::read(&host, &modules, size, working_bytes)?);
        let chosen = choose(&ways, wanted).and_then(|kind| knows(&modules, root).map(|()| kind));
        Ok(Self { host, modules, late, ways, chosen, size, archive: None })
    }

    /// The way that is gone, and what is to be said of the others; or why none can be.
    pub fn seen(&self) -> Result<String, String> {
        let kind = self.chosen.clone()?;
        let others = self.ways.iter().filter(|way| way.kind != kind).map(|way| match &way.possible {
            Ok(()) => format!("{} would do, too", name(way.kind)),
            Err(why) => format!("not {}: {why}", name(way.kind)),
        });
        Ok(std::iter::once(name(kind).to_owned()).chain(others).collect::<Vec<_>>().join("; "))
    }

    /// The word for the way that is gone.
    pub fn entry(&self) -> Result<Entry> {
        Ok(match self.kind()? {
            Kind::Takeover => Entry::Takeover,
            Kind::GrubEntry | Kind::FirmwareEntry => Entry::BootEntry,
            Kind::Kexec => Entry::Kexec,
        })
    }

    fn kind(&self) -> Result<Kind> {
        self.chosen.clone().map_err(Error::Refused)
    }

    /// Makes what takes its time. A reboot notices nothing of it.
    pub fn build(&mut self, given: &Given) -> Result<()> {
        match self.kind()? {
            Kind::Takeover => {}
            Kind::GrubEntry => {
                let (kernel, arguments) = (self.kernel()?, self.arguments()?);
                self.grub()?.install(&kernel, &self.contents(given)?, self.compression()?, &arguments)?;
            }
            Kind::FirmwareEntry => {
                let (kernel, arguments) = (self.kernel()?, self.arguments()?);
                self.firmware()?.install(&kernel, &self.contents(given)?, self.compression()?, &arguments)?;
            }
            Kind::Kexec => {
                let failed = |source| Error::File { doing: "making", path: "the imager in memory".into(), source };
                let memory = rustix::fs::memfd_create("imager", MemfdFlags::CLOEXEC);
                let memory = File::from(memory.map_err(|errno| failed(errno.into()))?);
                self.contents(given)?.write_archive(&memory, self.compression()?)?;
                self.archive = Some(memory);
            }
        }
        Ok(())
    }

    /// Keeps the room that [`Entrance::build`] will need on the root disk, which others may fill until then.
    pub fn keep_room(&self) -> Result<()> {
        if self.kind()? == Kind::GrubEntry {
            self.grub()?.keep_room(&self.kernel()?, self.size)?;
        }
        Ok(())
    }

    /// From here on the next restart, whoever asks for it, leads into the imager.
    pub fn arm(&self, given: &Given) -> Result<()> {
        match self.kind()? {
            Kind::Takeover => {
                let parts = Parts { binary: PROGRAM.into(), job: given.files(), modules: &self.late };
                Ok(Takeover::new(&self.host).put(&parts.for_takeover()?)?)
            }
            Kind::GrubEntry => Ok(self.grub()?.book()?),
            Kind::FirmwareEntry => Ok(self.firmware()?.book()?),
            Kind::Kexec => {
                let archive = self.archive.as_ref().ok_or_else(|| refused("the imager was not built"))?;
                let entry = BootEntry {
                    kernel: self.kernel()?,
                    initramfs: vec![format!("/proc/self/fd/{}", archive.as_raw_fd()).into()],
                    command_line: self.arguments()?.to_string(),
                };
                // Noted first: what is ours is what we take away.
                sys_write(Path::new(LOADED))?;
                Ok(kexec::load(&entry)?)
            }
        }
    }

    /// Asks for an orderly restart by which the imager is entered. Returns at once; what is left of this process ends with
    /// the OS.
    pub fn restart(&self) -> Result<(), Failure> {
        let kind = self.kind().map_err(|error| Failure::last(error.to_string()))?;
        let commands: &[&[&str]] = match kind {
            Kind::Kexec => &[&["systemctl", "--no-block", "kexec"]],
            _ if self.host.is_systemd() => &[&["systemctl", "--no-block", "reboot"]],
            // sysvinit, OpenRC and runit have the first, busybox only the second.
            _ => &[&["shutdown", "-r", "now"], &["reboot"]],
        };
        let mut last = String::new();
        for command in commands {
            match run(command) {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
        }
        Err(Failure::passing(last))
    }

    fn contents(&self, given: &Given) -> Result<Contents> {
        Ok(Parts { binary: PROGRAM.into(), job: given.files(), modules: &self.modules }.for_kernel()?)
    }

    fn kernel(&self) -> Result<PathBuf> {
        let release = self.host.release()?;
        self.host.kernel_file(&release).ok_or_else(|| refused(&format!("the kernel {release} is not below /boot")))
    }

    fn arguments(&self) -> Result<Arguments> {
        Ok(Arguments::for_imager(&self.host, &[])?)
    }

    fn compression(&self) -> Result<Compression> {
        let config = self.host.kernel_config(&self.host.release()?)?;
        Ok(Compression::of_kernel(&config.unwrap_or_default()))
    }

    fn grub(&self) -> Result<grub::Place> {
        grub::Place::find(&self.host)?.map_err(|why| refused(&why))
    }

    fn firmware(&self) -> Result<efi::Place> {
        let facts = efi::Facts::read(&self.host)?;
        Ok(facts.check(&self.kernel()?)?.map_err(|why| refused(&why))?.clone())
    }
}

/// Takes away whatever of any way stands there, from this boot or an earlier one: of each, whatever becomes of the others. Nothing
/// there: nothing happens.
pub fn disarm(host: &Host) -> Result<()> {
    let takeover = Takeover::new(host).take_away();
    let grub = grub::Place::standing(host).and_then(|place| place.map_or(Ok(()), |place| place.remove()));
    let firmware = efi::take_away(host);
    let kexec = unload(host);
    takeover?;
    grub?;
    firmware?;
    kexec
}

/// Has the kernel forget what was loaded for kexec, if that was ours.
fn unload(host: &Host) -> Result<()> {
    let loaded = host.path(LOADED);
    if loaded.exists() {
        kexec::unload()?;
        std::fs::remove_file(&loaded).map_err(|source| Error::File { doing: "removing", path: loaded, source })?;
    }
    Ok(())
}

/// The first way that can be gone, among those that may be.
fn choose(ways: &[Way], wanted: Option<Entry>) -> Result<Kind, String> {
    let word = wanted.map(|entry| match entry {
        Entry::Takeover => "takeover",
        Entry::BootEntry => "boot-entry",
        Entry::Kexec => "kexec",
    });
    let may: Vec<_> = ways.iter().filter(|way| word.is_none_or(|word| way.kind.entry() == word)).cloned().collect();
    ways::first(&may).ok_or_else(|| {
        let reasons =
            may.iter().filter_map(|way| Some(format!("{}: {}", name(way.kind), way.possible.as_ref().err()?)));
        reasons.collect::<Vec<_>>().join("; ")
    })
}

/// How a person is told of a way.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Takeover => "takeover",
        Kind::GrubEntry => "boot-entry (GRUB)",
        Kind::FirmwareEntry => "boot-entry (firmware)",
        Kind::Kexec => "kexec",
    }
}

/// What a fresh kernel has to load here. Where that cannot be told nothing can be loaded, and every way that needs it says
/// why; the same kernel has it loaded.
fn modules(host: &Host, filesystems: Vec<String>, loops: bool) -> Result<Modules> {
    let mut wanted = Wanted { release: host.release()?, filesystems, ..Wanted::default() };
    wanted.also.extend(loops.then(|| LOOP.to_owned()));
    Ok(resolve(host, &wanted).unwrap_or_else(|error| Modules {
        missing: vec![Missing { name: "of any disk".into(), because: chain(&error) }],
        ..Modules::default()
    }))
}

/// Of these the running kernel has what the machine needs; it may lack a watchdog, loop devices, and what mounts the new
/// root: what is not among those that the `devices` need.
fn for_takeover(host: &Host, modules: &Modules, devices: &Modules) -> Modules {
    let is_watchdog = |file: &Path| file.components().any(|part| part.as_os_str() == "watchdog");
    let is_device_s = |name: &str| devices.modules.iter().any(|module| module.name == name);
    let is_new = |name: &str| !host.path("/sys/module").join(name).exists();
    let of = modules
        .modules
        .iter()
        .filter(|module| (is_watchdog(&module.file) || !is_device_s(&module.name)) && is_new(&module.name));
    Modules { modules: of.cloned().collect(), ..Modules::default() }
}

/// Fails if this kernel cannot mount the image's root: what the node keeps could not be put there.
fn knows(modules: &Modules, root: &str) -> Result<(), String> {
    if modules.missing.iter().all(|missing| missing.name != root) {
        return Ok(());
    }
    Err(format!(
        "the image's root is {root}, which this node's kernel does not know: install the package with its modules (on Debian \
         linux-image-amd64), or take an image with another root"
    ))
}

fn sys_write(path: &Path) -> Result<()> {
    let failed = |source| Error::File { doing: "writing", path: path.into(), source };
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
    std::fs::write(path, "").map_err(failed)
}

fn run(command: &[&str]) -> Result<(), String> {
    let text = command.join(" ");
    let (program, arguments) = command.split_first().ok_or("no command")?;
    // systemd 254 would take a kernel that somebody loaded, and 256 a tree that somebody prepared, for what was meant.
    let mut command = Command::new(program);
    command.args(arguments).env("SYSTEMCTL_SKIP_AUTO_KEXEC", "1").env("SYSTEMCTL_SKIP_AUTO_SOFT_REBOOT", "1");
    match commands::run(&mut command, Vec::new(), Instant::now() + COMMAND_WITHIN) {
        Ok(Ended { status: Some(status), .. }) if status.success() => Ok(()),
        Ok(Ended { status: Some(_), said }) => Err(format!("{text}: {said}")),
        Ok(Ended { status: None, said }) => Err(format!("{text} did not end in time: {said}")),
        Err(error) => Err(format!("running {text}: {error}")),
    }
}

fn refused(why: &(impl ToString + ?Sized)) -> Error {
    Error::Refused(why.to_string())
}

/// What stands beside the program in the imager.
pub(crate) type Files = Vec<(String, Source)>;

#[cfg(test)]
mod tests {
    use boot::Why;
    use boot::modules::Module;

    use super::*;

    fn ways(possible: [bool; 4]) -> Vec<Way> {
        let way = |(kind, possible)| Way { kind, possible: if possible { Ok(()) } else { Err(Why::Container) } };
        ways::ORDER.into_iter().zip(possible).map(way).collect()
    }

    #[test]
    fn the_first_way_that_can_be_gone_is_chosen_unless_one_is_named() {
        let all = ways([true; 4]);
        assert_eq!(choose(&all, None), Ok(Kind::Takeover));
        assert_eq!(choose(&all, Some(Entry::BootEntry)), Ok(Kind::GrubEntry));
        assert_eq!(choose(&all, Some(Entry::Kexec)), Ok(Kind::Kexec));
        assert_eq!(choose(&ways([false, false, true, true]), None), Ok(Kind::FirmwareEntry));
        assert_eq!(choose(&ways([false, false, true, true]), Some(Entry::BootEntry)), Ok(Kind::FirmwareEntry));
    }

    #[test]
    fn where_none_can_be_gone_each_says_why() {
        let said = choose(&ways([false; 4]), None).unwrap_err();
        for name in ["takeover: ", "boot-entry (GRUB): ", "boot-entry (firmware): ", "kexec: "] {
            assert!(said.contains(name), "{said}");
        }
        let said = choose(&ways([true, true, true, false]), Some(Entry::Kexec)).unwrap_err();
        assert!(said.starts_with("kexec: ") && !said.contains("takeover"), "{said}");
    }

    #[test]
    fn what_is_said_of_a_way_says_it_of_the_others_too() {
        let ways = ways([false, true, true, false]);
        let chosen = choose(&ways, None);
        let entrance = Entrance {
            host: Host::here(),
            modules: Modules::default(),
            late: Modules::default(),
            ways,
            chosen,
            size: 0,
            archive: None,
        };
        let seen = entrance.seen().unwrap();
        assert!(seen.starts_with("boot-entry (GRUB); not takeover: this is a container"), "{seen}");
        assert!(seen.contains("boot-entry (firmware) would do, too; not kexec: "), "{seen}");
        assert_eq!(entrance.entry().unwrap(), Entry::BootEntry);
    }

    #[test]
    fn a_takeover_takes_only_watchdogs_loop_devices_and_filesystems_along_that_are_not_loaded_yet() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("sys/module/watchdog")).unwrap();
        std::fs::create_dir_all(root.path().join("sys/module/ext4")).unwrap();
        let module = |name: &str, file: &str| Module {
            name: name.into(),
            file: Path::new("/lib/modules/6.1/kernel").join(file),
            options: String::new(),
            because: String::new(),
        };
        let modules = Modules {
            modules: vec![
                module("virtio_blk", "drivers/block/virtio_blk.ko"),
                module("watchdog", "drivers/watchdog/watchdog.ko"),
                module("softdog", "drivers/watchdog/softdog.ko"),
                module("loop", "drivers/block/loop.ko"),
                module("libcrc32c", "lib/libcrc32c.ko"),
                module("xfs", "fs/xfs/xfs.ko"),
                module("ext4", "fs/ext4/ext4.ko"),
            ],
            missing: vec![Missing { name: "x".into(), because: String::new() }],
            ..Modules::default()
        };
        let devices = Modules { modules: modules.modules[..3].to_vec(), ..Modules::default() };
        let kept = for_takeover(&Host::below(root.path()), &modules, &devices);
        let names: Vec<_> = kept.modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["softdog", "loop", "libcrc32c", "xfs"]);
        assert_eq!(kept.missing, []);
    }

    #[test]
    fn a_root_that_this_kernel_cannot_mount_is_refused_with_advice() {
        let missing = vec![Missing { name: "xfs".into(), because: String::new() }];
        let modules = Modules { missing, ..Modules::default() };
        assert_eq!(knows(&modules, "ext4"), Ok(()));
        let why = knows(&modules, "xfs").unwrap_err();
        assert!(why.contains("the image's root is xfs") && why.contains("linux-image-amd64"), "{why}");
    }

    #[test]
    fn a_restart_that_fails_says_what_was_tried() {
        assert!(run(&["false"]).unwrap_err().starts_with("false: "));
        assert!(run(&["no-such-program", "now"]).unwrap_err().starts_with("running no-such-program now: "));
        run(&["true"]).unwrap();
    }
}
