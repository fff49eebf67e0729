//! How much may be loaded.

use std::fs;
use std::path::Path;

use crate::error::Error;

/// How much of the memory may be filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Budget {
    /// What is available, but for a tenth of all memory.
    #[default]
    Available,
    /// So many bytes, but never more than is available.
    Bytes(u64),
    /// So many percent of all memory, but never more than is available.
    Percent(u8),
}

/// What is left to others: a tenth of all memory. The kernel would rather throw out pages of the map than swap, but a load
/// that fills memory to the brim makes everybody wait for that meanwhile.
const RESERVE_PARTS: u64 = 10;

/// How many bytes may be loaded on the machine whose `/proc` and `/sys` are below `root`. Cached pages count as available,
/// those of the map included; the limit of our control group counts, because pages are charged to whoever reads them in.
pub fn room(root: &Path, budget: Budget) -> Result<u64, Error> {
    let text = |path: &str| fs::read_to_string(root.join(path.trim_start_matches('/')));
    let unreadable = |what: &str, why: &dyn std::fmt::Display| Error::Memory(format!("{what}: {why}"));
    let table = text("/proc/meminfo").map_err(|error| unreadable("/proc/meminfo", &error))?;
    let memory = sys::memory::parse(&table);
    let memory = memory.ok_or_else(|| unreadable("/proc/meminfo", &"it does not say how much is available"))?;
    let group = group_room(root);
    let available = memory.available.min(group.unwrap_or(u64::MAX));
    Ok(match budget {
        Budget::Available => {
            let all = memory.total.min(group.unwrap_or(u64::MAX));
            available.saturating_sub(all / RESERVE_PARTS)
        }
        Budget::Bytes(bytes) => available.min(bytes),
        Budget::Percent(percent) => available.min(memory.total / 100 * u64::from(percent)),
    })
}

/// What the control group (version 2) and those above it leave us: their limits, less what is in use and no file's.
fn group_room(root: &Path) -> Option<u64> {
    let text = |path: &Path| fs::read_to_string(path).ok();
    let own = text(&root.join("proc/self/cgroup"))?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let top = root.join("sys/fs/cgroup");
    let folder = top.join(own);
    folder
        .ancestors()
        .take_while(|folder| folder.starts_with(&top))
        .filter_map(|folder| {
            // "max", where there is no limit.
            let most: u64 = text(&folder.join("memory.max"))?.trim().parse().ok()?;
            let used: u64 = text(&folder.join("memory.current"))?.trim().parse().ok()?;
            let stat = text(&folder.join("memory.stat"))?;
            let files = stat.lines().find_map(|line| line.strip_prefix("file ")?.trim().parse::<u64>().ok())?;
            Some(most.saturating_sub(used.saturating_sub(files)))
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 600 kB\n");

    #[test]
    fn a_reserve_is_kept() {
        let machine = machine(&[MEMINFO]);
        let room = |budget| room(machine.path(), budget).expect("known") / 1024;
        assert_eq!(room(Budget::Available), 500);
        assert_eq!(room(Budget::Bytes(100 * 1024)), 100);
        assert_eq!(room(Budget::Bytes(u64::MAX)), 600, "never more than there is");
        assert_eq!(room(Budget::Percent(20)), 200);
        assert_eq!(room(Budget::Percent(100)), 600);
    }

    #[test]
    fn the_tightest_group_counts() {
        let group = |name: &str, file: &str| format!("sys/fs/cgroup/{name}{file}");
        let limits = [
            ("a/b/", "max", "500000", "file 400000\n"),
            ("a/", "204800", "300000", "anon 1\nfile 197600\nkernel 9\n"),
            ("", "x", "x", ""),
        ];
        let mut files = vec![(MEMINFO.0.to_owned(), MEMINFO.1), ("proc/self/cgroup".to_owned(), "0::/a/b\n")];
        for (name, most, used, stat) in limits {
            files.extend([(group(name, "memory.max"), most), (group(name, "memory.current"), used)]);
            files.push((group(name, "memory.stat"), stat));
        }
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let root = machine(&files);
        // 200 KiB, of which 100 KiB are in use by no file, less a tenth of 100 KiB.
        assert_eq!(room(root.path(), Budget::Bytes(u64::MAX)).expect("known"), 102_400);
        assert_eq!(room(root.path(), Budget::Available).expect("known"), 92_160);
    }

    #[test]
    fn what_cannot_be_known_is_no_guess() {
        room(machine(&[]).path(), Budget::Available).expect_err("no table");
        room(machine(&[("proc/meminfo", "nothing\n")]).path(), Budget::Bytes(1)).expect_err("an empty table");
    }
}
