//! Proving once more who one is: for paths that ask for a fresh password or a second factor, and for changes that a
//! borrowed browser must not be able to make.

use std::time::Duration;

use super::audit::Event;
use super::live::LiveSession;
use super::login::SecondFactor;
use super::session::Begin;
use super::{Auth, Client, Error, Issued};
use crate::clock::Timestamp;
use crate::crypto::password::Verdict;
use crate::model::{Action, Amr, Fitness, Secret, User};
use crate::store::SessionSelector;

/// How long a password that was given counts for sensitive changes.
pub const FRESH: Duration = Duration::from_secs(300);

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
        let issued = self.begin(user, Begin { amr, auth_time, fitness, cookie }, client, now).await?;
        self.end_sessions(SessionSelector::One(session.id)).await?;
        Ok(issued)
    }

    /// Checks the password of somebody who is signed in, with the same back-off as a sign-in.
    pub(super) async fn prove_password(&self, user: &User, password: Secret<String>, client: &Client, now: Timestamp) -> Result<(), Error> {
        let attempt = self.attempt_password(&user.email, Some(user), client, now).await?;
        let verdict = match self.hasher.verify(password, Some(user.password.clone())).await {
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
                self.record(Event::refused(Action::ReauthFailed, Some(user)), client, now).await;
                Err(Error::WrongCredentials)
            }
        }
    }

    /// Lets a sensitive change go on: the password was given within [`FRESH`], or comes with the request. A session that
    /// is fit for enrolment only may do nothing else but enrol.
    pub(super) async fn require_fresh(
        &self,
        session: &LiveSession,
        user: &User,
        password: Option<Secret<String>>,
        client: &Client,
        now: Timestamp,
    ) -> Result<(), Error> {
        let (amr, _) = session.standing();
        if let Some(password) = password {
            self.count_attempt(client, now)?;
            return self.prove_password(user, password, client, now).await;
        }
        if amr.has(Amr::PASSWORD) && now.since(session.auth_time()) <= FRESH {
            return Ok(());
        }
        Err(Error::FreshPasswordRequired)
    }

    /// Refuses a session that is fit for enrolment only.
    pub(super) fn require_full(session: &LiveSession) -> Result<(), Error> {
        match session.standing().1 {
            Fitness::Full => Ok(()),
            Fitness::EnrolmentOnly => Err(Error::EnrolmentRequired),
        }
    }
}
