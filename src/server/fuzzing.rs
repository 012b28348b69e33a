//! What must hold for any bytes that a connection may begin with where a PROXY line is due: for the fuzzer, and for the
//! tests that replay its corpus.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::proxy_protocol::{self, Parsed, Told};

/// The longest header that may be waited for, in bytes.
const MOST: usize = 4096;

/// Reads a PROXY line, as it grows byte by byte: what it is does not change any more once it is known, it is never asked for
/// bytes beyond its end, and it says what a simple reader makes of it.
///
/// # Panics
///
/// If something that must hold does not.
pub fn proxy_line(data: &[u8]) {
    // What has been said so far decides what may follow.
    let mut ends_at_least = 0;
    let mut known: Option<Parsed> = None;
    for length in 0..=data.len().min(600) {
        let Some(bytes) = data.get(..length) else { return };
        let parsed = proxy_protocol::parse(bytes);
        match (known, parsed) {
            (Some(before), now) => assert_eq!(before, now, "more bytes change what it is"),
            (None, Parsed::Partial(more)) => {
                assert!(more > 0 && length + more <= MOST, "{more} bytes more than {length}");
                ends_at_least = ends_at_least.max(length + more);
            }
            (None, Parsed::Whole(told, end)) => {
                assert_eq!(end, length, "it was whole before, or is not yet");
                assert!(ends_at_least <= end, "it was asked for {ends_at_least} bytes and has {end}");
                assert_eq!(Some(told), simple(bytes), "another reader reads another line");
                check(told);
                known = Some(parsed);
            }
            (None, Parsed::Invalid) => known = Some(parsed),
        }
    }
    let whole = proxy_protocol::parse(data);
    assert!(known.is_none_or(|known| known == whole), "the rest changes what it is");
    match whole {
        Parsed::Whole(told, end) => {
            assert!(end <= data.len() && end <= MOST);
            assert_eq!(data.get(..end).and_then(simple), Some(told), "another reader reads another line");
        }
        Parsed::Invalid => assert_eq!(simple(data), None, "it would have been good"),
        Parsed::Partial(_) => {}
    }

    // From a stream: the same, and the next byte is the connection's.
    let mut rest = data;
    let read = {
        let future = pin!(proxy_protocol::read(&mut rest));
        future.poll(&mut Context::from_waker(Waker::noop()))
    };
    match (read, whole) {
        (Poll::Ready(Some(told)), Parsed::Whole(expected, end)) => {
            assert_eq!((told, rest.len()), (expected, data.len() - end), "it read beyond the line");
        }
        (Poll::Ready(None), Parsed::Invalid | Parsed::Partial(_)) => {}
        (read, whole) => assert!(data.is_empty(), "{read:?}, but {whole:?}"),
    }
}

/// An address has one form, and the line that is written from it says it again.
fn check(told: Told) {
    let Told::Addresses { source, destination } = told else { return };
    for address in [source, destination] {
        assert_eq!(address.ip(), address.ip().to_canonical(), "two forms of one address");
    }
    let family = |address: SocketAddr| if address.is_ipv4() { 4 } else { 6 };
    if family(source) == family(destination) {
        let line = format!("PROXY TCP{} {} {} {} {}\r\n", family(source), source.ip(), destination.ip(), source.port(), destination.port());
        assert_eq!(proxy_protocol::parse(line.as_bytes()), Parsed::Whole(told, line.len()));
    }
}

/// What the whole of `bytes` says, or begins with, to a reader that knows nothing of pieces.
fn simple(bytes: &[u8]) -> Option<Told> {
    if let Some(rest) = bytes.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n") {
        let (&[command, family, high, low], rest) = rest.split_first_chunk::<4>()?;
        let length = usize::from(high) * 256 + usize::from(low);
        let rest = rest.get(..length).filter(|_| length + 16 <= MOST)?;
        return match (command, family) {
            (0x20, 0x00..=0x02 | 0x10..=0x12 | 0x20..=0x22 | 0x30..=0x32) => Some(Told::Own),
            (0x21, 0x11) => Some(addresses(v4(rest.get(..4)?)?, v4(rest.get(4..8)?)?, rest.get(8..12)?)),
            (0x21, 0x21) => Some(addresses(v6(rest.get(..16)?)?, v6(rest.get(16..32)?)?, rest.get(32..36)?)),
            (0x21, 0x00..=0x02 | 0x10 | 0x20 | 0x30 | 0x31) => Some(Told::Own),
            _ => None,
        };
    }
    let text = bytes.windows(2).position(|two| two == b"\r\n").filter(|end| *end <= 105).and_then(|end| bytes.get(..end))?;
    let words: Vec<&str> = str::from_utf8(text).ok()?.split(' ').collect();
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| number.to_string() == text);
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Some(Told::Own),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
            let address = |text: &str| text.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == (*family == "TCP4"));
            let (source, destination) = (address(source)?.to_canonical(), address(destination)?.to_canonical());
            Some(Told::Addresses { source: SocketAddr::new(source, number(from)?), destination: SocketAddr::new(destination, number(to)?) })
        }
        _ => None,
    }
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into())
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into())
}

fn addresses(source: IpAddr, destination: IpAddr, ports: &[u8]) -> Told {
    let port = |at: usize| ports.get(at..).and_then(|rest| rest.first_chunk::<2>()).map_or(0, |two| u16::from_be_bytes(*two));
    Told::Addresses {
        source: SocketAddr::new(source.to_canonical(), port(0)),
        destination: SocketAddr::new(destination.to_canonical(), port(2)),
    }
}
