//! What only the shared store promises: how it starts and refuses to, that others hear of changes, and what happens when
//! connections break and the server crashes.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nullpass::clock::Clock;
use nullpass::config::{Backend, Config, Postgres};
use nullpass::model::{
    Action, Amr, ApiTokenId, Digest, EventId, Fitness, Generation, Group, Kid, LockChange, LockKey, LockPolicy, Secret, SessionId,
    SessionTouch, User, UserId,
};
use nullpass::store::postgres::PostgresStore;
use nullpass::store::{AuditQuery, Error, Follow, News, Purpose, SessionSelector, Store, UserQuery};
use nullpass::tasks::Tasks;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, NoTls};

use super::fixtures::{api_token, at, digest, email, event, session, signing_key, token, user};
use super::postgres_server::{self, DATABASE, PASSWORD, ROLE, Server};

/// A new schema on the server that the tests share.
fn fresh() -> Postgres {
    Postgres { schema: postgres_server::schema(), ..Postgres::parse(&postgres_server::url()).unwrap() }
}

fn on(server: &Server) -> Postgres {
    Postgres::parse(&server.url()).unwrap()
}

async fn open(settings: &Postgres) -> PostgresStore {
    PostgresStore::open(settings, &Tasks::new()).await.unwrap()
}

/// Why it can't be opened; never with the password.
async fn refused(settings: &Postgres) -> Error {
    let error = PostgresStore::open(settings, &Tasks::new()).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(PASSWORD), "{error}");
    error
}

/// A client that is not ours, in the schema of these settings.
async fn client(settings: &Postgres, url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    Tasks::new().spawn(connection);
    client.batch_execute(&format!("SET search_path = \"{}\"", settings.schema)).await.unwrap();
    client
}

// --- starting ---

#[tokio::test(flavor = "multi_thread")]
async fn many_start_at_once_on_an_empty_database() {
    let settings = fresh();
    let all: JoinSet<_> = (0..12)
        .map(|_| {
            let settings = settings.clone();
            async move { open(&settings).await }
        })
        .collect();
    let stores = all.join_all().await;
    let results: Vec<_> = {
        let all: JoinSet<_> =
            stores.into_iter().map(|store| async move { store.insert_user(&user(UserId::new(), email(1)), false).await }).collect();
        all.join_all().await
    };
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(Error::Conflict))), "{results:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_done_is_said_without_doing_it() {
    let settings = fresh();
    for _ in 0..2 {
        let pending = PostgresStore::pending(&settings).await.unwrap();
        assert_eq!(pending.iter().map(|migration| migration.number).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(pending[0].sql.contains(&format!("CREATE SCHEMA \"{}\"", settings.schema)), "{}", pending[0].sql);
        assert!(pending[1].sql.contains("CREATE TABLE sessions"), "{}", pending[1].sql);
    }
    // What is printed is what has to be done, by whoever does it.
    let script: String = PostgresStore::pending(&settings).await.unwrap().into_iter().map(|migration| migration.sql).collect();
    let outside = client(&settings, &postgres_server::url()).await;
    outside.batch_execute(&format!("BEGIN; {script} COMMIT")).await.unwrap();
    assert_eq!(PostgresStore::pending(&settings).await.unwrap(), []);
    open(&settings).await.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_and_another_programs_are_left_alone() {
    let settings = fresh();
    open(&settings).await;
    let outside = client(&settings, &postgres_server::url()).await;
    outside.batch_execute("INSERT INTO nullpass_migrations (number, name) VALUES (99, 'later')").await.unwrap();
    assert!(matches!(refused(&settings).await, Error::Newer { found: 99, known: 2 }));
    assert!(matches!(PostgresStore::pending(&settings).await, Err(Error::Newer { .. })));

    let settings = fresh();
    outside.batch_execute(&format!("CREATE SCHEMA {0}; CREATE TABLE {0}.users (id int)", settings.schema)).await.unwrap();
    let error = refused(&settings).await;
    assert!(matches!(&error, Error::Foreign { schema, why } if *schema == settings.schema && why.contains("users")), "{error}");
    let rows = outside.query("SELECT 1 FROM pg_class WHERE relnamespace = $1::text::regnamespace", &[&settings.schema]).await.unwrap();
    assert_eq!(rows.len(), 1, "nothing was added");
}

/// Roles, databases, rights and addresses that are wrong: each is said by its cause.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_by_its_cause() {
    let server = Server::start(&[("fsync", "off")]);
    server.sql(
        DATABASE,
        &format!("CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'; CREATE SCHEMA theirs; REVOKE CONNECT ON DATABASE postgres FROM PUBLIC"),
    );
    let with =
        |role: &str, password: &str, database: &str| Postgres::parse(&server.url_of(role, password, database, "sslmode=disable")).unwrap();

    let error = refused(&with(ROLE, "wr0ng", DATABASE)).await;
    assert!(matches!(&error, Error::Refused(text) if text.contains("password authentication failed") && text.contains(ROLE)), "{error}");
    assert!(!error.to_string().contains("wr0ng"));
    let error = refused(&with("stranger", PASSWORD, DATABASE)).await;
    assert!(matches!(&error, Error::Refused(text) if text.contains("stranger")), "{error}");
    let error = refused(&with(ROLE, PASSWORD, "nowhere")).await;
    assert!(matches!(&error, Error::Refused(text) if text.contains("\"nowhere\" does not exist")), "{error}");
    let error = refused(&with(ROLE, PASSWORD, "postgres")).await;
    assert!(matches!(&error, Error::Rights(text) if text.contains("permission denied for database")), "{error}");
    let error = refused(&with("guest", PASSWORD, DATABASE)).await;
    assert!(matches!(&error, Error::Rights(text) if text.contains("CREATE SCHEMA \"nullpass\" AUTHORIZATION \"guest\"")), "{error}");
    let error = refused(&Postgres { schema: "theirs".to_owned(), ..on(&server) }).await;
    assert!(matches!(&error, Error::Rights(text) if text.contains("permission denied for schema theirs")), "{error}");

    // TLS that the server does not speak; nobody there; somebody there who is no database.
    let tls = Postgres::parse(&server.url_of(ROLE, PASSWORD, DATABASE, "sslmode=require")).unwrap();
    let error = refused(&tls).await;
    assert!(matches!(&error, Error::Tls(text) if text.contains("does not support TLS")), "{error}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(&Postgres::parse(&format!("postgres://{ROLE}:{PASSWORD}@{free}/x?sslmode=disable")).unwrap()).await;
    assert!(matches!(&error, Error::Unavailable(text) if text.contains(&free.to_string()) && text.contains("refused")), "{error}");
    let error = refused(&Postgres::parse(&format!("postgres://{ROLE}:{PASSWORD}@no-such-host.invalid/x")).unwrap()).await;
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("no-such-host.invalid")), "{error}");
    let error = refused(&Postgres::parse(&format!("postgres://{ROLE}:{PASSWORD}@%2Fnowhere/x")).unwrap()).await;
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("/nowhere/.s.PGSQL.5432")), "{error}");

    // Whoever may not change the schema may use one that is as it should be, if they may use all of it.
    open(&on(&server)).await;
    let error = refused(&with("guest", PASSWORD, DATABASE)).await;
    assert!(matches!(&error, Error::Rights(_)), "{error}");
    server.sql(
        DATABASE,
        "GRANT USAGE ON SCHEMA nullpass TO guest; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA nullpass TO guest; \
                          REVOKE DELETE ON nullpass.sessions FROM guest",
    );
    let error = refused(&with("guest", PASSWORD, DATABASE)).await;
    assert!(matches!(&error, Error::Rights(text) if text.ends_with("missing on sessions")), "{error}");
    server.sql(DATABASE, "GRANT DELETE ON nullpass.sessions TO guest");
    let store = open(&with("guest", PASSWORD, DATABASE)).await;
    store.insert_user(&user(UserId::new(), email(1)), false).await.unwrap();

    // Through the unix socket, where the password stands in a file that nobody else may read.
    let folder = tempfile::tempdir().unwrap();
    let passfile = folder.path().join("pass");
    fs::write(&passfile, format!("127.0.0.1:*:*:{ROLE}:{PASSWORD}\n")).unwrap();
    let url = format!("postgres://{ROLE}@127.0.0.1:{}/{DATABASE}?sslmode=disable&passfile={}", server.port(), passfile.display());
    set_mode(&passfile, 0o640);
    let error = refused(&Postgres::parse(&url).unwrap()).await;
    assert!(error.to_string().contains("0600"), "{error}");
    set_mode(&passfile, 0o600);
    open(&Postgres::parse(&url).unwrap()).await;
    let socket = format!("postgres://{ROLE}@/{DATABASE}?host={}&port={}&sslmode=require", server.folder().display(), server.port());
    open(&Postgres::parse(&socket).unwrap()).await;
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Certificates: `verify-full` looks at the name, `verify-ca` at the authority, `require` at neither.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_who_its_certificate_says() {
    let folder = tempfile::tempdir().unwrap();
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let path = folder.path().join(name);
        fs::write(&path, certificate.pem()).unwrap();
        (path, rcgen::Issuer::new(params, key))
    };
    let (ours, issuer) = authority("ours.pem");
    let (other, _) = authority("other.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let server = Server::prepared(&[("fsync", "off"), ("ssl", "on")], |data| {
        fs::write(data.join("server.crt"), leaf.pem()).unwrap();
        fs::write(data.join("server.key"), key.serialize_pem()).unwrap();
        set_mode(&data.join("server.key"), 0o600);
    });
    let with = |host: &str, mode: &str, roots: Option<&Path>| {
        let roots = roots.map_or_else(String::new, |path| format!("&sslrootcert={}", path.display()));
        let url =
            server.url_of(ROLE, PASSWORD, DATABASE, &format!("sslmode={mode}{roots}&application_name=x{}", uuid::Uuid::now_v7().simple()));
        Postgres::parse(&url.replace("127.0.0.1", host)).unwrap()
    };
    for (host, mode, roots) in [
        ("localhost", "verify-full", Some(ours.as_path())),
        ("127.0.0.1", "verify-ca", Some(ours.as_path())),
        ("127.0.0.1", "require", None),
        ("127.0.0.1", "prefer", None),
    ] {
        let settings = with(host, mode, roots);
        let store = open(&settings).await;
        store.ping().await.unwrap();
        let _listening = store.follow().await.unwrap().unwrap();
        let sql = format!(
            "SELECT bool_and(ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = '{}'",
            settings.application_name
        );
        assert_eq!(server.sql(DATABASE, &sql), "t|2", "{mode}");
    }
    for (host, mode, roots) in [
        ("127.0.0.1", "verify-full", Some(ours.as_path())),
        ("localhost", "verify-full", Some(other.as_path())),
        ("127.0.0.1", "verify-ca", Some(other.as_path())),
        // As libpq: authorities that are named are asked.
        ("127.0.0.1", "require", Some(other.as_path())),
        ("localhost", "verify-full", None),
    ] {
        let error = refused(&with(host, mode, roots)).await;
        assert!(matches!(&error, Error::Tls(text) if text.contains("certificate")), "{mode}: {error}");
    }
    let missing = folder.path().join("missing.pem");
    assert!(matches!(refused(&with("localhost", "verify-full", Some(&missing))).await, Error::Tls(text) if text.contains("missing.pem")));
}

// --- hearing of changes ---

/// What is told within a time that is long for a test and short for the promise.
async fn told(follow: &mut Box<dyn Follow>, wanted: &[News]) -> Duration {
    let began = Instant::now();
    let mut missing = wanted.to_vec();
    while !missing.is_empty() {
        let news = timeout(Duration::from_secs(20), follow.next()).await.unwrap_or_else(|_| panic!("{missing:?} are not told"));
        let news = news.unwrap_or_default();
        missing.retain(|wanted| !news.contains(wanted));
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_that_others_must_hear_of_is_told() {
    let settings = fresh();
    let (here, there) = (open(&settings).await, open(&settings).await);
    let (owner, ids) = (user(UserId::new(), email(1)), [SessionId::new(), SessionId::new(), SessionId::new()]);
    here.insert_user(&owner, false).await.unwrap();
    let mut follow = there.follow().await.unwrap().unwrap();
    for id in ids {
        here.insert_session(&session(id, owner.id, at(1000)), Some(2)).await.unwrap();
    }
    told(&mut follow, &[News::SessionEnded(ids[0])]).await;
    here.rotate_session(ids[1], Generation(0), token(5, 0), Duration::ZERO, at(2)).await.unwrap();
    told(&mut follow, &[News::SessionChanged(ids[1])]).await;
    let api = [ApiTokenId::new(), ApiTokenId::new()];
    for id in api {
        here.insert_api_token(&api_token(id, owner.id, None)).await.unwrap();
    }
    assert!(here.delete_api_token(owner.id, api[0]).await.unwrap());
    told(&mut follow, &[News::ApiTokenEnded(api[0])]).await;
    let owner = here.replace_user(&User { email: email(2), ..owner }).await.unwrap();
    told(&mut follow, &[News::User(owner.id)]).await;
    here.insert_signing_key(&signing_key("one", at(1))).await.unwrap();
    told(&mut follow, &[News::SigningKeys]).await;
    here.retire_signing_keys(&[Kid("one".to_owned())], at(2)).await.unwrap();
    told(&mut follow, &[News::SigningKeys]).await;
    here.delete_sessions(SessionSelector::One(ids[1])).await.unwrap();
    told(&mut follow, &[News::SessionEnded(ids[1])]).await;
    here.delete_user(owner.id, at(3)).await.unwrap();
    told(&mut follow, &[News::User(owner.id), News::SessionEnded(ids[2]), News::ApiTokenEnded(api[1])]).await;

    // What was heard is not told again by the next look, and an empty answer comes by itself.
    assert_eq!(timeout(Duration::from_secs(3), follow.next()).await.unwrap().unwrap(), []);

    // A transaction that changes nothing tells nothing.
    let gone = user(UserId::new(), email(9));
    assert!(matches!(here.replace_user(&gone).await, Err(Error::Stale)));
    assert_eq!(follow.next().await.unwrap(), []);
}

/// More than one notification can hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_at_once_are_told() {
    let settings = fresh();
    let store = open(&settings).await;
    let owner = user(UserId::new(), email(1));
    store.insert_user(&owner, false).await.unwrap();
    let ids: Vec<SessionId> = (0..1000).map(|_| SessionId::new()).collect();
    for id in &ids {
        store.insert_session(&session(*id, owner.id, at(1000)), None).await.unwrap();
    }
    let mut follow = store.follow().await.unwrap().unwrap();
    store.delete_sessions(SessionSelector::OfUser(owner.id)).await.unwrap();
    told(&mut follow, &ids.into_iter().map(News::SessionEnded).collect::<Vec<_>>()).await;
}

/// Without a notification, and though a change with a higher number was seen before: the look finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_ends_late_is_not_missed() {
    let settings = fresh();
    let store = open(&settings).await;
    let late = client(&settings, &postgres_server::url()).await;
    let id = SessionId::new();
    late.batch_execute(&format!("BEGIN; INSERT INTO changes (kind, id) VALUES ('e', '{id}')")).await.unwrap();
    let mut follow = store.follow().await.unwrap().unwrap();
    for number in 0..3 {
        let other = user(UserId::new(), email(number));
        store.insert_user(&other, false).await.unwrap();
        told(&mut follow, &[News::User(other.id)]).await;
        assert_eq!(timeout(Duration::from_secs(3), follow.next()).await.unwrap().unwrap(), [], "a look in between");
    }
    late.batch_execute("COMMIT").await.unwrap();
    let took = told(&mut follow, &[News::SessionEnded(id)]).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// The listener's connection is cut again and again; what happens meanwhile is told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_listener_catches_up() {
    let settings = Postgres { application_name: format!("cut{}", uuid::Uuid::now_v7().simple()), ..fresh() };
    let store = open(&settings).await;
    let other = open(&Postgres { application_name: "other".to_owned(), ..settings.clone() }).await;
    let outside = client(&settings, &postgres_server::url()).await;
    let cut = async || {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";
        outside.query_one(sql, &[&settings.application_name]).await.unwrap().get::<_, i64>(0)
    };
    let mut follow = store.follow().await.unwrap().unwrap();
    for number in 0..5 {
        assert!(cut().await >= 1);
        let user = user(UserId::new(), email(number));
        other.insert_user(&user, false).await.unwrap();
        let took = told(&mut follow, &[News::User(user.id)]).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    // Dropped in the middle, again and again, it loses nothing.
    let last = user(UserId::new(), email(99));
    other.insert_user(&last, false).await.unwrap();
    let mut all = Vec::new();
    while !all.contains(&News::User(last.id)) {
        if let Ok(news) = timeout(Duration::from_millis(7), follow.next()).await {
            all.extend(news.unwrap());
        }
    }
}

// --- broken connections ---

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_were_cut_are_not_used_again() {
    let settings = Postgres { application_name: format!("cut{}", uuid::Uuid::now_v7().simple()), ..fresh() };
    let store = Arc::new(open(&settings).await);
    let outside = client(&settings, &postgres_server::url()).await;
    for round in 0..5 {
        let users: JoinSet<_> = (0..20)
            .map(|number| {
                let store = Arc::clone(&store);
                async move { store.insert_user(&user(UserId::new(), email(round * 100 + number)), false).await.unwrap() }
            })
            .collect();
        users.join_all().await;
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";
        let cut: i64 = outside.query_one(sql, &[&settings.application_name]).await.unwrap().get(0);
        assert!(cut > 0);
        // At once: whether the end was noticed already or not.
        assert!(store.user_by_email(&email(round * 100)).await.unwrap().is_some());
        store.insert_user(&user(UserId::new(), email(round * 100 + 99)), false).await.unwrap();
    }
    assert_eq!(store.users(&UserQuery { limit: 1000, ..UserQuery::default() }).await.unwrap().len(), 105);
}

/// Others have taken all of the server's connections: what we have goes on being used, and nobody waits for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_free_connections_is_shared_nevertheless() {
    let server = Server::start(&[("fsync", "off"), ("max_connections", "6"), ("superuser_reserved_connections", "2")]);
    let store = Arc::new(open(&on(&server)).await);
    store.ping().await.unwrap();
    let mut others = Vec::new();
    while let Ok((client, connection)) = tokio_postgres::connect(&server.url(), NoTls).await {
        Tasks::new().spawn(connection);
        others.push(client);
    }
    assert!(!others.is_empty());
    let users: JoinSet<_> = (0..40)
        .map(|number| {
            let store = Arc::clone(&store);
            async move { store.insert_user(&user(UserId::new(), email(number)), false).await }
        })
        .collect();
    let results = users.join_all().await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let error = refused(&on(&server)).await;
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("53300")), "{error}");
}

/// What was acknowledged is there after a crash of the server, though the database's own default would lose it.
#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_server_loses_nothing_that_was_acknowledged() {
    let mut server = Server::start(&[("synchronous_commit", "off"), ("wal_writer_delay", "10s")]);
    let store = Arc::new(open(&on(&server)).await);
    let mut follow = store.follow().await.unwrap().unwrap();
    let policy = LockPolicy { after: 5, base: Duration::ZERO, max: Duration::ZERO };
    let mut owners = Vec::new();
    for round in 0..3u64 {
        for number in round * 100..round * 100 + 20 {
            let owner = user(UserId::new(), email(number));
            store.insert_user(&owner, false).await.unwrap();
            let id = SessionId::new();
            store.insert_session(&session(id, owner.id, at(1000)), Some(3)).await.unwrap();
            assert!(store.spend_once(Purpose::PendingLogin, digest(number), at(1000)).await.unwrap());
            assert!(store.spend_totp_step(owner.id, 7).await.unwrap());
            store.update_lock(LockKey::Account(digest(number)), LockChange::Fail(policy), at(2)).await.unwrap();
            owners.push((number, owner, id));
        }
        server.crash_and_restart();
        // It comes back by itself; until then it says that it does not answer.
        let began = Instant::now();
        while let Err(error) = store.ping().await {
            assert!(matches!(error, Error::Unavailable(_)) && began.elapsed() < Duration::from_secs(20), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (number, owner, id) in &owners {
            assert_eq!(store.user(owner.id).await.unwrap().as_ref(), Some(owner));
            assert_eq!(store.session_with_user(*id).await.unwrap().map(|(session, _)| session.user), Some(owner.id));
            assert!(!store.spend_once(Purpose::PendingLogin, digest(*number), at(1000)).await.unwrap());
            assert!(!store.spend_totp_step(owner.id, 7).await.unwrap());
            assert_eq!(store.lock(LockKey::Account(digest(*number))).await.unwrap().failures, 1);
        }
        let late = user(UserId::new(), email(round * 100 + 99));
        store.insert_user(&late, false).await.unwrap();
        told(&mut follow, &[News::User(late.id)]).await;
    }
}

/// A server that falls silent costs a few callers some seconds; the others are told at once, and nobody is let in by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_not_waited_for_by_everybody() {
    let server = Server::start(&[("fsync", "off")]);
    let store = Arc::new(open(&on(&server)).await);
    let owner = user(UserId::new(), email(1));
    store.insert_user(&owner, false).await.unwrap();
    server.signal("STOP");
    let began = Instant::now();
    // Who gives up early tells the others as well.
    for _ in 0..3 {
        assert!(timeout(Duration::from_secs(3), store.ping()).await.is_err() || began.elapsed() > Duration::from_secs(2));
    }
    let asked = Instant::now();
    for number in 0..50 {
        let answer = store.spend_once(Purpose::PendingLogin, digest(number), at(1000)).await;
        assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    }
    assert!(asked.elapsed() < Duration::from_secs(15), "one in a while waits: {:?}", asked.elapsed());
    server.signal("CONT");
    let began = Instant::now();
    while let Err(error) = store.user(owner.id).await {
        assert!(matches!(error, Error::Unavailable(_)) && began.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.user(owner.id).await.unwrap(), Some(owner));
}

/// With sequential scans as the planner's last resort, the log of all plans shows none: every statement has an index.
#[tokio::test(flavor = "multi_thread")]
async fn every_statement_has_an_index() {
    let server = Server::start(&[
        ("fsync", "off"),
        ("shared_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_nested_statements", "on"),
        ("enable_seqscan", "off"),
        ("plan_cache_mode", "force_generic_plan"),
    ]);
    let store = open(&on(&server)).await;
    let mut follow = store.follow().await.unwrap().unwrap();
    let owner = user(UserId::new(), email(1));
    store.insert_user(&owner, false).await.unwrap();
    let owner = store.replace_user(&User { groups: [Group::default_admin()].into(), ..owner }).await.unwrap();
    for (search, group) in [(None, false), (Some("user1"), false), (Some("u"), true), (Some("example"), true), (None, true)] {
        let query = UserQuery { search: search.map(str::to_owned), group: group.then(Group::default_admin), after: None, limit: 10 };
        assert_eq!(store.users(&query).await.unwrap().len(), 1, "{query:?}");
    }
    let ids = [SessionId::new(), SessionId::new(), SessionId::new()];
    for id in ids {
        store.insert_session(&session(id, owner.id, at(1000)), Some(2)).await.unwrap();
    }
    store.rotate_session(ids[1], Generation(0), token(5, 0), Duration::ZERO, at(2)).await.unwrap();
    store.set_standing(ids[1], Amr::PASSWORD, Fitness::Full).await.unwrap();
    let touch = SessionTouch { id: ids[1], last_seen_at: at(9), successor_seen_at: None, renewed: None };
    store.touch_sessions(&[touch]).await.unwrap();
    assert_eq!((store.sessions_of(owner.id).await.unwrap().len(), store.session(ids[0]).await.unwrap()), (2, None));
    assert!(store.session_with_user(ids[1]).await.unwrap().is_some());
    store.scan_sessions(&mut |_| ControlFlow::Continue(())).await.unwrap();
    store.scan_users(&mut |_| ControlFlow::Continue(())).await.unwrap();
    let api = api_token(ApiTokenId::new(), owner.id, Some(at(5)));
    store.insert_api_token(&api).await.unwrap();
    store.touch_api_tokens(&[(api.id, at(3))]).await.unwrap();
    assert!(store.api_token_with_user(&api.digest).await.unwrap().is_some());
    assert_eq!(store.api_tokens_of(owner.id).await.unwrap().len(), 1);
    store.scan_api_tokens(&mut |_| ControlFlow::Continue(())).await.unwrap();
    assert!(!store.delete_api_token(owner.id, ApiTokenId::new()).await.unwrap());
    assert!(store.spend_totp_step(owner.id, 1).await.unwrap() && store.spend_totp_step(owner.id, 2).await.unwrap());
    assert!(store.spend_once(Purpose::Setup, digest(1), at(5)).await.unwrap());
    let policy = LockPolicy { after: 5, base: Duration::ZERO, max: Duration::ZERO };
    for change in [LockChange::Fail(policy), LockChange::Fail(policy), LockChange::Clear] {
        store.update_lock(LockKey::Account(digest(1)), change, at(2)).await.unwrap();
        store.lock(LockKey::Account(digest(1))).await.unwrap();
    }
    store.insert_signing_key(&signing_key("one", at(1))).await.unwrap();
    store.retire_signing_keys(&[Kid("one".to_owned())], at(2)).await.unwrap();
    assert_eq!(store.signing_keys().await.unwrap().len(), 1);
    for (expected, new) in [(None, Some(&b"a"[..])), (Some(&b"a"[..]), Some(&b"b"[..])), (Some(&b"b"[..]), None)] {
        assert!(store.swap_meta("name", expected, new).await.unwrap());
    }
    assert_eq!(store.meta("name").await.unwrap(), None);
    store.append_audit(&event(EventId::new(), at(1), Action::UserLogin, Some(owner.id))).await.unwrap();
    for (user, action) in [(None, None), (Some(owner.id), None), (None, Some(Action::UserLogin)), (Some(owner.id), Some(Action::UserLogin))]
    {
        let query = AuditQuery { user, action, since: Some(at(0)), limit: 10, ..AuditQuery::default() };
        assert_eq!(store.audit(&query).await.unwrap().len(), 1);
    }
    store.purge(at(1), Some(at(1))).await.unwrap();
    store.delete_sessions(SessionSelector::One(ids[1])).await.unwrap();
    store.delete_sessions(SessionSelector::OfUser(owner.id)).await.unwrap();
    store.delete_user(owner.id, at(3)).await.unwrap();
    store.user_by_email(&email(1)).await.unwrap();
    assert!(matches!(store.insert_user(&user(UserId::new(), email(1)), false).await, Err(Error::Retired)));
    store.ping().await.unwrap();
    store.ping().await.unwrap();
    told(&mut follow, &[News::User(owner.id)]).await;
    while !follow.next().await.unwrap().is_empty() {}

    let log = server.log();
    let tables = [
        "users",
        "retired_emails",
        "sessions",
        "api_tokens",
        "totp_steps",
        "spent",
        "locks",
        "signing_keys",
        "meta",
        "audit",
        "changes",
        "alive",
    ];
    for table in tables {
        assert!(log.contains(&format!(" on {table} ")), "no plan for {table} was seen");
        assert!(
            !log.contains(&format!("Seq Scan on {table} ")),
            "{}",
            log.split("Query Text: ").find(|plan| plan.contains(&format!("Seq Scan on {table} "))).unwrap()
        );
    }
}

/// With the planner as it is and more rows than it can pass by: what takes a few rows reads a few, also where it can't
/// know that they are few.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_rows_of_many_are_found_without_reading_all() {
    let server = Server::start(&[
        ("fsync", "off"),
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_analyze", "on"),
        ("plan_cache_mode", "force_generic_plan"),
        ("autovacuum", "off"),
    ]);
    let store = open(&on(&server)).await;
    server.sql(
        DATABASE,
        "SET search_path = nullpass; \
         INSERT INTO users SELECT gen_random_uuid(), 'x' || n, 'x' || n || chr(10), ARRAY[n, -n], ARRAY['g' || n % 100], 1, '' FROM generate_series(1, 30000) n; \
         INSERT INTO spent SELECT 1, sha256(n::text::bytea), 10000 + n FROM generate_series(1, 50000) n; \
         INSERT INTO spent SELECT 1, sha256(n::text::bytea), 1 FROM generate_series(-1500, -1) n; \
         INSERT INTO audit SELECT 1000000 + n, gen_random_uuid(), NULL, 'x', '' FROM generate_series(1, 50000) n; \
         INSERT INTO audit SELECT n, gen_random_uuid(), NULL, 'x', '' FROM generate_series(1, 1500) n; \
         INSERT INTO locks SELECT sha256(n::text::bytea), false, 1, 9000000000000, 9000000000000 FROM generate_series(1, 50000) n; \
         INSERT INTO sessions SELECT gen_random_uuid(), id, 1000000, '' FROM users; \
         ANALYZE users, spent, audit, locks, sessions",
    );
    // The newest, so that it is behind all others.
    let last = User { groups: [Group::default_admin()].into(), ..user(UserId::from_bytes([0xff; 16]), email(1)) };
    store.insert_user(&last, false).await.unwrap();
    for (search, group) in [(Some("user1"), false), (None, true), (Some("user1"), true), (Some("u"), true)] {
        let query = UserQuery { search: search.map(str::to_owned), group: group.then(Group::default_admin), after: None, limit: 10 };
        assert_eq!(store.users(&query).await.unwrap(), std::slice::from_ref(&last), "{query:?}");
    }
    let of = UserQuery { group: Some(Group::default_admin()), after: Some(last.id), limit: 10, ..UserQuery::default() };
    assert_eq!(store.users(&of).await.unwrap(), []);
    for (search, group) in [("€", None), ("qz", Some(Group::parse("g1").unwrap()))] {
        let nobody = UserQuery { search: Some(search.to_owned()), group, after: None, limit: 10 };
        assert_eq!(store.users(&nobody).await.unwrap(), []);
    }
    store.insert_session(&session(SessionId::new(), last.id, at(100_000)), Some(1)).await.unwrap();
    assert_eq!(store.delete_sessions(SessionSelector::OfUser(last.id)).await.unwrap().len(), 1);
    let purged = store.purge(at(2), Some(at(2))).await.unwrap();
    assert_eq!(purged.others, 3000);

    let log = server.log();
    let plans: Vec<&str> = log.split("Query Text: ").skip(1).filter(|plan| !plan.starts_with("SET search_path = nullpass")).collect();
    let tables = ["users", "spent", "audit", "locks", "sessions"];
    for plan in &plans {
        for table in tables {
            assert!(!plan.contains(&format!("Seq Scan on {table} ")), "{plan}");
        }
        let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().unwrap();
        let passed = plan.split("(actual time=").skip(1).filter_map(|node| node.split_once("rows=")).map(|(_, rows)| number(rows));
        let removed = plan.split("Rows Removed by Filter: ").skip(1).map(number);
        let most = passed.chain(removed).max().unwrap();
        assert!(most <= 2000, "{most} rows: {plan}");
    }
    for index in ["users_by_groups", "users_by_grams", "spent_by_end", "audit_pkey", "locks_by_age", "sessions_by_user"] {
        assert!(plans.iter().any(|plan| plan.contains(index)), "{index} was not used");
    }
}

/// What a command does is over before it matters what others change: it takes no connection to hear of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_does_not_listen() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Postgres { application_name: format!("command{}", uuid::Uuid::now_v7().simple()), ..fresh() };
    let mut config = Config::default();
    config.storage.backend = Backend::Postgres;
    config.storage.path = folder.path().to_owned();
    config.storage.master_key = Some(Secret::new((0..32).map(|n: u8| n.wrapping_mul(89)).collect()));
    config.storage.postgres = Some(settings.clone());
    let auth = nullpass::app::open_auth(&config, &Clock::system()).await.unwrap();
    assert!(auth.live().is_empty() && !auth.has_administrator().await.unwrap());
    let outside = client(&settings, &postgres_server::url()).await;
    let sql = "SELECT count(*), count(*) FILTER (WHERE query ILIKE '%LISTEN%' OR query LIKE '%pg_current_snapshot%') \
               FROM pg_stat_activity WHERE application_name = $1";
    let row = outside.query_one(sql, &[&settings.application_name]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 0));
    auth.close().await.unwrap();
}

/// A table that was changed, as by a newer release, and prepared statements that are gone: a new connection knows better.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_are_out_of_date_are_prepared_again() {
    let settings = Postgres { pool: 1, ..fresh() };
    let store = open(&settings).await;
    let owner = user(UserId::new(), email(1));
    store.insert_user(&owner, false).await.unwrap();
    let outside = client(&settings, &postgres_server::url()).await;
    assert_eq!(store.meta("name").await.unwrap(), None);
    assert!(store.user(owner.id).await.unwrap().is_some());
    outside.batch_execute("ALTER TABLE users ALTER COLUMN record TYPE text USING encode(record, 'hex')").await.unwrap();
    assert!(matches!(store.user(owner.id).await, Err(Error::Corrupt(_))), "it was asked anew");
    outside.batch_execute("ALTER TABLE users ALTER COLUMN record TYPE bytea USING decode(record, 'hex')").await.unwrap();
    assert_eq!(store.user(owner.id).await.unwrap(), Some(owner));
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_find_parts_of_addresses_and_names() {
    let store = open(&fresh()).await;
    for number in 0..30 {
        store.insert_user(&user(UserId::new(), email(number)), false).await.unwrap();
    }
    let found = async |text: &str| {
        let query = UserQuery { search: Some(text.to_owned()), limit: 100, ..UserQuery::default() };
        store.users(&query).await.unwrap().len()
    };
    for (text, count) in
        [("", 30), ("user1@", 1), ("USER1", 11), ("r2", 11), ("@example.com", 30), ("nobody", 0), ("m\n", 0), ("%", 0), ("_", 0)]
    {
        assert_eq!(found(text).await, count, "{text:?}");
    }
    assert_eq!(store.api_token_with_user(&Digest([0; 32])).await.unwrap(), None);
}
