//! Images that failed their trial on this node: what has failed twice is not tried a third time without being told.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use model::Digest;

use crate::error::{Error, Result};

/// So many failures are one too many to be chance.
const TOO_MANY: u32 = 2;

/// How often each image has failed, by its manifest's digest. Who fails is remembered until he is committed, so the mark of
/// one image never stops another.
type Failures = BTreeMap<String, u32>;

fn read(path: &Path) -> Result<Failures> {
    let failed = |source| Error::File { doing: "reading", path: path.into(), source };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Failures::new()),
        Err(error) => Err(failed(error)),
    }
}

fn write(failures: &Failures, path: &Path) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(failures).expect("only string keys");
    sys::replace_file(path, &bytes).map_err(|source| Error::File { doing: "writing", path: path.into(), source })
}

/// Notes that an image has failed its trial.
pub(crate) fn note(path: &Path, manifest: &Digest) -> Result<()> {
    let mut failures = read(path)?;
    *failures.entry(manifest.to_string()).or_default() += 1;
    write(&failures, path)
}

/// Forgets an image's failures: it was kept after all.
pub(crate) fn forget(path: &Path, manifest: &Digest) -> Result<()> {
    let mut failures = read(path)?;
    if failures.remove(&manifest.to_string()).is_some() {
        write(&failures, path)?;
    }
    Ok(())
}

/// Refuses an image that has failed too often.
pub(crate) fn check(path: &Path, manifest: &Digest, image: &str) -> Result<()> {
    match read(path)?.get(&manifest.to_string()) {
        Some(&count) if count >= TOO_MANY => Err(Error::Refused(format!(
            "{image} has failed its trial on this node {count} times: look into `keepstate node status`, take another image, or say `--again`"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_twice_is_refused_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("failures.json");
        let (bad, good) = (Digest([1; 32]), Digest([2; 32]));
        for _ in 0..2 {
            check(&path, &bad, "debian@2").unwrap();
            note(&path, &bad).unwrap();
        }
        let refusal = check(&path, &bad, "debian@2").unwrap_err().to_string();
        assert!(refusal.contains("debian@2") && refusal.contains("--again"), "{refusal}");
        check(&path, &good, "debian@3").unwrap();
        forget(&path, &good).unwrap();
        forget(&path, &bad).unwrap();
        check(&path, &bad, "debian@2").unwrap();
        fs::write(&path, "{").unwrap();
        assert!(check(&path, &good, "debian@3").is_err(), "what cannot be read is no yes");
    }
}
