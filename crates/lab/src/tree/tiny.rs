//! The tiny system: Debian's cloud kernel, busybox, and a few scripts.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::archive::{Release, Variant, bootstrap};
use super::initramfs::Archive;
use super::modules::Modules;
use crate::error::{Error, Result, io};
use crate::run;

/// Files of these are taken, and of a kernel.
const PACKAGES: [&str; 4] = ["busybox-static", "grub-common", "kexec-tools", "e2fsprogs"];
const CLOUD_KERNEL: &str = "linux-image-cloud-amd64";
/// The one for every machine, which has drivers of hardware that no cloud shows.
const FULL_KERNEL: &str = "linux-image-amd64";
/// Where the data disk is, an upgrade has its place; a test decides itself when the new OS is kept. Nobody logs in but the lab,
/// which needs no password, and nobody mounts the firmware's variables, which would tell of Secure Boot.
const NODE: &str = "place = \"/data/keepstate\"\naccept = [\"login\", \"secure boot\"]\n[trial]\ndeadline-seconds = 60\n\
                    commit = false\n";
const MODULES: &str = include_str!("../../recipes/tiny/modules.txt");
/// Scripts, where they stand in the tree.
const SCRIPTS: [(&str, &str); 6] = [
    ("etc/rc", include_str!("../../recipes/tiny/rc")),
    ("etc/acpi/PWRF/00000080", "#!/bin/sh\nexec poweroff\n"),
    ("sbin/control-shell", include_str!("../../recipes/tiny/control-shell")),
    ("sbin/init", include_str!("../../recipes/tiny/init")),
    ("bin/systemctl", include_str!("../../recipes/tiny/systemctl")),
    // By its place one tells that the system has systemd, for which our init stands in.
    ("usr/lib/systemd/systemd", "#!/bin/sh\nexec /sbin/init\n"),
];
const FOLDERS: [&str; 11] = ["boot", "data", "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "var/lib"];
/// What has to stand outside `/bin`: the kernel calls it by that path.
const IN_SBIN: [&str; 1] = ["modprobe"];
/// Files that only make the image larger, and versions differ: half of them are the same in all. 4 MiB.
const PAYLOAD_FILES: u32 = 64;
const PAYLOAD_BYTES: usize = 64 << 10;

/// The packages that the tiny system takes files from.
pub(super) fn packages(has_full_kernel: bool) -> Vec<&'static str> {
    let kernel = if has_full_kernel { FULL_KERNEL } else { CLOUD_KERNEL };
    [kernel].into_iter().chain(PACKAGES).collect()
}

/// Unpacks them.
pub(super) fn unpack(packages: &[&str], root: &Path) -> Result<()> {
    bootstrap(Release::Bookworm, packages, Variant::Unpacked, root)
}

/// Makes version `version` in `root` from the files in `source`.
pub(super) fn build(version: u32, source: &Path, root: &Path) -> Result<()> {
    for folder in FOLDERS {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).map_err(io("making", folder.display()))?;
    }
    for (path, text) in SCRIPTS {
        program(&root.join(path), text.as_bytes())?;
    }
    texts(version, root)?;
    let busybox = source.join("bin/busybox");
    let busybox = fs::read(&busybox).map_err(io("reading", busybox.display()))?;
    let applets = applets(source)?;
    program(&root.join("bin/busybox"), &busybox)?;
    for applet in &applets {
        let folder = if IN_SBIN.contains(&applet.as_str()) { "sbin" } else { "bin" };
        let path = root.join(folder).join(applet);
        // PID 1 is a script of ours.
        if !["busybox", "init"].contains(&applet.as_str()) {
            symlink("/bin/busybox", &path).map_err(io("making", path.display()))?;
        }
    }
    for path in PROGRAMS {
        linked(path, source, root)?;
    }
    kernel(source, root, &busybox, &applets)
}

fn texts(version: u32, root: &Path) -> Result<()> {
    let release = format!(
        "NAME=Tiny\nID=tiny\nVERSION_ID={version}\nPRETTY_NAME=\"Tiny {version}\"\nIMAGE_ID=tiny\nIMAGE_VERSION={version}\n"
    );
    let texts = [
        ("usr/lib/os-release", release.as_str()),
        ("etc/version", &format!("{version}\n")),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/hostname", "tiny\n"),
        ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 tiny\n"),
        // By its name one tells which systemd this is: Debian 12's.
        ("usr/lib/systemd/libsystemd-shared-252.so", ""),
        ("boot/grub/.keep", ""),
        ("boot/efi/.keep", ""),
        ("etc/keepstate/node.toml", NODE),
        (&format!("etc/only-in-{version}"), "a file that no other version has\n"),
    ];
    for (path, text) in texts {
        run::write(&root.join(path), text)?;
    }
    let link = root.join("etc/os-release");
    symlink("../usr/lib/os-release", &link).map_err(io("making", link.display()))?;
    for number in 0..PAYLOAD_FILES {
        let seed = if number % 2 == 0 { format!("{number}") } else { format!("{number} of {version}") };
        let mut bytes = vec![0; PAYLOAD_BYTES];
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
        run::write(&root.join(format!("usr/share/payload/{number:02}")), bytes)?;
    }
    Ok(())
}

fn program(path: &Path, bytes: &[u8]) -> Result<()> {
    run::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io("making executable", path.display()))
}

/// What this busybox can do. It is linked statically: it runs here as it does there.
fn applets(source: &Path) -> Result<Vec<String>> {
    let busybox = source.join("bin/busybox");
    let listed = run::output(&mut run::command(&busybox.to_string_lossy(), ["--list"]))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// `grub-editenv`, by which a running system tells GRUB what to boot once, and `kexec`, which the init ends with where
/// systemd would by itself; `mkfs.ext4`, for a place that is a disk of its own. Each with the libraries that it needs.
const PROGRAMS: [&str; 3] = ["usr/bin/grub-editenv", "sbin/kexec", "sbin/mkfs.ext4"];

/// A program and its libraries.
fn linked(path: &str, source: &Path, root: &Path) -> Result<()> {
    const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
    let copy = |path: &str| -> Result<()> {
        let from = source.join(path);
        program(&root.join(path), &fs::read(&from).map_err(io("reading", from.display()))?)
    };
    let mut list = run::command("chroot", [source]);
    list.args([&format!("/{LOADER}"), "--list", &format!("/{path}")]);
    for line in run::output(&mut list)?.lines() {
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)"
        let library = line.split_once("=> /").and_then(|(_, rest)| rest.split_whitespace().next());
        if let Some(library) = library {
            copy(library)?;
        }
    }
    copy(LOADER)?;
    copy(path)
}

/// The kernel, its modules, and an initramfs that has those which find the root filesystem.
fn kernel(source: &Path, root: &Path, busybox: &[u8], applets: &[String]) -> Result<()> {
    let version = kernel_version(source)?;
    for file in ["vmlinuz", "config"] {
        let file = format!("boot/{file}-{version}");
        let bytes = fs::read(source.join(&file)).map_err(io("reading", &file))?;
        run::write(&root.join(&file), bytes)?;
    }

    let modules = format!("lib/modules/{version}");
    let depmod = |root: &Path| run::output(run::command("depmod", ["-b"]).arg(root).arg(&version));
    // The packages were only unpacked: nobody has run depmod there yet.
    depmod(source)?;
    let dependencies = source.join(&modules).join("modules.dep");
    let dependencies = fs::read_to_string(&dependencies).map_err(io("reading", dependencies.display()))?;
    let dependencies = Modules::parse(&dependencies);
    let (to_root, all) = wanted();
    for file in dependencies.in_order(&all) {
        let from = source.join(&modules).join(file);
        let bytes = fs::read(&from).map_err(io("reading", from.display()))?;
        run::write(&root.join(&modules).join(file), bytes)?;
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        let from = source.join(&modules).join(list);
        run::write(&root.join(&modules).join(list), fs::read(&from).map_err(io("reading", from.display()))?)?;
    }
    depmod(root)?;

    let mut archive = Archive::default();
    for folder in ["bin", "proc", "sys", "root", "modules"] {
        archive.folder(folder);
    }
    archive.file("init", include_bytes!("../../recipes/tiny/initramfs-init"));
    archive.file("bin/busybox", busybox);
    for applet in applets.iter().filter(|applet| *applet != "busybox") {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    let mut order = Vec::new();
    for file in dependencies.in_order(&to_root) {
        let name = file.rsplit('/').next().unwrap_or(file);
        let from = source.join(&modules).join(file);
        archive.file(&format!("modules/{name}"), &fs::read(&from).map_err(io("reading", from.display()))?);
        order.push(name);
    }
    // With a line break at the end, or the shell would pass over the last one.
    archive.file("modules/order", format!("{}\n", order.join("\n")).as_bytes());
    run::write(&root.join(format!("boot/initrd.img-{version}")), archive.finish())
}

/// The modules that find the root filesystem, and these with all others.
fn wanted() -> (Vec<&'static str>, Vec<&'static str>) {
    let of = |part: &str| -> Vec<&'static str> {
        let lines = MODULES.lines().filter_map(|line| line.strip_prefix(part));
        lines.flat_map(str::split_whitespace).collect()
    };
    let to_root = of("root:");
    let all = to_root.iter().copied().chain(of("system:")).collect();
    (to_root, all)
}

fn kernel_version(source: &Path) -> Result<String> {
    let folder = source.join("boot");
    let entries = fs::read_dir(&folder).map_err(io("listing", folder.display()))?;
    let names = entries.filter_map(|entry| Some(PathBuf::from(entry.ok()?.file_name()).to_string_lossy().into_owned()));
    let mut versions: Vec<String> = names.filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned())).collect();
    versions.sort();
    versions.pop().ok_or_else(|| Error::Senseless(format!("{} holds no kernel", folder.display())))
}
