//! A small disk that looks like an OS image, made in a second without root: for the README's commands and for trying things out.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::disk;
use crate::run;

/// What `cargo xtask small-disk` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask small-disk v1.raw --version 1")]
pub(crate) struct Args {
    /// The file to make
    path: PathBuf,
    /// The version that it says it is; half of its files differ from those of any other version
    #[arg(long, default_value_t = 1)]
    version: u32,
    /// Its size in MiB, of which about half are files
    #[arg(long, default_value_t = 64)]
    mebibytes: u64,
}

/// Where the root filesystem begins, in MiB; before it are the first MiB, the BIOS boot partition and the ESP.
const ROOT_MEBIBYTES: u64 = 18;
const ROOT_UUID: &str = "6b656570-7374-4174-8e73-736d616c6c01";

/// Makes the disk.
pub(crate) fn run(args: &Args) -> Result<()> {
    anyhow::ensure!(
        args.mebibytes >= 32,
        "a disk of {} MiB has no room for a root filesystem: 32 or more",
        args.mebibytes
    );
    let tree = args.path.with_extension("tree");
    let made = fill(&tree, args).and_then(|()| build(&tree, args));
    fs::remove_dir_all(&tree).with_context(|| format!("removing {}", tree.display()))?;
    made
}

fn fill(tree: &Path, args: &Args) -> Result<()> {
    let write = |path: &str, bytes: &[u8]| -> Result<()> {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().context("a file with no directory")?)?;
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    };
    let version = args.version;
    write(
        "usr/lib/os-release",
        format!("ID=small\nVERSION_ID={version}\nIMAGE_ID=small\nIMAGE_VERSION={version}\n").as_bytes(),
    )?;
    write("etc/os-release", fs::read(tree.join("usr/lib/os-release"))?.as_slice())?;
    write("etc/fstab", format!("UUID={ROOT_UUID} / ext4 defaults 0 1\n").as_bytes())?;
    write("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")?;
    write("etc/group", b"root:x:0:\n")?;
    write(
        "var/lib/dpkg/status",
        format!("Package: small\nStatus: install ok installed\nVersion: {version}\n\n").as_bytes(),
    )?;
    let files = (args.mebibytes - ROOT_MEBIBYTES) / 2;
    for number in 0..files {
        // Every other file is the same in all versions. Hex digits: compressible, as programs are.
        let seed = if number % 2 == 0 { format!("{number}") } else { format!("{number} of {version}") };
        let mut bytes = vec![0; 1 << 19];
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
        let text: String = bytes
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect();
        write(&format!("usr/share/file-{number}"), text.as_bytes())?;
    }
    Ok(())
}

fn build(tree: &Path, args: &Args) -> Result<()> {
    let image = &args.path;
    let file = File::create(image).with_context(|| format!("making {}", image.display()))?;
    file.set_len(args.mebibytes << 20)?;
    let root_mebibytes = args.mebibytes - ROOT_MEBIBYTES - 1;
    disk::sfdisk(
        image,
        &format!(
            "label: gpt\nlabel-id: 6b656570-7374-4174-8e73-736d616c6c00\nstart=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649, uuid=6b656570-7374-4174-8e73-736d616c6c11\n\
             start=2MiB, size=16MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=6b656570-7374-4174-8e73-736d616c6c12\n\
             start={ROOT_MEBIBYTES}MiB, size={root_mebibytes}MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=6b656570-7374-4174-8e73-736d616c6c13\n"
        ),
    )?;
    let mut mke2fs = run::command("mke2fs", ["-q", "-F", "-t", "ext4", "-U", ROOT_UUID, "-E"]);
    mke2fs
        .arg(format!("offset={},hash_seed={ROOT_UUID},root_owner=0:0", ROOT_MEBIBYTES << 20))
        .arg("-d")
        .args([tree, image])
        .arg(format!("{root_mebibytes}M"))
        .env("E2FSPROGS_FAKE_TIME", "1793491200");
    run::quietly(&mut mke2fs)
}
