//! What a `grub.cfg` does: whether it boots an entry once, and whether it shows entries of others.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::host::Host;
use crate::why::Why;

/// Where distributions keep the one that has the menu. Those on an ESP are often three lines that lead to it.
const CANDIDATES: [&str; 8] = [
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/efi/EFI/debian/grub.cfg",
    "/boot/efi/EFI/ubuntu/grub.cfg",
    "/boot/efi/EFI/redhat/grub.cfg",
    "/boot/efi/EFI/centos/grub.cfg",
    "/boot/efi/EFI/rocky/grub.cfg",
    "/boot/efi/EFI/fedora/grub.cfg",
];

/// Whether a command is the one looked for.
type Test = fn(&[String]) -> bool;

/// The configuration that shows the menu: its file and its text.
pub(crate) fn find(host: &Host) -> Result<Option<(PathBuf, String)>> {
    for candidate in CANDIDATES {
        let path = host.path(candidate);
        if let Some(text) = host.text(candidate)?
            && commands(&text).any(|command| shows_menu(&command))
        {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// Whether an entry can be booked for the next boot only, and ours would be seen.
pub(crate) fn check(path: &Path, text: &str) -> Result<(), Why> {
    let config = path.display().to_string();
    let has = |test: Test| commands(text).any(|command| test(&command));
    let steps: [(&'static str, Test); 3] = [
        ("load_env", |command| is(command, "load_env")),
        ("set default to it", |command| is(command, "set") && mentions(command, "default=", "next_entry")),
        ("save_env that clears it", |command| is(command, "save_env") && mentions(command, "next_entry", "")),
    ];
    for (lacks, test) in steps {
        if !has(test) {
            return Err(Why::GrubNotOnce { config, lacks });
        }
    }
    if has(|command| is(command, "set") && mentions(command, "check_signatures=enforce", "")) {
        return Err(Why::GrubSigned { config });
    }
    if !has(|command| (is(command, "source") || is(command, ".")) && mentions(command, "custom.cfg", "")) {
        return Err(Why::GrubNoCustom { config });
    }
    Ok(())
}

fn shows_menu(command: &[String]) -> bool {
    ["menuentry", "submenu", "blscfg"].iter().any(|name| is(command, name))
}

/// Whether it is the command of this name; `if`, `then` and the like may stand before it.
fn is(command: &[String], name: &str) -> bool {
    let is_keyword = |word: &&String| ["if", "then", "else", "elif", "!", "{"].contains(&word.as_str());
    command.iter().find(|word| !is_keyword(word)).is_some_and(|word| word == name)
}

fn mentions(command: &[String], first: &str, second: &str) -> bool {
    command.iter().any(|word| word.contains(first) && word.contains(second))
}

/// The commands of a script, each as its words; good enough to look for one.
fn commands(text: &str) -> impl Iterator<Item = Vec<String>> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let commands = lines.flat_map(|line| line.split(';'));
    commands.map(|command| command.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What `grub-mkconfig` of Debian 12 writes, as far as it matters here.
    pub(crate) const DEBIAN: &str = r#"
### BEGIN /etc/grub.d/00_header ###
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
menuentry 'Debian GNU/Linux' --class debian {
	search --no-floppy --fs-uuid --set=root 7a3c
	echo	'Loading Linux 6.1.0-48-cloud-amd64 ...'
	linux	/boot/vmlinuz-6.1.0-48-cloud-amd64 root=UUID=7a3c ro  console=ttyS0 quiet
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1.0-48-cloud-amd64
}
### BEGIN /etc/grub.d/41_custom ###
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"#;

    #[test]
    fn debians_boots_an_entry_once_and_shows_ours() {
        assert_eq!(check(Path::new("/boot/grub/grub.cfg"), DEBIAN), Ok(()));
    }

    #[test]
    fn one_line_does_what_five_do() {
        let line = "load_env\nif [ \"$next_entry\" ]; then set default=\"$next_entry\"; set next_entry=; save_env \
                    next_entry; fi\nmenuentry 'x' {\n}\nif [ -f $prefix/custom.cfg ]; then . $prefix/custom.cfg; fi\n";
        assert_eq!(check(Path::new("/boot/grub/grub.cfg"), line), Ok(()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let path = Path::new("/boot/grub/grub.cfg");
        let config = "/boot/grub/grub.cfg".to_owned();
        for (line, lacks) in [
            ("  load_env\n", "load_env"),
            ("   set default=\"${next_entry}\"\n", "set default to it"),
            ("   save_env next_entry\n", "save_env that clears it"),
        ] {
            let expected = Why::GrubNotOnce { config: config.clone(), lacks };
            assert_eq!(check(path, &DEBIAN.replace(line, "")), Err(expected.clone()));
            let commented = DEBIAN.replace(line, &format!("# {line}"));
            assert_eq!(check(path, &commented), Err(expected), "a comment does nothing");
        }
        let signed = format!("set check_signatures=enforce\n{DEBIAN}");
        assert_eq!(check(path, &signed), Err(Why::GrubSigned { config: config.clone() }));
        let without = DEBIAN.replace("custom.cfg", "other.cfg");
        assert_eq!(check(path, &without), Err(Why::GrubNoCustom { config }));
    }

    #[test]
    fn three_lines_that_lead_elsewhere_are_not_the_menu() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::below(root.path());
        assert_eq!(find(&host).expect("looked"), None);
        let stub = root.path().join("boot/efi/EFI/debian");
        std::fs::create_dir_all(&stub).expect("made");
        let text = "search.fs_uuid 7a3c root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n";
        std::fs::write(stub.join("grub.cfg"), text).expect("written");
        assert_eq!(find(&host).expect("looked"), None);
        let menu = root.path().join("boot/grub2");
        std::fs::create_dir_all(&menu).expect("made");
        std::fs::write(menu.join("grub.cfg"), DEBIAN).expect("written");
        assert_eq!(find(&host).expect("looked").map(|(path, _)| path), Some(menu.join("grub.cfg")));
    }
}
