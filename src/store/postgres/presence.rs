//! Who follows a schema, and which storage keys they have: advisory locks that the following connections share, which go
//! with the connection and which everybody can count.

use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;

use super::pool::Pool;
use super::rows::unexpected;
use crate::model::Digest;
use crate::store::Error;

/// The check values of the keys that this process has.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<Mutex<Vec<Digest>>>);

impl Held {
    /// These, from now on.
    pub(super) fn set(&self, checks: &[Digest]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = checks.to_vec();
    }

    /// As they are now.
    pub(super) fn get(&self) -> Vec<Digest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The lock that everybody who follows a schema has a share of.
pub(super) fn of_followers(schema: &str) -> i64 {
    number(&[b"nullpass followers of ", schema.as_bytes()])
}

/// The lock that everybody who follows it and has this key has a share of.
fn of_holders(schema: &str, check: &Digest) -> i64 {
    number(&[b"nullpass followers of ", schema.as_bytes(), b" with ", check.as_bytes()])
}

/// Makes a connection that follows say what this process holds now, when it last said `before`.
pub(super) async fn say(client: &Client, schema: &str, before: &[Digest], now: &[Digest]) -> Result<(), tokio_postgres::Error> {
    let new = now.iter().filter(|check| !before.contains(check)).map(|check| ("pg_try_advisory_lock_shared", check));
    let old = before.iter().filter(|check| !now.contains(check)).map(|check| ("pg_advisory_unlock_shared", check));
    let statements: Vec<String> = new.chain(old).map(|(what, check)| format!("SELECT {what}({})", of_holders(schema, check))).collect();
    if statements.is_empty() { Ok(()) } else { client.batch_execute(&statements.join("; ")).await }
}

/// How many follow the schema.
pub(super) async fn followers(pool: &Pool) -> Result<u64, Error> {
    count(pool, of_followers(&pool.connector().settings().schema), None).await
}

/// How many of them do not have this key.
pub(super) async fn without_key(pool: &Pool, check: &Digest) -> Result<u64, Error> {
    let schema = &pool.connector().settings().schema;
    count(pool, of_followers(schema), Some(of_holders(schema, check))).await
}

/// How many connections have a share of the first lock and none of the second.
async fn count(pool: &Pool, with: i64, without: Option<i64>) -> Result<u64, Error> {
    let sql = "WITH held AS (SELECT pid, (classid::int8 << 32 | objid::int8) AS key FROM pg_locks \
               WHERE locktype = 'advisory' AND objsubid = 1 AND granted \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) \
               SELECT count(DISTINCT pid) FROM held WHERE key = $1 AND pid NOT IN (SELECT pid FROM held WHERE key = $2)";
    let row = pool.read_one(sql, &[&with, &without]).await?;
    let count: i64 = row.map_or(Ok(0), |row| row.try_get(0)).map_err(unexpected)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

fn number(parts: &[&[u8]]) -> i64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().map_or(0, |first| i64::from_be_bytes(*first))
}
