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
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod load;
mod logo;
mod postgres;
mod problem;
mod raw;
mod reload;
mod schema;
mod server;
#[cfg(test)]
mod tests;
mod units;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::{Email, Group, Secret};

pub use effective::effective;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use fuzzing::configuration as fuzz_configuration;
pub use load::{FILE_VARIABLE, LoadOptions, Loaded, Overrides, SEARCHED, find, load, process_environment};
pub use logo::{Logo, LogoKind};
pub use postgres::{Postgres, PostgresHost, PostgresTls, SslMode};
pub use problem::{Place, Problem, Problems};
pub use raw::Raw;
pub use server::{Acme, CertificateFiles, ClientCertificates, Http2, Listen, Server, ServerTls};
pub(crate) use units::parse_duration;
pub use upstream::{Upstream, UpstreamTls, UpstreamUrl};

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
    pub audit: Audit,
    pub ui: Ui,
    pub log: Log,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The listener of health and metrics; `None`: off.
    pub listen: Option<SocketAddr>,
    /// The command line's socket, relative to the data folder unless absolute.
    pub socket: PathBuf,
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
    /// Unicode code points, at least 8.
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
    /// Hashes at a time; 0: one fewer than there are cores, at least 1 and at most 4.
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

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Whether what can't be recorded is not done.
    pub required: bool,
    /// How long events are kept, at least an hour; `None`: for ever.
    pub retention: Option<Duration>,
}

/// What keeps the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A folder of this machine, for one process.
    Sled,
    /// A database, for any number of processes.
    Postgres,
}

/// `[storage]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// What keeps the state.
    pub backend: Backend,
    /// The data folder: sled's state, the operators' socket, what ACME got.
    pub path: PathBuf,
    /// Where the database is, also when another backend is used: a state can be carried there. Always there with
    /// [`Backend::Postgres`].
    pub postgres: Option<Postgres>,
    /// The master key; `None`: made in the data folder. Always there with [`Backend::Postgres`].
    pub master_key: Option<Secret<Vec<u8>>>,
    /// The master key before it, as long as a rotation needs it. Never without [`Storage::master_key`], and another one.
    pub previous_master_key: Option<Secret<Vec<u8>>>,
}

/// `[ui]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ui {
    /// The name that pages show.
    pub name: String,
    /// A picture beside the name; `None`: the name alone.
    pub logo: Option<Logo>,
    /// `#rrggbb`.
    pub accent: String,
    /// The language for whoever wishes none that there is: one of [`Ui::LOCALES`].
    pub default_locale: String,
}

impl Ui {
    /// The languages that pages are written in.
    pub const LOCALES: [&str; 7] = ["en", "de", "fr", "es", "pt", "ja", "zh"];
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
