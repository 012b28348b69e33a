//! Writes that become true together, in memory and after a crash.

use std::convert::Infallible;

use ::sled::transaction::{ConflictableTransactionError, TransactionError, TransactionResult, Transactional as _};
use ::sled::{IVec, Tree};

use super::Trees;
use super::tally::{TALLY_KEY, Tally};

/// Names a tree.
pub(super) type Pick = fn(&Trees) -> &Tree;

/// Writes to several trees, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes<'a> {
    trees: Vec<&'a Tree>,
    writes: Vec<(usize, IVec, Option<IVec>)>,
}

impl<'a> Changes<'a> {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub(super) fn put(&mut self, tree: &'a Tree, key: &[u8], value: impl Into<IVec>) {
        let slot = self.slot(tree);
        self.writes.push((slot, key.into(), Some(value.into())));
    }

    /// Removes `key`.
    pub(super) fn remove(&mut self, tree: &'a Tree, key: &[u8]) {
        let slot = self.slot(tree);
        self.writes.push((slot, key.into(), None));
    }

    /// Applies all of them or none, with a tally in `db` that follows on `before`, and returns that. Not durable before a
    /// flush, which must not happen in here (spacejam/sled#1134).
    pub(super) fn apply(&self, db: &Tree, before: Tally) -> Result<Tally, ::sled::Error> {
        // Last, where `views.split_last` finds it.
        let trees: Vec<&Tree> = self.trees.iter().copied().chain([db]).collect();
        let names: Vec<IVec> = self.trees.iter().map(|tree| tree.name()).collect();
        let result: TransactionResult<Tally, Infallible> = trees.as_slice().transaction(|views| {
            let (own, views) = views.split_last().ok_or_else(missing)?;
            let mut tally = before.next();
            for (slot, key, value) in &self.writes {
                let (view, name) = views.get(*slot).zip(names.get(*slot)).ok_or_else(missing)?;
                let old = match value {
                    Some(value) => view.insert(key, value)?,
                    None => view.remove(key)?,
                };
                tally.change(name, key, old.as_ref(), value.as_ref());
            }
            own.insert(TALLY_KEY, &tally.to_bytes())?;
            Ok(tally)
        });
        result.map_err(|error| match error {
            TransactionError::Storage(error) => error,
            TransactionError::Abort(never) => match never {},
        })
    }

    /// Whether there is nothing to apply.
    pub(super) const fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    fn slot(&mut self, tree: &'a Tree) -> usize {
        let known = self.trees.iter().position(|other| other.name() == tree.name());
        known.unwrap_or_else(|| {
            self.trees.push(tree);
            self.trees.len() - 1
        })
    }
}

fn missing() -> ConflictableTransactionError<Infallible> {
    ConflictableTransactionError::Storage(::sled::Error::ReportableBug("a write without its tree".to_owned()))
}
