//! Which ended containers and sandboxes go: pure.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

/// How much of what has ended is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerGcPolicy {
    /// Younger containers stay.
    pub min_age: Duration,
    /// Ended runs kept of each container; None: all.
    pub per_container: Option<usize>,
    /// Ended containers kept on the whole node; None: all.
    pub total: Option<usize>,
}

impl Default for ContainerGcPolicy {
    /// Upstream's defaults.
    fn default() -> Self {
        Self { min_age: Duration::ZERO, per_container: Some(1), total: None }
    }
}

/// A container that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) id: String,
    /// Its pod.
    pub(crate) uid: String,
    pub(crate) name: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// The runtime does not know whether it runs.
    pub(crate) unknown: bool,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Empty {
    pub(crate) id: String,
    /// Its pod.
    pub(crate) uid: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// It runs, or has containers.
    pub(crate) active: bool,
}

/// The containers to remove, in this order. `loses_all`: whether nothing is kept of a pod.
pub(crate) fn containers(
    dead: Vec<Dead>,
    loses_all: &dyn Fn(&str) -> bool,
    policy: ContainerGcPolicy,
    now: Timestamp,
) -> Vec<Dead> {
    let now = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
    let age = i64::try_from(policy.min_age.as_nanos()).unwrap_or(i64::MAX);
    let mut units: BTreeMap<(String, String), Vec<Dead>> = BTreeMap::new();
    for one in dead.into_iter().filter(|one| one.created_at <= now.saturating_sub(age)) {
        units.entry((one.uid.clone(), one.name.clone())).or_default().push(one);
    }
    let mut going = Vec::new();
    units.retain(|(uid, _), unit| {
        let all = loses_all(uid);
        if all {
            keep_newest(unit, 0, &mut going);
        }
        !all
    });
    let mut keep_of_each = |units: &mut BTreeMap<_, Vec<Dead>>, most: usize| {
        units.values_mut().for_each(|unit| keep_newest(unit, most, &mut going));
        units.values().map(Vec::len).sum::<usize>()
    };
    let left = keep_of_each(&mut units, policy.per_container.unwrap_or(usize::MAX));
    if let Some(most) = policy.total.filter(|most| left > *most) {
        // Every container keeps as much of its past as another, and one run at least, before the oldest go.
        let share = (most / units.len().max(1)).max(1);
        keep_of_each(&mut units, share);
        let mut left: Vec<Dead> = units.into_values().flatten().collect();
        keep_newest(&mut left, most, &mut going);
    }
    going
}

/// Moves the oldest to what goes, until `most` are left.
fn keep_newest(unit: &mut Vec<Dead>, most: usize, going: &mut Vec<Dead>) {
    unit.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
    going.extend(unit.drain(most.min(unit.len())..).rev());
}

/// The ids of sandboxes to remove, in this order: the newest one of a pod that is here stays in any case.
pub(crate) fn sandboxes(mut seen: Vec<Empty>, loses_all: &dyn Fn(&str) -> bool) -> Vec<String> {
    seen.sort_by(|a, b| (&a.uid, b.created_at, &b.id).cmp(&(&b.uid, a.created_at, &a.id)));
    let first = |at: usize| at == 0 || seen[at - 1].uid != seen[at].uid;
    let goes = |at: &usize| !seen[*at].active && (!first(*at) || loses_all(&seen[*at].uid));
    (0..seen.len()).filter(goes).map(|at| seen[at].id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000;

    fn now() -> Timestamp {
        Timestamp::from_nanosecond(NOW.into()).unwrap()
    }

    /// `POD/NAME@CREATED`, its own id.
    fn dead(text: &str) -> Dead {
        let (unit, created_at) = text.split_once('@').unwrap();
        let (uid, name) = unit.split_once('/').unwrap();
        let created_at = created_at.parse().unwrap();
        Dead { id: text.into(), uid: uid.into(), name: name.into(), created_at, unknown: false }
    }

    #[track_caller]
    fn check(policy: ContainerGcPolicy, seen: &str, expected: &str) {
        let seen = seen.split_whitespace().map(dead).collect();
        let going = containers(seen, &|uid| uid == "gone", policy, now());
        let ids: Vec<&str> = going.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids.join(" "), expected);
    }

    #[test]
    fn the_oldest_runs_go() {
        let default = ContainerGcPolicy::default();
        check(default, "a/x@3 a/x@1 a/x@2 a/y@1 b/x@1", "a/x@1 a/x@2");
        check(ContainerGcPolicy { per_container: None, ..default }, "a/x@3 a/x@1", "");
        check(ContainerGcPolicy { per_container: Some(0), ..default }, "a/x@3 a/x@1", "a/x@1 a/x@3");
        check(ContainerGcPolicy { per_container: Some(2), ..default }, "a/x@3 a/x@1 a/x@2", "a/x@1");
    }

    #[test]
    fn nothing_is_kept_of_a_pod_that_is_gone() {
        let all = ContainerGcPolicy { per_container: None, ..ContainerGcPolicy::default() };
        check(all, "gone/x@3 gone/x@1 a/x@1 gone/y@2", "gone/x@1 gone/x@3 gone/y@2");
        // Unless it is too young.
        let young = ContainerGcPolicy { min_age: Duration::from_nanos(100), ..all };
        check(young, "gone/x@900 gone/x@901", "gone/x@900");
    }

    #[test]
    fn the_node_keeps_so_many() {
        let most =
            |total| ContainerGcPolicy { per_container: Some(3), total: Some(total), ..Default::default() };
        let seen = "a/x@1 a/x@2 a/x@7 b/y@3 b/y@4 c/z@5";
        check(most(6), seen, "");
        // One of each, before the oldest of all.
        check(most(3), seen, "a/x@1 a/x@2 b/y@3");
        check(most(2), seen, "a/x@1 a/x@2 b/y@3 b/y@4");
    }

    #[test]
    fn sandboxes_without_containers() {
        let sandbox = |text: &str| {
            let (text, active) = text.strip_suffix('!').map_or((text, false), |text| (text, true));
            let (uid, created_at) = text.split_once('@').unwrap();
            Empty { id: text.into(), uid: uid.into(), created_at: created_at.parse().unwrap(), active }
        };
        let check = |seen: &str, expected: &str| {
            let seen = seen.split_whitespace().map(sandbox).collect();
            assert_eq!(sandboxes(seen, &|uid| uid == "gone").join(" "), expected, "{expected}");
        };
        check("a@1 a@2", "a@1");
        check("a@1 a@2! b@1", "a@1");
        // An older one that has containers is not empty.
        check("a@1! a@2", "");
        check("gone@1 gone@2! gone@3", "gone@3 gone@1");
    }
}
