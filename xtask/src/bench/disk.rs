//! The disk that is flashed: a loop device with direct I/O, whose content can be set and whose traffic is counted.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::mount::Mount;
use crate::run;

/// What the disk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layers {
    /// A loop device over a file on the machine's disk.
    Plain,
    /// A loop device over a sparse file on a filesystem of its own, on a second loop device. What the second one is held
    /// to, holds for data only: zeroing a range and reading a hole do not reach it. Cloud volumes behave so.
    ZeroesItself,
}

/// Bytes that went over a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Read from it.
    pub(crate) read: u64,
    /// Written to it; on [`Layers::Plain`] that includes ranges that were only said to be zero.
    pub(crate) written: u64,
}

/// A loop device that is detached with the value.
#[derive(Debug)]
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn attach(file: &Path) -> Result<Self> {
        let mut losetup = run::command("losetup", ["--show", "--find", "--direct-io=on"]);
        let path = run::output(losetup.arg(file)).context("making a loop device (needs root)")?;
        Ok(Self { path: PathBuf::from(path.trim()) })
    }

    fn sys(&self, file: &str) -> Result<String> {
        let name = self.path.file_name().context("a loop device without a name")?;
        let path = Path::new("/sys/block").join(name).join(file);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    fn traffic(&self) -> Result<Traffic> {
        let stat = self.sys("stat")?;
        // Documentation/block/stat.rst: the third number is sectors read, the seventh sectors written, of 512 bytes.
        let sectors = |field: usize| -> Result<u64> {
            let number = stat.split_whitespace().nth(field).context("a short stat file")?;
            Ok(number.parse::<u64>()?)
        };
        Ok(Traffic { read: sectors(2)? * 512, written: sectors(6)? * 512 })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = run::run("losetup", [Path::new("--detach"), &self.path]) {
            run::say(&format!("{} stays attached: {error:#}", self.path.display()));
        }
    }
}

/// The disk. Fields are in the order in which they must go.
#[derive(Debug)]
pub(crate) struct Disk {
    device: Loop,
    below: Option<Below>,
    files: Vec<PathBuf>,
}

#[derive(Debug)]
struct Below {
    _mount: Mount,
    device: Loop,
}

impl Disk {
    /// A disk of `size` bytes, all zero, with its files in `directory`.
    pub(crate) fn new(layers: Layers, size: u64, directory: &Path) -> Result<Self> {
        match layers {
            Layers::Plain => {
                let file = directory.join("disk");
                sparse(&file, size)?;
                Ok(Self { device: Loop::attach(&file)?, below: None, files: vec![file] })
            }
            Layers::ZeroesItself => {
                let lower = directory.join("below");
                // Room for all of the disk and for the filesystem's own.
                sparse(&lower, size + (2 << 30))?;
                let device = Loop::attach(&lower)?;
                let mut mkfs = run::command("mke2fs", ["-q", "-F", "-t", "ext4", "-E"]);
                mkfs.arg("lazy_itable_init=0,lazy_journal_init=0,nodiscard").arg(&device.path);
                run::quietly(&mut mkfs)?;
                let mount = Mount::new(&device.path, "noatime", directory.join("filesystem"))?;
                let file = mount.path().join("disk");
                sparse(&file, size)?;
                let below = Some(Below { _mount: mount, device });
                Ok(Self { device: Loop::attach(&file)?, below, files: vec![lower] })
            }
        }
    }

    /// The device to flash.
    pub(crate) fn path(&self) -> &Path {
        &self.device.path
    }

    /// The device to throttle, as the kernel numbers it.
    pub(crate) fn throttled_number(&self) -> Result<String> {
        let device = self.below.as_ref().map_or(&self.device, |below| &below.device);
        Ok(device.sys("dev")?.trim().to_owned())
    }

    /// Whether [`Disk::traffic`] counts ranges that were only said to be zero as written.
    pub(crate) fn counts_zeroing(&self) -> bool {
        self.below.is_none()
    }

    /// What has gone over it since it was made.
    pub(crate) fn traffic(&self) -> Result<Traffic> {
        self.below.as_ref().map_or(&self.device, |below| &below.device).traffic()
    }

    /// Makes the disk all zero, or equal to a disk in a file, and forgets what is cached of it.
    pub(crate) fn set(&self, image: Option<&Path>) -> Result<()> {
        run::run("blkdiscard", [self.path()]).context("emptying the test disk")?;
        if let Some(image) = image {
            let mut dd = run::command("dd", ["bs=1M", "oflag=direct", "conv=sparse,notrunc", "status=none"]);
            dd.arg(format!("if={}", image.display())).arg(format!("of={}", self.path().display()));
            run::quietly(&mut dd)?;
        }
        forget_caches()
    }

    /// The BLAKE3 of what is on the device now, read past the cache.
    pub(crate) fn digest(&self) -> Result<blake3::Hash> {
        forget_caches()?;
        let mut dd = run::command("dd", ["bs=4M", "iflag=direct", "status=none"]);
        dd.arg(format!("if={}", self.path().display())).stdout(Stdio::piped());
        let mut child = dd.spawn().context("starting dd")?;
        let digest = digest_of(child.stdout.take().context("dd has no output")?)?;
        ensure!(child.wait()?.success(), "dd could not read {}", self.path().display());
        Ok(digest)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The files' space is free as soon as the devices above let go of them.
        for file in &self.files {
            if let Err(error) = fs::remove_file(file) {
                run::say(&format!("{} could not be removed: {error}", file.display()));
            }
        }
    }
}

/// The BLAKE3 of everything that a reader gives.
pub(crate) fn digest_of(mut reader: impl Read) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            length => hasher.update(&buffer[..length]),
        };
    }
}

/// Writes out and drops the page cache, so that every run begins alike.
pub(crate) fn forget_caches() -> Result<()> {
    run::run("sync", [""; 0])?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches (needs root)")
}

fn sparse(path: &Path, size: u64) -> Result<()> {
    let file = fs::File::create(path).with_context(|| format!("making {}", path.display()))?;
    file.set_len(size)?;
    Ok(())
}
