//! How much there is to read, added up ahead of whoever reads it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Dir, FileType, Stat};

use crate::walk::{FACTS, Reach, is_itself_or_above, open_below, open_root};

/// Tells the sizes of all files that a walk would come to, in bytes, every now and then and at its end.
///
/// For progress only: what cannot be looked at counts for nothing. It needs no order, so it holds no names, however many a
/// directory has.
pub(crate) fn survey(root: &Path, reach: Reach, stop: &AtomicBool, total: impl Fn(u64)) {
    /// How often it is told.
    const EVERY: usize = 256;
    let Ok(root) = open_root(root) else { return };
    let Ok(Stat { st_dev: device, .. }) = rustix::fs::fstat(&root) else { return };
    let mut open: Vec<Dir> = Dir::new(root).into_iter().collect();
    let (mut bytes, mut count) = (0_u64, 0_usize);
    while let Some(directory) = open.last_mut() {
        let Some(Ok(item)) = directory.next() else {
            open.pop();
            continue;
        };
        let name = item.file_name();
        if is_itself_or_above(name) {
            continue;
        }
        if count.is_multiple_of(EVERY) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            total(bytes);
        }
        count += 1;
        let Ok(folder) = directory.fd() else { continue };
        let Ok(stat) = rustix::fs::statat(folder, name, FACTS) else { continue };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => bytes = bytes.saturating_add(stat.st_size.cast_unsigned()),
            FileType::Directory if reach.mounts || stat.st_dev == device => {
                let below = open_below(folder, name).and_then(Dir::new);
                open.extend(below);
            }
            _ => {}
        }
    }
    total(bytes);
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

    use super::*;
    use crate::entry::Kind;
    use crate::walk::Walk;

    /// What is told, in its order.
    fn told(root: &Path, reach: Reach, stop: bool) -> Vec<u64> {
        let told = RefCell::new(Vec::new());
        survey(root, reach, &AtomicBool::new(stop), |bytes| told.borrow_mut().push(bytes));
        told.into_inner()
    }

    /// What the walk that is read comes to.
    fn walked(root: &Path, reach: Reach) -> u64 {
        let sizes = Walk::new(root, reach).expect("a tree").map(|found| match found.entry.kind {
            Kind::File(size) => size,
            _ => 0,
        });
        sizes.sum()
    }

    #[test]
    fn it_adds_up_what_the_walk_comes_to() {
        let room = tempfile::tempdir().expect("a folder");
        let deep = room.path().join("a/b/c");
        fs::create_dir_all(&deep).expect("folders");
        fs::create_dir(room.path().join("empty")).expect("a folder");
        fs::write(deep.join("file"), [0; 1000]).expect("a file");
        fs::hard_link(deep.join("file"), room.path().join("the same")).expect("a link");
        std::os::unix::fs::symlink(".", deep.join("round")).expect("a link");
        std::os::unix::fs::symlink("file", deep.join("to the file")).expect("a link");
        for i in 0..600 {
            fs::write(room.path().join(format!("{i}")), [0; 7]).expect("a file");
        }
        let told = told(room.path(), Reach::default(), false);
        assert!(told.is_sorted() && told.len() > 2, "{told:?}");
        assert_eq!(
            (told.last(), walked(room.path(), Reach::default())),
            (Some(&(2 * 1000 + 600 * 7)), 2 * 1000 + 600 * 7)
        );
    }

    #[test]
    fn what_is_not_wanted_any_more_or_not_there_is_not_told() {
        let room = tempfile::tempdir().expect("a folder");
        fs::write(room.path().join("file"), "content").expect("a file");
        assert!(told(room.path(), Reach::default(), true).is_empty());
        assert!(told(&room.path().join("absent"), Reach::default(), false).is_empty());
        assert!(told(&room.path().join("file"), Reach::default(), false).is_empty());
    }

    #[test]
    #[ignore = "needs root: run by ./test"]
    fn what_is_mounted_in_the_tree_counts_where_it_is_walked() {
        let room = tempfile::tempdir().expect("a folder");
        fs::write(room.path().join("file"), [0; 10]).expect("a file");
        let point = room.path().join("below");
        fs::create_dir(&point).expect("a folder");
        let _mount = sys::testing::Mount::new(Path::new("tmpfs"), &point, "tmpfs").expect("mounted");
        fs::create_dir(point.join("deeper")).expect("a folder");
        fs::write(point.join("deeper/file"), [0; 100]).expect("a file");
        for (mounts, expected) in [(false, 10), (true, 110)] {
            let reach = Reach { mounts, ..Reach::default() };
            assert_eq!(
                (told(room.path(), reach, false).last(), walked(room.path(), reach)),
                (Some(&expected), expected)
            );
        }
    }
}
