//! What happens here, in numbers that telemetry reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts over all workers.
#[derive(Debug)]
pub struct Counters {
    upstreams: Vec<Arc<UpstreamCounters>>,
    /// Identity values that were not announced because they hold control characters, since the start.
    pub dropped_values: AtomicU64,
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
}

impl Counters {
    pub(super) fn new(upstreams: usize) -> Self {
        Self { upstreams: std::iter::repeat_with(Arc::default).take(upstreams).collect(), dropped_values: AtomicU64::new(0) }
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
