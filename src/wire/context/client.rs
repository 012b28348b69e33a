//! Whose request it is. Everybody can write anything into `X-Forwarded-For`; only what a trusted proxy appended is
//! known, and it is appended at the right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};

use super::{ContextError, check_ascii};
use crate::policy::network::Networks;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// See the fields of the same names in [`super::Context`]; `address` is its `client`.
pub(super) struct Client {
    pub(super) peer: Option<IpAddr>,
    pub(super) peer_trusted: bool,
    pub(super) address: IpAddr,
    pub(super) undeclared: bool,
}

/// The peer, or when it is trusted, the rightmost address that is not a trusted proxy's: in `X-Forwarded-For` (all
/// lines of it), or where there is none, in the `for` of `Forwarded` (RFC 7239), never in both. The walk ends before
/// an entry that is no address: nothing to the left of it can be told from what the client made up.
pub(super) fn read(headers: &HeaderMap, peer: Option<IpAddr>, trusted: &Networks) -> Result<Client, ContextError> {
    let peer = peer.map(|address| address.to_canonical());
    let mut address = peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let peer_trusted = trusted.contains(address) || (peer.is_none() && trusted.contains(IpAddr::V6(Ipv6Addr::LOCALHOST)));
    if !peer_trusted {
        let undeclared = is_private(address) && (headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED));
        return Ok(Client { peer, peer_trusted, address, undeclared });
    }
    check_ascii(headers, &X_FORWARDED_FOR, "X-Forwarded-For")?;
    check_ascii(headers, &FORWARDED, "Forwarded")?;
    let entries = if headers.contains_key(X_FORWARDED_FOR) { x_forwarded_for(headers) } else { forwarded_for(headers) };
    for entry in entries.into_iter().rev() {
        let Some(entry) = entry else { break };
        address = entry;
        if !trusted.contains(address) {
            break;
        }
    }
    Ok(Client { peer, peer_trusted, address, undeclared: false })
}

/// Every entry from left to right; `None`: no address.
fn x_forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter();
    lines.flat_map(|line| line.to_str().unwrap_or_default().split(',').map(|entry| parse_address(entry.trim()))).collect()
}

/// Every element's `for` from left to right; `None`: no address, several, or none said.
fn forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(FORWARDED).iter();
    lines.flat_map(|line| split_unquoted(line.to_str().unwrap_or_default(), ',').into_iter().map(element_for)).collect()
}

fn element_for(element: &str) -> Option<IpAddr> {
    if element.contains('\\') || !element.matches('"').count().is_multiple_of(2) {
        return None;
    }
    let pairs = split_unquoted(element, ';');
    let mut values = pairs.iter().filter_map(|pair| pair.split_once('=')).filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    let (Some((_, value)), None) = (values.next(), values.next()) else { return None };
    let value = value.trim();
    parse_address(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// The parts between separators that stand outside quotes, from left to right. Quotes are paired from the right, where the
/// proxies append: a quote that the client left open can hide nothing but what is left of it. Escaped quotes are quotes here,
/// which splits too much; an element with a backslash is therefore none that is believed.
fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    let outside = |c: char| {
        quoted ^= c == '"';
        c == separator && !quoted
    };
    let mut parts: Vec<&str> = text.rsplit(outside).collect();
    parts.reverse();
    parts
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:4711`.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    // A zone (`%eth0`) means something on one machine only.
    let with_port = || text.parse::<SocketAddr>().ok().filter(|_| !text.contains('%')).map(|address| address.ip());
    text.parse().ok().or_else(bracketed).or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

/// Ranges that are not routed on the internet: RFC 1918, RFC 6598, RFC 4193, link-local and loopback.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || (a == 100 && b & 0xC0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRUSTED: &str = "10.0.0.0/8";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn client(peer: &str, lines: &[(&'static str, &str)]) -> String {
        let trusted = Networks::new(&[TRUSTED.parse().unwrap()]);
        read(&headers(lines), peer.parse().ok(), &trusted).unwrap().address.to_string()
    }

    // NP-9, FWD-3: nobody but a trusted proxy says who the client is.
    #[test]
    fn only_trusted_peers_are_believed() {
        let lies = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=2.2.2.2"), ("x-real-ip", "3.3.3.3"), ("x-client-ip", "4.4.4.4")];
        assert_eq!(client("192.0.2.1", &lies), "192.0.2.1");
        assert_eq!(client("::ffff:192.0.2.1", &lies), "192.0.2.1");
        assert_eq!(client("unix", &lies), "127.0.0.1");
        assert_eq!(client("10.0.0.1", &lies), "1.1.1.1");
        assert_eq!(client("::ffff:10.0.0.1", &lies), "1.1.1.1");
    }

    #[test]
    fn the_rightmost_untrusted_address_counts() {
        for (value, expected) in [
            ("1.1.1.1", "1.1.1.1"),
            ("9.9.9.9, 1.1.1.1", "1.1.1.1"),
            ("9.9.9.9, 1.1.1.1, 10.0.0.2 ,10.0.0.3", "1.1.1.1"),
            ("10.0.0.4, 10.0.0.3", "10.0.0.4"),
            ("1.1.1.1:4711, ::ffff:10.0.0.2", "1.1.1.1"),
            ("::ffff:1.1.1.1", "1.1.1.1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", value)]), expected, "{value}");
        }
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", "9.9.9.9"), ("x-forwarded-for", "1.1.1.1, 10.0.0.2")]), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    // FAIL-3: what can't be read is never skipped.
    #[test]
    fn an_unreadable_entry_ends_the_walk() {
        for junk in [
            "unknown",
            "_hidden",
            "",
            "1.1.1",
            "1.1.1.1.",
            "01.1.1.1",
            "0x1.1.1.1",
            "1.1.1.1%eth0",
            "localhost",
            "\"1.1.1.1\"",
            "1.1.1.1:x",
            "fe80::1%1",
            "[fe80::1%1]:80",
        ] {
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", junk)]), "10.0.0.1", "{junk}");
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &format!("9.9.9.9, {junk}"))]), "10.0.0.1", "{junk}");
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &format!("9.9.9.9, {junk}, 10.0.0.2"))]), "10.0.0.2", "{junk}");
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &format!("{junk}, 1.1.1.1"))]), "1.1.1.1", "{junk}");
        }
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", "junk"), ("forwarded", "for=1.1.1.1")]), "10.0.0.1");
    }

    #[test]
    fn forwarded_is_read_where_nothing_else_is_said() {
        for (value, expected) in [
            ("for=1.1.1.1", "1.1.1.1"),
            ("proto=https; For=1.1.1.1 ;by=10.0.0.1", "1.1.1.1"),
            ("for=9.9.9.9, for=1.1.1.1, for=10.0.0.2", "1.1.1.1"),
            ("for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("for=\"1.1.1.1:80\"", "1.1.1.1"),
            ("for=1.1.1.1;host=\"a,b;for=9.9.9.9\"", "1.1.1.1"),
            ("for=unknown", "10.0.0.1"),
            ("for=9.9.9.9, for=_secret", "10.0.0.1"),
            ("for=9.9.9.9, by=10.0.0.2", "10.0.0.1"),
            ("for=9.9.9.9;for=8.8.8.8", "10.0.0.1"),
            ("for=9.9.9.9;host=\"open", "10.0.0.1"),
            ("for=\"\\1.1.1.1\"", "10.0.0.1"),
            ("", "10.0.0.1"),
            // An open quote hid what the trusted proxy appended, and the client was the proxy itself.
            ("x=\", for=1.1.1.1", "1.1.1.1"),
            ("for=9.9.9.9;host=\"a, for=\"[2001:db8::1]\";host=\"b,c\"", "2001:db8::1"),
            ("host=\"a\\\"b\", for=1.1.1.1", "1.1.1.1"),
            ("for=1.1.1.1;host=\"\\\", for=6.6.6.6, x=\\\"\"", "10.0.0.1"),
            ("for=1.1.1.1;host=\"\\\", for=6.6.6.6;x=\\\"\"", "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("forwarded", value)]), expected, "{value}");
        }
    }

    #[test]
    fn undeclared_proxies_are_noticed() {
        let undeclared = |peer: &str, lines: &[(&'static str, &str)]| {
            read(&headers(lines), peer.parse().ok(), &Networks::new(&[TRUSTED.parse().unwrap()])).unwrap().undeclared
        };
        let forwarded = [("x-forwarded-for", "1.1.1.1")];
        for peer in [
            "172.16.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.0.1",
            "fd00::1",
            "fe80::1",
            "::1",
            "unix",
            "::ffff:192.168.0.1",
        ] {
            assert!(undeclared(peer, &forwarded), "{peer}");
            assert!(!undeclared(peer, &[]), "{peer}");
        }
        for peer in ["10.0.0.1", "192.0.2.1", "100.128.0.1", "2001:db8::1"] {
            assert!(!undeclared(peer, &forwarded), "{peer}");
        }
    }

    #[test]
    fn a_unix_socket_is_trusted_like_loopback() {
        let trust = |network: &str| read(&HeaderMap::new(), None, &Networks::new(&[network.parse().unwrap()])).unwrap().peer_trusted;
        assert!(trust("127.0.0.1/32"));
        assert!(trust("::1/128"));
        assert!(!trust("10.0.0.0/8"));
    }

    proptest! {
        // Whatever a client writes, it can't choose an address once a trusted proxy has appended the true one.
        #[test]
        fn a_client_can_not_choose_its_address(lie in "[0-9a-f:., \"\\[\\]unkow=;]{0,40}") {
            prop_assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &lie), ("x-forwarded-for", "192.0.2.7, 10.0.0.2")]), "192.0.2.7");
            prop_assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &format!("{lie}, 192.0.2.7"))]), "192.0.2.7");
            prop_assert_eq!(client("192.0.2.7", &[("x-forwarded-for", &lie), ("forwarded", &lie)]), "192.0.2.7");
        }
    }
}
