//! One sign-in on one device, and the tokens that stand for it.

use serde::{Deserialize, Serialize};

use super::{Digest, Sealed, SessionId, UserId};
use crate::clock::Timestamp;

/// How often a session's token was exchanged for a successor by `refresh`. A token says its generation; only the
/// current one, and for a short while the one before, is honoured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// How the person proved who they are (authentication methods, RFC 8176), as a small set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amr(u8);

impl Amr {
    /// A password (`pwd`).
    pub const PASSWORD: Self = Self(1);
    /// A time-based one-time code (`otp`).
    pub const OTP: Self = Self(2);
    /// A recovery code, counted as a second factor (`rc`; not in RFC 8176).
    pub const RECOVERY: Self = Self(4);
    /// A personal API token (`api`; not in RFC 8176).
    pub const API_TOKEN: Self = Self(8);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether everything in `other` is in this set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a second factor was used.
    pub const fn second_factor(self) -> bool {
        self.has(Self::OTP) || self.has(Self::RECOVERY)
    }

    /// The names that go into a token's `amr` claim; `mfa` is added when there were two factors.
    pub fn names(self) -> Vec<&'static str> {
        let mut names = Vec::with_capacity(4);
        for (method, name) in [(Self::PASSWORD, "pwd"), (Self::OTP, "otp"), (Self::RECOVERY, "rc"), (Self::API_TOKEN, "api")] {
            if self.has(method) {
                names.push(name);
            }
        }
        if self.second_factor() && self.has(Self::PASSWORD) {
            names.push("mfa");
        }
        names
    }
}

/// What a session may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fitness {
    /// Everything.
    #[default]
    Full,
    /// Only to set up the second factor that the person must have and has not.
    EnrolmentOnly,
}

/// The digest of a token that was issued for a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownToken {
    /// SHA-256 of the token's text (requirement NP-8: the token itself is never stored).
    pub digest: Digest,
    /// The generation the token says.
    pub generation: Generation,
    /// The token's own `exp`.
    pub expires_at: Timestamp,
}

/// One sign-in on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Which.
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// When the person signed in.
    pub created_at: Timestamp,
    /// When the person last proved who they are (a token's `auth_time`).
    pub auth_time: Timestamp,
    /// How.
    pub amr: Amr,
    /// What it may be used for.
    #[serde(default)]
    pub fitness: Fitness,
    /// The end that no renewal moves (`sessions.max_lifetime`).
    pub expires_at: Timestamp,
    /// The latest moment it was seen, to about a minute.
    pub last_seen_at: Timestamp,
    /// The generation of the newest token.
    pub generation: Generation,
    /// When the newest generation was first presented; 60 s later the generation before it is void.
    #[serde(default)]
    pub successor_seen_at: Option<Timestamp>,
    /// The tokens that are known by digest, newest last; at most [`Session::MAX_TOKENS`].
    pub tokens: Vec<KnownToken>,
    /// The client's address and user agent as JSON, sealed under the user's data key with the session's id.
    pub client: Sealed,
    /// Whether the token lives in our cookie; then no answer ever carries it (requirement XSS-1).
    pub cookie: bool,
}

impl Session {
    /// How many tokens are known by their digest. An older one that is still good is known by its signature.
    pub const MAX_TOKENS: usize = 4;

    /// Remembers `token`, forgetting the oldest beyond [`Session::MAX_TOKENS`].
    pub fn remember(&mut self, token: KnownToken) {
        if self.tokens.iter().any(|known| known.digest == token.digest) {
            return;
        }
        while self.tokens.len() >= Self::MAX_TOKENS {
            self.tokens.remove(0);
        }
        self.tokens.push(token);
    }
}

/// What came of a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The presented generation was the current one: the session now has the next, and the new token is remembered.
    Rotated(Session),
    /// The presented generation was replaced a moment ago: the answer is a token of the current one, remembered too.
    Grace(Session),
    /// The presented generation is long void: somebody uses a stolen token.
    Reused(Session),
    /// There is no such session.
    Gone,
}

/// What the hot path learned about a session and writes behind, at most once a minute a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionTouch {
    /// Which session.
    pub id: SessionId,
    /// The latest moment it was seen.
    pub last_seen_at: Timestamp,
    /// A generation and when it was first presented, if that is known. It counts only while it is the session's newest:
    /// written behind, it may come after the next exchange.
    pub successor_seen_at: Option<(Generation, Timestamp)>,
    /// A renewed cookie's token to remember.
    pub renewed: Option<KnownToken>,
}
