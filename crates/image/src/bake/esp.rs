//! The EFI system partition: a FAT with GRUB's program, made without mounting.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::error::Result;
use super::geometry::{Extent, SECTOR};
use super::identity::Identity;
use super::tool::{Room, Tool};

const DOING: &str = "making the EFI system partition";
/// A geometry that divides whole MiB: 64 heads of 32 sectors.
const HEADS: &str = "64";
const TRACK_SECTORS: &str = "32";

/// Fails if a program that is needed is missing.
pub(super) fn require() -> Result<()> {
    ["mformat", "mmd", "mcopy"].into_iter().try_for_each(|program| tool(program).require(DOING))
}

fn tool(program: &'static str) -> Tool {
    Tool { program, package: "mtools" }
}

/// Makes the filesystem within the file `disk` of the room, with `program` where firmware looks for it.
pub(super) fn make(room: &Room, disk: &str, partition: Extent, identity: &Identity, program: &str) -> Result<()> {
    let image = format!("{disk}@@{}", partition.offset);
    let run = |program, arguments: &[&str]| {
        room.run(tool(program), DOING, ["-i", &image].into_iter().chain(arguments.iter().copied())).map(drop)
    };
    let (size, serial) = ((partition.length / SECTOR).to_string(), format!("{:08x}", identity.fat_serial));
    run("mformat", &["-T", &size, "-h", HEADS, "-s", TRACK_SECTORS, "-N", &serial, "-v", "ESP", "::"])?;
    run("mmd", &["::/EFI", "::/EFI/BOOT"])?;
    run("mcopy", &[program, "::/EFI/BOOT/BOOTX64.EFI"])
}

/// The serial number of a FAT: the mark before it says that it is there, at one of two places.
pub(super) fn serial(disk: &File, partition: Extent) -> io::Result<Option<u32>> {
    let mut sector = [0; SECTOR as usize];
    disk.read_exact_at(&mut sector, partition.offset)?;
    // FAT12 and FAT16 have it at 39, FAT32 at 67.
    let place = [38, 66].into_iter().find(|mark| matches!(sector[*mark], 0x28 | 0x29));
    Ok(place.map(|mark| u32::from_le_bytes(sector[mark + 1..mark + 5].try_into().expect("four bytes"))))
}
