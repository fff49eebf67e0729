//! GRUB without its installer: neither a block device nor a machine of the same firmware is needed.
//!
//! What grub-bios-setup does is two patches, whose offsets are those of GRUB's boot.S and diskboot.S. Both loaders look
//! for the root filesystem by its UUID, and take menu and variables from it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::{Error, Result};
use super::geometry::{Extent, SECTOR};
use super::identity::Identity;
use super::tool::{Room, Tool};

/// Where Debian puts GRUB's modules.
const MODULES_PATH: &str = "/usr/lib/grub";
/// GRUB loads nothing from the root but its menu, so all that a menu needs is in the core image.
const MODULES: [&str; 21] = [
    "part_gpt",
    "ext2",
    "xfs",
    "fat",
    "search",
    "search_fs_uuid",
    "search_fs_file",
    "search_label",
    "normal",
    "linux",
    "serial",
    "echo",
    "configfile",
    "test",
    "loadenv",
    "terminal",
    "minicmd",
    "sleep",
    "gzio",
    "reboot",
    "halt",
];

/// In boot.img: the number of the core image's first sector, 8 bytes.
const BOOT_KERNEL_SECTOR: usize = 0x5c;
/// In boot.img: a jump that skips what guesses the disk on broken BIOSes; two NOPs keep the disk that the BIOS named.
const BOOT_DRIVE_CHECK: usize = 0x66;
/// In boot.img: here begins what belongs to the partition table.
const BOOT_CODE_BYTES: usize = 0x1b8;
/// In the core image's first sector: first sector (8 bytes), count (2) and load segment (2) of the rest.
const BLOCK_LIST: usize = 500;
/// Where diskboot.S wants the rest in memory: 0x8200, in paragraphs.
const LOAD_SEGMENT: u16 = 0x820;

/// GRUB's own kinds of machine, and the Debian packages with their modules.
const FOR_BIOS: (&str, &str) = ("i386-pc", "grub-pc-bin");
const FOR_UEFI: (&str, &str) = ("x86_64-efi", "grub-efi-amd64-bin");
const MKIMAGE: Tool = Tool { program: "grub-mkimage", package: "grub-common" };
const DOING: &str = "making GRUB's boot loader";

/// Fails if something that is needed for these firmwares is missing.
pub(super) fn require(bios: bool, uefi: bool) -> Result<()> {
    MKIMAGE.require(DOING)?;
    for (format, package) in [FOR_BIOS, FOR_UEFI].into_iter().zip([bios, uefi]).filter(|one| one.1).map(|one| one.0) {
        if !Path::new(MODULES_PATH).join(format).join("moddep.lst").is_file() {
            return Err(Error::Missing { what: format!("GRUB for {format}"), doing: DOING, package });
        }
    }
    Ok(())
}

/// GRUB for BIOS: sector 0 and core image.
#[derive(Debug)]
pub(super) struct Bios {
    boot: Vec<u8>,
    core: Vec<u8>,
}

impl Bios {
    /// Makes the core image with the modules of this machine.
    pub(super) fn make(room: &Room, identity: &Identity) -> Result<Self> {
        let core = make_image(room, identity, FOR_BIOS.0, &["biosdisk"])?;
        let path = Path::new(MODULES_PATH).join("i386-pc/boot.img");
        let boot = fs::read(&path).map_err(Error::io("reading", &path))?;
        Ok(Self { boot, core })
    }

    /// Puts both onto the disk; the partition table stays.
    pub(super) fn install(&self, disk: &File, path: &Path, partition: Extent) -> Result<()> {
        let mut sector_0 = [0; SECTOR as usize];
        let failed = Error::io("writing GRUB to", path);
        disk.read_exact_at(&mut sector_0, 0).map_err(&failed)?;
        let core = self.patched(&mut sector_0, partition)?;
        disk.write_all_at(&core, partition.offset).map_err(&failed)?;
        disk.write_all_at(&sector_0, 0).map_err(&failed)
    }

    /// The core image as it goes into the partition, in whole sectors.
    fn patched(&self, sector_0: &mut [u8; SECTOR as usize], partition: Extent) -> Result<Vec<u8>> {
        let broken = |said: &str| Error::Program {
            doing: "installing GRUB for BIOS",
            program: "grub-mkimage",
            how: "made something else than expected".to_owned(),
            said: said.to_owned(),
        };
        if self.boot.len() < SECTOR as usize || self.core.len() as u64 <= SECTOR {
            return Err(broken("boot.img or the core image is too short"));
        }
        let sectors = (self.core.len() as u64).div_ceil(SECTOR);
        if sectors * SECTOR > partition.length {
            return Err(broken("the core image is larger than the BIOS boot partition"));
        }
        let first = partition.offset / SECTOR;
        let rest = u16::try_from(sectors - 1).map_err(|_| broken("the core image has too many sectors"))?;
        let mut core = self.core.clone();
        core.resize((sectors * SECTOR) as usize, 0);
        core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(first + 1).to_le_bytes());
        core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&rest.to_le_bytes());
        core[BLOCK_LIST + 10..BLOCK_LIST + 12].copy_from_slice(&LOAD_SEGMENT.to_le_bytes());
        sector_0[..BOOT_CODE_BYTES].copy_from_slice(&self.boot[..BOOT_CODE_BYTES]);
        sector_0[BOOT_KERNEL_SECTOR..BOOT_KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
        sector_0[BOOT_DRIVE_CHECK..BOOT_DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
        Ok(core)
    }
}

/// Makes GRUB's program for UEFI, as the file of that name in the room.
pub(super) fn make_efi(room: &Room, identity: &Identity) -> Result<&'static str> {
    make_image(room, identity, FOR_UEFI.0, &[])?;
    Ok("grub.x86_64-efi")
}

fn make_image(room: &Room, identity: &Identity, format: &str, extra: &[&str]) -> Result<Vec<u8>> {
    let menu = format!("search.fs_uuid {} root\nset prefix=($root)/boot/grub\n", identity.filesystem);
    let path = room.file("embedded.cfg");
    fs::write(&path, menu).map_err(Error::io("writing", &path))?;
    let name = format!("grub.{format}");
    let fixed = ["-O", format, "-p", "/boot/grub", "-c", "embedded.cfg", "-o", &name];
    room.run(MKIMAGE, DOING, fixed.into_iter().chain(MODULES).chain(extra.iter().copied()))?;
    let path = room.file(&name);
    fs::read(&path).map_err(Error::io("reading", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: Extent = Extent { offset: 1 << 20, length: 1 << 20 };

    fn patch(bios: &Bios) -> Result<([u8; 512], Vec<u8>)> {
        let mut sector_0 = [7; 512];
        let core = bios.patched(&mut sector_0, PARTITION)?;
        Ok((sector_0, core))
    }

    #[test]
    fn sector_0_leads_to_the_core_image_and_that_to_its_rest() {
        let (sector_0, core) = patch(&Bios { boot: vec![1; 512], core: vec![2; 512 * 10 + 1] }).unwrap();
        assert_eq!(sector_0[0x5c..0x64], 2048_u64.to_le_bytes());
        assert_eq!((sector_0[0x65], &sector_0[0x66..0x68], sector_0[0x68]), (1, &[0x90, 0x90][..], 1));
        assert_eq!((sector_0[0x1b7], sector_0[0x1b8]), (1, 7), "the partition table stays");
        assert_eq!(core[500..512], [0x01, 0x08, 0, 0, 0, 0, 0, 0, 10, 0, 0x20, 0x08]);
        assert_eq!((core[512], core[5120], core[5121], core.len()), (2, 2, 0, 512 * 11));
    }

    #[test]
    fn a_core_image_that_does_not_fit_is_refused() {
        for core in [vec![], vec![2; 512], vec![2; (1 << 20) + 1]] {
            let error = patch(&Bios { boot: vec![1; 512], core }).unwrap_err();
            assert!(error.to_string().contains("core image"), "{error}");
        }
        assert!(patch(&Bios { boot: vec![1; 511], core: vec![2; 1024] }).is_err());
    }
}
