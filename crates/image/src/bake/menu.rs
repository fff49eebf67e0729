//! GRUB's menu, where the tree has none of its own, and the block of variables beside it.

use std::cmp::Ordering;
use std::path::Path;

use super::identity::Identity;
use super::tree::{Kind, Tree};

/// What GRUB loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Its version, as its name has it; empty for one without.
    pub(super) version: String,
    path: String,
    initrd: Option<String>,
}

/// The newest kernel of a tree, with its initrd if there is one.
pub(super) fn newest_kernel(tree: &Tree) -> Option<Kernel> {
    let is_loadable = |path: &Path| matches!(tree.get(path).map(|node| &node.kind), Some(Kind::File { size: 1.., .. }));
    let versions = tree.entries(Path::new("boot")).filter_map(|(name, _)| {
        let name = str::from_utf8(name).ok()?;
        let version = name.strip_prefix("vmlinuz-")?;
        is_loadable(&Path::new("boot").join(name)).then_some(version)
    });
    let newest = versions.max_by(|a, b| compare(a, b));
    let (version, path) = match newest {
        Some(version) => (version, format!("boot/vmlinuz-{version}")),
        None if is_loadable(Path::new("boot/vmlinuz")) => ("", "boot/vmlinuz".to_owned()),
        None => return None,
    };
    // As Debian, Fedora, SUSE and Alpine name them.
    let names = if version.is_empty() {
        vec!["initrd.img".to_owned(), "initrd".to_owned(), "initramfs".to_owned()]
    } else {
        vec![
            format!("initrd.img-{version}"),
            format!("initramfs-{version}.img"),
            format!("initrd-{version}"),
            format!("initramfs-{version}"),
        ]
    };
    let initrd = names.into_iter().map(|name| format!("boot/{name}")).find(|path| is_loadable(Path::new(path)));
    Some(Kernel { version: version.to_owned(), path, initrd })
}

/// Versions as people count: 6.1.0-10 is newer than 6.1.0-9.
fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (text_a, text_b) = (take(&mut a, |c| !c.is_ascii_digit()), take(&mut b, |c| !c.is_ascii_digit()));
        let (number_a, number_b) = (take(&mut a, |c| c.is_ascii_digit()), take(&mut b, |c| c.is_ascii_digit()));
        let (plain_a, plain_b) = (number_a.trim_start_matches('0'), number_b.trim_start_matches('0'));
        let order = text_a.cmp(text_b).then(plain_a.len().cmp(&plain_b.len())).then(plain_a.cmp(plain_b));
        if order != Ordering::Equal || (a.is_empty() && b.is_empty()) {
            return order;
        }
    }
}

/// Takes the beginning of a text.
fn take<'a>(text: &mut &'a str, is_part: impl Fn(char) -> bool) -> &'a str {
    let (part, rest) = text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()));
    *text = rest;
    part
}

/// The menu: one entry, no waiting; an entry named by `next_entry` is booted once, and if it cannot be loaded the first
/// one is (GRUB would wait for a key for ever); `custom.cfg` may add others.
pub(super) fn menu(kernel: &Kernel, identity: &Identity, title: &str, cmdline: &str) -> String {
    // Only an initramfs can look for a filesystem; the kernel itself knows partitions.
    let root = match &kernel.initrd {
        Some(_) => format!("UUID={}", identity.filesystem),
        None => format!("PARTUUID={}", identity.root_partition),
    };
    let serial = if cmdline.contains("console=ttyS") {
        "serial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\n"
    } else {
        ""
    };
    let initrd = kernel.initrd.as_ref().map_or(String::new(), |path| format!("  initrd /{}\n", quoted(path)));
    let title: String = title.chars().filter(|c| !c.is_control() && *c != '\'').collect();
    let arguments = format!("root={root} rw {cmdline}");
    format!(
        "# Made by keepstate image bake.\n\
         {serial}set timeout=0\nset default=0\nset fallback=0\nload_env\n\
         if [ \"${{next_entry}}\" ]; then\n  set default=\"${{next_entry}}\"\n  set next_entry=\n  save_env next_entry\nfi\n\
         menuentry '{title}' --id keepstate {{\n  \
         search --no-floppy --fs-uuid --set=root {filesystem}\n  \
         linux /{path} {arguments}\n{initrd}}}\n\
         if [ -f ${{prefix}}/custom.cfg ]; then\n  source ${{prefix}}/custom.cfg\nfi\n",
        filesystem = identity.filesystem,
        path = quoted(&kernel.path),
        arguments = arguments.trim_end(),
    )
}

/// A path as GRUB's script wants it: what is neither letter nor digit may mean something.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    path.chars().flat_map(|c| (!is_plain(c)).then_some('\\').into_iter().chain([c])).collect()
}

/// Whether GRUB's script would take a kernel command line as it is meant.
pub(super) fn is_plain_cmdline(cmdline: &str) -> bool {
    !cmdline.chars().any(|c| c.is_control() || "\"'\\$;{}|&<>#`".contains(c))
}

/// GRUB's block of variables: empty, and of the size that GRUB writes in place.
pub(super) fn environment() -> Vec<u8> {
    let mut block = b"# GRUB Environment Block\n".to_vec();
    block.resize(1024, b'#');
    block
}

/// `/etc/fstab` where the tree has none.
pub(super) fn fstab(identity: &Identity, kind: &str) -> String {
    let options = if kind == "ext4" { "defaults,errors=remount-ro 0 1" } else { "defaults 0 0" };
    format!("# Made by keepstate image bake.\nUUID={} / {kind} {options}\n", identity.filesystem)
}

#[cfg(test)]
mod tests {
    use super::super::tree::Node;
    use super::*;

    fn tree(files: &[&str]) -> Tree {
        let mut tree = Tree::default();
        tree.put("boot".into(), Node::directory(0o755, 0));
        for file in files {
            tree.put(file.into(), Node::file(*b"x", 0o644, 0));
        }
        tree
    }

    fn identity() -> Identity {
        Identity::derive("", &blake3::hash(b""))
    }

    #[test]
    fn the_newest_kernel_is_the_one_with_the_greatest_number() {
        let files = ["boot/vmlinuz-6.1.0-9-amd64", "boot/vmlinuz-6.1.0-10-amd64", "boot/initrd.img-6.1.0-9-amd64"];
        let kernel = newest_kernel(&tree(&files)).unwrap();
        assert_eq!((kernel.version.as_str(), kernel.initrd), ("6.1.0-10-amd64", None));
        for (a, b) in [("5.10", "6.1"), ("6.1", "6.1.1"), ("6.1.0-9", "6.1.0-09x"), ("6.1-rc1", "6.1-rc2")] {
            assert_eq!(
                (compare(a, b), compare(b, a), compare(a, a)),
                (Ordering::Less, Ordering::Greater, Ordering::Equal)
            );
        }
    }

    #[test]
    fn an_initrd_is_found_by_the_names_of_several_systems() {
        for name in ["initrd.img-6.1", "initramfs-6.1.img", "initrd-6.1"] {
            let kernel = newest_kernel(&tree(&["boot/vmlinuz-6.1", &format!("boot/{name}")])).unwrap();
            assert_eq!(kernel.initrd, Some(format!("boot/{name}")));
        }
        let kernel = newest_kernel(&tree(&["boot/vmlinuz", "boot/initrd.img"])).unwrap();
        assert_eq!((kernel.version.as_str(), kernel.initrd.as_deref()), ("", Some("boot/initrd.img")));
    }

    #[test]
    fn a_tree_without_a_kernel_has_none() {
        let mut empty = tree(&["boot/config-6.1", "vmlinuz-6.1"]);
        assert_eq!(newest_kernel(&empty), None);
        empty.put("boot/vmlinuz-6.1".into(), Node::file(*b"", 0o644, 0));
        assert_eq!(newest_kernel(&empty), None, "an empty file");
    }

    #[test]
    fn the_menu_boots_one_entry_once_when_it_is_asked_to() {
        let kernel = newest_kernel(&tree(&["boot/vmlinuz-6.1", "boot/initrd.img-6.1"])).unwrap();
        let text = menu(&kernel, &identity(), "It's 'Debian'", "console=ttyS0 quiet");
        assert!(text.contains("set default=\"${next_entry}\"\n  set next_entry=\n  save_env next_entry\nfi"), "{text}");
        assert!(text.contains("set default=0\nset fallback=0\n"), "{text}");
        assert!(text.contains("menuentry 'Its Debian' --id keepstate {"), "{text}");
        let linux = format!("linux /boot/vmlinuz-6.1 root=UUID={} rw console=ttyS0 quiet\n", identity().filesystem);
        assert!(text.contains(&linux) && text.contains("initrd /boot/initrd.img-6.1\n"), "{text}");
        assert!(text.contains("source ${prefix}/custom.cfg") && text.contains("serial --unit=0"), "{text}");
    }

    #[test]
    fn without_an_initrd_the_kernel_is_told_the_partition() {
        let kernel = newest_kernel(&tree(&["boot/vmlinuz-6.1"])).unwrap();
        let text = menu(&kernel, &identity(), "x", "");
        let linux = format!("linux /boot/vmlinuz-6.1 root=PARTUUID={} rw\n", identity().root_partition);
        assert!(text.contains(&linux) && !text.contains("initrd") && !text.contains("serial"), "{text}");
    }

    #[test]
    fn what_grub_would_take_for_its_own_is_quoted_or_refused() {
        assert_eq!(quoted("boot/vmlinuz-6.1+x y"), "boot/vmlinuz-6.1+x\\ y");
        assert!(is_plain_cmdline("console=tty0 console=ttyS0,115200n8 a.b=c:d/e"));
        for cmdline in ["a;reboot", "a\nb", "$x", "'a'", "a\\"] {
            assert!(!is_plain_cmdline(cmdline), "{cmdline}");
        }
    }

    #[test]
    fn the_environment_block_has_the_size_that_grub_insists_on() {
        let block = environment();
        assert_eq!((block.len(), block.last()), (1024, Some(&b'#')));
    }
}
