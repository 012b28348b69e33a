//! A store that can be taken away, and that remembers what it was asked.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nullpass::clock::Timestamp;
use nullpass::model::{
    Amr, ApiToken, ApiTokenId, AuditEvent, Digest, Email, EventId, Fitness, Generation, Kid, KnownToken, Lock, LockChange, LockKey,
    LockUpdate, Rotation, Session, SessionId, SessionTouch, User, UserId,
};
use nullpass::store::chain::{AuditLog, Chain, ChainKey, Filed, WriterId};
use nullpass::store::{AuditQuery, Error, Follow, Purged, Purpose, Rewrap, SessionSelector, SigningKeyRecord, Store, UserQuery};

/// Passes everything on to `inner` while it is not away.
#[derive(Debug)]
pub(crate) struct Switchable {
    inner: Arc<dyn Store>,
    /// Whether what is written next is recorded as well.
    records: bool,
    switches: Arc<Switches>,
}

#[derive(Debug, Default)]
struct Switches {
    away: AtomicBool,
    audit_fails: AtomicBool,
    audit_takes: AtomicU64,
    asked: Mutex<Vec<&'static str>>,
}

impl Switchable {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, records: false, switches: Arc::default() }
    }

    /// From now on every operation fails, or none does.
    pub(crate) fn set_away(&self, away: bool) {
        self.switches.away.store(away, Ordering::SeqCst);
    }

    /// From now on no audit event can be written.
    pub(crate) fn set_audit_fails(&self, fails: bool) {
        self.switches.audit_fails.store(fails, Ordering::SeqCst);
    }

    /// From now on every audit event takes so long.
    pub(crate) fn set_audit_takes(&self, time: Duration) {
        self.switches.audit_takes.store(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// The names of the operations since the last time, without those that go on by themselves.
    pub(crate) fn take_asked(&self) -> Vec<&'static str> {
        let mut asked = std::mem::take(&mut *self.switches.asked.lock().unwrap());
        asked.retain(|name| !matches!(*name, "ping" | "touch_sessions" | "touch_api_tokens" | "purge"));
        asked
    }

    /// Waits until what was changed has been heard of: with a shared store the process reads again, in its own time, what it
    /// is told has changed.
    pub(crate) async fn settled(&self) {
        loop {
            self.take_asked();
            tokio::time::sleep(Duration::from_millis(500)).await;
            if self.take_asked().is_empty() {
                return;
            }
        }
    }

    async fn take_time(&self) {
        tokio::time::sleep(Duration::from_millis(self.switches.audit_takes.load(Ordering::SeqCst))).await;
    }

    fn pass(&self, name: &'static str) -> Result<(), Error> {
        self.switches.asked.lock().unwrap().push(name);
        let gone = || Error::Unavailable("taken away by a test".to_owned());
        let unrecorded = self.switches.audit_fails.load(Ordering::SeqCst);
        if self.switches.away.load(Ordering::SeqCst) || (name == "append_audit" && unrecorded) {
            return Err(gone());
        }
        if self.records && unrecorded { Err(Error::Unrecorded(Box::new(gone()))) } else { Ok(()) }
    }
}

#[async_trait]
impl AuditLog for Switchable {
    fn set_chain_key(&self, key: ChainKey) {
        self.inner.set_chain_key(key);
    }

    fn recording(&self, events: Vec<AuditEvent>) -> Arc<dyn Store> {
        Arc::new(Self { inner: self.inner.recording(events), records: true, switches: Arc::clone(&self.switches) })
    }

    async fn chains(&self) -> Result<Vec<Chain>, Error> {
        self.pass("chains")?;
        self.inner.chains().await
    }

    async fn chained(&self, writer: WriterId, after: u64, limit: usize) -> Result<Vec<Filed>, Error> {
        self.pass("chained")?;
        self.inner.chained(writer, after, limit).await
    }

    async fn unchained(&self, limit: usize) -> Result<Vec<EventId>, Error> {
        self.pass("unchained")?;
        self.inner.unchained(limit).await
    }
}

#[async_trait]
impl Store for Switchable {
    async fn insert_user(&self, user: &User, allow_retired: bool) -> Result<(), Error> {
        self.pass("insert_user")?;
        if self.records {
            self.take_time().await;
        }
        self.inner.insert_user(user, allow_retired).await
    }

    async fn replace_user(&self, user: &User) -> Result<User, Error> {
        self.pass("replace_user")?;
        self.inner.replace_user(user).await
    }

    async fn replace_user_and_end_sessions(&self, user: &User) -> Result<(User, Vec<SessionId>), Error> {
        self.pass("replace_user_and_end_sessions")?;
        self.inner.replace_user_and_end_sessions(user).await
    }

    async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<Option<Vec<SessionId>>, Error> {
        self.pass("delete_user")?;
        self.inner.delete_user(id, now).await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, Error> {
        self.pass("user")?;
        self.inner.user(id).await
    }

    async fn user_by_email(&self, email: &Email) -> Result<Option<User>, Error> {
        self.pass("user_by_email")?;
        self.inner.user_by_email(email).await
    }

    async fn users(&self, query: &UserQuery) -> Result<Vec<User>, Error> {
        self.pass("users")?;
        self.inner.users(query).await
    }

    async fn insert_session(&self, session: &Session, max_per_user: Option<u32>) -> Result<Vec<SessionId>, Error> {
        self.pass("insert_session")?;
        self.inner.insert_session(session, max_per_user).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, Error> {
        self.pass("session")?;
        self.inner.session(id).await
    }

    async fn session_with_user(&self, id: SessionId) -> Result<Option<(Session, User)>, Error> {
        self.pass("session_with_user")?;
        self.inner.session_with_user(id).await
    }

    async fn sessions_of(&self, user: UserId) -> Result<Vec<Session>, Error> {
        self.pass("sessions_of")?;
        self.inner.sessions_of(user).await
    }

    async fn scan_sessions(&self, each: &mut (dyn FnMut(Session) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.pass("scan_sessions")?;
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
        self.pass("rotate_session")?;
        self.inner.rotate_session(id, presented, next, grace, now).await
    }

    async fn set_standing(&self, id: SessionId, amr: Amr, fitness: Fitness) -> Result<bool, Error> {
        self.pass("set_standing")?;
        self.inner.set_standing(id, amr, fitness).await
    }

    async fn touch_sessions(&self, touches: &[SessionTouch]) -> Result<(), Error> {
        self.pass("touch_sessions")?;
        self.inner.touch_sessions(touches).await
    }

    async fn delete_sessions(&self, which: SessionSelector) -> Result<Vec<SessionId>, Error> {
        self.pass("delete_sessions")?;
        self.inner.delete_sessions(which).await
    }

    async fn insert_api_token(&self, token: &ApiToken) -> Result<(), Error> {
        self.pass("insert_api_token")?;
        self.inner.insert_api_token(token).await
    }

    async fn api_token_with_user(&self, digest: &Digest) -> Result<Option<(ApiToken, User)>, Error> {
        self.pass("api_token_with_user")?;
        self.inner.api_token_with_user(digest).await
    }

    async fn api_tokens_of(&self, user: UserId) -> Result<Vec<ApiToken>, Error> {
        self.pass("api_tokens_of")?;
        self.inner.api_tokens_of(user).await
    }

    async fn scan_users(&self, each: &mut (dyn FnMut(User) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.pass("scan_users")?;
        self.inner.scan_users(each).await
    }

    async fn scan_api_tokens(&self, each: &mut (dyn FnMut(ApiToken) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.pass("scan_api_tokens")?;
        self.inner.scan_api_tokens(each).await
    }

    async fn delete_api_token(&self, user: UserId, id: ApiTokenId) -> Result<bool, Error> {
        self.pass("delete_api_token")?;
        self.inner.delete_api_token(user, id).await
    }

    async fn touch_api_tokens(&self, used: &[(ApiTokenId, Timestamp)]) -> Result<(), Error> {
        self.pass("touch_api_tokens")?;
        self.inner.touch_api_tokens(used).await
    }

    async fn spend_totp_step(&self, user: UserId, step: u64) -> Result<bool, Error> {
        self.pass("spend_totp_step")?;
        self.inner.spend_totp_step(user, step).await
    }

    async fn spend_once(&self, purpose: Purpose, digest: Digest, until: Timestamp) -> Result<bool, Error> {
        self.pass("spend_once")?;
        self.inner.spend_once(purpose, digest, until).await
    }

    async fn update_lock(&self, key: LockKey, change: LockChange, now: Timestamp) -> Result<LockUpdate, Error> {
        self.pass("update_lock")?;
        self.inner.update_lock(key, change, now).await
    }

    async fn lock(&self, key: LockKey) -> Result<Lock, Error> {
        self.pass("lock")?;
        self.inner.lock(key).await
    }

    async fn insert_signing_key(&self, key: &SigningKeyRecord) -> Result<(), Error> {
        self.pass("insert_signing_key")?;
        self.inner.insert_signing_key(key).await
    }

    async fn retire_signing_keys(&self, kids: &[Kid], at: Timestamp) -> Result<(), Error> {
        self.pass("retire_signing_keys")?;
        self.inner.retire_signing_keys(kids, at).await
    }

    async fn rotate_signing_keys(&self, new: &[SigningKeyRecord], at: Timestamp) -> Result<(), Error> {
        self.pass("rotate_signing_keys")?;
        self.inner.rotate_signing_keys(new, at).await
    }

    async fn remove_signing_keys(&self, kids: &[Kid]) -> Result<u64, Error> {
        self.pass("remove_signing_keys")?;
        self.inner.remove_signing_keys(kids).await
    }

    async fn rewrap(&self, these: &[Rewrap]) -> Result<u64, Error> {
        self.pass("rewrap")?;
        self.inner.rewrap(these).await
    }

    fn hold_keys(&self, checks: &[Digest]) {
        self.inner.hold_keys(checks);
    }

    async fn others_without_key(&self, check: &Digest) -> Result<u64, Error> {
        self.pass("others_without_key")?;
        self.inner.others_without_key(check).await
    }

    async fn signing_keys(&self) -> Result<Vec<SigningKeyRecord>, Error> {
        self.pass("signing_keys")?;
        self.inner.signing_keys().await
    }

    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.pass("meta")?;
        self.inner.meta(name).await
    }

    async fn swap_meta(&self, name: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, Error> {
        self.pass("swap_meta")?;
        self.inner.swap_meta(name, expected, new).await
    }

    async fn append_audit(&self, event: &AuditEvent) -> Result<(), Error> {
        self.pass("append_audit")?;
        self.take_time().await;
        self.inner.append_audit(event).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEvent>, Error> {
        self.pass("audit")?;
        self.inner.audit(query).await
    }

    async fn purge(&self, now: Timestamp, audit_before: Option<Timestamp>) -> Result<Purged, Error> {
        self.pass("purge")?;
        self.inner.purge(now, audit_before).await
    }

    async fn follow(&self) -> Result<Option<Box<dyn Follow>>, Error> {
        self.pass("follow")?;
        self.inner.follow().await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.pass("ping")?;
        self.inner.ping().await
    }

    async fn size_on_disk(&self) -> Result<u64, Error> {
        self.pass("size_on_disk")?;
        self.inner.size_on_disk().await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.pass("flush")?;
        self.inner.flush().await
    }
}
