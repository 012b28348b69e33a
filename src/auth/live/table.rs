//! The table itself: read by every request. Filled from the store at the start, or, where others share the store, with
//! what is asked for.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::super::{Error, Settings};
use super::doubt::{Presence, Stale};
use super::unknown::{Question, Unknown};
use super::{Entry, Exchange, LiveApiToken, LiveSession, LiveUser, Person, REFRESH_GRACE, Seen, TOUCH_EVERY, slim};
use crate::clock::Timestamp;
use crate::config::BindIp;
use crate::model::{ApiTokenId, Digest, Generation, KnownToken, Session, SessionId, SessionTouch, UserId};
use crate::store::Store;

/// The table.
#[derive(Debug)]
pub struct Live {
    pub(super) tokens: papaya::HashMap<Digest, Arc<Entry>>,
    pub(super) sessions: papaya::HashMap<SessionId, Arc<LiveSession>>,
    pub(super) api_tokens: papaya::HashMap<ApiTokenId, Arc<LiveApiToken>>,
    pub(super) users: papaya::HashMap<UserId, Arc<LiveUser>>,
    /// Held while a user's entry is made or changed, so that two writers can't leave an older state behind. Taken after
    /// the lock of `unknown`, never before.
    pub(super) writer: Mutex<()>,
    pub(super) touches: Mutex<HashMap<SessionId, SessionTouch>>,
    api_touches: Mutex<HashMap<ApiTokenId, Timestamp>>,
    pub(super) store_away: AtomicBool,
    /// Whether other processes write to the store as well.
    pub(super) shared: bool,
    pub(super) epoch: AtomicU32,
    pub(super) unknown: Unknown,
    pub(super) stale: Mutex<Stale>,
    pub(super) stale_changed: Notify,
    pub(super) ending: Mutex<HashSet<SessionId>>,
    pub(super) presence: Mutex<Presence>,
    leeway: Duration,
    pub(super) idle_timeout: Option<Duration>,
    bind_ip: BindIp,
    stale_ttl: Duration,
}

impl Live {
    /// An empty table. `shared`: other processes write to the store as well.
    pub(in crate::auth) fn new(settings: &Settings, shared: bool) -> Self {
        let live = Self {
            tokens: papaya::HashMap::new(),
            sessions: papaya::HashMap::new(),
            api_tokens: papaya::HashMap::new(),
            users: papaya::HashMap::new(),
            writer: Mutex::default(),
            touches: Mutex::default(),
            api_touches: Mutex::default(),
            store_away: AtomicBool::new(false),
            shared,
            epoch: AtomicU32::new(1),
            unknown: Unknown::default(),
            stale: Mutex::default(),
            stale_changed: Notify::new(),
            ending: Mutex::default(),
            presence: Mutex::default(),
            leeway: settings.tokens.leeway,
            idle_timeout: settings.sessions.idle_timeout,
            bind_ip: settings.sessions.bind_ip,
            stale_ttl: settings.sessions.stale_ttl,
        };
        live.heard();
        live
    }

    /// Whether other processes write to the store as well.
    pub(in crate::auth) const fn is_shared(&self) -> bool {
        self.shared
    }

    /// Fills the table with everything that lives in the store. Each record goes in as it is read. Until its account is
    /// read as well, what hangs on it counts as an account that is gone, and is refused; nobody sees the table before all
    /// is in.
    pub(in crate::auth) async fn load(&self, store: &dyn Store, now: Timestamp) -> Result<(), Error> {
        store
            .scan_sessions(&mut |session| {
                if session.expires_at > now {
                    self.add_session(&self.owner_of(session.user), &session, self.epoch());
                }
                ControlFlow::Continue(())
            })
            .await?;
        store
            .scan_api_tokens(&mut |token| {
                self.add_api_token(&self.owner_of(token.user), token, self.epoch());
                ControlFlow::Continue(())
            })
            .await?;
        if !self.users.pin().is_empty() {
            store
                .scan_users(&mut |user| {
                    if let Some(owner) = self.users.pin().get(&user.id) {
                        owner.person.store(Some(Arc::new(Person { user: slim(user) })));
                    }
                    ControlFlow::Continue(())
                })
                .await?;
        }
        // A session whose account is gone can't be in the store; if it is, it is not honoured.
        let orphans: Vec<UserId> = {
            let users = self.users.pin();
            users.values().filter(|owner| owner.person.load().is_none()).map(|owner| owner.id).collect()
        };
        for orphan in orphans {
            self.remove_user(orphan);
        }
        Ok(())
    }

    /// The entry of somebody whose account has yet to be read.
    fn owner_of(&self, user: UserId) -> Arc<LiveUser> {
        Arc::clone(self.users.pin().get_or_insert_with(user, || Arc::new(LiveUser::unknown(user, self.epoch()))))
    }

    /// Looks a token up by its digest.
    pub fn find(&self, digest: &Digest) -> Option<Arc<Entry>> {
        self.tokens.pin().get(digest).filter(|entry| !entry.is_detached()).map(Arc::clone)
    }

    /// Looks a session up.
    pub fn session(&self, id: SessionId) -> Option<Arc<LiveSession>> {
        self.sessions.pin().get(&id).map(Arc::clone)
    }

    /// How many sessions live.
    pub fn len(&self) -> usize {
        self.sessions.pin().len()
    }

    /// Whether no session lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What an entry is worth now, for a request from `client`. Waits for nobody.
    pub fn look(&self, entry: &Entry, client: IpAddr, now: Timestamp) -> Seen {
        match entry {
            Entry::Session { session, generation, expires_at } => self.look_at_session(session, *generation, *expires_at, client, now),
            Entry::Api(token) => self.look_at_api_token(token, now),
        }
    }

    fn look_at_session(
        &self,
        session: &LiveSession,
        generation: Generation,
        expires_at: Timestamp,
        client: IpAddr,
        now: Timestamp,
    ) -> Seen {
        let ask = Seen::Ask(Question::Session(session.id));
        if session.detached.load(Ordering::Acquire) {
            return ask;
        }
        if session.ended.load(Ordering::Acquire) || now >= expires_at.plus(self.leeway) {
            return Seen::Over;
        }
        let away = self.store_away.load(Ordering::Acquire);
        if !away && !self.is_current(session) {
            return ask;
        }
        if session.is_over(now) {
            return Seen::Over;
        }
        let seen = Timestamp::from_millis(session.seen.load(Ordering::Relaxed));
        if self.is_idle(seen, now) {
            // Another process may have seen it since.
            return if self.shared { ask } else { Seen::Over };
        }
        if !self.is_bound_to(session, client) {
            return Seen::Elsewhere;
        }
        let word = session.exchange.load(Ordering::Acquire);
        let exchange = Exchange::unpack(word);
        if generation == exchange.generation {
            if generation != Generation::default() && exchange.seen_at.is_none() {
                let seen = Exchange { seen_at: Some(now), ..exchange };
                if session.exchange.compare_exchange(word, seen.pack(), Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    self.touch(session, now, None);
                }
            }
        } else {
            if self.shared && generation > exchange.generation {
                // It was exchanged elsewhere, and the news of that are on their way.
                return ask;
            }
            let in_grace = exchange.seen_at.is_none_or(|at| now.since(at) <= REFRESH_GRACE);
            if generation.next() != exchange.generation || !in_grace {
                return Seen::Reused;
            }
        }
        if away {
            let doubted = session.checked.is_doubted() || session.owner.checked.is_doubted();
            if now.since(seen) > self.stale_ttl || self.stale_ttl.is_zero() || doubted {
                return Seen::StoreAway;
            }
        } else {
            session.seen.store(now.as_millis(), Ordering::Relaxed);
            if now.since(Timestamp::from_millis(session.written.load(Ordering::Relaxed))) >= TOUCH_EVERY {
                self.touch(session, now, None);
            }
        }
        session.identity().map_or(Seen::Over, Seen::Good)
    }

    fn look_at_api_token(&self, token: &LiveApiToken, now: Timestamp) -> Seen {
        let ask = Seen::Ask(Question::ApiToken(token.token.digest));
        if token.detached.load(Ordering::Acquire) {
            return ask;
        }
        let away = self.store_away.load(Ordering::Acquire);
        if !away && !token.ended.load(Ordering::Acquire) && !self.is_current_token(token) {
            return ask;
        }
        if token.is_over(now) {
            return Seen::Over;
        }
        if away {
            let seen = Timestamp::from_millis(token.seen.load(Ordering::Relaxed));
            let doubted = token.checked.is_doubted() || token.owner.checked.is_doubted();
            if now.since(seen) > self.stale_ttl || self.stale_ttl.is_zero() || doubted {
                return Seen::StoreAway;
            }
        } else {
            token.seen.store(now.as_millis(), Ordering::Relaxed);
            if now.since(Timestamp::from_millis(token.written.load(Ordering::Relaxed))) >= TOUCH_EVERY {
                token.written.store(now.as_millis(), Ordering::Relaxed);
                lock(&self.api_touches).insert(token.token.id, now);
            }
        }
        token.identity().map_or(Seen::Over, Seen::Good)
    }

    /// Whether a session that was last seen at `seen` has been left alone for too long.
    pub(super) fn is_idle(&self, seen: Timestamp, now: Timestamp) -> bool {
        self.idle_timeout.is_some_and(|limit| now.since(seen) >= limit)
    }

    /// Whether a session may be used from `client`, as `sessions.bind_ip` says.
    pub(in crate::auth) fn is_bound_to(&self, session: &LiveSession, client: IpAddr) -> bool {
        match self.bind_ip {
            BindIp::Record => true,
            BindIp::Exact => session.bound.load().as_deref().is_some_and(|bound| bound.to_canonical() == client.to_canonical()),
            BindIp::Network => session.bound.load().as_deref().is_some_and(|bound| wide_network(*bound) == wide_network(client)),
        }
    }

    /// Ties a session to an address, as `sessions.bind_ip` asks.
    pub(in crate::auth) fn bind(&self, id: SessionId, ip: IpAddr) {
        if let Some(session) = self.session(id) {
            session.bound.store(Some(Arc::new(ip)));
        }
    }

    /// Whether a password that was right at `proven_at` is still worth what it was then: the account is there and enabled,
    /// with the same password and without second factor.
    pub fn still_takes_password(&self, id: UserId, proven_at: Timestamp) -> bool {
        let users = self.users.pin();
        let person = users.get(&id).and_then(|owner| owner.person.load_full());
        person.is_some_and(|person| {
            let user = &person.user;
            !user.is_disabled() && !user.has_second_factor() && user.password_changed_at <= proven_at
        })
    }

    /// Whether sessions need [`Live::bind`].
    pub(in crate::auth) fn binds(&self) -> bool {
        self.bind_ip != BindIp::Record
    }

    /// Whether a renewal of this session's cookie is due, and if so, that it is on its way: at most one a minute.
    pub fn claim_renewal(&self, session: &LiveSession, issued_life: Duration, expires_at: Timestamp, now: Timestamp) -> bool {
        let half_left = expires_at.since(now) < issued_life / 2;
        if !session.cookie || !half_left || self.store_away.load(Ordering::Acquire) {
            return false;
        }
        let before = session.renewed.load(Ordering::Acquire);
        now.since(Timestamp::from_millis(before)) >= TOUCH_EVERY
            && session.renewed.compare_exchange(before, now.as_millis(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Makes a token known that was verified by its signature, or made by a renewal.
    pub(in crate::auth) fn remember(&self, session: &Arc<LiveSession>, token: KnownToken) -> Arc<Entry> {
        let entry = Arc::new(Entry::Session { session: Arc::clone(session), generation: token.generation, expires_at: token.expires_at });
        let mut digests = lock(&session.digests);
        // The list's lock is held while the table changes, so that `end` can't miss a digest.
        let lives = !session.ended.load(Ordering::Acquire) && !session.detached.load(Ordering::Acquire);
        if lives && !digests.contains(&token.digest) {
            let tokens = self.tokens.pin();
            while digests.len() >= Self::MAX_DIGESTS {
                tokens.remove(&digests.remove(0));
            }
            digests.push(token.digest);
            tokens.insert(token.digest, Arc::clone(&entry));
        }
        entry
    }

    /// How many tokens of one session are known by their digest.
    const MAX_DIGESTS: usize = Session::MAX_TOKENS * 2;

    /// Notes that a renewed token must be written behind.
    pub(in crate::auth) fn renewed(&self, session: &LiveSession, token: KnownToken, now: Timestamp) {
        self.touch(session, now, Some(token));
    }

    fn touch(&self, session: &LiveSession, now: Timestamp, renewed: Option<KnownToken>) {
        session.written.store(now.as_millis(), Ordering::Relaxed);
        let exchange = Exchange::unpack(session.exchange.load(Ordering::Acquire));
        let mut touches = lock(&self.touches);
        let touch = touches.entry(session.id).or_insert_with(|| SessionTouch {
            id: session.id,
            last_seen_at: now,
            successor_seen_at: None,
            renewed: None,
        });
        touch.last_seen_at = now;
        touch.successor_seen_at = exchange.seen_at.map(|at| (exchange.generation, at));
        touch.renewed = renewed.or(touch.renewed);
    }

    /// What is to be written behind; the caller writes it, or hands it back with [`Live::put_back`].
    pub(in crate::auth) fn take_touches(&self) -> (Vec<SessionTouch>, Vec<(ApiTokenId, Timestamp)>) {
        let sessions = std::mem::take(&mut *lock(&self.touches));
        let tokens = std::mem::take(&mut *lock(&self.api_touches));
        (sessions.into_values().collect(), tokens.into_iter().collect())
    }

    /// Keeps what could not be written for the next time.
    pub(in crate::auth) fn put_back(&self, sessions: Vec<SessionTouch>) {
        let mut touches = lock(&self.touches);
        for touch in sessions {
            touches.entry(touch.id).or_insert(touch);
        }
    }
}

/// IPv4 /24 or IPv6 /48.
fn wide_network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

/// A poisoned lock means that a thread panicked between two plain assignments; what it guards is still whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
