//! What holds without a word of configuration, and what is written down.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::support::{PASSWORD, Server, basic, code};

// DEF-1: what nobody configured is closed.
#[tokio::test]
async fn the_defaults_are_the_secure_choice() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    for target in ["/", "/index.html", "/public/a", "/static/x.css", "/.well-known/security.txt"] {
        server.get(target, &[]).await.is(401);
    }
    server.api("POST", "/auth/register", None, &json!({ "email": "eve@example.com", "password": PASSWORD })).await.is(403);
    server.get("/_auth/register", &[]).await.is(403);
    server.get("/private", &[("authorization", &basic("ada@example.com", PASSWORD))]).await.is(401);
    let token = server.log_in("ada@example.com").await;
    server.get("/private", &[("authorization", &format!("Bearer {token}")), ("x-forwarded-for", "10.0.0.1")]).await.is(200);
    assert_eq!(server.upstream.only().one("x-real-ip").unwrap(), "127.0.0.1");
    for _ in 0..6 {
        server.try_log_in("ada@example.com", "wrong-Orchard-19").await.is(401);
    }
    server.try_log_in("ada@example.com", PASSWORD).await.is(429);
    for (header, kept) in [("server", ""), ("x-powered-by", "")] {
        assert_eq!(server.get("/_auth/login", &[]).await.field(header), kept, "{header}");
    }
}

// CFG-3: what is needed for security and can't be read refuses the start, here a key that is not the state's.
#[tokio::test]
async fn state_that_another_key_sealed_is_not_opened() {
    let mut server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    server.restart().await;
    let (config, time) = (server.config.clone(), server.time.clone());
    let key = config.storage.path.join("master.key");
    let good = std::fs::read(&key).unwrap();
    server.end().await;
    for bad in [b"".to_vec(), b"short".to_vec(), good.iter().rev().copied().collect()] {
        std::fs::write(&key, &bad).unwrap();
        assert!(server.fails_to_start(&config, &time).await, "{bad:?}");
    }
    std::fs::remove_file(&key).unwrap();
    assert!(server.fails_to_start(&config, &time).await, "a new key would make the state unreadable");
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// Cross-cutting 10, TOK-1: no token, cookie, code or password is logged, at whatever level.
#[tokio::test]
async fn secrets_are_not_logged() {
    let kept = Kept::default();
    let writer = kept.clone();
    // For the whole process: the workers are threads of their own. What other tests log meanwhile does no harm.
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _first = tracing::subscriber::set_global_default(subscriber);
    let server = Server::start("[[rules]]\npath = \"/dav/**\"\npolicy = \"authenticated\"\nbasic = true\n").await;
    let password = "canary-Password-77-orchid";
    let (_, token) = server.signed_in("ada@example.com").await;
    let body = json!({ "currentPassword": PASSWORD, "newPassword": password });
    let token = server.api("POST", "/auth/password", Some(&token), &body).await.is(200).json()["token"].as_str().unwrap().to_owned();
    let (secret, recovery) = server.enrol(&token).await;
    let made = server.api("POST", "/auth/tokens", Some(&token), &json!({ "name": "ci" })).await.is(201).json();
    let api = made["token"].as_str().unwrap().to_owned();
    server.wait(30);
    let pending = server.try_log_in("ada@example.com", password).await.is(200).json()["pendingToken"].as_str().unwrap().to_owned();
    let typed = code(&secret, server.now());
    for body in
        [json!({ "pendingToken": pending, "verificationCode": "canary0" }), json!({ "pendingToken": pending, "verificationCode": typed })]
    {
        server.api("POST", "/auth/login/2fa", None, &body).await;
    }
    server.get(&format!("/_auth/setup?code=canary-setup-code&token={token}"), &[]).await;
    server.get(&format!("/private?token={token}"), &[("cookie", &format!("nullpass={token}"))]).await.is(200);
    server.get("/dav/x", &[("authorization", &basic("ada@example.com", &api))]).await.is(200);
    server.get("/dav/x", &[("authorization", &basic("ada@example.com", "canary-wrong-password"))]).await.is(401);
    server.try_log_in("ada@example.com", "canary-wrong-password").await.is(401);
    server.store().set_away(true);
    server.try_log_in("ada@example.com", password).await.is(503);
    server.api("POST", "/auth/logout", Some(&token), &Value::Null).await.is(503);

    let log = String::from_utf8_lossy(&kept.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    assert!(log.contains("nullpass"), "something is logged");
    // What hyper and sled say at the finest level is theirs; ours says nothing at any.
    let ours: Vec<&str> = log.lines().filter(|line| line.contains(" nullpass::")).collect();
    for hidden in
        [&token, token.rsplit('.').next().unwrap(), &secret, &recovery[0], &api, &pending, password, PASSWORD, "canary-", "canary0"]
    {
        assert!(!ours.iter().any(|line| line.contains(hidden)), "{hidden}");
    }
}
