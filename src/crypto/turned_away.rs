//! Says in the log that people are turned away, once in a while: in a flood, a line for each would be work for the attacked
//! and a way to fill their disk.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// No more often than this.
const EVERY: Duration = Duration::from_secs(10);

/// Those who were turned away.
#[derive(Debug, Default)]
pub(super) struct TurnedAway(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    since: u64,
}

impl TurnedAway {
    /// One more. If it is time to say so: how many there were since it was said last, with this one.
    pub(super) fn count(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.since += 1;
        if told.at.is_some_and(|at| now.duration_since(at) < EVERY) {
            return None;
        }
        told.at = Some(now);
        Some(std::mem::take(&mut told.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_together() {
        let (turned_away, start) = (TurnedAway::default(), Instant::now());
        let at = |millis| turned_away.count(start + Duration::from_millis(millis));
        assert_eq!([0, 1, 5000, 9999].map(at), [Some(1), None, None, None]);
        assert_eq!([10_000, 10_001, 60_000].map(at), [Some(4), None, Some(2)]);
    }
}
