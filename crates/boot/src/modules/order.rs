//! What the imager finds: modules in one directory, and the order in which to load them with which options.

use std::fs::File;
use std::path::{Path, PathBuf};

use sys::kernel::{Loaded, load_module};

use super::Modules;
use super::file;
use crate::error::{Error, Result};
use crate::host;
use crate::initramfs::{Contents, Source};

/// Where they stand in the imager; firmware stands where kernels look for it.
pub const DIRECTORY: &str = "keepstate/modules";
/// The list: one a line, a file's name and its options.
const ORDER: &str = "order";

/// A module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The module's file.
    pub file: PathBuf,
    /// Its options.
    pub options: String,
}

impl Modules {
    /// Puts modules (decompressed, because not every kernel does that itself), their order and their firmware into an
    /// imager's contents.
    pub fn put_into(&self, contents: &mut Contents) -> Result<()> {
        let mut order = String::new();
        for module in &self.modules {
            let name = format!("{}.ko", module.name);
            contents.file(&format!("{DIRECTORY}/{name}"), 0o644, Source::Bytes(file::read(&module.file)?))?;
            order.push_str(format!("{name} {}", module.options).trim_end());
            order.push('\n');
        }
        contents.file(&format!("{DIRECTORY}/{ORDER}"), 0o644, Source::Bytes(order.into_bytes()))?;
        for firmware in &self.firmware {
            let path = format!("lib/firmware/{}", firmware.name);
            contents.file(&path, 0o644, Source::Bytes(file::read(&firmware.file)?))?;
        }
        Ok(())
    }
}

/// What the imager whose root is `root` has to load, in that order.
pub fn steps(root: &Path) -> Result<Vec<Step>> {
    let directory = root.join(DIRECTORY);
    let path = directory.join(ORDER);
    let text = host::text(&path)?.unwrap_or_default();
    let steps = text.lines().filter(|line| !line.is_empty()).map(|line| {
        let (name, options) = line.split_once(' ').unwrap_or((line, ""));
        if name.contains('/') {
            return Err(Error::unusable(&path, format!("{name:?} is no file's name")));
        }
        Ok(Step { file: directory.join(name), options: options.into() })
    });
    steps.collect()
}

/// Loads all that the imager whose root is `root` has to load. A module that fails stops nothing: what serves an
/// instruction that this CPU lacks says "no such device", and rightly. Gives those that failed, and why.
pub fn load_all(root: &Path) -> Result<Vec<(Step, Error)>> {
    let loaded = steps(root)?.into_iter().map(|step| (step.load(), step));
    Ok(loaded.filter_map(|(loaded, step)| loaded.err().map(|error| (step, error))).collect())
}

impl Step {
    /// Loads it.
    pub fn load(&self) -> Result<Loaded> {
        let failed = Error::file("loading", &self.file);
        File::open(&self.file).and_then(|file| load_module(&file, &self.options)).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{Firmware, Module};
    use super::*;

    #[test]
    fn what_is_put_in_is_what_the_imager_loads() {
        let directory = tempfile::tempdir().expect("a directory");
        let packed = zstd::stream::encode_all(&b"module"[..], 1).expect("packed");
        for (name, bytes) in [("a.ko", &b"first"[..]), ("b-c.ko.zst", &packed), ("f.zst", &packed)] {
            fs::write(directory.path().join(name), bytes).expect("written");
        }
        let module = |name: &str, file: &str, options: &str| Module {
            name: name.into(),
            file: directory.path().join(file),
            options: options.into(),
            because: String::new(),
        };
        let modules = Modules {
            modules: vec![module("a", "a.ko", ""), module("b_c", "b-c.ko.zst", "x=1 y=\"2 3\"")],
            firmware: vec![Firmware { name: "d/f".into(), file: directory.path().join("f.zst") }],
            ..Modules::default()
        };
        let mut contents = Contents::default();
        modules.put_into(&mut contents).expect("put");
        let root = tempfile::tempdir().expect("a directory");
        contents.write_tree(root.path(), None).expect("written");
        let steps = steps(root.path()).expect("read");
        let shown: Vec<_> = steps.iter().map(|step| (fs::read(&step.file).expect("there"), &*step.options)).collect();
        assert_eq!(shown, [(b"first".to_vec(), ""), (b"module".to_vec(), "x=1 y=\"2 3\"")]);
        assert_eq!(fs::read(root.path().join("lib/firmware/d/f")).expect("there"), b"module");
        let failed = load_all(root.path()).expect("read");
        assert_eq!(failed.iter().map(|(step, _)| step.clone()).collect::<Vec<_>>(), steps, "each is tried, none loads");
        let said = steps[0].load().expect_err("it is none").to_string();
        assert!(said.starts_with("loading ") && said.contains("a.ko"), "{said}");
    }

    #[test]
    fn an_imager_without_modules_has_nothing_to_load() {
        let root = tempfile::tempdir().expect("a directory");
        assert_eq!(steps(root.path()).expect("read"), []);
        let order = root.path().join(DIRECTORY).join(ORDER);
        fs::create_dir_all(order.parent().expect("a folder")).expect("made");
        fs::write(order, "../x.ko\n").expect("written");
        steps(root.path()).expect_err("leads elsewhere");
    }
}
