//! The wall clock, in the one form objects hold it.

use jiff::Timestamp;

/// Now, with whole seconds, as `metav1.Time` is written.
pub(crate) fn now() -> String {
    format(Timestamp::now())
}

/// RFC 3339 in UTC with whole seconds.
pub(crate) fn format(time: Timestamp) -> String {
    let seconds = Timestamp::from_second(time.as_second()).unwrap_or(time);
    seconds.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads a time out of an object.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}
