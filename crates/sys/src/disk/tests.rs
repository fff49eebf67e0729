//! On regular files, which everybody has. Real block devices: `tests/loop_devices.rs`.

use std::fs;

use super::*;

fn noise(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i as u32).wrapping_mul(2_654_435_761).rotate_left(7) as u8 ^ seed).collect()
}

/// A file with that content.
fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.img");
    fs::write(&path, content).expect("written");
    (folder, path)
}

const POLICIES: [Caching; 2] = [Caching::Auto, Caching::Buffered];

fn writable(caching: Caching) -> How {
    How { caching, ..How::WRITE }
}

#[test]
fn any_offset_and_length_is_read_as_it_stands() {
    // No multiple of the alignment, so that there is a tail.
    let content = noise(100_000 + 512, 1);
    let (_folder, path) = file(&content);
    for caching in POLICIES {
        let disk = RealDisk::open(&path, How { caching, ..How::READ }).expect("opened");
        let mut aligned = AlignedBuf::zeroed(content.len());
        for (offset, length) in [
            (0, 4096),
            (0, 100_512),
            (1, 1),
            (511, 2),
            (4095, 8194),
            (98_304, 2208),
            (4096, 96_416),
            (100_511, 1),
            (7, 0),
        ] {
            disk.read_at(offset as u64, &mut aligned[..length]).expect("read");
            assert_eq!(&aligned[..length], &content[offset..offset + length], "{caching:?} {offset}+{length}");
            let mut odd = vec![0; length + 1];
            disk.read_at(offset as u64, &mut odd[1..]).expect("read");
            assert_eq!(&odd[1..], &content[offset..offset + length], "{caching:?} {offset}+{length} unaligned memory");
        }
    }
}

#[test]
fn any_offset_and_length_is_written_and_nothing_around_it() {
    let content = noise(3 * 1024 * 1024 + 1536, 2);
    for caching in POLICIES {
        let (_folder, path) = file(&content);
        let disk = RealDisk::open(&path, writable(caching)).expect("opened");
        let mut expected = content.clone();
        let end = content.len();
        for (i, (offset, length)) in [
            (0, 4096),
            (10, 5),
            (4095, 2),
            (8192, 1 << 20),
            (5001, 2 << 20),
            (end - 1, 1),
            (end - 5000, 5000),
            (end - 512, 512),
        ]
        .into_iter()
        .enumerate()
        {
            let new = noise(length, 100 + i as u8);
            let mut aligned = AlignedBuf::zeroed(length);
            aligned.copy_from_slice(&new);
            disk.write_at(offset as u64, &aligned).expect("written");
            expected[offset..offset + length].copy_from_slice(&new);
            let mut back = vec![0; length];
            disk.read_at(offset as u64, &mut back).expect("read");
            assert_eq!(back, new, "{caching:?} {offset}+{length}");
        }
        disk.flush().expect("flushed");
        assert!(fs::read(&path).expect("read") == expected, "{caching:?}: what stands around a write is as it was");
    }
}

#[test]
fn unaligned_writes_side_by_side_lose_nothing() {
    let (_folder, path) = file(&vec![0; 65_536]);
    let disk = RealDisk::open(&path, How::WRITE).expect("opened");
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let disk = &disk;
            // The four share every block: each writes its own KiB of it.
            scope.spawn(move || {
                for block in 0..16 {
                    let offset = block * 4096 + u64::from(thread) * 1024;
                    disk.write_at(offset, &[thread + 1; 1024]).expect("written");
                }
            });
        }
    });
    let bytes = fs::read(&path).expect("read");
    for (i, kib) in bytes.chunks(1024).enumerate() {
        assert!(kib.iter().all(|&byte| usize::from(byte) == i % 4 + 1), "KiB {i}");
    }
}

#[test]
fn a_disk_neither_grows_nor_is_read_past_its_end() {
    for caching in POLICIES {
        let (_folder, path) = file(&[0; 10_000]);
        let disk = RealDisk::open(&path, writable(caching)).expect("opened");
        for (offset, length) in [(0_u64, 10_001), (9_999, 2), (10_000, 1), (u64::MAX, 1)] {
            let error = disk.write_at(offset, &vec![1; length]).expect_err("past the end");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            let error = disk.read_at(offset, &mut vec![1; length]).expect_err("past the end");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert!(disk.zero(offset, length as u64).is_err());
        }
        assert_eq!(fs::metadata(&path).expect("there").len(), 10_000);
        assert_eq!(disk.size().expect("a size"), 10_000);
    }
}

#[test]
fn a_file_that_is_cut_off_meanwhile_is_an_error_not_a_short_read() {
    for caching in POLICIES {
        let (_folder, path) = file(&noise(65_536, 3));
        let disk = RealDisk::open(&path, How { caching, ..How::READ }).expect("opened");
        fs::OpenOptions::new().write(true).open(&path).expect("opened").set_len(10_000).expect("cut");
        for (offset, length) in [(8192, 4096), (9_000, 2_000), (40_000, 10)] {
            let error = disk.read_at(offset, &mut vec![0; length]).expect_err("it is gone");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{caching:?}");
        }
    }
}

#[test]
fn zeroing_leaves_zeros_and_the_size() {
    for caching in POLICIES {
        let content = noise(1 << 20, 4);
        let (_folder, path) = file(&content);
        let disk = RealDisk::open(&path, writable(caching)).expect("opened");
        // The filesystem that tests run on may not punch holes: then nothing may have been done.
        let done = disk.zero(4096 + 512, 65_536).expect("no failure");
        let mut back = vec![1; 1 << 20];
        disk.read_at(0, &mut back).expect("read");
        let mut expected = content;
        if done {
            expected[4608..4608 + 65_536].fill(0);
        }
        assert!(back == expected);
        assert!(!disk.zero(100, 512).expect("no failure"), "an unaligned range is left to the caller");
        assert!(!disk.zero(512, 100).expect("no failure"));
        assert!(disk.zero(512, 0).expect("no failure"), "nothing to do is done");
        disk.flush().expect("flushed");
    }
}

#[test]
fn two_never_write_one_disk() {
    let (_folder, path) = file(&[0; 4096]);
    let disk = RealDisk::open(&path, How::WRITE).expect("opened");
    assert!(matches!(RealDisk::open(&path, How::WRITE), Err(OpenError::Locked { .. })));
    RealDisk::open(&path, How::READ).expect("a reader changes nothing");
    drop(disk);
    RealDisk::open(&path, How::WRITE).expect("the lock went with the disk");
}

#[test]
fn what_is_no_disk_says_what_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    for (path, what) in
        [(folder.path(), "a directory"), (Path::new("/dev/null"), "character device"), (&pipe, "a pipe")]
    {
        let error = RealDisk::open(path, How::WRITE).expect_err("no disk").to_string();
        assert!(error.contains(what), "{error}");
    }
    let missing = folder.path().join("missing");
    assert!(matches!(RealDisk::open(&missing, How::READ), Err(OpenError::Open { .. })));
}

#[test]
fn a_created_file_stands_for_a_disk_of_zeros() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.img");
    create_file_disk(&path, 5 << 20).expect("created");
    let how = How { file_sector_size: 4096, ..How::WRITE };
    let disk = RealDisk::open(&path, how).expect("opened");
    assert_eq!((disk.size().expect("a size"), disk.sector_size(), disk.is_block_device()), (5 << 20, 4096, false));
    assert!((1..=32).contains(&disk.queue_depth()));
    let mut buf = vec![1; 5 << 20];
    disk.read_at(0, &mut buf).expect("read");
    assert!(buf.iter().all(|&byte| byte == 0));
    assert!(create_file_disk(&path, 1).is_err(), "what is there is not replaced");
    assert!(disk.reread_partitions().is_err(), "a file has none");
}

#[test]
fn a_disk_of_no_bytes_opens() {
    for caching in POLICIES {
        let (_folder, path) = file(&[]);
        let disk = RealDisk::open(&path, writable(caching)).expect("opened");
        disk.read_at(0, &mut []).expect("nothing is read");
        disk.write_at(0, &[]).expect("nothing is written");
        disk.flush().expect("flushed");
    }
}
