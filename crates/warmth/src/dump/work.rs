//! The threads' work: directories become files, files become runs.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType};
use sys::page_cache;

use super::scan::scan;
use super::{Candidate, Dump, Found, Root};
use crate::beneath;
use crate::map::{File, Identity};
use crate::runs::Runs;
use crate::trouble::is_gone;

/// Pages of a part that one thread looks at: files of more than 512 MiB are shared.
const PART: u64 = 1 << 17;
/// A file is never cut into more parts than this; those of a huge one are larger.
const PARTS_MAX: u64 = 1 << 10;
/// Files that are shared at the same time, each of which keeps its descriptor until its last part is done: well below the
/// 1,024 that a process has by default. With so many to look at, no thread is idle for want of parts.
const SHARED_MAX: usize = 64;
/// Files of a directory that are handed to others at once.
const BATCH: usize = 256;
/// How much may lie on the stack before whoever finds more does it at once: memory does not grow with a directory.
const STACK_MAX: usize = 4096;

/// Something that is left to do.
enum Task {
    Folder { root: usize, path: PathBuf },
    Files { root: usize, folder: PathBuf, names: Vec<PathBuf> },
    Part { file: Arc<Large>, index: usize },
}

/// A file that several threads look at.
struct Large {
    root: usize,
    path: PathBuf,
    handle: fs::File,
    metadata: fs::Metadata,
    pages: u64,
    part: u64,
    done: Mutex<Parts>,
    /// Counts as long as it lives.
    _shared: Arc<()>,
}

struct Parts {
    runs: Vec<Option<Runs>>,
    left: usize,
    failed: bool,
}

#[derive(Default)]
struct Stack {
    tasks: Vec<Task>,
    /// Tasks on the stack and in hands.
    open: usize,
}

/// What all threads share.
pub(super) struct Work<'a> {
    roots: &'a [Root],
    /// Whether a file may be found from more than one root.
    overlap: bool,
    what: &'a Dump,
    found: &'a Mutex<Found>,
    stack: Mutex<Stack>,
    more: Condvar,
    /// Each file that is shared has a clone of it.
    shared: Arc<()>,
}

impl<'a> Work<'a> {
    pub(super) fn new(roots: &'a [Root], what: &'a Dump, found: &'a Mutex<Found>) -> Self {
        let within =
            |root: &Root| roots.iter().any(|other| other.path != root.path && root.path.starts_with(&other.path));
        let overlap = roots.iter().any(within);
        let work =
            Self { roots, overlap, what, found, stack: Mutex::default(), more: Condvar::new(), shared: Arc::default() };
        for root in 0..roots.len() {
            work.push(Task::Folder { root, path: PathBuf::new() });
        }
        work
    }

    /// Works until nothing is left.
    pub(super) fn run(&self) {
        let mut marks = Vec::new();
        while let Some(task) = self.pop() {
            let _done = Done(self);
            self.carry_out(task, &mut marks);
        }
    }

    fn carry_out(&self, task: Task, marks: &mut Vec<u8>) {
        match task {
            // Parts are few, and what others have seen of their file must not be lost.
            Task::Folder { .. } | Task::Files { .. } if self.is_over() => {}
            Task::Folder { root, path } => {
                if let Err(error) = self.folder(root, &path, marks) {
                    self.unreadable(root, &path, &error);
                }
            }
            Task::Files { root, folder, names } => match beneath::open_folder(self.roots[root].handle.as_fd(), &folder)
            {
                Ok(handle) => self.files(root, handle.as_fd(), &folder, &names, marks),
                Err(error) => self.unreadable(root, &folder, &error),
            },
            Task::Part { file, index } => self.part(&file, index, marks),
        }
    }

    /// Reads a directory: its files at once or as tasks, its directories as tasks. A root may also be a file.
    fn folder(&self, root: usize, path: &Path, marks: &mut Vec<u8>) -> io::Result<()> {
        let base = &self.roots[root];
        if self.what.without.contains(&base.whole(path)) {
            return Ok(());
        }
        if path.as_os_str().is_empty() {
            let handle: fs::File = base.handle.try_clone()?.into();
            if handle.metadata()?.is_file() {
                return self.file(root, path.into(), handle, marks);
            }
        }
        let handle = beneath::open_folder(base.handle.as_fd(), path)?;
        if !self.what.cross_mounts && rustix::fs::fstat(&handle)?.st_dev != base.device {
            self.found().other_mounts.add(&base.whole(path), &"another filesystem is mounted there");
            return Ok(());
        }
        let mut names = Vec::new();
        // The directory's own descriptor is read; ours stays where it is.
        for entry in Dir::read_from(&handle)? {
            if self.is_over() {
                break;
            }
            let entry = entry?;
            let name = Path::new(OsStr::from_bytes(entry.file_name().to_bytes()));
            if name == Path::new(".") || name == Path::new("..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some filesystems do not say.
                FileType::Unknown => match rustix::fs::statat(&handle, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(error) => {
                        self.unreadable(root, &path.join(name), &error.into());
                        continue;
                    }
                },
                kind => kind,
            };
            match kind {
                FileType::Directory => self.push_or_do(Task::Folder { root, path: path.join(name) }, marks),
                FileType::RegularFile => names.push(name.to_owned()),
                // Links are not followed, and the rest has no pages.
                _ => {}
            }
            if names.len() == BATCH {
                let names = std::mem::take(&mut names);
                self.push_or_do(Task::Files { root, folder: path.into(), names }, marks);
            }
        }
        self.files(root, handle.as_fd(), path, &names, marks);
        Ok(())
    }

    fn files(
        &self,
        root: usize,
        handle: std::os::fd::BorrowedFd<'_>,
        folder: &Path,
        names: &[PathBuf],
        marks: &mut Vec<u8>,
    ) {
        for name in names {
            if self.is_over() {
                return;
            }
            let path = folder.join(name);
            let looked = beneath::open_file(handle, name).and_then(|file| self.file(root, path.clone(), file, marks));
            if let Err(error) = looked {
                self.unreadable(root, &path, &error);
            }
        }
    }

    /// Looks at one file, or lets several look at it.
    fn file(&self, root: usize, path: PathBuf, handle: fs::File, marks: &mut Vec<u8>) -> io::Result<()> {
        let metadata = handle.metadata()?;
        {
            let mut found = self.found();
            found.seen += 1;
            found.bytes = found.bytes.saturating_add(metadata.len());
        }
        let pages = metadata.len().div_ceil(page_cache::page_size());
        if pages == 0 {
            return Ok(());
        }
        if !page_cache::may_ask(&handle)? {
            return Err(io::Error::other("only its owner, root and who may write to it are told what is cached of it"));
        }
        // Threads that ask at the same time may share a few more, one each.
        if pages <= PART || Arc::strong_count(&self.shared) > SHARED_MAX {
            let mut runs = Runs::default();
            scan(&handle, 0, pages, &mut runs, marks)?;
            self.keep(root, path, &metadata, runs);
            return Ok(());
        }
        if page_cache::count(&handle, 0, 0)? == Some(0) {
            return Ok(());
        }
        let part = pages.div_ceil(PARTS_MAX).max(PART);
        let parts = pages.div_ceil(part) as usize;
        let done = Mutex::new(Parts { runs: vec![None; parts], left: parts, failed: false });
        let shared = Arc::clone(&self.shared);
        let file = Arc::new(Large { root, path, handle, metadata, pages, part, done, _shared: shared });
        for index in 0..parts {
            self.push_or_do(Task::Part { file: Arc::clone(&file), index }, marks);
        }
        Ok(())
    }

    fn part(&self, file: &Large, index: usize, marks: &mut Vec<u8>) {
        let first = index as u64 * file.part;
        let end = if self.is_over() { first } else { (first + file.part).min(file.pages) };
        let mut runs = Runs::default();
        let scanned = scan(&file.handle, first, end, &mut runs, marks);
        let mut parts = file.done.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = scanned
            && !std::mem::replace(&mut parts.failed, true)
        {
            self.unreadable(file.root, &file.path, &error);
        }
        parts.runs[index] = Some(runs);
        parts.left -= 1;
        if parts.left == 0 {
            let mut all = Runs::default();
            for runs in std::mem::take(&mut parts.runs).into_iter().flatten() {
                // Each part lies behind the one before.
                let _ = all.append(&runs);
            }
            self.keep(file.root, file.path.clone(), &file.metadata, all);
        }
    }

    fn keep(&self, root: usize, path: PathBuf, metadata: &fs::Metadata, runs: Runs) {
        if runs.is_empty() {
            return;
        }
        let used = u64::try_from(metadata.atime().max(metadata.mtime())).unwrap_or(0);
        let identity = Some(Identity { size: metadata.len(), inode: metadata.ino(), used });
        let several = (self.overlap || metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino()));
        self.found().files.push(Candidate { file: File { root, path, identity, runs }, several });
    }

    fn unreadable(&self, root: usize, path: &Path, error: &io::Error) {
        // What is gone has no pages.
        if !is_gone(error) {
            self.found().unreadable.add(&self.roots[root].whole(path), error);
        }
    }

    /// Whether no more may be looked at, which is noted.
    fn is_over(&self) -> bool {
        let is_over = self.what.is_over();
        if is_over {
            self.found().is_cut_off = true;
        }
        is_over
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stack(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: Task) {
        let mut stack = self.stack();
        stack.tasks.push(task);
        stack.open += 1;
        drop(stack);
        self.more.notify_one();
    }

    /// Leaves a task to whoever is free; does it when too much is left already. Directories always go onto the stack: it
    /// holds one path for each, and a tree as deep as it likes must not become a call stack.
    fn push_or_do(&self, task: Task, marks: &mut Vec<u8>) {
        if self.stack().tasks.len() < STACK_MAX || matches!(task, Task::Folder { .. }) {
            self.push(task);
        } else {
            self.carry_out(task, marks);
        }
    }

    /// The next task: what was found last, so that the stack stays small. Nothing once all is done.
    fn pop(&self) -> Option<Task> {
        let mut stack = self.stack();
        loop {
            if let Some(task) = stack.tasks.pop() {
                return Some(task);
            }
            if stack.open == 0 {
                return None;
            }
            stack = self.more.wait(stack).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Counts a task as done when it goes, however it ended: nobody may wait for what nobody does.
struct Done<'a, 'b>(&'a Work<'b>);

impl Drop for Done<'_, '_> {
    fn drop(&mut self) {
        let mut stack = self.0.stack();
        stack.open -= 1;
        if stack.open == 0 {
            drop(stack);
            self.0.more.notify_all();
        }
    }
}
