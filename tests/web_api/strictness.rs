//! What is wrong is named, and nothing is done.

use serde_json::{Value, json};

use crate::world::{A, PASSWORD, World};

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_are_refused_by_their_field() {
    let world = World::new().await;
    let send = |body: Value| world.post(&format!("{A}/auth/register"), &body).send();
    for (body, field) in [
        (json!({ "email": 7, "password": PASSWORD }), "email"),
        (json!({ "email": null, "password": PASSWORD }), "email"),
        (json!({ "password": PASSWORD }), "email"),
        (json!({ "email": "a@evil@example.com", "password": PASSWORD }), "email"),
        (json!({ "email": "a@example.com" }), "password"),
        (json!({ "email": "a@example.com", "password": "short" }), "password"),
        (json!({ "email": "a@example.com", "password": "x".repeat(1025) }), "password"),
        (json!({ "email": "a@example.com", "password": PASSWORD, "displayName": "a\u{202e}b" }), "displayName"),
        (json!({ "email": "a@example.com", "password": PASSWORD, "displayName": "  " }), "displayName"),
        (json!({ "email": "a@example.com", "password": PASSWORD, "role": "admin" }), "role"),
        (json!({ "email": "a@example.com", "password": PASSWORD, "cookie": "yes" }), "cookie"),
    ] {
        let told = send(body.clone()).await.refused(400, "invalid_request");
        assert_eq!(told["field"], field, "{body} {told}");
    }
    world.log_in("a@example.com", json!({})).await.refused(401, "invalid_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_oversized_and_misnamed_bodies_are_refused() {
    let world = World::new().await;
    let login = || world.ask("POST", &format!("{A}/auth/login"));
    let json = |body: Vec<u8>| login().header("content-type", "application/json").bytes(body).send();
    for body in [&b""[..], b"{", b"[]", b"\x00", b"{\"email\":\"\xff\",\"password\":\"x\"}", br#"{"email":"a","email":"b","password":"x"}"#]
    {
        json(body.to_vec()).await.refused(400, "invalid_request");
    }
    json(vec![b'x'; 65 * 1024]).await.refused(413, "body_too_large");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        login().header("content-type", kind).bytes("{}").send().await.refused(415, "unsupported_media_type");
    }
    login().bytes("{}").send().await.refused(415, "unsupported_media_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_are_exact() {
    // RTE-1
    let world = World::new().await;
    let wrong = world.get(&format!("{A}/auth/login")).send().await;
    wrong.refused(405, "method_not_allowed");
    assert_eq!(wrong.headers["allow"], "POST, OPTIONS");
    for path in ["/auth/nothing", "", "/", "/auth/login/", "/auth//login", "/AUTH/login"] {
        world.get(&format!("{A}{path}")).send().await.refused(404, "not_found");
    }
    let page = world.get("/_auth/nothing").navigate().send().await;
    assert_eq!(page.status, 404);
    assert!(page.text().contains("<h1>Not found</h1>"));
    let head = world.ask("HEAD", &format!("{A}/health")).send().await;
    let get = world.get(&format!("{A}/health")).send().await;
    assert_eq!((head.status, head.body.len()), (get.status, 0));
    assert_eq!(head.headers["content-length"], get.headers["content-length"]);
    assert_eq!(get.json()["service"], "nullpass");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_routes_are_there_for_everybody() {
    let world = World::new().await;
    let described = world.get("/_auth/openapi.json").send().await.json();
    assert!(described["paths"]["/api/auth/login"].is_object());
    let keys = world.get("/_auth/.well-known/jwks.json").send().await.json();
    assert_eq!(keys["keys"][0]["kty"], "OKP");
    assert!(keys["keys"][0].get("d").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_says_what_null_pass_said() {
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let told = world.post(&format!("{A}/auth/verify"), &json!({ "token": token })).send().await.json();
    assert_eq!(told["valid"], true);
    let payload = &told["payload"];
    assert_eq!((&payload["email"], &payload["userId"]), (&json!("a@example.com"), &payload["sub"]));
    assert_eq!(payload["exp"].as_i64().unwrap() - payload["iat"].as_i64().unwrap(), 7 * 24 * 3600);
    assert_eq!(payload["amr"], json!(["pwd"]));
    let login = world.log_in("a@example.com", json!({})).await.json();
    assert_eq!((&login["services"], &login["banned"], &login["disabled"]), (&json!([]), &json!(false), &json!(false)));
    assert!(login["user"].get("avatar").is_some_and(Value::is_null));
    for forged in ["", "x", "a.b.c", token.strip_suffix(|_: char| true).unwrap()] {
        world.post(&format!("{A}/auth/verify"), &json!({ "token": forged })).send().await.refused(401, "invalid_token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn worthless_cookies_are_taken_away() {
    // FAIL-1
    let world = World::new().await;
    for cookie in ["nullpass=x", "nullpass=a.b.c", "nullpass=a; nullpass=b"] {
        let answer = world.get(&format!("{A}/auth/me")).cookie(cookie).send().await;
        assert_eq!(answer.refused(401, "sign_in_required")["loginUrl"], "/_auth/login");
        assert!(answer.expires("nullpass"), "{answer:?}");
    }
    assert_eq!(world.get(&format!("{A}/auth/me")).send().await.headers["www-authenticate"], "Bearer");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_attempts_are_told_when_to_come_back() {
    let rate = nullpass::config::Rate { count: 3, per: std::time::Duration::from_secs(60) };
    let world = World::with(|config| config.limits.auth_per_ip = Some(rate)).await;
    for _ in 0..3 {
        world.log_in("a@example.com", json!({})).await.refused(401, "invalid_credentials");
    }
    let answer = world.log_in("a@example.com", json!({})).await;
    answer.refused(429, "too_many_attempts");
    assert_eq!(answer.headers["ratelimit-limit"], "3");
    assert_eq!(answer.headers["ratelimit-remaining"], "0");
    assert!(answer.headers.contains_key("retry-after"));
}
