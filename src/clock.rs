//! Time as a value. Functions take `now: Timestamp`; only this file reads the wall clock, so that a test can set it
//! and two decisions about one request can never disagree about what time it is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The largest representable time; used for "never".
    pub const MAX: Self = Self(i64::MAX);

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From seconds since the epoch, as a JWT's `NumericDate` counts (RFC 7519, section 2).
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// From a time in RFC 3339 with its offset from UTC; `None`: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|time| Self(time.as_millisecond()))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This time cut to the whole second, which is what a JWT can carry.
    #[must_use]
    pub const fn whole_second(self) -> Self {
        Self::from_secs(self.as_secs())
    }

    /// `self + by`, saturating at [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// `self - by`, saturating.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// RFC 3339 in UTC with milliseconds, as the JSON API shows times.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.usual_text() {
            Some(text) => f.write_str(str::from_utf8(&text).unwrap_or_default()),
            None => match jiff::Timestamp::from_millisecond(self.0) {
                Ok(time) => write!(f, "{time:.3}"),
                Err(_) => f.write_str("9999-12-31T23:59:59.999Z"),
            },
        }
    }
}

impl Timestamp {
    /// Appends the text that `Display` shows.
    pub fn push_to(self, text: &mut String) {
        match self.usual_text() {
            Some(usual) => text.push_str(str::from_utf8(&usual).unwrap_or_default()),
            None => text.push_str(&self.to_string()),
        }
    }

    /// `2023-11-14T22:13:20.123Z`, for the years 1970 to 9999: every request logs one, and a calendar that knows zones
    /// takes ten times as long. Days to dates as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
    fn usual_text(self) -> Option<[u8; 24]> {
        const YEAR_10000: u64 = 253_402_300_800_000;
        let millis = u64::try_from(self.0).ok().filter(|millis| *millis < YEAR_10000)?;
        let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Years begin in March here, so that the leap day is the last of one.
        let months = (5 * of_year + 2) / 153;
        let day = of_year - (153 * months + 2) / 5 + 1;
        let month = if months < 10 { months + 3 } else { months - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
        let digit = |number: u64| b'0' + u8::try_from(number % 10).unwrap_or(0);
        let [y, mo, d, h, mi, s, ms] = [year, month, day, hour, minute, second, of_day % 1000];
        Some([
            digit(y / 1000),
            digit(y / 100),
            digit(y / 10),
            digit(y),
            b'-',
            digit(mo / 10),
            digit(mo),
            b'-',
            digit(d / 10),
            digit(d),
            b'T',
            digit(h / 10),
            digit(h),
            b':',
            digit(mi / 10),
            digit(mi),
            b':',
            digit(s / 10),
            digit(s),
            b'.',
            digit(ms / 100),
            digit(ms / 10),
            digit(ms),
            b'Z',
        ])
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where `now` comes from. Read once for each request and then passed on as a value.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's wall clock.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn system() -> Self {
        Self(Arc::new(|| {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
        }))
    }

    /// A clock that shows what the returned handle was last set to; for tests.
    pub fn manual(start: Timestamp) -> (Self, ManualClock) {
        let millis = Arc::new(AtomicI64::new(start.0));
        let handle = ManualClock(Arc::clone(&millis));
        (Self(Arc::new(move || Timestamp(millis.load(Ordering::SeqCst)))), handle)
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Moves the clock made by [`Clock::manual`].
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets the clock.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_rfc3339_utc() {
        assert_eq!(Timestamp::from_millis(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
    }

    proptest::proptest! {
        #[test]
        fn every_time_is_shown_as_a_calendar_shows_it(
            millis in proptest::prop_oneof![0_i64..jiff::Timestamp::MAX.as_millisecond(), -1_000_000_i64..1_000_000, 253_402_300_800_000_i64..i64::MAX]
        ) {
            let expected = jiff::Timestamp::from_millisecond(millis).map_or("9999-12-31T23:59:59.999Z".to_owned(), |time| format!("{time:.3}"));
            proptest::prop_assert_eq!(&Timestamp::from_millis(millis).to_string(), &expected);
            let mut text = String::new();
            Timestamp::from_millis(millis).push_to(&mut text);
            proptest::prop_assert_eq!(&text, &expected);
        }
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX.plus(Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(Timestamp::from_secs(1).since(Timestamp::from_secs(2)), Duration::ZERO);
        assert_eq!(Timestamp::from_millis(1999).as_secs(), 1);
        assert_eq!(Timestamp::from_millis(-1).as_secs(), -1);
    }
}
