//! What the old OS writes between passes that share a log is what an undo brings back, whatever of a pass was cut off.

mod support;

use std::io;
use std::sync::Arc;

use flash::log::State;
use flash::undo::{Found, Undo};
use flash::{ChunkSet, Dirty, Flash, Unwatched};
use keepstate_flash as flash;
use support::images::{Pair, Shape};
use support::machine::{Is, Machine, classify, cut_off};
use support::{Power, Random, SimDisk};
use sys::Medium;

const CHUNK: usize = 64 << 10;

fn undoable() -> Shape {
    Shape { undo: true, stage: true, ..Shape::default() }
}

/// Chunks that have content and are equal in old disk and image; not the boot area's.
fn equal_chunks(pair: &Pair) -> Vec<usize> {
    let new = pair.expected();
    let is_equal = |chunk: &usize| {
        let range = chunk * CHUNK..(chunk + 1) * CHUNK;
        pair.old[range.clone()] == new[range.clone()] && pair.old[range].iter().any(|&byte| byte != 0)
    };
    (17..pair.old.len().min(new.len()) / CHUNK - 1).filter(is_equal).collect()
}

/// Writes as an OS does: into the first chunk, but not sector 0, and into one that the image would have left alone.
fn run_on(machine: &Machine, pair: &Pair, seed: u8) -> ChunkSet {
    let equal = equal_chunks(pair)[usize::from(seed % 2)];
    let mut dirty = ChunkSet::new(pair.old.len() as u64 / CHUNK as u64);
    for chunk in [0, equal] {
        machine.disk.scribble((chunk * CHUNK + 8192) as u64, &[seed; 512]);
        dirty.insert(chunk as u64);
    }
    dirty
}

#[test]
fn an_os_that_changes_its_boot_area_between_two_prepares_is_logged_again() {
    let shape = undoable();
    for seed in 200..206 {
        let pair = Pair::new(&shape, seed);
        let (image, machine) = (pair.open(), Machine::new(&pair.old, &shape));
        let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
        drop(flash.prepare(&machine.keep(&shape, 1)).unwrap());
        run_on(&machine, &pair, 0xa1);
        drop(flash.prepare(&machine.keep(&shape, 2)).unwrap());
        let dirty = Dirty::Chunks(run_on(&machine, &pair, 0xb2));
        let now = machine.disk.content();
        let mut prepared = flash.reopen(&machine.keep(&shape, 3)).unwrap();
        flash.apply(&mut prepared, &dirty, None).unwrap();
        drop(prepared);
        assert!(machine.disk.content() == pair.expected(), "seed {seed}");
        assert!(machine.undo(&pair, &shape).unwrap());
        assert!(machine.disk.content() == now, "seed {seed}: the old disk as it was last");
    }
}

#[test]
fn an_os_that_runs_on_after_a_flash_that_wrote_nothing_is_what_an_undo_brings_back() {
    let shape = undoable();
    let pair = Pair::new(&shape, 210);
    let mut ran_on = [0, 0];
    for (cut, machine) in cut_off(&pair, &shape, 1) {
        if classify(&pair, &shape, &machine.disk.content()) != Is::Old {
            continue;
        }
        let begun = Found::read(&**machine.undo.as_ref().unwrap()).map(|found| found.state());
        run_on(&machine, &pair, 0xc3);
        let now = machine.disk.content();
        let is_begun = begun.is_ok_and(|state| state == State::Began);
        ran_on[usize::from(is_begun)] += 1;
        if is_begun && cut % 2 == 0 {
            // What was prepared is gone on with, by who knows nothing of what was written.
            let image = pair.open();
            let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
            let mut prepared = flash.reopen(&machine.keep(&shape, 2)).unwrap();
            flash.apply(&mut prepared, &Dirty::Everything, None).unwrap();
        } else {
            machine.flash(&pair.open(), &shape, 2).unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        }
        assert!(machine.disk.content() == pair.expected(), "cut {cut}");
        assert!(machine.undo(&pair, &shape).unwrap());
        assert!(machine.disk.content() == now, "cut {cut}: the old disk as it was last");
    }
    assert!(ran_on[0] > 0 && ran_on[1] > 0, "{ran_on:?}");
}

#[test]
fn a_pass_that_was_torn_leaves_no_chunk_that_is_told_but_not_held() {
    let shape = undoable();
    let pair = Pair::new(&shape, 220);
    let image = pair.open();
    let mut cuts = 0;
    // Each cut tears in many ways.
    for (cut, seed) in (0..).flat_map(|cut| (0..12).map(move |seed| (cut, seed))) {
        // What was torn may have been taken back since: then the next pass has nothing to say of it.
        let reverts = seed % 2 == 1;
        let machine = Machine::new(&pair.old, &shape);
        let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
        drop(flash.prepare(&machine.keep(&shape, 1)).unwrap());
        // More than is gathered before it is written.
        let mut random = Random(cut * 100 + seed);
        for chunk in 17..pair.old.len() / CHUNK - 1 {
            let mut bytes = vec![0; CHUNK];
            random.fill(&mut bytes);
            machine.disk.scribble((chunk * CHUNK) as u64, &bytes);
        }
        let now = machine.disk.content();
        machine.plug(&Power::cut_after(cut));
        if flash.refresh(&machine.keep(&shape, 2), &Dirty::Everything).is_ok() {
            break;
        }
        cuts += 1;
        machine.power_cycle(&mut random);
        if reverts {
            machine.disk.scribble(0, &pair.old);
        }
        let now = if reverts { pair.old.clone() } else { now };
        drop(flash.refresh(&machine.keep(&shape, 3), &Dirty::Everything).unwrap());
        let mut prepared = flash.reopen(&machine.keep(&shape, 4)).unwrap();
        flash.apply(&mut prepared, &Dirty::Nothing, None).unwrap();
        drop(prepared);
        assert!(machine.undo(&pair, &shape).unwrap(), "cut {cut} {seed}");
        assert!(machine.disk.content() == now, "cut {cut} {seed}: the old disk as it was last");
    }
    assert!(cuts > 24, "it was cut hardly anywhere");
}

#[test]
fn the_tail_that_a_log_holds_is_logged_again_by_whoever_applies() {
    let shape = Shape { tail: true, behind: 4 * CHUNK, ..undoable() };
    let pair = Pair::new(&shape, 230);
    let (image, machine) = (pair.open(), Machine::new(&pair.old, &shape));
    let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
    drop(flash.prepare(&machine.keep(&shape, 1)).unwrap());
    machine.disk.scribble((pair.old.len() - 2 * CHUNK) as u64, &[0xd4; 4096]);
    let now = machine.disk.content();
    let without = Shape { tail: false, ..shape.clone() };
    let mut prepared = flash.reopen(&machine.keep(&without, 2)).unwrap();
    flash.apply(&mut prepared, &Dirty::Everything, None).unwrap();
    drop(prepared);
    assert!(machine.undo(&pair, &shape).unwrap());
    assert!(machine.disk.content() == now);
}

/// A file whose filesystem is full, but for so many bytes.
struct Full {
    file: Arc<SimDisk>,
    end: u64,
}

impl Medium for Full {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if offset + buf.len() as u64 > self.end {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            self.file.write_at(offset, buf)
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }
}

fn undo(machine: &Machine, medium: Arc<dyn Medium>, pair: &Pair) -> flash::Result<()> {
    let found = Found::read(&*medium).unwrap();
    let image = || Ok(pair.open());
    Undo { disk: &machine.disk, medium, found: &found, image: &image, workers: 1, watch: &Unwatched }.run().map(drop)
}

#[test]
fn an_undo_whose_log_is_full_fetches_while_it_writes() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 240);
    for room in [0, 100, 70_000] {
        let machine = Machine::new(&pair.old, &shape);
        machine.flash(&pair.open(), &shape, 1).unwrap();
        for chunk in equal_chunks(&pair) {
            machine.disk.scribble((chunk * CHUNK) as u64, &vec![0xe5; CHUNK]);
        }
        let file = machine.undo.clone().unwrap();
        let end = file.content().len() as u64 + room;
        undo(&machine, Arc::new(Full { file, end }), &pair).unwrap_or_else(|error| panic!("{room} bytes: {error}"));
        assert!(machine.disk.content() == pair.old, "{room} bytes");
    }
}

/// A flash that is gone on with had noted that it began, and could not note it again: it could only be undone.
#[test]
fn a_flash_whose_log_is_full_is_gone_on_with() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 245);
    let mut dead = 0;
    for (cut, machine) in cut_off(&pair, &shape, 7) {
        if classify(&pair, &shape, &machine.disk.content()) != Is::Dead {
            continue;
        }
        dead += 1;
        let image = pair.open();
        let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
        let file = machine.undo.clone().unwrap();
        let end = file.content().iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1;
        let mut keep = machine.keep(&shape, 2);
        keep.undo = Some(flash::Space { medium: Arc::new(Full { file, end }), id: 2 });
        let mut prepared = flash.prepare(&keep).unwrap();
        flash.apply(&mut prepared, &Dirty::Nothing, None).unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        assert!(machine.disk.content() == pair.expected(), "cut {cut}");
        assert!(machine.undo(&pair, &shape).unwrap() && machine.disk.content() == pair.old, "cut {cut}");
    }
    assert!(dead > 2, "{dead} cuts left a dead disk");
}

/// Zeros in both are in no log, and the image was asked for them: from a rescue system without the store nothing came back.
#[test]
fn an_undo_that_lacks_only_zeros_needs_no_image() {
    let shape = Shape { undo: true, chunks: 96, ..Shape::default() };
    let pair = Pair::new(&shape, 246);
    let new = pair.expected();
    let is_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    let range = |chunk: usize| chunk * CHUNK..(chunk + 1) * CHUNK;
    let mut zeros = (17..94).filter(|&chunk| is_zero(&pair.old[range(chunk)]) && is_zero(&new[range(chunk)]));
    let chunk = zeros.next().expect("some are zero in both");
    for room in [u64::MAX, 0] {
        let machine = Machine::new(&pair.old, &shape);
        machine.flash(&pair.open(), &shape, 1).unwrap();
        machine.disk.scribble((chunk * CHUNK) as u64, &[0xe7; 512]);
        let file = machine.undo.clone().unwrap();
        let end = (file.content().len() as u64).saturating_add(room);
        let medium: Arc<dyn Medium> = Arc::new(Full { file, end });
        let found = Found::read(&*medium).unwrap();
        let image = || panic!("nothing is missing");
        let undo = Undo { disk: &machine.disk, medium, found: &found, image: &image, workers: 1, watch: &Unwatched };
        undo.run().unwrap();
        assert!(machine.disk.content() == pair.old, "{room} bytes of room");
    }
}

#[test]
fn an_undo_that_could_not_note_its_end_is_not_done_again() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 250);
    let machine = Machine::new(&pair.old, &shape);
    machine.flash(&pair.open(), &shape, 1).unwrap();
    let mut met = 0;
    for cut in 0.. {
        let machine = machine.copy(&shape);
        machine.plug(&Power::cut_after(cut));
        let result = machine.undo(&pair, &shape);
        machine.power_cycle(&mut Random(cut));
        let state = Found::read(&**machine.undo.as_ref().unwrap()).unwrap().state();
        if classify(&pair, &shape, &machine.disk.content()) != Is::Old {
            assert!(result.is_err(), "cut {cut}");
            continue;
        }
        if state == State::Undone {
            break;
        }
        met += 1;
        run_on(&machine, &pair, 0xf6);
        let now = machine.disk.content();
        assert!(machine.undo(&pair, &shape).unwrap(), "cut {cut}");
        assert!(machine.disk.content() == now, "cut {cut}: what the old OS wrote is lost");
        machine.flash(&pair.open(), &shape, 2).unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        assert!(machine.undo(&pair, &shape).unwrap() && machine.disk.content() == now, "cut {cut}");
    }
    assert!(met > 0, "no cut between the last write and the note");
}

#[test]
fn a_table_that_the_new_os_made_behind_the_image_is_taken_away_by_one_undo_that_needs_no_image() {
    let shape = Shape { undo: true, behind: 1 << 20, ..Shape::default() };
    let pair = Pair::new(&shape, 260);
    let mut old = pair.old.clone();
    let end = old.len() - 512;
    old[end..].fill(0);
    let machine = Machine::new(&old, &shape);
    machine.flash(&pair.open(), &shape, 1).unwrap();
    machine.disk.scribble(end as u64, b"EFI PART");
    let image = || panic!("nothing is missing");
    assert!(machine.undo_with(&image, &shape).unwrap());
    assert!(machine.disk.content() == old);
}

#[test]
fn a_sector_that_a_power_cut_has_torn_stops_neither_way() {
    for shape in [undoable(), Shape { undo: true, sector: 4096, ..Shape::default() }] {
        let pair = Pair::new(&shape, 270);
        let sectors = (pair.old.len() / shape.sector) as u64;
        let mut met = 0;
        for (cut, machine) in cut_off(&pair, &shape, 5) {
            if classify(&pair, &shape, &machine.disk.content()) != Is::Dead {
                continue;
            }
            met += 1;
            let torn = || {
                let copy = machine.copy(&shape);
                copy.disk.unreadable.lock().unwrap().extend([0, 1, sectors / 2, sectors - 1]);
                copy
            };
            let on = torn();
            on.flash(&pair.open(), &shape, 2).unwrap_or_else(|error| panic!("cut {cut}: on: {error}"));
            assert!(on.disk.content() == pair.expected(), "cut {cut}");
            assert!(on.undo(&pair, &shape).unwrap() && on.disk.content() == pair.old, "cut {cut}");
            let back = torn();
            assert!(back.undo(&pair, &shape).unwrap_or_else(|error| panic!("cut {cut}: back: {error}")));
            assert!(back.disk.content() == pair.old, "cut {cut}");
        }
        assert!(met > 3, "{met} cuts left a dead disk");
    }
}

#[test]
fn what_cannot_be_read_before_it_was_logged_stops_a_flash_that_is_to_be_undone() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 280);
    let machine = Machine::new(&pair.old, &shape);
    machine.disk.unreadable.lock().unwrap().insert((pair.old.len() / 512 / 2) as u64);
    let error = machine.flash(&pair.open(), &shape, 1).unwrap_err();
    assert!(error.to_string().starts_with("reading"), "{error}");
    machine.disk.unreadable.lock().unwrap().clear();
    assert!(machine.disk.content() == pair.old);
}
