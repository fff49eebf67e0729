//! The few pages that were asked for last.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A small cache; whoever asks for a page that another thread is fetching waits for it instead of fetching it again.
#[derive(Debug)]
pub(crate) struct Recent<T> {
    kept: usize,
    /// Most recent last.
    slots: Mutex<VecDeque<(u64, Slot<T>)>>,
}

type Slot<T> = Arc<Mutex<Option<Arc<T>>>>;

impl<T> Recent<T> {
    /// Keeps `kept` pages, at least 1.
    pub(crate) fn new(kept: usize) -> Self {
        Self { kept: kept.max(1), slots: Mutex::new(VecDeque::new()) }
    }

    /// The page, from here or from `fetch`. A failed fetch is not remembered.
    pub(crate) fn get<E>(&self, page: u64, fetch: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let slot = self.slot(page);
        let mut filled = lock(&slot);
        if let Some(found) = &*filled {
            return Ok(Arc::clone(found));
        }
        let fetched = Arc::new(fetch()?);
        *filled = Some(Arc::clone(&fetched));
        Ok(fetched)
    }

    fn slot(&self, page: u64) -> Slot<T> {
        let mut slots = lock(&self.slots);
        let slot = match slots.iter().position(|(number, _)| *number == page) {
            Some(at) => slots.remove(at).expect("just found").1,
            None => Slot::default(),
        };
        slots.push_back((page, Arc::clone(&slot)));
        if slots.len() > self.kept {
            slots.pop_front();
        }
        slot
    }
}

/// A panic elsewhere leaves a slot empty or full, both of which are sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn keeps_the_last_pages_only_and_no_failure() {
        let recent = Recent::new(2);
        let fetches = Cell::new(0);
        let get = |page: u64| {
            let fetch = || {
                fetches.set(fetches.get() + 1);
                Ok::<_, Infallible>(page * 10)
            };
            assert_eq!(*recent.get(page, fetch).unwrap(), page * 10);
            fetches.get()
        };
        assert_eq!(recent.get(1, || Err("no")), Err("no"));
        assert_eq!([get(1), get(2), get(1), get(3), get(1), get(2)], [1, 2, 2, 3, 3, 4]);
    }

    #[test]
    fn one_fetch_serves_all_who_wait() {
        let recent = Recent::new(1);
        let fetches = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    recent
                        .get(0, || {
                            std::thread::sleep(std::time::Duration::from_millis(20));
                            Ok::<_, Infallible>(fetches.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                        })
                        .unwrap();
                });
            }
        });
        assert_eq!(fetches.into_inner(), 1);
    }
}
