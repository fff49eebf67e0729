//! Whether the authorized keys that come along would let anybody in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::machine::Machine;

/// Whether one of these files, which the node keeps, has a key, and is one of a user whom the image has too. `users` are the
/// image's, if they are known.
pub(super) fn let_somebody_in(machine: &Machine, carried: &[String], users: Option<&BTreeMap<String, u32>>) -> bool {
    let passwd = fs::read_to_string(machine.path("/etc/passwd")).unwrap_or_default();
    carried.iter().any(|path| {
        let Some((home, name)) = path.rsplit_once("/.ssh/") else { return false };
        let text = fs::read_to_string(machine.path(path)).unwrap_or_default();
        let has_key = text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#'));
        let is_known = |user: &str| users.is_none_or(|users| users.contains_key(user));
        name.starts_with("authorized_keys") && has_key && owners(&passwd, home).any(is_known)
    })
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

    #[test]
    fn only_a_key_of_a_user_whom_the_image_has_lets_somebody_in() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice/:/bin/sh\nbroken\n");
        put("home/alice/.ssh/authorized_keys", "# laptop\nssh-ed25519 AAAA alice\n");
        put("root/.ssh/authorized_keys", "\n# none yet\n");
        let machine = Machine::below(folder.path());
        let lets_in = |paths: &[&str], users: &[&str]| {
            let carried: Vec<_> = paths.iter().map(ToString::to_string).collect();
            let users = users.iter().map(|user| (user.to_string(), 1000)).collect();
            let_somebody_in(&machine, &carried, Some(&users))
        };
        let (alice, root) = ("/home/alice/.ssh/authorized_keys", "/root/.ssh/authorized_keys");
        assert!(lets_in(&[root, alice], &["root", "alice"]));
        assert!(!lets_in(&[alice], &["root"]), "nobody is called so there");
        assert!(!lets_in(&[root], &["root"]), "it has no key");
        assert!(!lets_in(&["/home/bob/.ssh/authorized_keys", "/home/alice/.ssh/known_hosts"], &["root", "alice"]));
        assert!(let_somebody_in(&machine, &[alice.to_owned()], None), "where the image's users are not known");
    }
}
