//! What comes back: an answer's head, rewritten. Nothing an upstream says may touch our own cookies, pages or the
//! person's session, nor let a shared cache keep what was made for one person.

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, Entry, LOCATION, SET_COOKIE, TRANSFER_ENCODING, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use super::Forward;
use super::route::covers;
use super::upstream::Upstream;
use crate::wire::{cache, header};

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
const SERVICE_WORKER_ALLOWED: HeaderName = HeaderName::from_static("service-worker-allowed");

/// Rewrites the head of an answer.
pub(super) fn rewrite(parts: &mut Parts, upstream: &Upstream, how: &Forward<'_>) {
    parts.version = Version::HTTP_11;
    // hyper's handle on an upgrade of its own; ours is handled apart.
    parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let headers = &mut parts.headers;
    frame(headers);
    if parts.status == StatusCode::NO_CONTENT {
        // It has no body and says no length (RFC 9110, section 8.6): a client that believes one waits for it.
        headers.remove(CONTENT_LENGTH);
    }
    let protocol = (parts.status == StatusCode::SWITCHING_PROTOCOLS).then(|| headers.get(UPGRADE).cloned()).flatten();
    header::strip_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    let put_back = upstream.cut.as_deref().filter(|_| upstream.rewrite);
    // One walk over the names is cheaper than a look-up of each of these, and most answers have none.
    if headers.keys().any(|name| matches!(name.as_str(), "set-cookie" | "clear-site-data" | "service-worker-allowed")) {
        clean_cookies(headers, how.own_cookie, put_back);
        if headers.contains_key(CLEAR_SITE_DATA) {
            clean_clear_site_data(headers);
        }
        if headers.get_all(SERVICE_WORKER_ALLOWED).iter().any(|scope| !keeps_away_from(scope, how.prefix)) {
            headers.remove(SERVICE_WORKER_ALLOWED);
        }
    }
    if how.private && parts.status != StatusCode::SWITCHING_PROTOCOLS {
        cache::make_private(headers);
    }
    if let Some(prefix) = put_back
        && let Some(location) = headers.get(LOCATION).and_then(|location| location.to_str().ok())
        && let Some(location) = relocate(location, prefix, upstream, how)
    {
        headers.insert(LOCATION, location);
    }
}

/// Removes from an answer's trailers what may not come from an upstream, or not there: what concerns one connection, what
/// frames, and what [`rewrite`] would have looked at in the head (RFC 9110, section 6.5.1).
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    header::strip_hop_by_hop(trailers);
    for name in [CONTENT_LENGTH, SET_COOKIE, CLEAR_SITE_DATA, SERVICE_WORKER_ALLOWED, CACHE_CONTROL, LOCATION] {
        trailers.remove(name);
    }
}

/// One framing. An answer whose body was read has one already (`http1` refuses two); one to HEAD and a 304 too say no more
/// than one on the way on.
fn frame(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    } else if let Entry::Occupied(mut lengths) = headers.entry(CONTENT_LENGTH)
        && lengths.iter().count() > 1
    {
        // Lengths that differ were refused.
        let length = lengths.get().clone();
        lengths.insert(length);
    }
}

/// Drops cookies that would pass for ours and puts `prefix` back into the paths of the others.
fn clean_cookies(headers: &mut HeaderMap, own_cookie: fn(&str) -> bool, put_back: Option<&str>) {
    if put_back.is_none() && !headers.get_all(SET_COOKIE).iter().any(|cookie| is_ours(cookie, own_cookie)) {
        return;
    }
    let cookies: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().filter(|cookie| !is_ours(cookie, own_cookie)).cloned().collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        let moved = put_back.and_then(|prefix| cookie_below(&cookie, prefix));
        headers.append(SET_COOKIE, moved.unwrap_or(cookie));
    }
}

/// Whether a browser would send this cookie back under a name of ours. One without a name is sent as its bare value,
/// which may then look like a name and a value (RFC 6265bis, section 5.7).
fn is_ours(cookie: &HeaderValue, own_cookie: fn(&str) -> bool) -> bool {
    let pair = cookie.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let text = String::from_utf8_lossy(pair);
    let is_blank = |c: char| c.is_whitespace() || c.is_control();
    let named = text.trim_start_matches(|c: char| c == '=' || is_blank(c));
    own_cookie(named.split('=').next().unwrap_or_default().trim_end_matches(is_blank))
}

/// The cookie with `prefix` before its `Path`; `None`: it needs no change.
fn cookie_below(cookie: &HeaderValue, prefix: &str) -> Option<HeaderValue> {
    let text = cookie.to_str().ok()?;
    let mut changed = false;
    let parts: Vec<String> = text
        .split(';')
        .enumerate()
        .map(|(at, part)| match part.split_once('=') {
            Some((name, path))
                if at > 0 && name.trim().eq_ignore_ascii_case("path") && path.trim().starts_with('/') && !covers(prefix, path.trim()) =>
            {
                changed = true;
                let path = path.trim();
                format!("{name}={prefix}{}", if path == "/" { "/" } else { path })
            }
            Some(_) | None => part.to_owned(),
        })
        .collect();
    changed.then(|| HeaderValue::try_from(parts.join(";")).ok()).flatten()
}

/// `"cookies"` and `"*"` would end the session here.
fn clean_clear_site_data(headers: &mut HeaderMap) {
    let kept: Vec<&str> = header::list_members(headers, &CLEAR_SITE_DATA)
        .filter(|kind| {
            matches!(kind.trim_matches('"'), "cache" | "storage" | "executionContexts" | "clientHints" | "prefetchCache" | "prerenderCache")
        })
        .collect();
    let kept = HeaderValue::try_from(kept.join(", "));
    match kept {
        Ok(kept) if !kept.is_empty() => headers.insert(CLEAR_SITE_DATA, kept),
        Ok(_) | Err(_) => headers.remove(CLEAR_SITE_DATA),
    };
}

/// Whether a service worker with this scope stays clear of our pages. A scope is a prefix of the URL, not of segments;
/// whatever is not a plain path could mean anything.
fn keeps_away_from(scope: &HeaderValue, prefix: &str) -> bool {
    let Ok(scope) = scope.to_str() else {
        return false;
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'~');
    scope.starts_with('/')
        && !scope.starts_with("//")
        && scope.bytes().all(plain)
        && !prefix.starts_with(scope)
        && !scope.starts_with(prefix)
}

/// A redirect of an upstream that does not know its prefix, with the prefix; `None`: it needs no change.
fn relocate(location: &str, prefix: &str, upstream: &Upstream, how: &Forward<'_>) -> Option<HeaderValue> {
    let (origin, path) = match location.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at_checked(end)?;
            if authority.eq_ignore_ascii_case(how.context.host_header) {
                (location.strip_suffix(path)?, path)
            } else if !upstream.pass_host && upstream.is_own_host(authority.as_bytes()) {
                // It speaks of itself by a name that the client can't reach.
                ("", path)
            } else {
                return None;
            }
        }
        Some(_) | None => ("", location),
    };
    let absolute = origin.is_empty() && path == location;
    if absolute && (!path.starts_with('/') || path.starts_with("//")) {
        return None;
    }
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (bare, _) = path.split_at_checked(end)?;
    // An upstream that minds `X-Forwarded-Prefix` has put it there itself.
    if covers(prefix, bare) {
        return (!absolute && origin.is_empty()).then(|| HeaderValue::from_str(path).ok()).flatten();
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    HeaderValue::try_from(format!("{origin}{prefix}{slash}{path}")).ok()
}

#[cfg(test)]
mod tests;
