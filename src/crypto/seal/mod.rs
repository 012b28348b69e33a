//! Sealing what is kept (contract, "At rest"): AES-256-GCM under keys that come from one master key.
//!
//! ```text
//! master key --HKDF--> one key per purpose (StorageKey)   wraps the signing keys, each user's random data key,
//!                                                         and the installation's own random key
//! a user's data key (DataKey)           --HKDF--> one key per purpose: addresses, TOTP secrets
//! the installation's (InstallationKey)  --HKDF--> one key per purpose: HMACs, what belongs to nobody
//! ```
//!
//! So another master key changes what is wrapped and nothing else: only that has to be wrapped anew ([`Ring`]), and what
//! is in browsers and in the audit log stays as it is.
//!
//! A user's data key dies with the user's record, and what it sealed with it. A sealed value is bound to its purpose,
//! its owner and its record as associated data: moved to another record or read for another purpose it does not open.
//! Read `master` for the key's file, `held` for the keys that a process has, `ring` for what happens while one master key replaces another.

mod held;
mod master;
mod ring;

use std::fmt;
use std::path::PathBuf;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::random;
use crate::model::{Digest, Sealed, UserId};

pub use held::HeldKeys;
pub use master::MasterKey;
pub use ring::Ring;

/// The version in front of what is sealed by a key that is never replaced, and by an installation's first storage key.
const VERSION: u8 = 1;

/// Bytes of a GCM nonce (NIST SP 800-38D: 96 bits need no further hashing).
const NONCE: usize = 12;

/// What a value is sealed for. Each has a key of its own; the names are part of the stored form and never change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// A user's data key, under the storage key.
    DataKey,
    /// A private signing key, under the storage key.
    SigningKey,
    /// The client's address and user agent in a session, under the user's data key.
    SessionClient,
    /// The client's address and user agent in an audit event, under the user's data key; under the installation's where
    /// there is no user.
    AuditClient,
    /// A TOTP secret, under the user's data key.
    Totp,
    /// A form that met an expired session and is carried through the sign-in page, under the installation's key.
    PendingPost,
    /// A random secret of the installation, under the storage key.
    Value,
}

impl Purpose {
    /// All of them.
    const ALL: [Self; 7] =
        [Self::DataKey, Self::SigningKey, Self::SessionClient, Self::AuditClient, Self::Totp, Self::PendingPost, Self::Value];

    /// Whether it is the storage key that seals this: then the rotation of the storage key has to wrap it anew, and it
    /// must be something that `store::Wrapped` names.
    pub const fn is_wrapping(self) -> bool {
        match self {
            Self::DataKey | Self::SigningKey | Self::Value => true,
            Self::SessionClient | Self::AuditClient | Self::Totp | Self::PendingPost => false,
        }
    }

    /// The name in derivations and associated data.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DataKey => "data-key",
            Self::SigningKey => "signing-key",
            Self::SessionClient => "session-client",
            Self::AuditClient => "audit-client",
            Self::Totp => "totp",
            Self::PendingPost => "pending-post",
            Self::Value => "value",
        }
    }
}

/// What the master key protects the installation with. Cheap to use: its keys are derived once, at construction.
pub struct StorageKey {
    keys: Keys,
    /// In the order of [`Purpose::ALL`].
    ciphers: [Aes256Gcm; Purpose::ALL.len()],
}

impl StorageKey {
    /// The keys that follow from `master`.
    pub fn new(master: &MasterKey) -> Self {
        Self::derive(b"nullpass storage key v1", master.as_bytes())
    }

    fn derive(salt: &[u8], secret: &[u8]) -> Self {
        let keys = Keys::new(salt, secret);
        let ciphers = Purpose::ALL.map(|purpose| keys.cipher(purpose));
        Self { keys, ciphers }
    }

    /// Seals `plain` for `purpose`. `owner` is the identity of the record that will hold it.
    pub fn seal(&self, purpose: Purpose, owner: &[u8], plain: &[u8]) -> Sealed {
        self.seal_as(VERSION, purpose, owner, plain)
    }

    /// The same as the storage key of this version.
    fn seal_as(&self, version: u8, purpose: Purpose, owner: &[u8], plain: &[u8]) -> Sealed {
        seal(self.cipher(purpose), version, &bound(version, purpose, &[owner]), plain)
    }

    /// Opens what [`StorageKey::seal`] sealed for the same purpose and owner.
    pub fn open(&self, purpose: Purpose, owner: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.open_as(VERSION, purpose, owner, sealed)
    }

    fn open_as(&self, version: u8, purpose: Purpose, owner: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
        open(self.cipher(purpose), version, &bound(version, purpose, &[owner]), sealed)
    }

    /// HMAC-SHA-256 of `data` under a key of the label's own (RFC 2104).
    pub fn hmac(&self, label: &str, data: &[u8]) -> Digest {
        self.keys.hmac(label, data)
    }

    /// A value that says which master key this is and nothing about it: kept in the store and compared at start, so
    /// that a wrong key is noticed before it is used.
    pub fn check_value(&self) -> [u8; 32] {
        *self.keys.derive(&[b"check"])
    }

    /// A new data key for `user`, wrapped for the user's record.
    pub fn new_data_key(&self, user: UserId) -> Sealed {
        self.seal(Purpose::DataKey, user.as_bytes(), Zeroizing::new(random::bytes::<32>()).as_slice())
    }

    /// The user's data key out of the user's record.
    pub fn data_key(&self, user: UserId, wrapped: &Sealed) -> Result<DataKey, Error> {
        DataKey::new(user, &self.open(Purpose::DataKey, user.as_bytes(), wrapped)?)
    }

    fn cipher(&self, purpose: Purpose) -> &Aes256Gcm {
        let [data_key, signing_key, session_client, audit_client, totp, pending_post, value] = &self.ciphers;
        match purpose {
            Purpose::DataKey => data_key,
            Purpose::SigningKey => signing_key,
            Purpose::SessionClient => session_client,
            Purpose::AuditClient => audit_client,
            Purpose::Totp => totp,
            Purpose::PendingPost => pending_post,
            Purpose::Value => value,
        }
    }
}

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageKey(..)")
    }
}

/// The installation's own key: random, wrapped by the storage key, and the same from the first start on, whatever becomes
/// of the master key. What it has made is in browsers and in the audit log, where nothing can be sealed anew.
pub struct InstallationKey(StorageKey);

impl InstallationKey {
    /// Random bytes for a new one.
    pub fn new_secret() -> Zeroizing<[u8; 32]> {
        Zeroizing::new(random::bytes())
    }

    /// The key that follows from its 32 random bytes. [`Error::Damaged`]: there are not as many.
    pub fn new(secret: &[u8]) -> Result<Self, Error> {
        if secret.len() == 32 { Ok(Self(StorageKey::derive(b"nullpass installation key v1", secret))) } else { Err(Error::Damaged) }
    }

    /// Seals `plain` for `purpose` and `owner`, as [`StorageKey::seal`] does.
    pub fn seal(&self, purpose: Purpose, owner: &[u8], plain: &[u8]) -> Sealed {
        self.0.seal(purpose, owner, plain)
    }

    /// Opens what [`InstallationKey::seal`] sealed for the same purpose and owner.
    pub fn open(&self, purpose: Purpose, owner: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.0.open(purpose, owner, sealed)
    }

    /// HMAC-SHA-256 of `data` under a key of the label's own (RFC 2104).
    pub fn hmac(&self, label: &str, data: &[u8]) -> Digest {
        self.0.hmac(label, data)
    }
}

impl fmt::Debug for InstallationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InstallationKey(..)")
    }
}

/// One user's key. Made for the moment it is needed, from the user's record, and dropped.
pub struct DataKey {
    user: UserId,
    keys: Keys,
}

impl DataKey {
    fn new(user: UserId, key: &[u8]) -> Result<Self, Error> {
        if key.len() == 32 { Ok(Self { user, keys: Keys::new(b"nullpass data key v1", key) }) } else { Err(Error::Damaged) }
    }

    /// Seals `plain` for `purpose`. `record` is the identity of the user's record that will hold it.
    pub fn seal(&self, purpose: Purpose, record: &[u8], plain: &[u8]) -> Sealed {
        seal(&self.keys.cipher(purpose), VERSION, &bound(VERSION, purpose, &[self.user.as_bytes(), record]), plain)
    }

    /// Opens what [`DataKey::seal`] sealed for the same user, purpose and record.
    pub fn open(&self, purpose: Purpose, record: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
        open(&self.keys.cipher(purpose), VERSION, &bound(VERSION, purpose, &[self.user.as_bytes(), record]), sealed)
    }

    /// HMAC-SHA-256 of `data` under a key of the user's and the label's own.
    pub fn hmac(&self, label: &str, data: &[u8]) -> Digest {
        self.keys.hmac(label, data)
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey(.. of {})", self.user)
    }
}

/// What keys are derived from (HKDF-SHA-256, RFC 5869), extracted once.
struct Keys(Hkdf<Sha256>);

impl Keys {
    fn new(salt: &[u8], secret: &[u8]) -> Self {
        Self(Hkdf::new(Some(salt), secret))
    }

    /// 32 bytes for a use. The first part names the kind of use and is a prefix of no other kind's name.
    #[expect(clippy::expect_used, reason = "HKDF-SHA-256 gives up to 8160 bytes, and this asks for 32")]
    fn derive(&self, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        self.0.expand_multi_info(info, key.as_mut_slice()).expect("32 bytes are not too many");
        key
    }

    fn cipher(&self, purpose: Purpose) -> Aes256Gcm {
        Aes256Gcm::new((&*self.derive(&[b"seal:", purpose.name().as_bytes()])).into())
    }

    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    fn hmac(&self, label: &str, data: &[u8]) -> Digest {
        let key = self.derive(&[b"hmac:", label.as_bytes()]);
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key.as_slice()).expect("any length will do");
        mac.update(data);
        Digest(mac.finalize().into_bytes().into())
    }
}

/// The associated data: version, purpose, NUL (which no purpose's name holds) and whose it is. A user's id has a fixed
/// length, so what follows it can't be mistaken for part of it.
fn bound(version: u8, purpose: Purpose, owner: &[&[u8]]) -> Vec<u8> {
    let mut bound = vec![version];
    bound.extend_from_slice(purpose.name().as_bytes());
    bound.push(0);
    for part in owner {
        bound.extend_from_slice(part);
    }
    bound
}

/// Version, nonce, ciphertext and tag.
///
/// The nonce is random: the count of values per derived key stays far below the 2^32 after which NIST SP 800-38D wants
/// another key.
#[expect(clippy::expect_used, reason = "AES-GCM refuses only more than 64 GiB, which no value here comes near")]
fn seal(cipher: &Aes256Gcm, version: u8, bound: &[u8], plain: &[u8]) -> Sealed {
    let nonce = random::bytes::<NONCE>();
    let secret = cipher.encrypt(&Nonce::from(nonce), Payload { msg: plain, aad: bound }).expect("the value fits into memory");
    let mut sealed = Vec::with_capacity(1 + NONCE + secret.len());
    sealed.push(version);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&secret);
    Sealed(sealed)
}

fn open(cipher: &Aes256Gcm, version: u8, bound: &[u8], sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (&found, rest) = sealed.0.split_first().ok_or(Error::Damaged)?;
    if found != version {
        return Err(Error::Version(found));
    }
    let (&nonce, secret) = rest.split_first_chunk::<NONCE>().ok_or(Error::Damaged)?;
    cipher.decrypt(&Nonce::from(nonce), Payload { msg: secret, aad: bound }).map(Zeroizing::new).map_err(|_| Error::Damaged)
}

/// Why there is no key, or a value does not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The master key is not 32 bytes, or not random.
    #[error("the master key {0}")]
    WeakKey(&'static str),
    /// The master key's file can't be read, made or understood. It is never replaced: with it goes what it sealed.
    #[error("the master key's file {path}: {problem}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A sealed value was changed, belongs to another record or purpose, or was sealed under another key.
    #[error("a sealed value does not open: it was changed, or sealed for something else or under another key")]
    Damaged,
    /// A sealed value bears a key version that there is no key of.
    #[error("a sealed value has key version {0}, of which there is no key here")]
    Version(u8),
}

#[cfg(test)]
mod tests;
