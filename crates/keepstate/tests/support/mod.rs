//! Commands of the built binary, typed in a directory of their own.

#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A directory in which commands are typed.
pub struct Room(TempDir);

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Room {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A sparse file of `size` bytes with `content` from the first MiB on.
    pub fn disk(&self, name: &str, size: u64, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        let file = fs::File::create(&path).expect("a file");
        file.set_len(size).expect("space");
        file.write_all_at(content, 1 << 20).expect("space");
        path
    }

    /// A command whose arguments are separated by blanks.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepstate"));
        command.current_dir(self.0.path()).args(line.split_whitespace()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KEEPSTATE_")) {
            command.env_remove(name);
        }
        command.env("KEEPSTATE_STATE", self.path("state"));
        command
    }

    pub fn run(&self, line: &str) -> Done {
        let Output { status, stdout, stderr } = self.command(line).output().expect("the binary runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Done { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    /// Succeeds; gives what it printed.
    pub fn good(&self, line: &str) -> String {
        let done = self.run(line);
        assert_eq!(done.code, Some(0), "{line}: {}", done.err);
        done.out
    }

    /// Ends with this code, says each of these things on standard error, and prints no result.
    pub fn bad(&self, line: &str, code: i32, says: &[&str]) {
        let done = self.run(line);
        assert_eq!(done.code, Some(code), "{line}: {done:?}");
        for what in says {
            assert!(done.err.contains(what), "{line} does not say {what:?}: {}", done.err);
        }
        assert_eq!(done.out, "", "{line}: a failure has no result");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("a file")
    }
}

/// Bytes that do not compress, the same for the same seed (`SplitMix64`).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; length];
    for piece in bytes.chunks_mut(8) {
        piece.copy_from_slice(&random.next_number().to_le_bytes()[..piece.len()]);
    }
    bytes
}

/// Repeatable random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_number() % bound
    }
}

/// Whether a path is there and what is in it, to see that nothing touched it.
pub fn fingerprint(path: &Path) -> (Vec<u8>, std::time::SystemTime) {
    let modified = fs::metadata(path).and_then(|data| data.modified()).expect("a file with a time");
    (fs::read(path).expect("a file"), modified)
}
