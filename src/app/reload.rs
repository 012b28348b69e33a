//! Reading the configuration again while it runs: on SIGHUP, and when one of its files has changed.
//!
//! A new configuration is checked whole before anything of it counts. What is wrong is logged, and the old one stays.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Semaphore};

use super::Error;
use super::generation::{Generation, Lasting, Parts, auth_settings};
use crate::config::{Config, LoadOptions, Loaded, load};
use crate::crypto::digest::sha256;
use crate::model::Digest;
use crate::proxy::Proxy;
use crate::server::Everywhere;
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
    pub(super) places: Arc<Semaphore>,
    pub(super) background: Tasks,
    pub(super) level: Level,
    pub(super) counts: Reloads,
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
        let parts = Parts::prepare(&config, &self.lasting.requests).inspect_err(|_| {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
        })?;
        self.resize(before.config.server.max_connections, config.server.max_connections);
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

    /// Reads the configuration again and applies it; logs what became of it. The files that were read, if it was fit to run.
    pub(super) async fn read_again(&self, options: &LoadOptions) -> Option<Vec<PathBuf>> {
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

    /// More places are there at once; fewer as soon as connections that are too many have ended.
    fn resize(&self, before: usize, after: usize) {
        if after >= before {
            self.places.add_permits(after - before);
            return;
        }
        let rest = (before - after) - self.places.forget_permits(before - after);
        if let Ok(rest @ 1..) = u32::try_from(rest) {
            let places = Arc::clone(&self.places);
            self.background.spawn(async move {
                if let Ok(permits) = places.acquire_many_owned(rest).await {
                    permits.forget();
                }
            });
        }
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
