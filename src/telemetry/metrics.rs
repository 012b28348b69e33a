//! Prometheus metrics, named `nullpass_…`. Those of the request path are handles that are made once; the rest is read
//! from its owners when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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

/// A limit of connections that was met.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Limit {
    /// `server.max_connections`: a connection had to wait in the kernel's queue.
    Connections,
    /// A connection that did nothing was closed because others waited for a place.
    Room,
    /// `server.header_timeout`: a head, a TLS handshake or a PROXY line took too long.
    HeaderTimeout,
    /// `server.idle_timeout`.
    IdleTimeout,
    /// `server.max_header_size` or `server.max_headers`: answered with 431, or 414 for a target alone.
    Header,
    /// `limits.max_body`: answered with 413.
    Body,
    /// `server.http2.max_resets`.
    Http2Resets,
    /// What HTTP/2 takes of pings, settings, continuations and the like.
    Http2Flood,
    /// A PROXY line that was missing or wrong.
    ProxyLine,
}

impl Limit {
    const ALL: [Self; 9] = [
        Self::Connections,
        Self::Room,
        Self::HeaderTimeout,
        Self::IdleTimeout,
        Self::Header,
        Self::Body,
        Self::Http2Resets,
        Self::Http2Flood,
        Self::ProxyLine,
    ];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Room => "room",
            Self::HeaderTimeout => "header_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Header => "header",
            Self::Body => "body",
            Self::Http2Resets => "http2_resets",
            Self::Http2Flood => "http2_flood",
            Self::ProxyLine => "proxy_line",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
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

/// The counters of the requests to one upstream, or of those that were not forwarded: handles, one a decision and class,
/// each made when it is first needed, so that nothing is shown that never happened.
pub struct Requests {
    upstream: String,
    family: Family<RequestLabels, Counter>,
    cells: Vec<OnceLock<Counter>>,
}

impl Requests {
    fn new(upstream: &str, family: &Family<RequestLabels, Counter>) -> Self {
        let cells = std::iter::repeat_with(OnceLock::new).take(Decided::COUNT * CLASSES.len()).collect();
        Self { upstream: upstream.to_owned(), family: family.clone(), cells }
    }

    /// The upstream's name.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Counts an answer.
    pub fn answered(&self, status: u16, decided: Decided) {
        let class = CLASSES.get(usize::from(status / 100)).copied().unwrap_or("other");
        let place = (decided as usize) * CLASSES.len() + CLASSES.iter().position(|known| *known == class).unwrap_or(0);
        if let Some(cell) = self.cells.get(place) {
            let labels = || RequestLabels { upstream: self.upstream.clone(), class, decision: decided.as_str() };
            cell.get_or_init(|| self.family.get_or_create(&labels()).clone()).inc();
        }
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

/// A gauge in floating point.
type Number = Gauge<f64, std::sync::atomic::AtomicU64>;

/// A number that its owner counts; read when the metrics are asked for.
type Read = Box<dyn Fn() -> f64 + Send + Sync>;

/// The same for numbers whose labels come and go.
type ReadChanging = Box<dyn Fn() -> Vec<(String, f64)> + Send + Sync>;

/// The metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// Handles of the above by upstream, kept also while a reload has taken an upstream away: it may come back.
    upstreams: Mutex<BTreeMap<String, Arc<Requests>>>,
    /// Requests that were not forwarded.
    not_forwarded: Requests,
    own_time: Histogram,
    upstream_time: Histogram,
    read: Mutex<Vec<(Number, Read)>>,
    read_changing: Mutex<Vec<(Family<Named, Number>, ReadChanging)>>,
    limited: Family<LimitLabels, Counter>,
    /// Connections from clients that are open.
    pub connections: Gauge,
    /// Those of them that wait for a next request without a buffer.
    pub resting: Gauge,
    /// Requests in flight.
    pub in_flight: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("nullpass");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Requests answered", requests.clone());
        let not_forwarded = Requests::new("none", &requests);
        let own_time = Histogram::new(buckets(0.000_05));
        registry.register("own_seconds", "Time a forwarded request spent in nullpass before it was sent on", own_time.clone());
        let upstream_time = Histogram::new(buckets(0.000_5));
        registry.register("upstream_seconds", "Time from sending a request on to the head of its answer", upstream_time.clone());
        let limited = Family::<LimitLabels, Counter>::default();
        registry.register("limited", "Connections and requests that met a limit", limited.clone());
        for limit in Limit::ALL {
            drop(limited.get_or_create(&LimitLabels { limit: limit.as_str() }));
        }
        let (connections, resting, in_flight) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("connections", "Open connections from clients", connections.clone());
        registry.register("connections_resting", "Those that wait for a next request without a buffer", resting.clone());
        registry.register("requests_in_flight", "Requests in flight", in_flight.clone());
        Self {
            registry,
            requests,
            upstreams: Mutex::default(),
            not_forwarded,
            own_time,
            upstream_time,
            read: Mutex::default(),
            read_changing: Mutex::default(),
            limited,
            connections,
            resting,
            in_flight,
        }
    }

    /// Adds a histogram that its owner keeps.
    pub fn histogram_from(&mut self, name: &str, help: &str, histogram: Histogram) {
        self.registry.register(name, help, histogram);
    }

    /// Adds a number that its owner keeps.
    pub fn read_from(&mut self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        let gauge = Number::default();
        self.registry.register(name, help, gauge.clone());
        self.read.get_mut().unwrap_or_else(PoisonError::into_inner).push((gauge, Box::new(read)));
    }

    /// Adds numbers of one name that differ in their `name` label.
    pub fn read_family<F>(&mut self, name: &str, help: &str, each: Vec<(String, F)>)
    where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        let family = Family::<Named, Number>::default();
        self.registry.register(name, help, family.clone());
        let all = self.read.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (name, read) in each {
            all.push((family.get_or_create(&Named { name }).clone(), Box::new(read)));
        }
    }

    /// Adds numbers of one name that differ in their `name` label, and whose labels may come and go.
    pub fn read_changing(&mut self, name: &str, help: &str, read: impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static) {
        let family = Family::<Named, Number>::default();
        self.registry.register(name, help, family.clone());
        self.read_changing.get_mut().unwrap_or_else(PoisonError::into_inner).push((family, Box::new(read)));
    }

    /// The counters of the requests to the upstream of a name: the same ones each time.
    pub fn requests_to(&self, upstream: &str) -> Arc<Requests> {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let made = upstreams.entry(upstream.to_owned()).or_insert_with(|| Arc::new(Requests::new(upstream, &self.requests)));
        Arc::clone(made)
    }

    /// The counters of requests that were not forwarded.
    pub const fn not_forwarded(&self) -> &Requests {
        &self.not_forwarded
    }

    /// Counts a limit that was met.
    pub fn limited(&self, limit: Limit) {
        self.limited.get_or_create(&LimitLabels { limit: limit.as_str() }).inc();
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
        for (family, read) in self.read_changing.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            family.clear();
            for (name, value) in read() {
                family.get_or_create(&Named { name }).set(value);
            }
        }
        let mut text = String::with_capacity(16 * 1024);
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
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
        let mut metrics = Metrics::new();
        metrics.read_from("sessions", "Live sessions", || 7.0);
        let upstreams = Mutex::new(vec![("app".to_owned(), 1.0)]);
        let upstreams = Arc::new(upstreams);
        let read = Arc::clone(&upstreams);
        metrics.read_changing("upstream_up", "Up", move || read.lock().unwrap().clone());
        metrics.requests_to("app").answered(204, Decided::Allow);
        metrics.requests_to("app").answered(204, Decided::Allow);
        metrics.not_forwarded().answered(401, Decided::Challenge);
        metrics.not_forwarded().answered(999, Decided::Bad);
        let text = metrics.render();
        assert!(text.contains(r#"nullpass_requests_total{upstream="app",class="2xx",decision="allow"} 2"#), "{text}");
        assert!(text.contains(r#"nullpass_requests_total{upstream="none",class="4xx",decision="challenge"} 1"#), "{text}");
        assert_eq!(text.matches("nullpass_requests_total{").count(), 3, "{text}");
        assert!(text.contains(r#"nullpass_upstream_up{name="app"} 1"#), "{text}");
        *upstreams.lock().unwrap() = vec![("other".to_owned(), 2.0)];
        let text = metrics.render();
        assert!(!text.contains(r#"nullpass_upstream_up{name="app"}"#), "{text}");
        assert!(text.contains(r#"nullpass_upstream_up{name="other"} 2"#), "{text}");
        assert!(text.contains("nullpass_sessions 7"), "{text}");
        assert!(text.contains(&format!("nullpass_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))), "{text}");
    }
}
