//! The chains of the audit log: what ties an event to the one before it, so that nobody without the key can remove,
//! change, insert or move one unnoticed.
//!
//! ```text
//! base --link--> event 1 --link--> event 2 ... --link--> head
//! link(n) = HMAC-SHA-256(key, writer, n, link(n-1), the stored bytes of event n)        RFC 2104
//! ```
//!
//! A writer is whoever writes one event after the other: a data folder is one; in a shared database there are as many as
//! ever wrote at the same moment, so that nobody waits for another's turn. Base and head are signed as well: the base is
//! where a chain began, or what retention has left of its beginning; the head is where it ends. Who has the key can make
//! all of this up, and who has an older copy of the store can put that back: both show against a head that is kept elsewhere.

#[cfg(test)]
mod tests;
mod walk;

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Error, Store, record};
use crate::clock::Timestamp;
use crate::model::{AuditEvent, Digest, EventId};

pub use walk::{Fault, Walk};

/// The part of a store that keeps the audit log's chains.
#[async_trait]
pub trait AuditLog: Debug + Send + Sync {
    /// What events are chained with from now on. Without it they are kept unchained, which [`AuditLog::unchained`] tells.
    fn set_chain_key(&self, key: ChainKey);

    /// This store, for one write of an account, a session or an API token that `events` tell of: they are written in its
    /// transaction, if it does what it is asked. [`Error::Unrecorded`]: they can't be, and nothing was done.
    fn recording(&self, events: Vec<AuditEvent>) -> Arc<dyn Store>;

    /// The chains, in the order of their writers.
    async fn chains(&self) -> Result<Vec<Chain>, Error>;

    /// At most `limit` events of a chain after the one with the number `after`, in order.
    async fn chained(&self, writer: WriterId, after: u64, limit: usize) -> Result<Vec<Filed>, Error>;

    /// At most `limit` events that stand in no chain.
    async fn unchained(&self, limit: usize) -> Result<Vec<EventId>, Error>;
}

/// Who wrote a chain; counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterId(pub u32);

impl WriterId {
    /// The first one.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Where an event stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// In whose chain.
    pub writer: WriterId,
    /// Its number there, from 1, without a gap.
    pub seq: u64,
    /// Ties it to everything before it.
    pub link: Digest,
}

/// An event as it is stored: the bytes that its link was made from, whichever release wrote them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredEvent {
    /// `None`: it is in no chain.
    pub place: Option<Place>,
    /// The record.
    #[serde(with = "crate::model::base64_bytes")]
    pub record: Vec<u8>,
}

impl StoredEvent {
    /// An event in no chain.
    pub fn unchained(event: &AuditEvent) -> Result<Self, Error> {
        Ok(Self { place: None, record: record::encode(event)? })
    }

    /// What the record says.
    pub fn event(&self) -> Result<AuditEvent, Error> {
        record::decode(&self.record)
    }
}

/// An event of a chain, and whether the store lists it as what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filed {
    /// Its number.
    pub seq: u64,
    /// It; `None`: only its number is there.
    pub stored: Option<StoredEvent>,
    /// Whether listings show it under its own time, account and action.
    pub is_listed: bool,
}

/// One end of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// The number of the event that it stands for; 0: before the first.
    pub seq: u64,
    /// That event's link.
    pub link: Digest,
    /// When that event happened; for a base, when it was made.
    pub at: Timestamp,
    /// Shows that the key's owner put it there.
    mac: Digest,
}

/// Both ends of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// Whose.
    pub writer: WriterId,
    /// Everything up to here is gone, or was never there.
    pub base: Mark,
    /// The last event.
    pub head: Mark,
}

/// What chains are made with: 32 secret bytes that belong to the log, and stay what they are when the master key changes.
#[derive(Clone)]
pub struct ChainKey(Zeroizing<[u8; 32]>);

impl Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainKey(..)")
    }
}

impl ChainKey {
    /// From the bytes.
    pub const fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// A new chain. Two of the same writer never begin alike, so that one can't stand in for the other.
    pub fn begin(&self, writer: WriterId, at: Timestamp) -> Chain {
        let link = self.mac(b"genesis", &[&writer.0.to_be_bytes(), Uuid::now_v7().as_bytes()]);
        let base = self.sign(End::Base, writer, 0, link, at);
        Chain { writer, base, head: self.sign(End::Head, writer, 0, link, at) }
    }

    /// Puts an event with this record at the chain's end, and says where that is.
    pub fn append(&self, chain: &mut Chain, record: &[u8], at: Timestamp) -> Place {
        let writer = chain.writer;
        let seq = chain.head.seq.saturating_add(1);
        let link = self.link(writer, seq, &chain.head.link, record);
        chain.head = self.sign(End::Head, writer, seq, link, at);
        Place { writer, seq, link }
    }

    /// Lets the chain begin after the event that stands at `place`.
    pub fn cut(&self, chain: &mut Chain, place: &Place, at: Timestamp) {
        chain.base = self.sign(End::Base, chain.writer, place.seq, place.link, at);
    }

    fn link(&self, writer: WriterId, seq: u64, before: &Digest, record: &[u8]) -> Digest {
        self.mac(b"event", &[&writer.0.to_be_bytes(), &seq.to_be_bytes(), before.as_bytes(), record])
    }

    fn sign(&self, end: End, writer: WriterId, seq: u64, link: Digest, at: Timestamp) -> Mark {
        let label: &[u8] = match end {
            End::Base => b"base",
            End::Head => b"head",
        };
        let mac = self.mac(label, &[&writer.0.to_be_bytes(), &seq.to_be_bytes(), link.as_bytes(), &at.as_millis().to_be_bytes()]);
        Mark { seq, link, at, mac }
    }

    fn is_signed(&self, end: End, writer: WriterId, mark: &Mark) -> bool {
        self.sign(end, writer, mark.seq, mark.link, mark.at) == *mark
    }

    /// Only the last part may have any length, and a label is followed by NUL, so that no two inputs are the same bytes.
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    fn mac(&self, label: &[u8], parts: &[&[u8]]) -> Digest {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("any length will do");
        mac.update(label);
        mac.update(&[0]);
        for part in parts {
            mac.update(part);
        }
        Digest(mac.finalize().into_bytes().into())
    }
}

#[derive(Clone, Copy)]
enum End {
    Base,
    Head,
}
