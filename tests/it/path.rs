//! Paths: the rules see what the application gets, and what can be read in two ways gets the same answer in both.

use crate::support::Server;

const RULES: &str = "
[[rules]]
path = \"/public/**\"
policy = \"public\"
[[rules]]
path = \"/admin/**\"
policy = \"authenticated\"
groups = [\"admins\"]
[[rules]]
path = \"/*.png\"
policy = \"public\"
";

// PATH-1: a raw `#` ends the path for us and for the application; an encoded one is data.
#[tokio::test]
async fn a_hash_opens_nothing() {
    let server = Server::start(RULES).await;
    for target in ["/private#/public/a", "/private#.png", "/admin/%23.png", "/admin%23/../public/a", "/private?x#/public/"] {
        let answer = server.get(target, &[]).await;
        assert!(matches!(answer.status, 400 | 401), "{target}: {}", answer.status);
    }
    assert!(server.upstream.take().is_empty());
    server.get("/public/a#secret", &[]).await;
    for request in server.upstream.take() {
        assert_eq!(request.target(), "/public/a");
    }
    server.get("/public/a%23b", &[]).await.is(200);
    assert_eq!(server.upstream.only().target(), "/public/a%23b");
}

// PATH-2: the query decides nothing, and globs are anchored.
#[tokio::test]
async fn the_query_opens_nothing() {
    let server = Server::start(RULES).await;
    for target in [
        "/private?/public/a",
        "/private?x=.png",
        "/?/public/",
        "/private/public/a",
        "/publicx/a",
        "/x/a.png",
        "/a.png/private",
        "/PUBLIC/a",
    ] {
        server.get(target, &[]).await.is(401);
    }
    assert!(server.upstream.take().is_empty());
    server.get("/a.png?x=/admin/", &[]).await.is(200);
    assert_eq!(server.upstream.only().target(), "/a.png?x=/admin/");
}

// PATH-3: what was matched is what is forwarded, byte for byte.
#[tokio::test]
async fn honest_paths_arrive_as_they_were_sent() {
    let server = Server::start(RULES).await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    for target in [
        "/",
        "/a/b/c?d=%2e%2e/%2f&e=a;b",
        "/group%2Fproject/-/raw",
        "/a//b",
        "/app;jsessionid=1/x",
        "/%C3%BC/%7euser/%41",
        "/a:b@c,d=e!$&'()*+",
        "/x%25y",
        "/%5Cunc",
        "/a/b/",
        "/a?b?c#",
    ] {
        server.get(target, &[("authorization", &bearer)]).await.is(200);
        assert_eq!(server.upstream.only().target(), target.trim_end_matches('#'), "{target}");
    }
}

// PATH-3 after a prefix was cut.
#[tokio::test]
async fn a_cut_prefix_is_cut_as_it_was_matched() {
    let toml = "[[upstreams]]\nname = \"app\"\nurl = \"{upstream}\"\npath = \"/app\"\nstrip_path = true\n[[rules]]\npath = \"/app/public/**\"\npolicy = \"public\"\n";
    let server = Server::start(toml).await;
    server.get("/app/public/a%2Fb?c", &[]).await.is(200);
    let request = server.upstream.only();
    assert_eq!((request.target(), request.one("x-forwarded-prefix").as_deref()), ("/public/a%2Fb?c", Some("/app")));
    for target in ["/%61pp/public/a", "/app%2Fpublic/a", "//app/public/a", "/app;x/public/a", "/apple/public/a", "/app/../app/public/a"] {
        let answer = server.get(target, &[]).await;
        assert!(matches!(answer.status, 400 | 401 | 404), "{target}: {}", answer.status);
    }
    assert!(server.upstream.take().is_empty());
}

// PATH-4, PATH-5, PATH-6, cross-cutting 1: whatever some server could read as another path is decided as that one too.
#[tokio::test]
async fn no_reading_reaches_a_weaker_rule() {
    let server = Server::start(RULES).await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let always_bad = [
        "/public/../admin/x",
        "/public/%2e%2e/admin/x",
        "/public/.%2E/admin/x",
        "/public/./x",
        "/public/%2e/x",
        "/public/..%2fadmin/x",
        "/public/..%5cadmin/x",
        "/public/..\\admin/x",
        "/public/%252e%252e/admin/x",
        "/public/..;/admin/x",
        "/public/..;a=b/admin/x",
        "/public/a%00",
        "/public/a%0d%0aX:y",
        "/public/%c0%ae%c0%ae/admin/x",
        "/public/%zz",
        "/public/%",
        "/public/%2",
        "/public/..",
        "/public/%2e%2e",
    ];
    for target in always_bad {
        assert_eq!(server.get(target, &[]).await.status, 400, "{target}");
        assert_eq!(server.get(target, &[("authorization", &bearer)]).await.status, 400, "{target}");
    }
    // These are read differently: 400 where the answers differ. Never a 200 without the rights for every reading.
    for target in [
        "//admin/x",
        "/%61dmin/x",
        "/admin;a=b/x",
        "/admin%2Fx",
        "/admin%5Cx",
        "/ADMIN/x",
        "/%2561dmin/x",
        "/public%2F..%2Fadmin",
        "/public//../admin/x",
        "/x%2Fa.png",
        "/%2Fadmin/x",
        "/admin/x;.png",
        "/admin%2fx.png",
        "/admin%252fx.png",
    ] {
        let answer = server.get(target, &[("authorization", &bearer)]).await;
        assert!(matches!(answer.status, 400 | 403), "{target}: {}", answer.status);
        let answer = server.get(target, &[]).await;
        assert!(matches!(answer.status, 400 | 401), "{target}: {}", answer.status);
    }
    assert!(server.upstream.take().is_empty());
    assert_eq!(server.get("/admin%2Fx.png", &[]).await.code(), "ambiguous_path");
}

// RTE-1, cross-cutting 7: our routes are under the prefix, in whole segments, and the prefix is never forwarded.
#[tokio::test]
async fn our_routes_are_under_the_prefix_alone() {
    let server = Server::start("[[rules]]\npath = \"/**\"\npolicy = \"public\"\n").await;
    for target in ["/_auth/nothing", "/_auth/api/nothing", "/_auth/login/", "/_auth/api/auth/me/x", "/_auth/API/health"] {
        server.get(target, &[]).await.is(404);
    }
    for target in ["/%5fauth/login", "//_auth/login", "/_auth%2Flogin", "/_auth;x/login", "/x/..%2f_auth/login"] {
        let answer = server.get(target, &[]).await;
        assert!(matches!(answer.status, 400 | 404), "{target}: {}", answer.status);
    }
    assert!(server.upstream.take().is_empty(), "the prefix is ours in every reading");
    for target in ["/_authx/login", "/x/_auth/login", "/?/_auth/api/auth/login", "/_AUTH/login", "/login?_auth=callback", "/_aut/login"] {
        server.get(target, &[]).await.is(200);
        assert_eq!(server.upstream.only().target(), target);
    }
}

// BYP-1: a path is decided whatever the method and the version of HTTP.
#[tokio::test]
async fn every_method_meets_the_rule() {
    let server = Server::start(RULES).await;
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "REPORT", "TRACE", "FOO", "get"] {
        assert_eq!(server.send(method, "/private", &[], b"").await.status, 401, "{method}");
    }
    server.send("CONNECT", "app.example.com:443", &[("host", "app.example.com:443")], b"").await.is(405);
    let star = server.send("OPTIONS", "*", &[], b"").await;
    assert!(matches!(star.status, 400 | 401), "{}", star.status);
    let mut connection = server.connect().await;
    connection.write(b"GET /private HTTP/1.0\r\nHost: app.example.com\r\n\r\n").await;
    connection.answer(false).await.unwrap().is(401);
    assert!(server.upstream.take().is_empty());
}
