//! Steps in the language of debugfs, whose lines are read by libss: words stand apart by blanks, double quotes hold a
//! word together, and two of them within such a word stand for one. Nothing else can be quoted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::plan::Step;
use super::tree::NodeId;

/// Longest names, of 264 bytes each, that a block of 4 KiB of a directory has room for.
const LINKS_A_BLOCK: u32 = 15;
/// debugfs reads lines into BUFSIZ bytes, 8192 with glibc, and takes what is longer for several.
const LINE_BYTES_MAX: usize = 8000;

/// Where the bytes are that a script writes: files that debugfs reads.
pub(super) trait Sources {
    /// Why it cannot be had.
    type Error: From<Unspeakable>;
    /// The file with the content of a node.
    fn content(&mut self, id: NodeId) -> Result<PathBuf, Self::Error>;
    /// A file with this attribute's value.
    fn value(&mut self, value: &[u8]) -> Result<PathBuf, Self::Error>;
}

/// A name that cannot be said in a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unspeakable(pub(super) PathBuf);

/// The script for these steps.
pub(super) fn script<S: Sources>(steps: &[Step], sources: &mut S) -> Result<Vec<u8>, S::Error> {
    let mut script = Vec::new();
    let mut directory: Option<PathBuf> = None;
    let mut links = 0;
    for step in steps {
        let path = step_path(step);
        let unspeakable = || Unspeakable(path.to_owned());
        // The root's own attributes are the only thing done to what has no name.
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent, name.as_bytes()),
            _ => (Path::new(""), &b"."[..]),
        };
        if directory.as_deref() != Some(parent) {
            let place = Path::new("/").join(parent);
            script.extend(line(b"cd", &[place.as_os_str().as_bytes()]).ok_or_else(unspeakable)?);
            directory = Some(parent.to_owned());
            links = 0;
        }
        if matches!(step, Step::Link { .. }) {
            // Of all that gives a name only `ln` does not make a full directory larger.
            if links % LINKS_A_BLOCK == 0 {
                script.extend_from_slice(b"expand_dir .\n");
            }
            links += 1;
        }
        // A word such as <12> would be taken for an inode's number.
        let local = [b"./", name].concat();
        let words = match step {
            Step::Remove(_) => line(b"rm", &[&local]),
            Step::RemoveDirectory(_) => line(b"rmdir", &[&local]),
            Step::MakeDirectory(_) => line(b"mkdir", &[&local]),
            // `write` and `mknod` take the name as it is, and give it to the directory they are in.
            Step::Write(_, id) => line(b"write", &[sources.content(*id)?.as_os_str().as_bytes(), name]),
            Step::Symlink(_, target) => line(b"symlink", &[&local, target]),
            // The numbers are set in the inode: debugfs refuses large ones.
            Step::Device { is_block, .. } => line(b"mknod", &[name, if *is_block { b"b" } else { b"c" }, b"0", b"0"]),
            Step::Fifo(_) => line(b"mknod", &[name, b"p"]),
            Step::Link { to, .. } => line(b"ln", &[Path::new("/").join(to).as_os_str().as_bytes(), &local]),
            Step::SetAttribute { name, value, .. } => {
                line(b"ea_set", &[b"-f", sources.value(value)?.as_os_str().as_bytes(), &local, name])
            }
            Step::RemoveAttribute { name, .. } => line(b"ea_rm", &[&local, name]),
        };
        script.extend(words.ok_or_else(unspeakable)?);
    }
    Ok(script)
}

fn step_path(step: &Step) -> &Path {
    match step {
        Step::Remove(path)
        | Step::RemoveDirectory(path)
        | Step::MakeDirectory(path)
        | Step::Write(path, _)
        | Step::Symlink(path, _)
        | Step::Device { path, .. }
        | Step::Fifo(path)
        | Step::Link { path, .. }
        | Step::SetAttribute { path, .. }
        | Step::RemoveAttribute { path, .. } => path,
    }
}

/// One line; none if it cannot be said.
fn line(command: &[u8], words: &[&[u8]]) -> Option<Vec<u8>> {
    let mut line = command.to_vec();
    for word in words {
        if word.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
            return None;
        }
        line.extend_from_slice(b" \"");
        line.extend(word.iter().flat_map(|byte| std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 })));
        line.push(b'"');
    }
    line.push(b'\n');
    (line.len() <= LINE_BYTES_MAX).then_some(line)
}

/// What debugfs says on standard error that is not its own version: it goes on after an error, and ends well.
pub(super) fn complaints(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let complaints = said.lines().filter(|line| !line.starts_with("debugfs 1.") && !line.trim().is_empty());
    super::tool::last_lines(&complaints.collect::<Vec<_>>().join("\n"))
}

/// The path for people.
pub(super) fn shown(path: &OsStr) -> String {
    path.as_bytes().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Sources for Fixed {
        type Error = Unspeakable;

        fn content(&mut self, id: NodeId) -> Result<PathBuf, Unspeakable> {
            Ok(format!("content {id}").into())
        }

        fn value(&mut self, value: &[u8]) -> Result<PathBuf, Unspeakable> {
            Ok(format!("value-{}", value.len()).into())
        }
    }

    fn said(steps: &[Step]) -> String {
        String::from_utf8(script(steps, &mut Fixed).unwrap()).unwrap()
    }

    #[test]
    fn every_step_is_said_in_its_directory() {
        let steps = [
            Step::Remove("a/b".into()),
            Step::RemoveDirectory("a/c".into()),
            Step::MakeDirectory("a/d".into()),
            Step::Write("a/d/e".into(), 7),
            Step::Symlink("l".into(), b"../x y".to_vec()),
            Step::Device { path: "n".into(), is_block: false },
            Step::Fifo("p".into()),
            Step::Link { path: "q".into(), to: "a/d/e".into() },
            Step::SetAttribute { path: "q".into(), name: b"user.x".to_vec(), value: b"12".to_vec() },
            Step::RemoveAttribute { path: PathBuf::new(), name: b"user.y".to_vec() },
        ];
        let expected = "cd \"/a\"\nrm \"./b\"\nrmdir \"./c\"\nmkdir \"./d\"\ncd \"/a/d\"\nwrite \"content 7\" \"e\"\n\
                        cd \"/\"\nsymlink \"./l\" \"../x y\"\nmknod \"n\" \"c\" \"0\" \"0\"\nmknod \"p\" \"p\"\n\
                        expand_dir .\nln \"/a/d/e\" \"./q\"\nea_set \"-f\" \"value-2\" \"./q\" \"user.x\"\nea_rm \"./.\" \"user.y\"\n";
        assert_eq!(said(&steps), expected);
    }

    #[test]
    fn quotes_are_doubled_and_nothing_else_is_touched() {
        let steps = [Step::MakeDirectory("a \"b\"\\ <c>\t#é".into())];
        assert_eq!(said(&steps), "cd \"/\"\nmkdir \"./a \"\"b\"\"\\ <c>\t#é\"\n");
    }

    #[test]
    fn what_cannot_be_said_is_named() {
        for name in ["a\nrm b", "a\rb", &"\"".repeat(4000)] {
            let error = script(&[Step::MakeDirectory(name.into())], &mut Fixed).unwrap_err();
            assert_eq!(error, Unspeakable(name.into()));
        }
        let steps = [Step::Symlink("l".into(), b"a\nb".to_vec())];
        assert_eq!(script(&steps, &mut Fixed).unwrap_err(), Unspeakable("l".into()));
    }

    #[test]
    fn complaints_are_what_is_not_the_version() {
        assert_eq!(complaints(b"debugfs 1.47.0 (5-Feb-2023)\n\n"), "");
        assert_eq!(complaints(b"debugfs 1.47.0 (5-Feb-2023)\nrm: File not found\n"), "rm: File not found");
    }
}
