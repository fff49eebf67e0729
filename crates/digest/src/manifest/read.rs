//! Reading a manifest: once through to see that it is whole, then entry by entry.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use crate::algorithm::Sum;
use crate::device::Region;
use crate::engine;
use crate::entry::{Entry, Kind, Why};
use crate::error::{Error, Result};
use crate::manifest::header::{Header, Of};
use crate::manifest::lines::{LINE_BYTES_MAX, Line};
use crate::path::TreePath;
use crate::source::Stamp;

/// A disk has two edges, and two for each of its partitions, of which a GPT may list some thousand.
const REGIONS_MAX: usize = 8192;

/// A manifest that was read through once and is whole, at one of its entries.
#[derive(Debug)]
pub struct Reader {
    lines: Lines,
    header: Header,
    /// What all its files have together, in bytes.
    bytes: u64,
    entries: u64,
    /// Read and not yet used.
    ahead: Option<Line>,
    /// Sums of the entry's ranges that were read and not yet asked for.
    ranges: std::vec::IntoIter<Sum>,
    /// Where to stop: the end, or the last place up to which a cut-off manifest can be believed.
    until: u64,
}

/// An entry as it was written down. Its ranges and what came of it are asked of the reader, in this order.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) entry: Entry,
    pub(crate) stamp: Option<Stamp>,
}

impl Reader {
    /// Opens a manifest, and reads it through once: one that was cut off or changed is refused.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let mut reader = Self::begin(file, path)?;
        let through = reader.read_through(false)?;
        if !through.is_whole {
            return Err(reader.lines.malformed("its last line is missing: it was cut off"));
        }
        reader.rewind(&through)
    }

    /// Opens what a run left that was cut off, as far as that can be believed. `file` is it, at its beginning.
    pub(crate) fn open_partial(file: File, path: &Path) -> Result<Self> {
        let mut reader = Self::begin(file, path)?;
        let through = reader.read_through(true)?;
        reader.rewind(&through)
    }

    /// How it was made.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many entries it has.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// What its files have together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Refuses a manifest of something else.
    pub(crate) fn of_tree(self) -> Result<Self> {
        match self.header.of {
            Of::Tree => Ok(self),
            of @ Of::Disk(_) => Err(Error::OtherKind { path: self.lines.path, is: of.name(), wanted: "a tree" }),
        }
    }

    fn begin(file: File, path: &Path) -> Result<Self> {
        let hasher = blake3::Hasher::new();
        let mut lines = Lines { file: BufReader::new(file), path: path.into(), number: 0, offset: 0, hasher };
        let mut next = || Ok(lines.next()?.unwrap_or_default());
        let (first, second) = (next()?, next()?);
        let header = Header::parse(&first, &second).map_err(|why| lines.malformed(why))?;
        let (bytes, entries, ahead, ranges, until) = (0, 0, None, Vec::new().into_iter(), u64::MAX);
        Ok(Self { lines, header, bytes, entries, ahead, ranges, until })
    }

    fn rewind(mut self, through: &Through) -> Result<Self> {
        let failed = |source| Error::Read { path: self.lines.path.clone(), source };
        self.lines.file.rewind().map_err(failed)?;
        let Lines { file, path, .. } = self.lines;
        let mut lines = Lines { file, path, number: 0, offset: 0, hasher: blake3::Hasher::new() };
        lines.next()?;
        lines.next()?;
        Ok(Self { lines, bytes: through.bytes, entries: through.entries, until: through.believed, ..self })
    }

    /// Reads all lines and checks that they make sense one after the other.
    fn read_through(&mut self, is_partial: bool) -> Result<Through> {
        let mut through = Through::default();
        loop {
            let (before, so_far) = (self.lines.offset, self.lines.hasher.clone());
            let line = match self.lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(through),
                // What a crash left behind the last place that can be believed.
                Err(Error::Malformed { .. }) if is_partial => return Ok(through),
                Err(error) => return Err(error),
            };
            if through.is_whole {
                return Err(self.lines.malformed("there are lines behind its last one"));
            }
            let hash = || Sum::new(so_far.finalize().as_bytes());
            let parsed = Line::parse(&line, self.header.algorithm);
            let noted = parsed.and_then(|line| match line {
                Line::SoFar(sum) if is_partial => {
                    if sum != hash() {
                        return Err("it was changed after it was written".into());
                    }
                    through.believed = before;
                    Ok(())
                }
                Line::End(entries, sum) if !is_partial => {
                    if sum != hash() || entries != through.entries {
                        return Err("it was changed after it was written".into());
                    }
                    (through.is_whole, through.believed) = (true, before);
                    through.close()
                }
                line => through.note(line, self.header.of, is_partial),
            });
            match noted {
                Ok(()) => {}
                Err(_) if is_partial => return Ok(through),
                Err(why) => return Err(self.lines.malformed(why)),
            }
        }
    }

    fn next_line(&mut self) -> Result<Option<Line>> {
        if let Some(line) = self.ahead.take() {
            return Ok(Some(line));
        }
        while self.lines.offset < self.until {
            let Some(line) = self.lines.next()? else { break };
            match Line::parse(&line, self.header.algorithm).map_err(|why| self.lines.malformed(why))? {
                Line::SoFar(_) => {}
                line => return Ok(Some(line)),
            }
        }
        Ok(None)
    }

    /// The next entry; what was not asked for of the one before is passed over.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Recorded>> {
        self.ranges = Vec::new().into_iter();
        let entry = loop {
            match self.next_line()? {
                Some(Line::Entry(entry)) => break entry,
                Some(_) => {}
                None => return Ok(None),
            }
        };
        let mut recorded = Recorded { entry, stamp: None };
        while let Some(line) = self.next_line()? {
            match line {
                Line::Target(to) => recorded.entry.kind = Kind::Link(to),
                Line::Xattr(name, sum) => recorded.entry.xattrs.push((name, sum)),
                Line::Stamp(stamp) => recorded.stamp = Some(stamp),
                other => {
                    self.ahead = Some(other);
                    break;
                }
            }
        }
        Ok(Some(recorded))
    }

    /// The sum of the entry's next range; nothing behind the last, or for a content of one range.
    pub(crate) fn range(&mut self) -> Result<Option<Sum>> {
        if let Some(sum) = self.ranges.next() {
            return Ok(Some(sum));
        }
        match self.next_line()? {
            Some(Line::Ranges(sums)) => {
                self.ranges = sums.into_iter();
                Ok(self.ranges.next())
            }
            other => {
                self.ahead = other;
                Ok(None)
            }
        }
    }

    /// What came of the entry: its sum, or why there is none; nothing for what has no content, or was cut off before.
    pub(crate) fn outcome(&mut self) -> Result<Option<Result<Sum, Why>>> {
        while self.range()?.is_some() {}
        match self.next_line()? {
            Some(Line::Sum(sum, _)) => Ok(Some(Ok(sum))),
            Some(Line::Unproven(why, _)) => Ok(Some(Err(why))),
            other => {
                self.ahead = other;
                Ok(None)
            }
        }
    }

    /// The parts of a disk, which stand before its content.
    pub(crate) fn regions(&mut self) -> Result<Vec<Region>> {
        let mut regions = Vec::new();
        loop {
            match self.next_line()? {
                Some(Line::Region(region)) if regions.len() < REGIONS_MAX => regions.push(region),
                other => {
                    self.ahead = other;
                    return Ok(regions);
                }
            }
        }
    }
}

/// What the first reading learned.
#[derive(Debug, Default)]
struct Through {
    bytes: u64,
    entries: u64,
    is_whole: bool,
    believed: u64,
    last: Option<TreePath>,
    /// A file whose outcome has not come yet, and how many ranges of it have.
    file: Option<(TreePath, u64, u64)>,
}

impl Through {
    fn note(&mut self, line: Line, of: Of, is_partial: bool) -> Result<(), String> {
        match line {
            Line::Entry(entry) => {
                self.close()?;
                if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
                    return Err(format!("{} is not in its place: entries are in order", entry.path));
                }
                self.entries += 1;
                if let Kind::File(size) = entry.kind {
                    self.bytes = self.bytes.saturating_add(size);
                    self.file = Some((entry.path.clone(), engine::ranges(size), 0));
                }
                self.last = Some(entry.path);
            }
            Line::Ranges(sums) => {
                let (_, ranges, seen) = self.file.as_mut().ok_or("ranges of no file")?;
                *seen += sums.len() as u64;
                if *ranges == 1 || *seen > *ranges {
                    return Err("there are more ranges than the file has".into());
                }
            }
            Line::Sum(_, path) => {
                let (of, ranges, seen) = self.file.take().ok_or("a sum of no file")?;
                if of != path {
                    return Err(format!("a sum of {path} stands where that of {of} should"));
                }
                // A sum in the tools' format has no ranges before it.
                if ranges > 1 && seen != ranges {
                    return Err(format!("{path} has {ranges} ranges, and {seen} are listed"));
                }
            }
            // Of a file, or of a directory or thing without a content.
            Line::Unproven(_, path) => {
                self.file = None;
                if self.last.as_ref() != Some(&path) {
                    return Err(format!("{path} is said to be unproven in the wrong place"));
                }
            }
            Line::Region(_) if matches!(of, Of::Disk(_)) && self.entries == 0 => {}
            Line::Region(_) => return Err("a part of a disk stands in the wrong place".into()),
            Line::Target(_) | Line::Xattr(..) => {
                if self.last.is_none() {
                    return Err("it belongs to no entry".into());
                }
            }
            Line::Stamp(_) if is_partial => {}
            Line::Stamp(_) | Line::SoFar(_) | Line::End(..) => return Err("it stands in the wrong place".into()),
        }
        Ok(())
    }

    /// No file is left open.
    fn close(&mut self) -> Result<(), String> {
        match self.file.take() {
            None => Ok(()),
            Some((path, ..)) => Err(format!("{path} has no sum")),
        }
    }
}

/// Lines of bounded length, counted and hashed.
#[derive(Debug)]
struct Lines {
    file: BufReader<File>,
    path: PathBuf,
    number: u64,
    offset: u64,
    hasher: blake3::Hasher,
}

impl Lines {
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let line = bounded_line(&mut self.file).map_err(|source| Error::Read { path: self.path.clone(), source })?;
        let Some(mut line) = line else { return Ok(None) };
        self.number += 1;
        self.offset += line.len() as u64;
        self.hasher.update(&line);
        if line.pop() != Some(b'\n') {
            return Err(self.malformed("it has no end, or is too long"));
        }
        Ok(Some(line))
    }

    fn malformed(&self, why: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), line: self.number, why: why.into() }
    }
}

/// The next line with its end; without one if it is longer than any may be, or the last; nothing at the end.
pub(crate) fn bounded_line(file: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    file.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    Ok((!line.is_empty()).then_some(line))
}
