//! What a browser says about where a request comes from and what it is for (Fetch Metadata, `Origin`). No script can
//! forge these headers; programs that are no browsers send what they like, and harm nobody but themselves.

use http::header::{ACCEPT, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderName, Method};

use super::{Context, Scheme, Settings, sole};
use crate::policy::host::Host;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// What kind of answer a refusal should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Navigation {
    /// A page in a window of its own, by GET or HEAD: it can be sent elsewhere.
    Document,
    /// A page by another method, such as a form: a page, but no redirect, which would lose the body.
    OtherMethodNavigation,
    /// A page inside another page, where a sign-in can't be shown.
    Frame,
    /// Anything else: for a program.
    NotNavigation,
}

/// What the request is for. Without Fetch Metadata, `Accept` tells: browsers name `text/html` there, scripts and
/// programs as a rule do not.
pub fn navigation(method: &Method, headers: &HeaderMap) -> Navigation {
    let page = if matches!(*method, Method::GET | Method::HEAD) { Navigation::Document } else { Navigation::OtherMethodNavigation };
    match sole(headers, &SEC_FETCH_MODE) {
        Some("navigate") => match sole(headers, &SEC_FETCH_DEST) {
            Some("document") => page,
            Some("iframe" | "frame" | "embed" | "object" | "fencedframe") => Navigation::Frame,
            Some(_) | None => Navigation::NotNavigation,
        },
        Some(_) => Navigation::NotNavigation,
        None if accepts_html(headers) && !headers.contains_key(X_REQUESTED_WITH) => page,
        None => Navigation::NotNavigation,
    }
}

/// Whether script in a page sent this, or another part of one, and no person who goes somewhere or sends a form. Without
/// Fetch Metadata nobody can tell, and it counts as no.
pub fn is_by_script(headers: &HeaderMap) -> bool {
    headers.contains_key(&SEC_FETCH_MODE) && sole(headers, &SEC_FETCH_MODE) != Some("navigate")
}

/// Whether this is a gRPC call (`application/grpc`, with any suffix or parameter). gRPC-Web is ordinary HTTP.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(media) = sole(headers, &CONTENT_TYPE) else { return false };
    let essence = media.split([';', '+']).next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/grpc")
}

/// Where a request comes from, as the browser says. What changes something on the strength of a cookie needs
/// [`Source::Same`]; with [`Source::Foreign`] an unsafe method or an upgrade gets no use of the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A page of our own origin.
    Same,
    /// Elsewhere; a sibling host is elsewhere, and so is what is unknown, `null` or given twice.
    Foreign,
    /// Nobody says: no browser made it, or it was typed, or it is a bookmark.
    Unknown,
}

/// Where the request comes from. `Sec-Fetch-Site` decides where it is present: it is right even when `Origin` is `null`
/// for privacy's sake or when an undeclared proxy hides our true scheme. Browsers leave it out on plain HTTP beyond
/// loopback; there `Origin` decides.
pub fn source(headers: &HeaderMap, context: &Context, settings: &Settings) -> Source {
    match (sole(headers, &SEC_FETCH_SITE), sole(headers, &ORIGIN)) {
        (Some("same-origin"), _) => Source::Same,
        (Some("none"), _) => Source::Unknown,
        (Some(_), _) => Source::Foreign,
        (None, Some(origin)) if is_ours(origin, context, settings) => Source::Same,
        (None, Some(_)) => Source::Foreign,
        (None, None) => Source::Unknown,
    }
}

/// Whether `origin` is that of `public_url` or that of the request itself. A page on https may speak for the same
/// host on http: it is the same site behind a proxy that ends TLS. The reverse is an attack.
fn is_ours(origin: &str, context: &Context, settings: &Settings) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let (Some(scheme), Ok((host, port))) = (Scheme::parse(scheme), Host::parse(authority)) else { return false };
    let public =
        |(of, at, its_port): &(Scheme, Host, u16)| *of == scheme && *at == host && *its_port == port.unwrap_or(scheme.default_port());
    let own = || {
        let own_port = context.port.unwrap_or(context.scheme.default_port());
        let same_port = own_port == port.unwrap_or(scheme.default_port()) || (context.port.is_none() && port.is_none());
        host == context.host && same_port && (scheme == context.scheme || scheme == Scheme::Https)
    };
    settings.public.as_ref().is_some_and(public) || own()
}

fn accepts_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = values.flat_map(|value| value.split(',')).map(|range| range.split(';').next().unwrap_or_default().trim());
    ranges.any(|range| range.eq_ignore_ascii_case("text/html"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{context, settings};
    use super::*;

    fn fields(headers: &[(&str, &str)]) -> HeaderMap {
        let request = headers.iter().fold(http::Request::builder(), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0.headers
    }

    #[test]
    fn navigations_are_told_apart() {
        let with = |mode: &str, dest: &str, method: &str| {
            navigation(&method.parse().unwrap(), &fields(&[("sec-fetch-mode", mode), ("sec-fetch-dest", dest), ("accept", "text/html")]))
        };
        assert_eq!(with("navigate", "document", "GET"), Navigation::Document);
        assert_eq!(with("navigate", "document", "HEAD"), Navigation::Document);
        assert_eq!(with("navigate", "document", "POST"), Navigation::OtherMethodNavigation);
        for dest in ["iframe", "frame", "embed", "object", "fencedframe"] {
            assert_eq!(with("navigate", dest, "GET"), Navigation::Frame, "{dest}");
        }
        for (mode, dest) in [
            ("navigate", "empty"),
            ("navigate", ""),
            ("cors", "document"),
            ("no-cors", "image"),
            ("websocket", "websocket"),
            ("", "document"),
        ] {
            assert_eq!(with(mode, dest, "GET"), Navigation::NotNavigation, "{mode} {dest}");
        }
    }

    #[test]
    fn without_fetch_metadata_accept_tells() {
        let with = |method: &str, headers: &[(&str, &str)]| navigation(&method.parse().unwrap(), &fields(headers));
        let html = ("accept", "application/xhtml+xml, Text/HTML;q=0.9, */*;q=0.8");
        assert_eq!(with("GET", &[html]), Navigation::Document);
        assert_eq!(with("HEAD", &[html]), Navigation::Document);
        assert_eq!(with("POST", &[html]), Navigation::OtherMethodNavigation);
        assert_eq!(with("GET", &[html, ("x-requested-with", "XMLHttpRequest")]), Navigation::NotNavigation);
        assert_eq!(with("GET", &[("accept", "*/*")]), Navigation::NotNavigation);
        assert_eq!(with("GET", &[("accept", "text/html-x, application/json")]), Navigation::NotNavigation);
        assert_eq!(with("GET", &[]), Navigation::NotNavigation);
    }

    #[test]
    fn script_is_known_where_the_browser_says_so() {
        let by_script = |headers: &[(&str, &str)]| is_by_script(&fields(headers));
        assert!(!by_script(&[]) && !by_script(&[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]));
        for mode in ["cors", "no-cors", "same-origin", "websocket", "", "Navigate"] {
            assert!(by_script(&[("sec-fetch-mode", mode)]), "{mode}");
        }
        assert!(by_script(&[("sec-fetch-mode", "navigate"), ("sec-fetch-mode", "navigate")]));
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (media, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; x=y", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("text/plain", false),
        ] {
            assert_eq!(is_grpc(&fields(&[("content-type", media)])), expected, "{media}");
        }
        assert!(!is_grpc(&fields(&[])));
    }

    fn judge(headers: &[(&str, &str)], public_url: &str, authority: &str) -> Source {
        let settings = settings(public_url, &[], &[]);
        source(&fields(headers), &context(authority, &settings), &settings)
    }

    #[test]
    fn fetch_metadata_decides_where_it_is_present() {
        for (site, expected) in [
            ("same-origin", Source::Same),
            ("same-site", Source::Foreign),
            ("cross-site", Source::Foreign),
            ("x", Source::Foreign),
            ("", Source::Foreign),
        ] {
            assert_eq!(judge(&[("sec-fetch-site", site)], "", "app.example.com"), expected, "{site}");
            assert_eq!(judge(&[("sec-fetch-site", site), ("origin", "http://app.example.com")], "", "app.example.com"), expected, "{site}");
        }
        assert_eq!(judge(&[("sec-fetch-site", "same-origin"), ("origin", "null")], "", "app.example.com"), Source::Same);
        // No browser.
        assert_eq!(judge(&[], "", "app.example.com"), Source::Unknown);
        assert_eq!(judge(&[("sec-fetch-site", "none")], "", "app.example.com"), Source::Unknown);
        assert_eq!(judge(&[("sec-fetch-site", "none"), ("origin", "http://evil.example")], "", "app.example.com"), Source::Unknown);
        assert_eq!(judge(&[("sec-fetch-site", "Same-Origin")], "", "app.example.com"), Source::Foreign);
        assert_eq!(
            judge(&[("origin", "http://app.example.com"), ("origin", "http://evil.example")], "", "app.example.com"),
            Source::Foreign
        );
        assert_eq!(judge(&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")], "", "app.example.com"), Source::Foreign);
    }

    #[test]
    fn otherwise_the_origin_decides() {
        let judge = |origin: &str, public_url: &str, authority: &str| judge(&[("origin", origin)], public_url, authority);
        let (ours, foreign) = (Source::Same, Source::Foreign);
        for (origin, public_url, authority, expected) in [
            ("http://app.example.com", "", "app.example.com", ours),
            ("http://app.example.com", "", "App.Example.com:80", ours),
            ("http://app.example.com:8080", "", "app.example.com:8080", ours),
            ("https://app.example.com", "", "app.example.com", ours),
            ("https://app.example.com", "https://app.example.com", "backend.internal", ours),
            ("https://app.example.com:8443", "https://app.example.com:8443", "backend.internal", ours),
            ("http://app.example.com", "https://app.example.com", "backend.internal", foreign),
            ("http://app.example.com:8080", "", "app.example.com", foreign),
            ("https://app.example.com:8443", "", "app.example.com", foreign),
            ("http://evil.example.com", "", "app.example.com", foreign),
            ("http://app.example.com.evil.test", "", "app.example.com", foreign),
            ("http://app.example.com@evil.test", "", "app.example.com", foreign),
            ("http://app.example.com/", "", "app.example.com", foreign),
            ("ftp://app.example.com", "", "app.example.com", foreign),
            ("app.example.com", "", "app.example.com", foreign),
            ("null", "", "app.example.com", foreign),
            ("", "", "app.example.com", foreign),
        ] {
            assert_eq!(judge(origin, public_url, authority), expected, "{origin} {public_url} {authority}");
        }
    }
}
