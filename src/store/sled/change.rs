//! Writes that become true together, in memory and after a crash.

use std::convert::Infallible;

use ::sled::transaction::{ConflictableTransactionError, TransactionError, TransactionResult, Transactional as _};
use ::sled::{IVec, Tree};

use super::Trees;

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

    /// Applies all of them or none. Not durable before a flush, which must not happen in here (spacejam/sled#1134).
    pub(super) fn apply(&self) -> Result<(), ::sled::Error> {
        match (self.trees.as_slice(), self.writes.as_slice()) {
            (_, []) => Ok(()),
            // A single write is atomic by itself.
            ([tree], [(_, key, Some(value))]) => tree.insert(key, value).map(drop),
            ([tree], [(_, key, None)]) => tree.remove(key).map(drop),
            (trees, writes) => {
                let result: TransactionResult<(), Infallible> = trees.transaction(|views| {
                    for (slot, key, value) in writes {
                        let view = views.get(*slot).ok_or_else(missing)?;
                        match value {
                            Some(value) => view.insert(key, value)?,
                            None => view.remove(key)?,
                        };
                    }
                    Ok(())
                });
                result.map_err(|error| match error {
                    TransactionError::Storage(error) => error,
                    TransactionError::Abort(never) => match never {},
                })
            }
        }
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
