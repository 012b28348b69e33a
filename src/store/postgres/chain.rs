//! The chains of the audit log. A transaction that records something takes the first chain that no other holds, and makes
//! one when all are held: so nobody waits, there are few chains, and whoever breaks off leaves the chain as it was.

use std::sync::Arc;

use async_trait::async_trait;

use super::PostgresStore;
use super::audit;
use super::breaker;
use super::pool::{Failure, Pool, Tx, Work};
use super::rows::{id, ids, record_of, unexpected};
use crate::clock::Timestamp;
use crate::model::{AuditEvent, EventId};
use crate::store::chain::{AuditLog, Chain, ChainKey, Filed, Walk, WriterId};
use crate::store::{Error, Store, record};

/// No more chains than this: whoever finds all of them held waits for one.
const MAX_CHAINS: i32 = 64;

/// Removed in one transaction.
const CHUNK: i64 = 1000;

#[async_trait]
impl AuditLog for PostgresStore {
    fn set_chain_key(&self, key: ChainKey) {
        // Whoever opens the use cases twice on one store has the same key both times.
        let _known = self.inner.chain_key.set(key);
    }

    fn recording(&self, events: Vec<AuditEvent>) -> Arc<dyn Store> {
        Arc::new(Self { events: events.into(), ..self.clone() })
    }

    async fn chains(&self) -> Result<Vec<Chain>, Error> {
        super::rows::records(&self.pool().read("SELECT record FROM audit_chains ORDER BY writer", &[]).await?)
    }

    async fn chained(&self, writer: WriterId, after: u64, limit: usize) -> Result<Vec<Filed>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.pool().read(CHAINED, &[&number::<i32>(writer.0)?, &number::<i64>(after)?, &limit]).await?;
        rows.iter().map(filed).collect()
    }

    /// In one statement, which sees one moment, and by indexes. A chain that is missing in between is for others to notice.
    async fn unchained(&self, limit: usize) -> Result<Vec<EventId>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = "SELECT id FROM (\
                   (SELECT id FROM audit WHERE writer IS NULL LIMIT $1) UNION ALL \
                   (SELECT id FROM audit WHERE writer < 1 LIMIT $1) UNION ALL \
                   (SELECT id FROM audit WHERE writer > (SELECT coalesce(max(writer), 0) FROM audit_chains) LIMIT $1) UNION ALL \
                   (SELECT a.id FROM audit_chains c JOIN audit a ON a.writer = c.writer AND a.seq > c.head_seq LIMIT $1) UNION ALL \
                   (SELECT a.id FROM audit_chains c JOIN audit a ON a.writer = c.writer AND a.seq <= c.base_seq LIMIT $1)) AS strays LIMIT $1";
        ids(&self.pool().read(sql, &[&limit]).await?, EventId::from_bytes)
    }
}

const CHAINED: &str =
    "SELECT writer, seq, link, record, at, id, user_id, action FROM audit WHERE writer = $1 AND seq > $2 ORDER BY seq LIMIT $3";

fn filed(row: &tokio_postgres::Row) -> Result<Filed, Error> {
    let seq: i64 = row.try_get(1).map_err(unexpected)?;
    let seq = u64::try_from(seq).map_err(|_| Error::Corrupt("a number below zero".to_owned()))?;
    let stored = audit::stored(row)?;
    let is_listed = match stored.event() {
        Ok(event) => {
            let (at, event_id): (i64, uuid::Uuid) = (row.try_get(4).map_err(unexpected)?, row.try_get(5).map_err(unexpected)?);
            let (user, action): (Option<uuid::Uuid>, &str) = (row.try_get(6).map_err(unexpected)?, row.try_get(7).map_err(unexpected)?);
            at == event.at.as_millis()
                && event_id == id(event.id.as_bytes())
                && user == event.user.map(|user| id(user.as_bytes()))
                && action == event.action.as_str()
        }
        Err(_) => false,
    };
    Ok(Filed { seq, stored: Some(stored), is_listed })
}

/// A chain that is this transaction's until it ends. Taken last in a transaction: who holds one waits for nothing more.
pub(super) async fn take(tx: &Tx<'_>, key: &ChainKey, at: Timestamp) -> Result<Chain, Failure> {
    const FREE: &str = "SELECT record FROM audit_chains ORDER BY writer LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED";
    const ONE: &str = "SELECT record FROM audit_chains WHERE writer = $1 FOR NO KEY UPDATE";
    const NEW: &str = "INSERT INTO audit_chains (writer, base_seq, head_seq, record) VALUES ($1, 0, 0, $2) ON CONFLICT DO NOTHING";
    loop {
        if let Some(row) = tx.one(FREE, &[]).await? {
            return Ok(record_of(&row, 0)?);
        }
        let row = tx.one("SELECT coalesce(max(writer), 0) FROM audit_chains", &[]).await?;
        let last: i32 = row.map_or(Ok(0), |row| row.try_get(0))?;
        if last >= MAX_CHAINS {
            let any = i32::try_from(breaker::any_number() % MAX_CHAINS.unsigned_abs()).unwrap_or(0) + 1;
            if let Some(row) = tx.one(ONE, &[&any]).await? {
                return Ok(record_of(&row, 0)?);
            }
        }
        // When another makes the same one, this waits until it is there, and looks again.
        let next = last.saturating_add(1);
        let chain = key.begin(WriterId(next.unsigned_abs()), at);
        if tx.change(NEW, &[&next, &record::encode(&chain)?]).await? > 0 {
            return Ok(chain);
        }
    }
}

/// Writes a chain's ends.
pub(super) async fn put(tx: &Tx<'_>, chain: &Chain) -> Result<(), Failure> {
    let sql = "INSERT INTO audit_chains (writer, base_seq, head_seq, record) VALUES ($1, $2, $3, $4) \
               ON CONFLICT (writer) DO UPDATE SET base_seq = excluded.base_seq, head_seq = excluded.head_seq, record = excluded.record";
    let (writer, base, head) = (number::<i32>(chain.writer.0)?, number::<i64>(chain.base.seq)?, number::<i64>(chain.head.seq)?);
    tx.change(sql, &[&writer, &base, &head, &record::encode(chain)?]).await?;
    Ok(())
}

/// Removes the oldest events of all chains, as far as they are before `before`, and moves the chains' bases on. Says how
/// many went.
pub(super) async fn purge(pool: &Pool, key: &ChainKey, before: Timestamp, now: Timestamp) -> Result<u64, Error> {
    let rows = pool.read("SELECT writer FROM audit_chains ORDER BY writer", &[]).await?;
    let mut count = 0;
    for row in rows {
        let writer: i32 = row.try_get(0).map_err(unexpected)?;
        loop {
            let removed = pool.transaction(&Cut { writer, key, before, now }).await?;
            count += removed;
            if removed < CHUNK.unsigned_abs() {
                break;
            }
        }
    }
    Ok(count)
}

struct Cut<'a> {
    writer: i32,
    key: &'a ChainKey,
    before: Timestamp,
    now: Timestamp,
}

#[async_trait]
impl Work for Cut<'_> {
    type Done = u64;

    async fn run(&self, tx: &Tx<'_>) -> Result<u64, Failure> {
        // Who else removes, or writes to this one now, is not waited for: there is a next time.
        let sql = "SELECT record FROM audit_chains WHERE writer = $1 FOR NO KEY UPDATE SKIP LOCKED";
        let Some(row) = tx.one(sql, &[&self.writer]).await? else { return Ok(0) };
        let mut chain: Chain = record_of(&row, 0)?;
        let mut walk = Walk::begin(self.key, &chain);
        let mut last = None;
        for row in tx.rows(CHAINED, &[&self.writer, &number::<i64>(chain.base.seq)?, &CHUNK]).await? {
            let filed = filed(&row)?;
            let Some(stored) = &filed.stored else { break };
            if stored.event()?.at >= self.before {
                break;
            }
            last = stored.place.or(last);
            walk = walk.and_then(|mut walk| walk.step(self.key, chain.writer, &filed).map(|()| walk));
        }
        let Some(last) = last else { return Ok(0) };
        if let Err(fault) = walk {
            tracing::error!(writer = %chain.writer, %fault, "the audit log was tampered with, among events that have run out and are now removed");
        }
        let removed = tx
            .change(
                "DELETE FROM audit WHERE writer = $1 AND seq > $2 AND seq <= $3",
                &[&self.writer, &number::<i64>(chain.base.seq)?, &number::<i64>(last.seq)?],
            )
            .await?;
        self.key.cut(&mut chain, &last, self.now);
        put(tx, &chain).await?;
        Ok(removed)
    }
}

/// A number as a column has it.
pub(super) fn number<T: TryFrom<u64>>(number: impl Into<u64>) -> Result<T, Error> {
    T::try_from(number.into()).map_err(|_| Error::Corrupt("a number beyond what the database keeps".to_owned()))
}
