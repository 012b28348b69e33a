//! Basic authentication (RFC 7617) for clients that can do nothing else: `CalDAV`, `WebDAV`, git.
//!
//! The password is an API token, or the password of an account without second factor. Hashing a password for every
//! request would cost twenty milliseconds each, so a right one is hashed once and then known by a digest under a key
//! that lives only in memory and only as long as the process.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::live::{Cached, LiveUser, Looked, Question};
use super::recognise::Recognised;
use super::{Auth, Client, Error};
use crate::clock::Timestamp;
use crate::crypto::{api_token, digest, random};
use crate::model::{Amr, Digest, Email, Fitness, Identity, Secret, UserId};

/// How many right passwords are known at a time.
const CAPACITY: usize = 10_000;

/// The passwords that were right.
#[derive(Debug)]
pub(super) struct Known {
    /// Salts the digests: they mean nothing to another process, or after this one.
    salt: Secret<Vec<u8>>,
    entries: Mutex<HashMap<Digest, Arc<BasicEntry>>>,
}

impl Default for Known {
    fn default() -> Self {
        Self { salt: Secret::new(random::bytes::<32>().to_vec()), entries: Mutex::default() }
    }
}

/// A password that was right.
#[derive(Debug)]
struct BasicEntry {
    owner: Arc<LiveUser>,
    user: UserId,
    password_changed_at: Timestamp,
    proven_at: Timestamp,
    identity: Cached,
}

impl BasicEntry {
    /// The identity, while the account is as it was: enabled, with this password and without second factor.
    fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.get(&self.owner, |user| {
            let unchanged = user.password_changed_at == self.password_changed_at && !user.is_disabled() && !user.has_second_factor();
            unchanged.then(|| Identity::of(user, None, Amr::PASSWORD, self.proven_at, Fitness::Full))
        })
    }
}

impl Known {
    fn digest(&self, email: &Email, password: &str) -> Digest {
        let mut bytes = Vec::with_capacity(34 + email.as_str().len() + password.len());
        bytes.extend_from_slice(self.salt.expose());
        bytes.extend_from_slice(email.as_str().as_bytes());
        // An address never holds a NUL, so two pairs never make the same bytes.
        bytes.push(0);
        bytes.extend_from_slice(password.as_bytes());
        let digest = digest::sha256(&bytes);
        zeroize::Zeroize::zeroize(&mut bytes);
        digest
    }

    fn find(&self, digest: &Digest) -> Option<Arc<BasicEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(digest).map(Arc::clone)
    }

    fn insert(&self, digest: Digest, entry: Arc<BasicEntry>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= CAPACITY {
            entries.clear();
        }
        entries.insert(digest, entry);
    }

    /// Forgets a person's passwords: the next request hashes again.
    pub(super) fn forget(&self, user: UserId) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, entry| entry.user != user);
    }
}

/// What Basic credentials are worth.
#[derive(Debug)]
pub enum BasicOutcome {
    /// As a token would be.
    Token(Recognised),
    /// A right password.
    Password(Arc<Identity>),
}

impl Auth {
    /// Checks Basic credentials. A known password costs a digest and a look-up; an unknown one is hashed, counted and
    /// backed off like a sign-in.
    pub async fn recognise_basic(
        self: &Arc<Self>,
        user: &str,
        password: &Secret<String>,
        ip: IpAddr,
        client: impl FnOnce() -> Client,
        now: Timestamp,
    ) -> Result<BasicOutcome, Error> {
        if api_token::looks_like(password.expose()) {
            let recognised = self.recognise(password.expose(), ip, now).await;
            // Whose name stands beside the token must be whose token it is: an application that looks at the name
            // would otherwise see somebody else than it is told.
            return match &recognised {
                Recognised::Good(identity, _) if Email::parse(user).is_ok_and(|email| email == identity.email) => {
                    Ok(BasicOutcome::Token(recognised))
                }
                Recognised::Good(..) | Recognised::No => Ok(BasicOutcome::Token(Recognised::No)),
                Recognised::StoreAway => Ok(BasicOutcome::Token(recognised)),
            };
        }
        let email = Email::parse(user).map_err(|_| Error::WrongCredentials)?;
        let digest = self.basic.digest(&email, password.expose());
        if let Some(entry) = self.basic.find(&digest)
            && !self.live.is_store_away()
        {
            if !self.live.is_current_user(&entry.owner) && self.look(Question::User(entry.user), now).await == Looked::Away {
                return Ok(BasicOutcome::Token(Recognised::StoreAway));
            }
            if let Some(identity) = entry.identity() {
                return Ok(BasicOutcome::Password(identity));
            }
        }
        let client = client();
        self.count_attempt(&client, now)?;
        let account = self.authenticate(&email, password.clone(), &client, now).await?;
        // A password alone is not enough for an account with a second factor: it needs an API token here.
        if account.has_second_factor() || self.settings().two_factor.always_required {
            return Err(Error::WrongCredentials);
        }
        let owner = self.live.owner(&account);
        // The account may have changed since it was read: what changes from here on is told to its entry.
        match self.store.user(account.id).await? {
            Some(newest) => self.live.update_user(&newest),
            None => self.live.remove_user(account.id),
        }
        let entry = Arc::new(BasicEntry {
            owner,
            user: account.id,
            password_changed_at: account.password_changed_at,
            proven_at: now,
            identity: Cached::default(),
        });
        self.basic.insert(digest, Arc::clone(&entry));
        entry.identity().map(BasicOutcome::Password).ok_or(Error::WrongCredentials)
    }
}
