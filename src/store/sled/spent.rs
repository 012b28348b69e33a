//! What can be used once. The check and the mark are one step under the writers' lock (requirement JWT-2), and the
//! answer "yes" is given only when the mark is durable.

use super::{Changes, Error, Purpose, Writer, bytes, exists};
use crate::clock::Timestamp;
use crate::model::{Digest, UserId};

/// A user who is gone spends nothing, so that no step outlives its user.
pub(super) fn step(writer: &Writer<'_>, user: UserId, step: u64) -> Result<bool, Error> {
    let trees = &writer.trees;
    if !exists(&trees.users, user.as_bytes())? {
        return Ok(false);
    }
    let last = bytes(&trees.totp_steps, user.as_bytes())?.map(|bytes| number(&bytes).map(u64::from_be_bytes)).transpose()?;
    if last.is_some_and(|last| step <= last) {
        return Ok(false);
    }
    let mut changes = Changes::new();
    changes.put(&trees.totp_steps, user.as_bytes(), &step.to_be_bytes());
    writer.commit(&changes)?;
    Ok(true)
}

pub(super) fn once(writer: &Writer<'_>, purpose: Purpose, digest: Digest, until: Timestamp) -> Result<bool, Error> {
    let purpose = match purpose {
        Purpose::PendingLogin => b'p',
        Purpose::Setup => b's',
    };
    let key = [&[purpose], digest.as_bytes().as_slice()].concat();
    if exists(&writer.trees.spent, &key)? {
        return Ok(false);
    }
    let mut changes = Changes::new();
    changes.put(&writer.trees.spent, &key, &until.as_millis().to_be_bytes());
    writer.commit(&changes)?;
    Ok(true)
}

/// Whether a mark may be forgotten at `now`.
pub(super) fn is_over(value: &[u8], now: Timestamp) -> Result<bool, Error> {
    Ok(Timestamp::from_millis(i64::from_be_bytes(number(value)?)) <= now)
}

fn number(bytes: &[u8]) -> Result<[u8; 8], Error> {
    bytes.try_into().map_err(|_| Error::Corrupt("a number of the wrong length".to_owned()))
}
