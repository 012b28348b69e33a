use http::Request;
use proptest::prelude::*;

use super::*;
use crate::config;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

pub(super) fn settings(public_url: &str, trusted: &[&str], allowed: &[&str]) -> Settings {
    Settings::from(&config::Server {
        listen: Vec::new(),
        public_url: public_url.parse().ok(),
        prefix: "/_auth".to_owned(),
        workers: 0,
        trusted_proxies: trusted.iter().map(|network| network.parse().unwrap()).collect(),
        proxy_protocol: false,
        max_header_size: 0,
        header_timeout: std::time::Duration::ZERO,
        idle_timeout: std::time::Duration::ZERO,
        allowed_hosts: allowed.iter().map(|host| (*host).to_owned()).collect(),
        shutdown_delay: std::time::Duration::ZERO,
        shutdown_grace: std::time::Duration::ZERO,
        max_connections: 0,
        max_headers: 0,
        http2: config::Http2 { max_streams: 0, max_resets: 0 },
        tls: None,
        danger_plain_http: false,
        hsts: None,
    })
}

pub(super) fn context(authority: &str, settings: &Settings) -> Context {
    read(&head(Version::HTTP_11, "/", &[("host", authority)]), &conn("192.0.2.1"), settings, NOW).unwrap()
}

fn conn(peer: &str) -> ConnInfo {
    ConnInfo { peer: peer.parse().ok(), peer_port: 40_000, local: None, local_port: 8080, tls: false }
}

fn head(version: Version, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let request = headers.iter().fold(Request::builder().version(version).uri(uri), |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

fn read_11(headers: &[(&str, &str)]) -> Result<Context, ContextError> {
    read(&head(Version::HTTP_11, "/", headers), &conn("192.0.2.1"), &settings("", &[], &[]), NOW)
}

fn read_from(peer: &str, headers: &[(&str, &str)]) -> Result<Context, ContextError> {
    let headers = [&[("host", "direct.example")], headers].concat();
    read(&head(Version::HTTP_11, "/", &headers), &conn(peer), &settings("", &["10.0.0.0/8"], &[]), NOW)
}

#[test]
fn the_host_is_canonical_and_kept_as_received() {
    let context = read_11(&[("host", "App.Example.COM.:8080")]).unwrap();
    assert_eq!((context.host.as_str(), context.port, context.authority.as_str()), ("app.example.com", Some(8080), "App.Example.COM.:8080"));
    assert_eq!((context.scheme, context.now, context.client.to_string().as_str()), (Scheme::Http, NOW, "192.0.2.1"));
}

// HOST-1, HDR-4
#[test]
fn a_doubtful_host_is_refused() {
    assert_eq!(read_11(&[]), Err(ContextError::MissingHost));
    assert_eq!(read_11(&[("host", "a"), ("host", "a")]), Err(ContextError::DuplicateHost));
    for bad in ["", "a b", "user@a", "a/b", "a:b", "a,b", "é.example"] {
        assert_eq!(read_11(&[("host", bad)]), Err(ContextError::BadHost), "{bad}");
    }
    let absolute =
        |uri: &str, headers: &[(&str, &str)]| read(&head(Version::HTTP_11, uri, headers), &conn("192.0.2.1"), &settings("", &[], &[]), NOW);
    assert_eq!(absolute("http://a.example/", &[("host", "A.example:80")]).unwrap().host.as_str(), "a.example");
    assert_eq!(absolute("https://a.example/", &[("host", "a.example:443")]).unwrap().host.as_str(), "a.example");
    assert_eq!(absolute("http://a.example/", &[]).unwrap().authority, "a.example");
    assert_eq!(absolute("http://a.example/", &[("host", "b.example")]), Err(ContextError::HostMismatch));
    assert_eq!(absolute("http://a.example/", &[("host", "a.example:8080")]), Err(ContextError::HostMismatch));
    assert_eq!(absolute("http://u@a.example/", &[("host", "a.example")]), Err(ContextError::BadHost));
    for target in ["ftp://a.example/", "a.example", "a.example:80"] {
        assert_eq!(absolute(target, &[("host", "a.example")]), Err(ContextError::BadTarget), "{target}");
    }
}

#[test]
fn http_1_0_without_a_host_is_for_the_public_url() {
    let old = |public_url: &str| read(&head(Version::HTTP_10, "/", &[]), &conn("192.0.2.1"), &settings(public_url, &[], &[]), NOW);
    assert_eq!(old("https://app.example.com").unwrap().authority, "app.example.com");
    let context = old("https://app.example.com:8443").unwrap();
    assert_eq!((context.authority.as_str(), context.port), ("app.example.com:8443", Some(8443)));
    assert_eq!(old(""), Err(ContextError::MissingHost));
}

#[test]
fn only_allowed_hosts_are_served() {
    let ask = |host: &str| {
        read(&head(Version::HTTP_2, "/", &[("host", host)]), &conn("192.0.2.1"), &settings("", &[], &["A.example", "*.b.example"]), NOW)
            .map(|_| ())
    };
    for host in ["a.example", "A.EXAMPLE.:1", "x.b.example"] {
        assert_eq!(ask(host), Ok(()), "{host}");
    }
    for host in ["b.example", "c.example", "127.0.0.1"] {
        assert_eq!(ask(host), Err(ContextError::HostNotAllowed), "{host}");
    }
    assert_eq!(ContextError::HostNotAllowed.status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(ContextError::HostMismatch.status(), StatusCode::BAD_REQUEST);
}

// HDR-4
#[test]
fn what_may_be_said_once_is_refused_twice() {
    let host = ("host", "a");
    assert_eq!(read_11(&[host, ("authorization", "Bearer a"), ("authorization", "Bearer a")]), Err(ContextError::DuplicateAuthorization));
    for lengths in [&["1", "2"][..], &["1, 2"], &["1,"], &["+1"], &["0x1"], &[""], &["-1"], &["1 1"], &["01", "1"]] {
        let headers: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).chain([host]).collect();
        assert_eq!(read_11(&headers), Err(ContextError::BadContentLength), "{lengths:?}");
    }
    assert!(read_11(&[host, ("content-length", "5"), ("content-length", "5, 5")]).is_ok());
    assert!(read_11(&[host, ("content-length", "0")]).is_ok());
    for codings in [
        &["identity"][..],
        &["chunked, identity"],
        &["chunked", "chunked"],
        &["chunked", "identity"],
        &["gzip, chunked"],
        &[""],
        &["xchunked"],
    ] {
        let headers: Vec<_> = codings.iter().map(|coding| ("transfer-encoding", *coding)).chain([host]).collect();
        assert_eq!(read_11(&headers), Err(ContextError::BadTransferEncoding), "{codings:?}");
    }
    assert!(read_11(&[host, ("transfer-encoding", "Chunked")]).is_ok());
}

// ENV-1
#[test]
fn bytes_beyond_ascii_are_refused_where_they_decide() {
    assert_eq!(read_11(&[("host", "a"), ("authorization", "Bearer é")]), Err(ContextError::NotAscii("Authorization")));
    for name in ["X-Forwarded-For", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto"] {
        assert_eq!(read_from("10.0.0.1", &[(name, "é")]), Err(ContextError::NotAscii(name)));
        assert!(read_from("192.0.2.1", &[(name, "é")]).is_ok(), "{name}: nobody reads it");
    }
    assert!(read_from("10.0.0.1", &[("x-custom", "é")]).is_ok());
}

// FWD-1, FWD-4, FWD-5: nobody but a trusted proxy says which host and scheme were asked for.
#[test]
fn forwarded_host_and_scheme_are_believed_from_trusted_peers_only() {
    let asked = |peer: &str, headers: &[(&str, &str)]| {
        let context = read_from(peer, headers).unwrap();
        (context.scheme, context.authority)
    };
    let headers = [("x-forwarded-proto", "HTTPS"), ("x-forwarded-host", "App.example:444")];
    assert_eq!(asked("10.0.0.1", &headers), (Scheme::Https, "App.example:444".to_owned()));
    assert_eq!(asked("192.0.2.1", &headers), (Scheme::Http, "direct.example".to_owned()));
    for junk in ["", "https, http", "https,https", "javascript", "ftp", "https://x", "a b"] {
        let ignored = (Scheme::Http, "direct.example".to_owned());
        assert_eq!(asked("10.0.0.1", &[("x-forwarded-proto", junk), ("x-forwarded-host", "a, b")]), ignored, "{junk}");
    }
    assert_eq!(asked("10.0.0.1", &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "https")]).0, Scheme::Http);
    assert_eq!(asked("10.0.0.1", &[("x-forwarded-proto", "wss")]).0, Scheme::Https);
    assert_eq!(asked("10.0.0.1", &[("x-forwarded-host", "a"), ("x-forwarded-host", "a")]).1, "direct.example");
    let twice = [("x-original-host", "evil"), ("x-host", "evil"), ("x-original-url", "/evil")];
    assert_eq!(asked("10.0.0.1", &twice).1, "direct.example");
}

#[test]
fn the_direct_scheme_is_the_connections() {
    let tls = ConnInfo { tls: true, ..conn("192.0.2.1") };
    let context = read(&head(Version::HTTP_11, "/", &[("host", "a")]), &tls, &settings("", &[], &[]), NOW).unwrap();
    assert_eq!((context.scheme.as_str(), context.scheme.default_port()), ("https", 443));
}

#[test]
fn request_ids_are_kept_if_well_formed() {
    let id = |given: &str| read_11(&[("host", "a"), ("x-request-id", given)]).unwrap().request_id;
    for kept in ["12345678", "a.b_c-D0", &"x".repeat(128)] {
        assert_eq!(id(kept), kept);
    }
    for replaced in ["", "1234567", "1234 5678", "12345678\t9", "<script>x", "a/b/c/d/e", "ééééé", &"x".repeat(129)] {
        let fresh = uuid::Uuid::try_parse(&id(replaced)).unwrap();
        assert_eq!(fresh.get_version(), Some(uuid::Version::SortRand), "{replaced}");
        assert_eq!(fresh.get_timestamp().unwrap().to_unix().0, 1_700_000_000);
    }
    assert_ne!(id("x"), id("x"));
    let twice = read_11(&[("host", "a"), ("x-request-id", "12345678"), ("x-request-id", "12345678")]).unwrap();
    assert_ne!(twice.request_id, "12345678");
}

proptest! {
    // Whatever an untrusted peer sends, it is the client, and the host is the one it asked for.
    #[test]
    fn untrusted_peers_decide_nothing(name in prop::sample::select(vec!["x-forwarded-for", "forwarded", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-forwarded-port"]), value in "[ -~]{0,24}") {
        let context = read_from("192.0.2.1", &[(name, value.as_str())]).unwrap();
        prop_assert_eq!(context.client.to_string(), "192.0.2.1");
        prop_assert_eq!((context.host.as_str(), context.scheme, context.peer_trusted, context.client_undeclared), ("direct.example", Scheme::Http, false, false));
    }
}
