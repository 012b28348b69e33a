//! The data folder: making it, keeping other processes out, recovering what a hard stop left, and refusing what a
//! newer release wrote.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use ::sled::Db;

use super::change::Changes;
use super::tally::{Mark, Tally};
use super::{Flusher, Health, Inner, Trees, replaced};
use crate::clock::Clock;
use crate::store::Error;

/// The layout of keys and records that this release writes; raised by a change that an older release would misread.
const SCHEMA: u32 = 2;

/// Records as they are now, but nothing that tells whether all of them are there.
const WITHOUT_TALLY: u32 = 1;

/// In sled's default tree, which holds nothing else of ours but the tally.
const SCHEMA_KEY: &[u8] = b"schema";

/// The name of the threads that read a folder which may be damaged: that they break off is said by the error.
pub const OPENING: &str = "store-open";

/// Bytes of pages that sled keeps in memory, as it counts them on disk; what it takes is a few times that. Little, as the
/// proxy reads nothing from here for a request of a session that it knows, and the system caches the file.
const CACHE_BYTES: u64 = 1024 * 1024;

/// A lock can outlive its holder for a moment (spacejam/sled#1289): try this often, so far apart, before giving up.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Opens the folder. See [`super::SledStore::open`].
pub(super) fn open(path: &Path) -> Result<Inner, Error> {
    // A thread of its own: sled asserts what it can't do without of what it reads, and that is no reason to end.
    let opening = thread::Builder::new().name(OPENING.to_owned());
    let opened = thread::scope(|scope| opening.spawn_scoped(scope, || open_folder(path)).map(ScopedJoinHandle::join));
    opened.map_err(|error| explain_io(&error, path))?.unwrap_or_else(|_| {
        Err(Error::Corrupt("the database is damaged: reading it broke off; bring back a copy of the whole data folder".to_owned()))
    })
}

fn open_folder(path: &Path) -> Result<Inner, Error> {
    prepare_folder(path).map_err(|error| explain_io(&error, path))?;
    let folder_lock = lock_folder(path)?;
    let mark = Mark::read(path)?;
    require_database(path, mark)?;
    let db = open_or_recover(path)?;
    let schema = check_schema(&db, mark)?;
    let tally = Tally::check(&db, mark, schema == Some(SCHEMA))?;
    let tally = begin(&db, schema, tally).map_err(|error| explain(&error))?;
    let trees = Trees::open(&db).map_err(|error| explain(&error))?;
    let data = tighten_files(path).map_err(|error| explain_io(&error, path))?;
    data.sync_data().map_err(|error| explain_io(&error, path))?;
    let mark = Mark::open(path, tally.commits).map_err(|error| explain_io(&error, path))?;
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| explain_io(&error, path))?;
    let health = Arc::new(Health::default());
    let committed = Arc::new(AtomicU64::new(tally.commits));
    let flusher = Flusher::start(Arc::clone(&health), {
        let (db, committed) = (db.clone(), Arc::clone(&committed));
        move || {
            // Before the flush: what is committed while it runs may not be part of it.
            let commits = committed.load(Ordering::Acquire);
            db.flush().map_err(|error| why(&error))?;
            replaced::free();
            // sled hands the data to the kernel (sync_file_range); only this makes it outlast a loss of power.
            data.sync_data().and_then(|()| mark.write(commits)).map_err(|error| describe_io(&error))
        }
    })?;
    let lock_count = AtomicUsize::new(trees.locks.len());
    let (path, writing, chain_key) = (path.to_owned(), Mutex::new(Cell::new(tally)), Arc::default());
    Ok(Inner { flusher, health, trees, db, path, writing, committed, chain_key, lock_count, _folder_lock: folder_lock })
}

/// What an error of sled means to us.
pub(super) fn explain(error: &::sled::Error) -> Error {
    match error {
        ::sled::Error::Corruption { at, .. } => {
            let at = at.map_or_else(|| "its index".to_owned(), |at| format!("{at:?}"));
            Error::Corrupt(format!("the database is damaged ({at}); bring back a copy of the whole data folder"))
        }
        ::sled::Error::Io(error) => Error::Unavailable(describe_io(error)),
        ::sled::Error::CollectionNotFound(_) | ::sled::Error::Unsupported(_) | ::sled::Error::ReportableBug(_) => {
            Error::Unavailable(error.to_string())
        }
    }
}

/// The same for a sentence that already says what could not be done.
fn why(error: &::sled::Error) -> String {
    let error = explain(error);
    if let Error::Unavailable(why) = error { why } else { error.to_string() }
}

pub(super) fn explain_io(error: &io::Error, path: &Path) -> Error {
    Error::Unavailable(format!("{}: {}", path.display(), describe_io(error)))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum with forty kinds, of which a few can be explained")]
fn describe_io(error: &io::Error) -> String {
    let what = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no space is left for the data folder",
        io::ErrorKind::ReadOnlyFilesystem => "the data folder is read-only",
        io::ErrorKind::PermissionDenied => "the data folder may not be read and written by this user",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "the data folder is not a folder",
        _ => "the disk reports an error",
    };
    format!("{what} ({error})")
}

/// Makes the folder, private to its owner. One that is there and others may enter is closed to them when it is ours;
/// a shared one (`/tmp`, a volume that belongs to somebody else) is left alone, since what is in it is private anyway.
fn prepare_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    let others = mode & 0o077;
    if others == 0 {
        return Ok(());
    }
    let ours = path.join("conf").exists() || fs::read_dir(path)?.next().is_none();
    let closed = ours && mode & 0o1000 == 0 && fs::set_permissions(path, Permissions::from_mode(0o700)).is_ok();
    if !closed {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o7777), "others may enter the data folder; it should have mode 0700");
    }
    Ok(())
}

/// Closes sled's files, which it makes as the umask says, and returns the one with the data. The names of what is new
/// are made durable, too.
fn tighten_files(path: &Path) -> io::Result<File> {
    for (name, mode) in [("db", 0o600), ("conf", 0o600), ("blobs", 0o700)] {
        fs::set_permissions(path.join(name), Permissions::from_mode(mode))?;
    }
    for snapshot in snapshots(path)? {
        fs::set_permissions(snapshot, Permissions::from_mode(0o600))?;
    }
    File::open(path)?.sync_all()?;
    OpenOptions::new().read(true).write(true).open(path.join("db"))
}

/// Our own lock beside sled's: it covers recovery too, and says why it fails.
fn lock_folder(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(|error| explain_io(&error, path))?;
    patiently(path, || match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(explain_io(&error, path)),
    })?;
    Ok(file)
}

/// Opens the database; when it says that it is damaged, once more without its snapshot. A snapshot only shortens the
/// start: the log has everything (spacejam/sled#1533: a hard stop can leave an empty one).
fn open_or_recover(path: &Path) -> Result<Db, Error> {
    match open_db(path)? {
        Ok(db) => Ok(db),
        Err(error) => {
            let snapshots = snapshots(path).map_err(|error| explain_io(&error, path))?;
            if snapshots.is_empty() {
                tracing::error!(path = %path.display(), %error, "the database is damaged and there is nothing to recover it from");
                return Err(explain(&error));
            }
            let copy = copy_aside(path).map_err(|error| explain_io(&error, path))?;
            tracing::error!(path = %path.display(), copy = %copy.display(), %error,
                "the database is damaged; a copy was put aside, its snapshot is removed and the log is read from the start");
            for snapshot in snapshots {
                fs::remove_file(&snapshot).map_err(|error| explain_io(&error, &snapshot))?;
            }
            let db = open_db(path)?.map_err(|error| explain(&error))?;
            // Reads everything once: better to fail now than at somebody's sign-in.
            let checksum = db.checksum().map_err(|error| explain(&error))?;
            tracing::error!(path = %path.display(), checksum, "the database was recovered and every record of it can be read");
            Ok(db)
        }
    }
}

/// The outer error is final; the inner one says that what is stored is damaged.
fn open_db(path: &Path) -> Result<Result<Db, ::sled::Error>, Error> {
    patiently(path, || match ::sled::Config::new().path(path).cache_capacity(CACHE_BYTES).open() {
        Ok(db) => Ok(Some(Ok(db))),
        Err(error @ ::sled::Error::Corruption { .. }) => Ok(Some(Err(error))),
        // sled has no kind of its own for this.
        Err(::sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => Ok(None),
        Err(::sled::Error::Io(error)) => Err(explain_io(&error, path)),
        Err(error) => Err(explain(&error)),
    })
}

/// Tries until there is something. [`Error::InUse`]: there was nothing for 5 seconds.
#[expect(clippy::disallowed_methods, reason = "opening blocks, and says so")]
fn patiently<T>(path: &Path, mut attempt: impl FnMut() -> Result<Option<T>, Error>) -> Result<T, Error> {
    for _ in 0..LOCK_ATTEMPTS {
        if let Some(done) = attempt()? {
            return Ok(done);
        }
        thread::sleep(LOCK_PAUSE);
    }
    Err(Error::InUse(path.to_owned()))
}

fn snapshots(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Copies sled's files, and nothing else that is in the folder, to `<folder>.damaged-<unix time>`; when that can't be
/// made, as on a volume of its own, into the folder.
fn copy_aside(path: &Path) -> io::Result<PathBuf> {
    let suffix = format!("damaged-{}", Clock::system().now().as_secs());
    let path = path.canonicalize()?;
    let mut beside = path.clone().into_os_string();
    beside.push(format!(".{suffix}"));
    let mut copy = PathBuf::from(beside);
    let private = |folder: &Path| DirBuilder::new().mode(0o700).create(folder);
    if private(&copy).is_err() {
        copy = path.join(suffix);
        private(&copy)?;
    }
    private(&copy.join("blobs"))?;
    let mut files = snapshots(&path)?;
    files.extend([path.join("db"), path.join("conf")]);
    for entry in fs::read_dir(path.join("blobs"))? {
        files.push(entry?.path());
    }
    for file in files {
        let to = copy.join(file.strip_prefix(&path).map_err(io::Error::other)?);
        fs::copy(&file, &to)?;
        File::open(&to)?.sync_all()?;
    }
    File::open(&copy)?.sync_all()?;
    Ok(copy)
}

/// Refuses a folder whose database is gone while other files say that there was one: sled would begin a new one.
fn require_database(path: &Path, mark: Option<u64>) -> Result<(), Error> {
    let is_there = fs::metadata(path.join("db")).is_ok_and(|file| file.len() > 0);
    let snapshots = snapshots(path).map_err(|error| explain_io(&error, path))?;
    if is_there || (mark.is_none() && snapshots.is_empty()) {
        return Ok(());
    }
    Err(Error::Corrupt(format!(
        "the database {} is missing or empty, and other files beside it say that there was one; bring back a copy of the whole data folder",
        path.join("db").display()
    )))
}

/// The schema that the database has, if this release reads it; `None`: it was just made. Before any tree is opened, since
/// that makes those which are missing.
fn check_schema(db: &Db, mark: Option<u64>) -> Result<Option<u32>, Error> {
    let found = db.get(SCHEMA_KEY).map_err(|error| explain(&error))?;
    match found.as_deref().map(<[u8; 4]>::try_from) {
        Some(Ok(bytes)) => match u32::from_be_bytes(bytes) {
            known @ (WITHOUT_TALLY | SCHEMA) => Ok(Some(known)),
            found if found > SCHEMA => Err(Error::Newer { found, known: SCHEMA }),
            found => Err(Error::Corrupt(format!("there is no schema version {found}"))),
        },
        Some(Err(_)) => Err(Error::Corrupt("the schema version is no number".to_owned())),
        // A database that was just made has only its default tree.
        None if mark.is_none() && db.tree_names().len() <= 1 => Ok(None),
        None => Err(Error::Corrupt("the database has lost its schema version; bring back a copy of the whole data folder".to_owned())),
    }
}

/// Makes durable that this release writes here, and the first tally of this run.
fn begin(db: &Db, schema: Option<u32>, tally: Tally) -> Result<Tally, ::sled::Error> {
    let tally = Changes::new().apply(db, tally)?;
    // After the tally: where it is missing under this schema, something was lost.
    if schema != Some(SCHEMA) {
        db.insert(SCHEMA_KEY, &SCHEMA.to_be_bytes())?;
    }
    db.flush()?;
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong_with_the_folder() {
        for (kind, text) in [
            (io::ErrorKind::StorageFull, "no space"),
            (io::ErrorKind::ReadOnlyFilesystem, "read-only"),
            (io::ErrorKind::PermissionDenied, "may not"),
        ] {
            let error = explain(&::sled::Error::Io(kind.into()));
            assert!(matches!(&error, Error::Unavailable(why) if why.contains(text)), "{error}");
        }
    }

    #[test]
    fn a_file_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("data")] {
            assert!(matches!(open(&path), Err(Error::Unavailable(why)) if why.contains("not a folder")), "{}", path.display());
        }
    }

    #[test]
    fn the_folder_and_its_files_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        drop(open(&path).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for (name, expected) in [("db", 0o600), ("conf", 0o600), ("lock", 0o600), ("blobs", 0o700)] {
            assert_eq!(mode(&path.join(name)), expected, "{name}");
        }
    }

    #[test]
    fn a_shared_folder_stays_open_to_others() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("somebody's"), "").unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        drop(open(folder.path()).unwrap());
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn refuses_what_a_newer_release_wrote_and_leaves_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()).unwrap());
        for stored in [Some(SCHEMA + 1), Some(0), None] {
            let db = ::sled::open(folder.path()).unwrap();
            match stored {
                Some(version) => db.insert(SCHEMA_KEY, &version.to_be_bytes()).unwrap(),
                None => db.remove(SCHEMA_KEY).unwrap(),
            };
            db.drop_tree("users").unwrap();
            db.flush().unwrap();
            let before = db.tree_names().len();
            drop(db);
            match (stored, open(folder.path()).unwrap_err()) {
                (Some(3), Error::Newer { found: 3, known: 2 }) | (Some(0) | None, Error::Corrupt(_)) => {}
                (_, other) => panic!("{stored:?}: {other}"),
            }
            let db = ::sled::open(folder.path()).unwrap();
            assert_eq!(db.tree_names().len(), before, "{stored:?}");
        }
    }
}
