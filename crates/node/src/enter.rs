//! Entering the imager: its program and its job are put into memory, and the machine is asked to restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use boot::Host;
use boot::initramfs::{Parts, Source};
use boot::modules::Modules;
use boot::takeover::{Facts, Takeover};
use imager::Job;
use imager::job::{FORMAT, Task};
use steps::Failure;

use crate::config::Config;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::identity::Bundle;
use crate::place::Place;
use crate::record::Record;

/// This program, which goes into memory.
pub const PROGRAM: &str = "/proc/self/exe";
/// Name of the file with the certificates that the node believes, beside the job.
const CERTIFICATES: &str = "certificates.pem";
/// Name of the file with what the node keeps, as [`imager::IDENTITY`] has it.
const IDENTITY: &str = "identity.tar";

/// The job that does `task` for the upgrade, with what says how the store is reached.
pub(crate) fn job(task: Task, record: &Record, config: &Config, environment: Environment) -> Result<Job> {
    let place = Place::at(&config.place);
    let path = "/proc/self/mountinfo";
    let mountinfo =
        fs::read_to_string(path).map_err(|source| Error::File { doing: "reading", path: path.into(), source })?;
    let (mount, there) = place.in_imager(&mountinfo)?;
    Ok(Job {
        format: FORMAT,
        upgrade: record.id.clone(),
        task,
        disk: record.disk.clone(),
        manifest: record.manifest,
        mounts: vec![mount],
        stage: there.stage(),
        undo: Some(flash::Place { path: there.undo(), region: None }),
        undo_tail: false,
        trace: record.trace.clone(),
        results: there.directory().into(),
        environment: in_imager(environment),
        network: imager::network::capture(Path::new("/")).map_err(Error::Network)?,
        deadline_seconds: config.imager.deadline_seconds,
    })
}

/// The same, with the certificates where the imager has them.
fn in_imager(mut environment: Environment) -> Environment {
    let certificates = format!("{}/{CERTIFICATES}", imager::FILES);
    if let Some(bundle) = environment.get_mut("AWS_CA_BUNDLE") {
        bundle.clone_from(&certificates);
    }
    environment.remove("SSL_CERT_DIR");
    environment.insert("SSL_CERT_FILE".into(), certificates);
    environment
}

/// The certificates that this node believes, of which the imager takes one file along: by what the environment says, or
/// where distributions put them.
fn certificates() -> Option<PathBuf> {
    const PLACES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let named = ["AWS_CA_BUNDLE", "SSL_CERT_FILE"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    named.chain(PLACES.map(PathBuf::from)).find(|path| path.is_file())
}

/// Puts program and job where systemd hands over to them at the end of its shutdown. Changes nothing on any disk.
pub fn arm(job: &Job, identity: &Bundle) -> Result<()> {
    let job = Source::Bytes(job.to_bytes());
    let name = imager::JOB.rsplit('/').next().unwrap_or_default();
    // The kernel stays the same, and has loaded what this machine needs.
    let modules = Modules::default();
    let certificates = certificates().map(|path| (CERTIFICATES.to_owned(), Source::File(path)));
    let identity =
        (!identity.archive.is_empty()).then(|| (IDENTITY.to_owned(), Source::Bytes(identity.archive.clone())));
    let files = std::iter::once((name.to_owned(), job)).chain(certificates).chain(identity).collect();
    let parts = Parts { binary: PROGRAM.into(), job: files, modules: &modules };
    Ok(Takeover::new(&Host::here()).put(&parts.for_takeover()?)?)
}

/// Takes away what [`arm`] has put there.
pub fn disarm() -> Result<()> {
    Ok(Takeover::new(&Host::here()).take_away()?)
}

/// Why takeover cannot work on this machine, if it cannot.
pub fn check(memory_needed: u64) -> Result<(), String> {
    let facts = Facts::read(&Host::here()).map_err(|error| imager::worker::chain(&error))?;
    facts.check(memory_needed).map_err(|why| why.to_string())
}

/// Asks systemd for an orderly restart. Returns at once; what is left of this process ends with the OS.
pub fn restart() -> Result<(), Failure> {
    let output = Command::new("systemctl").args(["--no-block", "reboot"]).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(Failure::last(format!("systemctl reboot: {}", String::from_utf8_lossy(&output.stderr).trim())))
        }
        Err(error) => Err(Failure::last(format!("running systemctl reboot: {error}"))),
    }
}
