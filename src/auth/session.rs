//! Sessions and the tokens that stand for them: beginning, renewing, exchanging and ending.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::audit::{ClientRecord, Event, Recording};
use super::follow::say_presence;
use super::live::{Entry, LiveSession, REFRESH_GRACE};
use super::{Auth, Client, Counters, Error, Issued, SessionView};
use crate::clock::Timestamp;
use crate::crypto::digest;
use crate::crypto::seal::Purpose;
use crate::crypto::token::SessionClaims;
use crate::model::{
    Action, Amr, Email, Fitness, Generation, Identity, KnownToken, Rotation, Sealed, Secret, Session, SessionId, User, UserId,
};
use crate::store::{SessionSelector, Vitals};

/// How a session begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    /// How the person proved who they are.
    pub(super) amr: Amr,
    /// When.
    pub(super) auth_time: Timestamp,
    /// What it may be used for.
    pub(super) fitness: Fitness,
    /// Whether the token goes into our cookie.
    pub(super) cookie: bool,
}

impl Auth {
    /// Begins a session for `user`, who was just authenticated. It exists in the store before this returns. `also` is what
    /// is recorded of it beside its beginning.
    pub(super) async fn begin(&self, user: User, begin: Begin, also: &[Action], client: &Client, now: Timestamp) -> Result<Issued, Error> {
        let id = SessionId::new();
        let end = now.plus(self.settings().sessions.max_lifetime).whole_second();
        let (token, known) = self.sign((user.id, &user.email), id, begin.amr, begin.auth_time, Generation::default(), end, now)?;
        let record = serde_json::to_vec(&ClientRecord::of(client)).map_err(|error| Error::Internal(error.to_string()))?;
        let data_key = self.storage_key.data_key(user.id, &user.data_key)?;
        let session = Session {
            id,
            user: user.id,
            created_at: now,
            auth_time: begin.auth_time,
            amr: begin.amr,
            fitness: begin.fitness,
            expires_at: end,
            last_seen_at: now,
            generation: Generation::default(),
            successor_seen_at: None,
            tokens: vec![known],
            client: data_key.seal(Purpose::SessionClient, id.as_bytes(), &record),
            cookie: begin.cookie,
        };
        let events = [Action::SessionCreate].iter().chain(also).map(|action| Event::done(*action).with("session", id)).collect::<Vec<_>>();
        let max_per_user = self.settings().sessions.max_per_user;
        let recording = self.recording(&events, &user, client, now)?;
        let evicted = match recording.run(|store| store.insert_session(&session, max_per_user)).await {
            Ok(evicted) => evicted,
            Err(crate::store::Error::Stale) => return Err(Error::WrongCredentials),
            Err(error) => return Err(error.into()),
        };
        self.live.end(&evicted);
        self.live.insert(&user, &session);
        self.live.bind(id, client.ip);
        // Somebody may have ended all sessions, changed the password or disabled the account since it was read. What
        // is still there now will be found by whoever does so from here on.
        let newest = self.store.session_with_user(id).await?.map(|(_, newest)| newest);
        if let Some(newest) = &newest {
            self.live.update_user(newest);
        }
        let stands = newest.is_some_and(|newest| !newest.is_disabled() && newest.password_changed_at == user.password_changed_at);
        if !stands {
            let event = Event::done(Action::SessionDelete).with("session", id).with("reason", "account_changed");
            let recording = self.recording(&[event], &user, client, now).ok();
            self.end_sessions(SessionSelector::One(id), recording).await?;
            return Err(Error::WrongCredentials);
        }
        for evicted in evicted {
            let event = Event::done(Action::SessionDelete).with("session", evicted).with("reason", "max_per_user");
            self.record_done(event, Some(&user), client, now).await;
        }
        let device = self.new_device(user.id);
        Ok(Issued { user, session: id, token, expires_at: known.expires_at, cookie: begin.cookie, device })
    }

    fn sign(
        &self,
        (user, email): (UserId, &Email),
        session: SessionId,
        amr: Amr,
        auth_time: Timestamp,
        generation: Generation,
        end: Timestamp,
        now: Timestamp,
    ) -> Result<(Secret<String>, KnownToken), Error> {
        let expires_at = now.plus(self.settings().tokens.ttl).whole_second().min(end);
        let claims = SessionClaims {
            user_id: user,
            email: email.clone(),
            iat: now.as_secs(),
            exp: expires_at.as_secs(),
            // Set when signing.
            iss: String::new(),
            aud: String::new(),
            sub: user,
            jti: uuid::Uuid::now_v7().to_string(),
            sid: session,
            amr: amr.names().into_iter().map(str::to_owned).collect(),
            auth_time: auth_time.as_secs(),
            generation,
        };
        let token = self.keyring.load().sign_session(&claims).map_err(|error| Error::Internal(error.to_string()))?;
        let known = KnownToken { digest: digest::sha256(token.expose().as_bytes()), generation, expires_at };
        Ok((token, known))
    }

    /// Exchanges a token for its successor (`A/auth/refresh`).
    pub async fn refresh(self: &Arc<Self>, entry: &Entry, client: &Client, now: Timestamp) -> Result<Issued, Error> {
        let Entry::Session { session, generation, .. } = entry else {
            return Err(Error::SignInRequired);
        };
        let user = self.user(session.user()).await?;
        // Whatever the session turns out to have, the token must say it: sign for the generation that is likely, and
        // again if somebody else was quicker.
        let mut guess = session.generation().max(generation.next());
        for _ in 0..4 {
            let (amr, _) = session.standing();
            let (token, known) =
                self.sign((user.id, &user.email), session.id, amr, session.auth_time(), guess, session.expires_at(), now)?;
            let event = Event::done(Action::SessionRefresh).with("session", session.id);
            let recording = self.recording(&[event], &user, client, now)?;
            match recording.run(|store| store.rotate_session(session.id, *generation, known, REFRESH_GRACE, now)).await? {
                Rotation::Rotated(stored) | Rotation::Grace(stored) if stored.generation != guess => guess = stored.generation,
                Rotation::Rotated(stored) | Rotation::Grace(stored) => {
                    self.live.rotated(&stored);
                    let device = self.new_device(user.id);
                    let cookie = session.is_cookie();
                    return Ok(Issued { user, session: session.id, token, expires_at: known.expires_at, cookie, device });
                }
                Rotation::Reused(_) => {
                    self.end_stolen(session, now);
                    return Err(Error::SignInRequired);
                }
                Rotation::Gone => {
                    self.live.end(&[session.id]);
                    return Err(Error::SignInRequired);
                }
            }
        }
        Err(Error::Conflict)
    }

    /// A cookie's next token, when half of the present one's life is over: the same session and generation, a later
    /// `exp`, never past the session's end. Written behind.
    pub fn renew(&self, entry: &Entry, identity: &Identity, now: Timestamp) -> Option<(Secret<String>, Timestamp)> {
        let Entry::Session { session, generation, expires_at } = entry else { return None };
        if *generation != session.generation() || *expires_at >= session.expires_at() {
            return None;
        }
        if !self.live.claim_renewal(session, self.settings().tokens.ttl, *expires_at, now) {
            return None;
        }
        let who = (identity.user, &identity.email);
        let signed = self.sign(who, session.id, identity.amr, session.auth_time(), *generation, session.expires_at(), now);
        let (token, known) = signed.ok()?;
        self.live.remember(session, known);
        self.live.renewed(session, known, now);
        Some((token, known.expires_at))
    }

    /// Ends a session whose token was used after its successor: at once in memory, and then in the store.
    pub(super) fn end_stolen(self: &Arc<Self>, session: &LiveSession, now: Timestamp) {
        Counters::add(&self.counters.token_reuse);
        let (id, owner) = (session.id, session.user());
        self.live.begin_ending(id);
        tracing::warn!(session = %id, user = %owner, "a token was used after its successor: the session is ended");
        let auth = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(error) = auth.finish_ending(id).await {
                tracing::error!(%error, session = %id, "the session with the stolen token could not be deleted; it is tried again");
            }
            let user = auth.store.user(owner).await.ok().flatten();
            let event = Event::refused(Action::TokenReuse).with("session", id);
            auth.record_done(event, user.as_ref(), &Client::local(), now).await;
        });
    }

    /// Deletes a session that has ended in memory already.
    async fn finish_ending(&self, id: SessionId) -> Result<(), Error> {
        self.store.delete_sessions(SessionSelector::One(id)).await?;
        self.live.ending_done(id);
        Ok(())
    }

    /// Ends sessions, in the store and then in memory, before this returns. It is recorded with `recording`, if that is
    /// given.
    pub(super) async fn end_sessions(&self, which: SessionSelector, recording: Option<Recording<'_>>) -> Result<Vec<SessionId>, Error> {
        let ended = match &recording {
            Some(recording) => recording.run(|store| store.delete_sessions(which)).await?,
            None => self.store.delete_sessions(which).await?,
        };
        self.live.end(&ended);
        if let SessionSelector::One(id) = which {
            self.live.end(&[id]);
        }
        if let SessionSelector::OfUser(user) = which {
            self.basic.forget(user);
        }
        Ok(ended)
    }

    /// Signs out: ends this session.
    pub async fn log_out(&self, session: &LiveSession, client: &Client, now: Timestamp) -> Result<(), Error> {
        let event = Event::done(Action::UserLogout).with("session", session.id);
        let user = self.store.user(session.user()).await?;
        let recording = user.map(|user| self.recording(&[event], &user, client, now)).transpose()?;
        self.end_sessions(SessionSelector::One(session.id), recording).await?;
        Ok(())
    }

    /// A person's sessions with the addresses, for the person alone.
    pub async fn sessions(&self, user: UserId, now: Timestamp) -> Result<Vec<SessionView>, Error> {
        let user = self.user(user).await?;
        let key = self.storage_key.data_key(user.id, &user.data_key)?;
        let sessions = self.store.sessions_of(user.id).await?;
        let views = sessions.into_iter().filter(|session| session.expires_at > now).map(|session| {
            let opened = key.open(Purpose::SessionClient, session.id.as_bytes(), &session.client).ok();
            let client: Option<ClientRecord> = opened.and_then(|plain| serde_json::from_slice(&plain).ok());
            let (ip, user_agent) = client.map_or((None, None), |client| (Some(client.ip), client.user_agent));
            SessionView { session, ip, user_agent }
        });
        Ok(views.collect())
    }

    /// Ends one of a person's own sessions. [`Error::NotFound`]: it is not theirs, or there is none.
    pub async fn end_own_session(&self, user: UserId, id: SessionId, client: &Client, now: Timestamp) -> Result<(), Error> {
        let owner = self.user(user).await?;
        match self.store.session(id).await? {
            Some(session) if session.user == user => {}
            _ => return Err(Error::NotFound),
        }
        let recording = self.recording(&[Event::done(Action::SessionDelete).with("session", id)], &owner, client, now)?;
        self.end_sessions(SessionSelector::One(id), Some(recording)).await?;
        Ok(())
    }

    /// Ends all of a person's sessions, but for `except`. Returns how many.
    pub async fn end_all_sessions(&self, user: UserId, except: Option<SessionId>, client: &Client, now: Timestamp) -> Result<usize, Error> {
        let owner = self.user(user).await?;
        let which = except.map_or(SessionSelector::OfUser(user), |id| SessionSelector::OfUserExcept(user, id));
        let event = Event::done(Action::SessionDelete).with("which", if except.is_some() { "others" } else { "all" });
        let recording = self.recording(&[event], &owner, client, now)?;
        Ok(self.end_sessions(which, Some(recording)).await?.len())
    }

    /// Ties the stored sessions to their addresses again, where `sessions.bind_ip` asks for it.
    pub(super) async fn bind_sessions(&self) -> Result<(), Error> {
        if !self.live.binds() || self.live.is_shared() {
            return Ok(());
        }
        let mut by_user: HashMap<UserId, Vec<(SessionId, Sealed)>> = HashMap::new();
        self.store
            .scan_sessions(&mut |session| {
                by_user.entry(session.user).or_default().push((session.id, session.client));
                ControlFlow::Continue(())
            })
            .await?;
        for (user, sessions) in by_user {
            let Some(user) = self.store.user(user).await? else { continue };
            let key = self.data_key(&user)?;
            for (id, sealed) in sessions {
                let opened = key.open(Purpose::SessionClient, id.as_bytes(), &sealed).ok();
                let client: Option<ClientRecord> = opened.and_then(|plain| serde_json::from_slice(&plain).ok());
                // What can't be read stays unbound, and is then refused.
                if let Some(ip) = client.and_then(|client| client.ip.parse().ok()) {
                    self.live.bind(id, ip);
                }
            }
        }
        Ok(())
    }

    /// Writes behind what the request path learned.
    pub async fn write_behind(&self) -> Result<(), Error> {
        for id in self.live.ending() {
            self.finish_ending(id).await?;
        }
        let (sessions, tokens) = self.live.take_touches();
        if !sessions.is_empty()
            && let Err(error) = self.store.touch_sessions(&sessions).await
        {
            self.live.put_back(sessions);
            return Err(error.into());
        }
        if !tokens.is_empty() {
            self.store.touch_api_tokens(&tokens).await?;
        }
        Ok(())
    }

    /// Asks the store whether it answers, within `patience`, and lets the request path know.
    pub async fn check_store(&self, patience: Duration) -> bool {
        let asked = tokio::time::Instant::now();
        let answers = matches!(tokio::time::timeout(patience, self.store.ping()).await, Ok(Ok(())));
        let micros = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.store_ping_micros.store(micros, Ordering::Relaxed);
        say_presence(self.live.pinged(answers));
        answers && !self.live.is_store_away()
    }

    /// Drops from memory what nobody has used for a while, where others share the store.
    pub fn drop_unused(&self, now: Timestamp) {
        let dropped = self.live.drop_unused(now);
        if dropped > 0 {
            tracing::debug!(dropped, "sessions that nobody uses left memory");
        }
    }

    /// Removes what has run out.
    pub async fn purge(&self, now: Timestamp) -> Result<u64, Error> {
        let retention = self.settings().audit.retention;
        let purged = self.store.purge(now, retention.map(|kept| now.minus(kept))).await?;
        self.live.end(&purged.sessions);
        self.live.end_api_tokens(&purged.api_tokens);
        let keys = self.remove_old_keys(now).await?;
        Ok(keys + purged.others + (purged.sessions.len() + purged.api_tokens.len()) as u64)
    }

    /// Bytes the store takes on disk.
    pub async fn store_size(&self) -> Result<u64, Error> {
        Ok(self.store.size_on_disk().await?)
    }

    /// How the store does, where it is somewhere else.
    pub fn store_vitals(&self) -> Option<Vitals> {
        self.store.vitals()
    }

    /// Writes what is left and closes the store's books.
    pub async fn close(&self) -> Result<(), Error> {
        self.write_behind().await?;
        Ok(self.store.flush().await?)
    }
}
