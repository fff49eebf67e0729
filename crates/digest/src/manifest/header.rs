//! A manifest's first two lines: what it is of, and how it was made.

use std::ffi::OsStr;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::algorithm::{Algorithm, RANGE_BYTES};
use crate::error::Error;
use crate::manifest::read::bounded_line;
use crate::path::{escape_into, unescape};
use crate::walk::Reach;

/// The format that is written. A change to what lines mean raises it.
pub const FORMAT: u32 = 1;
/// How our manifests begin.
pub(crate) const MARK: &[u8] = b"# keepstate-digest ";

/// What a manifest is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A tree.
    Tree,
    /// A disk of so many bytes.
    Disk(u64),
}

impl Of {
    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tree => "a tree",
            Self::Disk(_) => "a disk",
        }
    }
}

/// How a manifest was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is of.
    pub of: Of,
    /// How contents are hashed.
    pub algorithm: Algorithm,
    /// What was looked at.
    pub reach: Reach,
    /// Where it was.
    pub root: PathBuf,
}

impl Header {
    /// The header of the manifest at `path`; nothing if that is none of ours.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let failed = |source| Error::Read { path: path.into(), source };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut next = || -> Result<Vec<u8>, Error> {
            let mut line = bounded_line(&mut file).map_err(failed)?.unwrap_or_default();
            line.pop_if(|byte| *byte == b'\n');
            Ok(line)
        };
        let first = next()?;
        if !first.starts_with(MARK) {
            return Ok(None);
        }
        let malformed = |why| Error::Malformed { path: path.into(), line: 1, why };
        Self::parse(&first, &next()?).map(Some).map_err(malformed)
    }

    /// The two lines, with their ends.
    pub(crate) fn lines(&self) -> Vec<u8> {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        let of = match self.of {
            Of::Tree => "tree".to_owned(),
            Of::Disk(size) => format!("disk size={size}"),
        };
        let mut lines = MARK.to_vec();
        let facts = format!(
            "format={FORMAT} of={of} algorithm={} range={RANGE_BYTES} xattrs={} mounts={}\n# root ",
            self.algorithm,
            yes(self.reach.xattrs),
            yes(self.reach.mounts),
        );
        lines.extend_from_slice(facts.as_bytes());
        escape_into(self.root.as_os_str().as_bytes(), &mut lines);
        lines.push(b'\n');
        lines
    }

    /// From the first two lines, without their ends.
    pub(crate) fn parse(first: &[u8], second: &[u8]) -> Result<Self, String> {
        let facts = first.strip_prefix(MARK).and_then(|facts| std::str::from_utf8(facts).ok());
        let facts = facts.ok_or("it does not begin as one")?;
        let fact = |name: &str| {
            let mut values = facts.split(' ').filter_map(|fact| fact.strip_prefix(name)?.strip_prefix('='));
            values.next().ok_or_else(|| format!("its first line does not say {name}="))
        };
        let number = |name: &str| {
            let text = fact(name)?;
            text.parse::<u64>().map_err(|_| format!("{name}={text} is no number"))
        };
        let format = number("format")?;
        if format != u64::from(FORMAT) {
            return Err(format!(
                "it has format {format}, and this release reads {FORMAT}: use the release that made it"
            ));
        }
        let of = match fact("of")? {
            "tree" => Of::Tree,
            "disk" => Of::Disk(number("size")?),
            other => return Err(format!("of={other} is not known")),
        };
        let yes = |name: &str| match fact(name)? {
            "yes" => Ok(true),
            "no" => Ok(false),
            other => Err(format!("{name}={other} is neither yes nor no")),
        };
        let range = number("range")?;
        if range != RANGE_BYTES {
            return Err(format!("its ranges have {range} bytes, and this release's {RANGE_BYTES}"));
        }
        let root = second.strip_prefix(b"# root ").and_then(unescape).ok_or("its second line does not say its root")?;
        Ok(Self {
            of,
            algorithm: fact("algorithm")?.parse()?,
            reach: Reach { xattrs: yes("xattrs")?, mounts: yes("mounts")? },
            root: PathBuf::from(OsStr::from_bytes(&root)),
        })
    }
}
