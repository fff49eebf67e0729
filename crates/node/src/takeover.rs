//! provisional
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Cannot(String),
    #[error("preparing {path}", path = path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}
pub struct Roots {
    run: PathBuf,
    proc: PathBuf,
}
impl Roots {
    pub fn here() -> Self {
        Self { run: "/run/initramfs".into(), proc: "/proc".into() }
    }
}
const MARK: &str = "keepstate";
pub fn check(roots: &Roots) -> Result<(), Error> {
    let init = fs::read_to_string(roots.proc.join("1/comm")).unwrap_or_default();
    if init.trim() != "systemd" {
        return Err(Error::Cannot(format!("PID 1 is {:?}, not systemd", init.trim())));
    }
    if roots.run.join("shutdown").exists() && !roots.run.join(MARK).exists() {
        return Err(Error::Cannot("another initramfs waits for the shutdown already".into()));
    }
    Ok(())
}
pub fn arm(roots: &Roots, program: &[u8], files: &[(&str, &[u8])]) -> Result<(), Error> {
    check(roots)?;
    disarm(roots)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    fs::create_dir_all(&roots.run).map_err(io(&roots.run))?;
    rustix::mount::mount("keepstate", &roots.run, "tmpfs", rustix::mount::MountFlags::NOSUID, c"mode=755")
        .map_err(|e| io(&roots.run)(e.into()))?;
    for d in ["proc", "sys", "dev", "run", "tmp", "oldroot", "etc", "place", MARK] {
        let d = roots.run.join(d);
        fs::create_dir_all(&d).map_err(io(&d))?;
    }
    for (path, bytes) in files {
        let path = roots.run.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).map_err(io(&path))?;
        fs::write(&path, bytes).map_err(io(&path))?;
    }
    let shutdown = roots.run.join("shutdown");
    fs::write(&shutdown, program).map_err(io(&shutdown))?;
    fs::set_permissions(&shutdown, fs::Permissions::from_mode(0o755)).map_err(io(&shutdown))
}
pub fn disarm(roots: &Roots) -> Result<(), Error> {
    if roots.run.join(MARK).exists() {
        rustix::mount::unmount(&roots.run, rustix::mount::UnmountFlags::DETACH)
            .map_err(|e| Error::Io { path: roots.run.clone(), source: e.into() })?;
    }
    Ok(())
}
