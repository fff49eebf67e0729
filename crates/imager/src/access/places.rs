//! Places for connections: who finds none free is sent away at once, so that nobody waits behind strangers.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many places.
#[derive(Clone, Debug)]
pub(super) struct Places {
    taken: Arc<AtomicUsize>,
    all: usize,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Places {
    pub(super) fn new(all: usize) -> Self {
        Self { taken: Arc::default(), all }
    }

    /// A place, if one is free.
    pub(super) fn take(&self) -> Option<Place> {
        let one_more = |taken| (taken < self.all).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Place(Arc::clone(&self.taken)))
    }

    /// Whether somebody has one.
    pub(super) fn is_any_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends a connection when dropped, whoever holds its other handles and whatever they wait for.
#[derive(Debug)]
pub(super) struct Closer(pub(super) TcpStream);

impl Drop for Closer {
    fn drop(&mut self) {
        // One that is closed already cannot be closed.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_it_is_given_back() {
        let places = Places::new(2);
        let (one, two) = (places.take(), places.take());
        assert!(one.is_some() && two.is_some() && places.take().is_none());
        drop(one);
        assert!(places.is_any_taken() && places.take().is_some());
        drop(two);
        assert!(!places.is_any_taken());
    }
}
