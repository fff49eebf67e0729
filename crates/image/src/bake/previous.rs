//! The disk of the previous image, when the next one is built onto it.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use super::error::{Error, Result};
use super::ext4::{self, clear};
use super::geometry::Geometry;
use super::identity::{Identity, Uuid};
use super::tool::{Room, Tool};
use super::{esp, table};

/// A disk that `image bake` made, as it is in a file.
#[derive(Debug)]
pub(super) struct Previous {
    pub(super) geometry: Geometry,
    pub(super) identity: Identity,
}

impl Previous {
    /// Reads what the disk says of itself.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let reading = Error::io("reading the previous disk", path);
        let refuse = |why: &str| Error::Previous { path: path.to_owned(), why: why.to_owned() };
        let file = File::open(path).map_err(&reading)?;
        if !file.metadata().map_err(&reading)?.is_file() {
            return Err(refuse("it is no file: name the raw disk that was baked"));
        }
        let (geometry, root_partition) = table::read(&file).map_err(&reading)?.map_err(refuse)?;
        let volume = match ext4::open_to_read(path, geometry.root) {
            Err(why) if why.kind() == io::ErrorKind::InvalidData => {
                return Err(refuse(&format!("{why}; only a baked ext4 can be: bake anew, without --onto")));
            }
            volume => volume.map_err(&reading)?,
        };
        let serial = match geometry.esp {
            Some(esp) => esp::serial(&file, esp).map_err(&reading)?,
            None => None,
        };
        // What is on the disk stays, so these are never written.
        let unused = Uuid([0; 16]);
        let identity = Identity {
            disk: unused,
            bios_partition: unused,
            esp_partition: unused,
            root_partition,
            reserve_partition: unused,
            filesystem: volume.uuid,
            hash_seed: unused,
            fat_serial: serial.unwrap_or(0),
        };
        Ok(Self { geometry, identity })
    }

    /// Copies the disk into the room, and checks that its filesystem is sound.
    pub(super) fn copy(&self, room: &Room, path: &Path, name: &str) -> Result<File> {
        let source = path.canonicalize().map_err(Error::io("looking for", path))?;
        let source = source.to_str().ok_or_else(|| Error::Previous {
            path: path.to_owned(),
            why: "its name is no text: give it another".to_owned(),
        })?;
        let tool = Tool { program: "cp", package: "coreutils" };
        room.run(tool, "copying the previous disk", ["--sparse=always", "--reflink=auto", "--", source, name])?;
        ext4::check(room, name, self.geometry.root).map_err(|why| match why {
            Error::Program { .. } => Error::Previous { path: path.to_owned(), why: why.to_string() },
            other => other,
        })?;
        let copy = room.file(name);
        let file = OpenOptions::new().read(true).write(true).open(&copy).map_err(Error::io("opening", &copy))?;
        // The boot loaders are written anew, over nothing.
        for part in [self.geometry.bios, self.geometry.esp].into_iter().flatten() {
            clear(&file, part.offset, part.length).map_err(Error::io("clearing the boot area of", &copy))?;
        }
        Ok(file)
    }
}
