//! A directory of hooks, and one for what servers need.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use keepstate_node::hooks::{self, Moment, Told};
use steps::Failure;
use tempfile::TempDir;

/// Where a test's hooks and servers live.
pub(crate) struct Room {
    folder: TempDir,
    /// On another filesystem than the root, as the place is.
    place: TempDir,
}

impl Room {
    /// With the hooks of one datastore, as they would be installed.
    pub(crate) fn new(datastore: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        // Servers run as users of their own.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("ours");
        let room = Self { folder, place: tempfile::tempdir_in("/dev/shm").expect("a second filesystem") };
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hooks").join(datastore);
        let copied = Command::new("cp").arg("-a").arg(examples).arg(room.path("hooks")).status().expect("cp");
        assert!(copied.success());
        room
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a directory that belongs to `user`.
    pub(crate) fn make(&self, name: &str, user: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("made");
        good(Command::new("chown").arg(user).arg(&path));
        path
    }

    /// Where lists are kept.
    pub(crate) fn lists(&self) -> PathBuf {
        self.place.path().join("warmth")
    }

    /// Sets what the hooks are to know.
    pub(crate) fn settings(&self, text: &str) {
        let lists = self.lists();
        let text = format!("KEEPSTATE_WARMTH_DIRECTORY={}\n{text}\n", lists.display());
        fs::write(self.path("hooks/warmth.conf"), text).expect("written");
    }

    pub(crate) fn without(&self, hook: &str) {
        fs::remove_file(self.path("hooks").join(hook)).expect("it is there");
    }

    /// The settings that put a script before a program, which is still run where none of `cases` matches its arguments.
    pub(crate) fn in_place_of(&self, program: &str, cases: &str) -> String {
        let programs = self.path("programs");
        fs::create_dir(&programs).expect("made");
        let script = format!("#!/bin/sh\ncase $* in\n{cases}\n*) exec /usr/bin/{program} \"$@\" ;;\nesac\n");
        fs::write(programs.join(program), script).expect("written");
        fs::set_permissions(programs.join(program), Permissions::from_mode(0o755)).expect("ours");
        format!("PATH={}:$PATH", programs.display())
    }

    /// Runs the hooks of a moment as the agent does.
    pub(crate) fn run(&self, moment: Moment) -> Result<String, Failure> {
        let told = Told { moment, upgrade: Some("20261121T120000Z"), image: "debian@2" };
        hooks::run(&self.path("hooks"), &told, Instant::now() + Duration::from_mins(2))
    }
}

/// Runs a command that has to succeed; gives what it printed.
pub(crate) fn good(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.current_dir("/").output().expect("the program is installed");
    let (said, complained) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {said}{complained}");
    said.trim().to_owned()
}

/// Looks again and again whether it is so, for a minute.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends a signal to a process that a test started.
pub(crate) fn signal(process: u32, signal: rustix::process::Signal) {
    let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    rustix::process::kill_process(process, signal).expect("it is there");
}
