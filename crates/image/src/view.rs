//! A disk's bytes at any place: what partition tables and filesystems are read through.

use std::io;

use crate::open::{Error, Image};
use crate::recent::Recent;
use crate::table::{Chunk, PAGE_CHUNKS};

/// Bytes that can be read at any place.
pub trait ReadAt: Send + Sync {
    /// How many there are.
    fn size(&self) -> u64;
    /// Fills `buf` from `offset`; what is beyond the end is an error.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let bytes = start.and_then(|start| self.get(start..start.checked_add(buf.len())?));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Chunks kept: a filesystem's small reads come back to the same few.
const CHUNKS_KEPT: usize = 64;

/// The disk that an image holds, read through its payload: checked chunk by chunk, and without the disk.
#[derive(Debug)]
pub struct View {
    image: Image,
    chunks: Recent<Vec<u8>>,
}

impl View {
    /// The disk of `image`.
    pub fn new(image: Image) -> Self {
        Self { image, chunks: Recent::new(CHUNKS_KEPT) }
    }

    /// The image beneath.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Fills `buf` from within chunk `number`.
    fn read_chunk(&self, number: u64, within: usize, buf: &mut [u8]) -> Result<(), Error> {
        let page = self.image.chunk_page(number / PAGE_CHUNKS as u64)?;
        let chunk = self.chunks.get(number, || {
            match page.chunks[(number % PAGE_CHUNKS as u64) as usize] {
                // An empty one stands for zeros, which need no memory.
                Chunk::Zero => Ok(Vec::new()),
                Chunk::Data { digest, frame } => {
                    let geometry = self.image.geometry();
                    let mut bytes = vec![0; geometry.chunk_length(number) as usize];
                    let offset = number * u64::from(geometry.chunk_size);
                    self.image.fetch(frame, offset, &digest, &mut bytes)?;
                    Ok::<_, Error>(bytes)
                }
            }
        })?;
        if chunk.is_empty() {
            buf.fill(0);
        } else {
            buf.copy_from_slice(&chunk[within..within + buf.len()]);
        }
        Ok(())
    }
}

impl ReadAt for View {
    fn size(&self) -> u64 {
        self.image.geometry().disk_size
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let chunk_size = u64::from(self.image.geometry().chunk_size);
        while !buf.is_empty() {
            let (number, within) = (offset / chunk_size, offset % chunk_size);
            let (part, rest) = buf.split_at_mut(buf.len().min((chunk_size - within) as usize));
            self.read_chunk(number, within as usize, part).map_err(io::Error::other)?;
            offset += part.len() as u64;
            buf = rest;
        }
        Ok(())
    }
}
