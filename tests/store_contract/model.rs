//! The contract of `Store` said once more, as plainly as possible: maps, one mutex, no indexes. What a backend answers
//! is compared with what this answers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use nullpass::clock::Timestamp;
use nullpass::model::{
    Amr, ApiToken, ApiTokenId, AuditEvent, Digest, Email, EventId, Fitness, Generation, Kid, KnownToken, Lock, LockChange, LockKey,
    LockUpdate, Rotation, Sealed, Session, SessionId, SessionTouch, User, UserId,
};
use nullpass::store::chain::{AuditLog, Chain, ChainKey, Filed, WriterId};
use nullpass::store::record::encode;
use nullpass::store::{
    AuditQuery, Error, Follow, Purged, Purpose, Rewrap, STORAGE_KEYS, SessionSelector, SigningKeyRecord, Store, UserQuery, WRAPPED_VALUES,
    Wrapped,
};

#[derive(Debug, Default)]
pub(crate) struct Model(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    users: BTreeMap<UserId, User>,
    retired: BTreeSet<Email>,
    sessions: BTreeMap<SessionId, Session>,
    tokens: BTreeMap<ApiTokenId, ApiToken>,
    steps: BTreeMap<UserId, u64>,
    spent: BTreeMap<(u8, Digest), Timestamp>,
    locks: Vec<(LockKey, Lock)>,
    keys: Vec<SigningKeyRecord>,
    meta: BTreeMap<String, Vec<u8>>,
    audit: BTreeMap<(Timestamp, EventId), AuditEvent>,
}

impl Model {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn lock(&self, key: LockKey) -> Lock {
        self.locks.iter().find(|(other, _)| *other == key).map(|(_, lock)| *lock).unwrap_or_default()
    }

    fn require_current(&self, sealed: &Sealed) -> Result<(), Error> {
        let version = match self.meta.get(STORAGE_KEYS) {
            Some(keys) if keys.len() != 32 => keys.first().copied().unwrap_or(1),
            Some(_) => 1,
            None => return Ok(()),
        };
        if sealed.0.first() == Some(&version) { Ok(()) } else { Err(Error::OldKey) }
    }

    fn ids_of(&self, user: UserId) -> Vec<SessionId> {
        self.sessions.values().filter(|session| session.user == user).map(|session| session.id).collect()
    }
}

/// What the model keeps of it is that the log says what the store does, in the order that it is asked for.
#[async_trait]
impl AuditLog for Model {
    fn set_chain_key(&self, _: ChainKey) {}

    fn recording(&self, _: Vec<AuditEvent>) -> std::sync::Arc<dyn Store> {
        panic!("histories record what they do by themselves")
    }

    async fn chains(&self) -> Result<Vec<Chain>, Error> {
        Ok(Vec::new())
    }

    async fn chained(&self, _: WriterId, _: u64, _: usize) -> Result<Vec<Filed>, Error> {
        Ok(Vec::new())
    }

    async fn unchained(&self, limit: usize) -> Result<Vec<EventId>, Error> {
        Ok(self.state().audit.keys().map(|(_, id)| *id).take(limit).collect())
    }
}

#[async_trait]
impl Store for Model {
    async fn insert_user(&self, user: &User, allow_retired: bool) -> Result<(), Error> {
        let mut state = self.state();
        encode(user)?;
        if state.users.values().any(|other| other.email == user.email || other.id == user.id) {
            return Err(Error::Conflict);
        }
        if state.retired.contains(&user.email) && !allow_retired {
            return Err(Error::Retired);
        }
        state.require_current(&user.data_key)?;
        state.users.insert(user.id, user.clone());
        Ok(())
    }

    async fn replace_user(&self, user: &User) -> Result<User, Error> {
        let mut state = self.state();
        if state.users.get(&user.id).is_none_or(|stored| stored.revision != user.revision) {
            return Err(Error::Stale);
        }
        let next = User { revision: user.revision + 1, ..user.clone() };
        encode(&next)?;
        if state.users.values().any(|other| other.email == user.email && other.id != user.id) {
            return Err(Error::Conflict);
        }
        state.users.insert(user.id, next.clone());
        Ok(next)
    }

    async fn replace_user_and_end_sessions(&self, user: &User) -> Result<(User, Vec<SessionId>), Error> {
        let user = self.replace_user(user).await?;
        Ok((user.clone(), self.delete_sessions(SessionSelector::OfUser(user.id)).await?))
    }

    async fn delete_user(&self, id: UserId, _now: Timestamp) -> Result<Option<Vec<SessionId>>, Error> {
        let mut state = self.state();
        let Some(user) = state.users.remove(&id) else { return Ok(None) };
        state.retired.insert(user.email);
        state.steps.remove(&id);
        state.tokens.retain(|_, token| token.user != id);
        let ended = state.ids_of(id);
        state.sessions.retain(|_, session| session.user != id);
        Ok(Some(ended))
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, Error> {
        Ok(self.state().users.get(&id).cloned())
    }

    async fn user_by_email(&self, email: &Email) -> Result<Option<User>, Error> {
        Ok(self.state().users.values().find(|user| user.email == *email).cloned())
    }

    async fn users(&self, query: &UserQuery) -> Result<Vec<User>, Error> {
        let mut users: Vec<User> = self.state().users.values().cloned().collect();
        if let Some(after) = query.after {
            users.retain(|user| user.id > after);
        }
        if let Some(group) = &query.group {
            users.retain(|user| user.groups.contains(group));
        }
        if let Some(search) = &query.search {
            let search = search.to_lowercase();
            users.retain(|user| {
                let name = user.display_name.as_ref().map(|name| name.as_str().to_lowercase()).unwrap_or_default();
                user.email.as_str().contains(&search) || name.contains(&search)
            });
        }
        users.truncate(query.limit);
        Ok(users)
    }

    async fn insert_session(&self, session: &Session, max_per_user: Option<u32>) -> Result<Vec<SessionId>, Error> {
        let mut state = self.state();
        encode(session)?;
        if !state.users.contains_key(&session.user) {
            return Err(Error::Stale);
        }
        if state.sessions.contains_key(&session.id) {
            return Err(Error::Conflict);
        }
        let mut evicted = state.ids_of(session.user);
        let kept = max_per_user.map_or(usize::MAX, |max| usize::try_from(max).unwrap().saturating_sub(1));
        evicted.truncate(evicted.len().saturating_sub(kept));
        state.sessions.retain(|id, _| !evicted.contains(id));
        state.sessions.insert(session.id, session.clone());
        Ok(evicted)
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, Error> {
        Ok(self.state().sessions.get(&id).cloned())
    }

    async fn session_with_user(&self, id: SessionId) -> Result<Option<(Session, User)>, Error> {
        let state = self.state();
        let Some(session) = state.sessions.get(&id).cloned() else { return Ok(None) };
        Ok(state.users.get(&session.user).cloned().map(|user| (session, user)))
    }

    async fn sessions_of(&self, user: UserId) -> Result<Vec<Session>, Error> {
        Ok(self.state().sessions.values().filter(|session| session.user == user).cloned().collect())
    }

    async fn scan_users(&self, each: &mut (dyn FnMut(User) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        let all: Vec<User> = self.state().users.values().cloned().collect();
        match all.into_iter().try_for_each(each) {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(()),
        }
    }

    async fn scan_sessions(&self, each: &mut (dyn FnMut(Session) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        let all: Vec<Session> = self.state().sessions.values().cloned().collect();
        match all.into_iter().try_for_each(each) {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(()),
        }
    }

    async fn rotate_session(
        &self,
        id: SessionId,
        presented: Generation,
        next: KnownToken,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Rotation, Error> {
        let mut state = self.state();
        let Some(session) = state.sessions.get_mut(&id) else { return Ok(Rotation::Gone) };
        let late = session.successor_seen_at.is_some_and(|seen| now > seen.plus(grace));
        if presented == session.generation {
            session.generation = session.generation.next();
            session.successor_seen_at = None;
            session.remember(KnownToken { generation: session.generation, ..next });
            Ok(Rotation::Rotated(session.clone()))
        } else if presented.next() == session.generation && !late {
            session.remember(KnownToken { generation: session.generation, ..next });
            Ok(Rotation::Grace(session.clone()))
        } else {
            Ok(Rotation::Reused(session.clone()))
        }
    }

    async fn set_standing(&self, id: SessionId, amr: Amr, fitness: Fitness) -> Result<bool, Error> {
        let mut state = self.state();
        let session = state.sessions.get_mut(&id);
        Ok(session.map(|session| (session.amr, session.fitness) = (amr, fitness)).is_some())
    }

    async fn touch_sessions(&self, touches: &[SessionTouch]) -> Result<(), Error> {
        let mut state = self.state();
        for touch in touches {
            let Some(session) = state.sessions.get_mut(&touch.id) else { continue };
            session.last_seen_at = session.last_seen_at.max(touch.last_seen_at);
            session.successor_seen_at = {
                let generation = session.generation;
                let seen = touch.successor_seen_at.filter(|(of, _)| *of == generation).map(|(_, at)| at);
                session.successor_seen_at.into_iter().chain(seen).min()
            };
            if let Some(token) = touch.renewed.filter(|token| token.generation == session.generation) {
                session.remember(token);
            }
        }
        Ok(())
    }

    async fn delete_sessions(&self, which: SessionSelector) -> Result<Vec<SessionId>, Error> {
        let mut state = self.state();
        let ended: Vec<SessionId> = match which {
            SessionSelector::One(id) => state.sessions.contains_key(&id).then_some(id).into_iter().collect(),
            SessionSelector::OfUser(user) => state.ids_of(user),
            SessionSelector::OfUserExcept(user, kept) => state.ids_of(user).into_iter().filter(|id| *id != kept).collect(),
        };
        state.sessions.retain(|id, _| !ended.contains(id));
        Ok(ended)
    }

    async fn insert_api_token(&self, token: &ApiToken) -> Result<(), Error> {
        let mut state = self.state();
        encode(token)?;
        if !state.users.contains_key(&token.user) {
            return Err(Error::Stale);
        }
        if state.tokens.contains_key(&token.id) {
            return Err(Error::Conflict);
        }
        state.tokens.insert(token.id, token.clone());
        Ok(())
    }

    async fn api_token_with_user(&self, digest: &Digest) -> Result<Option<(ApiToken, User)>, Error> {
        let state = self.state();
        let Some(token) = state.tokens.values().find(|token| token.digest == *digest).cloned() else { return Ok(None) };
        Ok(state.users.get(&token.user).cloned().map(|user| (token, user)))
    }

    async fn api_tokens_of(&self, user: UserId) -> Result<Vec<ApiToken>, Error> {
        Ok(self.state().tokens.values().filter(|token| token.user == user).cloned().collect())
    }

    async fn scan_api_tokens(&self, each: &mut (dyn FnMut(ApiToken) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        let all: Vec<ApiToken> = self.state().tokens.values().cloned().collect();
        match all.into_iter().try_for_each(each) {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(()),
        }
    }

    async fn delete_api_token(&self, user: UserId, id: ApiTokenId) -> Result<bool, Error> {
        let mut state = self.state();
        let owned = state.tokens.get(&id).is_some_and(|token| token.user == user);
        if owned {
            state.tokens.remove(&id);
        }
        Ok(owned)
    }

    async fn touch_api_tokens(&self, used: &[(ApiTokenId, Timestamp)]) -> Result<(), Error> {
        let mut state = self.state();
        for (id, at) in used {
            if let Some(token) = state.tokens.get_mut(id) {
                token.last_used_at = token.last_used_at.into_iter().chain([*at]).max();
            }
        }
        Ok(())
    }

    async fn spend_totp_step(&self, user: UserId, step: u64) -> Result<bool, Error> {
        let mut state = self.state();
        if !state.users.contains_key(&user) || state.steps.get(&user).is_some_and(|last| step <= *last) {
            return Ok(false);
        }
        state.steps.insert(user, step);
        Ok(true)
    }

    async fn spend_once(&self, purpose: Purpose, digest: Digest, until: Timestamp) -> Result<bool, Error> {
        let mut state = self.state();
        let purpose = match purpose {
            Purpose::PendingLogin => 0,
            Purpose::Setup => 1,
            Purpose::KeptForm => 2,
        };
        let key = (purpose, digest);
        if state.spent.contains_key(&key) {
            return Ok(false);
        }
        state.spent.insert(key, until);
        Ok(true)
    }

    async fn update_lock(&self, key: LockKey, change: LockChange, now: Timestamp) -> Result<LockUpdate, Error> {
        let mut state = self.state();
        let before = state.lock(key);
        let after = before.changed(change, now);
        state.locks.retain(|(other, _)| *other != key);
        if after != Lock::default() {
            state.locks.push((key, after));
        }
        Ok(LockUpdate { before, after })
    }

    async fn lock(&self, key: LockKey) -> Result<Lock, Error> {
        Ok(self.state().lock(key))
    }

    async fn insert_signing_key(&self, key: &SigningKeyRecord) -> Result<(), Error> {
        let mut state = self.state();
        encode(key)?;
        state.require_current(&key.private)?;
        if !state.keys.iter().any(|other| other.kid == key.kid) {
            state.keys.push(key.clone());
        }
        Ok(())
    }

    async fn retire_signing_keys(&self, kids: &[Kid], at: Timestamp) -> Result<(), Error> {
        for key in &mut self.state().keys {
            if kids.contains(&key.kid) {
                key.retired_at.get_or_insert(at);
            }
        }
        Ok(())
    }

    async fn rotate_signing_keys(&self, new: &[SigningKeyRecord], at: Timestamp) -> Result<(), Error> {
        let mut state = self.state();
        for key in new {
            state.require_current(&key.private)?;
        }
        for key in &mut state.keys {
            if new.iter().any(|new| new.algorithm == key.algorithm) {
                key.retired_at.get_or_insert(at);
            }
        }
        state.keys.retain(|key| new.iter().all(|new| new.kid != key.kid));
        state.keys.extend(new.iter().cloned());
        Ok(())
    }

    async fn remove_signing_keys(&self, kids: &[Kid]) -> Result<u64, Error> {
        let mut state = self.state();
        let before = state.keys.len();
        state.keys.retain(|key| key.retired_at.is_none() || !kids.contains(&key.kid));
        Ok((before - state.keys.len()) as u64)
    }

    async fn rewrap(&self, these: &[Rewrap]) -> Result<u64, Error> {
        let mut state = self.state();
        for one in these {
            state.require_current(&one.to)?;
        }
        let mut done = 0;
        for Rewrap { what, from, to } in these {
            done += u64::from(match what {
                Wrapped::Value(name) => match state.meta.get_mut(*name) {
                    Some(value) if *value == from.0 => {
                        value.clone_from(&to.0);
                        true
                    }
                    _ => false,
                },
                Wrapped::SigningKey(kid) => match state.keys.iter_mut().find(|key| key.kid == *kid && key.private == *from) {
                    Some(key) => {
                        key.private = to.clone();
                        true
                    }
                    None => false,
                },
                Wrapped::DataKey(id) => match state.users.get_mut(id).filter(|user| user.data_key == *from) {
                    Some(user) => {
                        user.data_key = to.clone();
                        user.revision += 1;
                        true
                    }
                    None => false,
                },
            });
        }
        Ok(done)
    }

    async fn signing_keys(&self) -> Result<Vec<SigningKeyRecord>, Error> {
        let mut keys = self.state().keys.clone();
        keys.sort_by_key(|key| (key.created_at, key.kid.clone()));
        Ok(keys)
    }

    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.state().meta.get(name).cloned())
    }

    async fn swap_meta(&self, name: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, Error> {
        let mut state = self.state();
        if state.meta.get(name).map(Vec::as_slice) != expected {
            return Ok(false);
        }
        if let Some(new) = new.filter(|_| WRAPPED_VALUES.contains(&name)) {
            state.require_current(&Sealed(new.to_vec()))?;
        }
        match new {
            Some(new) => state.meta.insert(name.to_owned(), new.to_vec()),
            None => state.meta.remove(name),
        };
        Ok(true)
    }

    async fn append_audit(&self, event: &AuditEvent) -> Result<(), Error> {
        encode(event)?;
        let mut state = self.state();
        if state.audit.contains_key(&(event.at, event.id)) {
            return Err(Error::Conflict);
        }
        state.audit.insert((event.at, event.id), event.clone());
        Ok(())
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEvent>, Error> {
        let state = self.state();
        let newest_first = state.audit.values().rev();
        let wanted = newest_first.filter(|event| {
            query.user.is_none_or(|user| event.user == Some(user))
                && query.action.is_none_or(|action| event.action == action)
                && query.since.is_none_or(|since| event.at >= since)
                && query.before.is_none_or(|before| (event.at, event.id) < before)
        });
        Ok(wanted.skip(query.offset).take(query.limit).cloned().collect())
    }

    async fn purge(&self, now: Timestamp, audit_before: Option<Timestamp>) -> Result<Purged, Error> {
        let mut state = self.state();
        let sessions: Vec<SessionId> = state.sessions.values().filter(|s| s.expires_at <= now).map(|s| s.id).collect();
        let api_tokens: Vec<ApiTokenId> =
            state.tokens.values().filter(|token| token.expires_at.is_some_and(|at| at <= now)).map(|token| token.id).collect();
        state.sessions.retain(|id, _| !sessions.contains(id));
        state.tokens.retain(|id, _| !api_tokens.contains(id));
        let count = |state: &State| state.spent.len() + state.locks.len() + state.audit.len();
        let before = count(&state);
        state.spent.retain(|_, until| *until > now);
        state.locks.retain(|(_, lock)| !lock.is_stale(now));
        state.audit.retain(|(at, _), _| audit_before.is_none_or(|before| *at >= before));
        let others = u64::try_from(before - count(&state)).unwrap();
        Ok(Purged { sessions, api_tokens, others })
    }

    async fn follow(&self) -> Result<Option<Box<dyn Follow>>, Error> {
        Ok(None)
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn size_on_disk(&self) -> Result<u64, Error> {
        Ok(1)
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}
