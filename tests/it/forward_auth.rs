//! Forward-auth: the same decisions as for forwarded requests, and nothing but a refusal where anything is in doubt.

use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::support::{Answer, Connection, Server, basic};

const HEAD: &str = "
[server]
trusted_proxies = [\"127.0.0.1\", \"::1\"]
";

const RULES: &str = "
[[rules]]
path = \"/public/**\"
policy = \"public\"
[[rules]]
path = \"/read/**\"
methods = [\"GET\"]
policy = \"public\"
[[rules]]
path = \"/admin/**\"
policy = \"authenticated\"
groups = [\"admins\"]
[[rules]]
path = \"/vault/**\"
policy = \"two_factor\"
[[rules]]
path = \"/fresh/**\"
policy = \"authenticated\"
max_auth_age = \"10m\"
[[rules]]
path = \"/dav/**\"
policy = \"authenticated\"
basic = true
[[rules]]
path = \"/never/**\"
policy = \"deny\"
";

/// Every name that a 200 carries.
const NAMES: [&str; 20] = [
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-user-id",
    "x-forwarded-name",
    "x-forwarded-groups",
    "remote-user",
    "x-remote-user",
    "remote-email",
    "remote-name",
    "remote-groups",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-preferred-username",
    "x-auth-request-groups",
    "x-authentik-username",
    "x-authentik-email",
    "x-authentik-name",
    "x-authentik-uid",
    "x-authentik-groups",
];

async fn server() -> Server {
    Server::start(&format!("{HEAD}{RULES}")).await
}

/// As Traefik and Caddy ask.
fn forwarded<'a>(method: &'a str, uri: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![("X-Forwarded-Method", method), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "app.example.com"), ("X-Forwarded-Uri", uri)]
}

async fn ask(server: &Server, fields: &[(&str, &str)], more: &[(&str, &str)]) -> Answer {
    server.get("/_auth/forward-auth", &[fields, more].concat()).await
}

// FWD-6, HDR-2: every name is there, with what there is to say.
#[tokio::test]
async fn a_yes_carries_every_identity_header() {
    let server = server().await;
    let user = server.account_named("ada@example.com", Some("Ada"), &["staff", "ops"]).await;
    let bearer = format!("Bearer {}", server.log_in("ada@example.com").await);
    let yes = ask(&server, &forwarded("GET", "/private"), &[("authorization", &bearer)]).await.is(200);
    for name in NAMES {
        assert_eq!(yes.all(name).len(), 1, "{name}");
    }
    assert_eq!(yes.field("x-forwarded-user"), "ada@example.com");
    assert_eq!(yes.field("x-forwarded-email"), "ada@example.com");
    assert_eq!(yes.field("x-forwarded-name"), "Ada");
    assert_eq!(yes.field("x-forwarded-groups"), "ops,staff");
    assert_eq!(yes.field("x-forwarded-user-id"), user.id.to_string());
    assert_eq!(yes.field("remote-user"), "", "not the preset that is configured");
    assert_eq!(yes.field("cache-control"), "no-store");
    assert!(!yes.field("x-request-id").is_empty());
    assert!(yes.body.is_empty());
    // Nobody is signed in: the same names, all empty.
    let public = ask(&server, &forwarded("GET", "/public/a"), &[("x-forwarded-user", "mallory")]).await.is(200);
    for name in NAMES {
        assert_eq!(public.all(name), [""], "{name}");
    }
    // A known person is announced on a public path too.
    let public = ask(&server, &forwarded("GET", "/public/a"), &[("authorization", &bearer)]).await.is(200);
    assert_eq!(public.field("x-forwarded-user"), "ada@example.com");
    assert!(server.upstream.take().is_empty(), "nothing is forwarded");
}

#[tokio::test]
async fn presets_extra_headers_and_the_assertion_are_told() {
    let toml = format!(
        "{HEAD}
[identity]
preset = \"remote\"
headers = {{ \"X-How\" = \"amr\", \"X-Tenant\" = \"attr.tenant\" }}
assertion = {{ header = \"X-Nullpass-Assertion\", ttl = \"60s\" }}
forward_token = true
[[upstreams]]
name = \"app\"
url = \"{{upstream}}\"
preset = \"authentik\"
{RULES}"
    );
    let server = Server::start(&toml).await;
    server.account("ada@example.com", &[]).await;
    let token = server.log_in("ada@example.com").await;
    let cookie = format!("nullpass={token}");
    let yes = ask(&server, &forwarded("POST", "/private?x=1"), &[("cookie", &cookie)]).await.is(200);
    assert_eq!(yes.field("remote-user"), "ada@example.com");
    assert_eq!(yes.field("x-authentik-username"), "ada@example.com");
    assert_eq!(yes.all("x-forwarded-user"), [""]);
    assert_eq!(yes.field("x-how"), "pwd");
    assert_eq!(yes.all("x-tenant"), [""]);
    assert_eq!(yes.field("authorization"), format!("Bearer {token}"));
    let claims = yes.field("x-nullpass-assertion").split('.').nth(1).unwrap().to_owned();
    let claims: serde_json::Value = {
        use base64::Engine as _;
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
    };
    assert_eq!((&claims["method"], &claims["path"], &claims["aud"]), (&json!("POST"), &json!("/private"), &json!("app")));
    let public = ask(&server, &forwarded("GET", "/public/a"), &[]).await.is(200);
    assert_eq!(public.all("x-nullpass-assertion"), [""]);
    assert!(public.all("authorization").is_empty());
}

#[tokio::test]
async fn every_rule_decides_as_it_does_for_forwarded_requests() {
    let server = server().await;
    server.account("ada@example.com", &[]).await;
    server.account("root@example.com", &["admins"]).await;
    let ada = format!("Bearer {}", server.log_in("ada@example.com").await);
    let root = format!("Bearer {}", server.log_in("root@example.com").await);
    let password = basic("ada@example.com", crate::support::PASSWORD);
    for (method, uri, who, status, code) in [
        ("GET", "/public/a", "", 200, ""),
        ("DELETE", "/public/a?b=c", "", 200, ""),
        ("GET", "/read/a", "", 200, ""),
        ("POST", "/read/a", "", 401, "sign_in_required"),
        ("get", "/read/a", "", 401, "sign_in_required"),
        ("HEAD", "/read/a", "", 401, "sign_in_required"),
        ("GET", "/private", "", 401, "sign_in_required"),
        ("GET", "/PUBLIC/a", "", 401, "sign_in_required"),
        ("GET", "/private", "Bearer np_none", 401, "sign_in_required"),
        ("GET", "/public/a", "Bearer np_none", 401, "sign_in_required"),
        ("GET", "/private", "Bearer somebody.elses.token", 401, "sign_in_required"),
        ("GET", "/private", &ada, 200, ""),
        ("PROPFIND", "/private", &ada, 200, ""),
        ("GET", "/admin/a", &ada, 403, "forbidden"),
        ("GET", "/Admin/a", &ada, 403, "forbidden"),
        ("GET", "/admin/a", &root, 200, ""),
        ("GET", "/vault/a", &ada, 403, "second_factor_enrolment_required"),
        ("GET", "/never/a", &root, 403, "forbidden"),
        ("GET", "/fresh/a", &ada, 200, ""),
        ("GET", "/dav/a", &password, 200, ""),
        ("GET", "/private", &password, 401, "sign_in_required"),
        ("GET", "/_auth/account", &ada, 403, "own_route"),
        ("GET", "/_auth", "", 403, "own_route"),
    ] {
        let mut more = Vec::new();
        if !who.is_empty() {
            more.push(("authorization", who));
        }
        let answer = ask(&server, &forwarded(method, uri), &more).await;
        assert_eq!(answer.status, status, "{method} {uri} {}", answer.text());
        if status == 200 {
            assert_eq!(answer.field("x-forwarded-user").is_empty(), who.is_empty(), "{method} {uri}");
        } else {
            assert_eq!(answer.code(), code, "{method} {uri}");
            assert_eq!(answer.field("cache-control"), "no-store");
            assert!(answer.all("x-forwarded-user").is_empty(), "{method} {uri}");
        }
    }
    // Basic is offered where it is taken.
    assert!(
        ask(&server, &forwarded("GET", "/dav/a"), &[]).await.is(401).all("www-authenticate").iter().any(|way| way.starts_with("Basic"))
    );
    // A password goes stale, and a session ends.
    server.wait(11 * 60);
    assert_eq!(ask(&server, &forwarded("GET", "/fresh/a"), &[("authorization", &ada)]).await.is(403).code(), "fresh_password_required");
    server.api("POST", "/auth/logout", Some(ada.trim_start_matches("Bearer ")), &json!({})).await;
    ask(&server, &forwarded("GET", "/private"), &[("authorization", &ada)]).await.is(401);
    assert!(server.upstream.take().is_empty());
}

#[tokio::test]
async fn an_api_token_reaches_as_far_as_its_scope() {
    let server = server().await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let body = json!({ "name": "t", "paths": ["/docs/**"], "methods": ["GET"] });
    let made = server.api("POST", "/auth/tokens", Some(&token), &body).await.is(201).json();
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    let of = [("authorization", bearer.as_str())];
    ask(&server, &forwarded("GET", "/docs/a"), &of).await.is(200);
    assert_eq!(ask(&server, &forwarded("POST", "/docs/a"), &of).await.is(403).code(), "token_scope");
    assert_eq!(ask(&server, &forwarded("GET", "/other"), &of).await.is(403).code(), "token_scope");
}

#[tokio::test]
async fn a_cookie_does_not_act_for_another_site() {
    let server = server().await;
    server.account("ada@example.com", &[]).await;
    let cookie = format!("nullpass={}", server.log_in_by_cookie("ada@example.com").await);
    let foreign = [("cookie", cookie.as_str()), ("origin", "http://evil.example")];
    assert_eq!(ask(&server, &forwarded("POST", "/private"), &foreign).await.is(403).code(), "cross_site");
    ask(&server, &forwarded("GET", "/private"), &foreign).await.is(200);
    // A WebSocket's handshake, from which the proxy has taken the hop-by-hop `Upgrade`.
    let handshake = [foreign[0], foreign[1], ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];
    assert_eq!(ask(&server, &forwarded("GET", "/private"), &handshake).await.is(403).code(), "cross_site");
    // One over HTTP/2, which has no key, and of which the proxy makes a GET.
    let handshake = [foreign[0], foreign[1], ("sec-websocket-version", "13")];
    assert_eq!(ask(&server, &forwarded("GET", "/private"), &handshake).await.is(403).code(), "cross_site");
    // On a public path it is as if nobody had signed in.
    assert_eq!(ask(&server, &forwarded("POST", "/public/a"), &foreign).await.is(200).field("x-forwarded-user"), "");
    // The origin is that of the request that is asked about, not of the question.
    let own = [("cookie", cookie.as_str()), ("origin", "http://app.example.com"), ("host", "nullpass.internal")];
    ask(&server, &forwarded("POST", "/private"), &own).await.is(200);
}

// FWD-2: a header that names another method is nobody's business where no rule asks for one.
#[tokio::test]
async fn a_method_override_is_in_doubt_where_rules_have_methods() {
    let server = Server::start(&format!("{HEAD}[[rules]]\nhost = \"other.example.com\"\nmethods = [\"GET\"]\npolicy = \"public\"\n[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n")).await;
    let field = [("x-http-method-override", "DELETE")];
    ask(&server, &forwarded("GET", "/public/a"), &field).await.is(200);
    let mut other = forwarded("GET", "/public/a");
    other[2].1 = "other.example.com";
    assert_eq!(ask(&server, &other, &field).await.is(400).code(), "bad_forward_auth");
    ask(&server, &other, &[]).await.is(200);
}

// FWD-1, FWD-2: who is no proxy of ours learns nothing.
#[tokio::test]
async fn nobody_but_a_trusted_proxy_may_ask() {
    let server = Server::start(RULES).await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    for (target, fields) in [
        ("/_auth/forward-auth", forwarded("GET", "/public/a")),
        ("/_auth/forward-auth", vec![]),
        ("/_auth/forward-auth?mode=other", vec![]),
        ("/_auth/forward-auth/public/a", vec![]),
    ] {
        let answer = server.get(target, &[fields.as_slice(), &[("authorization", &bearer)]].concat()).await.is(403);
        assert_eq!(answer.code(), "untrusted_proxy", "{target}");
    }
    server.get("/_auth/forward-auth?mode=status", &forwarded("GET", "/public/a")).await.is(403);
}

// FWD-2: whatever is not certain is 400.
#[tokio::test]
async fn any_doubt_is_a_refusal() {
    let server = server().await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let (m, p, h, u) = (
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "app.example.com"),
        ("X-Forwarded-Uri", "/public/a"),
    );
    let (om, ou) = ("X-Original-Method", "X-Original-URL");
    let url = "http://app.example.com/public/a";
    let mut wrong: Vec<Vec<(&str, &str)>> = vec![
        vec![],
        vec![p, h],
        // Missing.
        vec![p, h, u],
        vec![m, h, u],
        vec![m, p, u],
        vec![m, p, h],
        vec![(ou, url)],
        vec![(om, "GET")],
        vec![(om, "GET"), (ou, "/public/a")],
        vec![(om, "GET"), (ou, "/public/a"), p],
        vec![(om, "GET"), (ou, "/public/a"), h],
        vec![("X-Original-URI", "/public/a"), m, p, h],
        vec![("X_Forwarded_Uri", "/public/a"), m, p, h],
        // Repeated.
        vec![m, p, h, u, u],
        vec![m, p, h, u, ("X-Forwarded-Uri", "/private")],
        vec![m, m, p, h, u],
        vec![m, p, p, h, u],
        vec![m, p, h, h, u],
        vec![(om, "GET"), (ou, url), (ou, url)],
        vec![(om, "GET"), (om, "GET"), (ou, url)],
        // Two ways at once.
        vec![m, p, h, u, (ou, url)],
        vec![m, p, h, u, (om, "GET")],
        vec![(om, "GET"), (ou, url), u],
        vec![(om, "GET"), (ou, url), m],
        // Contradictions.
        vec![(om, "GET"), (ou, url), ("X-Forwarded-Proto", "https")],
        vec![(om, "GET"), (ou, url), ("X-Forwarded-Host", "other.example.com")],
        vec![(om, "GET"), (ou, url), ("X-Forwarded-Host", "app.example.com:81")],
        // Malformed.
        vec![("X-Forwarded-Method", "G ET"), p, h, u],
        vec![("X-Forwarded-Method", ""), p, h, u],
        vec![("X-Forwarded-Method", "GET, POST"), p, h, u],
        vec![("X-Forwarded-Method", "CONNECT"), p, h, u],
        vec![m, ("X-Forwarded-Proto", "https,http"), h, u],
        vec![m, ("X-Forwarded-Proto", "javascript"), h, u],
        vec![m, ("X-Forwarded-Proto", ""), h, u],
        vec![m, p, ("X-Forwarded-Host", "a.example, b.example"), u],
        vec![m, p, ("X-Forwarded-Host", "user@app.example.com"), u],
        vec![m, p, ("X-Forwarded-Host", "app.example.com/x"), u],
        vec![m, p, ("X-Forwarded-Host", "127.1"), u],
        vec![m, p, ("X-Forwarded-Host", ""), u],
        // An identity header in disguise.
        vec![m, p, h, u, ("X_Forwarded_User", "root")],
        vec![m, p, h, u, ("x-forwarded.user", "root")],
        vec![m, p, h, u, ("Remote_User", "root")],
        vec![m, p, h, u, ("x_nullpass_anything", "root")],
        vec![m, p, h, u, ("X~Forwarded~User", "root")],
        // Where it comes from, in disguise.
        vec![m, p, h, u, ("X_Forwarded_For", "127.0.0.1")],
        vec![m, p, h, u, ("X_Original_Url", "/admin/a")],
        // Another path or method for applications that let a header say so; the gateway would take these out.
        vec![m, p, h, u, ("X-Rewrite-URL", "/admin/a")],
        vec![m, p, h, u, ("X-HTTP-Method-Override", "DELETE")],
        vec![m, p, h, u, ("x_http_method", "DELETE")],
    ];
    for target in [
        "",
        "public/a",
        "*",
        "http://app.example.com/public/a",
        "/public/a#b",
        "/public/a?x#b",
        "/public/a#/../admin",
        "/public/a b",
        "/public/a\tb",
        "/public/\u{e9}",
        "/public/../admin/a",
        "/public/./a",
        "/public/%2e%2e/admin/a",
        "/public/%2E./admin/a",
        "/public/..%2fadmin/a",
        "/public/%252e%252e/admin/a",
        "/public/..;/admin/a",
        "/public/%00",
        "/public/%0a",
        "/public/%zz",
        "/public/%",
        "/public/%c0%ae",
        "/public%2fa",
        "/public\\a",
        "/x;/../public/a",
        "/public%2f..%2fadmin/a",
        "//public/a",
        "/public/a/?\u{7f}",
    ] {
        wrong.push(vec![m, p, h, ("X-Forwarded-Uri", target)]);
        wrong.push(vec![p, h, (om, "GET"), (ou, target)]);
    }
    for url in [
        "",
        "app.example.com/public/a",
        "//app.example.com/public/a",
        "http:/app.example.com/public/a",
        "http://app.example.com",
        "http://app.example.com?/public/a",
        "http://app.example.com#/public/a",
        "http:///public/a",
        "http://user@app.example.com/public/a",
        "http://app.example.com\\@x/public/a",
        "http://app.example.com:port/public/a",
        "ftp://app.example.com/public/a",
        "http://app.example.com/private/../public/a",
        "http://app.example.com/public/a#b",
    ] {
        wrong.push(vec![(om, "GET"), (ou, url)]);
    }
    for fields in &wrong {
        for more in [&[][..], &[("authorization", bearer.as_str())]] {
            let answer = ask(&server, fields, more).await;
            // With a path beside it, `X-Original-URL: //…` and an absolute target are readable; then the rules decide.
            let readable = fields.iter().any(|(name, value)| *name == ou && value.starts_with("http://") && fields.len() == 4);
            if readable {
                continue;
            }
            assert_eq!(answer.status, 400, "{fields:?} {}", answer.text());
        }
    }
    // The same below the route.
    for (target, fields) in [
        ("/public/../admin/a", vec![]),
        ("/public/%2e%2e/admin/a", vec![]),
        ("/public%2fa", vec![]),
        ("//public/a", vec![]),
        ("/public/a", vec![u]),
        ("/public/a", vec![(ou, url)]),
        ("/public/a", vec![("X-Forwarded-Host", "other.example.com")]),
        ("/public/a", vec![("X-Forwarded-Proto", "gopher")]),
        ("/public/a", vec![p, p]),
        ("/public/a", vec![("X_Forwarded_User", "root")]),
        ("/public/a", vec![("X-Rewrite-Url", "/admin/a")]),
        ("/public/a", vec![("X-Method-Override", "DELETE")]),
    ] {
        let answer = server.get(&format!("/_auth/forward-auth{target}"), &fields).await;
        assert_eq!(answer.status, 400, "{target} {fields:?} {}", answer.text());
    }
    for query in ["mode=", "mode=redirect", "mode=status&mode=status", "mode=STATUS"] {
        assert_eq!(server.get(&format!("/_auth/forward-auth?{query}"), &forwarded("GET", "/public/a")).await.status, 400, "{query}");
    }
    for spelling in ["/_auth/forward-auth%2fpublic/a", "/_auth/forward-authx", "/_auth/Forward-Auth", "/_auth//forward-auth"] {
        assert_ne!(server.get(spelling, &forwarded("GET", "/public/a")).await.status, 200, "{spelling}");
    }
}

#[tokio::test]
async fn each_way_to_ask_is_understood() {
    let server = server().await;
    let host = ("X-Forwarded-Host", "app.example.com");
    let proto = ("X-Forwarded-Proto", "https");
    for fields in [
        vec![("X-Original-Method", "GET"), ("X-Original-URL", "https://app.example.com/public/a?b=c")],
        vec![("X-Original-Method", "GET"), ("X-Original-URL", "https://app.example.com:443/public/a"), host, proto],
        vec![("X-Original-Method", "GET"), ("X-Original-URL", "/public/a?b=/../"), host, proto],
        vec![("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/public/a"), host, ("X-Forwarded-Proto", "wss")],
    ] {
        for method in ["GET", "HEAD", "POST", "PROPFIND", "OPTIONS", "DELETE"] {
            let answer = server.send(method, "/_auth/forward-auth", &fields, b"").await;
            assert_eq!(answer.status, 200, "{method} {fields:?} {}", answer.text());
        }
    }
    // Envoy: the request itself, below the route.
    for (method, target, status) in [
        ("GET", "/public/a?b=c", 200),
        ("POST", "/public/a", 200),
        ("GET", "/read/a", 200),
        ("POST", "/read/a", 401),
        ("GET", "/", 401),
        ("GET", "/?mode=status", 401),
        ("GET", "/public/a?mode=nonsense", 200),
        ("GET", "/_auth/forward-auth/public/a", 403),
    ] {
        let answer = server.send(method, &format!("/_auth/forward-auth{target}"), &[proto], b"").await;
        assert_eq!(answer.status, status, "{method} {target} {}", answer.text());
    }
}

// HOST-1: the host that is asked about has one spelling, and must be served here.
#[tokio::test]
async fn the_host_selects_as_in_the_gateway() {
    let toml = "
[server]
trusted_proxies = [\"127.0.0.1\"]
allowed_hosts = [\"open.example.com\", \"*.app.example.com\"]
[[rules]]
host = \"open.example.com\"
policy = \"public\"
";
    let server = Server::start(toml).await;
    for (host, status) in [
        ("open.example.com", 200),
        ("OPEN.Example.com.:8443", 200),
        ("a.app.example.com", 401),
        ("app.example.com", 421),
        ("open.example.com.evil.test", 421),
    ] {
        // The question's own Host is the same: it is checked as well.
        let fields = [("host", "open.example.com"), ("X-Original-Method", "GET"), ("X-Original-URL", &format!("https://{host}/a")[..])];
        assert_eq!(ask(&server, &fields, &[]).await.status, status, "{host}");
        let below = server.get("/_auth/forward-auth/a", &[("host", host)]).await;
        assert_eq!(below.status, status, "{host}");
    }
}

const NAVIGATION: [(&str, &str); 3] = [("accept", "text/html"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];

// FWD-4, RED-1
#[tokio::test]
async fn navigations_are_sent_to_the_sign_in_page() {
    let at = |host: &'static str, uri: &'static str| {
        vec![("X-Forwarded-Method", "GET"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", host), ("X-Forwarded-Uri", uri)]
    };
    let login = "/_auth/login?rd=%2Fprivate%3Fa%3Db";
    // Nothing says which hosts are ours: the browser resolves a path.
    let server = server().await;
    let answer = ask(&server, &at("app.example.com", "/private?a=b"), &NAVIGATION).await.is(302);
    assert_eq!(answer.field("location"), login);
    assert_eq!(answer.field("cache-control"), "no-store");
    // By status alone, never a redirect.
    let fields = [&at("app.example.com", "/private?a=b")[..], &NAVIGATION].concat();
    let answer = server.get("/_auth/forward-auth?mode=status", &fields).await.is(401);
    assert_eq!((answer.field("x-nullpass-location"), answer.field("location"), answer.body.len()), (login, "", 0));
    let answer = server.get("/_auth/forward-auth?mode=status", &at("app.example.com", "/private")).await.is(401);
    assert_eq!((answer.field("x-nullpass-location"), answer.body.len()), ("", 0));
    // What is no navigation of a whole tab by GET is not sent elsewhere.
    let mut post = fields.clone();
    post[0].1 = "POST";
    assert_eq!(server.get("/_auth/forward-auth", &post).await.is(401).field("location"), "");
    server
        .get("/_auth/forward-auth", &[&at("app.example.com", "/private")[..], &[("content-type", "application/grpc")]].concat())
        .await
        .is(401);
    // A second factor is a step of its own.
    server.account("ada@example.com", &[]).await;
    let cookie = format!("nullpass={}", server.log_in_by_cookie("ada@example.com").await);
    let vault = [&at("app.example.com", "/vault/a")[..], &NAVIGATION, &[("cookie", cookie.as_str())]].concat();
    assert_eq!(server.get("/_auth/forward-auth", &vault).await.is(302).field("location"), "/_auth/account/2fa?rd=%2Fvault%2Fa");
    let answer = server.get("/_auth/forward-auth?mode=status", &vault).await.is(403);
    assert_eq!(answer.field("x-nullpass-location"), "/_auth/account/2fa?rd=%2Fvault%2Fa");

    // Hosts that are ours.
    let server = Server::start("[server]\ntrusted_proxies = [\"127.0.0.1\"]\nallowed_hosts = [\"app.example.com\"]\n").await;
    let answer = ask(&server, &at("app.example.com", "/private?a=b"), &NAVIGATION).await.is(302);
    assert_eq!(answer.field("location"), format!("https://app.example.com{login}"));

    // A public address, good for a whole site.
    let toml = "
[server]
trusted_proxies = [\"127.0.0.1\"]
public_url = \"https://auth.example.com\"
[sessions]
cookie = { domain = \"example.com\" }
";
    let server = Server::start(toml).await;
    for (host, location) in [
        ("auth.example.com", "https://auth.example.com/_auth/login?rd=%2Fprivate%3Fa%3Db"),
        ("app.example.com", "https://auth.example.com/_auth/login?rd=https%3A%2F%2Fapp.example.com%2Fprivate%3Fa%3Db"),
        ("evil.test", "/_auth/login?rd=%2Fprivate%3Fa%3Db"),
    ] {
        assert_eq!(ask(&server, &at(host, "/private?a=b"), &NAVIGATION).await.is(302).field("location"), location, "{host}");
    }
}

#[tokio::test]
async fn a_renewed_cookie_goes_out_with_a_navigation() {
    let server = server().await;
    server.account("ada@example.com", &[]).await;
    let cookie = format!("nullpass={}", server.log_in_by_cookie("ada@example.com").await);
    let fields = |more: &[(&'static str, &'static str)]| {
        let mut fields = forwarded("GET", "/private");
        fields.extend_from_slice(more);
        fields.push(("cookie", &cookie));
        fields
    };
    assert_eq!(ask(&server, &fields(&NAVIGATION), &[]).await.is(200).cookie("nullpass"), None);
    server.wait(5 * 24 * 3600);
    assert_eq!(ask(&server, &fields(&[]), &[]).await.is(200).cookie("nullpass"), None);
    let renewed = ask(&server, &fields(&NAVIGATION), &[]).await.is(200);
    assert!(renewed.cookie("nullpass").is_some());
    assert_eq!(renewed.field("cache-control"), "private, no-store");
    assert_eq!(renewed.field("x-forwarded-user"), "ada@example.com");
}

// FAIL-2
#[tokio::test]
async fn without_the_store_protected_paths_are_503() {
    let server = server().await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    server.set_store_away(true).await;
    server.wait(3600);
    server.auth().check_store(std::time::Duration::from_secs(1)).await;
    ask(&server, &forwarded("GET", "/private"), &[("authorization", &bearer)]).await.is(503);
    assert_eq!(ask(&server, &forwarded("GET", "/public/a"), &[("authorization", &bearer)]).await.is(200).field("x-forwarded-user"), "");
}

#[tokio::test]
async fn a_body_is_not_read_and_does_no_harm() {
    let server = server().await;
    let mut connection = server.connect().await;
    let body = b"GET /private HTTP/1.1\r\nHost: app.example.com\r\n\r\n";
    connection.send("POST", "/_auth/forward-auth", &forwarded("POST", "/public/a"), body).await.is(200);
    // Whatever comes next on the connection, it is never an answer to the body.
    let fields = forwarded("GET", "/public/b");
    let head = fields.iter().fold(String::new(), |head, (name, value)| head + name + ": " + value + "\r\n");
    connection.write(format!("GET /_auth/forward-auth HTTP/1.1\r\nHost: app.example.com\r\n{head}\r\n").as_bytes()).await;
    if let Some(answer) = connection.answer(false).await {
        answer.is(200);
    }
    assert!(server.upstream.take().is_empty());
}

/// One value of each header, or none, or two; the request that a correct proxy would mean is known.
fn values(good: &'static [&'static str], bad: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![
        12 => prop::sample::select(good).prop_map(|value| vec![value]),
        1 => Just(Vec::new()),
        1 => prop::sample::select(bad).prop_map(|value| vec![value]),
        1 => (prop::sample::select(good), prop::sample::select(bad)).prop_map(|(a, b)| vec![a, b]),
    ]
}

const GOOD_PATHS: &[&str] = &["/public/a", "/public/a?x=/private", "/private", "/admin/a", "/read/a"];
const BAD_PATHS: &[&str] = &["", "public/a", "/public/../private", "/public/a#b", "/public%2f..%2fprivate", "/public/%00", "//public/a"];

/// What a reading that knows nothing of the program's own says about a request of nobody's.
fn is_public(method: &str, target: &str) -> bool {
    let path = target.split('?').next().unwrap();
    path.starts_with("/public/") || (method == "GET" && path.starts_with("/read/"))
}

/// The request that these headers describe beyond doubt.
fn meant<'a>(field: &dyn Fn(&str) -> &'a [&'static str]) -> Option<(&'static str, &'static str)> {
    let sole = |name: &str, good: &[&str]| match field(name) {
        [value] if good.contains(value) => Some(*value),
        _ => None,
    };
    let absent = |name: &str| field(name).is_empty();
    let methods = ["GET", "POST"];
    let proto = sole("x-forwarded-proto", &["http", "https"]);
    let host = sole("x-forwarded-host", &["app.example.com"]);
    if absent("x-original-method") && absent("x-original-url") {
        let both = (sole("x-forwarded-method", &methods)?, sole("x-forwarded-uri", GOOD_PATHS)?);
        proto.and(host).map(|_| both)
    } else if absent("x-forwarded-method") && absent("x-forwarded-uri") {
        let both = (sole("x-original-method", &methods)?, sole("x-original-url", GOOD_PATHS)?);
        proto.and(host).map(|_| both)
    } else {
        None
    }
}

// FWD-2: whatever the headers are, a yes is one that a plain reading of them gives too.
#[test]
fn a_yes_is_never_an_accident() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(server());
    let address: SocketAddr = server.address;
    let names = ["x-forwarded-method", "x-original-method", "x-forwarded-uri", "x-original-url", "x-forwarded-proto", "x-forwarded-host"];
    let method = || values(&["GET", "POST"], &["", "G ET", "GET,POST", "CONNECT"]);
    let path = || values(GOOD_PATHS, BAD_PATHS);
    let proto = values(&["http", "https"], &["", "ftp", "https, http"]);
    let host = values(&["app.example.com"], &["", "a b", "a@b", "app.example.com, x"]);
    // Mostly one convention, sometimes a header of the other beside it.
    let seldom = |of: BoxedStrategy<Vec<&'static str>>| prop_oneof![9 => Just(Vec::new()), 1 => of];
    let all = (any::<bool>(), method(), path(), seldom(method().boxed()), seldom(path().boxed()), proto, host).prop_map(
        |(first, method, path, other_method, other_path, proto, host)| {
            if first {
                [method, other_method, path, other_path, proto, host]
            } else {
                [other_method, method, other_path, path, proto, host]
            }
        },
    );
    let mut runner = TestRunner::new(Config { cases: 512, failure_persistence: None, ..Config::default() });
    let said_yes = std::cell::Cell::new(0);
    runner
        .run(&all, |given| {
            let fields: Vec<(&str, &str)> =
                names.iter().zip(&given).flat_map(|(name, values)| values.iter().map(move |value| (*name, *value))).collect();
            let field = |name: &str| given[names.iter().position(|known| *known == name).unwrap()].as_slice();
            let answer = runtime.block_on(async { Connection::to(address).await.send("GET", "/_auth/forward-auth", &fields, b"").await });
            let expected = match meant(&field) {
                Some((method, target)) if is_public(method, target) => 200,
                Some(_) => 401,
                None => 400,
            };
            prop_assert_eq!(answer.status, expected, "{:?} {}", fields, answer.text());
            said_yes.set(said_yes.get() + u32::from(answer.status == 200));
            Ok(())
        })
        .unwrap();
    assert!(said_yes.get() > 10, "the test asks for something at all");
    drop(server);
    drop(runtime);
}
