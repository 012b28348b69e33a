//! Random histories over a few accounts, sessions and so on, few enough that they meet: what the backend answers at
//! every step, and what it holds at the end and after every reopening, is what the model does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;
use std::time::Duration;

use nullpass::clock::Timestamp;
use nullpass::config::Algorithm;
use nullpass::model::{
    Action, Amr, ApiToken, ApiTokenId, AuditEvent, DisplayName, EventId, Fitness, Generation, Group, Kid, Lock, LockChange, LockKey,
    LockPolicy, LockUpdate, Rotation, Sealed, Session, SessionId, SessionTouch, User, UserId,
};
use nullpass::store::{
    AuditQuery, Error, INSTALLATION_KEY, Purged, Purpose, Rewrap, STORAGE_KEYS, SessionSelector, SigningKeyRecord, Store, UserQuery,
    Wrapped,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::test_runner::FileFailurePersistence;

use super::Backend;
use super::fixtures::{api_token, at, bytes, digest, email, event, session, signing_key, token as known_token, user};
use super::model::Model;

const USERS: u8 = 4;
const EMAILS: u64 = 4;
const SESSIONS: u8 = 8;
const TOKENS: u8 = 4;
const LOCKS: u8 = 7;
const NAMES: [&str; 4] = ["one", "two", STORAGE_KEYS, INSTALLATION_KEY];

/// One call. Numbers stand for identifiers, times are in hours.
#[derive(Clone, Debug)]
enum Op {
    InsertUser {
        id: u8,
        email: u64,
        group: bool,
        allow_retired: bool,
        huge: bool,
    },
    /// `behind`: how many revisions too old.
    ReplaceUser {
        id: u8,
        email: u64,
        name: bool,
        behind: u64,
        huge: bool,
    },
    DeleteUser(u8),
    Users {
        search: Option<String>,
        group: bool,
        after: Option<u8>,
        limit: usize,
    },
    InsertSession {
        id: u8,
        user: u8,
        expires: i64,
        max: Option<u32>,
    },
    /// `behind`: how many generations too old.
    Rotate {
        id: u8,
        behind: u32,
        token: u64,
        now: i64,
    },
    Stand(u8),
    Touch(Vec<SessionTouch>),
    DeleteSessions(SessionSelector),
    InsertToken {
        id: u8,
        user: u8,
        expires: Option<i64>,
    },
    DeleteToken {
        user: u8,
        id: u8,
    },
    TouchTokens(Vec<(u8, i64)>),
    SpendStep(u8, u64),
    SpendOnce {
        setup: bool,
        digest: u64,
        until: i64,
    },
    Lock(u8, LockChange, i64),
    InsertKey(u8, i64),
    RetireKeys(Vec<u8>, i64),
    /// `version`: of the storage key that wraps them.
    RotateKeys {
        kids: Vec<u8>,
        hs: bool,
        version: u8,
        at: i64,
    },
    RemoveKeys(Vec<u8>),
    /// `stale`: somebody else was quicker.
    Rewrap {
        users: Vec<u8>,
        kids: Vec<u8>,
        value: bool,
        version: u8,
        stale: bool,
    },
    SwapMeta {
        name: usize,
        expected: Option<u8>,
        new: Option<u8>,
    },
    Append {
        id: u8,
        at: i64,
        login: bool,
        user: Option<u8>,
    },
    Audit {
        user: Option<u8>,
        login: bool,
        since: Option<i64>,
        offset: usize,
        limit: usize,
    },
    Purge(i64, Option<i64>),
    Ping,
    Reopen,
}

/// What came of it.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Was(bool),
    Count(u64),
    User(Box<User>),
    Users(Vec<User>),
    Ended(Option<Vec<SessionId>>),
    Rotation(Rotation),
    Lock(LockUpdate),
    Events(Vec<AuditEvent>),
    Purged(Purged),
    Failed(String),
}

/// All that can be read.
#[derive(Debug, PartialEq)]
struct Everything {
    users: Vec<User>,
    each: Vec<Option<User>>,
    sessions: Vec<Session>,
    each_session: Vec<Option<Session>>,
    of_users: Vec<(Vec<Session>, Vec<ApiToken>, Vec<AuditEvent>)>,
    tokens: Vec<ApiToken>,
    locks: Vec<Lock>,
    keys: Vec<SigningKeyRecord>,
    meta: Vec<Option<Vec<u8>>>,
    audit: Vec<AuditEvent>,
}

pub(crate) fn check<B: Backend>() {
    let regressions = Box::new(FileFailurePersistence::WithSource("regressions"));
    let config = ProptestConfig { cases: 64, max_shrink_iters: 400, failure_persistence: Some(regressions), ..ProptestConfig::default() };
    proptest!(config, |(ops in vec(op(), 1..120))| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run::<B>(ops))?;
    });
}

async fn run<B: Backend>(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::default();
    let mut store = B::open(folder.path()).await;
    for op in ops {
        if matches!(op, Op::Reopen) {
            store.flush().await.unwrap();
            drop(store);
            store = B::open(folder.path()).await;
            prop_assert_eq!(everything(&*store).await, everything(&model).await);
        } else {
            let (answer, expected) = (apply(&*store, &op).await, apply(&model, &op).await);
            prop_assert_eq!(answer, expected, "{:?}", op);
        }
    }
    prop_assert_eq!(everything(&*store).await, everything(&model).await);
    Ok(())
}

async fn apply(store: &dyn Store, op: &Op) -> Answer {
    attempt(store, op).await.unwrap_or_else(|error| Answer::Failed(format!("{error:?}")))
}

async fn attempt(store: &dyn Store, op: &Op) -> Result<Answer, Error> {
    Ok(match op.clone() {
        Op::InsertUser { id, email: address, group, allow_retired, huge } => {
            let mut user = user(user_id(id), email(address));
            user.groups.extend(group.then(admins));
            fatten(&mut user, huge);
            store.insert_user(&user, allow_retired).await?;
            Answer::Done
        }
        Op::ReplaceUser { id, email: address, name, behind, huge } => {
            let mut user = store.user(user_id(id)).await?.unwrap_or_else(|| user(user_id(id), email(address)));
            user.email = email(address);
            user.display_name = name.then(|| DisplayName::parse("Ada Lovelace").unwrap());
            user.revision = user.revision.saturating_sub(behind);
            fatten(&mut user, huge);
            Answer::User(Box::new(store.replace_user(&user).await?))
        }
        Op::DeleteUser(id) => Answer::Ended(store.delete_user(user_id(id), at(1)).await?),
        Op::Users { search, group, after, limit } => {
            let query = UserQuery { search, group: group.then(admins), after: after.map(user_id), limit };
            Answer::Users(store.users(&query).await?)
        }
        Op::InsertSession { id, user, expires, max } => {
            let session = session(session_id(id), user_id(user), hours(expires));
            Answer::Ended(Some(store.insert_session(&session, max).await?))
        }
        Op::Rotate { id, behind, token: number, now } => {
            let current = store.session(session_id(id)).await?.map_or(0, |session| session.generation.0);
            let presented = Generation(current.saturating_sub(behind));
            let grace = Duration::from_hours(1);
            Answer::Rotation(store.rotate_session(session_id(id), presented, known_token(number, 77), grace, hours(now)).await?)
        }
        Op::Stand(id) => Answer::Was(store.set_standing(session_id(id), Amr::PASSWORD.and(Amr::OTP), Fitness::EnrolmentOnly).await?),
        Op::Touch(touches) => {
            store.touch_sessions(&touches).await?;
            Answer::Done
        }
        Op::DeleteSessions(which) => Answer::Ended(Some(store.delete_sessions(which).await?)),
        Op::InsertToken { id, user, expires } => {
            store.insert_api_token(&api_token(token_id(id), user_id(user), expires.map(hours))).await?;
            Answer::Done
        }
        Op::DeleteToken { user, id } => Answer::Was(store.delete_api_token(user_id(user), token_id(id)).await?),
        Op::TouchTokens(used) => {
            let used: Vec<_> = used.into_iter().map(|(id, at)| (token_id(id), hours(at))).collect();
            store.touch_api_tokens(&used).await?;
            Answer::Done
        }
        Op::SpendStep(user, step) => Answer::Was(store.spend_totp_step(user_id(user), step).await?),
        Op::SpendOnce { setup, digest: number, until } => {
            let purpose = if setup { Purpose::Setup } else { Purpose::PendingLogin };
            Answer::Was(store.spend_once(purpose, digest(number), hours(until)).await?)
        }
        Op::Lock(key, change, now) => Answer::Lock(store.update_lock(lock_key(key), change, hours(now)).await?),
        Op::InsertKey(kid, at) => {
            store.insert_signing_key(&signing_key(&kid.to_string(), hours(at))).await?;
            Answer::Done
        }
        Op::RetireKeys(kids, at) => {
            let kids: Vec<Kid> = kids.into_iter().map(|kid| Kid(kid.to_string())).collect();
            store.retire_signing_keys(&kids, hours(at)).await?;
            Answer::Done
        }
        Op::RotateKeys { kids, hs, version, at } => {
            let algorithm = if hs { Algorithm::HS256 } else { Algorithm::EdDSA };
            let key =
                |kid: u8| SigningKeyRecord { algorithm, private: Sealed(vec![version; 5]), ..signing_key(&kid.to_string(), hours(at)) };
            store.rotate_signing_keys(&kids.into_iter().map(key).collect::<Vec<_>>(), hours(at)).await?;
            Answer::Done
        }
        Op::RemoveKeys(kids) => {
            let kids: Vec<Kid> = kids.into_iter().map(|kid| Kid(kid.to_string())).collect();
            Answer::Count(store.remove_signing_keys(&kids).await?)
        }
        Op::Rewrap { users, kids, value, version, stale } => {
            let mut orders = Vec::new();
            let mut order = |what, from: Sealed| {
                let from = if stale { Sealed(vec![9]) } else { from };
                orders.push(Rewrap { what, from, to: Sealed(vec![version, 7]) });
            };
            for id in users {
                let wrapped = store.user(user_id(id)).await?.map_or_else(|| Sealed(vec![1]), |user| user.data_key);
                order(Wrapped::DataKey(user_id(id)), wrapped);
            }
            let stored = store.signing_keys().await?;
            for kid in kids {
                let kid = Kid(kid.to_string());
                let wrapped = stored.iter().find(|key| key.kid == kid).map_or_else(|| Sealed(vec![1]), |key| key.private.clone());
                order(Wrapped::SigningKey(kid), wrapped);
            }
            if value {
                order(Wrapped::Value(INSTALLATION_KEY), Sealed(store.meta(INSTALLATION_KEY).await?.unwrap_or_default()));
            }
            Answer::Count(store.rewrap(&orders).await?)
        }
        Op::SwapMeta { name, expected, new } => {
            let value = |byte: Option<u8>| byte.map(|byte| vec![byte; usize::from(byte)]);
            Answer::Was(store.swap_meta(NAMES[name], value(expected).as_deref(), value(new).as_deref()).await?)
        }
        Op::Append { id, at, login, user } => {
            let action = if login { Action::UserLogin } else { Action::UserLogout };
            store.append_audit(&event(EventId::from_bytes(bytes(id)), hours(at), action, user.map(user_id))).await?;
            Answer::Done
        }
        Op::Audit { user, login, since, offset, limit } => {
            let since = since.map(hours);
            let action = login.then_some(Action::UserLogin);
            let query = AuditQuery { user: user.map(user_id), action, since, offset, limit, before: None };
            Answer::Events(store.audit(&query).await?)
        }
        Op::Purge(now, audit_before) => Answer::Purged(store.purge(hours(now), audit_before.map(hours)).await?),
        Op::Ping => {
            store.ping().await?;
            assert!(store.size_on_disk().await? > 0);
            Answer::Done
        }
        Op::Reopen => Answer::Done,
    })
}

async fn everything(store: &dyn Store) -> Everything {
    let mut each = Vec::new();
    let mut of_users = Vec::new();
    let mut each_session = Vec::new();
    let (mut sessions, mut tokens, mut locks, mut meta) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..EMAILS {
        each.push(store.user_by_email(&email(number)).await.unwrap());
    }
    for id in (0..USERS).map(user_id) {
        each.push(store.user(id).await.unwrap());
        let query = AuditQuery { user: Some(id), limit: 1000, ..AuditQuery::default() };
        let about = store.audit(&query).await.unwrap();
        of_users.push((store.sessions_of(id).await.unwrap(), store.api_tokens_of(id).await.unwrap(), about));
    }
    for id in (0..SESSIONS).map(session_id) {
        each_session.push(store.session(id).await.unwrap());
    }
    for key in (0..LOCKS).map(lock_key) {
        locks.push(store.lock(key).await.unwrap());
    }
    for name in NAMES {
        meta.push(store.meta(name).await.unwrap());
    }
    let mut keep = |session| {
        sessions.push(session);
        ControlFlow::Continue(())
    };
    store.scan_sessions(&mut keep).await.unwrap();
    let mut keep = |token| {
        tokens.push(token);
        ControlFlow::Continue(())
    };
    store.scan_api_tokens(&mut keep).await.unwrap();
    Everything {
        users: store.users(&UserQuery { limit: 1000, ..UserQuery::default() }).await.unwrap(),
        each,
        sessions,
        each_session,
        of_users,
        tokens,
        locks,
        keys: store.signing_keys().await.unwrap(),
        meta,
        audit: store.audit(&AuditQuery { limit: 1000, ..AuditQuery::default() }).await.unwrap(),
    }
}

fn op() -> impl Strategy<Value = Op> {
    let (user, session, token) = (0..USERS, 0..SESSIONS, 0..TOKENS);
    // Few, so that limits are met to the millisecond.
    let hour = 0..8i64;
    let accounts = prop_oneof![
        4 => (user.clone(), 0..EMAILS, any::<bool>(), any::<bool>(), prop::bool::weighted(0.05))
            .prop_map(|(id, email, group, allow_retired, huge)| Op::InsertUser { id, email, group, allow_retired, huge }),
        2 => (user.clone(), 0..EMAILS, any::<bool>(), prop_oneof![4 => Just(0), 1 => Just(1u64)], prop::bool::weighted(0.05))
            .prop_map(|(id, email, name, behind, huge)| Op::ReplaceUser { id, email, name, behind, huge }),
        1 => user.clone().prop_map(Op::DeleteUser),
        1 => (option::of("(USER|r[01]|love|x)"), any::<bool>(), option::of(user.clone()), 0..5usize)
            .prop_map(|(search, group, after, limit)| Op::Users { search, group, after, limit }),
    ];
    let touch = (session.clone(), hour.clone(), option::of((0..4u32, hour.clone())), option::of((0..9u64, 0..4u32))).prop_map(
        |(id, seen, successor, renewed)| SessionTouch {
            id: session_id(id),
            last_seen_at: hours(seen),
            successor_seen_at: successor.map(|(generation, at)| (Generation(generation), hours(at))),
            renewed: renewed.map(|(number, generation)| known_token(number, generation)),
        },
    );
    let selector = prop_oneof![
        session.clone().prop_map(|id| SessionSelector::One(session_id(id))),
        user.clone().prop_map(|id| SessionSelector::OfUser(user_id(id))),
        (user.clone(), session.clone()).prop_map(|(user, id)| SessionSelector::OfUserExcept(user_id(user), session_id(id))),
    ];
    let sessions = prop_oneof![
        5 => (session.clone(), user.clone(), hour.clone(), option::of(0..4u32))
            .prop_map(|(id, user, expires, max)| Op::InsertSession { id, user, expires, max }),
        1 => session.clone().prop_map(Op::Stand),
        4 => (session, 0..3u32, 0..9u64, hour.clone()).prop_map(|(id, behind, token, now)| Op::Rotate { id, behind, token, now }),
        3 => vec(touch, 0..4).prop_map(Op::Touch),
        1 => selector.prop_map(Op::DeleteSessions),
    ];
    let tokens = prop_oneof![
        3 => (token.clone(), user.clone(), option::of(hour.clone())).prop_map(|(id, user, expires)| Op::InsertToken { id, user, expires }),
        1 => (user.clone(), token.clone()).prop_map(|(user, id)| Op::DeleteToken { user, id }),
        1 => vec((token, hour.clone()), 0..3).prop_map(Op::TouchTokens),
    ];
    let policy = LockPolicy { after: 1, base: Duration::from_hours(1), max: Duration::from_hours(2) };
    let change = prop_oneof![3 => Just(LockChange::Fail(policy)), 1 => Just(LockChange::TakeBack), 1 => Just(LockChange::Clear)];
    let once = prop_oneof![
        (user.clone(), 0..5u64).prop_map(|(user, step)| Op::SpendStep(user, step)),
        (any::<bool>(), 0..3u64, hour.clone()).prop_map(|(setup, digest, until)| Op::SpendOnce { setup, digest, until }),
        (0..LOCKS, change, hour.clone()).prop_map(|(key, change, now)| Op::Lock(key, change, now)),
    ];
    let installation = prop_oneof![
        (0..3u8, hour.clone()).prop_map(|(kid, at)| Op::InsertKey(kid, at)),
        (vec(0..3u8, 0..3), hour.clone()).prop_map(|(kids, at)| Op::RetireKeys(kids, at)),
        (0..NAMES.len(), option::of(0..3u8), option::of(0..3u8)).prop_map(|(name, expected, new)| Op::SwapMeta { name, expected, new }),
        (subsequence(vec![0, 1, 2], 0..3), any::<bool>(), 1..3u8, hour.clone()).prop_map(|(kids, hs, version, at)| Op::RotateKeys {
            kids,
            hs,
            version,
            at
        }),
        vec(0..3u8, 0..3).prop_map(Op::RemoveKeys),
        (subsequence((0..USERS).collect::<Vec<_>>(), 0..3), subsequence(vec![0, 1, 2], 0..3), any::<bool>(), 1..3u8, any::<bool>())
            .prop_map(|(users, kids, value, version, stale)| Op::Rewrap { users, kids, value, version, stale }),
    ];
    let audit = prop_oneof![
        3 => (0..20u8, -2..4i64, any::<bool>(), option::of(user.clone())).prop_map(|(id, at, login, user)| Op::Append { id, at, login, user }),
        1 => (option::of(user), any::<bool>(), option::of(-2..5i64), 0..3usize, 0..6usize)
            .prop_map(|(user, login, since, offset, limit)| Op::Audit { user, login, since, offset, limit }),
    ];
    prop_oneof![
        6 => accounts,
        8 => sessions,
        3 => tokens,
        4 => once,
        2 => installation,
        3 => audit,
        1 => (prop_oneof![3 => hour, 1 => 20..40i64], option::of(-2..5i64)).prop_map(|(now, before)| Op::Purge(now, before)),
        1 => Just(Op::Reopen),
        1 => Just(Op::Ping),
    ]
}

fn user_id(number: u8) -> UserId {
    UserId::from_bytes(bytes(number))
}

fn session_id(number: u8) -> SessionId {
    SessionId::from_bytes(bytes(number))
}

fn token_id(number: u8) -> ApiTokenId {
    ApiTokenId::from_bytes(bytes(number))
}

fn hours(hours: i64) -> Timestamp {
    at(hours * 3600)
}

fn admins() -> Group {
    Group::parse("admins").unwrap()
}

/// Makes a record larger than a store keeps.
fn fatten(user: &mut User, huge: bool) {
    user.attributes.clear();
    if huge {
        user.attributes.insert("note".to_owned(), "x".repeat(20_000));
    }
}

/// Keys that would meet if they were told apart badly.
fn lock_key(number: u8) -> LockKey {
    match number {
        0 => LockKey::Account(digest(1)),
        1 => LockKey::Device(digest(1)),
        2 => LockKey::Pending(digest(1)),
        3 => LockKey::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        4 => LockKey::Address(IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped())),
        5 => LockKey::Pair(digest(1), IpAddr::V6(Ipv6Addr::LOCALHOST)),
        _ => LockKey::SecondFactor(user_id(1)),
    }
}
