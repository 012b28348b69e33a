//! What belongs to the installation: signing keys and small named values.

use async_trait::async_trait;

use super::changes;
use super::pool::{Failure, Pool, Tx, Work};
use super::rows::{id, record_of, records, unexpected};
use super::users::Columns;
use crate::clock::Timestamp;
use crate::model::{Kid, Sealed, User, UserId};
use crate::store::wrapped::{Rewrap, STORAGE_KEYS, Wrapped, is_wrapped_value, require_current};
use crate::store::{Error, News, SigningKeyRecord, record};

pub(super) struct Insert<'a>(pub(super) &'a SigningKeyRecord);

#[async_trait]
impl Work for Insert<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        refuse_old_key(tx, &self.0.private.0).await?;
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

pub(super) struct Rotate<'a> {
    pub(super) new: &'a [SigningKeyRecord],
    pub(super) at: Timestamp,
}

#[async_trait]
impl Work for Rotate<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        // One after the other of those who rotate at once: each has to see what the one before it has added.
        tx.change("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE", &[]).await?;
        let keys: Vec<SigningKeyRecord> = records(&tx.rows("SELECT record FROM signing_keys ORDER BY kid", &[]).await?)?;
        for key in self.new {
            refuse_old_key(tx, &key.private.0).await?;
            let sql = "INSERT INTO signing_keys (kid, record) VALUES ($1, $2) ON CONFLICT (kid) DO UPDATE SET record = excluded.record";
            tx.change(sql, &[&key.kid.0, &record::encode(key)?]).await?;
        }
        for mut key in keys {
            let is_replaced = self.new.iter().any(|new| new.algorithm == key.algorithm) && self.new.iter().all(|new| new.kid != key.kid);
            if is_replaced && key.retired_at.is_none() {
                key.retired_at = Some(self.at);
                tx.change("UPDATE signing_keys SET record = $2 WHERE kid = $1", &[&key.kid.0, &record::encode(&key)?]).await?;
            }
        }
        Ok(changes::tell(tx, &[News::SigningKeys]).await?)
    }
}

pub(super) struct Remove<'a>(pub(super) &'a [Kid]);

#[async_trait]
impl Work for Remove<'_> {
    type Done = u64;

    async fn run(&self, tx: &Tx<'_>) -> Result<u64, Failure> {
        let kids: Vec<&str> = self.0.iter().map(|kid| kid.0.as_str()).collect();
        let sql = "SELECT record FROM signing_keys WHERE kid = ANY($1) ORDER BY kid FOR UPDATE";
        let keys: Vec<SigningKeyRecord> = records(&tx.rows(sql, &[&kids]).await?)?;
        let retired: Vec<&str> = keys.iter().filter(|key| key.retired_at.is_some()).map(|key| key.kid.0.as_str()).collect();
        let removed = tx.change("DELETE FROM signing_keys WHERE kid = ANY($1)", &[&retired]).await?;
        if removed > 0 {
            changes::tell(tx, &[News::SigningKeys]).await?;
        }
        Ok(removed)
    }
}

/// [`Error::OldKey`]: this is wrapped by a storage key that was replaced. A rotation that begins now waits for the end of
/// this transaction, so that it finds what is written in it.
pub(super) async fn refuse_old_key(tx: &Tx<'_>, sealed: &[u8]) -> Result<(), Failure> {
    Ok(require_current(storage_keys(tx).await?.as_deref(), sealed)?)
}

async fn storage_keys(tx: &Tx<'_>) -> Result<Option<Vec<u8>>, Failure> {
    let row = tx.one("SELECT value FROM meta WHERE name = $1 FOR SHARE", &[&STORAGE_KEYS]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

pub(super) struct RewrapAll<'a>(pub(super) &'a [Rewrap]);

#[async_trait]
impl Work for RewrapAll<'_> {
    type Done = u64;

    async fn run(&self, tx: &Tx<'_>) -> Result<u64, Failure> {
        let mut done = 0;
        let keys = storage_keys(tx).await?;
        let mut these: Vec<&Rewrap> = self.0.iter().collect();
        // In one order, so that two who do the same do not wait for each other.
        these.sort_by(|a, b| a.what.cmp(&b.what));
        for Rewrap { what, from, to } in these {
            require_current(keys.as_deref(), &to.0)?;
            let changed = match what {
                Wrapped::Value(name) => {
                    tx.change("UPDATE meta SET value = $3 WHERE name = $1 AND value = $2", &[name, &from.0, &to.0]).await?
                }
                Wrapped::SigningKey(kid) => {
                    let row = tx.one("SELECT record FROM signing_keys WHERE kid = $1 FOR UPDATE", &[&kid.0]).await?;
                    match row.map(|row| record_of::<SigningKeyRecord>(&row, 0)).transpose()? {
                        Some(key) if key.private == *from => {
                            let key = SigningKeyRecord { private: to.clone(), ..key };
                            tx.change("UPDATE signing_keys SET record = $2 WHERE kid = $1", &[&kid.0, &record::encode(&key)?]).await?
                        }
                        Some(_) | None => 0,
                    }
                }
                Wrapped::DataKey(user) => rewrap_data_key(tx, *user, from, to).await?,
            };
            done += changed;
        }
        Ok(done)
    }
}

/// Nobody is told: what processes keep in memory of an account is the same as before.
async fn rewrap_data_key(tx: &Tx<'_>, user: UserId, from: &Sealed, to: &Sealed) -> Result<u64, Failure> {
    let row = tx.one("SELECT record FROM users WHERE id = $1 FOR UPDATE", &[&id(user.as_bytes())]).await?;
    let Some(user) = row.map(|row| record_of::<User>(&row, 0)).transpose()?.filter(|user| user.data_key == *from) else {
        return Ok(0);
    };
    // Who has read the account before must not write the old key back.
    let user = User { data_key: to.clone(), revision: user.revision.saturating_add(1), ..user };
    let columns = Columns::of(&user)?;
    let sql = "UPDATE users SET revision = $2, record = $3 WHERE id = $1";
    Ok(tx.change(sql, &[&columns.id, &columns.revision, &columns.record]).await?)
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

/// Sets a value if it still is as expected.
pub(super) struct SwapMeta<'a> {
    pub(super) name: &'a str,
    pub(super) expected: Option<&'a [u8]>,
    pub(super) new: Option<&'a [u8]>,
}

#[async_trait]
impl Work for SwapMeta<'_> {
    type Done = bool;

    fn did_something(done: &bool) -> bool {
        *done
    }

    async fn run(&self, tx: &Tx<'_>) -> Result<bool, Failure> {
        if let Some(new) = self.new {
            record::fits(new)?;
        }
        let row = tx.one("SELECT value FROM meta WHERE name = $1 FOR UPDATE", &[&self.name]).await?;
        let found: Option<Vec<u8>> = row.map(|row| row.try_get(0)).transpose()?;
        if found.as_deref() != self.expected {
            return Ok(false);
        }
        if let Some(new) = self.new.filter(|_| is_wrapped_value(self.name)) {
            refuse_old_key(tx, new).await?;
        }
        let changed = match (found, self.new) {
            // Who finds none may not be the only one.
            (None, Some(new)) => {
                tx.change("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING", &[&self.name, &new]).await?
            }
            (Some(_), Some(new)) => tx.change("UPDATE meta SET value = $2 WHERE name = $1", &[&self.name, &new]).await?,
            (Some(_), None) => tx.change("DELETE FROM meta WHERE name = $1", &[&self.name]).await?,
            (None, None) => 1,
        };
        Ok(changed == 1)
    }
}
