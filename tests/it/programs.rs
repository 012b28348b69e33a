//! Programs: API tokens, Basic, gRPC, and tokens in places where none is read.

use serde_json::{Value, json};

use crate::support::{PASSWORD, Server, basic};

const DAV: &str = "
[[rules]]
path = \"/dav/**\"
policy = \"authenticated\"
basic = true
[[rules]]
path = \"/public/**\"
policy = \"public\"
";

async fn api_token(server: &Server, token: &str, fields: Value) -> String {
    let made = server.api("POST", "/auth/tokens", Some(token), &fields).await.is(201).json();
    made["token"].as_str().unwrap().to_owned()
}

// Contract 2: Basic counts where the rule says so; elsewhere it belongs to the application, unless it holds a token of ours.
#[tokio::test]
async fn basic_counts_where_the_rule_says_so() {
    let server = Server::start(DAV).await;
    let (_, session) = server.signed_in("ada@example.com").await;
    server.account("eve@example.com", &[]).await;
    let challenge = server.get("/dav/x", &[]).await.is(401);
    assert!(challenge.all("www-authenticate").iter().any(|offer| offer.starts_with("Basic ")));
    assert!(!server.get("/private", &[]).await.is(401).all("www-authenticate").iter().any(|offer| offer.starts_with("Basic")));

    let good = basic("ada@example.com", PASSWORD);
    server.get("/dav/x", &[("authorization", &good)]).await.is(200);
    let request = server.upstream.only();
    assert_eq!((request.one("x-forwarded-user").as_deref(), request.one("authorization")), (Some("ada@example.com"), None));
    // Hashed once, then known.
    let hashed = server.auth().hasher().hashes_done();
    server.get("/dav/x", &[("authorization", &good)]).await.is(200);
    assert_eq!(server.auth().hasher().hashes_done(), hashed);
    server.get("/dav/x", &[("authorization", &basic("ada@example.com", "wrong-Orchard-1"))]).await.is(401);
    // Not for our own routes, and not for other rules.
    server.get("/_auth/api/auth/me", &[("authorization", &good)]).await.is(401);
    server.upstream.take();
    server.get("/private", &[("authorization", &good)]).await.is(401);
    server.get("/public/a", &[("authorization", &good)]).await.is(200);
    let request = server.upstream.only();
    assert_eq!((request.one("x-forwarded-user"), request.one("authorization").as_deref()), (None, Some(good.as_str())));

    // A token of ours as the password: its owner's name must stand beside it, and it is never forwarded.
    let token = api_token(&server, &session, json!({ "name": "dav" })).await;
    server.get("/dav/x", &[("authorization", &basic("ada@example.com", &token))]).await.is(200);
    assert_eq!(server.upstream.only().one("authorization"), None);
    server.get("/dav/x", &[("authorization", &basic("eve@example.com", &token))]).await.is(401);
    server.get("/public/a", &[("authorization", &basic("ada@example.com", &token))]).await.is(401);
    server.get("/public/a", &[("authorization", &basic("x", "np_nonsense"))]).await.is(401);
    server.get("/dav/x", &[("authorization", &basic("ada@example.com", &session))]).await.is(401);
    assert!(server.upstream.take().is_empty());
}

// A password that was known is not known any more once it changes, the account is disabled or gets a second factor.
#[tokio::test]
async fn basic_follows_the_account() {
    let server = Server::start(DAV).await;
    let (id, token) = server.signed_in("ada@example.com").await;
    let good = basic("ada@example.com", PASSWORD);
    let fields = [("authorization", good.as_str())];
    server.get("/dav/x", &fields).await.is(200);
    server.auth().disable_user(id, "test", server.now()).await.unwrap();
    server.get("/dav/x", &fields).await.is(401);
    server.auth().enable_user(id, "test", server.now()).await.unwrap();
    server.get("/dav/x", &fields).await.is(200);
    let other = nullpass::model::Secret::new("another-Orchard-20-door".to_owned());
    server.auth().reset_password(id, other, "test", server.now()).await.unwrap();
    server.get("/dav/x", &fields).await.is(401);
    server.wait(1);
    let back = nullpass::model::Secret::new(PASSWORD.to_owned());
    server.auth().reset_password(id, back, "test", server.now()).await.unwrap();
    server.wait(1);
    server.get("/dav/x", &fields).await.is(200);
    assert_eq!(server.status(&token).await, 401);
    let token = server.log_in("ada@example.com").await;
    server.enrol(&token).await;
    server.get("/dav/x", &fields).await.is(401);
}

// Contract 3: an API token is good for its paths, methods and networks, in every reading, and for no account page.
#[tokio::test]
async fn api_tokens_keep_to_their_scope() {
    let server = Server::start("").await;
    let (id, session) = server.signed_in("ada@example.com").await;
    let scope = json!({ "name": "ci", "paths": ["/builds/**"], "methods": ["GET"], "networks": ["127.0.0.0/8"] });
    let token = api_token(&server, &session, scope).await;
    let elsewhere = api_token(&server, &session, json!({ "name": "far", "networks": ["10.0.0.0/8"] })).await;
    let bearer = format!("Bearer {token}");
    let fields = [("authorization", bearer.as_str())];
    server.get("/builds/1", &fields).await.is(200);
    let request = server.upstream.only();
    assert_eq!((request.one("x-forwarded-user").as_deref(), request.one("authorization")), (Some("ada@example.com"), None));
    assert_eq!(server.get("/private", &fields).await.is(403).code(), "token_scope");
    assert_eq!(server.send("POST", "/builds/1", &fields, b"").await.is(403).code(), "token_scope");
    for target in ["/builds/..%2fprivate", "/builds%2F1", "//builds/1", "/builds;x/1"] {
        let answer = server.get(target, &fields).await;
        assert!(matches!(answer.status, 400 | 403), "{target}: {}", answer.status);
    }
    assert_eq!(server.get("/x", &[("authorization", &format!("Bearer {elsewhere}"))]).await.is(403).code(), "token_scope");
    server.get("/builds/1", &[("cookie", &format!("nullpass={token}"))]).await.is(401);
    for (method, path) in [("GET", "/auth/sessions"), ("POST", "/auth/tokens"), ("POST", "/auth/password"), ("DELETE", "/auth/me")] {
        server.api(method, path, Some(&token), &Value::Null).await.is(403);
    }
    for other in ["/auth/login/2fa", "/auth/verify"] {
        let body = if other.ends_with("verify") {
            json!({ "token": token })
        } else {
            json!({ "pendingToken": token, "verificationCode": "000000" })
        };
        server.api("POST", other, None, &body).await.is(401);
    }
    let list = server.api("GET", "/auth/tokens", Some(&session), &Value::Null).await.is(200).json();
    let ids: Vec<&str> = list["tokens"].as_array().unwrap().iter().map(|token| token["id"].as_str().unwrap()).collect();
    server.upstream.take();
    for id in ids {
        server.api("DELETE", &format!("/auth/tokens?id={id}"), Some(&session), &Value::Null).await.is(200);
    }
    server.get("/builds/1", &fields).await.is(401);
    let expiring = server.now().plus(std::time::Duration::from_secs(60)).to_string();
    let short = format!("Bearer {}", api_token(&server, &session, json!({ "name": "short", "expiresAt": expiring })).await);
    server.get("/x", &[("authorization", &short)]).await.is(200);
    server.wait(60);
    server.get("/x", &[("authorization", &short)]).await.is(401);
    let lasting = format!("Bearer {}", api_token(&server, &session, json!({ "name": "lasting" })).await);
    server.get("/x", &[("authorization", &lasting)]).await.is(200);
    server.auth().disable_user(id, "test", server.now()).await.unwrap();
    server.get("/x", &[("authorization", &lasting)]).await.is(401);
}

// TOK-1: no token is read from a URL, a form or another header.
#[tokio::test]
async fn tokens_are_read_where_they_belong() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    for target in ["/?token=", "/?access_token=", "/?jwt=", "/?nullpass=", "/?authorization=Bearer%20"] {
        server.get(&format!("{target}{token}"), &[]).await.is(401);
    }
    let body = format!("access_token={token}");
    server.send("POST", "/x", &[("content-type", "application/x-www-form-urlencoded")], body.as_bytes()).await.is(401);
    for name in ["x-auth-token", "x-access-token", "proxy-authorization", "x-forwarded-access-token", "token"] {
        server.get("/x", &[(name, &token)]).await.is(401);
        server.get("/x", &[(name, &format!("Bearer {token}"))]).await.is(401);
    }
    for cookie in ["token", "nullpass2", "nullpass-device", "NULLPASS", "__Host-nullpass"] {
        server.get("/x", &[("cookie", &format!("{cookie}={token}"))]).await.is(401);
    }
    assert!(server.upstream.take().is_empty());
}

// TOK-2: `Bearer`, one space, token68. What is nearly that is refused and goes nowhere.
#[tokio::test]
async fn nearly_a_bearer_token_is_none() {
    let server = Server::start(DAV).await;
    let (_, token) = server.signed_in("ada@example.com").await;
    for credential in
        ["Bearer\t{}", "Bearer  {}", "Bearer {} ,", "Bearer {},x", "Bearer \"{}\"", "Bearer={}", "Bearer {} {}", "Bearer,{}", "Bearer {}.x"]
    {
        let credential = credential.replace("{}", &token);
        for target in ["/private", "/public/a"] {
            let both = [("authorization", &*credential), ("cookie", &*format!("nullpass={token}"))];
            server.get(target, &both).await.is(401);
        }
    }
    assert!(server.upstream.take().is_empty());
    for scheme in ["bearer", "BEARER", "Bearer"] {
        server.get("/private", &[("authorization", &format!("{scheme} {token}"))]).await.is(200);
    }
}

// Contract 5: gRPC is refused in its own words.
#[tokio::test]
async fn grpc_is_refused_in_its_own_words() {
    let server = Server::start("[[rules]]\npath = \"/admin.Api/*\"\npolicy = \"authenticated\"\ngroups = [\"admins\"]\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let grpc = ("content-type", "application/grpc+proto");
    let answer = server.send("POST", "/a.B/C", &[grpc], b"").await.is(401);
    assert!(answer.field("content-type").starts_with("application/grpc"));
    assert_eq!(answer.field("grpc-status"), "16");
    assert!(!answer.field("grpc-message").is_empty() && answer.field("cache-control").contains("no-store"));
    let bearer = format!("Bearer {token}");
    let answer = server.send("POST", "/admin.Api/C", &[grpc, ("authorization", &bearer)], b"").await.is(403);
    assert_eq!(answer.field("grpc-status"), "7");
    server.wait(120);
    server.set_store_away(true).await;
    let answer = server.send("POST", "/a.B/C", &[grpc, ("authorization", &bearer)], b"").await.is(503);
    assert_eq!(answer.field("grpc-status"), "14");
}
