//! One test a requirement.

use std::time::Duration;

use serde_json::json;

use crate::world::{A, PASSWORD, World};

#[tokio::test(flavor = "multi_thread")]
async fn np_1_a_pending_token_is_good_for_the_second_step_only() {
    // NP-1, JWT-1
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let (secret, _) = world.enrol(&token).await;
    let step = world.log_in("a@example.com", json!({})).await;
    assert_eq!(step.status, 200);
    let body = step.json();
    assert_eq!((&body["requires2FA"], &body["methods"]), (&json!(true), &json!(["totp", "recovery"])));
    assert!(body.get("token").is_none() && body.get("user").is_none());
    let pending = body["pendingToken"].as_str().unwrap().to_owned();
    for (method, path) in [
        ("GET", "auth/me"),
        ("POST", "auth/refresh"),
        ("POST", "auth/logout"),
        ("GET", "auth/sessions"),
        ("GET", "auth/tokens"),
        ("GET", "audit"),
    ] {
        world.ask(method, &format!("{A}/{path}")).bearer(&pending).send().await.refused(401, "sign_in_required");
    }
    world.post(&format!("{A}/auth/verify"), &json!({ "token": pending })).send().await.refused(401, "invalid_token");
    world.get(&format!("{A}/auth/me")).cookie(&format!("nullpass={pending}")).send().await.refused(401, "sign_in_required");
    // It is spent by the step it is for, and lasts five minutes.
    let finish = |code: String, pending: String| {
        world.post(&format!("{A}/auth/login/2fa"), &json!({ "pendingToken": pending, "verificationCode": code })).send()
    };
    let code = world.next_code(&secret);
    let done = finish(code, pending.clone()).await;
    assert_eq!(done.status, 200, "{done:?}");
    assert!(world.is_good(&done.token()).await);
    let code = world.next_code(&secret);
    finish(code, pending).await.refused(401, "pending_expired");
    let late = world.log_in("a@example.com", json!({})).await.json()["pendingToken"].as_str().unwrap().to_owned();
    world.clock.advance(Duration::from_secs(331));
    let code = world.next_code(&secret);
    finish(code, late).await.refused(401, "pending_expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn np_2_an_ended_session_is_refused_at_once() {
    // NP-2, SES-3
    let world = World::new().await;
    let first = world.register("a@example.com").await;
    let logged_out = world.log_in("a@example.com", json!({})).await.token();
    let done = world.ask("POST", &format!("{A}/auth/logout")).bearer(&logged_out).send().await;
    assert_eq!(done.status, 200, "{done:?}");
    assert!(!world.is_good(&logged_out).await && world.is_good(&first).await);
    let body = json!({ "currentPassword": PASSWORD, "newPassword": "another-meadow-77-copper" });
    let changed = world.post(&format!("{A}/auth/password"), &body).bearer(&first).send().await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let newest = changed.token();
    assert!(!world.is_good(&first).await && world.is_good(&newest).await);
    let gone =
        world.ask("DELETE", &format!("{A}/auth/me")).json(&json!({ "password": "another-meadow-77-copper" })).bearer(&newest).send().await;
    assert_eq!(gone.status, 200, "{gone:?}");
    assert!(!world.is_good(&newest).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn np_3_who_is_disabled_is_out() {
    // NP-3
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let id = world.auth.user_by_email(&"a@example.com".parse().unwrap()).await.unwrap().id;
    world.auth.disable_user(id, "cli", world.now()).await.unwrap();
    assert!(!world.is_good(&token).await);
    world.log_in("a@example.com", json!({})).await.refused(403, "account_disabled");
    world.log_in("a@example.com", json!({ "password": "wrong-wrong-wrong" })).await.refused(401, "invalid_credentials");
    world.get(&format!("{A}/auth/me")).bearer(&token).send().await.refused(401, "sign_in_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn np_5_codes_are_not_guessed_and_secrets_are_ours() {
    // NP-5, RL-2
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let path = format!("{A}/auth/2fa");
    let made = world.post(&path, &json!({ "enable": true })).bearer(&token).send().await.json();
    assert!(made["qrCode"].as_str().unwrap().starts_with("data:image/"));
    let secret = made["secret"].as_str().unwrap();
    let body = json!({ "enable": true, "verificationCode": world.code(secret), "secret": "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP" });
    assert_eq!(world.post(&path, &body).bearer(&token).send().await.refused(400, "invalid_request")["field"], "secret");
    let code = world.code(secret);
    let done = world.post(&path, &json!({ "enable": true, "verificationCode": code, "secret": secret })).bearer(&token).send().await;
    assert_eq!(done.status, 200, "{done:?}");
    // The code that turned it on is spent.
    world.log_in("a@example.com", json!({ "verificationCode": code })).await.refused(401, "invalid_code");
    let code = world.next_code(secret);
    assert_eq!(world.log_in("a@example.com", json!({ "verificationCode": code })).await.status, 200);
    world.log_in("a@example.com", json!({ "verificationCode": code })).await.refused(401, "invalid_code");
    // Starting again does not give new tries.
    let mut limited = false;
    for _ in 0..8 {
        let answer = world.log_in("a@example.com", json!({ "verificationCode": world.wrong_code(secret) })).await;
        if answer.status == 429 {
            limited = true;
            assert!(answer.headers.contains_key("retry-after") && answer.headers.contains_key("ratelimit-reset"));
        }
    }
    assert!(limited);
}

#[tokio::test(flavor = "multi_thread")]
async fn np_6_nobody_learns_who_has_an_account() {
    // NP-6
    let world = World::new().await;
    world.register("a@example.com").await;
    let wrong = world.log_in("a@example.com", json!({ "password": "wrong-wrong-wrong" })).await;
    let unknown = world.log_in("b@example.com", json!({})).await;
    let told = |answer: &crate::world::Answer| {
        let mut body = answer.refused(401, "invalid_credentials");
        body.as_object_mut().unwrap().remove("requestId");
        let names: Vec<_> = answer.headers.keys().cloned().collect();
        (body, names)
    };
    assert_eq!(told(&wrong), told(&unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn np_7_no_answer_holds_what_only_the_server_may_know() {
    // NP-7
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let (secret, codes) = world.enrol(&token).await;
    world.post(&format!("{A}/auth/tokens"), &json!({ "name": "x" })).bearer(&token).send().await;
    for path in ["auth/me", "auth/sessions", "auth/tokens", "audit"] {
        let answer = world.get(&format!("{A}/{path}")).bearer(&token).send().await;
        assert_eq!(answer.status, 200, "{path}");
        let text = answer.text();
        for word in ["password\"", "passwordHash", "argon2", "dataKey", "digest", "recovery\"", "revision", &secret, &codes[0], &token] {
            assert!(!text.contains(word), "{path} says {word}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn np_8_np_10_the_disk_holds_no_token_and_no_secret() {
    // NP-8, NP-10
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let (secret, codes) = world.enrol(&token).await;
    let made = world.post(&format!("{A}/auth/tokens"), &json!({ "name": "x" })).bearer(&token).send().await.token();
    let bytes = world.disk();
    assert!(!bytes.is_empty());
    for canary in [&token, &secret, &codes[0], &made, PASSWORD] {
        assert!(!bytes.windows(canary.len()).any(|window| window == canary.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn np_9_np_11_each_sign_in_is_a_session_with_the_peers_address() {
    // NP-9, NP-11
    let world = World::new().await;
    world.register("a@example.com").await;
    let body = json!({ "email": "a@example.com", "password": PASSWORD });
    let login = world.post(&format!("{A}/auth/login"), &body).header("x-forwarded-for", "203.0.113.9").header("x-client-ip", "203.0.113.9");
    let token = login.header("user-agent", "Test\u{9}er/1").send().await.token();
    let sessions = world.get(&format!("{A}/auth/sessions")).bearer(&token).send().await.json();
    let sessions = sessions["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert!(sessions.iter().all(|session| session["ip"] == "127.0.0.1"), "{sessions:?}");
    assert_eq!(sessions.iter().filter(|session| session["current"] == true).count(), 1);
    assert_eq!(sessions[1]["userAgent"], "Tester/1");
}

#[tokio::test(flavor = "multi_thread")]
async fn np_12_other_origins_get_nothing() {
    // NP-12
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let asked = world
        .ask("OPTIONS", &format!("{A}/auth/me"))
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "PATCH")
        .send()
        .await;
    assert_eq!(asked.status, 204);
    assert_eq!(asked.headers["allow"], "GET, HEAD, PATCH, DELETE, OPTIONS");
    let read = world.get(&format!("{A}/auth/me")).header("origin", "https://evil.example").bearer(&token).send().await;
    assert!(read.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
    for avatar in ["javascript:alert(1)", "data:text/html,x", "//example.com/x", "ftp://example.com/x"] {
        let answer = world.ask("PATCH", &format!("{A}/auth/me")).json(&json!({ "avatar": avatar })).bearer(&token).send().await;
        assert_eq!(answer.refused(400, "invalid_request")["field"], "avatar");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn np_13_nobody_gives_themselves_a_group() {
    // NP-13
    let world = World::new().await;
    let body = json!({ "email": "a@example.com", "password": PASSWORD, "groups": ["nullpass-admin"] });
    assert_eq!(world.post(&format!("{A}/auth/register"), &body).send().await.refused(400, "invalid_request")["field"], "groups");
    let token = world.register("a@example.com").await;
    let answer = world.ask("PATCH", &format!("{A}/auth/me")).json(&json!({ "groups": ["nullpass-admin"] })).bearer(&token).send().await;
    assert_eq!(answer.refused(400, "invalid_request")["field"], "groups");
    assert_eq!(world.get(&format!("{A}/auth/me")).bearer(&token).send().await.json()["user"]["groups"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn ses_1_a_new_session_at_every_proof_and_the_old_one_ends() {
    // SES-1
    let world = World::new().await;
    world.register("a@example.com").await;
    let first = world.log_in("a@example.com", json!({ "cookie": true })).await.cookie("nullpass").unwrap();
    let body = json!({ "email": "a@example.com", "password": PASSWORD, "cookie": true });
    let again = world.post(&format!("{A}/auth/login"), &body).cookie(&first).same_origin().send().await;
    let second = again.cookie("nullpass").unwrap();
    let me = async |cookie: String| world.get(&format!("{A}/auth/me")).cookie(&cookie).send().await.status.as_u16();
    assert_eq!((me(first).await, me(second.clone()).await), (401, 200));
    let proven = world.post(&format!("{A}/auth/reauth"), &json!({ "password": PASSWORD })).cookie(&second).same_origin().send().await;
    assert_eq!(proven.status, 200, "{proven:?}");
    let third = proven.cookie("nullpass").unwrap();
    assert_eq!((me(second).await, me(third).await), (401, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn xss_1_a_cookie_session_never_leaves_its_cookie() {
    // XSS-1
    let world = World::new().await;
    let body = json!({ "email": "a@example.com", "password": PASSWORD, "cookie": true });
    let made = world.post(&format!("{A}/auth/register"), &body).send().await;
    assert_eq!(made.status, 201);
    assert!(made.json().get("token").is_none() && made.json()["expiresAt"].is_string());
    let mut cookie = made.cookie("nullpass").unwrap();
    assert!(made.cookie("nullpass-device").is_some());
    for (path, body) in [
        ("auth/refresh", json!({})),
        ("auth/refresh", json!({ "cookie": false })),
        ("auth/reauth", json!({ "password": PASSWORD, "cookie": false })),
        ("auth/password", json!({ "currentPassword": PASSWORD, "newPassword": "another-meadow-77-copper", "cookie": false })),
    ] {
        let answer = world.post(&format!("{A}/{path}"), &body).cookie(&cookie).same_origin().send().await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let next = answer.cookie("nullpass").unwrap();
        assert_ne!(next, cookie);
        assert!(answer.json().get("token").is_none() && !answer.text().contains(next.split_once('=').unwrap().1));
        cookie = next;
    }
    // Without being asked no cookie is set.
    let plain = world.log_in("a@example.com", json!({ "password": "another-meadow-77-copper" })).await;
    assert!(plain.headers.get("set-cookie").is_none() && plain.json()["token"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_is_taken_from_our_own_pages_only() {
    // XSS-1, cross-cutting 4
    let world = World::new().await;
    world.register("a@example.com").await;
    let cookie = world.log_in("a@example.com", json!({ "cookie": true })).await.cookie("nullpass").unwrap();
    let patch = || world.ask("PATCH", &format!("{A}/auth/me")).json(&json!({ "displayName": "Eve" })).cookie(&cookie);
    patch().send().await.refused(403, "cross_site");
    for site in ["cross-site", "same-site", "none"] {
        patch().header("sec-fetch-site", site).send().await.refused(403, "cross_site");
    }
    patch().header("origin", "https://evil.example").send().await.refused(403, "cross_site");
    patch().header("origin", "null").send().await.refused(403, "cross_site");
    assert_eq!(patch().header("origin", &world.origin()).send().await.status, 200);
    assert_eq!(patch().same_origin().send().await.status, 200);
    // A form of another site can say text/plain, but not JSON.
    let logout = || world.ask("POST", &format!("{A}/auth/logout")).cookie(&cookie).same_origin();
    logout().send().await.refused(415, "unsupported_media_type");
    logout().header("content-type", "text/plain").send().await.refused(415, "unsupported_media_type");
    assert_eq!(logout().header("content-type", "application/json").send().await.status, 200);
    // Nobody can be signed in from elsewhere either.
    let body = json!({ "email": "a@example.com", "password": PASSWORD, "cookie": true });
    let planted = world.post(&format!("{A}/auth/login"), &body).header("sec-fetch-site", "cross-site").send().await;
    planted.refused(403, "cross_site");
    assert!(planted.cookie("nullpass").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn enr_1_enrolment_needs_a_recent_session() {
    // ENR-1
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    world.clock.advance(Duration::from_secs(301));
    let ask = |body| world.post(&format!("{A}/auth/2fa"), &body).bearer(&token).send();
    ask(json!({ "enable": true })).await.refused(403, "fresh_password_required");
    ask(json!({ "enable": true, "currentPassword": "wrong-wrong-wrong" })).await.refused(401, "invalid_credentials");
    assert_eq!(ask(json!({ "enable": true, "currentPassword": PASSWORD })).await.status, 200);
    world.post(&format!("{A}/auth/tokens"), &json!({ "name": "x" })).bearer(&token).send().await.refused(403, "fresh_password_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_have_a_second_factor_can_only_get_one() {
    // ENR-1: a session that is fit for enrolment only.
    let world = World::with(|config| config.two_factor.always_required = true).await;
    let token = world.register("a@example.com").await;
    for (method, path) in [("GET", "auth/sessions"), ("GET", "auth/tokens"), ("GET", "audit")] {
        world.ask(method, &format!("{A}/{path}")).bearer(&token).send().await.refused(403, "second_factor_enrolment_required");
    }
    world.post(&format!("{A}/auth/verify"), &json!({ "token": token })).send().await.refused(401, "invalid_token");
    world.enrol(&token).await;
    assert!(world.is_good(&token).await);
    assert_eq!(world.get(&format!("{A}/auth/sessions")).bearer(&token).send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshing_twice_with_the_old_token_is_theft() {
    let world = World::new().await;
    let old = world.register("a@example.com").await;
    let refresh = |token: String| world.ask("POST", &format!("{A}/auth/refresh")).bearer(&token).send();
    let new = refresh(old.clone()).await.token();
    assert!(world.is_good(&new).await && world.is_good(&old).await, "the answer may have been lost");
    world.clock.advance(Duration::from_secs(61));
    refresh(old).await.refused(401, "sign_in_required");
    assert!(!world.is_good(&new).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_token_reads_the_profile_and_no_more() {
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let body =
        json!({ "name": "ci", "paths": ["/git/**"], "methods": ["GET"], "networks": ["10.0.0.0/8"], "expiresAt": "2030-01-31T12:00:00Z" });
    let made = world.post(&format!("{A}/auth/tokens"), &body).bearer(&token).send().await;
    assert_eq!(made.status, 201, "{made:?}");
    let (api, id) = (made.token(), made.json()["id"].as_str().unwrap().to_owned());
    assert!(api.starts_with("np_"));
    assert_eq!(made.json()["expiresAt"], "2030-01-31T12:00:00.000Z");
    let listed = world.get(&format!("{A}/auth/tokens")).bearer(&token).send().await;
    assert!(!listed.text().contains(&api));
    assert_eq!(listed.json()["tokens"][0]["networks"], json!(["10.0.0.0/8"]));
    assert_eq!(world.get(&format!("{A}/auth/me")).bearer(&api).send().await.status, 200);
    for (method, path) in
        [("GET", "auth/tokens"), ("GET", "auth/sessions"), ("POST", "auth/logout"), ("DELETE", "auth/sessions"), ("PATCH", "auth/me")]
    {
        world.ask(method, &format!("{A}/{path}")).bearer(&api).send().await.refused(403, "session_required");
    }
    world.post(&format!("{A}/auth/verify"), &json!({ "token": api })).send().await.refused(401, "invalid_token");
    let other = world.register("b@example.com").await;
    let delete = |who: String| world.ask("DELETE", &format!("{A}/auth/tokens?id={id}")).bearer(&who).send();
    delete(other).await.refused(404, "not_found");
    assert_eq!(delete(token).await.status, 200);
    world.get(&format!("{A}/auth/me")).bearer(&api).send().await.refused(401, "sign_in_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_ended_by_their_owner_alone() {
    let world = World::new().await;
    let (a, b) = (world.register("a@example.com").await, world.register("b@example.com").await);
    let second = world.log_in("a@example.com", json!({})).await.token();
    let sessions = world.get(&format!("{A}/auth/sessions")).bearer(&a).send().await.json();
    let id = sessions["sessions"].as_array().unwrap().iter().find(|session| session["current"] == false).unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let end = |query: String, who: String| world.ask("DELETE", &format!("{A}/auth/sessions{query}")).bearer(&who).send();
    end(format!("?id={id}"), b.clone()).await.refused(404, "not_found");
    end("?id=not-an-id".into(), a.clone()).await.refused(404, "not_found");
    end("?except=others".into(), a.clone()).await.refused(400, "invalid_request");
    assert_eq!(end(format!("?id={id}"), a.clone()).await.status, 200);
    assert!(!world.is_good(&second).await);
    let third = world.log_in("a@example.com", json!({})).await.token();
    assert_eq!(end("?except=current".into(), a.clone()).await.json()["ended"], 1);
    assert!(!world.is_good(&third).await && world.is_good(&a).await && world.is_good(&b).await);
    assert_eq!(end(String::new(), a.clone()).await.status, 200);
    assert!(!world.is_good(&a).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_ones_own() {
    let world = World::new().await;
    let (a, b) = (world.register("a@example.com").await, world.register("b@example.com").await);
    world.log_in("a@example.com", json!({ "password": "wrong-wrong-wrong" })).await;
    let events = world.get(&format!("{A}/audit?action=LOGIN_FAILED")).bearer(&a).send().await.json();
    let events = events["events"].as_array().unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&events[0]["ip"], &events[0]["outcome"]), (&json!("127.0.0.1"), &json!("failure")));
    assert_eq!(world.get(&format!("{A}/audit?action=LOGIN_FAILED")).bearer(&b).send().await.json()["events"], json!([]));
    for query in ["limit=many", "limit=201", "offset=-1", "action=NOTHING", "user=x"] {
        world.get(&format!("{A}/audit?{query}")).bearer(&a).send().await.refused(400, "invalid_request");
    }
}
