//! What keeps a database that is away from being asked by everybody all the time, and everybody from waiting for it:
//! after a failure it is left alone for a while that doubles and differs from process to process, then one asks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::store::Error;

/// The first rest, and the longest.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(4);

/// Whether the database is worth asking.
#[derive(Debug)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug)]
struct State {
    answered_at: Instant,
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    why: String,
    failures: u32,
    /// Until when nobody asks.
    until: Instant,
    /// Whether somebody does.
    asking: bool,
}

impl Breaker {
    /// Of a database that answers.
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { answered_at: Instant::now(), down: None }))
    }

    /// Whether to ask now. While the database is away: one caller after each rest, who has the time of `patience`.
    pub(super) fn admit(&self, patience: Duration) -> Result<(), Error> {
        let now = Instant::now();
        match &mut self.state().down {
            Some(down) if now < down.until => Err(Error::Unavailable(down.why.clone())),
            Some(down) => {
                down.until = now + patience;
                down.asking = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// It answered.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        state.answered_at = Instant::now();
        if state.down.take().is_some() {
            drop(state);
            tracing::info!("the database answers again");
        }
    }

    /// It did not. Of many that notice at the same time, one counts.
    pub(super) fn failed(&self, error: &Error) {
        let mut state = self.state();
        let failures = match &state.down {
            None => 0,
            Some(down) if down.asking => down.failures,
            // Known already.
            Some(_) => return,
        };
        let why = if let Error::Unavailable(why) = error { why.clone() } else { error.to_string() };
        state.down = Some(Down { why, failures: failures.saturating_add(1), until: Instant::now() + rest(failures), asking: false });
        drop(state);
        if failures == 0 {
            tracing::error!(%error, "the database does not answer");
        }
    }

    /// Whether it answered somebody within the last `time`.
    pub(super) fn answered_within(&self, time: Duration) -> bool {
        self.state().answered_at.elapsed() < time
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done in here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait after the failure with this number, from 0: it doubles, and a random half of it is left out, so that
/// processes that lost the database at the same moment do not all come back at the same one.
pub(super) fn rest(failures: u32) -> Duration {
    let full = FIRST.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(LONGEST);
    full.saturating_sub(some_of(full / 2))
}

/// A random part of a time.
pub(super) fn some_of(time: Duration) -> Duration {
    time.mul_f64(f64::from(any_number()) / f64::from(u32::MAX))
}

/// A number that differs from process to process and from time to time, for what is no secret: the end of a new
/// identifier, which is random.
pub(super) fn any_number() -> u32 {
    let [.., a, b, c, d] = Uuid::now_v7().into_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Error {
        Error::Unavailable("gone".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_after_each_rest() {
        let breaker = Breaker::new();
        let patience = Duration::from_secs(3);
        breaker.admit(patience).unwrap();
        for _ in 0..20 {
            breaker.failed(&away());
        }
        assert!(matches!(breaker.admit(patience), Err(Error::Unavailable(why)) if why == "gone"));
        for failures in 1..10 {
            tokio::time::advance(rest_at_most(failures - 1)).await;
            breaker.admit(patience).unwrap();
            assert!(breaker.admit(patience).is_err(), "one asks");
            breaker.failed(&away());
        }
        tokio::time::advance(LONGEST).await;
        breaker.admit(patience).unwrap();
        breaker.answered();
        breaker.admit(patience).unwrap();
        breaker.admit(patience).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_and_never_says_what_came_of_it_is_followed_by_another() {
        let breaker = Breaker::new();
        breaker.failed(&away());
        tokio::time::advance(FIRST).await;
        breaker.admit(Duration::from_secs(3)).unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
        breaker.admit(Duration::from_secs(3)).unwrap();
    }

    #[test]
    fn rests_double_up_to_the_longest_and_differ() {
        for failures in 0..40 {
            let rests: Vec<Duration> = (0..20).map(|_| rest(failures)).collect();
            let most = rest_at_most(failures);
            assert!(rests.iter().all(|rest| *rest >= most / 2 && *rest <= most), "{rests:?}");
            assert!(rests.iter().any(|rest| *rest != rests[0]), "{rests:?}");
        }
    }

    fn rest_at_most(failures: u32) -> Duration {
        FIRST.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(LONGEST)
    }
}
