//! Where the state lives. [`Store`] offers atomic domain operations, not rows: each is durable when it returns, and
//! none of them decides anything. The live requests of the proxy never wait for a store; they read `auth::live`.

pub mod chain;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod lock_key;
pub mod postgres;
pub mod record;
mod rules;
pub mod sled;
pub mod transfer;
mod vitals;
mod wrapped;

use std::fmt::Debug;
use std::ops::ControlFlow;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::config::Algorithm;
use crate::model::{
    Action, Amr, ApiToken, ApiTokenId, AuditEvent, Digest, Email, EventId, Fitness, Generation, Group, Kid, KnownToken, Lock, LockChange,
    LockKey, LockUpdate, Rotation, Sealed, Session, SessionId, SessionTouch, User, UserId,
};

pub use self::chain::AuditLog;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use self::fuzzing::stored_record as fuzz_stored_record;
pub use self::vitals::{Connections, Vitals};
pub use self::wrapped::{INSTALLATION_KEY, KnownKey, Rewrap, STORAGE_KEYS, StorageKeys, WRAPPED_VALUES, Wrapped};

/// A signing key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKeyRecord {
    /// Its name in tokens.
    pub kid: Kid,
    /// The one algorithm it is used with.
    pub algorithm: Algorithm,
    /// The private key (PKCS #8 DER) or the HMAC secret, sealed under the storage key.
    pub private: Sealed,
    /// The public key as a JWK in JSON; `None` for HMAC, which is never published.
    pub public_jwk: Option<String>,
    /// When it was made. The newest one of an algorithm signs.
    pub created_at: Timestamp,
    /// When it was replaced; it still verifies until the last of its tokens has expired.
    #[serde(default)]
    pub retired_at: Option<Timestamp>,
    /// How long a token that it signs lives at most, in seconds; `None`: as long as a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_life: Option<u64>,
}

/// What a one-time thing was for; part of the key, so that one purpose can't spend another's (requirement JWT-2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The pending token of a two-step login.
    PendingLogin,
    /// The set-up link of the first administrator.
    Setup,
    /// A form that met an ended session, and was sent on after the sign-in.
    KeptForm,
}

/// Which sessions to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionSelector {
    /// This one.
    One(SessionId),
    /// All of a person's.
    OfUser(UserId),
    /// All of a person's but one.
    OfUserExcept(UserId, SessionId),
}

/// Which accounts to list.
#[derive(Clone, Debug, Default)]
pub struct UserQuery {
    /// Only addresses or display names that contain this, whatever the case.
    pub search: Option<String>,
    /// Only members.
    pub group: Option<Group>,
    /// Only those after this one, in the order of making.
    pub after: Option<UserId>,
    /// At most so many.
    pub limit: usize,
}

/// Which audit events to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Only those about this account.
    pub user: Option<UserId>,
    /// Only this action.
    pub action: Option<Action>,
    /// Only those since.
    pub since: Option<Timestamp>,
    /// Only those that come after this one in the list: older ones.
    pub before: Option<(Timestamp, EventId)>,
    /// Leave out so many.
    pub offset: usize,
    /// At most so many.
    pub limit: usize,
}

/// What was removed by [`Store::purge`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Sessions past their end.
    pub sessions: Vec<SessionId>,
    /// API tokens past theirs.
    pub api_tokens: Vec<ApiTokenId>,
    /// How much of anything else.
    pub others: u64,
}

/// What others who share this state changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum News {
    /// This session was ended.
    SessionEnded(SessionId),
    /// It was exchanged, its standing changed, or its newest generation was presented for the first time.
    SessionChanged(SessionId),
    /// This account was changed or deleted.
    User(UserId),
    /// This API token was ended.
    ApiTokenEnded(ApiTokenId),
    /// A signing key was added or retired.
    SigningKeys,
    /// Some may have been missed: everything that is remembered has to be looked at again.
    Everything,
}

/// Tells what other processes change, each change at least once, in no particular order. What this process changes may
/// be told as well.
#[async_trait]
pub trait Follow: Debug + Send {
    /// Waits for news. An empty answer, which comes about once a second when there are none: the store was asked and
    /// answered. An error: it does not answer; ask again. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Vec<News>, Error>;
}

/// Where nullpass keeps its state. Every method may be called from any thread; each write is durable when it returns
/// unless its text says otherwise.
#[async_trait]
pub trait Store: AuditLog {
    /// Adds an account. [`Error::Conflict`]: the address, or the identifier, is taken. [`Error::Retired`]: an account with this address was
    /// deleted and `allow_retired` is false. [`Error::OldKey`]: the data key is wrapped by a storage key that was replaced.
    async fn insert_user(&self, user: &User, allow_retired: bool) -> Result<(), Error>;

    /// Replaces an account whose stored revision is `user.revision`, and returns it with the next revision.
    /// [`Error::Stale`]: somebody else wrote meanwhile, or the account is gone. [`Error::Conflict`]: the new address is
    /// taken.
    async fn replace_user(&self, user: &User) -> Result<User, Error>;

    /// The same, and ends all of its sessions with it, which are returned: all or nothing, so that nobody stays signed in
    /// with a password that is no longer one.
    async fn replace_user_and_end_sessions(&self, user: &User) -> Result<(User, Vec<SessionId>), Error>;

    /// Deletes an account with its sessions, API tokens, spent steps and index, and remembers that its address was in
    /// use (as a digest). Returns the ended sessions; `None`: there was no such account.
    async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<Option<Vec<SessionId>>, Error>;

    /// An account.
    async fn user(&self, id: UserId) -> Result<Option<User>, Error>;

    /// The account with this address.
    async fn user_by_email(&self, email: &Email) -> Result<Option<User>, Error>;

    /// Accounts in the order of making.
    async fn users(&self, query: &UserQuery) -> Result<Vec<User>, Error>;

    /// Calls `each` for every account, in batches of the store's choosing, until it breaks; for the table of live
    /// sessions at start.
    async fn scan_users(&self, each: &mut (dyn FnMut(User) -> ControlFlow<()> + Send)) -> Result<(), Error>;

    /// Adds a session; when its owner then has more than `max_per_user`, the oldest go. Returns those.
    /// The new one always stays. [`Error::Stale`]: there is no such account (it was deleted meanwhile).
    /// [`Error::Conflict`]: the identifier is taken.
    async fn insert_session(&self, session: &Session, max_per_user: Option<u32>) -> Result<Vec<SessionId>, Error>;

    /// A session.
    async fn session(&self, id: SessionId) -> Result<Option<Session>, Error>;

    /// A session and its account in one look, for a token that this process has not seen.
    async fn session_with_user(&self, id: SessionId) -> Result<Option<(Session, User)>, Error>;

    /// A person's sessions, oldest first.
    async fn sessions_of(&self, user: UserId) -> Result<Vec<Session>, Error>;

    /// Calls `each` for every stored session, in batches of the store's choosing, until it breaks; for the table of
    /// live sessions at start and for listings.
    async fn scan_sessions(&self, each: &mut (dyn FnMut(Session) -> ControlFlow<()> + Send)) -> Result<(), Error>;

    /// Exchanges a generation. `next` is the token to remember, its generation is overwritten by the one that the
    /// session then has. `presented` equal to the current one: the session moves on ([`Rotation::Rotated`]).
    /// One less, and the successor was never seen or not more than `grace` before `now`: [`Rotation::Grace`].
    /// Anything else: [`Rotation::Reused`], and nothing is changed.
    async fn rotate_session(
        &self,
        id: SessionId,
        presented: Generation,
        next: KnownToken,
        grace: std::time::Duration,
        now: Timestamp,
    ) -> Result<Rotation, Error>;

    /// Writes down that a second factor was set up in a session. False: there is no such session.
    async fn set_standing(&self, id: SessionId, amr: Amr, fitness: Fitness) -> Result<bool, Error>;

    /// Writes what the hot path learned: the later of both `last_seen_at`, the earlier of both `successor_seen_at`, and
    /// a renewed token unless its generation is no longer the session's. Sessions that are gone are passed over. Need
    /// not be durable at once.
    async fn touch_sessions(&self, touches: &[SessionTouch]) -> Result<(), Error>;

    /// Ends sessions and returns which there were.
    async fn delete_sessions(&self, which: SessionSelector) -> Result<Vec<SessionId>, Error>;

    /// Adds an API token. [`Error::Stale`]: there is no such account. [`Error::Conflict`]: the identifier is taken.
    async fn insert_api_token(&self, token: &ApiToken) -> Result<(), Error>;

    /// The API token with this digest, and its account.
    async fn api_token_with_user(&self, digest: &Digest) -> Result<Option<(ApiToken, User)>, Error>;

    /// A person's API tokens, oldest first.
    async fn api_tokens_of(&self, user: UserId) -> Result<Vec<ApiToken>, Error>;

    /// Calls `each` for every stored API token until it breaks.
    async fn scan_api_tokens(&self, each: &mut (dyn FnMut(ApiToken) -> ControlFlow<()> + Send)) -> Result<(), Error>;

    /// Ends an API token; false: there is none of this id with this owner.
    async fn delete_api_token(&self, user: UserId, id: ApiTokenId) -> Result<bool, Error>;

    /// Writes when tokens were last used, unless a later time is there. Need not be durable at once.
    async fn touch_api_tokens(&self, used: &[(ApiTokenId, Timestamp)]) -> Result<(), Error>;

    /// Spends a TOTP step: true exactly once for a step, and never for one that is not later than the last one spent
    /// (RFC 6238, section 5.2). False for an account that is gone.
    async fn spend_totp_step(&self, user: UserId, step: u64) -> Result<bool, Error>;

    /// Spends a one-time thing: true exactly once until `until`, when it may be forgotten.
    async fn spend_once(&self, purpose: Purpose, digest: Digest, until: Timestamp) -> Result<bool, Error>;

    /// Changes a lock atomically and says what was there before and after. The number of locks is bounded: beyond it
    /// stale ones are dropped, then those that anybody could have made (requirements RL-2, RL-3).
    async fn update_lock(&self, key: LockKey, change: LockChange, now: Timestamp) -> Result<LockUpdate, Error>;

    /// A lock as it is.
    async fn lock(&self, key: LockKey) -> Result<Lock, Error>;

    /// Adds a signing key, if there is none of its name. [`Error::OldKey`]: it is wrapped by a storage key that was replaced.
    async fn insert_signing_key(&self, key: &SigningKeyRecord) -> Result<(), Error>;

    /// Marks signing keys as replaced since `at`, where they are not yet.
    async fn retire_signing_keys(&self, kids: &[Kid], at: Timestamp) -> Result<(), Error>;

    /// Adds signing keys, and marks all others of their algorithms as replaced since `at`, where they are not yet: both or
    /// nothing. [`Error::OldKey`]: one is wrapped by a storage key that was replaced.
    async fn rotate_signing_keys(&self, new: &[SigningKeyRecord], at: Timestamp) -> Result<(), Error>;

    /// Removes signing keys, where they are marked as replaced. Returns how many.
    async fn remove_signing_keys(&self, kids: &[Kid]) -> Result<u64, Error>;

    /// All signing keys, oldest first.
    async fn signing_keys(&self) -> Result<Vec<SigningKeyRecord>, Error>;

    /// A small named value that belongs to the installation.
    async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;

    /// Sets such a value if it still is `expected` (`None`: absent), to `new` (`None`: removed). False: it was not.
    /// [`Error::OldKey`]: it is one of [`WRAPPED_VALUES`], and wrapped by a storage key that was replaced.
    async fn swap_meta(&self, name: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, Error>;

    /// Wraps anew what is still wrapped as it was; an account's revision moves on with it. Returns how many. All or nothing.
    async fn rewrap(&self, these: &[Rewrap]) -> Result<u64, Error>;

    /// Lets the other processes know which storage keys this one has, by their check values, in place of those it said
    /// before: for as long as it follows them, within about a second.
    fn hold_keys(&self, _checks: &[Digest]) {}

    /// How many processes follow the store and have not said that they hold this key.
    async fn others_without_key(&self, _check: &Digest) -> Result<u64, Error> {
        Ok(0)
    }

    /// Adds an event to the audit log, at a chain's end, which never replaces one. [`Error::Conflict`]: it is there already.
    async fn append_audit(&self, event: &AuditEvent) -> Result<(), Error>;

    /// Events, newest first by their time, then by their identifier.
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEvent>, Error>;

    /// Removes what has run out: sessions past `expires_at`, API tokens past theirs, stale locks, spent things past
    /// `until`, audit events before `audit_before`: of a chain its oldest ones, as far as they are, and its base moves on. Something is
    /// past its end from that very moment on. Returns the sessions and tokens that went.
    async fn purge(&self, now: Timestamp, audit_before: Option<Timestamp>) -> Result<Purged, Error>;

    /// What other processes change from now on; `None`: nobody else can. What was changed before this returns and read
    /// after it is not told.
    async fn follow(&self) -> Result<Option<Box<dyn Follow>>, Error>;

    /// Whether the store answers and writes.
    async fn ping(&self) -> Result<(), Error>;

    /// Bytes on disk, for a metric.
    async fn size_on_disk(&self) -> Result<u64, Error>;

    /// Makes everything durable; called last.
    async fn flush(&self) -> Result<(), Error>;

    /// How it does, where it is somewhere else.
    fn vitals(&self) -> Option<Vitals> {
        None
    }
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A unique value is taken, usually an address.
    #[error("already taken")]
    Conflict,
    /// The address belonged to an account that was deleted.
    #[error("the address belonged to a deleted account")]
    Retired,
    /// The record was changed or removed since it was read.
    #[error("changed meanwhile")]
    Stale,
    /// What was to be written is wrapped by a storage key that was replaced: wrap it with the new one.
    #[error("the storage key was replaced meanwhile")]
    OldKey,
    /// The audit events that belong to a write could not be written, and so nothing was.
    #[error("the audit log could not be written: {0}")]
    Unrecorded(#[source] Box<Self>),
    /// A record is larger than the store keeps.
    #[error("record too large ({0} bytes)")]
    TooLarge(usize),
    /// Another process uses the data folder.
    #[error("another nullpass uses {0}")]
    InUse(std::path::PathBuf),
    /// The state was written by a newer release.
    #[error("the state has schema version {found}, this release knows up to {known}: use the release that wrote it, or a newer one")]
    Newer {
        /// The version found.
        found: u32,
        /// The newest this release reads.
        known: u32,
    },
    /// A migration into this store was begun and broken off.
    #[error(
        "a migration from {from} into this store was begun and not finished: nothing can be done with it before the same \
         `nullpass migrate` is repeated and has come to its end"
    )]
    HalfImported {
        /// Where the state came from.
        from: String,
    },
    /// What is stored can't be read.
    #[error("damaged record: {0}")]
    Corrupt(String),
    /// The database does not let us in: no such database, a wrong password, an address that it does not take.
    #[error("the database refuses us: {0}")]
    Refused(String),
    /// The role may not do what the store has to.
    #[error("the role of the database lacks a right: {0}")]
    Rights(String),
    /// The database is not the one that it should be, or speaks no TLS though it is asked for, or a certificate's file
    /// can't be used.
    #[error("TLS with the database: {0}")]
    Tls(String),
    /// The schema holds somebody else's tables.
    #[error("the schema {schema:?} is another program's ({why}): name one of our own with storage.schema")]
    Foreign {
        /// The schema.
        schema: String,
        /// What was found.
        why: String,
    },
    /// The server is of a version that lacks what we need.
    #[error("the server is version {found}; it must be {needed} or newer")]
    Outdated {
        /// What it says it is.
        found: String,
        /// The oldest major version that will do.
        needed: u32,
    },
    /// The disk or the database does not answer.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
}
