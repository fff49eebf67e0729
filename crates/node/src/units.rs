//! What the trial asks of systemd, or of init scripts where PID 1 is another, and of ports.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use steps::Failure;
use sys::mountinfo;

use crate::commands::{self, Ended};
use crate::machine::Machine;
use crate::surroundings;

/// Between two looks at what is not ready yet.
const PAUSE: Duration = Duration::from_millis(200);
/// Where units stand, those of people and those that others have generated.
const FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Before a unit is started again whose start failed. By default systemd refuses what was started five times within ten seconds.
pub(crate) const AGAIN_AFTER: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 3000 });
/// What `systemctl` and init scripts end with where there is nothing to start (`systemctl(1)`; LSB 5.0, section 22.2).
const NOT_INSTALLED: i32 = 5;

/// How long an init script may take to say whether its service runs.
const SAID_WITHIN: Duration = Duration::from_secs(10);

/// Starts a unit, until `end` at most.
pub(crate) fn start(machine: &Machine, unit: &str, end: Instant) -> Result<(), Failure> {
    if machine.host().is_systemd() {
        return run(Command::new("systemctl").args(["start", unit]), end);
    }
    run(Command::new("service").args([service(unit), "start"]), end)
}

/// Starts a unit, again for as long as that may still come to something: at boot it may wait for what comes a little later.
pub(crate) fn bring_up(machine: &Machine, unit: &str, end: Instant) -> Result<(), Failure> {
    until_up(|| start(machine, unit, end), end)
}

fn until_up(mut start: impl FnMut() -> Result<(), Failure>, end: Instant) -> Result<(), Failure> {
    loop {
        match start() {
            Err(failure) if failure.again && Instant::now() + AGAIN_AFTER < end => {
                tracing::info!(%failure, "it is started again");
                thread::sleep(AGAIN_AFTER);
            }
            done => return done,
        }
    }
}

/// The init script that is a unit where no systemd is.
pub(crate) fn script(unit: &str) -> PathBuf {
    Path::new("/etc/init.d").join(service(unit))
}

/// What `service` calls it.
fn service(unit: &str) -> &str {
    unit.strip_suffix(".service").unwrap_or(unit)
}

/// Runs a command, until `end` at most.
fn run(command: &mut Command, end: Instant) -> Result<(), Failure> {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let spawned = command.stdin(Stdio::null()).spawn();
    let mut child = spawned.map_err(|error| Failure::last(format!("running {words}: {error}")))?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                return Err(Failure { why: format!("{words}: {status}"), again: status.code() != Some(NOT_INSTALLED) });
            }
            Ok(None) if Instant::now() < end => thread::sleep(PAUSE),
            Ok(None) => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(Failure::last(format!("{words} did not end in time")));
            }
            Err(error) => return Err(Failure::last(format!("waiting for {words}: {error}"))),
        }
    }
}

/// Which of these units are not active, each in a few words.
pub(crate) fn inactive(machine: &Machine, units: &[String]) -> Result<Vec<String>, Failure> {
    if units.is_empty() {
        return Ok(Vec::new());
    }
    if !machine.host().is_systemd() {
        return Ok(units.iter().filter_map(|unit| says_no(unit).err()).map(|failure| failure.why).collect());
    }
    let output = Command::new("systemctl").arg("is-active").args(units).stdin(Stdio::null()).output();
    let output = output.map_err(|error| Failure::last(format!("running systemctl is-active: {error}")))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut states = said.lines().chain(std::iter::repeat("unknown"));
    let of = |unit: &String| (unit.clone(), states.next().unwrap_or_default().to_owned());
    let states: Vec<_> = units.iter().map(of).collect();
    Ok(states
        .into_iter()
        .filter(|(_, state)| state != "active")
        .map(|(unit, state)| format!("{unit} is {state}"))
        .collect())
}

/// Asks an init script whether its service runs; an error if it does not, or if there is no such script.
fn says_no(unit: &str) -> Result<(), Failure> {
    let asked = format!("service {} status", service(unit));
    let mut command = Command::new("service");
    command.args([service(unit), "status"]);
    match commands::run(&mut command, Vec::new(), Instant::now() + SAID_WITHIN) {
        Ok(Ended { status: Some(status), .. }) if status.success() => Ok(()),
        Ok(Ended { status: Some(status), said }) => Err(Failure::last(format!("{asked}: {status}: {said}"))),
        Ok(Ended { status: None, .. }) => Err(Failure::last(format!("{asked} did not end in time"))),
        Err(error) => Err(Failure::last(format!("running {asked}: {error}"))),
    }
}

/// Waits until somebody listens at a port of this node, at whichever of its addresses: many datastores listen at one only.
pub(crate) fn wait_for_port(port: u16, end: Instant) -> Result<(), Failure> {
    let answers =
        |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::from((ip, port)), Duration::from_secs(2)).map(drop);
    loop {
        // Asked anew each time: an address may come later than its datastore.
        let own = surroundings::addresses().unwrap_or_default();
        let Err(error) = answers(Ipv4Addr::LOCALHOST.into()) else { return Ok(()) };
        if [IpAddr::from(Ipv6Addr::LOCALHOST)].into_iter().chain(own).any(|ip| answers(ip).is_ok()) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Failure::last(format!("port {port} does not answer at any of this node's addresses: {error}")));
        }
        thread::sleep(PAUSE);
    }
}

/// Whether `path` is not there, and something is still to be mounted above it. Where all is mounted, nothing more will come:
/// a node that was never upgraded has no place.
pub(crate) fn is_mount_expected(machine: &Machine, path: &Path) -> bool {
    if machine.path(path).exists() {
        return false;
    }
    let mounts = mountinfo::parse(&fs::read_to_string(machine.path("/proc/self/mountinfo")).unwrap_or_default());
    let is_mounted = |point: &Path| mounts.iter().any(|mount| mount.point == point);
    let is_unit = |unit: &str| FOLDERS.iter().any(|folder| machine.path(folder).join(unit).exists());
    let mut above = path.ancestors().filter(|above| above.parent().is_some());
    above.any(|above| !is_mounted(above) && is_unit(&mount_unit(above)))
}

/// The name of the unit that mounts something at `path` (`systemd-escape --path`).
fn mount_unit(path: &Path) -> String {
    let parts = path.as_os_str().as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    let mut name = String::new();
    for byte in parts.collect::<Vec<_>>().join(&b'/') {
        match byte {
            b'/' => name.push('-'),
            b'.' if name.is_empty() => name.push_str("\\x2e"),
            byte if byte.is_ascii_alphanumeric() || b":_.".contains(&byte) => name.push(char::from(byte)),
            byte => {
                // Writing to a string cannot fail.
                let _ = write!(name, "\\x{byte:02x}");
            }
        }
    }
    name + ".mount"
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_answers_is_found_and_one_that_does_not_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        wait_for_port(port, Instant::now()).unwrap();
        drop(listener);
        let failure = wait_for_port(port, Instant::now()).unwrap_err();
        assert!(failure.why.contains(&format!("port {port} does not answer")), "{failure}");
    }

    #[test]
    fn a_port_answers_at_whichever_address_its_datastore_listens() {
        let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        addresses.extend(surroundings::addresses().unwrap());
        // Where the machine has no IPv6, nobody can listen there.
        let listeners: Vec<_> = addresses.into_iter().filter_map(|ip| TcpListener::bind((ip, 0)).ok()).collect();
        assert!(!listeners.is_empty());
        for listener in listeners {
            wait_for_port(listener.local_addr().unwrap().port(), Instant::now()).unwrap();
        }
    }

    /// A datastore whose first start at boot failed, and which systemd would have restarted, failed the trial at once.
    #[test]
    fn a_unit_whose_first_start_fails_is_started_again_until_the_trial_ends() {
        let end = Instant::now() + Duration::from_mins(1);
        let mut starts = 0;
        let fails_twice = || {
            starts += 1;
            run(Command::new("sh").args(["-c", &format!("test {starts} = 3")]), end)
        };
        until_up(fails_twice, end).unwrap();
        assert_eq!(starts, 3);
        let mut starts = 0;
        let is_none = || {
            starts += 1;
            run(Command::new("sh").args(["-c", "exit 5"]), end)
        };
        assert!(until_up(is_none, end).unwrap_err().why.contains("exit status: 5"));
        assert_eq!(starts, 1, "a unit that is not there does not come");
        let soon = Instant::now() + Duration::from_millis(100);
        let failure = until_up(|| run(&mut Command::new("false"), soon), soon).unwrap_err();
        assert!(failure.why.starts_with("false: ") && Instant::now() < end, "{failure}");
    }

    #[test]
    fn a_mount_is_known_by_the_name_of_its_unit() {
        assert_eq!(mount_unit(Path::new("/data")), "data.mount");
        assert_eq!(mount_unit(Path::new("/srv/my-data/a b")), "srv-my\\x2ddata-a\\x20b.mount");
        assert_eq!(mount_unit(Path::new("/.hidden/x.y")), "\\x2ehidden-x.y.mount");
    }

    #[test]
    fn a_place_that_is_not_there_is_waited_for_only_where_something_is_to_be_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::below(folder.path());
        let place = Path::new("/data/keepstate");
        assert!(!is_mount_expected(&machine, place), "this node was never upgraded");
        fs::create_dir_all(machine.path("/run/systemd/generator")).unwrap();
        fs::write(machine.path("/run/systemd/generator/data.mount"), "").unwrap();
        assert!(is_mount_expected(&machine, place));
        fs::create_dir_all(machine.path("/proc/self")).unwrap();
        let mounted = "21 20 254:17 / /data rw - ext4 /dev/vdb1 rw\n";
        fs::write(machine.path("/proc/self/mountinfo"), mounted).unwrap();
        assert!(!is_mount_expected(&machine, place), "all is mounted, and there is no place on it");
        fs::write(machine.path("/proc/self/mountinfo"), mounted.replace("/data", "/other")).unwrap();
        assert!(is_mount_expected(&machine, place), "something else is mounted");
        fs::create_dir_all(machine.path(place)).unwrap();
        assert!(!is_mount_expected(&machine, place), "it is there");
    }
}
