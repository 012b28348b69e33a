//! The embedded store: one process, one folder, no server. sled 0.34 is fenced in: one lock around all writers makes
//! read-check-write simple, a transaction makes several writes one, the thread in `flusher.rs` makes them durable,
//! `health.rs` stops everything when sled does not answer, `mend.rs` opens it again then, `tally.rs` notices what it
//! lost, and every call runs on one of the few threads of `threads.rs`. Read next: `open.rs` (the folder), `trees.rs`
//! (what is stored), `writer.rs` and `change.rs` (how it is written), then one file a thing.

mod audit;
mod chain;
mod change;
mod flusher;
mod health;
mod keys;
mod locks;
mod mend;
mod open;
mod purge;
mod replaced;
mod sessions;
mod spent;
mod tally;
mod threads;
mod tokens;
mod transfer;
mod trees;
mod users;
mod writer;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::sled::IVec;
use async_trait::async_trait;
use serde::de::DeserializeOwned;

use self::change::{Changes, Pick};
use self::flusher::{Flushed, Flusher};
use self::health::Health;
use self::mend::Place;
use self::threads::Threads;
use self::trees::{Trees, batch, bytes, entries_after, exists, indexed, load, pair};
use self::writer::{Inner, Writer};
use super::{AuditQuery, Error, Follow, Purged, Purpose, Rewrap, SessionSelector, SigningKeyRecord, Store, UserQuery, record};
use crate::clock::Timestamp;
use crate::model::{
    Amr, ApiToken, ApiTokenId, AuditEvent, Digest, Email, Fitness, Generation, Kid, KnownToken, Lock, LockChange, LockKey, LockUpdate,
    Rotation, Session, SessionId, SessionTouch, User, UserId,
};

pub use self::open::OPENING;
#[cfg(any(test, fuzzing))]
pub(super) use transfer::read as read_entry;

/// How many threads read: so that who wants little does not wait for a walk through everything, and so that at a start one
/// batch is decoded while the next is read.
const READERS: usize = 2;

/// Records read in one call while all are walked through.
const BATCH: usize = 1024;

/// The state in a folder of this machine, used by one process at a time. Dropping it flushes once more.
#[derive(Clone, Debug)]
pub struct SledStore {
    place: Arc<Place>,
    readers: Threads,
    writer: Threads,
    /// What the next write is to be recorded with.
    events: Arc<[AuditEvent]>,
}

impl SledStore {
    /// Opens the data folder `path` (mode 0700), making it when there is none. Blocks, for at most about 5 seconds while
    /// another process has it, and for as long as recovery takes after a crash.
    ///
    /// [`Error::InUse`]: another process has it. [`Error::Newer`]: a newer release wrote it. [`Error::Corrupt`]: it
    /// can't be read even after recovery. [`Error::Unavailable`]: the folder can't be made, read or written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (readers, writer) = (Threads::start("store-read", READERS)?, Threads::start("store-write", 1)?);
        Ok(Self { place: Place::open(path)?, readers, writer, events: Arc::new([]) })
    }

    /// Runs `work`, which only reads.
    async fn read<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        self.on(&self.readers, move |inner| {
            inner.health.check()?;
            let _busy = inner.health.begin();
            work(inner)
        })
        .await
    }

    /// Runs `work` as the only writer and waits until what it and all before it wrote is durable. Also when it wrote
    /// nothing: the reason may be a write of somebody else that is not durable yet.
    async fn write<T: Send + 'static>(&self, work: impl FnOnce(&Writer<'_>) -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        let (done, flushed) = self.start_write(work).await?;
        flushed.wait().await?;
        Ok(done)
    }

    /// Runs `work` as the only writer and leaves it to the next flush, or to sled's own every half second, to make it
    /// durable.
    async fn write_behind<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Writer<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.on(&self.writer, move |inner| {
            inner.health.check_writable()?;
            let _busy = inner.health.begin();
            work(&inner.writer()?)
        })
        .await
    }

    /// The flush is asked for on the thread that writes, so that it comes about even when the caller goes away meanwhile.
    async fn start_write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Writer<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<(T, Flushed), Error> {
        let events = Arc::clone(&self.events);
        self.on(&self.writer, move |inner| {
            inner.health.check_writable()?;
            let _busy = inner.health.begin();
            let done = work(&inner.writer()?.recording(events))?;
            Ok((done, inner.flusher.request()))
        })
        .await
    }

    async fn on<T: Send + 'static>(
        &self,
        threads: &Threads,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.place.inner()?.health.check()?;
        let place = Arc::clone(&self.place);
        let done = threads.run(move || work(&*place.inner()?)).await;
        done.unwrap_or_else(|| Err(Error::Unavailable("a storage thread broke off".to_owned())))
    }

    /// Calls `each` for all records of a tree, in batches, so that writers come through in between. While one batch is
    /// handed out the next is decoded and the one after that is read, each on a thread of its own: at start this is what
    /// everybody waits for.
    async fn scan<T: DeserializeOwned + Send + 'static>(
        &self,
        tree: Pick,
        each: &mut (dyn FnMut(T) -> ControlFlow<()> + Send),
    ) -> Result<(), Error> {
        let read = |after: Option<IVec>| self.read(move |inner| batch(tree(&inner.trees), after.as_ref()));
        let mut encoded = read(None).await?;
        let mut records: Vec<T> = Vec::new();
        loop {
            let after = encoded.last().map(|(key, _)| key.clone());
            let decode = self.read(move |_| encoded.iter().map(|(_, value)| record::decode(value)).collect::<Result<Vec<T>, Error>>());
            let next = async { if after.is_some() { read(after).await } else { Ok(Vec::new()) } };
            // Last: it keeps this thread busy, and the others must have begun by then.
            let hand_out = async { records.into_iter().try_for_each(&mut *each) };
            let (decoded, next, flow) = tokio::join!(decode, next, hand_out);
            if flow.is_break() {
                return Ok(());
            }
            (records, encoded) = (decoded?, next?);
            if records.is_empty() {
                return Ok(());
            }
        }
    }
}

#[async_trait]
impl Store for SledStore {
    async fn insert_user(&self, user: &User, allow_retired: bool) -> Result<(), Error> {
        let user = user.clone();
        self.write(move |writer| users::insert(writer, &user, allow_retired)).await
    }

    async fn replace_user(&self, user: &User) -> Result<User, Error> {
        let user = user.clone();
        self.write(move |writer| users::replace(writer, user)).await
    }

    async fn replace_user_and_end_sessions(&self, user: &User) -> Result<(User, Vec<SessionId>), Error> {
        let user = user.clone();
        self.write(move |writer| users::replace_and_end_sessions(writer, user)).await
    }

    async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<Option<Vec<SessionId>>, Error> {
        self.write(move |writer| users::delete(writer, id, now)).await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, Error> {
        self.read(move |inner| users::get(inner, id)).await
    }

    async fn user_by_email(&self, email: &Email) -> Result<Option<User>, Error> {
        let email = email.clone();
        self.read(move |inner| users::by_email(inner, &email)).await
    }

    async fn users(&self, query: &UserQuery) -> Result<Vec<User>, Error> {
        let query = query.clone();
        self.read(move |inner| users::list(inner, &query)).await
    }

    async fn scan_users(&self, each: &mut (dyn FnMut(User) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.scan(|trees| &trees.users, each).await
    }

    async fn insert_session(&self, session: &Session, max_per_user: Option<u32>) -> Result<Vec<SessionId>, Error> {
        let session = session.clone();
        self.write(move |writer| sessions::insert(writer, &session, max_per_user)).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>, Error> {
        self.read(move |inner| sessions::get(inner, id)).await
    }

    async fn session_with_user(&self, id: SessionId) -> Result<Option<(Session, User)>, Error> {
        self.read(move |inner| sessions::with_user(inner, id)).await
    }

    async fn sessions_of(&self, user: UserId) -> Result<Vec<Session>, Error> {
        self.read(move |inner| sessions::of_user(inner, user)).await
    }

    async fn scan_sessions(&self, each: &mut (dyn FnMut(Session) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.scan(|trees| &trees.sessions, each).await
    }

    async fn rotate_session(
        &self,
        id: SessionId,
        presented: Generation,
        next: KnownToken,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Rotation, Error> {
        self.write(move |writer| sessions::rotate(writer, id, presented, next, grace, now)).await
    }

    async fn set_standing(&self, id: SessionId, amr: Amr, fitness: Fitness) -> Result<bool, Error> {
        self.write(move |writer| sessions::set_standing(writer, id, amr, fitness)).await
    }

    async fn touch_sessions(&self, touches: &[SessionTouch]) -> Result<(), Error> {
        let mut touches = touches.to_vec();
        touches.sort_unstable_by_key(|touch| touch.id);
        for some in touches.chunks(BATCH) {
            let some = some.to_vec();
            self.write_behind(move |writer| sessions::touch(writer, &some)).await?;
        }
        Ok(())
    }

    async fn delete_sessions(&self, which: SessionSelector) -> Result<Vec<SessionId>, Error> {
        self.write(move |writer| sessions::delete(writer, which)).await
    }

    async fn insert_api_token(&self, token: &ApiToken) -> Result<(), Error> {
        let token = token.clone();
        self.write(move |writer| tokens::insert(writer, &token)).await
    }

    async fn api_token_with_user(&self, digest: &Digest) -> Result<Option<(ApiToken, User)>, Error> {
        let digest = *digest;
        self.read(move |inner| tokens::with_user(inner, &digest)).await
    }

    async fn api_tokens_of(&self, user: UserId) -> Result<Vec<ApiToken>, Error> {
        self.read(move |inner| tokens::of_user(inner, user)).await
    }

    async fn scan_api_tokens(&self, each: &mut (dyn FnMut(ApiToken) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        self.scan(|trees| &trees.api_tokens, each).await
    }

    async fn delete_api_token(&self, user: UserId, id: ApiTokenId) -> Result<bool, Error> {
        self.write(move |writer| tokens::delete(writer, user, id)).await
    }

    async fn touch_api_tokens(&self, used: &[(ApiTokenId, Timestamp)]) -> Result<(), Error> {
        for some in used.chunks(BATCH) {
            let some = some.to_vec();
            self.write_behind(move |writer| tokens::touch(writer, &some)).await?;
        }
        Ok(())
    }

    async fn spend_totp_step(&self, user: UserId, step: u64) -> Result<bool, Error> {
        self.write(move |writer| spent::step(writer, user, step)).await
    }

    async fn spend_once(&self, purpose: Purpose, digest: Digest, until: Timestamp) -> Result<bool, Error> {
        self.write(move |writer| spent::once(writer, purpose, digest, until)).await
    }

    async fn update_lock(&self, key: LockKey, change: LockChange, now: Timestamp) -> Result<LockUpdate, Error> {
        self.write(move |writer| locks::update(writer, key, change, now, locks::MAX_LOCKS)).await
    }

    async fn lock(&self, key: LockKey) -> Result<Lock, Error> {
        self.read(move |inner| locks::get(inner, key)).await
    }

    async fn insert_signing_key(&self, key: &SigningKeyRecord) -> Result<(), Error> {
        let key = key.clone();
        self.write(move |writer| keys::insert(writer, &key)).await
    }

    async fn retire_signing_keys(&self, kids: &[Kid], at: Timestamp) -> Result<(), Error> {
        let kids = kids.to_vec();
        self.write(move |writer| keys::retire(writer, &kids, at)).await
    }

    async fn rotate_signing_keys(&self, new: &[SigningKeyRecord], at: Timestamp) -> Result<(), Error> {
        let new = new.to_vec();
        self.write(move |writer| keys::rotate(writer, &new, at)).await
    }

    async fn remove_signing_keys(&self, kids: &[Kid]) -> Result<u64, Error> {
        let kids = kids.to_vec();
        self.write(move |writer| keys::remove(writer, &kids)).await
    }

    async fn signing_keys(&self) -> Result<Vec<SigningKeyRecord>, Error> {
        self.read(keys::all).await
    }

    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let name = name.to_owned();
        self.read(move |inner| keys::meta(inner, &name)).await
    }

    async fn swap_meta(&self, name: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, Error> {
        let (name, expected, new) = (name.to_owned(), expected.map(<[u8]>::to_vec), new.map(<[u8]>::to_vec));
        self.write(move |writer| keys::swap_meta(writer, &name, expected.as_deref(), new.as_deref())).await
    }

    async fn rewrap(&self, these: &[Rewrap]) -> Result<u64, Error> {
        let these = these.to_vec();
        self.write(move |writer| keys::rewrap(writer, &these)).await
    }

    async fn append_audit(&self, event: &AuditEvent) -> Result<(), Error> {
        let event = event.clone();
        self.write(move |writer| audit::append(writer, &event)).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEvent>, Error> {
        let query = query.clone();
        self.read(move |inner| audit::list(inner, &query)).await
    }

    async fn purge(&self, now: Timestamp, audit_before: Option<Timestamp>) -> Result<Purged, Error> {
        purge::purge(self, now, audit_before).await
    }

    /// Nobody: the folder is this process's alone.
    async fn follow(&self) -> Result<Option<Box<dyn Follow>>, Error> {
        Ok(None)
    }

    async fn ping(&self) -> Result<(), Error> {
        let write = async {
            // Changes nothing but the tally.
            let ((), flushed) = self.start_write(|writer| writer.apply(&Changes::new())).await?;
            flushed.wait().await
        };
        let late = |_| Error::Unavailable(format!("the database has not answered for {} s", health::PATIENCE.as_secs()));
        tokio::time::timeout(health::PATIENCE, write).await.map_err(late)?
    }

    async fn size_on_disk(&self) -> Result<u64, Error> {
        self.read(|inner| inner.db.size_on_disk().map_err(|error| open::explain(&error))).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.on(&self.writer, |inner| Ok(inner.flusher.request())).await?.wait().await
    }
}
