//! Few descriptors: a dump of many large files needs no more of them than of a few. One test, so that the process is its own.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;

use keepstate_warmth as warmth;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use warmth::Dump;

/// Fewer than files, more than a dump needs.
const DESCRIPTORS: u64 = 128;
const FILES: u64 = 200;
/// Of each: more than one thread looks at alone.
const BYTES: u64 = 600 << 20;

#[test]
fn a_thousand_large_files_do_not_take_a_thousand_descriptors() {
    let tree = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    for index in 0..FILES {
        let file =
            File::options().create_new(true).read(true).write(true).open(tree.path().join(format!("file{index}")));
        let file = file.expect("made");
        file.set_len(BYTES).expect("a hole");
        file.read_at(&mut [0; 1], BYTES - 1).expect("read");
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), ..getrlimit(Resource::Nofile) }).expect("mine");
    for threads in [NonZeroUsize::new(1), None] {
        let directories = vec![tree.path().into()];
        let dumped = warmth::dump(&Dump { directories, threads, ..Dump::default() }).expect("dumped");
        assert_eq!((dumped.unreadable.count, dumped.map.files.len() as u64), (0, FILES), "{:?}", dumped.unreadable);
    }
}
