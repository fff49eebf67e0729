//! What is brought onto the node while it serves: the new content, the way back, and the trace of what is still written.

use std::fs;

use flash::place::open_stage;
use flash::target::Target;
use flash::trace::{Kernel, Unknown};
use flash::{ChunkSet, Dirty, Flash, Keep, Prepared, Watch};
use image::Opened;
use sys::disk::Caching;

use crate::error::{Error, Result};
use crate::place::Place;
use crate::record::Record;
use crate::stage;

/// An image, the disk that it will be flashed to, and where everything stands meanwhile.
pub(crate) struct Staging<'a> {
    pub(crate) place: &'a Place,
    pub(crate) opened: &'a Opened,
    pub(crate) target: &'a Target,
    pub(crate) record: &'a mut Record,
    pub(crate) watch: &'a dyn Watch,
}

impl Staging<'_> {
    /// Compares, logs and stages all of it. From before the first byte is read, what is written to the disk is traced.
    pub(crate) fn prepare(&mut self) -> Result<Prepared> {
        self.trace()?;
        let (content, documents) = (self.place.content(), self.place.stage());
        if self.place.is_staged_in_memory() {
            stage::make_room(stage::bytes_most(self.opened).map_err(image::opened::Error::from)?)?;
            // What outlives the imager, for whoever commits or undoes.
            let making = |source| Error::File { doing: "making", path: documents.clone(), source };
            fs::create_dir_all(&documents).map_err(making)?;
            self.opened.copy_documents(&documents)?;
        }
        // Makes its directory, too.
        drop(open_stage(&content)?);
        self.opened.copy_documents(&content)?;
        self.with(|flash: &Flash<'_>, keep| Flash::prepare(flash, keep))
    }

    /// Takes up what was written since. Where that is not known, all is read again; but not if `quickly`, which leaves
    /// that to the imager: who has no traffic any more should not be kept waiting twice. Gives what was found, for a person.
    pub(crate) fn refresh(&mut self, quickly: bool) -> Result<String> {
        let (dirty, found) = match self.written() {
            Ok(chunks) => {
                let found = format!("{} chunks were written since", chunks.count());
                (Dirty::Chunks(chunks), found)
            }
            Err(unknown) if quickly => return Ok(format!("{unknown}: all will be read again in the imager")),
            Err(unknown) => {
                self.trace()?;
                (Dirty::Everything, format!("{unknown}: all was read again"))
            }
        };
        self.with(|flash, keep| flash.refresh(keep, &dirty))?;
        Ok(found)
    }

    /// What was written since the trace began.
    fn written(&self) -> Result<ChunkSet, Unknown> {
        match &self.record.trace {
            Some(began) => {
                let chunk_size = u64::from(self.opened.image.manifest().chunk_size);
                Kernel::default().written(began, chunk_size, self.target.size)
            }
            None => Err(Unknown::because_untraced()),
        }
    }

    /// Begins a trace. Where the kernel cannot, an upgrade takes longer and is as safe.
    fn trace(&mut self) -> Result<()> {
        let began = match self.target.number() {
            Some(number) => Kernel::default().begin(number),
            None => Err(Unknown::because_untraced()),
        };
        if let Err(unknown) = &began {
            tracing::warn!(%unknown, "the disk will be read again during the outage");
        }
        self.record.trace = began.ok();
        self.record.write(&self.place.record())
    }

    fn with<T>(&self, act: impl FnOnce(&Flash<'_>, &Keep) -> flash::Result<T>) -> Result<T> {
        let keep = Keep {
            undo: Some(flash::Place { path: self.place.undo(), region: None }.open()?),
            tail: false,
            stage: Some(open_stage(&self.place.content())?),
            disk_key: self.target.identity.key(),
            image_from: self.opened.from.clone(),
        };
        let disk = self.target.open_to_read(Caching::Auto)?;
        let image = &self.opened.image;
        Ok(act(&Flash { disk: &disk, image, workers: flash::WORKERS, watch: self.watch }, &keep)?)
    }
}
