//! A form that is sent twice. Who clicks twice on a code's form sends it twice, and the browser shows the second answer
//! alone: the first one has spent the code, and its cookie may be lost with its answer. So for a moment the second gets
//! what the first got. The same pending login, the same code and the same browser: it is the same request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Auth, Issued};
use crate::clock::Timestamp;
use crate::crypto::digest;
use crate::model::{Digest, Secret, SessionId, User};

/// How long after the first answer the second is still the same request.
const MOMENT: Duration = Duration::from_secs(15);

/// How many are remembered; beyond it a second click is told that the code is spent.
const MOST: usize = 1024;

/// The pending logins of this moment.
#[derive(Debug, Default)]
pub(super) struct Again(Mutex<HashMap<Digest, (Timestamp, Place)>>);

/// Where what became of a pending login is found. Held while its form is looked at: the second click waits for the first.
pub(super) type Place = Arc<tokio::sync::Mutex<Option<Done>>>;

/// How a pending login ended.
#[derive(Debug)]
pub(super) struct Done {
    at: Timestamp,
    proof: Digest,
    user: User,
    session: SessionId,
    token: Secret<String>,
    expires_at: Timestamp,
    device: String,
}

impl Again {
    /// The place of a pending login; `None`: there are too many.
    pub(super) fn place(&self, pending: Digest, now: Timestamp) -> Option<Place> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, (begun, _)| now.since(*begun) <= MOMENT);
        if places.len() >= MOST && !places.contains_key(&pending) {
            return None;
        }
        let (begun, place) = places.entry(pending).or_insert_with(|| (now, Place::default()));
        *begun = now;
        Some(Arc::clone(place))
    }
}

impl Done {
    pub(super) fn new(issued: &Issued, proof: &str, now: Timestamp) -> Self {
        Self {
            at: now,
            proof: digest::sha256(proof.as_bytes()),
            user: issued.user.clone(),
            session: issued.session,
            token: issued.token.clone(),
            expires_at: issued.expires_at,
            device: issued.device.clone(),
        }
    }
}

impl Auth {
    /// What the first click got, for the second with the same proof, while the session lives.
    pub(super) fn same_again(&self, done: Option<&Done>, proof: &str, now: Timestamp) -> Option<Issued> {
        let done = done.filter(|done| now.since(done.at) <= MOMENT && done.proof == digest::sha256(proof.as_bytes()))?;
        let lives = self.live.session(done.session).is_some_and(|session| !session.is_over(now));
        lives.then(|| Issued {
            user: done.user.clone(),
            session: done.session,
            token: done.token.clone(),
            expires_at: done.expires_at,
            cookie: true,
            device: done.device.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_remembered_and_no_flood() {
        let (again, now) = (Again::default(), Timestamp::from_secs(1_800_000_000));
        let digest = |number: usize| digest::sha256(&number.to_be_bytes());
        let first = again.place(digest(0), now).unwrap();
        assert!(Arc::ptr_eq(&first, &again.place(digest(0), now).unwrap()));
        for number in 1..MOST {
            assert!(again.place(digest(number), now).is_some());
        }
        assert!(again.place(digest(MOST), now).is_none() && again.place(digest(0), now).is_some());
        let later = now.plus(MOMENT + Duration::from_secs(1));
        assert!(again.place(digest(MOST), later).is_some());
        assert!(!Arc::ptr_eq(&first, &again.place(digest(0), later).unwrap()));
    }
}
