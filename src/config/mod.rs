//! What the operator wants, checked. `load` layers file, environment and flags: `file_layer` and `env_layer` hold each
//! against the one table of keys in `schema`, the `config` crate merges them into `raw`, and `check` reports every
//! problem at once and makes the types of this file. Nothing downstream checks a value again.
//!
//! The names and defaults are those of `config/nullpass.toml`, which a test holds against [`Config::default`].

mod check;
mod default;
mod effective;
mod env_layer;
mod file_layer;
mod load;
mod problem;
mod raw;
mod reload;
mod schema;
#[cfg(test)]
mod tests;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::{Email, Group, Secret};

pub use effective::effective;
pub use load::{FILE_VARIABLE, LoadOptions, Loaded, Overrides, SEARCHED, find, load, process_environment};
pub use problem::{Place, Problem, Problems};
pub use raw::Raw;
pub(crate) use units::parse_duration;

/// The reference file: every key, its default, one sentence. For `nullpass config default`.
pub const DEFAULT_FILE: &str = include_str!("../../config/nullpass.toml");

/// Everything. Parts get their own section, never this.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the sections are documented at their types")]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub upstreams: Vec<Upstream>,
    /// Applies when no rule matches.
    pub default_policy: Access,
    pub rules: Vec<Rule>,
    pub identity: IdentityHeaders,
    pub accounts: Accounts,
    pub tokens: Tokens,
    pub sessions: Sessions,
    pub two_factor: TwoFactor,
    pub limits: Limits,
    pub storage: Storage,
    pub ui: Ui,
    pub log: Log,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket's path.
    Unix(PathBuf),
}

/// `[server]`: the listeners that people and programs reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Where to listen; at least one.
    pub listen: Vec<Listen>,
    /// What browsers see: scheme, host and port, without a path. `None`: taken from `listen` and `tls`.
    pub public_url: Option<url::Url>,
    /// The prefix of nullpass's own routes: `/` and one or more plain segments, no slash at the end.
    pub prefix: String,
    /// Worker threads; 0: as many as the cgroup has CPUs, at most 4.
    pub workers: usize,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether they, and whoever comes by a unix socket, begin a connection with a PROXY line.
    pub proxy_protocol: bool,
    /// The largest head of a request in bytes.
    pub max_header_size: usize,
    /// From the first byte of a request's head to its last.
    pub header_timeout: Duration,
    /// A keep-alive connection between requests.
    pub idle_timeout: Duration,
    /// Hosts that are served, lower case, exact or `*.example.com`; empty: any.
    pub allowed_hosts: Vec<String>,
    /// After SIGTERM: how long to go on accepting while `/readyz` already says no.
    pub shutdown_delay: Duration,
    /// After that: how long requests in flight may take.
    pub shutdown_grace: Duration,
    /// Connections from clients at a time.
    pub max_connections: usize,
    /// Header fields in a request.
    pub max_headers: usize,
    /// Limits of HTTP/2 connections.
    pub http2: Http2,
    /// TLS; `None`: plain HTTP.
    pub tls: Option<ServerTls>,
    /// Allows plain HTTP on an address that others can reach.
    pub danger_plain_http: bool,
    /// The `max-age` of `Strict-Transport-Security` (RFC 6797), sent when `public_url` is https; `None`: never.
    pub hsts: Option<Duration>,
}

impl Server {
    /// Whether browsers reach us by https, which decides the cookie's name and its `Secure`.
    pub fn is_https(&self) -> bool {
        self.public_url.as_ref().map_or(self.tls.is_some(), |url| url.scheme() == "https")
    }
}

/// `[server] http2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Concurrent streams on a connection.
    pub max_streams: u32,
    /// Resets by the client that a connection survives before it is closed (CVE-2023-44487).
    pub max_resets: u32,
}

/// `[server.tls]`: certificates from files, by ACME, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificates, the first of which is the default; empty only with `acme`.
    pub certificates: Vec<CertificateFiles>,
    /// A certificate that is ordered and renewed by ourselves.
    pub acme: Option<Acme>,
    /// Who must show a certificate of their own; `None`: nobody is asked.
    pub client: Option<ClientCertificates>,
    /// Where to redirect plain HTTP to https.
    pub http_redirect: Option<SocketAddr>,
}

/// `[server.tls] acme` (RFC 8555, proven by RFC 8737's TLS-ALPN-01).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// The names of the certificate, lower case, no wildcard; at least one.
    pub domains: Vec<String>,
    /// `mailto:` and an address, for the authority's warnings.
    pub contact: Option<String>,
    /// Where account key and certificate are kept, relative to the data folder unless absolute.
    pub cache: PathBuf,
    /// The authority's directory.
    pub directory: url::Url,
    /// The authorities to trust for the directory's own TLS instead of the system's, as a PEM file.
    pub directory_ca: Option<PathBuf>,
}

/// `client_ca` and `client_cert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The authorities that must have signed them, as a PEM file.
    pub ca: PathBuf,
    /// Whether a client without one is refused; one that is wrong always is.
    pub required: bool,
}

/// A certificate chain and its key as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The listener of health and metrics; `None`: off.
    pub listen: Option<SocketAddr>,
    /// The command line's socket, relative to the data folder unless absolute.
    pub socket: PathBuf,
}

/// One `[[upstreams]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The name in logs, metrics and assertions.
    pub name: String,
    /// Where it listens: at least one, none twice. Requests are balanced between several.
    pub urls: Vec<UpstreamUrl>,
    /// The host it serves, lower case: exact or `*.example.com`; `None`: any.
    pub host: Option<String>,
    /// The path prefix it serves, in whole segments; `/`: all.
    pub path: String,
    /// Whether the prefix is cut off before forwarding.
    pub strip_path: bool,
    /// Whether the prefix is put back into `Location` and `Set-Cookie` paths.
    pub rewrite: bool,
    /// Connections across all workers.
    pub max_connections: usize,
    /// Whether the client's `Host` is forwarded; otherwise the upstream's own.
    pub pass_host: bool,
    /// To connect, TLS included.
    pub connect_timeout: Duration,
    /// From the request's last byte to the response's first.
    pub response_timeout: Duration,
    /// A stream or upgrade without a byte either way.
    pub stream_idle_timeout: Duration,
    /// Further tries where that is safe.
    pub retries: u32,
    /// The probe that `/upstreams/NAME/health` passes through.
    pub health_path: Option<String>,
    /// How often the probe is made by ourselves; two failures in a row take the upstream out until one succeeds.
    /// `None`: never.
    pub health_interval: Option<Duration>,
    /// TLS towards it.
    pub tls: UpstreamTls,
    /// What the identity headers are called for it; `None`: as `[identity]` says.
    pub preset: Option<Preset>,
    /// Header fields that are set on each request.
    pub set_headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Header fields that are removed from each request.
    pub remove_headers: Vec<http::HeaderName>,
}

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamUrl {
    /// `http://` or `https://` with a host and a port.
    Tcp {
        /// Whether TLS is spoken.
        tls: bool,
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:/path.sock`, plain HTTP.
    Unix(PathBuf),
    /// `h2c://` with a host and a port: HTTP/2 without TLS, by prior knowledge (RFC 9113, section 3.3).
    H2c {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix+h2c:/path.sock`: the same on a socket.
    UnixH2c(PathBuf),
}

impl UpstreamUrl {
    /// Whether TLS is spoken.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }

    /// Whether HTTP/2 is spoken without asking.
    pub const fn is_h2c(&self) -> bool {
        matches!(self, Self::H2c { .. } | Self::UnixH2c(_))
    }
}

/// `tls` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct UpstreamTls {
    /// The authorities to trust instead of the system's, as a PEM file.
    pub ca: Option<PathBuf>,
    /// Our certificate and key.
    pub client: Option<CertificateFiles>,
    /// The name to verify, if not the URL's host.
    pub server_name: Option<String>,
    /// Whether any certificate will do.
    pub insecure: bool,
}

/// What a request needs to be let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// A session.
    Authenticated,
    /// A session with a second factor.
    TwoFactor,
    /// Nobody gets through.
    Deny,
}

/// One `[[rules]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How the file or the reader calls it: `rules[2] "/admin/**"`.
    pub name: String,
    /// A path glob; `None`: any path.
    pub path: Option<String>,
    /// A host, lower case: exact or `*.example.com`; `None`: any.
    pub host: Option<String>,
    /// Methods; empty: any.
    pub methods: Vec<http::Method>,
    /// Client networks; empty: any.
    pub networks: Vec<IpNet>,
    /// What it takes.
    pub access: Access,
    /// Who may: members of any of these; with `users` empty too: everybody.
    pub groups: Vec<Group>,
    /// Who may, by address.
    pub users: Vec<Email>,
    /// How long ago the person may have last proved who they are.
    pub max_auth_age: Option<Duration>,
    /// Whether Basic authentication is offered and taken.
    pub basic: bool,
    /// Whether unsafe requests from a foreign origin are let through with the cookie.
    pub cross_site: bool,
    /// Whether the upstream's `Cache-Control` is left alone.
    pub danger_shared_cache: bool,
}

/// The names of the identity headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// `X-Forwarded-User` and its like.
    Forwarded,
    /// `Remote-User` and its like.
    Remote,
    /// `X-Auth-Request-User` and its like.
    AuthRequest,
    /// `X-authentik-username` and its like.
    Authentik,
    /// None.
    None,
}

/// How values beyond ASCII are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As UTF-8 bytes.
    Utf8,
    /// Percent-encoded UTF-8.
    Percent,
}

/// A fact about the person that a header can carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityField {
    /// The account's id.
    Id,
    /// The address.
    Email,
    /// The display name.
    Name,
    /// The groups.
    Groups,
    /// The session's id.
    Session,
    /// The authentication methods.
    Amr,
    /// The signed assertion.
    Assertion,
    /// An attribute.
    Attribute(String),
}

/// `[identity]`.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentityHeaders {
    /// The names.
    pub preset: Preset,
    /// How values are written.
    pub encoding: Encoding,
    /// Further headers.
    pub headers: Vec<(http::HeaderName, IdentityField)>,
    /// Between groups.
    pub groups_separator: String,
    /// Whether the session token is passed on.
    pub forward_token: bool,
    /// The signed statement.
    pub assertion: Option<Assertion>,
}

/// `[identity] assertion`.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    /// The header.
    pub header: http::HeaderName,
    /// How long it is good.
    pub ttl: Duration,
}

/// Who may make an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Everybody.
    Open,
    /// Everybody with an address in `allowed_domains`.
    Domains,
    /// Nobody.
    Closed,
}

/// `[accounts]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Accounts {
    /// Who may make an account.
    pub registration: Registration,
    /// Lower-case domains for [`Registration::Domains`].
    pub allowed_domains: Vec<String>,
    /// Lets `registration = "domains"` work without proof of the address.
    pub danger_unverified_addresses: bool,
    /// The administrators' group.
    pub admin_group: Group,
    /// An administrator that is made at the first start.
    pub bootstrap_admin: Option<BootstrapAdmin>,
    /// What a password must be.
    pub password: PasswordRules,
    /// What a hash costs.
    pub argon2: Argon2,
}

/// `bootstrap_admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapAdmin {
    /// The address.
    pub email: Email,
    /// The password.
    pub password: Secret<String>,
}

/// `[accounts] password`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordRules {
    /// Bytes of UTF-8.
    pub min_length: usize,
    /// Bytes of UTF-8, at most 1024.
    pub max_length: usize,
    /// 0 to 4, as zxcvbn counts.
    pub min_strength: u8,
}

/// `[accounts] argon2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2 {
    /// KiB.
    pub memory_kib: u32,
    /// Passes.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
    /// Hashes at a time; 0: the cores, at most 4.
    pub max_concurrent: usize,
}

/// The signature of new tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037).
    EdDSA,
    /// ECDSA on P-256.
    ES256,
    /// RSA PKCS #1 v1.5, 2048 bits or more.
    RS256,
    /// HMAC with SHA-256.
    HS256,
}

/// `[tokens]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// A token's life.
    pub ttl: Duration,
    /// How new tokens are signed.
    pub algorithm: Algorithm,
    /// `iss`; `None`: the public URL.
    pub issuer: Option<String>,
    /// `aud`.
    pub audience: String,
    /// Clock skew that is forgiven, at most 60 s.
    pub leeway: Duration,
}

/// How a session is tied to its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindIp {
    /// It is written down, no more.
    Record,
    /// IPv4 /24 or IPv6 /48 must stay the same.
    Network,
    /// The address must stay the same.
    Exact,
}

/// `SameSite` (RFC 6265bis).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// `Strict`.
    Strict,
    /// `Lax`.
    Lax,
    /// `None`.
    None,
}

/// `[sessions]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// No session lives longer.
    pub max_lifetime: Duration,
    /// A session that was not seen for so long ends.
    pub idle_timeout: Option<Duration>,
    /// Sessions a person may have; the oldest goes.
    pub max_per_user: Option<u32>,
    /// How a session is tied to its address.
    pub bind_ip: BindIp,
    /// How long a session that was seen is honoured while the store does not answer.
    pub stale_ttl: Duration,
    /// The cookie.
    pub cookie: Cookie,
}

/// `[sessions] cookie`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The name without `__Host-` or `__Secure-`; begins with `nullpass`.
    pub name: String,
    /// The domain; `None`: this host only.
    pub domain: Option<String>,
    /// `SameSite`.
    pub same_site: SameSite,
}

/// `[two_factor]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwoFactor {
    /// Whether everybody must have a second factor.
    pub always_required: bool,
    /// What an authenticator application shows.
    pub issuer: String,
    /// Steps of 30 s either side that are taken.
    pub skew: u8,
    /// How many recovery codes are made.
    pub recovery_codes: usize,
}

/// `"30/m"`: so many in a period, with that burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In how long.
    pub per: Duration,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attempts with a password, a code or a recovery code, per client address.
    pub auth_per_ip: Option<Rate>,
    /// Registrations per client address.
    pub register_per_ip: Option<Rate>,
    /// All requests per client address.
    pub requests_per_ip: Option<Rate>,
    /// Waiting after failures.
    pub account_backoff: crate::model::LockPolicy,
    /// Bytes of a proxied body; `None`: no limit.
    pub max_body: Option<u64>,
}

/// `[storage]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// sled's data folder.
    pub path: PathBuf,
    /// The master key; `None`: made in the data folder.
    pub master_key: Option<Secret<Vec<u8>>>,
}

/// `[ui]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ui {
    /// The name that pages show.
    pub name: String,
    /// `#rrggbb`.
    pub accent: String,
}

/// Text or JSON lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON lines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: tracing::Level,
    /// Whether each request is logged.
    pub access: bool,
}
