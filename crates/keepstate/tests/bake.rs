//! `keepstate image bake`, as it is typed.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use support::Room;

/// A room with the tree of a tiny OS in `root`.
fn room() -> Room {
    let room = Room::new();
    let write = |path: &str, content: &[u8]| {
        let path = room.path("root").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("boot/vmlinuz-6.1.0-9-amd64", &support::noise(1, 100_000));
    write("etc/os-release", b"ID=tiny\nVERSION_ID=1\n");
    write("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n");
    write("usr/lib/systemd/systemd", b"program");
    write("var/lib/dpkg/status", b"Package: bash\nStatus: install ok installed\nVersion: 5.2\n");
    room
}

#[test]
#[ignore = "needs e2fsprogs, GRUB and mtools: run by ./test"]
fn a_tree_is_baked_built_onto_and_packed_with_its_facts() {
    let room = room();
    let said = room.good("image bake root -o v1.raw --epoch 1000 --cmdline console=ttyS0 --reserve 16M --with-agent");
    assert!(said.contains("v1.raw is baked") && said.contains("BIOS and UEFI"), "{said}");
    fs::write(room.path("root/etc/os-release"), "ID=tiny\nVERSION_ID=2\n").unwrap();
    let baked: Value =
        serde_json::from_str(&room.good("image bake root -o v2.raw --onto v1.raw --epoch 1000 --json")).unwrap();
    assert_eq!(baked["facts"]["os_release"]["VERSION_ID"], "2");
    // The agent was not asked for again, so it is gone; the menu lost its command line.
    assert_eq!((baked["written"]["files"].as_u64(), baked["kept"]["files"].as_u64()), (Some(2), Some(6)), "{baked}");
    room.good("image pack v2.raw -o out --name tiny --version 2 --created 2026-11-21T00:00:00Z");
    let manifest: Value = serde_json::from_slice(&room.read("out/tiny@2/manifest.json")).unwrap();
    assert_eq!(manifest["boot_modes"], serde_json::json!(["bios", "uefi"]), "{manifest}");
    assert_eq!(manifest["facts"]["kernels"], serde_json::json!(["6.1.0-9-amd64"]));
    assert_eq!(manifest["facts"]["packages"]["bash"], "5.2");
    assert_eq!(manifest["facts"]["os_release"]["VERSION_ID"], "2");
}

#[test]
#[ignore = "needs root, XFS, loop devices, GRUB and mtools: run by ./test"]
fn an_xfs_root_is_baked_twice_alike_and_packed_with_its_facts() {
    let room = room();
    let said = room.good("image bake root -o v1.raw --filesystem xfs --epoch 1000 --with-agent");
    assert!(said.contains("root         xfs "), "{said}");
    let baked: Value = serde_json::from_str(
        &room.good("image bake root -o again.raw --filesystem xfs --epoch 1000 --with-agent --json"),
    )
    .unwrap();
    assert_eq!((&baked["filesystem_kind"], &baked["facts"]["root_filesystem"]), (&"xfs".into(), &"xfs".into()));
    assert!(said.contains(baked["filesystem"].as_str().unwrap()), "the same files, the same number");
    room.good("image pack v1.raw -o out --name tiny --version 1 --created 2026-11-21T00:00:00Z");
    let manifest: Value = serde_json::from_slice(&room.read("out/tiny@1/manifest.json")).unwrap();
    assert_eq!(manifest["boot_modes"], serde_json::json!(["bios", "uefi"]), "{manifest}");
    let facts = &manifest["facts"];
    assert_eq!(facts["kernels"], serde_json::json!(["6.1.0-9-amd64"]));
    assert_eq!((&facts["packages"]["bash"], &facts["root_filesystem"]), (&"5.2".into(), &"xfs".into()));
    assert_eq!((&facts["users"]["root"], &facts["setup"]["has_agent"]), (&0.into(), &true.into()));
    let fstab = format!("UUID={} / xfs defaults 0 0", baked["filesystem"].as_str().unwrap());
    assert_eq!(facts["fstab"], serde_json::json!([fstab]));
    room.bad(
        "image bake root -o v2.raw --onto v1.raw",
        3,
        &["v1.raw cannot be built onto", "only a baked ext4 can be"],
    );
}

/// Not everybody may have the kernel mount something.
#[test]
#[ignore = "needs root and xfsprogs: run by ./test"]
fn an_xfs_root_needs_root_and_says_so_before_anything_is_made() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let room = room();
    fs::set_permissions(room.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepstate"));
    command.args(["image", "bake", "root", "-o", "v1.raw", "--filesystem", "xfs"]).current_dir(room.path(""));
    let output = command.uid(65_534).gid(65_534).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("run this as root, or bake an ext4 root"), "{said}");
    assert_eq!(fs::read_dir(room.path("")).unwrap().count(), 1, "something was made");
}

#[test]
#[ignore = "needs root, e2fsprogs, GRUB and mtools: run by ./test"]
fn whatever_is_missing_is_named_with_its_package_before_anything_is_made() {
    let room = room();
    let cases = [
        ("/usr/sbin/mke2fs", "mke2fs", "e2fsprogs"),
        ("/usr/sbin/debugfs", "debugfs", "e2fsprogs"),
        ("/usr/sbin/e2fsck", "e2fsck", "e2fsprogs"),
        ("/usr/sbin/mkfs.xfs", "mkfs.xfs", "xfsprogs"),
        ("/usr/bin/grub-mkimage", "grub-mkimage", "grub-common"),
        ("/usr/lib/grub/i386-pc/moddep.lst", "GRUB for i386-pc", "grub-pc-bin"),
        ("/usr/lib/grub/x86_64-efi/moddep.lst", "GRUB for x86_64-efi", "grub-efi-amd64-bin"),
        ("/usr/bin/mtools", "mformat", "mtools"),
    ];
    for (path, what, package) in cases {
        let path = fs::canonicalize(path).unwrap_or_else(|why| panic!("{path}: {why}"));
        // What is no file, in a mount namespace of its own, is not there.
        let filesystem = if package == "xfsprogs" { "xfs" } else { "ext4" };
        let script = "mount --bind /dev/null \"$1\" && exec \"$0\" image bake root -o v1.raw --filesystem \"$2\"";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_keepstate")])
            .arg(path)
            .arg(filesystem)
            .current_dir(room.path(""))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let advice = format!("install the Debian package {package}\n");
        assert!(said.contains(&format!("{what} is needed")) && said.ends_with(&advice), "{said}");
        assert_eq!(fs::read_dir(room.path("")).unwrap().count(), 1, "something was made");
    }
}

#[test]
fn what_cannot_be_baked_is_refused_before_anything_is_made() {
    let room = room();
    room.bad("image bake missing -o v1.raw", 1, &["baking missing", "looking for the tree"]);
    room.bad("image bake root -o root", 3, &["root is there already"]);
    room.bad("image bake root -o v1.raw --size 8M", 3, &["the tree needs", "a larger --size"]);
    room.bad("image bake root -o v1.raw --size 1000001K", 2, &["no whole number of MiB"]);
    room.bad("image bake root -o v1.raw --label seventeen-letters", 2, &["1 to 16 bytes"]);
    room.bad("image bake root -o v1.raw --filesystem xfs --label thirteen-long", 2, &["1 to 12 bytes"]);
    room.bad("image bake root -o v1.raw --filesystem xfs --onto v0.raw", 2, &["only an ext4 root", "without --onto"]);
    room.bad("image bake root -o v1.raw --filesystem xfs --size 256M", 3, &["the tree needs 314572800 bytes"]);
    room.bad("image bake root -o v1.raw --boot floppy", 2, &["floppy"]);
    room.bad("image bake root -o v1.raw --cmdline a;b", 2, &["GRUB takes for its own"]);
    room.bad("image bake root -o v1.raw --onto v0.raw --size 1G", 2, &["--size"]);
    room.bad("image bake root -o v1.raw --onto missing.raw", 1, &["reading the previous disk missing.raw"]);
    room.disk("noise.raw", 8 << 20, &support::noise(1, 1 << 20));
    room.bad("image bake root -o v1.raw --onto noise.raw", 3, &["noise.raw cannot be built onto"]);
    fs::remove_dir_all(room.path("root/boot")).unwrap();
    room.bad("image bake root -o v1.raw", 1, &["it has no kernel", "linux-image-amd64"]);
    let left: Vec<PathBuf> = fs::read_dir(room.path("")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 2, "the tree and the noise: {left:?}");
}
