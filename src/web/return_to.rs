//! Where to go after signing in: never to another site (requirement RED-1).

use url::Url;

/// What `rd` may lead to besides paths of the same origin.
#[derive(Clone, Debug)]
pub(super) struct Site {
    scheme: String,
    port: Option<u16>,
    domain: String,
}

impl Site {
    /// The site of `public_url` when `sessions.cookie.domain` makes a session good for all of it.
    pub(super) fn new(public_url: Option<&Url>, cookie_domain: Option<&str>) -> Option<Self> {
        let url = public_url?;
        let domain = cookie_domain?.trim_start_matches('.').to_ascii_lowercase();
        Some(Self { scheme: url.scheme().to_owned(), port: url.port_or_known_default(), domain })
    }

    fn holds(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let inside =
            host == self.domain || host.strip_suffix(self.domain.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'));
        url.scheme() == self.scheme
            && url.port_or_known_default() == self.port
            && url.username().is_empty()
            && url.password().is_none()
            && matches!(url.host(), Some(url::Host::Domain(_)))
            && inside
    }
}

/// The longest target that is carried along; a longer one leads to `/`.
pub(super) const MAX_BYTES: usize = 4096;

/// The target as it may stand in `Location`: `text` parsed and written again, or `/`.
pub(super) fn parse(text: &str, site: Option<&Site>) -> String {
    // A part behind `#` that can't be kept does not cost the page.
    let page = || text.split_once('#').and_then(|(page, _)| checked(page, site));
    checked(text, site).or_else(page).unwrap_or_else(|| "/".to_owned())
}

fn checked(text: &str, site: Option<&Site>) -> Option<String> {
    if text.len() > MAX_BYTES || text.chars().any(|c| c == '\\' || c.is_control() || c.is_whitespace() || is_unseen(c)) {
        return None;
    }
    let target = if text.starts_with('/') { local(text) } else { absolute(text, site?) };
    // Written again it can be longer, and it is read again further on.
    target.filter(|target| target.len() <= MAX_BYTES)
}

fn local(text: &str) -> Option<String> {
    if !is_plain(text) {
        return None;
    }
    // Parsed as a browser would, and looked at again: `/.//evil` is a path that becomes `//evil`.
    let base = Url::parse("http://nullpass.invalid/").ok()?;
    let url = base.join(text).ok()?;
    if url.origin() != base.origin() || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let written = url.as_str().strip_prefix("http://nullpass.invalid")?;
    is_plain(written).then(|| written.to_owned())
}

fn absolute(text: &str, site: &Site) -> Option<String> {
    let rest = text.strip_prefix(site.scheme.as_str())?.strip_prefix("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    if authority.contains(['@', '%']) || !is_sound(text) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    site.holds(&url).then(|| url.into())
}

/// Whether a path, as it is and decoded up to twice, stays on this origin for every reader.
fn is_plain(text: &str) -> bool {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let mut reading = path.to_owned();
    for _ in 0..3 {
        // What other readers may pass over does not count as the second character.
        let mut seen = reading.chars().filter(|c| !c.is_whitespace() && !is_unseen(*c));
        if seen.next() != Some('/') || matches!(seen.next(), Some('/' | '\\')) {
            return false;
        }
        reading = percent_encoding::percent_decode_str(&reading).decode_utf8_lossy().into_owned();
    }
    is_sound(text)
}

/// Whether no control character hides in `text`, decoded up to twice.
fn is_sound(text: &str) -> bool {
    let mut reading = text.to_owned();
    for _ in 0..3 {
        if reading.chars().any(|c| c.is_control() || is_unseen(c)) {
            return false;
        }
        reading = percent_encoding::percent_decode_str(&reading).decode_utf8_lossy().into_owned();
    }
    true
}

/// Line separators, and what has no width or turns the direction of text.
pub(super) const fn is_unseen(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site() -> Site {
        Site::new(Some(&Url::parse("https://auth.example.com").unwrap()), Some("example.com")).unwrap()
    }

    #[test]
    fn paths_are_kept() {
        for good in [
            "/",
            "/a",
            "/a/b?c=d&e=%20f",
            "/reports?year=2026&q=a%20b",
            "/a#part",
            "/My%20Files/x",
            "/a?next=https://x.example/",
            "/a?b=//c",
            "/%C3%BC",
            "/a//b",
            "/~user",
            "/a;b=c",
            "/group%2Fproject",
            "/a?q=%2F%2Fevil",
            "/:80",
            "/@home",
        ] {
            assert_eq!(parse(good, None), good);
        }
        assert_eq!(parse("/a/../b", None), "/b");
        assert_eq!(parse("/ü", None), "/%C3%BC");
        assert_eq!(parse("/a?b#c\\d", None), "/a?b");
        assert_eq!(parse(&format!("/a#{}", "x".repeat(MAX_BYTES)), None), "/a");
        assert_eq!(parse(&format!("/a#{}", "é".repeat(MAX_BYTES / 3)), None), "/a");
        assert_eq!(parse(&format!("/{}", "é".repeat(MAX_BYTES / 3)), None), "/");
    }

    // RED-1: none of these leads away.
    #[test]
    fn nothing_leads_to_another_site() {
        let payloads = [
            "",
            "evil.example",
            "//evil.example",
            "///evil.example",
            "////evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "\\\\evil.example",
            "/\\/evil.example",
            "\\evil.example",
            "http:evil.example",
            "https:evil.example",
            "http:/evil.example",
            "https:///evil.example",
            "http://evil.example",
            "https://evil.example",
            "HTTPS://evil.example",
            "ftp://evil.example",
            "javascript:alert(1)",
            "JaVaScRiPt:alert(1)",
            "java\nscript:alert(1)",
            "data:text/html,x",
            "vbscript:x",
            "file:///etc/passwd",
            "blob:x",
            "about:blank",
            "mailto:a@b.de",
            "/\t/evil.example",
            "/\n/evil.example",
            "/\r/evil.example",
            "\t//evil.example",
            " //evil.example",
            " /evil",
            "/ /evil.example",
            "/%09/evil.example",
            "/%0a/evil.example",
            "/%0d/evil.example",
            "/%0d%0aLocation:%20//evil.example",
            "/%20/evil.example",
            "/%5cevil.example",
            "/%5Cevil.example",
            "/%2fevil.example",
            "/%2Fevil.example",
            "/%252fevil.example",
            "/%255cevil.example",
            "/%2509/evil.example",
            "/.//evil.example",
            "/..//evil.example",
            "/a/..//evil.example",
            "/a/../..//evil.example",
            "/./\\evil.example",
            "/%2e//evil.example",
            "/%2e%2e//evil.example",
            "/.%2e//evil.example",
            "//evil.example/%2e%2e",
            "//evil.example@x",
            "//@evil.example",
            "//evil%E3%80%82example",
            "\u{3000}//evil.example",
            "/\u{3000}/evil.example",
            "/\u{a0}/evil.example",
            "/%c2%a0/evil.example",
            "/%E3%80%80/evil.example",
            "/\u{200b}/evil.example",
            "/%e2%80%8b/evil.example",
            "/\u{202e}/evil",
            "/\u{2028}/evil",
            "/\0/evil.example",
            "/%00/evil.example",
            "/\u{85}/evil.example",
            "/a\r\nSet-Cookie: x",
            "/a b",
            "?next=//evil.example",
            "#//evil.example",
            "@evil.example",
            ":evil",
            "a/b",
            "./a",
            "../a",
            "https://example.com.evil.example",
            "https://evilexample.com",
            "https://example.com@evil.example",
            "https://evil.example#.example.com",
            "https://evil.example/.example.com",
            "https://evil.example?.example.com",
            "https://evil.example\\.example.com",
            "http://app.example.com/",
            "https://app.example.com:8443/",
            "https://user@app.example.com/",
            "https://user:pw@app.example.com/",
            "https://app.example.com./",
            "https:app.example.com",
            "https:/app.example.com",
            "https://%65vil.example/",
            "https://.example.com/%0a",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://app.example.com\t.evil.example/",
            "https://app.example.com%00.evil.example/",
            "https://app.example.com%2f@evil.example/",
        ];
        assert!(payloads.len() >= 60);
        for payload in payloads {
            assert_eq!(parse(payload, None), "/", "{payload:?}");
            assert_eq!(parse(payload, Some(&site())), "/", "{payload:?} with a site");
        }
        assert_eq!(parse(&format!("/{}", "a".repeat(MAX_BYTES)), None), "/");
    }

    #[test]
    fn the_own_site_is_good_when_the_cookie_is_good_for_it() {
        let site = site();
        for good in ["https://app.example.com/a?b=c", "https://example.com/", "https://a.b.example.com/x#y"] {
            assert_eq!(parse(good, Some(&site)), good);
            assert_eq!(parse(good, None), "/");
        }
        assert_eq!(parse("https://APP.example.com", Some(&site)), "https://app.example.com/");
        assert!(Site::new(None, Some("example.com")).is_none());
        assert!(Site::new(Some(&Url::parse("https://auth.example.com").unwrap()), None).is_none());
    }

    proptest! {
        // RED-1
        #[test]
        fn whatever_comes_out_stays_here(text in "[/\\\\.%a-z0-9:@?# \t\r\n\u{3000}]{0,24}") {
            let target = parse(&text, None);
            prop_assert!(target.starts_with('/'));
            prop_assert!(!target.starts_with("//") && !target.starts_with("/\\"));
            let base = Url::parse("https://here.example/").unwrap();
            let led = base.join(&target).unwrap();
            prop_assert_eq!(led.origin(), base.origin());
            prop_assert_eq!(parse(&target, None), target);
        }
    }
}
