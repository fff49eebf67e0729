//! The guest's console: everything that it ever printed, in one file, and waiting for what comes next in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A console's log. What was waited for is behind us: the same line is not found twice.
#[derive(Debug)]
pub(super) struct Console {
    path: PathBuf,
    /// Where the log's unread part begins, in bytes.
    read_to: u64,
    /// What was read and not passed over yet.
    unseen: Vec<u8>,
}

impl Console {
    /// An empty log at `path`.
    pub(super) fn begin(path: PathBuf) -> io::Result<Self> {
        File::create(&path)?;
        Ok(Self { path, read_to: 0, unseen: Vec::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line of our own into the log, for who reads it later. QEMU must not be writing to it.
    pub(super) fn remark(&self, line: &str) -> io::Result<()> {
        writeln!(OpenOptions::new().append(true).open(&self.path)?, "\n===== {line} =====")
    }

    /// Looks for `text` in what came since; the line that holds it, as far as it has come, and everything before it, is
    /// passed over.
    pub(super) fn look_for(&mut self, text: &str) -> io::Result<Option<String>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read_to))?;
        self.read_to += file.read_to_end(&mut self.unseen)? as u64;
        let Some(at) = find(&self.unseen, text.as_bytes()) else { return Ok(None) };
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let from = self.unseen[..at].iter().rposition(is_end).map_or(0, |end| end + 1);
        let found = at + text.len();
        let to = self.unseen[found..].iter().position(is_end).map_or(self.unseen.len(), |end| found + end);
        let line = String::from_utf8_lossy(&self.unseen[from..to]).into_owned();
        self.unseen.drain(..to);
        Ok(Some(line))
    }

    /// Everything that came so far counts as seen.
    pub(super) fn pass_over(&mut self) -> io::Result<()> {
        self.read_to = std::fs::metadata(&self.path)?.len();
        self.unseen.clear();
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return Some(0);
    }
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> (tempfile::TempDir, Console, File) {
        let folder = tempfile::tempdir().expect("a folder");
        let console = Console::begin(folder.path().join("console.log")).expect("a log");
        let qemu = OpenOptions::new().append(true).open(console.path()).expect("opened");
        (folder, console, qemu)
    }

    #[test]
    fn what_comes_in_pieces_is_found_when_it_is_whole() {
        let (_folder, mut console, mut qemu) = console();
        qemu.write_all(b"booting\r\nlogin").expect("written");
        assert_eq!(console.look_for("login:").expect("read"), None);
        qemu.write_all(b": \r\n").expect("written");
        assert_eq!(console.look_for("login:").expect("read").as_deref(), Some("login: "));
    }

    #[test]
    fn what_was_found_once_is_not_found_again() {
        let (_folder, mut console, mut qemu) = console();
        qemu.write_all(b"up 1\nup 2\n").expect("written");
        assert_eq!(console.look_for("up").expect("read").as_deref(), Some("up 1"));
        assert_eq!(console.look_for("up").expect("read").as_deref(), Some("up 2"));
        assert_eq!(console.look_for("up").expect("read"), None);
    }

    #[test]
    fn what_is_passed_over_is_not_found() {
        let (_folder, mut console, mut qemu) = console();
        qemu.write_all(b"up\n").expect("written");
        console.pass_over().expect("read");
        console.remark("power on").expect("written");
        assert_eq!(console.look_for("up").expect("read"), None);
        assert!(console.look_for("power on").expect("read").is_some());
    }
}
