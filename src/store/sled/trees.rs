//! The trees of the database and how they are read.

use std::ops::Bound;

use ::sled::{Db, IVec, Tree};
use serde::de::DeserializeOwned;

use super::{BATCH, open};
use crate::store::{Error, record};

/// What is stored, a tree a kind. Numbers in keys are big-endian, so that they sort.
#[derive(Debug)]
pub(super) struct Trees {
    /// User id -> `User`.
    pub(super) users: Tree,
    /// Address -> user id.
    pub(super) users_by_email: Tree,
    /// SHA-256 of the address of a deleted account -> when.
    pub(super) retired_emails: Tree,
    /// Session id -> `Session`.
    pub(super) sessions: Tree,
    /// User id, session id -> nothing.
    pub(super) sessions_by_user: Tree,
    /// Token id -> `ApiToken`.
    pub(super) api_tokens: Tree,
    /// User id, token id -> nothing.
    pub(super) api_tokens_by_user: Tree,
    /// User id -> the last step spent.
    pub(super) totp_steps: Tree,
    /// Purpose, digest -> until when.
    pub(super) spent: Tree,
    /// `LockKey` -> `Lock`.
    pub(super) locks: Tree,
    /// `Kid` -> `SigningKeyRecord`.
    pub(super) signing_keys: Tree,
    /// Name -> the value.
    pub(super) meta: Tree,
    /// Time and event id, inverted -> place and `AuditEvent`, see `audit.rs`.
    pub(super) audit: Tree,
    /// User id, then as above -> nothing.
    pub(super) audit_by_user: Tree,
    /// Writer -> `Chain`.
    pub(super) audit_chains: Tree,
    /// Writer, number -> time and event id, inverted.
    pub(super) audit_by_chain: Tree,
}

impl Trees {
    /// Opens all, making those that are missing.
    pub(super) fn open(db: &Db) -> Result<Self, ::sled::Error> {
        Ok(Self {
            users: db.open_tree("users")?,
            users_by_email: db.open_tree("users_by_email")?,
            retired_emails: db.open_tree("retired_emails")?,
            sessions: db.open_tree("sessions")?,
            sessions_by_user: db.open_tree("sessions_by_user")?,
            api_tokens: db.open_tree("api_tokens")?,
            api_tokens_by_user: db.open_tree("api_tokens_by_user")?,
            totp_steps: db.open_tree("totp_steps")?,
            spent: db.open_tree("spent")?,
            locks: db.open_tree("locks")?,
            signing_keys: db.open_tree("signing_keys")?,
            meta: db.open_tree("meta")?,
            audit: db.open_tree("audit")?,
            audit_by_user: db.open_tree("audit_by_user")?,
            audit_chains: db.open_tree("audit_chains")?,
            audit_by_chain: db.open_tree("audit_by_chain")?,
        })
    }
}

/// The bytes of `key`.
pub(super) fn bytes(tree: &Tree, key: &[u8]) -> Result<Option<IVec>, Error> {
    tree.get(key).map_err(|error| open::explain(&error))
}

/// The record of `key`.
pub(super) fn load<T: DeserializeOwned>(tree: &Tree, key: &[u8]) -> Result<Option<T>, Error> {
    bytes(tree, key)?.map(|bytes| record::decode(&bytes)).transpose()
}

/// Whether there is something at `key`.
pub(super) fn exists(tree: &Tree, key: &[u8]) -> Result<bool, Error> {
    tree.contains_key(key).map_err(|error| open::explain(&error))
}

/// The key of an entry of `second` in an index by `first`.
pub(super) fn pair(first: &[u8; 16], second: &[u8]) -> Vec<u8> {
    [first, second].concat()
}

/// What the index `tree` lists under `first`: the second halves of its keys.
pub(super) fn indexed<const N: usize>(tree: &Tree, first: &[u8; 16]) -> impl Iterator<Item = Result<[u8; N], Error>> {
    tree.scan_prefix(first).keys().map(|key| {
        let key = key.map_err(|error| open::explain(&error))?;
        key.get(16..).and_then(|rest| rest.try_into().ok()).ok_or_else(|| Error::Corrupt("index key of the wrong length".to_owned()))
    })
}

/// The keys and values after `after`, in order.
pub(super) fn entries_after<'a>(tree: &'a Tree, after: Option<&IVec>) -> impl Iterator<Item = Result<(IVec, IVec), Error>> + use<'a> {
    let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
    tree.range::<IVec, _>((from, Bound::Unbounded)).map(|entry| entry.map_err(|error| open::explain(&error)))
}

/// The next [`BATCH`] entries after `after`.
pub(super) fn batch(tree: &Tree, after: Option<&IVec>) -> Result<Vec<(IVec, IVec)>, Error> {
    entries_after(tree, after).take(BATCH).collect()
}
