//! `MariaDB`'s buffer pool across a stop and a start.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keepstate_node::hooks::Moment;
use rustix::process::Signal;

use crate::room::{Room, good, signal, wait_until};

/// A server on a socket of its own, which ends with the value.
struct Server {
    room: Room,
    data: PathBuf,
    socket: PathBuf,
    process: Option<Child>,
}

impl Server {
    fn new() -> Self {
        let room = Room::new("mariadb");
        let (data, sockets) = (room.make("data", "mysql"), room.make("sockets", "mysql"));
        let server = Self { socket: sockets.join("socket"), data, room, process: None };
        server.room.make("temporary", "mysql");
        let mut install = Command::new("mariadb-install-db");
        good(install.args(["--no-defaults", "--skip-test-db"]).args(server.where_it_stands()));
        server.settings("");
        server
    }

    /// With temporary tables of its own: a server that starts removes all that it finds, those of others too.
    fn where_it_stands(&self) -> [String; 3] {
        let (data, temporary) = (self.data.display(), self.room.path("temporary"));
        ["--user=mysql".into(), format!("--datadir={data}"), format!("--tmpdir={}", temporary.display())]
    }

    /// Whatever units this machine has, they are none of ours.
    fn settings(&self, text: &str) {
        self.room.settings(&format!("MARIADB_SOCKETS={}\nMARIADB_UNIT=\n{text}", self.socket.display()));
    }

    fn start(&mut self, arguments: &[&str]) {
        self.end();
        let log = File::options().create(true).append(true).open(self.room.path("log")).expect("a log");
        let mut command = Command::new("mariadbd");
        command.args(["--no-defaults", "--skip-networking", "--innodb-buffer-pool-size=64M"]);
        command.args(["--innodb-flush-log-at-trx-commit=0", "--pid-file=pid"]).args(arguments);
        command.args(self.where_it_stands()).arg(format!("--socket={}", self.socket.display()));
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(child.expect("MariaDB is installed: scripts/install test"));
        wait_until("MariaDB answers", || {
            let mut ping = Command::new("mariadb-admin");
            ping.args(["--no-defaults", "--silent", "ping"]).arg(format!("--socket={}", self.socket.display()));
            ping.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        });
    }

    fn id(&self) -> u32 {
        self.process.as_ref().expect("it was started").id()
    }

    /// Whether its process has ended by itself.
    fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_some_and(|child| child.try_wait().expect("ours").is_some())
    }

    fn query(&self, text: &str) -> String {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--execute", text]);
        good(command.arg(format!("--socket={}", self.socket.display())))
    }

    /// A table of some 1,300 pages. All of it is in the buffer pool afterwards, and nobody has anything left to do there: what purge
    /// had not come to when the server stopped, it reads in the next process.
    fn fill(&self) {
        self.query(
            "create database app; use app; create table app.warm (id int primary key, text varchar(200)); \
             insert into app.warm select seq, repeat('x', 200) from seq_1_to_90000; select count(*) from app.warm",
        );
        let left = "select variable_value from information_schema.global_status where variable_name = \
                    'Innodb_history_list_length'";
        wait_until("purge is through", || self.query(left) == "0");
    }

    /// How many pages of the table are in the pool. By its number: names are known only of tables that were opened.
    fn pages(&self) -> u64 {
        let all = "select count(*) from information_schema.innodb_buffer_page where page_type = 'INDEX' and space = \
                   (select space from information_schema.innodb_sys_tablespaces where name = 'app/warm')";
        self.query(all).parse().expect("a number")
    }

    fn quiesce(&self) -> Result<String, steps::Failure> {
        self.room.run(Moment::Quiesce)
    }

    fn trial(&self) -> String {
        self.room.run(Moment::Trial).expect("a trial never fails for a cold buffer pool")
    }

    fn end(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn what_the_pool_held_is_back(arguments: &[&str]) {
    let mut server = Server::new();
    server.start(&[]);
    server.fill();
    let warm = server.pages();
    assert!(warm > 1200, "{warm}");
    let said = server.quiesce().expect("the hooks say yes");
    assert!(said.contains(" pages are kept") && said.contains(": stopped"), "{said}");
    assert!(server.has_ended());
    server.start(arguments);
    if !arguments.is_empty() {
        let cold = server.pages();
        assert!(cold * 100 <= warm, "a new process has {cold} of {warm} pages");
    }
    let said = server.trial();
    let again = server.pages();
    assert!(said.contains("load completed at"), "{said}");
    assert!(again * 100 >= warm * 95, "{again} of {warm}: {said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn what_the_pool_held_is_back_where_mariadb_loads_it_when_it_starts() {
    what_the_pool_held_is_back(&[]);
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn what_the_pool_held_is_back_where_mariadb_has_to_be_told() {
    what_the_pool_held_is_back(&["--skip-innodb-buffer-pool-load-at-startup"]);
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_server_that_does_not_run_is_named_and_stops_nothing() {
    let server = Server::new();
    let said = server.quiesce().expect("nothing has to be stopped");
    assert!(said.contains("does not run: nothing is kept") && said.contains("does not run\n"), "{said}");
    let said = server.trial();
    assert!(said.contains("does not run, and stays cold"), "{said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_list_that_is_gone_or_names_a_table_that_is_gone_is_said_and_stops_nothing() {
    let mut server = Server::new();
    server.start(&[]);
    server.fill();
    server.quiesce().expect("the hooks say yes");
    server.start(&["--skip-innodb-buffer-pool-load-at-startup"]);
    server.query("drop table app.warm");
    let said = server.trial();
    assert!(said.contains("load completed at"), "{said}");
    fs::remove_file(server.data.join("ib_buffer_pool")).expect("the list");
    let said = server.trial();
    assert!(said.contains("stays cold: Cannot open"), "{said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_list_that_cannot_be_written_is_said_and_stops_nothing() {
    let mut server = Server::new();
    server.start(&["--innodb-buffer-pool-filename=no/such/directory"]);
    server.room.without("quiesce.d/50-mariadb-stop");
    let said = server.quiesce().expect("cold is no reason to stop");
    assert!(said.contains("keeps nothing: Cannot open"), "{said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_server_that_hangs_is_not_taken_for_stopped() {
    let mut server = Server::new();
    server.start(&[]);
    server.settings("MARIADB_KEEP_SECONDS=2\nMARIADB_LOAD_SECONDS=2\nMARIADB_STOP_SECONDS=2");
    signal(server.id(), Signal::STOP);
    let begin = Instant::now();
    let failure = server.quiesce().expect_err("it did not stop");
    let said = server.trial();
    signal(server.id(), Signal::CONT);
    assert!(failure.why.contains("not stopped: it runs, and does not say as which process"), "{failure}");
    assert!(said.contains("cannot be asked, and stays cold"), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_server_that_was_killed_instead_of_stopped_is_not_taken_for_well_stopped() {
    let mut server = Server::new();
    server.start(&[]);
    server.room.without("quiesce.d/30-mariadb-warmth");
    // Something else that ends it the hard way when it is asked to stop.
    let kill = format!("*shutdown) kill -9 \"$(cat {}/pid)\" ;;", server.data.display());
    server.settings(&server.room.in_place_of("mariadb-admin", &kill));
    let failure = server.quiesce().expect_err("it was not shut down");
    assert!(failure.why.contains("pid is left: it did not end by itself"), "{failure}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_list_or_a_load_that_takes_too_long_is_not_waited_for_beyond_the_deadline() {
    let mut server = Server::new();
    server.start(&[]);
    server.room.without("quiesce.d/50-mariadb-stop");
    // A pool that is large enough to take so long would be too large for a test.
    let cases =
        "*dump_status*) printf 'x\\tDumping at page 1\\n' ;;\n*load_status*) printf 'x\\tLoaded 1/2 pages\\n' ;;";
    let programs = server.room.in_place_of("mariadb", cases);
    server.settings(&format!("MARIADB_KEEP_SECONDS=2\nMARIADB_LOAD_SECONDS=2\n{programs}"));
    let said = server.quiesce().expect("cold is no reason to stop");
    assert!(said.contains("has not listed its pages within 2 s: Dumping at page 1"), "{said}");
    let said = server.trial();
    assert!(said.contains("still loading after the 2 s that were allowed: Loaded 1/2 pages"), "{said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_server_that_a_unit_runs_is_stopped_as_that_unit() {
    let mut server = Server::new();
    server.start(&[]);
    server.room.without("quiesce.d/30-mariadb-warmth");
    let socket = server.socket.display();
    let cases = format!(
        "*is-active*the.service) exit 0 ;;\nstop*the.service) mariadb-admin --no-defaults --socket={socket} shutdown ;;"
    );
    let systemctl = server.room.in_place_of("systemctl", &cases);
    server.settings(&format!("MARIADB_UNIT=the.service\n{systemctl}"));
    let said = server.quiesce().expect("it is stopped");
    assert!(said.contains(": stopped") && server.has_ended(), "{said}");
    // The unit says that it is active, though nothing answers.
    let failure = server.quiesce().expect_err("nobody knows");
    assert!(failure.why.contains("not stopped: it runs, and does not say as which process"), "{failure}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_unit_that_does_not_stop_is_said_and_stops_the_upgrade() {
    let mut server = Server::new();
    server.start(&[]);
    server.room.without("quiesce.d/30-mariadb-warmth");
    let cases = "*is-active*) exit 0 ;;\nstop*) echo Job canceled; exit 1 ;;";
    let systemctl = server.room.in_place_of("systemctl", cases);
    server.settings(&format!("MARIADB_UNIT=the.service\nMARIADB_STOP_SECONDS=2\n{systemctl}"));
    let failure = server.quiesce().expect_err("it still runs");
    assert!(failure.why.contains("Job canceled") && failure.why.contains("is still there after 2 s"), "{failure}");
}
