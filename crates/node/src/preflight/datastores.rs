//! Datastores: by which versions their files on disk stay readable, and where their configuration names files.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Verdict, fine, refused, warning};
use crate::config::{Config, Pair};

/// How much of a version two of them must share for their files on disk to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// The number in the package's name: `postgresql-15`.
    InName,
    /// The first number.
    Major,
    /// The first two.
    Minor,
}

/// A datastore, as distributions and vendors package it, and where it stands by its own defaults.
#[derive(Clone, Copy, Debug)]
pub struct Datastore {
    /// What it is called in node.toml.
    pub name: &'static str,
    /// Packages that hold its server; the first that is installed tells the version.
    pub packages: &'static [&'static str],
    /// What counts as the same format.
    pub series: Series,
    /// Its server's program, for machines without dpkg: where it may stand.
    pub programs: &'static [&'static str],
    /// Files of its configuration, with `*` for any one name.
    pub configuration: &'static [&'static str],
    /// Keys there whose values are directories with data.
    pub data: &'static [&'static str],
    /// Where data stands if nothing is configured. A directory that a package brings empty, for others to stand in, is none.
    pub data_defaults: &'static [&'static str],
    /// Keys there whose values are files that have to be there.
    pub files: &'static [&'static str],
    /// Files with secrets that are not named anywhere.
    pub secrets: &'static [&'static str],
    /// The way over a change of format.
    pub way_over: &'static str,
}

const DUMP_AND_RESTORE: &str = "upgrade it first, within its own OS, by its documented way";

/// All that are known. Names of packages, files and keys were written down from memory, and only made-up configurations have
/// been read with them. A key is compared without case, with `_` as `-`, by the end of its dotted name.
pub const ALL: [Datastore; 15] = [
    Datastore {
        name: "postgresql",
        packages: &["postgresql-"],
        series: Series::InName,
        programs: &["/usr/lib/postgresql/*/bin/postgres", "/usr/bin/postgres", "/usr/*/bin/postgres"],
        configuration: &[
            "/etc/postgresql/*/*/postgresql.conf",
            "/var/lib/pgsql/data/postgresql.conf",
            "/var/lib/pgsql/*/data/postgresql.conf",
        ],
        data: &["data-directory"],
        data_defaults: &["/var/lib/postgresql", "/var/lib/pgsql/data", "/var/lib/pgsql/*/data"],
        files: &["ssl-cert-file", "ssl-key-file", "ssl-ca-file", "ssl-crl-file", "hba-file", "ident-file"],
        secrets: &[],
        way_over: "a cluster of one major version is not readable by another. Install both majors in an image, run \
                   pg_upgradecluster (or pg_upgrade --link with both bin directories and both data directories) there, and \
                   then use the image that has only the new one",
    },
    Datastore {
        name: "mariadb",
        packages: &["mariadb-server", "mariadb-server-core", "mariadb-server-core-", "mariadb-server-"],
        series: Series::Minor,
        programs: &["/usr/sbin/mariadbd", "/usr/libexec/mariadbd"],
        configuration: MYSQL_CONFIGURATION,
        data: &["datadir"],
        data_defaults: &["/var/lib/mysql"],
        files: MYSQL_FILES,
        secrets: &[],
        way_over: "a newer MariaDB opens the files of an older one and changes them for good (mariadb-upgrade); going back \
                   needs a backup",
    },
    Datastore {
        name: "mysql",
        packages: &["mysql-server-core-", "mysql-community-server-core", "mysql-community-server", "mysql-server"],
        series: Series::Minor,
        programs: &["/usr/sbin/mysqld", "/usr/libexec/mysqld"],
        configuration: MYSQL_CONFIGURATION,
        data: &["datadir"],
        data_defaults: &["/var/lib/mysql"],
        files: MYSQL_FILES,
        secrets: &[],
        way_over: "MySQL upgrades its files from one series to the next only, and never back",
    },
    Datastore {
        name: "percona",
        packages: &["percona-server-server"],
        series: Series::Minor,
        programs: &["/usr/sbin/mysqld", "/usr/libexec/mysqld"],
        configuration: MYSQL_CONFIGURATION,
        data: &["datadir"],
        data_defaults: &["/var/lib/mysql"],
        files: MYSQL_FILES,
        secrets: &[],
        way_over: "Percona Server upgrades its files from one series to the next only, and never back",
    },
    Datastore {
        name: "etcd",
        packages: &["etcd-server", "etcd"],
        series: Series::Minor,
        programs: &["/usr/bin/etcd"],
        configuration: &["/etc/default/etcd", "/etc/etcd/etcd.conf", "/etc/etcd/etcd.conf.yml"],
        data: &["data-dir", "wal-dir"],
        data_defaults: &["/var/lib/etcd"],
        files: &["cert-file", "key-file", "trusted-ca-file", "client-crl-file"],
        secrets: &[],
        way_over: "etcd upgrades one minor version at a time, and the cluster keeps the oldest member's until all have gone",
    },
    Datastore {
        name: "cassandra",
        packages: &["cassandra", "dse"],
        series: Series::Major,
        programs: &["/usr/sbin/cassandra"],
        configuration: &["/etc/cassandra/cassandra.yaml", "/etc/cassandra/conf/cassandra.yaml"],
        data: &["data-file-directories", "commitlog-directory", "hints-directory", "cdc-raw-directory"],
        data_defaults: &["/var/lib/cassandra"],
        files: &["keystore", "truststore"],
        secrets: &["/etc/cassandra/.keystore", "/etc/cassandra/.truststore"],
        way_over: "upgrade major by major, with nodetool upgradesstables after each",
    },
    Datastore {
        name: "elasticsearch",
        packages: &["elasticsearch"],
        series: Series::Major,
        programs: &["/usr/share/elasticsearch/bin/elasticsearch"],
        configuration: &["/etc/elasticsearch/elasticsearch.yml"],
        data: &["path.data"],
        data_defaults: &["/var/lib/elasticsearch"],
        files: ELASTIC_FILES,
        secrets: &["/etc/elasticsearch/elasticsearch.keystore"],
        way_over: "go to the last minor of the old major first; indices of an older one have to be made anew",
    },
    Datastore {
        name: "opensearch",
        packages: &["opensearch"],
        series: Series::Major,
        programs: &["/usr/share/opensearch/bin/opensearch"],
        configuration: &["/etc/opensearch/opensearch.yml"],
        data: &["path.data"],
        data_defaults: &["/var/lib/opensearch"],
        files: ELASTIC_FILES,
        secrets: &["/etc/opensearch/opensearch.keystore"],
        way_over: "go to the last minor of the old major first; indices of an older one have to be made anew",
    },
    Datastore {
        name: "redis",
        packages: &["redis-server", "redis"],
        series: Series::Major,
        programs: &["/usr/bin/redis-server"],
        configuration: &["/etc/redis/redis.conf", "/etc/redis.conf"],
        data: &["dir"],
        data_defaults: &["/var/lib/redis"],
        files: &[
            "tls-cert-file",
            "tls-key-file",
            "tls-ca-cert-file",
            "tls-client-cert-file",
            "tls-client-key-file",
            "aclfile",
        ],
        secrets: &[],
        way_over: "a newer Redis reads an older one's files, an older one not a newer's",
    },
    Datastore {
        name: "valkey",
        packages: &["valkey-server", "valkey"],
        series: Series::Major,
        programs: &["/usr/bin/valkey-server"],
        configuration: &["/etc/valkey/valkey.conf"],
        data: &["dir"],
        data_defaults: &["/var/lib/valkey"],
        files: &[
            "tls-cert-file",
            "tls-key-file",
            "tls-ca-cert-file",
            "tls-client-cert-file",
            "tls-client-key-file",
            "aclfile",
        ],
        secrets: &[],
        way_over: "a newer Valkey reads an older one's files, an older one not a newer's",
    },
    Datastore {
        name: "zookeeper",
        packages: &["zookeeper", "zookeeperd"],
        series: Series::Minor,
        programs: &["/usr/share/zookeeper/bin/zkServer.sh"],
        configuration: &["/etc/zookeeper/conf/zoo.cfg"],
        data: &["datadir", "datalogdir"],
        data_defaults: &["/var/lib/zookeeper"],
        files: &[
            "ssl.keystore.location",
            "ssl.truststore.location",
            "ssl.quorum.keystore.location",
            "ssl.quorum.truststore.location",
        ],
        secrets: &["/etc/zookeeper/conf/myid"],
        way_over: "upgrade minor by minor, and the leader last",
    },
    Datastore {
        name: "kafka",
        packages: &["kafka", "confluent-server", "confluent-kafka", "confluent-community-2.13"],
        series: Series::Minor,
        programs: &["/opt/kafka/bin/kafka-server-start.sh"],
        configuration: &[
            "/etc/kafka/server.properties",
            "/etc/kafka/kraft/server.properties",
            "/opt/kafka/config/server.properties",
        ],
        data: &["log.dirs", "log.dir", "metadata.log.dir"],
        data_defaults: &["/var/lib/kafka"],
        files: &["ssl.keystore.location", "ssl.truststore.location"],
        secrets: &[],
        way_over: "keep inter.broker.protocol.version or metadata.version at the old one until all brokers have gone",
    },
    Datastore {
        name: "mongodb",
        packages: &["mongodb-org-server", "mongodb-server"],
        series: Series::Minor,
        programs: &["/usr/bin/mongod"],
        configuration: &["/etc/mongod.conf", "/etc/mongodb.conf"],
        data: &["dbpath"],
        data_defaults: &["/var/lib/mongodb", "/var/lib/mongo"],
        files: &["certificatekeyfile", "cafile", "keyfile", "pemkeyfile"],
        secrets: &[],
        way_over: "set featureCompatibilityVersion to the old series first, and go series by series",
    },
    Datastore {
        name: "rabbitmq",
        packages: &["rabbitmq-server"],
        series: Series::Minor,
        programs: &["/usr/sbin/rabbitmq-server"],
        configuration: &["/etc/rabbitmq/rabbitmq.conf"],
        data: &[],
        data_defaults: &["/var/lib/rabbitmq"],
        files: &["ssl-options.cacertfile", "ssl-options.certfile", "ssl-options.keyfile"],
        secrets: &["/var/lib/rabbitmq/.erlang.cookie"],
        way_over: "enable all feature flags first, and go by the series that are allowed",
    },
    Datastore {
        name: "clickhouse",
        packages: &["clickhouse-server"],
        series: Series::Minor,
        programs: &["/usr/bin/clickhouse-server"],
        configuration: &[],
        data: &[],
        data_defaults: &["/var/lib/clickhouse"],
        files: &[],
        secrets: &["/etc/clickhouse-server/config.xml"],
        way_over: DUMP_AND_RESTORE,
    },
];

const MYSQL_CONFIGURATION: &[&str] = &[
    "/etc/my.cnf",
    "/etc/my.cnf.d/*",
    "/etc/mysql/my.cnf",
    "/etc/mysql/conf.d/*",
    "/etc/mysql/mariadb.conf.d/*",
    "/etc/mysql/mysql.conf.d/*",
];
const MYSQL_FILES: &[&str] =
    &["ssl-ca", "ssl-cert", "ssl-key", "ssl-crl", "file-key-management-filename", "file-key-management-filekey"];
const ELASTIC_FILES: &[&str] = &[
    "keystore.path",
    "truststore.path",
    "ssl.key",
    "ssl.certificate",
    "ssl.certificate-authorities",
    "pemkey-filepath",
    "pemcert-filepath",
    "pemtrustedcas-filepath",
];

impl Datastore {
    /// Its formats among these packages: none, if it is not installed; more than one where each has a package of its own.
    pub fn formats(&self, packages: &BTreeMap<String, String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for pattern in self.packages {
            for (package, version) in packages {
                let rest = package.strip_prefix(pattern);
                let is_numbered = |rest: &str| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit() || c == '.');
                match (self.series, rest) {
                    (Series::InName, Some(rest)) if is_numbered(rest) => _ = found.insert(rest.to_owned()),
                    (Series::InName, _) | (_, None) => {}
                    (series, Some(rest)) => {
                        let is_meant = if pattern.ends_with('-') { is_numbered(rest) } else { rest.is_empty() };
                        if is_meant && found.is_empty() {
                            found.insert(format_of(version, series));
                        }
                    }
                }
            }
        }
        found
    }
}

/// `1:10.11.6-0+deb12u1` is of the series `10.11`. An epoch counts packagings, and what follows the dash too.
fn format_of(version: &str, series: Series) -> String {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    let numbers = upstream.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
    let count = if series == Series::Major { 1 } else { 2 };
    numbers.take(count).collect::<Vec<_>>().join(".")
}

/// Which declaration would have been needed: datastore, from, to.
struct Change {
    datastore: &'static Datastore,
    from: String,
    to: String,
}

impl Change {
    fn is_declared(&self, pairs: &[Pair]) -> bool {
        let is_it = |pair: &Pair| pair.from == self.from && self.to.split(", ").any(|to| pair.to == to);
        pairs.iter().any(|pair| pair.datastore == self.datastore.name && is_it(pair))
    }

    /// Whether the old version is declared to read what the new one has written.
    fn is_declared_back(&self, pairs: &[Pair]) -> bool {
        let is_it = |pair: &Pair, to: &str| pair.from == to && pair.to == self.from;
        let has = |to| pairs.iter().any(|pair| pair.datastore == self.datastore.name && is_it(pair, to));
        self.to.split(", ").all(has)
    }
}

/// Formats that `theirs` lack of those that `ours` have.
fn changes(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) -> Vec<Change> {
    let mut changes = Vec::new();
    for datastore in &ALL {
        let there = datastore.formats(theirs);
        for from in datastore.formats(ours).difference(&there) {
            let to = there.iter().cloned().collect::<Vec<_>>().join(", ");
            changes.push(Change { datastore, from: from.clone(), to: if to.is_empty() { "none".into() } else { to } });
        }
    }
    changes
}

/// Datastores that may change their files for good once they have started in the image: each with its versions. Whoever is
/// declared to go back as well is none of them, nor who is declared not to start there. Of whom nobody knows the versions on
/// both sides, nobody knows that he can go back: `None` stands for packages that are not known.
pub(crate) fn one_way(
    ours: Option<&BTreeMap<String, String>>,
    theirs: Option<&BTreeMap<String, String>>,
    config: &Config,
) -> Vec<String> {
    let is_named = !config.trial.units.is_empty() || !config.data.is_empty();
    let is_known_here =
        |ours: &BTreeMap<String, String>| ALL.iter().any(|datastore| !datastore.formats(ours).is_empty());
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        let side = if ours.is_none() { "on this node" } else { "in the image" };
        let unknown = format!("versions not known: there is no list of dpkg's packages {side}");
        return if is_named || ours.is_some_and(is_known_here) { vec![unknown] } else { Vec::new() };
    };
    let mut found = Vec::new();
    for change in changes(ours, theirs) {
        let (name, from, to) = (change.datastore.name, &change.from, &change.to);
        if to != "none" {
            found.extend((!change.is_declared_back(&config.compatible)).then(|| format!("{name} {from} to {to}")));
        } else if is_named && !change.is_declared(&config.compatible) {
            found.push(format!("{name} {from}, versions not known: the image does not have its package"));
        }
    }
    if !config.trial.units.is_empty() && !is_known_here(ours) {
        let units = config.trial.units.join(", ");
        found.push(format!("{units}, versions not known: no package of a datastore that is known is installed"));
    }
    found
}

/// Every format that the node has has to be there in the image.
pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let remedy = "look by hand whether the image's versions read this node's data";
    let Some(ours) = &facts.packages else {
        return if facts.datastore_programs.is_empty() {
            warning("the node has no dpkg database, and no datastore's program stands where they usually do")
        } else {
            refused("the node has no dpkg database, so the versions of its datastores are not known", remedy)
                .listing(&facts.datastore_programs)
        };
    };
    let here: Vec<_> = ALL.iter().map(|datastore| (datastore, datastore.formats(ours))).collect();
    let names: Vec<_> = here
        .iter()
        .flat_map(|(datastore, formats)| formats.iter().map(|format| format!("{} {format}", datastore.name)))
        .collect();
    if names.is_empty() && !facts.datastore_programs.is_empty() {
        return refused("a datastore is here without a package that is known, so its version is not known", remedy)
            .listing(&facts.datastore_programs);
    }
    if names.is_empty() {
        return fine("no datastore that is known is installed here");
    }
    let Some(image) = facts.manifest.facts.as_ref().filter(|image| !image.packages.is_empty()) else {
        return refused("the image's packages are not known", "use an image whose packages are dpkg's").listing(names);
    };
    let changes = changes(ours, &image.packages);
    let undeclared: Vec<_> = changes.iter().filter(|change| !change.is_declared(facts.compatible)).collect();
    let Some(first) = undeclared.first() else {
        let declared =
            changes.iter().map(|change| format!("{} {} to {}", change.datastore.name, change.from, change.to));
        let declared: Vec<_> = declared.collect();
        return if declared.is_empty() {
            fine(format!("the same on-disk formats: {}", names.join(", ")))
        } else {
            fine(format!("declared compatible in node.toml: {}", declared.join(", ")))
        };
    };
    let list = undeclared.iter().map(|change| {
        let (name, way) = (change.datastore.name, change.datastore.way_over);
        format!("{name}: {} here, {} in the image: {way}", change.from, change.to)
    });
    refused(
        "the image's datastore may not read this node's data, or change it so that the old one cannot",
        format!(
            "go the way that is named below; where it is known to work, declare it: [[compatible]] datastore = \"{}\", from = \
             \"{}\", to = \"{}\"",
            first.datastore.name, first.from, first.to
        ),
    )
    .listing(list.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    fn config(more: &str, pairs: &[(&str, &str)]) -> Config {
        let pair =
            |(from, to): &(&str, &str)| format!("[[compatible]]\ndatastore = 'etcd'\nfrom = '{from}'\nto = '{to}'\n");
        let pairs: String = pairs.iter().map(pair).collect();
        Config::parse_text(&format!("place = '/data/keepstate'\n{more}\n{pairs}")).unwrap()
    }

    const UNITS: &str = "trial = { units = ['etcd.service'] }";

    #[test]
    fn only_what_is_declared_both_ways_goes_back() {
        let (old, new) = (packages(&[("etcd-server", "3.4.23+dfsg-4")]), packages(&[("etcd-server", "3.5.16-4")]));
        let there = ("3.4", "3.5");
        assert_eq!(one_way(Some(&old), Some(&new), &config(UNITS, &[there])), ["etcd 3.4 to 3.5"]);
        let both = config(UNITS, &[there, ("3.5", "3.4")]);
        assert_eq!(one_way(Some(&old), Some(&new), &both), Vec::<String>::new());
        assert_eq!(one_way(Some(&old), Some(&old), &config(UNITS, &[])), Vec::<String>::new(), "the same format");
    }

    /// Packages that were not known counted as none, so that a failed trial went back over files of a newer format by itself.
    #[test]
    fn a_datastore_whose_versions_are_not_known_does_not_go_back_by_itself() {
        let (etcd, dash) = (packages(&[("etcd-server", "3.4.23+dfsg-4")]), packages(&[("dash", "0.5")]));
        for named in [UNITS, "data = ['/data/etcd']"] {
            for (ours, theirs, says) in [
                (None, Some(&etcd), "on this node"),
                (Some(&etcd), None, "in the image"),
                (Some(&dash), None, "in the image"),
                (None, None, "on this node"),
                (Some(&etcd), Some(&dash), "etcd 3.4, versions not known: the image"),
            ] {
                let found = one_way(ours, theirs, &config(named, &[])).join("; ");
                assert!(found.contains(says) && found.contains("versions not known"), "{named}: {found:?}");
            }
        }
        let unpacked = one_way(Some(&dash), Some(&dash), &config(UNITS, &[])).join("; ");
        assert!(unpacked.contains("etcd.service, versions not known"), "it came as no package: {unpacked:?}");
        assert!(
            !one_way(Some(&etcd), None, &config("", &[])).is_empty(),
            "it is installed, whether it is named or not"
        );
    }

    #[test]
    fn a_node_without_a_datastore_or_with_one_that_the_image_does_not_start_goes_back_by_itself() {
        let (etcd, dash) = (packages(&[("etcd-server", "3.4.23+dfsg-4")]), packages(&[("dash", "0.5")]));
        for (ours, theirs) in [(None, None), (None, Some(&dash)), (Some(&dash), None), (Some(&dash), Some(&dash))] {
            assert_eq!(one_way(ours, theirs, &config("", &[])), Vec::<String>::new(), "{ours:?} {theirs:?}");
        }
        let data = config("data = ['/data']", &[]);
        assert_eq!(one_way(Some(&dash), Some(&dash), &data), Vec::<String>::new(), "both are known to have none");
        assert_eq!(one_way(Some(&etcd), Some(&dash), &config("", &[])), Vec::<String>::new(), "nobody has named it");
        let declared = config(UNITS, &[("3.4", "none")]);
        assert_eq!(one_way(Some(&etcd), Some(&dash), &declared), Vec::<String>::new(), "it is declared to need none");
    }
}
