//! What an application is told, and what nobody else can tell it.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::{Captured, Server};

/// A name under all spellings that some server reads as the same.
fn spellings(name: &str) -> Vec<String> {
    vec![
        name.to_owned(),
        name.to_ascii_lowercase(),
        name.to_ascii_uppercase(),
        name.replace('-', "_"),
        name.replace('-', ".").to_ascii_uppercase(),
        name.replacen('-', "_", 1),
    ]
}

/// The names of every preset, and those that say where a request came from.
const IDENTITY: [&str; 19] = [
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-User-Id",
    "X-Forwarded-Name",
    "X-Forwarded-Groups",
    "Remote-User",
    "Remote-Email",
    "Remote-Name",
    "Remote-Groups",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Preferred-Username",
    "X-Auth-Request-Groups",
    "X-authentik-username",
    "X-authentik-groups",
    "X-authentik-uid",
    "X-Nullpass-Assertion",
    "X-Nullpass-Anything",
];

const FORWARDING: [&str; 12] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "Forwarded",
    "X-Real-IP",
    "X-Original-URL",
    "X-Rewrite-URL",
    "True-Client-IP",
    "X-Cluster-Client-IP",
];

/// Every forged field, each with the same value.
fn forged() -> Vec<(String, &'static str)> {
    let names = IDENTITY.iter().chain(&FORWARDING).chain(&["Proxy"]);
    names.flat_map(|name| spellings(name)).map(|name| (name, "evil@forged.example")).collect()
}

fn refs<'a>(fields: &'a [(String, &'a str)]) -> Vec<(&'a str, &'a str)> {
    fields.iter().map(|(name, value)| (name.as_str(), *value)).collect()
}

#[track_caller]
fn is_clean(request: &Captured) {
    assert!(!String::from_utf8_lossy(&request.raw).contains("forged.example"), "{}", String::from_utf8_lossy(&request.raw));
}

const PUBLIC: &str = "[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n";

// HDR-1, FWD-5: nothing forged arrives, whoever asks for whatever, by whichever way.
#[tokio::test]
async fn forged_fields_never_arrive() {
    let server = Server::start(PUBLIC).await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let forged = forged();
    for (target, signed_in) in [("/private", true), ("/public/a", true), ("/public/a", false)] {
        // Within the limit on the number of fields.
        for part in forged.chunks(100) {
            let mut fields = refs(part);
            if signed_in {
                fields.push(("authorization", &bearer));
            }
            server.get(target, &fields).await.is(200);
            let request = server.upstream.only();
            is_clean(&request);
            assert_eq!(request.one("x-forwarded-user"), signed_in.then(|| "ada@example.com".to_owned()), "{target}");
            assert_eq!(request.one("x-forwarded-for").unwrap(), "127.0.0.1");
        }
    }
}

// HDR-1: upgrades too.
#[tokio::test]
async fn forged_fields_never_arrive_with_an_upgrade() {
    let server = Server::start(PUBLIC).await;
    server.upstream.answer(|_| b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec());
    for part in forged().chunks(100) {
        let mut fields = refs(part);
        fields.extend([("connection", "upgrade"), ("upgrade", "websocket")]);
        server.get("/public/ws", &fields).await.is(101);
        is_clean(&server.upstream.only());
    }
}

// HDR-1: nor in what follows a body.
#[tokio::test]
async fn forged_fields_never_arrive_as_trailers() {
    let server = Server::start(PUBLIC).await;
    let mut connection = server.connect().await;
    let mut bytes =
        b"POST /public/a HTTP/1.1\r\nHost: app.example.com\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\n"
            .to_vec();
    bytes.extend(b"X-Sum: 7\r\nX-Forwarded-User: evil@forged.example\r\nremote_user: evil@forged.example\r\nX-Real-IP: forged.example\r\n");
    bytes.extend(b"Cookie: nullpass=forged.example\r\nAuthorization: Bearer forged.example\r\nHost: forged.example\r\n\r\n");
    connection.write(&bytes).await;
    connection.answer(false).await.unwrap().is(200);
    let request = server.upstream.only();
    is_clean(&request);
    assert_eq!(request.body, b"hi");
}

// HDR-2: who has no name is announced without one, whatever the client says.
#[tokio::test]
async fn what_is_unknown_is_absent() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let fields = [("authorization", &*format!("Bearer {token}")), ("x-forwarded-name", "Root"), ("x-forwarded-groups", "admins")];
    server.get("/private", &fields).await.is(200);
    let request = server.upstream.only();
    assert_eq!((request.one("x-forwarded-name"), request.one("x-forwarded-groups")), (None, None));
    assert!(request.one("x-forwarded-user-id").is_some());
    // ENV-1, contract 5: and a credential of ours stays here.
    assert_eq!(request.one("authorization"), None);
}

// HDR-3: `Connection` takes nothing of ours away.
#[tokio::test]
async fn connection_names_nothing_of_ours() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let fields = [
        ("authorization", &*format!("Bearer {token}")),
        ("connection", "keep-alive, X-Forwarded-User, X-Forwarded-Email, x-forwarded-for, Forwarded, Host, X-Hop"),
        ("x-hop", "1"),
    ];
    server.get("/private", &fields).await.is(200);
    let request = server.upstream.only();
    assert_eq!(request.one("x-forwarded-user").unwrap(), "ada@example.com");
    assert_eq!(request.one("x-forwarded-email").unwrap(), "ada@example.com");
    assert_eq!(request.one("x-forwarded-for").unwrap(), "127.0.0.1");
    assert_eq!(request.one("host").unwrap(), "app.example.com");
    assert!(request.one("forwarded").is_some());
    assert_eq!(request.one("x-hop"), None);
}

// TOK-2, FAIL-1: a token of ours is not forwarded because it is written as others write theirs.
#[tokio::test]
async fn a_token_of_ours_stays_here_however_it_is_written() {
    let server = Server::start("[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let made = serde_json::json!({ "name": "t", "currentPassword": crate::support::PASSWORD });
    let made = server.api("POST", "/auth/tokens", Some(&token), &made).await.is(201).json();
    for token in [token.as_str(), made["token"].as_str().unwrap()] {
        for value in [
            format!("Token {token}"),
            format!("token={token}"),
            token.to_owned(),
            format!("Basic {token}"),
            format!("Bearer token={token}"),
            format!("GoogleLogin auth=\"{token}\""),
            crate::support::basic(token, ""),
            crate::support::basic(token, "x-oauth-basic"),
        ] {
            for path in ["/public/x", "/x"] {
                server.get(path, &[("authorization", &value)]).await.is(401);
                assert!(server.upstream.take().is_empty(), "{path} {value}");
            }
        }
    }
    for others in
        ["Token abc", "Digest username=\"ada\", realm=\"x\"", "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host", "Basic !", "x"]
    {
        server.get("/public/x", &[("authorization", others)]).await.is(200);
        assert_eq!(server.upstream.only().one("authorization").as_deref(), Some(others));
    }
}

// HDR-4: what is there twice is not chosen from.
#[tokio::test]
async fn two_of_a_kind_are_none() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let (_, other) = server.signed_in("eve@example.com").await;
    let bearer = format!("Bearer {token}");
    server.get("/private", &[("authorization", &bearer), ("authorization", &bearer)]).await.is(400);
    server.get("/private", &[("authorization", &bearer), ("authorization", "Basic eDp5")]).await.is(400);
    server.get("/private", &[("host", "a.example.com"), ("host", "b.example.com"), ("authorization", &bearer)]).await.is(400);
    server.send("POST", "/private", &[("content-length", "3"), ("content-length", "2"), ("authorization", &bearer)], b"").await.is(400);
    // Two session cookies that differ: which one is the browser's own, nobody knows.
    for cookie in [
        format!("nullpass={token}; nullpass={other}"),
        format!("nullpass={token}; __Host-nullpass={other}"),
        format!("a=b; nullpass={other}; nullpass="),
    ] {
        let answer = server.get("/private", &[("cookie", &cookie)]).await.is(401);
        assert_eq!(answer.cookie("nullpass").as_deref(), Some(""), "{cookie}");
    }
    let lines = [("cookie", &*format!("nullpass={token}")), ("cookie", &*format!("nullpass={other}"))];
    server.get("/private", &lines).await.is(401);
    assert!(server.upstream.take().is_empty());
    // The same one twice is one.
    server.get("/private", &[("cookie", &format!("nullpass={token}; nullpass={token}"))]).await.is(200);
}

// FWD-1, BYP-1, ENV-1: rules see the request line that is forwarded, and nothing else a client says.
#[tokio::test]
async fn no_field_chooses_the_rule() {
    let server = Server::start(PUBLIC).await;
    for name in ["X-Forwarded-Uri", "X-Original-URL", "X-Original-URI", "X-Rewrite-URL", "X-Envoy-Original-Path", "X-Forwarded-Prefix"] {
        server.get("/private", &[(name, "/public/a")]).await.is(401);
    }
    for name in ["X-HTTP-Method-Override", "X-Forwarded-Method", "X-Original-Method"] {
        server.get("/private", &[(name, "OPTIONS")]).await.is(401);
    }
    for agent in ["GoogleHC/1.0", "kube-probe/1.30", "ELB-HealthChecker/2.0", "ping", "UptimeRobot"] {
        server.get("/private", &[("user-agent", agent)]).await.is(401);
    }
    for target in ["/healthz", "/ping", "/readyz", "/metrics", "/robots.txt", "/favicon.ico", "/.well-known/x"] {
        server.get(target, &[("user-agent", "GoogleHC/1.0")]).await.is(401);
    }
    assert!(server.upstream.take().is_empty());
}

// FWD-3, FWD-4: where a request comes from is said by us; a trusted proxy is believed and extended.
#[tokio::test]
async fn forwarding_fields_are_ours() {
    let server = Server::start(PUBLIC).await;
    let said = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "evil.example")];
    server.get("/public/a", &said).await.is(200);
    let request = server.upstream.only();
    assert_eq!(request.one("x-forwarded-for").unwrap(), "127.0.0.1");
    assert_eq!(request.one("x-real-ip").unwrap(), "127.0.0.1");
    assert_eq!(request.one("x-forwarded-proto").unwrap(), "http");
    assert_eq!(request.one("x-forwarded-host").unwrap(), "app.example.com");
    assert_eq!(request.one("forwarded").unwrap(), "for=127.0.0.1;host=\"app.example.com\";proto=http");

    let server = Server::start(&format!("[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n{PUBLIC}")).await;
    let said = [("x-forwarded-for", "198.51.100.1, 203.0.113.9"), ("x-forwarded-proto", "https")];
    server.get("/public/a", &said).await.is(200);
    let request = server.upstream.only();
    assert_eq!(request.one("x-forwarded-for").unwrap(), "198.51.100.1, 203.0.113.9, 127.0.0.1");
    assert_eq!(request.one("x-real-ip").unwrap(), "203.0.113.9", "the rightmost that is not trusted");
    assert_eq!(request.one("x-forwarded-proto").unwrap(), "https");
    // A scheme is http or https, not what stands there.
    server.get("/public/a", &[("x-forwarded-proto", "javascript")]).await.is(200);
    assert_eq!(server.upstream.only().one("x-forwarded-proto").unwrap(), "http");
}

// FWD-4: absolute addresses come from `public_url`, not from what a client says.
#[tokio::test]
async fn locations_do_not_come_from_the_host() {
    let server = Server::start("[server]\npublic_url = \"http://app.example.com\"\ndanger_plain_http = true\n").await;
    let said =
        [("host", "evil.example"), ("accept", "text/html"), ("x-forwarded-host", "evil2.example"), ("x-forwarded-proto", "javascript")];
    let answer = server.get("/private", &said).await.is(302);
    assert!(answer.field("location").starts_with("/_auth/login?rd="), "{answer:?}");
    let page = server.get("/_auth/login", &said).await.is(200);
    assert!(!page.text().contains("evil"), "{}", page.text());
}

// FAIL-3: an address that can't be read weakens nothing.
#[tokio::test]
async fn addresses_that_cannot_be_read_are_nobodys() {
    let toml = "[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n[[rules]]\nnetworks = [\"10.0.0.0/8\"]\npolicy = \"public\"\n";
    let server = Server::start(toml).await;
    server.get("/a", &[("x-forwarded-for", "10.1.2.3")]).await.is(200);
    server.upstream.take();
    for said in ["garbage", "10.1.2.3, garbage", "10.1.2.3:x, unknown", "10.1.2", "", ",", "10.1.2.3, 203.0.113.1", "_hidden"] {
        let answer = server.get("/a", &[("x-forwarded-for", said)]).await;
        assert_ne!(answer.status, 200, "{said:?}");
    }
    assert!(server.upstream.take().is_empty());
}

// HOST-1: one spelling of a host for the rules, and no two hosts in one request.
#[tokio::test]
async fn hosts_have_one_spelling() {
    let toml = "[[rules]]\nhost = \"secret.example.com\"\npolicy = \"deny\"\n[[rules]]\npath = \"/**\"\npolicy = \"public\"\n";
    let server = Server::start(toml).await;
    server.get("/a", &[("host", "open.example.com")]).await.is(200);
    server.upstream.take();
    for host in ["secret.example.com", "SECRET.example.COM", "secret.example.com.", "Secret.Example.com:8443", "ſecret.example.com"] {
        let answer = server.get("/a", &[("host", host)]).await;
        assert_ne!(answer.status, 200, "{host}");
    }
    server.get("http://secret.example.com/a", &[("host", "open.example.com")]).await.is(400);
    server.get("http://open.example.com/a", &[("host", "secret.example.com")]).await.is(400);
    assert!(server.upstream.take().is_empty());
}

// HOST-1: a host that is not served is told so.
#[tokio::test]
async fn only_allowed_hosts_are_served() {
    let server = Server::start("[server]\nallowed_hosts = [\"app.example.com\", \"*.apps.example.com\"]\n").await;
    for (host, status) in [
        ("app.example.com", 401),
        ("APP.example.com.:8080", 401),
        ("a.apps.example.com", 401),
        ("evil.example", 421),
        ("apps.example.com", 421),
        ("app.example.com.evil.example", 421),
    ] {
        server.get("/private", &[("host", host)]).await.is(status);
        let own = if status == 401 { 200 } else { status };
        server.get("/_auth/api/health", &[("host", host)]).await.is(own);
    }
}

// ENV-1: bytes that are no text decide nothing.
#[tokio::test]
async fn bytes_beyond_ascii_are_refused_where_they_would_count() {
    let server = Server::start(PUBLIC).await;
    let mut connection = server.connect().await;
    connection.write(b"GET /public/a HTTP/1.1\r\nHost: app.example.com\r\nAuthorization: Bearer \xff\xfe\r\n\r\n").await;
    connection.answer(false).await.unwrap().is(400);
    let mut connection = server.connect().await;
    connection.write(b"GET /public/a HTTP/1.1\r\nHost: app\xff.example.com\r\n\r\n").await;
    connection.answer(false).await.unwrap().is(400);
    assert!(server.upstream.take().is_empty());
}

// ENV-1, ENV-2, cross-cutting 9: a token that we did not sign is worth nothing, however much it looks like ours.
#[tokio::test]
async fn forged_tokens_announce_nobody() {
    let server = Server::start(PUBLIC).await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let parts: Vec<&str> = token.split('.').collect();
    let b64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let header: Value = serde_json::from_slice(&b64.decode(parts[0]).unwrap()).unwrap();
    let encode = |value: &Value| b64.encode(value.to_string());
    let with = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        header
    };
    let flipped = format!("{}{}", if parts[2].starts_with('A') { 'B' } else { 'A' }, &parts[2][1..]);
    let forged = [
        format!("{}.{}.", encode(&with("alg", json!("none"))), parts[1]),
        format!("{}.{}.{}", encode(&with("alg", json!("HS256"))), parts[1], parts[2]),
        format!("{}.{}.{}", encode(&with("kid", json!("unknown"))), parts[1], parts[2]),
        format!("{}.{}.{}", encode(&with("jku", json!("https://evil.example"))), parts[1], parts[2]),
        format!("{}.{}.{}", encode(&with("crit", json!(["x"]))), parts[1], parts[2]),
        format!("{}.{}.{}", encode(&with("typ", json!("JWT"))), parts[1], parts[2]),
        format!("{}.{}.{flipped}", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{token}x"),
        format!("{token}.{}", parts[2]),
    ];
    for forged in &forged {
        server.get("/private", &[("authorization", &format!("Bearer {forged}"))]).await.is(401);
        server.get("/private", &[("cookie", &format!("nullpass={forged}"))]).await.is(401);
        server.get("/public/a", &[("cookie", &format!("nullpass={forged}"))]).await.is(200);
        let request = server.upstream.only();
        assert_eq!((request.one("x-forwarded-user"), request.one("cookie")), (None, None));
        // In the header it names our issuer or key: never forwarded, and refused even beside a good cookie.
        let both = [("authorization", &*format!("Bearer {forged}")), ("cookie", &*format!("nullpass={token}"))];
        server.get("/public/a", &both).await.is(401);
    }
    // Somebody else's token belongs to the application.
    let foreign = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJodHRwczovL290aGVyLmV4YW1wbGUifQ.AAAA";
    server.upstream.take();
    server.get("/public/a", &[("authorization", foreign)]).await.is(200);
    let request = server.upstream.only();
    assert_eq!((request.one("authorization").as_deref(), request.one("x-forwarded-user")), (Some(foreign), None));
    server.get("/private", &[("authorization", foreign)]).await.is(401);
}

// Cross-cutting 2: a value with control characters is never sent, and what a person types never ends a line.
#[tokio::test]
async fn names_cannot_break_out() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    for name in ["Ada\r\nX-Forwarded-Groups: admins", "A\nda", "a\u{0}b", "a\u{7f}", "\u{1b}[31m", "\u{202e}ada"] {
        let refused = server.api("PATCH", "/auth/me", Some(&token), &json!({ "displayName": name })).await.is(400);
        assert_eq!(refused.json()["field"], "displayName");
    }
    server.api("PATCH", "/auth/me", Some(&token), &json!({ "displayName": "Åda \"Lovelace\", <b>" })).await.is(200);
    assert_eq!(server.status(&token).await, 200);
    let request = server.upstream.only();
    assert_eq!(request.one("x-forwarded-name").unwrap(), "Åda \"Lovelace\", <b>");
    assert_eq!(request.one("x-forwarded-user").unwrap(), "ada@example.com", "what one can edit is never a login name");
}

// Cross-cutting 7: the application does not touch our state.
#[tokio::test]
async fn the_application_sets_no_cookie_of_ours() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    server.upstream.answer(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: nullpass=evil; Path=/\r\nSet-Cookie: __Host-nullpass=evil\r\n\
          Set-Cookie: NULLPASS-device=evil\r\nSet-Cookie: nullpass-pre=evil\r\nSet-Cookie: =nullpass=evil\r\nSet-Cookie: app=1\r\n\
          Clear-Site-Data: \"cookies\", \"cache\"\r\nService-Worker-Allowed: /\r\n\r\n"
            .to_vec()
    });
    let answer = server.get("/private", &[("authorization", &format!("Bearer {token}"))]).await.is(200);
    assert_eq!(answer.all("set-cookie"), ["app=1"]);
    assert_eq!(answer.all("clear-site-data"), ["\"cache\""]);
    assert!(answer.all("service-worker-allowed").is_empty());
    server.get("/_auth/login", &[("service-worker", "script")]).await.is(403);
}

// Cross-cutting 8: what is for one person is in no shared cache.
#[tokio::test]
async fn answers_to_signed_in_people_are_private() {
    let server = Server::start(PUBLIC).await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    for (sent, got) in [("", "private"), ("Cache-Control: public, s-maxage=60, max-age=5\r\n", "max-age=5, private")] {
        server.upstream.answer(move |_| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{sent}\r\n").into_bytes());
        let answer = server.get("/private", &[("authorization", &bearer)]).await.is(200);
        let mut words: Vec<&str> = answer.field("cache-control").split(',').map(str::trim).collect();
        words.sort_unstable();
        assert_eq!(words.join(", "), got);
    }
    server.upstream.answer(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: public\r\n\r\n".to_vec());
    assert_eq!(server.get("/public/a", &[]).await.is(200).field("cache-control"), "public");
    // Our own answers are kept by nobody.
    for target in ["/private", "/_auth/login", "/_auth/api/auth/me"] {
        assert!(server.get(target, &[]).await.field("cache-control").contains("no-store"), "{target}");
    }
}

// DOC-1, contract 5: the assertion is signed with a key of the JWKS and says what it was made for.
#[tokio::test]
async fn the_assertion_can_be_verified() {
    for algorithm in ["EdDSA", "ES256", "HS256"] {
        let toml = format!(
            "[identity]\nassertion = {{ header = \"X-Nullpass-Assertion\", ttl = \"60s\" }}\n[tokens]\nalgorithm = \"{algorithm}\"\n{PUBLIC}"
        );
        let server = Server::start(&toml).await;
        let user = server.account("ada@example.com", &["staff", "nullpass-admin"]).await;
        let token = server.log_in("ada@example.com").await;
        let fields = [("authorization", &*format!("Bearer {token}")), ("x-nullpass-assertion", "forged")];
        server.get("/private/x?q=1", &fields).await.is(200);
        let request = server.upstream.only();
        let assertion = request.one("x-nullpass-assertion").unwrap();
        let keys = server.get("/_auth/.well-known/jwks.json", &[]).await.is(200);
        assert!(keys.json()["keys"].as_array().unwrap().iter().all(|key| key["kty"] != "oct"), "no secret is published: {}", keys.text());
        let claims = verify(&assertion, &keys.json());
        assert_eq!(claims["sub"], user.id.to_string());
        assert_eq!((claims["email"].as_str(), claims["aud"].as_str()), (Some("ada@example.com"), Some("app")));
        assert_eq!(claims["groups"], json!(["staff"]), "the administrators' group is not announced");
        assert_eq!((claims["method"].as_str(), claims["host"].as_str()), (Some("GET"), Some("app.example.com")));
        assert_eq!(claims["path"], "/private/x");
        assert_eq!(claims["exp"].as_i64().unwrap(), server.now().as_secs() + 60);
        // JWT-1: it is no session.
        assert_eq!(server.status(&assertion).await, 401);
        server.api("POST", "/auth/verify", None, &json!({ "token": assertion })).await.is(401);
        server.upstream.take();
        server.get("/public/a", &[("x-nullpass-assertion", "forged")]).await.is(200);
        assert_eq!(server.upstream.only().one("x-nullpass-assertion"), None);
    }
}

/// Verifies with the key that the header names, as an application would.
fn verify(token: &str, keys: &Value) -> Value {
    let b64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let decode = |text: &str| b64.decode(text).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).expect("the key");
    let text = |name: &str| decode(key[name].as_str().unwrap());
    let checked = match header["alg"].as_str().unwrap() {
        "EdDSA" => UnparsedPublicKey::new(&ED25519, text("x")).verify(signed.as_bytes(), &decode(signature)),
        "ES256" => {
            let point = [vec![4], text("x"), text("y")].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &decode(signature))
        }
        other => panic!("{other}"),
    };
    checked.expect("the signature");
    serde_json::from_slice(&decode(claims)).unwrap()
}

// Contract 5: the token goes on only where the operator says so.
#[tokio::test]
async fn the_token_is_forwarded_only_on_demand() {
    let server = Server::start("[identity]\nforward_token = true\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    for fields in [("authorization", format!("Bearer {token}")), ("cookie", format!("nullpass={token}; app=1"))] {
        server.get("/private", &[(fields.0, &fields.1)]).await.is(200);
        let request = server.upstream.only();
        assert_eq!(request.one("authorization").unwrap(), format!("Bearer {token}"));
        assert!(!request.one("cookie").unwrap_or_default().contains("nullpass"));
    }
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let cookie = format!("app=1; nullpass={token}; nullpass-device=x; other=2");
    server.get("/private", &[("cookie", &cookie)]).await.is(200);
    let request = server.upstream.only();
    assert_eq!((request.one("authorization"), request.one("cookie").as_deref()), (None, Some("app=1; other=2")));
}
