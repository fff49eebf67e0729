//! An undo log that gives less than it held: whatever comes of it, no disk that is half old and half new boots, and none that boots
//! is given up for it.

mod support;

use flash::undo::{Found, Undo};
use flash::{Dirty, Flash, Unwatched, Watch};
use keepstate_flash as flash;
use support::images::{Pair, Shape};
use support::machine::{Is, Machine, classify};
use support::{Power, Random, SimDisk};

#[test]
fn a_log_that_gives_less_than_it_held_leads_to_no_disk_that_boots() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 90);
    let flashed = Machine::new(&pair.old, &shape);
    flashed.flash(&pair.open(), &shape, 1).expect("flashed");
    let sectors = flashed.undo.as_ref().expect("a log").content().len() as u64 / 512;
    let (mut alive, mut undone) = (0, 0);
    for sector in (0..sectors).step_by(sectors.div_ceil(200) as usize) {
        let machine = flashed.copy(&shape);
        let medium = machine.undo.clone().expect("a log");
        let found = Found::read(&*medium).expect("it is whole");
        // From now on it reads wrong.
        medium.bad.lock().expect("locked").insert(sector, u32::MAX);
        let image = || Ok(pair.open());
        let disk = &machine.disk;
        let undo = Undo {
            disk,
            medium: medium.clone(),
            found: &found,
            image: &image,
            workers: shape.workers,
            watch: &Unwatched,
        };
        let result = undo.run();
        let is = classify(&pair, &shape, &disk.content());
        match result {
            Ok(_) => assert_eq!(is, Is::Old, "sector {sector}"),
            // It made the disk dead first, and then found out that it could not be brought back.
            Err(error) => assert_eq!(is, Is::New, "sector {sector}: {error}"),
        }
        alive += u32::from(is == Is::New);
        medium.bad.lock().expect("locked").clear();
        undone += u32::from(machine.undo(&pair, &shape).expect("the log is as it was"));
        assert_eq!(classify(&pair, &shape, &disk.content()), Is::Old, "sector {sector}");
    }
    assert!(alive > 0 && undone > 0, "no log went wrong");
}

/// As above, but what is read to look whether it can be had is right, and wrong when it is read to be put back.
#[test]
fn a_log_that_goes_wrong_while_the_disk_is_written_leads_to_no_disk_that_boots() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 92);
    let flashed = Machine::new(&pair.old, &shape);
    flashed.flash(&pair.open(), &shape, 1).expect("flashed");
    let sectors = flashed.undo.as_ref().expect("a log").content().len() as u64 / 512;
    let mut dead = 0;
    for sector in (0..sectors).step_by(sectors.div_ceil(100) as usize) {
        let machine = flashed.copy(&shape);
        let medium = machine.undo.clone().expect("a log");
        let found = Found::read(&*medium).expect("it is whole");
        let watch = SpoilsWhenWritten { medium: &medium, disk: &machine.disk, sector };
        let image = || Ok(pair.open());
        let disk = &machine.disk;
        let result =
            Undo { disk, medium: medium.clone(), found: &found, image: &image, workers: 1, watch: &watch }.run();
        let is = classify(&pair, &shape, &disk.content());
        assert_eq!(is, if result.is_ok() { Is::Old } else { Is::Dead }, "sector {sector}");
        dead += u32::from(is == Is::Dead);
        medium.bad.lock().expect("locked").clear();
        assert!(machine.undo(&pair, &shape).expect("the log is as it was"));
        assert_eq!(classify(&pair, &shape, &disk.content()), Is::Old, "sector {sector}");
    }
    assert!(dead > 0, "no log went wrong while the disk was written");
}

/// Spoils a sector of the log when the first chunk has been put back.
struct SpoilsWhenWritten<'a> {
    medium: &'a SimDisk,
    disk: &'a SimDisk,
    sector: u64,
}

impl Watch for SpoilsWhenWritten<'_> {
    fn phase(&self, _name: &'static str, _bytes: u64) {}

    fn advance(&self, _bytes: u64) {
        if !self.disk.writes.lock().expect("locked").is_empty() {
            self.medium.bad.lock().expect("locked").insert(self.sector, u32::MAX);
        }
    }

    fn pace(&self, _bytes: u64) {}
}

/// A flash that was cut off after its disk was dead, with a second pass in its log, and where that ends.
fn cut_off(pair: &Pair, shape: &Shape) -> (Machine, usize) {
    for cut in 12.. {
        let machine = Machine::new(&pair.old, shape);
        let image = pair.open();
        let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
        drop(flash.prepare(&machine.keep(shape, 1)).expect("prepared"));
        machine.disk.scribble(30 << 16, &[0x3c; 4096]);
        drop(flash.refresh(&machine.keep(shape, 2), &Dirty::Everything).expect("refreshed"));
        let log = machine.undo.as_ref().expect("a log").content();
        let end = log.iter().rposition(|&byte| byte != 0).expect("not empty") + 1;
        let mut prepared = flash.reopen(&machine.keep(shape, 3)).expect("opened");
        machine.plug(&Power::cut_after(cut));
        flash.apply(&mut prepared, &Dirty::Nothing, None).expect_err("it is cut off");
        drop(prepared);
        machine.power_cycle(&mut Random(cut));
        if classify(pair, shape, &machine.disk.content()) == Is::Dead {
            return (machine, end);
        }
    }
    unreachable!("there are more cuts than that")
}

/// What says that the disk was written to is damaged: the log was believed, and the half of the new OS that was there was logged as
/// the old one.
#[test]
fn a_log_that_has_lost_its_end_is_not_believed() {
    let shape = Shape { undo: true, stage: true, ..Shape::default() };
    let pair = Pair::new(&shape, 93);
    let (machine, end) = cut_off(&pair, &shape);
    let (disk, log) = (machine.disk.content(), machine.undo.as_ref().expect("a log").content());
    // In what came last, and in the second pass.
    for spoilt in [end + 40, end - 20] {
        let machine = machine.copy(&shape);
        let medium = machine.undo.as_ref().expect("a log");
        medium.scribble(spoilt as u64, &[log[spoilt] ^ 1]);
        let spoilt_log = medium.content();
        let image = pair.open();
        let flash = Flash { disk: &machine.disk, image: &image, workers: 1, watch: &Unwatched };
        assert!(flash.reopen(&machine.keep(&shape, 4)).is_err(), "byte {spoilt}");
        let again = machine.flash(&pair.open(), &shape, 5).expect_err("refused").to_string();
        assert!(again.contains("damaged"), "byte {spoilt}: {again}");
        let undo = machine.undo(&pair, &shape).expect_err("refused").to_string();
        assert!(undo.contains("damaged"), "byte {spoilt}: {undo}");
        assert!(machine.disk.content() == disk && medium.content() == spoilt_log, "byte {spoilt}: it was written to");
        // Mended, it leads back.
        medium.scribble(0, &log);
        assert!(machine.undo(&pair, &shape).expect("undone"), "byte {spoilt}");
        is_old_as_last(&pair, &machine);
    }
}

/// The disk is the old one as it was at the second pass.
fn is_old_as_last(pair: &Pair, machine: &Machine) {
    let mut old = pair.old.clone();
    old[30 << 16..][..4096].fill(0x3c);
    assert!(machine.disk.content() == old, "the old disk as it was last");
}

/// As on the disk: a sector that a power cut has torn cannot be read, and neither need what stands behind the log.
#[test]
fn what_cannot_be_read_behind_a_log_stops_neither_way() {
    let shape = Shape { undo: true, stage: true, ..Shape::default() };
    let pair = Pair::new(&shape, 94);
    let (cut_off, _) = cut_off(&pair, &shape);
    let spoil = |machine: &Machine| {
        let medium = machine.undo.as_ref().expect("a log");
        let sectors = medium.content().len() as u64 / 512;
        medium.scribble((sectors + 4) * 512, &[0; 512]);
        medium.unreadable.lock().expect("locked").insert(sectors + 4);
    };
    let (on, back) = (cut_off.copy(&shape), cut_off.copy(&shape));
    spoil(&on);
    on.flash(&pair.open(), &shape, 4).expect("gone on with");
    assert!(on.disk.content() == pair.expected());
    spoil(&back);
    assert!(back.undo(&pair, &shape).expect("undone"));
    is_old_as_last(&pair, &back);
    // One within it that says something is another matter: nothing is begun anew for it.
    let within = cut_off.copy(&shape);
    within.undo.as_ref().expect("a log").unreadable.lock().expect("locked").insert(0);
    assert!(within.flash(&pair.open(), &shape, 4).is_err() && within.undo(&pair, &shape).is_err());
    assert!(within.disk.content() == cut_off.disk.content());
}

#[test]
fn a_chunk_that_was_torn_while_an_undo_fetched_it_is_fetched_again() {
    let shape = Shape { undo: true, ..Shape::default() };
    let pair = Pair::new(&shape, 91);
    let machine = Machine::new(&pair.old, &shape);
    machine.flash(&pair.open(), &shape, 1).expect("flashed");
    let log = |machine: &Machine| machine.undo.as_ref().expect("a log").content();
    let before = log(&machine);
    // Old disk and image are equal in some chunks that have content, which only the image has.
    let equal = |at: &usize| pair.old[*at..at + 65536] == pair.expected()[*at..at + 65536];
    let has_content = |at: &usize| pair.old[*at..at + 65536].iter().any(|&byte| byte != 0);
    let chunks = (65536..pair.old.len().min(pair.expected().len()) - 65536).step_by(65536);
    let fetched: Vec<usize> = chunks.filter(|at| equal(at) && has_content(at)).take(3).collect();
    assert_eq!(fetched.len(), 3);
    for &at in &fetched {
        machine.disk.scribble(at as u64, &[0xab; 512]);
    }
    let undone = machine.copy(&shape);
    assert!(undone.undo(&pair, &shape).expect("undone"));
    // What that undo fetched stands in its log; the first of it is torn, what comes next is not, and no event follows.
    let mut torn = log(&undone);
    let whole = before.iter().rposition(|&byte| byte != 0).expect("not empty") + 1;
    torn.truncate(whole + 2 * 4096);
    torn[whole + 200] ^= 1;
    machine.undo.as_ref().expect("a log").scribble(0, &torn);
    assert!(machine.undo(&pair, &shape).expect("undone"));
    assert!(machine.disk.content() == pair.old);
}
