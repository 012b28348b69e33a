//! The audit log of a running sidecar: what is recorded, what happens when nothing can be, and what stays of it when an
//! account is deleted.

use std::time::Duration;

use nullpass::auth::chain::Verified;
use nullpass::model::{Action, Outcome};
use nullpass::store::AuditQuery;
use nullpass::store::chain::WriterId;
use serde_json::{Value, json};

use crate::support::{Connection, PASSWORD, Server};

async fn all(server: &Server) -> Vec<nullpass::auth::audit::EventView> {
    server.auth().events(&AuditQuery { limit: 1000, ..AuditQuery::default() }).await.unwrap()
}

async fn actions(server: &Server) -> Vec<(Action, Outcome)> {
    all(server).await.iter().rev().map(|view| (view.event.action, view.event.outcome)).collect()
}

async fn is_whole(server: &Server) -> bool {
    let auth = server.auth();
    let mut whole = auth.audit_strays().await.unwrap().is_empty();
    for chain in auth.audit_chains().await.unwrap() {
        whole &= matches!(auth.verify_audit(chain.writer, None, None).await.unwrap(), Verified::Whole { .. });
    }
    whole
}

async fn failures(server: &Server) -> f64 {
    let metrics = Connection::to(server.admin_address()).await.send("GET", "/metrics", &[], b"").await.is(200).text();
    let line = metrics.lines().find(|line| line.contains("audit_failed")).expect("the counter");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

// Contract 7: every step is recorded, failures too, in one chain that holds.
#[tokio::test]
async fn what_is_done_and_what_is_refused_is_recorded() {
    let server = Server::start("[accounts]\nregistration = \"open\"\n[sessions]\nmax_per_user = 2\n").await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let first = server.api("POST", "/auth/register", None, &body).await.is(201).json()["token"].as_str().unwrap().to_owned();
    server.api("POST", "/auth/register", None, &body).await.is(409);
    server.try_log_in("ada@example.com", "wrong-password").await.is(401);
    server.try_log_in("nobody@example.com", "wrong-password").await.is(401);
    let token = server.log_in("ada@example.com").await;
    server.api("PATCH", "/auth/me", Some(&token), &json!({ "displayName": "Ada" })).await.is(200);
    server.log_in("ada@example.com").await;
    assert_eq!(server.status(&first).await, 401);
    server.api("POST", "/auth/logout", Some(&token), &Value::Null).await.is(200);
    let (done, refused) = (Outcome::Success, Outcome::Failure);
    let expected = [
        (Action::UserRegister, done),
        (Action::SessionCreate, done),
        (Action::UserRegister, refused),
        (Action::LoginFailed, refused),
        (Action::LoginFailed, refused),
        (Action::SessionCreate, done),
        (Action::UserLogin, done),
        (Action::UserUpdate, done),
        (Action::SessionCreate, done),
        (Action::UserLogin, done),
        (Action::SessionDelete, done),
        (Action::UserLogout, done),
    ];
    assert_eq!(actions(&server).await, expected);
    // The address is there for who runs this, for known and unknown accounts.
    assert!(all(&server).await.iter().all(|view| view.ip.as_deref() == Some("127.0.0.1")));
    assert!(is_whole(&server).await);
}

// With a session its events are one write, so that a sign-in does not wait for the disk once for each.
#[tokio::test]
async fn a_sign_in_is_recorded_with_its_session() {
    let server = Server::start("").await;
    server.account("ada@example.com", &[]).await;
    server.store().take_asked();
    server.log_in("ada@example.com").await;
    let asked = server.store().take_asked();
    assert!(asked.contains(&"insert_session") && !asked.contains(&"append_audit"), "{asked:?}");
}

// NP-10: with audit.required what can't be recorded is not done, and is told apart from what is wrong.
#[tokio::test]
async fn what_must_be_recorded_and_cannot_be_is_not_done() {
    let server = Server::start("[audit]\nrequired = true\n[accounts]\nregistration = \"open\"\n").await;
    let (id, token) = server.signed_in("ada@example.com").await;
    let before = all(&server).await.len();
    server.store().set_audit_fails(true);
    let counted = failures(&server).await;
    assert!(!server.try_log_in("ada@example.com", PASSWORD).await.is(503).field("retry-after").is_empty());
    server.try_log_in("ada@example.com", "wrong-password").await.is(503);
    let body = json!({ "email": "eve@example.com", "password": PASSWORD });
    server.api("POST", "/auth/register", None, &body).await.is(503);
    server.api("PATCH", "/auth/me", Some(&token), &json!({ "displayName": "Ada" })).await.is(503);
    let change = json!({ "currentPassword": PASSWORD, "newPassword": "another-Orchard-20-door" });
    server.api("POST", "/auth/password", Some(&token), &change).await.is(503);
    server.api("POST", "/auth/logout", Some(&token), &Value::Null).await.is(503);
    server.api("DELETE", "/auth/me", Some(&token), &json!({ "password": PASSWORD })).await.is(503);
    let auth = server.auth();
    assert!(auth.disable_user(id, "cli", server.time.now()).await.is_err());
    assert_eq!(failures(&server).await, counted + 8.0);
    server.store().set_audit_fails(false);
    // Nothing of it was done: the session lives, the name, the password and the accounts are as they were.
    assert_eq!(server.status(&token).await, 200);
    let me = server.api("GET", "/auth/me", Some(&token), &Value::Null).await.is(200).json();
    assert_eq!(me["user"]["displayName"], Value::Null);
    server.try_log_in("eve@example.com", PASSWORD).await.is(401);
    server.log_in("ada@example.com").await;
    assert_eq!(all(&server).await.len(), before + 3, "only what was done since");
    assert!(is_whole(&server).await);
}

// Without it everything goes on, and the loss is seen.
#[tokio::test]
async fn what_need_not_be_recorded_is_done_all_the_same() {
    let server = Server::start("[accounts]\nregistration = \"open\"\n").await;
    let (_, token) = server.signed_in("ada@example.com").await;
    let before = all(&server).await.len();
    server.store().set_audit_fails(true);
    let counted = failures(&server).await;
    server.try_log_in("ada@example.com", "wrong-password").await.is(401);
    server.log_in("ada@example.com").await;
    server.api("PATCH", "/auth/me", Some(&token), &json!({ "displayName": "Ada" })).await.is(200);
    server.api("POST", "/auth/logout", Some(&token), &Value::Null).await.is(200);
    assert_eq!(server.status(&token).await, 401);
    assert_eq!(failures(&server).await, counted + 4.0);
    assert_eq!(all(&server).await.len(), before);
    // It can be demanded while it runs.
    server.reload(|config| config.audit.required = true).await.unwrap();
    server.try_log_in("ada@example.com", PASSWORD).await.is(503);
    server.store().set_audit_fails(false);
    server.log_in("ada@example.com").await;
    assert!(is_whole(&server).await);
}

// Contract 8: a deleted account's events stay, what only its key opens is gone for good, and the chain is whole.
#[tokio::test]
async fn what_an_account_leaves_can_not_be_read() {
    let server = Server::start("").await;
    let (id, token) = server.signed_in("ada@example.com").await;
    server.try_log_in("ada@example.com", "wrong-password").await.is(401);
    let of_ada = AuditQuery { user: Some(id), limit: 100, ..AuditQuery::default() };
    let before = server.auth().events(&of_ada).await.unwrap();
    assert!(before.iter().all(|view| view.ip.is_some() && view.email.is_some()));
    server.api("DELETE", "/auth/me", Some(&token), &json!({ "password": PASSWORD })).await.is(200);
    let after = server.auth().events(&of_ada).await.unwrap();
    assert_eq!(after.len(), before.len() + 1, "its deletion is recorded");
    assert!(after.iter().all(|view| view.ip.is_none() && view.user_agent.is_none() && view.email.is_none()));
    assert!(after.iter().all(|view| view.event.client.is_some()));
    assert!(is_whole(&server).await);
}

// Retention by the configuration, which may change while it runs.
#[tokio::test]
async fn what_has_run_out_is_removed_and_the_rest_holds() {
    let mut server = Server::start("[audit]\nretention = \"2h\"\n").await;
    server.signed_in("ada@example.com").await;
    let old = all(&server).await.len();
    server.wait(3600);
    server.log_in("ada@example.com").await;
    server.auth().purge(server.time.now()).await.unwrap();
    assert_eq!(all(&server).await.len(), old + 2);
    server.clock.advance(Duration::from_secs(3601));
    server.auth().purge(server.time.now()).await.unwrap();
    assert_eq!(all(&server).await.len(), 2);
    assert!(server.auth().audit_chains().await.unwrap()[0].base.seq > 0);
    assert!(is_whole(&server).await);
    server.reload(|config| config.audit.retention = None).await.unwrap();
    server.clock.advance(Duration::from_secs(1_000_000));
    server.auth().purge(server.time.now()).await.unwrap();
    assert_eq!(all(&server).await.len(), 2);
    // The same key after a restart: the chain goes on.
    server.restart().await;
    server.log_in("ada@example.com").await;
    assert!(is_whole(&server).await);
    assert_eq!(all(&server).await.len(), 4);
}

// A head that was kept elsewhere shows what the log alone can't: that it ends too early.
#[tokio::test]
async fn an_exported_head_shows_what_is_gone() {
    let server = Server::start("").await;
    server.signed_in("ada@example.com").await;
    let auth = server.auth();
    let head = auth.audit_chains().await.unwrap()[0].head;
    let kept = nullpass::store::chain::Walk { seq: head.seq, link: head.link };
    let verify = async |exported| auth.verify_audit(WriterId::FIRST, None, Some(exported)).await.unwrap();
    assert!(matches!(verify(kept).await, Verified::Whole { .. }));
    server.log_in("ada@example.com").await;
    assert!(matches!(verify(kept).await, Verified::Whole { .. }));
    let later = nullpass::store::chain::Walk { seq: 1000, ..kept };
    let other = nullpass::store::chain::Walk { seq: 1, ..kept };
    assert!(matches!(verify(later).await, Verified::Broken { fault: nullpass::store::chain::Fault::CutOff { .. } }));
    assert!(matches!(verify(other).await, Verified::Broken { fault: nullpass::store::chain::Fault::Rewritten { seq: 1 } }));
    assert!(matches!(auth.verify_audit(WriterId(77), None, None).await.unwrap(), Verified::Broken { .. }));
}
