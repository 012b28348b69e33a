//! How a transaction tells other processes what it changes: a row for each change, for whoever looks, and a notification
//! with the same words, for whoever listens. Both are there when the transaction is made durable, or neither.

use tokio_postgres::Row;
use uuid::Uuid;

use super::pool::{Pool, Tx};
use crate::model::{ApiTokenId, SessionId, UserId};
use crate::store::{Error, News};

/// Rows in one statement: a notification holds 8000 bytes, and each of them takes up to 60.
const CHUNK: usize = 120;

/// How long a row is kept, in seconds. Whoever has not looked for half as long looks at everything.
pub(super) const KEPT_SECS: f64 = 600.0;

/// The one channel of a schema; a database may have several.
pub(super) fn channel(schema: &str) -> String {
    format!("nullpass.{schema}")
}

/// Adds to a transaction that others hear of these changes.
pub(super) async fn tell(tx: &Tx<'_>, news: &[News]) -> Result<(), tokio_postgres::Error> {
    let channel = channel(tx.schema());
    for some in news.chunks(CHUNK) {
        let (kinds, ids): (Vec<&str>, Vec<Uuid>) = some.iter().map(written).unzip();
        let sql = "WITH told AS (INSERT INTO changes (kind, id) SELECT * FROM unnest($1::text[], $2::uuid[]) RETURNING seq, kind, id) \
                   SELECT pg_notify($3, string_agg(seq || kind || id, ',')) FROM told";
        tx.rows(sql, &[&kinds, &ids, &channel]).await?;
    }
    Ok(())
}

/// Removes rows that everybody has read or has given up on, some at a time.
pub(super) async fn purge(pool: &Pool) -> Result<(), Error> {
    loop {
        let sql = "DELETE FROM changes WHERE seq = ANY(ARRAY(SELECT seq FROM changes WHERE at < now() - make_interval(secs => $1) \
                   ORDER BY at LIMIT 5000 FOR UPDATE SKIP LOCKED)) RETURNING true";
        if pool.write(sql, &[&KEPT_SECS]).await? < 5000 {
            return Ok(());
        }
    }
}

/// A change as a letter and an identifier.
fn written(news: &News) -> (&'static str, Uuid) {
    match news {
        News::SessionEnded(id) => ("e", Uuid::from_bytes(*id.as_bytes())),
        News::SessionChanged(id) => ("c", Uuid::from_bytes(*id.as_bytes())),
        News::User(id) => ("u", Uuid::from_bytes(*id.as_bytes())),
        News::ApiTokenEnded(id) => ("t", Uuid::from_bytes(*id.as_bytes())),
        News::SigningKeys => ("k", Uuid::nil()),
        News::Everything => ("*", Uuid::nil()),
    }
}

/// A letter that a newer release writes may mean anything.
fn read(kind: &str, id: Uuid) -> News {
    match kind {
        "e" => News::SessionEnded(SessionId::from_bytes(*id.as_bytes())),
        "c" => News::SessionChanged(SessionId::from_bytes(*id.as_bytes())),
        "u" => News::User(UserId::from_bytes(*id.as_bytes())),
        "t" => News::ApiTokenEnded(ApiTokenId::from_bytes(*id.as_bytes())),
        "k" => News::SigningKeys,
        _ => News::Everything,
    }
}

/// A change of a row with the columns `seq`, `kind` and `id`, after `skip` others; `None`: the row has none.
pub(super) fn of_row(row: &Row, skip: usize) -> Result<Option<(i64, News)>, tokio_postgres::Error> {
    let Some(seq) = row.try_get::<_, Option<i64>>(skip)? else { return Ok(None) };
    Ok(Some((seq, read(row.try_get(skip + 1)?, row.try_get(skip + 2)?))))
}

/// The changes of a notification. What can't be read is left out: it is in the table as well.
pub(super) fn of_notification(payload: &str) -> impl Iterator<Item = (i64, News)> {
    payload.split(',').filter_map(|change| {
        let digits = change.find(|c: char| !c.is_ascii_digit())?;
        let (seq, rest) = change.split_at_checked(digits)?;
        let (kind, id) = rest.split_at_checked(1)?;
        Some((seq.parse().ok()?, read(kind, Uuid::try_parse(id).ok()?)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let all = [
            News::SessionEnded(SessionId::new()),
            News::SessionChanged(SessionId::new()),
            News::User(UserId::new()),
            News::ApiTokenEnded(ApiTokenId::new()),
            News::SigningKeys,
            News::Everything,
        ];
        let payload: Vec<String> = all
            .iter()
            .zip(7..)
            .map(|(news, seq)| {
                let (kind, id) = written(news);
                format!("{seq}{kind}{id}")
            })
            .collect();
        let read: Vec<(i64, News)> = of_notification(&payload.join(",")).collect();
        assert_eq!(read, (7..).zip(all).collect::<Vec<_>>()[..all.len()]);
    }

    proptest! {
        #[test]
        fn any_payload_is_read_or_left_out(payload in "[0-9]{0,25}[a-zé]?[-0-9a-f]{0,40},?.{0,9}") {
            assert!(of_notification(&payload).count() <= 12);
        }
    }
}
