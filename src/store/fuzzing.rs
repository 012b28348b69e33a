//! What must hold for any bytes that a store may give back: for the fuzzer, and for the tests that replay its corpus.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::chain::Chain;
use super::transfer::{Item, Kind, Marker};
use super::{Error, SigningKeyRecord, lock_key, record, sled};
use crate::model::{ApiToken, AuditEvent, Lock, Session, User};

/// Reads the bytes after the first, which says what of, as a record, as the key of a lock, and as an entry of the embedded
/// store: nothing but a value that is written as it was read comes of it, and an error says nothing of what is there.
///
/// # Panics
///
/// If something that must hold does not.
pub fn stored_record(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 8 {
        0 => keeps::<User>(bytes),
        1 => keeps::<Session>(bytes),
        2 => keeps::<ApiToken>(bytes),
        3 => keeps::<Lock>(bytes),
        4 => keeps::<SigningKeyRecord>(bytes),
        5 => keeps::<AuditEvent>(bytes),
        6 => keeps::<Marker>(bytes),
        _ => keeps::<Chain>(bytes),
    }
    if let Ok(key) = lock_key::decoded(bytes) {
        assert_eq!(lock_key::encoded(key), bytes, "a lock has two names");
    }
    entry(*kind, bytes);
}

fn keeps<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let value = match record::decode::<T>(bytes) {
        Ok(value) => value,
        Err(error) => {
            assert!(matches!(error, Error::Corrupt(_) | Error::Newer { .. }), "{error}");
            assert!(error.to_string().len() < 160, "an error repeats what is stored: {error}");
            return;
        }
    };
    assert_eq!(bytes.first(), Some(&record::VERSION));
    match record::encode(&value) {
        Ok(written) => {
            let again = record::decode::<T>(&written);
            assert!(again.is_ok(), "what was written can't be read: {again:?} of {:?}", String::from_utf8_lossy(&written));
            let again = again.ok();
            assert_eq!(again.as_ref(), Some(&value), "what was written is something else");
            assert_eq!(again.and_then(|again| record::encode(&again).ok()), Some(written), "it is written in two ways");
        }
        Err(error) => assert!(matches!(error, Error::TooLarge(_)) && bytes.len() > record::MAX_BYTES / 8, "{error}"),
    }
}

/// An entry of the embedded store: the first byte says how long the key is.
fn entry(kind: u8, bytes: &[u8]) {
    let Some(kind) = Kind::ALL.get(usize::from(kind) % Kind::ALL.len()) else { return };
    let Some((key, value)) = bytes.split_first().and_then(|(length, rest)| rest.split_at_checked(usize::from(*length))) else { return };
    let item = match sled::read_entry(*kind, key, value) {
        Ok(item) => item,
        Err(error) => return assert!(matches!(error, Error::Corrupt(_) | Error::Newer { .. }), "{error}"),
    };
    assert_eq!(item.kind(), *kind);
    match item {
        Item::Meta { name, value: found } => assert!(name.as_bytes() == key && found == value),
        Item::RetiredAddress { digest, at } => assert!(digest.as_bytes() == key && at.as_millis().to_be_bytes() == value),
        Item::TotpStep { user, step } => assert!(user.as_bytes() == key && step.to_be_bytes() == value),
        Item::Lock { key: found, .. } => assert_eq!(lock_key::encoded(found), key),
        Item::Spent { digest, until, .. } => assert!(key.ends_with(digest.as_bytes()) && until.as_millis().to_be_bytes() == value),
        Item::SigningKey(_) | Item::User(_) | Item::Session(_) | Item::ApiToken(_) | Item::AuditEvent(_) | Item::AuditChain(_) => {}
    }
}
