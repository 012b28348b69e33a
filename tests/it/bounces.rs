//! Sign-ins that lead nowhere and say why; tabs, clicks and pages of before that never end in an error.

use std::time::Duration;

use nullpass::auth::Client;

use crate::browser::{Browser, field};
use crate::support::{Answer, PASSWORD, PATIENCE, Server, code};

const LOGIN: [(&str, &str); 2] = [("email", "ada@example.com"), ("password", PASSWORD)];
const NAVIGATE: [(&str, &str); 2] = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
const KIND: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// What a browser that keeps no cookie sends: the third page, after two forms. `keeps`: the cookies that it has all the same.
async fn third(server: &Server, fields: &[(&str, &str)], keeps: &str) -> Answer {
    let cookie = ("cookie", keeps);
    let all = [fields, &NAVIGATE, if keeps.is_empty() { &[][..] } else { std::slice::from_ref(&cookie) }].concat();
    let moved = server.get("/reports?year=2026", &all).await.is(302);
    let mut page = server.get(moved.field("location"), &all).await.is(200);
    for round in 0..2 {
        let (csrf, rd) = (field(&page, "csrf"), field(&page, "rd").replace("&#38;", "&"));
        let form = [LOGIN[0], LOGIN[1], ("csrf", &csrf), ("rd", &rd)];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        page = server.send("POST", "/_auth/login", &[&all[..], &[KIND]].concat(), body.as_bytes()).await.is(403);
        assert!(page.cookie("nullpass").is_none() && page.cookie("__Host-nullpass").is_none());
        assert!(!page.text().contains(PASSWORD));
        if round == 0 {
            assert!(page.text().contains("value=\"ada@example.com\""), "the form again, with what was typed");
            assert_eq!(page.cookie("nullpass-probe").as_deref(), Some("1"));
        }
    }
    assert_eq!(field(&page, "rd"), "/reports?year=2026", "the way is not lost");
    page
}

#[track_caller]
fn says(page: &Answer, words: &str) {
    assert!(page.text().contains(words), "{words:?} is not in {}", page.text());
}

// LOOP-1: a Secure cookie on plain HTTP, as the browser sees it.
#[tokio::test]
async fn plain_http_is_named() {
    let server = Server::start("[server]\npublic_url = \"https://app.example.com\"\n").await;
    server.account("ada@example.com", &[]).await;
    for fields in [&[][..], &[("origin", "http://app.example.com")], &[("referer", "http://app.example.com/_auth/login")]] {
        let page = third(&server, fields, "").await;
        says(&page, "plain HTTP");
        says(&page, "href=\"https://app.example.com/reports?year=2026\">https://app.example.com<");
    }
    // Behind a proxy that nobody declared the browser is on https: then it is something else.
    let page = third(&server, &[("origin", "https://app.example.com"), ("x-forwarded-for", "203.0.113.7")], "").await;
    says(&page, "sends no cookie back");
    says(&page, "there is a proxy in between");
    assert!(!page.text().contains("plain HTTP"));
}

// LOOP-1: a host that the cookie's domain does not hold.
#[tokio::test]
async fn a_wrong_domain_is_named() {
    let server =
        Server::start("[server]\npublic_url = \"https://app.example.com\"\n[sessions]\ncookie = { domain = \"example.com\" }\n").await;
    server.account("ada@example.com", &[]).await;
    let page = third(&server, &[("host", "intranet.test"), ("origin", "https://intranet.test")], "").await;
    says(&page, "<bdi>intranet.test</bdi>");
    says(&page, "<bdi>example.com</bdi>");
    let page = third(&server, &[("host", "app.example.com"), ("origin", "https://app.example.com")], "").await;
    says(&page, "sends no cookie back");
}

// LOOP-1: cookies that are off, that somebody takes out on the way, that the browser refuses, and two of a name.
#[tokio::test]
async fn what_becomes_of_cookies_is_named() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let off = third(&server, &[], "").await;
    says(&off, "sends no cookie back");
    assert!(!off.text().contains("proxy"));
    says(&third(&server, &[("via", "1.1 gate")], "").await, "there is a proxy in between");
    says(&third(&server, &[], "application=1").await, "Other cookies of this site come back");
    says(&third(&server, &[], "nullpass-probe=1").await, "keeps other cookies of this site");
    let two = format!("nullpass-pre={}; nullpass-pre={}", "a".repeat(43), "b".repeat(43));
    says(&third(&server, &[], &two).await, "two different cookies");
    // In the reader's language.
    says(&third(&server, &[("accept-language", "de")], "").await, "sendet kein Cookie zurück");
    // Once cookies are kept, the page's button leads on.
    let mut browser = Browser::new(&server);
    let fields = [("csrf", field(&off, "csrf")), ("rd", "/x".to_owned())];
    browser.set("nullpass-pre", off.cookie("nullpass-pre").as_deref());
    let again = browser.post("/_auth/login", &[("csrf", &fields[0].1), ("rd", &fields[1].1)], "same-origin").await.is(400);
    assert!(!again.text().contains("sends no cookie back"));
    browser.submit_shown(&again, "/_auth/login", &[LOGIN[0], LOGIN[1], ("rd", "/x")]).await.is(303);
}

// LOOP-1, RED-1: nobody is shown the page by somebody else, and it leads nowhere else.
#[tokio::test]
async fn the_explanation_is_for_who_needs_it() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let post = async |csrf: &str, rd: &str, site: &str| {
        let form = [LOGIN[0], ("csrf", csrf), ("rd", rd)];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let fields = [NAVIGATE[0], NAVIGATE[1], KIND, ("sec-fetch-site", site)];
        server.send("POST", "/_auth/login", &fields, body.as_bytes()).await.is(403)
    };
    let explains = |page: &Answer| page.text().contains("sends no cookie back");
    let first = field(&post("", "/", "same-origin").await, "csrf");
    // With a count of the attacker's own, from their page: it is not counted.
    assert!(!explains(&post(&first, "/", "cross-site").await));
    // Made up, changed, or too old.
    for made_up in ["x.9.1800000000.AAAA", "x.200", ".", "x.9.9.9.9", &first.replacen(".1.", ".9.", 1), &format!("{first}x")] {
        assert!(!explains(&post(made_up, "/", "same-origin").await), "{made_up}");
    }
    assert!(explains(&post(&first, "/", "same-origin").await));
    for rd in ["//evil.example", "https://evil.example", "javascript:alert(1)"] {
        let page = post(&first, rd, "same-origin").await;
        assert!(explains(&page) && field(&page, "rd") == "/" && !page.text().contains("evil"));
    }
    server.wait(601);
    assert!(!explains(&post(&first, "/", "same-origin").await));
    // Other forms count too: the first administrator's is where this is met first.
    let link = format!("/_auth/setup?code={}", server.auth().new_setup_code(server.now()).await.unwrap().expose());
    let shown = server.get(&link, &NAVIGATE).await.is(200);
    let body = format!("csrf={}&email=a%40b.de", field(&shown, "csrf"));
    let again = server.send("POST", "/_auth/setup", &[NAVIGATE[0], NAVIGATE[1], KIND], body.as_bytes()).await.is(403);
    let body = format!("csrf={}&email=a%40b.de", field(&again, "csrf"));
    assert!(explains(&server.send("POST", "/_auth/setup", &[NAVIGATE[0], NAVIGATE[1], KIND], body.as_bytes()).await.is(403)));
}

// LOOP-2: a session that began a moment ago and is not taken: the sign-in page says why, to this browser alone.
#[tokio::test]
async fn a_refused_session_is_explained() {
    let trusting = "[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n[sessions]\nbind_ip = \"exact\"\n";
    let server = Server::start(trusting).await;
    let ada = server.account("ada@example.com", &[]).await.id;
    let mut browser = Browser::new(&server);
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    let from = |ip: &'static str| [NAVIGATE[0], NAVIGATE[1], ("x-forwarded-for", ip)];
    let session = browser.cookie("nullpass").unwrap().to_owned();
    let moved = browser.send("GET", "/private", &from("203.0.113.9"), "").await.is(302);
    let to = moved.field("location").to_owned();
    assert!(to.contains("rd=%2Fprivate&why=address."), "{to}");
    says(&browser.page(&to).await.is(200), "another network address");
    // Somebody else is not told by a link, nor later, nor with a reason of their own making.
    for other in [&mut Browser::new(&server), &mut browser] {
        let link = if other.cookie("nullpass-pre").is_none() { to.clone() } else { to.replace("why=address", "why=clock") };
        let page = other.page(&link).await.is(200);
        assert!(!page.text().contains("a moment ago"), "{}", page.text());
    }
    let mut stranger = Browser::new(&server);
    stranger.page("/_auth/login").await;
    assert!(!stranger.page(&to).await.text().contains("a moment ago"));
    // The clocks of two servers.
    browser.set("nullpass", Some(&session));
    server.auth().end_all_sessions(ada, None, &Client::local(), server.now()).await.unwrap();
    let to = browser.page("/private").await.is(302).field("location").to_owned();
    says(&browser.page(&to).await, "not known here");
    browser.set("nullpass", Some(&session));
    server.clock.set(server.now().minus(Duration::from_secs(300)));
    let to = browser.page("/private").await.is(302).field("location").to_owned();
    says(&browser.page(&to).await, "clocks of the servers differ");
    server.wait(300);
    // Two cookies that can't be told apart, one of them of a moment ago.
    browser.set("nullpass", Some(&session));
    let two = format!("nullpass={session}; nullpass=x; nullpass-pre={}", browser.cookie("nullpass-pre").unwrap());
    let moved = server.get("/private", &[NAVIGATE[0], NAVIGATE[1], ("cookie", &two)]).await.is(302);
    assert!(moved.field("location").contains("why=cookies."), "{}", moved.field("location"));
    // A session that is over as sessions are needs no explanation.
    server.wait(61);
    assert_eq!(browser.page("/private").await.is(302).field("location"), "/_auth/login?rd=%2Fprivate");
}

// LOOP-3: who is signed in goes straight on; what sends them back is found out the third time.
#[tokio::test]
async fn who_is_signed_in_goes_straight_on() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let mut browser = Browser::new(&server);
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    for (rd, to) in
        [("%2Freports%3Fa%3Db", "/reports?a=b"), ("%2Fx%23part", "/x#part"), ("//evil.example", "/"), ("%2F%5Cevil.example", "/")]
    {
        let moved = browser.page(&format!("/_auth/login?rd={rd}")).await.is(303);
        assert_eq!((moved.field("location"), moved.field("cache-control")), (to, "no-store"));
    }
    let asked = browser.page("/_auth/login?prompt=login&rd=%2Fx").await.is(200);
    says(&asked, "You are signed in as");
    // Several tabs at once.
    for tab in 0..20 {
        browser.page(&format!("/_auth/login?rd=%2Ftab%2F{tab}")).await.is(303);
    }
    // An application that sends people to sign in whom it does not know.
    for _ in 0..2 {
        browser.page("/_auth/login?rd=%2Fapp").await.is(303);
    }
    let page = browser.page("/_auth/login?rd=%2Fapp").await.is(403);
    says(&page, "You come back here again and again");
    says(&page, "<bdi>/app</bdi>");
    server.wait(11);
    browser.page("/_auth/login?rd=%2Fapp").await.is(303);
    // Who has an account needs no other one.
    for (rd, to) in [("%2Fhello%3Fa%3Db", "/hello?a=b"), ("//evil.example", "/")] {
        assert_eq!(browser.page(&format!("/_auth/register?rd={rd}")).await.is(303).field("location"), to);
    }
    server.wait(11);
    // A token in a header is a program's, which is not signed in here.
    let token = server.log_in("ada@example.com").await;
    server.get("/_auth/login?rd=%2Fx", &[NAVIGATE[0], NAVIGATE[1], ("authorization", &format!("Bearer {token}"))]).await.is(200);
}

// LOOP-3: the cookie reaches us and not the host that a proxy asks about.
#[tokio::test]
async fn a_proxy_that_keeps_the_cookie_back_is_named() {
    let server = Server::start(
        "[server]\npublic_url = \"https://auth.example.com\"\ntrusted_proxies = [\"127.0.0.1/32\"]\n[sessions]\ncookie = { domain = \"example.com\" }\n",
    )
    .await;
    server.account("ada@example.com", &[]).await;
    let body = serde_json::json!({ "email": "ada@example.com", "password": PASSWORD, "cookie": true });
    let token = server.api("POST", "/auth/login", None, &body).await.is(200).cookie("__Secure-nullpass").unwrap();
    let cookie = format!("__Secure-nullpass={token}");
    let asked = [
        NAVIGATE[0],
        NAVIGATE[1],
        ("x-forwarded-method", "GET"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "wiki.example.com"),
        ("x-forwarded-uri", "/page"),
    ];
    for round in 0..3 {
        // The proxy leaves the cookie out of its question; the browser brings it to the sign-in page.
        let moved = server.get("/_auth/forward-auth", &asked).await.is(302);
        let target = moved.field("location").strip_prefix("https://auth.example.com").unwrap().to_owned();
        let fields = [NAVIGATE[0], NAVIGATE[1], ("host", "auth.example.com"), ("x-forwarded-proto", "https"), ("cookie", &cookie)];
        let answer = server.get(&target, &fields).await;
        if round < 2 {
            assert_eq!(answer.is(303).field("location"), "https://wiki.example.com/page");
        } else {
            says(&answer.is(403), "does not reach <strong><bdi>wiki.example.com</bdi></strong>");
        }
    }
}

// Cross-cutting 4: tabs, cookies that are gone, and pages of before: the form again with what was typed, or straight on.
#[tokio::test]
async fn stale_forms_never_end_in_an_error() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let mut browser = Browser::new(&server);
    let (one, two) = (browser.page("/_auth/login?rd=%2Fone").await, browser.page("/_auth/login?rd=%2Ftwo").await);
    // The cookies are cleared between page and form.
    browser.clear();
    let form = [LOGIN[0], LOGIN[1], ("rd", "/one")];
    let again = browser.submit_shown(&one, "/_auth/login", &form).await.is(403);
    assert!(again.text().contains("value=\"ada@example.com\"") && !again.text().contains(PASSWORD) && field(&again, "rd") == "/one");
    assert_eq!(browser.submit_shown(&again, "/_auth/login", &form).await.is(303).field("location"), "/one");
    // The other tab's form is of a cookie that is gone, but the person is in.
    let form = [LOGIN[0], LOGIN[1], ("rd", "/two")];
    assert_eq!(browser.submit_shown(&two, "/_auth/login", &form).await.is(303).field("location"), "/two");
    // Back, and as somebody else: they are not passed off as who is signed in.
    server.account("eve@example.com", &[]).await;
    let other = [("email", "eve@example.com"), LOGIN[1], ("rd", "/two")];
    let shown = browser.submit_shown(&two, "/_auth/login", &other).await.is(403);
    assert!(shown.text().contains("value=\"eve@example.com\""));
    browser.submit_shown(&shown, "/_auth/login", &other).await.is(303);
    // Login CSRF: another site's form is never a click of the person's own.
    let before = browser.cookie("nullpass").unwrap().to_owned();
    let fields = [("email", "eve@example.com"), LOGIN[1], ("csrf", "x"), ("rd", "/two")];
    let answer = browser.post("/_auth/login", &fields, "cross-site").await.is(403);
    assert!(answer.cookie("nullpass").is_none() && browser.cookie("nullpass") == Some(&before));
}

// JWT-2: a code's form that is sent twice is one request, for this browser and this code; anything else is not.
#[tokio::test]
async fn a_second_click_gets_what_the_first_got() {
    let server = Server::start("").await;
    let (ada, token) = server.signed_in("ada@example.com").await;
    let (secret, _) = server.enrol(&token).await;
    server.wait(30);
    let mut browser = Browser::new(&server);
    let step = browser.submit("/_auth/login", &LOGIN).await.is(200);
    let (pending, csrf, right) = (field(&step, "pending"), field(&step, "csrf"), code(&secret, server.now()));
    let cookie = format!("nullpass-pre={}", browser.cookie("nullpass-pre").unwrap());
    let send = async |code: &str, cookie: &str| {
        let form = [("pending", pending.as_str()), ("csrf", &csrf), ("code", code), ("rd", "/on")];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let fields = [NAVIGATE[0], NAVIGATE[1], KIND, ("sec-fetch-site", "same-origin"), ("cookie", cookie)];
        server.send("POST", "/_auth/login/2fa", &fields, body.as_bytes()).await
    };
    let (first, second) = tokio::join!(send(&right, &cookie), send(&right, &cookie));
    let (first, second) = (first.is(303), second.is(303));
    assert_eq!((first.field("location"), second.field("location")), ("/on", "/on"));
    let session = first.cookie("nullpass").unwrap();
    assert_eq!(second.cookie("nullpass").as_ref(), Some(&session), "one sign-in, one session");
    assert_eq!(server.status_by_cookie(&session).await, 200);
    // With the first one's cookie: not ended by itself.
    let third = send(&right, &format!("{cookie}; nullpass={session}")).await.is(303);
    assert_eq!((third.field("location"), server.status_by_cookie(&session).await), ("/on", 200));
    // Another code, and the same one after the session's end or a moment later, get nothing.
    assert!(send("000000", &cookie).await.is(401).cookie("nullpass").is_none());
    server.wait(16);
    assert!(send(&right, &cookie).await.is(401).cookie("nullpass").is_none());
    // Going back to it later, signed in by it: straight on.
    assert_eq!(send(&right, &format!("{cookie}; nullpass={session}")).await.is(303).field("location"), "/on");
    server.auth().end_all_sessions(ada, None, &Client::local(), server.now()).await.unwrap();
    let late = send(&right, &format!("{cookie}; nullpass={session}")).await.is(401);
    assert_eq!(late.cookie("nullpass").unwrap_or_default(), "", "at most taken away");
}

// Cross-cutting 4: the other forms, sent twice.
#[tokio::test]
async fn other_forms_may_be_sent_twice() {
    let server = Server::start("[accounts]\nregistration = \"open\"\n").await;
    let mut browser = Browser::new(&server);
    let shown = browser.page("/_auth/register?rd=%2Fhello").await.is(200);
    let form = [("email", "ada@example.com"), ("password", PASSWORD), ("displayName", ""), ("rd", "/hello")];
    assert_eq!(browser.submit_shown(&shown, "/_auth/register", &form).await.is(303).field("location"), "/hello");
    assert_eq!(browser.submit_shown(&shown, "/_auth/register", &form).await.is(303).field("location"), "/hello");
    // The first one's cookie was lost with its answer: the password says whose account it is.
    let mut other = Browser::new(&server);
    assert_eq!(other.submit("/_auth/register", &form).await.is(303).field("location"), "/hello");
    let guess = [form[0], ("password", "another long enough one"), form[2], form[3]];
    assert!(Browser::new(&server).submit("/_auth/register", &guess).await.is(409).cookie("nullpass").is_none());
    // The password once more.
    let shown = browser.page("/_auth/reauth?rd=%2Fvault").await.is(200);
    let form = [("password", PASSWORD), ("rd", "/vault")];
    assert_eq!(browser.submit_shown(&shown, "/_auth/reauth", &form).await.is(303).field("location"), "/vault");
    assert_eq!(browser.submit_shown(&shown, "/_auth/reauth", &form).await.is(303).field("location"), "/vault");
    server.wait(31);
    browser.submit_shown(&shown, "/_auth/reauth", &form).await.is(403);
    replaced_sessions_are_led_on(&server, &mut browser).await;
    // The set-up link.
    let link = format!("/_auth/setup?code={}", server.auth().new_setup_code(server.now()).await.unwrap().expose());
    let mut root = Browser::new(&server);
    let shown = root.page(&link).await.is(200);
    let form = [("email", "root@example.com"), ("password", PASSWORD), ("displayName", ""), ("code", link.split('=').nth(1).unwrap())];
    root.submit_shown(&shown, "/_auth/setup", &form).await.is(303);
    root.submit_shown(&shown, "/_auth/setup", &form).await.is(303);
}

/// The second of two clicks comes with the session that the first one has replaced.
async fn replaced_sessions_are_led_on(server: &Server, browser: &mut Browser<'_>) {
    let next = "another long enough one";
    for (path, rd, values) in [
        ("/_auth/reauth", "/vault", vec![("password", PASSWORD), ("rd", "/vault")]),
        ("/_auth/account/password", "/_auth/account/password?done=", vec![("currentPassword", PASSWORD), ("newPassword", next)]),
    ] {
        let shown = browser.page(path).await.is(200);
        let cookies = ["nullpass", "nullpass-pre"].map(|name| format!("{name}={}", browser.cookie(name).unwrap())).join("; ");
        let csrf = field(&shown, "csrf");
        let body = form_urlencoded::Serializer::new(String::new()).append_pair("csrf", &csrf).extend_pairs(&values).finish();
        let send = async |body: &str, cookies: &str| {
            let fields = [NAVIGATE[0], NAVIGATE[1], KIND, ("sec-fetch-site", "same-origin"), ("cookie", cookies)];
            server.send("POST", path, &fields, body.as_bytes()).await
        };
        let first = send(&body, &cookies).await.is(303);
        let second = send(&body, &cookies).await.is(303);
        assert!(second.field("location").starts_with(rd), "{second:?}");
        let session = first.cookie("nullpass").unwrap();
        assert_eq!(second.cookie("nullpass").as_ref(), Some(&session), "one session");
        assert_eq!(server.status_by_cookie(&session).await, 200);
        // Not with another body, not for another browser, not without the old session, not later.
        let pre = format!("nullpass-pre={}", browser.cookie("nullpass-pre").unwrap());
        let old = cookies.split_once(';').unwrap().0;
        for (body, cookies) in
            [(format!("{body}&x="), &*cookies), (body.clone(), &format!("{old}; nullpass-pre=other")), (body.clone(), &pre)]
        {
            assert!(send(&body, cookies).await.is(401).cookie("nullpass").unwrap_or_default().is_empty());
        }
        server.wait(16);
        send(&body, &cookies).await.is(401);
        browser.set("nullpass", Some(&session));
    }
}

// A browser gives up the first request of a double click. What it began is finished all the same: a code that is spent for a
// session that never began would be a dead end.
#[tokio::test]
async fn what_a_browser_gave_up_is_finished() {
    let server = Server::start("[accounts]\nregistration = \"open\"\n").await;
    server.store().set_audit_takes(Duration::from_millis(500));
    let body = format!("{{\"email\":\"ada@example.com\",\"password\":\"{PASSWORD}\"}}");
    let head = "POST /_auth/api/auth/register HTTP/1.1\r\nHost: app.example.com\r\nContent-Type: application/json\r\nContent-Length";
    let asked = async |name: &str| {
        let until = async {
            while !server.store().take_asked().contains(&name) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("{name} was never asked"));
    };
    let mut connection = server.connect().await;
    connection.write(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
    asked("insert_user").await;
    drop(connection);
    asked("insert_session").await;
}

// Contract 5: a form that can't be kept leads back to the page that it was on.
#[tokio::test]
async fn a_lost_form_leads_back_to_its_page() {
    let server = Server::start("").await;
    for (referer, rd) in [
        ("http://app.example.com/notes/7?tab=2#x", "rd=%2Fnotes%2F7%3Ftab%3D2"),
        ("https://evil.example/notes", "rd=%2F\""),
        ("http://app.example.com//evil.example/", "rd=%2F\""),
        ("rubbish", "rd=%2F\""),
    ] {
        let fields = [NAVIGATE[0], NAVIGATE[1], ("sec-fetch-site", "same-origin"), ("content-type", "text/plain"), ("referer", referer)];
        let page = server.send("POST", "/notes", &fields, b"x").await.is(401);
        says(&page, &format!("href=\"/_auth/login?{rd}"));
    }
    // The same when it takes the password once more.
    let server = Server::start("[[rules]]\npath = \"/**\"\npolicy = \"authenticated\"\nmax_auth_age = \"15m\"\n").await;
    server.account("ada@example.com", &[]).await;
    let mut browser = Browser::new(&server);
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    server.wait(1000);
    let plain = ("content-type", "text/plain");
    let fields = [NAVIGATE[0], NAVIGATE[1], ("sec-fetch-site", "same-origin"), plain, ("referer", "http://app.example.com/notes/7")];
    says(&browser.send("POST", "/notes", &fields, "a=b").await.is(403), "href=\"/_auth/reauth?rd=%2Fnotes%2F7\"");
}
