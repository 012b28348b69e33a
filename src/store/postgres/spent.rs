//! What can be used once, by whichever process. The check and the mark are one statement (requirement JWT-2), and the
//! answer "yes" is given only when the mark is durable: when that can't be known it is an error, and nobody is let in.

use super::pool::Pool;
use super::rows::id;
use crate::clock::Timestamp;
use crate::model::{Digest, UserId};
use crate::store::{Error, Purpose};

/// A user who is gone spends nothing, so that no step outlives its user.
pub(super) async fn step(pool: &Pool, user: UserId, step: u64) -> Result<bool, Error> {
    let step = i64::try_from(step).map_err(|_| Error::Corrupt("a step beyond all time".to_owned()))?;
    let sql = "INSERT INTO totp_steps (user_id, step) SELECT id, $2 FROM users WHERE id = $1 FOR KEY SHARE \
               ON CONFLICT (user_id) DO UPDATE SET step = excluded.step WHERE totp_steps.step < excluded.step RETURNING true";
    Ok(pool.write(sql, &[&id(user.as_bytes()), &step]).await? == 1)
}

pub(super) async fn once(pool: &Pool, purpose: Purpose, digest: Digest, until: Timestamp) -> Result<bool, Error> {
    let purpose = number(purpose);
    let sql = "INSERT INTO spent (purpose, digest, until) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true";
    Ok(pool.write(sql, &[&purpose, &digest.as_bytes().as_slice(), &until.as_millis()]).await? == 1)
}

/// A purpose as a column has it.
pub(super) const fn number(purpose: Purpose) -> i16 {
    match purpose {
        Purpose::PendingLogin => 1,
        Purpose::Setup => 2,
        Purpose::KeptForm => 3,
    }
}

/// What [`number`] says.
pub(super) fn purpose(number: i16) -> Result<Purpose, Error> {
    match number {
        1 => Ok(Purpose::PendingLogin),
        2 => Ok(Purpose::Setup),
        3 => Ok(Purpose::KeptForm),
        _ => Err(Error::Corrupt(format!("there is no purpose {number}"))),
    }
}
