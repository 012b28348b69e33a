//! How long a comparison of passwords takes on this machine, so that one with a hash from before the cost was raised can be
//! made to take as long. Argon2's time does not simply grow with memory times passes: the first pass costs more than the
//! others, and a smaller memory fits better into the caches; so it is measured.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What comparisons at the configured cost took lately. Processor time: waiting for a core is not counted.
#[derive(Debug, Default)]
pub(super) struct Pace(
    /// Nanoseconds; 0: there was none yet.
    AtomicU64,
);

/// Processor time of this thread, from a moment on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent(Duration);

impl Spent {
    /// From now on.
    pub(super) fn here() -> Self {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Self(Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0)))
    }

    /// How much it is by now.
    pub(super) fn so_far(self) -> Duration {
        Self::here().0.saturating_sub(self.0)
    }
}

impl Pace {
    /// Remembers what a comparison at the configured cost took: an eighth of it counts, so that no single one matters much.
    pub(super) fn learn(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Two at once may forget one of them, which is as good.
        let usual = match self.0.load(Ordering::Relaxed) {
            0 => took,
            usual => usual - usual / 8 + took / 8,
        };
        self.0.store(usual, Ordering::Relaxed);
    }

    /// What it takes; `None`: there was none yet.
    pub(super) fn usual(&self) -> Option<Duration> {
        Some(self.0.load(Ordering::Relaxed)).filter(|usual| *usual > 0).map(Duration::from_nanos)
    }
}

/// Does `round` until `spent` says that as much was done as usual, and never more than `most` times.
pub(super) fn go_on(spent: impl Fn() -> Duration, usual: Duration, most: u32, mut round: impl FnMut()) {
    for _ in 0..most {
        if spent() >= usual {
            return;
        }
        round();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    /// Does something for so long.
    fn work(span: Duration) {
        let (spent, mut sum) = (Spent::here(), 0_u64);
        while spent.so_far() < span {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }

    #[test]
    fn processor_time_is_this_threads_own() {
        let span = Duration::from_millis(20);
        let spent = Spent::here();
        std::thread::spawn(move || work(span)).join().unwrap();
        assert!(spent.so_far() < span, "somebody else's work is not ours");
        work(span);
        assert!(spent.so_far() >= span);
    }

    proptest! {
        #[test]
        fn what_is_usual_lies_between_what_was_seen(took in prop::collection::vec(8_u64..1 << 40, 1..40)) {
            let pace = Pace::default();
            prop_assert_eq!(pace.usual(), None);
            for took in &took {
                pace.learn(Duration::from_nanos(*took));
            }
            let usual = u64::try_from(pace.usual().unwrap().as_nanos()).unwrap();
            // An eighth is rounded, up to eight times: the sum of 7/8, 49/64, …
            prop_assert!(usual + 8 >= *took.iter().min().unwrap() && usual <= took.iter().max().unwrap() + 8, "{} of {:?}", usual, took);
        }

        #[test]
        fn as_many_rounds_as_are_missing(done in 0_u64..100, usual in 0_u64..100, each in 1_u64..20, most in 0_u32..30) {
            let (clock, rounds) = (Cell::new(done), Cell::new(0_u32));
            go_on(|| Duration::from_nanos(clock.get()), Duration::from_nanos(usual), most, || {
                clock.set(clock.get() + each);
                rounds.set(rounds.get() + 1);
            });
            let missing = usual.saturating_sub(done).div_ceil(each);
            prop_assert_eq!(u64::from(rounds.get()), missing.min(u64::from(most)));
        }
    }
}
