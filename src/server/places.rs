//! The places under `server.max_connections`, and their number when it changes while connections sit on them. When all
//! are taken, those who do nothing on theirs are asked to leave: see `seats`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::connection::Connection;
use super::seats::{Seat, Seats};

/// Places for connections. Clones share them.
#[derive(Clone, Debug)]
pub struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    /// Taken places that are one too many each: whoever leaves takes one along.
    surplus: AtomicUsize,
    seats: Arc<Seats>,
}

/// One place, free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    permit: Option<OwnedSemaphorePermit>,
    places: Arc<Inner>,
}

impl Places {
    /// So many.
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Inner { free: Arc::new(Semaphore::new(count)), surplus: AtomicUsize::new(0), seats: Arc::default() }))
    }

    /// A place, if one is free.
    pub fn try_take(&self) -> Option<Place> {
        Arc::clone(&self.0.free).try_acquire_owned().ok().map(|permit| self.place(permit))
    }

    /// The next place that is free.
    pub async fn take(&self) -> Result<Place, AcquireError> {
        Arc::clone(&self.0.free).acquire_owned().await.map(|permit| self.place(permit))
    }

    /// Asks some of those to leave who do nothing, and says how many were asked.
    pub fn make_room(&self, now: Instant) -> usize {
        self.0.seats.make_room(now)
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        Place { permit: Some(permit), places: Arc::clone(&self.0) }
    }

    /// From now on `after` instead of `before`. More are there at once; fewer as soon as those who are too many have left.
    pub fn resize(&self, before: usize, after: usize) {
        let Inner { free, surplus, seats: _ } = &*self.0;
        if let Some(less @ 1..) = before.checked_sub(after) {
            surplus.fetch_add(less - free.forget_permits(less), Ordering::AcqRel);
            return;
        }
        // Who was too many stays instead: a place that is still taken must not be made a second time.
        let (more, mut stay) = (after - before, 0);
        let _always_some = surplus.fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| {
            stay = surplus.min(more);
            Some(surplus - stay)
        });
        free.add_permits(more - stay);
    }
}

impl Place {
    /// Whoever sits here may be asked to leave, until the seat is given up.
    pub(super) fn seat(&self, connection: &Arc<Connection>) -> Seat {
        Seats::take(&self.places.seats, connection)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let surplus = &self.places.surplus;
        if surplus.fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| surplus.checked_sub(1)).is_ok()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn however_often_it_changes_no_place_is_made_twice() {
        let places = Places::new(4);
        let mut taken: Vec<_> = (0..4).map(|_| places.try_take().unwrap()).collect();
        for _ in 0..10 {
            places.resize(4, 1);
            places.resize(1, 4);
            assert!(places.try_take().is_none(), "four are taken and four there are");
        }
        places.resize(4, 2);
        drop(taken.split_off(2));
        assert!(places.try_take().is_none());
        taken.pop();
        assert!(places.try_take().is_some());
    }

    proptest! {
        // Never more than there are may be taken, and in the end all of them can be.
        #[test]
        fn the_number_holds(steps in prop::collection::vec((0..3_u8, 1..6_usize), 1..60)) {
            let (mut count, mut taken) = (3, Vec::new());
            let places = Places::new(count);
            for (step, number) in steps {
                match step {
                    0 => {
                        places.resize(count, number);
                        count = number;
                    }
                    1 => {
                        let place = places.try_take();
                        prop_assert_eq!(place.is_some(), taken.len() < count);
                        taken.extend(place);
                    }
                    _ => drop(taken.pop()),
                }
            }
            taken.clear();
            taken.extend(std::iter::from_fn(|| places.try_take()));
            prop_assert_eq!(taken.len(), count);
        }
    }
}
