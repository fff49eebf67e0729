//! A bootable disk of a root tree, without mounts: GPT, BIOS boot partition, ESP, ext4.
//!
//! GRUB is installed by hand, so that neither a block device nor a running machine of the same firmware is needed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use crate::run;

/// Identity is fixed, so that images of two versions differ only by what is in them.
pub(super) const ROOT_UUID: &str = "6b656570-7374-4174-8e73-726f6f740001";
const DISK_UUID: &str = "6b656570-7374-4174-8e73-6469736b0001";
const HASH_SEED: &str = "6b656570-7374-4174-8e73-686173680001";
/// mke2fs 1.47.0 takes the filesystem's times from here.
const EPOCH: &str = "1793491200";

const SECTOR: u64 = 512;
const DISK_SECTORS: u64 = (4 << 30) / SECTOR;
const BIOS: (u64, u64) = (2048, 2048);
const ESP: (u64, u64) = (4096, 32768);
const ROOT_START: u64 = 36864;
/// Up to the last whole MiB before the GPT's copy.
const ROOT_SECTORS: u64 = DISK_SECTORS - 2048 - ROOT_START;

/// GRUB loads nothing from the root but its menu, so these are in the core image.
const MODULES: [&str; 17] = [
    "part_gpt",
    "ext2",
    "search",
    "search_fs_uuid",
    "normal",
    "linux",
    "serial",
    "echo",
    "configfile",
    "test",
    "loadenv",
    "terminal",
    "minicmd",
    "reboot",
    "halt",
    "gzio",
    "all_video",
];

/// Makes the disk `image` of the tree in `root`.
pub(super) fn build(root: &Path, image: &Path) -> Result<()> {
    let file = File::create(image).with_context(|| format!("making {}", image.display()))?;
    file.set_len(DISK_SECTORS * SECTOR)?;
    partition(image)?;
    let loaders = Loaders::make(root)?;
    let mut mke2fs = run::command("mke2fs", ["-q", "-F", "-t", "ext4", "-L", "root", "-U", ROOT_UUID]);
    mke2fs
        .arg("-E")
        .arg(format!("offset={},hash_seed={HASH_SEED},lazy_itable_init=1", ROOT_START * SECTOR))
        .arg("-d")
        .args([root, image])
        .arg(format!("{}k", ROOT_SECTORS * SECTOR / 1024))
        .env("E2FSPROGS_FAKE_TIME", EPOCH);
    run::quietly(&mut mke2fs).context("making the root filesystem")?;
    loaders.install_bios(image)?;
    loaders.install_uefi(image)
}

fn partition(image: &Path) -> Result<()> {
    let part = |(start, size): (u64, u64), kind: &str, number: u32, name: &str| {
        format!(
            "start={start}, size={size}, type={kind}, uuid=6b656570-7374-4174-8e73-70617274{number:04}, name=\"{name}\"\n"
        )
    };
    let script = format!(
        "label: gpt\nlabel-id: {DISK_UUID}\n{}{}{}",
        part(BIOS, "21686148-6449-6E6F-744E-656564454649", 1, "bios"),
        part(ESP, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", 2, "esp"),
        part((ROOT_START, ROOT_SECTORS), "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", 3, "root"),
    );
    sfdisk(image, &script)
}

/// Writes a partition table.
pub(super) fn sfdisk(image: &Path, script: &str) -> Result<()> {
    let mut command = run::command("sfdisk", ["--quiet", "--no-reread", "--no-tell-kernel"]);
    let mut child = command
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting sfdisk")?;
    child.stdin.take().context("sfdisk has no input")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("sfdisk ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// GRUB's first sector, core image and EFI program, made by the tree's own GRUB.
struct Loaders {
    boot: Vec<u8>,
    core: Vec<u8>,
    efi: Vec<u8>,
}

impl Loaders {
    fn make(root: &Path) -> Result<Self> {
        let scratch = root.join("loaders");
        fs::create_dir(&scratch)?;
        let menu = format!("search.fs_uuid {ROOT_UUID} root\nset prefix=($root)/boot/grub\n");
        fs::write(scratch.join("embedded.cfg"), menu)?;
        let make = |format: &str, extra: &[&str], name: &str| -> Result<Vec<u8>> {
            let mut command = run::command("chroot", [root]);
            command
                .args(["grub-mkimage", "-O", format, "-p", "/boot/grub", "-c", "/loaders/embedded.cfg", "-o"])
                .arg(format!("/loaders/{name}"))
                .args(MODULES)
                .args(extra);
            run::quietly(&mut command).with_context(|| format!("making GRUB for {format}"))?;
            Ok(fs::read(scratch.join(name))?)
        };
        let loaders = Self {
            boot: fs::read(root.join("usr/lib/grub/i386-pc/boot.img"))?,
            core: make("i386-pc", &["biosdisk"], "core.img")?,
            efi: make("x86_64-efi", &["fat"], "grub.efi")?,
        };
        fs::remove_dir_all(&scratch)?;
        Ok(loaders)
    }

    /// What grub-bios-setup does: sector 0 loads the core image's first sector by number, and that one the rest.
    /// Offsets are from GRUB's boot.S and diskboot.S.
    fn install_bios(&self, image: &Path) -> Result<()> {
        let sectors = (self.core.len() as u64).div_ceil(SECTOR);
        ensure!(sectors <= BIOS.1, "GRUB's core image does not fit the BIOS boot partition");
        let mut core = self.core.clone();
        core[500..508].copy_from_slice(&(BIOS.0 + 1).to_le_bytes());
        core[508..510].copy_from_slice(&u16::try_from(sectors - 1)?.to_le_bytes());
        core[510..512].copy_from_slice(&0x820_u16.to_le_bytes());
        let file = OpenOptions::new().read(true).write(true).open(image)?;
        let mut boot = vec![0; SECTOR as usize];
        file.read_exact_at(&mut boot, 0)?;
        // The protective MBR's partition table stays.
        boot[..0x1b8].copy_from_slice(&self.boot[..0x1b8]);
        boot[0x5c..0x64].copy_from_slice(&BIOS.0.to_le_bytes());
        // Boot from the disk that the BIOS names, do not guess.
        boot[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
        file.write_all_at(&core, BIOS.0 * SECTOR)?;
        file.write_all_at(&boot, 0)?;
        Ok(())
    }

    fn install_uefi(&self, image: &Path) -> Result<()> {
        let program = image.with_extension("efi");
        fs::write(&program, &self.efi)?;
        let disk = format!("{}@@{}", image.display(), ESP.0 * SECTOR);
        let mtools = |program: &str, args: &[&str]| {
            // A fixed time and serial number: the same program, the same ESP.
            run::quietly(
                run::command(program, ["-i", &disk])
                    .args(args)
                    .env("SOURCE_DATE_EPOCH", EPOCH)
                    .env("MTOOLS_SKIP_CHECK", "1"),
            )
        };
        let size = ESP.1.to_string();
        mtools("mformat", &["-T", &size, "-h", "64", "-s", "32", "-N", "4b534553", "-v", "ESP", "::"])?;
        mtools("mmd", &["::/EFI", "::/EFI/BOOT"])?;
        mtools("mcopy", &[&program.to_string_lossy(), "::/EFI/BOOT/BOOTX64.EFI"])?;
        fs::remove_file(&program)?;
        Ok(())
    }
}

/// Where the root filesystem is, in bytes.
pub(super) fn root_extent() -> (u64, u64) {
    (ROOT_START * SECTOR, ROOT_SECTORS * SECTOR)
}
