//! Keeping what was made for one person out of caches that serve many.

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Keeps an answer out of shared caches.
pub fn make_private(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| is_targeted(name)).cloned() {
        headers.remove(name);
    }
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        return;
    }
    let mut directives: Vec<String> = Vec::new();
    for line in headers.get_all(CACHE_CONTROL) {
        let text = String::from_utf8_lossy(line.as_bytes());
        for directive in split_outside_quotes(&text) {
            let name = directive.split('=').next().unwrap_or_default().trim();
            // A bare `private` is added below; `private="field"` names fields and says nothing about the rest.
            let dropped = name.is_empty()
                || ["public", "s-maxage"].iter().any(|known| name.eq_ignore_ascii_case(known))
                || directive.eq_ignore_ascii_case("private");
            if !dropped {
                directives.push(directive.to_owned());
            }
        }
    }
    directives.push("private".to_owned());
    let value = HeaderValue::try_from(directives.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("private, no-store"));
    headers.insert(CACHE_CONTROL, value);
}

/// The members of a list in which commas may stand inside quotes.
fn split_outside_quotes(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .map(str::trim)
}

/// Caches that obey these don't look at `Cache-Control`: `CDN-Cache-Control` and those of single networks (RFC 9213,
/// section 2), their forerunners, and nginx's own.
fn is_targeted(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.ends_with("cdn-cache-control") || matches!(name, "surrogate-control" | "edge-control" | "x-accel-expires")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_shared_cache_is_left_that_may_keep_it() {
        let mut headers = HeaderMap::new();
        for name in ["cdn-cache-control", "cloudflare-cdn-cache-control", "surrogate-control", "edge-control", "x-accel-expires"] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("max-age=60"));
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("3600"));
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
        make_private(&mut headers);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers[CACHE_CONTROL], "max-age=60, private");
    }
}
