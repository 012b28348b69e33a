//! What the metrics say about certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Counters, Tls};
use crate::telemetry::Metrics;

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floating point")]
impl Tls {
    /// Adds the certificates' ends and what was counted to the metrics.
    pub fn measure(self: &Arc<Self>, metrics: &mut Metrics) {
        let counted = |name: &str, read: fn(&Counters) -> &AtomicU64| {
            let tls = Arc::clone(self);
            (name.to_owned(), move || read(&tls.counters).load(Ordering::Relaxed) as f64)
        };
        let reloads = vec![counted("ok", |c| &c.reloads), counted("failed", |c| &c.reloads_failed)];
        metrics.read_family("tls_reloads", "Changes of certificate files and settings since the start, by result", reloads);
        let orders = vec![counted("ok", |c| &c.acme_orders), counted("failed", |c| &c.acme_failures)];
        metrics.read_family("tls_acme_orders", "Orders of a certificate by ACME since the start, by result", orders);
        let tls = Arc::clone(self);
        metrics.read_changing("tls_certificate_not_after_seconds", "When the certificate ends, in seconds since 1970", move || {
            tls.not_after().into_iter().map(|(name, at)| (name, at.as_secs() as f64)).collect()
        });
    }
}
