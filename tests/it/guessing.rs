//! What guessing costs, counted: hashes and operations of the store in every branch, waits that double, and what is left
//! for everybody else.

use std::net::{IpAddr, Ipv4Addr};

use nullpass::clock::Timestamp;
use nullpass::crypto::password::Asker;
use nullpass::model::{Digest, Lock, LockChange, LockKey};
use nullpass::store::Store as _;
use nullpass::store::sled::SledStore;
use nullpass::store::transfer::{BATCH, Item, MARKER, Transfer as _};
use serde_json::json;

use crate::browser::Browser;
use crate::sign_in::{TRUSTING, WRONG, from};
use crate::support::{Answer, PASSWORD, Server, basic};

/// What can be seen of an answer from outside, and what it cost inside.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    text: String,
    fields: Vec<(String, String)>,
    hashes: u64,
    asked: Vec<&'static str>,
}

/// What is the same in two answers to two people: neither the number of the request nor what it is signed with.
fn seen(server: &Server, hashes_before: u64, answer: &Answer, email: &str) -> Seen {
    let text = answer.text();
    let id = text.split_once("requestId\":\"").map_or("", |(_, rest)| rest.split('"').next().unwrap()).to_owned();
    let text = if id.is_empty() { text } else { text.replace(&id, "ID") };
    let changing = ["date", "set-cookie"];
    let fields = answer.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    Seen {
        status: answer.status,
        text: text.replace(email, "EMAIL"),
        fields: fields.filter(|(name, _)| !changing.contains(&name.as_str()) && name != "content-length").collect(),
        hashes: server.auth().hasher().hashes_done() - hashes_before,
        asked: server.store().take_asked(),
    }
}

/// One attempt by the API.
async fn attempt(server: &Server, email: &str, ip: &str) -> Seen {
    server.store().take_asked();
    let before = server.auth().hasher().hashes_done();
    let answer = from(server, ip, email, WRONG, None).await;
    seen(server, before, &answer, email)
}

// ENUM-1, NP-6: whoever an address belongs to, a wrong password costs one hash and the same operations of the store, and
// gets the same answer, in each of the ways in: by the API, by a form and by Basic.
#[tokio::test]
async fn every_branch_costs_and_says_the_same() {
    let server = Server::start(&format!("{TRUSTING}[[rules]]\npath = \"/dav/**\"\npolicy = \"authenticated\"\nbasic = true\n")).await;
    server.account("known@example.com", &[]).await;
    server.account("root@example.com", &["nullpass-admin"]).await;
    let disabled = server.account("disabled@example.com", &[]).await;
    server.auth().disable_user(disabled.id, "test", server.now()).await.unwrap();
    let (_, token) = server.signed_in("second@example.com").await;
    server.enrol(&token).await;
    let branches = ["unknown", "known", "root", "disabled", "second"].map(|name| format!("{name}@example.com"));
    server.store().settled().await;

    let mut by_api = Vec::new();
    for email in &branches {
        by_api.push(attempt(&server, email, "203.0.113.1").await);
    }
    assert_eq!((by_api[0].status, by_api[0].hashes), (401, 1));
    assert!(by_api[0].asked.contains(&"append_audit") && by_api[0].asked.contains(&"update_lock"), "{:?}", by_api[0].asked);
    for (branch, other) in branches.iter().zip(&by_api) {
        assert_eq!(*other, by_api[0], "{branch} by the API");
    }

    let mut by_form = Vec::new();
    for email in &branches {
        let mut browser = Browser::new(&server);
        let page = browser.page("/_auth/login").await;
        server.store().take_asked();
        let before = server.auth().hasher().hashes_done();
        let answer = browser.submit_shown(&page, "/_auth/login", &[("email", email), ("password", WRONG)]).await;
        let Seen { status, hashes, asked, .. } = seen(&server, before, &answer, email);
        by_form.push((status, hashes, asked));
    }
    assert_eq!(by_form[0].1, 1);
    assert!(by_form.iter().all(|other| *other == by_form[0]), "{by_form:?}");

    let mut by_basic = Vec::new();
    for email in &branches {
        server.store().take_asked();
        let before = server.auth().hasher().hashes_done();
        let fields = [("authorization", basic(email, WRONG)), ("x-forwarded-for", "203.0.113.3".to_owned())];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = server.get("/dav/x", &fields).await;
        by_basic.push(seen(&server, before, &answer, email));
    }
    assert_eq!((by_basic[0].status, by_basic[0].hashes), (401, 1));
    assert!(by_basic.iter().all(|other| *other == by_basic[0]), "{by_basic:?}");

    // A disabled account is told so after the right password alone (NP-3).
    from(&server, "203.0.113.4", "disabled@example.com", PASSWORD, None).await.is(403);
}

// ENUM-1, RL-1, contract 2: waits double up to the longest, are told as numbers, and are the same for addresses that nobody has. After
// each the next attempt is checked: however long it was attacked, an account is never locked for good.
#[tokio::test]
async fn waits_double_and_are_never_for_good() {
    let server = Server::start(&format!("{TRUSTING}[limits]\naccount_backoff = {{ after = 5, base = \"1s\", max = \"15m\" }}\n")).await;
    server.account("ada@example.com", &[]).await;
    let mut waits = [Vec::new(), Vec::new()];
    for n in 0..20_u8 {
        let mut longest = 0;
        for (email, waits) in ["ada@example.com", "nobody@example.com"].iter().zip(&mut waits) {
            let checked = attempt(&server, email, &format!("203.0.113.{n}")).await;
            assert_eq!((checked.status, checked.hashes), (401, 1), "attempt {n} at {email}");
            let refused = attempt(&server, email, &format!("198.51.100.{n}")).await;
            if n < 5 {
                assert_eq!(refused.status, 401);
                // It was an attempt too, so that the two series stay what they are told to be.
                server.store().update_lock(account_key(email), LockChange::TakeBack, server.now()).await.unwrap();
                continue;
            }
            assert_eq!((refused.status, refused.hashes), (429, 0));
            let field = |name: &str| refused.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
            let wait: u64 = field("retry-after").unwrap().parse().unwrap();
            assert_eq!(field("ratelimit").unwrap(), format!("\"back-off\";r=0;t={wait}"));
            assert_eq!((field("ratelimit-remaining").unwrap(), field("ratelimit-reset").unwrap()), ("0".to_owned(), wait.to_string()));
            waits.push(wait);
            longest = wait;
        }
        server.wait(longest);
    }
    assert_eq!(waits[0], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900, 900]);
    assert_eq!(waits[0], waits[1]);
    from(&server, "192.0.2.1", "ada@example.com", PASSWORD, None).await.is(200);
}

/// How the attempts at an account are counted in the store.
fn account_key(email: &str) -> LockKey {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, email.as_bytes());
    LockKey::Account(Digest(digest.as_ref().try_into().unwrap()))
}

// RL-1, contract 2: the buckets and the back-off of an IPv6 client are those of its /64, and nobody else's.
#[tokio::test]
async fn an_ipv6_client_is_its_network() {
    let server = Server::start(&format!("{TRUSTING}[limits]\nauth_per_ip = \"3/m\"\n")).await;
    for n in 1..=3 {
        from(&server, &format!("2001:db8:1:2::{n}"), &format!("nobody-{n}@example.com"), WRONG, None).await.is(401);
    }
    let limited = from(&server, "2001:db8:1:2:ffff:ffff:ffff:ffff", "nobody@example.com", WRONG, None).await.is(429);
    assert_eq!(limited.field("ratelimit-policy"), "\"sign-in\";q=3;w=60");
    assert_eq!(limited.field("ratelimit"), "\"sign-in\";r=0;t=20");
    assert_eq!((limited.field("retry-after"), limited.field("ratelimit-limit")), ("20", "3"));
    from(&server, "2001:db8:1:3::1", "nobody@example.com", WRONG, None).await.is(401);

    let server = Server::start(TRUSTING).await;
    server.account("ada@example.com", &[]).await;
    for n in 0..6 {
        from(&server, &format!("2001:db8:1:2::{n:x}"), &format!("nobody-{n}@example.com"), WRONG, None).await.is(401);
    }
    from(&server, "2001:db8:1:2:8000::1", "ada@example.com", PASSWORD, None).await.is(429);
    from(&server, "2001:db8:1:3::1", "ada@example.com", PASSWORD, None).await.is(200);
}

// RL-1, contract 2: the owner's sign-in clears the account's count, but not what an attacker has used up against it: a burst of
// theirs is one attempt, as it was before.
#[tokio::test]
async fn the_owners_sign_in_gives_an_attacker_nothing() {
    let server = Server::start(TRUSTING).await;
    server.account("ada@example.com", &[]).await;
    for _ in 0..6 {
        from(&server, "203.0.113.9", "ada@example.com", WRONG, None).await.is(401);
    }
    server.wait(1);
    from(&server, "198.51.100.1", "ada@example.com", PASSWORD, None).await.is(200);
    let before = server.auth().hasher().hashes_done();
    let burst = (0..20).map(|_| from(&server, "203.0.113.9", "ada@example.com", WRONG, None));
    let statuses: Vec<u16> = all_of(burst).await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 1, "{statuses:?}");
    assert_eq!(server.auth().hasher().hashes_done() - before, 1);
    // The owner is not held up by it.
    from(&server, "198.51.100.1", "ada@example.com", PASSWORD, None).await.is(200);
}

/// All of them at once.
async fn all_of<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(result) = future.as_mut().poll(cx)
            {
                *done = Some(result);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

// RL-1, contract 2: what was counted outlives the process: the account's, the address's and the pair's.
#[tokio::test]
async fn back_off_outlives_a_restart() {
    let backoff = "account_backoff = { after = 2, base = \"10m\", max = \"10m\" }";
    let mut server = Server::start(&format!("{TRUSTING}[limits]\n{backoff}\n")).await;
    server.account("ada@example.com", &[]).await;
    server.account("eve@example.com", &[]).await;
    for _ in 0..3 {
        from(&server, "203.0.113.9", "ada@example.com", WRONG, None).await.is(401);
    }
    server.wait(60);
    server.restart().await;
    let refused = from(&server, "198.51.100.1", "ada@example.com", PASSWORD, None).await.is(429);
    assert_eq!(refused.field("retry-after"), "540");
    from(&server, "203.0.113.9", "eve@example.com", PASSWORD, None).await.is(429);
    from(&server, "198.51.100.1", "eve@example.com", PASSWORD, None).await.is(200);
    server.wait(540);
    from(&server, "198.51.100.1", "ada@example.com", PASSWORD, None).await.is(200);
    from(&server, "203.0.113.9", "eve@example.com", PASSWORD, None).await.is(200);
}

// Cross-cutting 6, RL-1: when strangers have filled the queue of the hasher, they are told to come back before anything is
// hashed, counted or written; browsers that the owner has signed in with, and people who are signed in, get through.
#[tokio::test]
async fn a_full_queue_keeps_strangers_out_and_nobody_who_is_known() {
    let server = Server::start(TRUSTING).await;
    let user = server.account("ada@example.com", &[]).await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "cookie": true });
    let signed_in = server.api("POST", "/auth/login", None, &body).await.is(200);
    let cookie = format!("nullpass-device={}", signed_in.cookie("nullpass-device").unwrap());
    let token = server.log_in("ada@example.com").await;
    let mut places = Vec::new();
    while let Ok(place) = server.auth().hasher().place(Asker::Stranger) {
        places.push(place);
        assert!(places.len() <= 1000, "the queue has an end");
    }
    server.store().settled().await;
    for email in ["ada@example.com", "nobody@example.com"] {
        for password in [PASSWORD, WRONG] {
            server.store().take_asked();
            let hashed = server.auth().hasher().hashes_done();
            let busy = from(&server, "203.0.113.1", email, password, None).await.is(503);
            assert_eq!((busy.code().as_str(), busy.field("retry-after")), ("busy", "2"));
            assert_eq!((server.auth().hasher().hashes_done() - hashed, server.store().take_asked()), (0, vec![]));
            // Whether a device is the owner's, only the account can tell.
            let forged = from(&server, "203.0.113.1", email, password, Some("nullpass-device=00.00.00")).await.is(503);
            assert_eq!((forged.code().as_str(), server.store().take_asked()), ("busy", vec!["user_by_email"]));
        }
    }
    assert_eq!(server.store().lock(account_key("ada@example.com")).await.unwrap().failures, 0);
    from(&server, "203.0.113.1", "ada@example.com", PASSWORD, Some(&cookie)).await.is(200);
    server.api("POST", "/auth/reauth", Some(&token), &json!({ "password": PASSWORD })).await.is(200);
    assert_eq!(server.metric("nullpass_logins{name=\"busy\"}").await, 8.0);
    drop(places);
    from(&server, "203.0.113.1", "ada@example.com", PASSWORD, None).await.is(200);
    assert_eq!(server.auth().user_by_email(&"ada@example.com".parse().unwrap()).await.unwrap().id, user.id);
}

// RL-3: after 100,000 made-up names from as many addresses what is remembered has an end, a real person signs in, and a
// count that only a right password can have begun is still there.
#[tokio::test]
async fn a_hundred_thousand_made_up_names() {
    const NAMES: u32 = 100_000;
    let mut server = Server::start(TRUSTING).await;
    let user = server.account("ada@example.com", &[]).await;
    server.end().await;
    // Written as they are counted, many at a time: one after the other they would take minutes.
    let store = SledStore::open(&server.data()).unwrap();
    let once = Lock { failures: 1, last_failure_at: server.now(), locked_until: Timestamp::default() };
    let mut items = vec![Item::Lock { key: LockKey::SecondFactor(user.id), lock: once }];
    for number in 0..NAMES {
        let mut name = [0; 32];
        name[..4].copy_from_slice(&number.to_be_bytes());
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 | number));
        items.extend([LockKey::Account(Digest(name)), LockKey::Address(address)].map(|key| Item::Lock { key, lock: once }));
    }
    assert!(store.swap_meta(MARKER, None, Some(b"x")).await.unwrap());
    for some in items.chunks(BATCH) {
        store.import(b"x", some).await.unwrap();
    }
    assert!(store.swap_meta(MARKER, Some(b"x"), None).await.unwrap());
    drop(store);

    server.restart_ended().await;
    from(&server, "198.51.100.1", "ada@example.com", PASSWORD, None).await.is(200);
    for n in 0..5 {
        from(&server, &format!("198.51.100.{n}"), &format!("somebody-{n}@example.com"), WRONG, None).await.is(401);
    }
    from(&server, "198.51.100.1", "ada@example.com", PASSWORD, None).await.is(200);
    assert_eq!(server.store().lock(LockKey::SecondFactor(user.id)).await.unwrap(), once);
    assert_eq!(server.store().lock(account_key("somebody-4@example.com")).await.unwrap().failures, 1, "the newest is counted");
    server.end().await;

    let store = SledStore::open(&server.data()).unwrap();
    let (mut export, mut kept) = (store.export().await.unwrap(), 0);
    loop {
        let some = export.next().await.unwrap();
        if some.is_empty() {
            break;
        }
        kept += some.iter().filter(|item| matches!(item, Item::Lock { .. })).count();
    }
    assert!((150_000..=200_000).contains(&kept), "{kept}");
}
