//! Token buckets with bounded memory: so many attempts in a period, with that burst, for each client network.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Rate;

/// Locks that share the work, so that workers rarely meet.
const SHARDS: usize = 16;

/// Buckets in a shard; 100,000 in all, which is some 10 MB.
const SHARD_CAPACITY: usize = 100_000 / SHARDS;

/// Buckets that a full shard keeps when it makes room. Room is made for many at once, so that a flood of newcomers pays
/// for a look at the whole shard once in some hundred times.
const SHARD_KEPT: usize = SHARD_CAPACITY - SHARD_CAPACITY / 8;

/// A limit as the client is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// What it limits: letters and `-`.
    pub name: &'static str,
    /// How much of it.
    pub rate: Rate,
}

/// What became of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may go on.
    Allowed {
        /// How many may follow at once.
        remaining: u32,
        /// Until the whole burst is there again.
        reset: Duration,
    },
    /// It may not.
    Refused {
        /// Until the next one may come; never zero.
        retry_after: Duration,
        /// The limit.
        quota: Quota,
    },
}

impl Verdict {
    /// Whether the attempt may go on.
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

/// A limit on how often each client network may do something.
#[derive(Debug)]
pub struct Limiter {
    quota: Quota,
    measure: Measure,
    shards: [Mutex<HashMap<IpAddr, Bucket>>; SHARDS],
    /// Keyed at random, so that nobody can aim many networks at one shard.
    hasher: RandomState,
}

impl Limiter {
    /// A limiter of `rate.count` attempts in `rate.per`, all of which may come at once. A count of zero counts as one.
    pub fn new(name: &'static str, rate: Rate) -> Self {
        let quota = Quota { name, rate: Rate { count: rate.count.max(1), ..rate } };
        Self { quota, measure: Measure::new(rate), shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }

    /// The limiter of a rate: `before` itself, with all that it has counted, if its rate is the same.
    pub fn of(name: &'static str, rate: Option<Rate>, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let made = Self::new(name, rate?);
        Some(before.filter(|before| before.quota == made.quota).map_or_else(|| Arc::new(made), Arc::clone))
    }

    /// Takes one attempt of the client's [`network`].
    ///
    /// A client that is not known yet is never refused (requirement RL-3): when there are too many networks to
    /// remember, those whose buckets are the fullest are forgotten first, for that changes the least.
    pub fn take(&self, key: IpAddr, now: Timestamp) -> Verdict {
        let key = network(key);
        let shard = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.shards.get(shard) else {
            return Verdict::Refused { retry_after: Duration::from_secs(1), quota: self.quota };
        };
        // A bucket is whole after each step, so a panic elsewhere leaves nothing half done.
        let mut buckets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(&key) && buckets.len() >= SHARD_CAPACITY {
            make_room(&mut buckets, &self.measure, now);
        }
        let bucket = buckets.entry(key).or_insert(Bucket { level: self.measure.full, at: now });
        match bucket.take(&self.measure, now) {
            Ok((remaining, reset)) => Verdict::Allowed { remaining, reset },
            Err(retry_after) => Verdict::Refused { retry_after, quota: self.quota },
        }
    }

    /// Networks that are remembered, for a metric.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What shares a bucket: one IPv4 address, or the /64 that an IPv6 client is usually given whole. An IPv4 address
/// written as IPv6 is the IPv4 address.
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
    }
}

/// The rate in whole numbers: a bucket holds parts, of which `count` come back in a millisecond and an attempt takes
/// `cost`. So nothing is ever rounded, whatever the rate.
#[derive(Clone, Copy, Debug)]
struct Measure {
    count: u32,
    /// Milliseconds in the period.
    cost: u64,
    /// `count * cost`.
    full: u64,
}

impl Measure {
    fn new(rate: Rate) -> Self {
        // A period is at most 49 days, which keeps every product within 64 bits.
        let cost = u32::try_from(rate.per.as_millis()).unwrap_or(u32::MAX).max(1);
        let count = rate.count.max(1);
        Self { count, cost: cost.into(), full: u64::from(cost) * u64::from(count) }
    }

    /// How long until `parts` have come back, rounded up.
    fn time_for(&self, parts: u64) -> Duration {
        Duration::from_millis(parts.div_ceil(self.count.into()))
    }
}

/// What is left for one network.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Parts, as of `at`.
    level: u64,
    at: Timestamp,
}

impl Bucket {
    /// The parts there are now. A clock that goes back gives none, and takes none.
    fn level(&self, measure: &Measure, now: Timestamp) -> u64 {
        let elapsed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.level.saturating_add(elapsed.saturating_mul(measure.count.into())).min(measure.full)
    }

    /// How many more there may be, and until when the burst is whole again; or how long to wait.
    fn take(&mut self, measure: &Measure, now: Timestamp) -> Result<(u32, Duration), Duration> {
        let level = self.level(measure, now);
        self.at = self.at.max(now);
        match level.checked_sub(measure.cost) {
            Some(left) => {
                self.level = left;
                let remaining = u32::try_from(left / measure.cost).unwrap_or(u32::MAX);
                Ok((remaining, measure.time_for(measure.full - left)))
            }
            None => {
                self.level = level;
                Err(measure.time_for(measure.cost - level))
            }
        }
    }
}

/// Forgets the fullest buckets; full ones lose nothing by it. Among equals the longest untouched go first.
fn make_room(buckets: &mut HashMap<IpAddr, Bucket>, measure: &Measure, now: Timestamp) {
    buckets.retain(|_, bucket| bucket.level(measure, now) < measure.full);
    let Some(excess) = buckets.len().checked_sub(SHARD_KEPT).filter(|excess| *excess > 0) else { return };
    let mut ranked: Vec<_> = buckets.iter().map(|(key, bucket)| (measure.full - bucket.level(measure, now), bucket.at, *key)).collect();
    ranked.select_nth_unstable(excess);
    for (_, _, key) in ranked.iter().take(excess) {
        buckets.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const MINUTE: Rate = Rate { count: 30, per: Duration::from_mins(1) };

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    /// Takes until refused, and says how often it was allowed.
    fn drain(limiter: &Limiter, key: IpAddr, now: Timestamp) -> u32 {
        (0..1000).take_while(|_| limiter.take(key, now).is_allowed()).count().try_into().unwrap()
    }

    #[test]
    fn the_burst_and_then_the_rate() {
        let limiter = Limiter::new("test", MINUTE);
        assert_eq!(limiter.take(v4(1), at(0)), Verdict::Allowed { remaining: 29, reset: Duration::from_secs(2) });
        assert_eq!(drain(&limiter, v4(1), at(0)), 29);
        assert_eq!(
            limiter.take(v4(1), at(0)),
            Verdict::Refused { retry_after: Duration::from_secs(2), quota: Quota { name: "test", rate: MINUTE } }
        );
        assert_eq!(
            limiter.take(v4(1), at(1999)),
            Verdict::Refused { retry_after: Duration::from_millis(1), quota: Quota { name: "test", rate: MINUTE } }
        );
        assert_eq!(limiter.take(v4(1), at(2000)), Verdict::Allowed { remaining: 0, reset: Duration::from_mins(1) });
        assert_eq!(drain(&limiter, v4(1), at(2000)), 0);
        // Others have buckets of their own, and an hour brings back the burst and no more.
        assert_eq!(drain(&limiter, v4(2), at(2000)), 30);
        assert_eq!(drain(&limiter, v4(1), at(3_600_000)), 30);
    }

    #[test]
    fn networks() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("203.0.113.7", "::ffff:203.0.113.7"));
        assert!(!same("203.0.113.7", "203.0.113.8"));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert_eq!(network("::1".parse().unwrap()), "::".parse::<IpAddr>().unwrap());
        let limiter = Limiter::new("test", Rate { count: 1, ..MINUTE });
        assert!(limiter.take("::ffff:203.0.113.7".parse().unwrap(), at(0)).is_allowed());
        assert!(!limiter.take("203.0.113.7".parse().unwrap(), at(0)).is_allowed());
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let limiter = Limiter::new("test", MINUTE);
        drain(&limiter, v4(1), at(100_000));
        assert_eq!(drain(&limiter, v4(1), at(0)), 0);
        assert_eq!(drain(&limiter, v4(1), at(100_000)), 0);
        assert_eq!(drain(&limiter, v4(1), at(102_000)), 1);
    }

    #[test]
    fn odd_rates_do_not_panic() {
        for rate in [
            Rate { count: 0, per: Duration::ZERO },
            Rate { count: u32::MAX, per: Duration::MAX },
            Rate { count: 1, per: Duration::from_nanos(1) },
            Rate { count: 1_000_000, per: Duration::from_millis(1) },
        ] {
            let limiter = Limiter::new("test", rate);
            assert!(limiter.take(v4(1), Timestamp::from_millis(i64::MIN)).is_allowed());
            let _: Verdict = limiter.take(v4(1), Timestamp::MAX);
            let _: Verdict = limiter.take(v4(1), at(0));
        }
    }

    // RL-3: 200,000 networks fit, none of them is refused, and who was empty before stays empty.
    #[test]
    fn floods_neither_fill_the_memory_nor_free_an_attacker() {
        let limiter = Limiter::new("test", MINUTE);
        let attackers: Vec<IpAddr> = (0..100).map(v4).collect();
        for &attacker in &attackers {
            assert_eq!(drain(&limiter, attacker, at(0)), 30);
        }
        for number in 0..200_000 {
            assert!(limiter.take(v4(1 << 24 | number), at(i64::from(number) / 200)).is_allowed());
        }
        assert!(limiter.len() <= SHARDS * SHARD_CAPACITY, "{}", limiter.len());
        assert!(limiter.len() >= SHARDS * SHARD_KEPT - SHARDS, "{}", limiter.len());
        for &attacker in &attackers {
            assert!(!limiter.take(attacker, at(1000)).is_allowed(), "{attacker} was forgotten");
        }
    }

    #[test]
    fn full_buckets_are_forgotten_first() {
        let limiter = Limiter::new("test", MINUTE);
        for number in 0..u32::try_from(SHARDS * SHARD_CAPACITY * 2).unwrap() {
            limiter.take(v4(number), at(0));
        }
        // A minute later all of them are full: the first newcomer of each shard clears it.
        for number in 0..1000 {
            limiter.take(v4(1 << 24 | number), at(60_000));
        }
        assert!(limiter.len() < SHARDS * SHARD_CAPACITY);
        assert_eq!(drain(&limiter, v4(1), at(60_000)), 30);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(count in 1_u32..20, per in 1_u64..5000, steps in prop::collection::vec(0_i64..400, 1..200)) {
            let limiter = Limiter::new("test", Rate { count, per: Duration::from_millis(per) });
            let mut now = 0;
            let mut allowed = Vec::new();
            for step in steps {
                now += step;
                if limiter.take(v4(1), at(now)).is_allowed() {
                    allowed.push(now);
                }
            }
            // In every span, not only from the start.
            for (first, &from) in allowed.iter().enumerate() {
                for (last, &to) in allowed.iter().enumerate().skip(first) {
                    let span = u64::try_from(to - from).unwrap();
                    let most = u64::from(count) + span * u64::from(count) / per;
                    prop_assert!(u64::try_from(last - first + 1).unwrap() <= most);
                }
            }
        }

        #[test]
        fn after_the_wait_it_is_allowed_and_not_before(count in 1_u32..20, per in 1_u64..5000, start in 0_i64..10_000) {
            let limiter = Limiter::new("test", Rate { count, per: Duration::from_millis(per) });
            drain(&limiter, v4(1), at(start));
            let Verdict::Refused { retry_after, quota } = limiter.take(v4(1), at(start)) else { panic!("drained") };
            prop_assert_eq!(quota.rate.count, count);
            let wait = i64::try_from(retry_after.as_millis()).unwrap();
            prop_assert!(wait > 0);
            prop_assert!(!limiter.take(v4(1), at(start + wait - 1)).is_allowed());
            prop_assert!(limiter.take(v4(1), at(start + wait)).is_allowed());
        }
    }
}
