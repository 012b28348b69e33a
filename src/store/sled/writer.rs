//! The open database, and the only one that writes to it at a time: its commits are whole, counted and recorded.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use ::sled::Db;

use super::change::Changes;
use super::flusher::Flusher;
use super::health::Health;
use super::tally::Tally;
use super::trees::Trees;
use super::{Error, audit, open};
use crate::model::AuditEvent;
use crate::store::chain::ChainKey;

/// The open database. The fields are dropped in this order: the flusher, which has a handle of its own, then sled's
/// handles, then the folder's lock.
pub(super) struct Inner {
    pub(super) flusher: Flusher,
    pub(super) health: Arc<Health>,
    pub(super) trees: Trees,
    pub(super) db: Db,
    pub(super) path: PathBuf,
    /// Held by every writer from its first read to its last write. sled's transactions exclude each other anyway.
    /// What is in it is the tally of the last commit.
    pub(super) writing: Mutex<Cell<Tally>>,
    /// Its number of commits, for the thread that flushes.
    pub(super) committed: Arc<AtomicU64>,
    /// What events are chained with, once it is known; the place's own, since it outlives this.
    pub(super) chain_key: Arc<OnceLock<ChainKey>>,
    /// How many locks are stored; changed by writers only.
    pub(super) lock_count: AtomicUsize,
    pub(super) _folder_lock: File,
}

impl Inner {
    /// Waits to be the only writer.
    pub(super) fn writer(&self) -> Result<Writer<'_>, Error> {
        let broken = |_| Error::Unavailable("an earlier write panicked, restart to recover".to_owned());
        Ok(Writer { inner: self, events: Cell::new(Arc::new([])), tally: self.writing.lock().map_err(broken)? })
    }
}

/// Only where: what is inside is either secret or long.
impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The only writer there is while it exists.
pub(super) struct Writer<'a> {
    inner: &'a Inner,
    /// What the first commit is to be recorded with.
    events: Cell<Arc<[AuditEvent]>>,
    tally: MutexGuard<'a, Cell<Tally>>,
}

impl Writer<'_> {
    /// Has the first commit recorded with `events`.
    pub(super) fn recording(self, events: Arc<[AuditEvent]>) -> Self {
        self.events.set(events);
        self
    }

    /// Applies `changes`: all of them, or none and the store stands still. The first time with the events that tell of
    /// them.
    pub(super) fn commit(&self, changes: &Changes<'_>) -> Result<(), Error> {
        let events = self.events.replace(Arc::new([]));
        if events.is_empty() {
            return if changes.is_empty() { Ok(()) } else { self.apply(changes) };
        }
        let mut all = changes.clone();
        audit::add(self, &mut all, &events).map_err(|error| Error::Unrecorded(Box::new(error)))?;
        self.apply(&all)
    }

    /// The changes alone, also where there are none.
    pub(super) fn apply(&self, changes: &Changes<'_>) -> Result<(), Error> {
        let tally = changes.apply(&self.inner.db, self.tally.get()).map_err(|error| {
            let error = open::explain(&error);
            self.inner.health.broke(&error);
            error
        })?;
        self.tally.set(tally);
        self.inner.committed.store(tally.commits, Ordering::Release);
        Ok(())
    }
}

impl Deref for Writer<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        self.inner
    }
}
