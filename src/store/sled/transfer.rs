//! A whole state in and out. Going out it is read tree by tree in the order of the keys; the folder's lock keeps others
//! away meanwhile, so that is one moment. Coming in, records are written with their indexes as everywhere else, only
//! without asking what was there.

use std::sync::atomic::Ordering;

use ::sled::{IVec, Tree};
use async_trait::async_trait;

use super::change::Pick;
use super::{Changes, Error, SledStore, Writer, audit, batch, chain, exists, keys, load, locks, pair, record, spent};
use crate::model::{Digest, Session, User, UserId};
use crate::store::lock_key::decoded;
use crate::store::transfer::{BATCH, Export, Item, Kind, MARKER, Transfer};

/// Items written together: everybody waits for so long.
const CHUNK: usize = 200;

#[async_trait]
impl Transfer for SledStore {
    async fn others(&self) -> Result<u64, Error> {
        Ok(0)
    }

    async fn export(&self) -> Result<Box<dyn Export>, Error> {
        Ok(Box::new(Reading { store: self.clone(), kind: Some(Kind::Meta), after: None }))
    }

    async fn import(&self, marker: &[u8], items: &[Item]) -> Result<(), Error> {
        // A kind at a time, since what belongs to an account looks for it in the store.
        for chunk in items.chunk_by(|a, b| a.kind() == b.kind()).flat_map(|same| same.chunks(CHUNK)) {
            let (marker, chunk) = (marker.to_vec(), chunk.to_vec());
            self.write_behind(move |writer| {
                require_marker(writer, &marker)?;
                import(writer, &chunk)
            })
            .await?;
        }
        // One flush for all of it.
        let marker = marker.to_vec();
        self.write(move |writer| require_marker(writer, &marker)).await
    }

    async fn discard_import(&self, marker: &[u8]) -> Result<(), Error> {
        // Indexes last: what they list may be gone, what they do not list may not be there.
        let trees: [Pick; 16] = [
            |trees| &trees.meta,
            |trees| &trees.signing_keys,
            |trees| &trees.retired_emails,
            |trees| &trees.sessions,
            |trees| &trees.api_tokens,
            |trees| &trees.users,
            |trees| &trees.totp_steps,
            |trees| &trees.locks,
            |trees| &trees.spent,
            |trees| &trees.audit,
            |trees| &trees.audit_chains,
            |trees| &trees.users_by_email,
            |trees| &trees.sessions_by_user,
            |trees| &trees.api_tokens_by_user,
            |trees| &trees.audit_by_user,
            |trees| &trees.audit_by_chain,
        ];
        for tree in trees {
            loop {
                let marker = marker.to_vec();
                let some = self.write_behind(move |writer| {
                    require_marker(writer, &marker)?;
                    empty(writer, tree(&writer.trees))
                });
                if !some.await? {
                    break;
                }
            }
        }
        let marker = marker.to_vec();
        self.write(move |writer| {
            require_marker(writer, &marker)?;
            writer.lock_count.store(writer.trees.locks.len(), Ordering::Relaxed);
            Ok(())
        })
        .await
    }
}

/// How far a state was read.
#[derive(Debug)]
struct Reading {
    store: SledStore,
    /// `None`: to the end.
    kind: Option<Kind>,
    after: Option<IVec>,
}

#[async_trait]
impl Export for Reading {
    async fn next(&mut self) -> Result<Vec<Item>, Error> {
        while let Some(kind) = self.kind {
            let after = self.after.take();
            let (items, last) = self
                .store
                .read(move |inner| {
                    let trees = &inner.trees;
                    let tree = match kind {
                        Kind::Meta => &trees.meta,
                        Kind::SigningKey => &trees.signing_keys,
                        Kind::RetiredAddress => &trees.retired_emails,
                        Kind::User => &trees.users,
                        Kind::TotpStep => &trees.totp_steps,
                        Kind::Session => &trees.sessions,
                        Kind::ApiToken => &trees.api_tokens,
                        Kind::Lock => &trees.locks,
                        Kind::Spent => &trees.spent,
                        Kind::AuditEvent => &trees.audit,
                        Kind::AuditChain => &trees.audit_chains,
                    };
                    let entries: Vec<(IVec, IVec)> = batch(tree, after.as_ref())?.into_iter().take(BATCH).collect();
                    let last = entries.last().map(|(key, _)| key.clone());
                    let is_state = |(key, _): &&(IVec, IVec)| kind != Kind::Meta || **key != *MARKER.as_bytes();
                    let items = entries.iter().filter(is_state).map(|(key, value)| read(kind, key, value));
                    Ok((items.collect::<Result<Vec<Item>, Error>>()?, last))
                })
                .await?;
            match last {
                Some(_) => self.after = last,
                None => self.kind = kind.next(),
            }
            if !items.is_empty() {
                return Ok(items);
            }
        }
        Ok(Vec::new())
    }
}

/// What is stored under `key`.
pub(in crate::store) fn read(kind: Kind, key: &[u8], value: &[u8]) -> Result<Item, Error> {
    let wrong = || Error::Corrupt(format!("{kind}: a key of the wrong length"));
    Ok(match kind {
        Kind::Meta => Item::Meta {
            name: String::from_utf8(key.to_vec()).map_err(|_| Error::Corrupt("a name that is no text".to_owned()))?,
            value: value.to_vec(),
        },
        Kind::SigningKey => Item::SigningKey(record::decode(value)?),
        Kind::RetiredAddress => {
            Item::RetiredAddress { digest: Digest(key.try_into().map_err(|_| wrong())?), at: spent::read_moment(value)? }
        }
        Kind::User => Item::User(record::decode(value)?),
        Kind::TotpStep => Item::TotpStep { user: UserId::from_bytes(key.try_into().map_err(|_| wrong())?), step: spent::read_step(value)? },
        Kind::Session => Item::Session(record::decode(value)?),
        Kind::ApiToken => Item::ApiToken(record::decode(value)?),
        Kind::Lock => Item::Lock { key: decoded(key)?, lock: record::decode(value)? },
        Kind::Spent => {
            let (purpose, digest) = spent::named(key)?;
            Item::Spent { purpose, digest, until: spent::read_moment(value)? }
        }
        Kind::AuditEvent => Item::AuditEvent(audit::decode(value)?),
        Kind::AuditChain => Item::AuditChain(record::decode(value)?),
    })
}

/// The store is one that is being imported into, and by whom it says.
fn require_marker(writer: &Writer<'_>, marker: &[u8]) -> Result<(), Error> {
    if keys::meta(writer, MARKER)?.as_deref() == Some(marker) { Ok(()) } else { Err(Error::Stale) }
}

fn import(writer: &Writer<'_>, items: &[Item]) -> Result<(), Error> {
    let trees = &writer.trees;
    let mut changes = Changes::new();
    let mut counted = Vec::new();
    for item in items {
        match item {
            Item::Meta { name, .. } if name == MARKER => {
                return Err(Error::Corrupt("the mark of an import is no part of a state".to_owned()));
            }
            Item::Meta { name, value } => changes.put(&trees.meta, name.as_bytes(), value.as_slice()),
            Item::SigningKey(key) => changes.put(&trees.signing_keys, key.kid.0.as_bytes(), record::encode(key)?),
            Item::RetiredAddress { digest, at } => changes.put(&trees.retired_emails, digest.as_bytes(), &spent::moment(*at)),
            Item::User(user) => {
                let id = user.id.as_bytes();
                // The one that this replaces may have had another address.
                if let Some(before) = load::<User>(&trees.users, id)? {
                    changes.remove(&trees.users_by_email, before.email.as_str().as_bytes());
                }
                changes.put(&trees.users, id, record::encode(user)?);
                changes.put(&trees.users_by_email, user.email.as_str().as_bytes(), id);
            }
            Item::TotpStep { user, step } => changes.put(&trees.totp_steps, user.as_bytes(), &step.to_be_bytes()),
            Item::Session(session) => {
                owned(writer, session.user)?;
                if let Some(before) = load::<Session>(&trees.sessions, session.id.as_bytes())? {
                    changes.remove(&trees.sessions_by_user, &pair(before.user.as_bytes(), session.id.as_bytes()));
                }
                changes.put(&trees.sessions, session.id.as_bytes(), record::encode(session)?);
                changes.put(&trees.sessions_by_user, &pair(session.user.as_bytes(), session.id.as_bytes()), &[]);
            }
            Item::ApiToken(token) => {
                owned(writer, token.user)?;
                changes.put(&trees.api_tokens, token.id.as_bytes(), record::encode(token)?);
                changes.put(&trees.api_tokens_by_user, &pair(token.user.as_bytes(), token.id.as_bytes()), &[]);
            }
            Item::Lock { key, lock } => counted.push((*key, *lock)),
            Item::Spent { purpose, digest, until } => {
                changes.put(&trees.spent, &spent::key(*purpose, *digest), &spent::moment(*until));
            }
            Item::AuditEvent(stored) => audit::put(writer, &mut changes, stored)?,
            Item::AuditChain(chain) => chain::put(writer, &mut changes, chain)?,
        }
    }
    writer.commit(&changes)?;
    locks::import(writer, &counted)
}

/// Nothing is stored of somebody who is not: it could never be ended.
fn owned(writer: &Writer<'_>, user: UserId) -> Result<(), Error> {
    if exists(&writer.trees.users, user.as_bytes())? {
        return Ok(());
    }
    Err(Error::Corrupt(format!("something belongs to {user}, and there is no such account")))
}

/// Removes some entries but the marker; whether there were any.
fn empty(writer: &Writer<'_>, tree: &Tree) -> Result<bool, Error> {
    let is_marker = |key: &IVec| tree.name() == writer.trees.meta.name() && **key == *MARKER.as_bytes();
    let mut changes = Changes::new();
    let mut found = false;
    for (key, _) in batch(tree, None)?.into_iter().filter(|(key, _)| !is_marker(key)) {
        changes.remove(tree, &key);
        found = true;
    }
    writer.commit(&changes)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::sled::open;

    /// Whoever adds a tree decides here whether it is state.
    #[test]
    fn every_tree_is_carried_or_follows_from_one_that_is() {
        let folder = tempfile::tempdir().unwrap();
        let inner = open::open(folder.path()).unwrap();
        let found: BTreeSet<String> = inner.db.tree_names().iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let carried = [
            "meta",
            "signing_keys",
            "retired_emails",
            "users",
            "totp_steps",
            "sessions",
            "api_tokens",
            "locks",
            "spent",
            "audit",
            "audit_chains",
        ];
        assert_eq!(carried.len(), Kind::ALL.len());
        let indexes = ["users_by_email", "sessions_by_user", "api_tokens_by_user", "audit_by_user", "audit_by_chain"];
        let known = carried.into_iter().chain(indexes).chain(["__sled__default"]);
        assert_eq!(found, known.map(str::to_owned).collect());
    }
}
