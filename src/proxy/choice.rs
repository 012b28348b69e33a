//! Which endpoint gets a request: of two that chance picks, the one with fewer requests in flight. That is nearly as even
//! as the least of all, and does not send everybody's next request to the same one.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};

/// Chance that need not be secret: a worker's own, so that nobody waits for it.
#[derive(Debug)]
pub(super) struct Dice(AtomicU64);

impl Dice {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(std::hash::RandomState::new().build_hasher().finish()))
    }

    /// A number below `below`; 0 if that is 0. (`SplitMix64`.)
    pub(super) fn roll(&self, below: usize) -> usize {
        let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // The upper half is the better one, and fits any usize.
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap_or(0).checked_rem(below).unwrap_or(0)
    }
}

/// One of `count` endpoints, by their place; `None`: all are out of service.
///
/// `share` is in percent of a full one, 0: out of service. One that is returning competes only as often as its share says.
/// `load` is requests in flight. `avoid` is taken only when there is no other.
pub(super) fn choose(
    count: usize,
    avoid: Option<usize>,
    share: impl Fn(usize) -> u8,
    load: impl Fn(usize) -> usize,
    roll: impl Fn(usize) -> usize,
) -> Option<usize> {
    let eligible = |without: [Option<usize>; 2]| (0..count).filter(move |at| !without.contains(&Some(*at))).filter(|at| share(*at) > 0);
    let draw = |without: [Option<usize>; 2]| eligible(without).nth(roll(eligible(without).count()));
    let Some(first) = draw([avoid, None]) else {
        return avoid.filter(|at| *at < count && share(*at) > 0);
    };
    let Some(second) = draw([avoid, Some(first)]) else { return Some(first) };
    let competes = |at: usize| roll(100) < usize::from(share(at));
    match (competes(first), competes(second)) {
        (true, false) => Some(first),
        (false, true) => Some(second),
        (true, true) | (false, false) => Some(if load(second) < load(first) { second } else { first }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares_of(shares: &[u8], loads: &[usize], avoid: Option<usize>) -> Vec<usize> {
        let dice = Dice::new();
        let mut counts = vec![0; shares.len()];
        for _ in 0..10_000 {
            let at = choose(shares.len(), avoid, |at| shares[at], |at| loads[at], |below| dice.roll(below)).unwrap();
            counts[at] += 1;
        }
        counts
    }

    #[test]
    fn the_less_busy_gets_more_and_the_busiest_of_all_nothing() {
        let counts = shares_of(&[100; 4], &[3, 0, 1, 2], None);
        assert_eq!(counts[0], 0);
        assert!(counts[1] > counts[2] && counts[2] > counts[3] && counts[3] > 0, "{counts:?}");
        assert_eq!(shares_of(&[100; 2], &[1, 0], None), [0, 10_000]);
    }

    #[test]
    fn equals_share_evenly_and_one_that_returns_gets_less() {
        for count in shares_of(&[100; 5], &[0; 5], None) {
            assert!((1600..2400).contains(&count), "{count}");
        }
        let counts = shares_of(&[10, 100], &[0, 0], None);
        assert!((200..1200).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn what_failed_is_avoided_unless_it_is_alone() {
        assert_eq!(shares_of(&[100; 3], &[0, 9, 9], Some(0))[0], 0);
        assert_eq!(shares_of(&[100, 0], &[0, 0], Some(0)), [10_000, 0]);
        assert_eq!(shares_of(&[100], &[0], Some(0)), [10_000]);
    }

    proptest! {
        #[test]
        fn one_in_service_is_chosen_if_there_is_any(
            shares in prop::collection::vec(prop_oneof![Just(0_u8), 1..=100_u8], 0..6),
            avoid in prop::option::of(0..8_usize),
            seed in any::<u64>(),
        ) {
            let dice = Dice(AtomicU64::new(seed));
            let chosen = choose(shares.len(), avoid, |at| shares[at], |at| at, |below| dice.roll(below));
            let others = shares.iter().enumerate().any(|(at, share)| *share > 0 && Some(at) != avoid);
            match chosen {
                Some(at) => prop_assert!(shares[at] > 0 && (Some(at) != avoid || !others)),
                None => prop_assert!(shares.iter().all(|share| *share == 0)),
            }
        }
    }
}
