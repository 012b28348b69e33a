//! What holds for every page in every language, and for whatever is typed into its form.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nullpass::auth::kept::{Kept, Ticket};
use nullpass::model::Secret;
use serde_json::json;

use crate::pages::Jar;
use crate::world::{A, Answer, PASSWORD, World};

const LANGUAGES: [&str; 7] = ["en", "de", "fr", "es", "pt", "ja", "zh"];

/// Bytes of a page with everything that goes with it.
const MOST_BYTES: usize = 15 * 1000;

/// The text between two others.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(found, _)| found)
}

/// All values of an attribute.
fn attributes<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    text.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// All tags of that name, with their attributes.
fn tags<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("<{name} ");
    text.split(&start).skip(1).map(|rest| rest.split('>').next().unwrap()).collect()
}

/// Every page that this world can show, with a name for messages.
async fn every_page(world: &World, language: &str) -> Vec<(&'static str, Answer)> {
    // Past whatever wrong passwords and codes make this address wait for.
    let wait = || world.clock.advance(Duration::from_secs(3600));
    wait();
    let get = |path: &str| world.get(path).navigate().header("accept-language", language);
    let mut pages = vec![
        ("login", get("/_auth/login?rd=/x").send().await),
        ("register", get("/_auth/register").send().await),
        ("not found", get("/_auth/nothing").send().await),
        ("wrong method", world.ask("DELETE", "/_auth/login").navigate().header("accept-language", language).send().await),
        ("signed out", get("/_auth/logout").send().await),
        ("set-up expired", get("/_auth/setup?code=x").send().await),
    ];
    let code = world.auth.new_setup_code(world.now()).await.unwrap();
    pages.push(("set-up", get(&format!("/_auth/setup?code={}", code.expose())).send().await));
    let mut jar = Jar::reading(language);
    let csrf = jar.get(world, "/_auth/login").await.hidden("csrf");
    let fields = [("csrf", csrf.as_str()), ("email", "a@example.com"), ("password", "wrong-horse-battery")];
    pages.push(("login, wrong password", jar.submit(world, "/_auth/login", &fields).await));
    pages.push(("login, nothing typed", jar.submit(world, "/_auth/login", &fields[..1]).await));
    pages.push(("login, stale", jar.submit(world, "/_auth/login", &fields[1..]).await));
    let csrf = jar.get(world, "/_auth/register").await.hidden("csrf");
    for (name, email, password) in [
        ("register, weak", "new@example.com", "password1"),
        ("register, short", "new@example.com", "abc"),
        ("register, no address", "new", PASSWORD),
        ("register, taken", "a@example.com", "somebody else's words"),
    ] {
        let fields = [("csrf", csrf.as_str()), ("email", email), ("password", password)];
        pages.push((name, jar.submit(world, "/_auth/register", &fields).await));
    }
    let two = format!("{language}@example.com");
    world.enrol(&world.register(&two).await).await;
    wait();
    let step = jar.sign_in(world, &two, "/x").await;
    let (csrf, pending) = (step.hidden("csrf"), step.hidden("pending"));
    let fields = [("csrf", csrf.as_str()), ("rd", "/x"), ("pending", &pending), ("code", "abc")];
    pages.push(("second factor, wrong", jar.submit(world, "/_auth/login/2fa", &fields).await));
    pages.push(("second factor, nothing typed", jar.submit(world, "/_auth/login/2fa", &fields[..3]).await));
    pages.push(("second factor", step));
    wait();
    jar.sign_in(world, "a@example.com", "/").await;
    for _ in 0..2 {
        jar.get(world, "/_auth/login?rd=/round").await;
    }
    pages.push(("sent back", jar.get(world, "/_auth/login?rd=/round").await));
    pages.extend(carrying(world, language, &mut jar).await);
    pages.push(("logout", jar.get(world, "/_auth/logout?rd=/x").await));
    pages.push(("reauth", jar.get(world, "/_auth/reauth?rd=/x").await));
    pages.extend(account_pages(world, &mut jar).await);
    pages
}

/// The pages of the account, by whoever is signed in without a second factor, and their forms with something wrong.
async fn account_pages(world: &World, jar: &mut Jar) -> Vec<(&'static str, Answer)> {
    // A list is as long as it is: those of the languages before would weigh here.
    let csrf = jar.get(world, "/_auth/account/sessions").await.hidden("csrf");
    assert_eq!(jar.submit(world, "/_auth/account/sessions", &[("csrf", &csrf), ("others", "1")]).await.status, 303);
    let mut pages = Vec::new();
    for path in [
        "/_auth/account",
        "/_auth/account/password",
        "/_auth/account/2fa",
        "/_auth/account/sessions",
        "/_auth/account/tokens",
        "/_auth/account/tokens/new",
        "/_auth/account/activity",
        "/_auth/account/delete",
    ] {
        pages.push((path, jar.get(world, path).await));
    }
    for (path, fields) in [
        ("/_auth/account", &[("displayName", "x"), ("avatar", "javascript:x")][..]),
        ("/_auth/account", &[("displayName", "a\u{0}b")]),
        ("/_auth/account/password", &[("currentPassword", ""), ("newPassword", "x")]),
        ("/_auth/account/password", &[("currentPassword", "wrong-horse-battery"), ("newPassword", "another-meadow-77-copper")]),
        ("/_auth/account/tokens/new", &[("name", "")]),
        ("/_auth/account/tokens/new", &[("name", "x"), ("paths", "x")]),
        ("/_auth/account/tokens/new", &[("name", "x"), ("methods", "?")]),
        ("/_auth/account/tokens/new", &[("name", "x"), ("networks", "x")]),
        ("/_auth/account/tokens/new", &[("name", "a name")]),
        ("/_auth/account/2fa", &[]),
        ("/_auth/account/2fa", &[("code", "abc")]),
        ("/_auth/account/delete", &[("password", "")]),
    ] {
        let csrf = jar.get(world, path).await.hidden("csrf");
        pages.push((path, jar.submit(world, path, &[&[("csrf", csrf.as_str())][..], fields].concat()).await));
        pages.push((path, jar.submit(world, path, &[&[("csrf", "stale")][..], fields].concat()).await));
    }
    pages.push(("tokens", jar.get(world, "/_auth/account/tokens").await));
    pages
}

/// The pages that carry a form, offer it and can't, and the one for a browser that keeps no cookie.
async fn carrying(world: &World, language: &str, jar: &mut Jar) -> Vec<(&'static str, Answer)> {
    let token = world.log_in("a@example.com", json!({})).await.token();
    let user = world.auth.claims(&token, world.now()).unwrap().sub;
    let authority = world.origin().replace("http://", "");
    let fields = Secret::new(b"title=one&text=two%0D%0Athree".to_vec());
    let ticket = Ticket::new(world.now(), "/notes/new?a=b".into());
    let kept = Kept { ticket, left_out: vec![b"pin".to_vec()], fields };
    let kept = URL_SAFE_NO_PAD.encode(world.auth.seal_kept(user, &authority, &kept).0);
    let page = jar.get(world, "/_auth/login?prompt=login&rd=/x").await;
    let csrf = page.hidden("csrf");
    let login = [("csrf", csrf.as_str()), ("rd", "/x"), ("kept", &kept), ("email", "a@example.com"), ("password", "")];
    let mut pages = vec![("kept, nothing typed", jar.submit(world, "/_auth/login", &login).await)];
    let offer = jar.submit(world, "/_auth/login", &[&login[..4], &[("password", PASSWORD)]].concat()).await;
    let action = between(offer.text(), "action=\"/_auth/kept", "\"").unwrap().replace("&#38;", "&");
    let action = format!("/_auth/kept{action}");
    for _ in 0..2 {
        let sent = jar.submit(world, &action, &[("title", "one")]).await;
        if sent.status != 307 {
            pages.push(("sent before", sent));
        }
    }
    pages.push(("offered", offer));
    pages.push(("gone", jar.submit(world, "/_auth/kept?t=x", &[("title", "one")]).await));
    let lost = |csrf: String| {
        let ask = world.ask("POST", "/_auth/login").form(&[("email", "x"), ("csrf", &csrf)]);
        async move { ask.header("accept-language", language).send().await }
    };
    let again = lost(String::new()).await.hidden("csrf");
    pages.push(("no cookies", lost(again).await));
    pages
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_whole_in_every_language() {
    // XSS-2; WCAG 2.2: 1.3.1, 2.4.2, 3.1.1, 3.3.1, 3.3.2
    let world = World::new().await;
    world.register("a@example.com").await;
    let style = world.get("/_auth/login").send().await;
    let href = between(style.text(), "rel=\"stylesheet\" href=\"", "\"").unwrap().to_owned();
    let style = world.get(&href).send().await.body.len();
    let mut titles: Vec<Vec<String>> = Vec::new();
    for language in LANGUAGES {
        let mut own = Vec::new();
        for (name, page) in every_page(&world, language).await {
            let text = page.text();
            let at = format!("{name} in {language}: {text}");
            assert!(text.contains(&format!("<html lang=\"{language}\">")), "{at}");
            assert_eq!(text.matches("<h1>").count(), 1, "{at}");
            assert_eq!(text.matches("<main").count(), 1, "{at}");
            assert!(!text.contains(['{', '}']), "a placeholder is left: {at}");
            own.push(between(text, "<title>", "</title>").unwrap().to_owned());
            // One request for the page, one for the style, and one for the script where it does something.
            let mut weight = text.len() + style;
            if let Some(script) = tags(text, "script").first() {
                weight += world
                    .get(attributes(script, "src").first().copied().unwrap_or_else(|| between(script, "src=\"", "\"").unwrap()))
                    .send()
                    .await
                    .body
                    .len();
            }
            assert!(weight < MOST_BYTES, "{weight} bytes: {at}");
            // Every id is there once, every label and every description has its target, every field a label.
            let mut ids = attributes(text, "id");
            ids.sort_unstable();
            assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{at}");
            let fields: Vec<_> =
                tags(text, "input").into_iter().filter(|tag| !tag.contains("type=\"hidden\"") && !tag.ends_with(" hidden")).collect();
            let labels = attributes(text, "for");
            for target in labels
                .iter()
                .chain(&attributes(text, "aria-describedby").join(" ").split(' ').filter(|id| !id.is_empty()).collect::<Vec<_>>())
            {
                assert!(ids.contains(target), "{target}: {at}");
            }
            for field in fields {
                let id = between(field, "id=\"", "\"").unwrap();
                assert!(labels.contains(&id) && field.contains("autocomplete=\""), "{id}: {at}");
            }
            // Whatever went wrong is said at the top, which has the focus, and leads to its field.
            if text.contains("role=\"alert\"") {
                assert_eq!(text.matches(" autofocus").count(), 1, "{at}");
                assert!(page.status.is_client_error(), "{at}");
                for field in between(text, "role=\"alert\"", "</div>").into_iter().flat_map(|part| attributes(part, "href")) {
                    let field = field.trim_start_matches('#');
                    assert!(ids.contains(&field) && ids.contains(&&*format!("{field}-error")), "{field}: {at}");
                }
            }
        }
        titles.push(own);
    }
    let [english, others @ ..] = &titles[..] else { panic!() };
    for (language, others) in LANGUAGES[1..].iter().zip(others) {
        assert_eq!(english.len(), others.len());
        for (english, other) in english.iter().zip(others) {
            assert_ne!(english, other, "{language}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_switch_changes_the_words_and_nothing_else() {
    // RED-1
    let world = World::new().await;
    let mut jar = Jar::default();
    let page = jar.get(&world, "/_auth/login?rd=/deep%3Fa%3Db").await;
    let back = page.text().split("class=\"languages\"").nth(1).and_then(|form| between(form, "name=\"rd\" value=\"", "\"")).unwrap();
    assert_eq!(back, "/_auth/login?rd=%2Fdeep%3Fa%3Db");
    let switched = jar.get(&world, "/_auth/language?set=ja&rd=%2F_auth%2Flogin%3Frd%3D%252Fdeep").await;
    assert_eq!((switched.status.as_u16(), switched.location()), (303, "/_auth/login?rd=%2Fdeep"));
    let line = switched.headers["set-cookie"].to_str().unwrap();
    assert!(line.starts_with("nullpass-lang=ja; ") && line.contains("Max-Age=31536000"), "{line}");
    let page = jar.get(&world, switched.location()).await;
    assert!(page.text().contains("<html lang=\"ja\">") && page.hidden("rd") == "/deep");
    // The choice holds against the browser's wish, and on pages that say that something went wrong.
    let lost = world.get("/_auth/nothing").navigate().cookie(&jar.line()).header("accept-language", "fr").send().await;
    assert!(lost.text().contains("<html lang=\"ja\">"));
    for query in ["set=tlh&rd=/x", "rd=/x", "set=&rd=/x", "set=de%0d%0aX:y&rd=/x"] {
        let answer = world.get(&format!("/_auth/language?{query}")).send().await;
        assert_eq!((answer.status.as_u16(), answer.location()), (303, "/x"));
        assert!(!answer.headers.contains_key("set-cookie"), "{query}");
    }
    for away in ["//evil.example", "https://evil.example/", "/%5cevil.example"] {
        assert_eq!(world.get(&format!("/_auth/language?set=de&rd={away}")).send().await.location(), "/");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_name_language_and_logo_are_shown() {
    let picture = b"\x89PNG\r\n\x1a\nrest".to_vec();
    let logo = nullpass::config::Logo::parse(&picture).unwrap();
    let world = World::with(|config| {
        config.ui.name = "A <Wiki> & \"more\"".into();
        config.ui.default_locale = "es".into();
        config.ui.logo = Some(logo);
    })
    .await;
    let page = world.get("/_auth/login").header("accept-language", "tlh").send().await;
    assert!(page.text().contains("<html lang=\"es\">") && page.text().contains("A &#60;Wiki&#62; &#38; &#34;more&#34;"));
    let src = between(page.text(), "<img src=\"", "\"").unwrap().to_owned();
    let answer = world.get(&src).send().await;
    assert_eq!((answer.headers["content-type"].to_str().unwrap(), &answer.body[..]), ("image/png", &picture[..]));
    assert_eq!(answer.headers["cache-control"], "public, max-age=31536000, immutable");
    assert!(answer.headers["content-security-policy"].to_str().unwrap().contains("sandbox"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_names_the_place_and_forms_may_lead_there() {
    let world = World::with(|config| {
        config.server.public_url = Some("https://auth.example.com".parse().unwrap());
        config.sessions.cookie.domain = Some("example.com".into());
    })
    .await;
    let page = world.get("/_auth/login?rd=https://wiki.example.com/a").send().await;
    assert!(page.text().contains("<bdi>wiki.example.com</bdi>"), "{}", page.text());
    // Chromium holds the redirects after a form against this, the application's too.
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("form-action 'self' https: http:;"));
    let lost = world.get("/_auth/nothing").navigate().send().await;
    assert!(lost.headers["content-security-policy"].to_str().unwrap().contains("form-action 'self';"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_typed_comes_back_as_text() {
    // XSS-2, SES-1
    let world = World::new().await;
    let hostile = [
        "",
        " ",
        "<script>alert(1)</script>",
        "\"onload=\"alert(1)",
        "'><img src=x onerror=alert(1)>",
        "{{7*7}}${7*7}",
        "\u{202e}evil\u{2066}",
        "a\0b",
        "\u{1f600}\u{200d}\u{1f525}",
        "a\r\nSet-Cookie: x=y",
        "</title></textarea>--><b>",
        &"x".repeat(5000),
    ];
    for text in hostile {
        for (page, field) in [("login", "email"), ("register", "email"), ("register", "displayName")] {
            let mut jar = Jar::default();
            let path = format!("/_auth/{page}");
            let csrf = jar.get(&world, &path).await.hidden("csrf");
            let secret = "hunter2-canary-hunter2";
            let mut fields = vec![("csrf", csrf.as_str()), ("rd", "/kept"), (field, text), ("password", secret)];
            if field == "displayName" {
                fields.push(("email", "not an address"));
            }
            let again = jar.submit(&world, &path, &fields).await;
            let shown = again.text();
            assert!(again.status.is_client_error(), "{page} {field} {text:?}: {shown}");
            assert!(!shown.contains(secret) && again.hidden("rd") == "/kept", "{shown}");
            assert!(shown.contains("role=\"alert\"") && shown.contains("aria-invalid=\"true\""), "{page} {field} {text:?}: {shown}");
            let input = tags(shown, "input").into_iter().find(|tag| tag.contains(&format!("id=\"{field}\""))).unwrap();
            let value = between(input, "value=\"", "\"").unwrap();
            let kept = ["#60;", "#62;", "#34;", "#39;", "#38;"].iter().zip(['<', '>', '"', '\'', '&']).fold(
                value.to_owned(),
                |value, (code, c)| {
                    if c == '&' { value.replace("&#38;", "&") } else { value.replace(&format!("&{code}"), &c.to_string()) }
                },
            );
            // HTML has no way to write a NUL (WHATWG, "Character references").
            assert_eq!(kept, text.replace('\0', "\u{fffd}"), "{page} {field}: {input}");
            assert!(!value.contains(['<', '>', '\'']), "{input}");
        }
        // No page repeats what its address says, but for `rd`, which is checked.
        let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("email", text).append_pair("error", text).finish();
        let page = world.get(&format!("/_auth/login?{query}")).navigate().send().await;
        assert!(page.text().contains(" value=\"\"") && !page.text().contains("alert(1)"));
    }
    // The code and the recovery code are never shown again.
    world.enrol(&world.register("two@example.com").await).await;
    for (field, text) in hostile.iter().flat_map(|text| [("code", *text), ("recoveryCode", *text)]) {
        // Past what the wrong codes before it made the account wait for.
        world.clock.advance(Duration::from_secs(3600));
        let mut jar = Jar::default();
        let step = jar.sign_in(&world, "two@example.com", "/").await;
        let fields = [("csrf", &*step.hidden("csrf")), ("pending", &*step.hidden("pending")), (field, text)];
        let again = jar.submit(&world, "/_auth/login/2fa", &fields).await;
        assert!(again.status.is_client_error() && again.text().contains("role=\"alert\""), "{field} {text:?}");
        let at = if field == "recoveryCode" && !text.is_empty() { "recoveryCode-error" } else { "code-error" };
        assert!(again.text().contains(&format!("id=\"{at}\"")), "{field} {text:?}: {}", again.text());
        assert!(text.len() < 2 || !again.text().contains(text) && !again.text().contains("<b>"), "{field} {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_attempts_say_when_in_the_readers_words() {
    let world = World::with(|config| {
        config.limits.register_per_ip = Some(nullpass::config::Rate { count: 1, per: Duration::from_secs(600) });
    })
    .await;
    let mut jar = Jar::reading("de");
    let csrf = jar.get(&world, "/_auth/register").await.hidden("csrf");
    let fields = |email| [("csrf", csrf.clone()), ("email", email), ("password", PASSWORD.to_owned())];
    for (email, status) in [("a@example.com", 303), ("b@example.com", 429)] {
        let fields = fields(email.to_owned());
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = jar.submit(&world, "/_auth/register", &fields).await;
        assert_eq!(answer.status, status);
        if status == 429 {
            assert!(
                answer.text().contains("Es gab zu viele Versuche. Versuchen Sie es <strong><bdi>in 10 Minuten</bdi></strong> noch einmal."),
                "{}",
                answer.text()
            );
            assert!(answer.text().contains("data-wait=\"600\"") && answer.headers["retry-after"] == "600");
        }
    }
    // Programs are told in English, whatever they wish.
    let api = world.post(&format!("{A}/auth/register"), &json!({ "email": "c@example.com", "password": PASSWORD }));
    assert_eq!(api.header("accept-language", "de").send().await.json()["error"], "Too many attempts: try again in 10 minutes.");
}
