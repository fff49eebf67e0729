//! A tarball as a tree. Owners, modes and devices are taken from its headers, so that whoever bakes need not be root.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use super::super::error::{Error, Result};
use super::{Attributes, Content, Kind, Node, Tree, is_carried};

/// Longest magic that is looked at.
const MAGIC_BYTES: usize = 6;
/// How PAX headers name extended attributes.
const ATTRIBUTE_KEY: &[u8] = b"SCHILY.xattr.";
/// An extended attribute has 64 KiB at most, and a file a few of them.
const AHEAD_BYTES_MAX: u64 = 4 << 20;
const SPARSE: &str = "is stored with holes, which is not read: pack it without --sparse";

/// Reads a tarball, compressed or not; contents of files go into the directory `contents`.
///
/// The crate's own reading of PAX headers takes a line break within an attribute's value for the end of it (a file
/// capability may hold one), so headers are taken raw.
pub(in crate::bake) fn read(path: &Path, contents: &Path) -> Result<Tree> {
    let reading = Error::io("reading the tarball", path);
    let mut archive = Archive::new(open(path).map_err(&reading)?);
    let mut tree = Tree::default();
    let (mut count, mut ahead) = (0, Ahead::default());
    for entry in archive.entries().map_err(&reading)?.raw(true) {
        let mut entry = entry.map_err(&reading)?;
        if ahead.take(&mut entry).map_err(&reading)? {
            continue;
        }
        let header = std::mem::take(&mut ahead).apply(&entry);
        let refuse = |why: String| Error::root(path, why);
        let name = plain(&header.name).map_err(refuse)?;
        if entry.header().entry_type() == EntryType::Link {
            let target = plain(&header.target).map_err(refuse)?;
            let id = tree.id(&target).ok_or_else(|| {
                refuse(format!("{} is a hard link to {}, which did not come before", name.display(), target.display()))
            })?;
            if name != target {
                tree.link(name, id);
            }
            continue;
        }
        let mut node =
            node(&entry, header).map_err(&reading)?.map_err(|why| refuse(format!("{} {why}", name.display())))?;
        if let Kind::File { content, .. } = &mut node.kind {
            let place = contents.join(count.to_string());
            count += 1;
            let writing = Error::io("unpacking to", &place);
            let mut file = File::create_new(&place).map_err(&writing)?;
            let copied = io::copy(&mut entry, &mut file).map_err(&writing)?;
            if copied != entry.size() {
                return Err(refuse(format!("it ends within {}", name.display())));
            }
            *content = Content::At(place);
        }
        tree.put(name, node);
    }
    if tree.nodes().is_empty() {
        return Err(Error::root(path, "there is nothing in it"));
    }
    tree.complete().map_err(|stray| Error::root(path, format!("{} lies in what is no directory", stray.display())))?;
    tree.compact();
    Ok(tree)
}

/// What entries that stand before a file's own say of it: PAX records, and names too long for GNU's header.
#[derive(Default)]
struct Ahead {
    records: Vec<(Vec<u8>, Vec<u8>)>,
    long_name: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
}

/// What is said of a file in all.
struct Header {
    name: Vec<u8>,
    target: Vec<u8>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Ahead {
    /// Takes an entry that speaks of the next one; whether it was one.
    fn take(&mut self, entry: &mut Entry<impl Read>) -> io::Result<bool> {
        let kind = entry.header().entry_type();
        let is_ahead = kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink();
        if is_ahead {
            let mut bytes = Vec::new();
            if entry.size() > AHEAD_BYTES_MAX {
                return Err(io::Error::other(format!("a header of {} bytes is nonsense", entry.size())));
            }
            entry.read_to_end(&mut bytes)?;
            let text = |bytes: &[u8]| Some(bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
            if kind.is_pax_local_extensions() {
                self.records = records(&bytes).ok_or_else(|| io::Error::other("a PAX header makes no sense"))?;
            } else if kind.is_gnu_longname() {
                self.long_name = text(&bytes);
            } else {
                self.long_target = text(&bytes);
            }
        }
        // What is said of all files that follow is of no matter: comments, as git writes them.
        Ok(is_ahead || kind.is_pax_global_extensions())
    }

    fn apply(self, entry: &Entry<impl Read>) -> Header {
        let record = |key: &[u8]| self.records.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        let target = || entry.header().link_name_bytes().unwrap_or_default().into_owned();
        Header {
            name: record(b"path").or(self.long_name).unwrap_or_else(|| entry.header().path_bytes().into_owned()),
            target: record(b"linkpath").or(self.long_target).unwrap_or_else(target),
            records: self.records,
        }
    }
}

/// The records of a PAX header, each "LENGTH KEY=VALUE" and a line break; the length counts all of it.
pub(super) fn records(mut bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let digits = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = str::from_utf8(&bytes[..digits]).ok()?.parse().ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        let text = record.get(digits + 1..)?.strip_suffix(b"\n")?;
        let equals = text.iter().position(|byte| *byte == b'=')?;
        records.push((text[..equals].to_vec(), text[equals + 1..].to_vec()));
        bytes = rest;
    }
    Some(records)
}

/// The tar stream; how it is compressed is told by what it begins with.
fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = File::open(path)?;
    let mut magic = Vec::new();
    (&mut file).take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
    let file = BufReader::with_capacity(1 << 20, File::open(path)?);
    Ok(match &magic[..] {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(file)?),
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file)),
        [0x04, 0x22, 0x4d, 0x18, ..] => Box::new(lz4_flex::frame::FrameDecoder::new(file)),
        _ => Box::new(file),
    })
}

/// A path relative to the root, without detours.
fn plain(bytes: &[u8]) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(format!("{} leads out of the tree", path.display()));
            }
        }
    }
    Ok(plain)
}

/// The file that a header describes; a regular one has no content yet. The inner error says what it is that cannot be.
fn node(entry: &Entry<impl Read>, said: Header) -> io::Result<std::result::Result<Node, String>> {
    let header = entry.header();
    let mut node = Node {
        kind: Kind::Fifo,
        mode: (header.mode()? & 0o7777) as u16,
        user: owner(header.uid()?)?,
        group: owner(header.gid()?)?,
        modified: header.mtime()?.cast_signed(),
        attributes: Attributes::new(),
    };
    for (key, value) in said.records {
        let number = || str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        let wrong = || io::Error::other(format!("the PAX record {} makes no sense", key.escape_ascii()));
        match &key[..] {
            b"mtime" => {
                let seconds = str::from_utf8(&value).ok().and_then(whole_seconds);
                node.modified = seconds.ok_or_else(wrong)?;
            }
            b"uid" => node.user = owner(number().ok_or_else(wrong)?)?,
            b"gid" => node.group = owner(number().ok_or_else(wrong)?)?,
            // Written for more than 8 GiB, which octal digits cannot say.
            b"size" if number() != Some(entry.size()) => return Ok(Err("is larger than 8 GiB".to_owned())),
            key if key.starts_with(b"GNU.sparse.") => return Ok(Err(SPARSE.to_owned())),
            key if key.starts_with(b"SCHILY.acl.") => {
                return Ok(Err("has an access control list in text form, which is not read: pack it as an attribute \
                               (tar --xattrs --xattrs-include='*'), or bake the directory"
                    .to_owned()));
            }
            key => {
                if let Some(name) = key.strip_prefix(ATTRIBUTE_KEY).filter(|name| is_carried(name)) {
                    node.attributes.insert(name.to_vec(), value);
                }
            }
        }
    }
    let device = |is_block| {
        let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
        Ok::<_, io::Error>(Kind::Device { is_block, major, minor })
    };
    node.kind = match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(said.target),
        EntryType::Char => device(false)?,
        EntryType::Block => device(true)?,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Regular | EntryType::Continuous => {
            Kind::File { size: entry.size(), content: Content::Bytes([].into()) }
        }
        EntryType::GNUSparse => return Ok(Err(SPARSE.to_owned())),
        other => return Ok(Err(format!("is of a kind that tar calls {:?}", char::from(other.as_byte())))),
    };
    Ok(Ok(node))
}

fn owner(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| io::Error::other(format!("an owner has the number {number}, beyond 32 bits")))
}

/// The seconds of a time such as 1793491200.25 or -1.5, rounded down.
pub(super) fn whole_seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let is_between = fraction.bytes().any(|digit| digit != b'0');
    Some(if whole.starts_with('-') && is_between { seconds - 1 } else { seconds })
}

/// Makes the directory that contents go to.
pub(in crate::bake) fn contents(room: &Path) -> Result<PathBuf> {
    let path = room.join("contents");
    fs::create_dir(&path).map_err(Error::io("making the directory", &path))?;
    Ok(path)
}
