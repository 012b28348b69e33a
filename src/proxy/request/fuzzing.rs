//! What must hold for any head of a request that is passed on: for the fuzzer, and for the tests that replay its corpus.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use http::Version;
use http::header::{AUTHORIZATION, CONNECTION, COOKIE, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};

use super::{rewrite, wanted_upgrade};
use crate::config::{self, IdentityHeaders, UpstreamUrl};
use crate::model::Group;
use crate::proxy::{Forward, ForwardContext, Proxy, UpstreamIndex};
use crate::tasks::Tasks;
use crate::wire::header;

static PROXY: LazyLock<Option<Arc<Proxy>>> = LazyLock::new(|| {
    let url = UpstreamUrl::Tcp { tls: false, host: "upstream.internal".to_owned(), port: 3000 };
    let upstream = config::Upstream::new("app", url);
    Proxy::new(&[upstream], &IdentityHeaders::default(), &Group::default_admin(), None, Tasks::new()).ok()
});

/// What only we say, whoever asks.
const OURS: [&str; 6] = ["host", "x-forwarded-for", "x-real-ip", "x-forwarded-proto", "forwarded", "x-request-id"];

/// Rewrites the head of a request of somebody whom nobody knows: a target, then a field a line, after a first byte that says
/// how it came. The upstream is told nothing about who asks, what it is told about from where is ours, nothing is left that
/// concerns another connection, one reader finds one request in it, and everything else is as it was.
///
/// # Panics
///
/// If something that must hold does not.
pub fn request_head(data: &[u8]) {
    let Some(proxy) = PROXY.as_ref() else { return assert!(PROXY.is_some(), "the proxy is good") };
    let Some((seed, text)) = data.split_first() else { return };
    let mut lines = text.split(|byte| *byte == b'\n');
    let Some(uri) = lines.next().and_then(|target| Uri::try_from(target).ok()) else { return };
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        if let (Some(Ok(name)), Some(Ok(value))) = (parts.next().map(HeaderName::from_bytes), parts.next().map(HeaderValue::from_bytes)) {
            headers.append(name, value);
        }
    }
    let (mut parts, ()): (Parts, ()) = http::Request::new(()).into_parts();
    (parts.uri, parts.headers) = (uri, headers);
    parts.version = if seed & 1 == 1 { Version::HTTP_2 } else { Version::HTTP_11 };
    let (trusted, has_body) = (seed & 2 == 2, seed & 4 == 4);
    let peer = IpAddr::V4(if trusted { Ipv4Addr::new(10, 0, 0, 1) } else { Ipv4Addr::new(192, 0, 2, 7) });
    let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let context = ForwardContext {
        request_id: "req-1",
        client,
        peer_trusted: trusted,
        peer: Some(peer),
        scheme: "https",
        host_header: "app.example.com",
        port: 443,
    };
    let how = Forward {
        upstream: UpstreamIndex(0),
        context: &context,
        identity: None,
        token: None,
        assertion: None,
        strip_authorization: seed & 8 == 8,
        private: false,
        strip_method_override: true,
        ended: None,
        hold: None,
        prefix: "/_nullpass",
        own_cookie: |_| false,
    };
    let Some(upstream) = proxy.upstreams.first() else { return };
    let before = parts.clone();
    let upgrade = wanted_upgrade(&parts, has_body);
    if rewrite(&mut parts, proxy, upstream, &how, upgrade.as_ref(), has_body).is_ok() {
        check(&before, &parts, &how, upgrade.is_some());
    }
}

fn check(before: &Parts, after: &Parts, how: &Forward<'_>, upgrades: bool) {
    let headers = &after.headers;
    let text = |name: &str| headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>();
    let path = before.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let target = target_of(after);
    assert!(target == path || target == format!("/{path}"), "{target:?} was {path:?}");
    assert!(target == "*" || target.starts_with('/'), "{target:?}");

    for name in OURS {
        assert_eq!(text(name).len(), 1, "{name}: {:?}", text(name));
    }
    assert_eq!(
        (text("host"), text("x-real-ip"), text("x-request-id")),
        (vec!["app.example.com".into()], vec!["192.0.2.7".into()], vec!["req-1".into()])
    );
    assert_eq!(text("x-forwarded-proto"), ["https"]);
    let (chain, forwarded) = (text("x-forwarded-for").concat(), text("forwarded").concat());
    if how.context.peer_trusted {
        assert!(
            chain.ends_with("10.0.0.1") && forwarded.ends_with("for=10.0.0.1;host=\"app.example.com\";proto=https"),
            "{chain} {forwarded}"
        );
    } else {
        assert_eq!((chain.as_str(), forwarded.as_str()), ("192.0.2.7", "for=192.0.2.7;host=\"app.example.com\";proto=https"));
    }

    let folded = |name: &HeaderName| name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    for (name, value) in headers {
        let folded = folded(name);
        let user = ["user", "email", "groups", "preferred-username"]
            .iter()
            .any(|fact| [format!("x-forwarded-{fact}"), format!("x-auth-request-{fact}")].contains(&folded));
        let others =
            ["remote-user", "remote-email", "remote-name", "remote-groups", "x-remote-user", "x-authentik-username", "x-authentik-uid"];
        let who = user || others.contains(&folded.as_str()) || folded.starts_with("x-nullpass-");
        assert!(!who, "{name}: somebody says who asks");
        let where_from = folded.starts_with("x-forwarded-") || folded.starts_with("x-original-") || folded.starts_with("x-rewrite-");
        let known = ["x-forwarded-host", "x-forwarded-port"].contains(&name.as_str()) || OURS.contains(&name.as_str());
        assert!(!where_from || known || how.context.peer_trusted, "{name}: a stranger says where it comes from");
        let overrides = ["x-http-method", "x-http-method-override", "x-method-override"].contains(&folded.as_str());
        assert!(!overrides && name != "proxy", "{name}");
        let framing = ["connection", "upgrade", "te", "transfer-encoding", "content-length"].contains(&name.as_str());
        let rewritten = known || framing || name == COOKIE;
        assert!(rewritten || before.headers.get_all(name).iter().any(|was| was == value), "{name}: nobody sent {value:?}");
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"] {
        assert!(text(name).is_empty(), "{name} is for one connection");
    }
    let connection = text("connection").concat();
    let expected = if upgrades {
        "upgrade"
    } else if headers.contains_key(TE) {
        "te"
    } else {
        ""
    };
    assert!(connection == expected && text("te").iter().all(|te| te == "trailers"), "{connection:?}");
    assert_eq!(headers.contains_key(UPGRADE), upgrades);
    assert!(text("content-length").len() + text("transfer-encoding").len() <= 1, "two lengths");
    assert!(text("transfer-encoding").iter().all(|coding| coding == "chunked") && text("cookie").len() <= 1);
    assert!(!how.strip_authorization || !headers.contains_key(AUTHORIZATION), "a credential of ours");

    // Nothing is lost but what has a reason.
    let named: BTreeSet<String> = header::list_members(&before.headers, &CONNECTION).map(str::to_ascii_lowercase).collect();
    for name in before.headers.keys().filter(|name| !headers.contains_key(*name)) {
        let folded = folded(name);
        let reasons =
            ["x-", "remote-", "proxy", "forwarded", "keep-alive", "connection", "te", "upgrade", "transfer-encoding", "content-length"];
        let known = reasons.iter().any(|start| folded.starts_with(start))
            || ["true-client-ip", "cf-connecting-ip", "client-ip"].contains(&folded.as_str());
        let ours = header::is_forwarding(name) || name == AUTHORIZATION;
        assert!(named.contains(name.as_str()) || known || ours, "{name} is lost");
    }
    one_request(after);
}

/// What is asked for, as it goes out: a path without anything in it is `/` there.
fn target_of(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// The head as it goes out: another reader finds the same fields.
fn one_request(parts: &Parts) {
    let mut bytes = format!("{} {} HTTP/1.1\r\n", parts.method, target_of(parts)).into_bytes();
    for (name, value) in &parts.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(b"\r\nrest");
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let status = request.parse(&bytes);
    assert_eq!(status, Ok(httparse::Status::Complete(bytes.len() - 4)), "{:?}", String::from_utf8_lossy(&bytes));
    assert_eq!(request.path, Some(target_of(parts)));
    assert_eq!(request.headers.len(), parts.headers.len());
}
