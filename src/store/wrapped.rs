//! What the storage key wraps, and which of its versions: the one list that a rotation goes through, and the rule by which
//! every backend refuses what is wrapped with a version that has been replaced. So a process that has not heard of a
//! rotation can never leave something behind that only the old key opens.

use serde::{Deserialize, Serialize};

use super::{Error, record};
use crate::clock::Timestamp;
use crate::model::{Digest, Kid, Sealed, UserId};

/// The named value that says which storage keys there are. Its first byte is the version that new values bear, unless it
/// is just the 32 bytes of the first key's check value: then that is 1.
pub const STORAGE_KEYS: &str = "storage_key_check";

/// The named values that are wrapped by the storage key: each is a [`Sealed`], as it is. Whatever belongs to the
/// installation and has to be secret stands here and is wrapped anew by a rotation.
pub const WRAPPED_VALUES: &[&str] = &[INSTALLATION_KEY];

/// The named value that HMACs and what belongs to nobody are made with.
pub const INSTALLATION_KEY: &str = "installation_key";

/// The first version.
const FIRST: u8 = 1;

/// Something that is wrapped by the storage key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Wrapped {
    /// One of [`WRAPPED_VALUES`].
    Value(&'static str),
    /// A private signing key.
    SigningKey(Kid),
    /// A user's data key.
    DataKey(UserId),
}

/// An order to wrap something anew, if it is still wrapped as it was.
#[derive(Clone, Debug)]
pub struct Rewrap {
    /// What.
    pub what: Wrapped,
    /// As it is.
    pub from: Sealed,
    /// As it is to be.
    pub to: Sealed,
}

/// A storage key, as the state knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownKey {
    /// What stands in front of what it has wrapped: 1 to 255.
    pub version: u8,
    /// Its check value, by which a process finds out whether it has this key.
    pub check: Digest,
    /// When it began to wrap; `None` for an installation's first.
    #[serde(default)]
    pub since: Option<Timestamp>,
}

/// Which storage keys there are, as the state keeps it under [`STORAGE_KEYS`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StorageKeys {
    /// The key that wraps.
    pub current: KnownKey,
    /// The one that it replaces, as long as something may still be wrapped with that: a rotation is under way.
    #[serde(default)]
    pub before: Option<KnownKey>,
}

impl StorageKeys {
    /// Of an installation that begins.
    pub const fn first(check: Digest) -> Self {
        Self { current: KnownKey { version: FIRST, check, since: None }, before: None }
    }

    /// With `check` as the key that wraps from `now` on, while what the present one has wrapped is wrapped anew.
    #[must_use]
    pub fn begin(&self, check: Digest, now: Timestamp) -> Self {
        let version = self.current.version.checked_add(1).unwrap_or(FIRST);
        Self { current: KnownKey { version, check, since: Some(now) }, before: Some(self.current) }
    }

    /// When everything is wrapped with the new one.
    #[must_use]
    pub const fn finish(&self) -> Self {
        Self { current: self.current, before: None }
    }

    /// As it is stored.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        if *self == Self::first(self.current.check) {
            return Ok(self.current.check.as_bytes().to_vec());
        }
        let mut bytes = vec![self.current.version];
        bytes.extend(record::encode(self)?);
        Ok(bytes)
    }

    /// What [`StorageKeys::encode`] made. [`Error::Corrupt`]: it did not make this.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if let Ok(check) = <[u8; 32]>::try_from(bytes) {
            return Ok(Self::first(Digest(check)));
        }
        let (version, rest) = bytes.split_first().ok_or_else(|| Error::Corrupt("storage keys without a version".to_owned()))?;
        let keys: Self = record::decode(rest)?;
        if keys.current.version == *version { Ok(keys) } else { Err(Error::Corrupt("storage keys of two versions".to_owned())) }
    }
}

/// Whether `name` is one of [`WRAPPED_VALUES`], as which it is looked after.
pub(super) fn is_wrapped_value(name: &str) -> bool {
    WRAPPED_VALUES.contains(&name)
}

/// [`Error::OldKey`]: `sealed` is not wrapped with the version that the value of [`STORAGE_KEYS`] asks for. Where there
/// is no such value anything goes.
pub(super) fn require_current(keys: Option<&[u8]>, sealed: &[u8]) -> Result<(), Error> {
    let version = match keys {
        None => return Ok(()),
        Some(keys) if keys.len() == 32 => FIRST,
        Some(keys) => keys.first().copied().unwrap_or(FIRST),
    };
    if sealed.first() == Some(&version) { Ok(()) } else { Err(Error::OldKey) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_key_is_its_check_value() {
        let keys = StorageKeys::first(Digest([7; 32]));
        assert_eq!(keys.encode().unwrap(), [7; 32]);
        assert_eq!(StorageKeys::decode(&[7; 32]).unwrap(), keys);
    }

    #[test]
    fn what_is_damaged_is_no_key() {
        for bad in [&b""[..], b"\x02", b"\x02\x01{}", &[0; 31], &[0; 33]] {
            assert!(matches!(StorageKeys::decode(bad), Err(Error::Corrupt(_))), "{bad:?}");
        }
        let mut bytes = StorageKeys::first(Digest([7; 32])).begin(Digest([8; 32]), Timestamp::from_secs(1)).encode().unwrap();
        bytes[0] = 3;
        assert!(StorageKeys::decode(&bytes).is_err());
    }

    #[test]
    fn only_the_current_version_is_taken() {
        let begun = StorageKeys::first(Digest([7; 32])).begin(Digest([8; 32]), Timestamp::from_secs(1));
        for (keys, version) in [(begun.before.unwrap().check.as_bytes().to_vec(), 1), (begun.encode().unwrap(), 2)] {
            for sealed in [vec![], vec![0], vec![1, 9], vec![2, 9], vec![3]] {
                assert_eq!(require_current(Some(&keys), &sealed).is_ok(), sealed.first() == Some(&version), "{version}: {sealed:?}");
            }
        }
        assert!(require_current(None, b"anything").is_ok());
    }

    proptest! {
        #[test]
        fn rotations_read_back_and_the_version_is_never_the_one_before(checks: Vec<[u8; 32]>, at in 0_i64..1_000_000) {
            let mut keys = StorageKeys::first(Digest([1; 32]));
            for check in checks.into_iter().cycle().take(600) {
                let begun = keys.begin(Digest(check), Timestamp::from_secs(at));
                prop_assert_ne!(begun.current.version, keys.current.version);
                prop_assert_ne!(begun.current.version, 0);
                for keys in [&begun, &begun.finish()] {
                    let bytes = keys.encode().unwrap();
                    prop_assert_ne!(bytes.len(), 32);
                    prop_assert_eq!(bytes[0], keys.current.version);
                    prop_assert_eq!(&StorageKeys::decode(&bytes).unwrap(), keys);
                }
                keys = begun.finish();
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            drop(StorageKeys::decode(&bytes));
        }
    }
}
