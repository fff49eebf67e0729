//! dpkg's database: which package owns a file, and what the file was when it came. rpm's is not read.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use image::facts::dpkg_status;
use md5::{Digest, Md5};

use crate::machine::Machine;

const INFO: &str = "/var/lib/dpkg/info";
const STATUS: &str = "/var/lib/dpkg/status";
/// A system with this many files in packages has none left on its disk for data: 100,000 are a large server's.
const FILES_MAX: usize = 4 << 20;
/// Of a file, at once.
const READ_BYTES: usize = 128 << 10;

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    /// Number of the package.
    package: u32,
    /// Its MD5 as the package brought it; nothing for directories, links, and what is made when a package is set up.
    pub(crate) md5: Option<[u8; 16]>,
    /// Whether it is meant to be changed.
    pub(crate) is_configuration: bool,
}

/// All files of all packages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packages {
    names: Vec<String>,
    /// Name to version.
    pub(crate) versions: BTreeMap<String, String>,
    files: HashMap<PathBuf, Owned>,
    rules: Vec<Rule>,
}

/// `path-exclude` or `path-include` of dpkg's configuration.
#[derive(Clone, Debug)]
struct Rule {
    includes: bool,
    pattern: String,
}

/// Where paths lead whose first part is a link, as `/bin` is to `usr/bin`; and what was diverted.
struct Paths {
    links: Vec<(String, PathBuf)>,
    /// Original path to where it stands, and the package that stands in its place.
    diverted: HashMap<PathBuf, (PathBuf, String)>,
}

impl Packages {
    /// Reads the database; nothing where there is none.
    pub(crate) fn read(machine: &Machine) -> io::Result<Option<Self>> {
        let status = match fs::read(machine.path(STATUS)) {
            Ok(status) => String::from_utf8_lossy(&status).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut packages = Self { versions: dpkg_status(&status), rules: rules(machine), ..Self::default() };
        let paths = Paths::read(machine);
        let mut entries: Vec<_> = fs::read_dir(machine.path(INFO))?.flatten().map(|entry| entry.path()).collect();
        // Lists first: checksums and conffiles tell more of what is listed.
        entries.sort_by_key(|path| (path.extension().is_some_and(|ending| ending == "md5sums"), path.clone()));
        for entry in entries {
            let Some(stem) = entry.file_stem().and_then(|stem| stem.to_str()) else { continue };
            let package = stem.split(':').next().unwrap_or(stem).to_owned();
            match entry.extension().and_then(|ending| ending.to_str()) {
                Some("list") => {
                    let number = packages.number(&package);
                    for line in read(&entry)?.lines().filter(|line| line.starts_with('/')) {
                        let owned = Owned { package: number, md5: None, is_configuration: false };
                        packages.add(paths.of(Path::new(line), &package), owned)?;
                    }
                }
                Some("md5sums") => {
                    for line in read(&entry)?.lines() {
                        let Some((sum, path)) = line.split_once("  ") else { continue };
                        packages.sum(&paths.of(&Path::new("/").join(path), &package), sum);
                    }
                }
                _ => {}
            }
        }
        // ` /etc/bash.bashrc 3b32… [obsolete]`
        for line in status.lines().filter(|line| line.starts_with(" /")) {
            let mut words = line.split_whitespace();
            if let (Some(path), Some(sum)) = (words.next(), words.next())
                && sum.len() == 32
            {
                let path = paths.of(Path::new(path), "");
                packages.sum(&path, sum);
                if let Some(owned) = packages.files.get_mut(&path) {
                    owned.is_configuration = true;
                }
            }
        }
        Ok(Some(packages))
    }

    fn number(&mut self, name: &str) -> u32 {
        if self.names.last().is_none_or(|last| last != name) {
            self.names.push(name.to_owned());
        }
        (self.names.len() - 1) as u32
    }

    fn add(&mut self, path: PathBuf, owned: Owned) -> io::Result<()> {
        if self.files.len() >= FILES_MAX {
            return Err(io::Error::other(format!("dpkg's database lists more than {FILES_MAX} files")));
        }
        self.files.entry(path).or_insert(owned);
        Ok(())
    }

    fn sum(&mut self, path: &Path, sum: &str) {
        if let (Some(owned), Some(md5)) = (self.files.get_mut(path), parse(sum)) {
            owned.md5 = Some(md5);
        }
    }

    /// Who owns what stands at `path`.
    pub(crate) fn owner(&self, path: &Path) -> Option<(&str, &Owned)> {
        let owned = self.files.get(path)?;
        Some((&self.names[owned.package as usize], owned))
    }

    /// All files whose content is known, in the order of their paths.
    pub(crate) fn with_content(&self) -> Vec<(&Path, [u8; 16])> {
        let mut files: Vec<_> =
            self.files.iter().filter_map(|(path, owned)| Some((path.as_path(), owned.md5?))).collect();
        files.sort();
        files
    }

    /// Whether dpkg was told not to unpack `path`.
    pub(crate) fn is_excluded(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        let last = self.rules.iter().rfind(|rule| matches(rule.pattern.as_bytes(), path.as_bytes()));
        last.is_some_and(|rule| !rule.includes)
    }
}

impl Paths {
    fn read(machine: &Machine) -> Self {
        let names = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
        let links = names.iter().filter_map(|name| {
            let target = fs::read_link(machine.path(format!("/{name}"))).ok()?;
            Some(((*name).to_owned(), Path::new("/").join(target)))
        });
        let text = fs::read_to_string(machine.path("/var/lib/dpkg/diversions")).unwrap_or_default();
        let diversions: Vec<_> = text.lines().collect();
        let mut paths = Self { links: links.collect(), diverted: HashMap::new() };
        for triple in diversions.chunks_exact(3) {
            let (from, to) = (paths.linked(Path::new(triple[0])), paths.linked(Path::new(triple[1])));
            paths.diverted.insert(from, (to, triple[2].to_owned()));
        }
        paths
    }

    fn linked(&self, path: &Path) -> PathBuf {
        let found = self.links.iter().find_map(|(name, target)| {
            let rest = path.strip_prefix("/").ok()?.strip_prefix(name).ok()?;
            Some(if rest.as_os_str().is_empty() { path.to_owned() } else { target.join(rest) })
        });
        // `/.` is the root.
        found.unwrap_or_else(|| path.components().collect())
    }

    /// Where a package's `path` stands.
    fn of(&self, path: &Path, package: &str) -> PathBuf {
        let path = self.linked(path);
        match self.diverted.get(&path) {
            Some((to, by)) if by != package => to.clone(),
            _ => path,
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

fn parse(sum: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    if sum.len() != 32 || !sum.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(&sum[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

fn rules(machine: &Machine) -> Vec<Rule> {
    let mut files = vec![PathBuf::from("/etc/dpkg/dpkg.cfg")];
    files.extend(machine.matching("/etc/dpkg/dpkg.cfg.d/*"));
    let texts = files.iter().filter_map(|file| fs::read_to_string(machine.path(file)).ok());
    let mut rules = Vec::new();
    for text in texts {
        for line in text.lines().map(|line| line.trim().trim_start_matches("--")) {
            for (key, includes) in [("path-exclude", false), ("path-include", true)] {
                let value = line.strip_prefix(key).map(|rest| rest.trim_start_matches(['=', ' ', '\t']));
                if let Some(pattern) = value.filter(|pattern| !pattern.is_empty()) {
                    rules.push(Rule { includes, pattern: pattern.to_owned() });
                }
            }
        }
    }
    rules
}

/// Whether a pattern of dpkg's names `path`: `*` is anything, slashes too; `?` any one byte.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < path.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == path[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                // The last star takes one byte more.
                let Some((star_at, star_seen)) = star else { return false };
                star = Some((star_at, star_seen + 1));
                (at, seen) = (star_at + 1, star_seen + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// MD5 of a file; `pace` is asked before each part is read.
pub(crate) fn md5_of(path: &Path, pace: &dyn Fn(u64)) -> io::Result<[u8; 16]> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut hasher = Md5::new();
    loop {
        pace(READ_BYTES as u64);
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Puts a file below `root`.
    pub(crate) fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// MD5 of a text, as `md5sum` prints it.
    pub(crate) fn md5_text(text: &str) -> String {
        format!("{:032x}", u128::from_be_bytes(Md5::digest(text).into()))
    }

    /// A machine on which dpkg has installed `tool`, which has a program, a configuration and a page that was excluded.
    pub(crate) fn machine(root: &Path) -> Machine {
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        put(root, "usr/bin/tool", "program");
        put(root, "etc/tool.conf", "as it came");
        let list = "/.\n/bin\n/bin/tool\n/etc\n/etc/tool.conf\n/usr\n/usr/bin\n/usr/share\n/usr/share/doc\n/usr/share/doc/tool\n/var\n";
        put(root, "var/lib/dpkg/info/tool.list", list);
        let sums = format!("{}  bin/tool\n{}  usr/share/doc/tool\n", md5_text("program"), md5_text("page"));
        put(root, "var/lib/dpkg/info/tool.md5sums", &sums);
        let status = format!(
            "Package: tool\nStatus: install ok installed\nVersion: 1.0\nConffiles:\n /etc/tool.conf {}\n",
            md5_text("as it came")
        );
        put(root, "var/lib/dpkg/status", &status);
        let rules = "# small\npath-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\n";
        put(root, "etc/dpkg/dpkg.cfg.d/small", rules);
        Machine::below(root)
    }

    #[test]
    fn a_file_has_its_owner_and_its_sum_through_links_too() {
        let folder = tempfile::tempdir().unwrap();
        let packages = Packages::read(&machine(folder.path())).unwrap().unwrap();
        let (name, owned) = packages.owner(Path::new("/usr/bin/tool")).unwrap();
        assert_eq!((name, owned.is_configuration), ("tool", false));
        assert_eq!(owned.md5, Some(md5_of(&folder.path().join("usr/bin/tool"), &|_| {}).unwrap()));
        assert!(packages.owner(Path::new("/etc/tool.conf")).unwrap().1.is_configuration);
        assert!(packages.owner(Path::new("/")).is_some() && packages.owner(Path::new("/bin")).is_some());
        assert!(packages.owner(Path::new("/opt")).is_none());
        assert_eq!(packages.versions["tool"], "1.0");
    }

    #[test]
    fn what_was_diverted_is_looked_for_where_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let machine = machine(folder.path());
        put(folder.path(), "var/lib/dpkg/diversions", "/bin/tool\n/bin/tool.old\nother\n");
        let packages = Packages::read(&machine).unwrap().unwrap();
        assert!(packages.owner(Path::new("/usr/bin/tool.old")).unwrap().1.md5.is_some());
        assert!(packages.owner(Path::new("/usr/bin/tool")).is_none());
    }

    #[test]
    fn a_machine_without_dpkg_has_no_database() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Packages::read(&Machine::below(folder.path())).unwrap().is_none());
    }

    #[test]
    fn the_last_rule_that_names_a_path_decides() {
        let folder = tempfile::tempdir().unwrap();
        let packages = Packages::read(&machine(folder.path())).unwrap().unwrap();
        for (path, is_excluded) in [
            ("/usr/share/doc/tool", true),
            ("/usr/share/doc/a/b", true),
            ("/usr/share/doc/a/copyright", false),
            ("/usr/share/man/a", false),
        ] {
            assert_eq!(packages.is_excluded(Path::new(path)), is_excluded, "{path}");
        }
        assert!(matches(b"/a?c*", b"/abcde") && !matches(b"/a?c", b"/abcd") && matches(b"**", b""));
    }
}
