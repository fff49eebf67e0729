//! The files that a device's driver hands to the device, found where the kernel looks for them.

use std::path::{Path, PathBuf};

use super::file::COMPRESSED;
use super::pattern::matches;
use crate::error::Result;
use crate::host::{self, Host};

/// A firmware file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// As the driver names it: `bnx2x/bnx2x-e2-7.13.21.0.fw`.
    pub name: String,
    /// Where it stands; perhaps compressed.
    pub file: PathBuf,
}

/// Every file that `wanted` names: a name, or a pattern in its last part. Drivers name more than one distribution ships,
/// so none may be there.
pub(super) fn find(host: &Host, release: &str, own: Option<&str>, wanted: &str) -> Result<Vec<Firmware>> {
    let is_safe = !wanted.is_empty() && !wanted.starts_with('/') && wanted.split('/').all(|part| part != "..");
    // The kernel's own order (`fw_path` of drivers/base/firmware_loader/main.c).
    let directories = own.map(PathBuf::from).into_iter().chain(
        [format!("updates/{release}"), "updates".into(), release.into(), String::new()]
            .map(|below| Path::new("/lib/firmware").join(below)),
    );
    let mut found: Vec<Firmware> = Vec::new();
    for directory in directories.filter(|_| is_safe) {
        let directory = host.path(directory);
        let wanted = Path::new(wanted);
        let (folder, last) = (wanted.parent().unwrap_or(wanted), wanted.file_name().unwrap_or_default());
        let last = last.to_string_lossy();
        for path in candidates(&directory.join(folder), &last)? {
            let Some(name) = path.strip_prefix(&directory).ok().and_then(name) else { continue };
            let is_it = matches(&last, Path::new(&name).file_name().unwrap_or_default().to_str().unwrap_or_default());
            if is_it && path.is_file() && found.iter().all(|one| one.name != name) {
                found.push(Firmware { name, file: path });
            }
        }
    }
    Ok(found)
}

/// Files that could have the name: looked for one by one, because firmware directories hold thousands.
fn candidates(folder: &Path, last: &str) -> Result<Vec<PathBuf>> {
    if last.contains(['*', '?', '[']) {
        return host::entries(folder);
    }
    let compressed = COMPRESSED.iter().map(|ending| folder.join(format!("{last}.{ending}")));
    Ok(std::iter::once(folder.join(last)).chain(compressed).filter(|path| path.exists()).collect())
}

/// A file's name as drivers know it: without the ending of what it is compressed with.
fn name(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let is_compressed =
        path.extension().is_some_and(|ending| COMPRESSED[..2].contains(&ending.to_str().unwrap_or_default()));
    Some(if is_compressed { text.rsplit_once('.')?.0.to_owned() } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn firmware_is_found_where_the_kernel_looks_first() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::below(root.path());
        let files =
            ["lib/firmware/a/b.fw", "lib/firmware/updates/a/b.fw.xz", "lib/firmware/c.bin.zst", "lib/firmware/6.1/d1"];
        for file in files.iter().chain(&["lib/firmware/d2.xz", "lib/firmware/e", "opt/fw/e"]) {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, "x").expect("written");
        }
        let names = |wanted: &str, own: Option<&str>| {
            let found = find(&host, "6.1", own, wanted).expect("looked");
            let shown = found.into_iter().map(|one| format!("{} {}", one.name, host.inside(&one.file).display()));
            shown.collect::<Vec<_>>()
        };
        assert_eq!(names("a/b.fw", None), ["a/b.fw /lib/firmware/updates/a/b.fw.xz"]);
        assert_eq!(names("c.bin", None), ["c.bin /lib/firmware/c.bin.zst"]);
        assert_eq!(names("d?", None), ["d1 /lib/firmware/6.1/d1", "d2 /lib/firmware/d2.xz"]);
        assert_eq!(names("e", Some("/opt/fw")), ["e /opt/fw/e"]);
        for none in ["f", "", "../../etc/passwd", "/etc/passwd", "a"] {
            assert_eq!(names(none, None), Vec::<String>::new(), "{none}");
        }
    }
}
