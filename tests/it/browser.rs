//! Browsers: pages, forms, where they lead, and other sites that use them.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::{Answer, PASSWORD, Server};

/// Keeps cookies, and says where its requests come from.
pub(crate) struct Browser<'a> {
    server: &'a Server,
    cookies: BTreeMap<String, String>,
}

/// A hidden field of a page.
pub(crate) fn field(page: &Answer, name: &str) -> String {
    let text = page.text();
    let start = text.find(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("no {name} in {text}"));
    text[start..].split("value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

impl<'a> Browser<'a> {
    pub(crate) fn new(server: &'a Server) -> Self {
        Self { server, cookies: BTreeMap::new() }
    }

    /// Keeps a cookie, or throws it away.
    pub(crate) fn set(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.cookies.insert(name.to_owned(), value.to_owned()),
            None => self.cookies.remove(name),
        };
    }

    /// Throws all cookies away.
    pub(crate) fn clear(&mut self) {
        self.cookies.clear();
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    pub(crate) async fn send(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let mut all = fields.to_vec();
        if !cookies.is_empty() {
            all.push(("cookie", &cookies));
        }
        let answer = self.server.send(method, target, &all, body.as_bytes()).await;
        for line in answer.all("set-cookie") {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name)
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned())
            };
        }
        answer
    }

    /// Shows a page.
    pub(crate) async fn page(&mut self, target: &str) -> Answer {
        let fields = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("sec-fetch-site", "none")];
        self.send("GET", target, &fields, "").await
    }

    /// Shows a page and sends its form.
    pub(crate) async fn submit(&mut self, target: &str, fields: &[(&str, &str)]) -> Answer {
        self.submit_at(target, target.split('?').next().unwrap(), fields).await
    }

    /// Shows a page and sends its form elsewhere.
    pub(crate) async fn submit_at(&mut self, page: &str, target: &str, fields: &[(&str, &str)]) -> Answer {
        let shown = self.page(page).await.is(200);
        self.submit_shown(&shown, target, fields).await
    }

    /// Sends the form of a page that was shown.
    pub(crate) async fn submit_shown(&mut self, shown: &Answer, target: &str, fields: &[(&str, &str)]) -> Answer {
        let csrf = field(shown, "csrf");
        self.post(target, &[fields, &[("csrf", csrf.as_str())]].concat(), "same-origin").await
    }

    pub(crate) async fn post(&mut self, target: &str, fields: &[(&str, &str)], site: &str) -> Answer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let head = [
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-site", site),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        self.send("POST", target, &head, &body).await
    }
}

const LOGIN: [(&str, &str); 2] = [("email", "ada@example.com"), ("password", PASSWORD)];

// XSS-1: script in the application does not walk through a person's own pages, whose forms take the password of a while ago.
#[tokio::test]
async fn a_persons_own_pages_are_for_people() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let mut browser = Browser::new(&server);
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    let csrf = field(&browser.page("/_auth/account/2fa").await.is(200), "csrf");
    let body = format!("csrf={csrf}");
    for (mode, dest) in [("cors", "empty"), ("same-origin", "empty"), ("no-cors", "image")] {
        let script = [("sec-fetch-mode", mode), ("sec-fetch-dest", dest), ("sec-fetch-site", "same-origin"), ("accept", "text/html")];
        for page in ["/_auth/account", "/_auth/account/2fa", "/_auth/account/tokens/new", "/_auth/reauth"] {
            let refused = browser.send("GET", page, &script, "").await.is(403);
            assert!(refused.code() == "cross_site" && !refused.text().contains("csrf"), "{page}");
        }
        let sent = [&script[..], &[("content-type", "application/x-www-form-urlencoded")]].concat();
        browser.send("POST", "/_auth/account/2fa", &sent, &body).await.is(403);
    }
    browser.post("/_auth/account/2fa", &[("csrf", &csrf)], "same-origin").await.is(200);
    // A program that is no browser, and a browser that does not say.
    browser.send("GET", "/_auth/account", &[("accept", "text/html")], "").await.is(200);
}

// Cross-cutting 8: a style may be kept by anybody, so nothing of anybody's comes with it; who is over the limit can read the page that says so.
#[tokio::test]
async fn styles_are_the_same_for_everybody() {
    let server = Server::start("[limits]\nrequests_per_ip = \"6/m\"\n").await;
    server.account("ada@example.com", &[]).await;
    let mut browser = Browser::new(&server);
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    let good = format!("nullpass={}", browser.cookie("nullpass").unwrap());
    let page = server.get("/_auth/logout", &[("accept", "text/html"), ("cookie", "nullpass=rubbish")]).await.is(200);
    assert!(!page.all("set-cookie").is_empty(), "a page takes it away");
    let style = page.text().split("stylesheet\" href=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    for _ in 0..3 {
        server.get("/", &[]).await;
    }
    server.get("/", &[("accept", "text/html")]).await.is(429);
    for cookie in ["nullpass=rubbish", "nullpass=a; nullpass=b", &good] {
        let answer = server.get(&style, &[("cookie", cookie)]).await.is(200);
        assert_eq!(answer.field("cache-control"), "public, max-age=31536000, immutable");
        assert!(answer.all("set-cookie").is_empty(), "{cookie}");
        for (method, fields, status) in
            [("GET", [("cookie", cookie), ("service-worker", "script")], 403), ("POST", [("cookie", cookie), ("x", "y")], 405)]
        {
            let refused = server.send(method, &style, &fields, b"").await.is(status);
            assert!(refused.all("set-cookie").is_empty(), "{method} {cookie}");
        }
    }
    server.get(&style.replace(".css", ".js"), &[]).await.is(429);
}

// Cross-cutting 4: a form is taken from a page of ours in this browser alone, sign-in included.
#[tokio::test]
async fn forms_of_others_do_nothing() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let mut browser = Browser::new(&server);
    browser.post("/_auth/login", &LOGIN, "same-origin").await.is(403);
    let csrf = field(&browser.page("/_auth/login").await, "csrf");
    let fields = [LOGIN[0], LOGIN[1], ("csrf", csrf.as_str())];
    for site in ["cross-site", "same-site"] {
        browser.post("/_auth/login", &fields, site).await.is(403);
    }
    let mut other = Browser::new(&server);
    other.page("/_auth/login").await;
    other.post("/_auth/login", &fields, "same-origin").await.is(403);
    assert!(browser.cookie("nullpass").is_none() && other.cookie("nullpass").is_none());
    browser.post("/_auth/login", &fields, "same-origin").await.is(303);
    let session = browser.cookie("nullpass").unwrap().to_owned();
    // Signing out needs the form too; the page alone does nothing.
    browser.post("/_auth/logout", &[], "same-origin").await;
    browser.page("/_auth/logout").await.is(200);
    let foreign = field(&other.page("/_auth/login").await, "csrf");
    browser.post("/_auth/logout", &[("csrf", &foreign)], "same-origin").await;
    assert_eq!(server.status_by_cookie(&session).await, 200);
    browser.submit("/_auth/logout", &[]).await.is(200);
    assert_eq!(server.status_by_cookie(&session).await, 401);
}

// Cross-cutting 4: the API by cookie takes JSON from our own origin.
#[tokio::test]
async fn the_api_by_cookie_is_for_our_own_pages() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let token = server.log_in_by_cookie("ada@example.com").await;
    let cookie = format!("nullpass={token}");
    let json = ("content-type", "application/json");
    let body = b"{\"displayName\":\"Eve\"}";
    for (fields, status) in [
        (vec![json], 403),
        (vec![json, ("sec-fetch-site", "cross-site")], 403),
        (vec![json, ("sec-fetch-site", "same-site")], 403),
        (vec![json, ("origin", "https://evil.example")], 403),
        (vec![json, ("origin", "null")], 403),
        (vec![("content-type", "text/plain"), ("sec-fetch-site", "same-origin")], 415),
        (vec![("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "same-origin")], 415),
        (vec![("sec-fetch-site", "same-origin")], 415),
        (vec![json, ("sec-fetch-site", "same-origin")], 200),
        (vec![json, ("origin", "http://app.example.com")], 200),
    ] {
        let all: Vec<_> = fields.iter().copied().chain([("cookie", cookie.as_str())]).collect();
        let answer = server.send("PATCH", "/_auth/api/auth/me", &all, body).await;
        assert_eq!(answer.status, status, "{fields:?} {}", answer.text());
    }
    // Nobody puts a session into a browser from another site.
    let login = json!({ "email": "ada@example.com", "password": PASSWORD, "cookie": true }).to_string();
    let answer = server.send("POST", "/_auth/api/auth/login", &[json, ("sec-fetch-site", "cross-site")], login.as_bytes()).await.is(403);
    assert!(answer.cookie("nullpass").is_none());
}

// Contract 2: a page of another site does not act with somebody's cookie, nor open a channel.
#[tokio::test]
async fn other_sites_do_not_act_with_the_cookie() {
    let rules = "[[rules]]\npath = \"/hook/**\"\npolicy = \"authenticated\"\ncross_site = true\n[[rules]]\npath = \"/public/**\"\npolicy = \"public\"\n";
    let server = Server::start(rules).await;
    server.account("ada@example.com", &[]).await;
    let token = server.log_in_by_cookie("ada@example.com").await;
    let (cookie, bearer) = (format!("nullpass={token}"), format!("Bearer {token}"));
    for from in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")]
    {
        assert_eq!(server.send("POST", "/x", &[("cookie", &cookie), from], b"").await.is(403).code(), "cross_site");
        let upgrade = [("cookie", cookie.as_str()), from, ("connection", "upgrade"), ("upgrade", "websocket")];
        server.get("/ws", &upgrade).await.is(403);
        server.upstream.take();
        server.get("/x", &[("cookie", &cookie), from]).await.is(200);
        server.send("POST", "/x", &[("authorization", &bearer), from], b"").await.is(200);
        server.send("POST", "/hook/x", &[("cookie", &cookie), from], b"").await.is(200);
        assert!(server.upstream.take().iter().all(|request| request.one("x-forwarded-user").is_some()));
        server.send("POST", "/public/x", &[("cookie", &cookie), from], b"").await.is(200);
        assert_eq!(server.upstream.only().one("x-forwarded-user"), None, "as if there were no cookie");
    }
    server.send("POST", "/x", &[("cookie", &cookie), ("sec-fetch-site", "same-origin")], b"").await.is(200);
    server.send("POST", "/x", &[("cookie", &cookie), ("origin", "http://app.example.com")], b"").await.is(200);
    server.send("POST", "/x", &[("cookie", &cookie)], b"").await.is(200);
}

// Cross-cutting 4: a browser that was told a password sends it unasked too, and no `SameSite` keeps it back.
#[tokio::test]
async fn other_sites_do_not_act_with_a_password() {
    let server = Server::start("[[rules]]\npath = \"/hook/**\"\npolicy = \"authenticated\"\nbasic = true\ncross_site = true\n[[rules]]\npath = \"/**\"\npolicy = \"authenticated\"\nbasic = true\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let made = json!({ "name": "t", "currentPassword": PASSWORD });
    let made = server.api("POST", "/auth/tokens", Some(&token), &made).await.is(201).json();
    for password in [PASSWORD, made["token"].as_str().unwrap()] {
        let credential = crate::support::basic("ada@example.com", password);
        let of = ("authorization", credential.as_str());
        for from in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "same-site")] {
            assert_eq!(server.send("POST", "/dav/x", &[of, from], b"").await.is(403).code(), "cross_site");
            server.get("/ws", &[of, from, ("connection", "upgrade"), ("upgrade", "websocket")]).await.is(403);
            assert!(server.upstream.take().is_empty());
            server.get("/dav/x", &[of, from]).await.is(200);
            server.send("POST", "/hook/x", &[of, from], b"").await.is(200);
            server.upstream.take();
        }
        // Programs say nothing about where they come from.
        server.send("POST", "/dav/x", &[of], b"").await.is(200);
        server.send("POST", "/dav/x", &[of, ("sec-fetch-site", "same-origin")], b"").await.is(200);
        server.upstream.take();
    }
    // A wrong one is told so, wherever it comes from.
    let wrong = crate::support::basic("ada@example.com", "np_wrong");
    server.send("POST", "/dav/x", &[("authorization", &wrong), ("origin", "null")], b"").await.is(401);
}

// RED-1: signing in leads nowhere else.
#[tokio::test]
async fn signing_in_leads_to_our_own_origin() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    for rd in [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example",
        "https:evil.example",
        "javascript:alert(1)",
        "/%09/evil.example",
        "/%2f/evil.example",
        "/%5cevil.example",
        "/\t/evil.example",
        "/%0d%0aLocation:%20https://evil.example",
        "//evil.example/%2e%2e",
        "/.//evil.example",
        "/..//evil.example",
        "/a/..//evil.example",
        "http://app.example.com@evil.example",
        "http://app.example.com.evil.example",
        "/\u{200b}/evil.example",
        " //evil.example",
        "@evil.example",
    ] {
        let page = format!("/_auth/login?{}", form_urlencoded::Serializer::new(String::new()).append_pair("rd", rd).finish());
        let mut browser = Browser::new(&server);
        let shown = browser.page(&page).await.is(200);
        assert_eq!(field(&shown, "rd"), "/", "{rd:?}");
        let answer = browser.submit_shown(&shown, "/_auth/login", &[LOGIN[0], LOGIN[1], ("rd", rd)]).await.is(303);
        assert_eq!(answer.field("location"), "/", "{rd:?}");
    }
    let mut browser = Browser::new(&server);
    let answer = browser.page("/reports?year=2026&x=%2F%2Fy").await.is(302);
    let login = answer.field("location").to_owned();
    let shown = browser.page(&login).await.is(200);
    let rd = field(&shown, "rd").replace("&#38;", "&").replace("&amp;", "&");
    let answer = browser.submit_shown(&shown, "/_auth/login", &[LOGIN[0], LOGIN[1], ("rd", &rd)]).await.is(303);
    assert_eq!(answer.field("location"), "/reports?year=2026&x=%2F%2Fy");
}

// XSS-1, XSS-2: pages run no script, show nothing of others' making as markup, and can't be framed.
#[tokio::test]
async fn pages_run_nothing() {
    let server = Server::start("[accounts]\nregistration = \"open\"\n").await;
    let evil = "\"><script>alert(1)</script>";
    server.account_named("ada@example.com", Some("<img src=x onerror=alert(1)>"), &[]).await;
    let mut browser = Browser::new(&server);
    let encoded = form_urlencoded::Serializer::new(String::new()).append_pair("rd", &format!("/{evil}")).append_pair(evil, evil).finish();
    let mut pages = Vec::new();
    for path in ["login", "register", "logout", "setup", "nothing"] {
        let target = format!("/_auth/{path}?{encoded}&code=x");
        let fields = [("referer", evil), ("user-agent", evil), ("accept", "text/html"), ("x-request-id", evil)];
        pages.push((path, server.get(&target, &fields).await));
    }
    let failed = browser.submit("/_auth/login", &[("email", evil), ("password", "x"), ("rd", evil)]).await;
    pages.push(("login again", failed));
    browser.submit("/_auth/login", &LOGIN).await.is(303);
    for path in ["account", "account/2fa", "reauth", "logout"] {
        pages.push((path, browser.page(&format!("/_auth/{path}?{encoded}")).await));
    }
    for (path, page) in pages {
        let (text, lower) = (page.text(), page.text().to_ascii_lowercase());
        // The script of ours, on pages where it does something, and no other.
        let (scripts, own) = (text.matches("<script").count(), text.matches("<script src=\"/_auth/static/").count());
        assert_eq!(scripts, own, "{path}: {text}");
        assert_eq!(own > 0, page.field("content-security-policy").contains("script-src 'self';"), "{path}: {text}");
        assert!(!text.contains("alert(1)</script") && !text.contains("<img src=x") && !lower.contains("javascript:"), "{path}: {text}");
        for handler in [" onerror=", " onclick=", " onload=", " style="] {
            assert!(!lower.contains(&format!("\"{handler}")), "{path}: {handler}");
        }
        let policy = page.field("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(
            policy.contains("form-action 'self'") && policy.contains("base-uri 'none'") && !policy.contains("unsafe"),
            "{path}: {policy}"
        );
        assert_eq!((page.field("x-frame-options"), page.field("x-content-type-options")), ("DENY", "nosniff"), "{path}");
        assert!(page.field("cache-control").contains("no-store"), "{path}");
        assert!(page.field("content-type").starts_with("text/html"), "{path}");
    }
}

// Cross-cutting 5: the cookie has every attribute there is, and over https the prefix that ties it to this host.
#[tokio::test]
async fn cookies_have_every_attribute() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "cookie": true });
    let answer = server.api("POST", "/auth/login", None, &body).await.is(200);
    for line in answer.all("set-cookie") {
        assert!(
            line.contains("HttpOnly") && line.contains("SameSite=Lax") && line.contains("Path=/") && !line.contains("Domain"),
            "{line}"
        );
    }
    let server = Server::start("[server]\npublic_url = \"https://app.example.com\"\n").await;
    server.account("ada@example.com", &[]).await;
    let answer = server.api("POST", "/auth/login", None, &body).await.is(200);
    let lines = answer.all("set-cookie");
    assert_eq!(lines.len(), 2);
    for line in lines {
        assert!(line.starts_with("__Host-nullpass") && line.contains("; Secure"), "{line}");
    }
    // Planted over plain HTTP by a neighbour, it is not read.
    let token = answer.cookie("__Host-nullpass").unwrap();
    server.get("/private", &[("cookie", &format!("nullpass={token}"))]).await.is(401);
    server.get("/private", &[("cookie", &format!("__Host-nullpass={token}"))]).await.is(200);
    server.get("/private", &[("cookie", &format!("__Host-nullpass={token}; nullpass=planted"))]).await.is(401);
}

// Contract 5: who gets a redirect, a page or JSON.
#[tokio::test]
async fn refusals_suit_who_asks() {
    let server = Server::start("").await;
    let ask = async |method: &str, fields: &[(&str, &str)]| server.send(method, "/private?x=1", fields, b"").await;
    let navigate = ("sec-fetch-mode", "navigate");
    let document = [navigate, ("sec-fetch-dest", "document")];
    let moved = ask("GET", &document).await.is(302);
    assert_eq!(moved.field("location"), "/_auth/login?rd=%2Fprivate%3Fx%3D1");
    assert_eq!(ask("GET", &[("accept", "text/html")]).await.status, 302);
    let form = ask("POST", &document).await.is(401);
    assert!(form.field("content-type").starts_with("text/html") && form.field("location").is_empty());
    let frame = ask("GET", &[navigate, ("sec-fetch-dest", "iframe")]).await.is(401);
    assert!(frame.text().contains("target=\"_top\"") && !frame.text().contains("<form"), "{}", frame.text());
    assert!(frame.field("content-security-policy").contains("; frame-ancestors 'self';"), "the application's frame shows it");
    assert_eq!(frame.field("x-frame-options"), "SAMEORIGIN");
    for fields in [
        vec![],
        vec![("accept", "text/html"), ("x-requested-with", "XMLHttpRequest")],
        vec![("accept", "text/html"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
        vec![("accept", "*/*")],
    ] {
        let answer = ask("GET", &fields).await.is(401);
        assert_eq!(answer.field("www-authenticate"), "Bearer", "{fields:?}");
        assert!(answer.json()["loginUrl"].as_str().unwrap().starts_with("/_auth/login"));
        assert!(answer.field("cache-control").contains("no-store"));
    }
}
