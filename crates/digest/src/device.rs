//! Fingerprints of disks: proof that nobody wrote one.
//!
//! The edges are the first and the last MiB of the disk and of each of its partitions. There stand the partition table
//! and its copy, boot sectors, and the superblocks of all that a partition may hold: ext4 (at 1 KiB), XFS, FAT, LVM (at
//! 0), swap (in the first page), btrfs (at 64 KiB), ZFS (four labels, of 256 KiB, two at each end), md (at 0, 4 KiB, or in
//! the last 128 KiB). Whatever mounts a filesystem that stands on the disk or on one of its partitions, assembles or
//! partitions it writes one of these.
//!
//! What stands on a device above (LVM, LUKS, md) has its superblock anywhere between the edges, or encrypted: a mount of it
//! writes the disk and need not write an edge. Only the content proves that nobody did.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use model::Digest;
use serde::{Deserialize, Serialize};
use sys::{AlignedBuf, Disk};

use crate::How;
use crate::algorithm::{Algorithm, Sum};
use crate::compare::{Change, Difference, FirstRange, Summary};
use crate::engine::{self, Consume};
use crate::entry::{Entry, Kind, Unproven};
use crate::error::{Error, Result};
use crate::make::{Made, To};
use crate::manifest::{Header, Of, Place, Reader, Writer};
use crate::path::TreePath;
use crate::source::WholeDisk;
use crate::walk::Reach;

/// How much of each edge: all superblocks that are known stand within 512 KiB of one of what they are for.
const EDGE_BYTES: u64 = 1 << 20;

/// A disk and what is known of it.
#[derive(Clone, Copy)]
pub struct Device<'a> {
    /// The disk; nothing is written to it.
    pub disk: &'a dyn Disk,
    /// Where its partitions are, in bytes.
    pub partitions: &'a [Range<u64>],
    /// Everything on it too, not only its edges.
    pub content: bool,
}

/// A part of a disk, and what stood there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// What it is, for people: `beginning of the disk`, `end of partition 2`.
    pub name: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// BLAKE3 of its bytes.
    pub blake3: Digest,
}

/// What shows whether a disk was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Bytes.
    pub size: u64,
    /// The edges of the disk and of its partitions.
    pub regions: Vec<Region>,
    /// BLAKE3 of all of it, if that was asked for: what `b3sum` prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
}

impl Fingerprint {
    /// What differs in `now`; nothing if the disk is, as far as both tell, as it was.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let mut differences = regions_differ(self.size, &self.regions, now.size, &now.regions);
        if let (Some(was), Some(is)) = (self.content, now.content)
            && was != is
        {
            differences.push(changed("content", Change::Content { from: None, to: None }));
        }
        differences
    }
}

/// Takes a disk's fingerprint. Reads only; who wants a proof sees to it that nobody writes meanwhile.
pub fn fingerprint(device: &Device<'_>, how: &How<'_>) -> Result<Fingerprint> {
    let (size, regions) = edges(device, how)?;
    let mut keeper = Keeper(None);
    if device.content {
        read_content(device.disk, size, Algorithm::Blake3, how, &mut keeper)?;
    }
    Ok(Fingerprint { size, regions, content: keeper.0 })
}

/// Writes a disk's fingerprint as a manifest, in which its content is one file named `name`. Nothing of it is gone on with
/// when it is cut off.
pub fn make_device(device: &Device<'_>, name: &Path, algorithm: Algorithm, how: &How<'_>, to: To<'_>) -> Result<Made> {
    let (size, regions) = edges(device, how)?;
    let header = Header { of: Of::Disk(size), algorithm, reach: Reach::default(), root: name.into() };
    let mut writer = match to {
        To::Stream(out) => Writer::to_stream(out, &header)?,
        To::File(path, cut_off) => {
            let place = Place::claim(path)?;
            // What is left of one that was cut off is of no use; but it may be of a tree's run.
            if cut_off == crate::CutOff::Refuse && place.has_something()? {
                return Err(Error::DiskInterrupted { path: place.path });
            }
            Writer::to_file(place, &header, false)?
        }
    };
    for region in &regions {
        writer.region(region)?;
    }
    let mut made = Made { entries: regions.len() as u64, ..Made::default() };
    if device.content {
        let entry = content_entry(name, size);
        writer.entry(&entry, None)?;
        made = Made { entries: made.entries + 1, files: 1, bytes: size, ..made };
        read_content(device.disk, size, algorithm, how, &mut Scribe { writer: &mut writer, path: entry.path })?;
    }
    writer.finish()?;
    Ok(made)
}

/// Holds a disk against its manifest. `open` is told where the disk was, and finds it.
pub fn check_device(
    manifest: &Path,
    device: &Device<'_>,
    how: &How<'_>,
    tell: &mut dyn FnMut(&Difference) -> io::Result<()>,
) -> Result<Summary> {
    let mut reader = Reader::open(manifest)?;
    let (header, mut summary) = (reader.header().clone(), Summary::default());
    let Of::Disk(was_size) = header.of else {
        return Err(Error::OtherKind { path: manifest.into(), is: header.of.name(), wanted: "a disk" });
    };
    let was = reader.regions()?;
    let (size, is) = edges(device, how)?;
    summary.entries = was.len() as u64;
    for difference in regions_differ(was_size, &was, size, &is) {
        summary.count(&difference);
        tell(&difference).map_err(Error::Tell)?;
    }
    let Some(recorded) = reader.next_entry()? else { return Ok(summary) };
    summary.entries += 1;
    let mut judge = ContentJudge { reader, first: FirstRange::default(), sizes: (was_size, size), change: None };
    read_content(device.disk, size, header.algorithm, how, &mut judge)?;
    (summary.files, summary.bytes) = (1, size);
    if let Some(change) = judge.change {
        let difference = Difference { path: recorded.entry.path, changes: vec![change] };
        summary.count(&difference);
        tell(&difference).map_err(Error::Tell)?;
    }
    Ok(summary)
}

/// What a disk is in the manifest of its content.
fn content_entry(name: &Path, size: u64) -> Entry {
    use std::os::unix::ffi::OsStrExt;
    let path = TreePath(name.as_os_str().as_bytes().into());
    Entry { path, kind: Kind::File(size), mode: 0, uid: 0, gid: 0, xattrs: Vec::new() }
}

/// Size and edges, by offset.
fn edges(device: &Device<'_>, how: &How<'_>) -> Result<(u64, Vec<Region>)> {
    let size = device.disk.size().map_err(|source| Error::Disk { offset: 0, source })?;
    let mut places = vec![("the disk".to_owned(), 0..size)];
    let partitions = device.partitions.iter().zip(1..);
    places.extend(partitions.map(|(range, number)| (format!("partition {number}"), range.clone())));
    let mut buf = AlignedBuf::zeroed(EDGE_BYTES as usize);
    let mut regions = Vec::new();
    for (name, range) in places {
        let range = range.start.min(size)..range.end.min(size);
        let length = EDGE_BYTES.min(range.end - range.start);
        for (edge, offset) in [("beginning", range.start), ("end", range.end - length)] {
            how.watch.pace(length);
            let bytes = &mut buf[..length as usize];
            device.disk.read_at(offset, bytes).map_err(|source| Error::Disk { offset, source })?;
            let blake3 = Digest(*blake3::hash(bytes).as_bytes());
            regions.push(Region { name: format!("{edge} of {name}"), offset, length, blake3 });
        }
    }
    Ok((size, regions))
}

/// What differs between the edges of one disk, then and now.
pub(crate) fn regions_differ(was_size: u64, was: &[Region], is_size: u64, is: &[Region]) -> Vec<Difference> {
    let mut differences = Vec::new();
    if was_size != is_size {
        differences.push(changed("the disk", Change::Size { was: was_size, is: is_size }));
    }
    for one in was {
        let to = one.offset + one.length;
        match is.iter().find(|other| other.name == one.name) {
            None => differences.push(changed(&one.name, Change::Missing)),
            Some(other) if (other.offset, other.length) == (one.offset, one.length) => {
                if other.blake3 != one.blake3 {
                    differences.push(changed(&one.name, Change::Content { from: Some(one.offset), to: Some(to) }));
                }
            }
            Some(_) => differences.push(changed(&one.name, Change::Moved { was: one.offset..to })),
        }
    }
    let is_new = |one: &&Region| !was.iter().any(|other| other.name == one.name);
    differences.extend(is.iter().filter(is_new).map(|one| changed(&one.name, Change::New)));
    differences
}

fn changed(name: &str, change: Change) -> Difference {
    Difference { path: TreePath(name.into()), changes: vec![change] }
}

fn read_content<'s>(
    disk: &'s dyn Disk,
    size: u64,
    algorithm: Algorithm,
    how: &How<'s>,
    consume: &mut dyn Consume<()>,
) -> Result<()> {
    how.watch.total(size);
    let produce = |feed: &engine::Feed<'s, ()>| {
        let mut content = feed.content(Arc::new(WholeDisk(disk)), size)?;
        content.read(|| Ok(None))?;
        Ok(content.end(None)?)
    };
    engine::run(algorithm, how, produce, consume)
}

fn unread(trouble: &Unproven) -> Error {
    Error::Disk { offset: 0, source: io::Error::other(trouble.detail.clone()) }
}

/// Keeps the content's digest.
struct Keeper(Option<Digest>);

impl Consume<()> for Keeper {
    fn item(&mut self, (): ()) -> Result<()> {
        Ok(())
    }

    fn range(&mut self, _: u64, _: Sum, _: Option<Sum>) -> Result<()> {
        Ok(())
    }

    fn end(&mut self, sum: Result<Sum, Unproven>, _: Option<Sum>) -> Result<()> {
        self.0 = sum.map_err(|trouble| unread(&trouble))?.as_digest();
        Ok(())
    }
}

/// Writes the content's sums down.
struct Scribe<'a, 'o> {
    writer: &'a mut Writer<'o>,
    path: TreePath,
}

impl Consume<()> for Scribe<'_, '_> {
    fn item(&mut self, (): ()) -> Result<()> {
        Ok(())
    }

    fn range(&mut self, _: u64, sum: Sum, _: Option<Sum>) -> Result<()> {
        self.writer.range(sum)
    }

    fn end(&mut self, sum: Result<Sum, Unproven>, _: Option<Sum>) -> Result<()> {
        self.writer.sum(sum.map_err(|trouble| unread(&trouble))?, &self.path)
    }
}

/// Compares the content's sums with what was written down.
struct ContentJudge {
    reader: Reader,
    first: FirstRange,
    sizes: (u64, u64),
    change: Option<Change>,
}

impl Consume<()> for ContentJudge {
    fn item(&mut self, (): ()) -> Result<()> {
        Ok(())
    }

    fn range(&mut self, number: u64, sum: Sum, _: Option<Sum>) -> Result<()> {
        if let Some(was) = self.reader.range()? {
            self.first.note(number, was == sum);
        }
        Ok(())
    }

    fn end(&mut self, sum: Result<Sum, Unproven>, _: Option<Sum>) -> Result<()> {
        let is = sum.map_err(|trouble| unread(&trouble))?;
        match self.reader.outcome()? {
            Some(Ok(was)) => self.change = (was != is).then(|| self.first.change(self.sizes)),
            // A manifest has a sum for its content: it was read through.
            _ => return Err(Error::Broken),
        }
        Ok(())
    }
}
