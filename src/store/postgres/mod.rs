//! The store that several processes share: PostgreSQL, and what speaks its protocol. What belongs together is one
//! transaction at `READ COMMITTED`, and whoever reads in order to write locks the row it reads; what others must hear of is
//! written in the same transaction. Read next: `pool.rs` (how anything is run), `schema/` (what is stored), then one
//! file a thing.

mod audit;
mod breaker;
mod chain;
mod changes;
mod conditions;
mod connect;
mod explain;
mod follow;
mod keys;
mod locks;
mod migrate;
mod pool;
mod presence;
mod purge;
mod rows;
mod search;
#[cfg(test)]
#[path = "../../../tests/support/postgres.rs"]
mod server;
mod sessions;
mod spent;
mod tls;
mod tokens;
mod transfer;
mod users;

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use uuid::Uuid;

use self::connect::Connector;
use self::follow::Follower;
pub use self::migrate::Migration;
use self::pool::{Pool, Work};
use self::presence::Held;
use self::rows::{record_of, unexpected};
use super::chain::ChainKey;
use super::{AuditQuery, Error, Follow, Purged, Purpose, Rewrap, SessionSelector, SigningKeyRecord, Store, UserQuery, Vitals};
use crate::clock::Timestamp;
use crate::config::Postgres;
use crate::model::{
    Amr, ApiToken, ApiTokenId, AuditEvent, Digest, Email, Fitness, Generation, Kid, KnownToken, Lock, LockChange, LockKey, LockUpdate,
    Rotation, Session, SessionId, SessionTouch, User, UserId,
};
use crate::tasks::Tasks;

/// Records read in one statement while all are walked through.
const BATCH: i64 = 2000;

/// Sessions or tokens touched in one transaction: their rows are locked for so long.
const TOUCHES: usize = 500;

/// Every so often [`Store::ping`] writes; in between it only asks.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// Rows that processes write to find out whether the database writes.
const SLOTS: u32 = 64;

/// The state in a schema of a PostgreSQL database, shared by any number of processes.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    inner: Arc<Inner>,
    /// What the next write is to be recorded with.
    events: Arc<[AuditEvent]>,
}

#[derive(Debug)]
struct Inner {
    pool: Pool,
    /// What events are chained with, once it is known.
    chain_key: OnceLock<ChainKey>,
    bound: locks::Bound,
    /// Which row this process writes, and when it last could.
    slot: i32,
    wrote_at: std::sync::Mutex<Option<tokio::time::Instant>>,
    /// The storage keys that this process has.
    held: Held,
}

impl PostgresStore {
    /// Connects, brings the schema to what this release needs, and makes sure that it may be used. The connections run on
    /// the runtime that this is called on, as tasks of `tasks`.
    ///
    /// [`Error::Unavailable`]: there is no answer. [`Error::Refused`]: no such database, or a wrong password.
    /// [`Error::Rights`]: the role may not do what it has to. [`Error::Tls`]: the certificate does not match, or the
    /// server speaks no TLS. [`Error::Foreign`]: the schema holds somebody else's tables. [`Error::Newer`]: a newer
    /// release has changed the schema. [`Error::Outdated`]: the server is too old. None of them holds the password.
    pub async fn open(settings: &Postgres, tasks: &Tasks) -> Result<Self, Error> {
        let connector = Connector::new(settings, tasks)?;
        let (mut client, task) = connector.connect(|_| {}).await.map_err(|failed| failed.explain(settings))?;
        let ready = migrate::bring_up_to_date(&mut client, settings).await;
        task.abort();
        ready?;
        let inner = Inner {
            pool: Pool::new(connector)?,
            chain_key: OnceLock::new(),
            bound: locks::Bound::default(),
            slot: i32::try_from(breaker::any_number() % SLOTS).unwrap_or(0),
            wrote_at: std::sync::Mutex::default(),
            held: Held::default(),
        };
        Ok(Self { inner: Arc::new(inner), events: Arc::new([]) })
    }

    /// What [`PostgresStore::open`] would do to the database's schema, in order, without doing it; nothing: it is as this
    /// release needs it. Errors as there.
    pub async fn pending(settings: &Postgres) -> Result<Vec<Migration>, Error> {
        migrate::pending(settings).await
    }

    fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// Does something that may have to be recorded.
    async fn act<W: Work>(&self, work: &W) -> Result<W::Done, Error> {
        if self.events.is_empty() {
            return self.pool().transaction(work).await;
        }
        self.pool().transaction(&audit::Recorded { work, append: self.append(&self.events) }).await
    }

    fn append<'a>(&'a self, events: &'a [AuditEvent]) -> audit::Append<'a> {
        audit::Append { key: self.inner.chain_key.get(), events }
    }

    /// Calls `each` for the records of a table in the order of the identifiers; the next ones are read while some are
    /// handed out. `sql` has the columns `id` and `record`, and takes the last identifier and the number.
    async fn scan<T: DeserializeOwned + Send>(&self, sql: &str, each: &mut (dyn FnMut(T) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        let mut rows = self.batch(sql, Uuid::nil()).await?;
        while let Some(last) = rows.last() {
            let last = last.try_get(0).map_err(unexpected)?;
            let hand_out = async {
                for row in &rows {
                    if each(record_of(row, 1)?).is_break() {
                        return Ok::<_, Error>(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            };
            // Asked for first, so that it is on its way.
            let (next, flow) = tokio::join!(self.batch(sql, last), hand_out);
            if flow?.is_break() {
                return Ok(());
            }
            rows = next?;
        }
        Ok(())
    }

    async fn batch(&self, sql: &str, after: Uuid) -> Result<Vec<Row>, Error> {
        self.pool().read(sql, &[&after, &BATCH]).await
    }

    /// Writes something, durably.
    async fn write_sign_of_life(&self) -> Result<(), Error> {
        let sql = "INSERT INTO alive (slot, at) VALUES ($1, now()) ON CONFLICT (slot) DO UPDATE SET at = excluded.at RETURNING true";
        let wrote = self.pool().write(sql, &[&self.inner.slot]).await;
        let at = wrote.is_ok().then(tokio::time::Instant::now);
        *self.inner.wrote_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = at;
        wrote.map(drop)
    }

    fn wrote_lately(&self) -> bool {
        let wrote_at = *self.inner.wrote_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        wrote_at.is_some_and(|at| at.elapsed() < WRITE_EVERY)
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn insert_user(&self, user: &User, allow_retired: bool) -> Result<(), Error> {
        self.act(&users::Insert { user, allow_retired }).await
    }

    async fn replace_user(&self, user: &User) -> Result<User, Error> {
        self.act(&users::Replace(user)).await
    }

    async fn replace_user_and_end_sessions(&self, user: &User) -> Result<(User, Vec<SessionId>), Error> {
        self.act(&users::ReplaceAndEndSessions(user)).await
    }

    async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<Option<Vec<SessionId>>, Error> {
        self.act(&users::Delete { user: id, now }).await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, Error> {
        users::get(self.pool(), id).await
    }

    async fn user_by_email(&self, email: &Email) -> Result<Option<User>, Error> {
        users::by_email(self.pool(), email).await
    }

    async fn users(&self, query: &UserQuery) -> Result<Vec<User>, Error> {
        users::list(self.pool(), query).await
    }

    async fn scan_users(&self, each: &mut (dyn FnMut(User) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.scan("SELECT id, record FROM users WHERE id > $1 ORDER BY id LIMIT $2", each).await
    }

    async fn insert_session(&self, session: &Session, max_per_user: Option<u32>) -> Result<Vec<SessionId>, Error> {
        self.act(&sessions::Insert { session, max_per_user }).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, Error> {
        sessions::get(self.pool(), id).await
    }

    async fn session_with_user(&self, id: SessionId) -> Result<Option<(Session, User)>, Error> {
        sessions::with_user(self.pool(), id).await
    }

    async fn sessions_of(&self, user: UserId) -> Result<Vec<Session>, Error> {
        sessions::of_user(self.pool(), user).await
    }

    async fn scan_sessions(&self, each: &mut (dyn FnMut(Session) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.scan("SELECT id, record FROM sessions WHERE id > $1 ORDER BY id LIMIT $2", each).await
    }

    async fn rotate_session(
        &self,
        id: SessionId,
        presented: Generation,
        next: KnownToken,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Rotation, Error> {
        self.act(&sessions::Rotate { id, presented, next, grace, now }).await
    }

    async fn set_standing(&self, id: SessionId, amr: Amr, fitness: Fitness) -> Result<bool, Error> {
        self.pool().transaction(&sessions::SetStanding { id, amr, fitness }).await
    }

    async fn touch_sessions(&self, touches: &[SessionTouch]) -> Result<(), Error> {
        for some in touches.chunks(TOUCHES) {
            self.pool().transaction(&sessions::Touch(some)).await?;
        }
        Ok(())
    }

    async fn delete_sessions(&self, which: SessionSelector) -> Result<Vec<SessionId>, Error> {
        self.act(&sessions::Delete(which)).await
    }

    async fn insert_api_token(&self, token: &ApiToken) -> Result<(), Error> {
        self.act(&tokens::Insert(token)).await
    }

    async fn api_token_with_user(&self, digest: &Digest) -> Result<Option<(ApiToken, User)>, Error> {
        tokens::with_user(self.pool(), digest).await
    }

    async fn api_tokens_of(&self, user: UserId) -> Result<Vec<ApiToken>, Error> {
        tokens::of_user(self.pool(), user).await
    }

    async fn scan_api_tokens(&self, each: &mut (dyn FnMut(ApiToken) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.scan("SELECT id, record FROM api_tokens WHERE id > $1 ORDER BY id LIMIT $2", each).await
    }

    async fn delete_api_token(&self, user: UserId, id: ApiTokenId) -> Result<bool, Error> {
        self.act(&tokens::Delete { user, token: id }).await
    }

    async fn touch_api_tokens(&self, used: &[(ApiTokenId, Timestamp)]) -> Result<(), Error> {
        for some in used.chunks(TOUCHES) {
            self.pool().transaction(&tokens::Touch(some)).await?;
        }
        Ok(())
    }

    async fn spend_totp_step(&self, user: UserId, step: u64) -> Result<bool, Error> {
        spent::step(self.pool(), user, step).await
    }

    async fn spend_once(&self, purpose: Purpose, digest: Digest, until: Timestamp) -> Result<bool, Error> {
        spent::once(self.pool(), purpose, digest, until).await
    }

    async fn update_lock(&self, key: LockKey, change: LockChange, now: Timestamp) -> Result<LockUpdate, Error> {
        locks::update(self.pool(), &self.inner.bound, key, change, now).await
    }

    async fn lock(&self, key: LockKey) -> Result<Lock, Error> {
        locks::get(self.pool(), key).await
    }

    async fn insert_signing_key(&self, key: &SigningKeyRecord) -> Result<(), Error> {
        self.pool().transaction(&keys::Insert(key)).await
    }

    async fn retire_signing_keys(&self, kids: &[Kid], at: Timestamp) -> Result<(), Error> {
        self.pool().transaction(&keys::Retire { kids, at }).await
    }

    async fn rotate_signing_keys(&self, new: &[SigningKeyRecord], at: Timestamp) -> Result<(), Error> {
        self.act(&keys::Rotate { new, at }).await
    }

    async fn remove_signing_keys(&self, kids: &[Kid]) -> Result<u64, Error> {
        self.pool().transaction(&keys::Remove(kids)).await
    }

    async fn signing_keys(&self) -> Result<Vec<SigningKeyRecord>, Error> {
        keys::all(self.pool()).await
    }

    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        keys::meta(self.pool(), name).await
    }

    async fn swap_meta(&self, name: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, Error> {
        self.act(&keys::SwapMeta { name, expected, new }).await
    }

    async fn rewrap(&self, these: &[Rewrap]) -> Result<u64, Error> {
        self.pool().transaction(&keys::RewrapAll(these)).await
    }

    fn hold_keys(&self, checks: &[Digest]) {
        self.inner.held.set(checks);
    }

    async fn others_without_key(&self, check: &Digest) -> Result<u64, Error> {
        presence::without_key(self.pool(), check).await
    }

    async fn append_audit(&self, event: &AuditEvent) -> Result<(), Error> {
        self.pool().transaction(&self.append(std::slice::from_ref(event))).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEvent>, Error> {
        audit::list(self.pool(), query).await
    }

    async fn purge(&self, now: Timestamp, audit_before: Option<Timestamp>) -> Result<Purged, Error> {
        purge::purge(self.pool(), self.inner.chain_key.get(), now, audit_before).await
    }

    async fn follow(&self) -> Result<Option<Box<dyn Follow>>, Error> {
        Ok(Some(Box::new(Follower::start(self.pool().connector().clone(), self.inner.held.clone()).await?)))
    }

    /// Asks whether the server takes writes, and every ten seconds, or since it could not, writes.
    async fn ping(&self) -> Result<(), Error> {
        if !self.wrote_lately() {
            return self.write_sign_of_life().await;
        }
        let row = self.pool().read_one("SELECT current_setting('transaction_read_only')", &[]).await?;
        let read_only: &str = row.as_ref().map_or(Ok("off"), |row| row.try_get(0)).map_err(unexpected)?;
        if read_only == "on" { self.write_sign_of_life().await } else { Ok(()) }
    }

    /// Of our tables and their indexes.
    async fn size_on_disk(&self) -> Result<u64, Error> {
        let sql = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = $1 AND c.relkind = 'r'";
        let row = self.pool().read_one(sql, &[&self.pool().connector().settings().schema]).await?;
        let size: i64 = row.map_or(Ok(0), |row| row.try_get(0)).map_err(unexpected)?;
        Ok(u64::try_from(size).unwrap_or(0))
    }

    /// Only what was touched is not durable already; a write that is makes all before it so.
    async fn flush(&self) -> Result<(), Error> {
        self.write_sign_of_life().await
    }

    fn vitals(&self) -> Option<Vitals> {
        Some(self.pool().vitals())
    }
}
