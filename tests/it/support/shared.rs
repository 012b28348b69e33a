//! One store for several sidecars in this process, as if each were a process of its own, and each can lose the store, or
//! the news, by itself. A store that is told of nobody's changes tells them here.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nullpass::clock::Timestamp;
use nullpass::model::{
    Amr, ApiToken, ApiTokenId, AuditEvent, Digest, Email, EventId, Fitness, Generation, Kid, KnownToken, Lock, LockChange, LockKey,
    LockUpdate, Rotation, Session, SessionId, SessionTouch, User, UserId,
};
use nullpass::store::chain::{AuditLog, Chain, ChainKey, Filed, WriterId};
use nullpass::store::{AuditQuery, Error, Follow, News, Purged, Purpose, Rewrap, SessionSelector, SigningKeyRecord, Store, UserQuery};
use tokio::sync::broadcast;

/// How the store is to one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    /// It answers.
    Well,
    /// Every operation fails.
    Fails,
    /// No operation ever ends.
    Hangs,
}

impl Mood {
    const ALL: [Self; 3] = [Self::Well, Self::Fails, Self::Hangs];

    fn of(word: &AtomicU8) -> Self {
        Self::ALL[usize::from(word.load(Ordering::SeqCst))]
    }

    async fn meet(word: &AtomicU8) -> Result<(), Error> {
        match Self::of(word) {
            Self::Well => Ok(()),
            Self::Fails => Err(Error::Unavailable("taken away by a test".to_owned())),
            Self::Hangs => std::future::pending().await,
        }
    }
}

/// What tells all of them what the others change, where the store itself does not.
pub(crate) type Hub = broadcast::Sender<News>;

impl Member {
    /// `hub`: `None` for a store that tells by itself.
    pub(crate) fn new(inner: Arc<dyn Store>, hub: Option<&Hub>) -> Self {
        Self {
            inner,
            hub: hub.cloned(),
            store: Arc::new(AtomicU8::new(0)),
            feed: Arc::new(AtomicU8::new(0)),
            mute: Arc::default(),
            slow: Arc::default(),
            asked: Arc::default(),
        }
    }

    /// The store as it is, whatever becomes of this one.
    pub(crate) fn inner(&self) -> &Arc<dyn Store> {
        &self.inner
    }
}

/// The store as one of them has it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    inner: Arc<dyn Store>,
    hub: Option<Hub>,
    store: Arc<AtomicU8>,
    feed: Arc<AtomicU8>,
    /// News get lost without a word: there seem to be none.
    mute: Arc<AtomicBool>,
    /// How long a session that was read is on its way, in milliseconds.
    slow: Arc<AtomicU64>,
    asked: Arc<Mutex<Vec<&'static str>>>,
}

impl Member {
    pub(crate) fn set_store(&self, mood: Mood) {
        self.store.store(mood as u8, Ordering::SeqCst);
    }

    pub(crate) fn set_feed(&self, mood: Mood) {
        self.feed.store(mood as u8, Ordering::SeqCst);
    }

    /// Loses what is told from now on, or finds out that something was lost.
    pub(crate) fn set_mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::SeqCst);
    }

    pub(crate) fn set_slow(&self, slow: Duration) {
        self.slow.store(u64::try_from(slow.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// How often this operation was asked for since the last time.
    pub(crate) fn asked(&self, name: &str) -> usize {
        let mut asked = self.asked.lock().unwrap();
        let count = asked.iter().filter(|found| **found == name).count();
        asked.retain(|found| *found != name);
        count
    }

    async fn pass(&self, name: &'static str) -> Result<(), Error> {
        self.asked.lock().unwrap().push(name);
        Mood::meet(&self.store).await
    }

    fn tell(&self, news: impl IntoIterator<Item = News>) {
        for (news, hub) in news.into_iter().zip(std::iter::repeat(&self.hub)) {
            let _nobody_listens = hub.as_ref().map(|hub| hub.send(news));
        }
    }
}

#[derive(Debug)]
struct Feed {
    source: Source,
    mood: Arc<AtomicU8>,
    mute: Arc<AtomicBool>,
    lost: bool,
}

#[derive(Debug)]
enum Source {
    Hub(broadcast::Receiver<News>),
    Store(Box<dyn Follow>),
}

impl Source {
    async fn next(&mut self) -> Result<Vec<News>, Error> {
        match self {
            Self::Store(feed) => feed.next().await,
            Self::Hub(news) => Ok(match tokio::time::timeout(Duration::from_millis(300), news.recv()).await {
                Err(_) => Vec::new(),
                Ok(Ok(news)) => vec![news],
                Ok(Err(_)) => vec![News::Everything],
            }),
        }
    }
}

#[async_trait]
impl Follow for Feed {
    async fn next(&mut self) -> Result<Vec<News>, Error> {
        Mood::meet(&self.mood).await?;
        let news = self.source.next().await?;
        let cut_off_meanwhile = Mood::of(&self.mood) != Mood::Well;
        if cut_off_meanwhile || self.mute.load(Ordering::SeqCst) {
            self.lost |= !news.is_empty();
            return if cut_off_meanwhile { Err(Error::Unavailable("taken away by a test".to_owned())) } else { Ok(Vec::new()) };
        }
        Ok(if std::mem::take(&mut self.lost) { vec![News::Everything] } else { news })
    }
}

#[async_trait]
impl AuditLog for Member {
    fn set_chain_key(&self, key: ChainKey) {
        self.inner.set_chain_key(key);
    }

    fn recording(&self, events: Vec<AuditEvent>) -> Arc<dyn Store> {
        Arc::new(Self { inner: self.inner.recording(events), ..self.clone() })
    }

    async fn chains(&self) -> Result<Vec<Chain>, Error> {
        self.pass("chains").await?;
        self.inner.chains().await
    }

    async fn chained(&self, writer: WriterId, after: u64, limit: usize) -> Result<Vec<Filed>, Error> {
        self.pass("chained").await?;
        self.inner.chained(writer, after, limit).await
    }

    async fn unchained(&self, limit: usize) -> Result<Vec<EventId>, Error> {
        self.pass("unchained").await?;
        self.inner.unchained(limit).await
    }
}

#[async_trait]
impl Store for Member {
    async fn insert_user(&self, user: &User, allow_retired: bool) -> Result<(), Error> {
        self.pass("insert_user").await?;
        self.inner.insert_user(user, allow_retired).await
    }

    async fn replace_user(&self, user: &User) -> Result<User, Error> {
        self.pass("replace_user").await?;
        let replaced = self.inner.replace_user(user).await?;
        self.tell([News::User(user.id)]);
        Ok(replaced)
    }

    async fn replace_user_and_end_sessions(&self, user: &User) -> Result<(User, Vec<SessionId>), Error> {
        self.pass("replace_user_and_end_sessions").await?;
        let (replaced, ended) = self.inner.replace_user_and_end_sessions(user).await?;
        self.tell([News::User(user.id)]);
        self.tell(ended.iter().map(|id| News::SessionEnded(*id)));
        Ok((replaced, ended))
    }

    async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<Option<Vec<SessionId>>, Error> {
        self.pass("delete_user").await?;
        let ended = self.inner.delete_user(id, now).await?;
        self.tell([News::User(id)]);
        self.tell(ended.iter().flatten().map(|id| News::SessionEnded(*id)));
        Ok(ended)
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, Error> {
        self.pass("user").await?;
        self.inner.user(id).await
    }

    async fn user_by_email(&self, email: &Email) -> Result<Option<User>, Error> {
        self.pass("user_by_email").await?;
        self.inner.user_by_email(email).await
    }

    async fn users(&self, query: &UserQuery) -> Result<Vec<User>, Error> {
        self.pass("users").await?;
        self.inner.users(query).await
    }

    async fn insert_session(&self, session: &Session, max_per_user: Option<u32>) -> Result<Vec<SessionId>, Error> {
        self.pass("insert_session").await?;
        let ended = self.inner.insert_session(session, max_per_user).await?;
        self.tell(ended.iter().map(|id| News::SessionEnded(*id)));
        Ok(ended)
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, Error> {
        self.pass("session").await?;
        self.inner.session(id).await
    }

    async fn session_with_user(&self, id: SessionId) -> Result<Option<(Session, User)>, Error> {
        self.pass("session_with_user").await?;
        let read = self.inner.session_with_user(id).await;
        tokio::time::sleep(Duration::from_millis(self.slow.load(Ordering::SeqCst))).await;
        read
    }

    async fn sessions_of(&self, user: UserId) -> Result<Vec<Session>, Error> {
        self.pass("sessions_of").await?;
        self.inner.sessions_of(user).await
    }

    async fn scan_sessions(&self, each: &mut (dyn FnMut(Session) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.pass("scan_sessions").await?;
        self.inner.scan_sessions(each).await
    }

    async fn rotate_session(
        &self,
        id: SessionId,
        presented: Generation,
        next: KnownToken,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Rotation, Error> {
        self.pass("rotate_session").await?;
        let rotation = self.inner.rotate_session(id, presented, next, grace, now).await?;
        self.tell([News::SessionChanged(id)]);
        Ok(rotation)
    }

    async fn set_standing(&self, id: SessionId, amr: Amr, fitness: Fitness) -> Result<bool, Error> {
        self.pass("set_standing").await?;
        let was = self.inner.set_standing(id, amr, fitness).await?;
        self.tell([News::SessionChanged(id)]);
        Ok(was)
    }

    async fn touch_sessions(&self, touches: &[SessionTouch]) -> Result<(), Error> {
        self.pass("touch_sessions").await?;
        self.inner.touch_sessions(touches).await?;
        let seen = touches.iter().filter(|touch| touch.successor_seen_at.is_some());
        self.tell(seen.map(|touch| News::SessionChanged(touch.id)));
        Ok(())
    }

    async fn delete_sessions(&self, which: SessionSelector) -> Result<Vec<SessionId>, Error> {
        self.pass("delete_sessions").await?;
        let ended = self.inner.delete_sessions(which).await?;
        self.tell(ended.iter().map(|id| News::SessionEnded(*id)));
        Ok(ended)
    }

    async fn insert_api_token(&self, token: &ApiToken) -> Result<(), Error> {
        self.pass("insert_api_token").await?;
        self.inner.insert_api_token(token).await
    }

    async fn api_token_with_user(&self, digest: &Digest) -> Result<Option<(ApiToken, User)>, Error> {
        self.pass("api_token_with_user").await?;
        self.inner.api_token_with_user(digest).await
    }

    async fn api_tokens_of(&self, user: UserId) -> Result<Vec<ApiToken>, Error> {
        self.pass("api_tokens_of").await?;
        self.inner.api_tokens_of(user).await
    }

    async fn scan_users(&self, each: &mut (dyn FnMut(User) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.pass("scan_users").await?;
        self.inner.scan_users(each).await
    }

    async fn scan_api_tokens(&self, each: &mut (dyn FnMut(ApiToken) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.pass("scan_api_tokens").await?;
        self.inner.scan_api_tokens(each).await
    }

    async fn delete_api_token(&self, user: UserId, id: ApiTokenId) -> Result<bool, Error> {
        self.pass("delete_api_token").await?;
        let was = self.inner.delete_api_token(user, id).await?;
        self.tell([News::ApiTokenEnded(id)]);
        Ok(was)
    }

    async fn touch_api_tokens(&self, used: &[(ApiTokenId, Timestamp)]) -> Result<(), Error> {
        self.pass("touch_api_tokens").await?;
        self.inner.touch_api_tokens(used).await
    }

    async fn spend_totp_step(&self, user: UserId, step: u64) -> Result<bool, Error> {
        self.pass("spend_totp_step").await?;
        self.inner.spend_totp_step(user, step).await
    }

    async fn spend_once(&self, purpose: Purpose, digest: Digest, until: Timestamp) -> Result<bool, Error> {
        self.pass("spend_once").await?;
        self.inner.spend_once(purpose, digest, until).await
    }

    async fn update_lock(&self, key: LockKey, change: LockChange, now: Timestamp) -> Result<LockUpdate, Error> {
        self.pass("update_lock").await?;
        self.inner.update_lock(key, change, now).await
    }

    async fn lock(&self, key: LockKey) -> Result<Lock, Error> {
        self.pass("lock").await?;
        self.inner.lock(key).await
    }

    async fn insert_signing_key(&self, key: &SigningKeyRecord) -> Result<(), Error> {
        self.pass("insert_signing_key").await?;
        self.inner.insert_signing_key(key).await?;
        self.tell([News::SigningKeys]);
        Ok(())
    }

    async fn retire_signing_keys(&self, kids: &[Kid], at: Timestamp) -> Result<(), Error> {
        self.pass("retire_signing_keys").await?;
        self.inner.retire_signing_keys(kids, at).await?;
        self.tell([News::SigningKeys]);
        Ok(())
    }

    async fn rotate_signing_keys(&self, new: &[SigningKeyRecord], at: Timestamp) -> Result<(), Error> {
        self.pass("rotate_signing_keys").await?;
        self.inner.rotate_signing_keys(new, at).await?;
        self.tell([News::SigningKeys]);
        Ok(())
    }

    async fn remove_signing_keys(&self, kids: &[Kid]) -> Result<u64, Error> {
        self.pass("remove_signing_keys").await?;
        let removed = self.inner.remove_signing_keys(kids).await?;
        self.tell([News::SigningKeys]);
        Ok(removed)
    }

    async fn rewrap(&self, these: &[Rewrap]) -> Result<u64, Error> {
        self.pass("rewrap").await?;
        self.inner.rewrap(these).await
    }

    fn hold_keys(&self, checks: &[Digest]) {
        self.inner.hold_keys(checks);
    }

    async fn others_without_key(&self, check: &Digest) -> Result<u64, Error> {
        self.pass("others_without_key").await?;
        self.inner.others_without_key(check).await
    }

    async fn signing_keys(&self) -> Result<Vec<SigningKeyRecord>, Error> {
        self.pass("signing_keys").await?;
        self.inner.signing_keys().await
    }

    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.pass("meta").await?;
        self.inner.meta(name).await
    }

    async fn swap_meta(&self, name: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, Error> {
        self.pass("swap_meta").await?;
        self.inner.swap_meta(name, expected, new).await
    }

    async fn append_audit(&self, event: &AuditEvent) -> Result<(), Error> {
        self.pass("append_audit").await?;
        self.inner.append_audit(event).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEvent>, Error> {
        self.pass("audit").await?;
        self.inner.audit(query).await
    }

    async fn purge(&self, now: Timestamp, audit_before: Option<Timestamp>) -> Result<Purged, Error> {
        self.pass("purge").await?;
        self.inner.purge(now, audit_before).await
    }

    async fn follow(&self) -> Result<Option<Box<dyn Follow>>, Error> {
        self.pass("follow").await?;
        let source = match &self.hub {
            Some(hub) => Some(Source::Hub(hub.subscribe())),
            None => self.inner.follow().await?.map(Source::Store),
        };
        let (mood, mute) = (Arc::clone(&self.feed), Arc::clone(&self.mute));
        Ok(source.map(|source| Box::new(Feed { source, mood, mute, lost: false }) as Box<dyn Follow>))
    }

    async fn ping(&self) -> Result<(), Error> {
        self.pass("ping").await?;
        self.inner.ping().await
    }

    async fn size_on_disk(&self) -> Result<u64, Error> {
        self.pass("size_on_disk").await?;
        self.inner.size_on_disk().await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.pass("flush").await?;
        self.inner.flush().await
    }
}
