//! `/healthz`, `/livez` and `/readyz`: named checks, all at once or one alone.
//!
//! Pure: what each check found is an argument, and the answer is a status code and a text, which each component's server sends
//! its own way. Authorisation is the component's, too.
//!
//! Source: upstream's `k8s.io/apiserver/pkg/server/healthz`.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::go::quote;

/// The endpoints.
pub const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// As it is asked for and left out by.
    pub name: &'static str,
    /// Why it fails; for those who may ask for it alone.
    pub fault: Option<String>,
}

impl Check {
    /// A check that passes unless there is a fault.
    #[must_use]
    pub fn new(name: &'static str, fault: Option<String>) -> Self {
        Self { name, fault }
    }

    /// That this is answered is the check.
    #[must_use]
    pub fn ping() -> Self {
        Self::new("ping", None)
    }
}

/// The endpoint of a path, and the one check that it asks for; empty for all.
#[must_use]
pub fn of_path(path: &str) -> Option<(&'static str, &str)> {
    let rest = path.strip_prefix('/')?;
    let endpoint = ENDPOINTS.into_iter().find(|endpoint| rest.starts_with(endpoint))?;
    match &rest[endpoint.len()..] {
        "" => Some((endpoint, "")),
        rest => rest.strip_prefix('/').filter(|check| !check.is_empty()).map(|check| (endpoint, check)),
    }
}

/// Answers for all checks but those that are left out. `observe` is told of each that was made.
///
/// What fails is named, and not why: whoever may ask may not know that.
pub fn all<'a>(
    endpoint: &str,
    checks: &[Check],
    exclude: impl Iterator<Item = &'a str>,
    verbose: bool,
    mut observe: impl FnMut(&str, bool),
) -> (u16, String) {
    let excluded: BTreeSet<&str> = exclude.collect();
    let mut unknown = excluded.clone();
    let mut text = String::new();
    let mut failed = false;
    for Check { name, fault } in checks {
        if excluded.contains(name) {
            unknown.remove(name);
            let _ = writeln!(text, "[+]{name} excluded: ok");
            continue;
        }
        observe(name, fault.is_none());
        failed |= fault.is_some();
        let _ = match fault {
            None => writeln!(text, "[+]{name} ok"),
            Some(_) => writeln!(text, "[-]{name} failed: reason withheld"),
        };
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.into_iter().map(quote).collect();
        let names = names.join(",");
        let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    if failed {
        let _ = writeln!(text, "{endpoint} check failed");
        return (500, text);
    }
    if verbose {
        let _ = writeln!(text, "{endpoint} check passed");
        return (200, text);
    }
    (200, "ok".to_owned())
}

/// Answers for one check; `None` if there is no such.
#[must_use]
pub fn one(checks: &[Check], name: &str) -> Option<(u16, String)> {
    let check = checks.iter().find(|check| check.name == name)?;
    Some(match &check.fault {
        None => (200, "ok".to_owned()),
        Some(why) => (500, format!("internal server error: {why}\n")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_checks() {
        assert_eq!(of_path("/livez"), Some(("livez", "")));
        assert_eq!(of_path("/readyz/poststarthook/a/b"), Some(("readyz", "poststarthook/a/b")));
        for none in ["/livez/", "/livezz", "livez", "/", "/live"] {
            assert_eq!(of_path(none), None, "{none}");
        }
    }

    #[test]
    fn what_fails_is_named_and_only_alone_with_its_reason() {
        let checks = [Check::ping(), Check::new("etcd", Some("it is asleep".to_owned()))];
        let ask = |exclude: &[&str], verbose| {
            let mut seen = Vec::new();
            let observe = |name: &str, good| seen.push(format!("{name} {good}"));
            let answer = all("livez", &checks, exclude.iter().copied(), verbose, observe);
            (answer.0, answer.1, seen.join(", "))
        };
        let text = |code, text: &str, seen: &str| (code, text.to_owned(), seen.to_owned());
        let failed = "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n";
        assert_eq!(ask(&[], false), text(500, failed, "ping true, etcd false"));
        assert_eq!(ask(&[], true), text(500, failed, "ping true, etcd false"));
        assert_eq!(ask(&["etcd"], false), text(200, "ok", "ping true"));
        let left_out = "[+]ping ok\n[+]etcd excluded: ok\n\
                        warn: some health checks cannot be excluded: no matches for \"b\",\"c\"\nlivez check passed\n";
        assert_eq!(ask(&["c", "etcd", "b"], true), text(200, left_out, "ping true"));
        assert_eq!(one(&checks, "etcd"), Some((500, "internal server error: it is asleep\n".to_owned())));
        assert_eq!(one(&checks, "ping"), Some((200, "ok".to_owned())));
        assert_eq!(one(&checks, "pin"), None);
    }
}
