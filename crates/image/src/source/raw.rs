//! A raw disk: a file, read by its holes, or a block device.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileTypeExt;

use jiff::Timestamp;
use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;

use super::{Error, Extent, Source};

pub(super) struct Raw {
    name: String,
    file: File,
    size: u64,
    position: u64,
    /// Where the data that `position` stands in ends, when holes can be asked for.
    data_end: u64,
    modified: Option<Timestamp>,
    is_device: bool,
}

impl Raw {
    /// The whole of `file`, which stands at any position.
    pub(super) fn open(name: String, mut file: File, modified: Option<Timestamp>) -> io::Result<Self> {
        let is_device = file.metadata()?.file_type().is_block_device();
        let size = file.seek(io::SeekFrom::End(0))?;
        file.seek(io::SeekFrom::Start(0))?;
        // Advice only: where it is not taken, reading is slower and no less right.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Ok(Self { name, file, size, position: 0, data_end: 0, modified, is_device })
    }

    /// The hole that begins at `position`, if one does; else notes where data ends.
    fn hole(&mut self) -> io::Result<Option<u64>> {
        if self.is_device {
            // A device has no holes to ask for.
            self.data_end = self.size;
            return Ok(None);
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(self.position)) {
            Ok(data) if data > self.position => return Ok(Some(data.min(self.size) - self.position)),
            Ok(_) => {}
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(Some(self.size - self.position)),
            // A filesystem without holes: all is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.data_end = self.size;
                rustix::fs::seek(&self.file, SeekFrom::Start(self.position))?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        self.data_end = rustix::fs::seek(&self.file, SeekFrom::Hole(self.position))?.min(self.size);
        rustix::fs::seek(&self.file, SeekFrom::Start(self.position))?;
        Ok(None)
    }

    fn step(&mut self, buf: &mut [u8]) -> io::Result<Extent> {
        if self.position == self.size {
            return Ok(Extent::End);
        }
        if self.position >= self.data_end
            && let Some(hole) = self.hole()?
        {
            self.position += hole;
            return Ok(Extent::Zero(hole));
        }
        let wanted = (self.data_end - self.position).min(buf.len() as u64) as usize;
        let count = loop {
            match self.file.read(&mut buf[..wanted]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if count == 0 {
            let why = format!("it ended at {} while it was read, it had {} bytes before", self.position, self.size);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        self.position += count as u64;
        Ok(Extent::Data(count))
    }
}

impl Source for Raw {
    fn describe(&self) -> String {
        format!("the {} {}", if self.is_device { "block device" } else { "raw disk" }, self.name)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Extent, Error> {
        self.step(buf).map_err(|source| Error::Io { path: self.name.clone(), source })
    }

    fn progress(&self) -> (u64, u64) {
        (self.position, self.size)
    }

    fn modified(&self) -> Option<Timestamp> {
        self.modified
    }

    fn sector_size(&self) -> Option<u32> {
        rustix::fs::ioctl_blksszget(&self.file).ok().filter(|_| self.is_device)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::super::tests::read_all;
    use super::*;

    #[test]
    fn holes_are_read_as_holes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        file.as_file().write_all_at(&[7; 4096], 1 << 20).unwrap();
        file.as_file().write_all_at(&[8; 100], 6 << 20).unwrap();
        let mut source = super::super::open(file.path()).unwrap();
        let (disk, holes) = read_all(&mut *source).unwrap();
        assert!(disk == std::fs::read(file.path()).unwrap());
        // What counts as a hole is the filesystem's choice; that most of this file is one is not.
        assert!(holes > 6 << 20, "{holes}");
        assert_eq!(source.progress(), (8 << 20, 8 << 20));
    }

    #[test]
    fn an_empty_file_ends_at_once_and_a_dense_one_has_no_holes() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(read_all(&mut *super::super::open(file.path()).unwrap()).unwrap(), (vec![], 0));
        file.write_all(&vec![3; 300_000]).unwrap();
        assert_eq!(read_all(&mut *super::super::open(file.path()).unwrap()).unwrap(), (vec![3; 300_000], 0));
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![3; 300_000]).unwrap();
        let mut source = super::super::open(file.path()).unwrap();
        assert_eq!(source.next(&mut [0; 1000]).unwrap(), Extent::Data(1000));
        file.as_file().set_len(1000).unwrap();
        assert!(source.next(&mut [0; 1000]).is_err());
    }
}
