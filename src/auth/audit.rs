//! Writing down what happened: with what is done, in one transaction, or by itself where nothing is done.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::fmt;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Auth, Client, Counters, Error};
use crate::clock::Timestamp;
use crate::crypto::seal::{DataKey, Purpose};
use crate::model::{Action, AuditEvent, Email, EventId, Outcome, Sealed, User, UserId};
use crate::store::{self, AuditQuery, Store};

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
#[derive(Clone, Debug)]
pub(super) struct Event {
    action: Action,
    outcome: Outcome,
    actor: Option<String>,
    details: BTreeMap<String, String>,
}

impl Event {
    /// Something that was done.
    pub(super) const fn done(action: Action) -> Self {
        Self { action, outcome: Outcome::Success, actor: None, details: BTreeMap::new() }
    }

    /// Something that was refused.
    pub(super) const fn refused(action: Action) -> Self {
        Self { action, outcome: Outcome::Failure, actor: None, details: BTreeMap::new() }
    }

    /// By somebody else than the account's owner.
    pub(super) fn by(mut self, actor: &str) -> Self {
        self.actor = Some(actor.to_owned());
        self
    }

    /// By somebody else, if there is one.
    pub(super) fn by_any(self, actor: Option<&str>) -> Self {
        match actor {
            Some(actor) => self.by(actor),
            None => self,
        }
    }

    /// With a small fact.
    pub(super) fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.details.insert(key.to_owned(), value.to_string());
        self
    }
}

/// Something that is about to be done, and what will tell of it.
#[must_use = "nothing is recorded before something is done with it"]
#[derive(Debug)]
pub(super) struct Recording<'a> {
    auth: &'a Auth,
    /// `None`: it can't be recorded, and may be done all the same.
    store: Option<Arc<dyn Store>>,
}

impl Recording<'_> {
    /// Does one thing with the store, and records it in the same transaction. When it can't be recorded it is done without,
    /// which is counted and logged; with `audit.required` it is not done: [`store::Error::Unrecorded`].
    pub(super) async fn run<'s, T>(
        &'s self,
        act: impl Fn(&'s dyn Store) -> BoxFuture<'s, Result<T, store::Error>>,
    ) -> Result<T, store::Error> {
        if let Some(store) = &self.store {
            match act(&**store).await {
                Err(store::Error::Unrecorded(why)) => self.auth.not_recorded(*why)?,
                done => return done,
            }
        }
        act(&*self.auth.store).await
    }
}

/// An event as its owner or an administrator may see it.
#[derive(Debug)]
pub struct EventView {
    /// The record.
    pub event: AuditEvent,
    /// The address of the account that it is about, while there is one.
    pub email: Option<Email>,
    /// The client's address.
    pub ip: Option<String>,
    /// The client's browser.
    pub user_agent: Option<String>,
}

impl EventView {
    fn new(event: AuditEvent, email: Option<Email>, opened: Option<impl AsRef<[u8]>>) -> Self {
        let client: Option<ClientRecord> = opened.and_then(|plain| serde_json::from_slice(plain.as_ref()).ok());
        let (ip, user_agent) = client.map_or((None, None), |client| (Some(client.ip), client.user_agent));
        Self { event, email, ip, user_agent }
    }
}

impl Auth {
    /// Prepares to record `events`, all about `user` or about no account, with the one thing that [`Recording::run`] does.
    pub(super) fn recording<'u>(
        &self,
        events: &[Event],
        user: impl Into<Option<&'u User>>,
        client: &Client,
        now: Timestamp,
    ) -> Result<Recording<'_>, Error> {
        let user = user.into();
        let records = events.iter().map(|event| self.seal_event(event.clone(), user, client, now));
        let store = match records.collect::<Result<Vec<_>, Error>>() {
            Ok(records) => Some(self.store.recording(records)),
            Err(error) => {
                self.not_recorded(store::Error::Corrupt(error.to_string()))?;
                None
            }
        };
        Ok(Recording { auth: self, store })
    }

    /// Writes down what happened, where nothing is written otherwise. A failure is counted and logged, and an error only
    /// with `audit.required`.
    pub(super) async fn record(&self, event: Event, user: Option<&User>, client: &Client, now: Timestamp) -> Result<(), Error> {
        let written = match self.seal_event(event, user, client, now) {
            Ok(record) => self.store.append_audit(&record).await,
            Err(error) => Err(store::Error::Corrupt(error.to_string())),
        };
        Ok(written.or_else(|why| self.not_recorded(why))?)
    }

    /// The same for what is done already and can't be undone.
    pub(super) async fn record_done(&self, event: Event, user: Option<&User>, client: &Client, now: Timestamp) {
        // It was counted and logged.
        let _unrecorded = self.record(event, user, client, now).await;
    }

    /// Counts and logs that something was not recorded. An error: then it must not be done.
    fn not_recorded(&self, why: store::Error) -> Result<(), store::Error> {
        Counters::add(&self.counters.audit_failures);
        let required = self.settings().audit.required;
        tracing::error!(error = %why, required, "an audit event could not be written");
        if required { Err(store::Error::Unrecorded(Box::new(why))) } else { Ok(()) }
    }

    fn seal_event(&self, event: Event, user: Option<&User>, client: &Client, now: Timestamp) -> Result<AuditEvent, Error> {
        let id = EventId::new();
        Ok(AuditEvent {
            id,
            at: now,
            action: event.action,
            outcome: event.outcome,
            user: user.map(|user| user.id),
            actor: event.actor,
            client: Some(self.seal_client(user, id.as_bytes(), client)?),
            request_id: client.request_id.clone(),
            details: event.details,
        })
    }

    fn seal_client(&self, user: Option<&User>, record: &[u8], client: &Client) -> Result<Sealed, Error> {
        let plain = serde_json::to_vec(&ClientRecord::of(client)).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(match user {
            Some(user) => self.data_key(user)?.seal(Purpose::AuditClient, record, &plain),
            None => self.storage_key.seal(Purpose::AuditClient, record, &plain),
        })
    }

    /// A person's own events, newest first.
    pub async fn own_events(&self, user: UserId, action: Option<Action>, offset: usize, limit: usize) -> Result<Vec<EventView>, Error> {
        let query = AuditQuery { user: Some(user), action, offset, limit, ..AuditQuery::default() };
        let owner = self.user(user).await?;
        let key = self.data_key(&owner)?;
        let events = self.store.audit(&query).await?;
        Ok(events
            .into_iter()
            .map(|event| {
                let opened = opened(&key, &event);
                EventView::new(event, Some(owner.email.clone()), opened)
            })
            .collect())
    }

    /// Anybody's events, newest first, for who runs this. What was sealed for an account that is gone stays sealed.
    pub async fn events(&self, query: &AuditQuery) -> Result<Vec<EventView>, Error> {
        let events = self.store.audit(query).await?;
        let mut known: HashMap<UserId, Option<(Email, DataKey)>> = HashMap::new();
        let mut views = Vec::with_capacity(events.len());
        for event in events {
            let Some(id) = event.user else {
                let opened =
                    event.client.as_ref().and_then(|sealed| self.storage_key.open(Purpose::AuditClient, event.id.as_bytes(), sealed).ok());
                views.push(EventView::new(event, None, opened));
                continue;
            };
            if let Entry::Vacant(place) = known.entry(id) {
                let owner = self.store.user(id).await?;
                place.insert(owner.map(|owner| Ok::<_, Error>((owner.email.clone(), self.data_key(&owner)?))).transpose()?);
            }
            views.push(match known.get(&id) {
                Some(Some((email, key))) => {
                    let opened = opened(key, &event);
                    EventView::new(event, Some(email.clone()), opened)
                }
                Some(None) | None => EventView::new(event, None, None::<Vec<u8>>),
            });
        }
        Ok(views)
    }
}

fn opened(key: &DataKey, event: &AuditEvent) -> Option<impl AsRef<[u8]> + use<>> {
    event.client.as_ref().and_then(|sealed| key.open(Purpose::AuditClient, event.id.as_bytes(), sealed).ok()).map(|plain| plain.to_vec())
}
