//! Keys: what an object of a store may be called.

use crate::{Error, Kind, Result};

/// Names of half-written files begin with this; no key's part may.
pub(crate) const PARTIAL: &str = ".partial-";

/// Longest key, in bytes: S3's own limit.
const LENGTH_MAX: usize = 1024;

/// Refuses what could leave the store's prefix, or mean different things to different stores.
pub fn check(doing: &'static str, key: &str) -> Result<()> {
    let wrong =
        |why: &str| Err(Error::new(Kind::Invalid, doing, format!("{key:?}"), format!("{why}, so it is no key")));
    if key.is_empty() {
        return wrong("it is empty");
    }
    if key.len() > LENGTH_MAX {
        return wrong("it is longer than 1024 bytes");
    }
    if key.bytes().any(|byte| byte < b' ' || byte == b'\\' || byte == 0x7f) {
        return wrong("it holds a control character or a backslash");
    }
    for part in key.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return wrong("it has an empty part, \".\" or \"..\"");
        }
        if part.starts_with(PARTIAL) {
            return wrong("it has the name of a half-written file");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_its_store() {
        for key in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\0b",
            "a\\..\\b",
            ".partial-1",
            "a/.partial-x/b",
        ] {
            let error = check("reading", key).expect_err(key);
            assert_eq!(error.kind, Kind::Invalid, "{key:?}");
        }
        assert!(check("reading", &"k".repeat(1025)).is_err());
        for key in ["a", "debian/1/manifest.json", "a..b/...c", "ä/ö ü"] {
            check("reading", key).expect(key);
        }
    }
}
