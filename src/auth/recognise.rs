//! Recognising tokens: what one is worth now, whose it is, and why it is not taken.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Auth;
use super::live::{Entry, Question, Seen};
use crate::clock::Timestamp;
use crate::crypto::token::{Invalid, SessionClaims};
use crate::crypto::{api_token, digest};
use crate::model::{Identity, KnownToken};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// What a presented token is worth.
#[derive(Debug)]
pub enum Recognised {
    /// It is good: who, and through what.
    Good(Arc<Identity>, Arc<Entry>),
    /// It is none, or no longer good.
    No,
    /// The store does not answer, so that it can't be known.
    StoreAway,
}

/// Why a session that began a moment ago is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is: nothing speaks against it.
    None,
    /// It was signed in what is the future here.
    Clock,
    /// It is not known, or over.
    Unknown,
    /// It is tied to another address.
    Address,
}

/// How long after it was signed a token is one of a session that began a moment ago.
const A_MOMENT: Duration = Duration::from_secs(60);

impl Auth {
    /// Why a token that we signed within the last minute is not taken from `client`; `None`: it is older, or not ours.
    pub fn why_refused(&self, token: &str, client: IpAddr, now: Timestamp) -> Option<Refusal> {
        let claims = match self.keyring.load().verify_session(token, now) {
            Ok(claims) => claims,
            Err(Invalid::Early) => return Some(Refusal::Clock),
            Err(Invalid::Malformed | Invalid::Header | Invalid::UnknownKey | Invalid::Signature | Invalid::Claims | Invalid::Expired) => {
                return None;
            }
        };
        if now.since(Timestamp::from_secs(claims.iat)) > A_MOMENT {
            return None;
        }
        Some(match self.live.session(claims.sid) {
            None => Refusal::Unknown,
            Some(session) if !self.live.is_bound_to(&session, client) => Refusal::Address,
            Some(session) if session.is_over(now) => Refusal::Unknown,
            Some(_) => Refusal::None,
        })
    }

    /// What a token is worth now, for a request from `client`. Waits for nobody: a known token costs one look-up, an
    /// unknown one a verification and a look-up in memory. An error: only the store can tell, see [`Auth::recognise`].
    pub fn recognise_known(self: &Arc<Self>, token: &str, client: IpAddr, now: Timestamp) -> Result<Recognised, Question> {
        let Some(entry) = self.find(token, now)? else {
            return Ok(Recognised::No);
        };
        match self.live.look(&entry, client, now) {
            Seen::Good(identity) => Ok(Recognised::Good(identity, entry)),
            Seen::Over | Seen::Elsewhere => Ok(Recognised::No),
            Seen::StoreAway => Ok(Recognised::StoreAway),
            Seen::Ask(question) => Err(question),
            Seen::Reused => {
                if let Entry::Session { session, .. } = &*entry {
                    self.end_stolen(session, now);
                }
                Ok(Recognised::No)
            }
        }
    }

    /// Where a token leads to in the table; an error: only the store can tell.
    pub(super) fn find(&self, token: &str, now: Timestamp) -> Result<Option<Arc<Entry>>, Question> {
        if token.len() > MAX_TOKEN_BYTES {
            return Ok(None);
        }
        let digest = digest::sha256(token.as_bytes());
        if let Some(entry) = self.live.find(&digest) {
            return Ok(Some(entry));
        }
        let shared = self.live.is_shared();
        if api_token::looks_like(token) {
            // The checksum keeps what was never issued from the store.
            let question = Question::ApiToken(digest);
            let ask = shared && api_token::is_well_formed(token) && !self.live.is_absent(question);
            return if ask { Err(question) } else { Ok(None) };
        }
        // Nobody knows the digest: a token that was renewed or refreshed long ago, or a forged one. The signature
        // decides, and then the session in memory; the store is asked only where others write to it as well.
        let claims = match self.keyring.load().verify_session(token, now) {
            Ok(claims) => claims,
            // A new key of another process. That the token says to be ours was found out without believing it.
            Err(Invalid::UnknownKey) if shared && self.is_ours(token) => return Err(Question::SigningKeys),
            Err(_) => return Ok(None),
        };
        let Some(session) = self.live.session(claims.sid) else {
            let question = Question::Session(claims.sid);
            return if shared && !self.live.is_absent(question) { Err(question) } else { Ok(None) };
        };
        if session.user() != claims.sub {
            return Ok(None);
        }
        let token = KnownToken { digest, generation: claims.generation, expires_at: Timestamp::from_secs(claims.exp) };
        Ok(Some(self.live.remember(&session, token)))
    }

    /// The claims of a session token whose signature is ours, whatever became of its session.
    pub fn claims(&self, token: &str, now: Timestamp) -> Option<SessionClaims> {
        self.keyring.load().verify_session(token, now).ok()
    }

    /// Whether a credential names our keys or issuer, and so must never be forwarded.
    pub fn is_ours(&self, token: &str) -> bool {
        api_token::looks_like(token) || self.keyring.load().is_ours(token)
    }
}
