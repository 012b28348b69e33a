use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{self, Encoding, IdentityHeaders, Preset, UpstreamTls, UpstreamUrl};
use crate::model::Group;
use crate::tasks::Tasks;

pub(in crate::proxy) fn upstream() -> config::Upstream {
    config::Upstream {
        name: "app".to_owned(),
        urls: vec![UpstreamUrl::Tcp { tls: false, host: "upstream.internal".to_owned(), port: 3000 }],
        host: None,
        path: "/".to_owned(),
        strip_path: false,
        rewrite: true,
        max_connections: 4,
        pass_host: true,
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
        stream_idle_timeout: Duration::from_secs(1),
        retries: 1,
        health_path: None,
        health_interval: None,
        tls: UpstreamTls::default(),
        preset: None,
        set_headers: vec![],
        remove_headers: vec![],
    }
}

pub(in crate::proxy) fn proxy(upstream: config::Upstream) -> Arc<Proxy> {
    let identity = IdentityHeaders {
        preset: Preset::Forwarded,
        encoding: Encoding::Utf8,
        headers: vec![],
        groups_separator: ",".to_owned(),
        forward_token: true,
        assertion: None,
    };
    Proxy::new(&[upstream], &identity, &Group::parse("nullpass-admin").unwrap(), None, Tasks::new()).unwrap()
}

pub(in crate::proxy) fn context() -> ForwardContext<'static> {
    ForwardContext {
        request_id: "req-1",
        client: "192.0.2.7".parse().unwrap(),
        peer_trusted: false,
        peer: Some("192.0.2.7".parse().unwrap()),
        scheme: "https",
        host_header: "app.example.com",
        port: 443,
    }
}

pub(in crate::proxy) fn how<'a>(context: &'a ForwardContext<'a>) -> Forward<'a> {
    Forward {
        upstream: crate::proxy::UpstreamIndex(0),
        context,
        identity: None,
        token: None,
        assertion: None,
        strip_authorization: false,
        private: false,
        strip_method_override: false,
        ended: None,
        hold: None,
        prefix: "/_nullpass",
        own_cookie: |name| name.to_ascii_lowercase().starts_with("nullpass") || name.to_ascii_lowercase().starts_with("__host-nullpass"),
    }
}

fn parts(target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::get(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn told(config: config::Upstream, how: &Forward<'_>, target: &str, fields: &[(&str, &str)]) -> Result<Parts, Error> {
    let proxy = proxy(config);
    let mut parts = parts(target, fields);
    rewrite(&mut parts, &proxy, &proxy.upstreams[0], how, None, true).map(|()| parts)
}

fn field(parts: &Parts, name: &str) -> Option<String> {
    let lines: Vec<_> = parts.headers.get_all(name).iter().map(|line| line.to_str().unwrap()).collect();
    (!lines.is_empty()).then(|| lines.join(" | "))
}

// FWD-3, FWD-5
#[test]
fn an_untrusted_peer_says_nothing_about_where_it_comes_from() {
    let context = context();
    let forged = [
        ("x-forwarded-for", "10.0.0.1"),
        ("X_Forwarded_For", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-ssl", "on"),
        ("x-original-url", "/admin"),
        ("x.rewrite.url", "/admin"),
        ("true-client-ip", "10.0.0.1"),
        ("proxy", "http://evil"),
    ];
    let told = told(upstream(), &how(&context), "/", &forged).unwrap();
    for (name, expected) in [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-real-ip", "192.0.2.7"),
        ("x-forwarded-host", "app.example.com"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "443"),
        ("forwarded", "for=192.0.2.7;host=\"app.example.com\";proto=https"),
        ("host", "app.example.com"),
        ("x-request-id", "req-1"),
    ] {
        assert_eq!(field(&told, name).as_deref(), Some(expected), "{name}");
    }
    assert_eq!(told.headers.len(), 8, "{:?}", told.headers);
}

// FWD-3
#[test]
fn what_a_trusted_peer_says_is_extended() {
    let mut context = context();
    context.peer_trusted = true;
    context.peer = Some("::ffff:10.0.0.2".parse().unwrap());
    context.client = "2001:db8::1".parse().unwrap();
    let said = [
        ("x-forwarded-for", "2001:db8::1"),
        ("x_forwarded_for", "10.9.9.9"),
        ("forwarded", "for=\"[2001:db8::1]\""),
        ("x-forwarded-host", "public.example.com"),
        ("x-forwarded-user", "root"),
    ];
    let mut config = upstream();
    config.strip_path = true;
    config.path = "/app".to_owned();
    let told_ = told(config, &how(&context), "/app/x", &said).unwrap();
    for (name, expected) in [
        ("x-forwarded-for", Some("2001:db8::1, 10.0.0.2")),
        ("x_forwarded_for", None),
        ("x-real-ip", Some("2001:db8::1")),
        ("forwarded", Some("for=\"[2001:db8::1]\", for=10.0.0.2;host=\"app.example.com\";proto=https")),
        ("x-forwarded-host", Some("public.example.com")),
        ("x-forwarded-prefix", Some("/app")),
        ("x-forwarded-user", None),
    ] {
        assert_eq!(field(&told_, name).as_deref(), expected, "{name}");
    }
    context.host_header = "a\"b";
    assert!(field(&told(upstream(), &how(&context), "/", &[]).unwrap(), "forwarded").unwrap().contains("host=\"a\\\"b\""));
}

// PATH-3
#[test]
fn the_target_keeps_its_bytes() {
    let context = context();
    for target in ["/", "/a%2Fb//c;d=1?x=%zz&y[]=%20", "/%C3%BC?", "/a?b?c", "*"] {
        assert_eq!(told(upstream(), &how(&context), target, &[]).unwrap().uri.to_string(), target);
    }
    // An empty path is `/`, for the rules too.
    for (target, expected) in [
        ("http://app.example.com/a%2Fb?c", "/a%2Fb?c"),
        ("http://app.example.com?c", "/?c"),
        ("http://app.example.com?", "/?"),
        ("http://app.example.com", "/"),
    ] {
        let told = told(upstream(), &how(&context), target, &[]).unwrap();
        assert_eq!(told.uri.path_and_query().unwrap().as_str(), expected, "{target}");
    }
}

// PATH-3
#[test]
fn a_prefix_is_cut_only_where_its_bytes_stand() {
    let context = context();
    let mut config = upstream();
    config.strip_path = true;
    config.path = "/app".to_owned();
    for (target, expected) in [("/app", "/"), ("/app/", "/"), ("/app?q=1", "/?q=1"), ("/app/a%2Fb//?q", "/a%2Fb//?q")] {
        assert_eq!(told(config.clone(), &how(&context), target, &[]).unwrap().uri.to_string(), expected);
    }
    // Nor where what is left would begin with a host.
    let hosts = ["/app//x", "/app/%2fx/y", "/app/%252Fx", "/app/\\x", "/app/%5Cx", "/app/%25%35c"];
    for target in ["/%61pp/x", "/apple", "/APP/x", "//app/x"].into_iter().chain(hosts) {
        assert_eq!(told(config.clone(), &how(&context), target, &[]).unwrap_err(), Error::BadPrefix, "{target}");
    }
}

#[test]
fn authorization_is_removed_passed_or_set_but_never_overwritten() {
    let context = context();
    let theirs = [("authorization", "Basic dGhlaXJz")];
    let mut how = how(&context);
    how.token = Some("t.o.k");
    assert_eq!(field(&told(upstream(), &how, "/", &theirs).unwrap(), "authorization").unwrap(), "Basic dGhlaXJz");
    how.strip_authorization = true;
    assert_eq!(field(&told(upstream(), &how, "/", &theirs).unwrap(), "authorization").unwrap(), "Bearer t.o.k");
    how.token = None;
    assert_eq!(field(&told(upstream(), &how, "/", &theirs).unwrap(), "authorization"), None);
}

#[test]
fn framing_that_can_be_read_two_ways_is_refused() {
    let context = context();
    for fields in [
        &[("transfer-encoding", "gzip, chunked")][..],
        &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        &[("transfer-encoding", "xchunked")],
        &[("content-length", "1"), ("content-length", "2")],
    ] {
        assert_eq!(told(upstream(), &how(&context), "/", fields).unwrap_err(), Error::BadRequest, "{fields:?}");
    }
    let told = told(upstream(), &how(&context), "/", &[("content-length", "5"), ("transfer-encoding", "Chunked")]).unwrap();
    assert_eq!((field(&told, "content-length"), field(&told, "transfer-encoding").as_deref()), (None, Some("chunked")));
}

#[test]
fn a_body_without_a_length_from_http2_is_chunked_whatever_the_method() {
    let proxy = proxy(upstream());
    let context = context();
    for (fields, has_body, chunked, length) in [
        (&[][..], true, true, false),
        (&[][..], false, false, false),
        (&[("content-length", "3")][..], true, false, true),
        (&[("content-length", "3"), ("trailer", "x-sum")][..], true, true, false),
    ] {
        let mut parts = parts("/", fields);
        parts.version = Version::HTTP_2;
        rewrite(&mut parts, &proxy, &proxy.upstreams[0], &how(&context), None, has_body).unwrap();
        assert_eq!(
            (field(&parts, "transfer-encoding").is_some(), field(&parts, "content-length").is_some()),
            (chunked, length),
            "{fields:?}"
        );
    }
}

// HDR-4
#[test]
fn there_is_one_host() {
    let context = context();
    for hosts in [&[("host", "app.example.com"), ("host", "evil")][..], &[("host", "evil")], &[]] {
        assert_eq!(field(&told(upstream(), &how(&context), "/", hosts).unwrap(), "host").as_deref(), Some("app.example.com"));
    }
}

#[test]
fn trailers_are_asked_for_as_one_connection_asks_another() {
    let context = context();
    let told_ = told(upstream(), &how(&context), "/", &[("te", "gzip;q=0.5, Trailers")]).unwrap();
    assert_eq!((field(&told_, "te").as_deref(), field(&told_, "connection").as_deref()), (Some("trailers"), Some("te")));
    let told_ = told(upstream(), &how(&context), "/", &[("te", "gzip")]).unwrap();
    assert_eq!((field(&told_, "te"), field(&told_, "connection")), (None, None));
}

#[test]
fn the_operator_has_the_last_word() {
    let context = context();
    let mut config = upstream();
    config.pass_host = false;
    config.set_headers = vec![(HeaderName::from_static("x-env"), HeaderValue::from_static("prod"))];
    config.remove_headers = vec![HeaderName::from_static("x-internal")];
    let mut how = how(&context);
    how.strip_method_override = true;
    let sent = [
        ("x-env", "forged"),
        ("x-internal", "1"),
        ("host", "app.example.com"),
        ("x_http_method", "DELETE"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    let told = told(config, &how, "/", &sent).unwrap();
    for (name, expected) in [
        ("x-env", Some("prod")),
        ("x-internal", None),
        ("host", Some("upstream.internal:3000")),
        ("x_http_method", None),
        ("cookie", Some("a=1; b=2")),
    ] {
        assert_eq!(field(&told, name).as_deref(), expected, "{name}");
    }
}

#[test]
fn only_proper_upgrades_to_something_else_than_http_are_forwarded() {
    let upgrade =
        |fields: &[(&str, &str)]| wanted_upgrade(&parts("/", fields), false).map(|protocol| protocol.to_str().unwrap().to_owned());
    assert_eq!(upgrade(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]).as_deref(), Some("websocket"));
    for fields in [
        &[("upgrade", "websocket")][..],
        &[("connection", "upgrade")],
        &[("connection", "upgrade"), ("upgrade", "")],
        &[("connection", "upgrade"), ("upgrade", "h2c")],
        &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
        &[("connection", "upgrade"), ("upgrade", "TLS/1.2")],
        &[("connection", "upgrade"), ("upgrade", "HTTP/2.0")],
        &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")],
    ] {
        assert_eq!(upgrade(fields), None, "{fields:?}");
    }
    let asked = parts("/", &[("connection", "upgrade"), ("upgrade", "websocket")]);
    assert_eq!(wanted_upgrade(&asked, true), None);
    let mut posted = asked;
    posted.method = Method::POST;
    assert_eq!(wanted_upgrade(&posted, false), None);
}

// CFG-3
#[test]
fn a_security_file_that_cant_be_read_stops_the_start() {
    let identity = proxy(upstream()).fields.config.clone();
    let missing = || Some(PathBuf::from("/nonexistent/file.pem"));
    let files = || config::CertificateFiles { cert: missing().unwrap(), key: missing().unwrap() };
    let authority = tempfile::NamedTempFile::new().unwrap();
    let generated = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
    std::fs::write(authority.path(), generated.cert.pem()).unwrap();
    let empty = tempfile::NamedTempFile::new().unwrap();
    let good = UpstreamTls { ca: Some(authority.path().to_owned()), ..UpstreamTls::default() };
    for (tls, works) in [
        (good.clone(), true),
        (UpstreamTls { ca: missing(), ..UpstreamTls::default() }, false),
        (UpstreamTls { ca: Some(empty.path().to_owned()), ..UpstreamTls::default() }, false),
        (UpstreamTls { client: Some(files()), ..good.clone() }, false),
        (UpstreamTls { server_name: Some("not a name".to_owned()), ..good }, false),
    ] {
        let mut config = upstream();
        config.urls = vec![UpstreamUrl::Tcp { tls: true, host: "upstream.internal".to_owned(), port: 443 }];
        config.tls = tls;
        let made = Proxy::new(&[config], &identity, &Group::parse("a").unwrap(), None, Tasks::new());
        assert_eq!(made.is_ok(), works, "{made:?}");
    }
}

/// A field name that is likely to be one that matters, spelled in any way.
fn any_name() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "x-forwarded-user",
        "x-forwarded-groups",
        "remote-user",
        "x-auth-request-email",
        "x-authentik-uid",
        "x-nullpass-assertion",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-real-ip",
        "x-original-url",
        "true-client-ip",
        "forwarded",
        "proxy",
        "accept",
        "x-custom",
    ]);
    (known, any::<u64>()).prop_map(|(name, bits)| {
        let spell = |(at, c): (usize, char)| match (c, bits >> (at * 2) & 3) {
            ('-', 1) => '_',
            ('-', 2) => '.',
            (c, 3) => c.to_ascii_uppercase(),
            (c, _) => c,
        };
        name.chars().enumerate().map(spell).collect()
    })
}

proptest! {
    // HDR-1, HDR-3, FWD-5: whatever a client sends and however it is spelled, the upstream reads only what we said.
    #[test]
    fn no_claim_of_a_client_survives(names in proptest::collection::vec(any_name(), 0..12), connection in proptest::collection::vec(any_name(), 0..4)) {
        let context = context();
        let connection = connection.join(", ");
        let mut fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "forged")).collect();
        fields.push(("connection", &connection));
        let parts = told(upstream(), &how(&context), "/", &fields).unwrap();
        for (name, value) in &parts.headers {
            let harmless = matches!(name.as_str(), "accept" | "x-custom") || header::fold(name.as_str()) == "x-custom";
            prop_assert!(harmless || !value.as_bytes().windows(6).any(|window| window == b"forged"), "{name:?}: {value:?}");
        }
        prop_assert_eq!(field(&parts, "x-forwarded-for"), Some("192.0.2.7".to_owned()));
        prop_assert_eq!(field(&parts, "host"), Some("app.example.com".to_owned()));
    }
}
