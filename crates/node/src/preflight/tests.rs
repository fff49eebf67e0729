//! Every refusal by its name: the reason, the remedy, and what is not refused.

use model::manifest::{Facts as ImageFacts, Programs, Setup, UnitMount};

use super::*;

fn packages(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
}

fn setup(manifest: &mut Manifest) -> &mut Setup {
    manifest.facts.as_mut().and_then(|facts| facts.setup.as_mut()).expect("a setup")
}

/// The verdict of one check, after both were changed.
fn verdict(what: &str, image: impl FnOnce(&mut Manifest), node: impl FnOnce(&mut Facts<'_>)) -> Finding {
    let mut manifest = manifest();
    image(&mut manifest);
    let mut facts = facts(&manifest);
    node(&mut facts);
    let findings = check(&facts);
    findings.into_iter().find(|finding| finding.what == what).unwrap_or_else(|| panic!("no check {what}"))
}

#[track_caller]
fn is_refused(finding: &Finding, words: &[&str]) {
    let text = finding.to_string();
    assert!(finding.is_refusal(), "not refused: {text}");
    let Verdict::Refused { remedy, .. } = &finding.verdict else { unreachable!("it is refused") };
    assert!(remedy.len() > 10, "a remedy: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

#[track_caller]
fn is_not_refused(finding: &Finding, words: &[&str]) {
    let text = finding.to_string();
    assert!(!finding.is_refusal(), "refused: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

fn manifest() -> Manifest {
    let mut manifest = Manifest::from_bytes(include_bytes!("../../../model/tests/manifest.json")).unwrap();
    manifest.architecture = Some("x86_64".into());
    manifest.boot_modes = vec![BootMode::Bios, BootMode::Uefi];
    let fstab = ["UUID=1 / ext4", "LABEL=data /data xfs", "/dev/disk/by-id/x /x ext4", "tmpfs /tmp tmpfs"];
    manifest.facts = Some(ImageFacts {
        fstab: fstab.map(String::from).to_vec(),
        users: BTreeMap::from([("mysql".into(), 105), ("backup".into(), 34)]),
        groups: BTreeMap::from([("mysql".into(), 112)]),
        packages: packages(&[("mariadb-server", "1:10.11.6-0+deb12u1"), ("bash", "5.2")]),
        setup: Some(Setup {
            passwords: vec!["root".into()],
            has_agent: true,
            efi_programs: Programs { signed: vec!["byte 1048576 of the disk".into()], unsigned: vec![] },
            kernels: Programs { signed: vec!["/boot/vmlinuz-6.1".into()], unsigned: vec![] },
            ..Setup::default()
        }),
        ..ImageFacts::default()
    });
    manifest
}

fn facts(manifest: &Manifest) -> Facts<'_> {
    let mysql = |number| (number, Some("mysql".to_owned()));
    Facts {
        manifest,
        root_disk: Ok(RootDisk { path: "/dev/vda".into(), size: manifest.disk_size, sector_size: 512 }),
        place: Ok(Standing::DataDisk),
        memory_available: Some(400 << 20),
        memory_for_stage: Ok(0),
        program_size: 20 << 20,
        boot_mode: BootMode::Uefi,
        architecture: "x86_64",
        way_in: Ok("takeover".into()),
        operators: Operators::default(),
        data_owners: DataOwners {
            each: vec![DataOwner { path: "/data".into(), user: mysql(105), group: mysql(112) }],
            is_cut: false,
        },
        on_root_disk: Ok(vec![]),
        space: Ok(space(8 << 30)),
        firmware: Firmware { secure_boot: Ok(false), lockdown: Some("none".into()) },
        user_data: Ok(Some(vec![])),
        metadata_service: Ok(None),
        cloud_init_is_off: false,
        needs: Ok(vec![]),
        hooks: Ok(String::new()),
        packages: Some(packages(&[("mariadb-server", "1:10.11.4-1"), ("dash", "0.5")])),
        datastore_programs: vec![],
        compatible: &[],
        hooks_left_behind: Ok(Vec::new()),
        keeps_authorized_keys: false,
        configuration: Ok(Configuration::Carried),
        units: &[],
        not_held: Ok(vec![]),
        carried: vec![],
        lost: None,
        accepted: &[],
    }
}

/// What is refused, and why, after `change`.
fn refusals(change: impl FnOnce(&mut Facts<'_>)) -> Vec<(&'static str, String)> {
    let manifest = manifest();
    let mut facts = facts(&manifest);
    change(&mut facts);
    check(&facts).iter().filter(|finding| finding.is_refusal()).map(|f| (f.what, f.to_string())).collect()
}

fn refused_for(what: &str, says: &str, change: impl FnOnce(&mut Facts<'_>)) {
    let refusals = refusals(change);
    let (found, text) = refusals.first().unwrap_or_else(|| panic!("{what}: not refused"));
    assert_eq!(*found, what, "{refusals:?}");
    assert!(text.contains(says), "{text}");
    assert!(text.contains("; "), "there is a remedy: {text}");
}

#[test]
fn a_node_and_an_image_that_fit_are_not_refused() {
    assert_eq!(refusals(|_| {}), []);
}

#[test]
fn each_thing_that_is_wrong_is_refused_with_its_reason_and_a_remedy() {
    refused_for("root disk", "device mapper", |facts| {
        facts.root_disk = Err("/ stands on device mapper vg-root".into());
    });
    refused_for("size", "1048576", |facts| {
        facts.root_disk = Ok(RootDisk { path: "/dev/vda".into(), size: 1 << 20, sector_size: 512 });
    });
    refused_for("size", "4096", |facts| {
        facts.root_disk = Ok(RootDisk { path: "/dev/vda".into(), size: 1 << 40, sector_size: 4096 });
    });
    refused_for("architecture", "aarch64", |facts| facts.architecture = "aarch64");
    refused_for("place", "overwritten", |facts| facts.place = Ok(Standing::Overwritten));
    refused_for("place", "tmpfs", |facts| facts.place = Err("it stands on tmpfs".into()));
    refused_for("memory", "276 MiB, 100", |facts| facts.memory_available = Some(100 << 20));
    refused_for("memory", "not known", |facts| facts.memory_available = None);
    refused_for("way in", "systemd", |facts| facts.way_in = Err("takeover: PID 1 is not systemd".into()));
}

#[test]
fn an_image_that_cannot_boot_here_is_refused() {
    let mut manifest = manifest();
    manifest.boot_modes = vec![BootMode::Bios];
    let findings = check(&facts(&manifest));
    assert!(findings.iter().any(|f| f.what == "boot mode" && f.is_refusal()), "{findings:?}");
    manifest.boot_modes.clear();
    let findings = check(&facts(&manifest));
    assert!(findings.iter().any(|f| f.to_string().contains("in no way that is known")), "{findings:?}");
}

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
        assert!(!data::is_kernel_name(source), "{source}");
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

#[test]
fn secure_boot_refuses_what_is_not_signed() {
    let on = |facts: &mut Facts<'_>| facts.firmware.secure_boot = Ok(true);
    is_not_refused(&verdict("secure boot", |_| {}, on), &["signed"]);
    let unsigned_loader = verdict("secure boot", |image| setup(image).efi_programs.unsigned.push("byte 7".into()), on);
    is_refused(&unsigned_loader, &["byte 7 is not signed", "turn Secure Boot off"]);
    let unsigned_kernel =
        verdict("secure boot", |image| setup(image).kernels.unsigned.push("/boot/vmlinuz-x".into()), on);
    is_refused(&unsigned_kernel, &["/boot/vmlinuz-x is not signed"]);
    is_refused(&verdict("secure boot", |image| setup(image).efi_programs.signed.clear(), on), &["no signed loader"]);
    is_refused(&verdict("secure boot", |image| setup(image).kernels.signed.clear(), on), &["no signed kernel"]);
    is_refused(&verdict("secure boot", |image| image.facts.as_mut().unwrap().setup = None, on), &["not known"]);
}

#[test]
fn secure_boot_that_cannot_be_told_is_refused_unless_firmware_is_a_bios() {
    let unknown = |facts: &mut Facts<'_>| facts.firmware.secure_boot = Err("efivars shows no variables".into());
    is_refused(&verdict("secure boot", |_| {}, unknown), &["no variables", "mount -t efivarfs"]);
    let bios = |facts: &mut Facts<'_>| {
        unknown(facts);
        facts.boot_mode = BootMode::Bios;
    };
    is_not_refused(&verdict("secure boot", |_| {}, bios), &["BIOS"]);
    is_not_refused(&verdict("secure boot", |image| setup(image).kernels.unsigned.push("k".into()), |_| {}), &["off"]);
}

#[test]
fn a_kernel_locked_down_for_confidentiality_cannot_trace_and_says_what_that_costs() {
    let locked = |facts: &mut Facts<'_>| facts.firmware.lockdown = Some("confidentiality".into());
    is_not_refused(&verdict("secure boot", |_| {}, locked), &["warning", "read again during the outage"]);
}

fn space(available: u64) -> Space {
    Space {
        available,
        image_used: 1 << 30,
        image_compressed: 400 << 20,
        documents: 1 << 20,
        root_used: 2 << 30,
        is_staged_in_memory: false,
        planned: None,
    }
}

#[test]
fn no_space_for_stage_and_undo_log_is_refused_with_both_figures() {
    let (least, most) = (space(0).least(), space(0).most());
    assert!(least == 33 << 20 && (1 << 30..3 << 30).contains(&most), "{least} {most}");
    let found = verdict("space", |_| {}, |facts| facts.space = Ok(space(least - 1)));
    is_refused(&found, &["33 MiB at least, 32 are free", "make room"]);
    let found = verdict("space", |_| {}, |facts| facts.space = Ok(space(least)));
    is_not_refused(&found, &["warning", &format!("{} MiB", most >> 20), "`prepare` will say"]);
    is_not_refused(&verdict("space", |_| {}, |facts| facts.space = Ok(space(most))), &["ok"]);
    is_refused(&verdict("space", |_| {}, |facts| facts.space = Err("statvfs".into())), &["not known"]);
}

#[test]
fn space_that_a_plan_has_found_is_believed() {
    let planned = |available| Ok(Space { planned: Some(500 << 20), ..space(available) });
    is_not_refused(&verdict("space", |_| {}, |facts| facts.space = planned(500 << 20)), &["ok", "500 MiB"]);
    is_refused(&verdict("space", |_| {}, |facts| facts.space = planned((500 << 20) - 1)), &["500 MiB at least"]);
}

#[test]
fn space_is_never_more_than_what_there_is_to_keep() {
    let incompressible = Space { image_used: 100, image_compressed: 200, root_used: 100, ..space(0) };
    assert_eq!(incompressible.most() - incompressible.least(), 200);
    Space { image_used: 0, image_compressed: u64::MAX, documents: u64::MAX, root_used: u64::MAX, ..space(0) }.most();
}

#[test]
fn an_image_that_says_nothing_of_itself_is_refused() {
    is_refused(&verdict("image's facts", |image| image.facts = None, |_| {}), &["root filesystem", "pack it again"]);
    let old = |image: &mut Manifest| image.facts.as_mut().unwrap().setup = None;
    is_refused(&verdict("image's facts", old, |_| {}), &["when it boots"]);
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

/// Any agent of any cloud counted as a way in.
#[test]
fn a_cloud_s_agent_lets_somebody_in_only_where_its_cloud_names_somebody_anew() {
    let login = |agent: &'static str, service: Option<&str>, change: fn(&mut Facts<'_>)| {
        let image = |image: &mut Manifest| {
            setup(image).passwords.clear();
            setup(image).cloud_agents.push(agent.into());
        };
        let node = |facts: &mut Facts<'_>| {
            facts.metadata_service = Ok(service.map(String::from));
            change(facts);
        };
        verdict("login", image, node)
    };
    for (agent, cloud) in [
        ("cloud-init", "hetzner"),
        ("google-guest-agent", "gce"),
        ("waagent", "azure"),
        ("amazon-ssm-agent", "aws"),
        ("ec2-instance-connect", "aws"),
        ("afterburn", "openstack"),
    ] {
        is_not_refused(&login(agent, Some(cloud), |_| ()), &["ok", agent]);
        is_refused(&login(agent, None, |_| ()), &["no agent that would bring any here"]);
    }
    is_refused(&login("waagent", Some("aws"), |_| ()), &[]);
    is_not_refused(&login("sssd", None, |_| ()), &["ok", "sssd"]);
    let kept = |facts: &mut Facts<'_>| facts.carried = vec!["/var/lib/cloud/instances/i-7/sem/config_ssh".into()];
    is_refused(&login("cloud-init", Some("aws"), kept), &["its state is kept"]);
    is_refused(&login("cloud-init", Some("aws"), |facts| facts.cloud_init_is_off = true), &[]);
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

#[test]
fn an_image_that_lets_nobody_in_is_refused() {
    let closed = |image: &mut Manifest| setup(image).passwords.clear();
    is_refused(&verdict("login", closed, |_| {}), &["nobody could log in", "put a key"]);
    let keys_only = |image: &mut Manifest| {
        closed(image);
        setup(image).authorized_keys.push("/root/.ssh/authorized_keys".into());
    };
    is_refused(&verdict("login", keys_only, |_| {}), &["no SSH server"]);
    is_refused(&verdict("login", closed, |facts| facts.keeps_authorized_keys = true), &["no SSH server"]);
    is_refused(&verdict("login", |image| image.facts = None, |_| {}), &["not known"]);
}

#[test]
fn whether_an_operator_will_get_into_the_imager_is_said_and_never_refused() {
    let said = |access: (u16, u16), keys: usize, left_out: usize| {
        let access = imager::access::Access { ssh_port: access.0, http_port: access.1 };
        let left_out = vec!["the authorized key in line 3 is left out: x".to_owned(); left_out];
        let finding = verdict(
            "operators",
            |_| {},
            |facts| {
                (facts.operators.access, facts.operators.keys, facts.operators.left_out) = (access, keys, left_out);
            },
        );
        assert!(!finding.is_refusal());
        finding.to_string()
    };
    assert!(said((22, 0), 2, 0).contains("SSH on port 22 for 2 authorized keys"));
    assert!(said((22, 80), 1, 1).contains("HTTP on port 80 for whoever can reach it"));
    assert!(said((22, 80), 1, 1).contains("line 3"));
    assert!(said((0, 0), 0, 0).contains("only on the console"));
    let lacks = verdict("operators", |_| {}, |facts| facts.operators.lacks_keys = true).to_string();
    assert!(lacks.contains("no file of `authorized-keys`"), "{lacks}");
    assert!(said((0, 0), 0, 1).contains("line 3"));
}

#[test]
fn any_one_way_in_for_a_person_is_enough() {
    type Change = fn(&mut Setup);
    let ways: [(Change, &str); 3] = [
        (
            |setup| (setup.has_ssh_server, setup.authorized_keys) = (true, vec!["/root/.ssh/authorized_keys".into()]),
            "/root",
        ),
        (|setup| setup.open_consoles.push("/etc/systemd/x.conf".into()), "x.conf"),
        (|setup| setup.passwords.push("me".into()), "me's password"),
    ];
    for (way, word) in ways {
        let image = |image: &mut Manifest| {
            setup(image).passwords.clear();
            way(setup(image));
        };
        is_not_refused(&verdict("login", image, |_| {}), &["ok", word]);
    }
    let server = |image: &mut Manifest| {
        setup(image).passwords.clear();
        setup(image).has_ssh_server = true;
    };
    is_not_refused(&verdict("login", server, |facts| facts.keeps_authorized_keys = true), &["which are kept"]);
}

#[test]
fn an_image_without_the_agent_is_taken_with_a_warning_of_what_it_cannot_have() {
    let found = verdict("agent", |image| setup(image).has_agent = false, |_| {});
    is_not_refused(&found, &["warning", "no trial", "nothing judges"]);
}

#[test]
fn a_hook_that_says_no_is_heard_and_those_that_say_yes_are_quoted() {
    let hooks = |said: Result<&str, &str>| {
        let said = said.map(String::from).map_err(String::from);
        verdict("hooks", |_| {}, |facts| facts.hooks = said)
    };
    is_not_refused(&hooks(Ok("")), &["ok", "there are none"]);
    let two = hooks(Ok("10-lag: no lag\n20-backup: of today"));
    is_not_refused(&two, &["ok", "no lag", "\n           20-backup: of today"]);
    let no = hooks(Err("the hook 10-lag ended with code 3: replica 2 is behind"));
    is_refused(&no, &["replica 2 is behind", "preflight.d"]);
    assert!(!no.to_string().contains("accept ="), "{no}");
}

fn own(has_our_place: bool, units: &[&str]) -> Configuration {
    Configuration::InImage(Own { has_our_place, units: units.iter().map(ToString::to_string).collect() })
}

/// Any byte at its path was taken for a configuration: with a mistake in it there was no hold, no trial and no way back.
#[test]
fn an_image_s_own_configuration_that_the_agent_could_not_use_is_refused() {
    let ours = ["etcd.service".to_owned()];
    let agent = |own: Configuration| {
        let manifest = manifest();
        let facts = Facts { configuration: Ok(own), units: &ours, ..facts(&manifest) };
        check(&facts).into_iter().find(|finding| finding.what == "agent").unwrap()
    };
    let broken = Configuration::Broken("unknown field `plcae`".into());
    is_refused(&agent(broken), &["plcae", "nothing would judge", "agent = \"keep\"", "accept = [\"agent\"]"]);
    is_refused(&agent(own(false, &["etcd.service"])), &["another `place`", "would not find what was done"]);
    is_refused(&agent(own(true, &[])), &["no `units`", "nothing would hold", "etcd.service"]);
    is_not_refused(&agent(own(true, &["etcd3.service"])), &["warning", "etcd3.service instead of etcd.service"]);
    is_not_refused(&agent(own(true, &["etcd.service"])), &["ok", "of its own"]);
}

/// A node that is fresh after each upgrade got an image whose agent, without a configuration, judged nothing and undid nothing.
#[test]
fn an_agent_that_would_find_no_configuration_is_refused() {
    let agent = |configuration: Result<Configuration, String>| {
        verdict("agent", |_| {}, |facts| facts.configuration = configuration)
    };
    is_not_refused(&agent(Ok(Configuration::Carried)), &["ok", "as it is here"]);
    is_not_refused(&agent(Ok(own(true, &[]))), &["ok", "/etc/keepstate/node.toml of its own"]);
    is_refused(&agent(Ok(Configuration::Nowhere)), &["no trial", "call the old one back", "accept = [\"agent\"]"]);
    is_refused(&agent(Err("no such store".into())), &["not known: no such store"]);
    let accepted = ["agent".to_owned()];
    let manifest = manifest();
    let facts = Facts { configuration: Ok(Configuration::Nowhere), accepted: &accepted, ..facts(&manifest) };
    let found = check(&facts).into_iter().find(|finding| finding.what == "agent").unwrap();
    is_not_refused(&found, &["warning", "no trial", "is accepted"]);
    let none = |facts: &mut Facts<'_>| facts.configuration = Ok(Configuration::Nowhere);
    is_not_refused(
        &verdict("agent", |image| setup(image).has_agent = false, none),
        &["warning", "nothing in the image starts the agent"],
    );
}

/// A node that is fresh after each upgrade left its probe behind, and its way back into traffic.
#[test]
fn hooks_that_the_new_os_will_not_have_are_refused() {
    let afterwards = |left: Result<&[&str], &str>| {
        let left = left.map(|left| left.iter().map(ToString::to_string).collect()).map_err(String::from);
        verdict("hooks afterwards", |_| {}, |facts| facts.hooks_left_behind = left)
    };
    is_not_refused(&afterwards(Ok(&[])), &["ok"]);
    let undrain = "/etc/keepstate/hooks/undrain.d/10-balancer";
    is_refused(&afterwards(Ok(&[undrain])), &[undrain, "agent = \"keep\"", "accept = [\"hooks afterwards\"]"]);
    is_refused(&afterwards(Err("no such store")), &["not known: no such store"]);
    let without_agent = |image: &mut Manifest| setup(image).has_agent = false;
    let left = |facts: &mut Facts<'_>| facts.hooks_left_behind = Ok(vec![undrain.into()]);
    is_not_refused(&verdict("hooks afterwards", without_agent, left), &["nothing in the image starts the agent"]);
}

/// Without systemd a datastore is held by its init script, and the gate knows that by its unit's name.
#[test]
fn a_datastore_that_could_not_be_held_in_the_new_os_is_refused() {
    let agent = |not_held: Result<Vec<String>, String>| verdict("agent", |_| {}, |facts| facts.not_held = not_held);
    let unknown = Ok(vec!["postgresql@15-main.service".to_owned()]);
    is_refused(&agent(unknown), &["postgresql@15-main.service", "no systemd", "/etc/init.d", "`units`"]);
    is_refused(&agent(Err("no such store".into())), &["not known: no such store"]);
    let of_the_image = |facts: &mut Facts<'_>| {
        facts.configuration = Ok(own(true, &["postgresql@15-main.service"]));
        facts.not_held = Ok(vec!["postgresql@15-main.service".to_owned()]);
    };
    is_refused(&verdict("agent", |_| {}, of_the_image), &["nothing would hold postgresql@15-main.service"]);
}

#[test]
fn what_will_be_lost_is_listed_where_somebody_asked() {
    let lost = Lost {
        unowned: (0..30).map(|number| format!("/opt/{number}")).collect(),
        changed: vec!["/etc/tool.conf".into(), "/etc/kept".into()],
        ..Lost::default()
    };
    let with = |facts: &mut Facts<'_>| {
        facts.lost = Some(lost.clone());
        facts.carried = vec!["/etc/kept".into()];
    };
    is_not_refused(&verdict("lost files", |_| {}, with), &["30 files or directories", "/opt/0", "and 10 more"]);
    let changed = verdict("changed files", |_| {}, with);
    is_not_refused(&changed, &["1 files", "/etc/tool.conf"]);
    assert!(!changed.to_string().contains("/etc/kept"), "{changed}");
    assert!(check(&facts(&manifest())).iter().all(|finding| finding.what != "lost files"), "nobody has asked");
    let unknown = Lost { unknown: vec!["rpm's is not read".into()], ..Lost::default() };
    is_not_refused(&verdict("lost files", |_| {}, |facts| facts.lost = Some(unknown)), &["not known: rpm's"]);
}

#[test]
fn what_the_owner_accepts_is_a_warning_and_only_what_may_be_accepted() {
    let accepted = ["login".to_owned(), "root disk".to_owned()];
    let manifest = {
        let mut manifest = manifest();
        setup(&mut manifest).passwords.clear();
        manifest
    };
    let mut facts = facts(&manifest);
    facts.root_disk = Err("it is gone".into());
    let said = |facts: &Facts<'_>, what: &str| check(facts).into_iter().find(|finding| finding.what == what).unwrap();
    is_refused(&said(&facts, "login"), &["accept = [\"login\"]"]);
    facts.accepted = &accepted;
    is_not_refused(&said(&facts, "login"), &["warning", "accepted in /etc/keepstate/node.toml"]);
    is_refused(&said(&facts, "root disk"), &["it is gone"]);
}

#[test]
fn a_disk_of_its_own_is_a_place_whether_it_is_empty_or_ours() {
    let own = |is_empty| {
        verdict("place", |_| {}, |facts| facts.place = Ok(Standing::OwnDisk { path: "/dev/vdb".into(), is_empty }))
    };
    is_not_refused(&own(true), &["/dev/vdb", "makes a filesystem"]);
    is_not_refused(&own(false), &["/dev/vdb"]);
}

#[test]
fn a_place_behind_the_image_has_to_be_kept_free_by_the_next_one() {
    const MIB: u64 = 1 << 20;
    let behind = |reserve: Option<(u64, u64)>, disk_size: u64| {
        let image = move |manifest: &mut Manifest| {
            manifest.disk_size = disk_size;
            manifest.reserve = reserve.map(|(offset, length)| model::manifest::Reserve {
                offset,
                length,
                disk_size: offset + length + MIB,
            });
        };
        verdict("place", image, |facts| facts.place = Ok(Standing::Behind(100 * MIB..164 * MIB)))
    };
    is_not_refused(&behind(Some((100 * MIB, 64 * MIB)), 100 * MIB), &["behind the image", "64 MiB"]);
    is_refused(&behind(None, 100 * MIB), &["does not keep", "--reserve"]);
    is_refused(&behind(Some((100 * MIB, 32 * MIB)), 100 * MIB), &["keeps 104857600 to 138412032 free"]);
    is_refused(&behind(Some((101 * MIB, 63 * MIB)), 101 * MIB), &["the image ends at"]);
    is_refused(&behind(Some((100 * MIB, 64 * MIB)), 100 * MIB - 512 + 4096), &["the image ends at"]);
}

#[test]
fn a_root_disk_without_room_for_the_reserve_is_refused() {
    let image = |manifest: &mut Manifest| {
        let offset = manifest.disk_size;
        let reserve = model::manifest::Reserve { offset, length: 1 << 20, disk_size: offset + (2 << 20) };
        manifest.reserve = Some(reserve);
    };
    is_refused(&verdict("size", image, |_| {}), &["behind itself", "smaller --reserve"]);
    let large = |facts: &mut Facts<'_>| facts.root_disk.as_mut().unwrap().size += 2 << 20;
    is_not_refused(&verdict("size", image, large), &["bytes"]);
}

#[test]
fn a_stage_in_memory_needs_memory_and_leaves_the_place_alone() {
    let stage = |bytes| verdict("memory", |_| {}, |facts| facts.memory_for_stage = bytes);
    is_not_refused(&stage(Ok(100 << 20)), &["400 MiB"]);
    is_refused(&stage(Ok(200 << 20)), &["need 476 MiB", "takes 200", "stage = \"place\""]);
    is_refused(&stage(Err("the table cannot be read".into())), &["is not known"]);
    let in_memory = Space { is_staged_in_memory: true, ..space(0) };
    assert_eq!(space(0).most() - in_memory.most(), 600 << 20);
}
