//! A state is carried from one store to another whole, however often that is broken off, and never onto another state.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use nullpass::admin::migrate::{Error, Progress, Step, carry, survey};
use nullpass::clock::Timestamp;
use nullpass::model::{Action, ApiTokenId, AuditEvent, Digest, EventId, Generation, Lock, LockKey, Outcome, SessionId, UserId};
use nullpass::store::chain::{Chain, ChainKey, StoredEvent, WriterId};
use nullpass::store::postgres::PostgresStore;
use nullpass::store::sled::SledStore;
use nullpass::store::transfer::{BATCH, Item, MARKER, Marker, Stage, Tally, Transfer, refuse_half_imported};
use nullpass::store::{AuditQuery, Error as StoreError, Purpose, SessionSelector, UserQuery};
use nullpass::tasks::Tasks;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

use super::fixtures::{api_token, at, chain_key, digest, email, event, session, signing_key, token, user};

/// A store of its own, and the folder that lives as long.
struct Place {
    store: Arc<dyn Transfer>,
    _folder: Option<TempDir>,
}

#[derive(Clone, Copy)]
enum Kind {
    Sled,
    Postgres,
}

use Kind::{Postgres, Sled};

impl Kind {
    async fn place(self) -> Place {
        match self {
            Sled => {
                let folder = tempfile::tempdir().unwrap();
                Place { store: Arc::new(SledStore::open(folder.path()).unwrap()), _folder: Some(folder) }
            }
            Postgres => {
                let schema = super::postgres_server::schema();
                let settings =
                    nullpass::config::Postgres { schema, ..nullpass::config::Postgres::parse(&super::postgres_server::url()).unwrap() };
                Place { store: Arc::new(PostgresStore::open(&settings, &Tasks::new()).await.unwrap()), _folder: None }
            }
        }
    }
}

/// Each promise once for each way.
macro_rules! ways {
    ($($name:ident: $from:ident => $to:ident),* $(,)?) => {
        $(ways!(@ $name $from => $to,
            everything_goes_over_and_back,
            what_was_carried_works,
            a_state_is_never_written_over,
            broken_off_anywhere_it_is_finished_by_repeating,
            a_source_that_changed_between_attempts_is_carried_anew,
            an_attempt_goes_on_where_the_last_one_was,
            what_differs_in_the_end_stays_unusable,
            of_two_migrations_into_one_target_one_stops,
        );)*
    };
    (@ $name:ident $from:ident => $to:ident, $($promise:ident),* $(,)?) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    super::$promise(super::Kind::$from, super::Kind::$to).await;
                }
            )*

            #[test]
            fn any_state_comes_out_as_it_went_in() {
                super::any_state_comes_out_as_it_went_in(super::Kind::$from, super::Kind::$to);
            }
        }
    };
}

ways!(sled_to_sled: Sled => Sled, sled_to_postgres: Sled => Postgres, postgres_to_sled: Postgres => Sled);

fn ignore(_: Progress) {}

async fn tally(store: &dyn Transfer) -> Tally {
    let mut tally = Tally::default();
    for item in all(store).await {
        tally.add(&item).unwrap();
    }
    tally
}

async fn all(store: &dyn Transfer) -> Vec<Item> {
    let mut export = store.export().await.unwrap();
    let mut items = Vec::new();
    loop {
        let some = export.next().await.unwrap();
        if some.is_empty() {
            return items;
        }
        assert!(some.len() <= BATCH);
        items.extend(some);
    }
}

/// Puts items into an empty store as a migration does.
async fn fill(store: &dyn Transfer, items: &[Item]) {
    assert!(store.swap_meta(MARKER, None, Some(b"x")).await.unwrap());
    for batch in items.chunks(BATCH) {
        store.import(b"x", batch).await.unwrap();
    }
    assert!(store.swap_meta(MARKER, Some(b"x"), None).await.unwrap());
}

/// A state made of so many users, each with sessions, a token and events.
fn state(users: u64) -> Vec<Item> {
    let mut items = vec![Item::Meta { name: "setup".to_owned(), value: vec![1, 2, 3] }, Item::SigningKey(signing_key("k", at(1)))];
    items.extend((0..3).map(|number| Item::RetiredAddress { digest: digest(number), at: at(5) }));
    let ids: Vec<UserId> = (0..users).map(|_| UserId::new()).collect();
    items.extend((0..).zip(&ids).map(|(number, id)| Item::User(Box::new(user(*id, email(number))))));
    items.extend(ids.iter().map(|id| Item::TotpStep { user: *id, step: 7 }));
    items.extend(ids.iter().flat_map(|id| [0; 2].map(|_| Item::Session(session(SessionId::new(), *id, at(1000))))));
    items.extend(ids.iter().map(|id| Item::ApiToken(api_token(ApiTokenId::new(), *id, None))));
    items.extend((0..users).map(|number| Item::Lock { key: LockKey::Account(digest(number)), lock: lock(3) }));
    items.extend((0..users).map(|number| Item::Spent { purpose: Purpose::PendingLogin, digest: digest(number), until: at(9) }));
    let (key, mut chain) = (chain_key(), chain_key().begin(WriterId::FIRST, at(1)));
    items.extend(
        ids.iter().map(|id| Item::AuditEvent(chained(&key, &mut chain, &event(EventId::new(), at(2), Action::UserLogin, Some(*id))))),
    );
    items.push(Item::AuditChain(chain));
    items
}

/// An event at a chain's end.
fn chained(key: &ChainKey, chain: &mut Chain, event: &AuditEvent) -> StoredEvent {
    let StoredEvent { record, .. } = StoredEvent::unchained(event).unwrap();
    StoredEvent { place: Some(key.append(chain, &record, event.at)), record }
}

fn lock(failures: u32) -> Lock {
    Lock { failures, last_failure_at: at(4), locked_until: at(5) }
}

/// Polls `work` at most so often and then drops it where it is. `None`: it was not done.
async fn broken_off<F: Future>(work: F, polls: usize) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        left = left.saturating_sub(1);
        match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Waits for the write that was on its way when somebody stopped waiting for it; a process that ends has none.
async fn settle(store: &dyn Transfer) {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    assert!(!store.swap_meta("nobody's", Some(b"x"), None).await.unwrap());
}

/// Carries as far as the first sessions and is broken off then. Says how many are durable.
async fn carried_in_part(from: &Place, to: &Place) -> u64 {
    let far = AtomicBool::new(false);
    let mut each = |progress: Progress| {
        if progress.step == Step::Carry && progress.done > 1500 {
            far.store(true, Ordering::Relaxed);
        }
    };
    let mut work = Box::pin(carry(&*from.store, "sled", &*to.store, &mut each));
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => panic!("{done:?}"),
        Poll::Pending if far.load(Ordering::Relaxed) => Poll::Ready(()),
        Poll::Pending => Poll::Pending,
    })
    .await;
    drop(work);
    settle(&*to.store).await;
    match Marker::of(&*to.store).await.unwrap() {
        Some((Marker { stage: Stage::Written(done), .. }, _)) => done,
        other => panic!("{other:?}"),
    }
}

async fn everything_goes_over_and_back(source: Kind, target: Kind) {
    let (from, to, back) = (source.place().await, target.place().await, source.place().await);
    fill(&*from.store, &state(700)).await;
    let before = tally(&*from.store).await;
    assert_eq!(survey(&*from.store, &mut ignore).await.unwrap(), before);
    let mut steps = Vec::new();
    let report = carry(&*from.store, "sled", &*to.store, &mut |progress| steps.push(progress)).await.unwrap();
    assert_eq!((&report.source, &report.target, report.resumed), (&before, &before, 0));
    let last = steps.last().unwrap();
    assert_eq!((last.done, last.total), (before.count(), Some(before.count())));
    assert_eq!(tally(&*to.store).await, before);
    carry(&*to.store, "sled", &*back.store, &mut ignore).await.unwrap();
    assert_eq!(all(&*back.store).await, all(&*from.store).await);
    refuse_half_imported(&*back.store).await.unwrap();
}

/// What is looked up by something else than its key is found, and what can be done once is still done.
async fn what_was_carried_works(source: Kind, target: Kind) {
    let (from, to) = (source.place().await, target.place().await);
    let store = &from.store;
    let (kept, deleted) = (user(UserId::new(), email(1)), user(UserId::new(), email(2)));
    for who in [&kept, &deleted] {
        store.insert_user(who, false).await.unwrap();
    }
    let kept = store.replace_user(&kept).await.unwrap();
    store.delete_user(deleted.id, at(3)).await.unwrap();
    let id = SessionId::new();
    store.insert_session(&session(id, kept.id, at(1000)), None).await.unwrap();
    let minute = std::time::Duration::from_secs(60);
    store.rotate_session(id, Generation(0), token(5, 0), minute, at(2)).await.unwrap();
    let tokens = [ApiTokenId::new(), ApiTokenId::new()];
    for id in tokens {
        store.insert_api_token(&api_token(id, kept.id, None)).await.unwrap();
    }
    assert!(store.spend_totp_step(kept.id, 50).await.unwrap());
    assert!(store.spend_once(Purpose::Setup, digest(1), at(9)).await.unwrap());
    store.append_audit(&event(EventId::new(), at(2), Action::UserLogin, Some(kept.id))).await.unwrap();
    store.append_audit(&event(EventId::new(), at(2), Action::LoginFailed, None)).await.unwrap();

    carry(&**store, "sled", &*to.store, &mut ignore).await.unwrap();
    let store = &to.store;
    assert_eq!(store.user_by_email(&email(1)).await.unwrap(), Some(kept.clone()));
    assert_eq!(store.users(&UserQuery { limit: 9, ..UserQuery::default() }).await.unwrap().len(), 1);
    assert!(matches!(store.insert_user(&user(UserId::new(), email(2)), false).await, Err(StoreError::Retired)));
    assert!(matches!(store.insert_user(&user(UserId::new(), email(1)), false).await, Err(StoreError::Conflict)));
    let sessions = store.sessions_of(kept.id).await.unwrap();
    assert_eq!(sessions.iter().map(|session| (session.id, session.generation)).collect::<Vec<_>>(), [(id, Generation(1))]);
    assert_eq!(store.api_tokens_of(kept.id).await.unwrap().iter().map(|token| token.id).collect::<Vec<_>>(), tokens);
    assert!(!store.spend_totp_step(kept.id, 50).await.unwrap() && store.spend_totp_step(kept.id, 51).await.unwrap());
    assert!(!store.spend_once(Purpose::Setup, digest(1), at(9)).await.unwrap());
    let of_kept = AuditQuery { user: Some(kept.id), limit: 9, ..AuditQuery::default() };
    assert_eq!(store.audit(&of_kept).await.unwrap().len(), 1);
    assert_eq!(store.audit(&AuditQuery { user: None, ..of_kept }).await.unwrap().len(), 2);
    assert!(matches!(store.replace_user(&user(kept.id, email(1))).await, Err(StoreError::Stale)), "the revision went along");
    assert_eq!(store.delete_sessions(SessionSelector::OfUser(kept.id)).await.unwrap(), [id]);
}

async fn a_state_is_never_written_over(source: Kind, target: Kind) {
    let (from, to, empty) = (source.place().await, target.place().await, source.place().await);
    fill(&*from.store, &state(3)).await;
    fill(&*to.store, &[Item::RetiredAddress { digest: digest(1), at: at(1) }]).await;
    let before = tally(&*to.store).await;
    let error = carry(&*from.store, "sled", &*to.store, &mut ignore).await.unwrap_err();
    assert!(matches!(error, Error::Occupied { .. }), "{error}");
    assert_eq!(tally(&*to.store).await, before);
    refuse_half_imported(&*to.store).await.unwrap();
    // Nor without a migration, nor under another's mark.
    for marker in [&b""[..], b"x"] {
        assert!(matches!(to.store.import(marker, &state(1)).await, Err(StoreError::Stale)));
        assert!(matches!(to.store.discard_import(marker).await, Err(StoreError::Stale)));
    }
    assert_eq!(tally(&*to.store).await, before);
    // A target that was only claimed when its run ended, and was filled since by who knows whom, is not emptied either.
    let marker = Marker { from: "sled".to_owned(), source: Digest([0; 32]), run: "r".to_owned(), stage: Stage::Claimed };
    assert!(to.store.swap_meta(MARKER, None, Some(&marker.encode().unwrap())).await.unwrap());
    assert!(matches!(carry(&*from.store, "sled", &*to.store, &mut ignore).await, Err(Error::Occupied { .. })));
    assert_eq!(tally(&*to.store).await, before);
    refuse_half_imported(&*to.store).await.unwrap();
    assert!(matches!(carry(&*empty.store, "sled", &*to.store, &mut ignore).await, Err(Error::Empty)));
}

async fn broken_off_anywhere_it_is_finished_by_repeating(source: Kind, target: Kind) {
    let from = source.place().await;
    fill(&*from.store, &state(300)).await;
    let before = tally(&*from.store).await;
    let third = Sled.place().await;
    for first in [1, 6, 17, 40] {
        let to = target.place().await;
        let mut polls = first;
        let mut interrupted = 0;
        loop {
            if let Some(done) = broken_off(carry(&*from.store, "sled", &*to.store, &mut ignore), polls).await {
                done.unwrap();
                break;
            }
            settle(&*to.store).await;
            interrupted += 1;
            polls += 3 + polls / 4;
            if Marker::of(&*to.store).await.unwrap().is_some() {
                assert!(matches!(refuse_half_imported(&*to.store).await, Err(StoreError::HalfImported { .. })));
                // Half of it is no source.
                let error = carry(&*to.store, "sled", &*third.store, &mut ignore).await.unwrap_err();
                assert!(matches!(error, Error::Store(StoreError::HalfImported { .. })), "{error}");
            } else if !all(&*to.store).await.is_empty() {
                // Broken off while it waited for the very last write.
                break;
            }
        }
        assert!(interrupted > 0, "{first}");
        assert_eq!(tally(&*to.store).await, before);
        refuse_half_imported(&*to.store).await.unwrap();
    }
}

/// What ended in the source between two attempts is not brought back by what the first one had carried.
async fn a_source_that_changed_between_attempts_is_carried_anew(source: Kind, target: Kind) {
    let (from, to) = (source.place().await, target.place().await);
    fill(&*from.store, &state(500)).await;
    carried_in_part(&from, &to).await;
    let Some(Item::Session(ended)) = all(&*from.store).await.into_iter().find(|item| matches!(item, Item::Session(_))) else { panic!() };
    assert!(to.store.session(ended.id).await.unwrap().is_some());
    from.store.delete_sessions(SessionSelector::OfUser(ended.user)).await.unwrap();
    let report = carry(&*from.store, "sled", &*to.store, &mut ignore).await.unwrap();
    assert_eq!(report.resumed, 0);
    assert_eq!(to.store.session(ended.id).await.unwrap(), None);
    assert_eq!(tally(&*to.store).await, tally(&*from.store).await);
}

async fn an_attempt_goes_on_where_the_last_one_was(source: Kind, target: Kind) {
    let (from, to) = (source.place().await, target.place().await);
    fill(&*from.store, &state(500)).await;
    let written = carried_in_part(&from, &to).await;
    assert_eq!(carry(&*from.store, "sled", &*to.store, &mut ignore).await.unwrap().resumed, written);
    assert_eq!(tally(&*to.store).await, tally(&*from.store).await);
}

/// Somebody else's record in the target, or one that is missing, is found out and stays marked; the next attempt begins
/// anew.
async fn what_differs_in_the_end_stays_unusable(source: Kind, target: Kind) {
    let (from, to) = (source.place().await, target.place().await);
    fill(&*from.store, &state(50)).await;
    let store = Arc::clone(&to.store);
    let mut spoil = Some(Item::RetiredAddress { digest: digest(99), at: at(1) });
    let (ask, asked) = std::sync::mpsc::channel::<Item>();
    // Between two batches a thread of its own writes what nobody asked for.
    let writer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        while let Ok(item) = asked.recv() {
            runtime.block_on(async {
                let (_, marker) = Marker::of(&*store).await.unwrap().unwrap();
                store.import(&marker, &[item]).await.unwrap();
            });
        }
    });
    let mut writer = Some(writer);
    let mut ask = Some(ask);
    let mut each = |progress: Progress| {
        if progress.step == Step::Carry
            && let Some(item) = spoil.take()
        {
            ask.take().unwrap().send(item).unwrap();
            writer.take().unwrap().join().unwrap();
        }
    };
    let error = carry(&*from.store, "sled", &*to.store, &mut each).await.unwrap_err();
    assert!(matches!(&error, Error::Different(report) if report.target.count() == report.source.count() + 1), "{error}");
    assert!(refuse_half_imported(&*to.store).await.is_err());
    assert_eq!(carry(&*from.store, "sled", &*to.store, &mut ignore).await.unwrap().resumed, 0);
    assert_eq!(tally(&*to.store).await, tally(&*from.store).await);
}

/// Two at once: whoever came later goes on, the other one stops, and nothing of it stays.
async fn of_two_migrations_into_one_target_one_stops(source: Kind, target: Kind) {
    let (first, second) = (source.place().await, source.place().await);
    fill(&*first.store, &state(400)).await;
    fill(&*second.store, &state(300)).await;
    for lead in [0, 3, 8, 15, 30, 60] {
        let to = target.place().await;
        let later = async {
            for _ in 0..lead {
                tokio::task::yield_now().await;
            }
            carry(&*second.store, "sled", &*to.store, &mut ignore).await
        };
        let mut each = ignore;
        let (one, other) = tokio::join!(carry(&*first.store, "sled", &*to.store, &mut each), later);
        let expected = match (&one, &other) {
            (Ok(report), Err(_)) | (Err(_), Ok(report)) => report.target.clone(),
            (Err(_), Err(_)) => {
                assert!(refuse_half_imported(&*to.store).await.is_err(), "{one:?} {other:?}");
                carry(&*first.store, "sled", &*to.store, &mut ignore).await.unwrap().target
            }
            (Ok(_), Ok(_)) => panic!("both: {one:?} {other:?}"),
        };
        assert_eq!(tally(&*to.store).await, expected, "{one:?} {other:?}");
    }
}

#[derive(Clone, Debug)]
struct Person {
    groups: Vec<u8>,
    revision: u32,
    step: Option<u32>,
    sessions: Vec<(i64, u32, Vec<u64>)>,
    tokens: Vec<Option<i64>>,
}

fn person() -> impl Strategy<Value = Person> {
    let session = (0..10_000_000_000i64, any::<u32>(), proptest::collection::vec(any::<u64>(), 0..5));
    (
        proptest::collection::vec(0..5u8, 0..4),
        any::<u32>(),
        any::<Option<u32>>(),
        proptest::collection::vec(session, 0..4),
        proptest::collection::vec(proptest::option::of(0..10_000_000_000i64), 0..3),
    )
        .prop_map(|(groups, revision, step, sessions, tokens)| Person { groups, revision, step, sessions, tokens })
}

fn lock_key() -> impl Strategy<Value = LockKey> {
    let (digest, address) = (any::<[u8; 32]>().prop_map(Digest), any::<std::net::IpAddr>());
    prop_oneof![
        digest.clone().prop_map(LockKey::Account),
        address.clone().prop_map(LockKey::Address),
        (digest.clone(), address).prop_map(|(digest, address)| LockKey::Pair(digest, address)),
        digest.clone().prop_map(LockKey::Device),
        any::<[u8; 16]>().prop_map(|id| LockKey::SecondFactor(UserId::from_bytes(id))),
        digest.prop_map(LockKey::Pending),
    ]
}

/// Any state at all, as far as a store can come to hold it.
fn any_state() -> impl Strategy<Value = Vec<Item>> {
    let moment = || (-10_000_000_000i64..10_000_000_000_000).prop_map(Timestamp::from_millis);
    let meta = proptest::collection::btree_map("[a-z_]{1,12}", proptest::collection::vec(any::<u8>(), 0..40), 0..4);
    let locks = proptest::collection::hash_map(lock_key(), (any::<u32>(), moment(), moment()), 0..12);
    let spent = proptest::collection::btree_map((any::<bool>(), any::<[u8; 32]>()), moment(), 0..6);
    let retired = proptest::collection::btree_map(any::<[u8; 32]>(), moment(), 0..4);
    let audit =
        proptest::collection::vec((moment(), any::<Option<u8>>(), 0..Action::ALL.len(), any::<(bool, bool)>(), "\\PC{0,20}"), 0..12);
    (proptest::collection::vec(person(), 0..6), meta, locks, spent, retired, audit).prop_map(
        |(people, meta, locks, spent, retired, audit)| {
            let mut items: Vec<Item> =
                meta.into_iter().filter(|(name, _)| name != MARKER).map(|(name, value)| Item::Meta { name, value }).collect();
            items.extend(retired.into_iter().map(|(digest, at)| Item::RetiredAddress { digest: Digest(digest), at }));
            let ids: Vec<UserId> = people.iter().map(|_| UserId::new()).collect();
            let (mut steps, mut sessions, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
            for ((number, person), id) in (0..).zip(people).zip(&ids) {
                let mut owner = user(*id, email(number));
                owner.revision = person.revision.into();
                owner.groups = person.groups.iter().map(|name| nullpass::model::Group::parse(&format!("g{name}")).unwrap()).collect();
                items.push(Item::User(Box::new(owner)));
                steps.extend(person.step.map(|step| Item::TotpStep { user: *id, step: step.into() }));
                for (expires, generation, known) in person.sessions {
                    let mut session = session(SessionId::new(), *id, at(expires));
                    session.generation = Generation(generation);
                    session.tokens = known.into_iter().map(|number| token(number, generation)).collect();
                    sessions.push(Item::Session(session));
                }
                // The digest of a token is unique, as it is in life.
                tokens.extend(person.tokens.into_iter().enumerate().map(|(nth, expires)| {
                    let mut made = api_token(ApiTokenId::new(), *id, expires.map(at));
                    made.digest = digest(number * 100 + u64::try_from(nth).unwrap());
                    Item::ApiToken(made)
                }));
            }
            items.extend(steps.into_iter().chain(sessions).chain(tokens));
            items.extend(locks.into_iter().map(|(key, (failures, last_failure_at, locked_until))| Item::Lock {
                key,
                lock: Lock { failures, last_failure_at, locked_until },
            }));
            items.extend(spent.into_iter().map(|((setup, digest), until)| Item::Spent {
                purpose: if setup { Purpose::Setup } else { Purpose::PendingLogin },
                digest: Digest(digest),
                until,
            }));
            let (key, mut chain) = (chain_key(), chain_key().begin(WriterId(3), at(1)));
            items.extend(audit.into_iter().map(|(at, user, action, (done, chained_too), text)| {
                let user = user.and_then(|nth| ids.get(usize::from(nth) % ids.len().max(1))).copied();
                let mut event = event(EventId::new(), at, Action::ALL[action], user);
                event.outcome = if done { Outcome::Success } else { Outcome::Failure };
                event.actor = Some(text);
                if chained_too {
                    Item::AuditEvent(chained(&key, &mut chain, &event))
                } else {
                    Item::AuditEvent(StoredEvent::unchained(&event).unwrap())
                }
            }));
            items.push(Item::AuditChain(chain));
            items
        },
    )
}

fn any_state_comes_out_as_it_went_in(source: Kind, target: Kind) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: 16, ..ProptestConfig::default() });
    let checked = runner.run(&any_state(), |items| {
        runtime.block_on(async {
            let (from, to) = (source.place().await, target.place().await);
            fill(&*from.store, &items).await;
            // A second time changes nothing.
            fill(&*from.store, &items).await;
            let mut expected = Tally::default();
            for item in &items {
                expected.add(item).unwrap();
            }
            assert_eq!(tally(&*from.store).await, expected);
            if !items.is_empty() {
                assert_eq!(carry(&*from.store, "x", &*to.store, &mut ignore).await.unwrap().target, expected);
            }
            let exported = all(&*to.store).await;
            assert!(exported.is_sorted_by_key(Item::kind));
            assert!(items.iter().all(|item| exported.contains(item)));
            // Emptied again, nothing is left of it.
            assert!(to.store.swap_meta(MARKER, None, Some(b"z")).await.unwrap());
            to.store.discard_import(b"z").await.unwrap();
            assert!(all(&*to.store).await.is_empty() && to.store.meta(MARKER).await.unwrap().is_some());
        });
        Ok(())
    });
    checked.unwrap();
}
