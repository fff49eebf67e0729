//! A real `PostgreSQL` whose files' pages are dumped, dropped, and loaded again.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::Room;

/// Debian's, of whichever release.
fn programs() -> PathBuf {
    let releases = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: scripts/install test");
    let bin = releases.map(|release| release.expect("listed").path().join("bin"));
    bin.filter(|bin| bin.join("initdb").exists()).max().expect("a server: scripts/install test")
}

/// A cluster below `room`, reached by a socket there, which ends with the value.
struct Cluster {
    bin: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
}

impl Cluster {
    fn new(room: &Room) -> Self {
        let cluster = Self { bin: programs(), data: room.path("cluster"), sockets: room.path("sockets") };
        fs::set_permissions(room.path(""), fs::Permissions::from_mode(0o755)).expect("ours");
        for path in [&cluster.data, &cluster.sockets] {
            fs::create_dir(path).expect("made");
            let owned = Command::new("chown").arg("postgres").arg(path).status().expect("chown");
            assert!(owned.success(), "the package makes the user postgres");
        }
        cluster.run("initdb", &["--auth=trust", "--no-sync", "-D", cluster.data.to_str().expect("text")]);
        cluster
    }

    /// Runs one of its programs, as its user: it refuses to be run by root.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(self.bin.join(program)).args(arguments).current_dir("/");
        let output = command.env("PGHOST", &self.sockets).env("PGUSER", "postgres").output().expect("runuser");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn start(&self) {
        let data = self.data.to_str().expect("text");
        let options = format!("-c listen_addresses='' -c shared_buffers=2MB -k {}", self.sockets.display());
        let log = self.sockets.join("log");
        self.run("pg_ctl", &["-D", data, "-w", "-t", "60", "-l", log.to_str().expect("text"), "-o", &options, "start"]);
    }

    fn stop(&self) {
        self.run("pg_ctl", &["-D", self.data.to_str().expect("text"), "-w", "-t", "60", "-m", "fast", "stop"]);
    }

    fn query(&self, query: &str) -> String {
        self.run("psql", &["-XAqtc", query, "postgres"]).trim().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may have been stopped already.
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(self.bin.join("pg_ctl"));
        let _ = command.arg("-D").arg(&self.data).args(["-m", "immediate", "stop"]).current_dir("/").output();
    }
}

/// Every regular file below a directory.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a directory") {
        let entry = entry.expect("listed");
        let kind = entry.file_type().expect("known");
        if kind.is_dir() {
            files.extend(self::files(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

/// How many pages are cached, as util-linux's `fincore` counts them.
fn cached(files: &[PathBuf]) -> u64 {
    let count = |files: &[PathBuf]| {
        let mut command = Command::new("fincore");
        let output = command.args(["--noheadings", "--output", "PAGES"]).args(files).output().expect("fincore");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(|line| line.trim().parse::<u64>().expect("a number")).sum::<u64>()
    };
    files.chunks(500).map(count).sum()
}

/// Writes out what is dirty, and drops all.
fn forget(files: &[PathBuf]) {
    for path in files {
        let file = File::open(path).expect("opened");
        file.sync_all().expect("flushed");
        sys::page_cache::forget(&file).expect("advised");
    }
}

#[test]
#[ignore = "needs root and PostgreSQL: run by ./test"]
fn a_database_is_as_warm_as_it_was() {
    let room = Room::new();
    let cluster = Cluster::new(&room);
    cluster.start();
    cluster.run("pgbench", &["-i", "-q", "-s", "15", "postgres"]);
    let rows = cluster.query("select count(*), sum(abalance) from pgbench_accounts");
    cluster.stop();
    // Only what the queries of a day touch is warm: an index, and parts of a table.
    forget(&files(&cluster.data));
    let cold = cached(&files(&cluster.data));
    cluster.start();
    cluster.query(
        "set enable_seqscan = off; select sum(abalance) from pgbench_accounts where aid % 7 = 3 and aid < 700000",
    );
    cluster.stop();
    let all = files(&cluster.data);
    let warm = cached(&all);
    assert!(warm > cold + 5000, "{warm} pages after the queries, {cold} before");

    let line = format!("cache dump {} -o warm.map --json", cluster.data.display());
    let dumped: Value = serde_json::from_str(&room.good(&line)).expect("JSON");
    assert_eq!(dumped["cached_pages"], warm, "fincore counts the same");
    assert_eq!(dumped["unreadable"]["count"], 0);
    forget(&all);
    let cold = cached(&all);
    assert!(cold * 100 < warm, "{cold} of {warm} pages were not dropped");
    let loaded: Value = serde_json::from_str(&room.good("cache load warm.map --json --deadline 2m")).expect("JSON");
    assert_eq!(loaded["ended"], "complete");
    let again = cached(&all);
    assert!(again * 100 >= warm * 99, "{again} of {warm} pages are back");
    assert!(again <= warm + warm / 100, "{again} pages, of which {warm} were wanted");

    // The database runs as before, and a load beside it does it no harm.
    cluster.start();
    let line = "cache load warm.map --json --bandwidth 500M --io-priority idle";
    let beside: Value = serde_json::from_str(&room.good(line)).expect("JSON");
    assert_eq!(beside["failed"]["files"], 0);
    assert_eq!(cluster.query("select count(*), sum(abalance) from pgbench_accounts"), rows);
    cluster.stop();
}
