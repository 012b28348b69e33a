//! The pages, as a browser without scripts uses them.

use std::time::Duration;

use serde_json::json;

use crate::world::{A, Answer, PASSWORD, World};

/// A browser's cookies.
#[derive(Default)]
pub(crate) struct Jar {
    cookies: Vec<(String, String)>,
    /// What it wishes to read.
    language: Option<String>,
}

impl Jar {
    pub(crate) fn reading(language: &str) -> Self {
        Self { language: Some(language.to_owned()), ..Self::default() }
    }

    pub(crate) fn take(&mut self, answer: &Answer) {
        for line in answer.headers.get_all("set-cookie") {
            let (name, value) = line.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    pub(crate) fn line(&self) -> String {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn session(&self) -> Option<String> {
        self.cookies.iter().find(|(name, _)| name == "nullpass").map(|(_, value)| value.clone())
    }

    pub(crate) async fn get(&mut self, world: &World, path: &str) -> Answer {
        let language = self.language.as_deref().unwrap_or("en");
        let answer = world.get(path).navigate().cookie(&self.line()).header("accept-language", language).send().await;
        self.take(&answer);
        answer
    }

    pub(crate) async fn submit(&mut self, world: &World, path: &str, fields: &[(&str, &str)]) -> Answer {
        let language = self.language.as_deref().unwrap_or("en");
        let answer = world.ask("POST", path).form(fields).cookie(&self.line()).header("accept-language", language).send().await;
        self.take(&answer);
        answer
    }

    pub(crate) async fn sign_in(&mut self, world: &World, email: &str, rd: &str) -> Answer {
        let page = self.get(world, &format!("/_auth/login?prompt=login&rd={rd}")).await;
        let (csrf, rd) = (page.hidden("csrf"), page.hidden("rd"));
        self.submit(world, "/_auth/login", &[("csrf", &csrf), ("rd", &rd), ("email", email), ("password", PASSWORD)]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_leads_back_and_nowhere_else() {
    // RED-1, SES-1
    let world = World::new().await;
    world.register("a@example.com").await;
    let mut jar = Jar::default();
    let done = jar.sign_in(&world, "a@example.com", "/x%3Fa%3Db").await;
    assert_eq!((done.status.as_u16(), done.location()), (303, "/x?a=b"));
    let first = jar.session().unwrap();
    assert!(world.is_good(&first).await);
    let away = jar.sign_in(&world, "a@example.com", "//evil.example").await;
    assert_eq!(away.location(), "/");
    assert!(!world.is_good(&first).await && world.is_good(&jar.session().unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_keeps_what_was_typed_but_the_password() {
    // XSS-2
    let world = World::new().await;
    let mut jar = Jar::default();
    let page = jar.get(&world, "/_auth/login?rd=/x").await;
    let csrf = page.hidden("csrf");
    let email = "\"><script>alert(1)</script>@example.com";
    let again =
        jar.submit(&world, "/_auth/login", &[("csrf", &csrf), ("rd", "/x"), ("email", email), ("password", "hunter2hunter2")]).await;
    assert_eq!(again.status, 400);
    assert!(again.text().contains("&#60;script&#62;") && !again.text().contains("hunter2") && again.hidden("rd") == "/x");
    assert!(again.text().contains("href=\"#email\"") && again.text().contains("role=\"alert\""));
    let wrong = jar
        .submit(&world, "/_auth/login", &[("csrf", &again.hidden("csrf")), ("email", "a@example.com"), ("password", "hunter2hunter2")])
        .await;
    assert_eq!(wrong.status, 401);
    assert!(jar.session().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_are_taken_from_our_own_pages_only() {
    // Cross-cutting 4, login CSRF too
    let world = World::new().await;
    world.register("a@example.com").await;
    let mut jar = Jar::default();
    let csrf = jar.get(&world, "/_auth/login").await.hidden("csrf");
    let fields = [("csrf", csrf.as_str()), ("email", "a@example.com"), ("password", PASSWORD)];
    // Another browser, no cookie at all, no token, another form's token, another site.
    let mut other = Jar::default();
    other.get(&world, "/_auth/login").await;
    let refused = other.submit(&world, "/_auth/login", &fields).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("value=\"a@example.com\"") && !refused.text().contains(PASSWORD));
    let mut fresh = Jar::default();
    assert_eq!(fresh.submit(&world, "/_auth/login", &fields).await.status, 403);
    assert_eq!(jar.submit(&world, "/_auth/login", &fields[1..]).await.status, 403);
    assert_eq!(jar.submit(&world, "/_auth/register", &fields).await.status, 403);
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    for (name, value) in
        [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("origin", "https://evil.example"), ("origin", "null")]
    {
        let form = world.ask("POST", "/_auth/login").header("content-type", "application/x-www-form-urlencoded").cookie(&jar.line());
        let answer = form.header(name, value).navigate().bytes(body.clone()).send().await;
        assert_eq!(answer.status, 403, "{name}: {value}");
        assert!(answer.cookie("nullpass").is_none());
    }
    // The page that came back works at once.
    let retry = [("csrf", &*fresh.submit(&world, "/_auth/login", &fields).await.hidden("csrf")), fields[1], fields[2]];
    assert_eq!(fresh.submit(&world, "/_auth/login", &retry).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_step_belongs_to_its_browser() {
    // JWT-2, NP-1
    let world = World::new().await;
    let (secret, codes) = world.enrol(&world.register("a@example.com").await).await;
    let mut jar = Jar::default();
    let step = jar.sign_in(&world, "a@example.com", "/after").await;
    assert_eq!(step.status, 200);
    assert!(jar.session().is_none());
    let (csrf, pending) = (step.hidden("csrf"), step.hidden("pending"));
    // The API does not take a form's pending token, nor a form the API's.
    let code = world.next_code(&secret);
    let api = world.post(&format!("{A}/auth/login/2fa"), &json!({ "pendingToken": pending, "verificationCode": code })).send().await;
    api.refused(401, "pending_expired");
    let mut other = Jar::default();
    let theirs = other.sign_in(&world, "a@example.com", "/").await.hidden("csrf");
    let stolen = other.submit(&world, "/_auth/login/2fa", &[("csrf", &theirs), ("pending", &pending), ("code", &code)]).await;
    assert_eq!(stolen.status, 401);
    assert!(other.session().is_none());
    let wrong = jar
        .submit(
            &world,
            "/_auth/login/2fa",
            &[("csrf", &csrf), ("rd", "/after"), ("pending", &pending), ("code", &world.wrong_code(&secret))],
        )
        .await;
    assert_eq!((wrong.status.as_u16(), wrong.hidden("rd").as_str()), (401, "/after"));
    let done = jar
        .submit(
            &world,
            "/_auth/login/2fa",
            &[("csrf", &wrong.hidden("csrf")), ("rd", "/after"), ("pending", &wrong.hidden("pending")), ("code", &code)],
        )
        .await;
    assert_eq!((done.status.as_u16(), done.location()), (303, "/after"), "{done:?}");
    // By a recovery code, which works once.
    for expected in [303, 401] {
        let mut jar = Jar::default();
        let step = jar.sign_in(&world, "a@example.com", "/").await;
        let fields = [("csrf", &*step.hidden("csrf")), ("pending", &*step.hidden("pending")), ("code", ""), ("recoveryCode", &*codes[0])];
        assert_eq!(jar.submit(&world, "/_auth/login/2fa", &fields).await.status, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_setting_up_and_signing_out() {
    // SES-3
    let world = World::new().await;
    let mut jar = Jar::default();
    let csrf = jar.get(&world, "/_auth/register").await.hidden("csrf");
    let short = jar
        .submit(&world, "/_auth/register", &[("csrf", &csrf), ("email", "a@example.com"), ("displayName", "Ada"), ("password", "short")])
        .await;
    assert_eq!(short.status, 400);
    assert!(short.text().contains("value=\"Ada\"") && short.text().contains("The password"));
    let done = jar
        .submit(&world, "/_auth/register", &[("csrf", &csrf), ("email", "a@example.com"), ("displayName", ""), ("password", PASSWORD)])
        .await;
    assert_eq!(done.status, 303, "{done:?}");
    let page = jar.get(&world, "/_auth/account").await;
    assert!(page.status == 200 && page.text().contains("a@example.com"));
    let old = jar.session().unwrap();
    let csrf = jar.get(&world, "/_auth/logout").await.hidden("csrf");
    assert!(world.is_good(&old).await, "asking signs nobody out");
    assert_eq!(jar.submit(&world, "/_auth/logout", &[("csrf", "x")]).await.status, 403);
    assert_eq!(jar.submit(&world, "/_auth/logout", &[("csrf", &csrf)]).await.status, 200);
    assert!(jar.session().is_none() && !world.is_good(&old).await);
    assert_eq!(
        world.get("/_auth/account").navigate().cookie(&format!("nullpass={old}")).send().await.location(),
        "/_auth/login?rd=%2F_auth%2Faccount"
    );

    let code = world.auth.new_setup_code(world.now()).await.unwrap();
    let link = format!("/_auth/setup?code={}", code.expose());
    let page = jar.get(&world, &link).await;
    let fields = [("csrf", &*page.hidden("csrf")), ("code", code.expose()), ("email", "root@example.com"), ("password", PASSWORD)];
    assert_eq!(jar.submit(&world, "/_auth/setup", &fields).await.status, 303);
    assert!(jar.get(&world, "/_auth/account").await.text().contains("nullpass-admin"));
    let spent = jar.get(&world, &link).await;
    assert!(spent.status == 403 && !spent.text().contains("name=\"password\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn setting_up_a_second_factor_by_page() {
    // ENR-1
    let world = World::new().await;
    world.register("a@example.com").await;
    let mut jar = Jar::default();
    jar.sign_in(&world, "a@example.com", "/").await;
    world.clock.advance(Duration::from_secs(601));
    let csrf = jar.get(&world, "/_auth/account/2fa?rd=/deep").await.hidden("csrf");
    let stale = jar.submit(&world, "/_auth/account/2fa", &[("csrf", &csrf), ("rd", "/deep")]).await;
    assert_eq!(stale.status, 303);
    let page = jar.get(&world, stale.location()).await;
    let fields = [("csrf", &*page.hidden("csrf")), ("rd", &*page.hidden("rd")), ("password", PASSWORD)];
    let back = jar.submit(&world, "/_auth/reauth", &fields).await;
    assert_eq!((back.status.as_u16(), back.location()), (303, "/_auth/account/2fa?rd=%2Fdeep"));
    let csrf = jar.get(&world, back.location()).await.hidden("csrf");
    let shown = jar.submit(&world, "/_auth/account/2fa", &[("csrf", &csrf), ("rd", "/deep")]).await;
    assert!(shown.text().contains("<svg "));
    let secret: String = shown.text().split("<code>").nth(1).unwrap().split('<').next().unwrap().split(' ').collect();
    let wrong = jar.submit(&world, "/_auth/account/2fa", &[("csrf", &csrf), ("rd", "/deep"), ("code", &world.wrong_code(&secret))]).await;
    assert!(wrong.status == 401 && !wrong.text().contains(&secret));
    let done = jar.submit(&world, "/_auth/account/2fa", &[("csrf", &csrf), ("rd", "/deep"), ("code", &world.code(&secret))]).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(done.text().matches("<li><code>").count(), 10);
    assert!(done.text().contains("href=\"/deep\""));
    assert!(jar.get(&world, "/_auth/account/2fa").await.text().contains("has a second factor"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_style_sheet_is_the_only_thing_that_is_cached() {
    let world = World::with(|config| config.ui.accent = "#aa3300".into()).await;
    let page = world.get("/_auth/login").send().await;
    let href = page.text().split("rel=\"stylesheet\" href=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let style = world.get(&href).send().await;
    assert_eq!(style.headers["cache-control"], "public, max-age=31536000, immutable");
    assert!(style.text().contains("--accent:#aa3300"));
    assert_eq!(world.get("/_auth/static/other.css").send().await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_registration_has_no_form() {
    let world = World::with(|config| config.accounts.registration = nullpass::config::Registration::Closed).await;
    let page = world.get("/_auth/register").navigate().send().await;
    assert!(page.status == 403 && !page.text().contains("name=\"password\""));
    world
        .post(&format!("{A}/auth/register"), &json!({ "email": "a@example.com", "password": PASSWORD }))
        .send()
        .await
        .refused(403, "registration_closed");
    let worker = world.get("/_auth/login").header("service-worker", "script").send().await;
    assert_eq!(worker.status, 403);
}
