use super::super::request::tests::{context, how, proxy, upstream};
use super::*;

struct Case {
    strip: Option<&'static str>,
    pass_host: bool,
    private: bool,
    status: u16,
}

const PLAIN: Case = Case { strip: None, pass_host: true, private: false, status: 200 };

fn came(case: &Case, fields: &[(&str, &str)]) -> HeaderMap {
    let mut config = upstream();
    config.pass_host = case.pass_host;
    if let Some(path) = case.strip {
        config.strip_path = true;
        config.path = path.to_owned();
    }
    let proxy = proxy(config);
    let context = context();
    let mut how = how(&context);
    how.private = case.private;
    let mut answer = http::Response::builder().status(case.status);
    for (name, value) in fields {
        answer = answer.header(*name, *value);
    }
    let (mut parts, ()) = answer.body(()).unwrap().into_parts();
    rewrite(&mut parts, &proxy.upstreams[0], &how);
    parts.headers
}

fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

#[test]
fn a_cookie_that_would_pass_for_ours_is_dropped() {
    let sent = [
        ("set-cookie", "__Host-nullpass=x; Path=/; Secure"),
        ("set-cookie", "NullPass-device=x"),
        ("set-cookie", " nullpass =x"),
        ("set-cookie", "=nullpass=x"),
        ("set-cookie", " = =nullpass=x"),
        ("set-cookie", "nullpass"),
        ("set-cookie", "theirs=nullpass; Path=/a"),
        ("set-cookie", "other=1"),
    ];
    assert_eq!(all(&came(&PLAIN, &sent), "set-cookie"), ["theirs=nullpass; Path=/a", "other=1"]);
}

#[test]
fn clear_site_data_cant_end_the_session() {
    for (sent, expected) in [
        ("\"cache\", \"cookies\", \"storage\"", vec!["\"cache\", \"storage\""]),
        ("\"*\"", vec![]),
        ("\"cookies\"", vec![]),
        ("cookies", vec![]),
        ("\"cache\"", vec!["\"cache\""]),
    ] {
        assert_eq!(all(&came(&PLAIN, &[("clear-site-data", sent)]), "clear-site-data"), expected, "{sent}");
    }
}

#[test]
fn no_service_worker_may_cover_our_pages() {
    for (scope, kept) in [
        ("/app/", true),
        ("/", false),
        ("/_null", false),
        ("/_nullpass", false),
        ("/_nullpass/x", false),
        ("../", false),
        ("https://app.example.com/", false),
        ("//app.example.com/", false),
        ("/a/../", false),
        ("/%5Fnullpass", false),
        ("", false),
    ] {
        assert_eq!(came(&PLAIN, &[("service-worker-allowed", scope)]).contains_key("service-worker-allowed"), kept, "{scope}");
    }
}

#[test]
fn an_answer_for_one_person_stays_out_of_shared_caches() {
    let private = Case { private: true, ..PLAIN };
    for (sent, expected) in [
        (&[][..], "private"),
        (&["public, max-age=60"], "max-age=60, private"),
        (&["Public", "S-MaxAge=10, max-age=1"], "max-age=1, private"),
        (&["private"], "private"),
        (&["private=\"a, public\", no-cache"], "private=\"a, public\", no-cache, private"),
        (&["no-store"], "no-store, private"),
        (&[""], "private"),
    ] {
        let sent: Vec<_> = sent.iter().map(|value| ("cache-control", *value)).collect();
        assert_eq!(all(&came(&private, &sent), "cache-control"), [expected], "{sent:?}");
        assert_eq!(all(&came(&PLAIN, &sent), "cache-control").len(), sent.len());
    }
    assert!(!came(&private, &[("cdn-cache-control", "max-age=60")]).contains_key("cdn-cache-control"));
}

#[test]
fn what_concerns_one_connection_stays_there() {
    let sent = [("connection", "close, x-hop"), ("x-hop", "1"), ("keep-alive", "timeout=5"), ("upgrade", "h2c"), ("x-keep", "1")];
    let came_ = came(&PLAIN, &sent);
    assert_eq!(came_.keys().collect::<Vec<_>>(), ["x-keep"]);
    let switched = Case { status: 101, private: true, ..PLAIN };
    let came_ = came(&switched, &[("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "x")]);
    assert_eq!((all(&came_, "connection"), all(&came_, "upgrade")), (vec!["upgrade".to_owned()], vec!["websocket".to_owned()]));
    assert_eq!(came_.len(), 3);
}

#[test]
fn a_length_beside_a_transfer_coding_does_not_go_on() {
    let came_ = came(&PLAIN, &[("content-length", "5"), ("transfer-encoding", "chunked")]);
    assert!(came_.is_empty(), "{came_:?}");
    assert_eq!(all(&came(&PLAIN, &[("content-length", "5"), ("content-length", "5")]), "content-length"), ["5"]);
}

#[test]
fn a_204_says_no_length() {
    assert!(came(&Case { status: 204, ..PLAIN }, &[("content-length", "5")]).is_empty());
    // A 304 says that of what it stands for.
    assert_eq!(all(&came(&Case { status: 304, ..PLAIN }, &[("content-length", "5")]), "content-length"), ["5"]);
}

#[test]
fn the_prefix_is_put_back_into_locations() {
    let cut = Case { strip: Some("/app"), ..PLAIN };
    let own = Case { strip: Some("/app"), pass_host: false, ..PLAIN };
    for (case, sent, expected) in [
        (&cut, "/login?next=/a", "/app/login?next=/a"),
        (&cut, "/", "/app/"),
        (&cut, "/app/x", "/app/x"),
        (&cut, "/apple", "/app/apple"),
        (&cut, "relative", "relative"),
        (&cut, "//elsewhere/x", "//elsewhere/x"),
        (&cut, "https://elsewhere/x", "https://elsewhere/x"),
        (&cut, "https://app.example.com/x#y", "https://app.example.com/app/x#y"),
        (&cut, "https://App.Example.com", "https://App.Example.com/app/"),
        (&cut, "http://upstream.internal:3000/x", "http://upstream.internal:3000/x"),
        (&own, "http://upstream.internal:3000/x", "/app/x"),
        (&own, "http://upstream.internal:3000/app/x", "/app/x"),
        (&PLAIN, "/login", "/login"),
    ] {
        assert_eq!(all(&came(case, &[("location", sent)]), "location"), [expected], "{sent}");
    }
}

#[test]
fn the_prefix_is_put_back_into_cookie_paths() {
    let cut = Case { strip: Some("/app"), ..PLAIN };
    for (sent, expected) in [
        ("a=1; Path=/; Secure", "a=1; Path=/app/; Secure"),
        ("a=1; path = /x", "a=1; path =/app/x"),
        ("a=1; Path=/app/x", "a=1; Path=/app/x"),
        ("path=/x", "path=/x"),
        ("a=1", "a=1"),
    ] {
        assert_eq!(all(&came(&cut, &[("set-cookie", sent)]), "set-cookie"), [expected]);
    }
}
