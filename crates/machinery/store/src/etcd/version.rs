//! What a server can do, by its version. Pure.

/// A server's version: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32, pub(super) u32);

impl Version {
    /// Reads `3.5.13` or `3.6.0-rc.1`; what cannot be read is taken as the oldest that is spoken with.
    pub(super) fn parse(text: &str) -> Version {
        let release = text.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = release.split('.').map(|part| part.parse().ok());
        let mut next = || numbers.next().flatten();
        match (next(), next(), next()) {
            (Some(major), Some(minor), patch) => Version(major, minor, patch.unwrap_or(0)),
            _ => Version(3, 4, 0),
        }
    }

    /// Whether the answer to a progress request comes after all events up to its revision. Before these versions it
    /// could overtake them (etcd issues 15220 and 17507). Source: the versions for which upstream's API server reads
    /// consistently from its cache.
    pub(super) fn progress_is_reliable(self) -> bool {
        match self {
            Version(3, 4, patch) => patch >= 31,
            Version(3, 5, patch) => patch >= 13,
            later => later >= Version(3, 6, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_trusted_where_it_was_repaired() {
        for (text, reliable) in [
            ("3.4.23", false),
            ("3.4.30", false),
            ("3.4.31", true),
            ("3.5.0", false),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0", true),
            ("3.6.0-rc.1", true),
            ("3.6.8", true),
            ("4.0.0", true),
            ("3.3.27", false),
            ("nonsense", false),
            ("", false),
        ] {
            assert_eq!(Version::parse(text).progress_is_reliable(), reliable, "{text}");
        }
    }
}
