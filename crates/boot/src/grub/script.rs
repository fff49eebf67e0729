//! What an installed system would boot by default: kernel, initramfs and command line, read from its boot loader's
//! configuration. For the way out of the imager by kexec.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use crate::error::{Error, Result};
use crate::host::{self, Host};

/// What a boot loader would start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEntry {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initramfs, in parts that follow each other; none for a kernel without.
    pub initramfs: Vec<PathBuf>,
    /// Its command line.
    pub command_line: String,
}

/// The first `linux` of the system's `grub.cfg`, or the entry of `/boot/loader/entries` that is saved as the default.
/// `system` is the root of a mounted system, its `/boot` mounted with it.
pub fn default_entry(system: &Host) -> Result<BootEntry> {
    let Some((config, text)) = super::config::find(system)? else {
        let why = "there is no grub.cfg that shows a menu; reboot by the firmware instead";
        return Err(Error::unusable(&system.path("/boot"), why));
    };
    let written = first_linux(&text);
    let entry = match written {
        Some(entry) => entry,
        None => loader_entry(system, &config)?,
    };
    let find = |path: &str| {
        // A boot partition of its own has paths that begin at its own root.
        let candidates = [system.path(path), system.path("/boot").join(path.trim_start_matches('/'))];
        let found = candidates.iter().find(|path| path.is_file()).cloned();
        found.ok_or_else(|| Error::unusable(&config, format!("it names {path}, which is not there")))
    };
    Ok(BootEntry {
        kernel: find(&entry.kernel)?,
        initramfs: entry.initramfs.iter().map(|path| find(path)).collect::<Result<_>>()?,
        command_line: entry.arguments.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    })
}

/// As GRUB hands a word to a kernel: in quotes where it holds a blank.
fn quoted(word: &str) -> String {
    if word.contains([' ', '\t']) { format!("\"{word}\"") } else { word.into() }
}

/// The same, as it is written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Written {
    kernel: String,
    arguments: Vec<String>,
    initramfs: Vec<String>,
}

/// The first kernel that the script loads, and the initramfs that comes with it.
fn first_linux(text: &str) -> Option<Written> {
    let mut variables = BTreeMap::new();
    let mut written: Option<Written> = None;
    for line in text.lines() {
        let words = words(line, &variables);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match &words[..] {
            ["set", assignment, ..] => {
                if let Some((name, value)) = assignment.split_once('=') {
                    variables.insert(name.to_owned(), value.to_owned());
                }
            }
            ["linux" | "linux16" | "linuxefi", kernel, arguments @ ..] if written.is_none() => {
                let arguments = arguments.iter().map(|&word| word.to_owned()).collect();
                written = Some(Written { kernel: (*kernel).into(), arguments, initramfs: Vec::new() });
            }
            // The next entry: this one had no initramfs.
            ["linux" | "linux16" | "linuxefi" | "menuentry", ..] if written.is_some() => return written,
            ["initrd" | "initrd16" | "initrdefi", files @ ..] => {
                if let Some(mut written) = written {
                    written.initramfs = files.iter().map(|&word| word.to_owned()).collect();
                    return Some(written);
                }
            }
            _ => {}
        }
    }
    written
}

/// Words as GRUB's shell splits them: quotes, backslashes, variables. What is not set is empty.
fn words(line: &str, variables: &BTreeMap<String, String>) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.trim().chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('#', None) if word.is_none() => break,
            (';', None) => break,
            (' ' | '\t', None) => words.extend(word.take()),
            ('\'' | '"', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (_, Some(open)) if character == open => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(characters.next()),
            ('$', None | Some('"')) => {
                let has_braces = characters.next_if_eq(&'{').is_some();
                let mut name = String::new();
                while let Some(next) = characters.next_if(|next| next.is_alphanumeric() || *next == '_') {
                    name.push(next);
                }
                if has_braces {
                    characters.next_if_eq(&'}');
                }
                let value = variables.get(&name).map_or("", String::as_str);
                if quote.is_some() {
                    word.get_or_insert_default().push_str(value);
                    continue;
                }
                // Outside quotes a value is words of its own.
                for character in value.chars() {
                    match character {
                        ' ' | '\t' => words.extend(word.take()),
                        _ => word.get_or_insert_default().push(character),
                    }
                }
            }
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// An entry of the Boot Loader Specification, as Fedora and its relatives have them: the saved one, or the only one that
/// is no rescue.
fn loader_entry(system: &Host, config: &Path) -> Result<Written> {
    let directory = system.path("/boot/loader/entries");
    let is_entry = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "conf") && !path.to_string_lossy().contains("-rescue")
    };
    let entries: Vec<PathBuf> = host::entries(&directory)?.into_iter().filter(is_entry).collect();
    let environment = config.with_file_name("grubenv");
    let environment = if environment.exists() { Some(Environment::read(&environment)?) } else { None };
    let value = |name: &str| environment.as_ref().and_then(|environment| environment.get(name)).unwrap_or_default();
    let saved = value("saved_entry");
    let is_saved = |path: &&PathBuf| path.file_stem().is_some_and(|stem| stem.to_string_lossy() == saved);
    let chosen = match (&entries[..], entries.iter().find(is_saved)) {
        (_, Some(saved)) => saved,
        ([only], None) => only,
        _ => {
            let why =
                format!("it loads no kernel itself, and none of {} entries is saved as the default", entries.len());
            return Err(Error::unusable(config, why));
        }
    };
    let text = fs::read_to_string(chosen).map_err(Error::file("reading", chosen))?;
    let mut written = Written::default();
    for line in text.lines() {
        let Some((key, rest)) = line.trim().split_once([' ', '\t']) else { continue };
        let words = rest.split_whitespace();
        match key {
            "linux" => written.kernel = rest.trim().into(),
            "initrd" => written.initramfs.extend(words.filter(|word| !word.starts_with('$')).map(str::to_owned)),
            "options" => {
                for word in words {
                    // `$kernelopts`: kept in GRUB's environment.
                    let known = word.strip_prefix('$').map(value);
                    written.arguments.extend(known.or_else(|| Some(word.into())).filter(|word| !word.is_empty()));
                }
            }
            _ => {}
        }
    }
    if written.kernel.is_empty() {
        return Err(Error::unusable(chosen, "it names no kernel"));
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::DEBIAN;
    use super::*;

    fn system(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let host = Host::below(root.path());
        (root, host)
    }

    #[test]
    fn debians_first_entry_is_its_default() {
        let (_root, host) = system(&[
            ("boot/grub/grub.cfg", DEBIAN),
            ("boot/vmlinuz-6.1.0-48-cloud-amd64", "k"),
            ("boot/initrd.img-6.1.0-48-cloud-amd64", "i"),
        ]);
        let expected = BootEntry {
            kernel: host.path("/boot/vmlinuz-6.1.0-48-cloud-amd64"),
            initramfs: vec![host.path("/boot/initrd.img-6.1.0-48-cloud-amd64")],
            command_line: "root=UUID=7a3c ro console=ttyS0 quiet".into(),
        };
        assert_eq!(default_entry(&host).expect("read"), expected);
    }

    #[test]
    fn quotes_variables_and_a_boot_partition_of_its_own() {
        let text = "set args='a b'\nset x=\"$args c\"\nmenuentry 'one' {\n  linux \"/vmlinuz\" root=/dev/sda1 $vt \
                    ${x}d \"q r\" e\\ f # no\n  initrd /ucode.img /initrd.img\n}\nmenuentry 'two' {\n linux /other\n}\n";
        let (_root, host) = system(&[
            ("boot/grub/grub.cfg", text),
            ("boot/vmlinuz", "k"),
            ("boot/ucode.img", "u"),
            ("boot/initrd.img", "i"),
        ]);
        let entry = default_entry(&host).expect("read");
        assert_eq!(entry.command_line, r#"root=/dev/sda1 a b cd "q r" "e f""#);
        assert_eq!(entry.initramfs, [host.path("/boot/ucode.img"), host.path("/boot/initrd.img")]);
    }

    #[test]
    fn a_kernel_without_initramfs_does_not_take_the_next_ones() {
        let text = "menuentry 'a' {\n linux /vmlinuz x\n}\nmenuentry 'b' {\n linux /v2\n initrd /i2\n}\n";
        let (_root, host) = system(&[("boot/grub/grub.cfg", text), ("vmlinuz", "k")]);
        let entry = default_entry(&host).expect("read");
        assert_eq!((entry.initramfs.len(), entry.command_line.as_str()), (0, "x"));
    }

    #[test]
    fn fedoras_saved_entry_is_its_default() {
        let config = ("boot/grub2/grub.cfg", "insmod blscfg\nblscfg\n");
        let entry = |version: &str| {
            format!(
                "title F\nversion {version}\nlinux /vmlinuz-{version}\ninitrd /i-{version} $tuned_initrd\noptions root=x $kernelopts $no ro\n"
            )
        };
        let (one, two) = (entry("1"), entry("2"));
        let files = [
            config,
            ("boot/loader/entries/m-1.conf", one.as_str()),
            ("boot/loader/entries/m-2.conf", &two),
            ("boot/loader/entries/m-0-rescue.conf", &two),
            ("boot/vmlinuz-1", "k"),
            ("boot/vmlinuz-2", "k"),
            ("boot/i-1", "i"),
            ("boot/i-2", "i"),
        ];
        let (_root, host) = system(&files);
        let said = default_entry(&host).expect_err("which one?").to_string();
        assert!(said.contains("none of 2 entries is saved"), "{said}");
        let path = host.path("/boot/grub2/grubenv");
        let mut environment = Environment::default();
        environment.set("saved_entry", "m-2").expect("room");
        environment.set("kernelopts", "quiet").expect("room");
        fs::write(path, environment.as_bytes()).expect("written");
        let entry = default_entry(&host).expect("read");
        assert_eq!(entry.kernel, host.path("/boot/vmlinuz-2"));
        assert_eq!(entry.command_line, "root=x quiet ro");
        let (_root, host) = system(&[files[0], files[1], files[4], files[6]]);
        assert_eq!(default_entry(&host).expect("the only one").kernel, host.path("/boot/vmlinuz-1"));
    }

    #[test]
    fn a_system_that_cannot_be_read_says_why() {
        let (_root, host) = system(&[]);
        let said = default_entry(&host).expect_err("nothing there").to_string();
        assert!(said.contains("reboot by the firmware"), "{said}");
        let (_root, host) = system(&[("boot/grub/grub.cfg", DEBIAN)]);
        let said = default_entry(&host).expect_err("no kernel").to_string();
        assert!(said.contains("/boot/vmlinuz-6.1.0-48-cloud-amd64, which is not there"), "{said}");
        let files = [("boot/grub2/grub.cfg", "blscfg\n"), ("boot/loader/entries/a.conf", "title x\n")];
        let (_root, host) = system(&files);
        default_entry(&host).expect_err("it names no kernel");
    }
}
