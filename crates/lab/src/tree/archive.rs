//! Debian's packages, from wherever this machine itself takes them.

use std::path::Path;

use crate::error::Result;
use crate::run;

/// A release of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Debian 12: what the lab's systems are made of.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Release {
    /// Its name.
    pub(super) fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// Users of services, whose numbers packages would choose by themselves, in each release another: made before any package.
const USERS: [(&str, u32); 1] = [("etcd", 650)];
/// Files that are made during installation get this time, 2026-11-01.
const EPOCH: &str = "1793491200";

/// How much of Debian's installing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Packages are installed, their scripts run.
    Installed,
    /// Packages are only unpacked: files to take some from.
    Unpacked,
}

/// Makes a tree in `root`, which must not exist, of these packages and of what they need.
pub(super) fn bootstrap(release: Release, packages: &[&str], variant: Variant, root: &Path) -> Result<()> {
    let is_installed = variant == Variant::Installed;
    let variant = match variant {
        Variant::Installed => "--variant=minbase",
        Variant::Unpacked => "--variant=extract",
    };
    let mut bootstrap = run::command("mmdebstrap", ["--mode=root", "--format=directory", variant]);
    bootstrap.arg(format!("--include={}", packages.join(",")));
    bootstrap.args(["--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Retries \"5\""]).args(proxies());
    // Manuals and translations: half of the files that nobody reads here.
    for left_out in ["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*"] {
        bootstrap.arg(format!("--dpkgopt=path-exclude={left_out}"));
    }
    for (name, number) in USERS.iter().filter(|_| is_installed) {
        let group = format!("echo {name}:x:{number}: >>\"$1/etc/group\"");
        let user = format!("echo {name}:x:{number}:{number}::/var/lib/{name}:/usr/sbin/nologin >>\"$1/etc/passwd\"");
        bootstrap.args([format!("--essential-hook={group}"), format!("--essential-hook={user}")]);
    }
    bootstrap.arg(release.suite()).arg(root).args(sources(release));
    bootstrap.env("SOURCE_DATE_EPOCH", EPOCH);
    if let Some(parent) = root.parent() {
        bootstrap.env("TMPDIR", parent);
    }
    run::output(&mut bootstrap).map(drop)
}

/// The sources of the suite that this machine's apt has; none, which leaves the choice to `mmdebstrap`, if it is of
/// another release.
fn sources(release: Release) -> Vec<String> {
    let format = "$(REPO_URI) $(SUITE) $(COMPONENT)";
    let mut targets = run::command("apt-get", ["indextargets", "--format", format, "Created-By: Packages"]);
    sources_of(release, &run::output(&mut targets).unwrap_or_default())
}

fn sources_of(release: Release, targets: &str) -> Vec<String> {
    let suite = release.suite();
    let line_of = |wanted: &str| {
        targets.lines().find_map(|target| {
            let mut fields = target.split_whitespace();
            let (uri, suite, component) = (fields.next()?, fields.next()?, fields.next()?);
            (suite == wanted && component == "main").then(|| format!("deb {uri} {suite} main"))
        })
    };
    let suites = [suite.to_owned(), format!("{suite}-updates"), format!("{suite}-security")];
    suites.iter().map(|suite| line_of(suite)).collect::<Option<_>>().unwrap_or_default()
}

/// The proxy that apt uses on this machine, if any: the new tree's apt does not read this machine's configuration.
fn proxies() -> Vec<String> {
    let option = |key: &&str| {
        let shell = run::output(&mut run::command("apt-config", ["shell", "value", key])).ok()?;
        let value = shell.trim().strip_prefix("value='")?.strip_suffix('\'')?.to_owned();
        Some(format!("--aptopt={key} \"{value}\""))
    };
    ["Acquire::http::Proxy", "Acquire::https::Proxy"].iter().filter_map(option).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_own_sources_are_taken_if_it_has_all_of_them() {
        let targets =
            "http://mirror.example/debian/ bookworm main\nhttp://mirror.example/debian/ bookworm-updates main\n";
        assert!(sources_of(Release::Bookworm, targets).is_empty());
        let whole = format!("{targets}http://mirror.example/debian-security/ bookworm-security main\n");
        assert_eq!(sources_of(Release::Bookworm, &whole)[0], "deb http://mirror.example/debian/ bookworm main");
        assert_eq!(sources_of(Release::Bookworm, &whole).len(), 3);
    }
}
