//! Proving that the audit log is whole: its chains, walked along some events at a time, so that nobody waits for long and
//! nothing is kept in memory.

use serde::{Deserialize, Serialize};

use super::{Auth, Error};
use crate::model::EventId;
use crate::store::chain::{Chain, Fault, Filed, Walk, WriterId};

/// Events looked at in one go.
pub const PAGE: usize = 2000;

/// How many events that are in no chain are named.
const STRAYS: usize = 10;

/// What came of a part of the way along a chain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Verified {
    /// It holds as far as this.
    SoFar {
        /// Where to go on.
        at: Walk,
    },
    /// It holds to its end, as that was when this was asked.
    Whole {
        /// The end.
        at: Walk,
    },
    /// It does not.
    Broken {
        /// The first thing that is wrong.
        fault: Fault,
    },
}

impl Auth {
    /// Both ends of all chains of the audit log.
    pub async fn audit_chains(&self) -> Result<Vec<Chain>, Error> {
        Ok(self.store.chains().await?)
    }

    /// The next [`PAGE`] events of a chain.
    pub async fn audit_entries(&self, writer: WriterId, after: u64) -> Result<Vec<Filed>, Error> {
        Ok(self.store.chained(writer, after, PAGE).await?)
    }

    /// The first few events that stand in no chain: somebody put them in.
    pub async fn audit_strays(&self) -> Result<Vec<EventId>, Error> {
        Ok(self.store.unchained(STRAYS).await?)
    }

    /// Goes along a chain for [`PAGE`] events from where `from` has come to, from its base without one. `exported` is a head
    /// of this chain that was kept elsewhere.
    pub async fn verify_audit(&self, writer: WriterId, from: Option<Walk>, exported: Option<Walk>) -> Result<Verified, Error> {
        let outcome = self.walk(writer, from, exported).await?;
        Ok(outcome.unwrap_or_else(|fault| Verified::Broken { fault }))
    }

    async fn walk(&self, writer: WriterId, from: Option<Walk>, exported: Option<Walk>) -> Result<Result<Verified, Fault>, Error> {
        let Some(chain) = self.chain(writer).await? else { return Ok(Err(Fault::NoChain)) };
        let base = match Walk::begin(&self.chain_key, &chain) {
            Ok(base) => base,
            Err(fault) => return Ok(Err(fault)),
        };
        // What retention has removed since is nothing to look for.
        let mut at = from.filter(|from| from.seq >= base.seq).unwrap_or(base);
        if let Some(Err(fault)) = exported.map(|exported| at.meets(&exported)) {
            return Ok(Err(fault));
        }
        let events = self.store.chained(writer, at.seq, PAGE).await?;
        let all = events.len() < PAGE;
        for event in &events {
            if event.seq > chain.head.seq {
                break;
            }
            let step = at.step(&self.chain_key, writer, event);
            if let Err(fault) = step.and_then(|()| exported.map_or(Ok(()), |exported| at.meets(&exported))) {
                return self.unless_removed(writer, at, fault).await;
            }
        }
        if at.seq < chain.head.seq && !all {
            return Ok(Ok(Verified::SoFar { at }));
        }
        if let Err(fault) = at.arrive(&chain) {
            return self.unless_removed(writer, at, fault).await;
        }
        if let Some(extra) = events.iter().find(|event| event.seq > chain.head.seq)
            && self.chain(writer).await?.is_none_or(|now| now.head.seq < extra.seq)
        {
            let id = extra.stored.as_ref().and_then(|stored| stored.event().ok()).map(|event| event.id);
            return Ok(Err(Fault::Inserted { seq: extra.seq, id }));
        }
        match exported.filter(|exported| exported.seq > at.seq) {
            Some(exported) => Ok(Err(Fault::CutOff { exported: exported.seq, last: at.seq })),
            None => Ok(Ok(Verified::Whole { at })),
        }
    }

    /// What was missing may have run out while it was looked for: then the chain's base has passed it by.
    async fn unless_removed(&self, writer: WriterId, at: Walk, fault: Fault) -> Result<Result<Verified, Fault>, Error> {
        let Some(now) = self.chain(writer).await? else { return Ok(Err(Fault::NoChain)) };
        match Walk::begin(&self.chain_key, &now) {
            Ok(base) if base.seq > at.seq => Ok(Ok(Verified::SoFar { at: base })),
            Ok(_) | Err(_) => Ok(Err(fault)),
        }
    }

    async fn chain(&self, writer: WriterId) -> Result<Option<Chain>, Error> {
        Ok(self.store.chains().await?.into_iter().find(|chain| chain.writer == writer))
    }
}
