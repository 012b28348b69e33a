//! What keeps a store that can't keep its word from giving it: the last flush's failure, a commit that broke off, and
//! a call that sled has not answered for too long (it is known to lock up: spacejam/sled#1412).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::Error;

/// How long a call may take before the store counts as stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The state of the database as its callers have found it. Shared by all of them.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Calls that have not been answered, by number and so by age.
    running: BTreeMap<u64, Instant>,
    next: u64,
    /// Why the latest flush failed.
    flush: Option<String>,
    /// Why a commit broke off.
    broken: Option<String>,
}

impl Health {
    /// Counts a call until the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.running.insert(number, Instant::now());
        Busy { health: Arc::clone(self), number }
    }

    /// [`Error::Unavailable`]: nothing should be asked of the database.
    pub(super) fn check(&self) -> Result<(), Error> {
        let state = self.state();
        if let Some(why) = &state.broken {
            return Err(Error::Unavailable(format!("a write broke off, and the database is not open again yet: {why}")));
        }
        match state.running.first_key_value() {
            Some((_, since)) if since.elapsed() >= PATIENCE => {
                Err(Error::Unavailable(format!("the database has not answered for {} s", since.elapsed().as_secs())))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// [`Error::Unavailable`]: nothing should be written either, since it could not be made durable.
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        self.check()?;
        match &self.state().flush {
            Some(why) => Err(Error::Unavailable(format!("the last flush failed: {why}"))),
            None => Ok(()),
        }
    }

    /// Remembers how a flush went.
    pub(super) fn flushed(&self, result: &Result<(), String>) {
        self.state().flush = result.as_ref().err().cloned();
    }

    /// Whether the last flush failed.
    pub(super) fn flush_failed(&self) -> bool {
        self.state().flush.is_some()
    }

    /// Whether it is not believed any more, for one reason or the other.
    pub(super) fn is_lost(&self) -> bool {
        let state = self.state();
        state.flush.is_some() || state.broken.is_some()
    }

    /// Remembers that a commit broke off: what is in memory may be half of it, so nothing is believed until opening it
    /// again has brought back what is on disk, which never holds a half.
    pub(super) fn broke(&self, error: &Error) {
        tracing::error!(%error, "a write to the database broke off; nothing is read or written until it is open again");
        let why = if let Error::Unavailable(why) = error { why.clone() } else { error.to_string() };
        self.state().broken.get_or_insert(why);
    }

    /// No method leaves the state in between two valid ones, so a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that has not been answered yet.
#[derive(Debug)]
pub(super) struct Busy {
    health: Arc<Health>,
    number: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.health.state().running.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_call_that_hangs_stops_all() {
        let health = Arc::new(Health::default());
        let first = health.begin();
        tokio::time::advance(PATIENCE / 2).await;
        let second = health.begin();
        assert!(health.check().is_ok());
        tokio::time::advance(PATIENCE / 2).await;
        assert!(matches!(health.check(), Err(Error::Unavailable(why)) if why.contains("10 s")));
        drop(first);
        assert!(health.check().is_ok());
        drop(second);
    }

    #[test]
    fn a_failed_flush_stops_writes_until_one_succeeds() {
        let health = Health::default();
        health.flushed(&Err("full".to_owned()));
        assert!(health.check().is_ok());
        assert!(matches!(health.check_writable(), Err(Error::Unavailable(why)) if why.contains("full")));
        health.flushed(&Ok(()));
        assert!(health.check_writable().is_ok());
    }

    #[test]
    fn a_broken_commit_stops_everything() {
        let health = Health::default();
        health.broke(&Error::Unavailable("disk".to_owned()));
        health.flushed(&Ok(()));
        assert!(health.check().is_err() && health.check_writable().is_err());
    }
}
