//! The archive: cpio in its `newc` form (`Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Compression, Contents, Entry, Source};
use crate::error::{Error, Result};

/// Sizes are eight hexadecimal digits.
const LENGTH_MAX: u64 = u32::MAX as u64;
/// Files begin and end on words, the archive on sectors: what is appended to it is then found.
const WORD: u64 = 4;
const SECTOR: u64 = 512;
/// What the last entry is called.
const TRAILER: &str = "TRAILER!!!";

/// Kinds of files, as in `st_mode`.
const KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

impl Contents {
    /// Writes the archive to `path` and flushes it; a file that stands there is replaced only by a whole one. Nobody but
    /// its owner may read it: jobs hold credentials.
    pub fn write_archive_file(&self, path: &Path, compression: Compression) -> Result<()> {
        let failed = |source| Error::file("writing", path)(source);
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = Path::new(&part);
        // What an earlier one left there may be open to others.
        match std::fs::remove_file(part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).map_err(failed)?;
        let written = self.write_archive(&mut file, compression);
        let written = written.and_then(|()| file.sync_all().map_err(failed));
        let written = written.and_then(|()| std::fs::rename(part, path).map_err(failed));
        if written.is_err() {
            // What is left of it is of no use; that the first error is told matters more than this one.
            let _ = std::fs::remove_file(part);
        }
        written?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Writes the archive. The same contents give the same bytes: no times, no owners, no inode numbers of ours.
    pub fn write_archive(&self, out: impl Write, compression: Compression) -> Result<()> {
        compression.write(out, |out| self.write_plain(out))
    }

    fn write_plain(&self, out: &mut dyn Write) -> Result<()> {
        let mut archive = Archive { out, written: 0, inode: 0 };
        for (path, entry) in self.entries() {
            match entry {
                Entry::Directory(mode) => archive.entry(path, DIRECTORY | mode, (0, 0), &Source::Bytes(Vec::new()))?,
                Entry::File { mode, source } => archive.entry(path, FILE | mode, (0, 0), source)?,
                Entry::Link(target) => {
                    archive.entry(path, LINK | 0o777, (0, 0), &Source::Bytes(target.clone().into_bytes()))?;
                }
                Entry::Device { mode, major, minor } => {
                    archive.entry(path, DEVICE | mode, (*major, *minor), &Source::Bytes(Vec::new()))?;
                }
            }
        }
        archive.inode = 0;
        archive.entry(TRAILER, 0, (0, 0), &Source::Bytes(Vec::new()))?;
        archive.pad(SECTOR)
    }
}

struct Archive<'a> {
    out: &'a mut dyn Write,
    written: u64,
    inode: u32,
}

impl Archive<'_> {
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), source: &Source) -> Result<()> {
        let length = source.len()?;
        if length > LENGTH_MAX {
            return Err(Error::unusable(Path::new(path), "it is 4 GiB or longer, and no initramfs holds that"));
        }
        let links = if mode & KIND == DIRECTORY { 2 } else { 1 };
        let name_length = path.len() as u32 + 1;
        // Inode, mode, owner, group, links, time, length, the archive's device, this device, the name's length, checksum.
        let numbers = [self.inode, mode, 0, 0, links, 0, length as u32, 0, 0, device.0, device.1, name_length, 0];
        self.inode += 1;
        let numbers = numbers.map(|number| format!("{number:08x}"));
        let header = format!("070701{}", numbers.concat());
        self.bytes(header.as_bytes())?;
        self.bytes(path.as_bytes())?;
        self.bytes(&[0])?;
        self.pad(WORD)?;
        match source {
            Source::Bytes(bytes) => self.bytes(bytes)?,
            Source::File(file) => self.file(file, length)?,
        }
        self.pad(WORD)
    }

    fn file(&mut self, path: &Path, length: u64) -> Result<()> {
        let failed = |source| Error::file("reading", path)(source);
        let mut file = File::open(path).map_err(failed)?;
        let mut buffer = vec![0; 1 << 16];
        let mut left = length;
        loop {
            let read = match file.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            // Not one byte more or less than its header says: everything behind it would be nonsense.
            match left.checked_sub(read as u64) {
                Some(0) if read == 0 => return Ok(()),
                Some(after) if read > 0 => left = after,
                _ => return Err(failed(io::Error::other("its length changed while it was read"))),
            }
            self.bytes(&buffer[..read])?;
        }
    }

    fn pad(&mut self, unit: u64) -> Result<()> {
        let length = self.written.next_multiple_of(unit) - self.written;
        self.bytes(&[0; SECTOR as usize][..length as usize])
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::file("writing", Path::new("the initramfs")))?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn contents() -> Contents {
        let mut contents = Contents::default();
        contents.file("init", 0o755, Source::Bytes(b"#!".to_vec())).expect("added");
        contents.link("bin/sh", "/init").expect("added");
        contents.device("dev/console", 0o600, 5, 1).expect("added");
        contents
    }

    #[test]
    fn the_same_contents_give_the_same_bytes() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            contents().write_archive(&mut first, compression).expect("written");
            contents().write_archive(&mut second, compression).expect("written");
            assert_eq!(first, second, "{compression:?}");
            assert!(!first.is_empty());
        }
    }

    #[test]
    fn an_archive_ends_on_a_sector() {
        let mut archive = Vec::new();
        contents().write_archive(&mut archive, Compression::None).expect("written");
        assert_eq!(archive.len() % 512, 0);
        assert!(archive.starts_with(b"070701"));
    }

    #[test]
    fn a_file_that_grows_or_shrinks_meanwhile_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), b"1234").expect("written");
        for wrong in [3, 5] {
            let mut out = Vec::new();
            let mut archive = Archive { out: &mut out, written: 0, inode: 0 };
            let error = archive.file(file.path(), wrong).expect_err("another length");
            assert!(std::error::Error::source(&error).expect("a cause").to_string().contains("changed"), "{error:?}");
        }
    }

    #[test]
    fn a_file_too_long_for_the_format_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(1 << 32).expect("sparse");
        let mut contents = Contents::default();
        contents.file("f", 0o644, Source::File(file.path().into())).expect("added");
        let said = contents.write_archive(io::sink(), Compression::None).expect_err("too long").to_string();
        assert!(said.contains("4 GiB"), "{said}");
    }

    #[test]
    fn a_whole_archive_takes_the_place_of_another_or_nothing_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("imager.img");
        contents().write_archive_file(&path, Compression::Gzip).expect("written");
        let before = fs::read(&path).expect("there");
        let mut broken = contents();
        broken.file("x", 0o644, Source::File(directory.path().join("none"))).expect("added");
        broken.write_archive_file(&path, Compression::Gzip).expect_err("a file is missing");
        assert_eq!(fs::read(&path).expect("there"), before);
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1, "nothing is left lying about");
    }

    #[test]
    fn nobody_else_reads_what_a_job_holds() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("imager.img");
        let part = directory.path().join("imager.img.part");
        fs::write(&part, "of an earlier run").expect("written");
        fs::set_permissions(&part, PermissionsExt::from_mode(0o644)).expect("set");
        contents().write_archive_file(&path, Compression::None).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!part.exists());
        fs::create_dir(&part).expect("made");
        contents().write_archive_file(&path, Compression::None).expect_err("a directory stands there");
    }

    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_whatever_the_compression() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            contents().write_archive(Full, compression).expect_err("full");
        }
    }
}
