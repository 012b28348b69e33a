//! A whole state in and out. Going out it is one snapshot, read through cursors on a connection of its own, so that what
//! others write meanwhile is not in it. Coming in it is written many rows at a time, in transactions that hold the mark of
//! the import in place: whoever takes the target over waits for the last of them, and after that there is none.

use async_trait::async_trait;
use tokio::time::{Duration, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::PostgresStore;
use super::audit;
use super::chain;
use super::explain;
use super::pool::{Failure, Tx, Work};
use super::presence;
use super::rows::{id, record_of, unexpected};
use super::spent;
use super::users::Columns;
use crate::clock::Timestamp;
use crate::model::{ApiToken, Digest, Lock, LockKey, Session, User, UserId};
use crate::store::chain::{Chain, StoredEvent};
use crate::store::lock_key::{decoded, encoded, is_owned};
use crate::store::transfer::{BATCH, Export, Item, Kind, MARKER, Transfer};
use crate::store::{Error, Purpose, SigningKeyRecord, record};

/// How long one batch may take to be read, sorting included.
const PATIENCE: Duration = Duration::from_secs(120);

#[async_trait]
impl Transfer for PostgresStore {
    async fn others(&self) -> Result<u64, Error> {
        presence::followers(self.pool()).await
    }

    async fn export(&self) -> Result<Box<dyn Export>, Error> {
        let connector = self.pool().connector();
        let (client, _driver) = connector.connect(|_| ()).await.map_err(|failed| failed.explain(connector.settings()))?;
        // The target may be slow to take a batch; the snapshot waits for it.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '110s'; \
                     SET LOCAL idle_in_transaction_session_timeout = '10min'";
        client.batch_execute(begin).await.map_err(|error| explain::running(&error))?;
        Ok(Box::new(Reading { client, kind: Some(Kind::Meta), declared: false }))
    }

    async fn import(&self, marker: &[u8], items: &[Item]) -> Result<(), Error> {
        self.pool().transaction(&Import { marker, items }).await
    }

    async fn discard_import(&self, marker: &[u8]) -> Result<(), Error> {
        self.pool().transaction(&Discard { marker }).await
    }
}

/// A snapshot, and how far it was read. Dropped, it ends with its connection.
struct Reading {
    client: Client,
    /// `None`: to the end.
    kind: Option<Kind>,
    /// Whether there is a cursor for it.
    declared: bool,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[async_trait]
impl Export for Reading {
    async fn next(&mut self) -> Result<Vec<Item>, Error> {
        while let Some(kind) = self.kind {
            let rows = timeout(PATIENCE, self.fetch(kind)).await;
            let silent = |_| Error::Unavailable(format!("no answer within {} s", PATIENCE.as_secs()));
            let rows = rows.map_err(silent)?.map_err(|error| explain::running(&error))?;
            if !rows.is_empty() {
                return rows.iter().map(|row| read(kind, row)).collect();
            }
            self.kind = kind.next();
        }
        Ok(Vec::new())
    }
}

impl Reading {
    /// The next rows of a kind; none: there are no more, and the next kind may begin.
    async fn fetch(&mut self, kind: Kind) -> Result<Vec<Row>, tokio_postgres::Error> {
        if !self.declared {
            self.client.batch_execute(&format!("DECLARE state NO SCROLL CURSOR FOR {}", select(kind))).await?;
            self.declared = true;
        }
        let rows = self.client.query(&format!("FETCH {BATCH} FROM state"), &[]).await?;
        if rows.is_empty() {
            self.client.batch_execute("CLOSE state").await?;
            self.declared = false;
        }
        Ok(rows)
    }
}

/// Each in the order of its primary key.
const fn select(kind: Kind) -> &'static str {
    match kind {
        Kind::Meta => "SELECT name, value FROM meta WHERE name <> 'import' ORDER BY name",
        Kind::SigningKey => "SELECT record FROM signing_keys ORDER BY kid",
        Kind::RetiredAddress => "SELECT digest, at FROM retired_emails ORDER BY digest",
        Kind::User => "SELECT record FROM users ORDER BY id",
        Kind::TotpStep => "SELECT user_id, step FROM totp_steps ORDER BY user_id",
        Kind::Session => "SELECT record FROM sessions ORDER BY id",
        Kind::ApiToken => "SELECT record FROM api_tokens ORDER BY id",
        Kind::Lock => "SELECT key, failures, last_failure_at, locked_until FROM locks ORDER BY key",
        Kind::Spent => "SELECT purpose, digest, until FROM spent ORDER BY digest, purpose",
        Kind::AuditEvent => "SELECT writer, seq, link, record FROM audit ORDER BY at, id",
        Kind::AuditChain => "SELECT record FROM audit_chains ORDER BY writer",
    }
}

fn read(kind: Kind, row: &Row) -> Result<Item, Error> {
    let digest = |column: usize| -> Result<Digest, Error> {
        let bytes: &[u8] = row.try_get(column).map_err(unexpected)?;
        bytes.try_into().map(Digest).map_err(|_| Error::Corrupt(format!("{kind}: a digest of {} bytes", bytes.len())))
    };
    let at = |column: usize| row.try_get(column).map(Timestamp::from_millis).map_err(unexpected);
    let number = |column: usize| -> Result<u64, Error> {
        let number: i64 = row.try_get(column).map_err(unexpected)?;
        u64::try_from(number).map_err(|_| Error::Corrupt(format!("{kind}: a number below zero")))
    };
    Ok(match kind {
        Kind::Meta => Item::Meta { name: row.try_get(0).map_err(unexpected)?, value: row.try_get(1).map_err(unexpected)? },
        Kind::SigningKey => Item::SigningKey(record_of(row, 0)?),
        Kind::RetiredAddress => Item::RetiredAddress { digest: digest(0)?, at: at(1)? },
        Kind::User => Item::User(record_of(row, 0)?),
        Kind::TotpStep => {
            let user: Uuid = row.try_get(0).map_err(unexpected)?;
            Item::TotpStep { user: UserId::from_bytes(user.into_bytes()), step: number(1)? }
        }
        Kind::Session => Item::Session(record_of(row, 0)?),
        Kind::ApiToken => Item::ApiToken(record_of(row, 0)?),
        Kind::Lock => {
            let failures = number(1)?.try_into().map_err(|_| Error::Corrupt(format!("{kind}: too large a number")))?;
            let lock = Lock { failures, last_failure_at: at(2)?, locked_until: at(3)? };
            Item::Lock { key: decoded(row.try_get(0).map_err(unexpected)?)?, lock }
        }
        Kind::Spent => {
            let purpose = spent::purpose(row.try_get(0).map_err(unexpected)?)?;
            Item::Spent { purpose, digest: digest(1)?, until: at(2)? }
        }
        Kind::AuditEvent => Item::AuditEvent(audit::stored(row)?),
        Kind::AuditChain => Item::AuditChain(record_of(row, 0)?),
    })
}

/// Holds the mark in place until the transaction ends; [`Error::Stale`]: it is another's, or there is none.
async fn require_marker(tx: &Tx<'_>, marker: &[u8]) -> Result<(), Failure> {
    let row = tx.one("SELECT value FROM meta WHERE name = $1 FOR SHARE", &[&MARKER]).await?;
    match row {
        Some(row) if row.try_get::<_, &[u8]>(0)? == marker => Ok(()),
        Some(_) | None => Err(Error::Stale.into()),
    }
}

struct Import<'a> {
    marker: &'a [u8],
    items: &'a [Item],
}

#[async_trait]
impl Work for Import<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        require_marker(tx, self.marker).await?;
        let sorted = Sorted::of(self.items)?;
        sorted.write(tx).await.map_err(|failure| match failure {
            Failure::Postgres(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
                Error::Corrupt("something belongs to an account, and there is no such account".to_owned()).into()
            }
            Failure::Postgres(_) | Failure::Store(_) => failure,
        })
    }
}

/// Items by their kind.
#[derive(Default)]
struct Sorted<'a> {
    meta: Vec<(&'a str, &'a [u8])>,
    keys: Vec<&'a SigningKeyRecord>,
    retired: Vec<(&'a Digest, Timestamp)>,
    users: Vec<&'a User>,
    steps: Vec<(UserId, u64)>,
    sessions: Vec<&'a Session>,
    tokens: Vec<&'a ApiToken>,
    locks: Vec<(LockKey, Lock)>,
    spent: Vec<(Purpose, &'a Digest, Timestamp)>,
    events: Vec<&'a StoredEvent>,
    chains: Vec<&'a Chain>,
}

impl<'a> Sorted<'a> {
    fn of(items: &'a [Item]) -> Result<Self, Error> {
        let mut sorted = Self::default();
        for item in items {
            match item {
                Item::Meta { name, .. } if name == MARKER => {
                    return Err(Error::Corrupt("the mark of an import is no part of a state".to_owned()));
                }
                Item::Meta { name, value } => sorted.meta.push((name, value)),
                Item::SigningKey(key) => sorted.keys.push(key),
                Item::RetiredAddress { digest, at } => sorted.retired.push((digest, *at)),
                Item::User(user) => sorted.users.push(user),
                Item::TotpStep { user, step } => sorted.steps.push((*user, *step)),
                Item::Session(session) => sorted.sessions.push(session),
                Item::ApiToken(token) => sorted.tokens.push(token),
                Item::Lock { key, lock } => sorted.locks.push((*key, *lock)),
                Item::Spent { purpose, digest, until } => sorted.spent.push((*purpose, digest, *until)),
                Item::AuditEvent(stored) => sorted.events.push(stored),
                Item::AuditChain(chain) => sorted.chains.push(chain),
            }
        }
        Ok(sorted)
    }

    async fn write(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        self.write_installation(tx).await?;
        self.write_users(tx).await?;
        self.write_owned(tx).await?;
        self.write_counted(tx).await
    }

    async fn write_installation(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        if !self.meta.is_empty() {
            let (names, values): (Vec<&str>, Vec<&[u8]>) = self.meta.iter().copied().unzip();
            let sql = "INSERT INTO meta (name, value) SELECT * FROM unnest($1::text[], $2::bytea[]) \
                       ON CONFLICT (name) DO UPDATE SET value = excluded.value";
            tx.change(sql, &[&names, &values]).await?;
        }
        if !self.keys.is_empty() {
            let kids: Vec<&str> = self.keys.iter().map(|key| key.kid.0.as_str()).collect();
            let sql = "INSERT INTO signing_keys (kid, record) SELECT * FROM unnest($1::text[], $2::bytea[]) \
                       ON CONFLICT (kid) DO UPDATE SET record = excluded.record";
            tx.change(sql, &[&kids, &records(&self.keys)?]).await?;
        }
        if !self.retired.is_empty() {
            let (digests, times): (Vec<&[u8]>, Vec<i64>) =
                self.retired.iter().map(|(digest, at)| (digest.as_bytes().as_slice(), at.as_millis())).unzip();
            let sql = "INSERT INTO retired_emails (digest, at) SELECT * FROM unnest($1::bytea[], $2::int8[]) \
                       ON CONFLICT (digest) DO UPDATE SET at = excluded.at";
            tx.change(sql, &[&digests, &times]).await?;
        }
        Ok(())
    }

    /// A list in a column goes as the text of an array: lists of different lengths make no array of arrays.
    async fn write_users(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        if self.users.is_empty() {
            return Ok(());
        }
        let rows = self.users.iter().map(|user| Columns::of(user)).collect::<Result<Vec<Columns<'_>>, Error>>()?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let emails: Vec<&str> = rows.iter().map(|row| row.email).collect();
        let searched: Vec<&str> = rows.iter().map(|row| row.searched.as_str()).collect();
        let grams: Vec<String> = rows.iter().map(|row| array(row.grams.iter().map(i32::to_string))).collect();
        let groups: Vec<String> = rows.iter().map(|row| array(row.groups.iter().map(|name| quoted(name)))).collect();
        let revisions: Vec<i64> = rows.iter().map(|row| row.revision).collect();
        let records: Vec<&[u8]> = rows.iter().map(|row| row.record.as_slice()).collect();
        let sql = "INSERT INTO users (id, email, searched, grams, groups, revision, record) \
                   SELECT id, email, searched, grams::int4[], groups::text[], revision, record \
                   FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::bytea[]) \
                   AS new (id, email, searched, grams, groups, revision, record) \
                   ON CONFLICT (id) DO UPDATE SET email = excluded.email, searched = excluded.searched, grams = excluded.grams, \
                   groups = excluded.groups, revision = excluded.revision, record = excluded.record";
        tx.change(sql, &[&ids, &emails, &searched, &grams, &groups, &revisions, &records]).await?;
        Ok(())
    }

    async fn write_owned(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        if !self.steps.is_empty() {
            let steps = self.steps.iter().map(|(user, step)| Ok((id(user.as_bytes()), whole(*step)?)));
            let (users, steps): (Vec<Uuid>, Vec<i64>) = steps.collect::<Result<Vec<_>, Error>>()?.into_iter().unzip();
            let sql = "INSERT INTO totp_steps (user_id, step) SELECT * FROM unnest($1::uuid[], $2::int8[]) \
                       ON CONFLICT (user_id) DO UPDATE SET step = excluded.step";
            tx.change(sql, &[&users, &steps]).await?;
        }
        if !self.sessions.is_empty() {
            let ids: Vec<Uuid> = self.sessions.iter().map(|session| id(session.id.as_bytes())).collect();
            let users: Vec<Uuid> = self.sessions.iter().map(|session| id(session.user.as_bytes())).collect();
            let ends: Vec<i64> = self.sessions.iter().map(|session| session.expires_at.as_millis()).collect();
            let sql = "INSERT INTO sessions (id, user_id, expires_at, record) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int8[], $4::bytea[]) \
                       ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id, expires_at = excluded.expires_at, record = excluded.record";
            tx.change(sql, &[&ids, &users, &ends, &records(&self.sessions)?]).await?;
        }
        if !self.tokens.is_empty() {
            let ids: Vec<Uuid> = self.tokens.iter().map(|token| id(token.id.as_bytes())).collect();
            let users: Vec<Uuid> = self.tokens.iter().map(|token| id(token.user.as_bytes())).collect();
            let digests: Vec<&[u8]> = self.tokens.iter().map(|token| token.digest.as_bytes().as_slice()).collect();
            let ends: Vec<Option<i64>> = self.tokens.iter().map(|token| token.expires_at.map(Timestamp::as_millis)).collect();
            let sql = "INSERT INTO api_tokens (id, user_id, digest, expires_at, record) \
                       SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::int8[], $5::bytea[]) \
                       ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id, digest = excluded.digest, \
                       expires_at = excluded.expires_at, record = excluded.record";
            tx.change(sql, &[&ids, &users, &digests, &ends, &records(&self.tokens)?]).await?;
        }
        Ok(())
    }

    async fn write_counted(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        if !self.locks.is_empty() {
            let keys: Vec<Vec<u8>> = self.locks.iter().map(|(key, _)| encoded(*key)).collect();
            let owned: Vec<bool> = keys.iter().map(|key| is_owned(key)).collect();
            let failures: Vec<i64> = self.locks.iter().map(|(_, lock)| lock.failures.into()).collect();
            let last: Vec<i64> = self.locks.iter().map(|(_, lock)| lock.last_failure_at.as_millis()).collect();
            let until: Vec<i64> = self.locks.iter().map(|(_, lock)| lock.locked_until.as_millis()).collect();
            let sql = "INSERT INTO locks (key, owned, failures, last_failure_at, locked_until) \
                       SELECT * FROM unnest($1::bytea[], $2::bool[], $3::int8[], $4::int8[], $5::int8[]) \
                       ON CONFLICT (key) DO UPDATE SET owned = excluded.owned, failures = excluded.failures, \
                       last_failure_at = excluded.last_failure_at, locked_until = excluded.locked_until";
            tx.change(sql, &[&keys, &owned, &failures, &last, &until]).await?;
        }
        if !self.spent.is_empty() {
            let purposes: Vec<i16> = self.spent.iter().map(|(purpose, _, _)| spent::number(*purpose)).collect();
            let digests: Vec<&[u8]> = self.spent.iter().map(|(_, digest, _)| digest.as_bytes().as_slice()).collect();
            let until: Vec<i64> = self.spent.iter().map(|(_, _, until)| until.as_millis()).collect();
            let sql = "INSERT INTO spent (purpose, digest, until) SELECT * FROM unnest($1::int2[], $2::bytea[], $3::int8[]) \
                       ON CONFLICT (digest, purpose) DO UPDATE SET until = excluded.until";
            tx.change(sql, &[&purposes, &digests, &until]).await?;
        }
        if !self.events.is_empty() {
            let rows = self.events.iter().map(|stored| audit::Row::of(stored)).collect::<Result<Vec<_>, Error>>()?;
            audit::replace(tx, &rows).await?;
        }
        for chain in &self.chains {
            chain::put(tx, chain).await?;
        }
        Ok(())
    }
}

struct Discard<'a> {
    marker: &'a [u8],
}

#[async_trait]
impl Work for Discard<'_> {
    type Done = ();

    async fn run(&self, tx: &Tx<'_>) -> Result<(), Failure> {
        require_marker(tx, self.marker).await?;
        tx.change("TRUNCATE users, retired_emails, sessions, api_tokens, totp_steps, spent, locks, signing_keys, audit, audit_chains", &[])
            .await?;
        tx.change("DELETE FROM meta WHERE name <> $1", &[&MARKER]).await?;
        Ok(())
    }
}

fn records<T: serde::Serialize>(values: &[&T]) -> Result<Vec<Vec<u8>>, Error> {
    values.iter().map(|value| record::encode(*value)).collect()
}

fn whole(number: u64) -> Result<i64, Error> {
    i64::try_from(number).map_err(|_| Error::Corrupt("a number beyond what the database keeps".to_owned()))
}

/// An array as the server reads it (<https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>).
fn array(elements: impl Iterator<Item = String>) -> String {
    format!("{{{}}}", elements.collect::<Vec<_>>().join(","))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_written_as_the_server_reads_them() {
        assert_eq!(array([].into_iter()), "{}");
        assert_eq!(array([1, -2].iter().map(i32::to_string)), "{1,-2}");
        assert_eq!(array([r#"a"b\c, {d}"#, ""].iter().map(|text| quoted(text))), r#"{"a\"b\\c, {d}",""}"#);
    }

    /// Whoever adds a table decides here whether it is state.
    #[test]
    fn every_table_is_carried_or_is_no_state() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/postgres/schema");
        let scripts = std::fs::read_dir(folder).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        let scripts: String = scripts.collect();
        let mut tables: Vec<&str> = scripts.lines().filter_map(|line| line.strip_prefix("CREATE TABLE ")?.split(' ').next()).collect();
        // News is for those who listen now; the sign of life is no state.
        tables.retain(|table| !matches!(*table, "changes" | "alive"));
        for kind in Kind::ALL {
            let from = select(kind).split(" FROM ").nth(1).unwrap().split(' ').next().unwrap();
            let at = tables.iter().position(|table| *table == from);
            tables.remove(at.unwrap_or_else(|| panic!("{from} is not there, or carried twice")));
        }
        assert_eq!(tables, [""; 0], "not carried");
    }
}
