//! Refusals for what the data need: their mounts, their owners, their keys, their datastores.

use super::*;
use crate::preflight::data::is_kernel_name;

#[test]
fn a_mount_by_kernel_name_is_refused() {
    for source in ["/dev/sdb1", "/dev/vdb", "/dev/nvme1n1p2", "/dev/xvdf", "/dev/hda1", "/dev/mmcblk0p1"] {
        let mut manifest = manifest();
        manifest.facts.as_mut().unwrap().fstab.push(format!("{source} /data ext4 defaults 0 2"));
        let findings = check(&facts(&manifest));
        let refusal = findings.iter().find(|finding| finding.is_refusal()).unwrap();
        assert!(refusal.to_string().contains(source), "{refusal}");
    }
    let unit =
        UnitMount { file: "/etc/systemd/system/data.mount".into(), what: "/dev/sdb1".into(), at: "/data".into() };
    let add = |manifest: &mut Manifest| manifest.facts.as_mut().unwrap().setup.as_mut().unwrap().mounts.push(unit);
    is_refused(&verdict("data mounts", add, |_| ()), &["/dev/sdb1", "/data", "/etc/systemd/system/data.mount"]);
    for source in ["/dev/disk/by-uuid/1", "/dev/mapper/x", "UUID=1", "/dev/sdk/x", "/dev/vd"] {
        assert!(!is_kernel_name(source), "{source}");
    }
}

#[test]
fn numbers_that_mean_somebody_else_are_refused() {
    let owned = |number: u32, name: &str| {
        let owner = DataOwner { path: "/data".into(), user: (number, Some(name.into())), group: (0, None) };
        refusals(|facts| facts.data_owners.each = vec![owner]).pop().map(|(_, text)| text)
    };
    assert_eq!(owned(105, "mysql"), None);
    assert!(owned(106, "mysql").unwrap().contains("who is 105 in the image"));
    assert!(owned(34, "etcd").unwrap().contains("which is backup in the image"));
    assert!(owned(999, "etcd").unwrap().contains("whom the image does not have"));
    let nameless = |number: u32| {
        let container = DataOwner { path: "/data/x".into(), user: (number, None), group: (70_000, None) };
        verdict("owners of data", |_| (), |facts| facts.data_owners.each.push(container))
    };
    is_not_refused(&nameless(70_000), &["ok"]);
    is_not_refused(&nameless(34), &["warning", "nobody's here", "/data/x belongs to user 34: backup"]);
    let cut = verdict("owners of data", |_| (), |facts| facts.data_owners.is_cut = true);
    is_not_refused(&cut, &["warning", "as far as was looked"]);
}

#[test]
fn a_root_on_md_lvm_luks_or_btrfs_is_refused_by_its_name() {
    for on in [
        "md raid1 array md0",
        "LVM volume vg-root",
        "encrypted volume (LUKS) root",
        "btrfs (/dev/vda2), which has no block device of its own",
    ] {
        let why = format!("/ stands on {on}; only a partition of a disk, or a disk, is supported");
        is_refused(&verdict("root disk", |_| {}, |facts| facts.root_disk = Err(why)), &[on, "plain partition"]);
    }
}

#[test]
fn data_on_the_root_disk_is_refused_and_cannot_be_accepted() {
    let on = |path: &str, what: &str| OnRootDisk { path: path.into(), what: what.into() };
    let found = verdict(
        "data on the root disk",
        |_| {},
        |facts| {
            facts.on_root_disk = Ok(vec![on("/data", "a filesystem on vda3"), on("/var/lib/mysql", "data of mariadb")]);
        },
    );
    is_refused(&found, &["overwritten", "/data: a filesystem on vda3", "/var/lib/mysql", "another disk"]);
    assert!(!found.to_string().contains("accept"), "{found}");
    is_refused(&verdict("data on the root disk", |_| {}, |facts| facts.on_root_disk = Err("x".into())), &["not known"]);
}

fn mkfs(file: &str) -> Formats {
    Formats { file: file.into(), line: "mkfs.ext4 /dev/vdb".into() }
}

#[test]
fn an_image_that_formats_when_it_boots_is_refused() {
    let found = verdict("first boot", |image| setup(image).formats.push(mkfs("/etc/rc.local")), |_| {});
    is_refused(&found, &["in the image, /etc/rc.local: mkfs.ext4 /dev/vdb"]);
}

#[test]
fn user_data_with_mkfs_is_refused_where_the_image_runs_it() {
    let node = |facts: &mut Facts<'_>| facts.user_data = Ok(Some(vec![mkfs("/var/lib/cloud/instance/user-data.txt")]));
    let with_cloud_init = |image: &mut Manifest| setup(image).cloud_agents.push("cloud-init".into());
    is_refused(&verdict("first boot", with_cloud_init, node), &["on this node", "mkfs.ext4 /dev/vdb", "user-data"]);
    is_not_refused(&verdict("first boot", |_| {}, node), &["does not run it"]);
    let unreadable = |facts: &mut Facts<'_>| facts.user_data = Err("it is not a text".into());
    is_refused(&verdict("first boot", with_cloud_init, unreadable), &["not known: it is not a text"]);
    is_not_refused(&verdict("first boot", |_| {}, unreadable), &[]);
    is_refused(&verdict("first boot", |image| image.facts.as_mut().unwrap().setup = None, node), &["mkfs"]);
}

/// Where the old OS had no cloud-init, or its cache was cleaned, nothing was found and nothing feared; Ignition's configuration
/// was never read.
#[test]
fn user_data_that_the_image_is_given_and_nobody_knows_is_refused() {
    let first_boot = |agent: &'static str, service: Result<Option<&str>, &str>, change: fn(&mut Facts<'_>)| {
        let service = service.map(|found| found.map(String::from)).map_err(String::from);
        let node = |facts: &mut Facts<'_>| {
            (facts.user_data, facts.metadata_service) = (Ok(None), service);
            change(facts);
        };
        verdict("first boot", |image| setup(image).cloud_agents.push(agent.into()), node)
    };
    let aws = Ok(Some("aws"));
    for agent in ["cloud-init", "ignition"] {
        is_refused(&first_boot(agent, aws, |_| ()), &[agent, "by aws", "not known", "accept = [\"first boot\"]"]);
        is_refused(&first_boot(agent, Err("no DMI"), |_| ()), &["metadata service (no DMI)", "cloud-init.disabled"]);
        is_not_refused(&first_boot(agent, Ok(None), |_| ()), &["ok", "given no user-data here"]);
        is_not_refused(&first_boot(agent, aws, |facts| facts.user_data = Ok(Some(vec![]))), &["ok"]);
    }
    is_not_refused(&first_boot("waagent", aws, |_| ()), &["ok"]);
    is_not_refused(&first_boot("cloud-init", aws, |facts| facts.cloud_init_is_off = true), &["ok"]);
    let kept = |facts: &mut Facts<'_>| facts.carried = vec!["/var/lib/cloud/instances/i-7/sem/config_ssh".into()];
    is_not_refused(&first_boot("cloud-init", aws, kept), &["ok"]);
    is_refused(&first_boot("ignition", aws, kept), &["ignition"]);
}

fn need(path: &str, must_be_same: bool, in_image: InImage) -> Need {
    Need { path: path.into(), by: "/etc/crypttab (data)".into(), must_be_same, in_image }
}

#[test]
fn keys_and_files_that_the_image_lacks_are_refused_with_the_list() {
    let found = verdict(
        "keys and files",
        |_| {},
        |facts| {
            facts.needs = Ok(vec![
                need("/etc/keys/data", true, InImage::Missing),
                need("/etc/keys/other", true, InImage::Other),
                need("/etc/ssl/same", true, InImage::Same),
            ]);
        },
    );
    is_refused(
        &found,
        &["/etc/keys/data, which /etc/crypttab (data) needs, is missing", "/etc/keys/other", "is another"],
    );
    assert!(!found.to_string().contains("/etc/ssl/same"), "{found}");
    is_refused(&verdict("keys and files", |_| {}, |facts| facts.needs = Err("x".into())), &["not known"]);
}

#[test]
fn a_key_that_is_carried_is_not_missed_and_one_that_may_differ_is_named() {
    let carried = |facts: &mut Facts<'_>| {
        facts.needs = Ok(vec![need("/etc/keys/data", true, InImage::Missing)]);
        facts.carried = vec!["/etc/keys/data".into()];
    };
    is_not_refused(&verdict("keys and files", |_| {}, carried), &["ok"]);
    let other = |facts: &mut Facts<'_>| facts.needs = Ok(vec![need("/etc/ssl/tls.crt", false, InImage::Other)]);
    is_not_refused(&verdict("keys and files", |_| {}, other), &["warning", "/etc/ssl/tls.crt"]);
}

/// The check of versions, with these packages there and here.
fn versions(here: &[(&str, &str)], there: &[(&str, &str)], compatible: &[Pair]) -> Finding {
    let mut manifest = manifest();
    manifest.facts.as_mut().unwrap().packages = packages(there);
    let mut facts = facts(&manifest);
    facts.packages = Some(packages(here));
    facts.compatible = compatible;
    check(&facts).into_iter().find(|finding| finding.what == "datastore versions").unwrap()
}

fn pair(datastore: &str, from: &str, to: &str) -> Pair {
    Pair { datastore: datastore.into(), from: from.into(), to: to.into() }
}

#[test]
fn postgresql_15_to_17_is_refused_and_the_remedy_is_pg_upgrade() {
    let (here, there) =
        ([("postgresql-15", "15.14-0+deb12u1")], [("postgresql-17", "17.5-1"), ("postgresql-client-17", "17.5-1")]);
    let found = versions(&here, &there, &[]);
    is_refused(&found, &["postgresql: 15 here, 17 in the image", "pg_upgrade", "both majors", "[[compatible]]"]);
    let both = [there[0], ("postgresql-15", "15.14")];
    is_not_refused(&versions(&here, &both, &[]), &["postgresql 15"]);
}

#[test]
fn a_datastore_of_another_series_is_refused_until_it_is_declared() {
    for (name, package, old, same, new, from, to) in [
        ("mariadb", "mariadb-server", "1:10.11.6-0+deb12u1", "1:10.11.14-1", "1:11.8.2-1", "10.11", "11.8"),
        ("mysql", "mysql-server-core-8.0", "8.0.30-1", "8.0.42", "8.4.5", "8.0", "8.4"),
        ("etcd", "etcd-server", "3.4.23-4", "3.4.30-1", "3.5.16-4", "3.4", "3.5"),
        ("cassandra", "cassandra", "4.0.7", "4.1.2", "5.0.1", "4", "5"),
        ("elasticsearch", "elasticsearch", "7.17.1", "7.10.0", "8.1.0", "7", "8"),
        ("redis", "redis-server", "5:7.0.15-1", "5:7.2.1-1", "5:8.0.2-1", "7", "8"),
        ("zookeeper", "zookeeper", "3.8.0-11", "3.8.4-1", "3.9.3-1", "3.8", "3.9"),
        ("kafka", "kafka", "3.6.1", "3.6.2", "3.7.0", "3.6", "3.7"),
        ("mongodb", "mongodb-org-server", "6.0.3", "6.0.9", "7.0.1", "6.0", "7.0"),
    ] {
        let (here, same, there) = ([(package, old)], [(package, same)], [(package, new)]);
        is_not_refused(&versions(&here, &same, &[]), &[from]);
        let found = versions(&here, &there, &[]);
        is_refused(
            &found,
            &[&format!("{name}: {from} here, {to} in the image"), &format!("from = \"{from}\", to = \"{to}\"")],
        );
        is_not_refused(&versions(&here, &there, &[pair(name, from, to)]), &["declared"]);
        is_refused(&versions(&here, &there, &[pair(name, to, from)]), &[]);
        let none = [("bash", "5.2")];
        is_refused(&versions(&here, &none, &[]), &["none in the image"]);
        is_not_refused(&versions(&here, &none, &[pair(name, from, "none")]), &["declared"]);
    }
}

#[test]
fn what_is_no_server_counts_for_nothing() {
    let here = [
        ("postgresql-client-15", "15.1"),
        ("postgresql-common", "248"),
        ("redis-tools", "5:7"),
        ("mariadb-client", "1:10"),
    ];
    is_not_refused(&versions(&here, &[("bash", "5.2")], &[]), &["no datastore"]);
}

#[test]
fn versions_that_are_not_known_are_refused_where_there_is_a_datastore() {
    is_refused(&versions(&[("redis-server", "5:7.0")], &[], &[]), &["packages are not known"]);
    let without_dpkg = |facts: &mut Facts<'_>| facts.packages = None;
    is_not_refused(&verdict("datastore versions", |_| {}, without_dpkg), &["warning", "no dpkg database"]);
    let with_program = |facts: &mut Facts<'_>| {
        facts.packages = None;
        facts.datastore_programs = vec!["/usr/sbin/mysqld".into()];
    };
    is_refused(&verdict("datastore versions", |_| {}, with_program), &["/usr/sbin/mysqld"]);
}

/// Where dpkg was there and knew no datastore, none was looked for.
#[test]
fn a_datastore_that_came_as_no_package_is_refused_for_its_versions() {
    let unpacked = |facts: &mut Facts<'_>| {
        facts.packages = Some(packages(&[("dash", "0.5")]));
        facts.datastore_programs = vec!["/opt/kafka/bin/kafka-server-start.sh".into()];
    };
    let found = verdict("datastore versions", |_| {}, unpacked);
    is_refused(&found, &["without a package", "/opt/kafka", "accept = [\"datastore versions\"]"]);
}
