//! Carrying a whole state from one store to another: what a state consists of, how two are compared, and the mark that
//! keeps everybody away from one that is only half there. How it is done step by step is in `admin::migrate`.

use std::fmt::{self, Debug};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::chain::{Chain, StoredEvent};
use super::{Error, Purpose, SigningKeyRecord, Store};
use crate::clock::Timestamp;
use crate::model::{ApiToken, Digest, Lock, LockKey, Session, User, UserId};

/// The named value that stands in a store while an import is under way. It is no part of the state.
pub const MARKER: &str = "import";

/// The most items in one call of [`Transfer::import`] and one answer of [`Export::next`].
pub const BATCH: usize = 1000;

/// A store whose whole state can be taken out and put in. The use cases do not see this half of it.
#[async_trait]
pub trait Transfer: Store {
    /// How many other processes use the store now, as far as it can tell; none can use a data folder that is open here.
    async fn others(&self) -> Result<u64, Error>;

    /// The whole state as it is at one moment, as far as the backend can say that: what others write meanwhile is not
    /// in it.
    async fn export(&self) -> Result<Box<dyn Export>, Error>;

    /// Writes items as they are, at most [`BATCH`], replacing those of the same key: doing it twice is doing it once. An
    /// account comes before what belongs to it. Durable when it returns. [`Error::Stale`]: the value of [`MARKER`] is not
    /// `marker`, and not one more item was written: this is a store in use, or another run has taken it over.
    async fn import(&self, marker: &[u8], items: &[Item]) -> Result<(), Error>;

    /// Removes everything but the [`MARKER`]. [`Error::Stale`]: its value is not `marker`, and nothing more was removed.
    /// Broken off it has removed a part; repeat it.
    async fn discard_import(&self, marker: &[u8]) -> Result<(), Error>;
}

/// A state being read.
#[async_trait]
pub trait Export: Debug + Send {
    /// The next items, in the order of [`Kind::ALL`] and within a kind in an order of the backend's own, which is the same
    /// each time the same state is read; none: that was all.
    async fn next(&mut self) -> Result<Vec<Item>, Error>;
}

/// One thing that is stored, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A small named value of the installation; never the [`MARKER`].
    Meta {
        /// Its name.
        name: String,
        /// It.
        #[serde(with = "crate::model::base64_bytes")]
        value: Vec<u8>,
    },
    /// A signing key.
    SigningKey(SigningKeyRecord),
    /// That an address belonged to an account that was deleted.
    RetiredAddress {
        /// SHA-256 of the address.
        digest: Digest,
        /// When the account was deleted.
        at: Timestamp,
    },
    /// An account, with its revision.
    User(Box<User>),
    /// The last TOTP step that an account spent.
    TotpStep {
        /// Whose.
        user: UserId,
        /// The step (RFC 6238, section 4.2).
        step: u64,
    },
    /// A session, with its generation and its known tokens.
    Session(Session),
    /// A personal API token.
    ApiToken(ApiToken),
    /// Failures that were counted.
    Lock {
        /// For what.
        key: LockKey,
        /// How many, and until when nobody may try.
        lock: Lock,
    },
    /// A one-time thing that was used.
    Spent {
        /// What it was for.
        purpose: Purpose,
        /// SHA-256 of it.
        digest: Digest,
        /// When it may be forgotten.
        until: Timestamp,
    },
    /// An entry of the audit log, with its place in its chain.
    AuditEvent(StoredEvent),
    /// Both ends of a chain of the audit log.
    AuditChain(Chain),
}

impl Item {
    /// What it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Meta { .. } => Kind::Meta,
            Self::SigningKey(_) => Kind::SigningKey,
            Self::RetiredAddress { .. } => Kind::RetiredAddress,
            Self::User(_) => Kind::User,
            Self::TotpStep { .. } => Kind::TotpStep,
            Self::Session(_) => Kind::Session,
            Self::ApiToken(_) => Kind::ApiToken,
            Self::Lock { .. } => Kind::Lock,
            Self::Spent { .. } => Kind::Spent,
            Self::AuditEvent(_) => Kind::AuditEvent,
            Self::AuditChain(_) => Kind::AuditChain,
        }
    }

    /// The one text of it, whichever store it comes from: JSON without white space, fields in the order of their types,
    /// sets and maps in the order of their keys.
    fn canonical(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(|error| Error::Corrupt(format!("{}: {error}", self.kind())))
    }
}

/// What there is to carry, in the order in which it is carried: an account before what belongs to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Named values of the installation.
    Meta,
    /// Signing keys.
    SigningKey,
    /// Addresses of deleted accounts.
    RetiredAddress,
    /// Accounts.
    User,
    /// Spent TOTP steps.
    TotpStep,
    /// Sessions.
    Session,
    /// API tokens.
    ApiToken,
    /// Counted failures.
    Lock,
    /// Spent one-time things.
    Spent,
    /// The audit log.
    AuditEvent,
    /// Its chains.
    AuditChain,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Meta,
        Self::SigningKey,
        Self::RetiredAddress,
        Self::User,
        Self::TotpStep,
        Self::Session,
        Self::ApiToken,
        Self::Lock,
        Self::Spent,
        Self::AuditEvent,
        Self::AuditChain,
    ];

    /// The kind after this one.
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|other| *other > self)
    }
}

/// For people.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Meta => "settings of the installation",
            Self::SigningKey => "signing keys",
            Self::RetiredAddress => "addresses of deleted accounts",
            Self::User => "accounts",
            Self::TotpStep => "spent TOTP steps",
            Self::Session => "sessions",
            Self::ApiToken => "API tokens",
            Self::Lock => "counted failures",
            Self::Spent => "spent one-time codes",
            Self::AuditEvent => "audit events",
            Self::AuditChain => "chains of audit events",
        })
    }
}

/// How many items of one kind there are, and a digest of them that does not depend on their order: the sum of the SHA-256
/// digests of their canonical texts, modulo 2^256. It finds what was lost, doubled or altered; it is no defence against
/// somebody who makes up records to that end, who could as well make up the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// The sum, little-endian.
    digest: [u8; 32],
}

impl Sum {
    fn add(&mut self, text: &[u8]) {
        let mut carry = 0;
        for (to, from) in self.digest.iter_mut().zip(Sha256::digest(text)) {
            let sum = u16::from(*to) + u16::from(from) + carry;
            [*to, _] = sum.to_le_bytes();
            carry = sum >> 8;
        }
        self.count += 1;
    }

    /// The first eight bytes, for people who compare two.
    pub fn short(&self) -> String {
        hex(self.digest.get(..8).unwrap_or_default())
    }
}

/// What a state consists of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally([Sum; Kind::ALL.len()]);

impl Tally {
    /// Counts an item.
    pub fn add(&mut self, item: &Item) -> Result<(), Error> {
        let text = item.canonical()?;
        let kind = item.kind();
        if let Some((_, sum)) = self.parts_mut().find(|(of, _)| *of == kind) {
            sum.add(&text);
        }
        Ok(())
    }

    /// The kinds in order, with what there is of each.
    pub fn parts(&self) -> impl Iterator<Item = (Kind, Sum)> {
        Kind::ALL.into_iter().zip(self.0)
    }

    /// How many items there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|sum| sum.count).sum()
    }

    /// SHA-256 over the counts and digests of all kinds.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for sum in &self.0 {
            hash.update(sum.count.to_be_bytes());
            hash.update(sum.digest);
        }
        Digest(hash.finalize().into())
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = (Kind, &mut Sum)> {
        Kind::ALL.into_iter().zip(&mut self.0)
    }
}

/// An import that is under way, as the target keeps it under [`MARKER`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marker {
    /// The backend that the state comes from, for people.
    pub from: String,
    /// [`Tally::digest`] of the source.
    pub source: Digest,
    /// Who is at it: another run takes over by writing its own.
    pub run: String,
    /// How far it is.
    pub stage: Stage,
}

/// How far an import is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The target was empty; nothing is written yet, and so nothing may be discarded.
    Claimed,
    /// So many items, in the order of the source, are durable in the target.
    Written(u64),
    /// What was written is not what was read, or nobody knows: begin anew.
    Spoilt,
}

impl Marker {
    /// It, as it is stored.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        super::record::encode(self)
    }

    /// The one in `store`, with its bytes.
    pub async fn of(store: &dyn Store) -> Result<Option<(Self, Vec<u8>)>, Error> {
        let Some(bytes) = store.meta(MARKER).await? else { return Ok(None) };
        Ok(Some((super::record::decode(&bytes)?, bytes)))
    }
}

/// [`Error::HalfImported`]: an import into this store was begun and not finished.
pub async fn refuse_half_imported(store: &dyn Store) -> Result<(), Error> {
    match Marker::of(store).await? {
        None => Ok(()),
        Some((marker, _)) => Err(Error::HalfImported { from: marker.from }),
    }
}

/// Bytes as people compare them.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(number: u8, step: u64) -> Item {
        Item::TotpStep { user: UserId::from_bytes([number; 16]), step }
    }

    fn tally<'a>(items: impl IntoIterator<Item = &'a Item>) -> Tally {
        let mut tally = Tally::default();
        for item in items {
            tally.add(item).unwrap();
        }
        tally
    }

    #[test]
    fn kinds_are_in_order() {
        assert!(Kind::ALL.is_sorted());
        assert_eq!(Kind::Meta.next(), Some(Kind::SigningKey));
        assert_eq!(Kind::AuditChain.next(), None);
        let mut kind = Kind::Meta;
        let mut count = 1;
        while let Some(next) = kind.next() {
            (kind, count) = (next, count + 1);
        }
        assert_eq!(count, Kind::ALL.len());
    }

    #[test]
    fn what_is_lost_doubled_or_altered_is_noticed() {
        let (a, b, c) = (step(1, 5), step(2, 5), step(2, 6));
        let whole = tally([&a, &b]);
        for other in [tally([&a]), tally([&a, &b, &b]), tally([&a, &a]), tally([&a, &c]), tally([])] {
            assert_ne!(whole, other);
            assert_ne!(whole.digest(), other.digest());
        }
        // Two of a kind do not cancel out.
        assert_ne!(tally([&a, &b, &b]).digest(), tally([&a, &c, &c]).digest());
        let retired = |digest, at| Item::RetiredAddress { digest: Digest([digest; 32]), at: Timestamp::from_secs(at) };
        assert_ne!(tally([&retired(1, 2)]).digest(), tally([&retired(2, 1)]).digest());
    }

    /// The text is compared between releases only as long as a migration is under way, but two processes must agree.
    #[test]
    fn the_canonical_text_is_plain() {
        let item = Item::Lock { key: LockKey::Pair(Digest([0; 32]), [192, 0, 2, 1].into()), lock: Lock::default() };
        let text = String::from_utf8(item.canonical().unwrap()).unwrap();
        let zeros = "A".repeat(43);
        assert_eq!(
            text,
            format!(
                r#"{{"lock":{{"key":{{"pair":["{zeros}","192.0.2.1"]}},"lock":{{"failures":0,"last_failure_at":0,"locked_until":0}}}}}}"#
            )
        );
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(steps in proptest::collection::vec((any::<u8>(), any::<u64>()), 0..20), turn in any::<prop::sample::Index>()) {
            let mut items: Vec<Item> = steps.into_iter().map(|(number, at)| step(number, at)).collect();
            let before = tally(&items);
            if !items.is_empty() {
                let by = turn.index(items.len());
                items.rotate_left(by);
                items.reverse();
            }
            prop_assert_eq!(before, tally(&items));
        }

        #[test]
        fn every_marker_reads_back(source: [u8; 32], run: String, done: u64) {
            for stage in [Stage::Claimed, Stage::Written(done), Stage::Spoilt] {
                let marker = Marker { from: "sled".to_owned(), source: Digest(source), run: run.clone(), stage };
                let bytes = marker.encode().unwrap();
                prop_assert_eq!(super::super::record::decode::<Marker>(&bytes).unwrap(), marker);
            }
        }
    }
}
