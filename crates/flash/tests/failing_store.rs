//! The real engine over a store that fails in every way that stores fail, at rates up to always.
//!
//! Whatever the store does, the disk is the old one, the new one, or dead (sector 0 is zero), and the run ends in bounded
//! time; once the store is well, the same flash again ends in the new disk, and an undo in the old one.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flash::{Dirty, Flash, Unwatched};
use image::Image;
use keepstate_flash as flash;
use store::{Clock, Failing, Fault, Policy, Store, Transfer, VirtualClock, When};
use support::images::{FOLDER, Pair, Shape};
use support::machine::{Is, Machine, classify};
use support::{Random, rounds};

/// How long a stalled request waits.
const STALL: Duration = Duration::from_secs(20);

/// A store of one image that fails, and the time that passes on it.
struct Bad {
    store: Arc<Failing>,
    clock: Arc<VirtualClock>,
}

impl Bad {
    fn new(pair: &Pair, seed: u64) -> Self {
        let clock = Arc::new(VirtualClock::default());
        let store = Failing::new(pair.store(), seed).stalling(clock.clone(), STALL);
        Self { store: Arc::new(store), clock }
    }

    fn open(&self, pair: &Pair) -> flash::Result<Image> {
        let transfer = Transfer::with(self.store.clone(), Policy::default(), self.clock.clone());
        Ok(pair.open_through(transfer)?)
    }

    fn flash(&self, machine: &Machine, pair: &Pair, shape: &Shape, id: u64) -> flash::Result<()> {
        machine.flash(&self.open(pair)?, shape, id).map(drop)
    }

    /// No fault costs more than its stall and the longest wait behind it, and there is a bound on faults: an operation
    /// is tried nine times, and a flash of a few MiB has a few hundred.
    fn check_time(&self) {
        let faults = self.store.injected_total();
        let most = (STALL + Policy::default().backoff_max) * faults as u32;
        assert!(self.clock.now() <= most, "{:?} for {faults} faults", self.clock.now());
        assert!(faults <= 9 * 300, "{faults} faults met");
    }
}

/// Flashes over a bad store, then goes both ways over a well one. Gives what the bad one made of the disk.
fn flash_and_recover(pair: &Pair, shape: &Shape, bad: &Bad, name: &str) -> Is {
    let machine = Machine::new(&pair.old, shape);
    let result = bad.flash(&machine, pair, shape, 1);
    bad.check_time();
    let is = classify(pair, shape, &machine.disk.content());
    assert_eq!(result.is_ok(), is == Is::New, "{name}: {result:?}, but the disk is {is:?}");

    if shape.undo {
        let back = machine.copy(shape);
        // What the undo needs of the image comes from the same bad store.
        let first = back.undo_with(&|| bad.open(pair), shape);
        bad.check_time();
        if !matches!(first, Ok(true)) {
            classify(pair, shape, &back.disk.content());
            let had_log = back.undo(pair, shape).unwrap_or_else(|error| panic!("{name}: undo: {error}"));
            assert!(had_log || is == Is::Old, "{name}: written to without a way back");
        }
        assert!(back.disk.content() == pair.old, "{name}: undo ends in the old disk");
    }

    bad.store.heal();
    bad.flash(&machine, pair, shape, 2).unwrap_or_else(|error| panic!("{name}: again: {error}"));
    assert!(machine.disk.content() == pair.expected(), "{name}: the same again ends in the new disk");
    if shape.undo {
        assert!(machine.undo(pair, shape).expect("an undo"), "{name}: a finished flash can be undone");
        assert!(machine.disk.content() == pair.old, "{name}: undo after all ends in the old disk");
    }
    is
}

/// Each fault alone, rare, common and always.
#[test]
fn every_fault_at_every_rate() {
    let mut random = Random(5);
    for fault in Fault::ALL {
        let mut met = 0;
        for rate in [0.02, 0.2, 0.6, 1.0] {
            let shape = Shape::random(&mut random);
            let pair = Pair::new(&shape, random.next());
            let another = Pair::new(&shape, random.next());
            for seed in 0..3 {
                let bad = Bad::new(&pair, seed);
                replay_another_image(&bad, &pair, &another);
                bad.store.inject(fault, When::Rate(rate));
                flash_and_recover(&pair, &shape, &bad, &format!("{fault:?} at {rate}, seed {seed}"));
                met += bad.store.injected(fault);
            }
        }
        // A silent one ends the run that meets it.
        assert!(met >= 6, "{fault:?} was met {met} times only");
    }
}

/// Thousands of seeds, each with another mixture of faults; `KEEPSTATE_LONG` makes it a hundred times as many.
#[test]
fn random_faults_of_random_flashes() {
    let count = if std::env::var_os("KEEPSTATE_LONG").is_some() { 4_000 } else { 40 };
    let met: Vec<_> = rounds(count, 99, |round, random| {
        let shape = Shape::random(random);
        // A new pair is dear, a flash is cheap.
        let pair = Pair::new(&shape, random.next());
        let another = Pair::new(&shape, random.next());
        [(); 4].map(|()| {
            let seed = random.next();
            let bad = Bad::new(&pair, seed);
            replay_another_image(&bad, &pair, &another);
            // From a store that hiccups to one that hardly answers.
            let most = [0.01, 0.05, 0.3, 0.9][random.below(4) as usize];
            for fault in Fault::ALL {
                if random.below(3) == 0 {
                    let rate = most * f64::from(random.below(1000) as u32) / 1000.0;
                    bad.store.inject(fault, When::Rate(rate));
                }
            }
            flash_and_recover(&pair, &shape, &bad, &format!("round {round}, seed {seed}"))
        })
    })
    .into_iter()
    .flatten()
    .collect();
    for is in [Is::Old, Is::New, Is::Dead] {
        assert!(met.contains(&is), "no round ended with a disk that is {is:?}");
    }
}

/// Faults that show themselves cost time, not the flash, as long as they are not the rule.
#[test]
fn what_shows_itself_is_tried_again() {
    let mut random = Random(7);
    for fault in Fault::ALL.into_iter().filter(|fault| !fault.is_silent()) {
        let shape = Shape::random(&mut random);
        let pair = Pair::new(&shape, random.next());
        for seed in 0..5 {
            let bad = Bad::new(&pair, seed);
            bad.store.inject(fault, When::Rate(0.05));
            let name = format!("{fault:?}, seed {seed}");
            assert_eq!(flash_and_recover(&pair, &shape, &bad, &name), Is::New, "{name}");
        }
    }
}

/// What the stage no longer has was found missing when the disk did not boot any more, by each try anew.
#[test]
fn what_a_stage_has_lost_is_fetched() {
    let shape = Shape { undo: true, stage: true, ..Shape::default() };
    let pair = Pair::new(&shape, 11);
    let mut lost = 0;
    for is_reachable in [true, false] {
        for tenth in [3, 5, 9] {
            let machine = Machine::new(&pair.old, &shape);
            let bad = Bad::new(&pair, 1);
            let image = bad.open(&pair).expect("opened");
            let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
            drop(flash.prepare(&machine.keep(&shape, 1)).expect("prepared"));
            let stage = machine.stage.as_ref().expect("a stage");
            let spoilt = (stage.content().len() * tenth / 10) as u64;
            stage.scribble(spoilt, &[0x5a; 64]);
            let mut prepared = flash.reopen(&machine.keep(&shape, 2)).expect("opened");
            if !is_reachable {
                for fault in Fault::ALL {
                    bad.store.inject(fault, When::Rate(1.0));
                }
            }
            let fetched = image.transfer().fetched();
            let result = flash.apply(&mut prepared, &Dirty::Nothing, None);
            drop(prepared);
            let is = classify(&pair, &shape, &machine.disk.content());
            assert_eq!(is, if is_reachable { Is::New } else { Is::Dead }, "{tenth} tenths: {result:?}");
            lost += u32::from(image.transfer().fetched() > fetched);
            assert!(machine.undo(&pair, &shape).expect("undone") && machine.disk.content() == pair.old);
        }
    }
    assert!(lost >= 3, "{lost} stages had lost something");
}

/// A body that is wrong without any sign, once: that must not end a flash whose disk does not boot any more.
#[test]
fn a_frame_that_is_silently_wrong_once_is_fetched_again() {
    for fault in Fault::ALL.into_iter().filter(|fault| fault.is_silent()) {
        for stage in [false, true] {
            let shape = Shape { undo: true, stage, ..Shape::default() };
            let (pair, another) = (Pair::new(&shape, 72), Pair::new(&shape, 73));
            let bad = Bad::new(&pair, 1);
            replay(&bad, &pair, &another, &pair.manifest().payload.object);
            let image = bad.open(&pair).expect("a well store");
            // The tables are at hand: what is wrong is the payload.
            image.chunk_page(0).and_then(|_| image.block_page(0)).expect("a well store");
            bad.store.inject(fault, When::First(2));
            let machine = Machine::new(&pair.old, &shape);
            machine.flash(&image, &shape, 1).unwrap_or_else(|error| panic!("{fault:?}, stage {stage}: {error}"));
            assert_eq!(bad.store.injected(fault), 2);
            assert!(machine.disk.content() == pair.expected(), "{fault:?}, stage {stage}");
        }
    }
}

/// The same of the tables, which are read again once the disk does not boot.
#[test]
fn a_table_page_that_is_silently_wrong_once_is_fetched_again() {
    for fault in [Fault::Corrupt, Fault::WrongRange] {
        let shape = Shape { undo: true, ..Shape::default() };
        let pair = Pair::new(&shape, 74);
        let bad = Bad::new(&pair, 1);
        let image = bad.open(&pair).expect("a well store");
        bad.store.inject(fault, When::First(2));
        let machine = Machine::new(&pair.old, &shape);
        machine.flash(&image, &shape, 1).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(bad.store.injected(fault), 2);
        assert!(machine.disk.content() == pair.expected(), "{fault:?}");
    }
}

/// An undo, too, takes what the image has from a store that may deliver it spoilt.
#[test]
fn what_an_undo_fetches_that_is_silently_wrong_once_is_fetched_again() {
    for fault in [Fault::Corrupt, Fault::WrongRange] {
        let shape = Shape { undo: true, ..Shape::default() };
        let pair = Pair::new(&shape, 75);
        let machine = Machine::new(&pair.old, &shape);
        machine.flash(&pair.open(), &shape, 1).expect("a well store");
        // Somebody wrote to all of it since, also to what only the image has.
        machine.disk.scribble(0, &vec![0x5a; pair.old.len()]);
        let bad = Bad::new(&pair, 1);
        let open = || {
            let image = bad.open(&pair)?;
            bad.store.inject(fault, When::First(2));
            Ok(image)
        };
        assert!(machine.undo_with(&open, &shape).unwrap_or_else(|error| panic!("{fault:?}: {error}")));
        assert_eq!(bad.store.injected(fault), 2);
        assert!(machine.disk.content() == pair.old, "{fault:?}");
    }
}

/// A store that opens and then delivers nothing: found out while the disk still boots, not when it does no more.
#[test]
fn an_undo_that_cannot_fetch_writes_nothing() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 76);
    let machine = Machine::new(&pair.old, &shape);
    machine.flash(&pair.open(), &shape, 1).expect("a well store");
    let mut trial = pair.expected();
    trial[512..].fill(0x5a);
    machine.disk.scribble(512, &trial[512..]);
    let bad = Bad::new(&pair, 1);
    let open = || {
        let image = bad.open(&pair)?;
        bad.store.inject(Fault::ServerError, When::Rate(1.0));
        Ok(image)
    };
    machine.undo_with(&open, &shape).expect_err("nothing comes");
    assert!(machine.disk.content() == trial, "the disk is as the trial OS left it");
    bad.store.heal();
    assert!(machine.undo(&pair, &shape).expect("a well store"));
    assert!(machine.disk.content() == pair.old);
}

/// Another image's objects under this image's names, as a store gives them back that lost a write or was tampered with.
#[test]
fn a_replayed_old_object_is_refused() {
    for stage in [false, true] {
        let shape = Shape { undo: true, stage, ..Shape::default() };
        let pair = Pair::new(&shape, 70);
        let manifest = pair.manifest();
        let objects =
            [&manifest.payload.object, &manifest.chunk_table.object, &manifest.block_table.object].map(Clone::clone);
        for object in objects {
            let bad = Bad::new(&pair, 1);
            replay(&bad, &pair, &Pair::new(&shape, 71), &object);
            bad.store.inject(Fault::Replay, When::Rate(1.0));
            let machine = Machine::new(&pair.old, &shape);
            let error = bad.flash(&machine, &pair, &shape, 1).expect_err("refused");
            assert!(matches!(error, flash::Error::Image(image::open::Error::Mismatch { .. })), "{object}: {error}");
            let is = classify(&pair, &shape, &machine.disk.content());
            // A stage is filled, and the tables are read, before the first write.
            let is_early = stage || object != manifest.payload.object;
            assert_eq!(is, if is_early { Is::Old } else { Is::Dead }, "{object}");
            assert!(bad.store.injected(Fault::Replay) > 0);
        }
    }
}

/// Lets [`Fault::Replay`] deliver another image's objects.
fn replay_another_image(bad: &Bad, pair: &Pair, another: &Pair) {
    let manifest = pair.manifest();
    for object in [&manifest.payload.object, &manifest.chunk_table.object, &manifest.block_table.object] {
        replay(bad, pair, another, object);
    }
}

/// Lets [`Fault::Replay`] deliver `old`'s object of this kind for `object`.
fn replay(bad: &Bad, pair: &Pair, old: &Pair, object: &str) {
    let (now, before) = (pair.manifest(), old.manifest());
    let other = match object {
        object if object == now.payload.object => &before.payload.object,
        object if object == now.chunk_table.object => &before.chunk_table.object,
        _ => &before.block_table.object,
    };
    let whole = |pair: &Pair, object: &str| {
        let (store, key) = (pair.store(), format!("{FOLDER}/{object}"));
        let size = store.head(&key).expect("it is there").size;
        Transfer::new(store).get(&key, 0..size).expect("memory does not fail").to_vec()
    };
    let mut bytes = whole(old, other);
    // Long enough for every range that is asked for.
    bytes.resize(bytes.len().max(whole(pair, object).len()), 0);
    bad.store.remember(&format!("{FOLDER}/{object}"), Bytes::from(bytes));
}
