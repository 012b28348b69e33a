//! Prometheus metrics, named `nullpass_…`. Those of the request path are handles that are made once; the rest is read
//! from its owners when somebody asks.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// What was decided about a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decided {
    /// One of nullpass's own routes.
    Own,
    /// Forwarded, nobody signed in.
    Public,
    /// Forwarded, somebody signed in.
    Allow,
    /// Asked to sign in, to show a second factor or to be fresh.
    Challenge,
    /// Refused.
    Deny,
    /// Malformed or ambiguous.
    Bad,
    /// Over a limit.
    Limited,
    /// It could not be decided.
    Unavailable,
}

impl Decided {
    /// How many there are; `Unavailable` is the last.
    const COUNT: usize = Self::Unavailable as usize + 1;

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Public => "public",
            Self::Allow => "allow",
            Self::Challenge => "challenge",
            Self::Deny => "deny",
            Self::Bad => "bad",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    upstream: String,
    class: &'static str,
    decision: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Named {
    name: String,
}

const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The counters of one upstream.
struct Row {
    upstream: String,
    cells: Vec<OnceLock<Counter>>,
}

impl Row {
    fn new(upstream: &str) -> Self {
        let cells = std::iter::repeat_with(OnceLock::new).take(Decided::COUNT * CLASSES.len()).collect();
        Self { upstream: upstream.to_owned(), cells }
    }
}

/// A number that its owner counts; read when the metrics are asked for.
type Read = Box<dyn Fn() -> f64 + Send + Sync>;

/// The metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// Handles of the above: one row an upstream, and a last one for "none"; in a row one a decision and class, made
    /// when it is first needed, so that nothing is shown that never happened.
    rows: Vec<Row>,
    own_time: Histogram,
    upstream_time: Histogram,
    read: Mutex<Vec<(Gauge<f64, std::sync::atomic::AtomicU64>, Read)>>,
    /// Connections from clients that are open.
    pub connections: Gauge,
    /// Requests in flight.
    pub in_flight: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// The metrics of an instance with these upstreams.
    pub fn new(upstreams: &[String]) -> Self {
        let mut registry = Registry::with_prefix("nullpass");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Requests answered", requests.clone());
        let rows = upstreams.iter().map(String::as_str).chain(["none"]).map(Row::new).collect();
        let own_time = Histogram::new(buckets(0.000_05));
        registry.register("own_seconds", "Time a forwarded request spent in nullpass before it was sent on", own_time.clone());
        let upstream_time = Histogram::new(buckets(0.000_5));
        registry.register("upstream_seconds", "Time from sending a request on to the head of its answer", upstream_time.clone());
        let (connections, in_flight) = (Gauge::default(), Gauge::default());
        registry.register("connections", "Open connections from clients", connections.clone());
        registry.register("requests_in_flight", "Requests in flight", in_flight.clone());
        Self { registry, requests, rows, own_time, upstream_time, read: Mutex::default(), connections, in_flight }
    }

    /// Adds a number that its owner keeps.
    pub fn read_from(&mut self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        let gauge = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        self.registry.register(name, help, gauge.clone());
        self.read.get_mut().unwrap_or_else(PoisonError::into_inner).push((gauge, Box::new(read)));
    }

    /// Adds numbers of one name that differ in their `name` label.
    pub fn read_family<F>(&mut self, name: &str, help: &str, each: Vec<(String, F)>)
    where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        let family = Family::<Named, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        self.registry.register(name, help, family.clone());
        let all = self.read.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (name, read) in each {
            all.push((family.get_or_create(&Named { name }).clone(), Box::new(read)));
        }
    }

    /// Counts an answer. `upstream` is its index; `None`: it was not forwarded.
    pub fn answered(&self, upstream: Option<usize>, status: u16, decided: Decided) {
        let Some(row) = upstream.map_or_else(|| self.rows.last(), |index| self.rows.get(index)) else { return };
        let class = CLASSES.get(usize::from(status / 100)).copied().unwrap_or("other");
        let place = (decided as usize) * CLASSES.len() + CLASSES.iter().position(|known| *known == class).unwrap_or(0);
        if let Some(cell) = row.cells.get(place) {
            let labels = || RequestLabels { upstream: row.upstream.clone(), class, decision: decided.as_str() };
            cell.get_or_init(|| self.requests.get_or_create(&labels()).clone()).inc();
        }
    }

    /// Notes the two times of a forwarded request.
    pub fn timed(&self, own: Duration, upstream: Duration) {
        self.own_time.observe(own.as_secs_f64());
        self.upstream_time.observe(upstream.as_secs_f64());
    }

    /// The text that Prometheus reads (`OpenMetrics` 1.0).
    pub fn render(&self) -> String {
        for (gauge, read) in self.read.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            gauge.set(read());
        }
        let mut text = String::with_capacity(16 * 1024);
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }
}

/// Fourteen buckets, each two and a half times as wide as the one before: from `first` seconds.
fn buckets(first: f64) -> impl Iterator<Item = f64> {
    prometheus_client::metrics::histogram::exponential_buckets(first, 2.5, 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_was_counted() {
        let mut metrics = Metrics::new(&["app".to_owned()]);
        metrics.read_from("sessions", "Live sessions", || 7.0);
        metrics.answered(Some(0), 204, Decided::Allow);
        metrics.answered(None, 401, Decided::Challenge);
        metrics.answered(None, 999, Decided::Bad);
        let text = metrics.render();
        assert!(text.contains(r#"nullpass_requests_total{upstream="app",class="2xx",decision="allow"} 1"#), "{text}");
        assert!(text.contains(r#"nullpass_requests_total{upstream="none",class="4xx",decision="challenge"} 1"#), "{text}");
        assert_eq!(text.matches("nullpass_requests_total{").count(), 3, "{text}");
        assert!(text.contains("nullpass_sessions 7"), "{text}");
        assert!(text.contains(&format!("nullpass_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))), "{text}");
    }
}
