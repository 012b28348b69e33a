//! Guessing, second factors, and who may come in.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::{Answer, PASSWORD, Server, code};

pub(crate) const WRONG: &str = "wrong-Orchard-19-window";

/// A sign-in that seems to come from `ip`.
pub(crate) async fn from(server: &Server, ip: &str, email: &str, password: &str, cookie: Option<&str>) -> Answer {
    let body = json!({ "email": email, "password": password }).to_string();
    let mut fields = vec![("content-type", "application/json"), ("x-forwarded-for", ip)];
    fields.extend(cookie.map(|cookie| ("cookie", cookie)));
    server.send("POST", "/_auth/api/auth/login", &fields, body.as_bytes()).await
}

pub(crate) const TRUSTING: &str = "[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n";

// RL-1: one counter for all spellings of an address, and for every way in.
#[tokio::test]
async fn every_spelling_and_every_way_in_share_one_counter() {
    let server = Server::start(&format!("{TRUSTING}[[rules]]\npath = \"/dav/**\"\npolicy = \"authenticated\"\nbasic = true\n")).await;
    server.account("ada@example.com", &[]).await;
    for (n, email) in ["ada@example.com", "ADA@example.com", "Ada@Example.COM", "ａda@example.com"].into_iter().enumerate() {
        let answer = from(&server, &format!("203.0.113.{n}"), email, WRONG, None).await;
        assert!(matches!(answer.status, 400 | 401), "{email}: {}", answer.text());
    }
    for n in 10..12 {
        let basic = crate::support::basic("aDa@example.com", WRONG);
        let fields = [("authorization", basic.as_str()), ("x-forwarded-for", &format!("203.0.113.{n}"))];
        assert_eq!(server.get("/dav/x", &fields).await.status, 401);
    }
    // Five are free, the sixth costs: with the right password, in any spelling, from anywhere.
    let answers = [
        from(&server, "198.51.100.1", "adA@example.com", WRONG, None).await,
        from(&server, "198.51.100.2", "adA@example.com", PASSWORD, None).await,
    ];
    assert_eq!(answers[1].status, 429, "{}", answers[1].text());
    assert!(!answers[1].field("retry-after").is_empty());
    let basic = crate::support::basic("ada@example.com", PASSWORD);
    let answer = server.get("/dav/x", &[("authorization", &basic), ("x-forwarded-for", "198.51.100.3")]).await;
    assert_eq!(answer.status, 429, "by Basic too");
    server.wait(3600);
    from(&server, "198.51.100.2", "adA@example.com", PASSWORD, None).await.is(200);
}

// RL-1, contract 2: nobody locks an owner out of a browser that they have signed in with.
#[tokio::test]
async fn a_known_device_is_not_locked_by_others() {
    let server = Server::start(TRUSTING).await;
    server.account("ada@example.com", &[]).await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "cookie": true });
    let device = server.api("POST", "/auth/login", None, &body).await.is(200).cookie("nullpass-device").expect("a device cookie");
    let cookie = format!("nullpass-device={device}");
    for n in 0..8 {
        from(&server, &format!("203.0.113.{n}"), "ada@example.com", WRONG, None).await;
    }
    from(&server, "198.51.100.1", "ada@example.com", PASSWORD, None).await.is(429);
    from(&server, "198.51.100.2", "ada@example.com", PASSWORD, Some(&cookie)).await.is(200);
    // Its own failures count, and it is nobody else's.
    server.account("eve@example.com", &[]).await;
    for n in 0..8 {
        from(&server, &format!("203.0.113.{}", 100 + n), "eve@example.com", WRONG, Some(&cookie)).await;
    }
    from(&server, "198.51.100.3", "eve@example.com", PASSWORD, Some(&cookie)).await.is(429);
    for n in 0..7 {
        from(&server, &format!("203.0.113.{}", 150 + n), "ada@example.com", WRONG, Some(&cookie)).await;
    }
    from(&server, "198.51.100.4", "ada@example.com", PASSWORD, Some(&cookie)).await.is(429);
}

// RL-3: made-up names lock nobody else out.
#[tokio::test]
async fn many_made_up_names_lock_nobody_out() {
    let server = Arc::new(Server::start(TRUSTING).await);
    server.account("ada@example.com", &[]).await;
    let tasks = nullpass::tasks::Tasks::new();
    for part in 0..8 {
        let server = Arc::clone(&server);
        drop(tasks.spawn(async move {
            for n in 0..35 {
                from(&server, &format!("203.0.{part}.{n}"), &format!("bogus-{part}-{n}@example.com"), WRONG, None).await;
            }
        }));
    }
    tasks.wait().await;
    from(&server, "198.51.100.1", "ada@example.com", PASSWORD, None).await.is(200);
}

// Contract 2: attempts of one address are limited, and say so.
#[tokio::test]
async fn addresses_have_a_limit_of_their_own() {
    let server = Server::start("[limits]\nauth_per_ip = \"5/m\"\n").await;
    server.account("ada@example.com", &[]).await;
    for _ in 0..5 {
        server.try_log_in("ada@example.com", PASSWORD).await.is(200);
    }
    let limited = server.try_log_in("ada@example.com", PASSWORD).await.is(429);
    assert_eq!((limited.field("ratelimit-limit"), limited.field("ratelimit-remaining")), ("5", "0"));
    server.get("/_auth/login", &[]).await.is(200);
    server.wait(60);
    server.try_log_in("ada@example.com", PASSWORD).await.is(200);
}

// NP-9, FWD-3: who makes up an X-Forwarded-For does not get round the limit of the address it comes from; but as it may
// be a proxy that nobody declared, that address is never locked for everybody.
#[tokio::test]
async fn a_forged_address_does_not_lift_the_limit() {
    let server = Server::start("[limits]\nauth_per_ip = \"20/m\"\n").await;
    server.account("ada@example.com", &[]).await;
    for n in 0..19 {
        from(&server, &format!("203.0.113.{n}"), &format!("nobody-{n}@example.com"), WRONG, None).await.is(401);
    }
    from(&server, "203.0.113.90", "ada@example.com", PASSWORD, None).await.is(200);
    from(&server, "203.0.113.91", "ada@example.com", PASSWORD, None).await.is(429);
    // Without the header the same address is one person's, and nothing was counted against it.
    server.wait(60);
    for n in 0..6 {
        server.try_log_in(&format!("somebody-{n}@example.com"), WRONG).await.is(401);
    }
    server.try_log_in("ada@example.com", PASSWORD).await.is(429);
}

/// An account with a second factor: its secret and recovery codes.
async fn with_second_factor(server: &Server, email: &str) -> (String, Vec<String>) {
    let (_, token) = server.signed_in(email).await;
    let enrolled = server.enrol(&token).await;
    server.wait(30);
    enrolled
}

async fn pending(server: &Server, email: &str) -> Answer {
    server.try_log_in(email, PASSWORD).await
}

fn token_of(begun: &Answer) -> String {
    begun.json()["pendingToken"].as_str().unwrap().to_owned()
}

// NP-5, contract 4: a pending login takes five wrong codes, the right one after them comes too late.
#[tokio::test]
async fn a_pending_login_takes_five_tries() {
    let server = Server::start("[limits]\naccount_backoff = { after = 100, base = \"1s\", max = \"15m\" }\n").await;
    let (secret, _) = with_second_factor(&server, "ada@example.com").await;
    let try_with = async |pending: &str, code: &str| {
        server.api("POST", "/auth/login/2fa", None, &json!({ "pendingToken": pending, "verificationCode": code })).await
    };
    let first = token_of(&pending(&server, "ada@example.com").await);
    for _ in 0..4 {
        assert_eq!(try_with(&first, "000000").await.is(401).code(), "invalid_code");
    }
    try_with(&first, &code(&secret, server.now())).await.is(200);
    let second = token_of(&pending(&server, "ada@example.com").await);
    for _ in 0..5 {
        try_with(&second, "000000").await.is(401);
    }
    server.wait(30);
    assert_eq!(try_with(&second, &code(&secret, server.now())).await.is(401).code(), "pending_expired");
    let third = token_of(&pending(&server, "ada@example.com").await);
    try_with(&third, &code(&secret, server.now())).await.is(200);
}

// RL-2: the count of guesses at codes is the account's: it outlives the flow, a right password and a restart.
#[tokio::test]
async fn guesses_at_codes_are_counted_for_the_account() {
    let mut server = Server::start("").await;
    let (secret, recovery) = with_second_factor(&server, "ada@example.com").await;
    let mut refused = 0;
    for _ in 0..7 {
        let begun = pending(&server, "ada@example.com").await.is(200);
        let body = json!({ "pendingToken": token_of(&begun), "verificationCode": "000000" });
        refused = server.api("POST", "/auth/login/2fa", None, &body).await.status;
    }
    assert_eq!(refused, 429, "a new flow every time, and a right password in between");
    server.restart().await;
    let begun = pending(&server, "ada@example.com").await.is(200);
    let body = json!({ "pendingToken": token_of(&begun), "verificationCode": code(&secret, server.now()) });
    server.api("POST", "/auth/login/2fa", None, &body).await.is(429);
    let body = json!({ "pendingToken": token_of(&begun), "recoveryCode": recovery[0] });
    server.api("POST", "/auth/login/2fa", None, &body).await.is(429);
    server.wait(3600);
    let begun = pending(&server, "ada@example.com").await.is(200);
    let body = json!({ "pendingToken": token_of(&begun), "verificationCode": code(&secret, server.now()) });
    server.api("POST", "/auth/login/2fa", None, &body).await.is(200);
}

// NP-5, JWT-2: recovery codes are good once each, also when two come at the same time; new ones void the old.
#[tokio::test]
async fn recovery_codes_are_good_once() {
    let server = Server::start("").await;
    let (_, recovery) = with_second_factor(&server, "ada@example.com").await;
    assert_eq!(recovery.len(), 10);
    let (one, two) = (pending(&server, "ada@example.com").await, pending(&server, "ada@example.com").await);
    let body = |begun: &Answer, code: &str| json!({ "pendingToken": token_of(begun), "recoveryCode": code });
    let (first, second) = (body(&one, &recovery[0]), body(&two, &recovery[0]));
    let answers = tokio::join!(server.api("POST", "/auth/login/2fa", None, &first), server.api("POST", "/auth/login/2fa", None, &second));
    let mut statuses = [answers.0.status, answers.1.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
    let answer = if answers.0.status == 200 { answers.0 } else { answers.1 };
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let renewed =
        server.api("POST", "/auth/2fa/recovery-codes", Some(&token), &json!({ "currentPassword": PASSWORD })).await.is(200).json();
    let three = pending(&server, "ada@example.com").await;
    server.api("POST", "/auth/login/2fa", None, &body(&three, &recovery[1])).await.is(401);
    let new = renewed["recoveryCodes"][0].as_str().unwrap();
    server.api("POST", "/auth/login/2fa", None, &body(&three, new)).await.is(200);
}

// JWT-2: one code, one session: two at once are one.
#[tokio::test]
async fn a_code_is_spent_atomically() {
    let server = Server::start("").await;
    let (secret, _) = with_second_factor(&server, "ada@example.com").await;
    let begun = token_of(&pending(&server, "ada@example.com").await.is(200));
    let body = json!({ "pendingToken": begun, "verificationCode": code(&secret, server.now()) });
    let call = || server.api("POST", "/auth/login/2fa", None, &body);
    let answers = tokio::join!(call(), call(), call(), call());
    let all = [answers.0.status, answers.1.status, answers.2.status, answers.3.status];
    assert_eq!(all.iter().filter(|status| **status == 200).count(), 1, "{all:?}");
}

// JWT-2: a pending login that a form began belongs to that browser.
#[tokio::test]
async fn a_pending_login_belongs_to_its_browser() {
    let server = Server::start("").await;
    let (secret, _) = with_second_factor(&server, "ada@example.com").await;
    let mut browser = crate::browser::Browser::new(&server);
    let page = browser.submit("/_auth/login", &[("email", "ada@example.com"), ("password", PASSWORD)]).await.is(200);
    let pending = crate::browser::field(&page, "pending");
    // By the API, and in another browser.
    let body = json!({ "pendingToken": pending, "verificationCode": code(&secret, server.now()) });
    assert_eq!(server.api("POST", "/auth/login/2fa", None, &body).await.is(401).code(), "pending_expired");
    let mut other = crate::browser::Browser::new(&server);
    other.page("/_auth/login").await;
    let fields = [("pending", pending.as_str()), ("code", &*code(&secret, server.now()))];
    let answer = other.submit_at("/_auth/login", "/_auth/login/2fa", &fields).await;
    assert_ne!(answer.status, 303);
    assert!(other.cookie("nullpass").is_none());
    let answer = browser.submit_shown(&page, "/_auth/login/2fa", &fields).await.is(303);
    assert_eq!(answer.field("location"), "/");
    assert!(browser.cookie("nullpass").is_some());
}

// ENR-1, contract 3: who must have a second factor and has none may set one up and nothing else.
#[tokio::test]
async fn enrolment_only_is_for_enrolment_only() {
    let server = Server::start("[two_factor]\nrequired = \"always\"\n[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let bearer = format!("Bearer {token}");
    assert_eq!(server.get("/private", &[("authorization", &bearer)]).await.is(403).code(), "second_factor_enrolment_required");
    server.upstream.take();
    server.get("/public/a", &[("authorization", &bearer)]).await.is(200);
    assert_eq!(server.upstream.only().one("x-forwarded-user"), None);
    server.api("POST", "/auth/tokens", Some(&token), &json!({ "name": "x" })).await.is(403);
    server.api("PATCH", "/auth/me", Some(&token), &json!({ "displayName": "x" })).await.is(403);
    server.api("POST", "/auth/verify", None, &json!({ "token": token })).await.is(401);
    server.enrol(&token).await;
    assert_eq!(server.status(&token).await, 200);
}

// NP-5: a rule that asks for a second factor gets one, and it counts for this session alone.
#[tokio::test]
async fn two_factor_rules_take_a_code() {
    let server = Server::start("[[rules]]\npath = \"/vault/**\"\npolicy = \"two_factor\"\n").await;
    let (_, plain) = server.signed_in("ada@example.com").await;
    let vault = async |token: &str| server.get("/vault/x", &[("authorization", &*format!("Bearer {token}"))]).await;
    assert_eq!(vault(&plain).await.is(403).code(), "second_factor_enrolment_required");
    let (secret, _) = server.enrol(&plain).await;
    vault(&plain).await.is(200);
    server.wait(30);
    let begun = pending(&server, "ada@example.com").await;
    let body = json!({ "pendingToken": token_of(&begun), "verificationCode": code(&secret, server.now()) });
    let full = server.api("POST", "/auth/login/2fa", None, &body).await.is(200).json();
    vault(full["token"].as_str().unwrap()).await.is(200);
    server.get("/vault/x", &[("cookie", "nullpass=x")]).await.is(401);
}

// RACE-1: whoever signs in at the same time gets their own session, and is announced as themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_sign_ins_are_not_mixed_up() {
    // One address may have so many sign-ins in the air at a time only.
    let server = Arc::new(Server::start(TRUSTING).await);
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(server.account(&format!("user{n}@example.com"), &[]).await.id);
    }
    let tasks = nullpass::tasks::Tasks::new();
    let mut running = Vec::new();
    for worker in 0..10 {
        let (server, ids) = (Arc::clone(&server), ids.clone());
        running.push(tasks.spawn(async move {
            for round in 0..5 {
                for at in (0..10).map(|n| (n * 10 + worker + round) % 100) {
                    let email = format!("user{at}@example.com");
                    let answer = from(&server, &format!("203.0.113.{at}"), &email, PASSWORD, None).await;
                    if answer.status == 503 {
                        continue;
                    }
                    let answer = answer.is(200).json();
                    assert_eq!(answer["user"]["id"], ids[at].to_string());
                    let token = answer["token"].as_str().unwrap();
                    let verified = server.api("POST", "/auth/verify", None, &json!({ "token": token })).await.is(200).json();
                    assert_eq!(
                        (&verified["payload"]["userId"], &verified["payload"]["email"]),
                        (&json!(ids[at].to_string()), &json!(email))
                    );
                    server.get(&format!("/as/{email}"), &[("authorization", &*format!("Bearer {token}"))]).await.is(200);
                }
            }
        }));
    }
    for worker in running {
        worker.await.unwrap();
    }
    let seen = server.upstream.take();
    assert!(seen.len() > 250, "{}", seen.len());
    for request in seen {
        assert_eq!(format!("/as/{}", request.one("x-forwarded-user").unwrap()), request.target());
    }
}

// EML-1: strict addresses, and one account for all spellings of one.
#[tokio::test]
async fn addresses_are_strict() {
    let server =
        Server::start("[accounts]\nregistration = \"domains\"\nallowed_domains = [\"corp.com\"]\ndanger_unverified_addresses = true\n")
            .await;
    let register = async |email: &str| server.api("POST", "/auth/register", None, &json!({ "email": email, "password": PASSWORD })).await;
    for email in [
        "a@evil@corp.com",
        "a@evil.com",
        "a@corp.com.evil.com",
        "a@evil.com,@corp.com",
        "\"a@evil.com\"@corp.com",
        "a b@corp.com",
        "a@corp.com\n",
        "a@corp.com\u{0}",
        "a,b@corp.com",
        "@corp.com",
        "a@",
        "a@[127.0.0.1]",
        "a(comment)@corp.com",
        "Ada <a@corp.com>",
        "a@corp.com>",
    ] {
        let refused = register(email).await;
        assert_eq!(refused.status, 400, "{email:?} {}", refused.text());
        assert_eq!(refused.json()["field"], "email");
    }
    let made = register("Ada@CORP.com").await.is(201).json();
    assert_eq!(made["user"]["email"], "ada@corp.com");
    register("ada@corp.com").await.is(409);
    register("ADA@corp.com").await.is(409);
}

// Cross-cutting 6: passwords have a longest length and are never cut.
#[tokio::test]
async fn passwords_are_taken_whole_or_not_at_all() {
    let server = Server::start("[accounts]\nregistration = \"open\"\n").await;
    let long = format!("plum-Orchard-19{}", "x".repeat(1009));
    for (password, status) in [("", 400), ("short-7", 400), (long.as_str(), 201), (&*format!("{long}y"), 400)] {
        let email = format!("u{}@example.com", password.len());
        let answer = server.api("POST", "/auth/register", None, &json!({ "email": email, "password": password })).await;
        assert_eq!(answer.status, status, "{} bytes: {}", password.len(), answer.text());
    }
    let email = format!("u{}@example.com", long.len());
    server.try_log_in(&email, &long).await.is(200);
    server.try_log_in(&email, &long[..1023]).await.is(401);
    let hashed = server.auth().hasher().hashes_done();
    let over = server.try_log_in(&email, &format!("{long}y")).await;
    assert!(matches!(over.status, 400 | 401), "{}", over.text());
    assert!(server.auth().hasher().hashes_done() - hashed <= 1);
}

// ADM-1: there is no administration by HTTP, whoever asks.
#[tokio::test]
async fn there_is_no_administration_by_http() {
    let server = Server::start("").await;
    server.account("root@example.com", &["nullpass-admin"]).await;
    let token = server.log_in("root@example.com").await;
    for path in ["/admin/users", "/admin/sessions", "/admin/invites", "/admin/audit", "/command"] {
        server.api("GET", path, Some(&token), &Value::Null).await.is(404);
    }
    server.get("/command", &[]).await.is(401);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(server.data().join("admin.sock")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut operators = crate::support::Connection::to(server.admin_address()).await;
    for path in ["/command", "/users", "/_auth/api/admin/users"] {
        operators.send("POST", path, &[], b"{}").await.is(404);
    }
}
