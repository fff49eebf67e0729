//! Watchdogs: what restarts a machine whose kernel or PID 1 hangs. Before the first write that leads back into the old OS.
//!
//! Whoever is armed already (systemd arms one for its own shutdown) is taken over, or it would restart the machine in the
//! middle of the work. Where none is, the first hardware watchdog is armed, else the kernel's own.
//!
//! On the way out all are stopped, as the last thing that is done: what comes next may not know of them. One that was left
//! running, with however long a time, would restart a new OS that keeps none, again and again. What the kernel was told
//! never to stop gets as much time as it takes, and the machine is left through the firmware, which stops most.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use sys::kernel::Watchdog;

/// What the kernel's own calls itself.
const SOFTWARE: &str = "Software Watchdog";
/// Between two signs of life: many in the shortest time that can be asked for.
const EVERY: Duration = Duration::from_secs(1);
/// What one gets that cannot be stopped, seconds: an OS is up in less.
const LONG_SECONDS: u32 = 600;

/// Keeps watchdogs quiet, as long as it is told to.
#[derive(Debug)]
pub struct Keeper {
    class: PathBuf,
    devices: PathBuf,
    seconds: u32,
    kept: Vec<Kept>,
    last: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    name: String,
    watchdog: Watchdog,
    /// Of silence, after which it restarts the machine.
    seconds: u32,
}

/// A watchdog as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Described {
    name: String,
    identity: String,
    is_active: bool,
}

impl Keeper {
    /// Of this machine's watchdogs, each of which is to restart the machine after so many seconds of silence.
    pub fn new(seconds: u32) -> Self {
        Self::below(Path::new("/sys/class/watchdog"), Path::new("/dev"), seconds)
    }

    fn below(class: &Path, devices: &Path, seconds: u32) -> Self {
        Self { class: class.into(), devices: devices.into(), seconds, kept: Vec::new(), last: None }
    }

    /// Looks for watchdogs and takes those that have to be kept. Gives what is to be said of each; again and again,
    /// because drivers are loaded one after the other.
    pub fn look(&mut self) -> Vec<String> {
        let known: Vec<_> = self.kept.iter().map(|kept| kept.name.clone()).collect();
        let wanted = wanted(described(&self.class), &known);
        wanted.iter().map(|one| self.take(one)).collect()
    }

    fn take(&mut self, described: &Described) -> String {
        let Described { name, identity, is_active } = described;
        let watchdog = match Watchdog::open(&self.devices.join(name)) {
            Ok(watchdog) => watchdog,
            Err(error) => return format!("{name} ({identity}) cannot be kept: {error}"),
        };
        // Where its time cannot be set, it has one.
        let time = watchdog.set_timeout(self.seconds).or_else(|_| watchdog.timeout());
        let seconds = *time.as_ref().unwrap_or(&LONG_SECONDS);
        let time = time.map_or_else(|error| format!("unknown: {error}"), |seconds| format!("{seconds} s"));
        self.kept.push(Kept { name: name.clone(), watchdog, seconds });
        let how = if *is_active { "was armed and is taken over" } else { "is armed" };
        format!("{name} ({identity}) {how}: {time}")
    }

    /// How many are kept.
    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// How long a silent machine goes on at most: the longest time of what is kept; nothing where no watchdog is.
    pub fn silence(&self) -> Duration {
        Duration::from_secs(self.kept.iter().map(|kept| kept.seconds).max().unwrap_or(0).into())
    }

    /// Says that we are alive. Called as often as one likes.
    pub fn pet(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        for kept in &self.kept {
            // One that cannot be told will restart the machine; there is nothing else to be done.
            let _ = kept.watchdog.keep_alive();
        }
    }

    /// Sleeps, alive.
    pub fn sleep(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            self.pet();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(EVERY));
        }
    }

    /// Stops all. Gives what is to be said of those that go on.
    pub fn stop(&mut self) -> Vec<String> {
        let stopped = self.kept.drain(..).map(|Kept { name, watchdog, .. }| {
            let _ = watchdog.set_timeout(LONG_SECONDS).and_then(|_| watchdog.keep_alive());
            watchdog
                .disarm()
                .map_err(|error| format!("{name} cannot be stopped: {error}; what comes next has to keep it"))
        });
        stopped.filter_map(Result::err).collect()
    }
}

/// Those that are to be kept: the ones that are armed, and where none is, the best of the others.
fn wanted(described: Vec<Described>, known: &[String]) -> Vec<Described> {
    let is_new = |one: &Described| !known.contains(&one.name);
    let best = described.iter().min_by_key(|one| one.identity == SOFTWARE).cloned();
    let mut wanted: Vec<_> = described.into_iter().filter(|one| one.is_active && is_new(one)).collect();
    if wanted.is_empty() && known.is_empty() {
        wanted.extend(best);
    }
    wanted
}

/// What the kernel says of its watchdogs, in their order.
fn described(class: &Path) -> Vec<Described> {
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let entries = fs::read_dir(class).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| Described {
            name: entry.file_name().to_string_lossy().into_owned(),
            identity: text(entry.path().join("identity")),
            is_active: text(entry.path().join("state")) == "active",
        })
        .collect();
    found.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these watchdogs: identity, and whether it is active. Files stand for their devices.
    fn machine(watchdogs: &[(&str, bool)]) -> (tempfile::TempDir, Keeper) {
        let folder = tempfile::tempdir().unwrap();
        let (class, devices) = (folder.path().join("class"), folder.path().join("dev"));
        fs::create_dir_all(&devices).unwrap();
        for (number, (identity, is_active)) in watchdogs.iter().enumerate() {
            let one = class.join(format!("watchdog{number}"));
            fs::create_dir_all(&one).unwrap();
            fs::write(one.join("identity"), format!("{identity}\n")).unwrap();
            fs::write(one.join("state"), if *is_active { "active\n" } else { "inactive\n" }).unwrap();
            fs::write(devices.join(format!("watchdog{number}")), "").unwrap();
        }
        let keeper = Keeper::below(&class, &devices, 60);
        (folder, keeper)
    }

    fn names(keeper: &Keeper) -> Vec<&str> {
        keeper.kept.iter().map(|kept| kept.name.as_str()).collect()
    }

    #[test]
    fn what_is_armed_is_taken_over_and_only_where_nothing_is_one_is_armed() {
        let (_folder, mut keeper) = machine(&[(SOFTWARE, false), ("iTCO_wdt", false), ("IPMI", false)]);
        let said = keeper.look();
        assert_eq!(names(&keeper), ["watchdog1"], "hardware first");
        assert!(said[0].starts_with("watchdog1 (iTCO_wdt) is armed: "), "{said:?}");
        assert_eq!(keeper.look(), Vec::<String>::new(), "once");
        assert_eq!(keeper.silence(), Duration::from_secs(LONG_SECONDS.into()), "a file does not tell its time");
        let (_folder, mut keeper) = machine(&[("iTCO_wdt", false), (SOFTWARE, true), ("IPMI", true)]);
        assert!(keeper.look()[0].contains("was armed and is taken over"));
        assert_eq!(names(&keeper), ["watchdog1", "watchdog2"]);
        let (_folder, mut keeper) = machine(&[(SOFTWARE, false)]);
        keeper.look();
        assert_eq!(keeper.count(), 1);
    }

    #[test]
    fn a_machine_without_any_is_kept_as_well_as_it_can_be() {
        let (_folder, mut keeper) = machine(&[]);
        assert_eq!(keeper.look(), Vec::<String>::new());
        assert_eq!(keeper.silence(), Duration::ZERO);
        keeper.pet();
        assert_eq!(keeper.stop(), Vec::<String>::new());
    }

    #[test]
    fn one_that_cannot_be_opened_is_named() {
        let (folder, mut keeper) = machine(&[("iTCO_wdt", false)]);
        fs::remove_file(folder.path().join("dev/watchdog0")).unwrap();
        let said = keeper.look();
        assert!(said[0].starts_with("watchdog0 (iTCO_wdt) cannot be kept: "), "{said:?}");
        assert_eq!(keeper.count(), 0);
    }

    #[test]
    fn signs_of_life_come_while_sleeping_and_the_announcement_of_the_end_comes_last() {
        let (folder, mut keeper) = machine(&[("iTCO_wdt", false)]);
        keeper.look();
        keeper.sleep(EVERY * 2 + EVERY / 2);
        assert_eq!(keeper.stop(), Vec::<String>::new());
        let told = fs::read(folder.path().join("dev/watchdog0")).unwrap();
        assert_eq!(told.last(), Some(&b'V'));
        assert!((3..=4).contains(&(told.len() - 1)), "{told:?}");
    }
}
