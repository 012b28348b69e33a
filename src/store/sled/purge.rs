//! Removing what has run out: found by reading, in batches, and looked at again by the writer that removes it.

use serde::Deserialize;

use super::change::Pick;
use super::{BATCH, Changes, Error, Purged, SledStore, Writer, audit, bytes, chain, entries_after, locks, record, sessions, spent, tokens};
use crate::clock::Timestamp;
use crate::model::{ApiTokenId, Lock, SessionId};
use crate::store::AuditLog as _;

/// Removed at once: everybody waits for so long.
const CHUNK: usize = 256;

/// What of a session or token says whether it has run out; the rest is not worth decoding.
#[derive(Deserialize)]
struct Expiry {
    expires_at: Option<Timestamp>,
}

pub(super) async fn purge(store: &SledStore, now: Timestamp, audit_before: Option<Timestamp>) -> Result<Purged, Error> {
    let mut purged = Purged::default();
    for keys in sweep(store, |trees| &trees.sessions, now, has_expired).await? {
        purged.sessions.extend(store.write_behind(move |writer| remove_sessions(writer, &keys, now)).await?);
    }
    for keys in sweep(store, |trees| &trees.api_tokens, now, has_expired).await? {
        purged.api_tokens.extend(store.write_behind(move |writer| remove_tokens(writer, &keys, now)).await?);
    }
    for keys in sweep(store, |trees| &trees.spent, now, spent::is_over).await? {
        purged.others += store.write_behind(move |writer| remove_spent(writer, &keys, now)).await?;
    }
    for keys in sweep(store, |trees| &trees.locks, now, |value, now| Ok(record::decode::<Lock>(value)?.is_stale(now))).await? {
        purged.others += store.write_behind(move |writer| locks::remove_stale(writer, &keys, now)).await?;
    }
    if let Some(before) = audit_before {
        for of in store.chains().await?.into_iter().map(|chain| chain.writer) {
            loop {
                let removed = store.write_behind(move |writer| chain::purge(writer, of, before, now)).await?;
                purged.others += removed;
                if removed == 0 {
                    break;
                }
            }
        }
        loop {
            let removed = store.write_behind(move |writer| audit::purge(writer, before)).await?;
            purged.others += removed;
            if removed == 0 {
                break;
            }
        }
    }
    // One flush for all of it.
    store.write(|_| Ok(())).await?;
    Ok(purged)
}

/// The keys of a tree whose values are `over`, in chunks for one writer each.
async fn sweep(
    store: &SledStore,
    tree: Pick,
    now: Timestamp,
    over: fn(&[u8], Timestamp) -> Result<bool, Error>,
) -> Result<Vec<Vec<Vec<u8>>>, Error> {
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let (mut found, last) = store
            .read(move |inner| {
                let mut found = Vec::new();
                let mut last = None;
                for entry in entries_after(tree(&inner.trees), after.as_ref()).take(BATCH) {
                    let (key, value) = entry?;
                    if over(&value, now)? {
                        found.push(key.to_vec());
                    }
                    last = Some(key);
                }
                Ok((found, last))
            })
            .await?;
        keys.append(&mut found);
        if last.is_none() {
            return Ok(keys.chunks(CHUNK).map(<[_]>::to_vec).collect());
        }
        after = last;
    }
}

fn has_expired(value: &[u8], now: Timestamp) -> Result<bool, Error> {
    Ok(record::decode::<Expiry>(value)?.expires_at.is_some_and(|at| at <= now))
}

fn remove_sessions(writer: &Writer<'_>, keys: &[Vec<u8>], now: Timestamp) -> Result<Vec<SessionId>, Error> {
    let mut changes = Changes::new();
    let mut removed = Vec::new();
    for id in ids(keys)?.map(SessionId::from_bytes) {
        if let Some(session) = sessions::get(writer, id)?.filter(|session| session.expires_at <= now) {
            sessions::remove(writer, &mut changes, session.user, id);
            removed.push(id);
        }
    }
    writer.commit(&changes)?;
    Ok(removed)
}

fn remove_tokens(writer: &Writer<'_>, keys: &[Vec<u8>], now: Timestamp) -> Result<Vec<ApiTokenId>, Error> {
    let mut changes = Changes::new();
    let mut removed = Vec::new();
    for id in ids(keys)?.map(ApiTokenId::from_bytes) {
        if let Some(token) = tokens::get(writer, id)?.filter(|token| token.expires_at.is_some_and(|at| at <= now)) {
            tokens::remove(writer, &mut changes, token.user, id);
            removed.push(id);
        }
    }
    writer.commit(&changes)?;
    Ok(removed)
}

fn remove_spent(writer: &Writer<'_>, keys: &[Vec<u8>], now: Timestamp) -> Result<u64, Error> {
    let tree = &writer.trees.spent;
    let mut changes = Changes::new();
    let mut removed = 0;
    for key in keys {
        if let Some(value) = bytes(tree, key)?
            && spent::is_over(&value, now)?
        {
            changes.remove(tree, key);
            removed += 1;
        }
    }
    writer.commit(&changes)?;
    Ok(removed)
}

fn ids(keys: &[Vec<u8>]) -> Result<impl Iterator<Item = [u8; 16]>, Error> {
    let ids: Result<Vec<[u8; 16]>, _> = keys.iter().map(|key| key.as_slice().try_into()).collect();
    ids.map(Vec::into_iter).map_err(|_| Error::Corrupt("an identifier of the wrong length".to_owned()))
}
