//! From a disk to verdicts: whether to compare, what is equal, what can be reused, what is written in any case.

use image::Image;
use image::table::{Chunk, PAGE_CHUNKS};
use model::manifest::BLOCK_BYTES;

use crate::Flash;
use crate::apply::chunks_with_hints;
use crate::boot_area::Meanwhile;
use crate::compare::{Compare, Compared};
use crate::error::Result;
use crate::geometry::Geometry;
use crate::index::{BlockIndex, LazyIndex};
use crate::log::Log;
use crate::probe::Samples;
use crate::prove::Counters;
use crate::verdict::{ChunkSet, Verdict, Verdicts};

/// What comparing found.
pub(crate) struct Examined {
    pub(crate) verdicts: Verdicts,
    pub(crate) index: Option<BlockIndex>,
    pub(crate) compared: Compared,
    pub(crate) why: String,
}

impl Flash<'_> {
    /// Chunks that are written whatever they are, because turning the boot area off overwrites them.
    pub(crate) fn forced(geometry: Geometry, meanwhile: &Meanwhile) -> ChunkSet {
        let mut forced = ChunkSet::new(geometry.image_chunks());
        forced.insert(0);
        for (offset, _) in &meanwhile.then {
            forced.insert(geometry.chunk_of(*offset));
        }
        forced
    }

    /// If anything is to be written, the forced chunks are too.
    pub(crate) fn force(&self, verdicts: &Verdicts, forced: &ChunkSet) -> Result<()> {
        if verdicts.iter().all(|(_, verdict)| verdict == Verdict::Equal) {
            return Ok(());
        }
        for chunk in forced.iter().filter(|&chunk| chunk < verdicts.len()) {
            if verdicts.get(chunk) == Verdict::Equal {
                let page = self.image.chunk_page(chunk / PAGE_CHUNKS as u64)?;
                let is_zero = page.chunks[(chunk % PAGE_CHUNKS as u64) as usize] == Chunk::Zero;
                verdicts.set(chunk, if is_zero { Verdict::Zero } else { Verdict::Fetch });
            }
        }
        Ok(())
    }

    /// Compares the disk with the image, unless a few looks tell that it cannot pay.
    pub(crate) fn examine(
        &self,
        geometry: Geometry,
        log: Option<&Log>,
        forced: &ChunkSet,
        must_compare: bool,
        tail: bool,
        counters: &Counters,
    ) -> Result<Examined> {
        let verdicts = Verdicts::unknown(geometry.image_chunks());
        let can_skip = !must_compare && self.disk.zeroes_itself();
        let samples = Samples::take(self.disk, self.image, geometry)?;
        let count = samples.count();
        if can_skip && samples.is_blank() {
            take_all(self.image, &verdicts)?;
            let why = format!("not compared: the disk is zero at all of {count} places");
            return Ok(Examined { verdicts, index: None, compared: Compared::default(), why });
        }
        let lazy = LazyIndex::new(self.image);
        let useful = if samples.are_equal(geometry) { count } else { samples.useful(geometry, lazy.get()?) };
        if can_skip && useful == 0 {
            take_all(self.image, &verdicts)?;
            let why = format!("not compared: nothing to keep or reuse at {count} places");
            return Ok(Examined { verdicts, index: None, compared: Compared::default(), why });
        }
        let size = compared_size(geometry, tail);
        self.watch.phase("comparing", size);
        let compare = Compare {
            disk: self.disk,
            image: self.image,
            geometry,
            size,
            index: Some(&lazy),
            log,
            forced,
            relog: false,
            counters,
            watch: self.watch,
        };
        let compared = compare.run(Compare::segments(size), &verdicts, self.threads())?;
        let index = lazy.into_inner();
        if let Some(index) = &index {
            self.tell(index, &compared.untold, geometry)?;
        }
        let why = format!("compared: something to keep or reuse at {useful} of {count} places");
        Ok(Examined { verdicts, index, compared, why })
    }

    /// Tells the index of chunks that equal the image's: what blocks they have the image's own table says.
    fn tell(&self, index: &BlockIndex, equal: &ChunkSet, geometry: Geometry) -> Result<()> {
        let blocks_a_chunk = geometry.chunk / u64::from(BLOCK_BYTES);
        for page in 0..geometry.image_chunks().div_ceil(PAGE_CHUNKS as u64) {
            let first = page * PAGE_CHUNKS as u64;
            let range = first..(first + PAGE_CHUNKS as u64).min(geometry.image_chunks());
            if !range.clone().any(|chunk| equal.contains(chunk)) {
                continue;
            }
            for (chunk, _, hints) in chunks_with_hints(self.image, geometry, range)? {
                if equal.contains(chunk) {
                    (chunk * blocks_a_chunk..).zip(hints).for_each(|(block, hint)| index.found(hint, block, true));
                }
            }
        }
        Ok(())
    }

    /// Gives [`Verdict::Reuse`] to the chunks all of whose blocks the disk has. With space to stage them
    /// (`any_source`) also from places that will be overwritten.
    pub(crate) fn find_reuse(
        &self,
        verdicts: &Verdicts,
        geometry: Geometry,
        index: &BlockIndex,
        any_source: bool,
    ) -> Result<()> {
        let is_at_hand =
            |hint: u64| index.is_zero(hint) || index.source(hint).is_some_and(|source| any_source || source.stable);
        for page in 0..verdicts.len().div_ceil(PAGE_CHUNKS as u64) {
            let first = page * PAGE_CHUNKS as u64;
            let range = first..(first + PAGE_CHUNKS as u64).min(verdicts.len());
            if range.clone().all(|chunk| verdicts.get(chunk) != Verdict::Fetch) {
                continue;
            }
            for (chunk, _, hints) in chunks_with_hints(self.image, geometry, range)? {
                if verdicts.get(chunk) == Verdict::Fetch && hints.iter().all(|&hint| is_at_hand(hint)) {
                    verdicts.set(chunk, Verdict::Reuse);
                }
            }
        }
        Ok(())
    }
}

/// Everything that the image has is to be written.
pub(crate) fn take_all(image: &Image, verdicts: &Verdicts) -> Result<()> {
    for page in 0..verdicts.len().div_ceil(PAGE_CHUNKS as u64) {
        for (chunk, entry) in (page * PAGE_CHUNKS as u64..).zip(&image.chunk_page(page)?.chunks) {
            verdicts.set(chunk, if *entry == Chunk::Zero { Verdict::Zero } else { Verdict::Fetch });
        }
    }
    Ok(())
}

/// How far the disk is read to compare it: the image's extent, to the end of the disk's chunk; or, with its `tail`, all of it.
pub(crate) fn compared_size(geometry: Geometry, tail: bool) -> u64 {
    if tail { geometry.disk } else { geometry.on_disk(geometry.image_chunks() - 1).end }
}
