//! The storage keys that a process has while one replaces another: everything that either of them has wrapped opens, and
//! what is wrapped from now on is wrapped by the current one.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{DataKey, Error, Purpose, StorageKey};
use crate::crypto::random;
use crate::model::{Sealed, UserId};

/// Storage keys with their versions. It never changes: a rotation makes another one.
#[derive(Clone)]
pub struct Ring {
    current: (u8, Arc<StorageKey>),
    /// The version is `None` where this process has not heard of it yet: others may already wrap with that key.
    others: Vec<(Option<u8>, Arc<StorageKey>)>,
}

impl Ring {
    /// Wraps with `current`, which has the given version (1 to 255), and opens what any of them has wrapped.
    pub const fn new(current: (u8, Arc<StorageKey>), others: Vec<(Option<u8>, Arc<StorageKey>)>) -> Self {
        Self { current, others }
    }

    /// The version that what is wrapped from now on bears.
    pub const fn version(&self) -> u8 {
        self.current.0
    }

    /// Wraps `plain` for `purpose`. `owner` is the identity of the record that will hold it.
    pub fn seal(&self, purpose: Purpose, owner: &[u8], plain: &[u8]) -> Sealed {
        let (version, key) = &self.current;
        key.seal_as(*version, purpose, owner, plain)
    }

    /// Opens what one of the keys has wrapped for the same purpose and owner. [`Error::Version`]: none of them bears its
    /// version. [`Error::Damaged`]: otherwise.
    pub fn open(&self, purpose: Purpose, owner: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
        let version = sealed.0.first().copied().ok_or(Error::Damaged)?;
        let (current, key) = &self.current;
        let of_it = |known: Option<u8>| known.is_none_or(|known| known == version);
        let others = self.others.iter().filter(|(known, _)| of_it(*known)).map(|(_, key)| key);
        let candidates = (*current == version).then_some(key).into_iter().chain(others);
        let mut outcome = Err(Error::Version(version));
        for key in candidates {
            outcome = key.open_as(version, purpose, owner, sealed);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// What is wrapped, wrapped by the current key; `None`: it is.
    pub fn rewrap(&self, purpose: Purpose, owner: &[u8], sealed: &Sealed) -> Result<Option<Sealed>, Error> {
        if sealed.0.first() == Some(&self.current.0) {
            return Ok(None);
        }
        Ok(Some(self.seal(purpose, owner, &self.open(purpose, owner, sealed)?)))
    }

    /// A new data key for `user`, wrapped for the user's record.
    pub fn new_data_key(&self, user: UserId) -> Sealed {
        self.seal(Purpose::DataKey, user.as_bytes(), Zeroizing::new(random::bytes::<32>()).as_slice())
    }

    /// The user's data key out of the user's record.
    pub fn data_key(&self, user: UserId, wrapped: &Sealed) -> Result<DataKey, Error> {
        DataKey::new(user, &self.open(Purpose::DataKey, user.as_bytes(), wrapped)?)
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("version", &self.current.0).field("others", &self.others.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::MasterKey;
    use super::*;

    fn key() -> Arc<StorageKey> {
        Arc::new(StorageKey::new(&MasterKey::from_bytes(&random::bytes::<32>()).unwrap()))
    }

    fn opens(ring: &Ring, sealed: &Sealed) -> bool {
        ring.open(Purpose::SigningKey, b"kid", sealed).is_ok_and(|plain| plain.as_slice() == b"secret")
    }

    #[test]
    fn both_are_read_and_one_writes() {
        let (old, new) = (key(), key());
        let before = Ring::new((1, Arc::clone(&old)), vec![]);
        // One that has the new key and has not heard that it counts.
        let staged = Ring::new((1, Arc::clone(&old)), vec![(None, Arc::clone(&new))]);
        let rotating = Ring::new((2, Arc::clone(&new)), vec![(Some(1), Arc::clone(&old))]);
        let after = Ring::new((2, new), vec![]);
        let by_old = before.seal(Purpose::SigningKey, b"kid", b"secret");
        let by_new = rotating.seal(Purpose::SigningKey, b"kid", b"secret");
        assert_eq!((by_old.0[0], by_new.0[0]), (1, 2));
        for (ring, reads_old, reads_new) in [(&before, true, false), (&staged, true, true), (&rotating, true, true), (&after, false, true)]
        {
            assert_eq!((opens(ring, &by_old), opens(ring, &by_new)), (reads_old, reads_new), "{ring:?}");
        }
        assert!(matches!(before.open(Purpose::SigningKey, b"kid", &by_new), Err(Error::Version(2))));
        assert_eq!(staged.seal(Purpose::SigningKey, b"kid", b"secret").0[0], 1);
    }

    // A version in front is part of what is sealed: nobody can make a value pass for another version's.
    #[test]
    fn a_version_can_not_be_changed() {
        let key = key();
        let ring = Ring::new((2, Arc::clone(&key)), vec![(Some(1), Arc::clone(&key)), (None, key)]);
        let mut sealed = ring.seal(Purpose::Value, b"name", b"secret");
        for version in [0, 1, 3, 255] {
            sealed.0[0] = version;
            assert!(ring.open(Purpose::Value, b"name", &sealed).is_err(), "{version}");
        }
    }

    #[test]
    fn what_is_wrapped_anew_is_the_same() {
        let (old, new, user) = (key(), key(), UserId::new());
        let rotating = Ring::new((2, new), vec![(Some(1), Arc::clone(&old))]);
        let wrapped = Ring::new((1, old), vec![]).new_data_key(user);
        let anew = rotating.rewrap(Purpose::DataKey, user.as_bytes(), &wrapped).unwrap().unwrap();
        assert_eq!(rotating.rewrap(Purpose::DataKey, user.as_bytes(), &anew).unwrap(), None, "it is already");
        let (before, after) = (rotating.data_key(user, &wrapped).unwrap(), rotating.data_key(user, &anew).unwrap());
        let sealed = before.seal(Purpose::Totp, b"x", b"secret");
        assert_eq!(after.open(Purpose::Totp, b"x", &sealed).unwrap().as_slice(), b"secret");
        assert!(rotating.rewrap(Purpose::DataKey, UserId::new().as_bytes(), &wrapped).is_err(), "and it is nobody else's");
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", Ring::new((1, key()), vec![(None, key())])), "Ring { version: 1, others: 1 }");
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(plain: Vec<u8>, at: prop::sample::Index, bit in 0_u8..8) {
            let ring = Ring::new((2, key()), vec![(Some(1), key()), (None, key())]);
            let mut sealed = ring.seal(Purpose::Value, b"o", &plain);
            let at = at.index(sealed.0.len());
            sealed.0[at] ^= 1 << bit;
            prop_assert!(ring.open(Purpose::Value, b"o", &sealed).is_err());
            prop_assert!(ring.rewrap(Purpose::Value, b"o", &sealed).map_or(true, |anew| anew.is_none()));
        }
    }
}
