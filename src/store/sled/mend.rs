//! Opening the database again when it can't be written any more. sled remembers the first failure of its disk for as long as
//! it is open, also when there is room again: then closing and opening it, with all that looks for damage at a start, is
//! what a restart of the process would do, without ending anybody's connections.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

use super::health::PATIENCE;
use super::{Inner, open};
use crate::store::Error;
use crate::store::chain::ChainKey;

/// How often to look whether the database is well.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to open it, each of which reads everything.
const LONGEST: u32 = 64;

/// Room that there must be before it is tried: two of sled's segments.
const ROOM: usize = 1024 * 1024;

/// The database while it is open, and the thread that opens it again.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// `None`: it is being opened again.
    current: RwLock<Option<Arc<Inner>>>,
    /// What events are chained with, once it is known.
    chain_key: Arc<OnceLock<ChainKey>>,
    /// Its end ends the thread.
    _alive: Sender<()>,
}

impl Place {
    /// Opens the folder at `path`, and looks after it from then on.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, Error> {
        let (alive, ended) = channel();
        let chain_key = Arc::<OnceLock<ChainKey>>::default();
        let current = RwLock::new(Some(opened(path, &chain_key)?));
        let place = Arc::new(Self { path: path.to_owned(), current, chain_key, _alive: alive });
        let weak = Arc::downgrade(&place);
        let started = thread::Builder::new().name("store-mend".to_owned()).spawn(move || look_after(&weak, &ended));
        started.map_err(|error| Error::Unavailable(format!("can't start a thread: {error}")))?;
        Ok(place)
    }

    /// The open database. [`Error::Unavailable`]: it is being opened again.
    pub(super) fn inner(&self) -> Result<Arc<Inner>, Error> {
        let again = || Error::Unavailable("the database is being opened again".to_owned());
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(again)
    }

    /// Chains events with `key` from now on, also when the database is opened again. Only the first one counts.
    pub(super) fn set_chain_key(&self, key: ChainKey) {
        // Whoever opens the use cases twice on one store has the same key both times.
        let _known = self.chain_key.set(key);
    }

    fn set(&self, inner: Option<Arc<Inner>>) -> Option<Arc<Inner>> {
        std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), inner)
    }

    /// Whether only opening it again can help.
    fn is_lost(&self) -> bool {
        self.inner().map_or(true, |inner| inner.health.is_lost())
    }

    /// Closes what is open, once nobody uses it any more, and opens it again.
    fn reopen(&self) -> Result<(), Error> {
        if let Some(inner) = self.set(None)
            && let Err(used) = close(inner)
        {
            self.set(Some(used));
            return Err(Error::Unavailable("it is still being used".to_owned()));
        }
        self.set(Some(opened(&self.path, &self.chain_key)?));
        Ok(())
    }
}

fn opened(path: &Path, chain_key: &Arc<OnceLock<ChainKey>>) -> Result<Arc<Inner>, Error> {
    Ok(Arc::new(Inner { chain_key: Arc::clone(chain_key), ..open::open(path)? }))
}

/// Waits for those who are in the middle of something, and closes.
#[expect(clippy::disallowed_methods, reason = "a thread of its own, which has nothing else to do")]
fn close(mut inner: Arc<Inner>) -> Result<(), Arc<Inner>> {
    let step = Duration::from_millis(20);
    for _ in 0..PATIENCE.as_millis() / step.as_millis() {
        match Arc::try_unwrap(inner) {
            Ok(unused) => {
                drop(unused);
                return Ok(());
            }
            Err(used) => inner = used,
        }
        thread::sleep(step);
    }
    Err(inner)
}

fn look_after(place: &Weak<Place>, ended: &Receiver<()>) {
    let (mut pause, mut left) = (1, 0_u32);
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(INTERVAL) {
        let Some(place) = place.upgrade() else { return };
        if !place.is_lost() {
            (pause, left) = (1, 0);
            continue;
        }
        if left > 0 || has_room(&place.path).is_err() {
            left = left.saturating_sub(1);
            continue;
        }
        match place.reopen() {
            Ok(()) => tracing::warn!(path = %place.path.display(), "the database was opened again after its disk had failed"),
            Err(error) => tracing::error!(%error, "the database can't be opened again; it is tried again"),
        }
        (pause, left) = (LONGEST.min(pause * 2), pause);
    }
}

/// Whether something can be written there and made durable.
fn has_room(path: &Path) -> io::Result<()> {
    let probe = path.join("probe");
    let write = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&probe)?;
        file.write_all(&vec![0xa5; ROOM])?;
        file.sync_all()
    };
    let written = write();
    fs::remove_file(&probe).and(written)
}

#[cfg(test)]
mod tests {
    use super::super::change::Changes;
    use super::*;

    fn write(inner: &Inner, key: &[u8]) -> Result<(), Error> {
        let mut changes = Changes::new();
        changes.put(&inner.trees.meta, key, b"value");
        inner.writer()?.commit(&changes)
    }

    #[test]
    fn what_failed_is_opened_again_with_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::open(folder.path()).unwrap();
        let inner = place.inner().unwrap();
        write(&inner, b"a").unwrap();
        inner.health.broke(&Error::Unavailable("on purpose".to_owned()));
        assert!(place.is_lost());
        // Somebody is still in the middle of something, and then no longer.
        let weak = Arc::downgrade(&inner);
        drop(inner);
        while weak.upgrade().is_some() || place.is_lost() {
            thread::yield_now();
        }
        let inner = place.inner().unwrap();
        assert!(inner.trees.meta.contains_key(b"a").unwrap());
        write(&inner, b"b").unwrap();
        assert!(!folder.path().join("probe").exists());
    }

    #[test]
    fn a_store_that_is_closed_leaves_the_folder_to_others() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            drop(Place::open(folder.path()).unwrap());
        }
    }
}
