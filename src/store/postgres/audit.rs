//! The audit log: events, with their places in the chains.

use async_trait::async_trait;
use tokio_postgres::Row as PgRow;
use uuid::Uuid;

use super::chain;
use super::conditions::Conditions;
use super::explain::{self, Next};
use super::pool::{Failure, Pool, Tx, Work};
use super::rows::{id, records, unexpected};
use crate::clock::Timestamp;
use crate::model::{Action, AuditEvent, Digest};
use crate::store::chain::{ChainKey, Place, StoredEvent, WriterId};
use crate::store::{AuditQuery, Error, record};

/// New events, at the end of a chain that nobody else is writing to.
pub(super) struct Append<'a> {
    /// `None`: in no chain.
    pub(super) key: Option<&'a ChainKey>,
    pub(super) events: &'a [AuditEvent],
}

#[async_trait]
impl Work for Append<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        let Some(key) = self.key else {
            let stored = self.events.iter().map(StoredEvent::unchained).collect::<Result<Vec<_>, Error>>()?;
            return insert(tx, &stored, None).await;
        };
        let at = self.events.first().map_or_else(Timestamp::default, |event| event.at);
        let mut chain = chain::take(tx, key, at).await?;
        let mut stored = Vec::with_capacity(self.events.len());
        for event in self.events {
            let record = record::encode(event)?;
            let place = key.append(&mut chain, &record, event.at);
            stored.push(StoredEvent { place: Some(place), record });
        }
        insert(tx, &stored, Some(&chain)).await
    }
}

/// Something that is done, and the events that tell of it.
pub(super) struct Recorded<'a, W> {
    pub(super) work: &'a W,
    pub(super) append: Append<'a>,
}

#[async_trait]
impl<W: Work> Work for Recorded<'_, W> {
    type Done = W::Done;

    async fn run(&self, tx: &Tx<'_>) -> Result<W::Done, Failure> {
        let done = self.work.run(tx).await?;
        if W::did_something(&done) {
            self.append.run(tx).await.map_err(unrecorded)?;
        }
        Ok(done)
    }
}

/// What begins anew, or ends with the connection, has nothing to do with the log.
fn unrecorded(failure: Failure) -> Failure {
    let why = match failure {
        Failure::Store(error) => error,
        Failure::Postgres(error) if explain::next(&error) == Next::Over => explain::running(&error),
        Failure::Postgres(_) => return failure,
    };
    Error::Unrecorded(Box::new(why)).into()
}

/// An event as its columns.
pub(super) struct Row<'a> {
    at: i64,
    id: Uuid,
    user: Option<Uuid>,
    action: &'static str,
    record: &'a [u8],
    place: Option<(i32, i64, &'a [u8])>,
}

impl<'a> Row<'a> {
    pub(super) fn of(stored: &'a StoredEvent) -> Result<Self, Error> {
        let event = stored.event()?;
        record::fits(&stored.record)?;
        let place = stored.place.as_ref().map(|Place { writer, seq, link }| {
            Ok::<_, Error>((chain::number(writer.0)?, chain::number(*seq)?, link.as_bytes().as_slice()))
        });
        Ok(Self {
            at: event.at.as_millis(),
            id: id(event.id.as_bytes()),
            user: event.user.map(|user| id(user.as_bytes())),
            action: event.action.as_str(),
            record: &stored.record,
            place: place.transpose()?,
        })
    }
}

/// The columns of `$1` to `$8`.
const ROWS: &str = "INSERT INTO audit (at, id, user_id, action, record, writer, seq, link) \
                    SELECT * FROM unnest($1::int8[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::int4[], $7::int8[], $8::bytea[]) \
                    ON CONFLICT (at, id)";

/// Adds events, and moves their chain's end. [`Error::Conflict`]: one is there.
async fn insert(tx: &Tx<'_>, stored: &[StoredEvent], chain: Option<&crate::store::chain::Chain>) -> Result<(), Failure> {
    let rows = stored.iter().map(Row::of).collect::<Result<Vec<_>, Error>>()?;
    if let Some(chain) = chain {
        chain::put(tx, chain).await?;
    }
    let added = write(tx, &format!("{ROWS} DO NOTHING"), &rows).await?;
    if usize::try_from(added) == Ok(rows.len()) { Ok(()) } else { Err(Error::Conflict.into()) }
}

/// Writes events as they are, over those that are there.
pub(super) async fn replace(tx: &Tx<'_>, rows: &[Row<'_>]) -> Result<(), Failure> {
    let sql = format!(
        "{ROWS} DO UPDATE SET user_id = excluded.user_id, action = excluded.action, record = excluded.record, \
         writer = excluded.writer, seq = excluded.seq, link = excluded.link"
    );
    write(tx, &sql, rows).await?;
    Ok(())
}

async fn write(tx: &Tx<'_>, sql: &str, rows: &[Row<'_>]) -> Result<u64, tokio_postgres::Error> {
    let times: Vec<i64> = rows.iter().map(|row| row.at).collect();
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let users: Vec<Option<Uuid>> = rows.iter().map(|row| row.user).collect();
    let actions: Vec<&str> = rows.iter().map(|row| row.action).collect();
    let records: Vec<&[u8]> = rows.iter().map(|row| row.record).collect();
    let writers: Vec<Option<i32>> = rows.iter().map(|row| row.place.map(|(writer, _, _)| writer)).collect();
    let numbers: Vec<Option<i64>> = rows.iter().map(|row| row.place.map(|(_, seq, _)| seq)).collect();
    let links: Vec<Option<&[u8]>> = rows.iter().map(|row| row.place.map(|(_, _, link)| link)).collect();
    tx.change(sql, &[&times, &ids, &users, &actions, &records, &writers, &numbers, &links]).await
}

/// The event of the columns `writer`, `seq`, `link` and `record`, which come first.
pub(super) fn stored(row: &PgRow) -> Result<StoredEvent, Error> {
    let (writer, seq): (Option<i32>, Option<i64>) = (row.try_get(0).map_err(unexpected)?, row.try_get(1).map_err(unexpected)?);
    let link: Option<&[u8]> = row.try_get(2).map_err(unexpected)?;
    let place = match (writer, seq, link) {
        (Some(writer), Some(seq), Some(link)) => {
            let wrong = || Error::Corrupt("an event's place is none".to_owned());
            let writer = WriterId(writer.try_into().map_err(|_| wrong())?);
            Some(Place { writer, seq: seq.try_into().map_err(|_| wrong())?, link: Digest(link.try_into().map_err(|_| wrong())?) })
        }
        _ => None,
    };
    Ok(StoredEvent { place, record: row.try_get(3).map_err(unexpected)? })
}

/// Newest first.
pub(super) async fn list(pool: &Pool, query: &AuditQuery) -> Result<Vec<AuditEvent>, Error> {
    let since = query.since.map_or(i64::MIN, Timestamp::as_millis);
    let [limit, offset] = [query.limit, query.offset].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let (before, before_id) = query.before.map_or((i64::MAX, Uuid::max()), |(at, event)| (at.as_millis(), id(event.as_bytes())));
    let user: Option<Uuid> = query.user.map(|user| id(user.as_bytes()));
    let action = query.action.map(Action::as_str);
    let begin = "SELECT record FROM audit WHERE at >= $1 AND (at, id) < ($4, $5)";
    let mut conditions = Conditions::new(begin, &[&since, &limit, &offset, &before, &before_id]);
    if let Some(user) = &user {
        conditions.and("user_id = ", user, "");
    }
    if let Some(action) = &action {
        conditions.and("action = ", action, "");
    }
    let (sql, values) = conditions.ending(" ORDER BY at DESC, id DESC LIMIT $2 OFFSET $3");
    records(&pool.read(&sql, &values).await?)
}

/// Removes up to `count` events before `before` that stand in no chain, and says how many.
pub(super) async fn purge(pool: &Pool, before: Timestamp, count: i64) -> Result<usize, Error> {
    let sql = "DELETE FROM audit WHERE ctid = ANY(ARRAY(\
               SELECT ctid FROM audit WHERE at < $1 AND writer IS NULL ORDER BY at, id LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING true";
    pool.write(sql, &[&before.as_millis(), &count]).await
}
