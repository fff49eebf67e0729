//! Facts of real filesystems, made by mke2fs without mounting.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// An ext4 of 16 MiB with a small Debian's files.
fn ext4() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    write(&root, "usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
    fs::create_dir_all(root.join("etc")).unwrap();
    std::os::unix::fs::symlink("../usr/lib/os-release", root.join("etc/os-release")).unwrap();
    write(&root, "etc/fstab", "# comment\nUUID=1 / ext4 defaults 0 1\n");
    write(&root, "etc/passwd", "root:x:0:0::/root:/bin/sh\n_apt:x:42:65534::/:/bin/false\n");
    write(&root, "etc/group", "root:x:0:\n");
    write(&root, "boot/vmlinuz-6.1.0-9-amd64", "kernel");
    write(&root, "boot/vmlinuz", "kernel");
    write(&root, "usr/lib/modules/6.1.0-10-amd64/modules.dep", "");
    std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
    write(&root, "var/lib/dpkg/status", "Package: bash\nStatus: install ok installed\nVersion: 5.2\n");
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 183;
    write(&root, "usr/lib/systemd/systemd", elf);
    write(&root, "etc/systemd/system/disks.service", "[Service]\nExecStart=/opt/disks\n");
    write(&root, "opt/disks", "#!/bin/sh\nmkfs.ext4 /dev/vdb\n");
    std::os::unix::fs::symlink("/dev/null", root.join("etc/systemd/system/masked.service")).unwrap();
    write(&root, "etc/shadow", "root::1::\n");
    let image = dir.path().join("image");
    let done =
        Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&image).arg("16M").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::read(image).unwrap()
}

fn read_disk(disk: Vec<u8>) -> Found {
    let disk: Arc<dyn ReadAt> = Arc::new(disk);
    let layout = Layout::read(&*disk).unwrap();
    read(&disk, &layout)
}

#[test]
#[ignore = "needs mke2fs: run by ./test"]
fn facts_are_read_from_an_ext4_with_and_without_a_partition_table() {
    let filesystem = ext4();
    let mut disk = crate::layout::tests::gpt_disk(20 << 20, 512, &[([7; 16], 2048, 4095), ([9; 16], 4096, 36_863)]);
    disk[1 << 20..(1 << 20) + 4].copy_from_slice(b"XFSB");
    disk[2 << 20..18 << 20].copy_from_slice(&filesystem);
    for (disk, is_partitioned) in [(filesystem, false), (disk, true)] {
        let found = read_disk(disk);
        let facts = found.facts.expect("facts");
        assert_eq!(facts.os_release["ID"], "debian");
        assert_eq!(facts.kernels, ["6.1.0-10-amd64", "6.1.0-9-amd64"]);
        assert_eq!(facts.fstab, ["UUID=1 / ext4 defaults 0 1"]);
        assert_eq!(facts.users["_apt"], 42);
        assert_eq!(facts.groups["root"], 0);
        assert_eq!(facts.packages["bash"], "5.2");
        assert_eq!(found.architecture.as_deref(), Some("aarch64"));
        let setup = facts.setup.expect("what happens at boot");
        assert_eq!(setup.formats[0].file, "/opt/disks");
        assert_eq!(setup.passwords, ["root"]);
        assert_eq!(setup.kernels.unsigned, ["/boot/vmlinuz", "/boot/vmlinuz-6.1.0-9-amd64"]);
        assert_eq!(found.notes.iter().any(|note| note.contains("XFS")), is_partitioned, "{:?}", found.notes);
    }
}

#[test]
#[ignore = "needs mke2fs: run by ./test"]
fn a_damaged_ext4_gives_notes_and_no_panic() {
    let whole = ext4();
    for seed in 0_usize..40 {
        let mut disk = whole.clone();
        for i in 0..200 {
            let at = (seed * 7919 + i * 104_729) % disk.len();
            let within_metadata = at % (1 << 20);
            disk[within_metadata] ^= (seed + i) as u8;
        }
        let found = read_disk(disk);
        assert!(found.facts.is_some() || !found.notes.is_empty());
    }
}

#[test]
fn a_disk_without_a_filesystem_has_no_facts_and_says_so() {
    let found = read_disk(vec![0; 4 << 20]);
    assert_eq!((found.facts, found.architecture), (None, None));
    assert!(found.notes[0].contains("no root filesystem"), "{:?}", found.notes);
}

#[test]
fn architectures_are_named_as_the_kernel_names_them() {
    let mut header = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0";
    assert_eq!(elf_architecture(&header), Some("x86_64"));
    header[18] = 0;
    assert_eq!(elf_architecture(&header), None);
    assert_eq!(elf_architecture(b"#!/bin/sh\n0123456789"), None);
}
