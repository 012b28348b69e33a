//! Personal API tokens; they exist only beside their account, as sessions do.

use async_trait::async_trait;
use uuid::Uuid;

use super::changes;
use super::pool::{Failure, Pool, Tx, Work};
use super::rows::{id, record_of, records};
use crate::clock::Timestamp;
use crate::model::{ApiToken, ApiTokenId, Digest, User, UserId};
use crate::store::{Error, News, record};

pub(super) struct Insert<'a>(pub(super) &'a ApiToken);

#[async_trait]
impl Work for Insert<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        let record = record::encode(self.0)?;
        let user = id(self.0.user.as_bytes());
        tx.one("SELECT 1 FROM users WHERE id = $1 FOR KEY SHARE", &[&user]).await?.ok_or(Error::Stale)?;
        let expires_at = self.0.expires_at.map(Timestamp::as_millis);
        let sql = "INSERT INTO api_tokens (id, user_id, digest, expires_at, record) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let digest = self.0.digest.as_bytes().as_slice();
        match tx.change(sql, &[&id(self.0.id.as_bytes()), &user, &digest, &expires_at, &record]).await? {
            0 => Err(Error::Conflict.into()),
            _ => Ok(()),
        }
    }
}

pub(super) struct Delete {
    pub(super) user: UserId,
    pub(super) token: ApiTokenId,
}

#[async_trait]
impl Work for Delete {
    type Done = bool;

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, Failure> {
        let sql = "DELETE FROM api_tokens WHERE id = $1 AND user_id = $2";
        let was_there = tx.change(sql, &[&id(self.token.as_bytes()), &id(self.user.as_bytes())]).await? > 0;
        if was_there {
            changes::tell(tx, &[News::ApiTokenEnded(self.token)]).await?;
        }
        Ok(was_there)
    }

    fn did_something(done: &bool) -> bool {
        *done
    }
}

/// When tokens were used, in one transaction that need not be durable at once.
pub(super) struct Touch<'a>(pub(super) &'a [(ApiTokenId, Timestamp)]);

#[async_trait]
impl Work for Touch<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        tx.change("SET LOCAL synchronous_commit = off", &[]).await?;
        let used: Vec<Uuid> = self.0.iter().map(|(token, _)| id(token.as_bytes())).collect();
        let sql = "SELECT record FROM api_tokens WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";
        let mut tokens: Vec<ApiToken> = records(&tx.rows(sql, &[&used]).await?)?;
        let (mut changed, mut encoded) = (Vec::new(), Vec::new());
        for token in &mut tokens {
            let latest = self.0.iter().filter(|(used, _)| *used == token.id).map(|(_, at)| *at).max();
            if latest > token.last_used_at {
                token.last_used_at = latest;
                changed.push(id(token.id.as_bytes()));
                encoded.push(record::encode(token)?);
            }
        }
        let sql = "UPDATE api_tokens SET record = new.record FROM unnest($1::uuid[], $2::bytea[]) AS new (id, record) WHERE api_tokens.id = new.id";
        tx.change(sql, &[&changed, &encoded]).await?;
        Ok(())
    }
}

/// Oldest first, since identifiers sort by the time of making.
pub(super) async fn of_user(pool: &Pool, user: UserId) -> Result<Vec<ApiToken>, Error> {
    records(&pool.read("SELECT record FROM api_tokens WHERE user_id = $1 ORDER BY id", &[&id(user.as_bytes())]).await?)
}

pub(super) async fn with_user(pool: &Pool, digest: &Digest) -> Result<Option<(ApiToken, User)>, Error> {
    let sql = "SELECT api_tokens.record, users.record FROM api_tokens JOIN users ON users.id = api_tokens.user_id \
               WHERE api_tokens.digest = $1 ORDER BY api_tokens.id LIMIT 1";
    let row = pool.read_one(sql, &[&digest.as_bytes().as_slice()]).await?;
    row.map(|row| Ok((record_of(&row, 0)?, record_of(&row, 1)?))).transpose()
}
