//! Unpacking: the disk of an image as a raw file, with holes for its zeros, or as a stream.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::content::{self, Content};
use crate::open::Image;
use crate::{Progress, digest, verify};

/// Why an image could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image is not what its manifest says.
    #[error(transparent)]
    Verify(#[from] verify::Error),
    /// The image's content, or writing it.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// The file.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// There is something of that name.
    #[error("{} exists already: choose another name, or say --force to replace it", .0.display())]
    Exists(PathBuf),
    /// It is not a file that could be replaced.
    #[error("{} is not a plain file: to write an image to a disk, use `keepstate flash`", .0.display())]
    NotAFile(PathBuf),
}

impl Error {
    /// Whether it is a refusal: nothing failed, but this is not done.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Verify(error) => error.is_refusal(),
            Self::Content(error) => error.is_refusal(),
            Self::Exists(_) | Self::NotAFile(_) => true,
            Self::Io { .. } => false,
        }
    }
}

/// Writes the disk of `image` to the file `path`, which appears when it is complete and durable.
pub fn to_file(image: &Image, path: &Path, replace: bool, progress: Progress<'_>) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(Error::NotAFile(path.to_owned())),
        Ok(_) if !replace => return Err(Error::Exists(path.to_owned())),
        _ => {}
    }
    verify::tables(image)?;
    let failed = |doing| move |source| Error::Io { doing, path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let partial = tempfile::Builder::new()
        .prefix(".keepstate-")
        .suffix(".partial")
        .make_in(folder, |path| OpenOptions::new().write(true).create_new(true).open(path))
        .map_err(failed("making a file beside"))?;
    let size = image.manifest().disk_size;
    partial.as_file().set_len(size).map_err(failed("giving its size to"))?;
    content::read(image, false, &mut |_| {}, |offset, content| {
        let end = offset
            + match content {
                Content::Data(data) => {
                    partial.as_file().write_all_at(data, offset)?;
                    data.len() as u64
                }
                // A new file is all holes.
                Content::Zero(length) => length,
            };
        progress(end, size);
        Ok(())
    })?;
    partial.as_file().sync_all().map_err(failed("flushing"))?;
    let persisted = if replace { partial.persist(path) } else { partial.persist_noclobber(path) };
    persisted.map_err(|error| error.error).map_err(failed("naming"))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("making durable the name of"))
}

/// Writes the disk of `image` to `out`, zeros included. What was written before an error must not be used.
pub fn to_stream(image: &Image, out: &mut dyn Write, progress: Progress<'_>) -> Result<(), Error> {
    verify::tables(image)?;
    let size = image.manifest().disk_size;
    content::read(image, false, &mut |_| {}, |offset, content| {
        let end = offset
            + match content {
                Content::Data(data) => {
                    out.write_all(data)?;
                    data.len() as u64
                }
                Content::Zero(length) => {
                    let mut written = Ok(());
                    digest::for_zeros(length, |zeros| {
                        if written.is_ok() {
                            written = out.write_all(zeros);
                        }
                    });
                    written?;
                    length
                }
            };
        progress(end, size);
        Ok(())
    })?;
    out.flush().map_err(content::Error::Sink)?;
    Ok(())
}
