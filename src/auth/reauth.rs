//! Proving once more who one is: for paths that ask for a fresh password or a second factor, and for changes that a
//! borrowed browser must not be able to make.

use std::time::Duration;

use super::audit::Event;
use super::live::LiveSession;
use super::login::SecondFactor;
use super::session::Begin;
use super::{Auth, Client, Error, Issued};
use crate::clock::Timestamp;
use crate::crypto::password::{Asker, Verdict};
use crate::model::{Action, Amr, Fitness, Secret, User};
use crate::store::SessionSelector;

/// How long a password that was given counts for sensitive changes by the API.
pub const FRESH: Duration = Duration::from_secs(300);

/// How long it counts on our own pages, where every form bears a token that nobody else has.
pub const FRESH_ON_PAGES: Duration = Duration::from_secs(600);

/// What shows that a sensitive change comes from the person, and not from a borrowed browser.
#[derive(Debug)]
pub enum Confirmation {
    /// The password, in this very request.
    Password(Secret<String>),
    /// The password was given at most so long ago.
    Within(Duration),
}

/// As the API confirms: by the password in the request, or else by one within [`FRESH`].
impl From<Option<Secret<String>>> for Confirmation {
    fn from(password: Option<Secret<String>>) -> Self {
        password.map_or(Self::Within(FRESH), Self::Password)
    }
}

impl LiveSession {
    /// Whether the person gave the password at most `within` ago.
    pub fn is_fresh(&self, within: Duration, now: Timestamp) -> bool {
        self.standing().0.has(Amr::PASSWORD) && now.since(self.auth_time()) <= within
    }
}

impl Auth {
    /// Begins a new session in place of this one (requirement SES-1): with a fresh `auth_time` when the password is
    /// given, with a second factor when its code is.
    pub async fn reauthenticate(
        &self,
        session: &LiveSession,
        password: Option<Secret<String>>,
        proof: Option<&SecondFactor>,
        cookie: bool,
        client: &Client,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        if password.is_none() && proof.is_none() {
            return Err(Error::invalid("password", "is required"));
        }
        let user = self.user(session.user()).await?;
        self.count_attempt(client, now)?;
        let (mut amr, fitness) = session.standing();
        let mut auth_time = session.auth_time();
        if let Some(password) = password {
            self.prove_password(&user, password, client, now).await?;
            amr = amr.and(Amr::PASSWORD);
            auth_time = now;
        }
        if let Some(proof) = proof {
            if !user.has_second_factor() {
                return Err(Error::invalid("verificationCode", "this account has no second factor"));
            }
            amr = amr.and(self.prove_second_factor(&user, proof, client, now).await?);
        }
        let cookie = cookie || session.is_cookie();
        let issued = self.begin(user, Begin { amr, auth_time, fitness, cookie }, &[], client, now).await?;
        self.end_sessions(SessionSelector::One(session.id), None).await?;
        Ok(issued)
    }

    /// Checks the password of somebody who is signed in, with the same back-off as a sign-in.
    pub(super) async fn prove_password(&self, user: &User, password: Secret<String>, client: &Client, now: Timestamp) -> Result<(), Error> {
        let (place, attempt) = self.attempt_password(&user.email, Some(user), Asker::Known, client, now).await?;
        let verdict = match self.hasher.verify(place, password, Some(user.password.clone())).await {
            Ok(verdict) => verdict,
            Err(busy) => {
                self.take_back(attempt, now).await?;
                return Err(busy.into());
            }
        };
        match verdict {
            Verdict::Right { .. } => self.succeed(attempt, now).await,
            Verdict::Wrong => {
                self.fail(attempt, now).await?;
                self.record(Event::refused(Action::ReauthFailed), Some(user), client, now).await?;
                Err(Error::WrongCredentials)
            }
        }
    }

    /// Lets a sensitive change go on, or asks for the password. A session that is fit for enrolment only may do nothing
    /// else but enrol.
    pub(super) async fn require_fresh(
        &self,
        session: &LiveSession,
        user: &User,
        confirmation: Confirmation,
        client: &Client,
        now: Timestamp,
    ) -> Result<(), Error> {
        match confirmation {
            Confirmation::Password(password) => {
                self.count_attempt(client, now)?;
                self.prove_password(user, password, client, now).await
            }
            Confirmation::Within(age) if session.is_fresh(age, now) => Ok(()),
            Confirmation::Within(_) => Err(Error::FreshPasswordRequired),
        }
    }

    /// Refuses a session that is fit for enrolment only.
    pub(super) fn require_full(session: &LiveSession) -> Result<(), Error> {
        match session.standing().1 {
            Fitness::Full => Ok(()),
            Fitness::EnrolmentOnly => Err(Error::EnrolmentRequired),
        }
    }
}
