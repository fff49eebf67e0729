//! Devices that are made of a disk (LVM, LUKS, md): what is written through them need not show at the disk's edges.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Devices above the one with this number, and above its partitions, all the way up; of the machine whose `/sys` this is.
pub(super) fn above(sys: &Path, number: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    let device = sys.join("dev/block").join(number);
    gather(&device, &mut found);
    for name in names(&device).filter(|name| device.join(name).join("partition").exists()) {
        gather(&device.join(name), &mut found);
    }
    found.into_iter().collect()
}

fn gather(device: &Path, found: &mut BTreeSet<String>) {
    for name in names(&device.join("holders")) {
        let holder = device.join("holders").join(&name);
        // What device-mapper makes has a name that says more than its number.
        let mapped = fs::read_to_string(holder.join("dm/name"));
        let node =
            mapped.map_or_else(|_| format!("/dev/{name}"), |mapped| format!("/dev/mapper/{}", mapped.trim_end()));
        if found.insert(node) {
            gather(&holder, found);
        }
    }
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_stands_on_a_disk_and_on_its_partitions_is_found_all_the_way_up() {
        let sys = tempfile::tempdir().expect("a directory");
        let block = |name: &str| sys.path().join("devices").join(name);
        let put = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        for partition in ["vdb/vdb1", "vdb/vdb2"] {
            put(&block(partition).join("partition"), "1\n");
        }
        put(&block("dm-0").join("dm/name"), "luks\n");
        put(&block("dm-1").join("dm/name"), "vg-data\n");
        for (below, above) in [("vdb/vdb1", "dm-0"), ("dm-0", "dm-1"), ("vdb/vdb2", "md127"), ("vdb", "dm-1")] {
            fs::create_dir_all(block(below).join("holders")).expect("made");
            fs::create_dir_all(block(above)).expect("made");
            symlink(block(above), block(below).join("holders").join(above)).expect("linked");
        }
        fs::create_dir_all(sys.path().join("dev/block")).expect("made");
        symlink(block("vdb"), sys.path().join("dev/block/254:16")).expect("linked");
        let found = above(sys.path(), "254:16");
        assert_eq!(found, ["/dev/mapper/luks", "/dev/mapper/vg-data", "/dev/md127"]);
        assert!(above(sys.path(), "1:1").is_empty());
    }
}
