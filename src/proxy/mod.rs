//! Forwarding to upstreams. Knows who is asking as an [`Identity`], and nothing of how that was found out.
//!
//! A request's way: [`Proxy::route`] says where, `request` rewrites its head, `choice` picks an endpoint, `pool` gives a
//! connection to it, `exchange` sends and waits for the answer's head, `response` rewrites that, and `download` or `upgrade`
//! carry the rest.

mod alarm;
mod attempt;
mod budget;
mod choice;
mod connect;
mod counters;
mod cut;
mod download;
mod endpoint;
mod error;
mod exchange;
mod health;
mod http1;
mod http2;
mod pool;
mod probe;
mod request;
mod resolve;
mod response;
mod route;
mod stream;
mod tls;
mod upgrade;
mod upload;
mod upstream;
mod wait;
mod watch;

use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

pub use counters::{Counters, UpstreamCounters};
pub use error::{Error, SetupError};
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use http1::fuzzing::answer as fuzz_answer;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use request::fuzzing::request_head as fuzz_request_head;
pub use resolve::{Lookup, Resolver};

use crate::config;
use crate::model::{Group, Identity};
use crate::tasks::Tasks;
use crate::wire::body::Body;
use crate::wire::header::IdentityNames;
use pool::Pool;
use request::IdentityFields;
use route::Routes;
use upstream::Upstream;

/// Which `[[upstreams]]`: its place in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UpstreamIndex(usize);

impl UpstreamIndex {
    /// The place, for metrics.
    pub const fn index(self) -> usize {
        self.0
    }
}

/// Whether the session that a stream belongs to has ended. Asked about once a second, so it must be cheap.
pub type Ended = Arc<dyn Fn() -> bool + Send + Sync>;

/// All upstreams, shared by the workers.
#[derive(Debug)]
pub struct Proxy {
    upstreams: Vec<Arc<Upstream>>,
    routes: Routes,
    names: IdentityNames,
    fields: IdentityFields,
    max_body: Option<u64>,
    tasks: Tasks,
    counters: Arc<Counters>,
    resolver: Resolver,
}

/// One worker thread's connections to the upstreams.
#[derive(Debug)]
pub struct Worker {
    proxy: Arc<Proxy>,
    pools: Vec<Arc<Pool>>,
}

/// Where a request came from, as the front has decided to believe.
#[derive(Clone, Copy, Debug)]
pub struct ForwardContext<'a> {
    /// The request's id, which upstreams are told.
    pub request_id: &'a str,
    /// The client's address.
    pub client: IpAddr,
    /// Whether the peer is a proxy whose forwarding headers are believed.
    pub peer_trusted: bool,
    /// The address at the other end of the connection; `None`: a unix socket.
    pub peer: Option<IpAddr>,
    /// How the client reached us: `http` or `https`.
    pub scheme: &'a str,
    /// The authority as the client sent it, with its port if it had one.
    pub host_header: &'a str,
    /// The port that the client reached.
    pub port: u16,
}

/// How to forward one request.
pub struct Forward<'a> {
    /// Where to, from [`Proxy::route`].
    pub upstream: UpstreamIndex,
    /// Where from.
    pub context: &'a ForwardContext<'a>,
    /// Who is asking; `None`: nobody is announced.
    pub identity: Option<&'a Identity>,
    /// The session token, sent on only when `forward_token` is on.
    pub token: Option<&'a str>,
    /// The signed statement, if that is on.
    pub assertion: Option<HeaderValue>,
    /// Whether `Authorization` holds a credential of ours, which the upstream must not see.
    pub strip_authorization: bool,
    /// Whether the answer must stay out of shared caches.
    pub private: bool,
    /// Whether the headers that override the method are removed.
    pub strip_method_override: bool,
    /// Cuts streams and upgrades off when it says so.
    pub ended: Option<Ended>,
    /// Dropped when an upgrade has ended, or none came of it: over HTTP/2 its stream outlives the answer.
    pub hold: Option<Box<dyn Any + Send>>,
    /// The prefix of our own routes, without a slash at its end.
    pub prefix: &'a str,
    /// Whether a cookie of that name is ours.
    pub own_cookie: fn(&str) -> bool,
}

impl fmt::Debug for Forward<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("upstream", &self.upstream).field("context", &self.context).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Reads the certificates that upstreams need and prepares their routes. `max_body` is in bytes.
    ///
    /// # Errors
    ///
    /// A certificate, key or authority file that can't be read or used: nothing may start with less security than was
    /// asked for (requirement CFG-3).
    pub fn new(
        upstreams: &[config::Upstream],
        identity: &config::IdentityHeaders,
        admin_group: &Group,
        max_body: Option<u64>,
        tasks: Tasks,
    ) -> Result<Arc<Self>, SetupError> {
        Self::with_resolver(upstreams, identity, admin_group, max_body, tasks, Resolver::system())
    }

    /// [`Self::new`] with names looked up by `resolver`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn with_resolver(
        upstreams: &[config::Upstream],
        identity: &config::IdentityHeaders,
        admin_group: &Group,
        max_body: Option<u64>,
        tasks: Tasks,
        resolver: Resolver,
    ) -> Result<Arc<Self>, SetupError> {
        let made = upstreams.iter().map(|config| Upstream::new(config, Arc::default(), &resolver).map(Arc::new));
        let made = made.collect::<Result<Vec<_>, _>>()?;
        let fields = IdentityFields::new(upstreams, identity, admin_group);
        Ok(Arc::new(Self::of(made, upstreams, identity, fields, max_body, tasks, Arc::default(), resolver)))
    }

    /// A proxy for a new configuration, to take this one's place. What has not changed is shared with it: an upstream
    /// whose settings (and certificate files) are the same goes on with its connections, limits and health; one that has
    /// kept only its name goes on counting. Begin to [`watch`](Self::watch) it, and give it to the workers with
    /// [`worker_like`](Self::worker_like). What this one has begun it finishes.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; this one is unharmed then.
    pub fn reloaded(
        &self,
        upstreams: &[config::Upstream],
        identity: &config::IdentityHeaders,
        admin_group: &Group,
        max_body: Option<u64>,
    ) -> Result<Arc<Self>, SetupError> {
        let made = upstreams.iter().map(|config| match self.upstreams.iter().find(|old| old.name == config.name) {
            Some(same) if same.is(config) => Ok(Arc::clone(same)),
            Some(other) => Upstream::new(config, Arc::clone(&other.counters), &self.resolver).map(Arc::new),
            None => Upstream::new(config, Arc::default(), &self.resolver).map(Arc::new),
        });
        let made = made.collect::<Result<Vec<_>, _>>()?;
        let (tasks, dropped, resolver) = (self.tasks.clone(), Arc::clone(&self.counters.dropped_values), self.resolver.clone());
        let fields = self.fields.reloaded(upstreams, identity, admin_group);
        Ok(Arc::new(Self::of(made, upstreams, identity, fields, max_body, tasks, dropped, resolver)))
    }

    #[expect(clippy::too_many_arguments, reason = "the two ways to make one meet here and nowhere else")]
    fn of(
        made: Vec<Arc<Upstream>>,
        configs: &[config::Upstream],
        identity: &config::IdentityHeaders,
        fields: IdentityFields,
        max_body: Option<u64>,
        tasks: Tasks,
        dropped_values: Arc<AtomicU64>,
        resolver: Resolver,
    ) -> Self {
        let counters = made.iter().map(|upstream| Arc::clone(&upstream.counters)).collect();
        Self {
            upstreams: made,
            routes: Routes::new(configs),
            names: IdentityNames::new(identity),
            fields,
            max_body,
            tasks,
            counters: Arc::new(Counters::new(counters, dropped_values)),
            resolver,
        }
    }

    /// The upstream that serves `path` of `host`, both as the rules see them; `host` is lower case, without a port.
    ///
    /// An exact host beats `*.` of a parent, which beats none; then the longest path in whole segments wins, so `/app`
    /// serves `/app/x` but not `/apple`. `None`: nobody serves it (404).
    pub fn route(&self, host: &str, path: &str) -> Option<UpstreamIndex> {
        self.routes.find(host, path).map(UpstreamIndex)
    }

    /// Connections for one more worker thread.
    pub fn worker(self: &Arc<Self>) -> Arc<Worker> {
        let pools = self.upstreams.iter().map(|upstream| Pool::new(upstream, &self.tasks)).collect();
        Arc::new(Worker { proxy: Arc::clone(self), pools })
    }

    /// The successor of `old` for the same thread, which may be a worker of the proxy that this one was
    /// [`reloaded`](Self::reloaded) from: connections to upstreams that both have are kept.
    pub fn worker_like(self: &Arc<Self>, old: &Worker) -> Arc<Worker> {
        let pool = |upstream| {
            let kept = old.pools.iter().find(|pool| Arc::ptr_eq(&pool.upstream, upstream));
            kept.map_or_else(|| Pool::new(upstream, &self.tasks), Arc::clone)
        };
        Arc::new(Worker { proxy: Arc::clone(self), pools: self.upstreams.iter().map(pool).collect() })
    }

    /// The upstreams' names, in the configuration's order.
    pub fn names(&self) -> impl Iterator<Item = (UpstreamIndex, &str)> {
        self.upstreams.iter().enumerate().map(|(at, upstream)| (UpstreamIndex(at), upstream.name.as_str()))
    }

    /// The name of one upstream.
    pub fn name(&self, upstream: UpstreamIndex) -> &str {
        self.upstreams.get(upstream.0).map_or("", |upstream| upstream.name.as_str())
    }

    /// What to count and measure.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Starts probing the upstreams that ask for it (`health.interval`) and following the addresses of names, until the
    /// tasks stop or an upstream is gone. An upstream that is watched already is left alone.
    pub fn watch(self: &Arc<Self>) {
        for upstream in &self.upstreams {
            watch::begin(upstream, &self.tasks, self.resolver.again());
        }
    }

    /// Whether requests are sent to an upstream: false while all its endpoints are out of service.
    pub fn is_in(&self, upstream: UpstreamIndex) -> bool {
        self.endpoints_in(upstream) > 0
    }

    /// How many of an upstream's endpoints are in service.
    pub fn endpoints_in(&self, upstream: UpstreamIndex) -> usize {
        self.upstreams.get(upstream.0).map_or(0, |upstream| upstream.in_service())
    }

    /// Asks an upstream's `health_path` (`/` if it has none) over a connection of its own: of an endpoint in service, or
    /// of the first if there is none.
    ///
    /// # Errors
    ///
    /// As [`Worker::forward`]; an upstream that does not exist is [`Error::Unreachable`].
    pub async fn probe(&self, upstream: UpstreamIndex) -> Result<StatusCode, Error> {
        let upstream = self.upstreams.get(upstream.0).ok_or(Error::Unreachable)?;
        let in_service = upstream.endpoints.iter().find(|endpoint| endpoint.share() > 0);
        let endpoint = in_service.or_else(|| upstream.endpoints.first()).ok_or(Error::Unreachable)?;
        probe::probe(upstream, endpoint).await
    }
}

impl Worker {
    /// Forwards `request` and gives the answer, whose body streams.
    ///
    /// The request must have passed the rules: its path is forwarded as it was received (requirement PATH-3). Our own
    /// cookies must have been removed from it; everything else that the upstream must not see is removed here.
    ///
    /// # Errors
    ///
    /// There is no answer to give; see [`Error`] for whose fault that is.
    pub async fn forward(&self, request: Request<Incoming>, how: Forward<'_>) -> Result<Response<Body>, Error> {
        // An index comes from `route`, so there is always one.
        let pool = self.pools.get(how.upstream.0).ok_or(Error::Unreachable)?;
        exchange::forward(&self.proxy, pool, request, how).await
    }

    /// What all workers share.
    pub fn proxy(&self) -> &Arc<Proxy> {
        &self.proxy
    }
}
