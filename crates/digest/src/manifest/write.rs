//! Writing a manifest: to a stream, or to a file that is gone on with when the run is cut off.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::algorithm::{Algorithm, Sum};
use crate::device::Region;
use crate::entry::{Entry, Kind, Why};
use crate::error::{Error, Result};
use crate::manifest::header::Header;
use crate::manifest::lines::{Line, RANGES_A_LINE};
use crate::manifest::place::Place;
use crate::path::TreePath;
use crate::source::Stamp;

/// How often what is done is made to last: this much is lost at most.
const LAST_EVERY: Duration = Duration::from_secs(5);

/// Writes entries in order.
pub(crate) struct Writer<'o> {
    to: To<'o>,
    algorithm: Algorithm,
    hasher: blake3::Hasher,
    entries: u64,
    ranges: Vec<Sum>,
    line: Vec<u8>,
}

enum To<'o> {
    Stream(&'o mut dyn Write),
    File(Partial),
}

/// A file in which a run stands until it is done.
struct Partial {
    file: BufWriter<File>,
    /// Where it is now: beside the one that it will overtake, if there is one.
    path: PathBuf,
    manifest: PathBuf,
    /// What it will overtake: held until then, so that nobody begins there anew what is being read.
    overtakes: Option<Place>,
    lasted: Instant,
}

impl<'o> Writer<'o> {
    /// To a stream: nothing is left if it is cut off.
    pub(crate) fn to_stream(out: &'o mut dyn Write, header: &Header) -> Result<Self> {
        Self::begin(To::Stream(out), header)
    }

    /// To a file that has its name once it is complete. `keeps`: what an earlier run left in its place stays until
    /// [`Writer::overtake`].
    pub(crate) fn to_file(place: Place, header: &Header, keeps: bool) -> Result<Self> {
        let (at, overtakes) = if keeps { (place.beside()?, Some(place)) } else { (place, None) };
        let Place { manifest, path, file } = at;
        file.set_len(0).map_err(|source| Error::Write { path: path.clone(), source })?;
        let (file, lasted) = (BufWriter::new(file), Instant::now());
        Self::begin(To::File(Partial { file, path, manifest, overtakes, lasted }), header)
    }

    fn begin(to: To<'o>, header: &Header) -> Result<Self> {
        let (hasher, ranges, line) = (blake3::Hasher::new(), Vec::new(), header.lines());
        let mut writer = Self { to, algorithm: header.algorithm, hasher, entries: 0, ranges, line };
        writer.flush_line()?;
        if let To::File(partial) = &mut writer.to {
            // At once: what lacks it cannot be gone on with.
            partial.file.flush().map_err(|source| Error::Write { path: partial.path.clone(), source })?;
        }
        Ok(writer)
    }

    fn flush_line(&mut self) -> Result<()> {
        self.hasher.update(&self.line);
        let written = match &mut self.to {
            To::Stream(out) => out.write_all(&self.line).map_err(Error::Tell),
            To::File(partial) => {
                partial.file.write_all(&self.line).map_err(|source| Error::Write { path: partial.path.clone(), source })
            }
        };
        self.line.clear();
        written
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        line.write(self.algorithm, &mut self.line);
        self.flush_line()?;
        self.last(false)
    }

    /// Makes what was written last, if it is time or has to be now.
    fn last(&mut self, now: bool) -> Result<()> {
        let To::File(partial) = &mut self.to else { return Ok(()) };
        if !now && partial.lasted.elapsed() < LAST_EVERY {
            return Ok(());
        }
        let sum = Sum::new(self.hasher.finalize().as_bytes());
        Line::SoFar(sum).write(self.algorithm, &mut self.line);
        self.flush_line()?;
        let To::File(partial) = &mut self.to else { return Ok(()) };
        let synced = partial.file.flush().and_then(|()| partial.file.get_ref().sync_data());
        partial.lasted = Instant::now();
        synced.map_err(|source| Error::Write { path: partial.path.clone(), source })
    }

    /// A part of a disk.
    pub(crate) fn region(&mut self, region: &Region) -> Result<()> {
        self.write(&Line::Region(region.clone()))
    }

    /// An entry; of a file, its ranges and [`Writer::sum`] or [`Writer::unproven`] follow.
    pub(crate) fn entry(&mut self, entry: &Entry, stamp: Option<&Stamp>) -> Result<()> {
        self.entries += 1;
        self.write(&Line::Entry(entry.clone()))?;
        if let Kind::Link(to) = &entry.kind
            && !to.is_empty()
        {
            self.write(&Line::Target(to.clone()))?;
        }
        for (name, sum) in &entry.xattrs {
            self.write(&Line::Xattr(name.clone(), *sum))?;
        }
        match (stamp, &self.to) {
            (Some(stamp), To::File(_)) => self.write(&Line::Stamp(*stamp)),
            _ => Ok(()),
        }
    }

    /// The entry's next range.
    pub(crate) fn range(&mut self, sum: Sum) -> Result<()> {
        self.ranges.push(sum);
        if self.ranges.len() < RANGES_A_LINE { Ok(()) } else { self.flush_ranges() }
    }

    fn flush_ranges(&mut self) -> Result<()> {
        if self.ranges.is_empty() {
            return Ok(());
        }
        let ranges = std::mem::take(&mut self.ranges);
        self.write(&Line::Ranges(ranges))
    }

    /// The entry's sum.
    pub(crate) fn sum(&mut self, sum: Sum, path: &TreePath) -> Result<()> {
        self.flush_ranges()?;
        self.write(&Line::Sum(sum, path.clone()))
    }

    /// Nothing is claimed of the entry.
    pub(crate) fn unproven(&mut self, why: Why, path: &TreePath) -> Result<()> {
        self.ranges.clear();
        self.write(&Line::Unproven(why, path.clone()))
    }

    /// Ends as a run does that is cut off right after what it did was made to last.
    #[cfg(test)]
    pub(crate) fn cut_off(mut self) -> Result<()> {
        self.flush_ranges()?;
        self.last(true)
    }

    /// All that an earlier run had is written here too: this file takes its place.
    pub(crate) fn overtake(&mut self) -> Result<()> {
        self.last(true)?;
        let To::File(partial) = &mut self.to else { return Ok(()) };
        if let Some(place) = partial.overtakes.take() {
            let renamed = fs::rename(&partial.path, &place.path);
            renamed.map_err(|source| Error::Write { path: place.path.clone(), source })?;
            partial.path.clone_from(&place.path);
        }
        Ok(())
    }

    /// The end: the manifest gets its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.overtake()?;
        match self.to {
            To::Stream(out) => {
                let end = Line::End(self.entries, Sum::new(self.hasher.finalize().as_bytes()));
                end.write(self.algorithm, &mut self.line);
                out.write_all(&self.line).and_then(|()| out.flush()).map_err(Error::Tell)
            }
            To::File(partial) => {
                // From the file that we wrote, whatever stands under its name by now.
                let written = sys::replace_file_with(&partial.manifest, |out| {
                    copy_lasting(partial.file.get_ref(), out, self.algorithm, self.entries)
                });
                written.map_err(|source| Error::Write { path: partial.manifest.clone(), source })?;
                fs::remove_file(&partial.path).map_err(|source| Error::Write { path: partial.path, source })
            }
        }
    }
}

/// Copies what a manifest keeps of a run's file, and ends it.
fn copy_lasting(mut from: &File, out: &mut dyn Write, algorithm: Algorithm, entries: u64) -> io::Result<()> {
    from.rewind()?;
    let mut lines = BufReader::new(from);
    let (mut hasher, mut line) = (blake3::Hasher::new(), Vec::new());
    loop {
        line.clear();
        // Written by us a moment ago, so no longer than our lines are.
        if lines.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if !line.starts_with(b"# stamp ") && !line.starts_with(b"# so-far ") {
            hasher.update(&line);
            out.write_all(&line)?;
        }
    }
    line.clear();
    Line::End(entries, Sum::new(hasher.finalize().as_bytes())).write(algorithm, &mut line);
    out.write_all(&line)
}
