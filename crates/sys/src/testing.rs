//! Real block devices for tests and benchmarks: loop devices and mounts that go away when dropped. Needs root.
//!
//! Behind the feature `testing`, which nothing that is delivered enables.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device over a file; detached when dropped.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    partitions: bool,
}

impl LoopDevice {
    /// Attaches `backing`, with logical sectors of `sector_size` bytes.
    pub fn attach(backing: &Path, sector_size: u32) -> io::Result<Self> {
        Self::attach_with(backing, sector_size, &[])
    }

    /// The same, with more options of `losetup`, such as `--direct-io=on` or `--read-only`.
    pub fn attach_with(backing: &Path, sector_size: u32, options: &[&str]) -> io::Result<Self> {
        let sector_size = sector_size.to_string();
        let mut arguments = vec!["--find".as_ref(), "--show".as_ref(), "--sector-size".as_ref(), sector_size.as_ref()];
        arguments.extend(options.iter().map(OsStr::new));
        arguments.push(backing.as_os_str());
        let output = run("losetup", &arguments)?;
        Ok(Self { path: output.trim().into(), partitions: false })
    }

    /// Its node, `/dev/loop0`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, `loop0`.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Writes a partition table, in the words of `sfdisk`, and makes the kernel know its partitions.
    pub fn partition(&mut self, script: &str) -> io::Result<()> {
        let script_file = tempfile_with(script)?;
        let sh = "sfdisk --quiet --no-reread --no-tell-kernel \"$0\" < \"$1\" && partx --add \"$0\"";
        let arguments = ["-c".as_ref(), sh.as_ref(), self.path.as_os_str(), script_file.path().as_os_str()];
        run("sh", &arguments)?;
        self.partitions = true;
        Ok(())
    }

    /// The node of its partition `number`, `/dev/loop0p1`.
    pub fn partition_path(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}p{number}", self.path.display()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Nobody is left to tell; a device that stays is seen in the next `losetup --all`.
        if self.partitions {
            let _ = run("partx", &["--delete".as_ref(), self.path.as_os_str()]);
        }
        let _ = run("losetup", &["--detach".as_ref(), self.path.as_os_str()]);
    }
}

/// A mount; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Mounts `source` (anything for `ramfs`) on the folder `point`.
    pub fn new(source: &Path, point: &Path, filesystem: &str) -> io::Result<Self> {
        run("mount", &["-t".as_ref(), filesystem.as_ref(), source.as_os_str(), point.as_os_str()])?;
        Ok(Self { point: point.into() })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run("umount", &[self.point.as_os_str()]);
    }
}

/// Runs a program and returns what it printed; what it complained about is the error.
pub fn run(program: &str, arguments: &[&OsStr]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(format!("{program} {arguments:?}: {} {complaint}", output.status)))
    }
}

fn tempfile_with(text: &str) -> io::Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    Ok(file)
}
