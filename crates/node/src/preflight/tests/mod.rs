//! Every refusal by its name: the reason, the remedy, and what is not refused.

use model::manifest::{Facts as ImageFacts, Programs, Setup, UnitMount};

use super::*;

mod access;
mod data;

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
    let mut manifest = Manifest::from_bytes(include_bytes!("../../../../model/tests/manifest.json")).unwrap();
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
