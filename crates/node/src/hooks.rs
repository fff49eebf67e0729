//! Hooks: what the node's owner wants done at certain moments, as executables in directories.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use steps::{Failure, Stop};

use crate::commands::{self, Ended};

/// How long the hooks of a moment may take that have no step of their own.
pub const LIMIT: Duration = Duration::from_mins(10);
/// The exit code of a hook that wants to be asked again, for what it waits for may pass: `EX_TEMPFAIL` of `sysexits.h`.
const MAY_PASS: i32 = 75;
/// Before such a hook is asked again.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 5000 });

/// A moment at which hooks are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Before anything: may say no.
    Preflight,
    /// Takes the node out of traffic.
    Drain,
    /// Brings the datastore to rest.
    Quiesce,
    /// In the new OS: may say no, which rolls back.
    Trial,
    /// Takes the node back into traffic.
    Undrain,
    /// After the commit.
    Committed,
    /// After the old OS has come back.
    RolledBack,
}

impl Moment {
    /// Those that come in the new OS.
    pub(crate) const IN_NEW_OS: [Self; 3] = [Self::Trial, Self::Undrain, Self::Committed];

    /// The directory of its hooks.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Preflight => "preflight.d",
            Self::Drain => "drain.d",
            Self::Quiesce => "quiesce.d",
            Self::Trial => "trial.d",
            Self::Undrain => "undrain.d",
            Self::Committed => "committed.d",
            Self::RolledBack => "rolled-back.d",
        }
    }
}

/// What a hook is told, as one JSON document on its standard input.
#[derive(Clone, Debug, Serialize)]
pub struct Told<'a> {
    /// Which moment.
    pub moment: Moment,
    /// Which upgrade; none before one is begun, which only those of preflight see.
    pub upgrade: Option<&'a str>,
    /// The image, `name@version`.
    pub image: &'a str,
}

/// Runs all hooks of a moment, by name, one after the other, until one says no (ends with another code than 0) or time is
/// over. One that ends with code 75 is asked again. Gives what they said.
pub fn run(hooks: &Path, told: &Told<'_>, end: Instant) -> Result<String, Failure> {
    run_unless(hooks, told, end, &Stop::default())
}

/// The same, and fails as soon as somebody asks to stop: what runs then is ended, with all it started.
pub(crate) fn run_unless(hooks: &Path, told: &Told<'_>, end: Instant, stop: &Stop) -> Result<String, Failure> {
    let mut said = String::new();
    for hook in of(hooks, told.moment)? {
        let name = hook.display();
        let (output, code) = one(&hook, told, end, stop)?;
        // Writing to a string cannot fail.
        let _ = writeln!(said, "{name}: {output}");
        if code != Some(0) {
            let ending = code.map_or_else(|| "was killed".into(), |code| format!("ended with code {code}"));
            return Err(Failure::last(format!("the hook {name} {ending}: {output}")));
        }
    }
    Ok(said)
}

/// The hooks of a moment, by name.
pub(crate) fn of(hooks: &Path, moment: Moment) -> Result<Vec<PathBuf>, Failure> {
    let directory = hooks.join(moment.directory());
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::last(format!("reading the hooks in {}: {error}", directory.display()))),
    };
    let mut hooks: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0))
        .collect();
    hooks.sort();
    Ok(hooks)
}

/// Runs one hook, again for as long as it says that it may pass; gives what it said at last, and its exit code.
fn one(hook: &Path, told: &Told<'_>, end: Instant, stop: &Stop) -> Result<(String, Option<i32>), Failure> {
    let name = hook.display();
    let document = serde_json::to_vec(told).expect("only string keys");
    loop {
        let ended = commands::run_unless(&mut Command::new(hook), document.clone(), end, stop);
        let Ended { said, status } =
            ended.map_err(|error| Failure::last(format!("running the hook {name}: {error}")))?;
        if let Some(why) = stop.asked() {
            return Err(Failure::last(format!("{why} while the hook {name} ran: {said}")));
        }
        match status.map(|status| status.code()) {
            Some(Some(MAY_PASS)) if Instant::now() + PAUSE < end => {
                tracing::info!(hook = %name, %said, "it is not time yet, and is asked again");
                thread::sleep(PAUSE);
            }
            Some(code) => return Ok((said, code)),
            None => return Err(Failure::last(format!("the hook {name} did not end in time: {said}"))),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Puts a hook of a moment below the directory of hooks.
    pub(crate) fn put(hooks: &Path, moment: Moment, name: &str, script: &str) {
        let directory = hooks.join(moment.directory());
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Puts a hook for each of these moments that says its moment's name. Gives what gives the names said so far, a line each.
    pub(crate) fn put_hooks(hooks: &Path, moments: &[Moment]) -> impl Fn() -> String {
        let told = hooks.with_extension("told");
        for moment in moments {
            let name = moment.directory().trim_end_matches(".d");
            put(hooks, *moment, "10-tells", &format!("echo {name} >>'{}'", told.display()));
        }
        move || fs::read_to_string(&told).unwrap_or_default()
    }

    fn hook(folder: &Path, name: &str, script: &str) {
        put(folder, Moment::Drain, name, script);
    }

    fn drain(folder: &Path, limit: Duration) -> Result<String, Failure> {
        let told = Told { moment: Moment::Drain, upgrade: Some("7"), image: "debian@2" };
        run(folder, &told, Instant::now() + limit)
    }

    #[test]
    fn hooks_run_by_name_and_are_told_what_happens() {
        let folder = tempfile::tempdir().unwrap();
        hook(folder.path(), "20-second", "echo two");
        hook(folder.path(), "10-first", "cat; echo; echo one >&2");
        fs::write(folder.path().join("drain.d/README"), "not executable").unwrap();
        let said = drain(folder.path(), Duration::from_secs(20)).unwrap();
        assert!(said.contains(r#"{"moment":"drain","upgrade":"7","image":"debian@2"}"#), "{said}");
        assert!(said.find("one").unwrap() < said.find("two").unwrap(), "{said}");
    }

    #[test]
    fn without_hooks_nothing_is_done() {
        assert_eq!(drain(Path::new("/no such directory"), Duration::ZERO).unwrap(), "");
    }

    #[test]
    fn a_hook_that_says_no_is_named_with_its_words_and_the_next_is_not_run() {
        let folder = tempfile::tempdir().unwrap();
        hook(folder.path(), "10-no", "echo replicas missing; exit 3");
        hook(folder.path(), "20-next", &format!("touch {}", folder.path().join("ran").display()));
        let failure = drain(folder.path(), Duration::from_secs(20)).unwrap_err();
        assert!(failure.why.contains("10-no ended with code 3: replicas missing"), "{failure}");
        assert!(!folder.path().join("ran").exists());
    }

    #[test]
    fn a_hook_whose_time_has_not_come_is_asked_again_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let times = folder.path().join("times");
        let counts = format!(
            "echo x >>'{0}'; test $(wc -l <'{0}') -ge 3 || {{ echo moving shards; exit 75; }}",
            times.display()
        );
        hook(folder.path(), "10-before", &format!("echo x >>'{}'", folder.path().join("before").display()));
        hook(folder.path(), "20-waits", &counts);
        drain(folder.path(), Duration::from_mins(1)).unwrap();
        assert_eq!(fs::read_to_string(&times).unwrap(), "x\nx\nx\n");
        assert_eq!(fs::read_to_string(folder.path().join("before")).unwrap(), "x\n", "it alone");
        hook(folder.path(), "20-waits", "echo moving shards; exit 75");
        let failure = drain(folder.path(), Duration::from_millis(200)).unwrap_err();
        // Its last try may have been cut off before it said anything.
        assert!(failure.why.contains("20-waits"), "{failure}");
    }

    #[test]
    fn a_hook_that_hangs_is_ended_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        hook(folder.path(), "10-hangs", "echo begun; sleep 1000 & sleep 1000");
        let begin = Instant::now();
        let failure = drain(folder.path(), Duration::from_millis(300)).unwrap_err();
        assert!(failure.why.contains("did not end in time: begun"), "{failure}");
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    /// The process died by the signal, and its hook went on to take the node out of traffic.
    #[test]
    fn a_hook_is_ended_with_all_it_started_when_somebody_asks_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        let (begun, went_on) = (folder.path().join("begun"), folder.path().join("went-on"));
        hook(folder.path(), "10-hangs", &format!("touch {}; sleep 3; touch {}", begun.display(), went_on.display()));
        let stop = Stop::default();
        let asked = stop.clone();
        let asking = thread::spawn(move || {
            while !begun.exists() {
                thread::sleep(Duration::from_millis(20));
            }
            asked.ask("SIGINT came");
        });
        let told = Told { moment: Moment::Drain, upgrade: Some("7"), image: "debian@2" };
        let failure = run_unless(folder.path(), &told, Instant::now() + LIMIT, &stop).unwrap_err();
        assert!(
            failure.why.starts_with("SIGINT came while the hook ") && failure.why.contains("10-hangs"),
            "{failure}"
        );
        asking.join().unwrap();
        thread::sleep(Duration::from_secs(4));
        assert!(!went_on.exists());
    }

    #[test]
    fn what_a_hook_leaves_running_does_not_hold_us() {
        let folder = tempfile::tempdir().unwrap();
        hook(folder.path(), "10-leaves", "sleep 1000 &\necho done");
        let begin = Instant::now();
        drain(folder.path(), Duration::from_mins(1)).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    /// A service that a hook started held the pipe, and with it the upgrade, for as long as it ran.
    #[test]
    fn a_daemon_that_a_hook_starts_lives_on_and_does_not_hold_us() {
        let folder = tempfile::tempdir().unwrap();
        let lived = folder.path().join("lived");
        let daemon = format!("setsid sh -c 'sleep 30; touch {}' &\necho done", lived.display());
        hook(folder.path(), "10-daemon", &daemon);
        let begin = Instant::now();
        let said = drain(folder.path(), Duration::from_mins(1)).unwrap();
        assert!(said.contains("done") && begin.elapsed() < Duration::from_secs(20), "{said}");
    }

    #[test]
    fn a_hook_that_says_more_than_is_kept_is_heard_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        hook(folder.path(), "10-talks", "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done");
        let said = drain(folder.path(), Duration::from_mins(1)).unwrap();
        assert!(said.len() > 60_000 && said.len() < 70_000, "{} bytes", said.len());
    }

    #[test]
    fn a_hook_that_cannot_be_run_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        hook(folder.path(), "10-broken", "");
        fs::write(folder.path().join("drain.d/10-broken"), "#!/no/such/interpreter\n").unwrap();
        assert!(drain(folder.path(), Duration::from_secs(20)).is_err());
    }
}
