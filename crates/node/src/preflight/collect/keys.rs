//! Whether the authorized keys that come along would let anybody in.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use model::manifest::Facts as ImageFacts;

use crate::machine::Machine;
use crate::names;

/// Whether one of these files, which the node keeps, has a key that gives a shell, and is one of a user whom the image has too:
/// the imager leaves out what belongs to others. `image` has its users and groups, if they are known.
pub(super) fn let_somebody_in(machine: &Machine, carried: &[String], image: Option<&ImageFacts>) -> bool {
    let table = |path: &str| fs::read_to_string(machine.path(path)).unwrap_or_default();
    let (passwd, group) = (table("/etc/passwd"), table("/etc/group"));
    let has_user = |user: &str| image.is_none_or(|image| image.users.contains_key(user));
    let has_group = |group: &str| image.is_none_or(|image| image.groups.contains_key(group));
    let comes_along = |path: &str| {
        fs::metadata(machine.path(path)).is_ok_and(|data| {
            names::of(&passwd, data.uid()).is_none_or(|user| has_user(&user))
                && names::of(&group, data.gid()).is_none_or(|group| has_group(&group))
        })
    };
    carried.iter().any(|path| {
        let Some((home, name)) = path.rsplit_once("/.ssh/") else { return false };
        name.starts_with("authorized_keys")
            && table(path).lines().any(gives_a_shell)
            && owners(&passwd, home).any(has_user)
            && comes_along(path)
    })
}

/// Whether a line has a key without a command of its own: with one, as cloud-init puts it before root's, whoever comes is told
/// something and sent away.
fn gives_a_shell(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#') && !has_command(line)
}

/// Whether one of the options before a key is a command. Blanks and commas between double quotes belong to an option; a quote
/// after a backslash is none (sshd(8)).
fn has_command(line: &str) -> bool {
    let (mut start, mut is_quoted, mut is_escaped) = (0, false, false);
    for (at, c) in line.char_indices() {
        match c {
            '"' if !is_escaped => is_quoted = !is_quoted,
            ',' | ' ' | '\t' if !is_quoted => {
                if line[start..at].to_ascii_lowercase().starts_with("command=") {
                    return true;
                }
                if c != ',' {
                    return false;
                }
                start = at + 1;
            }
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    false
}

/// The users whose home this is.
fn owners<'a>(passwd: &'a str, home: &'a str) -> impl Iterator<Item = &'a str> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.filter_map(move |fields| match fields[..] {
        [user, _, _, _, _, their, ..] if Path::new(their) == Path::new(home) => Some(user),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Machines with root and alice, and what `alice` and `root` have in their files.
    fn machine(alice: &str, root: &str) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice/:/bin/sh\nbroken\n");
        put("etc/group", "root:x:0:\nalice:x:1000:\nstaff:x:50:\n");
        put("home/alice/.ssh/authorized_keys", alice);
        put("root/.ssh/authorized_keys", root);
        let machine = Machine::below(folder.path());
        (folder, machine)
    }

    fn lets_in(machine: &Machine, paths: &[&str], users: &[&str]) -> bool {
        let carried: Vec<_> = paths.iter().map(ToString::to_string).collect();
        let ids: std::collections::BTreeMap<_, _> = users.iter().map(|user| (user.to_string(), 1000)).collect();
        let image = ImageFacts { users: ids.clone(), groups: ids, ..ImageFacts::default() };
        let_somebody_in(machine, &carried, Some(&image))
    }

    const ALICE: &str = "/home/alice/.ssh/authorized_keys";
    const ROOT: &str = "/root/.ssh/authorized_keys";

    #[test]
    fn only_a_key_of_a_user_whom_the_image_has_lets_somebody_in() {
        let (_folder, machine) = machine("# laptop\nssh-ed25519 AAAA alice\n", "\n# none yet\n");
        let lets_in = |paths: &[&str], users: &[&str]| lets_in(&machine, paths, users);
        assert!(lets_in(&[ROOT, ALICE], &["root", "alice"]));
        assert!(!lets_in(&[ALICE], &["root"]), "nobody is called so there");
        assert!(!lets_in(&[ROOT], &["root"]), "it has no key");
        assert!(!lets_in(&["/home/bob/.ssh/authorized_keys", "/home/alice/.ssh/known_hosts"], &["root", "alice"]));
        assert!(let_somebody_in(&machine, &[ALICE.to_owned()], None), "where the image's users are not known");
    }

    /// What cloud-init puts into root's file counted as a key, and nobody got in by it.
    #[test]
    fn a_key_with_a_command_of_its_own_lets_nobody_in() {
        let sent_away = "no-port-forwarding,no-agent-forwarding,command=\"echo 'Please login as the user \\\"admin\\\" rather \
                         than root.';echo;sleep 10;exit 142\" ssh-rsa AAAA root\n";
        for (line, expected) in [
            (sent_away, false),
            ("Command=\"/bin/backup\" ssh-ed25519 AAAA\n", false),
            ("from=\"10.0.0.0/8, command=\",no-pty ssh-ed25519 AAAA\n", true),
            ("environment=\"A=\\\" command=\" ssh-ed25519 AAAA\n", true),
            ("ssh-ed25519 AAAA command=x\n", true),
            ("command=\"/bin/backup\" ssh-ed25519 AAAA\nssh-ed25519 AAAA\n", true),
        ] {
            let (_folder, machine) = machine("", line);
            assert_eq!(lets_in(&machine, &[ROOT], &["root"]), expected, "{line}");
        }
    }

    /// What the imager left out counted as carried.
    #[test]
    #[ignore = "needs root to give files to others: run by ./test"]
    fn a_file_of_keys_whose_owner_or_group_the_image_lacks_does_not_come_along() {
        let (folder, machine) = machine("ssh-ed25519 AAAA alice\n", "");
        let own = |user, group| {
            std::os::unix::fs::chown(folder.path().join(&ALICE[1..]), Some(user), Some(group)).unwrap();
        };
        own(1000, 50);
        assert!(lets_in(&machine, &[ALICE], &["root", "alice", "staff"]));
        assert!(!lets_in(&machine, &[ALICE], &["root", "alice"]), "it has no staff");
        own(0, 0);
        assert!(lets_in(&machine, &[ALICE], &["root", "alice"]));
    }
}
