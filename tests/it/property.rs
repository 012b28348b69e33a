//! What holds for every request, not only for those that somebody thought of.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::support::{Captured, PASSWORD, PATIENCE, Server};

const RULES: &str = "
[[rules]]
path = \"/public/**\"
policy = \"public\"
[[rules]]
path = \"/admin/**\"
policy = \"authenticated\"
groups = [\"admins\"]
";

/// A name, as an application may read it.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

const IDENTITY: [&str; 12] = [
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-name",
    "x-forwarded-user-id",
    "x-forwarded-preferred-username",
    "remote-user",
    "x-remote-user",
    "remote-groups",
    "x-auth-request-user",
    "x-authentik-username",
    "x-nullpass-assertion",
];

fn names() -> impl Strategy<Value = String> {
    let known = prop::sample::select(IDENTITY.to_vec()).prop_flat_map(|name| {
        prop::collection::vec(0..4_u8, name.len()).prop_map(move |how| {
            let changed = name.chars().zip(how).map(|(c, how)| match (c, how) {
                ('-', 1) => '_',
                ('-', 2) => '.',
                (c, 3) => c.to_ascii_uppercase(),
                (c, _) => c,
            });
            changed.collect::<String>()
        })
    });
    let other = prop::sample::select(vec![
        "cookie",
        "Connection",
        "x-real-ip",
        "X-Original-URL",
        "forwarded",
        "x-forwarded-for",
        "te",
        "proxy",
        "x-a",
    ]);
    prop_oneof![4 => known, 2 => other.prop_map(str::to_owned), 1 => "[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,20}"]
}

fn values() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "evil-canary",
        "nullpass=evil-canary",
        "a=b; nullpass=evil-canary; c=d",
        "X-Forwarded-User, Remote-User",
        "close, x-forwarded-user",
        "__Host-nullpass=evil-canary",
        "evil-canary@example.com",
    ]);
    prop_oneof![3 => known.prop_map(str::to_owned), 1 => "[ -~]{0,30}"]
}

pub(crate) fn paths() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "public", "admin", "_auth", "a", "", ".", "..", "%2e", "%2e%2e", "..;", "%2f", "%5c", "\\", "%61dmin", "ADMIN", ";x=y", "%00",
        "%25", "%252f", "#", "?", "login", "api",
    ]);
    let joined = prop::collection::vec((prop::sample::select(vec!["/", "/", "/", ""]), piece), 1..6);
    joined.prop_map(|pieces| {
        let path: Vec<String> = pieces.iter().map(|(slash, piece)| format!("{slash}{piece}")).collect();
        format!("/{}", path.concat()).replacen("//", "/", 1)
    })
}

#[derive(Clone, Debug)]
enum Who {
    Nobody,
    Bearer,
    Cookie,
    /// With one of ours that opens nothing here, by its place in [`Ours::bad`], in `Authorization` or in the cookie.
    Bad(usize, bool),
}

/// What is ours and must stay here.
struct Ours {
    good: String,
    bad: Vec<String>,
}

impl Ours {
    async fn new(server: &Server) -> Self {
        let (_, good) = server.signed_in("ada@example.com").await;
        let ended = server.log_in("ada@example.com").await;
        server.api("POST", "/auth/logout", Some(&ended), &Value::Null).await.is(200);
        let elsewhere = json!({ "name": "elsewhere", "paths": ["/elsewhere/**"] });
        let made = server.api("POST", "/auth/tokens", Some(&good), &elsewhere).await.is(201).json();
        let (_, bob) = server.signed_in("bob@example.com").await;
        server.enrol(&bob).await;
        let pending = server.try_log_in("bob@example.com", PASSWORD).await.is(200).json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let cut = good[..good.len() - 2].to_owned();
        Self { bad: vec![cut, ended, text(&made["token"]), text(&pending["pendingToken"])], good }
    }

    /// The fields that say who asks.
    fn fields(&self, who: &Who) -> Option<(String, String)> {
        let bearer = |token: &str| ("authorization".to_owned(), format!("Bearer {token}"));
        let cookie = |token: &str| ("cookie".to_owned(), format!("nullpass={token}"));
        match who {
            Who::Nobody => None,
            Who::Bearer => Some(bearer(&self.good)),
            Who::Cookie => Some(cookie(&self.good)),
            Who::Bad(which, true) => Some(bearer(&self.bad[which % self.bad.len()])),
            Who::Bad(which, false) => Some(cookie(&self.bad[which % self.bad.len()])),
        }
    }
}

/// One request over either protocol; `None`: the client's own library would not send it.
async fn ask(server: &Server, over_http2: bool, method: &str, path: &str, fields: &[(&str, &str)]) -> Option<u16> {
    if !over_http2 {
        return Some(server.send(method, path, fields, b"").await.status);
    }
    let request = http::Request::builder().method(method).uri(format!("http://app.example.com{path}"));
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).ok()?;
    let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    drop(nullpass::tasks::Tasks::new().spawn(connection));
    let (answer, _) = sender.send_request(request, true).ok()?;
    Some(tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time").ok()?.status().as_u16())
}

/// Fails when the application was told what we did not say, or given what is ours.
fn check(request: &Captured, ours: &Ours, announced: bool) -> Result<(), TestCaseError> {
    let raw = String::from_utf8_lossy(&request.raw).into_owned();
    for token in ours.bad.iter().chain([&ours.good]) {
        prop_assert!(!raw.contains(token), "the token went on: {raw}");
    }
    for (name, value) in request.fields() {
        let folded = folded(&name);
        if !IDENTITY.contains(&folded.as_str()) {
            let cookie = name == "cookie"
                && value.split(';').any(|pair| {
                    let name = pair.trim().trim_start_matches('=').to_ascii_lowercase();
                    name.starts_with("nullpass") || name.starts_with("__host-nullpass")
                });
            prop_assert!(!cookie, "{raw}");
            continue;
        }
        let ours = match name.as_str() {
            "x-forwarded-user" | "x-forwarded-email" | "x-forwarded-preferred-username" => value == "ada@example.com",
            "x-forwarded-user-id" => value.len() == 36,
            _ => false,
        };
        prop_assert!(ours && announced, "{name}: {value} in {raw}");
    }
    prop_assert_eq!(request.all("x-forwarded-user").len(), usize::from(announced), "{}", raw);
    prop_assert_eq!(request.all("x-forwarded-for"), ["127.0.0.1"]);
    Ok(())
}

// Cross-cutting 3, HDR-1, FAIL-1, PATH-4, ENV-2: whatever is sent, by whichever protocol, the application reads nothing about
// a person that we did not say, gets no token of ours, and gets nothing at all where nobody was let in; and without an
// identity nothing but what is public, and what is ours, is answered with a success.
#[test]
fn the_application_is_told_nothing_but_by_us() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (server, ours) = runtime.block_on(async {
        let server = Server::start(RULES).await;
        let ours = Ours::new(&server).await;
        (server, ours)
    });
    server.upstream.take();
    let bad = (0..4_usize, any::<bool>()).prop_map(|(which, in_header)| Who::Bad(which, in_header));
    let who = prop_oneof![2 => Just(Who::Nobody), 1 => Just(Who::Bearer), 1 => Just(Who::Cookie), 1 => bad];
    let fields = prop::collection::vec((names(), values()), 0..8);
    let methods = prop::sample::select(vec!["GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "get"]);
    let mut runner = TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(paths(), fields, who, methods, any::<bool>()), |(path, fields, who, method, over_http2)| {
        runtime.block_on(async {
            let mut fields: Vec<(String, String)> = fields
                .into_iter()
                .filter(|(name, _)| {
                    !["host", "content-length", "transfer-encoding", "expect", "upgrade"].contains(&&*name.to_ascii_lowercase())
                })
                .collect();
            fields.extend(ours.fields(&who));
            let refs: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let Some(status) = ask(&server, over_http2, method, &path, &refs).await else { return Ok(()) };
            let seen = server.upstream.take();
            prop_assert!(seen.len() <= 1);
            let announced = match who {
                Who::Bearer => true,
                // Another cookie of ours beside it makes two of one, and another site's page gets no use of it.
                Who::Cookie => seen.first().is_some_and(|request| !request.all("x-forwarded-user").is_empty()),
                Who::Nobody | Who::Bad(..) => false,
            };
            for request in &seen {
                check(request, &ours, announced)?;
                let plain = request.target().split('?').next().unwrap().to_owned();
                let in_admin = plain.to_ascii_lowercase().trim_start_matches('/').split('/').next() == Some("admin");
                prop_assert!(!in_admin, "{} as {:?}", plain, who);
                if !announced {
                    prop_assert!(plain == "/public" || plain.starts_with("/public/"), "{} without anybody: {}", plain, status);
                }
                prop_assert!(path.starts_with(request.target()), "{} became {}", path, request.target());
            }
            prop_assert!(seen.is_empty() || status == 200);
            // A success that the application knows nothing of is that of a route of ours.
            let own = path.split(['/', '?', '#']).nth(1) == Some("_auth");
            prop_assert!(own || !seen.is_empty() || !(200..300).contains(&status), "{} for {}", status, path);
            Ok(())
        })
    });
    runtime.block_on(async { drop(server) });
    result.unwrap();
}
