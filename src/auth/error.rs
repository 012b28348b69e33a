//! Why a use case is not done.

use std::fmt;
use std::time::Duration;

use super::{PasswordProblem, Quota};
use crate::store;

/// Why a use case could not do what it was asked. `web::error` has the one table from these to statuses and codes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address or the password is wrong; one variant, so that nobody can tell the cases apart.
    #[error("the e-mail address or the password is wrong")]
    WrongCredentials,
    /// The code or recovery code is wrong, or was used before.
    #[error("the code is wrong or was used already")]
    WrongCode,
    /// The pending login has run out, was used, or saw too many wrong codes.
    #[error("this sign-in has expired: start again")]
    PendingExpired,
    /// The password was right, but an administrator keeps the person out.
    #[error("this account is disabled")]
    AccountDisabled,
    /// There is no session, or it has ended.
    #[error("sign in first")]
    SignInRequired,
    /// The last sign-in is too long ago for this.
    #[error("enter your password again to do this")]
    FreshPasswordRequired,
    /// The session is fit for setting up a second factor only.
    #[error("set up a second factor first")]
    EnrolmentRequired,
    /// The account has a second factor, and this needs its code.
    #[error("a code of your second factor is needed")]
    SecondFactorRequired,
    /// The address is taken.
    #[error("an account with this e-mail address exists already")]
    AddressTaken,
    /// Nobody may register.
    #[error("registration is closed")]
    RegistrationClosed,
    /// The set-up link has run out, was used, or was replaced by a newer one.
    #[error("this set-up link is not valid any more: restart nullpass to get a new one")]
    SetupExpired,
    /// A value breaks its rule.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field's name in the JSON API.
        field: &'static str,
        /// What is wrong with it.
        problem: Problem,
    },
    /// Too many attempts.
    #[error("too many attempts: try again in {} s", retry_after.as_secs().max(1))]
    TooManyAttempts {
        /// When to try again.
        retry_after: Duration,
        /// What is exhausted, when it is a bucket and not a back-off.
        quota: Option<Quota>,
    },
    /// There is no such thing, or it is somebody else's.
    #[error("not found")]
    NotFound,
    /// What was asked contradicts the state, such as turning on what is on.
    #[error("this was changed meanwhile")]
    Conflict,
    /// More sign-ins than the machine can hash.
    #[error("too busy: try again in a moment")]
    Busy,
    /// The store does not answer.
    #[error("the store does not answer")]
    Unavailable(#[source] store::Error),
    /// A key is missing or can't be rotated; the text is for operators, who alone can meet this.
    #[error("{0}")]
    Keys(String),
    /// Something that should never happen; the text is for the log.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    pub(super) fn invalid(field: &'static str, problem: impl Into<Problem>) -> Self {
        Self::Invalid { field, problem: problem.into() }
    }
}

/// What is wrong with a value. `Display` reads on after the field's name, in English.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is no password that an account may have.
    Password(PasswordProblem),
    /// Anything else.
    Text(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(problem) => problem.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<PasswordProblem> for Problem {
    fn from(problem: PasswordProblem) -> Self {
        Self::Password(problem)
    }
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Problem {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Conflict | store::Error::Retired => Self::AddressTaken,
            store::Error::Stale => Self::Conflict,
            store::Error::OldKey => Self::Internal("wrapped by a storage key that was replaced".to_owned()),
            store::Error::TooLarge(_) => Self::invalid("body", "is too large to be kept"),
            store::Error::InUse(_)
            | store::Error::Newer { .. }
            | store::Error::Unrecorded(_)
            | store::Error::HalfImported { .. }
            | store::Error::Corrupt(_)
            | store::Error::Refused(_)
            | store::Error::Rights(_)
            | store::Error::Tls(_)
            | store::Error::Foreign { .. }
            | store::Error::Outdated { .. }
            | store::Error::Unavailable(_) => Self::Unavailable(error),
        }
    }
}

impl From<crate::crypto::password::Busy> for Error {
    fn from(_: crate::crypto::password::Busy) -> Self {
        Self::Busy
    }
}

impl From<crate::crypto::seal::Error> for Error {
    fn from(error: crate::crypto::seal::Error) -> Self {
        Self::Internal(error.to_string())
    }
}
