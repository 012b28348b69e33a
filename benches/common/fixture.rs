//! What the benchmarks share: the use cases over a store in a temporary folder, and somebody who has signed in.

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use nullpass::auth::register::NewAccount;
use nullpass::auth::{Auth, Client, Settings};
use nullpass::clock::{Clock, Timestamp};
use nullpass::config::{Access, Config, Registration, Rule};
use nullpass::crypto::seal::{MasterKey, StorageKey};
use nullpass::model::Secret;
use nullpass::policy::rules::Policy;
use nullpass::store::sled::SledStore;
use nullpass::tasks::Tasks;

/// The use cases and a token.
pub(crate) struct Fixture {
    pub(crate) auth: Arc<Auth>,
    pub(crate) token: String,
    pub(crate) client: IpAddr,
    pub(crate) now: Timestamp,
    _folder: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        nullpass::crypto::token::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.accounts.registration = Registration::Open;
        let settings = Settings {
            accounts: config.accounts,
            issuer: "http://localhost:8080".to_owned(),
            tokens: config.tokens,
            sessions: config.sessions,
            two_factor: config.two_factor,
            limits: config.limits,
            audit: config.audit,
        };
        let now = Clock::system().now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (auth, token) = runtime.block_on(async {
            let store = Arc::new(SledStore::open(folder.path()).unwrap());
            let key = StorageKey::new(&MasterKey::load_or_create(&folder.path().join("master.key")).unwrap());
            let auth = Auth::open(settings, store, key, Tasks::new(), now).await.unwrap();
            let new = NewAccount {
                email: "ada@example.com".to_owned(),
                password: Secret::new("correct horse battery staple 42".to_owned()),
                display_name: Some("Ada Lovelace".to_owned()),
            };
            let issued = auth.register(new, false, &Client::local(), now).await.unwrap();
            (auth, issued.token.expose().clone())
        });
        Self { auth, token, client: IpAddr::from([127, 0, 0, 1]), now, _folder: folder }
    }
}

/// Ten rules as an operator writes them; what is asked about in the benchmarks meets none but the last.
pub(crate) fn policy() -> Policy {
    let rule = |path: &str, access: Access| Rule::new(path, path, access);
    let rules = [
        rule("/robots.txt", Access::Public),
        rule("/favicon.ico", Access::Public),
        rule("/static/**", Access::Public),
        rule("/api/webhooks/*", Access::Public),
        rule("/**/.git/**", Access::Deny),
        rule("/admin/**", Access::TwoFactor),
        Rule { methods: vec![Method::DELETE], ..rule("/api/**", Access::TwoFactor) },
        Rule { networks: vec!["10.0.0.0/8".parse().unwrap()], ..rule("/metrics", Access::Public) },
        Rule { host: Some("*.example.org".to_owned()), path: None, ..rule("/", Access::Authenticated) },
        rule("/api/v1/**", Access::Authenticated),
    ];
    Policy::new(Access::Authenticated, &rules).unwrap()
}
