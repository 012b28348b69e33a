//! What happens here, in numbers that telemetry reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts over all workers.
#[derive(Debug)]
pub struct Counters {
    upstreams: Vec<Arc<UpstreamCounters>>,
    /// Identity values that were not announced because they hold control characters, since the start.
    pub dropped_values: Arc<AtomicU64>,
}

/// Counts of one upstream. The first three go up and down, the others only up.
#[derive(Debug, Default)]
pub struct UpstreamCounters {
    /// Open connections, upgraded ones among them.
    pub open: AtomicU64,
    /// Requests that were sent or wait for a connection and whose answer's body has not ended.
    pub in_flight: AtomicU64,
    /// Open upgrades.
    pub upgrades: AtomicU64,
    /// Further tries.
    pub retries: AtomicU64,
    /// Requests that got no connection because all were in use.
    pub saturated: AtomicU64,
    /// Endpoints that were taken out of service, by their requests or their probes.
    pub ejections: AtomicU64,
    /// Requests that came in.
    pub requests: AtomicU64,
    /// Tries that were safe but not made, because there had been too many.
    pub retries_refused: AtomicU64,
}

impl Counters {
    pub(super) fn new(upstreams: Vec<Arc<UpstreamCounters>>, dropped_values: Arc<AtomicU64>) -> Self {
        Self { upstreams, dropped_values }
    }

    /// Those of each upstream, in the configuration's order.
    pub fn upstreams(&self) -> &[Arc<UpstreamCounters>] {
        &self.upstreams
    }
}

/// Which number a [`Gauge`] holds up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Open,
    InFlight,
    Upgrades,
}

/// One more of something for as long as this lives.
#[derive(Debug)]
pub(super) struct Gauge {
    counters: Arc<UpstreamCounters>,
    which: Which,
}

impl Gauge {
    pub(super) fn new(counters: &Arc<UpstreamCounters>, which: Which) -> Self {
        let gauge = Self { counters: Arc::clone(counters), which };
        gauge.number().fetch_add(1, Ordering::Relaxed);
        gauge
    }

    fn number(&self) -> &AtomicU64 {
        match self.which {
            Which::Open => &self.counters.open,
            Which::InFlight => &self.counters.in_flight,
            Which::Upgrades => &self.counters.upgrades,
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.number().fetch_sub(1, Ordering::Relaxed);
    }
}
