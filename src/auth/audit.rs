//! Writing down what happened, and reading it back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Auth, Client, Counters, Error};
use crate::clock::Timestamp;
use crate::crypto::seal::Purpose;
use crate::model::{Action, AuditEvent, EventId, Outcome, Sealed, User, UserId};
use crate::store::AuditQuery;

/// Where a request came from, as it is sealed in sessions and events.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ClientRecord {
    pub(super) ip: String,
    #[serde(default)]
    pub(super) user_agent: Option<String>,
}

impl ClientRecord {
    pub(super) fn of(client: &Client) -> Self {
        Self { ip: client.ip.to_canonical().to_string(), user_agent: client.user_agent.clone() }
    }
}

/// An event being put together.
#[derive(Debug)]
pub(super) struct Event<'a> {
    action: Action,
    outcome: Outcome,
    user: Option<&'a User>,
    actor: Option<String>,
    details: BTreeMap<String, String>,
}

impl<'a> Event<'a> {
    /// Something that was done.
    pub(super) const fn done(action: Action, user: &'a User) -> Self {
        Self { action, outcome: Outcome::Success, user: Some(user), actor: None, details: BTreeMap::new() }
    }

    /// Something that was refused.
    pub(super) const fn refused(action: Action, user: Option<&'a User>) -> Self {
        Self { action, outcome: Outcome::Failure, user, actor: None, details: BTreeMap::new() }
    }

    /// By somebody else than the account's owner.
    pub(super) fn by(mut self, actor: &str) -> Self {
        self.actor = Some(actor.to_owned());
        self
    }

    /// With a small fact.
    pub(super) fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.details.insert(key.to_owned(), value.to_string());
        self
    }
}

/// An event as its owner or an administrator may see it.
#[derive(Debug)]
pub struct EventView {
    /// The record.
    pub event: AuditEvent,
    /// The client's address.
    pub ip: Option<String>,
    /// The client's browser.
    pub user_agent: Option<String>,
}

impl Auth {
    /// Writes an event down. A failure is counted and logged; it does not undo what was done.
    pub(super) async fn record(&self, event: Event<'_>, client: &Client, now: Timestamp) {
        let id = EventId::new();
        let sealed = self.seal_client(event.user, id.as_bytes(), client);
        let (sealed, failed) = match sealed {
            Ok(sealed) => (Some(sealed), false),
            Err(error) => {
                tracing::error!(%error, "an audit event is written without the client's address");
                (None, true)
            }
        };
        let record = AuditEvent {
            id,
            at: now,
            action: event.action,
            outcome: event.outcome,
            user: event.user.map(|user| user.id),
            actor: event.actor,
            client: sealed,
            request_id: client.request_id.clone(),
            details: event.details,
        };
        let written = self.store.append_audit(&record).await;
        if let Err(error) = &written {
            tracing::error!(%error, action = %record.action, "an audit event could not be written");
        }
        if failed || written.is_err() {
            Counters::add(&self.counters.audit_failures);
        }
    }

    fn seal_client(&self, user: Option<&User>, record: &[u8], client: &Client) -> Result<Sealed, Error> {
        let plain = serde_json::to_vec(&ClientRecord::of(client)).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(match user {
            Some(user) => self.storage_key.data_key(user.id, &user.data_key)?.seal(Purpose::AuditClient, record, &plain),
            None => self.storage_key.seal(Purpose::AuditClient, record, &plain),
        })
    }

    /// A person's own events, newest first.
    pub async fn own_events(&self, user: UserId, action: Option<Action>, offset: usize, limit: usize) -> Result<Vec<EventView>, Error> {
        let query = AuditQuery { user: Some(user), action, since: None, offset, limit };
        let owner = self.user(user).await?;
        let key = self.storage_key.data_key(owner.id, &owner.data_key)?;
        let events = self.store.audit(&query).await?;
        Ok(events
            .into_iter()
            .map(|event| {
                let opened = event.client.as_ref().and_then(|sealed| key.open(Purpose::AuditClient, event.id.as_bytes(), sealed).ok());
                let client: Option<ClientRecord> = opened.and_then(|plain| serde_json::from_slice(&plain).ok());
                let (ip, user_agent) = client.map_or((None, None), |client| (Some(client.ip), client.user_agent));
                EventView { event, ip, user_agent }
            })
            .collect())
    }
}
