//! The files, what of them is to be cached, and the disk below.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use sys::page_cache;
use sys::testing::{LoopDevice, Mount};

use crate::run;

const LARGE_BYTES: u64 = 4 << 30;
const SMALL_FILES: u64 = 2000;
const PAGE: u64 = 4096;

/// A filesystem of its own, and a map of it.
pub(super) struct Room {
    /// Goes before the device below it.
    mount: std::cell::RefCell<Option<Mount>>,
    device: LoopDevice,
    backing: PathBuf,
    point: PathBuf,
    /// Where dumps go: in memory, so that nobody waits for a disk that others write to.
    memory_point: PathBuf,
    memory: Option<Mount>,
    /// For each file its name and its runs.
    runs: Vec<(PathBuf, Vec<(u64, u64)>)>,
}

/// What is cached.
pub(super) struct Seen {
    pub(super) wanted: u64,
    pub(super) beside: u64,
}

impl Room {
    pub(super) fn new(cache: &Path) -> Result<Self> {
        let backing = cache.join("bench-warmth.raw");
        // What an interrupted run has left.
        let _ = fs::remove_file(&backing);
        File::create(&backing)?.set_len(LARGE_BYTES + (1 << 30))?;
        let device = LoopDevice::attach_with(&backing, 512, &["--direct-io=on"]).context("making a loop device")?;
        run::run("mke2fs", ["-q", "-t", "ext4", "-E", "lazy_itable_init=0", &device.path().display().to_string()])?;
        let point = cache.join("bench-warmth");
        fs::create_dir_all(&point)?;
        let memory_point = cache.join("bench-warmth-memory");
        fs::create_dir_all(&memory_point)?;
        let memory = Some(Mount::new(Path::new("none"), &memory_point, "ramfs")?);
        let mut room = Self { mount: None.into(), device, backing, point, memory_point, memory, runs: Vec::new() };
        room.mount()?;
        room.fill().context("filling the benchmark's filesystem")?;
        Ok(room)
    }

    fn mount(&self) -> Result<()> {
        *self.mount.borrow_mut() = Some(Mount::new(self.device.path(), &self.point, "ext4")?);
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        run::say("making 4 GiB and 2,000 small files");
        let mut random = Random(1);
        let mut block = vec![0; 1 << 20];
        let mut large = File::create(self.folder().join("large"))?;
        for _ in 0..LARGE_BYTES >> 20 {
            random.fill(&mut block);
            large.write_all(&block)?;
        }
        let mut runs = Vec::new();
        let mut at = 0;
        loop {
            at += 1 + random.next() % 95;
            let pages = 1 + random.next() % 31;
            if at + pages > LARGE_BYTES / PAGE {
                break;
            }
            runs.push((at, pages));
            at += pages;
        }
        self.runs.push(("large".into(), runs));
        for index in 0..SMALL_FILES {
            let name = PathBuf::from(format!("folder{}/file{index}", index % 40));
            let path = self.folder().join(&name);
            fs::create_dir_all(path.parent().context("a file of a folder")?)?;
            let pages = 1 + random.next() % 16;
            fs::write(path, &block[..(pages * PAGE) as usize])?;
            self.runs.push((name, vec![(0, pages)]));
        }
        let mut map = String::new();
        for (name, runs) in &self.runs {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(map, "./{}", name.display());
            let mut before = 0;
            for &(first, pages) in runs {
                for page in first..first + pages {
                    let _ = writeln!(map, "{}", page - before);
                    before = page;
                }
            }
        }
        fs::write(self.map(), map)?;
        run::run("sync", ["-f", &self.folder().display().to_string()])
    }

    /// The directory that is dumped.
    pub(super) fn folder(&self) -> &Path {
        &self.point
    }

    /// The map, as text, on another filesystem.
    pub(super) fn map(&self) -> PathBuf {
        self.backing.with_extension("map")
    }

    /// Where a dump goes.
    pub(super) fn out(&self) -> PathBuf {
        self.memory_point.join("out")
    }

    pub(super) fn runs(&self) -> &[(PathBuf, Vec<(u64, u64)>)] {
        &self.runs
    }

    /// How many pages the map names.
    pub(super) fn pages(&self) -> u64 {
        self.runs.iter().flat_map(|(_, runs)| runs).map(|(_, pages)| pages).sum()
    }

    /// Runs of pages that the map names.
    pub(super) fn run_count(&self) -> usize {
        self.runs.iter().map(|(_, runs)| runs.len()).sum()
    }

    /// Reads as many bytes as the map names, one after the other and past the cache. Gives the seconds.
    pub(super) fn read_at_the_disk_s_speed(&self) -> Result<f64> {
        let count = format!("count={}", (self.pages() * PAGE).div_ceil(8 << 20));
        let file = format!("if={}", self.folder().join("large").display());
        let begun = Instant::now();
        run::quietly(&mut run::command(
            "dd",
            [&*file, "of=/dev/null", "iflag=direct", "bs=8M", &count, "status=none"],
        ))?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Mounts it anew, and drops all caches.
    pub(super) fn chill(&self) -> Result<()> {
        *self.mount.borrow_mut() = None;
        super::super::disk::forget_caches()?;
        self.mount()?;
        // The map itself is read from memory by all.
        fs::read(self.map())?;
        Ok(())
    }

    /// Brings in just what the map names.
    pub(super) fn warm(&self) -> Result<()> {
        for (name, runs) in &self.runs {
            let file = File::open(self.folder().join(name))?;
            page_cache::expect_scattered(&file)?;
            for &(first, pages) in runs {
                file.read_exact_at(&mut vec![0; (pages * PAGE) as usize], first * PAGE)?;
            }
        }
        Ok(())
    }

    /// Looks what is cached.
    pub(super) fn resident(&self) -> Result<Seen> {
        let mut seen = Seen { wanted: 0, beside: 0 };
        for (name, runs) in &self.runs {
            let file = File::open(self.folder().join(name))?;
            let mut marks = vec![0; file.metadata()?.len().div_ceil(PAGE) as usize];
            page_cache::resident(&file, 0, &mut marks)?;
            let all = marks.iter().map(|&mark| u64::from(mark)).sum::<u64>();
            let pages = runs.iter().flat_map(|&(first, pages)| first..first + pages);
            let wanted = pages.map(|page| u64::from(marks[page as usize])).sum::<u64>();
            seen.wanted += wanted;
            seen.beside += all - wanted;
        }
        Ok(seen)
    }

    /// The device below.
    pub(super) fn device(&self) -> &Path {
        self.device.path()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        *self.mount.borrow_mut() = None;
        self.memory = None;
        for point in [&self.point, &self.memory_point] {
            let _ = fs::remove_dir(point);
        }
        // The space is free once the loop device has gone, just after this.
        for path in [self.backing.clone(), self.map()] {
            let _ = fs::remove_file(path);
        }
    }
}

/// Numbers that are the same every time (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            part.copy_from_slice(&number[..part.len()]);
        }
    }
}
