//! Making writes last, and not believing a second try after the first one failed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Remembers a failed flush.
///
/// The kernel reports a lost write once and then calls the page clean, so the next `fdatasync` would succeed although the
/// data is gone (<https://wiki.postgresql.org/wiki/Fsync_Errors>). After one failure every flush fails.
#[derive(Debug, Default)]
pub(crate) struct Flusher {
    failed: AtomicBool,
}

impl Flusher {
    /// Flushes by `sync`, unless an earlier flush failed.
    pub(crate) fn flush(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush failed, and what it lost cannot be known"));
        }
        sync().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }
}

/// Makes the name of a file just created last, by flushing the directory that it stands in.
pub(crate) fn flush_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

/// Writes a file so that it is there whole or as it was, whatever happens, and lasts once this returns.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_file_with(path, |file| file.write_all(bytes))
}

/// The same for what is too much to be held at once: `write` writes it.
pub fn replace_file_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    let mut file = BufWriter::new(File::create(&beside)?);
    write(&mut file)?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    flush_parent(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("file.json");
        for bytes in [b"one".as_slice(), b"two, longer", b""] {
            replace_file(&path, bytes).expect("space");
            assert_eq!(fs::read(&path).expect("a file"), bytes);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a directory").count(), 1);
        assert!(replace_file(&folder.path().join("none/file"), b"").is_err());
    }

    #[test]
    fn after_a_failed_flush_none_succeeds() {
        let flusher = Flusher::default();
        flusher.flush(|| Ok(())).expect("the first");
        assert!(flusher.flush(|| Err(io::Error::other("lost"))).is_err());
        let error = flusher.flush(|| Ok(())).expect_err("nothing can be believed now");
        assert!(error.to_string().contains("earlier flush"), "{error}");
    }

    #[test]
    fn the_parent_of_a_bare_name_is_the_current_directory() {
        flush_parent(Path::new("name")).expect("the current directory can be flushed");
        assert!(flush_parent(Path::new("/no/such/folder/name")).is_err());
    }
}
