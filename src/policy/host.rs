//! Host names in the one form that rules compare (requirement HOST-1): lower case, punycode, without port and
//! trailing dot, addresses as the standard library writes them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// A host in its canonical form: a DNS name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);

impl Host {
    /// Longest name in bytes (RFC 1035, section 2.3.4, without the root's dot).
    pub const MAX_BYTES: usize = 253;

    /// Reads `host` or `host:port` as it stands in `Host`, `:authority` or an absolute request target.
    ///
    /// Refused beside what is no host at all: userinfo, an empty port, and names that end in a number without being
    /// a dotted IPv4 address (`127.1`, `0x7f.0.0.1`), which others read as one (WHATWG URL, section 3.5).
    pub fn parse(authority: &str) -> Result<(Self, Option<u16>), HostError> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(HostError)?;
                let address: Ipv6Addr = address.parse().map_err(|_| HostError)?;
                let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(HostError)?) };
                (format!("[{address}]"), port)
            }
            None => match authority.split_once(':') {
                Some((name, port)) => (canonical_name(name)?, Some(port)),
                None => (canonical_name(authority)?, None),
            },
        };
        Ok((Self(host), port.map(parse_port).transpose()?))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `pattern`, which must be canonical (see [`canonical_pattern`]), is this host or, written
    /// `*.example.com`, stands for it: one or more labels in front, never `example.com` itself.
    pub fn matches(&self, pattern: &str) -> bool {
        match pattern.strip_prefix('*') {
            Some(suffix) => suffix.starts_with('.') && self.0.len() > suffix.len() && self.0.ends_with(suffix),
            None => self.0 == pattern,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Brings an operator's host pattern, exact or `*.example.com`, to the form that [`Host::matches`] compares with.
/// A port is refused: rules select by name alone.
pub fn canonical_pattern(pattern: &str) -> Result<String, HostError> {
    let (wildcard, name) = pattern.strip_prefix("*.").map_or(("", pattern), |name| ("*.", name));
    match Host::parse(name)? {
        (host, None) if wildcard.is_empty() || !is_address(host.as_str()) => Ok(format!("{wildcard}{host}")),
        _ => Err(HostError),
    }
}

/// A text that is not a host with an optional port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a valid host")]
pub struct HostError;

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok()
}

fn parse_port(digits: &str) -> Result<u16, HostError> {
    // `parse` would take "+80".
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostError);
    }
    digits.parse().map_err(|_| HostError)
}

/// A DNS name or an IPv4 address.
fn canonical_name(name: &str) -> Result<String, HostError> {
    let plain = name.is_ascii() && !contains_punycode(name);
    let mut name = if plain { name.to_ascii_lowercase() } else { idna::domain_to_ascii(name).map_err(|_| HostError)? };
    if name.ends_with('.') {
        name.pop();
    }
    // Underscores are no host name characters (RFC 1123, section 2.1), but containers and services bear them.
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    if name.len() > Host::MAX_BYTES {
        return Err(HostError);
    }
    // Label by label, in one walk over the bytes: every request's host comes by here.
    let mut label = 0;
    for byte in name.bytes().chain([b'.']) {
        if byte == b'.' && (1..=63).contains(&label) {
            label = 0;
        } else if allowed(byte) {
            label += 1;
        } else {
            return Err(HostError);
        }
    }
    if ends_in_number(&name) && name.parse::<Ipv4Addr>().is_err() {
        return Err(HostError);
    }
    Ok(name)
}

/// Whether a label begins with `xn--` and has to pass IDNA's own checks.
fn contains_punycode(name: &str) -> bool {
    // Hardly any name has two hyphens in a row.
    let may = name.as_bytes().windows(2).any(|pair| pair == b"--");
    may && name.split('.').any(|label| label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--")))
}

/// WHATWG URL's "ends in a number": then the whole name is an address to many programs.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(authority: &str) -> String {
        Host::parse(authority).unwrap().0.to_string()
    }

    // HOST-1: one spelling.
    #[test]
    fn hosts_have_one_spelling() {
        for (given, canonical, port) in [
            ("example.com", "example.com", None),
            ("a.B.Example.COM", "a.b.example.com", None),
            ("example.com.", "example.com", None),
            ("Example.com.:8443", "example.com", Some(8443)),
            ("localhost:080", "localhost", Some(80)),
            ("my_app.internal", "my_app.internal", None),
            ("a--b.example", "a--b.example", None),
            ("bücher.example", "xn--bcher-kva.example", None),
            ("BÜCHER.example:1", "xn--bcher-kva.example", Some(1)),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example", None),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah", None),
            ("ｅxample.com", "example.com", None),
            ("127.0.0.1:9", "127.0.0.1", Some(9)),
            ("[::1]", "[::1]", None),
            ("[0:0::0001]:65535", "[::1]", Some(65535)),
            ("[2001:DB8::A]", "[2001:db8::a]", None),
        ] {
            assert_eq!(Host::parse(given), Ok((Host(canonical.to_owned()), port)), "{given}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for given in [
            "",
            ".",
            "..",
            ":80",
            "a..b",
            ".a",
            "a..",
            "user@example.com",
            "user:pw@example.com",
            "example.com/",
            "example.com/x",
            "a b",
            " a",
            "a ",
            "a\tb",
            "a\0",
            "a%2eb",
            "a?b",
            "a#b",
            "a\\b",
            "a,b",
            "a;b",
            "*.example.com",
            "*",
            "<a>",
            "\"a\"",
            "example.com:",
            "example.com:+80",
            "example.com:65536",
            "example.com:8 0",
            "example.com:80:80",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[::1]80",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "[127.0.0.1]",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "0x7f000001",
            "127.0.0.0x1",
            "127.0.0.01",
            "1.2.3.4.5",
            "256.0.0.1",
            "xn--a.example",
            "xn--.example",
        ] {
            assert_eq!(Host::parse(given), Err(HostError), "{given}");
        }
        assert!(Host::parse(&"a".repeat(64)).is_err());
        assert!(Host::parse(&["a"; 128].join(".")).is_err());
        assert!(Host::parse(&["a"; 127].join(".")).is_ok());
    }

    #[test]
    fn patterns_select_whole_labels() {
        let matches = |authority: &str, pattern: &str| Host::parse(authority).unwrap().0.matches(&canonical_pattern(pattern).unwrap());
        assert!(matches("App.example.com:1", "app.example.com."));
        assert!(matches("app.example.com", "*.example.com"));
        assert!(matches("a.b.example.com.", "*.Example.com"));
        assert!(matches("a.bücher.example", "*.bücher.example"));
        assert!(!matches("example.com", "*.example.com"));
        assert!(!matches("badexample.com", "*.example.com"));
        assert!(!matches("example.com.evil.test", "example.com"));
        assert!(!Host::parse("example.com").unwrap().0.matches("*example.com"));
        assert!(!Host::parse("example.com").unwrap().0.matches("*"));
        for pattern in ["*", "*.", "a.*.b", "**.a", "a:80", "*.1.2.3.4", "*.[::1]", "*.0.1", "a/b", ""] {
            assert_eq!(canonical_pattern(pattern), Err(HostError), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(given in "[a-zA-Z0-9._:\\[\\]éß%@-]{0,20}|\\PC{0,12}") {
            if let Ok((parsed, _)) = Host::parse(&given) {
                prop_assert_eq!(host(parsed.as_str()), parsed.as_str());
                prop_assert!(parsed.as_str().is_ascii());
                prop_assert!(!parsed.as_str().bytes().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_control() || b" /@%\\".contains(&byte)));
            }
        }

        // HOST-1: the short way for plain names reads what IDNA and a look at each label read.
        #[test]
        fn plain_names_need_no_idna(given in "([a-zA-Z0-9_-]{0,5}|[xX][nN]--[a-z0-9-]{0,8}|0[xX][0-9a-g]{0,3}|[0-9]{1,3}|é|[ %@/*])(\\.([a-zA-Z0-9_-]{1,5}|(?i:xn)--[a-z0-9-]{0,8}|0x[0-9a-g]{0,3}|[0-9]{1,3})){0,4}\\.?") {
            let naive = || {
                let name = idna::domain_to_ascii(&given).ok()?;
                let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
                let is_label = |label: &str| !label.is_empty() && label.len() <= 63 && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
                let last = name.rsplit('.').next()?;
                let hexadecimal = last.strip_prefix("0x").is_some_and(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
                let numeric = hexadecimal || last.chars().all(|c| c.is_ascii_digit());
                let sound = name.len() <= Host::MAX_BYTES && name.split('.').all(is_label) && (!numeric || name.parse::<Ipv4Addr>().is_ok());
                sound.then_some(name)
            };
            prop_assert_eq!(Host::parse(&given).ok().map(|(host, _)| host.0), naive());
        }

        #[test]
        fn case_and_trailing_dot_never_matter(name in "[a-z_-]{1,8}(\\.[a-z_-]{1,8}){0,3}", flips in any::<u32>(), dot in any::<bool>()) {
            let mut odd: String =
                name.chars().enumerate().map(|(at, c)| if flips >> (at % 32) & 1 == 1 { c.to_ascii_uppercase() } else { c }).collect();
            if dot {
                odd.push('.');
            }
            prop_assert_eq!(Host::parse(&odd), Host::parse(&name));
        }
    }
}
