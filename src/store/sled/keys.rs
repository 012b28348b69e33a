//! What belongs to the installation: signing keys and small named values.

use super::{Changes, Error, Inner, SigningKeyRecord, Writer, bytes, entries_after, exists, load, record};
use crate::clock::Timestamp;
use crate::model::Kid;

pub(super) fn insert(writer: &Writer<'_>, key: &SigningKeyRecord) -> Result<(), Error> {
    let tree = &writer.trees.signing_keys;
    let encoded = record::encode(key)?;
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
    let mut changes = Changes::new();
    match new {
        Some(new) => changes.put(tree, name.as_bytes(), new),
        None => changes.remove(tree, name.as_bytes()),
    }
    writer.commit(&changes)?;
    Ok(true)
}
