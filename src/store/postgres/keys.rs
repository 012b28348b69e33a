//! What belongs to the installation: signing keys and small named values.

use async_trait::async_trait;

use super::changes;
use super::pool::{Failure, Pool, Tx, Work};
use super::rows::{records, unexpected};
use crate::clock::Timestamp;
use crate::model::Kid;
use crate::store::{Error, News, SigningKeyRecord, record};

pub(super) struct Insert<'a>(pub(super) &'a SigningKeyRecord);

#[async_trait]
impl Work for Insert<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        let sql = "INSERT INTO signing_keys (kid, record) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        match tx.change(sql, &[&self.0.kid.0, &record::encode(self.0)?]).await? {
            0 => Ok(()),
            _ => Ok(changes::tell(tx, &[News::SigningKeys]).await?),
        }
    }
}

pub(super) struct Retire<'a> {
    pub(super) kids: &'a [Kid],
    pub(super) at: Timestamp,
}

#[async_trait]
impl Work for Retire<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        let kids: Vec<&str> = self.kids.iter().map(|kid| kid.0.as_str()).collect();
        let sql = "SELECT record FROM signing_keys WHERE kid = ANY($1) ORDER BY kid FOR UPDATE";
        let keys: Vec<SigningKeyRecord> = records(&tx.rows(sql, &[&kids]).await?)?;
        let mut changed = false;
        for mut key in keys.into_iter().filter(|key| key.retired_at.is_none()) {
            key.retired_at = Some(self.at);
            tx.change("UPDATE signing_keys SET record = $2 WHERE kid = $1", &[&key.kid.0, &record::encode(&key)?]).await?;
            changed = true;
        }
        if changed {
            changes::tell(tx, &[News::SigningKeys]).await?;
        }
        Ok(())
    }
}

pub(super) async fn all(pool: &Pool) -> Result<Vec<SigningKeyRecord>, Error> {
    let mut keys: Vec<SigningKeyRecord> = records(&pool.read("SELECT record FROM signing_keys ORDER BY kid", &[]).await?)?;
    keys.sort_by(|a, b| (a.created_at, &a.kid).cmp(&(b.created_at, &b.kid)));
    Ok(keys)
}

pub(super) async fn meta(pool: &Pool, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let row = pool.read_one("SELECT value FROM meta WHERE name = $1", &[&name]).await?;
    row.map(|row| row.try_get(0)).transpose().map_err(unexpected)
}

pub(super) async fn swap_meta(pool: &Pool, name: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, Error> {
    if let Some(new) = new {
        record::fits(new)?;
    }
    let changed = match (expected, new) {
        (None, Some(new)) => {
            pool.write("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true", &[&name, &new]).await?
        }
        (Some(old), Some(new)) => {
            pool.write("UPDATE meta SET value = $3 WHERE name = $1 AND value = $2 RETURNING true", &[&name, &old, &new]).await?
        }
        (Some(old), None) => pool.write("DELETE FROM meta WHERE name = $1 AND value = $2 RETURNING true", &[&name, &old]).await?,
        (None, None) => return Ok(meta(pool, name).await?.is_none()),
    };
    Ok(changed == 1)
}
