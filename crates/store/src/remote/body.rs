//! From an async stream to what a thread reads.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::runtime::Runtime;

use super::classify;

/// A body, read by a thread. What is buffered is the piece being read and what the connection holds: some hundred KiB.
pub(super) struct Body {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    piece: Bytes,
    runtime: &'static Runtime,
    object: String,
}

impl Body {
    pub(super) fn new(
        stream: BoxStream<'static, object_store::Result<Bytes>>,
        runtime: &'static Runtime,
        object: String,
    ) -> Self {
        Self { stream, piece: Bytes::new(), runtime, object }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                None => return Ok(0),
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => return Err(io::Error::other(classify("reading", self.object.clone(), error))),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
