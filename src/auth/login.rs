//! Signing in: a password, and then a code where the account has a second factor.

use std::time::Duration;

use super::again::Done;
use super::audit::Event;
use super::session::Begin;
use super::{Auth, Client, Counters, Error, Issued, parse_email};
use crate::clock::Timestamp;
use crate::crypto::digest;
use crate::crypto::password::{Asker, Verdict};
use crate::crypto::token::PendingClaims;
use crate::model::{Action, Amr, Digest, Email, Fitness, LockChange, LockKey, LockPolicy, Secret, User, UserId};
use crate::store::Purpose;

/// How long a person may take from the password to the code.
pub const PENDING_LIFE: Duration = Duration::from_secs(300);

/// Wrong codes that a pending login survives: the fifth ends it.
const PENDING_TRIES: u32 = 5;

/// What a sign-in leads to.
#[derive(Debug)]
pub enum LoginStep {
    /// The person is in.
    Complete(Box<Issued>),
    /// The password was right; a code is still needed.
    NeedSecondFactor {
        /// Stands for the right password at the second step, and nowhere else (requirements NP-1, JWT-1).
        pending: Secret<String>,
        /// The methods that the account offers.
        methods: &'static [&'static str],
    },
}

/// A proof of the second factor.
#[derive(Debug)]
pub enum SecondFactor {
    /// A code of the authenticator application.
    Code(String),
    /// One of the recovery codes.
    Recovery(String),
}

impl SecondFactor {
    /// As typed.
    fn text(&self) -> &str {
        match self {
            Self::Code(text) | Self::Recovery(text) => text,
        }
    }
}

/// What a person types to sign in.
#[derive(Debug)]
pub struct Credentials {
    /// As typed.
    pub email: String,
    /// As typed.
    pub password: Secret<String>,
    /// The code, when it is sent along at once.
    pub code: Option<String>,
}

impl Auth {
    /// The first step: address and password. The answer and its cost are the same for an unknown address and a wrong
    /// password (requirements NP-6, ENUM-1). `browser` ties a pending login to the browser that began it, where the
    /// form flow made it (requirement JWT-2).
    pub async fn log_in(
        &self,
        credentials: Credentials,
        cookie: bool,
        browser: Option<&str>,
        client: &Client,
        now: Timestamp,
    ) -> Result<LoginStep, Error> {
        self.count_attempt(client, now)?;
        let email = parse_email(&credentials.email)?;
        let user = self.authenticate(&email, credentials.password, client, now).await?;
        if !user.has_second_factor() {
            return self.complete(user, Amr::PASSWORD, cookie, client, now).await;
        }
        if let Some(code) = credentials.code {
            let amr = self.prove_second_factor(&user, &SecondFactor::Code(code), client, now).await?;
            return self.complete(user, Amr::PASSWORD.and(amr), cookie, client, now).await;
        }
        Counters::add(&self.counters.logins_second_factor);
        let claims = PendingClaims {
            sub: user.id,
            jti: uuid::Uuid::now_v7().to_string(),
            iat: now.as_secs(),
            exp: now.plus(PENDING_LIFE).as_secs(),
            // Set when signing.
            iss: String::new(),
            aud: String::new(),
            pwd: user.password_changed_at.as_millis(),
            browser: browser.map(browser_digest),
        };
        let pending = self.keyring.load().sign_pending(&claims).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(LoginStep::NeedSecondFactor { pending, methods: &["totp", "recovery"] })
    }

    /// The second step: the pending token and a code. The token is spent by the first right code or the fifth wrong one.
    pub async fn log_in_second_factor(
        &self,
        pending: &str,
        proof: &SecondFactor,
        cookie: bool,
        browser: Option<&str>,
        client: &Client,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let claims = self.verify_pending(pending, now).await?;
        if claims.browser != browser.map(browser_digest) {
            return Err(Error::PendingExpired);
        }
        let digest = digest::sha256(pending.as_bytes());
        // A form that is sent twice is one request, for the browser that was shown it.
        let place = browser.and_then(|_| self.again.place(digest, now));
        let mut done = match &place {
            Some(place) => Some(place.lock().await),
            None => None,
        };
        if let Some(issued) = self.same_again(done.as_ref().and_then(|done| done.as_ref()), proof.text(), now) {
            return Ok(issued);
        }
        let user = self.store.user(claims.sub).await?.ok_or(Error::PendingExpired)?;
        if user.password_changed_at.as_millis() != claims.pwd || !user.has_second_factor() {
            return Err(Error::PendingExpired);
        }
        self.count_attempt(client, now)?;
        let tries = LockPolicy { after: u32::MAX, base: Duration::ZERO, max: Duration::ZERO };
        let update = self.store.update_lock(LockKey::Pending(digest), LockChange::Fail(tries), now).await?;
        if update.before.failures >= PENDING_TRIES {
            return Err(Error::PendingExpired);
        }
        if user.is_disabled() {
            let event = Event::refused(Action::LoginFailed).with("reason", "disabled");
            self.record(event, Some(&user), client, now).await?;
            return Err(Error::AccountDisabled);
        }
        let amr = self.prove_second_factor(&user, proof, client, now).await?;
        if !self.store.spend_once(Purpose::PendingLogin, digest, Timestamp::from_secs(claims.exp).plus(PENDING_LIFE)).await? {
            return Err(Error::PendingExpired);
        }
        match self.complete(user, Amr::PASSWORD.and(amr), cookie, client, now).await? {
            LoginStep::Complete(issued) => {
                if let Some(done) = &mut done {
                    **done = Some(Done::new(&issued, proof.text(), now));
                }
                Ok(*issued)
            }
            LoginStep::NeedSecondFactor { .. } => Err(Error::PendingExpired),
        }
    }

    /// Whose pending login this is and when it began, if it has not run out.
    pub fn pending_login(&self, pending: &str, now: Timestamp) -> Option<(UserId, Timestamp)> {
        let claims = self.keyring.load().verify_pending(pending, now).ok()?;
        Some((claims.sub, Timestamp::from_secs(claims.iat)))
    }

    /// Checks address and password, with back-off, and returns the account. Disabled accounts are told so only after
    /// the right password (requirement NP-3).
    pub(super) async fn authenticate(
        &self,
        email: &Email,
        password: Secret<String>,
        client: &Client,
        now: Timestamp,
    ) -> Result<User, Error> {
        self.expect_place(client)?;
        let user = self.store.user_by_email(email).await?;
        let (place, attempt) = self.attempt_password(email, user.as_ref(), Asker::Stranger, client, now).await?;
        let hash = user.as_ref().map(|user| user.password.clone());
        let verdict = match self.hasher.verify(place, password.clone(), hash).await {
            Ok(verdict) => verdict,
            Err(busy) => {
                // Not checked, so not counted.
                self.take_back(attempt, now).await?;
                return Err(busy.into());
            }
        };
        let (Verdict::Right { outdated }, Some(user)) = (verdict, user.as_ref()) else {
            Counters::add(&self.counters.logins_refused);
            self.fail(attempt, now).await?;
            self.record(Event::refused(Action::LoginFailed), user.as_ref(), client, now).await?;
            return Err(Error::WrongCredentials);
        };
        self.succeed(attempt, now).await?;
        if user.is_disabled() {
            let event = Event::refused(Action::LoginFailed).with("reason", "disabled");
            self.record(event, Some(user), client, now).await?;
            return Err(Error::AccountDisabled);
        }
        if outdated {
            return self.rehash(user, password, now).await;
        }
        Ok(user.clone())
    }

    /// Replaces a hash with weaker parameters than are configured. The password stays, so sessions do too.
    async fn rehash(&self, user: &User, password: Secret<String>, now: Timestamp) -> Result<User, Error> {
        let hash = self.hasher.hash(password, Asker::Known).await?;
        let old = user.password.clone();
        self.change_user(user.id, None, now, |user| {
            if user.password == old {
                user.password = hash.clone();
            }
            Ok(())
        })
        .await
    }

    /// Checks a code or a recovery code against an account that has a second factor. Each works once.
    pub(super) async fn prove_second_factor(
        &self,
        user: &User,
        proof: &SecondFactor,
        client: &Client,
        now: Timestamp,
    ) -> Result<Amr, Error> {
        let attempt = self.attempt_code(user.id, now).await?;
        let proven = match proof {
            SecondFactor::Code(code) => self.spend_code(user, code, now).await?.then_some(Amr::OTP),
            SecondFactor::Recovery(code) => self.spend_recovery_code(user.id, code, client, now).await?.then_some(Amr::RECOVERY),
        };
        let Some(amr) = proven else {
            Counters::add(&self.counters.second_factor_refused);
            self.fail(attempt, now).await?;
            self.record(Event::refused(Action::TwoFactorFailed), Some(user), client, now).await?;
            return Err(Error::WrongCode);
        };
        self.succeed(attempt, now).await?;
        Ok(amr)
    }

    async fn complete(&self, user: User, amr: Amr, cookie: bool, client: &Client, now: Timestamp) -> Result<LoginStep, Error> {
        let fitness = self.fitness_of(&user);
        let issued = self.begin(user, Begin { amr, auth_time: now, fitness, cookie }, &[Action::UserLogin], client, now).await?;
        Counters::add(&self.counters.logins_complete);
        Ok(LoginStep::Complete(Box::new(issued)))
    }

    /// Who must have a second factor and has none may do nothing but set one up.
    pub(super) fn fitness_of(&self, user: &User) -> Fitness {
        if self.settings().two_factor.always_required && !user.has_second_factor() { Fitness::EnrolmentOnly } else { Fitness::Full }
    }
}

/// What a pending token says of the browser that it was made for.
fn browser_digest(value: &str) -> Digest {
    digest::sha256(value.as_bytes())
}
