//! The signing keys and the check that the storage key is the right one.

use std::time::Duration;

use super::{Error, Settings};
use crate::clock::Timestamp;
use crate::config::Algorithm;
use crate::crypto::seal::{Purpose, StorageKey};
use crate::crypto::token::{KeyMaterial, Keyring, SigningKeyPair};
use crate::model::{Kid, Secret};
use crate::store::{self, SigningKeyRecord, Store};

/// Where the storage key's check value is kept.
const CHECK_META: &str = "storage_key_check";

/// Refuses a storage key that is not the one the state was sealed with, before anything is written with it.
pub(super) async fn check_storage_key(store: &dyn Store, key: &StorageKey) -> Result<(), Error> {
    const WRONG: &str = "the master key is not the one that this data was sealed with: restore the right key \
                         (storage.master_key, master_key_file, or the file in the data folder); nothing was changed";
    let expected = key.check_value();
    if store.swap_meta(CHECK_META, None, Some(&expected)).await? {
        return Ok(());
    }
    match store.meta(CHECK_META).await? {
        Some(found) if crate::crypto::digest::same(&found, &expected) => Ok(()),
        _ => Err(Error::Internal(WRONG.to_owned())),
    }
}

/// Whether `store` says that it was sealed with this key. False also where it says nothing.
pub async fn storage_key_fits(store: &dyn Store, key: &StorageKey) -> Result<bool, store::Error> {
    Ok(store.meta(CHECK_META).await?.is_some_and(|found| crate::crypto::digest::same(&found, &key.check_value())))
}

/// Reads the signing keys, making those that are missing: one of the configured algorithm, and an asymmetric one for
/// assertions and the JWKS. A change of `tokens.algorithm` is a rotation: the keys before go on verifying.
pub(super) async fn load(store: &dyn Store, storage_key: &StorageKey, settings: &Settings, now: Timestamp) -> Result<Keyring, Error> {
    let active = settings.tokens.algorithm;
    let mut wanted = vec![active];
    if active == Algorithm::HS256 {
        wanted.push(Algorithm::EdDSA);
    }
    for algorithm in wanted.iter().copied() {
        make_if_missing(store, storage_key, algorithm, now).await?;
    }
    let records = store.signing_keys().await?;
    let replaced: Vec<Kid> = records
        .iter()
        .filter(|record| record.retired_at.is_none() && !wanted.contains(&record.algorithm))
        .map(|record| record.kid.clone())
        .collect();
    if !replaced.is_empty() {
        store.retire_signing_keys(&replaced, now).await?;
    }
    read(store, storage_key, settings).await
}

/// Reads the signing keys as they are. While processes with another `tokens.algorithm` are about to take over, the key
/// to sign with may be of theirs.
pub(super) async fn read(store: &dyn Store, storage_key: &StorageKey, settings: &Settings) -> Result<Keyring, Error> {
    let tokens = &settings.tokens;
    let records = store.signing_keys().await?;
    let signing = || records.iter().filter(|record| record.retired_at.is_none());
    let newest = signing().max_by_key(|record| record.created_at).map(|record| record.algorithm);
    let active = if signing().any(|record| record.algorithm == tokens.algorithm) { None } else { newest };
    let keys = records.into_iter().map(|record| open(storage_key, record)).collect::<Result<Vec<_>, Error>>()?;
    let active = active.unwrap_or(tokens.algorithm);
    Keyring::new(keys, active, settings.issuer.clone(), tokens.audience.clone(), tokens.leeway)
        .map_err(|error| Error::Internal(error.to_string()))
}

/// How long somebody who has said to be making a key is waited for, so to speak: then another one is made.
const CLAIM_LIFE: Duration = Duration::from_secs(60);

/// Makes a key of an algorithm that has none to sign with. Several processes that start at once end with the same one:
/// it is first written down as a claim, which only one of them can do, and whoever finds a claim finishes it.
async fn make_if_missing(store: &dyn Store, storage_key: &StorageKey, algorithm: Algorithm, now: Timestamp) -> Result<(), Error> {
    let claim = format!("new_signing_key:{algorithm:?}");
    let is_there = async || -> Result<bool, Error> {
        let records = store.signing_keys().await?;
        Ok(records.iter().any(|record| record.algorithm == algorithm && record.retired_at.is_none()))
    };
    while !is_there().await? {
        let found = store.meta(&claim).await?;
        let begun: Option<SigningKeyRecord> = found.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok());
        let record = match begun {
            Some(record) if record.algorithm == algorithm && now.since(record.created_at) < CLAIM_LIFE => record,
            _ => make(storage_key, algorithm, now)?,
        };
        let bytes = serde_json::to_vec(&record).map_err(|error| Error::Internal(error.to_string()))?;
        if found.as_ref() != Some(&bytes) && !store.swap_meta(&claim, found.as_deref(), Some(&bytes)).await? {
            continue;
        }
        // Somebody may have finished between the look and the claim.
        if !is_there().await? {
            store.insert_signing_key(&record).await?;
            tracing::info!(kid = %record.kid, ?algorithm, "made a signing key");
        }
        // Who finds it gone has no more to do about it than who removed it.
        let _removed = store.swap_meta(&claim, Some(&bytes), None).await?;
    }
    Ok(())
}

fn make(storage_key: &StorageKey, algorithm: Algorithm, now: Timestamp) -> Result<SigningKeyRecord, Error> {
    let pair = SigningKeyPair::generate(algorithm, now).map_err(|error| Error::Internal(error.to_string()))?;
    let private = storage_key.seal(Purpose::SigningKey, &owner(&pair.kid, algorithm), pair.private.expose());
    Ok(SigningKeyRecord { private, kid: pair.kid, algorithm, public_jwk: pair.public_jwk, created_at: now, retired_at: None })
}

fn open(storage_key: &StorageKey, record: SigningKeyRecord) -> Result<KeyMaterial, Error> {
    let private = storage_key.open(Purpose::SigningKey, &owner(&record.kid, record.algorithm), &record.private)?;
    Ok(KeyMaterial {
        kid: record.kid,
        algorithm: record.algorithm,
        private: Secret::new(private.to_vec()),
        public_jwk: record.public_jwk,
        created_at: record.created_at,
        retired_at: record.retired_at,
    })
}

/// A key is sealed with its name and its algorithm, so that neither can be swapped in the store.
fn owner(kid: &Kid, algorithm: Algorithm) -> Vec<u8> {
    format!("{kid} {algorithm:?}").into_bytes()
}
