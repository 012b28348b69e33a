//! The composition root: from a [`Config`] to a running program. The only file that names concrete backends and sees
//! the whole configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::auth::{self, Auth};
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::crypto::seal::{self, MasterKey, StorageKey};
use crate::jobs;
use crate::limit::Limiter;
use crate::policy::rules::Policy;
use crate::proxy::{Proxy, SetupError, UpstreamIndex};
use crate::server::answered::Recorder;
use crate::server::connection::Settings as ConnectionSettings;
use crate::server::{self, Gateway, Listener, Workers, tls, worker};
use crate::store::sled::SledStore;
use crate::store::{self, Store};
use crate::tasks::Tasks;
use crate::telemetry::{AccessLog, Metrics, log};
use crate::web::{self, Web};
use crate::wire::context;
use crate::wire::cookie::Names;

/// The master key's file in the data folder, when the configuration names no key.
const MASTER_KEY_FILE: &str = "master.key";

/// Runs the sidecar until a signal ends it. `notices` are the settings that weaken something, to be logged.
pub fn serve(config: Config, notices: Vec<String>) -> Result<(), Error> {
    log::start(&config.log);
    crate::crypto::token::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("main")
        .enable_all()
        .build()
        .map_err(|source| Error::Start(source.to_string()))?;
    let done = runtime.block_on(run(config, notices));
    // What is still there had its grace; a blocked thread must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
}

/// Opens the state without serving, for the command line.
pub async fn open_auth(config: &Config, clock: &Clock) -> Result<Arc<Auth>, Error> {
    crate::crypto::token::install_provider();
    let tasks = Tasks::new();
    let store = open_store(config, &tasks).await?;
    open(config, store, clock, &tasks).await
}

async fn open_store(config: &Config, tasks: &Tasks) -> Result<Arc<dyn Store>, Error> {
    let path = config.storage.path.clone();
    let opened = tasks.spawn_blocking(move || SledStore::open(&path)).await;
    Ok(Arc::new(opened.map_err(|error| Error::Start(error.to_string()))??))
}

async fn open(config: &Config, store: Arc<dyn Store>, clock: &Clock, tasks: &Tasks) -> Result<Arc<Auth>, Error> {
    // After the store: it has made the data folder and is its only user.
    let key = match &config.storage.master_key {
        Some(bytes) => MasterKey::from_bytes(bytes.expose())?,
        None => MasterKey::load_or_create(&config.storage.path.join(MASTER_KEY_FILE))?,
    };
    let settings = auth::Settings {
        accounts: config.accounts.clone(),
        tokens: config.tokens.clone(),
        issuer: config.tokens.issuer.clone().unwrap_or_else(|| public_origin(config)),
        sessions: config.sessions.clone(),
        two_factor: config.two_factor.clone(),
        limits: config.limits.clone(),
    };
    Ok(Auth::open(settings, store, StorageKey::new(&key), tasks.clone(), clock.now()).await?)
}

/// What browsers see, without a slash at the end: `public_url`, else what follows from the first listener.
fn public_origin(config: &Config) -> String {
    if let Some(url) = &config.server.public_url {
        return url.as_str().trim_end_matches('/').to_owned();
    }
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let address = config.server.listen.iter().find_map(|listen| match listen {
        Listen::Tcp(address) => Some(*address),
        Listen::Unix(_) => None,
    });
    match address {
        Some(address) if address.ip().is_unspecified() => format!("{scheme}://localhost:{}", address.port()),
        Some(address) => format!("{scheme}://{address}"),
        None => format!("{scheme}://localhost"),
    }
}

async fn run(config: Config, notices: Vec<String>) -> Result<(), Error> {
    for notice in &notices {
        tracing::warn!("{notice}");
    }
    let mut signals = Signals::new()?;
    // Opened by `start`, after everything that can be wrong without it was looked at.
    let tasks = Tasks::new();
    let running = start(config.clone(), open_store(&config, &tasks), Clock::system()).await?;

    // Until somebody ends it.
    signals.first().await;
    running.stop(signals.second()).await
}

/// A sidecar that answers.
#[derive(Debug)]
pub struct Running {
    config: Config,
    auth: Arc<Auth>,
    addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    access: AccessLog,
    draining: Arc<AtomicBool>,
    closed: CancellationToken,
    accepting: Tasks,
    requests: Tasks,
    background: Tasks,
    operators: Tasks,
    threads: Vec<JoinHandle<()>>,
}

/// Starts the sidecar and returns when it answers. `store` is awaited once the configuration has proven usable without
/// it; nothing is bound before it is there.
pub async fn start(config: Config, store: impl Future<Output = Result<Arc<dyn Store>, Error>>, clock: Clock) -> Result<Running, Error> {
    crate::crypto::token::install_provider();
    // Everything that can fail does so before a port is bound.
    let tls = config.server.tls.as_ref().map(tls::server_config).transpose()?.map(Into::into);
    let policy = Policy::new(config.default_policy, &config.rules)
        .map_err(|problems| Error::Start(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    let (requests, background) = (Tasks::new(), Tasks::new());
    let proxy = Proxy::new(&config.upstreams, &config.identity, &config.accounts.admin_group, config.limits.max_body, requests.clone())?;
    let auth = open(&config, store.await?, &clock, &background).await?;
    // An administrator that can't be made is a wrong configuration, and that never takes a port.
    welcome(&auth, &config, &clock).await?;
    let socket_path = config.storage.path.join(&config.admin.socket);
    let socket = admin::socket::Listener::bind(&socket_path).await.map_err(|error| Error::Start(error.to_string()))?;
    let mut listeners = Vec::with_capacity(config.server.listen.len());
    for address in &config.server.listen {
        listeners.push(Listener::bind(address)?);
    }
    let admin_listener = match config.admin.listen {
        Some(address) => Some(bind_admin(address).await?),
        None => None,
    };
    let addresses = listeners.iter().filter_map(Listener::tcp_address).collect();
    let admin_address = admin_listener.as_ref().and_then(|listener| listener.local_addr().ok());

    // What the request path is made of.
    let access = AccessLog::start(&config.log).map_err(|error| Error::Start(error.to_string()))?;
    let names: Vec<String> = proxy.names().map(|(_, name)| name.to_owned()).collect();
    let undeclared = Arc::new(AtomicU64::new(0));
    let metrics = Arc::new(metrics(&names, &auth, &proxy, &access, &undeclared));
    let gateway = Arc::new(Gateway {
        web: Web::new(Arc::clone(&auth), web::Settings::new(&config)),
        auth: Arc::clone(&auth),
        policy,
        context: context::Settings::from(&config.server),
        cookies: Names::from(&config.sessions.cookie, config.server.is_https()),
        prefix: config.server.prefix.clone(),
        limiter: config.limits.requests_per_ip.map(Limiter::new),
        always_second_factor: config.two_factor.always_required,
        assertion: config.identity.assertion.clone(),
        forward_token: config.identity.forward_token,
        clock: clock.clone(),
        recorder: Arc::new(Recorder { access: access.clone(), metrics: Arc::clone(&metrics), undeclared }),
    });
    let closed = CancellationToken::new();
    let settings = Arc::new(ConnectionSettings {
        tls,
        header_timeout: config.server.header_timeout,
        idle_timeout: config.server.idle_timeout,
        max_header_size: config.server.max_header_size,
        max_headers: config.server.max_headers,
        http2: config.server.http2,
        open: metrics.connections.clone(),
        closed: closed.clone(),
    });
    let (workers, threads) = Workers::start(worker::count(config.server.workers), &gateway, &proxy, &settings, &requests)?;

    // From here on it answers.
    let draining = Arc::new(AtomicBool::new(false));
    let operators = Tasks::new();
    operators.spawn(admin::socket::serve(socket, Arc::clone(&auth), clock.clone(), operators.clone()));
    if let Some(listener) = admin_listener {
        let state = admin::State {
            auth: Arc::clone(&auth),
            clock: clock.clone(),
            metrics,
            draining: Arc::clone(&draining),
            probe: probe(&proxy),
            upstreams: names,
        };
        operators.spawn(admin::serve(listener, Arc::new(state), operators.clone()));
    }
    let connections = Arc::new(Semaphore::new(config.server.max_connections));
    let accepting = Tasks::new();
    for listener in listeners {
        tracing::info!(address = %listener.address(), "listening");
        accepting.spawn(listener.run(Arc::clone(&workers), Arc::clone(&connections), accepting.clone()));
    }
    drop(workers);
    jobs::start(&auth, &clock, &background);
    proxy.watch();

    Ok(Running { config, auth, addresses, admin_address, access, draining, closed, accepting, requests, background, operators, threads })
}

impl Running {
    /// The TCP addresses it listens on, in the order of `server.listen`.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where `admin.listen` answers.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The use cases that it serves, for whoever runs it inside a program of their own.
    pub fn auth(&self) -> &Arc<Auth> {
        &self.auth
    }

    /// Drains and ends it: not ready but still accepting for `shutdown_delay`, then what is in flight has
    /// `shutdown_grace`, unless `at_once` is there before.
    pub async fn stop(mut self, at_once: impl Future<Output = ()>) -> Result<(), Error> {
        tracing::info!("stopping: not ready any more, still accepting");
        self.draining.store(true, Ordering::Release);
        let drained = drain(&self.config, &self.accepting, &self.requests);
        tokio::select! {
            () = drained => {}
            () = at_once => tracing::warn!("a second signal: stopping at once"),
        }
        self.closed.cancel();
        self.background.stop();
        self.operators.stop();
        tokio::select! {
            () = async { self.background.wait().await; self.operators.wait().await } => {}
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        let flushed = self.auth.close().await;
        self.access.close();
        for thread in std::mem::take(&mut self.threads) {
            let _panicked = thread.join();
        }
        tracing::info!("stopped");
        Ok(flushed?)
    }
}

/// Without [`Running::stop`] everything is cut off, so that no thread stays behind.
impl Drop for Running {
    fn drop(&mut self) {
        for tasks in [&self.accepting, &self.requests, &self.background, &self.operators] {
            tasks.stop();
        }
        self.closed.cancel();
    }
}

/// Goes on accepting for `shutdown_delay`, then takes what already queues, then lets what is in flight finish.
async fn drain(config: &Config, accepting: &Tasks, requests: &Tasks) {
    tokio::time::sleep(config.server.shutdown_delay).await;
    accepting.stop();
    accepting.wait().await;
    requests.stop();
    if tokio::time::timeout(config.server.shutdown_grace, requests.wait()).await.is_err() {
        tracing::warn!(tasks = requests.len(), "some requests did not finish within shutdown_grace and are cut off");
    }
}

/// Makes the first administrator possible, and says what everybody should know at start.
async fn welcome(auth: &Arc<Auth>, config: &Config, clock: &Clock) -> Result<(), Error> {
    if auth.has_administrator().await? {
        return Ok(());
    }
    if let Some(admin) = &config.accounts.bootstrap_admin {
        match auth.bootstrap(admin, clock.now()).await {
            Ok(user) => {
                tracing::info!(email = %user.email, "made the administrator that accounts.bootstrap_admin names");
                return Ok(());
            }
            // Whoever made that account must not become an administrator by it.
            Err(auth::Error::AddressTaken) => tracing::error!(
                email = %admin.email,
                "accounts.bootstrap_admin: an account with this address exists and is no administrator; use `nullpass user set-groups`"
            ),
            Err(error) => return Err(Error::Start(format!("accounts.bootstrap_admin: {error}"))),
        }
    }
    let code = auth.new_setup_code(clock.now()).await?;
    let url = format!("{}{}/setup?code={}", public_origin(config), config.server.prefix, code.expose());
    tracing::info!("no administrator yet: open {url} (good once, for 24 hours)");
    Ok(())
}

async fn bind_admin(address: SocketAddr) -> Result<tokio::net::TcpListener, Error> {
    let bound = tokio::net::TcpListener::bind(address).await;
    let listener = bound.map_err(|source| server::Error::Bind { address: format!("{address} (admin.listen)"), source })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "health and metrics");
    }
    Ok(listener)
}

fn probe(proxy: &Arc<Proxy>) -> admin::Probe {
    let proxy = Arc::clone(proxy);
    Box::new(move |name| {
        let proxy = Arc::clone(&proxy);
        Box::pin(async move {
            let found: Option<UpstreamIndex> = proxy.names().find(|(_, known)| *known == name).map(|(index, _)| index);
            match found {
                Some(index) => Some(proxy.probe(index).await.map_err(|_| ())),
                None => None,
            }
        })
    })
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floating point")]
fn metrics(names: &[String], auth: &Arc<Auth>, proxy: &Arc<Proxy>, access: &AccessLog, undeclared: &Arc<AtomicU64>) -> Metrics {
    let mut metrics = Metrics::new(names);
    let sessions = Arc::clone(auth);
    metrics.read_from("sessions", "Live sessions", move || sessions.live().len() as f64);
    let queue = Arc::clone(auth);
    metrics.read_from("hash_queue", "Sign-ins that wait to be hashed", move || queue.hasher().queue_len() as f64);
    let hashes = Arc::clone(auth);
    metrics.read_from("hashes_done", "Passwords hashed since the start", move || hashes.hasher().hashes_done() as f64);
    let away = Arc::clone(auth);
    metrics.read_from("store_up", "Whether the store answers", move || f64::from(u8::from(!away.live().is_store_away())));
    let ping = Arc::clone(auth);
    metrics.read_from("store_ping_seconds", "How long the store took to answer when it was last asked", move || {
        ping.counters().store_ping_micros.load(Ordering::Relaxed) as f64 / 1_000_000.0
    });
    let undeclared = Arc::clone(undeclared);
    metrics.read_from("undeclared_proxy_requests", "Requests through a proxy that server.trusted_proxies does not name", move || {
        undeclared.load(Ordering::Relaxed) as f64
    });
    let dropped = access.clone();
    metrics.read_from("access_lines_dropped", "Access lines that could not be written", move || dropped.dropped() as f64);
    let counted = |read: fn(&auth::Counters) -> &AtomicU64| -> Read {
        let auth = Arc::clone(auth);
        Box::new(move || read(auth.counters()).load(Ordering::Relaxed) as f64)
    };
    metrics.read_family(
        "logins",
        "Sign-ins since the start, by result",
        vec![
            ("complete".to_owned(), counted(|counters| &counters.logins_complete)),
            ("second_factor".to_owned(), counted(|counters| &counters.logins_second_factor)),
            ("refused".to_owned(), counted(|counters| &counters.logins_refused)),
            ("code_refused".to_owned(), counted(|counters| &counters.second_factor_refused)),
            ("busy".to_owned(), counted(|counters| &counters.hashes_refused)),
        ],
    );
    metrics.read_family(
        "events",
        "What else was counted since the start",
        vec![
            ("limited".to_owned(), counted(|counters| &counters.logins_limited)),
            ("registered".to_owned(), counted(|counters| &counters.registrations)),
            ("token_reuse".to_owned(), counted(|counters| &counters.token_reuse)),
            ("audit_failed".to_owned(), counted(|counters| &counters.audit_failures)),
        ],
    );
    let upstream = |read: fn(&crate::proxy::UpstreamCounters) -> u64| -> Vec<(String, Read)> {
        let counters = proxy.counters().upstreams();
        let each = names.iter().cloned().zip(counters.iter().map(Arc::clone));
        each.map(|(name, counters)| (name, Box::new(move || read(&counters) as f64) as Read)).collect()
    };
    metrics.read_family("upstream_connections", "Open connections to the upstream", upstream(|c| c.open.load(Ordering::Relaxed)));
    metrics.read_family("upstream_in_flight", "Requests in flight to the upstream", upstream(|c| c.in_flight.load(Ordering::Relaxed)));
    let up = names.iter().cloned().zip(proxy.names()).map(|(name, (index, _))| {
        let proxy = Arc::clone(proxy);
        (name, Box::new(move || f64::from(u8::from(proxy.is_in(index)))) as Read)
    });
    metrics.read_family("upstream_up", "Whether requests are sent to the upstream", up.collect());
    metrics.read_family("upstream_upgrades", "Open upgraded connections", upstream(|c| c.upgrades.load(Ordering::Relaxed)));
    metrics.read_family("upstream_retries", "Further tries since the start", upstream(|c| c.retries.load(Ordering::Relaxed)));
    metrics.read_family("upstream_saturated", "Requests that found no connection", upstream(|c| c.saturated.load(Ordering::Relaxed)));
    let values = Arc::clone(proxy);
    metrics.read_from("identity_values_dropped", "Identity header values that held control bytes", move || {
        values.counters().dropped_values.load(Ordering::Relaxed) as f64
    });
    metrics
}

/// A number that its owner keeps.
type Read = Box<dyn Fn() -> f64 + Send + Sync>;

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let install = |kind| signal(kind).map_err(|source| Error::Start(source.to_string()));
        Ok(Self { terminate: install(SignalKind::terminate())?, interrupt: install(SignalKind::interrupt())? })
    }

    async fn first(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn second(&mut self) {
        self.first().await;
    }
}

/// Why the program could not start or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data folder.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The master key.
    #[error("the master key: {0}")]
    Key(#[from] seal::Error),
    /// The state.
    #[error(transparent)]
    Auth(#[from] auth::Error),
    /// An upstream's files.
    #[error(transparent)]
    Upstream(#[from] SetupError),
    /// An address, a certificate or a thread.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// Anything else.
    #[error("{0}")]
    Start(String),
}
