//! Durations as Go writes them, in flags, configuration files and request parameters. Source: Go's `time.ParseDuration`.

use jiff::SignedDuration;

const NANOS_PER_SECOND: f64 = 1e9;

/// Reads `1h30m`, `1.5s`, `-2ms`; `0` needs no unit. `None` for anything else, and for what does not fit Go's 64 bits of
/// nanoseconds.
pub fn parse(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        nanos = nanos.checked_add(part(number, unit)?)?;
        rest = tail;
    }
    Some(SignedDuration::from_nanos(if negative { -nanos } else { nanos }))
}

/// One number and its unit, in nanoseconds.
fn part(number: &str, unit: &str) -> Option<i64> {
    let unit: i64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: f64 = if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().ok()? };
    // A fraction of one hour at most: far from what a double cannot hold, or an integer of 64 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let below = (fraction * (unit as f64)).min(3600.0 * NANOS_PER_SECOND) as i64;
    whole.checked_mul(unit)?.checked_add(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("-2ms", -2_000_000),
            ("+3us", 3_000),
            ("4µs", 4_000),
            ("7ns", 7),
            ("2562047h47m16.854775807s", i64::MAX),
        ] {
            assert_eq!(parse(text), Some(SignedDuration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "-", "1", "s", ".s", "1..5s", "1d", "1h 30m", "2562048h", "99999999999999999999s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
