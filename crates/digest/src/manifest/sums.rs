//! Lines as `sha256sum`, `xxh64sum` and `b3sum` write and check them.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};

use crate::algorithm::{Algorithm, Sum};
use crate::error::{Error, Result};
use crate::manifest::lines::LINE_BYTES_MAX;
use crate::manifest::read::bounded_line;
use crate::path::{TreePath, escape_into, needs_escape, unescape};

/// A manifest as the tools write them, line by line in whatever order it has.
#[derive(Debug)]
pub(crate) struct Sums {
    file: BufReader<File>,
    path: PathBuf,
    number: u64,
    algorithm: Algorithm,
}

impl Sums {
    /// Opens one; without an algorithm that is said, its first sum shows it.
    pub(crate) fn open(path: &Path, algorithm: Option<Algorithm>) -> Result<Self> {
        let failed = |source| Error::Read { path: path.into(), source };
        let file = BufReader::new(File::open(path).map_err(failed)?);
        let mut sums = Self { file, path: path.into(), number: 0, algorithm: algorithm.unwrap_or_default() };
        if algorithm.is_none() {
            let first = sums.next_line()?.ok_or_else(|| sums.malformed("it lists no sum"))?;
            let shown = algorithm_of(&first);
            sums.algorithm = shown.ok_or_else(|| sums.malformed("it begins with no sum of xxh64, sha256 or blake3"))?;
            sums.file.rewind().map_err(failed)?;
            sums.number = 0;
        }
        Ok(sums)
    }

    /// How its contents are hashed.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The next file, and its sum.
    pub(crate) fn next(&mut self) -> Result<Option<(Sum, TreePath)>> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        let (sum, path) = parse(&line, Some(self.algorithm)).map_err(|why| self.malformed(why))?;
        let path = path.strip_prefix(b"./").map_or(path.clone(), Into::into);
        Ok(Some((sum, TreePath(path))))
    }

    /// The next line that is no comment, without its end.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let line = bounded_line(&mut self.file);
            let line = line.map_err(|source| Error::Read { path: self.path.clone(), source })?;
            let Some(mut line) = line else { return Ok(None) };
            self.number += 1;
            // The last one may lack it, in a file that was written by hand.
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if line.len() >= LINE_BYTES_MAX {
                return Err(self.malformed("it is too long"));
            }
            if !line.is_empty() && !line.starts_with(b"#") {
                return Ok(Some(line));
            }
        }
    }

    fn malformed(&self, why: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), line: self.number, why: why.into() }
    }
}

/// Appends a line without its end.
pub(crate) fn write(algorithm: Algorithm, sum: Sum, path: &[u8], out: &mut Vec<u8>) {
    // xxhsum before 0.8.3 knows no escapes and takes backslashes as they are; ends of lines it cannot take at all.
    let escapes = match algorithm {
        Algorithm::Xxh64 => path.iter().any(|byte| matches!(byte, b'\n' | b'\r')),
        Algorithm::Blake3 | Algorithm::Sha256 => needs_escape(path),
    };
    if escapes {
        out.push(b'\\');
    }
    out.extend_from_slice(format!("{sum}  ").as_bytes());
    if escapes { escape_into(path, out) } else { out.extend_from_slice(path) }
}

/// Reads a line without its end: `SUM  PATH`, `SUM *PATH` or `NAME (PATH) = SUM`, each with a backslash before it if the
/// path is escaped. Without an algorithm that is expected, only lines that name theirs are understood.
pub(crate) fn parse(line: &[u8], expected: Option<Algorithm>) -> Result<(Sum, Vec<u8>), String> {
    let (line, is_escaped) = line.strip_prefix(b"\\").map_or((line, false), |line| (line, true));
    let (sum, path) = if let Some((algorithm, path, digits)) = tagged(line) {
        if expected.is_some_and(|expected| expected != algorithm) {
            return Err(format!("it is a sum of {algorithm}, and others are of another algorithm"));
        }
        (Sum::parse(digits, algorithm.sum_bytes()), path)
    } else {
        let end = line.iter().position(|&byte| byte == b' ').ok_or("it is neither a sum and a path nor a comment")?;
        let (digits, rest) = line.split_at(end);
        let path = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *"));
        let path = path.ok_or("two blanks are missing between sum and path")?;
        let algorithm = expected.ok_or("it does not say of which algorithm it is")?;
        (Sum::parse(digits, algorithm.sum_bytes()), path)
    };
    let sum = sum.ok_or_else(|| match expected {
        Some(algorithm) => format!("its sum is none of {algorithm}"),
        None => "its sum is none".into(),
    })?;
    let path = if is_escaped { unescape(path).ok_or("its path is not escaped as paths are")? } else { path.to_vec() };
    if path.is_empty() || path.contains(&0) {
        return Err("its path is none".into());
    }
    Ok((sum, path))
}

/// `SHA256 (PATH) = SUM`.
fn tagged(line: &[u8]) -> Option<(Algorithm, &[u8], &[u8])> {
    let tags = [("SHA256", Algorithm::Sha256), ("XXH64", Algorithm::Xxh64), ("BLAKE3", Algorithm::Blake3)];
    let (tag, algorithm) = tags.into_iter().find(|(tag, _)| line.starts_with(format!("{tag} (").as_bytes()))?;
    let rest = &line[tag.len() + 2..];
    // A path may hold what comes behind it: the last one counts.
    let end = rest.windows(4).rposition(|four| four == b") = ")?;
    Some((algorithm, &rest[..end], &rest[end + 4..]))
}

/// Of which algorithm a line is, as far as it shows: sums of 64 digits are of two.
pub(crate) fn algorithm_of(line: &[u8]) -> Option<Algorithm> {
    let line = line.strip_prefix(b"\\").unwrap_or(line);
    if let Some((algorithm, ..)) = tagged(line) {
        return Some(algorithm);
    }
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    match digits {
        16 => Some(Algorithm::Xxh64),
        64 => Some(Algorithm::Sha256),
        _ => None,
    }
}
