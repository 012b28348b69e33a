//! The signing keys: made when there are none, rotated, and removed when the last token that they signed has run out.

use std::time::Duration;

use super::audit::Event;
use super::vault::Vault;
use super::{Auth, Client, Error, Settings};
use crate::clock::Timestamp;
use crate::config::Algorithm;
use crate::crypto::seal::Purpose;
use crate::crypto::token::{AssertionClaims, KeyMaterial, Keyring, SigningKeyPair};
use crate::model::{Action, Kid, Secret};
use crate::store::{self, SigningKeyRecord, Store};

/// The most keys that may verify at a time: somebody who rotates every few minutes must not make every token's
/// verification, and everybody's JWK set, longer and longer.
const MAX_KEYS: usize = 64;

/// How much longer a replaced key verifies than its last token can be good: a process that heard of the rotation late
/// signed with it a little longer, and clocks differ.
const SLACK: Duration = Duration::from_secs(600);

/// What a signing key is for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyStatus {
    /// New tokens are signed with it, or assertions are.
    Signing,
    /// It was replaced; the last token that it signed has run out then, and it is removed.
    Verifying(Timestamp),
}

/// A signing key, without the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyView {
    /// Its name in tokens.
    pub kid: Kid,
    /// The one algorithm it is used with.
    pub algorithm: Algorithm,
    /// When it was made.
    pub created_at: Timestamp,
    /// What it is for now.
    pub status: KeyStatus,
}

impl Auth {
    /// The public keys, as a JWK set (RFC 7517).
    pub fn jwks(&self) -> serde_json::Value {
        self.keyring.load().jwks()
    }

    /// Signs the statement that an upstream can verify (`[identity] assertion`).
    pub fn assertion(&self, claims: &AssertionClaims) -> Result<Secret<String>, Error> {
        self.keyring.load().sign_assertion(claims).map_err(|error| Error::Internal(error.to_string()))
    }

    /// The signing keys, newest first.
    pub async fn signing_keys(&self) -> Result<Vec<KeyView>, Error> {
        let records = self.store.signing_keys().await?;
        Ok(records.iter().rev().map(|record| self.view(record)).collect())
    }

    /// Makes a new key for each algorithm that is signed with; the keys before verify what they signed as long as that is
    /// good. From the return on this process signs with the new ones. [`Error::Keys`]: there are too many.
    pub async fn rotate_signing_keys(&self, actor: &str, now: Timestamp) -> Result<Vec<KeyView>, Error> {
        let _one = self.rotating.lock().await;
        let records = self.store.signing_keys().await?;
        let algorithms = signing_algorithms(&records);
        if records.len() + algorithms.len() > MAX_KEYS {
            let text = format!("{} keys still verify tokens that they signed: rotate again when some have run out", records.len());
            return Err(Error::Keys(text));
        }
        let life = self.settings().tokens.ttl;
        let at = not_before(&records, now);
        // Making an RS256 key keeps a core busy for a while.
        let made = self.tasks.spawn_blocking(move || {
            algorithms.into_iter().map(|algorithm| SigningKeyPair::generate(algorithm, at)).collect::<Result<Vec<_>, _>>()
        });
        let made = made.await.map_err(|error| Error::Internal(error.to_string()))?;
        let pairs = made.map_err(|error| Error::Internal(error.to_string()))?;
        let wrap = || pairs.iter().map(|pair| wrapped(&self.storage_key, pair, life)).collect::<Vec<_>>();
        let kids = pairs.iter().map(|pair| pair.kid.0.as_str()).collect::<Vec<_>>().join(" ");
        let event = Event::done(Action::SigningKeyRotate).by(actor).with("keys", kids);
        let recording = self.recording(&[event], None, &Client::local(), now)?;
        let keys = wrap();
        let mut done = recording.run(|store| store.rotate_signing_keys(&keys, now)).await;
        if matches!(done, Err(store::Error::OldKey)) {
            self.storage_key.read_again(&*self.store).await?;
            let keys = wrap();
            done = recording.run(|store| store.rotate_signing_keys(&keys, now)).await;
        }
        done?;
        self.read_keys_now().await?;
        for pair in &pairs {
            tracing::info!(kid = %pair.kid, algorithm = ?pair.algorithm, "signing with a new key from now on");
        }
        self.signing_keys().await
    }

    /// Removes the keys whose last token has run out. Returns how many.
    pub(super) async fn remove_old_keys(&self, now: Timestamp) -> Result<u64, Error> {
        let records = self.store.signing_keys().await?;
        let is_over = |record: &&SigningKeyRecord| match self.view(record).status {
            KeyStatus::Signing => false,
            KeyStatus::Verifying(until) => until <= now,
        };
        let over: Vec<Kid> = records.iter().filter(is_over).map(|record| record.kid.clone()).collect();
        if over.is_empty() {
            return Ok(0);
        }
        let removed = self.store.remove_signing_keys(&over).await?;
        self.read_keys_now().await?;
        tracing::info!(kids = ?over, "removed signing keys whose last token has run out");
        Ok(removed)
    }

    fn view(&self, record: &SigningKeyRecord) -> KeyView {
        let settings = self.settings();
        let life = record.token_life.map_or(settings.sessions.max_lifetime, Duration::from_secs);
        let until = |at: Timestamp| at.plus(life).plus(settings.tokens.leeway).plus(SLACK);
        let status = record.retired_at.map_or(KeyStatus::Signing, |at| KeyStatus::Verifying(until(at)));
        KeyView { kid: record.kid.clone(), algorithm: record.algorithm, created_at: record.created_at, status }
    }
}

/// The algorithms of the keys that sign.
fn signing_algorithms(records: &[SigningKeyRecord]) -> Vec<Algorithm> {
    let mut algorithms = Vec::new();
    for record in records.iter().filter(|record| record.retired_at.is_none()) {
        if !algorithms.contains(&record.algorithm) {
            algorithms.push(record.algorithm);
        }
    }
    algorithms
}

/// When a key that is made `now` is said to be made: after all others, also where the clock that made those is ahead, for
/// the newest one signs.
fn not_before(records: &[SigningKeyRecord], now: Timestamp) -> Timestamp {
    let newest = records.iter().map(|record| record.created_at).max();
    newest.map_or(now, |newest| now.max(newest.plus(Duration::from_millis(1))))
}

/// Reads the signing keys, making those that are missing: one of the configured algorithm, and an asymmetric one for
/// assertions and the JWKS. A change of `tokens.algorithm` is a rotation, and so is a longer `tokens.ttl`: the keys before
/// go on verifying.
pub(super) async fn load(store: &dyn Store, vault: &Vault, settings: &Settings, now: Timestamp) -> Result<Keyring, Error> {
    let active = settings.tokens.algorithm;
    let mut wanted = vec![active];
    if active == Algorithm::HS256 {
        wanted.push(Algorithm::EdDSA);
    }
    for algorithm in wanted.iter().copied() {
        make_if_missing(store, vault, algorithm, settings.tokens.ttl, now).await?;
    }
    let records = store.signing_keys().await?;
    // Oldest first.
    let signs = |record: &SigningKeyRecord| {
        let newest = records.iter().rev().find(|other| other.algorithm == record.algorithm && other.retired_at.is_none());
        wanted.contains(&record.algorithm) && newest.is_some_and(|newest| newest.kid == record.kid)
    };
    let replaced: Vec<Kid> =
        records.iter().filter(|record| record.retired_at.is_none() && !signs(record)).map(|record| record.kid.clone()).collect();
    if !replaced.is_empty() {
        store.retire_signing_keys(&replaced, now).await?;
    }
    read(store, vault, settings).await
}

/// Reads the signing keys as they are. While processes with another `tokens.algorithm` are about to take over, the key
/// to sign with may be of theirs.
pub(super) async fn read(store: &dyn Store, vault: &Vault, settings: &Settings) -> Result<Keyring, Error> {
    let tokens = &settings.tokens;
    let records = store.signing_keys().await?;
    let signing = || records.iter().filter(|record| record.retired_at.is_none());
    let newest = signing().max_by_key(|record| record.created_at).map(|record| record.algorithm);
    let active = if signing().any(|record| record.algorithm == tokens.algorithm) { None } else { newest };
    let keys = records.into_iter().map(|record| open(vault, record)).collect::<Result<Vec<_>, Error>>()?;
    let active = active.unwrap_or(tokens.algorithm);
    Keyring::new(keys, active, settings.issuer.clone(), tokens.audience.clone(), tokens.leeway)
        .map_err(|error| Error::Internal(error.to_string()))
}

/// How long somebody who has said to be making a key is waited for, so to speak: then another one is made.
const CLAIM_LIFE: Duration = Duration::from_secs(60);

/// Makes a key of an algorithm that has none to sign with, or none for tokens that live for `life`. Several processes that
/// start at once end with the same one: it is first written down as a claim, which only one of them can do, and whoever
/// finds a claim finishes it.
async fn make_if_missing(store: &dyn Store, vault: &Vault, algorithm: Algorithm, life: Duration, now: Timestamp) -> Result<(), Error> {
    let claim = format!("new_signing_key:{algorithm:?}");
    let suits = |record: &SigningKeyRecord| {
        record.algorithm == algorithm && record.token_life.is_none_or(|known| Duration::from_secs(known) >= life)
    };
    let is_there = |records: &[SigningKeyRecord]| records.iter().any(|record| suits(record) && record.retired_at.is_none());
    loop {
        let records = store.signing_keys().await?;
        if is_there(&records) {
            return Ok(());
        }
        let found = store.meta(&claim).await?;
        let begun: Option<SigningKeyRecord> = found.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok());
        let is_good = |record: &SigningKeyRecord| {
            suits(record)
                && now.since(record.created_at) < CLAIM_LIFE
                && record.private.0.first() == Some(&vault.version())
                && records.iter().all(|other| other.kid != record.kid)
        };
        let record = match begun {
            Some(record) if is_good(&record) => record,
            Some(_) | None => {
                let pair = SigningKeyPair::generate(algorithm, not_before(&records, now));
                wrapped(vault, &pair.map_err(|error| Error::Internal(error.to_string()))?, life)
            }
        };
        let bytes = serde_json::to_vec(&record).map_err(|error| Error::Internal(error.to_string()))?;
        if found.as_ref() != Some(&bytes) && !store.swap_meta(&claim, found.as_deref(), Some(&bytes)).await? {
            continue;
        }
        // Somebody may have finished between the look and the claim.
        if !is_there(&store.signing_keys().await?) {
            match store.insert_signing_key(&record).await {
                Ok(()) => tracing::info!(kid = %record.kid, ?algorithm, "made a signing key"),
                // A rotation of the storage key has begun: the next round makes one that the new one wraps.
                Err(store::Error::OldKey) => drop(vault.read_again(store).await?),
                Err(error) => return Err(error.into()),
            }
        }
        // Who finds it gone has no more to do about it than who removed it.
        let _removed = store.swap_meta(&claim, Some(&bytes), None).await?;
    }
}

fn wrapped(vault: &Vault, pair: &SigningKeyPair, life: Duration) -> SigningKeyRecord {
    SigningKeyRecord {
        private: vault.seal(Purpose::SigningKey, &owner(&pair.kid, pair.algorithm), pair.private.expose()),
        kid: pair.kid.clone(),
        algorithm: pair.algorithm,
        public_jwk: pair.public_jwk.clone(),
        created_at: pair.created_at,
        retired_at: None,
        token_life: Some(life.as_secs()),
    }
}

fn open(vault: &Vault, record: SigningKeyRecord) -> Result<KeyMaterial, Error> {
    let private = vault.open(Purpose::SigningKey, &owner(&record.kid, record.algorithm), &record.private)?;
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
pub(super) fn owner(kid: &Kid, algorithm: Algorithm) -> Vec<u8> {
    format!("{kid} {algorithm:?}").into_bytes()
}
