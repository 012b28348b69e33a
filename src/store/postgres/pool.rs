//! Running statements and transactions: with a connection of the pool, for a bounded time, again where that is sound, and
//! never on a connection that broke.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool::managed::{self, Object, PoolError};
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::breaker::{Breaker, some_of};
use super::connect::{Connector, Failed};
use super::explain::{self, Next};
use crate::store::{Connections, Error, Vitals};

/// How long to wait for a connection, a new one or one that others use.
const WAIT: Duration = Duration::from_secs(3);

/// How long to wait for an answer, all statements of a transaction together. Longer than the server may work on one, so
/// that this is for a server or a network that has fallen silent.
const ANSWER: Duration = Duration::from_secs(7);

/// An answer that takes longer than this is not waited for by the next one who uses the connection.
const HASTE: Duration = Duration::from_millis(500);

/// When nobody had an answer for so long while somebody waited, the database has fallen silent.
const SILENCE: Duration = Duration::from_secs(2);

/// How often the same transaction is begun when it meets others.
const TRIES: u32 = 8;

/// How often when connections turn out to be of no use: all that were made before are left after the first time.
const CONNECTIONS: u32 = 3;

/// The values of a statement.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The connections, and whether they are worth asking for.
pub(super) struct Pool {
    connections: managed::Pool<Connector>,
    connector: Connector,
    breaker: Breaker,
    /// How long statements and transactions took in seconds, the wait for a connection included.
    seconds: Histogram,
}

/// What happens in one transaction. It may be run several times, each from the start.
#[async_trait]
pub(super) trait Work: Sync {
    /// What comes of it.
    type Done: Send;

    /// Does it. Whatever the error, nothing has happened.
    async fn run(&self, tx: &Tx<'_>) -> Result<Self::Done, Failure>;

    /// Whether there is anything to tell of: events that belong to it are written only then.
    fn did_something(_done: &Self::Done) -> bool {
        true
    }
}

/// Why a transaction did not do what it should.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database says so.
    Postgres(tokio_postgres::Error),
    /// The contract does.
    Store(Error),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl Pool {
    /// Connections are made when they are needed.
    pub(super) fn new(connector: Connector) -> Result<Self, Error> {
        let size = usize::try_from(connector.settings().pool).unwrap_or(1);
        let connections = managed::Pool::builder(connector.clone()).max_size(size).build();
        let connections = connections.map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(Self { connections, connector, breaker: Breaker::new(), seconds: Vitals::buckets() })
    }

    /// What makes the connections.
    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The rows of a statement that only reads. It is asked again when a connection breaks.
    pub(super) async fn read(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, Error> {
        self.statement(sql, values, true).await
    }

    /// The first row of such a statement.
    pub(super) async fn read_one(&self, sql: &str, values: Values<'_>) -> Result<Option<Row>, Error> {
        Ok(self.read(sql, values).await?.into_iter().next())
    }

    /// How many rows a single statement that writes returns (it has a `RETURNING`). When the connection breaks meanwhile
    /// nobody knows whether it was done, and that is an error.
    pub(super) async fn write(&self, sql: &str, values: Values<'_>) -> Result<usize, Error> {
        Ok(self.write_rows(sql, values).await?.len())
    }

    /// Those rows.
    pub(super) async fn write_rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, Error> {
        self.statement(sql, values, false).await
    }

    /// How it does, for metrics.
    pub(super) fn vitals(&self) -> Vitals {
        let pool = self.connections.clone();
        let connections = move || {
            let now = pool.status();
            Connections { open: now.size, busy: now.size.saturating_sub(now.available), waiting: now.waiting }
        };
        Vitals { seconds: self.seconds.clone(), connections: Arc::new(connections) }
    }

    async fn statement(&self, sql: &str, values: Values<'_>, again_when_lost: bool) -> Result<Vec<Row>, Error> {
        let _time = Timer::start(&self.seconds);
        let mut tries = Tries::default();
        loop {
            let mut held = self.connection().await?;
            let connection = held.get()?;
            let run = async {
                let statement = connection.prepare_cached(sql).await?;
                connection.query(&statement, values).await
            };
            match timeout(ANSWER, run).await {
                Err(_) => return Err(held.silent()),
                Ok(Ok(rows)) => {
                    held.answered();
                    return Ok(rows);
                }
                Ok(Err(error)) => {
                    let next = held.judge(&error);
                    if !tries.again(next, again_when_lost).await {
                        return Err(explain::running(&error));
                    }
                }
            }
        }
    }

    /// Does `work` in one transaction: all of it, durably, or nothing. [`Error::Unavailable`] may also mean that the
    /// connection broke while it was made durable, and nobody knows.
    pub(super) async fn transaction<W: Work>(&self, work: &W) -> Result<W::Done, Error> {
        let _time = Timer::start(&self.seconds);
        let mut tries = Tries::default();
        loop {
            let mut held = self.connection().await?;
            match timeout(ANSWER, attempt(held.get()?, self.connector.settings().schema.as_str(), work)).await {
                Err(_) => return Err(held.silent()),
                Ok(Ok(done)) => {
                    held.answered();
                    return Ok(done);
                }
                Ok(Err(Broken { failure: Failure::Store(error), .. })) => {
                    held.answered();
                    return Err(error);
                }
                Ok(Err(Broken { failure: Failure::Postgres(error), committing })) => {
                    let next = held.judge(&error);
                    // Before it was to be made durable nothing has happened.
                    if !tries.again(next, !committing).await {
                        return Err(explain::running(&error));
                    }
                }
            }
        }
    }

    async fn connection(&self) -> Result<Held<'_>, Error> {
        self.breaker.admit(WAIT)?;
        let deadline = Instant::now() + WAIT;
        loop {
            let error = match timeout_at(deadline, self.connections.get()).await {
                Ok(Ok(connection)) => return Ok(Held { pool: self, connection: Some(connection), since: Instant::now() }),
                // Others have all of the server's connections, but we have some: wait for one of those.
                Ok(Err(PoolError::Backend(Failed::Postgres(error)))) if explain::is_full(&error) && self.connections.status().size > 0 => {
                    tokio::time::sleep(Duration::from_millis(10) + some_of(Duration::from_millis(40))).await;
                    continue;
                }
                Ok(Err(PoolError::Backend(failed))) => failed.explain(self.connector.settings()),
                Ok(Err(_)) => Error::Unavailable("the pool of connections is closed".to_owned()),
                Err(_) if self.breaker.answered_within(WAIT) => {
                    // It works, and is slower than it is asked.
                    return Err(Error::Unavailable(format!("all {} connections are busy", self.connector.settings().pool)));
                }
                Err(_) => Error::Unavailable(format!(
                    "no connection within {} s to {}",
                    WAIT.as_secs(),
                    explain::place(self.connector.settings())
                )),
            };
            self.breaker.failed(&error);
            return Err(error);
        }
    }

    /// The database has fallen silent: the connections that rest are silent as well.
    fn fell_silent(&self) -> Error {
        let place = explain::place(self.connector.settings());
        let error = Error::Unavailable(format!("no answer within {} s from {place}", ANSWER.as_secs()));
        if !self.breaker.answered_within(SILENCE) {
            self.connections.retain(|_, _| false);
            self.breaker.failed(&error);
        }
        error
    }
}

/// A connection of the pool that is in use. It goes back when it has answered. Whoever gives up earlier leaves an answer
/// behind that nobody waits for any more: such a connection is closed when it takes long.
struct Held<'a> {
    pool: &'a Pool,
    connection: Option<Object<Connector>>,
    since: Instant,
}

impl Held<'_> {
    fn get(&mut self) -> Result<&mut Object<Connector>, Error> {
        self.connection.as_mut().ok_or_else(|| Error::Unavailable("a connection was used twice".to_owned()))
    }

    /// It works.
    fn answered(mut self) {
        self.pool.breaker.answered();
        self.connection = None;
    }

    /// No answer: whatever comes on this connection later is not what the next one asks.
    fn silent(mut self) -> Error {
        self.close();
        self.pool.fell_silent()
    }

    /// What to do after an error.
    fn judge(mut self, error: &tokio_postgres::Error) -> Next {
        let next = explain::next(error);
        match next {
            Next::Again | Next::Over => self.answered(),
            Next::Elsewhere | Next::Lost => {
                self.close();
                // What happened to this one has most likely happened to those that rest.
                self.pool.connections.retain(|_, _| false);
                tracing::warn!("a connection to the database is given up: {}", explain::chain(error));
            }
        }
        next
    }

    fn close(&mut self) {
        drop(self.connection.take().map(Object::take));
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Only when whoever asked went away before there was an answer.
        if self.connection.is_some() && self.since.elapsed() > HASTE {
            self.close();
            if self.since.elapsed() > SILENCE {
                drop(self.pool.fell_silent());
            }
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("connector", &self.connector).field("status", &self.connections.status()).finish_non_exhaustive()
    }
}

/// Measures until it is dropped, so that what is given up counts too.
struct Timer<'a> {
    began: Instant,
    seconds: &'a Histogram,
}

impl<'a> Timer<'a> {
    fn start(seconds: &'a Histogram) -> Self {
        Self { began: Instant::now(), seconds }
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

/// Counts how often something was begun.
#[derive(Default)]
struct Tries {
    met: u32,
    connections: u32,
}

impl Tries {
    /// Whether to begin again, after a moment that grows where that helps.
    async fn again(&mut self, next: Next, when_lost: bool) -> bool {
        match next {
            Next::Over => false,
            Next::Lost if !when_lost => false,
            Next::Lost | Next::Elsewhere => {
                self.connections += 1;
                self.connections < CONNECTIONS
            }
            Next::Again => {
                self.met += 1;
                tokio::time::sleep(some_of(Duration::from_millis(5) * (1 << self.met.min(6)))).await;
                self.met < TRIES
            }
        }
    }
}

/// A failure, and whether it came when all was done but the commit.
struct Broken {
    failure: Failure,
    committing: bool,
}

async fn attempt<W: Work>(connection: &mut Object<Connector>, schema: &str, work: &W) -> Result<W::Done, Broken> {
    let failed = |failure| Broken { failure, committing: false };
    let transaction = connection.transaction().await.map_err(|error| failed(error.into()))?;
    let tx = Tx { transaction, schema };
    match work.run(&tx).await {
        Ok(done) => {
            let committed = tx.transaction.commit().await;
            committed.map(|()| done).map_err(|error| Broken { failure: error.into(), committing: true })
        }
        Err(failure @ Failure::Store(_)) => {
            // The answer is sound without it; when it can't be rolled back the connection is gone, and the transaction too.
            drop(tx.transaction.rollback().await);
            Err(failed(failure))
        }
        Err(failure) => Err(failed(failure)),
    }
}

/// A transaction that has begun. It ends with nothing done unless its work succeeds.
pub(super) struct Tx<'a> {
    transaction: deadpool_postgres::Transaction<'a>,
    schema: &'a str,
}

impl Tx<'_> {
    /// The rows of a statement.
    pub(super) async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = self.transaction.prepare_cached(sql).await?;
        self.transaction.query(&statement, values).await
    }

    /// The first of them.
    pub(super) async fn one(&self, sql: &str, values: Values<'_>) -> Result<Option<Row>, tokio_postgres::Error> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// How many rows a statement changed.
    pub(super) async fn change(&self, sql: &str, values: Values<'_>) -> Result<u64, tokio_postgres::Error> {
        let statement = self.transaction.prepare_cached(sql).await?;
        self.transaction.execute(&statement, values).await
    }

    /// The schema that everything is in.
    pub(super) fn schema(&self) -> &str {
        self.schema
    }
}
