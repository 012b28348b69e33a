//! Sessions. A session exists only beside its account: the row of that is locked while one is added.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Row;
use uuid::Uuid;

use super::changes;
use super::pool::{Failure, Pool, Tx, Work};
use super::rows::{id, ids, record_of, records};
use crate::clock::Timestamp;
use crate::model::{Amr, Fitness, Generation, KnownToken, Rotation, Session, SessionId, SessionTouch, User, UserId};
use crate::store::{Error, News, SessionSelector, record, rules};

pub(super) struct Insert<'a> {
    pub(super) session: &'a Session,
    pub(super) max_per_user: Option<u32>,
}

#[async_trait]
impl Work for Insert<'_> {
    type Done = Vec<SessionId>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<SessionId>, Failure> {
        let record = record::encode(self.session)?;
        let (session, user) = (id(self.session.id.as_bytes()), id(self.session.user.as_bytes()));
        // Who counts sessions does so alone; who does not only needs the account to stay.
        let owner = match self.max_per_user {
            Some(_) => "SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE",
            None => "SELECT 1 FROM users WHERE id = $1 FOR KEY SHARE",
        };
        tx.one(owner, &[&user]).await?.ok_or(Error::Stale)?;
        let sql = "INSERT INTO sessions (id, user_id, expires_at, record) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        if tx.change(sql, &[&session, &user, &self.session.expires_at.as_millis(), &record]).await? == 0 {
            return Err(Error::Conflict.into());
        }
        let Some(max) = self.max_per_user else { return Ok(Vec::new()) };
        // The new one always stays.
        let others = i64::from(max.saturating_sub(1));
        let sql = "DELETE FROM sessions WHERE id = ANY(ARRAY(\
                   SELECT id FROM sessions WHERE user_id = $1 AND id <> $2 ORDER BY id DESC OFFSET $3)) RETURNING id";
        let evicted = sorted(&tx.rows(sql, &[&user, &session, &others]).await?)?;
        tell_ended(tx, &evicted).await?;
        Ok(evicted)
    }
}

pub(super) struct Rotate {
    pub(super) id: SessionId,
    pub(super) presented: Generation,
    pub(super) next: KnownToken,
    pub(super) grace: Duration,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Work for Rotate {
    type Done = Rotation;

    async fn run(&self, tx: &Tx<'_>) -> Result<Rotation, Failure> {
        let Some(session) = locked(tx, self.id).await? else { return Ok(Rotation::Gone) };
        let rotation = rules::rotated(session, self.presented, self.next, self.grace, self.now);
        if let Rotation::Rotated(session) | Rotation::Grace(session) = &rotation {
            write(tx, session).await?;
        }
        Ok(rotation)
    }

    fn did_something(done: &Rotation) -> bool {
        matches!(done, Rotation::Rotated(_) | Rotation::Grace(_))
    }
}

pub(super) struct SetStanding {
    pub(super) id: SessionId,
    pub(super) amr: Amr,
    pub(super) fitness: Fitness,
}

#[async_trait]
impl Work for SetStanding {
    type Done = bool;

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, Failure> {
        let Some(session) = locked(tx, self.id).await? else { return Ok(false) };
        write(tx, &Session { amr: self.amr, fitness: self.fitness, ..session }).await?;
        Ok(true)
    }
}

/// Touches of some sessions, in one transaction that need not be durable at once.
pub(super) struct Touch<'a>(pub(super) &'a [SessionTouch]);

#[async_trait]
impl Work for Touch<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        tx.change("SET LOCAL synchronous_commit = off", &[]).await?;
        let touched: Vec<Uuid> = self.0.iter().map(|touch| id(touch.id.as_bytes())).collect();
        // All who lock several rows do so in the order of the identifiers, and never wait for each other in a circle.
        let sql = "SELECT record FROM sessions WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";
        let sessions: Vec<Session> = records(&tx.rows(sql, &[&touched]).await?)?;
        let mut sessions: BTreeMap<SessionId, (Session, bool)> =
            sessions.into_iter().map(|session| (session.id, (session, false))).collect();
        let mut first_seen = Vec::new();
        for touch in self.0 {
            if let Some((session, changed)) = sessions.get_mut(&touch.id) {
                let before = session.clone();
                rules::touch(session, touch);
                *changed |= *session != before;
                if before.successor_seen_at != session.successor_seen_at {
                    first_seen.push(News::SessionChanged(session.id));
                }
            }
        }
        let written = sessions.values().filter(|(_, changed)| *changed).map(|(session, _)| session);
        let (mut changed, mut encoded) = (Vec::new(), Vec::new());
        for session in written {
            changed.push(id(session.id.as_bytes()));
            encoded.push(record::encode(session)?);
        }
        if changed.is_empty() {
            return Ok(());
        }
        let sql =
            "UPDATE sessions SET record = new.record FROM unnest($1::uuid[], $2::bytea[]) AS new (id, record) WHERE sessions.id = new.id";
        tx.change(sql, &[&changed, &encoded]).await?;
        Ok(changes::tell(tx, &first_seen).await?)
    }
}

pub(super) struct Delete(pub(super) SessionSelector);

#[async_trait]
impl Work for Delete {
    type Done = Vec<SessionId>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Vec<SessionId>, Failure> {
        const BY_USER: &str = "DELETE FROM sessions WHERE id = ANY(ARRAY(\
                               SELECT id FROM sessions WHERE user_id = $1 AND id <> $2 ORDER BY id FOR UPDATE)) RETURNING id";
        let rows = match self.0 {
            SessionSelector::One(one) => tx.rows("DELETE FROM sessions WHERE id = $1 RETURNING id", &[&id(one.as_bytes())]).await?,
            SessionSelector::OfUser(user) => tx.rows(BY_USER, &[&id(user.as_bytes()), &Uuid::nil()]).await?,
            SessionSelector::OfUserExcept(user, kept) => tx.rows(BY_USER, &[&id(user.as_bytes()), &id(kept.as_bytes())]).await?,
        };
        let ended = sorted(&rows)?;
        tell_ended(tx, &ended).await?;
        Ok(ended)
    }
}

pub(super) async fn get(pool: &Pool, session: SessionId) -> Result<Option<Session>, Error> {
    let row = pool.read_one("SELECT record FROM sessions WHERE id = $1", &[&id(session.as_bytes())]).await?;
    row.map(|row| record_of(&row, 0)).transpose()
}

pub(super) async fn with_user(pool: &Pool, session: SessionId) -> Result<Option<(Session, User)>, Error> {
    let sql = "SELECT sessions.record, users.record FROM sessions JOIN users ON users.id = sessions.user_id WHERE sessions.id = $1";
    let row = pool.read_one(sql, &[&id(session.as_bytes())]).await?;
    row.map(|row| Ok((record_of(&row, 0)?, record_of(&row, 1)?))).transpose()
}

/// Oldest first, since identifiers sort by the time of making.
pub(super) async fn of_user(pool: &Pool, user: UserId) -> Result<Vec<Session>, Error> {
    records(&pool.read("SELECT record FROM sessions WHERE user_id = $1 ORDER BY id", &[&id(user.as_bytes())]).await?)
}

/// A session that nobody else changes until the end of the transaction.
async fn locked(tx: &Tx<'_>, session: SessionId) -> Result<Option<Session>, Failure> {
    let row = tx.one("SELECT record FROM sessions WHERE id = $1 FOR NO KEY UPDATE", &[&id(session.as_bytes())]).await?;
    Ok(row.map(|row| record_of(&row, 0)).transpose()?)
}

async fn write(tx: &Tx<'_>, session: &Session) -> Result<(), Failure> {
    let sql = "UPDATE sessions SET record = $2 WHERE id = $1";
    tx.change(sql, &[&id(session.id.as_bytes()), &record::encode(session)?]).await?;
    Ok(changes::tell(tx, &[News::SessionChanged(session.id)]).await?)
}

async fn tell_ended(tx: &Tx<'_>, ended: &[SessionId]) -> Result<(), Failure> {
    let news: Vec<News> = ended.iter().copied().map(News::SessionEnded).collect();
    Ok(changes::tell(tx, &news).await?)
}

fn sorted(rows: &[Row]) -> Result<Vec<SessionId>, Error> {
    let mut found = ids(rows, SessionId::from_bytes)?;
    found.sort_unstable();
    Ok(found)
}
