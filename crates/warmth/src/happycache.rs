//! happycache's format: text, compressed with gzip.
//!
//! For each file a line with its name, which begins with `./` (or with `/`), and then a line for each of its pages, with the
//! number of pages since the one before; since the file's beginning, for the first. From happycache's README and from what
//! its releases write: since 2014 they begin a file of more than 4 GiB anew, by its name, every 2^20 pages, and other files
//! may stand in between. Pages are those of the machine; the map does not say how large they are.
//!
//! A line that is a number is a step; every other line is a name. So it is read here, too.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::error::Malformed;
use crate::map::{BYTES_MAX, File, Map};
use crate::runs::{Run, Runs};

/// What happycache reads a line into, its end and a zero byte included: longer names are cut in two by it.
const LINE_MAX: usize = 4096 - 2;

/// Memory that a map may take: sixteen million files. Text of little bytes, compressed to nothing, could name a billion.
const MEMORY_MAX: u64 = 4 * BYTES_MAX;
/// What a file takes besides its runs and twice its name: its value, its place among the known ones, and three allocations.
const FILE_BYTES: u64 = 256;

/// Files that a happycache map cannot name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many.
    pub files: u64,
    /// How many pages of them were cached.
    pub pages: u64,
}

/// A map's bytes, and what they leave out: names with a line's end in them, or too long for happycache's buffer.
pub fn encode(map: &Map) -> io::Result<(Vec<u8>, LeftOut)> {
    let mut left_out = LeftOut::default();
    let mut text = GzEncoder::new(Vec::new(), Compression::fast());
    for file in &map.files {
        let name = [b"./", file.path.as_os_str().as_bytes()].concat();
        if name.contains(&b'\n') || name.len() > LINE_MAX || file.path.as_os_str().is_empty() {
            left_out.files += 1;
            left_out.pages += file.runs.pages();
            continue;
        }
        text.write_all(&name)?;
        text.write_all(b"\n")?;
        let mut before = 0;
        for run in &file.runs {
            writeln!(text, "{}", run.first - before)?;
            for _ in 1..run.pages {
                text.write_all(b"1\n")?;
            }
            before = run.end() - 1;
        }
    }
    Ok((text.finish()?, left_out))
}

/// Reads a map, compressed or (as `zcat` gives it) not. Its names are relative to a root `.`, or to `/`.
pub fn decode(bytes: &[u8]) -> Result<Map, Malformed> {
    decode_within(bytes, MEMORY_MAX)
}

/// The same, if it takes no more than `most` bytes of memory.
fn decode_within(bytes: &[u8], most: u64) -> Result<Map, Malformed> {
    let text: Box<dyn BufRead + '_> = match bytes {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(bytes))),
        [b'.' | b'/', ..] => Box::new(bytes),
        // happycache found nothing in its cache.
        [] => return Err(Malformed::CutOff),
        _ => return Err(Malformed::NotAMap),
    };
    let mut reading = Reading::default();
    let mut line = Vec::new();
    // A map of ours may have a gigabyte; written like this, the same pages take no more than eight times that.
    let mut text = text.take(8 * BYTES_MAX);
    loop {
        line.clear();
        let length = (&mut text).take(LINE_MAX as u64 + 2).read_until(b'\n', &mut line);
        if length.map_err(|_| Malformed::CutOff)? == 0 {
            break;
        }
        reading.number += 1;
        let content = line.strip_suffix(b"\n");
        reading
            .line(content.ok_or(Malformed::Line(reading.number, "it has no end, or is longer than a name may be"))?)?;
        if reading.bytes > most {
            return Err(Malformed::Line(reading.number, "with it, the map takes more memory than any that is honest"));
        }
    }
    if text.limit() == 0 {
        return Err(Malformed::TooLarge(8 * BYTES_MAX));
    }
    let mut files = reading.files;
    files.sort_by(|one, other| (one.root, &one.path).cmp(&(other.root, &other.path)));
    Ok(Map { page_size: sys::page_cache::page_size(), dumped: 0, roots: ROOTS.map(PathBuf::from).into(), files })
}

/// Where names begin: `./x` and `/x`.
const ROOTS: [&str; 2] = [".", "/"];

/// What was read so far.
#[derive(Default)]
struct Reading {
    number: u64,
    files: Vec<File>,
    /// Where in `files` a name stands.
    known: HashMap<(usize, PathBuf), usize>,
    current: Option<Current>,
    /// Memory that all of it takes, roughly.
    bytes: u64,
}

/// The file whose pages are read.
enum Current {
    /// None of them came yet: a name alone is not kept.
    Named(usize, PathBuf),
    /// Where in `files` it stands, and the last page.
    Known(usize, u64),
}

impl Reading {
    fn line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        if !line.is_empty() && line.iter().all(u8::is_ascii_digit) { self.step(line) } else { self.name(line) }
    }

    fn step(&mut self, digits: &[u8]) -> Result<(), Malformed> {
        let number = self.number;
        let wrong = |why| Malformed::Line(number, why);
        let text = std::str::from_utf8(digits).unwrap_or_default();
        let step: u64 = text.parse().map_err(|_| wrong("a number that does not fit 64 bits"))?;
        let (index, before) = match self.current.take().ok_or(wrong("a page before any file's name"))? {
            Current::Named(root, path) => (self.file(root, path), None),
            Current::Known(index, page) => (index, Some(page)),
        };
        let page = before.unwrap_or(0).checked_add(step).ok_or(wrong("a page behind the end of any file"))?;
        let runs = &mut self.files[index].runs;
        // The same page again is nothing new.
        if before != Some(page) {
            let bytes = runs.bytes().len();
            let pushed = runs.push(Run { first: page, pages: 1 });
            pushed.map_err(|_| wrong("a page that is there already, or lies behind the end of any file"))?;
            self.bytes += runs.bytes().len().saturating_sub(bytes) as u64;
        }
        self.current = Some(Current::Known(index, page));
        Ok(())
    }

    /// Where a file stands; it is put there when it is new.
    fn file(&mut self, root: usize, path: PathBuf) -> usize {
        *self.known.entry((root, path)).or_insert_with_key(|(root, path)| {
            self.bytes += FILE_BYTES + 2 * path.as_os_str().len() as u64;
            self.files.push(File { root: *root, path: path.clone(), identity: None, runs: Runs::default() });
            self.files.len() - 1
        })
    }

    fn name(&mut self, name: &[u8]) -> Result<(), Malformed> {
        let wrong = |why| Malformed::Line(self.number, why);
        let name = Path::new(OsStr::from_bytes(name));
        let root = usize::from(name.is_absolute());
        let mut path = PathBuf::new();
        for component in name.components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(wrong("a name that leads out of the directory"));
                }
            }
        }
        if path.as_os_str().is_empty() || path.as_os_str().as_bytes().contains(&0) {
            return Err(wrong("neither a name nor a number of pages"));
        }
        self.current = Some(Current::Named(root, path));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
