//! How often pods were held to a standard, and how that ended: `pod_security_*`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use podium_client::metrics::head;

use super::{Level, Standard, Version};
use crate::admission::{Operation, Request};

/// The newest minor version whose standards are known: what is asked for beyond it is held to this one's.
const NEWEST: u32 = 36;

const DECISIONS: [&str; 2] = ["allow", "deny"];
const LEVELS: [&str; 3] = ["privileged", "baseline", "restricted"];
const MODES: [&str; 3] = ["enforce", "audit", "warn"];
const OPERATIONS: [&str; 2] = ["create", "update"];
const RESOURCES: [&str; 2] = ["pod", "controller"];
/// Those of pods that are judged; whatever else is would be counted with the pods themselves.
const SUBRESOURCES: [&str; 3] = ["", "ephemeralcontainers", "resize"];

const SERIES: usize =
    DECISIONS.len() * LEVELS.len() * MODES.len() * OPERATIONS.len() * RESOURCES.len() * SUBRESOURCES.len();

/// What a standard is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    Enforce,
    Audit,
    Warn,
}

/// See the module. Counted without a lock where the standard is that of the newest version, as it nearly always is.
#[derive(Debug)]
pub(crate) struct Evaluations {
    latest: [AtomicU64; SERIES],
    of_versions: Mutex<BTreeMap<(usize, String), u64>>,
    /// Policies that could not be read; the pod was judged all the same.
    errors: AtomicU64,
}

impl Default for Evaluations {
    fn default() -> Evaluations {
        Evaluations {
            latest: std::array::from_fn(|_| AtomicU64::new(0)),
            of_versions: Mutex::default(),
            errors: AtomicU64::new(0),
        }
    }
}

impl Evaluations {
    pub(super) fn count(&self, request: &Request<'_>, standard: Standard, mode: Mode, allowed: bool) {
        let subresource = SUBRESOURCES.iter().position(|known| *known == request.subresource).unwrap_or(0);
        let digits = [
            (usize::from(!allowed), DECISIONS.len()),
            (standard.level as usize, LEVELS.len()),
            (mode as usize, MODES.len()),
            (usize::from(request.operation != Operation::Create), OPERATIONS.len()),
            (usize::from(request.resource != "pods"), RESOURCES.len()),
            (subresource, SUBRESOURCES.len()),
        ];
        let index = digits.into_iter().fold(0, |index, (digit, base)| index * base + digit);
        match standard.version {
            Version::Minor(minor) if standard.level != Level::Privileged => {
                let version = if minor > NEWEST { "future".to_owned() } else { format!("v1.{minor}") };
                *self.of_versions.lock().entry((index, version)).or_default() += 1;
            }
            // The lowest standard is the same in all versions.
            Version::Minor(_) | Version::Latest => _ = self.latest[index].fetch_add(1, Ordering::Relaxed),
        }
    }

    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn render(&self, out: &mut String) {
        let name = "pod_security_evaluations_total";
        head(out, name, "counter", "[ALPHA] Number of policy evaluations that occurred.");
        let mut rows = self.of_versions.lock().clone();
        for (index, count) in self.latest.iter().enumerate() {
            rows.insert((index, "latest".to_owned()), count.load(Ordering::Relaxed));
        }
        for ((index, version), count) in rows.into_iter().filter(|(_, count)| *count > 0) {
            let mut rest = index;
            let mut label = |values: &[&'static str]| {
                let value = values[rest % values.len()];
                rest /= values.len();
                value
            };
            // From the last digit to the first.
            let subresource = label(&SUBRESOURCES);
            let resource = label(&RESOURCES);
            let operation = label(&OPERATIONS);
            let mode = label(&MODES);
            let level = label(&LEVELS);
            let decision = label(&DECISIONS);
            let _ = writeln!(
                out,
                "{name}{{decision=\"{decision}\",mode=\"{mode}\",policy_level=\"{level}\",policy_version=\"{version}\",request_operation=\"{operation}\",resource=\"{resource}\",subresource=\"{subresource}\"}} {count}"
            );
        }
        let name = "pod_security_errors_total";
        head(
            out,
            name,
            "counter",
            "[ALPHA] Number of policies that could not be read; the strictest stood in.",
        );
        let _ = writeln!(out, "{name}{{fatal=\"false\"}} {}", self.errors.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::authentication::User;

    #[test]
    fn evaluations_are_counted_by_what_was_asked() {
        let (user, options, mut object) = (User::new("u", &[]), json!({}), Value::Null);
        let evaluations = Evaluations::default();
        let request = Request {
            user: &user,
            operation: Operation::Update,
            group: "",
            version: "v1",
            kind: "Pod",
            resource: "pods",
            subresource: "resize",
            namespace: "a",
            name: "p",
            object: &mut object,
            old: None,
            options: &options,
            dry_run: false,
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        for (level, version, allowed) in [
            (Level::Restricted, Version::Latest, false),
            (Level::Restricted, Version::Minor(9), false),
            (Level::Baseline, Version::Minor(99), true),
            (Level::Privileged, Version::Minor(9), true),
        ] {
            evaluations.count(&request, Standard { level, version }, Mode::Warn, allowed);
        }
        let mut text = String::new();
        evaluations.render(&mut text);
        let asked = "request_operation=\"update\",resource=\"pod\",subresource=\"resize\"} 1";
        for (decision, level, version) in [
            ("deny", "restricted", "latest"),
            ("deny", "restricted", "v1.9"),
            ("allow", "baseline", "future"),
            ("allow", "privileged", "latest"),
        ] {
            let row = format!(
                "pod_security_evaluations_total{{decision=\"{decision}\",mode=\"warn\",policy_level=\"{level}\",policy_version=\"{version}\",{asked}"
            );
            assert!(text.contains(&row), "{row}\n{text}");
        }
        assert_eq!(
            text.lines().filter(|line| line.starts_with("pod_security_evaluations_total{")).count(),
            4
        );
    }
}
