//! The ways that are compared.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result};
use sys::page_cache;

use super::room::Room;
use crate::run;

const PAGE: u64 = 4096;

/// Who dumps or loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Keepstate,
    /// Rebuilt, as its sources have it: eight threads for each processor.
    Happycache,
    /// The same with the 32 threads that its help and its README speak of.
    Happycache32,
    /// Rebuilt, as it was described.
    HappycacheAsDescribed,
    Vmtouch,
}

impl Way {
    pub(super) fn load_title(self) -> String {
        match self {
            Self::Keepstate => "`keepstate cache load`",
            Self::Happycache => "happycache's way, as its sources have it (rebuilt)",
            Self::Happycache32 => "the same with 32 threads, as its README has it (rebuilt)",
            Self::HappycacheAsDescribed => "one thread, WILLNEED in runs of 8 pages (rebuilt)",
            Self::Vmtouch => "vmtouch",
        }
        .into()
    }

    pub(super) fn dump_title(self) -> &'static str {
        match self {
            Self::Keepstate => "`keepstate cache dump`",
            Self::Happycache | Self::Happycache32 | Self::HappycacheAsDescribed => "happycache's way (rebuilt)",
            Self::Vmtouch => "`vmtouch`, which only counts",
        }
    }

    pub(super) fn dump(self, room: &Room, keepstate: &Path) -> Result<()> {
        let folder = room.folder();
        match self {
            Self::Keepstate => {
                let mut command = run::command(&keepstate.to_string_lossy(), ["cache", "dump", "--json", "-o"]);
                run::quietly(command.arg(room.out()).arg(folder))
            }
            Self::Happycache | Self::Happycache32 | Self::HappycacheAsDescribed => happycache_dump(folder, &room.out()),
            Self::Vmtouch => run::quietly(run::command("vmtouch", ["-m", "8G"]).arg(folder)),
        }
    }

    pub(super) fn load(self, room: &Room, keepstate: &Path) -> Result<()> {
        match self {
            Self::Keepstate => {
                let mut command = run::command(
                    &keepstate.to_string_lossy(),
                    ["cache", "load", "--progress", "none", "--json", "--root"],
                );
                run::quietly(command.arg(room.folder()).arg(room.map()))
            }
            Self::Happycache => touch_pages(room, 8 * thread::available_parallelism().map_or(2, NonZeroUsize::get)),
            Self::Happycache32 => touch_pages(room, 32),
            Self::HappycacheAsDescribed => ask_for_pages(room),
            Self::Vmtouch => Ok(()),
        }
    }
}

/// One thread reads the map, the others bring in a page at a time. Queues of two pages a thread.
fn touch_pages(room: &Room, threads: usize) -> Result<()> {
    let (give, take) = mpsc::sync_channel::<(Arc<File>, u64)>(2 * threads);
    let take = Mutex::new(take);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let next = take.lock().ok().context("a thread has failed")?.recv();
                        let Ok((file, page)) = next else { return Ok(()) };
                        file.read_at(&mut [0], page * PAGE)?;
                    }
                })
            })
            .collect();
        for (name, runs) in room.runs() {
            let file = Arc::new(File::open(room.folder().join(name))?);
            page_cache::expect_scattered(&file)?;
            for page in runs.iter().flat_map(|&(first, pages)| first..first + pages) {
                give.send((Arc::clone(&file), page)).context("no thread is left")?;
            }
        }
        drop(give);
        workers.into_iter().try_for_each(|worker| worker.join().ok().context("a thread has failed")?)
    })
}

/// One thread, runs of at most eight pages.
fn ask_for_pages(room: &Room) -> Result<()> {
    for (name, runs) in room.runs() {
        let file = File::open(room.folder().join(name))?;
        for &(first, pages) in runs {
            for at in (first..first + pages).step_by(8) {
                page_cache::want(&file, at * PAGE, (first + pages - at).min(8) * PAGE)?;
            }
        }
    }
    Ok(())
}

fn happycache_dump(folder: &Path, out: &Path) -> Result<()> {
    let mut text = flate2::write::GzEncoder::new(File::create(out)?, flate2::Compression::fast());
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                dump_file(&entry.path(), &mut text)?;
            }
        }
    }
    text.finish()?;
    Ok(())
}

/// In chunks of 2^20 pages, as its sources have it.
fn dump_file(path: &Path, text: &mut impl Write) -> Result<()> {
    let file = File::open(path)?;
    let pages = file.metadata()?.len().div_ceil(PAGE);
    for begin in (0..pages).step_by(1 << 20) {
        let mut marks = vec![0; (pages - begin).min(1 << 20) as usize];
        page_cache::resident(&file, begin, &mut marks)?;
        let mut before = 0;
        let mut named = false;
        for (page, _) in (begin..).zip(&marks).filter(|(_, mark)| **mark == 1) {
            if !std::mem::replace(&mut named, true) {
                writeln!(text, "./{}", path.display())?;
            }
            writeln!(text, "{}", page - before)?;
            before = page;
        }
    }
    Ok(())
}
