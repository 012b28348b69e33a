//! Our cookies. Every cookie whose name begins with `nullpass`, `__Host-nullpass` or `__Secure-nullpass` is ours:
//! none of them reaches the application, and the application sets none of them.

use std::time::Duration;

use cookie::time::{Duration as CookieDuration, OffsetDateTime};
use cookie::{Cookie, CookieBuilder};
use http::header::{COOKIE, HeaderMap, HeaderValue};
use thiserror::Error;

use crate::config;

/// Longest cookie value that is looked at, in bytes: what browsers store (RFC 6265bis, section 5.6).
pub const MAX_VALUE_BYTES: usize = 4096;

const HOST_PREFIX: &str = "__Host-";
const SECURE_PREFIX: &str = "__Secure-";
const STEM: &str = "nullpass";

/// A cookie's name, with those it has in other deployments of the same site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    current: String,
    others: [String; 2],
}

impl Name {
    /// The name that is set and read.
    pub fn as_str(&self) -> &str {
        &self.current
    }
}

/// The names and attributes of all our cookies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The session's token.
    pub session: Name,
    /// Remembers a device that its owner has signed in from.
    pub device: Name,
    /// What is known before sign-in.
    pub pre: Name,
    /// The language that a person chose.
    pub language: Name,
    domain: Option<String>,
    same_site: cookie::SameSite,
    https: bool,
}

impl Names {
    /// `https`: whether browsers reach us by https. Then the names get the prefix that makes browsers refuse them from
    /// other hosts (`__Host-`), or when a domain is configured, at least over plain HTTP (`__Secure-`).
    pub fn from(cookie: &config::Cookie, https: bool) -> Self {
        let name = |suffix: &str| {
            let (plain, host, secure) = (
                format!("{}{suffix}", cookie.name),
                format!("{HOST_PREFIX}{}{suffix}", cookie.name),
                format!("{SECURE_PREFIX}{}{suffix}", cookie.name),
            );
            match (https, &cookie.domain) {
                (true, None) => Name { current: host, others: [secure, plain] },
                (true, Some(_)) => Name { current: secure, others: [host, plain] },
                (false, _) => Name { current: plain, others: [host, secure] },
            }
        };
        Self {
            session: name(""),
            device: name("-device"),
            pre: name("-pre"),
            language: name("-lang"),
            domain: cookie.domain.clone(),
            same_site: match cookie.same_site {
                config::SameSite::Strict => cookie::SameSite::Strict,
                config::SameSite::Lax => cookie::SameSite::Lax,
                config::SameSite::None => cookie::SameSite::None,
            },
            https,
        }
    }

    /// Whether they are for https alone.
    pub const fn is_https(&self) -> bool {
        self.https
    }

    /// A `Set-Cookie` for `name`. `max_age`: how long the browser keeps it; `None`: until it is closed.
    pub fn set(&self, name: &Name, value: &str, max_age: Option<Duration>) -> Result<HeaderValue, InvalidCookie> {
        if value.len() > MAX_VALUE_BYTES || !is_value(value.as_bytes()) {
            return Err(InvalidCookie);
        }
        let mut cookie = self.build(name.as_str(), value, self.domain.as_deref());
        if let Some(age) = max_age {
            cookie = cookie.max_age(CookieDuration::seconds(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
        }
        header(cookie)
    }

    /// Every `Set-Cookie` that it takes to be rid of `name`, under the names of other deployments too, and with and
    /// without the domain.
    pub fn expire(&self, name: &Name) -> Vec<HeaderValue> {
        let names = std::iter::once(&name.current).chain(&name.others);
        // A browser takes the prefixes from a page on https only, and then it has no such cookies either.
        let reachable = names.filter(|name| self.https || name.starts_with(STEM));
        let domains = [None, self.domain.as_deref()];
        let domains = if self.domain.is_some() { &domains[..] } else { &domains[..1] };
        let all = reachable.flat_map(|name| domains.iter().map(move |domain| (name, *domain)));
        let possible = all.filter(|(name, domain)| domain.is_none() || !name.starts_with(HOST_PREFIX));
        let gone = |(name, domain): (&'_ String, Option<&'_ str>)| {
            let cookie = self.build(name, "", domain).max_age(CookieDuration::ZERO).expires(OffsetDateTime::UNIX_EPOCH);
            header(cookie).ok()
        };
        possible.filter_map(gone).collect()
    }

    fn build<'c>(&self, name: &'c str, value: &'c str, domain: Option<&'c str>) -> CookieBuilder<'c> {
        let cookie = Cookie::build((name, value)).path("/").secure(self.https).http_only(true).same_site(self.same_site);
        match domain {
            Some(domain) => cookie.domain(domain),
            None => cookie,
        }
    }
}

/// A value that can't stand in a cookie of ours, which are token68 of at most [`MAX_VALUE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a value for a cookie")]
pub struct InvalidCookie;

/// What a request's cookies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'h> {
    /// No such cookie.
    None,
    /// One value.
    One(&'h str),
    /// Different values, or one that we never set: counts as no cookie, and the answer should expire it
    /// ([`Names::expire`]; requirements FAIL-1, HDR-4). Which of two the browser would prefer depends on paths,
    /// domains and ages that it does not tell, so somebody else may have planted either.
    Conflict,
}

/// Looks for `name` in all `Cookie` headers. A cookie under one of its other names does not stand for it, but makes
/// it a conflict when the values differ.
pub fn find<'h>(headers: &'h HeaderMap, name: &Name) -> Found<'h> {
    let mut current = None;
    let mut other = None;
    for (found, value) in headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b';')).map(split_pair) {
        let slot = if found == name.current.as_bytes() {
            &mut current
        } else if name.others.iter().any(|other| found == other.as_bytes()) {
            &mut other
        } else {
            continue;
        };
        if slot.is_some_and(|before| before != value) {
            return Found::Conflict;
        }
        *slot = Some(value);
    }
    match (current, other) {
        (None, _) => Found::None,
        (Some(current), Some(other)) if current != other => Found::Conflict,
        (Some(value), _) if value.len() > MAX_VALUE_BYTES || !is_value(value) => Found::Conflict,
        (Some(value), _) => str::from_utf8(value).map_or(Found::Conflict, Found::One),
    }
}

/// Every value that comes under `name` or one of its other names and could be one of ours: for telling what is wrong.
pub fn all<'h>(headers: &'h HeaderMap, name: &Name) -> impl Iterator<Item = &'h str> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b';')).map(split_pair);
    let named = pairs.filter(|(found, _)| name.others.iter().chain([&name.current]).any(|known| *found == known.as_bytes()));
    named.filter(|(_, value)| value.len() <= MAX_VALUE_BYTES && is_value(value)).filter_map(|(_, value)| str::from_utf8(value).ok())
}

/// A `Set-Cookie` with none of the attributes that a browser could refuse ours for. It says nothing but that cookies come
/// back, for ten minutes.
pub const PROBE: &str = "nullpass-probe=1; HttpOnly; SameSite=Lax; Path=/; Max-Age=600";

/// Whether the cookie of [`PROBE`] came back.
pub fn has_probe(headers: &HeaderMap) -> bool {
    let mut pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b';')).map(split_pair);
    pairs.any(|(name, _)| name == b"nullpass-probe")
}

/// Whether a cookie of this name is ours. Case is ignored, though names differ by it: nobody but an attacker sets
/// `NULLPASS`, and something behind us may fold it.
pub fn is_ours(name: &[u8]) -> bool {
    let begins = |name: &[u8], prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()));
    let without = |prefix: &str| if begins(name, prefix) { name.get(prefix.len()..).unwrap_or_default() } else { name };
    begins(without(HOST_PREFIX), STEM) || begins(without(SECURE_PREFIX), STEM)
}

/// Whether a `Set-Cookie` of the application names a cookie of ours. A cookie without a name whose *value* is
/// `nullpass=x` counts: browsers send it back as `nullpass=x`.
pub fn sets_ours(set_cookie: &HeaderValue) -> bool {
    is_ours(split_pair(set_cookie.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default()).0)
}

/// Takes our cookies out of the `Cookie` headers. Every other byte stays where it is, malformed pairs too; a header
/// with nothing left goes. Headers without a cookie of ours are not touched.
pub fn strip_ours(headers: &mut HeaderMap) {
    let ours = |pair: &[u8]| is_ours(split_pair(pair).0);
    let pairs = |line: &HeaderValue| line.as_bytes().split(|&byte| byte == b';').any(ours);
    if !headers.get_all(COOKIE).iter().any(pairs) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        if !pairs(&line) {
            headers.append(COOKIE, line);
            continue;
        }
        let kept: Vec<&[u8]> = line.as_bytes().split(|&byte| byte == b';').filter(|pair| !ours(pair)).collect();
        // The blank that stood between a pair of ours and the next is nobody's.
        let kept = kept.join(&b';');
        let kept = kept.trim_ascii_start();
        // What can't be a header value any more, which parts of one can, is better lost than let through.
        if let (false, Ok(mut rest)) = (kept.is_empty(), HeaderValue::from_bytes(kept)) {
            rest.set_sensitive(line.is_sensitive());
            headers.append(COOKIE, rest);
        }
    }
}

/// A pair's name and value. The name is that of the most lenient reader: blanks and empty names in front of it are
/// not part of it.
fn split_pair(pair: &[u8]) -> (&[u8], &[u8]) {
    let start = pair.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b'=').count();
    let pair = pair.get(start..).unwrap_or_default();
    let end = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
    let (name, value) = pair.split_at_checked(end).unwrap_or((pair, &[]));
    (name.trim_ascii(), value.strip_prefix(b"=").unwrap_or(value).trim_ascii())
}

/// token68 (RFC 9110, section 11.2), which all our values are.
fn is_value(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte))
}

fn header(cookie: CookieBuilder<'_>) -> Result<HeaderValue, InvalidCookie> {
    let mut value = HeaderValue::try_from(cookie.build().to_string()).map_err(|_| InvalidCookie)?;
    // Kept out of HPACK's tables and of debug output.
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(https: bool, domain: Option<&str>) -> Names {
        let cookie = config::Cookie { name: STEM.to_owned(), domain: domain.map(str::to_owned), same_site: config::SameSite::Lax };
        Names::from(&cookie, https)
    }

    fn headers<V: AsRef<[u8]>>(lines: &[V]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_bytes(line.as_ref()).unwrap())).collect()
    }

    fn stripped(lines: &[&str]) -> Vec<String> {
        let mut headers = headers(lines);
        strip_ours(&mut headers);
        headers.get_all(COOKIE).iter().map(|line| String::from_utf8(line.as_bytes().to_vec()).unwrap()).collect()
    }

    fn texts(values: &[HeaderValue]) -> Vec<String> {
        values.iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn names_bear_the_strongest_prefix_there_is() {
        assert_eq!(names(true, None).session.as_str(), "__Host-nullpass");
        assert_eq!(names(true, None).device.as_str(), "__Host-nullpass-device");
        assert_eq!(names(true, Some("example.com")).pre.as_str(), "__Secure-nullpass-pre");
        assert_eq!(names(false, None).session.as_str(), "nullpass");
        assert_eq!(names(false, Some("example.com")).device.as_str(), "nullpass-device");
        let cookie = config::Cookie { name: "nullpass-b".to_owned(), domain: None, same_site: config::SameSite::Strict };
        assert_eq!(Names::from(&cookie, true).session.as_str(), "__Host-nullpass-b");
    }

    #[test]
    fn cookies_are_set_with_every_attribute() {
        let set = |names: &Names, age| names.set(&names.session, "a.b-c_d", age).unwrap();
        let host = set(&names(true, None), Some(Duration::from_hours(1)));
        assert_eq!(host, "__Host-nullpass=a.b-c_d; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=3600");
        assert!(host.is_sensitive());
        assert_eq!(
            set(&names(true, Some("example.com")), None),
            "__Secure-nullpass=a.b-c_d; HttpOnly; SameSite=Lax; Secure; Path=/; Domain=example.com"
        );
        assert_eq!(set(&names(false, None), None), "nullpass=a.b-c_d; HttpOnly; SameSite=Lax; Path=/");
        for bad in ["", "a b", "a;b", "a\r\nb", "a,b", "\"a\"", "é", &"a".repeat(4097)] {
            assert_eq!(names(true, None).set(&names(true, None).session, bad, None), Err(InvalidCookie), "{bad:?}");
        }
    }

    #[test]
    fn expiring_reaches_every_variant() {
        let expire = |names: Names| texts(&names.expire(&names.session));
        let gone = "Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT";
        let with_domain = "Path=/; Domain=e.com; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT";
        assert_eq!(expire(names(false, None)), [format!("nullpass=; HttpOnly; SameSite=Lax; {gone}")]);
        assert_eq!(
            expire(names(true, None)),
            ["__Host-nullpass", "__Secure-nullpass", "nullpass"].map(|name| format!("{name}=; HttpOnly; SameSite=Lax; Secure; {gone}"))
        );
        assert_eq!(
            expire(names(true, Some("e.com"))),
            [
                ("__Secure-nullpass", gone),
                ("__Secure-nullpass", with_domain),
                ("__Host-nullpass", gone),
                ("nullpass", gone),
                ("nullpass", with_domain)
            ]
            .map(|(name, rest)| format!("{name}=; HttpOnly; SameSite=Lax; Secure; {rest}"))
        );
    }

    // FAIL-1, HDR-4: one value, or none.
    #[test]
    fn two_different_sessions_count_as_none() {
        let names = names(true, None);
        let find = |lines: &[&str]| match find(&headers(lines), &names.session) {
            Found::None => "none".to_owned(),
            Found::One(value) => value.to_owned(),
            Found::Conflict => "conflict".to_owned(),
        };
        let long = format!("__Host-nullpass={}", "a".repeat(4097));
        for (lines, expected) in [
            (vec![], "none"),
            (vec!["a=b; c=d"], "none"),
            (vec!["nullpass=x"], "none"),
            (vec!["__host-nullpass=x"], "none"),
            (vec!["__Host-nullpass-device=x"], "none"),
            (vec!["__Host-nullpass=x"], "x"),
            (vec!["a=b; __Host-nullpass=x==;c=d"], "x=="),
            (vec!["a=b", " __Host-nullpass = x "], "x"),
            (vec!["__Host-nullpass=x; __Host-nullpass=x", "__Host-nullpass=x"], "x"),
            (vec!["__Host-nullpass=x; nullpass=x"], "x"),
            (vec!["__Host-nullpass=x; __Host-nullpass=y"], "conflict"),
            (vec!["__Host-nullpass=x", "__Host-nullpass=y"], "conflict"),
            (vec!["__Host-nullpass=x; __Host-nullpass="], "conflict"),
            (vec!["__Host-nullpass=x; nullpass=y"], "conflict"),
            (vec!["nullpass=y; __Host-nullpass=x"], "conflict"),
            (vec!["__Secure-nullpass=y; __Host-nullpass=x"], "conflict"),
            (vec!["__Host-nullpass"], "conflict"),
            (vec!["__Host-nullpass="], "conflict"),
            (vec!["__Host-nullpass=\"x\""], "conflict"),
            (vec!["__Host-nullpass=x y"], "conflict"),
            (vec!["__Host-nullpass=é"], "conflict"),
            (vec![long.as_str()], "conflict"),
        ] {
            assert_eq!(find(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn ours_are_known_by_their_beginning() {
        for name in
            ["nullpass", "nullpass-device", "nullpassword", "NullPass", "__Host-nullpass", "__Secure-nullpass-pre", "__HOST-NULLPASS"]
        {
            assert!(is_ours(name.as_bytes()), "{name}");
        }
        for name in ["", "null", "xnullpass", "__Host-", "__Host-x", "__Http-nullpass", "_nullpass"] {
            assert!(!is_ours(name.as_bytes()), "{name}");
        }
        let sets = |value: &str| sets_ours(&HeaderValue::from_str(value).unwrap());
        for value in ["nullpass=x", "nullpass", " nullpass =x; Path=/", "=nullpass=x", "= =__Host-nullpass=x", "NULLPASS-a=x"] {
            assert!(sets(value), "{value}");
        }
        for value in ["a=nullpass", "a=b; nullpass=x", "", ";nullpass=x"] {
            assert!(!sets(value), "{value}");
        }
    }

    #[test]
    fn ours_are_stripped_and_nothing_else() {
        for (lines, expected) in [
            (vec!["a=b;  c = d;;e;"], vec!["a=b;  c = d;;e;"]),
            (vec!["nullpass=x"], vec![]),
            (vec!["nullpass=x; a=b"], vec!["a=b"]),
            (vec!["a=b; nullpass=x"], vec!["a=b"]),
            (vec!["a=b; nullpass=x; c=d"], vec!["a=b; c=d"]),
            (vec!["a=b;nullpass=x;c=\"d\";; e"], vec!["a=b;c=\"d\";; e"]),
            (vec!["__Host-nullpass=x; nullpass-device=y; a=nullpass; NULLPASS=z"], vec!["a=nullpass"]),
            (vec!["=nullpass=x; a=b"], vec!["a=b"]),
            (vec!["a=b", "nullpass=x", "c=d;  nullpass"], vec!["a=b", "c=d"]),
        ] {
            assert_eq!(stripped(&lines), expected, "{lines:?}");
        }
        let mut binary = headers(&[&b"a=\xff\xfe; nullpass=x; b=\x80"[..]]);
        strip_ours(&mut binary);
        assert_eq!(binary[COOKIE].as_bytes(), b"a=\xff\xfe; b=\x80");
    }

    proptest! {
        #[test]
        fn no_cookie_of_ours_is_left_and_all_others_are(pairs in prop::collection::vec("(nullpass|__Host-nullpass|__Secure-nullpass|a|bc|=| ){0,2}(=[a-z\" =]{0,3})?", 0..6)) {
            let line = pairs.join(";");
            let left = stripped(&[line.trim_matches(' ')]).concat();
            prop_assert!(left.split(';').all(|pair| !is_ours(split_pair(pair.as_bytes()).0)), "{}", left);
            let others = |line: &str| line.split(';').map(str::trim).filter(|pair| !pair.is_empty() && !is_ours(split_pair(pair.as_bytes()).0)).map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(others(&left), others(&line));
            let left = headers(&[left.as_str()]);
            prop_assert_eq!(find(&left, &names(false, None).session), Found::None);
        }
    }
}
