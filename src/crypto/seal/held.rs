//! The storage keys that a process holds: from the configuration, or from files in the data folder. Which of them counts
//! is written in the state.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::master::{file_error, sync_folder};
use super::{Error, MasterKey, StorageKey};
use crate::model::Digest;

/// The storage keys of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HeldKeys {
    keys: Vec<Arc<StorageKey>>,
    /// The one that a rotation may make the current one: where it is so already there is nothing to rotate to.
    next: Option<Arc<StorageKey>>,
    /// The file of the first key, when we have made it and may make another.
    file: Option<PathBuf>,
}

impl HeldKeys {
    /// Those that somebody gives: the key that is to count, and the one before it as long as that is needed.
    pub fn given(master: &MasterKey, previous: Option<&MasterKey>) -> Self {
        let next = Arc::new(StorageKey::new(master));
        let mut keys = vec![Arc::clone(&next)];
        keys.extend(previous.map(|previous| Arc::new(StorageKey::new(previous))));
        Self { keys, next: Some(next), file: None }
    }

    /// The key in a file of our own, which is made if there is none, and the one in a file beside it that a rotation has
    /// begun with. Blocks.
    ///
    /// # Errors
    ///
    /// As [`MasterKey::load_or_create`].
    pub fn in_file(path: &Path) -> Result<Self, Error> {
        Self::around(path, &MasterKey::load_or_create(path)?)
    }

    /// The same for a state that is there: its key is not made anew. `None`: there is no file at all.
    pub fn in_existing_file(path: &Path) -> Result<Option<Self>, Error> {
        MasterKey::load(path)?.map(|master| Self::around(path, &master)).transpose()
    }

    fn require(path: &Path) -> Result<Self, Error> {
        let missing = || Error::File { path: path.to_owned(), problem: "it is missing: restore it from a backup".to_owned() };
        Self::in_existing_file(path)?.ok_or_else(missing)
    }

    fn around(path: &Path, master: &MasterKey) -> Result<Self, Error> {
        let next = MasterKey::load(&beside(path))?.map(|next| Arc::new(StorageKey::new(&next)));
        let mut keys = vec![Arc::new(StorageKey::new(master))];
        keys.extend(next.clone());
        Ok(Self { keys, next, file: Some(path.to_owned()) })
    }

    /// The keys, the preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<StorageKey>> {
        self.keys.iter()
    }

    /// The key that an installation begins with.
    pub fn first(&self) -> Option<&Arc<StorageKey>> {
        self.keys.first()
    }

    /// Their check values.
    pub fn checks(&self) -> Vec<Digest> {
        self.keys.iter().map(|key| Digest(key.check_value())).collect()
    }

    /// The key with this check value.
    pub fn find(&self, check: &Digest) -> Option<&Arc<StorageKey>> {
        self.keys.iter().find(|key| key.check_value() == check.0)
    }

    /// The check value of the key to rotate to, if there is one other than `current`.
    pub fn next(&self, current: &Digest) -> Option<Digest> {
        let next = Digest(self.next.as_ref()?.check_value());
        (next != *current).then_some(next)
    }

    /// Whether we make the keys ourselves.
    pub const fn makes_its_own(&self) -> bool {
        self.file.is_some()
    }

    /// With a key to rotate to. Where we make our own and there is none it is made: in a file beside the present one's,
    /// durable when this returns. Blocks.
    pub fn with_next(&self, current: &Digest) -> Result<Self, Error> {
        let Some(path) = &self.file else { return Ok(self.clone()) };
        if self.next(current).is_some() {
            return Ok(self.clone());
        }
        self.settle(current)?;
        // Neither of the two is made where the other one is lost.
        Self::require(path)?;
        MasterKey::load_or_create(&beside(path))?;
        Self::require(path)
    }

    /// When `current` is the key in the file beside, and nothing is wrapped with the other one any more, it takes the
    /// place of that: one rename, durable when this returns. Blocks.
    pub fn settle(&self, current: &Digest) -> Result<Self, Error> {
        let Some(path) = &self.file else { return Ok(self.clone()) };
        if self.next.as_ref().is_none_or(|next| next.check_value() != current.0) {
            return Ok(self.clone());
        }
        match fs::rename(beside(path), path) {
            Ok(()) => sync_folder(path).map_err(|error| file_error(path, &error))?,
            // It was done before.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(file_error(path, &error)),
        }
        Self::require(path)
    }
}

impl From<StorageKey> for HeldKeys {
    fn from(key: StorageKey) -> Self {
        let key = Arc::new(key);
        Self { keys: vec![Arc::clone(&key)], next: Some(key), file: None }
    }
}

/// Where the key is that is to replace the one in `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random;

    fn checks(held: &HeldKeys) -> Vec<Digest> {
        held.checks()
    }

    #[test]
    fn a_key_of_our_own_is_replaced_in_steps_that_can_be_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let held = HeldKeys::in_file(&path).unwrap();
        let [old] = checks(&held)[..] else { panic!("one key") };
        assert_eq!(held.next(&old), None);
        assert_eq!(checks(&held.settle(&old).unwrap()), [old], "nothing to settle");

        // However often it is begun, the new key is the same.
        let begun = held.with_next(&old).unwrap();
        let new = begun.next(&old).unwrap();
        assert_eq!(checks(&held.with_next(&old).unwrap()), [old, new]);
        assert_eq!(checks(&begun.with_next(&old).unwrap()), [old, new]);
        assert_eq!(checks(&HeldKeys::in_file(&path).unwrap()), [old, new], "also after a restart");
        assert_eq!(checks(&begun.settle(&old).unwrap()), [old, new], "and the old one stays while it counts");

        // Broken off before the file took its place: the next start has both, and settles it.
        let restarted = HeldKeys::in_existing_file(&path).unwrap().unwrap();
        assert!(restarted.find(&new).is_some() && restarted.next(&new).is_none());
        assert_eq!(checks(&restarted.settle(&new).unwrap()), [new]);
        assert_eq!(checks(&restarted.settle(&new).unwrap()), [new], "twice is once");
        assert_eq!(checks(&HeldKeys::in_file(&path).unwrap()), [new]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        // One that was finished and not settled does not keep the next from beginning.
        let second = HeldKeys::in_file(&path).unwrap().with_next(&new).unwrap();
        let newer = second.next(&new).unwrap();
        let third = second.with_next(&newer).unwrap();
        assert_eq!(checks(&third)[0], newer);
        assert_ne!(third.next(&newer), None);
    }

    #[test]
    fn a_missing_file_is_not_made_where_there_is_a_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        assert!(HeldKeys::in_existing_file(&path).unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // Nor while somebody runs who has it in memory.
        let held = HeldKeys::in_file(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(held.with_next(&held.checks()[0]).unwrap_err().to_string().contains("missing"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_given_is_not_written_anywhere() {
        let [new, old] = [(); 2].map(|()| MasterKey::from_bytes(&random::bytes::<32>()).unwrap());
        let held = HeldKeys::given(&new, Some(&old));
        let [new, old] = checks(&held)[..] else { panic!("two keys") };
        assert_eq!((held.next(&old), held.next(&new), held.makes_its_own()), (Some(new), None, false));
        assert_eq!(checks(&held.with_next(&new).unwrap()), [new, old]);
        assert_eq!(checks(&held.settle(&new).unwrap()), [new, old]);
        assert_eq!(held.find(&Digest([0; 32])).is_none(), held.first().is_some());
    }
}
