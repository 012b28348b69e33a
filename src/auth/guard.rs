//! What guessing costs: buckets by client address, and back-off by account, by address and by their pair.
//!
//! Every attempt is counted for its account before it is checked, so that a thousand attempts at once are not one. A
//! device that the owner has signed in from has a counter of its own: others can't lock its owner out.

use std::time::Duration;

use super::{Auth, Client, Counters, Error};
use crate::clock::Timestamp;
use crate::crypto::digest;
use crate::crypto::password::{Asker, Place};
use crate::limit::{self, Verdict};
use crate::model::{Digest, Email, LockChange, LockKey, User, UserId};

/// An attempt that is being checked. The account's own counters have it as a failure already, so that a thousand at
/// once are not one; the address's gets it only when it fails, so that people who share an address and are all right
/// don't hold each other up.
#[derive(Debug)]
#[must_use = "say what came of it"]
pub(super) struct Attempt {
    counted: Vec<LockKey>,
    address: Option<LockKey>,
}

impl Auth {
    /// Counts an attempt with a password, a code or a recovery code from `client` against `limits.auth_per_ip`. Also
    /// behind a proxy that nobody declared: otherwise a forged `X-Forwarded-For` would lift the limit.
    pub(super) fn count_attempt(&self, client: &Client, now: Timestamp) -> Result<(), Error> {
        self.require_store()?;
        let current = self.current.load();
        let Some(limiter) = &current.attempts else { return Ok(()) };
        self.refuse_over_limit(limiter.take(client.ip, now))
    }

    /// Counts a registration from `client` against `limits.register_per_ip`.
    pub(super) fn count_registration(&self, client: &Client, now: Timestamp) -> Result<(), Error> {
        self.require_store()?;
        let current = self.current.load();
        let Some(limiter) = &current.registrations else { return Ok(()) };
        self.refuse_over_limit(limiter.take(client.ip, now))
    }

    fn refuse_over_limit(&self, verdict: Verdict) -> Result<(), Error> {
        match verdict {
            Verdict::Allowed { .. } => Ok(()),
            Verdict::Refused { retry_after, quota } => {
                Counters::add(&self.counters.logins_limited);
                Err(Error::TooManyAttempts { retry_after, quota: Some(quota) })
            }
        }
    }

    /// Counts an attempt with a password for an account, which need not exist. The place in the hasher's queue comes first:
    /// what can't be checked anyway costs the store nothing, and counts for nothing.
    pub(super) async fn attempt_password(
        &self,
        email: &Email,
        known: Option<&User>,
        asker: Asker,
        client: &Client,
        now: Timestamp,
    ) -> Result<(Place<'_>, Attempt), Error> {
        let account = account_digest(email);
        let device = known.and_then(|user| self.device_of(user.id, client));
        let asker = if device.is_some() { Asker::Known } else { asker };
        let place = self.hasher.place(asker).inspect_err(|_| Counters::add(&self.counters.hashes_refused))?;
        let network = limit::network(client.ip);
        let (counted, address) = match device {
            Some(device) => (vec![LockKey::Device(device)], None),
            None if client.attributable => {
                (vec![LockKey::Account(account), LockKey::Pair(account, network)], Some(LockKey::Address(network)))
            }
            None => (vec![LockKey::Account(account)], None),
        };
        Ok((place, self.attempt(counted, address, now).await?))
    }

    /// Refuses a sign-in that could have no place anyway, before the store is asked for its account: in a flood, nearly all are
    /// such. A device's cookie may be worth one of the owner's places; whether it is, only the account can tell.
    pub(super) fn expect_place(&self, client: &Client) -> Result<(), Error> {
        if client.device.is_none() {
            self.hasher.expect_place().inspect_err(|_| Counters::add(&self.counters.hashes_refused))?;
        }
        Ok(())
    }

    /// Counts an attempt with a code for an account. The counter belongs to the account and outlives the flow, a
    /// restart and a right password (requirement RL-2).
    pub(super) async fn attempt_code(&self, user: UserId, now: Timestamp) -> Result<Attempt, Error> {
        self.attempt(vec![LockKey::SecondFactor(user)], None, now).await
    }

    async fn attempt(&self, keys: Vec<LockKey>, address: Option<LockKey>, now: Timestamp) -> Result<Attempt, Error> {
        let policy = self.settings().limits.account_backoff;
        if let Some(key) = address
            && let Some(retry_after) = self.store.lock(key).await?.remaining(now)
        {
            return Err(self.refused(retry_after));
        }
        let mut attempt = Attempt { counted: Vec::with_capacity(keys.len()), address };
        for key in keys {
            let update = self.store.update_lock(key, LockChange::Fail(policy), now).await?;
            if let Some(retry_after) = update.before.remaining(now) {
                // The attempt is not made, so it does not count for the other keys either.
                self.take_back(attempt, now).await?;
                return Err(self.refused(retry_after));
            }
            attempt.counted.push(key);
        }
        Ok(attempt)
    }

    fn refused(&self, retry_after: Duration) -> Error {
        Counters::add(&self.counters.logins_limited);
        Error::TooManyAttempts { retry_after, quota: None }
    }

    /// The attempt was right: the account's failures are forgotten. The address's are not, or an attacker's own account
    /// would wash them away.
    pub(super) async fn succeed(&self, attempt: Attempt, now: Timestamp) -> Result<(), Error> {
        for key in attempt.counted {
            self.store.update_lock(key, LockChange::Clear, now).await?;
        }
        Ok(())
    }

    /// The attempt was wrong.
    pub(super) async fn fail(&self, attempt: Attempt, now: Timestamp) -> Result<(), Error> {
        if let Some(key) = attempt.address {
            self.store.update_lock(key, LockChange::Fail(self.settings().limits.account_backoff), now).await?;
        }
        Ok(())
    }

    /// The attempt could not be checked, so it counts for nothing.
    pub(super) async fn take_back(&self, attempt: Attempt, now: Timestamp) -> Result<(), Error> {
        for key in attempt.counted {
            self.store.update_lock(key, LockChange::TakeBack, now).await?;
        }
        Ok(())
    }

    /// Lifts every back-off of an account, but not of addresses.
    pub(super) async fn clear_locks(&self, user: &User, now: Timestamp) -> Result<(), Error> {
        for key in [LockKey::Account(account_digest(&user.email)), LockKey::SecondFactor(user.id)] {
            self.store.update_lock(key, LockChange::Clear, now).await?;
        }
        Ok(())
    }

    /// A new value for the device cookie of a browser that `user` has signed in with.
    pub(super) fn new_device(&self, user: UserId) -> String {
        let id = hex(&crate::crypto::random::bytes::<16>());
        let mac = self.device_mac(user, &id);
        format!("{id}.{}.{user}", hex(mac.as_bytes()))
    }

    /// Who signed in last with the browser that shows this device cookie. Nobody is let in by this.
    pub fn owner_of_device(&self, device: &str) -> Option<UserId> {
        let user = device.split('.').nth(2)?.parse().ok()?;
        self.device_named(user, device).map(|_| user)
    }

    /// The device's name, when the client shows a cookie that was made for this user.
    fn device_of(&self, user: UserId, client: &Client) -> Option<Digest> {
        self.device_named(user, client.device.as_deref()?)
    }

    fn device_named(&self, user: UserId, device: &str) -> Option<Digest> {
        let mut parts = device.split('.');
        let (id, mac) = (parts.next()?, parts.next()?);
        let expected = self.device_mac(user, id);
        digest::same(hex(expected.as_bytes()).as_bytes(), mac.as_bytes()).then_some(expected)
    }

    fn device_mac(&self, user: UserId, id: &str) -> Digest {
        self.storage_key.hmac("device", format!("{user}.{id}").as_bytes())
    }
}

/// How an account is named in locks: by the digest of its canonical address (requirement RL-1).
pub(super) fn account_digest(email: &Email) -> Digest {
    digest::sha256(email.as_str().as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
