//! What must hold for any path and any host that somebody may ask for: for the fuzzer, and for the tests that replay its
//! corpus.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use super::host::{Host, canonical_pattern};
use super::path::{self, MAX_BYTES, MAX_READINGS, PathError, Readings};
use super::rules::{Policy, RequestView};
use crate::config::{self, Access};

/// Rules that open and close by path, among them some that tell readings apart.
static POLICY: LazyLock<Option<Policy>> = LazyLock::new(|| {
    let rule = |path: &str, access| config::Rule::new(path, path, access);
    let rules = [
        rule("/admin/**", Access::Deny),
        rule("/a/*/admin", Access::Deny),
        rule("/café", Access::Deny),
        rule("/public/**", Access::Public),
        rule("/a/b", Access::Public),
        rule("/static/*.css", Access::Public),
        rule("/a/**", Access::TwoFactor),
    ];
    Policy::new(Access::Authenticated, &rules).ok()
});

/// How a server of some kind reads a path: as a pipeline over lists of segments. Servers are told apart by what they do
/// after which decoding.
pub(super) struct Server {
    decodings: u8,
    slash_before: u8,
    backslash_before: u8,
    cut_at: Option<u8>,
    /// After this decoding the target is parsed once more, and `?` and `#` end the path.
    parse_at: Option<u8>,
    /// What stands behind slashes at the beginning is a host and no part of the path.
    host: bool,
    merge: bool,
}

impl Server {
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for decodings in 1..=2 {
            for slash_before in 1..=decodings + 1 {
                for backslash_before in 0..=decodings + 1 {
                    for cut_at in (0..=decodings).map(Some).chain([None]) {
                        let ways = [(false, false), (false, true), (true, false), (true, true)];
                        for parse_at in (1..=decodings).map(Some).chain([None]) {
                            all.extend(ways.map(|(host, merge)| Self {
                                decodings,
                                slash_before,
                                backslash_before,
                                cut_at,
                                parse_at,
                                host,
                                merge,
                            }));
                        }
                    }
                }
            }
        }
        all
    }

    pub(super) fn segments(&self, raw: &str) -> Vec<Vec<u8>> {
        let mut segments = vec![raw.strip_prefix('/').unwrap_or_default().as_bytes().to_vec()];
        let mut ended = false;
        for stage in 0..=self.decodings {
            if stage > 0 {
                segments = segments.into_iter().map(|segment| percent_encoding::percent_decode(&segment).collect()).collect();
            }
            let splits = |byte: &u8| (*byte == b'/' && stage < self.slash_before) || (*byte == b'\\' && stage < self.backslash_before);
            segments = segments.iter().flat_map(|segment| segment.split(splits).map(<[u8]>::to_vec).collect::<Vec<_>>()).collect();
            let ends = |byte: &u8| matches!(byte, b'?' | b'#');
            if self.parse_at == Some(stage)
                && let Some(last) = segments.iter().position(|segment| segment.iter().any(ends))
            {
                segments.truncate(last + 1);
                if let Some(end) = segments.last_mut() {
                    *end = end.split(ends).next().unwrap_or_default().to_vec();
                }
                ended = true;
            }
            if self.cut_at == Some(stage) {
                segments = segments.iter().map(|s| s.split(|byte| *byte == b';').next().unwrap_or_default().to_vec()).collect();
            }
        }
        // `.#name` is honest: what is left of it is the folder.
        if ended
            && let Some(last) = segments.last_mut()
            && last == b"."
        {
            last.clear();
        }
        if self.host && segments.len() > 1 && segments.first().is_some_and(Vec::is_empty) {
            let name = segments.iter().position(|segment| !segment.is_empty()).unwrap_or(segments.len());
            segments.drain(..segments.len().min(name + 1));
            if segments.is_empty() {
                segments.push(Vec::new());
            }
        }
        if self.merge {
            let last = segments.len() - 1;
            segments = segments.into_iter().enumerate().filter(|(at, s)| !s.is_empty() || *at == last).map(|(_, s)| s).collect();
        }
        segments
    }

    pub(super) fn texts(&self, raw: &str) -> Vec<String> {
        texts_of(&self.segments(raw))
    }
}

/// What an application finds behind a server that reads these segments: text, or bytes that one takes for opaque and another for
/// Latin-1.
pub(super) fn texts_of(segments: &[Vec<u8>]) -> Vec<String> {
    let mut path = Vec::new();
    for segment in segments {
        path.push(b'/');
        for byte in segment {
            if *byte == b'/' { path.extend(b"%2F") } else { path.push(*byte) }
        }
    }
    let Err(error) = String::from_utf8(path.clone()) else { return vec![String::from_utf8_lossy(&path).into_owned()] };
    let mut opaque = String::new();
    for chunk in error.as_bytes().utf8_chunks() {
        opaque += chunk.valid();
        opaque.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    vec![opaque, path.into_iter().map(char::from).collect()]
}

/// Whether a segment leads elsewhere. `..#x` counts also where nobody comes to read it.
pub(super) fn climbs(segment: &[u8]) -> bool {
    let up = segment.strip_prefix(b"..").is_some_and(|rest| matches!(rest.first(), None | Some(b'?' | b'#')));
    segment == b"." || up
}

fn decoded_twice(raw: &str) -> Vec<u8> {
    let once: Vec<u8> = percent_encoding::percent_decode_str(raw).collect();
    percent_encoding::percent_decode(&once).collect()
}

/// Reads a path: its readings are those of the servers that there are, no two of which the rules would decide otherwise once
/// they agree; none climbs or holds a control character; and a path written anew from what it means, means that.
///
/// # Panics
///
/// If something that must hold does not.
pub fn path(data: &[u8]) {
    let Ok(raw) = str::from_utf8(data) else { return };
    let control = |bytes: &[u8]| bytes.iter().any(u8::is_ascii_control) || bytes.windows(2).any(|two| matches!(two, [0xC2, 0x80..=0x9F]));
    let is_dot = |segment: &[u8]| matches!(segment, b"." | b"..");
    let all = if raw.len() <= 300 { Server::all() } else { Vec::new() };
    let somebody_climbs = || all.iter().any(|server| server.segments(raw).iter().any(|segment| climbs(segment)));
    let readings = match path::read(raw) {
        Ok(readings) => readings,
        Err(PathError::TooLong) => return assert!(raw.len() > MAX_BYTES, "not too long"),
        Err(PathError::NotAbsolute) => return assert!(!raw.starts_with('/'), "absolute"),
        Err(PathError::Illegal) => return assert!(raw.contains(['#', '?', ' ']), "nothing illegal"),
        Err(PathError::MalformedPercent) => {
            let hex = |digit: Option<&u8>| digit.is_some_and(u8::is_ascii_hexdigit);
            let sound = raw.split('%').skip(1).all(|rest| hex(rest.as_bytes().first()) && hex(rest.as_bytes().get(1)));
            return assert!(!sound, "every escape is sound");
        }
        Err(PathError::Control) => return assert!(control(&decoded_twice(raw)), "no control character"),
        Err(PathError::Encoding) => return assert!(str::from_utf8(&decoded_twice(raw)).is_err(), "sound UTF-8"),
        Err(PathError::DotSegment) => return assert!(all.is_empty() || somebody_climbs(), "nobody climbs"),
        Err(PathError::Ambiguous) => return,
    };
    assert!(raw.len() <= MAX_BYTES && !control(&decoded_twice(raw)), "let through");
    assert!(!somebody_climbs(), "somebody climbs");
    let found: Vec<&str> = match &readings {
        Readings::Plain(path) => vec![path],
        Readings::Many(all) => all.iter().map(String::as_str).collect(),
    };
    assert!(!found.is_empty() && found.len() <= MAX_READINGS, "{} readings", found.len());
    for reading in &found {
        assert!(reading.starts_with('/') && !reading.bytes().any(|byte| byte.is_ascii_control()), "{reading:?}");
        assert!(!reading.split('/').any(|segment| is_dot(segment.as_bytes())), "{reading:?}");
    }
    let Some(policy) = POLICY.as_ref() else { return assert!(POLICY.is_some(), "the rules are sound") };
    let Ok((host, _)) = Host::parse("app.example.com") else { return };
    let decide = |path: &str| {
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        policy.requirement(&RequestView { host: &host, path, method: &http::Method::GET, client, client_undeclared: false }).access
    };
    let agreed = readings.agree(decide);
    for server in &all {
        for text in server.texts(raw) {
            assert!(found.contains(&text.as_str()), "a server reads {text:?}, which is none of {found:?}");
            assert!(agreed.is_err() || agreed == Ok(decide(&text)), "a server reads {text:?}, and the rules would decide otherwise");
        }
    }
    let shown = readings.shown();
    if let Ok(again) = path::read(&encoded(shown)) {
        assert_eq!(again.shown(), shown, "written anew it means something else");
    }
    if let Readings::Plain(path) = readings {
        assert!(path == raw && all.iter().all(|server| server.texts(raw) == [raw]), "not plain");
    }
}

/// A reading as a client that means exactly this would write it.
fn encoded(reading: &str) -> String {
    const ALL: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-');
    percent_encoding::utf8_percent_encode(reading, ALL).to_string().replace("%252F", "%2F")
}

/// Reads a host: one spelling, which it keeps; that of another reader (WHATWG URL) where that one reads it at all; never
/// more than a host.
///
/// # Panics
///
/// If something that must hold does not.
pub fn host(data: &[u8]) {
    let Ok(given) = str::from_utf8(data) else { return };
    let Ok((host, port)) = Host::parse(given) else { return };
    let text = host.as_str();
    assert_eq!(Host::parse(text), Ok((host.clone(), None)), "it has two spellings");
    if let Some(port) = port {
        assert_eq!(Host::parse(&format!("{text}:{port}")), Ok((host.clone(), Some(port))), "the port changes the host");
    }
    assert_eq!(Host::parse(&given.to_ascii_uppercase()), Ok((host.clone(), port)), "case matters");

    let (address, is_v6) = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => (inside.parse::<Ipv6Addr>().is_ok(), true),
        None => (text.parse::<Ipv4Addr>().is_ok(), false),
    };
    assert!(address || !is_v6, "{text}");
    if !is_v6 {
        let is_label =
            |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        assert!(text.len() <= Host::MAX_BYTES && text.split('.').all(is_label), "{text}");
        let last = text.rsplit('.').next().unwrap_or_default();
        assert!(address || !last.bytes().all(|byte| byte.is_ascii_digit()), "{text} is an address to others");
    }

    // Who reads the whole URL finds no other host, no person and no path.
    let url = url::Url::parse(&format!("http://{given}/x?y"));
    if let Ok(url) = &url {
        let other = match url.host() {
            Some(url::Host::Domain(name)) => name.strip_suffix('.').unwrap_or(name).to_owned(),
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => format!("[{address}]"),
            None => String::new(),
        };
        assert_eq!(other, text, "another reader reads another host");
        assert!(url.username().is_empty() && url.password().is_none() && url.path() == "/x" && url.query() == Some("y"), "{url}");
        assert_eq!(url.port_or_known_default(), Some(port.unwrap_or(80)), "another port");
    }
    assert!(url.is_ok(), "no other reader takes it: {:?}", url.err());

    assert!(host.matches(text));
    assert_eq!(canonical_pattern(text).as_deref(), Ok(text));
    let below = Host::parse(&format!("x.{text}"));
    match (canonical_pattern(&format!("*.{text}")), below) {
        (Ok(pattern), below) => {
            assert!(!address && !host.matches(&pattern), "a wildcard stands for the name itself");
            assert!(below.is_err() || below.is_ok_and(|(below, _)| below.matches(&pattern) && !below.matches(text)));
        }
        (Err(_), below) => assert!(address || below.is_err(), "no rule can name what is below"),
    }
}
