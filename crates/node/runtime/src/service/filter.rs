//! Which of many a list call means. Pure.

use std::collections::HashMap;

/// Whether all wanted labels are there.
pub(crate) fn labels(wanted: &HashMap<String, String>, have: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| have.get(name) == Some(value))
}

/// Whether an id is the wanted one or begins with it; an empty wish fits all.
pub(crate) fn id(wanted: &str, have: &str) -> bool {
    have.starts_with(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<HashMap<_, _>>()
        };
        let have = map(&[("a", "1"), ("b", "2")]);
        assert!(labels(&map(&[]), &have) && labels(&map(&[("a", "1")]), &have));
        assert!(!labels(&map(&[("a", "2")]), &have) && !labels(&map(&[("c", "")]), &have));
        assert!(id("", "abc") && id("ab", "abc") && !id("bc", "abc"));
    }
}
