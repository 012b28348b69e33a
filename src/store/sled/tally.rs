//! What tells that nothing is missing. sled starts without a word after it has cut off the end of a damaged log, and
//! passes over the rest of a damaged piece in its middle. So each commit counts itself and keeps a sum over all records,
//! and a file beside the database says how many commits were durable: at the start the sum must be that of what is there,
//! and the count no smaller than the file's.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;

use ::sled::{Db, IVec, Tree};
use sha2::{Digest as _, Sha256};

use super::{bytes, entries_after, open};
use crate::store::Error;

/// In sled's default tree.
pub(super) const TALLY_KEY: &[u8] = b"tally";

/// Beside the database; to remove it is how an operator accepts what is left.
pub(super) const MARK_FILE: &str = "durable";

/// Trees that are not summed up: the audit log is the largest part of a state and has a chain of its own.
const UNSUMMED: &[u8] = b"audit";

/// How many commits there were, and a sum over the records that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) commits: u64,
    sum: u128,
}

impl Tally {
    /// One commit more.
    pub(super) const fn next(self) -> Self {
        Self { commits: self.commits.wrapping_add(1), sum: self.sum }
    }

    /// The record of `key` in the tree `name` was `old` and becomes `new`.
    pub(super) fn change(&mut self, name: &[u8], key: &[u8], old: Option<&IVec>, new: Option<&IVec>) {
        if name.starts_with(UNSUMMED) {
            return;
        }
        self.sum = self.sum.wrapping_sub(old.map_or(0, |value| digest(name, key, value)));
        self.sum = self.sum.wrapping_add(new.map_or(0, |value| digest(name, key, value)));
    }

    /// As it is stored.
    pub(super) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let both = self.commits.to_be_bytes().into_iter().chain(self.sum.to_be_bytes());
        bytes.iter_mut().zip(both).for_each(|(to, from)| *to = from);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (commits, sum) = bytes.split_first_chunk::<8>()?;
        Some(Self { commits: u64::from_be_bytes(*commits), sum: u128::from_be_bytes(sum.try_into().ok()?) })
    }

    /// The one that the database holds.
    fn load(db: &Db) -> Result<Option<Self>, Error> {
        let wrong = || Error::Corrupt("the tally is none".to_owned());
        bytes(db, TALLY_KEY)?.map(|bytes| Self::from_bytes(&bytes).ok_or_else(wrong)).transpose()
    }

    /// Holds what the database says of itself, and what `mark` says of it, against what is there. Reads every record that
    /// is summed up. Where there is no mark, what is there is what counts: an operator took it away, or, when no tally
    /// `is_due`, an older release wrote the folder or its first start was cut short.
    pub(super) fn check(db: &Db, mark: Option<u64>, is_due: bool) -> Result<Self, Error> {
        let stored = Self::load(db)?;
        let sum = sum(db)?;
        match (stored, mark) {
            (Some(stored), Some(durable)) if stored.commits < durable => Err(lost(durable - stored.commits)),
            (None, Some(durable)) => Err(lost(durable)),
            (Some(stored), Some(_)) if stored.sum != sum => Err(damaged("what is stored does not add up: some of it is lost or damaged")),
            (Some(stored), Some(_)) => Ok(stored),
            (stored, None) => {
                if is_due {
                    let adds_up = stored.is_some_and(|stored| stored.sum == sum);
                    tracing::warn!(
                        adds_up,
                        "the data folder's file `{MARK_FILE}` is gone: what is stored is taken as it is, and may be less than there was"
                    );
                }
                Ok(Self { commits: stored.map_or(0, |stored| stored.commits), sum })
            }
        }
    }
}

/// The file that says how many commits were durable. It is written after each flush but left to the kernel to store: a
/// process that is killed loses nothing of it, and after a loss of power it may say less than was, never more.
#[derive(Debug)]
pub(super) struct Mark(File);

impl Mark {
    /// What the file in the folder `path` says; `None`: there is none.
    pub(super) fn read(path: &Path) -> Result<Option<u64>, Error> {
        match fs::read(path.join(MARK_FILE)) {
            Ok(content) => parse(&content).map(Some).ok_or_else(|| damaged(&format!("the data folder's file `{MARK_FILE}` is damaged"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(open::explain_io(&error, path)),
        }
    }

    /// Opens the file to write, making it when there is none, and says durably that there were `commits`.
    pub(super) fn open(path: &Path, commits: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join(MARK_FILE))?;
        let mark = Self(file);
        mark.write(commits)?;
        mark.0.sync_all()?;
        Ok(mark)
    }

    /// Says that `commits` are durable.
    pub(super) fn write(&self, commits: u64) -> io::Result<()> {
        self.0.write_all_at(line(commits).as_bytes(), 0)
    }
}

/// A number of a fixed width, so that each covers the one before, and what shows that it is whole.
fn line(commits: u64) -> String {
    let number = format!("{commits:020}");
    let [a, b, ..]: [u8; 32] = Sha256::digest(number.as_bytes()).into();
    format!("{number} {a:02x}{b:02x}\n")
}

fn parse(content: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(content).ok()?;
    let commits = text.get(..20)?.parse().ok()?;
    (text == line(commits)).then_some(commits)
}

fn digest(tree: &[u8], key: &[u8], value: &[u8]) -> u128 {
    let mut hash = Sha256::new();
    for part in [tree, key] {
        hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.update(value);
    let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _]: [u8; 32] = hash.finalize().into();
    u128::from_be_bytes(first)
}

/// The sum over what is there, a thread for each tree, since at start this is what everybody waits for.
fn sum(db: &Db) -> Result<u128, Error> {
    let names = db.tree_names().into_iter().filter(|name| *name != db.name() && !name.starts_with(UNSUMMED));
    let trees = names.map(|name| db.open_tree(name)).collect::<Result<Vec<Tree>, _>>().map_err(|error| open::explain(&error))?;
    thread::scope(|scope| {
        let start = |tree| thread::Builder::new().name(open::OPENING.to_owned()).spawn_scoped(scope, move || sum_of(tree));
        let threads: Vec<_> = trees.iter().map(start).collect();
        threads.into_iter().try_fold(0_u128, |sum, thread| {
            let thread = thread.map_err(|error| Error::Unavailable(format!("can't start a thread: {error}")))?;
            let part = thread.join().map_err(|_| damaged("the database can't be read"))??;
            Ok(sum.wrapping_add(part))
        })
    })
}

fn sum_of(tree: &Tree) -> Result<u128, Error> {
    let name = tree.name();
    entries_after(tree, None).try_fold(0_u128, |sum, entry| {
        let (key, value) = entry?;
        Ok(sum.wrapping_add(digest(&name, &key, &value)))
    })
}

fn lost(commits: u64) -> Error {
    damaged(&format!("{commits} writes that were durable are missing"))
}

fn damaged(what: &str) -> Error {
    Error::Corrupt(format!(
        "{what}; nothing is served from it. Bring back a copy of the whole data folder, or remove its file `{MARK_FILE}` to go on with what is left"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::sled::Changes;

    fn write(path: &Path, key: &[u8]) {
        let inner = open::open(path).unwrap();
        let mut changes = Changes::new();
        changes.put(&inner.trees.meta, key, b"value");
        changes.put(&inner.trees.audit, key, b"event");
        inner.writer().unwrap().commit(&changes).unwrap();
    }

    /// Does to the database what no writer of ours did, as damage in the middle of its log would.
    fn behind(path: &Path, change: impl FnOnce(&Db)) {
        let db = ::sled::open(path).unwrap();
        change(&db);
        db.flush().unwrap();
    }

    fn set(db: &Db, key: &str, value: Option<&str>) {
        let tree = db.open_tree("meta").unwrap();
        match value {
            Some(value) => tree.insert(key, value).unwrap(),
            None => tree.remove(key).unwrap(),
        };
    }

    fn said(path: &Path) -> Option<String> {
        open::open(path).err().map(|error| error.to_string())
    }

    #[test]
    fn what_no_writer_changed_must_be_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        write(path, b"a");
        write(path, b"b");
        assert_eq!(said(path), None);
        for (key, other, before) in [("a", None, Some("value")), ("a", Some("older"), Some("value")), ("c", Some("new"), None)] {
            behind(path, |db| set(db, key, other));
            assert!(said(path).is_some_and(|said| said.contains("does not add up")));
            behind(path, |db| set(db, key, before));
            assert_eq!(said(path), None);
        }
        // The audit log answers for itself.
        behind(path, |db| drop(db.open_tree("audit").unwrap().remove("a")));
        assert_eq!(said(path), None);
    }

    #[test]
    fn an_older_state_that_is_whole_in_itself_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        write(path, b"a");
        let mark = Mark::read(path).unwrap().unwrap();
        fs::write(path.join(MARK_FILE), line(mark + 20)).unwrap();
        let lost = said(path).unwrap();
        assert!(lost.contains("writes that were durable are missing"), "{lost}");
        fs::write(path.join(MARK_FILE), line(mark)).unwrap();
        assert_eq!(said(path), None);
        behind(path, |db| drop(db.remove(TALLY_KEY)));
        assert!(said(path).unwrap().contains("writes that were durable are missing"));
        fs::remove_file(path.join(MARK_FILE)).unwrap();
        assert_eq!(said(path), None);
    }

    #[test]
    fn a_mark_is_whole_or_none() {
        let good = line(42);
        assert_eq!(parse(good.as_bytes()), Some(42));
        assert_eq!(parse(line(u64::MAX).as_bytes()), Some(u64::MAX));
        for at in 0..good.len() {
            assert_eq!(parse(&good.as_bytes()[..at]), None);
            for bit in 0..8 {
                let mut bad = good.clone().into_bytes();
                bad[at] ^= 1 << bit;
                assert_eq!(parse(&bad), None, "{at}, {bit}");
            }
        }
    }

    proptest! {
        /// Whatever the order and the way there, the sum is that of what is left.
        #[test]
        fn the_sum_is_that_of_what_is_there(changes in prop::collection::vec((0_u8..3, 0_u8..5, prop::option::of(0_u8..4)), 0..60)) {
            let names: [&[u8]; 3] = [b"users", b"sessions", b"audit"];
            let mut there = std::collections::BTreeMap::new();
            let mut tally = Tally::default();
            for (tree, key, value) in changes {
                let name = names[usize::from(tree)];
                let new = value.map(|value| IVec::from(&[value]));
                let old = match &new { Some(new) => there.insert((name, key), new.clone()), None => there.remove(&(name, key)) };
                tally = tally.next();
                tally.change(name, &[key], old.as_ref(), new.as_ref());
            }
            let left = there.iter().filter(|((name, _), _)| *name != b"audit");
            let sum = left.fold(0_u128, |sum, ((name, key), value)| sum.wrapping_add(digest(name, &[*key], value)));
            prop_assert_eq!(tally.sum, sum);
            prop_assert_eq!(Tally::from_bytes(&tally.to_bytes()), Some(tally));
        }
    }
}
