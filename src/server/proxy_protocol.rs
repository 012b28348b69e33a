//! The PROXY protocol, versions 1 and 2 (haproxy.org/download/3.0/doc/proxy-protocol.txt): a proxy that carries bytes says
//! first whose they are. A pure parser, and the reader in front of a connection that uses it.
//!
//! It never reads past the line, takes no more than 4 KiB, and whatever is not exactly such a line is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a version 2 header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, with its CR LF.
const LONGEST_V1: usize = 107;

/// The fixed part of version 2.
const FIXED_V2: usize = 16;

/// The longest header of version 2 that is taken: addresses need 36 bytes, the rest is room for what nobody reads (TLVs).
const MOST: usize = 4096;

/// The shortest line there is, `PROXY UNKNOWN\r\n`: that many bytes can be read without reading past it.
const SHORTEST: usize = 15;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The client, and the address that it connected to.
    Addresses {
        /// The client.
        source: SocketAddr,
        /// Where it went.
        destination: SocketAddr,
    },
    /// The proxy itself (`LOCAL`), or it can't say (`UNKNOWN`, another family): the connection's own addresses count.
    Own,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header of so many bytes.
    Whole(Told, usize),
    /// The beginning of one, which needs at least so many bytes more.
    Partial(usize),
    /// No such header.
    Invalid,
}

/// Reads a header at the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let same = bytes.len().min(SIGNATURE.len());
    if bytes.get(..same) == SIGNATURE.get(..same) && !bytes.is_empty() {
        return version_2(bytes).unwrap_or(Parsed::Invalid);
    }
    version_1(bytes)
}

fn version_2(bytes: &[u8]) -> Option<Parsed> {
    let Some(fixed) = bytes.first_chunk::<FIXED_V2>() else { return Some(Parsed::Partial(FIXED_V2 - bytes.len())) };
    let [.., version_command, family, high, low] = *fixed;
    let length = FIXED_V2 + usize::from(u16::from_be_bytes([high, low]));
    if length > MOST || version_command >> 4 != 2 {
        return None;
    }
    let local = match version_command & 0xf {
        0 => true,
        1 => false,
        _ => return None,
    };
    let Some(rest) = bytes.get(FIXED_V2..length) else { return Some(Parsed::Partial(length - bytes.len())) };
    // The transport is 0 (unknown), 1 (stream) or 2 (datagram); the family unspecified, IPv4, IPv6 or unix.
    let told = match (family >> 4, family & 0xf) {
        (0..=3, 0..=2) if local => Told::Own,
        (1, 1) => {
            let (source, more) = rest.split_first_chunk::<4>()?;
            let (destination, more) = more.split_first_chunk::<4>()?;
            addresses(Ipv4Addr::from(*source).into(), Ipv4Addr::from(*destination).into(), *more.first_chunk::<4>()?)
        }
        (2, 1) => {
            let (source, more) = rest.split_first_chunk::<16>()?;
            let (destination, more) = more.split_first_chunk::<16>()?;
            addresses(Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), *more.first_chunk::<4>()?)
        }
        (0, 0..=2) | (1..=3, 0) | (3, 1) => Told::Own,
        // A datagram can't have come by a stream; the others are reserved.
        _ => return None,
    };
    Some(Parsed::Whole(told, length))
}

fn addresses(source: IpAddr, destination: IpAddr, [a, b, c, d]: [u8; 4]) -> Told {
    Told::Addresses {
        source: SocketAddr::new(source.to_canonical(), u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination.to_canonical(), u16::from_be_bytes([c, d])),
    }
}

fn version_1(bytes: &[u8]) -> Parsed {
    const NAME: &[u8] = b"PROXY ";
    let same = bytes.len().min(NAME.len());
    if bytes.get(..same) != NAME.get(..same) {
        return Parsed::Invalid;
    }
    let line = bytes.get(..bytes.len().min(LONGEST_V1)).unwrap_or_default();
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        // At least the rest of the shortest line is still to come, afterwards its CR LF or, after a CR, its LF.
        let more = SHORTEST.saturating_sub(line.len()).max(if line.ends_with(b"\r") { 1 } else { 2 });
        let fits = line.len() + 2 - usize::from(line.ends_with(b"\r")) <= LONGEST_V1;
        return if fits { Parsed::Partial(more) } else { Parsed::Invalid };
    };
    let text = line.get(..end).and_then(|line| std::str::from_utf8(line).ok());
    match text.and_then(told_by_line) {
        Some(told) => Parsed::Whole(told, end + 2),
        None => Parsed::Invalid,
    }
}

fn told_by_line(line: &str) -> Option<Told> {
    let rest = line.strip_prefix("PROXY ")?;
    // What follows UNKNOWN must be ignored.
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return Some(Told::Own);
    }
    let mut words = rest.split(' ');
    let (family, source, destination) = (words.next()?, words.next()?, words.next()?);
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let (source, destination): (IpAddr, IpAddr) = match family {
        "TCP4" => (source.parse::<Ipv4Addr>().ok()?.into(), destination.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (source.parse::<Ipv6Addr>().ok()?.into(), destination.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    Some(Told::Addresses {
        source: SocketAddr::new(source.to_canonical(), from),
        destination: SocketAddr::new(destination.to_canonical(), to),
    })
}

/// A decimal number without sign and without a leading zero.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Reads the header that `stream` has to begin with and nothing beyond it; `None`: it does not.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Told> {
    let mut bytes = Vec::with_capacity(LONGEST_V1);
    loop {
        match parse(&bytes) {
            Parsed::Whole(told, _) => return Some(told),
            Parsed::Invalid => return None,
            Parsed::Partial(more) => {
                let start = bytes.len();
                // The empty beginning could be either; the shorter of both is version 1's.
                bytes.resize(start + if start == 0 { SHORTEST } else { more }, 0);
                let room = bytes.get_mut(start..)?;
                stream.read_exact(room).await.ok()?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from(source: &str, destination: &str) -> Told {
        Told::Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
    }

    const ADDRESSES_4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

    #[test]
    fn the_specifications_examples() {
        let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(parse(line), Parsed::Whole(from("192.168.0.1:56324", "192.168.0.11:443"), 47));
        let longest = b"PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        assert_eq!(parse(longest), Parsed::Invalid);
        let six = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert_eq!(parse(six.as_bytes()), Parsed::Whole(from(all, all), 104));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Parsed::Whole(Told::Own, 15));
        let unknown = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!((unknown.len(), parse(unknown.as_bytes())), (107, Parsed::Whole(Told::Own, 107)));
    }

    #[test]
    fn version_2_in_all_its_families() {
        assert_eq!(parse(&v2(1, 0x11, &ADDRESSES_4)), Parsed::Whole(from("192.0.2.7:56324", "198.51.100.1:443"), 28));
        let tlv = [&ADDRESSES_4[..], &[4, 0, 3, 1, 2, 3]].concat();
        assert_eq!(parse(&v2(1, 0x11, &tlv)), Parsed::Whole(from("192.0.2.7:56324", "198.51.100.1:443"), 34));
        let six = [&Ipv6Addr::LOCALHOST.octets()[..], &"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets(), &[0, 1, 0, 2]].concat();
        assert_eq!(parse(&v2(1, 0x21, &six)), Parsed::Whole(from("[::1]:1", "[2001:db8::1]:2"), 52));
        let mapped = "::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets();
        let mapped = [&mapped[..], &mapped, &[0, 1, 0, 2]].concat();
        assert_eq!(parse(&v2(1, 0x21, &mapped)), Parsed::Whole(from("192.0.2.7:1", "192.0.2.7:2"), 52));
        assert_eq!(parse(&v2(0, 0x00, &[])), Parsed::Whole(Told::Own, 16));
        assert_eq!(parse(&v2(0, 0x11, &ADDRESSES_4)), Parsed::Whole(Told::Own, 28));
        assert_eq!(parse(&v2(1, 0x00, b"whatever")), Parsed::Whole(Told::Own, 24));
        assert_eq!(parse(&v2(1, 0x31, &[0; 216])), Parsed::Whole(Told::Own, 232));
    }

    #[test]
    fn what_is_no_such_line_is_refused() {
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 1\r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 443\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY tcp4 192.0.2.7 198.51.100.1 1 2\r\n",
            "proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n\r\n",
            "PROXY \u{fc}\r\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), Parsed::Invalid, "{bad}");
        }
        assert_eq!(parse(&[b"PROXY UNKNOWN ", &[b'x'; 200][..], b"\r\n"].concat()), Parsed::Invalid);
        assert_eq!(parse(&v2(2, 0x11, &ADDRESSES_4)), Parsed::Invalid);
        assert_eq!(parse(&v2(1, 0x12, &ADDRESSES_4)), Parsed::Invalid);
        assert_eq!(parse(&v2(1, 0x41, &ADDRESSES_4)), Parsed::Invalid);
        assert_eq!(parse(&v2(1, 0x11, &ADDRESSES_4[..11])), Parsed::Invalid);
        assert_eq!(parse(&v2(1, 0x21, &ADDRESSES_4)), Parsed::Invalid);
        let mut version_1_as_2 = v2(1, 0x11, &ADDRESSES_4);
        version_1_as_2[12] = 0x11;
        assert_eq!(parse(&version_1_as_2), Parsed::Invalid);
        assert_eq!(parse(&v2(1, 0x11, &vec![0; MOST])), Parsed::Invalid);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64), v2 in any::<bool>()) {
            let bytes = if v2 { [&SIGNATURE[..], &bytes].concat() } else { [b"PROXY ", &bytes[..]].concat() };
            if let Parsed::Whole(_, length) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        // However it comes in pieces: it is understood, asks for no byte beyond its end, and never for none.
        #[test]
        fn lines_are_read_to_their_end_and_no_further(
            source: SocketAddr, destination: SocketAddr, version_2: bool, tlv in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            let (v4, header) = match (source, destination) {
                (SocketAddr::V4(a), SocketAddr::V4(b)) => {
                    let rest = [&a.ip().octets()[..], &b.ip().octets(), &a.port().to_be_bytes(), &b.port().to_be_bytes(), &tlv].concat();
                    (true, v2(1, 0x11, &rest))
                }
                (SocketAddr::V6(a), SocketAddr::V6(b)) => {
                    let rest = [&a.ip().octets()[..], &b.ip().octets(), &a.port().to_be_bytes(), &b.port().to_be_bytes(), &tlv].concat();
                    (false, v2(1, 0x21, &rest))
                }
                _ => return Ok(()),
            };
            let line = format!(
                "PROXY TCP{} {} {} {} {}\r\n", if v4 { 4 } else { 6 }, source.ip(), destination.ip(), source.port(), destination.port()
            );
            let header = if version_2 { header } else { line.into_bytes() };
            for length in 0..header.len() {
                match parse(&header[..length]) {
                    Parsed::Partial(more) => prop_assert!(more > 0 && (length == 0 || length + more <= header.len())),
                    other @ (Parsed::Whole(..) | Parsed::Invalid) => prop_assert!(false, "{other:?} at {length}"),
                }
            }
            let told = Told::Addresses {
                source: SocketAddr::new(source.ip().to_canonical(), source.port()),
                destination: SocketAddr::new(destination.ip().to_canonical(), destination.port()),
            };
            prop_assert_eq!(parse(&[&header[..], b"GET / HTTP/1.1\r\n"].concat()), Parsed::Whole(told, header.len()));
        }
    }
}
