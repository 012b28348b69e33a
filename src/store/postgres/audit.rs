//! The audit log.

use uuid::Uuid;

use super::conditions::Conditions;
use super::pool::Pool;
use super::rows::{id, records};
use crate::clock::Timestamp;
use crate::model::{Action, AuditEvent};
use crate::store::{AuditQuery, Error, record};

pub(super) async fn append(pool: &Pool, event: &AuditEvent) -> Result<(), Error> {
    let user = event.user.map(|user| id(user.as_bytes()));
    let sql = "INSERT INTO audit (at, id, user_id, action, record) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING true";
    let record = record::encode(event)?;
    match pool.write(sql, &[&event.at.as_millis(), &id(event.id.as_bytes()), &user, &event.action.as_str(), &record]).await? {
        0 => Err(Error::Conflict),
        _ => Ok(()),
    }
}

/// Newest first.
pub(super) async fn list(pool: &Pool, query: &AuditQuery) -> Result<Vec<AuditEvent>, Error> {
    let since = query.since.map_or(i64::MIN, Timestamp::as_millis);
    let [limit, offset] = [query.limit, query.offset].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    let user: Option<Uuid> = query.user.map(|user| id(user.as_bytes()));
    let action = query.action.map(Action::as_str);
    let mut conditions = Conditions::new("SELECT record FROM audit WHERE at >= $1", &[&since, &limit, &offset]);
    if let Some(user) = &user {
        conditions.and("user_id = ", user, "");
    }
    if let Some(action) = &action {
        conditions.and("action = ", action, "");
    }
    let (sql, values) = conditions.ending(" ORDER BY at DESC, id DESC LIMIT $2 OFFSET $3");
    records(&pool.read(&sql, &values).await?)
}

/// Removes up to `count` events before `before` and says how many.
pub(super) async fn purge(pool: &Pool, before: Timestamp, count: i64) -> Result<usize, Error> {
    let sql = "DELETE FROM audit WHERE ctid = ANY(ARRAY(\
               SELECT ctid FROM audit WHERE at < $1 ORDER BY at, id LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING true";
    pool.write(sql, &[&before.as_millis(), &count]).await
}
