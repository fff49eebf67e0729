//! Whether a disk is the old one or the new one is asked of the disk: by what both have where they differ, and by nothing else.

mod support;

use flash::log::State;
use flash::undo::Found;
use flash::{ChunkSet, Dirty, Flash, Unwatched};
use keepstate_flash as flash;
use support::images::{Pair, Shape};
use support::machine::{Machine, cut_off};
use support::{Power, Random};

const CHUNK: usize = 64 << 10;

fn undoable() -> Shape {
    Shape { undo: true, stage: true, ..Shape::default() }
}

fn state(machine: &Machine) -> Option<State> {
    Found::read(&**machine.undo.as_ref().unwrap()).ok().map(|found| found.state())
}

/// Rewrites nearly every chunk in which old disk and image differ, as a journal and logs do within hours: all but one.
fn rewrite(machine: &Machine, pair: &Pair, seed: u64) {
    let (mut random, new) = (Random(seed), pair.expected());
    let chunks = 1..new.len() / CHUNK - 1;
    let differing = chunks.filter(|chunk| pair.old[chunk * CHUNK..][..CHUNK] != new[chunk * CHUNK..][..CHUNK]);
    for chunk in differing.skip(1) {
        let mut bytes = vec![0; CHUNK];
        random.fill(&mut bytes);
        machine.disk.scribble((chunk * CHUNK) as u64, &bytes);
    }
}

/// It was taken for a disk whose flash was cut off: what had been written meanwhile was in neither log nor image, and an undo made a
/// mixture.
#[test]
fn an_os_that_has_rewritten_nearly_all_that_a_flash_would_overwrite_is_logged_again() {
    let shape = undoable();
    for seed in 300..306 {
        let pair = Pair::patched(&shape, seed);
        let (image, machine) = (pair.open(), Machine::new(&pair.old, &shape));
        let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
        drop(flash.prepare(&machine.keep(&shape, 1)).unwrap());
        assert_eq!(state(&machine), Some(State::Sealed));
        rewrite(&machine, &pair, seed);
        let now = machine.disk.content();
        let report = machine.flash(&image, &shape, 2).unwrap();
        assert!(!report.resumed && machine.disk.content() == pair.expected(), "seed {seed}");
        assert!(machine.undo(&pair, &shape).unwrap());
        assert!(machine.disk.content() == now, "seed {seed}: the old disk as it was last");
    }
}

/// Zeros the chunks of which `is_one` says so, as `fstrim` does of what was deleted; gives how many.
fn trim(machine: &Machine, pair: &Pair, is_one: impl Fn(&[u8], &[u8]) -> bool) -> usize {
    let new = pair.expected();
    let range = |chunk: usize| chunk * CHUNK..(chunk + 1) * CHUNK;
    let chunks = (17..new.len() / CHUNK - 1).filter(|&chunk| is_one(&pair.old[range(chunk)], &new[range(chunk)]));
    chunks.map(|chunk| machine.disk.scribble((chunk * CHUNK) as u64, &vec![0; CHUNK])).count()
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// What is deleted and trimmed is zero, as it may be in the image: a live old disk was taken for one whose flash was cut off, and
/// what it wrote from then on was not logged.
#[test]
fn an_os_that_trims_what_it_has_deleted_is_still_the_old_one() {
    let shape = Shape { chunks: 96, ..undoable() };
    for seed in 350..356 {
        let pair = Pair::new(&shape, seed);
        let (image, machine) = (pair.open(), Machine::new(&pair.old, &shape));
        let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
        drop(flash.prepare(&machine.keep(&shape, 1)).unwrap());
        rewrite(&machine, &pair, seed);
        assert!(trim(&machine, &pair, |old, new| !is_zero(old) && is_zero(new)) > 3);
        drop(flash.prepare(&machine.keep(&shape, 2)).unwrap());
        let mut dirty = ChunkSet::new((pair.old.len() / CHUNK) as u64);
        machine.disk.scribble((40 * CHUNK) as u64, &[0xa7; 512]);
        dirty.insert(40);
        let now = machine.disk.content();
        let mut prepared = flash.reopen(&machine.keep(&shape, 3)).unwrap();
        let report = flash.apply(&mut prepared, &Dirty::Chunks(dirty), None).unwrap();
        assert!(!report.resumed && machine.disk.content() == pair.expected(), "seed {seed}");
        assert!(machine.undo(&pair, &shape).unwrap());
        assert!(machine.disk.content() == now, "seed {seed}: the old disk as it was last");
    }
}

/// The other way round: where the old disk was zero, a new OS that trims looks like it, and was logged as the way back.
#[test]
fn a_new_os_that_trims_is_not_taken_for_the_old_one() {
    let shape = Shape { chunks: 96, ..undoable() };
    for seed in 360..366 {
        let pair = Pair::new(&shape, seed);
        let machine = Machine::new(&pair.old, &shape);
        machine.flash(&pair.open(), &shape, 1).unwrap();
        rewrite(&machine, &pair, seed);
        assert!(trim(&machine, &pair, |old, new| is_zero(old) && !is_zero(new)) > 3);
        let report = machine.flash(&pair.open(), &shape, 2).unwrap();
        assert!(report.resumed && machine.disk.content() == pair.expected(), "seed {seed}");
        assert!(machine.undo(&pair, &shape).unwrap());
        assert!(machine.disk.content() == pair.old, "seed {seed}: the way back is lost");
    }
}

/// An undo that could not note its end, or a flash that noted its beginning and wrote nothing: the old OS runs on, and rewrites most of
/// what a flash would overwrite. An undo wrote over that.
#[test]
fn an_old_os_that_has_rewritten_nearly_all_is_left_alone_by_an_undo() {
    let shape = undoable();
    let pair = Pair::patched(&shape, 370);
    let (mut begun, mut undone) = (0, 0);
    for (cut, machine) in cut_off(&pair, &shape, 1) {
        if machine.disk.content() != pair.old || state(&machine) != Some(State::Began) {
            continue;
        }
        begun += 1;
        machine.disk.scribble((40 * CHUNK) as u64, &[0xb8; 4096]);
        let now = machine.disk.content();
        assert!(machine.undo(&pair, &shape).unwrap() && machine.disk.content() == now, "cut {cut}");
    }
    let flashed = Machine::new(&pair.old, &shape);
    flashed.flash(&pair.open(), &shape, 1).unwrap();
    for cut in 0.. {
        let machine = flashed.copy(&shape);
        machine.plug(&Power::cut_after(cut));
        if machine.undo(&pair, &shape).is_ok() && state(&machine) == Some(State::Undone) {
            break;
        }
        machine.power_cycle(&mut Random(cut));
        if machine.disk.content() != pair.old || state(&machine) == Some(State::Undone) {
            continue;
        }
        undone += 1;
        rewrite(&machine, &pair, cut);
        let now = machine.disk.content();
        assert!(machine.undo(&pair, &shape).unwrap() && machine.disk.content() == now, "cut {cut}");
    }
    assert!(begun > 0 && undone > 0, "{begun} {undone}");
}

/// It was refused as damaged.
#[test]
fn a_first_pass_that_was_cut_off_is_begun_anew_whatever_was_written_since() {
    let shape = undoable();
    let pair = Pair::patched(&shape, 310);
    let mut unsealed = 0;
    for cut in 0.. {
        let machine = Machine::new(&pair.old, &shape);
        machine.plug(&Power::cut_after(cut));
        let image = pair.open();
        let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
        if flash.prepare(&machine.keep(&shape, 1)).is_ok() {
            break;
        }
        machine.power_cycle(&mut Random(cut));
        unsealed += u32::from(state(&machine).is_none());
        rewrite(&machine, &pair, cut);
        let now = machine.disk.content();
        machine.flash(&pair.open(), &shape, 2).unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        assert!(machine.disk.content() == pair.expected(), "cut {cut}");
        assert!(machine.undo(&pair, &shape).unwrap() && machine.disk.content() == now, "cut {cut}");
    }
    assert!(unsealed > 1, "{unsealed} passes were cut off");
}

/// What is written between two passes is logged by whole segments, of which most may be equal in old disk and image: these made a
/// flash that had ended look like the old disk, which was then logged as such. The way back led to the new OS.
#[test]
fn a_flash_that_has_ended_is_not_taken_for_the_old_os_where_equal_chunks_were_logged_too() {
    let shape = undoable();
    let pair = Pair::patched(&shape, 320);
    let (image, machine) = (pair.open(), Machine::new(&pair.old, &shape));
    let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
    drop(flash.prepare(&machine.keep(&shape, 1)).unwrap());
    let mut dirty = ChunkSet::new((pair.old.len() / CHUNK) as u64);
    for chunk in (18..pair.old.len() / CHUNK).step_by(16) {
        machine.disk.scribble((chunk * CHUNK) as u64, &[0xd1; 512]);
        dirty.insert(chunk as u64);
    }
    let before = machine.disk.content();
    drop(flash.refresh(&machine.keep(&shape, 2), &Dirty::Chunks(dirty)).unwrap());
    for (round, dirty) in [Dirty::Nothing, Dirty::Everything, Dirty::Everything].into_iter().enumerate() {
        let mut prepared = flash.reopen(&machine.keep(&shape, 3)).unwrap();
        flash.apply(&mut prepared, &dirty, None).unwrap();
        assert!(machine.disk.content() == pair.expected(), "round {round}");
    }
    assert!(machine.undo(&pair, &shape).unwrap());
    assert!(machine.disk.content() == before, "the way back is lost");
}

/// What stands behind the image is logged with its tail, and stays: where that was more than the image overwrites, each disk was
/// taken for the old one. The new OS was logged as the way back; an undo that had not begun to write was said to be done.
#[test]
fn what_stands_behind_the_image_does_not_make_a_new_disk_the_old_one() {
    let shape = Shape { undo: true, tail: true, behind: 100 * CHUNK + 4096, ..Shape::default() };
    let pair = Pair::new(&shape, 340);
    for power in [Power::cut_after(0), Power::cut_after(1), Power::steady()] {
        let machine = Machine::new(&pair.old, &shape);
        for id in 1..3 {
            let report = machine.flash(&pair.open(), &shape, id).unwrap();
            assert_eq!(report.resumed, id == 2);
            assert!(machine.disk.content() == pair.expected());
        }
        // Only the disk: that the undo begins can be noted.
        machine.disk.plug(&power);
        let _ = machine.undo(&pair, &shape);
        machine.disk.power_cycle(&mut Random(1));
        machine.disk.plug(&Power::steady());
        assert!(machine.undo(&pair, &shape).unwrap());
        assert!(machine.disk.content() == pair.old, "the way back is lost");
    }
}

/// A run that wrote and could not flush left it to the next one, which found all as it should be and said that it was done.
#[test]
fn what_an_earlier_run_wrote_and_did_not_flush_is_flushed_before_it_counts() {
    let shape = undoable();
    let pair = Pair::new(&shape, 330);
    // The process ends, the power stays: what was written is in the disk's cache, and seen.
    let cut_off = |cut| {
        let machine = Machine::new(&pair.old, &shape);
        machine.plug(&Power::cut_after(cut));
        let result = machine.flash(&pair.open(), &shape, 1);
        machine.plug(&Power::steady());
        result.is_err().then_some(machine)
    };
    let (mut flashed, mut undone) = (0, 0);
    for (cut, machine) in (0..).map_while(|cut| Some((cut, cut_off(cut)?))) {
        let back = cut_off(cut).expect("the same again");
        machine.flash(&pair.open(), &shape, 2).unwrap();
        machine.power_cycle(&mut Random(cut));
        assert!(machine.disk.content() == pair.expected(), "cut {cut}: said to be done, and lost by a power cut");
        flashed += 1;
        if back.undo(&pair, &shape).unwrap() {
            back.power_cycle(&mut Random(cut));
            assert!(back.disk.content() == pair.old, "cut {cut}: said to be undone, and lost by a power cut");
            undone += 1;
        }
    }
    assert!(flashed > 20 && undone > 10, "{flashed} {undone}");

    // The same of an undo, whose last write is sector 0. All that was not flushed is lost.
    let loses_all = (0..100).map(Random).find(|random| random.clone().below(4) == 0).unwrap();
    let whole = Machine::new(&pair.old, &shape);
    whole.flash(&pair.open(), &shape, 1).unwrap();
    let mut old = 0;
    let cut_off = |cut| {
        let machine = whole.copy(&shape);
        machine.plug(&Power::cut_after(cut));
        let _ = machine.undo(&pair, &shape);
        machine.plug(&Power::steady());
        (state(&machine) != Some(State::Undone)).then_some(machine)
    };
    for (cut, machine) in (0..).map_while(|cut| Some((cut, cut_off(cut)?))) {
        if machine.disk.content() == pair.old {
            old += 1;
            // Nor is its log given up before.
            let (image, machine) = (pair.open(), cut_off(cut).expect("the same again"));
            let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
            drop(flash.prepare(&machine.keep(&shape, 3)).unwrap());
            machine.power_cycle(&mut loses_all.clone());
            assert!(machine.disk.content() == pair.old, "cut {cut}: logged as the old one, and lost by a power cut");
        }
        assert!(machine.undo(&pair, &shape).unwrap());
        machine.power_cycle(&mut loses_all.clone());
        assert!(machine.disk.content() == pair.old, "cut {cut}: said to be undone, and lost by a power cut");
    }
    assert!(old > 1, "{old} undos had put all back and not said so");
}
