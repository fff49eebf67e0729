//! Files on the root that data needs, held against those of the image.

use std::fs;
use std::path::Path;

use super::configuration;
use super::root_disk::Parts;
use crate::machine::Machine;
use crate::preflight::{InImage, Need, datastores};

/// A key or configuration is smaller than this; of a larger one the beginning is compared.
pub(super) const BYTES_MAX: usize = 1 << 20;
const CRYPTTAB: &str = "/etc/crypttab";
const MDADM: [&str; 2] = ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"];

/// Looks a file of the image up.
pub(super) type InTheImage<'a> = dyn Fn(&str, usize) -> Result<Option<Vec<u8>>, String> + 'a;

/// All that is named on this machine; why the image cannot be asked.
pub(super) fn collect(machine: &Machine, parts: &Parts, image: &InTheImage<'_>) -> Result<Vec<Need>, String> {
    let mut needs = Needs { machine, parts, image, found: Vec::new() };
    needs.crypttab()?;
    needs.arrays()?;
    for datastore in &datastores::ALL {
        for file in configuration::files(machine, datastore) {
            needs.file(&file, datastore.name, false)?;
        }
        for value in configuration::values(machine, datastore, datastore.files) {
            needs.file(&value.path, &value.file.display().to_string(), false)?;
        }
        for secret in datastore.secrets {
            needs.file(Path::new(secret), datastore.name, false)?;
        }
    }
    Ok(needs.found)
}

/// Programs of datastores that are there.
pub(super) fn programs(machine: &Machine) -> Vec<String> {
    let patterns = datastores::ALL.iter().flat_map(|datastore| datastore.programs);
    let mut found: Vec<_> =
        patterns.flat_map(|pattern| machine.matching(pattern)).map(|path| path.display().to_string()).collect();
    found.sort();
    found.dedup();
    found
}

struct Needs<'a> {
    machine: &'a Machine,
    parts: &'a Parts,
    image: &'a InTheImage<'a>,
    found: Vec<Need>,
}

impl Needs<'_> {
    /// A file, if it is here and will not be here any more.
    fn file(&mut self, path: &Path, by: &str, must_be_same: bool) -> Result<(), String> {
        let Some(real) = self.machine.real(path) else { return Ok(()) };
        let shown = path.display().to_string();
        let is_file = fs::metadata(self.machine.path(&real)).is_ok_and(|data| data.is_file());
        if !is_file || !self.parts.hold(&real) || self.found.iter().any(|need| need.path == shown) {
            return Ok(());
        }
        let ours = fs::read(self.machine.path(&real)).map_err(|why| format!("{shown}: {why}"))?;
        let in_image = match (self.image)(&shown, BYTES_MAX)? {
            None => InImage::Missing,
            Some(theirs) if theirs == ours[..ours.len().min(BYTES_MAX)] => InImage::Same,
            Some(_) => InImage::Other,
        };
        self.found.push(Need { path: shown, by: by.into(), must_be_same, in_image });
        Ok(())
    }

    /// Something that the image's `file` has to say.
    fn line(&mut self, files: &[&str], what: &str, says: &str, by: &str) -> Result<(), String> {
        let mut is_there = false;
        for file in files {
            let text = (self.image)(file, BYTES_MAX)?.unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            is_there |= lines.any(|line| line.split([' ', '\t', ',', '=']).any(|word| word.eq_ignore_ascii_case(says)));
        }
        let in_image = if is_there { InImage::Same } else { InImage::Missing };
        let path = format!("{}: {what}", files.first().copied().unwrap_or_default());
        self.found.push(Need { path, by: by.into(), must_be_same: true, in_image });
        Ok(())
    }

    /// Volumes that are opened with a key: their lines, keys and headers.
    fn crypttab(&mut self) -> Result<(), String> {
        let text = fs::read_to_string(self.machine.path(CRYPTTAB)).unwrap_or_default();
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [name, _, rest @ ..] = &fields[..] else { continue };
            let options = rest.get(1).copied().unwrap_or_default();
            let is_scratch = options.split(',').any(|option| matches!(option, "swap" | "tmp" | "plain"));
            let key = rest.first().copied().filter(|key| key.starts_with('/') && !key.starts_with("/dev/"));
            let header = options.split(',').find_map(|option| option.strip_prefix("header="));
            if is_scratch {
                continue;
            }
            let by = format!("{CRYPTTAB} ({name})");
            self.line(&[CRYPTTAB], &format!("a line for {name}"), name, &format!("the encrypted volume {name}"))?;
            for path in key.into_iter().chain(header.filter(|header| header.starts_with('/'))) {
                self.file(Path::new(path), &by, true)?;
            }
        }
        Ok(())
    }

    /// Arrays that are put together by their UUIDs.
    fn arrays(&mut self) -> Result<(), String> {
        for file in MDADM {
            let text = fs::read_to_string(self.machine.path(file)).unwrap_or_default();
            for line in text.lines().map(str::trim).filter(|line| line.starts_with("ARRAY")) {
                let uuid = line.split_whitespace().find_map(|word| word.strip_prefix("UUID="));
                if let Some(uuid) = uuid {
                    self.line(&MDADM, &format!("ARRAY UUID={uuid}"), uuid, "an array of this node")?;
                }
            }
        }
        Ok(())
    }
}
