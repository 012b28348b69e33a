//! Getting in the first time: a one-time link, or an administrator named in the configuration.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::audit::Event;
use super::register::NewAccount;
use super::session::Begin;
use super::{Auth, Client, Error, Issued};
use crate::clock::Timestamp;
use crate::config::BootstrapAdmin;
use crate::crypto::{digest, random};
use crate::model::{Action, Amr, Digest, Group, Secret, User};
use crate::store::UserQuery;

/// How long a set-up link is good.
pub const SETUP_LIFE: Duration = Duration::from_secs(24 * 3600);

const SETUP_META: &str = "setup";

/// The link that is good now, as the store keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct SetupRecord {
    code: Digest,
    until: Timestamp,
    /// What the code is made from, with the storage key.
    #[serde(default)]
    seed: Option<Digest>,
}

impl Auth {
    /// Whether an enabled administrator exists.
    pub async fn has_administrator(&self) -> Result<bool, Error> {
        let admins = UserQuery { group: Some(self.admin_group().clone()), limit: 100, ..UserQuery::default() };
        let mut query = admins;
        loop {
            let page = self.store.users(&query).await?;
            if page.iter().any(|user| !user.is_disabled()) {
                return Ok(true);
            }
            let Some(last) = page.last() else { return Ok(false) };
            query.after = Some(last.id);
        }
    }

    /// The administrators' group.
    pub const fn admin_group(&self) -> &Group {
        &self.admin_group
    }

    /// Makes the code of a new set-up link; older ones are void. Where others share the store it is theirs, as long as
    /// that is good: each of them says it at its start, and all of them say the same.
    pub async fn new_setup_code(&self, now: Timestamp) -> Result<Secret<String>, Error> {
        loop {
            let before = self.store.meta(SETUP_META).await?;
            let record: Option<SetupRecord> = before.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok());
            if self.live.is_shared()
                && let Some(record) = record.filter(|record| now < record.until)
                && let Some(seed) = record.seed
            {
                let code = self.setup_code(&seed);
                if digest::sha256(code.expose().as_bytes()) == record.code {
                    return Ok(code);
                }
            }
            let seed = Digest(random::bytes());
            let code = self.setup_code(&seed);
            let record = SetupRecord { code: digest::sha256(code.expose().as_bytes()), until: now.plus(SETUP_LIFE), seed: Some(seed) };
            let bytes = serde_json::to_vec(&record).map_err(|error| Error::Internal(error.to_string()))?;
            if self.store.swap_meta(SETUP_META, before.as_deref(), Some(&bytes)).await? {
                return Ok(code);
            }
        }
    }

    /// Whoever reads the store can't make it: that takes the storage key as well.
    fn setup_code(&self, seed: &Digest) -> Secret<String> {
        Secret::new(URL_SAFE_NO_PAD.encode(self.storage_key.hmac("setup", seed.as_bytes()).as_bytes()))
    }

    /// Whether a set-up code is good now.
    pub async fn check_setup_code(&self, code: &str, now: Timestamp) -> Result<(), Error> {
        self.read_setup(code, now).await.map(|_| ())
    }

    async fn read_setup(&self, code: &str, now: Timestamp) -> Result<Vec<u8>, Error> {
        let bytes = self.store.meta(SETUP_META).await?.ok_or(Error::SetupExpired)?;
        let record: SetupRecord = serde_json::from_slice(&bytes).map_err(|_| Error::SetupExpired)?;
        let given = digest::sha256(code.as_bytes());
        if !digest::same(given.as_bytes(), record.code.as_bytes()) || now >= record.until || self.has_administrator().await? {
            return Err(Error::SetupExpired);
        }
        Ok(bytes)
    }

    /// Makes the first administrator. The code is spent by it, once.
    pub async fn set_up(&self, code: &str, new: NewAccount, cookie: bool, client: &Client, now: Timestamp) -> Result<Issued, Error> {
        self.count_attempt(client, now)?;
        let record = match self.read_setup(code, now).await {
            Err(expired @ Error::SetupExpired) => {
                self.record(Event::refused(Action::SetupComplete), None, client, now).await?;
                return Err(expired);
            }
            read => read?,
        };
        let mut account = self.check_account(new)?;
        account.groups.insert(self.admin_group().clone());
        if self.store.user_by_email(&account.email).await?.is_some() {
            return Err(Error::AddressTaken);
        }
        if !self.store.swap_meta(SETUP_META, Some(&record), None).await? {
            return Err(Error::SetupExpired);
        }
        let events = [Event::done(Action::UserRegister), Event::done(Action::SetupComplete)];
        let user = self.insert_account(account, true, &events, client, now).await?;
        let fitness = self.fitness_of(&user);
        self.begin(user, Begin { amr: Amr::PASSWORD, auth_time: now, fitness, cookie }, &[], client, now).await
    }

    /// Makes the administrator that the configuration names, if there is none.
    pub async fn bootstrap(&self, admin: &BootstrapAdmin, now: Timestamp) -> Result<User, Error> {
        let new = NewAccount { email: admin.email.to_string(), password: admin.password.clone(), display_name: None };
        let mut account = self.check_account(new)?;
        account.groups.insert(self.admin_group().clone());
        let events = [Action::UserRegister, Action::SetupComplete].map(|action| Event::done(action).by("config"));
        self.insert_account(account, true, &events, &Client::local(), now).await
    }
}
