//! What holds for every request, not only for those that somebody thought of.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Captured, Server};

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
    Broken,
}

/// Fails when the application was told what we did not say, or given what is ours.
fn check(request: &Captured, token: &str, announced: bool) -> Result<(), TestCaseError> {
    let raw = String::from_utf8_lossy(&request.raw).into_owned();
    prop_assert!(!raw.contains(token), "the token went on: {raw}");
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

// Cross-cutting 3, HDR-1, FAIL-1, PATH-4: whatever is sent, the application reads nothing about a person that we did not
// say, gets no token of ours, and gets nothing at all where nobody was let in.
#[test]
fn the_application_is_told_nothing_but_by_us() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (server, token) = runtime.block_on(async {
        let server = Server::start(RULES).await;
        let (_, token) = server.signed_in("ada@example.com").await;
        (server, token)
    });
    let who = prop::sample::select(vec![Who::Nobody, Who::Nobody, Who::Bearer, Who::Cookie, Who::Broken]);
    let fields = prop::collection::vec((names(), values()), 0..8);
    let mut runner = TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(paths(), fields, who), |(path, fields, who)| {
        runtime.block_on(async {
            let mut fields: Vec<(String, String)> = fields
                .into_iter()
                .filter(|(name, _)| {
                    !["host", "content-length", "transfer-encoding", "expect", "upgrade"].contains(&&*name.to_ascii_lowercase())
                })
                .collect();
            match who {
                Who::Nobody => {}
                Who::Bearer => fields.push(("authorization".to_owned(), format!("Bearer {token}"))),
                Who::Cookie => fields.push(("cookie".to_owned(), format!("nullpass={token}"))),
                Who::Broken => fields.push(("cookie".to_owned(), format!("nullpass={}", &token[..token.len() - 2]))),
            }
            let refs: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let answer = server.get(&path, &refs).await;
            let seen = server.upstream.take();
            prop_assert!(seen.len() <= 1);
            let announced = match who {
                Who::Bearer => true,
                // Another cookie of ours beside it makes two of one.
                Who::Cookie => seen.first().is_some_and(|request| !request.all("x-forwarded-user").is_empty()),
                Who::Nobody | Who::Broken => false,
            };
            for request in &seen {
                check(request, &token, announced)?;
                let plain = request.target().split('?').next().unwrap().to_owned();
                let in_admin = plain.to_ascii_lowercase().trim_start_matches('/').split('/').next() == Some("admin");
                prop_assert!(!in_admin, "{} as {:?}", plain, who);
                if !announced {
                    prop_assert!(plain == "/public" || plain.starts_with("/public/"), "{} without anybody: {}", plain, answer.status);
                }
                prop_assert!(path.starts_with(request.target()), "{} became {}", path, request.target());
            }
            prop_assert!(seen.is_empty() || answer.status == 200);
            Ok(())
        })
    });
    runtime.block_on(async { drop(server) });
    result.unwrap();
}
