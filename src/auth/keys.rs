//! The signing keys and the check that the storage key is the right one.

use super::{Error, Settings};
use crate::clock::Timestamp;
use crate::config::Algorithm;
use crate::crypto::seal::{Purpose, StorageKey};
use crate::crypto::token::{KeyMaterial, Keyring, SigningKeyPair};
use crate::model::{Kid, Secret};
use crate::store::{SigningKeyRecord, Store};

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

/// Reads the signing keys, making those that are missing: one of the configured algorithm, and an asymmetric one for
/// assertions and the JWKS. A change of `tokens.algorithm` is a rotation: the keys before go on verifying.
pub(super) async fn load(store: &dyn Store, storage_key: &StorageKey, settings: &Settings, now: Timestamp) -> Result<Keyring, Error> {
    let active = settings.tokens.algorithm;
    let mut records = store.signing_keys().await?;
    let mut wanted = vec![active];
    if active == Algorithm::HS256 {
        wanted.push(Algorithm::EdDSA);
    }
    let mut made = false;
    for algorithm in wanted.iter().copied() {
        if !records.iter().any(|record| record.algorithm == algorithm && record.retired_at.is_none()) {
            let record = make(storage_key, algorithm, now)?;
            tracing::info!(kid = %record.kid, ?algorithm, "made a signing key");
            store.insert_signing_key(&record).await?;
            made = true;
        }
    }
    let replaced: Vec<Kid> = records
        .iter()
        .filter(|record| record.retired_at.is_none() && !wanted.contains(&record.algorithm))
        .map(|record| record.kid.clone())
        .collect();
    if !replaced.is_empty() {
        store.retire_signing_keys(&replaced, now).await?;
    }
    if made || !replaced.is_empty() {
        records = store.signing_keys().await?;
    }
    let keys = records.into_iter().map(|record| open(storage_key, record)).collect::<Result<Vec<_>, Error>>()?;
    let tokens = &settings.tokens;
    Keyring::new(keys, active, settings.issuer.clone(), tokens.audience.clone(), tokens.leeway)
        .map_err(|error| Error::Internal(error.to_string()))
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
