//! What seals and opens, whichever storage keys there are: what the storage key wraps goes to the ring of those that this
//! process holds, everything else to the installation's own key. Which storage key counts is written in the state, and is
//! read again when the state refuses what was wrapped with another.

use std::sync::Arc;

use arc_swap::ArcSwap;
use zeroize::Zeroizing;

use super::Error;
use crate::crypto::seal::{self, DataKey, HeldKeys, InstallationKey, Purpose, Ring, StorageKey};
use crate::model::{Digest, Sealed, UserId};
use crate::store::{self, INSTALLATION_KEY, STORAGE_KEYS, StorageKeys, Store};

/// How often something is begun anew that others have changed meanwhile.
const ROUNDS: usize = 8;

/// The keys.
#[derive(Debug)]
pub(super) struct Vault {
    keys: ArcSwap<Keys>,
    own: InstallationKey,
}

/// The storage keys, as this process knows them.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// What it was given.
    pub(super) held: HeldKeys,
    /// What it was given before that: whoever has read an account before its key was wrapped anew may not be done with it.
    fading: Vec<Arc<StorageKey>>,
    /// What the state said when it was last read.
    pub(super) known: StorageKeys,
    pub(super) ring: Ring,
}

impl Keys {
    /// Puts together what is held and what the state asks for. An error: a key is missing, so that something could not
    /// be read. Nothing is written before this has worked.
    fn fit(held: HeldKeys, fading: Vec<Arc<StorageKey>>, known: StorageKeys) -> Result<Self, Error> {
        const WRONG: &str = "the master key is not the one that this data was sealed with: restore the right key \
                             (storage.master_key, master_key_file, or the file in the data folder); nothing was changed. If \
                             the key was meant to be replaced, give the old one too, as storage.previous_master_key";
        const HALF: &str = "a rotation of the storage key is under way, and the key that it replaces is missing: some of the data \
                            is still sealed with it. Give it as storage.previous_master_key (or restore the file in the data \
                            folder) until `nullpass key rotate --storage` has come to its end; nothing was changed";
        let current = held.find(&known.current.check).cloned();
        let before = known.before.map(|before| (before, held.find(&before.check).cloned()));
        let current = match (current, &before) {
            (Some(current), None | Some((_, Some(_)))) => current,
            (Some(_), Some((_, None))) => return Err(Error::Keys(HALF.to_owned())),
            (None, _) => return Err(Error::Keys(WRONG.to_owned())),
        };
        let version_of = |check: Digest| known.before.filter(|before| before.check == check).map(|before| before.version);
        let others =
            held.iter().chain(&fading).map(|key| (Digest(key.check_value()), key)).filter(|(check, _)| *check != known.current.check);
        let others = others.map(|(check, key)| (version_of(check), Arc::clone(key))).collect();
        Ok(Self { ring: Ring::new((known.current.version, current), others), held, fading, known })
    }
}

impl Vault {
    /// Finds out which of the `held` keys count, and makes the installation's own key if there is none. Refuses keys that
    /// are not those that the state was sealed with, before anything is written with them.
    pub(super) async fn of(store: &dyn Store, held: HeldKeys) -> Result<Self, Error> {
        for _ in 0..ROUNDS {
            let known = read_or_begin(store, &held).await?;
            let keys = Keys::fit(held.clone(), Vec::new(), known)?;
            match value(store, &keys.ring, INSTALLATION_KEY).await {
                Ok(secret) => return Ok(Self { own: InstallationKey::new(&secret)?, keys: ArcSwap::from_pointee(keys) }),
                // A rotation has begun in this moment.
                Err(ValueError::Store(store::Error::OldKey)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Conflict)
    }

    /// The storage keys, as they are known now.
    pub(super) fn keys(&self) -> Arc<Keys> {
        self.keys.load_full()
    }

    /// Reads again which storage key counts.
    pub(super) async fn read_again(&self, store: &dyn Store) -> Result<Arc<Keys>, Error> {
        self.take(store, self.keys().held.clone()).await
    }

    /// Holds other keys from now on. An error: they do not fit the state, and nothing has changed.
    pub(super) async fn take(&self, store: &dyn Store, held: HeldKeys) -> Result<Arc<Keys>, Error> {
        let bytes = store.meta(STORAGE_KEYS).await?.ok_or_else(|| Error::Internal("the state says nothing of its key".to_owned()))?;
        let before = self.keys();
        let fading = if before.held.checks() == held.checks() {
            before.fading.clone()
        } else {
            before.held.iter().filter(|key| held.find(&Digest(key.check_value())).is_none()).map(Arc::clone).collect()
        };
        let keys = Arc::new(Keys::fit(held, fading, StorageKeys::decode(&bytes)?)?);
        self.keys.store(Arc::clone(&keys));
        Ok(keys)
    }

    /// Seals `plain` for `purpose`. `owner` is the identity of the record that will hold it.
    pub(super) fn seal(&self, purpose: Purpose, owner: &[u8], plain: &[u8]) -> Sealed {
        if purpose.is_wrapping() { self.keys.load().ring.seal(purpose, owner, plain) } else { self.own.seal(purpose, owner, plain) }
    }

    /// Opens what [`Vault::seal`] sealed for the same purpose and owner.
    pub(super) fn open(&self, purpose: Purpose, owner: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, seal::Error> {
        if purpose.is_wrapping() { self.keys.load().ring.open(purpose, owner, sealed) } else { self.own.open(purpose, owner, sealed) }
    }

    /// HMAC-SHA-256 of `data` under a key of the installation and the label.
    pub(super) fn hmac(&self, label: &str, data: &[u8]) -> Digest {
        self.own.hmac(label, data)
    }

    /// A new data key for `user`, wrapped for the user's record.
    pub(super) fn new_data_key(&self, user: UserId) -> Sealed {
        self.keys.load().ring.new_data_key(user)
    }

    /// The user's data key out of the user's record.
    pub(super) fn data_key(&self, user: UserId, wrapped: &Sealed) -> Result<DataKey, seal::Error> {
        self.keys.load().ring.data_key(user, wrapped)
    }

    /// The version that what is wrapped from now on bears.
    pub(super) fn version(&self) -> u8 {
        self.keys.load().ring.version()
    }
}

/// Whether these keys are those that `store` was sealed with. False also where it says nothing. [`Error::Keys`]: its
/// storage key is being rotated.
pub async fn fits(store: &dyn Store, held: &HeldKeys) -> Result<bool, Error> {
    let Some(bytes) = store.meta(STORAGE_KEYS).await? else { return Ok(false) };
    let known = StorageKeys::decode(&bytes)?;
    if known.before.is_some() {
        let text = "a rotation of the storage key is under way: finish it with `nullpass key rotate --storage` first";
        return Err(Error::Keys(text.to_owned()));
    }
    Ok(held.find(&known.current.check).is_some())
}

/// What the state says of its keys; one that says nothing begins with the first that is held.
async fn read_or_begin(store: &dyn Store, held: &HeldKeys) -> Result<StorageKeys, Error> {
    if let Some(bytes) = store.meta(STORAGE_KEYS).await? {
        return Ok(StorageKeys::decode(&bytes)?);
    }
    let first = held.first().ok_or_else(|| Error::Internal("no storage key".to_owned()))?;
    let keys = StorageKeys::first(Digest(first.check_value()));
    if store.swap_meta(STORAGE_KEYS, None, Some(&keys.encode()?)).await? {
        return Ok(keys);
    }
    let bytes = store.meta(STORAGE_KEYS).await?.ok_or(Error::Conflict)?;
    Ok(StorageKeys::decode(&bytes)?)
}

/// Why a wrapped value could not be read or made.
enum ValueError {
    Store(store::Error),
    Seal(&'static str, seal::Error),
}

impl From<store::Error> for ValueError {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<ValueError> for Error {
    fn from(error: ValueError) -> Self {
        match error {
            ValueError::Store(error) => error.into(),
            ValueError::Seal(name, error) => Self::Internal(format!("{name}: {error}")),
        }
    }
}

/// 32 random bytes that belong to the installation, wrapped by the storage key; made if there are none. `name` is one of
/// `store::WRAPPED_VALUES`, or a rotation would forget it.
async fn value(store: &dyn Store, ring: &Ring, name: &'static str) -> Result<Zeroizing<Vec<u8>>, ValueError> {
    loop {
        if let Some(found) = store.meta(name).await? {
            return ring.open(Purpose::Value, name.as_bytes(), &Sealed(found)).map_err(|error| ValueError::Seal(name, error));
        }
        let sealed = ring.seal(Purpose::Value, name.as_bytes(), InstallationKey::new_secret().as_slice());
        // Whoever was first has made it: it is read in the next round.
        let _made = store.swap_meta(name, None, Some(&sealed.0)).await?;
    }
}
