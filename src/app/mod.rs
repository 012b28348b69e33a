//! The composition root: from a [`Config`] to a running program. The only folder that names concrete backends and sees
//! the whole configuration.
//!
//! `open` opens the state, `generation` is one configuration made ready to serve, `reload` swaps it for another while it runs.

mod descriptors;
mod generation;
mod metrics;
pub mod migrate;
mod open;
mod reload;
mod signals;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use self::generation::{Generation, Lasting, Parts};
use self::open::open;
use self::reload::{Reloader, Reloads};
use self::signals::{Asked, Signals};
use crate::admin;
use crate::auth::{self, Auth};
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::crypto::seal;
use crate::jobs;
use crate::proxy::{Proxy, SetupError, UpstreamIndex};
use crate::server::tls::Tls;
use crate::server::{self, Inherited, Listener, Places, Redirect, Workers, activation, worker};
use crate::store::{self, Store};
use crate::tasks::Tasks;
use crate::telemetry::AccessLog;
use crate::telemetry::log::{self, Level};

pub use self::open::{open_auth, open_store};
pub use self::reload::Origin;

/// Runs the sidecar until a signal ends it. `notices` are the settings that weaken something, to be logged. With an
/// `origin` it is read again on SIGHUP and when its files change.
pub fn serve(config: Config, notices: Vec<String>, origin: Option<Origin>) -> Result<(), Error> {
    let level = log::start(&config.log);
    descriptors::raise(&config);
    crate::crypto::token::install_provider();
    // Before there are threads: it changes the environment.
    let inherited = Inherited::from_environment();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("main")
        .enable_all()
        .build()
        .map_err(|source| Error::Start(source.to_string()))?;
    let done = runtime.block_on(run(config, notices, origin, level, inherited));
    // What is still there had its grace; a blocked thread must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
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

async fn run(config: Config, notices: Vec<String>, origin: Option<Origin>, level: Level, inherited: Inherited) -> Result<(), Error> {
    for notice in &notices {
        tracing::warn!("{notice}");
    }
    let mut signals = Signals::new()?;
    // Opened by `start`, after everything that can be wrong without it was looked at.
    let tasks = Tasks::new();
    let store = config.clone();
    let running = Box::pin(start_with(inherited, level, config, open_store(&store, &tasks), Clock::system())).await?;
    let reloader = Arc::clone(&running.reloader);
    if let Some(origin) = &origin {
        running.background.spawn(Arc::clone(&reloader).watch(origin.clone()));
    }
    activation::notify(activation::State::Ready);

    // Until somebody ends it.
    while matches!(signals.next().await, Asked::Reload) {
        match &origin {
            Some(origin) => drop(reloader.read_again(&origin.options).await),
            None => tracing::warn!("there is no configuration file to read again"),
        }
    }
    running.draining.store(true, Ordering::Release);
    activation::notify(activation::State::Stopping);
    running.stop(signals.stop()).await
}

/// A sidecar that answers.
#[derive(Debug)]
pub struct Running {
    reloader: Arc<Reloader>,
    addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    redirect_address: Option<SocketAddr>,
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
    start_on(Inherited::none(), config, store, clock).await
}

/// The same on sockets that somebody else holds open, as far as they are for addresses of the configuration.
pub async fn start_on(
    inherited: Inherited,
    config: Config,
    store: impl Future<Output = Result<Arc<dyn Store>, Error>>,
    clock: Clock,
) -> Result<Running, Error> {
    // In a box: it is large, and whoever runs it inside a program of their own needs no room for it.
    Box::pin(start_with(inherited, Level::fixed(), config, store, clock)).await
}

/// The same in a process whose log is ours.
async fn start_with(
    mut inherited: Inherited,
    level: Level,
    config: Config,
    store: impl Future<Output = Result<Arc<dyn Store>, Error>>,
    clock: Clock,
) -> Result<Running, Error> {
    crate::crypto::token::install_provider();
    // Everything that can fail does so before a port is bound.
    let new_tls = |tls| Tls::new(tls, config.storage.path.clone(), clock.clone());
    let tls = config.server.tls.as_ref().map(new_tls).transpose()?;
    let (requests, background) = (Tasks::new(), Tasks::new());
    let parts = Parts::prepare(&config, &requests, None)?;
    let auth = open(&config, store.await?, &clock, &background).await?;
    // An administrator that can't be made is a wrong configuration, and that never takes a port.
    welcome(&auth, &config, &clock).await?;
    if let Some(tls) = &tls {
        tls.start(&background)?;
    }
    let socket_path = config.storage.path.join(&config.admin.socket);
    let socket = admin::socket::Listener::bind(&socket_path).await.map_err(|error| Error::Start(error.to_string()))?;
    let mut listeners = Vec::with_capacity(config.server.listen.len());
    for address in &config.server.listen {
        listeners.push(Listener::open(address, &mut inherited)?);
    }
    let admin_listener = match config.admin.listen {
        Some(address) => Some(bind_admin(address).await?),
        None => None,
    };
    inherited.warn_of_others();
    let addresses: Vec<_> = listeners.iter().filter_map(Listener::tcp_address).collect();
    let redirect = Redirect::bind(&config.server, addresses.first().copied(), clock.clone()).await?;
    let redirect_address = redirect.as_ref().and_then(Redirect::address);
    let admin_address = admin_listener.as_ref().and_then(|listener| listener.local_addr().ok());

    // What the request path is made of.
    let access = AccessLog::start(&config.log).map_err(|error| Error::Start(error.to_string()))?;
    let undeclared = Arc::new(AtomicU64::new(0));
    let proxy = Arc::new(ArcSwap::new(Arc::clone(&parts.proxy)));
    let counts = Reloads::default();
    let metrics = Arc::new(metrics::metrics(&auth, &proxy, &access, &undeclared, &counts, tls.as_ref()));
    let closed = CancellationToken::new();
    let lasting = Lasting {
        auth: Arc::clone(&auth),
        tls,
        access,
        metrics: Arc::clone(&metrics),
        undeclared,
        clock: clock.clone(),
        requests: requests.clone(),
        closed: closed.clone(),
    };
    let places = Places::new(config.server.max_connections);
    let count = worker::count(config.server.workers);
    let generation = Generation::new(config, parts, &lasting, None);
    let worker::Started { workers, everywhere, threads } =
        Workers::start(count, &generation.gateway, &generation.proxy, &generation.settings, &requests)?;

    // From here on it answers.
    let draining = Arc::new(AtomicBool::new(false));
    let operators = Tasks::new();
    operators.spawn(admin::socket::serve(socket, Arc::clone(&auth), clock.clone(), operators.clone()));
    if let Some(listener) = admin_listener {
        let state = admin::State {
            auth: Arc::clone(&auth),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            draining: Arc::clone(&draining),
            probe: probe(&proxy),
            upstreams: upstream_names(&proxy),
        };
        operators.spawn(admin::serve(listener, Arc::new(state), operators.clone()));
    }
    let accepting = Tasks::new();
    // The workers' threads end with an error, too.
    workers.accept(listeners, &places, &metrics, &accepting).inspect_err(|_| closed.cancel())?;
    if let Some(redirect) = redirect {
        tracing::info!(address = ?redirect_address, "redirecting to https");
        accepting.spawn(redirect.run(accepting.clone()));
    }
    drop(workers);
    jobs::start(&auth, &clock, &background);
    generation.proxy.watch();

    let reloader = Reloader {
        lasting,
        everywhere,
        generation: ArcSwap::from_pointee(generation),
        proxy,
        places,
        background: background.clone(),
        level,
        counts,
        draining: Arc::clone(&draining),
        busy: tokio::sync::Mutex::default(),
    };
    let reloader = Arc::new(reloader);
    Ok(Running {
        reloader,
        addresses,
        admin_address,
        redirect_address,
        draining,
        closed,
        accepting,
        requests,
        background,
        operators,
        threads,
    })
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

    /// Where `server.tls.http_redirect` answers.
    pub fn redirect_address(&self) -> Option<SocketAddr> {
        self.redirect_address
    }

    /// The TLS of its listeners; reload it when the configuration or a file of it has changed.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.reloader.lasting.tls.as_ref()
    }

    /// The use cases that it serves, for whoever runs it inside a program of their own.
    pub fn auth(&self) -> &Arc<Auth> {
        &self.reloader.lasting.auth
    }

    /// Serves by another configuration from the next request on, without losing a connection. Keys that can't change
    /// while it runs stay as they are and are named in the answer; see [`Config::for_running`].
    ///
    /// # Errors
    ///
    /// The configuration can't be served by: a rule or a file of it is wrong. Then nothing has changed.
    pub async fn reload(&self, config: Config) -> Result<Vec<&'static str>, Error> {
        self.reloader.apply(config).await
    }

    /// Drains and ends it: not ready but still accepting for `shutdown_delay`, then what is in flight has
    /// `shutdown_grace`, unless `at_once` is there before.
    pub async fn stop(mut self, at_once: impl Future<Output = ()>) -> Result<(), Error> {
        tracing::info!("stopping: not ready any more, still accepting");
        self.draining.store(true, Ordering::Release);
        let generation = self.reloader.generation.load_full();
        let drained = drain(&generation.config, &self.accepting, &self.requests);
        tokio::select! {
            () = drained => {}
            () = at_once => tracing::warn!("a second signal: stopping at once"),
        }
        // At once also means that whoever accepts has to go: the workers live as long as they do.
        self.accepting.stop();
        self.requests.cut();
        self.closed.cancel();
        self.background.stop();
        self.operators.stop();
        tokio::select! {
            () = async { self.accepting.wait().await; self.background.wait().await; self.operators.wait().await } => {}
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        let flushed = self.reloader.lasting.auth.close().await;
        self.reloader.lasting.access.close();
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

/// Of `shutdown_grace`, what is kept for closing connections that use all of it, in a sound way.
const CUT: Duration = Duration::from_millis(500);

/// Goes on accepting for `shutdown_delay`, then takes what already queues, then lets what is in flight finish. What does
/// not end by itself, such as a `WebSocket`, is ended shortly before the grace is over.
async fn drain(config: &Config, accepting: &Tasks, requests: &Tasks) {
    tokio::time::sleep(config.server.shutdown_delay).await;
    accepting.stop();
    accepting.wait().await;
    requests.stop();
    let grace = config.server.shutdown_grace;
    let last = CUT.min(grace / 4);
    if tokio::time::timeout(grace.saturating_sub(last), requests.wait()).await.is_ok() {
        return;
    }
    tracing::warn!(tasks = requests.len(), "some requests did not finish within shutdown_grace and are cut off");
    requests.cut();
    if tokio::time::timeout(last, requests.wait()).await.is_err() {
        tracing::warn!(tasks = requests.len(), "some did not even end then");
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
            // Another process that starts at the same time was quicker.
            Err(auth::Error::AddressTaken) if auth.has_administrator().await? => return Ok(()),
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

fn probe(proxy: &Arc<ArcSwap<Proxy>>) -> admin::Probe {
    let proxy = Arc::clone(proxy);
    Box::new(move |name| {
        let proxy = proxy.load_full();
        Box::pin(async move {
            let found: Option<UpstreamIndex> = proxy.names().find(|(_, known)| *known == name).map(|(index, _)| index);
            match found {
                Some(index) => Some(proxy.probe(index).await.map_err(|_| ())),
                None => None,
            }
        })
    })
}

fn upstream_names(proxy: &Arc<ArcSwap<Proxy>>) -> admin::Names {
    let proxy = Arc::clone(proxy);
    Box::new(move || proxy.load().names().map(|(_, name)| name.to_owned()).collect())
}

/// Why the program could not start or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data folder or the database.
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
