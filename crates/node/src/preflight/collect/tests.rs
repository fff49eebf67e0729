//! Collecting, on machines made of files.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use steps::What;

use super::*;
use crate::config::Config;
use crate::hooks::{Moment, tests::put as put_hook};
use crate::packages::tests::put;
use crate::preflight::{Configuration, InImage, Need, Own};
use crate::record::Record;
use crate::site::Site;
use crate::state::step;

/// A machine whose root disk `vda` has a system partition and a root, and whose data is on `vdb`.
struct Made {
    folder: tempfile::TempDir,
    mounts: String,
}

impl Made {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut made = Self { folder, mounts: String::new() };
        made.device("vda", "900:0");
        made.device("vda/vda1", "900:1");
        made.device("vda/vda2", "900:2");
        made.device("vdb", "900:16");
        made.mount("900:2", "/", "/");
        made.mount("900:1", "/", "/boot/efi");
        made.mount("900:16", "/", "/data");
        made
    }

    fn root(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    fn machine(&self) -> Machine {
        Machine::below(&self.root())
    }

    fn put(&self, path: &str, text: &str) {
        put(&self.root(), path, text);
    }

    fn device(&mut self, path: &str, number: &str) {
        let place = format!("sys/devices/{path}");
        self.put(&format!("{place}/dev"), &format!("{number}\n"));
        self.put(&format!("{place}/size"), "131072\n");
        self.put(&format!("{place}/queue/logical_block_size"), "512\n");
        if path.contains('/') {
            self.put(&format!("{place}/partition"), "1\n");
        }
        let name = path.rsplit('/').next().unwrap();
        let link = self.root().join("sys/class/block").join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(self.root().join(place), link).unwrap();
        self.put(&format!("dev/{name}"), &"\0".repeat(1 << 16));
    }

    fn mount(&mut self, number: &str, part: &str, point: &str) {
        self.mounts += "22 1 ";
        self.mounts += &[number, part, point, "rw - ext4 /dev/x rw\n"].join(" ");
        self.put("proc/self/mountinfo", &self.mounts);
    }

    /// Something made of a device.
    fn hold(&self, below: &str, above: &str) {
        self.put(&format!("sys/devices/{below}/holders/{above}/x"), "");
    }

    fn found(&self, data: &[&str]) -> Vec<String> {
        let data: Vec<PathBuf> = data.iter().map(PathBuf::from).collect();
        let machine = self.machine();
        let parts = root_disk::parts(&machine, "/dev/vda").unwrap();
        parts.not_the_os(&machine, &data).into_iter().map(|found| found.path).collect()
    }

    fn needs(&self, image: &[(&str, &str)]) -> Result<Vec<Need>, String> {
        let machine = self.machine();
        let parts = root_disk::parts(&machine, "/dev/vda").unwrap();
        let image: BTreeMap<String, String> =
            image.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect();
        needs::collect(&machine, &parts, &|path, _| Ok(image.get(path).map(|text| text.clone().into_bytes())))
    }
}

#[test]
fn a_root_disk_with_nothing_but_an_os_holds_no_data() {
    let mut made = Made::new();
    made.put("data/x", "");
    made.mount("900:2", "/var/lib/x", "/srv/bound");
    assert_eq!(made.found(&["/data", "/data/not/there/yet"]), <[&str; 0]>::default());
}

#[test]
fn a_foreign_filesystem_on_the_root_disk_is_found() {
    let mut made = Made::new();
    made.device("vda/vda3", "900:3");
    assert_eq!(made.found(&[]), <[&str; 0]>::default(), "nobody uses it");
    made.mount("900:3", "/", "/home");
    assert_eq!(made.found(&[]), ["/home"]);
}

#[test]
fn a_volume_on_the_root_disk_is_found_mounted_or_not() {
    let mut made = Made::new();
    made.device("vda/vda3", "900:3");
    made.device("dm-0", "253:0");
    made.hold("vda/vda3", "dm-0");
    assert_eq!(made.found(&[]), ["/dev/dm-0"]);
    made.mount("253:0", "/", "/database");
    assert_eq!(made.found(&[]), ["/database"]);
}

#[test]
fn a_data_directory_that_stands_on_the_root_disk_is_found() {
    let made = Made::new();
    made.put("srv/db/file", "");
    assert_eq!(made.found(&["/srv/db"]), ["/srv/db"]);
    assert_eq!(made.found(&["/var/lib/not-there"]), ["/var/lib/not-there"], "it would be made on the root disk");
}

#[test]
fn a_datastores_own_data_is_found_by_its_configuration_or_its_default() {
    let made = Made::new();
    made.put("var/lib/mysql/ibdata1", "rows");
    assert_eq!(made.found(&[]), ["/var/lib/mysql"]);
    made.put("data/mysql/ibdata1", "rows");
    made.put("etc/mysql/mariadb.conf.d/99-data.cnf", "[mysqld]\ndatadir = /data/mysql\n");
    assert_eq!(made.found(&[]), <[&str; 0]>::default(), "it is configured to stand elsewhere");
    fs::remove_file(made.root().join("etc/mysql/mariadb.conf.d/99-data.cnf")).unwrap();
    fs::remove_dir_all(made.root().join("var/lib/mysql")).unwrap();
    symlink(made.root().join("data/mysql"), made.root().join("var/lib/mysql")).unwrap();
    assert_eq!(made.found(&[]), <[&str; 0]>::default(), "a link leads off the root disk");
}

/// What dpkg did not know was taken for nothing: where there is rpm, or a datastore came as an archive, its data was flashed.
#[test]
fn a_default_directory_with_content_is_data_whether_or_not_its_package_is_known() {
    for path in [
        "var/lib/postgresql/15/main/PG_VERSION",
        "var/lib/pgsql/data/PG_VERSION",
        "var/lib/pgsql/16/data/PG_VERSION",
        "var/lib/mysql/ibdata1",
        "var/lib/redis/dump.rdb",
        "var/lib/mongo/WiredTiger",
        "var/lib/cassandra/data/system/local/nb-1-big-Data.db",
    ] {
        for status in ["", "Package: dash\nStatus: install ok installed\nVersion: 0.5\n"] {
            let made = Made::new();
            made.put("var/lib/dpkg/status", status);
            made.put(path, "rows");
            let found = made.found(&[]);
            assert!(found.len() == 1 && format!("/{path}").starts_with(&found[0]), "{path}: {found:?}");
        }
    }
}

/// Without `data` in node.toml nobody's numbers were compared, though its datastore's directory was known.
#[test]
fn the_data_of_a_datastore_counts_for_its_owners_without_being_named() {
    let made = Made::new();
    made.put("data/mysql/ibdata1", "rows");
    made.put("var/lib/redis/dump.rdb", "rows");
    made.put("etc/my.cnf.d/mariadb-server.cnf", "[mysqld]\ndatadir=/data/mysql\n");
    let machine = made.machine();
    let found = root_disk::parts(&machine, "/dev/vda").map(|parts| parts.data_elsewhere(&machine));
    assert_eq!(found, Ok(vec!["/data/mysql".into()]), "what stands on the root disk is refused for that");
    let owned = with_data(&["/srv".into()], found.clone());
    assert_eq!(owned, [PathBuf::from("/srv"), "/data/mysql".into()]);
    assert_eq!(with_data(&["/data".into()], found), [PathBuf::from("/data")], "it is below what is named");
    assert_eq!(owners::of(&machine, &owned).each[0].path, "/data/mysql");
}

/// `/etc/my.cnf.d`, where RHEL's `MariaDB` is configured, was not read.
#[test]
fn data_is_found_where_rhel_configures_it() {
    let made = Made::new();
    made.put("srv/mysql/ibdata1", "rows");
    made.put("etc/my.cnf.d/mariadb-server.cnf", "[mysqld]\ndatadir=/srv/mysql\n");
    assert_eq!(made.found(&[]), ["/srv/mysql"]);
}

#[test]
fn a_data_directory_that_a_package_brings_for_others_to_stand_in_is_no_data() {
    let mut made = Made::new();
    fs::create_dir_all(made.root().join("var/lib/pgsql/data")).unwrap();
    fs::create_dir_all(made.root().join("var/lib/postgresql/16/main")).unwrap();
    made.put("var/lib/postgresql/.psql_history", "");
    assert_eq!(made.found(&[]), <[&str; 0]>::default(), "it is empty");
    made.mount("900:16", "/pg", "/var/lib/postgresql/16/main");
    made.put("var/lib/postgresql/16/main/PG_VERSION", "16");
    assert_eq!(made.found(&[]), <[&str; 0]>::default(), "a data disk is mounted there");
    made.put("data/pg17/PG_VERSION", "17");
    symlink(made.root().join("data/pg17"), made.root().join("var/lib/postgresql/17")).unwrap();
    symlink(".", made.root().join("var/lib/postgresql/18")).unwrap();
    assert_eq!(made.found(&[]), <[&str; 0]>::default(), "a link leads to a data disk, and one to itself");
    made.put("var/lib/postgresql/16/tablespace/PG_VERSION", "16");
    assert_eq!(made.found(&[]), ["/var/lib/postgresql"]);
}

#[test]
fn a_machine_that_does_not_tell_its_mounts_is_an_error() {
    let made = Made::new();
    fs::remove_file(made.root().join("proc/self/mountinfo")).unwrap();
    assert!(root_disk::parts(&made.machine(), "/dev/vda").unwrap_err().contains("mountinfo"));
}

/// The made-up machine's `/` has the number of the filesystem that this test runs on.
fn refusal_of_root_on(facts: &[(&str, &str)], kind: &str) -> String {
    use std::os::unix::fs::MetadataExt;
    let mut made = Made::new();
    let number = fs::metadata(made.root()).unwrap().dev();
    let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    made.mounts = String::new();
    made.put("proc/self/mountinfo", &format!("22 1 {number} / / rw - {kind} /dev/vda2 rw\n"));
    if !facts.is_empty() {
        made.device("top", &number);
        made.put("sys/devices/top/slaves/vda2/dev", "900:2");
        for (file, text) in facts {
            made.put(&format!("sys/devices/top/{file}"), text);
        }
    }
    let machine = made.machine();
    Target::below_on(machine.root(), Path::new("/")).unwrap_err().to_string()
}

#[test]
fn a_root_on_layers_is_refused_and_each_layer_is_named() {
    for (facts, kind, says) in [
        (&[("dm/name", "vg-root"), ("dm/uuid", "LVM-abc")][..], "ext4", "LVM volume vg-root"),
        (&[("dm/name", "root"), ("dm/uuid", "CRYPT-LUKS2-abc-root")], "ext4", "encrypted volume (LUKS) root"),
        (&[("dm/name", "disk"), ("dm/uuid", "mpath-36")], "ext4", "multipath disk disk"),
        (&[("md/level", "raid1")], "ext4", "md raid1 array top"),
        (&[], "btrfs", "btrfs (/dev/vda2)"),
    ] {
        let text = refusal_of_root_on(facts, kind);
        assert!(text.contains(says), "{says}: {text}");
    }
}

#[test]
fn secure_boot_is_read_from_its_variable() {
    let variable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let made = Made::new();
    assert!(firmware::read(&made.machine()).secure_boot.is_err(), "nothing is mounted there");
    made.put("sys/firmware/efi/efivars/BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c", "");
    assert_eq!(firmware::read(&made.machine()).secure_boot, Ok(false), "firmware without it");
    for (text, expected) in [("\x06\0\0\0\x01", Ok(true)), ("\x06\0\0\0\0", Ok(false))] {
        made.put(variable, text);
        assert_eq!(firmware::read(&made.machine()).secure_boot, expected);
    }
    made.put(variable, "x");
    assert!(firmware::read(&made.machine()).secure_boot.unwrap_err().contains("not 5"));
    assert_eq!(firmware::read(&made.machine()).lockdown, None);
    made.put("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
    assert_eq!(firmware::read(&made.machine()).lockdown.as_deref(), Some("integrity"));
}

#[test]
fn user_data_that_formats_is_found_once() {
    let made = Made::new();
    assert_eq!(user_data::formats(&made.machine()), Ok(None), "cloud-init was never here");
    made.put("var/lib/cloud/instance/user-data.txt", "");
    assert_eq!(user_data::formats(&made.machine()), Ok(Some(vec![])), "it was given none");
    let text = "#cloud-config\nbootcmd:\n - mkfs.ext4 /dev/vdb\n";
    made.put("var/lib/cloud/instance/user-data.txt", text);
    made.put("var/lib/cloud/instance/user-data.txt.i", text);
    let found = user_data::formats(&made.machine()).unwrap().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].file, "/var/lib/cloud/instance/user-data.txt");
    made.put("var/lib/cloud/instance/vendor-data.txt", "\0binary");
    assert!(user_data::formats(&made.machine()).unwrap_err().contains("vendor-data.txt"));
}

#[test]
fn a_metadata_service_is_known_by_firmware_by_cloud_init_or_by_a_disk() {
    let made = Made::new();
    let found = || metadata::service(&made.machine());
    assert!(found().unwrap_err().contains("/sys/class/dmi/id"));
    made.put("sys/class/dmi/id/sys_vendor", "Dell Inc.\n");
    assert_eq!(found(), Ok(None));
    made.put("run/cloud-init/cloud-id", "none\n");
    assert_eq!(found(), Ok(None));
    made.put("dev/disk/by-label/cidata", "");
    assert_eq!(found().unwrap().as_deref(), Some("/dev/disk/by-label/cidata"));
    made.put("run/cloud-init/cloud-id", "maas\n");
    assert_eq!(found().unwrap().as_deref(), Some("maas"));
    made.put("sys/class/dmi/id/sys_vendor", "Amazon EC2\n");
    assert_eq!(found().unwrap().as_deref(), Some("aws"));
    let other = Made::new();
    other.put("sys/class/dmi/id/sys_vendor", "VMware, Inc.\n");
    assert!(metadata::service(&other.machine()).unwrap_err().contains("VMware"));
}

#[test]
fn keys_of_encrypted_volumes_have_to_be_the_same_and_their_lines_there() {
    let made = Made::new();
    made.put("etc/crypttab", "# name device key\ndata UUID=1 /etc/keys/data luks\nswap /dev/vdc /dev/urandom swap\n");
    made.put("etc/keys/data", "secret");
    let lacking = made.needs(&[]).unwrap();
    let told: Vec<_> = lacking.iter().map(|need| (need.path.as_str(), need.must_be_same, need.in_image)).collect();
    let line = "/etc/crypttab: a line for data";
    assert_eq!(told, [(line, true, InImage::Missing), ("/etc/keys/data", true, InImage::Missing)]);
    let crypttab = ("/etc/crypttab", "data UUID=1 /etc/keys/data luks\n");
    let other = made.needs(&[crypttab, ("/etc/keys/data", "another")]).unwrap();
    assert_eq!(other.iter().map(|need| need.in_image).collect::<Vec<_>>(), [InImage::Same, InImage::Other]);
    let same = made.needs(&[crypttab, ("/etc/keys/data", "secret")]).unwrap();
    assert!(same.iter().all(|need| need.in_image == InImage::Same));
    let commented = made.needs(&[("/etc/crypttab", "# data UUID=1\n")]).unwrap();
    assert_eq!(commented[0].in_image, InImage::Missing);
}

#[test]
fn arrays_of_mdadm_have_to_be_named_by_the_image_too() {
    let made = Made::new();
    made.put("etc/mdadm/mdadm.conf", "ARRAY /dev/md/data metadata=1.2 UUID=aa:bb name=x\n");
    assert_eq!(made.needs(&[]).unwrap()[0].in_image, InImage::Missing);
    let named = made.needs(&[("/etc/mdadm.conf", "ARRAY /dev/md0 UUID=AA:BB\n")]).unwrap();
    assert_eq!(named[0].in_image, InImage::Same);
}

#[test]
fn tls_keys_that_a_datastore_names_are_needed_and_those_on_data_disks_are_not() {
    let made = Made::new();
    for path in ["etc/ssl/db.key", "data/tls/db.crt"] {
        made.put(path, "pem");
    }
    for (file, text) in [
        (
            "etc/postgresql/15/main/postgresql.conf",
            "ssl_key_file = '/etc/ssl/db.key'\nssl_cert_file = '/data/tls/db.crt'\n",
        ),
        ("etc/mysql/mariadb.conf.d/50-server.cnf", "[mysqld]\nssl-key = /etc/ssl/db.key\nssl_cert=/data/tls/db.crt\n"),
        ("etc/default/etcd", "ETCD_KEY_FILE=\"/etc/ssl/db.key\"\nETCD_CERT_FILE=/data/tls/db.crt\n"),
        ("etc/cassandra/cassandra.yaml", "client_encryption_options:\n    keystore: /etc/ssl/db.key\n"),
        ("etc/elasticsearch/elasticsearch.yml", "xpack.security.http.ssl.key: /etc/ssl/db.key\n"),
        ("etc/kafka/server.properties", "ssl.keystore.location=/etc/ssl/db.key\n"),
        ("etc/redis/redis.conf", "tls-key-file /etc/ssl/db.key\n"),
        ("etc/zookeeper/conf/zoo.cfg", "ssl.keyStore.location=/etc/ssl/db.key\n"),
        ("etc/mongod.conf", "net:\n  tls:\n    certificateKeyFile: /etc/ssl/db.key\n"),
    ] {
        made.put(file, text);
        let needs = made.needs(&[]).unwrap();
        let paths: Vec<_> = needs.iter().map(|need| need.path.as_str()).collect();
        assert_eq!(paths, [format!("/{file}").as_str(), "/etc/ssl/db.key"], "{file}");
        assert_eq!(needs[1].by, format!("/{file}"));
        fs::remove_file(made.root().join(file)).unwrap();
    }
}

#[test]
fn a_key_beside_an_elastic_configuration_is_found_and_its_secrets_too() {
    let made = Made::new();
    made.put("etc/elasticsearch/elasticsearch.yml", "xpack.security.http.ssl:\n  keystore.path: certs/http.p12\n");
    made.put("etc/elasticsearch/certs/http.p12", "p12");
    made.put("etc/elasticsearch/elasticsearch.keystore", "secret");
    let needs = made.needs(&[]).unwrap();
    let paths: Vec<_> = needs.iter().map(|need| need.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(paths, ["elasticsearch.yml", "http.p12", "elasticsearch.keystore"]);
}

#[test]
fn an_image_that_cannot_be_asked_is_an_error_only_where_there_is_something_to_ask() {
    let made = Made::new();
    let machine = made.machine();
    let parts = root_disk::parts(&machine, "/dev/vda").unwrap();
    let broken = |_: &str, _: usize| Err("the store does not answer".to_owned());
    assert_eq!(needs::collect(&machine, &parts, &broken), Ok(vec![]));
    made.put("etc/redis/redis.conf", "");
    assert_eq!(needs::collect(&machine, &parts, &broken), Err("the store does not answer".into()));
}

#[test]
fn programs_of_datastores_are_found_at_their_usual_places() {
    let made = Made::new();
    made.put("usr/lib/postgresql/15/bin/postgres", "");
    made.put("usr/sbin/mysqld", "");
    made.put("usr/pgsql-16/bin/postgres", "");
    made.put("usr/libexec/mariadbd", "");
    let expected = [
        "/usr/lib/postgresql/15/bin/postgres",
        "/usr/libexec/mariadbd",
        "/usr/pgsql-16/bin/postgres",
        "/usr/sbin/mysqld",
    ];
    assert_eq!(needs::programs(&made.machine()), expected);
}

/// The hooks of preflight were documented and never run.
#[test]
fn the_owner_s_hooks_are_asked_and_told_of_the_upgrade_that_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("place = {:?}\nhooks = {:?}", folder.path().join("place"), folder.path().join("hooks"));
    let node = Node::new(Config::parse_text(&text).unwrap());
    let ask = |seconds| hooks::ask(&node, "debian@2", Duration::from_secs(seconds));
    assert_eq!(ask(20).as_deref(), Ok(""), "there are none");
    put_hook(&node.config.hooks, Moment::Preflight, "10-tells", "cat");
    let said = |upgrade: &str| format!(r#"{{"moment":"preflight","upgrade":{upgrade},"image":"debian@2"}}"#);
    assert!(ask(20).unwrap().ends_with(&said("null")), "{:?}", ask(20));
    node.place.make().unwrap();
    Record::example("7", &[]).write(&node.place.record()).unwrap();
    assert!(ask(20).unwrap().ends_with(&said("\"7\"")), "{:?}", ask(20));
    node.note(step::COMMIT, What::Done, None).unwrap();
    assert!(ask(20).unwrap().ends_with(&said("null")), "it is over: {:?}", ask(20));
    put_hook(&node.config.hooks, Moment::Preflight, "20-no", "echo replica 2 is behind; exit 1");
    assert!(ask(20).unwrap_err().ends_with("20-no ended with code 1: replica 2 is behind"));
    put_hook(&node.config.hooks, Moment::Preflight, "10-tells", "echo asking; exec sleep 1000");
    assert!(ask(1).unwrap_err().ends_with("10-tells did not end in time: asking"));
}

#[test]
fn units_are_held_by_systemd_or_by_their_init_scripts() {
    let units = ["redis-server.service".to_owned(), "etcd.service".to_owned()];
    let image = |there: &'static str| move |path: &str, _: usize| Ok((path == there).then(Vec::new));
    assert_eq!(agent::not_held(&units, &image("/usr/lib/systemd/systemd")), Ok(vec![]));
    assert_eq!(agent::not_held(&units, &image("/lib/systemd/systemd")), Ok(vec![]));
    assert_eq!(agent::not_held(&units, &image("/etc/init.d/redis-server")), Ok(vec![units[1].clone()]));
    let broken = |_: &str, _: usize| Err("the store does not answer".to_owned());
    assert_eq!(agent::not_held(&units, &broken), Err("the store does not answer".into()));
    assert_eq!(agent::not_held(&[], &broken), Ok(vec![]), "there is nothing to hold");
}

#[test]
fn the_image_is_looked_into_for_a_configuration_only_where_none_is_carried() {
    let text = "place = '/data/keepstate'\n[trial]\nunits = ['etcd.service']\n";
    let has = |path: &str, _: usize| Ok((path == "/etc/keepstate/node.toml").then(|| text.as_bytes().to_vec()));
    let has_none = |_: &str, _: usize| Ok(None);
    let broken = |_: &str, _: usize| Err("the store does not answer".to_owned());
    let carried = ["/etc/hostname".to_owned(), "/etc/keepstate/node.toml".to_owned()];
    let (place, other) = (Site::Directory("/data/keepstate".into()), Site::Behind);
    let own = |has_our_place| Configuration::InImage(Own { has_our_place, units: vec!["etcd.service".into()] });
    assert_eq!(agent::configuration(&carried, &place, &broken), Ok(Configuration::Carried));
    assert_eq!(agent::configuration(&carried[..1], &place, &has), Ok(own(true)));
    assert_eq!(agent::configuration(&carried[..1], &other, &has), Ok(own(false)));
    assert_eq!(agent::configuration(&carried[..1], &place, &has_none), Ok(Configuration::Nowhere));
    assert_eq!(agent::configuration(&[], &place, &broken), Err("the store does not answer".into()));
}

/// One byte of it was read, to see that it is there.
#[test]
fn an_image_s_own_configuration_is_read_as_its_agent_would() {
    let place = Site::Directory("/data/keepstate".into());
    for (text, says) in [
        (&b"place = '/data/keepstate'\nplcae = 1\n"[..], "plcae"),
        (b"", "place"),
        (b"place = '/data/keepstate'\n# \xff\n", "UTF-8"),
    ] {
        let has = |_: &str, _: usize| Ok(Some(text.to_vec()));
        let Ok(Configuration::Broken(why)) = agent::configuration(&[], &place, &has) else { panic!("{says}") };
        assert!(why.contains(says), "{why}");
    }
}
