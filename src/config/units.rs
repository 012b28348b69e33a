//! Durations, sizes and rates as people write them.

use std::fmt;
use std::time::Duration;

use super::Rate;

/// The longest duration that can be written: ten years. Adding it to any time of day can't overflow.
pub(super) const LONGEST: Duration = Duration::from_hours(3650 * 24);

const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 7] =
    [("GiB", 1 << 30), ("GB", 1_000_000_000), ("MiB", 1 << 20), ("MB", 1_000_000), ("KiB", 1 << 10), ("KB", 1000), ("B", 1)];
const RATE_UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

/// `"7d"`, `"15m"`, `"500ms"`, `"1h30m"`: whole numbers with the units d, h, m, s, ms, the largest first; at most ten years.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a duration: write whole numbers with units, such as \"7d\", \"15m\", \"500ms\" or \"1h30m\"");
    let mut rest = text;
    let mut units = DURATION_UNITS.iter();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let (number, after) = take(rest, |c| c.is_ascii_digit());
        let (unit, after) = take(after, |c| !c.is_ascii_digit());
        let number: u64 = number.parse().map_err(|_| invalid())?;
        // The iterator is not rewound, so that each unit comes once, after the larger ones.
        let (_, millis) = units.find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        total = number.checked_mul(*millis).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        rest = after;
    }
    let duration = Duration::from_millis(total);
    if duration > LONGEST { Err(format!("{text:?} is longer than 3650d")) } else { Ok(duration) }
}

/// The shortest text that [`parse_duration`] reads as `duration`, in whole milliseconds.
pub(super) fn format_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in DURATION_UNITS {
        if millis >= size {
            text.push_str(&(millis / size).to_string());
            text.push_str(unit);
            millis %= size;
        }
    }
    text
}

/// `"1MiB"`, `"10MB"`, `"1024B"`: a whole number of bytes, in units of 1000 (KB, MB, GB) or 1024 (KiB, MiB, GiB).
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let invalid = || format!("{text:?} is not a size: write a whole number with B, KB, MB, GB, KiB, MiB or GiB, such as \"32KiB\"");
    let (number, unit) = take(text, |c| c.is_ascii_digit());
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).ok_or_else(invalid)
}

/// The text with the largest unit that [`parse_size`] reads as `bytes`.
pub(super) fn format_size(bytes: u64) -> String {
    let (unit, size) = SIZE_UNITS.iter().find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

/// `"30/m"`: so many, at least one, a second (s), minute (m), hour (h) or day (d).
pub(super) fn parse_rate(text: &str) -> Result<Rate, String> {
    let invalid = || format!("{text:?} is not a rate: write a whole number from 1 and s, m, h or d, such as \"30/m\"");
    let (count, unit) = text.split_once('/').ok_or_else(invalid)?;
    let (_, seconds) = RATE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
    if !count.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid());
    }
    match count.parse() {
        Ok(0) | Err(_) => Err(invalid()),
        Ok(count) => Ok(Rate { count, per: Duration::from_secs(*seconds) }),
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RATE_UNITS.iter().find(|(_, seconds)| Duration::from_secs(*seconds) == self.per) {
            Some((unit, _)) => write!(f, "{}/{unit}", self.count),
            None => write!(f, "{}/{}", self.count, format_duration(self.per)),
        }
    }
}

/// The longest head of `text` whose characters all pass, and the rest.
fn take(text: &str, passes: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !passes(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_one_form() {
        assert_eq!(parse_duration("7d"), Ok(Duration::from_hours(7 * 24)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for bad in
            ["", "7", "d", "7 d", "-1s", "+1s", "1.5h", "30m1h", "1h1h", "7D", "7days", "99999999999999999999s", "3651d", "1s ", "١s"]
        {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_and_rates_have_one_form() {
        assert_eq!(parse_size("32KiB"), Ok(32 << 10));
        assert_eq!(parse_size("10MB"), Ok(10_000_000));
        assert_eq!(parse_size("1024B"), Ok(1024));
        for bad in ["", "1024", "KiB", "1kib", "1 MiB", "-1B", "1.5MiB", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_rate("30/m"), Ok(Rate { count: 30, per: Duration::from_mins(1) }));
        for bad in ["", "30", "0/m", "30/w", "/m", "30/", "-1/m", "+1/m", "30 / m", "30/m/m", "4294967296/s"] {
            assert!(parse_rate(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn durations_round_trip(millis in 0..=u64::try_from(LONGEST.as_millis()).unwrap()) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_round_trip(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn rates_round_trip(count in 1..=u32::MAX, unit in 0usize..4) {
            let rate = Rate { count, per: Duration::from_secs(RATE_UNITS[unit].1) };
            prop_assert_eq!(parse_rate(&rate.to_string()), Ok(rate));
        }

        #[test]
        fn what_is_taken_is_understood(text in "[0-9]{1,4}(d|h|m|s|ms|B|KiB|MB|/s|/d|x|é)?|.{0,20}") {
            if let Ok(duration) = parse_duration(&text) {
                prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            }
            if let Ok(size) = parse_size(&text) {
                prop_assert_eq!(parse_size(&format_size(size)), Ok(size));
            }
            if let Ok(rate) = parse_rate(&text) {
                prop_assert_eq!(parse_rate(&rate.to_string()), Ok(rate));
            }
        }
    }
}
