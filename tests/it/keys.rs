//! Rotating the signing keys and the storage key, while everybody stays signed in.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use nullpass::auth::Error;
use nullpass::auth::chain::Verified;
use nullpass::auth::keys::KeyStatus;
use nullpass::config::Config;
use nullpass::model::{Action, Secret, User};
use nullpass::store::{AuditQuery, STORAGE_KEYS, StorageKeys, Store, UserQuery, WRAPPED_VALUES};
use serde_json::{Value, json};

use crate::support::{PASSWORD, Replicas, Server, code, soon};

const DAY: u64 = 24 * 3600;

fn kid(token: &str) -> String {
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

async fn published(server: &Server) -> Vec<String> {
    let set = server.get("/_auth/.well-known/jwks.json", &[]).await.is(200).json();
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

async fn rotate(server: &Server) {
    server.auth().rotate_signing_keys("cli", server.now()).await.unwrap();
}

/// Replaces the storage key to the end.
async fn replace(server: &Server) -> u64 {
    let total = server.auth().begin_storage_rotation("cli", server.now()).await.unwrap();
    let (mut after, mut seen) = (None, 0);
    loop {
        let step = server.auth().rewrap_some(after, "cli", server.now()).await.unwrap();
        seen += step.seen;
        after = step.next;
        if step.finished {
            assert!(seen >= total, "{seen} of {total}");
            return total;
        }
    }
}

/// The versions in front of everything that is wrapped.
async fn versions(store: &dyn Store) -> Vec<u8> {
    let users = store.users(&UserQuery { limit: 1000, ..UserQuery::default() }).await.unwrap();
    let mut versions: Vec<u8> = users.iter().map(|user| user.data_key.0[0]).collect();
    versions.extend(store.signing_keys().await.unwrap().iter().map(|key| key.private.0[0]));
    for name in WRAPPED_VALUES {
        versions.push(store.meta(name).await.unwrap().unwrap()[0]);
    }
    versions.sort_unstable();
    versions.dedup();
    versions
}

async fn known(store: &dyn Store) -> StorageKeys {
    StorageKeys::decode(&store.meta(STORAGE_KEYS).await.unwrap().unwrap()).unwrap()
}

fn key(fill: u8) -> Secret<Vec<u8>> {
    Secret::new((0..32_u8).map(|place| place.wrapping_mul(41) ^ fill).collect())
}

/// The new key, and the present one as the one before it.
fn both(config: &mut Config, new: &Secret<Vec<u8>>) {
    config.storage.previous_master_key = config.storage.master_key.replace(new.clone());
}

// A new key signs from now on, the old one verifies until the last token made with it has run out.
#[tokio::test]
async fn a_rotation_of_the_signing_key_signs_nobody_out() {
    let server = Server::start("").await;
    let (_, before) = server.signed_in("ada@example.com").await;
    let cookie = server.log_in_by_cookie("ada@example.com").await;
    let old = kid(&before);
    assert_eq!(published(&server).await, [old.as_str()]);

    server.wait(DAY);
    let pending = {
        let (_, token) = server.signed_in("bob@example.com").await;
        server.enrol(&token).await
    };
    let login = json!({ "email": "bob@example.com", "password": PASSWORD });
    let begun = server.api("POST", "/auth/login", None, &login).await.is(200).json();
    rotate(&server).await;
    let after = server.api("POST", "/auth/refresh", Some(&before), &Value::Null).await.is(200).json()["token"].as_str().unwrap().to_owned();
    let new = kid(&after);
    assert_ne!(new, old);
    assert_eq!(published(&server).await, [new.as_str(), old.as_str()], "both, the newest first");
    assert_eq!([server.status(&before).await, server.status(&after).await, server.status_by_cookie(&cookie).await], [200; 3]);
    // A sign-in that was half done goes on.
    server.wait(31);
    let body = json!({ "pendingToken": begun["pendingToken"], "verificationCode": code(&pending.0, server.now()) });
    let token = server.api("POST", "/auth/login/2fa", None, &body).await.is(200).json()["token"].as_str().unwrap().to_owned();
    assert_eq!(kid(&token), new);

    let views = server.auth().signing_keys().await.unwrap();
    assert_eq!((views[0].kid.0.as_str(), views[0].status), (new.as_str(), KeyStatus::Signing));
    let KeyStatus::Verifying(until) = views[1].status else { panic!("{views:?}") };
    // Seven days after it was replaced its last token is over; a little later it goes.
    let left = until.since(server.now());
    assert!(left > Duration::from_secs(7 * DAY - 60) && left < Duration::from_secs(7 * DAY + 1200), "{left:?}");
    server.wait(left.as_secs() - 1);
    server.auth().purge(server.now()).await.unwrap();
    assert_eq!(published(&server).await.len(), 2);
    server.wait(2);
    server.auth().purge(server.now()).await.unwrap();
    assert_eq!(published(&server).await, [new.as_str()]);
    // What it signed is refused, and still known as ours: it never reaches the application.
    server.upstream.take();
    assert_eq!(server.status(&before).await, 401);
    assert!(server.upstream.take().is_empty());
}

// A token of the old key that this process has never seen is good as long as it lasts, also after a restart.
#[tokio::test]
async fn both_keys_are_there_after_a_restart() {
    let mut server = Server::start("").await;
    let (_, before) = server.signed_in("ada@example.com").await;
    rotate(&server).await;
    let after = server.log_in("ada@example.com").await;
    server.restart().await;
    assert_eq!([server.status(&before).await, server.status(&after).await], [200, 200]);
    for token in [&before, &after] {
        server.api("POST", "/auth/verify", None, &json!({ "token": token })).await.is(200);
    }
    assert_eq!(kid(&server.log_in("ada@example.com").await), kid(&after), "nor does a restart go back to the old one");
}

// What is signed for others is signed by a key that can be published, and both kinds are replaced.
#[tokio::test]
async fn every_key_that_signs_is_replaced() {
    let server = Server::start("[tokens]\nalgorithm = \"HS256\"\n").await;
    let (_, before) = server.signed_in("ada@example.com").await;
    let assertion = published(&server).await;
    rotate(&server).await;
    let now = published(&server).await;
    assert_eq!((assertion.len(), now.len(), &now[1]), (1, 2, &assertion[0]));
    let after = server.log_in("ada@example.com").await;
    assert_ne!(kid(&after), kid(&before));
    assert!(!now.contains(&kid(&after)) && !now.contains(&kid(&before)), "an HMAC key is never published");
    assert_eq!([server.status(&before).await, server.status(&after).await], [200, 200]);
}

// A clock that was put back does not bring the old key back.
#[tokio::test]
async fn the_newest_key_signs_whatever_the_clock_says() {
    let server = Server::start("").await;
    let (_, before) = server.signed_in("ada@example.com").await;
    server.auth().rotate_signing_keys("cli", server.now().minus(Duration::from_hours(2))).await.unwrap();
    assert_ne!(kid(&server.log_in("ada@example.com").await), kid(&before));
}

// Tokens that live longer than those a key was made for need another key, or they would outlive it.
#[tokio::test]
async fn a_longer_life_is_a_rotation() {
    let mut server = Server::start("[tokens]\nttl = \"1d\"\n").await;
    let (_, short) = server.signed_in("ada@example.com").await;
    server.restart().await;
    assert_eq!(published(&server).await, [kid(&short)]);
    server.config.tokens.ttl = Duration::from_secs(3 * DAY);
    server.restart().await;
    let long = server.log_in("ada@example.com").await;
    assert_ne!(kid(&long), kid(&short));
    // Back to a short life, and a rotation: the key stays as long as the long one's tokens.
    server.config.tokens.ttl = Duration::from_secs(3600);
    server.restart().await;
    rotate(&server).await;
    server.wait(2 * DAY);
    server.auth().purge(server.now()).await.unwrap();
    assert!(published(&server).await.contains(&kid(&long)) && !published(&server).await.contains(&kid(&short)));
    assert_eq!(server.status(&long).await, 200);
}

// Keys are bounded, and nothing is lost where there are too many.
#[tokio::test]
async fn there_are_never_too_many_keys() {
    let server = Server::start("").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let refused = loop {
        match server.auth().rotate_signing_keys("cli", server.now()).await {
            Ok(keys) => assert!(keys.len() <= 64),
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, Error::Keys(text) if text.contains("still verify")), "{refused}");
    assert_eq!(server.status(&token).await, 200);
    assert_eq!(published(&server).await.len(), 64);
}

// Others sign with the new key as soon as they hear of it, and know its tokens before.
#[tokio::test]
async fn a_rotation_counts_everywhere() {
    let replicas = Replicas::start("").await;
    let (_, before) = replicas.servers[0].signed_in("ada@example.com").await;
    replicas.members[2].set_mute(true);
    rotate(&replicas.servers[0]).await;
    let after = replicas.servers[0].log_in("ada@example.com").await;
    assert_ne!(kid(&after), kid(&before));
    // Also where the news are late: it looks.
    assert_eq!(replicas.statuses(&after).await, [200; 3]);
    assert_eq!(replicas.statuses(&before).await, [200; 3]);
    soon("all sign with the new one", async || {
        let mut kids = Vec::new();
        for server in &replicas.servers {
            kids.push(kid(&server.log_in("ada@example.com").await));
        }
        kids.iter().all(|found| *found == kid(&after))
    })
    .await;
    for server in &replicas.servers {
        assert_eq!(published(server).await, [kid(&after), kid(&before)]);
    }
    // One that has not heard signs with the old one, which others know.
    replicas.members[2].set_mute(true);
    rotate(&replicas.servers[1]).await;
    let late = replicas.servers[2].log_in("ada@example.com").await;
    assert_eq!(replicas.statuses(&late).await, [200; 3]);
    replicas.wait(8 * DAY);
    replicas.servers[0].auth().purge(replicas.servers[0].now()).await.unwrap();
    assert_eq!(published(&replicas.servers[0]).await.len(), 1);
}

/// What somebody has who uses everything that is sealed.
struct Person {
    user: User,
    token: String,
    secret: String,
    recovery: Vec<String>,
}

async fn person(server: &Server) -> Person {
    let (id, token) = server.signed_in("ada@example.com").await;
    let (secret, recovery) = server.enrol(&token).await;
    Person { user: server.store().user(id).await.unwrap().unwrap(), token, secret, recovery }
}

/// Whether everything of theirs still opens: the session, its address, the second factor, a recovery code.
async fn is_whole(server: &Server, person: &Person, codes: usize) {
    assert_eq!(server.status(&person.token).await, 200);
    let sessions = server.api("GET", "/auth/sessions", Some(&person.token), &Value::Null).await.is(200).json();
    assert_eq!(sessions["sessions"][0]["ip"], "127.0.0.1");
    let events = server.auth().own_events(person.user.id, None, 0, 50).await.unwrap();
    assert!(events.iter().any(|event| event.ip.is_some()), "what the audit log has stays readable, and is not rewritten");
    server.wait(31);
    let login = json!({ "email": "ada@example.com", "password": PASSWORD, "verificationCode": code(&person.secret, server.now()) });
    server.api("POST", "/auth/login", None, &login).await.is(200);
    let login = json!({ "email": "ada@example.com", "password": PASSWORD });
    let begun = server.api("POST", "/auth/login", None, &login).await.is(200).json();
    let body = json!({ "pendingToken": begun["pendingToken"], "recoveryCode": person.recovery[codes] });
    server.api("POST", "/auth/login/2fa", None, &body).await.is(200);
}

// NP-4, NP-11: another storage key wraps everything anew, and nobody notices; the old one opens nothing any more.
#[tokio::test]
async fn the_storage_key_is_replaced_under_everybody() {
    let mut server = Server::start("").await;
    let person = person(&server).await;
    server.account("bob@example.com", &[]).await;
    let (old, events) = (server.config.storage.clone(), server.auth().own_events(person.user.id, None, 0, 50).await.unwrap().len());
    let old_file = std::fs::read(server.data().join("master.key")).ok();
    let makes_its_own = old_file.is_some();
    if !makes_its_own {
        // Nothing to rotate to, and that is said.
        let error = server.auth().begin_storage_rotation("cli", server.now()).await.unwrap_err();
        assert!(error.to_string().contains("storage.previous_master_key"), "{error}");
        assert!(server.reload(|config| both(config, &key(7))).await.unwrap().is_empty(), "without a restart");
        both(&mut server.config, &key(7));
    }
    assert_eq!(versions(&**server.store()).await, [1]);
    let total = replace(&server).await;
    assert_eq!(total, 4, "two accounts, a signing key and the installation's own");
    assert_eq!(versions(&**server.store()).await, [2]);
    assert_eq!(known(&**server.store()).await.before, None);
    is_whole(&server, &person, 0).await;
    assert!(server.auth().own_events(person.user.id, None, 0, 500).await.unwrap().len() >= events);
    let carol = server.account("carol@example.com", &[]).await;
    assert_eq!(carol.data_key.0[0], 2);

    // Without the old key from here on.
    server.config.storage.previous_master_key = None;
    server.restart().await;
    is_whole(&server, &person, 1).await;
    if let Some(old_file) = old_file {
        let file = server.data().join("master.key");
        let new_file = std::fs::read(&file).unwrap();
        assert_ne!(new_file, old_file);
        assert!(!server.data().join("master.key.new").exists());
        server.end().await;
        std::fs::write(&file, &old_file).unwrap();
        assert!(server.fails_to_start(&server.config, &server.time).await, "the old key opens nothing");
        std::fs::remove_file(&file).unwrap();
        assert!(server.fails_to_start(&server.config, &server.time).await, "and no key is not a new one");
        assert!(!file.exists());
        std::fs::write(&file, &new_file).unwrap();
    } else {
        server.end().await;
        let config = Config { storage: old, ..server.config.clone() };
        assert!(server.fails_to_start(&config, &server.time).await, "the old key opens nothing");
    }
}

/// The recorded rotations, oldest first: what, by whom, and how far.
async fn recorded(server: &Server) -> Vec<(Action, Option<String>, Option<String>)> {
    let events = server.auth().events(&AuditQuery { limit: 1000, ..AuditQuery::default() }).await.unwrap();
    let of_keys = |action| matches!(action, Action::SigningKeyRotate | Action::StorageKeyRotate);
    let mut found: Vec<_> = events.into_iter().map(|view| view.event).filter(|event| of_keys(event.action)).collect();
    found.reverse();
    found.into_iter().map(|event| (event.action, event.actor, event.details.get("step").cloned())).collect()
}

// Each rotation is recorded with what it does; with audit.required not one is begun that can't be.
#[tokio::test]
async fn rotations_are_recorded() {
    let mut server = Server::start("[audit]\nrequired = true\n").await;
    if !server.data().join("master.key").exists() {
        both(&mut server.config, &key(7));
        server.restart().await;
    }
    server.store().set_audit_fails(true);
    let before = server.auth().signing_keys().await.unwrap();
    assert!(server.auth().rotate_signing_keys("cli", server.now()).await.is_err());
    assert!(server.auth().begin_storage_rotation("cli", server.now()).await.is_err());
    server.store().set_audit_fails(false);
    assert_eq!(server.auth().signing_keys().await.unwrap(), before);
    assert_eq!(known(&**server.store()).await.current.version, 1);
    assert_eq!(recorded(&server).await, []);
    rotate(&server).await;
    replace(&server).await;
    // One that has come to its end is not gone on with, and no event tells of nothing.
    assert!(server.auth().rewrap_some(None, "cli", server.now()).await.unwrap().finished);
    let by_cli = |action, step: Option<&str>| (action, Some("cli".to_owned()), step.map(str::to_owned));
    let expected = [
        by_cli(Action::SigningKeyRotate, None),
        by_cli(Action::StorageKeyRotate, Some("begun")),
        by_cli(Action::StorageKeyRotate, Some("finished")),
    ];
    assert_eq!(recorded(&server).await, expected);
    for chain in server.auth().audit_chains().await.unwrap() {
        let verified = server.auth().verify_audit(chain.writer, None, None).await.unwrap();
        assert!(matches!(verified, Verified::Whole { .. }), "{verified:?}");
    }
}

// NP-4: broken off after any step, with a new process each time: both keys are needed until it has come to its end, and it does.
#[tokio::test]
async fn a_rotation_that_is_broken_off_goes_on() {
    let mut server = Server::start("").await;
    let person = person(&server).await;
    let makes_its_own = server.data().join("master.key").exists();
    let before = server.config.storage.master_key.clone();
    if !makes_its_own {
        both(&mut server.config, &key(7));
        server.restart().await;
    }
    // Begun, and nothing wrapped yet.
    server.auth().begin_storage_rotation("cli", server.now()).await.unwrap();
    server.restart().await;
    assert_eq!(versions(&**server.store()).await, [1]);
    let new = server.account("new@example.com", &[]).await;
    assert_eq!(new.data_key.0[0], 2, "what is new is wrapped with the new one");
    is_whole(&server, &person, 0).await;
    assert_eq!(versions(&**server.store()).await, [1, 2]);
    let view = server.auth().storage_key().await.unwrap();
    assert_eq!((view.version, view.left), (2, Some(3)));

    // Neither of the two may be missing.
    server.end().await;
    if makes_its_own {
        for name in ["master.key", "master.key.new"] {
            let (file, kept) = (server.data().join(name), server.data().join("elsewhere"));
            std::fs::rename(&file, &kept).unwrap();
            assert!(server.fails_to_start(&server.config, &server.time).await, "without {name}");
            assert!(!file.exists(), "{name} is not made anew");
            std::fs::rename(&kept, &file).unwrap();
        }
    } else {
        for only in [before, Some(key(7))] {
            let mut config = server.config.clone();
            config.storage.master_key = only;
            config.storage.previous_master_key = None;
            assert!(server.fails_to_start(&config, &server.time).await);
        }
    }
    server.restart_ended().await;
    assert_eq!(replace(&server).await, 4);
    assert_eq!(versions(&**server.store()).await, [2]);
    is_whole(&server, &person, 1).await;
    // A second one begins where this one ended.
    if makes_its_own {
        replace(&server).await;
        assert_eq!(versions(&**server.store()).await, [3]);
        server.restart().await;
        is_whole(&server, &person, 2).await;
    }
}

// A reload with keys that do not fit is refused as a whole, and the keys before stay.
#[tokio::test]
async fn keys_that_do_not_fit_are_not_taken() {
    let replicas = Replicas::start("").await;
    let server = &replicas.servers[0];
    let (_, token) = server.signed_in("ada@example.com").await;
    let error = server.reload(|config| config.storage.master_key = Some(key(9))).await.unwrap_err();
    assert!(error.to_string().contains("not the one that this data was sealed with"), "{error}");
    assert_eq!(server.status(&token).await, 200);
    server.account("bob@example.com", &[]).await;
    server.log_in("bob@example.com").await;
}

// With several processes all get both keys first; then one rotates, and nobody notices, whoever has heard of it.
#[tokio::test]
async fn the_storage_key_is_replaced_under_many() {
    let replicas = Replicas::start("").await;
    let (_, token) = replicas.servers[0].signed_in("ada@example.com").await;
    let shared = replicas.store().others_without_key(&nullpass::model::Digest([0; 32])).await.unwrap() > 0;
    replicas.servers[0].reload(|config| both(config, &key(7))).await.unwrap();
    if shared {
        // Two do not have it yet, and that is found out.
        let error = replicas.servers[0].auth().begin_storage_rotation("cli", replicas.servers[0].now()).await.unwrap_err();
        assert!(error.to_string().contains("do not have the new master key: 2"), "{error}");
        assert_eq!(versions(&**replicas.store()).await, [1]);
    }
    for server in &replicas.servers[1..] {
        server.reload(|config| both(config, &key(7))).await.unwrap();
    }
    let total = replicas.servers[0].auth().begin_storage_rotation("cli", replicas.servers[0].now()).await.unwrap();
    // Nobody tells the others: the state refuses what they wrap with the old key, and they look.
    for (place, server) in replicas.servers.iter().enumerate() {
        let user = server.account(&format!("p{place}@example.com"), &[]).await;
        assert_eq!(user.data_key.0[0], 2);
        server.log_in(&user.email.to_string()).await;
        server.log_in("ada@example.com").await;
    }
    // Anybody goes on with it, also several at once.
    let (one, two) = tokio::join!(replace(&replicas.servers[1]), replace(&replicas.servers[2]));
    assert!(one >= total && two >= total);
    assert_eq!(recorded(&replicas.servers[0]).await.len(), 2, "one beginning and one end, however many took part");
    assert_eq!(versions(&**replicas.store()).await, [2]);
    for server in &replicas.servers {
        server.reload(|config| config.storage.master_key = Some(key(7))).await.unwrap();
        server.log_in("ada@example.com").await;
        rotate(server).await;
    }
    assert_eq!(versions(&**replicas.store()).await, [2]);
    assert_eq!(replicas.statuses(&token).await, [200; 3]);
    let late = Arc::clone(&replicas.servers[0]);
    assert!(late.reload(|_| ()).await.is_err(), "the old key is refused");
}
