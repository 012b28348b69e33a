//! The decision alone, for other proxies: which request one of them asks about, and what it is told about who asks.
//!
//! Nothing here decides. What a proxy wrote into its headers is read as strictly as a request line, because two readers
//! that disagree about what was asked are how forward-auth is got around (requirement FWD-2): what is missing, said
//! twice, malformed or said in two ways is a [`Doubt`], and a doubt is never a 200.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use thiserror::Error;

use crate::config::{Encoding, IdentityHeaders, Preset, Upstream};
use crate::model::{Group, Identity};
use crate::wire::context::{Context, ContextError, Scheme, Settings, is_grpc};
use crate::wire::header::{self, IdentityNames};

/// The route below the prefix.
pub const ROUTE: &str = "/forward-auth";

/// How a question was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// At the route itself: the request is described in headers. The query is for us.
    InHeaders {
        /// It.
        query: &'a str,
    },
    /// Below the route: method, `Host`, path and query of this very request are those that are asked about.
    Below {
        /// The path and query that are asked about; begins with `/`.
        target: &'a str,
    },
}

/// Whether a request target, as it was received, is a question; `prefix` is that of our own routes.
pub fn question<'a>(target: &'a str, prefix: &str) -> Option<Question<'a>> {
    let rest = target.strip_prefix(prefix)?.strip_prefix(ROUTE)?;
    match rest.chars().next() {
        None => Some(Question::InHeaders { query: "" }),
        Some('?') => Some(Question::InHeaders { query: rest.trim_start_matches('?') }),
        Some('/') => Some(Question::Below { target: rest }),
        Some(_) => None,
    }
}

impl Question<'_> {
    /// Whether nothing but the status is wanted (`?mode=status`). Below the route the query is somebody else's.
    pub fn by_status(&self) -> Result<bool, Doubt> {
        let Self::InHeaders { query } = self else { return Ok(false) };
        let mut modes = query.split('&').filter_map(|pair| pair.strip_prefix("mode="));
        match (modes.next(), modes.next()) {
            (None, _) => Ok(false),
            (Some("status"), None) => Ok(true),
            (Some(_), _) => Err(Doubt::Mode),
        }
    }
}

/// The request that is asked about.
#[derive(Clone, Debug)]
pub struct Original {
    /// Its method.
    pub method: Method,
    /// Its path and query as the proxy received them.
    pub target: PathAndQuery,
    /// Its circumstances: those of the question, with its own scheme and host.
    pub context: Context,
}

/// What is not certain about a question. The texts are for operators, whose configuration it mostly is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Doubt {
    /// No header describes a request.
    #[error(
        "nothing says which request is meant: send X-Forwarded-Method, -Proto, -Host and -Uri, or X-Original-URL and X-Original-Method, or ask below the route"
    )]
    NoQuestion,
    /// Headers of two conventions, or of one beside a path below the route: one of them may be the client's.
    #[error("the request is described in two ways at once: clear the headers that the proxy does not set itself")]
    TwoQuestions,
    /// A header that its convention needs is not there.
    #[error("the {0} header is missing")]
    Missing(&'static str),
    /// A header came twice.
    #[error("the {0} header came more than once")]
    Repeated(&'static str),
    /// A header holds what it can't hold.
    #[error("the {0} header is not valid")]
    Malformed(&'static str),
    /// Two headers name different hosts or schemes.
    #[error("the {0} header contradicts another")]
    Contradicts(&'static str),
    /// The host is not among `server.allowed_hosts`.
    #[error("this host is not served here")]
    HostNotAllowed,
    /// `mode` is something else than `status`, or given twice.
    #[error("mode can only be status")]
    Mode,
    /// The client sent an identity or forwarding header under a spelling that proxies let pass and some applications read
    /// as the proxy's.
    #[error("an identity or forwarding header came from outside, spelled with _ or .")]
    ForgedIdentity,
    /// The client says in a header that it means another path, or where rules have methods, another method. We can't take
    /// it out of a request that somebody else forwards.
    #[error("a header asks the application to take another path or method: have the proxy remove it")]
    Override,
}

impl Doubt {
    /// 421 for a host that is served elsewhere, otherwise 400.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::HostNotAllowed => StatusCode::MISDIRECTED_REQUEST,
            Self::NoQuestion
            | Self::TwoQuestions
            | Self::Missing(_)
            | Self::Repeated(_)
            | Self::Malformed(_)
            | Self::Contradicts(_)
            | Self::Mode
            | Self::ForgedIdentity
            | Self::Override => StatusCode::BAD_REQUEST,
        }
    }
}

/// A header's name, and how people write it.
type Field = (HeaderName, &'static str);

const FORWARDED_METHOD: Field = (HeaderName::from_static("x-forwarded-method"), "X-Forwarded-Method");
const FORWARDED_PROTO: Field = (HeaderName::from_static("x-forwarded-proto"), "X-Forwarded-Proto");
const FORWARDED_HOST: Field = (HeaderName::from_static("x-forwarded-host"), "X-Forwarded-Host");
const FORWARDED_URI: Field = (HeaderName::from_static("x-forwarded-uri"), "X-Forwarded-Uri");
const ORIGINAL_URL: Field = (HeaderName::from_static("x-original-url"), "X-Original-URL");
const ORIGINAL_METHOD: Field = (HeaderName::from_static("x-original-method"), "X-Original-Method");

/// Reads the request that is asked about. The peer must be a trusted proxy: whoever calls has seen to that.
///
/// Traefik and Caddy send the four `X-Forwarded-…`; nginx `X-Original-Method` and `X-Original-URL`, which is absolute or a
/// path with `X-Forwarded-Proto` and `-Host` beside it; Envoy's HTTP `ext_authz` asks below the route. Exactly one of these.
pub fn read(head: &Parts, question: Question<'_>, context: &Context, settings: &Settings) -> Result<Original, Doubt> {
    let headers = &head.headers;
    let has = |(name, _): &Field| headers.contains_key(name);
    let forwarded = has(&FORWARDED_METHOD) || has(&FORWARDED_URI);
    let original = has(&ORIGINAL_METHOD) || has(&ORIGINAL_URL);
    match (question, forwarded, original) {
        (Question::Below { target }, false, false) => {
            let asked = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
            let host = asked.or_else(|| head.uri.authority().map(http::uri::Authority::as_str)).ok_or(Doubt::Missing("Host"))?;
            let scheme = scheme(headers)?.unwrap_or(context.scheme);
            original_of(head.method.clone(), scheme, host, (target, "path"), headers, context, settings)
        }
        (Question::InHeaders { .. }, true, false) => {
            let method = method(headers, &FORWARDED_METHOD)?;
            let target = needed(headers, &FORWARDED_URI)?;
            let scheme = scheme(headers)?.ok_or(Doubt::Missing(FORWARDED_PROTO.1))?;
            let host = needed(headers, &FORWARDED_HOST)?;
            original_of(method, scheme, host, (target, FORWARDED_URI.1), headers, context, settings)
        }
        (Question::InHeaders { .. }, false, true) => {
            let method = method(headers, &ORIGINAL_METHOD)?;
            let url = needed(headers, &ORIGINAL_URL)?;
            let said = scheme(headers)?;
            let (scheme, host, target) = if url.starts_with('/') {
                (said.ok_or(Doubt::Missing(FORWARDED_PROTO.1))?, needed(headers, &FORWARDED_HOST)?, url)
            } else {
                split_url(url).ok_or(Doubt::Malformed(ORIGINAL_URL.1))?
            };
            if said.is_some_and(|said| said != scheme) {
                return Err(Doubt::Contradicts(FORWARDED_PROTO.1));
            }
            original_of(method, scheme, host, (target, ORIGINAL_URL.1), headers, context, settings)
        }
        (Question::InHeaders { .. }, false, false) => Err(Doubt::NoQuestion),
        (Question::Below { .. } | Question::InHeaders { .. }, _, _) => Err(Doubt::TwoQuestions),
    }
}

/// Puts the parts together, each of which is what the proxy means to forward.
fn original_of(
    method: Method,
    scheme: Scheme,
    host: &str,
    (target, named): (&str, &'static str),
    headers: &HeaderMap,
    context: &Context,
    settings: &Settings,
) -> Result<Original, Doubt> {
    // A proxy can't forward a tunnel by forward-auth, and a tunnel has no path.
    if method == Method::CONNECT {
        return Err(Doubt::Malformed("method"));
    }
    let context = at_host(context, scheme, host, settings)?;
    if let Some(other) = one(headers, &FORWARDED_HOST)? {
        let other = at_host(&context, scheme, other, settings)?;
        let port = |of: &Context| of.port.unwrap_or(scheme.default_port());
        if other.host != context.host || port(&other) != port(&context) {
            return Err(Doubt::Contradicts(FORWARDED_HOST.1));
        }
    }
    // The http crate would cut a fragment off and go on (requirement PATH-1).
    let plain = target.starts_with('/') && !target.contains('#');
    let target = Some(target).filter(|_| plain).and_then(|target| PathAndQuery::try_from(target).ok());
    Ok(Original { method, target: target.ok_or(Doubt::Malformed(named))?, context })
}

fn at_host(context: &Context, scheme: Scheme, host: &str, settings: &Settings) -> Result<Context, Doubt> {
    context.at(scheme, host, settings).map_err(|error| match error {
        ContextError::HostNotAllowed => Doubt::HostNotAllowed,
        ContextError::BadHost
        | ContextError::MissingHost
        | ContextError::DuplicateHost
        | ContextError::BadTarget
        | ContextError::HostMismatch
        | ContextError::DuplicateAuthorization
        | ContextError::BadContentLength
        | ContextError::BadTransferEncoding
        | ContextError::NotAscii(_) => Doubt::Malformed("host"),
    })
}

/// An absolute URL's scheme, authority and the rest, which begins with `/`. No URL parser: those tidy paths up.
fn split_url(url: &str) -> Option<(Scheme, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, target) = rest.split_at_checked(rest.find(['/', '?', '#'])?)?;
    Some((Scheme::of_request(scheme)?, host, target))
}

fn method(headers: &HeaderMap, field: &Field) -> Result<Method, Doubt> {
    Method::from_bytes(needed(headers, field)?.as_bytes()).map_err(|_| Doubt::Malformed(field.1))
}

fn scheme(headers: &HeaderMap) -> Result<Option<Scheme>, Doubt> {
    one(headers, &FORWARDED_PROTO)?.map(|text| Scheme::of_request(text).ok_or(Doubt::Malformed(FORWARDED_PROTO.1))).transpose()
}

fn needed<'h>(headers: &'h HeaderMap, field: &Field) -> Result<&'h str, Doubt> {
    one(headers, field)?.ok_or(Doubt::Missing(field.1))
}

/// The only value of a header: visible ASCII, without so much as a space.
fn one<'h>(headers: &'h HeaderMap, (name, shown): &Field) -> Result<Option<&'h str>, Doubt> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Doubt::Repeated(shown));
    }
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()));
    text.map(Some).ok_or(Doubt::Malformed(shown))
}

/// What a 200 says about who asks.
#[derive(Clone, Debug)]
pub struct Announcement {
    config: IdentityHeaders,
    admin_group: Group,
    /// Those whose values are told: that of `[identity]` and those of upstreams.
    presets: Vec<Preset>,
    /// Every name that an application could read an identity from.
    names: Vec<HeaderName>,
    aliases: IdentityNames,
}

impl Announcement {
    /// From `[identity]` and the upstreams' own presets.
    pub fn new(config: &IdentityHeaders, upstreams: &[Upstream], admin_group: &Group) -> Self {
        let mut presets = vec![config.preset];
        for preset in upstreams.iter().filter_map(|upstream| upstream.preset) {
            if !presets.contains(&preset) {
                presets.push(preset);
            }
        }
        let all = [Preset::Forwarded, Preset::Remote, Preset::AuthRequest, Preset::Authentik];
        let configured = config.headers.iter().map(|(name, _)| name.clone());
        let names = all.into_iter().flat_map(header::names_of).chain(configured).chain(header::assertion_names(config));
        Self {
            names: names.collect(),
            presets,
            aliases: IdentityNames::new(config),
            config: config.clone(),
            admin_group: admin_group.clone(),
        }
    }

    /// Sets every identity header there is, to nothing where there is nothing to say: what is absent some proxies leave
    /// as the client sent it (requirement FWD-6, CVE-2026-30851).
    pub fn set(&self, answer: &mut HeaderMap, question: &HeaderMap, identity: Option<&Identity>, assertion: Option<&HeaderValue>) {
        for name in &self.names {
            answer.insert(name, HeaderValue::from_static(""));
        }
        let encoding = if is_grpc(question) { Encoding::Percent } else { self.config.encoding };
        if let Some(identity) = identity {
            for preset in &self.presets {
                for (name, value) in header::prepare(identity, *preset, encoding, &self.config, &self.admin_group).fields {
                    answer.insert(name, value);
                }
            }
        }
        if let Some(assertion) = assertion {
            for name in header::assertion_names(&self.config) {
                answer.insert(name, assertion.clone());
            }
        }
    }

    /// Refuses a request that the gateway would forward only without some of its headers. The proxy overwrites the names
    /// that we answer with, but lets `X_Forwarded_User` pass, and an application that follows CGI reads that as
    /// `X-Forwarded-User` (requirement HDR-1). `by_method`: rules for this host select by method.
    pub fn check(&self, question: &HeaderMap, by_method: bool) -> Result<(), Doubt> {
        let forged =
            |name: &HeaderName| header::is_odd_spelling(name) && (self.aliases.is_identity_alias(name) || header::is_forwarding(name));
        let overrides = |name: &HeaderName| header::is_rewrite(name) || (by_method && header::is_method_override(name));
        if question.keys().any(forged) {
            Err(Doubt::ForgedIdentity)
        } else if question.keys().any(overrides) {
            Err(Doubt::Override)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
