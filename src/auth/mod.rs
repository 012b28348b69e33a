//! The use cases, without HTTP: who may come in, what they may change about themselves, and which sessions live.
//!
//! [`Auth`] is the one door to them; each file adds the methods of one use case. [`live`] is the part that every proxied
//! request reads: it waits for nobody and allocates nothing for a token it has seen.

pub mod account;
pub mod admin;
mod again;
mod ask;
pub mod audit;
pub mod basic;
pub mod chain;
mod error;
mod follow;
pub mod guard;
pub mod kept;
pub mod keys;
pub mod live;
pub mod login;
pub mod reauth;
pub mod recognise;
pub mod register;
pub mod rewrap;
pub mod session;
pub mod setup;
pub mod token;
pub mod totp;
pub mod vault;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use futures_core::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::clock::Timestamp;
use crate::config;
use crate::crypto::password::PasswordHasher;
use crate::crypto::seal::HeldKeys;
use crate::crypto::token::Keyring;
use crate::limit::Limiter;
use crate::model::{Email, Group, Secret, Session, SessionId, User, UserId};
use crate::store::chain::ChainKey;
use crate::store::{self, Follow, Store};
use crate::tasks::Tasks;

use audit::Event;
use live::Live;
use vault::Vault;

pub use self::error::{Error, Problem};
pub use crate::crypto::password_rules::{Hint, PasswordProblem};
pub use crate::limit::Quota;

/// The parts of the configuration that the use cases read.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "documented at the sections' types")]
pub struct Settings {
    pub accounts: config::Accounts,
    pub tokens: config::Tokens,
    pub issuer: String,
    pub sessions: config::Sessions,
    pub two_factor: config::TwoFactor,
    pub limits: config::Limits,
    pub audit: config::Audit,
}

/// The settings of this moment, and the limits that count by them.
#[derive(Debug)]
struct Current {
    settings: Arc<Settings>,
    attempts: Option<Arc<Limiter>>,
    registrations: Option<Arc<Limiter>>,
}

impl Current {
    /// A limit whose rate is as it was before goes on counting.
    fn new(settings: Settings, before: Option<&Self>) -> Self {
        let old = |limiter: fn(&Self) -> Option<&Arc<Limiter>>| before.and_then(limiter);
        Self {
            attempts: Limiter::of("sign-in", settings.limits.auth_per_ip, old(|before| before.attempts.as_ref())),
            registrations: Limiter::of("registration", settings.limits.register_per_ip, old(|before| before.registrations.as_ref())),
            settings: Arc::new(settings),
        }
    }
}

/// The use cases.
#[derive(Debug)]
pub struct Auth {
    current: ArcSwap<Current>,
    admin_group: Group,
    store: Arc<dyn Store>,
    storage_key: Vault,
    /// One rotation at a time.
    rotating: tokio::sync::Mutex<()>,
    chain_key: ChainKey,
    keyring: ArcSwap<Keyring>,
    hasher: PasswordHasher,
    live: Live,
    basic: basic::Known,
    again: again::Again,
    tasks: Tasks,
    counters: Counters,
    /// The places of those who ask the store about a token.
    looks: Semaphore,
    token_looks: Semaphore,
    keys_read: tokio::sync::Mutex<Option<ask::KeysRead>>,
    /// What others change, until somebody follows it.
    feed: Mutex<Option<Box<dyn Follow>>>,
}

impl Auth {
    /// Puts the use cases together, makes the signing keys if there are none, and fills the table of live sessions
    /// from the store; where others share the store, it fills as it is asked for, and [`Auth::follow`] must be called.
    pub async fn open(
        settings: Settings,
        store: Arc<dyn Store>,
        storage_keys: impl Into<HeldKeys>,
        tasks: Tasks,
        now: Timestamp,
    ) -> Result<Arc<Self>, Error> {
        let held = storage_keys.into();
        // Before it follows, which is where others hear of them.
        store.hold_keys(&held.checks());
        // Before anything is read: what changes later is told.
        let feed = store.follow().await?;
        let shared = feed.is_some();
        // In a box: it is large, and so would be everything that awaits it.
        Box::pin(Self::open_with(settings, store, held, tasks, now, (shared, feed))).await
    }

    /// The same for a command, which is over before it matters what others change: nobody follows that. `shared`: others
    /// share the store.
    pub async fn open_briefly(
        settings: Settings,
        store: Arc<dyn Store>,
        shared: bool,
        storage_keys: impl Into<HeldKeys>,
        tasks: Tasks,
        now: Timestamp,
    ) -> Result<Arc<Self>, Error> {
        Box::pin(Self::open_with(settings, store, storage_keys.into(), tasks, now, (shared, None))).await
    }

    async fn open_with(
        settings: Settings,
        store: Arc<dyn Store>,
        held: HeldKeys,
        tasks: Tasks,
        now: Timestamp,
        (shared, feed): (bool, Option<Box<dyn Follow>>),
    ) -> Result<Arc<Self>, Error> {
        let storage_key = Vault::of(&*store, held).await?;
        let keyring = keys::load(&*store, &storage_key, &settings, now).await?;
        let chain_key = ChainKey::new(zeroize::Zeroizing::new(storage_key.hmac("audit chain", &[]).0));
        store.set_chain_key(chain_key.clone());
        let live = Live::new(&settings, shared);
        if !live.is_shared() {
            live.load(&*store, now).await?;
        }
        let auth = Arc::new(Self {
            hasher: PasswordHasher::new(&settings.accounts.argon2),
            basic: basic::Known::default(),
            again: again::Again::default(),
            counters: Counters::default(),
            keyring: ArcSwap::from_pointee(keyring),
            live,
            admin_group: settings.accounts.admin_group.clone(),
            current: ArcSwap::from_pointee(Current::new(settings, None)),
            store,
            storage_key,
            rotating: tokio::sync::Mutex::default(),
            chain_key,
            tasks,
            looks: Semaphore::new(ask::MAX_LOOKS),
            token_looks: Semaphore::new(ask::MAX_TOKEN_LOOKS),
            keys_read: tokio::sync::Mutex::default(),
            feed: Mutex::new(feed),
        });
        auth.settle_keys().await?;
        auth.mention_rotation();
        auth.bind_sessions().await?;
        Ok(auth)
    }

    /// The table of live sessions, for the request path.
    pub const fn live(&self) -> &Live {
        &self.live
    }

    /// What the use cases are told at this moment.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.current.load().settings)
    }

    /// Takes other settings from the next use on: those of accounts, second factors, limits and the
    /// audit log. How tokens and sessions
    /// are made, what a hash costs and who administrates stay as they were at the start, whatever `settings` says.
    pub fn reload(&self, settings: Settings) {
        let before = self.current.load_full();
        let kept = Settings {
            accounts: config::Accounts {
                admin_group: self.admin_group.clone(),
                argon2: before.settings.accounts.argon2,
                ..settings.accounts
            },
            two_factor: settings.two_factor,
            limits: settings.limits,
            audit: settings.audit,
            ..Settings::clone(&before.settings)
        };
        self.current.store(Arc::new(Current::new(kept, Some(&before))));
    }

    /// What was counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The bound on hashing, for metrics.
    pub const fn hasher(&self) -> &PasswordHasher {
        &self.hasher
    }

    /// The account, or [`Error::SignInRequired`] when it is gone.
    pub async fn user(&self, id: UserId) -> Result<User, Error> {
        self.require_store()?;
        self.store.user(id).await?.ok_or(Error::SignInRequired)
    }

    /// Refuses at once what needs the store while it is known to be away: nobody waits for it, and it is not met by all of
    /// them when it comes back.
    fn require_store(&self) -> Result<(), Error> {
        if self.live.is_store_away() {
            return Err(Error::Unavailable(store::Error::Unavailable("it has not answered for a while".to_owned())));
        }
        Ok(())
    }

    /// Applies `change` to the newest state of an account and writes it, again if somebody else wrote meanwhile.
    /// With an event, which is recorded with it. The table of live sessions is changed before this returns.
    async fn change_user(
        &self,
        id: UserId,
        recorded: Option<(Event, &Client)>,
        now: Timestamp,
        change: impl FnMut(&mut User) -> Result<(), Error> + Send,
    ) -> Result<User, Error> {
        self.change_user_with(Sessions::Stay, id, recorded, now, change).await
    }

    /// The same, and ends all sessions of the account with it, also what Basic authentication remembers.
    async fn change_user_and_end_sessions(
        &self,
        id: UserId,
        recorded: (Event, &Client),
        now: Timestamp,
        change: impl FnMut(&mut User) -> Result<(), Error> + Send,
    ) -> Result<User, Error> {
        let user = self.change_user_with(Sessions::End, id, Some(recorded), now, change).await?;
        self.basic.forget(user.id);
        Ok(user)
    }

    async fn change_user_with(
        &self,
        sessions: Sessions,
        id: UserId,
        recorded: Option<(Event, &Client)>,
        now: Timestamp,
        mut change: impl FnMut(&mut User) -> Result<(), Error> + Send,
    ) -> Result<User, Error> {
        for _ in 0..8 {
            let mut user = self.store.user(id).await?.ok_or(Error::NotFound)?;
            change(&mut user)?;
            user.updated_at = now;
            let replaced = match &recorded {
                Some((event, client)) => {
                    let recording = self.recording(std::slice::from_ref(event), &user, client, now)?;
                    recording.run(|store| sessions.replace(store, &user)).await
                }
                None => sessions.replace(&*self.store, &user).await,
            };
            match replaced {
                Ok((user, ended)) => {
                    self.live.update_user(&user);
                    self.live.end(&ended);
                    return Ok(user);
                }
                Err(store::Error::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Conflict)
    }

    /// A full-strength secret for a browser to keep, such as the one that the forms of a page are bound to.
    pub fn browser_secret(&self) -> Secret<String> {
        crate::crypto::random::token_text()
    }

    /// An HMAC under a key of the installation, as text: for values that a browser keeps and hands back, such as a
    /// CSRF token. `label` keeps the uses apart.
    pub fn browser_mac(&self, label: &str, data: &[u8]) -> crate::model::Digest {
        self.storage_key.hmac(label, data)
    }
}

/// Who sends a request, as far as sign-in cares.
#[derive(Clone, Debug)]
pub struct Client {
    /// The client's address.
    pub ip: IpAddr,
    /// Whether the address is one person's. False behind an ingress that nobody declared as trusted: then everybody
    /// seems to come from it, and a lock of the address would lock out everybody.
    pub attributable: bool,
    /// `User-Agent`, cut to 256 bytes.
    pub user_agent: Option<String>,
    /// The request's id, for the audit log.
    pub request_id: Option<String>,
    /// The device cookie's value.
    pub device: Option<String>,
}

impl Client {
    /// The command line or the configuration: not a browser.
    pub fn local() -> Self {
        Self { ip: IpAddr::from([127, 0, 0, 1]), attributable: false, user_agent: None, request_id: None, device: None }
    }
}

/// A session that was just begun or exchanged, and the token that stands for it.
#[derive(Debug)]
pub struct Issued {
    /// Whose.
    pub user: User,
    /// Which.
    pub session: SessionId,
    /// The token; shown once.
    pub token: Secret<String>,
    /// The token's `exp`.
    pub expires_at: Timestamp,
    /// Whether the token belongs into our cookie and nowhere else.
    pub cookie: bool,
    /// A value for the device cookie: this browser is then known as the owner's.
    pub device: String,
}

/// What was counted since the start.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub logins_complete: AtomicU64,
    pub logins_second_factor: AtomicU64,
    pub logins_refused: AtomicU64,
    pub logins_limited: AtomicU64,
    pub second_factor_refused: AtomicU64,
    pub registrations: AtomicU64,
    pub token_reuse: AtomicU64,
    pub audit_failures: AtomicU64,
    pub hashes_refused: AtomicU64,
    pub store_ping_micros: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What becomes of an account's sessions when it changes.
#[derive(Clone, Copy)]
enum Sessions {
    Stay,
    End,
}

impl Sessions {
    /// Replaces an account, and says which sessions ended with that.
    fn replace<'s>(self, store: &'s dyn Store, user: &'s User) -> BoxFuture<'s, Result<(User, Vec<SessionId>), store::Error>> {
        match self {
            Self::Stay => Box::pin(async move { Ok((store.replace_user(user).await?, Vec::new())) }),
            Self::End => store.replace_user_and_end_sessions(user),
        }
    }
}

/// Parses an address that a client sent.
fn parse_email(text: &str) -> Result<Email, Error> {
    Email::parse(text).map_err(|problem| Error::invalid("email", problem.to_string()))
}

/// What of a session's record its owner may see.
#[derive(Debug)]
pub struct SessionView {
    /// The record.
    pub session: Session,
    /// The address it was begun from.
    pub ip: Option<String>,
    /// The browser it was begun with.
    pub user_agent: Option<String>,
}
