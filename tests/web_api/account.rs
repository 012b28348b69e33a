//! The pages of one's own account, as a browser without scripts uses them.

use std::time::Duration;

use serde_json::json;

use crate::pages::Jar;
use crate::world::{A, Answer, PASSWORD, World};

const ACCOUNT: &str = "/_auth/account";
const MINUTES: u64 = 60;
const OTHER: &str = "another-meadow-77-copper";

/// What no page may repeat as it is, nor take for a value.
const HOSTILE: [&str; 5] =
    ["<script>alert(1)</script>", "\"onload=\"alert(1)", "\u{202e}gnihtemos", "a\u{0}b", "\u{1f9d1}\u{200d}\u{1f680}\u{fe0f}"];

fn path(below: &str) -> String {
    format!("{ACCOUNT}{below}")
}

impl Jar {
    /// Shows a page of the account and sends a form of it.
    async fn send(&mut self, world: &World, page: &str, fields: &[(&str, &str)]) -> Answer {
        let shown = self.get(world, &path(page)).await;
        assert_eq!(shown.status, 200, "{page}: {shown:?}");
        let csrf = shown.hidden("csrf");
        let mut all = vec![("csrf", csrf.as_str())];
        all.extend_from_slice(fields);
        self.submit(world, &path(page), &all).await
    }

    /// A browser in which this person is signed in.
    async fn of(world: &World, email: &str) -> Self {
        let mut jar = Self::default();
        let done = jar.sign_in(world, email, "/").await;
        assert_eq!(done.status, 303, "{done:?}");
        jar
    }
}

/// A page led to another, which says so once.
async fn follow(world: &World, jar: &mut Jar, answer: &Answer) -> Answer {
    assert_eq!(answer.status, 303, "{}", answer.text());
    let page = jar.get(world, answer.location()).await;
    assert_eq!(page.status, 200);
    page
}

fn says_done(page: &Answer) -> bool {
    page.text().contains("role=\"status\"")
}

/// A form came back, because of this field.
fn is_refused(answer: &Answer, status: u16, field: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(answer.text().contains("role=\"alert\""), "{}", answer.text());
    assert!(answer.text().contains(&format!("<a href=\"#{field}\">")), "{field}: {}", answer.text());
    assert!(answer.text().contains(&format!("id=\"{field}\"")) && answer.text().contains("aria-invalid=\"true\""));
}

/// A page with its style and its script has less than 15 kB, and needs nothing else.
async fn weigh(world: &World, page: &Answer) {
    let mut weight = page.body.len();
    for begin in ["rel=\"stylesheet\" href=\"", "<script src=\""] {
        if page.text().contains(begin) {
            let file = world.get(between(page.text(), begin, "\"")).send().await;
            assert_eq!(file.status, 200);
            weight += file.body.len();
        }
    }
    assert!(weight < 15_000, "{weight}: {}", page.text());
    assert_eq!(
        page.text().matches(" src=\"").count() + page.text().matches("<link rel=\"stylesheet\"").count(),
        if page.text().contains("<script ") { 2 } else { 1 }
    );
}

/// Between the first of this and the next of that.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    text.split(begin).nth(1).unwrap_or_else(|| panic!("no {begin} in {text}")).split(end).next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_there_and_says_where_one_is() {
    let world = World::new().await;
    world.register("a@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    for below in ["", "/password", "/2fa", "/sessions", "/tokens", "/tokens/new", "/activity", "/delete"] {
        let page = jar.get(&world, &path(below)).await;
        let text = page.text();
        assert_eq!(
            (page.status.as_u16(), text.matches("<h1").count(), text.matches("aria-current=\"page\"").count()),
            (200, 1, 1),
            "{below}"
        );
        weigh(&world, &page).await;
        // Who is not signed in is led to the sign-in and back.
        let stranger = world.get(&path(below)).navigate().send().await;
        let back = stranger.location().strip_prefix("/_auth/login?rd=").unwrap().replace("%2F", "/");
        assert_eq!((stranger.status.as_u16(), back), (302, path(below)));
    }
    // Nobody is told of what an administrator could do.
    assert!(!jar.get(&world, ACCOUNT).await.text().contains("/_auth/admin"));
}

// XSS-2
#[tokio::test(flavor = "multi_thread")]
async fn the_profile_is_changed_and_bad_values_come_back() {
    let world = World::new().await;
    world.register("a@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    let done = jar.send(&world, "", &[("displayName", " Ada <L> "), ("avatar", "https://example.com/a.png")]).await;
    let page = follow(&world, &mut jar, &done).await;
    assert!(
        says_done(&page)
            && page.text().contains("value=\"Ada &#60;L&#62;\"")
            && page.text().contains("value=\"https://example.com/a.png\"")
    );
    // The picture is never fetched from here.
    assert!(!page.text().contains("<img"));
    for (name, avatar, field) in [
        ("x", "javascript:alert(1)", "avatar"),
        ("x", "data:image/png;base64,AA", "avatar"),
        ("x", "//example.com/a.png", "avatar"),
        ("x", "https://user:pw@example.com/", "avatar"),
        ("x", HOSTILE[0], "avatar"),
        (&"x".repeat(200), "", "displayName"),
        (HOSTILE[2], "", "displayName"),
        (HOSTILE[3], "", "displayName"),
    ] {
        let again = jar.send(&world, "", &[("displayName", name), ("avatar", avatar)]).await;
        is_refused(&again, 400, field);
        assert!(!again.text().contains("<script>"));
    }
    // What is odd but nothing worse is a name like any other.
    for name in [HOSTILE[0], HOSTILE[1]] {
        let done = jar.send(&world, "", &[("displayName", name), ("avatar", "")]).await;
        let page = follow(&world, &mut jar, &done).await;
        assert!(!page.text().contains("<script>") && !page.text().contains("\"onload"));
        let me = world.get(&format!("{A}/auth/me")).bearer(&jar.session().unwrap()).send().await.json();
        assert_eq!((&me["user"]["displayName"], &me["user"]["avatar"]), (&json!(name), &json!(null)));
    }
    // What was left empty is removed.
    jar.send(&world, "", &[("displayName", ""), ("avatar", "")]).await;
    let me = world.get(&format!("{A}/auth/me")).bearer(&jar.session().unwrap()).send().await.json();
    assert_eq!(me["user"]["displayName"], json!(null));
}

// SES-1, SES-3
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_ends_all_other_sessions() {
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    let before = jar.session().unwrap();
    for (current, new, status, field) in [
        ("", OTHER, 400, "currentPassword"),
        (PASSWORD, "", 400, "newPassword"),
        (PASSWORD, "short", 400, "newPassword"),
        (PASSWORD, "password1234", 400, "newPassword"),
        (PASSWORD, HOSTILE[3], 400, "newPassword"),
        (PASSWORD, &"x".repeat(2000), 400, "newPassword"),
        ("wrong-wrong-wrong", OTHER, 401, "currentPassword"),
        (HOSTILE[0], OTHER, 401, "currentPassword"),
    ] {
        let again = jar.send(&world, "/password", &[("currentPassword", current), ("newPassword", new)]).await;
        is_refused(&again, status, field);
        for typed in [current, new].into_iter().filter(|typed| typed.len() > 5) {
            assert!(!again.text().contains(&format!("value=\"{typed}")), "passwords are dropped");
        }
    }
    let done = jar.send(&world, "/password", &[("currentPassword", PASSWORD), ("newPassword", OTHER)]).await;
    let after = jar.session().unwrap();
    assert!(says_done(&follow(&world, &mut jar, &done).await));
    assert!(!world.is_good(&token).await && !world.is_good(&before).await && world.is_good(&after).await);
    world.log_in("a@example.com", json!({})).await.refused(401, "invalid_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_count_as_attempts() {
    let world = World::with(|config| config.limits.auth_per_ip = nullpass::config::Config::default().limits.auth_per_ip).await;
    world.register("a@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let wrong = [("currentPassword", "wrong-wrong-wrong"), ("newPassword", OTHER), ("password", "wrong-wrong-wrong")];
        let answer = jar.send(&world, "/password", &wrong).await;
        statuses.push(answer.status.as_u16());
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after") && answer.text().contains("name=\"newPassword\""));
        }
    }
    assert!(statuses[0] == 401 && statuses.contains(&429), "{statuses:?}");
    assert_eq!(jar.send(&world, "/delete", &[("password", PASSWORD)]).await.status, 429, "the right one has to wait too");
}

// ENR-1, NP-5
#[tokio::test(flavor = "multi_thread")]
async fn the_second_factor_is_set_up_and_turned_off() {
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    let scan = jar.send(&world, "/2fa", &[]).await;
    let text = scan.text();
    assert!(text.contains("<svg ") && text.contains("role=\"img\"") && !text.contains("data:image"));
    assert!(!text.contains("name=\"set\""), "another language would lose the key");
    weigh(&world, &scan).await;
    let groups = between(text, "<p class=\"key\"><code>", "<").to_owned();
    assert!(groups.split(' ').all(|group| group.len() == 4) && groups.split(' ').count() == 8);
    let (secret, csrf) = (groups.replace(' ', ""), scan.hidden("csrf"));
    for code in ["", "12", HOSTILE[0], &world.wrong_code(&secret)] {
        let wrong = jar.submit(&world, &path("/2fa"), &[("csrf", &csrf), ("code", code)]).await;
        is_refused(&wrong, 401, "code");
        assert!(!wrong.text().contains(&secret) && !wrong.text().contains(&groups));
    }
    let code = world.code(&secret);
    let fields = [("csrf", csrf.as_str()), ("code", code.as_str())];
    let done = jar.submit(&world, &path("/2fa"), &fields).await;
    assert_eq!((done.status.as_u16(), done.text().matches("<li><code>").count()), (200, 10), "{}", done.text());
    assert!(!world.is_good(&token).await, "the other session ended");
    // The same form again shows nothing and turns nothing.
    let again = jar.submit(&world, &path("/2fa"), &fields).await;
    assert_eq!((again.status.as_u16(), again.text().matches("<li><code>").count()), (409, 0));
    let on = jar.get(&world, &path("/2fa")).await;
    assert!(on.text().contains("10 unused recovery codes") && on.text().contains("/account/2fa/off"));

    // The file is made of what was shown, for this session only.
    let (codes, seal) = (done.hidden("codes"), done.hidden("seal"));
    let file = [("csrf", &*done.hidden("csrf")), ("codes", &*codes), ("seal", &*seal)];
    let written = jar.submit(&world, &path("/2fa/recovery-codes/file"), &file).await;
    assert_eq!((written.status.as_u16(), written.headers["content-type"].to_str().unwrap()), (200, "text/plain; charset=utf-8"));
    assert!(written.headers["content-disposition"].to_str().unwrap().starts_with("attachment;"));
    assert!(codes.split(' ').count() == 10 && codes.split(' ').all(|code| written.text().lines().any(|line| line == code)));
    let forged = [file[0], ("codes", "<script>"), file[2]];
    assert_eq!(jar.submit(&world, &path("/2fa/recovery-codes/file"), &forged).await.status, 409);

    // New codes once; the old ones are void.
    let ask = jar.get(&world, &path("/2fa/recovery-codes")).await;
    let fields = [("csrf", &*ask.hidden("csrf")), ("seen", &*ask.hidden("seen"))];
    let new = jar.submit(&world, &path("/2fa/recovery-codes"), &fields).await;
    assert_eq!((new.status.as_u16(), new.text().matches("<li><code>").count()), (200, 10));
    let again = jar.submit(&world, &path("/2fa/recovery-codes"), &fields).await;
    assert!(again.status == 409 && !again.text().contains("<li><code>") && again.text().contains("shown already"));
    let new = new.hidden("codes");
    let old = codes.split(' ').next().unwrap();
    for (recovery, code, status, field) in
        [("", "", 403, "code"), ("", "1", 401, "code"), (old, "", 401, "recoveryCode"), (HOSTILE[0], "", 401, "recoveryCode")]
    {
        is_refused(&jar.send(&world, "/2fa/off", &[("code", code), ("recoveryCode", recovery)]).await, status, field);
    }
    let off = jar.send(&world, "/2fa/off", &[("code", ""), ("recoveryCode", new.split(' ').next().unwrap())]).await;
    assert!(says_done(&follow(&world, &mut jar, &off).await));
    let me = world.get(&format!("{A}/auth/me")).bearer(&jar.session().unwrap()).send().await.json();
    assert_eq!(me["user"]["twoFactorEnabled"], false);
    // What is about a factor that there is not leads to where one is set up.
    for below in ["/2fa/off", "/2fa/recovery-codes"] {
        assert_eq!(jar.get(&world, &path(below)).await.location(), path("/2fa"));
    }
}

// SES-3
#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_shown_to_their_owner_and_ended() {
    let world = World::new().await;
    let first = world.register("a@example.com").await;
    let other = world.register("b@example.com").await;
    let firefox = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0";
    let body = json!({ "email": "a@example.com", "password": PASSWORD });
    let phone = world.post(&format!("{A}/auth/login"), &body).header("user-agent", firefox).send().await.token();
    let mut jar = Jar::of(&world, "a@example.com").await;
    let page = jar.get(&world, &path("/sessions")).await;
    assert_eq!(page.text().matches("<h2 id=\"s").count(), 3);
    assert!(
        page.text().contains("Firefox on Windows")
            && page.text().contains("127.0.0.1")
            && page.text().matches("class=\"badge\"").count() == 1
    );
    let firefox = between(page.text().split("Firefox on Windows").nth(1).unwrap(), "name=\"id\" value=\"", "\"").to_owned();
    let csrf = page.hidden("csrf");
    let ended = jar.submit(&world, &path("/sessions"), &[("csrf", &csrf), ("id", &firefox)]).await;
    assert!(says_done(&follow(&world, &mut jar, &ended).await));
    assert!(!world.is_good(&phone).await && world.is_good(&first).await);
    // Somebody else's is not there, nor is what has ended, nor what never was.
    let theirs = world.get(&format!("{A}/auth/sessions")).bearer(&other).send().await.json();
    for id in [theirs["sessions"][0]["id"].as_str().unwrap(), &firefox, "", "1", HOSTILE[0]] {
        let nothing = jar.submit(&world, &path("/sessions"), &[("csrf", &csrf), ("id", id)]).await;
        assert!(follow(&world, &mut jar, &nothing).await.text().contains("has ended already"), "{id}");
    }
    assert!(world.is_good(&other).await && world.is_good(&first).await);
    let others = jar.submit(&world, &path("/sessions"), &[("csrf", &csrf), ("others", "1")]).await;
    assert!(says_done(&follow(&world, &mut jar, &others).await));
    assert!(!world.is_good(&first).await && world.is_good(&other).await);
    let only = jar.get(&world, &path("/sessions")).await;
    assert!(only.text().matches("<h2 id=\"s").count() == 1 && !only.text().contains("name=\"others\""));
    // Its own, by hand: signed out.
    let own = world.get(&format!("{A}/auth/sessions")).bearer(&jar.session().unwrap()).send().await.json();
    let own = own["sessions"][0]["id"].as_str().unwrap();
    let out = jar.submit(&world, &path("/sessions"), &[("csrf", &csrf), ("id", own)]).await;
    assert_eq!((out.status.as_u16(), out.location(), jar.session()), (303, "/_auth/logout", None));
}

/// The names of what can be ended on a page.
fn ids(page: &Answer) -> Vec<String> {
    page.text().split("name=\"id\" value=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

/// Every page of a list, by its links.
async fn all_pages(world: &World, jar: &mut Jar, below: &str) -> Vec<Answer> {
    let mut pages = vec![jar.get(world, &path(below)).await];
    while pages.last().unwrap().text().contains("rel=\"next\"") {
        let before = pages.last().unwrap().text().split("\" rel=\"next\"").next().unwrap();
        let page = jar.get(world, before.rsplit("href=\"").next().unwrap()).await;
        assert!(page.status == 200 && page.text().contains("rel=\"prev\""));
        pages.push(page);
    }
    pages
}

// Cross-cutting 5
#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_stand_on_several_pages() {
    let world = World::new().await;
    world.register("a@example.com").await;
    for number in 0..24 {
        let agent = format!("{}{number:02}/1 (Windows Phone)", "x".repeat(30));
        let body = json!({ "email": "a@example.com", "password": PASSWORD });
        assert_eq!(world.post(&format!("{A}/auth/login"), &body).header("user-agent", &agent).send().await.status, 200);
    }
    for language in ["en", "de", "fr", "es", "pt", "ja", "zh"] {
        let mut jar = Jar::reading(language);
        jar.sign_in(&world, "a@example.com", "/").await;
        let page = jar.get(&world, &path("/sessions?page=2")).await;
        assert!(page.text().contains(&format!("<html lang=\"{language}\"")));
        weigh(&world, &page).await;
        let out = jar.get(&world, "/_auth/logout").await.hidden("csrf");
        jar.submit(&world, "/_auth/logout", &[("csrf", &out), ("rd", "/")]).await;
    }
    let mut jar = Jar::of(&world, "a@example.com").await;
    let pages = all_pages(&world, &mut jar, "/sessions").await;
    let every: Vec<String> = pages.iter().flat_map(ids).collect();
    assert_eq!((pages.len(), every.len(), every.iter().collect::<std::collections::BTreeSet<_>>().len()), (6, 25, 25));
    for (number, page) in pages.iter().enumerate() {
        assert_eq!(page.text().contains("class=\"badge\""), number == 0, "this one is the first of all");
        assert!(page.text().contains("name=\"others\"") && page.text().contains(&format!("<span>{} / 6</span>", number + 1)));
        weigh(&world, page).await;
    }
    assert!(!pages[0].text().contains("rel=\"prev\"") && pages[0].text().find("badge") < pages[0].text().find("name=\"id\""));
    // Beyond the end is the last; what is no number, the first.
    for (asked, shown) in [("6", 5), ("7", 5), ("99999", 5), ("0", 0), ("-1", 0), ("x", 0), ("", 0), ("2%00", 0)] {
        assert_eq!(ids(&jar.get(&world, &path(&format!("/sessions?page={asked}"))).await), ids(&pages[shown]), "{asked}");
    }
    // Who ends one stays on the page, also when a form of it is not taken.
    let (third, csrf) = (ids(&pages[2]), pages[2].hidden("csrf"));
    assert!(pages[2].text().contains("action=\"/_auth/account/sessions?page=3\""));
    let refused = jar.submit(&world, &path("/sessions?page=3"), &[("csrf", "x"), ("id", &third[0])]).await;
    assert!(refused.status == 403 && ids(&refused) == third);
    for text in ["is ended", "has ended already"] {
        let ended = jar.submit(&world, &path("/sessions?page=3"), &[("csrf", &csrf), ("id", &third[0])]).await;
        assert!(ended.location().starts_with("/_auth/account/sessions?page=3&done="), "{}", ended.location());
        let page = follow(&world, &mut jar, &ended).await;
        assert!(says_done(&page) && page.text().contains(text) && page.text().contains("<span>3 / 5</span>"), "{text}");
        assert_eq!(ids(&page)[..4], third[1..]);
    }
    // The last page has lost its last one.
    for id in ids(&pages[4]) {
        let ended = jar.submit(&world, &path("/sessions?page=5"), &[("csrf", &csrf), ("id", &id)]).await;
        let page = follow(&world, &mut jar, &ended).await;
        assert!(says_done(&page) && (page.text().contains("<span>5 / 5</span>") || page.text().contains("<span>4 / 4</span>")));
    }
    // All others, from wherever.
    let others = jar.submit(&world, &path("/sessions?page=4"), &[("csrf", &csrf), ("others", "1")]).await;
    let only = follow(&world, &mut jar, &others).await;
    assert!(says_done(&only) && ids(&only).is_empty() && !only.text().contains("<nav class=\"pages\""));
}

// Cross-cutting 5
#[tokio::test(flavor = "multi_thread")]
async fn many_api_tokens_stand_on_several_pages() {
    let world = World::new().await;
    world.register("a@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    let bearer = jar.session().unwrap();
    let list = |entry: &dyn Fn(usize) -> String| (0..32).map(entry).collect::<Vec<_>>();
    let limits = json!({
        "name": "\"".repeat(64),
        "expiresAt": "2031-12-31T23:59:59Z",
        "paths": list(&|n| format!("/{}{n}/**", "<".repeat(240))),
        "methods": list(&|n| format!("PROPFIND{}", "X".repeat(n * 7))),
        "networks": list(&|n| format!("2001:db8:1111:2222:3333:4444:5555:66{n:02}/128")),
    });
    for _ in 0..25 {
        let made = world.post(&format!("{A}/auth/tokens"), &limits).bearer(&bearer).send().await;
        assert_eq!(made.status, 201, "{}", made.text());
    }
    let pages = all_pages(&world, &mut jar, "/tokens").await;
    let every: Vec<String> = pages.iter().flat_map(ids).collect();
    assert_eq!((pages.len(), every.len(), every.iter().collect::<std::collections::BTreeSet<_>>().len()), (5, 25, 25));
    assert!(pages[0].text().contains("and 31 more") && pages[0].text().contains("…"), "{}", pages[0].text());
    for language in ["en", "de", "fr", "es", "pt", "ja", "zh"] {
        let mut reader = Jar::reading(language);
        reader.sign_in(&world, "a@example.com", "/").await;
        weigh(&world, &reader.get(&world, &path("/tokens?page=2")).await).await;
    }
    assert_eq!(ids(&jar.get(&world, &path("/tokens?page=77")).await), ids(&pages[4]));
    let (fourth, csrf) = (ids(&pages[3]), pages[3].hidden("csrf"));
    assert!(pages[3].text().contains("action=\"/_auth/account/tokens/end?page=4\""));
    // A quarter of an hour later it asks for the password first, and then leads back to the page.
    world.clock.advance(Duration::from_secs(15 * MINUTES));
    for (password, status) in [("", 403), (PASSWORD, 303)] {
        let fields = [("csrf", csrf.as_str()), ("id", &fourth[1]), ("password", password)];
        let answer = jar.submit(&world, &path("/tokens/end?page=4"), &fields).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 403 {
            assert!(answer.text().contains("action=\"/_auth/account/tokens/end?page=4\""));
            assert!(answer.text().contains("href=\"/_auth/account/tokens?page=4\""), "{}", answer.text());
            weigh(&world, &answer).await;
        } else {
            assert!(answer.location().starts_with("/_auth/account/tokens?page=4&done="));
            let page = follow(&world, &mut jar, &answer).await;
            assert!(says_done(&page) && page.text().contains("<span>4 / 5</span>") && !ids(&page).contains(&fourth[1]));
        }
    }
    assert_eq!(jar.get(&world, &path("/tokens/end?page=4")).await.location(), path("/tokens?page=4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn api_tokens_are_made_shown_once_and_ended() {
    let world = World::new().await;
    world.register("a@example.com").await;
    world.register("b@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    for (name, paths, methods, networks, field) in [
        ("", "", "", "", "name"),
        (HOSTILE[3], "", "", "", "name"),
        (&*"x".repeat(65), "", "", "", "name"),
        ("x", "no-slash", "", "", "paths"),
        ("x", &"/a ".repeat(40), "", "", "paths"),
        ("x", "", "GET <script>", "", "methods"),
        ("x", "", "", "10.0.0.0/99", "networks"),
        ("x", "", "", HOSTILE[0], "networks"),
    ] {
        let fields = [("name", name), ("expires", "30"), ("paths", paths), ("methods", methods), ("networks", networks)];
        let again = jar.send(&world, "/tokens/new", &fields).await;
        is_refused(&again, 400, field);
        assert!(again.text().contains("<option value=\"30\" selected>") && !again.text().contains("<script>"));
        assert!(name != "x" || again.text().contains("value=\"x\""));
    }
    let page = jar.get(&world, &path("/tokens/new")).await;
    let (csrf, id) = (page.hidden("csrf"), page.hidden("id"));
    let fields = [
        ("csrf", csrf.as_str()),
        ("id", id.as_str()),
        ("name", "back<up"),
        ("expires", "7"),
        ("paths", "/a/**\r\n/b"),
        ("methods", "get, head"),
        ("networks", "127.0.0.0/8"),
    ];
    let made = jar.submit(&world, &path("/tokens/new"), &fields).await;
    let secret = between(made.text(), "<code id=\"token\">", "<").to_owned();
    assert!(made.status == 200 && secret.starts_with("np_"), "{}", made.text());
    assert_eq!(world.get(&format!("{A}/auth/me")).bearer(&secret).send().await.status, 200);
    let again = jar.submit(&world, &path("/tokens/new"), &fields).await;
    assert!(again.status == 409 && !again.text().contains("np_") && again.text().contains("shown already"));
    let list = jar.get(&world, &path("/tokens")).await;
    assert!(list.text().contains("back&#60;up") && list.text().contains("/a/** /b") && list.text().contains("GET HEAD"));
    assert!(!list.text().contains(&secret) && list.text().matches("<h2 id=\"t").count() == 1);
    // Somebody else sees and ends nothing of it, and can't take its name.
    let mut thief = Jar::of(&world, "b@example.com").await;
    let own = json!({ "name": "own" });
    assert_eq!(world.post(&format!("{A}/auth/tokens"), &own).bearer(&thief.session().unwrap()).send().await.status, 201);
    let theirs = thief.get(&world, &path("/tokens")).await;
    assert!(!theirs.text().contains("back"));
    let ended = thief.submit(&world, &path("/tokens/end"), &[("csrf", &theirs.hidden("csrf")), ("id", &id)]).await;
    assert!(follow(&world, &mut thief, &ended).await.text().contains("has ended already"));
    let page = thief.get(&world, &path("/tokens/new")).await;
    let stolen = thief.submit(&world, &path("/tokens/new"), &[("csrf", &page.hidden("csrf")), ("id", &id), ("name", "x")]).await;
    assert!(stolen.status == 409 && !stolen.text().contains("np_"));
    assert_eq!(world.get(&format!("{A}/auth/me")).bearer(&secret).send().await.status, 200);
    let end = [("csrf", &*list.hidden("csrf")), ("id", &*id)];
    for text in ["is ended", "has ended already"] {
        let ended = jar.submit(&world, &path("/tokens/end"), &end).await;
        assert!(follow(&world, &mut jar, &ended).await.text().contains(text), "{text}");
    }
    assert_eq!(world.get(&format!("{A}/auth/me")).bearer(&secret).send().await.status, 401);
    // The form of a token that has ended makes no other one.
    assert_eq!(jar.submit(&world, &path("/tokens/new"), &fields).await.status, 409);
    // An API token opens none of these pages.
    let made = world.post(&format!("{A}/auth/tokens"), &json!({ "name": "x" })).bearer(&jar.session().unwrap()).send().await.token();
    for below in ["", "/sessions", "/tokens", "/2fa"] {
        assert_eq!(world.get(&path(below)).navigate().bearer(&made).send().await.status, 403, "{below}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_activity_is_ones_own_and_has_pages() {
    let world = World::new().await;
    world.register("a@example.com").await;
    world.register("b@example.com").await;
    world.log_in("a@example.com", json!({ "password": "wrong-wrong-wrong" })).await.refused(401, "invalid_credentials");
    let mut jar = Jar::of(&world, "a@example.com").await;
    let page = jar.get(&world, &path("/activity")).await;
    assert!(page.text().contains("Account made") && page.text().contains("Failed sign-in") && page.text().contains("Signed in"));
    assert!(page.text().contains("127.0.0.1") && !page.text().contains("USER_") && !page.text().contains("?page="));
    for number in 0..12 {
        jar.send(&world, "", &[("displayName", &format!("Ada {number}")), ("avatar", "")]).await;
    }
    let first = jar.get(&world, &path("/activity")).await;
    assert!(first.text().contains("?page=2\"") && !first.text().contains("?page=0") && first.text().matches("<time ").count() == 10);
    let second = jar.get(&world, &path("/activity?page=2")).await;
    assert!(second.text().contains("Account made") && second.text().contains("?page=1\"") && !second.text().contains("?page=3"));
    for language in ["en", "de", "fr", "es", "pt", "ja", "zh"] {
        let page = world.get(&path("/activity")).navigate().cookie(&jar.line()).header("accept-language", language).send().await;
        weigh(&world, &page).await;
    }
    for odd in ["0", "-1", "99999999999999999999", "x", "%3Cscript%3E"] {
        assert_eq!(jar.get(&world, &path(&format!("/activity?page={odd}"))).await.status, 200, "{odd}");
    }
    let other = Jar::of(&world, "b@example.com").await.get(&world, &path("/activity")).await;
    assert!(!other.text().contains("Failed sign-in") && !other.text().contains("Profile changed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_deleted_by_password_and_code() {
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    let (secret, _) = world.enrol(&token).await;
    let mut jar = Jar::default();
    let step = jar.sign_in(&world, "a@example.com", "/").await;
    let code = world.next_code(&secret);
    let fields = [("csrf", &*step.hidden("csrf")), ("pending", &*step.hidden("pending")), ("code", &*code)];
    assert_eq!(jar.submit(&world, "/_auth/login/2fa", &fields).await.status, 303);
    let page = jar.get(&world, &path("/delete")).await;
    assert!(page.text().contains("a@example.com") && page.text().contains("Nobody can undo this"));
    let code = world.next_code(&secret);
    for (password, code, status, field) in [
        ("", &*code, 400, "password"),
        ("wrong-wrong-wrong", &*code, 401, "password"),
        (PASSWORD, "", 403, "code"),
        (PASSWORD, "12", 401, "code"),
        (PASSWORD, &world.wrong_code(&secret), 401, "code"),
    ] {
        is_refused(&jar.send(&world, "/delete", &[("password", password), ("code", code)]).await, status, field);
    }
    let session = jar.session().unwrap();
    let gone = jar.send(&world, "/delete", &[("password", PASSWORD), ("code", &code)]).await;
    assert!(gone.status == 200 && gone.text().contains("Account deleted"), "{}", gone.text());
    assert!(jar.session().is_none() && !world.is_good(&session).await);
    world.log_in("a@example.com", json!({})).await.refused(401, "invalid_credentials");
}

// ENR-1
#[tokio::test(flavor = "multi_thread")]
async fn dangers_ask_for_the_password_after_ten_minutes() {
    let world = World::new().await;
    world.register("a@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    let made = jar.send(&world, "/tokens/new", &[("name", "old")]).await;
    assert_eq!(made.status, 200);
    // Ten minutes are as good as none; the API's own five are over by then.
    world.clock.advance(Duration::from_secs(10 * MINUTES));
    let session = jar.session().unwrap();
    world.post(&format!("{A}/auth/tokens"), &json!({ "name": "x" })).bearer(&session).send().await.refused(403, "fresh_password_required");
    let form = jar.get(&world, &path("/tokens/new")).await;
    let list = jar.get(&world, &path("/tokens")).await;
    assert!(form.status == 200 && !form.text().contains("name=\"password\""));
    world.clock.advance(Duration::from_secs(1));
    // Who comes now is asked first, and comes back.
    let step = jar.get(&world, &path("/tokens/new")).await;
    assert_eq!((step.status.as_u16(), step.location()), (303, "/_auth/reauth?rd=%2F_auth%2Faccount%2Ftokens%2Fnew"));
    // Who stayed is asked in the form, and loses nothing.
    let id = form.hidden("id");
    let typed = [("csrf", &*form.hidden("csrf")), ("id", &*id), ("name", "kept"), ("expires", "365"), ("paths", "/kept/**")];
    let asked = jar.submit(&world, &path("/tokens/new"), &typed).await;
    is_refused(&asked, 403, "password");
    assert!(asked.text().contains("value=\"kept\"") && asked.text().contains("/kept/**</textarea>") && asked.hidden("id") == id);
    assert!(asked.text().contains("<option value=\"365\" selected>"));
    let with = |password: &'static str| [&typed[..], &[("password", password)]].concat();
    is_refused(&jar.submit(&world, &path("/tokens/new"), &with("wrong-wrong-wrong")).await, 401, "password");
    assert!(jar.submit(&world, &path("/tokens/new"), &with(PASSWORD)).await.text().contains("np_"));
    // Ending one: the page that asks names it.
    let old = between(list.text(), "name=\"id\" value=\"", "\"").to_owned();
    let end = [("csrf", &*list.hidden("csrf")), ("id", &*old)];
    let asked = jar.submit(&world, &path("/tokens/end"), &end).await;
    is_refused(&asked, 403, "password");
    assert!(asked.text().contains("old"));
    let end = [("csrf", &*asked.hidden("csrf")), ("id", &*old), ("password", PASSWORD)];
    let ended = jar.submit(&world, &path("/tokens/end"), &end).await;
    assert!(follow(&world, &mut jar, &ended).await.text().contains("is ended"));
    // The second factor: beginning, and each change of it.
    let begin = jar.send(&world, "/2fa", &[]).await;
    assert!(begin.status == 303 && begin.location().starts_with("/_auth/reauth?rd="), "{begin:?}");
    let page = jar.get(&world, begin.location()).await;
    let fields = [("csrf", &*page.hidden("csrf")), ("rd", &*page.hidden("rd")), ("password", PASSWORD)];
    let back = jar.submit(&world, "/_auth/reauth", &fields).await;
    assert!(back.location().starts_with(&path("/2fa")) && jar.session().unwrap() != session);
    let scan = jar.send(&world, "/2fa", &[]).await;
    let secret = between(scan.text(), "<p class=\"key\"><code>", "<").replace(' ', "");
    world.clock.advance(Duration::from_secs(601));
    let code = world.code(&secret);
    let confirm = [("csrf", &*scan.hidden("csrf")), ("code", &*code)];
    let asked = jar.submit(&world, &path("/2fa"), &confirm).await;
    is_refused(&asked, 403, "password");
    let confirm = [&confirm[..], &[("password", PASSWORD)]].concat();
    assert_eq!(jar.submit(&world, &path("/2fa"), &confirm).await.text().matches("<li><code>").count(), 10);
    for below in ["/2fa/off", "/2fa/recovery-codes"] {
        assert!(jar.get(&world, &path(below)).await.location().starts_with("/_auth/reauth?rd="), "{below}");
    }
    // A new sign-in is as good as the password: the forms are there again, and age while they are open.
    let page = jar.get(&world, "/_auth/reauth?rd=/").await;
    jar.submit(&world, "/_auth/reauth", &[("csrf", &page.hidden("csrf")), ("rd", "/"), ("password", PASSWORD)]).await;
    let (off, codes) = (jar.get(&world, &path("/2fa/off")).await, jar.get(&world, &path("/2fa/recovery-codes")).await);
    world.clock.advance(Duration::from_secs(601));
    let code = world.code(&secret);
    let fields = [("csrf", &*off.hidden("csrf")), ("code", &*code)];
    is_refused(&jar.submit(&world, &path("/2fa/off"), &fields).await, 403, "password");
    let seen = [("csrf", &*codes.hidden("csrf")), ("seen", &*codes.hidden("seen"))];
    is_refused(&jar.submit(&world, &path("/2fa/recovery-codes"), &seen).await, 403, "password");
    let seen = [&seen[..], &[("password", PASSWORD)]].concat();
    assert_eq!(jar.submit(&world, &path("/2fa/recovery-codes"), &seen).await.status, 200);
    let fields = [&fields[..], &[("password", PASSWORD)]].concat();
    assert_eq!(jar.submit(&world, &path("/2fa/off"), &fields).await.status, 303);
    // The password and the end of the account ask however fresh the session is.
    for below in ["/password", "/delete"] {
        assert!(jar.get(&world, &path(below)).await.text().contains("type=\"password\""), "{below}");
    }
}

// Cross-cutting 4
#[tokio::test(flavor = "multi_thread")]
async fn stale_forms_come_back_with_what_was_typed() {
    let world = World::new().await;
    let token = world.register("a@example.com").await;
    world.enrol(&token).await;
    world.register("b@example.com").await;
    let mut jar = Jar::of(&world, "b@example.com").await;
    for (below, fields) in [
        ("", &[("displayName", "Kept Name"), ("avatar", "https://example.com/kept")][..]),
        ("/tokens/new", &[("name", "Kept Name"), ("paths", "/kept/**")]),
        ("/password", &[("currentPassword", PASSWORD), ("newPassword", OTHER)]),
        ("/sessions", &[("others", "1")]),
        ("/2fa", &[]),
        ("/delete", &[("password", PASSWORD)]),
    ] {
        for csrf in ["", "x", HOSTILE[0]] {
            let all = [&[("csrf", csrf)][..], fields].concat();
            let again = jar.submit(&world, &path(below), &all).await;
            assert_eq!(again.status, 403, "{below}");
            assert!(again.text().contains("role=\"alert\"") && again.text().contains("name=\"csrf\""), "{below}");
            for (_, value) in fields.iter().filter(|(name, _)| !name.to_lowercase().contains("password") && *name != "others") {
                assert!(again.text().contains(value), "{below}: {value}");
            }
            assert!(!again.text().contains(PASSWORD) && !again.text().contains(OTHER));
        }
    }
    // Nothing was done, and what came back works.
    let again = jar.submit(&world, ACCOUNT, &[("displayName", "Kept Name"), ("avatar", "")]).await;
    let done = jar.submit(&world, ACCOUNT, &[("csrf", &again.hidden("csrf")), ("displayName", "Kept Name"), ("avatar", "")]).await;
    assert_eq!(done.status, 303);
    // A token of one form is none for another, nor is one of another session.
    let csrf = jar.get(&world, ACCOUNT).await.hidden("csrf");
    assert_eq!(jar.submit(&world, &path("/delete"), &[("csrf", &csrf), ("password", PASSWORD)]).await.status, 403);
    let mut other = Jar::of(&world, "b@example.com").await;
    let csrf = other.get(&world, ACCOUNT).await.hidden("csrf");
    assert_eq!(jar.submit(&world, ACCOUNT, &[("csrf", &csrf), ("displayName", "x"), ("avatar", "")]).await.status, 403);
}

// NP-2
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_meanwhile_does_nothing() {
    let world = World::new().await;
    world.register("a@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    let csrf = jar.get(&world, ACCOUNT).await.hidden("csrf");
    let session = jar.session().unwrap();
    world.ask("DELETE", &format!("{A}/auth/sessions")).bearer(&session).send().await;
    let late = jar.submit(&world, ACCOUNT, &[("csrf", &csrf), ("displayName", "Late"), ("avatar", "")]).await;
    assert!(late.status == 401 && late.text().contains("/_auth/login"), "{late:?}");
    let me = world.log_in("a@example.com", json!({})).await;
    assert_eq!(me.json()["user"]["displayName"], json!(null));
}

// XSS-2
#[tokio::test(flavor = "multi_thread")]
async fn notices_can_not_be_forged() {
    let world = World::new().await;
    world.register("a@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    let done = jar.send(&world, "", &[("displayName", "Ada"), ("avatar", "")]).await;
    let address = done.location().to_owned();
    assert!(says_done(&jar.get(&world, &address).await) && !address.contains("Ada"));
    let sent = address.split("done=").nth(1).unwrap();
    let mut parts: Vec<&str> = sent.split('.').collect();
    parts[0] = "password";
    let other_word = parts.join(".");
    let later = sent.replacen(parts[1], "1800000001", 1);
    for forged in [
        "",
        "profile",
        "profile.1800000000",
        "profile.1800000000.",
        &other_word,
        &later,
        "%3Cscript%3Ealert(1)%3C/script%3E",
        sent.get(1..).unwrap(),
    ] {
        let page = jar.get(&world, &format!("{ACCOUNT}?done={forged}")).await;
        assert!(page.status == 200 && !says_done(&page) && !page.text().contains("<script>"), "{forged}");
    }
    // Another session's, and this one's some minutes later.
    assert!(!says_done(&Jar::of(&world, "a@example.com").await.get(&world, &address).await));
    world.clock.advance(Duration::from_secs(121));
    assert!(!says_done(&jar.get(&world, &address).await));
}

// ENR-1
#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_enrol_sees_nothing_else() {
    let world = World::with(|config| config.two_factor.always_required = true).await;
    world.register("a@example.com").await;
    let mut jar = Jar::of(&world, "a@example.com").await;
    for below in ["", "/password", "/2fa/off", "/2fa/recovery-codes", "/sessions", "/tokens", "/tokens/new", "/activity", "/delete"] {
        let led = jar.get(&world, &path(below)).await;
        assert!(led.location().starts_with("/_auth/account/2fa?rd="), "{below}");
        assert!(!led.text().contains("a@example.com"));
    }
    let page = jar.get(&world, &path("/2fa?rd=/deep")).await;
    assert!(page.status == 200 && !page.text().contains("<nav") && page.text().contains("Everybody needs a second factor"));
    let csrf = page.hidden("csrf");
    for (below, fields) in [
        ("", &[("displayName", "x")][..]),
        ("/password", &[("currentPassword", PASSWORD), ("newPassword", OTHER)]),
        ("/sessions", &[("others", "1")]),
        ("/tokens/new", &[("name", "x")]),
        ("/tokens/end", &[("id", "x")]),
        ("/2fa/off", &[("code", "123456")]),
        ("/2fa/recovery-codes", &[("seen", "x")]),
        ("/2fa/recovery-codes/file", &[("codes", "x")]),
        ("/delete", &[("password", PASSWORD)]),
    ] {
        let refused = jar.submit(&world, &path(below), &[&[("csrf", csrf.as_str())][..], fields].concat()).await;
        assert_eq!(refused.status, 403, "{below}");
        assert!(!refused.text().contains("name=\"csrf\""), "{below}");
    }
    let scan = jar.submit(&world, &path("/2fa"), &[("csrf", &csrf), ("rd", "/deep")]).await;
    let secret = between(scan.text(), "<p class=\"key\"><code>", "<").replace(' ', "");
    let code = world.code(&secret);
    let done = jar.submit(&world, &path("/2fa"), &[("csrf", &scan.hidden("csrf")), ("rd", "/deep"), ("code", &code)]).await;
    assert!(done.text().contains("<a class=\"button\" href=\"/deep\">"), "{}", done.text());
    assert_eq!(jar.get(&world, ACCOUNT).await.status, 200, "and then everything");
}
