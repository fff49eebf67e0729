//! PID 1: makes a place to work in, starts the worker, and leaves when the disk is whole.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::console::{self, Console};
use crate::job::{Job, Task};
use crate::leave::{self, Verb};
use crate::supervise::{Course, Disk, Ended, Next};
use crate::worker::{ENTERED, UNFINISHED, WRITING, chain, wall_clock};
use crate::{JOB, RUN, WORKER, mounts};

/// Between two tries: what failed because something was not ready may be ready then.
const PAUSE: Duration = Duration::from_secs(2);
/// How often PID 1 looks at its worker.
const LOOK: Duration = Duration::from_millis(50);

/// Runs as PID 1. Never returns: the kernel dies with PID 1.
pub fn run() -> ! {
    let verb = Verb::of_arguments(std::env::args().skip(1));
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
    let leave = catch_unwind(AssertUnwindSafe(|| serve(&console, verb)));
    let leave = leave.unwrap_or_else(|_| {
        console.say("PID 1 panicked, which is a bug");
        after_panic()
    });
    if let Some(verb) = leave {
        console.say(&format!("leaving: {verb}"));
        leave::leave(verb)
    }
    console.say("the disk does not boot, and nothing more can be tried");
    loop {
        console.say("waiting for a person: the disk does not boot");
        thread::sleep(Duration::from_mins(1));
    }
}

/// Does the job. Gives the verb to leave with; nothing, if the machine must not be left.
fn serve(console: &Arc<Console>, verb: Verb) -> Option<Verb> {
    console.say(&format!("keepstate {} is PID 1, called to {verb}", env!("CARGO_PKG_VERSION")));
    // Somebody else's shutdown: the job waits for ours, which is a restart.
    if verb != Verb::Restart {
        console.say("the job is done at a restart only: nothing is touched");
        release_old_root(console);
        return Some(verb);
    }
    let job = match Job::read(Path::new(JOB)) {
        Ok(job) => job,
        Err(error) => {
            console.say(&format!("nothing is touched: {}", chain(&error)));
            return Some(Verb::Restart);
        }
    };
    release_old_root(console);
    let deadline = Instant::now() + Duration::from_secs(job.deadline_seconds);
    let mut course = Course::new(job.task, job.undo.is_some());
    let next = loop {
        let ended = work(console, &job, course.task(), deadline);
        let disk = disk_now();
        let next = course.next(ended, disk, Instant::now() >= deadline);
        console.say(&format!("the worker ended: {ended:?}; the disk: {disk:?}; next: {next:?}"));
        match next {
            Next::Work(_) => thread::sleep(PAUSE),
            Next::Leave | Next::Stay => break next,
        }
    };
    end(console, &job);
    (next == Next::Leave).then_some(Verb::Restart)
}

/// Lets go of the old root, so that its disk is free.
fn release_old_root(console: &Console) {
    /// What systemd has ended may still be going, and hold the old root while it does.
    const PATIENCE: Duration = Duration::from_secs(15);
    let begin = Instant::now();
    let released = loop {
        match mounts::release(Path::new(mounts::OLD_ROOT)) {
            Err(_) if begin.elapsed() < PATIENCE => thread::sleep(LOOK),
            released => break released,
        }
    };
    match released {
        Ok(()) => console.say(&format!("the old root is free after {:.1} s", begin.elapsed().as_secs_f64())),
        // Whoever opens the disk notices: it is opened exclusively.
        Err(error) => console.say(&format!("the old root stays: {error}")),
    }
}

/// Runs one worker to its end.
fn work(console: &Arc<Console>, job: &Job, task: Task, deadline: Instant) -> Ended {
    let name = match task {
        Task::Flash => "flash",
        Task::Undo => "undo",
    };
    let started = Command::new("/proc/self/exe")
        .args([WORKER, JOB, name])
        .envs(&job.environment)
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
        // After the first write time is no reason to stop.
        if Instant::now() >= deadline && disk_now() == Disk::Boots {
            console.say("time is over before the first write");
            let _ = worker.kill();
        }
        thread::sleep(LOOK);
    };
    if let Some(reader) = reader {
        let _ = reader.join();
    }
    ended
}

/// Passes on what the worker says.
fn relay(console: Arc<Console>, lines: impl Read + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            console.say(&line);
        }
    })
}

/// What the disk is, as far as PID 1 has to know. Until a worker has said which disk it may write to, none was.
fn disk_now() -> Disk {
    let Ok(path) = fs::read_to_string(Path::new(RUN).join(WRITING)) else { return Disk::Boots };
    match does_boot(Path::new(path.trim())) {
        Some(true) if Path::new(RUN).join(UNFINISHED).exists() => Disk::Unfinished,
        Some(true) => Disk::Boots,
        // A disk that cannot be read is not one to restart into.
        Some(false) | None => Disk::Between,
    }
}

/// Whether sector 0 leads anywhere: it is dead while the disk is half one and half another. Nothing if it cannot be read.
pub fn does_boot(disk: &Path) -> Option<bool> {
    // Firmware reads 512 bytes, whatever the sectors' size.
    let mut sector_0 = [0; 512];
    File::open(disk).and_then(|file| file.read_exact_at(&mut sector_0, 0)).ok()?;
    Some(!sys::is_zero(&sector_0))
}

/// Carries the log to where the job says, and lets go of what was mounted for it.
fn end(console: &Console, job: &Job) {
    if let Err(error) = console::carry(&console::log_path(), &job.results) {
        console.say(&format!("the log could not be kept in {}: {error}", job.results.display()));
    }
    for mount in job.mounts.iter().rev() {
        if let Err(error) = sys::kernel::unmount(&mount.at) {
            console.say(&format!("unmounting {} failed: {error}", mount.at.display()));
        }
    }
}

/// Where to go when PID 1's own work panicked.
fn after_panic() -> Option<Verb> {
    (disk_now() != Disk::Between).then_some(Verb::Restart)
}

#[cfg(test)]
mod tests {
    use super::*;

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
