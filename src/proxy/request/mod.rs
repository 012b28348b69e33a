//! What the upstream is told: a request's head, rewritten.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod identity;

use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, Entry, FORWARDED, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

pub(super) use identity::IdentityFields;

use super::upstream::Upstream;
use super::{Error, Forward, ForwardContext, Proxy};
use crate::model::text::push_address;
use crate::wire::header::{self, IdentityNames};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// Rewrites the head of a request in the order that keeps it safe: what the client may not say goes first, then what
/// concerns one connection only, then ours is set, and the operator has the last word.
pub(super) fn rewrite(
    parts: &mut Parts,
    proxy: &Proxy,
    upstream: &Upstream,
    how: &Forward<'_>,
    upgrade: Option<&HeaderValue>,
    has_body: bool,
) -> Result<(), Error> {
    // HTTP/2 needs no framing here and may send trailers after a body of known length. HTTP/1.1 sends those, and a body of
    // unknown length, only in chunks, which hyper would leave out for GET.
    let from_http2 = parts.version == Version::HTTP_2 && has_body;
    let becomes_chunked = from_http2 && (parts.headers.contains_key(TRAILER) || !parts.headers.contains_key(CONTENT_LENGTH));
    parts.version = Version::HTTP_11;
    rewrite_target(&mut parts.uri, upstream.cut.as_deref())?;
    let headers = &mut parts.headers;
    let is_grpc = is_grpc(headers);
    let wants_trailers = header::list_members(headers, &TE)
        .any(|coding| coding.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("trailers")));
    frame(headers)?;
    drop_claims(headers, &proxy.names, how);
    let chunked = becomes_chunked || headers.contains_key(TRANSFER_ENCODING);
    header::strip_hop_by_hop(headers);
    if chunked {
        // The framing is the transfer coding's, whatever length was given beside it (RFC 9112, section 6.3).
        headers.remove(CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    } else if wants_trailers {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    join_cookies(headers);
    set_host(headers, upstream, how.context)?;
    set_forwarding(headers, how.context, upstream.cut.as_deref())?;
    headers.insert(X_REQUEST_ID, value(how.context.request_id)?);
    set_authorization(headers, proxy, how);
    if let Some(identity) = how.identity {
        proxy.fields.set(headers, identity, how.upstream.0, is_grpc, &proxy.counters);
    }
    if let Some(assertion) = &how.assertion {
        for name in proxy.fields.assertion_names() {
            headers.insert(name, assertion.clone());
        }
    }
    for name in &upstream.remove_headers {
        headers.remove(name);
    }
    for (name, value) in &upstream.set_headers {
        headers.insert(name, value.clone());
    }
    Ok(())
}

/// The protocol to upgrade to, if this is an upgrade that can be forwarded: HTTP/1.1, GET and no body (a body could be
/// read as the new protocol's first bytes by one side only).
///
/// HTTP itself and TLS are no protocols to upgrade to: all further requests would go past the rules unseen.
pub(super) fn wanted_upgrade(parts: &Parts, has_body: bool) -> Option<HeaderValue> {
    if has_body || parts.version != Version::HTTP_11 || parts.method != Method::GET || !parts.headers.contains_key(UPGRADE) {
        return None;
    }
    if !header::list_members(&parts.headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let mut lines = parts.headers.get_all(UPGRADE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let protocols = line.to_str().ok()?;
    let is_tunnel = |protocol: &str| {
        let name = protocol.split('/').next().unwrap_or_default().trim().to_ascii_lowercase();
        name.is_empty() || matches!(name.as_str(), "h2c" | "h2" | "h3" | "http" | "https" | "tls")
    };
    (!protocols.split(',').any(is_tunnel)).then(|| line.clone())
}

/// Removes from a request's trailers what may not be in its head either (requirement HDR-1), and what frames or routes.
pub(super) fn clean_trailers(names: &IdentityNames, trailers: &mut HeaderMap) {
    header::strip_hop_by_hop(trailers);
    let forbidden = |name: &&HeaderName| {
        names.is_identity_alias(name)
            || header::is_forwarding(name)
            || header::is_method_override(name)
            || [&HOST, &CONTENT_LENGTH, &AUTHORIZATION, &COOKIE, &X_REQUEST_ID, &PROXY].contains(name)
    };
    for name in trailers.keys().filter(forbidden).cloned().collect::<Vec<_>>() {
        trailers.remove(name);
    }
}

/// Whether the body is gRPC, whose metadata values are ASCII and whose answers may take as long as they like.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Origin-form, as RFC 9112, section 3.2.1, asks of a request to an origin server, with the bytes as they were received.
/// An empty path, which a query may follow in the absolute form, is `/` there: that is what the rules have read too.
fn rewrite_target(uri: &mut Uri, cut: Option<&str>) -> Result<(), Error> {
    let target = match (cut, uri.path_and_query()) {
        (Some(prefix), _) => without_prefix(uri, prefix)?,
        (None, Some(target)) if !target.as_str().starts_with(['/', '*']) => {
            PathAndQuery::try_from(target.to_string()).map_err(|_| Error::BadRequest)?
        }
        (None, _) if uri.scheme().is_none() && uri.authority().is_none() => return Ok(()),
        (None, target) => target.cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
    };
    *uri = Uri::from(target);
    Ok(())
}

fn without_prefix(uri: &Uri, prefix: &str) -> Result<PathAndQuery, Error> {
    let rest = uri.path().strip_prefix(prefix).ok_or(Error::BadPrefix)?;
    if !rest.is_empty() && (!rest.starts_with('/') || names_a_host(rest)) {
        return Err(Error::BadPrefix);
    }
    let path = if rest.is_empty() { "/" } else { rest };
    let target = match uri.query() {
        None => PathAndQuery::try_from(path),
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
    };
    target.map_err(|_| Error::BadPrefix)
}

/// Whether who parses the path as a URL would take its beginning for `//` and a host: the rules have seen the prefix before
/// it and can't have read it so.
fn names_a_host(path: &str) -> bool {
    let once: Vec<u8> = percent_encoding::percent_decode_str(path).skip(1).collect();
    let twice = percent_encoding::percent_decode(&once).next();
    [once.first().copied(), twice].iter().any(|first| matches!(first, Some(b'/' | b'\\')))
}

/// Refuses a framing that two parsers could read differently, and leaves one length at most.
fn frame(headers: &mut HeaderMap) -> Result<(), Error> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        (Some(_), _) => return Err(Error::BadRequest),
    }
    if let Entry::Occupied(mut lengths) = headers.entry(CONTENT_LENGTH) {
        let first = lengths.get().clone();
        if lengths.iter().any(|length| *length != first) {
            return Err(Error::BadRequest);
        }
        lengths.insert(first);
    }
    Ok(())
}

/// Removes what only we and trusted proxies may say.
fn drop_claims(headers: &mut HeaderMap, names: &IdentityNames, how: &Forward<'_>) {
    let trusted = how.context.peer_trusted;
    let forbidden = |name: &&HeaderName| {
        names.is_identity_alias(name)
            // A trusted proxy replaces the plain spelling but may let `X_Forwarded_For` pass.
            || (header::is_forwarding(name) && (!trusted || header::is_odd_spelling(name)))
            || **name == PROXY
            || (how.strip_method_override && header::is_method_override(name))
    };
    for name in headers.keys().filter(forbidden).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// HTTP/2 may split `Cookie`; HTTP/1.1 may not (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    match HeaderValue::from_bytes(&joined) {
        Ok(joined) => headers.insert(COOKIE, joined),
        // Field values joined by `; ` are a field value; if not, then rather no cookie than half of them.
        Err(_) => headers.remove(COOKIE),
    };
}

fn set_host(headers: &mut HeaderMap, upstream: &Upstream, context: &ForwardContext<'_>) -> Result<(), Error> {
    if upstream.pass_host {
        let mut hosts = headers.get_all(HOST).iter();
        let is_right = hosts.next().is_some_and(|host| host.as_bytes() == context.host_header.as_bytes()) && hosts.next().is_none();
        if !is_right {
            headers.insert(HOST, value(context.host_header)?);
        }
    } else if let Some(endpoint) = upstream.endpoints.first() {
        // Where there are several, the one that gets the request puts its own.
        headers.insert(HOST, endpoint.own_host.clone());
    }
    Ok(())
}

/// `X-Forwarded-*`, `X-Real-IP` and `Forwarded` (RFC 7239), from what we know and, when the peer is trusted, what it said.
fn set_forwarding(headers: &mut HeaderMap, context: &ForwardContext<'_>, cut: Option<&str>) -> Result<(), Error> {
    let client = context.client.to_canonical();
    let peer = context.peer.map_or(client, |peer| peer.to_canonical());
    let mut client_text = String::with_capacity(40);
    push_address(&mut client_text, client);
    let client_text = owned(client_text)?;
    let chain = match list_of(headers, &X_FORWARDED_FOR) {
        Some(before) if context.peer.is_some() => owned(format!("{before}, {peer}"))?,
        Some(before) => owned(before)?,
        None if client == peer => client_text.clone(),
        None => owned(format!("{client}, {peer}"))?,
    };
    headers.insert(X_FORWARDED_FOR, chain);
    headers.insert(X_REAL_IP, client_text);
    let is_https = context.scheme == "https";
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if is_https { "https" } else { "http" }));

    let mut forwarded = list_of(headers, &FORWARDED).unwrap_or_default();
    forwarded.reserve(context.host_header.len() + 64);
    if forwarded.is_empty() && client != peer {
        add_node(&mut forwarded, client);
    }
    add_node(&mut forwarded, peer);
    forwarded.push_str(";host=\"");
    if context.host_header.contains(['"', '\\']) {
        for c in context.host_header.chars() {
            if matches!(c, '"' | '\\') {
                forwarded.push('\\');
            }
            forwarded.push(c);
        }
    } else {
        forwarded.push_str(context.host_header);
    }
    forwarded.push_str(if is_https { "\";proto=https" } else { "\";proto=http" });
    headers.insert(FORWARDED, owned(forwarded)?);

    // A trusted peer's own words stay: it was the one that the client reached.
    if !headers.contains_key(X_FORWARDED_HOST) {
        // Most often the very bytes of `Host`, which can be shared.
        let host = headers.get(HOST).filter(|host| host.as_bytes() == context.host_header.as_bytes()).cloned();
        let host = host.map_or_else(|| value(context.host_header), Ok)?;
        headers.insert(X_FORWARDED_HOST, host);
    }
    if !headers.contains_key(X_FORWARDED_PORT) {
        headers.insert(X_FORWARDED_PORT, HeaderValue::from(context.port));
    }
    if let Some(prefix) = cut {
        let before = headers.get(X_FORWARDED_PREFIX).and_then(|before| before.to_str().ok()).unwrap_or_default();
        let prefix = owned(format!("{}{prefix}", before.trim_end_matches('/')))?;
        headers.insert(X_FORWARDED_PREFIX, prefix);
    }
    Ok(())
}

/// All lines of a list field as one; `None`: there is none that holds anything.
fn list_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<&str> =
        headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).filter(|line| !line.trim().is_empty()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// Appends `for=…` as a new element; an IPv6 address needs brackets and therefore quotes (RFC 7239, section 6).
fn add_node(forwarded: &mut String, address: IpAddr) {
    if !forwarded.is_empty() {
        forwarded.push_str(", ");
    }
    forwarded.push_str(if address.is_ipv6() { "for=\"[" } else { "for=" });
    push_address(forwarded, address);
    forwarded.push_str(if address.is_ipv6() { "]\"" } else { "" });
}

fn set_authorization(headers: &mut HeaderMap, proxy: &Proxy, how: &Forward<'_>) {
    if how.strip_authorization {
        headers.remove(AUTHORIZATION);
    }
    if proxy.fields.config.forward_token
        && let Some(token) = how.token
        && !headers.contains_key(AUTHORIZATION)
        && let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {token}"))
    {
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
}

fn value(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| Error::BadRequest)
}

/// The same without copying the text.
fn owned(text: String) -> Result<HeaderValue, Error> {
    HeaderValue::try_from(text).map_err(|_| Error::BadRequest)
}

#[cfg(test)]
pub(super) mod tests;
