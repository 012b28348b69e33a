//! The table itself: filled from the store at the start, changed with every write, read by every request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::super::{Error, Settings};
use super::{Cached, Entry, Exchange, LiveApiToken, LiveSession, LiveUser, Person, REFRESH_GRACE, Seen, TOUCH_EVERY, slim};
use crate::clock::Timestamp;
use crate::config::BindIp;
use crate::model::{Amr, ApiToken, ApiTokenId, Digest, Fitness, Generation, KnownToken, Session, SessionId, SessionTouch, User, UserId};
use crate::policy::glob::Glob;
use crate::store::Store;

/// The table.
#[derive(Debug)]
pub struct Live {
    tokens: papaya::HashMap<Digest, Arc<Entry>>,
    sessions: papaya::HashMap<SessionId, Arc<LiveSession>>,
    users: papaya::HashMap<UserId, Arc<LiveUser>>,
    /// Held while a user's entry is made or changed, so that two writers can't leave an older state behind.
    writer: Mutex<()>,
    touches: Mutex<HashMap<SessionId, SessionTouch>>,
    api_touches: Mutex<HashMap<ApiTokenId, Timestamp>>,
    store_away: AtomicBool,
    leeway: Duration,
    idle_timeout: Option<Duration>,
    bind_ip: BindIp,
    stale_ttl: Duration,
}

impl Live {
    /// An empty table.
    pub(in crate::auth) fn new(settings: &Settings) -> Self {
        Self {
            tokens: papaya::HashMap::new(),
            sessions: papaya::HashMap::new(),
            users: papaya::HashMap::new(),
            writer: Mutex::default(),
            touches: Mutex::default(),
            api_touches: Mutex::default(),
            store_away: AtomicBool::new(false),
            leeway: settings.tokens.leeway,
            idle_timeout: settings.sessions.idle_timeout,
            bind_ip: settings.sessions.bind_ip,
            stale_ttl: settings.sessions.stale_ttl,
        }
    }

    /// Fills the table with everything that lives in the store. Each record goes in as it is read. Until its account is
    /// read as well, what hangs on it counts as an account that is gone, and is refused; nobody sees the table before all
    /// is in.
    pub(in crate::auth) async fn load(&self, store: &dyn Store, now: Timestamp) -> Result<(), Error> {
        store
            .scan_sessions(&mut |session| {
                if session.expires_at > now {
                    self.add_session(&self.owner_of(session.user), &session);
                }
                ControlFlow::Continue(())
            })
            .await?;
        store
            .scan_api_tokens(&mut |token| {
                self.add_api_token(&self.owner_of(token.user), token);
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
        Arc::clone(self.users.pin().get_or_insert_with(user, || Arc::new(LiveUser::unknown(user))))
    }

    /// Looks a token up by its digest.
    pub fn find(&self, digest: &Digest) -> Option<Arc<Entry>> {
        self.tokens.pin().get(digest).map(Arc::clone)
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
        if session.is_over(now) || now >= expires_at.plus(self.leeway) {
            return Seen::Over;
        }
        let seen = Timestamp::from_millis(session.seen.load(Ordering::Relaxed));
        if self.idle_timeout.is_some_and(|limit| now.since(seen) >= limit) {
            return Seen::Over;
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
            let in_grace = exchange.seen_at.is_none_or(|at| now.since(at) <= REFRESH_GRACE);
            if generation.next() != exchange.generation || !in_grace {
                return Seen::Reused;
            }
        }
        if self.store_away.load(Ordering::Acquire) {
            if now.since(seen) > self.stale_ttl || self.stale_ttl.is_zero() {
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
        if token.is_over(now) {
            return Seen::Over;
        }
        if self.store_away.load(Ordering::Acquire) {
            let seen = Timestamp::from_millis(token.seen.load(Ordering::Relaxed));
            if now.since(seen) > self.stale_ttl || self.stale_ttl.is_zero() {
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

    fn is_bound_to(&self, session: &LiveSession, client: IpAddr) -> bool {
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
        if !session.ended.load(Ordering::Acquire) && !digests.contains(&token.digest) {
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

    /// Adds a session that is in the store.
    pub(in crate::auth) fn insert(&self, user: &User, session: &Session) {
        let owner = self.owner(user);
        self.add_session(&owner, session);
    }

    fn add_session(&self, owner: &Arc<LiveUser>, session: &Session) {
        let live = Arc::new(LiveSession {
            id: session.id,
            owner: Arc::clone(owner),
            auth_time: session.auth_time,
            expires_at: session.expires_at,
            cookie: session.cookie,
            standing: ArcSwap::from_pointee((session.amr, session.fitness)),
            identity: Cached::default(),
            ended: AtomicBool::new(false),
            exchange: AtomicU64::new(Exchange::of(session).pack()),
            seen: AtomicI64::new(session.last_seen_at.as_millis()),
            written: AtomicI64::new(session.last_seen_at.as_millis()),
            renewed: AtomicI64::new(0),
            bound: ArcSwapOption::empty(),
            digests: Mutex::default(),
        });
        lock(&owner.sessions).push(Arc::clone(&live));
        self.sessions.pin().insert(session.id, Arc::clone(&live));
        for token in &session.tokens {
            self.remember(&live, *token);
        }
    }

    /// Takes over what a refresh changed.
    pub(in crate::auth) fn rotated(&self, session: &Session) {
        if let Some(live) = self.session(session.id) {
            // An exchange that was answered late must not take back a later one.
            let exchange = Exchange::of(session);
            let newer = |word: u64| (Exchange::unpack(word).generation < exchange.generation).then(|| exchange.pack());
            let _older_than_known = live.exchange.fetch_update(Ordering::AcqRel, Ordering::Acquire, newer);
            for token in &session.tokens {
                self.remember(&live, *token);
            }
        }
    }

    /// Takes over a second factor that was set up in this session.
    pub(in crate::auth) fn stand(&self, id: SessionId, amr: Amr, fitness: Fitness) {
        if let Some(live) = self.session(id) {
            live.standing.store(Arc::new((amr, fitness)));
            live.identity.forget();
        }
    }

    /// Ends sessions: their next request is refused.
    pub(in crate::auth) fn end(&self, ids: &[SessionId]) {
        for id in ids {
            let sessions = self.sessions.pin();
            let Some(live) = sessions.remove(id) else { continue };
            live.ended.store(true, Ordering::Release);
            let tokens = self.tokens.pin();
            for digest in lock(&live.digests).drain(..) {
                tokens.remove(&digest);
            }
            lock(&live.owner.sessions).retain(|other| other.id != *id);
            lock(&self.touches).remove(id);
        }
    }

    /// Adds an API token that is in the store.
    pub(in crate::auth) fn insert_api_token(&self, user: &User, token: ApiToken) {
        let owner = self.owner(user);
        self.add_api_token(&owner, token);
    }

    fn add_api_token(&self, owner: &Arc<LiveUser>, token: ApiToken) {
        let mut paths = Vec::with_capacity(token.scope.paths.len());
        for path in &token.scope.paths {
            match Glob::parse(path) {
                Ok(glob) => paths.push(glob),
                // A limit that can't be read must not become "no limit".
                Err(problem) => {
                    tracing::error!(token = %token.id, %problem, "the API token's path limit can't be read: the token is not honoured");
                    return;
                }
            }
        }
        let seen = token.last_used_at.unwrap_or(token.created_at).as_millis();
        let digest = token.digest;
        let live = Arc::new(LiveApiToken {
            token,
            paths,
            owner: Arc::clone(owner),
            identity: Cached::default(),
            ended: AtomicBool::new(false),
            seen: AtomicI64::new(seen),
            written: AtomicI64::new(seen),
        });
        lock(&owner.api_tokens).push(Arc::clone(&live));
        self.tokens.pin().insert(digest, Arc::new(Entry::Api(live)));
    }

    /// Ends an API token.
    pub(in crate::auth) fn end_api_token(&self, user: UserId, id: ApiTokenId) {
        let users = self.users.pin();
        let Some(owner) = users.get(&user) else { return };
        let mut tokens = lock(&owner.api_tokens);
        if let Some(at) = tokens.iter().position(|live| live.token.id == id) {
            let live = tokens.remove(at);
            live.ended.store(true, Ordering::Release);
            self.tokens.pin().remove(&live.token.digest);
        }
    }

    /// Ends API tokens that a purge removed.
    pub(in crate::auth) fn end_api_tokens(&self, ids: &[ApiTokenId]) {
        if ids.is_empty() {
            return;
        }
        let owners: Vec<(UserId, ApiTokenId)> = {
            let tokens = self.tokens.pin();
            let api = tokens.values().filter_map(|entry| match &**entry {
                Entry::Api(live) => Some((live.owner.id, live.token.id)),
                Entry::Session { .. } => None,
            });
            api.filter(|(_, id)| ids.contains(id)).collect()
        };
        for (user, id) in owners {
            self.end_api_token(user, id);
        }
    }

    /// The newest state of an account that has live sessions or tokens.
    pub(in crate::auth) fn update_user(&self, user: &User) {
        let _writer = lock(&self.writer);
        if let Some(owner) = self.users.pin().get(&user.id) {
            let older = owner.person.load().as_deref().is_some_and(|person| person.user.revision >= user.revision);
            if !older {
                owner.person.store(Some(Arc::new(Person { user: slim(user.clone()) })));
            }
        }
    }

    /// The account is gone: everything of it ends.
    pub(in crate::auth) fn remove_user(&self, id: UserId) {
        let owner = {
            let _writer = lock(&self.writer);
            self.users.pin().remove(&id).map(Arc::clone)
        };
        let Some(owner) = owner else { return };
        owner.person.store(None);
        let sessions: Vec<SessionId> = lock(&owner.sessions).iter().map(|session| session.id).collect();
        self.end(&sessions);
        for live in lock(&owner.api_tokens).drain(..) {
            live.ended.store(true, Ordering::Release);
            self.tokens.pin().remove(&live.token.digest);
        }
    }

    /// The person's entry, which follows every later change of the account. It stays until the account is deleted:
    /// what may hold it could otherwise miss a change.
    pub(in crate::auth) fn owner(&self, user: &User) -> Arc<LiveUser> {
        let owner = {
            let _writer = lock(&self.writer);
            let users = self.users.pin();
            Arc::clone(users.get_or_insert_with(user.id, || Arc::new(LiveUser::new(user))))
        };
        self.update_user(user);
        owner
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

    /// Says whether the store answers. While it does not, sessions that were seen a moment ago go on.
    pub fn set_store_away(&self, away: bool) {
        self.store_away.store(away, Ordering::Release);
    }

    /// Whether the store is known not to answer.
    pub fn is_store_away(&self) -> bool {
        self.store_away.load(Ordering::Acquire)
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
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
