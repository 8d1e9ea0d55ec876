//! Durations as Go writes them: `1h30m`, `100ms`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::backoff::go_duration;

/// A duration in a document; never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// So many minutes.
    #[must_use]
    pub const fn minutes(count: u64) -> Self {
        Self(Duration::from_secs(count * 60))
    }

    /// So many hours.
    #[must_use]
    pub const fn hours(count: u64) -> Self {
        Self::minutes(count * 60)
    }

    /// Reads Go's form: numbers with units, in any order. None if it is not one, or negative.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Some(Self::default());
        }
        let mut seconds = 0.0;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
            let number: f64 = rest[..end].parse().ok()?;
            rest = &rest[end..];
            let end =
                rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len());
            let unit = match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
            seconds += number * unit;
            rest = &rest[end..];
        }
        Duration::try_from_secs_f64(seconds).ok().map(Self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&go_duration(self.0))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not a duration such as 1m30s")))
    }
}

/// A duration that may be negative, where that means never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedSpan {
    /// Whether it is below zero.
    pub negative: bool,
    /// How long it is.
    pub size: Span,
}

impl SignedSpan {
    /// So many minutes.
    #[must_use]
    pub const fn minutes(count: u64) -> Self {
        Self { negative: false, size: Span::minutes(count) }
    }

    /// None where it is not positive.
    #[must_use]
    pub fn positive(self) -> Option<Duration> {
        Some(self.size.0).filter(|size| !self.negative && !size.is_zero())
    }
}

impl fmt::Display for SignedSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.negative { "-" } else { "" }, self.size)
    }
}

impl Serialize for SignedSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SignedSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (negative, size) = match text.strip_prefix('-') {
            // One sign is enough.
            Some(rest) => (true, Some(rest).filter(|rest| !rest.starts_with('+')).and_then(Span::parse)),
            None => (false, Span::parse(&text)),
        };
        let size =
            size.ok_or_else(|| D::Error::custom(format!("{text:?} is not a duration such as 1m30s or -1s")))?;
        Ok(Self { negative, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_them() {
        for (text, millis, shown) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("90s", 90_000, "1m30s"),
            ("1h2m3.5s", 3_723_500, "1h2m3.5s"),
            ("100ms", 100, "100ms"),
            (".5m", 30_000, "30s"),
        ] {
            let read = Span::parse(text).unwrap();
            assert_eq!(read.0, Duration::from_millis(millis), "{text}");
            assert_eq!(read.to_string(), shown, "{text}");
        }
        for wrong in ["", "5", "s", "-1s", "1x", "1s2", "1..2s"] {
            assert_eq!(Span::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn negative_ones() {
        for (text, positive, shown) in
            [("-1m", None, "-1m0s"), ("0s", None, "0s"), ("90s", Some(Duration::from_secs(90)), "1m30s")]
        {
            let read: SignedSpan = serde_json::from_value(text.into()).unwrap();
            assert_eq!((read.positive(), read.to_string().as_str()), (positive, shown), "{text}");
        }
        for wrong in ["-", "--1s", "-+1s", "1x"] {
            serde_json::from_value::<SignedSpan>(wrong.into()).unwrap_err();
        }
    }
}
