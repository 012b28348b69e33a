//! What can't be decided is refused: the store does not answer.

use serde_json::{Value, json};

use crate::support::{PASSWORD, Server};

const PUBLIC: &str = "[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n";

// FAIL-2: seen sessions go on for `stale_ttl`, then nothing that is protected does; what is public always does.
#[tokio::test]
async fn seen_sessions_go_on_for_a_while() {
    let server = Server::start(PUBLIC).await;
    let (_, seen) = server.signed_in("ada@example.com").await;
    let (_, unseen) = server.signed_in("eve@example.com").await;
    server.wait(120);
    assert_eq!(server.status(&seen).await, 200);
    server.set_store_away(true).await;
    assert_eq!(server.status(&seen).await, 200);
    let refused = server.get("/private", &[("authorization", &*format!("Bearer {unseen}"))]).await.is(503);
    assert!(!refused.field("retry-after").is_empty());
    assert_eq!(server.status("x.y.z").await, 401, "what is no token of ours is none, store or not");
    server.get("/private", &[]).await.is(401);
    server.get("/public/a", &[]).await.is(200);
    server.get("/public/a", &[("authorization", &*format!("Bearer {unseen}"))]).await.is(200);
    server.wait(60);
    assert_eq!(server.status(&seen).await, 200);
    server.wait(1);
    assert_eq!(server.status(&seen).await, 503);
    server.upstream.take();
    server.get("/public/a", &[("authorization", &*format!("Bearer {seen}"))]).await.is(200);
    let request = server.upstream.only();
    assert_eq!((request.one("x-forwarded-user"), request.one("authorization")), (None, None), "nobody is announced unverified");
    // Nothing else works, and says so.
    server.try_log_in("ada@example.com", PASSWORD).await.is(503);
    server.api("POST", "/auth/refresh", Some(&seen), &Value::Null).await.is(503);
    server.api("POST", "/auth/verify", None, &json!({ "token": seen })).await.is(503);
    let page = server.get("/private", &[("cookie", &*format!("nullpass={seen}")), ("accept", "text/html")]).await.is(503);
    assert!(page.cookie("nullpass").is_none(), "the cookie is not taken away");
    server.set_store_away(false).await;
    assert_eq!((server.status(&seen).await, server.status(&unseen).await), (200, 200));
}

// FAIL-2: nobody is told that they are signed out while nobody knows.
#[tokio::test]
async fn the_page_for_signing_out_says_nothing_untrue() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    server.wait(120);
    server.set_store_away(true).await;
    let cookie = format!("nullpass={token}");
    let fields = [("cookie", cookie.as_str()), ("accept", "text/html")];
    assert!(server.get("/_auth/logout", &fields).await.is(503).cookie("nullpass").is_none());
    server.get("/_auth/logout", &fields[1..]).await.is(200);
    server.set_store_away(false).await;
    assert_eq!(server.status(&token).await, 200);
}

// FAIL-2: the operator can have it stricter.
#[tokio::test]
async fn stale_sessions_can_be_refused_at_once() {
    let server = Server::start(&format!("[sessions]\nstale_ttl = \"0s\"\n{PUBLIC}")).await;
    let (_, token) = server.signed_in("ada@example.com").await;
    assert_eq!(server.status(&token).await, 200);
    server.set_store_away(true).await;
    assert_eq!(server.status(&token).await, 503);
    server.get("/public/a", &[]).await.is(200);
}

// FAIL-2: a revocation that can't be stored is not said to be done, and who was let in by Basic is not let in blindly.
#[tokio::test]
async fn nothing_is_said_to_be_done_that_is_not() {
    let server = Server::start("[[rules]]\npath = \"/dav/**\"\npolicy = \"authenticated\"\nbasic = true\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let basic = crate::support::basic("ada@example.com", PASSWORD);
    server.get("/dav/x", &[("authorization", &basic)]).await.is(200);
    // Before anybody has noticed.
    server.store().set_away(true);
    server.api("POST", "/auth/logout", Some(&token), &Value::Null).await.is(503);
    server.set_store_away(true).await;
    server.get("/dav/x", &[("authorization", &basic)]).await.is(503);
    let ready = crate::support::Connection::to(server.admin_address()).await.send("GET", "/readyz", &[], b"").await;
    assert_eq!(ready.status, 503);
    let alive = crate::support::Connection::to(server.admin_address()).await.send("GET", "/healthz", &[], b"").await;
    assert_eq!(alive.status, 200);
}

// Contract 5: an upstream that does not answer is said so, without a word of it.
#[tokio::test]
async fn upstream_errors_say_nothing_of_the_inside() {
    let server = Server::start(PUBLIC).await;
    server.upstream.answer(|_| Vec::new());
    let answer = server.get("/public/a", &[]).await.is(502);
    assert_eq!(answer.code(), "upstream_failed");
    assert!(!answer.text().contains("127.0.0.1") && !answer.text().contains(&server.upstream.address.port().to_string()));
}

// The page says in the reader's language whose fault it is, what to do, and under which number to ask; it asks again by a
// link, and only what was a navigation.
#[tokio::test]
async fn upstream_errors_are_told_in_the_readers_language() {
    let server = Server::start(PUBLIC).await;
    server.upstream.answer(|_| Vec::new());
    let fields = [("accept", "text/html"), ("accept-language", "de-CH, en;q=0.5")];
    let page = server.get("/public/a?b=%3Cb%3E", &fields).await.is(502);
    let text = page.text();
    assert!(text.contains("<html lang=\"de\">") && text.contains("<h1>Die Anwendung antwortet nicht</h1>"), "{text}");
    assert!(text.contains("nicht Ihr Fehler") && text.contains("<a class=\"button\" href=\"\">"), "{text}");
    assert!(text.contains("Anfrage <code>"), "{text}");
    assert!(text.contains("value=\"/public/a?b=%3Cb%3E\""), "the switch keeps the page: {text}");
    let posted = [("accept", "text/html"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("accept-language", "de")];
    let posted = server.send("POST", "/public/a", &posted, b"x=y").await.is(502);
    assert!(!posted.text().contains("class=\"button\"") && !posted.text().contains("class=\"languages\""), "{}", posted.text());
}
