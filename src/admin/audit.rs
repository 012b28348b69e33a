//! The audit log for who runs this: shown, exported and proven whole, a page at a time, so that nobody keeps all of it in
//! memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::command::{CommandError, PAGE, Who, find, refusal};
use crate::auth::Auth;
use crate::auth::audit::EventView;
use crate::auth::chain::Verified;
use crate::clock::Timestamp;
use crate::model::{Action, Email, EventId, Outcome, UserId};
use crate::store::AuditQuery;
use crate::store::chain::{Filed, Mark, Walk, WriterId};

/// A question about the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", rename_all_fields = "snake_case", deny_unknown_fields)]
pub enum AuditCommand {
    /// At most [`PAGE`] events, newest first.
    List {
        /// Which.
        filter: Filter,
        /// Only those that come after this one.
        before: Option<(Timestamp, EventId)>,
    },
    /// Both ends of the chains.
    Chains,
    /// The next events of a chain, as they are stored.
    Entries {
        /// Whose.
        writer: WriterId,
        /// After the one with this number.
        after: u64,
        /// Which of them.
        filter: Filter,
    },
    /// Goes on proving that a chain is whole.
    Verify {
        /// Whose.
        writer: WriterId,
        /// How far it was found to hold; `None`: it begins here.
        from: Option<Walk>,
        /// A head of this chain that was kept elsewhere.
        exported: Option<Walk>,
    },
    /// The first few events that stand in no chain.
    Strays,
}

/// Which events are meant. A condition that is not given always holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// About this account. One that was deleted is named by its id.
    pub who: Option<Who>,
    /// Of this action.
    pub action: Option<Action>,
    /// Not older than this.
    pub since: Option<Timestamp>,
}

/// What is to say about the log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditAnswer {
    /// Events, newest first.
    Events {
        /// They.
        events: Vec<EventRow>,
        /// What to ask for with `before`; `None`: that was all.
        next: Option<(Timestamp, EventId)>,
    },
    /// The chains, in the order of their writers.
    Chains(Vec<ChainRow>),
    /// Events of a chain.
    Entries {
        /// Those that were meant.
        entries: Vec<EntryRow>,
        /// What to ask for with `after`; `None`: there are no more.
        last: Option<u64>,
    },
    /// How far a chain holds.
    Verified(Verified),
    /// Events that stand in no chain.
    Strays(Vec<EventId>),
}

/// An event, with what could be opened of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of model::AuditEvent")]
pub struct EventRow {
    pub id: EventId,
    pub at: String,
    pub action: Action,
    pub outcome: Outcome,
    pub user: Option<UserId>,
    /// The account's address, while there is an account.
    pub email: Option<Email>,
    pub actor: Option<String>,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
    pub details: BTreeMap<String, String>,
}

impl From<EventView> for EventRow {
    fn from(view: EventView) -> Self {
        let EventView { event, email, ip, user_agent } = view;
        Self {
            id: event.id,
            at: event.at.to_string(),
            action: event.action,
            outcome: event.outcome,
            user: event.user,
            email,
            actor: event.actor,
            ip,
            user_agent,
            request_id: event.request_id,
            details: event.details,
        }
    }
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRow {
    /// Whose.
    pub writer: WriterId,
    /// Where it begins.
    pub base: EndRow,
    /// Where it ends.
    pub head: EndRow,
}

/// One end of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRow {
    /// The event's number, its link.
    #[serde(flatten)]
    pub at: Walk,
    /// When it happened; for a base, when it was made.
    pub time: String,
}

impl From<&Mark> for EndRow {
    fn from(mark: &Mark) -> Self {
        Self { at: Walk { seq: mark.seq, link: mark.link }, time: mark.at.to_string() }
    }
}

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRow {
    /// Its number and its link.
    #[serde(flatten)]
    pub at: Walk,
    /// When it happened.
    pub time: String,
    /// The record's own text, which the link was made from: JSON.
    pub record: String,
}

/// Answers a question.
pub(super) async fn execute(auth: &Auth, command: AuditCommand) -> Result<AuditAnswer, CommandError> {
    match command {
        AuditCommand::List { filter, before } => {
            let user = account(auth, &filter).await?;
            let query = AuditQuery { user, action: filter.action, since: filter.since, before, offset: 0, limit: PAGE };
            let events = auth.events(&query).await.map_err(refusal)?;
            let next = events.last().filter(|_| events.len() == PAGE).map(|last| (last.event.at, last.event.id));
            Ok(AuditAnswer::Events { events: events.into_iter().map(EventRow::from).collect(), next })
        }
        AuditCommand::Chains => {
            let row = |chain: crate::store::chain::Chain| ChainRow {
                writer: chain.writer,
                base: EndRow::from(&chain.base),
                head: EndRow::from(&chain.head),
            };
            Ok(AuditAnswer::Chains(auth.audit_chains().await.map_err(refusal)?.into_iter().map(row).collect()))
        }
        AuditCommand::Entries { writer, after, filter } => {
            let user = account(auth, &filter).await?;
            let found = auth.audit_entries(writer, after).await.map_err(refusal)?;
            let last = found.last().map(|last| last.seq);
            let entries = found.iter().map(|filed| entry(filed, &filter, user)).collect::<Result<Vec<_>, _>>()?;
            Ok(AuditAnswer::Entries { entries: entries.into_iter().flatten().collect(), last })
        }
        AuditCommand::Verify { writer, from, exported } => {
            Ok(AuditAnswer::Verified(auth.verify_audit(writer, from, exported).await.map_err(refusal)?))
        }
        AuditCommand::Strays => Ok(AuditAnswer::Strays(auth.audit_strays().await.map_err(refusal)?)),
    }
}

async fn account(auth: &Auth, filter: &Filter) -> Result<Option<UserId>, CommandError> {
    match &filter.who {
        Some(who) => find(auth, who).await.map(Some),
        None => Ok(None),
    }
}

/// `None`: it is not meant. What is damaged is no reason to stop an export halfway, but neither to be silent.
fn entry(filed: &Filed, filter: &Filter, user: Option<UserId>) -> Result<Option<EntryRow>, CommandError> {
    let damaged = || CommandError::Failed(format!("event {} can't be read: see `nullpass audit verify`", filed.seq));
    let stored = filed.stored.as_ref().ok_or_else(damaged)?;
    let event = stored.event().map_err(|_| damaged())?;
    let place = stored.place.as_ref().ok_or_else(damaged)?;
    let meant = user.is_none_or(|user| event.user == Some(user))
        && filter.action.is_none_or(|action| event.action == action)
        && filter.since.is_none_or(|since| event.at >= since);
    if !meant {
        return Ok(None);
    }
    // After the version of the record's form.
    let text = stored.record.get(1..).and_then(|json| str::from_utf8(json).ok()).ok_or_else(damaged)?;
    let at = Walk { seq: filed.seq, link: place.link };
    Ok(Some(EntryRow { at, time: event.at.to_string(), record: text.to_owned() }))
}
