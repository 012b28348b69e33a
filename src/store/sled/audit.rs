//! The audit log. Keys are the time and the event's identifier with every bit inverted, so that the newest comes first
//! and a walk forwards is a walk back in time.

use std::ops::Bound;

use ::sled::{IVec, Tree};

use super::{AuditQuery, BATCH, Changes, Error, Inner, Writer, exists, load, open, pair, record};
use crate::clock::Timestamp;
use crate::model::AuditEvent;

pub(super) fn append(writer: &Writer<'_>, event: &AuditEvent) -> Result<(), Error> {
    let (key, encoded) = (key(event), record::encode(event)?);
    if exists(&writer.trees.audit, &key)? {
        return Err(Error::Conflict);
    }
    let mut changes = Changes::new();
    put(writer, &mut changes, event, encoded);
    writer.commit(&changes)
}

/// Adds the writing of an event to `changes`.
pub(super) fn put<'a>(writer: &'a Writer<'_>, changes: &mut Changes<'a>, event: &AuditEvent, encoded: Vec<u8>) {
    let key = key(event);
    changes.put(&writer.trees.audit, &key, encoded);
    if let Some(user) = event.user {
        changes.put(&writer.trees.audit_by_user, &pair(user.as_bytes(), &key), &[]);
    }
}

pub(super) fn list(inner: &Inner, query: &AuditQuery) -> Result<Vec<AuditEvent>, Error> {
    let trees = &inner.trees;
    // The last key that is not before `since`: its time with the least identifier, inverted.
    let end = query.since.map_or_else(|| vec![0xff; 24], |since| inverted(since, [0; 16]).to_vec());
    let events: Box<dyn Iterator<Item = Result<Option<AuditEvent>, Error>>> = match query.user {
        None => Box::new(range(&trees.audit, Vec::new(), end).map(|entry| entry.and_then(|(_, value)| record::decode(&value).map(Some)))),
        Some(user) => {
            let keys = range(&trees.audit_by_user, user.as_bytes().to_vec(), pair(user.as_bytes(), &end));
            // One that was purged since the index was read is passed over.
            Box::new(keys.map(|entry| entry.and_then(|(key, _)| load(&trees.audit, key.get(16..).unwrap_or_default()))))
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

/// Removes up to [`BATCH`] events before `before` and says how many.
pub(super) fn purge(writer: &Writer<'_>, before: Timestamp) -> Result<u64, Error> {
    let trees = &writer.trees;
    // The first key that is before `before`: the millisecond earlier with the greatest identifier, inverted.
    let Some(last) = before.as_millis().checked_sub(1) else { return Ok(0) };
    let first = inverted(Timestamp::from_millis(last), [0xff; 16]).to_vec();
    let mut changes = Changes::new();
    let mut count = 0;
    for entry in range(&trees.audit, first, vec![0xff; 24]).take(BATCH) {
        let (key, value) = entry?;
        let event: AuditEvent = record::decode(&value)?;
        changes.remove(&trees.audit, &key);
        if let Some(user) = event.user {
            changes.remove(&trees.audit_by_user, &pair(user.as_bytes(), &key));
        }
        count += 1;
    }
    writer.commit(&changes)?;
    Ok(count)
}

fn range(tree: &Tree, first: Vec<u8>, last: Vec<u8>) -> impl Iterator<Item = Result<(IVec, IVec), Error>> + use<> {
    tree.range((Bound::Included(first), Bound::Included(last))).map(|entry| entry.map_err(|error| open::explain(&error)))
}

fn key(event: &AuditEvent) -> [u8; 24] {
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
