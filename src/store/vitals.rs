//! What a store that is somewhere else says of itself, for metrics.

use std::sync::Arc;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// How a store does.
#[derive(Clone)]
pub struct Vitals {
    /// How long an operation took in seconds, from asking for a connection to the end of the answer, whatever that was.
    pub seconds: Histogram,
    /// The connections of this moment.
    pub connections: Arc<dyn Fn() -> Connections + Send + Sync>,
}

/// A pool's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connections {
    /// Those that are open or being opened.
    pub open: usize,
    /// Those of them that are in use.
    pub busy: usize,
    /// How many operations wait for one.
    pub waiting: usize,
}

impl Vitals {
    /// Buckets from a quarter of a millisecond to eight seconds.
    pub fn buckets() -> Histogram {
        Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
    }
}

impl std::fmt::Debug for Vitals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vitals").field("connections", &(self.connections)()).finish_non_exhaustive()
    }
}
