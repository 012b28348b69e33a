//! What an administrator does to other people's accounts. Every method names the actor for the audit log.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::audit::Event;
use super::register::NewAccount;
use super::token::NewToken;
use super::{Auth, Client, Error, SessionView};
use crate::clock::Timestamp;
use crate::crypto::password_rules;
use crate::model::{Action, ApiToken, ApiTokenId, Email, Group, Secret, SessionId, User, UserId};
use crate::store::{SessionSelector, UserQuery};

impl Auth {
    /// The account with this address.
    pub async fn user_by_email(&self, email: &Email) -> Result<User, Error> {
        self.store.user_by_email(email).await?.ok_or(Error::NotFound)
    }

    /// Accounts in the order of making.
    pub async fn list_users(&self, query: &UserQuery) -> Result<Vec<User>, Error> {
        Ok(self.store.users(query).await?)
    }

    /// Makes an account, whatever `accounts.registration` says.
    pub async fn add_user(&self, new: NewAccount, groups: BTreeSet<Group>, actor: &str, now: Timestamp) -> Result<User, Error> {
        let mut account = self.check_account(new)?;
        account.groups = groups;
        self.insert_account(account, true, &[Event::done(Action::UserRegister).by(actor)], &Client::local(), now).await
    }

    /// Sets a password, and ends all of the person's sessions.
    pub async fn reset_password(&self, id: UserId, new: Secret<String>, actor: &str, now: Timestamp) -> Result<User, Error> {
        let user = self.existing(id).await?;
        let hints = [user.email.as_str()];
        password_rules::check(&self.settings().accounts.password, new.expose(), &hints)
            .map_err(|problem| Error::invalid("password", problem))?;
        self.set_password(&user, new, Some(actor), &Client::local(), now).await
    }

    /// Replaces a person's groups. They count from the next request on.
    pub async fn set_groups(&self, id: UserId, groups: BTreeSet<Group>, actor: &str, now: Timestamp) -> Result<User, Error> {
        let event = Event::done(Action::UserUpdate).by(actor).with("fields", "groups");
        self.change_user(id, Some((event, &Client::local())), now, |user| {
            user.groups.clone_from(&groups);
            Ok(())
        })
        .await
    }

    /// Keeps a person out: all sessions end, and API tokens stop working until the account is enabled again.
    pub async fn disable_user(&self, id: UserId, actor: &str, now: Timestamp) -> Result<User, Error> {
        let event = Event::done(Action::UserDisable).by(actor);
        self.change_user_and_end_sessions(id, (event, &Client::local()), now, |user| {
            user.disabled_at = user.disabled_at.or(Some(now));
            Ok(())
        })
        .await
    }

    /// Lets a person in again.
    pub async fn enable_user(&self, id: UserId, actor: &str, now: Timestamp) -> Result<User, Error> {
        let event = Event::done(Action::UserEnable).by(actor);
        self.change_user(id, Some((event, &Client::local())), now, |user| {
            user.disabled_at = None;
            Ok(())
        })
        .await
    }

    /// Lifts the back-off after wrong passwords and codes.
    pub async fn unlock_user(&self, id: UserId, actor: &str, now: Timestamp) -> Result<User, Error> {
        let user = self.existing(id).await?;
        // Several writes, so it is recorded before the first.
        self.record(Event::done(Action::UserUnlock).by(actor), Some(&user), &Client::local(), now).await?;
        self.clear_locks(&user, now).await?;
        Ok(user)
    }

    /// Takes the second factor away, for somebody who has lost it, and ends all of the person's sessions.
    pub async fn reset_second_factor(&self, id: UserId, actor: &str, now: Timestamp) -> Result<User, Error> {
        let user = self.remove_second_factor(id, Some(actor), &Client::local(), now).await?;
        self.clear_locks(&user, now).await?;
        self.end_sessions(SessionSelector::OfUser(id), None).await?;
        Ok(user)
    }

    /// Deletes an account.
    pub async fn remove_user(&self, id: UserId, actor: &str, now: Timestamp) -> Result<(), Error> {
        let user = self.existing(id).await?;
        self.delete_user(&user, Some(actor), &Client::local(), now).await
    }

    /// A person's sessions, with the addresses.
    pub async fn list_sessions(&self, id: UserId, now: Timestamp) -> Result<Vec<SessionView>, Error> {
        self.existing(id).await?;
        self.sessions(id, now).await
    }

    /// Ends any session.
    pub async fn revoke_session(&self, id: SessionId, actor: &str, now: Timestamp) -> Result<(), Error> {
        let session = self.store.session(id).await?.ok_or(Error::NotFound)?;
        let event = Event::done(Action::SessionDelete).by(actor).with("session", id);
        let owner = self.store.user(session.user).await?;
        let recording = owner.map(|owner| self.recording(&[event], &owner, &Client::local(), now)).transpose()?;
        self.end_sessions(SessionSelector::One(id), recording).await?;
        Ok(())
    }

    /// Ends all of a person's sessions. Returns how many there were.
    pub async fn revoke_sessions(&self, id: UserId, actor: &str, now: Timestamp) -> Result<usize, Error> {
        let user = self.existing(id).await?;
        let event = Event::done(Action::SessionDelete).by(actor).with("which", "all");
        let recording = self.recording(&[event], &user, &Client::local(), now)?;
        Ok(self.end_sessions(SessionSelector::OfUser(id), Some(recording)).await?.len())
    }

    /// Makes an API token for a person.
    pub async fn create_token_for(
        &self,
        id: UserId,
        new: NewToken,
        actor: &str,
        now: Timestamp,
    ) -> Result<(Secret<String>, ApiToken), Error> {
        let user = self.existing(id).await?;
        let checked = super::token::check(&new, now)?;
        self.add_api_token(&user, new.id, checked, new.expires_at, Some(actor), &Client::local(), now).await
    }

    /// A person's API tokens.
    pub async fn list_tokens_of(&self, id: UserId) -> Result<Vec<ApiToken>, Error> {
        self.existing(id).await?;
        Ok(self.store.api_tokens_of(id).await?)
    }

    /// Whose an API token is.
    pub async fn owner_of_token(&self, id: ApiTokenId) -> Result<UserId, Error> {
        let mut owner = None;
        let mut look = |token: ApiToken| {
            if token.id != id {
                return ControlFlow::Continue(());
            }
            owner = Some(token.user);
            ControlFlow::Break(())
        };
        self.store.scan_api_tokens(&mut look).await?;
        owner.ok_or(Error::NotFound)
    }

    /// Ends a person's API token.
    pub async fn revoke_token_of(&self, id: UserId, token: ApiTokenId, actor: &str, now: Timestamp) -> Result<(), Error> {
        let user = self.existing(id).await?;
        self.remove_api_token(&user, token, Some(actor), &Client::local(), now).await
    }

    async fn existing(&self, id: UserId) -> Result<User, Error> {
        self.store.user(id).await?.ok_or(Error::NotFound)
    }
}
