//! What each kind of token says. A kind has its own `typ` and `aud`, so that no token is ever good for another purpose
//! than its own (requirement JWT-1; RFC 8725, section 3.12).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{Digest, Email, Generation, Group, SessionId, UserId};

/// What a token is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TokenPurpose {
    /// A session (RFC 9068's type).
    Session,
    /// The step between password and second factor; good for that step only.
    PendingLogin,
    /// The signed statement about a request for an upstream.
    Assertion,
}

impl TokenPurpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Session, Self::PendingLogin, Self::Assertion];

    /// The `typ` in the token's header; compared as it is.
    pub const fn typ(self) -> &'static str {
        match self {
            Self::Session => "at+jwt",
            Self::PendingLogin => "pending+jwt",
            Self::Assertion => "assertion+jwt",
        }
    }
}

/// A session's token: the seed format (`userId`, `email`, `iat`, `exp`) and the registered claims. Times are whole
/// seconds since 1970 (RFC 7519, section 2).
///
/// The facts of the moment of signing; who may do what is read from the store (requirement SES-2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionClaims {
    /// Whose.
    #[serde(rename = "userId")]
    pub user_id: UserId,
    /// The address when it was signed.
    pub email: Email,
    /// When it was signed.
    pub iat: i64,
    /// From when on it is void.
    pub exp: i64,
    /// Set when signing.
    pub iss: String,
    /// Set when signing.
    pub aud: String,
    /// `userId` again, under its registered name; a token where they differ is refused.
    pub sub: UserId,
    /// This very token.
    pub jti: String,
    /// The session.
    pub sid: SessionId,
    /// How the person proved who they are (`model::Amr::names`).
    pub amr: Vec<String>,
    /// When.
    pub auth_time: i64,
    /// The session's generation (`gen`, which is a word of the language).
    #[serde(rename = "gen")]
    pub generation: Generation,
}

/// The token between password and second factor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingClaims {
    /// Whose.
    pub sub: UserId,
    /// This very token; it is spent once.
    pub jti: String,
    /// When it was signed, in seconds.
    pub iat: i64,
    /// From when on it is void, in seconds; at most [`PendingClaims::MAX_LIFETIME_SECS`] after `iat`.
    pub exp: i64,
    /// Set when signing.
    pub iss: String,
    /// Set when signing.
    pub aud: String,
    /// `password_changed_at` of the account in milliseconds, so that a change of password voids it.
    pub pwd: i64,
    /// The digest of the browser's own cookie, where a form began the login (requirement JWT-2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub browser: Option<Digest>,
}

impl PendingClaims {
    /// Five minutes (requirement NP-1); a token that claims more is refused.
    pub const MAX_LIFETIME_SECS: i64 = 300;
}

/// The signed statement that a request was let through, for the upstream that gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertionClaims {
    /// Who asks.
    pub sub: UserId,
    /// The address.
    pub email: Email,
    /// The groups that are announced.
    pub groups: Vec<Group>,
    /// Set when signing.
    pub iss: String,
    /// The upstream's name.
    pub aud: String,
    /// When it was signed, in seconds.
    pub iat: i64,
    /// From when on it is void, in seconds.
    pub exp: i64,
    /// The request's method.
    pub method: String,
    /// The request's host.
    pub host: String,
    /// The request's path.
    pub path: String,
}

/// What the ring needs to know of each kind of claims.
pub(super) trait Claims: Clone + Serialize + DeserializeOwned {
    const PURPOSE: TokenPurpose;

    /// Says who issued them and for whom.
    fn address(&mut self, issuer: &str, audience: &str);

    /// `iat` and `exp`.
    fn times(&self) -> (i64, i64);

    /// Whether the claims agree with each other.
    fn agree(&self) -> bool;
}

impl Claims for SessionClaims {
    const PURPOSE: TokenPurpose = TokenPurpose::Session;

    fn address(&mut self, issuer: &str, audience: &str) {
        issuer.clone_into(&mut self.iss);
        audience.clone_into(&mut self.aud);
    }

    fn times(&self) -> (i64, i64) {
        (self.iat, self.exp)
    }

    fn agree(&self) -> bool {
        self.sub == self.user_id && self.iat <= self.exp
    }
}

impl Claims for PendingClaims {
    const PURPOSE: TokenPurpose = TokenPurpose::PendingLogin;

    fn address(&mut self, issuer: &str, audience: &str) {
        issuer.clone_into(&mut self.iss);
        audience.clone_into(&mut self.aud);
    }

    fn times(&self) -> (i64, i64) {
        (self.iat, self.exp)
    }

    fn agree(&self) -> bool {
        self.iat <= self.exp && self.exp.saturating_sub(self.iat) <= Self::MAX_LIFETIME_SECS
    }
}

impl Claims for AssertionClaims {
    const PURPOSE: TokenPurpose = TokenPurpose::Assertion;

    fn address(&mut self, issuer: &str, audience: &str) {
        issuer.clone_into(&mut self.iss);
        audience.clone_into(&mut self.aud);
    }

    fn times(&self) -> (i64, i64) {
        (self.iat, self.exp)
    }

    fn agree(&self) -> bool {
        self.iat <= self.exp
    }
}
