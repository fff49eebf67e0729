//! Large objects go up in parts, a few at a time; nobody sees the object before the last word.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use bytes::Bytes;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;

use super::Remote;
use crate::budget::Budget;
use crate::clock::lock;
use crate::memory::wrong_body;
use crate::{Error, Kind, Policy, Result, Store, SystemClock};

/// Size of a part; a smaller object is written by one request. With [`PARALLEL`] parts under way and one being read this
/// holds 40 MiB.
const PART_BYTES: u64 = 8 << 20;
/// S3's limit. 8 MiB parts reach 80 GB; beyond that they grow.
const PARTS_MAX: u64 = 10_000;
/// Parts under way.
const PARALLEL: usize = 4;

/// See [`Store::upload`]: parts are repeated under one budget for the whole upload.
pub(super) fn upload(
    remote: &Remote,
    key: &str,
    size: u64,
    body: &mut (dyn Read + Send),
    progress: &dyn Fn(u64),
) -> Result<()> {
    let path = remote.path("writing", key)?;
    let parts = remote.writable("writing", key)?;
    let clock = SystemClock::default();
    // A longer way has more stones: one retry more for every 16 parts.
    let retries = remote.policy.retries + (size / part_bytes(size) / 16) as u32;
    let policy = Policy { retries, ..remote.policy.clone() };
    let budget = Mutex::new(Budget::new(&policy, &clock));
    let body = &mut Source { body, left: size, object: remote.object(key), size };
    if size <= PART_BYTES {
        let bytes = body.part(PART_BYTES)?;
        retrying(&budget, || remote.put(key, &bytes))?;
        progress(size);
        return Ok(());
    }
    let id = retrying(&budget, || remote.wait("writing", key, parts.create_multipart(&path)))?;
    let multipart = Multipart { remote, parts: &**parts, key, path, id, budget };
    let finished = multipart.send(size, body, progress).and_then(|ids| multipart.complete(size, &ids));
    if finished.is_err() {
        // What was sent would be kept, and paid for, for ever. Best effort: there is an error to report already.
        let abort = multipart.parts.abort_multipart(&multipart.path, &multipart.id);
        if let Err(error) = remote.wait("aborting the upload of", key, abort) {
            tracing::warn!("{}: its parts may be left behind in the store", crate::error::chain(&error));
        }
    }
    finished
}

fn part_bytes(size: u64) -> u64 {
    PART_BYTES.max(size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20))
}

/// Calls until it works. Threads that fail wait for each other: one budget, one wait at a time.
fn retrying<T>(budget: &Mutex<Budget<'_>>, attempt: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => lock(budget).spend(error)?,
        }
    }
}

struct Multipart<'a> {
    remote: &'a Remote,
    parts: &'a dyn MultipartStore,
    key: &'a str,
    path: Path,
    id: String,
    budget: Mutex<Budget<'a>>,
}

impl Multipart<'_> {
    /// Reads on this thread, sends on a few others.
    fn send(&self, size: u64, body: &mut Source<'_>, progress: &dyn Fn(u64)) -> Result<Vec<PartId>> {
        let part_bytes = part_bytes(size);
        let count = size.div_ceil(part_bytes) as usize;
        let mut ids: Vec<Option<PartId>> = (0..count).map(|_| None).collect();
        let mut sent = 0;
        let mut done = |(index, bytes, result): (usize, u64, Result<PartId>)| -> Result<()> {
            ids[index] = Some(result?);
            sent += bytes;
            progress(sent);
            Ok(())
        };
        thread::scope(|scope| {
            // No queue: a part is read when somebody is free to send it.
            let (give, take) = mpsc::sync_channel::<(usize, Bytes)>(0);
            let (tell, told) = mpsc::channel();
            let take = Arc::new(Mutex::new(take));
            for _ in 0..PARALLEL.min(count) {
                let (take, tell) = (Arc::clone(&take), tell.clone());
                scope.spawn(move || {
                    loop {
                        let next = lock(&take).recv();
                        let Ok((index, bytes)) = next else { return };
                        let length = bytes.len() as u64;
                        let result = self.put_part(index, &bytes);
                        if tell.send((index, length, result)).is_err() {
                            return;
                        }
                    }
                });
            }
            // The senders end when `give` is dropped: at the end, or by an error on the way.
            drop(tell);
            for index in 0..count {
                let bytes = body.part(part_bytes)?;
                // Refused only when all senders are gone, and then what they told says why.
                if give.send((index, bytes)).is_err() {
                    break;
                }
                while let Ok(part) = told.try_recv() {
                    done(part)?;
                }
            }
            drop(give);
            told.iter().try_for_each(&mut done)
        })?;
        Ok(ids.into_iter().flatten().collect())
    }

    fn put_part(&self, index: usize, bytes: &Bytes) -> Result<PartId> {
        retrying(&self.budget, || {
            let part = self.parts.put_part(&self.path, &self.id, index, bytes.clone().into());
            self.remote.wait("writing", self.key, part)
        })
    }

    fn complete(&self, size: u64, ids: &[PartId]) -> Result<()> {
        let complete = || {
            let completed = self.parts.complete_multipart(&self.path, &self.id, ids.to_vec());
            match self.remote.wait("writing", self.key, completed) {
                // The upload is gone when the answer to an earlier attempt was lost: then the object is there.
                Err(error) if error.kind == Kind::NotFound => match self.remote.head(self.key) {
                    Ok(object) if object.size == size => Ok(()),
                    _ => Err(error),
                },
                result => result.map(drop),
            }
        };
        retrying(&self.budget, complete)
    }
}

/// What is to be written, which must have exactly the size that was announced.
struct Source<'a> {
    body: &'a mut (dyn Read + Send),
    left: u64,
    size: u64,
    object: String,
}

impl Source<'_> {
    fn part(&mut self, most: u64) -> Result<Bytes> {
        let length = self.left.min(most);
        let mut bytes = Vec::with_capacity(length as usize);
        // One more at the end, to see that nothing follows.
        let is_last = length == self.left;
        let limit = length + u64::from(is_last);
        let read = (&mut *self.body).take(limit).read_to_end(&mut bytes);
        read.map_err(|error: io::Error| {
            Error::new(Kind::Invalid, "reading what is to be written to", self.object.clone(), error)
        })?;
        if bytes.len() as u64 != length {
            return Err(wrong_body(self.object.clone(), self.size));
        }
        self.left -= length;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_beyond_80_gb() {
        assert_eq!(part_bytes(PART_BYTES + 1), PART_BYTES);
        assert_eq!(part_bytes(80_000 << 20), 8 << 20);
        assert_eq!(part_bytes((80_000 << 20) + 1), 9 << 20);
        // S3's largest object.
        let largest = 5 << 40;
        assert!(largest / part_bytes(largest) <= PARTS_MAX);
    }
}
