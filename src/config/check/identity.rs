//! `[identity]`, and the header fields that upstreams get or lose. No name may be one that carries the request itself or
//! a credential, nor one that already says who the person is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::super::{Assertion, Encoding, IdentityField, IdentityHeaders, Preset, Upstream, raw};
use super::text::fold;
use super::{Checker, Choice};
use crate::model::{Group, Secret};

/// The presets' names.
pub(super) const PRESETS: [(&str, Choice<Preset>); 5] = [
    ("forwarded", Choice::Is(Preset::Forwarded)),
    ("remote", Choice::Is(Preset::Remote)),
    ("auth_request", Choice::Is(Preset::AuthRequest)),
    ("authentik", Choice::Is(Preset::Authentik)),
    ("none", Choice::Is(Preset::None)),
];

/// Every name of every preset, folded: what clients may never send and only `[identity]` sets.
const IDENTITY_NAMES: [&str; 20] = [
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-user-id",
    "x-forwarded-name",
    "x-forwarded-groups",
    "remote-user",
    "x-remote-user",
    "remote-email",
    "remote-name",
    "remote-groups",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-preferred-username",
    "x-auth-request-groups",
    "x-authentik-username",
    "x-authentik-email",
    "x-authentik-name",
    "x-authentik-uid",
    "x-authentik-groups",
];

/// Names that frame a message or belong to one connection (RFC 9110, section 7.6.1), and `Host`.
const FRAMING: [&str; 13] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "content-length",
    "expect",
    "http2-settings",
];

/// Names that carry credentials, the client's address or the request's own meaning, which no identity may replace.
const MEANINGFUL: [&str; 17] = [
    "authorization",
    "cookie",
    "set-cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-real-ip",
    "x-request-id",
    "proxy",
    "origin",
    "referer",
    "content-type",
    "content-encoding",
    "accept",
];

/// `[identity]`.
pub(super) fn identity(c: &mut Checker<'_>, raw: &raw::Identity) -> IdentityHeaders {
    let default = IdentityHeaders::default();
    let assertion = raw.assertion.as_ref().map(|raw| assertion(c, raw));
    let mut taken: BTreeSet<String> = assertion.iter().map(|assertion| fold(assertion.header.as_str())).collect();
    let mut headers = Vec::new();
    for (name, field) in raw.headers.iter().flatten() {
        let key = format!("identity.headers.{name}");
        let parsed = identity_name(name).and_then(|header| Ok((header, identity_field(field)?)));
        match parsed {
            Err(message) => c.fail(&key, message),
            Ok((_, IdentityField::Assertion)) if assertion.is_none() => {
                c.fail(&key, "announces the assertion, which is off; set identity.assertion = { } to turn it on");
            }
            Ok((header, _)) if !taken.insert(fold(header.as_str())) => {
                c.fail(&key, "is the same header as another one here: case, _, . and - make no difference");
            }
            Ok(pair) => headers.push(pair),
        }
    }
    IdentityHeaders {
        preset: c.choice("identity.preset", raw.preset.as_ref(), default.preset, &PRESETS),
        encoding: c.choice(
            "identity.encoding",
            raw.encoding.as_ref(),
            default.encoding,
            &[("utf8", Choice::Is(Encoding::Utf8)), ("percent", Choice::Is(Encoding::Percent))],
        ),
        headers,
        groups_separator: c.text("identity.groups_separator", raw.groups_separator.as_ref(), &default.groups_separator, separator),
        forward_token: raw.forward_token.unwrap_or(default.forward_token),
        assertion,
    }
}

fn assertion(c: &mut Checker<'_>, raw: &raw::Assertion) -> Assertion {
    let default = Assertion::default();
    let range = Duration::from_secs(1)..=Duration::from_hours(1);
    Assertion {
        header: c.parsed("identity.assertion.header", raw.header.as_ref(), default.header, identity_name),
        ttl: c.duration("identity.assertion.ttl", raw.ttl.as_ref(), default.ttl, range),
    }
}

/// A name that may carry a fact about the person.
fn identity_name(text: &str) -> Result<HeaderName, String> {
    let name = header_name(text)?;
    let folded = fold(text);
    if FRAMING.contains(&folded.as_str()) || MEANINGFUL.contains(&folded.as_str()) || folded.starts_with("sec-") {
        return Err(format!("{text:?} has a meaning of its own in HTTP; choose a name like \"X-Tenant\""));
    }
    if IDENTITY_NAMES.contains(&folded.as_str()) {
        return Err(format!("{text:?} belongs to a preset; choose that preset, or a name of your own like \"X-Tenant\""));
    }
    Ok(name)
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is not a header's name"))
}

fn identity_field(text: &str) -> Result<IdentityField, String> {
    if let Some(key) = text.strip_prefix("attr.") {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        return if (1..=64).contains(&key.len()) && key.bytes().all(plain) {
            Ok(IdentityField::Attribute(key.to_owned()))
        } else {
            Err(format!("{text:?} must name an attribute by 1 to 64 letters, digits, -, _ and ."))
        };
    }
    let fields = [
        ("id", IdentityField::Id),
        ("email", IdentityField::Email),
        ("name", IdentityField::Name),
        ("groups", IdentityField::Groups),
        ("session", IdentityField::Session),
        ("amr", IdentityField::Amr),
        ("assertion", IdentityField::Assertion),
    ];
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    match fields.into_iter().find(|(name, _)| *name == text) {
        Some((_, field)) => Ok(field),
        None => {
            let near =
                super::schema::nearest(text, names.iter().copied()).map(|near| format!("did you mean {near:?}? ")).unwrap_or_default();
            Err(format!("{text:?} is unknown; {near}accepted: {}, attr.KEY", names.join(", ")))
        }
    }
}

/// One character that no group's name may hold, nor percent-encoding use, so that the header can be split again.
fn separator(text: &str) -> Result<String, String> {
    let single = text.len() == 1 && text.bytes().all(|b| b.is_ascii_punctuation());
    if single && Group::parse(&format!("a{text}b")).is_err() && !matches!(text, "%" | "\"" | "\\") {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} must be one character that a group's name can't hold: \",\", \";\" or \"|\""))
}

/// `headers.set` of an upstream. The values are never shown: they may be the upstream's own credentials.
pub(super) fn set_headers(
    c: &mut Checker<'_>,
    key: &str,
    raw: Option<&BTreeMap<String, Secret<String>>>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    let mut taken = BTreeSet::new();
    for (name, value) in raw.into_iter().flatten() {
        let key = format!("{key}.{name}");
        let parsed = settable(name).and_then(|name| Ok((name, header_value(value)?)));
        match parsed {
            Err(message) => c.fail(&key, message),
            Ok((name, _)) if !taken.insert(fold(name.as_str())) => {
                c.fail(&key, "is the same header as another one here: case, _, . and - make no difference");
            }
            Ok(pair) => headers.push(pair),
        }
    }
    headers
}

fn header_value(value: &Secret<String>) -> Result<HeaderValue, String> {
    let text = value.expose();
    if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
        return Err("must not be empty, nor hold control characters, nor begin or end with a space".to_owned());
    }
    let mut value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| "is not a header's value".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// A fixed header may not pretend to be a person, nor change how the message is framed.
fn settable(text: &str) -> Result<HeaderName, String> {
    if IDENTITY_NAMES.contains(&fold(text).as_str()) {
        return Err(format!("{text:?} says who the person is, which only [identity] may"));
    }
    removable(text)
}

/// A header that can be taken out without breaking the message.
pub(super) fn removable(text: &str) -> Result<HeaderName, String> {
    let name = header_name(text)?;
    if FRAMING.contains(&fold(text).as_str()) {
        return Err(format!("{text:?} frames the message and is not yours to change"));
    }
    Ok(name)
}

/// What an upstream's headers may not do beside `[identity]`.
pub(super) fn upstream_headers(c: &mut Checker<'_>, identity: &IdentityHeaders, upstream: &Upstream, key: &str) {
    let ours: BTreeSet<String> = identity
        .headers
        .iter()
        .map(|(name, _)| fold(name.as_str()))
        .chain(identity.assertion.iter().map(|assertion| fold(assertion.header.as_str())))
        .collect();
    for (name, _) in &upstream.set_headers {
        if ours.contains(&fold(name.as_str())) {
            c.fail(key, format!("set: {name} says who the person is, which only [identity] may"));
        }
        if upstream.remove_headers.contains(name) {
            c.fail(key, format!("{name} is both set and removed; keep one of them"));
        }
    }
}
