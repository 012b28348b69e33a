//! One address of an upstream, as all workers share it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::SetupError;
use super::connect::Dialer;
use super::health::{Health, Probed};
use super::resolve::Resolver;
use crate::config::{self, UpstreamUrl};

/// Where requests can go, how many are there, and how it fares.
pub(super) struct Endpoint {
    /// Its place among the upstream's.
    pub(super) place: usize,
    pub(super) dialer: Dialer,
    /// Its own `Host`.
    pub(super) own_host: HeaderValue,
    in_flight: AtomicUsize,
    /// Whether `health` needs no look, which is nearly always so.
    spotless: AtomicBool,
    health: Mutex<Health>,
}

/// A request's place at an endpoint: it counts as in flight there for as long as this lives.
#[derive(Debug)]
pub(super) struct Chosen(Arc<Endpoint>);

impl Endpoint {
    pub(super) fn new(place: usize, config: &config::Upstream, url: &UpstreamUrl, resolver: &Resolver) -> Result<Self, SetupError> {
        Ok(Self {
            place,
            own_host: own_host(config, url)?,
            dialer: Dialer::new(config, url, resolver)?,
            in_flight: AtomicUsize::new(0),
            spotless: AtomicBool::new(true),
            health: Mutex::default(),
        })
    }

    /// Requests that are being sent or answered.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The share of requests it gets, in percent of a full one; 0: it is out of service.
    pub(super) fn share(&self) -> u8 {
        if self.spotless.load(Ordering::Relaxed) { 100 } else { self.health().share(Instant::now()) }
    }

    /// Notes a request that failed for a reason of the endpoint's; gives how long it is ejected for, if it is.
    pub(super) fn failed(&self, jitter: u8) -> Option<Duration> {
        self.change(|health| health.failed(Instant::now(), jitter))
    }

    /// Notes a request that was answered.
    pub(super) fn succeeded(&self) {
        if !self.spotless.load(Ordering::Relaxed) {
            self.change(|health| health.succeeded(Instant::now()));
        }
    }

    /// Notes the outcome of a probe.
    pub(super) fn probed(&self, well: bool) -> Probed {
        self.change(|health| health.probed(well, Instant::now()))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Health) -> T) -> T {
        let mut health = self.health();
        let outcome = change(&mut health);
        self.spotless.store(health.is_spotless(), Ordering::Relaxed);
        outcome
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("dialer", &self.dialer).finish_non_exhaustive()
    }
}

impl Chosen {
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }

    /// Where to.
    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn own_host(config: &config::Upstream, url: &UpstreamUrl) -> Result<HeaderValue, SetupError> {
    let host = match url {
        UpstreamUrl::Unix(_) | UpstreamUrl::UnixH2c(_) => "localhost".to_owned(),
        UpstreamUrl::Tcp { host, port, .. } | UpstreamUrl::H2c { host, port } => {
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            let usual = if url.is_tls() { 443 } else { 80 };
            if *port == usual { host } else { format!("{host}:{port}") }
        }
    };
    HeaderValue::try_from(host)
        .map_err(|error| SetupError::Tls { upstream: config.name.clone(), cause: format!("its host is no host: {error}") })
}
