//! Counters of failures. Their number is bounded (requirement RL-3): an attacker chooses the keys.

use std::sync::atomic::Ordering;

use super::{Changes, Error, Inner, Writer, entries_after, exists, load, record};
use crate::clock::Timestamp;
use crate::model::{Lock, LockChange, LockKey, LockUpdate};
use crate::store::lock_key::{encoded, is_owned};

/// How many locks are kept; about 60 MB on disk.
pub(super) const MAX_LOCKS: usize = 200_000;

/// Changes a lock, making room first when it would be one more than `max`.
pub(super) fn update(writer: &Writer<'_>, key: LockKey, change: LockChange, now: Timestamp, max: usize) -> Result<LockUpdate, Error> {
    let tree = &writer.trees.locks;
    let key = encoded(key);
    let stored: Option<Lock> = load(tree, &key)?;
    let before = stored.unwrap_or_default();
    let after = before.changed(change, now);
    if stored.is_none() && after != Lock::default() && writer.lock_count.load(Ordering::Relaxed) >= max {
        make_room(writer, now, max)?;
    }
    let mut changes = Changes::new();
    match (stored, after == Lock::default()) {
        (None, true) => {}
        (Some(_), true) => changes.remove(tree, &key),
        (Some(_), false) if after == before => {}
        (None | Some(_), false) => changes.put(tree, &key, record::encode(&after)?),
    }
    writer.commit(&changes)?;
    match (stored, after == Lock::default()) {
        (None, false) => count(writer, 1, 0),
        (Some(_), true) => count(writer, 0, 1),
        (None, true) | (Some(_), false) => {}
    }
    Ok(LockUpdate { before, after })
}

pub(super) fn get(inner: &Inner, key: LockKey) -> Result<Lock, Error> {
    Ok(load(&inner.trees.locks, &encoded(key))?.unwrap_or_default())
}

/// Removes those of `keys` whose locks are still stale, and says how many.
pub(super) fn remove_stale(writer: &Writer<'_>, keys: &[Vec<u8>], now: Timestamp) -> Result<u64, Error> {
    let tree = &writer.trees.locks;
    let mut changes = Changes::new();
    let mut removed = 0;
    for key in keys {
        if load::<Lock>(tree, key)?.is_some_and(|lock| lock.is_stale(now)) {
            changes.remove(tree, key);
            removed += 1;
        }
    }
    writer.commit(&changes)?;
    count(writer, 0, removed);
    Ok(u64::try_from(removed).unwrap_or(u64::MAX))
}

/// Writes locks as they are, whatever their number: it was bounded where they come from.
pub(super) fn import(writer: &Writer<'_>, locks: &[(LockKey, Lock)]) -> Result<(), Error> {
    let tree = &writer.trees.locks;
    let mut changes = Changes::new();
    let mut new = 0;
    for (key, lock) in locks {
        let key = encoded(*key);
        new += usize::from(!exists(tree, &key)?);
        changes.put(tree, &key, record::encode(lock)?);
    }
    writer.commit(&changes)?;
    count(writer, new, 0);
    Ok(())
}

/// Drops locks until a tenth of `max` is free, so that the next many need not look again.
fn make_room(writer: &Writer<'_>, now: Timestamp, max: usize) -> Result<(), Error> {
    let tree = &writer.trees.locks;
    let mut locks = entries_after(tree, None)
        .map(|entry| entry.and_then(|(key, value)| Ok((worth(&key, &record::decode(&value)?, now), key))))
        .collect::<Result<Vec<_>, Error>>()?;
    locks.sort_unstable();
    let dropped = locks.len().saturating_sub(max - max.div_ceil(10));
    let mut changes = Changes::new();
    for (_, key) in locks.iter().take(dropped) {
        changes.remove(tree, key);
    }
    writer.commit(&changes)?;
    writer.lock_count.store(locks.len() - dropped, Ordering::Relaxed);
    tracing::warn!(dropped, "too many failures are being counted; the least telling ones were forgotten");
    Ok(())
}

/// What is dropped first. Anybody can make locks for addresses and accounts that do not exist, so they go before those
/// that only a right password or an owner's device can make: else one could flood away the count of guesses at a
/// second factor (requirement RL-2). Within a class the oldest goes first.
fn worth(key: &[u8], lock: &Lock, now: Timestamp) -> (u8, Timestamp) {
    let class = match (lock.is_stale(now), is_owned(key), lock.remaining(now).is_some()) {
        (true, _, _) => 0,
        (false, false, false) => 1,
        (false, false, true) => 2,
        (false, true, false) => 3,
        (false, true, true) => 4,
    };
    (class, lock.last_failure_at)
}

/// Only writers count, one at a time, so reading and writing may be two steps.
fn count(writer: &Writer<'_>, more: usize, fewer: usize) {
    let count = writer.lock_count.load(Ordering::Relaxed);
    writer.lock_count.store((count + more).saturating_sub(fewer), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Digest, LockPolicy, UserId};
    use crate::store::sled::open;

    const FAIL: LockChange = LockChange::Fail(LockPolicy { after: 1, base: Duration::from_mins(1), max: Duration::from_mins(1) });

    fn account(number: u32) -> LockKey {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        LockKey::Account(Digest(digest))
    }

    // RL-3: however many names are tried, the number of locks stays bounded, and the newest are counted.
    // RL-2: the count of guesses at a second factor is not flooded away.
    #[test]
    fn a_flood_of_names_is_bounded_and_spares_what_counts() {
        let folder = tempfile::tempdir().unwrap();
        let inner = open::open(folder.path()).unwrap();
        let writer = inner.writer().unwrap();
        let (second_factor, locked) = (LockKey::SecondFactor(UserId::new()), account(u32::MAX));
        update(&writer, second_factor, FAIL, Timestamp::from_secs(1), 50).unwrap();
        for _ in 0..2 {
            update(&writer, locked, FAIL, Timestamp::from_secs(500), 50).unwrap();
        }
        for number in 0..500 {
            update(&writer, account(number), FAIL, Timestamp::from_secs(2 + i64::from(number) / 10), 50).unwrap();
            assert!(inner.trees.locks.len() <= 50);
            assert_eq!(inner.lock_count.load(Ordering::Relaxed), inner.trees.locks.len());
            assert_eq!(get(&inner, account(number)).unwrap().failures, 1);
        }
        assert_eq!(get(&inner, account(0)).unwrap().failures, 0);
        assert_eq!(get(&inner, second_factor).unwrap().failures, 1);
        assert_eq!(get(&inner, locked).unwrap().failures, 2);
    }

    #[test]
    fn the_count_follows_and_survives_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let inner = open::open(folder.path()).unwrap();
        let now = Timestamp::from_secs(1);
        {
            let writer = inner.writer().unwrap();
            for number in 0..3 {
                update(&writer, account(number), FAIL, now, 50).unwrap();
            }
            update(&writer, account(0), LockChange::Clear, now, 50).unwrap();
            update(&writer, account(9), LockChange::Clear, now, 50).unwrap();
            let keys = [account(1), account(7)].map(encoded);
            assert_eq!(remove_stale(&writer, &keys, now.plus(Lock::MEMORY)).unwrap(), 1);
        }
        assert_eq!(inner.lock_count.load(Ordering::Relaxed), 1);
        drop(inner);
        let inner = open::open(folder.path()).unwrap();
        assert_eq!(inner.lock_count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_was_owned_or_is_locked_is_dropped_last() {
        let now = Timestamp::from_secs(10_000_000);
        let lock = |at: i64, until: i64| Lock {
            failures: 1,
            last_failure_at: Timestamp::from_secs(at),
            locked_until: Timestamp::from_secs(until),
        };
        let order = [
            worth(b"s", &lock(0, 0), now),
            worth(b"a", &lock(9_999_998, 0), now),
            worth(b"i", &lock(9_999_999, 0), now),
            worth(b"b", &lock(9_999_990, 10_000_001), now),
            worth(b"d", &lock(9_999_990, 0), now),
            worth(b"s", &lock(9_999_990, 10_000_001), now),
        ];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    }
}
