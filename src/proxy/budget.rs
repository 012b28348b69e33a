//! How many further tries an upstream may be asked to bear: when it is down, trying again only adds to the load. Pure:
//! time is told.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What is looked back on, to a second.
const WINDOW: Duration = Duration::from_secs(10);

/// Tries within the window that are always allowed, so that little traffic can be tried again too.
const FLOOR: u64 = 10;

/// One try in so many requests: 20 percent.
const REQUESTS_A_TRY: u64 = 5;

/// The tries of the last ten seconds. Looked at only when there is something to try again: in between the requests cost
/// one counter, which is compared with what it was at the first try within the window. Requests before that one are not
/// known, so they earn nothing.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// At most eleven.
    seconds: VecDeque<Second>,
}

#[derive(Debug)]
struct Second {
    since: Instant,
    /// Requests ever, when it began.
    requests: u64,
    tries: u64,
}

impl Budget {
    /// Whether there may be a further try, which is counted then. `requests`: how many there ever were.
    pub(super) fn take(&mut self, now: Instant, requests: u64) -> bool {
        while self.seconds.front().is_some_and(|second| now.saturating_duration_since(second.since) >= WINDOW) {
            self.seconds.pop_front();
        }
        let known = self.seconds.front().map_or(0, |first| requests.saturating_sub(first.requests));
        let spent: u64 = self.seconds.iter().map(|second| second.tries).sum();
        if spent >= FLOOR + known / REQUESTS_A_TRY {
            return false;
        }
        match self.seconds.back_mut() {
            Some(second) if now.saturating_duration_since(second.since) < Duration::from_secs(1) => second.tries += 1,
            Some(_) | None => self.seconds.push_back(Second { since: now, requests, tries: 1 }),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn little_traffic_has_the_floor_and_much_a_fifth() {
        let now = Instant::now();
        let mut budget = Budget::default();
        let allowed = (0..100).filter(|_| budget.take(now, 0)).count();
        assert_eq!(allowed, 10);
        let allowed = (0..1000).filter(|_| budget.take(now, 500)).count();
        assert_eq!(allowed, 100);
        assert!(!budget.take(now + WINDOW - Duration::from_millis(1), 500));
        assert!(budget.take(now + WINDOW, 500));
    }

    proptest! {
        #[test]
        fn never_more_than_a_fifth_and_the_floor(steps in prop::collection::vec((0..400_u64, 0..30_u64, 0..20_u64), 0..200)) {
            let mut now = Instant::now();
            let mut budget = Budget::default();
            let mut requests = 0;
            // When each request came and each try was allowed.
            let (mut came, mut tried): (Vec<Instant>, Vec<Instant>) = (Vec::new(), Vec::new());
            for (millis, more, tries) in steps {
                now += Duration::from_millis(millis);
                requests += more;
                came.extend((0..more).map(|_| now));
                let within = |times: &[Instant], seconds: u64| {
                    times.iter().filter(|time| now.duration_since(**time) < Duration::from_secs(seconds)).count() as u64
                };
                for _ in 0..tries {
                    if budget.take(now, requests) {
                        tried.push(now);
                        // What is forgotten is forgotten by the second.
                        prop_assert!(within(&tried, 9) <= FLOOR + within(&came, 10) / REQUESTS_A_TRY);
                    }
                }
                prop_assert!(budget.seconds.len() <= 11);
            }
        }
    }
}
