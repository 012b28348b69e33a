//! One upstream, as all workers share it.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::budget::Budget;
use super::choice::{self, Dice};
use super::counters::{Gauge, UpstreamCounters, Which};
use super::endpoint::{Chosen, Endpoint};
use super::health::Probed;
use super::pool::Pool;
use super::resolve::Resolver;
use super::{Error, SetupError};
use crate::config;

/// Settings and limits of one upstream, and its endpoints.
pub(super) struct Upstream {
    /// What it was made from, to tell whether a new configuration changes it.
    config: config::Upstream,
    /// What stood in the files that it names.
    files: Vec<[u8; 32]>,
    pub(super) name: String,
    /// At least one.
    pub(super) endpoints: Vec<Arc<Endpoint>>,
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
    pub(super) set_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) remove_headers: Vec<HeaderName>,
    pub(super) counters: Arc<UpstreamCounters>,
    cap: Arc<Semaphore>,
    waiting: AtomicUsize,
    budget: Mutex<Budget>,
    /// Each worker's connections, so that one at the cap can have another's idle one closed.
    pools: Mutex<Vec<Weak<Pool>>>,
    watched: AtomicBool,
    gone: CancellationToken,
}

/// Requests that may wait for a connection at a time. More would wait longer than anybody does.
const MAX_WAITING: usize = 1024;

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
    pub(super) fn new(config: &config::Upstream, counters: Arc<UpstreamCounters>, resolver: &Resolver) -> Result<Self, SetupError> {
        let endpoints: Result<Vec<_>, SetupError> =
            config.urls.iter().enumerate().map(|(place, url)| Endpoint::new(place, config, url, resolver).map(Arc::new)).collect();
        let prefix = config.path.trim_end_matches('/');
        Ok(Self {
            name: config.name.clone(),
            endpoints: endpoints?,
            pass_host: config.pass_host,
            cut: (config.strip_path && !prefix.is_empty()).then(|| prefix.to_owned()),
            rewrite: config.rewrite,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            stream_idle_timeout: config.stream_idle_timeout,
            retries: config.retries,
            health_path: config.health_path.clone(),
            health_interval: config.health_interval,
            set_headers: config.set_headers.clone(),
            remove_headers: config.remove_headers.clone(),
            counters,
            cap: Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            budget: Mutex::default(),
            pools: Mutex::new(Vec::new()),
            watched: AtomicBool::new(false),
            gone: CancellationToken::new(),
            files: digests(config).unwrap_or_default(),
            config: config.clone(),
        })
    }

    /// Whether it is what `config` says and its files hold what they held, so that a reload can keep it.
    pub(super) fn is(&self, config: &config::Upstream) -> bool {
        self.config == *config && digests(config).is_some_and(|files| files == self.files)
    }

    /// Whether this is the first call: an upstream that outlives its configuration is watched once.
    pub(super) fn begin_to_watch(&self) -> bool {
        !self.watched.swap(true, Ordering::Relaxed)
    }

    /// Cancelled when this upstream is gone. What waits for that must not hold it.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// An endpoint for a request, another than `avoid` if there is one; `None`: all are out of service.
    pub(super) fn choose(&self, avoid: Option<usize>, dice: &Dice) -> Option<Chosen> {
        let endpoint = match self.endpoints.as_slice() {
            [only] => Some(only).filter(|only| only.share() > 0),
            several => choice::choose(
                several.len(),
                avoid,
                |at| several.get(at).map_or(0, |endpoint| endpoint.share()),
                |at| several.get(at).map_or(usize::MAX, |endpoint| endpoint.in_flight()),
                |below| dice.roll(below),
            )
            .and_then(|at| several.get(at)),
        };
        endpoint.map(Chosen::new)
    }

    /// How many endpoints are in service.
    pub(super) fn in_service(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.share() > 0).count()
    }

    /// Notes that a request failed for a reason of the endpoint's. A single one is never ejected: there would be nothing to
    /// go to, and each request learns the truth.
    pub(super) fn failed(&self, endpoint: &Endpoint, dice: &Dice) {
        if self.endpoints.len() < 2 {
            return;
        }
        let jitter = u8::try_from(dice.roll(101)).unwrap_or(0);
        if let Some(time) = endpoint.failed(jitter) {
            self.counters.ejections.fetch_add(1, Ordering::Relaxed);
            let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(upstream = self.name, endpoint = %endpoint.dialer, millis, "requests fail one after the other: the endpoint is ejected for a while");
        }
    }

    /// Whether a request may be tried again: too many further tries are too much for an upstream that is unwell.
    pub(super) fn may_retry(&self) -> bool {
        let requests = self.counters.requests.load(Ordering::Relaxed);
        let may = self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), requests);
        let counter = if may { &self.counters.retries } else { &self.counters.retries_refused };
        counter.fetch_add(1, Ordering::Relaxed);
        may
    }

    /// Notes the outcome of an endpoint's probe.
    pub(super) fn probed(&self, endpoint: &Endpoint, well: bool) {
        match endpoint.probed(well) {
            Probed::Same => {}
            Probed::Back => tracing::info!(upstream = self.name, endpoint = %endpoint.dialer, "the endpoint is well again"),
            Probed::Out => {
                self.counters.ejections.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(upstream = self.name, endpoint = %endpoint.dialer, "the probe has failed twice: the endpoint is taken out until one succeeds");
            }
        }
    }

    /// Whether an authority, as it stands in an answer, is one of the endpoints' own.
    pub(super) fn is_own_host(&self, authority: &[u8]) -> bool {
        self.endpoints.iter().any(|endpoint| authority.eq_ignore_ascii_case(endpoint.own_host.as_bytes()))
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

    /// Whether the cap leaves no room.
    pub(super) fn is_full(&self) -> bool {
        self.cap.available_permits() == 0
    }

    /// Whether any worker has requests that wait for a connection.
    pub(super) fn has_queue(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Closes an idle connection of any worker, to make room for one that is needed.
    pub(super) fn close_an_idle_one(&self) {
        for pool in self.pools() {
            if pool.close_one() {
                return;
            }
        }
    }

    /// The workers' connections.
    pub(super) fn pools(&self) -> Vec<Arc<Pool>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    fn counted(&self, permit: OwnedSemaphorePermit) -> Permit {
        Permit { _gauge: Gauge::new(&self.counters, Which::Open), _permit: permit }
    }
}

/// What stands in the files that an upstream names; `None`: one can't be read.
fn digests(config: &config::Upstream) -> Option<Vec<[u8; 32]>> {
    let client = config.tls.client.iter().flat_map(|files| [&files.cert, &files.key]);
    let digest = |path: &PathBuf| std::fs::read(path).ok().map(|text| Sha256::digest(Zeroizing::new(text).as_slice()).into());
    config.tls.ca.iter().chain(client).map(digest).collect()
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}
