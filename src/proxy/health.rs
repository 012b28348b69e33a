//! Whether an endpoint is in service: what its requests and its probes say, and how it comes back. Pure: time and chance
//! are told.

use std::time::Duration;

use tokio::time::Instant;

/// Requests that must fail one after the other before an endpoint is ejected: fewer may be bad luck, or one request
/// that breaks the application.
pub(super) const FAILURES: u32 = 5;

/// Probes that must fail one after the other, for the same reason.
pub(super) const PROBES: u32 = 2;

/// The first ejection; each further one is twice as long.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);

/// The longest ejection, before its jitter.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// How long an endpoint that comes back gets less than its share: caches are cold and pools are empty.
pub(super) const RETURN: Duration = Duration::from_secs(10);

/// The share, in percent of a full one, that a returning endpoint begins with.
pub(super) const FIRST_SHARE: u8 = 10;

/// What is known about one endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    failures: u32,
    failed_probes: u32,
    /// Ejections since it last did well.
    ejections: u32,
    /// The end of the last ejection, until it has been back for long enough.
    out_until: Option<Instant>,
    /// When a probe succeeded after some had failed, likewise.
    probed_back: Option<Instant>,
}

/// What a probe has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Probed {
    Same,
    Out,
    Back,
}

impl Health {
    /// The share of requests it gets, in percent of a full one; 0: it is out of service.
    pub(super) fn share(&self, now: Instant) -> u8 {
        if self.failed_probes >= PROBES || self.out_until.is_some_and(|until| now < until) {
            return 0;
        }
        let Some(back) = self.out_until.max(self.probed_back) else { return 100 };
        let grown = now.saturating_duration_since(back).as_millis() * u128::from(100 - FIRST_SHARE) / RETURN.as_millis();
        u8::try_from(grown).unwrap_or(u8::MAX).saturating_add(FIRST_SHARE).min(100)
    }

    /// Notes a request that failed, and how long the endpoint is ejected for if that was one too many. `jitter`, in
    /// percent up to 100, spreads the returns of endpoints that failed together.
    ///
    /// One that is coming back is on trial: the first failure ejects it again.
    pub(super) fn failed(&mut self, now: Instant, jitter: u8) -> Option<Duration> {
        let share = self.share(now);
        if share == 0 {
            // Sent before it was ejected; it has been counted.
            return None;
        }
        self.failures += 1;
        if share == 100 && self.failures < FAILURES {
            return None;
        }
        let doubled = SHORTEST.saturating_mul(1 << self.ejections.min(10)).min(LONGEST);
        // Up to a quarter more.
        let time = doubled + doubled * u32::from(jitter.min(100)) / 400;
        self.failures = 0;
        self.ejections = self.ejections.saturating_add(1);
        self.out_until = Some(now + time);
        Some(time)
    }

    /// Notes a request that was answered.
    pub(super) fn succeeded(&mut self, now: Instant) {
        match self.share(now) {
            0 => {}
            100 => *self = Self { failed_probes: self.failed_probes, ..Self::default() },
            _ => self.failures = 0,
        }
    }

    /// Notes the outcome of a probe.
    pub(super) fn probed(&mut self, well: bool, now: Instant) -> Probed {
        let was_out = self.failed_probes >= PROBES;
        if well {
            self.failed_probes = 0;
            if was_out {
                self.probed_back = Some(now);
                return Probed::Back;
            }
        } else {
            self.failed_probes = self.failed_probes.saturating_add(1);
            if !was_out && self.failed_probes >= PROBES {
                return Probed::Out;
            }
        }
        Probed::Same
    }

    /// Whether there is nothing to look at: a full share, and no failure to forget.
    pub(super) fn is_spotless(&self) -> bool {
        self.failures == 0 && self.failed_probes == 0 && self.ejections == 0 && self.out_until.is_none() && self.probed_back.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ejected(health: &mut Health, now: Instant) -> Duration {
        loop {
            if let Some(time) = health.failed(now, 0) {
                return time;
            }
        }
    }

    #[test]
    fn ejections_double_and_end() {
        let mut now = Instant::now();
        let mut health = Health::default();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let time = ejected(&mut health, now);
            assert_eq!(time.as_secs(), seconds);
            assert_eq!(health.share(now + time - Duration::from_millis(1)), 0);
            now += time;
            assert_eq!(health.share(now), FIRST_SHARE);
        }
        now += RETURN;
        assert_eq!(health.share(now), 100);
        health.succeeded(now);
        assert!(health.is_spotless());
        assert_eq!(ejected(&mut health, now).as_secs(), 1);
    }

    #[test]
    fn only_failures_in_a_row_count() {
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..3 {
            for _ in 1..FAILURES {
                assert_eq!(health.failed(now, 0), None);
            }
            health.succeeded(now);
        }
        assert!(health.is_spotless());
    }

    #[test]
    fn one_on_trial_is_ejected_at_once() {
        let now = Instant::now();
        let mut health = Health::default();
        let now = now + ejected(&mut health, now);
        assert_eq!(health.failed(now, 100), Some(Duration::from_millis(2500)));
    }

    #[test]
    fn two_probes_out_one_in() {
        let now = Instant::now();
        let mut health = Health::default();
        assert_eq!(health.probed(false, now), Probed::Same);
        assert_eq!(health.share(now), 100);
        assert_eq!(health.probed(false, now), Probed::Out);
        assert_eq!((health.probed(false, now), health.share(now)), (Probed::Same, 0));
        health.succeeded(now);
        assert_eq!(health.share(now), 0);
        assert_eq!((health.probed(true, now), health.share(now)), (Probed::Back, FIRST_SHARE));
        assert_eq!(health.probed(true, now), Probed::Same);
        assert!(health.share(now + RETURN / 2) > 50);
        health.succeeded(now + RETURN);
        assert!(health.is_spotless());
    }

    #[derive(Clone, Debug)]
    enum Event {
        Wait(u64),
        Failed(u8),
        Succeeded,
        Probed(bool),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            3 => (0..20_000_u64).prop_map(Event::Wait),
            6 => (0..=100_u8).prop_map(Event::Failed),
            2 => Just(Event::Succeeded),
            1 => any::<bool>().prop_map(Event::Probed),
        ];
        prop::collection::vec(event, 0..200)
    }

    proptest! {
        #[test]
        fn whatever_happens_it_comes_back_in_time(events in events()) {
            let mut now = Instant::now();
            let mut health = Health::default();
            for event in events {
                match event {
                    Event::Wait(millis) => now += Duration::from_millis(millis),
                    Event::Failed(jitter) => {
                        let before = health.share(now);
                        if let Some(time) = health.failed(now, jitter) {
                            prop_assert!(before > 0);
                            prop_assert!((SHORTEST..=LONGEST * 5 / 4).contains(&time));
                            prop_assert_eq!(health.share(now), 0);
                        } else {
                            // A failure that does not eject takes nothing away.
                            prop_assert_eq!(health.share(now), before);
                        }
                    }
                    Event::Succeeded => {
                        let before = health.share(now);
                        health.succeeded(now);
                        prop_assert_eq!(health.share(now), before);
                    }
                    Event::Probed(well) => {
                        let before = health.share(now);
                        match health.probed(well, now) {
                            Probed::Out => prop_assert_eq!(health.share(now), 0),
                            Probed::Back => prop_assert!(health.share(now) < 100),
                            Probed::Same => prop_assert_eq!(health.share(now), before),
                        }
                    }
                }
            }
            // Left alone, only probes that go on failing keep it out.
            health.probed(true, now);
            let mut last = health.share(now);
            for _ in 0..100 {
                now += Duration::from_millis(500);
                prop_assert!(health.share(now) >= last, "the share only grows");
                last = health.share(now);
            }
            prop_assert_eq!(last, 100);
            health.succeeded(now);
            prop_assert!(health.is_spotless());
        }
    }
}
