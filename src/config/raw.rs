//! The configuration as it is written: a mirror of the file in which every key may be missing and nothing has been
//! judged yet. `check` turns it into [`super::Config`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Secret;

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $name {
            $(
                #[serde(skip_serializing_if = "Option::is_none")]
                pub(super) $field: Option<$kind>,
            )+
        }
    };
}

type Text = String;
type Texts = Vec<String>;

/// The merged layers, unjudged. Its secrets are redacted in `Debug`; [`super::effective`] shows it to people.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) default_policy: Option<Text>,
    pub(super) server: Server,
    pub(super) admin: Admin,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) rules: Vec<Rule>,
    pub(super) identity: Identity,
    pub(super) accounts: Accounts,
    pub(super) tokens: Tokens,
    pub(super) sessions: Sessions,
    pub(super) two_factor: TwoFactor,
    pub(super) limits: Limits,
    pub(super) storage: Storage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) email: Option<Email>,
    pub(super) audit: Audit,
    pub(super) ui: Ui,
    pub(super) log: Log,
    pub(super) telemetry: Telemetry,
}

section!(
    /// `[server]`.
    Server {
        listen: Texts,
        public_url: Text,
        prefix: Text,
        workers: i64,
        trusted_proxies: Texts,
        proxy_protocol: bool,
        max_header_size: Text,
        header_timeout: Text,
        idle_timeout: Text,
        allowed_hosts: Texts,
        shutdown_delay: Text,
        shutdown_grace: Text,
        max_connections: i64,
        max_headers: i64,
        http2: Http2,
        danger_plain_http: bool,
        hsts: Text,
        tls: ServerTls,
    }
);

section!(
    /// `[server] http2`.
    Http2 { max_streams: i64, max_resets: i64 }
);

section!(
    /// `[server.tls]`.
    ServerTls {
        cert: Text,
        key: Text,
        more: Vec<Certificate>,
        acme: Acme,
        client_ca: Text,
        client_cert: Text,
        http_redirect: Text,
    }
);

section!(
    /// One of `[server.tls] more`.
    Certificate { cert: Text, key: Text }
);

section!(
    /// `[server.tls] acme`.
    Acme { domains: Texts, contact: Text, cache: Text, directory: Text, directory_ca: Text }
);

section!(
    /// `[admin]`.
    Admin { listen: Text, socket: Text }
);

section!(
    /// One `[[upstreams]]`.
    Upstream {
        name: Text,
        url: Text,
        urls: Texts,
        host: Text,
        path: Text,
        strip_path: bool,
        rewrite: bool,
        max_connections: i64,
        pass_host: bool,
        connect_timeout: Text,
        response_timeout: Text,
        stream_idle_timeout: Text,
        retries: i64,
        health: Health,
        tls: UpstreamTls,
        preset: Text,
        headers: UpstreamHeaders,
    }
);

section!(
    /// `health` of an upstream.
    Health { path: Text, interval: Text }
);

section!(
    /// `tls` of an upstream.
    UpstreamTls { ca: Text, cert: Text, key: Text, server_name: Text, insecure: bool }
);

section!(
    /// `headers` of an upstream. The values may be the upstream's own credentials.
    UpstreamHeaders { set: BTreeMap<String, Secret<String>>, remove: Texts }
);

section!(
    /// One `[[rules]]`.
    Rule {
        path: Text,
        host: Text,
        methods: Texts,
        networks: Texts,
        policy: Text,
        groups: Texts,
        users: Texts,
        max_auth_age: Text,
        basic: bool,
        cross_site: bool,
        danger_shared_cache: bool,
    }
);

section!(
    /// `[identity]`.
    Identity {
        preset: Text,
        encoding: Text,
        headers: BTreeMap<String, String>,
        groups_separator: Text,
        forward_token: bool,
        assertion: Assertion,
    }
);

section!(
    /// `[identity] assertion`.
    Assertion { header: Text, ttl: Text }
);

section!(
    /// `[accounts]`.
    Accounts {
        registration: Text,
        allowed_domains: Texts,
        danger_unverified_addresses: bool,
        admin_group: Text,
        bootstrap_admin: BootstrapAdmin,
        password: PasswordRules,
        verify_email: bool,
        argon2: Argon2,
    }
);

section!(
    /// `[accounts] bootstrap_admin`.
    BootstrapAdmin { email: Text, password: Secret<String>, password_file: Text }
);

section!(
    /// `[accounts] password`.
    PasswordRules { min_length: i64, max_length: i64, min_strength: i64 }
);

section!(
    /// `[accounts] argon2`.
    Argon2 { memory: Text, iterations: i64, parallelism: i64, max_concurrent: i64 }
);

section!(
    /// `[tokens]`.
    Tokens { ttl: Text, algorithm: Text, issuer: Text, audience: Text, leeway: Text }
);

section!(
    /// `[sessions]`.
    Sessions { max_lifetime: Text, idle_timeout: Text, max_per_user: i64, bind_ip: Text, stale_ttl: Text, cookie: Cookie }
);

section!(
    /// `[sessions] cookie`.
    Cookie { name: Text, domain: Text, same_site: Text }
);

section!(
    /// `[two_factor]`.
    TwoFactor { required: Text, issuer: Text, skew: i64, recovery_codes: i64 }
);

section!(
    /// `[limits]`.
    Limits { auth_per_ip: Text, register_per_ip: Text, requests_per_ip: Text, account_backoff: Backoff, max_body: Text }
);

section!(
    /// `[limits] account_backoff`.
    Backoff { after: i64, base: Text, max: Text }
);

section!(
    /// `[storage]`.
    Storage {
        backend: Text,
        path: Text,
        url: Secret<String>,
        url_file: Text,
        schema: Text,
        pool: i64,
        master_key: Secret<String>,
        master_key_file: Text,
        previous_master_key: Secret<String>,
        previous_master_key_file: Text,
    }
);

section!(
    /// `[email]`.
    Email { smtp: Text, password: Secret<String>, password_file: Text, from: Text }
);

section!(
    /// `[audit]`.
    Audit { required: bool, retention: Text }
);

section!(
    /// `[ui]`.
    Ui { name: Text, logo: Text, accent: Text, default_locale: Text }
);

section!(
    /// `[log]`.
    Log { format: Text, level: Text, access: bool }
);

section!(
    /// `[telemetry]`.
    Telemetry { otlp: Text }
);
