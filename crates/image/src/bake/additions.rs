//! What a tree lacks to be a bootable image, and what was asked for besides.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::identity::Identity;
use super::menu::{self, Kernel};
use super::tree::{Content, Kind, Node, Tree};
use crate::agent;

const UNIT: &str = "\
[Unit]
Description=Keepstate: tells whether this image and its datastore are well
After=network.target keepstate-gate.service
Wants=keepstate-gate.service

[Service]
Type=exec
ExecStart=/usr/bin/keepstate node trial

[Install]
WantedBy=multi-user.target
";
/// The datastore's units wait for it, where the generator says so.
const GATE: &str = "\
[Unit]
Description=Keepstate: tells whether this image is well, before its datastore starts
After=local-fs.target network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/keepstate node gate
";
const GATE_PATH: &str = "etc/systemd/system/keepstate-gate.service";
const GENERATOR_PATH: &str = "etc/systemd/system-generators/keepstate-generator";
const UNIT_PATH: &str = "etc/systemd/system/keepstate-agent.service";
const MENU_PATH: &str = "boot/grub/grub.cfg";
const ENVIRONMENT_PATH: &str = "boot/grub/grubenv";
const FSTAB_PATH: &str = "etc/fstab";

/// A tree that is being added to.
pub(super) struct Additions<'a> {
    /// Where the tree came from, for errors.
    pub(super) root: &'a Path,
    pub(super) tree: &'a mut Tree,
    /// The time of what is added.
    pub(super) epoch: i64,
    /// What people should know.
    pub(super) notes: Vec<String>,
}

impl Additions<'_> {
    /// GRUB's menu and variables, unless the tree has its own.
    pub(super) fn boot(&mut self, identity: &Identity, cmdline: &str) -> Result<Option<Kernel>> {
        let kernel = menu::newest_kernel(self.tree);
        if self.tree.id(Path::new(MENU_PATH)).is_some() {
            self.notes.push(format!("the tree has a /{MENU_PATH}: it is kept, and --cmdline is not used"));
            if !self.mentions(MENU_PATH, &identity.filesystem.to_string())? {
                self.notes.push(format!(
                    "/{MENU_PATH} does not name this image's filesystem, {}: make sure that it finds its root",
                    identity.filesystem
                ));
            }
        } else {
            let Some(kernel) = &kernel else {
                let why = "it has no kernel: none of /boot/vmlinuz-VERSION, and no /boot/vmlinuz; install one in the \
                           tree (on Debian linux-image-amd64 or linux-image-cloud-amd64)";
                return Err(Error::root(self.root, why));
            };
            let title = self.title()?;
            let text = menu::menu(kernel, identity, &title, cmdline);
            self.file(MENU_PATH, Node::file(text.into_bytes(), 0o644, self.epoch))?;
        }
        if self.tree.id(Path::new(ENVIRONMENT_PATH)).is_none() {
            self.file(ENVIRONMENT_PATH, Node::file(menu::environment(), 0o644, self.epoch))?;
        }
        Ok(kernel)
    }

    /// The root filesystem's line in fstab, unless the tree has lines of its own.
    pub(super) fn fstab(&mut self, identity: &Identity, kind: &str) -> Result<()> {
        let own = self.read(FSTAB_PATH)?.unwrap_or_default();
        let has_lines = own.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'));
        if has_lines {
            if !own.contains(&identity.filesystem.to_string()) {
                self.notes.push(format!(
                    "the tree has a /{FSTAB_PATH} of its own, which does not name this image's filesystem, {}",
                    identity.filesystem
                ));
            }
            return Ok(());
        }
        self.file(FSTAB_PATH, Node::file(menu::fstab(identity, kind).into_bytes(), 0o644, self.epoch))
    }

    /// The agent: its program, where its configuration goes, and what starts it by whichever init the tree has.
    pub(super) fn agent(&mut self, program: &Path) -> Result<()> {
        let metadata = fs::metadata(program).map_err(Error::io("looking at", program))?;
        let kind = Kind::File { size: metadata.len(), content: Content::At(program.to_owned()) };
        self.file("usr/bin/keepstate", Node { kind, ..Node::directory(0o755, self.epoch) })?;
        self.directory(Path::new("etc/keepstate"))?;
        let has_systemd = agent::SYSTEMD.iter().any(|path| self.tree.id(Path::new(path)).is_some());
        if has_systemd {
            self.units()?;
        }
        let inittab = self.read(agent::INITTAB)?.as_deref().and_then(agent::added_to);
        match inittab {
            Some(text) => self.file(agent::INITTAB, Node::file(text.into_bytes(), 0o644, self.epoch))?,
            None if !has_systemd => self.notes.push(format!(
                "nothing starts the agent: the tree has no systemd ({}), and no sysvinit with runlevels (/{}); have its init \
                 run `keepstate node gate` before the datastore starts, and `keepstate node trial` when everything is up",
                agent::SYSTEMD.map(|path| format!("/{path}")).join(", "),
                agent::INITTAB
            )),
            None => {}
        }
        Ok(())
    }

    /// What systemd starts the agent by.
    fn units(&mut self) -> Result<()> {
        self.file(UNIT_PATH, Node::file(UNIT.as_bytes(), 0o644, self.epoch))?;
        self.file(GATE_PATH, Node::file(GATE.as_bytes(), 0o644, self.epoch))?;
        for (path, to) in [(agent::WANTED, UNIT_PATH), (GENERATOR_PATH, "usr/bin/keepstate")] {
            let kind = Kind::Symlink(format!("/{to}").into_bytes());
            self.file(path, Node { kind, ..Node::directory(0o777, self.epoch) })?;
        }
        Ok(())
    }

    /// What the OS calls itself.
    fn title(&self) -> Result<String> {
        for path in ["etc/os-release", "usr/lib/os-release"] {
            if let Some(text) = self.read(path)? {
                let release = crate::facts::os_release(&text);
                if let Some(name) = release.get("PRETTY_NAME").or(release.get("NAME")) {
                    return Ok(name.clone());
                }
            }
        }
        Ok("Linux".to_owned())
    }

    /// A small text file of the tree, if it is there as a file.
    fn read(&self, path: &str) -> Result<Option<String>> {
        const BYTES_MAX: u64 = 1 << 20;
        let Some(Node { kind: Kind::File { size: ..=BYTES_MAX, content }, .. }) = self.tree.get(Path::new(path)) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let failed = Error::io("reading", Path::new(path));
        content.open().and_then(|mut file| file.read_to_end(&mut bytes)).map_err(failed)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn mentions(&self, path: &str, what: &str) -> Result<bool> {
        Ok(self.read(path)?.is_some_and(|text| text.contains(what)))
    }

    /// Adds a file, and the directories that lead to it.
    fn file(&mut self, path: &str, node: Node) -> Result<()> {
        let path = PathBuf::from(path);
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        if self.tree.get(&path).is_some_and(Node::is_directory) {
            return Err(self.in_the_way(&path, "is a directory"));
        }
        self.tree.put(path, node);
        Ok(())
    }

    fn directory(&mut self, path: &Path) -> Result<()> {
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        for directory in above {
            match self.tree.get(directory) {
                Some(node) if node.is_directory() => {}
                Some(_) => return Err(self.in_the_way(directory, "is no directory")),
                None => {
                    self.tree.put(directory.to_owned(), Node::directory(0o755, self.epoch));
                }
            }
        }
        Ok(())
    }

    fn in_the_way(&self, path: &Path, is: &str) -> Error {
        Error::root(self.root, format!("/{} {is}: what makes the image bootable has to go there", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for path in ["", "boot", "etc"] {
            tree.put(path.into(), Node::directory(0o755, 0));
        }
        for (path, text) in files {
            tree.put(path.into(), Node::file(text.as_bytes(), 0o644, 0));
        }
        tree
    }

    fn identity() -> Identity {
        Identity::derive("", &blake3::hash(b""))
    }

    fn add<T>(tree: &mut Tree, what: impl FnOnce(&mut Additions<'_>) -> Result<T>) -> Result<(T, Vec<String>)> {
        let mut additions = Additions { root: Path::new("ROOT"), tree, epoch: 5, notes: Vec::new() };
        let done = what(&mut additions)?;
        Ok((done, additions.notes))
    }

    fn text(tree: &Tree, path: &str) -> String {
        let Kind::File { content: Content::Bytes(bytes), .. } = &tree.get(Path::new(path)).unwrap().kind else {
            panic!("{path} is no file")
        };
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_tree_without_a_menu_gets_one() {
        let mut tree = tree(&[("boot/vmlinuz-6.1", "x"), ("etc/os-release", "PRETTY_NAME=\"Debian 12\"\n")]);
        let (kernel, notes) = add(&mut tree, |add| add.boot(&identity(), "quiet")).unwrap();
        assert_eq!((kernel.unwrap().version.as_str(), notes), ("6.1", vec![]));
        assert!(text(&tree, "boot/grub/grub.cfg").contains("menuentry 'Debian 12'"));
        assert_eq!(text(&tree, "boot/grub/grubenv").len(), 1024);
        assert_eq!(tree.get(Path::new("boot/grub")).unwrap().modified, 5);
    }

    #[test]
    fn a_tree_s_own_menu_is_kept_and_that_is_said() {
        let mut tree = tree(&[("boot/grub/grub.cfg", "own"), ("boot/grub/grubenv", "too")]);
        tree.put("boot/grub".into(), Node::directory(0o755, 0));
        let (_, notes) = add(&mut tree, |add| add.boot(&identity(), "")).unwrap();
        assert_eq!((text(&tree, "boot/grub/grub.cfg"), text(&tree, "boot/grub/grubenv")), ("own".into(), "too".into()));
        assert!(notes.iter().any(|note| note.contains("is kept")) && notes[1].contains("does not name"), "{notes:?}");
    }

    #[test]
    fn a_tree_without_a_kernel_is_refused() {
        let error = add(&mut tree(&[]), |add| add.boot(&identity(), "")).unwrap_err().to_string();
        assert!(error.contains("ROOT cannot be baked: it has no kernel"), "{error}");
    }

    #[test]
    fn an_fstab_without_lines_is_replaced_and_another_kept() {
        for own in [None, Some("# UNCONFIGURED FSTAB\n\n")] {
            let mut tree = tree(&own.map(|own| ("etc/fstab", own)).into_iter().collect::<Vec<_>>());
            add(&mut tree, |add| add.fstab(&identity(), "ext4")).unwrap();
            assert!(text(&tree, "etc/fstab").contains(&format!("UUID={} / ext4", identity().filesystem)));
        }
        let mut tree = tree(&[("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n")]);
        let ((), notes) = add(&mut tree, |add| add.fstab(&identity(), "ext4")).unwrap();
        assert!(text(&tree, "etc/fstab").starts_with("/dev/sda1") && notes.len() == 1);
    }

    /// What a tree of these files is with the agent in it, and what was noted of that.
    fn with_agent(files: &[(&str, &str)]) -> (Tree, Vec<String>) {
        let program = tempfile::NamedTempFile::new().unwrap();
        fs::write(program.path(), "program").unwrap();
        let mut tree = tree(files);
        let ((), notes) = add(&mut tree, |add| add.agent(program.path())).unwrap();
        (tree, notes)
    }

    #[test]
    fn the_agent_is_a_program_a_unit_and_a_directory() {
        let (tree, notes) = with_agent(&[("usr/lib/systemd/systemd", "program")]);
        let node = tree.get(Path::new("usr/bin/keepstate")).unwrap();
        assert!(matches!(node.kind, Kind::File { size: 7, .. }) && node.mode == 0o755);
        assert!(text(&tree, UNIT_PATH).contains("ExecStart=/usr/bin/keepstate node trial\n"));
        assert!(tree.get(Path::new("etc/keepstate")).unwrap().is_directory());
        let wanted = &tree.get(Path::new(agent::WANTED)).unwrap().kind;
        assert!(matches!(wanted, Kind::Symlink(to) if to.starts_with(b"/etc/")));
        assert_eq!(notes, <[&str; 0]>::default());
    }

    #[test]
    fn without_systemd_the_agent_is_started_by_inittab() {
        let inittab = "id:2:initdefault:\nl2:2:wait:/etc/init.d/rc 2\n";
        let (tree, notes) = with_agent(&[(agent::INITTAB, inittab)]);
        let lines = text(&tree, agent::INITTAB);
        assert!(lines.contains("node gate\nl2:2:wait") && lines.ends_with("node trial\n"), "{lines}");
        assert!(tree.id(Path::new(UNIT_PATH)).is_none() && notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn that_nothing_would_start_the_agent_is_noted() {
        for files in [&[][..], &[(agent::INITTAB, "::sysinit:/etc/init.d/rcS\n")]] {
            let (tree, notes) = with_agent(files);
            assert!(tree.id(Path::new("usr/bin/keepstate")).is_some() && tree.id(Path::new(UNIT_PATH)).is_none());
            assert!(notes.len() == 1 && notes[0].contains("nothing starts the agent"), "{notes:?}");
        }
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let mut blocked = tree(&[("boot/vmlinuz-6.1", "x"), ("boot/grub", "a file")]);
        let error = add(&mut blocked, |add| add.boot(&identity(), "")).unwrap_err().to_string();
        assert!(error.contains("/boot/grub is no directory"), "{error}");
        let error = add(&mut tree(&[]), |add| add.agent(Path::new("/nowhere/at/all"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}
