//! What can be used once. The check and the mark are one step under the writers' lock (requirement JWT-2), and the
//! answer "yes" is given only when the mark is durable.

use super::{Changes, Error, Purpose, Writer, bytes, exists};
use crate::clock::Timestamp;
use crate::model::{Digest, UserId};

const PENDING_LOGIN: u8 = b'p';
const SETUP: u8 = b's';
const KEPT_FORM: u8 = b'k';

/// A user who is gone spends nothing, so that no step outlives its user.
pub(super) fn step(writer: &Writer<'_>, user: UserId, step: u64) -> Result<bool, Error> {
    let trees = &writer.trees;
    if !exists(&trees.users, user.as_bytes())? {
        return Ok(false);
    }
    let last = bytes(&trees.totp_steps, user.as_bytes())?.map(|bytes| read_step(&bytes)).transpose()?;
    if last.is_some_and(|last| step <= last) {
        return Ok(false);
    }
    let mut changes = Changes::new();
    changes.put(&trees.totp_steps, user.as_bytes(), &step.to_be_bytes());
    writer.commit(&changes)?;
    Ok(true)
}

pub(super) fn once(writer: &Writer<'_>, purpose: Purpose, digest: Digest, until: Timestamp) -> Result<bool, Error> {
    let key = key(purpose, digest);
    if exists(&writer.trees.spent, &key)? {
        return Ok(false);
    }
    let mut changes = Changes::new();
    changes.put(&writer.trees.spent, &key, &moment(until));
    writer.commit(&changes)?;
    Ok(true)
}

/// Where a mark is kept.
pub(super) fn key(purpose: Purpose, digest: Digest) -> Vec<u8> {
    let purpose = match purpose {
        Purpose::PendingLogin => PENDING_LOGIN,
        Purpose::Setup => SETUP,
        Purpose::KeptForm => KEPT_FORM,
    };
    [&[purpose], digest.as_bytes().as_slice()].concat()
}

/// What [`key`] was made of.
pub(super) fn named(key: &[u8]) -> Result<(Purpose, Digest), Error> {
    let purpose = match key.first() {
        Some(&PENDING_LOGIN) => Some(Purpose::PendingLogin),
        Some(&SETUP) => Some(Purpose::Setup),
        Some(&KEPT_FORM) => Some(Purpose::KeptForm),
        Some(_) | None => None,
    };
    let digest = key.get(1..).and_then(|rest| rest.try_into().ok()).map(Digest);
    purpose.zip(digest).ok_or_else(|| Error::Corrupt("a spent thing without a name".to_owned()))
}

/// A moment as a value.
pub(super) fn moment(at: Timestamp) -> [u8; 8] {
    at.as_millis().to_be_bytes()
}

/// The moment that [`moment`] wrote.
pub(super) fn read_moment(value: &[u8]) -> Result<Timestamp, Error> {
    Ok(Timestamp::from_millis(i64::from_be_bytes(number(value)?)))
}

/// The step that a value says.
pub(super) fn read_step(value: &[u8]) -> Result<u64, Error> {
    number(value).map(u64::from_be_bytes)
}

/// Whether a mark may be forgotten at `now`.
pub(super) fn is_over(value: &[u8], now: Timestamp) -> Result<bool, Error> {
    Ok(read_moment(value)? <= now)
}

fn number(bytes: &[u8]) -> Result<[u8; 8], Error> {
    bytes.try_into().map_err(|_| Error::Corrupt("a number of the wrong length".to_owned()))
}
