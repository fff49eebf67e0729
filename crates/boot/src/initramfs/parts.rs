//! The imager's parts, put together for each way in.

use std::path::PathBuf;

use super::{Contents, Source};
use crate::error::Result;
use crate::modules::Modules;

/// Directories that something is mounted on.
const MOUNT_POINTS: [&str; 4] = ["dev", "proc", "run", "sys"];
/// Where job files stand.
pub(super) const JOB: &str = "keepstate";

/// What an imager is made of.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The static binary: ourselves.
    pub binary: PathBuf,
    /// What it has to do: files below `/keepstate`, by name.
    pub job: Vec<(String, Source)>,
    /// The kernel's modules.
    pub modules: &'a Modules,
}

impl Parts<'_> {
    /// For a kernel that starts: it unpacks the archive and runs `/init`.
    pub fn for_kernel(&self) -> Result<Contents> {
        let mut contents = self.common()?;
        contents.file("init", 0o755, Source::File(self.binary.clone()))?;
        // The kernel opens it before anybody could mount /dev; without it, what PID 1 says is lost.
        contents.device("dev/console", 0o600, 5, 1)?;
        contents.device("dev/null", 0o666, 1, 3)?;
        Ok(contents)
    }

    /// For a systemd that ends: it pivots into the tree, moves `/dev`, `/proc`, `/run` and `/sys` along, and runs
    /// `/shutdown` (<https://systemd.io/INITRD_INTERFACE>).
    pub fn for_takeover(&self) -> Result<Contents> {
        let mut contents = self.common()?;
        contents.directory("oldroot", 0o755)?;
        contents.file(crate::takeover::SHUTDOWN, 0o755, Source::File(self.binary.clone()))?;
        // finalrd (Ubuntu) and dracut fill /run/initramfs while the machine shuts down, unless this is there.
        contents.link("bin/sh", "../shutdown")?;
        Ok(contents)
    }

    fn common(&self) -> Result<Contents> {
        let mut contents = Contents::default();
        for path in MOUNT_POINTS {
            contents.directory(path, 0o755)?;
        }
        contents.directory("tmp", 0o1777)?;
        contents.directory(JOB, 0o700)?;
        for (name, source) in &self.job {
            // A job may hold credentials.
            contents.file(&format!("{JOB}/{name}"), 0o600, source.clone())?;
        }
        self.modules.put_into(&mut contents)?;
        Ok(contents)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::*;

    #[test]
    fn each_way_in_finds_what_it_starts_with() {
        let modules = Modules::default();
        let parts = Parts {
            binary: "/usr/bin/keepstate".into(),
            job: vec![("job.json".into(), Source::Bytes(b"{}".to_vec()))],
            modules: &modules,
        };
        let paths = |contents: &Contents| contents.entries().map(|(path, _)| path.to_owned()).collect::<Vec<_>>();
        let common = ["dev", "keepstate", "keepstate/job.json", "keepstate/modules", "keepstate/modules/order"];
        let (kernel, takeover) = (parts.for_kernel().expect("made"), parts.for_takeover().expect("made"));
        for path in common.iter().chain(&["proc", "run", "sys", "tmp"]) {
            assert!(paths(&kernel).contains(&(*path).to_owned()), "{path}");
            assert!(paths(&takeover).contains(&(*path).to_owned()), "{path}");
        }
        let has = |contents: &Contents, path: &str| contents.entries().any(|(one, _)| one == path);
        assert!(has(&kernel, "init") && has(&kernel, "dev/console") && !has(&kernel, "shutdown"));
        assert!(has(&takeover, "shutdown") && has(&takeover, "oldroot") && has(&takeover, "bin/sh"));
        let devices = takeover.entries().filter(|(_, entry)| matches!(entry, Entry::Device { .. })).count();
        assert_eq!(devices, 0, "/dev comes along");
    }

    #[test]
    fn a_job_file_cannot_lie_elsewhere() {
        let modules = Modules::default();
        let job = vec![("../etc/passwd".into(), Source::Bytes(Vec::new()))];
        Parts { binary: "/b".into(), job, modules: &modules }.for_kernel().expect_err("refused");
    }
}
