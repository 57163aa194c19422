//! Times and durations, for the journal and for people.

use std::time::{Duration, SystemTime};

/// Now, in the journal's format: RFC 3339.
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// A duration in the journal's unit: milliseconds.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A duration for people, in at most two units: `41ms`, `4.4s`, `12m 34s`, `1h 30m`, `1 day 2h`.
pub fn rough(time: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, " day"), (3_600, "h"), (60, "m"), (1, "s")];
    let seconds = time.as_secs();
    match time.as_millis() {
        0 => return "under 1ms".to_owned(),
        millis @ 1..1_000 => return format!("{millis}ms"),
        millis @ 1_000..10_000 if millis % 1_000 >= 100 => return format!("{seconds}.{}s", millis % 1_000 / 100),
        _ => {}
    }
    let mut rest = seconds;
    let counts = UNITS.map(|(unit, name)| {
        let count = rest / unit;
        rest %= unit;
        (count, name)
    });
    let first = counts.iter().position(|(count, _)| *count > 0).unwrap_or(UNITS.len() - 1);
    let shown = counts[first..].iter().take(2).filter(|(count, _)| *count > 0);
    let plural = |count: u64, name: &str| if name == " day" && count > 1 { "s" } else { "" };
    let parts: Vec<_> = shown.map(|&(count, name)| format!("{count}{name}{}", plural(count, name))).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_shown_in_two_units_at_most() {
        let shown = [
            (0, "under 1ms"),
            (41, "41ms"),
            (1_000, "1s"),
            (4_460, "4.4s"),
            (9_050, "9s"),
            (12_900, "12s"),
            (60_000, "1m"),
            (754_000, "12m 34s"),
            (3_615_000, "1h"),
            (5_400_000, "1h 30m"),
            (86_400_000, "1 day"),
            (86_460_000, "1 day"),
            (180_000_000, "2 days 2h"),
        ];
        for (millis, text) in shown {
            assert_eq!(rough(Duration::from_millis(millis)), text);
        }
    }
}
