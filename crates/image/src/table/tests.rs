//! Both tables, written and read back; and what is not a table.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::digest::{self, Subtree, Tree};

/// A small disk in memory, by chunk: `None` is zero.
#[derive(Clone, Debug)]
struct Disk {
    geometry: Geometry,
    chunks: Vec<Option<u8>>,
}

impl Disk {
    fn bytes(&self) -> Vec<u8> {
        let fill = |(number, chunk): (usize, &Option<u8>)| {
            vec![chunk.unwrap_or(0); self.geometry.chunk_length(number as u64) as usize]
        };
        self.chunks.iter().enumerate().flat_map(fill).collect()
    }
}

fn disks() -> impl Strategy<Value = Disk> {
    let chunks = prop_oneof![
        prop::collection::vec(prop::option::weighted(0.5, 1_u8..), 2..40),
        // Whole zero pages, runs over page borders, a last page with a few chunks.
        (
            prop::collection::vec(prop::option::weighted(0.5, 1_u8..), 2..40),
            prop_oneof![Just(0_usize), Just(4096), Just(8195)]
        )
            .prop_map(|(some, zeros)| {
                let (head, tail) = some.split_at(some.len() / 2);
                [head, &vec![None; zeros], tail].concat()
            }),
    ];
    (chunks, 0_u64..8).prop_map(|(chunks, short)| {
        let disk_size = chunks.len() as u64 * 4096 - short * 512;
        Disk { geometry: Geometry { disk_size, chunk_size: 4096 }, chunks }
    })
}

struct Written {
    chunk_table: Vec<u8>,
    block_table: Vec<u8>,
    payload_size: u64,
    pages: Vec<(ChunkPage, BlockPage)>,
}

/// Writes both tables, with frames of made-up lengths.
fn write(disk: &Disk) -> Written {
    let geometry = disk.geometry;
    let bytes = disk.bytes();
    let mut chunk_writer = TableWriter::new(Kind::Chunks, Cursor::new(Vec::new()));
    let mut block_writer = TableWriter::new(Kind::Blocks, Cursor::new(Vec::new()));
    let mut offset = 0;
    let mut pages = Vec::new();
    for number in 0..geometry.page_count() {
        let covers = geometry.page_chunks(number);
        let payload_offset = offset;
        let (mut chunks, mut hints) = (Vec::new(), Vec::new());
        let (mut zero_frames, mut zero_digests) = (Vec::new(), Vec::new());
        let mut run = covers.start;
        for chunk in covers.clone() {
            let start = chunk as usize * 4096;
            let data = &bytes[start..start + geometry.chunk_length(chunk) as usize];
            if disk.chunks[chunk as usize].is_some() {
                let frame = Frame { offset, length: chunk as u32 % 77 + 1 };
                offset += u64::from(frame.length);
                chunks.push(Chunk::Data { digest: digest::chunk(data, start as u64), frame });
                hints.push(digest::block_hint(data));
                run = chunk + 1;
                continue;
            }
            chunks.push(Chunk::Zero);
            if chunk + 1 == covers.end || disk.chunks[chunk as usize + 1].is_some() {
                zero_frames.push(9);
                offset += 9;
                for (first, level) in digest::largest_subtrees(run..chunk + 1, geometry.chunk_count()) {
                    let start = first * 4096;
                    zero_digests.push(digest::zeros(start, (4096 << level).min(geometry.disk_size - start)));
                }
            }
        }
        let chunk_page = ChunkPage::new(geometry, covers.start, chunks, zero_frames, zero_digests);
        let block_page = BlockPage { hints };
        chunk_writer.push(&chunk_page.encode(), payload_offset).unwrap();
        block_writer.push(&block_page.encode(), payload_offset).unwrap();
        pages.push((chunk_page, block_page));
    }
    let (mut chunk_table, mut block_table) = (Vec::new(), Vec::new());
    let finished = chunk_writer.finish(geometry, offset, &mut chunk_table).unwrap();
    assert_eq!(finished.size, chunk_table.len() as u64);
    assert_eq!(Some(finished.directory_size), Directory::size(geometry));
    block_writer.finish(geometry, offset, &mut block_table).unwrap();
    Written { chunk_table, block_table, payload_size: offset, pages }
}

fn directory(kind: Kind, table: &[u8], geometry: Geometry, payload_size: u64) -> Result<Directory, Malformed> {
    let size = Directory::size(geometry).unwrap() as usize;
    let bytes = table.get(..size).ok_or_else(|| Malformed("short".into()))?;
    Directory::decode(bytes, kind, geometry, payload_size, table.len() as u64)
}

fn stored<'a>(table: &'a [u8], directory: &Directory, page: u64) -> &'a [u8] {
    let range = directory.page_range(page).unwrap();
    &table[range.start as usize..range.end as usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn tables_read_back_as_written_and_prove_the_disk(disk in disks()) {
        let written = write(&disk);
        let geometry = disk.geometry;
        let chunks = directory(Kind::Chunks, &written.chunk_table, geometry, written.payload_size).unwrap();
        let blocks = directory(Kind::Blocks, &written.block_table, geometry, written.payload_size).unwrap();
        let mut tree = Tree::new(geometry.chunk_count());
        for (number, (chunk_page, block_page)) in (0..).zip(&written.pages) {
            let bytes = chunks.page_bytes(number, stored(&written.chunk_table, &chunks, number)).unwrap();
            let payload = chunks.payload_range(number).unwrap();
            let found = ChunkPage::decode(&bytes, geometry, geometry.page_chunks(number), payload).unwrap();
            prop_assert_eq!(&found, chunk_page);
            let bytes = blocks.page_bytes(number, stored(&written.block_table, &blocks, number)).unwrap();
            prop_assert_eq!(&BlockPage::decode(&bytes, geometry, &found).unwrap(), block_page);
            found.subtrees().for_each(|subtree: Subtree| tree.push(subtree));
        }
        prop_assert_eq!(tree.finish(), Digest(*blake3::hash(&disk.bytes()).as_bytes()));
    }

    #[test]
    fn a_changed_page_is_noticed(disk in disks(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let mut written = write(&disk);
        let chunks = directory(Kind::Chunks, &written.chunk_table, disk.geometry, written.payload_size).unwrap();
        let start = chunks.page_range(0).unwrap().start as usize;
        let at = start + at.index(written.chunk_table.len() - start);
        written.chunk_table[at] ^= flip;
        let wrong = (0..chunks.page_count())
            .filter(|page| chunks.page_bytes(*page, stored(&written.chunk_table, &chunks, *page)).is_err());
        prop_assert_eq!(wrong.count(), 1);
    }

    #[test]
    fn malformed_directories_get_an_error_or_another_sound_directory(
        disk in disks(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let written = write(&disk);
        let size = Directory::size(disk.geometry).unwrap() as usize;
        let mut bytes = written.chunk_table[..size].to_vec();
        for (at, flip) in flips {
            bytes[at.index(size)] ^= flip;
        }
        let table_size = written.chunk_table.len() as u64;
        if let Ok(found) = Directory::decode(&bytes, Kind::Chunks, disk.geometry, written.payload_size, table_size) {
            prop_assert_eq!(found.table_size(), table_size);
            for page in 0..found.page_count() {
                prop_assert!(found.payload_range(page).unwrap().end <= written.payload_size);
            }
        }
    }

    #[test]
    fn malformed_pages_get_an_error_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600), chunks in 1_u64..200, payload in 0_u64..1 << 20,
    ) {
        let geometry = Geometry { disk_size: 200 * 4096, chunk_size: 4096 };
        if let Ok(page) = ChunkPage::decode(&bytes, geometry, 0..chunks, 0..payload) {
            prop_assert_eq!(page.encode(), bytes.clone());
            let _ = BlockPage::decode(&bytes, geometry, &page);
        }
    }

    #[test]
    fn a_cut_or_continued_page_is_refused(disk in disks(), cut in any::<prop::sample::Index>()) {
        let written = write(&disk);
        let (page, blocks) = &written.pages[0];
        let covers = disk.geometry.page_chunks(0);
        let payload = 0..written.payload_size;
        let mut bytes = page.encode();
        let cut = cut.index(bytes.len());
        prop_assert!(ChunkPage::decode(&bytes[..cut], disk.geometry, covers.clone(), payload.clone()).is_err());
        bytes.push(0);
        prop_assert!(ChunkPage::decode(&bytes, disk.geometry, covers, payload).is_err());
        let mut bytes = blocks.encode();
        bytes.push(0);
        prop_assert!(BlockPage::decode(&bytes, disk.geometry, page).is_err());
        prop_assert!(bytes.len() < 9 || BlockPage::decode(&bytes[..bytes.len() - 9], disk.geometry, page).is_err());
    }
}

#[test]
fn a_table_of_another_disk_kind_or_length_is_refused() {
    let geometry = Geometry { disk_size: 10 * 4096, chunk_size: 4096 };
    let disk = Disk { geometry, chunks: vec![Some(1); 10] };
    let Written { chunk_table, block_table, payload_size, .. } = write(&disk);
    assert!(directory(Kind::Chunks, &chunk_table, geometry, payload_size).is_ok());
    assert!(directory(Kind::Chunks, &block_table, geometry, payload_size).is_err(), "kind");
    assert!(directory(Kind::Chunks, &chunk_table[..chunk_table.len() - 1], geometry, payload_size).is_err(), "short");
    let longer = [&chunk_table[..], b"x"].concat();
    assert!(directory(Kind::Chunks, &longer, geometry, payload_size).is_err(), "long");
    let other = Geometry { disk_size: 11 * 4096, ..geometry };
    assert!(directory(Kind::Chunks, &chunk_table, other, payload_size).is_err(), "disk");
}

/// Sums that do not fit 64 bits are errors, not wrapped.
#[test]
fn frames_beyond_the_largest_offset_are_refused() {
    let geometry = Geometry { disk_size: 2 * 4096, chunk_size: 4096 };
    let disk = Disk { geometry, chunks: vec![Some(1), None] };
    let bytes = write(&disk).pages[0].0.encode();
    for start in [u64::MAX, u64::MAX - 3, u64::MAX - 9] {
        assert!(ChunkPage::decode(&bytes, geometry, 0..2, start..u64::MAX).is_err(), "{start}");
    }
}

/// The directory's size is computed, and bounded, before anything is fetched or held.
#[test]
fn a_disk_too_large_for_a_directory_has_none() {
    assert_eq!(Directory::size(Geometry { disk_size: u64::MAX, chunk_size: 4096 }), None);
    assert_eq!(Directory::size(Geometry { disk_size: 64 << 30, chunk_size: 64 << 10 }), Some(24 + 256 * 48));
}
