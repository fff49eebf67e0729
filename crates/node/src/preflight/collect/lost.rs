//! What the upgrade takes away: files that no package owns, and those that are not as their package brought them.

use std::fs;
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sys::Pace;

use crate::machine::Machine;
use crate::packages::{Packages, md5_of};
use crate::preflight::Lost;

/// More are not listed: nobody reads them one by one.
const LISTED_MAX: usize = 10_000;
/// The node serves meanwhile. A choice, not a measurement: what a small cloud volume can give with room left for others.
const BYTES_PER_SECOND: NonZeroU64 = NonZeroU64::new(64 << 20).unwrap();

/// What any OS makes for itself, and makes again.
const OWN: [&str; 22] = [
    "/boot/grub",
    "/dev",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/mtab",
    "/etc/ssl/certs",
    "/lost+found",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/usr/lib/locale/locale-archive",
    "/usr/share/mime",
    "/usr/share/info/dir",
    "/usr/lib/udev/hwdb.bin",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd",
    "/var/lib/ucf",
    "/var/lib/initramfs-tools",
    "/var/tmp",
];

/// Walks the root filesystem, and reads every file of every package, gently.
pub(super) fn collect(machine: &Machine) -> Lost {
    let mut lost = Lost::default();
    let packages = match Packages::read(machine) {
        Ok(Some(packages)) => packages,
        Ok(None) => {
            lost.unknown.push("this node has no dpkg database, and rpm's is not read".into());
            return lost;
        }
        Err(error) => {
            lost.unknown.push(format!("dpkg's database: {error}"));
            return lost;
        }
    };
    walk(machine, &packages, &mut lost);
    compare(machine, &packages, &mut lost);
    for list in [&mut lost.unowned, &mut lost.changed, &mut lost.unknown] {
        list.sort();
        if list.len() > LISTED_MAX {
            list.truncate(LISTED_MAX);
            lost.is_cut = true;
        }
    }
    lost
}

fn walk(machine: &Machine, packages: &Packages, lost: &mut Lost) {
    let Ok(root) = fs::metadata(machine.path("/")) else { return };
    let mut open = vec![PathBuf::from("/")];
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(machine.path(&folder)) {
            Ok(entries) => entries,
            Err(error) => {
                lost.unknown.push(format!("{}: {error}", folder.display()));
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            let Ok(metadata) = fs::symlink_metadata(machine.path(&path)) else { continue };
            if metadata.dev() != root.dev() || is_own(machine, &path) {
                continue;
            }
            let is_owned = packages.owner(&path).is_some();
            match (metadata.is_dir(), is_owned) {
                (true, true) => open.push(path),
                (true, false) if is_empty(&machine.path(&path)) => {}
                (true, false) => lost.unowned.push(format!("{}/", path.display())),
                (false, true) => {}
                (false, false) => lost.unowned.push(path.display().to_string()),
            }
            if lost.unowned.len() > 2 * LISTED_MAX {
                lost.is_cut = true;
                return;
            }
        }
    }
}

fn compare(machine: &Machine, packages: &Packages, lost: &mut Lost) {
    let pace = Pace::new(BYTES_PER_SECOND);
    for (path, md5) in packages.with_content() {
        let here = machine.path(path);
        // What is not there cannot be lost.
        if !fs::symlink_metadata(&here).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        match md5_of(&here, &|bytes| pace.take(bytes)) {
            Ok(found) if found == md5 => {}
            Ok(_) => lost.changed.push(path.display().to_string()),
            Err(error) => lost.unknown.push(format!("{}: {error}", path.display())),
        }
    }
}

/// Whether the OS made it for itself.
fn is_own(machine: &Machine, path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_link_of_tools = || {
        let target = fs::read_link(machine.path(path)).unwrap_or_default();
        // What `update-alternatives` and `systemctl enable` (as packages call it) leave behind.
        let noted = Path::new("/var/lib/systemd/deb-systemd-helper-enabled")
            .join(path.strip_prefix("/etc/systemd/system").unwrap_or(path));
        target.starts_with("/etc/alternatives")
            || (path.starts_with("/etc/systemd/system") && machine.path(noted).exists())
            || (path.starts_with("/etc/rc0.d") || name.len() > 3 && path.parent().is_some_and(is_run_level))
    };
    OWN.iter().any(|own| path.starts_with(own))
        || name == "__pycache__"
        || (path.starts_with("/boot") && name.starts_with("initrd.img"))
        || (name.starts_with("modules.") && path.starts_with("/usr/lib/modules"))
        || (path.parent() == Some(Path::new("/")) && (name.starts_with("vmlinuz") || name.starts_with("initrd.img")))
        || is_link_of_tools()
}

/// `/etc/rc2.d`: links that `update-rc.d` makes.
fn is_run_level(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.parent() == Some(Path::new("/etc")) && name.starts_with("rc") && name.ends_with(".d") && name.len() == 5
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::tests::{machine, put};

    #[test]
    fn what_no_package_owns_and_what_was_changed_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        let machine = machine(folder.path());
        let root = folder.path();
        let lost = collect(&machine);
        assert_eq!(lost.unowned, ["/etc/dpkg/", "/var/lib/"], "whole directories stand for what is in them");
        assert_eq!(lost.changed, <[&str; 0]>::default());
        put(root, "usr/bin/tool", "another program");
        put(root, "etc/tool.conf", "changed");
        put(root, "opt/app/bin/x", "mine");
        put(root, "usr/bin/mine", "mine");
        put(root, "tmp/x", "nobody's");
        fs::create_dir_all(root.join("srv/empty")).unwrap();
        fs::create_dir_all(root.join("emptiness")).unwrap();
        std::os::unix::fs::symlink("/etc/alternatives/awk", root.join("usr/bin/awk")).unwrap();
        let lost = collect(&machine);
        assert_eq!(lost.unowned, ["/etc/dpkg/", "/opt/", "/srv/", "/usr/bin/mine", "/var/lib/"]);
        assert_eq!(lost.changed, ["/etc/tool.conf", "/usr/bin/tool"]);
        assert_eq!(lost.unknown, <[&str; 0]>::default());
    }

    #[test]
    fn without_dpkg_it_is_said_that_it_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let lost = collect(&Machine::below(folder.path()));
        assert!(lost.unknown[0].contains("rpm"), "{lost:?}");
    }
}
