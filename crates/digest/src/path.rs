//! Names of a tree's files: any bytes that Linux allows, in one order, and escaped where lines are written.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Serialize, Serializer};

/// A path from a tree's root; the root itself is empty, and shown as `.`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreePath(pub(crate) Vec<u8>);

impl TreePath {
    /// As the operating system takes it.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Ord for TreePath {
    /// The order of a walk: a directory, all that is below it, the next name. So the separator comes before every byte
    /// that a name may have (it may not have zero).
    fn cmp(&self, other: &Self) -> Ordering {
        fn key(path: &TreePath) -> impl Iterator<Item = u8> {
            path.0.iter().map(|&byte| if byte == b'/' { 0 } else { byte })
        }
        key(self).cmp(key(other))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// For people: what would break a line or is no text is written as an escape.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(".");
        }
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

impl Serialize for TreePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a name has to be escaped to stand in a line, as `sha256sum` sees it.
pub(crate) fn needs_escape(name: &[u8]) -> bool {
    name.iter().any(|byte| matches!(byte, b'\n' | b'\r' | b'\\'))
}

/// Appends a name with its backslashes and ends of lines escaped, as `sha256sum` does it.
pub(crate) fn escape_into(name: &[u8], line: &mut Vec<u8>) {
    for &byte in name {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\\' => line.extend_from_slice(b"\\\\"),
            byte => line.push(byte),
        }
    }
}

/// The name that was escaped; nothing if it was not.
pub(crate) fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        name.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath(text.into())
    }

    #[test]
    fn the_order_is_that_of_a_walk() {
        let walked = ["", "a", "a/b", "a/b/c", "a/c", "a b", "a-b", "a.b", "aa", "b"].map(path);
        let mut sorted = walked.clone();
        sorted.reverse();
        sorted.sort();
        assert_eq!(sorted, walked);
    }

    #[test]
    fn people_see_text() {
        assert_eq!(path("").to_string(), ".");
        assert_eq!(path("a\nb\u{e9}").to_string(), "a\\nb\u{e9}");
        assert_eq!(TreePath(vec![b'a', 0xff, b'b', 0xc3]).to_string(), "a\\xffb\\xc3");
    }

    proptest! {
        #[test]
        fn names_of_any_bytes_come_back(name in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut line = Vec::new();
            escape_into(&name, &mut line);
            prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
            prop_assert_eq!(needs_escape(&name), line != name);
            prop_assert_eq!(unescape(&line), Some(name));
        }

        #[test]
        fn what_is_not_escaped_well_is_refused(end in "[^nr\\\\]?") {
            prop_assert_eq!(unescape(format!("a\\{end}").as_bytes()), None);
        }
    }
}
