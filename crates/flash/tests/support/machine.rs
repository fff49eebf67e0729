//! A simulated machine: what a flash of it does, what an undo does, and what its disk is afterwards.

use std::sync::{Arc, Mutex};

use flash::undo::{Found, Undo};
use flash::{Dirty, Error, Flash, Keep, Space, Watch};
use image::Image;
use keepstate_flash as flash;

use super::images::{Pair, Shape};
use super::{Power, Random, SimDisk};

/// A disk, and the files of a flash of it.
pub struct Machine {
    pub disk: SimDisk,
    pub undo: Option<Arc<SimDisk>>,
    pub stage: Option<Arc<SimDisk>>,
}

impl Machine {
    pub fn new(old: &[u8], shape: &Shape) -> Self {
        let disk = SimDisk::new(old.to_vec(), shape.sector);
        Self {
            disk: if shape.zeroes { disk } else { disk.without_zeroing() },
            undo: shape.undo.then(|| Arc::new(SimDisk::file())),
            stage: shape.stage.then(|| Arc::new(SimDisk::file())),
        }
    }

    /// The same machine, as its storage is now.
    pub fn copy(&self, shape: &Shape) -> Self {
        let copy = |file: &Option<Arc<SimDisk>>| {
            file.as_ref().map(|file| {
                let copy = SimDisk::file();
                copy.scribble(0, &file.content());
                Arc::new(copy)
            })
        };
        Self { undo: copy(&self.undo), stage: copy(&self.stage), ..Self::new(&self.disk.content(), shape) }
    }

    pub fn plug(&self, power: &Arc<Power>) {
        self.disk.plug(power);
        self.undo.iter().chain(&self.stage).for_each(|file| file.plug(power));
    }

    pub fn power_cycle(&self, random: &mut Random) {
        self.disk.power_cycle(random);
        self.undo.iter().chain(&self.stage).for_each(|file| file.power_cycle(random));
    }

    pub fn keep(&self, shape: &Shape, id: u64) -> Keep {
        let space = |file: &Option<Arc<SimDisk>>| file.as_ref().map(|file| Space { medium: file.clone(), id });
        Keep {
            undo: space(&self.undo),
            tail: shape.tail,
            stage: space(&self.stage),
            disk_key: "sim".into(),
            image_from: ("memory".into(), "image".into()),
        }
    }

    pub fn flash(&self, image: &Image, shape: &Shape, id: u64) -> flash::Result<model::report::FlashReport> {
        let flash = Flash { disk: &self.disk, image, workers: shape.workers, watch: &Totals::default() };
        let mut prepared = flash.prepare(&self.keep(shape, id))?;
        flash.apply(&mut prepared, &Dirty::Nothing, None)
    }

    /// Puts the old disk back. `Ok(false)`: the log was never completed, so nothing was written.
    pub fn undo(&self, pair: &Pair, shape: &Shape) -> flash::Result<bool> {
        self.undo_with(&|| Ok(pair.open()), shape)
    }

    /// The same, with the image from elsewhere.
    pub fn undo_with(&self, image: &(dyn Fn() -> flash::Result<Image> + Sync), shape: &Shape) -> flash::Result<bool> {
        let medium = self.undo.clone().expect("an undo log");
        let found = match Found::read(&*medium) {
            Ok(found) => found,
            Err(Error::Unusable { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let undo =
            Undo { disk: &self.disk, medium, found: &found, image, workers: shape.workers, watch: &Totals::default() };
        undo.run().map(|_| true)
    }
}

/// Machines whose flash was cut off at every `step`th operation, after the power has come back: each with its cut.
pub fn cut_off<'a>(pair: &'a Pair, shape: &'a Shape, step: usize) -> impl Iterator<Item = (u64, Machine)> + 'a {
    (0..).step_by(step).map_while(move |cut| {
        let machine = Machine::new(&pair.old, shape);
        machine.plug(&Power::cut_after(cut));
        let is_cut = machine.flash(&pair.open(), shape, 1).is_err();
        machine.power_cycle(&mut Random(cut));
        is_cut.then_some((cut, machine))
    })
}

/// What a disk is.
#[derive(Debug, PartialEq, Eq)]
pub enum Is {
    Old,
    New,
    Dead,
}

pub fn classify(pair: &Pair, shape: &Shape, content: &[u8]) -> Is {
    if content == pair.old {
        Is::Old
    } else if content == pair.expected() {
        Is::New
    } else if content[..shape.sector].iter().all(|&byte| byte == 0) {
        Is::Dead
    } else {
        panic!("half one image and half another, and it boots");
    }
}

/// Sees to it that no phase goes past its total.
#[derive(Debug, Default)]
pub struct Totals(Mutex<(&'static str, u64, u64)>);

impl Watch for Totals {
    fn phase(&self, name: &'static str, bytes: u64) {
        *self.0.lock().unwrap() = (name, 0, bytes);
    }

    fn advance(&self, bytes: u64) {
        let (name, done, total) = &mut *self.0.lock().unwrap();
        *done += bytes;
        assert!(*done <= *total, "{name}: {done} of {total} bytes");
    }

    fn pace(&self, _bytes: u64) {}
}
