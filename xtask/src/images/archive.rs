//! Where Debian's packages come from: wherever this machine itself takes them from.

use anyhow::Result;

use crate::run;

/// The release that the images are made of.
pub(super) const SUITE: &str = "bookworm";

/// What `mmdebstrap` is given for each image.
#[derive(Debug)]
pub(super) struct Archive {
    /// The archive as released.
    pub(super) plain: Sources,
    /// The same with its updates and security updates.
    pub(super) updated: Sources,
}

/// Sources of packages.
#[derive(Debug)]
pub(super) struct Sources {
    /// Lines of a `sources.list`; none means what `mmdebstrap` takes by default: the release and its updates.
    pub(super) lines: Vec<String>,
    /// Whether the updates are to be taken out of the default.
    pub(super) drop_updates: bool,
}

impl Archive {
    /// Asks apt for the sources that this machine has of the suite; `mmdebstrap`'s defaults, if it has not all of them.
    pub(super) fn of_this_machine() -> Result<Self> {
        let format = "$(REPO_URI) $(SUITE) $(COMPONENT)";
        let targets = if run::exists("apt-get") {
            run::output(&mut run::command("apt-get", ["indextargets", "--format", format, "Created-By: Packages"]))?
        } else {
            String::new()
        };
        Ok(Self::of_targets(&targets))
    }

    fn of_targets(targets: &str) -> Self {
        let line_of = |wanted: &str| {
            targets.lines().find_map(|target| {
                let mut fields = target.split_whitespace();
                let (uri, suite, component) = (fields.next()?, fields.next()?, fields.next()?);
                (suite == wanted && component == "main").then(|| format!("deb {uri} {suite} main"))
            })
        };
        let plain = line_of(SUITE);
        let updates = [format!("{SUITE}-updates"), format!("{SUITE}-security")];
        let updates: Option<Vec<String>> = updates.iter().map(|suite| line_of(suite)).collect();
        match (plain, updates) {
            (Some(plain), Some(updates)) => Self {
                updated: Sources { lines: [plain.clone()].into_iter().chain(updates).collect(), drop_updates: false },
                plain: Sources { lines: vec![plain], drop_updates: false },
            },
            _ => Self {
                plain: Sources { lines: Vec::new(), drop_updates: true },
                updated: Sources { lines: Vec::new(), drop_updates: false },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_machine_s_own_sources() {
        let archive = Archive::of_targets(
            "http://mirror.example/debian/ bookworm main\nhttp://mirror.example/debian/ bookworm-updates main\n\
             http://mirror.example/other/ nodistro main\nhttp://mirror.example/debian-security/ bookworm-security main\n",
        );
        assert_eq!(archive.plain.lines, ["deb http://mirror.example/debian/ bookworm main"]);
        assert_eq!(archive.updated.lines.len(), 3);
        assert!(!archive.plain.drop_updates);
    }

    #[test]
    fn without_security_sources_the_defaults_are_taken_for_both() {
        let archive = Archive::of_targets("http://mirror.example/debian/ bookworm main\n");
        assert!(archive.plain.lines.is_empty() && archive.updated.lines.is_empty());
        assert!(archive.plain.drop_updates && !archive.updated.drop_updates);
    }
}
