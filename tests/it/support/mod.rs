//! The whole sidecar in this process: real listeners, a clock that is moved by hand, a store of its own (sled or
//! PostgreSQL) that can be taken away, and an application that keeps every byte.

#[path = "../../support/backend.rs"]
mod backend;
mod client;
mod replicas;
mod shared;
mod store;
mod upstream;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nullpass::app::{self, Running};
use nullpass::auth::Auth;
use nullpass::auth::register::NewAccount;
use nullpass::clock::{Clock, ManualClock, Timestamp};
use nullpass::config::{self, Argon2, Config, Listen, LoadOptions, Overrides};
use nullpass::model::{Group, Secret, User, UserId};
use nullpass::server::tls::Tls;
use nullpass::store::Store;
use nullpass::tasks::Tasks;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use client::{Answer, Connection, PATIENCE};
pub(crate) use replicas::{Replicas, soon};
pub(crate) use shared::Mood;
use store::Switchable;
pub(crate) use upstream::{Captured, Upstream};

/// A password that is strong enough.
pub(crate) const PASSWORD: &str = "plum-Orchard-19-window";

/// When the tests begin.
pub(crate) const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// A running sidecar.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) clock: ManualClock,
    pub(crate) time: Clock,
    store: Option<Arc<Switchable>>,
    pub(crate) upstream: Upstream,
    pub(crate) config: Config,
    running: Option<Running>,
    _folder: TempDir,
}

impl Server {
    /// Starts with what `toml` says; the upstream is added when it names none.
    pub(crate) async fn start(toml: &str) -> Self {
        let (time, clock) = Clock::manual(START);
        Self::start_with(toml, time, clock, None).await
    }

    /// Starts on a store that others have as well, with their clock.
    pub(crate) async fn start_beside(toml: &str, time: &Clock, clock: &ManualClock, store: Arc<dyn Store>) -> Self {
        Self::start_with(toml, time.clone(), clock.clone(), Some(store)).await
    }

    async fn start_with(toml: &str, time: Clock, clock: ManualClock, shared: Option<Arc<dyn Store>>) -> Self {
        let folder = TempDir::new().unwrap();
        let upstream = Upstream::start().await;
        let file = folder.path().join("nullpass.toml");
        let (before, after) = toml.split_at(toml.find("[[").unwrap_or(toml.len()));
        let default = format!("\n[[upstreams]]\nname = \"app\"\nurl = \"http://{}\"\n\n", upstream.address);
        let own = if toml.contains("[[upstreams]]") { "" } else { &default };
        let text = format!("{before}{own}{after}").replace("{upstream}", &format!("http://{}", upstream.address));
        std::fs::write(&file, &text).unwrap();
        let options = LoadOptions { file: Some(file), overrides: Overrides::default(), ..LoadOptions::default() };
        let mut config = config::load(&options).unwrap_or_else(|problems| panic!("{problems}\n{text}")).config;
        // The port is a free one. The address stays, for tests that must not meet another's server on a port of theirs.
        let ip = config.server.listen.iter().find_map(|listen| match listen {
            Listen::Tcp(address) => Some(address.ip()),
            Listen::Unix(_) => None,
        });
        config.server.listen.retain(|listen| matches!(listen, Listen::Unix(_)));
        config.server.listen.insert(0, Listen::Tcp(SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), 0)));
        config.server.workers = 2;
        config.server.shutdown_grace = Duration::from_secs(2);
        config.admin.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.storage = backend::storage(folder.path());
        config.log.access = false;
        if !toml.contains("[accounts.argon2]") {
            // The cheapest there is: what is tested here is not how dear a password is.
            config.accounts.argon2 = Argon2 { memory_kib: 64, iterations: 1, parallelism: 1, max_concurrent: 2 };
        }
        if !toml.contains("auth_per_ip") {
            config.limits.auth_per_ip = None;
        }
        if !toml.contains("register_per_ip") {
            config.limits.register_per_ip = None;
        }
        let (running, store) = match shared {
            Some(store) => {
                // Nobody else makes it: the state is elsewhere.
                std::fs::create_dir(&config.storage.path).unwrap();
                config.storage.master_key = Some(Secret::new((0..32_u8).map(|place| place.wrapping_mul(37) ^ 0xa5).collect()));
                start_on(store, &config, &time).await.unwrap()
            }
            None => run(&config, &time).await,
        };
        let address = running.addresses()[0];
        Self { address, clock, time, store: Some(store), upstream, config, running: Some(running), _folder: folder }
    }

    /// Changes its configuration while it runs: what waits for a restart, or why it was refused.
    pub(crate) async fn reload(&self, change: impl FnOnce(&mut Config)) -> Result<Vec<&'static str>, app::Error> {
        let mut config = self.config.clone();
        change(&mut config);
        self.running.as_ref().unwrap().reload(config).await
    }

    /// Ends it and starts it again with the same state.
    pub(crate) async fn restart(&mut self) {
        // The old store must be gone before the folder can be opened again.
        self.end().await;
        self.restart_ended().await;
    }

    /// Ends it; nothing of it answers any more.
    pub(crate) async fn end(&mut self) {
        self.running.take().unwrap().stop(std::future::pending()).await.unwrap();
        self.store = None;
    }

    /// Starts it again after [`Server::end`], with the same state.
    pub(crate) async fn restart_ended(&mut self) {
        let (running, store) = run(&self.config, &self.time).await;
        self.address = running.addresses()[0];
        (self.running, self.store) = (Some(running), Some(store));
    }

    /// Whether it refuses to start again.
    pub(crate) async fn fails_to_start(&self, config: &Config, time: &Clock) -> bool {
        try_run(config, time).await.is_err()
    }

    pub(crate) fn store(&self) -> &Arc<Switchable> {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn auth(&self) -> &Arc<Auth> {
        self.running.as_ref().unwrap().auth()
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().admin_address().unwrap()
    }

    pub(crate) fn redirect_address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().redirect_address().unwrap()
    }

    pub(crate) fn tls(&self) -> &Arc<Tls> {
        self.running.as_ref().unwrap().tls().unwrap()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.config.storage.path.clone()
    }

    /// Every byte that it keeps.
    pub(crate) fn kept(&self) -> Vec<u8> {
        backend::kept(&self.config.storage)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.time.now()
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::to(self.address).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        self.connect().await.send(method, target, fields, body).await
    }

    pub(crate) async fn get(&self, target: &str, fields: &[(&str, &str)]) -> Answer {
        self.send("GET", target, fields, b"").await
    }

    /// A call of the JSON API; `path` begins behind `/_auth/api`.
    pub(crate) async fn api(&self, method: &str, path: &str, token: Option<&str>, body: &Value) -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut fields = vec![("content-type", "application/json")];
        if let Some(bearer) = &bearer {
            fields.push(("authorization", bearer));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("/_auth/api{path}"), &fields, body.as_bytes()).await
    }

    /// An account with [`PASSWORD`].
    pub(crate) async fn account(&self, email: &str, groups: &[&str]) -> User {
        self.account_named(email, None, groups).await
    }

    pub(crate) async fn account_named(&self, email: &str, name: Option<&str>, groups: &[&str]) -> User {
        let new = NewAccount { email: email.to_owned(), password: Secret::new(PASSWORD.to_owned()), display_name: name.map(str::to_owned) };
        let groups: BTreeSet<Group> = groups.iter().map(|group| Group::parse(group).unwrap()).collect();
        self.auth().add_user(new, groups, "test", self.now()).await.unwrap()
    }

    /// Signs in, and gives the answer whatever it is.
    pub(crate) async fn try_log_in(&self, email: &str, password: &str) -> Answer {
        self.api("POST", "/auth/login", None, &json!({ "email": email, "password": password })).await
    }

    /// Signs in by a token.
    pub(crate) async fn log_in(&self, email: &str) -> String {
        let answer = self.try_log_in(email, PASSWORD).await.is(200);
        answer.json()["token"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
    }

    /// Signs in by the cookie: the token that stands in it.
    pub(crate) async fn log_in_by_cookie(&self, email: &str) -> String {
        self.log_in_by_cookie_with(email, PASSWORD).await
    }

    pub(crate) async fn log_in_by_cookie_with(&self, email: &str, password: &str) -> String {
        let body = json!({ "email": email, "password": password, "cookie": true });
        self.api("POST", "/auth/login", None, &body).await.is(200).cookie("nullpass").unwrap()
    }

    /// An account, signed in.
    pub(crate) async fn signed_in(&self, email: &str) -> (UserId, String) {
        let user = self.account(email, &[]).await;
        (user.id, self.log_in(email).await)
    }

    /// Turns the second factor on: its secret and the recovery codes.
    pub(crate) async fn enrol(&self, token: &str) -> (String, Vec<String>) {
        let begun = self.api("POST", "/auth/2fa", Some(token), &json!({ "enable": true })).await.is(200).json();
        let secret = begun["secret"].as_str().unwrap().to_owned();
        let code = code(&secret, self.now());
        let done = self.api("POST", "/auth/2fa", Some(token), &json!({ "enable": true, "verificationCode": code })).await.is(200).json();
        let codes = done["recoveryCodes"].as_array().unwrap().iter().map(|code| code.as_str().unwrap().to_owned()).collect();
        (secret, codes)
    }

    /// Waits until the request path knows whether the store is away.
    pub(crate) async fn set_store_away(&self, away: bool) {
        self.store().set_away(away);
        self.auth().check_store(Duration::from_secs(1)).await;
    }

    /// A number of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = Connection::to(self.admin_address()).await.send("GET", "/metrics", &[], b"").await.is(200).text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Waits until a number of `/metrics` is at least this.
    pub(crate) async fn metric_reaches(&self, name: &str, wanted: f64) {
        let mut last = f64::NAN;
        for _ in 0..100 {
            last = self.metric(name).await;
            if last >= wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name} is {last}");
    }

    /// Takes it out of the server, to be stopped while others hold on to the rest.
    pub(crate) fn take_running(&mut self) -> Running {
        self.store = None;
        self.running.take().unwrap()
    }

    /// Moves the clock on, in seconds.
    pub(crate) fn wait(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// The status of a request to a path that takes a session.
    pub(crate) async fn status(&self, token: &str) -> u16 {
        self.get("/private", &[("authorization", &format!("Bearer {token}"))]).await.status
    }

    /// The same by the cookie.
    pub(crate) async fn status_by_cookie(&self, token: &str) -> u16 {
        self.get("/private", &[("cookie", &format!("nullpass={token}"))]).await.status
    }
}

async fn run(config: &Config, time: &Clock) -> (Running, Arc<Switchable>) {
    try_run(config, time).await.unwrap()
}

async fn try_run(config: &Config, time: &Clock) -> Result<(Running, Arc<Switchable>), app::Error> {
    start_on(app::open_store(config, &Tasks::new()).await?, config, time).await
}

async fn start_on(store: Arc<dyn Store>, config: &Config, time: &Clock) -> Result<(Running, Arc<Switchable>), app::Error> {
    let store = Arc::new(Switchable::new(store));
    let opened: Arc<dyn Store> = Arc::<Switchable>::clone(&store);
    let running = app::start(config.clone(), std::future::ready(Ok(opened)), time.clone()).await?;
    Ok((running, store))
}

/// The code that an authenticator shows.
pub(crate) fn code(secret: &str, now: Timestamp) -> String {
    let digits = secret.bytes().map(|letter| b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|&known| known == letter).unwrap());
    let bits: Vec<bool> = digits.flat_map(|digit| (0..5).rev().map(move |bit| digit >> bit & 1 == 1)).collect();
    let secret: Vec<u8> = bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit))).collect();
    let totp = totp_rs::Builder::new().with_secret(secret).build().unwrap();
    totp.generate(u64::try_from(now.as_secs()).unwrap()).to_string()
}

/// Basic credentials.
pub(crate) fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// The answer to a `WebSocket` handshake's key (RFC 6455, section 4.2.2).
pub(crate) fn websocket_accept(key: &str) -> String {
    use base64::Engine as _;
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD
        .encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}
