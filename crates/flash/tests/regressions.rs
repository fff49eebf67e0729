//! Bugs that relatives of ours had, each with the test that would have found it here.
//!
//! Two more live where their code does: bytes behind a signed part in crate `image` (`sign`), and sources that are cut
//! off or have trailing garbage (`image::source`).

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use flash::undo::{Found, Undo};
use flash::{Dirty, Flash, Keep, Space, Unwatched};
use image::Image;
use image::source::{Extent, Source};
use keepstate_flash as flash;
use store::{Policy, Store, Transfer, VirtualClock};
use support::SimDisk;
use support::computed::{CHUNK, ComputedDisk, Content, dense_image, noise};
use support::images::packed::{Packed, pack_from};
use support::images::{FOLDER, Pair, Shape};
use support::machine::{Is, Machine, classify};

const GIB: u64 = 1 << 30;

/// A relative took the end of a body for the end of the image, said it was done, and rebooted into half of one.
#[test]
fn a_truncated_download_is_not_taken_for_success() {
    for stage in [false, true] {
        let shape = Shape { undo: true, stage, ..Shape::default() };
        let pair = Pair::new(&shape, 80);
        let (store, manifest) = (pair.store(), pair.manifest());
        let payload = format!("{FOLDER}/{}", manifest.payload.object);
        let whole = Transfer::new(store.clone()).get(&payload, 0..manifest.payload.size).expect("it is there");
        // Within the last frame, and half.
        for length in [whole.len() - 1, whole.len() / 2] {
            store.put(&payload, &whole[..length]).expect("memory takes it");
            let machine = Machine::new(&pair.old, &shape);
            let transfer = Transfer::with(store.clone(), Policy::default(), Arc::new(VirtualClock::default()));
            let image = pair.open_through(transfer).expect("its tables are whole");
            let error = machine.flash(&image, &shape, 1).expect_err("not all of it is there");
            assert!(matches!(error, flash::Error::Image(image::open::Error::Store(_))), "{error}");
            let is = classify(&pair, &shape, &machine.disk.content());
            assert_eq!(is, if stage { Is::Old } else { Is::Dead }, "{length} of {} bytes", whole.len());
            store.put(&payload, &whole).expect("memory takes it");
            machine.flash(&pair.open(), &shape, 2).expect("once it is whole, the same again ends it");
            assert!(machine.disk.content() == pair.expected());
        }
    }
}

/// A relative wrote its whole buffer when the last read had filled only some of it.
#[test]
fn the_stale_tail_of_a_short_last_chunk_is_not_written() {
    for sector in [512, 4096] {
        // The image ends within a chunk, of which the disk has more, and within a block; one worker, so that its
        // buffers hold the chunk before.
        for (cut, behind) in [(sector, 0), (sector * 3, sector), (sector * 5, sector * 5), (60 << 10, 1 << 20)] {
            for zeroes in [false, true] {
                let shape = Shape { undo: true, tail: true, cut, behind, sector, zeroes, ..Shape::default() };
                let pair = Pair::new(&shape, 81);
                let machine = Machine::new(&pair.old, &shape);
                machine.flash(&pair.open(), &shape, 1).expect("flashed");
                assert!(machine.disk.content() == pair.expected(), "{shape:?}");
                assert!(machine.undo(&pair, &shape).expect("undone"));
                assert!(machine.disk.content() == pair.old, "{shape:?}");
            }
        }
    }
}

/// Bytes behind the end of a checked object are nobody's: none is believed, none is written.
#[test]
fn trailing_bytes_behind_checked_objects_never_reach_the_disk() {
    let shape = Shape::default();
    let pair = Pair::new(&shape, 82);
    let (store, manifest) = (pair.store(), pair.manifest());
    let objects = [
        (&manifest.payload.object, manifest.payload.size),
        (&manifest.chunk_table.object, manifest.chunk_table.size),
        (&manifest.block_table.object, manifest.block_table.size),
    ];
    for (object, size) in objects {
        let key = format!("{FOLDER}/{object}");
        let mut bytes = Transfer::new(store.clone()).get(&key, 0..size).expect("it is there").to_vec();
        bytes.resize(bytes.len() + 100_000, 0xee);
        store.put(&key, &bytes).expect("memory takes it");
    }
    let machine = Machine::new(&pair.old, &shape);
    machine.flash(&pair.open(), &shape, 1).expect("flashed");
    assert!(machine.disk.content() == pair.expected());
}

/// Marks of 16 bytes at these offsets, and zeros.
fn marks(at: &[u64], value: u8, offset: u64, out: &mut [u8]) {
    out.fill(0);
    let end = offset + out.len() as u64;
    for mark in at.iter().flat_map(|&at| at..at + 16).filter(|byte| (offset..end).contains(byte)) {
        out[(mark - offset) as usize] = value;
    }
}

const LARGE: u64 = 4 * GIB + (66 << 20) + 512;
const NEW_MARKS: [u64; 7] = [0, 2 * GIB - 100, 2 * GIB, 4 * GIB - 20, 4 * GIB, 4 * GIB + (65 << 20), LARGE - 16];
/// One of them where a 32-bit offset of a new one would come out, and one where one of its own would.
const OLD_MARKS: [u64; 5] = [0, 65 << 20, 2 * GIB + 70_000, 4 * GIB + 70_000, LARGE - 600];

fn large_new(offset: u64, out: &mut [u8]) {
    marks(&NEW_MARKS, 0xaa, offset, out);
}

fn large_old(offset: u64, out: &mut [u8]) {
    marks(&OLD_MARKS, 0x55, offset, out);
}

static ZEROS: [u8; CHUNK as usize] = [0; CHUNK as usize];

/// A computed disk as a source: zeros as zeros.
struct Sparse {
    content: Content,
    size: u64,
    at: u64,
}

impl Source for Sparse {
    fn describe(&self) -> String {
        "computed".into()
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Extent, image::source::Error> {
        let count = (self.size - self.at).min(buf.len() as u64).min(CHUNK) as usize;
        if count == 0 {
            return Ok(Extent::End);
        }
        (self.content)(self.at, &mut buf[..count]);
        self.at += count as u64;
        // By comparing: the quickest there is where nothing is optimised.
        Ok(if buf[..count] == ZEROS[..count] { Extent::Zero(count as u64) } else { Extent::Data(count) })
    }

    fn progress(&self) -> (u64, u64) {
        (self.at, self.size)
    }

    fn modified(&self) -> Option<jiff::Timestamp> {
        None
    }
}

fn sparse_image(content: Content, size: u64) -> Packed {
    pack_from(&mut Sparse { content, size, at: 0 }, 512)
}

fn flash_onto(disk: &ComputedDisk, image: &Image, undo: Option<&Arc<SimDisk>>) -> model::report::FlashReport {
    let flash = Flash { disk, image, workers: flash::WORKERS, watch: &Unwatched };
    let undo = undo.map(|file| Space { medium: file.clone(), id: 1 });
    let keep = Keep { undo, tail: true, disk_key: "computed".into(), ..Keep::default() };
    let mut prepared = flash.prepare(&keep).expect("prepared");
    flash.apply(&mut prepared, &Dirty::Nothing, None).expect("flashed")
}

fn undo_on(disk: &ComputedDisk, log: &Arc<SimDisk>, image: &(dyn Fn() -> flash::Result<Image> + Sync)) {
    let found = Found::read(&**log).expect("a whole log");
    let undo = Undo { disk, medium: log.clone(), found: &found, image, workers: flash::WORKERS, watch: &Unwatched };
    undo.run().expect("undone");
}

/// Relatives lost what lay beyond 2 or 4 GiB to 32-bit sizes.
#[test]
fn sizes_beyond_2_and_4_gib_are_whole() {
    let packed = sparse_image(large_new, LARGE);
    let disk = ComputedDisk::new(LARGE + (3 << 20), large_old, large_new);
    let log = Arc::new(SimDisk::file());
    let report = flash_onto(&disk, &packed.open(), Some(&log));
    assert_eq!(report.blake3, Some(packed.manifest().blake3));
    assert_eq!(disk.differing(LARGE), [0_u64; 0]);
    undo_on(&disk, &log, &|| Ok(packed.open()));
    assert!(disk.is_old(LARGE + (3 << 20)));
}

/// A relative stalled under more requests than the device queues.
#[test]
fn no_more_requests_than_the_disk_queues() {
    let size = 32 << 20;
    let (new, old): (Content, Content) = (|at, out| noise(1, at, out), |at, out| noise(2, at, out));
    let folder = tempfile::tempdir().expect("a folder");
    let image = dense_image(folder.path(), size, new);
    for depth in [1, 2, 4] {
        let mut disk = ComputedDisk::new(size, old, new);
        disk.queue_depth = depth;
        let log = Arc::new(SimDisk::file());
        flash_onto(&disk, &image, Some(&log));
        assert_eq!(disk.differing(size), [0_u64; 0]);
        let most = disk.in_flight_most.load(Ordering::SeqCst);
        assert!(most <= depth, "{most} requests at once for a queue of {depth}");
        undo_on(&disk, &log, &|| unreachable!("the log has it all"));
        assert!(disk.is_old(size));
        let most = disk.in_flight_most.load(Ordering::SeqCst);
        assert!(most <= depth, "{most} requests at once for a queue of {depth}, undoing");
        assert!(most > 1 || depth == 1, "a queue of {depth} is used");
    }
}

const HOLED: u64 = 24 << 20;

/// Data in every third chunk, holes elsewhere.
fn holed(offset: u64, out: &mut [u8]) {
    let mut at = offset;
    while at < offset + out.len() as u64 {
        let next = ((at / CHUNK + 1) * CHUNK).min(offset + out.len() as u64);
        let part = &mut out[(at - offset) as usize..(next - offset) as usize];
        if (at / CHUNK).is_multiple_of(3) {
            noise(1, at, part);
        } else {
            part.fill(0);
        }
        at = next;
    }
}

/// Dirty in the holes only: wherever one looks for the image's data, the disk is blank.
fn dirty_where_nobody_looks(offset: u64, out: &mut [u8]) {
    holed(offset, out);
    let mut at = 0;
    while at < out.len() {
        let chunk = (offset + at as u64) / CHUNK;
        let next = ((chunk + 1) * CHUNK - offset).min(out.len() as u64) as usize;
        if chunk.is_multiple_of(3) {
            out[at..next].fill(0);
        } else {
            noise(3, offset + at as u64, &mut out[at..next]);
        }
        at = next;
    }
}

/// A relative skipped the image's holes, and what the disk had there before came through.
#[test]
fn holes_on_a_dirty_disk_become_zeros() {
    let packed = sparse_image(holed, HOLED);
    let everywhere: Content = |at, out| noise(2, at, out);
    for old in [everywhere, dirty_where_nobody_looks as Content] {
        for (zeroes, refuses_zeroing) in [(true, false), (false, false), (true, true)] {
            for with_undo in [false, true] {
                let mut disk = ComputedDisk::new(HOLED, old, holed);
                (disk.zeroes, disk.refuses_zeroing) = (zeroes, refuses_zeroing);
                let log = Arc::new(SimDisk::file());
                let report = flash_onto(&disk, &packed.open(), with_undo.then_some(&log));
                assert_eq!(disk.differing(HOLED), [0_u64; 0], "{zeroes} {refuses_zeroing} {with_undo}");
                let is_zeroed = report.bytes.zeroed > 0;
                assert_eq!(
                    is_zeroed,
                    zeroes && !refuses_zeroing,
                    "by the disk itself where it can: {:?}",
                    report.bytes
                );
                if with_undo {
                    undo_on(&disk, &log, &|| Ok(packed.open()));
                    assert!(disk.is_old(HOLED), "{zeroes} {refuses_zeroing}");
                }
            }
        }
    }
}
