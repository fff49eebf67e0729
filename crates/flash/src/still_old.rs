//! Whether a disk is the old one that an undo log describes: not written to yet, or put back. Its OS may have run on since,
//! so not every chunk need be as logged. The log's events say what was meant to be done; this is what was.

use std::collections::BTreeMap;

use image::Image;
use image::table::PAGE_CHUNKS;
use model::Digest;
use sys::{AlignedBuf, Disk, Medium};

use crate::error::{Error, Result};
use crate::geometry::{Geometry, len};
use crate::log::{Contents, Kind, Purpose, Reader, State};
use crate::undo::{parse_content, parse_digests};
use crate::verdict::ChunkSet;

/// How many of the chunks that a flash overwrites are looked at.
const SAMPLE: u64 = 256;

/// A disk, and the undo log that tells what it was.
struct StillOld<'a> {
    disk: &'a dyn Disk,
    medium: &'a dyn Medium,
    contents: &'a Contents,
    image: Option<&'a Image>,
    geometry: Geometry,
}

/// Whether the disk is the old one: it is not dead, as it is from the first write of a flash or an undo to the last, and of what a
/// flash overwrites more is what the log says it was than what the image has there. What is neither, the OS that runs has written
/// since, and tells nothing: it may be most of it (journal, logs); and zeros may be what it has trimmed. Without the image, all that is
/// not the old is taken for it.
///
/// In doubt it is the old one as long as the log does not say that the first write was to come: that is flushed before it.
pub(crate) fn is_still_old(
    disk: &dyn Disk,
    medium: &dyn Medium,
    contents: &Contents,
    image: Option<&Image>,
) -> Result<bool> {
    let size = disk.size().map_err(|source| Error::Disk { doing: "reading the size of", offset: 0, source })?;
    let geometry = contents.geometry()?;
    if size != geometry.disk {
        return Ok(false);
    }
    StillOld { disk, medium, contents, image, geometry }.answer()
}

/// Whether a disk has no sector 0, which the old one had: it was written to. Reads hardly more than that.
pub(crate) fn is_dead(disk: &dyn Disk, medium: &dyn Medium, contents: &Contents) -> Result<bool> {
    let geometry = contents.geometry()?;
    let first = geometry.read_chunk(disk, 0)?;
    let is_zero = sys::is_zero(&first[..disk.sector_size() as usize]);
    Ok(is_zero && !StillOld { disk, medium, contents, image: None, geometry }.had_no_sector_0()?)
}

impl StillOld<'_> {
    fn answer(&self) -> Result<bool> {
        let has_begun = !matches!(self.contents.state, State::Unsealed | State::Sealed);
        let first = match self.geometry.read_chunk(self.disk, 0) {
            // Torn by a power cut, as only a flash or an undo leaves it.
            Err(_) if has_begun => return Ok(false),
            first => first?,
        };
        let (sector_0, rest) = first.split_at(self.disk.sector_size() as usize);
        let logged = self.logged()?;
        let is_zero = sys::is_zero(sector_0);
        if logged.is_empty() {
            // What a flash leaves behind that is cut off has nothing in sector 0.
            return Ok(!has_begun && (!is_zero || sys::is_zero(rest)));
        }
        if is_zero && (has_begun || !self.had_no_sector_0()?) {
            return Ok(false);
        }
        // Another image than the log's has nothing to say, and the log says that nothing was written.
        if !has_begun && self.image.is_none() {
            return Ok(true);
        }
        let (mut old, mut new) = (0, 0);
        for (chunk, was) in &logged {
            // One that cannot be read tells nothing; nor do zeros, which an OS makes of what it has deleted.
            let content = self.geometry.read_chunk(self.disk, *chunk).ok().filter(|content| !sys::is_zero(content));
            let Some(content) = content else { continue };
            let now = image::digest::chunk(&content, self.geometry.on_disk(*chunk).start);
            let is_old = *was == Some(now);
            let is_new = match self.image {
                Some(image) => self.is_image_s(image, *chunk, &content)?,
                None => !is_old,
            };
            match (is_old, is_new) {
                (true, false) => old += 1,
                (false, true) => new += 1,
                _ => {}
            }
        }
        Ok(if has_begun { old > new } else { old >= new })
    }

    /// Whether a chunk's content is what the image has there.
    fn is_image_s(&self, image: &Image, chunk: u64, content: &[u8]) -> Result<bool> {
        let range = self.geometry.in_image(chunk);
        let content = &content[..len(&range)];
        let page = image.chunk_page(chunk / PAGE_CHUNKS as u64)?;
        Ok(page.chunks[(chunk % PAGE_CHUNKS as u64) as usize].is(content, range.start))
    }

    /// Chunks that the flash overwrites and what they were last: of those whose content the first pass logged some, all over the
    /// image's extent. What the old disk has behind it may be logged too, and stays as it is through a flash. Later passes log
    /// whole segments, of which most may be what the image has, too. Not the boot area's, which is logged always, if there is
    /// another.
    fn logged(&self) -> Result<BTreeMap<u64, Option<Digest>>> {
        let chunks = self.geometry.image_chunks();
        let mut logged = ChunkSet::new(chunks);
        let nothing_wanted = |chunk| {
            if chunk < chunks {
                logged.insert(chunk);
            }
            false
        };
        self.reader()?.glancing().up_to(self.first_pass()?).next_content(Kind::Old, nothing_wanted)?;
        let count = logged.count();
        let inner = logged.iter().filter(|chunk| (1..chunks - 1).contains(chunk));
        let mut sample: BTreeMap<u64, Option<Digest>> =
            inner.step_by(count.div_ceil(SAMPLE).max(1) as usize).map(|chunk| (chunk, None)).collect();
        if sample.is_empty() {
            sample.extend(logged.iter().map(|chunk| (chunk, None)));
        }
        let mut reader = self.reader()?.glancing();
        while let Some(record) = reader.next_of(Kind::Digests)? {
            let digests = parse_digests(&record, self.geometry)?;
            let end = digests.first + digests.digests.len() as u64;
            for (chunk, was) in sample.range_mut(digests.first..end) {
                *was = digests.digests[(*chunk - digests.first) as usize];
            }
        }
        Ok(sample)
    }

    /// Where the log ends that the first pass has made.
    fn first_pass(&self) -> Result<u64> {
        let mut reader = self.reader()?.glancing();
        reader.next_of(Kind::Seal)?;
        Ok(reader.offset())
    }

    /// Whether the old disk's sector 0 was zero, as of a filesystem without a partition table: then it tells nothing.
    fn had_no_sector_0(&self) -> Result<bool> {
        let mut reader = self.reader()?.glancing();
        let mut content = AlignedBuf::zeroed(len(&self.geometry.on_disk(0)));
        let mut is_known = false;
        while let Some(record) = reader.next_content(Kind::Old, |chunk| chunk == 0)? {
            parse_content(&record)?.1.decode(0, &mut content, Purpose::Undo.name())?;
            is_known = true;
        }
        Ok(is_known && sys::is_zero(&content[..self.disk.sector_size() as usize]))
    }

    /// Of the log as far as it was found to be whole.
    fn reader(&self) -> Result<Reader<'_>> {
        Ok(Reader::new(self.medium, Purpose::Undo)?.up_to(self.contents.end))
    }
}
