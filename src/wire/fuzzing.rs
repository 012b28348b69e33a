//! What must hold for any cookies and any forwarding headers: for the fuzzer, and for the tests that replay its corpus.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::context::{self, ConnInfo, Context, Scheme, Settings};
use super::cookie::{self, Found, MAX_VALUE_BYTES, Name, Names};
use crate::clock::Timestamp;
use crate::config;
use crate::policy::host::Host;

/// A pair as any server reads it: up to the first `=`, without the blanks around.
fn pairs(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let all = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    all.map(|pair| {
        let (name, value) = pair.iter().position(|byte| *byte == b'=').and_then(|at| pair.split_at_checked(at)).unwrap_or((pair, b"="));
        (String::from_utf8_lossy(name.trim_ascii()).into_owned(), value.get(1..).unwrap_or_default().trim_ascii().to_vec())
    })
    .collect()
}

/// Whether a server that ignores case, and another name in front, takes it for one of ours.
fn is_ours(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("__host-").or_else(|| name.strip_prefix("__secure-")).unwrap_or(&name);
    name.starts_with("nullpass")
}

/// Reads cookies, one header a line of `data` after its first byte, which says how the names are made: what is found is what
/// every reader finds, what is passed on holds nothing of ours for any reader, and everything else as it came.
///
/// # Panics
///
/// If something that must hold does not.
pub fn cookie(data: &[u8]) {
    let Some((seed, lines)) = data.split_first() else { return };
    let domain = (seed & 2 == 2).then(|| "example.com".to_owned());
    let names = Names::from(&config::Cookie { domain, ..config::Cookie::default() }, seed & 1 == 1);
    let headers: HeaderMap =
        lines.split(|byte| *byte == b'\n').filter_map(|line| Some((COOKIE, HeaderValue::from_bytes(line).ok()?))).collect();
    for name in [&names.session, &names.device, &names.pre, &names.language] {
        find(&headers, &names, name);
    }

    let pieces = |headers: &HeaderMap| -> Vec<Vec<u8>> {
        let all = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        all.map(|piece| piece.trim_ascii().to_vec()).filter(|piece| !piece.is_empty()).collect()
    };
    let mut stripped = headers.clone();
    cookie::strip_ours(&mut stripped);
    for (name, value) in pairs(&stripped) {
        assert!(!is_ours(&name), "{name} is passed on");
        // A browser sends a cookie without a name as its value alone.
        assert!(!name.is_empty() || !is_ours(&String::from_utf8_lossy(&value)), "{value:?} is passed on");
    }
    for line in stripped.get_all(COOKIE) {
        let text = String::from_utf8_lossy(line.as_bytes());
        let named = ::cookie::Cookie::split_parse(text.as_ref()).flatten();
        assert!(!named.into_iter().any(|cookie| is_ours(cookie.name())), "another reader finds ours in {text:?}");
    }
    let others: Vec<Vec<u8>> = pieces(&headers).into_iter().filter(|piece| !cookie::is_ours(name_in(piece))).collect();
    assert_eq!(pieces(&stripped), others, "somebody else's cookie is changed");
    if others.len() == pieces(&headers).len() {
        assert_eq!(stripped, headers, "nothing was ours");
    }
    let mut again = stripped.clone();
    cookie::strip_ours(&mut again);
    assert_eq!(again, stripped, "what is left is not left alone");

    // The application's own `Set-Cookie`.
    for line in headers.get_all(COOKIE) {
        let text = String::from_utf8_lossy(line.as_bytes());
        if let Ok(set) = ::cookie::Cookie::parse(text.as_ref())
            && is_ours(set.name())
        {
            assert!(cookie::sets_ours(line), "the application sets {}", set.name());
        }
    }
}

/// The name in a piece, also behind blanks and signs that some reader passes over.
fn name_in(piece: &[u8]) -> &[u8] {
    let start = piece.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != b'=').unwrap_or(piece.len());
    let piece = piece.get(start..).unwrap_or_default();
    piece.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
}

fn find(headers: &HeaderMap, names: &Names, name: &Name) {
    let is_value = |value: &[u8]| {
        (1..=MAX_VALUE_BYTES).contains(&value.len()) && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte))
    };
    let bare = name.as_str().trim_start_matches("__Host-").trim_start_matches("__Secure-");
    let all_names = [bare.to_owned(), format!("__Host-{bare}"), format!("__Secure-{bare}")];
    let named: Vec<(String, Vec<u8>)> = pairs(headers).into_iter().filter(|(found, _)| all_names.contains(found)).collect();
    let current = || named.iter().filter(|(found, _)| found == name.as_str());
    match cookie::find(headers, name) {
        Found::One(value) => {
            assert!(is_value(value.as_bytes()), "{value:?}");
            assert!(named.iter().all(|(_, other)| other == value.as_bytes()), "another reader takes another one");
            assert!(cookie::all(headers, name).all(|other| other == value));
            // What we set is what we read.
            let set =
                names.set(name, value, None).map(|set| set.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().to_vec());
            let back = set.ok().and_then(|set| HeaderValue::from_bytes(&set).ok()).map(|line| HeaderMap::from_iter([(COOKIE, line)]));
            assert_eq!(back.as_ref().map(|back| cookie::find(back, name)), Some(Found::One(value)));
        }
        Found::None => assert!(current().next().is_none(), "it is passed over"),
        Found::Conflict => {}
    }
    let values = cookie::all(headers, name);
    assert!(values.into_iter().all(|value| is_value(value.as_bytes())));
}

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let trusted_proxies = "10.0.0.0/8".parse().into_iter().collect();
    let public_url = "https://app.example.com".parse().ok();
    Settings::from(&config::Server { public_url, trusted_proxies, ..config::Server::default() })
});

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Reads where a request comes from, one header a line, whose first byte says which. Nobody but a trusted proxy is believed;
/// what such a one appended can't be hidden by what stands before it; and what is read is what simple readers read.
///
/// # Panics
///
/// If something that must hold does not.
pub fn forwarded(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some((kind, value)) = line.split_first() else { continue };
        let name = match kind {
            b'x' => X_FORWARDED_FOR,
            b'f' => FORWARDED,
            b'h' => X_FORWARDED_HOST,
            b'p' => X_FORWARDED_PROTO,
            b'r' => X_REQUEST_ID,
            b'H' => HOST,
            b'a' => AUTHORIZATION,
            b'l' => CONTENT_LENGTH,
            b't' => TRANSFER_ENCODING,
            _ => continue,
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    headers.entry(HOST).or_insert(HeaderValue::from_static("direct.example"));

    let stranger = read(&headers, Some([192, 0, 2, 1].into()));
    let mut bare = headers.clone();
    for name in [X_FORWARDED_FOR, FORWARDED, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID] {
        bare.remove(name);
    }
    match (stranger, read(&bare, Some([192, 0, 2, 1].into()))) {
        (Some(said), Some(silent)) => {
            assert_eq!(said, Context { request_id: said.request_id.clone(), ..silent }, "a stranger is believed");
            check(&said);
        }
        (said, silent) => assert_eq!(said, silent, "what a stranger says counts"),
    }

    for peer in [Some([10, 0, 0, 1].into()), Some(IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1])), None] {
        let Some(context) = read(&headers, peer) else { continue };
        check(&context);
        let peer = peer.map(|peer| peer.to_canonical());
        assert_eq!(
            (context.peer, context.peer_trusted, context.client_undeclared),
            (peer, peer.is_some(), context.client_undeclared && peer.is_none())
        );
        let Some(peer) = peer else {
            assert_eq!(context.client, IpAddr::V4(Ipv4Addr::LOCALHOST), "nobody trusts a socket here");
            continue;
        };
        let expected = if headers.contains_key(X_FORWARDED_FOR) {
            walk(&simple(&headers), peer)
        } else {
            match elements(&headers) {
                Some(elements) => walk(&elements, peer),
                None => context.client,
            }
        };
        assert_eq!(context.client, expected, "another reader takes somebody else for the client");
    }
    appended(&headers);
}

fn read(headers: &HeaderMap, peer: Option<IpAddr>) -> Option<Context> {
    let (mut head, ()): (Parts, ()) = http::Request::new(()).into_parts();
    head.headers = headers.clone();
    let conn = ConnInfo { peer, peer_port: 40_000, local: None, local_port: 8080, tls: false };
    context::read(&head, &conn, &SETTINGS, Timestamp::from_secs(1_700_000_000)).ok()
}

fn check(context: &Context) {
    assert_eq!(Host::parse(&context.authority), Ok((context.host.clone(), context.port)), "the host is not what is passed on");
    assert!((8..=128).contains(&context.request_id.len()));
    assert!(context.request_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)), "{:?}", context.request_id);
    assert_eq!(context.client, context.client.to_canonical());
    assert!(context.peer_trusted || context.scheme == Scheme::Http);
}

/// What a trusted proxy appends on the same line or on one of its own is what counts.
fn appended(headers: &HeaderMap) {
    let true_client = IpAddr::from([192, 0, 2, 7]);
    for (name, more) in [
        (X_FORWARDED_FOR, "192.0.2.7"),
        (X_FORWARDED_FOR, "192.0.2.7, 10.0.0.2"),
        (FORWARDED, "for=192.0.2.7"),
        (FORWARDED, "for=\"192.0.2.7:4711\";by=\"[::1]\";host=\"a,b;for=6.6.6.6\";proto=https"),
        (FORWARDED, "proto=https;for=192.0.2.7, for=10.0.0.2"),
    ] {
        let mut headers = headers.clone();
        if name == FORWARDED {
            headers.remove(X_FORWARDED_FOR);
        }
        let mut lines: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
        headers.remove(&name);
        let last = lines.pop();
        let same_line = last.as_ref().and_then(|last| HeaderValue::from_bytes(&[last.as_bytes(), b", ", more.as_bytes()].concat()).ok());
        let own_line = HeaderValue::from_static(more);
        for end in [same_line.map(|line| vec![line]), Some(last.into_iter().chain([own_line]).collect())].into_iter().flatten() {
            let mut headers = headers.clone();
            for line in lines.iter().chain(&end) {
                headers.append(&name, line.clone());
            }
            if let Some(context) = read(&headers, Some([10, 0, 0, 1].into())) {
                assert_eq!(context.client, true_client, "{end:?} hides what was appended");
            }
        }
    }
}

/// From the right, over those who are trusted, up to what is no address.
fn walk(entries: &[Option<IpAddr>], peer: IpAddr) -> IpAddr {
    let is_trusted = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets().starts_with(&[10]));
    let mut client = peer;
    for entry in entries.iter().rev() {
        if !is_trusted(&client) {
            break;
        }
        match entry {
            Some(address) => client = *address,
            None => break,
        }
    }
    client
}

/// The addresses of `X-Forwarded-For`.
fn simple(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    lines.collect::<Vec<_>>().join(",").split(',').map(|entry| address(entry.trim())).collect()
}

fn address(text: &str) -> Option<IpAddr> {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (inside, rest) = rest.split_once(']')?;
        rest.is_empty().then_some(()).or_else(|| rest.strip_prefix(':').filter(|port| is_port(port)).map(drop))?;
        inside.parse::<Ipv6Addr>().ok()?.into()
    } else if let Some((before, port)) = text.split_once(':').filter(|(_, rest)| !rest.contains(':')) {
        IpAddr::V4(before.parse().ok().filter(|_| is_port(port))?)
    } else {
        text.parse().ok()?
    };
    Some(address.to_canonical())
}

/// The `for` of every element of `Forwarded`, read strictly by RFC 7239, section 4. `None`: it is not written like that, or
/// with a backslash, which no address has.
fn elements(headers: &HeaderMap) -> Option<Vec<Option<IpAddr>>> {
    let mut found = Vec::new();
    for line in headers.get_all(FORWARDED) {
        let mut rest = str::from_utf8(line.as_bytes()).ok()?;
        if rest.contains('\\') {
            return None;
        }
        loop {
            let mut clients = Vec::new();
            loop {
                let token =
                    |text: &str| text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)).count();
                let (name, after) = rest.trim_start_matches([' ', '\t']).split_once('=')?;
                if name.is_empty() || token(name) != name.len() {
                    return None;
                }
                let value;
                (value, rest) = match after.strip_prefix('"') {
                    Some(inside) => inside.split_once('"')?,
                    // An address with a port is no token, but is written so often enough.
                    None => after.split_at_checked(after.find([',', ';', ' ', '\t', '"']).unwrap_or(after.len()))?,
                };
                if name.eq_ignore_ascii_case("for") {
                    clients.push(value);
                }
                rest = rest.trim_start_matches([' ', '\t']);
                match rest.strip_prefix(';') {
                    Some(more) => rest = more,
                    None => break,
                }
            }
            found.push(match clients.as_slice() {
                [one] => address(one),
                _ => None,
            });
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None if rest.is_empty() => break,
                None => return None,
            }
        }
    }
    Some(found)
}
