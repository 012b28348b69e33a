//! What holds where nothing is configured: the secure choice, which `config/nullpass.toml` spells out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{
    Access, Accounts, Admin, Algorithm, Argon2, Assertion, Audit, Backend, BindIp, Config, Cookie, Encoding, Http2, IdentityHeaders,
    Limits, Listen, Log, LogFormat, PasswordRules, Preset, Rate, Registration, Rule, SameSite, Server, Sessions, Storage, Tokens,
    TwoFactor, Ui, Upstream, UpstreamTls, UpstreamUrl,
};
use crate::model::{Group, LockPolicy};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Complete but for an upstream, which has no default.
impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server::default(),
            admin: Admin::default(),
            upstreams: Vec::new(),
            default_policy: Access::Authenticated,
            rules: Vec::new(),
            identity: IdentityHeaders::default(),
            accounts: Accounts::default(),
            tokens: Tokens::default(),
            sessions: Sessions::default(),
            two_factor: TwoFactor::default(),
            limits: Limits::default(),
            storage: Storage::default(),
            audit: Audit::default(),
            ui: Ui::default(),
            log: Log::default(),
        }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self { required: false, retention: Some(365 * DAY) }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![Listen::Tcp(loopback(8080))],
            public_url: None,
            prefix: "/_auth".to_owned(),
            workers: 0,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            max_header_size: 32 << 10,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            allowed_hosts: Vec::new(),
            shutdown_delay: Duration::ZERO,
            shutdown_grace: Duration::from_secs(20),
            max_connections: 10_000,
            max_headers: 256,
            http2: Http2::default(),
            tls: None,
            danger_plain_http: false,
            hsts: Some(365 * DAY),
        }
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Self { max_streams: 256, max_resets: 100 }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Some(loopback(9090)), socket: PathBuf::from("admin.sock") }
    }
}

impl Upstream {
    /// An upstream for every host and path, with the defaults of `[[upstreams]]`.
    pub fn new(name: impl Into<String>, url: UpstreamUrl) -> Self {
        Self {
            name: name.into(),
            urls: vec![url],
            host: None,
            path: "/".to_owned(),
            strip_path: false,
            rewrite: true,
            max_connections: 512,
            pass_host: true,
            connect_timeout: Duration::from_secs(5),
            response_timeout: MINUTE,
            stream_idle_timeout: HOUR,
            retries: 1,
            health_path: None,
            health_interval: None,
            tls: UpstreamTls::default(),
            preset: None,
            set_headers: Vec::new(),
            remove_headers: Vec::new(),
        }
    }
}

impl Rule {
    /// A rule for everybody, about every request to `path` (a glob), with the defaults of `[[rules]]`.
    pub fn new(name: impl Into<String>, path: impl Into<String>, access: Access) -> Self {
        Self {
            name: name.into(),
            path: Some(path.into()),
            host: None,
            methods: Vec::new(),
            networks: Vec::new(),
            access,
            groups: Vec::new(),
            users: Vec::new(),
            max_auth_age: None,
            basic: false,
            cross_site: false,
            danger_shared_cache: false,
        }
    }
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self {
            preset: Preset::Forwarded,
            encoding: Encoding::Utf8,
            headers: Vec::new(),
            groups_separator: ",".to_owned(),
            forward_token: false,
            assertion: None,
        }
    }
}

/// What `assertion = {}` means; without that key there is no assertion at all.
impl Default for Assertion {
    fn default() -> Self {
        Self { header: http::HeaderName::from_static("x-nullpass-assertion"), ttl: MINUTE }
    }
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            registration: Registration::Closed,
            allowed_domains: Vec::new(),
            danger_unverified_addresses: false,
            admin_group: Group::default_admin(),
            bootstrap_admin: None,
            password: PasswordRules::default(),
            argon2: Argon2::default(),
        }
    }
}

impl Default for PasswordRules {
    fn default() -> Self {
        Self { min_length: 8, max_length: 1024, min_strength: 2 }
    }
}

impl Default for Argon2 {
    fn default() -> Self {
        Self { memory_kib: 19 << 10, iterations: 2, parallelism: 1, max_concurrent: 0 }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self { ttl: 7 * DAY, algorithm: Algorithm::EdDSA, issuer: None, audience: "nullpass".to_owned(), leeway: Duration::from_secs(30) }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            max_lifetime: 30 * DAY,
            idle_timeout: None,
            max_per_user: None,
            bind_ip: BindIp::Record,
            stale_ttl: MINUTE,
            cookie: Cookie::default(),
        }
    }
}

impl Default for Cookie {
    fn default() -> Self {
        Self { name: "nullpass".to_owned(), domain: None, same_site: SameSite::Lax }
    }
}

impl Default for TwoFactor {
    fn default() -> Self {
        Self { always_required: false, issuer: "nullpass".to_owned(), skew: 1, recovery_codes: 10 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            auth_per_ip: Some(Rate { count: 30, per: MINUTE }),
            register_per_ip: Some(Rate { count: 10, per: HOUR }),
            requests_per_ip: None,
            account_backoff: LockPolicy { after: 5, base: Duration::from_secs(1), max: 15 * MINUTE },
            max_body: None,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self { backend: Backend::Sled, path: PathBuf::from("data"), postgres: None, master_key: None, previous_master_key: None }
    }
}

impl Default for Ui {
    fn default() -> Self {
        Self { name: "nullpass".to_owned(), logo: None, accent: "#3b5bdb".to_owned(), default_locale: "en".to_owned() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: tracing::Level::INFO, access: true }
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
