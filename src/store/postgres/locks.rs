//! Counters of failures, shared by all processes. Their number is bounded (requirement RL-3): an attacker chooses the keys.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio_postgres::Row;

use super::pool::{Failure, Pool, Tx, Work};
use crate::clock::Timestamp;
use crate::model::{Lock, LockChange, LockKey, LockUpdate};
use crate::store::Error;
use crate::store::lock_key::{encoded, is_owned};

/// How many locks are kept; about 40 MB. Each process looks after a part of as many new ones as it made itself, so there
/// may be that many more, times the processes.
const MAX_LOCKS: usize = 200_000;

/// How often a row that another process removes or adds at the same moment is looked for.
const TRIES: usize = 30;

/// Looks after the number of locks.
#[derive(Debug)]
pub(super) struct Bound {
    max: usize,
    made: AtomicUsize,
}

impl Default for Bound {
    fn default() -> Self {
        Self::of(MAX_LOCKS)
    }
}

impl Bound {
    fn of(max: usize) -> Self {
        Self { max, made: AtomicUsize::new(0) }
    }

    /// One more was made. Every so often they are counted.
    async fn made(&self, pool: &Pool, now: Timestamp) -> Result<(), Error> {
        let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        if made.is_multiple_of(self.max.div_ceil(200)) { make_room(pool, now, self.max).await } else { Ok(()) }
    }
}

/// Changes a lock.
pub(super) async fn update(pool: &Pool, bound: &Bound, key: LockKey, change: LockChange, now: Timestamp) -> Result<LockUpdate, Error> {
    let (update, made) = pool.transaction(&Update { key: encoded(key), change, now }).await?;
    if made {
        bound.made(pool, now).await?;
    }
    Ok(update)
}

pub(super) async fn get(pool: &Pool, key: LockKey) -> Result<Lock, Error> {
    let sql = "SELECT failures, last_failure_at, locked_until FROM locks WHERE key = $1";
    let row = pool.read_one(sql, &[&encoded(key)]).await?;
    Ok(row.map(|row| lock_of(&row)).transpose().map_err(super::rows::unexpected)?.unwrap_or_default())
}

/// Removes up to `count` locks that are stale and says how many.
pub(super) async fn purge(pool: &Pool, now: Timestamp, count: i64) -> Result<usize, Error> {
    // As `Lock::is_stale`; one without failures is never stored.
    let sql = "DELETE FROM locks WHERE key = ANY(ARRAY(SELECT key FROM locks WHERE last_failure_at <= $1 AND locked_until <= $2 \
               ORDER BY last_failure_at LIMIT $3 FOR UPDATE SKIP LOCKED)) RETURNING true";
    pool.write(sql, &[&now.minus(Lock::MEMORY).as_millis(), &now.as_millis(), &count]).await
}

struct Update {
    key: Vec<u8>,
    change: LockChange,
    now: Timestamp,
}

#[async_trait]
impl Work for Update {
    /// What came of it, and whether there is one lock more.
    type Done = (LockUpdate, bool);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Done, Failure> {
        for _ in 0..TRIES {
            let sql = "SELECT failures, last_failure_at, locked_until FROM locks WHERE key = $1 FOR UPDATE";
            let stored = tx.one(sql, &[&self.key]).await?.map(|row| lock_of(&row)).transpose()?;
            let before = stored.unwrap_or_default();
            let after = before.changed(self.change, self.now);
            let update = LockUpdate { before, after };
            let values: [i64; 3] = [after.failures.into(), after.last_failure_at.as_millis(), after.locked_until.as_millis()];
            let [failures, last_failure_at, locked_until] = &values;
            match (stored, after == Lock::default()) {
                (None, true) => return Ok((update, false)),
                (Some(_), true) => {
                    tx.change("DELETE FROM locks WHERE key = $1", &[&self.key]).await?;
                    return Ok((update, false));
                }
                (Some(_), false) => {
                    let sql = "UPDATE locks SET failures = $2, last_failure_at = $3, locked_until = $4 WHERE key = $1";
                    tx.change(sql, &[&self.key, failures, last_failure_at, locked_until]).await?;
                    return Ok((update, false));
                }
                (None, false) => {
                    let sql = "INSERT INTO locks (key, owned, failures, last_failure_at, locked_until) VALUES ($1, $2, $3, $4, $5) \
                               ON CONFLICT DO NOTHING";
                    let owned = is_owned(&self.key);
                    if tx.change(sql, &[&self.key, &owned, failures, last_failure_at, locked_until]).await? == 1 {
                        return Ok((update, true));
                    }
                    // Somebody else made it meanwhile: count on from theirs.
                }
            }
        }
        Err(Error::Unavailable("a counter of failures is changed by too many at once".to_owned()).into())
    }
}

/// Drops locks when there are more than `max`, until a tenth of that is free. What is dropped first: anybody can make
/// locks for addresses and accounts that do not exist, so they go before those that only a right password or an owner's
/// device can make; else one could flood away the count of guesses at a second factor (requirement RL-2). Within a class
/// the oldest goes first.
async fn make_room(pool: &Pool, now: Timestamp, max: usize) -> Result<(), Error> {
    let row = pool.read_one("SELECT count(*) FROM locks", &[]).await?;
    let count: i64 = row.map_or(Ok(0), |row| row.try_get(0)).map_err(super::rows::unexpected)?;
    let count = usize::try_from(count).unwrap_or(0);
    if count <= max {
        return Ok(());
    }
    let dropped = count.saturating_sub(max - max.div_ceil(10));
    let sql = "DELETE FROM locks WHERE key IN (SELECT key FROM locks ORDER BY CASE \
               WHEN last_failure_at <= $1 AND locked_until <= $2 THEN 0 \
               WHEN NOT owned AND locked_until <= $2 THEN 1 WHEN NOT owned THEN 2 \
               WHEN locked_until <= $2 THEN 3 ELSE 4 END, last_failure_at LIMIT $3 FOR UPDATE SKIP LOCKED) RETURNING true";
    let limit = i64::try_from(dropped).unwrap_or(i64::MAX);
    let dropped = pool.write(sql, &[&now.minus(Lock::MEMORY).as_millis(), &now.as_millis(), &limit]).await?;
    tracing::warn!(dropped, "too many failures are being counted; the least telling ones were forgotten");
    Ok(())
}

fn lock_of(row: &Row) -> Result<Lock, tokio_postgres::Error> {
    Ok(Lock {
        failures: u32::try_from(row.try_get::<_, i64>(0)?).unwrap_or(u32::MAX),
        last_failure_at: Timestamp::from_millis(row.try_get(1)?),
        locked_until: Timestamp::from_millis(row.try_get(2)?),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Postgres;
    use crate::model::{Digest, LockPolicy, UserId};
    use crate::store::postgres::{PostgresStore, server};
    use crate::tasks::Tasks;

    const FAIL: LockChange = LockChange::Fail(LockPolicy { after: 1, base: Duration::from_mins(1), max: Duration::from_mins(1) });

    fn account(number: u32) -> LockKey {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        LockKey::Account(Digest(digest))
    }

    // RL-3: however many names are tried, the number of locks stays bounded, and the newest are counted.
    // RL-2: the count of guesses at a second factor is not flooded away.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_flood_of_names_is_bounded_and_spares_what_counts() {
        let settings = Postgres { schema: server::schema(), ..Postgres::parse(&server::url()).unwrap() };
        let store = PostgresStore::open(&settings, &Tasks::new()).await.unwrap();
        let (pool, bound) = (store.pool(), Bound::of(50));
        let fail = async |key, at| update(pool, &bound, key, FAIL, Timestamp::from_secs(at)).await.unwrap();
        let (second_factor, locked) = (LockKey::SecondFactor(UserId::new()), account(u32::MAX));
        fail(second_factor, 1).await;
        for _ in 0..2 {
            fail(locked, 500).await;
        }
        for number in 0..300 {
            fail(account(number), 2 + i64::from(number) / 10).await;
            let count: i64 = pool.read_one("SELECT count(*) FROM locks", &[]).await.unwrap().unwrap().get(0);
            assert!(count <= 50, "{count}");
            assert_eq!(get(pool, account(number)).await.unwrap().failures, 1);
        }
        assert_eq!(get(pool, account(0)).await.unwrap().failures, 0);
        assert_eq!(get(pool, second_factor).await.unwrap().failures, 1);
        assert_eq!(get(pool, locked).await.unwrap().failures, 2);
    }
}
