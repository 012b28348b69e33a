//! What belongs to the installation: signing keys and small named values.

use std::collections::BTreeSet;

use super::{Changes, Error, Inner, SigningKeyRecord, Writer, bytes, entries_after, exists, load, record};
use crate::clock::Timestamp;
use crate::model::{Kid, User};
use crate::store::wrapped::{Rewrap, STORAGE_KEYS, Wrapped, is_wrapped_value, require_current};

pub(super) fn insert(writer: &Writer<'_>, key: &SigningKeyRecord) -> Result<(), Error> {
    let tree = &writer.trees.signing_keys;
    let encoded = record::encode(key)?;
    refuse_old_key(writer, &key.private.0)?;
    if exists(tree, key.kid.0.as_bytes())? {
        return Ok(());
    }
    let mut changes = Changes::new();
    changes.put(tree, key.kid.0.as_bytes(), encoded);
    writer.commit(&changes)
}

pub(super) fn retire(writer: &Writer<'_>, kids: &[Kid], at: Timestamp) -> Result<(), Error> {
    let tree = &writer.trees.signing_keys;
    let mut changes = Changes::new();
    for kid in kids {
        let Some(mut key) = load::<SigningKeyRecord>(tree, kid.0.as_bytes())? else { continue };
        if key.retired_at.is_none() {
            key.retired_at = Some(at);
            changes.put(tree, kid.0.as_bytes(), record::encode(&key)?);
        }
    }
    writer.commit(&changes)
}

pub(super) fn rotate(writer: &Writer<'_>, new: &[SigningKeyRecord], at: Timestamp) -> Result<(), Error> {
    let tree = &writer.trees.signing_keys;
    let mut changes = Changes::new();
    for key in new {
        refuse_old_key(writer, &key.private.0)?;
        changes.put(tree, key.kid.0.as_bytes(), record::encode(key)?);
    }
    for mut key in all(writer)? {
        let is_replaced = new.iter().any(|new| new.algorithm == key.algorithm) && new.iter().all(|new| new.kid != key.kid);
        if is_replaced && key.retired_at.is_none() {
            key.retired_at = Some(at);
            changes.put(tree, key.kid.0.as_bytes(), record::encode(&key)?);
        }
    }
    writer.commit(&changes)
}

pub(super) fn remove(writer: &Writer<'_>, kids: &[Kid]) -> Result<u64, Error> {
    let tree = &writer.trees.signing_keys;
    let mut changes = Changes::new();
    let mut removed = 0;
    // A key that is named twice is one key.
    for kid in kids.iter().collect::<BTreeSet<_>>() {
        if load::<SigningKeyRecord>(tree, kid.0.as_bytes())?.is_some_and(|key| key.retired_at.is_some()) {
            changes.remove(tree, kid.0.as_bytes());
            removed += 1;
        }
    }
    writer.commit(&changes)?;
    Ok(removed)
}

/// [`Error::OldKey`]: this is wrapped by a storage key that was replaced.
pub(super) fn refuse_old_key(inner: &Inner, sealed: &[u8]) -> Result<(), Error> {
    require_current(bytes(&inner.trees.meta, STORAGE_KEYS.as_bytes())?.as_deref(), sealed)
}

pub(super) fn rewrap(writer: &Writer<'_>, these: &[Rewrap]) -> Result<u64, Error> {
    let trees = &writer.trees;
    let mut changes = Changes::new();
    let mut done = 0;
    let keys = bytes(&trees.meta, STORAGE_KEYS.as_bytes())?;
    for Rewrap { what, from, to } in these {
        require_current(keys.as_deref(), &to.0)?;
        done += 1;
        match what {
            Wrapped::Value(name) => {
                if bytes(&trees.meta, name.as_bytes())?.as_deref() == Some(from.0.as_slice()) {
                    changes.put(&trees.meta, name.as_bytes(), to.0.as_slice());
                    continue;
                }
            }
            Wrapped::SigningKey(kid) => {
                if let Some(key) = load::<SigningKeyRecord>(&trees.signing_keys, kid.0.as_bytes())?
                    && key.private == *from
                {
                    let key = SigningKeyRecord { private: to.clone(), ..key };
                    changes.put(&trees.signing_keys, kid.0.as_bytes(), record::encode(&key)?);
                    continue;
                }
            }
            Wrapped::DataKey(id) => {
                if let Some(user) = load::<User>(&trees.users, id.as_bytes())?
                    && user.data_key == *from
                {
                    // Who has read the account before must not write the old key back.
                    let user = User { data_key: to.clone(), revision: user.revision.saturating_add(1), ..user };
                    changes.put(&trees.users, id.as_bytes(), record::encode(&user)?);
                    continue;
                }
            }
        }
        done -= 1;
    }
    writer.commit(&changes)?;
    Ok(done)
}

pub(super) fn all(inner: &Inner) -> Result<Vec<SigningKeyRecord>, Error> {
    let mut keys = entries_after(&inner.trees.signing_keys, None)
        .map(|entry| entry.and_then(|(_, value)| record::decode(&value)))
        .collect::<Result<Vec<SigningKeyRecord>, Error>>()?;
    keys.sort_by(|a, b| (a.created_at, &a.kid).cmp(&(b.created_at, &b.kid)));
    Ok(keys)
}

pub(super) fn meta(inner: &Inner, name: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(bytes(&inner.trees.meta, name.as_bytes())?.map(|value| value.to_vec()))
}

pub(super) fn swap_meta(writer: &Writer<'_>, name: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, Error> {
    let tree = &writer.trees.meta;
    if let Some(new) = new {
        record::fits(new)?;
    }
    if bytes(tree, name.as_bytes())?.as_deref() != expected {
        return Ok(false);
    }
    if let Some(new) = new.filter(|_| is_wrapped_value(name)) {
        refuse_old_key(writer, new)?;
    }
    let mut changes = Changes::new();
    match new {
        Some(new) => changes.put(tree, name.as_bytes(), new),
        None => changes.remove(tree, name.as_bytes()),
    }
    writer.commit(&changes)?;
    Ok(true)
}
