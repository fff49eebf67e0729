//! Where undo log and stage stand, and whether what stands there already is to be gone on with.

use std::sync::Arc;

use image::Image;
use sys::{AlignedBuf, Medium};

use crate::Flash;
use crate::error::{Error, Result};
use crate::geometry::{Geometry, len};
use crate::log::{Contents, Digests, Header, Kind, Log, Purpose, Reader, State};
use crate::verdict::ChunkSet;

/// Durable space for an undo log or a stage, which the user named.
pub struct Space {
    /// The file or region.
    pub medium: Arc<dyn Medium>,
    /// A random number: sets a log apart from what an earlier one left in the same space.
    pub id: u64,
}

/// What a flash keeps, and where.
#[derive(Default)]
pub struct Keep {
    /// Where the undo log goes; without one there is no way back.
    pub undo: Option<Space>,
    /// Whether the old data behind the image's end is logged too.
    pub tail: bool,
    /// Where what is missing is staged; without one it is fetched when it is written.
    pub stage: Option<Space>,
    /// The disk's identity, as logs record it.
    pub disk_key: String,
    /// Where the image was found: store URL or directory, and folder in it.
    pub image_from: (String, String),
}

impl Flash<'_> {
    /// Opens or begins the undo log: the log, whether it belongs to a flash that was cut off, and what new content it holds.
    pub(crate) fn open_undo(&self, space: &Space, header: &Header) -> Result<(Option<Log>, bool, Option<ChunkSet>)> {
        let begin = || Ok((Some(Log::create(Arc::clone(&space.medium), space.id, header)?), false, None));
        let refuse = |why: &str| Err(Error::Unusable { what: "undo log", why: why.into() });
        let damaged = "it is incomplete or damaged, and the disk looks like one whose flash was cut off: logging it anew would \
                       lose the old disk for good; keep both, name another file to give up the way back, or restore the log";
        let Some(contents) = Contents::read(&*space.medium, Purpose::Undo)? else {
            let size = space.medium.size().map_err(|source| Error::Log {
                what: "undo log",
                doing: "reading the size of",
                offset: 0,
                source,
            })?;
            return if size > 0 && self.looks_cut_off()? { refuse(damaged) } else { begin() };
        };
        if contents.header.disk != header.disk && contents.state != State::Undone {
            return refuse(&format!("it belongs to another disk, {}; name another file", contents.header.disk));
        }
        let is_same = check_same(&contents.header, &header.disk, self.geometry()?, self.image, Purpose::Undo);
        let resume = |contents: &Contents| {
            Ok((Some(Log::reopen(Arc::clone(&space.medium), contents)?), true, contents.staged.clone()))
        };
        match contents.state {
            State::Undone => begin(),
            // No write is recorded. The record may have been lost since; the disk tells.
            State::Unsealed | State::Sealed if self.is_untouched(space)? => begin(),
            State::Unsealed => refuse(damaged),
            State::Sealed | State::Began => is_same.and_then(|()| resume(&contents)),
            State::Done if is_same.is_ok() => resume(&contents),
            State::Done => refuse(
                "it is the way back from an earlier flash; name another file, or delete this one to give up that way back",
            ),
            State::UndoBegan => refuse("an undo with it was cut off; run `keepstate undo` again first"),
        }
    }

    /// Whether the disk's first chunk, the first that a flash writes, is what the log says it was; or, if the log does
    /// not say, whether it looks as if no flash had begun.
    fn is_untouched(&self, space: &Space) -> Result<bool> {
        let mut reader = Reader::new(&*space.medium, Purpose::Undo)?;
        let mut logged = None;
        while let Some(record) = reader.next_record()? {
            if record.kind == Kind::Digests
                && let Some(digests) = Digests::parse(&record.payload)
                && digests.first == 0
            {
                logged = digests.digests.first().copied();
            }
        }
        let Some(logged) = logged else { return Ok(!self.looks_cut_off()?) };
        let content = self.first_chunk()?;
        let now = Some(image::digest::chunk(&content, 0)).filter(|_| !sys::is_zero(&content));
        Ok(logged == now)
    }

    /// Whether sector 0 is dead and what follows it is not: what a flash leaves behind that is cut off.
    fn looks_cut_off(&self) -> Result<bool> {
        let content = self.first_chunk()?;
        let (sector_0, rest) = content.split_at(self.disk.sector_size() as usize);
        Ok(sys::is_zero(sector_0) && !sys::is_zero(rest))
    }

    fn first_chunk(&self) -> Result<AlignedBuf> {
        let mut content = AlignedBuf::zeroed(len(&self.geometry()?.on_disk(0)));
        self.disk.read_at(0, &mut content).map_err(|source| Error::Disk { doing: "reading", offset: 0, source })?;
        Ok(content)
    }
}

/// Opens a stage of the same disk and image, or begins one.
pub(crate) fn open_stage(space: &Space, header: &Header) -> Result<(Log, Option<ChunkSet>)> {
    let contents = Contents::read(&*space.medium, Purpose::Stage)?;
    let is_same = |contents: &Contents| {
        contents.header.disk == header.disk
            && contents.header.disk_size == header.disk_size
            && contents.header.manifest == header.manifest
    };
    match contents {
        Some(contents) if is_same(&contents) => {
            Ok((Log::reopen(Arc::clone(&space.medium), &contents)?, contents.staged))
        }
        _ => Ok((Log::create(Arc::clone(&space.medium), space.id, header)?, None)),
    }
}

/// Whether a log belongs to this disk and image.
pub(crate) fn check_same(
    header: &Header,
    disk_key: &str,
    geometry: Geometry,
    image: &Image,
    purpose: Purpose,
) -> Result<()> {
    let refuse = |why: String| Err(Error::Unusable { what: purpose.name(), why });
    if header.disk != disk_key || header.disk_size != geometry.disk {
        return refuse(format!("it belongs to another disk, {}; name another file", header.disk));
    }
    let manifest = image.manifest();
    if header.manifest.as_bytes() != manifest.to_bytes() {
        let other = model::Manifest::from_bytes(header.manifest.as_bytes())
            .map_or_else(|_| "another image".into(), |other| format!("{}@{}", other.name, other.version));
        return refuse(format!(
            "it belongs to a flash of {other} that was begun and not ended; finish that one, or undo it, before {}@{}",
            manifest.name, manifest.version
        ));
    }
    Ok(())
}
