//! How sessions begin, go on and end.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{PASSWORD, Server};

const NAVIGATE: [(&str, &str); 2] = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];

fn with<'a>(fields: &[(&'a str, &'a str)], more: (&'a str, &'a str)) -> Vec<(&'a str, &'a str)> {
    fields.iter().copied().chain([more]).collect()
}

/// Waits for what is done behind the answer.
async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}");
}

// SES-3, NP-2: the very next request is refused, on the same connection too.
#[tokio::test]
async fn the_end_counts_at_once() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let fields = [("authorization", bearer.as_str())];
    let mut connection = server.connect().await;
    for _ in 0..3 {
        connection.send("GET", "/private", &fields, b"").await.is(200);
    }
    connection.send("POST", "/_auth/api/auth/logout", &fields, b"").await.is(200);
    connection.send("GET", "/private", &fields, b"").await.is(401);
    connection.send("POST", "/_auth/api/auth/logout", &fields, b"").await.is(401);
    assert_eq!(server.status_by_cookie(&token).await, 401);
}

// SES-1: a sign-in, a re-authentication and a change of password begin a new session, and the old one ends.
#[tokio::test]
async fn sessions_are_never_taken_over() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let first = server.log_in_by_cookie("ada@example.com").await;
    let json_by_cookie = |token: &str| {
        vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("sec-fetch-site".to_owned(), "same-origin".to_owned()),
            ("cookie".to_owned(), format!("nullpass={token}")),
        ]
    };
    let call = async |path: &str, token: &str, body: Value| {
        let fields = json_by_cookie(token);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = server.send("POST", &format!("/_auth/api{path}"), &fields, body.to_string().as_bytes()).await.is(200);
        // XSS-1: a token in a cookie is in no body.
        assert!(answer.json().get("token").is_none(), "{}", answer.text());
        answer.cookie("nullpass").unwrap()
    };
    let login = json!({ "email": "ada@example.com", "password": PASSWORD, "cookie": true });
    let second = call("/auth/login", &first, login).await;
    let third = call("/auth/reauth", &second, json!({ "password": PASSWORD })).await;
    let fourth = call("/auth/password", &third, json!({ "currentPassword": PASSWORD, "newPassword": "another-Orchard-20-door" })).await;
    for old in [&first, &second, &third] {
        assert_eq!(server.status_by_cookie(old).await, 401);
    }
    assert_eq!(server.status_by_cookie(&fourth).await, 200);
    // A session that somebody else planted is not the one that is signed in to.
    let planted = server.log_in_by_cookie_with("ada@example.com", "another-Orchard-20-door").await;
    assert_ne!(planted, fourth);
}

// SES-2, CACHE-1: groups, the address and being disabled are read from the state, not from the token.
#[tokio::test]
async fn groups_count_at_the_next_request() {
    let server = Server::start("[[rules]]\npath = \"/staff/**\"\npolicy = \"authenticated\"\ngroups = [\"staff\"]\n").await;
    let (id, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    let fields = [("authorization", bearer.as_str())];
    let mut connection = server.connect().await;
    connection.send("GET", "/staff/x", &fields, b"").await.is(403);
    connection.send("GET", "/private", &fields, b"").await.is(200);
    connection.send("GET", "/staff/x", &fields, b"").await.is(403);
    server.upstream.take();
    let staff = [nullpass::model::Group::parse("staff").unwrap()];
    server.auth().set_groups(id, staff.into(), "test", server.now()).await.unwrap();
    connection.send("GET", "/staff/x", &fields, b"").await.is(200);
    assert_eq!(server.upstream.only().one("x-forwarded-groups").unwrap(), "staff");
    let verified = server.api("POST", "/auth/verify", None, &json!({ "token": token })).await.is(200).json();
    assert_eq!(verified["payload"]["email"], "ada@example.com");
    server.auth().set_groups(id, [].into(), "test", server.now()).await.unwrap();
    connection.send("GET", "/staff/x", &fields, b"").await.is(403);
    connection.send("GET", "/private", &fields, b"").await.is(200);
    assert_eq!(server.upstream.take().last().unwrap().one("x-forwarded-groups"), None);
    server.auth().disable_user(id, "test", server.now()).await.unwrap();
    connection.send("GET", "/private", &fields, b"").await.is(401);
}

// CACHE-1: the clock is looked at on every request: a fresh password is fresh for as long as the rule says.
#[tokio::test]
async fn freshness_runs_out() {
    let server = Server::start("[[rules]]\npath = \"/pay\"\npolicy = \"authenticated\"\nmax_auth_age = \"15m\"\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let fields = [("authorization", &*format!("Bearer {token}"))];
    server.get("/pay", &fields).await.is(200);
    server.wait(15 * 60 + 1);
    assert_eq!(server.get("/pay", &fields).await.is(403).code(), "fresh_password_required");
    server.get("/other", &fields).await.is(200);
    let page = server.get("/pay", &with(&NAVIGATE, fields[0])).await.is(302);
    assert!(page.field("location").starts_with("/_auth/reauth?rd="), "{}", page.field("location"));
    let fresh = server.api("POST", "/auth/reauth", Some(&token), &json!({ "password": PASSWORD })).await.is(200).json();
    server.get("/pay", &[("authorization", &*format!("Bearer {}", fresh["token"].as_str().unwrap()))]).await.is(200);
    assert_eq!(server.status(&token).await, 401);
}

// Contract 4: a token that was exchanged is good until its successor is seen and 60 s more; then its use is theft.
#[tokio::test]
async fn a_stolen_token_ends_the_session() {
    let server = Server::start("").await;
    let (id, first) = server.signed_in("ada@example.com").await;
    let refresh = async |token: &str| server.api("POST", "/auth/refresh", Some(token), &Value::Null).await;
    let token = |answer: crate::support::Answer| answer.is(200).json()["token"].as_str().unwrap().to_owned();
    let second = token(refresh(&first).await);
    // The successor was never seen: its answer may have been lost.
    server.wait(3600);
    assert_eq!(server.status(&first).await, 200);
    let again = token(refresh(&first).await);
    assert_eq!((server.status(&second).await, server.status(&again).await), (200, 200));
    server.wait(60);
    assert_eq!(server.status(&first).await, 200, "within the grace");
    server.wait(1);
    assert_eq!(server.status(&first).await, 401, "after it");
    eventually("the session has ended", async || server.status(&second).await == 401 && server.status(&again).await == 401).await;
    let written = async || {
        let events = server.auth().own_events(id, None, 0, 100).await.unwrap();
        events.iter().any(|event| event.event.action.to_string() == "TOKEN_REUSE")
    };
    eventually("the audit log says so", written).await;
}

// The same when the old token asks to be exchanged, and by a generation that was skipped.
#[tokio::test]
async fn exchanging_an_old_token_is_theft() {
    let server = Server::start("").await;
    let (_, first) = server.signed_in("ada@example.com").await;
    let refresh = async |token: &str| server.api("POST", "/auth/refresh", Some(token), &Value::Null).await;
    let second = refresh(&first).await.is(200).json()["token"].as_str().unwrap().to_owned();
    assert_eq!(server.status(&second).await, 200);
    let third = refresh(&second).await.is(200).json()["token"].as_str().unwrap().to_owned();
    // Two generations behind.
    refresh(&first).await.is(401);
    eventually("the session has ended", async || server.status(&second).await == 401 && server.status(&third).await == 401).await;
}

// Contract 4: expired tokens can't be exchanged, and no session outlives `max_lifetime`.
#[tokio::test]
async fn nothing_outlives_its_end() {
    let server = Server::start("[tokens]\nttl = \"1h\"\n[sessions]\nmax_lifetime = \"2h\"\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    server.wait(3600 + 31);
    assert_eq!(server.status(&token).await, 401);
    server.api("POST", "/auth/refresh", Some(&token), &Value::Null).await.is(401);

    let mut token = server.log_in("ada@example.com").await;
    for _ in 0..3 {
        server.wait(39 * 60);
        let answer = server.api("POST", "/auth/refresh", Some(&token), &Value::Null).await.is(200);
        token = answer.json()["token"].as_str().unwrap().to_owned();
    }
    assert_eq!(server.status(&token).await, 200);
    server.wait(4 * 60);
    assert_eq!(server.status(&token).await, 401, "two hours are over");
}

// Contract 4: past half of its life a cookie is renewed, by navigations alone.
#[tokio::test]
async fn cookies_renew_themselves_with_navigations() {
    let server = Server::start("[tokens]\nttl = \"10h\"\n").await;
    server.account("ada@example.com", &[]).await;
    let token = server.log_in_by_cookie("ada@example.com").await;
    let cookie = format!("nullpass={token}");
    server.upstream.answer(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: public\r\n\r\n".to_vec());
    let navigate = async |cookie: &str| server.get("/private", &with(&NAVIGATE, ("cookie", cookie))).await.is(200);
    server.wait(4 * 3600);
    assert!(navigate(&cookie).await.cookie("nullpass").is_none(), "before half of it");
    server.wait(3600 + 60);
    for fields in [
        vec![("cookie", cookie.as_str())],
        vec![("cookie", &cookie), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
        vec![("cookie", &cookie), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
    ] {
        assert!(server.get("/private", &fields).await.is(200).cookie("nullpass").is_none(), "{fields:?}");
    }
    let answer = navigate(&cookie).await;
    let renewed = answer.cookie("nullpass").expect("a renewed cookie");
    assert!(answer.field("cache-control").contains("private") || answer.field("cache-control").contains("no-store"));
    assert_ne!(renewed, token);
    assert!(navigate(&format!("nullpass={renewed}")).await.cookie("nullpass").is_none());
    // Both are the same session and generation.
    assert_eq!((server.status_by_cookie(&token).await, server.status_by_cookie(&renewed).await), (200, 200));
    server.wait(5 * 3600);
    assert_eq!((server.status_by_cookie(&token).await, server.status_by_cookie(&renewed).await), (401, 200));
    let gone = server.send("DELETE", "/_auth/api/auth/sessions", &[("authorization", &*format!("Bearer {renewed}"))], b"").await;
    gone.is(200);
    assert_eq!(server.status_by_cookie(&renewed).await, 401);
}

// CACHE-1: what sets or expires a cookie is kept by no cache that serves others, on a public path either.
#[tokio::test]
async fn no_shared_cache_keeps_an_answer_that_touches_the_cookie() {
    let server = Server::start("[[rules]]\npath = \"/**\"\npolicy = \"public\"\n").await;
    server.account("ada@example.com", &[]).await;
    let token = server.log_in_by_cookie("ada@example.com").await;
    server.upstream.answer(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: public, max-age=60\r\nCDN-Cache-Control: max-age=60\r\nX-Accel-Expires: 60\r\n\r\n"
            .to_vec()
    });
    server.wait(5 * 24 * 3600);
    for (cookie, cache_control) in
        [(format!("nullpass={token}"), "private, no-store"), ("nullpass=worthless".to_owned(), "max-age=60, private")]
    {
        let answer = server.get("/page", &with(&NAVIGATE, ("cookie", &cookie))).await.is(200);
        assert!(answer.cookie("nullpass").is_some(), "{cookie}");
        assert_eq!(answer.all("cache-control"), [cache_control]);
        assert!(answer.all("cdn-cache-control").is_empty() && answer.all("x-accel-expires").is_empty(), "{cookie}");
    }
    assert_eq!(server.get("/page", &NAVIGATE).await.is(200).field("cdn-cache-control"), "max-age=60");
}

// SES-3: a session that ends while the application is at work is told like every other missing one.
#[tokio::test]
async fn an_answer_that_is_waited_for_ends_with_the_session() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    // The beginning of an answer, and no more.
    server.upstream.answer(|_| b"HTTP/1.1".to_vec());
    let html = ("accept", "text/html");
    let navigate = [html, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    let frame = [html, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
    for (method, fields, status) in [
        ("GET", &[][..], 401),
        ("GET", &navigate, 302),
        ("POST", &navigate, 401),
        ("GET", &frame, 401),
        ("POST", &[("content-type", "application/grpc")], 401),
    ] {
        let token = server.log_in("ada@example.com").await;
        let bearer = format!("Bearer {token}");
        let mut connection = server.connect().await;
        let fields = [fields, &[("authorization", bearer.as_str())]].concat();
        let end = async {
            while server.upstream.take().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.api("POST", "/auth/logout", Some(&token), &Value::Null).await.is(200);
        };
        let (answer, ()) = tokio::join!(connection.send(method, "/work?a=b", &fields, b""), end);
        let answer = answer.is(status);
        let shown = format!("{method} {fields:?}");
        assert_eq!(answer.field("cache-control"), "no-store", "{shown}");
        match (status, answer.field("content-type")) {
            (302, _) => assert_eq!(answer.field("location"), "/_auth/login?rd=%2Fwork%3Fa%3Db"),
            (_, "application/json") => {
                assert_eq!((&*answer.code(), answer.field("www-authenticate")), ("session_ended", "Bearer"));
                assert_eq!(answer.json()["loginUrl"], "/_auth/login");
            }
            (_, "application/grpc") => assert_eq!(answer.field("grpc-status"), "16"),
            (_, page) => {
                assert_eq!((page, answer.field("www-authenticate")), ("text/html; charset=utf-8", "Bearer"), "{shown}");
                assert!(answer.text().contains("href=\"/_auth/login\""), "{shown}");
            }
        }
    }
}

// The renewed one is known after a restart as well.
#[tokio::test]
async fn sessions_survive_a_restart() {
    let mut server = Server::start("[tokens]\nttl = \"10h\"\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let gone = server.log_in("ada@example.com").await;
    server.api("POST", "/auth/logout", Some(&gone), &Value::Null).await.is(200);
    let old = server.log_in("ada@example.com").await;
    let new = server.api("POST", "/auth/refresh", Some(&old), &Value::Null).await.is(200).json()["token"].as_str().unwrap().to_owned();
    assert_eq!(server.status(&new).await, 200);
    server.restart().await;
    assert_eq!((server.status(&token).await, server.status(&gone).await, server.status(&new).await), (200, 401, 200));
    server.wait(62);
    assert_eq!(server.status(&old).await, 401, "theft is known after a restart too");
}

#[tokio::test]
async fn idle_sessions_end() {
    let server = Server::start("[sessions]\nidle_timeout = \"10m\"\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    for _ in 0..3 {
        server.wait(9 * 60);
        assert_eq!(server.status(&token).await, 200);
    }
    server.wait(10 * 60);
    assert_eq!(server.status(&token).await, 401);
    server.api("POST", "/auth/refresh", Some(&token), &Value::Null).await.is(401);
}

#[tokio::test]
async fn the_oldest_session_makes_room() {
    let server = Server::start("[sessions]\nmax_per_user = 2\n").await;
    let (_, first) = server.signed_in("ada@example.com").await;
    server.wait(1);
    let second = server.log_in("ada@example.com").await;
    server.wait(1);
    let third = server.log_in("ada@example.com").await;
    let (_, other) = server.signed_in("eve@example.com").await;
    assert_eq!((server.status(&first).await, server.status(&second).await, server.status(&third).await), (401, 200, 200));
    assert_eq!(server.status(&other).await, 200);
}

// `bind_ip`: a session is worth nothing elsewhere, and goes on where it began, after a restart too.
#[tokio::test]
async fn sessions_are_tied_to_their_address() {
    for (bind, elsewhere) in [("exact", 401), ("network", 200), ("record", 200)] {
        let mut server =
            Server::start(&format!("[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n[sessions]\nbind_ip = \"{bind}\"\n")).await;
        server.account("ada@example.com", &[]).await;
        let body = json!({ "email": "ada@example.com", "password": PASSWORD }).to_string();
        let fields = [("content-type", "application/json"), ("x-forwarded-for", "203.0.113.7")];
        let answer = server.send("POST", "/_auth/api/auth/login", &fields, body.as_bytes()).await.is(200);
        let bearer = format!("Bearer {}", answer.json()["token"].as_str().unwrap());
        for round in 0..2 {
            let from = async |ip: &str| server.get("/private", &[("authorization", &bearer), ("x-forwarded-for", ip)]).await.status;
            assert_eq!(from("203.0.113.7").await, 200, "{bind} {round}");
            assert_eq!(from("203.0.113.8").await, elsewhere, "{bind} {round}");
            assert_eq!(from("198.51.100.7").await, if bind == "record" { 200 } else { 401 }, "{bind} {round}");
            assert_eq!(from("203.0.113.7").await, 200, "{bind} {round}");
            server.restart().await;
        }
    }
}

// XSS-1: whoever reads our answers with the cookie, such as script in the application, gets no token out of them.
#[tokio::test]
async fn a_cookie_never_becomes_a_token() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let token = server.log_in_by_cookie("ada@example.com").await;
    let cookie = format!("nullpass={token}");
    let mut fields = vec![("cookie", cookie.as_str()), ("sec-fetch-site", "same-origin")];
    for target in [
        "/_auth/api/auth/me",
        "/_auth/api/auth/sessions",
        "/_auth/api/auth/tokens",
        "/_auth/api/audit",
        "/_auth/account",
        "/_auth/account/2fa",
        "/_auth/login?prompt=login",
        "/_auth/logout",
        "/_auth/reauth",
        "/_auth/openapi.json",
        "/_auth/.well-known/jwks.json",
    ] {
        let answer = server.get(target, &fields).await.is(200);
        assert!(!answer.text().contains(&token[..40]) && !answer.text().contains(token.rsplit('.').next().unwrap()), "{target}");
    }
    fields.push(("content-type", "application/json"));
    let refreshed = server.send("POST", "/_auth/api/auth/refresh", &fields, b"{\"cookie\":false}").await.is(200);
    assert!(refreshed.json().get("token").is_none() && refreshed.cookie("nullpass").is_some(), "{}", refreshed.text());
    // Nor for making a credential that lasts without the password.
    server.wait(301);
    let cookie = format!("nullpass={}", refreshed.cookie("nullpass").unwrap());
    let fields = [("cookie", cookie.as_str()), ("sec-fetch-site", "same-origin"), ("content-type", "application/json")];
    let refused = server.send("POST", "/_auth/api/auth/tokens", &fields, b"{\"name\":\"x\"}").await.is(403);
    assert_eq!(refused.code(), "fresh_password_required");
}

// Contract 5: what is open ends within two seconds of its session.
#[tokio::test]
async fn open_channels_end_with_their_session() {
    let server = Server::start("[[rules]]\npath = \"/dav/**\"\npolicy = \"authenticated\"\nbasic = true\n").await;
    let (id, _) = server.signed_in("ada@example.com").await;
    for end in ["logout", "disable", "lifetime"] {
        server.auth().enable_user(id, "test", server.now()).await.unwrap();
        let token = server.log_in("ada@example.com").await;
        let bearer = format!("Bearer {token}");
        server.upstream.answer(|request| {
            if request.one("upgrade").is_some() {
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec()
            } else {
                b"HTTP/1.1 200 OK\r\nX-Endless: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()
            }
        });
        let mut socket = server.connect().await;
        let fields = [("authorization", bearer.as_str()), ("connection", "upgrade"), ("upgrade", "websocket")];
        socket.send("GET", "/ws", &fields, b"").await.is(101);
        socket.write(b"hello").await;
        assert_eq!(socket.read().await, b"hello");
        let mut stream = server.connect().await;
        stream.write(format!("GET /events HTTP/1.1\r\nHost: app.example.com\r\nAuthorization: {bearer}\r\n\r\n").as_bytes()).await;
        assert!(stream.read().await.starts_with(b"HTTP/1.1 200"));
        let mut basic = server.connect().await;
        let credentials = crate::support::basic("ada@example.com", PASSWORD);
        basic.write(format!("GET /dav/x HTTP/1.1\r\nHost: app.example.com\r\nAuthorization: {credentials}\r\n\r\n").as_bytes()).await;
        assert!(basic.read().await.starts_with(b"HTTP/1.1 200"));
        match end {
            "logout" => drop(server.api("POST", "/auth/logout", Some(&token), &Value::Null).await.is(200)),
            "disable" => drop(server.auth().disable_user(id, "test", server.now()).await.unwrap()),
            _ => server.wait(30 * 24 * 3600),
        }
        let ended = tokio::join!(socket.ended(), stream.ended());
        assert!(ended.0 < Duration::from_millis(2500) && ended.1 < Duration::from_millis(2500), "{end}: {ended:?}");
        if end == "disable" {
            assert!(basic.ended().await < Duration::from_millis(2500), "by Basic");
        }
    }
}

// A page that polls while its person confirms the password asks with the old cookie; the answer may come last.
#[tokio::test]
async fn an_answer_to_script_takes_no_newer_cookie_away() {
    let server = Server::start("").await;
    let cookie = ("cookie", "nullpass=worthless");
    let script = [("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty"), ("sec-fetch-site", "same-origin"), cookie];
    for path in ["/private", "/_auth/api/auth/me"] {
        assert_eq!(server.get(path, &script).await.is(401).cookie("nullpass"), None, "{path}");
    }
    assert_eq!(server.get("/private", &with(&NAVIGATE, cookie)).await.is(302).cookie("nullpass").as_deref(), Some(""));
}

// FAIL-1: a cookie that is worth nothing is as none, and the answer takes it away.
#[tokio::test]
async fn broken_cookies_are_none() {
    let server = Server::start("[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let long = "a".repeat(5000);
    for value in
        ["", "x", "a.b.c", "e30.e30.", "%00", "\"quoted\"", "eyJhbGciOiJub25lIn0.e30.", "{}", "né", &long, &token[..token.len() - 1]]
    {
        let cookie = format!("nullpass={value}");
        let answer = server.get("/private", &[("cookie", &cookie)]).await.is(401);
        assert_eq!(answer.cookie("nullpass").as_deref(), Some(""), "{value:?} is taken away");
        let page = server.get("/private", &with(&NAVIGATE, ("cookie", &cookie))).await.is(302);
        assert_eq!(page.cookie("nullpass").as_deref(), Some(""), "{value:?} is taken away");
        server.upstream.take();
        server.get("/public/a", &[("cookie", &cookie)]).await.is(200);
        let request = server.upstream.only();
        assert_eq!((request.one("x-forwarded-user"), request.one("cookie")), (None, None), "{value:?}");
    }
}
