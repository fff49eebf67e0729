//! Where a file's blocks are, whatever filesystem they are in, and its bytes.

use std::io::{self, Read};

/// Blocks of a file that lie one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first one's number within the file.
    pub(crate) logical: u64,
    /// The first one's number within the filesystem.
    pub(crate) physical: u64,
    /// How many; not 0.
    pub(crate) count: u64,
    /// Whether they hold anything: what is allocated and not written is zeros.
    pub(crate) is_written: bool,
}

impl Run {
    /// The number within the file of the block behind the last one.
    pub(crate) fn end(&self) -> u64 {
        self.logical + self.count
    }
}

/// A filesystem's blocks.
pub(crate) trait Blocks {
    /// Bytes in each.
    fn block_bytes(&self) -> u64;

    /// Reads `bytes`, which begin `within` the block `first` and may go on in those that follow.
    fn read_within(&self, first: u64, within: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// Reads a file by its extents; holes are zeros.
#[derive(Debug)]
pub(crate) struct FileReader<'a, B> {
    blocks: &'a B,
    runs: Vec<Run>,
    size: u64,
    at: u64,
}

impl<'a, B: Blocks> FileReader<'a, B> {
    /// A file of `size` bytes, whose `runs` are in its order and do not overlap.
    pub(crate) fn new(blocks: &'a B, runs: Vec<Run>, size: u64) -> Self {
        Self { blocks, runs, size, at: 0 }
    }
}

impl<B: Blocks> Read for FileReader<'_, B> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let block_bytes = self.blocks.block_bytes();
        let block = self.at / block_bytes;
        // The run that this block is in, or the next one.
        let next = self.runs.partition_point(|run| run.end() <= block);
        let (run, end) = match self.runs.get(next) {
            Some(run) if run.logical <= block => (Some(run), run.end()),
            Some(run) => (None, run.logical),
            None => (None, self.size.div_ceil(block_bytes)),
        };
        let end = end.saturating_mul(block_bytes).min(self.size);
        let length = end.saturating_sub(self.at).min(bytes.len() as u64) as usize;
        let bytes = &mut bytes[..length];
        match run {
            Some(run) if run.is_written && length > 0 => {
                self.blocks.read_within(run.physical + (block - run.logical), self.at % block_bytes, bytes)?;
            }
            _ => bytes.fill(0),
        }
        self.at += length as u64;
        Ok(length)
    }
}
