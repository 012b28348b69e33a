//! Carrying the whole state from one store to another, so that it can be broken off anywhere and repeated: the source is
//! only read, the target bears a mark from before the first record to after the last comparison, and whoever finds the
//! mark does nothing with the target but go on.

use uuid::Uuid;

use crate::store;
use crate::store::transfer::{BATCH, Item, Kind, MARKER, Marker, Stage, Sum, Tally, Transfer, refuse_half_imported};

/// What a migration is doing, for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What.
    pub step: Step,
    /// Which kind of item it is at.
    pub kind: Kind,
    /// Items of all kinds that it has come past.
    pub done: u64,
    /// Items there are; `None`: not known yet.
    pub total: Option<u64>,
}

/// The steps of a migration, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The source is counted.
    Count,
    /// What an earlier attempt with another state has left in the target is removed.
    Discard,
    /// It is carried over.
    Carry,
    /// The target is read back.
    Compare,
}

/// What was found in both stores after it was carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The source.
    pub source: Tally,
    /// The target.
    pub target: Tally,
    /// So many items were there from an earlier attempt.
    pub resumed: u64,
}

impl Report {
    /// A row for each kind: what the source has, what the target has.
    pub fn rows(&self) -> impl Iterator<Item = (Kind, Sum, Sum)> {
        self.source.parts().zip(self.target.parts()).map(|((kind, source), (_, target))| (kind, source, target))
    }
}

/// Counts what is in `source`. [`Error::Empty`]: nothing is.
pub async fn survey(source: &dyn Transfer, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Tally, Error> {
    refuse_half_imported(source).await?;
    require_alone(source).await?;
    let tally = read(source, Step::Count, None, progress).await?;
    if tally.count() == 0 { Err(Error::Empty) } else { Ok(tally) }
}

/// Carries everything from `source`, which is a `from`, to `target`, and compares. When it is broken off, or the future is
/// dropped, the target can't be used before the same is done again; then it goes on where it was, or begins anew when the
/// source has changed meanwhile.
pub async fn carry(
    source: &dyn Transfer,
    from: &str,
    target: &dyn Transfer,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Report, Error> {
    let tally = survey(source, progress).await?;
    let (mut claim, resumed) = Claim::take(target, from, &tally, progress).await?;

    let total = Some(tally.count());
    let mut carried = Tally::default();
    let mut export = source.export().await?;
    loop {
        let items = export.next().await?;
        let Some(last) = items.last() else { break };
        let kind = last.kind();
        let before = carried.count();
        for item in &items {
            carried.add(item)?;
        }
        // The order is the same as that of the attempt before, so these are the same items.
        let known = usize::try_from(resumed.saturating_sub(before)).unwrap_or(usize::MAX);
        if let Some(new) = items.get(known..).filter(|new| !new.is_empty()) {
            for batch in new.chunks(BATCH) {
                target.import(&claim.stored, batch).await.map_err(not_ours)?;
            }
            claim.advance(Stage::Written(carried.count())).await?;
        }
        progress(Progress { step: Step::Carry, kind, done: carried.count(), total });
    }
    if carried != tally || source.others().await? > 0 {
        claim.advance(Stage::Spoilt).await?;
        return Err(Error::Changed);
    }

    let found = read(target, Step::Compare, total, progress).await.map_err(Error::Target)?;
    let report = Report { source: tally, target: found, resumed };
    if report.source != report.target {
        claim.advance(Stage::Spoilt).await?;
        return Err(Error::Different(Box::new(report)));
    }
    claim.release().await?;
    target.flush().await.map_err(Error::Target)?;
    Ok(report)
}

/// Reads a store from end to end.
async fn read(
    store: &dyn Transfer,
    step: Step,
    total: Option<u64>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Tally, store::Error> {
    let mut tally = Tally::default();
    let mut export = store.export().await?;
    loop {
        let items = export.next().await?;
        let Some(last) = items.last() else { return Ok(tally) };
        for item in &items {
            tally.add(item)?;
        }
        progress(Progress { step, kind: last.kind(), done: tally.count(), total });
    }
}

/// The mark in a target, as this run wrote it last.
struct Claim<'a> {
    target: &'a dyn Transfer,
    marker: Marker,
    stored: Vec<u8>,
}

impl<'a> Claim<'a> {
    /// Marks an empty target, or goes on with a marked one. Says how many items are there already.
    async fn take(
        target: &'a dyn Transfer,
        from: &str,
        source: &Tally,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(Self, u64), Error> {
        let fresh = Marker { from: from.to_owned(), source: source.digest(), run: Uuid::now_v7().to_string(), stage: Stage::Claimed };
        let (mut claim, stage) = match Marker::of(target).await? {
            None => {
                // Looked at before it is marked: a state in use must not bear a mark for a moment, or it could be stuck with it.
                require_empty(target).await?;
                (Self::swap(target, None, fresh).await?, Stage::Claimed)
            }
            // Whoever wrote it, if it still runs, notices before its next batch.
            Some((before, stored)) => {
                let stage = match before.stage {
                    stage if before.source == fresh.source => stage,
                    Stage::Claimed => Stage::Claimed,
                    // Of another state: it goes.
                    Stage::Written(_) | Stage::Spoilt => Stage::Spoilt,
                };
                (Self::swap(target, Some(stored), Marker { stage, ..fresh }).await?, stage)
            }
        };
        let done = match stage {
            Stage::Written(done) => done,
            Stage::Claimed => {
                // And again: somebody who looked before may have started to use it meanwhile.
                if let Err(error) = require_empty(target).await {
                    claim.release().await?;
                    return Err(error);
                }
                0
            }
            Stage::Spoilt => {
                progress(Progress { step: Step::Discard, kind: Kind::Meta, done: 0, total: None });
                target.discard_import(&claim.stored).await.map_err(not_ours)?;
                0
            }
        };
        claim.advance(Stage::Written(done)).await?;
        Ok((claim, done))
    }

    /// Writes how far it is. [`Error::Overtaken`]: another run has taken the target over.
    async fn advance(&mut self, stage: Stage) -> Result<(), Error> {
        let next = Marker { stage, ..self.marker.clone() };
        *self = Self::swap(self.target, Some(std::mem::take(&mut self.stored)), next).await?;
        Ok(())
    }

    /// Removes the mark.
    async fn release(self) -> Result<(), Error> {
        let removed = self.target.swap_meta(MARKER, Some(&self.stored), None).await.map_err(Error::Target)?;
        if removed { Ok(()) } else { Err(Error::Overtaken) }
    }

    async fn swap(target: &'a dyn Transfer, before: Option<Vec<u8>>, marker: Marker) -> Result<Self, Error> {
        let stored = marker.encode()?;
        let swapped = target.swap_meta(MARKER, before.as_deref(), Some(&stored)).await.map_err(Error::Target)?;
        if swapped { Ok(Self { target, marker, stored }) } else { Err(Error::Overtaken) }
    }
}

/// What a write under a mark can come to: another's mark means that another is at it.
fn not_ours(error: store::Error) -> Error {
    if matches!(error, store::Error::Stale) { Error::Overtaken } else { Error::Target(error) }
}

async fn require_alone(store: &dyn Transfer) -> Result<(), Error> {
    match store.others().await? {
        0 => Ok(()),
        others => Err(Error::Running(others)),
    }
}

async fn require_empty(target: &dyn Transfer) -> Result<(), Error> {
    require_alone(target).await?;
    let mut export = target.export().await.map_err(Error::Target)?;
    match export.next().await.map_err(Error::Target)?.first().map(Item::kind) {
        None => Ok(()),
        Some(first) => Err(Error::Occupied { first }),
    }
}

/// Why a state was not carried over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to carry: usually the wrong folder or schema.
    #[error("the source is empty: there is nothing to carry over")]
    Empty,
    /// Somebody else uses the source or the target.
    #[error("a nullpass still runs on this database and schema ({0} follow it): stop all that use either end first")]
    Running(u64),
    /// The target has a state that no migration brought there.
    #[error("the target holds a state already ({first}, for one): refusing to overwrite it")]
    Occupied {
        /// A kind of which there is something.
        first: Kind,
    },
    /// Somebody wrote to the source meanwhile: an instance still runs on it.
    #[error("the source changed while it was read: stop every nullpass that uses it, then repeat this")]
    Changed,
    /// What is in the target is not what was in the source.
    #[error("the target does not hold what the source holds: it stays unusable; repeat this to begin anew")]
    Different(Box<Report>),
    /// Another migration into the same target was begun after this one.
    #[error("another migration into this target has taken over: this one stopped")]
    Overtaken,
    /// The target could not be read or written.
    #[error("the target: {0}")]
    Target(#[source] store::Error),
    /// The source could not be read, or a record is none.
    #[error(transparent)]
    Store(#[from] store::Error),
}
