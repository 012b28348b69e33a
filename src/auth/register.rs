//! Making an account: the rules for what it may be, and who may make one.

use std::collections::{BTreeMap, BTreeSet};

use super::audit::Event;
use super::session::Begin;
use super::{Auth, Client, Counters, Error, Issued, parse_email};
use crate::clock::Timestamp;
use crate::config::Registration;
use crate::crypto::password::Asker;
use crate::crypto::password_rules;
use crate::model::{Action, Amr, DisplayName, Email, Group, Secret, TwoFactor, User, UserId};

/// What a person types to register.
#[derive(Debug)]
pub struct NewAccount {
    /// As typed.
    pub email: String,
    /// As typed.
    pub password: Secret<String>,
    /// As typed; empty is as if it were absent.
    pub display_name: Option<String>,
}

/// The same, checked.
#[derive(Debug)]
pub(super) struct CheckedAccount {
    pub(super) email: Email,
    pub(super) password: Secret<String>,
    pub(super) display_name: Option<DisplayName>,
    pub(super) groups: BTreeSet<Group>,
}

impl Auth {
    /// Whether somebody may register by themselves.
    pub fn registration_is_open(&self) -> bool {
        self.settings().accounts.registration != Registration::Closed
    }

    /// Makes an account as the configuration allows and signs its person in.
    pub async fn register(&self, new: NewAccount, cookie: bool, client: &Client, now: Timestamp) -> Result<Issued, Error> {
        if !self.registration_is_open() {
            return Err(Error::RegistrationClosed);
        }
        let account = self.check_account(new)?;
        let settings = self.settings();
        let accounts = &settings.accounts;
        if accounts.registration == Registration::Domains && !accounts.allowed_domains.iter().any(|d| d == account.email.domain()) {
            return Err(Error::invalid("email", "must be an address of a domain that may register here"));
        }
        self.count_registration(client, now)?;
        let email = account.email.clone();
        let user = match self.insert_account(account, false, &[Event::done(Action::UserRegister)], client, now).await {
            Err(taken @ Error::AddressTaken) => {
                let owner = self.store.user_by_email(&email).await?;
                self.record(Event::refused(Action::UserRegister).with("reason", "taken"), owner.as_ref(), client, now).await?;
                return Err(taken);
            }
            inserted => inserted?,
        };
        Counters::add(&self.counters.registrations);
        let fitness = self.fitness_of(&user);
        self.begin(user, Begin { amr: Amr::PASSWORD, auth_time: now, fitness, cookie }, &[], client, now).await
    }

    /// Checks everything a person typed, before anything is hashed or stored.
    pub(super) fn check_account(&self, new: NewAccount) -> Result<CheckedAccount, Error> {
        let email = parse_email(&new.email)?;
        let display_name = parse_display_name(new.display_name.as_deref())?;
        let hints = [email.as_str(), display_name.as_ref().map_or("", DisplayName::as_str)];
        self.check_password("password", new.password.expose(), &hints)?;
        Ok(CheckedAccount { email, password: new.password, display_name, groups: BTreeSet::new() })
    }

    /// Checks a new password; `field` names it in the error.
    pub(super) fn check_password(&self, field: &'static str, password: &str, hints: &[&str]) -> Result<(), Error> {
        password_rules::check(&self.settings().accounts.password, password, hints).map_err(|problem| Error::invalid(field, problem))
    }

    /// Hashes and stores, and records that. `by_administrator` lets the address of a deleted account be used again.
    pub(super) async fn insert_account(
        &self,
        account: CheckedAccount,
        by_administrator: bool,
        events: &[Event],
        client: &Client,
        now: Timestamp,
    ) -> Result<User, Error> {
        let id = UserId::new();
        let hash = self.hasher.hash(account.password, Asker::Stranger).await?;
        let mut user = User {
            id,
            revision: 0,
            email: account.email,
            display_name: account.display_name,
            avatar: None,
            groups: account.groups,
            attributes: BTreeMap::new(),
            password: hash,
            password_changed_at: now,
            two_factor: TwoFactor::default(),
            disabled_at: None,
            data_key: self.storage_key.new_data_key(id),
            created_at: now,
            updated_at: now,
        };
        // The events are sealed under the account's own key, so they are made anew with it.
        while let Err(error) = self.recording(events, &user, client, now)?.run(|store| store.insert_user(&user, by_administrator)).await {
            if !matches!(error, crate::store::Error::OldKey) {
                return Err(error.into());
            }
            // A rotation has begun that this process had not heard of.
            self.storage_key.read_again(&*self.store).await?;
            user.data_key = self.storage_key.new_data_key(id);
        }
        Ok(user)
    }
}

/// An empty name is no name.
pub(super) fn parse_display_name(text: Option<&str>) -> Result<Option<DisplayName>, Error> {
    match text.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => DisplayName::parse(text).map(Some).map_err(|problem| Error::invalid("displayName", problem.to_string())),
    }
}
