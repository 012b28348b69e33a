//! Another storage key in place of the present one, while everybody goes on: first the state says which key wraps from now
//! on, and refuses what is wrapped with the one before; then everything is wrapped anew, in small steps that can be broken
//! off and repeated in any number; and only when nothing is left that the old key has wrapped is it let go.
//!
//! What there is to wrap anew is said in one place, `store::Wrapped`.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::Instant;

use super::audit::Event;
use super::keys::owner;
use super::vault::Keys;
use super::{Auth, Client, Error};
use crate::clock::Timestamp;
use crate::crypto::seal::{HeldKeys, Purpose};
use crate::model::{Action, Digest, Sealed, UserId};
use crate::store::{self, Rewrap, STORAGE_KEYS, UserQuery, WRAPPED_VALUES, Wrapped};

/// Accounts in one step: they are one transaction.
const BATCH: usize = 250;

/// How long other processes have to say that they hold the new key: whoever was given it says so within about a second.
const OTHERS_HAVE: Duration = Duration::from_secs(5);

/// The storage key, without the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StorageKeyView {
    /// What stands in front of what it wraps.
    pub version: u8,
    /// By which two keys can be told apart; says nothing about the key.
    pub fingerprint: String,
    /// When it began to wrap; `None` for an installation's first.
    pub since: Option<Timestamp>,
    /// While it replaces another one: how much is not wrapped with it yet.
    pub left: Option<u64>,
    /// Whether there is a key that a rotation would go to, or this process would make one.
    pub has_next: bool,
}

/// How far a rotation came in one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrapped {
    /// How much was looked at in this step.
    pub seen: u64,
    /// Where to go on; `None`: from the beginning.
    pub next: Option<UserId>,
    /// Nothing is wrapped with the old key any more, and it is not needed any more.
    pub finished: bool,
}

impl Auth {
    /// Takes other master keys than those before. [`Error::Keys`]: they do not fit the state, and nothing has changed.
    pub async fn take_keys(&self, held: HeldKeys) -> Result<(), Error> {
        let checks = held.checks();
        if self.storage_key.keys().held.checks() == checks {
            return Ok(());
        }
        self.storage_key.take(&*self.store, held).await?;
        self.store.hold_keys(&checks);
        Ok(())
    }

    /// The storage key, as the state says it now.
    pub async fn storage_key(&self) -> Result<StorageKeyView, Error> {
        let keys = self.storage_key.read_again(&*self.store).await?;
        let current = keys.known.current;
        let left = match keys.known.before {
            Some(_) => Some(self.left(current.version).await?),
            None => None,
        };
        let has_next = left.is_none() && (keys.held.makes_its_own() || keys.held.next(&current.check).is_some());
        let fingerprint = store::transfer::hex(current.check.as_bytes().get(..8).unwrap_or_default());
        Ok(StorageKeyView { version: current.version, fingerprint, since: current.since, left, has_next })
    }

    /// Begins a rotation to the new master key that this process was given, or to one that it makes, or goes on with one
    /// that was broken off. Returns how much there is to go through. [`Error::Keys`]: there is no new key, or others have
    /// not got it yet; nothing has changed.
    pub async fn begin_storage_rotation(&self, actor: &str, now: Timestamp) -> Result<u64, Error> {
        let _one = self.rotating.lock().await;
        let keys = self.storage_key.read_again(&*self.store).await?;
        if keys.known.before.is_none() {
            self.replace_key(&keys, actor, now).await?;
        }
        self.count().await
    }

    async fn replace_key(&self, keys: &Keys, actor: &str, now: Timestamp) -> Result<(), Error> {
        let current = keys.known.current.check;
        let held = keys.held.clone();
        let held = self.tasks.spawn_blocking(move || held.with_next(&current)).await;
        let held = held.map_err(|error| Error::Internal(error.to_string()))??;
        self.take_keys(held.clone()).await?;
        let Some(next) = held.next(&current) else {
            let text = "there is no new master key to rotate to: give it as storage.master_key (or master_key_file) and the present \
                        one as storage.previous_master_key, let every process that shares the state take both (reload or restart), \
                        and repeat this";
            return Err(Error::Keys(text.to_owned()));
        };
        self.require_others_have(&next).await?;
        let begun = keys.known.begin(next, now);
        let event = Event::done(Action::StorageKeyRotate).by(actor).with("step", "begun").with("version", begun.current.version);
        let recording = self.recording(&[event], None, &Client::local(), now)?;
        let (old, new) = (keys.known.encode()?, begun.encode()?);
        let is_ours = recording.run(|store| store.swap_meta(STORAGE_KEYS, Some(&old), Some(&new))).await?;
        let known = &self.storage_key.read_again(&*self.store).await?.known;
        if !is_ours {
            // Another process has begun the same in this moment, and may even have come to its end.
            return if known.current.check == next { Ok(()) } else { Err(Error::Conflict) };
        }
        tracing::info!(version = begun.current.version, "the storage key is being rotated: the new one wraps from now on");
        Ok(())
    }

    /// A process without the new key could read nothing of what is wrapped from now on.
    async fn require_others_have(&self, key: &Digest) -> Result<(), Error> {
        let deadline = Instant::now() + OTHERS_HAVE;
        loop {
            let without = self.store.others_without_key(key).await?;
            if without == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::Keys(format!(
                    "running processes that share the state and do not have the new master key: {without}. Give all of them both keys \
                     (storage.master_key and storage.previous_master_key), reload or restart them, and repeat this; nothing was changed"
                )));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Wraps some of what the old key has wrapped with the new one: after `after`, or from the beginning. Each step is
    /// durable when it returns, doing it twice is doing it once, and any number of processes may do it at a time.
    pub async fn rewrap_some(&self, after: Option<UserId>, actor: &str, now: Timestamp) -> Result<Rewrapped, Error> {
        let keys = self.storage_key.read_again(&*self.store).await?;
        if keys.known.before.is_none() {
            return Ok(Rewrapped { seen: 0, next: None, finished: true });
        }
        let mut seen = 0;
        let mut orders = Vec::new();
        if after.is_none() {
            let few = self.installation_wraps().await?;
            seen += few.len() as u64;
            for (what, owner, sealed) in few {
                orders.extend(order(&keys, what, &owner, sealed)?);
            }
        }
        let users = self.store.users(&UserQuery { after, limit: BATCH, ..UserQuery::default() }).await?;
        seen += users.len() as u64;
        let next = if users.len() < BATCH { None } else { users.last().map(|user| user.id) };
        for user in users {
            orders.extend(order(&keys, Wrapped::DataKey(user.id), user.id.as_bytes(), user.data_key)?);
        }
        if !orders.is_empty() {
            self.store.rewrap(&orders).await?;
        }
        if next.is_some() {
            return Ok(Rewrapped { seen, next, finished: false });
        }
        // What others changed between its reading and its writing is left for another round.
        let finished = self.left(keys.known.current.version).await? == 0;
        if finished {
            self.finish(&keys, actor, now).await?;
        }
        Ok(Rewrapped { seen, next, finished })
    }

    /// What is wrapped and belongs to nobody, with whose it is said to be.
    async fn installation_wraps(&self) -> Result<Vec<(Wrapped, Vec<u8>, Sealed)>, Error> {
        let mut wraps = Vec::new();
        for name in WRAPPED_VALUES.iter().copied() {
            if let Some(value) = self.store.meta(name).await? {
                wraps.push((Wrapped::Value(name), name.as_bytes().to_vec(), Sealed(value)));
            }
        }
        for key in self.store.signing_keys().await? {
            let owner = owner(&key.kid, key.algorithm);
            wraps.push((Wrapped::SigningKey(key.kid), owner, key.private));
        }
        Ok(wraps)
    }

    /// How much is not wrapped with the key of this version.
    async fn left(&self, version: u8) -> Result<u64, Error> {
        let is_old = |sealed: &Sealed| sealed.0.first() != Some(&version);
        let few = self.installation_wraps().await?;
        let mut left = few.iter().filter(|(_, _, sealed)| is_old(sealed)).count() as u64;
        let mut each = |user: crate::model::User| {
            left += u64::from(is_old(&user.data_key));
            ControlFlow::Continue(())
        };
        self.store.scan_users(&mut each).await?;
        Ok(left)
    }

    /// How much is wrapped.
    async fn count(&self) -> Result<u64, Error> {
        let mut count = self.installation_wraps().await?.len() as u64;
        let mut each = |_| {
            count += 1;
            ControlFlow::Continue(())
        };
        self.store.scan_users(&mut each).await?;
        Ok(count)
    }

    /// Nothing needs the old key any more. Nothing can come to need it either: the state refuses what it wraps.
    async fn finish(&self, keys: &Keys, actor: &str, now: Timestamp) -> Result<(), Error> {
        let _one = self.rotating.lock().await;
        // Durable, all of it, before the old key may go.
        self.store.flush().await?;
        let event = Event::done(Action::StorageKeyRotate).by(actor).with("step", "finished").with("version", keys.known.current.version);
        let recording = self.recording(&[event], None, &Client::local(), now)?;
        let (old, new) = (keys.known.encode()?, keys.known.finish().encode()?);
        let _others_did = recording.run(|store| store.swap_meta(STORAGE_KEYS, Some(&old), Some(&new))).await?;
        let keys = self.storage_key.read_again(&*self.store).await?;
        if keys.known.before.is_none() {
            self.settle_keys().await?;
            let version = keys.known.current.version;
            tracing::info!(version, "the storage key was rotated: nothing is wrapped with the old one any more");
        }
        Ok(())
    }

    /// Lets the key file of a finished rotation take the place of the old one, where we make our own.
    pub(super) async fn settle_keys(&self) -> Result<(), Error> {
        let keys = self.storage_key.keys();
        if keys.known.before.is_some() || !keys.held.makes_its_own() {
            return Ok(());
        }
        let (held, current) = (keys.held.clone(), keys.known.current.check);
        let settled = self.tasks.spawn_blocking(move || held.settle(&current)).await;
        self.take_keys(settled.map_err(|error| Error::Internal(error.to_string()))??).await
    }

    /// Says at the start what should not stay as it is.
    pub(super) fn mention_rotation(&self) {
        let keys = self.storage_key.keys();
        if keys.known.before.is_some() {
            tracing::warn!("a rotation of the storage key was begun and not finished: `nullpass key rotate --storage` goes on with it");
        } else if !keys.held.makes_its_own() && keys.held.next(&keys.known.current.check).is_some() {
            tracing::warn!("storage.master_key wraps nothing yet: `nullpass key rotate --storage` lets it replace the previous one");
        }
    }
}

/// The order to wrap something anew; none where it is.
fn order(keys: &Keys, what: Wrapped, owner: &[u8], from: Sealed) -> Result<Option<Rewrap>, Error> {
    let purpose = match &what {
        Wrapped::Value(_) => Purpose::Value,
        Wrapped::SigningKey(_) => Purpose::SigningKey,
        Wrapped::DataKey(_) => Purpose::DataKey,
    };
    match keys.ring.rewrap(purpose, owner, &from) {
        Ok(anew) => Ok(anew.map(|to| Rewrap { what, from, to })),
        Err(error) => Err(Error::Keys(format!("{what:?} can't be wrapped anew ({error}): the old master key is still needed"))),
    }
}
