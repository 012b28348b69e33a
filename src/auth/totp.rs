//! The second factor of one's own account: setting it up, turning it off, and its recovery codes.

use std::fmt;

use super::audit::Event;
use super::live::LiveSession;
use super::login::SecondFactor;
use super::reauth::Confirmation;
use super::{Auth, Client, Error};
use crate::clock::Timestamp;
use crate::crypto::seal::{DataKey, Purpose};
use crate::crypto::{digest, recovery, totp};
use crate::model::{Action, Amr, Digest, Fitness, Secret, TotpState, User, UserId};
use crate::store::SessionSelector;

/// The record name that a TOTP secret is sealed with.
const SEALED_AS: &[u8] = b"totp";

/// A secret that was made for the person to put into an authenticator application.
pub struct Enrolment {
    /// Base32, for the API.
    pub secret: Secret<String>,
    /// The same in groups of four, for people.
    pub manual_key: String,
    /// `otpauth://totp/…`.
    pub otpauth_url: String,
    /// The QR code as an `svg` element, for our own pages.
    pub qr_svg: String,
    /// The same as a data URL, for the API.
    pub qr_code: String,
}

/// Nothing: every field tells the secret.
impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Enrolment(..)")
    }
}

impl Auth {
    /// Makes a secret and keeps it as pending. A pending one from before is replaced; one that is in use is not touched.
    pub async fn begin_enrolment(
        &self,
        session: &LiveSession,
        confirmation: Confirmation,
        client: &Client,
        now: Timestamp,
    ) -> Result<Enrolment, Error> {
        let user = self.user(session.user()).await?;
        self.require_fresh(session, &user, confirmation, client, now).await?;
        let secret = totp::new_secret();
        let sealed = self.data_key(&user)?.seal(Purpose::Totp, SEALED_AS, secret.expose());
        self.change_user(user.id, None, now, |user| {
            if user.has_second_factor() {
                return Err(Error::Conflict);
            }
            user.two_factor.pending = Some(TotpState { secret: sealed.clone(), since: now });
            Ok(())
        })
        .await?;
        let otpauth_url = totp::otpauth_url(&self.settings().two_factor.issuer, user.email.as_str(), &secret);
        Ok(Enrolment {
            manual_key: totp::manual_key(&secret),
            qr_svg: totp::qr_svg(&otpauth_url),
            qr_code: totp::qr_data_url(&otpauth_url),
            secret: totp::base32(&secret),
            otpauth_url,
        })
    }

    /// Turns the second factor on: the code shows that the application has the pending secret. `sent` must equal it when
    /// given; the server's own is what counts (requirement NP-5). Returns the recovery codes, once. Other sessions, which
    /// never proved the factor, end; this one goes on as proven.
    pub async fn confirm_enrolment(
        &self,
        session: &LiveSession,
        code: &str,
        sent: Option<&str>,
        confirmation: Confirmation,
        client: &Client,
        now: Timestamp,
    ) -> Result<Vec<Secret<String>>, Error> {
        let user = self.user(session.user()).await?;
        self.require_fresh(session, &user, confirmation, client, now).await?;
        if user.has_second_factor() {
            return Err(Error::Conflict);
        }
        let pending = user.two_factor.pending.clone().ok_or(Error::invalid("verificationCode", "ask for a secret first"))?;
        let key = self.data_key(&user)?;
        let secret = key.open(Purpose::Totp, SEALED_AS, &pending.secret)?;
        if let Some(sent) = sent {
            let expected = totp::base32(&Secret::new(secret.to_vec()));
            if !digest::same(expected.expose().as_bytes(), sent.as_bytes()) {
                return Err(Error::invalid("secret", "is not the one that was made for this account"));
            }
        }
        self.count_attempt(client, now)?;
        let attempt = self.attempt_code(user.id, now).await?;
        let step = totp::matching_step(&secret, code, now, self.settings().two_factor.skew);
        let spent = match step {
            Some(step) => self.store.spend_totp_step(user.id, step).await?,
            None => false,
        };
        if !spent {
            self.fail(attempt, now).await?;
            self.record(Event::refused(Action::TwoFactorFailed), Some(&user), client, now).await?;
            return Err(Error::WrongCode);
        }
        self.succeed(attempt, now).await?;
        let (codes, digests) = self.new_codes(&key);
        let user = self
            .change_user(user.id, Some((Event::done(Action::TwoFactorEnable), client)), now, |user| {
                if user.two_factor.pending.as_ref() != Some(&pending) {
                    return Err(Error::Conflict);
                }
                user.two_factor.totp = Some(TotpState { since: now, ..pending.clone() });
                user.two_factor.pending = None;
                user.two_factor.recovery.clone_from(&digests);
                Ok(())
            })
            .await?;
        let amr = session.standing().0.and(Amr::OTP);
        if self.store.set_standing(session.id, amr, Fitness::Full).await? {
            self.live.stand(session.id, amr, Fitness::Full);
        }
        self.end_sessions(SessionSelector::OfUserExcept(user.id, session.id), None).await?;
        self.basic.forget(user.id);
        Ok(codes)
    }

    /// Turns the second factor off, given one of its proofs. Other sessions end.
    pub async fn end_enrolment(
        &self,
        session: &LiveSession,
        proof: &SecondFactor,
        confirmation: Confirmation,
        client: &Client,
        now: Timestamp,
    ) -> Result<(), Error> {
        Self::require_full(session)?;
        let user = self.user(session.user()).await?;
        self.require_fresh(session, &user, confirmation, client, now).await?;
        if !user.has_second_factor() {
            return Err(Error::Conflict);
        }
        self.count_attempt(client, now)?;
        self.prove_second_factor(&user, proof, client, now).await?;
        let user = self.remove_second_factor(user.id, None, client, now).await?;
        self.end_sessions(SessionSelector::OfUserExcept(user.id, session.id), None).await?;
        Ok(())
    }

    /// Makes new recovery codes; the old ones are void. `seen`: only while the account's codes are those that
    /// [`Auth::recovery_state`] was asked about, or [`Error::Conflict`]: a request that arrives twice makes them once.
    pub async fn replace_recovery_codes(
        &self,
        session: &LiveSession,
        seen: Option<&Digest>,
        confirmation: Confirmation,
        client: &Client,
        now: Timestamp,
    ) -> Result<Vec<Secret<String>>, Error> {
        Self::require_full(session)?;
        let user = self.user(session.user()).await?;
        self.require_fresh(session, &user, confirmation, client, now).await?;
        let (codes, digests) = self.new_codes(&self.data_key(&user)?);
        let event = Event::done(Action::RecoveryCodesCreate);
        self.change_user(user.id, Some((event, client)), now, |user| {
            let changed = seen.is_some_and(|seen| *seen != self.recovery_state(user));
            if changed || !user.has_second_factor() {
                return Err(Error::Conflict);
            }
            user.two_factor.recovery.clone_from(&digests);
            Ok(())
        })
        .await?;
        Ok(codes)
    }

    /// A name for the recovery codes that an account has at this moment, which says nothing about them.
    pub fn recovery_state(&self, user: &User) -> Digest {
        let mut known = user.id.as_bytes().to_vec();
        user.two_factor.recovery.iter().for_each(|digest| known.extend(digest.as_bytes()));
        self.storage_key.hmac("recovery state", &known)
    }

    /// Takes the second factor away; `actor` is who, when it is not its owner.
    pub(super) async fn remove_second_factor(
        &self,
        user: UserId,
        actor: Option<&str>,
        client: &Client,
        now: Timestamp,
    ) -> Result<User, Error> {
        let event = Event::done(Action::TwoFactorDisable).by_any(actor);
        self.change_user(user, Some((event, client)), now, |user| {
            user.two_factor = crate::model::TwoFactor::default();
            Ok(())
        })
        .await
    }

    /// Whether `code` is right now, and was not used before.
    pub(super) async fn spend_code(&self, user: &User, code: &str, now: Timestamp) -> Result<bool, Error> {
        let Some(state) = &user.two_factor.totp else { return Ok(false) };
        let secret = self.data_key(user)?.open(Purpose::Totp, SEALED_AS, &state.secret)?;
        match totp::matching_step(&secret, code, now, self.settings().two_factor.skew) {
            Some(step) => Ok(self.store.spend_totp_step(user.id, step).await?),
            None => Ok(false),
        }
    }

    /// Whether `code` was one of the unused recovery codes; it no longer is.
    pub(super) async fn spend_recovery_code(&self, user: UserId, code: &str, client: &Client, now: Timestamp) -> Result<bool, Error> {
        let Some(code) = recovery::normalise(code) else { return Ok(false) };
        let owner = self.user(user).await?;
        let digest = recovery_digest(&self.data_key(&owner)?, &code);
        // The account's revision makes the removal happen once, whoever else tries the same code now.
        let spent = self
            .change_user(user, Some((Event::done(Action::RecoveryCodeUse), client)), now, |user| {
                let before = user.two_factor.recovery.len();
                user.two_factor.recovery.retain(|known| !digest::same(known.as_bytes(), digest.as_bytes()));
                if user.two_factor.recovery.len() == before { Err(Error::WrongCode) } else { Ok(()) }
            })
            .await;
        match spent {
            Ok(_) => Ok(true),
            Err(Error::WrongCode) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn new_codes(&self, key: &DataKey) -> (Vec<Secret<String>>, Vec<Digest>) {
        let codes = recovery::generate(self.settings().two_factor.recovery_codes);
        let digests = codes.iter().filter_map(|code| recovery::normalise(code.expose())).map(|code| recovery_digest(key, &code));
        let digests = digests.collect();
        (codes, digests)
    }

    pub(super) fn data_key(&self, user: &User) -> Result<DataKey, Error> {
        Ok(self.storage_key.data_key(user.id, &user.data_key)?)
    }
}

fn recovery_digest(key: &DataKey, code: &Secret<String>) -> Digest {
    key.hmac("recovery", code.expose().as_bytes())
}
