//! `[accounts]`, `[tokens]`, `[sessions]`, `[two_factor]` and `[limits]`.

use std::time::Duration;

use super::super::units::{LONGEST, parse_size};
use super::super::{
    Accounts, Algorithm, Argon2, BindIp, BootstrapAdmin, Cookie, Limits, PasswordRules, Registration, SameSite, Server, Sessions, Tokens,
    TwoFactor, raw,
};
use super::{Checker, Choice, SecretFiles, text};
use crate::model::{Email, Group, LockPolicy};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// The cheapest argon2id parameters, each pair as dear as the others: MiB and passes (OWASP Password Storage Cheat Sheet).
const ARGON2_FLOOR: [(u64, u32); 5] = [(46, 1), (19, 2), (12, 3), (9, 4), (7, 5)];

/// `[accounts]`.
pub(super) fn accounts(c: &mut Checker<'_>, raw: &raw::Accounts, secrets: &SecretFiles) -> Accounts {
    let default = Accounts::default();
    let password = password(c, raw.password.as_ref());
    let accounts = Accounts {
        registration: c.choice(
            "accounts.registration",
            raw.registration.as_ref(),
            default.registration,
            &[
                ("open", Choice::Is(Registration::Open)),
                ("domains", Choice::Is(Registration::Domains)),
                ("closed", Choice::Is(Registration::Closed)),
                ("invite", Choice::Later),
                ("approval", Choice::Later),
            ],
        ),
        allowed_domains: c.each("accounts.allowed_domains", raw.allowed_domains.as_ref(), |domain| match domain.strip_prefix('@') {
            Some(bare) => Err(format!("{domain:?} must be a domain alone; write {bare:?}")),
            None => text::host(domain, false),
        }),
        danger_unverified_addresses: raw.danger_unverified_addresses.unwrap_or(default.danger_unverified_addresses),
        admin_group: c.parsed("accounts.admin_group", raw.admin_group.as_ref(), default.admin_group, |group| {
            Group::parse(group).map_err(|error| format!("{group:?} {error}"))
        }),
        bootstrap_admin: raw.bootstrap_admin.as_ref().and_then(|admin| bootstrap_admin(c, admin, secrets, password)),
        password,
        argon2: argon2(c, raw.argon2.as_ref()),
    };
    registration(c, raw, &accounts);
    accounts
}

fn registration(c: &mut Checker<'_>, raw: &raw::Accounts, accounts: &Accounts) {
    let no_domains = raw.allowed_domains.as_ref().is_none_or(Vec::is_empty);
    match accounts.registration {
        Registration::Domains => {
            if no_domains {
                c.fail("accounts.allowed_domains", "is empty, but registration = \"domains\" needs it; name at least one domain");
            }
            if !accounts.danger_unverified_addresses {
                c.fail(
                    "accounts.registration",
                    "\"domains\" proves nothing while addresses are not verified (verify_email is not built yet in this release): anybody \
                     can type an address of that domain; set danger_unverified_addresses = true to accept that, or registration = \"closed\"",
                );
            }
        }
        Registration::Open => {
            if !no_domains {
                c.fail("accounts.allowed_domains", "has no effect with registration = \"open\"; write registration = \"domains\"");
            }
        }
        Registration::Closed => {}
    }
    if accounts.danger_unverified_addresses {
        c.danger("accounts.danger_unverified_addresses = true: anybody can register under any address of the allowed domains");
    }
}

fn bootstrap_admin(c: &mut Checker<'_>, raw: &raw::BootstrapAdmin, secrets: &SecretFiles, rules: PasswordRules) -> Option<BootstrapAdmin> {
    const KEY: &str = "accounts.bootstrap_admin";
    let written = raw.password.as_ref().filter(|password| !password.expose().is_empty());
    let has_file = raw.password_file.as_ref().is_some_and(|path| !path.is_empty());
    let (password_key, password) = match (written, &secrets.bootstrap_password) {
        (Some(_), _) if has_file => {
            c.fail(&format!("{KEY}.password"), "is given beside password_file; keep one of them");
            return None;
        }
        (Some(password), _) => (format!("{KEY}.password"), Some(password.clone())),
        (None, from_file) => (format!("{KEY}.password_file"), from_file.clone()),
    };
    match &password {
        Some(password) => {
            let bytes = password.expose().len();
            if (bytes < rules.min_length || bytes > rules.max_length) && c.sound(&["accounts.password"]) {
                let (low, high) = (rules.min_length, rules.max_length);
                c.fail(&password_key, format!("the password has {bytes} bytes, but accounts.password asks for {low} to {high}"));
            }
        }
        // A file that can't be read has been reported already.
        None if has_file => {}
        None => c.fail(&password_key, "is missing; give the path of a file that holds the password, or password itself"),
    }
    if raw.email.is_none() {
        c.fail(&format!("{KEY}.email"), "is missing; give the administrator's address");
    }
    let parse = |text: &str| Email::parse(text).map(Some).map_err(|error| format!("{text:?} {error}"));
    let email = c.parsed(&format!("{KEY}.email"), raw.email.as_ref(), None, parse);
    Some(BootstrapAdmin { email: email?, password: password? })
}

fn password(c: &mut Checker<'_>, raw: Option<&raw::PasswordRules>) -> PasswordRules {
    let default = PasswordRules::default();
    let Some(raw) = raw else { return default };
    let rules = PasswordRules {
        // NIST SP 800-63B, section 5.1.1.2: at least 8, and 64 must be possible.
        min_length: c.integer("accounts.password.min_length", raw.min_length, default.min_length, 8..=1024),
        max_length: c.integer("accounts.password.max_length", raw.max_length, default.max_length, 64..=1024),
        min_strength: c.integer("accounts.password.min_strength", raw.min_strength, default.min_strength, 0..=4),
    };
    if rules.min_length > rules.max_length && c.sound(&["accounts.password"]) {
        c.fail("accounts.password.min_length", format!("is more than max_length, {}, so that no password would do", rules.max_length));
    }
    rules
}

fn argon2(c: &mut Checker<'_>, raw: Option<&raw::Argon2>) -> Argon2 {
    let default = Argon2::default();
    let Some(raw) = raw else { return default };
    let memory_kib = c.parsed("accounts.argon2.memory", raw.memory.as_ref(), default.memory_kib, |text| {
        let bytes = parse_size(text)?;
        match u32::try_from(bytes / 1024) {
            Ok(kib) if bytes <= 4 << 30 => Ok(kib),
            Ok(_) | Err(_) => Err(format!("{text:?} is out of range; accepted: 7MiB to 4GiB")),
        }
    });
    let argon2 = Argon2 {
        memory_kib,
        iterations: c.integer("accounts.argon2.iterations", raw.iterations, default.iterations, 1..=1000),
        parallelism: c.integer("accounts.argon2.parallelism", raw.parallelism, default.parallelism, 1..=64),
        max_concurrent: c.integer("accounts.argon2.max_concurrent", raw.max_concurrent, default.max_concurrent, 0..=1024),
    };
    let dear_enough = |(mib, passes): &(u64, u32)| u64::from(argon2.memory_kib) >= mib << 10 && argon2.iterations >= *passes;
    if !ARGON2_FLOOR.iter().any(dear_enough) && c.sound(&["accounts.argon2"]) {
        c.fail(
            "accounts.argon2",
            "is cheaper to break than it may be; accepted at least: memory and iterations of 46MiB and 1, 19MiB and 2, 12MiB and 3, \
             9MiB and 4, or 7MiB and 5",
        );
    }
    argon2
}

/// `[tokens]`.
pub(super) fn tokens(c: &mut Checker<'_>, raw: &raw::Tokens) -> Tokens {
    let default = Tokens::default();
    Tokens {
        ttl: c.duration("tokens.ttl", raw.ttl.as_ref(), default.ttl, SECOND..=LONGEST),
        algorithm: c.choice(
            "tokens.algorithm",
            raw.algorithm.as_ref(),
            default.algorithm,
            &[
                ("EdDSA", Choice::Is(Algorithm::EdDSA)),
                ("ES256", Choice::Is(Algorithm::ES256)),
                ("RS256", Choice::Is(Algorithm::RS256)),
                ("HS256", Choice::Is(Algorithm::HS256)),
                ("none", Choice::Refused("would let everybody in; accepted: \"EdDSA\", \"ES256\", \"RS256\", \"HS256\"")),
            ],
        ),
        issuer: c.optional("tokens.issuer", raw.issuer.as_ref(), claim),
        audience: c.text("tokens.audience", raw.audience.as_ref(), &default.audience, claim),
        leeway: c.duration("tokens.leeway", raw.leeway.as_ref(), default.leeway, Duration::ZERO..=MINUTE),
    }
}

fn claim(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 256 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("{text:?} must be 1 to 256 bytes without spaces and control characters"));
    }
    Ok(text.to_owned())
}

/// `[sessions]`.
pub(super) fn sessions(c: &mut Checker<'_>, raw: &raw::Sessions, server: &Server) -> Sessions {
    let default = Sessions::default();
    let max_per_user: u32 = c.integer("sessions.max_per_user", raw.max_per_user, 0, 0..=100_000);
    Sessions {
        max_lifetime: c.duration("sessions.max_lifetime", raw.max_lifetime.as_ref(), default.max_lifetime, SECOND..=LONGEST),
        idle_timeout: c.optional_duration("sessions.idle_timeout", raw.idle_timeout.as_ref(), SECOND..=LONGEST),
        max_per_user: (max_per_user > 0).then_some(max_per_user),
        bind_ip: c.choice(
            "sessions.bind_ip",
            raw.bind_ip.as_ref(),
            default.bind_ip,
            &[("record", Choice::Is(BindIp::Record)), ("network", Choice::Is(BindIp::Network)), ("exact", Choice::Is(BindIp::Exact))],
        ),
        stale_ttl: c.duration("sessions.stale_ttl", raw.stale_ttl.as_ref(), default.stale_ttl, Duration::ZERO..=HOUR),
        cookie: raw.cookie.as_ref().map_or(default.cookie, |raw| cookie(c, raw, server)),
    }
}

fn cookie(c: &mut Checker<'_>, raw: &raw::Cookie, server: &Server) -> Cookie {
    let default = Cookie::default();
    let same_site = c.choice(
        "sessions.cookie.same_site",
        raw.same_site.as_ref(),
        default.same_site,
        &[("Strict", Choice::Is(SameSite::Strict)), ("Lax", Choice::Is(SameSite::Lax)), ("None", Choice::Is(SameSite::None))],
    );
    if same_site == SameSite::None && !server.is_https() && c.sound(&["server.public_url", "server.tls"]) {
        c.fail("sessions.cookie.same_site", "\"None\" needs https, or browsers drop the cookie; set server.public_url or [server.tls]");
    }
    Cookie {
        name: c.optional("sessions.cookie.name", raw.name.as_ref(), cookie_name).unwrap_or(default.name),
        domain: c.optional("sessions.cookie.domain", raw.domain.as_ref(), |domain| cookie_domain(domain, server)),
        same_site,
    }
}

/// A token (RFC 6265, section 4.1.1) that begins with `nullpass`, since all cookies that do are ours and no others.
fn cookie_name(text: &str) -> Result<String, String> {
    if !text.starts_with("nullpass") {
        return Err(format!("{text:?} must begin with \"nullpass\", by which our cookies are known and kept from the application"));
    }
    if text.len() > 64 || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(format!("{text:?} must be at most 64 letters, digits, -, _ and ."));
    }
    Ok(text.to_owned())
}

fn cookie_domain(text: &str, server: &Server) -> Result<String, String> {
    let domain = text::host(text.strip_prefix('.').unwrap_or(text), false)?;
    let Some(url::Host::Domain(host)) = server.public_url.as_ref().and_then(url::Url::host) else {
        return Err("needs server.public_url with a host name, so that it is known which site the cookie is for".to_owned());
    };
    let is_suffix = host == domain || host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
    if !is_suffix {
        return Err(format!("{text:?} does not cover server.public_url's host, {host:?}; browsers would drop the cookie"));
    }
    if !domain.contains('.') {
        return Err(format!("{text:?} is a top-level domain, for which browsers take no cookie"));
    }
    Ok(domain)
}

/// `[two_factor]`.
pub(super) fn two_factor(c: &mut Checker<'_>, raw: &raw::TwoFactor) -> TwoFactor {
    let default = TwoFactor::default();
    TwoFactor {
        always_required: c.choice(
            "two_factor.required",
            raw.required.as_ref(),
            default.always_required,
            &[("optional", Choice::Is(false)), ("always", Choice::Is(true))],
        ),
        // The otpauth URL divides issuer and account by a colon.
        issuer: c.text("two_factor.issuer", raw.issuer.as_ref(), &default.issuer, |issuer| match text::label(issuer)? {
            issuer if issuer.contains(':') => Err(format!("{issuer:?} must not hold a colon")),
            issuer => Ok(issuer),
        }),
        // RFC 6238, section 5.2: one step at most is recommended; each more makes guessing easier.
        skew: c.integer("two_factor.skew", raw.skew, default.skew, 0..=2),
        recovery_codes: c.integer("two_factor.recovery_codes", raw.recovery_codes, default.recovery_codes, 4..=32),
    }
}

/// `[limits]`.
pub(super) fn limits(c: &mut Checker<'_>, raw: &raw::Limits) -> Limits {
    let default = Limits::default();
    let body = raw.max_body.as_ref().filter(|text| !text.is_empty());
    Limits {
        auth_per_ip: c.rate("limits.auth_per_ip", raw.auth_per_ip.as_ref(), default.auth_per_ip),
        register_per_ip: c.rate("limits.register_per_ip", raw.register_per_ip.as_ref(), default.register_per_ip),
        requests_per_ip: c.rate("limits.requests_per_ip", raw.requests_per_ip.as_ref(), default.requests_per_ip),
        account_backoff: backoff(c, raw.account_backoff.as_ref(), default.account_backoff),
        max_body: body.map(|text| c.size("limits.max_body", Some(text), u64::MAX, 1..=u64::MAX)),
    }
}

fn backoff(c: &mut Checker<'_>, raw: Option<&raw::Backoff>, default: LockPolicy) -> LockPolicy {
    let Some(raw) = raw else { return default };
    let policy = LockPolicy {
        after: c.integer("limits.account_backoff.after", raw.after, default.after, 0..=1_000_000),
        base: c.duration("limits.account_backoff.base", raw.base.as_ref(), default.base, MILLI..=24 * HOUR),
        max: c.duration("limits.account_backoff.max", raw.max.as_ref(), default.max, MILLI..=24 * HOUR),
    };
    if policy.base > policy.max && c.sound(&["limits.account_backoff"]) {
        c.fail("limits.account_backoff.base", "is longer than max, the longest wait; make it shorter");
    }
    policy
}
