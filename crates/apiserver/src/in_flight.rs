//! How many requests are served at once: upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight`.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Two bounds, one for requests that read and one for those that write.
pub(crate) struct InFlight {
    reading: Bound,
    writing: Bound,
}

struct Bound {
    /// Zero: none.
    most: usize,
    seats: Arc<Semaphore>,
}

impl Bound {
    fn new(most: usize) -> Self {
        Self { most, seats: Arc::new(Semaphore::new(most)) }
    }

    fn taken(&self) -> usize {
        self.most - self.seats.available_permits()
    }
}

/// A request's place; dropped when its work has ended.
pub(crate) struct Seat {
    _permit: Option<OwnedSemaphorePermit>,
}

impl InFlight {
    pub(crate) fn new(reading: usize, writing: usize) -> Self {
        Self { reading: Bound::new(reading), writing: Bound::new(writing) }
    }

    fn bound(&self, writes: bool) -> &Bound {
        if writes { &self.writing } else { &self.reading }
    }

    /// `None` where all places are taken.
    pub(crate) fn enter(&self, writes: bool) -> Option<Seat> {
        let bound = self.bound(writes);
        if bound.most == 0 {
            return Some(Seat { _permit: None });
        }
        bound.seats.clone().try_acquire_owned().ok().map(|permit| Seat { _permit: Some(permit) })
    }

    /// Requests being served.
    pub(crate) fn taken(&self, writes: bool) -> usize {
        self.bound(writes).taken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_and_writers_have_places_of_their_own() {
        let in_flight = InFlight::new(1, 1);
        let reader = in_flight.enter(false).unwrap();
        assert!(in_flight.enter(false).is_none());
        let _writer = in_flight.enter(true).unwrap();
        assert_eq!((in_flight.taken(false), in_flight.taken(true)), (1, 1));
        drop(reader);
        assert!(in_flight.enter(false).is_some());
        let unbounded = InFlight::new(0, 0);
        assert!((0..1000).all(|_| unbounded.enter(true).is_some()));
    }
}
