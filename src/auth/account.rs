//! What people change about their own account: profile, password, and its end.

use super::audit::Event;
use super::live::LiveSession;
use super::login::SecondFactor;
use super::register::parse_display_name;
use super::session::Begin;
use super::{Auth, Client, Error, Issued};
use crate::clock::Timestamp;
use crate::crypto::password::Asker;
use crate::model::{Action, Amr, AvatarUrl, Secret, User};

/// A change of the profile. The outer `None` leaves a value alone; the inner one removes it.
#[derive(Debug, Default)]
pub struct ProfileChange {
    /// The display name.
    pub display_name: Option<Option<String>>,
    /// The picture's address.
    pub avatar: Option<Option<String>>,
}

impl Auth {
    /// The account behind a session, as the store has it now.
    pub async fn profile(&self, session: &LiveSession) -> Result<User, Error> {
        self.user(session.user()).await
    }

    /// Changes the profile.
    pub async fn change_profile(
        &self,
        session: &LiveSession,
        change: ProfileChange,
        client: &Client,
        now: Timestamp,
    ) -> Result<User, Error> {
        Self::require_full(session)?;
        let display_name = match change.display_name {
            None => None,
            Some(text) => Some(parse_display_name(text.as_deref())?),
        };
        let avatar = match change.avatar {
            None => None,
            Some(text) => Some(parse_avatar(text.as_deref())?),
        };
        let event = Event::done(Action::UserUpdate).with("fields", "profile");
        let user = self
            .change_user(session.user(), Some((event, client)), now, |user| {
                if let Some(name) = &display_name {
                    user.display_name.clone_from(name);
                }
                if let Some(avatar) = &avatar {
                    user.avatar.clone_from(avatar);
                }
                Ok(())
            })
            .await?;
        Ok(user)
    }

    /// Sets a new password, ends all sessions and begins a new one. `cookie`: its token goes into our cookie, as it does
    /// anyway where the session before was one of ours in a cookie.
    pub async fn change_password(
        &self,
        session: &LiveSession,
        current: Secret<String>,
        new: Secret<String>,
        proof: Option<&SecondFactor>,
        cookie: bool,
        client: &Client,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        Self::require_full(session)?;
        let user = self.user(session.user()).await?;
        let hints = [user.email.as_str(), user.display_name.as_ref().map_or("", |name| name.as_str())];
        self.check_password("newPassword", new.expose(), &hints)?;
        self.count_attempt(client, now)?;
        self.prove_password(&user, current, client, now).await?;
        let (mut amr, fitness) = session.standing();
        if let Some(proof) = Self::required_proof(&user, session, proof)? {
            amr = amr.and(self.prove_second_factor(&user, proof, client, now).await?);
        }
        let user = self.set_password(&user, new, None, client, now).await?;
        let begin = Begin { amr: amr.and(Amr::PASSWORD), auth_time: now, fitness, cookie: cookie || session.is_cookie() };
        self.begin(user, begin, &[], client, now).await
    }

    /// Hashes and stores a new password and ends all sessions; `password_changed_at` moves on, which voids pending logins
    /// and what Basic authentication remembers. `actor` is who sets it, when it is not the owner.
    pub(super) async fn set_password(
        &self,
        user: &User,
        new: Secret<String>,
        actor: Option<&str>,
        client: &Client,
        now: Timestamp,
    ) -> Result<User, Error> {
        let event = Event::done(Action::PasswordChange).by_any(actor);
        let hash = self.hasher.hash(new, Asker::Known).await?;
        self.change_user_and_end_sessions(user.id, (event, client), now, |user| {
            user.password = hash.clone();
            // Two changes within one millisecond are still two.
            user.password_changed_at = now.max(Timestamp::from_millis(user.password_changed_at.as_millis() + 1));
            Ok(())
        })
        .await
    }

    /// Deletes the account and everything sealed under its key.
    pub async fn delete_account(
        &self,
        session: &LiveSession,
        password: Secret<String>,
        proof: Option<&SecondFactor>,
        client: &Client,
        now: Timestamp,
    ) -> Result<(), Error> {
        let user = self.user(session.user()).await?;
        self.count_attempt(client, now)?;
        self.prove_password(&user, password, client, now).await?;
        if let Some(proof) = Self::required_proof(&user, session, proof)? {
            self.prove_second_factor(&user, proof, client, now).await?;
        }
        self.delete_user(&user, None, client, now).await
    }

    /// Deletes an account; `actor` is who, when it is not its owner.
    pub(super) async fn delete_user(&self, user: &User, actor: Option<&str>, client: &Client, now: Timestamp) -> Result<(), Error> {
        let event = Event::done(Action::UserDelete).by_any(actor);
        let recording = self.recording(&[event], user, client, now)?;
        recording.run(|store| store.delete_user(user.id, now)).await?.ok_or(Error::NotFound)?;
        self.live.remove_user(user.id);
        self.basic.forget(user.id);
        Ok(())
    }

    /// The proof to check for a dangerous change: a session that was begun without the second factor which the account
    /// has needs one; a proof that is sent is always checked.
    pub(super) fn required_proof<'a>(
        user: &User,
        session: &LiveSession,
        proof: Option<&'a SecondFactor>,
    ) -> Result<Option<&'a SecondFactor>, Error> {
        match proof {
            _ if !user.has_second_factor() => Ok(None),
            Some(proof) => Ok(Some(proof)),
            None if session.standing().0.second_factor() => Ok(None),
            None => Err(Error::SecondFactorRequired),
        }
    }
}

fn parse_avatar(text: Option<&str>) -> Result<Option<AvatarUrl>, Error> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => AvatarUrl::parse(text).map(Some).map_err(|problem| Error::invalid("avatar", problem.to_string())),
    }
}
