//! Connections: where to, how, and what each is told before it is used.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::config::{ChannelBinding, LoadBalanceHosts, SslMode as Wanted, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::explain;
use super::tls;
use crate::config::{Postgres, PostgresHost, SslMode};
use crate::store::Error;
use crate::tasks::Tasks;

/// How long a connection may take until it is ready, all addresses and the password included.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// A connection is replaced when it is as old as this.
const LIFETIME: Duration = Duration::from_mins(30);

/// How long the server may work on one statement, and how long that may wait for somebody else's lock, in milliseconds.
/// The statement's is shorter than our own patience, so that the server says what it was that took so long.
const STATEMENT_MS: u32 = 6000;
const LOCK_MS: u32 = 4000;
/// How long a transaction may hold its locks without doing anything: its process has gone away.
const IDLE_MS: u32 = 10_000;

/// The tail of a connection: it works for as long as somebody polls it.
type Driver = Connection<Socket, <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream>;

/// Makes connections, all of them on the runtime that it was made on: a connection must outlive whoever asked for it first.
#[derive(Clone)]
pub(super) struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Postgres,
    tls: MakeRustlsConnect,
    runtime: Handle,
    tasks: Tasks,
}

impl Connector {
    /// Reads the certificates. Called on the runtime that the connections will run on.
    pub(super) fn new(settings: &Postgres, tasks: &Tasks) -> Result<Self, Error> {
        let tls = MakeRustlsConnect::new(tls::client(&settings.tls)?);
        let inner = Inner { settings: settings.clone(), tls, runtime: Handle::current(), tasks: tasks.clone() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The settings it was made with.
    pub(super) fn settings(&self) -> &Postgres {
        &self.inner.settings
    }

    /// A connection that is ready, and the task that drives it. `hear` gets what the server says unasked.
    pub(super) async fn connect(&self, hear: impl FnMut(AsyncMessage) + Send + 'static) -> Result<(Client, JoinHandle<()>), Failed> {
        let this = self.clone();
        let connecting = {
            // In a task of its own: the socket belongs to the runtime that makes it.
            let _home = self.inner.runtime.enter();
            self.inner.tasks.spawn(async move { tokio::time::timeout(CONNECT, this.connect_here(hear)).await })
        };
        match connecting.await {
            Ok(Ok(connected)) => connected,
            Ok(Err(_)) => Err(Failed::Other(format!("no answer within {} s", CONNECT.as_secs()))),
            Err(_) => Err(Failed::Other("the program is stopping".to_owned())),
        }
    }

    async fn connect_here(&self, hear: impl FnMut(AsyncMessage) + Send + 'static) -> Result<(Client, JoinHandle<()>), Failed> {
        let config = self.config().await?;
        let (client, driver) = config.connect(self.inner.tls.clone()).await.map_err(Failed::Postgres)?;
        let task = self.inner.tasks.spawn(drive(driver, hear));
        client.batch_execute(&introduction(&self.inner.settings.schema)).await.map_err(Failed::Postgres)?;
        Ok((client, task))
    }

    async fn config(&self) -> Result<Config, Failed> {
        let settings = &self.inner.settings;
        let mut config = Config::new();
        for host in &settings.hosts {
            match host {
                PostgresHost::Tcp(name, port) => config.host(name).port(*port),
                PostgresHost::Unix(folder, port) => config.host_path(folder).port(*port),
            };
        }
        config.user(&settings.user).dbname(&settings.database).application_name(&settings.application_name);
        if let Some(options) = &settings.options {
            config.options(options);
        }
        if let Some(password) = self.password().await? {
            config.password(password);
        }
        let local_sockets = settings.hosts.iter().all(|host| matches!(host, PostgresHost::Unix(..)));
        config.ssl_mode(match settings.tls.mode {
            // There is no TLS over unix sockets, and nobody in between.
            _ if local_sockets => Wanted::Disable,
            SslMode::Disable => Wanted::Disable,
            SslMode::Prefer => Wanted::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Wanted::Require,
        });
        if settings.tls.direct {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        config.channel_binding(match settings.channel_binding {
            None => ChannelBinding::Prefer,
            Some(true) => ChannelBinding::Require,
            Some(false) => ChannelBinding::Disable,
        });
        config.load_balance_hosts(if settings.any_order { LoadBalanceHosts::Random } else { LoadBalanceHosts::Disable });
        // A standby, or a primary that was replaced, is no use to a store.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.connect_timeout(settings.connect_timeout);
        // A network that swallows packets is noticed by a connection that rests, and by one that waits.
        config.keepalives_idle(Duration::from_secs(15)).keepalives_interval(Duration::from_secs(5)).keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(20));
        Ok(config)
    }

    /// The URL's, else the passfile's of this moment, so that a password can be changed without a restart.
    async fn password(&self) -> Result<Option<String>, Failed> {
        let settings = &self.inner.settings;
        match (&settings.password, &settings.passfile) {
            (Some(password), _) => Ok(Some(password.expose().clone())),
            (None, None) => Ok(None),
            (None, Some(path)) => {
                let unreadable =
                    |error: &dyn std::fmt::Display| Failed::Other(format!("the passfile {} can't be used: {error}", path.display()));
                if is_open_to_others(path).await.map_err(|error| unreadable(&error))? {
                    return Err(unreadable(&"others may read it; set its mode to 0600"));
                }
                let text = tokio::fs::read_to_string(path).await.map_err(|error| unreadable(&error))?;
                Ok(settings.hosts.iter().find_map(|host| passfile_entry(&text, host, &settings.database, &settings.user)))
            }
        }
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("hosts", &self.inner.settings.hosts).finish_non_exhaustive()
    }
}

impl Manager for Connector {
    type Type = ClientWrapper;
    type Error = Failed;

    async fn create(&self) -> Result<ClientWrapper, Failed> {
        let (client, task) = self.connect(|_| {}).await?;
        Ok(ClientWrapper::new(client, task))
    }

    /// Asks nothing: whether a connection still answers is found out by using it.
    async fn recycle(&self, client: &mut ClientWrapper, metrics: &Metrics) -> RecycleResult<Failed> {
        if client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        // So that a name that leads elsewhere by now, or another primary, is noticed in time.
        if metrics.age() > LIFETIME { Err(RecycleError::message("old")) } else { Ok(()) }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Failed {
    /// The client says so.
    Postgres(tokio_postgres::Error),
    /// Something before it.
    Other(String),
}

impl Failed {
    /// As the store's error, with the host and the role, and never the password.
    pub(super) fn explain(self, settings: &Postgres) -> Error {
        match self {
            Self::Postgres(error) => explain::connecting(&error, settings),
            Self::Other(text) => Error::Unavailable(format!("{}: {text}", explain::place(settings))),
        }
    }
}

async fn drive(mut driver: Driver, mut hear: impl FnMut(AsyncMessage)) {
    while let Some(message) = std::future::poll_fn(|context| driver.poll_message(context)).await {
        match message {
            Ok(message) => hear(message),
            // Whoever waits for an answer is told as well, and says so.
            Err(error) => {
                tracing::debug!("a connection to the database broke: {}", explain::chain(&error));
                return;
            }
        }
    }
}

/// What a session is told at first. Only what the server's own default would weaken is changed about durability: an
/// operator's stronger choice, such as `remote_apply`, stays.
fn introduction(schema: &str) -> String {
    format!(
        "SET search_path = \"{schema}\", pg_temp; SET statement_timeout = {STATEMENT_MS}; SET lock_timeout = {LOCK_MS}; \
         SET idle_in_transaction_session_timeout = {IDLE_MS}; SET client_min_messages = error; SET bytea_output = hex; \
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'; \
         SET default_transaction_isolation = 'read committed'"
    )
}

async fn is_open_to_others(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(tokio::fs::metadata(path).await?.permissions().mode() & 0o077 != 0)
}

/// The password of the first line `host:port:database:user:password` that fits; a field may be `*`, and `\` takes the
/// meaning from a `:` or `\` (<https://www.postgresql.org/docs/current/libpq-pgpass.html>).
fn passfile_entry(text: &str, host: &PostgresHost, database: &str, user: &str) -> Option<String> {
    let (name, port) = match host {
        PostgresHost::Tcp(name, port) => (name.as_str(), port),
        PostgresHost::Unix(folder, port) => (folder.to_str().unwrap_or_default(), port),
    };
    let port = port.to_string();
    let local = |field: &str| field == "localhost" && matches!(host, PostgresHost::Unix(..));
    text.lines().filter(|line| !line.starts_with('#')).map(fields).find_map(|fields| match fields.as_slice() {
        [of_host, of_port, of_database, of_user, password]
            if (of_host == "*" || of_host == name || local(of_host))
                && [(of_port, port.as_str()), (of_database, database), (of_user, user)]
                    .iter()
                    .all(|(field, wanted)| *field == "*" || field.as_str() == *wanted) =>
        {
            Some(password.clone())
        }
        _ => None,
    })
}

/// Five fields; what follows the fourth colon is the last one.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut escaped = false;
    for c in line.chars() {
        let count = fields.len();
        match (fields.last_mut(), c) {
            (Some(field), c) if escaped => {
                field.push(c);
                escaped = false;
            }
            (_, '\\') => escaped = true,
            (_, ':') if count < 5 => fields.push(String::new()),
            (Some(field), c) => field.push(c),
            (None, _) => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passfile_is_read_as_libpq_reads_it() {
        let text = "# comment\nother:5432:*:me:no\ndb:5432:app:me:first\\:\\\\x\n*:*:*:you:a:b\nlocalhost:*:*:me:socket\n*:*:*:*:last";
        let host = |name: &str| PostgresHost::Tcp(name.to_owned(), 5432);
        assert_eq!(passfile_entry(text, &host("db"), "app", "me").as_deref(), Some("first:\\x"));
        assert_eq!(passfile_entry(text, &host("db"), "app", "you").as_deref(), Some("a:b"));
        assert_eq!(passfile_entry(text, &host("db"), "x", "me").as_deref(), Some("last"));
        assert_eq!(passfile_entry(text, &PostgresHost::Unix("/run".into(), 1), "x", "me").as_deref(), Some("socket"));
        assert_eq!(passfile_entry("a:1:b:c", &host("a"), "b", "c"), None);
    }
}
