//! Single promises of the contract, for every backend.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use nullpass::clock::Timestamp;
use nullpass::model::{
    Action, ApiToken, ApiTokenId, AuditEvent, Digest, EventId, Generation, Kid, Rotation, Sealed, Session, SessionId, SessionTouch, User,
    UserId,
};
use nullpass::store::{
    AuditQuery, Error, Purpose, Rewrap, STORAGE_KEYS, SessionSelector, StorageKeys, Store, UserQuery, WRAPPED_VALUES, Wrapped,
};
use tokio::task::JoinSet;

use super::Backend;
use super::fixtures::{api_token, at, digest, email, event, session, signing_key, token, user};

const TASKS: u64 = 50;

/// Runs `work` in many tasks at once and returns all results.
async fn at_once<T, F>(store: &Arc<dyn Store>, work: impl Fn(Arc<dyn Store>, u64) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: JoinSet<T> = (0..TASKS).map(|number| work(Arc::clone(store), number)).collect();
    tasks.join_all().await
}

pub(crate) async fn one_of_many_gets_an_address<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let results = at_once(&store, |store, _| async move { store.insert_user(&user(UserId::new(), email(1)), false).await }).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(Error::Conflict))));
    assert_eq!(store.users(&UserQuery { limit: 100, ..UserQuery::default() }).await.unwrap().len(), 1);
}

pub(crate) async fn one_of_many_changes_a_user<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let first = user(UserId::new(), email(0));
    store.insert_user(&first, false).await.unwrap();
    let results = at_once(&store, |store, number| {
        let mut user = first.clone();
        user.email = email(number + 1);
        async move { store.replace_user(&user).await }
    })
    .await;
    let mut changed = results.into_iter().filter_map(Result::ok);
    let winner = changed.next().unwrap();
    assert!(changed.next().is_none());
    assert_eq!(winner.revision, first.revision + 1);
    assert_eq!(store.user_by_email(&winner.email).await.unwrap(), Some(winner));
    assert_eq!(store.user_by_email(&first.email).await.unwrap(), None);
}

/// An account changes with its sessions, or neither does.
pub(crate) async fn an_account_is_replaced_with_its_sessions<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let owners = [user(UserId::new(), email(1)), user(UserId::new(), email(2))];
    for owner in &owners {
        store.insert_user(owner, false).await.unwrap();
    }
    let mut sessions = [0, 0, 1].map(|owner: usize| session(SessionId::new(), owners[owner].id, at(1000)));
    sessions[..2].sort_by_key(|session| session.id);
    for session in &sessions {
        store.insert_session(session, None).await.unwrap();
    }
    for refused in [User { revision: 7, ..owners[0].clone() }, User { email: email(2), ..owners[0].clone() }] {
        let error = store.replace_user_and_end_sessions(&refused).await.unwrap_err();
        assert!(matches!(error, Error::Stale | Error::Conflict), "{error}");
        assert_eq!(store.sessions_of(owners[0].id).await.unwrap().len(), 2);
    }
    let (changed, ended) = store.replace_user_and_end_sessions(&User { email: email(3), ..owners[0].clone() }).await.unwrap();
    assert_eq!(ended, [sessions[0].id, sessions[1].id]);
    assert_eq!((changed.email.clone(), changed.revision), (email(3), owners[0].revision + 1));
    assert_eq!(store.user(owners[0].id).await.unwrap(), Some(changed.clone()));
    assert_eq!(store.sessions_of(owners[0].id).await.unwrap(), []);
    assert_eq!(store.session(sessions[2].id).await.unwrap(), Some(sessions[2].clone()));
    assert_eq!(store.replace_user_and_end_sessions(&changed).await.unwrap().1, []);
}

// JWT-2: a one-time thing is consumed atomically, and one purpose can't consume another's.
pub(crate) async fn what_is_spent_once_is_spent_by_one<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let owner = user(UserId::new(), email(1));
    store.insert_user(&owner, false).await.unwrap();
    for round in 0..3 {
        let spent =
            at_once(&store, move |store, _| async move { store.spend_once(Purpose::PendingLogin, digest(round), at(1000)).await.unwrap() })
                .await;
        assert_eq!(spent.into_iter().filter(|spent| *spent).count(), 1);
        assert!(store.spend_once(Purpose::Setup, digest(round), at(1000)).await.unwrap());
        // NP-5: a code is good once.
        let id = owner.id;
        let spent = at_once(&store, move |store, _| async move { store.spend_totp_step(id, 100 + round).await.unwrap() }).await;
        assert_eq!(spent.into_iter().filter(|spent| *spent).count(), 1);
        assert!(!store.spend_totp_step(id, 99).await.unwrap(), "an earlier step");
    }
}

pub(crate) async fn one_of_many_rotates<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let owner = user(UserId::new(), email(1));
    store.insert_user(&owner, false).await.unwrap();
    let id = SessionId::new();
    store.insert_session(&session(id, owner.id, at(1000)), None).await.unwrap();
    let results = at_once(&store, move |store, number| async move {
        let grace = Duration::from_mins(1);
        store.rotate_session(id, Generation(0), token(number + 1, 0), grace, at(2)).await.unwrap()
    })
    .await;
    let rotated = results.iter().filter(|rotation| matches!(rotation, Rotation::Rotated(_))).count();
    let grace = results.iter().filter(|rotation| matches!(rotation, Rotation::Grace(_))).count();
    assert_eq!((rotated, grace), (1, results.len() - 1), "the others come within the grace");
    assert_eq!(store.session(id).await.unwrap().unwrap().generation, Generation(1));
}

pub(crate) async fn a_generation_is_good_for_the_grace_after_its_successor_was_seen<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let owner = user(UserId::new(), email(1));
    store.insert_user(&owner, false).await.unwrap();
    let id = SessionId::new();
    store.insert_session(&session(id, owner.id, at(1000)), None).await.unwrap();
    let grace = Duration::from_mins(1);
    let rotate = |presented, number, now| store.rotate_session(id, Generation(presented), token(number, 0), grace, now);
    assert!(matches!(rotate(1, 1, at(2)).await.unwrap(), Rotation::Reused(_)), "a generation that was never given out");
    assert!(matches!(rotate(0, 1, at(2)).await.unwrap(), Rotation::Rotated(session) if session.tokens.last() == Some(&token(1, 1))));
    // Not seen: the answer may have been lost, however long ago.
    assert!(matches!(rotate(0, 2, at(900)).await.unwrap(), Rotation::Grace(session) if session.tokens.last() == Some(&token(2, 1))));
    let touch = SessionTouch { id, last_seen_at: at(100), successor_seen_at: Some((Generation(1), at(100))), renewed: None };
    store.touch_sessions(&[touch]).await.unwrap();
    assert!(matches!(rotate(0, 3, at(160)).await.unwrap(), Rotation::Grace(_)));
    let before = store.session(id).await.unwrap().unwrap();
    assert_eq!(rotate(0, 4, Timestamp::from_millis(160_001)).await.unwrap(), Rotation::Reused(before.clone()));
    assert_eq!(store.session(id).await.unwrap(), Some(before), "theft changes nothing here");
    assert!(matches!(rotate(1, 5, at(161)).await.unwrap(), Rotation::Rotated(session) if session.successor_seen_at.is_none()));
    assert!(matches!(rotate(0, 6, at(161)).await.unwrap(), Rotation::Reused(_)), "two behind");
}

pub(crate) async fn many_are_touched_in_any_order_and_more_than_once<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let owner = user(UserId::new(), email(1));
    store.insert_user(&owner, false).await.unwrap();
    let ids: Vec<SessionId> = (0..100).map(|_| SessionId::new()).collect();
    for id in &ids {
        store.insert_session(&session(*id, owner.id, at(1000)), None).await.unwrap();
    }
    store.delete_sessions(SessionSelector::One(ids[50])).await.unwrap();
    let touch = |id: &SessionId, seconds| SessionTouch { id: *id, last_seen_at: at(seconds), successor_seen_at: None, renewed: None };
    let later = ids.iter().rev().map(|id| touch(id, 200));
    // The later time counts, whichever comes first.
    let touches: Vec<_> =
        ids[..10].iter().map(|id| touch(id, 300)).chain(later).chain(ids[10..20].iter().map(|id| touch(id, 300))).collect();
    store.touch_sessions(&touches).await.unwrap();
    for (number, id) in ids.iter().enumerate() {
        let seen = store.session(*id).await.unwrap().map(|session| session.last_seen_at);
        let expected = match number {
            50 => None,
            ..20 => Some(at(300)),
            _ => Some(at(200)),
        };
        assert_eq!(seen, expected, "{number}");
    }
}

pub(crate) async fn an_audit_event_is_never_replaced<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let first = event(EventId::new(), at(1), Action::LoginFailed, None);
    store.append_audit(&first).await.unwrap();
    let forged = AuditEvent { action: Action::UserLogin, ..first.clone() };
    assert!(matches!(store.append_audit(&forged).await, Err(Error::Conflict)));
    assert_eq!(store.audit(&AuditQuery { limit: 10, ..AuditQuery::default() }).await.unwrap(), [first]);
}

/// Whatever the order in which they meet, no session or token outlives its user.
pub(crate) async fn nothing_outlives_its_user<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let owner = user(UserId::new(), email(1));
    store.insert_user(&owner, false).await.unwrap();
    let id = owner.id;
    let results = at_once(&store, move |store, number| async move {
        match number {
            25 => store.delete_user(id, at(3)).await.map(drop),
            odd if odd % 2 == 1 => store.insert_api_token(&api_token(ApiTokenId::new(), id, None)).await,
            _ => store.insert_session(&session(SessionId::new(), id, at(1000)), None).await.map(drop),
        }
    })
    .await;
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(Error::Stale))));
    let mut left = 0;
    let mut count = |_| {
        left += 1;
        ControlFlow::Continue(())
    };
    store.scan_sessions(&mut count).await.unwrap();
    let mut count = |_| {
        left += 1;
        ControlFlow::Continue(())
    };
    store.scan_api_tokens(&mut count).await.unwrap();
    assert_eq!(left, 0);
    assert!(!store.spend_totp_step(id, 1).await.unwrap());
}

/// What a process looks up that has not seen a token yet.
pub(crate) async fn a_token_is_found_with_its_account<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let owners = [user(UserId::new(), email(1)), user(UserId::new(), email(2))];
    for owner in &owners {
        store.insert_user(owner, false).await.unwrap();
    }
    let sessions = owners.each_ref().map(|owner| session(SessionId::new(), owner.id, at(1000)));
    let tokens = [1, 2].map(|number| ApiToken { digest: digest(number), ..api_token(ApiTokenId::new(), owners[0].id, None) });
    for (session, token) in sessions.iter().zip(&tokens) {
        store.insert_session(session, None).await.unwrap();
        store.insert_api_token(token).await.unwrap();
    }
    for (session, owner) in sessions.iter().zip(&owners) {
        assert_eq!(store.session_with_user(session.id).await.unwrap(), Some((session.clone(), owner.clone())));
    }
    for token in &tokens {
        assert_eq!(store.api_token_with_user(&token.digest).await.unwrap(), Some((token.clone(), owners[0].clone())));
    }
    assert_eq!(store.session_with_user(SessionId::new()).await.unwrap(), None);
    assert_eq!(store.api_token_with_user(&digest(3)).await.unwrap(), None);

    let renamed = store.replace_user(&User { email: email(3), ..owners[1].clone() }).await.unwrap();
    assert_eq!(store.session_with_user(sessions[1].id).await.unwrap(), Some((sessions[1].clone(), renamed)));
    assert!(store.delete_api_token(owners[0].id, tokens[1].id).await.unwrap());
    assert_eq!(store.api_token_with_user(&tokens[1].digest).await.unwrap(), None);
    store.delete_user(owners[0].id, at(3)).await.unwrap();
    assert_eq!(store.session_with_user(sessions[0].id).await.unwrap(), None);
    assert_eq!(store.api_token_with_user(&tokens[0].digest).await.unwrap(), None);
}

pub(crate) async fn what_is_too_large_is_refused_whole<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let mut large = user(UserId::new(), email(1));
    large.attributes.insert("note".to_owned(), "x".repeat(16 * 1024));
    assert!(matches!(store.insert_user(&large, false).await, Err(Error::TooLarge(size)) if size > 16 * 1024));
    assert_eq!(store.user(large.id).await.unwrap(), None);
    assert_eq!(store.user_by_email(&large.email).await.unwrap(), None);
    let small = user(large.id, email(1));
    store.insert_user(&small, false).await.unwrap();
    let larger = User { email: email(2), attributes: large.attributes.clone(), ..small.clone() };
    assert!(matches!(store.replace_user(&larger).await, Err(Error::TooLarge(_))));
    assert_eq!(store.user_by_email(&email(1)).await.unwrap(), Some(small));
    assert_eq!(store.user_by_email(&email(2)).await.unwrap(), None);
}

pub(crate) async fn the_address_of_a_deleted_account_is_retired<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let first = user(UserId::new(), email(1));
    store.insert_user(&first, false).await.unwrap();
    let id = SessionId::new();
    store.insert_session(&session(id, first.id, at(1000)), None).await.unwrap();
    assert_eq!(store.delete_user(first.id, at(2)).await.unwrap(), Some(vec![id]));
    assert_eq!(store.delete_user(first.id, at(2)).await.unwrap(), None);
    let second = user(UserId::new(), email(1));
    assert!(matches!(store.insert_user(&second, false).await, Err(Error::Retired)));
    assert_eq!(store.user_by_email(&email(1)).await.unwrap(), None);
    store.insert_user(&second, true).await.unwrap();
    assert!(store.sessions_of(second.id).await.unwrap().is_empty());
}

/// More of everything than a backend reads or removes at a time.
pub(crate) async fn many_records_are_scanned_and_purged_once_each<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let owner = user(UserId::new(), email(1));
    store.insert_user(&owner, false).await.unwrap();
    let ids: Vec<SessionId> = (0..2500).map(|_| SessionId::new()).collect();
    let shared = Arc::new(ids.clone());
    let user = owner.id;
    at_once(&store, |store, task| {
        let ids = Arc::clone(&shared);
        async move {
            for (number, id) in ids.iter().enumerate().skip(usize::try_from(task).unwrap()).step_by(50) {
                let end = if number == 0 { 1001 } else { 1000 };
                store.insert_session(&session(*id, user, at(end)), None).await.unwrap();
            }
        }
    })
    .await;
    let mut seen = Vec::new();
    let mut keep = |session: Session| {
        seen.push(session.id);
        ControlFlow::Continue(())
    };
    store.scan_sessions(&mut keep).await.unwrap();
    seen.sort_unstable();
    assert_eq!(seen, ids);
    let mut count = 0;
    let mut few = |_| {
        count += 1;
        if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.scan_sessions(&mut few).await.unwrap();
    assert_eq!(count, 3);
    assert!(store.purge(at(999), None).await.unwrap().sessions.is_empty());
    let mut purged = store.purge(at(1000), None).await.unwrap().sessions;
    purged.sort_unstable();
    assert_eq!(purged, ids[1..]);
    assert_eq!(store.delete_sessions(SessionSelector::OfUser(user)).await.unwrap(), [ids[0]]);
}

// NP-11: once the state says that another storage key wraps, nothing that the old one has wrapped comes after it, whoever
// has not heard; and who changes an account meanwhile does not bring the old wrap back.
pub(crate) async fn nothing_new_is_wrapped_by_an_old_key<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    let first = StorageKeys::first(Digest([1; 32]));
    assert!(store.swap_meta(STORAGE_KEYS, None, Some(&first.encode().unwrap())).await.unwrap());
    let old = |number: u64| user(UserId::new(), email(number));
    let mut known = Vec::new();
    for number in 0..10 {
        known.push(old(number));
        store.insert_user(&known[known.len() - 1], false).await.unwrap();
    }
    let changing: JoinSet<()> = known
        .iter()
        .map(|user| {
            let (store, id) = (Arc::clone(&store), user.id);
            async move {
                let mut changed = 0;
                while changed < 8 {
                    let user = store.user(id).await.unwrap().unwrap();
                    match store.replace_user(&user).await {
                        Ok(_) => changed += 1,
                        Err(Error::Stale) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
        .collect();
    let adding: JoinSet<bool> = (100..140)
        .map(|number| {
            let (store, user) = (Arc::clone(&store), old(number));
            async move {
                tokio::time::sleep(Duration::from_millis(number % 20)).await;
                match store.insert_user(&user, false).await {
                    Ok(()) => true,
                    Err(Error::OldKey) => false,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let begun = first.begin(Digest([2; 32]), at(1));
    assert!(store.swap_meta(STORAGE_KEYS, Some(&first.encode().unwrap()), Some(&begun.encode().unwrap())).await.unwrap());
    // From here on what is there now is all that there is to wrap anew.
    let all = UserQuery { limit: 1000, ..UserQuery::default() };
    let found = store.users(&all).await.unwrap();
    for user in &found {
        let to = Sealed([&[2], &user.data_key.0[1..]].concat());
        let order = Rewrap { what: Wrapped::DataKey(user.id), from: user.data_key.clone(), to };
        let again = order.clone();
        assert_eq!(store.rewrap(&[order]).await.unwrap(), 1);
        assert_eq!(store.rewrap(&[again]).await.unwrap(), 0, "twice is once");
    }
    changing.join_all().await;
    let added = adding.join_all().await;
    let users = store.users(&all).await.unwrap();
    assert!(users.iter().all(|user| user.data_key.0[0] == 2), "{users:?}");
    assert_eq!(users.len(), 10 + added.iter().filter(|added| **added).count());
    assert!(matches!(store.insert_user(&old(200), false).await, Err(Error::OldKey)));
    assert!(matches!(store.insert_signing_key(&signing_key("old", at(1))).await, Err(Error::OldKey)));
    assert!(matches!(store.rotate_signing_keys(&[signing_key("old", at(1))], at(1)).await, Err(Error::OldKey)));
    assert!(matches!(store.swap_meta(WRAPPED_VALUES[0], None, Some(&[1, 2])).await, Err(Error::OldKey)));
    assert!(store.signing_keys().await.unwrap().is_empty() && store.meta(WRAPPED_VALUES[0]).await.unwrap().is_none());
    assert!(store.swap_meta(WRAPPED_VALUES[0], None, Some(&[2, 2])).await.unwrap());
}

// Two who rotate at once leave one key that signs, and nobody's tokens without theirs.
pub(crate) async fn one_of_many_keys_signs<B: Backend>() {
    let folder = tempfile::tempdir().unwrap();
    let store = B::open(folder.path()).await;
    store.insert_signing_key(&signing_key("first", at(0))).await.unwrap();
    let results =
        at_once(
            &store,
            |store, number| async move { store.rotate_signing_keys(&[signing_key(&format!("key{number}"), at(1))], at(2)).await },
        )
        .await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let keys = store.signing_keys().await.unwrap();
    assert_eq!(keys.len(), 51);
    let signing: Vec<Kid> = keys.iter().filter(|key| key.retired_at.is_none()).map(|key| key.kid.clone()).collect();
    assert_eq!(signing.len(), 1, "{signing:?}");
    let all_twice: Vec<Kid> = keys.iter().chain(&keys).map(|key| key.kid.clone()).collect();
    let removed = store.remove_signing_keys(&all_twice).await.unwrap();
    assert_eq!(removed, 50, "each counts once, and the one that signs is never removed");
    assert_eq!(store.signing_keys().await.unwrap()[0].kid, signing[0]);
}
