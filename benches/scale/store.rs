//! What `benches/scale/run` asks of the store in PostgreSQL, through the store's own code, so that no statement is
//! written down a second time:
//!
//! ```text
//! store model   URL SCHEMA                       the tables, and one account with a session, a token and an event to copy
//! store queries URL SCHEMA                       every method of the store, some times over, for whoever logs the plans
//! store fleet   URL SCHEMA FOLLOWERS SECONDS RATE  so many instances that follow what another one changes
//! store misses  URL SCHEMA SECONDS AT_ONCE       looks up sessions as fast as answers come
//! ```
//!
//! Each line that comes out is JSON. `fleet` says when a part of it begins and when it ends, so that whoever started it can
//! look at what the server costs meanwhile.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops when it can't go on"
)]

#[path = "../../tests/store_contract/fixtures.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod fixtures;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixtures::{api_token, digest, email, event, session, signing_key, token, user};
use nullpass::clock::{Clock, Timestamp};
use nullpass::config::Postgres;
use nullpass::model::{
    Action, Amr, ApiTokenId, EventId, Fitness, Generation, Group, Kid, LockChange, LockKey, LockPolicy, SessionId, SessionTouch, UserId,
};
use nullpass::store::postgres::PostgresStore;
use nullpass::store::{AuditQuery, News, Purpose, SessionSelector, Store, UserQuery};
use nullpass::tasks::Tasks;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// So often, that the server has also tried the plan that it keeps for a statement (from the sixth time on).
const ROUNDS: u64 = 8;

fn main() {
    // `cargo bench` adds a flag of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match words.as_slice() {
        ["model", url, schema] => runtime.block_on(model(url, schema)),
        ["queries", url, schema] => runtime.block_on(queries(url, schema)),
        ["fleet", url, schema, followers, seconds, rate] => {
            let seconds = Duration::from_secs_f64(seconds.parse().unwrap());
            runtime.block_on(fleet(url, schema, followers.parse().unwrap(), seconds, rate.parse().unwrap()));
        }
        ["misses", url, schema, seconds, at_once] => {
            runtime.block_on(misses(url, schema, Duration::from_secs_f64(seconds.parse().unwrap()), at_once.parse().unwrap()));
        }
        _ => println!(
            "usage: store model|queries URL SCHEMA | store fleet URL SCHEMA FOLLOWERS SECONDS RATE | store misses URL SCHEMA SECONDS AT_ONCE"
        ),
    }
}

async fn open(url: &str, schema: &str, pool: u32) -> Arc<PostgresStore> {
    let mut settings = Postgres::parse(url).unwrap();
    schema.clone_into(&mut settings.schema);
    settings.pool = pool;
    Arc::new(PostgresStore::open(&settings, &Tasks::new()).await.unwrap())
}

fn now() -> Timestamp {
    Clock::system().now()
}

const DAY: Duration = Duration::from_secs(86_400);

/// One of each, as large as they are in life.
async fn model(url: &str, schema: &str) {
    let store = open(url, schema, 2).await;
    let mut person = user(UserId::new(), email(0));
    person.password = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$1bGmuTjz4SNvJsPxsqJYBoF1sRlZ8lMmDNEkxkCKC1I".into();
    person.groups = ["staff", "team-1"].map(|name| Group::parse(name).unwrap()).into();
    person.display_name = Some(nullpass::model::DisplayName::parse("Person Number 0").unwrap());
    store.insert_user(&person, false).await.unwrap();
    let login = session(SessionId::new(), person.id, now().plus(30 * DAY));
    store.insert_session(&login, None).await.unwrap();
    let key = api_token(ApiTokenId::new(), person.id, None);
    store.insert_api_token(&key).await.unwrap();
    let entry = event(EventId::new(), now(), Action::UserLogin, Some(person.id));
    store.append_audit(&entry).await.unwrap();
    println!(r#"{{"user": "{}", "session": "{}", "token": "{}", "event": "{}"}}"#, person.id, login.id, key.id, entry.id);
}

async fn queries(url: &str, schema: &str) {
    let store = open(url, schema, 4).await;
    let page = store.users(&UserQuery { limit: 200, ..UserQuery::default() }).await.unwrap();
    let mut follow = store.follow().await.unwrap().unwrap();
    for round in 0..ROUNDS {
        let somebody = &page[usize::try_from(round).unwrap() * 7 + 11];
        let one = round + 1_000_000_000 + u64::try_from(now().as_millis()).unwrap();
        users(&*store, somebody, one).await;
        sessions(&*store, somebody.id, round).await;
        tokens(&*store, somebody.id, one).await;
        counted(&*store, somebody.id, one).await;
        installation(&*store, one).await;
        log(&*store, somebody.id, round).await;
        // What ran out in the last second of what is expired, so that there is something to remove.
        store.purge(now(), Some(Timestamp::from_secs(i64::try_from(round).unwrap()))).await.unwrap();
        store.ping().await.unwrap();
        store.size_on_disk().await.unwrap();
        follow.next().await.unwrap();
        tokio::time::timeout(Duration::from_millis(1500), follow.next()).await.ok();
    }
    // Whoever starts with everything in memory walks through it, and does that by an index.
    let mut left = 3000;
    let mut some = |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.scan_sessions(&mut some).await.unwrap();
    let mut first = |_| ControlFlow::Break(());
    store.scan_users(&mut first).await.unwrap();
    let mut first = |_| ControlFlow::Break(());
    store.scan_api_tokens(&mut first).await.unwrap();
    println!(r#"{{"rounds": {ROUNDS}}}"#);
}

async fn users(store: &dyn Store, somebody: &nullpass::model::User, one: u64) {
    let made = user(UserId::new(), email(one));
    store.insert_user(&made, false).await.unwrap();
    let mut changed = store.user(made.id).await.unwrap().unwrap();
    changed.email = email(one + 500_000_000_000);
    let changed = store.replace_user(&changed).await.unwrap();
    store.insert_session(&session(SessionId::new(), made.id, now().plus(DAY)), None).await.unwrap();
    store.delete_user(changed.id, now()).await.unwrap();
    store.user_by_email(&somebody.email).await.unwrap().unwrap();
    let query = UserQuery { limit: 50, ..UserQuery::default() };
    let (staff, admins) = (Group::parse("staff").unwrap(), Group::parse("nullpass-admin").unwrap());
    for search in [None, Some("number 123456"), Some("person.77777@"), Some("zzzzqqq"), Some("no")] {
        for group in [None, Some(&staff), Some(&admins)] {
            let query = UserQuery { search: search.map(str::to_owned), group: group.cloned(), ..query.clone() };
            store.users(&query).await.unwrap();
            store.users(&UserQuery { after: Some(somebody.id), ..query }).await.unwrap();
        }
    }
}

async fn sessions(store: &dyn Store, owner: UserId, round: u64) {
    let ids: Vec<SessionId> = (0..4).map(|_| SessionId::new()).collect();
    for id in &ids {
        let max = if round.is_multiple_of(2) { Some(20) } else { None };
        store.insert_session(&session(*id, owner, now().plus(DAY)), max).await.unwrap();
    }
    store.session(ids[0]).await.unwrap().unwrap();
    store.session_with_user(ids[0]).await.unwrap().unwrap();
    store.sessions_of(owner).await.unwrap();
    store.rotate_session(ids[0], Generation(0), token(round, 1), Duration::from_secs(60), now()).await.unwrap();
    store.set_standing(ids[0], Amr::PASSWORD, Fitness::Full).await.unwrap();
    let touches: Vec<SessionTouch> =
        ids.iter().map(|id| SessionTouch { id: *id, last_seen_at: now(), successor_seen_at: None, renewed: None }).collect();
    store.touch_sessions(&touches).await.unwrap();
    store.delete_sessions(SessionSelector::One(ids[1])).await.unwrap();
    store.delete_sessions(SessionSelector::OfUserExcept(owner, ids[2])).await.unwrap();
    store.delete_sessions(SessionSelector::OfUser(owner)).await.unwrap();
}

async fn tokens(store: &dyn Store, owner: UserId, one: u64) {
    let mut made = api_token(ApiTokenId::new(), owner, Some(now().plus(DAY)));
    made.digest = digest(one);
    store.insert_api_token(&made).await.unwrap();
    store.api_token_with_user(&made.digest).await.unwrap().unwrap();
    store.api_tokens_of(owner).await.unwrap();
    store.touch_api_tokens(&[(made.id, now())]).await.unwrap();
    assert!(store.delete_api_token(owner, made.id).await.unwrap());
}

async fn counted(store: &dyn Store, owner: UserId, one: u64) {
    store.spend_totp_step(owner, one).await.unwrap();
    store.spend_once(Purpose::PendingLogin, digest(one), now().plus(DAY)).await.unwrap();
    let policy = LockPolicy { after: 5, base: Duration::from_secs(1), max: Duration::from_secs(60) };
    for change in [LockChange::Fail(policy), LockChange::Fail(policy), LockChange::TakeBack, LockChange::Clear] {
        store.update_lock(LockKey::Account(digest(one)), change, now()).await.unwrap();
    }
    store.lock(LockKey::SecondFactor(owner)).await.unwrap();
}

async fn installation(store: &dyn Store, one: u64) {
    let name = format!("bench{one}");
    store.insert_signing_key(&signing_key(&name, now())).await.unwrap();
    store.retire_signing_keys(&[Kid(name.clone())], now()).await.unwrap();
    store.signing_keys().await.unwrap();
    for (before, after) in [(None, Some(&b"a"[..])), (Some(&b"a"[..]), Some(&b"b"[..])), (Some(&b"b"[..]), None)] {
        assert!(store.swap_meta(&name, before, after).await.unwrap());
    }
    store.meta(&name).await.unwrap();
}

async fn log(store: &dyn Store, owner: UserId, round: u64) {
    store.append_audit(&event(EventId::new(), now(), Action::UserLogin, Some(owner))).await.unwrap();
    let since = now().minus(DAY);
    for user in [None, Some(owner)] {
        for action in [None, Some(Action::UserLogin), Some(Action::TokenReuse)] {
            for since in [None, Some(since)] {
                let offset = usize::try_from(round).unwrap() * 10;
                store.audit(&AuditQuery { user, action, since, offset, limit: 50, before: None }).await.unwrap();
            }
        }
    }
}

/// Instances that follow, and one that ends sessions: how soon each of them hears of each, and, for whoever watches the
/// server meanwhile, what it costs when nothing happens and when something does.
async fn fleet(url: &str, schema: &str, followers: usize, seconds: Duration, rate: f64) {
    let writer = open(url, schema, 4).await;
    let person = user(UserId::new(), email(u64::try_from(now().as_millis()).unwrap()));
    writer.insert_user(&person, false).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let ended: Arc<Mutex<HashMap<SessionId, Instant>>> = Arc::default();
    let late: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let mut instances = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..followers {
        // As many connections as an instance has that nobody asks anything of.
        let store = open(url, schema, 1).await;
        let mut follow = store.follow().await.unwrap().unwrap();
        instances.push(store);
        let (stop, asked, ended, late) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&ended), Arc::clone(&late));
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let Ok(news) = follow.next().await else { continue };
                asked.fetch_add(1, Ordering::Relaxed);
                let at = Instant::now();
                for one in news {
                    // What is heard twice counts twice: it is work as well.
                    if let News::SessionEnded(id) = one
                        && let Some(since) = ended.lock().unwrap().get(&id)
                    {
                        late.lock().unwrap().push(at - *since);
                    }
                }
            }
        });
    }
    println!(r#"{{"part": "idle", "followers": {followers}}}"#);
    let before = asked.load(Ordering::Relaxed);
    tokio::time::sleep(seconds).await;
    let answers = asked.load(Ordering::Relaxed) - before;
    println!(r#"{{"part": "idle ended", "answers": {answers}, "seconds": {}}}"#, seconds.as_secs_f64());

    // Made beforehand: only the ending is looked at.
    let count = (rate * seconds.as_secs_f64()).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands")]
    let count = count as usize;
    let ids: Vec<SessionId> = (0..count).map(|_| SessionId::new()).collect();
    for id in &ids {
        writer.insert_session(&session(*id, person.id, now().plus(DAY)), None).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!(r#"{{"part": "ending", "sessions": {count}}}"#);
    let began = Instant::now();
    for (nth, id) in (0_u32..).zip(&ids) {
        tokio::time::sleep_until(began + Duration::from_secs_f64(f64::from(nth) / rate)).await;
        ended.lock().unwrap().insert(*id, Instant::now());
        writer.delete_sessions(SessionSelector::One(*id)).await.unwrap();
    }
    tokio::time::sleep_until(began + seconds).await;
    println!(r#"{{"part": "ending ended", "seconds": {}}}"#, began.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    let mut late = std::mem::take(&mut *late.lock().unwrap());
    late.sort_unstable();
    let quantile =
        |thousandths: usize| late.get(late.len() * thousandths / 1000).or(late.last()).copied().unwrap_or_default().as_secs_f64();
    println!(
        r#"{{"part": "heard", "heard": {}, "expected": {}, "p50_ms": {:.1}, "p99_ms": {:.1}, "max_ms": {:.1}}}"#,
        late.len(),
        count * followers,
        quantile(500) * 1000.0,
        quantile(990) * 1000.0,
        quantile(1000) * 1000.0
    );
    writer.delete_user(person.id, now()).await.unwrap();
    tasks.shutdown().await;
}

/// What an instance asks when a token comes that it has not seen: so many at a time, for so long.
async fn misses(url: &str, schema: &str, time: Duration, at_once: u32) {
    let store = open(url, schema, at_once).await;
    let mut ids = Vec::new();
    let mut each = |session: nullpass::model::Session| {
        ids.push(session.id);
        if ids.len() < 100_000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    store.scan_sessions(&mut each).await.unwrap();
    assert!(!ids.is_empty(), "there are no sessions");
    let ids = Arc::new(ids);
    println!(r#"{{"part": "misses", "sessions": {}}}"#, ids.len());
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for nth in 0..at_once {
        let (store, ids) = (Arc::clone(&store), Arc::clone(&ids));
        tasks.spawn(async move {
            let mut at = usize::try_from(nth).unwrap() * 7919;
            let mut count = 0_u64;
            while began.elapsed() < time {
                at = (at + 104_729) % ids.len();
                store.session_with_user(ids[at]).await.unwrap();
                count += 1;
            }
            count
        });
    }
    let count: u64 = tasks.join_all().await.into_iter().sum();
    println!(r#"{{"part": "misses ended", "count": {count}, "seconds": {}}}"#, began.elapsed().as_secs_f64());
}
