//! What is brought onto the node while it serves: the new content, the way back, and the trace of what is still written.

use std::fs;

use flash::place::open_stage;
use flash::target::Target;
use flash::trace::{Began, Kernel, Unknown};
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
        self.traced(Self::compare)
    }

    fn compare(&mut self) -> Result<Prepared> {
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
        match self.written() {
            Ok(chunks) => {
                let found = format!("{} chunks were written since", chunks.count());
                self.with(|flash, keep| flash.refresh(keep, &Dirty::Chunks(chunks)))?;
                Ok(found)
            }
            Err(unknown) if quickly => Ok(format!("{unknown}: all will be read again in the imager")),
            Err(unknown) => {
                self.traced(|staging| staging.with(|flash, keep| flash.refresh(keep, &Dirty::Everything)))?;
                Ok(format!("{unknown}: all was read again"))
            }
        }
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

    /// Does a pass that reads everything, with a trace from before its first byte.
    fn traced<T>(&mut self, pass: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let number = self.target.number().map(str::to_owned);
        let begin = || match number {
            Some(number) => Kernel::default().begin(&number),
            None => Err(Unknown::because_untraced()),
        };
        traced(self, begin, pass)
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

/// Who keeps the record of a trace.
trait Recorded {
    /// Makes what is known of a trace last.
    fn record(&mut self, trace: Option<Began>) -> Result<()>;
}

impl Recorded for Staging<'_> {
    fn record(&mut self, trace: Option<Began>) -> Result<()> {
        self.record.trace = trace;
        self.record.write(&self.place.record())
    }
}

/// Does a pass that reads everything, with a trace that begins before its first byte. The record has the trace when the pass has
/// ended, and none meanwhile: who took it for one that goes on where an earlier pass ended would not know what was written
/// before it. Where the kernel cannot trace, an upgrade takes longer and is as safe.
fn traced<R: Recorded, T>(
    recorded: &mut R,
    trace: impl FnOnce() -> Result<Began, Unknown>,
    pass: impl FnOnce(&mut R) -> Result<T>,
) -> Result<T> {
    recorded.record(None)?;
    let began = trace();
    if let Err(unknown) = &began {
        tracing::warn!(%unknown, "the disk will be read again during the outage");
    }
    let done = pass(recorded)?;
    recorded.record(began.ok())?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was recorded, one after the other.
    #[derive(Default)]
    struct Kept(Vec<Option<Began>>);

    impl Recorded for Kept {
        fn record(&mut self, trace: Option<Began>) -> Result<()> {
            self.0.push(trace);
            Ok(())
        }
    }

    #[test]
    fn a_pass_that_is_killed_leaves_no_trace_that_would_be_believed() {
        let began = Began { boot_id: "this".into(), device: "8:0".into(), sectors: 1000 };
        let mut kept = Kept::default();
        let killed: Result<()> = traced(
            &mut kept,
            || Ok(began.clone()),
            |kept| {
                assert_eq!(kept.0, [None], "an earlier trace counts no more, and the new one not yet");
                Err(Error::Refused("killed".into()))
            },
        );
        assert!(killed.is_err());
        assert_eq!(kept.0, [None]);
        traced(&mut kept, || Ok(began.clone()), |_| Ok(())).unwrap();
        assert_eq!(kept.0, [None, None, Some(began)]);
        traced(&mut kept, || Err(Unknown::because_untraced()), |_| Ok(())).unwrap();
        assert_eq!(kept.0.last(), Some(&None), "it is as safe without");
    }
}
