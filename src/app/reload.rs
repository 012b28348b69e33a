//! Reading the configuration again while it runs: on SIGHUP, and when one of its files has changed.
//!
//! A new configuration is checked whole before anything of it counts. What is wrong is logged, and the old one stays.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::Error;
use super::generation::{Generation, Lasting, Parts, auth_settings};
use super::open::given_keys;
use crate::config::{Config, LoadOptions, Loaded, load};
use crate::crypto::digest::sha256;
use crate::model::Digest;
use crate::proxy::Proxy;
use crate::server::activation::{self, State};
use crate::server::{Everywhere, Places};
use crate::tasks::Tasks;
use crate::telemetry::log::Level;

/// How often the files are looked at. By their content, not by the kernel's notices: a Kubernetes volume swaps a symbolic
/// link two folders up, and a network file system tells nobody.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where a configuration came from, to read it again.
#[derive(Clone, Debug)]
pub struct Origin {
    /// How it was found.
    pub options: LoadOptions,
    /// The files it was read from, those of secrets and certificates among them.
    pub sources: Vec<PathBuf>,
}

/// How many reloads there were.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) done: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// Shared with the metrics.
pub(super) type Reloads = Arc<Counts>;

/// Changes what a running sidecar serves with.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) lasting: Lasting,
    pub(super) everywhere: Everywhere,
    pub(super) generation: ArcSwap<Generation>,
    /// The present generation's, for the metrics and the admin listener.
    pub(super) proxy: Arc<ArcSwap<Proxy>>,
    /// The places under `max_connections`.
    pub(super) places: Places,
    pub(super) background: Tasks,
    pub(super) level: Level,
    pub(super) counts: Reloads,
    /// Whether the end has begun.
    pub(super) draining: Arc<AtomicBool>,
    /// One at a time.
    pub(super) busy: Mutex<()>,
}

impl Reloader {
    /// Serves by `config` from the next request on. What can't change while it runs stays, and is named in the answer.
    /// On an error nothing has changed.
    pub(super) async fn apply(&self, config: Config) -> Result<Vec<&'static str>, Error> {
        let _one = self.busy.lock().await;
        let before = self.generation.load_full();
        let (config, waiting) = config.for_running(&before.config);
        let parts = Parts::prepare(&config, &self.lasting.requests, Some(&before)).inspect_err(|_| {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
        })?;
        if before.config.storage != config.storage
            && let Some(keys) = given_keys(&config)?
        {
            self.lasting.auth.take_keys(keys).await.inspect_err(|_| {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
            })?;
            tracing::info!("the master keys of the configuration are taken over");
        }
        if let (Some(tls), Some(settings)) = (&self.lasting.tls, &config.server.tls) {
            tls.reload(settings).inspect_err(|_| {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
            })?;
        }
        self.places.resize(before.config.server.max_connections, config.server.max_connections);
        self.lasting.auth.reload(auth_settings(&config));
        self.level.set(config.log.level);
        let generation = Arc::new(Generation::new(config, parts, &self.lasting, Some(&before)));
        self.everywhere.swap(&generation.gateway, &generation.proxy, &generation.settings);
        self.proxy.store(Arc::clone(&generation.proxy));
        generation.proxy.watch();
        self.generation.store(generation);
        self.counts.done.fetch_add(1, Ordering::Relaxed);
        Ok(waiting)
    }

    /// Reads the configuration again and applies it; logs what became of it, and tells the service manager. The files that
    /// were read, if it was fit to run.
    pub(super) async fn read_again(&self, options: &LoadOptions) -> Option<Vec<PathBuf>> {
        // Once it stops, nothing may say that it is ready.
        let notify = |state| {
            if !self.draining.load(Ordering::Acquire) {
                activation::notify(state);
            }
        };
        notify(State::Reloading);
        let sources = self.read(options).await;
        notify(if sources.is_some() { State::Ready } else { State::Refused });
        sources
    }

    async fn read(&self, options: &LoadOptions) -> Option<Vec<PathBuf>> {
        let options = options.clone();
        let loaded = match self.background.spawn_blocking(move || load(&options)).await {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(problems)) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                tracing::error!("the changed configuration is refused, the old one stays:\n{problems}");
                return None;
            }
            Err(error) => {
                tracing::error!(%error, "the configuration could not be read again");
                return None;
            }
        };
        let Loaded { config, dangers, sources, .. } = loaded;
        match self.apply(config).await {
            Ok(waiting) => {
                for danger in dangers {
                    tracing::warn!("{danger}");
                }
                tracing::info!("the configuration was read again and holds from now on");
                if !waiting.is_empty() {
                    tracing::warn!(keys = waiting.join(", "), "these have changed too and wait for the next start");
                }
                Some(sources)
            }
            Err(error) => {
                tracing::error!(%error, "the changed configuration is refused, the old one stays");
                None
            }
        }
    }

    /// Looks at the files until the tasks stop. A change counts once it has been seen twice, so that a file which is
    /// being written is not read half.
    pub(super) async fn watch(self: Arc<Self>, origin: Origin) {
        let mut files = Files::of(origin.sources);
        let mut applied = self.look(&files).await;
        let mut last = applied.clone();
        loop {
            tokio::select! {
                () = self.background.stopped() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = self.look(&files).await;
            if now != applied && now == last {
                if let Some(sources) = self.read_again(&origin.options).await {
                    files = Files::of(sources);
                }
                applied = self.look(&files).await;
                last.clone_from(&applied);
            } else {
                last = now;
            }
        }
    }

    async fn look(&self, files: &Files) -> Seen {
        let files = files.clone();
        self.background.spawn_blocking(move || files.look()).await.unwrap_or_default()
    }
}

/// The files of a configuration.
#[derive(Clone, Debug)]
struct Files(Vec<PathBuf>);

/// What was in them; `None`: a file can't be read.
type Seen = BTreeMap<PathBuf, Option<Digest>>;

impl Files {
    const fn of(sources: Vec<PathBuf>) -> Self {
        Self(sources)
    }

    fn look(self) -> Seen {
        self.0.into_iter().map(|path| (path.clone(), std::fs::read(&path).ok().map(|bytes| sha256(&bytes)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::super::{Running, open_store, start};
    use super::*;
    use crate::clock::Clock;
    use crate::config::{Argon2, Overrides};
    use crate::server::Gateway;
    use crate::server::connection::Settings;

    async fn running(folder: &std::path::Path) -> (Running, Config) {
        let file = folder.join("nullpass.toml");
        let upstream = "[[upstreams]]\nname = \"app\"\nurl = \"http://localhost:1\"\nhealth = { path = \"/\", interval = \"1h\" }\n";
        let server = "[server]\nlisten = [\"127.0.0.1:0\"]\n[log]\naccess = false\n";
        std::fs::write(&file, format!("{server}{upstream}")).unwrap();
        let options = LoadOptions { file: Some(file), overrides: Overrides::default(), ..LoadOptions::default() };
        let mut config = load(&options).unwrap_or_else(|problems| panic!("{problems}")).config;
        config.storage.path = folder.join("data");
        config.admin.listen = None;
        config.server.shutdown_delay = Duration::ZERO;
        config.accounts.argon2 = Argon2 { memory_kib: 64, iterations: 1, parallelism: 1, max_concurrent: 1 };
        let tasks = Tasks::new();
        let running = start(config.clone(), open_store(&config, &tasks), Clock::system()).await.unwrap();
        (running, config)
    }

    async fn ask(socket: &mut TcpStream) {
        socket.write_all(b"GET /_auth/api/health HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut bytes = [0; 2048];
        let count = socket.read(&mut bytes).await.unwrap();
        assert!(bytes[..count].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&bytes[..count]));
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        for _ in 0..200 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("never: {what}");
    }

    // Nothing of an old configuration is kept by those who stay: not by connections, workers, metrics, probes or counters.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn old_generations_are_freed() {
        let folder = tempfile::tempdir().unwrap();
        let (running, config) = running(folder.path()).await;
        let mut asks = TcpStream::connect(running.addresses()[0]).await.unwrap();
        let mut rests = TcpStream::connect(running.addresses()[0]).await.unwrap();
        ask(&mut rests).await;
        ask(&mut asks).await;
        let tasks = running.requests.len();
        let mut old: Vec<(Weak<Gateway>, Weak<Proxy>, Weak<Settings>)> = Vec::new();
        for number in 0..200_u16 {
            let before = running.reloader.generation.load_full();
            old.push((Arc::downgrade(&before.gateway), Arc::downgrade(&before.proxy), Arc::downgrade(&before.settings)));
            drop(before);
            let mut config = config.clone();
            // Sometimes the upstream stays, sometimes it is another.
            if let Some(upstream) = config.upstreams.first_mut() {
                upstream.max_connections = usize::from(10 + number / 3);
            }
            assert!(running.reload(config).await.unwrap().is_empty());
            ask(&mut asks).await;
        }
        until("all gateways are freed", || old.iter().all(|(gateway, ..)| gateway.strong_count() == 0)).await;
        until("all proxies are freed", || old.iter().all(|(_, proxy, _)| proxy.strong_count() == 0)).await;
        // A connection keeps the limits that it began with, and nobody else does.
        until("all settings but two connections' are freed", || old.iter().skip(1).all(|(.., settings)| settings.strong_count() == 0))
            .await;
        assert_ne!(old[0].2.strong_count(), 0);
        ask(&mut rests).await;
        drop((asks, rests));
        until("the first settings are freed", || old[0].2.strong_count() == 0).await;
        until("the tasks of old upstreams end", || running.requests.len() <= tasks).await;
        running.stop(std::future::pending()).await.unwrap();
    }
}
