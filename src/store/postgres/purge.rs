//! Removing what has run out, some at a time, and leaving alone what another process is just removing. Others are not told
//! of sessions and tokens that went: everybody knows the end of each that they know.

use super::pool::Pool;
use super::rows::ids;
use super::{audit, chain, changes, locks};
use crate::clock::Timestamp;
use crate::model::{ApiTokenId, SessionId};
use crate::store::chain::ChainKey;
use crate::store::{Error, Purged};

/// Removed in one statement.
const CHUNK: i64 = 1000;

pub(super) async fn purge(pool: &Pool, key: Option<&ChainKey>, now: Timestamp, audit_before: Option<Timestamp>) -> Result<Purged, Error> {
    // Arrays, here and wherever rows are removed some at a time: for `IN (SELECT ...)` the planner may hash the few that
    // were chosen and read the whole table to find them.
    let sessions = "DELETE FROM sessions WHERE id = ANY(ARRAY(\
                    SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING id";
    let tokens = "DELETE FROM api_tokens WHERE id = ANY(ARRAY(\
                  SELECT id FROM api_tokens WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING id";
    // By their place, which stays what it is while they are locked.
    let spent = "DELETE FROM spent WHERE ctid = ANY(ARRAY(\
                 SELECT ctid FROM spent WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING true";
    let mut purged = Purged {
        sessions: remove(pool, sessions, now, SessionId::from_bytes).await?,
        api_tokens: remove(pool, tokens, now, ApiTokenId::from_bytes).await?,
        others: 0,
    };
    while count(&mut purged, pool.write(spent, &[&now.as_millis(), &CHUNK]).await?) {}
    while count(&mut purged, locks::purge(pool, now, CHUNK).await?) {}
    if let Some(before) = audit_before {
        if let Some(key) = key {
            purged.others += chain::purge(pool, key, before, now).await?;
        }
        while count(&mut purged, audit::purge(pool, before, CHUNK).await?) {}
    }
    changes::purge(pool).await?;
    Ok(purged)
}

async fn remove<T: Ord>(pool: &Pool, sql: &str, now: Timestamp, make: fn([u8; 16]) -> T) -> Result<Vec<T>, Error> {
    let mut removed = Vec::new();
    loop {
        let some = ids(&pool.write_rows(sql, &[&now.as_millis(), &CHUNK]).await?, make)?;
        let all = i64::try_from(some.len()).is_ok_and(|count| count < CHUNK);
        removed.extend(some);
        if all {
            removed.sort_unstable();
            return Ok(removed);
        }
    }
}

/// Counts what went; whether there may be more.
fn count(purged: &mut Purged, removed: usize) -> bool {
    purged.others += u64::try_from(removed).unwrap_or(u64::MAX);
    i64::try_from(removed).is_ok_and(|count| count >= CHUNK)
}
