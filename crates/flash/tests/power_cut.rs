//! The real engine on a simulated disk whose power is cut: at every operation of small flashes, at random ones of others.
//!
//! After each cut the disk is the old one, the new one, or dead (sector 0 is zero); and from there both ways are open:
//! the same flash again ends in the new disk, an undo ends in the old one, bit for bit.

mod support;

use flash::log::State;
use flash::undo::Found;
use flash::{Dirty, Error, Flash};
use keepstate_flash as flash;
use support::images::{Pair, Shape};
use support::machine::{Is, Machine, Totals, classify};
use support::{Power, Random, rounds};

/// Cuts at operation `cut`, then goes both ways. Gives what the disk was after the cut, or nothing if all was done before.
fn cut_and_recover(pair: &Pair, shape: &Shape, cut: u64, seed: u64) -> Option<Is> {
    let mut random = Random(seed ^ cut.wrapping_mul(0x1234_5678_9abc));
    let machine = Machine::new(&pair.old, shape);
    machine.plug(&Power::cut_after(cut));
    let result = machine.flash(&pair.open(), shape, 1);
    if result.is_ok() {
        return None;
    }
    machine.power_cycle(&mut random);
    let is = classify(pair, shape, &machine.disk.content());

    let again = machine.copy(shape);
    let report =
        again.flash(&pair.open(), shape, 2).unwrap_or_else(|error| panic!("cut {cut} seed {seed}: resume: {error}"));
    assert_eq!(report.blake3, Some(pair.manifest().blake3));
    assert!(again.disk.content() == pair.expected(), "cut {cut} seed {seed}: resume ends in the new disk");
    if shape.undo {
        assert!(again.undo(pair, shape).unwrap(), "the resumed flash can be undone");
        assert!(again.disk.content() == pair.old, "cut {cut} seed {seed}: undo after resume ends in the old disk");

        let back = machine.copy(shape);
        back.plug(&Power::cut_after(random.below(60)));
        // The undo is cut too, somewhere; the next one ends it.
        let first = back.undo(pair, shape);
        back.power_cycle(&mut random);
        if first.is_err() {
            classify(pair, shape, &back.disk.content());
        }
        let had_log = back.undo(pair, shape).unwrap_or_else(|error| panic!("cut {cut} seed {seed}: undo: {error}"));
        assert!(had_log || is == Is::Old, "cut {cut} seed {seed}: written to without a way back");
        assert!(back.disk.content() == pair.old, "cut {cut} seed {seed}: undo ends in the old disk");
    }
    Some(is)
}

/// Every operation of a flash is cut once.
fn cut_everywhere(shape: &Shape, seed: u64) {
    let pair = Pair::new(shape, seed);
    let mut met = Vec::new();
    for cut in 0.. {
        assert!(cut < 10_000, "a flash of a few MiB ends");
        match cut_and_recover(&pair, shape, cut, seed) {
            Some(is) => met.push(is),
            None => break,
        }
    }
    assert!(met.contains(&Is::Old) || !shape.undo, "some cut comes before the first write");
    assert!(met.contains(&Is::Dead), "some cut comes in the middle");
    assert!(met.len() > 10, "{} operations are no flash", met.len());
}

#[test]
fn every_cut_of_a_plain_flash() {
    cut_everywhere(&Shape::default(), 1);
}

#[test]
fn every_cut_with_an_undo_log() {
    for seed in 2..4 {
        cut_everywhere(&Shape { undo: true, ..Shape::default() }, seed);
    }
}

#[test]
fn every_cut_with_undo_log_and_stage() {
    for seed in 6..8 {
        cut_everywhere(&Shape { undo: true, stage: true, ..Shape::default() }, seed);
    }
}

#[test]
fn every_cut_on_a_larger_disk_of_4096_byte_sectors() {
    for tail in [false, true] {
        let shape = Shape { undo: true, tail, behind: 1 << 20, sector: 4096, ..Shape::default() };
        cut_everywhere(&shape, 10);
    }
}

#[test]
fn every_cut_where_the_disk_cannot_zero() {
    cut_everywhere(&Shape { undo: true, zeroes: false, ..Shape::default() }, 11);
}

#[test]
fn every_cut_where_the_image_ends_within_a_chunk() {
    cut_everywhere(
        &Shape { undo: true, tail: true, cut: 4096 * 3, behind: 512 * 7 + 4096 * 3, ..Shape::default() },
        12,
    );
}

/// Thousands of seeds, each another pair, shape and cut; `KEEPSTATE_LONG` makes it a hundred times as many.
#[test]
fn random_cuts_of_random_flashes() {
    let count = if std::env::var_os("KEEPSTATE_LONG").is_some() { 20_000 } else { 150 };
    rounds(count, 77, |round, random| {
        let seed = random.next();
        let shape = Shape::random(random);
        // A new pair is dear, a cut is cheap.
        let pair = Pair::new(&shape, seed);
        for _ in 0..4 {
            let cut = random.below(90);
            let _ = cut_and_recover(&pair, &shape, cut, seed ^ round);
        }
    });
}

/// What the trial OS wrote does not matter, wherever it wrote.
#[test]
fn undo_puts_back_what_somebody_else_overwrote() {
    for seed in 20..40 {
        let mut random = Random(seed);
        let shape = Shape { undo: true, tail: true, behind: 1 << 20, ..Shape::default() };
        let pair = Pair::new(&shape, seed);
        let machine = Machine::new(&pair.old, &shape);
        machine.flash(&pair.open(), &shape, 1).unwrap();
        for _ in 0..20 {
            let mut bytes = vec![0; 512 * (1 + random.below(40) as usize)];
            random.fill(&mut bytes);
            let at = random.below((pair.old.len() - bytes.len()) as u64 / 512) * 512;
            machine.disk.scribble(at, &bytes);
        }
        assert!(machine.undo(&pair, &shape).unwrap());
        assert!(machine.disk.content() == pair.old, "seed {seed}");
        let found = Found::read(&**machine.undo.as_ref().unwrap()).unwrap();
        assert_eq!(found.state(), State::Undone);
    }
}

/// Between prepare and apply the old OS goes on writing.
#[test]
fn what_was_written_after_prepare_is_logged_and_overwritten() {
    for seed in 40..60 {
        for knows in [false, true] {
            let mut random = Random(seed);
            let shape = Shape { undo: true, stage: seed % 2 == 0, ..Shape::default() };
            let pair = Pair::new(&shape, seed);
            let image = pair.open();
            let machine = Machine::new(&pair.old, &shape);
            let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Totals::default() };
            let mut prepared = flash.prepare(&machine.keep(&shape, 1)).unwrap();
            let mut dirty = flash::ChunkSet::new(pair.old.len() as u64 / 65536);
            for _ in 0..10 {
                let mut bytes = vec![0; 512 * (1 + random.below(20) as usize)];
                random.fill(&mut bytes);
                // Not sector 0: an OS does not write there.
                let at = 512 * (1 + random.below((pair.old.len() - bytes.len()) as u64 / 512 - 1));
                machine.disk.scribble(at, &bytes);
                for chunk in at / 65536..(at + bytes.len() as u64).div_ceil(65536) {
                    dirty.insert(chunk);
                }
            }
            let now = machine.disk.content();
            let dirty = if knows { Dirty::Chunks(dirty) } else { Dirty::Everything };
            flash.apply(&mut prepared, &dirty, None).unwrap();
            drop(prepared);
            assert!(machine.disk.content() == pair.expected(), "seed {seed} {knows}: the new disk");
            assert!(machine.undo(&pair, &shape).unwrap());
            assert!(machine.disk.content() == now, "seed {seed} {knows}: the old disk as it was last");
        }
    }
}

/// What the old OS wrote before the outage is logged and staged before it, however often: then nothing is left to fetch.
#[test]
fn what_is_known_to_be_dirty_is_taken_up_before_the_outage() {
    for seed in 60..80 {
        let mut random = Random(seed);
        let shape = Shape { undo: seed % 4 != 0, stage: true, ..Shape::default() };
        let pair = Pair::new(&shape, seed);
        let image = pair.open();
        let machine = Machine::new(&pair.old, &shape);
        let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Totals::default() };
        let keep = || machine.keep(&shape, 1);
        drop(flash.prepare(&keep()).unwrap());
        let mut dirty = flash::ChunkSet::new(pair.old.len() as u64 / 65536);
        for round in 0..3 {
            for _ in 0..5 {
                let mut bytes = vec![0; 512 * (1 + random.below(20) as usize)];
                random.fill(&mut bytes);
                let at = 512 * (1 + random.below((pair.old.len() - bytes.len()) as u64 / 512 - 1));
                machine.disk.scribble(at, &bytes);
                for chunk in at / 65536..(at + bytes.len() as u64).div_ceil(65536) {
                    dirty.insert(chunk);
                }
            }
            let dirty = if round == 1 { Dirty::Everything } else { Dirty::Chunks(dirty.clone()) };
            drop(flash.refresh(&keep(), &dirty).unwrap());
        }
        let now = machine.disk.content();
        let mut prepared = flash.reopen(&keep()).unwrap();
        assert_eq!(prepared.plan().fetch_compressed, 0, "seed {seed}: all stands in the stage");
        flash.apply(&mut prepared, &Dirty::Nothing, None).unwrap();
        drop(prepared);
        assert!(machine.disk.content() == pair.expected(), "seed {seed}: the new disk");
        if shape.undo {
            assert!(machine.undo(&pair, &shape).unwrap());
            assert!(machine.disk.content() == now, "seed {seed}: the old disk as it was last");
        }
    }
}

/// A bad sector is written again, and if it stays bad it is named; the disk does not boot then.
#[test]
fn a_sector_that_does_not_keep_what_is_written_is_named() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 60);
    let sector = pair.differing_sector();
    for (times, ends_well) in [(1, true), (2, true), (1000, false)] {
        let machine = Machine::new(&pair.old, &shape);
        let image = pair.open();
        let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Totals::default() };
        let mut prepared = flash.prepare(&machine.keep(&shape, 1)).unwrap();
        machine.disk.bad.lock().unwrap().insert(sector, times);
        let result = flash.apply(&mut prepared, &Dirty::Nothing, None);
        if ends_well {
            assert_eq!(result.unwrap().rewritten, u64::from(times));
        } else {
            let Err(Error::Unproved { offset, attempts }) = result else { panic!("{result:?}") };
            assert_eq!(offset / 512, sector);
            assert_eq!(attempts, 4);
            assert_eq!(classify(&pair, &shape, &machine.disk.content()), Is::Dead);
        }
    }
}

/// Nothing to do: not one write, and the boot area stays on.
#[test]
fn an_equal_disk_is_not_written_to() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 61);
    let machine = Machine::new(&pair.expected(), &shape);
    let report = machine.flash(&pair.open(), &shape, 1).unwrap();
    assert!(machine.disk.writes.lock().unwrap().is_empty());
    assert_eq!((report.bytes.written, report.bytes.zeroed), (0, 0));
    assert_eq!(report.blake3, Some(pair.manifest().blake3));
}

/// Nothing to do: which blocks the image wants is never asked, and that is most of what would be fetched.
#[test]
fn an_equal_disk_needs_no_block_table() {
    for undo in [false, true] {
        let shape = Shape { undo, ..Shape::default() };
        let pair = Pair::new(&shape, 63);
        let machine = Machine::new(&pair.expected(), &shape);
        let report = machine.flash(&pair.open(), &shape, 1).unwrap();
        let manifest = pair.manifest();
        let directory = u64::from(manifest.block_table.directory_size);
        assert!(manifest.block_table.size > 2 * directory, "there are pages");
        assert_eq!(report.bytes.fetched, manifest.chunk_table.size + directory);
    }
}

/// The index is made when the first chunk differs. What was read and found equal before then can be reused all the same.
#[test]
fn equal_chunks_read_before_the_index_was_made_are_sources() {
    const CHUNK: usize = 64 << 10;
    // Ten chunks a sample: the one that differs is none of them.
    let (chunks, source, target) = (480, 3, 255);
    let mut old = vec![0; chunks * CHUNK];
    Random(64).fill(&mut old);
    let mut new = old.clone();
    new.copy_within(source * CHUNK..(source + 1) * CHUNK, target * CHUNK);
    let packed = support::images::packed::pack(&new, 512);
    for workers in [1, 3] {
        let shape = Shape { workers, ..Shape::default() };
        let machine = Machine::new(&old, &shape);
        let report = machine.flash(&packed.open(), &shape, 1).unwrap();
        assert!(machine.disk.content() == new);
        assert_eq!(report.bytes.reused, CHUNK as u64);
    }
}

/// Reuse never loses its source: blocks that swap places, each the other's only source.
#[test]
fn blocks_that_swap_places_survive() {
    for stage in [false, true] {
        let shape = Shape { undo: true, stage, swaps: true, ..Shape::default() };
        let pair = Pair::new(&shape, 62);
        let machine = Machine::new(&pair.old, &shape);
        let report = machine.flash(&pair.open(), &shape, 1).unwrap();
        assert!(machine.disk.content() == pair.expected());
        assert!(report.bytes.reused > 0, "the swapped blocks were not fetched: {:?}", report.bytes);
    }
}

/// A log that is the way back from another image, or from another disk, is never overwritten.
#[test]
fn a_log_that_is_still_needed_is_refused() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 63);
    let other = Pair::new(&shape, 64);
    let machine = Machine::new(&pair.old, &shape);
    machine.flash(&pair.open(), &shape, 1).unwrap();
    let before = machine.undo.as_ref().unwrap().content();
    let error = machine.flash(&other.open(), &shape, 2).unwrap_err();
    assert!(error.to_string().contains("way back"), "{error}");
    assert!(machine.undo.as_ref().unwrap().content() == before, "the log is as it was");
    assert!(machine.disk.content() == pair.expected(), "and so is the disk");
}

/// A damaged log of a flash that was cut off reads as one that was never completed. Logging the half-new disk as the old
/// one would lose the old one for good.
#[test]
fn a_damaged_log_of_a_dead_disk_is_not_begun_anew() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 65);
    let mut met = 0;
    for cut in 0..60 {
        let machine = Machine::new(&pair.old, &shape);
        machine.plug(&Power::cut_after(cut));
        let _ = machine.flash(&pair.open(), &shape, 1);
        machine.power_cycle(&mut Random(cut));
        if classify(&pair, &shape, &machine.disk.content()) != Is::Dead {
            continue;
        }
        met += 1;
        let log = machine.undo.as_ref().unwrap();
        // In the header, in the digests of the first chunks (behind the room), and further on.
        for at in [20, 8300, 100_000] {
            let whole = log.content();
            let mut byte = [whole[at]];
            byte[0] ^= 1;
            log.scribble(at as u64, &byte);
            let before = (machine.disk.content(), log.content());
            let error = machine.flash(&pair.open(), &shape, 2).unwrap_err();
            assert!(error.to_string().contains("damaged"), "cut {cut} byte {at}: {error}");
            assert!(
                before == (machine.disk.content(), log.content()),
                "cut {cut} byte {at}: both are left as they are"
            );
            log.scribble(at as u64, &whole[at..=at]);
        }
        assert!(machine.undo(&pair, &shape).unwrap(), "the log is whole again");
        assert!(machine.disk.content() == pair.old);
    }
    assert!(met > 3, "{met} dead disks are too few");
}
