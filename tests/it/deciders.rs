//! There are two that decide, the gateway for what it forwards and forward-auth for other proxies: whatever the rules and
//! the request, they say the same.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::property::paths;
use crate::support::{PASSWORD, Server, basic};

const HEAD: &str = "
[server]
trusted_proxies = [\"127.0.0.1\"]
allowed_hosts = [\"app.example.com\", \"b.example.com\"]
[[upstreams]]
name = \"app\"
url = \"{upstream}\"
";

const METHODS: [&str; 7] = ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND", "get", "TRACE"];

/// What a rule for a path demands.
fn demands() -> impl Strategy<Value = String> {
    let policy = prop_oneof![3 => Just("public"), 4 => Just("authenticated"), 1 => Just("two_factor"), 1 => Just("deny")];
    let host = prop_oneof![3 => Just(""), 1 => Just("host = \"b.example.com\"\n")];
    let methods = prop_oneof![3 => Just(""), 1 => Just("methods = [\"GET\", \"POST\"]\n")];
    let more = prop::sample::select(vec!["", "", "", "groups = [\"admins\"]\n", "max_auth_age = \"10m\"\n", "cross_site = true\n"]);
    (policy, host, methods, more, any::<bool>()).prop_map(|(policy, host, methods, more, basic)| {
        // What a public or denying rule can't demand is a mistake that a start refuses.
        let more = if policy == "authenticated" { more } else { "" };
        let basic = if basic && policy == "authenticated" { "basic = true\n" } else { "" };
        format!("policy = \"{policy}\"\n{host}{methods}{more}{basic}")
    })
}

/// Rules for different paths, since one that is never reached is a mistake too; those for every path come last.
fn rules() -> impl Strategy<Value = String> {
    let some = prop::sample::subsequence(vec!["/public/**", "/admin/**", "/a/**", "/*/a"], 1..=4).prop_shuffle();
    (some, prop::collection::vec(demands(), 5)).prop_map(|(mut paths, demands)| {
        paths.push("/**");
        paths.iter().zip(demands).map(|(path, demands)| format!("[[rules]]\npath = \"{path}\"\n{demands}")).collect::<Vec<_>>().concat()
    })
}

fn fields() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let field = prop::sample::select(vec![
        ("origin", "http://app.example.com"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
        ("accept", "text/html"),
        ("content-type", "application/grpc"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-user", "root"),
        ("cookie", "a=b"),
    ]);
    prop::collection::vec(field, 0..4)
}

// FWD-2, PATH-4: forward-auth says yes to what the gateway would forward, as the same person, and to nothing else.
#[test]
fn forward_auth_says_yes_exactly_when_the_gateway_forwards() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let runner = || TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let (yes, no) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    for _ in 0..12 {
        let rules = rules().new_tree(&mut runner()).unwrap().current();
        let (server, callers) = runtime.block_on(async {
            let server = Server::start(&format!("{HEAD}{rules}")).await;
            server.account("ada@example.com", &["admins"]).await;
            server.account("bob@example.com", &[]).await;
            let (ada, cookie) = (server.log_in("ada@example.com").await, server.log_in_by_cookie("ada@example.com").await);
            let stale = server.log_in("bob@example.com").await;
            server.wait(11 * 60);
            let bob = server.log_in_by_cookie("bob@example.com").await;
            let scope = json!({ "name": "t", "paths": ["/a/**", "/public/**"], "methods": ["GET"], "currentPassword": PASSWORD });
            let api = server.api("POST", "/auth/tokens", Some(&ada), &scope).await.is(201).json()["token"].as_str().unwrap().to_owned();
            let callers = vec![
                vec![],
                vec![("authorization", format!("Bearer {ada}"))],
                vec![("authorization", format!("Bearer {stale}"))],
                vec![("authorization", format!("Bearer {api}"))],
                vec![("authorization", format!("Token {api}"))],
                vec![("authorization", "Bearer somebody.elses.token".to_owned())],
                vec![("authorization", "Bearer np_none".to_owned())],
                vec![("authorization", basic("bob@example.com", PASSWORD))],
                vec![("authorization", basic("ada@example.com", &api))],
                vec![("cookie", format!("nullpass={cookie}"))],
                vec![("cookie", format!("nullpass={bob}"))],
                vec![("cookie", format!("nullpass={bob}; __Host-nullpass={cookie}"))],
                vec![("cookie", format!("nullpass={cookie}x"))],
                vec![("cookie", format!("nullpass={cookie}")), ("authorization", "Bearer np_none".to_owned())],
                vec![("cookie", format!("nullpass={api}"))],
            ];
            (server, callers)
        });
        let request = (
            prop::sample::select(METHODS.to_vec()),
            prop::sample::select(vec!["app.example.com", "app.example.com", "B.example.com:81", "other.example.com"]),
            prop_oneof![
                paths(),
                prop::sample::select(vec!["/public/a", "/admin/a?b=c", "/a/b", "/x/a", "/x%2fa", "/ADMIN/x"]).prop_map(str::to_owned)
            ],
            fields(),
            prop::sample::select(callers),
        );
        let result = runner().run(&request, |(method, host, path, fields, caller)| {
            let mut all: Vec<(&str, &str)> = fields;
            all.extend(caller.iter().map(|(name, value)| (*name, value.as_str())));
            let (forwarded, answer) = runtime.block_on(async {
                server.send(method, &path, &[&all[..], &[("host", host)]].concat(), b"").await;
                let forwarded = server.upstream.take();
                let question = [
                    ("X-Forwarded-Method", method),
                    ("X-Forwarded-Proto", "http"),
                    ("X-Forwarded-Host", host),
                    ("X-Forwarded-Uri", path.as_str()),
                ];
                (forwarded, server.get("/_auth/forward-auth", &[&all[..], &question].concat()).await)
            });
            prop_assert!(forwarded.len() <= 1);
            // A fragment never comes to the gateway's rules; forward-auth does not know what the other proxy does with it.
            if path.contains('#') {
                prop_assert!(answer.status != 200);
                return Ok(());
            }
            let said = format!("{method} {host}{path} {all:?} under {rules}: {} {}", answer.status, answer.text());
            prop_assert_eq!(answer.status == 200, forwarded.len() == 1, "{}", said);
            if let [forwarded] = &forwarded[..] {
                prop_assert_eq!(forwarded.one("x-forwarded-user").unwrap_or_default(), answer.field("x-forwarded-user"), "{}", said);
                yes.set(yes.get() + 1);
            } else {
                no.set(no.get() + 1);
            }
            Ok(())
        });
        runtime.block_on(async { drop(server) });
        result.unwrap();
    }
    assert!(yes.get() > 100 && no.get() > 100, "{yes:?} {no:?}: the test asks for both");
}
