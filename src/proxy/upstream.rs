//! One upstream, as all workers share it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connect::Dialer;
use super::counters::{Gauge, UpstreamCounters, Which};
use super::pool::Pool;
use super::{Error, SetupError};
use crate::config::{self, UpstreamUrl};

/// Settings and limits of one upstream.
pub(super) struct Upstream {
    pub(super) name: String,
    pub(super) dialer: Dialer,
    /// Its own `Host`.
    pub(super) own_host: HeaderValue,
    pub(super) pass_host: bool,
    /// The prefix to cut off, without a slash at its end; `None`: nothing is cut.
    pub(super) cut: Option<String>,
    /// Whether the prefix is put back into answers.
    pub(super) rewrite: bool,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) stream_idle_timeout: Duration,
    pub(super) retries: u32,
    pub(super) health_path: Option<String>,
    pub(super) health_interval: Option<Duration>,
    /// Probes that failed in a row.
    failures: AtomicUsize,
    pub(super) set_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) remove_headers: Vec<HeaderName>,
    pub(super) counters: Arc<UpstreamCounters>,
    cap: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Each worker's connections, so that one at the cap can have another's idle one closed.
    pools: Mutex<Vec<Weak<Pool>>>,
}

/// Requests that may wait for a connection at a time. More would wait longer than anybody does.
const MAX_WAITING: usize = 1024;

/// Probes that must fail in a row before an upstream is taken out: one may be bad luck.
const FAILURES: usize = 2;

/// The right to have one connection, counted.
#[derive(Debug)]
pub(super) struct Permit {
    _gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

/// A place in the queue.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Upstream {
    /// Whether probes have failed so often that nothing is sent there.
    pub(super) fn is_out(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES
    }

    /// Notes the outcome of a probe.
    pub(super) fn probed(&self, well: bool) {
        if well {
            if self.failures.swap(0, Ordering::Relaxed) >= FAILURES {
                tracing::info!(upstream = self.name, "the upstream is well again");
            }
        } else if self.failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES {
            tracing::warn!(upstream = self.name, "the upstream's probe has failed twice: it is taken out until one succeeds");
        }
    }

    pub(super) fn new(config: &config::Upstream, counters: Arc<UpstreamCounters>) -> Result<Self, SetupError> {
        let own_host = match &config.url {
            UpstreamUrl::Unix(_) => "localhost".to_owned(),
            UpstreamUrl::Tcp { tls, host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let usual = if *tls { 443 } else { 80 };
                if *port == usual { host } else { format!("{host}:{port}") }
            }
        };
        let own_host = HeaderValue::try_from(own_host)
            .map_err(|error| SetupError::Tls { upstream: config.name.clone(), cause: format!("its host is no host: {error}") })?;
        let prefix = config.path.trim_end_matches('/');
        Ok(Self {
            name: config.name.clone(),
            dialer: Dialer::new(config)?,
            own_host,
            pass_host: config.pass_host,
            cut: (config.strip_path && !prefix.is_empty()).then(|| prefix.to_owned()),
            rewrite: config.rewrite,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            stream_idle_timeout: config.stream_idle_timeout,
            retries: config.retries,
            health_path: config.health_path.clone(),
            health_interval: config.health_interval,
            failures: AtomicUsize::new(0),
            set_headers: config.set_headers.clone(),
            remove_headers: config.remove_headers.clone(),
            counters,
            cap: Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            pools: Mutex::new(Vec::new()),
        })
    }

    /// Makes a worker's pool known to the others.
    pub(super) fn join(&self, pool: Weak<Pool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|other| other.strong_count() > 0);
        pools.push(pool);
    }

    /// The right to connect, if the cap leaves room.
    pub(super) fn permit_now(&self) -> Option<Permit> {
        Arc::clone(&self.cap).try_acquire_owned().ok().map(|permit| self.counted(permit))
    }

    /// The right to connect, as soon as the cap leaves room.
    pub(super) async fn permit(&self) -> Result<Permit, Error> {
        let permit = Arc::clone(&self.cap).acquire_owned().await.map_err(|_| Error::Saturated)?;
        Ok(self.counted(permit))
    }

    /// A place in the queue; `None`: it is full.
    pub(super) fn queue(&self) -> Option<Waiting<'_>> {
        let waiting = Waiting(&self.waiting);
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        (before < MAX_WAITING).then_some(waiting)
    }

    /// Whether any worker has requests that wait for a connection.
    pub(super) fn has_queue(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Closes an idle connection of any worker, to make room for one that is needed.
    pub(super) fn close_an_idle_one(&self) {
        let pools: Vec<Arc<Pool>> = {
            let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.iter().filter_map(Weak::upgrade).collect()
        };
        for pool in pools {
            if pool.close_one() {
                return;
            }
        }
    }

    fn counted(&self, permit: OwnedSemaphorePermit) -> Permit {
        Permit { _gauge: Gauge::new(&self.counters, Which::Open), _permit: permit }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).field("dialer", &self.dialer).finish_non_exhaustive()
    }
}
