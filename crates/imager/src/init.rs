//! PID 1: makes a place to work in, starts the worker, and leaves when the disk is whole.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use boot::modules::Step;

use crate::access::{Child, Doing, Request, Told, Wish, seconds};
use crate::console::{self, Console};
use crate::job::{Exit, Job, Task};
use crate::leave::{self, Verb};
use crate::supervise::{Course, Disk, Ended, Next, may};
use crate::watchdog::Keeper;
use crate::worker::{BEGUN, ENTERED, STOPPED, UNFINISHED, WHOLE, WRITING, chain, wall_clock};
use crate::{JOB, RUN, WORKER, apart, exit, mounts};

/// Between two tries: what failed because something was not ready may be ready then.
const PAUSE: Duration = Duration::from_secs(2);
/// How often PID 1 looks at its worker.
const LOOK: Duration = Duration::from_millis(50);
/// How long a module may take to load. Drivers look for their hardware meanwhile: `mlx5_core` waits up to 120 s for the
/// firmware of each port, `megaraid_sas` up to 180 s for that of its controller.
const LOADED_MODULE_WITHIN: Duration = Duration::from_mins(5);
/// How long loading the new OS's kernel may take before the firmware is asked instead. In emulation it takes two seconds.
const LOADED_WITHIN: Duration = Duration::from_mins(1);
/// How long it may take to keep the word that an operator stopped the job; its filesystem may not be mounted yet.
const NOTED_WITHIN: Duration = Duration::from_secs(20);
/// How long a worker may take whose disk is whole: to look at data disks, and to tell the node.
const WORD_WITHIN: Duration = Duration::from_mins(2);
/// How long a child is waited for that was killed: one that waits for a disk which does not answer does not end.
const ENDED_WITHIN: Duration = Duration::from_secs(10);
/// How long a look at sector 0 may take: a disk that answers at all answers within a fraction of it.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// How long an unmount may take, which first writes what is still in memory.
const UNMOUNTED_WITHIN: Duration = Duration::from_mins(5);
/// How long it may take to carry the log to where it is kept, and to unmount.
const PUT_AWAY_WITHIN: Duration = Duration::from_secs(45);
/// How long disks are waited for on the way out.
const SYNCED_WITHIN: Duration = Duration::from_secs(45);
/// How often it is said that a person is needed.
const SAID_EVERY: Duration = Duration::from_mins(1);
/// A kernel that panics restarts after so many seconds, so that it can be read why; told to wait for ever, it would.
const PANIC: (&str, &str) = ("/proc/sys/kernel/panic", "30");

/// Runs as PID 1. Never returns: the kernel dies with PID 1.
pub fn run() -> ! {
    let verb = Verb::of_call(std::env::args());
    // systemd may have left some open that stand on the old root.
    let closed = sys::kernel::close_inherited();
    // What every process needs comes first; without it not even a reason could be said.
    let mounted = mounts::kernel_filesystems();
    // What an earlier user of the name left there is nothing to us.
    let _ = fs::remove_dir_all(RUN);
    let _ = fs::create_dir_all(RUN);
    // A moment that the worker cannot know; if it cannot be kept, a report lacks a number.
    let _ = fs::write(Path::new(RUN).join(ENTERED), wall_clock().to_string());
    let console = Arc::new(Console::open(Path::new("/dev/console"), Path::new(RUN)));
    console.take_over();
    for (doing, result) in [("closing what was inherited", closed), ("mounting the kernel's filesystems", mounted)] {
        if let Err(error) = result {
            console.say(&format!("{doing} failed: {error}"));
        }
    }
    let (mut keeper, mut access) = (None, None);
    let leave = catch_unwind(AssertUnwindSafe(|| serve(&console, verb, &mut keeper, &mut access)));
    let mut leave = leave.unwrap_or_else(|_| {
        console.say("PID 1 panicked, which is a bug");
        after_panic()
    });
    if let (Some(_), Some(access)) = (leave, &mut access) {
        // Here only after a panic: it is ended before.
        access.stop(|| ());
    }
    // A disk that does not answer holds up whoever waits for it. An impatient watchdog must not cut off one that does.
    let alive = || keeper.iter_mut().for_each(Keeper::pet);
    if leave.is_some() && !leave::sync_within(SYNCED_WITHIN, alive) {
        console.say("not all that was written lasts: a disk does not answer");
    }
    if let (Some(verb), Some(keeper)) = (&mut leave, &mut keeper) {
        let running = keeper.stop();
        for one in &running {
            console.say(one);
        }
        // The firmware stops most; a kernel that is started from here may not know it.
        if *verb == Verb::Kexec && !running.is_empty() {
            *verb = Verb::Restart;
        }
    }
    if let Some(verb) = leave {
        console.say(&format!("leaving: {verb}"));
        leave::leave(verb)
    }
    console.say("the disk does not boot, and nothing more can be tried");
    loop {
        console.say("waiting for a person: the disk does not boot");
        // A restart would lead nowhere, and end what a person could still look at.
        let end = Instant::now() + SAID_EVERY;
        while Instant::now() < end {
            if let Some(keeper) = &mut keeper {
                keeper.pet();
            }
            if let Some(access) = &mut access
                && let Some(request) = access.look()
                && let Err(why) = may(request.wish, Doing::NeedsPerson, true, disk_now)
            {
                access.answer(&request, false, why);
            }
            thread::sleep(LOOK);
        }
    }
}

/// Does the job. Gives the verb to leave with; nothing, if the machine must not be left.
fn serve(console: &Arc<Console>, verb: Verb, keeper: &mut Option<Keeper>, access: &mut Option<Child>) -> Option<Verb> {
    let began = seconds();
    console.say(&format!("keepstate {} is PID 1, called to {verb}", env!("CARGO_PKG_VERSION")));
    // Somebody else's shutdown: the job waits for ours, which is a restart.
    if verb != Verb::Restart {
        console.say("the job is done at a restart only: nothing is touched");
        release_old_root(console, &mut Keeper::new(0));
        return Some(verb);
    }
    let job = match Job::read(Path::new(JOB)) {
        Ok(job) => job,
        Err(error) => {
            console.say(&format!("nothing is touched: {}", chain(&error)));
            return Some(Verb::Restart);
        }
    };
    let deadline = Instant::now() + Duration::from_secs(job.deadline_seconds);
    let keeper = keeper.insert(Keeper::new(job.watchdog_seconds));
    restart_after_panic(console);
    load_modules(console, keeper);
    if job.entry.is_fresh_kernel() {
        console.say(&format!("on a fresh kernel, by {:?}", job.entry));
    } else {
        release_old_root(console, keeper);
    }
    let access = access.insert(Child::of(&job, Arc::clone(console)));
    let mut told = Told {
        upgrade: job.upgrade.clone(),
        task: job.task,
        doing: Doing::Working,
        began,
        deadline_seconds: job.deadline_seconds,
    };
    let mut course = Course::new(job.task, job.undo.is_some());
    let (ended, next) = loop {
        told.task = course.task();
        access.tell(&told);
        let (ended, asked) = work(console, &job, course.task(), deadline, keeper, access);
        let disk = disk_now();
        // The worker may have gone on after it was decided to end it: only now that it has ended does the disk tell.
        let heeded = asked.as_ref().map(|request| match ended {
            Ended::Done => Err("the work was done before it could be stopped"),
            Ended::Failed | Ended::Stuck => may(request.wish, Doing::Working, access.files().has_begun(), || disk),
        });
        let is_over = Instant::now() >= deadline || heeded == Some(Ok(()));
        let next = course.next(ended, disk, is_over);
        console.say(&format!("the worker ended: {ended:?}; the disk: {disk:?}; next: {next:?}"));
        if let (Some(request), Some(heeded)) = (&asked, heeded) {
            if heeded.is_ok() {
                note_stopped(console, request, keeper);
            }
            access.answer(request, heeded.is_ok(), heeded.err().unwrap_or("nothing was written: the machine restarts"));
        }
        match next {
            Next::Work(_) => keeper.sleep(PAUSE),
            Next::Leave | Next::Stay => break (ended, next),
        }
    };
    told.doing = if next == Next::Leave { Doing::Leaving } else { Doing::NeedsPerson };
    access.tell(&told);
    // Into anything but the new OS the way leads through the firmware: what went wrong may be gone then.
    let is_new = next == Next::Leave && ended == Ended::Done && course.task() == Task::Flash;
    let verb = if is_new && job.exit == Exit::Kexec { load_new(console, keeper, access) } else { Verb::Restart };
    if next == Next::Leave {
        access.stop(|| keeper.pet());
    }
    if next == Next::Stay && job.undo.is_some() {
        let log = if job.beside().is_some() { "behind" } else { "PLACE/undo.log" };
        console.say(&format!(
            "from another system, with this disk and the node's place: keepstate undo DISK --log {log} puts the old OS back"
        ));
    }
    end(console, &job, keeper);
    (next == Next::Leave).then_some(verb)
}

/// Has it kept for the node that an operator stopped the job, and who.
fn note_stopped(console: &Arc<Console>, request: &Request, keeper: &mut Keeper) {
    let what = match request.wish {
        Wish::Abort => "abort",
        Wish::Reboot => "reboot",
    };
    let why = format!("an operator asked for it ({what}): {}", request.who);
    console.say(&why);
    let end = Instant::now() + NOTED_WITHIN;
    let written = fs::write(Path::new(RUN).join(STOPPED), why);
    let ended = run_child(console, "note", std::iter::empty(), keeper, |keeper| until(end, keeper));
    if written.is_err() || ended != Ended::Done {
        console.say("this could not be kept for the node: its journal will only say that the imager left no word");
    }
}

/// Sees to it that a panic ends: before the first write in the old OS.
fn restart_after_panic(console: &Console) {
    let (path, seconds) = PANIC;
    let now = fs::read_to_string(path).unwrap_or_default();
    if now.trim() == "0"
        && let Err(error) = fs::write(path, seconds)
    {
        console.say(&format!("a panic of the kernel would not restart it: writing {path}: {error}"));
    }
}

/// Loads what the node has put in, in its order.
fn load_modules(console: &Console, keeper: &mut Keeper) {
    let begin = Instant::now();
    let look = |keeper: &mut Keeper| keeper.look().iter().for_each(|said| console.say(said));
    look(keeper);
    let steps = boot::modules::steps(Path::new("/")).unwrap_or_else(|error| {
        console.say(&format!("modules: {}", chain(&error)));
        Vec::new()
    });
    let count = steps.len();
    let mut loaded = 0;
    for step in steps {
        match load_module(step, LOADED_MODULE_WITHIN, || keeper.pet()) {
            Ok(()) => loaded += 1,
            Err(why) => console.say(&why),
        }
        look(keeper);
    }
    if count > 0 {
        let seconds = begin.elapsed().as_secs_f64();
        console.say(&format!("{loaded} of {count} modules are loaded after {seconds:.1} s"));
    }
    if keeper.count() == 0 {
        console.say("there is no watchdog: if the kernel hangs, a person has to press the button");
    }
}

/// Loads one module beside PID 1: a driver may wait for its hardware for longer than a watchdog waits for a sign of life. Or
/// says why not; what serves an instruction that this CPU lacks does so, and rightly: what is needed is missed later.
fn load_module(step: Step, limit: Duration, alive: impl FnMut()) -> Result<(), String> {
    let file = step.file.clone();
    match apart::within(limit, alive, move || step.load()) {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(chain(&error)),
        None => {
            let (file, seconds) = (file.display(), limit.as_secs());
            Err(format!("loading {file} has not come to its end after {seconds} s: the others are loaded without it"))
        }
    }
}

/// Has the new OS's kernel loaded, and gives the verb that starts it; where that cannot be, the one that needs nothing.
fn load_new(console: &Arc<Console>, keeper: &mut Keeper, access: &mut Child) -> Verb {
    let mut end = Instant::now() + LOADED_WITHIN;
    let mut is_stopped = false;
    let ended = run_child(console, "exit", std::iter::empty(), keeper, |keeper| {
        if let Some(request) = access.look() {
            let heeded = may(request.wish, Doing::Leaving, true, disk_now);
            if heeded.is_ok() {
                (is_stopped, end) = (true, end.min(Instant::now()));
            }
            access.answer(&request, heeded.is_ok(), heeded.err().unwrap_or("the machine restarts"));
        }
        until(end, keeper)
    });
    if is_stopped {
        return Verb::Restart;
    }
    if ended == Ended::Done && exit::is_loaded() {
        return Verb::Kexec;
    }
    console.say("the new OS is started by the firmware");
    Verb::Restart
}

/// Lets go of the old root, so that its disk is free.
fn release_old_root(console: &Console, keeper: &mut Keeper) {
    /// What systemd has ended may still be going, and hold the old root while it does.
    const PATIENCE: Duration = Duration::from_secs(15);
    let begin = Instant::now();
    // systemd unmounts it, or does not if it was busy: as long as it is mounted, its disk is in use.
    let mut release = |path: &'static str| {
        let end = Instant::now() + PATIENCE;
        loop {
            let released = apart::within(UNMOUNTED_WITHIN, || keeper.pet(), move || mounts::release(Path::new(path)));
            match released.unwrap_or_else(|| Err(io::Error::other("its disk does not answer"))) {
                Err(_) if Instant::now() < end => {
                    keeper.pet();
                    thread::sleep(LOOK);
                }
                released => return released,
            }
        }
    };
    if let Err(error) = release(mounts::PLACE) {
        console.say(&format!("the node's place stays mounted: {error}"));
    }
    match release(mounts::OLD_ROOT) {
        Ok(()) => console.say(&format!("the old root is free after {:.1} s", begin.elapsed().as_secs_f64())),
        // Whoever opens the disk notices: it is opened exclusively.
        Err(error) => console.say(&format!("the old root stays: {error}")),
    }
}

/// Runs one worker to its end.
///
/// Past the deadline, before the first write, it is ended; and when an operator wishes so, whose request is given back for an
/// answer. A worker that cannot be, because it waits for a disk that does not answer, is what the watchdog is for: it is told
/// nothing any more, and the machine restarts. Where there is none, or it does not, the worker is done without.
fn work(
    console: &Arc<Console>,
    job: &Job,
    task: Task,
    deadline: Instant,
    keeper: &mut Keeper,
    access: &mut Child,
) -> (Ended, Option<Request>) {
    let name = match task {
        Task::Flash => "flash",
        Task::Undo => "undo",
    };
    // After the first write time is no reason to stop, and nobody looks at the disk again while somebody works on it.
    let (mut is_writing, mut late_since) = (false, None);
    let (mut asked, mut whole_until) = (None, None);
    let ended = run_child(console, name, job.environment.iter(), keeper, |keeper| {
        if let Some(request) = access.look()
            && late_since.is_none()
        {
            match may(request.wish, Doing::Working, access.files().has_begun(), disk_now) {
                Ok(()) => {
                    late_since = Some(Instant::now());
                    asked = Some(request);
                }
                Err(why) => access.answer(&request, false, why),
            }
        }
        if Instant::now() >= deadline && !is_writing && late_since.is_none() {
            match disk_now() {
                Disk::Between | Disk::Unfinished => is_writing = true,
                // It boots because it is finished: what is left to do is no reason to stop, either.
                Disk::Boots if access.files().has_begun() => is_writing = true,
                Disk::Boots => {
                    late_since = Some(Instant::now());
                    console.say("time is over before the first write");
                }
            }
        }
        // What is left is a word, and a look at data disks; one of which may never answer.
        if is_whole() {
            return until(*whole_until.get_or_insert_with(|| Instant::now() + WORD_WITHIN), keeper);
        }
        // What an earlier worker said of it is taken back when this one begins.
        whole_until = None;
        if let Some(since) = late_since {
            return end_since(since, keeper.silence(), access.files().has_begun());
        }
        keeper.pet();
        Go::On
    });
    if ended != Ended::Done && is_whole() {
        console.say("the disk is whole: what the node is told of it may be less than there is to tell");
        return (Ended::Done, asked);
    }
    (ended, asked)
}

/// Whether the worker has said that the disk is whole, and the node itself.
fn is_whole() -> bool {
    Path::new(RUN).join(WHOLE).exists()
}

/// Runs this program as a child, until it ends, or is done without. `go_on` is asked all the while.
fn run_child<'a>(
    console: &Arc<Console>,
    what: &str,
    environment: impl Iterator<Item = (&'a String, &'a String)>,
    keeper: &mut Keeper,
    mut go_on: impl FnMut(&mut Keeper) -> Go,
) -> Ended {
    let started = Command::new("/proc/self/exe")
        .args([WORKER, JOB, what])
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut worker = match started {
        Ok(worker) => worker,
        Err(error) => {
            console.say(&format!("starting a worker failed: {error}"));
            return Ended::Failed;
        }
    };
    let reader = worker.stderr.take().map(|lines| relay(Arc::clone(console), lines));
    let ended = loop {
        match worker.try_wait() {
            Ok(Some(status)) if status.success() => break Ended::Done,
            Ok(Some(status)) => {
                console.say(&format!("the worker failed: {status}"));
                break Ended::Failed;
            }
            Ok(None) => {}
            Err(error) => {
                console.say(&format!("waiting for the worker failed: {error}"));
                break Ended::Failed;
            }
        }
        match go_on(keeper) {
            Go::On => {}
            Go::End => drop(worker.kill()),
            Go::Without => {
                let _ = worker.kill();
                console.say("the worker cannot be ended: it is left where it is");
                return Ended::Stuck;
            }
        }
        thread::sleep(LOOK);
    };
    if let Some(reader) = reader {
        let _ = reader.join();
    }
    ended
}

/// What becomes of a child that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    /// It goes on.
    On,
    /// It is ended.
    End,
    /// It is ended, and not waited for: who waits for a disk that does not answer cannot be.
    Without,
}

/// Of a child that has until `end`. Meanwhile the watchdog is told that we are alive; afterwards it is for the watchdog.
fn until(end: Instant, keeper: &mut Keeper) -> Go {
    let now = Instant::now();
    if now <= end {
        keeper.pet();
        Go::On
    } else if now < end + ENDED_WITHIN {
        Go::End
    } else {
        Go::Without
    }
}

/// Of a worker that has been ended since then, before the first write, where a silent machine is restarted after `silence`.
///
/// It is done without only as long as it has not said that it begins: of what is killed no thread comes back out of the
/// kernel, and what it would have to say before its first write it cannot say any more.
fn end_since(since: Instant, silence: Duration, has_begun: bool) -> Go {
    if since.elapsed() >= ENDED_WITHIN + silence && !has_begun { Go::Without } else { Go::End }
}

/// Passes on what a child says.
pub(crate) fn relay(console: Arc<Console>, lines: impl Read + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            console.say(&line);
        }
    })
}

/// What the disk is, as far as PID 1 has to know.
fn disk_now() -> Disk {
    disk_in(Path::new(RUN))
}

/// The same by what workers have said in `run`. Until one has said which disk it may write to, none was written to.
pub(crate) fn disk_in(run: &Path) -> Disk {
    let Ok(path) = fs::read_to_string(run.join(WRITING)) else { return Disk::Boots };
    let disk = PathBuf::from(path.trim());
    match apart::within(SEEN_WITHIN, || (), move || does_boot(&disk)).flatten() {
        Some(true) if run.join(UNFINISHED).exists() => Disk::Unfinished,
        Some(false) => Disk::Between,
        // A disk that cannot be read is not one to restart into, once it was written to. Before, it is what led here.
        None if run.join(BEGUN).exists() => Disk::Between,
        Some(true) | None => Disk::Boots,
    }
}

/// Whether sector 0 leads anywhere: it is dead while the disk is half one and half another. Nothing if it cannot be read.
pub fn does_boot(disk: &Path) -> Option<bool> {
    // Firmware reads 512 bytes, whatever the sectors' size.
    let mut sector_0 = [0; 512];
    File::open(disk).and_then(|file| file.read_exact_at(&mut sector_0, 0)).ok()?;
    Some(!sys::is_zero(&sector_0))
}

/// Carries the log to where the job says, and lets go of what was mounted for it; as far as its disks answer.
fn end(console: &Console, job: &Job, keeper: &mut Keeper) {
    let job = job.clone();
    let problems = apart::within(PUT_AWAY_WITHIN, || keeper.pet(), move || put_away(&job));
    let stuck = || vec!["the log may not be kept, and filesystems stay mounted: a disk does not answer".to_owned()];
    for problem in problems.unwrap_or_else(stuck) {
        console.say(&problem);
    }
}

/// What of [`end`] could not be done.
fn put_away(job: &Job) -> Vec<String> {
    let carried = console::carry(&console::log_path(), &job.results)
        .map_err(|error| format!("the log could not be kept in {}: {error}", job.results.display()));
    let unmounted = job.mounts.iter().rev().map(|mount| {
        sys::kernel::unmount(&mount.at).map_err(|error| format!("unmounting {} failed: {error}", mount.at.display()))
    });
    std::iter::once(carried).chain(unmounted).filter_map(Result::err).collect()
}

/// Where to go when PID 1's own work panicked.
fn after_panic() -> Option<Verb> {
    (disk_now() != Disk::Between).then_some(Verb::Restart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_cannot_be_ended_is_done_without_and_the_watchdog_hears_nothing_of_it() {
        let mut keeper = Keeper::new(60);
        let at = |seconds: i64| {
            let now = Instant::now();
            let by = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { now.checked_sub(by).expect("the machine runs long enough") } else { now + by }
        };
        assert_eq!(until(at(5), &mut keeper), Go::On);
        assert_eq!(until(at(-1), &mut keeper), Go::End);
        assert_eq!(until(at(-11), &mut keeper), Go::Without);
    }

    /// It was loaded by PID 1's own thread: a driver that waits for its firmware for two minutes was cut off by the watchdog.
    #[test]
    fn the_watchdog_hears_of_us_while_a_module_loads_and_one_that_does_not_come_to_its_end_is_done_without() {
        let folder = tempfile::tempdir().unwrap();
        // Who opens a pipe to read it waits for who writes.
        let file = folder.path().join("mlx5_core.ko");
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap();
        let step = Step { file: file.clone(), options: String::new() };
        let mut signs = 0;
        let why = load_module(step.clone(), LOOK * 2, || signs += 1).unwrap_err();
        assert!(why.contains("mlx5_core.ko has not come to its end"), "{why}");
        assert!(signs > 0);
        fs::remove_file(&file).unwrap();
        let why = load_module(step, Duration::from_mins(5), || ()).unwrap_err();
        assert!(why.starts_with("loading ") && why.contains("mlx5_core.ko"), "{why}");
    }

    /// It was ended again and again, without limit: without a watchdog, for ever.
    #[test]
    fn a_worker_that_does_not_end_is_done_without_once_no_watchdog_restarts_the_machine_and_not_if_it_has_begun() {
        let before =
            |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).expect("the machine runs long enough");
        let (none, minute) = (Duration::ZERO, Duration::from_mins(1));
        assert_eq!(end_since(before(0), none, false), Go::End);
        assert_eq!(end_since(before(11), none, false), Go::Without);
        assert_eq!(end_since(before(11), minute, false), Go::End, "that is for the watchdog");
        assert_eq!(end_since(before(71), minute, false), Go::Without, "which does not do its work");
        assert_eq!(end_since(before(71), none, true), Go::End, "there is no way but on");
    }

    /// A disk that nobody had written to and that did not answer was taken for one that is half one and half another.
    #[test]
    fn a_disk_that_cannot_be_looked_at_is_one_to_restart_into_only_before_the_first_write() {
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join(WRITING), "/dev/none").unwrap();
        assert_eq!(disk_in(run.path()), Disk::Boots);
        fs::write(run.path().join(BEGUN), "").unwrap();
        assert_eq!(disk_in(run.path()), Disk::Between);
    }

    #[test]
    fn a_dead_first_sector_does_not_boot() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        let mut content = vec![0; 4096];
        fs::write(&disk, &content).unwrap();
        assert_eq!(does_boot(&disk), Some(false));
        content[511] = 0xaa;
        fs::write(&disk, &content).unwrap();
        assert_eq!(does_boot(&disk), Some(true));
        assert_eq!(does_boot(&folder.path().join("none")), None);
    }
}
