//! What the imager is given: its job, and what stands beside its program.

use std::fs;
use std::path::{Path, PathBuf};

use boot::initramfs::Source;
use imager::Job;
use imager::job::{Entry, FORMAT, Task};

use crate::access::Operators;
use crate::entrance::Files;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::identity::Bundle;
use crate::node::Node;
use crate::record::Record;

/// This program, which goes into memory.
pub const PROGRAM: &str = "/proc/self/exe";
/// Name of the file with the certificates that the node believes, beside the job.
const CERTIFICATES: &str = "certificates.pem";
/// Name of the file with what the node keeps, as [`imager::IDENTITY`] has it.
const IDENTITY: &str = "identity.tar";

/// What the imager is given besides program and modules.
#[derive(Clone, Debug)]
pub struct Given {
    /// What it has to do.
    pub job: Job,
    /// What the node keeps of itself.
    pub identity: Bundle,
    /// Who will get in.
    pub operators: Operators,
}

impl Given {
    /// As files beside the program: the job, what is kept, the certificates that the node believes, and the keys of operators
    /// and node.
    pub(crate) fn files(&self) -> Files {
        let name = imager::JOB.rsplit('/').next().unwrap_or_default();
        let certificates = certificates().map(|path| (CERTIFICATES.to_owned(), Source::File(path)));
        let kept = &self.identity.archive;
        let identity = (!kept.is_empty()).then(|| (IDENTITY.to_owned(), Source::Bytes(kept.clone())));
        let job = (name.to_owned(), Source::Bytes(self.job.to_bytes()));
        std::iter::once(job).chain(certificates).chain(identity).chain(self.operators.files()).collect()
    }
}

/// The job that does `task` for the upgrade, in an imager that is entered by `entry`, with what says how the store is
/// reached and who gets in.
pub(crate) fn job(
    task: Task,
    entry: Entry,
    record: &Record,
    node: &Node,
    environment: Environment,
    operators: &Operators,
) -> Result<Job> {
    let Node { config, place, .. } = node;
    let path = "/proc/self/mountinfo";
    let mountinfo =
        fs::read_to_string(path).map_err(|source| Error::File { doing: "reading", path: path.into(), source })?;
    let behind = config.place.ground()?.and_then(|ground| ground.behind());
    let (mount, there) = place.in_imager(&mountinfo, behind)?;
    Ok(Job {
        format: FORMAT,
        upgrade: record.id.clone(),
        task,
        entry,
        exit: config.exit,
        disk: record.disk.clone(),
        manifest: record.manifest,
        mounts: vec![mount],
        // An undo comes after the imager whose memory held the content.
        stage: if task == Task::Flash { there.content() } else { there.stage() },
        undo: Some(flash::Place { path: there.undo(), region: None }),
        undo_tail: false,
        trace: record.trace.clone(),
        results: there.directory().into(),
        environment: in_imager(environment),
        network: imager::network::capture(Path::new("/")).map_err(Error::Network)?,
        access: operators.access,
        deadline_seconds: config.imager.deadline_seconds,
        watchdog_seconds: config.imager.watchdog_seconds,
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
