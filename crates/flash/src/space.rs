//! Where undo log and stage stand, and whether what stands there already is to be gone on with.

use std::sync::Arc;

use image::Image;
use sys::Medium;

use crate::Flash;
use crate::error::{Error, Result};
use crate::geometry::Geometry;
use crate::log::{Contents, Header, Log, Purpose, State};
use crate::prove::{Counters, Prover};
use crate::still_old::is_still_old;
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

/// An undo log that was opened for a flash.
pub(crate) struct OpenedUndo {
    pub(crate) log: Log,
    /// Whether it belongs to a flash that was cut off, or ended: the disk is no longer the old one.
    pub(crate) is_resumed: bool,
    /// The new content that it holds.
    pub(crate) staged: Option<ChunkSet>,
    /// Whether it holds the old data behind the image's end.
    pub(crate) tail: bool,
}

impl Flash<'_> {
    /// Opens or begins the undo log.
    pub(crate) fn open_undo(&self, space: &Space, header: &Header) -> Result<OpenedUndo> {
        let begin = || {
            let log = Log::create(Arc::clone(&space.medium), space.id, header)?;
            Ok(OpenedUndo { log, is_resumed: false, staged: None, tail: header.tail })
        };
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
            Ok(OpenedUndo {
                log: Log::reopen(Arc::clone(&space.medium), contents)?,
                is_resumed: true,
                staged: contents.staged.clone(),
                tail: contents.header.tail,
            })
        };
        let image = is_same.is_ok().then_some(self.image);
        let is_still_old = || is_still_old(self.disk, &*space.medium, &contents, image);
        match contents.state {
            State::Undone => begin(),
            // The disk decides, not the log: what was begun may never have been written, what was written may not be noted, and
            // since then the old OS may have run, and have changed what was logged.
            _ if is_still_old()? => {
                // What an undo has put back may be in the disk's cache alone; then the log is what leads there.
                Prover { disk: self.disk, counters: &Counters::default() }.flush()?;
                begin()
            }
            State::Done if is_same.is_ok() => resume(&contents),
            State::Done => refuse(
                "it is the way back from an earlier flash; name another file, or delete this one to give up that way back",
            ),
            // What says that the first write was to come is flushed before it: a log without it has lost its end.
            State::Unsealed | State::Sealed => refuse(damaged),
            State::Began => is_same.and_then(|()| resume(&contents)),
            State::UndoBegan => refuse("an undo with it was cut off; run `keepstate undo` again first"),
        }
    }

    /// Whether sector 0 is dead and what follows it is not: what a flash leaves behind that is cut off.
    fn looks_cut_off(&self) -> Result<bool> {
        let content = self.geometry()?.read_chunk(self.disk, 0)?;
        let (sector_0, rest) = content.split_at(self.disk.sector_size() as usize);
        Ok(sys::is_zero(sector_0) && !sys::is_zero(rest))
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
