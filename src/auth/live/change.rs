//! How the table follows what happens: in this process, and in what was just read from the store.
//!
//! What is changed by a use case is first told to the looks at the store that are under way (`unknown`), so that none of
//! them puts back what was before.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::table::{Live, lock};
use super::unknown::Question;
use super::{Cached, Checked, Entry, Exchange, LiveApiToken, LiveSession, LiveUser, Person, slim};
use crate::clock::Timestamp;
use crate::model::{Amr, ApiToken, ApiTokenId, Digest, Fitness, Session, SessionId, User, UserId};
use crate::policy::glob::Glob;
use crate::store::News;

impl Live {
    /// Adds a session that is in the store.
    pub(in crate::auth) fn insert(&self, user: &User, session: &Session) {
        let _writer = lock(&self.writer);
        let epoch = self.epoch();
        let owner = self.owner_locked(user, epoch);
        self.add_session(&owner, session, epoch);
    }

    pub(super) fn add_session(&self, owner: &Arc<LiveUser>, session: &Session, epoch: u32) -> Arc<LiveSession> {
        let live = Arc::new(LiveSession {
            id: session.id,
            owner: Arc::clone(owner),
            auth_time: session.auth_time,
            expires_at: session.expires_at,
            cookie: session.cookie,
            standing: ArcSwap::from_pointee((session.amr, session.fitness)),
            identity: Cached::default(),
            ended: AtomicBool::new(false),
            detached: AtomicBool::new(false),
            held: AtomicU32::new(0),
            checked: Checked::at(epoch),
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
        live
    }

    /// Takes over a session as the store has it. Returns when it was last seen, here or elsewhere.
    pub(super) fn take_over_session(&self, user: &User, session: &Session, bound: Option<IpAddr>, epoch: u32) -> Timestamp {
        let _writer = lock(&self.writer);
        let owner = self.owner_locked(user, epoch);
        owner.checked.set(epoch);
        let live = match self.session(session.id) {
            Some(live) => live,
            None => self.add_session(&owner, session, epoch),
        };
        Self::take_over_exchange(&live, session);
        if live.standing() != (session.amr, session.fitness) {
            live.standing.store(Arc::new((session.amr, session.fitness)));
            live.identity.forget();
        }
        if let Some(bound) = bound {
            live.bound.store(Some(Arc::new(bound)));
        }
        let stored = session.last_seen_at.as_millis();
        let before = live.seen.fetch_max(stored, Ordering::Relaxed);
        for token in &session.tokens {
            self.remember(&live, *token);
        }
        live.checked.set(epoch);
        Timestamp::from_millis(before.max(stored))
    }

    /// Takes over what a refresh changed.
    pub(in crate::auth) fn rotated(&self, session: &Session) {
        self.unknown.tell(News::SessionChanged(session.id));
        if let Some(live) = self.session(session.id) {
            Self::take_over_exchange(&live, session);
            for token in &session.tokens {
                self.remember(&live, *token);
            }
        }
    }

    /// An exchange that was answered late must not take back a later one, and what was first seen elsewhere was seen.
    fn take_over_exchange(live: &LiveSession, session: &Session) {
        let stored = Exchange::of(session);
        let newer = |word: u64| {
            let known = Exchange::unpack(word);
            let seen_earlier = stored.seen_at.is_some_and(|at| known.seen_at.is_none_or(|known| at < known));
            let newer = known.generation < stored.generation || (known.generation == stored.generation && seen_earlier);
            newer.then(|| stored.pack())
        };
        let _as_known = live.exchange.fetch_update(Ordering::AcqRel, Ordering::Acquire, newer);
    }

    /// Takes over a second factor that was set up in this session.
    pub(in crate::auth) fn stand(&self, id: SessionId, amr: Amr, fitness: Fitness) {
        self.unknown.tell(News::SessionChanged(id));
        if let Some(live) = self.session(id) {
            live.standing.store(Arc::new((amr, fitness)));
            live.identity.forget();
        }
    }

    /// Ends sessions: their next request is refused.
    pub(in crate::auth) fn end(&self, ids: &[SessionId]) {
        for id in ids {
            if self.shared {
                self.unknown.tell(News::SessionEnded(*id));
                self.unknown.remember_absent(Question::Session(*id));
            }
            self.end_here(*id);
        }
    }

    pub(super) fn end_here(&self, id: SessionId) {
        let sessions = self.sessions.pin();
        let Some(live) = sessions.remove(&id) else { return };
        live.ended.store(true, Ordering::Release);
        self.forget_session(live);
        lock(&self.touches).remove(&id);
    }

    /// Removes what leads to a session that is no longer in the table.
    pub(super) fn forget_session(&self, live: &LiveSession) {
        let tokens = self.tokens.pin();
        for digest in lock(&live.digests).drain(..) {
            tokens.remove(&digest);
        }
        lock(&live.owner.sessions).retain(|other| other.id != live.id);
    }

    /// Adds an API token that is in the store. With a store that others share it comes with its first use, in one look
    /// with its account.
    pub(in crate::auth) fn insert_api_token(&self, user: &User, token: ApiToken) {
        if !self.shared {
            let _writer = lock(&self.writer);
            let epoch = self.epoch();
            let owner = self.owner_locked(user, epoch);
            self.add_api_token(&owner, token, epoch);
        }
    }

    /// False: it can't be honoured.
    pub(super) fn add_api_token(&self, owner: &Arc<LiveUser>, token: ApiToken, epoch: u32) -> bool {
        let mut paths = Vec::with_capacity(token.scope.paths.len());
        for path in &token.scope.paths {
            match Glob::parse(path) {
                Ok(glob) => paths.push(glob),
                // A limit that can't be read must not become "no limit".
                Err(problem) => {
                    tracing::error!(token = %token.id, %problem, "the API token's path limit can't be read: the token is not honoured");
                    return false;
                }
            }
        }
        let seen = token.last_used_at.unwrap_or(token.created_at).as_millis();
        let (id, digest) = (token.id, token.digest);
        let live = Arc::new(LiveApiToken {
            token,
            paths,
            owner: Arc::clone(owner),
            identity: Cached::default(),
            ended: AtomicBool::new(false),
            detached: AtomicBool::new(false),
            held: AtomicU32::new(0),
            checked: Checked::at(epoch),
            seen: AtomicI64::new(seen),
            written: AtomicI64::new(seen),
        });
        lock(&owner.api_tokens).push(Arc::clone(&live));
        self.api_tokens.pin().insert(id, Arc::clone(&live));
        self.tokens.pin().insert(digest, Arc::new(Entry::Api(live)));
        true
    }

    /// Takes over an API token as the store has it. False: it can't be honoured.
    pub(super) fn take_over_api_token(&self, user: &User, token: ApiToken, epoch: u32) -> bool {
        let _writer = lock(&self.writer);
        let owner = self.owner_locked(user, epoch);
        owner.checked.set(epoch);
        let known = self.api_tokens.pin().get(&token.id).map(Arc::clone);
        match known {
            Some(live) => {
                live.checked.set(epoch);
                true
            }
            None => self.add_api_token(&owner, token, epoch),
        }
    }

    /// Ends API tokens.
    pub(in crate::auth) fn end_api_tokens(&self, ids: &[ApiTokenId]) {
        for id in ids {
            self.unknown.tell(News::ApiTokenEnded(*id));
            let known = self.api_tokens.pin().remove(id).map(Arc::clone);
            if let Some(live) = known {
                live.ended.store(true, Ordering::Release);
                self.forget_api_token(&live);
                if self.shared {
                    self.unknown.remember_absent(Question::ApiToken(live.token.digest));
                }
            }
        }
    }

    pub(super) fn end_api_token_here(&self, digest: &Digest) {
        let Some(entry) = self.find(digest) else { return };
        match &*entry {
            Entry::Api(live) => {
                live.ended.store(true, Ordering::Release);
                self.api_tokens.pin().remove(&live.token.id);
                self.forget_api_token(live);
            }
            Entry::Session { .. } => {}
        }
    }

    /// Removes what leads to an API token that is no longer in the table.
    pub(super) fn forget_api_token(&self, live: &LiveApiToken) {
        self.tokens.pin().remove(&live.token.digest);
        lock(&live.owner.api_tokens).retain(|other| other.token.id != live.token.id);
    }

    /// The newest state of an account that has live sessions or tokens.
    pub(in crate::auth) fn update_user(&self, user: &User) {
        self.unknown.tell(News::User(user.id));
        let _writer = lock(&self.writer);
        if let Some(owner) = self.users.pin().get(&user.id) {
            Self::take_over_person(owner, user);
        }
    }

    pub(super) fn take_over_user(&self, user: &User, epoch: u32) {
        let _writer = lock(&self.writer);
        if let Some(owner) = self.users.pin().get(&user.id) {
            Self::take_over_person(owner, user);
            owner.checked.set(epoch);
        }
    }

    /// With the writers' lock held.
    fn take_over_person(owner: &LiveUser, user: &User) {
        let older = owner.person.load().as_deref().is_some_and(|person| person.user.revision >= user.revision);
        if !older {
            owner.person.store(Some(Arc::new(Person { user: slim(user.clone()) })));
        }
    }

    /// The account is gone: everything of it ends.
    pub(in crate::auth) fn remove_user(&self, id: UserId) {
        self.unknown.tell(News::User(id));
        self.remove_user_here(id);
    }

    pub(super) fn remove_user_here(&self, id: UserId) {
        let owner = {
            let _writer = lock(&self.writer);
            self.users.pin().remove(&id).map(Arc::clone)
        };
        let Some(owner) = owner else { return };
        owner.person.store(None);
        let sessions: Vec<SessionId> = lock(&owner.sessions).iter().map(|session| session.id).collect();
        for id in sessions {
            self.end_here(id);
        }
        let tokens = std::mem::take(&mut *lock(&owner.api_tokens));
        for live in tokens {
            live.ended.store(true, Ordering::Release);
            self.api_tokens.pin().remove(&live.token.id);
            self.tokens.pin().remove(&live.token.digest);
        }
    }

    /// The person's entry, which follows every later change of the account as long as somebody holds it. `user` may be
    /// out of date by now: who was just added has to be read again.
    pub(in crate::auth) fn owner(&self, user: &User) -> Arc<LiveUser> {
        let _writer = lock(&self.writer);
        self.owner_locked(user, self.epoch())
    }

    /// With the writers' lock held.
    fn owner_locked(&self, user: &User, epoch: u32) -> Arc<LiveUser> {
        let owner = Arc::clone(self.users.pin().get_or_insert_with(user.id, || Arc::new(LiveUser::new(user, epoch))));
        Self::take_over_person(&owner, user);
        owner
    }
}
