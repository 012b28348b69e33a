//! What `/metrics` shows beside what the request path counts: numbers that their owners keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::reload::{Counts, Reloads};
use crate::auth::{self, Auth};
use crate::proxy::{Proxy, UpstreamCounters};
use crate::server::tls::Tls;
use crate::telemetry::{AccessLog, Metrics};

/// All of them.
#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floating point")]
pub(super) fn metrics(
    auth: &Arc<Auth>,
    proxy: &Arc<ArcSwap<Proxy>>,
    access: &AccessLog,
    undeclared: &Arc<AtomicU64>,
    reloads: &Reloads,
    tls: Option<&Arc<Tls>>,
) -> Metrics {
    let mut metrics = Metrics::new();
    let sessions = Arc::clone(auth);
    metrics.read_from("sessions", "Live sessions", move || sessions.live().len() as f64);
    let queue = Arc::clone(auth);
    metrics.read_from("hash_queue", "Sign-ins that wait to be hashed", move || queue.hasher().queue_len() as f64);
    let hashes = Arc::clone(auth);
    metrics.read_from("hashes_done", "Passwords hashed since the start", move || hashes.hasher().hashes_done() as f64);
    let away = Arc::clone(auth);
    metrics.read_from("store_up", "Whether the store answers", move || f64::from(u8::from(!away.live().is_store_away())));
    let ping = Arc::clone(auth);
    metrics.read_from("store_ping_seconds", "How long the store took to answer when it was last asked", move || {
        ping.counters().store_ping_micros.load(Ordering::Relaxed) as f64 / 1_000_000.0
    });
    let feed = Arc::clone(auth);
    let help = "How long ago the store last told what other processes changed, or that they changed nothing; 0 where nobody shares it";
    metrics.read_from("store_follow_lag_seconds", help, move || feed.live().unheard_for().unwrap_or_default().as_secs_f64());
    if let Some(vitals) = auth.store_vitals() {
        metrics.histogram_from("store_seconds", "How long the store took, the wait for a connection included", vitals.seconds.clone());
        metrics.read_changing("store_connections", "Connections to the database, and who waits for one", move || {
            let now = (vitals.connections)();
            [("open", now.open), ("busy", now.busy), ("waiting", now.waiting)].map(|(name, count)| (name.to_owned(), count as f64)).to_vec()
        });
    }
    let undeclared = Arc::clone(undeclared);
    metrics.read_from("undeclared_proxy_requests", "Requests through a proxy that server.trusted_proxies does not name", move || {
        undeclared.load(Ordering::Relaxed) as f64
    });
    let dropped = access.clone();
    metrics.read_from("access_lines_dropped", "Access lines that could not be written", move || dropped.dropped() as f64);
    let counted = |read: fn(&auth::Counters) -> &AtomicU64| -> Read {
        let auth = Arc::clone(auth);
        Box::new(move || read(auth.counters()).load(Ordering::Relaxed) as f64)
    };
    metrics.read_family(
        "logins",
        "Sign-ins since the start, by result",
        vec![
            ("complete".to_owned(), counted(|counters| &counters.logins_complete)),
            ("second_factor".to_owned(), counted(|counters| &counters.logins_second_factor)),
            ("refused".to_owned(), counted(|counters| &counters.logins_refused)),
            ("code_refused".to_owned(), counted(|counters| &counters.second_factor_refused)),
            ("busy".to_owned(), counted(|counters| &counters.hashes_refused)),
        ],
    );
    metrics.read_family(
        "events",
        "What else was counted since the start",
        vec![
            ("limited".to_owned(), counted(|counters| &counters.logins_limited)),
            ("registered".to_owned(), counted(|counters| &counters.registrations)),
            ("token_reuse".to_owned(), counted(|counters| &counters.token_reuse)),
            ("audit_failed".to_owned(), counted(|counters| &counters.audit_failures)),
        ],
    );
    let reload = |read: fn(&Counts) -> &AtomicU64| -> Read {
        let reloads = Arc::clone(reloads);
        Box::new(move || read(&reloads).load(Ordering::Relaxed) as f64)
    };
    metrics.read_family(
        "reloads",
        "Changes of the configuration since the start, by result",
        vec![("done".to_owned(), reload(|counts| &counts.done)), ("refused".to_owned(), reload(|counts| &counts.refused))],
    );
    upstreams(&mut metrics, proxy);
    if let Some(tls) = tls {
        tls.measure(&mut metrics);
    }
    let values = Arc::clone(proxy);
    metrics.read_from("identity_values_dropped", "Identity header values that held control bytes", move || {
        values.load().counters().dropped_values.load(Ordering::Relaxed) as f64
    });
    metrics
}

/// One number an upstream; which upstreams there are changes with the configuration.
#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floating point")]
fn upstreams(metrics: &mut Metrics, proxy: &Arc<ArcSwap<Proxy>>) {
    let each: [(&str, &str, Count); 7] = [
        ("upstream_connections", "Open connections to the upstream", |counters| &counters.open),
        ("upstream_in_flight", "Requests in flight to the upstream", |counters| &counters.in_flight),
        ("upstream_upgrades", "Open upgraded connections", |counters| &counters.upgrades),
        ("upstream_retries", "Further tries since the start", |counters| &counters.retries),
        ("upstream_retries_refused", "Further tries that were not made because there had been too many", |counters| {
            &counters.retries_refused
        }),
        ("upstream_saturated", "Requests that found no connection", |counters| &counters.saturated),
        ("upstream_ejections", "Times an endpoint was taken out", |counters| &counters.ejections),
    ];
    for (name, help, read) in each {
        let proxy = Arc::clone(proxy);
        metrics.read_changing(name, help, move || {
            let proxy = proxy.load();
            let named = proxy.names().zip(proxy.counters().upstreams());
            named.map(|((_, name), counters)| (name.to_owned(), read(counters).load(Ordering::Relaxed) as f64)).collect()
        });
    }
    let endpoints = Arc::clone(proxy);
    metrics.read_changing("upstream_endpoints", "Endpoints of the upstream that are in service", move || {
        let proxy = endpoints.load();
        proxy.names().map(|(index, name)| (name.to_owned(), proxy.endpoints_in(index) as f64)).collect()
    });
    let proxy = Arc::clone(proxy);
    metrics.read_changing("upstream_up", "Whether requests are sent to the upstream", move || {
        let proxy = proxy.load();
        proxy.names().map(|(index, name)| (name.to_owned(), f64::from(u8::from(proxy.is_in(index))))).collect()
    });
}

/// One of an upstream's numbers.
type Count = fn(&UpstreamCounters) -> &AtomicU64;

/// A number that its owner keeps.
type Read = Box<dyn Fn() -> f64 + Send + Sync>;
