//! Trees to prove things of.

#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use keepstate_digest as digest;

use digest::{
    Algorithm, Caching, Check, CutOff, Difference, Format, How, Made, Make, Reach, Summary, To, TreePath, Unproven,
    Unwatched, Watch,
};

pub const RANGE: usize = digest::RANGE_BYTES as usize;

/// A directory with a tree in it and room for manifests beside it.
pub struct Room {
    folder: tempfile::TempDir,
    tree: PathBuf,
}

impl Room {
    pub fn new() -> Self {
        // Whatever it is for whoever runs this: permissions are compared.
        rustix::process::umask(0o022.into());
        // Not in memory: on a filesystem with a disk below, where direct reads and residency are real.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).expect("a directory");
        Self { folder, tree }
    }

    pub fn tree(&self) -> PathBuf {
        self.tree.clone()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.tree().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a directory");
        fs::write(&path, content).expect("written");
        path
    }

    /// Files of all sizes that matter, folders, links.
    pub fn furnish(&self) {
        for (name, length) in [
            ("empty", 0),
            ("one", 1),
            ("a b/page", 4096),
            ("a/odd", 123_457),
            ("a/range", RANGE),
            ("a/range and one", RANGE + 1),
            ("big", 3 * RANGE + 12_345),
        ] {
            self.write(name, &noise(length as u64, length));
        }
        symlink("../one", self.tree().join("a/link")).expect("a link");
        symlink("nowhere", self.tree().join("dangling")).expect("a link");
    }

    pub fn make(&self, manifest: &str) -> Made {
        let (made, troubles) = self.make_with(manifest, |_| {});
        assert_eq!(troubles, [], "everything is proven");
        made
    }

    pub fn make_with<'a>(
        &'a self,
        manifest: &str,
        change: impl FnOnce(&mut Make<'a>),
    ) -> (Made, Vec<(String, Unproven)>) {
        self.try_make(manifest, CutOff::Refuse, change).expect("made")
    }

    pub fn try_make<'a>(
        &'a self,
        manifest: &str,
        cut_off: CutOff,
        change: impl FnOnce(&mut Make<'a>),
    ) -> digest::Result<(Made, Vec<(String, Unproven)>)> {
        let path = self.path(manifest);
        let mut order = Make {
            root: &self.tree,
            reach: Reach::default(),
            algorithm: Algorithm::Blake3,
            format: Format::Full,
            how: How::default(),
        };
        change(&mut order);
        let mut troubles = Vec::new();
        let mut tell = |path: &TreePath, why: &Unproven| troubles.push((path.to_string(), why.clone()));
        let made = digest::make(&order, To::File(&path, cut_off), &mut tell)?;
        Ok((made, troubles))
    }

    pub fn check(&self, manifest: &str) -> (Summary, Vec<String>) {
        self.check_with(manifest, |_| {})
    }

    pub fn check_with<'a>(&'a self, manifest: &str, change: impl FnOnce(&mut Check<'a>)) -> (Summary, Vec<String>) {
        // As long as whatever else the check is told of; a test's process is short.
        let path: &'static Path = Box::leak(self.path(manifest).into_boxed_path());
        let mut check = Check { manifest: path, root: None, algorithm: None, content_only: false, how: How::default() };
        change(&mut check);
        told(|tell| digest::check(&check, tell))
    }

    pub fn diff(&self, one: &str, other: &str) -> (Summary, Vec<String>) {
        told(|tell| digest::diff(&self.path(one), &self.path(other), tell))
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("a file")
    }
}

/// What was told, as people read it.
pub fn told(
    run: impl FnOnce(&mut dyn FnMut(&Difference) -> std::io::Result<()>) -> digest::Result<Summary>,
) -> (Summary, Vec<String>) {
    let mut said = Vec::new();
    let summary = run(&mut |difference| {
        said.push(difference.to_string());
        Ok(())
    });
    (summary.expect("compared"), said)
}

/// Bytes that do not compress, the same for the same seed (`SplitMix64`).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = vec![0; length];
    for piece in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        piece.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..piece.len()]);
    }
    bytes
}

/// What is done.
type Act<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Does something once, right before the read of a certain number: the moment at which others change a tree.
pub struct Meddler<'a> {
    at: usize,
    state: Mutex<(usize, Option<Act<'a>>)>,
}

impl<'a> Meddler<'a> {
    pub fn before_read(at: usize, act: impl FnOnce() + Send + 'a) -> Self {
        Self { at, state: Mutex::new((0, Some(Box::new(act)))) }
    }
}

impl Watch for Meddler<'_> {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn pace(&self, _: u64) {
        let mut state = self.state.lock().expect("not poisoned");
        state.0 += 1;
        if state.0 > self.at
            && let Some(act) = state.1.take()
        {
            act();
        }
    }
}

/// One thread, so that reads come in order.
pub fn alone(watch: &dyn Watch) -> How<'_> {
    How { caching: Caching::Gentle, workers: 1, watch }
}

pub fn direct() -> How<'static> {
    How { caching: Caching::Direct, workers: 3, watch: &Unwatched }
}

/// Appends a byte, so that the size changes.
pub fn append(path: &Path) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("opened");
    file.write_all(b"+").expect("written");
}
