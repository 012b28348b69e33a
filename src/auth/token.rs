//! Personal API tokens: made and ended by their owner, shown once.

use super::audit::Event;
use super::live::LiveSession;
use super::reauth::Confirmation;
use super::{Auth, Client, Error};
use crate::clock::Timestamp;
use crate::crypto::{api_token, digest};
use crate::model::{Action, ApiToken, ApiTokenId, Secret, TokenName, TokenScope, User, UserId};
use crate::policy::glob::Glob;
use crate::store::{self, AuditQuery};

/// How many tokens a person may have.
const MAX_TOKENS: usize = 100;

/// How many entries each list of a scope may have.
const MAX_SCOPE: usize = 32;

/// How many tokens that were made are looked at, to find whether one was made before.
const MAX_LOOK_BACK: usize = 200;

/// What is asked for.
#[derive(Debug)]
pub struct NewToken {
    /// The name of its record. A form brings one along, so that it makes one token however often it arrives.
    pub id: ApiTokenId,
    /// As typed.
    pub name: String,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Path globs.
    pub paths: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// Networks.
    pub networks: Vec<String>,
}

impl Auth {
    /// Makes a token for the person of this session. [`Error::Conflict`]: one with this identifier was made before.
    pub async fn create_api_token(
        &self,
        session: &LiveSession,
        new: NewToken,
        confirmation: Confirmation,
        client: &Client,
        now: Timestamp,
    ) -> Result<(Secret<String>, ApiToken), Error> {
        Self::require_full(session)?;
        let checked = check(&new, now)?;
        let user = self.user(session.user()).await?;
        self.require_fresh(session, &user, confirmation, client, now).await?;
        if user.has_second_factor() && !session.standing().0.second_factor() {
            return Err(Error::SecondFactorRequired);
        }
        if self.was_made(user.id, new.id).await? {
            return Err(Error::Conflict);
        }
        self.add_api_token(&user, new.id, checked, new.expires_at, None, client, now).await
    }

    /// Whether a person had a token with this identifier: the log knows of those that have ended.
    async fn was_made(&self, user: UserId, id: ApiTokenId) -> Result<bool, Error> {
        if self.store.api_tokens_of(user).await?.iter().any(|token| token.id == id) {
            return Ok(true);
        }
        let (action, name) = (Some(Action::TokenCreate), id.to_string());
        let made = self.store.audit(&AuditQuery { user: Some(user), action, limit: MAX_LOOK_BACK, ..AuditQuery::default() }).await?;
        Ok(made.iter().any(|event| event.details.get("token") == Some(&name)))
    }

    /// Makes a token for an account; `actor` is who, when it is not its owner.
    pub(super) async fn add_api_token(
        &self,
        user: &User,
        id: ApiTokenId,
        (name, scope): (TokenName, TokenScope),
        expires_at: Option<Timestamp>,
        actor: Option<&str>,
        client: &Client,
        now: Timestamp,
    ) -> Result<(Secret<String>, ApiToken), Error> {
        if self.store.api_tokens_of(user.id).await?.len() >= MAX_TOKENS {
            return Err(Error::invalid("name", "you have 100 API tokens already: delete one first"));
        }
        let secret = api_token::generate();
        let token = ApiToken {
            id,
            user: user.id,
            name,
            digest: digest::sha256(secret.expose().as_bytes()),
            scope,
            created_at: now,
            expires_at,
            last_used_at: None,
        };
        let event = Event::done(Action::TokenCreate).with("token", token.id).by_any(actor);
        let recording = self.recording(&[event], user, client, now)?;
        match recording.run(|store| store.insert_api_token(&token)).await {
            // The same form, twice at once.
            Err(store::Error::Conflict) => return Err(Error::Conflict),
            done => done?,
        }
        self.live.insert_api_token(user, token.clone());
        // As with sessions: the account may have been deleted or disabled since it was read.
        if self.store.user(user.id).await?.is_none() {
            self.live.remove_user(user.id);
            return Err(Error::NotFound);
        }
        Ok((secret, token))
    }

    /// A person's tokens, without their secrets.
    pub async fn api_tokens(&self, session: &LiveSession) -> Result<Vec<ApiToken>, Error> {
        Self::require_full(session)?;
        Ok(self.store.api_tokens_of(session.user()).await?)
    }

    /// Ends one of a person's own tokens: its next use is refused.
    pub async fn delete_api_token(
        &self,
        session: &LiveSession,
        id: ApiTokenId,
        confirmation: Confirmation,
        client: &Client,
        now: Timestamp,
    ) -> Result<(), Error> {
        Self::require_full(session)?;
        let user = self.user(session.user()).await?;
        self.require_fresh(session, &user, confirmation, client, now).await?;
        self.remove_api_token(&user, id, None, client, now).await
    }

    pub(super) async fn remove_api_token(
        &self,
        user: &User,
        id: ApiTokenId,
        actor: Option<&str>,
        client: &Client,
        now: Timestamp,
    ) -> Result<(), Error> {
        let event = Event::done(Action::TokenDelete).with("token", id).by_any(actor);
        if !self.recording(&[event], user, client, now)?.run(|store| store.delete_api_token(user.id, id)).await? {
            return Err(Error::NotFound);
        }
        self.live.end_api_tokens(&[id]);
        Ok(())
    }
}

/// Checks what was asked for.
pub(super) fn check(new: &NewToken, now: Timestamp) -> Result<(TokenName, TokenScope), Error> {
    let name = TokenName::parse(&new.name).map_err(|problem| Error::invalid("name", problem.to_string()))?;
    if new.expires_at.is_some_and(|end| end <= now) {
        return Err(Error::invalid("expiresAt", "must be in the future"));
    }
    for (field, list) in [("paths", &new.paths), ("methods", &new.methods), ("networks", &new.networks)] {
        if list.len() > MAX_SCOPE || list.iter().any(|entry| entry.len() > 256) {
            return Err(Error::invalid(field, "must have at most 32 entries of at most 256 bytes"));
        }
    }
    for path in &new.paths {
        Glob::parse(path).map_err(|problem| Error::invalid("paths", problem.to_string()))?;
    }
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    if !new.methods.iter().all(|method| is_token(method)) {
        return Err(Error::invalid("methods", "must be request methods in capitals, such as GET"));
    }
    let mut networks = Vec::with_capacity(new.networks.len());
    for network in &new.networks {
        let parsed = network.parse().or_else(|_| network.parse::<std::net::IpAddr>().map(Into::into));
        networks.push(parsed.map_err(|_| Error::invalid("networks", "must be addresses or networks, such as 10.0.0.0/8"))?);
    }
    Ok((name, TokenScope { paths: new.paths.clone(), methods: new.methods.clone(), networks }))
}
