//! Writes a data folder for `benches/start/run` and `benches/proxy/run`: `cargo bench --bench fill -- FOLDER [USERS
//! [SESSIONS [TOKENS]]]`, by default 100,000 users and 200,000 live sessions; the file TOKENS gets the sessions' tokens,
//! one a line, signed with the folder's own key for the issuer "bench". Everything goes through the store as in production, including the sealed
//! parts; only the passwords' hash is made once and used for all, since a hash takes longer than all the rest.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops when it can't go on")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nullpass::app::open_auth;
use nullpass::auth::register::NewAccount;
use nullpass::auth::{Auth, Client};
use nullpass::clock::Clock;
use nullpass::config::{Config, Registration};
use nullpass::crypto::digest;
use nullpass::crypto::seal::{MasterKey, Purpose, StorageKey};
use nullpass::crypto::token::{KeyMaterial, Keyring, SessionClaims};
use nullpass::model::{
    Amr, DisplayName, Email, Fitness, Generation, Group, KnownToken, Secret, Session, SessionId, TwoFactor, User, UserId,
};
use nullpass::store::sled::SledStore;
use nullpass::store::{SigningKeyRecord, Store};
use tokio::task::JoinSet;

/// More would take longer than anybody waits.
const MOST: usize = 1_000_000;

/// What `iss` says.
const ISSUER: &str = "bench";

/// Writers at a time; each waits for its write to be durable, so that many share a flush.
const WRITERS: usize = 512;

fn main() {
    // `cargo bench` adds a flag of its own.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let Some(folder) = arguments.next().map(PathBuf::from) else {
        println!("usage: cargo bench --bench fill -- FOLDER [USERS [SESSIONS [TOKENS]]]");
        return;
    };
    let mut number = |default: usize| arguments.next().map_or(default, |text| text.parse().unwrap()).min(MOST);
    let (users, sessions) = (number(100_000), number(200_000));
    let listed = arguments.next();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let clock = Clock::system();
    let began = clock.now();
    let token = runtime.block_on(sign_in(&folder, &clock));
    let tokens = runtime.block_on(fill(&folder, users, sessions, &clock));
    if let Some(listed) = listed {
        std::fs::write(listed, tokens.join("\n")).unwrap();
    }
    let took = clock.now().since(began).as_secs_f64();
    println!("{users} users and {sessions} sessions in {} in {took:.0} s", folder.display());
    println!("token {token}");
}

/// Makes the folder and one real session in it, whose token is returned.
async fn sign_in(folder: &std::path::Path, clock: &Clock) -> String {
    let mut config = Config::default();
    folder.clone_into(&mut config.storage.path);
    config.accounts.registration = Registration::Open;
    config.tokens.issuer = Some(ISSUER.to_owned());
    let auth: Arc<Auth> = open_auth(&config, clock).await.unwrap();
    let new = NewAccount {
        email: "bench@example.com".to_owned(),
        password: Secret::new("correct horse battery staple 42".to_owned()),
        display_name: None,
    };
    let issued = auth.register(new, false, &Client::local(), clock.now()).await.unwrap();
    auth.close().await.unwrap();
    issued.token.expose().clone()
}

/// The folder's own signing key.
async fn keyring(store: &SledStore, key: &StorageKey) -> Keyring {
    let open = |record: SigningKeyRecord| {
        let owner = format!("{} {:?}", record.kid, record.algorithm);
        KeyMaterial {
            private: Secret::new(key.open(Purpose::SigningKey, owner.as_bytes(), &record.private).unwrap().to_vec()),
            kid: record.kid,
            algorithm: record.algorithm,
            public_jwk: record.public_jwk,
            created_at: record.created_at,
            retired_at: record.retired_at,
        }
    };
    let keys = store.signing_keys().await.unwrap().into_iter().map(open).collect();
    let tokens = Config::default().tokens;
    Keyring::new(keys, tokens.algorithm, ISSUER, tokens.audience, tokens.leeway).unwrap()
}

/// The sessions' tokens.
async fn fill(folder: &std::path::Path, users: usize, sessions: usize, clock: &Clock) -> Vec<String> {
    let store = Arc::new(SledStore::open(folder).unwrap());
    let key = StorageKey::new(&MasterKey::load_or_create(&folder.join("master.key")).unwrap());
    let model = store.user_by_email(&Email::parse("bench@example.com").unwrap()).await.unwrap().unwrap();
    let now = clock.now();
    let keyring = keyring(&store, &key).await;
    let mut tokens = Vec::with_capacity(sessions);
    let mut writers = JoinSet::new();
    for at in 0..users {
        let id = UserId::new();
        let data_key = key.new_data_key(id);
        let opened = key.data_key(id, &data_key).unwrap();
        let user = User {
            id,
            email: Email::parse(&format!("person.{at}@example.com")).unwrap(),
            display_name: Some(DisplayName::parse(&format!("Person Number {at}")).unwrap()),
            avatar: None,
            groups: BTreeSet::from([Group::parse("staff").unwrap(), Group::parse(&format!("team-{}", at % 50)).unwrap()]),
            attributes: BTreeMap::new(),
            two_factor: TwoFactor::default(),
            data_key,
            revision: 0,
            disabled_at: None,
            password: Secret::new(model.password.expose().clone()),
            ..model.clone()
        };
        let share = sessions * (at + 1) / users - sessions * at / users;
        let sessions: Vec<Session> = (0..share)
            .map(|_| {
                let id = SessionId::new();
                let expires_at = now.plus(Duration::from_secs(7 * 86400)).whole_second();
                let claims = SessionClaims {
                    user_id: user.id,
                    email: user.email.clone(),
                    iat: now.as_secs(),
                    exp: expires_at.as_secs(),
                    iss: String::new(),
                    aud: String::new(),
                    sub: user.id,
                    jti: uuid::Uuid::now_v7().to_string(),
                    sid: id,
                    amr: Amr::PASSWORD.names().into_iter().map(str::to_owned).collect(),
                    auth_time: now.as_secs(),
                    generation: Generation::default(),
                };
                let token = keyring.sign_session(&claims).unwrap().expose().clone();
                let digest = digest::sha256(token.as_bytes());
                tokens.push(token);
                let client =
                    br#"{"ip":"192.0.2.17","user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}"#;
                Session {
                    id,
                    user: user.id,
                    created_at: now,
                    auth_time: now,
                    amr: Amr::PASSWORD,
                    fitness: Fitness::Full,
                    expires_at: now.plus(Duration::from_secs(30 * 86400)),
                    last_seen_at: now,
                    generation: Generation::default(),
                    successor_seen_at: None,
                    tokens: vec![KnownToken { digest, generation: Generation::default(), expires_at }],
                    client: opened.seal(Purpose::SessionClient, id.as_bytes(), client),
                    cookie: true,
                }
            })
            .collect();
        while writers.len() >= WRITERS {
            writers.join_next().await.unwrap().unwrap();
        }
        let store = Arc::clone(&store);
        writers.spawn(async move {
            store.insert_user(&user, false).await.unwrap();
            for session in sessions {
                store.insert_session(&session, None).await.unwrap();
            }
        });
        if (at + 1) % 10_000 == 0 {
            println!("{} users", at + 1);
        }
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    store.flush().await.unwrap();
    tokens
}
