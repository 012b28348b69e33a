//! Everything that stands for a right, in every place that takes one: each opens what it was made for and nothing else.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::browser::{Browser, field};
use crate::kept_work::{BODY, HEAD, LOGIN, TARGET, is_kept, offered};
use crate::support::{PASSWORD, Server, basic, code};

/// Wrong values are counted; here every value is wrong in some place.
const RULES: &str = "[limits]\naccount_backoff = { after = 1000, base = \"1s\", max = \"15m\" }\n[identity]\nassertion = { header = \"X-Nullpass-Assertion\", ttl = \"60s\" }\n\
                     [[rules]]\npath = \"/basic/**\"\npolicy = \"authenticated\"\nbasic = true\n";

/// Every place, and what is good there.
const PLACES: [(&str, &[&str]); 15] = [
    ("bearer", &["session", "api token"]),
    ("session cookie", &["session"]),
    ("address", &[]),
    ("password of Basic", &["api token"]),
    ("name of Basic", &[]),
    ("verify", &["session"]),
    ("me", &["session", "api token"]),
    ("sessions", &["session"]),
    ("refresh", &["session"]),
    ("set-up link", &["set-up code"]),
    ("csrf field", &["csrf"]),
    ("cookie before sign-in", &["pre"]),
    ("device cookie", &["device"]),
    ("kept form", &["kept form"]),
    ("kept form's ticket", &["ticket"]),
];

/// What there is, all of it good at this moment, but for what has ended.
struct Rights {
    kinds: Vec<(&'static str, String)>,
    /// Ada's, signed in, who has a form that waits.
    browser: BTreeSet<(String, String)>,
    csrf: String,
    pre: String,
    /// Bob's authenticator.
    secret: String,
}

async fn rights(server: &Server) -> Rights {
    let ada = server.account("ada@example.com", &[]).await.id;
    let mut browser = Browser::new(server);
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    server.auth().end_all_sessions(ada, None, &nullpass::auth::Client::local(), server.now()).await.unwrap();
    let page = browser.send("POST", TARGET, &HEAD, BODY).await.is(401);
    let kept = field(&page, "kept");
    let offer = browser.submit_shown(&page, "/_auth/login", &[LOGIN[0], LOGIN[1], ("kept", &kept)]).await.is(200);
    let ticket = offered(&offer).action.split_once("t=").unwrap().1.to_owned();
    let cookie = |name: &str| browser.cookie(name).unwrap().to_owned();
    let (device, in_browser) = (cookie("nullpass-device"), cookie("nullpass"));

    let session = server.log_in("ada@example.com").await;
    let ended = server.log_in("ada@example.com").await;
    server.api("POST", "/auth/logout", Some(&ended), &Value::Null).await.is(200);
    let made = server.api("POST", "/auth/tokens", Some(&session), &json!({ "name": "ci" })).await.is(201).json();
    let api_token = made["token"].as_str().unwrap().to_owned();
    server.upstream.take();
    assert_eq!(server.status(&session).await, 200);
    let assertion = server.upstream.only().one("x-nullpass-assertion").unwrap();

    server.account("bob@example.com", &[]).await;
    let (secret, codes) = server.enrol(&server.log_in("bob@example.com").await).await;
    server.wait(30);
    let begun = server.try_log_in("bob@example.com", PASSWORD).await.is(200).json();
    let pending = begun["pendingToken"].as_str().unwrap().to_owned();

    let setup = server.auth().new_setup_code(server.now()).await.unwrap().expose().clone();
    let mut visitor = Browser::new(server);
    let csrf = field(&visitor.page("/_auth/login").await, "csrf");
    let other_csrf = field(&visitor.page(&format!("/_auth/setup?code={setup}")).await.is(200), "csrf");
    let pre = visitor.cookie("nullpass-pre").unwrap().to_owned();
    let kinds = vec![
        ("session", session),
        ("ended session", ended),
        ("api token", api_token),
        ("pending login", pending),
        ("assertion", assertion),
        ("recovery code", codes[0].clone()),
        ("totp code", code(&secret, server.now())),
        ("totp secret", secret.clone()),
        ("set-up code", setup),
        ("csrf", csrf.clone()),
        ("csrf of another form", other_csrf),
        ("pre", pre.clone()),
        ("device", device.clone()),
        ("kept form", kept),
        ("ticket", ticket),
        ("password", PASSWORD.to_owned()),
    ];
    let browser = BTreeSet::from([("nullpass".to_owned(), in_browser), ("nullpass-device".to_owned(), device)]);
    Rights { kinds, browser, csrf, pre, secret }
}

impl Rights {
    /// Whether this value opens what that place guards.
    async fn opens(&self, server: &Server, place: &str, value: &str) -> bool {
        let bearer = Some(value);
        let form = |csrf: &str| [LOGIN[0], LOGIN[1], ("csrf", csrf)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        match place {
            "bearer" => server.status(value).await == 200,
            "session cookie" => server.status_by_cookie(value).await == 200,
            "address" => server.get(&format!("/private?token={value}&access_token={value}&code={value}"), &[]).await.status == 200,
            "password of Basic" => server.get("/basic/a", &[("authorization", &basic("ada@example.com", value))]).await.status == 200,
            "name of Basic" => server.get("/basic/a", &[("authorization", &basic(value, ""))]).await.status == 200,
            "verify" => server.api("POST", "/auth/verify", None, &json!({ "token": value })).await.status == 200,
            "me" => server.api("GET", "/auth/me", bearer, &Value::Null).await.status == 200,
            "sessions" => server.api("GET", "/auth/sessions", bearer, &Value::Null).await.status == 200,
            "refresh" => server.api("POST", "/auth/refresh", bearer, &Value::Null).await.status == 200,
            "set-up link" => server.get(&format!("/_auth/setup?code={value}"), &[]).await.status == 200,
            "csrf field" | "cookie before sign-in" => {
                let mut browser = Browser::new(server);
                let by_csrf = place == "csrf field";
                browser.set("nullpass-pre", Some(if by_csrf { &self.pre } else { value }));
                let form = form(if by_csrf { value } else { &self.csrf });
                let fields: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let answer = browser.post("/_auth/login", &fields, "same-origin").await;
                answer.status == 303 && browser.cookie("nullpass").is_some()
            }
            "device cookie" => {
                let cookie = format!("nullpass-device={value}");
                let fields = [&HEAD[..], &[("cookie", cookie.as_str())]].concat();
                is_kept(&server.send("POST", TARGET, &fields, BODY.as_bytes()).await)
            }
            "kept form" => {
                let mut browser = Browser::new(server);
                let shown = browser.page("/_auth/login").await;
                let answer = browser.submit_shown(&shown, "/_auth/login", &[LOGIN[0], LOGIN[1], ("kept", value)]).await;
                answer.status == 200 && answer.text().contains("action=\"/_auth/kept")
            }
            "kept form's ticket" => {
                let mut browser = Browser::new(server);
                for (name, value) in &self.browser {
                    browser.set(name, Some(value));
                }
                browser.send("POST", &format!("/_auth/kept?t={value}"), &HEAD, BODY).await.status == 307
            }
            other => panic!("{other}"),
        }
    }
}

// JWT-1, NP-1, TOK-1, ENV-2: whatever there is, in every place.
#[tokio::test]
async fn each_right_is_good_in_its_own_place_alone() {
    let server = Server::start(RULES).await;
    let rights = rights(&server).await;
    let mut wrong = Vec::new();
    for (place, good) in PLACES {
        for (kind, value) in &rights.kinds {
            // The password of an account without second factor is what Basic is for, too.
            let expected = good.contains(kind) || (place == "password of Basic" && *kind == "password");
            if rights.opens(&server, place, value).await != expected {
                wrong.push(format!("{kind} as {place}: not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // At last what can be used once: nothing but the pending login begins the second step, and nothing but a code ends it.
    let codes = ["recovery code", "totp code"];
    for (kind, value) in rights.kinds.iter().filter(|(kind, _)| *kind != "pending login") {
        let body = json!({ "pendingToken": value, "verificationCode": code(&rights.secret, server.now()) });
        assert_ne!(server.api("POST", "/auth/login/2fa", None, &body).await.status, 200, "{kind} as a pending login");
    }
    let pending = &rights.kinds.iter().find(|(kind, _)| *kind == "pending login").unwrap().1;
    for (kind, value) in rights.kinds.iter().filter(|(kind, _)| ["session", "api token", "set-up code", "device"].contains(kind)) {
        let body = json!({ "pendingToken": pending, "verificationCode": value });
        assert_ne!(server.api("POST", "/auth/login/2fa", None, &body).await.status, 200, "{kind} as a code");
    }
    let (_, recovery) = rights.kinds.iter().find(|(kind, _)| codes.contains(kind)).unwrap();
    let body = json!({ "pendingToken": pending, "recoveryCode": recovery });
    server.api("POST", "/auth/login/2fa", None, &body).await.is(200);
}
