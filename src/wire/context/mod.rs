//! What is known about a request before anything is decided: who calls, for which host, under which id, at what time.
//! It is read once, at the door, and everything behind the door uses these values instead of the headers. What the
//! headers leave in doubt is refused here.

mod browser;
mod client;
mod credential;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode, Version};
use thiserror::Error;
use url::Url;

pub use browser::{Navigation, Source, is_by_script, is_grpc, navigation, source};
pub use credential::{Credential, bearer};

use crate::clock::Timestamp;
use crate::config;
use crate::policy::host::{Host, canonical_pattern};
use crate::policy::network::Networks;

/// The parts of `[server]` that a request is read by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Networks,
    /// Canonical host patterns; empty: any host is served.
    pub allowed_hosts: Vec<String>,
    /// What browsers see, if the operator said so.
    pub public_url: Option<Url>,
    /// Whether browsers reach us by https.
    pub https: bool,
    /// `public_url` in the terms of this module.
    public: Option<(Scheme, Host, u16)>,
}

impl From<&config::Server> for Settings {
    fn from(server: &config::Server) -> Self {
        // A pattern that is no host matches none as it stands: that host is then refused, not let in.
        let allowed = |pattern: &String| canonical_pattern(pattern).unwrap_or_else(|_| pattern.clone());
        Self {
            trusted_proxies: Networks::new(&server.trusted_proxies),
            allowed_hosts: server.allowed_hosts.iter().map(allowed).collect(),
            public: server.public_url.as_ref().and_then(|url| {
                let scheme = Scheme::parse(url.scheme())?;
                let (host, _) = Host::parse(url.host_str()?).ok()?;
                Some((scheme, host, url.port().unwrap_or(scheme.default_port())))
            }),
            public_url: server.public_url.clone(),
            https: server.is_https(),
        }
    }
}

impl Settings {
    fn check_allowed(&self, host: &Host) -> Result<(), ContextError> {
        let allowed = self.allowed_hosts.is_empty() || self.allowed_hosts.iter().any(|pattern| host.matches(pattern));
        if allowed { Ok(()) } else { Err(ContextError::HostNotAllowed) }
    }
}

/// What the connection says, which no header can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnInfo {
    /// The other end's address (after a believed PROXY line); `None`: a unix socket.
    pub peer: Option<IpAddr>,
    /// Its port; 0 for a unix socket.
    pub peer_port: u16,
    /// Our end's address; `None`: a unix socket.
    pub local: Option<IpAddr>,
    /// Our end's port; 0 for a unix socket.
    pub local_port: u16,
    /// Whether TLS ends here.
    pub tls: bool,
}

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// As it is written in URLs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL without one means.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// What a proxy says of a request. Some say `ws` and `wss` of a WebSocket's handshake, which is an http request.
    pub fn of_request(text: &str) -> Option<Self> {
        match text {
            "ws" => Some(Self::Http),
            "wss" => Some(Self::Https),
            text => Self::parse(text),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }
}

/// A request's circumstances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The client's `X-Request-Id` if it is well formed, otherwise a new UUID version 7.
    pub request_id: String,
    /// When the request came; the only "now" there is for it.
    pub now: Timestamp,
    /// The other end of the connection; `None`: a unix socket. An IPv4 address mapped into IPv6 is the IPv4 address.
    pub peer: Option<IpAddr>,
    /// Whether the peer's forwarding headers are believed. A unix socket's peer is trusted exactly when `127.0.0.1` or
    /// `::1` is: the operator who trusts local programs by TCP trusts them here.
    pub peer_trusted: bool,
    /// Who asks, as far as it can be known (requirements NP-9, FWD-3, FAIL-3). For a unix socket without a believed
    /// header: 127.0.0.1.
    pub client: IpAddr,
    /// Whether `client` is most likely a proxy that nobody declared: a peer from a private range that is not trusted
    /// and sends `X-Forwarded-For` or `Forwarded`.
    pub client_undeclared: bool,
    /// How the client sees us: the connection's scheme, or what a trusted peer says (requirement FWD-4).
    pub scheme: Scheme,
    /// The host that was asked for.
    pub host: Host,
    /// Its port, if one was written.
    pub port: Option<u16>,
    /// Host and port as received: exactly what `host` and `port` were read from. What is forwarded as `Host` must be
    /// this and nothing else, or the upstream could serve another host than the rules were asked about (FWD-1).
    pub authority: String,
}

impl Context {
    /// The same circumstances with the scheme and host of a request that a trusted proxy asks about. Refuses a host
    /// that is none, and one that is not served here.
    pub fn at(&self, scheme: Scheme, authority: &str, settings: &Settings) -> Result<Self, ContextError> {
        let Authority { host, port, text } = Authority::parse(authority)?;
        settings.check_allowed(&host)?;
        Ok(Self { scheme, host, port, authority: text, ..self.clone() })
    }
}

/// Why a request can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ContextError {
    /// `Host` or `:authority` is no host.
    #[error("the Host is not valid")]
    BadHost,
    /// HTTP/1.1 and 2 demand a host (RFC 9112, section 3.2). An HTTP/1.0 request without one is for `public_url`.
    #[error("the Host is missing")]
    MissingHost,
    /// More than one `Host` (requirement HDR-4).
    #[error("more than one Host header")]
    DuplicateHost,
    /// `Host` and the request target name different hosts (requirement HOST-1).
    #[error("the Host header and the request target differ")]
    HostMismatch,
    /// A target that is no path and no `http` or `https` address (RFC 9112, section 3.2): the form that only CONNECT has, or
    /// an address of another scheme, which says nothing about a resource here (RFC 9110, section 4.2).
    #[error("the request target is neither a path nor an http address")]
    BadTarget,
    /// The host is not among `server.allowed_hosts`.
    #[error("this host is not served here")]
    HostNotAllowed,
    /// More than one `Authorization` (requirement HDR-4).
    #[error("more than one Authorization header")]
    DuplicateAuthorization,
    /// Lengths that differ, or that are none (requirement HDR-4).
    #[error("the Content-Length is not one number")]
    BadContentLength,
    /// A `Transfer-Encoding` that is not `chunked` alone: two readers could end the body at two places.
    #[error("the Transfer-Encoding is not chunked alone")]
    BadTransferEncoding,
    /// Bytes beyond ASCII in a header that decides something (requirement ENV-1).
    #[error("the {0} header is not ASCII")]
    NotAscii(&'static str),
}

impl ContextError {
    /// 421 for a host that is served elsewhere, otherwise 400.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::HostNotAllowed => StatusCode::MISDIRECTED_REQUEST,
            Self::BadHost
            | Self::MissingHost
            | Self::DuplicateHost
            | Self::HostMismatch
            | Self::BadTarget
            | Self::DuplicateAuthorization
            | Self::BadContentLength
            | Self::BadTransferEncoding
            | Self::NotAscii(_) => StatusCode::BAD_REQUEST,
        }
    }
}

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Reads a request's circumstances.
pub fn read(head: &Parts, conn: &ConnInfo, settings: &Settings, now: Timestamp) -> Result<Context, ContextError> {
    check_authorization(&head.headers)?;
    check_content_length(&head.headers)?;
    check_transfer_encoding(&head.headers)?;
    let client = client::read(&head.headers, conn.peer, &settings.trusted_proxies)?;
    let direct = if conn.tls { Scheme::Https } else { Scheme::Http };
    let requested = requested_authority(head, direct, settings)?;
    let (scheme, authority) = if client.peer_trusted {
        let scheme = forwarded_scheme(&head.headers)?.unwrap_or(direct);
        (scheme, forwarded_authority(&head.headers)?.unwrap_or(requested))
    } else {
        (direct, requested)
    };
    let Authority { host, port, text } = authority;
    settings.check_allowed(&host)?;
    Ok(Context {
        request_id: request_id(&head.headers, now),
        now,
        peer: client.peer,
        peer_trusted: client.peer_trusted,
        client: client.address,
        client_undeclared: client.undeclared,
        scheme,
        host,
        port,
        authority: text,
    })
}

/// A host and port, read and as received.
struct Authority {
    host: Host,
    port: Option<u16>,
    text: String,
}

impl Authority {
    fn parse(text: &str) -> Result<Self, ContextError> {
        let (host, port) = Host::parse(text).map_err(|_| ContextError::BadHost)?;
        Ok(Self { host, port, text: text.to_owned() })
    }
}

/// The host from `Host` and the request target, which must not differ (RFC 9113, section 8.3.1).
fn requested_authority(head: &Parts, direct: Scheme, settings: &Settings) -> Result<Authority, ContextError> {
    check_target(head)?;
    let mut hosts = head.headers.get_all(HOST).iter();
    let (header, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(ContextError::DuplicateHost);
    }
    let header = header.map(|value| Authority::parse(value.to_str().map_err(|_| ContextError::BadHost)?)).transpose()?;
    let target = head.uri.authority().map(|authority| Authority::parse(authority.as_str())).transpose()?;
    match (target, header) {
        (Some(target), Some(header)) => {
            let scheme = head.uri.scheme_str().and_then(Scheme::parse).unwrap_or(direct);
            let port = |authority: &Authority| authority.port.unwrap_or(scheme.default_port());
            let same = target.host == header.host && port(&target) == port(&header);
            if same { Ok(target) } else { Err(ContextError::HostMismatch) }
        }
        (Some(only), None) | (None, Some(only)) => Ok(only),
        (None, None) if head.version <= Version::HTTP_10 => {
            let (_, host, port) = settings.public.as_ref().ok_or(ContextError::MissingHost)?;
            let written = settings.public_url.as_ref().and_then(Url::port);
            let text = written.map_or_else(|| host.to_string(), |_| format!("{host}:{port}"));
            Ok(Authority { host: host.clone(), port: written, text })
        }
        (None, None) => Err(ContextError::MissingHost),
    }
}

/// A server behind us that takes such a target literally would see another request than the rules (HOST-1).
fn check_target(head: &Parts) -> Result<(), ContextError> {
    let sound = match (head.uri.scheme_str(), head.uri.authority()) {
        (Some(scheme), _) => Scheme::parse(scheme).is_some(),
        (None, Some(_)) => head.method == Method::CONNECT,
        (None, None) => true,
    };
    if sound { Ok(()) } else { Err(ContextError::BadTarget) }
}

/// `X-Forwarded-Host` of a trusted peer, if it is one valid host; a list is none.
fn forwarded_authority(headers: &HeaderMap) -> Result<Option<Authority>, ContextError> {
    check_ascii(headers, &X_FORWARDED_HOST, "X-Forwarded-Host")?;
    Ok(sole(headers, &X_FORWARDED_HOST).and_then(|text| Authority::parse(text).ok()))
}

/// `X-Forwarded-Proto` of a trusted peer, if it is one scheme (requirement FWD-4).
fn forwarded_scheme(headers: &HeaderMap) -> Result<Option<Scheme>, ContextError> {
    check_ascii(headers, &X_FORWARDED_PROTO, "X-Forwarded-Proto")?;
    Ok(sole(headers, &X_FORWARDED_PROTO).and_then(Scheme::of_request))
}

// HDR-4, ENV-1
fn check_authorization(headers: &HeaderMap) -> Result<(), ContextError> {
    if headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        return Err(ContextError::DuplicateAuthorization);
    }
    check_ascii(headers, &AUTHORIZATION, "Authorization")
}

/// One number, however often it is said (RFC 9110, section 8.6).
fn check_content_length(headers: &HeaderMap) -> Result<(), ContextError> {
    let mut lengths =
        headers.get_all(CONTENT_LENGTH).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    let Some(first) = lengths.next() else { return Ok(()) };
    let number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    if number && lengths.all(|length| length == first) { Ok(()) } else { Err(ContextError::BadContentLength) }
}

/// Nothing or `chunked` (RFC 9112, section 6.1): other codings are not for us, and a list can be read in two ways.
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), ContextError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), _) => Err(ContextError::BadTransferEncoding),
    }
}

fn check_ascii(headers: &HeaderMap, name: &HeaderName, shown: &'static str) -> Result<(), ContextError> {
    let ascii = headers.get_all(name).iter().all(|value| value.as_bytes().is_ascii());
    if ascii { Ok(()) } else { Err(ContextError::NotAscii(shown)) }
}

/// The value of a header that may be given once. Given twice, or in bytes that are no text, it is the empty text,
/// which means nothing to anybody.
fn sole<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(if values.next().is_some() { "" } else { first.to_str().map_or("", str::trim) })
}

/// The client's id, so that traces join up, unless it could do harm in a log or a header.
fn request_id(headers: &HeaderMap, now: Timestamp) -> String {
    let well_formed =
        |id: &&str| (8..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    sole(headers, &X_REQUEST_ID).filter(well_formed).map_or_else(|| new_request_id(now), str::to_owned)
}

/// A UUID version 7. It has to be distinct, not secret: the keys of the standard library's hasher, random for each
/// thread and different at each call, are random enough and cost no system call.
fn new_request_id(now: Timestamp) -> String {
    let random = || u128::from(RandomState::new().build_hasher().finish());
    let bytes = (random() << 64 | random()).to_be_bytes();
    let random = bytes.first_chunk().copied().unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string()
}

#[cfg(test)]
mod tests;
