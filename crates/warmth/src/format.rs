//! Our own format of a map.
//!
//! Eight bytes `KSWARMTH`, the version (4 bytes; this and the next are little-endian), the length of the body (8 bytes), the
//! BLAKE3 of the body (32 bytes), and the body, compressed with Zstandard. Numbers in the body are LEB128, names are their
//! length and their bytes:
//!
//! ```text
//! body = page size, seconds since 1970, number of roots, root names, number of files, files
//! file = root's index, name, size + 1 (or 0: nothing is known of it), [inode, last used,] number of runs, runs
//! run  = pages since the end of the run before, pages less one
//! ```
//!
//! Files are in order, by their roots' indexes and their names, and no two are the same: what repeats compresses to
//! nothing, and would make values of gigabytes from a map of kilobytes.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Malformed;
use crate::map::{BYTES_MAX, File, Identity, Map, is_plain};
use crate::runs::{Runs, get, put};

const MAGIC: &[u8; 8] = b"KSWARMTH";
/// Raised by every change that makes older releases misunderstand a map.
const VERSION: u32 = 1;
/// Magic, version, length, digest.
const HEAD: usize = 8 + 4 + 8 + 32;
/// Fast, and within some percent of the higher ones: what repeats is names, and runs hardly do.
const LEVEL: i32 = 3;

/// Directories of one map. Nobody names so many, and each is a value that is far larger than its bytes here.
const ROOTS_MAX: usize = 4096;

/// Whether this is meant to be a map of ours.
pub(crate) fn is_ours(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// A map's bytes.
pub fn encode(map: &Map) -> io::Result<Vec<u8>> {
    if map.roots.len() > ROOTS_MAX {
        let (roots, why) = (map.roots.len(), "more than a map may have: dump what they are in, or make several maps");
        return Err(io::Error::other(format!("it would have {roots} directories, {why}")));
    }
    let body = body(map);
    if body.len() as u64 > BYTES_MAX {
        return Err(io::Error::other(format!("it would have {} bytes, more than a map may have", body.len())));
    }
    let mut bytes = Vec::with_capacity(HEAD + body.len() / 2);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(blake3::hash(&body).as_bytes());
    zstd::stream::copy_encode(&*body, &mut bytes, LEVEL)?;
    Ok(bytes)
}

fn body(map: &Map) -> Vec<u8> {
    let mut body = Vec::new();
    put(&mut body, map.page_size);
    put(&mut body, map.dumped);
    put(&mut body, map.roots.len() as u64);
    for root in &map.roots {
        put_path(&mut body, root);
    }
    put(&mut body, map.files.len() as u64);
    for file in &map.files {
        put(&mut body, file.root as u64);
        put_path(&mut body, &file.path);
        if let Some(identity) = file.identity {
            // No file has 2^64 - 1 bytes: offsets have 63 bits.
            put(&mut body, identity.size.saturating_add(1));
            put(&mut body, identity.inode);
            put(&mut body, identity.used);
        } else {
            put(&mut body, 0);
        }
        put(&mut body, file.runs.count());
        body.extend_from_slice(file.runs.bytes());
    }
    body
}

fn put_path(body: &mut Vec<u8>, path: &Path) {
    let bytes = path.as_os_str().as_bytes();
    put(body, bytes.len() as u64);
    body.extend_from_slice(bytes);
}

/// Reads a map, and checks all of it.
pub fn decode(bytes: &[u8]) -> Result<Map, Malformed> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(Malformed::NotAMap)?;
    let (version, rest) = rest.split_first_chunk().ok_or(Malformed::CutOff)?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(Malformed::Version(version, VERSION));
    }
    let (length, rest) = rest.split_first_chunk().ok_or(Malformed::CutOff)?;
    let (digest, compressed) = rest.split_first_chunk::<32>().ok_or(Malformed::CutOff)?;
    let length = u64::from_le_bytes(*length);
    if length > BYTES_MAX {
        return Err(Malformed::TooLarge(length));
    }
    let mut body = Vec::new();
    let decoder = zstd::stream::Decoder::with_buffer(compressed).map_err(|_| Malformed::Checksum)?;
    // One byte more than there should be, to see that there is none.
    decoder.take(length + 1).read_to_end(&mut body).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Malformed::CutOff,
        _ => Malformed::Checksum,
    })?;
    if body.len() as u64 != length || blake3::hash(&body) != *digest {
        return Err(Malformed::Checksum);
    }
    parse(&body)
}

/// Reads what the checksum has vouched for: it was written so, by whomever.
fn parse(mut body: &[u8]) -> Result<Map, Malformed> {
    let body = &mut body;
    let page_size = get(body)?;
    if !page_size.is_power_of_two() || !(512..=1 << 16).contains(&page_size) {
        return Err(Malformed::Content("its pages have a size that no machine has"));
    }
    let dumped = get(body)?;
    let mut roots = Vec::new();
    for _ in 0..get(body)? {
        let root = get_path(body)?;
        if root.as_os_str().is_empty() {
            return Err(Malformed::Content("a directory has no name"));
        }
        if roots.len() == ROOTS_MAX {
            return Err(Malformed::Content("it names more directories than a map may have"));
        }
        roots.push(root);
    }
    let mut files: Vec<File> = Vec::new();
    for _ in 0..get(body)? {
        let file = get_file(body, &roots)?;
        if files.last().is_some_and(|last| place(last) >= place(&file)) {
            return Err(Malformed::Content("its files are not in order"));
        }
        files.push(file);
    }
    if !body.is_empty() {
        return Err(Malformed::Content("something stands behind its last file"));
    }
    Ok(Map { page_size, dumped, roots, files })
}

/// By what files are in order. One without a name is its root itself, and so alone; it may stand last, as it does in a map
/// that is to be read for ever.
fn place(file: &File) -> (usize, bool, &Path) {
    (file.root, file.path.as_os_str().is_empty(), &file.path)
}

fn get_file(body: &mut &[u8], roots: &[PathBuf]) -> Result<File, Malformed> {
    let root = get(body)? as usize;
    if root >= roots.len() {
        return Err(Malformed::Content("a file is below a directory that is not named"));
    }
    let path = get_path(body)?;
    if !is_plain(&path) {
        return Err(Malformed::Content("a file's name leads out of its directory"));
    }
    let identity = match get(body)?.checked_sub(1) {
        Some(size) => Some(Identity { size, inode: get(body)?, used: get(body)? }),
        None => None,
    };
    let count = get(body)?;
    if count == 0 {
        return Err(Malformed::Content("a file has no pages"));
    }
    Ok(File { root, path, identity, runs: Runs::take(body, count)? })
}

fn get_path(body: &mut &[u8]) -> Result<PathBuf, Malformed> {
    let length = get(body)? as usize;
    let (name, rest) = body.split_at_checked(length).ok_or(Malformed::CutOff)?;
    *body = rest;
    if name.contains(&0) {
        return Err(Malformed::Content("a name has a zero byte"));
    }
    Ok(Path::new(OsStr::from_bytes(name)).into())
}

#[cfg(test)]
mod tests;
