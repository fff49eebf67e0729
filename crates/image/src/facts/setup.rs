//! What happens when an image boots, and who can get in then: read from its files, for preflight.

use model::manifest::{Facts, Formats, Programs, Setup, UnitMount};

use super::efi;
use super::files::Files;
use super::first_boot::formats;
use crate::agent;

/// A configuration or script that is longer is none.
const BYTES_MAX: usize = 1 << 20;
/// More in one directory are not looked at one by one: a directory of units has some hundred.
const ENTRIES_MAX: usize = 4096;
/// Findings kept; the first is reason enough.
const FORMATS_MAX: usize = 100;

/// Directories whose files are looked into, with what their names end on.
const FOLDERS: [(&str, &str); 12] = [
    ("/etc/cloud/cloud.cfg.d", ".cfg"),
    ("/var/lib/cloud/scripts/per-boot", ""),
    ("/var/lib/cloud/scripts/per-instance", ""),
    ("/var/lib/cloud/scripts/per-once", ""),
    ("/var/lib/cloud/seed/nocloud", ""),
    ("/var/lib/cloud/seed/nocloud-net", ""),
    ("/etc/systemd/system", ".service"),
    ("/usr/local/lib/systemd/system", ".service"),
    ("/etc/cron.d", ""),
    ("/usr/lib/ignition", ".ign"),
    ("/usr/lib/ignition/base.d", ".ign"),
    ("/boot/ignition", ".ign"),
];
const SINGLE: [&str; 4] = ["/etc/cloud/cloud.cfg", "/etc/rc.local", "/etc/fstab", "/etc/crontab"];
/// Where systemd-repart finds what to make of a disk; any file there is such a thing.
const REPART: [&str; 3] = ["/etc/repart.d", "/usr/lib/repart.d", "/usr/local/lib/repart.d"];

/// Programs that let people in whom a metadata service or a directory names, or carry out its user-data.
const CLOUD_AGENTS: [(&str, &str); 8] = [
    ("cloud-init", "/usr/bin/cloud-init"),
    ("ignition", "/usr/lib/dracut/modules.d/30ignition/ignition"),
    ("google-guest-agent", "/usr/bin/google_guest_agent"),
    ("waagent", "/usr/sbin/waagent"),
    ("amazon-ssm-agent", "/usr/bin/amazon-ssm-agent"),
    ("ec2-instance-connect", "/usr/share/ec2-instance-connect/eic_run_authorized_keys"),
    ("afterburn", "/usr/bin/afterburn"),
    ("sssd", "/etc/sssd/sssd.conf"),
];
const SSH_SERVERS: [&str; 4] = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/sbin/dropbear", "/usr/bin/tailscaled"];

/// Reads it all but the programs of firmware, which stand on another filesystem.
pub(super) fn read(root: &(impl Files + ?Sized), facts: &Facts) -> Result<Setup, String> {
    let mut cloud_agents = Vec::new();
    for (name, path) in CLOUD_AGENTS {
        if root.has(path)? {
            cloud_agents.push(name.to_owned());
        }
    }
    let mut has_ssh_server = false;
    for path in SSH_SERVERS {
        has_ssh_server |= root.has(path)?;
    }
    Ok(Setup {
        formats: all_formats(root, facts)?,
        authorized_keys: authorized_keys(root)?,
        mounts: mounts(root)?,
        passwords: passwords(&root.script("/etc/shadow", BYTES_MAX)?.unwrap_or_default()),
        open_consoles: open_consoles(root)?,
        cloud_agents,
        has_ssh_server,
        has_agent: has_agent(root)?,
        efi_programs: Programs::default(),
        kernels: kernels(root)?,
    })
}

/// Whether the agent is there and somebody starts it.
fn has_agent(root: &(impl Files + ?Sized)) -> Result<bool, String> {
    let has = |path: &str| root.has(&format!("/{path}"));
    let inittab = root.script(&format!("/{}", agent::INITTAB), BYTES_MAX)?;
    if inittab.is_some_and(|text| agent::is_in(&text)) {
        return Ok(true);
    }
    Ok(has(agent::WANTED)? && (has(agent::SYSTEMD[0])? || has(agent::SYSTEMD[1])?))
}

fn all_formats(root: &(impl Files + ?Sized), facts: &Facts) -> Result<Vec<Formats>, String> {
    let mut found = Vec::new();
    let mut paths: Vec<String> = SINGLE.map(str::to_owned).to_vec();
    for (folder, ending) in FOLDERS {
        paths.extend(entries(root, folder, ending)?);
    }
    for path in own_init_scripts(root)? {
        paths.push(path);
    }
    for path in paths {
        let Some(text) = root.script(&path, BYTES_MAX)? else { continue };
        found.extend(formats(&path, &text));
        for script in started(&path, &text) {
            if let Some(text) = root.script(&script, BYTES_MAX)? {
                found.extend(formats(&script, &text));
            }
        }
    }
    // Without the program they are nobody's.
    if facts.packages.contains_key("systemd-repart") || root.has("/usr/bin/systemd-repart")? {
        for folder in REPART {
            for path in entries(root, folder, ".conf")? {
                found.push(Formats { file: path, line: "systemd-repart makes partitions by it".into() });
            }
        }
    }
    found.truncate(FORMATS_MAX);
    Ok(found)
}

/// What units mount, besides fstab.
fn mounts(root: &(impl Files + ?Sized)) -> Result<Vec<UnitMount>, String> {
    let mut found = Vec::new();
    for folder in ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"] {
        for file in entries(root, folder, ".mount")? {
            let text = root.script(&file, BYTES_MAX)?.unwrap_or_default();
            let value = |key: &str| {
                let mut values =
                    text.lines().filter_map(|line| line.trim().strip_prefix(key)?.trim_start().strip_prefix('='));
                values.next_back().map(|value| value.trim().to_owned())
            };
            if let Some((what, at)) = value("What").zip(value("Where")) {
                found.push(UnitMount { file, what, at });
            }
        }
    }
    Ok(found)
}

/// Paths of a directory's entries whose names end so.
fn entries(root: &(impl Files + ?Sized), folder: &str, ending: &str) -> Result<Vec<String>, String> {
    let names = root.names(folder)?;
    let names = names.iter().filter(|name| name.ends_with(ending)).take(ENTRIES_MAX);
    Ok(names.map(|name| format!("{folder}/{name}")).collect())
}

/// Scripts of sysvinit that no package brought: those of packages speak of formatting without doing it.
fn own_init_scripts(root: &(impl Files + ?Sized)) -> Result<Vec<String>, String> {
    const STATUS_BYTES_MAX: usize = 64 << 20;
    let scripts = entries(root, "/etc/init.d", "")?;
    let status = root.script("/var/lib/dpkg/status", STATUS_BYTES_MAX)?.unwrap_or_default();
    let is_own = |path: &String| !status.contains(&format!("\n {path} "));
    Ok(scripts.into_iter().filter(is_own).collect())
}

/// The programs that a unit or a table of cron starts, as far as they stand in it with their paths.
fn started(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = if path.ends_with(".service") {
        text.lines().filter(|line| line.trim_start().starts_with("Exec")).collect()
    } else if path.starts_with("/etc/cron") || path == "/etc/rc.local" {
        text.lines().filter(|line| !line.trim_start().starts_with('#')).collect()
    } else {
        return Vec::new();
    };
    let words = lines.iter().flat_map(|line| line.split(|c: char| c.is_whitespace() || "=;&|'\"()`-@!".contains(c)));
    // A dash belongs to a path, and stands before one in `ExecStart=-/bin/x`: both readings are looked at.
    let whole = lines.iter().flat_map(|line| line.split(|c: char| c.is_whitespace() || "=;&|'\"()`".contains(c)));
    let whole = whole.map(|word| word.trim_start_matches(['-', '@', '+', '!', ':']));
    let mut paths: Vec<String> = words.chain(whole).filter(|word| word.starts_with('/')).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    paths
}

fn authorized_keys(root: &(impl Files + ?Sized)) -> Result<Vec<String>, String> {
    let mut paths = vec!["/root/.ssh/authorized_keys".to_owned(), "/root/.ssh/authorized_keys2".to_owned()];
    for home in root.names("/home")?.iter().take(ENTRIES_MAX) {
        paths.push(format!("/home/{home}/.ssh/authorized_keys"));
    }
    paths.extend(entries(root, "/etc/ssh/authorized_keys.d", "")?);
    paths.extend(entries(root, "/etc/dropbear", "authorized_keys")?);
    let mut found = Vec::new();
    for path in paths {
        let text = root.script(&path, BYTES_MAX)?.unwrap_or_default();
        if text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
            found.push(path);
        }
    }
    // An authority, or a program that knows the keys, is as good as the keys.
    let mut configurations = vec!["/etc/ssh/sshd_config".to_owned()];
    configurations.extend(entries(root, "/etc/ssh/sshd_config.d", ".conf")?);
    for path in configurations {
        let text = root.script(&path, BYTES_MAX)?.unwrap_or_default();
        let words = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_ascii_lowercase(), words.next()?.to_owned()))
        });
        let names_keys = |(key, value): (String, String)| {
            matches!(&*key, "trustedusercakeys" | "authorizedkeyscommand") && value != "none"
        };
        if words.into_iter().any(names_keys) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Users of `/etc/shadow` who can log in with a password: one that is hashed, or an empty one.
fn passwords(shadow: &str) -> Vec<String> {
    let users = shadow.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (user, password) = (fields.next()?, fields.next()?);
        let is_usable = !password.starts_with(['!', '*']) && (password.is_empty() || password.len() >= 13);
        (is_usable && !user.is_empty()).then(|| user.to_owned())
    });
    users.collect()
}

/// Drop-ins of a console's unit that log somebody in unasked.
fn open_consoles(root: &(impl Files + ?Sized)) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for folder in
        root.names("/etc/systemd/system")?.iter().filter(|name| name.contains("getty") && name.ends_with("service.d"))
    {
        for path in entries(root, &format!("/etc/systemd/system/{folder}"), ".conf")? {
            if root.script(&path, BYTES_MAX)?.is_some_and(|text| text.contains("--autologin")) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn kernels(root: &(impl Files + ?Sized)) -> Result<Programs, String> {
    let mut programs = Programs::default();
    for name in root.names("/boot")?.into_iter().filter(|name| name.starts_with("vmlinuz")) {
        let path = format!("/boot/{name}");
        let start = root.start(&path, efi::START_BYTES)?;
        if let Some(is_signed) = start.map(|start| efi::is_signed(&start)) {
            // A kernel that is no EFI program carries no signature that shim would know.
            efi::note(&mut programs, is_signed == Some(true), path);
        }
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::files::tests::Made;
    use super::*;

    fn setup(files: &[(&str, &str)]) -> Setup {
        read(&Made::of(files), &Facts::default()).unwrap()
    }

    #[test]
    fn an_empty_root_has_nothing_and_lets_nobody_in() {
        assert_eq!(setup(&[]), Setup::default());
    }

    #[test]
    fn what_units_mount_is_found() {
        let unit = "[Unit]\nDescription=Data\n[Mount]\nWhat=/dev/sdb1\nWhere = /data\nType=ext4\n";
        let files = [
            ("/etc/systemd/system/data.mount", unit),
            ("/usr/lib/systemd/system/dev-hugepages.mount", "[Mount]\nWhat=hugetlbfs\nWhere=/dev/hugepages\n"),
            ("/etc/systemd/system/broken.mount", "[Mount]\nWhere=/x\n"),
        ];
        let found = setup(&files).mounts;
        let found: Vec<_> = found.iter().map(|unit| (&*unit.file, &*unit.what, &*unit.at)).collect();
        assert_eq!(
            found,
            [
                ("/etc/systemd/system/data.mount", "/dev/sdb1", "/data"),
                ("/usr/lib/systemd/system/dev-hugepages.mount", "hugetlbfs", "/dev/hugepages"),
            ]
        );
    }

    #[test]
    fn what_would_format_is_found_wherever_it_stands() {
        for (path, text) in [
            ("/etc/cloud/cloud.cfg", "fs_setup:\n - device: /dev/vdb\n"),
            ("/etc/cloud/cloud.cfg.d/90_disks.cfg", "disk_setup:\n  /dev/vdb: {}\n"),
            ("/etc/rc.local", "#!/bin/sh\nmkfs.xfs /dev/sdb\n"),
            ("/etc/fstab", "/dev/sdb /data ext4 x-systemd.makefs 0 0\n"),
            ("/etc/systemd/system/disks.service", "[Service]\nExecStart=/sbin/mdadm --create /dev/md0\n"),
            ("/var/lib/cloud/scripts/per-once/disks", "#!/bin/sh\nmkfs.ext4 /dev/sdb\n"),
            ("/var/lib/cloud/seed/nocloud/user-data", "#cloud-config\nbootcmd:\n - mkfs.ext4 /dev/vdb\n"),
            ("/etc/init.d/disks", "mkfs.ext4 /dev/sdb\n"),
            ("/boot/ignition/config.ign", "{\"ignition\": {}, \"storage\": {\"disks\": [{}]}}"),
        ] {
            let found = setup(&[(path, text)]).formats;
            assert_eq!(found.len(), 1, "{path}: {found:?}");
            assert_eq!(found[0].file, path);
        }
    }

    #[test]
    fn a_script_that_a_unit_starts_is_looked_into() {
        let unit = "[Service]\nExecStartPre=-/usr/local/bin/prepare-disks --all\nExecStart=/usr/bin/daemon\n";
        let found = setup(&[
            ("/etc/systemd/system/disks.service", unit),
            ("/usr/local/bin/prepare-disks", "#!/bin/sh\nmkfs.ext4 /dev/sdb\n"),
            ("/usr/local/bin/never-started", "#!/bin/sh\nmkfs.ext4 /dev/sdb\n"),
            ("/usr/bin/daemon", "\x7fELF mkfs.ext4"),
        ]);
        let files: Vec<_> = found.formats.iter().map(|found| found.file.as_str()).collect();
        assert_eq!(files, ["/usr/local/bin/prepare-disks"]);
    }

    #[test]
    fn a_packages_init_script_and_the_default_modules_of_cloud_init_format_nothing() {
        let found = setup(&[
            ("/etc/init.d/cryptdisks", "# sets up\nmkswap $dev\n"),
            ("/var/lib/dpkg/status", "Package: cryptsetup\nConffiles:\n /etc/init.d/cryptdisks 0123\n"),
            ("/etc/cloud/cloud.cfg", "cloud_init_modules:\n - disk_setup\n - mounts\n"),
        ]);
        assert_eq!(found.formats, []);
    }

    #[test]
    fn definitions_for_systemd_repart_count_where_it_is() {
        let definition = ("/etc/repart.d/50-data.conf", "[Partition]\nType=linux-generic\nFormat=ext4\n");
        assert_eq!(setup(&[definition]).formats, []);
        assert_eq!(setup(&[definition, ("/usr/bin/systemd-repart", "")]).formats.len(), 1);
        let facts = Facts { packages: BTreeMap::from([("systemd-repart".into(), "257".into())]), ..Facts::default() };
        assert_eq!(read(&Made::of(&[definition]), &facts).unwrap().formats.len(), 1);
    }

    #[test]
    fn ways_in_are_found() {
        let found = setup(&[
            ("/root/.ssh/authorized_keys", "# nobody\n"),
            ("/home/me/.ssh/authorized_keys", "ssh-ed25519 AAAA me\n"),
            ("/etc/ssh/sshd_config.d/ca.conf", "TrustedUserCAKeys /etc/ssh/ca.pub\n"),
            ("/etc/ssh/sshd_config", "#TrustedUserCAKeys none\nAuthorizedKeysCommand none\n"),
            ("/usr/sbin/sshd", "\x7fELF"),
            ("/usr/bin/cloud-init", "#!/usr/bin/python3"),
            ("/etc/shadow", "root:*:1::\nme:$y$j9T$abc$def:1::\nguest::1::\nlocked:!$y$x:1::\nshort:x:1::\n"),
            (
                "/etc/systemd/system/serial-getty@ttyS0.service.d/login.conf",
                "ExecStart=-/sbin/agetty --autologin root %I",
            ),
        ]);
        assert_eq!(found.authorized_keys, ["/home/me/.ssh/authorized_keys", "/etc/ssh/sshd_config.d/ca.conf"]);
        assert_eq!(found.passwords, ["me", "guest"]);
        assert_eq!(found.open_consoles, ["/etc/systemd/system/serial-getty@ttyS0.service.d/login.conf"]);
        assert_eq!(found.cloud_agents, ["cloud-init"]);
        assert!(found.has_ssh_server);
    }

    #[test]
    fn an_agent_counts_where_something_starts_it() {
        let unit = ("/etc/systemd/system/multi-user.target.wants/keepstate-agent.service", "[Unit]");
        assert!(!setup(&[unit]).has_agent, "nothing reads units there");
        for systemd in ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"] {
            assert!(!setup(&[(systemd, "\x7fELF")]).has_agent);
            assert!(setup(&[unit, (systemd, "\x7fELF")]).has_agent);
        }
        let inittab = agent::added_to("l2:2:wait:/etc/init.d/rc 2\n").unwrap();
        assert!(setup(&[("/etc/inittab", &inittab)]).has_agent);
        assert!(!setup(&[("/etc/inittab", "l2:2:wait:/etc/init.d/rc 2\n"), unit]).has_agent);
    }

    #[test]
    fn kernels_are_signed_or_not() {
        let mut tree = Made::default();
        tree.0.insert("/boot/vmlinuz-6.1".into(), efi::tests::program(true));
        tree.0.insert("/boot/vmlinuz-6.2".into(), efi::tests::program(false));
        tree.0.insert("/boot/vmlinuz-old".into(), b"not a program".to_vec());
        tree.0.insert("/boot/config-6.1".into(), efi::tests::program(false));
        let found = read(&tree, &Facts::default()).unwrap().kernels;
        assert_eq!(found.signed, ["/boot/vmlinuz-6.1"]);
        assert_eq!(found.unsigned, ["/boot/vmlinuz-6.2", "/boot/vmlinuz-old"]);
    }

    #[test]
    fn what_cannot_be_read_is_said_and_not_passed_over() {
        let error = read(&Made::of(&[("/etc/rc.local", "UNREADABLE")]), &Facts::default()).unwrap_err();
        assert!(error.contains("/etc/rc.local"), "{error}");
    }
}
