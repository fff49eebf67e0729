//! UEFI's variables, as Linux shows them in `/sys/firmware/efi/efivars`: one file each, whose first four bytes are the
//! variable's attributes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use sys::kernel::set_immutable;

use crate::error::{Error, Result};
use crate::host::{self, Host};

/// Where they are.
pub(super) const DIRECTORY: &str = "/sys/firmware/efi/efivars";
/// Of all variables that the specification itself names.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Kept without power, seen before an OS runs and by it: what every boot variable is.
const KEPT_AND_SEEN: u32 = 1 | 2 | 4;

/// A variable's attributes and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its attributes.
    pub attributes: u32,
    /// Its content.
    pub data: Vec<u8>,
}

/// All of a machine's.
#[derive(Clone, Debug)]
pub struct Variables {
    directory: PathBuf,
}

impl Variables {
    /// This machine's.
    pub fn of(host: &Host) -> Self {
        Self { directory: host.path(DIRECTORY) }
    }

    /// Reads one, such as `BootNext`.
    pub fn get(&self, name: &str) -> Result<Option<Variable>> {
        let path = self.path(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if host::is_absent(&error) => return Ok(None),
            Err(error) => return Err(Error::file("reading", &path)(error)),
        };
        match bytes.split_first_chunk() {
            Some((attributes, data)) => {
                Ok(Some(Variable { attributes: u32::from_le_bytes(*attributes), data: data.into() }))
            }
            None => Err(Error::unusable(&path, "it is shorter than its attributes")),
        }
    }

    /// The 16-bit number that a variable holds: `BootNext`, `BootCurrent`.
    pub fn number(&self, name: &str) -> Result<Option<u16>> {
        let Some(variable) = self.get(name)? else { return Ok(None) };
        match <[u8; 2]>::try_from(&variable.data[..]) {
            Ok(bytes) => Ok(Some(u16::from_le_bytes(bytes))),
            Err(_) => Err(Error::unusable(&self.path(name), "it holds no 16-bit number")),
        }
    }

    /// Writes one, kept without power.
    pub fn set(&self, name: &str, data: &[u8]) -> Result<()> {
        let path = self.path(name);
        let failed = |source| Error::file("writing", &path)(source);
        let is_new = !path.exists();
        if !is_new {
            File::open(&path).and_then(|file| set_immutable(&file, false)).map_err(failed)?;
        }
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        // Attributes and content in one write: each write is one call of the firmware.
        let written = file.write_all(&[&KEPT_AND_SEEN.to_le_bytes()[..], data].concat());
        if written.is_err() && is_new {
            // An empty file stands for no variable, and goes away by itself; sooner is better.
            let _ = fs::remove_file(&path);
        }
        written.map_err(failed)
    }

    /// Removes one. Not there: nothing happens.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        let failed = |source| Error::file("removing", &path)(source);
        match File::open(&path) {
            Ok(file) => set_immutable(&file, false).and_then(|()| fs::remove_file(&path)).map_err(failed),
            Err(error) if host::is_absent(&error) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// The numbers of all boot entries that there are.
    pub fn boot_numbers(&self) -> Result<Vec<u16>> {
        let ending = format!("-{GLOBAL}");
        let entries = host::entries(&self.directory)?;
        let numbers = entries.iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(&ending)?;
            let digits = name.strip_prefix("Boot").filter(|digits| digits.len() == 4)?;
            u16::from_str_radix(digits, 16).ok()
        });
        Ok(numbers.collect())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}-{GLOBAL}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> (tempfile::TempDir, Variables) {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("sys/firmware/efi/efivars")).expect("made");
        let variables = Variables::of(&Host::below(root.path()));
        (root, variables)
    }

    #[test]
    fn what_is_written_is_read_with_its_attributes() {
        let (_root, variables) = variables();
        assert_eq!(variables.get("BootNext").expect("looked"), None);
        variables.set("BootNext", &[7, 0]).expect("written");
        assert_eq!(fs::read(variables.path("BootNext")).expect("there"), [7, 0, 0, 0, 7, 0]);
        assert_eq!(variables.get("BootNext").expect("read"), Some(Variable { attributes: 7, data: vec![7, 0] }));
        assert_eq!(variables.number("BootNext").expect("read"), Some(7));
        variables.remove("BootNext").expect("removed");
        variables.remove("BootNext").expect("nothing to do");
        assert_eq!(variables.number("BootNext").expect("looked"), None);
    }

    #[test]
    fn nonsense_is_an_error() {
        let (_root, variables) = variables();
        fs::write(variables.path("BootNext"), [7, 0, 0]).expect("written");
        variables.get("BootNext").expect_err("no attributes");
        fs::write(variables.path("BootNext"), [7, 0, 0, 0, 1]).expect("written");
        variables.number("BootNext").expect_err("half a number");
    }

    #[test]
    fn entries_are_told_from_other_variables() {
        let (_root, variables) = variables();
        for name in ["Boot0001", "Boot00AF", "BootOrder", "BootNext", "Boot00001", "Boot00XY"] {
            variables.set(name, &[0, 0]).expect("written");
        }
        fs::write(variables.directory.join("Boot0002-other"), [0]).expect("written");
        assert_eq!(variables.boot_numbers().expect("listed"), [1, 0xaf]);
    }

    #[test]
    fn firmware_without_variables_says_so() {
        let root = tempfile::tempdir().expect("a directory");
        let variables = Variables::of(&Host::below(root.path()));
        variables.set("BootNext", &[0, 0]).expect_err("nowhere");
        assert_eq!(variables.boot_numbers().expect("none"), Vec::<u16>::new());
    }
}
