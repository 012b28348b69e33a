//! The audit log. Keys are the time and the event's identifier with every bit inverted, so that the newest comes first
//! and a walk forwards is a walk back in time. A value is an event's place in its chain, where it has one, and its record.

use std::ops::Bound;

use ::sled::{IVec, Tree};

use super::{AuditQuery, BATCH, Changes, Error, Inner, Writer, bytes, chain, exists, open, pair, record};
use crate::clock::Timestamp;
use crate::model::{AuditEvent, Digest};
use crate::store::chain::{Place, StoredEvent, WriterId};

/// Stands in front of a place. No record begins with it.
const PLACED: u8 = 0xff;
const _: () = assert!(PLACED != record::VERSION);

pub(super) fn append(writer: &Writer<'_>, event: &AuditEvent) -> Result<(), Error> {
    let mut changes = Changes::new();
    add(writer, &mut changes, std::slice::from_ref(event))?;
    writer.commit(&changes)
}

/// Adds the writing of new events, at the end of the chain, to `changes`. [`Error::Conflict`]: one is there already.
pub(super) fn add<'a>(writer: &'a Writer<'_>, changes: &mut Changes<'a>, events: &[AuditEvent]) -> Result<(), Error> {
    for event in events {
        if exists(&writer.trees.audit, &key(event))? {
            return Err(Error::Conflict);
        }
    }
    let Some(secret) = writer.chain_key.get() else {
        return events.iter().try_for_each(|event| put(writer, changes, &StoredEvent::unchained(event)?));
    };
    let mut chain = chain::own(writer, secret, events)?;
    for event in events {
        let record = record::encode(event)?;
        let place = secret.append(&mut chain, &record, event.at);
        put(writer, changes, &StoredEvent { place: Some(place), record })?;
    }
    chain::put(writer, changes, &chain)
}

/// Adds the writing of an event, as it is, to `changes`.
pub(super) fn put<'a>(writer: &'a Writer<'_>, changes: &mut Changes<'a>, stored: &StoredEvent) -> Result<(), Error> {
    let event = stored.event()?;
    record::fits(&stored.record)?;
    let key = key(&event);
    changes.put(&writer.trees.audit, &key, encode(stored));
    if let Some(user) = event.user {
        changes.put(&writer.trees.audit_by_user, &pair(user.as_bytes(), &key), &[]);
    }
    if let Some(place) = &stored.place {
        changes.put(&writer.trees.audit_by_chain, &chain::key(place.writer, place.seq), &key);
    }
    Ok(())
}

/// Adds the removal of an event to `changes`.
pub(super) fn remove<'a>(writer: &'a Writer<'_>, changes: &mut Changes<'a>, event: &AuditEvent) {
    let key = key(event);
    changes.remove(&writer.trees.audit, &key);
    if let Some(user) = event.user {
        changes.remove(&writer.trees.audit_by_user, &pair(user.as_bytes(), &key));
    }
}

pub(super) fn list(inner: &Inner, query: &AuditQuery) -> Result<Vec<AuditEvent>, Error> {
    let trees = &inner.trees;
    // The key after that of `before`: nothing is between a key and the same with a zero more.
    let start = query.before.map_or_else(Vec::new, |(at, id)| [&inverted(at, *id.as_bytes())[..], &[0]].concat());
    // The last key that is not before `since`: its time with the least identifier, inverted.
    let end = query.since.map_or_else(|| vec![0xff; 24], |since| inverted(since, [0; 16]).to_vec());
    if start > end {
        return Ok(Vec::new());
    }
    let events: Box<dyn Iterator<Item = Result<Option<AuditEvent>, Error>>> = match query.user {
        None => Box::new(range(&trees.audit, start, end).map(|entry| entry.and_then(|(_, value)| decode(&value)?.event().map(Some)))),
        Some(user) => {
            let keys = range(&trees.audit_by_user, pair(user.as_bytes(), &start), pair(user.as_bytes(), &end));
            // One that was purged since the index was read is passed over.
            Box::new(keys.map(|entry| {
                let (key, _) = entry?;
                let found = stored(inner, key.get(16..).unwrap_or_default())?;
                found.map(|stored| stored.event()).transpose()
            }))
        }
    };
    let mut found = Vec::new();
    let mut skip = query.offset;
    for event in events {
        if found.len() >= query.limit {
            break;
        }
        match event? {
            Some(event) if query.action.is_none_or(|action| event.action == action) => match skip.checked_sub(1) {
                Some(rest) => skip = rest,
                None => found.push(event),
            },
            Some(_) | None => {}
        }
    }
    Ok(found)
}

/// Removes up to [`BATCH`] events before `before` that stand in no chain, and says how many.
pub(super) fn purge(writer: &Writer<'_>, before: Timestamp) -> Result<u64, Error> {
    let trees = &writer.trees;
    // The first key that is before `before`: the millisecond earlier with the greatest identifier, inverted.
    let Some(last) = before.as_millis().checked_sub(1) else { return Ok(0) };
    let first = inverted(Timestamp::from_millis(last), [0xff; 16]).to_vec();
    let mut changes = Changes::new();
    let mut count = 0;
    for entry in range(&trees.audit, first, vec![0xff; 24]) {
        let stored = decode(&entry?.1)?;
        if stored.place.is_none() {
            remove(writer, &mut changes, &stored.event()?);
            count += 1;
        }
        if count >= BATCH {
            break;
        }
    }
    writer.commit(&changes)?;
    Ok(u64::try_from(count).unwrap_or(u64::MAX))
}

/// The event of this key.
pub(super) fn stored(inner: &Inner, key: &[u8]) -> Result<Option<StoredEvent>, Error> {
    bytes(&inner.trees.audit, key)?.map(|value| decode(&value)).transpose()
}

fn range(tree: &Tree, first: Vec<u8>, last: Vec<u8>) -> impl Iterator<Item = Result<(IVec, IVec), Error>> + use<> {
    tree.range((Bound::Included(first), Bound::Included(last))).map(|entry| entry.map_err(|error| open::explain(&error)))
}

fn encode(stored: &StoredEvent) -> Vec<u8> {
    let Some(Place { writer, seq, link }) = &stored.place else { return stored.record.clone() };
    [&[PLACED][..], &writer.0.to_be_bytes(), &seq.to_be_bytes(), link.as_bytes(), &stored.record].concat()
}

/// An event out of its value.
pub(super) fn decode(value: &[u8]) -> Result<StoredEvent, Error> {
    let Some(rest) = value.strip_prefix(&[PLACED]) else { return Ok(StoredEvent { place: None, record: value.to_vec() }) };
    let short = || Error::Corrupt("an event's place of the wrong length".to_owned());
    let (writer, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (seq, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (link, record) = rest.split_first_chunk().ok_or_else(short)?;
    let place = Place { writer: WriterId(u32::from_be_bytes(*writer)), seq: u64::from_be_bytes(*seq), link: Digest(*link) };
    Ok(StoredEvent { place: Some(place), record: record.to_vec() })
}

pub(super) fn key(event: &AuditEvent) -> [u8; 24] {
    inverted(event.at, *event.id.as_bytes())
}

/// Sorts against time, then against the identifier. The sign bit is flipped, so that times before 1970 sort as well.
fn inverted(at: Timestamp, id: [u8; 16]) -> [u8; 24] {
    let mut key = [0; 24];
    let at = (at.as_millis() ^ i64::MIN).to_be_bytes();
    for (to, from) in key.iter_mut().zip(at.into_iter().chain(id)) {
        *to = !from;
    }
    key
}
