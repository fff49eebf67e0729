//! `PostgreSQL`'s shared buffers across a stop and a start.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use keepstate_node::hooks::Moment;
use rustix::process::Signal;

use crate::cluster::{Cluster, NAME, OTHER};
use crate::room::{good, signal, wait_until};

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn what_the_buffers_of_two_databases_held_is_back_and_no_more() {
    let cluster = Cluster::new("");
    cluster.start();
    let databases = ["one", "a 'quoted\" =name"];
    cluster.fill(databases[0], &["pg_buffercache", "pg_prewarm"]);
    cluster.query("postgres", r#"create database "a 'quoted"" =name" template one"#);
    // Only parts of the tables are warm.
    cluster.restart();
    let parts =
        "select pg_prewarm('warm', 'buffer', 'main', first, first + 99) from generate_series(0, 2400, 200) as first";
    let warm = databases.map(|database| {
        cluster.query(database, parts);
        cluster.pages(database)
    });
    assert!(warm.iter().all(|pages| *pages >= 1300), "{warm:?}");

    let said = cluster.quiesce();
    assert!(said.contains("pages are kept, in ") && said.contains(": stopped"), "{said}");
    assert_eq!(cluster.process(), None);
    cluster.start();
    assert_eq!(databases.map(|database| cluster.pages(database)), [0, 0], "a new process, with cold buffers");
    let said = cluster.trial();
    let again = databases.map(|database| cluster.pages(database));
    assert_eq!(again, warm, "{said}");
    assert!(said.contains(" pages are back") && !said.contains("ERROR"), "{said}");

    // The list outlasts the trial: the old OS, called back, is as warm.
    cluster.restart();
    assert_eq!(databases.map(|database| cluster.pages(database)), [0, 0]);
    cluster.room.run(Moment::RolledBack).expect("cold buffers are no failure");
    assert_eq!(databases.map(|database| cluster.pages(database)), warm);
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_list_is_bounded_and_has_the_longest_runs() {
    let cluster = Cluster::new("");
    cluster.start();
    cluster.fill("one", &["pg_buffercache", "pg_prewarm"]);
    cluster.settings("POSTGRESQL_RUNS_MAX=2");
    let said = cluster.quiesce();
    assert!(said.contains("pages are kept, in 2 runs"), "{said}");
    cluster.start();
    cluster.trial();
    assert!(cluster.pages("one") > 2500, "its table is the longest run");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn buffers_that_cannot_be_listed_leave_no_list() {
    let cluster = Cluster::new("");
    cluster.start();
    cluster.query("postgres", "create extension pg_buffercache");
    cluster.settings("POSTGRESQL_RUNS_MAX=-1");
    let said = cluster.quiesce();
    assert!(said.contains("keeps nothing: its buffers could not be listed"), "{said}");
    assert_eq!(fs::read_dir(cluster.room.lists()).expect("listed").count(), 0);
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn autoprewarm_that_takes_too_long_is_not_waited_for_beyond_the_deadline() {
    let cluster = Cluster::new("shared_preload_libraries = 'pg_prewarm'\nmax_prepared_transactions = 1");
    cluster.start();
    cluster.fill("one", &["pg_buffercache"]);
    // Its lock outlasts the restart: autoprewarm has to wait for it.
    cluster.query("one", "begin; lock table warm in access exclusive mode; prepare transaction 'holder'");
    cluster.quiesce();
    cluster.start();
    cluster.settings("POSTGRESQL_LOAD_SECONDS=5");
    let begin = Instant::now();
    let said = cluster.trial();
    assert!(said.contains("autoprewarm is still loading its "), "{said}");
    assert!(said.contains("the 5 s that were allowed are over"), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn where_autoprewarm_is_on_its_own_list_is_written_and_its_load_is_waited_for() {
    let cluster = Cluster::new("shared_preload_libraries = 'pg_prewarm'");
    cluster.start();
    cluster.fill("one", &["pg_buffercache", "pg_prewarm"]);
    let warm = cluster.pages("one");
    assert!(warm > 2500, "{warm}");
    let said = cluster.quiesce();
    assert!(said.contains("autoprewarm keeps "), "{said}");
    assert!(!cluster.room.lists().join("postgresql").exists(), "no list of ours is needed");
    cluster.start();
    let said = cluster.trial();
    let again = cluster.pages("one");
    assert!(said.contains("autoprewarm has loaded its list of "), "{said}");
    assert!(again * 100 >= warm * 95, "{again} of {warm}: {said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn where_autoprewarm_is_loaded_without_its_extension_the_stop_keeps_the_list() {
    let cluster = Cluster::new("shared_preload_libraries = 'pg_prewarm'");
    cluster.start();
    cluster.fill("one", &["pg_buffercache"]);
    let warm = cluster.pages("one");
    let said = cluster.quiesce();
    assert!(said.contains("autoprewarm keeps its list when the cluster stops"), "{said}");
    cluster.start();
    let said = cluster.trial();
    let again = cluster.pages("one");
    assert!(again * 100 >= warm * 95, "{again} of {warm}: {said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_table_that_is_gone_or_shorter_and_lines_that_are_no_runs_are_passed_over() {
    let cluster = Cluster::new("");
    cluster.start();
    for database in ["one", "two", "three"] {
        cluster.fill(database, &["pg_buffercache", "pg_prewarm"]);
    }
    cluster.quiesce();
    cluster.start();
    cluster.query("one", "drop table warm");
    cluster.query("two", "delete from warm where id > 45000");
    cluster.query("two", "vacuum (truncate) warm");
    let short: u64 = cluster.query("two", "select pg_relation_size('warm') / 8192").parse().expect("a number");
    assert!(short < 2000, "{short}");
    cluster.query("three", "drop extension pg_prewarm");
    cluster.query("postgres", "create database four");
    cluster.restart();
    let list = cluster.room.lists().join(format!("postgresql-{}-{NAME}", cluster.version));
    let text = fs::read_to_string(&list).expect("the list");
    let torn = format!("9; drop database four\nx\n1 2 3 4 5 6\n{text}16384 1663 99");
    fs::write(&list, torn).expect("written");

    let said = cluster.trial();
    assert!(said.contains("without the extension pg_prewarm, these databases stay cold:"), "{said}");
    assert!(said.contains(" pages are back") && !said.contains("ERROR"), "{said}");
    assert!(cluster.pages("two") >= short * 95 / 100, "{said}");
    assert_eq!(cluster.pages("three"), 0);
    assert_eq!(cluster.query("postgres", "select count(*) from pg_database where datname = 'four'"), "1");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn without_the_extension_that_is_said_and_a_list_of_an_earlier_upgrade_is_not_loaded() {
    let cluster = Cluster::new("");
    cluster.start();
    let list = cluster.room.lists().join(format!("postgresql-{}-{NAME}", cluster.version));
    fs::create_dir(cluster.room.lists()).expect("made");
    fs::write(&list, "5 1663 1255 0 0 9\n").expect("written");
    let said = cluster.quiesce();
    assert!(said.contains("autoprewarm is off, and no database has the extension pg_buffercache"), "{said}");
    assert!(!list.exists());
    cluster.start();
    let said = cluster.trial();
    assert!(said.contains("nothing was kept of it"), "{said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_list_that_would_stand_on_the_root_is_not_made() {
    let cluster = Cluster::new("");
    cluster.start();
    cluster.query("postgres", "create extension pg_buffercache");
    cluster.settings("KEEPSTATE_WARMTH_DIRECTORY=/etc");
    let said = cluster.quiesce();
    assert!(said.contains("/etc stands on the root, which is about to be replaced"), "{said}");
    assert!(said.contains("keeps nothing: there is no directory for its list"), "{said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_cluster_that_does_not_run_is_named_and_stops_nothing() {
    let cluster = Cluster::new("");
    let said = cluster.quiesce();
    assert!(said.contains("does not run (down): nothing is kept"), "{said}");
    let said = cluster.trial();
    assert!(said.contains("does not run (down), and stays cold"), "{said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn every_cluster_is_asked_and_stopped() {
    let cluster = Cluster::new("");
    cluster.start();
    let (data, sockets) = (cluster.room.path("other"), cluster.room.path("sockets"));
    let mut create = cluster.tool("pg_createcluster");
    create.arg("-d").arg(data).arg("-s").arg(&sockets).arg("-l").arg(sockets.join("other.log")).args(["-p", "5500"]);
    good(create.args(["-u", "postgres", "--start", &cluster.version, OTHER, "--", "--auth=trust", "--no-sync"]));
    cluster.query("postgres", "create extension pg_buffercache");
    let said = cluster.quiesce();
    assert!(said.contains("/warm: ") && said.contains(" pages are kept"), "{said}");
    assert!(said.contains("/other: keeps nothing"), "{said}");
    assert!(said.contains("/warm: stopped") && said.contains("/other: stopped"), "{said}");
    cluster.start();
    let said = cluster.trial();
    assert!(said.contains(" pages are back") && said.contains("/other: does not run (down), and stays cold"), "{said}");
}

/// A session that holds the table until its input ends.
fn lock(cluster: &Cluster) -> Child {
    use std::io::Write;
    let mut child = cluster.psql("one").stdin(Stdio::piped()).spawn().expect("psql");
    let input = child.stdin.as_mut().expect("piped");
    input.write_all(b"begin; lock table warm in access exclusive mode;\n").expect("it listens");
    let held =
        "select count(*) from pg_locks where relation = 'warm'::regclass and mode = 'AccessExclusiveLock' and granted";
    wait_until("the table is locked", || cluster.query("one", held) == "1");
    child
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_load_that_takes_too_long_ends_at_its_deadline_with_what_it_has() {
    let cluster = Cluster::new("");
    cluster.start();
    cluster.fill("one", &["pg_buffercache", "pg_prewarm"]);
    cluster.quiesce();
    cluster.start();
    cluster.settings("POSTGRESQL_LOAD_SECONDS=3");
    let mut holder = lock(&cluster);
    let begin = Instant::now();
    let said = cluster.trial();
    assert!(said.contains("the 3 s that were allowed are over"), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(holder.stdin.take());
    holder.wait().expect("it ends");
    // Nothing of the hook is left in the server.
    let left = "select count(*) from pg_stat_activity where query like '%pg_prewarm%' and pid <> pg_backend_pid()";
    wait_until("the load has ended in the server, too", || cluster.query("one", left) == "0");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_cluster_that_hangs_is_not_taken_for_stopped() {
    let cluster = Cluster::new("");
    cluster.start();
    let process = cluster.process().expect("it runs");
    cluster.settings("POSTGRESQL_KEEP_SECONDS=2\nPOSTGRESQL_LOAD_SECONDS=2\nPOSTGRESQL_STOP_SECONDS=2");
    signal(process, Signal::STOP);
    let stopped = cluster.room.run(Moment::Quiesce);
    let said = cluster.room.run(Moment::Trial);
    signal(process, Signal::CONT);
    let failure = stopped.expect_err("it did not stop");
    assert!(failure.why.contains("50-postgresql-stop ended with code 1"), "{failure}");
    assert!(failure.why.contains(&format!("its process {process} is still there")), "{failure}");
    let said = said.expect("a trial never fails for cold buffers");
    assert!(said.contains("stays cold"), "{said}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_cluster_that_was_killed_instead_of_stopped_is_not_taken_for_well_stopped() {
    let cluster = Cluster::new("");
    cluster.start();
    cluster.room.without("quiesce.d/30-postgresql-warmth");
    // Something else that ends it the hard way while the hook waits.
    let kill = format!("*stop) exec /usr/bin/pg_ctlcluster -m immediate {} {NAME} stop ;;", cluster.version);
    cluster.settings(&cluster.room.in_place_of("pg_ctlcluster", &kill));
    let failure = cluster.room.run(Moment::Quiesce).expect_err("it was not shut down");
    assert!(failure.why.contains("its control file says: in production"), "{failure}");
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn a_cluster_that_lets_nobody_in_is_named_at_once_and_stops_nothing() {
    let cluster = Cluster::new("");
    fs::write(cluster.configuration("pg_hba.conf"), "local all all reject\n").expect("written");
    cluster.start();
    let said = cluster.quiesce();
    assert!(said.contains("cannot be asked: nothing is kept") && said.contains(": stopped"), "{said}");
    cluster.start();
    let begin = Instant::now();
    let said = cluster.trial();
    assert!(said.contains("cannot be asked, and stays cold"), "{said}");
    assert!(begin.elapsed() < Duration::from_mins(1), "{:?}", begin.elapsed());
}

#[test]
#[ignore = "needs root, PostgreSQL and MariaDB: run by ./test"]
fn where_clusters_cannot_be_listed_none_is_taken_for_stopped() {
    let cluster = Cluster::new("");
    cluster.settings(&cluster.room.in_place_of("pg_lsclusters", "*) exit 2 ;;"));
    let said = cluster.trial();
    assert!(said.contains("its clusters cannot be listed, and stay cold"), "{said}");
    let failure = cluster.room.run(Moment::Quiesce).expect_err("nobody knows what runs");
    assert!(failure.why.contains("so it is not known what runs"), "{failure}");
}
