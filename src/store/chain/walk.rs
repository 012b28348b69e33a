//! Going along a chain from its base to its head, and saying what is wrong with the first event that does not hold.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Chain, ChainKey, End, Filed, WriterId};
use crate::model::{Digest, EventId};

/// What is wrong with a chain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are an event's number in its chain and its id")]
pub enum Fault {
    /// The chain is gone, and must be there.
    NoChain,
    /// Its beginning is not what was written: it was set to another place, or put back to an older one.
    Base,
    /// Its end is not what was written: events were cut off, or added, and the end was set to match.
    Head,
    /// The event of this number is gone.
    Missing { seq: u64 },
    /// The event of this number is not the one that was written there.
    Changed { seq: u64, id: Option<EventId> },
    /// There are two events of this number, or one after the end.
    Inserted { seq: u64, id: Option<EventId> },
    /// The event is there and as it was written, but listings do not show it as what it is.
    Unlisted { seq: u64, id: EventId },
    /// An exported head names an event beyond the end: the newest ones were cut off.
    CutOff { exported: u64, last: u64 },
    /// An exported head has another link: the log was rewritten up to this event or put back to an older state.
    Rewritten { seq: u64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |id: Option<EventId>| id.map_or_else(String::new, |id| format!(" ({id})"));
        match self {
            Self::NoChain => write!(f, "the whole chain is gone"),
            Self::Base => write!(f, "the chain's beginning is not the one that was signed"),
            Self::Head => write!(f, "the chain's end is not the one that was signed: events were cut off or added"),
            Self::Missing { seq } => write!(f, "event {seq} is missing"),
            Self::Changed { seq, id } => {
                write!(f, "event {seq}{} is not what was written there: it was changed, moved or put in", named(*id))
            }
            Self::Inserted { seq, id } => write!(f, "event {seq}{} was put in", named(*id)),
            Self::Unlisted { seq, id } => {
                write!(f, "event {seq} ({id}) is there, but is not listed under its own time, account and action")
            }
            Self::CutOff { exported, last } => {
                write!(f, "the exported head is event {exported}, and the last one here is event {last}: the newest were cut off")
            }
            Self::Rewritten { seq } => write!(f, "event {seq} is not the one of the exported head: the log before it was rewritten"),
        }
    }
}

/// How far a chain was found to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Walk {
    /// Up to and with the event of this number.
    pub seq: u64,
    /// Its link.
    pub link: Digest,
}

impl Walk {
    /// At a chain's base, if both of its ends are signed.
    pub fn begin(key: &ChainKey, chain: &Chain) -> Result<Self, Fault> {
        if !key.is_signed(End::Base, chain.writer, &chain.base) {
            return Err(Fault::Base);
        }
        if !key.is_signed(End::Head, chain.writer, &chain.head) || chain.head.seq < chain.base.seq {
            return Err(Fault::Head);
        }
        Ok(Self { seq: chain.base.seq, link: chain.base.link })
    }

    /// On to the next event.
    pub fn step(&mut self, key: &ChainKey, writer: WriterId, next: &Filed) -> Result<(), Fault> {
        let expected = self.seq.saturating_add(1);
        let id = next.stored.as_ref().and_then(|stored| stored.event().ok()).map(|event| event.id);
        if next.seq > expected {
            return Err(Fault::Missing { seq: expected });
        }
        if next.seq < expected {
            return Err(Fault::Inserted { seq: next.seq, id });
        }
        let Some(stored) = &next.stored else { return Err(Fault::Missing { seq: expected }) };
        let link = key.link(writer, expected, &self.link, &stored.record);
        let is_here = stored.place.is_some_and(|place| place.writer == writer && place.seq == expected && place.link == link);
        let Some(id) = id.filter(|_| is_here) else { return Err(Fault::Changed { seq: expected, id }) };
        if !next.is_listed {
            return Err(Fault::Unlisted { seq: expected, id });
        }
        *self = Self { seq: expected, link };
        Ok(())
    }

    /// At the end: whether it is the chain's.
    pub fn arrive(&self, chain: &Chain) -> Result<(), Fault> {
        if self.seq < chain.head.seq {
            return Err(Fault::Missing { seq: self.seq.saturating_add(1) });
        }
        if self.seq == chain.head.seq && self.link == chain.head.link { Ok(()) } else { Err(Fault::Head) }
    }

    /// Whether an exported head says the same of the event that was come to.
    pub fn meets(&self, exported: &Self) -> Result<(), Fault> {
        if self.seq == exported.seq && self.link != exported.link { Err(Fault::Rewritten { seq: self.seq }) } else { Ok(()) }
    }
}
