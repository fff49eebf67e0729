//! One line of a manifest, and back.

use crate::algorithm::{Algorithm, Sum};
use crate::device::Region;
use crate::entry::{Entry, Kind, Why};
use crate::manifest::sums;
use crate::path::{TreePath, escape_into, unescape};
use crate::source::Stamp;

/// No line is longer: the longest are two paths, escaped.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;
/// Sums of ranges in a line: some 1 KiB, which every tool's buffer for a line holds.
pub(crate) const RANGES_A_LINE: usize = 15;

/// A line after the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A thing; a link's target and attributes follow.
    Entry(Entry),
    Target(Vec<u8>),
    Xattr(Vec<u8>, Sum),
    Ranges(Vec<Sum>),
    Sum(Sum, TreePath),
    Unproven(Why, TreePath),
    /// A part of a disk.
    Region(Region),
    /// What shows whether a file is the same when a run is gone on with.
    Stamp(Stamp),
    /// All lines before this one are as they were written.
    SoFar(Sum),
    /// How many entries, and BLAKE3 of all before.
    End(u64, Sum),
}

impl Line {
    /// Appends the line with its end.
    pub(crate) fn write(&self, algorithm: Algorithm, out: &mut Vec<u8>) {
        let text = |out: &mut Vec<u8>, text: String| out.extend_from_slice(text.as_bytes());
        match self {
            Self::Entry(entry) => write_entry(entry, out),
            Self::Target(target) => {
                out.extend_from_slice(b"# target ");
                escape_into(target, out);
            }
            Self::Xattr(name, sum) => {
                text(out, format!("# xattr {sum} "));
                escape_into(name, out);
            }
            Self::Ranges(sums) => {
                out.extend_from_slice(b"# ranges");
                for sum in sums {
                    text(out, format!(" {sum}"));
                }
            }
            Self::Sum(sum, path) => sums::write(algorithm, *sum, &path.0, out),
            Self::Unproven(why, path) => {
                text(out, format!("# unproven {} ", why.word()));
                write_path(path, out);
            }
            Self::Region(region) => {
                text(out, format!("# region {} {} {} ", region.offset, region.length, region.blake3));
                escape_into(region.name.as_bytes(), out);
            }
            Self::Stamp(stamp) => {
                let Stamp { device, inode, size, modified, changed } = stamp;
                let times = format!("{} {} {} {}", modified.0, modified.1, changed.0, changed.1);
                text(out, format!("# stamp {device} {inode} {size} {times}"));
            }
            Self::SoFar(sum) => text(out, format!("# so-far {sum}")),
            Self::End(entries, sum) => text(out, format!("# end {entries} {sum}")),
        }
        out.push(b'\n');
    }

    /// Reads a line without its end.
    pub(crate) fn parse(line: &[u8], algorithm: Algorithm) -> Result<Self, String> {
        let Some(comment) = line.strip_prefix(b"# ") else {
            let (sum, path) = sums::parse(line, Some(algorithm))?;
            return Ok(Self::Sum(sum, TreePath(path)));
        };
        let mut words = Words(comment);
        let word = words.word()?;
        match word {
            b"target" => Ok(Self::Target(words.name()?)),
            b"xattr" => {
                let sum = words.sum(32)?;
                Ok(Self::Xattr(words.name()?, sum))
            }
            b"ranges" => {
                let mut sums = Vec::new();
                while !words.0.is_empty() && sums.len() < RANGES_A_LINE {
                    sums.push(words.sum(algorithm.range_sum_bytes())?);
                }
                if sums.is_empty() {
                    return Err("it lists no ranges".into());
                }
                words.end().map(|()| Self::Ranges(sums))
            }
            b"unproven" => {
                let why = Why::parse(words.word()?).ok_or("the reason is not known")?;
                Ok(Self::Unproven(why, words.path()?))
            }
            b"region" => {
                let (offset, length) = (words.number()?, words.number()?);
                let blake3 = words.sum(32)?.as_digest().ok_or("its sum is none")?;
                let name = String::from_utf8(words.name()?).map_err(|_| "its name is no text")?;
                Ok(Self::Region(Region { name, offset, length, blake3 }))
            }
            b"stamp" => {
                let (device, inode, size) = (words.number()?, words.number()?, words.number()?);
                let modified = (words.signed()?, words.small()?);
                let changed = (words.signed()?, words.small()?);
                words.end().map(|()| Self::Stamp(Stamp { device, inode, size, modified, changed }))
            }
            b"so-far" => {
                let sum = words.sum(32)?;
                words.end().map(|()| Self::SoFar(sum))
            }
            b"end" => {
                let (entries, sum) = (words.number()?, words.sum(32)?);
                words.end().map(|()| Self::End(entries, sum))
            }
            word => parse_entry(word, &mut words).map(Self::Entry),
        }
    }
}

fn write_entry(entry: &Entry, out: &mut Vec<u8>) {
    let (word, fact) = match &entry.kind {
        Kind::File(size) => ("file", format!("{size} ")),
        Kind::Directory => ("directory", String::new()),
        Kind::Mount => ("mount", String::new()),
        Kind::Link(_) => ("link", String::new()),
        Kind::Pipe => ("pipe", String::new()),
        Kind::Socket => ("socket", String::new()),
        Kind::Character(major, minor) => ("character", format!("{major}:{minor} ")),
        Kind::Block(major, minor) => ("block", format!("{major}:{minor} ")),
        Kind::Unknown => ("unknown", String::new()),
    };
    let Entry { mode, uid, gid, .. } = entry;
    out.extend_from_slice(format!("# {word} {mode:o} {uid} {gid} {fact}").as_bytes());
    write_path(&entry.path, out);
}

fn parse_entry(word: &[u8], words: &mut Words<'_>) -> Result<Entry, String> {
    let mode = words.word()?;
    let mode = std::str::from_utf8(mode).ok().and_then(|mode| u32::from_str_radix(mode, 8).ok());
    let mode = mode.filter(|mode| *mode <= 0o7777).ok_or("its permissions are none")?;
    let (uid, gid) = (words.small()?, words.small()?);
    let kind = match word {
        b"file" => Kind::File(words.number()?),
        b"directory" => Kind::Directory,
        b"mount" => Kind::Mount,
        b"link" => Kind::Link(Vec::new()),
        b"pipe" => Kind::Pipe,
        b"socket" => Kind::Socket,
        b"character" => words.device().map(|(major, minor)| Kind::Character(major, minor))?,
        b"block" => words.device().map(|(major, minor)| Kind::Block(major, minor))?,
        b"unknown" => Kind::Unknown,
        word => return Err(format!("{:?} is no word that is known", String::from_utf8_lossy(word))),
    };
    Ok(Entry { path: words.path()?, kind, mode, uid, gid, xattrs: Vec::new() })
}

fn write_path(path: &TreePath, out: &mut Vec<u8>) {
    if path.0.is_empty() { out.push(b'.') } else { escape_into(&path.0, out) }
}

/// What is left of a line.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn word(&mut self) -> Result<&'a [u8], String> {
        let end = self.0.iter().position(|&byte| byte == b' ').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        if word.is_empty() { Err("a word is missing".into()) } else { Ok(word) }
    }

    fn parse<T: std::str::FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        let parsed = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        parsed.ok_or_else(|| format!("{:?} is no number that fits", String::from_utf8_lossy(word)))
    }

    fn number(&mut self) -> Result<u64, String> {
        self.parse()
    }

    fn signed(&mut self) -> Result<i64, String> {
        self.parse()
    }

    fn small(&mut self) -> Result<u32, String> {
        self.parse()
    }

    fn sum(&mut self, bytes: usize) -> Result<Sum, String> {
        let word = self.word()?;
        Sum::parse(word, bytes).ok_or_else(|| format!("{:?} is no sum of {bytes} bytes", String::from_utf8_lossy(word)))
    }

    fn device(&mut self) -> Result<(u32, u32), String> {
        let word = std::str::from_utf8(self.word()?).ok();
        let parsed = word.and_then(|word| {
            let (major, minor) = word.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        parsed.ok_or_else(|| "its device number is none".into())
    }

    /// All that is left, unescaped.
    fn name(&mut self) -> Result<Vec<u8>, String> {
        let name = unescape(std::mem::take(&mut self.0)).ok_or("its name is not escaped as names are")?;
        if name.is_empty() { Err("a name is missing".into()) } else { Ok(name) }
    }

    fn path(&mut self) -> Result<TreePath, String> {
        let name = self.name()?;
        Ok(if name == b"." { TreePath::default() } else { TreePath(name) })
    }

    fn end(&self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err("there is more than there should be".into()) }
    }
}
