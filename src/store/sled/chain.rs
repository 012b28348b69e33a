//! The chains of the audit log. This folder's only writer continues the first; others came with a state from a database.

use std::sync::Arc;

use ::sled::IVec;
use async_trait::async_trait;

use super::{BATCH, Changes, Error, Inner, SledStore, Writer, audit, entries_after, exists, load, open, pair, record};
use crate::clock::Timestamp;
use crate::model::{AuditEvent, EventId};
use crate::store::Store;
use crate::store::chain::{AuditLog, Chain, ChainKey, Filed, StoredEvent, Walk, WriterId};

#[async_trait]
impl AuditLog for SledStore {
    fn set_chain_key(&self, key: ChainKey) {
        self.place.set_chain_key(key);
    }

    fn recording(&self, events: Vec<AuditEvent>) -> Arc<dyn Store> {
        Arc::new(Self { events: events.into(), ..self.clone() })
    }

    async fn chains(&self) -> Result<Vec<Chain>, Error> {
        self.read(all).await
    }

    async fn chained(&self, writer: WriterId, after: u64, limit: usize) -> Result<Vec<Filed>, Error> {
        self.read(move |inner| after_number(inner, writer, after).take(limit).map(|entry| filed(inner, entry?)).collect()).await
    }

    async fn unchained(&self, limit: usize) -> Result<Vec<EventId>, Error> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let (mut some, last) = self.read(move |inner| strays(inner, after.as_ref())).await?;
            found.append(&mut some);
            if found.len() >= limit || last.is_none() {
                found.truncate(limit);
                return Ok(found);
            }
            after = last;
        }
    }
}

pub(super) fn all(inner: &Inner) -> Result<Vec<Chain>, Error> {
    entries_after(&inner.trees.audit_chains, None).map(|entry| entry.and_then(|(_, value)| record::decode(&value))).collect()
}

/// The chain that this folder's writer continues, or begins with these events.
pub(super) fn own(inner: &Inner, key: &ChainKey, events: &[AuditEvent]) -> Result<Chain, Error> {
    let first = entries_after(&inner.trees.audit_chains, None).next();
    match first {
        Some(entry) => record::decode(&entry?.1),
        None => Ok(key.begin(WriterId::FIRST, events.first().map_or_else(Timestamp::default, |event| event.at))),
    }
}

/// Adds the writing of a chain's ends to `changes`.
pub(super) fn put<'a>(writer: &'a Writer<'_>, changes: &mut Changes<'a>, chain: &Chain) -> Result<(), Error> {
    changes.put(&writer.trees.audit_chains, &chain.writer.0.to_be_bytes(), record::encode(chain)?);
    Ok(())
}

/// The key of an event in the index by chain.
pub(super) fn key(writer: WriterId, seq: u64) -> [u8; 12] {
    let mut key = [0; 12];
    for (to, from) in key.iter_mut().zip(writer.0.to_be_bytes().into_iter().chain(seq.to_be_bytes())) {
        *to = from;
    }
    key
}

/// Removes up to [`BATCH`] of a chain's oldest events, as far as they are before `before`, and moves its base on. Says how
/// many.
pub(super) fn purge(writer: &Writer<'_>, of: WriterId, before: Timestamp, now: Timestamp) -> Result<u64, Error> {
    let Some(secret) = writer.chain_key.get() else { return Ok(0) };
    let Some(mut chain) = load::<Chain>(&writer.trees.audit_chains, &of.0.to_be_bytes())? else { return Ok(0) };
    let mut walk = Walk::begin(secret, &chain);
    let mut changes = Changes::new();
    let (mut last, mut count) = (None, 0);
    for entry in after_number(writer, of, chain.base.seq).take(BATCH) {
        let filed = filed(writer, entry?)?;
        if let Some(stored) = &filed.stored {
            let event = stored.event()?;
            if event.at >= before {
                break;
            }
            audit::remove(writer, &mut changes, &event);
            last = stored.place;
            count += 1;
        }
        walk = walk.and_then(|mut walk| walk.step(secret, of, &filed).map(|()| walk));
        changes.remove(&writer.trees.audit_by_chain, &key(of, filed.seq));
    }
    let Some(last) = last else { return Ok(0) };
    if let Err(fault) = walk {
        tracing::error!(writer = %of, %fault, "the audit log was tampered with, among events that have run out and are now removed");
    }
    secret.cut(&mut chain, &last, now);
    put(writer, &mut changes, &chain)?;
    writer.commit(&changes)?;
    Ok(count)
}

/// The numbers of a chain after this one, and the keys of their events.
fn after_number(inner: &Inner, writer: WriterId, after: u64) -> impl Iterator<Item = Result<(u64, IVec), Error>> + use<> {
    let range = key(writer, after.saturating_add(1))..=key(writer, u64::MAX);
    inner.trees.audit_by_chain.range(range).map(|entry| {
        let (key, value) = entry.map_err(|error| open::explain(&error))?;
        let seq = key.get(4..).and_then(|seq| seq.try_into().ok()).map(u64::from_be_bytes);
        Ok((seq.ok_or_else(|| Error::Corrupt("a chain's key of the wrong length".to_owned()))?, value))
    })
}

fn filed(inner: &Inner, (seq, key): (u64, IVec)) -> Result<Filed, Error> {
    let stored = audit::stored(inner, &key)?;
    let is_listed = match stored.as_ref().map(StoredEvent::event) {
        Some(Ok(event)) => {
            let by_user = |user: crate::model::UserId| exists(&inner.trees.audit_by_user, &pair(user.as_bytes(), &key));
            audit::key(&event) == *key && event.user.map_or(Ok(true), by_user)?
        }
        Some(Err(_)) | None => false,
    };
    Ok(Filed { seq, stored, is_listed })
}

/// Those of the next [`BATCH`] events that no chain names, and where the batch ends; `None`: there is nothing more.
fn strays(inner: &Inner, after: Option<&IVec>) -> Result<(Vec<EventId>, Option<IVec>), Error> {
    let mut found = Vec::new();
    let mut last = None;
    for entry in entries_after(&inner.trees.audit, after).take(BATCH) {
        let (at, value) = entry?;
        let place = audit::decode(&value)?.place;
        let named = match place {
            Some(place) => super::bytes(&inner.trees.audit_by_chain, &key(place.writer, place.seq))?,
            None => None,
        };
        // One that retention removed since it was read is no stray.
        if named.as_ref() != Some(&at) && exists(&inner.trees.audit, &at)? {
            let id = at.get(8..).and_then(|id| <[u8; 16]>::try_from(id).ok()).unwrap_or_default();
            found.push(EventId::from_bytes(id.map(|byte| !byte)));
        }
        last = Some(at);
    }
    Ok((found, last))
}
