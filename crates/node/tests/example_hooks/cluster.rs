//! A cluster of Debian's `PostgreSQL`, for a test.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use keepstate_node::hooks::Moment;

use crate::room::{Room, good};

pub(crate) const NAME: &str = "warm";
/// A second cluster, where a test has one.
pub(crate) const OTHER: &str = "other";

/// A cluster of Debian's, of which `pg_lsclusters` knows below a root of its own only.
pub(crate) struct Cluster {
    pub(crate) room: Room,
    pub(crate) version: String,
    pub(crate) data: PathBuf,
}

impl Cluster {
    pub(crate) fn new(configuration: &str) -> Self {
        let releases = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: scripts/install test");
        let with_server =
            releases.map(|release| release.expect("listed").path()).filter(|path| path.join("bin/initdb").exists());
        let release = with_server.max().expect("a server: scripts/install test");
        let version = release.file_name().expect("a version").to_string_lossy().into_owned();
        let room = Room::new("postgresql");
        let cluster = Self { data: room.path("data"), version, room };
        cluster.settings("");
        let sockets = cluster.room.make("sockets", "postgres");
        cluster.room.make("root", "postgres");
        let mut create = cluster.tool("pg_createcluster");
        create.arg("-d").arg(&cluster.data).arg("-s").arg(&sockets).arg("-l").arg(sockets.join("log"));
        good(create.args(["-p", "5499", "-u", "postgres", &cluster.version, NAME, "--", "--auth=trust", "--no-sync"]));
        let text =
            format!("listen_addresses = ''\nfsync = off\nshared_buffers = 128MB\nautovacuum = off\n{configuration}\n");
        fs::write(cluster.configuration("conf.d/test.conf"), text).expect("written");
        cluster
    }

    pub(crate) fn configuration(&self, file: &str) -> PathBuf {
        self.room.path("root").join(&self.version).join(NAME).join(file)
    }

    pub(crate) fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        // Of a cluster below another root, systemd is never told.
        command.env("PG_CLUSTER_CONF_ROOT", self.room.path("root"));
        command
    }

    pub(crate) fn settings(&self, text: &str) {
        self.room.settings(&format!("export PG_CLUSTER_CONF_ROOT={}\n{text}", self.room.path("root").display()));
    }

    pub(crate) fn control(&self, arguments: &[&str]) -> Command {
        let mut command = self.tool("pg_ctlcluster");
        command.args([&*self.version, NAME]).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    pub(crate) fn start(&self) {
        assert!(self.control(&["start"]).status().expect("pg_ctlcluster").success());
    }

    pub(crate) fn restart(&self) {
        assert!(self.control(&["-m", "fast", "restart"]).status().expect("pg_ctlcluster").success());
    }

    pub(crate) fn psql(&self, database: &str) -> Command {
        let mut command = self.tool("runuser");
        command.args(["-u", "postgres", "--", "psql", "--cluster"]).arg(format!("{}/{NAME}", self.version));
        command.args(["-XAqt", "-v", "ON_ERROR_STOP=1"]).env("PGDATABASE", database).current_dir("/");
        command
    }

    pub(crate) fn query(&self, database: &str, text: &str) -> String {
        good(self.psql(database).args(["-c", text]))
    }

    /// A database with a table of some 2,800 pages and an index. All of it is in the buffers afterwards.
    pub(crate) fn fill(&self, database: &str, extensions: &[&str]) {
        self.query("postgres", &format!("create database \"{database}\""));
        for extension in extensions {
            self.query(database, &format!("create extension {extension}"));
        }
        self.query(
            database,
            "create table warm as select id, repeat('x', 200) as text from generate_series(1, 90000) as id; \
             create index on warm (id); checkpoint; select count(text) from warm",
        );
    }

    /// How many pages of the database's table are in the buffers.
    pub(crate) fn pages(&self, database: &str) -> u64 {
        let all = "select count(*) from pg_buffercache where relfilenode = pg_relation_filenode('warm') and reldatabase = \
                   (select oid from pg_database where datname = current_database())";
        self.query(database, all).parse().expect("a number")
    }

    pub(crate) fn quiesce(&self) -> String {
        self.room.run(Moment::Quiesce).expect("the hooks say yes")
    }

    pub(crate) fn trial(&self) -> String {
        self.room.run(Moment::Trial).expect("a trial never fails for cold buffers")
    }

    pub(crate) fn process(&self) -> Option<u32> {
        fs::read_to_string(self.data.join("postmaster.pid")).ok()?.lines().next()?.parse().ok()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for name in [NAME, OTHER] {
            // It may have been stopped already, or never been made.
            let mut stop = self.tool("pg_ctlcluster");
            stop.args(["-m", "immediate", &*self.version, name, "stop"]).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = stop.status();
        }
    }
}
