//! Trees become disks: with the very command that users have, `keepstate image bake`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, process};

use crate::error::{Error, Result, io};
use crate::machine::folder;
use crate::tree::{Tree, lock};
use crate::{run, tools};

/// Names the binary to bake with, instead of the one that is built from this workspace.
const BINARY: &str = "KEEPSTATE_BINARY";

/// Where machines and images are of the same kind as we are.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Variables with which cargo describes the package of a test that runs.
const ABOUT_US: [&str; 5] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];

/// Which firmwares a disk boots with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// Both.
    Both,
    /// BIOS only.
    Bios,
    /// UEFI only.
    Uefi,
}

/// How a tree is baked.
#[derive(Clone, Debug)]
pub struct Options {
    /// The disk's size, as the command takes it: `512M`.
    pub size: String,
    /// What is kept free behind the image: `128M`. Onto a previous disk, what that keeps free.
    pub reserve: Option<String>,
    /// The root filesystem: `ext4` or `xfs`.
    pub filesystem: String,
    /// The firmwares.
    pub boot: Boot,
    /// What is added to the kernel's command line. The console has to be the first serial port, for the log.
    pub command_line: String,
    /// More arguments of the command: `--with-agent`.
    pub more: Vec<String>,
    /// The disk of the version before, whose files stay where they are; the new one gets its size.
    pub onto: Option<PathBuf>,
}

impl Default for Options {
    /// 512 MiB, ext4, both firmwares; a kernel that panics reboots after a second.
    fn default() -> Self {
        Self {
            size: "512M".into(),
            reserve: None,
            filesystem: "ext4".into(),
            boot: Boot::Both,
            command_line: "console=ttyS0 panic=1".into(),
            more: Vec::new(),
            onto: None,
        }
    }
}

impl Options {
    /// What suits the small Debian: 2 GiB.
    pub fn debian() -> Self {
        Self { size: "2G".into(), ..Self::default() }
    }

    /// What suits the small Debian with sysvinit: 1 GiB, and network cards by the names that `/etc/network/interfaces` has.
    pub fn sysvinit() -> Self {
        let command_line = format!("{} net.ifnames=0", Self::default().command_line);
        Self { size: "1G".into(), command_line, ..Self::default() }
    }

    /// With our agent in it.
    #[must_use]
    pub fn with_agent(mut self) -> Self {
        self.more.push("--with-agent".into());
        self
    }
}

/// The program that bakes.
#[derive(Clone, Debug)]
pub struct Baker {
    binary: PathBuf,
}

impl Baker {
    /// With this binary.
    pub fn new(binary: &Path) -> Self {
        Self { binary: binary.into() }
    }

    /// With the binary of this workspace, built if it is not up to date; or with the one that `KEEPSTATE_BINARY` names.
    pub fn built() -> Result<Self> {
        tools::need(&tools::BAKE)?;
        if let Some(binary) = env::var_os(BINARY) {
            return Ok(Self { binary: binary.into() });
        }
        Ok(Self { binary: build(&[])? })
    }

    /// With a binary that may be put into images, and into a machine's memory: linked statically, small, built without
    /// optimising what is ours. With `--with-agent` it comes into the image. `KEEPSTATE_BINARY` names another one.
    pub fn portable() -> Result<Self> {
        tools::need(&tools::BAKE)?;
        if let Some(binary) = env::var_os(BINARY) {
            return Ok(Self { binary: binary.into() });
        }
        // The same as what is delivered (`cargo xtask dist`), but for the profile.
        let flags = format!(
            "target.{TARGET}.rustflags=['-C', 'target-feature=+crt-static', '--cfg', 'getrandom_backend=\"linux_getrandom\"']"
        );
        let small = ["profile.dev.debug=0", "profile.dev.strip='symbols'"];
        Ok(Self {
            binary: build(&["--target", TARGET, "--config", &flags, "--config", small[0], "--config", small[1]])?,
        })
    }

    /// The binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A raw disk of this tree. The same tree, options and binary are baked once; nobody writes to the disk: machines
    /// stand on it with [`crate::Disk::image`].
    pub fn bake(&self, tree: &Tree, options: &Options) -> Result<PathBuf> {
        if options.filesystem == "xfs" {
            tools::need(&tools::BAKE_XFS)?;
        }
        let folder = folder().join("images");
        fs::create_dir_all(&folder).map_err(io("making", folder.display()))?;
        let key = self.key(&[tree.digest.as_bytes(), tree.name.as_bytes(), format!("{options:?}").as_bytes()])?;
        let disk = folder.join(format!("{}-{key}.raw", tree.name));
        // Held while it is baked: two tests that want the same disk bake it once.
        let _held = lock(&folder.join(format!("{}.lock", tree.name)))?;
        if disk.exists() {
            return Ok(disk);
        }
        let begin = Instant::now();
        let part = folder.join(format!("{}.{}", tree.name, process::id()));
        let mut bake = run::command(&self.binary.to_string_lossy(), ["image", "bake"]);
        bake.arg(&tree.root).arg("-o").arg(&part).args(arguments(options));
        run::output(&mut bake)?;
        fs::rename(&part, &disk).map_err(io("naming", disk.display()))?;
        let seconds = begin.elapsed().as_secs_f64();
        run::say(&format!("lab: {} baked in {seconds:.1} s: {}", tree.name, disk.display()));
        Ok(disk)
    }

    /// The name of what this binary makes of these: the same ones, the same thing.
    pub(crate) fn key(&self, parts: &[&[u8]]) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let binary = File::open(&self.binary).map_err(io("opening", self.binary.display()))?;
        hasher.update_reader(binary).map_err(io("reading", self.binary.display()))?;
        Ok(hasher.finalize().to_hex()[..16].to_owned())
    }
}

/// Builds the package `keepstate` as far as it is not up to date, and gives its binary.
fn build(more: &[&str]) -> Result<PathBuf> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let build = ["build", "--quiet", "--locked", "--package", "keepstate", "--message-format", "json"];
    let mut build = run::command(&cargo, build.iter().chain(more));
    // What cargo tells a test of itself makes build scripts run again that look at it (ring's does), and then all of what
    // stands on them is compiled again: two minutes each time.
    for (name, _) in env::vars_os() {
        if ABOUT_US.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            build.env_remove(name);
        }
    }
    let messages = run::output(build.current_dir(env!("CARGO_MANIFEST_DIR")))?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message["executable"].as_str()?))
    };
    let binary = messages.lines().filter_map(executable).next_back();
    binary.ok_or_else(|| Error::Senseless("cargo built the package keepstate, and named no executable".into()))
}

fn arguments(options: &Options) -> Vec<String> {
    let boot = match options.boot {
        Boot::Both => "bios,uefi",
        Boot::Bios => "bios",
        Boot::Uefi => "uefi",
    };
    // Onto a previous disk, the size is that disk's.
    let (size, place) = match &options.onto {
        Some(onto) => ("--onto", onto.display().to_string()),
        None => ("--size", options.size.clone()),
    };
    let fixed = [
        (size, place.as_str()),
        ("--filesystem", &options.filesystem),
        ("--boot", boot),
        ("--cmdline", &options.command_line),
    ];
    let mut arguments: Vec<String> =
        fixed.iter().flat_map(|(option, value)| [*option, *value]).map(str::to_owned).collect();
    if let Some(reserve) = options.reserve.iter().find(|_| options.onto.is_none()) {
        arguments.extend(["--reserve".into(), reserve.clone()]);
    }
    arguments.extend(options.more.iter().cloned());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_what_the_command_understands() {
        let options = Options {
            onto: Some("/old.raw".into()),
            reserve: Some("64M".into()),
            more: vec!["--with-agent".into()],
            ..Options::default()
        };
        assert!(arguments(&Options::default()).join(" ").starts_with("--size 512M --filesystem ext4 "));
        assert_eq!(
            arguments(&options).join(" "),
            "--onto /old.raw --filesystem ext4 --boot bios,uefi --cmdline console=ttyS0 panic=1 --with-agent"
        );
        let anew = arguments(&Options { onto: None, ..options }).join(" ");
        assert!(anew.ends_with("--reserve 64M --with-agent"), "{anew}");
    }

    #[test]
    fn a_bake_that_fails_leaves_no_disk() {
        let tree = Tree { root: "/nowhere".into(), name: "none-1".into(), digest: "0".into() };
        let error = Baker::new(Path::new("/bin/false")).bake(&tree, &Options::default()).expect_err("it fails");
        assert!(error.to_string().starts_with("/bin/false image bake /nowhere"), "{error}");
        Baker::new(Path::new("/bin/false")).bake(&tree, &Options::default()).expect_err("it fails again");
    }
}
