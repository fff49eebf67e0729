//! Packing: a disk becomes a payload, two tables and a manifest, in a directory of its own.

mod error;
mod pieces;
mod pipeline;
mod work;
mod write;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use model::manifest::{CHUNK_BYTES, Codec, DISK_BYTES_MIN, FORMAT, ObjectRef, Provenance, TableRef};
use model::{Digest, Manifest, Sha256, name};
use store::{Local, Transfer};
use tempfile::TempDir;

pub use error::Error;

use self::pipeline::Settings;
use self::write::{Writer, Written};
use crate::layout::Layout;
use crate::sign::SecretKey;
use crate::source::Source;
use crate::table::Finished;
use crate::view::{ReadAt, View};
use crate::{Image, MANIFEST, Progress, SIGNATURE, facts};

/// zstd level that is used unless another is asked for. Measured on a tree of `/usr` in frames of 64 KiB, one core of an
/// EPYC: level 3 has ratio 0.404 at 340 MiB/s, 6 has 0.386 at 107, 9 has 0.383 at 73, 15 has 0.370 at 13. All decode at
/// some 1,200 MiB/s. So 6 is the last level that pays, and two cores pack some 190 MiB/s with it.
pub const LEVEL: i32 = 6;
/// Levels that zstd has.
pub const LEVELS: std::ops::RangeInclusive<i32> = 1..=22;
/// Chunk size that is used unless another is asked for. Measured as above at level 6: 16 KiB has ratio 0.408, 32 KiB
/// 0.396, 64 KiB 0.386, 128 KiB 0.377, 256 KiB 0.371; smaller chunks find more that need not be fetched (DESIGN.md).
pub const CHUNK_SIZE: u32 = 64 << 10;

/// What to pack a disk as.
#[derive(Clone, Debug)]
pub struct Options {
    /// The image's family.
    pub name: String,
    /// The version that people read.
    pub version: String,
    /// The serial that grows.
    pub serial: u64,
    /// When it was made, for the manifest.
    pub created: Timestamp,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
    /// Codec of the payload.
    pub codec: Codec,
    /// zstd's level, within [`LEVELS`]; lz4 has one only.
    pub level: i32,
    /// Size of a chunk.
    pub chunk_size: u32,
    /// Logical sector size, where it is not to be told from the disk.
    pub sector_size: Option<u32>,
    /// Architecture, where it is not to be told from the disk.
    pub architecture: Option<String>,
    /// Where it comes from.
    pub provenance: Provenance,
    /// The SHA-256 that the disk must have.
    pub sha256: Option<Sha256>,
}

impl Options {
    /// The usual way to pack `name@version`.
    pub fn new(name: &str, version: &str, serial: u64, created: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            serial,
            created,
            expires: None,
            codec: Codec::Zstd,
            level: LEVEL,
            chunk_size: CHUNK_SIZE,
            sector_size: None,
            architecture: None,
            provenance: Provenance::default(),
            sha256: None,
        }
    }

    fn check(&self) -> Result<(), Error> {
        name::check_part("name", &self.name)?;
        name::check_part("version", &self.version)?;
        let wrong = |why: String| Err(Error::Options(why));
        if !self.chunk_size.is_power_of_two() || !CHUNK_BYTES.contains(&self.chunk_size) {
            return wrong(format!("a chunk size of {}, not a power of two from 4 KiB to 1 MiB", self.chunk_size));
        }
        if !LEVELS.contains(&self.level) {
            return wrong(format!("level {}, not 1 to 22", self.level));
        }
        if let Some(size) = self.sector_size.filter(|size| !matches!(size, 512 | 4096)) {
            return wrong(format!("a sector size of {size}, not 512 or 4096"));
        }
        Ok(())
    }
}

/// A packed image.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Its directory.
    pub folder: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// In words for people: what could not be read from the disk, and why.
    pub notes: Vec<String>,
    /// The very same image was there already.
    pub is_unchanged: bool,
}

/// Packs `source` into the directory `out/name@version`, which appears when it is complete. One that is there already
/// is left as it is if it holds the same, and replaced only if `replace` says so.
pub fn pack(
    source: &mut dyn Source,
    options: &Options,
    out: &Path,
    replace: bool,
    key: Option<&SecretKey>,
    progress: Progress<'_>,
) -> Result<Packed, Error> {
    options.check()?;
    let failed = Error::io;
    fs::create_dir_all(out).map_err(failed("making the directory", out))?;
    let prefix = format!(".{}@{}.", options.name, options.version);
    // Not only for its owner, as temporary directories usually are: it becomes the image's.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    let scratch = tempfile::Builder::new().prefix(&prefix).suffix(".partial").permissions(readable).tempdir_in(out);
    let scratch = scratch.map_err(failed("making a directory in", out))?;
    let (manifest, notes) = fill(scratch.path(), source, options, progress)?;

    let bytes = manifest.to_bytes();
    let path = scratch.path().join(MANIFEST);
    fs::write(&path, &bytes).map_err(failed("writing", &path))?;
    sync(&path)?;
    let folder = out.join(format!("{}@{}", options.name, options.version));
    if let Some(key) = key {
        // No two signatures are equal, so one of the same manifest that is there already is kept.
        let there = fs::read_to_string(folder.join(SIGNATURE)).ok();
        let serial = manifest.serial;
        let comment = format!("keepstate image {}@{} serial {serial}", manifest.name, manifest.version);
        let there = there.filter(|there| key.has_signed(&bytes, there));
        let signature = there.map_or_else(|| key.sign(&bytes, &comment), Ok)?;
        let path = scratch.path().join(SIGNATURE);
        fs::write(&path, signature).map_err(failed("writing", &path))?;
        sync(&path)?;
    }
    sync(scratch.path())?;
    let is_unchanged = put(scratch, &folder, &bytes, replace)?;
    sync(out)?;
    Ok(Packed { folder, manifest, notes, is_unchanged })
}

/// Writes payload and tables into the directory, and makes their manifest.
fn fill(
    folder: &Path,
    source: &mut dyn Source,
    options: &Options,
    progress: Progress<'_>,
) -> Result<(Manifest, Vec<String>), Error> {
    let create = |name: &str| {
        let path = folder.join(name);
        File::options().read(true).write(true).create_new(true).open(&path).map_err(Error::io("creating", &path))
    };
    let scratch = || tempfile::tempfile_in(folder).map_err(Error::io("making a file in", folder));
    let [payload, chunks, blocks] = ["payload", "chunks", "blocks"];
    let settings = Settings { codec: options.codec, level: options.level, chunk_size: options.chunk_size };
    let mut writer = Writer::new(options.codec, options.chunk_size, create(payload)?, scratch()?, scratch()?);
    let writing = Error::io("writing into", folder);
    let sha256 = match pipeline::run(source, settings, &mut writer, progress) {
        Ok(sha256) => sha256,
        Err(pipeline::Failed::Source(error)) => return Err(error.into()),
        Err(pipeline::Failed::Encode(error)) => return Err(error.into()),
        Err(pipeline::Failed::Write(error)) => return Err(writing(error)),
    };
    if let Some(wanted) = options.sha256.filter(|wanted| *wanted != sha256) {
        return Err(Error::Sha256 { source_name: source.describe(), wanted, found: sha256 });
    }
    let disk_size = writer.disk_size();
    if disk_size < DISK_BYTES_MIN || !disk_size.is_multiple_of(512) {
        return Err(Error::DiskSize { source_name: source.describe(), disk_size });
    }
    let written = writer.finish(&create(chunks)?, &create(blocks)?).map_err(writing)?;
    let rename = |from: &str, to: String| {
        fs::rename(folder.join(from), folder.join(&to)).map_err(Error::io("renaming into", folder)).map(|()| to)
    };
    let Written { geometry, payload_size, payload_blake3, chunk_table, block_table } = written;
    let payload_name = format!("payload-{}.{}", short(&payload_blake3), options.codec.extension());
    let table = |from: &str, finished: Finished| {
        let object = rename(from, format!("{from}-{}.table", short(&finished.directory_blake3)))?;
        let Finished { size, directory_size, directory_blake3 } = finished;
        Ok::<_, Error>(TableRef { object, size, directory_size, directory_blake3 })
    };
    let mut manifest = Manifest {
        format: FORMAT,
        name: options.name.clone(),
        version: options.version.clone(),
        serial: options.serial,
        created: options.created,
        expires: options.expires,
        architecture: options.architecture.clone(),
        sector_size: 512,
        boot_modes: Vec::new(),
        disk_size: geometry.disk_size,
        blake3: Digest([0; 32]),
        sha256,
        chunk_size: options.chunk_size,
        codec: options.codec,
        payload: ObjectRef { object: rename(payload, payload_name)?, size: payload_size, blake3: payload_blake3 },
        chunk_table: table(chunks, chunk_table)?,
        block_table: table(blocks, block_table)?,
        boot_area: Vec::new(),
        reserve: None,
        provenance: options.provenance.clone(),
        facts: None,
    };
    let notes = describe(folder, &mut manifest, options, source.sector_size())?;
    Ok((manifest, notes))
}

/// Adds to the manifest what the packed disk says of itself, read back through the payload: the same way for sources
/// that can be read once only, and a first proof that what was written can be read.
fn describe(
    folder: &Path,
    manifest: &mut Manifest,
    options: &Options,
    device_sector_size: Option<u32>,
) -> Result<Vec<String>, Error> {
    let image = Image::open(Transfer::new(Arc::new(Local::new(folder))), "", manifest.clone())?;
    manifest.blake3 = image.disk_digest()?;
    let disk: Arc<dyn ReadAt> = Arc::new(View::new(image));
    let layout = Layout::read(&*disk).map_err(Error::io("reading back", folder))?;
    let sector_size = options.sector_size.or(layout.sector_size).or(device_sector_size).unwrap_or(512);
    if !manifest.disk_size.is_multiple_of(sector_size.into()) {
        let disk_size = manifest.disk_size;
        return Err(Error::Options(format!("a sector size of {sector_size} for a disk of {disk_size} bytes")));
    }
    let found = facts::read(&disk, &layout);
    manifest.sector_size = sector_size;
    manifest.boot_modes = layout.boot_modes;
    manifest.boot_area = layout.boot_area;
    manifest.reserve = layout.reserve;
    manifest.architecture = options.architecture.clone().or(found.architecture);
    manifest.facts = found.facts;
    // What this release writes, it must be able to read.
    Manifest::from_bytes(&manifest.to_bytes())?;
    Ok(found.notes)
}

/// Gives the finished directory its name; true if the same was there already.
fn put(scratch: TempDir, folder: &Path, manifest: &[u8], replace: bool) -> Result<bool, Error> {
    let failed = Error::io("renaming to", folder);
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::rename(scratch.path(), folder).map_err(failed)?;
            let _ = scratch.keep();
            return Ok(false);
        }
        Err(error) => return Err(failed(error)),
        Ok(_) => {}
    }
    let is_same = fs::read(folder.join(MANIFEST)).is_ok_and(|found| found == manifest);
    let signature = fs::read(scratch.path().join(SIGNATURE)).ok();
    if is_same && (signature.is_none() || signature == fs::read(folder.join(SIGNATURE)).ok()) {
        return Ok(true);
    }
    if !is_same && !replace {
        return Err(Error::Exists { folder: folder.to_owned() });
    }
    // The old one steps aside first: a directory cannot be replaced in one step, and a reader must never see a mixture.
    // It is removed with the scratch directory, whose name it takes.
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        scratch.path(),
        rustix::fs::CWD,
        folder,
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .map_err(|error| failed(error.into()))?;
    Ok(is_same)
}

/// The part of a digest that object names carry.
fn short(digest: &Digest) -> String {
    digest.to_string()[..16].to_owned()
}

/// Makes a file or directory durable.
fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("flushing", path))
}

#[cfg(test)]
mod tests;
