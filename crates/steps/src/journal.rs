//! Where it is kept what was begun and what is done.
//!
//! ```text
//! journal = line*
//! line    = check " " JSON of an entry "\n"      check: the first 16 hex digits of the JSON's BLAKE3
//! ```
//! Entries are appended and flushed, one by one. Reading ends at the first line that is not right: what a power cut tore
//! off counts as never written.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Hex digits of a line's check.
const CHECK_DIGITS: usize = 16;
/// A journal of an upgrade has some dozens of lines; one that is larger is none.
const BYTES_MAX: u64 = 16 << 20;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub time: Timestamp,
    /// In which step.
    pub step: String,
    /// What.
    pub what: What,
    /// Why, or with what result; for people and for the steps that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The step was begun.
    Begun,
    /// It is done.
    Done,
    /// It failed; it may be tried again.
    Failed,
    /// What it did was taken back.
    Reverted,
    /// Something worth knowing.
    Noted,
    /// A later release wrote it.
    #[serde(other)]
    Unknown,
}

/// Keeps entries, in order.
pub trait Journal {
    /// Appends an entry. When this returns it lasts.
    fn append(&mut self, entry: Entry) -> io::Result<()>;
    /// All entries so far, the oldest first.
    fn entries(&self) -> &[Entry];

    /// The last that happened in a step, notes apart.
    fn last(&self, step: &str) -> Option<&Entry> {
        self.entries().iter().rev().find(|entry| entry.step == step && entry.what != What::Noted)
    }
}

/// A journal in a file.
#[derive(Debug)]
pub struct FileJournal {
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
}

impl FileJournal {
    /// Opens the journal, or begins it. A torn end is cut off.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let size = file.metadata()?.len();
        if size > BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a journal of {size} bytes is none")));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (entries, whole) = parse(&bytes);
        if whole < bytes.len() {
            tracing::warn!(journal = %path.display(), lost = bytes.len() - whole, "the journal's end was torn off");
            file.set_len(whole as u64)?;
            file.sync_all()?;
        }
        // The name must last too.
        File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
            .sync_all()?;
        Ok(Self { path: path.into(), file, entries })
    }

    /// Reads the entries of a journal without opening it for writing; none if there is none.
    pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(parse(&bytes).0)
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Journal for FileJournal {
    fn append(&mut self, entry: Entry) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        if let Err(error) = self.file.write_all(&line(&entry)).and_then(|()| self.file.sync_data()) {
            // Half a line would hide all that come behind it.
            self.file.set_len(before)?;
            return Err(error);
        }
        self.entries.push(entry);
        Ok(())
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// A journal in memory, for tests and for what need not last.
#[derive(Debug, Default)]
pub struct MemoryJournal(Vec<Entry>);

impl Journal for MemoryJournal {
    fn append(&mut self, entry: Entry) -> io::Result<()> {
        self.0.push(entry);
        Ok(())
    }

    fn entries(&self) -> &[Entry] {
        &self.0
    }
}

fn line(entry: &Entry) -> Vec<u8> {
    let json = serde_json::to_vec(entry).expect("an entry has only string keys");
    let mut line = check(&json).into_bytes();
    line.push(b' ');
    line.extend_from_slice(&json);
    line.push(b'\n');
    line
}

fn check(json: &[u8]) -> String {
    blake3::hash(json).to_hex()[..CHECK_DIGITS].to_owned()
}

/// The entries that are right, and how many bytes they take.
fn parse(bytes: &[u8]) -> (Vec<Entry>, usize) {
    let (mut entries, mut whole) = (Vec::new(), 0);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let Some(entry) = parse_line(line) else { break };
        entries.push(entry);
        whole += line.len();
    }
    (entries, whole)
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    let (found, json) = line.strip_suffix(b"\n")?.split_at_checked(CHECK_DIGITS)?;
    let json = json.strip_prefix(b" ")?;
    (found == check(json).as_bytes()).then(|| serde_json::from_slice(json).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(step: &str, what: What) -> Entry {
        Entry { time: Timestamp::UNIX_EPOCH, step: step.into(), what, text: Some("a \"reason\"\nof two lines".into()) }
    }

    fn written() -> (tempfile::TempDir, PathBuf, Vec<Entry>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let entries = vec![entry("prepare", What::Begun), entry("prepare", What::Done), entry("enter", What::Begun)];
        let mut journal = FileJournal::open(&path).unwrap();
        for entry in &entries {
            journal.append(entry.clone()).unwrap();
        }
        (folder, path, entries)
    }

    #[test]
    fn a_journal_is_read_as_it_was_written_and_gone_on_with() {
        let (_folder, path, mut entries) = written();
        let mut journal = FileJournal::open(&path).unwrap();
        assert_eq!(journal.entries(), entries);
        assert_eq!(journal.last("prepare").unwrap().what, What::Done);
        assert_eq!(journal.last("trial"), None);
        entries.push(entry("enter", What::Done));
        journal.append(entries[3].clone()).unwrap();
        assert_eq!(FileJournal::read(&path).unwrap(), entries);
    }

    /// A limit of this thread's alone would end the process by a signal: the whole file system is small instead.
    #[test]
    #[ignore = "needs root to mount a small filesystem: run by ./test"]
    fn half_a_line_on_a_full_place_hides_nothing_that_comes_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let mounted = |arguments: &[&str]| {
            let command = std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(folder.path()).status();
            assert!(command.unwrap().success(), "{arguments:?}");
        };
        mounted(&["mount", "-t", "tmpfs", "-o", "size=16k", "keepstate-test"]);
        let path = folder.path().join("journal");
        let mut journal = FileJournal::open(&path).unwrap();
        let long = Entry { text: Some("x".repeat(3000)), ..entry("prepare", What::Begun) };
        let written = (0..100).take_while(|_| journal.append(long.clone()).is_ok()).count();
        let read = FileJournal::read(&path).unwrap().len();
        let size = std::fs::metadata(&path).unwrap().len();
        journal.append(entry("aborted", What::Failed)).unwrap();
        let behind = FileJournal::read(&path).unwrap();
        drop(journal);
        mounted(&["umount"]);
        assert!(written > 2 && read == written && size < 16 << 10, "{written} lines, {read} read, {size} bytes");
        assert_eq!(behind.last().unwrap().step, "aborted");
    }

    #[test]
    fn no_journal_has_no_entries() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(FileJournal::read(&folder.path().join("none")).unwrap(), []);
    }

    #[test]
    fn what_a_later_release_notes_is_passed_over() {
        let json = br#"{"time":"1970-01-01T00:00:00Z","step":"trial","what":"pondered","since":3}"#;
        let bytes = [check(json).as_bytes(), b" ", json, b"\n"].concat();
        let (entries, whole) = parse(&bytes);
        assert_eq!((entries[0].what, whole), (What::Unknown, bytes.len()));
    }

    proptest! {
        #[test]
        fn a_torn_journal_ends_where_it_was_torn(cut in any::<prop::sample::Index>()) {
            let (_folder, path, entries) = written();
            let bytes = std::fs::read(&path).unwrap();
            let cut = cut.index(bytes.len());
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut journal = FileJournal::open(&path).unwrap();
            let kept = journal.entries().len();
            prop_assert!(kept < entries.len() && journal.entries() == &entries[..kept]);
            // What is appended then is read, and not lost behind the torn line.
            journal.append(entry("again", What::Begun)).unwrap();
            prop_assert_eq!(FileJournal::read(&path).unwrap().len(), kept + 1);
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let (_folder, path, entries) = written();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let (read, _) = parse(&bytes);
            prop_assert!(read.len() < entries.len() && read == entries[..read.len()]);
        }

        #[test]
        fn anything_at_all_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(parse(&bytes).0.is_empty());
        }
    }
}
