//! The worker: finds the disk that the job names, mounts what the job names, flashes or undoes, and says how it ended.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use boot::Host;
use flash::log::{Contents, Purpose};
use flash::place::open_stage_existing;
use flash::target::{Demands, Target, filesystem_device};
use flash::trace::{Began, Kernel};
use flash::undo::{Found, Undo};
use flash::{Dirty, Flash, Keep, Place};
use image::{Image, Opened, Trust};
use model::report::{FlashReport, UndoReport};
use serde::{Deserialize, Serialize};
use sys::disk::{Caching, RealDisk};

use crate::access::{Files, Phase};
use crate::identity::Kept;
use crate::job::{self, Job, Task};
use crate::marked::Marked;
use crate::untouched::{Before, DataDisk};
use crate::{identity, mounts, network, new_root};

/// How long disks may take to appear: controllers are still being looked through when PID 1 starts.
const DISKS_SECONDS: u64 = 60;
/// How long network cards may take after the disks are there: a card that is gone must not cost more than this.
const CARDS_WITHIN: Duration = Duration::from_secs(5);
/// What a flash or an undo may have resident, bytes: `crates/flash/tests/memory.rs` holds it.
const MEMORY_BYTES: u64 = 128 << 20;
/// Name of the file in [`crate::RUN`] that names the disk while it may be written to.
pub const WRITING: &str = "writing";
/// Name of the file in [`crate::RUN`] that says when PID 1 began, by the wall clock.
pub const ENTERED: &str = "entered";
/// Name of the file in [`crate::RUN`] that is there from just before a flash's first write until the disk is whole: one that
/// boots meanwhile need not hold yet what the node keeps. An undo that has put the old disk back takes it away, too.
pub const UNFINISHED: &str = "unfinished";
/// Name of the file in [`crate::RUN`] that is there once the disk is whole: flashed, with what the node keeps, or undone. What
/// is left then is to look at data disks, and to tell the node.
pub const WHOLE: &str = "whole";
/// Name of the file in [`crate::RUN`] that is there from just before the first write to the disk on.
pub const BEGUN: &str = "begun";
/// Name of the file in [`crate::RUN`] that says why the job was stopped.
pub const STOPPED: &str = "stopped";
/// Name of the file in the job's results that says how it ended.
pub const RESULT: &str = "imager.json";

/// How a job ended, for the node to read after the next boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ending {
    /// Format version: 1.
    pub format: u32,
    /// Which upgrade.
    pub upgrade: String,
    /// What was done.
    pub task: Task,
    /// Whether it was done to the end.
    pub done: bool,
    /// Why not. Where it was to flash and the old disk was put back instead, why it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Seconds that the worker took.
    pub seconds: f64,
    /// When PID 1 began, in seconds of the wall clock.
    #[serde(default)]
    pub entered: f64,
    /// When this was written.
    #[serde(default)]
    pub ended: f64,
    /// What the flash did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flash: Option<FlashReport>,
    /// What the undo did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<UndoReport>,
    /// Files that the node kept of its old root: the new root has them, and the image does not.
    #[serde(default)]
    pub kept: Vec<String>,
    /// Files that were to be kept and are not, and why.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// What became of the data disks.
    #[serde(default)]
    pub data_disks: Vec<DataDisk>,
}

/// Why a job was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error(transparent)]
    Job(#[from] job::Error),
    /// The disk is not there, or is not the one, or is in use.
    #[error("finding the disk that the job names")]
    Disk(#[from] flash::target::Refusal),
    /// A filesystem that the job names cannot be used.
    #[error("mounting the filesystem {uuid} at {at}", at = at.display())]
    Mount {
        /// Which one.
        uuid: String,
        /// Where.
        at: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The image that was staged cannot be used.
    #[error("opening the image that was staged")]
    Image(#[from] image::opened::Error),
    /// The flash or undo failed.
    #[error(transparent)]
    Flash(#[from] flash::Error),
    /// The stage is of another image than the one that was checked.
    #[error("the stage holds another image than the job names: its manifest has digest {found}, not {wanted}")]
    OtherImage {
        /// What is there.
        found: model::Digest,
        /// What the job names.
        wanted: model::Digest,
    },
    /// The kernel does not take the new partition table.
    #[error("having the kernel read the partition table of {disk} again", disk = disk.display())]
    Partitions {
        /// Of which disk.
        disk: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Memory would run out while it writes, when there is no way back any more without it.
    #[error(
        "writing takes up to {} MiB of memory, and {} can be had: nothing was written; more is to be left free when the \
         machine is restarted",
        MEMORY_BYTES >> 20,
        available >> 20
    )]
    Memory {
        /// What can be had, bytes.
        available: u64,
    },
    /// How much memory there is cannot be told.
    #[error("asking how much memory can be had")]
    MemoryUnknown(#[from] boot::Error),
    /// The new root cannot be reached.
    #[error(transparent)]
    NewRoot(#[from] new_root::Error),
    /// What the node keeps cannot be put there.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// A file of ours could not be written.
    #[error("writing {path}", path = path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Does `task` of the job at `path`. What it says goes to standard error, which PID 1 reads.
pub fn run(path: &Path, task: Task) -> Result<(), Error> {
    let (begin, run) = (Instant::now(), Path::new(crate::RUN));
    let job = Job::read(path)?;
    unmark(run, WHOLE)?;
    // It may not be needed: nothing is fetched where all was staged.
    let mut problems = network::apply(&job.network, Path::new("/"));
    new_root::release();
    let target = wait_for_disk(&job).inspect_err(|error| {
        // What lies behind the image is on the very disk that is missing.
        if job.beside().is_none()
            && let Err(other) = leave_word(&job, task, chain(error))
        {
            say(&format!("this is not kept for the node: {}", chain(&other)));
        }
    })?;
    say(&format!("the root disk is {}", target.path.display()));
    mount_all(&job)?;
    say("what the job names is mounted");
    if !problems.is_empty() && job.entry.is_fresh_kernel() {
        // Network cards are found as disks are: some appear later.
        problems =
            within(CARDS_WITHIN, || no_problem(network::apply(&job.network, Path::new("/")))).err().unwrap_or_default();
    }
    for problem in problems {
        say(&format!("network: {problem}"));
    }
    for what in &job.network.left_out {
        say(&format!("network: not taken along: {what}"));
    }
    // Until the worker ends. What becomes of a lease is said, and holds nothing up.
    let say_it: network::dhcp::Say = Arc::new(say);
    let _leases = network::dhcp::keep(&job.network, &say_it);
    let mut ending = Ending::begun(&job, task);
    let root = target.clone();
    let before = Before::look(&root, &job);
    let result = match task {
        Task::Flash => flash(&job, target).map(|(report, Kept { files, left_out })| {
            (ending.flash, ending.kept, ending.left_out) = (Some(report), files, left_out);
        }),
        Task::Undo => undo(&job, target).map(|report| ending.undo = Some(report)),
    };
    ending.done = result.is_ok();
    if ending.done {
        // From here on PID 1 may let the node go: who fails before is tried again, and then undone.
        mark(run, WHOLE, "")?;
        unmark(run, UNFINISHED)?;
    }
    ending.why = match &result {
        Err(error) => Some(chain(error)),
        Ok(()) => why_undone(&job, task),
    };
    ending.seconds = begin.elapsed().as_secs_f64();
    // Twice, because a data disk that does not answer any more must not hide that the root disk is done.
    let written = ending.keep(&job);
    ending.data_disks = before.compare(&root, &job);
    ending.data_disks.iter().for_each(|disk| say(&disk.to_string()));
    let kept = ending.keep(&job);
    result.and(written).and(kept)
}

/// Keeps the word that the job at `path` was stopped before the first write, and why, where the node reads how it ended. The
/// worker that was stopped could not: it was ended.
pub fn note(path: &Path) -> Result<(), Error> {
    let job = Job::read(path)?;
    let why = fs::read_to_string(Path::new(crate::RUN).join(STOPPED)).unwrap_or_default();
    leave_word(&job, job.task, why)
}

/// Keeps the word that nothing was done, and why.
fn leave_word(job: &Job, task: Task, why: String) -> Result<(), Error> {
    mount_all(job)?;
    let mut ending = Ending::begun(job, task);
    ending.why = Some(why);
    ending.keep(job)
}

impl Ending {
    /// Of a job of which nothing is done yet.
    fn begun(job: &Job, task: Task) -> Self {
        let entered = fs::read_to_string(Path::new(crate::RUN).join(ENTERED));
        Self {
            format: 1,
            upgrade: job.upgrade.clone(),
            task,
            done: false,
            why: None,
            seconds: 0.0,
            entered: entered.ok().and_then(|text| text.parse().ok()).unwrap_or(0.0),
            ended: 0.0,
            flash: None,
            undo: None,
            kept: Vec::new(),
            left_out: Vec::new(),
            data_disks: Vec::new(),
        }
    }

    /// Puts it where the node reads it.
    fn keep(&mut self, job: &Job) -> Result<(), Error> {
        self.ended = wall_clock();
        let path = job.results.join(RESULT);
        let bytes = serde_json::to_vec_pretty(self).expect("an ending has only string keys");
        sys::replace_file(&path, &bytes).map_err(|source| Error::Write { path, source })
    }
}

/// Why an undo came where a flash was asked for: what the worker before it said. One that was killed said nothing.
fn why_undone(job: &Job, task: Task) -> Option<String> {
    if (job.task, task) != (Task::Flash, Task::Undo) {
        return None;
    }
    let bytes = fs::read(job.results.join(RESULT)).ok()?;
    let before: Ending = serde_json::from_slice(&bytes).ok()?;
    before.why.filter(|_| before.upgrade == job.upgrade && !before.done)
}

/// Seconds of the wall clock, as the machine has it.
pub fn wall_clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn wait_for_disk(job: &Job) -> Result<Target, Error> {
    Ok(within(Duration::from_secs(DISKS_SECONDS), || Target::find_again(&job.disk))?)
}

fn no_problem(problems: Vec<String>) -> Result<(), Vec<String>> {
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Tries until it works, or for so long.
fn within<T, E>(limit: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Err(_) if begin.elapsed() < limit => thread::sleep(Duration::from_millis(100)),
            tried => return tried,
        }
    }
}

fn mount_all(job: &Job) -> Result<(), Error> {
    for mount in &job.mounts {
        // An earlier worker may have done it.
        if mounts::is_mounted(&mount.at).unwrap_or(false) {
            continue;
        }
        let failed = |source| Error::Mount { uuid: mount.uuid.clone(), at: mount.at.clone(), source };
        if let Some(region) = mount.region {
            mounts::mount_part(&wait_for_disk(job)?.path, region, mount).map_err(failed)?;
        } else {
            // Its disk may appear later than the root disk.
            let device = within(Duration::from_secs(DISKS_SECONDS), || filesystem_device(&mount.uuid))?;
            mounts::mount(&device, &mount.kind, &mount.at, &mount.options).map_err(failed)?;
        }
    }
    Ok(())
}

fn flash(job: &Job, mut target: Target) -> Result<(FlashReport, Kept), Error> {
    let stage = open_stage_existing(&job.stage)?;
    let empty = || flash::Error::Unusable { what: "stage", why: "it is empty".into() };
    let header = Contents::header(&*stage.medium, Purpose::Stage)?.ok_or_else(empty)?;
    // Signature and expiry were checked by the node, which has keys and a clock; here the digest stands for both.
    let opened = Opened::staged(&job.stage, &header.image_from, &Trust::Anything)?;
    if opened.digest != job.manifest {
        return Err(Error::OtherImage { found: opened.digest, wanted: job.manifest });
    }
    let demands = Demands { beside: job.beside(), ..Demands::of(opened.image.manifest()) };
    let keep = Keep {
        undo: job.undo.as_ref().map(Place::open).transpose()?,
        tail: job.undo_tail,
        stage: Some(stage),
        disk_key: target.identity.key(),
        image_from: opened.from.clone(),
    };
    let run = Path::new(crate::RUN);
    let is_first = is_untouched(is_between(&target), Files::at(run).has_begun());
    if is_first {
        target.is(&job.disk)?;
        has_memory(&Host::here())?;
    }
    let disk = target.open(&demands, Caching::Auto)?;
    let watch = Said::default();
    let tell = || begin(run, Task::Flash);
    let marked = Marked::new(&disk, &tell);
    let flash = Flash { disk: &marked, image: &opened.image, workers: flash::WORKERS, watch: &watch };
    let mut prepared = flash.reopen(&keep)?;
    say("the stage is read");
    mark(run, WRITING, &target.path.display().to_string())?;
    let dirty = match &job.trace {
        Some(began) if is_first => dirty(began, flash.geometry()?),
        // What an earlier worker has begun is read again: nothing is believed of it.
        _ => Dirty::Everything,
    };
    let mut report = flash.apply(&mut prepared, &dirty, None)?;
    report.disk = target.path.display().to_string();
    let kept = keep_identity(disk, &target)?;
    Ok((report, kept))
}

/// Puts into the new root what the node keeps, if it keeps anything.
fn keep_identity(disk: RealDisk, target: &Target) -> Result<Kept, Error> {
    let mut bundle = match File::open(crate::IDENTITY) {
        Ok(bundle) => bundle,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Kept::default()),
        Err(error) => return Err(identity::Error::Bundle(error).into()),
    };
    // Where the disk was equal already, this is the first write.
    let run = Path::new(crate::RUN);
    begin(run, Task::Flash).map_err(|source| Error::Write { path: run.join(BEGUN), source })?;
    disk.reread_partitions().map_err(|source| Error::Partitions { disk: target.path.clone(), source })?;
    // Whole disk and partition are not held at once.
    drop(disk);
    let kept = new_root::with(target, |root| identity::put(&mut bundle, root))??;
    say(&format!("{} files are kept of the old root", kept.files.len()));
    Ok(kept)
}

/// What has to be read again of a disk that no worker has written to yet.
fn dirty(began: &Began, geometry: flash::Geometry) -> Dirty {
    match Kernel::default().written(began, geometry.chunk, geometry.disk) {
        Ok(chunks) => {
            say(&format!("the old OS wrote to {} chunks after it was prepared", chunks.count()));
            Dirty::Chunks(chunks)
        }
        Err(unknown) => {
            say(&format!("{unknown}: all is read again"));
            Dirty::Everything
        }
    }
}

fn undo(job: &Job, mut target: Target) -> Result<UndoReport, Error> {
    let missing = || flash::Error::Unusable { what: "undo log", why: "the job names none".into() };
    let medium = job.undo.as_ref().ok_or_else(missing)?.open_existing()?;
    let found = Found::read(&*medium)?;
    let demands = Demands { beside: job.beside(), ..Demands::nothing() };
    // The disk was found again as the one of the job. Another kernel may know more of it than was recorded, or less.
    if found.disk_key() != job.disk.key() {
        let why = format!("it belongs to another disk, {}", found.disk_key());
        return Err(flash::Error::Unusable { what: "undo log", why }.into());
    }
    if is_untouched(is_between(&target), Files::at(Path::new(crate::RUN)).has_begun()) {
        has_memory(&Host::here())?;
    }
    target.sector_size = target.sector_size.max(found.manifest()?.sector_size);
    let disk = target.open(&demands, Caching::Auto)?;
    let image = || {
        let staged = Opened::staged(&job.stage, found.image_from(), &Trust::Anything);
        staged.map(|opened| opened.image).or_else(|_| open_elsewhere(&found))
    };
    let watch = Said::default();
    let run = Path::new(crate::RUN);
    let tell = || begin(run, Task::Undo);
    let marked = Marked::new(&disk, &tell);
    let undo = Undo { disk: &marked, medium, found: &found, image: &image, workers: flash::WORKERS, watch: &watch };
    mark(run, WRITING, &target.path.display().to_string())?;
    let mut report = undo.run()?;
    report.disk = target.path.display().to_string();
    Ok(report)
}

/// The image from where it came, for an undo whose stage is gone.
fn open_elsewhere(found: &Found) -> flash::Result<Image> {
    let (url, folder) = found.image_from();
    let store = store::open(url).map_err(image::open::Error::from)?;
    Ok(Image::open(store::Transfer::new(store), folder, found.manifest()?)?)
}

/// Whether the disk is half one and half another: its sector 0 is zero.
pub fn is_between(target: &Target) -> bool {
    crate::init::does_boot(&target.path) == Some(false)
}

/// Before the first write: who runs out of memory after it, on every try, would leave a disk that does not boot.
fn has_memory(host: &Host) -> Result<(), Error> {
    let available = host.memory_available()?;
    if available < MEMORY_BYTES { Err(Error::Memory { available }) } else { Ok(()) }
}

/// Whether nobody has written to the disk yet. Then a flash's disk has to hold what was recorded of it. After it the disk holds
/// something else, also where it boots already: a worker may have died behind its last write.
fn is_untouched(is_between: bool, has_begun: bool) -> bool {
    !is_between && !has_begun
}

/// Tells PID 1, in `run`, that the disk is written to from now on; and of a flash, that what boots after it is not this node
/// yet. In this order: who dies in between has written nothing, and is to lead back into the old OS.
fn begin(run: &Path, task: Task) -> std::io::Result<()> {
    fs::write(run.join(BEGUN), "")?;
    match task {
        Task::Flash => fs::write(run.join(UNFINISHED), ""),
        // What boots after an undo is the old OS.
        Task::Undo => Ok(()),
    }
}

/// Tells PID 1 something, in `run`.
fn mark(run: &Path, name: &str, text: &str) -> Result<(), Error> {
    let path = run.join(name);
    fs::write(&path, text).map_err(|source| Error::Write { path, source })
}

/// Takes back what PID 1 was told.
fn unmark(run: &Path, name: &str) -> Result<(), Error> {
    let path = run.join(name);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Write { path, source }),
        _ => Ok(()),
    }
}

/// Says on standard error how far a flash is, a line every few seconds.
#[derive(Default)]
struct Said {
    state: Mutex<Option<(&'static str, u64, Instant)>>,
    done: AtomicU64,
}

impl flash::Watch for Said {
    fn phase(&self, name: &'static str, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *state = Some((name, bytes, Instant::now()));
        self.done.store(0, Ordering::Relaxed);
        progress(name, 0, bytes);
        say(&format!("{name}, {} MiB", bytes >> 20));
    }

    fn advance(&self, bytes: u64) {
        const EVERY: Duration = Duration::from_secs(2);
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((name, all, last)) = &mut *state
            && last.elapsed() >= EVERY
        {
            *last = Instant::now();
            progress(name, done, *all);
            say(&format!("{name}, {} of {} MiB", done >> 20, *all >> 20));
        }
    }

    fn pace(&self, _bytes: u64) {}
}

/// Says how far a phase is, to whoever asks for it.
fn progress(name: &str, done_bytes: u64, all_bytes: u64) {
    // Where memory is too short for this, the flash goes on all the same.
    let _ = Files::at(Path::new(crate::RUN)).set_phase(&Phase { name: name.into(), done_bytes, all_bytes });
}

/// Says a line to PID 1.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::disk_in;
    use crate::supervise::Disk;

    #[test]
    fn what_appears_late_is_waited_for_and_what_never_does_ends_in_its_own_reason() {
        let mut left = 3;
        let mut attempt = || {
            left -= 1;
            if left == 0 { Ok("there") } else { Err("not yet") }
        };
        assert_eq!(within(Duration::from_mins(1), &mut attempt), Ok("there"));
        assert_eq!(within(Duration::from_millis(250), || Err::<(), _>("never")), Err("never"));
        assert_eq!(within(Duration::ZERO, || Err::<(), _>("not even once more")), Err("not even once more"));
    }

    /// PID 1's folder, and a disk in it whose sector 0 is `first`, that a worker may write to.
    fn run_folder(first: u8) -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        set_sector_0(run.path(), first);
        mark(run.path(), WRITING, &run.path().join("disk").display().to_string()).unwrap();
        run
    }

    fn set_sector_0(run: &Path, first: u8) {
        fs::write(run.join("disk"), [first; 4096]).unwrap();
    }

    /// It was marked for the time of the identity only: who died between the last write and that let a stranger boot.
    #[test]
    fn a_flash_that_died_behind_its_last_write_is_unfinished_until_all_is_done() {
        let run = run_folder(1);
        let run = run.path();
        assert_eq!(disk_in(run), Disk::Boots, "nothing is written");
        begin(run, Task::Flash).unwrap();
        assert_eq!(disk_in(run), Disk::Unfinished, "it died before the first write reached the disk");
        set_sector_0(run, 0);
        assert_eq!(disk_in(run), Disk::Between);
        set_sector_0(run, 2);
        assert_eq!(disk_in(run), Disk::Unfinished, "it died behind the last write");
        // The next worker finds all as it is to be and writes nothing, or what is kept and begins once more.
        begin(run, Task::Flash).unwrap();
        assert_eq!(disk_in(run), Disk::Unfinished);
        unmark(run, UNFINISHED).unwrap();
        assert_eq!(disk_in(run), Disk::Boots);
        assert!(Files::at(run).has_begun(), "there is no abort any more");
        unmark(run, UNFINISHED).unwrap();
    }

    #[test]
    fn a_flash_that_cannot_say_that_it_begins_leaves_the_old_os_as_it_was() {
        let run = run_folder(1);
        fs::create_dir(run.path().join(BEGUN)).unwrap();
        begin(run.path(), Task::Flash).unwrap_err();
        assert_eq!(disk_in(run.path()), Disk::Boots);
    }

    #[test]
    fn an_undo_that_begins_does_not_make_its_disk_unfinished_and_one_that_ends_takes_a_flash_s_mark_away() {
        let run = run_folder(1);
        let run = run.path();
        begin(run, Task::Undo).unwrap();
        assert_eq!((disk_in(run), Files::at(run).has_begun()), (Disk::Boots, true));
        begin(run, Task::Flash).unwrap();
        begin(run, Task::Undo).unwrap();
        assert_eq!(disk_in(run), Disk::Unfinished, "until the old disk is back");
        unmark(run, UNFINISHED).unwrap();
        assert_eq!(disk_in(run), Disk::Boots);
    }

    #[test]
    fn memory_that_writing_may_need_is_asked_for_before_the_first_write() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path());
        assert!(matches!(has_memory(&host), Err(Error::MemoryUnknown(_))));
        fs::create_dir(root.path().join("proc")).unwrap();
        let with = |mib: u64| {
            fs::write(root.path().join("proc/meminfo"), format!("MemAvailable: {} kB\n", mib << 10)).unwrap();
            has_memory(&host)
        };
        with(128).unwrap();
        let said = with(127).unwrap_err().to_string();
        assert!(said.contains("up to 128 MiB of memory, and 127 can be had"), "{said}");
    }

    /// The second worker compared the new image's partition table with the old disk's, and refused.
    #[test]
    fn a_disk_that_an_earlier_worker_began_to_write_need_not_be_the_old_one() {
        assert!(is_untouched(false, false), "nobody has written: every fact that was recorded has to hold");
        assert!(!is_untouched(false, true), "it boots already: the earlier worker died behind its last write");
        assert!(!is_untouched(true, true));
        assert!(!is_untouched(true, false), "the imager was started again: its folder is empty, and the disk is half");
    }
}
