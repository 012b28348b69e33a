//! What was wrong with the service whose API we keep, one test each.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::{PASSWORD, Server, code};

// NP-1, JWT-1: half a sign-in is none: the token between password and code opens nothing but the second step.
#[tokio::test]
async fn a_pending_token_is_good_for_the_second_step_alone() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let (secret, _) = server.enrol(&token).await;
    server.wait(30);
    let begun = server.try_log_in("ada@example.com", PASSWORD).await.is(200).json();
    assert_eq!(begun["requires2FA"], true);
    assert!(begun.get("token").is_none());
    let pending = begun["pendingToken"].as_str().unwrap();

    assert_eq!(server.status(pending).await, 401);
    assert_eq!(server.status_by_cookie(pending).await, 401);
    server.api("POST", "/auth/verify", None, &json!({ "token": pending })).await.is(401);
    for (method, path) in [
        ("GET", "/auth/me"),
        ("POST", "/auth/refresh"),
        ("POST", "/auth/reauth"),
        ("GET", "/auth/sessions"),
        ("GET", "/auth/tokens"),
        ("POST", "/auth/2fa"),
        ("POST", "/auth/password"),
        ("GET", "/audit"),
    ] {
        server.api(method, path, Some(pending), &Value::Null).await.is(401);
    }
    // Nor is anything else good for the second step.
    for other in [token.as_str(), "", "x.y.z"] {
        let body = json!({ "pendingToken": other, "verificationCode": code(&secret, server.now()) });
        server.api("POST", "/auth/login/2fa", None, &body).await.is(401);
    }
    let body = json!({ "pendingToken": pending, "verificationCode": code(&secret, server.now()) });
    let done = server.api("POST", "/auth/login/2fa", None, &body).await.is(200).json();
    assert_eq!(server.status(done["token"].as_str().unwrap()).await, 200);
    // Spent.
    server.wait(30);
    let body = json!({ "pendingToken": pending, "verificationCode": code(&secret, server.now()) });
    server.api("POST", "/auth/login/2fa", None, &body).await.is(401);
}

// NP-1: it lives for five minutes.
#[tokio::test]
async fn a_pending_token_runs_out() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let (secret, _) = server.enrol(&token).await;
    server.wait(60);
    let pending = |begun: Value| begun["pendingToken"].as_str().unwrap().to_owned();
    let late = pending(server.try_log_in("ada@example.com", PASSWORD).await.is(200).json());
    server.wait(5 * 60 + 31);
    let body = json!({ "pendingToken": late, "verificationCode": code(&secret, server.now()) });
    let refused = server.api("POST", "/auth/login/2fa", None, &body).await.is(401);
    assert_eq!(refused.code(), "pending_expired");
}

// NP-2, SES-3: whatever ends a session ends it for verify and for the proxy.
#[tokio::test]
async fn an_ended_session_is_refused_everywhere() {
    let server = Server::start("").await;
    let user = server.account("ada@example.com", &[]).await;
    for end in ["logout", "session", "sessions", "password", "revoke", "disable", "delete"] {
        let token = server.log_in("ada@example.com").await;
        assert_eq!(server.status(&token).await, 200);
        server.api("POST", "/auth/verify", None, &json!({ "token": token })).await.is(200);
        let bearer = Some(token.as_str());
        match end {
            "logout" => drop(server.api("POST", "/auth/logout", bearer, &Value::Null).await.is(200)),
            "session" => {
                let sessions = server.api("GET", "/auth/sessions", bearer, &Value::Null).await.is(200).json();
                let current = sessions["sessions"].as_array().unwrap().iter().find(|session| session["current"] == true).unwrap().clone();
                let path = format!("/auth/sessions?id={}", current["id"].as_str().unwrap());
                server.api("DELETE", &path, bearer, &Value::Null).await.is(200);
            }
            "sessions" => drop(server.api("DELETE", "/auth/sessions", bearer, &Value::Null).await.is(200)),
            "password" => {
                let body = json!({ "currentPassword": PASSWORD, "newPassword": "another-Orchard-20-door" });
                server.api("POST", "/auth/password", bearer, &body).await.is(200);
                let back = nullpass::model::Secret::new(PASSWORD.to_owned());
                server.auth().reset_password(user.id, back, "test", server.now()).await.unwrap();
            }
            "revoke" => drop(server.auth().revoke_sessions(user.id, "test", server.now()).await.unwrap()),
            "disable" => {
                server.auth().disable_user(user.id, "test", server.now()).await.unwrap();
            }
            _ => {
                server.api("DELETE", "/auth/me", bearer, &json!({ "password": PASSWORD })).await.is(200);
            }
        }
        assert_eq!(server.status(&token).await, 401, "{end}");
        assert_eq!(server.status_by_cookie(&token).await, 401, "{end}");
        server.api("POST", "/auth/verify", None, &json!({ "token": token })).await.is(401);
        server.api("POST", "/auth/refresh", bearer, &Value::Null).await.is(401);
        if end == "disable" {
            server.auth().enable_user(user.id, "test", server.now()).await.unwrap();
            assert_eq!(server.status(&token).await, 401, "enabling brings no session back");
        }
    }
}

// NP-3: a disabled person is told so after the right password only, and nobody but an administrator lifts it.
#[tokio::test]
async fn disabled_accounts_stay_out() {
    let server = Server::start("").await;
    let (id, token) = server.signed_in("ada@example.com").await;
    server.auth().disable_user(id, "test", server.now()).await.unwrap();
    assert_eq!(server.status(&token).await, 401);
    server.api("DELETE", "/auth/me", Some(&token), &json!({ "password": PASSWORD })).await.is(401);
    assert_eq!(server.try_log_in("ada@example.com", PASSWORD).await.is(403).code(), "account_disabled");
    assert_eq!(server.try_log_in("ada@example.com", "wrong-Orchard-19").await.is(401).code(), "invalid_credentials");
    let taken = json!({ "email": "ada@example.com", "password": PASSWORD });
    server.api("POST", "/auth/register", None, &taken).await.is(403);
    server.auth().enable_user(id, "test", server.now()).await.unwrap();
    server.log_in("ada@example.com").await;
}

// NP-4: a key that was made is there for its owner alone.
#[tokio::test]
async fn the_master_key_is_private() {
    let server = Server::start("").await;
    let mode = |name: &str| std::fs::metadata(server.data().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("master.key"), 0o600);
    assert_eq!(mode("."), 0o700);
}

// NP-5, ENR-1: enrolment needs a fresh password, the server keeps the secret, and one in use is not replaced.
#[tokio::test]
async fn enrolment_is_the_owners_and_the_secret_ours() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let begin = json!({ "enable": true });
    server.wait(301);
    let stale = server.api("POST", "/auth/2fa", Some(&token), &begin).await.is(403);
    assert_eq!(stale.code(), "fresh_password_required");
    let with_password = json!({ "enable": true, "currentPassword": PASSWORD });
    let begun = server.api("POST", "/auth/2fa", Some(&token), &with_password).await.is(200).json();
    let secret = begun["secret"].as_str().unwrap();

    // A secret of the client's own choosing, with its code.
    let chosen = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
    let body = json!({ "enable": true, "secret": chosen, "verificationCode": code(chosen, server.now()), "currentPassword": PASSWORD });
    let refused = server.api("POST", "/auth/2fa", Some(&token), &body).await;
    assert!(matches!(refused.status, 400 | 401), "{}", refused.text());
    let me = server.api("GET", "/auth/me", Some(&token), &Value::Null).await.is(200).json();
    assert_eq!(me["user"]["twoFactorEnabled"], false);

    let body = json!({ "enable": true, "verificationCode": code(secret, server.now()), "currentPassword": PASSWORD });
    server.api("POST", "/auth/2fa", Some(&token), &body).await.is(200);
    // On: nobody gets to see or to replace it by asking again.
    server.api("POST", "/auth/2fa", Some(&token), &with_password).await.is(409);
    let page = server.get("/_auth/account/2fa", &[("authorization", &format!("Bearer {token}"))]).await;
    assert!(!page.text().contains(secret));
    // Turning it off takes a code.
    let off = json!({ "enable": false, "verificationCode": "000000", "currentPassword": PASSWORD });
    server.api("POST", "/auth/2fa", Some(&token), &off).await.is(401);
}

// NP-5: one step either side, and none twice.
#[tokio::test]
async fn codes_are_good_for_one_step_either_side_and_once() {
    let server = Server::start("[limits]\naccount_backoff = { after = 50, base = \"1s\", max = \"15m\" }\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let (secret, _) = server.enrol(&token).await;
    server.wait(600);
    let attempt = async |at: i64| {
        let then = nullpass::clock::Timestamp::from_secs(server.now().as_secs() + at);
        let body = json!({ "email": "ada@example.com", "password": PASSWORD, "verificationCode": code(&secret, then) });
        server.api("POST", "/auth/login", None, &body).await.status
    };
    assert_eq!(attempt(-60).await, 401);
    assert_eq!(attempt(60).await, 401);
    assert_eq!(attempt(-30).await, 200);
    assert_eq!(attempt(-30).await, 401, "a second time");
    assert_eq!(attempt(0).await, 200);
    assert_eq!(attempt(0).await, 401, "a second time");
    assert_eq!(attempt(30).await, 200);
    assert_eq!(attempt(0).await, 401, "an earlier step than the last one");
}

// NP-6, ENUM-1: an unknown address costs and looks the same as a wrong password.
#[tokio::test]
async fn unknown_addresses_look_and_cost_like_wrong_passwords() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    server.store().settled().await;
    let mut seen = Vec::new();
    for email in ["ada@example.com", "nobody@example.com"] {
        server.store().take_asked();
        let hashed = server.auth().hasher().hashes_done();
        let answer = server.try_log_in(email, "wrong-Orchard-19").await.is(401);
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("requestId");
        let names: Vec<String> = answer.fields.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        seen.push((body, names, server.auth().hasher().hashes_done() - hashed, server.store().take_asked()));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].2, 1);
}

// NP-7: no answer holds a hash, a secret or anything that was sealed.
#[tokio::test]
async fn answers_hold_no_secrets() {
    let server = Server::start("[accounts]\nregistration = \"open\"\n").await;
    let mut all = String::new();
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let made = server.api("POST", "/auth/register", None, &body).await.is(201);
    let token = made.json()["token"].as_str().unwrap().to_owned();
    let (secret, recovery) = server.enrol(&token).await;
    all.push_str(&made.text());
    for path in ["/auth/me", "/auth/sessions", "/auth/tokens", "/audit", "/health"] {
        all.push_str(&server.api("GET", path, Some(&token), &Value::Null).await.is(200).text());
    }
    let created = server.api("POST", "/auth/tokens", Some(&token), &json!({ "name": "ci" })).await.is(201).json();
    all.push_str(&server.api("GET", "/auth/tokens", Some(&token), &Value::Null).await.is(200).text());
    all.push_str(&server.api("PATCH", "/auth/me", Some(&token), &json!({ "displayName": "Ada" })).await.is(200).text());
    all.push_str(&server.get("/_auth/account", &[("authorization", &format!("Bearer {token}"))]).await.is(200).text());
    let lower = all.to_ascii_lowercase();
    for word in ["argon2", "passwordhash", "password_hash", "secret", "digest", "datakey", "data_key", "sealed", PASSWORD, &recovery[0]] {
        assert!(!lower.contains(&word.to_ascii_lowercase()), "{word}: {all}");
    }
    assert!(!all.contains(&secret) && !all.contains(created["token"].as_str().unwrap()));
}

// NP-8, NP-10, NP-11: nothing on the disk can be replayed or says where from.
#[tokio::test]
async fn the_disk_holds_nothing_that_can_be_used() {
    let server = Server::start("[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n").await;
    server.account("ada@example.com", &[]).await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD }).to_string();
    let fields = [("content-type", "application/json"), ("x-forwarded-for", "203.0.113.77"), ("user-agent", "canary-browser/1")];
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let answer = server.send("POST", "/_auth/api/auth/login", &fields, body.as_bytes()).await.is(200);
        tokens.push(answer.json()["token"].as_str().unwrap().to_owned());
    }
    // NP-11: one session a sign-in, from the same address too.
    let sessions = server.api("GET", "/auth/sessions", Some(&tokens[0]), &Value::Null).await.is(200).json();
    let sessions = sessions["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert!(sessions.iter().all(|session| session["ip"] == "203.0.113.77"), "{sessions:?}");
    let (secret, recovery) = server.enrol(&tokens[0]).await;
    let made = server.api("POST", "/auth/tokens", Some(&tokens[0]), &json!({ "name": "ci" })).await.is(201).json();
    let store: &dyn nullpass::store::Store = &**server.store();
    store.flush().await.unwrap();

    let disk = server.kept();
    let holds = |text: &str| disk.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("ada@example.com"), "the search works");
    let signature = tokens[0].rsplit('.').next().unwrap();
    for hidden in
        [&tokens[0], signature, &secret, &recovery[0], made["token"].as_str().unwrap(), PASSWORD, "203.0.113.77", "canary-browser"]
    {
        assert!(!holds(hidden), "{hidden}");
    }
}

// NP-9, FWD-3: nobody but a trusted proxy says who the client is.
#[tokio::test]
async fn the_client_is_the_peer() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD }).to_string();
    let fields = [
        ("content-type", "application/json"),
        ("x-client-ip", "203.0.113.1"),
        ("x-forwarded-for", "203.0.113.2"),
        ("forwarded", "for=203.0.113.3"),
        ("x-real-ip", "203.0.113.4"),
        ("true-client-ip", "203.0.113.5"),
    ];
    let answer = server.send("POST", "/_auth/api/auth/login", &fields, body.as_bytes()).await.is(200);
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let sessions = server.api("GET", "/auth/sessions", Some(&token), &Value::Null).await.is(200).json();
    assert_eq!(sessions["sessions"][0]["ip"], "127.0.0.1");
}

// NP-10: an audit event that is lost is seen in the metrics, and a change of password ends the other sessions.
#[tokio::test]
async fn lost_audit_events_are_counted() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    server.store().set_audit_fails(true);
    let token = server.log_in("ada@example.com").await;
    server.store().set_audit_fails(false);
    let metrics = crate::support::Connection::to(server.admin_address()).await.send("GET", "/metrics", &[], b"").await.is(200).text();
    let line = metrics.lines().find(|line| line.contains("audit_failed")).expect("the counter");
    assert!(!line.ends_with(" 0") && !line.ends_with(" 0.0"), "{line}");
    let other = server.log_in("ada@example.com").await;
    let body = json!({ "currentPassword": PASSWORD, "newPassword": "another-Orchard-20-door" });
    let new = server.api("POST", "/auth/password", Some(&token), &body).await.is(200).json();
    assert_eq!((server.status(&token).await, server.status(&other).await), (401, 401));
    assert_eq!(server.status(new["token"].as_str().unwrap()).await, 200);
    server.try_log_in("ada@example.com", PASSWORD).await.is(401);
}

// NP-12: other origins are told nothing, and a picture is an address of the web.
#[tokio::test]
async fn no_cross_origin_reading_and_no_script_as_a_picture() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    for method in ["OPTIONS", "GET"] {
        let fields = [("origin", "https://evil.example"), ("access-control-request-method", "GET"), ("authorization", bearer.as_str())];
        let answer = server.send(method, "/_auth/api/auth/me", &fields, b"").await;
        assert!(answer.fields.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("access-control-")), "{answer:?}");
    }
    for avatar in ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//evil.example/x", "https://a b"] {
        let refused = server.api("PATCH", "/auth/me", Some(&token), &json!({ "avatar": avatar })).await.is(400);
        assert_eq!(refused.json()["field"], "avatar");
    }
    server.api("PATCH", "/auth/me", Some(&token), &json!({ "avatar": "https://example.com/a.png" })).await.is(200);
}

// NP-13, ADM-1: nobody makes an administrator of themselves.
#[tokio::test]
async fn groups_are_given_by_administrators_alone() {
    let server = Server::start("[accounts]\nregistration = \"open\"\n").await;
    for extra in ["groups", "role", "isAdmin", "services", "attributes"] {
        let body = json!({ "email": "eve@example.com", "password": PASSWORD, extra: ["nullpass-admin"] });
        let refused = server.api("POST", "/auth/register", None, &body).await.is(400);
        assert_eq!(refused.json()["field"], extra);
    }
    let body = json!({ "email": "eve@example.com", "password": PASSWORD });
    let token = server.api("POST", "/auth/register", None, &body).await.is(201).json()["token"].as_str().unwrap().to_owned();
    let refused = server.api("PATCH", "/auth/me", Some(&token), &json!({ "groups": ["nullpass-admin"] })).await.is(400);
    assert_eq!(refused.json()["field"], "groups");
    let me = server.api("GET", "/auth/me", Some(&token), &Value::Null).await.is(200).json();
    assert_eq!(me["user"]["groups"], json!([]));
}
