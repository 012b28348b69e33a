//! The table of live sessions and API tokens: what every proxied request reads. Here is what stands in it; `table` is how
//! it is filled and read, `change` how it follows what happens here, `unknown` and `doubt` how it follows what happens in
//! other processes that share the store.
//!
//! The key is the SHA-256 of the token, which is also what the store keeps, so that after a restart nothing needs to be
//! verified again. The table caches facts, never verdicts (requirement CACHE-1): a session's end, its person's groups and
//! the clock are looked at on every request. A revocation changes the table before the request that asked for it is
//! answered. All of it is atomics and read-mostly maps: reading waits for nobody.

mod change;
mod doubt;
mod held;
mod table;
mod unknown;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::clock::Timestamp;
use crate::model::{Amr, ApiToken, Digest, Fitness, Generation, Identity, Session, SessionId, User, UserId};
use crate::policy::glob::Glob;

pub use held::Held;
pub use table::Live;
pub use unknown::Question;

pub(super) use unknown::{Boarding, Landing, Looked};

/// How long a replaced token stays good after its successor was first seen.
pub const REFRESH_GRACE: Duration = Duration::from_secs(60);

/// How coarse `lastSeenAt` is, and how often a session is written behind at most.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// A person as the request path needs them; replaced as a whole when the account changes.
#[derive(Debug)]
pub struct Person {
    user: User,
}

/// A person with their live sessions.
#[derive(Debug)]
pub struct LiveUser {
    id: UserId,
    /// `None`: the account is gone, or nobody follows its changes any more.
    person: ArcSwapOption<Person>,
    /// See [`Checked`].
    checked: Checked,
    sessions: Mutex<Vec<Arc<LiveSession>>>,
    api_tokens: Mutex<Vec<Arc<LiveApiToken>>>,
}

impl LiveUser {
    fn new(user: &User, epoch: u32) -> Self {
        let unknown = Self::unknown(user.id, epoch);
        unknown.person.store(Some(Arc::new(Person { user: slim(user.clone()) })));
        unknown
    }

    /// Somebody of whom nothing is known but who: counts as gone.
    fn unknown(id: UserId, epoch: u32) -> Self {
        Self { id, person: ArcSwapOption::empty(), checked: Checked::at(epoch), sessions: Mutex::default(), api_tokens: Mutex::default() }
    }
}

/// The account without what the request path has no business with.
fn slim(mut user: User) -> User {
    user.password = crate::model::Secret::default();
    user.two_factor.pending = None;
    user.two_factor.recovery = Vec::new();
    user.data_key = crate::model::Sealed(Vec::new());
    user
}

impl LiveUser {
    /// Whether the account is gone, or an administrator keeps the person out.
    fn is_out(&self) -> bool {
        self.person.load().as_deref().is_none_or(|person| person.user.is_disabled())
    }
}

/// In which epoch something was last read from the store, for a store that others write to as well. A new epoch begins
/// when something may have been missed: what is of an older one is read again before it counts.
#[derive(Debug)]
pub(super) struct Checked(AtomicU32);

impl Checked {
    /// Before the first epoch: it is known to have changed.
    const DOUBTED: u32 = 0;

    const fn at(epoch: u32) -> Self {
        Self(AtomicU32::new(epoch))
    }

    fn is_of(&self, epoch: u32) -> bool {
        self.0.load(Ordering::Acquire) == epoch
    }

    fn is_doubted(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::DOUBTED
    }

    fn set(&self, epoch: u32) {
        self.0.store(epoch, Ordering::Release);
    }

    fn doubt(&self) {
        self.set(Self::DOUBTED);
    }
}

/// An identity that is made again whenever the account it was made from has changed.
#[derive(Debug, Default)]
pub(super) struct Cached(ArcSwapOption<(Arc<Person>, Arc<Identity>)>);

impl Cached {
    /// The identity for the account as it is now; `None`: the account is gone.
    pub(super) fn get(&self, owner: &LiveUser, make: impl FnOnce(&User) -> Option<Identity>) -> Option<Arc<Identity>> {
        let person = owner.person.load();
        let person = person.as_ref()?;
        if let Some(made) = &*self.0.load()
            && Arc::ptr_eq(&made.0, person)
        {
            return Some(Arc::clone(&made.1));
        }
        let identity = Arc::new(make(&person.user)?);
        self.0.store(Some(Arc::new((Arc::clone(person), Arc::clone(&identity)))));
        Some(identity)
    }

    fn forget(&self) {
        self.0.store(None);
    }
}

/// A live session.
#[derive(Debug)]
pub struct LiveSession {
    /// Which.
    pub id: SessionId,
    owner: Arc<LiveUser>,
    auth_time: Timestamp,
    expires_at: Timestamp,
    cookie: bool,
    /// [`Amr`] and [`Fitness`] change when a second factor is set up.
    standing: ArcSwap<(Amr, Fitness)>,
    identity: Cached,
    ended: AtomicBool,
    /// It left the table because nobody used it: nothing is known of it any more.
    detached: AtomicBool,
    /// How many streams of its are open.
    held: AtomicU32,
    checked: Checked,
    /// The newest generation, and when it was first presented: one word, so that they are never of two exchanges.
    exchange: AtomicU64,
    /// When it was last seen while the store answered, in milliseconds.
    seen: AtomicI64,
    /// The `last_seen_at` that was last handed to the store, in milliseconds.
    written: AtomicI64,
    /// When a cookie was last renewed, in milliseconds.
    renewed: AtomicI64,
    /// The address it is tied to, unless it is only recorded; then `None` refuses (the record could not be read).
    bound: ArcSwapOption<IpAddr>,
    /// The digests in the table, to be removed with it.
    digests: Mutex<Vec<Digest>>,
}

impl LiveSession {
    /// Whether the session is over, whatever its tokens say.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.ended.load(Ordering::Acquire) || self.detached.load(Ordering::Acquire) || now >= self.expires_at || self.owner.is_out()
    }

    /// Whose.
    pub fn user(&self) -> UserId {
        self.owner.id
    }

    /// When the person last proved who they are.
    pub const fn auth_time(&self) -> Timestamp {
        self.auth_time
    }

    /// The end that no renewal moves.
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// How the person proved who they are, and what the session may be used for.
    pub fn standing(&self) -> (Amr, Fitness) {
        **self.standing.load()
    }

    /// Whether its token lives in our cookie.
    pub const fn is_cookie(&self) -> bool {
        self.cookie
    }

    /// The generation of the newest token.
    pub fn generation(&self) -> Generation {
        Exchange::unpack(self.exchange.load(Ordering::Acquire)).generation
    }

    fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.get(&self.owner, |user| {
            let (amr, fitness) = self.standing();
            Some(Identity::of(user, Some(self.id), amr, self.auth_time, fitness))
        })
    }
}

/// What one atomic word says of a session's exchanges.
#[derive(Clone, Copy)]
struct Exchange {
    generation: Generation,
    /// To the second, rounded up: the grace that follows is never shorter than it should be.
    seen_at: Option<Timestamp>,
}

impl Exchange {
    fn of(session: &Session) -> Self {
        Self { generation: session.generation, seen_at: session.successor_seen_at }
    }

    fn pack(self) -> u64 {
        let seen = self.seen_at.map_or(0, |at| u32::try_from((at.as_millis() + 999).div_euclid(1000)).unwrap_or(u32::MAX).max(1));
        u64::from(self.generation.0) << 32 | u64::from(seen)
    }

    fn unpack(word: u64) -> Self {
        let [generation, seen] = [word >> 32, word & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        let seen_at = (seen != 0).then(|| Timestamp::from_secs(i64::from(seen)));
        Self { generation: Generation(generation), seen_at }
    }
}

/// A live personal API token.
#[derive(Debug)]
pub struct LiveApiToken {
    /// The record.
    pub token: ApiToken,
    /// The scope's path globs; empty: any path.
    pub paths: Vec<Glob>,
    owner: Arc<LiveUser>,
    identity: Cached,
    ended: AtomicBool,
    /// As with sessions.
    detached: AtomicBool,
    held: AtomicU32,
    checked: Checked,
    seen: AtomicI64,
    written: AtomicI64,
}

impl LiveApiToken {
    /// Whether it is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.ended.load(Ordering::Acquire)
            || self.detached.load(Ordering::Acquire)
            || self.token.expires_at.is_some_and(|end| now >= end)
            || self.owner.is_out()
    }

    fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.get(&self.owner, |user| Some(Identity::of(user, None, Amr::API_TOKEN, self.token.created_at, Fitness::Full)))
    }
}

/// What a token's digest leads to.
#[derive(Debug)]
pub enum Entry {
    /// A token of a session.
    Session {
        /// The session.
        session: Arc<LiveSession>,
        /// The generation the token says.
        generation: Generation,
        /// The token's own `exp`.
        expires_at: Timestamp,
    },
    /// A personal API token.
    Api(Arc<LiveApiToken>),
}

impl Entry {
    /// Whether what it leads to has left the table.
    fn is_detached(&self) -> bool {
        let detached = match self {
            Self::Session { session, .. } => &session.detached,
            Self::Api(token) => &token.detached,
        };
        detached.load(Ordering::Acquire)
    }
}

/// What a look at an entry says now.
#[derive(Debug)]
pub enum Seen {
    /// It is good, and this is who.
    Good(Arc<Identity>),
    /// It has expired, was ended, or its person is disabled or gone.
    Over,
    /// It was replaced by a successor that is in use: somebody has a stolen token. The session must be ended.
    Reused,
    /// The session is tied to another address. It goes on for that one.
    Elsewhere,
    /// The store has not answered for longer than the session may be honoured without it.
    StoreAway,
    /// Only the store knows: others share it, and what is known here may be out of date.
    Ask(Question),
}
