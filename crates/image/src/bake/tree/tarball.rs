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
const ATTRIBUTE_KEY: &str = "SCHILY.xattr.";

/// Reads a tarball, compressed or not; contents of files go into the directory `contents`.
pub(in crate::bake) fn read(path: &Path, contents: &Path) -> Result<Tree> {
    let reading = Error::io("reading the tarball", path);
    let mut archive = Archive::new(open(path).map_err(&reading)?);
    let mut tree = Tree::default();
    let mut count = 0;
    for entry in archive.entries().map_err(&reading)? {
        let mut entry = entry.map_err(&reading)?;
        let refuse = |why: String| Error::root(path, why);
        if matches!(entry.header().entry_type(), EntryType::XGlobalHeader) {
            continue;
        }
        let name = plain(&entry.path_bytes()).map_err(refuse)?;
        if entry.header().entry_type() == EntryType::Link {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            let target = plain(&target).map_err(refuse)?;
            let id = tree.id(&target).ok_or_else(|| {
                refuse(format!("{} is a hard link to {}, which did not come before", name.display(), target.display()))
            })?;
            if name != target {
                tree.link(name, id);
            }
            continue;
        }
        let mut node = node(&mut entry).map_err(&reading)?.map_err(|why| refuse(format!("{} {why}", name.display())))?;
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
    tree.complete()
        .map_err(|stray| Error::root(path, format!("{} lies in what is no directory", stray.display())))?;
    tree.compact();
    Ok(tree)
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
fn node(entry: &mut Entry<impl Read>) -> io::Result<std::result::Result<Node, String>> {
    let mut attributes = Attributes::new();
    let mut modified = entry.header().mtime()?.cast_signed();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let Ok(key) = extension.key() else { continue };
            if key == "mtime"
                && let Some(seconds) = extension.value().ok().and_then(whole_seconds)
            {
                modified = seconds;
            }
            if key.starts_with("GNU.sparse.") {
                return Ok(Err("is stored with holes, which is not read: pack it without --sparse".to_owned()));
            }
            if key.starts_with("SCHILY.acl.") {
                return Ok(Err("has an access control list in text form, which is not read: pack it as an attribute \
                               (tar --xattrs --xattrs-include='*'), or bake the directory"
                    .to_owned()));
            }
            if let Some(name) = key.strip_prefix(ATTRIBUTE_KEY).filter(|name| is_carried(name.as_bytes())) {
                attributes.insert(name.into(), extension.value_bytes().to_vec());
            }
        }
    }
    let header = entry.header();
    let device = |is_block| {
        let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
        Ok::<_, io::Error>(Kind::Device { is_block, major, minor })
    };
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(entry.link_name_bytes().unwrap_or_default().into_owned()),
        EntryType::Char => device(false)?,
        EntryType::Block => device(true)?,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            Kind::File { size: entry.size(), content: Content::Bytes([].into()) }
        }
        other => return Ok(Err(format!("is of a kind that tar calls {:?}", char::from(other.as_byte())))),
    };
    let number = |number: u64| u32::try_from(number).map_err(|_| io::Error::other("an owner's number beyond 32 bits"));
    Ok(Ok(Node {
        kind,
        mode: (header.mode()? & 0o7777) as u16,
        user: number(header.uid()?)?,
        group: number(header.gid()?)?,
        modified,
        attributes,
    }))
}

/// The seconds of a time such as 1793491200.25 or -1.5, rounded down.
fn whole_seconds(text: &str) -> Option<i64> {
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
