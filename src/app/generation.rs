//! One configuration made ready to serve: what a reload makes anew and swaps in as a whole.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio_util::sync::CancellationToken;

use super::{Error, public_origin};
use crate::auth::{self, Auth};
use crate::clock::Clock;
use crate::config::Config;
use crate::forward_auth::Announcement;
use crate::limit::Limiter;
use crate::policy::network::Networks;
use crate::policy::rules::Policy;
use crate::proxy::Proxy;
use crate::server::answered::Recorder;
use crate::server::connection::Settings as ConnectionSettings;
use crate::server::tls::Tls;
use crate::server::{self, Gateway};
use crate::tasks::Tasks;
use crate::telemetry::{AccessLog, Metrics};
use crate::web::{self, Web};
use crate::wire::context;
use crate::wire::cookie::Names;

/// What stays from the start to the end, whatever is reloaded.
#[derive(Debug)]
pub(super) struct Lasting {
    pub(super) auth: Arc<Auth>,
    /// Changes by itself when its settings or files do.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) access: AccessLog,
    pub(super) metrics: Arc<Metrics>,
    pub(super) undeclared: Arc<AtomicU64>,
    pub(super) clock: Clock,
    /// Ends what requests have begun.
    pub(super) requests: Tasks,
    /// Cancelled when the workers may end.
    pub(super) closed: CancellationToken,
}

/// The parts that are checked and read before anything is bound or changed.
pub(super) struct Parts {
    policy: Policy,
    pub(super) proxy: Arc<Proxy>,
}

/// A configuration and what serves by it.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) config: Config,
    pub(super) gateway: Arc<Gateway>,
    pub(super) proxy: Arc<Proxy>,
    pub(super) settings: Arc<ConnectionSettings>,
}

impl Parts {
    /// Reads and prepares everything that can be wrong with a configuration.
    /// Upstreams that are as they were `before` go on with their connections, health and counters.
    pub(super) fn prepare(config: &Config, requests: &Tasks, before: Option<&Generation>) -> Result<Self, Error> {
        let policy = Policy::new(config.default_policy, &config.rules)
            .map_err(|problems| Error::Start(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        let (upstreams, identity, admins) = (&config.upstreams, &config.identity, &config.accounts.admin_group);
        let proxy = match before {
            Some(before) => before.proxy.reloaded(upstreams, identity, admins, config.limits.max_body)?,
            None => Proxy::new(upstreams, identity, admins, config.limits.max_body, requests.clone())?,
        };
        Ok(Self { policy, proxy })
    }
}

impl Generation {
    /// Puts the parts together. Nothing can go wrong any more. A limit of `before` whose rate is the same goes on counting.
    pub(super) fn new(config: Config, parts: Parts, lasting: &Lasting, before: Option<&Self>) -> Self {
        let Parts { policy, proxy } = parts;
        let recorder = Recorder {
            access: lasting.access.clone(),
            metrics: Arc::clone(&lasting.metrics),
            upstreams: proxy.names().map(|(_, name)| lasting.metrics.requests_to(name)).collect(),
            undeclared: Arc::clone(&lasting.undeclared),
        };
        let limiter = before.and_then(|before| before.gateway.limiter.as_ref());
        let gateway = Arc::new(Gateway {
            web: Arc::new(Web::new(Arc::clone(&lasting.auth), web::Settings::new(&config))),
            auth: Arc::clone(&lasting.auth),
            policy,
            context: context::Settings::from(&config.server),
            cookies: Names::from(&config.sessions.cookie, config.server.is_https()),
            prefix: config.server.prefix.clone(),
            tasks: lasting.requests.clone(),
            limiter: Limiter::of("requests", config.limits.requests_per_ip, limiter),
            always_second_factor: config.two_factor.always_required,
            announcement: Announcement::new(&config.identity, &config.upstreams, &config.accounts.admin_group),
            assertion: config.identity.assertion.clone(),
            forward_token: config.identity.forward_token,
            hsts: server::hsts::header(&config.server),
            clock: lasting.clock.clone(),
            recorder: Arc::new(recorder),
        });
        let settings = Arc::new(ConnectionSettings {
            tls: lasting.tls.clone(),
            proxy_protocol: config.server.proxy_protocol,
            trusted_proxies: Networks::new(&config.server.trusted_proxies),
            header_timeout: config.server.header_timeout,
            idle_timeout: config.server.idle_timeout,
            max_header_size: config.server.max_header_size,
            max_headers: config.server.max_headers,
            http2: config.server.http2,
            metrics: Arc::clone(&lasting.metrics),
            closed: lasting.closed.clone(),
        });
        Self { config, gateway, proxy, settings }
    }
}

/// What the use cases read of a configuration.
pub(super) fn auth_settings(config: &Config) -> auth::Settings {
    auth::Settings {
        accounts: config.accounts.clone(),
        tokens: config.tokens.clone(),
        issuer: config.tokens.issuer.clone().unwrap_or_else(|| public_origin(config)),
        sessions: config.sessions.clone(),
        two_factor: config.two_factor.clone(),
        limits: config.limits.clone(),
        audit: config.audit.clone(),
    }
}
