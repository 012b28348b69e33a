//! Work is not lost: forms that meet a session that is over, and everybody who tries to get something out of them.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nullpass::auth::kept::{Kept, Ticket};
use nullpass::model::{Sealed, Secret, UserId};
use nullpass::tasks::Tasks;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::browser::{Browser, field};
use crate::support::{Answer, PASSWORD, Server, code};

pub(crate) const LOGIN: [(&str, &str); 2] = [("email", "ada@example.com"), ("password", PASSWORD)];
pub(crate) const TARGET: &str = "/notes/new?draft=7&x=%20";
pub(crate) const BODY: &str = "title=Caf%C3%A9+%26+%22more%22&text=one%0D%0Atwo&tag=a&tag=b&empty=&csrfmiddlewaretoken=canary";
pub(crate) const HEAD: [(&str, &str); 4] = [
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-site", "same-origin"),
    ("content-type", "application/x-www-form-urlencoded"),
];

/// A form on a page that a browser was shown: where it goes and what it sends.
pub(crate) struct Shown {
    pub(crate) action: String,
    body: String,
}

fn plain(text: &str) -> String {
    let pairs = [("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&#38;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The offered form, as a browser sends it.
pub(crate) fn offered(page: &Answer) -> Shown {
    let text = page.text();
    let form = text.split("<form method=\"post\" action=\"/_auth/kept").nth(1).unwrap_or_else(|| panic!("no offer in {text}"));
    let (action, rest) = form.split_once('"').unwrap();
    let inputs = rest.split("</form>").next().unwrap().split("<input type=\"hidden\" name=\"").skip(1);
    let mut body = form_urlencoded::Serializer::new(String::new());
    for input in inputs {
        let (name, rest) = input.split_once("\" value=\"").unwrap();
        let value = rest.split("\">").next().unwrap();
        body.append_pair(&plain(name), &plain(value));
    }
    Shown { action: format!("/_auth/kept{}", plain(action)), body: body.finish() }
}

/// Header fields as they are written.
fn lines(fields: &[(&str, &str)]) -> String {
    fields.iter().map(|(name, value)| [name, ": ", value, "\r\n"].concat()).collect()
}

pub(crate) fn is_kept(answer: &Answer) -> bool {
    answer.text().contains("name=\"kept\"")
}

/// Somebody who was signed in until a moment ago, and whose browser does not know that it is over.
async fn after_the_session(server: &Server) -> (Browser<'_>, UserId) {
    let ada = server.account("ada@example.com", &[]).await.id;
    let mut browser = Browser::new(server);
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    server.auth().end_all_sessions(ada, None, &nullpass::auth::Client::local(), server.now()).await.unwrap();
    (browser, ada)
}

/// Signs in on the page that keeps the form.
async fn sign_in(browser: &mut Browser<'_>, page: &Answer) -> Answer {
    let kept = field(page, "kept");
    browser.submit_shown(page, "/_auth/login", &[LOGIN[0], LOGIN[1], ("kept", &kept)]).await
}

// KEPT-1: the whole way: kept, offered, sent on once with the very same bytes, and never by itself.
#[tokio::test]
async fn a_form_survives_the_end_of_its_session() {
    let server = Server::start("").await;
    let (mut browser, _) = after_the_session(&server).await;
    let head = [&HEAD[..], &[("referer", "http://app.example.com/notes/edit?draft=7#top")]].concat();
    let page = browser.send("POST", TARGET, &head, BODY).await.is(401);
    assert!(is_kept(&page) && !page.text().contains("canary") && !page.text().contains("notes/new"), "{}", page.text());
    assert_eq!((page.field("www-authenticate"), page.field("cache-control")), ("Bearer", "no-store"));
    assert_eq!(plain(&field(&page, "rd")), "/notes/edit?draft=7");
    assert!(page.body.len() < 15_000);

    // A wrong password loses nothing.
    let kept = field(&page, "kept");
    let wrong = [LOGIN[0], ("password", "wrong-Orchard-19"), ("kept", kept.as_str()), ("rd", "/notes/edit")];
    let page = browser.submit_shown(&page, "/_auth/login", &wrong).await.is(401);
    let offer = sign_in(&mut browser, &page).await.is(200);
    assert!(browser.cookie("nullpass").is_some() && server.upstream.take().is_empty(), "nothing is sent by itself");
    assert!(
        plain(&offer.text()).contains(TARGET) && offer.text().contains(">title<") && !offer.text().contains("<script"),
        "no script could press the button"
    );

    let shown = offered(&offer);
    assert_eq!(shown.body, BODY);
    let moved = browser.send("POST", &shown.action, &HEAD, &shown.body).await.is(307);
    assert_eq!((moved.field("location"), moved.field("cache-control")), (TARGET, "no-store"));
    assert!(server.upstream.take().is_empty());
    browser.send("POST", moved.field("location"), &HEAD, &shown.body).await.is(200);
    let got = server.upstream.only();
    assert_eq!((got.target(), String::from_utf8(got.body.clone()).unwrap().as_str()), (TARGET, BODY));
    assert_eq!(got.one("x-forwarded-user").as_deref(), Some("ada@example.com"));

    // The button again: nothing happens but that the person is told.
    let told = browser.send("POST", &shown.action, &HEAD, &shown.body).await.is(409);
    assert!(told.field("location").is_empty());
    // The whole sign-in again, as by going back: the same.
    let offer = sign_in(&mut browser, &page).await.is(200);
    let told = browser.send("POST", &offered(&offer).action, &HEAD, BODY).await.is(409);
    // Who has been told may: an answer may have been lost.
    let once_more = offered(&told);
    assert_eq!(once_more.body, BODY);
    assert_eq!(browser.send("POST", &once_more.action, &HEAD, &once_more.body).await.is(307).field("location"), TARGET);
    browser.send("POST", &once_more.action, &HEAD, &once_more.body).await.is(409);
}

// KEPT-1: the browser throws a session's cookie away when its time is over, and keeps the device's; after a restart too.
#[tokio::test]
async fn whose_it_is_is_known_without_the_session() {
    let mut server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let mut browser = Browser::new(&server);
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    let (session, device) = (browser.cookie("nullpass").unwrap().to_owned(), browser.cookie("nullpass-device").unwrap().to_owned());
    server.wait(8 * 24 * 3600);
    server.restart().await;
    let post =
        async |cookie: &str| server.send("POST", TARGET, &[&HEAD[..], &[("cookie", cookie)]].concat(), BODY.as_bytes()).await.is(401);
    assert!(is_kept(&post(&format!("nullpass={session}")).await));
    assert!(is_kept(&post(&format!("nullpass-device={device}")).await));
    assert!(is_kept(&post(&format!("nullpass=rubbish; nullpass-device={device}")).await));
    // Nobody's, and what is made up.
    let (id, mac) = device.split_once('.').unwrap();
    let (mac, user) = mac.split_once('.').unwrap();
    let other = UserId::new();
    let mut forged = session.clone();
    forged.replace_range(session.len() - 4.., "AAAA");
    for cookie in [
        "a=b".to_owned(),
        format!("nullpass-device={id}.{mac}.{other}"),
        format!("nullpass-device={id}x.{mac}.{user}"),
        format!("nullpass-device={id}.{mac}"),
        format!("nullpass={forged}"),
        format!("nullpass={session}; nullpass=x"),
    ] {
        assert!(!is_kept(&post(&cookie).await), "{cookie}");
    }
}

// KEPT-1: every condition, and who tries to get round it. Nothing is lost silently: the page says that it was not done.
#[tokio::test]
async fn only_a_persons_own_form_is_kept() {
    let server =
        Server::start("[[rules]]\npath = \"/nobody/**\"\npolicy = \"deny\"\n[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n").await;
    let (browser, _) = after_the_session(&server).await;
    let cookie = format!("nullpass={}", browser.cookie("nullpass").unwrap());
    let send = async |method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]| {
        server.send(method, target, &[fields, &[("cookie", cookie.as_str())]].concat(), body).await
    };
    let body = BODY.as_bytes();
    assert!(is_kept(&send("POST", TARGET, &HEAD, body).await.is(401)));
    let without = |name: &str| HEAD.into_iter().filter(|(found, _)| *found != name).collect::<Vec<_>>();
    let with = |name: &'static str, value: &'static str| [without(name), vec![(name, value)]].concat();
    let html = |origin: &'static str| vec![HEAD[3], ("accept", "text/html"), ("origin", origin)];
    // Without Fetch Metadata the origin says it.
    assert!(is_kept(&send("POST", TARGET, &html("http://app.example.com"), body).await.is(401)));
    for (what, fields) in [
        ("another site", with("sec-fetch-site", "cross-site")),
        ("a sibling", with("sec-fetch-site", "same-site")),
        ("nobody says", with("sec-fetch-site", "none")),
        ("nothing said", without("sec-fetch-site")),
        ("our origin, but not our page", [with("sec-fetch-site", "cross-site"), vec![("origin", "http://app.example.com")]].concat()),
        ("another origin", html("https://evil.example")),
        ("another port", html("http://app.example.com:8080")),
        ("no origin", vec![HEAD[3], ("accept", "text/html")]),
        ("null", html("null")),
        ("a script", with("sec-fetch-mode", "cors")),
        ("a frame", with("sec-fetch-dest", "iframe")),
        ("a script of old", vec![HEAD[3], ("accept", "text/html"), ("origin", "http://app.example.com"), ("x-requested-with", "x")]),
        ("multipart", with("content-type", "multipart/form-data; boundary=x")),
        ("JSON", with("content-type", "application/json")),
        ("text", with("content-type", "text/plain")),
        ("no kind", without("content-type")),
        ("two kinds", [&HEAD[..], &[("content-type", "text/plain")]].concat()),
        ("another charset", with("content-type", "application/x-www-form-urlencoded; charset=utf-7")),
        ("packed", [&HEAD[..], &[("content-encoding", "gzip")]].concat()),
    ] {
        let answer = send("POST", TARGET, &fields, body).await;
        assert!(matches!(answer.status, 401 | 403) && !is_kept(&answer), "{what}: {} {}", answer.status, answer.text());
    }
    for method in ["PUT", "PATCH", "DELETE", "GET"] {
        assert!(!is_kept(&send(method, TARGET, &HEAD, body).await), "{method}");
    }
    for target in ["//evil.example/x", "/a?x=\"y", "/_auth/account/2fa", "/_auth/nothing"] {
        assert!(!is_kept(&send("POST", target, &HEAD, body).await), "{target}");
    }
    for body in ["", "a", "a=%zz", "a=%00", "password=x", "a=1&&b=2"] {
        assert!(!is_kept(&send("POST", TARGET, &HEAD, body.as_bytes()).await.is(401)), "{body}");
    }
    let bearer = [&HEAD[..], &[("authorization", "Bearer np_wrong")]].concat();
    assert!(!is_kept(&send("POST", TARGET, &bearer, body).await.is(401)));
    let lost = send("POST", TARGET, &with("content-type", "text/plain"), body).await.is(401);
    assert!(lost.text().contains("did not arrive"), "{}", lost.text());
    server.upstream.take();
    send("POST", "/public/x", &HEAD, body).await.is(200);
    assert_eq!(server.upstream.only().body, body, "what needs nobody streams as ever");
}

// KEPT-1: 64 KiB and no byte more, whether its length is told or not; and a body that never comes is not waited for.
#[tokio::test]
async fn small_forms_are_kept_and_large_ones_are_not_read() {
    let server = Server::start("[server]\nheader_timeout = \"1s\"\n").await;
    let (browser, _) = after_the_session(&server).await;
    let cookie = format!("nullpass={}", browser.cookie("nullpass").unwrap());
    let fields = [&HEAD[..], &[("cookie", cookie.as_str())]].concat();
    for (length, kept) in [(65_536, true), (65_537, false), (1_000_000, false)] {
        let body = format!("text={}", "x".repeat(length - 5));
        let answer = server.send("POST", "/x", &fields, body.as_bytes()).await.is(401);
        assert_eq!(is_kept(&answer), kept, "{length}");
        assert!(answer.body.len() < 100_000, "{}", answer.body.len());
        // The same in pieces whose sum nobody tells.
        let mut connection = server.connect().await;
        let head = lines(&fields);
        connection.write(format!("POST /x HTTP/1.1\r\nhost: app.example.com\r\n{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await;
        for piece in body.as_bytes().chunks(10_000) {
            connection.write(format!("{:x}\r\n", piece.len()).as_bytes()).await;
            connection.write(piece).await;
            connection.write(b"\r\n").await;
        }
        connection.write(b"0\r\n\r\n").await;
        let answer = connection.answer(false).await.unwrap().is(401);
        assert_eq!(is_kept(&answer), kept, "{length} in pieces");
    }
    // Nobody is asked for a body that would be thrown away.
    let mut connection = server.connect().await;
    let head = lines(&fields);
    connection
        .write(format!("POST /x HTTP/1.1\r\nhost: app.example.com\r\n{head}content-length: 5\r\nexpect: 100-continue\r\n\r\n").as_bytes())
        .await;
    let answer = connection.read().await;
    assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
    // One that does not come: as long as a head may take.
    let mut connection = server.connect().await;
    connection.write(format!("POST /x HTTP/1.1\r\nhost: app.example.com\r\n{head}content-length: 9\r\n\r\na=").as_bytes()).await;
    assert!(!is_kept(&connection.answer(false).await.unwrap().is(401)));
}

// KEPT-1: so many at a time and no more, whoever holds them up.
#[tokio::test]
async fn kept_forms_are_bounded_in_memory() {
    let server = Server::start("[server]\nheader_timeout = \"60s\"\n").await;
    let (browser, _) = after_the_session(&server).await;
    let cookie = format!("nullpass={}", browser.cookie("nullpass").unwrap());
    let fields = [&HEAD[..], &[("cookie", cookie.as_str())]].concat();
    let head = lines(&fields);
    let mut slow = Vec::new();
    // Until there is no place left for one that is quick.
    while is_kept(&server.send("POST", "/x", &fields, b"a=b").await.is(401)) {
        assert!(slow.len() < 200, "there is always another place");
        let mut connection = server.connect().await;
        connection.write(format!("POST /x HTTP/1.1\r\nhost: app.example.com\r\n{head}content-length: 5\r\n\r\na=").as_bytes()).await;
        slow.push(connection);
    }
    // One of them may still be on its way, and must not come to a place that another one leaves.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut kept = 0;
    for connection in &mut slow {
        connection.write(b"bcd").await;
        kept += u32::from(is_kept(&connection.answer(false).await.unwrap().is(401)));
    }
    // A place is free a moment after its last byte is sent, so that one may have been a quick one's.
    assert!((60..=64).contains(&kept), "{kept}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(is_kept(&server.send("POST", "/x", &fields, b"a=b").await.is(401)), "and are free again");
}

// KEPT-1: it is that person's alone, on that host, for half an hour, and as it was sealed.
#[tokio::test]
async fn nobody_else_is_offered_it() {
    let server = Server::start("").await;
    let (mut browser, _) = after_the_session(&server).await;
    server.account("eve@example.com", &[]).await;
    let page = browser.send("POST", TARGET, &HEAD, BODY).await.is(401);
    let kept = field(&page, "kept");
    let refused = |answer: &Answer, what: &str| {
        let text = answer.text();
        assert!(!text.contains("/_auth/kept") && !text.contains("canary") && !text.contains("draft"), "{what}: {text}");
    };
    let mut eve = Browser::new(&server);
    let shown = eve.page("/_auth/login").await;
    let answer = eve.submit_shown(&shown, "/_auth/login", &[("email", "eve@example.com"), LOGIN[1], ("kept", &kept)]).await.is(200);
    assert!(eve.cookie("nullpass").is_some());
    refused(&answer, "somebody else");
    // Another host of the same server.
    let mut elsewhere = Browser::new(&server);
    let shown = elsewhere.page("/_auth/login").await;
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([LOGIN[0], LOGIN[1], ("kept", &kept), ("csrf", &field(&shown, "csrf"))])
        .finish();
    let answer = elsewhere.send("POST", "/_auth/login", &[&HEAD[..], &[("host", "other.example.com")]].concat(), &body).await.is(200);
    refused(&answer, "another host");
    // Changed, cut, or none at all.
    for place in [0, 10, 20, 40, kept.len() - 3] {
        let mut changed = kept.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let answer = browser.submit_shown(&page, "/_auth/login", &[LOGIN[0], LOGIN[1], ("kept", &changed)]).await;
        assert!(matches!(answer.status, 200 | 303), "{place}: {}", answer.status);
        refused(&answer, "changed");
    }
    for bad in ["AAAA", "%", "\"><script>alert(1)</script>"] {
        let answer = browser.submit_shown(&page, "/_auth/login", &[LOGIN[0], LOGIN[1], ("kept", bad)]).await;
        refused(&answer, bad);
        assert!(!answer.text().contains("<script>"));
    }
    // What is echoed before the sign-in is what base64 is.
    let odd = browser.submit_shown(&page, "/_auth/login", &[("email", "x"), ("password", ""), ("kept", "\"><script>")]).await;
    assert!(!odd.text().contains("<script>") && !is_kept(&odd));
    server.wait(29 * 60);
    offered(&sign_in(&mut browser, &page).await.is(200));
    server.wait(2 * 60);
    refused(&sign_in(&mut browser, &page).await.is(200), "31 minutes");
}

// KEPT-1: the button is that person's too, and no other site presses it.
#[tokio::test]
async fn a_ticket_leads_only_its_person_and_only_there() {
    let server = Server::start("").await;
    let (mut browser, ada) = after_the_session(&server).await;
    let page = browser.send("POST", TARGET, &HEAD, BODY).await.is(401);
    let offer = offered(&sign_in(&mut browser, &page).await.is(200));
    for site in ["cross-site", "same-site"] {
        let head = [HEAD[0], HEAD[1], ("sec-fetch-site", site), HEAD[3]];
        browser.send("POST", &offer.action, &head, BODY).await.is(403);
    }
    server.account("eve@example.com", &[]).await;
    let mut eve = Browser::new(&server);
    eve.submit("/_auth/login", &[("email", "eve@example.com"), LOGIN[1]]).await.is(303);
    for action in
        [offer.action.clone(), offer.action.replace("t=", "t=A"), "/_auth/kept".to_owned(), "/_auth/kept?t=//evil.example".to_owned()]
    {
        let answer = eve.send("POST", &action, &HEAD, BODY).await.is(200);
        assert!(answer.field("location").is_empty() && !answer.text().contains("canary"), "{action}");
    }
    // The sealed form is no ticket.
    let form = format!("/_auth/kept?t={}", field(&page, "kept"));
    assert!(browser.send("POST", &form, &HEAD, BODY).await.is(200).field("location").is_empty());
    assert_eq!(browser.page("/_auth/kept").await.is(303).field("location"), "/");
    // The session ends before the button is pressed: the same once more.
    server.auth().end_all_sessions(ada, None, &nullpass::auth::Client::local(), server.now()).await.unwrap();
    let again = browser.send("POST", &offer.action, &HEAD, &offer.body).await.is(401);
    assert!(is_kept(&again));
    let offer = offered(&sign_in(&mut browser, &again).await.is(200));
    assert_eq!(offer.body, BODY);
    server.store().set_away(true);
    let later = offered(&browser.send("POST", &offer.action, &HEAD, BODY).await.is(503));
    server.store().set_away(false);
    assert_eq!(browser.send("POST", &later.action, &HEAD, &later.body).await.is(307).field("location"), TARGET);
    // Half an hour is counted from when it was sent first.
    let page = {
        server.auth().end_all_sessions(ada, None, &nullpass::auth::Client::local(), server.now()).await.unwrap();
        browser.send("POST", TARGET, &HEAD, BODY).await.is(401)
    };
    let offer = offered(&sign_in(&mut browser, &page).await.is(200));
    server.wait(31 * 60);
    assert!(browser.send("POST", &offer.action, &HEAD, BODY).await.is(200).field("location").is_empty());
    assert!(server.upstream.take().is_empty());
}

// KEPT-1: what was sent stays sent: no end of a session in between, and no sealing once more, makes a spent form new.
#[tokio::test]
async fn a_spent_form_stays_spent() {
    let server = Server::start("").await;
    let (mut browser, ada) = after_the_session(&server).await;
    let end = async || server.auth().end_all_sessions(ada, None, &nullpass::auth::Client::local(), server.now()).await.unwrap();
    let page = browser.send("POST", TARGET, &HEAD, BODY).await.is(401);
    let offer = offered(&sign_in(&mut browser, &page).await.is(200));
    browser.send("POST", &offer.action, &HEAD, &offer.body).await.is(307);
    // The button again, when the session is over: kept and offered once more, but the right is that of the first.
    end().await;
    let again = browser.send("POST", &offer.action, &HEAD, &offer.body).await.is(401);
    let second = offered(&sign_in(&mut browser, &again).await.is(200));
    let told = browser.send("POST", &second.action, &HEAD, &second.body).await.is(409);
    assert!(told.field("location").is_empty());
    // Who was told has another one, and that too is good once, whatever ends in between.
    let next = offered(&told);
    end().await;
    let kept = browser.send("POST", &next.action, &HEAD, &next.body).await.is(401);
    let last = offered(&sign_in(&mut browser, &kept).await.is(200));
    browser.send("POST", &last.action, &HEAD, &last.body).await.is(307);
    browser.send("POST", &next.action, &HEAD, &next.body).await.is(409);
    assert!(server.upstream.take().is_empty());
}

// KEPT-1: a rule that wants a fresh password or a code is met by a signed-in person's form: kept in the same way, for them.
#[tokio::test]
async fn a_form_survives_the_question_for_the_password() {
    let rules = "[[rules]]\npath = \"/fresh/**\"\npolicy = \"authenticated\"\nmax_auth_age = \"15m\"\n";
    let server = Server::start(rules).await;
    server.account("ada@example.com", &[]).await;
    server.account("eve@example.com", &[]).await;
    let mut browser = Browser::new(&server);
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    server.wait(1000);
    let head = [&HEAD[..], &[("referer", "http://app.example.com/fresh/edit?a=b")]].concat();
    let page = browser.send("POST", "/fresh/new", &head, BODY).await.is(403);
    assert!(is_kept(&page) && !page.text().contains("canary"), "{}", page.text());
    assert_eq!((page.field("cache-control"), field(&page, "rd").as_str()), ("no-store", "/fresh/edit?a=b"));
    // Another site's, a program's and what is too large are not kept, as with a session that is over.
    for fields in [[HEAD[0], HEAD[1], ("sec-fetch-site", "cross-site"), HEAD[3]], [("sec-fetch-mode", "cors"), HEAD[1], HEAD[2], HEAD[3]]] {
        assert!(!is_kept(&browser.send("POST", "/fresh/new", &fields, BODY).await.is(403)));
    }
    assert!(!is_kept(&browser.send("POST", "/fresh/new", &HEAD, &format!("a={}", "x".repeat(65_535))).await.is(403)));
    let bearer = format!("Bearer {}", browser.cookie("nullpass").unwrap());
    let program = server.send("POST", "/fresh/new", &[&HEAD[..], &[("authorization", &bearer)]].concat(), BODY.as_bytes()).await.is(403);
    assert!(!is_kept(&program));
    // A wrong password loses nothing; two clicks get the same answer.
    let kept = field(&page, "kept");
    let wrong = [("password", "wrong-Orchard-19"), ("kept", kept.as_str()), ("rd", "/fresh/edit")];
    let page = browser.submit_shown(&page, "/_auth/reauth", &wrong).await.is(401);
    assert_eq!(field(&page, "kept"), kept);
    let cookies = ["nullpass", "nullpass-pre"].map(|name| format!("{name}={}", browser.cookie(name).unwrap())).join("; ");
    let csrf = field(&page, "csrf");
    let right = [("csrf", csrf.as_str()), ("password", PASSWORD), ("kept", kept.as_str())];
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(right).finish();
    let send = async || server.send("POST", "/_auth/reauth", &[&HEAD[..], &[("cookie", &cookies)]].concat(), body.as_bytes()).await.is(200);
    let (first, second) = (send().await, send().await);
    assert_eq!((offered(&first).body.as_str(), offered(&second).body.as_str()), (BODY, BODY));
    let session = first.cookie("nullpass").unwrap();
    assert_eq!(second.cookie("nullpass").as_ref(), Some(&session), "one session");
    assert!(server.upstream.take().is_empty(), "never by itself");
    // Somebody else's page does not offer it.
    let mut eve = Browser::new(&server);
    eve.submit("/_auth/login", &[("email", "eve@example.com"), LOGIN[1]]).await.is(303);
    let shown = eve.page("/_auth/reauth").await.is(200);
    let theirs = eve.submit_shown(&shown, "/_auth/reauth", &[("password", PASSWORD), ("kept", &kept)]).await.is(200);
    assert!(!theirs.text().contains("/_auth/kept") && !theirs.text().contains("canary"));
    browser.set("nullpass", Some(&session));
    let moved = browser.send("POST", &offered(&first).action, &HEAD, BODY).await.is(307);
    assert_eq!(moved.field("location"), "/fresh/new");
    browser.send("POST", "/fresh/new", &HEAD, BODY).await.is(200);
    assert_eq!(server.upstream.only().body, BODY.as_bytes());
    browser.send("POST", &offered(&second).action, &HEAD, BODY).await.is(409);
    // The session ends while the page stands there: the same by way of the sign-in.
    let mut late = Browser::new(&server);
    late.submit("/_auth/login", &LOGIN).await.is(303);
    server.wait(1000);
    let asked = late.send("POST", "/fresh/new", &HEAD, "title=late").await.is(403);
    late.set("nullpass", Some("over"));
    let carried = field(&asked, "kept");
    let page = late.submit_shown(&asked, "/_auth/reauth", &[("password", PASSWORD), ("kept", &carried)]).await.is(200);
    assert!(page.text().contains("name=\"email\"") && field(&page, "kept") == carried);
    assert_eq!(offered(&sign_in(&mut late, &page).await.is(200)).body, "title=late");
}

// KEPT-1: a second factor in between, its page and a wrong code lose nothing; a button pressed twice neither.
#[tokio::test]
async fn a_second_factor_in_between_loses_nothing() {
    let server = Server::start("").await;
    let (ada, token) = server.signed_in("ada@example.com").await;
    let (secret, _) = server.enrol(&token).await;
    server.wait(30);
    let mut browser = Browser::new(&server);
    let step = browser.submit("/_auth/login", &LOGIN).await.is(200);
    let fields = [("pending", field(&step, "pending")), ("code", code(&secret, server.now()))];
    browser.submit_shown(&step, "/_auth/login/2fa", &[("pending", &fields[0].1), ("code", &fields[1].1)]).await.is(303);
    server.auth().end_all_sessions(ada, None, &nullpass::auth::Client::local(), server.now()).await.unwrap();
    server.wait(30);
    let page = browser.send("POST", TARGET, &HEAD, BODY).await.is(401);
    let step = sign_in(&mut browser, &page).await.is(200);
    let pending = field(&step, "pending");
    let wrong = [("pending", pending.as_str()), ("code", "000000"), ("kept", &field(&step, "kept"))];
    let step = browser.submit_shown(&step, "/_auth/login/2fa", &wrong).await.is(401);
    let kept = field(&step, "kept");
    let right = code(&secret, server.now());
    let fields = [("pending", pending.as_str()), ("code", right.as_str()), ("kept", kept.as_str())];
    let first = browser.submit_shown(&step, "/_auth/login/2fa", &fields).await.is(200);
    let second = browser.submit_shown(&step, "/_auth/login/2fa", &fields).await.is(200);
    assert_eq!((offered(&first).body.as_str(), offered(&second).body.as_str()), (BODY, BODY));
    browser.send("POST", &offered(&second).action, &HEAD, BODY).await.is(307);
    browser.send("POST", &offered(&first).action, &HEAD, BODY).await.is(409);
}

// KEPT-2: what is named like a secret is not carried around, and the page says so.
#[tokio::test]
async fn secrets_are_not_kept() {
    let server = Server::start("").await;
    let (mut browser, ada) = after_the_session(&server).await;
    let secret = "name=Ada&user%5BPassword%5D=hunter2&card-CVV=123&otp=4&note=x";
    let page = browser.send("POST", TARGET, &HEAD, secret).await.is(401);
    let opened = {
        use base64::Engine as _;
        let sealed = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(field(&page, "kept")).unwrap();
        server.auth().open_kept(ada, "app.example.com", &Sealed(sealed), server.now()).unwrap()
    };
    assert_eq!(opened.fields.expose().as_slice(), b"name=Ada&note=x");
    let offer = sign_in(&mut browser, &page).await.is(200);
    assert_eq!(offered(&offer).body, "name=Ada&note=x");
    assert!(offer.text().contains("user[Password]") && offer.text().contains("card-CVV") && !offer.text().contains("hunter2"));
}

// XSS-2: names and values are text, whatever they are; other charsets go on as they came.
#[tokio::test]
async fn fields_are_shown_as_text() {
    let server = Server::start("").await;
    let (mut browser, _) = after_the_session(&server).await;
    let evil = "\"><script>alert(1)</script><x y='";
    let body = form_urlencoded::Serializer::new(String::new()).append_pair(evil, evil).append_pair("rtl\u{202e}", "a").finish();
    let page = browser.send("POST", "/x?a='b'", &HEAD, &body).await;
    assert!(!is_kept(&page), "no browser writes this address");
    let page = browser.send("POST", "/x?a=%22%3E%3Cscript%3E", &HEAD, &body).await.is(401);
    let offer = sign_in(&mut browser, &page).await.is(200);
    assert!(!offer.text().contains("<script") && !offer.text().contains("<code><bdi>rtl\u{202e}"));
    assert!(!offer.text().contains("accept-charset"));
    assert_eq!(offered(&offer).body, body);
    let mut browser = Browser::new(&server);
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    server.wait(8 * 24 * 3600);
    let page = browser.send("POST", TARGET, &HEAD, "name=M%FCller").await.is(401);
    let offer = sign_in(&mut browser, &page).await.is(200);
    assert!(offer.text().contains("accept-charset=\"windows-1252\"") && offer.text().contains("value=\"Müller\""));
    // Shift_JIS: bytes that are control characters in the charset they are sent again in.
    let page = browser.send("POST", TARGET, &HEAD, "name=%81%40%8D%82%90%5E").await;
    assert!(!is_kept(&page), "signed in");
    server.wait(8 * 24 * 3600);
    let page = browser.send("POST", TARGET, &HEAD, "name=%81%40%8D%82%90%5E").await.is(401);
    let offer = sign_in(&mut browser, &page).await.is(200);
    assert!(offer.text().contains("value=\"\u{81}@\u{8d}‚\u{90}^\""), "{}", offer.text());
    server.wait(8 * 24 * 3600);
    let body = "note=a%0Cb%1B%C2%85c";
    let page = browser.send("POST", TARGET, &HEAD, body).await.is(401);
    assert_eq!(offered(&sign_in(&mut browser, &page).await.is(200)).body, body);
}

// KEPT-1: what the rules refuse stays refused.
#[tokio::test]
async fn a_kept_form_opens_nothing() {
    let server = Server::start("[[rules]]\npath = \"/admins/**\"\npolicy = \"authenticated\"\ngroups = [\"admins\"]\n").await;
    let (mut browser, _) = after_the_session(&server).await;
    let page = browser.send("POST", "/admins/add", &HEAD, BODY).await.is(401);
    let offer = offered(&sign_in(&mut browser, &page).await.is(200));
    let moved = browser.send("POST", &offer.action, &HEAD, &offer.body).await.is(307);
    browser.send("POST", moved.field("location"), &HEAD, &offer.body).await.is(403);
    assert!(server.upstream.take().is_empty());
}

// KEPT-1: HTTP/2 too.
#[tokio::test]
async fn forms_over_http_2_are_kept() {
    let server = Server::start("").await;
    let (browser, _) = after_the_session(&server).await;
    let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let tasks = Tasks::new();
    drop(tasks.spawn(connection));
    let mut request = http::Request::post(format!("http://app.example.com{TARGET}"));
    for (name, value) in HEAD {
        request = request.header(name, value);
    }
    let request = request.header("cookie", format!("nullpass={}", browser.cookie("nullpass").unwrap()));
    let response = sender.send_request(request.body(Full::<bytes::Bytes>::new(BODY.into())).unwrap()).await.unwrap();
    assert_eq!(response.status(), 401);
    let page = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&page).contains("name=\"kept\""));
}

// KEPT-1: what is sealed opens as it was, and no changed bit does.
#[tokio::test]
async fn every_bit_of_a_sealed_form_counts() {
    let server = Server::start("").await;
    let (auth, user, now) = (server.auth(), UserId::new(), server.now());
    let strategy = (any::<Vec<u8>>(), "/[a-z/?=&%]{0,40}", proptest::collection::vec("[a-z\\[\\]]{1,8}", 0..4), "[a-z.:0-9]{1,20}");
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    runner
        .run(&strategy, |(fields, target, names, authority)| {
            let left_out = names.into_iter().map(String::into_bytes).collect();
            let kept = Kept { ticket: Ticket::new(now, target.clone()), left_out, fields: Secret::new(fields) };
            let sealed = auth.seal_kept(user, &authority, &kept);
            prop_assert_eq!(auth.open_kept(user, &authority, &sealed, now), Some(kept));
            prop_assert_eq!(auth.open_kept(UserId::new(), &authority, &sealed, now), None);
            prop_assert_eq!(auth.open_kept(user, &format!("{authority}x"), &sealed, now), None);
            prop_assert_eq!(auth.open_ticket(user, &authority, &sealed, now), None);
            prop_assert_eq!(auth.open_kept(user, &authority, &sealed, now.plus(Duration::from_secs(1801))), None);
            let ticket = Ticket::new(now, target);
            let sealed_ticket = auth.seal_ticket(user, &authority, &ticket);
            prop_assert_eq!(auth.open_ticket(user, &authority, &sealed_ticket, now), Some(ticket));
            let ticket = sealed_ticket;
            prop_assert_eq!(auth.open_kept(user, &authority, &ticket, now), None);
            for sealed in [&sealed, &ticket] {
                for bit in 0..sealed.0.len() * 8 {
                    let mut changed = sealed.clone();
                    changed.0[bit / 8] ^= 1 << (bit % 8);
                    prop_assert!(auth.open_kept(user, &authority, &changed, now).is_none());
                    prop_assert!(auth.open_ticket(user, &authority, &changed, now).is_none());
                }
            }
            Ok(())
        })
        .unwrap();
}
