//! Times in words. Without script nobody knows where a reader lives, so a time of day is in UTC and says so; how long
//! ago something was is true everywhere.

use std::time::Duration;

use super::{Filled, Texts};
use crate::clock::Timestamp;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

impl Texts {
    /// The day, such as "3 May 2027".
    pub(in crate::web) fn date(&self, at: Timestamp) -> Filled {
        let (year, month, day) = parts(at);
        let month = month.checked_sub(1).and_then(|place| self.time.months.get(place)).copied().unwrap_or_default();
        // A year is never grouped.
        self.time.date(day, month, year)
    }

    /// The day and the time of day in UTC, to the minute.
    pub(in crate::web) fn date_time(&self, at: Timestamp) -> Filled {
        let of_day = u64::try_from(at.as_secs().rem_euclid(86_400)).unwrap_or(0);
        let clock = format!("{:02}:{:02}", of_day / HOUR, of_day % HOUR / MINUTE);
        self.time.date_time(self.date(at), clock)
    }

    /// How long before `now` something was; after a month the day. What is not past is "just now".
    pub(in crate::web) fn ago(&self, at: Timestamp, now: Timestamp) -> Filled {
        match now.since(at).as_secs() {
            0..MINUTE => self.time.just_now.into(),
            seconds @ MINUTE..HOUR => self.time.minutes_ago(seconds / MINUTE),
            seconds @ HOUR..DAY => self.time.hours_ago(seconds / HOUR),
            seconds if seconds < 31 * DAY => self.time.days_ago(seconds / DAY),
            _ => self.date(at),
        }
    }

    /// How long something still takes, rounded up: "in 2 minutes". Less than two minutes are told in seconds.
    pub(in crate::web) fn within(&self, wait: Duration) -> Filled {
        let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
        match seconds {
            0..120 => self.time.in_seconds(seconds),
            120..7200 => self.time.in_minutes(seconds.div_ceil(MINUTE)),
            7200..172_800 => self.time.in_hours(seconds.div_ceil(HOUR)),
            _ => self.time.in_days(seconds.div_ceil(DAY)),
        }
    }
}

/// Year, month and day in UTC, read from what RFC 3339 makes of the time.
fn parts(at: Timestamp) -> (u32, usize, u32) {
    let text = at.to_string();
    let mut parts = text.split(['-', 'T']);
    let mut next = || parts.next().unwrap_or_default();
    let (year, month, day) = (next(), next(), next());
    (year.parse().unwrap_or_default(), month.parse().unwrap_or_default(), day.parse().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::languages::Language;

    #[test]
    fn times_are_told_as_their_readers_do() {
        let at = Timestamp::from_secs(1_809_336_240);
        let all = Language::ALL.map(|language| language.texts().date_time(at).to_string());
        assert_eq!(
            all,
            [
                "3 May 2027, 09:24 UTC",
                "3. Mai 2027, 09:24 Uhr (UTC)",
                "3 mai 2027 à 09:24 (UTC)",
                "3 de mayo de 2027, 09:24 (UTC)",
                "3 de maio de 2027, 09:24 (UTC)",
                "2027年5月3日 09:24（UTC）",
                "2027年5月3日 09:24（UTC）",
            ]
        );
    }

    #[test]
    fn what_was_and_what_comes_is_told_in_words() {
        let now = Timestamp::from_secs(1_809_336_240);
        let ago = |seconds| Language::En.texts().ago(now.minus(Duration::from_secs(seconds)), now).to_string();
        assert_eq!([0, 59, 60, 3599].map(ago), ["just now", "just now", "a minute ago", "59 minutes ago"]);
        assert_eq!([3600, 86_399, 86_400, 31 * 86_400].map(ago), ["an hour ago", "23 hours ago", "a day ago", "2 April 2027"]);
        assert_eq!(Language::En.texts().ago(now.plus(Duration::from_secs(99)), now).to_string(), "just now");
        let within = |millis| Language::De.texts().within(Duration::from_millis(millis)).to_string();
        assert_eq!([0, 1001, 120_000, 120_001].map(within), ["in einer Sekunde", "in 2 Sekunden", "in 2 Minuten", "in 3 Minuten"]);
        assert_eq!([7_200_000, 172_800_000].map(within), ["in 2 Stunden", "in 2 Tagen"]);
    }
}
