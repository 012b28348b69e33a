//! Commands against a real store, the socket with a real kernel, and the listener with real connections.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::command::{Answer, Command, CommandError, Who, execute};
use super::socket::{self, BindError, CallError, Listener};
use super::{State, UserRow, serve};
use crate::app;
use crate::auth::login::{Credentials, LoginStep};
use crate::auth::{Auth, Client};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::config::Config;
use crate::model::{Group, Secret, SessionId};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

const START: Timestamp = Timestamp::from_secs(1_700_000_000);
const PASSWORD: &str = "a quite long pass phrase";

struct House {
    auth: Arc<Auth>,
    clock: Clock,
    hands: ManualClock,
    folder: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.path = folder.path().join("data");
        config.accounts.argon2.memory_kib = 64;
        config.accounts.argon2.iterations = 1;
        let (clock, hands) = Clock::manual(START);
        let auth = app::open_auth(&config, &clock).await.unwrap();
        Self { auth, clock, hands, folder }
    }

    async fn ask(&self, command: Command) -> Result<Answer, CommandError> {
        execute(&self.auth, command, self.clock.now()).await
    }

    async fn user(&self, command: Command) -> UserRow {
        match self.ask(command).await {
            Ok(Answer::User(user)) => user,
            other => panic!("{other:?}"),
        }
    }

    async fn add(&self, email: &str) -> UserRow {
        self.user(add(email, PASSWORD)).await
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }
}

fn add(email: &str, password: &str) -> Command {
    Command::UserAdd {
        email: email.parse().unwrap(),
        password: Secret::from(password),
        display_name: None,
        groups: BTreeSet::new(),
        administrator: false,
    }
}

fn who(text: &str) -> Who {
    text.parse().unwrap()
}

fn groups(names: &[&str]) -> BTreeSet<Group> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_managed() {
    let house = House::new().await;
    let ada = house
        .user(Command::UserAdd {
            email: "Ada@Example.com".parse().unwrap(),
            password: Secret::from(PASSWORD),
            display_name: Some("Ada".to_owned()),
            groups: groups(&["dev"]),
            administrator: true,
        })
        .await;
    assert_eq!(ada.email.as_str(), "ada@example.com");
    assert_eq!(ada.groups, groups(&["dev", "nullpass-admin"]));
    assert_eq!(ada.created_at, "2023-11-14T22:13:20.000Z");
    let bob = house.add("bob@example.com").await;

    // By address and by id it is the same account.
    assert_eq!(house.user(Command::UserShow { who: who("ada@example.com") }).await, ada);
    assert_eq!(house.user(Command::UserShow { who: who(&ada.id.to_string()) }).await, ada);

    let list = |search: Option<&str>, group: Option<&str>, after| Command::UserList {
        search: search.map(str::to_owned),
        group: group.map(|group| group.parse().unwrap()),
        after,
    };
    for (command, expected) in [
        (list(None, None, None), vec![&ada, &bob]),
        (list(Some("BOB"), None, None), vec![&bob]),
        (list(None, Some("dev"), None), vec![&ada]),
        (list(None, None, Some(ada.id)), vec![&bob]),
    ] {
        match house.ask(command).await {
            Ok(Answer::Users(found)) => assert_eq!(found.iter().collect::<Vec<_>>(), expected),
            other => panic!("{other:?}"),
        }
    }

    house.hands.advance(Duration::from_secs(60));
    assert_eq!(house.user(Command::UserSetGroups { who: who("bob@example.com"), groups: groups(&["x"]) }).await.groups, groups(&["x"]));
    assert!(house.user(Command::UserDisable { who: who("bob@example.com") }).await.disabled_at.is_some());
    assert!(house.user(Command::UserEnable { who: who("bob@example.com") }).await.disabled_at.is_none());
    house.user(Command::UserUnlock { who: who("bob@example.com") }).await;
    house.user(Command::UserResetSecondFactor { who: who("bob@example.com") }).await;
    let changed =
        house.user(Command::UserSetPassword { who: who("bob@example.com"), password: Secret::from("another quite long phrase") }).await;
    assert_ne!(changed.password_changed_at, bob.password_changed_at);

    assert!(matches!(house.ask(Command::UserDelete { who: Who::Id(bob.id) }).await, Ok(Answer::Done)));
    let gone = house.ask(Command::UserShow { who: Who::Id(bob.id) }).await;
    assert!(matches!(&gone, Err(CommandError::NoUser(Who::Id(id))) if *id == bob.id), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_is_refused_and_changes_nothing() {
    let house = House::new().await;
    let ada = house.add("ada@example.com").await;
    let refused = |answer: &Result<Answer, CommandError>| matches!(answer, Err(CommandError::Refused(_)));
    assert!(refused(&house.ask(add("ada@example.com", PASSWORD)).await));
    assert!(refused(&house.ask(add("bob@example.com", "short")).await));
    assert!(refused(&house.ask(Command::UserSetPassword { who: who("ada@example.com"), password: Secret::from("password") }).await));
    let token = |path: &str| Command::TokenCreate {
        who: who("ada@example.com"),
        name: "t".to_owned(),
        life: None,
        paths: vec![path.to_owned()],
        methods: vec!["get".to_owned()],
        networks: vec![],
    };
    assert!(refused(&house.ask(token("/a")).await));
    assert_eq!(house.user(Command::UserShow { who: who("ada@example.com") }).await, ada);
    for command in [
        Command::UserShow { who: who("eve@example.com") },
        Command::UserSetPassword { who: who("eve@example.com"), password: Secret::from(PASSWORD) },
        Command::UserSetGroups { who: who("eve@example.com"), groups: groups(&["x"]) },
        Command::UserDisable { who: who("eve@example.com") },
        Command::UserEnable { who: who("eve@example.com") },
        Command::UserUnlock { who: who("eve@example.com") },
        Command::UserResetSecondFactor { who: who("eve@example.com") },
        Command::UserDelete { who: who("eve@example.com") },
        Command::SessionList { who: who("eve@example.com") },
        Command::SessionRevokeAll { who: who("eve@example.com") },
        Command::TokenList { who: who("eve@example.com") },
        // An id that is nobody's goes a longer way to the same answer.
        Command::UserDisable { who: Who::Id(crate::model::UserId::new()) },
        Command::SessionList { who: Who::Id(crate::model::UserId::new()) },
        Command::UserDelete { who: Who::Id(crate::model::UserId::new()) },
    ] {
        let shown = format!("{command:?}");
        let answer = house.ask(command).await;
        assert!(matches!(answer, Err(CommandError::NoUser(_))), "{shown}: {answer:?}");
    }
    let id = SessionId::new();
    assert_eq!(house.ask(Command::SessionRevoke { id }).await.unwrap_err(), CommandError::NoSession(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_shown_once_and_ended() {
    let house = House::new().await;
    house.add("ada@example.com").await;
    let command = Command::TokenCreate {
        who: who("ada@example.com"),
        name: "calendar".to_owned(),
        life: Some(Duration::from_secs(86_400)),
        paths: vec!["/dav/**".to_owned()],
        methods: vec!["PROPFIND".to_owned()],
        networks: vec!["10.0.0.0/8".to_owned()],
    };
    let Ok(Answer::NewToken { secret, token }) = house.ask(command).await else { panic!("no token") };
    assert!(secret.expose().starts_with("np_"));
    assert_eq!(token.expires_at.as_deref(), Some("2023-11-15T22:13:20.000Z"));
    assert_eq!((token.paths.len(), token.methods.len(), token.networks.len()), (1, 1, 1));
    let tokens = || async {
        match house.ask(Command::TokenList { who: who("ada@example.com") }).await {
            Ok(Answer::Tokens(tokens)) => tokens,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(tokens().await, std::slice::from_ref(&token));
    assert!(!serde_json::to_string(&tokens().await).unwrap().contains(secret.expose()));
    house.add("bob@example.com").await;
    let revoke = |name: Option<&str>| house.ask(Command::TokenRevoke { who: name.map(who), id: token.id });
    assert_eq!(revoke(Some("bob@example.com")).await.unwrap_err(), CommandError::NoToken(token.id));
    assert_eq!(tokens().await.len(), 1);
    assert!(matches!(revoke(Some("ada@example.com")).await, Ok(Answer::Done)));
    assert_eq!(tokens().await, []);
    assert_eq!(revoke(None).await.unwrap_err(), CommandError::NoToken(token.id));

    // Its id alone is enough.
    let command = Command::TokenCreate {
        who: who("bob@example.com"),
        name: "backup".to_owned(),
        life: None,
        paths: vec![],
        methods: vec![],
        networks: vec![],
    };
    let Ok(Answer::NewToken { token, .. }) = house.ask(command).await else { panic!("no token") };
    assert!(matches!(house.ask(Command::TokenRevoke { who: None, id: token.id }).await, Ok(Answer::Done)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_without_addresses_and_ended() {
    let house = House::new().await;
    let ada = house.add("ada@example.com").await;
    let client = Client {
        ip: "203.0.113.9".parse().unwrap(),
        attributable: true,
        user_agent: Some("Mozilla/5.0".to_owned()),
        request_id: None,
        device: None,
    };
    let mut begun = Vec::new();
    for _ in 0..3 {
        let typed = Credentials { email: "ada@example.com".to_owned(), password: Secret::from(PASSWORD), code: None };
        let step = house.auth.log_in(typed, false, None, &client, house.clock.now()).await.unwrap();
        let LoginStep::Complete(issued) = step else { panic!("no session") };
        begun.push(issued.session);
    }
    let list = || async {
        match house.ask(Command::SessionList { who: Who::Id(ada.id) }).await {
            Ok(Answer::Sessions(sessions)) => sessions,
            other => panic!("{other:?}"),
        }
    };
    let sessions = list().await;
    assert_eq!(sessions.len(), 3);
    assert_eq!(sessions[0].user_agent.as_deref(), Some("Mozilla/5.0"));
    assert_eq!(sessions[0].amr, ["pwd"]);
    assert!(!serde_json::to_string(&sessions).unwrap().contains("203.0.113.9"));
    assert!(matches!(house.ask(Command::SessionRevoke { id: begun[0] }).await, Ok(Answer::Ended(1))));
    assert_eq!(list().await.len(), 2);
    assert!(matches!(house.ask(Command::SessionRevokeAll { who: Who::Id(ada.id) }).await, Ok(Answer::Ended(2))));
    assert!(list().await.is_empty());
}

// NP-7: no hash, key or sealed value leaves the store through a listing.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_shown_without_its_secrets() {
    let house = House::new().await;
    let ada = house.add("ada@example.com").await;
    let shown = serde_json::to_value(&ada).unwrap();
    let mut keys: Vec<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "attributes",
            "createdAt",
            "disabledAt",
            "displayName",
            "email",
            "groups",
            "id",
            "passwordChangedAt",
            "recoveryCodes",
            "twoFactor",
            "updatedAt"
        ]
    );
    assert!(!shown.to_string().contains("argon2"));
}

#[test]
fn a_password_is_not_shown_with_its_command() {
    let command = add("ada@example.com", PASSWORD);
    assert!(!format!("{command:?}").contains(PASSWORD));
}

#[test]
fn commands_of_another_version_are_not_guessed_at() {
    for text in [
        r#"{"user_purge":{"who":"a@b.de"}}"#,
        r#"{"user_show":{"who":"a@b.de","more":1}}"#,
        r#"{"user_show":{"who":"nobody"}}"#,
        r#"{"user_show":{}}"#,
        "",
    ] {
        assert!(serde_json::from_str::<Command>(text).is_err(), "{text}");
    }
    assert!(serde_json::from_str::<Command>(r#"{"user_show":{"who":"a@b.de"}}"#).is_ok());
}

/// A server with a socket at `path`.
async fn listen(house: &House, path: &Path) -> Tasks {
    let tasks = Tasks::new();
    let listener = Listener::bind(path).await.unwrap();
    tasks.spawn(socket::serve(listener, Arc::clone(&house.auth), house.clock.clone(), tasks.clone()));
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_over_the_socket() {
    let house = House::new().await;
    let path = house.socket();
    let tasks = listen(&house, &path).await;
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

    let Ok(Answer::User(ada)) = socket::call(&path, &add("ada@example.com", PASSWORD)).await else { panic!("no account") };
    assert_eq!(house.user(Command::UserShow { who: Who::Id(ada.id) }).await, ada);
    let refused = socket::call(&path, &Command::UserShow { who: who("eve@example.com") }).await;
    assert!(matches!(&refused, Err(CallError::Command(CommandError::NoUser(who))) if who.to_string() == "eve@example.com"), "{refused:?}");

    tasks.stop();
    tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.unwrap();
    assert!(!path.exists());
    assert!(matches!(socket::call(&path, &Command::UserShow { who: Who::Id(ada.id) }).await, Err(CallError::NoServer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_takes_one_kind_of_request() {
    let house = House::new().await;
    let path = house.socket();
    let tasks = listen(&house, &path).await;
    let long = format!("POST /command HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\nConnection: close\r\n\r\n{}", "a".repeat(70_000));
    for (request, status) in [
        ("GET /command HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "405"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "404"),
        ("POST /command HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{\"x\":\"y\"}", "400"),
        (long.as_str(), "400"),
    ] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // The server may answer and close before it has read it all.
        let _broken = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _broken = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    tasks.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_replaced_only_when_nobody_answers() {
    let house = House::new().await;
    let path = house.socket();
    let tasks = listen(&house, &path).await;
    assert!(matches!(Listener::bind(&path).await, Err(BindError::InUse(_))));
    // The one that answers still does.
    assert!(socket::call(&path, &Command::UserList { search: None, group: None, after: None }).await.is_ok());
    tasks.stop();
    tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.unwrap();

    // What a crashed server leaves behind: std's listener does not remove its file.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(matches!(socket::call(&path, &Command::UserShow { who: who("a@b.de") }).await, Err(CallError::NoServer)));
    drop(Listener::bind(&path).await.unwrap());

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&path).await, Err(BindError::NoSocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_no_socket_can_have_is_named() {
    let path = Path::new("/tmp").join("x".repeat(120));
    let error = Listener::bind(&path).await.unwrap_err();
    assert!(matches!(error, BindError::TooLong { bytes: 125, .. }), "{error}");
    assert!(error.to_string().contains("admin.socket"), "{error}");
    let error = socket::call(&path, &Command::UserShow { who: who("a@b.de") }).await.unwrap_err();
    assert!(matches!(error, CallError::Path(_)), "{error}");
}

/// An admin listener whose upstreams answer as `probe` says.
async fn operators(house: &House) -> (SocketAddr, Arc<AtomicBool>, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let draining = Arc::new(AtomicBool::new(false));
    let state = State {
        auth: Arc::clone(&house.auth),
        clock: house.clock.clone(),
        metrics: Arc::new(Metrics::new()),
        draining: Arc::clone(&draining),
        probe: Box::new(|name| {
            Box::pin(async move {
                match name.as_str() {
                    "good" => Some(Ok(StatusCode::OK)),
                    "empty" => Some(Ok(StatusCode::NO_CONTENT)),
                    "ill" => Some(Ok(StatusCode::SERVICE_UNAVAILABLE)),
                    "odd" => Some(Ok(StatusCode::EARLY_HINTS)),
                    "away" => Some(Err(())),
                    _ => None,
                }
            })
        }),
        upstreams: Box::new(|| vec!["good".to_owned(), "ill".to_owned()]),
    };
    let tasks = Tasks::new();
    tasks.spawn(serve(listener, Arc::new(state), tasks.clone()));
    (address, draining, tasks)
}

async fn get(address: SocketAddr, method: &str, target: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_health_and_metrics() {
    let house = House::new().await;
    let (address, draining, tasks) = operators(&house).await;
    for (method, target, status, contains) in [
        ("GET", "/healthz", 200, "ok"),
        ("HEAD", "/healthz", 200, "content-length: 3"),
        ("GET", "/readyz", 200, r#"{"status":"ok","checks":{"store":true,"keys":true,"draining":false}}"#),
        ("GET", "/readyz?upstreams", 503, r#""upstreams":{"good":"200","ill":"503"}"#),
        ("GET", "/metrics", 200, "nullpass_"),
        ("GET", "/metrics", 200, "# EOF"),
        ("GET", "/metrics", 200, "content-type: application/openmetrics-text"),
        ("GET", "/upstreams/good/health", 200, ""),
        ("GET", "/upstreams/empty/health", 204, ""),
        ("GET", "/upstreams/ill/health", 503, ""),
        ("GET", "/upstreams/odd/health", 502, ""),
        ("GET", "/upstreams/away/health", 502, ""),
        ("GET", "/upstreams/none/health", 404, ""),
        ("GET", "/", 404, ""),
        ("GET", "/command", 404, ""),
        ("POST", "/", 404, ""),
        ("POST", "/healthz", 405, "allow: GET, HEAD"),
        ("DELETE", "/upstreams/good/health", 405, "allow: GET, HEAD"),
    ] {
        let (found, answer) = get(address, method, target).await;
        assert_eq!(found, status, "{method} {target}: {answer}");
        assert!(answer.contains(contains), "{method} {target}: {answer}");
        assert!(answer.contains("cache-control: no-store"), "{method} {target}: {answer}");
    }
    draining.store(true, Ordering::SeqCst);
    let (status, answer) = get(address, "GET", "/readyz").await;
    assert_eq!(status, 503);
    assert!(answer.contains(r#""status":"unavailable","checks":{"store":true,"keys":true,"draining":true}"#), "{answer}");
    assert_eq!(get(address, "GET", "/healthz").await.0, 200);

    // An idle connection does not keep the listener from stopping.
    let _idle = TcpStream::connect(address).await.unwrap();
    tasks.stop();
    tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
