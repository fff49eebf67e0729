//! What a flash would do and how long it would take, without doing it.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

use image::Image;
use model::report::FlashPlan;

use crate::boot_area::Meanwhile;
use crate::error::Result;
use crate::examine::{Examined, take_all};
use crate::gather::FetchJobs;
use crate::geometry::Geometry;
use crate::prove::Counters;
use crate::verdict::{Verdict, Verdicts};
use crate::{Flash, WORKERS};

/// What a flash would keep, for predicting it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// There would be an undo log.
    pub undo: bool,
    /// The old data behind the image's end would be logged too.
    pub tail: bool,
    /// There would be a stage.
    pub stage: bool,
}

impl Flash<'_> {
    /// What a flash would do. Writes nothing, anywhere.
    pub fn plan(&self, intent: Intent) -> Result<FlashPlan> {
        let begin = Instant::now();
        let geometry = self.geometry()?;
        let counters = Counters::default();
        let forced = Self::forced(geometry, &Meanwhile::nothing(self.disk)?);
        let must_compare = intent.undo || intent.stage;
        let examined = self.examine(geometry, None, &forced, must_compare, intent.tail, &counters)?;
        let Examined { verdicts, index, why, .. } = examined;
        self.force(&verdicts, &forced)?;
        if let Some(index) = &index {
            self.find_reuse(&verdicts, geometry, index, must_compare)?;
        }
        let compare_seconds = begin.elapsed().as_secs_f64();
        // No disk is written to find out how fast it writes: it is taken to write as fast as it reads.
        let read = counters.read.load(Ordering::Relaxed).max(1);
        let disk_rate = read as f64 / compare_seconds.max(1e-3);
        predict(self.image, &verdicts, intent, compare_seconds, disk_rate, why)
    }
}

/// What a flash onto a disk that is still to be made (a missing file) would do.
pub fn plan_for_nothing(image: &Image, intent: Intent) -> Result<FlashPlan> {
    /// What is not there has no rate; a common cloud volume's.
    const BYTES_PER_SECOND: f64 = 160.0 * 1024.0 * 1024.0;
    let verdicts = Verdicts::unknown(image.manifest().chunk_count());
    take_all(image, &verdicts)?;
    predict(image, &verdicts, intent, 0.0, BYTES_PER_SECOND, "not compared: the disk is still to be made".into())
}

/// Adds up verdicts, and predicts from one request's rate and the disk's how long they will take.
fn predict(
    image: &Image,
    verdicts: &Verdicts,
    intent: Intent,
    compare_seconds: f64,
    disk_rate: f64,
    compare: String,
) -> Result<FlashPlan> {
    let manifest = image.manifest();
    let geometry =
        Geometry { disk: manifest.disk_size, image: manifest.disk_size, chunk: u64::from(manifest.chunk_size) };
    let (mut fetch_compressed, mut requests) = (0, 0);
    let mut largest = 0..0;
    for job in FetchJobs::new(image, geometry, verdicts, |_| true) {
        let range = job?.range();
        fetch_compressed += size(&range);
        requests += 1;
        if size(&range) > size(&largest) {
            largest = range;
        }
    }
    let fetch_seconds = fetch_seconds(image, fetch_compressed, requests, largest)?;
    let bytes = |wanted: Verdict| verdicts.bytes(geometry, |verdict| verdict == wanted);
    let (equal, zero, fetch) = (bytes(Verdict::Equal), bytes(Verdict::Zero), bytes(Verdict::Fetch));
    let write = geometry.image - equal;
    let write_seconds = (write - zero) as f64 / disk_rate;
    let (prepare_seconds, apply_seconds) = if intent.stage {
        (compare_seconds + fetch_seconds, write_seconds)
    } else {
        (compare_seconds, fetch_seconds.max(write_seconds))
    };
    Ok(FlashPlan {
        image: geometry.image,
        equal,
        zero,
        reuse: write - zero - fetch,
        fetch,
        fetch_compressed,
        write,
        log: if intent.undo { write } else { 0 },
        prepare_seconds,
        apply_seconds,
        compare,
    })
}

/// How long the store will take for so many bytes in so many requests, told by two of them: one of a byte says what a
/// request costs, the largest says how fast bytes come. Requests wait side by side, but what one alone reached is taken
/// for what they reach together.
fn fetch_seconds(image: &Image, bytes: u64, requests: u64, largest: Range<u64>) -> Result<f64> {
    if requests == 0 {
        return Ok(0.0);
    }
    let timed = |range: Range<u64>| -> Result<f64> {
        let begin = Instant::now();
        image.payload(range)?;
        Ok(begin.elapsed().as_secs_f64())
    };
    let wait = timed(largest.start..largest.start + 1)?;
    let rate = size(&largest) as f64 / (timed(largest)? - wait).max(1e-6);
    let rounds = requests as f64 / image.transfer().in_flight(WORKERS).max(1) as f64;
    Ok(bytes as f64 / rate + wait * rounds)
}

fn size(range: &Range<u64>) -> u64 {
    range.end - range.start
}
