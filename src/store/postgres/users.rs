//! Accounts, and the addresses of those that were deleted. Whoever changes an account or what belongs to it locks its row
//! first, so that transactions about one account come one after the other.

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::changes;
use super::conditions::Conditions;
use super::explain::is_unique_violation;
use super::keys::refuse_old_key;
use super::pool::{Failure, Pool, Tx, Work};
use super::rows::{id, ids, record_of, records};
use super::search::{grams, grams_of_search, searched};
use crate::clock::Timestamp;
use crate::model::{ApiTokenId, Email, SessionId, User, UserId};
use crate::store::{Error, News, UserQuery, record};

pub(super) struct Insert<'a> {
    pub(super) user: &'a User,
    pub(super) allow_retired: bool,
}

#[async_trait]
impl Work for Insert<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        let columns = Columns::of(self.user)?;
        let sql = "INSERT INTO users (id, email, searched, grams, groups, revision, record) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                   ON CONFLICT DO NOTHING";
        if tx.change(sql, &columns.values()).await? == 0 {
            return Err(Error::Conflict.into());
        }
        // After the row: whoever deletes the account that has this address now keeps us waiting there.
        let retired = retired(&self.user.email);
        if !self.allow_retired && tx.one("SELECT 1 FROM retired_emails WHERE digest = $1", &[&retired.as_slice()]).await?.is_some() {
            return Err(Error::Retired.into());
        }
        refuse_old_key(tx, &self.user.data_key.0).await?;
        Ok(changes::tell(tx, &[News::User(self.user.id)]).await?)
    }
}

pub(super) struct Replace<'a>(pub(super) &'a User);

#[async_trait]
impl Work for Replace<'_> {
    type Done = User;

    async fn run(&self, tx: &Tx<'_>) -> Result<User, Failure> {
        let user = put(tx, self.0).await?;
        changes::tell(tx, &[News::User(user.id)]).await?;
        Ok(user)
    }
}

pub(super) struct ReplaceAndEndSessions<'a>(pub(super) &'a User);

#[async_trait]
impl Work for ReplaceAndEndSessions<'_> {
    type Done = (User, Vec<SessionId>);

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Done, Failure> {
        let user = put(tx, self.0).await?;
        let ended = end_sessions(tx, user.id).await?;
        let news: Vec<News> = [News::User(user.id)].into_iter().chain(ended.iter().copied().map(News::SessionEnded)).collect();
        changes::tell(tx, &news).await?;
        Ok((user, ended))
    }
}

/// Puts `user` in the place of the stored account, and returns it as it is then.
async fn put(tx: &Tx<'_>, user: &User) -> Result<User, Failure> {
    let row = tx.one("SELECT revision FROM users WHERE id = $1 FOR UPDATE", &[&id(user.id.as_bytes())]).await?;
    let stored: i64 = row.ok_or(Error::Stale)?.try_get(0)?;
    if u64::try_from(stored) != Ok(user.revision) {
        return Err(Error::Stale.into());
    }
    let user = User { revision: user.revision.saturating_add(1), ..user.clone() };
    let columns = Columns::of(&user)?;
    let sql = "UPDATE users SET email = $2, searched = $3, grams = $4, groups = $5, revision = $6, record = $7 WHERE id = $1";
    tx.change(sql, &columns.values())
        .await
        .map_err(|error| if is_unique_violation(&error) { Failure::Store(Error::Conflict) } else { error.into() })?;
    Ok(user)
}

/// Removes all sessions of an account whose row is locked, and says which.
async fn end_sessions(tx: &Tx<'_>, user: UserId) -> Result<Vec<SessionId>, Failure> {
    let rows = tx.rows("DELETE FROM sessions WHERE user_id = $1 RETURNING id", &[&id(user.as_bytes())]).await?;
    let mut ended = ids(&rows, SessionId::from_bytes)?;
    ended.sort_unstable();
    Ok(ended)
}

pub(super) struct Delete {
    pub(super) user: UserId,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Work for Delete {
    type Done = Option<Vec<SessionId>>;

    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Done, Failure> {
        let user = id(self.user.as_bytes());
        // From here on nobody adds anything that belongs to it.
        let Some(row) = tx.one("SELECT email FROM users WHERE id = $1 FOR UPDATE", &[&user]).await? else { return Ok(None) };
        let email: &str = row.try_get(0)?;
        let sessions = end_sessions(tx, self.user).await?;
        let tokens = ids(&tx.rows("DELETE FROM api_tokens WHERE user_id = $1 RETURNING id", &[&user]).await?, ApiTokenId::from_bytes)?;
        tx.change("DELETE FROM users WHERE id = $1", &[&user]).await?;
        let sql = "INSERT INTO retired_emails (digest, at) VALUES ($1, $2) ON CONFLICT (digest) DO UPDATE SET at = excluded.at";
        tx.change(sql, &[&digest_of(email).as_slice(), &self.now.as_millis()]).await?;
        let mut news = vec![News::User(self.user)];
        news.extend(sessions.iter().copied().map(News::SessionEnded));
        news.extend(tokens.into_iter().map(News::ApiTokenEnded));
        changes::tell(tx, &news).await?;
        Ok(Some(sessions))
    }

    fn did_something(done: &Self::Done) -> bool {
        done.is_some()
    }
}

pub(super) async fn get(pool: &Pool, user: UserId) -> Result<Option<User>, Error> {
    let row = pool.read_one("SELECT record FROM users WHERE id = $1", &[&id(user.as_bytes())]).await?;
    row.map(|row| record_of(&row, 0)).transpose()
}

pub(super) async fn by_email(pool: &Pool, email: &Email) -> Result<Option<User>, Error> {
    let row = pool.read_one("SELECT record FROM users WHERE email = $1", &[&email.as_str()]).await?;
    row.map(|row| record_of(&row, 0)).transpose()
}

/// Identifiers sort by the time of making.
pub(super) async fn list(pool: &Pool, query: &UserQuery) -> Result<Vec<User>, Error> {
    let after = query.after.map_or(Uuid::nil(), |after| id(after.as_bytes()));
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let search = query.search.as_deref().map(str::to_lowercase).filter(|text| !text.is_empty());
    let group = query.group.as_ref().map(|group| vec![group.as_str()]);
    let parts = search.as_deref().map(grams_of_search).filter(|parts| !parts.is_empty());
    // Name and address are apart by a line end, which neither holds.
    if search.as_deref().is_some_and(|text| text.contains('\n')) {
        return Ok(Vec::new());
    }
    let those = |before: &str, after_it: &str| {
        let mut conditions = Conditions::new(before, &[&after, &limit]);
        if let Some(parts) = &parts {
            conditions.and("grams @> ", parts, "");
        }
        if let Some(text) = &search {
            conditions.and("strpos(searched, ", text, ") > 0");
        }
        if let Some(group) = &group {
            conditions.and("groups @> ", group, "");
        }
        conditions.ending(after_it)
    };
    if parts.is_none() && group.is_none() {
        let (sql, values) = those("SELECT record FROM users WHERE id > $1", " ORDER BY id LIMIT $2");
        return records(&pool.read(&sql, &values).await?);
    }
    // What many have is found among the next few, what few have by its index. Nobody tells the planner which of both it
    // is, and the wrong way reads all accounts: so first the one, for a bounded number, then the other.
    let (sql, values) = those(NEXT_FEW, " ORDER BY id LIMIT $2");
    let near = pool.read(&sql, &values).await?;
    if near.len() >= query.limit {
        return records(&near);
    }
    let (sql, values) = those(BY_INDEX, BY_INDEX_END);
    records(&pool.read(&sql, &values).await?)
}

/// The accounts that come next, of which those are taken that fit.
const NEXT_FEW: &str = "SELECT record FROM (SELECT id, searched, grams, groups, record FROM users WHERE id > $1 ORDER BY id LIMIT 2000) \
                        AS next WHERE true";

/// All that fit, of which those are taken that come next.
const BY_INDEX: &str = "WITH found AS MATERIALIZED (SELECT id FROM users WHERE true";
const BY_INDEX_END: &str =
    ") SELECT record FROM users WHERE id = ANY(ARRAY(SELECT id FROM found WHERE id > $1 ORDER BY id LIMIT $2)) ORDER BY id";

/// A row as it is written.
pub(super) struct Columns<'a> {
    pub(super) id: Uuid,
    pub(super) email: &'a str,
    pub(super) searched: String,
    pub(super) grams: Vec<i32>,
    pub(super) groups: Vec<&'a str>,
    pub(super) revision: i64,
    pub(super) record: Vec<u8>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(user: &'a User) -> Result<Self, Error> {
        let searched = searched(user);
        Ok(Self {
            id: id(user.id.as_bytes()),
            email: user.email.as_str(),
            grams: grams(&searched),
            searched,
            groups: user.groups.iter().map(crate::model::Group::as_str).collect(),
            revision: i64::try_from(user.revision).map_err(|_| Error::Corrupt("a revision beyond all".to_owned()))?,
            record: record::encode(user)?,
        })
    }

    fn values(&self) -> [&(dyn ToSql + Sync); 7] {
        [&self.id, &self.email, &self.searched, &self.grams, &self.groups, &self.revision, &self.record]
    }
}

/// What is remembered of a deleted account's address: enough to know it again, not the address.
fn retired(email: &Email) -> [u8; 32] {
    digest_of(email.as_str())
}

fn digest_of(email: &str) -> [u8; 32] {
    Sha256::digest(email).into()
}
