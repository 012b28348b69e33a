//! The one table of every key: its kind and its default. Unknown keys and their suggestions, wrong types, what the
//! environment may set, what is not built yet and what must not be shown all come from here.

/// What a key takes.
#[derive(Debug)]
pub(super) enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// Text; `check` knows its rules.
    Text,
    /// Text that must never be shown.
    Secret,
    /// Text such as `"15m"`.
    Duration,
    /// Text such as `"1MiB"`.
    Size,
    /// Text such as `"30/m"`.
    Rate,
    /// A list of texts.
    List,
    /// Names that the operator chooses, with texts.
    TextMap,
    /// The same, where the texts may be secrets.
    SecretMap,
    /// A table.
    Table(&'static [Key]),
    /// A list of tables.
    Tables(&'static [Key]),
}

impl Kind {
    /// What the kind is called in a message, with an example where the form is not obvious.
    pub(super) const fn expected(&self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Integer => "a whole number",
            Self::Text | Self::Secret => "text in quotes",
            Self::Duration => "a duration in quotes, such as \"15m\", \"500ms\" or \"1h30m\"",
            Self::Size => "a size in quotes, such as \"32KiB\" or \"10MB\"",
            Self::Rate => "a rate in quotes, such as \"30/m\"",
            Self::List => "a list of texts, such as [\"one\", \"two\"]",
            Self::TextMap | Self::SecretMap => "a table of texts, such as { \"X-Name\" = \"value\" }",
            Self::Table(_) => "a table",
            Self::Tables(_) => "a list of tables, each under its own [[...]] heading",
        }
    }
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// As it is written.
    pub(super) name: &'static str,
    /// What it takes.
    pub(super) kind: Kind,
    /// The default as TOML; empty: absent unless it is given.
    pub(super) default: &'static str,
    /// Whether this release does what the key asks for. Otherwise anything but the default is refused.
    pub(super) built: bool,
}

impl Key {
    /// The keys below this one, when they are known by name.
    pub(super) const fn children(&self) -> Option<&'static [Self]> {
        match &self.kind {
            Kind::Table(keys) | Kind::Tables(keys) => Some(keys),
            Kind::Bool
            | Kind::Integer
            | Kind::Text
            | Kind::Secret
            | Kind::Duration
            | Kind::Size
            | Kind::Rate
            | Kind::List
            | Kind::TextMap
            | Kind::SecretMap => None,
        }
    }
}

/// The key of that name.
pub(super) fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

/// The candidate that is most like `text`, if one is near enough to be a slip of the finger.
pub(super) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&text, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(text.len()) / 3).max(1) || is_part(&text, candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `timeout` for `response_timeout`, and the other way round.
fn is_part(text: &str, candidate: &str) -> bool {
    text.len() >= 4 && candidate.len() >= 4 && (candidate.contains(text) || text.contains(candidate))
}

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default, built: true }
}

const fn later(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default, built: false }
}

/// Every key, in the order of `config/nullpass.toml`.
pub(super) static SCHEMA: &[Key] = &[
    key("default_policy", Kind::Text, r#""authenticated""#),
    key("server", Kind::Table(SERVER), ""),
    key("admin", Kind::Table(ADMIN), ""),
    key("upstreams", Kind::Tables(UPSTREAM), ""),
    key("rules", Kind::Tables(RULE), ""),
    key("identity", Kind::Table(IDENTITY), ""),
    key("accounts", Kind::Table(ACCOUNTS), ""),
    key("tokens", Kind::Table(TOKENS), ""),
    key("sessions", Kind::Table(SESSIONS), ""),
    key("two_factor", Kind::Table(TWO_FACTOR), ""),
    key("limits", Kind::Table(LIMITS), ""),
    key("storage", Kind::Table(STORAGE), ""),
    later("email", Kind::Table(EMAIL), ""),
    key("audit", Kind::Table(AUDIT), ""),
    key("ui", Kind::Table(UI), ""),
    key("log", Kind::Table(LOG), ""),
    key("telemetry", Kind::Table(TELEMETRY), ""),
];

const SERVER: &[Key] = &[
    key("listen", Kind::List, r#"["127.0.0.1:8080"]"#),
    key("public_url", Kind::Text, r#""""#),
    key("prefix", Kind::Text, r#""/_auth""#),
    key("workers", Kind::Integer, "0"),
    key("trusted_proxies", Kind::List, "[]"),
    key("proxy_protocol", Kind::Bool, "false"),
    key("max_header_size", Kind::Size, r#""32KiB""#),
    key("header_timeout", Kind::Duration, r#""10s""#),
    key("idle_timeout", Kind::Duration, r#""75s""#),
    key("allowed_hosts", Kind::List, "[]"),
    key("shutdown_delay", Kind::Duration, r#""0s""#),
    key("shutdown_grace", Kind::Duration, r#""20s""#),
    key("max_connections", Kind::Integer, "10000"),
    key("max_headers", Kind::Integer, "256"),
    key("http2", Kind::Table(HTTP2), ""),
    key("danger_plain_http", Kind::Bool, "false"),
    key("hsts", Kind::Duration, r#""365d""#),
    key("tls", Kind::Table(SERVER_TLS), ""),
];

const HTTP2: &[Key] = &[key("max_streams", Kind::Integer, "256"), key("max_resets", Kind::Integer, "100")];

const SERVER_TLS: &[Key] = &[
    key("cert", Kind::Text, ""),
    key("key", Kind::Text, ""),
    key("more", Kind::Tables(CERTIFICATE), ""),
    key("acme", Kind::Table(ACME), ""),
    key("client_ca", Kind::Text, ""),
    key("client_cert", Kind::Text, ""),
    key("http_redirect", Kind::Text, ""),
];

const CERTIFICATE: &[Key] = &[key("cert", Kind::Text, ""), key("key", Kind::Text, "")];

const ACME: &[Key] = &[
    key("domains", Kind::List, ""),
    key("contact", Kind::Text, ""),
    key("cache", Kind::Text, ""),
    key("directory", Kind::Text, ""),
    key("directory_ca", Kind::Text, ""),
];

const ADMIN: &[Key] = &[key("listen", Kind::Text, r#""127.0.0.1:9090""#), key("socket", Kind::Text, r#""admin.sock""#)];

const UPSTREAM: &[Key] = &[
    key("name", Kind::Text, r#""app""#),
    key("url", Kind::Text, ""),
    key("urls", Kind::List, ""),
    key("host", Kind::Text, r#""""#),
    key("path", Kind::Text, r#""/""#),
    key("strip_path", Kind::Bool, "false"),
    key("rewrite", Kind::Bool, "true"),
    key("max_connections", Kind::Integer, "512"),
    key("pass_host", Kind::Bool, "true"),
    key("connect_timeout", Kind::Duration, r#""5s""#),
    key("response_timeout", Kind::Duration, r#""60s""#),
    key("stream_idle_timeout", Kind::Duration, r#""1h""#),
    key("retries", Kind::Integer, "1"),
    key("health", Kind::Table(HEALTH), ""),
    key("tls", Kind::Table(UPSTREAM_TLS), ""),
    key("preset", Kind::Text, r#""""#),
    key("headers", Kind::Table(UPSTREAM_HEADERS), ""),
];

const HEALTH: &[Key] = &[key("path", Kind::Text, r#""""#), key("interval", Kind::Duration, r#""""#)];

const UPSTREAM_TLS: &[Key] = &[
    key("ca", Kind::Text, r#""""#),
    key("cert", Kind::Text, r#""""#),
    key("key", Kind::Text, r#""""#),
    key("server_name", Kind::Text, r#""""#),
    key("insecure", Kind::Bool, "false"),
];

const UPSTREAM_HEADERS: &[Key] = &[key("set", Kind::SecretMap, "{}"), key("remove", Kind::List, "[]")];

const RULE: &[Key] = &[
    key("path", Kind::Text, ""),
    key("host", Kind::Text, ""),
    key("methods", Kind::List, ""),
    key("networks", Kind::List, ""),
    key("policy", Kind::Text, ""),
    key("groups", Kind::List, ""),
    key("users", Kind::List, ""),
    key("max_auth_age", Kind::Duration, r#""""#),
    key("basic", Kind::Bool, "false"),
    key("cross_site", Kind::Bool, "false"),
    key("danger_shared_cache", Kind::Bool, "false"),
];

const IDENTITY: &[Key] = &[
    key("preset", Kind::Text, r#""forwarded""#),
    key("encoding", Kind::Text, r#""utf8""#),
    key("headers", Kind::TextMap, "{}"),
    key("groups_separator", Kind::Text, r#"",""#),
    key("forward_token", Kind::Bool, "false"),
    key("assertion", Kind::Table(ASSERTION), ""),
];

const ASSERTION: &[Key] = &[key("header", Kind::Text, ""), key("ttl", Kind::Duration, "")];

const ACCOUNTS: &[Key] = &[
    key("registration", Kind::Text, r#""closed""#),
    key("allowed_domains", Kind::List, "[]"),
    key("danger_unverified_addresses", Kind::Bool, "false"),
    key("admin_group", Kind::Text, r#""nullpass-admin""#),
    key("bootstrap_admin", Kind::Table(BOOTSTRAP_ADMIN), ""),
    key("password", Kind::Table(PASSWORD), ""),
    later("verify_email", Kind::Bool, "false"),
    key("argon2", Kind::Table(ARGON2), ""),
];

const BOOTSTRAP_ADMIN: &[Key] = &[key("email", Kind::Text, ""), key("password", Kind::Secret, ""), key("password_file", Kind::Text, "")];

const PASSWORD: &[Key] =
    &[key("min_length", Kind::Integer, "8"), key("max_length", Kind::Integer, "1024"), key("min_strength", Kind::Integer, "2")];

const ARGON2: &[Key] = &[
    key("memory", Kind::Size, r#""19MiB""#),
    key("iterations", Kind::Integer, "2"),
    key("parallelism", Kind::Integer, "1"),
    key("max_concurrent", Kind::Integer, "0"),
];

const TOKENS: &[Key] = &[
    key("ttl", Kind::Duration, r#""7d""#),
    key("algorithm", Kind::Text, r#""EdDSA""#),
    key("issuer", Kind::Text, r#""""#),
    key("audience", Kind::Text, r#""nullpass""#),
    key("leeway", Kind::Duration, r#""30s""#),
];

const SESSIONS: &[Key] = &[
    key("max_lifetime", Kind::Duration, r#""30d""#),
    key("idle_timeout", Kind::Duration, r#""""#),
    key("max_per_user", Kind::Integer, "0"),
    key("bind_ip", Kind::Text, r#""record""#),
    key("stale_ttl", Kind::Duration, r#""60s""#),
    key("cookie", Kind::Table(COOKIE), ""),
];

const COOKIE: &[Key] = &[key("name", Kind::Text, r#""""#), key("domain", Kind::Text, r#""""#), key("same_site", Kind::Text, r#""Lax""#)];

const TWO_FACTOR: &[Key] = &[
    key("required", Kind::Text, r#""optional""#),
    key("issuer", Kind::Text, r#""nullpass""#),
    key("skew", Kind::Integer, "1"),
    key("recovery_codes", Kind::Integer, "10"),
];

const LIMITS: &[Key] = &[
    key("auth_per_ip", Kind::Rate, r#""30/m""#),
    key("register_per_ip", Kind::Rate, r#""10/h""#),
    key("requests_per_ip", Kind::Rate, r#""""#),
    key("account_backoff", Kind::Table(BACKOFF), ""),
    key("max_body", Kind::Size, r#""""#),
];

const BACKOFF: &[Key] = &[key("after", Kind::Integer, "5"), key("base", Kind::Duration, r#""1s""#), key("max", Kind::Duration, r#""15m""#)];

const STORAGE: &[Key] = &[
    key("backend", Kind::Text, r#""sled""#),
    key("path", Kind::Text, r#""data""#),
    key("url", Kind::Secret, r#""""#),
    key("url_file", Kind::Text, r#""""#),
    key("schema", Kind::Text, r#""nullpass""#),
    key("pool", Kind::Integer, "10"),
    key("master_key", Kind::Secret, r#""""#),
    key("master_key_file", Kind::Text, r#""""#),
    key("previous_master_key", Kind::Secret, r#""""#),
    key("previous_master_key_file", Kind::Text, r#""""#),
];

const EMAIL: &[Key] =
    &[key("smtp", Kind::Text, ""), key("password", Kind::Secret, ""), key("password_file", Kind::Text, ""), key("from", Kind::Text, "")];

const AUDIT: &[Key] = &[key("required", Kind::Bool, "false"), key("retention", Kind::Duration, r#""365d""#)];

const UI: &[Key] = &[
    key("name", Kind::Text, r#""nullpass""#),
    key("logo", Kind::Text, r#""""#),
    key("accent", Kind::Text, r##""#3b5bdb""##),
    key("default_locale", Kind::Text, r#""en""#),
];

const LOG: &[Key] = &[key("format", Kind::Text, r#""text""#), key("level", Kind::Text, r#""info""#), key("access", Kind::Bool, "true")];

const TELEMETRY: &[Key] = &[later("otlp", Kind::Text, r#""""#)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let names = || UPSTREAM.iter().map(|key| key.name);
        assert_eq!(nearest("ur", names()), Some("url"));
        assert_eq!(nearest("respnse_timeout", names()), Some("response_timeout"));
        assert_eq!(nearest("Strip_Path", names()), Some("strip_path"));
        assert_eq!(nearest("zebra", names()), None);
        assert_eq!(nearest("a_completely_other_thing", names()), None);
    }
}
