//! What is brought onto the node while it serves: the new content, the way back, and the trace of what is still written.

use std::fs;
use std::ops::Range;

use flash::boot_area::partitions_now;
use flash::place::open_stage;
use flash::target::Target;
use flash::trace::{Began, Kernel, Unknown};
use flash::{ChunkSet, Dirty, Flash, Keep, Prepared, Watch};
use image::Opened;
use sys::disk::Caching;

use crate::error::{Error, Result};
use crate::place::Place;
use crate::record::Record;
use crate::site::Site;
use crate::stage;

/// An image, the disk that it will be flashed to, and where everything stands meanwhile.
pub(crate) struct Staging<'a> {
    pub(crate) place: &'a Place,
    pub(crate) opened: &'a Opened,
    pub(crate) target: &'a Target,
    /// Where the place is.
    pub(crate) site: &'a Site,
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
        let disk = self.target.open_to_read(Caching::Auto)?;
        let manifest = self.opened.image.manifest();
        let kept_free = manifest.reserve.map(|reserve| reserve.offset..reserve.offset.saturating_add(reserve.length));
        let place = self.site.ground()?.and_then(|ground| ground.behind());
        let tail = has_tail(&partitions_now(&disk)?, manifest.disk_size, kept_free.as_ref(), place.as_ref())?;
        let keep = Keep {
            undo: Some(flash::Place { path: self.place.undo(), region: None }.open()?),
            tail,
            stage: Some(open_stage(&self.place.content())?),
            disk_key: self.target.identity.key(),
            image_from: self.opened.from.clone(),
        };
        let image = &self.opened.image;
        Ok(act(&Flash { disk: &disk, image, workers: flash::WORKERS, watch: self.watch }, &keep)?)
    }
}

/// Whether the old OS reaches behind the image, in any of its `partitions`: a new root that grows overwrites what is there, so the
/// way back has to hold it. What the image keeps free it leaves alone. Refused where the place itself is there: it would hold itself.
fn has_tail(
    partitions: &[Range<u64>],
    image: u64,
    kept_free: Option<&Range<u64>>,
    place: Option<&Range<u64>>,
) -> Result<bool> {
    let is_left_alone = |partition: &&Range<u64>| {
        let free = [kept_free, place].into_iter().flatten();
        free.into_iter().any(|free| free.start <= partition.start && partition.end <= free.end)
    };
    let mut behind = partitions.iter().filter(|partition| partition.end > image).filter(|one| !is_left_alone(one));
    match (behind.next(), place) {
        (Some(partition), Some(_)) => Err(Error::Refused(format!(
            "a partition of the old OS reaches to byte {} of the root disk, behind the image's end at {image}, where the place is, \
             too: a new OS could overwrite it, and nothing could bring it back; take an image that is as large, or another place",
            partition.end
        ))),
        (partition, _) => Ok(partition.is_some()),
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

    /// The trial OS grows its root over it: the old one came back with a hole.
    #[test]
    fn an_old_root_that_reaches_behind_the_image_is_logged_as_far_as_it_reaches() {
        let (root, esp, reserve) = (10..90, 1..10, 60..70);
        let has = |partitions: &[Range<u64>], kept_free, place| has_tail(partitions, 50, kept_free, place);
        assert!(!has(&[esp.clone(), 10..50], None, None).unwrap(), "all of it is overwritten");
        assert!(has(&[esp.clone(), root.clone()], None, None).unwrap());
        assert!(has(&[esp.clone(), 55..90], None, None).unwrap(), "a partition of its own");
        assert!(has(&[esp.clone(), reserve.clone()], None, None).unwrap(), "the new one keeps nothing free");
        assert!(!has(&[esp.clone(), reserve.clone()], Some(&reserve), None).unwrap());
        assert!(!has(&[esp, reserve.clone()], Some(&reserve), Some(&reserve)).unwrap());
        let why = has(&[root], Some(&reserve), Some(&reserve)).unwrap_err().to_string();
        assert!(why.contains("to byte 90") && why.contains("end at 50") && why.contains("another place"), "{why}");
    }

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
        let began = Began { boot_id: "this".into(), device: "8:0".into(), sectors: 1000, traced: 0 };
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
