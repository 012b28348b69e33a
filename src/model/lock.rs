//! Back-off after failures, as a pure state machine: no clock, no store.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Digest, UserId};
use crate::clock::Timestamp;

/// What failures are counted for.
///
/// Accounts are named by the digest of the canonical address, so that an address nobody has registered costs and
/// answers the same as a real one, and every spelling of one address shares one counter (requirement RL-1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockKey {
    /// Passwords tried for an account, from anywhere but its owner's devices.
    Account(Digest),
    /// Passwords tried from one client network (IPv4 address, IPv6 /64).
    Address(IpAddr),
    /// Passwords tried for an account from one client network.
    Pair(Digest, IpAddr),
    /// Passwords tried for an account from a device its owner has signed in from.
    Device(Digest),
    /// Codes tried for an account's second factor. A right password does not clear it (requirement RL-2).
    SecondFactor(UserId),
    /// Codes tried for one pending login, named by the digest of its token.
    Pending(Digest),
}

/// How failures turn into waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockPolicy {
    /// This many failures cost nothing.
    pub after: u32,
    /// The wait after the next one; each further failure doubles it.
    pub base: Duration,
    /// The longest wait: a back-off is never a permanent lock.
    pub max: Duration,
}

/// How a lock changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockChange {
    /// One more failure.
    Fail(LockPolicy),
    /// One failure taken back, when an attempt, which is counted before it is checked, turned out right.
    TakeBack,
    /// Forget all failures.
    Clear,
}

/// What one atomic change of a lock found and left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockUpdate {
    /// What was there. When its wait still ran, the attempt must be refused.
    pub before: Lock,
    /// What is there now.
    pub after: Lock,
}

/// The failures counted for one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lock {
    /// Failures in a row.
    pub failures: u32,
    /// The latest.
    pub last_failure_at: Timestamp,
    /// Until when attempts are refused.
    pub locked_until: Timestamp,
}

impl Lock {
    /// Failures are forgotten when none came for this long.
    pub const MEMORY: Duration = Duration::from_secs(24 * 3600);

    /// How long attempts are still refused; `None` when they are not.
    pub fn remaining(&self, now: Timestamp) -> Option<Duration> {
        let remaining = self.locked_until.since(now);
        (!remaining.is_zero()).then_some(remaining)
    }

    /// Whether nothing is worth remembering any more.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.failures == 0 || (now.since(self.last_failure_at) >= Self::MEMORY && self.remaining(now).is_none())
    }

    /// The state after `change`.
    #[must_use]
    pub fn changed(self, change: LockChange, now: Timestamp) -> Self {
        match change {
            LockChange::Clear => Self::default(),
            LockChange::TakeBack => match self.failures.saturating_sub(1) {
                0 => Self::default(),
                failures => Self { failures, locked_until: Timestamp::default(), ..self },
            },
            // An attempt that is refused anyway does not lengthen the wait, or an attacker could keep the owner out.
            LockChange::Fail(_) if self.remaining(now).is_some() => self,
            LockChange::Fail(policy) => {
                let before = if self.is_stale(now) { Self::default() } else { self };
                let failures = before.failures.saturating_add(1);
                let wait = match failures.checked_sub(policy.after) {
                    None | Some(0) => Duration::ZERO,
                    Some(over) => {
                        let factor = 1u32.checked_shl(over - 1).unwrap_or(u32::MAX);
                        policy.base.saturating_mul(factor).min(policy.max)
                    }
                };
                // Without a wait there is no end of one: another attempt's clock may have been read a moment before this one's.
                let locked_until = if wait.is_zero() { Timestamp::default() } else { now.plus(wait) };
                Self { failures, last_failure_at: now, locked_until }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: LockPolicy = LockPolicy { after: 5, base: Duration::from_secs(1), max: Duration::from_secs(900) };

    /// The lock after that many failures, each tried as soon as it may be; the last one at `now`.
    fn after(failures: u32, now: Timestamp) -> Lock {
        let mut lock = Lock::default();
        for _ in 0..failures {
            lock = Lock { locked_until: Timestamp::default(), ..lock }.changed(LockChange::Fail(POLICY), now);
        }
        lock
    }

    // Attempts at the same moment are counted in another order than their clocks were read.
    #[test]
    fn below_the_threshold_nobody_waits_whatever_the_clock_says() {
        let now = Timestamp::from_secs(1000);
        for failures in 0..=POLICY.after {
            assert_eq!(after(failures, now).remaining(now.minus(Duration::from_secs(1))), None, "{failures}");
        }
    }

    #[test]
    fn refused_attempts_do_not_lengthen_the_wait() {
        let now = Timestamp::from_secs(1000);
        let lock = after(8, now);
        assert_eq!(lock.changed(LockChange::Fail(POLICY), now.plus(Duration::from_millis(500))), lock);
    }

    #[test]
    fn waits_double_up_to_the_maximum_and_are_never_permanent() {
        let now = Timestamp::from_secs(1000);
        assert_eq!(after(5, now).remaining(now), None);
        assert_eq!(after(6, now).remaining(now), Some(Duration::from_secs(1)));
        assert_eq!(after(7, now).remaining(now), Some(Duration::from_secs(2)));
        assert_eq!(after(10, now).remaining(now), Some(Duration::from_secs(16)));
        for many in [20, 40, 64, 100, 5000] {
            assert_eq!(after(many, now).remaining(now), Some(Duration::from_secs(900)));
        }
        assert_eq!(after(5000, now).remaining(now.plus(POLICY.max)), None);
    }

    #[test]
    fn failures_are_forgotten_after_a_day_and_by_clearing() {
        let now = Timestamp::from_secs(1000);
        let lock = after(6, now);
        let later = now.plus(Lock::MEMORY);
        assert!(lock.is_stale(later));
        assert_eq!(lock.changed(LockChange::Fail(POLICY), later).failures, 1);
        assert_eq!(lock.changed(LockChange::Clear, now), Lock::default());
    }

    #[test]
    fn taking_back_lifts_the_wait_of_the_attempt() {
        let now = Timestamp::from_secs(1000);
        let lock = after(6, now).changed(LockChange::TakeBack, now);
        assert_eq!((lock.failures, lock.remaining(now)), (5, None));
    }
}
